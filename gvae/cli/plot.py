"""`gvae plot`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from gvae.cli import arguments
from gvae.cli.running import exhibits_of, on_one_blas_thread
from gvae.errors import RunError

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


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import plots, report

    plots.require()
    drawn, folders = False, []
    for exhibit in exhibits_of(options):
        folder = Path(options.out) if options.out else (exhibit.path if exhibit.path.is_dir() else Path()) / "plots"
        folder = folder / exhibit.name if options.out and len(options.runs) > 1 else folder
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
        for sentence in exhibit.missing:
            print(f"gvae plot: {exhibit.path}: {sentence}", file=sys.stderr)
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing was drawn into it
    if not drawn:
        raise RunError(f"{', '.join(options.runs)}: nothing could be drawn")
