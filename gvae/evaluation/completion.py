"""Held-out words: the perplexity of a part of each row's counts, under a model that has seen the other part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae.data import Table, as_csr, split_counts
from gvae.distributions import Distribution, PoissonProduct
from gvae.errors import ConfigError, DataError
from gvae.evaluation import subject as streams
from gvae.evaluation.registry import line, measure
from gvae.evaluation.subject import Subject
from gvae.ops.counts import poisson_counts_log_prob
from gvae.ops.elementwise import lgamma
from gvae.protocol import Model
from gvae.random import fold_in

__all__ = ["Completion", "complete", "completion", "log_shares"]


@dataclass(frozen=True)
class Completion:
    """Perplexity of held-out counts.

    Parameters
    ----------
    seen : float
        The probability with which a count's units were seen.
    log_shares : array (N,)
        For each row, the sum of x log(rate / sum of rates) over its held-out counts x, in nats.
    counts : array (N,)
        The sums of these counts.

    Examples
    --------
    >>> gvae.evaluation.Completion(0.1, np.log([0.25, 0.25]), np.array([1.0, 1.0])).counts.sum()
    np.float64(2.0)
    """

    seen: float
    log_shares: np.ndarray
    counts: np.ndarray

    def summary(self) -> dict[str, Any]:
        """The perplexity, exp(-sum x log(rate / sum of rates) / sum x) over all held-out counts x.

        Returns
        -------
        dict
            "rows", "seen", "held_out" (the sum of the counts) and "perplexity".

        Examples
        --------
        >>> shares = np.log([0.25, 0.25])  # two words, each with a share of a quarter
        >>> gvae.evaluation.Completion(0.1, shares, np.array([1.0, 1.0])).summary()["perplexity"]
        4.0
        """
        total = float(self.counts.sum())
        return {
            "rows": len(self.counts),
            "seen": self.seen,
            "held_out": total,
            "perplexity": math.exp(-float(self.log_shares.sum()) / total),
        }


def log_shares(x: Any, z: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sum of x log(rate / sum of rates) of each row, for rates z . w_d of column d; in nats.

    Parameters
    ----------
    x : CSR matrix (B, D)
        Counts.
    z : array (B, n)
        At least 0: the values of a model's units, or the shares of topics.
    w : array (D, n)
        At least 0: weights, or the topics' distributions over words.

    Returns
    -------
    array (B,)

    Examples
    --------
    >>> from scipy import sparse
    >>> x = sparse.csr_array(np.array([[2.0, 0.0, 1.0]]))
    >>> found = gvae.evaluation.log_shares(x, np.ones((1, 1)), np.array([[1.0], [1.0], [2.0]]))
    >>> np.allclose(found, 2 * np.log(1 / 4) + np.log(2 / 4))
    True
    """
    z, w = np.asarray(z, np.float64), np.asarray(w, np.float64)
    totals = z @ w.sum(axis=0)
    logs = poisson_counts_log_prob(x, z, w) + totals + _sums(x, lambda counts: lgamma(counts + 1))
    return logs - _sums(x) * np.log(totals)


def _sums(x: Any, f: Callable[[np.ndarray], np.ndarray] = lambda counts: counts) -> np.ndarray:
    """The sum of f(x) of each row of a CSR matrix, f(0) = 0."""
    values = f(x.data.astype(np.float64))
    return np.asarray(type(x)((values, x.indices, x.indptr), shape=x.shape).sum(axis=1)).ravel()


def _completion_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"completion, {s['rows']} rows of which a share of {s['seen']:g} is seen, {s['held_out']:.0f} held-out counts"
    yield line("perplexity", s["perplexity"])


