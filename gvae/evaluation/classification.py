"""The error of a classifier, and how many bits its code holds about its input and about the labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import standard_error
from gvae.evaluation.registry import line, measure
from gvae.evaluation.subject import Subject, whole

__all__ = ["Classification", "classification"]


@dataclass(frozen=True)
class Classification:
    """Error, expected log-likelihood and rate of a classifier, per row, and the entropy of the labels.

    Parameters
    ----------
    wrong : array (N,)
        1 where the most probable class is not the row's label, else 0.
    log_likelihood : array (N,)
        E log q(y|z). Nats.
    kl : array (N,)
        The rate. Nats.
    label_entropy : float
        H(Y) of the rows' labels, by their shares. Nats.
    draws : int
        Draws of the code per row.

    Examples
    --------
    >>> result = gvae.evaluation.Classification(np.array([0.0, 1.0]), np.array([-0.2, -0.9]), np.ones(2), 0.693, 12)
    >>> result.wrong.mean()
    np.float64(0.5)
    """

    wrong: np.ndarray
    log_likelihood: np.ndarray
    kl: np.ndarray
    label_entropy: float
    draws: int

    def summary(self) -> dict[str, Any]:
        """The error rate, and bounds on the information of the code about X and Y, in bits.

        Returns
        -------
        dict
            "rows" and "draws"; "error", a share of the rows, with the "standard_error" that the choice of rows causes;
            "i_zx_bits", an upper bound on I(Z; X); "i_zy_bits", a lower bound on I(Z; Y).

        Notes
        -----
        I(Z; X) <= E KL(p(z|x) ‖ r(z)) and I(Z; Y) >= H(Y) + E log q(y|z).

        Examples
        --------
        >>> result = gvae.evaluation.Classification(np.array([0.0, 1.0]), np.array([-0.2, -0.9]), np.ones(2), 0.693, 12)
        >>> summary = result.summary()
        >>> round(summary["error"], 3), round(summary["i_zx_bits"], 3), round(summary["i_zy_bits"], 3)
        (0.5, 1.443, 0.206)
        """
        information = self.label_entropy + float(self.log_likelihood.mean())
        return {
            "rows": len(self.wrong),
            "draws": self.draws,
            "error": float(self.wrong.mean()),
            "standard_error": standard_error(self.wrong),
            "i_zx_bits": float(self.kl.mean()) / math.log(2),
            "i_zy_bits": information / math.log(2),
        }


def _classification_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"classification, {s['rows']} rows, {s['draws']} draws of the code"
    error = s["standard_error"]
    after = f"+- {error:.2%} (standard error over rows)" if math.isfinite(error) else ""
    yield f"  {'error':<34}{s['error']:>12.2%}{'  ' + after if after else ''}"
    yield line("I(Z; X), at most, in bits", s["i_zx_bits"])
    yield line("I(Z; Y), at least, in bits", s["i_zy_bits"])


@measure(
    "classification",
    "of classifiers: error, and the bits of x and y in the code",
    "12 draws a row",
    lines=_classification_lines,
    needs="predict",
    of="labels",
    inferred=False,
)
def classification(subject: Subject, *, draws: int = 12) -> Classification:
    """Error of the most probable class by the mean over draws of the code, with the bounds on the code's information.

    Parameters
    ----------
    subject : Subject
        Its model has the method `predict`, its table a column y of labels.
    draws : int, default 12
        Draws of the code per row.

    Returns
    -------
    Classification

    Raises
    ------
    ConfigError
        draws is not a positive integer.

    Notes
    -----
    Source: Alemi, Fischer, Dillon and Murphy (2017).

    Examples
    --------
    >>> x = gvae.random.normal(gvae.random.key(0), (40, 3))
    >>> table = gvae.data.Table(x, y=(x[:, 0] > 0).astype(np.int64))
    >>> model = gvae.models.VIB({"x": 3, "y": 2}, 2, hidden=(4,))
    >>> subject = gvae.evaluation.Subject(model, model.init(gvae.random.key(0)), table)
    >>> gvae.evaluation.classification(subject).summary()["error"]  # not trained
    0.475
    """
    draws = whole("draws", draws)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.CLASSIFICATION, i), batch, draws)
        terms = subject.terms(batch, noise)
        model: Any = subject.model  # a model of classes, which predicts them
        p = np.asarray(model.predict(subject.parameters | subject.own(batch), subject.state, batch, noise))
        shape = (draws, len(batch))
        rates = [layer.log_q - layer.log_p if layer.kl is None else layer.kl for layer in terms.layers]
        rate = sum(np.broadcast_to(np.asarray(r, np.float64), shape).mean(axis=0) for r in rates)
        log_likelihood = np.asarray(terms.total_log_likelihood, np.float64).mean(axis=0)
        return {"wrong": (p.argmax(axis=1) != batch.y).astype(np.float64), "log_likelihood": log_likelihood, "kl": rate}

    columns: dict[str, Any] = subject.each("classification", compute, settings={"draws": draws})
    share = np.unique(subject.table.columns["y"], return_counts=True)[1] / len(subject.table)
    return Classification(**columns, label_entropy=float(-(share * np.log(share)).sum()), draws=draws)
