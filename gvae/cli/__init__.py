"""The command `gvae`. Bad input gets one line on stderr and exit code 2; nothing is written before all input is checked.

A command is a file with `HELP`, `add_arguments(parser)` and `run(options)`, named in COMMANDS.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import gvae
from gvae import flags
from gvae.cli import completion, data, demo, doctor, evaluate, models, plot, report, runs, sample, sweep, train, warmup
from gvae.cli.arguments import Help, Parser
from gvae.cli.signals import Signalled
from gvae.errors import GvaeError
from gvae.runtime.parallel import is_agreed, launched

__all__ = ["main"]

COMMANDS = (  # as --help lists them
    demo,
    train,
    sweep,
    evaluate,
    sample,
    plot,
    report,
    models,
    runs,
    data,
    warmup,
    completion,
    doctor,
)
SHARED = ("train", "evaluate", "sweep")  # among several ranks; sweep shares its trials in the study's folder
PASSED_ON = 0.2  # seconds, until a launcher, which may end all ranks with the first one, has printed a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0; 1 if the reader of its output has closed the pipe; 2 for bad input, as for
    wrong usage; 130 after Ctrl-C, 143 after TERM."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if any("\0" in word for word in arguments):  # no shell can pass it, but a caller of this function can
        print("gvae: an argument contains the character NUL", file=sys.stderr)
        return 2
    try:
        parser = build_parser(*flags.chosen(arguments))
    except (GvaeError, OSError) as error:
        return _complain(argparse.Namespace(command="train"), str(error), 2)
    if not arguments:
        parser.print_help()
        return 0
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        whose = f" --model {options.estimator.name}" if options.command == "train" else ""
        said = f"unrecognized arguments: {' '.join(unknown)}; see gvae {options.command}{whose} --help"
        return _complain(options, said, 2)
    size, rank = launched()
    if size > 1 and options.command not in SHARED:
        if rank > 0:  # without an exit code: a launcher that sees one ends rank 0, maybe before it has said why
            return 0
        why = f"only {', '.join(SHARED[:-1])} and {SHARED[-1]} share their work"
        return _complain(options, f"{size} ranks were started, but {why}; start it without mpirun", 2)
    try:
        with _warnings_on_stderr(options):
            options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _complain(options, f"interrupted{interrupt}", 130, interrupt)
    except Signalled as signalled:
        return _complain(options, str(signalled), 128 + signalled.number, signalled)
    except GvaeError as error:
        return _complain(options, str(error), 2, error)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe; leave nothing for the interpreter to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(options, f"{error.filename or 'file'}: {error.strerror or error}", 2, error)
    except MemoryError as error:
        return _complain(options, f"not enough memory: {error}", 2, error)
    except BaseException:  # a defect: the other ranks must not wait for this one
        if (ranks := getattr(options, "ranks", None)) is not None and ranks.size > 1:
            traceback.print_exc()
            ranks.abort(1)
        raise
    return 0


def build_parser(estimator: Any = None, tables: dict[str, Any] | None = None) -> Parser:
    """The command line; estimator: the one whose flags `gvae train` has, None for the flags of all."""
    parser = Parser(
        prog="gvae",
        description="Variational latent-variable models whose Gaussians have structure.",
        epilog="For details: gvae COMMAND --help. A first example: gvae demo",
    )
    parser.add_argument("--version", action="version", version=f"gvae {gvae.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        name, text = command.__name__.rpartition(".")[2], command.HELP
        sub = commands.add_parser(name, help=text, description=text, formatter_class=Help, allow_abbrev=False)
        sub.set_defaults(run=command.run)
        command.add_arguments(sub)
    train.add_settings(commands.choices["train"], estimator, tables or {})
    return parser


def _complain(options: argparse.Namespace, message: str, code: int, error: BaseException | None = None) -> int:
    """Report in one line what has ended the command. With several ranks, rank 0 reports an error that all of them have; an
    error that a single rank has ends the others."""
    ranks = getattr(options, "ranks", None)
    ranks = None if ranks is None or ranks.size == 1 else ranks
    if ranks is not None and not ranks.leads:
        time.sleep(PASSED_ON * min(ranks.rank, 20))  # rank 0 speaks first where all of them have the error
        message = f"rank {ranks.rank}: {message}"
    if ranks is None or ranks.leads or not is_agreed(error):
        print(f"gvae {options.command}: {' '.join(message.split())}", file=sys.stderr, flush=True)
    if ranks is not None and not is_agreed(error):
        time.sleep(PASSED_ON)
        ranks.abort(code)
    return code


@contextlib.contextmanager
def _warnings_on_stderr(options: argparse.Namespace) -> Iterator[None]:
    """Warnings of gvae's loggers, one line each: a step without an update, an older checkpoint used. Not that rows lack the
    names of columns: a command compares those of the data itself."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"gvae {options.command}: %(message)s"))
    logger = logging.getLogger("gvae")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            yield
    finally:
        logger.removeHandler(handler)
