"""Objectives: what a model reports about a batch -> one scalar to maximise, in mean nats per row.

A model reports `Terms`: the log-likelihood of each view and, per stochastic layer, its q, its p and the draw. All of them
have shape (K, B): K samples lead, B rows. Objectives know nothing of families or models; they ask a layer for log q, log p
or the closed-form KL. An objective is any callable

    objective(terms, step, weight) -> (value, metrics)

where `value` is a scalar Var, or a dict from parameter groups to scalars when groups maximise different things (REST: all
other groups; what no key covers stays as it is), `metrics` are scalars, Vars or numbers, `step` counts training steps and
`weight` (B,) weighs rows (None: all alike). One that depends on these only, and has no other effect, may say so with
`pure = True`: steps may then be captured (see gvae.training.program).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from gvae import bounds, costs, texts
from gvae.autodiff import HESSIAN_MOST, hessian, stop_gradient, value_of
from gvae.autodiff import gradient as gradient_of
from gvae.bounds import Bound
from gvae.costs import Cost
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.ops import arrays, elementwise

__all__ = ["ELBO", "GRADIENTS", "OBJECTIVES", "REST", "ImportanceWeighted", "Layer", "Objective", "Terms", "parse", "total"]

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
    conditional    : whether it explains y given x: q is then a part of the model and no posterior, the log-weight of a draw
                     is log p(y|z) alone, and what is bounded is log p(y|x)
    cost           : what the model itself makes its codes cost, see gvae.costs; None: their KL
    likelihood_at  : log p(views | z) (K, B) of other draws of the layers, given in their order; None: it is not offered
    """

    log_likelihood: Mapping[str, Any]
    layers: list[Layer]
    extras: dict[str, Any] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    inference: tuple[str, ...] = ("encoder",)
    views: Mapping[str, Distribution] = field(default_factory=dict)
    conditional: bool = False
    cost: Cost | None = None
    likelihood_at: Callable[[list[Any]], Any] | None = None

    @cached_property
    def log_weights(self) -> Any:
        """log p(views, z) - log q(z | x) of each draw, (K, B), whose weights have p(x) as their mean; log p(y|z) where the
        model explains y given x."""
        if self.conditional:
            return self.total_log_likelihood
        return elementwise.subtract(
            self.total_log_likelihood, _total([elementwise.subtract(layer.log_q, layer.log_p) for layer in self.layers])
        )

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
    return _total(list(log_likelihood.values()))


def _total(parts: list[Any]) -> Any:
    added = parts[0]
    for part in parts[1:]:
        added = added + part
    return added


def _warm(warmup: int, step: Any) -> Any:
    """The weight of the KL: from 1/warmup at step 0 linearly to 1."""
    if not warmup:
        return 1.0
    weight = (step + 1) / warmup
    return min(weight, 1.0) if isinstance(weight, float) else np.minimum(weight, 1.0)


def _mean_rows(values: Any, weight: Any) -> Any:
    """Mean over rows (B,), weighted if weights are given: sum w v / sum w."""
    if weight is None:
        return arrays.mean(values)
    return elementwise.divide(arrays.sum(elementwise.multiply(values, weight)), arrays.sum(weight))


def _mean_draws(values: Any, weight: Any) -> Any:
    """Mean over rows, weighted if weights are given, of (B,), or of the mean over the samples of (K, B)."""
    if weight is None:
        return arrays.mean(values)  # all draws alike
    return _mean_rows(arrays.mean(values, axis=0) if len(values.shape) == 2 else values, weight)


def _mean_units(values: Any, weight: Any) -> Any:
    """Mean over rows, and draws, of each variable: (n,) of (B, n) or (K, B, n)."""
    if weight is None:
        return arrays.mean(values, axis=tuple(range(len(values.shape) - 1)))
    rows = arrays.mean(values, axis=0) if len(values.shape) == 3 else values
    return elementwise.divide(arrays.sum(elementwise.multiply(rows, weight[:, None]), axis=0), arrays.sum(weight))


