"""Moved to gvae.runtime.pool; this name is removed in the next release."""

from typing import Any

from gvae._moved import moved


def __getattr__(name: str) -> Any:
    return moved("threads", "runtime.pool", name)
