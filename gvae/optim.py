"""Optimisers on the flat parameter buffer, learning-rate schedules, averages of the parameters.

Optimisers and `shorten` change their arguments in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from gvae import texts
from gvae.checks import check_floating
from gvae.errors import ConfigError, ShapeError
from gvae.nn import Parameters
from gvae.runtime import device
from gvae.runtime.compile import Use, registered
from gvae.texts import NOT_NEGATIVE, POSITIVE, SHARE

__all__ = [
    "AVERAGES",
    "EMA",
    "IWAE",
    "LBFGS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "SWA",
    "Adam",
    "AdamW",
    "Average",
    "Cosine",
    "Exponential",
    "Optimizer",
    "Plateau",
    "RowAdam",
    "Schedule",
    "check_optimizer",
    "norm",
    "parse_alone",
    "parse_average",
    "parse_optimizer",
    "parse_rates",
    "parse_schedule",
    "shorten",
]


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
            raise ConfigError(f"{self}: unknown parameter group {sorted(unknown)[0]!r}; known are {known}")
        self.parameters, self.learning_rate, self.rates = parameters, learning_rate, dict(rates or {})
        for name in self.moments:
            setattr(self, name, parameters.zeros().flat)
        self.step = 0

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

    def update(self, gradient: Parameters, numbers: Any = None, groups: Collection[str] | None = None) -> None:
        """Take one step against the gradient, in one pass over each group.

        Parameters
        ----------
        gradient : Parameters
            Of the names and shapes of the parameters.
        numbers : sequence of float, optional
            Those of the step (see `numbers`). By default those of the next step, which `step` then counts.
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
        if gradient.flat.shape != flat.shape:
            raise ShapeError(f"{self}.update: gradient has {gradient.flat.size} entries, expected {flat.size}")
        counted = numbers is None
        if counted:
            numbers = [dtype(number) for number in self.numbers(self.learning_rate, self.step + 1)]
        for i, (group, part) in enumerate(self.parameters.groups.items()):
            if self.rates.get(group, 1.0) and (groups is None or group in groups):
                self._move(i, part, gradient.flat, numbers)
        self.step += counted

    def _move(self, i: int, part: slice, gradient: Any, numbers: Any) -> None:
        """Take the step of the i-th group, a part of the flat arrays."""
        raise NotImplementedError

    def _launch(self, kernel: str, part: slice, arrays: tuple, *scalars: Any) -> None:
        """Launch a kernel on a part of the arrays. work: reads of all arrays, writes of all but the first, the gradient."""
        n = part.stop - part.start
        work = (2 * len(arrays) - 1) * n
        device.launch("optim", kernel, *(a[part] for a in arrays), *scalars, n=n, work=work, step=1024)

    def __str__(self) -> str:
        return type(self).__name__


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
    m: Any
    v: Any

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
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        super().__init__(parameters, learning_rate, rates)

    def numbers(self, learning_rate: float, step: int) -> list[float]:
        """The rate of each group, and eps, both with the bias corrections of the step."""
        rate, eps = _corrected(learning_rate, self.beta1, self.beta2, self.eps, step)
        return [*super().numbers(rate, step), eps]

    def _move(self, i, part, gradient, numbers):
        arrays, dtype = (gradient, self.parameters.flat, self.m, self.v), self.m.dtype.type
        eps = numbers[len(self.parameters.groups)]
        self._launch("adam", part, arrays, numbers[i], dtype(self.beta1), dtype(self.beta2), eps)


