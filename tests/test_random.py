"""gvae.random against Philox written out in Python, its published vectors, fixed values, and statistics.

Statistical tests use fixed seeds, so they either always pass or always fail; each was set to reject a perfect generator
with probability ALARM, and was not tuned afterwards.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gvae import random
from gvae.errors import ConfigError, DTypeError, ShapeError
from gvae.kernels.cpu import random as kernels

DTYPES = (np.float32, np.float64)
ALARM = 1e-6
Z = float(stats.norm.isf(ALARM / 2))  # 4.9 standard deviations
N = 1_000_000

VECTORS = [  # counter, key, result: known answers of the Random123 distribution
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]

u32 = st.integers(0, 2**32 - 1)


def philox(counter, key):
    """Salmon et al. 2011, figure 2 with 4 words, in Python integers."""
    x, (k0, k1) = list(counter), key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * x[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * x[2], 2**32)
        x = [high1 ^ x[1] ^ k0, low1, high0 ^ x[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return tuple(x)


def block(key, b):
    k0, k1, s2, s3 = (int(w) for w in key)
    return philox((b % 2**32, b // 2**32, s2, s3), (k0, k1))


def blocks(key, n):
    return np.array([block(key, b) for b in range(n)], np.uint32).reshape(n, 4)


def long_words(words):
    """Pairs of 32-bit words, the first one the high half."""
    w = words.reshape(-1, 2).astype(np.uint64)
    return (w[:, 0] << np.uint64(32)) | w[:, 1]


def ulps(got, exact):
    return np.abs(got.astype(exact.dtype) - exact) / np.spacing(np.abs(exact).astype(got.dtype)).astype(exact.dtype)


# --- the bits


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_published_vectors(counter, key, result):
    assert philox(counter, key) == result
    assert tuple(kernels.philox_block(*np.array(key + counter, np.uint32))) == result


@given(key=st.tuples(u32, u32, u32, u32), first=st.integers(0, 2**64 - 40), lo=st.integers(0, 20), n=st.integers(0, 20))
def test_philox_kernel_against_python(key, first, lo, n):
    words = np.full((40, 4), 123, np.uint32)
    kernels.philox(np.array(key, np.uint32), np.uint64(first), words, lo, lo + n)
    for b in range(40):
        expected = block(key, first + b) if lo <= b < lo + n else (123,) * 4
        assert tuple(words[b]) == expected


@given(seed=st.integers(0, 2**64 - 1), i=st.integers(0, 2**63 - 1), j=st.integers(0, 2**63 - 1))
def test_key_and_fold_in_against_python(seed, i, j):
    key = random.key(seed)
    assert key.dtype == np.uint32
    assert [int(w) for w in key] == [seed % 2**32, seed >> 32, 0, 0]
    folded = random.fold_in(key, i)
    assert tuple(folded) == philox((i % 2**32, (i >> 32) | 0x80000000, 0, 0), (seed % 2**32, seed >> 32))
    s2, s3 = (int(w) for w in folded[2:])
    twice = philox((j % 2**32, (j >> 32) | 0x80000000, s2, s3), (int(folded[0]), int(folded[1])))
    assert tuple(random.fold_in(key, i, j)) == tuple(random.fold_in(folded, j)) == twice
    np.testing.assert_array_equal(random.fold_in(key), key)
    several = random.fold_in_each(key, max(i - 2, 0), 3)
    np.testing.assert_array_equal(several, [random.fold_in(key, max(i - 2, 0) + j) for j in range(3)])


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 17])
def test_draws_against_python(seed):
    key = random.fold_in(random.key(seed), 3)
    words = blocks(key, 251)
    n = 1003  # the last block of both dtypes is cut
    np.testing.assert_array_equal(random.bits(key, n), words.reshape(-1)[:n])
    floats = (words.reshape(-1)[:n] >> np.uint32(8)) * 2.0**-24
    np.testing.assert_array_equal(random.uniform(key, n), floats.astype(np.float32))
    doubles = (long_words(blocks(key, 502)) >> np.uint64(11))[:n] * 2.0**-53
    np.testing.assert_array_equal(random.uniform(key, n, np.float64), doubles)
    order = np.argsort(long_words(blocks(key, 502))[:n], kind="stable")
    np.testing.assert_array_equal(random.permutation(key, n), order)


def test_fixed_values():
    """Format 1: a change here changes what every seed means, for everybody. It must not happen."""
    words = {
        (0x89ABCDEF, 0x01234567, 0, 0): random.key(0x0123456789ABCDEF),
        (0x09E65E38, 0x104A6165, 0x05CE4128, 0x8727B9AD): random.fold_in(random.key(7), 0),
        (0x4BA28330, 0x93DE8871, 0x442F2342, 0x8119F2C1): random.fold_in(random.key(7), 2**63 - 1),
        (0xAD655843, 0xEC88D6D9, 0xC897C02E, 0xC52763BB): random.fold_in(random.key(7), 5, 3),
        (0xF4607A2D, 0xC009F9DC, 0x1D3ABA42, 0x15EDAC82, 0x682E8E9B): random.bits(random.key(7), 5),
    }
    for expected, got in words.items():
        assert tuple(got) == expected
    k = random.key(7)
    uniform = {
        np.float32: "0x1.e8c0f4p-1 0x1.8013f2p-1 0x1.d3abap-4 0x1.5edacp-4 0x1.a0ba38p-2",
        np.float64: "0x1.e8c0f45b8013fp-1 0x1.d3aba4215eda8p-4 0x1.a0ba3a6f2e5eep-2 0x1.5fd7fb5fa9af4p-3 "
        "0x1.8e23c00229f80p-8",
    }
    normal = {
        np.float32: "0x1.31a0b4p-12 -0x1.3829dp-2 0x1.c9ec04p+0 0x1.11601p+0 0x1.816feap-2",
        np.float64: "0x1.d6713c44b1a37p-3 0x1.9a72dc246f986p-3 0x1.43edeb7592275p-1 0x1.2eaa562434d36p+0 "
        "0x1.21d8be909458dp+0",
    }
    for dtype in DTYPES:
        fixed = np.array([float.fromhex(h) for h in uniform[dtype].split()], dtype)
        np.testing.assert_array_equal(random.uniform(k, 5, dtype), fixed)
        fixed = np.array([float.fromhex(h) for h in normal[dtype].split()], dtype)
        assert ulps(random.normal(k, 5, dtype), fixed.astype(np.longdouble)).max() <= 4
    half = np.full(12, 0.5)
    assert random.bernoulli(k, half.astype(np.float32)).tolist() == [0, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0]
    assert random.bernoulli(k, half).tolist() == [0, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 0]
    assert random.permutation(k, 10).tolist() == [4, 1, 7, 3, 8, 6, 2, 9, 5, 0]


# --- normals


def test_float32_normals_to_4_ulp():
    key, n = random.fold_in(random.key(11), 0), 2_000_000
    w = random.bits(key, n).reshape(-1, 2)
    u1 = (w[:, 0].astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)
    r = np.sqrt(-2 * np.log(u1.astype(np.float64)))
    x = (w[:, 1] >> np.uint32(8)) * 2.0**-23  # 2 u2; the angle is pi x
    quarter = np.rint(2 * x)
    rest = np.pi * (x - quarter / 2)
    turn = quarter.astype(int) % 4
    s, c = np.sin(rest), np.cos(rest)
    exact = np.stack([r * np.choose(turn, [c, -s, -c, s]), r * np.choose(turn, [s, c, -s, -c])], axis=1)
    got = random.normal(key, n).reshape(-1, 2)
    zero = exact == 0
    assert np.all(got[zero] == 0)
    assert ulps(got[~zero], exact[~zero]).max() <= 4


def test_float64_normals_to_4_ulp():
    key, n = random.fold_in(random.key(11), 1), 2000
    w = (long_words(random.bits(key, 2 * n)) >> np.uint64(11)).reshape(-1, 2)
    got = random.normal(key, n, np.float64).reshape(-1, 2)
    with mpmath.workdps(40):
        for (w1, w2), pair in zip(w.tolist(), got.tolist(), strict=True):
            u1 = mpmath.mpf(w1 + 0.5) / 2**53  # w + 1/2 is rounded, as the contract says
            r, x = mpmath.sqrt(-2 * mpmath.log(u1)), mpmath.mpf(2 * w2) / 2**53
            for z, exact in zip(pair, (r * mpmath.cospi(x), r * mpmath.sinpi(x)), strict=True):
                assert abs(z - exact) <= 4 * np.spacing(abs(float(exact)))


def test_extreme_words():
    """The ends of Box-Muller: both are finite, and the ranges are those that the docstring names."""
    for dtype, bound in ((np.float32, 6.77), (np.float64, 8.66)):
        smallest = dtype(0.5) * dtype(2.0**-32 if dtype == np.float32 else 2.0**-53)
        assert np.sqrt(-2 * np.log(smallest)) < bound
        z = random.normal(random.key(2), N, dtype)
        assert np.isfinite(z).all()
        assert np.abs(z).max() < bound
    assert (np.float32(0xFFFFFFFF) + np.float32(0.5)) * np.float32(2**-32) == 1  # log 1 = 0: the normal is 0, not NaN


# --- a draw is a pure function of key and position


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", [random.uniform, random.normal])
def test_prefixes_and_shapes(draw, dtype):
    key = random.key(3)
    longest = draw(key, 100, dtype)
    assert longest.dtype == dtype
    for n in range(100):
        np.testing.assert_array_equal(draw(key, n, dtype), longest[:n])
        np.testing.assert_array_equal(random.bits(key, n), random.bits(key, 100)[:n])
    np.testing.assert_array_equal(draw(key, (5, 4, 5), dtype), longest.reshape(5, 4, 5))
    np.testing.assert_array_equal(draw(key, [3, np.int64(4)], dtype), longest[:12].reshape(3, 4))
    assert draw(key, (), dtype) == longest[0]
    assert draw(key, (), dtype).shape == ()
    assert draw(key, (3, 0, 2), dtype).shape == (3, 0, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["uniform", "normal", "bernoulli"])
def test_splits_give_the_same_bits(name, dtype):
    """Each part writes its own elements, and those alone; the last block is whole or cut."""
    kernel = getattr(kernels, name)
    width = 16 // np.dtype(dtype).itemsize
    rng = np.random.default_rng(1)
    for n in [*range(10), 255, 256, *range(1000, 1005), 4099]:
        key = random.fold_in(random.key(4), n)
        arrays = (np.linspace(0, 1, n).astype(dtype),) if name == "bernoulli" else ()
        whole, last = -(-n // width), n // width
        expected = np.empty(n, dtype)
        kernel(key, *arrays, expected, 0, whole)
        cuts = sorted([0, 0, last, last, whole, whole, *rng.integers(0, whole + 1, 4)])
        for lo, hi in itertools.pairwise(cuts):
            own = np.full(n, np.nan, dtype)
            own[lo * width : hi * width] = expected[lo * width : hi * width]
            part = np.full(n, np.nan, dtype)
            kernel(key, *arrays, part, lo, hi)
            np.testing.assert_array_equal(part, own)


class Subclass(np.ndarray):
    pass


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_is_uniform_below_p(dtype):
    key = random.key(5)
    p = np.random.default_rng(0).random((77, 1301)).astype(dtype)
    p[0, :4] = [0, 1, -1, np.nan]
    expected = (random.uniform(key, p.shape, dtype) < p).astype(dtype)
    before = p.copy()
    for same in (p, np.asfortranarray(p), np.repeat(p, 2, axis=1)[:, ::2], p.copy().view(Subclass), p.copy()):
        same.flags.writeable = same is p
        got = random.bernoulli(key, same)
        assert type(got) is np.ndarray
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(p, before)
    assert len(kernels.bernoulli.signatures) <= 2
    u = random.uniform(key, p.shape, dtype)
    assert not random.bernoulli(key, u).any()  # below p, not equal to it
    assert random.bernoulli(key, np.nextafter(u, dtype(2))).all()
    assert random.bernoulli(key, p[:0]).shape == (0, 1301)
    assert random.bernoulli(key, np.array(1, dtype)) == 1
    assert random.bernoulli(key, dtype(1)) == 1
    assert expected[0, 1:4].tolist() == [1, 0, 0]
    assert expected[0, 0] == 0


def test_keys_that_are_read_only_strided_or_views():
    key = random.fold_in(random.key(6), 1)
    expected = random.normal(key, 9)
    frozen = key.copy()
    frozen.flags.writeable = False
    strided = np.repeat(key, 3)[::3]
    for same in (frozen, strided, np.concatenate([key, key])[4:]):
        np.testing.assert_array_equal(random.normal(same, 9), expected)
        np.testing.assert_array_equal(random.fold_in(same, 2), random.fold_in(key, 2))
    assert len(kernels.normal.signatures) <= 2  # one per dtype: another layout is never compiled for
    assert len(kernels.philox.signatures) == 1
    child = random.fold_in(key)
    child[0] += np.uint32(1)
    np.testing.assert_array_equal(random.normal(key, 9), expected)  # a derived key is an array of its own


def all_draws(i):
    key = random.fold_in(random.key(8), i)
    p = np.full(5001, 0.3, np.float32)
    draws = [random.uniform(key, 5001), random.normal(key, 5001, np.float64), random.bernoulli(key, p)]
    return b"".join(a.tobytes() for a in [*draws, random.permutation(key, 999)])


def test_threads_and_order_of_calls():
    serial = [all_draws(i) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(all_draws, range(64))) == serial
    assert [all_draws(i) for i in reversed(range(64))] == serial[::-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_fork():
    expected = all_draws(0)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, and JAX's where its tests ran, that threads exist: BLAS has some
        child = os.fork()
    if child == 0:
        try:
            os.write(write, b"same" if all_draws(0) == expected else b"different")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"same"
    assert os.waitpid(child, 0)[1] == 0


# --- statistics


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_range_moments_and_distribution(dtype):
    u = random.uniform(random.key(21), N, dtype)
    assert u.min() >= 0
    assert u.max() < 1
    x = u.astype(np.float64)
    for power in range(1, 5):  # E u^k = 1/(k+1), Var u^k = 1/(2k+1) - 1/(k+1)^2
        mean, variance = 1 / (power + 1), 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs(np.mean(x**power) - mean) < Z * np.sqrt(variance / N)
    assert stats.kstest(x, "uniform").pvalue > ALARM


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_moments_and_distribution(dtype):
    z = random.normal(random.key(22), N, dtype).astype(np.float64)
    assert abs(z.mean()) < Z * np.sqrt(1 / N)
    assert abs(z.var() - 1) < Z * np.sqrt(2 / N)
    assert abs(stats.skew(z)) < Z * np.sqrt(6 / N)
    assert abs(stats.kurtosis(z)) < Z * np.sqrt(24 / N)
    assert stats.kstest(z, "norm").pvalue > ALARM
    for bound in (2, 3, 4):  # the tails, where Kolmogorov and Smirnov see little
        tail = 2 * stats.norm.sf(bound)
        count = np.count_nonzero(np.abs(z) > bound)
        assert stats.binomtest(count, N, tail).pvalue > ALARM


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_frequencies(dtype):
    for i, p in enumerate((0.001, 0.3, 0.5, 0.99)):
        ones = random.bernoulli(random.fold_in(random.key(23), i), np.full(N, p, dtype)).sum(dtype=np.int64)
        assert stats.binomtest(int(ones), N, p).pvalue > ALARM


def correlation(a, b):
    return np.corrcoef(a, b)[0, 1] * np.sqrt(len(a))  # standard normal if independent


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_of_a_draw_are_uncorrelated(dtype):
    u = random.uniform(random.key(24), N, dtype).astype(np.float64)
    z = random.normal(random.key(25), N, dtype).astype(np.float64)
    for lag in (1, 2, 3, 4, 8, 1024):
        assert abs(correlation(u[:-lag], u[lag:])) < Z
        assert abs(correlation(z[:-lag], z[lag:])) < Z
        assert abs(correlation(z[:-lag] ** 2, z[lag:] ** 2)) < Z
    cosine, sine = z[0::2], z[1::2]  # one pair of Box and Muller
    assert abs(correlation(cosine, sine)) < Z
    assert abs(correlation(cosine**2, sine**2)) < Z
    assert abs(correlation(cosine**2, sine)) < Z
    assert stats.kstest(cosine**2 + sine**2, "chi2", args=(2,)).pvalue > ALARM


def test_streams_are_independent():
    """Keys folded from neighbouring integers, a parent and its children, neighbouring seeds: 24 streams, all pairs."""
    root = random.key(26)
    keys = [random.fold_in(root, i) for i in range(8)] + [random.fold_in(root, 0, i) for i in range(7)] + [root]
    keys += [random.key(s) for s in (0, 1, 2, 3, 2**32, 2**33, 2**63, 2**64 - 1)]
    n = 100_000
    u = np.stack([random.uniform(k, n) for k in keys]).astype(np.float64)
    c = np.corrcoef(u) * np.sqrt(n)
    pairs = c[np.triu_indices(len(keys), 1)]
    assert np.abs(pairs).max() < stats.norm.isf(ALARM / 2 / len(pairs))
    assert stats.kstest(pairs, "norm").pvalue > ALARM


def chi_square(cells, n_cells):
    return stats.chisquare(np.bincount(cells, minlength=n_cells)).pvalue


def test_bits_are_uniform_and_pairs_fill_the_square():
    w = random.bits(random.key(27), N)
    for shift in (0, 8, 16, 24):
        assert chi_square((w >> np.uint32(shift)) & np.uint32(255), 256) > ALARM
    for dtype, scale in ((np.float32, 2**24), (np.float64, 2**53)):
        u = random.uniform(random.key(28), N, dtype)
        assert chi_square((u * dtype(scale)).astype(np.int64) & 255, 256) > ALARM  # the lowest bits of the uniform
        high = (u * dtype(64)).astype(np.int64)
        assert chi_square(high[0::2] * 64 + high[1::2], 4096) > ALARM
    ones = np.unpackbits(w.view(np.uint8)).reshape(-1, 32).sum(axis=0, dtype=np.int64)
    assert np.abs((ones - N / 2) / np.sqrt(N / 4)).max() < stats.norm.isf(ALARM / 2 / 32)


def test_first_words_of_many_keys():
    """What a training loop uses: one short draw from each of many folded keys and of many seeds."""
    n = 30_000
    root = random.key(29)
    folded = np.array([random.bits(random.fold_in(root, i), 1)[0] for i in range(n)])
    seeded = np.array([random.bits(random.key(i), 1)[0] for i in range(n)])
    for w in (folded, seeded):
        for shift in (0, 24):
            assert chi_square((w >> np.uint32(shift)) & np.uint32(255), 256) > ALARM
        assert abs(correlation(w[1:].astype(float), w[:-1].astype(float))) < Z
    assert abs(correlation(folded.astype(float), seeded.astype(float))) < Z


def test_no_two_of_100000_folded_keys_collide():
    root = random.key(30)
    keys = {random.fold_in(root, i).tobytes() for i in range(50_000)}
    for i in range(224):
        child = random.fold_in(root, i)
        keys |= {random.fold_in(child, j).tobytes() for j in range(224)}
    keys |= {random.key(i).tobytes() for i in range(1000)}
    assert len(keys) == 50_000 + 224**2 + 1000


def test_order_of_folding_matters():
    k = random.key(31)
    assert not np.array_equal(random.fold_in(k, 1, 2), random.fold_in(k, 2, 1))
    assert not np.array_equal(random.fold_in(k, 0), k)
    assert not np.array_equal(random.fold_in(k, 0, 0), random.fold_in(k, 0))


def test_permutations():
    key = random.key(32)
    for n in (0, 1, 2, 3, 1000):
        p = random.permutation(key, n)
        assert p.dtype == np.int64
        np.testing.assert_array_equal(np.sort(p), np.arange(n))
    seen = [tuple(random.permutation(random.fold_in(key, i), 4)) for i in range(24_000)]
    _, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > ALARM


# --- contracts


@pytest.mark.parametrize("draw", [random.uniform, random.normal])
def test_like(draw, cupy):
    key = random.key(0)
    np.testing.assert_array_equal(draw(key, 3, like=np.zeros(1)), draw(key, 3))
    assert type(draw(key, 3, like=cupy.zeros(1))) is cupy.ndarray  # with which numbers: test_cuda.py


@pytest.mark.parametrize("seed", [-1, 2**64, True, np.True_, 1.0, "1", None, [1]])
def test_seeds_that_are_none(seed):
    with pytest.raises(ConfigError, match=r"key: seed is .*expected an integer in \[0, 2\^64\)"):
        random.key(seed)


def test_seeds_of_numpy():
    for seed in (np.int64(5), np.uint64(5), np.array(5)):
        np.testing.assert_array_equal(random.key(seed), random.key(5))


@pytest.mark.parametrize("i", [-1, 2**63, True, 0.0, "a", None, (1, 2)])
def test_integers_that_cannot_be_folded_in(i):
    with pytest.raises(ConfigError, match="fold_in: integer"):
        random.fold_in(random.key(0), i)


CALLS = {
    "uniform": lambda k: random.uniform(k, 3),
    "normal": lambda k: random.normal(k, 3),
    "bernoulli": lambda k: random.bernoulli(k, np.ones(3)),
    "bits": lambda k: random.bits(k, 3),
    "permutation": lambda k: random.permutation(k, 3),
    "fold_in": lambda k: random.fold_in(k, 3),
}


@pytest.mark.parametrize("name", CALLS)
def test_keys_that_are_none(name):
    for wrong in (0, None, [0, 0, 0, 0], np.zeros(4, np.int64), np.zeros(4, ">u4"), np.zeros(4)):
        with pytest.raises(DTypeError, match=f"{name}: key is .*expected four uint32 words"):
            CALLS[name](wrong)
    for shape in ((), (3,), (1, 4)):
        with pytest.raises(ShapeError, match=rf"{name}: key has shape .*expected \(4,\)"):
            CALLS[name](np.zeros(shape, np.uint32))


@pytest.mark.parametrize("shape", [-1, (2, -1), 1.5, (2, 1.5), "ab", None, np.array(-1)])
def test_shapes_that_are_none(shape):
    key = random.key(0)
    for name in ("uniform", "normal", "bits"):
        with pytest.raises(ShapeError, match=f"{name}: shape is "):
            getattr(random, name)(key, shape)
    with pytest.raises(ShapeError, match="permutation: n is "):
        random.permutation(key, shape)
    with pytest.raises(ShapeError, match="permutation: n is "):
        random.permutation(key, (3,))


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.complex64, ">f4", "no such type", None, object, np.longdouble])
def test_dtypes_that_are_refused(dtype):
    key = random.key(0)
    for draw in (random.uniform, random.normal):
        with pytest.raises(DTypeError, match="expected float32 or float64"):
            draw(key, 3, dtype)


@pytest.mark.parametrize("p", [np.ones(3, int), np.ones(3, bool), np.ones(3, np.float16), [0.5], 0.5, np.ones(3, ">f8")])
def test_probabilities_that_are_refused(p):
    with pytest.raises(DTypeError, match=r"bernoulli: p is .*expected a float32 or float64 array"):
        random.bernoulli(random.key(0), p)


def test_import_loads_no_compiler():
    code = "import sys, gvae.random as r; r.key(0); print(*{'numba', 'cupy', 'llvmlite', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
