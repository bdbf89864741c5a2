"""C = A B + s for the sizes of small networks, compiled into the kernel that calls it.

A BLAS packs both factors and gives C back before anything can be done with it, which costs most where a batch has a hundred
rows and the optimiser has just written the weights. Here panels of B are packed, one or two vectors wide, and the loop over
k keeps a tile of C in registers. Every number of C is summed in the order of k, in parts of DEPTH, whatever part of C a call
is for: how C is shared among threads does not show in its bits.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._lanes import borrowed
from gvae.runtime import abi

BYTES = 64 if abi.has_feature("avx512f") else 32 if abi.has_feature("avx") else 16  # the size of a vector register
ROWS = 12 if BYTES != 32 else 6  # rows of a tile, two vectors wide: 24 of 32 registers, or 12 of 16
TALL = 13 if BYTES != 32 else 6  # rows of a tile where that leaves none over: 26 registers
DEPTH, WIDTH = 512, 256  # the size of the part of B that is packed at a time, half a megabyte: a second-level cache holds it
CHUNK = 8 * TALL  # rows of A that take part at a time
ALIGN = 4  # bytes: vectors are loaded and stored wherever a number may lie


def vector_of(array_type):
    """(LLVM's type of a vector of the array's numbers, how many it holds)"""
    scalar = ir.FloatType() if array_type.dtype == types.float32 else ir.DoubleType()
    n = BYTES // (array_type.dtype.bitwidth // 8)
    return ir.VectorType(scalar, n), n


def spread_over(builder, vector, x):
    """The vector whose numbers are all x."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


def first_lanes(builder, vector, count):
    """The mask of the first `count` lanes, for the edge of a matrix: what lies beyond it is not the matrix's memory."""
    words = ir.VectorType(count.type, vector.count)
    return builder.icmp_signed("<", ir.Constant(words, list(range(vector.count))), spread_over(builder, words, count))


def load(builder, pointer, vector, mask=None):
    """The vector there, with zeros outside the mask."""
    if mask is None:
        return abi.load(builder, pointer, vector, align=ALIGN)
    return abi.load_masked(builder, pointer, vector, mask, align=ALIGN)


def store(builder, value, pointer, mask=None):
    """Store the vector there, within the mask."""
    if mask is None:
        abi.store(builder, value, pointer, align=ALIGN)
    else:
        abi.store_masked(builder, value, pointer, mask, align=ALIGN)


@intrinsic(prefer_literal=True)
def tile(typingctx, a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, rows, vectors):
    """C[i, j] = S[i, j] + sum_k A[i, k] B[k, j] for i < rows, j < columns, which need exactly `vectors` vectors.

    a, b, start, c : flat arrays; A[i, k] = a[a0 + i a_row + k a_k]; B is contiguous from b0 on, its rows whole vectors; rows
    of S and of C are s_row and c_row apart, from s0 and c0 on
    """

    def codegen(context, builder, sig, args):
        m, nv = sig.args[14].literal_value, sig.args[15].literal_value
        vector, n = vector_of(sig.args[0])
        int_ = args[1].type
        masks = [*[None] * (nv - 1), first_lanes(builder, vector, builder.sub(args[13], int_((nv - 1) * n)))]

        def part(array, i, j):
            """The j-th vector of row i of S or C: its arguments are (array, first, row) from this one on."""
            at = builder.add(args[array + 1], builder.add(builder.mul(int_(i), args[array + 2]), int_(j * n)))
            return abi.element(context, builder, sig.args[array], args[array], at)

        tiles = [(i, j) for i in range(m) for j in range(nv)]
        first = [load(builder, part(7, i, j), vector, masks[j]) for i, j in tiles]
        before = builder.block
        head, body, after = (builder.append_basic_block(f"products.{name}") for name in ("k", "tile", "end"))
        builder.branch(head)

        builder.position_at_end(head)
        k = builder.phi(int_)
        k.add_incoming(int_(0), before)
        sums = {}
        for tile, value in zip(tiles, first, strict=True):
            sums[tile] = builder.phi(vector)
            sums[tile].add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", k, args[4]), body, after)

        builder.position_at_end(body)
        b_at = builder.add(args[6], builder.mul(k, int_(nv * n)))
        a_at = builder.add(args[1], builder.mul(k, args[3]))
        columns = [
            load(builder, abi.element(context, builder, sig.args[5], args[5], builder.add(b_at, int_(j * n))), vector)
            for j in range(nv)
        ]
        a_start = abi.start_of(context, builder, sig.args[0], args[0])
        for i in range(m):
            at = abi.offset(builder, a_start, vector.element, builder.add(a_at, builder.mul(int_(i), args[2])))
            x = spread_over(builder, vector, abi.load(builder, at, vector.element))
            for j in range(nv):
                product = builder.fmul(x, columns[j], flags=("contract",))
                sums[i, j].add_incoming(builder.fadd(sums[i, j], product, flags=("contract",)), body)
        k.add_incoming(builder.add(k, int_(1)), body)
        builder.branch(head)

        builder.position_at_end(after)
        for i, j in tiles:
            store(builder, sums[i, j], part(10, i, j), masks[j])
        return context.get_dummy_value()

    i = types.intp
    return types.void(a, i, i, i, i, b, i, start, i, i, c, i, i, i, rows, vectors), codegen


