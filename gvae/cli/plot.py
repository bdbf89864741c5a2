"""`gvae plot`."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from gvae.cli import arguments
from gvae.cli.running import exhibits_of, on_one_blas_thread, say
from gvae.errors import ConfigError, RunError

HELP = "Draw a run: curves, evaluation, covariance, reconstructions, samples, codes, units and more."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from gvae import report

    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or files saved by VAE.save")
    parser.add_argument(
        "--what",
        nargs="+",
        choices=list(report.PARTS),
        metavar="PART",
        help=f"the parts to draw, of {', '.join(report.PARTS)} (default: all that the run has)",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder of the pictures, with a folder per run if there are several (default: RUN/plots)",
    )
    parser.add_argument("--format", choices=["png", "svg", "pdf"], default="png", help="format of the pictures")
    arguments.add_exhibit(parser)


def _folders(exhibits: list[Any], out: str | None) -> list[Path]:
    """The folder of the pictures of each exhibit. ConfigError if two of them have the same one."""
    if out is not None:
        folders = [Path(out) / exhibit.name if len(exhibits) > 1 else Path(out) for exhibit in exhibits]
    else:
        models = [exhibit for exhibit in exhibits if not exhibit.path.is_dir()]
        beside = [Path("plots") / exhibit.path.name if len(models) > 1 else Path("plots") for exhibit in exhibits]
        folders = [e.path / "plots" if e.path.is_dir() else folder for e, folder in zip(exhibits, beside, strict=True)]
    for exhibit, folder in zip(exhibits, folders, strict=True):
        if folders.count(folder) > 1:
            raise ConfigError(
                f"the pictures of {exhibit.path} and of another model would both be in {folder}: draw them in turn"
            )
    return folders


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import plots, report

    plots.require()
    drawn, folders = False, []
    exhibits = exhibits_of(options)
    for exhibit, folder in zip(exhibits, _folders(exhibits, options.out), strict=True):
        folders += [] if folder.exists() else [folder]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create the folder {folder}: {error.strerror or error}") from None
        for part in options.what or report.usual_parts(exhibit):
            path = folder / f"{part}.{options.format}"
            if report.draw(exhibit, part, path):
                drawn = True
                print(path)
        say("plot", (f"{exhibit.path}: {sentence}" for sentence in exhibit.missing))
        say("plot", exhibit.remarks)
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing was drawn into it
    if not drawn:
        raise RunError(f"{', '.join(options.runs)}: nothing could be drawn")
