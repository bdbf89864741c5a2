"""The training loop. It knows the model protocol (gvae.models) and objectives, and nothing of any model or family.

All randomness is a pure function of the seed and of a position: the initial parameters, the order of epoch e, the
binarization and the noise of step s. So a run is repeatable, and what one step draws does not depend on any other.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gvae import autodiff, dispatch, random
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DataError, NonFiniteError, RunError
from gvae.nn import Parameters
from gvae.objectives import ELBO, Objective
from gvae.optim import Adam, RowAdam

__all__ = ["RunFolder", "Trainer", "load_checkpoint", "save_checkpoint", "train"]

# what a key is folded with, once per use, for ever: streams of different purpose never meet
INIT, ORDER, BINARIZE, NOISE, VALIDATE = range(5)

FORMAT = "gvae-checkpoint-1"
RECORDINGS = 8  # at most: each is a list of nodes and their settings


class Trainer:
    """A model, its parameters and an optimiser; `step` is one step, `epoch` one pass over a table.

    parameters : Parameters         state : the model's state         rows : per-datum parameters with their optimisers

    Where model and objective call themselves `pure` (see gvae.models), steps on batches of one shape are recorded once and
    replayed, without running them again. A recording counts only after it has given the next step's metrics and gradient
    bit for bit as they did; what cannot be recorded (sparse data, per-datum parameters, models that decide by values or
    draw binary codes) runs as Python in every step, and with `replays=False` everything does.

    device : "cpu", or "cuda": parameters, optimiser and all that a step draws live there, batches have to (`Table.to`), and
             a step waits for nothing, but for the comparison above: its metrics are scalars on the device, and are
             looked at when they are read
    """

    def __init__(
        self,
        model: Any,
        *,
        objective: Objective | None = None,
        samples: int = 1,
        learning_rate: float = 1e-3,
        seed: int = 0,
        n_rows: int = 0,
        parameters: dict[str, np.ndarray] | None = None,
        replays: bool = True,
        device: str = "cpu",
    ):
        _whole(samples=samples)
        dispatch.module(device)
        self.model, self.objective, self.samples = model, objective or ELBO(), samples
        self.key = random.key(seed)
        init_key = random.fold_in(self.key, INIT)
        self.device = device
        self.parameters = Parameters(model.init(init_key) if parameters is None else parameters).to(device)
        self.gradient = self.parameters.zeros()
        self.optimizer = Adam(self.parameters, learning_rate)
        state = model.init_state(init_key) if hasattr(model, "init_state") else {}
        self.state = {name: dispatch.to_device(value, device) for name, value in state.items()}
        rows = model.init_rows(init_key, n_rows) if hasattr(model, "init_rows") else {}
        rows = {name: dispatch.to_device(values, device) for name, values in rows.items()}
        self.rows = {name: RowAdam(values, learning_rate) for name, values in rows.items()}
        self.steps = 0
        self.epochs = 0
        self.replays = replays and _is_pure(model, "terms") and _is_pure(self.objective, "__call__")
        self.recordings: dict[Any, _Known] = {}  # by the shapes of a step's arrays

    def step(self, batch: Batch) -> dict[str, Any]:
        """One step up the objective on a batch. Returns the objective's metrics, in mean nats per row: floats, or scalars
        on the device, whose reading waits for it."""
        noise = self.model.noise(random.fold_in(self.key, NOISE, self.steps), batch, self.samples)
        row_params = {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}
        params = dict(self.parameters) | row_params
        out = dict(self.gradient) | {name: np.empty_like(v) for name, v in row_params.items()}
        inputs = {"batch": vars(batch), "noise": noise, "state": self.state, "step": self.steps}
        metrics, state = self._evaluate(params, inputs, out)
        if not dispatch.is_cuda(metrics["bound"]) and not math.isfinite(metrics["bound"]):
            self._fail(batch)
        self.optimizer.update(self.gradient)
        for name, optimizer in self.rows.items():
            optimizer.update(batch.index, out[name])
        self.state = state or self.state
        self.steps += 1
        return metrics

    def _evaluate(self, params: dict, inputs: dict, out: dict) -> tuple[dict[str, float], dict]:
        """(metrics, state) of a step, and its gradient in `out`."""

        def run() -> tuple[dict[str, float], dict]:
            return self._back(autodiff.vjp(lambda p: self._terms(p, inputs), params, has_aux=True, out=out))

        key = _shapes(inputs) if self.replays and not self.rows else None
        if key is None or (key not in self.recordings and len(self.recordings) == RECORDINGS):
            return run()
        flat = self.parameters.flat
        arrays = inputs | {"step": dispatch.namespace(flat).full((), self.steps, flat.dtype)}
        if key not in self.recordings:
            self.recordings[key] = known = _Known()
            try:
                known.recording = autodiff.Recording(self._terms, params, inputs=arrays, has_aux=True, out=out)
            except Exception:  # whatever it is, it shows when Python runs, if it has not to do with the recording
                return run()
            result = self._back(known.recording.first)
            known.recording.release()
            return result
        known = self.recordings[key]
        if known.recording is None:
            return run()
        expected = None if known.trusted else (run(), self.gradient.flat.copy())
        result = self._back(known.recording.replay(params, inputs=arrays))
        known.recording.release()
        if expected is not None:
            known.trusted = _same(expected, (result, self.gradient.flat))
            if not known.trusted:
                known.recording = None
                result, self.gradient.flat[:] = expected
        return result

    def _terms(self, params: dict, inputs: dict) -> tuple[Any, tuple[dict, dict]]:
        """(value, (metrics, state)) of the objective."""
        columns = dict(inputs["batch"])
        batch = Batch(columns, columns.pop("index"), columns.pop("weight"))
        terms = self.model.terms(params, inputs["state"], batch, inputs["noise"], inputs["step"])
        value, metrics = self.objective(terms, inputs["step"], batch.weight)
        return value, (metrics, terms.state)

    def _back(self, evaluated: tuple) -> tuple[dict[str, float], dict]:
        value, pull, (metrics, state) = evaluated
        self._pull(value, pull)
        return {name: x if dispatch.is_cuda(x) else float(x) for name, x in metrics.items()}, state

    def _pull(self, value: Any, pull: Callable) -> None:
        """Fill the gradient buffer: descending the optimiser's way is ascending the objective, hence the cotangent -1."""
        if not isinstance(value, dict):
            pull(value.dtype.type(-1))
            return
        covered = np.zeros(self.gradient.flat.size, bool)
        total = np.zeros_like(self.gradient.flat)
        for group in value:  # each group ascends its own scalar
            pull({g: v.dtype.type(-1 if g == group else 0) for g, v in value.items()})
            if group not in self.parameters.groups:
                known = ", ".join(self.parameters.groups)
                raise ConfigError(f"the objective names the parameter group {group!r}; known are {known}")
            part = self.parameters.groups[group]
            total[part] = self.gradient.flat[part]
            covered[part] = True
        self.gradient.flat[:] = np.where(covered, total, 0)

    def _fail(self, batch: Batch) -> None:
        bad = [name for name, value in self.parameters.items() if not np.isfinite(value).all()]
        where = f"parameter {bad[0]} is not finite" if bad else "all parameters are finite"
        rows = ", ".join(map(str, batch.index[:5]))
        raise NonFiniteError(
            f"training: the bound is not finite at step {self.steps} ({where}; batch of rows {rows}, ...); "
            "a smaller learning rate often helps"
        )

    def order(self, n_rows: int) -> np.ndarray:
        """The order of the rows in the current epoch."""
        return random.permutation(random.fold_in(self.key, ORDER, self.epochs), n_rows)

    def validate(self, table: Table, batch_size: int = 500) -> dict[str, float]:
        """The objective's metrics over a table, with no step taken: row-weighted means, the same noise every time."""
        totals: dict[str, Any] = {}
        weights: Any = 0.0
        key = random.fold_in(self.key, VALIDATE)
        for i, batch in enumerate(table.batches(random.fold_in(key, 0), batch_size)):
            noise = self.model.noise(random.fold_in(key, 1, i), batch, self.samples)
            row_params = {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}
            terms = self.model.terms(dict(self.parameters) | row_params, self.state, batch, noise, self.steps)
            _, metrics = self.objective(terms, self.steps, batch.weight)
            weight = np.float64(len(batch) if batch.weight is None else float(batch.weight.sum()))
            weights += weight
            for name, x in metrics.items():
                totals[name] = totals.get(name, 0.0) + weight * x
        return {name: float(x / weights) for name, x in totals.items()}


