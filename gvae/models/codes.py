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
from gvae.models.corruption import Corruption
from gvae.nn import Tower
from gvae.objectives import Layer, Terms, total

__all__ = ["Code", "Codes"]


@dataclass
class Code:
    """A code: its encoder, what it reads, and its prior (None: the standard one of the posterior's family).

    reads : a column of the data by its name, or a level of the model's tower by its number
    """

    encoder: Conditional
    reads: str | int = "x"
    prior: Family | None = None

    @property
    def prior_name(self) -> str:
        """Of the prior's parameters: that of the encoder with another word."""
        return self.encoder.name.replace("encoder", "prior") + ".raw"

    def of(self, seen: Mapping[str | int, Any], batch: Any) -> Any:
        """What it reads, of `Codes.read`. DataError, by the batch, for a column that is not there."""
        return seen[self.reads] if self.reads in seen else getattr(batch, str(self.reads))

    def p(self, params: Any) -> Distribution | None:
        """p(z); None for the standard one."""
        return None if self.prior is None else self.prior(params[self.prior_name])


class Codes(Base):
    """See above.

    coded      : the codes by name       decoders : the networks of `decode`, which `init` begins as they say
    tower      : features of x at several levels, which codes may read
    corruption : of the x that encoders read in training steps
    code_cost  : what codes cost where it is not their KL, see gvae.costs
    """

    coded: Mapping[str, Code]
    decoders: tuple[Any, ...]
    tower: Tower | None = None
    corruption: Corruption | None = None
    code_cost: Cost | None = None

    @property
    def codes(self) -> Mapping[str, int]:
        return {name: code.encoder.family.n for name, code in self.coded.items()}

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        trunk = () if self.tower is None else (self.tower,)
        parts = (*(code.encoder for code in self.coded.values()), *self.decoders, *trunk)
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
        drawn = {name: code.encoder.family.noise(keys[name], shape, self.dtype, like) for name, code in self.coded.items()}
        if self.corruption is not None:
            own = random.fold_in(key, len(self.coded))
            drawn["corruption"] = self.corruption.noise(own, (samples, *batch.x.shape), self.dtype, like)
        return drawn

    def _keys(self, key: np.ndarray) -> dict[str, np.ndarray]:
        """A key for each code; a code alone has the whole one."""
        if len(self.coded) == 1:
            return dict.fromkeys(self.coded, key)
        return {name: random.fold_in(key, i) for i, name in enumerate(self.coded)}

    def read(self, params: Any, batch: Any, noise: Any = None, step: Any = None) -> dict[str | int, Any]:
        """What encoders read: the columns by name, x corrupted in training steps, and the tower's features by level."""
        found: dict[str | int, Any] = dict(vars(batch))
        if self.corruption is not None and step is not None:
            found["x"] = self.corruption(batch.x, noise["corruption"], step)
        if self.tower is not None:
            found |= enumerate(self.tower(params, found["x"]))
        return found

    def encode(self, params: Any, name: str, seen: Mapping[str | int, Any], batch: Any) -> Distribution:
        """q of a code, from what `read` returned."""
        code = self.coded[name]
        return code.encoder(params, code.of(seen, batch))

    def code(self, params: Any, state: Any, batch: Any) -> dict[str, Distribution]:
        """q of each code whose column is there."""
        there = self.read(params, batch)
        return {name: self.encode(params, name, there, batch) for name, code in self.coded.items() if code.reads in there}

    def decode(self, params: Any, state: Any, z: Mapping[str, Any], noise: Any = None) -> dict[str, Distribution]:
        """p(view | codes), by view."""
        raise NotImplementedError

    def likelihood(self, views: Mapping[str, Distribution], batch: Any) -> dict[str, Any]:
        """log p(view | codes) of each view, (K, B)."""
        return {name: p.log_prob(getattr(batch, name)) for name, p in views.items()}

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: Any = None) -> Terms:
        seen = self.read(params, batch, noise, step)
        q: dict[str, Distribution] = {}
        z: dict[str, Any] = {}
        for name in self.coded:
            q[name] = self.encode(params, name, seen, batch)
            z[name] = q[name].sample(noise[name])
        views = self.decode(params, state, z, noise)
        layers = [
            Layer(q[name], code.p(params), z[name], noise[name], again=self._again(params, name, batch, noise, step))
            for name, code in self.coded.items()
        ]
        inference = tuple(code.encoder.name for code in self.coded.values())
        inference += () if self.tower is None else (self.tower.name,)
        likelihood = self.likelihood(views, batch)
        about: dict[str, Any] = {"inference": inference, "conditional": self.conditional, "cost": self.code_cost}
        if self.conditional:  # z is drawn from a part of the model, and the weight of a draw is p(y|z)
            about["weights"] = total(likelihood)

        def likelihood_at(draws: list[Any]) -> Any:
            moved = self.decode(params, state, dict(zip(self.coded, draws, strict=True)), noise)
            return total(self.likelihood(moved, batch))

        about["likelihood_at"] = likelihood_at
        return Terms(likelihood, layers, views=views, **about)

    def _again(self, params: Any, name: str, batch: Any, noise: Any, step: Any) -> Any:
        """See Layer; a code alone needs none."""
        if len(self.coded) == 1:
            return None

        def again(f: Any, g: Any) -> Distribution:
            own = f(params)
            return self.encode(own, name, self.read(own, batch, noise, step), batch)

        return again

    def generate(self, params: Any, state: Any, noise: Any) -> Terms:
        p = {name: self.prior_of(params, name) for name in self.coded}
        z = {name: p[name].sample(noise[name]) for name in p}
        return Terms({}, [Layer(p[n], p[n], z[n], noise[n]) for n in p], views=self.decode(params, state, z, noise))

    def raw(self, params: Any, state: Any, batch: Any) -> dict[str, np.ndarray]:
        seen = self.read(params, batch)
        return {f"{c.encoder.name}.raw": c.encoder.raw(params, c.of(seen, batch)) for c in self.coded.values()}
