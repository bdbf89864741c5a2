"""Deep Gaussian processes against closed forms: linear regression, the exact process, dense formulas, products of maps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference
from gradcheck import check_vjp
from scipy import stats

import gvae
from gvae import data, random, training
from gvae.autodiff import value_and_gradient
from gvae.errors import ConfigError, NotPositiveDefiniteError
from gvae.models import DeepGP
from gvae.models.processes import Level, Uncertain, begun
from gvae.objectives import ELBO

KEY = random.key(3)
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def level(q=2, d=3, m=4, kernel="rbf", nugget=0.0, groups=None):
    return Level(0, q, groups or {"y": range(d)}, m, kernel, nugget)


def parameters(level, rng, posterior=False):
    """Random values of a level's parameters: inducing points well apart, so that K is far from singular."""
    params = {}
    for p in level.processes.values():
        params |= p.init(np.float64)
        params[f"kernel.{p.name}.log_precision"] = rng.normal(size=p.n_inputs) * 0.3
        params[f"inducing.{p.name}"] = (
            2
            * rng.permutation(np.stack(np.meshgrid(*[np.arange(4.0)] * p.n_inputs)).reshape(p.n_inputs, -1).T)[: p.inducing]
            - 3
        )
        params[f"inducing.{p.name}"] += 0.3 * rng.normal(size=(p.inducing, p.n_inputs))
        params[f"noise.{p.name}.log_precision"] = np.array(0.7)
        if level.processes[next(iter(level.processes))].kernel == "rbf":
            params[f"kernel.{p.name}.log_scale"] = np.array(0.4)
        if posterior:
            params[f"outputs.{p.name}.mean"] = rng.normal(size=(p.inducing, p.n_outputs))
            params[f"outputs.{p.name}.raw"] = 0.3 * rng.normal(size=(p.n_outputs, p.inducing, p.inducing))
    return params


def uncertain(rng, n, q):
    return Uncertain(rng.normal(size=(n, q)), rng.uniform(0.05, 0.8, size=(n, q)))


def hyper(params, name="0.y"):
    """a, s, Z, beta."""
    a, s = np.exp(params[f"kernel.{name}.log_precision"]), np.exp(params.get(f"kernel.{name}.log_scale", 0.0))
    return a, s, params[f"inducing.{name}"], np.exp(params[f"noise.{name}.log_precision"])


def dense_bound(x, t, a, s, z, beta, linear=False):
    """F by inverses and determinants, as the papers write it."""
    n, d = t.mean.shape
    if linear:
        psi1, second = x.mean * a @ z.T, x.mean.T @ x.mean + np.diag(x.variance.sum(axis=0))
        psi0, psi2, k = np.sum(a * np.diag(second)), z * a @ second @ (z * a).T, z * a @ z.T
    else:
        psi0, psi1, psi2 = n * s, *(f(x.mean, x.variance, z, a, s) for f in (reference.psi1, reference.psi2))
        k = reference.psi1(z, np.zeros_like(z), z, a, s)
    w = beta * np.eye(n) - beta**2 * psi1 @ np.linalg.inv(beta * psi2 + k) @ psi1.T
    f = 0.5 * n * math.log(beta / (2 * math.pi)) + 0.5 * np.linalg.slogdet(k)[1]
    f += -0.5 * np.linalg.slogdet(beta * psi2 + k)[1] - 0.5 * beta * (psi0 - np.trace(np.linalg.inv(k) @ psi2))
    square = t.mean @ t.mean.T + (0 if t.variance is None else np.diag(t.variance.sum(axis=1)))
    return d * f - 0.5 * np.trace(w @ square)


# ---- one level


def test_a_linear_kernel_is_linear_regression(rng):
    one = level(q=3, d=2, m=3, kernel="linear")
    params = parameters(one, rng)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    a, _, _, beta = hyper(params)
    evidence = stats.multivariate_normal(np.zeros(20), (x * a) @ x.T + np.eye(20) / beta).logpdf(y.T).sum()
    np.testing.assert_allclose(one.collapsed(params, Uncertain(x), Uncertain(y)), evidence, **EXACT)


