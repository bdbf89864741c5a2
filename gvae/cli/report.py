"""`gvae report`."""

from __future__ import annotations

import argparse
import webbrowser
from collections.abc import Callable
from pathlib import Path

from gvae.cli import arguments
from gvae.cli.running import exhibits_of, on_one_blas_thread, say
from gvae.errors import ConfigError

HELP = "Write one HTML report of runs, with an interactive decoder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = "run folders, or files saved by VAE.save, side by side; or the folder of a study"
    parser.add_argument("runs", metavar="RUN", nargs="+", help=which)
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the .html file, which is replaced (default: RUN/report.html; for several: report.html)",
    )
    parser.add_argument("--open", action="store_true", help="open the file in a browser")
    arguments.add_exhibit(parser)


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import report, sweeps

    studies = [path for path in options.runs if sweeps.is_study(path)]
    if studies and len(options.runs) > 1:
        raise ConfigError(f"{studies[0]} is a study, and its report cannot include other runs: give the study alone")
    if studies:
        study = sweeps.Study(studies[0])
        _write(options, study.path / "report.html", lambda out: report.write_panels(*sweeps.exhibit(study), out))
        return
    exhibits = exhibits_of(options)
    first = exhibits[0].path
    usual = first / "report.html" if len(exhibits) == 1 and first.is_dir() else Path("report.html")
    _write(options, usual, lambda out: report.write(exhibits, out))
    say("report", (sentence for exhibit in exhibits for sentence in exhibit.remarks))


def _write(options: argparse.Namespace, usual: Path, write: Callable[[Path], None]) -> None:
    out = Path(options.out) if options.out else usual
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out is {str(out)!r}, expected a name that ends in .html")
    write(out)
    print(out)
    if options.open:
        webbrowser.open(out.resolve().as_uri())
