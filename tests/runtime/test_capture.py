"""Work on NumPy arrays as a list of launches: the same bits for other numbers, or a refusal."""

from __future__ import annotations

import copy
import gc
import inspect
import operator
import os
import subprocess
import sys
import threading
import weakref
from functools import partial

import numpy as np
import pytest
from cases import CASES
from hypothesis import given
from strategies import seeds, sizes

import gvae
from gvae import models, nn, ops, random
from gvae.autodiff import primitive, value_and_gradient, vjp
from gvae.data import Table
from gvae.errors import BoundsError, DTypeError, ShapeError
from gvae.runtime import device, launches, memory, pool
from gvae.runtime.context import context
from gvae.runtime.launches import Graph, NotCaptured, Traced, Workspace
from gvae.structures import leaves_of
from gvae.training import Trainer
from gvae.training.program import Python

RNG, KEY = np.random.default_rng(0), random.key(0)


def captured(f, *arrays, workspace=None):
    """(graph, arguments) of f at copies of the arrays."""
    own = [a.copy() for a in arrays]
    graph = Graph(lambda traced: f(*map(traced, own)), workspace or Workspace())
    return graph, [graph.argument(a) for a in own]


def launched(graph, arguments, *arrays):
    for argument, array in zip(arguments, arrays, strict=True):
        argument.put(array)
    graph.launch()
    return graph.result


def same(actual, expected):
    if isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            same(a, e)
        return
    assert type(actual) is np.ndarray
    assert (actual.shape, actual.dtype) == (np.shape(expected), np.asarray(expected).dtype)
    assert actual.tobytes() == np.asarray(expected).tobytes()


def again(f, *arrays):
    """f is captured at some arrays, and made again at others, twice."""
    first = [np.roll(a, 1, axis=0) if a.ndim else a + 1 for a in arrays]
    graph, arguments = captured(f, *first)
    same(graph.result, f(*first))
    for given_ in (arrays, first):
        same(launched(graph, arguments, *given_), f(*given_))


# ---- NumPy

X, Y = RNG.normal(size=(4, 6)), RNG.uniform(0.5, 2, size=(4, 6))
BIG = RNG.normal(size=(300, 80))  # its results lie in the workspace
MASK, INDEX = X > 0, np.array([2, 0, 2])

FUNCTIONS = {
    "ufunc": lambda x, y: np.exp(x) * 2 - y / 3 + 1,
    "of a number first": lambda x, y: 2 - np.float64(3) * x,
    "of three": lambda x, y: np.where(MASK, x, y) + np.clip(x, -0.5, 0.5),
    "two results": lambda x, y: np.modf(x),
    "scalars": lambda x, y: np.sqrt(x.sum() ** 2) / y[1, 2] * np.mean(y),
    "in place": lambda x, y: operator.iadd(np.multiply(x, y), y),
    "out": lambda x, y: (np.add(x, y, out=np.zeros_like(x)), np.cumsum(y, axis=1, out=np.zeros_like(y))),
    "reduce": lambda x, y: (x.sum(axis=0), y.max(axis=-1, keepdims=True), x.mean(), y.prod(axis=1), np.std(x)),
    "accumulate": lambda x, y: (np.cumsum(x, axis=1), np.add.accumulate(y)),
    "matmul": lambda x, y: x @ y.T + np.dot(x, y.T) + np.einsum("ij,kj->ik", x, y),
    "views": lambda x, y: (x.T[1:, ::-1] + 1, x.reshape(2, 12)[:, 3], np.broadcast_to(x[0], (2, 6)), x[None, ..., 1]),
    "lists of views": lambda x, y: [2 * part for part in np.split(x, 2)],
    "copies": lambda x, y: (
        x.T.reshape(-1),
        x.copy(),
        x.T.ravel(),
        y.flatten(),
        x.astype(np.float32),
        np.repeat(x, 2, axis=0),
    ),
    "joined": lambda x, y: np.concatenate([x, y], axis=1) + np.concatenate([np.stack([x, x]), np.stack([y, y])], axis=-1)[0],
    "index": lambda x, y: (x[INDEX], x[:, INDEX], x[..., -1], y[2, 3], np.take(x, INDEX, axis=1), np.tril(x)),
    "write": lambda x, y: written(x, y),
    "scatter": lambda x, y: scattered(x, y),
    "like": lambda x, y: (np.zeros_like(x) + x, np.ones_like(y) * y, np.full_like(x, 3) - x, np.flip(x, 1), np.sort(y)),
    "device's": lambda x, y: device.apply(np.add, device.zeros(x.shape, x.dtype, x), device.copy(y)),
    "row by row": lambda x, y: sum(row * i for i, row in enumerate(x)) + sum(entry * i for i, entry in enumerate(y[0])),
    "quiet": lambda x, y: quiet(x, y),
}