def test_inducing_points_at_the_data_give_the_exact_process(rng):
    """Evidence, mean, deviation and covariances of draws are scikit-learn's."""
    gaussian_process, kernels = (pytest.importorskip(f"sklearn.gaussian_process{n}") for n in ("", ".kernels"))
    x, y, new = rng.normal(size=(25, 2)) * 3, rng.normal(size=(25, 1)), rng.normal(size=(9, 2)) * 3
    model = DeepGP({"x": 2, "y": 1}, latent=(), inducing=25, nugget=0.0, dtype="float64", n_rows=25)
    params = model.init(KEY) | parameters(level(d=1), rng) | {"inducing.0.y": x}
    a, s, _, beta = hyper(params)
    kernel = s * kernels.RBF(a**-0.5) + kernels.WhiteKernel(1 / beta)
    theirs = gaussian_process.GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(x, y)
    evidence = theirs.log_marginal_likelihood_value_
    np.testing.assert_allclose(model.levels[0].collapsed(params, Uncertain(x), Uncertain(y)), evidence, rtol=1e-8)
    _, state = model.settle(params, model.init_state(KEY), data.Table(x, y=y, dtype=np.float64))
    mean, variance = model.predict(params, state, data.Batch({"x": new}, np.arange(9)), {})
    expected, deviation = theirs.predict(new, return_std=True)
    np.testing.assert_allclose(mean[:, 0], expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.sqrt(variance[:, 0]), deviation, rtol=1e-8)
    draws = np.stack([model.functions(params, state, new, random.fold_in(KEY, i))[:, 0] for i in range(4000)])
    noiseless = theirs.predict(new, return_cov=True)[1] - np.eye(9) / beta
    spread = np.sqrt(np.outer(np.diag(noiseless), np.diag(noiseless)) / 2000)
    assert (np.abs(np.cov(draws.T) - noiseless) < 5 * spread + 1e-9).all()
    assert (np.abs(draws.mean(axis=0) - expected) < 5 * draws.std(axis=0) / 4000**0.5).all()


@pytest.mark.parametrize("targets", ["certain", "uncertain"])
@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_one_layer_is_the_dense_formula(rng, kernel, targets):
    """Of the Bayesian Gaussian process latent variable model, and with targets that have a distribution themselves."""
    one = level(q=2, d=3, m=5 if kernel == "rbf" else 2, kernel=kernel)
    params, x = parameters(one, rng), uncertain(rng, 12, 2)
    t = uncertain(rng, 12, 3) if targets == "uncertain" else Uncertain(rng.normal(size=(12, 3)))
    expected = dense_bound(x, t, *hyper(params), linear=kernel == "linear")
    np.testing.assert_allclose(one.collapsed(params, x, t), expected, **EXACT)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_the_explicit_bound_at_its_optimum_is_the_collapsed_one(rng, kernel):
    one = level(q=3, d=2, m=3, kernel=kernel)
    params, x, t = parameters(one, rng), uncertain(rng, 12, 3), Uncertain(rng.normal(size=(12, 2)))
    (process,) = one.processes.values()
    m, r = process.optimum(params, x, t)
    r = np.broadcast_to(r, (2, 3, 3))
    at_best = one.expected(params, {"y": (m, r)}, x, t) - process.cost((m, np.linalg.cholesky(r @ r.swapaxes(1, 2))))
    best = one.collapsed(params, x, t)
    np.testing.assert_allclose(at_best, best, **EXACT)
    for scale in (1e-3, 0.1, 1.0):
        other = m + scale * rng.normal(size=m.shape), np.linalg.cholesky(r @ r.swapaxes(1, 2)) + scale * np.eye(3)
        assert one.expected(params, {"y": other}, x, t) - process.cost(other) < best


def test_uncertain_targets_let_each_value_have_its_own_functions(rng):
    """The collapsed bound is E over the targets of the collapsed bound at each, hence above the explicit one; mean and
    covariance of v are those of v given the targets, averaged over these."""
    one = level(q=2, d=1, m=4)
    params, x, t = parameters(one, rng), uncertain(rng, 8, 2), uncertain(rng, 8, 1)
    (process,) = one.processes.values()
    m, r = process.optimum(params, x, t)
    draws = t.mean + np.sqrt(t.variance) * rng.normal(size=(400, 8, 1))
    values = np.array([float(one.collapsed(params, x, Uncertain(y))) for y in draws])
    assert abs(values.mean() - one.collapsed(params, x, t)) < 5 * values.std() / 20
    lead, given = process.optimum(params, x, Uncertain(np.eye(8)))  # of targets t, v has the mean lead @ t
    covariance = given[0] @ given[0].T + lead * t.variance[:, 0] @ lead.T
    np.testing.assert_allclose((r @ r.swapaxes(1, 2))[0], covariance, **EXACT)
    np.testing.assert_allclose(m, lead @ t.mean, **EXACT)
    assert one.expected(params, {"y": (m, r)}, x, t) - process.cost((m, r)) < one.collapsed(params, x, t) - 1e-3


