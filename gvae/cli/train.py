"""`gvae train`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import gvae
from gvae import flags
from gvae.cli import arguments
from gvae.cli.arguments import Parser
from gvae.cli.running import on_one_blas_thread, say, source_of
from gvae.cli.signals import Interruptible, Signalled
from gvae.errors import ConfigError, DataError, RunError, StoppedError

HELP = "Train a model and save it in a run folder, or resume a run."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from gvae.estimator import estimators

    arguments.add_data(parser, default="that of the resumed run")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="RUN", help="the run folder; must be new or empty")
    where.add_argument(
        "--resume",
        metavar="RUN",
        help="resume this run as if it had not been interrupted, with its own settings; --epochs and --steps may be raised",
    )
    parser.add_argument(
        "--save-every", type=arguments.positive, default=300, metavar="S", help="seconds between checkpoints within an epoch"
    )
    parser.add_argument(
        "--track",
        type=arguments.natural,
        metavar="ROW",
        help="keep the posterior of this test row at each row of the log, in RUN/track.jsonl, for gvae plot --what factors",
    )
    arguments.add_ranks(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="read data and settings from a .toml file, such as the run.toml of a run; flags take precedence",
    )
    parser.add_argument("--model", metavar="NAME", help=f"{', '.join(estimators())}: see gvae models (default: vae)")


def add_settings(parser: Parser, estimator: Any, tables: dict[str, Any]) -> None:
    """Flags of the settings of one estimator, or of all if it is None; tables: those of a configuration file."""
    from gvae.estimator import estimators

    parser.epilog = "The settings above are those of one model; for another model: gvae train --model NAME --help"
    parser.set_defaults(estimator=estimator, tables=tables)
    if estimator is not None and estimator.name != "vae":
        parser.whose = f" --model {estimator.name}"
    flags.add_settings(parser, list(estimators().values()) if estimator is None else [estimator])


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import data, report, training
    from gvae.estimator.origin import not_held_out
    from gvae.runtime import compile as compiling
    from gvae.runtime import parallel
    from gvae.settings import native

    ranks = options.ranks = parallel.world(options.hang_timeout)
    speaks = ranks.leads and not options.quiet
    run, estimator = (options.out if options.resume is None else options.resume), options.estimator
    given = {name: native(value) for name, value in vars(options).items() if name in estimator().get_params()}
    if "epochs" in given and "steps" in given:
        raise ConfigError("argument --steps: not allowed with argument --epochs")
    from_file = options.tables.get("data", {})
    begun: dict[str, Any] = dict(flags.DEFAULTS)
    notes: dict[str, Any] = {"data": from_file.get("source"), "data_dir": from_file.get("dir")}
    notes["target"], windows = from_file.get("target"), None
    if options.resume is not None:
        if options.config is not None:
            raise ConfigError("argument --config: not allowed with argument --resume, whose settings are those of the run")
        begun, notes, windows = _begun(run, estimator)
    else:
        if options.data is None and notes["data"] is None:
            raise ConfigError("name the data to train on: gvae train DATA --out RUN; see gvae train --help")
        with ranks.together():
            if ranks.leads:
                training.check_free(run)
        begun |= flags.settings_of(options.config, options.tables.get("settings", {}), estimator)
    if "steps" in given and options.resume is None:
        begun.pop("epochs", None)
    if "epochs" in given and options.resume is None:
        begun.pop("steps", None)
    model = estimator(**begun | given | {"verbose": not options.quiet})
    cold = compiling.is_cold() and ranks.leads_node
    if speaks and cold:
        print("gvae train: compiling the kernels for this machine, once; it takes about 25 seconds", file=sys.stderr)
    with compiling.asked(cold):
        source, data_dir, target = source_of(options, run, notes)
        shuffle = data.Shuffle.of(windows or model.get_params().get("shuffle", "auto"))
        in_memory = None if shuffle is None else shuffle.rows is None
        with ranks.together():
            dataset = data.load(source, data_dir=data_dir, target=target, in_memory=in_memory)
        if speaks:
            say("train", not_held_out(dataset))
        model.set_params(**(real := observed(dataset, model.get_params())))
        if real and speaks:
            print(f"{estimator.name}: observation gaussian (the values of {dataset.name} are real numbers)", flush=True)
        columns = columns_of(dataset, estimator, model.get_params())
        notes = notes_of(dataset, source, data_dir, target)
        train, test, held, weight = columns
        if held is None:  # early stopping must not look at the test rows
            held = None if model.holds_out else test
        validation = held if held is None or len(held) > 1 else held[0]
        settings = {"run": run, "resume": options.resume is not None, "save_every": options.save_every, "notes": notes}
        settings["comm"] = ranks
        if (row := options.track if options.track is not None else report.tracked_row(run)) is not None:
            settings["callback"] = report.Track(run, row, test[0])
        before = training.survey(run)[0].get("step") if options.resume is not None else None
        with Interruptible() as interrupted:
            try:
                model.fit(*train, sample_weight=weight, validation=validation, stop=interrupted, **settings)
            except StoppedError as stopped:
                number = max(ranks.gather(interrupted.number))  # a launcher need not have signalled all ranks yet
                raise parallel.agreed(Signalled(number, f"{stopped}; {_how_to_resume(run)}")) from None
            except KeyboardInterrupt:
                kept = Path(run, training.CHECKPOINT).exists()
                raise KeyboardInterrupt(f"; {_how_to_resume(run)}" if kept else "; nothing was kept") from None
    if speaks:
        of_test = "test" if dataset.held_out else "the same rows"
        _summarize(run, model, of_test if held is test else "validation", before)


def notes_of(dataset: Any, source: str, data_dir: str | None, target: str | None = None) -> dict[str, Any]:
    """What a run folder notes about its data."""
    from gvae import data
    from gvae.estimator.origin import stamp

    source = source if source in data.dataset_names() else _absolute(source)
    folder = None if data_dir is None else _absolute(data_dir)
    notes = {"data": source, "data_dir": folder, "image_shape": dataset.image_shape, "gvae": gvae.__version__}
    notes |= {} if target is None else {"target": target}
    notes |= {} if (found := stamp(source)) is None else {"file": found}
    return notes | ({} if dataset.names is None else {"names": list(dataset.names)})


def observed(dataset: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings to change because the values are real numbers, though they look like grey levels."""
    observation: Any = settings.get("observation")
    several = isinstance(observation, (list, tuple))
    given = observation if several else (observation,)
    asked = settings.get("binarize") not in (None, "none") or settings.get("dequantize") is not None
    if not dataset.real or asked or "auto" not in given:
        return {}
    found = tuple("gaussian" if family == "auto" else family for family in given)
    return {"observation": found if several else found[0]}


