"""The trainer: a model, its parameters, an optimiser, and one step of it."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from gvae import random
from gvae.autodiff import vjp
from gvae.checks import check_whole
from gvae.data import Batch, Shuffle, Table
from gvae.data.rows import Order, default_window
from gvae.errors import ConfigError
from gvae.nn import Parameters
from gvae.objectives import ELBO, REST, Objective
from gvae.objectives.terms import ascended
from gvae.ops import arrays, elementwise
from gvae.optim import RowAdam, Schedule, norm, parse_average, parse_optimizer, shorten
from gvae.protocol import Model, check_fits, check_initial, check_terms
from gvae.runtime import compile as compiling
from gvae.runtime import pool
from gvae.runtime.device import empty, is_cuda, module, namespace, to_device, to_host
from gvae.runtime.parallel import ALONE as ONE_RANK
from gvae.runtime.parallel import Communicator
from gvae.structures import mapped
from gvae.texts import POSITIVE
from gvae.training.failure import as_given, failure
from gvae.training.inputs import ALONE, DREAMS, INIT, MASKS, ORDER, PREPARE, ROWS, StepInputs, records
from gvae.training.program import Programs
from gvae.training.rounds import minimized, why_not_rounds
from gvae.training.shards import Cut, Shards, check_ranks, why_not_shards
from gvae.training.snapshot import Epoch, Snapshot, Stopping, restore, snapshot
from gvae.training.validation import validate
from gvae.typing import Key

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

COMING = 64  # records that are made together, which takes no longer than a few of them


class Trainer:
    """A model with its parameters, optimiser and all other state of training.

    `step` takes one step; `snapshot` returns all state that training changes. A subclass may override `step`; pass an
    instance of it to `train`.

    Parameters
    ----------
    model : Model
    objective : Objective, optional
        The objective to maximise; by default the ELBO.
    samples : int, default 1
        Monte Carlo draws per row and step.
    optimizer : str, default "adam"
        "adam", "adam:beta1=0.5,eps=1e-4", "adamw:0.01", "sgd:0.9", "lbfgs:50", ... (see gvae.optim.parse_optimizer). It
        updates `parameters`; `rows` have Adam optimisers of their own, with the default settings. A step of "lbfgs:50" is
        50 iterations over parameters and rows together, on a CPU; batches must have all rows.
    learning_rate : float, default 1e-3
    rates : mapping of str to float, optional
        Multiples of the learning rate by parameter group; 0 keeps a group as it is.
    alone : mapping of str to int, optional
        Separate steps of a parameter group, each with its own noise, before each step of the others; such a group moves only
        in these.
    schedule : Schedule, optional
        The factor of the learning rate at each step (see gvae.optim); by default constant.
    average : str, optional
        The running average of `parameters`, not of `rows` and `state`: "ema:0.999", "swa:10", ... (see
        gvae.optim.parse_average).
    clip : float, optional
        The largest Euclidean norm of the gradient of all parameters that move together: in a separate step of a group, of
        that group's. A larger gradient is scaled down to it.
    seed : int, default 0
        The seed of all randomness.
    n_rows : int, default 0
        The number of training rows, for models with per-datum parameters.
    shuffle : Shuffle, optional
        How the rows of an epoch are shuffled; by default all of them; for tables that are not in memory, within windows.
    shards : int, default 1
        The number of parts into which a batch is cut, a power of two: each is evaluated on its own, and their gradients are
        added in a fixed order. It decides the bits of a run; the number of ranks that share the parts does not.
    communicator : Communicator, optional
        The ranks (see gvae.runtime.parallel); by default only this process.
    parameters : dict of str to array, optional
        The initial parameters; by default those of the model's `init`.
    state : dict of str to array, optional
        The model's state at the start; by default that of its `init_state`.
    device : {"cpu", "cuda"}, default "cpu"
        On "cuda", parameters, optimiser and the draws of a step are on the device; batches must be there, too (`Table.to`).
        A step does not synchronise: its metrics are scalars on the device, whose reading waits for it.
    programs : bool, default True
        Whether steps are executed by programs: the first step on a batch of a shape is recorded while Python executes it,
        and later steps replay the recording, with the same bits (see gvae.training.program). The model, the objective and,
        on a device, a subclass that overrides `step` must declare themselves `pure` for this (see gvae.models).
    replays, graphs : bool, optional
        Deprecated: use `programs`.

    Attributes
    ----------
    parameters, gradient : Parameters
        The parameters, and the gradient of the last step.
    state : dict of str to array
        The model's state.
    rows : dict of str to RowAdam
        The per-datum parameters with their optimisers.
    communicator : Communicator
    shards : Shards or None
        The shards of this rank, None where a batch is not cut.
    steps : int
        The number of the next step, incremented by `step` and by `skip`.
    epochs : int
        The number of the current epoch, from 0.
    why_not : str
        The reason for which steps are not executed by programs, or "".

    Raises
    ------
    ConfigError, DeviceError

    Warns
    -----
    DeprecationWarning
        `replays` or `graphs` is given.

    Examples
    --------
    A step by the signs of the gradient's entries, instead of Adam's:

    >>> class Signs(gvae.training.Trainer):
    ...     def step(self, batch, inputs=None):
    ...         now = self.inputs() if inputs is None else inputs
    ...         noise = self.noise(now.noise, batch)
    ...         metrics, state, gradient = self.value_and_gradient(dict(self.parameters), batch, noise, now)
    ...         self.parameters.flat -= 1e-2 * np.sign(self.gradient.flat)
    ...         self.keep(state, self.epoch.plus(metrics, len(batch)))
    ...         self.steps += 1
    ...         return metrics
    >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
    >>> trainer = Signs(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
    >>> before = trainer.validate(table)["bound"]
    >>> trainer, history = gvae.training.train(trainer.model, table, epochs=50, trainer=trainer)
    >>> trainer.validate(table)["bound"] > before
    True
    """

    pure = True  # of `step`

    def __init__(
        self,
        model: Model,
        *,
        objective: Objective | None = None,
        samples: int = 1,
        optimizer: str = "adam",
        learning_rate: float = 1e-3,
        rates: Mapping[str, float] | None = None,
        alone: Mapping[str, int] | None = None,
        schedule: Schedule | None = None,
        average: str | None = None,
        clip: float | None = None,
        seed: int = 0,
        n_rows: int = 0,
        shuffle: Shuffle | None = None,
        shards: int = 1,
        communicator: Communicator = ONE_RANK,
        parameters: Mapping[str, np.ndarray] | None = None,
        state: Mapping[str, np.ndarray] | None = None,
        device: str = "cpu",
        programs: bool = True,
        replays: bool | None = None,
        graphs: bool | None = None,
    ):
        check_whole(samples=samples, shards=shards)
        check_ranks(shards, communicator.size)
        module(device)
        if clip is not None and not POSITIVE.accepts(clip):
            raise ConfigError(f"clip is {clip!r}, expected a positive number")
        if replays is not None or graphs is not None:
            warnings.warn("Trainer: replays and graphs are now programs", DeprecationWarning, stacklevel=2)
            programs = programs and replays is not False and graphs is not False
        self.model, self.objective, self.samples = model, objective or ELBO(), samples
        self.key, self.shuffle = random.key(seed), shuffle
        init_key = random.fold_in(self.key, INIT)
        self.device = device
        initial = check_initial(model, model.init(init_key))
        if parameters is not None:
            check_fits("train: parameters are", parameters, initial)
            initial = dict(parameters)
        self.parameters = Parameters(initial).to(device)
        self.gradient = self.parameters.zeros()
        self.optimizer = parse_optimizer(optimizer, self.parameters, learning_rate, rates)
        self.alone = dict(alone or {})
        if missing := [group for group in self.alone if group not in self.parameters.groups]:
            known = ", ".join(self.parameters.groups)
            raise ConfigError(f"alone names the parameter group {missing[0]!r}; known are {known}")
        check_whole(**{f"alone[{group!r}]": n for group, n in self.alone.items()})
        self.still = {*self.alone, *(group for group, rate in self.optimizer.rates.items() if rate == 0)}  # in a step
        together = [group for group in self.parameters.groups if group not in self.alone]
        self.together = (together,) if self.alone else ()  # the groups of a step, where they are not all
        initial = model.init_state(init_key) if hasattr(model, "init_state") else {}
        if state is None:
            state = initial
        else:
            check_fits("train: the state is", state, initial)
        self.state = {name: to_device(value, device) for name, value in state.items()}
        rows = model.init_rows(init_key, n_rows) if hasattr(model, "init_rows") else {}
        rows = {name: to_device(values, device) for name, values in rows.items()}
        self.rows = {name: RowAdam(values, learning_rate) for name, values in rows.items()}
        self.learning_rate, self.schedule, self.clip = learning_rate, schedule or Schedule(), clip
        self.average = None if average is None else parse_average(average, self.parameters)
        self.best: Parameters | None = None
        self.best_state: dict[str, Any] = {}  # the state in the epoch of `best`
        self.stopping = Stopping()
        if self.optimizer.iterations and (reason := why_not_rounds(self)):
            raise ConfigError(f"optimizer {optimizer!r}: {reason}")
        self.communicator, self.shards = communicator, None
        if shards > 1:
            if reason := why_not_shards(self):
                raise ConfigError(f"shards={shards}: {reason}; expected shards=1")
            self.shards = Shards(shards, communicator, self.gradient.flat.size, self.gradient.flat.dtype, device)
        self.prepares = parameters is None and hasattr(model, "prepare")
        self.steps = self.skipped = 0
        self.epochs = 0
        self.epoch = Epoch()
        self.scale = 1.0  # the factor of the learning rate: halved by every roll-back
        self.rollbacks = 0  # since the last epoch that succeeded
        self.mark: Snapshot | None = None  # the state to which a roll-back returns
        self._coming: tuple[int, np.ndarray] = 0, np.zeros(0)  # the number of a step, and the records from there on
        self.numbers: Callable[[np.ndarray], np.ndarray] = (
            as_given  # by which messages name rows; a table's, while it trains
        )
        self.events: list[dict[str, Any]] = []  # that the objective reported
        self.pace = pool.Pace()
        self.programs = Programs()
        self.programs_alone = {group: Programs() for group in self.alone}
        self.graph: Any = None  # a CudaGraph or None
        self.reported: tuple[str, ...] = ()  # the names of the last step's metrics
        self.why_not = "" if programs else "programs=False"
        if not self.why_not:
            self.why_not = self._why_not()

    @property
    def taken(self) -> int:
        """The number of steps that were not skipped: those of the optimiser, and of an average over steps.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.skip()
        >>> trainer.steps, trainer.taken
        (1, 0)
        """
        return self.steps - self.skipped

    def step(self, batch: Batch, inputs: StepInputs | None = None) -> dict[str, Any]:
        """Take one ascent step on the objective of a batch.

        Parameters
        ----------
        batch : Batch
            With several ranks, a Batch is the whole batch on each of them.
        inputs : StepInputs, optional
            The quantities that differ from step to step; by default those of step `steps`.

        Returns
        -------
        dict of str to float
            The objective's metrics at the parameters before the step, in mean nats per row: floats, or scalars on the
            device, whose reading waits for it.

        Raises
        ------
        ConfigError
            The objective needs dreams or a group of parameters that the model does not have.
        MemoryError
        NonFiniteError
            The bound or a gradient is not finite. On a device no value is checked.
        RankError
            Ranks were given batches that differ, or one of them has ended.

        Notes
        -----
        After an error, only the gradient has changed (and the per-datum parameters of the batch, by earlier steps of
        `row_steps`): the groups in `alone` and the optimiser's running means of them are as before the step.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> batch = table.batch(np.arange(4), gvae.random.key(0))
        >>> {name: round(x, 2) for name, x in trainer.step(batch).items()}
        {'bound': -2.53, 'log_likelihood': -2.14, 'kl': 0.39}
        >>> trainer.steps
        1
        """
        now = self.inputs() if inputs is None else inputs
        batch = self.cut(batch)
        with self.pace, self._as_before_after_an_error():
            self.steps_alone(batch, now)
            noise = self.noise(now.noise, batch)
            params = dict(self.parameters) | self.rows_of(batch, now)
            metrics, state, gradient = self.value_and_gradient(params, batch, noise, now)
            self.check_and_clip(params, batch, noise, metrics, gradient)
            if self.optimizer.iterations:
                update = minimized(self, params, batch, noise, now)
            else:
                update = self.update(batch, now, gradient)  # allocates memory, and changes nothing yet
            weight = self.shards.weight if self.shards is not None and isinstance(batch, Cut) else batch.weight
            sums = self.epoch.plus(metrics, len(batch), weight)
            with self.communicator.leaders_first("an update"):
                update()
            self.keep(state, sums)
        self.steps += 1
        return metrics

    def inputs(self) -> StepInputs:
        """The inputs of step `steps` other than its batch.

        Returns
        -------
        StepInputs
            The key of the noise, the number of the step, the learning rate, ...

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> now = trainer.inputs()
        >>> int(now.step), now.rate
        (0, 0.001)
        """
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
        """Skip a step: the next one has the next number, and hence the noise of that number.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.skip()
        >>> trainer.steps
        1
        """
        self.steps, self.skipped = self.steps + 1, self.skipped + 1

    def rate(self, step: int) -> float:
        """The learning rate of a step.

        Parameters
        ----------
        step : int

        Returns
        -------
        float
            The product of `learning_rate`, the schedule and the factor of the roll-backs.

        Examples
        --------
        >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
        >>> trainer = gvae.training.Trainer(model, learning_rate=0.1, schedule=gvae.optim.Cosine(10))
        >>> [round(trainer.rate(step), 3) for step in (0, 5, 9)]
        [0.1, 0.05, 0.002]
        """
        return self.learning_rate * self.scale * self.schedule(step)

    # ---- parts of a step

    def cut(self, batch: Batch) -> Batch:
        """Cut a batch into shards, if steps have shards.

        Parameters
        ----------
        batch : Batch or Cut

        Returns
        -------
        Batch or Cut

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)), shards=2)
        >>> batch = gvae.data.Table(np.eye(4, dtype=np.float32)).batch(np.arange(4), gvae.random.key(0))
        >>> [part().index for part in trainer.cut(batch).parts.values()]
        [array([0, 1]), array([2, 3])]
        """
        if self.shards is None or isinstance(batch, Cut):
            return batch
        return self.shards.cut(len(batch), lambda _, begin, end: batch[begin:end])

    def value_and_gradient(self, params: dict, batch: Batch, noise: dict, now: StepInputs) -> tuple[dict, dict, dict]:
        """Evaluate the objective at given parameters, and the gradient of its negative.

        Parameters
        ----------
        params : dict of str to array
            The parameters, with the rows of per-datum parameters that belong to the batch.
        batch : Batch
        noise : dict of str to array
            The noise, as the model's `noise` draws it.
        now : StepInputs

        Returns
        -------
        metrics : dict of str to float
            The objective's metrics: floats, or scalars on the device.
        state : dict of str to array, or None
            The model's next state.
        gradient : dict of str to array
            The gradient of the negative objective, by name: views of `self.gradient`, and arrays of per-datum parameters.
            {} for a model that has its own `update`.

        Raises
        ------
        ConfigError
            The objective names a parameter group that the model does not have.
        MemoryError

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> batch = table.batch(np.arange(4), gvae.random.key(0))
        >>> now = trainer.inputs()
        >>> noise = trainer.model.noise(now.noise, batch, trainer.samples)
        >>> params = dict(trainer.parameters)
        >>> metrics, state, gradient = trainer.value_and_gradient(params, batch, noise, now)
        >>> gradient["decoder.1.bias"].round(2)
        array([0.28, 0.22, 0.23, 0.27], dtype=float32)
        """
        if self.shards is not None and isinstance(batch, Cut):
            return self.shards.value_and_gradient(self, params, batch, now)
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

    def check_and_clip(self, params: dict, batch: Batch, noise: dict, metrics: dict, gradient: dict) -> None:
        """Check the bound and the gradient, and clip the gradient in place.

        Parameters
        ----------
        params : dict of str to array
        batch : Batch
        noise : dict of str to array
        metrics, gradient : dict
            As `value_and_gradient` returns them.

        Raises
        ------
        NonFiniteError
            The bound or the gradient is not finite, or without `clip` the square of the gradient's norm overflows. On a
            device nothing is checked.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> batch = table.batch(np.arange(4), gvae.random.key(0))
        >>> now = trainer.inputs()
        >>> noise = trainer.model.noise(now.noise, batch, trainer.samples)
        >>> params = dict(trainer.parameters)
        >>> metrics, state, gradient = trainer.value_and_gradient(params, batch, noise, now)
        >>> trainer.clip = 0.1
        >>> trainer.check_and_clip(params, batch, noise, metrics, gradient)
        >>> round(float(np.linalg.norm(trainer.gradient.flat)), 3)
        0.1
        """
        arrays = [self.gradient.flat, *(gradient[name] for name in self.rows)] if gradient else []
        self._check_and_clip(arrays, params, batch, noise, metrics["bound"], gradient)

    def _check_and_clip(self, arrays: list, params: dict, batch: Batch, noise: dict, bound: float, gradient: dict) -> None:
        """Check the bound, and the norm of the arrays of a gradient, and clip them in place."""
        with self.communicator.leaders_first("a norm"):
            length = norm(*arrays) if arrays and (self.device == "cpu" or self.clip is not None) else 0.0
        most = math.inf if self.clip is not None else float(np.finfo(self.gradient.flat.dtype).max) ** 0.5  # it is squared
        if self.device == "cpu" and not (math.isfinite(bound) and length < most):
            raise failure(self, params, batch, noise, bound, gradient)
        if self.clip is not None and arrays:
            with self.communicator.leaders_first("clipping"):
                shorten(arrays, length, self.clip)

    def update(self, batch: Batch, now: StepInputs, gradient: dict) -> Callable[[], None]:
        """Prepare the update of the parameters along the negative gradient, and of their running average.

        Parameters
        ----------
        batch : Batch
        now : StepInputs
        gradient : dict of str to array
            As `value_and_gradient` returns it.

        Returns
        -------
        callable
            move() applies the update. All memory that it needs is allocated before.

        Raises
        ------
        MemoryError

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> batch = table.batch(np.arange(4), gvae.random.key(0))
        >>> now = trainer.inputs()
        >>> noise = trainer.model.noise(now.noise, batch, trainer.samples)
        >>> params = dict(trainer.parameters)
        >>> metrics, state, gradient = trainer.value_and_gradient(params, batch, noise, now)
        >>> before = trainer.parameters.flat.copy()
        >>> move = trainer.update(batch, now, gradient)
        >>> np.array_equal(trainer.parameters.flat, before)
        True
        >>> move()
        >>> np.array_equal(trainer.parameters.flat, before)
        False
        """
        own = self.model.update(self.parameters, batch) if hasattr(self.model, "update") else {}
        rows = {name: optimizer.moved(batch.index, gradient[name]) for name, optimizer in self.rows.items()}
        flat = self.parameters.flat
        scratch = empty(flat.shape, flat.dtype, flat) if self.average is not None else None

        def move() -> None:
            if gradient:
                self.optimizer.update(self.gradient, now.numbers, *self.together)
            for name, value in own.items():
                self.parameters[name][...] = value
            for name, optimizer in self.rows.items():
                optimizer.keep(batch.index, rows[name])
            if self.average is not None:
                self.average.after_step(self.parameters, now.weight, scratch)

        return move

    def keep(self, state: dict[str, Any] | None, sums: dict[str, Any]) -> None:
        """Store the model's new state and the epoch's new sums.

        On a device they are written to the arrays of the old ones, to which a CUDA graph refers.

        Parameters
        ----------
        state : dict of str to array, or None
            The model's new state. None: it stays as it is.
        sums : dict of str to float
            The sums of the metrics over the rows of the epoch.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.keep(None, trainer.epoch.plus({"bound": -2.5}, 4))
        >>> float(trainer.epoch.sums["bound"])
        -10.0
        """
        self.state = _in_place(self.state, state or self.state)
        self.epoch.sums = _in_place(self.epoch.sums, sums)

    def steps_alone(self, batch: Batch, now: StepInputs) -> None:
        """Take the separate steps of the groups in `alone` on a batch, each with its own noise.

        Parameters
        ----------
        batch : Batch
        now : StepInputs

        Raises
        ------
        NonFiniteError
            The bound or the gradient of a group is not finite, or without `clip` the square of the gradient's norm
            overflows. On a device no value is checked.

        Notes
        -----
        After an error, groups have moved by the steps before it; `step` moves them back.

        Examples
        --------
        >>> info = gvae.objectives.parse("info:divergence=js")
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, critic=(3,)), objective=info, alone={"critic": 2})
        >>> batch = gvae.data.Table(np.eye(4, dtype=np.float32)).batch(np.arange(4), gvae.random.key(0))
        >>> before = {name: value.copy() for name, value in trainer.parameters.items()}
        >>> trainer.steps_alone(batch, trainer.inputs())
        >>> sorted({n.partition(".")[0] for n, value in trainer.parameters.items() if (value != before[n]).any()})
        ['critic']
        """
        of_rows = {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}
        for i, (group, n) in enumerate(self.alone.items()):
            part, rate = self.parameters.groups[group], self.rate(self.steps)
            names = [name for name in self.parameters if name.partition(".")[0] == group]
            own, out = ({name: values[name] for name in names} for values in (self.parameters, self.gradient))
            others = {name: v for name, v in self.parameters.items() if name not in own} | of_rows
            params = {"own": own, "others": others}
            for t in range(n):
                draws = self.noise(random.fold_in(self.key, ALONE, self.steps, i, t), batch)
                inputs = self.arguments(batch, draws, now.step)
                if self.device == "cpu" and not self.why_not:
                    metrics, _ = self.programs_alone[group](self._work_alone, params, out, inputs)
                else:
                    metrics, _ = self._work_alone(params, out, inputs)
                gradient, bound = self.gradient.flat[part], metrics["bound"]
                self._check_and_clip([gradient], own | others, batch, draws, bound, out)
                numbers = self.optimizer.numbers(rate, self.taken * n + t + 1)
                self.optimizer.update(self.gradient, list(map(gradient.dtype.type, numbers)), (group,))

    @contextmanager
    def _as_before_after_an_error(self) -> Iterator[None]:
        """After an error, the groups in `alone` are as before, with their parts of the optimiser's state: a step that is
        skipped leaves no trace, so that `taken` counts the updates of their running means, too."""
        arrays = self.parameters.flat, *(getattr(self.optimizer, name) for name in self.optimizer.moments)
        parts = [array[self.parameters.groups[group]] for group in self.alone for array in arrays]
        before = [part.copy() for part in parts]
        try:
            yield
        except BaseException:
            for part, values in zip(parts, before, strict=True):
                part[...] = values
            raise

    def rows_of(self, batch: Batch, now: StepInputs) -> dict[str, Any]:
        """Update the per-datum parameters of a batch's rows by the model's `row_steps`: the E step of variational EM.

        Parameters
        ----------
        batch : Batch
        now : StepInputs

        Returns
        -------
        dict of str to array (B, ...)
            The updated per-datum parameters of the rows. {} for a model without any.

        Raises
        ------
        NonFiniteError
            The bound or a gradient is not finite. On a device no value is checked.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.NonlinearFactorAnalysis(4, 2, hidden=(3,)), n_rows=4)
        >>> batch = table.batch(np.arange(2), gvae.random.key(0))
        >>> {name: values.shape for name, values in trainer.rows_of(batch, trainer.inputs()).items()}
        {'encoder.raw': (2, 4)}
        """
        if not self.rows:
            return {}
        for optimizer in self.rows.values():
            optimizer.learning_rate = now.rate * getattr(self.model, "row_rate", 1.0)
        shared = dict(self.parameters)
        together = self.optimizer.iterations > 0  # then rows move with the other parameters
        for t in range(0 if together else getattr(self.model, "row_steps", 0)):
            own = {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}
            draws = self.noise(random.fold_in(self.key, ROWS, self.steps, t), batch)
            given = self.arguments(batch, draws, now.step)
            out = {name: np.empty_like(v) for name, v in own.items()}
            metrics, _ = self._work(own, out, given, shared)
            if self.device == "cpu" and not (math.isfinite(float(metrics["bound"])) and math.isfinite(norm(*out.values()))):
                raise failure(self, shared | own, batch, draws, float(metrics["bound"]), out)
            for name, optimizer in self.rows.items():
                optimizer.update(batch.index, out[name])
        return {name: optimizer.values[batch.index] for name, optimizer in self.rows.items()}

    # ---- the objective

    def noise(self, key: Key, batch: Batch, masks: bool = True) -> dict[str, Any]:
        """The noise of one evaluation of the objective: that of the model, as the objective arranges it.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        masks : bool, default True
            Whether with that of dropout, which training steps need.

        Returns
        -------
        dict of str to array
            For a Cut, only the key: the noise of a shard is drawn while the shard is evaluated.

        Examples
        --------
        >>> model, batch = gvae.models.SBN(4, latent=(3,)), gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> pairs = gvae.objectives.ELBO(gradient="disarm")
        >>> trainer = gvae.training.Trainer(model, objective=pairs, samples=2)
        >>> u = trainer.noise(gvae.random.key(0), batch)["z1"]
        >>> np.array_equal(u[1], 1 - u[0])
        True
        """
        if isinstance(batch, Cut):
            return {"key": key}
        drawn = self.model.noise(key, batch, self.samples)
        if masks and hasattr(self.model, "masks"):
            drawn = dict(drawn) | self.model.masks(random.fold_in(key, MASKS), batch, self.samples)
        if masks and getattr(self.objective, "dreams", False):
            drawn = dict(drawn) | self._dreams(random.fold_in(key, DREAMS), batch)
        arrange = getattr(self.objective, "arrange", None)
        return drawn if arrange is None else arrange(drawn, getattr(self.model, "inference_order", tuple(drawn)))

    def _dreams(self, key: Key, batch: Batch) -> dict[str, Any]:
        if not hasattr(self.model, "dream_noise"):
            raise ConfigError(f"{self.objective}: it learns from dreams, which {type(self.model).__name__} does not have")
        return self.model.dream_noise(key, batch, self.samples)

    def _work(self, params: dict, out: dict, inputs: dict, constant: dict | None = None) -> tuple[dict, dict]:
        """(metrics, state) of the objective, and its gradient in params, in `out`. Without `constant`, the
        gradient of groups that do not move is 0."""
        value, pull, (metrics, state) = vjp(
            lambda p: self.evaluate((constant or {}) | p, inputs), params, has_aux=True, out=out
        )
        self._pull(value, pull, out, self.still if constant is None else (), inputs["batch"]["weight"])
        return metrics, state

    def _work_alone(self, params: dict, out: dict, inputs: dict) -> tuple[dict, dict]:
        """As `_work`, with the gradient of one group."""
        return self._work(params["own"], out, inputs, params["others"])

    def arguments(self, batch: Batch, noise: dict, step: Any) -> dict[str, Any]:
        """The arguments of the objective other than the parameters.

        Parameters
        ----------
        batch : Batch
        noise : dict of str to array
        step : int or array ()
            The number of the step.

        Returns
        -------
        dict
            The batch's columns, the noise, the model's state and the step: plain arrays, without a Batch.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> batch = table.batch(np.arange(4), gvae.random.key(0))
        >>> now = trainer.inputs()
        >>> noise = trainer.model.noise(now.noise, batch, trainer.samples)
        >>> list(trainer.arguments(batch, noise, now.step))
        ['batch', 'noise', 'state', 'step']
        """
        return {"batch": vars(batch), "noise": noise, "state": self.state, "step": step}

    def evaluate(self, params: dict, inputs: dict) -> tuple[Any, tuple[dict, dict]]:
        """Evaluate the objective.

        Parameters
        ----------
        params : dict of str to array or Var
        inputs : dict
            As `arguments` returns it.

        Returns
        -------
        value : scalar, or dict of str to scalar
            The objective: one scalar, or one for each group of parameters. Mean nats per row.
        (metrics, state) : tuple of dict
            The objective's metrics, and the model's next state.

        Raises
        ------
        ConfigError
            The objective needs dreams that the model does not have.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> batch = table.batch(np.arange(4), gvae.random.key(0))
        >>> now = trainer.inputs()
        >>> noise = trainer.model.noise(now.noise, batch, trainer.samples)
        >>> value, (metrics, state) = trainer.evaluate(dict(trainer.parameters), trainer.arguments(batch, noise, now.step))
        >>> round(float(value), 2)
        -2.53
        """
        columns = dict(inputs["batch"])
        batch = Batch(columns, columns.pop("index"), columns.pop("weight"))
        terms = self.model.terms(params, inputs["state"], batch, inputs["noise"], inputs["step"])
        if not self.reported:  # the first step
            check_terms(self.model, terms, batch, inputs["noise"])
        value, metrics = ascended(self.objective, terms, inputs["step"], batch.weight)
        if inputs["step"] is not None and terms.dream is None and getattr(self.objective, "dreams", False):
            raise ConfigError(f"{self.objective}: {type(self.model).__name__} has no dreams from which its posterior learns")
        for event in terms.events:
            if event not in self.events:
                self.events.append(event)
                logger.warning("training: %s", event)
        return value, (metrics, terms.state)

    def _pull(self, value: Any, pull: Callable, out: dict, skip: Collection[str], weight: Any = None) -> None:
        """Fill the gradients, `out`: the optimiser descends and the objective is maximised, hence the cotangent -1. Those of
        groups to skip are 0.

        The objective of rows with weights is sum w v / sum w, over the batch; the cotangent makes it sum w v / B: an epoch's
        steps would else not follow the weighted mean over its rows, as each batch had the same say in it.
        """
        down = None if weight is None else elementwise.negative(arrays.mean(weight))
        if not isinstance(value, dict):
            pull(value.dtype.type(-1) if down is None else down)
            for name in out:
                if name.partition(".")[0] in skip:
                    out[name][...] = 0
            return
        ascends: dict[int, list[str]] = {id(scalar): [] for scalar in value.values()}  # the parameters of each scalar
        known = dict.fromkeys((*self.parameters.groups, *(name.partition(".")[0] for name in out)))
        for group in value:
            if group != REST and group not in known:
                raise ConfigError(f"the objective names the parameter group {group!r}; known are {', '.join(known)}")
        for name in out:
            group = name.partition(".")[0]
            if group not in skip and (group in value or REST in value):
                ascends[id(value[group if group in value else REST])].append(name)
            else:
                out[name][...] = 0
        for scalar, names in ascends.items():
            first = next(group for group, v in value.items() if id(v) == scalar)  # groups may share one
            pull(
                {g: (v.dtype.type(-1) if down is None else down) if g == first else None for g, v in value.items()},
                only=names,
            )

    def _rehearse(self, params: dict, out: dict, inputs: dict, traced: Callable) -> None:
        """The launches of a step, for `gvae.runtime.compile`. It changes nothing if its kernels are not run."""
        self._work(*(mapped(traced, part) for part in (params, *mapped(np.copy, (out, inputs)))))
        self.optimizer.update(self.gradient, list(map(self.gradient.flat.dtype.type, self.optimizer.numbers(0.0, 1))))
        norm(self.gradient.flat)

    def _why_not(self) -> str:
        """The reason for which steps are executed by Python only, or ""."""
        if self.optimizer.iterations:
            return "a step has many gradients"
        if self.rows:
            return "the model has per-datum parameters"
        if self.shards is not None and self.device != "cpu":
            return "a batch has shards"
        if self.alone and self.device != "cpu":
            return "groups of parameters take separate steps"
        if hasattr(self.model, "update"):
            return "the model takes its steps itself"
        parts = {"terms": self.model, "__call__": self.objective} | ({} if self.device == "cpu" else {"step": self})
        for method, part in parts.items():
            if not _is_pure(part, method):
                return f"{type(part).__name__} does not call its {method} pure"
        return ""

    # ---- around the steps

    def prepare(self, table: Table) -> None:
        """Call the model's `prepare` on the training rows before the first step, unless initial parameters were given.

        The parameters that it is given include those of rows.

        Parameters
        ----------
        table : Table
            The training rows.

        Examples
        --------
        >>> table = gvae.data.Table(np.array([[0, 1], [1, 1], [0, 0], [0, 1]], np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(2, 1, "diagonal", hidden=(3,), output_bias="data"))
        >>> trainer.prepare(table)
        >>> trainer.parameters["decoder.1.bias"].round(2)  # log-odds of the means 0.25 and 0.75
        array([-1.1,  1.1], dtype=float32)
        """
        if self.prepares and self.steps == 0:
            there = dict(self.parameters) | {name: optimizer.values for name, optimizer in self.rows.items()}
            host = {name: np.asarray(to_host(value)) for name, value in there.items()}
            model: Any = self.model  # with an optional method, as `prepares` says
            params, state = model.prepare(host, self.state, table, random.fold_in(self.key, PREPARE))
            for name, value in params.items():
                there[name][...] = to_device(value, self.device)
            self.state = {name: to_device(value, self.device) for name, value in state.items()}

    def settle(self, table: Table, exact: bool = False) -> None:
        """Replace the part of the model's parameters and state that the rest of them and the training rows determine.

        The model's `settle` computes it: moments of normalised layers, say. It concerns `weights`, with the parameters of
        rows; with `exact`, `chosen`.

        Parameters
        ----------
        table : Table
            The training rows.
        exact : bool, default False
            From all rows, as at the end of training, where a model may else take some of them.

        Examples
        --------
        >>> x = gvae.random.normal(gvae.random.key(0), (50, 3))
        >>> table = gvae.data.Table(x, y=x)
        >>> model = gvae.models.DCCA({"x": 3, "y": 3}, latent=2, hidden=(4,))
        >>> trainer = gvae.training.Trainer(model, objective=gvae.objectives.Correlation())
        >>> trainer.settle(table)
        >>> trainer.state["x.projection"].shape
        (2, 2)
        """
        if not hasattr(self.model, "settle"):
            return
        best = exact and self.best is not None
        if best and self.rows:
            return  # the state of the best epoch was settled by the rows' parameters of that epoch, which are not kept
        weights, before = (self.chosen, self.best_state) if best else (self.weights, self.state)
        rows = {name: optimizer.values for name, optimizer in self.rows.items()}
        params, state = self.model.settle(dict(weights) | rows if rows else weights, before, table, exact)
        for name, value in params.items():
            weights[name][...] = to_device(value, self.device)
            if not best:  # where an average is kept, too: what an optimiser or an average has made of them does not count
                self.parameters[name][...] = weights[name]
        after = _in_place(before, {name: to_device(value, self.device) for name, value in state.items()})
        if best:
            self.best_state = after
        else:
            self.state = after

    def order(self, n_rows: int) -> np.ndarray:
        """The order of the training rows in the current epoch.

        Parameters
        ----------
        n_rows : int

        Returns
        -------
        array (n_rows,)
            A permutation of 0 .. n_rows-1: a function of the seed and of `epochs`.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.order(4)
        array([2, 0, 3, 1])
        """
        return random.permutation(random.fold_in(self.key, ORDER, self.epochs), n_rows)

    def order_of(self, table: Table) -> np.ndarray | Order:
        """The order of the rows of a table in the current epoch: `order`, unless `shuffle` is one of windows.

        Parameters
        ----------
        table : Table
            The training rows.

        Returns
        -------
        array (N,), or Order
            An Order if rows of the table are to be read window by window.

        Examples
        --------
        >>> shuffle, model = gvae.data.Shuffle(rows=4, chunk=2), gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
        >>> trainer = gvae.training.Trainer(model, shuffle=shuffle)
        >>> trainer.order_of(gvae.data.Table(np.zeros((6, 4), np.float32)))
        array([4, 1, 5, 0, 2, 3])
        """
        shuffle = self.shuffle or Shuffle()
        if shuffle.rows is None and not (self.shuffle is None and table.reads_ahead):
            return self.order(len(table))
        chunk = shuffle.chunk or table.chunk
        rows = shuffle.rows or default_window(table.rows, chunk)
        order = Order(table.bounds(chunk), max(1, rows // chunk), random.fold_in(self.key, ORDER, self.epochs))
        return order if table.reads_ahead else order.index(0, len(order))

    def validate(self, table: Table, batch_size: int = 500) -> dict[str, float]:
        """The objective's metrics over a table, without a training step.

        Parameters
        ----------
        table : Table
            The rows need not be training rows: per-datum parameters are inferred.
        batch_size : int, default 500

        Returns
        -------
        dict of str to float
            Row-weighted means, in nats per row.

        Notes
        -----
        The parameters are `weights`. The model scores the rows (its `step` is None): without dropout, corruption or a cost
        of the weights, and with the trainer's state. The objective's warm-up counts as over. The noise is the same in every
        call.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> {name: round(x, 2) for name, x in trainer.validate(table).items()}
        {'bound': -4.19, 'log_likelihood': -3.8, 'kl': 0.39}
        """
        return validate(self, table, batch_size)

    @property
    def weights(self) -> Parameters:
        """The parameters to evaluate: their running average if there is one, else the last ones.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.weights is trainer.parameters
        True
        """
        average = self.average
        return average.values if average is not None and average.terms(self.taken) > 0 else self.parameters

    @property
    def chosen(self) -> Parameters:
        """The parameters to keep: those of the best epoch under early stopping, else `weights`.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.chosen is trainer.weights
        True
        >>> trainer.look(-2.5)
        >>> trainer.chosen is trainer.best
        True
        """
        return self.weights if self.best is None else self.best

    @property
    def chosen_state(self) -> dict[str, np.ndarray]:
        """The model's state that belongs to `chosen`, on the host.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.chosen_state  # a VAE has none
        {}
        """
        state = self.state if self.best is None else self.best_state
        return {name: np.asarray(to_host(value)) for name, value in state.items()}

    def look(self, bound: float) -> None:
        """Record a validation bound for early stopping.

        If the bound is the best so far, `weights` and the model's state are copied; otherwise the number of evaluations
        since the best one is incremented.

        Parameters
        ----------
        bound : float

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.look(-2.5)
        >>> trainer.look(-2.7)
        >>> trainer.stopping
        Stopping(best=-2.5, epoch=0, waited=1)
        """
        if self.stopping.best is not None and not bound > self.stopping.best:
            self.stopping.waited += 1
            return
        self.best = self.parameters.zeros() if self.best is None else self.best
        self.best.flat[:] = self.weights.flat
        self.best_state = {name: value.copy() for name, value in self.state.items()}  # a step may write to the arrays
        self.stopping = Stopping(bound, self.epochs)

    def snapshot(self) -> Snapshot:
        """All state that training changes.

        Returns
        -------
        arrays : dict of str to array
            By name, such as "parameters/decoder.1.bias". The trainer's own arrays, not copies.
        counters : dict
            Values that JSON can hold.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> arrays, counters = trainer.snapshot()
        >>> sorted({name.partition("/")[0] for name in arrays})
        ['optimizer', 'parameters']
        >>> counters["steps"], counters["epochs"], counters["stopping"]
        (0, 0, {'best': None, 'epoch': 0, 'waited': 0})
        """
        return snapshot(self)

    def restore(self, saved: Snapshot) -> None:
        """Set all state to that of a snapshot.

        Parameters
        ----------
        saved : tuple of dict
            The arrays and counters of a `snapshot` of a trainer with the same settings. They are copied.

        Raises
        ------
        RunError
            The snapshot does not fit the model or the settings; then nothing is changed.

        Examples
        --------
        >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
        >>> one, other = gvae.training.Trainer(model, seed=1), gvae.training.Trainer(model, seed=2)
        >>> other.restore(one.snapshot())
        >>> np.array_equal(other.parameters.flat, one.parameters.flat)
        True
        """
        restore(self, saved)

    def set_mark(self) -> None:
        """Copy the current state, to which `roll_back` returns.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.set_mark()
        >>> trainer.skip()
        >>> trainer.roll_back()
        >>> trainer.steps
        0
        """
        arrays, counters = self.snapshot()
        self.mark = {name: array.copy() for name, array in arrays.items()}, copy.deepcopy(counters)

    def roll_back(self) -> None:
        """Return to the state that `set_mark` has copied, with half of the learning rate.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> trainer.set_mark()
        >>> trainer.roll_back()
        >>> trainer.rate(0), trainer.rollbacks
        (0.0005, 1)
        """
        assert self.mark is not None
        scale, rollbacks = self.scale / 2, self.rollbacks + 1
        self.restore(self.mark)
        self.scale, self.rollbacks = scale, rollbacks


def _is_pure(part: Any, method: str) -> bool:
    """Whether the class that defines the method, or a subclass of it, declares `pure = True`; an override must declare it
    itself."""
    for cls in type(part).__mro__:
        if "pure" in vars(cls):
            return vars(cls)["pure"]
        if method in vars(cls):
            return False
    return False


def _in_place(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The dict `new`, with values on a device stored in the arrays of `old`."""
    for name, value in new.items():
        there: Any = old.get(name)
        if is_cuda(there) and is_cuda(value) and (there.shape, there.dtype) == (value.shape, value.dtype):
            there[...] = value
            new[name] = there
    return new
