"""Families by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gvae.errors import ConfigError
from gvae.families.base import Family

__all__ = ["FAMILIES", "family", "plain"]

Class = TypeVar("Class", bound=type[Family])

FAMILIES: dict[str, Callable[[int, str | None], Family]] = {}  # name -> (n, text after the colon or None) -> family


def plain(make: Callable[[int], Family]) -> Callable[[int, str | None], Family]:
    """The builder of a family without a size.

    Parameters
    ----------
    make : callable
        make(n), such as the class.

    Returns
    -------
    callable
        An entry of `FAMILIES`. It raises ConfigError where a text follows the name.

    Examples
    --------
    >>> from gvae.families import registry
    >>> registry.plain(gvae.families.Diagonal)(3, None)
    Diagonal('diagonal', n=3)
    """

    def build(n: int, setting: str | None) -> Family:
        family = make(n)
        if setting is not None:
            raise ConfigError(f"{family.name} takes no size, got {family.name}:{setting}")
        return family

    return build


def family(declared: Class) -> Class:
    """Class decorator: register a family that only n determines, under its `name`.

    Parameters
    ----------
    declared : type
        A subclass of Family with a class attribute `name`.

    Returns
    -------
    type
        The class as it is.

    Examples
    --------
    >>> from gvae.families import registry
    >>> @registry.family
    ... class Ordinary(gvae.families.Diagonal):
    ...     '''Diagonal, by another name.'''
    ...     name = "ordinary"
    >>> gvae.families.parse("ordinary", 3)
    Ordinary('ordinary', n=3)
    >>> del registry.FAMILIES["ordinary"]
    """
    FAMILIES[declared.name] = plain(declared)
    return declared
