"""Layers of units of one kind with weights between them, for one side of a matrix of counts: its rows, or its columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import ops, random
from gvae.autodiff import value_of
from gvae.distributions import (
    BernoulliDistribution,
    DiagonalGaussian,
    Distribution,
    GammaDistribution,
    PoissonDistribution,
)
from gvae.models.matrices import Matrix
from gvae.ops import arrays, elementwise
from gvae.runtime import device
from gvae.typing import Array, Key

__all__ = ["KINDS", "Kind", "Stack"]

LEAST = 1e-12  # added to means: finite where all units above are 0 in floating point


def _filled(size: Any, value: float, like: Array) -> Any:
    """An array of one value, in the dtype and on the device of another one."""
    like = value_of(like)
    return device.namespace(like).full(size, value, like.dtype)


def _log(u: Any) -> Any:
    return elementwise.log(u + LEAST)


def _gamma(u: Any, shape: float) -> Distribution:
    return GammaDistribution(_filled(u.shape[-1], math.log(shape), u), _log(u), log=True)


def _bits(u: Any, shape: float) -> Distribution:
    return BernoulliDistribution(u)


def _counts(u: Any, shape: float) -> Distribution:
    return PoissonDistribution(_log(u))


@dataclass(frozen=True)
class Kind:
    """A kind of units.

    given(u, shape) : p(z | u), where u = W z of the layer above     family : of q(z)
    normal : whether weights are normal by default, else gamma       gamma_weights : the family of q of the latter
    positive : whether u must be above 0                             zeros : whether all units may be 0
    """

    given: Callable[[Any, float], Distribution]
    family: str
    gamma_weights: str = "log_gamma"
    normal: bool = False
    positive: bool = True
    zeros: bool = True


KINDS = {
    "gamma": Kind(_gamma, "log_gamma", zeros=False),
    "gamma:score": Kind(_gamma, "log_gamma:score", "log_gamma:score", zeros=False),
    "sigmoid": Kind(_bits, "bernoulli", normal=True, positive=False),
    "poisson": Kind(_counts, "poisson"),
}


class Stack:
    """Layers of units z_1, .., z_L and the weights between them: u_l = W_l z_(l+1).

    Where all units may be 0, one that is always 1 joins each layer, and stands above the top.

    Parameters
    ----------
    name : str
        The matrices are NAMEweights1, ..
    latent : sequence of int
        The number of units of each layer.
    chosen : Settings
        Settings like those of `gvae.DEF`.
    """

    def __init__(self, name: str, latent: Sequence[int], chosen: Any):
        self.latent, self.chosen, self.kind = tuple(latent), chosen, KINDS[chosen.kind]
        self.normal = self.kind.normal if chosen.weights is None else chosen.weights == "normal"
        family, one = "diagonal" if self.normal else self.kind.gamma_weights, int(self.kind.zeros)
        inputs = [n + one for n in self.latent[1:]] + [1] * one
        self.weights = [
            Matrix(f"{name}weights{l}", shape, family) for l, shape in enumerate(zip(self.latent, inputs, strict=False), 1)
        ]

    def init(self, key: Key, dtype: DTypeLike) -> dict[str, np.ndarray]:
        """Initial parameters of the weights: units of mean one have inputs of mean one."""
        found: dict[str, np.ndarray] = {}
        for i, w in enumerate(self.weights):
            found |= w.init(random.fold_in(key, i), dtype, 0.0 if self.normal else 1 / w.shape[1], spread=0.5)
        return found

    def with_one(self, z: Any) -> Any:
        """The values (.., n) of a layer, with the unit that is always 1 in front if there is one."""
        return arrays.concatenate([_filled((*z.shape[:-1], 1), 1.0, z), z], axis=-1) if self.kind.zeros else z

    def prior(self, l: int, values: Sequence[Any], weights: Sequence[Any], like: Array) -> Distribution:
        """p(z_l | z_(l+1)) of layer l = 1 .. L, from the values of the layers, z_1 first, and W_1, W_2, ..

        like : an array of the dtype and on the device of the result
        """
        if l < len(self.latent):
            u = ops.matmul(self.with_one(values[l]), arrays.swapaxes(weights[l - 1], axis1=-1, axis2=-2))
        elif self.kind.zeros:
            u = weights[l - 1][..., 0]
            u = u[..., None, :] if len(u.shape) == 2 else u  # (K, 1, n): the same for each row
        else:
            return self.kind.given(_filled(self.latent[-1], self.chosen.top_mean, like), self.chosen.shape)
        return self.kind.given(elementwise.softplus(u) if self.normal and self.kind.positive else u, self.chosen.shape)

    def prior_of_weights(self, w: Matrix, like: Array) -> Distribution:
        """The prior of the entries of a matrix of weights, normal or gamma as its posterior is."""
        n = w.family.n
        if issubclass(w.family.distribution, DiagonalGaussian):
            return DiagonalGaussian(_filled(n, 0.0, like), _filled(n, math.log(self.chosen.weight_scale), like))
        log_shape, log_mean = math.log(self.chosen.weight_shape), math.log(self.chosen.weight_mean)
        return GammaDistribution(_filled(n, log_shape, like), _filled(n, log_mean, like), log=True)
