"""C = A B + s where much of A is zero, as it is of images: only what is not zero takes part.

Which numbers of A are not zero is written down in bits. Their places are read off the bits eight at a time, by a table and
without a branch. A row of C stays in registers while the rows of B at those places pass, which lie packed in the first-level
cache, as many as a word has bits. Numbers are summed in the order of k, as in `_products`, and skipping zeros keeps the sum:
C has the same bits, so every share may choose either method. Only a non-finite entry of B that meets nothing but
zeros has no effect here.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._products import BYTES, copy, first_lanes, load, spread_over, store, vector_of
from gvae.runtime import abi

MOST = 1 / 3  # the share of A that may be nonzero: with more, a dense product may take less time
VECTORS = 8  # vectors of a row of C at a time: enough for the adders, while few columns still fill them
WORD = 64  # bits
PLACES = np.array([[j for j in range(8) if byte >> j & 1] + [0] * (8 - byte.bit_count()) for byte in range(256)], np.uint8)


@intrinsic
def differs(typingctx, a, at, numbers, x):
    """The bits j for which a[at + j] is not x, j < numbers; a vector holds no more. A NaN equals nothing."""

    def codegen(context, builder, sig, args):
        vector, n = vector_of(sig.args[0])
        mask = first_lanes(builder, vector, args[2])
        here = load(builder, abi.element(context, builder, sig.args[0], args[0], args[1]), vector, mask)
        bits = builder.and_(mask, builder.fcmp_unordered("!=", here, spread_over(builder, vector, args[3])))
        return builder.zext(builder.bitcast(bits, ir.IntType(n)), ir.IntType(WORD))

    return types.uint64(a, types.intp, types.intp, a.dtype), codegen


@intrinsic
def ones(typingctx, word):
    """How many bits are set."""
    return types.intp(types.uint64), lambda context, builder, sig, args: builder.ctpop(args[0])


@intrinsic
def list_bits(typingctx, word, table, places):
    """places[0], places[1], ... = the bits that are set, upwards. Returns how many are; what follows them is arbitrary, and
    has room for eight.

    table : PLACES
    """

    def codegen(context, builder, sig, args):
        word, t = args[0], ir.Constant(context.get_value_type(types.intp), 0)
        bytes_, numbers = ir.VectorType(ir.IntType(8), 8), ir.VectorType(ir.IntType(32), 8)
        data, to = (abi.start_of(context, builder, sig.args[i], args[i]) for i in (1, 2))
        for first in range(0, WORD, 8):
            byte = builder.and_(builder.lshr(word, word.type(first)), word.type(255))
            steps = builder.zext(abi.load(builder, abi.offset(builder, data, bytes_, byte), bytes_, align=8), numbers)
            steps = builder.add(steps, ir.Constant(numbers, [first] * 8))
            abi.store(builder, steps, abi.offset(builder, to, numbers.element, t), align=4)
            t = builder.add(t, builder.ctpop(byte))
        return t

    return types.intp(types.uint64, table, places), codegen


@intrinsic(prefer_literal=True)
def gather(typingctx, places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, vectors):
    """c[c0 + j] = start[s0 + j] + sum_k a[a0 + k a_k] b[b0 + k b_k + j] over k = places[0], ..., `count` of them, for
    `columns` columns, which need exactly `vectors` vectors."""

    def codegen(context, builder, sig, args):
        nv = sig.args[13].literal_value
        vector, n = vector_of(sig.args[2])
        int_ = args[1].type
        masks = [*[None] * (nv - 1), first_lanes(builder, vector, builder.sub(args[12], int_((nv - 1) * n)))]

        def part(array, at, j):
            return abi.element(context, builder, sig.args[array], args[array], builder.add(at, int_(j * n)))

        def number(array, at):
            kind = context.get_data_type(sig.args[array].dtype)
            return abi.load(builder, abi.element(context, builder, sig.args[array], args[array], at), kind)

        first = [load(builder, part(8, args[9], j), vector, masks[j]) for j in range(nv)]
        before = builder.block
        head, body, after = (builder.append_basic_block(f"sparse.{name}") for name in ("t", "row", "end"))
        builder.branch(head)

        builder.position_at_end(head)
        t = builder.phi(int_)
        t.add_incoming(int_(0), before)
        sums = [builder.phi(vector) for _ in range(nv)]
        for total, value in zip(sums, first, strict=True):
            total.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", t, args[1]), body, after)

        builder.position_at_end(body)
        k = builder.sext(number(0, t), int_)
        x = spread_over(builder, vector, number(2, builder.add(args[3], builder.mul(k, args[4]))))
        row = builder.add(args[6], builder.mul(k, args[7]))
        for j, total in enumerate(sums):
            product = builder.fmul(x, load(builder, part(5, row, j), vector, masks[j]), flags=("contract",))
            total.add_incoming(builder.fadd(total, product, flags=("contract",)), body)
        t.add_incoming(builder.add(t, int_(1)), body)
        builder.branch(head)

        builder.position_at_end(after)
        for j in range(nv):
            store(builder, sums[j], part(10, args[11], j), masks[j])
        return context.get_dummy_value()

    i = types.intp
    return types.void(places, i, a, i, i, b, i, i, start, i, c, i, i, vectors), codegen


@kernel(inner=True)
def gather_of(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, vectors):
    """`gather` for the numbers of vectors that there are."""
    if vectors == 1:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 1)
    elif vectors == 2:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 2)
    elif vectors == 3:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 3)
    elif vectors == 4:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 4)
    elif vectors == 5:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 5)
    elif vectors == 6:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 6)
    elif vectors == 7:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 7)
    else:
        gather(places, count, a, a0, a_k, b, b0, b_k, start, s0, c, c0, columns, 8)


@register_jitable
def words(length):
    """How many words hold `length` bits."""
    return -(-length // WORD)


@kernel
def nonzero_bits(a, apart, lines, length):
    """(whether at most MOST of a[i apart + j], i < lines, j < length, is not zero; whether that is ones; the bits: lines of
    words). It stops at a line after which the share is clearly above MOST; for an empty A, the first is False."""
    n, seen, others = BYTES // a.itemsize, 0, np.uint64(0)
    zero, one = a.dtype.type(0), a.dtype.type(1)
    bits = np.empty(lines * words(length), np.uint64)
    for i in range(lines):
        for w in range(words(length)):
            word = np.uint64(0)
            for j in range(w * WORD, min(w * WORD + WORD, length), n):
                at, some = i * apart + j, min(n, length - j)
                nonzero = differs(a, at, some, zero)
                others |= nonzero & differs(a, at, some, one)
                word |= nonzero << np.uint64(j % WORD)
            bits[i * words(length) + w] = word
            seen += ones(word)
        if seen > MOST * (i + 2) * length:
            return False, False, bits
    return lines * length > 0 and seen <= MOST * lines * length, others == 0, bits


@register_jitable
def turn_bits(square):
    """Bit j of word i changes places with bit i of word j: blocks of d x d across the diagonal of blocks of 2d x 2d."""
    d, mask = 32, np.uint64(0xFFFFFFFF)
    while d > 0:
        shift = np.uint64(d)
        for first in range(0, WORD, 2 * d):
            for i in range(first, first + d):
                x = ((square[i] >> shift) ^ square[i + d]) & mask
                square[i] ^= x << shift
                square[i + d] ^= x
        d //= 2
        mask ^= mask << np.uint64(d)


@register_jitable
def load_bits(bits, transposed, rows, depth, i, k0, square):
    """square <- the bits of WORD rows of A from i on, of k from k0 on; bits are those of A, or of its transpose."""
    for j in range(WORD):
        square[j] = 0
    if transposed:
        for j in range(min(WORD, depth - k0)):
            square[j] = bits[(k0 + j) * words(rows) + i // WORD]
        turn_bits(square)
    else:
        for j in range(min(WORD, rows - i)):
            square[j] = bits[(i + j) * words(depth) + k0 // WORD]


@kernel
def sparse_part(bits, transposed, binary, a, a_row, a_k, b, b_k, start, part, c, c_row, depth, rows, columns):
    """`product_part`, with the same bits, of the first `rows` rows of A and of a B of contiguous rows.

    bits, binary : `nonzero_bits` of A or, if transposed, of its transpose; the strides of A do not tell: it may be one row
    """
    b, bits = borrowed(b), borrowed(bits)
    x, x_row, x_k = borrowed(a), a_row, a_k
    if binary:  # one number is all of A, whose own may lie far away
        x, x_row, x_k = np.ones(1, c.dtype), 0, 0
    n, wide = BYTES // c.itemsize, columns[1] - columns[0]
    vectors = -(-wide // n)
    turns = -(-vectors // VECTORS)
    panel = np.empty((WORD + 1) * vectors * n, c.dtype)  # WORD rows of B, from a vector's own place in a line on
    p0, p_row = -panel.ctypes.data % BYTES // c.itemsize, vectors * n
    places, square = np.empty(WORD + 8, np.int32), np.empty(WORD, np.uint64)
    for k0 in range(0, depth, WORD):
        first = part == 0 and k0 == 0
        for k in range(min(WORD, depth - k0)):
            for j in range(0, wide, n):
                copy(b, (k0 + k) * b_k + columns[0] + j, panel, p0 + k * p_row + j, wide - j, 1)
        for i in range(rows):
            if i % WORD == 0:
                load_bits(bits, transposed, rows, depth, i, k0, square)
            if square[i % WORD] == 0 and not first:
                continue
            t = list_bits(square[i % WORD], PLACES, places)
            x0 = i * x_row + k0 * x_k
            for turn in range(turns):
                v, last = turn * vectors // turns, (turn + 1) * vectors // turns
                j = columns[0] + v * n
                s, s0 = (start, j) if first else (c, i * c_row + j)
                some = min(last * n, wide) - v * n
                gather_of(places, t, x, x0, x_k, panel, p0 + v * n, p_row, s, s0, c, i * c_row + j, some, last - v)
