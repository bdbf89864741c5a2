"""The trainer: a model, its parameters, an optimiser, and one step of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from gvae import ahead, autodiff, dispatch, random, threads
from gvae.data import Batch, Table
from gvae.errors import ConfigError, NonFiniteError, RunError
from gvae.nn import Parameters
from gvae.objectives import ELBO, REST, Objective
from gvae.optim import Adam, RowAdam, Schedule, norm, parse_average, shorten
from gvae.training.replay import Asked, Replays
from gvae.training.rows import infer

# what a key is folded with, once per use, for ever: streams of different purpose never meet
INIT, ORDER, BINARIZE, NOISE, VALIDATE, ROWS = range(6)

NAMED = 20  # rows at most that a failure is traced to
INFERENCE: dict[str, Any] = {"steps": 50, "draws": 2, "learning_rate": 0.4}  # in validation: cheap, and still a bound
ADVICE = "a smaller learning rate, a bound on the gradient or data on a smaller scale often helps"

Snapshot = tuple[dict[str, np.ndarray], dict[str, Any]]  # arrays by name, and plain values that JSON can hold


@dataclass
class Epoch:
    """What the epoch under way has so far: batches seen, rows and their sums of metrics (of finite steps), seconds."""

    batches: int = 0
    rows: int = 0
    sums: dict[str, Any] = field(default_factory=dict)  # floats, or scalars on the device
    seconds: float = 0.0


@dataclass
class Stopping:
    """The best validation bound, the epoch it was reached in, and the epochs since."""

    best: float | None = None
    epoch: int = 0
    waited: int = 0


class Trainer:
    """A model, its parameters and an optimiser; `step` is one step. All that changes is in `snapshot`.

    parameters : Parameters         state : the model's state         rows : per-datum parameters with their optimisers
    weights    : the parameters to look at: the running average if there is one, else the last
    chosen     : the parameters to keep: those of the best epoch under early stopping, else `weights`

    schedule   : of the learning rate (see gvae.optim)
    average    : "ema:0.999", "swa:10", ... (see gvae.optim.parse_average); of `parameters`, not of `rows` and `state`
    clip       : the largest Euclidean norm of the gradient of all parameters together; a longer one is shortened to it

    Where model and objective call themselves `pure` (see gvae.models), steps on batches of one shape are recorded once and
    made again, without running them again: gvae.training.replay says how, and when that counts. What cannot be recorded
    (sparse data, per-datum parameters, models that decide by values or draw binary codes) runs as Python in every step, and
    with `replays=False` everything does.

    device : "cpu", or "cuda": parameters, optimiser and all that a step draws live there, batches have to (`Table.to`), and
             a step waits for nothing, but for the comparisons with what is recorded: its metrics are scalars on the device,
             and are looked at when they are read
    graphs : recorded steps go on as lists of launches, with the same bits: on a CPU those of gvae.capture, on a device
             CUDA graphs, of which `train` makes use (see gvae.training.feed). `why_not` of what `replays` knows, or of
             `feed`, says why where that is not possible; steps then go node by node, as they do with False. What a step
             takes from its number, the learning rate say, is settled on a device when a pass over the data begins
    """

    def __init__(
        self,
        model: Any,
        *,
        objective: Objective | None = None,
        samples: int = 1,
        learning_rate: float = 1e-3,
        schedule: Schedule | None = None,
        average: str | None = None,
        clip: float | None = None,
        seed: int = 0,
        n_rows: int = 0,
        parameters: dict[str, np.ndarray] | None = None,
        replays: bool = True,
        device: str = "cpu",
        graphs: bool = True,
    ):
        check_whole(samples=samples)
        dispatch.module(device)
        if clip is not None and not (isinstance(clip, (int, float)) and 0 < clip < math.inf):
            raise ConfigError(f"clip is {clip!r}, expected a positive number")
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
        self.learning_rate, self.schedule, self.clip = learning_rate, schedule or Schedule(), clip
        self.average = None if average is None else parse_average(average, self.parameters)
        self.best: Parameters | None = None
        self.stopping = Stopping()
        self.steps = 0
        self.epochs = 0
        self.epoch = Epoch()
        self.scale = 1.0  # of the learning rate: halved by every roll-back
        self.rollbacks = 0  # since an epoch last ended well
        self.mark: Snapshot | None = None  # where a roll-back leads to
        pure = _is_pure(model, "terms") and _is_pure(self.objective, "__call__")
        self.replays = Replays(graphs) if replays and pure else None
        self.reported: tuple[str, ...] = ()  # the names of the last step's metrics
        self.graphs = graphs
        self.pace = threads.Pace()
        self.feed: Any = None  # of gvae.training.feed, while there is one

    def step(self, batch: Batch) -> dict[str, Any]:
        """One step up the objective on a batch. Returns the objective's metrics, in mean nats per row: floats, or scalars
        on the device, whose reading waits for it.

        Raises NonFiniteError if the bound or a gradient is not finite, and then has changed nothing but the gradient (and
        the batch's own parameters, by earlier steps of `row_steps`); on a device nothing is looked at.
        """
        with self.pace:
            metrics, update = self.prepare(batch)
            update()
        return metrics

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.learning_rate * self.scale * self.schedule(step)

    def prepare(self, batch: Batch, given: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Callable[[], None]]:
        """(metrics, update): `update()` changes all that a step changes. Until then that is the gradient alone, and from
        then on no memory is needed: a step that there is no memory for has not been taken.

        given : what the step takes from its number, in arrays on the device: the key of its `noise`, `step` itself, Adam's
                numbers `adam`, and `weight`, the average's. It is not counted then
        """
        if given is None:
            key, step = random.fold_in(self.key, NOISE, self.steps), self.steps
        else:
            key, step = given["noise"], given["step"]
        noise = self.model.noise(key, batch, self.samples)
        inputs = {"batch": vars(batch), "noise": noise, "state": self.state, "step": step}
        if hasattr(self.model, "update"):
            metrics, state, move = self._move(batch, inputs)
        else:
            metrics, state, move = self._climb(batch, inputs, given)
        self.reported = tuple(metrics)
        flat, averaged = self.parameters.flat, self.average is not None
        scratch = dispatch.empty(flat.shape, flat.dtype, flat) if averaged else None

        def update() -> None:
            move()
            if self.average is not None:
                self.average.after_step(self.parameters, None if given is None else given["weight"], scratch)
            self._keep(state)
            self.steps += given is None

        return metrics, update

    def _move(self, batch: Batch, inputs: dict) -> tuple[dict[str, Any], dict, Callable[[], None]]:
        """(metrics, state, move) of a step that the model takes itself; `move()` takes it."""
        _, (metrics, state) = self._terms(dict(self.parameters), inputs)
        metrics = {name: x if dispatch.is_cuda(x) else float(x) for name, x in metrics.items()}
        if self.device == "cpu" and not math.isfinite(metrics["bound"]):
            raise self._failure(dict(self.parameters), inputs, {}, metrics["bound"])
        moved = self.model.update(self.parameters, batch)

        def move() -> None:
            for name, value in moved.items():
                self.parameters[name][...] = value

        return metrics, state, move

    def _climb(
        self, batch: Batch, inputs: dict, given: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any], dict, Callable[[], None]]:
        """(metrics, state, move) of a step of the optimisers; `move()` takes it."""
        if given is None:
            self.optimizer.learning_rate = self.rate(self.steps)
        for optimizer in self.rows.values():
            optimizer.learning_rate = self.optimizer.learning_rate * getattr(self.model, "row_rate", 1.0)
        if self.rows:
            self._climb_alone(batch, inputs)
        row_params = self._own(batch)
        params = dict(self.parameters) | row_params
        out = dict(self.gradient) | {name: np.empty_like(v) for name, v in row_params.items()}
        if ahead.is_wanted() and self.device == "cpu" and self.replays is not None and not self.replays.known:
            ahead.compile_calls(ahead.rehearsed(lambda traced: self._rehearse(params, inputs, out, traced)))
        metrics, state = self._evaluate(params, inputs, out)
        gradients = [self.gradient.flat, *(out[name] for name in self.rows)]
        length = norm(*gradients) if self.device == "cpu" or self.clip is not None else 0.0
        most = math.inf if self.clip is not None else float(np.finfo(self.gradient.flat.dtype).max) ** 0.5  # Adam squares it
        if self.device == "cpu" and not (math.isfinite(metrics["bound"]) and length < most):
            raise self._failure(params, inputs, out, metrics["bound"])
        if self.clip is not None:
            shorten(gradients, length, self.clip)
        moved = {name: optimizer.moved(batch.index, out[name]) for name, optimizer in self.rows.items()}

        def move() -> None:
            self.optimizer.update(self.gradient, *(() if given is None else (given["adam"],)))
            for name, optimizer in self.rows.items():
                optimizer.keep(batch.index, moved[name])

        return metrics, state, move

    def _rehearse(self, params: dict, inputs: dict, out: dict, traced: Callable) -> None:
        """A step that changes nothing if its kernels are not run."""
        asked = Asked(self._terms, self._back, params, inputs, out, self.gradient.flat)
        asked.traced(traced, *autodiff.mapped(np.copy, (asked.arrays, out)))
        self.optimizer.update(self.gradient, list(map(self.gradient.flat.dtype.type, self.optimizer.numbers(0.0, 1))))
        norm(self.gradient.flat)

    def _keep(self, state: dict[str, Any]) -> None:
        """The model's new state: on a device in the arrays of the old one, for a graph reads those."""
        for name, new in (state or {}).items():
            old: Any = self.state.get(name)
            if dispatch.is_cuda(old) and dispatch.is_cuda(new) and (old.shape, old.dtype) == (new.shape, new.dtype):
                old[...] = new
                state[name] = old
        self.state = state or self.state

    def _climb_alone(self, batch: Batch, inputs: dict) -> None:
        """The steps that a batch's own parameters take before those of all: the E step of variational EM."""
        shared = dict(self.parameters)
        for t in range(getattr(self.model, "row_steps", 0)):
            own = self._own(batch)
            draws = self.model.noise(random.fold_in(self.key, ROWS, self.steps, t), batch, self.samples)
            given, out = inputs | {"noise": draws}, {name: np.empty_like(v) for name, v in own.items()}
            evaluated = autodiff.vjp(lambda p, given=given: self._terms(shared | p, given), own, has_aux=True, out=out)
            metrics, _ = self._back(evaluated, out)
            if self.device == "cpu" and not (math.isfinite(metrics["bound"]) and math.isfinite(norm(*out.values()))):
                raise self._failure(shared | own, given, out, metrics["bound"])
            for name, optimizer in self.rows.items():
                optimizer.update(batch.index, out[name])

    def _own(self, batch: Batch) -> dict[str, Any]:
        """The per-datum parameters of a batch's rows."""
        return {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}

    def _evaluate(self, params: dict, inputs: dict, out: dict) -> tuple[dict[str, Any], dict]:
        """(metrics, state) of a step, and its gradient in `out`."""
        if self.replays is None or self.rows:
            evaluated = autodiff.vjp(lambda p: self._terms(p, inputs), params, has_aux=True, out=out)
            metrics, state = self._back(evaluated, out)
        else:
            metrics, state = self.replays.evaluate(self._terms, self._back, params, inputs, out, self.gradient.flat)
        return {name: x if dispatch.is_cuda(x) else float(x) for name, x in metrics.items()}, state

    def _terms(self, params: dict, inputs: dict) -> tuple[Any, tuple[dict, dict]]:
        """(value, (metrics, state)) of the objective."""
        columns = dict(inputs["batch"])
        batch = Batch(columns, columns.pop("index"), columns.pop("weight"))
        terms = self.model.terms(params, inputs["state"], batch, inputs["noise"], inputs["step"])
        value, metrics = self.objective(terms, inputs["step"], batch.weight)
        return value, (metrics, terms.state)

    def _back(self, evaluated: tuple, out: dict) -> tuple[dict[str, Any], dict]:
        value, pull, (metrics, state) = evaluated
        self._pull(value, pull, out)
        return metrics, state

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

    def _failure(self, params: dict, inputs: dict, out: dict, bound: float) -> NonFiniteError:
        """Which tensor is not finite, and which rows make it so on their own."""
        index, rows = inputs["batch"]["index"], []
        broken = [name for name, value in params.items() if not np.isfinite(value).all()]
        if broken:
            tensor = f"parameter {broken[0]}"
        else:  # the parameters are good: this step alone
            gradients = [f"the gradient of {name}" for name, value in out.items() if not np.isfinite(value).all()]
            tensor = "the bound" if not math.isfinite(bound) else next(iter(gradients), "the gradient's norm, squared,")
            try:
                with np.errstate(all="ignore"):
                    found = self._rows_that_fail(params, inputs, np.arange(len(index)))
            except Exception:  # a model that takes whole batches only: the search must not hide what it explains
                found = []
            rows = [int(index[i]) for i in found[:NAMED]]
        which = "because of rows" if rows else "batch of rows"
        first = ", ".join(str(i) for i in (rows or index.tolist())[:5])
        return NonFiniteError(
            f"training: {tensor} is not finite at step {self.steps} ({which} {first}, ...); {ADVICE}",
            tensor,
            self.steps,
            rows,
        )

    def _rows_that_fail(self, params: dict, inputs: dict, among: np.ndarray) -> list[int]:
        """Positions in the batch of rows that alone give no finite bound or gradient, by bisection; not many more than
        NAMED. None are found where the model's noise does not have them on its second axis."""
        n, noise = len(inputs["batch"]["index"]), inputs["noise"]
        if not all(getattr(draws, "shape", ())[1:2] == (n,) for draws in noise.values()):
            return []
        columns = {k: None if v is None else v[among] for k, v in inputs["batch"].items()}
        part = inputs | {"batch": columns, "noise": {name: draws[:, among] for name, draws in noise.items()}}
        own = params | {name: params[name][among] for name in self.rows}
        value, pull, (metrics, _) = autodiff.vjp(lambda p: self._terms(p, part), own, has_aux=True)
        minus = {g: v.dtype.type(-1) for g, v in value.items()} if isinstance(value, dict) else value.dtype.type(-1)
        if math.isfinite(metrics["bound"]) and all(np.isfinite(bar).all() for bar in pull(minus).values()):
            return []
        if len(among) == 1:
            return [int(among[0])]
        found = self._rows_that_fail(params, inputs, among[: len(among) // 2])
        if len(found) < NAMED:
            found += self._rows_that_fail(params, inputs, among[len(among) // 2 :])
        return found

    def order(self, n_rows: int) -> np.ndarray:
        """The order of the rows in the current epoch."""
        return random.permutation(random.fold_in(self.key, ORDER, self.epochs), n_rows)

    def validate(self, table: Table, batch_size: int = 500) -> dict[str, float]:
        """The objective's metrics over a table, with no step taken: row-weighted means, the same noise every time. The rows
        need not be those of training: per-datum parameters are inferred."""
        totals: dict[str, Any] = {}
        weights: Any = 0.0
        key = random.fold_in(self.key, VALIDATE)
        for i, batch in enumerate(table.batches(random.fold_in(key, 0), batch_size)):
            noise = self.model.noise(random.fold_in(key, 1, i), batch, self.samples)
            own = infer(self.model, self.weights, self.state, batch, random.fold_in(key, 2), **INFERENCE)
            terms = self.model.terms(dict(self.weights) | own, self.state, batch, noise, self.steps)
            _, metrics = self.objective(terms, self.steps, batch.weight)
            weight = np.float64(len(batch) if batch.weight is None else float(batch.weight.sum()))
            weights += weight
            for name, x in metrics.items():
                totals[name] = totals.get(name, 0.0) + weight * x
        return {name: float(x / weights) for name, x in totals.items()}

    @property
    def weights(self) -> Parameters:
        return self.average.values if self.average is not None and self.average.count > 0 else self.parameters

    @property
    def chosen(self) -> Parameters:
        return self.weights if self.best is None else self.best

    def look(self, bound: float) -> None:
        """An epoch has ended with this validation bound: keep the weights if it is the best so far, count if not."""
        if self.stopping.best is not None and not bound > self.stopping.best:
            self.stopping.waited += 1
            return
        self.best = self.parameters.zeros() if self.best is None else self.best
        self.best.flat[:] = self.weights.flat
        self.stopping = Stopping(bound, self.epochs)

    # ---- all that changes, to be saved and brought back

    def snapshot(self) -> Snapshot:
        """(arrays by name, counters): all that training changes. The arrays are the trainer's own, not copies."""
        arrays = {f"parameters/{name}": value for name, value in self.parameters.items()}
        arrays |= {"optimizer/m": self.optimizer.m, "optimizer/v": self.optimizer.v}
        arrays |= {f"state/{name}": x if dispatch.is_cuda(x) else np.asarray(x) for name, x in self.state.items()}
        for name, rows in self.rows.items():
            arrays |= {f"rows/{name}/values": rows.values, f"rows/{name}/m": rows.m, f"rows/{name}/v": rows.v}
            arrays[f"rows/{name}/steps"] = rows.steps
        if self.average is not None:
            arrays |= {f"average/{name}": value for name, value in self.average.values.items()}
        if self.best is not None:
            arrays |= {f"best/{name}": value for name, value in self.best.items()}
        counters: dict[str, Any] = {"steps": self.steps, "epochs": self.epochs, "optimizer_step": self.optimizer.step}
        sums = {name: float(x) for name, x in self.epoch.sums.items()}  # a device is waited for here
        counters |= {
            "epoch": asdict(replace(self.epoch, sums=sums)),
            "stopping": asdict(self.stopping),
            "schedule": self.schedule.state,
        }
        counters |= {"average": self.average.count if self.average else 0, "scale": self.scale, "rollbacks": self.rollbacks}
        return arrays, counters

    def restore(self, snapshot: Snapshot) -> None:
        """Become what a trainer with these settings was when it made the snapshot. RunError if they do not fit; then
        nothing is changed."""
        arrays, counters = snapshot
        mine, own = self.snapshot()
        if not _alike(own, counters):
            raise RunError("the counters do not fit the settings of training")
        best = {f"best/{name}": value for name, value in self.parameters.items()}
        mine = {name: array for name, array in mine.items() if name not in best}
        if counters["stopping"]["best"] is not None:
            mine |= best
        if _kinds(arrays) != _kinds(mine):
            raise RunError("the arrays do not fit the model and the settings of training")
        # all memory first, so that where there is not enough nothing is changed
        there = {name: dispatch.to_device(array, self.device) for name, array in arrays.items()}
        state = {name: there[f"state/{name}"].copy() for name in self.state}
        self.best = None if counters["stopping"]["best"] is None else self.parameters.zeros()
        for name, array in self.snapshot()[0].items():
            if not name.startswith("state/"):
                array[...] = there[name]
        self.state = state
        self.feed = None  # it knows the state's arrays
        self.steps, self.epochs, self.optimizer.step = (counters[n] for n in ("steps", "epochs", "optimizer_step"))
        self.epoch, self.stopping = Epoch(**copy.deepcopy(counters["epoch"])), Stopping(**counters["stopping"])
        self.schedule.state = dict(counters["schedule"])
        self.scale, self.rollbacks = counters["scale"], counters["rollbacks"]
        if self.average is not None:
            self.average.count = counters["average"]

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


def _alike(mine: Any, theirs: Any, name: str = "") -> bool:
    """Whether counters, which may come from a file, have the structure and the kinds of numbers of the trainer's own."""
    if name == "sums":  # empty at the start of an epoch
        return isinstance(theirs, dict) and all(type(x) is float for x in theirs.values())
    if isinstance(mine, dict):
        same = isinstance(theirs, dict) and mine.keys() == theirs.keys()
        return same and all(_alike(x, theirs[key], key) for key, x in mine.items())
    if type(mine) is int:
        return type(theirs) is int and 0 <= theirs < 2**62
    return type(theirs) is float or (theirs is None and name == "best")


def _kinds(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def check_whole(**numbers: Any) -> None:
    for name, x in numbers.items():
        if not isinstance(x, (int, np.integer)) or isinstance(x, bool) or x < 1:
            raise ConfigError(f"{name} is {x!r}, expected a whole number of at least 1")
