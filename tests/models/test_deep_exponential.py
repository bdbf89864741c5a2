"""Deep exponential families: closed forms, enumeration, coordinate ascent, and counts that are not what they should be."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose
from reference import gamma_poisson_by_coordinate_ascent
from run_cases import after, same
from scipy import sparse, special

import gvae
from gvae import models, objectives, random
from gvae.autodiff import gradient, value_and_gradient, value_of
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DataError, ShapeError, StoppedError
from gvae.families.others import of_bounded

KEY = random.key(0)


def counts(n, d, seed=0, rate=1.5):
    x = np.random.default_rng(seed).poisson(rate, size=(n, d)).astype(np.float64)
    return sparse.csr_array(x)


def batch_of(x, rows=None):
    rows = np.arange(x.shape[0]) if rows is None else np.asarray(rows)
    return Batch({"x": x[rows]}, rows)


def started(model, n, key=KEY):
    """Parameters with those of the rows, a little different from each other."""
    params = dict(model.init(key)) | model.init_rows(key, n)
    g = np.random.default_rng(1)
    return {name: value + 0.3 * g.normal(size=value.shape) for name, value in params.items()}


def shapes_and_means(model, params, name):
    family = model.encoders[name].family if name in model.encoders else {w.name: w for w in model.matrices}[name].family
    q = family(params[f"{name}.raw"])
    return np.exp(q.log_shape), np.exp(q.log_mean)


# ---- gamma units


def test_one_unit_a_layer_in_closed_form():
    """E log z = psi(a) - log b and E 1/z = b / (a - 1) of independent gammas give every term of the bound."""
    n, d = 3, 2
    own = {"shape": 0.7, "top_mean": 1.3, "weight_shape": 0.4, "weight_draws": "each"}
    model = models.DEF(d, latent=(1, 1), dtype="float64", n_rows=n, **own)
    x, params = counts(n, d), started(model, n)
    for name in params:  # shapes above 2, so that 1/z has a variance
        params[name][..., : params[name].shape[-1] // 2] = np.log(6.0)
    batch, K = batch_of(x), 40_000
    terms = model.terms(params, {}, batch, model.noise(KEY, batch, K), step=0)
    draws = terms.total_log_likelihood - sum(
        layer.of_each_row(layer.kl if layer.kl is not None else layer.log_q - layer.log_p) for layer in terms.layers
    )
    draws = np.broadcast_to(draws, (K, n)).sum(axis=1)

    def moments(name):
        a, m = shapes_and_means(model, params, name)
        return a, m, special.psi(a) - np.log(a / m), a / m / (a - 1)

    def kl(a, mean, log_z, p_shape, log_u, inverse_u):
        """E KL(Gamma(a, mean) || Gamma(p_shape, mean u)) over u."""
        entropy = a - np.log(a / mean) + special.gammaln(a) + (1 - a) * special.psi(a)
        cross = p_shape * (np.log(p_shape) - log_u) - special.gammaln(p_shape) + (p_shape - 1) * log_z
        return -entropy - (cross - p_shape * mean * inverse_u)

    (a1, m1, l1, _), (a2, m2, l2, i2) = moments("z1"), moments("z2")
    (aw0, mw0, lw0, _), (aw1, mw1, lw1, iw1) = moments("weights0"), moments("weights1")
    x = x.toarray()
    total = (x * (l1 + lw0) - m1 * mw0 - special.gammaln(x + 1)).sum()
    total -= kl(a1, m1, l1, 0.7, l2 + lw1, i2 * iw1).sum()
    total -= kl(a2, m2, l2, 0.7, np.log(1.3), 1 / 1.3).sum()
    for a, m, log_w in ((aw0, mw0, lw0), (aw1, mw1, lw1)):
        total -= kl(a, m, log_w, 0.4, np.log(1 / 3), 3.0).sum()
    assert abs(draws.mean() - total) < 5 * draws.std() / np.sqrt(K)
    assert draws.std() / np.sqrt(K) < 0.02 * abs(total)


def test_one_layer_against_coordinate_ascent():
    """Its bound of the counts in parts is below ours at the same posterior; ours trained from there does not fall."""
    n, d, k = 12, 8, 3
    x = counts(n, d, seed=3, rate=2.0)
    settings = {"shape": 0.5, "weight_shape": 0.6, "weight_mean": 0.8, "top_mean": 1.2}
    model = models.DEF(d, latent=(k,), dtype="float64", n_rows=n, **settings)
    z, w, bound = gamma_poisson_by_coordinate_ascent(
        x.toarray(), k, (0.5, 0.5 / 1.2), (0.6, 0.6 / 0.8), iterations=300, seed=0
    )

    def raw(family, shape, rate):
        from gvae.families.base import unbounded
        from gvae.families.others import LOG_RATE, LOG_SHAPES

        log_shape, log_mean = np.log(shape), np.log(shape / rate)
        limits = np.where(log_shape < 0, abs(LOG_SHAPES[0]), LOG_SHAPES[1])
        return np.concatenate([unbounded(log_shape, limits), unbounded(log_mean, LOG_RATE)], axis=-1)

    params = {"z1.raw": raw(None, *z), "weights0.raw": raw(None, w[0].ravel(), w[1].ravel())}
    np.testing.assert_allclose(model.output.mean(params), w[0] / w[1], rtol=1e-10)
    batch, K = batch_of(x), 20_000

    def ours(p):
        terms = model.terms(p, {}, batch, model.noise(KEY, batch, K), step=0)
        kl = sum(np.sum(layer.kl) for layer in terms.layers)
        draws = terms.total_log_likelihood.sum(axis=1)
        return draws.mean() - kl, draws.std() / np.sqrt(K)

    there, error = ours(params)
    assert there - 5 * error > bound
    assert there < bound + 0.2 * abs(bound)  # Jensen's part is small beside the bound
    trainer = gvae.training.Trainer(
        model, samples=20, learning_rate=2e-3, n_rows=n, parameters={"weights0.raw": params["weights0.raw"]}
    )
    trainer.rows["z1.raw"].values[:] = params["z1.raw"]
    for _ in range(300):
        trainer.step(batch)
    after, error_after = ours(dict(trainer.parameters) | {"z1.raw": trainer.rows["z1.raw"].values})
    assert after > there - 5 * np.hypot(error, error_after)


def test_layers_of_the_prior_have_the_mean_of_their_inputs():
    n = 200_000
    model = models.DEF(3, latent=(2, 2), dtype="float64", n_rows=5, shape=0.5)
    params = model.init(KEY)
    z = model.sample_prior(params, random.key(3), n)
    u = z["z2"] @ model.stack.weights[0].mean(params).T
    error = (z["z1"] - u).std(axis=0) / np.sqrt(n)
    assert (np.abs((z["z1"] - u).mean(axis=0)) < 5 * error).all()
    assert (np.abs(z["z2"].mean(axis=0) - 1) < 5 * z["z2"].std(axis=0) / np.sqrt(n)).all()


def test_draws_that_underflow_leave_everything_finite():
    model = models.DEF(3, latent=(2, 1), dtype="float64", n_rows=4, shape=1e-3)
    x = counts(4, 3)
    params = started(model, 4)
    params["z2.raw"][:, 0] = -50.0  # shapes near their least
    batch = batch_of(x)
    terms = model.terms(params, {}, batch, model.noise(KEY, batch, 200), step=0)
    value, pull = gvae.autodiff.vjp(
        lambda p: objectives.ELBO()(model.terms(p, {}, batch, model.noise(KEY, batch, 200), step=0))[0], params
    )
    assert np.isfinite(value_of(terms.total_log_likelihood)).all()
    assert np.isfinite(value)
    assert all(np.isfinite(bar).all() for bar in pull(np.float64(1.0)).values())


# ---- bits, by enumeration


@pytest.mark.parametrize("weights", ["normal", "gamma"])
def test_bits_by_enumeration(weights):
    """Given the weights, the bound over all bits is below log p(x), and local gradients have the mean of its derivative."""
    n, d, latent = 2, 3, (2, 2)
    model = models.DEF(d, latent=latent, kind="sigmoid", weights=weights, dtype="float64", n_rows=n)
    x, params = counts(n, d), started(model, n)
    batch = batch_of(x)
    fixed = {name: u for name, u in model.noise(KEY, batch).items() if name.startswith("all.")}
    shared = model.shared_layers(params, fixed)
    W = [w.value(layer.q, layer.z)[0] for w, layer in zip(model.matrices, shared, strict=True)]
    bits = list(itertools.product((0.0, 1.0), repeat=2))

    def on(z):
        return np.concatenate([[1.0], z])

    def log_bernoulli(z, a):
        return float(np.sum(z * a - np.logaddexp(0, a)))

    def log_joint(row, z1, z2):
        rates = W[0] @ on(z1)
        of_x = np.sum(row * np.log(rates) - rates - special.gammaln(row + 1))
        return of_x + log_bernoulli(np.array(z1), W[1] @ on(z2)) + log_bernoulli(np.array(z2), W[2][:, 0])

    def bound(raw):
        total = 0.0
        for b, row in enumerate(x.toarray()):
            for z1, z2 in itertools.product(bits, bits):
                log_q = log_bernoulli(np.array(z1), raw["z1.raw"][b]) + log_bernoulli(np.array(z2), raw["z2.raw"][b])
                total += np.exp(log_q) * (log_joint(row, z1, z2) - log_q)
        return total / n

    raw = {name: params[name] for name in ("z1.raw", "z2.raw")}
    log_p = np.mean([special.logsumexp([log_joint(row, *z) for z in itertools.product(bits, bits)]) for row in x.toarray()])
    assert bound(raw) < log_p

    objective = objectives.ELBO(gradient="local")
    found = dict.fromkeys(raw, 0.0)
    value = 0.0
    for drawn in itertools.product(bits, repeat=4):  # z1 and z2 of both rows
        z = np.array(drawn).reshape(2, n, 2)
        noise = fixed | {name: np.where(part == 1, 0.0, 1 - 1e-12)[None] for name, part in zip(("z1", "z2"), z, strict=True)}
        q = np.exp(sum(log_bernoulli(part, params[f"{name}.raw"]) for name, part in zip(("z1", "z2"), z, strict=True)))

        def f(p, noise=noise):
            return objective(model.terms(dict(params) | p, {}, batch, noise, step=0))[0]

        g = gradient(f, raw)
        value += q * (f(raw) + sum(layer.of_each_row(layer.kl) for layer in shared))
        for name in raw:
            found[name] = found[name] + q * g[name]
    np.testing.assert_allclose(value, bound(raw), rtol=1e-10)
    for name, numbers in raw.items():
        for i in np.ndindex(numbers.shape):
            step = np.zeros_like(numbers)
            step[i] = 1e-5
            slope = (bound(raw | {name: numbers + step}) - bound(raw | {name: numbers - step})) / 2e-5
            np.testing.assert_allclose(found[name][i], slope, rtol=1e-6, atol=1e-9)


# ---- weights, shared by all rows


@pytest.mark.parametrize("kind", ["gamma", "gamma:score", "sigmoid", "poisson"])
def test_the_mean_over_batches_is_the_gradient_of_all_rows(kind):
    n = 6
    model = models.DEF(4, latent=(3, 2), kind=kind, dtype="float64", n_rows=n)
    x, params = counts(n, 4), started(model, n)
    every = batch_of(x)
    noise = model.noise(KEY, every, 3)

    def slope(rows):
        own = params | {name: values[rows] for name, values in params.items() if name.startswith("z")}
        some = objectives.noise_of_rows(noise, rows)
        objective = objectives.ELBO(gradient="local")
        g = gradient(lambda p: objective(model.terms(p, {}, batch_of(x, rows), some, step=0))[0], own)
        return {name: g[name] for name in g if name.startswith("weights")}

    whole = slope(np.arange(n))
    parts = [slope(np.array(rows)) for rows in ((0, 1), (2, 3), (4, 5))]
    for name, value in whole.items():
        np.testing.assert_allclose(np.mean([part[name] for part in parts], axis=0), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("text", ["elbo", "elbo:beta=0.5"])
def test_score_and_path_have_one_mean_and_local_signals_less_variance(text):
    """A cost changes the weight of the KL of the rows' layers, and leaves that of the weights."""
    n, d = 2, 3
    x = counts(n, d)
    batch = batch_of(x)
    found = {}
    for kind, name in (("gamma", "local"), ("gamma:score", "local"), ("gamma:score", "reparameterized")):
        model = models.DEF(d, latent=(2, 1), kind=kind, dtype="float64", n_rows=n)
        params = started(model, n)
        objective = objectives.parse(text, gradient=name)
        each = []
        for i in range(200):
            noise = model.noise(random.fold_in(KEY, i), batch, 20)
            g = gradient(lambda p, m=model, e=noise, o=objective: o(m.terms(p, {}, batch, e, step=0))[0], params)
            each.append(np.concatenate([g[key].ravel() for key in ("z1.raw", "z2.raw", "weights0.raw", "weights1.raw")]))
        found[kind, name] = np.mean(each, axis=0), np.var(each, axis=0)
    exact, _ = found["gamma", "local"]
    for way in (("gamma:score", "local"), ("gamma:score", "reparameterized")):
        mean, variance = found[way]
        error = np.sqrt((variance + found["gamma", "local"][1]) / 200)
        assert (np.abs(mean - exact) < 5 * error + 1e-12).all(), way
    local, of_all = found["gamma:score", "local"][1], found["gamma:score", "reparameterized"][1]
    assert local.sum() < 0.5 * of_all.sum()
    assert found["gamma", "local"][1].sum() < local.sum()  # and the path less than both


