"""Awkward input, one table: every public op (the rows, from cases.py) against every kind of input (the columns, below).

What must raise: wrong and mixed dtypes, lists, shapes that do not fit, CuPy beside NumPy, settings out of range, unusable
`out` and `info`, pivots that are not positive. The error is a GvaeError of the right class, and its message names the
function that was called, the argument, what was expected and what was given. What must work: every legal shape and layout.
What is not finite stays in its own system, forward and backward.

A column applies to an op by a rule read from the op's signature or docstring, never by a list of names; the tests at the
end hold the rules to be complete. NumPy's floating-point warnings are NumPy's, and follow np.errstate.
"""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from cases import CASES, PLAIN
from strategies import Sizes

from gvae import ops
from gvae.autodiff import Var, gradient, vjp
from gvae.errors import (
    ConfigError,
    DeviceError,
    DTypeError,
    GvaeError,
    NotPositiveDefiniteError,
    ShapeError,
)

B = 4
S = Sizes((B,), ((B,),) * 4, N=4, offsets=(0, 1), K=2, R=3)
BAD, GOOD = [1, 3], [0, 2]  # the systems that are broken on purpose, and their neighbours

ROWS = [*CASES, *PLAIN]
PUBLIC = {
    name: getattr(ops, name)
    for module in ops._MODULES
    for name in getattr(ops, module).__all__
    if callable(getattr(ops, name))
    and not inspect.isclass(getattr(ops, name))
    and inspect.signature(getattr(ops, name)).return_annotation not in ("bool", "str")
}
NAMESAKES = {"log_gamma_draw": {"shape"}}  # arrays, called as a setting of other ops is
SETTINGS = {name: set(inspect.signature(op).parameters) - NAMESAKES.get(name, set()) for name, op in PUBLIC.items()}
MOVERS = {name for name, op in PUBLIC.items() if "any dtype" in op.__doc__}

# Every setting that can be wrong: the error, and values which are wrong for every op that has the setting.
WRONG = {
    "offsets": (ShapeError, [(1, 2), (0, 0), (0, 1.5), (0, -1), (0, np.nan), (), 7, ("a", "b")]),
    "prior_offsets": (ShapeError, [(1, 2), (0, 0), (0, 1.5), (), 7]),
    "axis": (ShapeError, [9, -9, 1.5, "x", (0, 9)]),
    "axis1": (ShapeError, [9, -9, "x"]),
    "axis2": (ShapeError, [9, None]),
    "axes": (ShapeError, [(0,), (0, 0, 1), (0, 1, 9)]),
    "shape": (ShapeError, [(7, 11, 13), (-2, 5), "x"]),
    "index": (ShapeError, [99, "x", (0, 0, 0, 0, 0), np.array([99, 0, 1]), np.full(S.N, 99), np.full(S.N, 0.5)]),
    "size": (ShapeError, [2, -1, 1.5]),
    "activation": (ConfigError, ["swish", None]),
    "ridge": (ConfigError, [-1.0, np.nan, "x", None]),
    "N": (ShapeError, [-1, 1.5, "x", np.int64(3)]),
    "mask": ((DTypeError, ShapeError), [[True] * S.N, np.ones(S.N), np.ones(7, bool)]),
    "method": (ConfigError, ["fast", 3]),
    "slope": (DTypeError, [np.float32(0.1), "x"]),
    "limit": (DTypeError, [np.float32(0.1), "x"]),
    "path": (ConfigError, ["exact", 3]),
    "by": (ConfigError, ["rows", None, 0]),
    "n": (ShapeError, [-1, 1.5, "x", 7]),
    "rate": (ConfigError, [-0.1, 1.5, np.nan, "x", None]),
}
SWITCHES = {"check", "fill", "keepdims", "save", "symmetric", "trans", "upper"}  # any truth value will do
BUFFERS = {"out", "info"}
CONSTANTS = {"csr_matmul": {"x"}, "poisson_counts_log_prob": {"x"}, "where": {"mask"}}  # not differentiable: tested below
FACTORS = {"a", "ab", "chol", "prior_chol"}  # whose pivots `check` checks


def arguments(row):
    return row.args(np.random.default_rng(0), S)


def names(row):
    """What errors call the arrays of a row."""
    arrays = [p for p in inspect.signature(PUBLIC[row.name]).parameters if p not in WRONG.keys() | SWITCHES | BUFFERS]
    return row.names or tuple(arrays[: len(arguments(row))])


