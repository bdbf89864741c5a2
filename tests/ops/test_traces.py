"""Random probes of the trace: unbiased, with the variances that the formulas give."""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref
from numpy.testing import assert_array_equal

import gvae
from gvae import costs, models, objectives, ops, random
from gvae.autodiff import gradient
from gvae.data import Batch, Table
from gvae.distributions import BandedGaussian
from gvae.errors import ConfigError
from gvae.ops.traces import signs
from gvae.training import Trainer, train

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


# ---- as an option of the ELBO --------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["chain", "band:2", "grid:2x3", "extended_grid:2x3"])
def test_the_elbo_with_a_probed_trace_is_unbiased(posterior):
    """`elbo:trace=probe`: value and gradient are those of the exact trace in the mean over probes, within 5 standard errors;
    the value's variance is a quarter of the trace's, 2 (|A|² - sum A_jj²) with A = L⁻¹ L⁻ᵀ, for each row and draw."""
    model = models.VAE(4, 6, posterior, "bernoulli", (3,), dtype="float64")
    params = {n: v + 0.2 * np.random.default_rng(1).normal(size=v.shape) for n, v in model.init(random.key(0)).items()}
    K, x = 20_000, np.random.default_rng(2).integers(0, 2, size=(2, 4)).astype(np.float64)
    batch = Batch({"x": x}, np.arange(2))
    noise = model.noise(random.key(3), batch, K)
    terms = model.terms(params, {}, batch, noise)
    layer = terms.layers[0]
    error = layer.kl_by_probe - layer.kl
    root = np.linalg.inv(np.stack([ref.dense_factor(chol, layer.q.offsets) for chol in layer.q.chol]))
    A = root @ root.swapaxes(-1, -2)
    variance = 0.25 * 2 * ((A**2).sum(axis=(1, 2)) - (np.diagonal(A, axis1=1, axis2=2) ** 2).sum(axis=1))
    assert (np.abs(error.mean(axis=0)) < 5 * np.sqrt(variance / K)).all()
    assert (np.abs((error**2).mean(axis=0) - variance) < 5 * (error**2).std(axis=0) / np.sqrt(K)).all()
    value, metrics = objectives.parse("elbo:trace=probe")(terms)
    assert value == pytest.approx(terms.total_log_likelihood.mean() - layer.kl_by_probe.mean(), rel=1e-12)
    assert metrics["kl"] == pytest.approx(layer.kl_by_probe.mean(), rel=1e-12)

    slopes = []
    for k in range(30):
        draws = model.noise(random.key(10 + k), batch, 500)
        pair = [
            gradient(lambda p, o=text, n=draws: objectives.parse(o)(model.terms(p, {}, batch, n))[0], params)
            for text in ("elbo:trace=probe", "elbo")
        ]
        slopes.append(np.concatenate([(pair[0][n] - pair[1][n]).ravel() for n in params if n.startswith("encoder")]))
    mean, spread = np.mean(slopes, axis=0), np.std(slopes, axis=0, ddof=1) / np.sqrt(len(slopes))
    assert (np.abs(mean) < 5 * spread + 1e-12).all()
    assert spread.max() > 1e-4  # it is no exact trace


def test_signs_of_the_noise():
    noise = random.normal(random.key(0), (10_000, 3), np.float64)
    v = signs(noise)
    assert set(np.unique(v)) == {-1.0, 1.0}
    assert_array_equal(v > 0, noise >= 0)
    assert np.abs(v.T @ v / len(v) - np.eye(3)).max() < 0.05


def test_a_probe_beside_a_cost_and_where_it_is_refused():
    x = np.random.default_rng(2).integers(0, 2, size=(30, 4)).astype(np.float32)
    both = objectives.parse("elbo:beta=0.5,trace=probe")
    assert (both.cost, both.trace) == (costs.Beta(0.5), "probe")
    assert objectives.parse("elbo:trace=exact") == objectives.ELBO()
    row = (
        gvae.VAE(latent=3, objective="elbo:beta=0.5,trace=probe", hidden=(4,), epochs=2, random_state=0).fit(x).history_[-1]
    )
    assert row["train_objective"] > row["train_bound"]
    for settings, words in (
        (
            {"posterior": "diagonal"},
            r"trace=probe is for a banded posterior under N\(0, I\), such as .*; got DiagonalGaussian",
        ),
        ({"posterior": "full"}, "got DenseGaussian"),
        ({"posterior": "chain", "prior": "chain"}, r"under N\(0, I\)"),
        ({"objective": "elbo_a:trace=probe"}, "elbo_a:trace=probe': it samples all of the KL"),
        ({"objective": "elbo:trace=guess"}, "trace is 'guess', expected exact or probe"),
        ({"objective": "iwae:trace=probe"}, "elbo, elbo_a, elbo_b alone have"),
    ):
        with pytest.raises(ConfigError, match=words):
            gvae.VAE(**{"latent": 3, "objective": "elbo:trace=probe", "hidden": (4,), "epochs": 1} | settings).fit(x)


def test_steps_with_a_probe_are_captured():
    table = Table(np.random.default_rng(2).integers(0, 2, size=(60, 4)).astype(np.float32))
    found = []
    for programs in (True, False):
        model = models.VAE(4, 6, "extended_grid:2x3", "bernoulli", (3,))
        trainer = Trainer(model, objective=objectives.parse("elbo:trace=probe"), seed=1, programs=programs)
        train(model, table, epochs=2, batch_size=20, trainer=trainer)
        found.append(trainer)
    assert found[0].why_not == ""
    assert all(known.verified for known in found[0].programs.known.values())
    assert_array_equal(found[0].parameters.flat, found[1].parameters.flat)
