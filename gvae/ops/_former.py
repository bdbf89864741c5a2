"""Former spellings of ops and of calls: they work for one release, with a DeprecationWarning."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable
from typing import Any

# name -> the module that has it, the name of the function there, and what to write now
OPS = {
    "marginal_variances_banded": ("banded", "variance_banded", "gvae.ops.variance_banded"),
    "place": ("arrays", "scatter_last", "gvae.ops.scatter_last"),
    "logdet_ar1": ("ar1", "_logdet_covariance_ar1", "-gvae.ops.logdet_precision_ar1: of the precision, as the other logdet"),
}


def renamed_op(module: str, name: str) -> Any:
    """The op asked for by its former name as an attribute of `module`. Raises AttributeError."""
    if name not in OPS:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    home, current, text = OPS[name]
    warnings.warn(f"gvae.ops.{name} is now {text}", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(f"gvae.ops.{home}"), current)


def keyword_only(f: Callable) -> Callable:
    """f, whose keyword-only settings were once accepted by position."""
    parameters = inspect.signature(f).parameters.values()
    settings = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    n = len(parameters) - len(settings)

    @functools.wraps(f)
    def call(*args: Any, **given: Any) -> Any:
        if n < len(args) <= n + len(settings):
            known = dict(zip(settings, args[n:], strict=False))
            text = ", ".join(f"{name}={value!r}" for name, value in known.items())
            warnings.warn(f"{f.__name__}: write {text}; settings are keyword-only", DeprecationWarning, stacklevel=2)
            return f(*args[:n], **known, **given)
        return f(*args, **given)

    return call
