"""Gradient descent, with or without momentum."""

from __future__ import annotations

from collections.abc import Mapping

from gvae.nn import Parameters
from gvae.optim.optimizer import Optimizer
from gvae.typing import Array


class SGD(Optimizer):
    """Gradient descent, with or without momentum.

    Parameters
    ----------
    parameters : Parameters
    learning_rate : float, default 1e-3
    momentum : float, default 0.0
        In [0, 1).
    rates : mapping from str to float, optional
        Multiples of the learning rate by group; 0 freezes a group.

    Attributes
    ----------
    m : array
        With momentum only: m <- momentum m + g, flat as the parameters are.

    Raises
    ------
    ConfigError

    Notes
    -----
    A step is learning rate * m; without momentum, m is the gradient g and is not kept. Source: Polyak (1964), in the form
    that PyTorch uses.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.zeros(1)})
    >>> optimizer, gradient = gvae.optim.SGD(parameters, 0.1, momentum=0.5), parameters.zeros()
    >>> gradient["decoder.weight"][:] = 1.0
    >>> for _ in range(2):
    ...     optimizer.update(gradient)
    >>> parameters["decoder.weight"], optimizer.m  # -0.1 (1 + 1.5)
    (array([-0.25]), array([1.5]))
    """

    name = "sgd"
    m: Array

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        *,
        momentum: float = 0.0,
        rates: Mapping[str, float] | None = None,
    ):
        self._check(momentum=momentum)
        self.momentum, self.moments = momentum, ("m",) if momentum else ()
        super().__init__(parameters, learning_rate, rates)

    def _move(self, i: int, part: slice, gradient: Array, numbers: Array) -> None:
        flat = self.parameters.flat
        if self.momentum:
            self._launch("momentum", part, (gradient, flat, self.m), numbers[i], flat.dtype.type(self.momentum))
        else:
            self._launch("sgd", part, (gradient, flat), numbers[i])
