"""What equals what: a hierarchy of one layer and a VAE, bounds of total correlation and ELBOs, anchors without weight."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from moments import ascended, uncorrelated
from numpy.testing import assert_allclose
from strategies import seeds

from gvae import costs, models, objectives, random
from gvae.autodiff import value_and_gradient
from gvae.data import Batch
from gvae.distributions import CategoricalDistribution
from gvae.errors import ConfigError
from gvae.families import LOG_SCALE
from gvae.objectives import ELBO, Layer, Terms

N, D, LATENT = 30, 6, 4


def batch_of(x):
    return Batch({"x": x}, np.arange(len(x)))


def moved(model, seed=0):
    """Its first parameters, and something random on top."""
    r = np.random.default_rng(seed)
    return {name: v + 0.3 * r.normal(size=v.shape) for name, v in model.init(random.key(seed)).items()}


def ascent(model, objective, params, batch, noise):
    """What an objective is worth; where groups of parameters ascend different parts, their sum."""
    value, _ = objective(model.terms(params, {}, batch, noise, 0))
    return sum(value.values()) if isinstance(value, dict) else value


def value_and_slopes(model, objective, params, batch, noise):
    """That, and its derivatives."""
    return value_and_gradient(lambda p: ascent(model, objective, p, batch, noise), params)


# ---- one layer of a hierarchy is a VAE -----------------------------------------------------------

FAMILIES = [
    ("diagonal", None),
    ("diagonal", "mixture:3"),
    ("diagonal", "ar1"),
    ("chain", None),
    ("chain", "random_walk"),
    ("lowrank:2", "diagonal"),
    ("full", "full"),
    ("bernoulli", None),
    ("bernoulli", "bernoulli"),
]
OBJECTIVES = ["elbo", "elbo_a", "elbo:beta=0.5", "iwae", "iwae dreg", "miwae:2 vimco"]


@pytest.mark.parametrize(
    ("posterior", "prior", "text"),
    [
        (*families, text)
        for families, text in itertools.product(FAMILIES, OBJECTIVES)
        if (families[0], text) != ("bernoulli", "iwae dreg")  # draws without a path
    ],
)
def test_one_layer_of_a_hierarchy_is_a_vae(posterior, prior, text):
    """Values and derivatives, with parameters mapped by name and the same draws: equal but for rounding, 1e-12."""
    settings = {"observation": "bernoulli", "hidden": (5,), "prior": prior, "dtype": "float64", "start": "glorot"}
    vae, layered = models.VAE(D, LATENT, posterior, **settings), models.Hierarchical(D, (LATENT,), posterior, **settings)
    params = moved(vae)

    def renamed(name):
        group, _, rest = name.partition(".")
        return {"encoder": "encoder1", "decoder": "decoder0"}.get(group, group) + "." + rest

    same = {renamed(name): v for name, v in params.items()}
    assert {n: v.shape for n, v in same.items()} == {n: v.shape for n, v in layered.init(random.key(0)).items()}
    batch = batch_of((np.random.default_rng(1).random((N, D)) < 0.5).astype(float))
    noise = vae.noise(random.key(2), batch, 4)
    name, _, gradient = text.partition(" ")
    objective = objectives.parse(name, gradient=gradient or "reparameterized")
    value, slope = value_and_slopes(vae, objective, params, batch, noise)
    other, other_slope = value_and_slopes(layered, objective, same, batch, {"z1": noise["z"]})
    assert_allclose(other, value, rtol=1e-12)
    for name in params:
        assert np.abs(slope[name]).max() > 0
        assert_allclose(other_slope[renamed(name)], slope[name], rtol=1e-12, atol=1e-12)
    assert vae.has_closed_kl == layered.has_closed_kl


# ---- total correlation, by enumeration -----------------------------------------------------------
#
# x : 3 bits, z1 : 2 bits, z2 : 2 bits; x -> z1 -> z2, with p(z1|x) and p(z2|z1) that factorise over bits, and tables of
# everything. TC(a) = sum_i H(a_i) - H(a). Source: Gao et al. (2019), whose bounds are compared with what the engine ascends.

X, Z1, Z2 = (0, 1, 2), (3, 4), (5, 6)  # axes of the joint probabilities, (2,) * 7
OF = 5  # p(z1|x) and p(z2|z1) are multiples of 1/5


def entropy(P, variables, given=()):
    def of(variables):
        p = P.sum(axis=tuple(i for i in range(P.ndim) if i not in variables))
        return -(p * np.log(p)).sum()

    return of((*variables, *given)) - of(given)


def correlation(P, variables, given=()):
    """TC(variables | given)."""
    return sum(entropy(P, (i,), given) for i in variables) - entropy(P, variables, given)


def conditional(P, variables, given=()):
    """p(variable | given) of each, (states of given, variables, 2)."""
    found = []
    for i in variables:
        p = P.sum(axis=tuple(j for j in range(P.ndim) if j not in (i, *given))).reshape(2, -1)
        found.append((p / p.sum(axis=0)).T)
    return np.stack(found, axis=1)


def joint(p_x, z1, z2):
    """p(x) p(z1|x) p(z2|z1), (2,) * 7, of tables (8,), (8, 2, 2) and (4, 2, 2)."""
    first, second = z1.reshape(2, 2, 2, 2, 2), z2.reshape(2, 2, 2, 2)
    halves = first[..., 0, :], first[..., 1, :], second[..., 0, :], second[..., 1, :]
    return np.einsum("xyz,xyza,xyzb,abc,abd->xyzabcd", p_x.reshape(2, 2, 2), *halves)


class Tables:
    """p_x, z1, z2 : p(x), p(z1|x), p(z2|z1), at random, and P, all of them together
    random, best : q(x|z1), q(z1|z2), r(z2), at random, and those that P has, which are the best ones"""

    def __init__(self, seed):
        r = np.random.default_rng(seed)
        self.p_x = r.dirichlet(np.ones(8))
        counts = [r.integers(1, OF, size=(states, 2)) for states in (8, 4)]
        self.z1, self.z2 = (np.stack([OF - n, n], axis=-1) / OF for n in counts)
        self.P = joint(self.p_x, self.z1, self.z2)
        self.random = [r.dirichlet([1, 1], size=size) for size in ((4, 3), (4, 2), (2,))]
        self.best = [conditional(self.P, X, Z1), conditional(self.P, Z1, Z2), conditional(self.P, Z2)[0]]


def expected(P, f):
    """E f(x, z1, z2), one state after the other."""
    return sum(P[s] * f(s[:3], s[3:5], s[5:]) for s in itertools.product((0, 1), repeat=7))


def log_of(table, state, values):
    """The sum over variables of their log-probabilities, in the table's row for a state (None: it has no rows)."""
    row = table if state is None else table[int("".join(map(str, state)), 2)]
    return sum(math.log(row[i, v]) for i, v in enumerate(values))


