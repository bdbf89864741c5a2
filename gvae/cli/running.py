"""What several commands do: the data of a run, the runs to be shown, files that must be new, BLAS's threads."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gvae import blas
from gvae.errors import ConfigError, RunError


def on_one_blas_thread(command: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Large products run on gvae's own threads. OpenBLAS's threads spin-wait for each other, which next to another
    busy process makes a training step fifteen times as long."""

    @functools.wraps(command)
    def run(options: argparse.Namespace) -> None:
        with blas.threads(1):
            command(options)

    return run


def source_of(options: argparse.Namespace, run: str, notes: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """The data to load, the folder to search, and the column that is y, as given or as in training. The notes are
    unchecked."""
    from gvae.data.loaders import noted_folder

    source = options.data or notes.get("data")
    if not isinstance(source, str):
        raise ConfigError(f"{run} does not say what it was trained on: name the data")
    if options.data is None and Path(source).is_absolute() and not Path(source).exists():
        raise ConfigError(f"{run} was trained on {source}, which does not exist now: name the data on the command line")
    target = notes.get("target") if options.data is None and isinstance(notes.get("target"), str) else None
    return source, options.data_dir or noted_folder(notes), options.target or target


def exhibits_of(options: argparse.Namespace) -> list[Any]:
    """The runs to be shown, each of which exists."""
    from gvae import report

    given = {"first": options.first, "samples": options.samples}
    found = [report.Exhibit(Path(run), options.data, options.data_dir, **given) for run in options.runs]
    for exhibit in found:
        if not exhibit.path.exists():
            raise RunError(f"{exhibit.path}: no such run folder or saved model")
    return found


def say(command: str, sentences: Iterable[str]) -> None:
    """Print sentences that are no results."""
    for sentence in sentences:
        print(f"gvae {command}: {sentence}", file=sys.stderr)


def check_new(path: str | Path) -> None:
    """Raise RunError unless a new file can be written there."""
    if Path(path).exists():
        raise RunError(f"{path} exists; name a new file, nothing was written")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise RunError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise RunError(f"{path}: cannot write into the folder {folder}")


def write_new(path: str | Path, content: bytes) -> None:
    from gvae import training

    try:
        training.write_atomically(Path(path), content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