@intrinsic
def transpose(typingctx, b, b0, b_row, rows, packed, p0, p_row):
    """packed[p0 + k p_row + j] = b[b0 + j b_row + k] for a square block, j and k below the length of a vector; b has
    `rows` rows, the last of which replaces those that are missing."""

    def codegen(context, builder, sig, args):
        vector, n = vector_of(sig.args[0])

        def line(array, i, first, row):
            at = builder.add(args[first], builder.mul(i, args[row]))
            return abi.element(context, builder, sig.args[array], args[array], at)

        def there(j):
            j, last = args[3].type(j), builder.sub(args[3], args[3].type(1))
            return builder.select(builder.icmp_signed("<", j, last), j, last)

        def shuffled(x, y, places):
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), n), places))

        v = [load(builder, line(0, there(j), 1, 2), vector) for j in range(n)]
        d = n // 2
        while d:  # blocks of d x d change places across the diagonal of blocks of 2d x 2d
            for i in (i for i in range(n) if not i & d):
                x, y = v[i], v[i + d]
                v[i] = shuffled(x, y, [k if not k & d else n + k - d for k in range(n)])
                v[i + d] = shuffled(x, y, [k + d if not k & d else n + k for k in range(n)])
            d //= 2
        for k in range(n):
            store(builder, v[k], line(4, args[5].type(k), 5, 6))
        return context.get_dummy_value()

    return types.void(b, types.intp, types.intp, types.intp, packed, types.intp, types.intp), codegen


@intrinsic(prefer_literal=True)
def copy(typingctx, a, a0, b, b0, numbers, vectors):
    """b[b0 + i] = a[a0 + i] for i < numbers, and 0 from there to the end of `vectors` vectors."""

    def codegen(context, builder, sig, args):
        vector, n = vector_of(sig.args[0])
        for j in range(sig.args[5].literal_value):
            at = builder.add(args[1], args[1].type(j * n)), builder.add(args[3], args[3].type(j * n))
            source, to = (abi.element(context, builder, sig.args[i], args[i], at[i // 2]) for i in (0, 2))
            mask = first_lanes(builder, vector, builder.sub(args[4], args[4].type(j * n)))
            store(builder, load(builder, source, vector, mask), to)
        return context.get_dummy_value()

    return types.void(a, types.intp, b, types.intp, types.intp, vectors), codegen


@kernel(inner=True)
def tile_of(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, rows, vectors):
    """`tile` for the numbers of rows and vectors that there are."""
    if vectors == 2:
        if rows == TALL:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, TALL, 2)
        elif rows == ROWS:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, ROWS, 2)
        elif rows == 8:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, 8, 2)
        elif rows == 4:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, 4, 2)
        else:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, 1, 2)
    else:
        if rows == TALL:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, TALL, 1)
        elif rows == ROWS:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, ROWS, 1)
        elif rows == 8:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, 8, 1)
        elif rows == 4:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, 4, 1)
        else:
            tile(a, a0, a_row, a_k, K, b, b0, start, s0, s_row, c, c0, c_row, columns, 1, 1)


