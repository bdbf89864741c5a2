"""Learning rates as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gvae.errors import ConfigError
from gvae.optim._numbers import _setting


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
            The bound on the validation rows if there are any.

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
        if not math.isnan(bound) and (best is None or bound > best):
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
