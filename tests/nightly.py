"""Which rows of a long parametrization every run of the tests has, and which `pytest --nightly` adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

NIGHTLY = pytest.mark.nightly


def thinned(rows: Iterable[Any], chosen: Callable[..., bool]) -> list[Any]:
    """The rows as parameters of a test. Those for which `chosen(*row)` is false are marked nightly."""
    rows = [row if isinstance(row, tuple) else (row,) for row in rows]
    assert any(chosen(*row) for row in rows)
    return [pytest.param(*row, marks=() if chosen(*row) else NIGHTLY) for row in rows]


def crossed(*axes: Iterable[Any]) -> Callable[..., bool]:
    """A choice among all combinations of values of two or three axes, the last of which is the shortest: with three, each
    pair of values occurs, and the last axis takes turns; with two, each value occurs."""
    places = [{value: i for i, value in enumerate(axis)} for axis in axes]

    def chosen(*row: Any) -> bool:
        *others, last = (place[value] for place, value in zip(places, row, strict=True))
        return sum(others) % len(places[-1]) == last

    return chosen
