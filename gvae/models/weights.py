"""Distributions over the decoder's weights: their most probable values (MAP), and full variational Bayes.

Both have p(theta) = N(0, alpha² I) over the decoder's weights and biases, and N rows of data that share them:

    MAP      sum_i L_i + log p(theta), divided by N: weight decay with 1 / (2 alpha² N) per row
    Bayes    q(theta) = N(m, diag s²):   sum_i L_i(theta) - KL(q(theta) ‖ p(theta)), divided by N

Bayes does not draw weights but the layers' sums (local reparameterization): for h W with independent Gaussian entries,
a_j ~ N(sum_i h_i m_ij, sum_i h_i² s_ij²), one draw per row and sample. s starts small, as otherwise the noise of the first
draws would dominate the signal. Sources: Kingma and Welling (2014), appendix F, with the ELBO in place of the intractable
log p(X); Kingma, Salimans and Welling (2015).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from gvae import random, settings
from gvae.data import Batch
from gvae.distributions.base import Distribution
from gvae.errors import ConfigError
from gvae.models import vae
from gvae.models.parts import Penalty, price_of_weights, shared_by
from gvae.models.vae import VAE
from gvae.objectives import Terms
from gvae.ops import arrays, dense, elementwise, gaussian
from gvae.settings import Number, setting
from gvae.typing import Arrays, Key, Noise, Params

__all__ = ["MAP", "Bayes"]


@settings.group("model")
class Settings(vae.Settings):
    """Settings of a VAE whose decoder's weights have a prior."""

    alpha: float = setting(
        default=1.0, help="standard deviation of the prior of the decoder's weights and biases", kind=Number()
    )


@settings.group("model")
class BayesSettings(Settings):
    """Settings of a VAE whose decoder's weights have a posterior."""

    initial_scale: float = setting(
        default=1e-2, help="standard deviation of the weights' posterior at the start", kind=Number()
    )


class _Weighed(VAE):
    """A VAE whose n_rows rows share the cost of the decoder's weights."""

    Settings: ClassVar[Any] = Settings
    drawn: ClassVar[bool] = False  # whether the weights are

    def build(self, settings: Any) -> None:
        super().build(settings)
        self.alpha, self.n_rows = settings.alpha, shared_by(self)

    def cost(self, params: Params) -> Any:
        """Cost of the weights for all rows together, in nats: -log p(theta), or KL(q(theta) ‖ p(theta))."""
        raise NotImplementedError

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        terms = super().terms(params, state, batch, noise, step)
        if step is not None:  # the cost of the weights belongs to all rows together
            terms.layers.append(Penalty(self.cost(params), share=1 / self.n_rows, drawn=self.drawn))
        return terms

    def _weights(self, params: Params) -> list[str]:
        return [name for name in params if name.startswith("decoder.") and name != "decoder.shared"]


class MAP(_Weighed):
    """A VAE with the most probable weights of the decoder, under a Gaussian prior.

    The bound of training steps includes log p(theta) / N.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
        Rows that share the weights, N: needed.
    **given : object
        As for `Base`, with the settings of `gvae.MAPVAE`.

    Raises
    ------
    ConfigError
        n_rows is not a positive integer.

    Examples
    --------
    >>> model = gvae.models.MAP(4, latent=2, hidden=(3,), alpha=0.5, n_rows=100)
    >>> params = model.init(gvae.random.key(0))
    >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(1), batch), step=0)
    >>> np.allclose(terms.layers[-1].of_each_row(model.cost(params)), model.cost(params) / 100)
    True
    """

    pure = True

    def cost(self, params: Params) -> Any:
        """Cost of the decoder's weights, -log p(theta).

        Parameters
        ----------
        params : mapping of str to array

        Returns
        -------
        array ()
            Nats, for all rows together.

        Examples
        --------
        >>> model = gvae.models.MAP(4, latent=2, hidden=(3,), alpha=0.5, n_rows=100)
        >>> params = model.init(gvae.random.key(0))
        >>> theta = np.concatenate([params[name].ravel() for name in params if name.startswith("decoder.")])
        >>> expected = 0.5 * np.sum(theta**2) / 0.5**2 + theta.size * np.log(0.5 * np.sqrt(2 * np.pi))
        >>> np.allclose(model.cost(params), expected)
        True
        """
        return price_of_weights(params, self._weights(params), self.alpha)


class Bayes(_Weighed):
    """A VAE with a Gaussian posterior for each of the decoder's weights.

    Its mean has the weight's own name in the parameters, and log s the group decoder_log_scale. Without noise, `decode`
    takes the means.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
        Rows that share the weights, N: needed.
    **given : object
        As for `Base`, with the settings of `gvae.BayesianVAE`.

    Raises
    ------
    ConfigError
        n_rows is not a positive integer.

    Examples
    --------
    >>> params = gvae.models.Bayes(4, latent=2, hidden=(3,), n_rows=100).init(gvae.random.key(0))
    >>> [name for name in params if name.endswith("1.weight")]
    ['encoder.1.weight', 'decoder.1.weight', 'decoder_log_scale.1.weight']
    >>> params["decoder_log_scale.1.bias"].round(3)
    array([-4.605, -4.605, -4.605, -4.605], dtype=float32)
    """

    Settings = BayesSettings
    pure = True
    drawn = True

    def build(self, settings: Any) -> None:
        if settings.normalize is not None or settings.dropout:
            raise ConfigError(
                "Bayes: normalize and dropout are not for a decoder whose weights have a posterior: they are "
                f"{settings.normalize!r} and {settings.dropout!r}, expected None and 0"
            )
        super().build(settings)
        self.initial_scale = settings.initial_scale

    def init(self, key: Key) -> dict[str, np.ndarray]:
        params = super().init(key)
        for name in self._weights(params):
            log_scale = np.full(params[name].shape, math.log(self.initial_scale), self.dtype)
            params[_log_scale(name)] = log_scale
        return params

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        draws = super().noise(key, batch, samples)
        for i, width in enumerate(self.decoder.network.sizes[1:]):
            shape, like = (samples, len(batch), width), vars(batch).get("x")
            draws[f"decoder.{i}"] = random.normal(random.fold_in(key, 1, i), shape, self.dtype, like)
        return draws

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
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

    def cost(self, params: Params) -> Any:
        """Cost of the decoder's weights, KL(q(theta) ‖ p(theta)).

        Parameters
        ----------
        params : mapping of str to array

        Returns
        -------
        array ()
            Nats, for all rows together.

        Examples
        --------
        >>> model = gvae.models.Bayes(4, latent=2, hidden=(3,), alpha=0.5, initial_scale=0.5, n_rows=100)
        >>> params = model.init(gvae.random.key(0))
        >>> theta = np.concatenate([params[name].ravel() for name in params if name.startswith("decoder.")])
        >>> np.allclose(model.cost(params), 0.5 * np.sum(theta**2) / 0.5**2)  # where s is alpha
        True
        """
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
