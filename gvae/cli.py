"""The command `gvae`. Bad input gets one line on stderr and exit code 2; nothing is written before all input is checked."""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import gvae
from gvae import blas
from gvae.errors import ConfigError, DataError, GvaeError, RunError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, or 2 for bad input, or 130 after Ctrl-C; wrong usage exits with 2."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _complain(options, f"interrupted{interrupt}", 130)
    except GvaeError as error:
        return _complain(options, str(error), 2)
    except BrokenPipeError:  # the reader, head say, has seen enough; leave nothing for the interpreter to flush
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


# ---- usage ---------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Help(argparse.HelpFormatter):
    """Adds the default where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        silent = default is None or default is False or default is argparse.SUPPRESS
        if silent or action.required or not action.option_strings:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


def _parser() -> argparse.ArgumentParser:
    from gvae import evaluation

    parser = _Parser(
        prog="gvae",
        description="Variational latent-variable models whose Gaussians have structure.",
        epilog="gvae COMMAND --help says more. A first try: gvae demo",
    )
    parser.add_argument("--version", action="version", version=f"gvae {gvae.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=_Help, allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "Train three posteriors on 8x8 digits; print a table and draw pictures.")
    demo.add_argument("--out", default="gvae-demo", metavar="FOLDER", help="where the pictures go; must be new or empty")
    demo.add_argument("--epochs", type=_count, default=400, metavar="N", help="passes over the data per model")
    demo.add_argument("--seed", type=_seed, default=1, metavar="N", help="everything random follows from it")
    demo.add_argument("--quiet", action="store_true", help="no progress, no table: pictures only")

    train = command("train", _train, "Train a model and keep it in a run folder.")
    _data_arguments(train, nargs=None)
    train.add_argument("--out", required=True, metavar="RUN", help="the run folder; must be new or empty")
    train.add_argument("--model", choices=["vae"], default="vae", help="kind of model: vae")
    train.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    group = train.add_argument_group("model")
    group.add_argument("--latent", type=_count, default=16, metavar="N", help="latent variables")
    group.add_argument(
        "--posterior",
        default="chain",
        metavar="FAMILY",
        help="of q(z|x): diagonal, chain, band:3, grid:4x4, extended_grid:4x4, ar1, lowrank:2, full, ...",
    )
    group.add_argument(
        "--observation", default="auto", metavar="FAMILY", help="of p(x|z): bernoulli, gaussian, ...; auto looks at the data"
    )
    group.add_argument(
        "--hidden", type=_count, nargs="+", default=[200, 200], metavar="N", help="widths of the encoder's hidden layers"
    )
    group.add_argument(
        "--activation", default="elu", metavar="NAME", help="elu, tanh, relu, leaky_relu, softplus, sigmoid, identity"
    )
    group.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="precision of all arithmetic")
    group = train.add_argument_group("training")
    group.add_argument(
        "--objective",
        default="elbo",
        metavar="NAME",
        help="elbo, elbo_a, elbo_b, iwae, vr_iwae:0.5, renyi:-1, ciwae:0.05, miwae:8, piwae:8",
    )
    group.add_argument(
        "--gradient",
        default="reparameterized",
        metavar="NAME",
        help="estimator of the encoder's gradient: reparameterized, stl, dreg, vimco, rws, rws_dreg",
    )
    group.add_argument("--samples", type=_count, default=1, metavar="K", help="draws per row and step")
    group.add_argument("--warmup", type=_natural, default=0, metavar="E", help="epochs of KL warm-up")
    group.add_argument(
        "--binarize",
        choices=["dynamic", "fixed", "threshold", "none"],
        help="how grey levels become black and white (default: dynamic for grey levels under bernoulli)",
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_count, default=20, metavar="N", help="passes over the data")
    length.add_argument("--steps", type=_count, metavar="N", help="steps of one batch each, instead of epochs")
    group.add_argument("--batch-size", type=_count, default=100, metavar="N", help="rows per step")
    group.add_argument("--learning-rate", type=_positive, default=1e-3, metavar="RATE", help="of Adam")
    group.add_argument("--seed", type=_seed, default=0, metavar="N", help="everything random follows from it")

    evaluate = command("evaluate", _evaluate, "ELBO and importance-sampled log p(x) of a run, in nats per row.")
    evaluate.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    _data_arguments(evaluate, nargs="?")
    evaluate.add_argument("--split", choices=["test", "train"], default="test", help="which part of the data")
    evaluate.add_argument("--samples", type=_count, default=100, metavar="K", help="draws per row")
    evaluate.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the draws and of the binarization")
    evaluate.add_argument("--memory", type=_positive, metavar="MB", help="for the arrays of one chunk of draws, at most")
    group = evaluate.add_argument_group("further measures")
    group.add_argument(
        "--with",
        dest="measures",
        nargs="+",
        choices=[*evaluation.MEASURES, "all"],
        metavar="NAME",
        help="; ".join(f"{name}: {m.what} ({m.cost})" for name, m in evaluation.MEASURES.items()) + "; or all",
    )
    group.add_argument(
        "--first", type=_count, default=100, metavar="N", help="how many rows gaps, ais, bdmc and curve look at"
    )
    group.add_argument("--chains", type=_count, default=16, metavar="N", help="of ais, bdmc and curve, per row")
    group.add_argument("--temperatures", type=_count, default=500, metavar="N", help="of ais, bdmc and curve")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--rows", metavar="FILE", help="also write the values of every row, as .csv; must be new")

    sample = command("sample", _sample, "Draw from a trained model: the observation model's means at draws of the prior.")
    sample.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    sample.add_argument("--out", default="samples.png", metavar="FILE", help=".png (a sheet of images) or .npy; must be new")
    sample.add_argument("-n", type=_count, default=100, metavar="N", help="how many")
    sample.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the draws")

    warmup = command("warmup", _warmup, "Compile every kernel in both precisions into the cache, for all later processes.")
    warmup.add_argument("--json", action="store_true", help="print JSON")

    doctor = command("doctor", _doctor, "Versions, threads, the BLAS and its kernel type, CUDA or why not.")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _data_arguments(parser: argparse.ArgumentParser, nargs: str | None) -> None:
    what = "digits, mnist, binarized_mnist, omniglot, frey_faces, or a .npy, .npz, .csv or idx file"
    parser.add_argument(
        "data", metavar="DATA", nargs=nargs, help=what + ("" if nargs is None else " (default: as in training)")
    )
    parser.add_argument("--data-dir", metavar="FOLDER", help="where named data sets lie (or GVAE_DATA_DIR)")


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
    """Large products are shared by gvae's own threads. OpenBLAS's wait for each other spinning, which beside another busy
    process makes a training step fifteen times as long."""

    @functools.wraps(command)
    def run(options: argparse.Namespace) -> None:
        with blas.threads(1):
            command(options)

    return run


@_on_one_blas_thread
def _demo(options: argparse.Namespace) -> None:
    from gvae import demo

    demo.run(options.out, epochs=options.epochs, seed=options.seed, quiet=options.quiet)


@_on_one_blas_thread
def _train(options: argparse.Namespace) -> None:
    from gvae import data, training, warmup
    from gvae.estimator import VAE

    training.check_free(options.out)
    if not options.quiet and warmup.is_cold():
        print("gvae train: compiling the kernels for this machine, once; it takes about 15 seconds", file=sys.stderr)
    model = VAE(
        latent=options.latent,
        posterior=options.posterior,
        observation=options.observation,
        hidden=tuple(options.hidden),
        activation=options.activation,
        objective=options.objective,
        gradient=options.gradient,
        samples=options.samples,
        warmup=options.warmup,
        binarize=options.binarize,
        epochs=options.epochs,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        dtype=options.dtype,
        random_state=options.seed,
        verbose=not options.quiet,
    )
    dataset = data.load(options.data, data_dir=options.data_dir)
    if options.observation == "bernoulli" or options.binarize not in (None, "none"):
        for split, rows in (("training", dataset.train), ("test", dataset.test)):
            data.check_unit_interval(rows, f"{dataset.name}, {split} rows")
    source = options.data if options.data in data.dataset_names() else _absolute(options.data)
    folder = None if options.data_dir is None else _absolute(options.data_dir)
    notes = {"data": source, "data_dir": folder, "image_shape": dataset.image_shape, "gvae": gvae.__version__}
    try:
        model.fit(dataset.train, validation=dataset.test, run=options.out, notes=notes)
    except KeyboardInterrupt:
        kept = Path(options.out, "checkpoint.safetensors").exists()
        raise KeyboardInterrupt(
            f"; {options.out} holds what was trained up to the last whole epoch" if kept else "; nothing was kept"
        ) from None
    if not options.quiet:
        last = model.history_[-1]
        seconds = sum(row["seconds"] for row in model.history_)
        print(
            f"{options.out}: {last['epoch']} epochs, {last['step']} steps, {seconds:.1f} s; "
            f"bound {last['train_bound']:.2f} (train), {last['validation_bound']:.2f} (test) nats per row"
        )


@_on_one_blas_thread
def _evaluate(options: argparse.Namespace) -> None:
    from gvae import data, estimator, evaluation
    from gvae.evaluation.importance import COLUMNS

    if options.rows is not None:
        _check_new(options.rows)
    model = estimator.load(options.folder)
    source = options.data or model.notes_.get("data")
    if not isinstance(source, str):
        raise ConfigError(f"{options.folder} does not say what it was trained on: name the data")
    dataset = data.load(source, data_dir=options.data_dir or model.notes_.get("data_dir"))
    rows = dataset.test if options.split == "test" else dataset.train
    where = f"{dataset.name}, {options.split} rows"
    if rows.shape[1] != model.n_features_in_:
        raise DataError(f"{where}: {rows.shape[1]} columns, but the model was trained on {model.n_features_in_}")
    if model.observation_ == "bernoulli":
        data.check_unit_interval(rows, where)
    names = ("samples", "seed", "memory", "first", "chains", "temperatures")
    folder = Path(options.folder)
    partial = folder / "evaluation.partial" if folder.is_dir() else None
    settings = {name: getattr(options, name) for name in names} | {"measures": options.measures or ()}
    try:
        result = model.evaluate(rows, **settings, progress=sys.stderr.isatty(), partial=partial)
    except KeyboardInterrupt:
        kept = partial is not None and partial.exists()
        raise KeyboardInterrupt("; the same command goes on from here" if kept else "") from None
    if options.rows is not None:
        table = zip(*(getattr(result, name).tolist() for name in COLUMNS), strict=True)
        lines = [",".join(("row", *COLUMNS)), *(",".join(map(repr, (i, *values))) for i, values in enumerate(table))]
        _write_new(options.rows, ("\n".join(lines) + "\n").encode())
    if options.json:
        about = {"run": str(options.folder), "data": dataset.name, "split": options.split, "seed": options.seed}
        print(json.dumps(about | {"binarize": model.binarize_} | _finite(result.summary()), indent=2))
        return
    drawn = ", binarized by one random draw" if model.binarize_ in ("dynamic", "fixed") else ""
    print(f"{dataset.name}, {options.split}: {len(rows)} rows{drawn}; nats per row")
    print(evaluation.table(result))


def _finite(structure: Any) -> Any:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(structure, dict):
        return {name: _finite(part) for name, part in structure.items()}
    if isinstance(structure, list):
        return [_finite(part) for part in structure]
    return None if isinstance(structure, float) and not math.isfinite(structure) else structure


@_on_one_blas_thread
def _sample(options: argparse.Namespace) -> None:
    import numpy as np

    from gvae import estimator, plots

    out = Path(options.out)
    if out.suffix not in (".png", ".npy"):
        raise ConfigError(f"{out}: expected a name that ends in .png or .npy")
    _check_new(out)
    model = estimator.load(options.folder)
    shape = _image_shape(model)
    count = f"{options.n} sample{'s' if options.n > 1 else ''}"
    if out.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, model.sample(options.n, seed=options.seed))
        _write_new(out, buffer.getvalue())
    elif shape is None:
        raise ConfigError(f"{options.folder} was not trained on images: write a .npy file instead")
    else:
        plots.check_sheet(options.n, shape)
        plots.samples(out, {count: model.sample(options.n, seed=options.seed)}, shape)
    print(f"{out}: {count}")


def _image_shape(model: Any) -> tuple[int, int] | None:
    """Of what the model was trained on, if that were images. The notes are the user's own, and may hold anything."""
    match model.notes_.get("image_shape"):
        case [int(rows), int(columns)] if rows > 0 and rows * columns == model.n_features_in_:
            return rows, columns
    return None


def _warmup(options: argparse.Namespace) -> None:
    from gvae import warmup

    report = warmup.compile_kernels(progress=True)
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
