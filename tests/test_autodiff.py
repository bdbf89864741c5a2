"""The tape itself: accumulation, structure, nesting, and clear errors."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
import threading

import numpy as np
import pytest

from gvae import ops
from gvae.autodiff import Var, gradient, primitive, stop_gradient, value_and_gradient, vjp
from gvae.errors import DTypeError, ShapeError
from gvae.ops import elementwise

x3 = np.array([0.5, -1.0, 2.0])


def test_var_alone_has_its_operators_in_a_fresh_process():
    code = (
        "import numpy as np; from gvae.autodiff import Var; v = Var(np.ones((2, 2)))\n"
        "w = (((2 + v) * v - v / 2) ** 2 @ v)[0].sum() + (-v).mean() + v.T.reshape(4)[1]\n"
        "print(w.value, bool((v > 0).all()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["25.0", "True"]


@pytest.mark.parametrize("use", [float, math.exp, np.float64])
def test_a_var_is_no_number(use):
    """Which would leave the tape: the derivative would be 0 without a word."""
    with pytest.raises(TypeError, match=r"a Var is not (a number|an array): use gvae\.ops on it, or \.value"):
        gradient(lambda x: ops.sum(x) * use(ops.sum(x)), x3)


def test_operators_agree_with_numpy():
    y = np.array([1.5, 2.0, -0.5])
    for f in (
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: a * b,
        lambda a, b: a / b,
        lambda a, b: 2 - a,
        lambda a, b: 2 / b,
        lambda a, b: 3 * a + 1 - b,
        lambda a, b: a**2,
        lambda a, b: -a,
        lambda a, b: (a[None, :] @ b[:, None])[0, 0],
        lambda a, b: a[None, 1:],
        lambda a, b: a > b,
        lambda a, b: a <= 0.5,
        lambda a, b: a == b,
        lambda a, b: a != b,
    ):
        result = f(Var(x3), Var(y))
        np.testing.assert_array_equal(result.value if isinstance(result, Var) else result, f(x3, y))
        mixed = f(Var(x3), y)
        np.testing.assert_array_equal(mixed.value if isinstance(mixed, Var) else mixed, f(x3, y))
    assert isinstance(x3 * Var(x3), Var)
    assert isinstance(x3[None] @ Var(x3[:, None]), Var)
    assert len(Var(x3)) == 3
    assert Var(x3).shape == (3,)
    with pytest.raises(TypeError, match="not an array"):
        np.asarray(Var(x3))
    with pytest.raises(TypeError):
        hash(Var(x3))


def test_a_value_used_twice_receives_both_cotangents():
    np.testing.assert_allclose(gradient(lambda x: ops.sum(x * x + x), x3), 2 * x3 + 1)
    np.testing.assert_allclose(gradient(lambda x, y: ops.sum(x * y), x3, x3)[0], x3)


def test_diamonds_and_depth():
    def f(x):
        y = ops.exp(x)
        for _ in range(5000):  # deeper than the interpreter's stack
            y = y + 0.0 * x
        return ops.sum(y * y)

    np.testing.assert_allclose(gradient(f, x3), 2 * np.exp(2 * x3))


def test_only_what_is_asked_for_is_computed():
    seen = []

    @primitive
    def watch(x, y):
        return x + y

    @watch.vjp
    def _(z_bar, z, x, y, *, needs):
        seen.append(needs)
        return z_bar if needs[0] else None, z_bar if needs[1] else None

    gradient(lambda x: ops.sum(watch(x, x3)), x3)
    gradient(lambda x: ops.sum(watch(x3, x)), x3)
    assert seen == [(True, False), (False, True)]


def test_structures_of_arguments():
    params = {"a": x3, "b": [x3 * 2, (x3 * 3,)], "n": None}
    value, grad = value_and_gradient(lambda p, s: ops.sum(p["a"] * p["b"][0] * p["b"][1][0]) * s, params, np.float64(2.0))
    assert value == pytest.approx(2 * (6 * x3**3).sum())
    np.testing.assert_allclose(grad[0]["a"], 12 * x3**2)
    np.testing.assert_allclose(grad[0]["b"][1][0], 4 * x3**2)
    assert grad[0]["n"] is None
    assert grad[1] == pytest.approx((6 * x3**3).sum())


def test_buffers_receive_cotangents():
    out = {"a": np.full(3, np.nan), "unused": np.full(2, np.nan)}
    params = {"a": x3, "unused": np.ones(2)}
    grad = gradient(lambda p: ops.sum(p["a"] * p["a"] * p["a"]), params, out=out)
    assert grad["a"] is out["a"]
    np.testing.assert_allclose(out["a"], 3 * x3**2)
    np.testing.assert_array_equal(out["unused"], 0)


def test_gradients_are_arrays_of_their_own():
    first, second = gradient(lambda x, y: ops.sum(x + y), x3, x3)
    first += 1
    np.testing.assert_array_equal(second, 1)


def test_aux_comes_back_plain():
    (value, aux), grad = value_and_gradient(lambda x: (ops.sum(x * x), {"x": x, "n": 3}), x3, has_aux=True)
    assert value == pytest.approx((x3**2).sum())
    np.testing.assert_array_equal(aux["x"], x3)
    assert aux["n"] == 3
    np.testing.assert_allclose(grad, 2 * x3)


def test_stop_gradient():
    np.testing.assert_allclose(gradient(lambda x: ops.sum(x * stop_gradient(x)), x3), x3)
    np.testing.assert_array_equal(gradient(lambda x: ops.sum(stop_gradient(x * x)), x3), 0)
    assert stop_gradient({"a": x3})["a"] is x3


def test_nothing_upstream_of_a_stop_is_visited():
    @primitive
    def forbidden(x):
        return x + 0

    gradient(lambda x: ops.sum(stop_gradient(forbidden(x)) * x), x3)  # forbidden has no rule
    with pytest.raises(NotImplementedError, match="forbidden has no derivative rule"):
        gradient(lambda x: ops.sum(forbidden(x)), x3)


def test_an_inner_gradient_is_data():
    # d/dx of x · ∇(y³)|_{y=x} with the gradient as data is 3 x², not 9 x²
    def f(x):
        score = gradient(lambda y: ops.sum(y**3), x)
        assert isinstance(score, np.ndarray)
        return ops.sum(x * score)

    np.testing.assert_allclose(gradient(f, x3), 3 * x3**2)


def test_an_inner_gradient_may_use_outer_variables():
    def f(x):
        inner = gradient(lambda y: ops.sum(y * x * y), x.value)  # 2 y x
        return ops.sum(x * inner)

    np.testing.assert_allclose(gradient(f, x3), 2 * x3**2)


def test_several_outputs():
    a = np.array([[2.0, 0.3], [0.3, 1.0]])
    only_values = gradient(lambda m: ops.sum(ops.eigh(m)[0]), a)
    np.testing.assert_allclose(only_values, np.eye(2), atol=1e-12)  # the trace


def test_a_non_scalar_without_a_cotangent():
    with pytest.raises(ShapeError, match=r"returned shape \(3,\), expected a scalar.*cotangent"):
        gradient(lambda x: x * 2, x3)
    value, pull = vjp(lambda x: x * 2, x3)
    np.testing.assert_array_equal(value, 2 * x3)
    np.testing.assert_array_equal(pull(np.array([1.0, 0.0, 2.0])), [2.0, 0.0, 4.0])
    with pytest.raises(ShapeError, match=r"cotangent has shape \(2,\), expected \(3,\)"):
        pull(np.ones(2))


def test_a_result_that_does_not_depend_on_the_argument():
    value, grad = value_and_gradient(lambda x: ops.sum(Var(np.ones(2))), x3)
    assert value == 2
    np.testing.assert_array_equal(grad, 0)


def test_integers_cannot_be_differentiated():
    with pytest.raises(DTypeError, match="argument 0 is int64"):
        gradient(lambda x: ops.sum(x), np.arange(3))


def test_functions_of_one_element_take_python_numbers():
    names = [n for n in elementwise.__all__ if n not in ("power", "bounded")]
    unary = [n for n in names if len(inspect.signature(getattr(elementwise, n)).parameters) == 1]
    assert len(unary) > 10
    for name in unary:
        assert getattr(elementwise, name)(0.5) == getattr(elementwise, name)(np.array([0.5]))[0], name
    slope = gradient(lambda a: elementwise.log_beta(a, 2.0).sum(), np.array([0.5]))
    np.testing.assert_array_equal(slope, gradient(lambda a: elementwise.log_beta(a, np.array([2.0])).sum(), np.array([0.5])))


def test_python_numbers_are_weak_and_numpy_scalars_are_not():
    x = x3.astype(np.float32)
    assert gradient(lambda x: ops.sum(2 * x + 1), x).dtype == np.float32
    assert ops.multiply(x, np.float32(2)).dtype == np.float32
    with pytest.raises(DTypeError, match="multiply: y is float64, expected a float32 array"):
        ops.multiply(x, np.float64(2))
    with pytest.raises(DTypeError, match="multiply: y is list"):
        ops.multiply(x, [1.0, 2.0, 3.0])


def test_a_rule_of_the_wrong_shape_is_named():
    @primitive
    def wrong(x):
        return x * 2

    @wrong.vjp
    def _(y_bar, y, x, *, needs):
        return (y_bar.sum(),)

    with pytest.raises(ShapeError, match=r"cotangent has shape \(\), expected \(3,\)"):
        gradient(lambda x: ops.sum(wrong(x * 1.0)), x3)


def test_threads_do_not_meet():
    results: dict[int, np.ndarray] = {}

    def work(i):
        for _ in range(50):
            results[i] = gradient(lambda x: ops.sum(ops.exp(x) * float(i)), x3)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(8):
        np.testing.assert_allclose(results[i], i * np.exp(x3))


def test_only_cotangents_that_are_its_own_are_added_into():
    """sample_banded hands its cotangent on to the mean as it is: it may be the caller's, and has other readers."""
    rng = np.random.default_rng(0)
    mean, eps, w = rng.normal(size=(3, 5, 4))
    chol = np.ones((5, 1, 4))
    before = w.copy()
    _, pull = vjp(lambda m, c: ops.sample_banded(m, c, eps) + ops.square(m), mean, chol)
    mean_bar, _ = pull(w)
    np.testing.assert_array_equal(w, before)
    np.testing.assert_allclose(mean_bar, w + 2 * mean * w)
    _, pull = vjp(lambda m, c: ops.sample_banded(m, c, eps), mean, chol)
    assert not np.shares_memory(pull(w)[0], w)