def _score_function(terms: Terms, signal: Callable[[], Any]) -> Any:
    """A term of value zero whose gradient is that of the draws which are not reparameterized, (K, B).

    grad E_q f = E_q[(f - b) grad log q], for any b that does not depend on the draw; `signal` computes f - b, (K, B).
    Returns None if every layer is reparameterized.
    """
    discrete = [layer for layer in terms.layers if not layer.q.reparameterized]
    if not discrete:
        return None
    surrogate = elementwise.multiply(stop_gradient(signal()), _total([layer.q.log_prob(layer.z) for layer in discrete]))
    return elementwise.subtract(surrogate, stop_gradient(surrogate))


def _likelihood_by_hessian(terms: Terms) -> Any:
    """log p(views | z), (K, B), whose derivatives with respect to q are those of E grad f and 1/2 E Hess f; see ELBO.

    With a draw mean + R eps, C = R Rᵀ is sum_i r_i r_iᵀ over the columns r_i of R, so that sum_ij H_ij dC_ij is the
    derivative of sum_i r_iᵀ H r_i.
    """
    drawn = [layer for layer in terms.layers if layer.z is not None]
    if terms.likelihood_at is None:
        raise ConfigError("gradient 'hessian': the model's Terms have no `likelihood_at`, see gvae.objectives.Terms")
    for layer in drawn:
        if not layer.q.affine or layer.coupled or layer.noise is None:
            raise ConfigError(f"gradient 'hessian': it is for Gaussian codes, each inferred from the data; got {layer.q!r}")
        if layer.q.n > HESSIAN_MOST:
            raise ConfigError(f"gradient 'hessian': a code has {layer.q.n} variables, expected at most {HESSIAN_MOST}")
        if layer.z.dtype != np.float64:
            raise ConfigError(f"gradient 'hessian': the codes are {layer.z.dtype}, expected float64: dtype='float64'")
    at = [stop_gradient(layer.z) for layer in drawn]
    value = terms.likelihood_at(at)
    for i, layer in enumerate(drawn):
        q, z = layer.q, value_of(layer.z)

        def f(moved: Any, i: int = i) -> Any:
            return terms.likelihood_at([*at[:i], moved, *at[i + 1 :]])  # type: ignore[misc]

        slope, H = gradient_of(lambda moved: f(moved).sum(), z), hessian(f, z)
        (K, B, n), lead = z.shape, q.batch_shape  # which is (B,), or (K, B) where each draw has a q of its own
        columns = q.sample(np.eye(n).reshape(n, *(1,) * len(lead), n)) - q.mean  # r_i: (n, *lead, n)
        columns = arrays.reshape(columns, shape=(n, *(1,) * (2 - len(lead)), *lead, n))
        curved = arrays.reshape(columns[..., None, :] @ H[None], shape=(n, K, B, n)) * columns
        along = arrays.sum(q.mean * slope, axis=-1) + 0.5 * arrays.sum(arrays.sum(curved, axis=-1), axis=0)
        value = value + along - stop_gradient(along)
    return value


