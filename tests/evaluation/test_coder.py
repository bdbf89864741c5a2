"""The coder: every family decodes bit for bit, at the length that its probabilities say."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from command_line import command
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

import gvae
from gvae import distributions, evaluation, families, models, random
from gvae.data import Table
from gvae.errors import ConfigError, DataError
from gvae.evaluation import Bins, Coder, Subject, Whole, pop, push
from gvae.evaluation.coder import MAGIC

rng = np.random.default_rng(0)
N = 12
MEANS = rng.random((3, N))
KIND = rng.integers(0, 3, 2000)
X = (rng.random((2000, N)) < MEANS[KIND]).astype(np.float32)
COUNTS = rng.poisson(5 * MEANS[KIND]).astype(np.float32)


def fresh(heads=4, words=400, key=0):
    return Coder.start(random.key(key), heads, words)


# ---- intervals on heads


@given(st.lists(st.tuples(st.integers(1, 250), st.integers(0, 255), st.integers(8, 31)), max_size=60), st.integers(0, 99))
def test_symbols_come_off_as_they_went_on(symbols, seed):
    """Any intervals, of any precision: peek lies in the interval, and removal restores all bits."""
    coder, states = fresh(heads=1, key=seed), []
    for size, start, bits in symbols:
        start = min(start, 2**bits - size)
        states.append((coder.tobytes(), start, size, bits))
        coder.encode(np.array([start]), np.array([size]), bits)
    for before, start, size, bits in reversed(states):
        assert start <= coder.peek(1, bits)[0] < start + size
        coder.remove(np.array([start]), np.array([size]), bits)
        assert coder.tobytes() == before


def test_a_stream_has_the_length_of_its_information():
    coder, bits = fresh(heads=3, words=0), 31
    sizes = rng.integers(1, 2**20, (5000, 3))
    before = coder.bits
    for size in sizes:
        coder.encode(rng.integers(0, 2**bits - size), size, bits)
    information = (bits - np.log2(sizes)).sum()
    assert coder.bits - before == pytest.approx(information, rel=1e-4)


def test_fewer_rows_than_heads_leave_the_others():
    coder = fresh(heads=4)
    before = coder.heads.copy()
    coder.encode(np.array([3, 3]), np.array([1, 1]), 8)
    np.testing.assert_array_equal(coder.heads[2:], before[2:])
    assert (coder.heads[:2] != before[:2]).all()


# ---- conditional distribution functions

FAMILIES = ["diagonal", "chain", "band:2", "extended_grid:2x3", "ar1", "lowrank:2", "full", "random_walk"]
FAMILIES += ["log_gamma"]
DISCRETE = [
    "bernoulli",
    "categorical:4",
    "poisson",
    "negative_binomial",
    "zero_inflated:poisson",
    "autoregressive",
    "nade:3",
]


def drawn(text, n=6, rows=5):
    family = families.parse(text, n)
    q = family(0.5 * rng.normal(size=(rows, family.n_params)))
    return q, q.sample(q.noise(random.key(1)))


@pytest.mark.parametrize("text", FAMILIES)
def test_conditionals_of_real_numbers_are_those_of_the_joint_density(text):
    """The product of the conditional densities, from differences of the distribution functions, is the joint density."""
    q, z = drawn(text)
    total, seen = 0.0, []
    for j, cdf in q.conditionals(z):
        h = 1e-4
        total = total + np.log((cdf(z[:, j] + h) - cdf(z[:, j] - h)) / (2 * h))
        seen.append(j)
    assert sorted(seen) == list(range(6))
    np.testing.assert_allclose(total, q.log_prob(z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", DISCRETE)
def test_conditionals_of_discrete_families_are_those_of_the_joint_probability(text):
    q, z = drawn(text)
    total = 0.0
    for j, cdf in q.conditionals(z):
        below = np.where(z[:, j] > 0, cdf(np.maximum(z[:, j] - 1, 0)), 0)
        total = total + np.log(cdf(z[:, j]) - below)
    np.testing.assert_allclose(total, q.log_prob(z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", FAMILIES + DISCRETE)
def test_values_are_read_after_they_have_come(text):
    """Rubbish in variables that are still to come changes nothing."""
    q, z = drawn(text)
    filled = np.full_like(z, 1e3) if text in FAMILIES else np.zeros_like(z)
    for (j, cdf), (i, known) in zip(q.conditionals(filled), q.conditionals(z), strict=True):
        assert i == j
        np.testing.assert_array_equal(cdf(z[:, j]), known(z[:, j]))
        filled[:, j] = z[:, j]


def test_families_without_conditionals_say_so():
    for text in ("mixture:3", "beta", "continuous_bernoulli", "logit"):
        q, z = drawn(text)
        with pytest.raises(ConfigError, match=rf"{type(q).__name__} has no .*: it cannot be coded"):
            next(iter(q.conditionals(z)))


# ---- streams of symbols


@pytest.mark.parametrize("text", FAMILIES + DISCRETE)
def test_every_family_decodes_and_its_draws_have_its_distribution(text):
    """Symbols of random draws, on and off; then symbols from random bits, whose values have the family's moments."""
    q, z = drawn(text, rows=200)
    symbols = alphabet_of(q)
    coder = fresh(heads=200, words=200 * 8)
    values, before = np.zeros_like(z), coder.tobytes()
    found = pop(coder, q.conditionals(values), values, symbols)  # from random bits: draws from q
    t = np.array([cdf(values[:, j]) for j, cdf in q.conditionals(values)])
    if text in FAMILIES:
        assert stats.kstest(t.ravel(), "uniform").pvalue > 1e-4
    push(coder, q.conditionals(values), found, symbols)
    assert coder.tobytes() == before
    again = np.zeros_like(z)
    start = coder.bits
    push(coder, q.conditionals(values), found, symbols)
    if text in DISCRETE:
        assert coder.bits - start == pytest.approx(-q.log_prob(values).sum() / np.log(2), abs=20)  # of 200 heads
    np.testing.assert_array_equal(pop(coder, q.conditionals(again), again, symbols), found)
    np.testing.assert_array_equal(again, values)
    assert coder.tobytes() == before


