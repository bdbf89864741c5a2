"""Non-linear factor analysis, z ~ N(0, I), x | z ~ N(f(z), Psi) with one diagonal Psi for all data, by variational EM.

A VAE without an encoder: each datum has the raw numbers of a posterior of its own. The E step moves those of a batch by some
gradient steps from where they were, the M step decoder and rows together. For other data they are inferred with the decoder
held fixed. The amortized twin is `VAE(..., observation="gaussian")`, and `gvae.evaluation.inference_gaps` says what its
encoder costs.
"""

from __future__ import annotations

import numpy as np

from gvae import settings
from gvae.families import Family
from gvae.models import vae
from gvae.models.vae import VAE
from gvae.settings import Number, Whole, restated, setting

__all__ = ["NonlinearFactorAnalysis"]


@settings.group("model")
class Settings(vae.Settings):
    """Those of non-linear factor analysis. `hidden` are the decoder's widths, mirrored."""

    posterior: str | Family = restated(vae.Settings, "posterior", default="diagonal", kw_only=False)
    observation: str | Family = restated(vae.Settings, "observation", default="gaussian", kw_only=False)
    row_steps: int = setting(default=5, help="gradient steps of an E step", kind=Whole(0))
    row_rate: float = setting(
        default=20.0,
        help="learning rate of the E step, in learning rates of the decoder: a row moves row_steps + 1 times in an "
        "epoch, the decoder with each batch",
        kind=Number(),
    )


class NonlinearFactorAnalysis(VAE):
    """A VAE without an encoder: each row has the numbers of its own posterior. Settings: see
    gvae.NonlinearFactorAnalysis."""

    Settings = Settings

    def build(self, settings):
        super().build(settings)
        self.row_steps, self.row_rate = settings.row_steps, settings.row_rate

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value for name, value in super().init(key).items() if not name.startswith("encoder.")}

    def init_rows(self, key: np.ndarray, n_rows: int) -> dict[str, np.ndarray]:
        raw = np.zeros(self.posterior.n_params, self.dtype)
        if self.encoder.start == "calm":
            raw = self.posterior.start(key, self.dtype)
        return {"encoder.raw": np.tile(raw, (n_rows, 1))}
