"""Choices written as text: "name", "name:key=value,key=value", or "name:value" where one setting needs no key."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gvae.errors import ConfigError

__all__ = ["NOT_NEGATIVE", "POSITIVE", "SHARE", "Number", "parse"]


class Number(NamedTuple):
    """What numbers a setting takes: in words, and as a test of a finite one.   kind : float, or int for whole numbers"""

    expected: str
    holds: Callable[[Any], bool]
    kind: type = float

    def accepts(self, x: Any) -> bool:
        """Whether x is such a number; a bool is not."""
        kinds = numbers.Integral if self.kind is int else numbers.Real
        return isinstance(x, kinds) and not isinstance(x, (bool, np.bool_)) and math.isfinite(x) and self.holds(x)


SHARE = Number("a number in [0, 1)", lambda x: 0 <= x < 1)
POSITIVE = Number("a positive number", lambda x: x > 0)
NOT_NEGATIVE = Number("a number of at least 0", lambda x: x >= 0)


def parse(
    what: str,
    text: Any,
    known: Mapping[str, Mapping[str, Number]],
    lone: Mapping[str, str] | None = None,
    given: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """(name, settings) of a text.

    what  : the kind of choice, for messages         known : by name the settings it takes, by key
    lone  : by name the key of a value that stands alone, "sgd:0.9"
    given : the text as the user wrote it, for messages; None: as it is parsed
    Raises ConfigError: an unknown name or key, a key given twice, a value that is not a number or not an expected one.

        >>> parse("optimizer", "sgd:0.9", {"sgd": {"momentum": SHARE}}, {"sgd": "momentum"})
        ('sgd', {'momentum': 0.9})
    """
    name, colon, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name not in known:
        raise ConfigError(f"unknown {what} {text!r}; known are {', '.join(known)}")
    settings: dict[str, Any] = {}
    where = f"{what} {text if given is None else given!r}"
    parts = rest.split(",") if colon else []
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals and len(parts) == 1 and lone and name in lone:
            key, value = lone[name], part
        elif not equals or key not in known[name]:
            takes = ", ".join(f"{k}=" for k in known[name]) or "no settings"
            raise ConfigError(f"{where}: unknown setting {part!r}; {name} takes {takes}")
        if key in settings:
            raise ConfigError(f"{where}: {key} is given twice")
        settings[key] = _number(f"{where}: {key}", value, known[name][key])
    return name, settings


def _number(where: str, text: str, expected: Number) -> Any:
    try:
        value = expected.kind(text)
    except ValueError:
        value = None
    if value is None or "_" in text or text != text.strip() or not expected.accepts(value):
        raise ConfigError(f"{where} is {text!r}, expected {expected.expected}")
    return value
