"""The parsers of all commands, the types of their numbers, and arguments that several of them have."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    whose = ""  # the flags that --help needs for the same usage
    words: Sequence[str] = ()  # what is parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = [] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        flags = [word.partition("=")[0] for word in self.words if word.startswith("--")]
        unknown = [f for f in flags if not any(option.startswith(f) for option in self._option_string_actions)]
        if unknown and "required" in message:  # a flag that is mistyped is missing, too
            message = f"unrecognized arguments: {' '.join(unknown)}"
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog}{self.whose} --help\n")


class Help(argparse.HelpFormatter):
    """Adds the default, if it is informative, and breaks lines at blanks only."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        silent = default is None or default is False or default is argparse.SUPPRESS
        if silent or action.required or not action.option_strings:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


def add_data(parser: argparse.ArgumentParser, default: str) -> None:
    what = "digits, mnist, noisy_mnist, binarized_mnist, omniglot, frey_faces, 20news, olivetti, nips_counts, or a .npy, "
    what += ".npz (of scipy.sparse too), .zarr, .h5, .parquet, .csv, .feat or idx file"
    parser.add_argument("data", metavar="DATA", nargs="?", help=f"{what} (default: {default})")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the named data sets (default: GVAE_DATA_DIR)")
    parser.add_argument("--target", metavar="COLUMN", help="the column of a Parquet file that is y")


def add_exhibit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DATA", help="show these data in place of those of training")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the named data sets (default: GVAE_DATA_DIR)")
    parser.add_argument("--first", type=count, default=1000, metavar="N", help="number of test rows to evaluate and to map")
    parser.add_argument("--samples", type=count, default=100, metavar="K", help="draws per row of the evaluation")


def add_ranks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hang-timeout",
        type=positive,
        metavar="S",
        help="with several ranks of MPI: end all of them when one has waited S seconds for the others",
    )


def _whole_number(text: str, least: int, below: float = math.inf) -> int:
    try:
        number = int(text)
    except ValueError:  # not a number, or thousands of digits
        number = least - 1
    if not least <= number < below:
        least_or_range = f"of at least {least}" if below == math.inf else f"from {least} to 2^64 - 1"
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number {least_or_range}")
    return number


def count(text: str) -> int:
    return _whole_number(text, 1)


def natural(text: str) -> int:
    return _whole_number(text, 0)


def seed(text: str) -> int:
    return _whole_number(text, 0, below=2**64)


def positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive number")
    return number
