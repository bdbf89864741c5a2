"""`gvae doctor`."""

from __future__ import annotations

import argparse
import json

HELP = "Print versions, threads, the BLAS and its kernel type, and CUDA or why it is unavailable."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    from gvae import doctor

    report = doctor.examine()
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for part, content in report.items():
        if isinstance(content, dict):
            print(part)
            for name, value in content.items():
                shown = ", ".join(f"{k}={v}" for k, v in value.items()) or "-" if isinstance(value, dict) else value
                print(f"  {name:<24}{shown}")
        else:
            print(f"{part:<26}{content}")