def alphabet_of(q):
    if q.discrete:
        return evaluation.alphabet(q)
    return Bins(np.zeros(q.n), np.full(q.n, 3.0))


def test_what_has_no_probability_has_a_code_word_all_the_same():
    """Of 27 bits: a model that is wrong costs, and loses nothing."""
    p = distributions.BernoulliDistribution(np.array([-800.0, 800.0]))
    x, found = np.array([[1.0, 0.0]]), np.zeros((1, 2))
    coder = Coder(np.array([2**60], np.uint64), np.zeros(9, np.uint32))
    before, start = coder.tobytes(), coder.bits
    push(coder, p.conditionals(x), x.astype(int), Whole(0, 2))
    assert coder.bits - start == pytest.approx(2 * 27, abs=0.1)
    np.testing.assert_array_equal(pop(coder, p.conditionals(found), found, Whole(0, 2)), x)
    assert coder.tobytes() == before


@pytest.mark.nightly
def test_mixing_costs_nothing():
    """600 bits as codes, 60 rounds of 100 rows: decoded by q with masks, encoded by p; net of what the symbols say."""
    q, p = (distributions.BernoulliDistribution(rng.normal(size=600)) for _ in range(2))
    coder = fresh(heads=100, words=80_000)
    before, wanted = coder.bits, 0.0
    for i in range(60):
        z = np.zeros((100, 600))
        found = pop(coder, q.conditionals(z), z, Whole(0, 2), random.bits(random.key(i), (600, 100)))
        push(coder, p.conditionals(z), found, Whole(0, 2))
        wanted += (q.log_prob(z) - p.log_prob(z)).sum() / np.log(2)
    assert abs(coder.bits - before - wanted) / 6000 < 0.1  # bits a row


def test_bins_are_of_equal_mass():
    bins = Bins(np.array([0.0, 5.0]), np.array([1.0, 0.1]), size=8)
    edges = bins.edge(1, np.arange(1, 8))
    np.testing.assert_allclose(stats.norm(5, 0.1).cdf(edges), np.arange(1, 8) / 8, rtol=1e-12)
    inside = np.searchsorted(edges, bins.value(1, np.arange(8)))
    np.testing.assert_array_equal(inside, np.arange(8))


