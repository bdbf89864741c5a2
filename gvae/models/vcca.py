"""Variational canonical correlation analysis: a code that explains two views, inferred from the first of them.

    z ~ p(z),   x | z ~ observation_x(decoder(z)),   y | z ~ observation_y(decoder_y(z)),   q(z | x) = posterior(encoder(x))

With private codes, x is explained by (z, h_x) and y by (z, h_y), and q(h_x | x), q(h_y | y) are inferred from each view.
reads="both" takes q(z | x, y) instead, a tighter bound for the same model, whose codes need both views.

Source: Wang, Yan, Lee and Livescu (2016); the probabilistic model behind canonical correlations is that of Bach and Jordan
(2005).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from gvae import families, settings
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.families import Conditional, Family
from gvae.models import vae
from gvae.models.codes import Code, Codes
from gvae.models.parts import each_layer, known_observation, style
from gvae.objectives import Terms
from gvae.ops import arrays
from gvae.runtime import device
from gvae.settings import Choice, Families, Maybe, Number, Numbers, Whole, Widths, restated, setting
from gvae.typing import Arrays, Noise, Params

__all__ = ["VCCA"]

VIEWS = {"x": "decoder", "y": "decoder_y"}  # and their networks
PRIVATE = {"x": "h_x", "y": "h_y"}


@settings.group("model")
class Settings(settings.Settings):
    """Settings of variational canonical correlation analysis."""

    latent: int = restated(
        vae.Settings, "latent", default=40, help="number of variables of the code that both views share", kw_only=False
    )
    posterior: str | Family = restated(vae.Settings, "posterior", default="diagonal", kw_only=False)
    observation: Any = setting(
        default="auto",
        help="family of p(view | codes), one for both views or one for each, x first; auto: as for a VAE",
        kind=Families(several=True),
        kw_only=False,
    )
    private: tuple[int, int] | None = setting(
        default=None,
        help="numbers of variables of a code of x only, and of one of y only; None: neither",
        kind=Maybe(Numbers(Whole(0), 2)),
    )
    hidden: tuple[Any, ...] = setting(
        default=(200, 200),
        help="widths of the encoders' hidden layers, for both views or for each, x first",
        kind=Widths(nested=True),
    )
    decoder_hidden: tuple[Any, ...] | None = setting(
        default=None,
        help="widths of the decoders' hidden layers; None: each mirrors its view's encoder",
        kind=Maybe(Widths(nested=True)),
    )
    activation: str = restated(vae.Settings, "activation", default="relu")
    prior: str | Family | None = restated(vae.Settings, "prior", default=None)
    reads: str = setting(default="x", help="what q(z | .) reads: x, or both views", kind=Choice("x", "both"))
    weight_y: float = setting(
        default=1.0, help="weight of log p(y | codes) in training; rows are scored with 1", kind=Number(zero=True)
    )
    start: str = restated(vae.Settings, "start", default="calm")
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")
    normalize: str | None = restated(vae.Settings, "normalize", default=None)
    dropout: float = restated(
        vae.Settings,
        "dropout",
        default=0.0,
        help="probability with which the output of a hidden unit, or a variable of a code, is dropped in training",
    )


class VCCA(Codes):
    """A code that explains two views, with private codes of each if asked for.

    Parameters
    ----------
    sizes : mapping of str to int
        The number of columns of "x" and of "y".
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.VCCA`.

    Examples
    --------
    >>> model = gvae.models.VCCA({"x": 6, "y": 4}, latent=3, private=(2, 1), hidden=(5,))
    >>> {name: (code.reads, code.encoder.family.n) for name, code in model.coded.items()}
    {'z': ('x', 3), 'h_x': ('x', 2), 'h_y': ('y', 1)}
    >>> model.codes
    {'z': 3}
    """

    Settings: ClassVar[Any] = Settings
    columns: ClassVar[Mapping[str, str]] = {"x": "matrix", "y": "matrix"}
    views: ClassVar[tuple[str, ...]] = ("x", "y")
    pure = True

    def build(self, settings: Any) -> None:
        shared, n = style(settings), settings.latent
        up = dict(zip(VIEWS, each_layer("hidden", settings.hidden, 2), strict=True))
        down = {view: widths[::-1] for view, widths in up.items()}
        if settings.decoder_hidden is not None:
            down = dict(zip(VIEWS, each_layer("decoder_hidden", settings.decoder_hidden, 2), strict=True))
        private = {view: m for view, m in zip(VIEWS, settings.private or (0, 0), strict=True) if m}
        posterior = families.parse(settings.posterior, n, "posterior")
        prior = None if settings.prior is None else families.parse(settings.prior, n, "prior", posterior)
        self.reads, self.weight_y, self.private = settings.reads, settings.weight_y, private
        inputs = sum(self.sizes[view] for view in VIEWS) if self.reads == "both" else self.sizes["x"]
        encoder = Conditional("encoder", inputs, posterior, up["x"], **shared)
        self.coded = {"z": Code(encoder, self.reads, prior)}
        for view, m in private.items():
            family, name = families.parse(settings.posterior, m, "posterior"), f"encoder_{PRIVATE[view]}"
            self.coded[PRIVATE[view]] = Code(Conditional(name, self.sizes[view], family, up[view], **shared), view)
        observations = dict(zip(VIEWS, each_layer("observation", settings.observation, 2), strict=True))
        self.emitters = {
            view: Conditional(
                name,
                n + private.get(view, 0),
                families.parse(known_observation(observations[view]), self.sizes[view], "observation"),
                down[view],
                drops_inputs=True,
                **shared,
            )
            for view, name in VIEWS.items()
        }
        self.decoders = tuple(self.emitters.values())
        self.check_normalize(settings)

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        up = each_layer("hidden", settings.hidden, 2)
        mirrored = settings.decoder_hidden is None
        down = [widths[::-1] for widths in up] if mirrored else each_layer("decoder_hidden", settings.decoder_hidden, 2)
        private, n = settings.private or (0, 0), settings.latent
        read = sum(sizes.values()) if settings.reads == "both" else sizes["x"]
        networks = [(read, *up[0], n)]
        for view, above, below, m in zip(VIEWS, up, down, private, strict=True):
            networks += [(sizes[view], *above, m)] * (m > 0) + [(n + m, *below, sizes[view])]
        return networks

    @property
    def codes(self) -> Mapping[str, int]:
        """The code that both views share, which `transform` returns.

        Examples
        --------
        >>> gvae.models.VCCA({"x": 6, "y": 4}, latent=3, private=(2, 1)).codes
        {'z': 3}
        """
        return {"z": self.coded["z"].encoder.family.n}

    def read(self, params: Params, batch: Batch, noise: Noise | None = None, step: Any = None) -> dict[str | int, Any]:
        found = super().read(params, batch, noise, step)
        if self.reads == "both" and "y" in found:
            found["both"] = arrays.concatenate([found["x"], found["y"]], axis=-1)
        return found

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        """The distribution p(view | codes) of each view; a private code that is not given is at the mean of its prior, 0.

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
            "z", and "h_x", "h_y" where there are private codes; (..., variables).
        noise : mapping of str to array, optional
            Not used.

        Returns
        -------
        dict of str to Distribution
            "x" and "y".

        Examples
        --------
        >>> model = gvae.models.VCCA({"x": 6, "y": 4}, latent=3, private=(2, 1), hidden=(5,))
        >>> model.decode(model.init(gvae.random.key(0)), {}, {"z": np.zeros((7, 3), np.float32)})["y"].mean.shape
        (7, 4)
        """
        found = {}
        for view, emitter in self.emitters.items():
            codes = [z["z"]]
            if view in self.private:
                own = z.get(PRIVATE[view])
                if own is None:
                    own = device.zeros((*codes[0].shape[:-1], self.private[view]), codes[0].dtype, codes[0])
                codes.append(own)
            found[view] = emitter(params, codes[0] if len(codes) == 1 else arrays.concatenate(codes, axis=-1))
        return found

    def watch(self, params: Params, state: Arrays, batch: Batch, noise: Noise) -> Terms:
        # with the weight that the second view has in training
        terms = self.terms(params, state, batch, noise, None)
        if self.weight_y == 1:
            return terms
        weighted = self.weighted(dict(terms.log_likelihood), 0)
        return dataclasses.replace(terms, log_likelihood=weighted, unweighted=terms.log_likelihood)

    def weighted(self, likelihood: dict[str, Any], step: Any) -> dict[str, Any]:
        if step is None or self.weight_y == 1:
            return likelihood
        return likelihood | {"y": self.weight_y * likelihood["y"]}