def written(x, y):
    z = device.zeros((4, 6), np.float64, x)
    z[1:, ::2] = x[1:, ::2]
    z[0] = y[0]
    z += y
    return z


def scattered(x, y):
    z = np.zeros_like(x)
    device.scatter_add(z, (slice(None), np.array([1, 1, 0])), y[:, :3])
    return z


def quiet(x, y):
    with np.errstate(divide="ignore"):
        return y / np.where(x > 0, x, 0)


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=list(FUNCTIONS))
def test_numpys_work_is_made_again(f):
    again(f, X, Y)
    if f is not FUNCTIONS["of three"]:
        again(lambda x, y: f(x[:4, :6], y[4:8, 6:12]), BIG, np.abs(BIG) + 0.5)


def test_large_results():
    again(lambda x: (np.exp(x), x.T.copy(), np.cumsum(x, axis=0), (x + 1)[::2, ::2] * 2), BIG)


READY, _ = captured(np.exp, X)

REFUSED = {
    "float": float,
    "int": int,
    "bool": lambda x: 1 if x.sum() > 0 else 2,
    "index": lambda x: [1, 2, 3][(x.sum() * 0).astype(int)],
    "all": lambda x: np.all(x > 0) and 1,
    "contains": lambda x: 1.0 in x,
    "item": lambda x: x.item(0),
    "tolist": lambda x: x.tolist(),
    "bytes": lambda x: x.tobytes(),
    "as many as there are": lambda x: x.nonzero(),
    "a value": lambda x: np.allclose(x, 0),
    "copyto": lambda x: np.copyto(x, 1.0),
    "another graph": lambda x: captured(np.exp, X)[0].result * x,
    "a launch of another": lambda x: READY.launch() or x,
    "fill_diagonal": lambda x: np.fill_diagonal(x, 1.0),
    "sort in place": lambda x: x.sort(),
}


@pytest.mark.parametrize("f", REFUSED.values(), ids=list(REFUSED))
def test_what_a_list_cannot_hold_is_refused(f):
    with pytest.raises(NotCaptured):
        captured(f, X)
    assert context.backend is None


VALUE_SHAPED = {
    "mask": lambda x: x[x > 0],
    "unique": np.unique,
    "compress": lambda x: np.compress(x[0] > 0, x, axis=1),
}


@pytest.mark.parametrize("f", VALUE_SHAPED.values(), ids=list(VALUE_SHAPED))
def test_shapes_that_values_decide(f):
    x = np.array([[1.0, -1.0, 2.0, -2.0]])
    graph, (argument,) = captured(f, x)
    same(launched(graph, [argument], 2 * x), f(2 * x))
    for other in (np.abs(x), np.ones_like(x) * [[-1, -1, -1, 1]], np.ones_like(x)):
        argument.put(other)
        with pytest.raises(NotCaptured, match="its values decide that"):
            graph.launch()


def test_an_error_is_its_own():
    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        captured(f, X)
    assert context.backend is None


def test_outside_a_capture_a_traced_array_is_an_array():
    x = captured(lambda x: x, X)[0].traced(X.copy())
    assert type(x) is Traced
    same(np.exp(x) + x.sum() + x.reshape(-1)[3] + np.concatenate([x, x])[:4], np.exp(X) + X.sum() + X[0, 3] + X)
    assert float(x[0, 0]) == X[0, 0]
    assert x.tolist() == X.tolist()
    x[0] = 7
    x.fill(3)
    assert (x == 3).all()


