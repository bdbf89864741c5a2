"""Non-linear factor analysis, z ~ N(0, I), x | z ~ N(f(z), Psi) with one diagonal Psi for all data, by variational EM.

A VAE without an encoder: each datum has the unconstrained parameters of its own posterior. The E step continues those of a
batch by some gradient steps, the M step updates decoder and rows together. For other data they are inferred with the decoder
held fixed. The amortised variant is `VAE(..., observation="gaussian")`, and `gvae.evaluation.inference_gaps` measures the
gap due to its encoder.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae import settings
from gvae.errors import ConfigError
from gvae.families import Family
from gvae.models import vae
from gvae.models.vae import VAE
from gvae.settings import Number, Whole, restated, setting
from gvae.typing import Key

__all__ = ["NonlinearFactorAnalysis"]


@settings.group("model")
class Settings(vae.Settings):
    """Settings of non-linear factor analysis. `hidden` are the decoder's widths, mirrored."""

    posterior: str | Family = restated(vae.Settings, "posterior", default="diagonal", kw_only=False)
    observation: str | Family = restated(vae.Settings, "observation", default="gaussian", kw_only=False)
    row_steps: int = setting(default=5, help="gradient steps of an E step", kind=Whole(0))
    row_rate: float = setting(
        default=20.0,
        help="learning rate of the E step, as a multiple of the decoder's: a row moves row_steps + 1 times in an "
        "epoch, the decoder with each batch",
        kind=Number(),
    )


class NonlinearFactorAnalysis(VAE):
    """A VAE without an encoder: each row has the unconstrained parameters of its own posterior.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.NonlinearFactorAnalysis`.

    Examples
    --------
    >>> model = gvae.models.NonlinearFactorAnalysis(4, latent=2, hidden=(3,))
    >>> list(model.init(gvae.random.key(0)))
    ['decoder.0.weight', 'decoder.0.bias', 'decoder.1.weight', 'decoder.1.bias', 'decoder.shared']
    >>> model.row_steps, model.row_rate
    (5, 20.0)
    """

    Settings = Settings

    def build(self, settings: Any) -> None:
        if settings.critic is not None:
            raise ConfigError(
                f"NonlinearFactorAnalysis: critic is {settings.critic!r}, expected None: its codes have no encoder"
            )
        if settings.normalize is not None:
            raise ConfigError(
                f"NonlinearFactorAnalysis: normalize is {settings.normalize!r}, expected None: the moments would change "
                "with the posteriors of all rows"
            )
        super().build(settings)
        self.row_steps, self.row_rate = settings.row_steps, settings.row_rate

    def init(self, key: Key) -> dict[str, np.ndarray]:
        return {name: value for name, value in super().init(key).items() if not name.startswith("encoder.")}

    def init_rows(self, key: Key, n_rows: int) -> dict[str, np.ndarray]:
        """Initial per-datum parameters: the unconstrained parameters of each row's posterior.

        Parameters
        ----------
        key : array (4,)
        n_rows : int

        Returns
        -------
        dict of str to array
            "encoder.raw", (n_rows, n_params): the same for each row.

        Examples
        --------
        >>> model = gvae.models.NonlinearFactorAnalysis(4, latent=2, hidden=(3,))
        >>> model.init_rows(gvae.random.key(0), n_rows=3)["encoder.raw"]
        array([[0., 0., 0., 0.],
               [0., 0., 0., 0.],
               [0., 0., 0., 0.]], dtype=float32)
        """
        raw = np.zeros(self.posterior.n_params, self.dtype)
        if self.encoder.start == "calm":
            raw = self.posterior.start(key, self.dtype)
        return {"encoder.raw": np.tile(raw, (n_rows, 1))}
