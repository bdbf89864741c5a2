"""Values of settings in JSON and in configuration files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from gvae.settings.kinds import NONE, Maybe


def plain(value: Any) -> Any:
    """Convert tuples to lists, at all levels: a value as it is after a round trip through JSON.

    Parameters
    ----------
    value : object

    Returns
    -------
    object
        Lists and tuples as lists; anything else as it is.

    Examples
    --------
    >>> gvae.settings.plain(((200, 100), (50,)))
    [[200, 100], [50]]
    """
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def native(value: Any) -> Any:
    """Convert lists to tuples, at all levels: the inverse of `plain`."""
    return tuple(map(native, value)) if isinstance(value, list) else value


def spelled(f: dataclasses.Field, value: Any) -> Any:
    """A plain value as configuration files spell it: None stays, to be left out, where it is the default, else "none"."""
    return NONE if value is None and f.default is not None else value


def from_file(f: dataclasses.Field, value: Any) -> Any:
    """The inverse of `spelled`, with tuples for lists."""
    optional = isinstance(f.metadata["kind"], Maybe) and NONE not in (f.metadata["kind"].choices or ())
    return None if optional and value == NONE else native(value)


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values as TOML. TOML has no None: entries that are None are left out."""
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(name)} = {_toml(x)}' for name, x in value.items())}}}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
