"""How an estimator is fitted: from what a caller hands over to a trained model."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Self

import numpy as np

from gvae import data, objectives, optim, random, settings, training
from gvae.checks import check_callables, check_paths
from gvae.data.rows import Column, as_rows, chunk_of, default_window
from gvae.data.rows.protocol import of_a_copy, stored_bytes
from gvae.errors import ConfigError, DataError
from gvae.estimator import inputs, stored
from gvae.estimator.protocol import Protocol
from gvae.estimator.views import BLOCK, View, units_of
from gvae.models.base import Base
from gvae.nn import Parameters
from gvae.protocol import Model, check_columns
from gvae.runtime import device, limits, parallel, pool
from gvae.runtime.parallel import Communicator
from gvae.settings import fields, native
from gvae.texts import NOT_NEGATIVE
from gvae.training.program import batches_in, least_rows
from gvae.typing import Key

__all__ = ["Fitting", "as_table", "check_lengths", "reads"]

READS = {"labels": "labels as y", "matrix": "a second view as y", "counts": "counts as y"}


def reads(model: type[Base]) -> str:
    """What a class of models reads as y, in words."""
    kind = model.columns["y"]
    return "numbers as y" if kind == "matrix" and model.conditional else READS[kind]


GROUPS = (settings.Presentation, settings.Objective, settings.Length, settings.Ascent, settings.Machine)

logger = logging.getLogger("gvae.estimator")


@dataclass
class _Ready:
    """What training begins with: the configuration that is kept, and what follows from it and the data.

    rows, held : columns by name, to train on and held out (or None)          root : the key of everything random
    shuffle : how the rows are shuffled                       ranks : the ranks that share the work
    digest : a hash by which ranks compare their rows         initial : parameters and state to start from, or None
    """

    config: dict[str, Any]
    model: Model
    views: dict[str, View]
    rows: dict[str, Any]
    held: dict[str, Any] | None
    root: Key
    shuffle: data.Shuffle
    ranks: Communicator
    digest: str
    initial: tuple[Parameters, dict[str, np.ndarray]] | None


class Fitting(Protocol):
    """What an estimator does with its settings and with data until it is fitted."""

    @property
    def holds_out(self) -> bool:
        """Whether some rows are held out of training to decide when it ends, unless validation rows are given.

        Examples
        --------
        >>> gvae.VAE(epochs="auto").holds_out, gvae.VAE(epochs=20).holds_out
        (True, False)
        """
        return self._watches(self._filled(self.checked()))

    @staticmethod
    def _watches(values: Mapping[str, Any]) -> bool:
        return values["patience"] is not None or (values["steps"] is None and values["epochs"] == "auto")

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        validation: Any = None,
        run: str | os.PathLike | None = None,
        resume: bool = False,
        save_every: float = training.SAVE_EVERY,
        stop: Callable[[], bool] | None = None,
        callback: Callable[[dict[str, Any], Any], Any] | None = None,
        notes: dict[str, Any] | None = None,
        comm: Any = None,
    ) -> Self:
        """Train on the rows of X.

        Parameters
        ----------
        X : array (N, D), images (N, rows, columns), or Rows
            Dense and finite; a DataFrame, or sparse counts, where the model reads them. `gvae.data.Rows`, arrays of Zarr and
            HDF5 need not fit into memory: see `shuffle`.
        y : array (N,) or (N, D2), optional
            Labels or a second view, for models that read them; else ignored.
        sample_weight : array (N,), optional
            How much each row counts. Only ratios matter: what the model itself costs, such as the KL of weights with a
            posterior, is shared by the rows, whatever they weigh. Batch normalisation does not weigh rows.
        validation : array (M, D), or (X, y), optional
            Further rows, on which the objective is reported in every row of the log: after each epoch, or with epochs="auto"
            at the intervals of `gvae.training.Until`. A pair (X, y) for models with y.
        run : path, optional
            A new or empty folder that receives configuration, log and checkpoint. If training fails before the first
            checkpoint, the folders that were made for it are removed, or it is emptied if it existed before.
        resume : bool, default False
            The folder exists already, and its run is continued as if it had never stopped. Settings and rows must be those
            it was begun with; epochs or steps may be more (an epoch that steps have cut short stays so).
        save_every : float
            Seconds after which a checkpoint is written within an epoch.
        stop : callable, optional
            Called after every step; when it returns True, the checkpoint is written and StoppedError raised.
        callback : callable, optional
            Called as callback(row, model) after every row of the log (one per epoch unless epochs="auto"), with this row and
            a copy of this estimator as fitted so far; a truthy return value ends the training normally.
        notes : dict, optional
            What else the configuration should keep, as JSON; "image_shape" is added if X are images.
        comm : mpi4py.MPI.Comm, optional
            Ranks that share the `shards` of each batch; results are bitwise those of one process. All of them call `fit`
            with the same rows and settings, and are fitted; only rank 0 writes the folder, calls `callback` and shows
            progress.

        Returns
        -------
        Estimator
            This one, fitted.

        Raises
        ------
        DataError
            Data that are missing, NaN, infinite or outside the observation's support; view, row and column are named. Rows
            that are not in memory are checked window by window, when they are read.
        ShapeError, ConfigError, DeviceError, RunError
            Like DataError before anything is written.
        NonFiniteError
            The bound is no longer finite.
        StoppedError
            `stop` returned True.
        RankError
            Another rank failed, or has other rows, settings or versions.

        Notes
        -----
        A failed fit leaves an earlier one as it was.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
        >>> model = gvae.VAE(latent=2, hidden=(8,), observation="gaussian", epochs=2, random_state=0).fit(X)
        >>> [row["epoch"] for row in model.history_]
        [1, 2]
        """
        begun, ranks = None, parallel.of(comm)
        with ranks.together():  # otherwise ranks would wait for one that has an error
            if not NOT_NEGATIVE.accepts(save_every):
                raise ConfigError(f"fit: save_every is {save_every!r}, expected {NOT_NEGATIVE.expected} (seconds)")
            check_callables("fit", stop=stop, callback=callback)
            check_paths("fit", **({} if run is None else {"run": run}))
            if not isinstance(resume, (bool, np.bool_)):
                raise ConfigError(f"fit: resume is {resume!r}, expected True or False")
            if not isinstance(notes, (dict, NoneType)):
                raise ConfigError(f"fit: notes is {notes!r:.80}, expected a dict of what JSON can hold")
            if resume and run is None:
                raise ConfigError("fit: resume needs the folder of the run to continue, as run")
            asked = self.checked()
            training.check_ranks(self._filled(asked)["shards"], ranks.size)
        _check_versions(ranks)
        with ranks.together():
            if resume and run is not None and ranks.leads:
                begun = stored.begun(run, self.name)
        begun = ranks.first(begun)
        with ranks.together():
            if begun is not None:
                asked = stored.asked_of(begun, asked, self._defaults())
            if run is not None:
                stored.check_written(asked)
            device.module(self._filled(asked)["device"])
        ranks.check_same("settings", repr(asked["random_state"]))
        asked["random_state"] = ranks.first(_seed(asked, begun))
        with ranks.together(), ranks.leaders_first("the data"):
            ready = self._ready(asked, X, y, sample_weight, validation, begun, run, notes or {}, ranks)
        ranks.check_same("rows", ready.digest)
        about = {name: ready.config[name] for name in ("model", "settings")}
        about["initial"] = ready.config["fitted"].get("initial")
        ranks.check_same("settings", json.dumps(about, sort_keys=True, default=str))
        self._train(ready, begun, run, save_every, stop, callback)
        return self

    def _ready(
        self,
        asked: dict[str, Any],
        X: Any,
        y: Any,
        weight: Any,
        validation: Any,
        begun: Mapping[str, Any] | None,
        run: str | os.PathLike | None,
        notes: dict[str, Any],
        ranks: Communicator,
    ) -> _Ready:
        """Check the settings and the data, and make all choices that depend on them, before anything is written."""
        values = self._filled(asked)
        if values["initial"] is not None:  # the run may be resumed in another folder
            asked = asked | {"initial": os.path.abspath(values["initial"])}
        shuffle = _shuffle(values, X, y, begun)
        names = inputs.named(X) if isinstance(X, data.Rows) else None  # of the columns of a file, also if it is loaded
        X, y = (_source(given, shuffle) for given in (X, y))
        views, rows, held, classes = self._columns(X, y, weight, validation, values, begun)
        sizes = {name: view.columns for name, view in views.items()} | ({} if classes is None else {"y": len(classes)})
        self._check_memory(asked, values, rows["x"].shape[0], sizes)
        if shuffle.rows is not None:
            _check_windows(shuffle, rows)
        views["x"].names = views["x"].names if names is None else names
        stored_rows = {
            f"{part}{name}": column.rows
            for part, columns in (("", rows), ("validation ", held or {}))
            for name, column in columns.items()
            if isinstance(column, Column) and column.read_ahead
        }
        files = {name: _fingerprint(given, name) for name, given in stored_rows.items()}
        content = [c for part in (rows, held or {}) for name, c in part.items() if name != "numbers"]
        there = [c for c in content if not getattr(c, "read_ahead", False)]
        digest = _digest(*there) if (run is not None or ranks.size > 1) and there else None
        root = random.key(asked["random_state"])
        if held is None and (share := self._held_out(values, rows["x"].shape[0])):
            chosen = np.zeros(rows["x"].shape[0], bool)
            chosen[random.permutation(random.fold_in(root, 3), len(chosen))[: min(share, shuffle.rows or share)]] = True
            rows.setdefault("numbers", np.arange(len(chosen)))
            rows, held = ({n: inputs.part_of(column, part) for n, column in rows.items()} for part in (~chosen, chosen))
            held = {n: c.loaded() if isinstance(c, Column) and c.read_ahead else c for n, c in held.items()}
        for name, view in views.items():
            known = _units_of_run(begun, name, view, run)
            view.measure(rows[name], None if held is None else held[name], known, rows.get("weight"))
            view.name_constant(rows[name])
        fitted: dict[str, Any] = {"n_rows": rows["x"].shape[0], **views["x"].as_config()}
        if others := {name: view.as_config() for name, view in views.items() if name != "x"}:
            fitted["columns"] = others
        if classes is not None:
            fitted["classes"] = classes.tolist()
        if digest is not None and run is not None:
            fitted["data_sha256"] = digest
        if files:
            fitted["rows"] = files
        if shuffle.rows is not None:
            fitted["shuffle"] = str(shuffle)
        shape = views["x"].image_shape
        notes = _json(({} if shape is None else {"image_shape": shape}) | notes)
        model = self._build(asked, views, sizes, n_rows=rows["x"].shape[0])
        initial = None if values["initial"] is None else stored.initial(values["initial"], model)
        if initial is not None:
            fitted["initial"] = initial[0].sha256()
        config = {"model": self.name, "settings": asked, "fitted": fitted, "notes": notes}
        config["class"] = f"{type(self).__module__}.{type(self).__qualname__}"
        copies = [of_a_copy(given) for given in stored_rows.values()] if ranks.size > 1 else []
        return _Ready(config, model, views, rows, held, root, shuffle, ranks, f"{digest} {copies}", initial)

    def _train(
        self,
        ready: _Ready,
        begun: Mapping[str, Any] | None,
        run: str | os.PathLike | None,
        save_every: float,
        stop: Callable[[], bool] | None,
        callback: Callable[[dict[str, Any], Any], Any] | None,
    ) -> None:
        """Train, with or without a run folder, and adopt the trained model."""
        config, model, views, values = ready.config, ready.model, ready.views, self._filled(ready.config["settings"])
        ranks = ready.ranks
        folder, made = None, [] if run is None else [path for path in (Path(run), *Path(run).parents) if not path.exists()]
        try:
            with ranks.together():
                if begun is not None and run is not None and ranks.leads:
                    folder = training.RunFolder.reopen(run, save_every=save_every, toml=self._toml)
                    config = stored.continued(folder, config)
            config = ranks.first(config)
            values = self._filled(config["settings"])
            with ranks.leaders_first("a trainer"):
                table = as_table(ready.rows, views, random.fold_in(ready.root, 1))
                held_out = None if ready.held is None else as_table(ready.held, views, random.fold_in(ready.root, 2))
                length = _length(values, len(table))
                trainer = _trainer(values, model, len(table), length, ready.shuffle, ranks, ready.initial)
            with ranks.together():
                if folder is not None:
                    folder.restore(trainer, config)
                elif run is not None and ranks.leads:
                    folder = training.RunFolder(run, config, save_every=save_every, toml=self._toml)
            if ranks.size > 1 and begun is not None:
                trainer.restore(ranks.first(trainer.snapshot()))
                trainer.mark = ranks.first(trainer.mark)
            if ranks.leads:
                self._announce(views, length, held_out, ready.shuffle)

            def report(row: dict[str, Any]) -> bool:
                now = type(self)(**self.get_params())
                history.append(row)
                weights = Parameters(trainer.weights.to("cpu"))  # a copy: training goes on
                state = {name: np.array(device.to_host(values)) for name, values in trainer.state.items()}
                now._adopt(config, model, views, weights, state, list(history), [], row["step"])
                return callback is not None and bool(callback(dict(row), now))

            history = [] if folder is None else list(folder.rows)
            with np.errstate(all="ignore"):  # the trainer watches the bound, and says more than NumPy's warnings
                _, log = training.train(
                    model,
                    table,
                    **length,
                    batch_size=values["batch_size"] or len(table),
                    validation=held_out,
                    on_nonfinite=values["on_nonfinite"],
                    progress=bool(self.verbose) and ranks.leads,
                    run=folder,
                    stop=stop,
                    callback=None if callback is None else report,
                    trainer=trainer,
                )
        except BaseException:
            if run is not None and begun is None and ranks.leads:
                _discard_unstarted(Path(run), files_are_ours=folder is not None, made=made)
            raise
        finally:
            if folder is not None:
                folder.close()
        self._adopt(
            config, model, views, trainer.chosen.to("cpu"), trainer.chosen_state, log.rows, log.events, _kept(trainer, log)
        )

    # ---- parts

    def _filled(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of the shared groups: those that this estimator lacks are fixed, or as they are by default."""
        shared = {f.name: settings.plain(f.default) for group in GROUPS for f in fields(group)}
        return shared | {"observation": None} | dict(self.fixed) | dict(asked)

    def _columns(
        self, X: Any, y: Any, weight: Any, validation: Any, values: Mapping[str, Any], begun: Mapping[str, Any] | None
    ) -> tuple[dict[str, View], dict[str, Any], dict[str, Any] | None, np.ndarray | None]:
        """(views, training columns, validation columns or None, classes or None), all checked."""
        check_columns(self.variant)
        kinds, model = self.variant.columns, type(self).__name__
        further = "y" in kinds
        if further and y is None:
            raise DataError(f"{model}.fit requires y to be passed, but the target y is None: it reads {reads(self.variant)}")
        V, vy = validation, None
        if validation is not None and further:
            if not isinstance(validation, (tuple, list)) or len(validation) != 2:
                raise DataError(f"{model}.fit: validation is {type(validation).__name__}, expected a pair (X, y)")
            V, vy = validation
        elif isinstance(validation, tuple):
            raise DataError(f"{model}.fit: validation is a tuple of {len(validation)}, expected an array: it reads x only")
        observations = self._observations(values["observation"])
        views: dict[str, View] = {}
        rows: dict[str, Any] = {}
        held: dict[str, Any] = {}
        classes = None
        for name, kind in kinds.items():
            given, other, said = (X, V, "X") if name == "x" else (y, vy, name)
            if kind == "labels":
                n = rows["x"].shape[0]
                rows[name], classes = inputs.encoded(inputs.loaded(given), n, said)
                if len(classes) < 2:
                    raise DataError(f"{model}: y has 1 class, {classes[0]!s}; expected at least two")
                if other is not None:
                    encoded = inputs.encoded(inputs.loaded(other), held["x"].shape[0], f"validation {said}", classes)
                    held[name], _ = encoded
                continue
            known = stored.columns_of(begun, name)
            target = name == "y" and self.variant.conditional
            view, rows[name], v = View.of(said, kind, given, other, values, observations.get(name), known, model, target)
            views[name] = view
            if v is not None:
                held[name] = v
        check_lengths(rows, "X")
        check_lengths(held, "validation")
        if weight is not None:
            w = inputs.as_weight(weight, rows["x"].shape[0], views["x"].dtype)
            counted = w > 0  # a row of weight 0 is as if it were not there
            given = (rows | {"weight": w}).items()
            rows = {name: column if counted.all() else inputs.part_of(column, counted) for name, column in given}
            if not counted.all():
                rows["numbers"] = np.flatnonzero(counted)
            if held:
                held["weight"] = np.ones(held["x"].shape[0], views["x"].dtype)
        return views, rows, held or None, classes

    def _observations(self, given: Any) -> dict[str, str | None]:
        """The observation of each view that the model explains."""
        names = self.variant.views
        several = isinstance(given, (list, tuple))
        if several and len(given) != len(names):
            raise ConfigError(f"observation has {len(given)} entries, expected one for each of {', '.join(names)}")
        return dict(zip(names, given if several else [given] * len(names), strict=True))

    def _build(self, values: Mapping[str, Any], views: Mapping[str, View], sizes: Mapping[str, int], n_rows: int) -> Any:
        """The model of settings, for the columns as they are presented."""
        own = self._own(values)
        model = self.model.variant(values)
        explained = [views[name].family() for name in model.views]
        if "observation" in own and explained:
            own["observation"] = explained[0] if len(explained) == 1 else tuple(explained)
        return model(sizes, model.Settings(**own), dtype=values["dtype"], n_rows=n_rows)

    def _own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of the model."""
        return {f.name: native(values[f.name]) for f in fields(self.model.Settings)}

    def _networks(self, values: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The widths of all of the model's networks."""
        return self.model.layers(self.model.Settings(**self._own(values)), sizes)

    def _held_out(self, values: Mapping[str, Any], n: int) -> int:
        """How many of n rows are held out for early stopping."""
        if not self._watches(values):
            return 0
        held = max(1, round(values["validation_fraction"] * n))
        if held >= n:
            hint = "" if values["patience"] is not None else "; name the epochs"
            raise DataError(f"X has {n} rows: too few (n_samples = {n}) to hold out {held} from training{hint}")
        return held

    def _announce(
        self, views: Mapping[str, View], length: Mapping[str, Any], held: data.Table | None, shuffle: data.Shuffle
    ) -> None:
        """Say what was chosen, and why, in one line."""
        alone = len(views) == 1
        said = "; ".join(str(view) if alone else f"{view.name}: {view}" for view in views.values())
        if held is not None and (until := length.get("until")) is not None:
            said += f"; {until.least} to {until.most} steps, until the bound on {len(held)} rows held out stops improving"
        if shuffle.rows is not None:
            said += f"; shuffle {shuffle}"
        logger.info("fit: %s", said)
        if self.verbose and (shuffle.rows is not None or "until" in length or any(view.why for view in views.values())):
            print(f"{self.name}: {said}", flush=True)

    def _toml(self, config: Mapping[str, Any]) -> str:
        """The configuration as a file that `gvae train --config` reads."""
        notes, named = config["notes"], {f.name: f for f in fields(type(self))}
        kept = {n: value for n, value in config["settings"].items() if named[n].metadata["flag"] != ""}
        return settings.to_toml(
            {
                "data": {"source": notes.get("data"), "dir": notes.get("data_dir"), "target": notes.get("target")},
                "settings": {"model": self.name} | {n: settings.spelled(named[n], value) for n, value in kept.items()},
            }
        )

    def _check_memory(
        self, asked: Mapping[str, Any], values: Mapping[str, Any], n_rows: int, sizes: Mapping[str, int]
    ) -> None:
        """Refuse what cannot fit before it is allocated: weights, their gradient and Adam's two moments, and the layers of
        one batch. An under-estimate."""
        networks = self._networks(asked, sizes)
        weights = sum(a * b for widths in networks for a, b in itertools.pairwise(widths))
        layers = values["samples"] * min(values["batch_size"] or n_rows, n_rows) * sum(map(sum, networks))
        names = ("latent", "posterior", "hidden", "batch_size", "samples")
        said = ", ".join(f"{name} {asked[name]}" for name in names if name in asked)
        limits.check_room((4 * weights + layers) * np.dtype(values["dtype"]).itemsize, f"a model of {said}")

    def _adopt(
        self,
        config: dict[str, Any],
        model: Model,
        views: Mapping[str, View],
        parameters: Parameters,
        state: Mapping[str, Any],
        history: list[dict],
        events: list[dict],
        steps: int,
    ) -> None:
        """Become the fitted model that config describes."""
        fitted, x = config["fitted"], views["x"]
        self.config_, self.notes_, self.seed_ = config, config["notes"], config["settings"]["random_state"]
        self.views_, self.binarize_, self.observation_ = dict(views), x.binarize, x.observation
        self.n_features_in_, self.grey_levels_, self.standardization_ = x.columns, x.grey, x.units
        if x.names is not None:
            self.feature_names_in_ = x.names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if "classes" in fitted:
            self.classes_ = np.array(fitted["classes"])
        self.model_, self.parameters_, self.state_ = model, parameters, dict(state)
        self.history_, self.events_ = history, events
        self.n_iter_ = steps