def one_layer(up, q_x, r):
    """log q(x|z1) - log p(z1|x) / r(z1), whose mean is the bound but for sum_i H(x_i)."""
    return lambda x, z1, z2: log_of(q_x, z1, x) - log_of(up, x, z1) + log_of(r, None, z1)


def two_layers(up1, up2, q_x, q_z1, r):
    """log q(x|z1) - log p(z1|x) / q(z1|z2) - log p(z2|z1) / r(z2), likewise."""

    def gain(x, z1, z2):
        kl1, kl2 = log_of(up1, x, z1) - log_of(q_z1, z2, z1), log_of(up2, z1, z2) - log_of(r, None, z2)
        return log_of(q_x, z1, x) - kl1 - kl2

    return gain


def repeated(rows):
    """Every state of two bits with the probabilities (.., 2, 2), as often as it is probable: (.., 25, 2)."""
    n = np.rint(OF * rows[..., 1]).astype(int)  # how many of 5 draws are 1
    ones = np.arange(OF) < n[..., None]  # (.., 2, 5)
    first, second = np.repeat(ones[..., 0, :], OF, axis=-1), np.tile(ones[..., 1, :], OF)
    return np.stack([first, second], axis=-1).astype(int)


def bound(tables, down, layers):
    """The ELBO of the engine, with draws that are each as frequent as they are probable: the expectation itself."""
    p_x, p_z1, p_z2 = down
    rows = np.array(list(itertools.product((0, 1), repeat=3)))
    z1 = np.repeat(repeated(tables.z1), OF * OF, axis=1).swapaxes(0, 1)  # (625, 8, 2)
    at1 = z1 @ [2, 1]
    z2 = repeated(tables.z2)[at1, np.arange(len(z1))[:, None] % (OF * OF)]
    at2 = z2 @ [2, 1]
    likelihood = np.log(p_x[at1[..., None], np.arange(3), rows]).sum(axis=-1)
    q1 = CategoricalDistribution(np.log(tables.z1))
    if layers == 1:
        made = [Layer(q1, CategoricalDistribution(np.log(p_z1)), z1 * 1.0)]
    else:
        q2 = CategoricalDistribution(np.log(tables.z2[at1]))
        made = [
            Layer(q1, CategoricalDistribution(np.log(p_z1[at2])), z1 * 1.0, coupled=True),
            Layer(q2, CategoricalDistribution(np.log(p_z2)), z2 * 1.0),
        ]
    return ELBO()(Terms({"x": likelihood}, made), 0, 8 * tables.p_x)[1]["bound"]


