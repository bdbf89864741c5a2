"""`gvae models`."""

from __future__ import annotations

import argparse
import json

HELP = "List the models: names, estimators, input, descriptions."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    from gvae.estimator import estimators

    found = [
        {
            "model": name,
            "estimator": f"gvae.{cls.__name__}",
            "reads": ", ".join(f"{column}: {kind}" for column, kind in cls.model.columns.items()),
            "what": " ".join((cls.__doc__ or "").split("\n\n")[0].split()).split(". ")[0].rstrip("."),
        }
        for name, cls in estimators().items()
    ]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    table = [tuple(found[0]), *(tuple(row.values()) for row in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)][:-1]
    for *cells, what in table:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), what]))