def test_groups_are_models_of_their_own(rng):
    both = level(q=2, d=5, m=4, groups={"a": [0, 3], "b": [1, 2, 4]})
    params, x, t = parameters(both, rng), uncertain(rng, 9, 2), uncertain(rng, 9, 5)
    total = 0.0
    for name, columns in both.groups.items():
        process = both.processes[name]
        total += float(process.collapsed(params, x, Uncertain(t.mean[:, columns], t.variance[:, columns])))
    np.testing.assert_allclose(both.collapsed(params, x, t), total, **EXACT)
    q = {
        name: process.optimum(params, x, Uncertain(t.mean[:, both.groups[name]])) for name, process in both.processes.items()
    }
    mean, variance, noise = both.at(params, q, x.mean)
    for name, columns in both.groups.items():
        alone, spread = both.processes[name].at(params, q[name], x.mean)
        np.testing.assert_array_equal(mean[:, columns], alone)
        np.testing.assert_array_equal(variance[:, columns], np.broadcast_to(spread, alone.shape))
        np.testing.assert_allclose(noise[columns], 1 / both.processes[name].precision(params))


def test_a_singular_kernel_matrix_names_its_level(rng):
    one = Level(1, 2, {"z1": [0]}, 3, "rbf", 0.0)
    (process,) = one.processes.values()
    params = process.init(np.float64) | {"inducing.1.z1": np.zeros((3, 2))}
    with pytest.raises(
        NotPositiveDefiniteError, match=r"^level 1 \(z1\): the kernel matrix of 3 inducing points is singular"
    ):
        process.factor(params)
    assert np.isfinite(Level(1, 2, {"z1": [0]}, 3, "rbf", 1e-6).processes["z1"].factor(params)).all()


# ---- models


def deep(rng, bound="collapsed", latent=(2, 1), unsupervised=False, n=15, **given):
    """(model, params with those of rows, state, batch), after `prepare`, at random places."""
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 3))
    columns = {"x": y} if unsupervised else {"x": x, "y": y}
    settings = {"inducing": 5, "bound": bound, "unsupervised": unsupervised, "warm": 0} | given
    kind = DeepGP.variant(settings)
    model = kind({name: v.shape[1] for name, v in columns.items()}, latent=latent, dtype="float64", n_rows=n, **settings)
    table = data.Table(**columns, dtype=np.float64)
    start = model.init(KEY) | model.init_rows(KEY, n)
    params, state = model.prepare(start, model.init_state(KEY), table, KEY)
    params = {name: v + 0.1 * rng.normal(size=v.shape) for name, v in params.items()}
    _, state = model.settle(params, state, table)
    return model, params, state, data.Batch(columns, np.arange(n))


def bound_of(model, params, state, batch, noise):
    return ELBO()(model.terms(params, state, batch, noise, step=0))[0]


CASES = [
    ("collapsed", {}),
    ("collapsed", {"unsupervised": True}),
    ("collapsed", {"kernel": "linear", "inducing": 1}),
    ("collapsed", {"hidden_groups": (2, 1), "groups": {"a": [0, 2], "b": [1]}}),
    ("collapsed", {"unsupervised": True, "encoder": (3,)}),
    ("collapsed", {"encoder": ()}),
    ("explicit", {}),
    ("explicit", {"unsupervised": True}),
    ("sampled", {}),
    ("sampled", {"unsupervised": True}),
    ("sampled", {"unsupervised": True, "encoder": (3,)}),
    ("sampled", {"observation": "poisson"}),
]


@pytest.mark.parametrize(("bound", "given"), CASES)
def test_gradients(rng, bound, given):
    model, params, state, batch = deep(rng, bound, **given)
    if given.get("observation") == "poisson":
        batch.y = np.abs(batch.y).round()
    noise = model.noise(KEY, batch, 2)
    names = list(params)

    def value(*arrays):
        return bound_of(model, dict(zip(names, arrays, strict=True)), state, batch, noise)

    check_vjp(value, [params[name] for name in names], rng, rtol=1e-6)


