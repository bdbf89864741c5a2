"""SIMD over systems: one recurrence's text, compiled for a number or for a vector of numbers.

A recurrence is serial within its system, so the vector unit has to work on several systems at once, one per lane. In an
array of shape (n, LANES) the last axis holds the same entry of LANES systems; `lanes(array)` views it as an array (n,) whose
elements are vectors. A function written for one system, `x[i] = s / chol[0, i]`, then compiles for such arrays as it stands.

Arrays in memory stay batch-first. `pack` brings LANES systems from there into lane order and `unpack` takes them back, by
transposing square tiles in registers: 0.06 ns a number in float32 in the first-level cache, where a plain double loop takes
0.57. docs/layout.md has the measurements that decided for it.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from gvae.kernels import LANES
from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._math import scaled
from gvae.runtime import abi

FLAGS = ("contract", "nsz", "reassoc")  # as `_jit.FASTMATH`


class Lane(types.Type):
    """A vector of LANES numbers of a floating type."""

    def __init__(self, dtype: Any):
        self.scalar = dtype
        super().__init__(f"Lane({dtype} x {LANES})")


@register_model(Lane)
class _LaneModel(models.PrimitiveModel):
    def __init__(self, manager, lane):
        super().__init__(manager, lane, ir.VectorType(manager.lookup(lane.scalar).get_value_type(), LANES))


def _splat(context, builder, value, kind, lane):
    if isinstance(kind, Lane):
        return value
    scalar, width = context.cast(builder, value, kind, lane.scalar), ir.IntType(32)
    vector = ir.VectorType(scalar.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, width(0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(width, LANES), [0] * LANES))


def _binary(instruction):
    @intrinsic
    def apply(typing, x, y):
        lane = x if isinstance(x, Lane) else y

        def codegen(context, builder, signature, arguments):
            a, b = (_splat(context, builder, v, k, lane) for v, k in zip(arguments, signature.args, strict=True))
            return getattr(builder, instruction)(a, b, flags=FLAGS)

        return lane(x, y), codegen

    return apply


def _between_lanes(apply):
    def choose(x, y):
        if isinstance(x, Lane) or isinstance(y, Lane):

            def implementation(x, y):
                return apply(x, y)

            return implementation
        return None

    return choose


for _symbol, _instruction in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul"), ("truediv", "fdiv")):
    for _name in (_symbol, "i" + _symbol):
        overload(getattr(operator, _name))(_between_lanes(_binary(_instruction)))


@intrinsic
def _negative(typing, x):
    return x(x), lambda context, builder, signature, arguments: builder.fneg(arguments[0], flags=FLAGS)


@intrinsic
def _square_root(typing, x):
    def codegen(context, builder, signature, arguments):
        vector = arguments[0].type
        name = f"llvm.sqrt.v{LANES}f{x.scalar.bitwidth}"
        return builder.call(abi.external(builder, name, ir.FunctionType(vector, [vector])), arguments)

    return x(x), codegen


@overload(operator.neg)
def _(x):
    return (lambda x: _negative(x)) if isinstance(x, Lane) else None


@overload(math.sqrt)
def _(x):
    return (lambda x: _square_root(x)) if isinstance(x, Lane) else None


@overload(math.fabs)
def _(x):
    return (lambda x: _magnitude(x)) if isinstance(x, Lane) else None


@intrinsic
def _magnitude(typing, x):
    def codegen(context, builder, signature, arguments):
        return _absolute(builder, arguments[0])

    return x(x), codegen


def _absolute(builder, value):
    minus = builder.fneg(value)
    return builder.select(builder.fcmp_ordered("<", value, minus), minus, value)


@overload(scaled)
def _(x):
    return (lambda x: _scaled(x)) if isinstance(x, Lane) else None


@intrinsic
def _scaled(typing, x):
    """As the function for numbers, operation by operation."""
    t = np.finfo(np.float32 if x.scalar.bitwidth == 32 else np.float64)
    whole = ir.VectorType(ir.IntType(t.bits), LANES)
    pair = types.UniTuple(x, 2)

    def codegen(context, builder, signature, arguments):
        value = arguments[0]
        real = value.type

        def number(c):
            return ir.Constant(real, [float(c)] * LANES)

        def integer(c):
            return ir.Constant(whole, [int(c)] * LANES)

        half = integer(t.dtype.type(math.sqrt(0.5)).view(f"i{t.bits // 8}"))
        small = builder.fcmp_ordered("<", value, number(t.smallest_normal))
        lifted = builder.select(small, builder.fmul(value, number(2.0 ** (t.nmant + 1))), value)
        j = builder.sub(builder.bitcast(lifted, whole), half)
        m = builder.add(builder.and_(j, integer((1 << t.nmant) - 1)), half)
        n = builder.sitofp(builder.ashr(j, integer(t.nmant)), real)
        m = builder.select(builder.fcmp_ordered("<", value, number(np.inf)), builder.bitcast(m, real), value)
        n = builder.fsub(n, builder.select(small, number(t.nmant + 1), number(0)))
        return context.make_tuple(builder, pair, [m, n])

    return pair(x), codegen


@intrinsic
def larger(typing, x, y):
    """The larger of two, number or vector; y if it is NaN."""

    def codegen(context, builder, signature, arguments):
        x, y = arguments
        return builder.select(builder.fcmp_unordered(">", y, x), y, x)

    return x(x, x), codegen


@intrinsic
def positive(typing, x):
    """1 where x > 0, else 0: of x's own type, number or vector."""

    def codegen(context, builder, signature, arguments):
        value, count = arguments[0], LANES if isinstance(x, Lane) else 1
        one = ir.Constant(value.type, [1.0] * count if isinstance(x, Lane) else 1.0)
        zero = ir.Constant(value.type, None)
        return builder.select(builder.fcmp_ordered(">", value, zero), one, zero)

    return x(x), codegen