def _less_the_others(f: Any) -> Any:
    """f (K, B) minus its mean over the other samples of the row or, with one sample, over the other rows."""
    axis = 0 if f.shape[0] > 1 else 1
    n = f.shape[axis]
    return (f - arrays.mean(f, axis=axis, keepdims=True)) * (n / (n - 1)) if n > 1 else f


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
                    relu has them, are not in its Hessian. Source: Rezende, Mohamed and Wierstra (2014), eqs. 9 and 10
    Source: Kingma and Welling (2014), eqs. 6 (A) and 7 (B).
    """

    pure: ClassVar[bool] = True
    estimator: str = "auto"
    warmup: int = 0
    cost: Cost | None = None
    trace: str = "exact"
    gradient: str = "reparameterized"

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]:
        beta = _warm(self.warmup, step)
        if self.cost is not None and terms.cost is not None:
            raise ConfigError(
                f"elbo: the codes of this model have a cost of their own, {terms.cost}; got {self.cost} as well"
            )
        cost = terms.cost if self.cost is None else self.cost
        if cost is not None:
            return self._at_a_cost(cost, terms, beta, weight)
        penalty = _total([self._divergence(layer) for layer in terms.layers])  # (B,) or (K, B)
        likelihood = _mean_draws(terms.total_log_likelihood, weight)
        kl = _mean_draws(penalty, weight)
        bound = elementwise.subtract(likelihood, kl)
        if self.gradient == "hessian":
            value = _mean_draws(_likelihood_by_hessian(terms), weight) - beta * kl
            return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl}
        value = bound if not self.warmup else likelihood - beta * kl
        score = _score_function(terms, lambda: _less_the_others(terms.total_log_likelihood - beta * penalty))
        if score is not None:
            value = value + _mean_draws(score, weight)
        return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl}

    def _at_a_cost(self, cost: Cost, terms: Terms, beta: Any, weight: Any) -> tuple[Any, dict[str, Any]]:
        drawn = [layer for layer in terms.layers if layer.z is not None]
        if not drawn:
            raise ConfigError("elbo: a cost is paid for codes that are drawn, and this model draws none")
        penalty = _total([self._divergence(layer) for layer in drawn])
        fixed = [self._divergence(layer) for layer in terms.layers if layer.z is None]  # what weights cost stays

        def mean(values: Any, by_unit: bool = False) -> Any:
            return _mean_units(values, weight) if by_unit else _mean_draws(values, weight)

        paid, rows = cost(drawn, penalty, mean)
        likelihood, kl = mean(terms.total_log_likelihood), mean(penalty)
        others: Any = mean(_total(fixed)) if fixed else 0.0
        bound = likelihood - others if terms.conditional else likelihood - kl - others
        value = objective = likelihood - beta * paid - others
        score = _score_function(terms, lambda: _less_the_others(terms.total_log_likelihood - beta * rows()))
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


@dataclass(frozen=True)
class ImportanceWeighted:
    """E bound(l), with l_k = log p(x, z_k) - log q(z_k | x) of the K samples drawn; by default IWAE's bound.

    bound           : see gvae.bounds; with K = 1 every one of them is ELBO's estimator A
    gradient        : how the gradient with respect to q's parameters phi is estimated, below
    inference_bound : what phi ascends, where it is another bound than what the model's parameters ascend (PIWAE)
    warmup          : weighs log q - log p as in ELBO

    With w_k = d bound / d l_k, "path" = the derivative of l_k through the draw z_k alone, "score" = grad_phi log q(z_k | x),
    the estimators of grad_phi are

        reparameterized   sum w_k (path - score), what the chain rule gives
        stl               sum w_k path; unbiased for bounds.Mean and for K = 1 only; no variance where q is the posterior
        dreg              sum (w_k - d w_k / d l_k) path: for IWAE sum w̃_k² path; unbiased
        vimco             sum (bound - bound without k - w_k) score, for draws that may be discrete; unbiased; K >= 2
        rws               sum w_k score, of wake-sleep's wake phase: not the bound's gradient; descends KL(posterior ‖ q)
        rws_dreg          sum (d w_k / d l_k) path, which has the same mean as rws

    Layers that are not reparameterized take vimco's term in the first; they have no path.
    Sources: Burda, Grosse and Salakhutdinov (2016), eqs. 8 and 14; Roeder, Wu and Duvenaud (2017); Tucker, Lawson, Gu and
    Maddison (2019), eqs. 8 and 10; Mnih and Rezende (2016), eq. 9; Bornschein and Bengio (2015). That dreg holds for any
    bound: E[w_k score] = E[(d w_k / d l_k) path], by the reparameterization of a single draw with the others fixed.
    """

    pure: ClassVar[bool] = True
    bound: Bound = bounds.IWAE
    gradient: str = "reparameterized"
    inference_bound: Bound | None = None
    warmup: int = 0

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]:
        self._check(terms)
        if terms.cost is not None:
            raise ConfigError(
                f"the codes of this model have a cost, {terms.cost}, which the ELBO alone takes: objective='elbo'"
            )
        path = self.gradient in ("stl", "dreg", "rws_dreg")
        layers = [(layer.log_q_along_path if path else layer.log_q, layer.log_p) for layer in terms.layers]
        penalty = _total([elementwise.subtract(log_q, log_p) for log_q, log_p in layers])
        beta = _warm(self.warmup, step)
        log_weights = elementwise.subtract(terms.total_log_likelihood, beta * penalty if self.warmup else penalty)
        value = bound = _mean_rows(self.bound(log_weights), weight)
        likelihood = _mean_draws(terms.total_log_likelihood, weight)
        kl = _mean_draws(penalty, weight)
        if self.inference_bound is not None or self.gradient not in ("reparameterized", "stl"):
            ascent = _mean_rows(self._inference(terms, log_weights, beta), weight)
            value = {REST: bound} | dict.fromkeys(terms.inference, ascent)
        elif any(not layer.q.reparameterized for layer in terms.layers):
            value = bound + _mean_rows(arrays.sum(self._score_function(terms, log_weights), axis=0), weight)
        return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl}

    def _inference(self, terms: Terms, log_weights: Any, beta: Any) -> Any:
        """What phi ascends, (B,)."""
        bound = self.bound if self.inference_bound is None else self.inference_bound
        constant = stop_gradient(log_weights)
        if self.gradient in ("reparameterized", "stl"):
            value = bound(log_weights)
            score = self._score_function(terms, log_weights)
            return value if score is None else value + arrays.sum(score, axis=0)
        if self.gradient == "dreg":
            share, along = bound.weights(constant) - beta * bound.curvature(constant), log_weights
        elif self.gradient == "rws_dreg":
            share, along = bound.curvature(constant), log_weights
        else:
            share, along = bound.weights(constant), _total([layer.log_q_of_score for layer in terms.layers])
            if self.gradient == "vimco":
                share = bound(constant) - bounds.leave_one_out(bound, constant) - beta * share
        return arrays.sum(elementwise.multiply(stop_gradient(share), along), axis=0)

    def _score_function(self, terms: Terms, log_weights: Any) -> Any:
        bound = self.bound if self.inference_bound is None else self.inference_bound

        def signal() -> Any:
            constant = stop_gradient(log_weights)
            if constant.shape[0] == 1:
                return _less_the_others(constant)
            return bound(constant) - bounds.leave_one_out(bound, constant)

        return _score_function(terms, signal)

    def _check(self, terms: Terms) -> None:
        if self.gradient not in GRADIENTS:
            raise ConfigError(f"unknown gradient {self.gradient!r}; known are {', '.join(GRADIENTS)}")
        if self.gradient == "reparameterized":
            return
        drawn = [layer for layer in terms.layers if layer.z is not None]
        if len(drawn) > 1 and any(layer.again is None for layer in drawn):
            raise ConfigError(f"gradient {self.gradient!r}: a model of several layers gives each its `again`, see Layer")
        if self.gradient in ("stl", "dreg", "rws_dreg"):
            for layer in drawn:
                if not layer.q.reparameterized:
                    name = type(layer.q).__name__
                    raise ConfigError(f"gradient {self.gradient!r}: draws from a {name} have no path; use vimco or rws")


GRADIENTS = ("reparameterized", "stl", "dreg", "vimco", "rws", "rws_dreg")
HESSIAN = "hessian"  # of the ELBO alone


def _number(name: str, text: str | None, default: float, least: float, below: float, kind: type = float) -> Any:
    try:
        number = default if text is None else kind(text)
    except ValueError:
        number = math.nan
    if not least <= number < below:
        kinds = "a whole number" if kind is int else "one"
        raise ConfigError(f"{name}: its number is {text!r}, expected {kinds} of at least {least:g} and below {below:g}")
    return number


def _renyi(name: str, least: float, below: float) -> Callable[..., Objective]:
    def make(setting: str | None, gradient: str, warmup: int) -> Objective:
        alpha = _number(name, setting, 0.5, least, below)
        return ImportanceWeighted(bounds.Renyi(alpha), gradient, warmup=warmup)

    return make


class _Codes:
    """Numbers of codes, counted from 0: "0+3"."""

    expected = "different whole numbers of codes such as 0+3"

    @staticmethod
    def kind(text: str) -> tuple[int, ...]:
        return tuple(int(part) if part.isdecimal() else -1 for part in text.split("+"))

    @staticmethod
    def accepts(codes: tuple[int, ...]) -> bool:
        return min(codes) >= 0 and len(set(codes)) == len(codes)


class _Trace:
    """How the trace in a KL is computed."""

    expected = "exact or probe"
    kind = str

    @staticmethod
    def accepts(word: str) -> bool:
        return word in ("exact", "probe")


COSTS: dict[str, Any] = {
    "beta": texts.NOT_NEGATIVE,
    "rate": texts.NOT_NEGATIVE,
    "free": texts.NOT_NEGATIVE,
    "anchor": _Codes,
}
WEIGHTED = ("rate", "anchor")


def _settings(name: str, setting: str) -> tuple[Cost | None, str]:
    """The cost and the trace of "beta=0.5", "rate=16,weight=4", "free=0.1", "anchor=0+3,weight=0.9", "trace=probe", ..."""
    text = f"{name}:{setting}"
    _, given = texts.parse("objective", text, {name: COSTS | {"weight": texts.POSITIVE, "trace": _Trace}})
    trace = given.pop("trace", "exact")
    weight = given.pop("weight", None)
    if not given and weight is None:
        return None, trace
    if len(given) != 1 or (weight is not None and not given.keys() & set(WEIGHTED)):
        kinds = f"one of {', '.join(COSTS)}, and weight beside {' or '.join(WEIGHTED)} alone"
        raise ConfigError(f"objective {text!r}: expected {kinds}")
    if "beta" in given:
        return costs.Beta(given["beta"]), trace
    if "free" in given:
        return costs.FreeBits(given["free"]), trace
    if "rate" in given:
        return costs.Target(given["rate"], 1.0 if weight is None else weight), trace
    if weight is None or weight > 1:
        raise ConfigError(f"objective {text!r}: weight is {weight}, expected a number in (0, 1]: above 1 nothing is bounded")
    return costs.Anchor(given["anchor"], weight), trace


def keys(text: str) -> set[str]:
    """The settings that an objective's text has by name."""
    return {part.partition("=")[0] for part in text.partition(":")[2].split(",") if "=" in part}