def test_a_cotangent_that_two_arguments_share_is_not_added_into():
    """a has received a cotangent from the deeper product already when the sum hands one array to b and to a."""
    a, b, w = np.array([0.1, 0.2]), np.array([0.3, 0.4]), np.array([2.0, 3.0])
    of_a, of_b = gradient(lambda a, b: ops.sum((b + a) * w) + ops.sum(a * ops.exp(ops.exp(a))), a, b)
    np.testing.assert_array_equal(of_b, w)
    np.testing.assert_allclose(of_a, w + np.exp(np.exp(a)) * (1 + a * np.exp(a)))


def test_a_buffer_is_offered_once():
    """A rule writes into the caller's buffer; whatever else the leaf receives is added to it."""
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(5, 4)), rng.normal(size=(4, 4)), rng.normal(size=4)

    def f(w, b):
        h = ops.affine(x, w, b, activation="tanh")
        return ops.sum(ops.affine(h, w, b, activation="elu")) + ops.sum(ops.square(w))

    buffers = np.full_like(w, np.nan), np.full_like(b, np.nan)
    bars = gradient(f, w, b, out=buffers)
    assert bars[0] is buffers[0]
    assert bars[1] is buffers[1]
    for bar, expected in zip(bars, gradient(f, w, b), strict=True):
        np.testing.assert_array_equal(bar, expected)

    first = []

    @primitive
    def twice(x, y):
        return x + y

    @twice.vjp(out=True)
    def _(z_bar, z, x, y, *, needs, out):
        first.append(out)
        return tuple(np.multiply(z_bar, k, out=buffer) for k, buffer in zip((1, 10), out, strict=True))

    buffer = np.full(4, np.nan)
    np.testing.assert_array_equal(gradient(lambda b: ops.sum(twice(b, b)), b, out=buffer), np.full(4, 11.0))
    assert first[0][0] is buffer
    assert first[0][1] is None

    scalar, total = np.array(2.0), np.array(np.nan)  # the second part of its cotangent is added into a new array
    assert gradient(lambda x: ops.exp(x) + ops.square(x), scalar, out=total) is total
    assert total == np.exp(2.0) + 4