# ---- models

MODELS = {  # estimator, data, how far the net length may be from the bound, of which the bits of draws are a part
    "sbn": (gvae.SBN((6, 4)), X, 0.01),
    "darn": (gvae.DARN(6), X, 0.01),
    "darn, nade": (gvae.DARN((5, 4), observation="nade:4", between="nade:2", output_bias="zero"), X, 0.01),
    "density": (gvae.AutoregressiveDensity(), X, 0.001),
    "density, nade": (gvae.AutoregressiveDensity("nade:5"), X, 0.001),
    "poisson codes": (gvae.VAE(4, "poisson", observation="bernoulli"), X, 0.01),
    "categories": (gvae.VAE(3, "categorical:4", observation="bernoulli"), X, 0.01),
    "gamma codes": (gvae.VAE(3, "gamma", observation="bernoulli"), X, 0.02),
    "logarithms of gamma codes": (gvae.VAE(3, "log_gamma", observation="bernoulli"), X, 0.02),
    "independent": (gvae.VAE(4, "diagonal", observation="bernoulli"), X, 0.02),
    "chain": (gvae.VAE(4, "chain", observation="bernoulli"), X, 0.02),
    "band, its prior learned": (gvae.VAE(4, "band:2", observation="poisson", prior="band:1"), COUNTS, 0.02),
    "dense": (gvae.VAE(3, "full", observation="zero_inflated:poisson", prior="ar1"), COUNTS, 0.02),
    "hierarchy of Gaussians": (gvae.HierarchicalVAE((4, 2), observation="bernoulli"), X, 0.02),
    "several codes": (gvae.VLAE((2, 2), observation="bernoulli"), X, 0.02),
}


@pytest.mark.parametrize("name", MODELS)
def test_rows_decode_bit_for_bit_at_the_length_of_the_bound(name):
    model, x, tolerance = MODELS[name]
    model.set_params(epochs=6, random_state=0).fit(x)
    subject = Subject(model.model_, model.parameters_, Table(x), state=model.state_)
    found = evaluation.bits(subject, draws=20).summary()
    assert found["decoded"]
    assert found["net_bits_per_row"] == pytest.approx(found["bound_bits_per_row"], rel=tolerance)


def test_with_the_exact_posterior_the_length_is_that_of_the_evidence():
    """One bit as code: its posterior is a logistic regression on x. Every draw then has the weight p(x)."""
    model = models.SBN(N, latent=1, dtype=np.float64)
    w, b, prior = rng.normal(size=N), rng.normal(size=N), 0.4
    offset = (np.logaddexp(0, b) - np.logaddexp(0, b + w)).sum()
    params = {
        "encoder1.0.weight": w[:, None],
        "encoder1.0.bias": np.array([prior + offset]),
        "decoder0.0.weight": w[None],
        "decoder0.0.bias": b,
        "prior.raw": np.array([prior]),
    }
    of_x = [special.log_expit(np.where(X > 0, a, -a)).sum(axis=1) for a in (b, b + w)]
    evidence = np.logaddexp(of_x[0] + special.log_expit(-prior), of_x[1] + special.log_expit(prior))
    found = evaluation.bits(Subject(model, params, Table(X.astype(np.float64))))
    np.testing.assert_allclose(found.bound, -evidence / np.log(2), rtol=1e-10)
    assert found.decoded
    assert found.net == pytest.approx(found.bound.sum(), abs=20)  # of 100 heads


def test_the_coder_knows_no_family():
    for name in ("coder.py", "bits.py"):
        text = (Path(evaluation.__file__).parent / name).read_text()
        classes = "|".join([*distributions.__all__, "Gaussian\\w+", "isinstance"])
        used = set(re.findall(rf"\b({classes})\b", re.sub(r'"""(.|\n)*?"""', "", text)))
        assert used == {"Distribution"}


