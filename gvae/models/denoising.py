"""A VAE whose encoder reads corrupted data, the corruption falling from a high level to a low one during training: see
gvae.models.corruption. At level 0, and where rows are scored, it is the VAE.
"""

from __future__ import annotations

from typing import Any

from gvae import settings
from gvae.models import corruption, vae
from gvae.models.corruption import Corruption
from gvae.models.vae import VAE
from gvae.settings import restated

__all__ = ["Denoising"]


@settings.group("model")
class Settings(corruption.Settings, vae.Settings):
    """Settings of a denoising VAE."""

    corruption: str | None = restated(corruption.Settings, "corruption", default="masking")


class Denoising(VAE):
    """A VAE whose encoder reads corrupted rows in training, and the rows themselves where they are scored.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.DenoisingVAE`.

    Examples
    --------
    >>> model = gvae.models.Denoising(4, latent=2, hidden=(3,), corruption="masking", levels=(0.5, 0.25), anneal=100)
    >>> model.corruption.level(0), model.corruption.level(50), model.corruption.level(1000)
    (0.5, 0.375, 0.25)
    """

    Settings = Settings

    def build(self, settings: Any) -> None:
        super().build(settings)
        self.corruption = Corruption.of(settings)