def test_pairs_of_bits_have_the_mean_of_local_signals():
    """In every layer: its draws are arranged as a training step arranges them."""
    model = models.DEF(3, latent=(2, 2), kind="sigmoid", dtype="float64", n_rows=300, amortized=True, hidden=())
    batch = batch_of(sparse.csr_array(np.repeat([[2.0, 0.0, 1.0]], 300, axis=0)))
    params, found = started(model, 0), {}
    for name in ("local", "disarm"):
        objective, each = objectives.parse("elbo", gradient=name), []
        for i in range(60):
            noise = model.noise(random.fold_in(KEY, i), batch, 4)
            if name == "disarm":
                noise = objective.arrange(noise, model.inference_order)
            g = gradient(lambda p, e=noise, o=objective: o(model.terms(p, {}, batch, e, step=0))[0], params)
            each.append(np.concatenate([g["z1.0.bias"], g["z2.0.bias"]]))
        found[name] = np.array(each)
    apart = found["disarm"] - found["local"]  # with the same draws of the weights
    assert (np.abs(apart.mean(axis=0)) < 5 * apart.std(axis=0) / np.sqrt(len(apart))).all()
    assert (apart.std(axis=0) < 0.2 * found["local"].std(axis=0)).all()


def test_bits_that_are_free_have_no_signal():
    """Below `free` all units cost a constant: what q of the upper layer does to the KL of the lower one does not matter."""
    model = models.DEF(3, latent=(2, 2), kind="sigmoid", dtype="float64", n_rows=300, amortized=True, hidden=())
    batch = batch_of(sparse.csr_array(np.repeat([[2.0, 0.0, 1.0]], 300, axis=0)))
    params, noise = started(model, 0), model.noise(KEY, batch, 4)

    def slope(text):
        objective = objectives.parse(text)
        return gradient(lambda p: objective(model.terms(p, {}, batch, noise, step=0))[0], params)["z2.0.bias"]

    np.testing.assert_allclose(slope("elbo:free=1000"), slope("elbo:beta=0"), atol=1e-14)
    assert np.abs(slope("elbo:free=0") - slope("elbo:beta=0")).max() > 0.1


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("by", ["local", "reparameterized"])
@pytest.mark.parametrize("make", [models.DEF, models.DoubleDEF])
def test_the_kl_as_a_cost_has_the_gradient_of_the_bound(make, by, warmup):
    n, d = 3, 4
    batch = batch_of(counts(n, d))
    model = make(d, latent=(2, 1), kind="gamma:score", dtype="float64", n_rows=n)
    params, noise = started(model, n), model.noise(KEY, batch, 3)
    found = []
    for text in ("elbo", "elbo:beta=1"):
        objective = objectives.parse(text, warmup=warmup, gradient=by)
        found.append(value_and_gradient(lambda p, o=objective: o(model.terms(p, {}, batch, noise, step=0), 2)[0], params))
    bound, cost = found
    assert_allclose(cost[0], bound[0], rtol=1e-12)
    for name in params:
        assert_allclose(cost[1][name], bound[1][name], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["gamma", "sigmoid", "poisson"])
