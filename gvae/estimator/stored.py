"""Estimators in files and run folders: what is written, and what is read back, whichever version wrote it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import random, training
from gvae.checks import check_paths
from gvae.earlier import same_family
from gvae.errors import ConfigError, DataError, RunError
from gvae.nn import Parameters
from gvae.settings import native

if TYPE_CHECKING:
    from gvae.estimator.base import Estimator
    from gvae.protocol import Model

__all__ = ["asked_of", "begun", "class_of", "columns_of", "continued", "initial", "load", "not_fitted", "rounded", "save"]

PARTS = ("settings", "fitted", "notes")


def begun(run: str | os.PathLike, name: str) -> dict[str, Any]:
    """The configuration of a run that an estimator of this name is to continue. Raises RunError for another one's."""
    config = training.read_config(run)
    for part in PARTS:
        if not isinstance(config.get(part), dict):
            raise RunError(f"{run} is damaged: its configuration has {part} {config.get(part)!r:.80}, expected an object")
    if config.get("model") != name:
        raise RunError(f"{run} was begun with model {config.get('model')!r:.80}, not {name!r}")
    return config


def class_of(config: Mapping[str, Any], path: str | os.PathLike) -> type[Estimator]:
    """The estimator that a configuration names. Raises RunError for one that this process does not know."""
    from gvae.estimator.protocol import DECLARED

    name, whose = config.get("model"), config.get("class")  # the latter not in files of earlier versions
    if isinstance(name, str) and name in DECLARED:
        return _derived(DECLARED[name], whose, path)
    first = f" (declared by {whose:.80}: import that first)" if isinstance(whose, str) else ""
    raise RunError(f"{path} holds a model of kind {name!r:.80}{first}; known are {', '.join(DECLARED)}")


def _derived(declared: type[Estimator], whose: Any, path: str | os.PathLike) -> type[Estimator]:
    """The class that saved: that of the name, or one that is derived from it, outside gvae, without a name of its own."""
    if not isinstance(whose, str) or whose.startswith("gvae.") or not declared.__module__.startswith("gvae."):
        return declared
    known = list(declared.__subclasses__())
    for cls in known:
        if f"{cls.__module__}.{cls.__qualname__}" == whose:
            return cls
        known += cls.__subclasses__()
    raise RunError(
        f"{path} holds a {whose:.80}, derived from {declared.__name__}, which this process does not know: import it"
    )


def asked_of(begun: Mapping[str, Any], asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for a run to be resumed: one left at its default keeps the run's value if it is `epochs`, or if
    the version that began the run did not have it."""
    unknown = {"epochs", *begun.get("earlier", ())}
    settings = dict(asked)
    for name, value in asked.items():
        was = begun["settings"].get(name)
        left = name in unknown and native(value) == defaults[name]
        if name in begun["settings"] and (left or ("earlier" in begun and same_family(was, value))):
            settings[name] = was
    return settings


def columns_of(begun: Mapping[str, Any] | None, name: str) -> Mapping[str, Any] | None:
    """What a run that is continued has found about a column of its data."""
    if begun is None:
        return None
    return begun["fitted"] if name == "x" else begun["fitted"].get("columns", {}).get(name)


def continued(folder: training.RunFolder, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration under which a run is resumed, from the one it was begun with and the one asked for now.

    ConfigError for a setting that contradicts it, DataError for other rows.
    """
    begun, asked = folder.config, config["settings"]
    try:
        settings, fitted = {n: begun["settings"].get(n, value) for n, value in asked.items()}, dict(begun["fitted"])
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder.path} is damaged: its configuration lacks or has {error}") from None
    raised = {}
    for name, value in asked.items():
        was = settings[name]
        free = name == "verbose" or (name == "random_state" and value is None)
        is_length = name == "steps" or (name == "epochs" and asked.get("steps") is None)
        if is_length and _is_whole(was) and _is_whole(value) and value > was:
            if settings.get("schedule") == "cosine":
                end = f"epoch {was}" if name == "epochs" else f"step {was}"
                raise ConfigError(f"{folder.path}: schedule 'cosine' ends with {end}, so the run cannot be extended")
            raised[name] = value
        elif name == "initial" and None not in (was, value):
            raised[name] = value  # where the same parameters, as is checked below, lie now
        elif not free and value != was:
            shorter = is_length and _is_whole(was) and _is_whole(value)
            but = "; it can be extended, not shortened" if shorter else ""
            raise ConfigError(f"{folder.path} was begun with {name} {was!r}, not {value!r}{but}")
    _check_files(folder.path, fitted.get("rows") or {}, config["fitted"].get("rows") or {})
    if fitted.get("initial") != config["fitted"].get("initial"):
        raise ConfigError(f"{folder.path} was begun from other parameters than those that {settings['initial']!r} now has")
    for name, value in config["fitted"].items():
        if name != "rows" and name in fitted and fitted[name] != value:  # format 1 does not have them all
            raise DataError(
                f"these are not the rows that {folder.path} was begun with: {name} was {_shown(fitted[name])}, "
                f"is {_shown(value)}"
            )
    return begun | {"settings": settings | raised, "fitted": config["fitted"]}


