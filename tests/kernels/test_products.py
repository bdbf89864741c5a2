"""The product inside kernels: every layout and edge, nothing but its own part of the result, the same bits for every cut."""

from __future__ import annotations

import numpy as np
import pytest

from gvae import ops
from gvae.kernels.cpu import _products, _sparse, affine
from gvae.ops import dense
from gvae.runtime import device

DTYPES = (np.float32, np.float64)
N = 2 * _products.BYTES // 4  # columns of a panel in float32
SHAPES = [  # rows, depth, columns: around the sizes of tiles, panels, chunks and packed parts
    (1, 1, 1),
    (1, 70, N + 3),
    (_products.ROWS - 1, 7, N - 1),
    (_products.ROWS, 16, N),
    (_products.ROWS + 1, 17, N + 1),
    (2 * _products.ROWS + 7, 40, 3 * N // 2),
    (_products.CHUNK + 5, 33, N // 2 + 3),
    (3 * _products.TALL + _products.ROWS, 11, N + 5),
    (4 * _products.TALL + 2, N, 2 * N - 1),
    (9, _products.DEPTH, _products.WIDTH + 9),
    (30, _products.DEPTH + 1, _products.WIDTH),
    (5, 2 * _products.DEPTH + 3, 20),
    (4, 0, 6),
    (0, 3, 5),
]


def problem(shape, layout, dtype):
    """(A, B, s) and their flat arrays with strides, as `product` takes them."""
    rows, depth, columns = shape
    rng = np.random.default_rng(rows + depth)
    a, b, s = (rng.normal(size=size).astype(dtype) for size in ((rows, depth), (depth, columns), columns))
    stored = (a.T.copy() if layout[0] == "T" else a), (b.T.copy() if layout[1] == "T" else b)
    a_strides = (1, rows) if layout[0] == "T" else (depth, 1)
    b_strides = (1, depth) if layout[1] == "T" else (columns, 1)
    return (a, b, s), (stored[0].reshape(-1), *a_strides, stored[1].reshape(-1), *b_strides, s)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NN", "NT", "TN"])
@pytest.mark.parametrize("shape", SHAPES)
def test_against_numpy(shape, layout, dtype):
    rows, depth, columns = shape
    (a, b, s), arguments = problem(shape, layout, dtype)
    c = np.full((rows, columns), np.nan, dtype)
    _products.product(*arguments, c.reshape(-1), columns, depth, (0, rows), (0, columns))
    wide = [x.astype(np.longdouble) for x in (a, b, s)]
    size = np.abs(wide[0]) @ np.abs(wide[1]) + np.abs(wide[2])
    error = np.abs(c - (wide[0] @ wide[1] + wide[2])) / size
    assert error.max(initial=0) <= 2 * (depth + 1) * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NN", "NT", "TN"])
def test_any_part_has_the_bits_of_the_whole_and_nothing_else_is_touched(layout, dtype):
    rows, depth, columns = shape = 2 * _products.CHUNK + 11, _products.DEPTH + 30, _products.WIDTH + 45
    _, arguments = problem(shape, layout, dtype)
    whole = np.empty((rows, columns), dtype)
    _products.product(*arguments, whole.reshape(-1), columns, depth, (0, rows), (0, columns))
    cuts = [((0, 13), (0, columns)), ((13, rows), (0, 32)), ((13, rows), (32, 57)), ((13, rows), (57, columns))]
    parts = np.full((rows, columns), np.nan, dtype)
    for i, ((top, bottom), (first, last)) in enumerate(cuts):
        before = parts.copy()
        _products.product(*arguments, parts.reshape(-1), columns, depth, (top, bottom), (first, last))
        before[top:bottom, first:last] = parts[top:bottom, first:last]
        np.testing.assert_array_equal(parts, before, err_msg=str(i))
    np.testing.assert_array_equal(parts, whole)


def with_zeros(shape, layout, dtype, ones, binary):
    """`problem` with an A of which so large a part is not zero."""
    (a, _, _), (flat, *rest) = problem(shape, layout, dtype)
    chosen = np.random.default_rng(1).random(flat.shape) < ones
    flat[:] = np.where(chosen, 1 if binary else flat, 0)
    lines, length = a.shape[::-1] if layout[0] == "T" else a.shape
    return (flat, *rest), _sparse.nonzero_bits(flat, length, lines, length)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NN", "TN"])
@pytest.mark.parametrize("shape", SHAPES)
def test_without_the_zeros_the_bits_are_the_same(shape, layout, dtype, binary):
    rows, depth, columns = shape
    (a, a_row, a_k, b, b_k, b_n, s), (few, ones, bits) = with_zeros(shape, layout, dtype, 0.15, binary)
    assert few == (a.size > 0 and 3 * np.count_nonzero(a) <= a.size)
    assert ones == (binary or not a.any())
    for lo, hi in ((0, columns), (columns // 3, columns // 2)):
        c, d = (np.full(rows * columns, np.nan, dtype) for _ in range(2))
        _products.product(a, a_row, a_k, b, b_k, b_n, s, c, columns, depth, (0, rows), (lo, hi))
        if depth:
            _sparse.sparse_part(bits, layout[0] == "T", ones, a, a_row, a_k, b, b_k, s, 0, d, columns, depth, rows, (lo, hi))
            np.testing.assert_array_equal(c, d)
            _sparse.sparse_part(bits, layout[0] == "T", ones, a, a_row, a_k, b, b_k, s, 1, d, columns, depth, rows, (lo, hi))
            _products.product_part(a, a_row, a_k, b, b_k, b_n, s, 1, c, columns, depth, (0, rows), (lo, hi))
            np.testing.assert_array_equal(c, d)


@pytest.mark.parametrize("dtype", DTYPES)
def test_which_numbers_are_not_zero(dtype):
    a = np.zeros((70, 3 * _sparse.WORD + 5), dtype)
    a[0, 0], a[3, 7], a[5, 64], a[69, -1], a[12, 191], a[13, 1] = 1, -1, np.nan, np.finfo(dtype).tiny / 4, np.inf, -0.0
    few, binary, bits = _sparse.nonzero_bits(a.reshape(-1), a.shape[1], *a.shape)
    assert few
    assert not binary
    found = np.unpackbits(bits.view(np.uint8), bitorder="little").reshape(len(a), -1)
    np.testing.assert_array_equal(found[:, : a.shape[1]], a != 0)
    assert not found[:, a.shape[1] :].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_many_numbers_the_search_stops_early(dtype):
    a = np.zeros((40, 90), dtype)
    a[:, :30] = 1
    assert _sparse.nonzero_bits(a.reshape(-1), 90, 40, 90)[:2] == (True, True)
    a[39, 30] = 1
    assert _sparse.nonzero_bits(a.reshape(-1), 90, 40, 90)[:2] == (False, True)
    a[:2] = 1
    a[2:] = np.nan
    few, binary, _ = _sparse.nonzero_bits(a.reshape(-1), 90, 40, 90)
    assert (few, binary) == (False, False)


@pytest.mark.parametrize("ones", [0.1, 0.3, 0.4, 1.0])
def test_layers_of_images_with_and_without_zeros(ones):
    """A step's first layer: rows that fall on both sides of what is taken for few, and the same bits for every cut."""
    rng = np.random.default_rng(0)
    x = ((rng.random((600, 300)) < ones) * rng.random((600, 300))).astype(np.float32)
    x[:100] = np.round(x[:100])
    w, b, a_bar = (rng.normal(size=size).astype(np.float32) for size in ((300, 90), 90, (600, 90)))
    size = np.abs(x).astype(float) @ np.abs(w) + np.abs(b)
    y = [np.empty((600, 90), np.float32) for _ in range(3)]
    for out, by_rows, cuts in zip(y, (False, False, True), ((90,), (32, 90), (100, 128, 600)), strict=True):
        for lo, hi in zip((0, *cuts), cuts, strict=False):
            affine.affine(x, w, b, out, affine.IDENTITY, by_rows, lo, hi)
        np.testing.assert_array_equal(out, y[0])
    np.testing.assert_array_less(np.abs(y[0] - (x.astype(float) @ w + b)), 600 * np.finfo(np.float32).eps * size)
    expected = np.empty((300, 90), np.float32)
    flat = x.reshape(-1), 1, 300, a_bar.reshape(-1), 90, 1, np.zeros(90, np.float32), expected.reshape(-1), 90, 600
    _products.product(*flat, (0, 300), (0, 90))
    for cuts in ((90,), (16, 90)):
        weight_bar, bias_bar = np.full((300, 90), np.nan, np.float32), np.empty(90, np.float32)
        for lo, hi in zip((0, *cuts), cuts, strict=False):
            affine.affine_weight_vjp(y[0], x, a_bar, weight_bar, bias_bar, affine.IDENTITY, lo, hi)
        np.testing.assert_array_equal(weight_bar, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_input_with_many_zeros(dtype):
    x, bar = np.zeros((130, 1), dtype), np.arange(390, dtype=dtype).reshape(130, 3)
    x[[8, 70, 129]] = [[1], [2], [3]]
    weight_bar, bias_bar = np.empty((1, 3), dtype), np.empty(3, dtype)
    affine.affine_weight_vjp(bar, x, bar.copy(), weight_bar, bias_bar, affine.IDENTITY, 0, 3)
    np.testing.assert_array_equal(weight_bar, x.T @ bar)


@pytest.mark.parametrize("dtype", DTYPES)
def test_not_a_number_stays_in_its_row_and_column(dtype):
    x, w = np.ones((40, 50), dtype), np.ones((50, 60), dtype)
    x[7, 3], w[4, 9] = np.nan, np.inf
    y = ops.affine(x, w, np.zeros(60, dtype))
    broken = np.zeros((40, 60), bool)
    broken[7], broken[:, 9] = True, True
    np.testing.assert_array_equal(~np.isfinite(y), broken)


@pytest.mark.parametrize("activation", range(len(ops.ACTIVATIONS)))
def test_by_rows_and_by_columns_have_the_same_bits(activation):
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=size).astype(np.float32) for size in ((300, 70), (70, 90), 90))
    y = [np.empty((300, 90), np.float32) for _ in range(2)]
    for by_rows, out in enumerate(y):
        for lo, hi in ((0, 16), (16, 48), (48, (90, 300)[by_rows])):
            affine.affine(x, w, b, out, activation, bool(by_rows), lo, hi)
    np.testing.assert_array_equal(*y)
    np.testing.assert_array_equal(y[0], ops.affine(x, w, b, activation=ops.ACTIVATIONS[activation]))


def test_few_rows_are_shared_by_columns_and_many_by_rows(monkeypatch):
    seen = []
    launch = device.launch
    monkeypatch.setattr(device, "launch", lambda *a, n, **k: seen.append(n) or launch(*a, n=n, **k))
    for rows in (dense.MANY_ROWS - 1, dense.MANY_ROWS):
        ops.affine(np.ones((rows, 3)), np.ones((3, 20)), np.ones(20))
    assert seen == [20, dense.MANY_ROWS]