@dataclass
class _Known:
    """What is known of steps on batches of one shape."""

    recording: autodiff.Recording | None = None  # None: there cannot be one
    trusted: bool = False


def _is_pure(part: Any, method: str) -> bool:
    """Whether the class with the method, or one below it, says `pure = True`: an override has to say so itself."""
    for cls in type(part).__mro__:
        if "pure" in vars(cls):
            return vars(cls)["pure"]
        if method in vars(cls):
            return False
    return False


def _shapes(structure: Any, path: str = "") -> tuple | None:
    """What tells structures of arrays apart whose steps differ in more than values; None if something is not an array."""
    if isinstance(structure, dict):
        parts = [_shapes(part, f"{path}.{name}") for name, part in structure.items()]
        return None if None in parts else tuple(entry for part in parts for entry in part or ())
    if structure is None or isinstance(structure, int):
        return ((path,),)
    dense = isinstance(structure, np.ndarray) or (dispatch.is_cuda(structure) and not hasattr(structure, "indptr"))
    return ((path, structure.shape, structure.dtype),) if dense else None


def _same(expected: tuple, got: tuple) -> bool:
    """Whether ((metrics, state), gradient) have the same bits."""
    ((metrics, state), gradient), ((metrics_, state_), gradient_) = expected, got
    if metrics.keys() != metrics_.keys():
        return False
    pairs = [(x, metrics_[name]) for name, x in metrics.items()] + [(x, state_[name]) for name, x in state.items()]
    hosts = ((np.asarray(dispatch.to_host(x)), np.asarray(dispatch.to_host(y))) for x, y in [*pairs, (gradient, gradient_)])
    return all(x.tobytes() == y.tobytes() for x, y in hosts)


