"""Numbers in settings: what is read, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gvae.errors import ConfigError
from gvae.texts import POSITIVE
from gvae.typing import Array


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


def _positive(**numbers: Array) -> None:
    for name, x in numbers.items():
        if not POSITIVE.accepts(x):
            raise ConfigError(f"{name} is {x!r}, expected a positive number")
