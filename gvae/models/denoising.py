"""A VAE whose encoder sees corrupted data, the corruption falling from a high level to a low one during training: see
gvae.models.corruption. At level 0 it is the VAE, as it is where rows are scored."""

from __future__ import annotations

from gvae import settings
from gvae.models import corruption, vae
from gvae.models.corruption import Corruption
from gvae.models.vae import VAE
from gvae.settings import restated

__all__ = ["Denoising"]


@settings.group("model")
class Settings(corruption.Settings, vae.Settings):
    """Those of a denoising VAE."""

    corruption: str | None = restated(corruption.Settings, "corruption", default="masking")


class Denoising(VAE):
    """A VAE whose encoder sees corrupted rows in training, and rows as they are where they are scored. Settings: see
    gvae.DenoisingVAE."""

    Settings = Settings

    def build(self, settings):
        super().build(settings)
        self.corruption = Corruption.of(settings)
