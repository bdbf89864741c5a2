"""The command `gvae`. Bad input gets one line on stderr and exit code 2; nothing is written before all input is checked."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import logging
import math
import os
import shlex
import signal
import sys
import textwrap
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import gvae
from gvae import blas, flags
from gvae.errors import ConfigError, DataError, DependencyError, GvaeError, RunError, StoppedError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0; 2 for bad input, as for wrong usage; 130 after Ctrl-C, 143 after TERM."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        parser = _parser(*flags.chosen(arguments))
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
    try:
        with _warnings_on_stderr(options):
            options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _complain(options, f"interrupted{interrupt}", 130)
    except _Signalled as signalled:
        return _complain(options, str(signalled), 128 + signalled.number)
    except GvaeError as error:
        return _complain(options, str(error), 2)
    except BrokenPipeError:  # the reader, such as head, has closed the pipe; leave nothing for the interpreter to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _complain(options, f"{error.filename or 'file'}: {error.strerror or error}", 2)
    except MemoryError as error:
        return _complain(options, f"not enough memory: {error}", 2)
    return 0


def _complain(options: argparse.Namespace, message: str, code: int) -> int:
    print(f"gvae {options.command}: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _warnings_on_stderr(options: argparse.Namespace) -> Iterator[None]:
    """Warnings of gvae's loggers, one line each: a step without an update, an older checkpoint used."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"gvae {options.command}: %(message)s"))
    logger = logging.getLogger("gvae")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


# ---- usage ---------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    whose = ""  # the flags that --help needs for the same usage

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; see {self.prog}{self.whose} --help\n")


class _Help(argparse.HelpFormatter):
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


