"""What optimisers share: a step against a gradient, in one pass over each group of parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import zip_longest
from typing import Any

from gvae.checks import check_floating
from gvae.errors import ConfigError, ShapeError
from gvae.nn import Parameters
from gvae.optim._numbers import _positive
from gvae.runtime import device
from gvae.texts import NOT_NEGATIVE, SHARE
from gvae.typing import Array


class Optimizer:
    """Base class of optimisers: a step against a given gradient, in one pass over each group of parameters.

    Parameters
    ----------
    parameters : Parameters
        Changed in place by `update`.
    learning_rate : float
    rates : mapping from str to float, optional
        Multiples of the learning rate by group; 0 freezes a group.

    Attributes
    ----------
    name : str
        The name in a text, as `parse_optimizer` takes it.
    moments : tuple of str
        The names of its arrays, which are flat as the parameters are. Together with `step` they are its state.
    step : int
        The number of steps taken.
    iterations : int
        0 where a step is one move against a given gradient; otherwise a step is this number of iterations of a minimiser,
        which asks for values and gradients itself, see `LBFGS`.

    Raises
    ------
    ConfigError
        The learning rate is not positive, or `rates` names an unknown group.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"encoder.weight": np.ones(2), "decoder.weight": np.ones(2)})
    >>> optimizer = gvae.optim.SGD(parameters, 0.1, rates={"encoder": 0})
    >>> optimizer.update(gvae.nn.Parameters(parameters))
    >>> parameters["encoder.weight"], parameters["decoder.weight"]
    (array([1., 1.]), array([0.9, 0.9]))
    """

    name: str
    moments: tuple[str, ...]
    iterations: int = 0

    def __init__(self, parameters: Parameters, learning_rate: float, rates: Mapping[str, float] | None):
        _positive(learning_rate=learning_rate)
        unknown = set(rates or {}) - set(parameters.groups)
        if unknown:
            known = ", ".join(parameters.groups)
            raise ConfigError(f"{self}: rates names the parameter group {sorted(unknown)[0]!r}; known are {known}")
        for group, rate in (rates or {}).items():
            if not NOT_NEGATIVE.accepts(rate):
                raise ConfigError(f"{self}: rates[{group!r}] is {rate!r}, expected {NOT_NEGATIVE.expected}")
        self.parameters, self.learning_rate, self.rates = parameters, learning_rate, dict(rates or {})
        for name in self.moments:
            setattr(self, name, parameters.zeros().flat)
        self.step = 0
        self._known: Parameters | None = None  # a gradient of the parameters' names and shapes

    def _check(self, **shares: Any) -> None:
        for name, x in shares.items():
            if not SHARE.accepts(x):
                raise ConfigError(f"{self}: {name} is {x!r}, expected {SHARE.expected}")

    def numbers(self, learning_rate: float, step: int) -> list[float]:
        """Scalars that a step takes besides the gradient: the rate of each group, followed by those of the class.

        Parameters
        ----------
        learning_rate : float
        step : int
            The number of the step, counted from 1.

        Returns
        -------
        list of float

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"encoder.weight": np.ones(2), "decoder.weight": np.ones(2)})
        >>> gvae.optim.SGD(parameters, rates={"encoder": 0.5}).numbers(0.1, step=1)
        [0.05, 0.1]
        """
        return [self.rates.get(group, 1.0) * learning_rate for group in self.parameters.groups]

    def update(self, gradient: Parameters, numbers: Array = None, groups: Collection[str] | None = None) -> None:
        """Take one step against the gradient, in one pass over each group.

        Parameters
        ----------
        gradient : Parameters
            With the names, shapes and order of the parameters.
        numbers : sequence of float, optional
            The scalars of the step (see `numbers`). By default those of the next step, which `step` then counts.
        groups : collection of str, optional
            The groups that move. Default: all.

        Raises
        ------
        ShapeError, DTypeError, DeviceError

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
        >>> optimizer = gvae.optim.SGD(parameters, learning_rate=0.1)
        >>> optimizer.update(gvae.nn.Parameters({"decoder.weight": np.array([1.0, -1.0])}))
        >>> parameters["decoder.weight"], optimizer.step
        (array([0.9, 1.1]), 1)
        """
        flat, dtype = self.parameters.flat, self.parameters.flat.dtype.type
        check_floating(where=f"{self}.update", parameters=flat, gradient=gradient.flat)
        if gradient is not self._known:  # as a rule it is that of the last step
            for theirs, ours in zip_longest(gradient.items(), self.parameters.items(), fillvalue=None):
                if _entry(theirs) != _entry(ours):
                    raise ShapeError(f"{self}.update: gradient has {_entry(theirs)}, expected {_entry(ours)}")
            self._known = gradient
        counted = numbers is None
        if counted:
            numbers = [dtype(number) for number in self.numbers(self.learning_rate, self.step + 1)]
        for i, (group, part) in enumerate(self.parameters.groups.items()):
            if self.rates.get(group, 1.0) and (groups is None or group in groups):
                self._move(i, part, gradient.flat, numbers)
        self.step += counted

    def _move(self, i: int, part: slice, gradient: Array, numbers: Array) -> None:
        """Take the step of the i-th group, a part of the flat arrays."""
        raise NotImplementedError(f"{type(self).__name__} has no method _move, which a subclass of Optimizer defines")

    def _launch(self, kernel: str, part: slice, arrays: tuple, *scalars: Any) -> None:
        """Launch a kernel on a part of the arrays. work: reads of all arrays, writes of all but the first, the gradient."""
        n = part.stop - part.start
        work = (2 * len(arrays) - 1) * n
        device.launch("optim", kernel, *(a[part] for a in arrays), *scalars, n=n, work=work, step=1024)

    def __str__(self) -> str:
        return type(self).__name__


def _entry(item: tuple[str, Array] | None) -> str:
    return "no more arrays" if item is None else f"{item[0]!r} {item[1].shape}"
