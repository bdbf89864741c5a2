"""Atomic writes of files, and a lock that is released when its process ends."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from time import sleep

try:
    import fcntl
except ImportError:  # Windows: a run folder is not locked against a second process there
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp"
TRIES, PAUSE = 10, 0.02  # attempts to lock a file, and seconds between them


def write_atomically(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write a file such that it always holds either its old or its new content, even after a loss of power.

    Parameters
    ----------
    path : Path
    content : bytes
    previous : Path, optional
        The path to which the old file is moved. There is then no file at `path` for an instant, but there is one at
        `previous`.

    Raises
    ------
    OSError

    Examples
    --------
    >>> from pathlib import Path
    >>> gvae.training.write_atomically(Path("model"), b"first")
    >>> gvae.training.write_atomically(Path("model"), b"second", previous=Path("model.old"))
    >>> Path("model").read_bytes(), Path("model.old").read_bytes()
    (b'second', b'first')
    """
    beside = path.with_name(f".{path.name}.{threading.get_native_id()}{TEMPORARY}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, previous)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process has left."""
    for path in folder.iterdir():
        if is_leftover(path):
            path.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(TEMPORARY) and path.name.split(".")[-2].isdecimal()


def _sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, where the system supports that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Lock an open file exclusively; returns whether that succeeded. The lock is released when all copies of the descriptor
    are closed, at the latest at the end of the process."""
    if fcntl is None:
        return True
    for i in range(TRIES):  # `is_locked` of another process holds it for an instant
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sleep(PAUSE if i + 1 < TRIES else 0)
        else:
            return True
    return False


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file. False where that cannot be determined."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