def _parser(estimator: Any = None, tables: dict[str, Any] | None = None) -> argparse.ArgumentParser:
    """The command line; estimator: the one whose flags `gvae train` has, None for the flags of all."""
    from gvae import evaluation, report
    from gvae.estimator import estimators
    from gvae.evaluation.registry import users

    parser = _Parser(
        prog="gvae",
        description="Variational latent-variable models whose Gaussians have structure.",
        epilog="For details: gvae COMMAND --help. A first example: gvae demo",
    )
    parser.add_argument("--version", action="version", version=f"gvae {gvae.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable, text: str) -> _Parser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=_Help, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "Compare posteriors on 8x8 digits and on series; print tables and draw figures.")
    demo.add_argument("--out", default="gvae-demo", metavar="FOLDER", help="folder of the figures; must be new or empty")
    demo.add_argument("--epochs", type=_count, default=400, metavar="N", help="passes over the digits per model")
    demo.add_argument("--seed", type=_seed, default=1, metavar="N", help="random seed of the digits' models")
    demo.add_argument("--quiet", action="store_true", help="no progress, no tables: figures only")

    train = command("train", _train, "Train a model and save it in a run folder, or resume a run.")
    _data_arguments(train, default="that of the resumed run")
    where = train.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="RUN", help="the run folder; must be new or empty")
    where.add_argument(
        "--resume",
        metavar="RUN",
        help="resume this run as if it had not been interrupted, with its own settings; --epochs and --steps may be raised",
    )
    train.add_argument(
        "--save-every", type=_positive, default=300, metavar="S", help="seconds between checkpoints within an epoch"
    )
    train.add_argument(
        "--track",
        type=_natural,
        metavar="ROW",
        help="keep the posterior of this test row after every epoch, in RUN/track.jsonl, for gvae plot --what factors",
    )
    train.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    train.add_argument(
        "--config",
        metavar="FILE",
        help="read data and settings from a .toml file, such as the run.toml of a run; flags take precedence",
    )
    train.add_argument("--model", metavar="NAME", help=f"{', '.join(estimators())}: see gvae models (default: vae)")
    train.epilog = "The settings above are those of one model; for another model: gvae train --model NAME --help"
    train.set_defaults(estimator=estimator, tables=tables or {})
    if estimator is not None and estimator.name != "vae":
        train.whose = f" --model {estimator.name}"
    flags.add_settings(train, list(estimators().values()) if estimator is None else [estimator])

    evaluate = command("evaluate", _evaluate, "ELBO and importance-sampled log p(x) of a run, in nats per row.")
    evaluate.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    _data_arguments(evaluate, default="as in training")
    evaluate.add_argument(
        "--split", choices=["test", "train", "validation"], default="test", help="part of the data; few have all three"
    )
    evaluate.add_argument("--samples", type=_count, default=100, metavar="K", help="draws per row")
    evaluate.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the draws and of the binarization")
    evaluate.add_argument("--memory", type=_positive, metavar="MB", help="limit for the arrays of one chunk of draws")
    group = evaluate.add_argument_group("further measures")
    group.add_argument(
        "--with",
        dest="measures",
        nargs="+",
        choices=[*evaluation.MEASURES, "all"],
        metavar="NAME",
        help="; ".join(f"{name}: {m.what} ({m.cost})" for name, m in evaluation.MEASURES.items()) + "; or all",
    )
    group.add_argument("--first", type=_count, default=100, metavar="N", help=f"number of rows that {users('first')} use")
    group.add_argument("--chains", type=_count, default=16, metavar="N", help=f"chains of {users('chains')}, per row")
    group.add_argument(
        "--temperatures", type=_count, default=500, metavar="N", help=f"temperatures of {users('temperatures')}"
    )
    group.add_argument("--seen", type=_positive, default=0.1, metavar="P", help="share of the counts that completion sees")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--rows", metavar="FILE", help="also write the values of every row, as .csv; must be new")

    sample = command("sample", _sample, "Draw from a trained model: the observation model's means at draws of the prior.")
    sample.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    sample.add_argument(
        "--out",
        default="samples.png",
        metavar="FILE",
        help=".png (a sheet of images), .npy, or .npz for several views; must be new",
    )
    sample.add_argument("-n", type=_count, default=100, metavar="N", help="number of samples")
    sample.add_argument("--draw", action="store_true", help="draw x itself instead of showing means")
    sample.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the draws")

    plot = command(
        "plot", _plot, "Draw a run: curves, evaluation, covariance, reconstructions, samples, codes, units and more."
    )
    plot.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or files saved by VAE.save")
    plot.add_argument(
        "--what",
        nargs="+",
        choices=list(report.PARTS),
        metavar="PART",
        help=f"the parts to draw, of {', '.join(report.PARTS)} (default: all that the run has)",
    )
    plot.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder of the pictures, with a folder per run if there are several (default: RUN/plots)",
    )
    plot.add_argument("--format", choices=["png", "svg", "pdf"], default="png", help="format of the pictures")
    _exhibit_arguments(plot)

    page = command("report", _report, "Write one HTML file with all there is to see of runs; its decoder is alive.")
    page.add_argument("runs", metavar="RUN", nargs="+", help="run folders, or files saved by VAE.save, side by side")
    page.add_argument(
        "--out", metavar="FILE", help="the .html file, which is replaced (default: RUN/report.html; of several: report.html)"
    )
    page.add_argument("--open", action="store_true", help="open the file in a browser")
    _exhibit_arguments(page)

    listed = command("models", _models, "List the models: names, estimators, input, descriptions.")
    listed.add_argument("--json", action="store_true", help="print JSON")

    runs = command("runs", _runs, "List run folders: progress, training data, last bound.")
    runs.add_argument(
        "folder", metavar="FOLDER", nargs="?", default=".", help="folder of the runs, or one run (default: current folder)"
    )
    runs.add_argument("--json", action="store_true", help="print JSON")

    warmup = command("warmup", _warmup, "Compile every kernel in both precisions into the cache, for later processes.")
    warmup.add_argument("--json", action="store_true", help="print JSON")

    completion = command("completion", _completion, "Print a completion script for a shell.")
    completion.add_argument("shell", choices=["bash", "zsh"], help='as in: eval "$(gvae completion bash)"')

    doctor = command(
        "doctor", _doctor, "Print versions, threads, the BLAS and its kernel type, and CUDA or why it is unavailable."
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _exhibit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DATA", help="show these data in place of those of training")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the named data sets (or GVAE_DATA_DIR)")
    parser.add_argument("--first", type=_count, default=1000, metavar="N", help="number of test rows to evaluate and to map")
    parser.add_argument("--samples", type=_count, default=100, metavar="K", help="draws per row of the evaluation")


