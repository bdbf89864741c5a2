"""A posterior for one row of the tables: a chain that links the variables in another order. Importing registers its name.

The k-th node of the chain is the variable order[k]. The networks' outputs and inputs are in the order of the variables, so
that training from a given seed begins with the networks, and with the q(z | x), of the row `chain` from that seed; what
differs is which variables the chain can make dependent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae import random
from gvae.distributions import BandedGaussian, Distribution
from gvae.families import FAMILIES, Cholesky, Located
from gvae.graphs import chain


class PermutedGaussian(Distribution):
    """z with z[order[k]] = y[k], y ~ base.   order: a permutation of 0 .. n-1"""

    reparameterized = True
    draw_noise = staticmethod(BandedGaussian.draw_noise)

    def __init__(self, base: BandedGaussian, order: np.ndarray):
        self.base, self.order, self.place = base, order, np.argsort(order)

    @property
    def n(self) -> int:
        return self.base.n

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return self.base._leads()

    def sample(self, noise: Any) -> Any:
        return self.base.sample(noise)[..., self.place]

    def log_prob(self, z: Any, reduce: bool = True) -> Any:
        return self.base.log_prob(z[..., self.order], reduce)

    def log_prob_of_draw(self, noise: Any, sample: Any) -> Any:
        return self.base.log_prob_of_draw(noise, sample[..., self.order])

    @property
    def mean(self) -> Any:
        return self.base.mean[..., self.place]

    def variance(self) -> Any:
        return self.base.variance()[..., self.place]

    def covariance(self) -> Any:
        return self.base.covariance()[..., self.place, :][..., self.place]

    def entropy(self) -> Any:
        return self.base.entropy()

    @property
    def standard(self) -> Distribution:
        return self.base.standard

    def kl(self, p: Distribution | None = None) -> Any:
        return self.base.kl() if p is None else None  # that of N(0, I) is the same in every order


class PermutedChain(Located):
    """permuted_chain:SEED, a chain in the order that the seed draws; parameters as for `chain`, means by variable."""

    distribution = PermutedGaussian

    def __init__(self, n: int, seed: int):
        self.chain = Cholesky(chain(n))
        super().__init__(n, self.chain.n_params)
        self.name, self.order = f"permuted_chain:{seed}", np.asarray(random.permutation(random.key(seed), n))

    def at(self, mean: Any, rest: Any) -> PermutedGaussian:
        return PermutedGaussian(self.chain.at(mean[..., self.order], rest), self.order)


FAMILIES["permuted_chain"] = lambda n, setting: PermutedChain(n, int(setting))
