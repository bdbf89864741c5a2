"""The evidence lower bound, with its codes' KL or a cost in its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gvae.costs import Beta, Cost
from gvae.errors import ConfigError
from gvae.objectives.means import less_the_others, mean_draws, mean_units, score_function, warm
from gvae.objectives.second_order import HESSIAN, likelihood_by_hessian
from gvae.objectives.terms import Layer, Terms, added
from gvae.ops import elementwise

__all__ = ["ELBO"]


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound.

    estimator "B" : E log p(x|z) - KL, with the closed-form KL; ConfigError if a layer has none
    estimator "A" : E [log p(x, z) - log q(z)], all of it by sampling
    "auto"        : B for each layer that has a closed form, A for the others
    warmup        : steps over which the weight of the KL, or of its cost, grows from 0 to 1
    cost          : what the codes pay in place of their KL, see gvae.costs; what is ascended is then reported as "objective"
                    beside the bound
    trace         : "exact", or "probe": the trace in the KL of a banded posterior to N(0, I) by random signs, unbiased (see
                    gvae.ops.traces, with its variance); ConfigError for other layers
    gradient      : of q's parameters: "reparameterized"; or "hessian", for Gaussian codes in float64, from
                    d E f / d mean = E grad f and d E f / d C = 1/2 E Hess f of f = log p(x|z), whose Hessian is by
                    differences (`autodiff.hessian`): a tool for small models, and to measure variances by. Kinks of f, as
                    relu has them, are not in its Hessian. Source: Rezende, Mohamed and Wierstra (2014)
    Source: Kingma and Welling (2014), eqs. 6 (A) and 7 (B).
    """

    pure: ClassVar[bool] = True
    estimator: str = "auto"
    warmup: int = 0
    cost: Cost | None = None
    trace: str = "exact"
    gradient: str = "reparameterized"

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]:
        beta = warm(self.warmup, step)
        if self.cost is not None and terms.cost is not None:
            raise ConfigError(
                f"elbo: the codes of this model have a cost of their own, {terms.cost}; got {self.cost} as well"
            )
        cost = terms.cost if self.cost is None else self.cost
        if cost is None and terms.conditional:  # whose bound has no KL: it is paid all the same
            cost = Beta()
        if cost is not None:
            return self._at_a_cost(cost, terms, beta, weight)
        penalty = added([self._divergence(layer) for layer in terms.layers])  # (B,) or (K, B)
        likelihood = mean_draws(terms.total_log_likelihood, weight)
        kl = mean_draws(penalty, weight)
        bound = elementwise.subtract(likelihood, kl)
        if self.gradient == HESSIAN:
            value = mean_draws(likelihood_by_hessian(terms), weight) - beta * kl
            return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl}
        value = bound if not self.warmup else likelihood - beta * kl
        score = score_function(terms, lambda: less_the_others(terms.total_log_likelihood - beta * penalty))
        if score is not None:
            value = value + mean_draws(score, weight)
        return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl}

    def _at_a_cost(self, cost: Cost, terms: Terms, beta: Any, weight: Any) -> tuple[Any, dict[str, Any]]:
        drawn = [layer for layer in terms.layers if layer.z is not None]
        if not drawn:
            raise ConfigError("elbo: a cost is paid for codes that are drawn, and this model draws none")
        penalty = added([self._divergence(layer) for layer in drawn])
        fixed = [self._divergence(layer) for layer in terms.layers if layer.z is None]  # what weights cost stays

        def mean(values: Any, by_unit: bool = False) -> Any:
            return mean_units(values, weight) if by_unit else mean_draws(values, weight)

        paid, rows = cost(drawn, penalty, mean)
        likelihood, kl = mean(terms.total_log_likelihood), mean(penalty)
        others: Any = mean(added(fixed)) if fixed else 0.0
        bound = likelihood - others if terms.conditional else likelihood - kl - others
        value = objective = likelihood - beta * paid - others
        score = score_function(terms, lambda: less_the_others(terms.total_log_likelihood - beta * rows()))
        if score is not None:
            value = value + mean(score)
        return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl, "objective": objective}

    def remark(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """An event that the last row of a training's log is worth, or None."""
        look = getattr(self.cost, "remark", None)
        return None if look is None else look(row)

    def _divergence(self, layer: Layer) -> Any:
        if self.trace == "probe" and layer.z is not None:
            if layer.kl_by_probe is None:
                expected = "a banded posterior under N(0, I), such as chain, band:3 or extended_grid"
                raise ConfigError(f"elbo: trace=probe is for {expected}; got {type(layer.q).__name__}")
            return layer.kl_by_probe
        closed = layer.kl if self.estimator != "A" else None
        if closed is None:
            if self.estimator == "B":
                why = "is coupled to another layer's draw" if layer.coupled else "has no closed form"
                raise ConfigError(f"elbo_b: KL({type(layer.q).__name__} ‖ {type(layer.p).__name__}) {why}")
            return elementwise.subtract(layer.log_q, layer.log_p)
        return closed
