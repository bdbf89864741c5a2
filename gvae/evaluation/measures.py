"""All measures by name, and one call for several of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvae.data import Table
from gvae.errors import ConfigError
from gvae.evaluation.importance import Evaluation, importance_sampling
from gvae.evaluation.partial import Partial
from gvae.evaluation.registry import MEASURES, Measure
from gvae.evaluation.subject import Subject, whole
from gvae.protocol import Model
from gvae.runtime.parallel import ALONE, Communicator

__all__ = ["Measured", "evaluate", "names"]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The evaluation of a model without a bound: no values per row, only the results of measures.

    Parameters
    ----------
    rows : int
    measures : mapping of str to object
        Results by name; see `gvae.evaluation.MEASURES`.
    left_out : mapping of str to str, optional
        As in `Evaluation`.

    Examples
    --------
    >>> found = gvae.evaluation.ViewCorrelations(np.array([0.5]), np.array([0.5]), 10)
    >>> gvae.evaluation.Measured(10, {"correlation": found}).summary()["correlation"]["total"]
    0.5
    """

    rows: int
    measures: Mapping[str, Any]
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """The summaries of the measures.

        Returns
        -------
        dict
            "rows", and a dict for each measure by its name; "left_out" if there are any.

        Examples
        --------
        >>> gvae.evaluation.Measured(10, {}).summary()
        {'rows': 10}
        """
        left_out = {"left_out": dict(self.left_out)} if self.left_out else {}
        return {"rows": self.rows} | {name: measure.summary() for name, measure in self.measures.items()} | left_out


def names(given: str | Sequence[str]) -> list[str]:
    """The measures that one or several names stand for; "all" for all, of which `evaluate` takes those that suit the model.
    ConfigError for an unknown one.
    """
    given = [given] if isinstance(given, str) else given
    for name in given:
        if name != "all" and name not in MEASURES:
            raise ConfigError(f"unknown measure {name!r}; known are {', '.join(MEASURES)}, all")
    return [name for name in MEASURES if name in given or "all" in given]


def evaluate(
    model: Model,
    parameters: Mapping[str, np.ndarray],
    table: Table,
    *,
    samples: int = 100,
    key: np.ndarray | None = None,
    state: Mapping[str, np.ndarray] | None = None,
    batch_size: int = 100,
    memory: float | None = None,
    measures: str | Sequence[str] = (),
    first: int = 100,
    chains: int = 16,
    temperatures: int = 500,
    seen: float = 0.1,
    progress: bool = False,
    partial: Partial | None = None,
    ranks: Communicator = ALONE,
) -> Evaluation | Measured:
    """The ELBO and importance-sampled log p(x) of every row of a table, and further measures by name.

    Parameters
    ----------
    model : Model
        See `gvae.models.Model`.
    parameters : mapping of str to array
    table : Table
    samples : int, default 100
        The number of draws K for each row.
    key : array (4,), optional
        The table's binarization (if dynamic: one fixed draw) and all noise follow from it. Default: `gvae.random.key(0)`.
    state : mapping of str to array, optional
        The model's state (running statistics), where it has one: `Trainer.chosen_state`.
    batch_size : int, default 100
        Rows per batch. Results depend on it: it decides which row gets which noise.
    memory : float, optional
        Megabytes that the arrays of one chunk of samples may take, see `importance_sampling`.
    measures : str or sequence of str, default ()
        Names in `MEASURES`, or "all": those that apply to the model, except "bits", "completion" and "mmd". One that
        turns out not to apply only when it runs, such as "surgery" for layers whose q depends on other layers' draws, is
        named in the result's `left_out` with the reason.
    first : int, default 100
        How many rows the costly measures use.
    chains : int, default 16
        Annealing chains per row.
    temperatures : int, default 500
        Steps of the annealing schedule.
    seen : float, default 0.1
        The share of the counts that `completion` infers the codes from.
    progress : bool, default False
        Show a progress bar for each measure.
    partial : Partial, optional
        A file that keeps finished rows.
    ranks : Communicator, optional
        Ranks that share the rows, see `Subject`; all have the result.

    Returns
    -------
    Evaluation or Measured
        With the results of further measures in its `measures`. Measured for a model without a bound, with all measures that
        it has unless some are named.

    Raises
    ------
    ConfigError
        A setting is invalid, the model has no method or no bound that a measure needs, or parameters or state belong to
        another model.
    DataError
        The table has no rows.
    NonFiniteError
        A row has a weight that is NaN or infinite, or only weights that are zero.

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> model, parameters = fa.as_vae()
    >>> x = fa.sample(gvae.random.key(0), 50)
    >>> result = gvae.evaluation.evaluate(model, parameters, gvae.data.Table(x), measures="units")
    >>> result.log_likelihood.mean().round(3), fa.log_prob(x).mean().round(3)  # q(z|x) is exact here
    (np.float64(-5.192), np.float64(-5.192))
    >>> result.measures["units"].summary()["active"]
    1
    """
    settings = {"samples": whole("samples", samples), "memory": memory, "first": whole("first", first)}
    settings |= {"chains": whole("chains", chains), "temperatures": whole("temperatures", temperatures)}
    if not (isinstance(seen, (int, float)) and 0 < seen < 1):
        raise ConfigError(f"evaluate: seen is {seen!r}, expected a number between 0 and 1")
    settings["seen"] = seen
    bounded = getattr(model, "has_bound", True)
    given = {measures} if isinstance(measures, str) else set(measures)
    chosen = names(measures if bounded or measures else "all")
    lacking = {name: lack for name in chosen if (lack := _lack(name, model))}
    if "all" in given or not (bounded or measures):
        chosen = [n for n in chosen if n in given or not (n in lacking or MEASURES[n].asked)]
    for name in chosen:  # before anything costly
        if name in lacking:
            raise ConfigError(f"{name}: {lacking[name]}")
    how: dict[str, Any] = {"key": key, "batch_size": batch_size, "progress": progress, "partial": partial, "ranks": ranks}
    subject = Subject(model, parameters, table, state=state, **how)

    def run(measure: Measure) -> Any:
        renamed = {"first": "rows"}
        return measure.run(subject, **{renamed.get(name, name): settings[name] for name in measure.settings})

    result: Evaluation | Measured = Measured(len(table), {})
    if bounded:
        result = importance_sampling(subject, samples=samples, memory=memory)
    measured, left_out = {}, {}
    for name in chosen:
        try:
            measured[name] = run(MEASURES[name])
        except ConfigError as error:  # only now does it show that the model's layers, or its x, do not suit
            if name in given:
                raise
            left_out[name] = str(error)
    return dataclasses.replace(result, measures=measured, left_out=left_out)


def _lack(name: str, model: Model) -> str | None:
    """Why the model has no such measure, or None if it has it."""
    measure, of = MEASURES[name], type(model).__name__
    if measure.of != "views" and not getattr(model, "has_bound", True):
        have = ", ".join(n for n, m in MEASURES.items() if m.of == "views")
        return f"{of} has no bound on a log-probability; its measures are {have}"
    if measure.coded and not getattr(model, "codes", True):
        return f"{of} has no codes, of which this is a measure"
    if measure.inferred and not getattr(model, "has_posterior", True):
        return f"codes of {of} have no posterior, of which this is a measure"
    if measure.needs is not None and not hasattr(model, measure.needs):
        return f"{of} has no method `{measure.needs}`, see gvae.models"
    explained = getattr(model, "columns", {}).get("y") if getattr(model, "conditional", False) else "x"
    if measure.of in ("x", "labels") and measure.of != explained:
        return f"{of} explains no {measure.of}, of which this is a measure"
    return None
