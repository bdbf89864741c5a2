"""The sigmoid belief network with an encoder: layers of bits, each given the one above by logits that are linear in it.

    z_L ~ Bernoulli(p),   z_l | z_(l+1) ~ Bernoulli(sigmoid(W_l z_(l+1) + b_l)),   x | z_1 likewise
    q(z_1 | x) = Bernoulli(sigmoid(V_1 x + c_1)),   q(z_l | z_(l-1)) = Bernoulli(sigmoid(V_l z_(l-1) + c_l))

It is a choice of families in `Hierarchical`. Sources: Neal (1992); with an encoder, Mnih and Gregor (2014).
"""

from __future__ import annotations

from typing import Any

from gvae import settings
from gvae.families import Family
from gvae.models import hierarchical
from gvae.models.hierarchical import Hierarchical
from gvae.settings import restated

__all__ = ["SBN"]


@settings.group("model")
class Settings(hierarchical.Settings):
    """Settings of a sigmoid belief network."""

    latent: int | tuple[int, ...] = restated(hierarchical.Settings, "latent", default=(200, 200), kw_only=False)
    posterior: str | Family = restated(hierarchical.Settings, "posterior", default="bernoulli", kw_only=False)
    observation: str | Family = restated(hierarchical.Settings, "observation", default="bernoulli", kw_only=False)
    hidden: tuple[Any, ...] = restated(hierarchical.Settings, "hidden", default=(), kw_only=False)
    prior: str | Family | None = restated(hierarchical.Settings, "prior", default="bernoulli")
    between: Any = restated(hierarchical.Settings, "between", default="bernoulli")
    output_bias: str = restated(hierarchical.Settings, "output_bias", default="data")


class SBN(Hierarchical):
    """A sigmoid belief network with an encoder of the same shape.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.SBN`.

    Examples
    --------
    >>> model = gvae.models.SBN(784, latent=(200, 100))
    >>> [decoder.network.sizes for decoder in model.decoders], model.prior
    ([(200, 784), (100, 200)], Bernoulli('bernoulli', n=100))
    """

    Settings = Settings
    pure = True