class AdamW(Adam):
    """Adam with decoupled weight decay: each step first subtracts learning rate * decay * weight from every weight.

    Parameters
    ----------
    parameters : Parameters
        Weights are the parameters whose names end in ".weight"; biases and the shared parameters of distributions do not
        decay.
    learning_rate : float, default 1e-3
    decay : float, default 0.01
        At least 0.
    **settings : float or mapping
        beta1, beta2, eps and rates, as for `Adam`.

    Raises
    ------
    ConfigError

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
        for name, values in weights.items():
            values[...] = name.endswith(".weight")
        self._is_weight = weights.flat  # 1 or 0

    def numbers(self, learning_rate: float, step: int) -> list[float]:
        """Adam's, and for each group the share by which its weights decay."""
        return [*super().numbers(learning_rate, step), *Optimizer.numbers(self, learning_rate * self.decay, step)]

    def _move(self, i, part, gradient, numbers):
        arrays, dtype = (gradient, self._is_weight, self.parameters.flat, self.m, self.v), self.m.dtype.type
        n_groups = len(self.parameters.groups)
        eps, decay = numbers[n_groups], numbers[n_groups + 1 + i]
        self._launch("adamw", part, arrays, numbers[i], dtype(self.beta1), dtype(self.beta2), eps, decay)


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
    m: Any

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

    def _move(self, i, part, gradient, numbers):
        flat = self.parameters.flat
        if self.momentum:
            self._launch("momentum", part, (gradient, flat, self.m), numbers[i], flat.dtype.type(self.momentum))
        else:
            self._launch("sgd", part, (gradient, flat), numbers[i])


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
        Of each step.
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

    def update(self, gradient: Parameters, numbers: Any = None, groups: Collection[str] | None = None) -> None:
        """Raises ConfigError: a step is not a move against one gradient, see `minimized`."""
        raise ConfigError(
            f"{self}.update: a step is {self.iterations} iterations with gradients of their own: see minimized"
        )


ITERATIONS = texts.Number("a whole number of at least 1", lambda x: x >= 1, int)
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD, "lbfgs": LBFGS}
_ADAM = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}
_TAKEN = {
    "adam": _ADAM,
    "adamw": {"decay": NOT_NEGATIVE, **_ADAM},
    "sgd": {"momentum": SHARE},
    "lbfgs": {"iterations": ITERATIONS},
}
_LONE = {"adamw": "decay", "sgd": "momentum", "lbfgs": "iterations"}


def check_optimizer(text: str) -> None:
    """Raise ConfigError unless `parse_optimizer` accepts this text.

    Parameters
    ----------
    text : str

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> gvae.optim.check_optimizer("adam:beta1=0.5")
    >>> gvae.optim.check_optimizer("rmsprop")
    Traceback (most recent call last):
        ...
    gvae.errors.ConfigError: unknown optimizer 'rmsprop'; known are adam, adamw, sgd, lbfgs
    """
    texts.parse("optimizer", text, _TAKEN, _LONE)


def parse_rates(text: str) -> dict[str, float]:
    """Multiples of the learning rate by parameter group.

    Parameters
    ----------
    text : str
        "baseline=10", "baseline=10,prior=0.1".

    Returns
    -------
    dict of str to float

    Raises
    ------
    ConfigError
        A part is not GROUP=NUMBER with a number of at least 0, or names a group again.

    Examples
    --------
    >>> gvae.optim.parse_rates("baseline=10,prior=0.1")
    {'baseline': 10.0, 'prior': 0.1}
    """
    groups = [part.partition("=")[0] for part in text.split(",")]
    if not all(groups) or not all("=" in part for part in text.split(",")):
        raise ConfigError(f"rates {text!r}: expected GROUP=NUMBER, several with commas between them")
    return texts.parse("rates", f"rates:{text}", {"rates": dict.fromkeys(groups, NOT_NEGATIVE)})[1]


def parse_alone(text: str) -> dict[str, int]:
    """Numbers of steps of some parameter groups alone, before each step of the others.

    Parameters
    ----------
    text : str
        "critic=3", "critic=3,prior=1".

    Returns
    -------
    dict of str to int

    Raises
    ------
    ConfigError
        A part is not GROUP=NUMBER with a whole number of at least 1, or names a group again.

    Examples
    --------
    >>> gvae.optim.parse_alone("critic=3")
    {'critic': 3}
    """
    groups = [part.partition("=")[0] for part in text.split(",")]
    if not all(groups) or not all("=" in part for part in text.split(",")):
        raise ConfigError(f"alone {text!r}: expected GROUP=NUMBER, several with commas between them")
    whole = texts.Number("a whole number of at least 1", lambda x: x >= 1 and x == int(x))
    found = texts.parse("alone", f"alone:{text}", {"alone": dict.fromkeys(groups, whole)})[1]
    return {group: int(number) for group, number in found.items()}


