"""What a model reports about a batch: likelihoods, and its stochastic layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from gvae.autodiff import stop_gradient
from gvae.costs import Cost
from gvae.distributions import Distribution
from gvae.ops import elementwise

__all__ = ["REST", "Layer", "Objective", "Terms", "added", "total"]

REST = "*"  # in an objective's value: the parameter groups that no other key names


@dataclass
class Layer:
    """One stochastic layer: its posterior q, its prior p (None: the standard one), and the draw z from q.

    noise   : what z was made of, or None if z was not drawn by q.sample
    coupled : p is conditioned on draws that depend on z, as p(z1|z2) is where z2 ~ q(z2|z1). KL(q ‖ p) is then no part of
              the bound: E log q(z)/p(z) is over both draws
    again   : again(f, g) is q with f applied to the parameters of its network and g to the draws of other layers that it is
              conditioned on. A model of several layers gives it for each, so that derivatives can take one of the ways alone
    """

    q: Distribution
    p: Distribution | None
    z: Any
    noise: Any = None
    coupled: bool = False
    again: Callable[[Callable, Callable], Distribution] | None = None

    @cached_property
    def log_q(self) -> Any:
        """log q(z), (K, B)."""
        if self.q.reparameterized and self.noise is not None:
            return self.q.log_prob_of_draw(self.noise, self.z)
        return self.q.log_prob(self.z)

    @cached_property
    def log_q_along_path(self) -> Any:
        """log q(z) with q's parameters constant, (K, B): derivatives pass through the draws only."""
        q = self.q.stopped() if self.again is None else self.again(stop_gradient, _same)
        return q.log_prob(self.z)

    @cached_property
    def log_q_of_score(self) -> Any:
        """log q(z) with all draws constant, (K, B): derivatives pass through q's parameters only."""
        q = self.q if self.again is None else self.again(_same, stop_gradient)
        return q.log_prob(stop_gradient(self.z))

    @cached_property
    def log_p(self) -> Any:
        """log p(z), (K, B)."""
        return (self.q.standard if self.p is None else self.p).log_prob(self.z)

    @cached_property
    def kl(self) -> Any:
        """KL(q ‖ p) in closed form, (B,) or (K, B); None where there is none, or where the layer is coupled."""
        return None if self.coupled else self.q.kl(self.p)

    @cached_property
    def kl_by_probe(self) -> Any:
        """KL(q ‖ p) with a random probe for the trace of q's covariance, (K, B); None where that has no use."""
        return None if self.coupled or self.noise is None else self.q.kl_by_probe(self.noise, self.p)


@dataclass
class Terms:
    """What a model says about a batch.

    log_likelihood : log p(view | z) by view, each (K, B)
    layers         : the stochastic layers
    extras         : anything an objective or a log may want
    state          : the model's new state (running statistics, baselines)
    inference      : the parameter groups of q, which gradient estimators treat apart from those of the model itself
    views          : p(view | z) by view, where a model has it as a distribution
    weights        : log-weights of the draws, (K, B), where the model defines them; None: log p(views, z) - log q(z | x)
    conditional    : whether it explains y given x: q is then a part of the model and no posterior, and what is bounded is
                     log p(y|x)
    cost           : what the model itself makes its codes cost, see gvae.costs; None: their KL
    likelihood_at  : log p(views | z) (K, B) of other draws of the layers, given in their order; None: it is not offered
    """

    log_likelihood: Mapping[str, Any]
    layers: list[Layer]
    extras: dict[str, Any] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    inference: tuple[str, ...] = ("encoder",)
    views: Mapping[str, Distribution] = field(default_factory=dict)
    weights: Any = None
    conditional: bool = False
    cost: Cost | None = None
    likelihood_at: Callable[[list[Any]], Any] | None = None

    @cached_property
    def log_weights(self) -> Any:
        """Those of the draws, (K, B): the mean of their exponentials estimates p(x), or p(y|x)."""
        return self.weighed(_same)

    def weighed(self, cast: Callable[[Any], Any]) -> Any:
        """The log-weights, of parts that `cast` has converted: an evaluation adds in float64 what models say in float32."""
        if self.weights is not None:
            return cast(self.weights)
        found = cast(self.total_log_likelihood)
        for layer in self.layers:
            found = elementwise.subtract(found, elementwise.subtract(cast(layer.log_q), cast(layer.log_p)))
        return found

    @cached_property
    def total_log_likelihood(self) -> Any:
        """Summed over the views, (K, B)."""
        return total(self.log_likelihood)


class Objective(Protocol):
    """What `train` maximises: terms -> (scalar, or dict of scalars by parameter group; metrics in mean nats per row)."""

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]: ...


def _same(x: Any) -> Any:
    return x


def total(log_likelihood: Mapping[str, Any]) -> Any:
    """The sum over views."""
    return added(list(log_likelihood.values()))


def added(parts: list[Any]) -> Any:
    """The sum of at least one array."""
    first, *others = parts
    for part in others:
        first = first + part
    return first
