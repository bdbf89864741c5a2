"""Families: what they promise about every raw number, and how they agree with each other where they meet."""

from __future__ import annotations

import re

import numpy as np
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st

from gvae import families, graphs, ops, random
from gvae.autodiff import gradient
from gvae.distributions import AR1Gaussian, BandedGaussian
from gvae.errors import ConfigError
from gvae.runtime import device

N = 12
TEXTS = {
    "diagonal": ["diagonal"],
    "independent": ["independent"],
    "chain": ["chain"],
    "band": ["band:3", "band:0", "band:20"],
    "grid": ["grid:3x4", "grid:1x12", "grid:12x1", "grid:2x6"],
    "extended_grid": ["extended_grid:3x4", "extended_grid:1x12", "extended_grid:12x1"],
    "ar1": ["ar1"],
    "lowrank": ["lowrank:1", "lowrank:3"],
    "full": ["full", "full:absolute"],
    "gaussian": ["gaussian"],
    "random_walk": ["random_walk"],
    "mixture": ["mixture:3", "mixture:1"],
    "planar": ["planar:2", "planar:1"],
    "shared": ["shared:extended_grid:3x4", "shared:grid:3x4", "shared:ar1", "shared:lowrank:2", "shared:full", "shared"],
    "bernoulli": ["bernoulli", "bernoulli:taylor", "bernoulli:straight_through"],
    "autoregressive": ["autoregressive", "autoregressive:taylor"],
    "nade": ["nade:4", "nade:1"],
    "categorical": ["categorical:5", "categorical:2"],
    "poisson": ["poisson"],
    "negative_binomial": ["negative_binomial"],
    "zero_inflated": ["zero_inflated:negative_binomial", "zero_inflated:poisson", "zero_inflated"],
    "gamma": ["gamma", "gamma:score"],
    "log_gamma": ["log_gamma", "log_gamma:score"],
    "beta": ["beta"],
    "continuous_bernoulli": ["continuous_bernoulli"],
    "logit": ["logit", "logit:extended_grid:3x4", "logit:shared:chain", "logit:ar1"],
}
ALL = [text for name in families.FAMILIES for text in TEXTS.get(name, [name])]  # a name alone, unless it has a row
GAUSSIAN = [
    text
    for text in ALL
    if isinstance(families.parse(text, N), (families.Located, families.Shared))
    and text.split(":")[0] not in ("random_walk", "mixture", "planar")  # which begin elsewhere
]


def test_every_row_is_of_a_registered_name():
    assert set(TEXTS) <= set(families.FAMILIES)
    assert len(GAUSSIAN) > 20


@pytest.mark.parametrize("text", ALL)
def test_text_reads_back(text):
    family = families.parse(text, N)
    assert families.parse(str(family), N).n_params == family.n_params
    assert families.parse(family, N) is family
    assert family(np.zeros((2, family.n_params))).shown.shape == (2, N)


