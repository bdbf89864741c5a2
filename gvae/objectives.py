"""Objectives: what a model reports about a batch -> one scalar to maximise, in mean nats per row.

A model reports `Terms`: the log-likelihood of each view and, per stochastic layer, its q, its p and the draw. All of them
have shape (K, B): K samples lead, B rows. Objectives know nothing of families or models; they ask a layer for log q, log p
or the closed-form KL. An objective is any callable

    objective(terms, step, weight) -> (value, metrics)

where `value` is a scalar Var, or a dict from parameter groups to scalars when groups maximise different things, `metrics`
are scalars, Vars or numbers, `step` counts training steps and `weight` (B,) weighs rows (None: all alike). One that depends
on these only, and has no other effect, may say so with `pure = True`: steps are then replayed (see gvae.training).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from gvae.autodiff import Var, stop_gradient, value_of
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.ops import arrays, elementwise, weights

__all__ = ["ELBO", "IWAE", "OBJECTIVES", "Layer", "Objective", "Terms", "parse"]


@dataclass
class Layer:
    """One stochastic layer: its posterior q, its prior p (None: the standard one), and the draw z from q.

    noise : what z was made of, or None if z was not drawn by q.sample
    """

    q: Distribution
    p: Distribution | None
    z: Any
    noise: Any = None

    @cached_property
    def log_q(self) -> Any:
        """log q(z), (K, B)."""
        if self.q.reparameterized and self.noise is not None:
            return self.q.log_prob_of_draw(self.noise, self.z)
        return self.q.log_prob(self.z)

    @cached_property
    def log_p(self) -> Any:
        """log p(z), (K, B)."""
        return (self.q.standard if self.p is None else self.p).log_prob(self.z)

    @cached_property
    def kl(self) -> Any:
        """KL(q ‖ p) in closed form, (B,) or (K, B); None where there is no closed form."""
        return self.q.kl(self.p)


@dataclass
class Terms:
    """What a model says about a batch.

    log_likelihood : log p(view | z) by view, each (K, B)
    layers         : the stochastic layers
    extras         : anything an objective or a log may want
    state          : the model's new state (running statistics, baselines)
    """

    log_likelihood: Mapping[str, Any]
    layers: list[Layer]
    extras: dict[str, Any] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def total_log_likelihood(self) -> Any:
        """Summed over the views, (K, B)."""
        return _total(list(self.log_likelihood.values()))


class Objective(Protocol):
    """What `train` maximises: terms -> (scalar, or dict of scalars by parameter group; metrics in mean nats per row)."""

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]: ...


def _total(parts: list[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _warm(warmup: int, step: Any) -> Any:
    """The weight of the KL: from 1/warmup at step 0 linearly to 1."""
    if not warmup:
        return 1.0
    weight = (step + 1) / warmup
    return elementwise.minimum(weight, 1.0) if isinstance(weight, Var) else min(weight, 1.0)


def _mean_rows(values: Any, weight: Any) -> Any:
    """Mean over rows (B,), weighted if weights are given: sum w v / sum w."""
    if weight is None:
        return arrays.mean(values)
    return elementwise.divide(arrays.sum(elementwise.multiply(values, weight)), arrays.sum(weight))


def _over_samples(values: Any) -> Any:
    """Mean over the sample axis of (K, B); (B,) passes."""
    return arrays.mean(values, axis=0) if len(values.shape) == 2 else values


def _score_function(terms: Terms, signal: Any) -> Any:
    """A term of value zero whose gradient is that of the draws which are not reparameterized, (K, B).

    grad E_q f = E_q[(f - b) grad log q], for any b that does not depend on the draw: here the mean of f over the other
    samples of the row or, with one sample, over the other rows. Returns None if every layer is reparameterized.
    """
    discrete = [layer for layer in terms.layers if not layer.q.reparameterized]
    if not discrete:
        return None
    f = value_of(signal)
    axis = 0 if f.shape[0] > 1 else 1
    n = f.shape[axis]
    baseline = (f.sum(axis=axis, keepdims=True) - f) / (n - 1) if n > 1 else np.zeros_like(f)
    log_q = _total([layer.q.log_prob(layer.z) for layer in discrete])
    surrogate = elementwise.multiply(f - baseline, log_q)
    return elementwise.subtract(surrogate, stop_gradient(surrogate))


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound.

    estimator "B" : E log p(x|z) - KL, with the closed-form KL; ConfigError if a layer has none
    estimator "A" : E [log p(x, z) - log q(z)], all of it by sampling
    "auto"        : B for each layer that has a closed form, A for the others
    warmup        : steps over which the weight of the KL grows from 0 to 1
    Source: Kingma and Welling (2014), eqs. 6 (A) and 7 (B).
    """

    pure: ClassVar[bool] = True
    estimator: str = "auto"
    warmup: int = 0

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]:
        penalty = _total([self._divergence(layer) for layer in terms.layers])  # (B,) or (K, B)
        beta = _warm(self.warmup, step)
        per_sample = elementwise.subtract(terms.total_log_likelihood, beta * penalty)
        score = _score_function(terms, per_sample)
        if score is not None:
            per_sample = per_sample + score
        value = _mean_rows(_over_samples(per_sample), weight)
        likelihood = _mean_rows(_over_samples(terms.total_log_likelihood), weight)
        kl = _mean_rows(_over_samples(penalty), weight)
        return value, {"bound": elementwise.subtract(likelihood, kl), "log_likelihood": likelihood, "kl": kl}

    def _divergence(self, layer: Layer) -> Any:
        closed = layer.kl if self.estimator != "A" else None
        if closed is None:
            if self.estimator == "B":
                raise ConfigError(f"elbo_b: KL({type(layer.q).__name__} ‖ {type(layer.p).__name__}) has no closed form")
            return elementwise.subtract(layer.log_q, layer.log_p)
        return closed


