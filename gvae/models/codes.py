"""Models whose codes are independent given the data: q(z_1, z_2, .. | data) = q_1(z_1 | .) q_2(z_2 | .) ..., p(z) likewise.

A subclass makes its parts in `build`: `coded`, the codes by name, and what its `decode` consists of. Initial parameters,
priors, noise, terms, draws from the model and unconstrained parameters are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.costs import Cost
from gvae.distributions import Distribution
from gvae.families import Conditional, Family
from gvae.models.base import Base
from gvae.objectives import Layer, Terms

__all__ = ["Code", "Codes"]


@dataclass
class Code:
    """A code: its encoder, the column that it reads, and its prior (None: the standard one of the posterior's family)."""

    encoder: Conditional
    reads: str = "x"
    prior: Family | None = None

    @property
    def prior_name(self) -> str:
        """Of the prior's parameters: that of the encoder with another word."""
        return self.encoder.name.replace("encoder", "prior") + ".raw"

    def p(self, params: Any) -> Distribution | None:
        """p(z); None for the standard one."""
        return None if self.prior is None else self.prior(params[self.prior_name])


class Codes(Base):
    """See above.   coded : the codes by name      decoders : the networks of `decode`, which `init` begins as they say

    code_cost : what codes cost where it is not their KL, see gvae.costs
    """

    coded: Mapping[str, Code]
    decoders: tuple[Conditional, ...]
    code_cost: Cost | None = None

    @property
    def codes(self) -> Mapping[str, int]:
        return {name: code.encoder.family.n for name, code in self.coded.items()}

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        parts = (*(code.encoder for code in self.coded.values()), *self.decoders)
        params = {n: v for i, part in enumerate(parts) for n, v in part.init(random.fold_in(key, i), self.dtype).items()}
        for i, code in enumerate(self.coded.values(), len(parts)):
            if code.prior is not None:
                params[code.prior_name] = code.prior.start(random.fold_in(key, i), self.dtype)
        return params

    def prior_of(self, params: Any, name: str | None = None) -> Distribution:
        """p of a code, by default of the first."""
        code = self.coded[next(iter(self.coded)) if name is None else name]
        family = code.encoder.family
        p = code.p(params)
        return family(np.zeros(family.n_params, self.dtype)).standard if p is None else p

    def sample_prior(self, params: Any, key: np.ndarray, n: int) -> dict[str, Any]:
        """n draws of each code, (n, variables)."""
        drawn = {}
        for name, own in self._keys(key).items():
            p = self.prior_of(params, name)
            drawn[name] = p.sample(p.noise(own, (n,)))
        return drawn

    @property
    def has_closed_kl(self) -> bool:
        """Whether KL(q ‖ p) has a closed form for every code; where it has none, the ELBO estimates it by sampling."""

        def standing(family: Family) -> Distribution:
            return family(np.zeros(family.n_params, self.dtype))

        codes = self.coded.values()
        return all(standing(c.encoder.family).kl(None if c.prior is None else standing(c.prior)) is not None for c in codes)

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        shape, like = (samples, len(batch)), vars(batch).get("x")
        keys = self._keys(key)
        return {name: code.encoder.family.noise(keys[name], shape, self.dtype, like) for name, code in self.coded.items()}

    def _keys(self, key: np.ndarray) -> dict[str, np.ndarray]:
        """A key for each code; a code alone has the whole one."""
        if len(self.coded) == 1:
            return dict.fromkeys(self.coded, key)
        return {name: random.fold_in(key, i) for i, name in enumerate(self.coded)}

    def encode(self, params: Any, name: str, batch: Any, noise: Any, step: Any) -> Distribution:
        """q of a code. A subclass may change what the encoder reads."""
        code = self.coded[name]
        return code.encoder(params, getattr(batch, code.reads))

    def code(self, params: Any, state: Any, batch: Any) -> dict[str, Distribution]:
        """q of each code whose column is there."""
        there = vars(batch)
        found = {name: code for name, code in self.coded.items() if code.reads in there}
        return {name: code.encoder(params, there[code.reads]) for name, code in found.items()}

    def decode(self, params: Any, state: Any, z: Mapping[str, Any], noise: Any = None) -> dict[str, Distribution]:
        """p(view | codes), by view."""
        raise NotImplementedError

    def likelihood(self, views: Mapping[str, Distribution], batch: Any) -> dict[str, Any]:
        """log p(view | codes) of each view, (K, B)."""
        return {name: p.log_prob(getattr(batch, name)) for name, p in views.items()}

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: Any = None) -> Terms:
        q: dict[str, Distribution] = {}
        z: dict[str, Any] = {}
        for name in self.coded:
            q[name] = self.encode(params, name, batch, noise, step)
            z[name] = q[name].sample(noise[name])
        views = self.decode(params, state, z, noise)
        layers = [
            Layer(q[name], code.p(params), z[name], noise[name], again=self._again(params, name, batch, noise, step))
            for name, code in self.coded.items()
        ]
        inference = tuple(code.encoder.name for code in self.coded.values())
        about: dict[str, Any] = {"inference": inference, "conditional": self.conditional, "cost": self.code_cost}
        return Terms(self.likelihood(views, batch), layers, views=views, **about)

    def _again(self, params: Any, name: str, batch: Any, noise: Any, step: Any) -> Any:
        """See Layer; a code alone needs none."""
        if len(self.coded) == 1:
            return None
        return lambda f, g: self.encode(f(params), name, batch, noise, step)

    def generate(self, params: Any, state: Any, noise: Any) -> Terms:
        p = {name: self.prior_of(params, name) for name in self.coded}
        z = {name: p[name].sample(noise[name]) for name in p}
        return Terms({}, [Layer(p[n], p[n], z[n], noise[n]) for n in p], views=self.decode(params, state, z, noise))

    def raw(self, params: Any, state: Any, batch: Any) -> dict[str, np.ndarray]:
        parts = self.coded.values()
        return {f"{code.encoder.name}.raw": code.encoder.raw(params, getattr(batch, code.reads)) for code in parts}
