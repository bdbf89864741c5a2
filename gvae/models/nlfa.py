"""Non-linear factor analysis, z ~ N(0, I), x | z ~ N(f(z), Psi) with one diagonal Psi for all data, by variational EM.

A VAE without an encoder: each datum has the raw numbers of a posterior of its own. The E step moves those of a batch by some
gradient steps from where they were, the M step decoder and rows together. For other data they are inferred with the decoder
held fixed. The amortized twin is `VAE(..., observation="gaussian")`, and `gvae.evaluation.inference_gaps` says what its
encoder costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gvae.errors import ConfigError
from gvae.families import Family
from gvae.models.vae import VAE

__all__ = ["NonlinearFactorAnalysis"]


class NonlinearFactorAnalysis(VAE):
    """row_steps : gradient steps of an E step      row_rate : their rate, in learning rates of the decoder

    Other settings as VAE's; `hidden` are the decoder's, mirrored. A row moves row_steps + 1 times in an epoch, the
    decoder with each batch: hence the larger rate.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"observation": "gaussian"}

    def __init__(
        self,
        n_inputs: int,
        latent: int = 16,
        posterior: str | Family = "diagonal",
        observation: str | Family = "gaussian",
        *args: Any,
        row_steps: int = 5,
        row_rate: float = 20.0,
        **settings: Any,
    ):
        super().__init__(n_inputs, latent, posterior, observation, *args, **settings)
        if not isinstance(row_steps, int) or row_steps < 0 or not row_rate > 0:
            given = f"row_steps is {row_steps!r}, row_rate {row_rate!r}"
            raise ConfigError(f"NonlinearFactorAnalysis: {given}; expected a number of steps and a positive number")
        self.row_steps, self.row_rate = row_steps, row_rate

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value for name, value in super().init(key).items() if not name.startswith("encoder.")}

    def init_rows(self, key: np.ndarray, n_rows: int) -> dict[str, np.ndarray]:
        raw = np.zeros(self.posterior.n_params, self.dtype)
        if self.encoder.start == "calm":
            raw = self.posterior.start(key, self.dtype)
        return {"encoder.raw": np.tile(raw, (n_rows, 1))}