@pytest.mark.parametrize("bound", ["collapsed", "explicit"])
def test_bounds_of_the_whole_model_are_sums_of_levels(rng, bound):
    model, params, state, batch = deep(rng, bound, unsupervised=True)
    q1, q2 = (Uncertain(q.mean, q.variance()) for q in model.code(params, state, batch).values())
    expected = 0.0
    for one, x, t in zip(model.levels, (q1, q2), (Uncertain(batch.x), q1), strict=True):
        if bound == "collapsed":
            expected += one.collapsed(params, x, t)
        else:
            (name,) = one.processes
            q = {name: one.processes[name].posterior(params)}
            expected += one.expected(params, q, x, t) - one.cost(q)
    expected += 0.5 * np.log(2 * np.pi * np.e * q1.variance).sum()
    expected -= 0.5 * (q2.variance + q2.mean**2 - 1 - np.log(q2.variance)).sum()
    found = 15 * bound_of(model, params, state, batch, model.noise(KEY, batch))
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("bound", ["collapsed", "explicit", "sampled"])
def test_the_order_of_rows_does_not_matter(rng, bound):
    model, params, state, batch = deep(rng, bound)
    noise, order = model.noise(KEY, batch), rng.permutation(15)
    moved = {name: v[order] if name in ("z1.raw", "z2.raw") else v for name, v in params.items()}
    other = data.Batch({name: getattr(batch, name)[order] for name in ("x", "y")}, order)
    shuffled = {name: v[:, order] for name, v in noise.items()}
    found = bound_of(model, moved, state, other, shuffled)
    np.testing.assert_allclose(found, bound_of(model, params, state, batch, noise), **EXACT)


def test_the_sampled_bound_of_one_layer_is_the_explicit_one(rng):
    model, params, state, batch = deep(rng, "sampled", latent=())
    other, *_ = deep(rng, "explicit", latent=())
    noise = model.noise(KEY, batch)
    expected = bound_of(other, params, {}, batch, noise)
    np.testing.assert_allclose(bound_of(model, params, state, batch, noise), expected, **EXACT)


def test_the_explicit_bound_of_batches_has_the_mean_of_all_rows(rng):
    model, params, state, batch = deep(rng, "explicit")

    def part(rows):
        own = {name: params[name][rows] for name in ("z1.raw", "z2.raw")}
        some = data.Batch({name: getattr(batch, name)[rows] for name in ("x", "y")}, rows)
        return bound_of(model, params | own, state, some, model.noise(KEY, some))

    parts = [part(np.arange(5 * i, 5 * i + 5)) for i in range(3)]
    np.testing.assert_allclose(np.mean(parts), part(np.arange(15)), **EXACT)


def test_two_linear_layers_are_a_product_of_maps(rng):
    """Draws of the prior: y = X W_1 W_0, with E y yᵀ = (sum_q a_0q) X A_1 Xᵀ."""
    model = DeepGP({"x": 3, "y": 1}, latent=(2,), inducing=2, kernel="linear", nugget=0.0, dtype="float64", n_rows=9)
    params, state = model.init(KEY), model.init_state(KEY)
    params |= {
        "inducing.0.y": np.eye(2),
        "inducing.1.z1": rng.normal(size=(2, 3)),
        "noise.1.z1.log_precision": np.array(40.0),
    }
    params["kernel.1.z1.log_precision"], params["kernel.0.y.log_precision"] = rng.normal(size=3), rng.normal(size=2)
    x = rng.normal(size=(6, 3))
    draws = np.stack([model.functions(params, state, x, random.fold_in(KEY, i))[:, 0] for i in range(4000)])
    maps = np.linalg.lstsq(x, draws[:50].T, rcond=None)[0]
    np.testing.assert_allclose(x @ maps, draws[:50].T, atol=1e-5)
    products = draws[:, :, None] * draws[:, None, :]
    expected = np.exp(params["kernel.0.y.log_precision"]).sum() * (x * np.exp(params["kernel.1.z1.log_precision"])) @ x.T
    assert (np.abs(products.mean(axis=0) - expected) < 5 * products.std(axis=0) / 4000**0.5).all()


def test_encoders_that_hit_the_rows_parameters_have_their_bound(rng):
    rows, params, state, batch = deep(rng, "collapsed", latent=(2,), unsupervised=True)
    model, encoded, *_ = deep(rng, "collapsed", latent=(2,), unsupervised=True, encoder=())
    weight, bias = 0.3 * rng.normal(size=(3, 4)), rng.normal(size=4)
    raw = batch.x @ weight + bias
    shared = {name: v for name, v in params.items() if name in encoded}
    found = bound_of(model, encoded | shared | {"z1.0.weight": weight, "z1.0.bias": bias}, state, batch, {})
    np.testing.assert_allclose(found, bound_of(rows, params | {"z1.raw": raw}, state, batch, {}), **EXACT)