def is_batched(row, name):
    """Whether the systems each have their own; a weight, say, is shared."""
    i = names(row).index(name)
    return row.cores is not None and arguments(row)[i].ndim > row.cores[i]


def cells(column, values):
    """Parametrise a test by (row, value) for every value that the column's rule gives a row."""
    params = []
    for row in ROWS:
        for value in values(row):
            label = f"{row}-{value}" if isinstance(value, (str, int)) else str(row)
            params.append(pytest.param(row, value, id=label))
    return pytest.mark.parametrize(("row", "name"), params)


def with_setting(setting):
    return lambda row: [setting] if setting in SETTINGS[row.name] else []


def fails(error, row, name, *args, given=None, **settings):
    """The call raises, and the message has all that a message owes."""
    with pytest.raises(error) as caught, np.errstate(all="ignore"):
        row.public(S)(*args, **settings)
    message = str(caught.value)
    assert isinstance(caught.value, GvaeError)
    assert message.startswith(f"{row.name}: "), message
    assert any(re.search(rf"(?<![\w]){re.escape(n)}(?!\w)", message) for n in ([name] if isinstance(name, str) else name)), (
        message
    )
    assert "expected" in message
    assert given is None or given in message, message
    return caught.value


def replaced(args, i, value):
    return [*args[:i], value, *args[i + 1 :]]


# What must raise


@cells("dtype", lambda row: [] if row.name in MOVERS else names(row))
def test_a_wrong_dtype(row, name):
    args, i = arguments(row), names(row).index(name)
    for dtype in (np.int64, np.bool_, np.complex128, np.float16, np.longdouble, ">f8", object):
        wrong = args[i].astype(dtype) if dtype is not np.complex128 else args[i] + 0j
        fails(DTypeError, row, name if i == 0 else names(row), *replaced(args, i, wrong), given=str(wrong.dtype))


@cells("mixed dtypes", lambda row: names(row) if len(arguments(row)) > 1 else [])
def test_mixed_dtypes(row, name):
    args, i = arguments(row), names(row).index(name)
    fails(DTypeError, row, names(row), *replaced(args, i, args[i].astype(np.float32)), given="float32")


@cells("list", names)
def test_a_list_is_not_an_array(row, name):
    args, i = arguments(row), names(row).index(name)
    fails(DTypeError, row, name, *replaced(args, i, args[i].tolist() if args[i].ndim else [1.0]), given="list")


def misfits(row):
    """Arrays that cannot fit the others, or the op: another batch, axes too few, axes twice as long."""
    args = arguments(row)
    cores = row.cores or (None,) * len(args)
    batched = [name for name in names(row) if is_batched(row, name)]
    for name, a, core in zip(names(row), args, cores, strict=True):
        if name in batched and len(batched) > 1:
            yield name, a[:3]
        if core:
            yield name, a[(0,) * (a.ndim - core + 1)]
        if core is None and len(args) > 1:
            rows = re.search("leading axes count as rows|Rows are inputs", PUBLIC[row.name].__doc__)  # of any number
            yield name, np.concatenate([a, a], axis=-1 if rows else 0) if a.ndim else np.stack([a, a])
        if core and sum(c > 0 for c in cores) > 1:
            yield name, np.tile(a, (2,) * core)


@cells("shape", lambda row: sorted({name for name, _ in misfits(row)}))
def test_shapes_that_do_not_fit(row, name):
    i = names(row).index(name)
    for misfit in [a for other, a in misfits(row) if other == name]:
        fails(ShapeError, row, names(row), *replaced(arguments(row), i, misfit))


@cells("device", lambda row: names(row) if len(arguments(row)) > 1 else [])
def test_two_devices(row, name, cupy):
    args, i = arguments(row), names(row).index(name)
    fails(DeviceError, row, names(row), *replaced(args, i, cupy.asarray(args[i])), given="CuPy")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_on_the_other_device(row, cupy):
    """An op runs where its arguments live; with a SciPy matrix beside device arrays it says that it cannot."""
    expected = each(row.public(S)(*arguments(row)))
    given = [cupy.asarray(a) for a in arguments(row)]
    if "csr" in str(row):
        with pytest.raises(DeviceError, match="one device"):
            row.public(S)(*given)
        return
    for result, wanted in zip(each(row.public(S)(*given)), expected, strict=True):
        assert type(result) is cupy.ndarray
        np.testing.assert_allclose(result.get(), wanted, rtol=1e-12, atol=1e-12 * (1 + np.abs(wanted).max(initial=0)))


