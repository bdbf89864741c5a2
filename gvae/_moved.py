"""Names that have moved: the old ones still work, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

RENAMED = {("memory", "clear"): "clear_memory", ("ahead", "is_wanted"): "is_asked", ("threads", "go_on"): "check_stop"}


def moved(old: str, new: str, name: str) -> Any:
    """Return gvae.NEW.name, requested as gvae.OLD.name. Raises AttributeError."""
    current = RENAMED.get((old, name), name)
    if name.startswith("__"):
        raise AttributeError(f"module 'gvae.{old}' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gvae.{new}"), current)
    warnings.warn(f"gvae.{old}.{name} is now gvae.{new}.{current}", DeprecationWarning, stacklevel=3)
    return value


class Recording:
    """What autodiff.Recording was, without its list of nodes: `replay` runs f."""

    def __init__(self, f: Callable, *args: Any, inputs: Any = None, has_aux: bool = False, out: Any = None, **_: Any):
        self.f, self.settings = f, {"has_aux": has_aux, "out": out}
        self.first = self.replay(*args, inputs=inputs)

    def replay(self, *args: Any, inputs: Any = None) -> tuple:
        from gvae.autodiff import vjp

        f = self.f if inputs is None else lambda *given: self.f(*given, inputs)
        return vjp(f, *args, **self.settings)

    def release(self) -> None:
        """Nothing is kept."""
