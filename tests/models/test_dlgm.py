"""Deep latent Gaussian models: the limits, the linear oracle, both routes of the gradient, the prior of the weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from run_cases import kept_and_captured

import gvae
from gvae import models, objectives, random, training
from gvae.autodiff import gradient, hessian, value_and_gradient, vjp
from gvae.data import Batch, Table
from gvae.errors import ConfigError, DTypeError, ShapeError
from gvae.evaluation import evaluate
from gvae.families import LOG_SCALE, Full
from gvae.families.base import unbounded
from gvae.objectives import ELBO
from gvae.ops import elementwise

rng = np.random.default_rng(0)
D, N = 6, 40
BITS = (rng.random((N, D)) < 0.4).astype(np.float64)


def batch_of(x):
    return Batch({"x": np.asarray(x)}, np.arange(len(x)))


def moved(model, scale=0.3, seed=1):
    """Parameters away from where they start."""
    r = np.random.default_rng(seed)
    return {name: v + scale * r.normal(size=v.shape) for name, v in model.init(random.key(0)).items()}


def dlgm(latent=(3, 2), **settings):
    given = {"posterior": "diagonal", "observation": "bernoulli", "hidden": (4,), "activation": "tanh", "dtype": "float64"}
    return models.DLGM(D, latent, **given | settings)


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["diagonal", "lowrank:1", "chain"])
def test_one_layer_of_plain_noise_is_the_vae(posterior):
    """All bits of value and gradient, with the same noise."""
    deep = dlgm((3,), posterior=posterior, noise="identity")
    plain = models.VAE(D, 3, posterior, "bernoulli", (4,), "tanh", dtype="float64")
    params = moved(plain)
    names = {n: n.replace("encoder.", "encoder1.").replace("decoder.", "decoder0.") for n in params}
    noise = plain.noise(random.key(2), batch_of(BITS), 2)
    assert_array_equal(deep.noise(random.key(2), batch_of(BITS), 2)["z1"], noise["z"])
    value, slope = value_and_gradient(lambda p: ELBO()(plain.terms(p, {}, batch_of(BITS), noise, 0))[0], params)
    other, its = value_and_gradient(
        lambda p: ELBO()(deep.terms(p, {}, batch_of(BITS), {"z1": noise["z"]}, 0))[0],
        {names[n]: v for n, v in params.items()},
    )
    assert value == other
    for name in params:
        assert_array_equal(slope[name], its[names[name]])


@pytest.mark.parametrize("kind", ["full", "diagonal", "identity"])
def test_the_recursion(kind):
    """h_2 = G_2 xi_2, h_1 = T_1(h_2) + G_1 xi_1, in NumPy."""
    model = dlgm(noise=kind)
    params = moved(model)
    xi1, xi2 = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 5, 2))

    def G(i, xi):
        if kind == "identity":
            return xi
        weight = params[f"noise{i}.weight"]
        return xi @ weight if kind == "full" else xi * weight

    def network(name, h):
        h = np.tanh(h @ params[f"{name}.0.weight"] + params[f"{name}.0.bias"])
        return h @ params[f"{name}.1.weight"] + params[f"{name}.1.bias"]

    logits = network("decoder0", network("decoder1", G(2, xi2)) + G(1, xi1))
    found = model.decode(params, {}, {"z1": xi1, "z2": xi2})["x"]
    assert_allclose(found.mean, 1 / (1 + np.exp(-logits)), rtol=1e-12)
    if kind != "identity":
        assert_array_equal(model.init(random.key(3))["noise2.weight"], np.eye(2) if kind == "full" else np.ones(2))


# ---- the linear oracle ---------------------------------------------------------------------------


def linear(scale=0.6, posterior="full", latent=(3, 2)):
    """(model, parameters, A, psi, b): all maps linear, so that x = A xi + b + psi^(1/2) e with xi = (xi_1, xi_2)."""
    model = dlgm(latent, posterior=posterior, observation="gaussian", hidden=())
    params = moved(model, scale)
    params["decoder1.0.bias"] *= 0  # a shift of h_1, whose place in b is taken by the decoder's own
    W0, W1 = params["decoder0.0.weight"].T, params["decoder1.0.weight"].T
    G1, G2 = params["noise1.weight"].T, params["noise2.weight"].T
    psi = deviations(params) ** 2
    return model, params, np.concatenate([W0 @ G1, W0 @ W1 @ G2], axis=1), psi, params["decoder0.0.bias"]


def deviations(params):
    return np.exp(LOG_SCALE * np.tanh(params["decoder0.shared"] / LOG_SCALE))


def log_normal(x, mean, covariance):
    e = x - mean
    quadratic = np.einsum("bi,ij,bj->b", e, np.linalg.inv(covariance), e)
    return -0.5 * (len(covariance) * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1] + quadratic)


def test_importance_samples_of_the_linear_model():
    """x ~ N(b, W0 (W1 G2 G2ᵀ W1ᵀ + G1 G1ᵀ) W0ᵀ + Psi): 200,000 draws are right within 4 standard errors."""
    model, params, A, psi, b = linear(scale=0.3)
    covariance = A @ A.T + np.diag(psi)
    x = rng.multivariate_normal(b, covariance, size=3)
    S = np.linalg.inv(np.eye(5) + A.T @ (A / psi[:, None]))
    _encode(params, model, A, psi, b, [np.linalg.inv(S[:3, :3]), np.linalg.inv(S[3:, 3:])])  # the posterior's marginals
    result = evaluate(model, params, Table(x), samples=200_000)
    error = 1 / np.sqrt(result.effective_sample_size)
    assert (error < 0.02).all()
    assert (np.abs(result.log_likelihood - log_normal(x, b, covariance)) < 4 * error).all()
    drawn = model.generate(params, {}, model.noise(random.key(3), batch_of(x[:1]), 100_000)).views["x"]
    sample = drawn.sample(drawn.noise(random.key(4)))[:, 0]
    spread = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / len(sample))
    assert (np.abs(np.cov(sample.T) - covariance) < 5 * spread).all()


def _encode(params, model, A, psi, b, precisions):
    """The exact posterior mean for both layers, and these precisions as those of q."""
    M = np.eye(A.shape[1]) + A.T @ (A / psi[:, None])
    to_mean = np.linalg.solve(M, (A / psi[:, None]).T)
    first = 0
    for code, precision in zip(model.coded.values(), precisions, strict=True):
        n, name = len(precision), code.encoder.name
        own = to_mean[first : first + n]
        if isinstance(code.encoder.family, Full):
            rest = code.encoder.family.unconstrained(np.linalg.cholesky(np.linalg.inv(precision)))
        else:  # D + u uᵀ: log deviations -log(d) / 2, and v = u / sqrt(d)
            d, u = precision
            rest = np.concatenate([unbounded(-0.5 * np.log(d), LOG_SCALE), unbounded(u / np.sqrt(d), 1e2 / math.sqrt(n))])
        weight, bias = f"{name}.0.weight", f"{name}.0.bias"
        params[weight] = np.concatenate([own.T, np.zeros((D, len(rest)))], axis=1)
        params[bias] = np.concatenate([-own @ b, rest])
        first += n


def test_the_gap_of_layers_that_are_inferred_apart():
    """The best q that is full within each layer has the precision's blocks, and log p(x) - ELBO is
    1/2 (sum_l log |M_ll| - log |M|) for every x."""
    model, params, A, psi, b = linear()
    M = np.eye(5) + A.T @ (A / psi[:, None])
    blocks = [M[:3, :3], M[3:, 3:]]
    _encode(params, model, A, psi, b, blocks)
    x = rng.normal(size=(3, D))
    gap = 0.5 * (sum(np.linalg.slogdet(block)[1] for block in blocks) - np.linalg.slogdet(M)[1])
    assert gap > 0.1
    terms = model.terms(params, {}, batch_of(x), model.noise(random.key(5), batch_of(x), 200_000))
    elbo = terms.total_log_likelihood - sum(layer.kl for layer in terms.layers)
    error = elbo.std(axis=0) / math.sqrt(len(elbo))
    missing = log_normal(x, b, A @ A.T + np.diag(psi)) - elbo.mean(axis=0)
    assert (np.abs(missing - gap) < 5 * error).all()
    assert (error < 0.1 * gap).all()


def test_a_precision_of_rank_one_is_exact_where_the_decoder_has_rank_one():
    """One layer, W of rank 1: the posterior's precision is I + u uᵀ, and every importance weight is p(x)."""
    model = models.DLGM(D, (4,), "lowrank:1", "gaussian", (), noise="identity", dtype="float64")
    params = moved(model)
    a, v = rng.normal(size=D), rng.normal(size=4)
    params["decoder0.0.weight"] = np.outer(v, a)
    psi, b, A = deviations(params) ** 2, params["decoder0.0.bias"], np.outer(a, v)
    u = v * math.sqrt((a * a / psi).sum())
    to_mean = np.linalg.solve(np.eye(4) + np.outer(u, u), (A / psi[:, None]).T)
    rest = np.concatenate([np.zeros(4), unbounded(u, 1e2 / math.sqrt(4))])
    params["encoder1.0.weight"] = np.concatenate([to_mean.T, np.zeros((D, 8))], axis=1)
    params["encoder1.0.bias"] = np.concatenate([-to_mean @ b, rest])
    x = rng.normal(size=(5, D))
    terms = model.terms(params, {}, batch_of(x), model.noise(random.key(1), batch_of(x), 20))
    exact = log_normal(x, b, A @ A.T + np.diag(psi))
    assert_allclose(terms.log_weights, np.broadcast_to(exact, (20, 5)), rtol=1e-9)