def test_a_stream_that_was_changed_is_refused():
    model = gvae.SBN((3,), epochs=1, random_state=0).fit(X[:50])
    subject = Subject(model.model_, model.parameters_, Table(X[:50]))
    from gvae.evaluation.bits import _Stream

    stream = _Stream(subject)
    batch = subject.table.batch(np.arange(50), subject.key)
    stream.encode(0, batch)
    good = stream.coder.tobytes()
    np.testing.assert_array_equal(_Stream(subject, Coder.frombytes(good)).decode(0, batch), X[:50])
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(DataError, match="decode: "):
            Coder.frombytes(bytes(bad))
    for length in range(len(good)):
        with pytest.raises(DataError, match="decode: "):
            Coder.frombytes(good[:length])
    for heads, words in ((1000, 3), (2**31, 2), (1, 0)):
        body = struct.pack("<I", heads) + bytes(4 * words)
        with pytest.raises(DataError, match=f"it has {heads} heads, and {4 * words} bytes"):
            Coder.frombytes(MAGIC + body + struct.pack("<I", zlib.crc32(body)))
    short = Coder(stream.coder.heads.copy(), np.zeros(0, np.uint32))
    with pytest.raises(DataError, match="the stream has no more words"):
        _Stream(subject, short).decode(0, batch)


def test_what_cannot_be_coded():
    grey = rng.random((40, 4)).astype(np.float32)
    model = gvae.VAE(2, observation="bernoulli", binarize="none", epochs=1, random_state=0).fit(grey)
    message = r"bits: x is 0\.\d+ in row 0, column 0, expected a whole number in 0 \.\. 1: it has no code word"
    with pytest.raises(DataError, match=message):
        model.evaluate(grey, samples=2, measures="bits")
    for settings, message in (
        ({"observation": "gaussian"}, "has densities; only discrete data have a length in bits"),
        ({"posterior": "mixture:2", "observation": "bernoulli"}, "GaussianMixture has no conditional distributions"),
    ):
        model = gvae.VAE(2, epochs=1, random_state=0, **settings).fit(X[:40])
        with pytest.raises(ConfigError, match=message):
            model.evaluate(X[:40], samples=2, measures="bits")
    model = gvae.NonlinearFactorAnalysis(2, epochs=1, random_state=0).fit(X[:40])
    with pytest.raises(ConfigError, match="bits: NonlinearFactorAnalysis has parameters of each row"):
        model.evaluate(X[:40], samples=2, measures="bits")
    wide = Whole(0, 2**18)
    with pytest.raises(ConfigError, match="an alphabet of 262144 symbols, expected at most 131072"):
        pop(fresh(), distributions.PoissonDistribution(np.zeros(1)).conditionals(np.zeros((4, 1))), np.zeros((4, 1)), wide)
    three = gvae.models.FactorAnalysis(np.array([[2.0], [1.0]]), np.zeros(2), np.ones(2)).as_vae()

    class Bare:  # a model of the protocol alone
        codes, init, noise, terms = three[0].codes, three[0].init, three[0].noise, three[0].terms

    with pytest.raises(ConfigError, match=r"bits: Bare has no method `inference_order`, see gvae\.models"):
        evaluation.bits(Subject(Bare(), three[1], Table(np.zeros((3, 2)))))
    with pytest.raises(DataError, match=r"x is 70000 in row 7, column 1, expected a whole number in 0 \.\. 65535"):
        Whole(0, 2**16).index(np.array([[0.0, 70000.0]]), np.array([7]))


def test_the_command_line(tmp_path):
    np.savez(tmp_path / "bits.npz", train=X[:200], test=X[200:260])
    run = tmp_path / "run"
    command("train", tmp_path / "bits.npz", "--model", "sbn", "--latent", 4, "--epochs", 1, "--out", run)
    code, told, _ = command("evaluate", run, "--samples", 3, "--with", "bits", "--json")
    assert code == 0
    found = json.loads(told)["bits"]
    assert found["decoded"] is True
    assert set(found) >= {"net_bits_per_row", "bound_bits_per_row", "gzip_bits_per_row", "bz2_bits_per_row"}
    _, text, _ = command("evaluate", run, "--samples", 3, "--with", "bits")
    assert "bits, 60 rows in one stream" in text
