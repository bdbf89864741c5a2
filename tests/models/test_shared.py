"""Layers that all rows share, by enumeration: a model of shared bits and of bits per row, with exact sums over all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gvae import objectives, random, training
from gvae.autodiff import gradient
from gvae.data import Batch, Table
from gvae.distributions import BernoulliDistribution, DiagonalGaussian
from gvae.errors import ConfigError, NonFiniteError
from gvae.models import VAE, Bayes
from gvae.models.parts import Penalty
from gvae.objectives import Blanket, Layer, Terms, noise_of_rows
from gvae.ops import arrays, elementwise

N, n = 4, 2  # rows, and bits of each layer
G = np.random.default_rng(0)
EFFECTS = G.normal(size=(N, n, n))  # of z_j w_j x_b on log p(x_b | z, w): each w_j touches a part of its own
OFFSETS = G.normal(size=(N, n))
PRIOR_W, PRIOR_Z = G.normal(size=n), G.normal(size=n)


def parts(batch, z, w):
    """log p(x_b | z_b, w), in parts of each unit of w: (K, B, n)."""
    of_z = elementwise.multiply(z, OFFSETS[batch.index])
    both = arrays.sum(elementwise.multiply(z[..., None, :], EFFECTS[batch.index]), axis=-1)  # (K, B, n)
    return elementwise.add(of_z, elementwise.multiply(both, w[:, None]))


def terms(params, batch, noise, blankets=True):
    q_w, q_z = BernoulliDistribution(params["w"]), BernoulliDistribution(params["z"][batch.index])
    w, z = q_w.sample(noise["all.w"]), q_z.sample(noise["z"])
    by_unit = parts(batch, z, w)
    likelihood = arrays.sum(by_unit, axis=-1)
    rows = Layer(q_z, BernoulliDistribution(PRIOR_Z), z, noise["z"], name="z")
    shared = Layer(q_w, BernoulliDistribution(PRIOR_W), w, noise["all.w"], name="w", share=1 / N)
    if blankets:
        rows.blanket = lambda: Blanket(likelihood)
        weight = np.ones(len(batch)) if batch.weight is None else batch.weight
        mean = (by_unit * weight[:, None]).sum(axis=1) / weight.sum()
        shared.blanket = lambda: Blanket(mean)
    return Terms({"x": likelihood}, [rows, shared])


def noise_for(z, w):
    """Noise with which these bits are drawn: below every probability, or above."""
    return {
        "z": np.where(np.asarray(z) == 1, 0.0, 1 - 1e-9)[None],
        "all.w": np.where(np.asarray(w) == 1, 0.0, 1 - 1e-9)[None],
    }


PARAMS = {"w": np.array([0.3, -0.7]), "z": G.normal(size=(N, n))}
BITS = list(itertools.product((0, 1), repeat=n))


def exact(params):
    """The bound of all rows together, by enumeration."""
    p_w, p_z = (1 / (1 + np.exp(-params[name])) for name in ("w", "z"))
    total = 0.0
    for w in BITS:
        q = np.prod(np.where(w, p_w, 1 - p_w))
        total += q * (BernoulliDistribution(PRIOR_W).log_prob(np.array(w, float)) - np.log(q))
        for b in range(N):
            for z in BITS:
                q_z = np.prod(np.where(z, p_z[b], 1 - p_z[b]))
                batch = Batch({}, np.array([b]))
                f = parts(batch, np.array(z, float)[None, None], np.array(w, float)[None]).sum()
                f += BernoulliDistribution(PRIOR_Z).log_prob(np.array(z, float)) - np.log(q_z)
                total += q * q_z * f
    return total


def exact_gradient():
    found = {}
    for name, value in PARAMS.items():
        found[name] = np.zeros_like(value)
        for i in np.ndindex(value.shape):
            step = np.zeros_like(value)
            step[i] = 1e-5
            found[name][i] = (exact(PARAMS | {name: value + step}) - exact(PARAMS | {name: value - step})) / 2e-5
    return found


def moments(objective, batches, blankets=True):
    """Mean over batches and draws of the gradient of N times the objective, and the variance of that of w."""
    mean, square = {name: np.zeros_like(v) for name, v in PARAMS.items()}, np.zeros(n)
    p_w, p_z = (1 / (1 + np.exp(-PARAMS[name])) for name in ("w", "z"))
    for rows in batches:
        batch = Batch({}, np.array(rows))
        for w in BITS:
            for zs in itertools.product(BITS, repeat=len(rows)):
                q = np.prod(np.where(w, p_w, 1 - p_w)) * np.prod(np.where(zs, p_z[list(rows)], 1 - p_z[list(rows)]))
                noise = noise_for(zs, w)
                g = gradient(lambda p, b=batch, e=noise: N * objective(terms(p, b, e, blankets))[0], PARAMS)
                for name in PARAMS:
                    mean[name] += q * g[name] / len(batches)
                square += q * g["w"] ** 2 / len(batches)
    return mean, square - mean["w"] ** 2


BATCHES = list(itertools.combinations(range(N), 2))


@pytest.mark.parametrize("gradient_name", ["reparameterized", "local"])
@pytest.mark.parametrize("estimator", ["auto", "A"])
def test_the_mean_over_batches_is_the_gradient_of_all_rows(gradient_name, estimator):
    objective = objectives.ELBO(gradient=gradient_name, estimator=estimator)
    mean, _ = moments(objective, BATCHES)
    for name, value in exact_gradient().items():
        np.testing.assert_allclose(mean[name], value, rtol=1e-6, atol=1e-8, err_msg=name)


def test_local_signals_have_less_variance():
    _, of_all = moments(objectives.ELBO(), BATCHES)
    _, local = moments(objectives.ELBO(gradient="local"), BATCHES)
    assert (local < of_all).all(), (local, of_all)


def test_without_a_blanket_the_signal_is_that_of_all_terms_and_is_logged():
    batch = Batch({}, np.arange(2))
    noise = noise_for([(1, 0), (0, 1)], (1, 0))
    found = terms(PARAMS, batch, noise, blankets=False)
    objectives.ELBO(gradient="local")(found)
    assert [event["layer"] for event in found.events] == ["z", "w"]


def test_rows_with_weights():
    """A weight of 0 leaves a row out, of the layer's own signal as well."""
    noise = noise_for([(1, 0), (0, 1), (1, 1)], (1, 0))
    for name in ("reparameterized", "local"):
        objective = objectives.ELBO(gradient=name)

        def value(p, rows, weight, objective=objective):
            batch = Batch({}, np.arange(rows), weight)
            return objective(terms(p, batch, noise_of_rows(noise, np.arange(rows))), weight=weight)[0]

        some = gradient(lambda p, value=value: value(p, 2, None), PARAMS)["w"]
        weighted = gradient(lambda p, value=value: value(p, 3, np.array([1.0, 1.0, 0.0])), PARAMS)["w"]
        np.testing.assert_allclose(weighted, some, rtol=1e-12)


