"""Documents' words divided into seen and held-out ones: exactly, binomially, and row by row on their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from gvae import random
from gvae.data import split_counts
from gvae.data.split import _binomial
from gvae.errors import ConfigError, DataError, DTypeError, ShapeError

KEY = random.key(7)


def documents(rng, rows, columns, density=0.4):
    return sparse.csr_array((rng.random((rows, columns)) < density) * rng.integers(1, 50, size=(rows, columns)))


@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    probability=st.sampled_from([1e-6, 0.1, 0.5, 0.999]),
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.uint8, bool]),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_whole_numbers_that_add_up(rows, columns, probability, dtype, seed):
    x = documents(np.random.default_rng(seed), rows, columns).astype(dtype)
    seen, held_out = split_counts(x, probability, key=random.key(seed))
    for part in (seen, held_out):
        assert part.shape == x.shape
        assert part.dtype == (np.float64 if dtype is np.float64 else np.float32)
        assert part.has_canonical_format
        assert (part.data > 0).all()
        np.testing.assert_array_equal(part.data, np.floor(part.data))
    np.testing.assert_array_equal(seen.toarray() + held_out.toarray(), x.toarray().astype(float))


def test_the_seen_part_is_binomial():
    """Chi-square of 20,000 counts of 12; the key is fixed, a false alarm is one in 10^4 keys."""
    seen, _ = split_counts(sparse.csr_array(np.full((100, 200), 12)), 0.3, key=KEY)
    observed = np.bincount(seen.toarray().astype(int).ravel(), minlength=13)
    expected = 20_000 * stats.binom.pmf(np.arange(13), 12, 0.3)
    cells = expected > 5
    observed, expected = (
        np.append(observed[cells], observed[~cells].sum()),
        np.append(expected[cells], expected[~cells].sum()),
    )
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("p", [1e-3, 0.1, 0.5, 0.97])
def test_the_distribution_function_is_inverted(p):
    rng = np.random.default_rng(0)
    n = rng.choice([1, 2, 3, 10, 100, 5000, 10**6], size=5000).astype(float)
    u = rng.random(5000)
    np.testing.assert_array_equal(_binomial(u, n, p), stats.binom.ppf(u, n, p))
    for u, k in ((0.0, 0), (1 - 2.0**-53, 3)):
        np.testing.assert_array_equal(_binomial(np.array([u]), np.array([3.0]), 0.5), k)


def test_a_rows_split_depends_on_its_number_and_its_counts_alone():
    x = documents(np.random.default_rng(1), 30, 20)
    seen, held_out = split_counts(x, 0.2, key=KEY)
    other = x.toarray()
    other[:10], other[11:] = 0, documents(np.random.default_rng(2), 19, 20).toarray()
    part, _ = split_counts(sparse.csr_array(other), 0.2, key=KEY)
    np.testing.assert_array_equal(part.toarray()[10], seen.toarray()[10])
    fewer, _ = split_counts(x[:11], 0.2, key=KEY)
    np.testing.assert_array_equal(fewer.toarray(), seen.toarray()[:11])
    for form in (x.tocsc(), x.tocoo(), x.astype(np.float64)):
        np.testing.assert_array_equal(split_counts(form, 0.2, key=KEY)[0].toarray(), seen.toarray())
    assert (split_counts(x, 0.2, key=random.key(8))[0] != seen).nnz
    assert held_out.nnz


def test_how_a_matrix_is_stored_does_not_matter():
    """Zeros that are stored, several parts of an entry, and columns in any order; the given matrix stays as it is."""
    values, columns = np.array([3.0, 0.0, 2.0, 5.0, 4.0]), np.array([2, 1, 2, 0, 1])
    stored = sparse.csr_array((values, columns, np.array([0, 4, 5])), shape=(2, 3))
    plain = sparse.csr_array(np.array([[5.0, 0, 5], [0, 4, 0]]))
    for ours, theirs in zip(split_counts(stored, 0.5, key=KEY), split_counts(plain, 0.5, key=KEY), strict=True):
        np.testing.assert_array_equal(ours.toarray(), theirs.toarray())
    np.testing.assert_array_equal(stored.data, [3, 0, 2, 5, 4])


def test_empty_documents():
    for part in split_counts(sparse.csr_array((3, 4)), key=KEY):
        assert part.shape == (3, 4)
        assert part.nnz == 0


@pytest.mark.parametrize(
    ("x", "probability", "key", "error", "message"),
    [
        (np.eye(2), 0.1, KEY, DataError, "x is ndarray, expected a sparse matrix"),
        (sparse.csr_array(-np.eye(2)), 0.1, KEY, DataError, r"values outside 0, 1, ..: 2 in all, the first, -1.0, at row 0"),
        (sparse.csr_array(0.5 * np.eye(2)), 0.1, KEY, DataError, r"the first, 0.5, at row 0, column 0"),
        (sparse.csr_array(np.nan * np.eye(2)), 0.1, KEY, DataError, r"NaN or infinite values"),
        (sparse.csr_array([[2**24 + 1]]), 0.1, KEY, DataError, r"a count of 16777216, expected less than 2\^24 in float32"),
        (sparse.csr_array([[2.0**53]]), 0.1, KEY, DataError, r"expected less than 2\^53 in float64"),
        (sparse.csr_array(np.eye(2)), 0.0, KEY, ConfigError, "seen is 0.0, expected a probability above 0 and below 1"),
        (sparse.csr_array(np.eye(2)), 1, KEY, ConfigError, "seen is 1, expected a probability"),
        (sparse.csr_array(np.eye(2)), np.nan, KEY, ConfigError, "seen is nan, expected a probability"),
        (sparse.csr_array(np.eye(2)), "x", KEY, ConfigError, "seen is 'x', expected a probability"),
        (sparse.csr_array(np.eye(2)), 0.1, KEY[:3], ShapeError, r"key has shape \(3,\), expected \(4,\)"),
        (sparse.csr_array(np.eye(2)), 0.1, 7, DTypeError, "key is int, expected four uint32 words"),
    ],
)
def test_what_is_refused(x, probability, key, error, message):
    with pytest.raises(error, match=message):
        split_counts(x, probability, key=key)