def _elbo(estimator: str) -> Callable[..., Objective]:
    def make(setting: str | None, gradient: str, warmup: int) -> Objective:
        if setting is not None:
            if gradient != "reparameterized":
                raise ConfigError(
                    f"objective 'elbo:{setting}': its settings take the gradient 'reparameterized', not {gradient!r}"
                )
            cost, trace = _settings("elbo", setting)
            if trace == "probe" and estimator == "A":
                raise ConfigError(f"objective 'elbo_a:{setting}': it samples all of the KL, and has no trace to probe")
            return ELBO(estimator, warmup, cost, trace)
        if gradient == "reparameterized":
            return ELBO(estimator, warmup)
        if gradient == HESSIAN:
            if estimator == "A":
                raise ConfigError("elbo_a: gradient 'hessian' is of E log p(x|z), beside a closed form of the KL: take elbo")
            return ELBO(estimator, warmup, gradient=gradient)
        if estimator == "B":
            raise ConfigError(f"elbo_b: gradient {gradient!r} needs log q by sampling, as in elbo_a")
        return ImportanceWeighted(bounds.Mean(), gradient, warmup=warmup)

    return make


def _ciwae(setting: str | None, gradient: str, warmup: int) -> Objective:
    share = _number("ciwae", setting, 0.05, 0, 1)
    bound = bounds.Mixture((share, 1 - share), (bounds.Mean(), bounds.IWAE))
    return ImportanceWeighted(bound, gradient, warmup=warmup)


