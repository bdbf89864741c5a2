"""Steps in shards: a batch is cut into a fixed number of parts, whose gradients are added along a fixed binary tree.

Shard s of a batch of B rows has its rows s B / S to (s + 1) B / S, its own noise and binarization, and the weight of its
rows. So the results of a shard do not depend on the process that computes it, and S shards on any number of ranks give the
same bits (see gvae.runtime.parallel). A tail of float64 numbers is added with the gradients: the metrics, and whether a rank
has failed or was asked to stop, so that all ranks make the same decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.objectives import Objective
from gvae.protocol import Model
from gvae.runtime.device import namespace
from gvae.runtime.parallel import Buffer, Communicator, is_power_of_two
from gvae.training.inputs import StepInputs
from gvae.training.program import least_rows
from gvae.typing import Key

if TYPE_CHECKING:
    from gvae.training.step import Trainer

__all__ = ["Cut", "Shards", "check_ranks", "why_not_shards"]

# places in the tail: the sum of the rows' weights, three counts (of shards with weights, and ranks), and weighted metrics
WEIGHT, WEIGHTED, FAILED, STOP, METRICS = range(5)
MOST = 32  # numbers of a tail


class Cut(Batch):
    """A batch cut into shards, with the shards of one rank; it has no columns itself.

    Parameters
    ----------
    n : int
        The rows of the whole batch.
    parts : mapping of int to callable
        By the number of a shard: part() returns its rows, a Batch. Shards without rows are left out.

    Examples
    --------
    >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
    >>> batch = table.batch(np.arange(4), gvae.random.key(0))
    >>> cut = gvae.training.Cut(4, {1: lambda: batch[2:]})  # of the second of two ranks
    >>> len(cut), cut.parts[1]().index
    (4, array([2, 3]))
    """

    def __init__(self, n: int, parts: Mapping[int, Callable[[], Batch]]):
        super().__init__({}, np.zeros(0, np.int64))
        self.n, self.parts = n, dict(parts)

    def __len__(self) -> int:
        return self.n


class Shards:
    """The shards of a rank, and the sums over the shards of all ranks.

    Parameters
    ----------
    count : int
        The number of shards, a power of two; each rank has the same number of them.
    communicator : Communicator
    n : int
        The number of parameters.
    dtype : dtype
    where : {"cpu", "cuda"}

    Attributes
    ----------
    own : range
        The numbers of this rank's shards.
    ask : callable
        ask() returns whether this rank was asked to stop; it is called in every step.
    stopped : bool
        Whether a rank was asked to stop before the last sum.
    error : Exception or None
        An error of this rank outside of a step, which the next step raises on all ranks.

    Raises
    ------
    ConfigError
        The number of shards or of ranks is not a power of two, or there are more ranks than shards.

    Examples
    --------
    >>> shards = gvae.training.Shards(8, gvae.runtime.parallel.ALONE, 10, np.float32)
    >>> list(shards.own), shards.bounds(20)
    ([0, 1, 2, 3, 4, 5, 6, 7], [0, 2, 5, 7, 10, 12, 15, 17, 20])
    """

    def __init__(self, count: int, communicator: Communicator, n: int, dtype: Any, where: str = "cpu"):
        check_ranks(count, communicator.size)
        self.count, self.communicator = count, communicator
        each = count // communicator.size
        self.own = range(communicator.rank * each, (communicator.rank + 1) * each)
        self.free = [Buffer(n, dtype, MOST, where) for _ in range(each.bit_length())]  # one per level of this rank's subtree
        self.names: tuple[str, ...] | None = None  # the names of the metrics
        self.weight: float | None = None  # the sum of the rows' weights in the last step's batch, if they have any
        self.ask: Callable[[], bool] = lambda: False
        self.stopped = False
        self.error: Exception | None = None

    def bounds(self, n: int) -> list[int]:
        """Where the shards of a batch begin, and where the last one ends.

        Parameters
        ----------
        n : int
            The rows of the batch.

        Returns
        -------
        list of int

        Examples
        --------
        >>> gvae.training.Shards(2, gvae.runtime.parallel.ALONE, 10, np.float32).bounds(5)
        [0, 2, 5]
        """
        return [s * n // self.count for s in range(self.count + 1)]

    def cut(self, n: int, part: Callable[[int, int, int], Batch]) -> Cut:
        """Cut a batch.

        Parameters
        ----------
        n : int
            The rows of the whole batch.
        part : callable
            part(s, begin, end) returns the rows of shard s, which are those from `begin` to `end` of the batch.

        Returns
        -------
        Cut

        Examples
        --------
        >>> shards = gvae.training.Shards(4, gvae.runtime.parallel.ALONE, 10, np.float32)
        >>> batch = gvae.data.Table(np.zeros((3, 2))).batch(np.arange(3), gvae.random.key(0))
        >>> sorted(shards.cut(3, lambda s, begin, end: batch[begin:end]).parts)  # the first one has no rows
        [1, 2, 3]
        """
        bounds = self.bounds(n)
        found = {}
        for s in self.own:
            begin, end = bounds[s], bounds[s + 1]
            if end > begin:
                found[s] = lambda s=s, begin=begin, end=end: part(s, begin, end)
        return Cut(n, found)

    def drawn(self, trainer: Trainer, cut: Cut, key: Key) -> Iterator[tuple[int, Batch, dict[str, Any]]]:
        """This rank's shards with their noise.

        Parameters
        ----------
        trainer : Trainer
        cut : Cut
        key : array (4,)
            The key of the step's noise.

        Yields
        ------
        (int, Batch, mapping of str to array)

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)), shards=2)
        >>> cut = trainer.cut(gvae.data.Table(np.eye(4, dtype=np.float32)).batch(np.arange(4), gvae.random.key(0)))
        >>> [(s, len(batch)) for s, batch, noise in trainer.shards.drawn(trainer, cut, gvae.random.key(1))]
        [(0, 2), (1, 2)]
        """
        for s, part in cut.parts.items():
            batch = part()
            yield s, batch, trainer.noise(random.fold_in(key, s), batch)

    def value_and_gradient(self, trainer: Trainer, params: dict, cut: Cut, now: StepInputs) -> tuple[dict, dict, dict]:
        """As `Trainer.value_and_gradient`, for a whole batch of which each rank has some shards.

        Parameters
        ----------
        trainer : Trainer
        params : dict of str to array
        cut : Cut
        now : StepInputs

        Returns
        -------
        metrics, state, gradient : dict
            The same on all ranks.

        Raises
        ------
        RankError
            Another rank has raised an error.
        Exception
            The error that the evaluation of a shard raises.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)), shards=2)
        >>> cut = trainer.cut(gvae.data.Table(np.eye(4, dtype=np.float32)).batch(np.arange(4), gvae.random.key(0)))
        >>> now, params = trainer.inputs(), dict(trainer.parameters)
        >>> metrics, state, gradient = trainer.shards.value_and_gradient(trainer, params, cut, now)
        >>> {name: round(x, 2) for name, x in metrics.items()}
        {'bound': -2.99, 'log_likelihood': -2.6, 'kl': 0.39}
        """
        total, error, stopping = self.free[0], self.error, False
        if error is None:
            try:
                with self.communicator.leaders_first("a step"):
                    total = self._subtree(trainer, params, cut, now)
                stopping = bool(self.ask())
            except Exception as raised:  # all ranks are told, as they wait for this one's sum
                error = raised
        if error is not None:
            total.clear()
            total.tail[FAILED] = 1.0
        total.tail[STOP] = float(stopping)
        if self.names is None or not self.names:
            self.names = next((names for names in self.communicator.gather(trainer.reported) if names), None)
        self.communicator.add(total)
        if total.tail[FAILED]:
            self.error = None
            self.communicator.agree(error)
        self.stopped = bool(total.tail[STOP])
        weight = total.tail[WEIGHT]
        with np.errstate(all="ignore"):  # the caller checks whether they are finite
            namespace(total.flat).divide(total.flat, total.flat.dtype.type(len(cut)), out=trainer.gradient.flat)
            means = total.tail[METRICS:] / weight
        self.weight = weight if total.tail[WEIGHTED] else None
        trainer.reported = self.names or ()
        metrics = {name: float(x) for name, x in zip(trainer.reported, means, strict=False)}
        return metrics, {}, dict(trainer.gradient)

    def _subtree(self, trainer: Trainer, params: dict, cut: Cut, now: StepInputs) -> Buffer:
        """The sum over this rank's shards; each node is added as soon as both of its children are known."""
        free = list(self.free)
        pending: list[tuple[int, Buffer]] = []  # (level, sum), in decreasing order of levels
        parts = self.drawn(trainer, cut, now.noise)
        for s in self.own:
            leaf, level = free.pop(), 0
            leaf.clear()
            if s in cut.parts:
                _, batch, noise = next(parts)
                self._fill(leaf, trainer, params, batch, noise, now)
            while pending and pending[-1][0] == level:
                _, left = pending.pop()
                left.plus(leaf)
                free.append(leaf)
                leaf, level = left, level + 1
            pending.append((level, leaf))
        return pending[0][1]

    def _fill(self, leaf: Buffer, trainer: Trainer, params: dict, batch: Batch, noise: dict, now: StepInputs) -> None:
        """The gradient of one shard, the mean over its rows times their number, and its weighted metrics."""
        leaf.tail[WEIGHTED] = float(batch.weight is not None)
        weight = float(len(batch)) if batch.weight is None else float(batch.weight.sum())
        if weight == 0.0:
            return
        metrics, _, _ = trainer.value_and_gradient(params, batch, noise, now)
        if len(metrics) > MOST - METRICS:
            raise ConfigError(f"shards: an objective with {len(metrics)} metrics, expected at most {MOST - METRICS}")
        gradient = trainer.gradient.flat
        namespace(gradient).multiply(gradient, gradient.dtype.type(len(batch)), out=leaf.flat)
        leaf.tail[WEIGHT] = weight
        leaf.tail[METRICS : METRICS + len(metrics)] = [weight * float(x) for x in metrics.values()]


