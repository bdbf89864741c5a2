"""Several stochastic layers, inferred from the data upwards, with any family in each.

    z_L ~ p(z_L),   z_l | z_(l+1) ~ p_l(decoder_l(z_(l+1))),   x | z_1 ~ observation(decoder_0(z_1))
    q(z_1 | x) = posterior_1(encoder_1(x)),   q(z_l | z_(l-1)) = posterior_l(encoder_l(z_(l-1)))

Source: Burda, Grosse and Salakhutdinov (2016), section 3 (two layers of diagonal Gaussians).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from gvae import families, random
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.objectives import Layer, Terms

__all__ = ["Hierarchical"]


class Hierarchical:
    """n_inputs    : variables of x
    latent         : variables of z_1 .. z_L, from the data upwards
    hidden         : widths of each encoder's hidden layers, the same for all or one sequence a layer
    decoder_hidden : those of the decoders; None: each mirrors its encoder
    posterior      : families of q(z_l | .): one for all, or one a layer
    between        : families of p(z_l | z_(l+1)): one for all, or one for each l < L
    prior          : None for the standard p(z_L), else a family whose parameters are learned
    n_rows         : as in VAE, and of no use here
    start          : as in VAE
    """

    pure = True
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        n_inputs: int,
        latent: int | Sequence[int] = (100, 50),
        posterior: str | Family | Sequence[str | Family] = "diagonal",
        observation: str | Family = "bernoulli",
        hidden: Sequence[int] | Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        activation: str = "tanh",
        prior: str | Family | None = None,
        dtype: Any = np.float32,
        n_rows: int = 0,
        decoder_hidden: Sequence[int] | Sequence[Sequence[int]] | None = None,
        between: str | Family | Sequence[str | Family] = "diagonal",
        start: str = "calm",
    ):
        self.dtype, self.n_rows = np.dtype(dtype), n_rows
        latents = [latent] if isinstance(latent, (int, np.integer)) else list(latent)
        L = len(latents)
        if not L:
            raise ConfigError("Hierarchical: latent is empty, expected at least one layer")
        widths = _each("hidden", hidden, L)
        mirrored = [tuple(w)[::-1] for w in widths] if decoder_hidden is None else _each("decoder_hidden", decoder_hidden, L)
        emitted = [families.parse(observation, n_inputs)]
        emitted += [families.parse(family, n) for family, n in zip(_each("between", between, L - 1), latents, strict=False)]
        self.posteriors = [families.parse(f, n) for f, n in zip(_each("posterior", posterior, L), latents, strict=True)]
        self.prior = None if prior is None else families.parse(prior, latents[-1])
        self.encoders = [
            Conditional(f"encoder{i + 1}", n, family, widths[i], activation, start)
            for i, (n, family) in enumerate(zip((n_inputs, *latents[:-1]), self.posteriors, strict=True))
        ]
        self.decoders = [
            Conditional(f"decoder{i}", n, family, mirrored[i], activation, start)
            for i, (n, family) in enumerate(zip(latents, emitted, strict=True))
        ]
        # what is next to the data: codes are those of z_1
        self.encoder, self.decoder, self.posterior = self.encoders[0], self.decoders[0], self.posteriors[0]

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        params: dict[str, np.ndarray] = {}
        for i, part in enumerate((*self.encoders, *self.decoders)):
            params |= part.init(random.fold_in(key, i), self.dtype)
        if self.prior is not None:
            n = len(self.encoders) + len(self.decoders)
            params["prior.raw"] = self.prior.start(random.fold_in(key, n), self.dtype)
        return params

    def prior_of(self, params: Any) -> Distribution:
        """p(z_L)."""
        if self.prior is not None:
            return self.prior(params["prior.raw"])
        last = self.posteriors[-1]
        return last(np.zeros(last.n_params, self.dtype)).standard

    def sample_prior(self, params: Any, key: np.ndarray, n: int) -> Any:
        """n draws of z_1, (n, latent[0]), from the top down."""
        p = self.prior_of(params)
        z = p.sample(p.noise(random.fold_in(key, 0), (n,)))
        for i in reversed(range(1, len(self.decoders))):
            p = self.decoders[i](params, z)
            z = p.sample(p.noise(random.fold_in(key, i)))
        return z

    @property
    def has_closed_kl(self) -> bool:
        """Whether the KL of the whole has a closed form: with one layer at most, as p(z_l) depends on a draw of z_(l+1)."""
        q = self.posterior(np.zeros(self.posterior.n_params, self.dtype))
        p = None if self.prior is None else self.prior(np.zeros(self.prior.n_params, self.dtype))
        return len(self.posteriors) == 1 and q.kl(p) is not None

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        shape = (samples, len(batch))
        return {
            f"z{i + 1}": family.noise(random.fold_in(key, i), shape, self.dtype, vars(batch).get("x"))
            for i, family in enumerate(self.posteriors)
        }

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: int | None = None) -> Terms:
        z: list[Any] = [batch.x]  # z[l] is z_l, and z_0 is x
        q = []
        for i, encoder in enumerate(self.encoders):
            q.append(encoder(params, z[i]))
            z.append(q[i].sample(noise[f"z{i + 1}"]))
        x, *p = [decoder(params, above) for decoder, above in zip(self.decoders, z[1:], strict=True)]
        top = None if self.prior is None else self.prior(params["prior.raw"])

        def layer(i: int) -> Layer:
            below = i + 1 < len(q)
            return Layer(
                q[i],
                p[i] if below else top,
                z[i + 1],
                noise[f"z{i + 1}"],
                coupled=below,
                again=lambda f, g: self.encoders[i](f(params), g(z[i])),
            )

        layers = [layer(i) for i in range(len(q))]
        inference = tuple(encoder.name for encoder in self.encoders)
        return Terms({"x": x.log_prob(batch.x)}, layers, inference=inference, views={"x": x})

    def generate(self, params: Any, state: Any, noise: Any) -> Terms:
        p: Any = self.prior_of(params)
        layers: list[Layer] = []
        for i in reversed(range(len(self.decoders))):  # from the top down
            z = p.sample(noise[f"z{i + 1}"])
            layers.insert(0, Layer(p, p, z, noise[f"z{i + 1}"]))
            p = self.decoders[i](params, z)
        return Terms({}, layers, views={"x": p})


def _each(name: str, value: Any, n: int) -> Sequence[Any]:
    """One value for each of n layers: a family, or the widths of hidden layers."""
    if isinstance(value, (str, Family)) or all(isinstance(width, (int, np.integer)) for width in value):
        return [value] * n
    if len(value) != n:
        raise ConfigError(f"Hierarchical: {name} has {len(value)} entries, expected one for each of {n}")
    return value
