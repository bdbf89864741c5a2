"""The trainer: a model, its parameters, an optimiser, and one step of it."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gvae import random
from gvae.autodiff import vjp
from gvae.checks import check_whole
from gvae.data import Batch, Table
from gvae.errors import ConfigError
from gvae.nn import Parameters
from gvae.objectives import ELBO, REST, Objective
from gvae.optim import RowAdam, Schedule, norm, parse_average, parse_optimizer, shorten
from gvae.runtime import compile as compiling
from gvae.runtime import pool
from gvae.runtime.device import empty, is_cuda, module, namespace, to_device, to_host
from gvae.structures import mapped
from gvae.training.failure import failure
from gvae.training.inputs import INIT, ORDER, PREPARE, ROWS, StepInputs, records
from gvae.training.program import Programs
from gvae.training.snapshot import Epoch, Snapshot, Stopping, restore, snapshot
from gvae.training.validation import validate

__all__ = ["Trainer"]

COMING = 64  # records that are made at once, which takes as long as making a few of them


class Trainer:
    """A model, its parameters and an optimiser; `step` is one step. All that changes is in `snapshot`.

    parameters : Parameters         state : the model's state         rows : per-datum parameters with their optimisers
    weights    : the parameters to look at: the running average if there is one, else the last
    chosen     : the parameters to keep: those of the best epoch under early stopping, else `weights`; `chosen_state` is the
                 model's state that goes with them, on the host
    steps      : the number of the next step, advanced by `step` and by `skip`; `taken` are those that were not skipped

    optimizer  : "adam", "adam:beta1=0.5,eps=1e-4", "adamw:0.01", "sgd:0.9", ... (see gvae.optim.parse_optimizer); of
                 `parameters`: `rows` have an Adam of their own, of its default settings
    schedule   : of the learning rate (see gvae.optim)
    average    : "ema:0.999", "swa:10", ... (see gvae.optim.parse_average); of `parameters`, not of `rows` and `state`
    clip       : the largest Euclidean norm of the gradient of all parameters together; a longer one is shortened to it
    device     : "cpu", or "cuda": parameters, optimiser and all that a step draws live there, batches have to (`Table.to`),
                 and a step waits for nothing: its metrics are scalars on the device, and are looked at when they are read
    programs   : after the first of its shape, a step's work is done by a program made of what Python did, with the same
                 bits: see gvae.training.program. `why_not` says why there is none. A model, an objective and, on a device,
                 a subclass with a `step` of its own have to call themselves `pure` for it (see gvae.models)

    Another way to take a step: a subclass with another `step`, which `train` then takes.

        class Signs(Trainer):
            def step(self, batch, inputs=None):
                now = self.inputs() if inputs is None else inputs
                noise = self.model.noise(now.noise, batch, self.samples)
                metrics, state, gradient = self.value_and_gradient(dict(self.parameters), batch, noise, now)
                self.parameters.flat -= 1e-3 * np.sign(self.gradient.flat)
                self.steps += 1
                return metrics
    """

    pure = True  # of `step`

    def __init__(
        self,
        model: Any,
        *,
        objective: Objective | None = None,
        samples: int = 1,
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        schedule: Schedule | None = None,
        average: str | None = None,
        clip: float | None = None,
        seed: int = 0,
        n_rows: int = 0,
        parameters: dict[str, np.ndarray] | None = None,
        device: str = "cpu",
        programs: bool = True,
        replays: bool | None = None,
        graphs: bool | None = None,
    ):
        check_whole(samples=samples)
        module(device)
        if clip is not None and not (isinstance(clip, (int, float)) and 0 < clip < math.inf):
            raise ConfigError(f"clip is {clip!r}, expected a positive number")
        if replays is not None or graphs is not None:
            warnings.warn("Trainer: replays and graphs are now programs", DeprecationWarning, stacklevel=2)
            programs = programs and replays is not False and graphs is not False
        self.model, self.objective, self.samples = model, objective or ELBO(), samples
        self.key = random.key(seed)
        init_key = random.fold_in(self.key, INIT)
        self.device = device
        self.parameters = Parameters(model.init(init_key) if parameters is None else parameters).to(device)
        self.gradient = self.parameters.zeros()
        self.optimizer = parse_optimizer(optimizer, self.parameters, learning_rate)
        state = model.init_state(init_key) if hasattr(model, "init_state") else {}
        self.state = {name: to_device(value, device) for name, value in state.items()}
        rows = model.init_rows(init_key, n_rows) if hasattr(model, "init_rows") else {}
        rows = {name: to_device(values, device) for name, values in rows.items()}
        self.rows = {name: RowAdam(values, learning_rate) for name, values in rows.items()}
        self.learning_rate, self.schedule, self.clip = learning_rate, schedule or Schedule(), clip
        self.average = None if average is None else parse_average(average, self.parameters)
        self.best: Parameters | None = None
        self.best_state: dict[str, Any] = {}  # of the epoch of `best`
        self.stopping = Stopping()
        self.prepares = parameters is None and hasattr(model, "prepare")
        self.steps = self.skipped = 0
        self.epochs = 0
        self.epoch = Epoch()
        self.scale = 1.0  # of the learning rate: halved by every roll-back
        self.rollbacks = 0  # since an epoch last ended well
        self.mark: Snapshot | None = None  # where a roll-back leads to
        self._coming: tuple[int, np.ndarray] = 0, np.zeros(0)  # the number of a step, and the records from there on
        self.pace = pool.Pace()
        self.programs = Programs()
        self.graph: Any = None  # a CudaGraph, while there is one
        self.reported: tuple[str, ...] = ()  # the names of the last step's metrics
        self.why_not = "" if programs else "programs=False"
        if not self.why_not:
            self.why_not = self._why_not()

    @property
    def taken(self) -> int:
        """How many steps have been taken: those of the optimiser, and of an average after every step."""
        return self.steps - self.skipped

    def step(self, batch: Batch, inputs: StepInputs | None = None) -> dict[str, Any]:
        """One step up the objective on a batch. Returns the objective's metrics, in mean nats per row: floats, or scalars
        on the device, whose reading waits for it.

        inputs : what differs from step to step; by default that of step `steps`
        Raises NonFiniteError if the bound or a gradient is not finite, MemoryError if there is not enough, and has then
        changed nothing but the gradient (and the batch's own parameters, by earlier steps of `row_steps`); on a device no
        number is looked at.
        """
        now = self.inputs() if inputs is None else inputs
        with self.pace:
            noise = self.model.noise(now.noise, batch, self.samples)
            params = dict(self.parameters) | self.rows_of(batch, now)
            metrics, state, gradient = self.value_and_gradient(params, batch, noise, now)
            self.look_and_clip(params, batch, noise, metrics, gradient)
            update = self.update(batch, now, gradient)  # takes the memory that it needs, and changes nothing yet
            sums = self.epoch.plus(metrics, len(batch))
            update()
            self.keep(state, sums)
        self.steps += 1
        return metrics

    def inputs(self) -> StepInputs:
        """What step `steps` takes beside its batch."""
        first, coming = self._coming
        i = self.steps - first
        known = 0 <= i < len(coming) and (coming["taken"][i], coming["rate"][i]) == (self.taken, self.rate(self.steps))
        if not known:
            i, coming = 0, records(self, COMING)
            self._coming = self.steps, coming
        now, flat = StepInputs.of(coming[i]), self.parameters.flat
        if self.device == "cpu":
            return now
        return replace(now, step=namespace(flat).full((), float(now.step), flat.dtype))

    def skip(self) -> None:
        """Take no step, and go to the next: what a step draws depends on its number."""
        self.steps, self.skipped = self.steps + 1, self.skipped + 1

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.learning_rate * self.scale * self.schedule(step)

    # ---- parts of a step

    def value_and_gradient(self, params: dict, batch: Batch, noise: dict, now: StepInputs) -> tuple[dict, dict, dict]:
        """(metrics, state, gradient) of the objective at params. The gradient, by name, of all that shares one learning rate
        is `self.gradient`; there is none for a model that takes its steps itself."""
        inputs = self.arguments(batch, noise, now.step)
        gradient: dict[str, Any] = {}
        if hasattr(self.model, "update"):
            _, (metrics, state) = self.evaluate(params, inputs)
        else:
            own = {name: np.empty_like(params[name]) for name in self.rows}
            gradient = dict(self.gradient) | own
            if self.device == "cpu" and not self.why_not:
                if compiling.is_asked() and not self.programs.known:
                    run = partial(self._rehearse, params, gradient, inputs)
                    compiling.compile_calls(compiling.rehearsed(run))
                metrics, state = self.programs(self._work, params, gradient, inputs)
            else:
                metrics, state = self._work(params, gradient, inputs)
        self.reported = tuple(metrics)
        return {name: x if is_cuda(x) else float(x) for name, x in metrics.items()}, state, gradient

    def look_and_clip(self, params: dict, batch: Batch, noise: dict, metrics: dict, gradient: dict) -> None:
        """Raise NonFiniteError, except on a device, and shorten the gradient in place."""
        arrays = [self.gradient.flat, *(gradient[name] for name in self.rows)] if gradient else []
        length = norm(*arrays) if arrays and (self.device == "cpu" or self.clip is not None) else 0.0
        most = math.inf if self.clip is not None else float(np.finfo(self.gradient.flat.dtype).max) ** 0.5  # it is squared
        if self.device == "cpu" and not (math.isfinite(metrics["bound"]) and length < most):
            raise failure(self, params, batch, noise, metrics["bound"], gradient)
        if self.clip is not None and arrays:
            shorten(arrays, length, self.clip)

    def update(self, batch: Batch, now: StepInputs, gradient: dict) -> Callable[[], None]:
        """What moves the parameters down the gradient, and their average with them. It needs no memory when it is called."""
        own = self.model.update(self.parameters, batch) if hasattr(self.model, "update") else {}
        rows = {name: optimizer.moved(batch.index, gradient[name]) for name, optimizer in self.rows.items()}
        flat = self.parameters.flat
        scratch = empty(flat.shape, flat.dtype, flat) if self.average is not None else None

        def move() -> None:
            if gradient:
                self.optimizer.update(self.gradient, now.numbers)
            for name, value in own.items():
                self.parameters[name][...] = value
            for name, optimizer in self.rows.items():
                optimizer.keep(batch.index, rows[name])
            if self.average is not None:
                self.average.after_step(self.parameters, now.weight, scratch)

        return move

    def keep(self, state: dict[str, Any] | None, sums: dict[str, Any]) -> None:
        """The model's new state and the epoch's new sums: on a device in the arrays of the old ones, which a graph knows."""
        self.state = _in_place(self.state, state or self.state)
        self.epoch.sums = _in_place(self.epoch.sums, sums)

    def rows_of(self, batch: Batch, now: StepInputs) -> dict[str, Any]:
        """The per-datum parameters of a batch's rows, after the steps that they take before those of all: the E step of
        variational EM. {} for a model that has none."""
        if not self.rows:
            return {}
        for optimizer in self.rows.values():
            optimizer.learning_rate = now.rate * getattr(self.model, "row_rate", 1.0)
        shared = dict(self.parameters)
        for t in range(getattr(self.model, "row_steps", 0)):
            own = {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}
            draws = self.model.noise(random.fold_in(self.key, ROWS, self.steps, t), batch, self.samples)
            given = self.arguments(batch, draws, now.step)
            out = {name: np.empty_like(v) for name, v in own.items()}
            metrics, _ = self._work(own, out, given, shared)
            if self.device == "cpu" and not (math.isfinite(float(metrics["bound"])) and math.isfinite(norm(*out.values()))):
                raise failure(self, shared | own, batch, draws, float(metrics["bound"]), out)
            for name, optimizer in self.rows.items():
                optimizer.update(batch.index, out[name])
        return {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}

    # ---- the objective

    def _work(self, params: dict, out: dict, inputs: dict, constant: dict | None = None) -> tuple[dict, dict]:
        """(metrics, state) of the objective, and its gradient with respect to params in `out`."""
        value, pull, (metrics, state) = vjp(
            lambda p: self.evaluate((constant or {}) | p, inputs), params, has_aux=True, out=out
        )
        self._pull(value, pull, out)
        return metrics, state

    def arguments(self, batch: Batch, noise: dict, step: Any) -> dict[str, Any]:
        """What the objective is computed from, beside the parameters."""
        return {"batch": vars(batch), "noise": noise, "state": self.state, "step": step}

    def evaluate(self, params: dict, inputs: dict) -> tuple[Any, tuple[dict, dict]]:
        """(value, (metrics, state)) of the objective, of what `arguments` gives."""
        columns = dict(inputs["batch"])
        batch = Batch(columns, columns.pop("index"), columns.pop("weight"))
        terms = self.model.terms(params, inputs["state"], batch, inputs["noise"], inputs["step"])
        value, metrics = self.objective(terms, inputs["step"], batch.weight)
        return value, (metrics, terms.state)

    def _pull(self, value: Any, pull: Callable, out: dict) -> None:
        """Fill the gradients, `out`: descending the optimiser's way is ascending the objective, hence the cotangent -1."""
        if not isinstance(value, dict):
            pull(value.dtype.type(-1))
            return
        ascends: dict[int, list[str]] = {id(scalar): [] for scalar in value.values()}  # the parameters of each scalar
        known = dict.fromkeys(name.partition(".")[0] for name in out)
        for group in value:
            if group != REST and group not in known:
                raise ConfigError(f"the objective names the parameter group {group!r}; known are {', '.join(known)}")
        for name in out:
            group = name.partition(".")[0]
            if group in value or REST in value:
                ascends[id(value[group if group in value else REST])].append(name)
            else:
                out[name][...] = 0
        for scalar, names in ascends.items():
            first = next(group for group, v in value.items() if id(v) == scalar)  # groups may share one
            pull({g: v.dtype.type(-1) if g == first else None for g, v in value.items()}, only=names)

    def _rehearse(self, params: dict, out: dict, inputs: dict, traced: Callable) -> None:
        """A step that changes nothing if its kernels are not run."""
        self._work(*(mapped(traced, part) for part in (params, *mapped(np.copy, (out, inputs)))))
        self.optimizer.update(self.gradient, list(map(self.gradient.flat.dtype.type, self.optimizer.numbers(0.0, 1))))
        norm(self.gradient.flat)

    def _why_not(self) -> str:
        """Why steps stay Python's, if they do."""
        if self.rows:
            return "the model has per-datum parameters"
        if hasattr(self.model, "update"):
            return "the model takes its steps itself"
        parts = {"terms": self.model, "__call__": self.objective} | ({} if self.device == "cpu" else {"step": self})
        for method, part in parts.items():
            if not _is_pure(part, method):
                return f"{type(part).__name__} does not call its {method} pure"
        return ""

    # ---- around the steps

    def prepare(self, table: Table) -> None:
        """Let the model learn what it learns of the training rows before the first step, unless parameters were given."""
        if self.prepares and self.steps == 0:
            host = {name: np.asarray(to_host(value)) for name, value in self.parameters.items()}
            params, state = self.model.prepare(host, self.state, table, random.fold_in(self.key, PREPARE))
            for name, value in params.items():
                self.parameters[name][...] = to_device(value, self.device)
            self.state = {name: to_device(value, self.device) for name, value in state.items()}

    def order(self, n_rows: int) -> np.ndarray:
        """The order of the rows in the current epoch."""
        return random.permutation(random.fold_in(self.key, ORDER, self.epochs), n_rows)

    def validate(self, table: Table, batch_size: int = 500) -> dict[str, float]:
        """The objective's metrics over a table: see gvae.training.validation."""
        return validate(self, table, batch_size)

    @property
    def weights(self) -> Parameters:
        average = self.average
        return average.values if average is not None and average.terms(self.taken) > 0 else self.parameters

    @property
    def chosen(self) -> Parameters:
        return self.weights if self.best is None else self.best

    @property
    def chosen_state(self) -> dict[str, np.ndarray]:
        state = self.state if self.best is None else self.best_state
        return {name: np.asarray(to_host(value)) for name, value in state.items()}

    def look(self, bound: float) -> None:
        """An epoch, or some of them, ended with this validation bound: keep weights and state if it is the best so far, else
        count."""
        if self.stopping.best is not None and not bound > self.stopping.best:
            self.stopping.waited += 1
            return
        self.best = self.parameters.zeros() if self.best is None else self.best
        self.best.flat[:] = self.weights.flat
        self.best_state = {name: value.copy() for name, value in self.state.items()}  # a step may write to its arrays
        self.stopping = Stopping(bound, self.epochs)

    def snapshot(self) -> Snapshot:
        """All that training changes: see gvae.training.snapshot."""
        return snapshot(self)

    def restore(self, saved: Snapshot) -> None:
        """Become what a trainer with these settings was when it made the snapshot."""
        restore(self, saved)

    def set_mark(self) -> None:
        """Remember this moment: here `roll_back` leads."""
        arrays, counters = self.snapshot()
        self.mark = {name: array.copy() for name, array in arrays.items()}, copy.deepcopy(counters)

    def roll_back(self) -> None:
        """Return to the mark, with half of the learning rate."""
        assert self.mark is not None
        scale, rollbacks = self.scale / 2, self.rollbacks + 1
        self.restore(self.mark)
        self.scale, self.rollbacks = scale, rollbacks


def _is_pure(part: Any, method: str) -> bool:
    """Whether the class with the method, or one below it, says `pure = True`: an override has to say so itself."""
    for cls in type(part).__mro__:
        if "pure" in vars(cls):
            return vars(cls)["pure"]
        if method in vars(cls):
            return False
    return False


def _in_place(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """new; what lies on a device, in the arrays of the old."""
    for name, value in new.items():
        there: Any = old.get(name)
        if is_cuda(there) and is_cuda(value) and (there.shape, there.dtype) == (value.shape, value.dtype):
            there[...] = value
            new[name] = there
    return new
