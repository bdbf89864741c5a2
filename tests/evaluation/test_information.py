"""What codes and data say about each other, by enumeration and in closed form; surgery by entropy and by layer; Gibbs."""

from __future__ import annotations

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import reference as ref
from numpy.testing import assert_allclose, assert_array_equal

import gvae
from gvae import evaluation, families, models, objectives, random
from gvae.data import Batch, Table
from gvae.distributions import DiagonalGaussian
from gvae.errors import ConfigError, DataError
from gvae.evaluation import Subject, evaluate, gibbs, information, mixtures, surgery
from gvae.evaluation import subject as streams
from gvae.families import Conditional
from gvae.models.codes import Code, Codes
from gvae.objectives import Layer, Terms

rng = np.random.default_rng(0)
KEY = random.key(7)
POINTS = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], np.float64)
TIMES = 400  # each of the points: the same empirical distribution


def perturbed(model, scale=1.0, seed=1):
    """Parameters away from the start."""
    r = np.random.default_rng(seed)
    return {name: value + scale * r.normal(size=value.shape).astype(value.dtype) for name, value in model.init(KEY).items()}


def noise_of(model, stream, table, batch_size, samples=1):
    """What the measure's draws were made of, (samples, N, ..) by name."""
    parts = []
    for i in range(-(-len(table) // batch_size)):
        index = np.arange(len(table))[i * batch_size : (i + 1) * batch_size]
        parts.append(model.noise(random.fold_in(KEY, stream, i), table.batch(index, KEY), samples))
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def numbers(summary):
    """All numbers of a summary."""
    if isinstance(summary, dict | list):
        return [x for part in (summary.values() if isinstance(summary, dict) else summary) for x in numbers(part)]
    return [] if summary is None else [summary]


def near(found, expected, error, times=5.0):
    assert abs(found - expected) < times * error, (found, expected, error)


# ---- identities, by enumeration alone


@pytest.mark.parametrize("seed", range(8))
def test_identities_of_random_tables(seed):
    """N = 5 points, codes of 2, 2 and 3 values, q(z|x) and p(z) factorized: the parts add up, and the total correlations."""
    r = np.random.default_rng(seed)
    x = r.integers(0, 3, (5, 4))
    factors = [r.dirichlet(np.ones(c), 5) for c in (2, 2, 3)]
    q = np.einsum("na,nb,nc->nabc", *factors)
    p = np.einsum("a,b,c->abc", *(r.dirichlet(np.ones(c)) for c in (2, 2, 3)))
    oracle = ref.DiscreteCodes(x, q, p)
    kl = np.mean([oracle.kl(row, p) for row in q])
    assert_allclose(oracle.joint + oracle.total_correlation + oracle.code_kl.sum(), kl, atol=1e-12)
    assert_allclose(oracle.explained - oracle.total_correlation, oracle.of_views.sum() - oracle.of_codes.sum(), atol=1e-12)
    any_q = ref.DiscreteCodes(x, r.dirichlet(np.ones(12), 5).reshape(5, 2, 2, 3), p)
    assert_allclose(any_q.explained, any_q.of_views.sum() - any_q.joint, atol=1e-12)
    assert abs(any_q.joint + any_q.total_correlation - any_q.of_codes.sum()) > 1e-3  # which a factorized q alone has as 0
    # the bound of CorEx, ELBO + sum H(x_i), of any p(x_i|z); without a loss at p(x_i|z) = q(x_i|z) and p(z_j) = q(z_j)
    best = np.einsum("a,b,c->abc", *oracle.mixtures)
    exact = np.array(
        [[(q * (column == v)[:, None, None, None]).sum(axis=0) / q.sum(axis=0) for v in range(3)] for column in x.T]
    )
    for prior, decoder in ((p, r.dirichlet(np.ones(3), (4, 2, 2, 3)).transpose(0, 4, 1, 2, 3)), (best, exact)):
        told = [(row * np.log(decoder[i, x[n, i]])).sum() / 5 for n, row in enumerate(q) for i in range(4)]
        bound = sum(told) - np.mean([oracle.kl(row, prior) for row in q]) + oracle.view_entropies().sum()
        loss = oracle.explained - oracle.total_correlation - bound
        assert loss > 1e-3 if prior is p else abs(loss) < 1e-12


# ---- the measure, by enumeration


def discrete(posterior, prior):
    """(model, parameters, oracle, log p(x_i | z) of each point and code): two variables of so many values."""
    model = models.VAE(3, 2, posterior, "bernoulli", hidden=(), prior=prior, dtype=np.float64)
    params = perturbed(model)
    q, p = model.encoder(params, POINTS), model.prior_of(params)

    def tables(d):
        if posterior == "bernoulli":
            return np.stack([1 - d.mean, d.mean], axis=-1)
        return np.exp(d.log_probabilities())

    q, p = tables(q), tables(p)
    values = np.stack(np.meshgrid(*[np.arange(q.shape[-1])] * 2, indexing="ij"), axis=-1).astype(np.float64)
    oracle = ref.DiscreteCodes(POINTS, np.einsum("na,nb->nab", q[:, 0], q[:, 1]), np.einsum("a,b->ab", p[0], p[1]))
    one = model.decode(params, {}, {"z": values})["x"].mean  # (C, C, 3)
    return model, params, oracle, np.log(np.where(POINTS[:, None, None] == 1, one, 1 - one))


KINDS = [("bernoulli", "bernoulli"), ("categorical:3", None)]


@pytest.mark.parametrize(("posterior", "prior"), KINDS)
def test_discrete_codes_against_enumeration(posterior, prior):
    """Draw by draw to 1e-10, and the means within 5 standard errors of 2,000 rows."""
    model, params, oracle, log_p = discrete(posterior, prior)
    table = Table(np.tile(POINTS, (TIMES, 1)))
    result = information(Subject(model, params, table, key=KEY, batch_size=333), samples=4)
    noise = noise_of(model, streams.INFORMATION, table, 333, 4)["z"]
    q = model.encoder(params, table.columns["x"])
    z = q.sample(noise)[0].astype(int)
    a, b = z.T
    n = np.arange(len(z)) % 5
    assert_allclose(result.log_q_given_x, np.log(oracle.q[n, a, b]), atol=1e-10)
    assert_allclose(result.log_q, np.log(oracle.q.mean(axis=0)[a, b]), atol=1e-10)
    assert_allclose(result.log_p, np.log(oracle.p[a, b]), atol=1e-10)
    for j in (0, 1):
        assert_allclose(result.log_q_given_x_by_code["z"][:, j], np.log(oracle.marginals[j][n, z[:, j]]), atol=1e-10)
        assert_allclose(result.log_q_by_code["z"][:, j], np.log(oracle.mixtures[j][z[:, j]]), atol=1e-10)
        expected = oracle.of_variable(oracle.p[None], j + 1)[0]
        assert_allclose(result.log_p_by_code["z"][:, j], np.log(expected[z[:, j]]), atol=1e-10)
    drawn = q.sample(noise).astype(int)
    told = log_p[n[None], drawn[..., 0], drawn[..., 1]]
    assert_allclose(result.log_p_of_view, told.mean(axis=(0, 1)), atol=1e-10)
    kl = np.array([oracle.kl(row, oracle.p) for row in oracle.q])
    assert_allclose(result.elbo, told.sum(axis=-1).mean(axis=0) - kl[n], atol=1e-10)
    assert_allclose(result.entropy, oracle.view_entropies(), atol=1e-12)

    found = result.summary()
    parts = {
        "mutual_information": oracle.joint,
        "total_correlation": oracle.total_correlation,
        "marginal_kl": oracle.kl(oracle.q.mean(axis=0), oracle.p),
        "kl": kl.mean(),
        "sum_code_information": oracle.of_codes.sum(),
        "sum_code_kl": oracle.code_kl.sum(),
    }
    for name, expected in parts.items():
        near(found[name], expected, found[f"{name}_standard_error"])
    assert_allclose(found["mutual_information"] + found["total_correlation"] + found["sum_code_kl"], found["kl"], rtol=1e-12)
    spread = (result.log_q_given_x_by_code["z"] - result.log_q_by_code["z"]).std(axis=0) / math.sqrt(len(z))
    assert (np.abs(found["codes"]["z"]["mutual_information"] - oracle.of_codes) < 5 * spread).all()
    spread = (result.log_q_by_code["z"] - result.log_p_by_code["z"]).std(axis=0) / math.sqrt(len(z))
    assert (np.abs(found["codes"]["z"]["kl"] - oracle.code_kl) < 5 * spread).all()
    assert (found["rows"], found["samples"], found["log_rows"]) == (2000, 4, math.log(2000))

    bounds = oracle.view_entropies() + np.einsum("nab,nabi->i", oracle.q, log_p) / 5
    assert (oracle.of_views > bounds).all()
    spread = log_p.std(axis=(0, 1, 2)).max() / math.sqrt(8000)
    assert_allclose(found["view_information"], bounds, atol=5 * spread)
    assert_allclose(found["sum_view_information"], sum(found["view_information"]), rtol=1e-12)
    assert_allclose(found["explained"], found["sum_view_information"] - found["mutual_information"], rtol=1e-12)
    assert_allclose(
        found["explained_beyond_codes"], found["sum_view_information"] - found["sum_code_information"], rtol=1e-12
    )
    assert_allclose(found["total_correlation_bound"], result.elbo.mean() + oracle.view_entropies().sum(), rtol=1e-12)
    # what is bounded, within the errors
    assert found["explained"] < oracle.explained + 0.1
    assert found["total_correlation_bound"] < found["explained_beyond_codes"] + 0.1


def test_batches_and_blocks_leave_the_same_numbers(monkeypatch):
    model, params, _, _ = discrete(*KINDS[0])
    of = Subject(model, params, Table(np.tile(POINTS, (7, 1))), key=KEY, batch_size=6)
    first = [information(of), surgery(of)]
    monkeypatch.setattr(mixtures, "PAIRS", 50)
    again = [information(of), surgery(of)]
    for one, other in zip(first, again, strict=True):
        assert_allclose(numbers(one.summary()), numbers(other.summary()), rtol=1e-9)
        assert_allclose(one.log_q, other.log_q, rtol=1e-12)
    assert len(information(of, rows=8).log_q) == 8
    few = information(Subject(model, params, Table(np.tile(POINTS, (7, 1))[:8]), key=KEY, batch_size=6))
    assert few.summary() == information(of, rows=8).summary()


# ---- the measure, in closed form


W = 0.5 * rng.normal(size=(5, 2)) + 0.8  # columns far from orthogonal: codes that depend on each other given x
FA = models.FactorAnalysis(W, rng.normal(size=5), rng.uniform(1.0, 3.0, 5))
X = FA.sample(random.key(3), 2000)


@pytest.mark.parametrize("posterior", ["full", "diagonal"])
def test_linear_gaussian_codes_in_closed_form(posterior):
    """q(z|x) = N(m(x), C), with m ~ N(0, I - M⁻¹) and so q(z) = N(0, V): each part has a closed form."""
    C = np.linalg.inv(FA.M) if posterior == "full" else np.diag(1 / np.diag(FA.M))
    V = np.eye(2) - np.linalg.inv(FA.M) + C
    result = information(Subject(*FA.as_vae(posterior), Table(X), key=KEY, batch_size=500))
    found = result.summary()
    joint = 0.5 * (np.linalg.slogdet(V)[1] - np.linalg.slogdet(C)[1])
    variances = np.diag(V)
    own = 0.5 * np.log(variances / np.diag(C))
    parts = {
        "mutual_information": joint,
        "sum_code_information": own.sum(),
        "total_correlation": 0.5 * (np.log(variances).sum() - np.linalg.slogdet(V)[1]),
        "marginal_kl": ref.gaussian_kl(np.zeros(2), V),
        "sum_code_kl": sum(ref.gaussian_kl(np.zeros(1), v.reshape(1, 1)) for v in variances),
        "kl": ref.gaussian_kl(np.zeros(2), V) + joint,
        "elbo": FA.log_prob(X).mean() - (FA.mean_field_gap() if posterior == "diagonal" else 0),
    }
    for name, expected in parts.items():
        # 2,000 components are not quite the Gaussian that they were drawn from: about as many nats as it has numbers / 2N
        near(found[name], expected, found[f"{name}_standard_error"] + 2e-3)
    assert_allclose(found["codes"]["z"]["mutual_information"], own, atol=0.1)
    if posterior == "diagonal":
        assert parts["total_correlation"] > 0.05
    assert result.factorizes == (posterior == "diagonal")
    for name in ("entropy", "sum_h", "view_information", "explained", "explained_beyond_codes", "total_correlation_bound"):
        assert found[name] is None


@pytest.mark.parametrize("posterior", ["diagonal", "chain", "grid:2x2", "ar1", "lowrank:2", "full"])
def test_marginals_of_structured_posteriors(posterior):
    """By the diagonal of the dense covariance; a structured prior has no KL by variable, and a mixture no marginals."""
    model = models.VAE(5, 4, posterior, "gaussian", hidden=(6,), prior="ar1", dtype=np.float64)
    params = perturbed(model, 0.5)
    table = Table(X[:60])
    result = information(Subject(model, params, table, key=KEY, batch_size=25))
    q = model.encoder(params, X[:60])
    z = q.sample(noise_of(model, streams.INFORMATION, table, 25, 10)["z"])[0]
    variance = np.diagonal(np.broadcast_to(q.covariance(), (60, 4, 4)), axis1=1, axis2=2)
    each = -0.5 * (np.log(2 * np.pi * variance) + (z[:, None] - q.mean) ** 2 / variance)  # (draws, rows, variables)
    assert_allclose(result.log_q_given_x_by_code["z"], each[np.arange(60), np.arange(60)], rtol=1e-8)
    assert_allclose(result.log_q_by_code["z"], np.log(np.exp(each).mean(axis=1)), rtol=1e-8)
    assert result.factorizes == (posterior == "diagonal")
    found = result.summary()
    assert found["sum_code_kl"] is found["codes"]["z"]["kl"] is result.log_p_by_code is None
    assert_allclose(found["mutual_information"] + found["marginal_kl"], found["kl"], rtol=1e-12)


def test_what_q_has_to_offer():
    model = models.VAE(5, 4, "mixture:3", "gaussian", hidden=(), dtype=np.float64)
    with pytest.raises(ConfigError, match=r"information: GaussianMixture, a layer's q, has no marginals in closed form"):
        information(Subject(model, model.init(KEY), Table(X[:9])))
    squashed = models.VAE(3, 2, "logit:diagonal", "bernoulli", hidden=(), dtype=np.float64)
    result = information(Subject(squashed, perturbed(squashed), Table(POINTS), key=KEY))
    assert result.factorizes
    joined = result.log_q_given_x_by_code["z"].sum(axis=1)
    assert_allclose(joined, result.log_q_given_x, rtol=1e-9)


def test_the_first_of_stacked_layers_counts():
    """A hierarchy's q(z_2|z_1) reads a draw: z is z_1, its p is given z_2, and the bound that of the whole."""
    model = models.Hierarchical(3, (3, 2), "diagonal", "bernoulli", hidden=(4,), dtype=np.float64)
    params = perturbed(model, 0.5)
    table = Table(np.tile(POINTS, (4, 1)))
    result = information(Subject(model, params, table, key=KEY), samples=3)
    q = model.encoder(params, table.columns["x"])
    noise = noise_of(model, streams.INFORMATION, table, 100, 3)
    z = q.sample(noise["z1"])[0]
    each = np.array([[ref.normal_log_prob(code, m, s) for m, s in zip(q.mean, q.log_scale, strict=True)] for code in z])
    assert_allclose(result.log_q_given_x, np.diag(each), rtol=1e-9)
    assert_allclose(result.log_q, np.log(np.exp(each).mean(axis=1)), rtol=1e-9)
    found = result.summary()
    assert list(found["codes"]) == ["z1"]
    assert found["kl"] is found["marginal_kl"] is found["sum_code_kl"] is found["codes"]["z1"]["kl"] is None
    assert result.log_p is result.log_p_by_code is None
    terms = model.terms(params, {}, table.batch(np.arange(20), KEY), noise)
    H = ref.DiscreteCodes(POINTS, np.ones((5, 1)), np.ones(1)).view_entropies().sum()
    assert_allclose(found["total_correlation_bound"], objectives.ELBO()(terms)[1]["bound"] + H, rtol=1e-9)
    assert_allclose(found["explained"], terms.total_log_likelihood.mean() + H - found["mutual_information"], rtol=1e-9)


# ---- several codes


class TwoCodes(Codes):
    """x ~ N(W (shape, style) + b, S), q(shape|x) a chain, q(style|x) of independent variables, each with a prior."""

    Settings = models.VAE.Settings

    def build(self, settings):
        self.decoder = Conditional("decoder", 5, families.parse("gaussian", self.sizes["x"]))
        self.decoders = (self.decoder,)
        posteriors = {"shape": families.parse("chain", 3), "style": families.parse("diagonal", 2)}
        self.coded = {
            name: Code(Conditional(f"encoder_{name}", self.sizes["x"], family), prior=families.parse("diagonal", family.n))
            for name, family in posteriors.items()
        }

    def decode(self, params, state, z, noise=None):
        return {"x": self.decoder(params, np.concatenate([z["shape"], z["style"]], axis=-1))}


def two_codes(rows=40, batch_size=15):
    """(subject, densities by code: log q(z_n|x_m) (n, m), log p(z_n), and of single variables (n, m, j) and (n, j))."""
    model = TwoCodes(5, dtype=np.float64)
    params = perturbed(model, 0.5)
    table = Table(X[:rows])

    def dense(stream, samples):
        noise, found = noise_of(model, stream, table, batch_size, samples), {}
        for name, code in model.coded.items():
            q, p = code.encoder(params, X[:rows]), code.p(params)
            z = q.sample(noise[name])[0]
            C, S = np.broadcast_to(q.covariance(), (rows, q.n, q.n)), p.covariance()
            v, s = np.diagonal(C, axis1=1, axis2=2), np.diag(S)
            log_q = np.array([[ref.gaussian_log_prob(a, m, c) for m, c in zip(q.mean, C, strict=True)] for a in z])
            log_p = np.array([ref.gaussian_log_prob(a, p.mean, S) for a in z])
            each_q = -0.5 * (np.log(2 * np.pi * v) + (z[:, None] - q.mean) ** 2 / v)
            each_p = -0.5 * (np.log(2 * np.pi * s) + (z - p.mean) ** 2 / s)
            found[name] = log_q, log_p, each_q, each_p
        return found

    return Subject(model, params, table, key=KEY, batch_size=batch_size), dense


def by_hand(log_q, log_p):
    """log q(z_n|x_n), log q(z_n), log p(z_n), H(q(m|z_n)) from log q(z_n|x_m) (n, m)."""
    r = np.exp(log_q) / np.exp(log_q).sum(axis=1, keepdims=True)
    entropy = -(r * np.log(np.where(r > 0, r, 1))).sum(axis=1)
    return np.diag(log_q), np.log(np.exp(log_q).mean(axis=1)), log_p, entropy


def check_surgery(found, log_q, log_p):
    for name, expected in zip(
        ("log_q_given_x", "log_q", "log_p", "responsibility_entropy"), by_hand(log_q, log_p), strict=True
    ):
        assert_allclose(getattr(found, name), expected, rtol=1e-8, atol=1e-10, err_msg=name)


def test_surgery_of_two_codes(monkeypatch):
    """The whole, and each code alone, against dense sums; in blocks."""
    of, dense = two_codes()
    monkeypatch.setattr(mixtures, "PAIRS", 300)
    result = surgery(of)
    found = dense(streams.SURGERY, 1)
    check_surgery(result, sum(log_q for log_q, *_ in found.values()), sum(log_p for _, log_p, *_ in found.values()))
    assert len(result.layers) == 2
    for layer, (log_q, log_p, *_) in zip(result.layers, found.values(), strict=True):
        check_surgery(layer, log_q, log_p)
    summary = result.summary()
    first, second = summary["layers"]
    assert_allclose(first["kl"] + second["kl"], summary["kl"], rtol=1e-12)
    for each in (summary, first, second):
        assert_allclose(each["marginal_kl"] + each["mutual_information"], each["kl"], rtol=1e-9)
        assert_allclose(each["mutual_information_by_entropy"], math.log(40) - each["responsibility_entropy"], rtol=1e-12)
    json.dumps(summary)


def test_information_of_two_codes():
    of, dense = two_codes()
    result, found = information(of, samples=2), dense(streams.INFORMATION, 2)
    assert list(result.summary()["codes"]) == ["shape", "style"]
    joint = sum(log_q for log_q, *_ in found.values())
    assert_allclose(result.log_q_given_x, np.diag(joint), rtol=1e-8)
    assert_allclose(result.log_q, np.log(np.exp(joint).mean(axis=1)), rtol=1e-8)
    assert_allclose(result.log_p, sum(log_p for _, log_p, *_ in found.values()), rtol=1e-8)
    here, correlation = np.arange(40), result.log_q.copy()
    for name, (_, _, each_q, each_p) in found.items():
        assert_allclose(result.log_q_given_x_by_code[name], each_q[here, here], rtol=1e-8)
        assert_allclose(result.log_q_by_code[name], np.log(np.exp(each_q).mean(axis=1)), rtol=1e-8)
        assert_allclose(result.log_p_by_code[name], each_p, rtol=1e-8)
        correlation -= np.log(np.exp(each_q).mean(axis=1)).sum(axis=1)
    summary = result.summary()
    assert_allclose(summary["total_correlation"], correlation.mean(), rtol=1e-8)
    assert_allclose(
        summary["mutual_information"] + summary["total_correlation"] + summary["sum_code_kl"], summary["kl"], rtol=1e-12
    )


class TopDown(TwoCodes):
    """The same q, and p(shape | style): a mean that is style's first variable."""

    def terms(self, params, state, batch, noise, step=None):
        terms = super().terms(params, state, batch, noise, step)
        shape, style = terms.layers
        mean = np.repeat(style.z[..., :1], 3, axis=-1)
        return dataclasses.replace(terms, layers=[dataclasses.replace(shape, p=DiagonalGaussian(mean, 0 * mean)), style])


def test_a_prior_given_another_code():
    """p(z) of all codes together is known, that of each variable is not."""
    model = TopDown(5, dtype=np.float64)
    of = Subject(model, perturbed(model, 0.5), Table(X[:40]), key=KEY, batch_size=15)
    result = information(of, samples=2)
    noise = noise_of(model, streams.INFORMATION, of.table, 15, 2)
    style, shape = (model.coded[name] for name in ("style", "shape"))
    z = [code.encoder(of.parameters, X[:40]).sample(noise[name])[0] for name, code in (("style", style), ("shape", shape))]
    p = style.p(of.parameters)
    expected = [
        ref.gaussian_log_prob(a, p.mean, p.covariance()) + ref.gaussian_log_prob(b, np.repeat(a[0], 3), np.eye(3))
        for a, b in zip(*z, strict=True)
    ]
    assert_allclose(result.log_p, expected, rtol=1e-9)
    assert result.log_p_by_code is None
    assert result.summary()["marginal_kl"] is not None


# ---- surgery by entropy


def test_two_estimates_of_the_information():
    """They agree within 5 standard errors of their difference; by entropy the error is the smaller."""
    result = surgery(Subject(*FA.as_vae("full"), Table(X), key=KEY))
    found = result.summary()
    difference = result.log_q_given_x - result.log_q - (found["log_rows"] - result.responsibility_entropy)
    near(found["mutual_information"], found["mutual_information_by_entropy"], difference.std() / math.sqrt(len(X)))
    assert found["mutual_information_by_entropy_standard_error"] < found["mutual_information_standard_error"]
    expected = result.responsibility_entropy.std(ddof=1) / math.sqrt(len(X))
    assert_allclose(found["mutual_information_by_entropy_standard_error"], expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equal_and_disjoint_posteriors(dtype):
    """I = 0, and log N; in float32 the densities of rows far away are 0, with logarithms of -infinity."""
    model, params = FA.as_vae("diagonal")
    x = X[:50].astype(dtype)
    params = {name: value.astype(dtype) for name, value in params.items()}
    model = models.LinearVAE(5, 2, "diagonal", dtype=dtype)
    equal = params | {"encoder.0.weight": 0 * params["encoder.0.weight"]}
    apart = params | {"encoder.0.weight": params["encoder.0.weight"] * np.array(1e22 if dtype == "float32" else 1e4, dtype)}
    same = surgery(Subject(model, equal, Table(x), key=KEY, batch_size=20)).summary()
    assert_allclose(same["mutual_information_by_entropy"], 0, atol=1e-12)
    assert_allclose(same["responsibility_entropy"], math.log(50), rtol=1e-12)
    with np.errstate(over="ignore"):
        other = surgery(Subject(model, apart, Table(x), key=KEY, batch_size=20))
    assert_allclose(other.responsibility_entropy, 0, atol=1e-12)
    assert np.isfinite(other.log_q).all()
    if dtype == "float64":  # in float32 a mean of 1e22 leaves nothing of the noise
        assert_allclose(other.summary()["mutual_information"], math.log(50), rtol=1e-12)
        assert_allclose(other.summary()["mutual_information_by_entropy"], math.log(50), rtol=1e-12)
    same = information(Subject(model, equal, Table(x), key=KEY)).summary()
    assert_allclose(same["codes"]["z"]["mutual_information"], 0, atol=1e-12)


# ---- entropies of what is seen


def test_entropies_of_counts_bits_and_grey_levels():
    counts = rng.poisson(2.0, (150, 4)).astype(np.float64)
    expected = ref.DiscreteCodes(counts, np.ones((150, 1)), np.ones(1)).view_entropies()
    for observation in ("poisson", "categorical:12"):
        model = models.VAE(4, 2, "diagonal", observation, hidden=(), dtype=np.float64)
        result = information(Subject(model, model.init(KEY), Table(counts), key=KEY, batch_size=40), samples=2)
        assert_allclose(result.entropy, expected, rtol=1e-12)
        assert result.summary()["sum_h"] == pytest.approx(expected.sum())
    grey = rng.uniform(size=(150, 4))
    model = models.VAE(4, 2, "diagonal", "bernoulli", hidden=(), dtype=np.float64)
    p = grey.mean(axis=0)
    H = -p * np.log(p) - (1 - p) * np.log(1 - p)
    of = Subject(model, model.init(KEY), Table(grey), key=KEY, batch_size=40)
    assert_allclose(information(of).entropy, H, rtol=1e-12)
    always = np.concatenate([np.zeros((9, 2)), np.ones((9, 2))], axis=1)
    assert_allclose(information(Subject(model, model.init(KEY), Table(always), key=KEY)).entropy, 0, atol=1e-15)
    drawn = Subject(model, model.init(KEY), Table(grey, binarize="dynamic"), key=KEY, batch_size=40)
    bits = drawn.each("bits", lambda i, batch: {"x": batch.x}, settings={})["x"]
    expected = ref.DiscreteCodes(bits, np.ones((150, 1)), np.ones(1)).view_entropies()
    assert_allclose(information(drawn).entropy, expected, rtol=1e-12)


@pytest.mark.parametrize("observation", ["beta", "continuous_bernoulli", "logit:diagonal", "gaussian"])
def test_densities_have_no_entropy_of_values(observation):
    model = models.VAE(4, 2, "diagonal", observation, hidden=(), dtype=np.float64)
    of = Subject(model, model.init(KEY), Table(rng.uniform(0.1, 0.9, (20, 4))), key=KEY)
    result = information(of, samples=2)
    assert result.entropy is result.log_p_of_view is None
    drawn = gibbs(of, steps=2)  # from means, which no row has
    assert_array_equal(drawn.x[:, :2], of.table.columns["x"][:, :2])


def test_a_decoder_that_predicts_a_constant_tells_nothing():
    """p(x_i|z) = the share of ones: the bound on I(x_i; z) is 0, and that of a worse constant below it."""
    model = models.VAE(3, 2, "diagonal", "bernoulli", hidden=(), dtype=np.float64)
    share = POINTS.mean(axis=0)
    params = perturbed(model) | {"decoder.0.weight": np.zeros((2, 3)), "decoder.0.bias": np.log(share / (1 - share))}
    found = information(Subject(model, params, Table(POINTS), key=KEY)).summary()
    assert_allclose(found["view_information"], 0, atol=1e-12)
    worse = information(Subject(model, params | {"decoder.0.bias": np.ones(3)}, Table(POINTS), key=KEY)).summary()
    assert max(worse["view_information"]) < 0


# ---- Gibbs


def test_the_stationary_law_is_the_models():
    """With the exact posterior, 2,000 chains from one point have mean b and covariance W Wᵀ + Psi after 60 steps: each entry
    within 5 standard errors, of sample moments of a Gaussian."""
    model, params = FA.as_vae("full")
    result = gibbs(Subject(model, params, Table(X), key=KEY, batch_size=500), steps=60, keep=np.zeros(5, bool))
    S = FA.W @ FA.W.T + np.diag(FA.psi)
    mixing = np.abs(np.linalg.eigvals(FA.W @ FA.to_code)).max() ** 60  # what is left of the start
    assert mixing < 1e-3
    moments = (result.x - FA.b).T @ (result.x - FA.b) / len(X)
    error = np.sqrt((np.outer(np.diag(S), np.diag(S)) + S**2) / len(X))
    assert (np.abs(moments - S) < 5 * error).all()
    assert (np.abs(result.x.mean(axis=0) - FA.b) < 5 * np.sqrt(np.diag(S) / len(X))).all()
    one = gibbs(Subject(model, params, Table(X), key=KEY, batch_size=500), steps=1, keep=np.zeros(5, bool))
    assert np.abs(np.cov(one.x.T) - S).max() > 0.5  # not from the start on


def test_hidden_variables_have_their_conditional_mean():
    """Given the first two variables, the exact chain's other three have mean and covariance of the Gaussian conditional."""
    known, rest = slice(0, 2), slice(2, 5)
    x = np.tile(X[:1], (2000, 1))
    result = gibbs(Subject(*FA.as_vae("full"), Table(x), key=KEY), steps=60)
    S = FA.W @ FA.W.T + np.diag(FA.psi)
    gain = S[rest, known] @ np.linalg.inv(S[known, known])
    mean, C = FA.b[rest] + gain @ (x[0, known] - FA.b[known]), S[rest, rest] - gain @ S[known, rest]
    assert (np.abs(result.x[:, rest].mean(axis=0) - mean) < 5 * np.sqrt(np.diag(C) / 2000)).all()
    error = np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / 2000)
    assert (np.abs(np.cov(result.x[:, rest].T) - C) < 5 * error).all()


def test_known_variables_stay_and_the_key_decides():
    model, params = FA.as_vae("diagonal")
    mask = rng.uniform(size=(30, 5)) < 0.5
    mask[:, 3] = False
    of = Subject(model, params, Table(X[:30]), key=KEY, batch_size=8)
    for keep in (None, np.array([True, False, True, False, True]), mask):
        result = gibbs(of, steps=3, keep=keep)
        known = np.broadcast_to([True, True, False, False, False] if keep is None else keep, (30, 5))
        assert_array_equal(result.x[known], X[:30][known])
        assert (result.x[~known] != X[:30][~known]).all()
        hidden = np.where(known, 0, (result.mean - X[:30]) ** 2)
        assert_allclose(result.squared_error, hidden.sum(axis=1) / (~known).sum(axis=1), rtol=1e-12)
        again = gibbs(of, steps=3, keep=keep)
        assert_array_equal(again.x, result.x)
        assert_array_equal(gibbs(of, steps=7, keep=keep).first_squared_error, result.first_squared_error)
        assert (gibbs(Subject(model, params, Table(X[:30]), key=random.key(8)), steps=3, keep=keep).x != result.x).any()
    few = gibbs(of, steps=3, keep=mask, rows=16)  # two batches; the start, the mean of the rows, is another
    assert few.x.shape == (16, 5)
    assert_array_equal(few.x[mask[:16]], X[:16][mask[:16]])


def test_one_row_by_hand():
    """Two steps of a row: the hidden variables start at their mean over the rows, which is the row itself if it is alone."""
    model, params = FA.as_vae("diagonal")
    rows = X[:2]
    found = gibbs(Subject(model, params, Table(rows), key=KEY), steps=2, keep=np.array([False, True, True, False, True]))
    hidden, start = [0, 3], rows.mean(axis=0)
    key, x, errors = random.fold_in(KEY, streams.GIBBS, 0), rows.copy(), []
    x[:, hidden] = start[hidden]
    for step in (1, 2):
        e = random.normal(random.fold_in(key, step, 0), (1, 2, 2), np.float64)[0]
        z = (x - FA.b) @ FA.to_code.T + e / np.sqrt(np.diag(FA.M))
        mean = z @ FA.W.T + FA.b
        errors.append(((mean - rows)[:, hidden] ** 2).mean(axis=1))
        drawn = mean + np.sqrt(FA.psi) * random.normal(random.fold_in(key, step, 1), (1, 2, 5), np.float64)[0]
        x[:, hidden] = drawn[:, hidden]
    assert_allclose(found.x, x, rtol=1e-9)
    assert_allclose(found.mean, mean, rtol=1e-9)
    assert_allclose([found.first_squared_error, found.squared_error], errors, rtol=1e-9)
    summary = found.summary()
    assert (summary["rows"], summary["steps"]) == (2, 2)
    assert summary["squared_error"] == pytest.approx(np.mean(errors[1]))
    assert summary["first_squared_error_standard_error"] == pytest.approx(np.std(errors[0], ddof=1) / math.sqrt(2))


def test_bits_and_counts_start_as_draws_of_their_columns():
    """Each hidden variable at the value of some row: bits have the column's share, counts its values."""
    seen = []

    class Watched(models.VAE):
        def terms(self, params, state, batch, noise, step=None):
            seen.append(batch.x)
            return super().terms(params, state, batch, noise, step)

    bits = (rng.uniform(size=(3000, 4)) < np.array([0.5, 0.5, 0.2, 0.8])).astype(np.float64)
    counts = 3.0 * rng.poisson(np.array([1.0, 1.0, 4.0, 0.5]), (3000, 4))
    for x, observation in ((bits, "bernoulli"), (counts, "poisson")):
        x[:, 3] = x[:, 2]  # the rows' own dependence is not the start's
        model = Watched(4, 2, "diagonal", observation, hidden=(), dtype=np.float64)
        seen.clear()
        result = gibbs(Subject(model, model.init(KEY), Table(x), key=KEY, batch_size=3000), steps=1)
        _, start = seen
        assert_array_equal(start[:, :2], x[:, :2])
        error = x[:, 2:].std(axis=0) / math.sqrt(3000)
        assert (np.abs(start[:, 2:].mean(axis=0) - x[:, 2:].mean(axis=0)) < 5 * error).all()
        assert (start[:, 2:] != x[:, 2:]).any(axis=1).mean() > 0.1
        for j in (2, 3):
            assert set(start[:, j]) <= set(x[:, j])
        assert abs(np.corrcoef(start[:, 2], start[:, 3])[0, 1]) < 5 / math.sqrt(3000)
        assert (result.x == np.floor(result.x)).all()


def test_rows_without_an_encoder_are_inferred_at_each_step(monkeypatch):
    """Non-linear factor analysis: q of the chain's x, not of the rows'."""
    model = models.NonlinearFactorAnalysis(5, 2, hidden=(), dtype=np.float64)
    params = perturbed(model, 0.3)
    of = Subject(model, params, Table(X[:6]), key=KEY)
    asked = []

    def infer(model, parameters, state, batch, key):
        asked.append(batch.x)
        return {"encoder.raw": np.concatenate([batch.x[:, :2], np.zeros((len(batch), 2))], axis=1)}

    monkeypatch.setattr(sys.modules[gibbs.__module__], "infer", infer)
    result = gibbs(of, steps=3, keep=np.zeros(5, bool))
    assert len(asked) == 3
    assert_allclose(asked[0], np.tile(X[:6].mean(axis=0), (6, 1)), rtol=1e-12)
    key = random.fold_in(KEY, streams.GIBBS, 0)
    z = asked[2][:, :2] + model.noise(random.fold_in(key, 3, 0), Batch({"x": X[:6]}, np.arange(6)), 1)["z"][0]
    assert_allclose(result.mean, model.decode(params, {}, {"z": z})["x"].mean, rtol=1e-9)


def test_filling_in_helps_where_variables_depend_on_each_other():
    """On data that the model has drawn, with nearly no noise: the error falls from that of the mean to what noise leaves."""
    fa = models.FactorAnalysis(rng.normal(size=(12, 2)), np.zeros(12), np.full(12, 0.05))
    model, params = fa.as_vae("full")
    x = fa.sample(random.key(1), 300)
    found = gibbs(Subject(model, params, Table(x), key=KEY), steps=20).summary()
    assert found["squared_error"] < 0.5 * found["first_squared_error"]
    assert found["squared_error"] < 0.2 * x[:, 6:].var()


# ---- all of them, and what they refuse


def test_tables_and_json():
    bits = np.tile(POINTS, (8, 1))
    model = models.VAE(3, 2, "diagonal", "bernoulli", hidden=(4,), dtype=np.float64)
    named = ["surgery", "information", "gibbs"]
    result = evaluate(model, model.init(KEY), Table(bits), samples=5, measures=named, key=KEY)
    summary, shown = result.summary(), evaluation.table(result)
    json.dumps({name: summary[name] for name in named}, allow_nan=False)
    assert list(result.measures) == named
    for name, value in (
        ("information", "total_correlation"),
        ("information", "explained_beyond_codes"),
        ("information", "total_correlation_bound"),
        ("surgery", "mutual_information_by_entropy"),
    ):
        assert f" {summary[name][value]:.3f}" in shown
    assert f"squared error after 20                 {summary['gibbs']['squared_error']:.5f}" in shown
    assert "independent given z" not in shown
    for posterior, prior, words in (
        ("diagonal", None, "are for bits, counts and categories that are independent given z"),
        ("diagonal", "ar1", "the variables of p(z) are not independent"),
    ):
        model = models.VAE(5, 2, posterior, "gaussian", hidden=(), prior=prior, dtype=np.float64)
        shown = evaluation.table(evaluate(model, model.init(KEY), Table(X[:20]), samples=2, measures="information"))
        assert words in shown
    model = models.VAE(3, 2, "full", "bernoulli", hidden=(4,), dtype=np.float64)
    shown = evaluation.table(evaluate(model, model.init(KEY), Table(bits), samples=2, measures="information"))
    assert "q(z|x) does not factorize" in shown
    stacked = models.Hierarchical(3, (2, 2), "diagonal", "bernoulli", hidden=(4,), dtype=np.float64)
    shown = evaluation.table(evaluate(stacked, stacked.init(KEY), Table(bits), samples=2, measures="information"))
    assert "whose p(z) depends on the codes above" in shown
    two = two_codes()[0]
    shown = evaluation.table(evaluate(two.model, two.parameters, two.table, samples=2, measures="surgery"))
    assert "layer 2: marginal KL" in shown


def test_a_decoder_whose_variables_depend_on_each_other_has_no_information_of_each():
    """Equal bits, which the decoder copies from one another: the codes do not tell anything about them."""
    bits = np.repeat(rng.random((100, 1)) < 0.5, 2, axis=1).astype(np.float64)
    model = models.VAE(2, 2, "diagonal", "autoregressive", hidden=(4,), dtype=np.float64)
    summary = information(Subject(model, model.init(KEY), Table(bits))).summary()
    assert summary["mutual_information"] is not None
    for name in ("sum_h", "sum_view_information", "explained", "explained_beyond_codes", "total_correlation_bound"):
        assert summary[name] is None


class TwoViews(models.VAE):
    """Explains y as well, from the same code."""

    def terms(self, params, state, batch, noise, step=None):
        terms = super().terms(params, state, batch, noise, step)
        return Terms(terms.log_likelihood, terms.layers, views=terms.views | {"y": terms.views["x"]})


class Above(models.VAE):
    """Its q sees x through noise of its own."""

    def terms(self, params, state, batch, noise, step=None):
        q = self.encoder(params, batch.x + noise["z"][..., :1])
        z = q.sample(noise["z"])
        x = self.decoder(params, z)
        return Terms({"x": x.log_prob(batch.x)}, [Layer(q, None, z, noise["z"])], views={"x": x})


def test_models_that_they_are_not_for():
    x, labels = rng.normal(size=(20, 3)), np.arange(20) % 2
    classifier = gvae.VIB(latent=2, hidden=(4,), epochs=1, random_state=0).fit(x, labels)
    for name in ("information", "gibbs"):
        with pytest.raises(ConfigError, match=f"{name}: VIB explains no x, of which this is a measure"):
            classifier.evaluate(x, labels, samples=2, measures=name)
    auto = gvae.Autoencoder(latent=2, hidden=(4,), epochs=1, random_state=0).fit(x)
    assert auto.evaluate(x, samples=2, measures="all").measures.keys() == {"reconstruction"}
    both = TwoViews(3, 2, "diagonal", "gaussian", hidden=(), dtype=np.float64)
    for run, name in ((information, "information"), (gibbs, "gibbs")):
        with pytest.raises(ConfigError, match=f"{name}: codes of Autoencoder have no posterior, of which this is a measure"):
            auto.evaluate(x, samples=2, measures=name)
        with pytest.raises(ConfigError, match=f"{name}: TwoViews explains x and y; expected a model that explains x alone"):
            run(Subject(both, both.init(KEY), Table(x)))
    above = Above(3, 2, "diagonal", "gaussian", hidden=(), dtype=np.float64)
    with pytest.raises(ConfigError, match="information: the first layer's q depends on other draws than its own"):
        information(Subject(above, above.init(KEY), Table(x)))


def test_bad_settings():
    model, params = FA.as_vae("diagonal")
    of = Subject(model, params, Table(X[:6]), key=KEY)
    for run, name in ((gibbs, "steps"), (gibbs, "rows"), (information, "samples"), (information, "rows"), (surgery, "rows")):
        for bad in (0, -1, 1.5, True):
            with pytest.raises(ConfigError, match=f"evaluate: {name} is {bad}, expected a whole number of at least 1"):
                run(of, **{name: bad})
    for keep, words in (
        (np.zeros(4, bool), r"keep is bool of shape \(4,\), expected bool of shape \(5,\) or \(6, 5\)"),
        (np.zeros((5, 5), bool), r"keep is bool of shape \(5, 5\), expected"),
        (np.zeros(5), r"keep is float64 of shape \(5,\), expected bool"),
        ([0, 1], r"keep is int64 of shape \(2,\), expected bool"),
        (np.ones(5, bool), "keep holds all variables of row 0, expected one to be hidden"),
        (np.arange(30).reshape(6, 5) >= 10, "keep holds all variables of row 2, expected one to be hidden"),
    ):
        with pytest.raises(ConfigError, match=f"gibbs: {words}"):
            gibbs(of, keep=keep)
    for observation, x, words in (
        ("bernoulli", X[:6], r"information: x has other values than those of BernoulliDistribution, \[0, 1\]"),
        ("poisson", np.full((6, 5), 0.5), "information: x has other values than those of PoissonDistribution, 0, 1, .."),
    ):
        model = models.VAE(5, 2, "diagonal", observation, hidden=(), dtype=np.float64)
        with pytest.raises(DataError, match=words):
            information(Subject(model, model.init(KEY), Table(x), key=KEY))


def test_units_under_a_mixture_add_up():
    """Under a prior whose variables depend on each other: each given those before it, which is the KL in all."""
    model = models.VAE(4, 3, "diagonal", "bernoulli", (5,), prior="mixture:3", dtype="float64")
    params = {n: v + 0.3 * np.random.default_rng(0).normal(size=v.shape) for n, v in model.init(random.key(0)).items()}
    x = (np.random.default_rng(1).random((50, 4)) < 0.5).astype(np.float64)
    subject = Subject(model, params, Table(x), key=random.key(2))
    units = evaluation.active_units(subject, samples=4000)
    found = evaluate(model, params, Table(x), samples=4000).summary()["kl"]
    assert units.kl[0].shape == (3,)
    assert units.kl[0].sum() == pytest.approx(found, abs=0.02)  # 200,000 draws, whose ratio deviates by about 1.5
