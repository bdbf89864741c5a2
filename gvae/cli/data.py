"""`gvae data`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gvae.cli import arguments
from gvae.data.rows import columns_of_file
from gvae.errors import ConfigError

HELP = "Convert rows to a Zarr store, which training reads fast: gvae data pack rows.npy --out rows.zarr."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["pack"], metavar="pack", help="write a Zarr store: in chunks, with checksums")
    parser.add_argument("source", metavar="FILE", help="a .npy, .zarr, .h5 or .parquet file")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the store, which ends in .zarr; must be new")
    parser.add_argument("--target", metavar="COLUMN", help="the column of a Parquet file that is y")
    parser.add_argument("--chunk", type=arguments.count, metavar="ROWS", help="rows of a chunk (default: about 2 MiB)")
    parser.add_argument("--keep-order", action="store_true", help="do not shuffle the rows")
    parser.add_argument("--seed", type=arguments.seed, default=0, metavar="N", help="seed of the shuffle")
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def run(options: argparse.Namespace) -> None:
    from gvae import data, random

    if Path(options.out).suffix.lower() != ".zarr":
        raise ConfigError(f"--out is {options.out!r}, expected a name that ends in .zarr")
    found = columns_of_file(options.source, options.target)
    key = None if options.keep_order else random.key(options.seed)
    shapes = data.pack(found, options.out, key=key, chunk=options.chunk)
    if not options.quiet:
        for name, shape in shapes.items():
            print(f"{options.out}: {name}, {shape[0]} rows{' of ' + ' x '.join(map(str, shape[1:])) if shape[1:] else ''}")
