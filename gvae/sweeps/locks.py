"""Locks of files, which are released when the process that holds them ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from gvae.errors import RunError
from gvae.training import files

__all__ = ["held", "take", "wait"]


def wait(file: int, *, exclusive: bool = True) -> None:
    """Wait for the lock of an open file, exclusive or shared; it is released when the file is closed."""
    if files.fcntl is not None:
        files.fcntl.flock(file, files.fcntl.LOCK_EX if exclusive else files.fcntl.LOCK_SH)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is created if it does not exist."""
    file = _opened(path)
    try:
        wait(file)
        yield
    finally:
        os.close(file)


def take(path: Path) -> int | None:
    """Take the lock of a file: returns the open file, or None if another process holds the lock."""
    file = _opened(path)
    if files.lock(file):
        return file
    os.close(file)
    return None


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