def test_units_drawn_from_the_prior_are_independent(kind):
    """The units of the top layer; those below it vary on their own, given theirs."""
    model = models.DEF(4, latent=(3, 3), kind=kind, dtype="float64", n_rows=1)
    drawn = model.sample_prior(model.init(KEY), KEY, 4000)
    for z in drawn.values():
        assert len(np.unique(z, axis=0)) > 5
        assert (z[:, 0] != z[:, 1]).any()
    correlations = np.corrcoef(drawn["z2"].T)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / np.sqrt(4000)


@pytest.mark.parametrize("kind", ["gamma", "sigmoid", "poisson"])
def test_a_fitted_model_is_pickled(kind):
    X = counts(20, 4)
    model = gvae.DEF(latent=(2,), kind=kind, epochs=1, random_state=0).fit(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), model.transform(X))


def test_the_discrepancy_of_codes_that_are_drawn_as_logarithms():
    """With q(z) = p(z), MMD² is 0: draws of q are compared in the units of those of p."""
    n = 400
    model = models.DEF(4, latent=(3,), n_rows=n, amortized=True, hidden=(), dtype="float64", shape=0.5)
    params = model.init(KEY)
    encoder = model.encoders["z1"]
    for name in params:
        if name.startswith(encoder.name):
            params[name] = np.zeros_like(params[name])
    params[f"{encoder.name}.0.bias"][:3] = of_bounded(np.full(3, np.log(0.5)))
    rows = Table(sparse.csr_array(np.ones((n, 4))))
    found = gvae.evaluation.mmd(gvae.evaluation.Subject(model, params, rows, key=KEY)).summary()
    assert abs(found["mmd_squared"]) < 4 * found["mmd_squared_standard_error"] < 0.02


