"""Divergences of the codes' marginal from the prior: what equals what, moments of the estimates, gradients, a critic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import integrate, optimize, special

from gvae import VAE, autodiff, models, objectives, random, training
from gvae.autodiff import value_and_gradient
from gvae.data import Batch, Table
from gvae.distributions import BernoulliDistribution, DiagonalGaussian
from gvae.errors import ConfigError, DataError
from gvae.evaluation import Subject, evaluate, mmd, table
from gvae.objectives import MMD, Info, JensenShannon, Layer, Terms, parse
from gvae.training.program import Launches

rng = np.random.default_rng(0)
N, D, LATENT = 40, 5, 3
X = rng.normal(size=(N, D)) @ rng.normal(size=(D, D))


def small(**settings):
    about = {"posterior": "diagonal", "observation": "gaussian", "hidden": (4,), "dtype": "float64"}
    return models.VAE(D, LATENT, **about | settings)


def perturbed(model):
    r = np.random.default_rng(0)
    start = model.init(random.key(0))
    return {name: (v + 0.3 * r.normal(size=v.shape)).astype(v.dtype) for name, v in start.items()}


def terms_of(model, params, K=2, rows=X, weight=None):
    batch = Batch({"x": rows.astype(model.dtype)}, np.arange(len(rows)), weight)
    return model.terms(params, {}, batch, model.noise(random.key(1), batch, K), 0)


def value_of(objective, model, K=2, weight=None, params=None, step=3):
    """(value, gradient, metrics) of an objective."""
    params = perturbed(model) if params is None else params
    seen = {}

    def f(p):
        value, metrics = objective(terms_of(model, p, K, weight=weight), step, weight)
        seen.update({name: float(autodiff.value_of(x)) for name, x in metrics.items()})
        return value

    value, gradient = value_and_gradient(f, params)
    return value, gradient, seen


def of_codes(z, p=None, q=None):
    """Terms of given codes (K, B, n), as draws of N(0, I), or of q by their noise."""
    q = DiagonalGaussian(np.zeros(z.shape[1:]), np.zeros(z.shape[1:])) if q is None else q
    return Terms({}, [Layer(q, p, q.sample(z), z)])


# ---- what equals what ----------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"posterior": "chain"}, {"prior": "ar1"}, {"dtype": "float32"}])
@pytest.mark.parametrize("weight", [None, np.linspace(0.5, 2, N)])
@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("info:alpha=0,lambda=1", "elbo"),
        ("info:alpha=0.7,lambda=0.3", "elbo:beta=0.3"),
        ("info:alpha=-1,lambda=2", "elbo:beta=2"),
        ("info:alpha=1,lambda=0", "elbo:beta=0"),
    ],
)
def test_without_a_divergence_the_bits_are_those_of_the_elbo(text, plain, settings, weight):
    model = small(**settings)
    weight = None if weight is None else weight.astype(model.dtype)
    value, gradient, metrics = value_of(parse(text, 10), model, weight=weight)
    expected, other, bound = value_of(parse(plain, 10), model, weight=weight)
    assert value == expected
    assert all(np.array_equal(gradient[name], other[name]) for name in other)
    assert metrics["bound"] == bound["bound"]
    assert metrics.keys() - bound.keys() <= {"objective", "divergence"}


def test_the_parts_add_up():
    model = small()
    value, _, m = value_of(parse("info:alpha=0.25,lambda=8"), model)
    assert_allclose(value, m["log_likelihood"] - 0.75 * m["kl"] - 7.25 * m["divergence"], rtol=1e-13)
    assert_allclose(m["objective"], value)
    assert_allclose(m["bound"], m["log_likelihood"] - m["kl"], rtol=1e-13)
    half = value_of(parse("info:alpha=0.25,lambda=8", 8), model, step=3)[0]  # half of both weights
    assert_allclose(half, m["log_likelihood"] - (0.75 * m["kl"] + 7.25 * m["divergence"]) / 2, rtol=1e-13)
    balanced = value_of(parse("info:alpha=0.25,lambda=balance"), model)[0]
    ratio = abs(m["log_likelihood"] / m["divergence"])
    assert_allclose(balanced, m["log_likelihood"] - 0.75 * m["kl"] - (ratio - 0.75) * m["divergence"], rtol=1e-13)


def test_a_balanced_weight_is_a_constant():
    model = small()
    m = value_of(parse("info:lambda=balance"), model)[2]
    gradient = value_of(parse("info:lambda=balance"), model)[1]
    fixed = value_of(Info(lambda_=abs(m["log_likelihood"] / m["divergence"])), model)[1]
    for name in fixed:
        assert_allclose(gradient[name], fixed[name], rtol=1e-12, atol=1e-12)


# ---- the statistic -------------------------------------------------------------------------------


def by_hand(z, w, kernel, b, y=None):
    """MMD² by loops over rows, with p = N(0, I) in closed form, or by its draws y."""
    B, n = z.shape[1:]

    def k(x, y):
        r = ((x - y) ** 2).sum(-1)
        return np.exp(-r / b) if kernel == "rbf" else b / (b + r)

    total = paid = 0.0
    for i in range(B):
        for j in range(B):
            if i != j:
                parts = k(z[:, i, None], z[None, :, j]).mean()
                if y is not None:
                    parts += k(y[:, i, None], y[None, :, j]).mean()
                    parts -= k(z[:, i, None], y[None, :, j]).mean() + k(y[:, i, None], z[None, :, j]).mean()
                total, paid = total + w[i] * w[j] * parts, paid + w[i] * w[j]
    if y is not None:
        return total / paid
    s2 = b / 2
    to_p = (s2 / (s2 + 1)) ** (n / 2) * np.exp(-(z**2).sum(-1) / (2 * (s2 + 1)))
    return total / paid - 2 * (w * to_p.mean(0)).sum() / w.sum() + (s2 / (s2 + 2)) ** (n / 2)


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("weight", [None, np.array([0.5, 1, 2, 0, 3, 1.5])])
@pytest.mark.parametrize(("kernel", "b"), [("rbf", None), ("rbf", 0.7), ("imq", None), ("imq", 5.0)])
def test_it_is_the_mean_over_pairs_of_rows(K, weight, kernel, b):
    noise = rng.normal(size=(K, 6, LATENT))
    q = DiagonalGaussian(rng.normal(size=(6, LATENT)), 0.3 * rng.normal(size=(6, LATENT)))
    z, w = q.sample(noise), np.ones(6) if weight is None else weight
    for closed in (True, False):
        drawn = None if closed and kernel == "rbf" else noise
        expected = by_hand(z, w, kernel, LATENT if b is None else b, drawn)
        assert_allclose(MMD(kernel, b, closed)(of_codes(noise, q=q), weight), expected, rtol=1e-11, atol=1e-13)
    p = DiagonalGaussian(np.array([1.0, 0.0, -1.0]), np.log([0.5, 1.0, 2.0]))
    expected = by_hand(z, w, kernel, LATENT if b is None else b, p.sample(noise))
    assert_allclose(MMD(kernel, b)(of_codes(noise, p, q), weight), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_closed_forms_by_draws(n):
    y, z, b = rng.normal(size=(400_000, n)), rng.normal(size=n), 1.3
    k = np.exp(-((y - z) ** 2).sum(1) / b)
    other = np.exp(-((y[::2] - y[1::2]) ** 2).sum(1) / b)
    m = objectives.marginal
    for found, draws in ((m.mean_under_standard(z, b), k), (m.constant_under_standard(n, b), other)):
        assert abs(found - draws.mean()) < 5 * draws.std() / math.sqrt(len(draws))


@pytest.mark.parametrize(("K", "v"), [(1, 0.01), (4, 0.5)])
def test_at_the_prior_its_mean_is_0(K, v):
    # Rows have codes q(z|x) = N(m, v) of their own, m ~ N(0, 1 - v): q(z) is N(0, I), and draws of a row are alike.
    repetitions, B, n = 10_000, 6, 2
    r = np.random.default_rng(7)
    closed, full, own = np.empty(repetitions), np.empty(repetitions), np.empty(repetitions)
    for i in range(repetitions):
        q = DiagonalGaussian(math.sqrt(1 - v) * r.normal(size=(B, n)), np.full((B, n), 0.5 * math.log(v)))
        terms = of_codes(r.normal(size=(K, B, n)), q=q)
        closed[i], full[i] = MMD()(terms), MMD(closed=False)(terms)
        z = terms.layers[0].z
        if K > 1:  # pairs of the same row, too
            k = np.exp(-((z.reshape(-1, 1, n) - z.reshape(1, -1, n)) ** 2).sum(-1) / n)
            every = (k.sum() - K * B) / (K * B * (K * B - 1))
            apart = by_hand_mean(k, K, B)
            own[i] = closed[i] + every - apart
    for found in (closed, full):
        assert abs(found.mean()) < 4 * found.std() / math.sqrt(repetitions)
    if K == 1:  # draws of p that are nearly independent of z
        assert closed.std() < full.std()
    else:
        assert own.mean() > 10 * own.std() / math.sqrt(repetitions)


def by_hand_mean(k, K, B):
    apart = 1 - np.eye(B)[None, :, None, :]
    return (k.reshape(K, B, K, B) * apart).sum() / (K * K * B * (B - 1))


def test_away_from_the_prior_both_have_the_mean_of_the_closed_form():
    # q(z) = N(a, v), by the closed forms of a Gaussian kernel: E k(z, z') with variance s² + 2 v
    r, repetitions, B, a, v, b = np.random.default_rng(8), 4000, 8, 0.8, 0.3, 1.0
    s2 = b / 2

    def mean_kernel(m, spread):
        return math.sqrt(s2 / (s2 + spread)) * math.exp(-(m**2) / (2 * (s2 + spread)))

    expected = mean_kernel(0, 2 * v) - 2 * mean_kernel(a, 1 + v) + mean_kernel(0, 2)
    q = DiagonalGaussian(np.full((B, 1), a), np.full((B, 1), 0.5 * math.log(v)))
    found = [[f(of_codes(e, q=q)) for f in (MMD(bandwidth=b), MMD(bandwidth=b, closed=False))]
             for e in r.normal(size=(repetitions, 1, B, 1))]  # fmt: skip
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(repetitions)
    assert (np.abs(means - expected) < 4 * errors).all()
    assert errors[0] < errors[1]


def test_codes_far_away_are_no_nearer_than_0():
    z = np.float32(3e4) + np.float32(0.01) * rng.normal(size=(50, 3)).astype(np.float32)  # |z|² is rounded to hundreds
    for kernel in ("rbf", "imq"):
        k = objectives.marginal.gram(z, z, kernel, 1.0)
        assert 0 <= k.min() <= k.max() <= 1


def test_a_v_statistic_is_larger_by_its_diagonal():
    z, B = rng.normal(size=(1, 9, 2)), 9
    k = np.exp(-((z[0, :, None] - z[0]) ** 2).sum(-1) / 2)
    u = MMD()(of_codes(z)) + 2 * objectives.marginal.mean_under_standard(z, 2.0).mean() - 2 / 6
    assert_allclose(k.mean() - u, (1 - u) / B, rtol=1e-10)


@pytest.mark.parametrize("text", ["info:lambda=30", "info:alpha=0.5,lambda=4,kernel=imq,bandwidth=2", "info:lambda=7"])
@pytest.mark.parametrize("settings", [{"posterior": "chain"}, {"prior": "ar1"}])
def test_gradient_by_differences(text, settings):
    model, objective, weight = small(activation="tanh", **settings), parse(text), np.linspace(0.5, 2, N)
    params = perturbed(model)
    gradient = value_of(objective, model, weight=weight, params=params)[1]
    r = np.random.default_rng(3)
    way = {name: r.normal(size=v.shape) for name, v in params.items()}

    def along(t):
        moved = {name: v + t * way[name] for name, v in params.items()}
        return value_of(objective, model, weight=weight, params=moved)[0]

    h = 1e-5
    slope = sum((gradient[name] * way[name]).sum() for name in params)
    assert_allclose(slope, (along(h) - along(-h)) / (2 * h), rtol=1e-7)


@pytest.mark.parametrize("text", ["info:lambda=1000", "info:lambda=1000,kernel=imq"])
def test_single_precision(text):
    model, single = small(), small(dtype="float32")
    params = perturbed(model)
    low = {name: v.astype(np.float32) for name, v in params.items()}
    value, gradient, _ = value_of(parse(text), model, params={name: v.astype(np.float64) for name, v in low.items()})
    batch = Batch({"x": X.astype(np.float32)}, np.arange(N))
    noise = model.noise(random.key(1), Batch({"x": X}, np.arange(N)), 2)
    noise = {name: v.astype(np.float32) for name, v in noise.items()}

    def f(p):
        return parse(text)(single.terms(p, {}, batch, noise, 0))[0]

    found, rough = value_and_gradient(f, low)
    assert found.dtype == np.float32
    assert_allclose(found, value, rtol=1e-4)
    size = math.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert all(np.abs(rough[name] - gradient[name]).max() < 1e-4 * size for name in gradient)


# ---- texts and refusals --------------------------------------------------------------------------


def test_texts():
    assert parse("info") == Info() == Info(1.0, 1000.0, MMD())
    assert parse("info:alpha=0.5,lambda=10,kernel=imq,bandwidth=3", 4) == Info(0.5, 10.0, MMD("imq", 3.0), 4)
    assert parse("info:divergence=js,lambda=balance") == Info(1.0, "balance", JensenShannon())
    for bad, message in {
        "info:": "unknown objective 'info:'",
        "info:3": "unknown setting '3'; info takes alpha=, lambda=, divergence=, kernel=, bandwidth=",
        "info:beta=1": "unknown setting 'beta=1'",
        "info:alpha=1.5": "alpha is '1.5', expected a number of at most 1",
        "info:alpha=0.5,lambda=0.2": "info: alpha \\+ lambda is 0.7, expected a number of at least 1",
        "info:lambda=x": "lambda is 'x', expected a number of at least 0, or balance",
        "info:divergence=kl": "divergence is 'kl', expected mmd or js",
        "info:kernel=laplace": "kernel is 'laplace', expected rbf or imq",
        "info:bandwidth=0": "bandwidth is '0', expected a positive number",
        "info:divergence=js,kernel=rbf": "kernel is a setting of divergence=mmd",
    }.items():
        with pytest.raises(ConfigError, match=message):
            parse(bad)
    with pytest.raises(ConfigError, match="gradient is 'stl', expected 'reparameterized'"):
        parse("info", gradient="stl")
    with pytest.raises(ConfigError, match="gradient 'local' is for the ELBO only"):
        parse("info", gradient="local")
    for bad in ({"alpha": 2}, {"lambda_": "auto"}, {"alpha": 0.1, "lambda_": 0.1}):
        with pytest.raises(ConfigError, match=r"^info: "):
            Info(**bad)
    with pytest.raises(ConfigError, match="MMD: unknown kernel 'cauchy'; known are rbf, imq"):
        MMD("cauchy")
    with pytest.raises(ConfigError, match="MMD: bandwidth is -1, expected a positive number"):
        MMD(bandwidth=-1)


def test_refusals():
    info = parse("info")
    model = small()
    with pytest.raises(ConfigError, match=r"info: a batch has one row, .* expected two or more .*: give larger batches"):
        info(terms_of(model, perturbed(model), rows=X[:1]))
    q = BernoulliDistribution(np.zeros((4, 2)))
    z = np.zeros((1, 4, 2))
    with pytest.raises(ConfigError, match="info: draws of BernoulliDistribution are not differentiable; expected a reparam"):
        info(Terms({"x": np.zeros((1, 4))}, [Layer(q, None, z, z + 0.5)]))
    mixed = small(prior="mixture:3")
    with pytest.raises(
        ConfigError, match="info: a prior that is a GaussianMixture has no differentiable draws from the noise of"
    ):
        info(terms_of(mixed, perturbed(mixed)))
    deep = models.Hierarchical(D, latent=(3, 2), hidden=(4,), observation="gaussian", dtype="float64")
    with pytest.raises(ConfigError, match="info: the prior of z1 depends on other draws"):
        info(terms_of(deep, perturbed(deep)))
    plain = models.Autoencoder(D, LATENT, observation="gaussian", hidden=(4,), dtype="float64")
    with pytest.raises(ConfigError, match="info: the divergence is of codes that are drawn, and this model draws none"):
        info(terms_of(plain, perturbed(plain)))
    with pytest.raises(ConfigError, match="info: it is for models of x with their KL"):
        info(Terms({"y": np.zeros((1, 4))}, [], conditional=True))
    with pytest.raises(ConfigError, match=r"divergence=js needs a critic, .* critic=\(100, 100\)"):
        parse("info:divergence=js")(terms_of(model, perturbed(model)))


def test_a_last_batch_of_one_row_is_left_out():
    about = {"latent": 2, "posterior": "diagonal", "observation": "gaussian", "hidden": (4,), "epochs": 3, "random_state": 0}
    mmd = VAE(**about, objective="info:lambda=2", batch_size=10, schedule="cosine").fit(X[:21], validation=X[:31])
    assert mmd.n_iter_ == 6
    assert mmd.events_ == [{"event": "last batch left out", "rows": 1, "least": 2}]
    assert np.isfinite(mmd.history_[-1]["validation_divergence"])
    for text, rows in (("info:lambda=2", 22), ("elbo", 21), ("info:lambda=2,divergence=js", 21)):  # a pair; no pairs
        other = VAE(**about, objective=text, batch_size=10, critic=(3,) if "js" in text else None).fit(X[:rows])
        assert (other.n_iter_, other.events_) == (9, [])
    for rows, settings, held, message in (
        (
            X,
            {"batch_size": 1},
            None,
            r"batches have 1 row \(batch_size is 1, of 40 rows\), but in a step of Info .* takes 2 or more",
        ),
        (
            X[:1],
            {"batch_size": 10},
            None,
            r"batches have 1 row \(batch_size is 10, of 1 rows\), but in a step of Info .* give larger",
        ),
        (X, {"batch_size": 10}, X[:1], "there are 1 validation rows, expected 2 or more, as in a batch"),
    ):
        with pytest.raises(ConfigError, match=f"^train: {message}"):
            VAE(**about, objective="info:lambda=2", **settings).fit(rows, validation=held)


def test_held_out_rows_are_in_batches_of_two_or_more():
    model = small()
    trainer = training.Trainer(model, objective=parse("info:lambda=2"), parameters=perturbed(model))
    seen = []
    trainer.objective = lambda terms, *more: seen.append(terms.layers[0].z.shape[1]) or Info()(terms, *more)
    trainer.objective.least_rows = Info().least_rows
    for n, size, expected in ((21, 10, [11, 10]), (20, 10, [10, 10]), (9, 2, [3, 3, 3]), (3, 2, [3]), (11, 10, [11])):
        seen.clear()
        trainer.validate(Table(X[:n]), batch_size=size)
        assert seen == expected


# ---- models --------------------------------------------------------------------------------------


def test_several_codes_are_joined():
    model = models.DLGM(D, latent=(3, 2), hidden=(4,), observation="gaussian", dtype="float64")
    terms = terms_of(model, perturbed(model))
    z = np.concatenate([layer.z for layer in terms.layers], axis=-1)
    assert_allclose(MMD()(terms), by_hand(z, np.ones(N), "rbf", 5.0), rtol=1e-11)


@pytest.mark.parametrize("text", ["info:lambda=50", "info:lambda=balance,kernel=imq"])
def test_captured_steps_have_the_same_bits(text):
    table, found = Table(X.astype(np.float32)), []
    for programs in (True, False):
        model = small(dtype="float32")
        trainer = training.Trainer(model, objective=parse(text, 3), samples=2, programs=programs)
        assert trainer.why_not == ("" if programs else "programs=False")
        trainer, _ = training.train(model, table, epochs=4, batch_size=10, trainer=trainer)
        assert trainer.why_not == ("" if programs else "programs=False")
        assert any(isinstance(kept, Launches) for kept in trainer.programs.known.values()) == programs
        found.append((dict(trainer.parameters), trainer.validate(table)["divergence"]))
    for name, value in found[0][0].items():
        assert_array_equal(value, found[1][0][name])
    assert found[0][1] == found[1][1]


def test_an_estimator_learns_a_marginal():
    r = np.random.default_rng(2)
    x = r.normal(size=(300, 2)) @ r.normal(size=(2, 6)) + 0.3 * r.normal(size=(300, 6))
    about = {"latent": 2, "posterior": "diagonal", "observation": "gaussian", "hidden": (16,), "epochs": 30}
    about |= {"learning_rate": 1e-2, "random_state": 0}
    free = VAE(**about, objective="info:alpha=1,lambda=0").fit(x)
    tied = VAE(**about, objective="info:alpha=1,lambda=300").fit(x)

    def mmd(model):
        q = model.codes(x)["z"]
        return MMD()(of_codes(q[None], q=DiagonalGaussian(np.zeros_like(q), np.zeros_like(q))))

    assert mmd(tied) < 0.2 * mmd(free)


# ---- Jensen-Shannon divergence -----------------------------------------------------------------

M = np.array([1.2, -0.5])


def between(m):
    """The Jensen-Shannon divergence of N(m, I) and N(0, I), by quadrature along m."""
    size = float(np.linalg.norm(m))

    def f(t):
        p, q = (math.exp(-((t - a) ** 2) / 2) / math.sqrt(2 * math.pi) for a in (0, size))
        half = (p + q) / 2
        return sum(0.5 * d * math.log(d / half) for d in (p, q))

    return integrate.quad(f, -9, 9 + size)[0]


def test_at_the_best_critic_it_is_the_divergence():
    rows = 200_000
    q = DiagonalGaussian(np.tile(M, (rows, 1)), np.zeros((rows, 2)))
    terms = of_codes(np.random.default_rng(4).normal(size=(1, rows, 2)), q=q)

    def value_at(x):  # of the critic c(z) = z w + b
        terms.critic = lambda z: ((z @ x[:2, None]) + x[2])[..., 0]
        return JensenShannon()(terms)

    best = np.array([*-M, M @ M / 2])  # log N(z; 0, I) - log N(z; m, I)
    value, slope = value_and_gradient(value_at, best)
    z = terms.layers[0].z[0]
    c = [y @ best[:2] + best[2] for y in (z - M, z)]
    each = -0.5 * (np.logaddexp(0, -c[0]) + np.logaddexp(0, c[1])) + math.log(2)
    assert_allclose(value, each.mean(), rtol=1e-12)
    assert abs(value - between(M)) < 4 * each.std() / math.sqrt(len(each))
    assert np.abs(slope).max() < 5e-3
    found = optimize.minimize(lambda x: [-v for v in value_and_gradient(value_at, x)], np.zeros(3), jac=True, tol=1e-4)
    assert_allclose(found.x, best, atol=0.02)
    assert value <= -found.fun < value + 1e-4  # the most that a critic reaches on these draws


def critic_model(**settings):
    return small(**{"critic": (6,), "dtype": "float32"} | settings)


def test_the_critic_ascends_and_the_others_descend():
    model = critic_model()
    params, objective = perturbed(model), parse("info:alpha=0.5,lambda=20,divergence=js")
    trainer = training.Trainer(model, objective=objective, parameters=params, programs=False)
    batch = Batch({"x": X.astype(np.float32)}, np.arange(N), None)
    noise = trainer.noise(random.key(1), batch)
    trainer.value_and_gradient(dict(trainer.parameters), batch, noise, trainer.inputs())

    def terms(p):
        return model.terms(p, {}, batch, noise, 0)

    ascended = value_and_gradient(lambda p: JensenShannon()(terms(p)), params)[1]
    paid = value_and_gradient(lambda p: parse("elbo:beta=0.5")(terms(p))[0] - 19.5 * JensenShannon()(terms(p)), params)[1]
    for name, found in trainer.gradient.items():
        expected = ascended if name.startswith("critic") else paid
        assert_allclose(found, -expected[name], rtol=1e-4, atol=1e-4)
    assert any(np.abs(ascended[name]).max() > 1e-3 for name in ascended if name.startswith("critic"))


def test_a_critic_changes_no_other_start():
    plain, other = small().init(random.key(0)), small(critic=(6,)).init(random.key(0))
    assert {name.partition(".")[0] for name in other.keys() - plain.keys()} == {"critic"}
    assert all(np.array_equal(plain[name], other[name]) for name in plain)


def test_training_with_a_critic():
    table = Table(X.astype(np.float32))
    for settings in ({}, {"prior": "ar1"}):
        found = []
        for programs in (True, False):
            about = {"objective": parse("info:divergence=js,lambda=10"), "rates": {"critic": 3.0}, "programs": programs}
            trainer, _ = training.train(critic_model(**settings), table, epochs=4, batch_size=10, **about)
            found.append(dict(trainer.parameters))
        assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    for make in (models.DLGM, models.VLAE):
        about = {"latent": (3, 2), "hidden": ((4,), (3,)), "observation": "gaussian", "dtype": "float64"}
        model = make(D, critic=(7,), **about)
        assert model.critic.sizes == (5, 7, 1)
        assert value_of_parts(parse("info:divergence=js"), model)["divergence"] < math.log(2)
    for make, name in ((models.HVM, "HVM"), (models.NonlinearFactorAnalysis, "NonlinearFactorAnalysis")):
        with pytest.raises(ConfigError, match=f"{name}: critic is .*, expected None"):
            make(D, LATENT, critic=(3,))


def value_of_parts(objective, model):
    return objective(terms_of(model, perturbed(model)))[1]


# ---- what the ELBO misses ------------------------------------------------------------------------


def bound_at(r, s):
    """The best ELBO of x in {-1, 1} whose codes' means are r standard deviations from 0, with deviation s of x given z.

    The decoder is the sign of z, q(z|x) = N(x m, m² / r²) of the best m: 1/2 log(1 + r²) nats of KL, and an error of 2 in
    the mean with probability Phi(-r).
    """
    return -math.log(s * math.sqrt(2 * math.pi)) - 2 * special.ndtr(-r) / s**2 - 0.5 * math.log1p(r**2)


def spikes(r, x):
    """q(z|x) of rows x (B, 1) of -1 and 1."""
    m = r / math.sqrt(1 + r**2)
    return DiagonalGaussian(x * m, np.full(x.shape, math.log(m / r)))


def test_two_points():
    # The bound and KL(q ‖ posterior), the gap, rise without end as s falls: codes become two spikes, away from p(z).
    noise, points = np.random.default_rng(5).normal(size=(1, 1000, 1)), np.tile([[-1.0], [1.0]], (500, 1))
    gaps, apart = [], []
    for s in (0.3, 0.1, 1e-2, 1e-3, 1e-4):
        best = optimize.minimize_scalar(lambda r, s=s: -bound_at(r, s), bounds=(0.5, 12), method="bounded")
        terms = of_codes(noise, q=spikes(best.x, points))
        likelihood = -math.log(s * math.sqrt(2 * math.pi)) - 2 * special.ndtr(-best.x) / s**2
        terms.log_likelihood = {"x": np.full((1, 1000), likelihood)}
        value, metrics = parse("info:alpha=0,lambda=1")(terms)
        assert_allclose(value, -best.fun, rtol=1e-9)
        log_p = -math.log(s * math.sqrt(2 * math.pi)) - math.log(2)
        gaps.append(log_p - value)
        apart.append(metrics["divergence"])
        if s == 1e-3:
            assert (round(float(value), 3), round(log_p, 3)) == (4.231, 5.296)
    assert_allclose(gaps, [0.43, 0.64, 0.90, 1.07, 1.19], atol=6e-3)
    assert (np.diff(apart) > 0).all()
    assert apart[0] > 0.01


def test_two_points_under_a_divergence():
    # The same family, q(z|x) = N(x m, t²) and the sign as decoder: at the optimum of the ELBO, MMD² rises as s falls; at
    # that of info it stays below .036, the least that two spikes have.
    noise = np.tile(special.ndtri((np.arange(100) + 0.5) / 100), 2)[None, :, None]
    points = np.repeat([[-1.0], [1.0]], 100, axis=0)

    def terms_at(x, s):
        m, t = np.exp(x)
        terms = of_codes(noise, q=DiagonalGaussian(points * m, np.full(points.shape, x[1])))
        likelihood = -math.log(s * math.sqrt(2 * math.pi)) - 2 * special.ndtr(-m / t) / s**2
        terms.log_likelihood = {"x": np.full((1, 200), likelihood)}
        return terms

    def optimum(objective, s):
        starts = [np.log(start) for start in ((1, 0.3), (0.8, 0.1), (0.5, 0.5))]
        found = [
            optimize.minimize(lambda x: -objective(terms_at(x, s))[0], x, method="Nelder-Mead", tol=1e-7) for x in starts
        ]
        best = min(found, key=lambda each: each.fun)
        return -best.fun, objective(terms_at(best.x, s))[1]["divergence"]

    def two_spikes(m):
        return 0.5 + 0.5 * math.exp(-4 * m**2) - 2 * math.exp(-(m**2) / 3) / math.sqrt(3) + 1 / math.sqrt(5)

    least = optimize.minimize_scalar(two_spikes, bounds=(0, 3), method="bounded").fun
    assert round(least, 3) == 0.036
    elbo = [optimum(parse("info:alpha=0,lambda=1"), s) for s in (0.3, 1e-2, 1e-3, 1e-4)]
    assert round(elbo[2][0], 2) == 4.23
    assert (np.diff([value for value, _ in elbo]) > 1.9).all()
    assert (np.diff([apart for _, apart in elbo]) > 0.003).all()
    assert elbo[-1][1] > 2.5 * least
    for text in ("info:alpha=1,lambda=1000", "info:alpha=0,lambda=1000"):
        assert all(optimum(parse(text), s)[1] < least for s in (0.3, 1e-2, 1e-3, 1e-4))


def test_trained_on_two_points():
    about = {"latent": 1, "posterior": "diagonal", "observation": "gaussian", "hidden": (16,), "epochs": 800}
    about |= {"batch_size": 50, "learning_rate": 1e-2, "random_state": 0}
    x = np.tile([[-1.0], [1.0]], (100, 1))
    for text, low, high in (("info:alpha=0,lambda=1", 0.1, 1), ("info:alpha=1,lambda=100", -0.01, 0.03)):
        model = VAE(**about, objective=text).fit(x)
        assert low < model.evaluate(x, samples=2, measures="mmd").summary()["mmd"]["mmd_squared"] < high
        bounds = [np.median([row["train_bound"] for row in model.history_[n - 50 : n]]) for n in (200, 400, 800)]
        assert (bounds[-1] - bounds[0] > 0.5) == (low == 0.1)


def test_what_a_decoder_does_with_a_code_that_it_does_not_need():
    # A chain of bits, each the one before it but for one in ten: the decoder, each logit linear in the bits before it,
    # explains it without a code. The ELBO pays R, and R falls to 0; under alpha = 1 a code is free.
    r = np.random.default_rng(0)
    bits = ((r.integers(2, size=(1500, 1)) + np.cumsum(r.random((1500, 8)) < 0.1, axis=1)) % 2).astype(float)
    about = {"latent": 2, "posterior": "diagonal", "observation": "autoregressive", "hidden": (8,), "epochs": 120}
    rates = {}
    for text in ("info:alpha=0,lambda=1", "info:alpha=1,lambda=100"):
        model = VAE(**about, learning_rate=3e-2, random_state=0, objective=text).fit(bits)
        rates[text] = model.evaluate(bits, samples=2).summary()["kl"]
    assert rates["info:alpha=0,lambda=1"] < 0.1
    assert rates["info:alpha=1,lambda=100"] > 1


# ---- the measure ---------------------------------------------------------------------------------


def test_the_measure_and_its_standard_error():
    # q(z|x) of factor analysis is exact and q(z) is N(0, I); with means moved by 0.6, it is N(0.6, I)
    fa = models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    model, params = fa.as_vae()
    moved = params | {"encoder.0.bias": params["encoder.0.bias"] + 0.6 * (np.arange(len(params["encoder.0.bias"])) == 0)}

    def mean_kernel(m, spread, s2=0.5):
        return math.sqrt(s2 / (s2 + spread)) * math.exp(-(m**2) / (2 * (s2 + spread)))

    for own, m in ((params, 0.0), (moved, 0.6)):
        truth, found = 2 * mean_kernel(0, 2) - 2 * mean_kernel(m, 2), {True: [], False: []}
        for i in range(60):
            x = fa.sample(random.key(100 + i), 120)
            subject = Subject(model, own, Table(x), key=random.key(i), batch_size=50)
            for closed, rows in found.items():
                s = mmd(subject, closed=closed).summary()
                rows.append((s["mmd_squared"], s["mmd_squared_standard_error"]))
        for rows in found.values():
            values, errors = np.transpose(rows)
            assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(60)
            assert 0.7 < errors.mean() / values.std() < 1.4
    assert (s["kernel"], s["bandwidth"], s["rows"], s["variables"], s["closed"]) == ("rbf", 1.0, 120, 1, False)


def test_the_measure_is_the_objectives_divergence():
    for settings in ({}, {"prior": "ar1"}, {"prior": "mixture:3"}, {"posterior": "bernoulli", "observation": "gaussian"}):
        model = small(**settings)
        subject = Subject(model, perturbed(model), Table(X, dtype=np.float64), batch_size=7)
        summary = mmd(subject, bandwidth=1.5).summary()
        assert summary["closed"] == (not settings)
        assert np.isfinite(summary["mmd_squared"])
    model = small()
    noise = model.noise(random.fold_in(random.fold_in(random.key(0), 15), 0, 0), Batch({"x": X}, np.arange(N)), 1)
    subject = Subject(model, perturbed(model), Table(X, dtype=np.float64), batch_size=N)
    terms = model.terms(perturbed(model), {}, Batch({"x": X}, np.arange(N)), noise)
    assert_allclose(mmd(subject).summary()["mmd_squared"], MMD()(terms), rtol=1e-10)
    deep = models.Hierarchical(D, latent=(3, 2), hidden=(4,), observation="gaussian", dtype="float64")
    assert mmd(Subject(deep, perturbed(deep), Table(X, dtype=np.float64))).summary()["variables"] == 3
    result = evaluate(model, perturbed(model), Table(X, dtype=np.float64), samples=2, measures="mmd")
    assert result.summary()["mmd"]["bandwidth"] == 3.0
    assert "kernel rbf, bandwidth 3, terms with p in closed form\n  MMD squared" in table(result)
    with pytest.raises(DataError, match="mmd: there is 1 row, and"):
        mmd(subject, rows=1)
    with pytest.raises(ConfigError, match="MMD: unknown kernel"):
        mmd(subject, kernel="box")
