"""Dreams: codes and views drawn from the model itself in a step, (z, x) ~ p(z) p(x | z).

Their noise is named "dream.CODE" and "dream.VIEW", and is drawn ahead as all noise. Where a view's draws are
reparameterized, derivatives with respect to the parameters pass through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import DTypeLike

from gvae import random
from gvae.autodiff import stop_gradient
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Family
from gvae.models.parts import zeros
from gvae.objectives.terms import added
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["DREAM", "Dream", "dream", "dream_noise", "has_dreams", "log_q", "noise_of_prior"]

DREAM = "dream."


@dataclass
class Dream:
    """z: the codes (K, B, n) by name     x: draws of the views (K, B, D)     views: p(view | z), of which they are draws"""

    z: dict[str, Any]
    x: dict[str, Any]
    views: Mapping[str, Distribution]


def has_dreams(noise: Noise) -> bool:
    """Whether noise includes that of dreams."""
    return any(name.startswith(DREAM) for name in noise)


def dream_noise(model: Any, key: Key, batch: Batch, samples: int) -> dict[str, Any]:
    """The noise of K dreams for each row of a batch, see `Base.dream_noise`."""
    name = type(model).__name__
    if not model.emitters or not hasattr(model, "generate"):
        raise ConfigError(f"{name}: the model has no networks of its views, from which dreams are drawn")
    if getattr(model, "row_steps", 0):
        raise ConfigError(f"{name}: each row has its own posterior parameters, but dreams need an encoder that learns")
    if model.noise(key, batch, 1).keys() - {*model.inference_order, "corruption"}:
        raise ConfigError(f"{name}: its weights are drawn from a posterior, but dreams are drawn with fixed weights only")
    codes = model.prior_noise(random.fold_in(key, 0), batch, samples)
    drawn = {DREAM + code: noise for code, noise in codes.items()}
    for i, (view, emitter) in enumerate(model.emitters.items(), 1):
        shape, like = (samples, len(batch)), vars(batch).get("x")
        drawn[DREAM + view] = emitter.family.noise(random.fold_in(key, i), shape, model.dtype, like)
    return drawn


def noise_of_prior(
    prior: Family | None, posterior: Family, key: Key, shape: tuple[int, ...], dtype: DTypeLike, like: Any
) -> Any:
    """Noise of draws from a prior, (*shape, n); None: the standard one of the posterior's family."""
    if prior is not None:
        return prior.noise(key, shape, dtype, like)
    return posterior(zeros(posterior.n_params, dtype, {"": like})).standard.noise(key, shape)


def dream(model: Any, params: Params, state: Arrays, noise: Noise) -> Dream:
    """Codes from their priors, and views given them.

    noise : includes that of `dream_noise`
    """
    own = {name.removeprefix(DREAM): value for name, value in noise.items() if name.startswith(DREAM)}
    terms = model.generate(params, state, own)
    x = {view: p.sample(own[view]) for view, p in terms.views.items()}
    return Dream({layer.name: layer.z for layer in terms.layers}, x, terms.views)


def log_q(model: Any, params: Params, state: Arrays, batch: Batch, dreamed: Dream) -> Any:
    """log q(z | x) of dreams as constants, (K, B), in nats: what the sleep phase ascends."""
    constant = Dream(stop_gradient(dreamed.z), stop_gradient(dreamed.x), {})
    rows = Batch(constant.x, batch.index)
    return added(
        [
            model.posterior_given(params, state, rows, name, constant.z).log_prob(constant.z[name])
            for name in model.inference_order
        ]
    )