@intrinsic
def flushed(typing, x):
    """x, or 0 where it is subnormal; number or vector."""
    bits = x.scalar.bitwidth if isinstance(x, Lane) else x.bitwidth

    def codegen(context, builder, signature, arguments):
        value = arguments[0]
        count = LANES if isinstance(x, Lane) else 1
        tiny = [2.0**-126 if bits == 32 else 2.0**-1022] * count
        limit = ir.Constant(value.type, tiny if isinstance(x, Lane) else tiny[0])
        return builder.select(
            builder.fcmp_ordered("<", _absolute(builder, value), limit), ir.Constant(value.type, None), value
        )

    return x(x), codegen


@intrinsic
def zero(typing, array):
    """The zero of an array's element type, number or vector."""

    def codegen(context, builder, signature, arguments):
        return ir.Constant(context.get_value_type(signature.return_type), None)  # all bits zero

    return array.dtype(array), codegen


@intrinsic
def lanes(typing, array):
    """The array (..., LANES) seen as an array (...) of vectors; it keeps the memory alive."""
    lane = Lane(array.dtype)
    view = types.Array(lane, array.ndim - 1, "C", aligned=False)  # to numbers, not to vectors

    def codegen(context, builder, signature, arguments):
        return abi.as_vectors(context, builder, array, arguments[0], view)

    return view(array), codegen


@intrinsic
def borrowed(typing, array):
    """An argument without its reference count: views of its rows are then free. The caller keeps it alive, as it does."""

    def codegen(context, builder, signature, arguments):
        return abi.uncounted(context, builder, array, arguments[0])

    return array(array), codegen


def _rows(context, builder, signature, arguments, i, place):
    """Where the rows of the square tile at place (j, l) begin: in a block, argument i, those of its entry [j, l]; outside,
    starts and flat being arguments i and i + 1, those of flat[starts[l] + j]."""
    (j, l), word = place, context.get_value_type(types.intp)
    first = abi.start_of(context, builder, signature.args[i], arguments[i])
    block = signature.args[i].ndim == 2
    kind = signature.args[i if block else i + 1]
    flat = first if block else abi.start_of(context, builder, kind, arguments[i + 1])
    number = context.get_value_type(kind.dtype)

    def row(n):
        if block:
            position = builder.add(builder.mul(builder.add(j, word(n)), word(LANES)), l)
        else:
            position = builder.add(abi.load(builder, abi.offset(builder, first, word, builder.add(l, word(n))), word), j)
        return abi.offset(builder, flat, number, position)

    return row


