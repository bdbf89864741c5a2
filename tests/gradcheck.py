"""Gradients against central differences: an inner product along a random direction, in float64 only."""

from __future__ import annotations

import numpy as np

from gvae.autodiff import vjp


def check_vjp(op, args, rng, h=1e-5, rtol=1e-6):
    """<y_bar, J v> by central differences equals <Jᵀ y_bar, v> by the tape, relative to the sum of absolute terms."""
    y, pull = vjp(op, *args)
    plain = np.asarray(op(*args))  # a recorded forward may take another path (it saves): the same value is owed
    np.testing.assert_allclose(y, plain, rtol=1e-12, atol=1e-12 * (1 + np.abs(plain).max(initial=0)))
    y_bar = rng.normal(size=np.shape(y))
    bars = pull(y_bar) if len(args) > 1 else (pull(y_bar),)
    directions = [rng.normal(size=a.shape) for a in args]

    def along(t):
        return op(*(a + t * v for a, v in zip(args, directions, strict=True)))

    # Richardson: the error of the difference falls from h² to h⁴
    coarse = np.sum(y_bar * (along(2 * h) - along(-2 * h))) / (4 * h)
    fine = np.sum(y_bar * (along(h) - along(-h))) / (2 * h)
    numeric = (4 * fine - coarse) / 3
    exact = sum(np.sum(bar * v) for bar, v in zip(bars, directions, strict=True))
    scale = 1 + np.abs(y_bar * y).sum() + sum(np.abs(bar * v).sum() for bar, v in zip(bars, directions, strict=True))
    assert abs(exact - numeric) <= rtol * scale, f"tape {exact!r}, differences {numeric!r}, scale {scale:.3g}"
