"""Several stochastic layers, inferred from the data upwards, with any family in each.

    z_L ~ p(z_L),   z_l | z_(l+1) ~ p_l(decoder_l(z_(l+1))),   x | z_1 ~ observation(decoder_0(z_1))
    q(z_1 | x) = posterior_1(encoder_1(x)),   q(z_l | z_(l-1)) = posterior_l(encoder_l(z_(l-1)))

Source: Burda, Grosse and Salakhutdinov (2016), section 3 (two layers of diagonal Gaussians).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae import families, random
from gvae.errors import ConfigError
from gvae.families import Conditional, Family
from gvae.objectives import Layer, Terms

__all__ = ["Hierarchical"]


class Hierarchical:
    """latents              : variables of z_1 .. z_L, from the data upwards
    hidden               : widths of each encoder's hidden layers, one sequence a layer; mirrored in the decoders
    posterior, prior     : families of q(z_l | .) and of p(z_l | z_(l+1)): one for all, or one a layer (a prior fewer)
    top                  : None for the standard p(z_L), else a family whose parameters are learned
    """

    pure = True

    def __init__(
        self,
        n_inputs: int,
        latents: Sequence[int] = (100, 50),
        hidden: Sequence[Sequence[int]] = ((200, 200), (100, 100)),
        posterior: str | Family | Sequence[str | Family] = "diagonal",
        prior: str | Family | Sequence[str | Family] = "diagonal",
        observation: str | Family = "bernoulli",
        top: str | Family | None = None,
        activation: str = "tanh",
        dtype: Any = np.float32,
    ):
        self.dtype = np.dtype(dtype)
        L = len(latents)
        if not L:
            raise ConfigError("Hierarchical: latents is empty, expected at least one layer")
        posteriors, priors = _each("posterior", posterior, L), _each("prior", prior, L - 1)
        hidden = _each("hidden", hidden, L)
        self.posteriors = [families.parse(family, n) for family, n in zip(posteriors, latents, strict=True)]
        emitted = [families.parse(observation, n_inputs)]
        emitted += [families.parse(family, n) for family, n in zip(priors, latents[:-1], strict=True)]
        self.top = None if top is None else families.parse(top, latents[-1])
        self.encoders = [
            Conditional(f"encoder{i + 1}", n, family, hidden[i], activation)
            for i, (n, family) in enumerate(zip((n_inputs, *latents[:-1]), self.posteriors, strict=True))
        ]
        self.decoders = [
            Conditional(f"decoder{i}", n, family, tuple(hidden[i])[::-1], activation)
            for i, (n, family) in enumerate(zip(latents, emitted, strict=True))
        ]

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        params: dict[str, np.ndarray] = {}
        for i, part in enumerate((*self.encoders, *self.decoders)):
            params |= part.init(random.fold_in(key, i), self.dtype)
        if self.top is not None:
            params["top.raw"] = self.top.start(random.fold_in(key, len(self.encoders) + len(self.decoders)), self.dtype)
        return params

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        shape = (samples, len(batch))
        return {
            f"z{i + 1}": family.noise(random.fold_in(key, i), shape, self.dtype, vars(batch).get("x"))
            for i, family in enumerate(self.posteriors)
        }

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: int = 0) -> Terms:
        z: list[Any] = [batch.x]  # z[l] is z_l, and z_0 is x
        q = []
        for i, encoder in enumerate(self.encoders):
            q.append(encoder(params, z[i]))
            z.append(q[i].sample(noise[f"z{i + 1}"]))
        x, *p = [decoder(params, above) for decoder, above in zip(self.decoders, z[1:], strict=True)]
        top = None if self.top is None else self.top(params["top.raw"])

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
        last = self.posteriors[-1]
        standard = last(np.zeros(last.n_params, self.dtype)).standard
        p: Any = standard if self.top is None else self.top(params["top.raw"])
        layers: list[Layer] = []
        for i in reversed(range(len(self.decoders))):  # from the top down
            z = p.sample(noise[f"z{i + 1}"])
            layers.insert(0, Layer(p, p, z, noise[f"z{i + 1}"]))
            p = self.decoders[i](params, z)
        return Terms({}, layers, views={"x": p})


def _each(name: str, value: Any, n: int) -> Sequence[Any]:
    """One value for each of n layers."""
    if isinstance(value, (str, Family)):
        return [value] * n
    if len(value) != n:
        raise ConfigError(f"Hierarchical: {name} has {len(value)} entries, expected one for each of {n}")
    return value
