"""The product of two Gaussian densities: against dense matrices, by quadrature, limits, derivatives, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate

from gvae import autodiff, ops
from gvae.distributions import (
    AR1Gaussian,
    BandedGaussian,
    BernoulliDistribution,
    DenseGaussian,
    DiagonalGaussian,
    LowRankGaussian,
    product,
)
from gvae.errors import ConfigError, NotPositiveDefiniteError, ShapeError

rng = np.random.default_rng(0)
N = 6


def diagonal(*lead):
    return DiagonalGaussian(rng.normal(size=(*lead, N)), 0.5 * rng.normal(size=(*lead, N)))


def band(M, *lead):
    chol = 0.4 * rng.normal(size=(*lead, M, N))
    chol[..., 0, :] = rng.uniform(0.7, 2.0, size=(*lead, N))
    return BandedGaussian(rng.normal(size=(*lead, N)), chol)


def ar1(*lead):
    return AR1Gaussian(rng.normal(size=(*lead, N)), np.full(lead, 1.3), np.full(lead, 0.6))


def dense(q, p):
    """(mean, covariance) by dense matrices."""
    precisions = [np.linalg.inv(d.covariance()) for d in (q, p)]
    covariance = np.linalg.inv(precisions[0] + precisions[1])
    means = [(a @ d.mean[..., None]) for a, d in zip(precisions, (q, p), strict=True)]
    return (covariance @ (means[0] + means[1]))[..., 0], covariance


@pytest.mark.parametrize(
    ("q", "p", "width"),
    [
        (diagonal(3), diagonal(3), 0),
        (diagonal(3), diagonal(), 0),
        (band(2, 3), band(2, 3), 2),
        (band(2, 3), band(4), 4),
        (band(3), band(2, 2, 5), 3),
        (band(2, 4), diagonal(4), 2),
        (diagonal(), band(N), N),
        (ar1(3), band(3, 3), 3),
        (ar1(), ar1(), 2),
    ],
)
def test_it_is_the_dense_product(q, p, width):
    for first, second in ((q, p), (p, q)):
        merged = product(first, second)
        mean, covariance = dense(q, p)
        assert isinstance(merged, DiagonalGaussian if width == 0 else BandedGaussian)
        assert width == 0 or merged.chol.shape[-2] == width
        assert_allclose(np.broadcast_to(merged.mean, mean.shape), mean, rtol=1e-10, atol=1e-12)
        found = merged.covariance()
        assert_allclose(np.broadcast_to(found, covariance.shape), covariance, rtol=1e-10, atol=1e-12)
    x = rng.normal(size=(2, *mean.shape))  # log q + log p differ from it by a constant
    difference = q.log_prob(x) + p.log_prob(x) - merged.log_prob(x)
    assert_allclose(difference[0], difference[1], rtol=1e-9)


def test_by_quadrature():
    q = DiagonalGaussian(np.array([1.0]), 0.5 * np.log([0.2]))
    p = DiagonalGaussian(np.array([0.0]), 0.5 * np.log([0.7]))

    def moment(f):
        return integrate.quad(
            lambda x: f(x) * math.exp(float(q.log_prob(np.array([x])) + p.log_prob(np.array([x])))), -6, 6
        )[0]

    total = moment(lambda x: 1)
    mean = moment(lambda x: x) / total
    variance = moment(lambda x: (x - mean) ** 2) / total
    for merged in (product(q, p), product(q.banded(), p.banded())):
        assert_allclose(merged.mean[0], mean, rtol=1e-9)
        assert_allclose(merged.variance()[0], variance, rtol=1e-8)
    assert round(variance, 5) == 0.15556


@pytest.mark.parametrize("scale", [20.0, 300.0])
def test_a_flat_density_changes_nothing(scale):
    q, flat = diagonal(3), DiagonalGaussian(np.full((3, N), 5.0), np.full((3, N), scale))
    for merged in (product(q, flat), product(flat, q)):
        assert_allclose(merged.mean, q.mean, rtol=1e-12, atol=1e-12)
        assert_allclose(merged.log_scale, q.log_scale, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("M", [1, 2, 3])
def test_gradients(M):
    q, p = band(M, 2), band(2)
    noise, weight = rng.normal(size=(2, N)), rng.normal(size=(2, N))

    def f(arguments):
        merged = product(BandedGaussian(arguments[0], arguments[1]), BandedGaussian(arguments[2], arguments[3]))
        return ops.sum(merged.sample(noise) * weight) + ops.sum(merged.kl(q))

    def g(arguments):
        merged = product(DiagonalGaussian(*arguments[:2]), DiagonalGaussian(*arguments[2:]))
        return ops.sum(merged.sample(noise) * weight) + ops.sum(merged.kl())

    d = diagonal(2)
    for function, start in (
        (f, [q.mean, q.chol, p.mean, p.chol]),
        (g, [d.mean, d.log_scale, d.mean[0] + 1, d.log_scale[1]]),
    ):
        way = [rng.normal(size=x.shape) for x in start]
        bars = autodiff.gradient(lambda *x, function=function: function(x), *start)
        slope = sum((bar * w).sum() for bar, w in zip(bars, way, strict=True))
        ends = [function([x + h * w for x, w in zip(start, way, strict=True)]) for h in (1e-5, -1e-5)]
        assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


def test_precision():
    for q, p in ((diagonal(3), diagonal(3)), (band(2, 3), band(3))):

        def low(d):
            cast = [
                np.asarray(x, np.float32)
                for x in ((d.mean, d.log_scale) if isinstance(d, DiagonalGaussian) else (d.mean, d.chol))
            ]
            return type(d)(*cast)

        merged, exact = product(low(q), low(p)), product(q, p)
        assert merged.mean.dtype == np.float32
        assert_allclose(merged.mean, exact.mean, rtol=1e-4, atol=1e-5)
        assert_allclose(merged.variance(), exact.variance(), rtol=1e-4)


def test_refusals():
    grid = BandedGaussian(np.zeros(N), np.ones((3, N)), (0, 1, 3))
    for q, p in ((grid, grid), (diagonal(), grid), (grid, band(2))):
        with pytest.raises(ConfigError, match=r"product: the factor of a BandedGaussian has the diagonals \(0, 1, 3\), and"):
            product(q, p)
    full, low = DenseGaussian(np.zeros(N), np.eye(N)), LowRankGaussian(np.zeros(N), np.ones(N), np.ones((1, N)))
    for other in (full, low, BernoulliDistribution(np.zeros(N))):
        with pytest.raises(ConfigError, match=f"product: {type(other).__name__} has no product of its kind"):
            product(diagonal(), other)
    with pytest.raises(ShapeError, match="product: q has 6 variables and p has 2"):
        product(diagonal(), DiagonalGaussian(np.zeros(2), np.zeros(2)))
    broken = BandedGaussian(np.zeros(N), np.full((1, N), np.nan))
    with pytest.raises(NotPositiveDefiniteError):
        product(broken, band(2))
