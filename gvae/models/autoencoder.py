"""The autoencoder: the encoder's mean and the decoder of a VAE, with no sampling and no KL; a baseline.

Its loss is the limit of the VAE's as the posterior's variance and the weight of the KL go to 0. Its "bound" is the
reconstruction term log p(x | z(x)), which is not a bound. Its codes are not regularised towards a prior, so that draws from
N(0, I) decode to unspecified data.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gvae import modes
from gvae.data import Batch
from gvae.distributions import LogitNormal
from gvae.errors import ConfigError
from gvae.models.parts import Penalty
from gvae.models.vae import VAE
from gvae.objectives import Terms
from gvae.runtime import device
from gvae.typing import Arrays, Noise, Params

__all__ = ["Autoencoder"]


class Autoencoder(VAE):
    """The autoencoder: a VAE's encoder mean and decoder, without sampling and without KL.

    The posterior's family decides only how z = its mean is emitted.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.Autoencoder`.

    Examples
    --------
    >>> model = gvae.models.Autoencoder(4, latent=2, hidden=(3,))
    >>> params = model.init(gvae.random.key(0))
    >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(1), batch))
    >>> float(gvae.objectives.ELBO()(terms)[1]["kl"])
    0.0
    """

    pure = True
    has_posterior: ClassVar[bool] = False
    caution = (
        "an autoencoder has no bound: what is shown as ELBO and log p(x) is its reconstruction term, which is not a bound"
    )

    @property
    def networks(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Both networks read rows: a code is not drawn.

        Examples
        --------
        >>> [len(networks) for networks in gvae.models.Autoencoder(4, latent=2).networks]
        [2, 0]
        """
        return (self.encoder, self.decoder), ()

    def build(self, settings: Any) -> None:
        super().build(settings)
        if self.posterior.distribution is LogitNormal:
            name = self.posterior.name
            raise ConfigError(f"Autoencoder: posterior is {name}, whose mean has no derivative; expected a Gaussian")
        try:
            _ = self.posterior(np.zeros(self.posterior.n_params)).mean
        except NotImplementedError as error:
            raise ConfigError(f"Autoencoder: posterior is {self.posterior.name}: {error}; expected a Gaussian") from None

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        params = modes.in_step(params, noise, step)
        z = self.encoder(params, batch.x).mean[None]
        p, none = self.decoder(params, z), Penalty(device.zeros(len(batch), self.dtype, z))
        return Terms({"x": p.log_prob(batch.x)}, [none], views={"x": p})
