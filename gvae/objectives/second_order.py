"""Gradients of a Gaussian expectation by derivatives of its integrand: the first route of Rezende et al. (2014)."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae.autodiff import HESSIAN_MOST, gradient, hessian, stop_gradient, value_of
from gvae.errors import ConfigError
from gvae.objectives.terms import Terms
from gvae.ops import arrays

__all__ = ["HESSIAN", "likelihood_by_hessian"]

HESSIAN = "hessian"  # the name of this gradient


def likelihood_by_hessian(terms: Terms) -> Any:
    """log p(views | z), (K, B), whose derivatives with respect to q are those of E grad f and 1/2 E Hess f; see ELBO.

    With a draw mean + R eps, C = R Rᵀ is sum_i r_i r_iᵀ over the columns r_i of R, so that sum_ij H_ij dC_ij is the
    derivative of sum_i r_iᵀ H r_i.
    """
    drawn = [layer for layer in terms.layers if layer.z is not None]
    if terms.joint:
        raise ConfigError(
            "gradient 'hessian': it takes the likelihood of a row for a function of its own codes, but in a step of this "
            "model it depends on those of all rows, by batch normalisation: expected 'reparameterized'"
        )
    if terms.likelihood_at is None:
        raise ConfigError("gradient 'hessian': the model's Terms have no `likelihood_at`, see gvae.objectives.Terms")
    for layer in drawn:
        if not layer.q.affine or layer.coupled or layer.noise is None or layer.share is not None:
            raise ConfigError(f"gradient 'hessian': it is for Gaussian codes, each inferred from the data; got {layer.q!r}")
        if layer.q.n > HESSIAN_MOST:
            raise ConfigError(f"gradient 'hessian': a code has {layer.q.n} variables, expected at most {HESSIAN_MOST}")
        if layer.z.dtype != np.float64:
            raise ConfigError(f"gradient 'hessian': the codes are {layer.z.dtype}, expected float64: dtype='float64'")
    at = [stop_gradient(layer.z) for layer in drawn]
    value = terms.likelihood_at(at)
    for i, layer in enumerate(drawn):
        q, z = layer.q, value_of(layer.z)

        def f(moved: Any, i: int = i) -> Any:
            return terms.likelihood_at([*at[:i], moved, *at[i + 1 :]])  # type: ignore[misc]

        slope, H = gradient(lambda moved: f(moved).sum(), z), hessian(f, z)
        (K, B, n), lead = z.shape, q.batch_shape  # which is (B,), or (K, B) where each draw has a q of its own
        columns = q.sample(np.eye(n).reshape(n, *(1,) * len(lead), n)) - q.mean  # r_i: (n, *lead, n)
        columns = arrays.reshape(columns, shape=(n, *(1,) * (2 - len(lead)), *lead, n))
        curved = arrays.reshape(columns[..., None, :] @ H[None], shape=(n, K, B, n)) * columns
        along = arrays.sum(q.mean * slope, axis=-1) + 0.5 * arrays.sum(arrays.sum(curved, axis=-1), axis=0)
        value = value + along - stop_gradient(along)
    return value
