"""EoNADE: one network for all orders, against loops and by enumeration of orders and positions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from gradcheck import check_vjp
from run_cases import kept_and_captured
from scipy import stats

import gvae
from gvae import models, random
from gvae.data import Batch
from gvae.errors import ConfigError, DataError

D = 4
X = np.array(list(itertools.product((0.0, 1.0), repeat=D)))
BATCH = Batch({"x": X}, np.arange(len(X)))
rng = np.random.default_rng(0)


def made(hidden=(5, 3), orders=3, **settings):
    model = models.EoNADE(D, hidden=hidden, orders=orders, activation="tanh", dtype=np.float64, **settings)
    return model, {n: v + 0.5 * rng.normal(size=v.shape) for n, v in model.init(random.key(0)).items()}


def by_loop(model, params, order):
    """log p_o(x) of every x: a pass of the whole network for each bit."""
    total = np.zeros(len(X))
    for i, j in enumerate(order):
        shown = np.zeros(D)
        shown[list(order[:i])] = 1
        a = model.network(params, np.concatenate([X * shown, np.broadcast_to(shown, X.shape)], axis=1))[:, j]
        total += X[:, j] * a - np.logaddexp(0, a)
    return total


@pytest.mark.parametrize("hidden", [(5,), (5, 3), (4, 4, 4)])
def test_the_score_is_that_of_the_mean_over_the_orders(hidden):
    model, params = made(hidden)
    each = np.array([by_loop(model, params, order) for order in model.orders])
    found = model.terms(params, {}, BATCH, {}).log_weights[0]
    np.testing.assert_allclose(found, np.log(np.exp(each).mean(axis=0)), rtol=1e-12)
    assert np.exp(found).sum() == pytest.approx(1, rel=1e-12)  # a distribution, as that of each order is
    np.testing.assert_allclose(np.exp(each).sum(axis=1), 1, rtol=1e-12)
    assert (found >= each.mean(axis=0)).all()


def every_part():
    """(probability, noise) of every number of bits before the threshold, and of every set of that many."""
    for n in range(D + 1):
        for shown in itertools.combinations(range(D), n):
            order = np.full((1, len(X), D), 0.75)
            order[..., list(shown)] = 0.25
            yield 1 / ((D + 1) * math.comb(D, n)), {"order": order, "position": np.full((1, len(X), 1), 0.5)}


def test_a_step_estimates_the_mean_over_all_orders():
    """By enumeration: over all numbers and sets of bits that are shown, against the mean of log p_o over all 24 orders."""
    model, params = made()
    orders = list(itertools.permutations(range(D)))
    wanted = np.mean([by_loop(model, params, order) for order in orders], axis=0)
    listed = list(every_part())
    assert sum(p for p, _ in listed) == pytest.approx(1, rel=1e-12)
    found = sum(p * model.terms(params, {}, BATCH, noise, 0).log_weights[0] for p, noise in listed)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    watched = sum(p * model.watch(params, {}, BATCH, noise).log_weights[0] for p, noise in listed)
    np.testing.assert_array_equal(watched, found)


def test_the_parts_are_drawn_as_they_are_enumerated():
    """Their sizes are uniform in 0 .. D, and so are the sets of one size. Chi-square; the key is fixed."""
    noise = models.EoNADE(D, dtype=np.float64).noise(random.key(3), Batch({"x": np.zeros((1000, D))}, np.arange(1000)), 60)
    shown = (noise["order"] < noise["position"]).reshape(-1, D)
    sizes = np.bincount(shown.sum(axis=1), minlength=D + 1)
    assert stats.chisquare(sizes).pvalue > 1e-3
    pairs = shown[shown.sum(axis=1) == 2] @ [8, 4, 2, 1]
    assert stats.chisquare(np.unique(pairs, return_counts=True)[1]).pvalue > 1e-3


def test_its_gradient_by_differences():
    model, params = made()
    noise = model.noise(random.key(1), BATCH, 2)
    names = list(params)

    def value(*arrays):
        return model.terms(dict(zip(names, arrays, strict=True)), {}, BATCH, noise, 0).total_log_likelihood

    check_vjp(value, list(params.values()), rng)


def test_draws_have_the_probabilities():
    """Chi-square over 2^4 cells, 100,000 draws; the key is fixed, a false alarm is one in 10^4 keys."""
    model, params = made()
    z = model.sample_prior(params, random.key(5), 100_000)
    p = model.decode(params, {}, z)["x"]
    cells = np.bincount((p.sample(p.noise(random.key(6))) @ [8, 4, 2, 1]).astype(int), minlength=16)
    wanted = np.exp(model.terms(params, {}, BATCH, {}).log_weights[0])
    assert stats.chisquare(cells, 100_000 * wanted).pvalue > 1e-4


def test_conditional_probabilities_along_a_row():
    model, params = made(orders=1)
    p = model.decode(params, {}, {"order": np.zeros((16, 1))})["x"]
    last = model.orders[0, -1]
    q = p.probabilities(X)[:, last]
    joint = np.exp(by_loop(model, params, model.orders[0]))
    for i, x in enumerate(X):
        other = int(np.flatnonzero((np.where(np.arange(D) == last, 1 - x, x) == X).all(axis=1))[0])
        one = i if x[last] else other
        assert q[i] == pytest.approx(joint[one] / (joint[i] + joint[other]), rel=1e-10)


def test_use(tmp_path):
    """A pair of columns that exclude each other: learned, scored exactly, saved; steps are captured."""
    first = (rng.random((400, 1)) < 0.5).astype(np.float32)
    x = np.concatenate([first, 1 - first, (rng.random((400, 3)) < 0.2).astype(np.float32)], axis=1)
    settings = {"epochs": 60, "batch_size": 50, "learning_rate": 1e-2, "random_state": 1}
    model = gvae.EoNADE((16,), orders=4, **settings).fit(x, validation=x[:100])
    assert model.history_[-1]["validation_bound"] > model.history_[0]["validation_bound"]
    kept_and_captured(model, x, tmp_path / "model")
    entropy = np.log(2) + 3 * 0.5004
    found = model.score_samples(x)
    assert found.mean() > -entropy - 0.15
    np.testing.assert_array_equal(found, model.score_samples(x, samples=1))
    drawn = model.sample(500, draw=True)
    assert (drawn[:, 0] + drawn[:, 1] == 1).mean() > 0.9
    shown = model.sample(5)
    assert np.all((shown >= 0) & (shown <= 1))
    with pytest.raises(ConfigError, match="EoNADE: a mean over orders is not coded"):
        model.evaluate(x[:20], measures="bits")


def test_mistakes():
    grey = rng.random((30, 6)).astype(np.float32)
    with pytest.raises(DataError, match="X: values outside 0, 1: "):
        gvae.EoNADE((3,), epochs=1).fit(grey)
    with pytest.raises(ConfigError, match="EoNADE: hidden is \\(\\), expected the widths of at least one hidden layer"):
        gvae.EoNADE((), epochs=1).fit((grey > 0.5) * 1.0)
    with pytest.raises(ConfigError, match="orders is 0, expected a whole number of at least 1"):
        gvae.EoNADE((3,), orders=0, epochs=1).fit((grey > 0.5) * 1.0)