@pytest.mark.parametrize("estimator", [gvae.DEF, gvae.DoubleDEF])
def test_the_discrepancy_where_codes_have_parameters_of_their_own(estimator):
    x = np.random.default_rng(0).poisson(2.0, size=(40, 4))
    model = estimator(latent=(3,), epochs=2, random_state=0).fit(x)
    found = model.evaluate(x[:20], samples=2, measures=["mmd"]).summary()["mmd"]
    assert 0 < found["mmd_squared_standard_error"] < 1


def test_a_chain_of_imputations_where_encoders_read_counts():
    X = counts(20, 4)
    model = gvae.DEF(latent=(2,), amortized=True, hidden=(4,), epochs=1, random_state=0).fit(X)
    assert "gibbs" in model.evaluate(X, samples=2, measures="gibbs").measures


# ---- as an estimator


@pytest.mark.parametrize("kind", ["gamma", "sigmoid", "poisson"])
@pytest.mark.parametrize("amortized", [False, True])
def test_training_raises_the_bound_and_other_rows_are_inferred(kind, amortized, tmp_path):
    X = counts(60, 6, rate=3.0)
    settings = {"latent": (3, 2), "kind": kind, "amortized": amortized, "hidden": (8,), "random_state": 0}
    model = gvae.DEF(**settings, epochs=30).fit(X)
    log = [row["train_bound"] for row in model.history_]
    assert log[-1] > log[0]
    Z = model.transform(X[:7])
    assert Z.shape == (7, 3)
    assert (Z > 0).all()
    assert list(model.codes(X[:7])) == ["z1", "z2"]
    new = counts(5, 6, seed=9, rate=3.0)
    scores = model.score_samples(new)
    assert scores.shape == (5,)
    assert np.isfinite(scores).all()
    model.save(tmp_path / "model.safetensors")
    again = gvae.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.transform(X[:7]), Z)