@given(seed=seeds)
def test_total_correlation_is_a_difference_of_informations(seed):
    """TC(x; z) - TC(z) = sum_i I(x_i; z) - sum_j I(z_j; x), as p(z|x) factorises, where TC(x; z) = TC(x) - TC(x|z)."""
    P = Tables(seed).P
    of_x = sum(entropy(P, (i,)) - entropy(P, (i,), Z1) for i in X)
    of_z = sum(entropy(P, (j,)) - entropy(P, (j,), X) for j in Z1)
    assert_allclose(correlation(P, X) - correlation(P, X, Z1) - correlation(P, Z1), of_x - of_z, atol=1e-12)


@given(seed=seeds)
def test_the_bound_of_one_layer_is_an_elbo_and_the_entropies_of_the_data(seed):
    """ELBO + sum_i H(x_i) <= TC(x; z) - TC(z), by sum_i E KL(p(x_i|z) ‖ q(x_i|z)) + sum_j KL(p(z_j) ‖ r(z_j))."""
    tables = Tables(seed)
    P, constant = tables.P, sum(entropy(tables.P, (i,)) for i in X)
    target = correlation(P, X) - correlation(P, X, Z1) - correlation(P, Z1)
    q_x, r, best_x, best_r = tables.random[0], tables.random[2], tables.best[0], conditional(P, Z1)[0]
    got = bound(tables, (q_x, r, None), 1) + constant
    assert_allclose(got, constant + expected(P, one_layer(tables.z1, q_x, r)), atol=1e-12)
    kl_x = expected(P, lambda x, z1, z2: log_of(best_x, z1, x) - log_of(q_x, z1, x))
    kl_z = expected(P, lambda x, z1, z2: log_of(best_r, None, z1) - log_of(r, None, z1))
    assert min(kl_x, kl_z) > 0
    assert_allclose(target - got, kl_x + kl_z, atol=1e-12)
    assert_allclose(bound(tables, (best_x, best_r, None), 1) + constant, target, atol=1e-12)


