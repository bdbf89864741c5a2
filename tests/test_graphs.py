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


def test_four_by_four_has_forty_numbers():
    assert graphs.extended_grid(4, 4).mask.sum() == 40


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