@cells("setting", lambda row: sorted(SETTINGS[row.name] & WRONG.keys()))
def test_a_wrong_setting(row, name):
    error, values = WRONG[name]
    if f"{name.removesuffix('offsets')}chol" in names(row) or "band" in names(row):
        values = [*values, (0, 1, 2, 3)]  # more offsets than the factor has rows
    for value in values:
        fails(error, row, name, *arguments(row), **{name: value})


def buffers(good, name):
    """(error, buffer): every buffer that cannot hold a result like `good`."""
    other = np.dtype(np.int64) if good.dtype == np.int32 else np.dtype(np.float32)
    read_only = np.zeros_like(good)
    read_only.flags.writeable = False
    shared = np.lib.stride_tricks.as_strided(np.zeros(1, good.dtype), good.shape, (0,) * good.ndim)
    return [
        (ShapeError, np.zeros((*good.shape, 1), good.dtype)),
        (ShapeError, np.zeros((2, *good.shape), good.dtype)),
        (DTypeError, np.zeros(good.shape, other)),
        (ShapeError, read_only),
        (ShapeError, shared),
        (DTypeError, good.tolist()),
        (DTypeError, Var(np.zeros(good.shape))),
    ]


@cells("out", with_setting("out"))
def test_an_unusable_out(row, name):
    args = arguments(row)
    good = row.public(S)(*args)
    for error, out in buffers(good, name):
        fails(error, row, "out", *args, out=out)
    for i in range(len(args)):
        with pytest.raises(ConfigError, match=f"{row.name}: out= cannot be combined with a Var"):
            row.public(S)(*replaced(args, i, Var(args[i])), out=np.empty_like(good))


@pytest.mark.parametrize("shift", [0, 1, 3])
@cells("out in an argument's memory", lambda row: names(row) if "out" in SETTINGS[row.name] else [])
def test_out_in_the_memory_of_an_argument(row, name, shift):
    """The result is as elsewhere, or the call is refused before it writes."""
    args, i = arguments(row), names(row).index(name)
    good = row.public(S)(*args)
    memory = np.zeros(args[i].size + good.size + shift, good.dtype)
    x, out = memory[: args[i].size].reshape(args[i].shape), memory[shift : shift + good.size].reshape(good.shape)
    x[...] = args[i]
    try:
        result = row.public(S)(*replaced(args, i, x), out=out)
    except ShapeError as error:
        assert f"out overlaps {name}" in str(error)  # noqa: PT017
        np.testing.assert_array_equal(x, args[i])
    else:
        assert result is out
        np.testing.assert_array_equal(out, good)


@cells("a band without diagonals", lambda row: [n for n in names(row) if n in FACTORS - {"a"} and row.name != "gram_banded"])
def test_a_band_without_diagonals(row, name):
    args, i = arguments(row), names(row).index(name)
    with pytest.raises(ShapeError, match=rf"^{row.name}: "):
        row.public(S)(*replaced(args, i, args[i][..., :0, :]))


@cells("info", with_setting("info"))
def test_an_unusable_info(row, name):
    for error, info in buffers(np.zeros(B, np.int32), name):
        fails(error, row, "info", *arguments(row), info=info)


# Pivots


def factors(row):
    """Batched factors whose pivots the op checks."""
    if "check" not in SETTINGS[row.name]:
        return []
    return [name for name, a in zip(names(row), arguments(row), strict=True) if name in FACTORS and a.ndim == 3]


def broken(row, name, pivot):
    """Arguments with a bad pivot in systems 1 (column 2) and 3 (column 0)."""
    args, i = [a.copy() for a in arguments(row)], names(row).index(name)
    for system, column in ((1, 2), (3, 0)):
        args[i][(system, column, column) if name == "a" else (system, 0, column)] = pivot
    return args


PIVOTS = [0.0, -0.0, -1.0, np.nan, -np.inf]