def _data_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    what = "digits, mnist, noisy_mnist, binarized_mnist, omniglot, frey_faces, 20news, olivetti, nips_counts, or a .npy, "
    what += ".npz (of scipy.sparse too), .csv, .feat or idx file"
    parser.add_argument("data", metavar="DATA", nargs="?", help=f"{what} (default: {default})")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the named data sets (or GVAE_DATA_DIR)")


def _whole_number(text: str, least: int, below: float = math.inf) -> int:
    try:
        number = int(text)
    except ValueError:  # not a number, or thousands of digits
        number = least - 1
    if not least <= number < below:
        least_or_range = f"of at least {least}" if below == math.inf else f"from {least} to 2^64 - 1"
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number {least_or_range}")
    return number


def _count(text: str) -> int:
    return _whole_number(text, 1)


def _natural(text: str) -> int:
    return _whole_number(text, 0)


def _seed(text: str) -> int:
    return _whole_number(text, 0, below=2**64)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a positive number")
    return number


# ---- commands ------------------------------------------------------------------------------------


def _on_one_blas_thread(command: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Large products run on gvae's own threads. OpenBLAS's threads spin-wait for each other, which beside another busy
    process makes a training step fifteen times as long."""

    @functools.wraps(command)
    def run(options: argparse.Namespace) -> None:
        with blas.threads(1):
            command(options)

    return run


@_on_one_blas_thread
def _demo(options: argparse.Namespace) -> None:
    from gvae import demo
    from gvae.runtime import compile as compiling

    with compiling.asked(compiling.is_cold()):
        demo.run(options.out, epochs=options.epochs, seed=options.seed, quiet=options.quiet)


@_on_one_blas_thread
def _train(options: argparse.Namespace) -> None:
    from gvae import data, report, training
    from gvae.runtime import compile as compiling
    from gvae.settings import native

    run, estimator = (options.out if options.resume is None else options.resume), options.estimator
    given = {name: native(value) for name, value in vars(options).items() if name in estimator().get_params()}
    if "epochs" in given and "steps" in given:
        raise ConfigError("argument --steps: not allowed with argument --epochs")
    from_file = options.tables.get("data", {})
    begun: dict[str, Any] = dict(flags.DEFAULTS)
    notes: dict[str, Any] = {"data": from_file.get("source"), "data_dir": from_file.get("dir")}
    if options.resume is not None:
        if options.config is not None:
            raise ConfigError("argument --config: not allowed with argument --resume, whose settings are those of the run")
        begun, notes = _begun(run, estimator)
    else:
        if options.data is None and notes["data"] is None:
            raise ConfigError("name the data to train on: gvae train DATA --out RUN; see gvae train --help")
        training.check_free(run)
        begun |= flags.settings_of(options.config, options.tables.get("settings", {}), estimator)
    if "steps" in given and options.resume is None:
        begun.pop("epochs", None)
    if "epochs" in given and options.resume is None:
        begun.pop("steps", None)
    model = estimator(**begun | given | {"verbose": not options.quiet})
    cold = compiling.is_cold()
    if not options.quiet and cold:
        print("gvae train: compiling the kernels for this machine, once; it takes about 25 seconds", file=sys.stderr)
    with compiling.asked(cold):
        source, data_dir = _source(options, run, notes)
        dataset = data.load(source, data_dir=data_dir)
        model.set_params(**(real := _real(dataset, model.get_params())))
        if real and not options.quiet:
            print(f"{estimator.name}: observation gaussian (the values of {dataset.name} are real numbers)", flush=True)
        columns = _columns(dataset, estimator, model.get_params())
        source = source if source in data.dataset_names() else _absolute(source)
        folder = None if data_dir is None else _absolute(data_dir)
        notes = {"data": source, "data_dir": folder, "image_shape": dataset.image_shape, "gvae": gvae.__version__}
        notes |= {} if dataset.names is None else {"names": list(dataset.names)}
        train, test, held, weight = columns
        if held is None:  # early stopping must not look at the test rows
            held = None if model.holds_out else test
        validation = held if held is None or len(held) > 1 else held[0]
        settings = {"run": run, "resume": options.resume is not None, "save_every": options.save_every, "notes": notes}
        if (row := options.track if options.track is not None else report.tracked_row(run)) is not None:
            settings["callback"] = report.Track(run, row, test[0])
        with _Interruptible() as interrupted:
            try:
                model.fit(*train, sample_weight=weight, validation=validation, stop=interrupted, **settings)
            except StoppedError as stopped:
                raise _Signalled(interrupted.number, f"{stopped}; {_how_to_resume(run)}") from None
            except KeyboardInterrupt:
                kept = Path(run, "checkpoint.safetensors").exists()
                raise KeyboardInterrupt(f"; {_how_to_resume(run)}" if kept else "; nothing was kept") from None
    if not options.quiet:
        _summarize(run, model, "test" if held is test else "validation")


def _real(dataset: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings to change because the values are real numbers, though they look like grey levels."""
    observation: Any = settings.get("observation")
    several = isinstance(observation, (list, tuple))
    given = observation if several else (observation,)
    asked = settings.get("binarize") not in (None, "none") or settings.get("dequantize") is not None
    if not dataset.real or asked or "auto" not in given:
        return {}
    found = tuple("gaussian" if family == "auto" else family for family in given)
    return {"observation": found if several else found[0]}


def _columns(dataset: Any, estimator: Any, settings: dict[str, Any]) -> tuple[tuple, tuple, tuple | None, Any]:
    """(training columns, test columns, validation columns or None, weights of the training rows or None) that the
    estimator's model reads."""
    from gvae import data
    from gvae.estimator import data_support

    model = estimator.model.variant(settings)
    kinds, observation = model.columns, settings.get("observation", "auto")
    explained = kinds["x"] == "matrix" and "x" in model.views
    if explained and isinstance(observation, str) and not hasattr(dataset.train, "tocsr"):
        support = data_support(observation, settings.get("binarize"), dataset.train.shape[1])
        for split, rows in (("training", dataset.train), ("test", dataset.test)):
            data.check_support(rows, support, f"{dataset.name}, {split} rows")
    shape = dataset.image_shape

    def images(x: Any) -> Any:
        return x if shape is None else x.reshape(-1, *shape)

    weight = dataset.columns["weight"][0] if "weight" in dataset.columns else None
    held: tuple[Any, ...] | None = None
    if dataset.validation is not None:
        held = dataset.validation if isinstance(dataset.validation, tuple) else (dataset.validation,)
        held = (images(held[0]), *held[1:])
    if "y" not in kinds:
        return (images(dataset.train),), (images(dataset.test),), None if held is None else held[:1], weight
    if "y" not in dataset.columns:
        what = "labels" if kinds["y"] == "labels" else "y" if model.conditional else "second view"
        raise DataError(f"{dataset.name} has no {what}, which model {estimator.name} reads: a .npz file has it as train_y")
    train, test = dataset.columns["y"]
    if kinds["y"] == "labels" and train.ndim > 1 and train.shape[1] > 1:
        what = "has a second view as y, but model"
        raise DataError(f"{dataset.name} {what} {estimator.name} reads labels: a .npz file has them as train_y")
    return (images(dataset.train), train), (images(dataset.test), test), held, weight


def _begun(run: str, estimator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, notes) of a run folder, checked for their form only; `fit` compares them with the checkpoint's."""
    from gvae import training
    from gvae.settings import native

    config = training.read_config(run)
    settings, notes = config.get("settings"), config.get("notes")
    if not isinstance(settings, dict) or not isinstance(notes, dict):
        raise RunError(f"{run}: its config.json is not that of a run of gvae train")
    if config.get("model") != estimator.name:
        raise RunError(f"{run} was begun with model {config.get('model')!r:.80}, not {estimator.name!r}")
    if unknown := settings.keys() - estimator().get_params().keys():
        raise RunError(f"{run}: its config.json has the unknown setting {sorted(unknown)[0]!r}")
    return {name: native(value) for name, value in settings.items()}, notes


def _summarize(run: str, model: Any, held_out: str) -> None:
    if not model.history_:  # resumed after its last step, and its log is lost
        print(f"{run}: nothing left to train")
        return
    last = model.history_[-1]
    bounds = [(last.get("train_bound"), "train"), (last.get("validation_bound"), held_out)]
    shown = ", ".join(f"{bound:.2f} ({which})" for bound, which in bounds if bound is not None)
    said = f"bound {shown} nats per row" if model.model_.has_bound else f"sum of correlations {shown}"
    seconds = sum(row.get("seconds", 0) for row in model.history_)
    print(f"{run}: {last['epoch']} epochs, {last['step']} steps, {seconds:.1f} s; {said}")
    if model.model_.has_posterior and not model.model_.has_closed_kl:
        print("KL(q(z|x) || p(z)) has no closed form for this posterior and prior: estimated by sampling")
    if model.holds_out:
        best = next((row for row in model.history_ if row["step"] == model.n_iter_), last)
        print(f"kept: the weights of epoch {best['epoch']}, the best on the validation rows")
    for event in model.events_:
        if event["event"] == "off target":
            print(f"rate {event['rate']:.2f} misses its target of {event['target']:g}: see gvae.costs.Target")
    events = [event for event in model.events_ if event["event"] == "not finite"]
    if events:
        rows = sorted({row for event in events for row in event.get("rows", [])})
        print(f"not finite: {len(events)} times (see log.jsonl); rows {', '.join(map(str, rows[:10])) or 'unknown'}")


def _source(options: argparse.Namespace, run: str, notes: dict[str, Any]) -> tuple[str, str | None]:
    """The data to load and the folder to search, as given or as in training. The notes are unchecked."""
    source = options.data or notes.get("data")
    if not isinstance(source, str):
        raise ConfigError(f"{run} does not say what it was trained on: name the data")
    noted = notes.get("data_dir")
    return source, options.data_dir or (noted if isinstance(noted, str) else None)


def _how_to_resume(run: str) -> str:
    return f"continue with: gvae train --resume {shlex.quote(run)}"


class _Signalled(Exception):
    """Training ended early on a signal, and is saved."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number


class _Interruptible:
    """While entered, Ctrl-C and TERM are recorded instead of acting at once; a second Ctrl-C interrupts as usual.
    Calling it returns whether there was a signal; `number` is its number. Ignored signals, as under nohup, stay ignored."""

    number = 0

    def __enter__(self) -> _Interruptible:
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.number != 0

    def _note(self, number: int, _: Any) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@_on_one_blas_thread
def _evaluate(options: argparse.Namespace) -> None:
    from gvae import data, estimator, evaluation
    from gvae.evaluation.importance import COLUMNS

    if options.rows is not None:
        _check_new(options.rows)
    model = estimator.load(options.folder)
    if options.rows is not None and not model.model_.has_bound:
        raise ConfigError(f"--rows: {options.folder} holds a model without a bound, which has no values per row")
    if model.model_.caution:
        print(f"gvae evaluate: {model.model_.caution}", file=sys.stderr)
    source, data_dir = _source(options, options.folder, model.notes_)
    dataset = data.load(source, data_dir=data_dir)
    rows, y = _part(dataset, options.split)
    where = f"{dataset.name}, {options.split} rows"
    if rows.shape[1] != model.n_features_in_:
        raise DataError(f"{where}: {rows.shape[1]} columns, but the model was trained on {model.n_features_in_}")
    if not hasattr(rows, "tocsr"):
        data.check_support(rows, estimator.data_support(model.observation_, model.binarize_, rows.shape[1]), where)
    names = ("samples", "seed", "memory", "first", "chains", "temperatures", "seen")
    folder = Path(options.folder)
    partial = folder / "evaluation.partial" if folder.is_dir() else None
    settings = {name: getattr(options, name) for name in names} | {"measures": options.measures or ()}
    try:
        result = model.evaluate(rows, y, **settings, progress=sys.stderr.isatty(), partial=partial)
    except KeyboardInterrupt:
        kept = partial is not None and partial.exists()
        raise KeyboardInterrupt("; the same command continues from here" if kept else "") from None
    if options.rows is not None:
        table = zip(*(getattr(result, name).tolist() for name in COLUMNS), strict=True)
        lines = [",".join(("row", *COLUMNS)), *(",".join(map(repr, (i, *values))) for i, values in enumerate(table))]
        _write_new(options.rows, ("\n".join(lines) + "\n").encode())
    if options.json:
        about = {"run": str(options.folder), "data": dataset.name, "split": options.split, "seed": options.seed}
        print(json.dumps(about | {"binarize": model.binarize_} | _finite(result.summary()), indent=2))
        return
    drawn = ", binarized by one random draw" if model.binarize_ in ("dynamic", "fixed") else ""
    print(
        f"{dataset.name}, {options.split}: {rows.shape[0]} rows{drawn}{'; nats per row' if model.model_.has_bound else ''}"
    )
    print(evaluation.table(result))


def _part(dataset: Any, split: str) -> tuple[Any, Any]:
    """x and y, or None, of the training, test or validation rows."""
    if split == "validation":
        if dataset.validation is None:
            raise DataError(f"{dataset.name} has no validation rows: name --split test or --split train")
        return dataset.validation if isinstance(dataset.validation, tuple) else (dataset.validation, None)
    i = 1 if split == "test" else 0
    y = dataset.columns.get("y")
    return (dataset.train, dataset.test)[i], None if y is None else y[i]


def _finite(structure: Any) -> Any:
    """The structure with NaN and infinity, which JSON lacks, replaced by null."""
    if isinstance(structure, dict):
        return {name: _finite(part) for name, part in structure.items()}
    if isinstance(structure, list):
        return [_finite(part) for part in structure]
    return None if isinstance(structure, float) and not math.isfinite(structure) else structure


@_on_one_blas_thread
def _sample(options: argparse.Namespace) -> None:
    import numpy as np

    from gvae import estimator, plots, report

    out = Path(options.out)
    if out.suffix not in (".png", ".npy", ".npz"):
        raise ConfigError(f"{out}: expected a name that ends in .png, .npy or .npz")
    _check_new(out)
    model = estimator.load(options.folder)
    shape = report.image_shape_of(model)
    count = f"{options.n} sample{'s' if options.n > 1 else ''}"
    views = list(model.model_.views)
    if out.suffix == ".npy" and len(views) > 1:
        raise ConfigError(
            f"{options.folder} has the views {', '.join(views)}: write a .npz file, which keeps each by its name"
        )
    if out.suffix != ".png":
        drawn, buffer = model.sample(options.n, seed=options.seed, draw=options.draw), io.BytesIO()
        if out.suffix == ".npy":
            np.save(buffer, drawn)
        else:
            np.savez(buffer, **(drawn if isinstance(drawn, dict) else {views[0]: drawn}))
        _write_new(out, buffer.getvalue())
    elif shape is None:
        raise ConfigError(f"{options.folder} was not trained on images: write a .npy file instead")
    else:
        plots.check_sheet(options.n, shape)
        drawn = model.sample(options.n, seed=options.seed, draw=options.draw)
        plots.samples(out, {count: drawn["x"] if isinstance(drawn, dict) else drawn}, shape)
    print(f"{out}: {count}")


@_on_one_blas_thread
def _plot(options: argparse.Namespace) -> None:
    from gvae import plots, report

    plots.require()
    drawn = False
    for exhibit in _exhibits(options):
        folder = Path(options.out) if options.out else (exhibit.path if exhibit.path.is_dir() else Path()) / "plots"
        folder = folder / exhibit.name if options.out and len(options.runs) > 1 else folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create the folder {folder}: {error.strerror or error}") from None
        for part in options.what or report.usual_parts(exhibit):
            path = folder / f"{part}.{options.format}"
            if report.draw(exhibit, part, path):
                drawn = True
                print(path)
        for sentence in exhibit.missing:
            print(f"gvae plot: {exhibit.path}: {sentence}", file=sys.stderr)
    if not drawn:
        raise RunError(f"{', '.join(options.runs)}: nothing could be drawn")


def _exhibits(options: argparse.Namespace) -> list[Any]:
    from gvae import report

    given = {"first": options.first, "samples": options.samples}
    found = [report.Exhibit(Path(run), options.data, options.data_dir, **given) for run in options.runs]
    for exhibit in found:
        if not exhibit.path.exists():
            raise RunError(f"{exhibit.path}: no such run folder or saved model")
    return found


@_on_one_blas_thread
def _report(options: argparse.Namespace) -> None:
    from gvae import report

    exhibits = _exhibits(options)
    first = exhibits[0].path
    usual = first / "report.html" if len(exhibits) == 1 and first.is_dir() else Path("report.html")
    out = Path(options.out) if options.out else usual
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out is {str(out)!r}, expected a name that ends in .html")
    report.write(exhibits, out)
    print(out)
    if options.open:
        webbrowser.open(out.resolve().as_uri())


def _runs(options: argparse.Namespace) -> None:
    from gvae import training

    found = training.survey(options.folder)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    if not found:
        print(f"{options.folder}: no run folders")
        return

    def show(value: Any) -> str:
        return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else " ".join(str(value).split())

    def progress(run: dict[str, Any]) -> str:
        if run.get("steps") is not None:
            return f"step {show(run.get('step'))}/{show(run['steps'])}"
        return f"{show(run.get('epoch'))}/{show(run.get('epochs'))}"

    columns = ("state", "bound", "data", "model", "posterior", "objective")
    table: list[tuple[str, ...]] = [("run", "epoch", *columns)]
    table += [(Path(r["run"]).name or r["run"], progress(r), *(show(r.get(name)) for name in columns)) for r in found]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _models(options: argparse.Namespace) -> None:
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


def _completion(options: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as error:
        raise DependencyError("completion needs shtab: pip install 'gvae[completion]'") from error
    print(shtab.complete(_parser(), shell=options.shell))


def _warmup(options: argparse.Namespace) -> None:
    from gvae.runtime.compile import compile_kernels

    report = compile_kernels(progress=True)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(
        f"{report['kernels']} kernels in both precisions: {report['new']} versions compiled now, "
        f"{report['compiled versions']} in {report['cache']} ({report['seconds']:.1f} s)"
    )


def _doctor(options: argparse.Namespace) -> None:
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


# ---- files ---------------------------------------------------------------------------------------


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _check_new(path: str | Path) -> None:
    if Path(path).exists():
        raise RunError(f"{path} exists; name a new file, nothing was written")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise RunError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise RunError(f"{path}: cannot write into the folder {folder}")


def _write_new(path: str | Path, content: bytes) -> None:
    from gvae import training

    try:
        training.write_atomically(Path(path), content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
