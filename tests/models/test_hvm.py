"""Hierarchical variational models, by enumeration of bits and quadrature of their parameters; planar flows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gradcheck import check_vjp
from hypothesis import given
from hypothesis import strategies as st
from run_cases import kept_and_captured
from scipy import special

import gvae
from gvae import families, models, objectives, optim, random, training
from gvae.autodiff import gradient
from gvae.data import Batch, Table
from gvae.distributions import BernoulliDistribution, DiagonalGaussian, InversePlanarGaussian, PlanarGaussian, planar_flow
from gvae.errors import ConfigError
from gvae.families import LOG_SCALE
from gvae.families.base import unbounded

KEY = random.key(0)


def steps(n, S=2, seed=0, lead=()):
    g = np.random.default_rng(seed)
    return 2 * g.normal(size=(*lead, S, n)), g.normal(size=(*lead, S, n)), g.normal(size=(*lead, S))


# ---- planar flows


@pytest.mark.parametrize("seed", range(5))
def test_the_log_determinant_of_flows(seed):
    flow, x, h = steps(3, 3, seed), np.random.default_rng(seed).normal(size=3), 1e-6
    J = np.stack([(planar_flow(x + d, *flow)[0] - planar_flow(x - d, *flow)[0]) / (2 * h) for d in h * np.eye(3)], axis=1)
    sign, log_det = np.linalg.slogdet(J)
    assert sign == 1
    np.testing.assert_allclose(planar_flow(x, *flow)[1], log_det, rtol=1e-7, atol=1e-8)


@given(
    w=st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    size=st.floats(-10, 10),
    seed=st.integers(0, 100),
    shrink=st.sampled_from([1.0, 1e-3, 1e-8, 0.0]),
)
def test_every_step_is_invertible(w, size, seed, shrink):
    """w . û = softplus(w . u) - 1, which is above -1; for tiny w, where û would be large, it is at least w . u."""
    w = shrink * np.array(w)
    u = size * np.random.default_rng(seed).normal(size=len(w))
    moved = planar_flow(np.zeros(len(w)), u[None], w[None], np.ones(1))[0] / np.tanh(1.0)  # û
    assert np.isfinite(moved).all()
    along, wu = w @ moved, w @ u
    assert along > -1 - 1e-12
    if w @ w > 1e-12:
        np.testing.assert_allclose(along + 1, np.logaddexp(0, wu), rtol=1e-9, atol=1e-9 * (1 + abs(wu)))
    else:
        assert min(wu, np.logaddexp(0, wu) - 1) - 1e-12 <= along <= max(wu, np.logaddexp(0, wu) - 1) + 1e-12


def test_derivatives_of_flows():
    g = np.random.default_rng(0)
    x = g.normal(size=(4, 3))
    for flow in (steps(3), steps(3, lead=(4,))):
        for part in (0, 1):
            check_vjp(lambda *args, part=part: planar_flow(*args)[part] * 1.0, (x, *flow), g)


def grid(limit=9.0, points=241):
    axis = np.linspace(-limit, limit, points)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2), (axis[1] - axis[0]) ** 2


def inverse(y, u, w, b):
    """Of one step, by bisection along w: w . y = a + w . û tanh(a + b) grows with a."""
    moved = planar_flow(np.zeros(2), u[None], w[None], np.arctanh([0.5]))[0] / 0.5
    low, high = np.full(len(y), -60.0), np.full(len(y), 60.0)
    for _ in range(80):
        a = (low + high) / 2
        above = a + w @ moved * np.tanh(a + b) > y @ w
        low, high = np.where(above, low, a), np.where(above, a, high)
    return y - np.tanh(a + b)[:, None] * moved


@pytest.mark.parametrize("seed", range(4))
def test_the_mass_of_both_densities_is_one(seed):
    u, w, b = steps(2, 1, seed)
    base = DiagonalGaussian(np.array([0.3, -0.5]), np.log([0.8, 1.2]))
    y, area = grid()
    q = PlanarGaussian(base, u, w, b)
    noise = (inverse(y, u[0], w[0], b[0]) - base.mean) / np.exp(base.log_scale)
    np.testing.assert_allclose(q.sample(noise), y, atol=1e-9)
    assert np.exp(q.log_prob_of_draw(noise, y)).sum() * area == pytest.approx(1, abs=2e-4)
    flow = steps(2, 3, seed)
    r = InversePlanarGaussian(base, *flow)
    x, area = grid(16.0, 961)
    assert np.exp(r.log_prob(x)).sum() * area == pytest.approx(1, abs=2e-4)
    of_base = r.log_prob_by_base(y).sum(axis=-1) + planar_flow(y, *flow)[1]
    np.testing.assert_allclose(of_base, r.log_prob(y), rtol=1e-12)


# ---- two bits whose posterior is correlated


class Toy(models.HVM):
    """Uniform bits, and p(x = 1 | z) = sigmoid(4) where the two agree, sigmoid(-4) where they do not: p(x = 1) = 1/2."""

    pure = True

    def decode(self, params, state, z, noise=None):
        sign = 2 * z["z"] - 1
        return {"x": BernoulliDistribution(4.0 * sign[..., :1] * sign[..., 1:])}


ONE = Batch({"x": np.ones((1, 1))}, np.arange(1))


def mean_field():
    """The largest bound of two independent bits."""
    p = np.linspace(1e-6, 1 - 1e-6, 2001)
    a, b = p[:, None], p[None, :]
    agree = a * b + (1 - a) * (1 - b)
    entropy = special.entr(p) + special.entr(1 - p)
    expected = agree * special.log_expit(4.0) + (1 - agree) * special.log_expit(-4.0)
    return (expected - 2 * np.log(2) + entropy[:, None] + entropy[None, :]).max()


def test_most_of_the_gap_of_the_mean_field_is_closed():
    model = Toy(1, latent=2, hidden=(), variational_prior="planar:4", recursive_steps=4, dtype="float64")
    total, params = 1000, model.init(KEY)
    params["encoder.0.bias"][2:4] += 1  # wide: a narrow q(lambda) reaches the mean field before correlations
    trainer = training.Trainer(
        model,
        objective=objectives.ELBO(gradient="local"),
        samples=50,
        learning_rate=1e-2,
        schedule=optim.Cosine(total),
        parameters=params,
    )
    training.train(model, Table(np.ones((1, 1))), steps=total, batch_size=1, trainer=trainer)
    terms = model.terms(trainer.parameters, {}, ONE, model.noise(KEY, ONE, 40_000))
    draws = np.asarray(terms.log_weights).ravel()
    error = draws.std() / np.sqrt(len(draws))
    exact, least = np.log(0.5), mean_field()
    assert least == pytest.approx(-1.3651, abs=1e-4)
    assert draws.mean() < exact + 4 * error
    assert draws.mean() > least + 0.8 * (exact - least)


def numbers_of(model, seed=0):
    """Parameters away from their start."""
    g = np.random.default_rng(seed)
    return {name: value + 0.2 * g.normal(size=value.shape) for name, value in model.init(KEY).items()}


def exact_bound(model, params, batch):
    """By quadrature over lambda and enumeration of z."""
    points, area = grid(12.0, 161)
    q_numbers = model.encoder(params, batch.x)
    log_q_numbers = np.asarray(q_numbers.log_prob(points[:, None]))[:, 0]
    total = 0.0
    for z in itertools.product((0.0, 1.0), repeat=2):
        z = np.array(z)
        log_q = model.posterior(points).log_prob(z)
        joint = model.decode(params, {}, {"z": z[None]})["x"].log_prob(batch.x)[0] - 2 * np.log(2)
        f = joint + model.recursive(params, z).log_prob(points) - log_q - log_q_numbers
        total += (np.exp(log_q_numbers + log_q) * f).sum() * area
    return total


@pytest.mark.parametrize("gradient_name", ["local", "reparameterized"])
@pytest.mark.parametrize("outer", ["mixture:2", "full"])
def test_gradients_have_the_mean_of_the_derivative(outer, gradient_name):
    """Of the bound: in a direction of each array, and in each parameter of q(lambda), within five standard errors."""
    model = Toy(1, latent=2, hidden=(), variational_prior=outer, recursive_steps=2, recursive_width=3, dtype="float64")
    params = {name: value for name, value in numbers_of(model).items() if not name.startswith("decoder")}
    params["recursive.1.weight"] *= 2  # so that r depends on z; with more the score has too large a variance for this test
    objective = objectives.ELBO(gradient=gradient_name)
    drawn, values = [], []
    for i in range(40):
        noise = model.noise(random.fold_in(KEY, i), ONE, 10_000)
        drawn.append(gradient(lambda p, e=noise: objective(model.terms(p, {}, ONE, e, step=0))[0], params))
        values.append(np.mean(model.terms(params, {}, ONE, noise).log_weights))
    assert abs(np.mean(values) - exact_bound(model, params, ONE)) < 5 * np.std(values) / np.sqrt(len(values))
    g = np.random.default_rng(1)
    directions = [(name, g.normal(size=value.shape)) for name, value in params.items()]
    directions += [("encoder.0.bias", e) for e in np.eye(params["encoder.0.bias"].size)]
    for name, v in directions:
        value = params[name]
        step = 1e-5 * v
        up, down = (exact_bound(model, params | {name: value + s}, ONE) for s in (step, -step))
        along = np.array([np.sum(found[name] * v) for found in drawn])
        error = along.std() / np.sqrt(len(along))
        assert abs(along.mean() - (up - down) / 2e-5) < 5 * error + 1e-6, name
    assert len(params) == 9  # encoder, networks and flow of r


@pytest.mark.parametrize("gradient_name", ["dreg", "vimco", "rws"])
def test_r_learns_from_bounds_of_several_draws(gradient_name):
    """It is no part of q, but weighs draws as the prior does: its gradient is that of the bound itself."""
    inner = {"posterior": "diagonal", "variational_prior": "diagonal"}
    model = models.HVM(3, latent=2, hidden=(2,), recursive_steps=1, recursive_width=2, dtype="float64", **inner)
    params = numbers_of(model)
    batch = Batch({"x": np.repeat([[1.0, 0.0, 1.0]], 500, axis=0)}, np.arange(500))
    noise = model.noise(KEY, batch, 3)

    def slope(name):
        objective = objectives.parse("iwae", gradient=name)

        def f(p):
            value = objective(model.terms(p, {}, batch, noise, step=0))[0]
            return value["*"] if isinstance(value, dict) else value

        return gradient(f, params)

    own, whole = slope(gradient_name), slope("reparameterized")
    for name in ("recursive.0.weight", "recursive.1.bias"):
        assert np.abs(whole[name]).max() > 1e-3
        np.testing.assert_allclose(own[name], whole[name], rtol=1e-10, atol=1e-14)


# ---- limits


def test_a_narrow_distribution_of_parameters_is_the_mean_field():
    """With r = q(lambda) the bound is that of a VAE at the mean of lambda, but for its width."""
    m, K = np.array([0.4, -1.0, 0.2]), 200
    x = np.random.default_rng(0).integers(0, 2, size=(5, 4)).astype(np.float64)
    batch = Batch({"x": x}, np.arange(5))
    settings = {"latent": 3, "hidden": (), "posterior": "bernoulli", "dtype": "float64"}
    vae, hvm = models.VAE(4, **settings), models.HVM(4, **settings, variational_prior="diagonal", recursive_steps=0)
    params = hvm.init(KEY)
    plain = {name: value for name, value in params.items() if name.startswith("decoder")}
    plain |= {"encoder.0.weight": np.zeros((4, 3)), "encoder.0.bias": m}
    noise = hvm.noise(KEY, batch, K)
    expected = vae.terms(plain, {}, batch, {"z": noise["z"]}).log_weights
    found = []
    for width in (0.3, 0.1, 0.03, 0.01):
        raw = np.concatenate([m, np.full(3, unbounded(np.log(width), LOG_SCALE))])
        params["encoder.0.weight"], params["encoder.0.bias"] = np.zeros((4, 6)), raw
        params["recursive.1.bias"] = raw.reshape(2, 3).T.copy()
        found.append(np.abs(hvm.terms(params, {}, batch, noise).log_weights - expected).mean())
    assert all(b < a for a, b in itertools.pairwise(found))
    assert found[-1] < 0.05


def test_the_entropy_of_a_gaussian_mixture_of_gaussians():
    """q(z | lambda) = N(lambda, s²), lambda ~ N(0, t²): with the exact r each draw is worth -log N(z; 0, t² + s²)."""
    s, t, small = 0.7, 1.3, 1e-3
    model = models.HVM(
        1,
        latent=1,
        hidden=(),
        posterior="diagonal",
        variational_prior="diagonal",
        recursive_steps=0,
        recursive_width=1,
        dtype="float64",
    )
    params = model.init(KEY)
    width = 2e-3  # of the log scale of q(z | lambda), which is drawn as well
    log_s = unbounded(np.log(s), LOG_SCALE)
    raw = [0.0, log_s, unbounded(np.log(t), LOG_SCALE), unbounded(np.log(width), LOG_SCALE)]
    params["encoder.0.weight"], params["encoder.0.bias"] = np.zeros((1, 4)), np.array(raw)

    def with_r(slope, scale):  # tanh(small z) / small is z
        params["recursive.0.weight"], params["recursive.0.bias"] = np.full((1, 1), small), np.zeros((1, 1))
        params["recursive.1.weight"] = np.array([[[slope / small, 0.0, 0.0, 0.0]]])
        params["recursive.1.bias"] = np.array([[0.0, log_s, unbounded(np.log(scale), LOG_SCALE), raw[3]]])
        of_z, outer = model.terms(params, {}, ONE, model.noise(KEY, ONE, 20_000)).layers
        return (outer.log_p - of_z.log_q - outer.log_q).ravel(), of_z.z.ravel()

    variance = s**2 + t**2
    slope, scale = t**2 / variance, s * t / np.sqrt(variance)
    draws, z = with_r(slope, scale)
    np.testing.assert_allclose(draws, 0.5 * np.log(2 * np.pi * variance) + z**2 / (2 * variance), atol=0.05)
    entropy = 0.5 * np.log(2 * np.pi * np.e * variance)
    assert abs(draws.mean() - entropy) < 5 * draws.std() / np.sqrt(len(draws))
    for other in ((slope + 0.3, scale), (slope - 0.3, scale), (slope, 1.5 * scale), (slope, scale / 1.5), (0.0, t)):
        assert with_r(*other)[0].mean() < draws.mean() - 0.02, other


# ---- as an estimator

BITS = (random.uniform(KEY, (60, 6)) < 0.4).astype(np.float32)


@pytest.mark.parametrize(
    "settings", [{}, {"variational_prior": "mixture:2"}, {"variational_prior": "chain", "posterior": "categorical:3"}]
)
def test_it_trains_and_is_kept(settings, tmp_path):
    model = gvae.HVM(latent=3, hidden=(8,), epochs=8, samples=4, random_state=0, **settings).fit(BITS)
    log = [row["train_bound"] for row in model.history_]
    assert log[-1] > log[0]
    assert model.transform(BITS).shape == (60, 3)
    assert np.isfinite(model.score_samples(BITS, samples=5)).all()
    assert model.sample(4, draw=True).shape == (4, 6)
    kept_and_captured(model, BITS, tmp_path / "model")


def test_bounds_by_annealing_draw_codes_from_the_prior():
    model = gvae.HVM(latent=3, posterior="diagonal", hidden=(8,), epochs=8, random_state=0).fit(BITS)
    few = {"first": 20, "chains": 4, "temperatures": 100}
    found = model.evaluate(BITS, samples=50, measures=["ais", "bdmc", "curve"], **few).summary()
    assert found["bdmc"]["gap"] > -4 * found["bdmc"]["gap_standard_error"]
    assert found["ais"]["log_likelihood"] > model.evaluate(BITS[:20], samples=50).elbo.mean()


def test_normalised_layers_need_differentiable_draws_of_lambda():
    settings = {"latent": 3, "posterior": "diagonal", "hidden": (4,), "normalize": "batch"}
    assert models.HVM(4, **settings).least_rows == 2
    with pytest.raises(ConfigError, match=r"HVM: normalize is 'batch', expected None .*posterior mixture:3"):
        models.HVM(4, **settings, variational_prior="mixture:3")


def test_what_is_refused():
    for posterior in ("chain", "nade:3", "full"):
        with pytest.raises(ConfigError, match=rf"HVM: posterior is {posterior}.*independent variables"):
            models.HVM(4, latent=3, posterior=posterior)
    for role in ("prior", "observation"):
        with pytest.raises(ConfigError, match=f"{role} is planar:2, whose density is known for its own draws alone"):
            models.VAE(4, latent=3, **{role: "planar:2"})
    with pytest.raises(ConfigError, match="inner family is planar:2"):
        families.parse("logit:planar:2", 3)
    for gradient_name in ("stl", "dreg"):
        with pytest.raises(ConfigError, match="planar: the density is known only for draws from it"):
            gvae.VAE(
                latent=3, posterior="planar:2", hidden=(8,), epochs=1, objective="iwae", gradient=gradient_name, samples=2
            ).fit(BITS)
    with pytest.raises(ConfigError, match="stl"):
        gvae.HVM(latent=3, hidden=(8,), epochs=1, gradient="stl").fit(BITS)


def test_r_is_never_drawn(monkeypatch):
    def fail(*_):
        raise AssertionError("r was drawn")

    monkeypatch.setattr(InversePlanarGaussian, "sample", fail, raising=False)
    model = gvae.HVM(latent=3, hidden=(8,), epochs=1, random_state=0).fit(BITS)
    found = model.evaluate(BITS, samples=3, measures=["units", "reconstruction"])
    assert [len(kl) for kl in found.measures["units"].kl] == [3]  # of z; lambda has no density variable by variable
    model.sample(4)