def test_scored_rows_are_explained_by_draws_through_the_layers(rng):
    """log p(y | x) of two layers, by a loop over draws of z_1."""
    model, params, state, batch = deep(rng, "collapsed", latent=(2,))
    noise = model.noise(KEY, batch, 50)
    terms = model.terms(params, state, batch, noise)
    top, bottom = model.levels[1], model.levels[0]
    mean, variance, extra = top.at(params, model._posteriors(params, state, top), batch.x)
    for k in (0, 49):
        z = mean + np.sqrt(variance + extra) * noise["z1"][k]
        out, spread, own = bottom.at(params, model._posteriors(params, state, bottom), z)
        expected = stats.norm(out, np.sqrt(spread + own)).logpdf(batch.y).sum(axis=1)
        np.testing.assert_allclose(terms.log_weights[k], expected, **EXACT)
    assert terms.layers[0].kl.sum() == 0


def test_moments_of_predictions_are_those_of_draws(rng):
    model, params, state, batch = deep(rng, "collapsed", latent=(2,))
    params |= {"noise.1.z1.log_precision": np.array(0.0)}
    mean, variance = model.predict(params, state, batch, model.noise(KEY, batch, 4000))
    draws = np.stack([model.functions(params, state, batch.x[:3], random.fold_in(KEY, i)) for i in range(4000)])
    noise = model.levels[0].noise(params)
    assert (np.abs(draws.mean(axis=0) - mean[:3]) < 5 * draws.std(axis=0) / 45).all()
    np.testing.assert_allclose(draws.var(axis=0) + noise, variance[:3], rtol=0.15)
    given = np.asarray(model.layer(params, state, 0, batch.x[:3, :2]).variance())
    assert (variance[:3] > 1.3 * given).any(), "draws of the hidden layer add to the variance"


def test_a_warm_start_holds_the_noise(rng):
    model, params, state, batch = deep(rng, "collapsed", warm=2)

    def slope(step):
        return value_and_gradient(lambda p: ELBO()(model.terms(p, state, batch, {}, step=step))[0], params)[1]

    first, later = slope(1), slope(2)
    for name in params:
        if name.startswith("noise."):
            assert first[name] == 0 != later[name]
        else:
            np.testing.assert_allclose(first[name], later[name])


def test_layers_begin_as_principal_components(rng):
    x = rng.normal(size=(30, 4)) * [5, 1, 0.1, 1e-12]
    first, second = begun(x, (3, 2))
    assert abs(np.corrcoef(first[:, 0], x[:, 0])[0, 1]) > 0.99
    np.testing.assert_allclose(first.var(axis=0), 1)
    np.testing.assert_array_equal(first[:, :2], second)
    one, wide = begun(x[:, :1], (1, 3))
    assert (wide[:, 1:] == 0).all()
    assert abs(np.corrcoef(one[:, 0], x[:, 0])[0, 1]) > 0.999999


def test_training_resumes_with_the_same_bits(tmp_path, rng):
    x = rng.uniform(-1, 1, size=(30, 1))
    y = np.sign(x[:, 0]) + 0.01 * rng.normal(size=30)
    settings = {"latent": (1,), "inducing": 8, "optimizer": "lbfgs:5", "random_state": 1}
    whole = gvae.DeepGP(epochs=5, **settings).fit(x, y)
    gvae.DeepGP(epochs=2, **settings).fit(x, y, run=tmp_path / "run")
    resumed = gvae.DeepGP(epochs=5, **settings).fit(x, y, run=tmp_path / "run", resume=True)
    assert all(np.array_equal(value, resumed.parameters_[name]) for name, value in whole.parameters_.items())
    assert all(np.array_equal(value, resumed.state_[name]) for name, value in whole.state_.items())


def test_two_layers_fit_a_step(rng):
    """Where one process is smooth on both sides or on none."""
    x = np.sort(rng.uniform(-1, 1, size=50))[:, None]
    y = np.sign(x[:, 0]) + 0.01 * rng.normal(size=50)
    new = np.linspace(-1, 1, 200)[:, None]
    new = new[np.abs(new[:, 0]) > 0.1]
    one, two = (
        gvae.DeepGP(latent=n, inducing=20, epochs=4, random_state=0).fit(x, y).score_samples(new, np.sign(new[:, 0])).mean()
        for n in ((), (1,))
    )
    assert two > one + 0.5


