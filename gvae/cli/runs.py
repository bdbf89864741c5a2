"""`gvae runs`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HELP = "List run folders, or the trials of a study: progress, settings, last bound."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default=".", help="folder of the runs, or one run (default: current folder)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    from gvae import sweeps, training

    if sweeps.is_study(options.folder):
        _study(sweeps.Study(options.folder), options.json)
        return
    found = training.survey(options.folder)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        studies = [str(path) for path in sorted(Path(options.folder).iterdir()) if sweeps.is_study(path)]
        but = f", but studies: {', '.join(studies)}; gvae runs STUDY lists the trials of one" if studies else ""
        print(f"{options.folder}: no run folders{but}")
        return

    def show(value: Any) -> str:
        return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else " ".join(str(value).split())

    def progress(run: dict[str, Any]) -> str:
        if run.get("steps") is not None:
            return f"step {show(run.get('step'))}/{show(run['steps'])}"
        return f"{show(run.get('epoch'))}/{show(run.get('epochs'))}"

    columns = ("state", "bound", "data", "model", "posterior", "objective")
    table: list[tuple[str, ...]] = [("run", "epoch", *columns)]
    table += [(Path(r["run"]).name or r["run"], progress(r), *(show(r.get(name)) for name in columns)) for r in found]
    _print(table)


def _study(study: Any, as_json: bool) -> None:
    from gvae import sweeps

    if as_json:
        print(json.dumps(study.trials(), indent=2))
        return
    print(f"{study.path}: {sweeps.counted(study)}")
    _print(sweeps.listed(study))


def _print(table: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
