"""The ELBO and importance-sampled log p(x), in nats per row, and how far they can be trusted.

Samples are drawn in chunks and combined by a running log-sum-exp, so that any number of samples fits a fixed amount of
memory.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import sys
import threading
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.errors import ConfigError, NonFiniteError
from gvae.evaluation import subject as streams
from gvae.evaluation.pareto import UNRELIABLE, Tail
from gvae.evaluation.subject import Subject, whole
from gvae.objectives import Terms
from gvae.runtime import device, limits, pool
from gvae.runtime import memory as memory_pool

__all__ = ["COLUMNS", "Evaluation", "Sampler", "Weights", "importance_sampling", "sampling_error", "standard_error"]

ROWS_AT_ONCE = 10_000  # samples x rows whose noise is drawn at once, and that are decoded at once if memory allows
# an Evaluation's values per row
COLUMNS = ("elbo", "log_likelihood", "standard_error", "kl", "effective_sample_size", "pareto_k")


@dataclass(frozen=True)
class Evaluation:
    """The ELBO, importance-sampled log p(x) with measures of its quality, and the KL, per row.

    Parameters
    ----------
    elbo : array (N,)
        Mean over the samples of log p(x|z), minus the KL, in closed form where there is one. Nats.
    log_likelihood : array (N,)
        log 1/K sum_k w_k with w_k = p(x, z_k) / q(z_k | x). Its expectation is a lower bound on log p(x), too low by about
        standard_error² / 2. Nats.
    standard_error : array (N,)
        The standard error of log_likelihood, from the samples' spread: sd(w) / (mean(w) sqrt K), the delta method. NaN for
        K = 1. Nats.
    kl : array (N,)
        The rate; the distortion -E log p(x|z) is what remains of -elbo. Nats.
    effective_sample_size : array (N,)
        (sum w)² / sum w², between 1 and K. Near 1, one sample decides, and the estimate is poor.
    pareto_k : array (N,)
        See `pareto_k`. Above 0.7, neither log_likelihood nor its error can be trusted. NaN for K < 21, -inf where the
        weights are all the same.
    samples : int
        The number of samples K.
    measures : mapping of str to object, optional
        Results of further measures that were requested, by name; see `gvae.evaluation.MEASURES`.
    conditional : bool, default False
        Whether the model explains y given x. Then log p(y|x) replaces log p(x), and its bound is the mean of log p(y|z).
    views : tuple of str, default ("x",)
        What the model explains; with ("x", "y") log p(x, y) replaces log p(x).
    left_out : mapping of str to str, optional
        The measures of "all" that turned out not to apply to the model, and why.

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> x = fa.sample(gvae.random.key(0), 50)
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(x))
    >>> result = gvae.evaluation.importance_sampling(subject)
    >>> np.allclose(result.log_likelihood, fa.log_prob(x))  # q(z|x) is exact, so that all weights of a row are equal
    True
    >>> result.effective_sample_size.min().round(3)
    np.float64(100.0)
    """

    elbo: np.ndarray
    log_likelihood: np.ndarray
    standard_error: np.ndarray
    kl: np.ndarray
    effective_sample_size: np.ndarray
    pareto_k: np.ndarray
    samples: int
    measures: Mapping[str, Any] = field(default_factory=dict)
    conditional: bool = False
    views: tuple[str, ...] = ("x",)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def explained(self) -> str:
        """What `log_likelihood` estimates, for texts.

        Examples
        --------
        >>> one = np.ones(2)
        >>> gvae.evaluation.Evaluation(-one, -one, one, one, one, one, 100, views=("x", "y")).explained
        'log p(x, y)'
        """
        return "log p(y|x)" if self.conditional else f"log p({', '.join(self.views)})"

    def summary(self) -> dict[str, Any]:
        """Means over rows, with the standard error that the choice of rows causes, and the summaries of further measures.

        Returns
        -------
        dict
            "rows" and "samples"; the means "elbo", "log_likelihood", "kl", "distortion" and "effective_sample_size";
            "elbo_standard_error" and "log_likelihood_standard_error", over rows; "log_likelihood_sampling_error", the
            standard error of the mean log p(x) due to the samples only; "pareto_k", the median over rows, and
            "pareto_k_unreliable", the share of rows above 0.7, both None if K is too small to tell; and, by name, a dict
            for each further measure, with "importance_sampled_log_likelihood" of the same rows where the measure estimates
            log p(x); "left_out" if there are any.

        Examples
        --------
        >>> one = np.ones(2)
        >>> result = gvae.evaluation.Evaluation(-3 * one, np.array([-2.5, -2.7]), 0.1 * one, one, 40 * one, 0.2 * one, 100)
        >>> summary = result.summary()
        >>> round(summary["log_likelihood"], 3), round(summary["log_likelihood_standard_error"], 3)
        (-2.6, 0.1)
        >>> round(summary["log_likelihood_sampling_error"], 3), summary["distortion"]
        (0.071, 2.0)
        """
        n = len(self.elbo)
        result: dict[str, Any] = {"rows": n, "samples": self.samples}
        for name in ("elbo", "log_likelihood", "kl", "effective_sample_size"):
            values = getattr(self, name)
            result[name] = float(values.mean()) if n else math.nan
            if name in ("elbo", "log_likelihood"):
                result[f"{name}_standard_error"] = standard_error(values)
        result["log_likelihood_sampling_error"] = sampling_error(self.standard_error)
        result["distortion"] = -result["elbo"] - (0 if self.conditional else result["kl"])
        known = n > 0 and not np.isnan(self.pareto_k).any()
        result["pareto_k"] = float(np.median(self.pareto_k)) if known else None
        result["pareto_k_unreliable"] = float((self.pareto_k > UNRELIABLE).mean()) if known else None
        for name, measure in self.measures.items():
            result[name] = measure.summary()
            if hasattr(measure, "log_likelihood"):  # the estimate for the same rows, to compare with
                few = self.log_likelihood[: len(measure.log_likelihood)]
                result[name]["importance_sampled_log_likelihood"] = float(few.mean())
        return result | ({"left_out": dict(self.left_out)} if self.left_out else {})


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean over rows, from their spread; NaN for one row."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def sampling_error(errors: np.ndarray) -> float:
    """Standard error of the mean over rows, from each row's own standard error; NaN for no rows."""
    return math.sqrt(float((errors**2).sum())) / len(errors) if len(errors) else math.nan