def test_a_new_row_is_inferred(rng):
    """Its code is near that of the same training row, though it begins anywhere."""
    z = rng.normal(size=(40, 1))
    y = np.concatenate([np.sin(z), np.cos(z), z], axis=1) + 0.02 * rng.normal(size=(40, 3))
    model = gvae.DeepGP(latent=(1,), inducing=15, epochs=4, unsupervised=True, random_state=0).fit(y)
    assert abs(np.corrcoef(model.embedding_[:, 0], z[:, 0])[0, 1]) > 0.95
    assert abs(np.corrcoef(model.transform(y)[:, 0], model.embedding_[:, 0])[0, 1]) > 0.95


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "float32"}, "dtype is float32, expected float64 for bound='collapsed'"),
        ({"observation": "poisson"}, "observation is 'poisson', expected gaussian with bound='collapsed'"),
        ({"hidden_groups": (3,)}, "hidden_groups is "),
        ({"groups": {"a": [0, 1], "b": [1, 2]}}, "expected each of the 3 columns of y in one of them"),
        ({"groups": {"a": [0, 1]}}, "expected each of the 3 columns of y in one of them"),
        ({"groups": {"a": [0, 1, 2], "b": [3]}}, "expected each of the 3 columns of y in one of them"),
        ({"bound": "sampled", "encoder": (3,)}, "encoder is for q"),
        ({"n_rows": 0}, "n_rows is 0"),
    ],
)
def test_settings_that_do_not_fit(given, message):
    settings = {"latent": (2,), "inducing": 4, "dtype": "float64", "n_rows": 9} | given
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        DeepGP({"x": 2, "y": 3}, **settings)


def test_all_rows_belong_to_a_step_of_the_collapsed_bound(rng):
    x, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    with pytest.raises(ConfigError, match="batches have 10 rows"):
        gvae.DeepGP(optimizer="adam", batch_size=10).fit(x, y)
    with pytest.raises(ConfigError, match="rows cannot have weights"):
        gvae.DeepGP(epochs=1).fit(x, y, sample_weight=np.linspace(1, 2, 30))
    with pytest.raises(ConfigError, match="unsupervised, and has no y to predict"):
        gvae.DeepGP(unsupervised=True, epochs=1, latent=(1,)).fit(x).predict(x)


def test_more_inducing_points_than_rows_are_as_many_as_rows():
    assert DeepGP({"x": 2, "y": 1}, inducing=40, dtype="float64", n_rows=9).levels[0].inducing == 9
    with pytest.raises(ConfigError, match="DeepGP: a process with 1000000000 inducing points needs more than"):
        DeepGP({"x": 2, "y": 1}, inducing=10**9, dtype="float64", n_rows=10**9)


def test_trainer_takes_rows_and_parameters_together(rng):
    """A round of L-BFGS never lowers the bound, whose rows' parameters move with the others."""
    model, *_, batch = deep(rng, "collapsed", latent=(1,))
    trainer = training.Trainer(model, optimizer="lbfgs:10", n_rows=15, seed=0)
    table = data.Table(batch.x, y=batch.y, dtype=np.float64)
    _, log = training.train(model, table, epochs=6, batch_size=15, trainer=trainer)
    bounds = [row["train_bound"] for row in log.rows]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize("bound", ["explicit", "sampled", "collapsed"])
@pytest.mark.parametrize("unsupervised", [False, True])
def test_training_on_a_device(anywhere, rng, bound, unsupervised):
    x = rng.normal(size=(24, 2))
    y = np.stack([np.sin(x[:, 0]), x[:, 1] ** 2, x.sum(axis=1)], axis=1)
    given = (y,) if unsupervised else (x, y)
    settings = {"bound": bound, "inducing": 6, "optimizer": "adam", "epochs": 3, "learning_rate": 1e-2, "random_state": 1}
    settings |= {"latent": (2, 1), "unsupervised": unsupervised, "warm": 1}
    here, there = (
        gvae.DeepGP(**settings, device=device).fit(*given, validation=y[:2] if unsupervised else given)
        for device in ("cpu", "cuda")
    )
    for name, value in here.parameters_.items():
        np.testing.assert_allclose(there.parameters_[name], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(there.transform(given[0][:3]), here.transform(given[0][:3]), rtol=1e-3, atol=1e-5)