@register_jitable
def height(rows):
    """The height of the first tile of that many rows: all tiles have ROWS or TALL where that is possible."""
    tiles = -(-rows // TALL)
    if ROWS * tiles <= rows:
        return TALL if rows > ROWS * tiles else ROWS
    return ROWS if rows >= ROWS else 8 if ROWS > 8 and rows >= 8 else 4 if rows >= 4 else 1


@kernel(inner=True)
def pack(b, b0, b_k, b_n, K, columns, packed, p0, width):
    """packed[p0 + k width + j] = b[b0 + k b_k + j b_n]; b_k or b_n is one. For columns <= j < width there is any number."""
    n = BYTES // packed.itemsize
    if b_n == 1:
        for k in range(K):
            if width == 2 * n:
                copy(b, b0 + k * b_k, packed, p0 + k * width, columns, 2)
            else:
                copy(b, b0 + k * b_k, packed, p0 + k * width, columns, 1)
    elif n <= K:
        for j in range(0, columns, n):
            for k in range(0, K, n):
                k0 = min(k, K - n)  # the last block overlaps its neighbour
                transpose(b, b0 + j * b_n + k0, b_n, columns - j, packed, p0 + k0 * width + j, width)
    else:
        for k in range(K):
            for j in range(columns):
                packed[p0 + k * width + j] = b[b0 + k + j * b_n]


@register_jitable
def parts(K):
    """In how many parts of at most DEPTH a sum over K is taken; part i is i K // parts <= k < (i + 1) K // parts."""
    return max(1, -(-K // DEPTH))


@kernel(inner=True)
def breadth(columns, c):
    """How many columns the panels for these columns of C have."""
    n = BYTES // c.itemsize
    return -(-(columns[1] - columns[0]) // n) * n


@kernel(inner=True)
def pack_panels(b, b_k, b_n, depth, columns, packed):
    """packed <- B[:depth, columns] in panels two vectors wide; the last may have one."""
    n = BYTES // packed.itemsize
    first, last = columns
    for n0 in range(first, last, 2 * n):
        some = min(2 * n, last - n0)
        pack(b, n0 * b_n, b_k, b_n, depth, some, packed, (n0 - first) * depth, n if some <= n else 2 * n)


@kernel(inner=True)
def multiply_panels(a, a_row, a_k, packed, depth, s, s_row, c, c_row, rows, columns):
    """C = A B + S for some rows and columns, where B[:depth, columns] is packed; S may be C, or have one row (s_row = 0)."""
    n = BYTES // c.itemsize
    first, last = columns
    strips = np.empty(CHUNK * depth + n if a_row == 1 else 0, c.dtype)
    top = rows[0]
    while top < rows[1]:
        bottom = top
        while bottom < rows[1] and bottom + height(rows[1] - bottom) <= top + CHUNK:
            m = height(rows[1] - bottom)
            if a_row == 1 and m >= ROWS:  # numbers of one k side by side, instead of a new page for every k
                for k in range(depth):  # upwards: each one's zeros lie where the next one goes
                    for j in range(0, m, n):
                        copy(a, bottom + j + k * a_k, strips, (bottom - top) * depth + j + k * m, m - j, 1)
            bottom += m
        for n0 in range(first, last, 2 * n):
            some, p0 = min(2 * n, last - n0), (n0 - first) * depth
            i = top
            while i < bottom:
                m = height(rows[1] - i)
                x, x0, x_row, x_k = a, i * a_row, a_row, a_k
                if a_row == 1 and m >= ROWS:
                    x, x0, x_row, x_k = strips, (i - top) * depth, 1, m
                s0, c0, vectors = i * s_row + n0, i * c_row + n0, 1 if some <= n else 2
                tile_of(x, x0, x_row, x_k, depth, packed, p0, s, s0, s_row, c, c0, c_row, some, m, vectors)
                i += m
        top = bottom


@kernel
def product_part(a, a_row, a_k, b, b_k, b_n, start, part, c, c_row, depth, rows, columns):
    """What part number `part` adds to a `product`, A and B beginning with it; the first one begins with `start`."""
    a, b = borrowed(a), borrowed(b)
    s, s_row = (start, 0) if part == 0 else (c, c_row)
    packed = np.empty(breadth((0, min(WIDTH, columns[1] - columns[0])), c) * depth, c.dtype)
    for first in range(columns[0], columns[1], WIDTH):
        some = first, min(first + WIDTH, columns[1])
        pack_panels(b, b_k, b_n, depth, some, packed)
        multiply_panels(a, a_row, a_k, packed, depth, s, s_row, c, c_row, rows, some)


@kernel
def product(a, a_row, a_k, b, b_k, b_n, start, c, c_row, K, rows, columns):
    """C = A B + s for some rows and columns of C, s (1, columns) being the same for all rows.

    a, b, c : flat arrays; A[i, k] = a[i a_row + k a_k], B[k, n] = b[k b_k + n b_n], C[i, n] = c[i c_row + n]; one of A's
              strides is 1, and one of B's
    rows, columns : (first, one past the last)
    """
    for part in range(parts(K)):
        k0, k1 = part * K // parts(K), (part + 1) * K // parts(K)
        product_part(a[k0 * a_k :], a_row, a_k, b[k0 * b_k :], b_k, b_n, start, part, c, c_row, k1 - k0, rows, columns)


@kernel(inner=True)
def packed_whole(b, b_k, b_n, K, columns, c):
    """B as `product_of_packed` reads it, which several products then share."""
    b, wide = borrowed(b), breadth(columns, c)
    packed = np.empty(wide * K, c.dtype)
    for part in range(parts(K)):
        k0, k1 = part * K // parts(K), (part + 1) * K // parts(K)
        pack_panels(b[k0 * b_k :], b_k, b_n, k1 - k0, columns, packed[k0 * wide :])
    return packed


@kernel(inner=True)
def product_of_packed(a, a_row, a_k, packed, start, c, c_row, K, rows, columns):
    """`product`, with the same bits, for a B that `packed_whole` has packed."""
    a, packed, wide = borrowed(a), borrowed(packed), breadth(columns, c)
    for part in range(parts(K)):
        k0, k1 = part * K // parts(K), (part + 1) * K // parts(K)
        s, s_row = (start, 0) if part == 0 else (c, c_row)
        multiply_panels(a[k0 * a_k :], a_row, a_k, packed[k0 * wide :], k1 - k0, s, s_row, c, c_row, rows, columns)