def test_dense_and_sparse_counts_give_the_same_bits():
    X = counts(30, 5)
    a, b = (gvae.DEF(latent=(2,), epochs=2, random_state=0).fit(x) for x in (X, X.toarray()))
    for name, value in a.parameters_.items():
        np.testing.assert_array_equal(value, b.parameters_[name])


def test_counts_that_are_not_what_they_should_be():
    good = counts(20, 4).toarray()
    model = gvae.DEF(latent=(2,), epochs=1, random_state=0)
    for value, text in ((-1.0, "row 3, column 2"), (0.5, "row 3, column 2"), (np.nan, "row 3, column 2")):
        bad = good.copy()
        bad[3, 2] = value
        with pytest.raises(DataError, match=text):
            model.fit(bad)
    model.fit(good)
    with pytest.raises((DataError, ShapeError), match="3"):
        model.transform(counts(5, 3))
    with pytest.raises(ConfigError, match="n_rows"):
        models.DEF(4, latent=(2,))


def test_empty_rows_and_columns_that_never_occur():
    X = counts(20, 4).toarray()
    X[2], X[:, 1] = 0, 0
    model = gvae.DEF(latent=(2,), epochs=3, random_state=0).fit(X)
    assert np.isfinite(model.score_samples(X)).all()
    assert np.isfinite(model.transform(np.zeros((2, 4)))).all()
    assert gvae.DEF(latent=(2,), epochs=2, random_state=0).fit(X[:1]).transform(X[:1]).shape == (1, 2)