def check_ranks(shards: int, ranks: int) -> None:
    """Check that ranks can share shards.

    Parameters
    ----------
    shards, ranks : int

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> gvae.training.check_ranks(8, 3)
    Traceback (most recent call last):
    ...
    gvae.errors.ConfigError: 3 ranks cannot share the 8 shards of a batch; expected 1, 2, 4 or 8 ranks
    """
    if not is_power_of_two(shards):
        raise ConfigError(f"shards is {shards!r}, expected a power of two")
    if not is_power_of_two(ranks) or ranks > shards:
        fit = [str(2**i) for i in range(shards.bit_length())]
        expected = " or ".join(part for part in (", ".join(fit[:-1]), fit[-1]) if part)
        more = "; see the setting shards (--shards)" if shards == 1 else ""
        raise ConfigError(
            f"{ranks} ranks cannot share the {shards} shard{'' if shards == 1 else 's'} of a batch; expected {expected} "
            f"rank{'' if shards == 1 else 's'}{more}"
        )


def why_not_shards(trainer: Trainer) -> str:
    """The reason why batches cannot be cut into shards, or "".

    Parameters
    ----------
    trainer : Trainer

    Returns
    -------
    str

    Examples
    --------
    >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
    >>> trainer = gvae.training.Trainer(gvae.models.NonlinearFactorAnalysis(4, 2, hidden=(3,)), n_rows=4)
    >>> gvae.training.why_not_shards(trainer)
    'NonlinearFactorAnalysis has parameters of each row'
    """
    model: Model = trainer.model
    objective: Objective = trainer.objective
    of_model, of_objective = type(model).__name__, type(objective).__name__
    if (cost := getattr(objective, "cost", None)) is not None:
        of_objective += f" with {type(cost).__name__}"
    if trainer.rows:
        return f"{of_model} has parameters of each row"
    if hasattr(model, "update"):
        return f"{of_model} takes its steps itself"
    if trainer.state:
        return f"{of_model} keeps a state from step to step"
    if trainer.alone:
        return f"separate steps of {', '.join(trainer.alone)} use whole batches"
    if trainer.optimizer.iterations:
        return f"a step of {trainer.optimizer} has many gradients of all rows"
    if least_rows(model, None) > 1 or not getattr(model, "separable", True):
        return f"in a step of {of_model} the rows of a batch depend on each other"
    if least_rows(None, objective) > 1 or not getattr(objective, "separable", True):
        return f"{of_objective} is not a mean over the rows of a batch"
    return ""