def test_bound_and_weights_bear_a_share():
    batch, noise = Batch({}, np.arange(N)), noise_for([(1, 0)] * N, (1, 0))
    found = terms(PARAMS, batch, noise)
    rows, shared = found.layers
    _, metrics = objectives.ELBO(estimator="A")(found)
    cost = (shared.log_q - shared.log_p).item() / N
    expected = found.total_log_likelihood - (rows.log_q - rows.log_p) - cost
    np.testing.assert_allclose(found.log_weights, expected, rtol=1e-14)
    np.testing.assert_allclose(metrics["bound"], expected.mean(), rtol=1e-14)


def test_bounds_of_several_draws_refuse_shared_draws():
    batch, noise = Batch({}, np.arange(2)), noise_for([(1, 0)] * 2, (1, 0))
    with pytest.raises(ConfigError, match="all rows share the layer 'w'"):
        objectives.ImportanceWeighted()(terms(PARAMS, batch, noise))
    bayes = Bayes(4, latent=2, hidden=(3,), n_rows=10)  # draws the layers' sums, and has no layer of the weights
    batch, params = Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4)), bayes.init(random.key(0))
    with pytest.raises(ConfigError, match="all rows share weights that are drawn: objective='elbo'"):
        objectives.parse("iwae")(bayes.terms(params, {}, batch, bayes.noise(random.key(1), batch, 3), step=0))


