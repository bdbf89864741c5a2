"""Moved to gvae.runtime.compile; this name is removed in the next release."""

from typing import Any

from gvae._moved import moved


def __getattr__(name: str) -> Any:
    return moved("ahead", "runtime.compile", name)
