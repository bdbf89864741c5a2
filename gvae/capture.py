"""Moved to gvae.runtime.launches; this name is removed in the next release."""

from typing import Any

from gvae._moved import moved


def __getattr__(name: str) -> Any:
    return moved("capture", "runtime.launches", name)