# ---- both routes of the gradient -----------------------------------------------------------------


def test_second_derivatives():
    """Of a Bernoulli decoder with linear logits: -Wᵀ diag(p (1 - p)) W. Of a cubic in closed form."""
    W, x = rng.normal(size=(D, 3)), BITS[:4]
    z = rng.normal(size=(2, 4, 3))

    def f(z):
        return _bernoulli(z @ W.T, x)

    p = 1 / (1 + np.exp(-z @ W.T))
    expected = -np.einsum("di,kbd,dj->kbij", W, p * (1 - p), W)
    found = hessian(f, z)
    assert_allclose(found, expected, atol=1e-8)
    assert_array_equal(found, found.swapaxes(-1, -2))
    H = hessian(lambda z: (z * z * z).sum(axis=-1) + z[..., 0] * z[..., 1], z)
    cubic = np.zeros((2, 4, 3, 3))
    cubic[..., range(3), range(3)] = 6 * z
    cubic[..., 0, 1] = cubic[..., 1, 0] = 1
    assert_allclose(H, cubic, atol=1e-7)
    with pytest.raises(DTypeError, match="hessian: x is float32, expected a float64 array"):
        hessian(f, z.astype(np.float32))
    with pytest.raises(ShapeError, match=r"hessian: x has shape \(2, 65\), expected \(\.\.\., n\) with n from 1 to 64"):
        hessian(f, np.zeros((2, 65)))