def _check_files(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DataError for files of rows that are not what they were, or were not there."""
    if more := [name for name in now if name not in before]:
        raise DataError(f"{run} was begun without rows of a file as {more[0]}, but {now[more[0]].get('file')} is given")
    for name, was in before.items():
        found = now.get(name)
        if found is None:
            raise DataError(f"{run} was begun with the rows of a file as {name}, {was.get('file')}: give that file")
        for what, value in was.items():
            if what != "file" and found.get(what) != value:
                raise DataError(
                    f"{found.get('file')} is not what it was when {run} was begun: {what} was {_shown(value)}, "
                    f"is {_shown(found.get(what))}"
                )


def _shown(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):  # a SHA-256, of which this is enough to compare
        return f"{value[:12]}.."
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _is_whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def rounded(name: str, value: np.ndarray) -> np.ndarray:
    """A parameter in float16. ConfigError if it is too large for that."""
    with np.errstate(over="ignore"):
        half = np.asarray(value).astype(np.float16)
    if not np.isfinite(half).all():
        largest = float(np.abs(value).max())
        raise ConfigError(f"save: {name} has an entry of {largest:.3g}, too large for half=True: float16 ends at 65504")
    return half


def check_written(asked: Mapping[str, Any]) -> None:
    """ConfigError unless a file can hold the settings: objects such as a Family are for use in one process."""
    for name, value in asked.items():
        try:
            json.dumps(value)
        except TypeError:
            raise ConfigError(f"{name} is {value!r}, which a file cannot hold; expected its name as text") from None


def save(
    path: str | os.PathLike,
    parameters: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    config: dict[str, Any],
    steps: int,
) -> None:
    """One file, written atomically. RunError if it cannot be written, ConfigError for what is no path."""
    check_paths("save", path=path)
    if not Path(path).name:
        raise RunError(f"cannot write {path}: it is a folder; expected the name of a file")
    check_written(config["settings"])
    tensors = {f"parameters/{name}": value for name, value in parameters.items()}
    tensors |= {f"state/{name}": np.asarray(value) for name, value in state.items()}
    saved = training.Checkpoint(tensors, config, {"use": "parameters", "steps": steps})
    try:
        training.write_atomically(Path(path), training.encode(saved))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def load(path: str | os.PathLike) -> Estimator:
    """Load an estimator from a file written by its `save`, or from a run folder of `fit(run=...)` or `gvae train`.

    Parameters
    ----------
    path : path

    Returns
    -------
    Estimator
        Fitted, of the class that was saved. If the last checkpoint of a run is damaged, the one before it is loaded, and
        a warning logged.

    Raises
    ------
    ConfigError
        What is given is no path.
    RunError
        A file that is missing, damaged, altered, of another kind or of a newer version, or of a class declared outside gvae
        that this process has not declared, see `gvae.estimator.declared`: import the module that declares it first.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> gvae.FactorAnalysis(latent=2, epochs=5).fit(X).save("model.gvae")
    >>> gvae.load("model.gvae").n_features_in_
    5
    """
    check_paths("load", path=path)
    path = Path(path)
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    if path.is_dir():
        _, saved, _ = training.read(path)
        if saved is None:
            raise RunError(f"{path} holds no checkpoint.safetensors: it was stopped before the first one")
        rows, events = training.read_history(path, saved)
    elif path.is_file():
        with open(path, "rb") as file:
            begin = file.read(9)  # of safetensors: the length of a header, and its first character
        if len(begin) == 9 and begin[8:] != b"{":
            raise RunError(f"{path} is neither a run folder nor a saved model")
        saved = training.load_checkpoint(path)
    else:
        raise RunError(f"{path}: no such run folder or saved model")
    cls = class_of(saved.config, path)
    try:
        return _restored(cls, saved, path, rows, events)
    except KeyError as error:
        raise RunError(f"{path} is damaged: its configuration lacks {error}") from None
    except (TypeError, AttributeError, ValueError, MemoryError, OverflowError) as error:
        raise RunError(f"{path} is damaged: {error}") from None


def _restored(
    cls: type[Estimator], saved: training.Checkpoint, path: Path, rows: list[dict[str, Any]], events: list[dict[str, Any]]
) -> Estimator:
    from gvae.estimator.views import View

    config = saved.config
    settings, fitted = config["settings"], config["fitted"]
    unknown = [name for name in settings if name not in cls._defaults()]
    if unknown:
        raise RunError(
            f"{path} has the setting {unknown[0]!r}, which {cls.__name__} does not have: is it of a newer version?"
        )
    estimator = cls(**{name: native(value) for name, value in settings.items()})
    values = estimator._filled(estimator.checked())
    for part in PARTS:
        if not isinstance(config[part], dict):
            raise RunError(f"{path} is damaged: its {part} are {config[part]!r}")
    views, kinds = {}, estimator.variant.columns
    for name, kind in kinds.items():
        if kind != "labels":
            kept = columns_of(config, name)
            if kept is None:
                raise KeyError(name)
            views[name] = View.from_config(kept, "X" if name == "x" else name, kind, values, path)
    sizes = {name: view.columns for name, view in views.items()}
    if "labels" in kinds.values():
        sizes["y"] = len(fitted["classes"])
    named = saved.parameters()
    _check_widths(estimator._networks(values, sizes), sum(v.size for v in named.values()))
    n_rows = fitted.get("n_rows", 1)
    if not _is_whole(n_rows) or n_rows < 1:
        raise ConfigError(f"n_rows is {n_rows!r}, expected a whole number of at least 1")
    model = estimator._build(values, views, sizes, n_rows=n_rows)
    wanted = model.init(random.key(0))
    named = {n: v.astype(wanted[n].dtype) if v.dtype == np.float16 and n in wanted else v for n, v in named.items()}
    if {n: (v.shape, v.dtype) for n, v in named.items()} != {n: (v.shape, v.dtype) for n, v in wanted.items()}:
        raise RunError(f"{path} is damaged: its parameters do not fit its configuration")
    if not all(np.isfinite(v).all() for v in named.values()):
        raise RunError(f"{path}: some parameters are not finite")
    state = saved.state()
    expected = model.init_state(random.key(0)) if hasattr(model, "init_state") else {}
    if {n: v.shape for n, v in state.items()} != {n: np.shape(v) for n, v in expected.items()}:
        raise RunError(f"{path} is damaged: its state does not fit its configuration")
    estimator._adopt(
        config, model, views, Parameters({n: named[n] for n in wanted}), state, rows, events, _steps(saved, rows)
    )
    return estimator


def initial(path: str, model: Model) -> tuple[Parameters, dict[str, np.ndarray]]:
    """The parameters and the state of a fitted estimator, for this model to start from.

    RunError for what cannot be loaded; ConfigError unless names and shapes are those of the model, and for a model with
    parameters of rows, which would start at random beside those of the other run.
    """
    if training.has_rows(model):
        raise ConfigError(
            f"fit: initial is {path!r}, expected None: {type(model).__name__} has parameters for each row here, which would "
            "start anew beside trained ones"
        )
    try:
        found = load(path)
    except RunError as error:
        raise RunError(f"initial: {error}") from None
    wanted = model.init(random.key(0))
    state = model.init_state(random.key(0)) if hasattr(model, "init_state") else {}
    for what, has, needs in (("parameter", found.parameters_, wanted), ("state", found.state_, state)):
        for name in (*needs, *has):
            shapes = [np.shape(part[name]) if name in part else None for part in (has, needs)]
            if shapes[0] != shapes[1]:
                given, expected = ("none" if shape is None else f"shape {shape}" for shape in shapes)
                raise ConfigError(f"fit: initial is {path!r}: its {what} {name} has {given}, expected {expected}")
    parameters = Parameters({name: np.asarray(found.parameters_[name], x.dtype) for name, x in wanted.items()})
    return parameters, {name: np.asarray(found.state_[name], np.asarray(x).dtype) for name, x in state.items()}


def _steps(saved: training.Checkpoint, rows: list[dict[str, Any]]) -> int:
    """The number of steps after which the weights had the values that are kept."""
    stopping, steps = saved.counters.get("stopping", {}), saved.counters.get("steps", 0)
    if saved.counters["use"] == "best":
        steps = {row["epoch"]: row["step"] for row in rows}.get(stopping.get("epoch"), steps)
    return steps if _is_whole(steps) else 0


def _check_widths(networks: list[tuple[int, ...]], n_parameters: int) -> None:
    """Refuse a configuration that needs more parameters than its file holds, before anything of that size is made: every
    unit of a layer has one at least."""
    least = max((width for network in networks for width in network), default=0)
    if least > n_parameters:
        raise ValueError(f"its configuration needs {least} parameters or more, and it holds {n_parameters}")


def not_fitted(message: str) -> ConfigError:
    """A ConfigError that is scikit-learn's NotFittedError as well, if the caller uses scikit-learn."""
    exceptions = sys.modules.get("sklearn.exceptions")
    if exceptions is None:
        return ConfigError(message)
    return type("NotFittedError", (ConfigError, exceptions.NotFittedError), {})(message)