def importance_sampling(
    subject: Subject,
    *,
    samples: int = 100,
    memory: float | None = None,
    into: Callable[[Mapping[str, np.ndarray]], None] | None = None,
) -> Evaluation:
    """The ELBO and importance-sampled log p(x) of every row, with K = samples draws each.

    Parameters
    ----------
    subject : Subject
    samples : int, default 100
        The number of draws K.
    memory : float, optional
        Megabytes that the noise and the arrays of chunks of samples may take, in addition to the data, a batch of it per
        thread, and the parameters. Chunks are cut by the measured memory of one sample. None: no limit; about 20 per thread
        for two layers of 200 units. Where several threads share a kernel, each but one may take its working memory in
        addition: half a megabyte for 784 pixels.
    into : callable, optional
        into(columns) is given the columns of each batch in order; the Evaluation that is returned has no rows then.

    Returns
    -------
    Evaluation

    Raises
    ------
    ConfigError
        samples is not a positive integer, or more than this machine has memory for, or memory is too small for one sample of
        one batch.
    NonFiniteError
        A row has a weight that is NaN or infinite, or only weights that are zero.

    Notes
    -----
    On a CPU, threads work on different batches, as far as memory allows. The result does not depend on how samples are cut
    into chunks beyond rounding, but it depends on the subject's batch_size. A model that is `exact` has one sample.

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), np.zeros(3), np.ones(3))
    >>> x = fa.sample(gvae.random.key(0), 50)
    >>> subject = gvae.evaluation.Subject(*fa.as_vae("diagonal"), gvae.data.Table(x))
    >>> result = gvae.evaluation.importance_sampling(subject, samples=1000)
    >>> result.elbo.mean().round(2), result.log_likelihood.mean().round(2), fa.log_prob(x).mean().round(2)
    (np.float64(-5.59), np.float64(-5.56), np.float64(-5.56))
    """
    samples = 1 if getattr(subject.model, "exact", False) else whole("samples", samples)
    on_device = any(device.is_cuda(values) for values in subject.parameters.values())
    at_once = 1 if on_device else min(pool.count(), -(-len(subject.table) // subject.batch_size))
    sampler = Sampler(subject, samples, memory, streams.IMPORTANCE, at_once)
    settings = {"samples": samples, "rows_at_once": ROWS_AT_ONCE}
    columns: dict[str, Any] = subject.each("importance sampling", sampler, settings=settings, at_once=at_once, into=into)
    about: dict[str, Any] = {"conditional": getattr(subject.model, "conditional", False)}
    about["views"] = tuple(getattr(subject.model, "views", ("x",)))
    return Evaluation(samples=samples, **about, **{name: columns.get(name, np.zeros(0)) for name in COLUMNS})


_measuring = threading.Lock()  # a process has one tracemalloc
_started = False  # whether it traces because of an evaluation


@contextlib.contextmanager
def _traced(caller: threading.Thread) -> Iterator[None]:
    """tracemalloc is active, for an evaluation that `caller` waits for. While other threads are inside gvae it stays active,
    until an evaluation without them: its stop() may crash CPython beside threads that allocate (python/cpython#128679)."""
    global _started
    if not tracemalloc.is_tracing():
        tracemalloc.start()
        _started = True
    try:
        yield
    finally:
        if _started and not _others_are_inside(caller):
            tracemalloc.stop()
            _started = False


def _others_are_inside(caller: threading.Thread) -> bool:
    """Whether a thread other than this one, `caller` and gvae's workers, which wait for them, runs code of gvae."""
    waiting = {thread.ident for thread in threading.enumerate() if thread.name == pool.NAME or thread is caller}
    package = str(Path(__file__).parents[1])
    return any(
        frame.f_code.co_filename.startswith(package)
        for thread, innermost in sys._current_frames().items()
        if thread not in waiting and thread != threading.get_ident()
        for frame, _ in traceback.walk_stack(innermost)
    )


class Sampler:
    """sampler(i, batch) -> the columns of an Evaluation for batch i, with noise of its own stream, and "log_weight", the
    mean of log w: the ELBO by sampling only. At most `at_once` threads may call it at the same time; they share the memory.
    """

    def __init__(self, subject: Subject, samples: int, memory: float | None, stream: int, at_once: int = 1):
        rows = min(subject.batch_size, len(subject.table))
        limits.check_room(at_once * Tail.memory(samples, rows), f"evaluate: the tail of {samples} importance weights")
        self.subject, self.samples, self.memory, self.stream = subject, samples, memory, stream
        self.at_once, self.caller = at_once, threading.current_thread()
        self.room = threading.BoundedSemaphore(at_once)
        self.part = 0  # samples that are decoded at once; 0 if not known yet, or if the memory has no limit
        self.last = 0

    def __call__(self, i: int, batch: Batch, instead: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """instead : arrays that replace the model's parameters of these names"""
        running = _Running(batch, self.samples)
        if self.memory is not None and not self.part:
            with _measuring:  # other threads wait, those of other evaluations as well
                if not self.part:
                    self._fit(batch, self.memory)
        with self.room:
            chunk = self._chunk(batch)
            for c, start in enumerate(range(0, self.samples, chunk)):
                k = min(chunk, self.samples - start)
                if k != self.last:  # memory of parts of another size would not be reused
                    memory_pool.clear_memory()
                    self.last = k
                parts = -(-k // (self.part or k))
                # large parts first: their memory is reused
                cuts = [i * (k // parts) + min(i, k % parts) for i in range(parts + 1)]
                self._add(running, self._noise(i, c, batch, k), cuts, instead)
        return running.finish()

    def _add(
        self, to: _Running, noise: Mapping[str, Any], cuts: Sequence[int], instead: Mapping[str, Any] | None = None
    ) -> None:
        """The samples of this noise, those between two cuts at once: whatever the cuts, the noise is the same."""
        for a, b in itertools.pairwise(cuts):
            part = {name: draws[a:b] for name, draws in noise.items()}
            to.add(self.subject.terms(to.batch, part, instead))

    def _chunk(self, batch: Batch) -> int:
        """Number of samples whose noise is drawn at once."""
        return max(1, ROWS_AT_ONCE // len(batch))

    def _noise(self, i: int, c: int, batch: Batch, samples: int) -> dict[str, np.ndarray]:
        return self.subject.model.noise(random.fold_in(self.subject.key, self.stream, i, c), batch, samples)

    def _fit(self, batch: Batch, memory: float) -> None:
        """Decide by this batch, the largest, how many samples are decoded at once and by how many threads: as many as memory
        allows, threads first. Memory is measured with one sample, then with half of the number that may fit; the noise of
        a chunk, which is drawn at once, is part of both.
        """
        most = min(self._chunk(batch), self.samples)
        floor = math.inf  # memory held otherwise: the least seen, as threads may free some late

        def peak(samples: int) -> int:
            nonlocal floor
            memory_pool.clear_memory()  # so that memory that would be reused is counted
            floor = min(floor, tracemalloc.get_traced_memory()[0])
            tracemalloc.reset_peak()
            self._add(_Running(batch, samples), self._noise(0, 0, batch, most), (0, samples))
            return tracemalloc.get_traced_memory()[1]

        with _traced(self.caller):
            gc.collect()
            peak(1)  # compiles, which takes memory of its own
            one = max(peak(1), peak(1)) - floor
            at_once = max(1, min(self.at_once, int(memory * 1e6 / one)))
            share = memory * 1e6 / at_once
            several = max(2, min(most, int(share / one / 2)))
            more = (max(peak(several), peak(several)) - floor - one) / (several - 1)  # bytes of another sample
        memory_pool.clear_memory()
        if share < one:
            raise ConfigError(
                f"evaluate: memory is {memory:g} MB, expected at least {math.ceil(one / 1e6)}, "
                f"which one sample of {len(batch)} rows takes"
            )
        self.room = threading.BoundedSemaphore(at_once)
        self.part = min(most, 1 + int((share - one) / max(more, 1.0)))


class Weights:
    """Sums of importance weights over samples, row by row, in float64, relative to a running maximum."""

    def __init__(self, n: int):
        self.n = 0
        self.top = np.full(n, -np.inf)
        self.sum, self.squares = np.zeros(n), np.zeros(n)

    def add(self, log_weights: np.ndarray) -> None:
        """log_weights (k, n)."""
        self.n += len(log_weights)
        top = np.maximum(self.top, log_weights.max(axis=0))
        safe = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(under="ignore"):
            old = np.exp(self.top - safe)
            new = np.exp(log_weights - safe)
        self.sum = self.sum * old + new.sum(axis=0)
        self.squares = self.squares * old**2 + np.einsum("kn,kn->n", new, new)
        self.top = top

    def finish(self) -> dict[str, np.ndarray]:
        """log 1/K sum w, its standard error by the delta method, and the effective sample size."""
        safe = np.where(np.isfinite(self.top), self.top, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            effective = self.sum**2 / self.squares
            # var(w) / (K mean(w)²) = (K sum w² / (sum w)² - 1) / (K - 1)
            relative = np.maximum(self.n / effective - 1, 0) / (self.n - 1) if self.n > 1 else np.full_like(safe, np.nan)
            return {
                "log_likelihood": safe + np.log(self.sum) - math.log(self.n),
                "standard_error": np.sqrt(relative),
                "effective_sample_size": effective,
            }


def _in_double(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


class _Running:
    """Sums over the samples of a batch."""

    def __init__(self, batch: Batch, samples: int):
        n = len(batch)
        self.batch, self.conditional = batch, False
        self.log_likelihood, self.kl, self.log_weight = np.zeros(n), np.zeros(n), np.zeros(n)
        self.weights, self.tail = Weights(n), Tail(samples, n)

    def add(self, terms: Terms) -> None:
        likelihood, log_weights = _in_double(terms.total_log_likelihood), terms.weighed(_in_double)
        self.conditional = terms.conditional
        for layer in terms.layers:
            per_draw = _in_double(layer.log_q) - _in_double(layer.log_p) if layer.kl is None else layer.kl
            self.kl += np.broadcast_to(per_draw, likelihood.shape).sum(axis=0, dtype=np.float64)
        if not (log_weights < np.inf).all():  # NaN compares as False
            self._fail(terms, log_weights)
        self.log_likelihood += likelihood.sum(axis=0)
        self.log_weight += log_weights.sum(axis=0)
        self.weights.add(log_weights)
        self.tail.add(log_weights)

    def finish(self) -> dict[str, np.ndarray]:
        zero = np.flatnonzero(np.isneginf(self.weights.top))
        if len(zero):
            row = f"row {self.batch.index[zero[0]]} of those that are evaluated (counted from 0)"
            raise NonFiniteError(f"evaluate: {row}: p(x, z) is zero at every draw z of q(z|x)")
        kl = self.kl / self.weights.n
        likelihood = self.log_likelihood / self.weights.n
        elbo = likelihood if self.conditional else likelihood - kl
        log_weight = self.log_weight / self.weights.n
        return {"elbo": elbo, "kl": kl, "log_weight": log_weight, "pareto_k": self.tail.k()} | self.weights.finish()

    def _fail(self, terms: Terms, log_weights: np.ndarray) -> None:
        k, b = np.argwhere(~(log_weights < np.inf))[0]
        parts = {"log p(x|z)": terms.total_log_likelihood}
        for i, layer in enumerate(terms.layers):
            which = "" if len(terms.layers) == 1 else f" of layer {i}"
            parts |= {f"log q(z|x){which}": layer.log_q, f"log p(z){which}": layer.log_p}
        values = ", ".join(f"{name} = {np.broadcast_to(v, log_weights.shape)[k, b]:.6g}" for name, v in parts.items())
        row = f"row {self.batch.index[b]} of those that are evaluated (counted from 0)"
        raise NonFiniteError(f"evaluate: {row}: the log-weight of a sample is {log_weights[k, b]} ({values})")