def test_no_array_of_rows_by_columns():
    B, D = 1000, 20_000
    x = sparse.random_array((B, D), density=1e-3, rng=np.random.default_rng(0)).tocsr()
    x.data = np.ceil(3 * x.data)
    model = models.DEF(D, latent=(4,), dtype="float64", n_rows=B)
    table = Table(x, dtype=np.float64)
    trainer = gvae.training.Trainer(model, n_rows=B)
    trainer.prepare(table)
    batch = table.batch(np.arange(B), KEY)
    trainer.step(batch)  # compiles
    tracemalloc.start()
    trainer.step(table.batch(np.arange(B), KEY))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.5 * 8 * B * D


# ---- both sides


def test_a_transposed_double_family_is_itself_with_sides_exchanged():
    n, d, latent = 5, 4, (3, 2)
    x = counts(n, d)
    model, turned = (
        models.DoubleDEF(size, latent=latent, dtype="float64", n_rows=rows, shape=0.6, weight_draws="each")
        for size, rows in ((d, n), (n, d))
    )
    params, batch = started(model, n), batch_of(x)
    noise = model.noise(KEY, batch, 4)

    def exchanged(values, l, size):
        """Of rows as of columns, row by row, and the other way round: unconstrained parameters, or noise (K, ...)."""
        k = latent[l - 1]
        if values.ndim == 1:  # columns: shapes, then means
            return values.reshape(2, size, k).transpose(1, 0, 2).reshape(size, 2 * k)
        return values.reshape(size, 2, k).transpose(1, 0, 2).ravel()

    other = {"weights1.raw": params["column_weights1.raw"], "column_weights1.raw": params["weights1.raw"]}
    moved = {"all.weights1": noise["all.column_weights1"], "all.column_weights1": noise["all.weights1"]}
    for l, k in enumerate(latent, 1):
        other[f"z{l}.raw"] = exchanged(params[f"columns{l}.raw"], l, d)
        other[f"columns{l}.raw"] = exchanged(params[f"z{l}.raw"], l, n)
        moved[f"z{l}"] = noise[f"all.columns{l}"].reshape(4, d, k)
        moved[f"all.columns{l}"] = noise[f"z{l}"].reshape(4, n * k)
    one = n * objectives.ELBO()(model.terms(params, {}, batch, noise, step=0))[1]["bound"]
    two = d * objectives.ELBO()(turned.terms(other, {}, batch_of(sparse.csr_array(x.T)), moved, step=0))[1]["bound"]
    np.testing.assert_allclose(two, one, rtol=1e-12)


