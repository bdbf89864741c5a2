"""`gvae warmup`."""

from __future__ import annotations

import argparse
import json

HELP = "Compile every kernel in both precisions into the cache, for later processes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    from gvae.runtime.compile import compile_kernels

    report = compile_kernels(progress=True)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(
        f"{report['kernels']} kernels in both precisions: {report['new']} versions compiled now, "
        f"{report['compiled versions']} in {report['cache']} ({report['seconds']:.1f} s)"
    )
