"""The deep variational information bottleneck: a classifier whose code carries as little information on x as labels allow.

    max  E_{p(z|x)} log q(y | z) - beta KL(p(z|x) || r(z)),       I(Z; X) <= E KL,   I(Z; Y) >= H(Y) + E log q(y|z)

The encoder p(z|x) is a part of the model: log p(y|x) = log E_{p(z|x)} q(y|z), whose bound is E log q(y|z). Source: Alemi,
Fischer, Dillon and Murphy (2017); their eq. 17 leaves H(Y) out, a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gvae import families, settings
from gvae.costs import Beta
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.models import vae
from gvae.models.codes import Code, Codes
from gvae.models.parts import style
from gvae.ops import weights
from gvae.settings import Number, Widths, restated, setting
from gvae.typing import Arrays, Noise, Params

__all__ = ["VIB"]


@settings.group("model")
class Settings(settings.Settings):
    """Settings of a variational information bottleneck."""

    latent: int = restated(vae.Settings, "latent", default=256, kw_only=False)
    posterior: str | Family = restated(vae.Settings, "posterior", default="diagonal", help="family of p(z|x)", kw_only=False)
    beta: float = setting(
        default=1e-3, help="nats of log q(y|z) that a nat of KL(p(z|x) || r(z)) costs", kind=Number(zero=True)
    )
    hidden: tuple[int, ...] = restated(vae.Settings, "hidden", default=(1024, 1024))
    activation: str = restated(vae.Settings, "activation", default="relu")
    prior: str | Family | None = restated(
        vae.Settings, "prior", default=None, help="family of r(z), whose parameters are learned; None: the standard one"
    )
    decoder_hidden: tuple[int, ...] = setting(
        default=(), help="widths of the hidden layers of q(y|z); none: it is linear", kind=Widths()
    )
    normalize: str | None = restated(vae.Settings, "normalize", default=None)
    dropout: float = restated(vae.Settings, "dropout", default=0.0)
    start: str = restated(vae.Settings, "start", default="calm")


class VIB(Codes):
    """The deep variational information bottleneck, a classifier of y given x.

    Parameters
    ----------
    sizes : mapping of str to int
        The number of columns of "x" and the number of classes of "y".
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.VIB`.

    Examples
    --------
    >>> model = gvae.models.VIB({"x": 4, "y": 3}, latent=2, hidden=(5,), beta=1e-2)
    >>> params = model.init(gvae.random.key(0))
    >>> model.decode(params, {}, {"z": np.zeros((7, 2), np.float32)})
    {'y': CategoricalDistribution(batch_shape=(7,), n=1)}
    """

    Settings: ClassVar[Any] = Settings
    columns: ClassVar[Mapping[str, str]] = {"x": "matrix", "y": "labels"}
    views: ClassVar[tuple[str, ...]] = ()
    conditional: ClassVar[bool] = True
    pure = True

    def build(self, settings: Any) -> None:
        n_inputs, shared = self.sizes["x"], style(settings)
        self.posterior = families.parse(settings.posterior, settings.latent, "posterior")
        prior = None if settings.prior is None else families.parse(settings.prior, settings.latent, "prior", self.posterior)
        self.encoder = Conditional("encoder", n_inputs, self.posterior, settings.hidden, **shared)
        labels = families.parse(f"categorical:{self.sizes['y']}", 1)
        self.decoder = Conditional("decoder", settings.latent, labels, settings.decoder_hidden, **shared)
        self.coded, self.decoders = {"z": Code(self.encoder, prior=prior)}, (self.decoder,)
        self.code_cost = Beta(settings.beta)
        self.check_normalize(settings)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return [(sizes["x"], *settings.hidden, settings.latent), (settings.latent, *settings.decoder_hidden, sizes["y"])]

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        return {"y": self.decoder(params, z["z"])}

    def likelihood(self, views: Mapping[str, Distribution], batch: Batch) -> dict[str, Any]:
        return {"y": views["y"].log_prob(batch.y[:, None].astype(self.dtype))}

    def predict(self, params: Params, state: Arrays, batch: Batch, noise: Noise) -> np.ndarray:
        """Class probabilities p(y | x): the mean of q(y | z) over draws of p(z|x).

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            As `noise` draws it.

        Returns
        -------
        array (B, classes)

        Examples
        --------
        >>> model = gvae.models.VIB({"x": 4, "y": 3}, latent=2, hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> p = model.predict(params, {}, batch, model.noise(gvae.random.key(1), batch, samples=8))
        >>> p.shape, np.allclose(p.sum(axis=1), 1)
        ((4, 3), True)
        """
        return np.exp(self.log_predict(params, state, batch, noise))

    def log_predict(self, params: Params, state: Arrays, batch: Batch, noise: Noise) -> np.ndarray:
        """log p(y | x) of each class: finite where the probability underflows.

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            As `noise` draws it.

        Returns
        -------
        array (B, classes)
            In nats.

        Examples
        --------
        >>> model = gvae.models.VIB({"x": 4, "y": 3}, latent=2, hidden=(5,))
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
        >>> p = model.log_predict(params, {}, batch, model.noise(gvae.random.key(1), batch, samples=8))
        >>> p.shape, bool(np.allclose(np.exp(p).sum(axis=1), 1))
        ((4, 3), True)
        """
        z = self.encoder(params, batch.x).sample(noise["z"])
        p, one = self.decode(params, state, {"z": z})["y"], np.ones((len(batch), 1), self.dtype)
        return np.stack([weights.log_mean_exp(p.log_prob(c * one)) for c in range(self.sizes["y"])], axis=1)

    def generate(self, params: Params, state: Arrays, noise: Noise) -> Any:
        """Raises ConfigError: there is no model of x to draw from."""
        raise ConfigError("VIB explains y given x, and has no model of x to draw from")