def test_warnings_are_those_of_the_call():
    graph, arguments = captured(lambda x: np.log(x), Y)
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        launched(graph, arguments, 0 * Y)
    graph, arguments = captured(lambda x: quiet(x, x + 1), Y)
    launched(graph, arguments, np.r_[0 * Y[:1], Y[1:]])  # warnings are errors


# ---- ops

# what decides by values: whether there is a factor, and of what
DECIDE = {
    "cholesky",
    "eigh",
    "sample_lowrank",
    "log_prob_lowrank",
    "kl_divergence_lowrank",
    "logdet_lowrank",
    "variance_lowrank",
}


@pytest.mark.parametrize("case", CASES, ids=str)
@given(s=sizes(), seed=seeds)
def test_every_op_and_its_derivative_are_made_again(case, s, seed):
    rng = np.random.default_rng(seed)
    first, second = ([a.astype(np.float32) for a in case.args(rng, s)] for _ in range(2))
    op = case.op(s)
    parameters = inspect.signature(op).parameters.values()
    if any(p.name == "check" or p.kind is p.VAR_KEYWORD for p in parameters):
        op = partial(op, check=False)  # else it is asked whether there is a factor

    value = op(*first)
    several = isinstance(value, tuple)
    shapes = [np.shape(v) for v in (value if several else (value,))]

    def f(*arrays):
        bars, args = arrays[: len(shapes)], arrays[len(shapes) :]
        value, pull = vjp(op, *args)
        found = pull(bars if several else bars[0])
        return (*(value if several else (value,)), *(found if len(args) > 1 else (found,)))

    bars = [[rng.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(2)]
    try:
        graph, arguments = captured(f, *bars[0], *first)
    except NotCaptured:
        if case.name in DECIDE:
            return
        raise
    same(launched(graph, arguments, *bars[1], *second), f(*bars[1], *second))


# ---- memory


def layers(x, w):
    for _ in range(12):
        x = device.apply(np.multiply, ops.affine(x, w, w[0], activation="tanh"), x)
    return x.sum()


def test_memory_is_used_again_within_a_launch():
    """As by the same work without a graph; the graph keeps what it writes to, and nobody else sees it."""
    x, w = RNG.normal(size=(500, 64)), RNG.normal(size=(64, 64)) / 8
    workspace = Workspace()
    graph, arguments = captured(layers, x, w, workspace=workspace)
    assert len(workspace.blocks) <= 4  # of 24 results
    held = [memory.empty((500, 64), np.float64) for _ in range(8)]
    before = [a.tobytes() for a in held]
    same(launched(graph, arguments, 2 * x, w), layers(2 * x, w))
    assert [a.tobytes() for a in held] == before
    del workspace, held
    gc.collect()
    same(launched(graph, arguments, x, w), layers(x, w))
    second, others = captured(lambda x: (np.exp(x), x @ x.T), x, workspace=graph.workspace)
    for n in (1, 2, 3):  # of one workspace, in turn
        same(launched(graph, arguments, n * x, w), layers(n * x, w))
        y = x / n
        same(launched(second, others, y), (np.exp(y), y @ y.T))


@pytest.mark.sharing
def test_what_kernels_alone_read_is_read_where_it_is():
    x, w, y = RNG.normal(size=(500, 64)), RNG.normal(size=(64, 128)) / 8, RNG.normal(size=(500, 128))

    def f(x, w, y):
        return ops.affine(x[100:], w, w[0], activation="elu").sum(axis=0) + (y + 1).sum(axis=0)

    graph, (rows, weight, plus) = captured(f, x, w, y)
    assert (len(rows.words), len(weight.words), len(plus.words)) == (1, 2, 0)  # NumPy reads the last
    for array in (2 * x, np.asfortranarray(3 * x), np.repeat(x, 2, axis=1)[:, ::2], 4 * x):
        same(launched(graph, (rows, weight, plus), array, w, y), f(array, w, y))
        assert (rows.read is array) == array.flags.c_contiguous
    x[...] = 5
    same(launched(graph, (rows, weight, plus), x, 2 * w, -y), f(x, 2 * w, -y))


def test_a_result_that_is_an_argument():
    """It is copied, although kernels alone read it."""
    w = RNG.normal(size=(80, 8))

    def f(x):
        return x.T, x[1:], ops.affine(x, w, w[0])

    graph, arguments = captured(f, BIG)
    same(launched(graph, arguments, BIG + 1), f(BIG + 1))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_any_number_of_threads(n, monkeypatch):
    """However many there were when it was captured."""
    x, w = RNG.normal(size=(2000, 64)), RNG.normal(size=(64, 64)) / 8
    graph, arguments = captured(layers, x, w)
    expected = layers(2 * x, w)
    monkeypatch.setenv(pool.VARIABLE, str(n))
    same(launched(graph, arguments, 2 * x, w), expected)


@pytest.mark.sharing
def test_a_kernel_without_memory_for_its_scratch(monkeypatch):
    graph, _ = captured(layers, RNG.normal(size=(50, 64)), np.eye(64))
    monkeypatch.setattr(pool, "_together", lambda workers, call: 1)
    with pytest.raises(MemoryError, match="no memory for its scratch"):
        graph.launch()


# ---- for everybody


def test_a_function_of_arrays():
    step = launches.captured(
        lambda mean, chol: (ops.kl_divergence_banded(mean, chol, check=False), mean * 2), X, np.stack([Y, X / 9], 1)
    )
    for scale in (1, 2, 3):
        mean, chol = X * scale, np.stack([Y * scale, X / 9], 1)
        kl, twice = step(mean, chol)
        same(kl, ops.kl_divergence_banded(mean, chol))
        same(twice, mean * 2)
    assert step(X, chol)[1] is twice  # until the next call
    for arrays, kind, message in [
        ((X,), ShapeError, "captured: 1 arrays, expected 2"),
        ((X[1:], chol), ShapeError, r"array 0 has shape \(3, 6\), expected \(4, 6\) as it was captured with"),
        ((X, chol.astype(np.float32)), DTypeError, "array 1 is float32, expected float64 as it was captured with"),
        ((X, [1.0]), DTypeError, "array 1 is list, expected float64"),
    ]:
        with pytest.raises(kind, match=message):
            step(*arrays)


def test_captured_compares_at_once():
    """At other numbers, its own or given ones, and says where they differ."""
    seen = []

    def past_it(x, y):
        seen.append(x)
        return {"sum": (x + y).sum(), "parts": [np.asarray(x) * 2, frozen(x)]}

    with pytest.raises(NotCaptured, match=r"captured: past_it gives other numbers .* in its result\['parts'\]\[0\]"):
        gvae.captured(past_it, X, X)
    assert len(seen) == 2
    gvae.captured(past_it, X, X, verify=(X, X))  # where it does not show
    seen.clear()
    gvae.captured(past_it, X, X, verify=False)
    assert len(seen) == 1
    whole = gvae.captured(lambda x, n: np.take(x, n, axis=0), X, np.array([1, 2]))  # whole numbers stay as they are
    np.testing.assert_array_equal(whole(X, np.array([0, 3])), X[[0, 3]])


# ---- training

ROWS = np.random.default_rng(0).random((70, 12), np.float32)


def steps(trainer, rows=20, n=7):
    """Each on other rows; as many as there are if rows is 0."""
    table = Table(ROWS.astype(trainer.parameters.flat.dtype), binarize="dynamic")
    index = [np.arange(7 * i, 7 * i + rows) if rows else np.arange(70) for i in range(n)]
    return [trainer.step(table.batch(chosen, random.key(i))) for i, chosen in enumerate(index)]


DISCRETE = ("bernoulli", "categorical", "poisson", "negative_binomial", "beta", "continuous_bernoulli", "mixture")
DISCRETE += ("zero_inflated",)
SIZED = {"grid": "grid:2x2", "extended_grid": "extended_grid:2x2", "lowrank": "lowrank:2", "shared": "shared:chain"}


def test_a_class_that_there_is_not_is_named_in_a_launch_as_well():
    trainer = Trainer(models.VAE(12, 4, observation="categorical:3", hidden=(8,)), seed=1)
    x = np.random.default_rng(0).integers(3, size=(70, 12)).astype(np.float32)
    x[60, 2] = 3
    for i in (0, 1, 2, 3):
        trainer.step(Table(x).batch(np.arange(i, i + 20), KEY))
    (known,) = trainer.programs.known.values()
    assert known.verified
    with pytest.raises(BoundsError, match=r"x has values 0 .. 3, expected 0 .. 2"):
        trainer.step(Table(x).batch(np.arange(50, 70), KEY))


def test_a_model_that_keeps_a_value_is_found_out(caplog):
    """What is frozen by the capture gives other bits in the next step, which Python takes as well."""

    class Frozen(models.VAE):
        pure = True

        def terms(self, params, state, batch, noise, step=0):
            terms = super().terms(params, state, batch, noise, step)
            likelihood = terms.log_likelihood["x"]
            terms.log_likelihood["x"] = frozen(likelihood)
            return terms

    trainers = [Trainer(Frozen(12, 4, hidden=(8,)), seed=1, programs=programs) for programs in (True, False)]
    with caplog.at_level("INFO", "gvae.training.program"):
        assert steps(trainers[0]) == steps(trainers[1])
    (known,) = trainers[0].programs.known.values()
    assert known.why_not == "its launches give other numbers"
    assert "steps are taken by Python: its launches give other numbers" in caplog.text
    assert isinstance(known, Python)
    np.testing.assert_array_equal(trainers[0].parameters.flat, trainers[1].parameters.flat)


@primitive
def frozen(x):
    return np.asarray(x) * np.float32(1)


@frozen.vjp
def _(y_bar, y, x, *, needs):
    return (y_bar * np.asarray(x),)  # so that gradients are others as well


def test_a_launch_that_fails_is_a_step_of_pythons():
    """Here where rows are left out by their values: as many as ever for some steps, and then others."""

    class Masked(models.VAE):
        pure = True

        def terms(self, params, state, batch, noise, step=0):
            terms = super().terms(params, state, batch, noise, step)
            terms.log_likelihood["x"] = terms.log_likelihood["x"] + chosen_sum(batch.x)
            return terms

    runs = []
    for programs in (True, False):
        trainer = Trainer(Masked(12, 4, hidden=(8,)), seed=1, programs=programs)
        table = Table(np.concatenate([np.eye(12, dtype=np.float32)] * 12 + [np.ones((20, 12), np.float32)]))
        chosen = [np.arange(i, i + 20) for i in [*range(8), 144, *range(9, 16)]]
        runs.append(([trainer.step(table.batch(c, KEY)) for c in chosen], trainer.parameters.flat.tobytes()))
        if programs:
            assert [known.verified for known in trainer.programs.known.values()] == [True]
    assert runs[0] == runs[1]


@primitive(differentiable=False)
def chosen_sum(x):
    return x[x > 0].sum() * x.dtype.type(0.1)


def test_a_copy_of_a_trainer_captures_for_itself():
    trainer = Trainer(models.VAE(12, 4, hidden=(8,)), seed=1)
    steps(trainer)
    other = copy.deepcopy(trainer)
    before = trainer.parameters.flat.copy()
    expected = steps(trainer)
    after = trainer.parameters.flat.copy()
    trainer.parameters.flat[:] = before
    assert steps(other) == expected
    np.testing.assert_array_equal(other.parameters.flat, after)
    np.testing.assert_array_equal(trainer.parameters.flat, before)


class Running(models.VAE):
    """Keeps a running mean of its data, as layers do that normalise."""

    pure = True

    def init_state(self, key):
        return {"mean": np.zeros(12, np.float32)}

    def terms(self, params, state, batch, noise, step=0):
        terms = super().terms(params, state, batch, noise, step)
        mean = 0.9 * state["mean"] + 0.1 * ops.mean(batch.x, axis=0)
        terms.state["mean"] = mean
        terms.log_likelihood["x"] = terms.log_likelihood["x"] - ops.sum(ops.square(mean))
        return terms


def test_a_state_is_the_steps_own():
    trainers = [Trainer(Running(12, 4, hidden=(8,)), seed=1, programs=programs) for programs in (True, False)]
    table, seen = Table(ROWS), [[], []]
    for i in range(16):
        rows = np.arange(7 * i, 7 * i + (20 if i % 2 else 10))  # of two shapes
        for trainer, states in zip(trainers, seen, strict=True):
            trainer.step(table.batch(rows % 70, random.key(i)))
            states.append((trainer.state["mean"], trainer.state["mean"].copy()))
    for (kept, mine), (_, expected) in zip(*seen, strict=True):
        np.testing.assert_array_equal(mine, expected)
        np.testing.assert_array_equal(kept, expected)  # no later step writes there
    assert [known.verified for known in trainers[0].programs.known.values()] == [True, True]


def test_parameters_in_another_place():
    """Steps take those that the trainer has now."""
    trainers = [Trainer(models.VAE(12, 4, hidden=(8,)), seed=1, programs=programs) for programs in (True, False)]
    for n in (7, 3, 7, 2):  # to where launches count, to where there are some, and again
        for trainer in trainers:
            trainer.parameters = trainer.optimizer.parameters = nn.Parameters(
                {k: v + 1 for k, v in trainer.parameters.items()}
            )
        assert steps(trainers[0], n=n) == steps(trainers[1], n=n)
        np.testing.assert_array_equal(trainers[0].parameters.flat, trainers[1].parameters.flat)


def large_steps(trainer, n=8):
    """With shares for other threads."""
    table = Table(np.random.default_rng(0).random((400, 300), np.float32))
    return [trainer.step(table.batch(np.arange(i, i + 300), random.key(i)))["bound"] for i in range(n)]


def test_trainers_in_several_threads(monkeypatch):
    monkeypatch.setenv(pool.VARIABLE, "3")
    make = partial(Trainer, models.VAE(300, 4, hidden=(64,)), seed=1)
    expected = large_steps(make(programs=False), 12)
    found = {}
    callers = [threading.Thread(target=lambda i=i: found.update({i: large_steps(make(), 12)})) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == dict.fromkeys(range(4), expected)


FORK = """
import os, sys, warnings
import numpy as np
from gvae import models, random
from gvae.data import Table
from gvae.training import Trainer

warnings.simplefilter("ignore")   # Python warns of forking a process with threads
table = Table(np.random.default_rng(0).random((400, 300), np.float32))
trainer = Trainer(models.VAE(300, 4, hidden=(64,)), seed=1)

def steps():
    return [trainer.step(table.batch(np.arange(i, i + 300), random.key(i)))["bound"] for i in range(8)]

steps()
assert all(known.verified for known in trainer.programs.known.values())
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, repr(steps()).encode())
    os._exit(0)
os.close(writing)
with os.fdopen(reading) as pipe:
    assert pipe.read() == repr(steps())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_launches_its_own():
    env = os.environ | {pool.VARIABLE: "2"}
    assert subprocess.run([sys.executable, "-c", FORK], env=env, timeout=120).returncode == 0


def test_an_interrupted_launch_is_no_step():
    trainer = Trainer(models.VAE(12, 4, hidden=(8,)), seed=1)
    steps(trainer)
    (known,) = trainer.programs.known.values()
    calls, before = known.graph._calls, trainer.parameters.flat.copy()

    def interrupt():
        raise KeyboardInterrupt

    calls.insert(len(calls) // 2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        steps(trainer)
    np.testing.assert_array_equal(trainer.parameters.flat, before)
    calls.remove(interrupt)
    other = Trainer(models.VAE(12, 4, hidden=(8,)), seed=1, programs=False)
    steps(other)
    assert steps(trainer) == steps(other)


def test_a_trainer_that_nobody_needs_goes():
    trainer = Trainer(models.VAE(12, 4, hidden=(8,)), seed=1)
    steps(trainer)
    gone = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()


def launches_like(f, *arrays, others):
    """Several launches, the first arguments again at the end: the results of f each time."""
    step = gvae.captured(f, *arrays)
    for now in (*others, arrays, *others):
        expected = [np.array(leaf) for leaf in leaves_of(f(*now))]
        for got, wanted in zip(leaves_of(step(*now)), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
def test_what_is_computed_in_place_of_a_constant_is_launched(activation):
    """The cotangent of a sum is one: the reverse of the activation is computed where it lies, in every launch anew."""
    x, b = np.array([[1.0, 2.0]]), np.zeros(2)

    def loss(w):
        return ops.sum(ops.affine(x, w, b, activation=activation))

    w = np.array([[1.0, -0.5], [0.5, 1.0]])
    launches_like(lambda w: value_and_gradient(loss, w), w, others=[(-w,), (2 * w,)])


def test_the_sum_of_cotangents_that_are_constants_is_launched():
    x = np.array([[1.0, 2.0]])

    def loss(w):
        h = ops.affine(x, w, np.zeros(2), activation="relu")
        return ops.sum(h) + ops.sum(2 * h)

    w = np.array([[1.0, -0.5], [0.5, 1.0]])
    launches_like(lambda w: value_and_gradient(loss, w), w, others=[(-w,), (2 * w,)])


def test_a_solve_of_a_constant_is_launched():
    l = np.array([[2.0, 0.0], [1.0, 3.0]])
    launches_like(lambda l: ops.solve_triangular(l, np.ones((2, 1))), l, others=[(2 * l,)])


@pytest.mark.parametrize("loss", [lambda u: ops.sum(u * u), lambda u: ops.sum(ops.square(u)), lambda u: ops.sum(ops.exp(u))])
def test_gradients_in_the_callers_memory_are_launched(loss):
    out = np.zeros(2)
    step = gvae.captured(lambda u: value_and_gradient(loss, u, out=out), np.array([1.0, 2.0]))
    for now in (np.array([5.0, 7.0]), np.array([0.5, -1.0])):
        expected = value_and_gradient(loss, now)
        assert step(now)[0] == expected[0]
        np.testing.assert_array_equal(out, expected[1])


def test_a_strided_result_and_failing_minors_are_launched():
    chol, out, info = np.array([[2.0, 2.0], [-1.0, 0.0]]), np.zeros((2, 2))[:, 0], np.zeros((), np.int32)
    b = np.ones(2)
    step = gvae.captured(lambda b: ops.solve_triangular_banded(chol, b, out=out, check=False, info=info), b)
    np.testing.assert_array_equal(step(3 * b), ops.solve_triangular_banded(chol, 3 * b))
    factor = gvae.captured(lambda a: ops.cholesky_banded(a, check=False, info=info), chol * chol, verify=False)
    factor(-chol)
    assert info == 1


def test_a_selection_by_values_is_not_launched_with_another_size():
    step = gvae.captured(lambda x: ops.sum(ops.getitem(x, x < 0)), np.array([1.0, 2.0, 3.0]))
    assert step(np.array([3.0, 1.0, 2.0])) == 0
    with pytest.raises(NotCaptured, match=r"getitem returns \(2,\), where it was \(0,\): its values decide that"):
        step(np.array([-1.0, 2.0, -3.0]))


@pytest.mark.parametrize("n", [8, 128])
def test_a_result_is_the_next_argument(n):
    w = np.random.default_rng(0).normal(size=(n, n)) / n
    f = lambda x: ops.affine(x, w, np.zeros(n), activation="tanh")  # noqa: E731
    x = np.random.default_rng(1).normal(size=(n, n))
    step = gvae.captured(f, x)
    np.testing.assert_array_equal(step(step(x)), f(f(x)))


def test_draws_of_a_key_are_launched():
    f = lambda key, x: np.exp(random.normal(key, 4, np.float64)) * x + random.rademacher(key, 4, np.float64)  # noqa: E731
    launches_like(f, random.key(0), np.ones(4), others=[(random.key(1), np.full(4, 2.0))])