@given(seed=seeds)
def test_the_stacked_bound_is_an_elbo_of_two_layers_and_the_entropies_of_the_data(seed):
    """ELBO + sum_i H(x_i) <= TC(x) - TC(x|z1) - TC(z1|z2) - TC(z2), equal with the best q and r. With a sum over all layers
    of E log q(z_(l-1)|z_l) beside the KLs, as it is found in print, z1 counts twice: too low by sum_j H(z1_j|z2)."""
    tables = Tables(seed)
    P, constant = tables.P, sum(entropy(tables.P, (i,)) for i in X)
    target = correlation(P, X) - correlation(P, X, Z1) - correlation(P, Z1, Z2) - correlation(P, Z2)
    got = bound(tables, tables.random, 2) + constant
    assert_allclose(got, constant + expected(P, two_layers(tables.z1, tables.z2, *tables.random)), atol=1e-12)
    assert got < target
    exact = bound(tables, tables.best, 2) + constant
    assert_allclose(exact, target, atol=1e-12)
    twice = exact + expected(P, lambda x, z1, z2: log_of(tables.best[1], z2, z1))
    assert_allclose(target - twice, sum(entropy(P, (j,), Z2) for j in Z1), atol=1e-12)
    assert target - twice > 0.1


@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_of_layers_has_that_bound(layers):
    """models.Hierarchical of bits, all of its draws weighed by their probabilities: the expression of its own tables."""
    shared = {"hidden": (4,), "between": "bernoulli", "prior": "bernoulli", "dtype": "float64"}
    model = models.Hierarchical(3, (2,) * layers, "bernoulli", "bernoulli", **shared)
    params = moved(model)
    rows, bits, codes = (np.array(list(itertools.product((0.0, 1.0), repeat=n))) for n in (3, 2, 2 * layers))
    uniforms = np.broadcast_to(1 - codes[:, None], (len(codes), 8, 2 * layers))  # 0 draws a 1 and 1 a 0
    noise = {f"z{i + 1}": part for i, part in enumerate(np.split(uniforms, layers, axis=-1))}
    terms = model.terms(params, {}, batch_of(rows), noise)
    share = np.exp(sum(layer.log_q for layer in terms.layers))
    assert_allclose(share.sum(axis=0), 1, rtol=1e-12)
    p_x = np.random.default_rng(4).dirichlet(np.ones(8))
    got = (share * terms.log_weights).sum(axis=0) @ p_x

    def table(p):
        return np.stack([1 - p.mean, p.mean], axis=-1)

    z1, q_x = table(model.encoders[0](params, rows)), table(model.decoders[0](params, bits))
    r = table(model.prior_of(params))
    if layers == 1:
        P, gain = joint(p_x, z1, np.full((4, 2, 2), 0.5)), one_layer(z1, q_x, r)
    else:
        z2, q_z1 = table(model.encoders[1](params, bits)), table(model.decoders[1](params, bits))
        P, gain = joint(p_x, z1, z2), two_layers(z1, z2, q_x, q_z1, r)
    assert_allclose(got, expected(P, gain), rtol=1e-12)


# ---- anchors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_an_anchor_that_weighs_nothing_is_the_elbo(weighted):
    """`test_costs_that_are_the_kl` has the other costs that are none. Their text refuses a weight of 0."""
    model = models.VAE(D, LATENT, "diagonal", "gaussian", (5,), prior="diagonal", dtype="float64")
    r, params = np.random.default_rng(5), moved(model)
    batch = batch_of(r.normal(size=(N, D)))
    noise, weight = model.noise(random.key(1), batch, 2), r.random(N) if weighted else None
    (value, slope), (expected, expected_slope) = (
        value_and_gradient(lambda p, o=o: o(model.terms(p, {}, batch, noise, 0), 0, weight)[0], params)
        for o in (ELBO(cost=costs.Anchor((0, 2), 0.0)), ELBO())
    )
    assert_allclose(value, expected, rtol=1e-13)
    for name in params:
        assert_allclose(slope[name], expected_slope[name], rtol=1e-10, atol=1e-13)
    with pytest.raises(ConfigError, match="weight is '0'"):
        objectives.parse("elbo:anchor=0+2,weight=0")


S, PSI, WEIGHT = 3.0, 0.5, 0.6  # the variance of x along three directions, of the decoder's noise; the anchor's weight


