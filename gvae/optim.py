"""Optimisers on the flat parameter buffer, learning-rate schedules, averages of the weights.

The optimisers are the only functions of gvae that change their arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    "parse_average",
    "parse_optimizer",
    "parse_schedule",
    "shorten",
]


class Optimizer:
    """What optimisers share: they go down the gradient they are given, in one pass over each group of parameters.

    rates   : multiples of the learning rate by group; 0 freezes a group
    name    : its name in a text (see `parse_optimizer`)
    moments : the names of its arrays, flat as the parameters are, which with `step` are its state
    """

    name: str
    moments: tuple[str, ...]

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
        """What the step of this number takes besides the gradient: the rate of each group, and what a class adds."""
        return [self.rates.get(group, 1.0) * learning_rate for group in self.parameters.groups]

    def update(self, gradient: Parameters, numbers: Any = None) -> None:
        """One step down the gradient, in one pass over each group.

        numbers : those of the step (see `numbers`), by default of the next one, which `step` then counts
        """
        flat, dtype = self.parameters.flat, self.parameters.flat.dtype.type
        check_floating(where=f"{self}.update", parameters=flat, gradient=gradient.flat)
        if gradient.flat.shape != flat.shape:
            raise ShapeError(f"{self}.update: gradient has {gradient.flat.size} entries, expected {flat.size}")
        counted = numbers is None
        if counted:
            numbers = [dtype(number) for number in self.numbers(self.learning_rate, self.step + 1)]
        for i, (group, part) in enumerate(self.parameters.groups.items()):
            if self.rates.get(group, 1.0):
                self._move(i, part, gradient.flat, numbers)
        self.step += counted

    def _move(self, i: int, part: slice, gradient: Any, numbers: Any) -> None:
        """Take the step of the i-th group, a part of the flat arrays."""
        raise NotImplementedError

    def _launch(self, kernel: str, part: slice, arrays: tuple, *scalars: Any) -> None:
        """work: reads of all arrays, and writes of all but the first, the gradient."""
        n = part.stop - part.start
        work = (2 * len(arrays) - 1) * n
        device.launch("optim", kernel, *(a[part] for a in arrays), *scalars, n=n, work=work, step=1024)

    def __str__(self) -> str:
        return type(self).__name__


class Adam(Optimizer):
    """Adam. State: `m`, `v` (flat), `step`.

    Source: Kingma and Ba (2015), algorithm 1, in its bias-corrected form with rate and eps rescaled (their section 2).
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
    """Adam with decoupled weight decay: each step first takes learning rate * decay of every weight away from it.

    Weights are the parameters whose names end in ".weight"; biases and the shared numbers of distributions do not decay.
    A schedule, and the rate of a group, scale the decay as they scale the step. Source: Loshchilov and Hutter (2019),
    algorithm 2, with their lambda written as learning rate * decay, as PyTorch and Optax have it.
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
        """Adam's, and the share that each group's weights lose."""
        return [*super().numbers(learning_rate, step), *Optimizer.numbers(self, learning_rate * self.decay, step)]

    def _move(self, i, part, gradient, numbers):
        arrays, dtype = (gradient, self._is_weight, self.parameters.flat, self.m, self.v), self.m.dtype.type
        n_groups = len(self.parameters.groups)
        eps, decay = numbers[n_groups], numbers[n_groups + 1 + i]
        self._launch("adamw", part, arrays, numbers[i], dtype(self.beta1), dtype(self.beta2), eps, decay)


class SGD(Optimizer):
    """Gradient descent, with momentum m <- momentum m + g and a step of learning rate * m; without, m is g and is not kept.

    Source: Polyak (1964), as PyTorch writes it.
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


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}
_ADAM = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}
_TAKEN = {"adam": _ADAM, "adamw": {"decay": NOT_NEGATIVE, **_ADAM}, "sgd": {"momentum": SHARE}}
_LONE = {"adamw": "decay", "sgd": "momentum"}


def check_optimizer(text: str) -> None:
    """Raise ConfigError unless `parse_optimizer` takes this text."""
    texts.parse("optimizer", text, _TAKEN, _LONE)


