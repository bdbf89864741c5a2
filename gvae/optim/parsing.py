"""Optimisers by name, rates by group, and their kernels compiled ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from gvae import texts
from gvae.errors import ConfigError
from gvae.nn import Parameters
from gvae.optim.adam import Adam, AdamW
from gvae.optim.lbfgs import ITERATIONS, LBFGS
from gvae.optim.norms import norm
from gvae.optim.optimizer import Optimizer
from gvae.optim.sgd import SGD
from gvae.runtime.compile import Use, registered
from gvae.texts import NOT_NEGATIVE, POSITIVE, SHARE

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
    return _by_group("rates", text, NOT_NEGATIVE)


def parse_alone(text: str) -> dict[str, int]:
    """Numbers of separate steps of some parameter groups, before each step of the others.

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
        A part is not GROUP=NUMBER with a positive integer, or names a group again.

    Examples
    --------
    >>> gvae.optim.parse_alone("critic=3")
    {'critic': 3}
    """
    whole = texts.Number("a whole number of at least 1", lambda x: x >= 1 and x == int(x))
    return {group: int(number) for group, number in _by_group("alone", text, whole).items()}


def _by_group(what: str, text: str, expected: texts.Number) -> dict[str, float]:
    """A number for each parameter group of a text."""
    groups = [part.partition("=")[0] for part in text.split(",")]
    if not all(groups) or not all("=" in part for part in text.split(",")):
        raise ConfigError(f"{what} {text!r}: expected GROUP=NUMBER, several with commas between them")
    return texts.parse(what, f"{what}:{text}", {what: dict.fromkeys(groups, expected)}, given=text)[1]


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
