"""Memory that is used again: never while anybody still sees it, and never more than the limit."""

from __future__ import annotations

import itertools
import sys
import threading

import numpy as np
import pytest

from gvae import ops
from gvae.runtime import memory

SHAPE = (1024, 64)


@pytest.fixture(autouse=True)
def fresh():
    memory.clear_memory()
    yield
    memory.clear_memory()


def test_freed_memory_is_used_again():
    first = memory.empty(SHAPE, np.float32)
    address = first.ctypes.data
    del first
    again = memory.empty(SHAPE, np.float32)
    assert again.ctypes.data == address
    assert again.shape == SHAPE
    assert again.flags.c_contiguous
    assert again.flags.writeable
    del again
    smaller = memory.empty((1000, 64), np.float32)  # a last batch that is not full
    assert smaller.ctypes.data == address


def test_large_arrays_begin_with_a_line_of_the_caches():
    held = [memory.empty((17_000 + i,), np.float32) for i in range(20)]
    assert not any(a.ctypes.data % memory.LINE for a in held)


def test_memory_in_use_is_never_handed_out():
    held = [memory.empty(SHAPE, np.float64)]
    held.append(held[0][3:, ::2].T)  # a view of a view keeps it
    address = held.pop(0).ctypes.data
    for _ in range(3):
        assert memory.empty(SHAPE, np.float64).ctypes.data != address
    held.clear()
    assert address in {a.ctypes.data for a in [memory.empty(SHAPE, np.float64) for _ in range(5)]}


def test_what_was_used_last_comes_first():
    held = [memory.empty(SHAPE, np.float64) for _ in range(3)]
    addresses = [a.ctypes.data for a in held]
    held.clear()
    assert memory.empty(SHAPE, np.float64).ctypes.data == addresses[-1]


def test_results_of_ops_are_their_owners():
    x = np.random.default_rng(0).normal(size=SHAPE)
    first = ops.multiply(x, x)
    copy = first.copy()
    for _ in range(5):
        ops.multiply(x, -x)
    np.testing.assert_array_equal(first, copy)


def test_idle_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(memory._pool, "limit", 1 << 20)
    held = [memory.empty((1 << 16,), np.float32) for _ in range(10)]  # 256 KiB each
    assert sum(size for _, size, _ in memory._pool.blocks) <= 1 << 20
    assert len({a.ctypes.data for a in held}) == 10
    large = memory.empty((1 << 20,), np.float32)
    assert large.base is None  # beyond the limit: an array of its own
    small = memory.empty((10,), np.float32)
    assert small.base is None


def test_many_results_that_are_held_cost_no_time():
    held = [memory.empty(SHAPE, np.float32) for _ in range(3 * memory.MOST)]
    assert len(memory._pool.blocks) <= memory.MOST
    assert len({a.ctypes.data for a in held}) == len(held)


def test_what_cannot_be_counted_is_not_used_again(monkeypatch):
    monkeypatch.setattr(memory.Pool, "idle", None)
    assert memory.empty(SHAPE, np.float32).base is None


def interpreter(monkeypatch, count):
    """Calibrate for one in which sys.getrefcount(block), called in a function of that name, is count(block, name)."""
    counting = type("sys", (), {"getrefcount": lambda block: count(block, sys._getframe(1).f_code.co_name)})
    monkeypatch.setattr(memory, "sys", counting)
    monkeypatch.setattr(memory.Pool, "idle", memory._calibrated())


@pytest.mark.parametrize("difference", [-2, -1, 1])
def test_functions_may_count_differently(monkeypatch, difference):
    """A count that was taken elsewhere than in `Pool.empty` would be that of an array in use."""
    interpreter(monkeypatch, lambda block, name: sys.getrefcount(block) + difference * (name == "empty"))
    test_memory_in_use_is_never_handed_out()
    test_freed_memory_is_used_again()


def test_an_interpreter_that_counts_in_no_known_way_uses_nothing_again(monkeypatch):
    calls = itertools.count()
    for count in (
        lambda block, name: 3,
        lambda block, name: -sys.getrefcount(block),
        lambda block, name: sys.getrefcount(block) - (next(calls) > 30),  # from some time on
    ):
        interpreter(monkeypatch, count)
        assert memory.Pool.idle is None
        assert memory.empty(SHAPE, np.float32).base is None


def test_threads_never_share_a_block():
    wrong = []

    def work(mark):
        for _ in range(300):
            a = memory.empty(SHAPE, np.float32)
            a[:] = mark
            if not (a == mark).all():
                wrong.append(mark)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert not wrong
