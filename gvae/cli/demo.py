"""`gvae demo`."""

from __future__ import annotations

import argparse

from gvae.cli import arguments
from gvae.cli.running import on_one_blas_thread

HELP = "Compare posteriors on 8x8 digits and on series; print tables and draw figures."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="gvae-demo", metavar="FOLDER", help="folder of the figures; must be new or empty")
    parser.add_argument("--epochs", type=arguments.count, default=400, metavar="N", help="passes over the digits per model")
    parser.add_argument("--seed", type=arguments.seed, default=1, metavar="N", help="random seed of the digits' models")
    parser.add_argument("--quiet", action="store_true", help="no progress, no tables: figures only")


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import demo
    from gvae.runtime import compile as compiling

    with compiling.asked(compiling.is_cold()):
        demo.run(options.out, epochs=options.epochs, seed=options.seed, quiet=options.quiet)