def test_out_is_paired_by_name_and_filled_whatever_its_strides():
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(5, 3)), rng.normal(size=(3, 4)), rng.normal(size=4)

    def f(p):
        return ops.sum(ops.affine(x, p["w"], p["b"]) ** 2)

    expected = gradient(f, {"w": w, "b": b})
    for make in (np.empty, lambda shape: np.empty(shape, order="F"), lambda shape: np.empty((*shape, 2))[..., 0]):
        out = {"b": make((4,)), "w": make((3, 4))}  # another order than the argument's
        found = gradient(f, {"w": w, "b": b}, out=out)
        for name in "wb":
            assert found[name] is out[name]
            np.testing.assert_allclose(out[name], expected[name], rtol=1e-13)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda w: np.empty((3, 2)), ShapeError, r"gradient: out is float64 \(3, 2\), expected float64 \(3, 4\)"),
        (lambda w: np.empty((5, 3, 4)), ShapeError, r"gradient: out is float64 \(5, 3, 4\)"),
        (lambda w: np.empty((3, 4), np.float32), DTypeError, r"gradient: out is float32 \(3, 4\), expected float64"),
        (lambda w: np.broadcast_to(0.0, (3, 4)), ShapeError, r"gradient: out is read-only"),
        (lambda w: w, ShapeError, r"gradient: out shares memory with an argument"),
        (lambda w: [1.0], DTypeError, r"gradient: out is list, expected a float64 array"),
    ],
)
def test_out_that_does_not_fit(wrong, error, message):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 4))
    kept = w.copy()
    with pytest.raises(error, match=message):
        gradient(
            lambda p: ops.sum(ops.affine(x, p["w"], p["b"])), {"w": w, "b": np.zeros(4)}, out={"w": wrong(w), "b": None}
        )
    np.testing.assert_array_equal(w, kept)
    with pytest.raises(ShapeError, match="one has the entries w, the other the entries v"):
        gradient(lambda p: ops.sum(p["w"]), {"w": w}, out={"v": np.empty_like(w)})