def parse_optimizer(
    text: str, parameters: Parameters, learning_rate: float = 1e-3, rates: Mapping[str, float] | None = None
) -> Optimizer:
    """The optimiser that a text describes.

    Parameters
    ----------
    text : str
        "adam" or "adam:beta1=0.5,beta2=0.999,eps=1e-4"; "adamw", "adamw:0.05" (its decay) or "adamw:decay=0.05,beta1=0.5";
        "sgd", "sgd:0.9" (its momentum) or "sgd:momentum=0.9"; "lbfgs", "lbfgs:50" (its iterations). Settings that are left
        out have the defaults of the class.
    parameters : Parameters
    learning_rate : float, default 1e-3
    rates : mapping of str to float, optional
        Multiples of the learning rate by parameter group.

    Returns
    -------
    Optimizer

    Raises
    ------
    ConfigError
        The optimiser or a setting is unknown, or a value is not a number or out of range.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"network.weight": np.ones((2, 3))})
    >>> gvae.optim.parse_optimizer("sgd:0.9", parameters, 0.1).momentum
    0.9
    """
    name, settings = texts.parse("optimizer", text, _TAKEN, _LONE)
    return OPTIMIZERS[name](parameters, learning_rate, rates=rates, **settings)


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
        The learning rate or eps is not positive.

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


def norm(*arrays: Any) -> Any:
    """Euclidean norm of arrays taken together as one vector.

    Parameters
    ----------
    *arrays : array

    Returns
    -------
    float
        Not finite if an element is not. For arrays on a device a scalar on that device, without synchronisation.

    Examples
    --------
    >>> gvae.optim.norm(np.array([3.0]), np.array([[4.0, 12.0]]))
    13.0
    """
    if device.is_cuda(arrays[0]):
        return np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in arrays))
    with np.errstate(all="ignore"):
        total = sum(_square(array.reshape(-1)) for array in arrays)
        if not math.isfinite(total):  # squares of finite numbers may overflow float32
            total = sum(_square(array.reshape(-1).astype(np.float64)) for array in arrays)
    return math.sqrt(total) if total >= 0 else math.nan


def shorten(arrays: Sequence[Any], length: Any, limit: float) -> None:
    """Scale arrays in place so that their norm is at most a limit: gradient clipping.

    Parameters
    ----------
    arrays : sequence of array
    length : float or array ()
        Their norm, as `norm` computes it.
    limit : float

    Examples
    --------
    >>> gradient = np.array([3.0, 4.0])
    >>> gvae.optim.shorten([gradient], gvae.optim.norm(gradient), limit=1.0)
    >>> gradient
    array([0.6, 0.8])
    """
    if device.is_cuda(length) or length > limit:
        factor = np.minimum(limit / length, 1.0)
        for array in arrays:
            array *= factor.astype(array.dtype)


