"""Adam, with and without decay of the weights, and on rows of per-datum parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from gvae.errors import ConfigError
from gvae.nn import Parameters
from gvae.optim._numbers import _positive
from gvae.optim.optimizer import Optimizer
from gvae.runtime import device
from gvae.texts import NOT_NEGATIVE, SHARE
from gvae.typing import Array


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    parameters : Parameters
    learning_rate : float, default 1e-3
    beta1 : float, default 0.9
        Decay of the mean of the gradient, in [0, 1).
    beta2 : float, default 0.999
        Decay of the mean of its square, in [0, 1).
    eps : float, default 1e-8
    rates : mapping from str to float, optional
        Multiples of the learning rate by group; 0 freezes a group.

    Attributes
    ----------
    m, v : array
        The two running means, flat as the parameters are. With `step` they are the state.

    Raises
    ------
    ConfigError

    Notes
    -----
    Source: Kingma and Ba (2015), algorithm 1, in its bias-corrected form with rate and eps rescaled (their section 2).

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.array([1.0, -2.0])})
    >>> optimizer = gvae.optim.Adam(parameters, learning_rate=0.1)
    >>> for _ in range(200):  # minimise |w|²
    ...     optimizer.update(gvae.nn.Parameters({"decoder.weight": 2 * parameters["decoder.weight"]}))
    >>> bool(np.abs(parameters["decoder.weight"]).max() < 0.01)
    True
    """

    name, moments = "adam", ("m", "v")
    m: Array
    v: Array

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        rates: Mapping[str, float] | None = None,
    ):
        _positive(eps=eps)
        self._check(beta1=beta1, beta2=beta2)
        _check_precision(parameters.flat.dtype, beta1, beta2, eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        super().__init__(parameters, learning_rate, rates)

    def numbers(self, learning_rate: float, step: int) -> list[float]:
        """The rate of each group, and eps, both with the bias corrections of the step."""
        rate, eps = _corrected(learning_rate, self.beta1, self.beta2, self.eps, step)
        return [*super().numbers(rate, step), eps]

    def _move(self, i: int, part: slice, gradient: Array, numbers: Array) -> None:
        arrays, dtype = (gradient, self.parameters.flat, self.m, self.v), self.m.dtype.type
        eps = numbers[len(self.parameters.groups)]
        self._launch("adam", part, arrays, numbers[i], dtype(self.beta1), dtype(self.beta2), eps)


def _check_precision(dtype: Any, beta1: float, beta2: float, eps: float) -> None:
    """ConfigError where a beta would be rounded to 1 in the precision of the parameters, or the first step's eps to 0."""
    of, first = np.dtype(dtype).type, eps * (1 - beta2) ** 0.5
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if of(beta) == 1:
            raise ConfigError(f"adam: {name} is {beta!r}, which is 1 in {np.dtype(dtype)}")
    if first < (least := float(np.finfo(dtype).tiny)):
        raise ConfigError(f"adam: eps is {eps!r}, expected at least {least / (1 - beta2) ** 0.5:.2g} in {np.dtype(dtype)}")


class AdamW(Adam):
    """Adam with decoupled weight decay: each step first subtracts learning rate * decay * weight from every weight.

    Parameters
    ----------
    parameters : Parameters
        Weights are the parameters whose names end in ".weight", in groups whose names do not end in "_log_scale". Biases,
        the shared parameters of distributions and the deviations of a posterior over weights do not decay.
    learning_rate : float, default 1e-3
    decay : float, default 0.01
        At least 0.
    **settings : float or mapping
        beta1, beta2, eps and rates, as for `Adam`.

    Raises
    ------
    ConfigError
        See `Adam`. Also if none of the parameters decays.

    Notes
    -----
    A schedule, and the rate of a group, scale the decay as they scale the step. Source: Loshchilov and Hutter (2019),
    algorithm 2, with their lambda written as learning rate * decay, as in PyTorch and Optax.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2), "decoder.bias": np.ones(2)})
    >>> optimizer = gvae.optim.AdamW(parameters, learning_rate=0.1, decay=0.5)
    >>> optimizer.update(parameters.zeros())  # a gradient of zero: decay alone
    >>> parameters["decoder.weight"], parameters["decoder.bias"]
    (array([0.95, 0.95]), array([1., 1.]))
    """

    name = "adamw"

    def __init__(self, parameters: Parameters, learning_rate: float = 1e-3, *, decay: float = 0.01, **settings: Any):
        if not NOT_NEGATIVE.accepts(decay):
            raise ConfigError(f"{self}: decay is {decay!r}, expected {NOT_NEGATIVE.expected}")
        super().__init__(parameters, learning_rate, **settings)
        self.decay, weights = decay, parameters.zeros()
        decaying = [n for n in weights if n.endswith(".weight") and not n.partition(".")[0].endswith("_log_scale")]
        for name in decaying:
            weights[name][...] = 1
        if decay and not decaying:
            raise ConfigError(f"{self}: decay is {decay!r}, but none of the parameters is the weight of a layer: use adam")
        self._is_weight = weights.flat  # 1 or 0

    def numbers(self, learning_rate: float, step: int) -> list[float]:
        """Adam's, and for each group the share by which its weights decay."""
        return [*super().numbers(learning_rate, step), *Optimizer.numbers(self, learning_rate * self.decay, step)]

    def _move(self, i: int, part: slice, gradient: Array, numbers: Array) -> None:
        arrays, dtype = (gradient, self._is_weight, self.parameters.flat, self.m, self.v), self.m.dtype.type
        n_groups = len(self.parameters.groups)
        eps, decay = numbers[n_groups], numbers[n_groups + 1 + i]
        self._launch("adamw", part, arrays, numbers[i], dtype(self.beta1), dtype(self.beta2), eps, decay)


class RowAdam:
    """Adam for per-datum parameters: only the rows of a batch move, each with its own step count.

    Parameters
    ----------
    values : array (n_rows, ...)
        Changed in place.
    learning_rate : float
    beta1 : float, default 0.9
    beta2 : float, default 0.999
    eps : float, default 1e-8

    Attributes
    ----------
    m, v : array (n_rows, ...)
        Running means of the gradient and of its square.
    steps : array of int64 (n_rows,)
        The number of steps of each row.

    Raises
    ------
    ConfigError
        The learning rate or eps is not positive, beta1 or beta2 not in [0, 1), or the precision does not hold one of them.

    Examples
    --------
    >>> means = np.zeros((4, 2))
    >>> optimizer = gvae.optim.RowAdam(means, learning_rate=0.1)
    >>> optimizer.update(np.array([0, 2]), np.ones((2, 2)))
    >>> means.round(4)
    array([[-0.1, -0.1],
           [ 0. ,  0. ],
           [-0.1, -0.1],
           [ 0. ,  0. ]])
    """

    def __init__(
        self, values: np.ndarray, learning_rate: float, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ):
        _positive(learning_rate=learning_rate, eps=eps)
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not SHARE.accepts(beta):
                raise ConfigError(f"RowAdam: {name} is {beta!r}, expected {SHARE.expected}")
        _check_precision(values.dtype, beta1, beta2, eps)
        self.values, self.learning_rate = values, learning_rate
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m, self.v = np.zeros_like(values), np.zeros_like(values)
        self.steps = device.zeros((len(values),), np.int64, values)

    def update(self, index: np.ndarray, gradient: np.ndarray) -> None:
        """Take one step against the gradient of some rows.

        Parameters
        ----------
        index : array of int (B,)
            The rows, which are distinct.
        gradient : array (B, ...)

        Examples
        --------
        >>> means = np.zeros((4, 2))
        >>> optimizer = gvae.optim.RowAdam(means, learning_rate=0.1)
        >>> optimizer.update(np.array([0, 2]), np.ones((2, 2)))
        >>> optimizer.steps
        array([1, 0, 1, 0])
        """
        self.keep(index, self.moved(index, gradient))

    def moved(self, index: np.ndarray, gradient: np.ndarray) -> tuple:
        """State of some rows after a step, which is not yet stored.

        Parameters
        ----------
        index : array of int (B,)
            The rows, which are distinct.
        gradient : array (B, ...)

        Returns
        -------
        tuple of array
            Those rows of (steps, m, v, values) after the step.

        Examples
        --------
        >>> means = np.zeros((4, 2))
        >>> steps, m, v, values = gvae.optim.RowAdam(means, learning_rate=0.1).moved(np.array([0, 2]), np.ones((2, 2)))
        >>> steps, values.round(4)
        (array([1, 1]), array([[-0.1, -0.1],
               [-0.1, -0.1]]))
        """
        dtype, g, counts = self.values.dtype, gradient, self.steps[index] + 1
        m = self.beta1 * self.m[index] + (1 - self.beta1) * g
        v = self.beta2 * self.v[index] + (1 - self.beta2) * g * g
        steps = counts.reshape(-1, *[1] * (g.ndim - 1))
        rate = (self.learning_rate * np.sqrt(1 - self.beta2**steps) / (1 - self.beta1**steps)).astype(dtype)
        eps = (self.eps * np.sqrt(1 - self.beta2**steps)).astype(dtype)
        return counts, m, v, self.values[index] - rate * m / (np.sqrt(v) + eps)

    def keep(self, index: np.ndarray, moved: tuple) -> None:
        """Store what `moved` returned.

        Parameters
        ----------
        index : array of int (B,)
        moved : tuple of array
            (steps, m, v, values) of these rows.

        Examples
        --------
        >>> means = np.zeros((4, 2))
        >>> optimizer, index = gvae.optim.RowAdam(means, learning_rate=0.1), np.array([0, 2])
        >>> optimizer.keep(index, optimizer.moved(index, np.ones((2, 2))))
        >>> means.round(4)
        array([[-0.1, -0.1],
               [ 0. ,  0. ],
               [-0.1, -0.1],
               [ 0. ,  0. ]])
        """
        self.steps[index], self.m[index], self.v[index], self.values[index] = moved


def _corrected(rate: float, beta1: float, beta2: float, eps: float, step: int) -> tuple[float, float]:
    """Rate and eps that make the uncorrected update equal to the bias-corrected one."""
    root = math.sqrt(1 - beta2**step)
    return rate * root / (1 - beta1**step), eps * root
