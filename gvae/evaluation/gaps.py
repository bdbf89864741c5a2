"""Where the inference is lost: in the family of q, or in the encoder.

    log p(x) - L(q_encoder) = [log p(x) - L(q*)] + [L(q*) - L(q_encoder)] = approximation gap + amortization gap

with q* the best member of the family for this x, found by ascending the ELBO in q's own raw numbers, row by row.
Source: Cremer, Li and Duvenaud (2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.errors import ConfigError
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import Sampler, standard_error
from gvae.evaluation.subject import Subject, whole
from gvae.training import ascend

__all__ = ["Gaps", "inference_gaps"]


@dataclass(frozen=True)
class Gaps:
    """Per row: the ELBO of the encoder's q and of the best one, log p(x) by importance samples of the latter, and `raw`, by
    name, the raw numbers of the best one. The ELBOs are means of log w over the same noise, so that the approximation gap,
    of one set of weights, is never negative."""

    elbo: np.ndarray
    best_elbo: np.ndarray
    log_likelihood: np.ndarray
    pareto_k: np.ndarray
    raw: dict[str, np.ndarray]
    samples: int

    @property
    def approximation(self) -> np.ndarray:
        """log p(x) - L(q*): what the family costs."""
        return self.log_likelihood - self.best_elbo

    @property
    def amortization(self) -> np.ndarray:
        """L(q*) - L(q_encoder): what the encoder costs, compared to optimising q for each row."""
        return self.best_elbo - self.elbo

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = {"rows": len(self.elbo), "samples": self.samples}
        for name in ("elbo", "best_elbo", "log_likelihood"):
            result[name] = float(getattr(self, name).mean())
        for name in ("approximation", "amortization"):
            gap = getattr(self, name)
            result |= {f"{name}_gap": float(gap.mean()), f"{name}_gap_standard_error": standard_error(gap)}
        return result


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
    """Approximation and amortization gap of the first `rows` rows.

    samples : for the ELBOs and log p(x), as in `evaluate`, and `memory` likewise
    steps   : of Adam, per row, from the encoder's numbers on, with `draws` draws each, new ones in every step; the rate
              falls from learning_rate to 0 along half a cosine
    The decoder stays as it is. What more steps would still gain is counted as approximation gap. Costs steps x draws draws
    with gradients, and 2 samples without, a row. The model needs the method `raw` (ConfigError otherwise).
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

        subjected = (subject.model, known, subject.state, batch)
        best = ascend(*subjected, start, noise, steps=steps, learning_rate=learning_rate)
        ours, theirs = sampler(i, batch), sampler(i, batch, best)
        columns = {"elbo": ours["log_weight"], "best_elbo": theirs["log_weight"]}
        columns |= {name: theirs[name] for name in ("log_likelihood", "pareto_k")}
        return columns | {f"raw {name}": values.copy() for name, values in best.items()}

    settings = {"samples": samples, "steps": steps, "draws": draws, "learning_rate": learning_rate}
    columns: dict[str, Any] = subject.each("inference gaps", compute, settings=settings, rows=rows)
    raw = {name.removeprefix("raw "): columns.pop(name) for name in list(columns) if name.startswith("raw ")}
    return Gaps(samples=samples, raw=raw, **columns)
