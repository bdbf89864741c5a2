"""Gradients of draws that are not differentiable: terms of value zero whose derivative is that of E_q f.

    score function   grad E_q f = E_q[(f - b) grad log q], for any b that does not depend on the draw
    local            the same for each unit of a layer, with only those terms of f that depend on its draw (Layer.blanket)
    shared           the same for a layer that all rows share, with the mean of f over the rows
    DisARM           from pairs of draws of opposite noise, for independent bits

b is the mean of f over the other draws of the row, or over the other rows where there is one draw; what a layer's learned
baseline predicts is subtracted before. Sources: Williams (1992); Mnih and Gregor (2014); Ranganath, Gerrish and Blei (2014);
Dong, Mnih and Tucker (2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gvae.autodiff import stop_gradient
from gvae.distributions import BernoulliDistribution, Distribution
from gvae.errors import ConfigError
from gvae.objectives.means import mean_draws
from gvae.objectives.terms import Layer, added
from gvae.ops import arrays, elementwise
from gvae.typing import Array, Noise

__all__ = [
    "BASELINE",
    "antithetic",
    "disarm",
    "errors_of_baselines",
    "layer_score",
    "less_the_others",
    "local_signal",
    "mean_of_rows",
    "score_function",
    "zero",
]

BASELINE = "baseline"  # the parameter group of networks that predict signals


def score_function(layers: Sequence[Layer], signal: Callable[[], Any]) -> Any:
    """A term (K, B) of value zero whose gradient is that of the layers' draws; None if there are no layers.

    `signal` computes f - b, (K, B).
    """
    if not layers:
        return None
    return zero(stop_gradient(signal()), added([layer.q.log_prob(layer.z) for layer in layers]))


def zero(signal: Array, log_q: Array) -> Any:
    """The product minus its own value: zero, with the derivative signal grad log q."""
    surrogate = elementwise.multiply(signal, log_q)
    return elementwise.subtract(surrogate, stop_gradient(surrogate))


def less_the_others(f: Any) -> Any:
    """f (K, B, ...) minus its mean over the other samples of the row or, with one sample, over the other rows."""
    axis = 0 if f.shape[0] > 1 else 1
    n = f.shape[axis]
    return (f - arrays.mean(f, axis=axis, keepdims=True)) * (n / (n - 1)) if n > 1 else f


def mean_of_rows(f: Any, weight: Array) -> Any:
    """f (K, B) averaged over rows, weighted if weights are given, (K,): the signal of a layer that all rows share."""
    if weight is None:
        return arrays.mean(f, axis=1)
    return elementwise.divide(arrays.sum(elementwise.multiply(f, weight), axis=1), arrays.sum(weight))


def layer_score(layer: Layer, f: Any) -> Any:
    """A term (K, B) of value zero whose gradient is that of the layer's draw, by a signal f of its own.

    f is (K, B), or (K, B, n) with a signal for each unit; what its learned baseline predicts is subtracted. For a layer that
    all rows share, f is (K,) or (K, n), and the term (K, 1).
    """
    if layer.share is not None:
        signal = stop_gradient(less_the_others(f) if f.shape[0] > 1 else f)
        if len(f.shape) == 2:
            return arrays.sum(zero(signal, log_q_by_unit(layer)), axis=-1, keepdims=True)
        return zero(signal, layer.q.log_prob(layer.z))[..., None]
    by_unit = len(f.shape) == 3
    if layer.baseline is not None:
        guess = stop_gradient(layer.baseline)
        f = elementwise.subtract(f, guess[..., None] if by_unit else guess)
    signal = stop_gradient(less_the_others(f))
    if by_unit:
        return arrays.sum(zero(signal, log_q_by_unit(layer)), axis=-1)
    return zero(signal, layer.q.log_prob(layer.z))


def errors_of_baselines(signals: Sequence[tuple[Layer, Any]], weight: Array) -> dict[str, Any]:
    """What the learned baselines of layers ascend, by parameter group: minus half the mean squared error of the signal,
    (K, B), or of its mean over the units, (K, B, n), less its mean in the batch."""
    errors = []
    for layer, f in signals:
        if layer.baseline is not None:
            wanted = stop_gradient(arrays.mean(f, axis=-1) if len(f.shape) == 3 else f)
            wanted = elementwise.subtract(wanted, arrays.mean(wanted))  # what is common is subtracted in any case
            errors.append(mean_draws(elementwise.square(elementwise.subtract(layer.baseline, wanted)), weight))
    return {BASELINE: -0.5 * added(errors)} if errors else {}


# ---- local signals -------------------------------------------------------------------------------


def local_signal(layer: Layer, prices: tuple[Any, Any], closed: Callable[[Layer], Any]) -> Any:
    """The terms of the bound that depend on the draw of each unit of a layer with a blanket, (K, B, n) or (K, B, 1).

    For a layer that all rows share: their mean over rows, (K, n) or (K, 1).

    prices : the weight of the KL of the layers of rows, and of the layers that all rows share
    closed(layer) : its KL in closed form, or None
    """
    assert layer.blanket is not None
    found, full = layer.blanket(), 3 if layer.share is None else 2

    def by_unit(terms: Any) -> Any:  # with an axis of units: (B,) and (K, B) do not depend on the unit
        return terms if len(getattr(terms, "shape", ())) in (0, full) else terms[..., None]

    rate = -by_unit(found.prior)
    for other in found.layers:
        kl = closed(other)
        rate = elementwise.add(rate, by_unit(elementwise.subtract(other.log_q, other.log_p) if kl is None else kl))
    paid = rate * prices[0]  # other layers in a blanket are layers of rows
    if closed(layer) is None:  # else its derivative is taken of the closed form, and not of the draw
        own = _own_rate(layer)
        paid = elementwise.add(paid, own * prices[0] if layer.share is None else own * layer.share * prices[1])
    return elementwise.subtract(by_unit(found.likelihood), paid)


def log_q_by_unit(layer: Layer) -> Any:
    """log q of each unit, given those before it, (K, B, n); of all of them, (K, B, 1), where they are coupled otherwise."""
    return _conditionals(layer.q, layer.z)


def _conditionals(p: Distribution, z: Any) -> Any:
    return p.log_prob(z, reduce=False) if p.independent or p.sequential else p.log_prob(z)[..., None]


def _own_rate(layer: Layer) -> Any:
    """The part of log q - log p of the layer itself that depends on the draw of each unit."""
    q, p = layer.q, layer.q.standard if layer.p is None else layer.p
    log_q = stop_gradient(log_q_by_unit(layer))
    if q.sequential:
        log_q = _from_there(log_q)
    if layer.coupled or not (q.independent or q.sequential):  # all units of z have a part in it
        return elementwise.subtract(log_q, stop_gradient(layer.log_p)[..., None])
    log_p = stop_gradient(_conditionals(p, layer.z))
    if (q.sequential or p.sequential) and log_p.shape[-1] > 1:
        log_p = _from_there(log_p)
    return elementwise.subtract(log_q, log_p)


def _from_there(terms: Any) -> Any:
    """The sum of the terms of each unit and of all later ones."""
    whole = arrays.sum(terms, axis=-1, keepdims=True)
    return elementwise.add(elementwise.subtract(whole, arrays.cumsum(terms, axis=-1)), terms)


# ---- pairs ---------------------------------------------------------------------------------------


def antithetic(noise: Noise, codes: Sequence[str]) -> dict[str, Any]:
    """Noise of K = 2 L m draws, arranged in pairs: m pairs for each of the L codes, named from the data upwards.

    The pair of a code has u and 1 - u in the code itself, and shares all other noise: that of the codes below it, on which
    its logits depend, and that of the codes above, as common random numbers.
    """
    arranged, L = {}, len(codes)
    _check_pairs(min((noise[name].shape[0] for name in codes if name in noise), default=0), L)
    for name, u in noise.items():  # what is drawn once for all K draws, of length 1, they share as it is
        u = u.copy()
        u[1::2] = u[::2]
        if name in codes:
            i = codes.index(name)
            u[2 * i + 1 :: 2 * L] = 1 - u[2 * i :: 2 * L]
        arranged[name] = u
    return arranged


def _check_pairs(K: int, L: int) -> None:
    if not L:
        raise ConfigError("gradient 'disarm' is for codes of independent bits, and the model has no codes")
    if K % (2 * L):
        layers = "a layer" if L == 1 else f"each of {L} layers"
        raise ConfigError(f"gradient 'disarm': samples is {K}, expected a multiple of {2 * L}: pairs for {layers}")


def disarm(layers: Sequence[Layer], f: Any, weight: Array) -> Any:
    """A scalar of value zero whose gradient is that of the layers' draws, from pairs as `antithetic` arranges them.

    For a pair h, h' of bits of logits a, each with its f: 1/2 (f - f') (h - h') sigmoid(|a|). f : (K, B)
    """
    L, terms = len(layers), []
    _check_pairs(f.shape[0], L)
    for i, layer in enumerate(layers):
        if type(layer.q) is not BernoulliDistribution:
            raise ConfigError(f"gradient 'disarm' is for codes of independent bits; got {type(layer.q).__name__}")
        first, second = slice(2 * i, None, 2 * L), slice(2 * i + 1, None, 2 * L)
        a = layer.q.logits[first] if len(layer.q.logits.shape) == 3 else layer.q.logits
        apart = stop_gradient(elementwise.subtract(layer.z[first], layer.z[second]))
        size = elementwise.multiply(apart, elementwise.sigmoid(elementwise.abs(stop_gradient(a))))
        half = 0.5 * stop_gradient(elementwise.subtract(f[first], f[second]))
        terms.append(mean_draws(arrays.sum(zero(elementwise.multiply(half[..., None], size), a), axis=-1), weight))
    return added(terms)
