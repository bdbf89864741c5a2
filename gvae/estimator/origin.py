"""Where the rows that a fitted model is shown come from: whether they suit it, and what is to be said of them."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

from gvae import data
from gvae.errors import DataError
from gvae.estimator.views import data_support

__all__ = ["changed", "check_rows", "not_held_out", "remarks", "stamp"]


def stamp(source: str) -> dict[str, Any] | None:
    """What identifies a version of a file, or store of files: its size in bytes, and when it was last modified. None unless
    `source` is an absolute path that exists: for a named data set, for instance."""
    path = Path(source)
    if not path.is_absolute() or not path.exists():
        return None
    found = [file.stat() for file in (path.rglob("*") if path.is_dir() else (path,)) if file.is_file()]
    newest = max((about.st_mtime for about in found), default=0.0)
    modified = datetime.datetime.fromtimestamp(newest, datetime.UTC).isoformat(timespec="seconds")
    return {"bytes": sum(about.st_size for about in found), "modified": modified}


def changed(source: str, notes: dict[str, Any]) -> str:
    """What differs between a file now and when a run noted its stamp, or "". The notes are unchecked."""
    was, now = notes.get("file"), stamp(source) or {}
    if not isinstance(was, dict):
        return ""
    return ", ".join(
        f"{name} was {was.get(name)!r:.40}, is {value!r}" for name, value in now.items() if was.get(name) != value
    )


def not_held_out(dataset: data.Dataset) -> list[str]:
    """A sentence that the test rows are the training rows, if they are."""
    if dataset.held_out:
        return []
    rows = f"{dataset.name} has {dataset.train.shape[0]} rows, fewer than 10, so that none are held out"
    return [f"{rows}: the test rows are the training rows"]


def remarks(model: Any, run: Any, source: str, given: bool, dataset: data.Dataset, split: str = "test") -> list[str]:
    """Sentences on whether the rows of a part may be rows that the model of a run was trained on.

    given : whether the data are named by the caller, and not those that the run notes
    """
    found = []
    if not given and (changes := changed(source, model.notes_)):
        since = f"{source} has changed since {run} was trained on it ({changes})"
        found.append(f"{since}; its test rows may be rows that it was trained on")
    if model.notes_.get("data") is None:  # which `gvae train` notes
        rows = f"the {split} rows of {source}"
        found.append(f"{run} was trained from Python: {rows} may be rows that it was trained on")
    return found + (not_held_out(dataset) if split == "test" else [])


def check_rows(model: Any, dataset: data.Dataset, rows: Any, where: str) -> None:
    """DataError unless rows of a data set have the columns that the model was trained on, and values that it explains."""
    if (columns := math.prod(rows.shape[1:])) != model.n_features_in_:
        raise DataError(f"{where}: {columns} columns, but the model was trained on {model.n_features_in_}")
    known = model.notes_.get("names")
    if dataset.names is not None and isinstance(known, list) and list(dataset.names) != known:
        raise DataError(
            f"{where}: the columns are {', '.join(dataset.names[:10])}, but the model was trained on "
            f"{', '.join(map(str, known[:10]))}: expected the same names in the same order"
        )
    if not hasattr(rows, "tocsr") and not isinstance(rows, data.Rows):
        data.check_support(rows, data_support(model.observation_, model.binarize_, columns), where)
