"""The plain autoencoder: the encoder's mean and the decoder of a VAE, with no sampling and no KL; a baseline.

Its loss is the limit of the VAE's as the posterior's variance and the weight of the KL go to 0. Its "bound" is the
reconstruction term log p(x | z(x)), which bounds nothing. Nothing ties its codes to a prior, so draws from N(0, I) decode to
what they may.
"""

from __future__ import annotations

from typing import Any

from gvae.models.parts import Penalty
from gvae.models.vae import VAE
from gvae.objectives import Terms
from gvae.runtime import device

__all__ = ["Autoencoder"]


class Autoencoder(VAE):
    """Settings as VAE's; the posterior's family decides how z = its mean is emitted, and nothing else."""

    pure = True
    caution = "an autoencoder's reconstruction term bounds nothing: what stands for the ELBO and for log p(x) is neither"

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: Any = None) -> Terms:
        z = self.encoder(params, batch.x).mean[None]
        return Terms({"x": self.decoder(params, z).log_prob(batch.x)}, [Penalty(device.zeros(len(batch), self.dtype, z))])
