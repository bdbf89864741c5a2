"""Objectives by name: each is declared where it is made from its text, by `objective`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeVar

from gvae.objectives.terms import Objective

__all__ = ["ABOUT", "OBJECTIVES", "About", "objective"]

Make = Callable[[str | None, str, int], Objective]
Function = TypeVar("Function", bound=Make)


@dataclasses.dataclass(frozen=True)
class About:
    """What the parser, the documentation and the tests need of an objective.

    Parameters
    ----------
    formula, remark : str
        Markdown for the table of objectives.
    example : str
        A text with this name that two draws and more can be trained with.
    keyed : bool, default False
        Its setting is written as key=value.
    plain : bool, default False
        It takes no setting.
    bound : bool, default True
        It is a lower bound on log p(x), or tends to one.
    gradients : tuple of str, default ()
        The gradient estimators that it has; () for all.

    Examples
    --------
    >>> gvae.objectives.ABOUT["info"].bound, gvae.objectives.ABOUT["info"].gradients
    (False, ('reparameterized',))
    """

    formula: str
    remark: str
    example: str
    keyed: bool = False
    plain: bool = False
    bound: bool = True
    gradients: tuple[str, ...] = ()


OBJECTIVES: dict[str, Make] = {}  # name -> (setting, gradient, warmup) -> objective; a setting follows the name: miwae:8
ABOUT: dict[str, About] = {}


def objective(
    name: str,
    formula: str,
    remark: str = "",
    *,
    example: str | None = None,
    keyed: bool = False,
    plain: bool = False,
    bound: bool = True,
    gradients: tuple[str, ...] = (),
) -> Callable[[Function], Function]:
    """Register a function make(setting, gradient, warmup) as the objective of a name.

    Parameters
    ----------
    name : str
        The name in `parse` and `--objective`.
    formula, remark : str
        As in `About`, like all that follows.
    example : str, optional
        Default: the name.
    keyed, plain, bound, gradients : bool, bool, bool, tuple of str

    Returns
    -------
    callable
        A decorator that returns the function as it is.

    Examples
    --------
    >>> from gvae.objectives.registry import ABOUT
    >>> ABOUT["miwae"].example, gvae.objectives.parse(ABOUT["miwae"].example).bound
    ('miwae:2', Grouped(groups=2, bound=Renyi(alpha=0.0)))
    """

    def register(make: Function) -> Function:
        OBJECTIVES[name] = make
        ABOUT[name] = About(formula, remark, example or name, keyed, plain, bound, gradients)
        return make

    return register
