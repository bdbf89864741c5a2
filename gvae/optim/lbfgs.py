"""L-BFGS, a minimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np

from gvae import texts
from gvae.errors import ConfigError
from gvae.nn import Parameters
from gvae.optim.optimizer import Optimizer
from gvae.typing import Array

ITERATIONS = texts.Number("a whole number of at least 1", lambda x: x >= 1, int)


class LBFGS(Optimizer):
    """L-BFGS: each step is a number of iterations of SciPy's L-BFGS-B, begun from the parameters.

    It keeps nothing between steps, so a step is a function of the parameters, the rows and the noise. It is for all rows in
    one batch, on a CPU; the learning rate and its schedule have no effect.

    Parameters
    ----------
    parameters : Parameters
    learning_rate : float, default 1e-3
        Without effect.
    iterations : int, default 50
        The iterations of each step.
    rates : mapping from str to float, optional
        0 freezes a group; other values than 0 and 1 are refused.

    Raises
    ------
    ConfigError

    Notes
    -----
    Source: Byrd, Lu, Nocedal and Zhu (1995); `scipy.optimize.minimize`, method "L-BFGS-B", with its 10 corrections and
    without its stopping rules.

    Examples
    --------
    >>> optimizer = gvae.optim.LBFGS(gvae.nn.Parameters({"network.weight": np.zeros(2)}), iterations=20)
    >>> optimizer.minimized(lambda x: (np.sum((x - [1.0, 2.0]) ** 2), 2 * (x - [1.0, 2.0])), np.zeros(2)).round(4)
    array([1., 2.])
    """

    name, moments = "lbfgs", ()

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        *,
        iterations: int = 50,
        rates: Mapping[str, float] | None = None,
    ):
        if not ITERATIONS.accepts(iterations):
            raise ConfigError(f"{self}: iterations is {iterations!r}, expected {ITERATIONS.expected}")
        for group, rate in (rates or {}).items():
            if rate not in (0, 1):
                raise ConfigError(f"{self}: the rate of {group} is {rate!r}, expected 0 or 1: L-BFGS has no learning rate")
        self.iterations = iterations
        super().__init__(parameters, learning_rate, rates)

    def minimized(self, f: Callable[[np.ndarray], tuple[float, np.ndarray]], x: np.ndarray) -> np.ndarray:
        """The argument that the iterations of one step lead to.

        Parameters
        ----------
        f : callable
            f(x) is the value and the gradient (n,) at x (n,), both in float64. Where the value is not finite, the line
            search goes back.
        x : array (n,)
            Where to begin: f is finite there.

        Returns
        -------
        array (n,)

        Examples
        --------
        >>> optimizer = gvae.optim.LBFGS(gvae.nn.Parameters({"network.weight": np.zeros(1)}))
        >>> optimizer.minimized(lambda x: (x[0] - np.log(x[0]), 1 - 1 / x), np.array([9.0])).round(4)  # inf beyond 0
        array([1.])
        """
        from scipy.optimize import minimize

        best = math.inf

        def finite(x: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best
            with np.errstate(all="ignore"):
                value, slope = f(x)
            if not (math.isfinite(value) and np.isfinite(slope).all()):  # a worse value than the line search can accept
                return best + 1e3 * (1 + abs(best)), np.zeros_like(x)
            best = min(best, value)
            return value, slope

        most = {"maxiter": self.iterations, "maxfun": 20 * self.iterations, "ftol": 0.0, "gtol": 0.0}
        return minimize(finite, np.asarray(x, np.float64), jac=True, method="L-BFGS-B", options=most).x

    def update(self, gradient: Parameters, numbers: Array = None, groups: Collection[str] | None = None) -> None:
        """Raises ConfigError: a step is not a move against one gradient, see `minimized`."""
        raise ConfigError(
            f"{self}.update: a step is {self.iterations} iterations with gradients of their own: see minimized"
        )