@dataclass(frozen=True)
class IWAE:
    """The importance-weighted bound E log 1/K sum_k p(x, z_k) / q(z_k), K = the samples drawn; K = 1 is ELBO's estimator A.

    warmup weighs log q - log p as in ELBO. Source: Burda, Grosse and Salakhutdinov (2016), eq. 8.
    """

    pure: ClassVar[bool] = True
    warmup: int = 0

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]:
        penalty = _total([elementwise.subtract(layer.log_q, layer.log_p) for layer in terms.layers])
        log_weights = elementwise.subtract(terms.total_log_likelihood, _warm(self.warmup, step) * penalty)
        bound = weights.log_mean_exp(log_weights, axis=0)
        per_row = bound
        score = _score_function(terms, bound[None, :])
        if score is not None:  # every sample of a row bears the row's bound
            per_row = per_row + arrays.sum(score, axis=0)
        value = _mean_rows(per_row, weight)
        likelihood = _mean_rows(_over_samples(terms.total_log_likelihood), weight)
        kl = _mean_rows(_over_samples(penalty), weight)
        return value, {"bound": _mean_rows(bound, weight), "log_likelihood": likelihood, "kl": kl}


OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "elbo": lambda warmup: ELBO("auto", warmup),
    "elbo_a": lambda warmup: ELBO("A", warmup),
    "elbo_b": lambda warmup: ELBO("B", warmup),
    "iwae": lambda warmup: IWAE(warmup),
}


def parse(text: str | Objective, warmup: int = 0) -> Objective:
    """The objective that a name stands for; warmup in steps. Raises ConfigError with the list of known names."""
    if callable(text):
        return text
    if not isinstance(text, str) or text not in OBJECTIVES:
        raise ConfigError(f"unknown objective {text!r}; known are {', '.join(OBJECTIVES)}")
    if not isinstance(warmup, (int, np.integer)) or isinstance(warmup, bool) or warmup < 0:
        raise ConfigError(f"warmup is {warmup!r}, expected a whole number of steps, 0 or more")
    return OBJECTIVES[text](warmup)