@pytest.mark.parametrize("text", GAUSSIAN)
def test_raw_zero_is_the_standard_normal(text):
    family = families.parse(text, N)
    d = family(np.zeros(family.n_params))
    np.testing.assert_allclose(d.covariance(), np.eye(N), atol=1e-15)
    np.testing.assert_array_equal(d.mean, 0)
    np.testing.assert_allclose(d.kl(), 0, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("text", ALL)
@given(data=st.data())
def test_any_raw_gives_finite_sample_kl_and_gradient(text, dtype, data):
    n = data.draw(st.sampled_from([12, 1, 60, 240]))
    size = {12: "3x4", 1: "1x1", 60: "6x10", 240: "15x16"}[n]
    family = families.parse(re.sub(r"\d+x\d+", size, text), n)
    extreme = data.draw(st.sampled_from(["mixed", "all high", "all low", "random"]))
    seed = data.draw(st.integers(0, 2**32 - 1))
    r = np.random.default_rng(seed)
    raw = {
        "mixed": r.choice([-1e4, 0.0, 1e4], size=(2, family.n_params)),
        "all high": np.full((2, family.n_params), 1e4),
        "all low": np.full((2, family.n_params), -1e4),
        "random": r.uniform(-10, 10, size=(2, family.n_params)),
    }[extreme].astype(dtype)
    eps = family.noise(random.key(seed), (3, 2), dtype)

    def kl(raw):
        d = family(raw)
        closed = d.kl()
        if closed is None:
            z = d.sample(eps)
            closed = d.log_prob_of_draw(eps, z) - d.standard.log_prob(z)
        return ops.sum(closed)

    if text == "autoregressive:taylor":  # its path multiplies weights unit by unit, and they are not bounded
        raw[..., n:] *= 1e-4

    def draw(raw):  # bounded weights: a decoder's first layer
        z = family(raw).sample(eps)
        return ops.sum(z if isinstance(z, np.ndarray) else z * 1.0)

    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(family(raw).sample(eps)).all()
        assert np.isfinite(kl(raw))
        assert kl(raw) > -1e-2 * n or family(raw).kl() is None  # then it is an estimate, of any sign
        assert np.isfinite(gradient(kl, raw)).all()
        if family.reparameterized:
            assert np.isfinite(gradient(draw, raw)).all()


# ---- where learning starts


def begun(text, start, n_inputs=7):
    """What a network with the family emits for random inputs at the start, and its parameters."""
    part = families.Conditional("part", n_inputs, families.parse(text, N), (5,), start=start)
    params = part.init(random.key(3), np.float64)
    return part(params, 10 * np.random.default_rng(0).normal(size=(6, n_inputs))), params


@pytest.mark.parametrize("text", [text for text in GAUSSIAN if "lowrank" not in text])
def test_gaussians_of_a_network_start_with_random_means_alone(text):
    """Covariance I for every input, however large; means as the network makes them."""
    d, _ = begun(text, "calm")
    np.testing.assert_allclose(d.covariance(), np.broadcast_to(np.eye(N), d.covariance().shape), atol=1e-12)
    then, before = begun(text, "glorot")
    np.testing.assert_array_equal(d.mean, then.mean)
    assert d.mean.std() > 0.1
    if not text.startswith(("shared", "gaussian")):  # which emit means alone
        assert abs(then.covariance() - np.eye(N)).max() > 0.1
    last = list(before)[2]
    network = families.MLP("part", (7, 5, before[last].shape[1])).init(random.key(3), np.float64)
    np.testing.assert_array_equal(before[last], network[last])  # as random as ever


@pytest.mark.parametrize("text", ["lowrank:1", "lowrank:3", "shared:lowrank:2"])
def test_low_ranks_start_small_and_can_grow(text):
    """At V = 0 the gradient with respect to V is zero, so it does not start there; as a prior neither."""
    d, _ = begun(text, "calm")
    assert 1e-4 < abs(np.linalg.inv(d.covariance()) - np.eye(N)).max() < 0.1
    family = families.parse(text.removeprefix("shared:"), N)
    x = np.random.default_rng(0).normal(size=(50, N)) @ np.random.default_rng(1).normal(size=(N, N))
    for raw, still in ((np.zeros(family.n_params), True), (family.start(random.key(0), np.float64), False)):
        slope = gradient(lambda raw: ops.sum(family(raw).log_prob(x)), raw)[2 * N :]
        assert (slope == 0).all() == still


def test_others_start_as_the_standard_one():
    """Uniform shares around a random mean, equal weights and unit scales of a mixture's random components."""
    beta, _ = begun("beta", "calm")
    np.testing.assert_allclose(beta.log_a, -beta.log_b)
    assert beta.mean.std() > 0.05
    gamma, _ = begun("gamma", "calm")
    np.testing.assert_array_equal(gamma.log_shape, 0)
    np.testing.assert_array_equal(gamma.log_mean, begun("gamma", "glorot")[0].log_mean)
    mixture, _ = begun("mixture:3", "calm")
    np.testing.assert_array_equal(mixture.logits, 0)
    np.testing.assert_array_equal(mixture.components.log_scale, 0)
    assert mixture.components.mean.std(axis=0).min() > 0.01  # by input
    assert mixture.components.mean.std(axis=1).min() > 0.01  # by component
    inflated, _ = begun("zero_inflated:negative_binomial", "calm")
    np.testing.assert_array_equal(inflated.logits, 0)
    np.testing.assert_array_equal(inflated.base.log_mean, begun("zero_inflated", "glorot")[0].base.log_mean)
    assert inflated.base.log_mean.std() > 0.1
    assert begun("zero_inflated", "glorot")[0].logits.std() > 0.1
    logit, _ = begun("logit:chain", "calm")
    np.testing.assert_allclose(logit.base.covariance(), np.broadcast_to(np.eye(N), (6, N, N)), atol=1e-12)
    for text in ("bernoulli", "categorical:3", "poisson", "continuous_bernoulli", "negative_binomial"):
        a, b = (begun(text, start)[1] for start in ("calm", "glorot"))
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_start_that_is_none():
    with pytest.raises(ConfigError, match="start is 'cold', expected one of calm, glorot"):
        families.Conditional("part", 3, families.Diagonal(2), start="cold")


def test_correlations_of_the_full_family_do_not_depend_on_scales():
    """R = diag(s) (I + B): the log-scales move variances, B alone correlations; and its inverse map."""
    family, r = families.parse("full", 5), np.random.default_rng(0)
    raw = r.normal(size=family.n_params)
    wide = raw.copy()
    wide[5:10] += 2.0
    correlations = [
        c / np.sqrt(np.outer(np.diag(c), np.diag(c))) for c in (family(raw).covariance(), family(wide).covariance())
    ]
    np.testing.assert_allclose(correlations[0], correlations[1], rtol=1e-10)
    for text in ("full", "full:absolute"):
        family = families.parse(text, 5)
        R = np.tril(r.normal(size=(5, 5)), -1) + np.diag(np.exp(r.normal(size=5)))
        raw = np.concatenate([np.zeros(5), family.unconstrained(R)])
        np.testing.assert_allclose(family(raw).scale_tril, R, rtol=1e-12)


def raw_of(family, mean, log_scale, rest):
    return np.concatenate([mean, log_scale, rest(family.n_params - 2 * len(mean))])


def test_zero_edges_give_the_diagonal():
    """With zero off-diagonal entries chain, band and extended grid are the diagonal family, KL and samples to rounding."""
    r = np.random.default_rng(1)
    mean, log_scale = r.normal(size=N), r.normal(size=N)
    diagonal = families.parse("diagonal", N)(np.concatenate([mean, log_scale]))
    eps = r.normal(size=(5, N))
    for text in ("independent", "chain", "band:3", "grid:3x4", "extended_grid:3x4", "lowrank:2", "full"):
        d = families.parse(text, N)(raw_of(families.parse(text, N), mean, log_scale, np.zeros))
        np.testing.assert_allclose(d.kl(), diagonal.kl(), rtol=1e-14)
        np.testing.assert_allclose(d.sample(eps), diagonal.sample(eps), rtol=1e-14)


def test_ar1_is_a_chain():
    """The AR(1) precision is tridiagonal: diagonal (1, 1 + rho², .., 1 + rho², 1), neighbours -rho, over s (1 - rho²)."""
    s, rho = 1.7, -0.6
    mean = np.random.default_rng(0).normal(size=N)
    P = np.diag(np.r_[1, np.full(N - 2, 1 + rho**2), 1]) - rho * (np.eye(N, k=1) + np.eye(N, k=-1))
    L = np.linalg.cholesky(P / (s * (1 - rho**2)))
    chol = np.stack([np.diag(L), np.r_[np.diag(L, -1), 0]])
    chain, autoregression = BandedGaussian(mean, chol), AR1Gaussian(mean, np.float64(s), np.float64(rho))
    np.testing.assert_allclose(autoregression.kl(), chain.kl(), rtol=1e-13)
    np.testing.assert_allclose(autoregression.covariance(), chain.covariance(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(autoregression.entropy(), chain.entropy(), rtol=1e-13)
    x = np.random.default_rng(1).normal(size=(4, N))
    np.testing.assert_allclose(autoregression.log_prob(x), chain.log_prob(x), rtol=1e-12)


def test_ar1_at_its_ends():
    """rho = 0 is N(mean, s I); of one variable, any rho gives N(mean, s)."""
    r = np.random.default_rng(2)
    raw = r.normal(size=(4, N + 2))
    raw[:, -1] = 0
    d = families.AR1(N)(raw)
    x, eps = r.normal(size=(4, N)), r.normal(size=(4, N))
    isotropic = families.Diagonal(N)(np.concatenate([raw[:, :N], np.repeat(raw[:, -2:-1], N, axis=1)], axis=1))
    np.testing.assert_allclose(d.sample(eps), isotropic.sample(eps), rtol=1e-12)
    np.testing.assert_allclose(d.log_prob(x), isotropic.log_prob(x), rtol=1e-12)
    np.testing.assert_allclose(d.kl(), isotropic.kl(), rtol=1e-12)
    one = families.AR1(1)(r.normal(size=(4, 3)) * [1, 0, 3] + [0, 0.3, 0])  # mean, log s / 2 and rho
    half = families.LOG_SCALE * np.tanh(0.3 / families.LOG_SCALE)
    np.testing.assert_allclose(one.covariance()[:, 0, 0], np.exp(2 * half))


def test_ar1_is_its_cholesky_factor_and_its_recursion():
    """C = R Rᵀ with R = sqrt(s) T, T_i1 = rho^(i-1), T_ij = rho^(i-j) sqrt(1 - rho²): drawn as e_1 = sqrt(s) eps_1,
    e_j = rho e_(j-1) + sqrt(s (1 - rho²)) eps_j. The paper has 1/sqrt(s), a last row that starts with rho^d, and the
    recursion z_j = mu_j + sqrt(s) eps_j + rho z_(j-1), whose mean drifts and whose variance is not s. log |C| and the KL's
    derivatives are the formulas."""
    n, s, rho = 6, 2.3, 0.6
    i, j = np.indices((n, n))
    T = np.where(i >= j, rho ** (i - j).astype(float), 0.0)
    T[:, 1:] *= np.sqrt(1 - rho**2)
    mu = np.full(n, 0.7)
    d = AR1Gaussian(mu, np.float64(s), np.float64(rho))
    np.testing.assert_allclose(d.sample(np.eye(n)) - mu, np.sqrt(s) * T.T, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(d.covariance(), s * rho ** np.abs(i - j).astype(float), rtol=1e-13)
    assert T[-1, 0] == pytest.approx(rho ** (n - 1))
    assert ops.logdet_precision_ar1(np.float64(s), np.float64(rho), N=n) == pytest.approx(
        -n * np.log(s) - (n - 1) * np.log1p(-(rho**2))
    )
    kl = 0.5 * (mu @ mu + n * (s - 1 - np.log(s)) - (n - 1) * np.log1p(-(rho**2)))
    assert d.kl() == pytest.approx(kl, rel=1e-13)
    slopes = gradient(lambda s, rho: ops.kl_divergence_ar1(mu, s, rho), np.float64(s), np.float64(rho))
    assert slopes == pytest.approx((n * (1 - 1 / s) / 2, (n - 1) * rho / (1 - rho**2)), rel=1e-12)
    drifting = np.linalg.solve(np.eye(n) - rho * np.eye(n, k=-1), np.column_stack([mu, np.sqrt(s) * np.eye(n)]))
    assert drifting[-1, 0] == pytest.approx(mu[0] * (1 - rho**n) / (1 - rho))
    np.testing.assert_allclose((drifting[:, 1:] ** 2).sum(axis=1), s * (1 - rho ** (2 * np.arange(1, n + 1))) / (1 - rho**2))


def test_what_the_published_ar1_sampler_hides():
    """The paper's code draws innovations of variance s, or ignores rho and adds up steps of variance s, and charges the KL
    of the stationary process. For n = 6, s = 2.3, rho = 0.6 the true KLs are 1.757 and 16.14 nats more than charged; and its
    loss divides that KL, but for the means, by the number of rows in the batch."""
    n, s, rho = 6, 2.3, 0.6
    charged = AR1Gaussian(np.zeros(n), np.float64(s), np.float64(rho)).kl()
    recursion = np.linalg.inv(np.eye(n) - rho * np.eye(n, k=-1))  # e_j = rho e_(j-1) + sqrt(s) eps_j
    walk = np.tril(np.ones((n, n)))
    hidden = [ref.gaussian_kl(np.zeros(n), s * root @ root.T) - charged for root in (recursion, walk)]
    assert hidden == pytest.approx([1.757, 16.14], abs=0.01)


def test_without_edges_an_observation_graph_is_independent_pixels():
    r = np.random.default_rng(1)
    x = r.uniform(0.0, 1.0, size=(5, N))
    for shared in ("", "shared:"):
        diagonal = families.parse(f"logit:{shared}diagonal", N)
        raw = r.normal(size=(5, 2 * N))
        for text in ("chain", "extended_grid:3x4", "grid:3x4"):
            family = families.parse(f"logit:{shared}{text}", N)
            wide = np.concatenate([raw, np.zeros((5, family.n_params - 2 * N))], axis=1)
            np.testing.assert_allclose(family(wide).log_prob(x), diagonal(raw).log_prob(x), rtol=1e-13)


def test_chain_is_a_grid_of_one_row_or_column():
    chain = families.parse("chain", N)
    raw = np.random.default_rng(0).normal(size=(2, chain.n_params))
    eps = np.random.default_rng(1).normal(size=(2, N))
    for text in ("extended_grid:1x12", "extended_grid:12x1", "band:1"):
        other = families.parse(text, N)
        assert other.n_params == chain.n_params
        np.testing.assert_array_equal(other(raw).sample(eps), chain(raw).sample(eps))
        np.testing.assert_array_equal(other(raw).kl(), chain(raw).kl())


@pytest.mark.parametrize(
    "graph", [graphs.grid(3, 4), graphs.grid(1, 4), graphs.grid(4, 1), graphs.chain(6), graphs.band(6, 2)]
)
def test_a_dominant_precision_is_the_formula(graph):
    """P_vv = a_v² (1 + sum |w_e|), P_uv = a_u a_v w_e, written out edge by edge; and Gershgorin's bound holds."""
    family = families.Dominant(graph)
    n = graph.n
    raw = np.random.default_rng(0).normal(size=family.n_params)
    a = np.exp(-families.LOG_SCALE * np.tanh(raw[n : 2 * n] / families.LOG_SCALE))
    K, edge = np.eye(n), iter(1e3 * np.tanh(raw[2 * n :] / 1e3))
    for k, j in zip(*np.nonzero(graph.mask), strict=True):
        if k > 0:
            i, w = j + graph.offsets[k], next(edge)
            K[i, j] = K[j, i] = w
            K[i, i] += abs(w)
            K[j, j] += abs(w)
    np.testing.assert_allclose(np.linalg.inv(family(raw).covariance()), np.outer(a, a) * K, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(K).min() >= 1 - 1e-12


def test_a_dominant_precision_without_edges_has_a_derivative():
    """|w| has the subgradient 0 at w = 0: the derivative of the density is that of the off-diagonal entries alone."""
    family, x = families.Dominant(graphs.grid(2, 3)), np.random.default_rng(0).normal(size=6)

    def log_prob(raw):
        return family(raw).log_prob(x)

    raw = np.zeros(family.n_params)
    slope = gradient(log_prob, raw)[12:]
    h = 1e-5 * np.eye(family.n_params)[12:]
    both_sides = [(log_prob(raw + e) - log_prob(raw - e)) / 2e-5 for e in h]
    np.testing.assert_allclose(slope, both_sides, rtol=1e-6, atol=1e-9)


def test_an_observation_graph_is_trained_by_a_multiplication(monkeypatch):
    """Density and derivatives: not one triangular system is solved, factorised or inverted; a draw solves one."""
    family, used = families.parse("logit:extended_grid:3x4", N), []
    launch = device.launch
    monkeypatch.setattr(device, "launch", lambda *args, **kw: (used.append(args[:2]), launch(*args, **kw)))
    r = np.random.default_rng(0)
    x, raw = r.uniform(0.1, 0.9, size=(5, N)), r.normal(size=(5, family.n_params))
    gradient(lambda raw: ops.sum(family(raw).log_prob(x)), raw)
    banded = {name for kind, name in used if kind == "banded"}
    assert banded
    assert all(name.startswith(("multiply", "log_prob")) for name in banded), banded
    used.clear()
    family(raw).sample(r.normal(size=(5, N)))
    assert [name for kind, name in used if kind == "banded"] == ["sample"]  # one solve


def test_a_random_walk_is_the_sum_of_its_steps():
    """C_ij = s_0 + s min(i, j), counted from 0."""
    for n in (1, 2, 7):
        family = families.parse("random_walk", n)
        raw = np.random.default_rng(0).normal(size=(3, family.n_params))
        start, step = np.exp(2 * families.LOG_SCALE * np.tanh(raw[:, n:] / families.LOG_SCALE)).T
        index = np.minimum.outer(np.arange(n), np.arange(n))
        expected = start[:, None, None] + step[:, None, None] * index
        np.testing.assert_allclose(family(raw).covariance(), expected, rtol=1e-10)


@pytest.mark.parametrize("text", ["diagonal", "chain", "extended_grid:3x4", "grid:3x4", "ar1", "lowrank:2", "full"])
def test_sharing_all_but_the_mean(text):
    """With the same numbers in every row, the shared family is the family itself."""
    own, shared = families.parse(text, N), families.parse(f"shared:{text}", N)
    r = np.random.default_rng(0)
    raw = r.normal(size=(4, own.n_params)) * 0.5
    raw[:, N:] = raw[0, N:]
    x, eps = r.normal(size=(3, 4, N)), r.normal(size=(3, 4, N))
    whole, split = own(raw), shared(raw[:, :N], raw[0, N:])
    assert (shared.n_shared, split.batch_shape) == (own.n_params - N, (4,))
    np.testing.assert_allclose(split.log_prob(x), whole.log_prob(x), rtol=1e-12)
    np.testing.assert_allclose(split.sample(eps), whole.sample(eps), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.broadcast_to(split.kl(), (4,)), whole.kl(), rtol=1e-12)
    np.testing.assert_allclose(shared(raw).log_prob(x), whole.log_prob(x), rtol=1e-12)


def test_no_entry_leaves_the_graph():
    family = families.parse("extended_grid:3x4", N)
    d = family(np.random.default_rng(0).normal(size=(2, family.n_params)))
    np.testing.assert_array_equal(d.chol != 0, np.broadcast_to(family.graph.mask, d.chol.shape))
    assert family.n_params == N + family.graph.mask.sum()


def test_shared_numbers_are_the_last():
    family = families.parse("gaussian", 3)
    raw = np.random.default_rng(0).normal(size=(5, 6))
    raw[:, 3:] = raw[0, 3:]
    whole, split = family(raw), family(raw[:, :3], raw[0, 3:])
    x = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_allclose(whole.log_prob(x), split.log_prob(x), rtol=1e-14)
    floor = family(np.full((1, 6), -1e4)).variance()
    np.testing.assert_allclose(floor, 1e-6, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "n", "message"),
    [
        ("tree", 4, "unknown family 'tree'; known are diagonal, independent, chain"),
        ("grid:2x3", 4, "grid:2x3 has 2 x 3 = 6 variables, expected 4"),
        ("extended_grid:3x4", 16, "3 x 4 = 12 variables, expected 16"),
        ("extended_grid:4", 16, "expected ROWSxCOLUMNS"),
        ("extended_grid:0x4", 4, "expected ROWSxCOLUMNS"),
        ("extended_grid", 13, "13 variables form no grid"),
        ("band:x", 4, "expected an integer"),
        ("band:-1", 4, "expected an integer"),
        ("lowrank:0", 4, "expected at least 1"),
        ("chain:3", 4, "chain takes no size"),
        ("chain:", 4, "unknown family 'chain:'"),
        ("full:relative", 4, "full takes no size, got full:relative"),
        ("categorical:1", 4, "expected at least 2"),
        ("poisson:2", 4, "poisson takes no size"),
        ("shared:bernoulli", 4, "bernoulli is not a location family"),
        ("shared:shared:chain", 4, "shared:chain is not a location family"),
        ("logit:beta", 4, "expected a family of Gaussians"),
        ("logit:log_gamma", 4, "expected a family of Gaussians"),
        ("logit:mixture:2", 4, "expected a family of Gaussians"),
        ("gamma:3", 4, "gamma takes no size, got gamma:3; gamma:score has draws without derivatives"),
        ("zero_inflated:bernoulli", 4, "zero_inflated: the family is bernoulli, expected negative_binomial or poisson"),
        ("zero_inflated:zero_inflated:poisson", 4, "the family is zero_inflated:poisson, expected negative_binomial"),
        ("zero_inflated:nope", 4, "unknown family 'nope'"),
        ("logit:grid:2x3", 4, "2 x 3 = 6 variables, expected 4"),
        ("chain", 0, "expected an integer of at least 1"),
        ("chain", -2, "expected an integer of at least 1"),
        ("full", 2.5, "expected an integer of at least 1"),
        (7, 4, "a family is written as text"),
    ],
)
def test_names_that_are_none(text, n, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        families.parse(text, n)


def test_more_mistakes():
    with pytest.raises(ConfigError, match=r"raw has shape \(2, 5\), expected \(..., 8\)"):
        families.Cholesky(graphs.chain(3))(np.zeros((2, 5)))
    with pytest.raises(ConfigError, match="fills in beyond the graph"):
        families.Cholesky(graphs.grid(3, 3))
    with pytest.raises(ConfigError, match="has 3 variables, expected 4"):
        families.parse(families.Diagonal(3), 4)
    with pytest.raises(ConfigError, match=r"squeeze is 0.5, expected a number in \[0, 0.5\)"):
        families.Logit(families.Diagonal(3), 0.5)
    with pytest.raises(ConfigError, match="classes is True"):
        families.Categorical(3, True)
    assert str(families.parse("extended_grid", 16)) == "extended_grid:4x4"
    assert str(families.parse("extended_grid", 12)) == "extended_grid:3x4"


@pytest.mark.parametrize(
    ("prior", "posterior", "same"),
    [
        ("ar1", "chain", True),
        ("mixture:3", "diagonal", True),
        ("autoregressive", "bernoulli", True),  # draws of both are bits
        ("categorical:2", "bernoulli", True),
        ("beta", "continuous_bernoulli", True),
        ("categorical:3", "bernoulli", False),  # importance samples would leave some of the prior's values out
        ("poisson", "bernoulli", False),
        ("gamma", "beta", False),
        ("diagonal", "logit:chain", False),
        ("logit:diagonal", "logit:chain", True),
        ("beta", "logit:chain", False),  # whose draws lie a little beyond [0, 1], too
        ("diagonal", "gamma", False),
        ("bernoulli", "chain", False),
        ("continuous_bernoulli", "chain", False),
        ("poisson", "chain", False),
        ("gamma", "chain", False),
        ("bernoulli", "continuous_bernoulli", False),
        ("chain", "bernoulli", False),
        ("bernoulli", "poisson", False),
    ],
)
def test_prior_and_posterior_draw_the_same_values(prior, posterior, same):
    q = families.parse(posterior, 4)
    if same:
        assert families.parse(prior, 4, "prior", q).n == 4
    else:
        why = f"(expected one with a density at every draw of|of which) the posterior {posterior}"
        with pytest.raises(ConfigError, match=f"^prior is {prior}, a distribution over .*, {why}"):
            families.parse(prior, 4, "prior", q)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chian", "unknown family 'chian'"),
        ("grid:3x3", "grid:3x3 has 3 x 3 = 9 variables, expected 4"),
        ("band:x", "band: its number is 'x'"),
        (3, "a family is written as text"),
    ],
)
def test_errors_name_the_setting(text, said):
    with pytest.raises(ConfigError, match=f"^posterior: {said}"):
        families.parse(text, 4, "posterior")
    with pytest.raises(ConfigError, match=f"^{said}"):
        families.parse(text, 4)
