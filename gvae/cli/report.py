"""`gvae report`."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from gvae.cli import arguments
from gvae.cli.running import exhibits_of, on_one_blas_thread
from gvae.errors import ConfigError

HELP = "Write one HTML file with all there is to see of runs; its decoder is alive."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or files saved by VAE.save, side by side")
    parser.add_argument(
        "--out", metavar="FILE", help="the .html file, which is replaced (default: RUN/report.html; of several: report.html)"
    )
    parser.add_argument("--open", action="store_true", help="open the file in a browser")
    arguments.add_exhibit(parser)


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import report

    exhibits = exhibits_of(options)
    first = exhibits[0].path
    usual = first / "report.html" if len(exhibits) == 1 and first.is_dir() else Path("report.html")
    out = Path(options.out) if options.out else usual
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out is {str(out)!r}, expected a name that ends in .html")
    report.write(exhibits, out)
    print(out)
    if options.open:
        webbrowser.open(out.resolve().as_uri())