@pytest.mark.parametrize("pivot", PIVOTS)
@cells("pivot", factors)
def test_a_bad_pivot_raises(row, name, pivot):
    with pytest.raises(NotPositiveDefiniteError, match=r"row \(1,\), (column 2|minor 3) and 1 more") as caught:
        row.public(S)(*broken(row, name, pivot))
    assert (caught.value.rows, caught.value.minors) == ([(1,), (3,)], [3, 1])
    assert isinstance(caught.value, np.linalg.LinAlgError)


@cells("pivot's name", factors)
def test_a_bad_pivot_names_function_and_argument(row, name):
    with pytest.raises(NotPositiveDefiniteError, match=rf"^{row.name}: {name} "):
        row.public(S)(*broken(row, name, 0.0))


def each(value):
    """An op's results as a list."""
    return list(value) if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("pivot", PIVOTS)
@cells("pivot, check=False", factors)
def test_a_bad_pivot_without_check_is_nan_in_its_own_system(row, name, pivot):
    with np.errstate(all="ignore"):
        results = each(row.public(S)(*broken(row, name, pivot), check=False))
    for result, clean in zip(results, each(row.public(S)(*arguments(row))), strict=True):
        assert np.isnan(result[BAD]).all()
        np.testing.assert_array_equal(result[GOOD], clean[GOOD])


@pytest.mark.parametrize("name", ["entropy_banded", "logdet_banded", "log_pivots_banded", "log_prob_of_draw_banded"])
def test_the_gradient_of_a_bad_pivot_is_nan(name):
    chol = np.array([[2.0, -2.0, 2.0], [0.1, 0.1, 0.0]])
    more = (np.ones(3),) if "draw" in name else ()
    bar = gradient(lambda chol: ops.sum(getattr(ops, name)(chol, *more, check=False)), chol)
    assert np.isnan(bar[0]).all()


@pytest.mark.parametrize("systems", [2, 40])  # in two steps, and in one
@pytest.mark.parametrize("op", ["sample", "solve", "solve transposed"])
def test_the_gradients_of_a_system_that_fails_are_nan(op, systems):
    chol = np.stack([np.full((systems, 4), 2.0), np.full((systems, 4), -1.0)], axis=1)
    chol[1, 0, 2], x = -1, np.ones((systems, 4))
    if op == "sample":
        loss = lambda chol, x: ops.sum(ops.sample_banded(np.zeros(4), chol, x, check=False))  # noqa: E731
    else:
        trans = op == "solve transposed"
        loss = lambda chol, x: ops.sum(ops.solve_triangular_banded(chol, x, trans=trans, check=False))  # noqa: E731
    chol_bar, x_bar = gradient(loss, chol, x)
    assert np.isnan(x_bar[1]).all()
    np.testing.assert_array_equal(np.isnan(chol_bar[1]), [[True] * 4, [True, True, True, False]])
    good = np.arange(systems) != 1
    np.testing.assert_array_equal(x_bar[good], np.broadcast_to(x_bar[0], (systems - 1, 4)))
    np.testing.assert_array_equal(chol_bar[good], np.broadcast_to(chol_bar[0], (systems - 1, 2, 4)))
    assert np.isfinite(chol_bar[0]).all()


@pytest.mark.parametrize("pivot", PIVOTS)
@cells("gradient beside a bad pivot", lambda row: factors(row) if row in CASES else [])
def test_gradients_beside_a_bad_pivot(row, name, pivot):
    assert_neighbours_have_their_gradients(row, broken(row, name, pivot), check=False)


@pytest.mark.parametrize("check", [True, False])
@cells("info is filled", lambda row: factors(row) if "info" in SETTINGS[row.name] else [])
def test_info_is_filled(row, name, check):
    info = np.full(B, 99, np.int32)
    row.public(S)(*arguments(row), info=info, check=check)
    np.testing.assert_array_equal(info, 0)
    if check:
        with pytest.raises(NotPositiveDefiniteError):
            row.public(S)(*broken(row, name, -1.0), info=info)
    else:
        row.public(S)(*broken(row, name, -1.0), info=info, check=False)
    np.testing.assert_array_equal(info, [0, 3, 0, 1])


@cells("infinite pivot", factors)
def test_an_infinite_pivot_is_positive(row, name):
    """A precision of inf: no error, arithmetic takes its course (a variance of 0, or inf / inf), neighbours untouched."""
    with np.errstate(all="ignore"):
        results = each(row.public(S)(*broken(row, name, np.inf)))
    for result, clean in zip(results, each(row.public(S)(*arguments(row))), strict=True):
        np.testing.assert_array_equal(result[GOOD], clean[GOOD])


