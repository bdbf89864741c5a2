"""`gvae completion`."""

from __future__ import annotations

import argparse

from gvae.errors import DependencyError

HELP = "Print a completion script for a shell."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"], help='as in: eval "$(gvae completion bash)"')


def run(options: argparse.Namespace) -> None:
    from gvae.cli import build_parser

    try:
        import shtab
    except ImportError as error:
        raise DependencyError("completion needs shtab: pip install 'gvae[completion]'") from error
    print(shtab.complete(build_parser(), shell=options.shell))
