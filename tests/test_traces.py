"""Random probes of the trace: unbiased, with the variances that the formulas give."""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref

from gvae import ops, random
from gvae.distributions import BandedGaussian

OFFSETS, N, DRAWS = (0, 1, 3), 6, 200_000
r = np.random.default_rng(3)
CHOL = r.normal(size=(3, N)) * 0.4
CHOL[0] = r.uniform(0.8, 1.4, N)
ROOT = np.linalg.inv(ref.dense_factor(CHOL, OFFSETS))  # L⁻¹


@pytest.mark.parametrize("trans", [True, False])
@pytest.mark.parametrize("signs", [False, True])
def test_mean_and_variance_of_one_probe(trans, signs):
    """200,000 probes. The mean is within 5 standard errors, the variance within 5 of its own (from the fourth moment):
    four cases of two comparisons, a false alarm in 5e-6 of keys, and the keys are fixed."""
    probe = (random.rademacher if signs else random.normal)(random.key(1), (DRAWS, N), np.float64)
    estimate = ops.trace_probe_banded(CHOL, probe, offsets=OFFSETS, trans=trans)
    A = ROOT @ ROOT.T if trans else ROOT.T @ ROOT
    variance = 2 * (A**2).sum() - (2 * (np.diag(A) ** 2).sum() if signs else 0)
    trace = ops.trace_inverse_banded(CHOL, offsets=OFFSETS)
    assert trace == pytest.approx(np.trace(A), rel=1e-12)
    e = estimate - trace
    assert abs(e.mean()) < 5 * np.sqrt(variance / DRAWS)
    assert abs((e**2).mean() - variance) < 5 * (e**2).std() / np.sqrt(DRAWS)


def test_the_free_probe_is_the_sampling_noise():
    eps = random.normal(random.key(2), (50, N), np.float64)
    z = ops.sample_banded(np.zeros(N), CHOL, eps, offsets=OFFSETS)
    np.testing.assert_allclose((z**2).sum(axis=-1), ops.trace_probe_banded(CHOL, eps, offsets=OFFSETS), rtol=1e-13)


def test_the_free_probe_lies_between_the_estimators():
    """With 1/2 |z - mu|² for 1/2 tr C, a draw's KL is estimator A's but for mu'(z - mu) + 1/2 (n - |eps|²), which have mean
    zero, and B's but for the probe's error: it is the estimate of E log p(z) alone by the draw."""
    mu = np.random.default_rng(0).normal(size=N)
    q = BandedGaussian(mu, CHOL, OFFSETS)
    eps = q.noise(random.key(3), (50,))
    z = q.sample(eps)
    probe = ops.trace_probe_banded(CHOL, eps, offsets=OFFSETS)
    free = q.kl() + 0.5 * (probe - ops.trace_inverse_banded(CHOL, offsets=OFFSETS))
    a = q.log_prob(z) - q.standard.log_prob(z)
    np.testing.assert_allclose(a - free, (z - mu) @ mu + 0.5 * (N - (eps**2).sum(axis=1)), rtol=1e-10, atol=1e-12)


def test_signs_have_no_variance_on_a_diagonal():
    signs = random.rademacher(random.key(5), (20, N), np.float64)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    estimate = ops.trace_probe_banded(CHOL[:1], signs, offsets=(0,))
    np.testing.assert_allclose(estimate, ops.trace_inverse_banded(CHOL[:1], offsets=(0,)), rtol=1e-13)