# What is not finite, elsewhere


def assert_neighbours_have_their_gradients(row, args, **settings):
    """With no cotangent for the broken systems, the gradients of the others are those of clean arguments, bit by bit."""
    with np.errstate(all="ignore"):
        results, pull = vjp(lambda *a: row.public(S)(*a, **settings), *args)
    cotangents = []
    for result in each(results):
        cotangents.append(np.ones(result.shape))
        cotangents[-1][BAD] = 0
    with np.errstate(all="ignore"):
        bars = pull(tuple(cotangents) if isinstance(results, tuple) else cotangents[0])
    _, clean_pull = vjp(lambda *a: row.public(S)(*a, **settings), *arguments(row))
    clean = clean_pull(tuple(cotangents) if isinstance(results, tuple) else cotangents[0])
    for bar, expected, name in zip(*((x,) if len(args) == 1 else x for x in (bars, clean)), names(row), strict=True):
        if is_batched(row, name):  # an argument that all systems share hears of all of them
            np.testing.assert_array_equal(bar[GOOD], expected[GOOD])


def read_entries(row, name, settings):
    """Entries of an argument, in system 1 if it has a batch, which are no pivots and on which the result depends."""
    args, i = arguments(row), names(row).index(name)
    clean = each(row.public(S)(*args))
    for index in np.ndindex(args[i].shape):
        diagonal = name in FACTORS and (index[-1] == index[-2] if name == "a" else index[-2] == 0)
        if diagonal or (is_batched(row, name) and index[0] != 1):
            continue
        changed = [np.zeros(np.shape(c), bool) for c in clean]
        for move in (-1e4, 1e4):
            moved = args[i].copy()
            moved[index] += move
            with np.errstate(all="ignore"):
                results = each(row.public(S)(*replaced(args, i, moved), **settings))
            changed = [before | (r != c) for before, r, c in zip(changed, results, clean, strict=True)]
        if any(c.any() for c in changed):
            yield index, clean, changed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@cells("not finite", names)
def test_what_is_not_finite_stays_in_its_own_system(row, name, value):
    """NaN comes out as NaN; nothing raises; entries of other systems (without systems: entries that do not depend on it)
    and their gradients have the bits that they have without it."""
    i, batched = names(row).index(name), is_batched(row, name)
    # of a matrix to be factored, every entry decides over a pivot
    settings = {"check": False} if name in ("a", "ab") and "check" in SETTINGS[row.name] else {}
    entries = list(read_entries(row, name, settings))
    for index, clean, changed in (entries[0], entries[-1]) if entries else ():
        args = [a.copy() for a in arguments(row)]
        args[i][index] = value
        with np.errstate(all="ignore"):
            results = each(row.public(S)(*args, **settings))
            for result, before, depends in zip(results, clean, changed, strict=True):
                if batched:
                    others = [j for j in range(B) if j != 1]
                    np.testing.assert_array_equal(result[others], before[others])
                else:
                    np.testing.assert_array_equal(result[~depends], before[~depends])
            if np.isnan(value):
                assert any(np.isnan(result[depends]).any() for result, depends in zip(results, changed, strict=True))
            if batched and row in CASES:
                assert_neighbours_have_their_gradients(row, args, **settings)


# What must work

