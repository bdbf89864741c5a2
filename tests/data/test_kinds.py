"""gvae.data.kind: what observation="auto" takes for bits, grey levels and real numbers."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from gvae import data
from gvae.data import kind, kinds
from gvae.errors import DataError

rng = np.random.default_rng(0)
BITS = ("bernoulli", "bits: all values are 0 or 1")
BYTES = ("bernoulli", "grey levels: bytes with a value above 1")


def grey(levels):
    return "bernoulli", f"grey levels: all values are multiples of 1/{levels}"


def roundings(k, levels):
    """k / levels in all ways in which it is computed."""
    single = k.astype(np.float32)
    yield single / np.float32(levels)
    yield k / levels
    yield (k / levels).astype(np.float32)
    yield (k / levels).astype(np.float32).astype(np.float64)
    yield k * (1 / levels)
    yield single * np.float32(1 / levels)


@pytest.mark.parametrize(
    "x", [np.eye(3), np.eye(3, dtype="?"), np.eye(3, dtype="u1"), np.eye(3, dtype="i8"), np.zeros((2, 2))]
)
@pytest.mark.parametrize("images", [False, True])
def test_bits(x, images):
    assert kind([x], images) == kind([x, x.astype(np.float32)], images) == BITS


@pytest.mark.parametrize("levels", range(2, 256))
def test_grey_levels_in_every_rounding(levels):
    for x in roundings(np.arange(levels + 1)[:, None], levels):
        assert kind([x], images=True) == grey(levels)
        assert kind([x])[0] == ("bernoulli" if 255 % levels == 0 else "gaussian")


def test_bytes():
    levels = np.array([[0, 7], [1, 0]], np.uint8)
    assert kind([levels]) == kind([np.eye(2, dtype="u1"), levels]) == BYTES
    assert kind([levels / 255], grey=True) == BYTES
    assert kind([levels, levels / 255])[0] == "bernoulli"
    assert kind([levels, levels / 254])[0] == "gaussian"
    assert kind([levels.astype(np.int16)]) == ("gaussian", "real numbers: 7.0 is not in [0, 1]")


def test_all_parts_together():
    """The least L of all, though it shows late; levels that fit some of the rows only."""
    k = np.zeros((5000, 40), int)
    k[-1, -1] = 6
    sixth, quarter = k / 12, k / 24
    assert kind([sixth], images=True) == grey(2)
    assert kind([sixth, quarter], images=True) == kind([quarter, sixth], images=True) == grey(4)
    assert kind([quarter, k / 18], images=True) == grey(12)  # 1/4 and 1/3
    assert kind([np.eye(2), k / 30]) == grey(255)
    assert kind([k / 34, k / 42, k / 66], images=True)[0] == "gaussian"  # 3/17, 1/7, 1/11: no L up to 255


@given(st.lists(st.tuples(st.integers(1, 255), st.integers(0, 255)), min_size=1, max_size=4))
def test_images_have_the_least_common_multiple(fractions):
    fractions = [(min(k, levels), levels) for levels, k in fractions]
    x = np.array([k / levels for k, levels in fractions])
    lcm = np.lcm.reduce([levels // np.gcd(k, levels) for k, levels in fractions])
    wanted = BITS if lcm == 1 else grey(lcm)
    got = kind([x[:, None]], images=True)
    assert got == wanted if lcm <= 255 else got[0] == "gaussian"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("images", [False, True])
def test_real_numbers_are_never_binarized(dtype, images):
    """Uniform series, a scaled table, a column that is constant, values beside a level, NaN: by chance never multiples."""
    series = rng.random((50, 20, 3)).astype(dtype)
    table = rng.normal(size=(30, 4))
    scaled = ((table - table.min(0)) / (table.max(0) - table.min(0))).astype(dtype)
    beside = (np.arange(256)[:, None] / 255).astype(dtype)
    beside[100] *= 1 + 4 * np.finfo(dtype).eps
    for x in (series, scaled, beside, np.full((3, 2), np.pi / 4, dtype), 1 - np.array([[1e-20, 0], [1, 1]], dtype) + 2):
        assert kind([x], images)[0] == "gaussian"
        assert kind([np.eye(2), x], images)[0] == "gaussian"
    for x in (np.array([[0, -1]]), np.array([[0, 1.5]]), np.array([[np.nan, 0]]), np.array([[0, np.inf]])):
        assert "is not in [0, 1]" in kind([x.astype(dtype)], images)[1]
    tiny = np.array([[1, np.finfo(dtype).tiny]], dtype)
    assert kind([tiny], images)[0] == "gaussian"
    assert kind([np.nextafter(np.ones((1, 1), dtype), dtype(0))]) != BITS


def test_the_phrase_has_a_value():
    assert kind([np.array([[0.25, 0.2]])]) == ("gaussian", "real numbers: 0.25 is no whole multiple of 1/255")
    assert kind([np.array([[0.5]])])[0] == "gaussian"
    assert kind([np.array([[0.5]])], images=True) == grey(2)
    assert (
        "no whole multiple of 1/L with one L up to 255 for all" in kind([np.array([[0.3, 1 / 7, 1 / 11]])], images=True)[1]
    )


def test_sparse_matrices_and_nothing():
    bits = scipy.sparse.random_array((6, 5), density=0.4, rng=rng, data_sampler=lambda size: np.ones(size))
    for form in ("csr", "coo", "csc"):
        assert kind([bits.asformat(form)]) == BITS
        assert kind([bits.asformat(form) * 3]) == ("gaussian", "real numbers: 3.0 is not in [0, 1]")
    assert kind([scipy.sparse.csr_array((3, 4))]) == kind([]) == kind([np.zeros((0, 3))]) == BITS
    with pytest.raises(DataError, match="complex"):
        kind([np.eye(2) * 1j])


def test_named_data_sets():
    digits = data.load("digits")
    assert kind([digits.train, digits.test], images=digits.image_shape is not None) == grey(16)
    assert kind([digits.train])[0] == "gaussian"


def test_real_numbers_are_known_by_the_first_of_them(monkeypatch):
    seen = []
    multiples = kinds._multiples
    monkeypatch.setattr(kinds, "_multiples", lambda x, levels: seen.append(np.size(x)) or multiples(x, levels))
    for images in (False, True):
        seen.clear()
        kind([rng.random((60_000, 100), dtype=np.float32)], images)
        assert 0 < sum(seen) < 2 * kinds.BLOCK
    seen.clear()
    kind([np.zeros((60_000, 10), np.float32)])
    assert sum(seen) == 600_000