def columns_of(dataset: Any, estimator: Any, settings: dict[str, Any]) -> tuple[tuple, tuple, tuple | None, Any]:
    """(training columns, test columns, validation columns or None, weights of the training rows or None) that the
    estimator's model reads."""
    from gvae import data
    from gvae.estimator import data_support

    model = estimator.model.variant(settings)
    kinds, observation = model.columns, settings.get("observation", "auto")
    explained = kinds["x"] == "matrix" and "x" in model.views
    read = not hasattr(dataset.train, "tocsr") and not isinstance(dataset.train, data.Rows)
    if explained and isinstance(observation, str) and read:
        support = data_support(observation, settings.get("binarize"), dataset.train.shape[1])
        for split, rows in (("training", dataset.train), ("test", dataset.test)):
            data.check_support(rows, support, f"{dataset.name}, {split} rows")
    shape = dataset.image_shape

    def images(x: Any) -> Any:
        return x if shape is None or isinstance(x, data.Rows) else x.reshape(-1, *shape)

    weight = dataset.columns["weight"][0] if "weight" in dataset.columns else None
    held: tuple[Any, ...] | None = None
    if dataset.validation is not None:
        held = dataset.validation if isinstance(dataset.validation, tuple) else (dataset.validation,)
        held = (images(held[0]), *held[1:])
    if "y" not in kinds:
        return (images(dataset.train),), (images(dataset.test),), None if held is None else held[:1], weight
    if "y" not in dataset.columns:
        what = "labels" if kinds["y"] == "labels" else "y" if model.conditional else "second view"
        why = f"{dataset.name} has no {what}, which model {estimator.name} reads"
        raise DataError(f"{why}: give a .npz file with the array train_y")
    train, test = dataset.columns["y"]
    if kinds["y"] == "labels" and train.ndim > 1 and train.shape[1] > 1:
        what = "has a second view as y, but model"
        raise DataError(f"{dataset.name} {what} {estimator.name} reads labels: give a .npz file with the array train_y")
    return (images(dataset.train), train), (images(dataset.test), test), held, weight


def _begun(run: str, estimator: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """(settings, notes, shuffle) of a run folder, checked for their form only; `fit` compares them with the checkpoint's."""
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
    fitted = config.get("fitted")
    shuffle = fitted.get("shuffle", "full") if isinstance(fitted, dict) else None
    return {name: native(value) for name, value in settings.items()}, notes, shuffle


def _summarize(run: str, model: Any, held_out: str, before: int | None) -> None:
    """Print the result of a run. before: its step when it was resumed."""
    last = model.history_[-1] if model.history_ else None  # None: resumed after its last step, and its log is lost
    if last is None or last["step"] == before:
        print(f"{run}: nothing left to train")
    if last is None:
        return

    def bounds(row: dict[str, Any]) -> str:
        found = [(row.get("train_bound"), "train"), (row.get("validation_bound"), held_out)]
        return ", ".join(f"{bound:.2f} ({which})" for bound, which in found if bound is not None)

    shown = bounds(last)
    said = f"bound {shown} nats per row" if model.model_.has_bound else f"sum of correlations {shown}"
    seconds = sum(row.get("seconds", 0) for row in model.history_)
    print(f"{run}: {last['epoch']} epochs, {last['step']} steps, {seconds:.1f} s; {said}")
    if model.model_.has_posterior and not model.model_.has_closed_kl:
        print("KL(q(z|x) || p(z)) has no closed form for this posterior and prior: estimated by sampling")
    if model.holds_out:
        best = next((row for row in model.history_ if row["step"] == model.n_iter_), last)
        print(f"kept: the weights of epoch {best['epoch']}, the best on the validation rows: {bounds(best)}")
    for event in model.events_:
        if event["event"] == "off target":
            print(f"rate {event['rate']:.2f} misses its target of {event['target']:g}: see gvae.costs.Target")
    events = [event for event in model.events_ if event["event"] == "not finite"]
    if events:
        rows = sorted({row for event in events for row in event.get("rows", [])})
        print(f"not finite: {len(events)} times (see log.jsonl); rows {', '.join(map(str, rows[:10])) or 'unknown'}")


def _how_to_resume(run: str) -> str:
    return f"continue with: gvae train --resume {shlex.quote(run)}"


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