def test_a_penalty_is_the_case_without_a_draw():
    q = BernoulliDistribution(np.zeros((2, 1)))
    layer = Layer(q, None, np.zeros((1, 2, 1)), np.zeros((1, 2, 1)))
    shared = Penalty(np.float64(6.0), share=1 / 3)
    found = Terms({"x": np.array([[-1.0, -2.0]])}, [layer, shared])
    np.testing.assert_allclose(found.log_weights, [[-3.0, -4.0]])
    assert objectives.ELBO()(found)[1]["bound"] == -3.5


def test_noise_of_rows_leaves_shared_noise():
    key = random.key(0)
    noise = {"z": random.uniform(key, (2, 3, 4)), "all.w": random.uniform(key, (2, 3))}
    part = noise_of_rows(noise, [2, 0])
    np.testing.assert_array_equal(part["z"], noise["z"][:, [2, 0]])
    assert part["all.w"] is noise["all.w"]


@pytest.mark.parametrize("units", [1, 2, 4])
def test_variance_of_local_signals_by_enumeration(units):
    """Of n independent units and a centred sum of their terms: Var_global = Var_local + (n - 1) Var f Var(score)."""
    p, slope = 0.3, 1.7
    logits = np.full((1, units), np.log(p / (1 - p)))
    found = {"local": [], "reparameterized": []}
    for bits in itertools.product((0, 1), repeat=units):
        u = np.where(np.array(bits) == 1, 0.0, 1 - 1e-9)[None, None]
        for name, each in found.items():

            def value(a, u=u, name=name):
                q = BernoulliDistribution(a)
                z = q.sample(u)
                terms_of = slope * (z - p)
                layer = Layer(q, q.stopped(), z, u)  # no KL: what is left is f
                layer.blanket = lambda: Blanket(terms_of)
                found = Terms({"x": arrays.sum(terms_of, axis=-1)}, [layer])
                return objectives.ELBO(gradient=name)(found)[0]

            each.append((np.prod(np.where(bits, p, 1 - p)), gradient(value, logits)[0, 0]))
    variance = {}
    for name, each in found.items():
        q, g = np.array(each).T
        assert q @ g == pytest.approx(slope * p * (1 - p))
        variance[name] = q @ g**2 - (q @ g) ** 2
    of_f, of_score = slope**2 * p * (1 - p), p * (1 - p)
    assert variance["reparameterized"] == pytest.approx(variance["local"] + (units - 1) * of_f * of_score)


class Centred(VAE):
    """A VAE with a number per column that all rows share, and that is near them."""

    pure = True

    def init(self, key):
        return super().init(key) | {"centre.raw": np.zeros(2 * self.sizes["x"], self.dtype)}

    def noise(self, key, batch, samples=1):
        centre = random.normal(random.fold_in(key, 9), (samples, self.sizes["x"]), self.dtype)
        return super().noise(key, batch, samples) | {"all.centre": centre}

    def terms(self, params, state, batch, noise, step=None):
        terms, n = super().terms(params, state, batch, noise, step), self.sizes["x"]
        q = DiagonalGaussian(params["centre.raw"][:n], params["centre.raw"][n:])
        c = q.sample(noise["all.centre"])
        terms.log_likelihood["near"] = -arrays.sum(elementwise.square(elementwise.subtract(batch.x, c[:, None])), axis=-1)
        if step is not None:
            terms.layers.append(Layer(q, None, c, noise["all.centre"], name="centre", share=1 / self.n_rows))
        return terms


def test_steps_are_captured_and_failures_name_their_rows():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    model = Centred(3, latent=2, posterior="diagonal", observation="gaussian", hidden=(4,), n_rows=20)
    trainer, _ = training.train(model, Table(x), epochs=3, batch_size=10, seed=0)
    assert trainer.why_not == ""
    assert all(program.verified for program in trainer.programs.known.values())
    x[[3, 7]] = np.inf
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError) as caught:
        trainer.step(Table(x).batch(np.arange(10), random.key(0)))
    assert caught.value.rows == [3, 7]