def test_out_is_apart_from_all_arguments_and_from_each_other():
    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])

    def f(x, y):
        return ops.sum(x * ops.square(y))

    with pytest.raises(ShapeError, match="gradient: out shares memory with an argument"):
        gradient(f, x, y, out=(y, None))
    buffer = np.empty(2)
    with pytest.raises(ShapeError, match="gradient: out shares memory with another part of out"):
        gradient(f, x, y, out=(buffer, buffer[::-1]))
    memory = np.array([[1.0, 2.0], [0, 0], [3.0, 4.0], [0, 0]])  # parts of one array are apart
    found = gradient(f, memory[0], memory[2], out=(memory[1], memory[3]))
    np.testing.assert_array_equal(found, [[9, 16], [6, 16]])
    np.testing.assert_array_equal(memory, [[1, 2], [9, 16], [3, 4], [6, 16]])


@pytest.mark.parametrize("index", [((0, 0, 1),), ((0, 0), slice(None))])
def test_an_index_of_nested_tuples_names_an_element_twice(index):
    x = np.arange(6.0).reshape(2, 3) if len(index) == 2 else np.arange(2.0)
    as_lists = tuple(list(part) if isinstance(part, tuple) else part for part in index)
    expected = gradient(lambda x: ops.sum(x[as_lists]), x)
    np.testing.assert_array_equal(gradient(lambda x: ops.sum(x[index]), x), expected)
    assert expected.max() == 2


@pytest.mark.parametrize("y", [0, 0.0, np.array([0.0, 2.0]), np.float64(0)])
def test_a_power_of_zero_is_constant(y):
    x = np.array([0.0, 3.0])
    expected = np.where(np.broadcast_to(y, 2) == 0, 0.0, 2 * x)
    np.testing.assert_array_equal(gradient(lambda x: ops.sum(elementwise.power(x, y)), x), expected)


def test_the_logarithm_of_beta_keeps_the_precision():
    b = np.array([1.5, 2.0], np.float32)
    assert elementwise.log_beta(2.0, b).dtype == elementwise.log_beta(b, 2.0).dtype == np.float32
    assert gradient(lambda b: ops.sum(elementwise.log_beta(2.0, b)), b).dtype == np.float32


def test_pulls_from_some_outputs_to_some_arguments():
    """Two scalars of one call: each is pulled alone, to the entries asked for; nothing else is written."""
    calls = []

    @primitive
    def counted(x, *, name):
        return x + 0

    @counted.vjp
    def _(y_bar, y, x, *, needs, name):
        calls.append(name)
        return (y_bar,)

    def f(p):
        a, b = counted(p["a"], name="a"), counted(p["b"], name="b")
        return {"sum": (a + 2 * b).sum(), "product": (a * b).sum()}

    p = {"a": np.array([1.0, 2.0]), "b": np.array([5.0, 7.0]), "unused": np.zeros(1)}
    out = {name: np.full_like(x, np.nan) for name, x in p.items()}
    _, pull = vjp(f, p, out=out)
    bars = pull({"sum": 1.0, "product": None}, only=["b"])
    assert calls == ["b"]
    assert bars.keys() == {"b"}
    np.testing.assert_array_equal(out["b"], [2, 2])
    assert np.isnan(out["a"]).all()
    pull({"sum": None, "product": -1.0}, only=["a", "unused"])
    np.testing.assert_array_equal(out["a"], [-5, -7])
    np.testing.assert_array_equal(out["b"], [2, 2])
    np.testing.assert_array_equal(out["unused"], [0])
    assert calls == ["b", "a"]
    pull({"sum": 1.0, "product": 1.0})
    np.testing.assert_array_equal(out["a"], [6, 8])
    np.testing.assert_array_equal(out["b"], [3, 4])
