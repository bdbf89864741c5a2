"""The series of `gvae demo`: the exact answers against conditioning of the joint Gaussian, and what the posteriors reach."""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref
from matplotlib.image import imread
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

from gvae import blas, data, demo, objectives, plots, random

n, rho, noise = 32, 0.95, 0.3
seen = [*range(11), *range(21, 32)]
prior = ref.covariance_ar1(1.0, rho, n)  # of z
cross = prior[:, seen]  # of z and x
marginal = prior[np.ix_(seen, seen)] + noise**2 * np.eye(22)  # of x
mean_of = cross @ np.linalg.inv(marginal)  # of x -> of z given x
covariance = prior - mean_of @ cross.T  # of z given x: the Schur complement
least = 0.5 * (np.log(np.diag(np.linalg.inv(covariance))).sum() + np.linalg.slogdet(covariance)[1])
x = demo.draw(500, seed=10)


@pytest.fixture(scope="module")
def fitted():
    """Model and parameters by posterior, after half of the steps."""
    with blas.threads(1):
        return {name: demo.fit(posterior, 0, steps=500) for name, posterior in demo.SHARED.items()}


def test_the_series_are_those_of_the_model():
    """A false alarm once in 10⁶ runs, and the seed is fixed: an entry of the covariance lies within 6 standard errors."""
    many = demo.draw(20_000, seed=11).astype(np.float64)
    scale = np.sqrt((np.outer(np.diag(marginal), np.diag(marginal)) + marginal**2) / len(many))
    assert np.abs((many.T @ many / len(many) - marginal) / scale).max() < 6
    assert_array_equal(demo.draw(3, seed=5), demo.draw(3, seed=5))
    assert (demo.draw(3, seed=5) != demo.draw(3, seed=6)).all()


def test_exact_log_p():
    assert_allclose(demo.log_prob(x), multivariate_normal(np.zeros(22), marginal).logpdf(x), rtol=1e-10)


def test_exact_posterior():
    """By conditioning, and by log p(x) = log p(z, x) - log p(z | x) at any z."""
    mean, found = demo.exact(x[0])
    assert_allclose(mean, mean_of @ x[0], atol=1e-10)
    assert_allclose(found, covariance, atol=1e-10)
    z = np.linspace(-1, 1, n)
    joint = multivariate_normal(np.zeros(n), prior).logpdf(z) + multivariate_normal(z[seen], noise**2).logpdf(x[0])
    assert joint - multivariate_normal(mean, found).logpdf(z) == pytest.approx(demo.log_prob(x[:1])[0], rel=1e-9)


def test_least_loss():
    """The KL of the diagonal posterior with the precisions Q_jj, which grows with every change of a variance."""

    def loss(variance):
        return ref.gaussian_kl(np.zeros(n), np.diag(variance), np.zeros(n), covariance)

    best = 1 / np.diag(np.linalg.inv(covariance))
    for found in (least, demo.LEAST["diagonal"]):
        assert found == pytest.approx(loss(best), rel=1e-9)
    assert demo.LEAST["chain"] == 0
    for j in range(n):
        for factor in (0.98, 1.02):
            assert loss(np.where(np.arange(n) == j, factor * best, best)) > loss(best)


@pytest.mark.parametrize("name", ["chain", "diagonal"])
def test_elbo(fitted, name):
    """It is log p(x) - KL(q ‖ p(z | x)), and what the objective of training estimates."""
    model, params = fitted[name]
    rows, batch = x[:5], data.Batch({"x": x[:5]}, np.arange(5))
    q = model.posterior(params, rows)
    elbo = model.elbo(params, rows)
    kl = [ref.gaussian_kl(q.mean[i], q.covariance(), mean_of @ rows[i], covariance) for i in range(5)]
    assert_allclose(elbo, demo.log_prob(rows) - kl, atol=1e-4)
    terms = model.terms(params, {}, batch, model.noise(random.key(0), batch, samples=4000))
    error = terms.log_likelihood["x"].mean(axis=1).std() / np.sqrt(4000)
    assert objectives.ELBO()(terms)[0] == pytest.approx(elbo.mean(), abs=6 * error)
    assert error < 0.1


def losses(fitted, name):
    model, params = fitted[name]
    return demo.log_prob(x) - model.elbo(params, x)


def test_the_chain_reaches_the_exact_posterior(fitted):
    model, params = fitted["chain"]
    loss = losses(fitted, "chain")
    assert loss.min() > -1e-4
    assert loss.mean() < 0.2
    q = model.posterior(params, x)
    assert_allclose(np.sqrt(q.variance()), np.sqrt(np.diag(covariance)), rtol=0.1)
    assert np.sqrt(((q.mean - x @ mean_of.T) ** 2).mean()) < 0.05


def test_a_diagonal_posterior_does_not(fitted):
    model, params = fitted["diagonal"]
    loss = losses(fitted, "diagonal")
    assert loss.min() > least - 1e-4
    assert losses(fitted, "chain").mean() + 3 < loss.mean() < least + 0.2
    variance = model.posterior(params, x).variance()
    assert (variance[11:21] < 0.4 * np.diag(covariance)[11:21]).all()


def test_table_and_picture(tmp_path, monkeypatch):
    """The command itself is run by test_cli.py."""
    figures, write, lines = [], plots.write_figure, []
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: (figures.append(figure), write(figure, path)))
    with blas.threads(1):
        rows, picture = demo._series(tmp_path, lambda *more: lines.extend(more), steps=100)
    assert [row["posterior"] for row in rows] == ["exact", "chain", "diagonal"]
    exact, chain, diagonal = rows  # the mean of log p(x) over 1000 series has a standard error of 0.105
    assert exact["elbo"] == pytest.approx(-0.5 * (np.linalg.slogdet(marginal)[1] + 22 * (1 + np.log(2 * np.pi))), abs=0.7)
    for row in (chain, diagonal):
        assert row["elbo"] == exact["elbo"] - row["loss"]
        assert row["loss"] > row["least"]
        assert 0 < row["spread"] < 1
        assert any(f"{row['loss']:.4f} +- {row['spread']:.4f}" in line for line in lines)
    assert max(map(len, lines)) <= 96

    assert picture == tmp_path / "series.png"
    pixels = imread(picture)[..., :3]
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert pixels.std() > 0.05
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes] == ["exact", "chain", "diagonal"]
    one = demo.draw(demo.ROWS[1], seed=3)[0]
    for axis in axes:
        *draws, mean, points = axis.lines
        assert len(draws) == 4
        assert_array_equal(points.get_xydata(), np.stack([seen, one], axis=1))
        (band,) = axis.collections
        low, high = (
            np.array([f(v for at, v in band.get_paths()[0].vertices if at == j) for j in range(n)]) for f in (min, max)
        )
        assert_allclose((low + high) / 2, mean.get_ydata(), atol=1e-5)
        if axis is axes[0]:
            assert_allclose(mean.get_ydata(), mean_of @ one, atol=1e-6)
            assert_allclose(high - low, 4 * np.sqrt(np.diag(covariance)), rtol=1e-6)
            root = np.linalg.inv(np.linalg.cholesky(np.linalg.inv(covariance))).T
            eps = np.random.default_rng(0).normal(size=(4, n))
            assert_allclose([line.get_ydata() for line in draws], mean_of @ one + eps @ root.T, atol=1e-5)
