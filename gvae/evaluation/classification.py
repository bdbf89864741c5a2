"""How well a classifier tells labels, and how many bits its code holds of what it read and of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import standard_error
from gvae.evaluation.subject import Subject, whole

__all__ = ["Classification", "classification"]


@dataclass(frozen=True)
class Classification:
    """Per row: whether the most probable class is another than the row's, E log q(y|z), and the rate, in nats.

    label_entropy : H(Y) of the rows' labels, in nats, by their shares          draws : of the code, per row
    """

    wrong: np.ndarray
    log_likelihood: np.ndarray
    kl: np.ndarray
    label_entropy: float
    draws: int

    def summary(self) -> dict[str, Any]:
        """error, a share of the rows, with the standard error that the choice of rows causes; and the bounds

        I(Z; X) <= E KL(p(z|x) || r(z)),     I(Z; Y) >= H(Y) + E log q(y|z),     in bits
        """
        told = self.label_entropy + float(self.log_likelihood.mean())
        return {
            "rows": len(self.wrong),
            "draws": self.draws,
            "error": float(self.wrong.mean()),
            "standard_error": standard_error(self.wrong),
            "i_zx_bits": float(self.kl.mean()) / math.log(2),
            "i_zy_bits": told / math.log(2),
        }


def classification(subject: Subject, *, draws: int = 12) -> Classification:
    """The error of the most probable class by the mean over `draws` draws of the code. Source: Alemi et al. (2017)."""
    draws = whole("draws", draws)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.CLASSIFICATION, i), batch, draws)
        terms = subject.terms(batch, noise)
        p = np.asarray(subject.model.predict(subject.parameters | subject.own(batch), subject.state, batch, noise))
        shape = (draws, len(batch))
        rates = [layer.log_q - layer.log_p if layer.kl is None else layer.kl for layer in terms.layers]
        rate = sum(np.broadcast_to(np.asarray(r, np.float64), shape).mean(axis=0) for r in rates)
        told = np.asarray(terms.total_log_likelihood, np.float64).mean(axis=0)
        return {"wrong": (p.argmax(axis=1) != batch.y).astype(np.float64), "log_likelihood": told, "kl": rate}

    columns: dict[str, Any] = subject.each("classification", compute, settings={"draws": draws})
    share = np.unique(subject.table.columns["y"], return_counts=True)[1] / len(subject.table)
    return Classification(**columns, label_entropy=float(-(share * np.log(share)).sum()), draws=draws)