def _bernoulli(logits, x):
    return (logits * x - elementwise.softplus(logits)).sum(axis=-1)


def per_row(model, params, x, noise, gradient_of):
    """The gradient with respect to each row's unconstrained parameters of q, {name: (B, n_params)}; x of one row each."""
    batch = batch_of(x)
    raw = model.raw(params, {}, batch)
    objective = objectives.parse("elbo", gradient=gradient_of)

    def total(raw):
        return len(x) * objective(model.terms(params | raw, {}, batch, noise, 0))[0]

    return gradient(total, raw)


@pytest.mark.parametrize(("posterior", "draws"), [("diagonal", 1_000_000), ("lowrank:1", 200_000), ("full", 200_000)])
def test_both_routes_agree_in_the_mean(posterior, draws):
    """A non-linear model with two layers, from the same draws: within 4 standard errors of the difference, for every number
    of q. (Some 30 comparisons: a false alarm in 2e-3 of keys, and the keys are fixed.)"""
    model = dlgm((2, 2), posterior=posterior)
    params = moved(model, 0.5)
    x = np.tile(BITS[:1], (20_000, 1))
    sums: dict[str, list] = {}
    for k in range(draws // len(x)):
        noise = model.noise(random.key(k), batch_of(x), 1)
        one, two = (per_row(model, params, x, noise, route) for route in ("hessian", "reparameterized"))
        for name in one:
            sums.setdefault(name, []).append(((one[name] - two[name]).mean(axis=0), two[name].mean(axis=0)))
    for found in sums.values():
        difference, size = np.array([d for d, _ in found]), np.mean([s for _, s in found], axis=0)
        error = difference.std(axis=0, ddof=1) / math.sqrt(len(difference))
        assert (np.abs(difference.mean(axis=0)) < 4 * error + 1e-9).all()
        assert (error < 0.05).all()
        assert np.abs(size).max() > 0.05


def test_variances_of_both_routes():
    """f = log p(x|xi) quadratic, diagonal q: the first route's gradient in the scales is the same for every draw; the
    second's is r_j g_j eps_j, with g = c - A R eps, of variance r_j² (c_j² + sum_k (AR)_jk² + (AR)_jj²)."""
    model = models.DLGM(D, (3,), "diagonal", "gaussian", (), noise="identity", dtype="float64")
    params = moved(model)
    x = np.tile(rng.normal(size=(1, D)), (200_000, 1))
    noise = model.noise(random.key(1), batch_of(x), 1)
    one, two = (per_row(model, params, x, noise, route)["encoder1.raw"][:, 3:] for route in ("hessian", "reparameterized"))
    assert one.std(axis=0).max() < 1e-7
    W, psi = params["decoder0.0.weight"].T, deviations(params) ** 2
    q = model.code(params, {}, batch_of(x[:1]))["z1"]
    mean, r = np.asarray(q.mean)[0], np.exp(np.asarray(q.log_scale))[0]
    A = W.T @ (W / psi[:, None])
    c = W.T @ ((x[0] - params["decoder0.0.bias"]) / psi) - A @ mean
    AR = A * r
    bounded = 1 - (q.log_scale[0] / LOG_SCALE) ** 2  # d log r / d its unconstrained number
    variance = (bounded * r) ** 2 * (c**2 + (AR**2).sum(axis=1) + np.diag(AR) ** 2)
    assert_allclose(two.var(axis=0), variance, rtol=0.03)  # heavy tails: eps^4 has a variance of 96
    error = two.std(axis=0) / math.sqrt(len(two))
    assert (np.abs(two.mean(axis=0) - one.mean(axis=0)) < 4 * error).all()


def test_the_decoders_gradient_and_the_values_are_those_of_the_bound():
    model = dlgm()
    params = moved(model)
    noise = model.noise(random.key(2), batch_of(BITS), 3)

    def of(text):
        objective = objectives.parse("elbo", gradient=text)
        return vjp(lambda p: objective(model.terms(p, {}, batch_of(BITS), noise, 0)), params)

    (one, metrics), pull = of("hessian")
    (two, expected), pull_ = of("reparameterized")
    assert one == pytest.approx(two, rel=1e-12)
    assert metrics == pytest.approx(expected, rel=1e-12)
    slope, its = pull((1.0, None)), pull_((1.0, None))
    for name in params:
        if not name.startswith("encoder"):
            assert_allclose(slope[name], its[name], rtol=1e-10, atol=1e-13)


def test_training_by_the_hessian():
    """Steps are captured; float32, kinks, wide codes and others than Gaussians are refused in a sentence."""
    model = gvae.DLGM(latent=(2, 2), hidden=(5,), gradient="hessian", dtype="float64", epochs=30, random_state=0)
    rows = model.fit(BITS).history_
    assert rows[-1]["train_bound"] > rows[0]["train_bound"]
    trainers = [
        training.Trainer(model.model_, objective=objectives.parse("elbo", gradient="hessian"), seed=1, programs=programs)
        for programs in (True, False)
    ]
    for trainer in trainers:
        training.train(model.model_, Table(BITS), epochs=2, batch_size=20, trainer=trainer)
    assert trainers[0].why_not == ""
    assert all(known.verified for known in trainers[0].programs.known.values())
    assert_array_equal(trainers[0].parameters.flat, trainers[1].parameters.flat)
    for settings, words in (
        ({"dtype": "float32"}, "gradient 'hessian': the codes are float32, expected float64: dtype='float64'"),
        ({"activation": "relu"}, "gradient 'hessian': activation 'relu' has kinks"),
        ({"latent": (65,)}, "a code has 65 variables, expected at most 64"),
        ({"objective": "iwae"}, "objective 'iwae': gradient 'hessian' is for the ELBO only"),
        ({"objective": "elbo_a"}, "elbo_a: gradient 'hessian' needs the KL in closed form"),
        ({"objective": "elbo:beta=2"}, "its settings take the gradients reparameterized, local, disarm, not 'hessian'"),
    ):
        given = {"latent": (2,), "hidden": (5,), "gradient": "hessian", "dtype": "float64", "epochs": 1} | settings
        with pytest.raises(ConfigError, match=words):
            gvae.DLGM(**given).fit(BITS)
    with pytest.raises(ConfigError, match="gradient 'hessian': it is for Gaussian codes"):
        gvae.VAE(latent=2, posterior="bernoulli", gradient="hessian", dtype="float64", epochs=1).fit(BITS)
    with pytest.raises(ConfigError, match="the model's Terms have no `likelihood_at`"):
        gvae.HierarchicalVAE(latent=(2, 2), hidden=(5,), gradient="hessian", dtype="float64", epochs=1).fit(BITS)


# ---- the rest ------------------------------------------------------------------------------------


def test_the_prior_of_the_weights():
    """Its gradient is -theta / (kappa N) a row, for all that generates and nothing else; rows are scored without it."""
    kappa = 0.7
    flat, priced = dlgm(observation="gaussian"), dlgm(observation="gaussian", kappa=kappa, n_rows=N)
    assert "decoder0.shared" in flat.init(random.key(0))  # the log deviations of x, which are no weights
    params = moved(flat)
    noise = flat.noise(random.key(2), batch_of(BITS), 1)
    slopes = [
        gradient(lambda p, m=model: ELBO()(m.terms(p, {}, batch_of(BITS), noise, 0))[0], params) for model in (priced, flat)
    ]
    for name, value in params.items():
        weight = name.startswith(("decoder", "noise")) and name != "decoder0.shared"
        expected = -value / (kappa * N) if weight else 0 * value
        assert_allclose(slopes[0][name] - slopes[1][name], expected, atol=1e-14)
    scored = [ELBO()(model.terms(params, {}, batch_of(BITS), noise))[0] for model in (priced, flat)]
    assert scored[0] == scored[1]
    with pytest.raises(ConfigError, match="n_rows is 0, expected the number of rows that share the weights"):
        dlgm(kappa=1.0)


def test_by_name(tmp_path):
    model = gvae.DLGM(latent=(3, 2), hidden=(8,), epochs=3, random_state=0, corruption="flipping", levels=(0.1, 0.0)).fit(
        BITS
    )
    assert model.transform(BITS).shape == (N, 5)
    assert {name: z.shape for name, z in model.codes(BITS).items()} == {"z1": (N, 3), "z2": (N, 2)}
    assert list(model.get_feature_names_out()) == ["z1_0", "z1_1", "z1_2", "z2_0", "z2_1"]
    assert model.sample(4).shape == (4, D)
    assert [type(q).__name__ for q in model.posterior_of(BITS[:2]).values()] == ["LowRankGaussian"] * 2
    kept_and_captured(model, BITS, tmp_path / "m")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent": 0}, "latent is 0, expected a whole number of at least 1, or one for each layer"),
        ({"posterior": "logit:diagonal"}, r"DLGM: posterior logit:diagonal has the support \[0, 1\], expected all real"),
        ({"posterior": "bernoulli"}, "DLGM: posterior bernoulli has the support"),
        ({"kappa": 0}, "kappa is 0, expected a positive"),
        ({"hidden": ((4,), (4,), (4,))}, "hidden has 3 entries, expected one for each of 2 layers"),
        ({"noise": "sparse"}, "noise is 'sparse'; known are full, diagonal, identity"),
        ({"corruption": "salt"}, "corruption is 'salt'; known are masking, gaussian, flipping"),
    ],
)
def test_refusals(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        gvae.DLGM(**{"latent": (3, 2), "hidden": (4,), "epochs": 1} | settings).fit(BITS, run=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