def _square(flat: np.ndarray) -> float:
    """The sum of squares, summed by pieces of fixed size, so that the bits depend on the values alone."""
    sums = np.empty(-(-len(flat) // PIECE), flat.dtype)
    device.launch("optim", "square_sums", device.plain(flat), PIECE, sums, n=len(sums), work=len(flat))
    return float(sums.sum(dtype=np.float64))


PIECE = 4096


def _step(text: str, slope: Parameters, _: Any) -> None:
    optimizer = parse_optimizer(text, slope.zeros())
    if not optimizer.iterations:  # a minimiser has no kernel of its own
        optimizer.update(slope)


@registered
def _(dtype: np.dtype) -> Iterator[Use]:
    slope = Parameters({"network.weight": np.ones(3, dtype)})
    for text in (*OPTIMIZERS, "sgd:0.9"):
        yield partial(_step, text, slope)
    yield lambda _: norm(slope.flat)


# ---- learning rates ------------------------------------------------------------------------------


class Schedule:
    """Learning-rate schedule: the rate of a step as a multiple of the first one; this class is constant.

    `schedule(step)` returns the multiple for the step with this number, counted from 0.

    Attributes
    ----------
    state : dict
        What it remembers of the run, numbers by name; everything else is a function of the step.

    Examples
    --------
    >>> gvae.optim.Schedule()(step=100)
    1.0
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __call__(self, step: int) -> float:
        return 1.0

    def observe(self, bound: float) -> None:
        """Record the bound at the end of an epoch; a schedule may depend on it.

        Parameters
        ----------
        bound : float
            Of the validation rows if there are any.

        Examples
        --------
        >>> schedule = gvae.optim.Plateau(patience=1)
        >>> for bound in (-100.0, -90.0, -91.0):
        ...     schedule.observe(bound)
        >>> schedule(step=3)
        0.5
        """


class Cosine(Schedule):
    """Schedule from 1 down to 0 at `total` steps along half a cosine.

    Parameters
    ----------
    total : int

    Notes
    -----
    Source: Loshchilov and Hutter (2017), eq. 5, without restarts.

    Examples
    --------
    >>> schedule = gvae.optim.Cosine(total=100)
    >>> [round(schedule(step), 4) for step in (0, 25, 50, 100)]
    [1.0, 0.8536, 0.5, 0.0]
    """

    def __init__(self, total: int):
        super().__init__()
        self.total = total

    def __call__(self, step: int) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * min(step / self.total, 1.0))


class IWAE(Schedule):
    """Schedule 10^(-i/7) for 3^i epochs, i = 0 .. 7, and a tenth from then on.

    Parameters
    ----------
    steps_per_epoch : int
    share : int, default 1
        3280 epochs in all, or 1 / share of that.

    Notes
    -----
    Source: Burda, Grosse and Salakhutdinov (2016), section 5.

    Examples
    --------
    >>> schedule = gvae.optim.IWAE(steps_per_epoch=10)
    >>> [round(schedule(10 * epoch), 4) for epoch in (0, 1, 4, 3280)]
    [1.0, 0.7197, 0.5179, 0.1]
    """

    def __init__(self, steps_per_epoch: int, share: int = 1):
        super().__init__()
        self.steps_per_epoch, self.share = steps_per_epoch, share

    def __call__(self, step: int) -> float:
        epoch, i = step * self.share // self.steps_per_epoch, 0
        while i < 7 and epoch >= (3 ** (i + 1) - 1) // 2:  # 3^0 + ... + 3^i epochs are over
            i += 1
        return 10 ** (-i / 7)


class Exponential(Schedule):
    """Schedule that multiplies the rate by `factor` after every `epochs` epochs.

    Parameters
    ----------
    steps_per_epoch : int
    factor : float
    epochs : int, default 1

    Examples
    --------
    >>> schedule = gvae.optim.Exponential(steps_per_epoch=10, factor=0.5, epochs=2)
    >>> [schedule(step) for step in (0, 19, 20, 40)]
    [1.0, 1.0, 0.5, 0.25]
    """

    def __init__(self, steps_per_epoch: int, factor: float, epochs: int = 1):
        super().__init__()
        self.every, self.factor = steps_per_epoch * epochs, factor

    def __call__(self, step: int) -> float:
        return self.factor ** (step // self.every)


class Plateau(Schedule):
    """Schedule that halves the rate whenever the bound has not grown for `patience` epochs.

    Parameters
    ----------
    patience : int

    Examples
    --------
    >>> schedule = gvae.optim.Plateau(patience=2)
    >>> for bound in (-100.0, -90.0, -91.0, -90.5):
    ...     schedule.observe(bound)
    >>> schedule(step=4), schedule.state
    (0.5, {'factor': 0.5, 'best': -90.0, 'waited': 0})
    """

    def __init__(self, patience: int):
        super().__init__()
        self.patience = patience
        self.state = {"factor": 1.0, "best": None, "waited": 0}

    def __call__(self, step: int) -> float:
        return self.state["factor"]

    def observe(self, bound: float) -> None:
        best = self.state["best"]
        if best is None or bound > best:
            self.state |= {"best": bound, "waited": 0}
        elif self.state["waited"] + 1 < self.patience:
            self.state["waited"] += 1
        else:
            self.state |= {"factor": self.state["factor"] / 2, "waited": 0}


SCHEDULES: dict[str, Callable[[int | None, int, int], Schedule]] = {  # of (number given, steps per epoch, steps)
    "constant": lambda given, per_epoch, total: Schedule(),
    "cosine": lambda given, per_epoch, total: Cosine(total if given is None else given * per_epoch),
    "plateau": lambda given, per_epoch, total: Plateau(10 if given is None else given),
    "iwae": lambda given, per_epoch, total: IWAE(per_epoch, 1 if given is None else given),
    "exponential": lambda given, per_epoch, total: Exponential(per_epoch, 0.97),
}


def parse_schedule(text: str, steps_per_epoch: int = 1, steps: int = 1) -> Schedule:
    """The learning-rate schedule that a text describes.

    Parameters
    ----------
    text : str
        "constant"; "cosine" to the end of the run or "cosine:E" over E epochs; "plateau" or "plateau:E", after E epochs
        without a better bound (10); "iwae", or "iwae:S" for a schedule S times as short; "exponential" (a factor 0.97 after
        every epoch), "exponential:F", or "exponential:F/E" for a factor F after every E epochs.
    steps_per_epoch : int, default 1
    steps : int, default 1
        The steps of the run in all.

    Returns
    -------
    Schedule

    Raises
    ------
    ConfigError
        The name is unknown, a number is wrong, or a cosine ends before the run does.

    Examples
    --------
    >>> schedule = gvae.optim.parse_schedule("exponential:0.5/2", steps_per_epoch=10, steps=100)
    >>> schedule(0), schedule(20)
    (1.0, 0.5)
    """
    if isinstance(text, str) and text.startswith("exponential:"):
        return _exponential(text, steps_per_epoch)
    given = _setting("schedule", text, SCHEDULES, ("cosine", "plateau", "iwae"), int)
    schedule = SCHEDULES[text.partition(":")[0]](given, steps_per_epoch, steps)
    if isinstance(schedule, Cosine) and schedule.total < steps:
        raise ConfigError(f"schedule {text!r} reaches 0 at step {schedule.total}, before the end of the run at step {steps}")
    return schedule


def _exponential(text: str, steps_per_epoch: int) -> Exponential:
    factor, slash, epochs = text.partition(":")[2].partition("/")
    try:
        share, every = float(factor), int(epochs) if slash else 1
    except ValueError:
        share, every = math.nan, 0
    if not 0 < share <= 1 or every < 1 or "_" in text:
        raise ConfigError(
            f"schedule {text!r}: expected a factor in (0, 1] and a whole number of epochs, as in exponential:0.97/2"
        )
    return Exponential(steps_per_epoch, share, every)


# ---- averages of the weights ---------------------------------------------------------------------


class Average:
    """Base class of running averages of the parameters.

    Parameters
    ----------
    parameters : Parameters

    Attributes
    ----------
    values : Parameters
        The mean; zero before the first of its `terms`.
    epochs : int
        The number of epochs that are terms of the mean.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> average = gvae.optim.SWA(parameters, first=1)
    >>> for epoch, value in enumerate([1.0, 2.0, 6.0], 1):
    ...     parameters.flat[:] = value
    ...     average.after_epoch(parameters, epoch)
    >>> average.values["decoder.weight"], average.epochs
    (array([3., 3.]), 3)
    """

    def __init__(self, parameters: Parameters):
        self.values, self.epochs = parameters.zeros(), 0

    def terms(self, steps: int) -> int:
        """Number of terms of the mean after a number of steps.

        Parameters
        ----------
        steps : int

        Returns
        -------
        int

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
        >>> gvae.optim.EMA(parameters, decay=0.9).terms(10), gvae.optim.SWA(parameters, first=1).terms(10)
        (10, 0)
        """
        return self.epochs

    def weight(self, steps: int) -> float:
        """Weight of the current parameters in the mean after a step.

        Parameters
        ----------
        steps : int
            The number of steps before it.

        Returns
        -------
        float
            0 for averages of which steps are not terms.

        Examples
        --------
        >>> average = gvae.optim.EMA(gvae.nn.Parameters({"decoder.weight": np.ones(2)}), decay=0.9)
        >>> [round(average.weight(steps), 4) for steps in (0, 1, 10, 1000)]
        [1.0, 0.8182, 0.45, 0.1]
        """
        return 0.0

    def after_step(self, parameters: Parameters, weight: Any, scratch: Any = None) -> None:
        """Update the mean after a step of the optimiser.

        Parameters
        ----------
        parameters : Parameters
        weight : float or array ()
            As `weight` returns it; an array lies on the device of the parameters.
        scratch : array, optional
            Working memory like parameters.flat.

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
        >>> average = gvae.optim.EMA(parameters, decay=0.9)
        >>> for steps, value in enumerate([1.0, 2.0]):
        ...     parameters.flat[:] = value
        ...     average.after_step(parameters, average.weight(steps))
        >>> average.values["decoder.weight"].round(4)
        array([1.8182, 1.8182])
        """

    def after_epoch(self, parameters: Parameters, epochs: int) -> None:
        """Update the mean at the end of an epoch.

        Parameters
        ----------
        parameters : Parameters
        epochs : int
            The number of epochs that are over.

        Examples
        --------
        >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
        >>> average = gvae.optim.SWA(parameters, first=1)
        >>> average.after_epoch(parameters, 1)
        >>> average.values["decoder.weight"]
        array([1., 1.])
        """

    def _add(self, parameters: Parameters, weight: Any, scratch: Any = None) -> None:
        mean, flat = self.values.flat, parameters.flat
        difference = np.subtract(flat, mean, out=scratch)
        difference *= weight if device.is_cuda(weight) else mean.dtype.type(weight)
        mean += difference


class EMA(Average):
    """Exponential moving average of the parameters after every step.

    Parameters
    ----------
    parameters : Parameters
    decay : float

    Notes
    -----
    mean <- mean + (1 - d) (parameters - mean), d = min(decay, (1 + t) / (10 + t)) at step t, which forgets the initial
    parameters.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> average = gvae.optim.EMA(parameters, decay=0.9)
    >>> average.after_step(parameters, average.weight(0))
    >>> average.values["decoder.weight"]
    array([1., 1.])
    """

    def __init__(self, parameters: Parameters, decay: float):
        super().__init__(parameters)
        self.decay = decay

    def terms(self, steps: int) -> int:
        return steps

    def weight(self, steps: int) -> float:
        return 1.0 if steps == 0 else 1 - min(self.decay, (1 + steps) / (10 + steps))

    def after_step(self, parameters: Parameters, weight: Any, scratch: Any = None) -> None:
        self._add(parameters, weight, scratch)


class SWA(Average):
    """Stochastic weight averaging: the mean of the parameters at the ends of epochs `first`, first + 1, ...

    Parameters
    ----------
    parameters : Parameters
    first : int
        The first epoch that is a term, counted from 1.

    Notes
    -----
    Source: Izmailov et al. (2018), algorithm 1.

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> average = gvae.optim.SWA(parameters, first=2)
    >>> for epoch, value in enumerate([1.0, 2.0, 6.0], 1):
    ...     parameters.flat[:] = value
    ...     average.after_epoch(parameters, epoch)
    >>> average.values["decoder.weight"]
    array([4., 4.])
    """

    def __init__(self, parameters: Parameters, first: int):
        super().__init__(parameters)
        self.first = first

    def after_epoch(self, parameters: Parameters, epochs: int) -> None:
        if self.epochs < epochs - self.first + 1:  # once, even if the end of an epoch was interrupted
            self._add(parameters, 1 / (self.epochs + 1))
            self.epochs += 1


AVERAGES: dict[str, Callable[[Parameters, Any], Average]] = {
    "ema": lambda parameters, given: EMA(parameters, 0.999 if given is None else given),
    "swa": lambda parameters, given: SWA(parameters, 1 if given is None else given),
}


def parse_average(text: str, parameters: Parameters) -> Average:
    """The average of the parameters that a text describes.

    Parameters
    ----------
    text : str
        "ema" or "ema:DECAY" (0.999), after every step; "swa" or "swa:E", after every epoch from the E-th on (1).
    parameters : Parameters

    Returns
    -------
    Average

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> parameters = gvae.nn.Parameters({"decoder.weight": np.ones(2)})
    >>> gvae.optim.parse_average("ema:0.99", parameters).decay
    0.99
    """
    name = text.partition(":")[0] if isinstance(text, str) else ""
    given = _setting("average", text, AVERAGES, AVERAGES, float if name == "ema" else int)
    if name == "ema" and given is not None and not given < 1:
        raise ConfigError(f"average {text!r}: the decay is {given!r}, expected a number below 1")
    return AVERAGES[name](parameters, given)


def _setting(what: str, text: Any, known: Mapping, sized: Any, kind: type) -> Any:
    """The positive number behind the colon, or None."""
    name, colon, number = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name not in known or (colon and name not in sized):
        raise ConfigError(f"unknown {what} {text!r}; known are {', '.join(known)} (with a number: {', '.join(sized)})")
    if not colon:
        return None
    try:
        value = kind(number)
    except (ValueError, OverflowError):
        value = 0
    if not 0 < value < math.inf or "_" in number:
        expected = "whole number of at least 1" if kind is int else "positive number"
        raise ConfigError(f"{what} {text!r}: {number!r} is not a {expected}")
    return value


# ---- arithmetic ----------------------------------------------------------------------------------


def _corrected(rate: float, beta1: float, beta2: float, eps: float, step: int) -> tuple[float, float]:
    """Rate and eps that make the uncorrected update equal to the bias-corrected one."""
    root = math.sqrt(1 - beta2**step)
    return rate * root / (1 - beta1**step), eps * root


def _positive(**numbers: Any) -> None:
    for name, x in numbers.items():
        if not POSITIVE.accepts(x):
            raise ConfigError(f"{name} is {x!r}, expected a positive number")
