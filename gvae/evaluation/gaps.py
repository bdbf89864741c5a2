"""Where inference loses: in the family of q, or in the encoder.

    log p(x) - L(q_encoder) = [log p(x) - L(q*)] + [L(q*) - L(q_encoder)] = approximation gap + amortization gap

with q* the best member of the family for this x, found by ascending the ELBO in q's unconstrained parameters, row by row.
Source: Cremer, Li and Duvenaud (2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import Sampler, standard_error
from gvae.evaluation.registry import line, measure, spread
from gvae.evaluation.subject import Subject, whole
from gvae.training import ascend

__all__ = ["Gaps", "inference_gaps"]


@dataclass(frozen=True)
class Gaps:
    """ELBOs of the encoder's q and of the best q of its family, and log p(x), per row.

    The ELBOs are means of log w over the same noise, so that the approximation gap, computed from one set of weights, is
    never negative.

    Parameters
    ----------
    elbo : array (N,)
        The ELBO of the encoder's q. Nats.
    best_elbo : array (N,)
        The ELBO of q*, the best member of the family for each row. Nats.
    log_likelihood : array (N,)
        log p(x) by importance samples of q*. Nats.
    pareto_k : array (N,)
        Pareto k of the weights of q*, see `pareto_k`.
    raw : dict of str to array (N, ...)
        The unconstrained parameters of q*, by name.
    samples : int
        The number of importance samples.

    Examples
    --------
    >>> result = gvae.evaluation.Gaps(np.array([-5.0]), np.array([-4.5]), np.array([-4.4]), np.array([0.2]), {}, 1000)
    >>> result.approximation.round(3), result.amortization.round(3)
    (array([0.1]), array([0.5]))
    """

    elbo: np.ndarray
    best_elbo: np.ndarray
    log_likelihood: np.ndarray
    pareto_k: np.ndarray
    raw: dict[str, np.ndarray]
    samples: int

    @property
    def approximation(self) -> np.ndarray:
        """The loss due to the family of q, log p(x) - L(q*), (N,). Nats.

        Examples
        --------
        >>> result = gvae.evaluation.Gaps(np.array([-5.0]), np.array([-4.5]), np.array([-4.4]), np.array([0.2]), {}, 1000)
        >>> result.approximation.round(3)
        array([0.1])
        """
        return self.log_likelihood - self.best_elbo

    @property
    def amortization(self) -> np.ndarray:
        """The loss due to the encoder compared to optimising q for each row, L(q*) - L(q_encoder), (N,). Nats.

        Examples
        --------
        >>> result = gvae.evaluation.Gaps(np.array([-5.0]), np.array([-4.5]), np.array([-4.4]), np.array([0.2]), {}, 1000)
        >>> result.amortization.round(3)
        array([0.5])
        """
        return self.best_elbo - self.elbo

    def summary(self) -> dict[str, Any]:
        """Means over rows of the ELBOs, of log p(x) and of both gaps, the gaps with standard errors over rows.

        Returns
        -------
        dict
            "rows", "samples", "elbo", "best_elbo", "log_likelihood", "approximation_gap" and "amortization_gap", each gap
            with its "_standard_error". Nats.

        Examples
        --------
        >>> elbo = np.array([-5.0, -5.2])
        >>> summary = gvae.evaluation.Gaps(elbo, elbo + 0.5, elbo + 0.6, np.zeros(2), {}, 1000).summary()
        >>> round(summary["approximation_gap"], 3), round(summary["amortization_gap"], 3)
        (0.1, 0.5)
        """
        result: dict[str, Any] = {"rows": len(self.elbo), "samples": self.samples}
        for name in ("elbo", "best_elbo", "log_likelihood"):
            result[name] = float(getattr(self, name).mean())
        for name in ("approximation", "amortization"):
            gap = getattr(self, name)
            result |= {f"{name}_gap": float(gap.mean()), f"{name}_gap_standard_error": standard_error(gap)}
        return result


def _gaps_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"inference gaps, {s['rows']} rows"
    yield line("ELBO of the encoder's q", s["elbo"])
    yield line("ELBO of the best q of its family", s["best_elbo"])
    yield line(f"log p(x), K = {s['samples']}, of the best q", s["log_likelihood"])
    yield line("approximation gap", s["approximation_gap"], spread(s, "approximation_gap"))
    yield line("amortization gap", s["amortization_gap"], spread(s, "amortization_gap"))


@measure(
    "gaps",
    "the losses due to the family of q and due to the encoder, on the first rows",
    "15,000 decoder passes and 2 K draws for each of them",
    lines=_gaps_lines,
    settings=("first", "samples", "memory"),
    needs="raw",
    of="x",
)
def inference_gaps(
    subject: Subject,
    *,
    rows: int | None = 100,
    samples: int = 1000,
    steps: int = 500,
    draws: int = 10,
    learning_rate: float = 0.05,
    memory: float | None = None,
) -> Gaps:
    """Approximation gap and amortization gap of the first rows.

    Parameters
    ----------
    subject : Subject
        Its model has the method `raw`.
    rows : int, optional
        How many of the first rows, by default 100; None: all.
    samples : int, default 1000
        Draws for the ELBOs and log p(x), as in `evaluate`.
    steps : int, default 500
        Steps of Adam per row, starting from the encoder's output.
    draws : int, default 10
        Draws in each step, new ones in every step.
    learning_rate : float, default 0.05
        The learning rate of the first step. It falls to 0 along half a cosine.
    memory : float, optional
        As in `evaluate`.

    Returns
    -------
    Gaps

    Raises
    ------
    ConfigError
        A setting is invalid, or the model has no method `raw`.

    Notes
    -----
    log p(x) - L(q_encoder) = [log p(x) - L(q*)] + [L(q*) - L(q_encoder)] = approximation gap + amortization gap, with q* the
    best member of the family for this x. The decoder stays as it is. What more steps would still gain is counted as
    approximation gap. Costs steps x draws draws with gradients, and 2 samples without, per row. Source: Cremer, Li and
    Duvenaud (2018).

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> model, parameters = fa.as_vae()
    >>> parameters["encoder.0.bias"][0] += 0.6  # an encoder whose means are wrong
    >>> subject = gvae.evaluation.Subject(model, parameters, gvae.data.Table(fa.sample(gvae.random.key(0), 5)))
    >>> result = gvae.evaluation.inference_gaps(subject, samples=200, steps=60)
    >>> result.amortization.mean().round(1), result.approximation.mean().round(1)
    (np.float64(1.0), np.float64(0.0))
    """
    samples, steps, draws = whole("samples", samples), whole("steps", steps), whole("draws", draws)
    raw_of = subject.optional("raw", "inference_gaps")
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"inference_gaps: learning_rate is {learning_rate!r}, expected a positive number")
    sampler = Sampler(subject, samples, memory, streams.GAPS)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        known = subject.parameters | subject.own(batch)
        start = raw_of(known, subject.state, batch)

        def noise(step: int) -> dict[str, Any]:
            return subject.model.noise(random.fold_in(subject.key, streams.GAPS, i, 0, step), batch, draws)

        about = (subject.model, known, subject.state, batch)
        best = ascend(*about, start, noise, steps=steps, learning_rate=learning_rate)
        ours, theirs = sampler(i, batch), sampler(i, batch, best)
        columns = {"elbo": ours["log_weight"], "best_elbo": theirs["log_weight"]}
        columns |= {name: theirs[name] for name in ("log_likelihood", "pareto_k")}
        return columns | {f"raw {name}": values.copy() for name, values in best.items()}

    settings = {"samples": samples, "steps": steps, "draws": draws, "learning_rate": learning_rate}
    columns: dict[str, Any] = subject.each("inference gaps", compute, settings=settings, rows=rows)
    raw = {name.removeprefix("raw "): columns.pop(name) for name in list(columns) if name.startswith("raw ")}
    return Gaps(samples=samples, raw=raw, **columns)
