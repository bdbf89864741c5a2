"""Results of some rows, kept in a file while the others are computed, so that an interrupted evaluation can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gvae.errors import RunError
from gvae.runtime.device import is_cuda, to_host
from gvae.training import write_atomically

__all__ = ["Partial", "fingerprint"]

FORMAT = "gvae-evaluation-1"
SECONDS = 5.0  # between two writes: a batch may take milliseconds

_log = logging.getLogger(__name__)


class Partial:
    """A file with the columns of the rows 0, 1, .. that each measure has finished.

    What is in the file counts only if its fingerprint is the requested one. A file of this kind that is damaged, or of
    another evaluation, is ignored with a warning of this module's logger, and so is one that cannot be written.

    Parameters
    ----------
    path : str or path-like
        The file; it need not exist.
    about : mapping
        What decides the results of a measure, in addition to its arguments; values that JSON can hold.

    Raises
    ------
    RunError
        The path is a folder, or a file of another kind.

    Examples
    --------
    >>> partial = gvae.evaluation.Partial("rows.safetensors", about={"data": "digits"})
    >>> columns = partial.begun("units", "a fingerprint")
    >>> partial.keep("units", {"kl": np.array([0.5, 0.7])}, now=True)
    >>> gvae.evaluation.Partial("rows.safetensors", about={"data": "digits"}).begun("units", "a fingerprint")
    {'kl': array([0.5, 0.7])}
    """

    def __init__(self, path: str | os.PathLike, about: Mapping[str, Any]):
        self.path, self.about = Path(path), dict(about)
        self.fingerprints: dict[str, str] = {}
        self.columns: dict[str, dict[str, np.ndarray]] = {}
        self.written = time.monotonic()
        self.writes = True
        if self.path.exists():
            self._check()
            self._read()

    def begun(self, measure: str, fingerprint: str) -> dict[str, np.ndarray]:
        """Columns of a measure that the file holds for this fingerprint; from now on the measure has this fingerprint.

        Parameters
        ----------
        measure : str
        fingerprint : str
            A hash of everything that decides the results.

        Returns
        -------
        dict of str to array
            Empty if the file has none for this fingerprint.

        Examples
        --------
        >>> gvae.evaluation.Partial("rows.safetensors", about={}).begun("units", "a fingerprint")
        {}
        """
        known = self.fingerprints.get(measure)
        if known is not None and known != fingerprint:
            _log.warning("%s holds %s of another evaluation: ignored", self.path, measure)
        if known != fingerprint:
            self.fingerprints[measure], self.columns[measure] = fingerprint, {}
        return self.columns[measure]

    def keep(self, measure: str, columns: Mapping[str, np.ndarray], *, now: bool = False) -> None:
        """Remember the columns of a measure, and write the file if the last write was some seconds ago, or `now`.

        Parameters
        ----------
        measure : str
        columns : mapping of str to array
            All rows that are finished, not only the new ones.
        now : bool, default False
            Write the file even if the last write was less than some seconds ago.

        Examples
        --------
        >>> partial = gvae.evaluation.Partial("rows.safetensors", about={})
        >>> columns = partial.begun("units", "a fingerprint")
        >>> partial.keep("units", {"kl": np.array([0.5, 0.7])}, now=True)
        >>> partial.path.exists()
        True
        """
        self.columns[measure] = dict(columns)
        if not self.writes or (not now and time.monotonic() - self.written < SECONDS):
            return
        from safetensors.numpy import save

        tensors = {f"{m}/{c}": np.ascontiguousarray(v) for m, parts in self.columns.items() for c, v in parts.items()}
        try:
            content = save(tensors, metadata={"format": FORMAT, "fingerprints": json.dumps(self.fingerprints)})
            write_atomically(self.path, content)
        except OSError as error:
            _log.warning("%s: cannot be written (%s); an interrupted evaluation would start anew", self.path, error.strerror)
            self.writes = False
        self.written = time.monotonic()

    def remove(self) -> None:
        """Remove the file, as the evaluation is complete.

        Examples
        --------
        >>> partial = gvae.evaluation.Partial("rows.safetensors", about={})
        >>> partial.keep("units", {"kl": np.array([0.5, 0.7])}, now=True)
        >>> partial.remove()
        >>> partial.path.exists()
        False
        """
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _check(self) -> None:
        """RunError unless the file is one of these, perhaps a damaged one: it is overwritten, and removed at the end."""
        try:
            with open(self.path, "rb") as file:
                head = file.read(1000)
        except OSError as error:
            raise RunError(f"evaluate: partial is {self.path}: {error.strerror}") from None
        if head and f'"{FORMAT}"'.encode() not in head:
            raise RunError(f"evaluate: partial is {self.path}, which holds something else; name a new file; it is as it was")

    def _read(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise ValueError("of another format")
                self.fingerprints = json.loads(header["fingerprints"])
                self.columns = {measure: {} for measure in self.fingerprints}
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    measure, _, column = name.partition("/")
                    self.columns[measure][column] = file.get_tensor(name)
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
            _log.warning("%s is damaged (%s): ignored", self.path, error)
            self.fingerprints, self.columns = {}, {}


def fingerprint(**parts: Any) -> str:
    """A hash of arrays (values, shape, dtype), mappings, sequences and what JSON can hold."""
    state = hashlib.sha256()

    def add(part: Any) -> None:
        if hasattr(part, "tocsr"):
            part = {name: getattr(part, name) for name in ("data", "indices", "indptr")} | {"shape": list(part.shape)}
        if isinstance(part, Mapping):
            state.update(b"{%d" % len(part))
            for name in part:
                add(name)
                add(part[name])
        elif isinstance(part, (list, tuple)):
            state.update(b"[%d" % len(part))
            for entry in part:
                add(entry)
        elif isinstance(part, np.ndarray) or is_cuda(part):
            part = to_host(part)
            state.update(f"{part.dtype.str}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).data)
        else:
            state.update(json.dumps(part, default=repr).encode() + b";")

    add(parts)
    return state.hexdigest()