@dataclass
class History:
    """One row per epoch, as written to log.jsonl."""

    rows: list[dict[str, float]] = field(default_factory=list)


def train(
    model: Any,
    table: Table,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 100,
    validation: Table | None = None,
    progress: bool = False,
    run: RunFolder | None = None,
    trainer: Trainer | None = None,
    **settings: Any,
) -> tuple[Trainer, History]:
    """Train for a number of epochs or of steps; `settings` go to Trainer (objective, samples, learning_rate, seed, ...).

    validation : rows on which the objective is reported after each epoch
    progress   : a progress bar with the bound
    run        : a folder that receives the log and, after every epoch, the checkpoint
    Returns the trainer and the history. Raises NonFiniteError when the bound stops being finite.
    """
    if (epochs is None) == (steps is None):
        raise ConfigError(f"train: give epochs or steps, one of them; got epochs={epochs}, steps={steps}")
    _whole(batch_size=batch_size, **({"epochs": epochs} if epochs is not None else {"steps": steps}))
    if len(table) == 0:
        raise DataError("train: the table has no rows")
    trainer = trainer or Trainer(model, n_rows=len(table), **settings)
    table = table.to(trainer.device)
    validation = None if validation is None else validation.to(trainer.device)
    history = History()
    per_epoch = -(-len(table) // batch_size)
    total = epochs * per_epoch if epochs is not None else int(steps or 0)
    bar = None
    if progress:
        from tqdm import tqdm

        bar = tqdm(total=total, unit="step", dynamic_ncols=True, desc="training", disable=None)  # None: not on a terminal
    try:
        done = 0
        while done < total:
            started, before = time.perf_counter(), done
            sums: dict[str, Any] = {}
            seen = 0
            binarize = random.fold_in(trainer.key, BINARIZE, trainer.epochs)
            for batch in table.batches(binarize, batch_size, trainer.order(len(table))):
                metrics = trainer.step(batch)
                done += 1
                seen += len(batch)
                for name, x in metrics.items():
                    sums[name] = sums.get(name, 0.0) + np.float64(len(batch)) * x  # in float64 on a device too
                if bar is not None:
                    bar.update()
                    if done % 50 == 0 or done == total:
                        bar.set_postfix_str(f"epoch {trainer.epochs + 1}, bound {float(sums['bound']) / seen:.2f} nats")
                if done == total:
                    break
            trainer.epochs += 1
            seconds = time.perf_counter() - started
            row: dict[str, float] = {"epoch": trainer.epochs, "step": trainer.steps}
            row |= {f"train_{name}": float(x) / seen for name, x in sums.items()}  # a device is waited for here, once
            if validation is not None:
                row |= {f"validation_{name}": x for name, x in trainer.validate(validation).items()}
            _check_epoch(trainer, row)  # before anything of this epoch is kept
            row |= {"seconds": seconds, "steps_per_second": (done - before) / seconds}
            history.rows.append(row)
            if run is not None:
                run.log(row)
                run.save(trainer)
    finally:
        if bar is not None:
            bar.close()
    return trainer, history


def _check_epoch(trainer: Trainer, row: dict[str, float]) -> None:
    """The last update of an epoch may have broken what no later step has looked at."""
    bad = [name for name, value in trainer.parameters.items() if not np.isfinite(value).all()]
    bad += [name for name, x in row.items() if not math.isfinite(x)]
    if bad:
        raise NonFiniteError(
            f"training: {bad[0]} is not finite after step {trainer.steps} (epoch {trainer.epochs}); "
            "a smaller learning rate, or data on a smaller scale, often helps"
        )


class RunFolder:
    """config.json, log.jsonl and checkpoint.safetensors of one run. The folder must not exist yet, or be empty."""

    def __init__(self, path: str | os.PathLike, config: dict[str, Any]):
        self.path = Path(path)
        check_free(self.path)
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        self.config = config

    def log(self, row: dict[str, float]) -> None:
        with _writing(self.path), open(self.path / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self, trainer: Trainer) -> None:
        with _writing(self.path):
            save_checkpoint(self.path / "checkpoint.safetensors", trainer, self.config)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """An OSError in the block (a full disk, a folder taken away) becomes a RunError that names the run folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write into the run folder {path}: {error.strerror or error}") from None


def check_free(path: str | os.PathLike) -> None:
    """Raise RunError unless the folder does not exist yet, or is empty."""
    path = Path(path)
    try:
        occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:
        raise RunError(f"cannot look into {path}: {error.strerror or error}") from None
    if occupied:
        raise RunError(f"{path} already holds something; name a new folder, nothing was written")


def save_checkpoint(path: str | os.PathLike, trainer: Trainer, config: dict[str, Any]) -> None:
    """Parameters, optimiser, state and per-datum rows in one safetensors file, written beside the target and renamed."""
    from safetensors.numpy import save

    tensors = {f"parameters/{name}": value for name, value in trainer.parameters.items()}
    tensors |= {"optimizer/m": trainer.optimizer.m, "optimizer/v": trainer.optimizer.v}
    tensors |= {f"state/{name}": value for name, value in trainer.state.items()}
    for name, rows in trainer.rows.items():
        tensors |= {f"rows/{name}/values": rows.values, f"rows/{name}/m": rows.m, f"rows/{name}/v": rows.v}
        tensors[f"rows/{name}/steps"] = rows.steps
    tensors = {name: np.ascontiguousarray(dispatch.to_host(value)) for name, value in tensors.items()}
    counters = {"steps": trainer.steps, "epochs": trainer.epochs, "optimizer_step": trainer.optimizer.step}
    write_atomically(Path(path), save(tensors, metadata=metadata(config, counters)))


def metadata(config: dict[str, Any], counters: dict[str, int]) -> dict[str, str]:
    """The header of a checkpoint."""
    return {"format": FORMAT, "config": json.dumps(config), "counters": json.dumps(counters)}


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any]]:
    """(tensors, config, counters) of a checkpoint. Raises RunError for a file that is missing, damaged or foreign."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise RunError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        if header.get("format") != FORMAT:
            raise RunError(f"{path} is not a gvae checkpoint (format {header.get('format')!r}, expected {FORMAT!r})")
        return tensors, json.loads(header["config"]), json.loads(header["counters"])
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged: {error}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """The file holds the old content or the new one, whenever it is looked at."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _whole(**numbers: Any) -> None:
    for name, x in numbers.items():
        if not isinstance(x, (int, np.integer)) or isinstance(x, bool) or x < 1:
            raise ConfigError(f"{name} is {x!r}, expected a whole number of at least 1")
