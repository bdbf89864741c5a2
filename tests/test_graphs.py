import itertools

import numpy as np
import pytest

from gvae import graphs
from gvae.errors import ConfigError


def edges(graph):
    return {(int(j + graph.offsets[k]), int(j)) for k, j in zip(*np.nonzero(graph.mask), strict=True) if k > 0}


def test_patterns():
    assert edges(graphs.independent(4)) == set()
    assert edges(graphs.chain(4)) == {(1, 0), (2, 1), (3, 2)}
    assert edges(graphs.band(4, 2)) == {(1, 0), (2, 1), (3, 2), (2, 0), (3, 1)}
    for g in (graphs.independent(3), graphs.chain(3), graphs.band(3, 1), graphs.extended_grid(2, 3), graphs.grid(3, 2)):
        assert g.mask[0].all()
        assert not g.mask.flags.writeable


@pytest.mark.parametrize(("rows", "cols"), list(itertools.product(range(1, 5), range(1, 5))))
def test_a_lattice_has_its_edges_and_no_wrap(rows, cols):
    expected = {(r * cols + c + 1, r * cols + c) for r in range(rows) for c in range(cols - 1)}
    expected |= {((r + 1) * cols + c, r * cols + c) for r in range(rows - 1) for c in range(cols)}
    for graph in (graphs.grid(rows, cols), graphs.extended_grid(rows, cols)):
        assert edges(graph) == expected
        assert graph.n == rows * cols
    assert graphs.extended_grid(rows, cols).factor_offsets == graphs.extended_grid(rows, cols).offsets
    if rows > 1:
        assert graphs.grid(rows, cols).factor_offsets == tuple(range(cols + 1))


@pytest.mark.parametrize(("rows", "cols"), list(itertools.product(range(1, 6), range(1, 6))))
def test_a_lattice_has_a_number_per_node_and_edge(rows, cols):
    """n + r (c - 1) + (r - 1) c: 40 of four by four."""
    expected = rows * cols + rows * (cols - 1) + (rows - 1) * cols
    assert graphs.extended_grid(rows, cols).mask.sum() == graphs.grid(rows, cols).mask.sum() == expected
    assert expected == 40 or (rows, cols) != (4, 4)


def test_the_factor_of_a_grid_fills_in_and_that_of_an_extended_grid_is_its_own():
    """Of a precision on four by four, 40 numbers on and below the diagonal: 67 of its Cholesky factor are not zero."""
    lattice = graphs.grid(4, 4)
    P = np.zeros((16, 16))
    for i, j in edges(lattice):
        P[i, j] = P[j, i] = -0.1 - 0.01 * i
    P += np.diag(1 - P.sum(axis=1))
    assert (np.tril(P) != 0).sum() == 40
    L = np.linalg.cholesky(P)
    assert (np.abs(L) > 1e-15).sum() == 67
    assert set(np.subtract(*np.nonzero(np.abs(L) > 1e-15))) == set(lattice.factor_offsets)


def test_blocks_of_an_extended_grids_precision():
    """L has bidiagonal A_i on its diagonal of blocks and diagonal B_i below: P_ii = A_i A_iᵀ + B_(i-1) B_(i-1)ᵀ, and
    P_(i+1),i = B_i A_iᵀ; blocks further apart are zero."""
    graph, rows, cols = graphs.extended_grid(3, 4), 3, 4
    rng = np.random.default_rng(0)
    L = np.zeros((12, 12))
    for k, j in zip(*np.nonzero(graph.mask), strict=True):
        L[j + graph.offsets[k], j] = rng.uniform(0.5, 1)
    block = [slice(i * cols, (i + 1) * cols) for i in range(rows)]
    A, B = [L[b, b] for b in block], [L[block[i + 1], block[i]] for i in range(rows - 1)]
    for a in A:
        np.testing.assert_array_equal(a, np.diag(np.diag(a)) + np.diag(np.diag(a, -1), -1))
    for b in B:
        np.testing.assert_array_equal(b, np.diag(np.diag(b)))
    P = L @ L.T
    for i in range(rows):
        above = B[i - 1] @ B[i - 1].T if i else 0
        np.testing.assert_allclose(P[block[i], block[i]], A[i] @ A[i].T + above, rtol=1e-14, atol=1e-15)
    for i in range(rows - 1):
        np.testing.assert_allclose(P[block[i + 1], block[i]], B[i] @ A[i].T, rtol=1e-14)
    assert (P[block[2], block[0]] == 0).all()


def test_the_extended_grids_precision_has_one_antidiagonal_per_cell():
    graph = graphs.extended_grid(3, 4)
    rng = np.random.default_rng(0)
    L = np.zeros((12, 12))
    for k, j in zip(*np.nonzero(graph.mask), strict=True):
        L[j + graph.offsets[k], j] = rng.uniform(0.5, 1)
    pattern = {(i, j) for i, j in zip(*np.nonzero(np.tril(L @ L.T, -1)), strict=True)}
    antidiagonal = {((r + 1) * 4 + c - 1, r * 4 + c) for r in range(2) for c in range(1, 4)}
    assert pattern == edges(graphs.grid(3, 4)) | antidiagonal


@pytest.mark.parametrize(
    "make",
    [
        lambda: graphs.chain(0),
        lambda: graphs.chain(-1),
        lambda: graphs.chain(2.0),
        lambda: graphs.independent(True),
        lambda: graphs.band(3, -1),
        lambda: graphs.band(3, 1.5),
        lambda: graphs.grid(0, 3),
        lambda: graphs.extended_grid(3, -1),
    ],
)
def test_sizes_that_are_none(make):
    with pytest.raises(ConfigError, match="expected an integer of at least"):
        make()