@pytest.fixture(scope="module")
def equal_directions():
    """(model, batch, noise, directions). The moments of rows and draws are exactly those that are meant; where all is linear
    the loss depends on them only, and is its own expectation."""
    columns = uncorrelated(5 + 3, rows=40, seed=6)
    directions = np.linalg.qr(np.random.default_rng(7).normal(size=(5, 5)))[0]
    x = columns[:, :5] * np.sqrt([S, S, S, 0.4, 0.2]) @ directions.T
    model = models.LinearVAE(5, 3, "gaussian", dtype="float64")
    return model, batch_of(x), {"z": columns[None, :, 5:]}, directions[:, :3]


def raw_scale(variance):
    """The raw number of a family of Gaussians for this variance."""
    return LOG_SCALE * np.arctanh(0.5 * np.log(variance) / LOG_SCALE)


def information(params, x):
    """I(z_k; x) of each code of a linear encoder."""
    variance = np.exp(2 * LOG_SCALE * np.tanh(params["encoder.shared"] / LOG_SCALE))
    return 0.5 * np.log1p((x @ params["encoder.0.weight"]).var(axis=0) / variance)


def test_the_optimum_with_an_anchor_in_closed_form(equal_directions):
    """Let s be the variance of x along direction k, z_k = a x + sqrt(v) e, w z_k the decoder's mean, psi the variance of its
    noise, and beta_k = 1 - weight or 1 the price of KL_k. Rescaling z_k and w changes the KL alone, which is least where z_k
    has variance 1. Then the best w is a s, the squared error is s v, and s v / (2 psi) - beta_k / 2 log v is least at
    v = beta_k psi / s. So I(z_k; x) = 1/2 log(s / psi) - 1/2 log beta_k: the anchor adds -1/2 log(1 - weight) to its own
    code and nothing to the others. There no derivative is left, but for that of the decoder's noise, which is fixed."""
    model, batch, noise, directions = equal_directions
    price = np.array([1, 1 - WEIGHT, 1])
    v = price * PSI / S
    params = {
        "encoder.0.weight": directions * np.sqrt((1 - v) / S),
        "encoder.0.bias": np.zeros(3),
        "encoder.shared": raw_scale(v),
        "decoder.0.weight": (directions * np.sqrt((1 - v) * S)).T,
        "decoder.0.bias": np.zeros(5),
        "decoder.shared": raw_scale(np.full(5, PSI)),
    }
    objective = objectives.parse(f"elbo:anchor=1,weight={WEIGHT}")
    _, slope = value_and_slopes(model, objective, params, batch, noise)
    for name in params.keys() - {"decoder.shared"}:
        assert np.abs(slope[name]).max() < 1e-12, name
    expected = 0.5 * math.log(S / PSI) - 0.5 * np.log(price)
    assert_allclose(information(params, batch.x), expected, rtol=1e-12)
    terms = model.terms(params, {}, batch, noise)
    assert_allclose(terms.layers[0].q.kl_by_unit().mean(axis=0), expected, rtol=1e-12)
    _, other = value_and_slopes(model, ELBO(), params, batch, noise)
    assert np.abs(other["encoder.shared"]).max() > 0.1  # without the anchor it is no optimum


def test_an_anchor_raises_what_its_code_tells_and_leaves_the_others(equal_directions):
    """By L-BFGS from a random start, decoder and encoder, which ends about 1e-7 away."""
    model, batch, noise, _ = equal_directions
    start = model.init(random.key(3)) | {"decoder.shared": raw_scale(np.full(5, PSI))}
    told = []
    for text in ("elbo", f"elbo:anchor=1,weight={WEIGHT}"):
        objective = objectives.parse(text)
        best = ascended(
            lambda p, o=objective: ascent(model, o, p, batch, noise), start, fixed=("decoder.shared",), gtol=1e-9
        )
        told.append(information(best, batch.x))
    assert_allclose(told[0], 0.5 * math.log(S / PSI), atol=1e-6)
    assert_allclose(told[1] - told[0], [0, -0.5 * math.log(1 - WEIGHT), 0], atol=1e-6)