def _grouped(name: str, model: Bound | None) -> Callable[..., Objective]:
    def make(setting: str | None, gradient: str, warmup: int) -> Objective:
        bound = bounds.Grouped(_number(name, setting, 2, 1, math.inf, int))
        if model is None:
            return ImportanceWeighted(bound, gradient, warmup=warmup)
        return ImportanceWeighted(model, gradient, inference_bound=bound, warmup=warmup)

    return make


# name -> (setting, gradient, warmup) -> objective; a setting follows the name, as in renyi:-0.5 or miwae:8
OBJECTIVES: dict[str, Callable[[str | None, str, int], Objective]] = {
    "elbo": _elbo("auto"),
    "elbo_a": _elbo("A"),
    "elbo_b": _elbo("B"),
    "iwae": lambda setting, gradient, warmup: ImportanceWeighted(gradient=gradient, warmup=warmup),
    "vr_iwae": _renyi("vr_iwae", 0, 1),
    "renyi": _renyi("renyi", -math.inf, math.inf),
    "ciwae": _ciwae,
    "miwae": _grouped("miwae", None),
    "piwae": _grouped("piwae", bounds.IWAE),
}
PLAIN = ("iwae",)  # these take no setting
COSTLY = ("elbo", "elbo_a", "elbo_b")  # these take costs