SHAPES = {
    "M > N": Sizes((2,), ((2,),) * 4, N=2, offsets=(0, 1, 2, 5), K=2, R=2),
    "N = 1": Sizes((2,), ((2,),) * 4, N=1, offsets=(0, 1), K=1, R=1),
    "N = 1, M = 1": Sizes((2,), ((2,),) * 4, N=1, offsets=(0,), K=2, R=2),
    "no batch": Sizes((), ((),) * 4, N=3, offsets=(0, 1), K=2, R=2),
    "empty batch": Sizes((0,), ((0,),) * 4, N=3, offsets=(0, 1), K=2, R=2),
    "empty within a batch": Sizes((2, 0), ((2, 0), (0,), (2, 0), (1, 0)), N=3, offsets=(0, 1), K=2, R=2),
    "N = 0": Sizes((2,), ((2,),) * 4, N=0, offsets=(0, 1), K=2, R=2),
}


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_shapes_that_work(row, shape):
    s = SHAPES[shape]
    args = row.args(np.random.default_rng(0), s)
    results = each(row.public(s)(*args))
    if row.cores is not None:
        assert all(result.shape[: len(s.batch)] == s.batch for result in results)
    if s.N and 0 not in s.batch:
        np.testing.assert_allclose(row.op(s)(*args), row.reference(s)(*args), rtol=1e-11, atol=1e-11)
    if row in CASES:
        bars = gradient(lambda *a: sum(ops.sum(r) for r in each(row.public(s)(*a))), *args)
        for bar, a in zip(bars if len(args) > 1 else [bars], args, strict=True):
            assert (bar.shape, bar.dtype) == (a.shape, a.dtype)
            assert np.isfinite(bar).all()


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    b = raw[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


LAYOUTS = {
    "read-only": read_only,
    "Fortran order": lambda a: np.array(a, order="F"),
    "every other": lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
    "backwards": lambda a: a.copy()[::-1][::-1] if a.ndim else a,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape) if a.ndim else a,
    "unaligned": unaligned,
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_layouts_that_work(row, layout):
    args = [LAYOUTS[layout](a) for a in arguments(row)]
    plain = [np.array(a, order="C") for a in args]
    for result, expected in zip(each(row.public(S)(*args)), each(row.public(S)(*plain)), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-13, atol=1e-13 * (1 + np.abs(expected).max(initial=0)))
    if row in CASES:
        bars, expected = (gradient(lambda *a: sum(ops.sum(r) for r in each(row.public(S)(*a))), *x) for x in (args, plain))
        for bar, wanted in zip(*((x,) if len(args) == 1 else x for x in (bars, expected)), strict=True):
            np.testing.assert_allclose(bar, wanted, rtol=1e-12, atol=1e-12 * (1 + np.abs(wanted).max(initial=0)))


# The rules themselves


def test_the_table_has_every_public_op():
    assert {row.name for row in ROWS} == set(PUBLIC)


def test_every_parameter_is_an_array_of_some_row_or_a_setting_with_a_column():
    for name, parameters in SETTINGS.items():
        arrays = {n.partition("[")[0] for row in ROWS if row.name == name for n in names(row)}
        left = parameters - WRONG.keys() - SWITCHES - BUFFERS - CONSTANTS.get(name, set())
        assert left == arrays - CONSTANTS.get(name, set()) - NAMESAKES.get(name, set()), name


def driven(test):
    (mark,) = [m for m in test.pytestmark if m.args[0] == ("row", "name")]
    return {(param.values[0].name, param.values[1]) for param in mark.args[1]}


@pytest.mark.parametrize("setting", sorted(WRONG.keys() | BUFFERS))
def test_every_op_with_a_setting_is_driven_through_it(setting):
    column = {"out": test_an_unusable_out, "info": test_an_unusable_info}.get(setting, test_a_wrong_setting)
    expected = {name for name, parameters in SETTINGS.items() if setting in parameters}
    assert {name for name, value in driven(column) if value == setting} == expected
    assert expected


def test_every_op_that_checks_pivots_is_driven_through_bad_ones():
    expected = {name for name, parameters in SETTINGS.items() if "check" in parameters}
    for column in (test_a_bad_pivot_raises, test_a_bad_pivot_without_check_is_nan_in_its_own_system):
        assert {name for name, _ in driven(column)} == expected
    assert {name for name, _ in driven(test_info_is_filled)} == {n for n in expected if "info" in SETTINGS[n]}
    for name, op in PUBLIC.items():  # and an op that says that it raises has the switch
        assert "NotPositiveDefiniteError" not in op.__doc__ or name in expected


def test_every_array_is_driven_through_dtypes_lists_and_devices():
    everything = {(row.name, name) for row in ROWS for name in names(row)}
    assert driven(test_a_list_is_not_an_array) == everything
    assert driven(test_a_wrong_dtype) == {(op, name) for op, name in everything if op not in MOVERS}
    several = {(row.name, name) for row in ROWS for name in names(row) if len(names(row)) > 1}
    assert driven(test_mixed_dtypes) == driven(test_two_devices) == several
    assert driven(test_what_is_not_finite_stays_in_its_own_system) == everything
    assert {op for op, _ in driven(test_shapes_that_do_not_fit)} >= {op for op, _ in several}
