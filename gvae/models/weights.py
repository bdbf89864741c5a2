"""Beliefs about the decoder's weights: the most probable ones (MAP), and full variational Bayes.

Both have p(theta) = N(0, alpha² I) over the decoder's weights and biases, and N rows of data that share them:

    MAP      sum_i L_i + log p(theta), divided by N: weight decay with 1 / (2 alpha² N) per row
    Bayes    q(theta) = N(m, diag s²):   sum_i L_i(theta) - KL(q(theta) ‖ p(theta)), divided by N

Bayes draws no weights but the layers' sums (local reparameterization): for h W with independent Gaussian entries,
a_j ~ N(sum_i h_i m_ij, sum_i h_i² s_ij²), one draw per row and sample. s starts small, or the first draws would drown the
signal. Sources: Kingma and Welling (2014), appendix F, with the ELBO in
place of the intractable log p(X); Kingma, Salimans and Welling (2015).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from gvae import random, settings
from gvae.models import vae
from gvae.models.parts import Penalty, price_of_weights, shared_by
from gvae.models.vae import VAE
from gvae.objectives import Terms
from gvae.ops import arrays, dense, elementwise, gaussian
from gvae.settings import Number, setting

__all__ = ["MAP", "Bayes"]


@settings.group("model")
class Settings(vae.Settings):
    """Those of a VAE whose decoder's weights have a prior."""

    alpha: float = setting(
        default=1.0, help="standard deviation of the prior of the decoder's weights and biases", kind=Number()
    )


@settings.group("model")
class BayesSettings(Settings):
    """Those of a VAE whose decoder's weights have a posterior."""

    initial_scale: float = setting(
        default=1e-2, help="standard deviation of the weights' posterior at the start", kind=Number()
    )


class _Weighed(VAE):
    """A VAE whose n_rows rows share the cost of the decoder's weights. Settings: see gvae.MAPVAE."""

    Settings: ClassVar[Any] = Settings

    def build(self, settings):
        super().build(settings)
        self.alpha, self.n_rows = settings.alpha, shared_by(self)

    def cost(self, params: Any) -> Any:
        """Nats that all rows together pay for the weights: -log p(theta), or KL(q(theta) ‖ p(theta))."""
        raise NotImplementedError

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: Any = None) -> Terms:
        terms = super().terms(params, state, batch, noise, step)
        if step is not None:  # what the weights cost is no single row's
            terms.layers.append(Penalty(self.cost(params) * (1 / self.n_rows)))
        return terms

    def _weights(self, params: Any) -> list[str]:
        return [name for name in params if name.startswith("decoder.") and name != "decoder.shared"]


class MAP(_Weighed):
    """The decoder's most probable weights. The bound of training steps includes log p(theta) / N."""

    pure = True

    def cost(self, params):
        return price_of_weights(params, self._weights(params), self.alpha)


class Bayes(_Weighed):
    """A Gaussian for each of the decoder's weights: its mean under the weight's own name, log s under decoder_log_scale."""

    Settings = BayesSettings
    pure = True

    def build(self, settings):
        super().build(settings)
        self.initial_scale = settings.initial_scale

    def init(self, key):
        params = super().init(key)
        for name in self._weights(params):
            log_scale = np.full(params[name].shape, math.log(self.initial_scale), self.dtype)
            params[_log_scale(name)] = log_scale
        return params

    def noise(self, key, batch, samples=1):
        draws = super().noise(key, batch, samples)
        for i, width in enumerate(self.decoder.network.sizes[1:]):
            shape, like = (samples, len(batch), width), vars(batch).get("x")
            draws[f"decoder.{i}"] = random.normal(random.fold_in(key, 1, i), shape, self.dtype, like)
        return draws

    def decode(self, params, state, z, noise=None):
        if noise is None:  # the weights' means
            return super().decode(params, state, z)
        network = self.decoder.network
        h, last = z["z"], len(network.sizes) - 2
        for i in range(last + 1):
            weight, bias = f"decoder.{i}.weight", f"decoder.{i}.bias"
            mean = dense.affine(h, params[weight], params[bias])
            variances = (elementwise.exp(2 * params[_log_scale(name)]) for name in (weight, bias))
            spread = elementwise.sqrt(dense.affine(elementwise.square(h), *variances))
            a = elementwise.add(mean, elementwise.multiply(spread, noise[f"decoder.{i}"]))
            h = a if i == last else _activate(a, network.activation)
        return {"x": self.observation(h, params.get("decoder.shared"))}

    def cost(self, params):
        # KL(N(m, s²) ‖ N(0, alpha²)) = KL(N(m / alpha, (s / alpha)²) ‖ N(0, 1))
        total: Any = 0.0
        for name in self._weights(params):
            mean, log_scale = params[name] * (1 / self.alpha), params[_log_scale(name)] - math.log(self.alpha)
            total = total + arrays.sum(gaussian.kl_divergence_diagonal(mean, log_scale))
        return total


def _log_scale(name: str) -> str:
    return name.replace("decoder.", "decoder_log_scale.", 1)


def _activate(a: Any, activation: str) -> Any:
    return a if activation == "identity" else getattr(elementwise, activation)(a)