def parse(text: str | Objective, warmup: int = 0, gradient: str = "reparameterized") -> Objective:
    """The objective that a text stands for: "elbo", "iwae", "vr_iwae:0.5", "renyi:-1", "ciwae:0.05", "miwae:8", "piwae:8".

    The numbers: alpha, alpha, the share of the ELBO, groups, groups. The ELBO's codes may have a cost of their own, see
    gvae.costs: "elbo:beta=0.5", "elbo:rate=16,weight=4", "elbo:free=0.1", "elbo:anchor=0+3,weight=0.9"; "elbo:trace=probe",
    also beside a cost, see ELBO. warmup in steps; gradient as in ImportanceWeighted, with which "elbo" is estimator A, or
    "hessian", see ELBO. Raises ConfigError with the list of known names.
    """
    if callable(text):
        return text
    name, _, setting = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name in OBJECTIVES and name not in COSTLY and "=" in setting:
        have = ", ".join(COSTLY)
        raise ConfigError(f"objective {text!r}: a cost weighs the KL, which {have} alone have as a term of its own")
    if name not in OBJECTIVES or (":" in text and (not setting or name in PLAIN)):
        raise ConfigError(f"unknown objective {text!r}; known are {', '.join(OBJECTIVES)} (renyi:0.5, ciwae:0.05, miwae:8)")
    if not isinstance(warmup, (int, np.integer)) or isinstance(warmup, bool) or warmup < 0:
        raise ConfigError(f"warmup is {warmup!r}, expected a whole number of steps, 0 or more")
    if gradient not in (*GRADIENTS, HESSIAN):
        raise ConfigError(f"unknown gradient {gradient!r}; known are {', '.join(GRADIENTS)}, {HESSIAN}")
    if gradient == HESSIAN and name not in COSTLY:
        raise ConfigError(f"objective {text!r}: gradient 'hessian' is of the ELBO alone: objective='elbo'")
    return OBJECTIVES[name](setting or None, gradient, int(warmup))
