"""The file that the processes of a study share: Optuna's journal, a line of JSON per operation.

With Optuna's own backend, a full disk leaves a part of a line behind, to which the next process appends; and the lock of a
killed process remains for half a minute. Here a line is written in full or not at all, and the lock is released when its
process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gvae.errors import RunError
from gvae.sweeps import locks

__all__ = ["Journal"]


class Journal:
    """A backend of `optuna.storages.JournalStorage`, see `optuna.storages.journal.BaseJournalBackend`.

    Parameters
    ----------
    path : Path
        A file that exists; empty for a new study.

    Raises
    ------
    RunError
        Raised by each method: the file cannot be read or written, or a line is damaged. Then nothing was changed.
    """

    def __init__(self, path: Path):
        self.path = path
        self._starts = [0]  # in bytes, of each line read so far and of the next one

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """The operations from this number on, except an incomplete last line, which a killed process has left."""
        with self._open(os.O_RDONLY, exclusive=False) as file:
            begin = self._starts[log_number_from]
            os.lseek(file, begin, os.SEEK_SET)
            content = b"".join(iter(lambda: os.read(file, 2**20), b""))
        found: list[dict[str, Any]] = []
        del self._starts[log_number_from + 1 :]
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            found.append(self._operation(line, log_number_from + len(found) + 1))
            self._starts.append(self._starts[-1] + len(line))
        return found

    def _operation(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            operation = json.loads(line)
        except (ValueError, RecursionError):
            operation = None
        if not isinstance(operation, dict) or not {"op_code", "worker_id"} <= operation.keys():
            raise RunError(
                f"{self.path}: line {number} is damaged; nothing was changed. Cut the file before this line: trials whose "
                "run folders exist are then read from these"
            )
        return operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, all or none."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._open(os.O_RDWR | os.O_APPEND, exclusive=True) as file:
            end = _end(file)
            try:
                os.ftruncate(file, end)  # the partial line that a killed process has left
                while text:
                    text = text[os.write(file, text) :]
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)
                raise

    @contextlib.contextmanager
    def _open(self, flags: int, *, exclusive: bool) -> Iterator[int]:
        try:
            file = os.open(self.path, flags)
            try:
                locks.wait(file, exclusive=exclusive)
                yield file
            finally:
                os.close(file)
        except RunError:
            raise
        except OSError as error:
            raise RunError(f"{self.path}: {error.strerror or error}; nothing is lost, give the same command again") from None


def _end(file: int) -> int:
    """Where the last complete line ends."""
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - 2**16)
        found = os.pread(file, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