def _length(values: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """How long to train, as `training.train` takes it."""
    if values["steps"] is not None:
        return {"steps": values["steps"], "patience": values["patience"]}
    if values["epochs"] != "auto":
        return {"epochs": values["epochs"], "patience": values["patience"]}
    until = _until(values, n_rows)
    if values["schedule"] == "cosine":
        raise ConfigError("fit: schedule 'cosine' falls to 0 at the end of the run, which epochs='auto' leaves open")
    if values["patience"] is None:
        return {"until": until}
    return {"epochs": -(-until.most // _per_epoch(values, n_rows)), "patience": values["patience"]}


def _kept(trainer: training.Trainer, log: training.History) -> int:
    """The number of steps after which the weights had the values that are kept."""
    rows = {row["epoch"]: row["step"] for row in log.rows}
    return trainer.steps if trainer.best is None else rows.get(trainer.stopping.epoch, trainer.steps)


def _until(values: Mapping[str, Any], n_rows: int) -> training.Until:
    return training.Until.of(n_rows, values["batch_size"] or n_rows)


def _per_epoch(values: Mapping[str, Any], n_rows: int) -> int:
    return -(-n_rows // (values["batch_size"] or n_rows))


def _shuffle(values: Mapping[str, Any], X: Any, y: Any, begun: Mapping[str, Any] | None) -> data.Shuffle:
    """How rows are shuffled: as asked, or as a run was begun; auto is full where they fit into memory."""
    shuffle = data.Shuffle.of(values["shuffle"] if begun is None else begun["fitted"].get("shuffle", "full"))
    x = as_rows(X)
    if shuffle is None:
        found = [rows for rows in (x, as_rows(y)) if rows is not None] + [z for z in (X, y) if isinstance(z, np.memmap)]
        n_bytes = sum(rows.shape[0] * stored_bytes(rows) for rows in found)
        shuffle = data.Shuffle() if limits.fits(n_bytes) else data.Shuffle(0)
    if shuffle.rows is None:
        return shuffle
    x = x or data.ArrayRows(X if hasattr(X, "dtype") else np.asarray(X))
    chunk = shuffle.chunk or chunk_of(x)
    rows = shuffle.rows or default_window(x, chunk)
    return data.Shuffle(rows if begun is not None else max(1, rows // chunk) * chunk, chunk)  # whole chunks


def _source(given: Any, shuffle: data.Shuffle) -> Any:
    """What is fitted, as `Rows` where rows are converted when a batch needs them: those that are read window by window, and
    bytes, which grow to four or eight times their size."""
    rows = as_rows(given)
    if rows is not None and (shuffle.rows is None or len(rows.shape) < 2):
        given, rows = inputs.loaded(given), None
    if rows is not None:
        return rows
    sparse = hasattr(given, "indptr") and getattr(given, "format", "") == "csr"
    plain = isinstance(given, np.ndarray) and given.ndim in (2, 3) and given.size and not np.ma.isMaskedArray(given)
    if plain and (given.dtype == np.uint8 or (shuffle.rows is not None and given.dtype.kind in "biuf")):
        return data.ArrayRows(given)
    return data.ArrayRows(given) if sparse and shuffle.rows is not None else given


def _check_windows(shuffle: data.Shuffle, rows: Mapping[str, Any]) -> None:
    """Refuse windows that do not fit into memory, three at a time."""
    ahead = [column for column in rows.values() if isinstance(column, Column) and column.read_ahead]
    n_bytes = sum(stored_bytes(column.rows) for column in ahead)
    limits.check_room(3 * n_bytes * min(shuffle.rows or 0, rows["x"].shape[0]), f"a shuffle of {shuffle}")


def _trainer(
    values: Mapping[str, Any],
    model: Model,
    n_rows: int,
    length: Mapping[str, Any],
    shuffle: data.Shuffle,
    ranks: Communicator,
    initial: tuple[Parameters, dict[str, np.ndarray]] | None,
) -> training.Trainer:
    least = least_rows(model, objectives.parse(values["objective"], 0, values["gradient"]))
    per_epoch = batches_in(n_rows, values["batch_size"] or n_rows, least)
    steps = length["until"].most if "until" in length else length.get("steps") or per_epoch * length["epochs"]
    parameters, state = (None, None) if initial is None else initial
    begins = optim.parse_average(values["average"], Parameters({})) if values["average"] is not None else None
    if isinstance(begins, optim.SWA) and begins.first > (last := -(-steps // per_epoch)):
        raise ConfigError(f"fit: average is {values['average']!r}, expected one that begins by the last epoch, {last}")
    return training.Trainer(
        model,
        objective=objectives.parse(values["objective"], values["warmup"] * per_epoch, values["gradient"]),
        samples=values["samples"],
        optimizer=values["optimizer"],
        learning_rate=values["learning_rate"],
        rates=None if values["rates"] is None else optim.parse_rates(values["rates"]),
        alone=None if values["alone"] is None else optim.parse_alone(values["alone"]),
        schedule=optim.parse_schedule(values["schedule"], per_epoch, steps),
        average=values["average"],
        clip=values["clip"],
        seed=values["random_state"],
        n_rows=n_rows,
        shuffle=shuffle,
        shards=values["shards"],
        communicator=ranks,
        parameters=parameters,
        state=state,
        device=values["device"],
    )


def _seed(asked: Mapping[str, Any], begun: Mapping[str, Any] | None) -> int:
    """The seed that was asked for, else that of the run to continue, else a fresh one."""
    kept = None if begun is None else begun["settings"].get("random_state")
    seed = kept if asked["random_state"] is None else asked["random_state"]
    return int.from_bytes(os.urandom(8), "little") if seed is None else seed


def _check_versions(ranks: Communicator) -> None:
    """RankError unless all ranks have the same versions; warnings where their CPUs differ, or are fewer than threads."""
    if ranks.size == 1:
        return
    about = training.about_this_process()
    ranks.check_same("versions of gvae or of its libraries", json.dumps(about["versions"], sort_keys=True))
    if (crowd := parallel.crowded(ranks, pool.count())) and ranks.leads:
        logger.warning(crowd)
    if len(set(ranks.gather(about["machine"].partition(",")[0]))) > 1 and ranks.leads:
        logger.warning("the CPUs of the ranks differ: the bits of results depend on which rank has which")


def as_table(rows: Mapping[str, Any], views: Mapping[str, View], key: np.ndarray) -> data.Table:
    """The table of the columns, each with its presentation to the model."""
    shown = {name: view.presentation for name, view in views.items()}
    further = {name: data.Presentation(**how) for name, how in shown.items() if name != "x"}
    return data.Table(key=key, views=further, **shown["x"], **rows)


def _units_of_run(begun: Mapping[str, Any] | None, name: str, view: View, run: object) -> Any:
    """The standardization that a run which is continued has found, if it is of as many columns."""
    known = stored.columns_of(begun, name)
    if known is None or known.get("n_features_in") != view.columns:  # the latter is refused later
        return None
    return units_of(known, run)


def check_lengths(rows: Mapping[str, Any], what: str) -> None:
    lengths = {name: column.shape[0] for name, column in rows.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{n} rows of {name}" for name, n in lengths.items())
        raise DataError(f"{what} has views of different lengths: {said} (inconsistent numbers of samples)")


def _fingerprint(rows: Any, name: str) -> dict[str, Any]:
    """The fingerprint of rows that may be of the caller's own class. DataError if it is not a dict."""
    if not isinstance(found := rows.fingerprint, dict):
        where = getattr(rows, "where", type(rows).__name__)
        raise DataError(f"{name}: {where} has the fingerprint {found!r:.80}, expected a dict of what JSON can hold")
    return found


def _json(notes: dict[str, Any]) -> dict[str, Any]:
    """The notes after a round trip through JSON. ConfigError if they cannot be written as JSON."""
    try:
        return json.loads(json.dumps(notes, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"notes cannot be written as JSON: {error}") from None


def _digest(*columns: Any) -> str:
    """A hash by which a resumed run recognizes its rows."""
    digest = hashlib.sha256()
    for column in columns:
        if isinstance(column, Column):
            digest.update(f"{column.shape}{np.dtype(column.dtype).str}".encode())
            for block in column.blocks(BLOCK):
                digest.update(np.ascontiguousarray(block))
            continue
        for x in (column.data, column.indices, column.indptr) if hasattr(column, "indptr") else (column,):
            digest.update(f"{x.shape}{x.dtype.str}".encode())
            digest.update(np.ascontiguousarray(x))
    return digest.hexdigest()


def _discard_unstarted(folder: Path, *, files_are_ours: bool, made: Sequence[Path]) -> None:
    """Take back a run folder that holds no checkpoint yet, and the folders that were made for it, innermost first, so that
    the same command can be given again."""
    with contextlib.suppress(OSError):
        if files_are_ours and not (folder / training.CHECKPOINT).exists():
            for name in training.BEGUN:
                (folder / name).unlink(missing_ok=True)
        for path in made:
            path.rmdir()  # refuses unless empty