def parse_optimizer(text: str, parameters: Parameters, learning_rate: float = 1e-3) -> Optimizer:
    """The optimiser of a text: "adam" or "adam:beta1=0.5,beta2=0.999,eps=1e-4"; "adamw", "adamw:0.05" (its decay) or
    "adamw:decay=0.05,beta1=0.5"; "sgd", "sgd:0.9" or "sgd:momentum=0.9". What is left out is as the class has it.

    Raises ConfigError: an unknown optimiser or setting, what is no number, a number out of range.

        >>> parse_optimizer("sgd:0.9", Parameters({"network.weight": np.ones((2, 3))}), 0.1).momentum
        0.9
    """
    name, settings = texts.parse("optimizer", text, _TAKEN, _LONE)
    return OPTIMIZERS[name](parameters, learning_rate, **settings)


class RowAdam:
    """Adam for per-datum parameters (n_rows, ...): only the rows of a batch move, each with its own step count."""

    def __init__(self, values: np.ndarray, learning_rate: float, *, beta1=0.9, beta2=0.999, eps=1e-8):
        _positive(learning_rate=learning_rate, eps=eps)
        self.values, self.learning_rate = values, learning_rate
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m, self.v = np.zeros_like(values), np.zeros_like(values)
        self.steps = device.zeros((len(values),), np.int64, values)

    def update(self, index: np.ndarray, gradient: np.ndarray) -> None:
        """One step down the gradient (B, ...) of the rows `index` (B,), which are distinct."""
        self.keep(index, self.moved(index, gradient))

    def moved(self, index: np.ndarray, gradient: np.ndarray) -> tuple:
        """What those rows of (steps, m, v, values) are after the step."""
        dtype, g, counts = self.values.dtype, gradient, self.steps[index] + 1
        m = self.beta1 * self.m[index] + (1 - self.beta1) * g
        v = self.beta2 * self.v[index] + (1 - self.beta2) * g * g
        steps = counts.reshape(-1, *[1] * (g.ndim - 1))
        rate = (self.learning_rate * np.sqrt(1 - self.beta2**steps) / (1 - self.beta1**steps)).astype(dtype)
        eps = (self.eps * np.sqrt(1 - self.beta2**steps)).astype(dtype)
        return counts, m, v, self.values[index] - rate * m / (np.sqrt(v) + eps)

    def keep(self, index: np.ndarray, moved: tuple) -> None:
        self.steps[index], self.m[index], self.v[index], self.values[index] = moved


def norm(*arrays: Any) -> Any:
    """The Euclidean norm of all their numbers together; not finite if one of them is not. Of arrays on a device a scalar
    there, which waits for nothing."""
    if device.is_cuda(arrays[0]):
        return np.sqrt(sum(np.square(array.astype(np.float64)).sum() for array in arrays))
    with np.errstate(all="ignore"):
        total = sum(_square(array.reshape(-1)) for array in arrays)
        if not math.isfinite(total):  # squares of finite numbers may be beyond float32
            total = sum(_square(array.reshape(-1).astype(np.float64)) for array in arrays)
    return math.sqrt(total) if total >= 0 else math.nan


def shorten(arrays: Sequence[Any], length: Any, limit: float) -> None:
    """Scale arrays of the norm `length`, in place, so that it is at most `limit`."""
    if device.is_cuda(length) or length > limit:
        factor = np.minimum(limit / length, 1.0)
        for array in arrays:
            array *= factor.astype(array.dtype)