@measure(
    "completion",
    "perplexity of held-out counts, given a part of each row's",
    "inference of every row",
    lines=_completion_lines,
    settings=("seen",),
    of="x",
    asked=True,
)
def completion(subject: Subject, *, seen: float = 0.1) -> Completion:
    """Infer the codes of each row from a part of its counts, and find the perplexity of the rest.

    Parameters
    ----------
    subject : Subject
        Its model explains counts x.
    seen : float, default 0.1
        The probability with which each unit of a count is seen, above 0 and below 1; the subject's key fixes the split.

    Returns
    -------
    Completion

    Raises
    ------
    ConfigError
        x is not explained by counts, or `seen` is out of range.
    DataError
        There are no held-out counts.

    Notes
    -----
    Codes have their means under q given the seen counts. Where the model has a method `thinned`, these are explained by a
    share of its rates, else as if they were the row. Source: the evaluation in the code of
    Ranganath, Tang, Charlin and Blei (2015), after Wallach, Murray, Salakhutdinov and Mimno (2009).

    Examples
    --------
    >>> x = gvae.ops.poisson_draw(np.zeros((50, 4)), gvae.random.uniform(gvae.random.key(0), (50, 4), np.float64))
    >>> model = gvae.models.VAE(4, latent=2, observation="poisson", hidden=(3,))
    >>> params = {name: 0 * value for name, value in model.init(gvae.random.key(0)).items()}  # all rates are one
    >>> subject = gvae.evaluation.Subject(model, params, gvae.data.Table(x.astype(np.float32)))
    >>> round(gvae.evaluation.completion(subject).summary()["perplexity"], 3)
    4.0
    """
    from scipy import sparse

    z = subject.model.sample_prior(subject.parameters, subject.key, 1)
    p = subject.model.decode(subject.parameters, subject.state, z)["x"]
    if not (p.support.whole and p.support.high == math.inf):
        raise ConfigError(f"completion: x is explained by {type(p).__name__}, expected a distribution of counts")
    x = subject.table.columns["x"]
    counts = x if sparse.issparse(x) else sparse.csr_array(np.asarray(x))
    shown, held = split_counts(as_csr(counts, "completion: x"), seen, key=fold_in(subject.key, streams.COMPLETION))
    about: dict[str, Any] = {name: getattr(subject, name) for name in ("key", "state", "batch_size", "progress", "ranks")}
    table = Table(shown if sparse.issparse(x) else shown.toarray(), dtype=x.dtype)
    return complete(subject.model, subject.parameters, table, held, seen=seen, **about)


def complete(
    model: Model, parameters: Mapping[str, np.ndarray], table: Table, held: Any, *, seen: float, **about: Any
) -> Completion:
    """The perplexity of held-out counts under codes that are inferred from others of the same rows.

    Parameters
    ----------
    model : Model
    parameters : mapping of str to array
    table : Table
        The seen counts.
    held : CSR matrix (N, D)
        The held-out counts.
    seen : float
        The probability with which each unit of a count is seen.
    **about : object
        Further arguments of `Subject`.

    Returns
    -------
    Completion

    Raises
    ------
    ConfigError, DataError
        As for `completion`.

    Examples
    --------
    >>> from scipy import sparse
    >>> model = gvae.models.VAE(4, latent=2, observation="poisson", hidden=(3,))
    >>> params = {name: 0 * value for name, value in model.init(gvae.random.key(0)).items()}  # all rates are one
    >>> seen, held = gvae.data.Table(np.eye(4, dtype=np.float32)), sparse.csr_array(np.eye(4))
    >>> round(gvae.evaluation.complete(model, params, seen, held, seen=0.5).summary()["perplexity"], 3)
    4.0
    """
    if not held.nnz:
        raise DataError("completion: there are no held-out counts")
    thinned = getattr(model, "thinned", None)
    subject = Subject(model, parameters if thinned is None else thinned(parameters, seen), table, **about)
    found = subject.each("completion", lambda i, batch: {"log_shares": _of_batch(subject, batch, held)}, settings={})
    return Completion(seen, found["log_shares"], _sums(held))


def _of_batch(subject: Subject, batch: Any, held: Any) -> np.ndarray:
    model, params = subject.model, subject.parameters | subject.own(batch)
    z = {name: np.asarray(q.shown) for name, q in model.code(params, subject.state, batch).items()}
    p = model.decode(params, subject.state, z)["x"]
    rows = held[batch.index]
    return log_shares(rows, p.z, p.w) if isinstance(p, PoissonProduct) else _dense_shares(p, rows)


def _dense_shares(p: Distribution, rows: Any) -> np.ndarray:
    """The sums of `log_shares` for rates that a network computes, of a batch."""
    rates = np.atleast_2d(np.asarray(p.mean, np.float64))
    shares = np.log(rates / rates.sum(axis=-1, keepdims=True))
    i = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    terms = rows.data * shares[i if len(shares) > 1 else 0 * i, rows.indices]
    return np.bincount(i, terms, minlength=rows.shape[0])
