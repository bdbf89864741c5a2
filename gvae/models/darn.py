"""The deep autoregressive network: bits that depend on those before them within every layer, and on the layer above.

    z_L ~ autoregressive,   z_l | z_(l+1) ~ autoregressive(decoder_l(z_(l+1))),   x | z_1 ~ autoregressive(decoder_0(z_1))
    q(z_l | z_(l-1)) = Bernoulli(sigmoid(encoder_l(z_(l-1)))),  z_0 = x

It is a choice of families in `Hierarchical`, and its estimator of gradients one rule for derivatives of draws, `taylor`
(`gvae.ops.draws`). Deterministic layers are the `hidden` ones; the paper's other encoder is posterior
"autoregressive:taylor", and "nade:H" takes the place of any conditional. Source: Gregor, Danihelka, Mnih, Blundell and
Wierstra (2014). Errata: the estimator's numerator is the gradient of q(h = 1); its baseline has mean zero for functions that
are quadratic in h only.
"""

from __future__ import annotations

from typing import Any

from gvae import settings
from gvae.families import Family
from gvae.models import hierarchical
from gvae.models.hierarchical import Hierarchical
from gvae.settings import restated

__all__ = ["DARN"]


@settings.group("model")
class Settings(hierarchical.Settings):
    """Settings of a deep autoregressive network."""

    latent: int | tuple[int, ...] = restated(hierarchical.Settings, "latent", default=500, kw_only=False)
    posterior: str | Family = restated(hierarchical.Settings, "posterior", default="bernoulli:taylor", kw_only=False)
    observation: str | Family = restated(hierarchical.Settings, "observation", default="autoregressive", kw_only=False)
    hidden: tuple[Any, ...] = restated(hierarchical.Settings, "hidden", default=(), kw_only=False)
    activation: str = restated(hierarchical.Settings, "activation", default="tanh", kw_only=False)
    prior: str | Family | None = restated(hierarchical.Settings, "prior", default="autoregressive")
    between: Any = restated(hierarchical.Settings, "between", default="autoregressive")
    output_bias: str = restated(hierarchical.Settings, "output_bias", default="data")


class DARN(Hierarchical):
    """A deep autoregressive network with a factorial or an autoregressive encoder.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.DARN`.

    Examples
    --------
    >>> model = gvae.models.DARN(784, latent=(200, 100), hidden=(50,))
    >>> model.posteriors[0], model.decoders[1].family, model.prior
    (Bernoulli('bernoulli:taylor', n=200), Autoregressive('autoregressive', n=200), Autoregressive('autoregressive', n=100))
    """

    Settings = Settings
    pure = True