def _square(flat: np.ndarray) -> float:
    """The sum of squares, of pieces, so that the bits depend on the numbers alone."""
    sums = np.empty(-(-len(flat) // PIECE), flat.dtype)
    device.launch("optim", "square_sums", device.plain(flat), PIECE, sums, n=len(sums), work=len(flat))
    return float(sums.sum(dtype=np.float64))


PIECE = 4096


def _step(text: str, slope: Parameters, _: Any) -> None:
    parse_optimizer(text, slope.zeros()).update(slope)


@registered
def _(dtype: np.dtype) -> Iterator[Use]:
    slope = Parameters({"network.weight": np.ones(3, dtype)})
    for text in (*OPTIMIZERS, "sgd:0.9"):
        yield partial(_step, text, slope)
    yield lambda _: norm(slope.flat)


# ---- learning rates ------------------------------------------------------------------------------


class Schedule:
    """The learning rate of a step as a multiple of the first one; this one is constant.

    state : what it remembers of the run, numbers by name; everything else is a function of the step
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def __call__(self, step: int) -> float:
        return 1.0

    def observe(self, bound: float) -> None:
        """An epoch has ended with this bound, on the validation rows if there are any."""


class Cosine(Schedule):
    """From 1 down to 0 at `total` steps along half a cosine. Source: Loshchilov and Hutter (2017), eq. 5, no restarts."""

    def __init__(self, total: int):
        super().__init__()
        self.total = total

    def __call__(self, step: int) -> float:
        return 0.5 + 0.5 * math.cos(math.pi * min(step / self.total, 1.0))


class IWAE(Schedule):
    """10^(-i/7) for 3^i epochs, i = 0 .. 7: 3280 epochs in all, or 1/share of that; a tenth from then on.

    Source: Burda, Grosse and Salakhutdinov (2016), section 5.
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
    """Times `factor` after every `epochs` epochs."""

    def __init__(self, steps_per_epoch: int, factor: float, epochs: int = 1):
        super().__init__()
        self.every, self.factor = steps_per_epoch * epochs, factor

    def __call__(self, step: int) -> float:
        return self.factor ** (step // self.every)


class Plateau(Schedule):
    """Times 1/2 whenever the bound has not grown for `patience` epochs."""

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


SCHEDULES: dict[str, Callable[[int | None, int, int], Schedule]] = {  # of the number given, steps per epoch, all steps
    "constant": lambda given, per_epoch, total: Schedule(),
    "cosine": lambda given, per_epoch, total: Cosine(total if given is None else given * per_epoch),
    "plateau": lambda given, per_epoch, total: Plateau(10 if given is None else given),
    "iwae": lambda given, per_epoch, total: IWAE(per_epoch, 1 if given is None else given),
    "exponential": lambda given, per_epoch, total: Exponential(per_epoch, 0.97),
}


def parse_schedule(text: str, steps_per_epoch: int = 1, steps: int = 1) -> Schedule:
    """The schedule of a text: "constant"; "cosine" to the end of the run or "cosine:E" over E epochs; "plateau" or
    "plateau:E", after E epochs without a better bound (10); "iwae", or "iwae:S" for a schedule S times as short;
    "exponential:F", or "exponential:F/E" for a factor F after every E epochs.

    Raises ConfigError: an unknown name or a wrong number, and a cosine that ends before the run, of `steps` in all, does.
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
    """A running average of parameters: `values`, which hold nothing before the first of its `terms`.

    epochs : the epochs that are terms
    """

    def __init__(self, parameters: Parameters):
        self.values, self.epochs = parameters.zeros(), 0

    def terms(self, steps: int) -> int:
        """How many terms the mean has after so many steps."""
        return self.epochs

    def weight(self, steps: int) -> float:
        """Of the parameters in the mean after a step that so many came before; 0 where steps are no terms."""
        return 0.0

    def after_step(self, parameters: Parameters, weight: Any, scratch: Any = None) -> None:
        """A step has been taken. weight: as above, a number or an array () beside the parameters.
        scratch: an array like parameters.flat to work in."""

    def after_epoch(self, parameters: Parameters, epochs: int) -> None:
        """So many epochs are over."""

    def _add(self, parameters: Parameters, weight: Any, scratch: Any = None) -> None:
        mean, flat = self.values.flat, parameters.flat
        difference = np.subtract(flat, mean, out=scratch)
        difference *= weight if device.is_cuda(weight) else mean.dtype.type(weight)
        mean += difference


class EMA(Average):
    """Exponential: mean <- mean + (1 - d) (weights - mean) after every step, d = min(decay, (1 + t) / (10 + t)) at step t,
    which forgets the weights at the start."""

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
    """The mean of the weights at the ends of epochs `first`, first + 1, ... Source: Izmailov et al. (2018), algorithm 1."""

    def __init__(self, parameters: Parameters, first: int):
        super().__init__(parameters)
        self.first = first

    def after_epoch(self, parameters: Parameters, epochs: int) -> None:
        if self.epochs < epochs - self.first + 1:  # not twice, where the end of an epoch was interrupted
            self._add(parameters, 1 / (self.epochs + 1))
            self.epochs += 1


AVERAGES: dict[str, Callable[[Parameters, Any], Average]] = {
    "ema": lambda parameters, given: EMA(parameters, 0.999 if given is None else given),
    "swa": lambda parameters, given: SWA(parameters, 1 if given is None else given),
}


def parse_average(text: str, parameters: Parameters) -> Average:
    """The average of a text: "ema" or "ema:DECAY" (0.999), after every step; "swa" or "swa:E", after every epoch from the
    E-th on (1). Raises ConfigError."""
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
