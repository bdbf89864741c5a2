"""The posterior of one row of the data, kept with each row of the log: `gvae train --track ROW`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gvae.errors import ConfigError, DataError, RunError
from gvae.ops.banded import dense_to_band

__all__ = ["FILE", "Track", "read_track", "tracked_row"]

FILE = "track.jsonl"


class Track:
    """A callback of `fit`: appends the posterior's mean and Cholesky factor for one row to track.jsonl in the run folder.

    Parameters
    ----------
    run : path
        The run folder.
    row : int
        Index of the row in `X`.
    X : array (N, D), or images (N, rows, columns)

    Raises
    ------
    DataError
        There is no such row.
    ConfigError
        On a call: the posterior is not Gaussian.
    """

    def __init__(self, run: str | os.PathLike, row: int, X: Any):
        if not 0 <= row < X.shape[0]:
            raise DataError(f"--track is {row}, expected a test row from 0 to {X.shape[0] - 1}")
        self.path, self.row, self.x = Path(run) / FILE, row, X[row : row + 1]
        _drop_partial_line(self.path)

    def __call__(self, log: dict[str, Any], model: Any) -> None:
        q = model.posterior_of(self.x)
        for name, part in (q if isinstance(q, dict) else {"z": q}).items():
            if not hasattr(part, "banded"):
                raise ConfigError(f"--track needs a Gaussian posterior; {name} is {type(part).__name__}")
            chol, offsets = _precision_factor(part)
            entry = {"epoch": log["epoch"], "row": self.row, "code": name, "offsets": offsets}
            entry |= {"mean": np.asarray(part.mean)[0].tolist(), "chol": chol.tolist()}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def _precision_factor(q: Any) -> tuple[np.ndarray, list[int]]:
    """The precision's Cholesky factor (M, N) of the first row, by diagonals, and their offsets: all N if it is dense."""
    if (banded := q.banded()) is not None:
        return np.asarray(banded.chol)[0], list(banded.offsets)
    offsets = list(range(q.n))
    factor = np.linalg.cholesky(np.linalg.inv(np.asarray(q.covariance(), np.float64)[0]))
    return dense_to_band(factor, offsets=offsets), offsets


def _drop_partial_line(path: Path) -> None:
    """Cut what follows the last line break of a file: what a process wrote when it was killed."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def tracked_row(run: str | os.PathLike) -> int | None:
    """The row that a run tracks already, when it is resumed; None without a (readable) file of it."""
    try:
        row = next(iter(read_track(run).values()))["row"]
    except RunError:
        return None
    return row if isinstance(row, int) else None


def read_track(run: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """Read what `Track` kept in a run folder.

    Parameters
    ----------
    run : path

    Returns
    -------
    dict
        By code: "epoch" (E,), "mean" (E, N), "chol" (E, M, N), "offsets" (M,) and "row". For an epoch that was trained
        twice, because its first end came after the last checkpoint, the second counts.

    Raises
    ------
    RunError
        Nothing was tracked, or the file is damaged.
    """
    path = Path(run) / FILE
    nothing = f"{run}: no posterior was tracked; train with --track ROW"
    try:
        *whole, _ = path.read_text(encoding="utf-8").split("\n")  # what follows the last line break was cut short by a kill
        lines = [json.loads(line) for line in whole]
        found: dict[str, dict[int, Any]] = {}
        for line in lines:
            found.setdefault(line["code"], {})[line["epoch"]] = line
        kept: dict[str, dict[str, Any]] = {}
        for code, epochs in found.items():
            entries = [epochs[epoch] for epoch in sorted(epochs)]
            kept[code] = {name: np.array([entry[name] for entry in entries]) for name in ("epoch", "mean", "chol")}
            kept[code] |= {"offsets": tuple(entries[-1]["offsets"]), "row": entries[-1]["row"]}
    except FileNotFoundError:
        raise RunError(nothing) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged: {error}") from None
    if not kept:  # killed while the first line was written
        raise RunError(nothing)
    return kept