def _row_type(context, array):
    """LLVM's type of a row of a tile: 64 bytes."""
    return ir.VectorType(context.get_value_type(array.dtype), 512 // array.dtype.bitwidth)


@intrinsic
def _pack_tile(typing, starts, flat, block, j, l):
    """block <- the square tile whose first entry is block[j, l], which is flat[starts[l] + j]."""
    signature = types.void(starts, flat, block, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        outside, inside = (_rows(context, builder, signature, arguments, i, arguments[3:]) for i in (0, 2))
        width, vector = flat.dtype.bitwidth // 8, _row_type(context, flat)
        rows = [abi.load(builder, outside(i), vector, align=width) for i in range(64 // width)]
        for i, row in enumerate(_transposed(builder, rows)):
            abi.store(builder, row, inside(i), align=width)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _unpack_tile(typing, block, starts, flat, other_starts, other, j, l):
    """The inverse of `_pack_tile`; other[other_starts[l] + j] is added, unless it is None."""
    signature = types.void(block, starts, flat, other_starts, other, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        inside, outside = (_rows(context, builder, signature, arguments, i, arguments[5:]) for i in (0, 1))
        width, vector = flat.dtype.bitwidth // 8, _row_type(context, flat)
        rows = _transposed(builder, [abi.load(builder, inside(i), vector, align=width) for i in range(64 // width)])
        if isinstance(other, types.Array):
            more = _rows(context, builder, signature, arguments, 3, arguments[5:])
            rows = [builder.fadd(row, abi.load(builder, more(i), vector, align=width)) for i, row in enumerate(rows)]
        for i, row in enumerate(rows):
            abi.store(builder, row, outside(i), align=width)
        return context.get_dummy_value()

    return signature, codegen


def _transposed(builder, rows):
    """The transpose of a square of vectors, by exchanging halves, quarters, ...: n log n shuffles."""
    n = len(rows)

    def shuffle(x, y, mask):
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), n), mask))

    step = n // 2
    while step:
        for i in range(n):
            if not i & step:
                x, y = rows[i], rows[i + step]
                rows[i] = shuffle(x, y, [n + l - step if l & step else l for l in range(n)])
                rows[i + step] = shuffle(x, y, [n + l if l & step else l + step for l in range(n)])
        step //= 2
    return rows


@kernel
def pack(flat, starts, block):
    """block[j, l] = flat[starts[l] + j]: flat a vector, starts (LANES,), block (n, LANES)."""
    n = len(block)
    side = 64 // flat.itemsize
    for l in range(0, LANES, side):
        if n < side:
            for i in range(l, l + side):
                for j in range(n):
                    block[j, i] = flat[starts[i] + j]
        for j in range(0, n if n >= side else 0, side):
            _pack_tile(starts, flat, block, min(j, n - side), l)  # the last tile overlaps its neighbour


@kernel
def unpack(block, starts, flat):
    """flat[starts[l] + j] = block[j, l]. Lanes with the same start must hold the same numbers."""
    n = len(block)
    side = 64 // flat.itemsize
    for l in range(0, LANES, side):
        if n < side:
            for i in range(l, l + side):
                for j in range(n):
                    flat[starts[i] + j] = block[j, i]
        for j in range(0, n if n >= side else 0, side):
            _unpack_tile(block, starts, flat, None, None, min(j, n - side), l)


@kernel
def unpack_sums(block, starts, flat, other_starts, other):
    """flat[starts[l] + j] = block[j, l] + other[other_starts[l] + j], as `unpack`; other is not flat."""
    n = len(block)
    side = 64 // flat.itemsize
    for l in range(0, LANES, side):
        if n < side:
            for i in range(l, l + side):
                for j in range(n):
                    flat[starts[i] + j] = block[j, i] + other[other_starts[i] + j]
        for j in range(0, n if n >= side else 0, side):
            _unpack_tile(block, starts, flat, other_starts, other, min(j, n - side), l)


@kernel
def pack_systems(arrays, owners, starts, block):
    """block[k, j, l] = arrays[owners[l], k, j]: arrays (F, M, N), owners (LANES,), block (M, N, LANES), starts scratch."""
    _, M, N = arrays.shape
    flat, block = borrowed(arrays).reshape(-1), borrowed(block)
    for k in range(M):
        for l in range(LANES):
            starts[l] = (owners[l] * M + k) * N
        pack(flat, starts, block[k])


@kernel
def unpack_systems(block, owners, starts, arrays):
    """arrays[owners[l], k, j] = block[k, j, l], the inverse of `pack_systems`."""
    _, M, N = arrays.shape
    flat, block = borrowed(arrays).reshape(-1), borrowed(block)
    for k in range(M):
        for l in range(LANES):
            starts[l] = (owners[l] * M + k) * N
        unpack(block[k], starts, flat)


@kernel
def neighbours(first, n, owners):
    """owners[l] = first + l for l < n; the lanes that are left repeat the last system."""
    for l in range(LANES):
        owners[l] = first + min(l, n - 1)