def test_a_double_family_of_one_layer_is_a_family_with_such_weights():
    n, d = 5, 4
    x = counts(n, d)
    double = models.DoubleDEF(d, latent=(3,), dtype="float64", n_rows=n, shape=0.6, top_mean=0.8)
    single = models.DEF(
        d, latent=(3,), dtype="float64", n_rows=n, shape=0.6, top_mean=0.8, weight_shape=0.6, weight_mean=0.8
    )
    params, batch = started(single, n), batch_of(x)
    other = {"z1.raw": params["z1.raw"], "columns1.raw": params["weights0.raw"]}
    noise = single.noise(KEY, batch, 3)
    moved = {"z1": noise["z1"], "all.columns1": noise["all.weights0"]}
    values = [
        objectives.ELBO()(model.terms(p, {}, batch, e, step=0))[0]
        for model, p, e in ((single, params, noise), (double, other, moved))
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-13)


def test_bits_on_both_sides_are_refused():
    with pytest.raises(ConfigError, match="kind"):
        models.DoubleDEF(4, latent=(2,), kind="sigmoid", n_rows=3)


@pytest.mark.parametrize("estimator", [gvae.DEF, gvae.DoubleDEF])
def test_a_run_that_was_interrupted_resumes_with_the_same_bits(estimator, tmp_path):
    settings = {"latent": (3, 2), "epochs": 3, "batch_size": 16, "row_steps": 1, "random_state": 1, "average": "ema:0.9"}
    X = counts(40, 5)
    estimator(**settings).fit(X, run=tmp_path / "whole")
    with pytest.raises(StoppedError):
        estimator(**settings).fit(X, run=tmp_path / "parts", stop=after(4))
    estimator(**settings).fit(X, run=tmp_path / "parts", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def test_completion_explains_seen_counts_by_a_share_of_the_rates():
    """Bits cannot scale their rates: what is seen of a row must not look like a row of other bits."""
    from gvae.evaluation import complete

    n, d = 40, 12
    g = np.random.default_rng(0)
    groups = g.integers(0, 2, n)
    x = g.poisson(np.where(groups[:, None] == (np.arange(d) >= d // 2), 20.0, 1.0)).astype(np.float64)
    settings = {"latent": (2,), "kind": "sigmoid", "samples": 10, "epochs": 60, "learning_rate": 0.1, "random_state": 0}
    model = gvae.DEF(**settings).fit(x)
    seen, held = gvae.data.split_counts(sparse.csr_array(x), 0.3, key=KEY)
    found = complete(model.model_, model.parameters_, Table(seen, dtype=np.float64), held, seen=0.3).summary()
    assert found["held_out"] == held.sum()
    uniform, best = d, np.exp(np.log(6 * 21 / 20) * 20 / 21 + np.log(6 * 21.0) / 21)
    assert best * 0.97 < found["perplexity"] < 0.5 * (best + uniform)
    whole = complete(model.model_, model.parameters_, Table(seen, dtype=np.float64), held, seen=1.0).summary()
    assert found["perplexity"] < whole["perplexity"]


# ---- what the units stand for


def parts(n=100, seed=0):
    """Rows with counts in one of two sets of columns."""
    return np.kron(np.eye(2), np.ones((n // 2, 4))) * np.random.default_rng(seed).poisson(6.0, size=(n, 8))


@pytest.mark.parametrize("cls", [gvae.DEF, gvae.DoubleDEF])
def test_top_words_are_those_of_the_weights(cls):
    model = cls(latent=(2, 2), epochs=60, random_state=0).fit(parts())
    found = model.top_words(4)
    assert {name: words.shape for name, words in found.items()} == {"z1": (2, 4), "z2": (2, 4)}
    assert sorted(sorted(unit) for unit in found["z1"].tolist()) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    W = [w.mean(model.parameters_) for w in (model.model_.output, *model.model_.stack.weights)]
    for layer, product in (("z1", W[0]), ("z2", W[0] @ W[1])):
        taken = np.take_along_axis(product, found[layer].T, axis=0)
        assert (np.diff(taken, axis=0) <= 0).all()
        np.testing.assert_allclose(taken.min(axis=0), np.sort(product, axis=0)[-4], rtol=1e-12)
    assert model.top_words(100)["z1"].shape == (2, 8)
    for n in (0, -1, 1.5, "x", True):
        with pytest.raises(ConfigError, match="top_words: n is"):
            model.top_words(n)
    with pytest.raises(ConfigError, match="fit"):
        cls().top_words()


@pytest.mark.parametrize("kind", ["sigmoid", "poisson"])
def test_the_unit_that_is_always_one_has_no_words(kind):
    model = gvae.DEF(latent=(3, 2), kind=kind, epochs=2, random_state=0).fit(parts())
    shapes = {name: w.shape for name, w in model.model_.loadings(model.parameters_).items()}
    assert shapes == {"z1": (8, 3), "z2": (8, 2)}
    np.testing.assert_array_equal(
        model.model_.loadings(model.parameters_)["z1"], model.model_.output.mean(model.parameters_)[:, 1:]
    )


def test_sections_of_the_report():
    pd = pytest.importorskip("pandas")
    names = ["moon", "orbit", "crew", "launch", "goal", "match", "coach", "league"]
    x = pd.DataFrame(parts(), columns=names)
    model = gvae.DEF(latent=(2,), epochs=40, random_state=0).fit(x)
    found = sorted(sorted(unit) for unit in model.top_words(4)["z1"].tolist())
    assert found == sorted([sorted(names[:4]), sorted(names[4:])])
    (table,) = model.report_sections(x)["Units"]
    assert [row[0] for row in table.rows] == ["z1[0]", "z1[1]"]
    assert {word for row in table.rows for word in row[1].split(", ")} == set(names)
    images = np.random.default_rng(0).poisson(1.0, size=(20, 8, 8))
    model = gvae.DEF(latent=(3, 2), epochs=1, random_state=0).fit(images)
    one, two = model.report_sections(images)["Units"]
    assert (one.shape, one.rows[""].shape, two.rows[""].shape) == ((8, 8), (3, 64), (2, 64))
    assert one.rows[""].min() >= 0
    np.testing.assert_allclose(one.rows[""].max(axis=1), 1)
    (of_squares, _) = model.report_sections(images.reshape(20, 64))["Units"]
    assert of_squares.shape == (8, 8)


def test_runs_of_sparse_counts_are_drawn_with_their_names(gvae_, here):
    pytest.importorskip("matplotlib")
    x = parts().astype(int)
    with open("counts.csv", "w") as file:
        file.write("\n".join([",".join(f"word {j}" for j in range(8)), *(",".join(map(str, row)) for row in x)]) + "\n")
    flags = ["--model", "def", "--latent", "2", "--epochs", "2"]
    assert gvae_("train", "counts.csv", *flags, "--out", "named")[0] == 0
    assert gvae.load("named").top_words(1)["z1"][0, 0].startswith("word ")
    sparse.save_npz("counts.npz", sparse.csr_matrix(x))
    assert gvae_("train", "counts.npz", *flags, "--out", "sparse")[0] == 0
    assert gvae.load("sparse").top_words(1)["z1"].dtype.kind == "i"
    code, out, err = gvae_("plot", "sparse", "--first", "8", "--samples", "2")
    assert (code, err) == (0, "")
    assert "own.png" in out
