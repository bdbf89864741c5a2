"""The command `gvae`. Bad input gets one line on stderr and exit code 2; nothing is written before all input is checked."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gvae
from gvae.errors import ConfigError, GvaeError, RunError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except GvaeError as error:
        print(f"gvae {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"gvae {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gvae",
        description="Variational latent-variable models whose Gaussians have structure.",
        epilog="Try: gvae demo",
    )
    parser.add_argument("--version", action="version", version=f"gvae {gvae.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable, text: str, **settings: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **settings
        )
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "Train three posteriors on 8x8 digits; print a table and draw pictures.")
    demo.add_argument("--out", default="gvae-demo", metavar="FOLDER", help="where the pictures go; must be new or empty")
    demo.add_argument("--epochs", type=_count, default=200, help="passes over the data per model")
    demo.add_argument("--seed", type=_seed, default=1)
    demo.add_argument("--quiet", action="store_true", help="pictures only")

    train = command("train", _train, "Train a model and keep it in a run folder.")
    _data_arguments(train, nargs=None)
    train.add_argument("--out", required=True, metavar="RUN", help="the run folder; must be new or empty")
    train.add_argument("--model", choices=["vae"], default="vae")
    group = train.add_argument_group("model")
    group.add_argument("--latent", type=int, default=16, metavar="N", help="latent variables")
    group.add_argument(
        "--posterior",
        default="chain",
        metavar="FAMILY",
        help="diagonal, chain, band:3, extended_grid:4x4, ar1, lowrank:2, full, ...",
    )
    group.add_argument("--observation", default="auto", metavar="FAMILY", help="bernoulli, gaussian, ...; auto: by the data")
    group.add_argument("--hidden", type=int, nargs="+", default=[200, 200], metavar="N", help="widths of hidden layers")
    group.add_argument("--activation", default="elu", metavar="NAME")
    group.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    group = train.add_argument_group("training")
    group.add_argument("--objective", default="elbo", metavar="NAME", help="elbo, elbo_a, elbo_b, iwae")
    group.add_argument("--samples", type=int, default=1, metavar="K", help="draws per row and step")
    group.add_argument("--warmup", type=int, default=0, metavar="E", help="epochs of KL warm-up")
    group.add_argument(
        "--binarize", choices=["dynamic", "fixed", "threshold", "none"], help="default: dynamic for grey images"
    )
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, default=20, metavar="N")
    length.add_argument("--steps", type=int, metavar="N", help="instead of epochs")
    group.add_argument("--batch-size", type=int, default=100, metavar="N")
    group.add_argument("--learning-rate", type=float, default=1e-3, metavar="RATE", help="of Adam")
    group.add_argument("--seed", type=_seed, default=0)
    train.add_argument("--quiet", action="store_true", help="no progress bar, no summary")

    evaluate = command("evaluate", _evaluate, "ELBO and importance-sampled log p(x) of a run, in nats per row.")
    evaluate.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    _data_arguments(evaluate, nargs="?")
    evaluate.add_argument("--split", choices=["test", "train"], default="test")
    evaluate.add_argument("--samples", type=int, default=100, metavar="K", help="draws per row")
    evaluate.add_argument("--seed", type=_seed, default=0)
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("--rows", metavar="FILE", help="also write the values of every row, as .csv")

    sample = command("sample", _sample, "Draw from a trained model: the observation model's means at draws of the prior.")
    sample.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    sample.add_argument("--out", default="samples.png", metavar="FILE", help=".png (a sheet of images) or .npy; must be new")
    sample.add_argument("-n", type=int, default=100, metavar="N", help="how many")
    sample.add_argument("--seed", type=_seed, default=0)

    doctor = command("doctor", _doctor, "Versions, threads, the BLAS and its kernel type, CUDA or why not.")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _data_arguments(parser: argparse.ArgumentParser, nargs: str | None) -> None:
    what = "digits, mnist, binarized_mnist, omniglot, frey_faces, or a .npy, .npz, .csv or idx file"
    parser.add_argument(
        "data", metavar="DATA", nargs=nargs, help=what + ("" if nargs is None else "; default: as in training")
    )
    parser.add_argument("--data-dir", metavar="FOLDER", help="where named data sets lie (or GVAE_DATA_DIR)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^64 - 1")
    return int(text)


def _demo(options: argparse.Namespace) -> None:
    from gvae import demo

    demo.run(options.out, epochs=options.epochs, seed=options.seed, quiet=options.quiet)


def _train(options: argparse.Namespace) -> None:
    from gvae import data, training
    from gvae.estimator import VAE

    training.check_free(options.out)
    model = VAE(
        latent=options.latent,
        posterior=options.posterior,
        observation=options.observation,
        hidden=tuple(options.hidden),
        activation=options.activation,
        objective=options.objective,
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
    source = options.data if options.data in data.dataset_names() else str(Path(options.data).resolve())
    folder = None if options.data_dir is None else str(Path(options.data_dir).resolve())
    notes = {"data": source, "data_dir": folder, "image_shape": dataset.image_shape, "gvae": gvae.__version__}
    model.fit(dataset.train, validation=dataset.test, run=options.out, notes=notes)
    if not options.quiet:
        last = model.history_[-1]
        seconds = sum(row["seconds"] for row in model.history_)
        print(
            f"{options.out}: {last['epoch']} epochs, {last['step']} steps, {seconds:.1f} s; "
            f"bound {last['train_bound']:.2f} (train), {last['validation_bound']:.2f} (test) nats per row"
        )


def _evaluate(options: argparse.Namespace) -> None:
    from gvae import data, estimator

    model = estimator.load(options.folder)
    notes = model.notes_
    source = options.data or notes.get("data")
    if source is None:
        raise ConfigError(f"{options.folder} does not say what it was trained on: name the data")
    if options.rows is not None:
        _check_new(options.rows)
    dataset = data.load(source, data_dir=options.data_dir or notes.get("data_dir"))
    rows = dataset.test if options.split == "test" else dataset.train
    result = model.evaluate(rows, samples=options.samples, seed=options.seed, progress=sys.stderr.isatty())
    summary = result.summary()
    if options.rows is not None:
        _write_rows(Path(options.rows), result)
    if options.json:
        about = {"run": str(options.folder), "data": dataset.name, "split": options.split, "seed": options.seed}
        print(json.dumps(about | {"binarize": model.binarize_} | summary, indent=2))
        return
    drawn = {"dynamic": ", binarized by one random draw", "fixed": ", binarized by one random draw"}
    print(f"{dataset.name}, {options.split}: {summary['rows']} rows{drawn.get(model.binarize_, '')}; nats per row")
    for label, name in (("ELBO", "elbo"), (f"log p(x), {options.samples} importance samples", "log_likelihood")):
        print(f"  {label:<34}{summary[name]:>12.3f}  +- {summary[name + '_standard_error']:.3f} (standard error over rows)")
    print(f"  {'KL(q(z|x) || p(z))':<34}{summary['kl']:>12.3f}")
    print(f"  {'effective sample size':<34}{summary['effective_sample_size']:>12.1f}  of {options.samples}")


def _sample(options: argparse.Namespace) -> None:
    import numpy as np

    from gvae import estimator, plots

    out = Path(options.out)
    if out.suffix not in (".png", ".npy"):
        raise ConfigError(f"{out}: expected a name that ends in .png or .npy")
    _check_new(out)
    model = estimator.load(options.folder)
    drawn = model.sample(options.n, seed=options.seed)
    if out.suffix == ".npy":
        np.save(out, drawn)
    else:
        shape = model.notes_.get("image_shape")
        if shape is None:
            raise ConfigError(f"{options.folder} was not trained on images: write a .npy file instead")
        plots.samples(out, {f"{options.n} samples": drawn}, tuple(shape))
    print(f"{out}: {options.n} samples")


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


def _check_new(path: str | Path) -> None:
    if Path(path).exists():
        raise RunError(f"{path} exists; name a new file, nothing was written")
    if not Path(path).absolute().parent.is_dir():
        raise RunError(f"{path}: there is no folder {Path(path).absolute().parent}")


def _write_rows(path: Path, result: Any) -> None:
    names = ("elbo", "log_likelihood", "kl", "effective_sample_size")
    lines = [",".join(("row", *names))]
    for i, values in enumerate(zip(*(getattr(result, name) for name in names), strict=True)):
        lines.append(",".join([str(i), *(repr(float(v)) for v in values)]))
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None
