"""Poisson counts in CSR under rates z_b . w_d: of a row's D columns only those with a count are visited.

K samples of B rows: z (P, B, H), of which sample k uses z[z_of[k]], and w (F, D, H), of which it uses w[w_of[k]]. The system
r = k B + b is row b in sample k. Loops over the H units are written in vectors, since H may be as short as two of them. Long
sums are in float64 in both precisions.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import log
from gvae.kernels.cpu._products import BYTES, first_lanes, load, product, spread_over, store, vector_of
from gvae.runtime import abi

TOGETHER = 8  # columns whose rates are computed at once: as many sums as keep the adders busy
CHUNK = 512  # counts of a row whose rates are kept for the loop that takes logarithms; a multiple of TOGETHER
ROWS = 104  # rows that are worked on together, tiles of `product` without any left over
WIDTH = 256  # columns of a panel; at most CHUNK
PIECE = 64  # counts whose terms are added up in the working type
VECTORS = 8  # vectors of a sum of rows that are in registers at a time


def part_sums(builder, vectors):
    """The vector of the sums over each vector's numbers, in log2 steps for all of them together."""

    def pick(x, y, places):
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))

    length = vectors[0].type.count  # of each vector's numbers that still have to be added
    while length > 1:
        alone, half = len(vectors) == 1, length // 2
        pairs = [(vectors[0], vectors[0])] if alone else zip(vectors[::2], vectors[1::2], strict=True)
        lanes = range(vectors[0].type.count * (1 if alone else 2))
        low, high = [i for i in lanes if i % length < half], [i for i in lanes if i % length >= half]
        vectors = [builder.fadd(pick(x, y, low), pick(x, y, high), flags=("contract",)) for x, y in pairs]
        length = half
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [pick(x, y, list(range(2 * x.type.count))) for x, y in pairs]
    return vectors[0]


@intrinsic
def dots(typingctx, z, z0, n, w, w0, columns, t, last, rates, p):
    """rates[p + i] = z[z0:] . w[w0 + columns[t + i] n:], of n numbers, for i < TOGETHER; after `last` that of the last."""

    def codegen(context, builder, sig, args):
        vector, lanes = vector_of(sig.args[0])
        int_ = args[1].type

        def start(i):
            t = builder.add(args[6], int_(i))
            t = builder.select(builder.icmp_signed("<", t, args[7]), t, args[7])
            column = abi.load(builder, abi.element(context, builder, sig.args[5], args[5], t), int_)
            at = builder.add(args[4], builder.mul(column, args[2]))
            return abi.element(context, builder, sig.args[3], args[3], at)

        def step(j, mask, sums):
            x = load(builder, abi.offset(builder, z_start, vector.element, j), vector, mask)
            found = []
            for row, total in zip(rows, sums, strict=True):
                y = load(builder, abi.offset(builder, row, vector.element, j), vector, mask)
                found.append(builder.fadd(total, builder.fmul(x, y, flags=("contract",)), flags=("contract",)))
            return found

        z_start = abi.element(context, builder, sig.args[0], args[0], args[1])
        rows = [start(i) for i in range(TOGETHER)]
        full = builder.and_(args[2], int_(-lanes))
        before = builder.block
        head, body, after, edge, end = (builder.append_basic_block(f"dots.{x}") for x in ("j", "n", "after", "edge", "end"))
        builder.branch(head)

        builder.position_at_end(head)
        j = builder.phi(int_)
        j.add_incoming(int_(0), before)
        sums = [builder.phi(vector) for _ in rows]
        for total in sums:
            total.add_incoming(ir.Constant(vector, None), before)
        builder.cbranch(builder.icmp_signed("<", j, full), body, after)

        builder.position_at_end(body)
        for total, value in zip(sums, step(j, None, sums), strict=True):
            total.add_incoming(value, body)
        j.add_incoming(builder.add(j, int_(lanes)), body)
        builder.branch(head)

        builder.position_at_end(after)
        builder.cbranch(builder.icmp_signed("<", full, args[2]), edge, end)
        builder.position_at_end(edge)
        more = step(full, first_lanes(builder, vector, builder.sub(args[2], full)), sums)
        builder.branch(end)

        builder.position_at_end(end)
        found = [builder.phi(vector) for _ in rows]
        for total, whole, value in zip(found, sums, more, strict=True):
            total.add_incoming(whole, after)
            total.add_incoming(value, edge)
        store(builder, part_sums(builder, found), abi.element(context, builder, sig.args[8], args[8], args[9]))
        return context.get_dummy_value()

    i = types.intp
    return types.void(z, i, i, w, i, columns, i, i, rates, i), codegen


@intrinsic(prefer_literal=True)
def add_rows(typingctx, factor, count, rows, t, a, a0, n, j, stop, total, vectors):
    """total[i] += sum_u factor[u] a[a0 + rows[t + u] n + i] over u < count, j <= i < stop: exactly that many vectors."""

    def codegen(context, builder, sig, args):
        nv = sig.args[10].literal_value
        vector, lanes = vector_of(sig.args[4])
        wide = ir.VectorType(ir.DoubleType(), lanes)
        int_ = args[1].type
        edge = builder.sub(args[8], builder.add(args[7], int_((nv - 1) * lanes)))
        masks = [*[None] * (nv - 1), first_lanes(builder, vector, edge)]
        first = builder.add(args[5], args[7])
        before = builder.block
        head, body, after = (builder.append_basic_block(f"rows.{name}") for name in ("u", "row", "end"))
        builder.branch(head)

        builder.position_at_end(head)
        u = builder.phi(int_)
        u.add_incoming(int_(0), before)
        sums = [builder.phi(vector) for _ in range(nv)]
        for total in sums:
            total.add_incoming(ir.Constant(vector, None), before)
        builder.cbranch(builder.icmp_signed("<", u, args[1]), body, after)

        builder.position_at_end(body)
        x = abi.load(builder, abi.element(context, builder, sig.args[0], args[0], u), vector.element)
        x = spread_over(builder, vector, x)
        row = abi.load(builder, abi.element(context, builder, sig.args[2], args[2], builder.add(args[3], u)), int_)
        row = builder.add(first, builder.mul(row, args[6]))
        row = abi.element(context, builder, sig.args[4], args[4], row)
        for i, total in enumerate(sums):
            y = load(builder, abi.offset(builder, row, vector.element, int_(i * lanes)), vector, masks[i])
            product = builder.fmul(x, y, flags=("contract",))
            total.add_incoming(builder.fadd(total, product, flags=("contract",)), body)
        u.add_incoming(builder.add(u, int_(1)), body)
        builder.branch(head)

        builder.position_at_end(after)
        for i, total in enumerate(sums):
            at = abi.element(context, builder, sig.args[9], args[9], builder.add(args[7], int_(i * lanes)))
            value = total if vector.element == wide.element else builder.fpext(total, wide)
            store(builder, builder.fadd(load(builder, at, wide), value), at)
        return context.get_dummy_value()

    i = types.intp
    return types.void(factor, i, rows, i, a, i, i, i, i, total, vectors), codegen


@kernel(inner=True)
def add_row_vectors(factor, count, rows, t, a, a0, n, j, stop, total, vectors):
    """`add_rows` for the numbers of vectors that there are."""
    if vectors == 1:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 1)
    elif vectors == 2:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 2)
    elif vectors == 3:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 3)
    elif vectors == 4:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 4)
    elif vectors == 5:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 5)
    elif vectors == 6:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 6)
    elif vectors == 7:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 7)
    else:
        add_rows(factor, count, rows, t, a, a0, n, j, stop, total, 8)


@kernel(inner=True)
def add_piece(factor, count, rows, t, a, a0, n, total):
    """total[j] += sum_u factor[u] a[a0 + rows[t + u] n + j] over u < count, for j < n; total float64, (whole vectors,)."""
    lanes = BYTES // a.itemsize
    vectors = -(-n // lanes)
    turns = -(-vectors // VECTORS)
    for turn in range(turns):
        first, last = turn * vectors // turns, (turn + 1) * vectors // turns
        stop = min(n, last * lanes)
        add_row_vectors(factor, count, rows, t, a, a0, n, first * lanes, stop, total, last - first)


@kernel
def sums(scale, a, a_of, total, lo, hi):
    """total[k, j] = sum_i scale[k, i] a[a_of[k], i, j], of the entries lo <= k H + j < hi.

    scale (K, M), or (0, M) for ones; a (P, M, H); total (K, H).
    """
    wide_vectors()
    _, M, H = a.shape
    scaled = scale.shape[0] > 0
    scale, a, total = borrowed(scale), borrowed(a), borrowed(total)
    wide = np.empty(H, np.float64)
    for k in range(lo // max(H, 1), -(-hi // max(H, 1))):
        first, last = max(lo - k * H, 0), min(hi - k * H, H)
        sums = wide[first:last]
        for j in range(len(sums)):
            sums[j] = 0.0
        for i in range(M):
            s, row = np.float64(scale[k, i]) if scaled else 1.0, a[a_of[k], i, first:last]
            for j in range(len(sums)):
                sums[j] += s * np.float64(row[j])
        for j in range(len(sums)):
            total[k, first + j] = sums[j]


@kernel(inner=True)
def is_full(counts, rows, columns):
    """Whether rates of all columns are computed, in panels, since most are wanted: their product reads w less often."""
    return 4 * counts > 3 * rows * columns


@kernel(inner=True)
def clear(total):
    """total = 0."""
    for j in range(len(total)):
        total[j] = 0


@kernel(inner=True)
def place_of(columns, first, last, stop):
    """The place in columns[first:last], which ascend, of the first that is not below `stop`."""
    while first < last:
        middle = (first + last) // 2
        if columns[middle] < stop:
            first = middle + 1
        else:
            last = middle
    return first


@kernel(inner=True)
def add_logs(values, rates, top, end):
    """sum_t x_t log(rate_t) over top <= t < end, whose rates lie from the beginning on; 0 log 0 is 0."""
    zero, total = values.dtype.type(0), 0.0
    x = values[top:end]
    for t in range(len(x)):
        total += np.float64(x[t]) * log(np.float64(rates[t])) if x[t] != zero else 0.0
    return total


@kernel(inner=True)
def keep(values, rates, ratio, top, end):
    """ratio[t] = x_t / rate_t for top <= t < end, as `add_logs`; 0 / 0 is 0."""
    zero = values.dtype.type(0)
    x, y = values[top:end], ratio[top:end]
    for t in range(len(x)):
        y[t] = x[t] / rates[t] if x[t] != zero else zero


@kernel(inner=True)
def add_product(panel, depth, a, a0, H, zeros, part, wide):
    """wide[i, j] += sum_u panel[i, u] a[a0 + u H + j] over u < depth; part (rows, H): scratch."""
    rows = len(part)
    product(panel, WIDTH, 1, a[a0:], H, 1, zeros, part.reshape(-1), H, depth, (0, rows), (0, H))
    for i in range(rows):
        total, more = wide[i], part[i]
        for j in range(H):
            total[j] += np.float64(more[j])


@kernel
def poisson(values, columns, pointers, constants, z, z_of, w, w_of, total, log_prob, ratio, lo, hi):
    """log_prob[k, b] = sum_t x_t log(z_b . w_d(t)) - z_b . (sum_d w_d) - constants_b over the counts t of row b.

    values, columns (E,), pointers (B + 1,): CSR with sorted columns; constants (B,): sum_t log x_t!; total (F, H):
    sum_d w_d; ratio (K, E), or (0, E) if not wanted: x_t / (z_b . w_d(t)). A count of 0 has the term 0 whatever its rate.
    """
    wide_vectors()
    _, B, H = z.shape
    D = w.shape[1]
    wanted, full = ratio.shape[0] > 0, is_full(len(values), B, D)
    values, columns, ratio, total = borrowed(values), borrowed(columns), borrowed(ratio), borrowed(total)
    z, w, log_prob = borrowed(z).reshape(-1), borrowed(w).reshape(-1), borrowed(log_prob)
    some, wide = np.empty(CHUNK, z.dtype), np.empty(ROWS, np.float64)
    panel, zeros, at = np.empty(ROWS * WIDTH if full else 0, z.dtype), np.zeros(WIDTH, z.dtype), np.empty(ROWS, np.int64)
    for k in range(lo // max(B, 1), -(-hi // max(B, 1))):
        first, last = max(lo - k * B, 0), min(hi - k * B, B)
        w0, sums = w_of[k] * D * H, total[w_of[k]]
        for top in range(first, last, ROWS):
            end = min(top + ROWS, last)
            for b in range(top, end):
                row, value = z[(z_of[k] * B + b) * H : (z_of[k] * B + b + 1) * H], -np.float64(constants[b])
                for j in range(H):
                    value -= np.float64(row[j]) * np.float64(sums[j])
                wide[b - top], at[b - top] = value, pointers[b]
            if full:
                for d in range(0, D, WIDTH):
                    stop = min(d + WIDTH, D)
                    left, right = z[(z_of[k] * B + top) * H :], w[w0 + d * H :]
                    product(left, H, 1, right, 1, H, zeros, panel, WIDTH, H, (0, end - top), (0, stop - d))
                    for b in range(top, end):
                        t0, rates = at[b - top], panel[(b - top) * WIDTH : (b - top + 1) * WIDTH]
                        t1 = place_of(columns, t0, pointers[b + 1], stop)
                        there = columns[t0:t1]
                        for t in range(len(there)):
                            some[t] = rates[np.uint64(there[t] - d)]
                        wide[b - top] += add_logs(values, some, t0, t1)
                        if wanted:
                            keep(values, some, ratio[k], t0, t1)
                        at[b - top] = t1
            else:
                for b in range(top, end):
                    for t0 in range(pointers[b], pointers[b + 1], CHUNK):
                        t1 = min(t0 + CHUNK, pointers[b + 1])
                        for t in range(t0, t1, TOGETHER):
                            dots(z, (z_of[k] * B + b) * H, H, w, w0, columns, t, t1 - 1, some, t - t0)
                        wide[b - top] += add_logs(values, some, t0, t1)
                        if wanted:
                            keep(values, some, ratio[k], t0, t1)
            for b in range(top, end):
                log_prob[k, b] = wide[b - top]


@kernel
def poisson_vjp(log_prob_bar, columns, pointers, ratio, w, w_of, total, samples, z_bar, lo, hi):
    """z_bar[p, b] = sum_k s_kb (sum_t ratio_kt w_d(t) - sum_d w_d) over k = samples[p, 0], ...: those that use z[p].

    log_prob_bar (K, B): s; samples (P, S); z_bar (P, B, H); the rest as for `poisson`. The systems are p B + b.
    """
    wide_vectors()
    _, B, H = z_bar.shape
    D, full = w.shape[1], is_full(len(columns), B, w.shape[1])
    log_prob_bar, columns, ratio = borrowed(log_prob_bar), borrowed(columns), borrowed(ratio)
    w, total, z_bar = borrowed(w).reshape(-1), borrowed(total), borrowed(z_bar)
    lanes = BYTES // w.itemsize
    wide, factor = np.empty((ROWS, -(-H // lanes) * lanes), np.float64), np.empty(PIECE, w.dtype)
    panel, zeros, at = np.empty(ROWS * WIDTH if full else 0, w.dtype), np.zeros(H, w.dtype), np.empty(ROWS, np.int64)
    part = np.empty((ROWS if full else 0, H), w.dtype)
    for p in range(lo // max(B, 1), -(-hi // max(B, 1))):
        first, last = max(lo - p * B, 0), min(hi - p * B, B)
        for top in range(first, last, ROWS):
            end = min(top + ROWS, last)
            for i in range(end - top):
                clear(wide[i])
            for k in samples[p]:
                w0, of_all = w_of[k] * D * H, total[w_of[k]]
                for b in range(top, end):
                    s, sums = np.float64(log_prob_bar[k, b]), wide[b - top]
                    for j in range(H):
                        sums[j] -= s * np.float64(of_all[j])
                    at[b - top] = pointers[b]
                if full:
                    for d in range(0, D, WIDTH):
                        stop = min(d + WIDTH, D)
                        for b in range(top, end):
                            t0, s, row = at[b - top], log_prob_bar[k, b], panel[(b - top) * WIDTH : (b - top + 1) * WIDTH]
                            clear(row)
                            t1 = place_of(columns, t0, pointers[b + 1], stop)
                            x, there = ratio[k, t0:t1], columns[t0:t1]
                            for t in range(len(x)):
                                row[np.uint64(there[t] - d)] = s * x[t]
                            at[b - top] = t1
                        add_product(panel, stop - d, w, w0 + d * H, H, zeros, part[: end - top], wide)
                else:
                    for b in range(top, end):
                        s = log_prob_bar[k, b]
                        for t0 in range(pointers[b], pointers[b + 1], PIECE):
                            t1 = min(t0 + PIECE, pointers[b + 1])
                            x = ratio[k, t0:t1]
                            for t in range(len(x)):
                                factor[t] = s * x[t]
                            add_piece(factor, t1 - t0, columns, t0, w, w0, H, wide[b - top])
            for b in range(top, end):
                row, sums = z_bar[p, b], wide[b - top]
                for j in range(H):
                    row[j] = sums[j]


@kernel
def poisson_weight_vjp(log_prob_bar, rows, pointers, places, ratio, z, z_of, total, samples, w_bar, lo, hi):
    """w_bar[f, d] = sum_k sum_t s_kb(t) ratio_kt z_b(t) - total[f] over the counts t of column d, k = samples[f, 0], ...

    rows, places (E,), pointers (D + 1,): the counts column by column, each with its row and its place in `ratio`;
    total (F, H): sum_k sum_b s_kb z_b; samples (F, S): those that use w[f]; w_bar (F, D, H). The systems are f D + d.
    """
    wide_vectors()
    B, (_, D, H) = z.shape[1], w_bar.shape
    full = is_full(len(rows), B, D)
    log_prob_bar, rows, places, ratio = borrowed(log_prob_bar), borrowed(rows), borrowed(places), borrowed(ratio)
    z, total, w_bar = borrowed(z).reshape(-1), borrowed(total), borrowed(w_bar)
    lanes = BYTES // z.itemsize
    wide, factor = np.empty((ROWS, -(-H // lanes) * lanes), np.float64), np.empty(PIECE, z.dtype)
    panel, zeros, at = np.empty(ROWS * WIDTH if full else 0, z.dtype), np.zeros(H, z.dtype), np.empty(ROWS, np.int64)
    part = np.empty((ROWS if full else 0, H), z.dtype)
    for f in range(lo // max(D, 1), -(-hi // max(D, 1))):
        first, last = max(lo - f * D, 0), min(hi - f * D, D)
        for top in range(first, last, ROWS):
            end = min(top + ROWS, last)
            for i in range(end - top):
                clear(wide[i])
            for k in samples[f]:
                s, x, z0 = log_prob_bar[k], ratio[k], z_of[k] * B * H
                for d in range(top, end):
                    at[d - top] = pointers[d]
                if full:
                    for b in range(0, B, WIDTH):
                        stop = min(b + WIDTH, B)
                        for d in range(top, end):
                            t0, column = at[d - top], panel[(d - top) * WIDTH : (d - top + 1) * WIDTH]
                            clear(column)
                            t1 = place_of(rows, t0, pointers[d + 1], stop)
                            for t in range(t0, t1):
                                column[np.uint64(rows[t] - b)] = s[np.uint64(rows[t])] * x[np.uint64(places[t])]
                            at[d - top] = t1
                        add_product(panel, stop - b, z, z0 + b * H, H, zeros, part[: end - top], wide)
                else:
                    for d in range(top, end):
                        for t0 in range(pointers[d], pointers[d + 1], PIECE):
                            t1 = min(t0 + PIECE, pointers[d + 1])
                            for t in range(t0, t1):
                                factor[t - t0] = s[np.uint64(rows[t])] * x[np.uint64(places[t])]
                            add_piece(factor, t1 - t0, rows, t0, z, z0, H, wide[d - top])
            for d in range(top, end):
                column, sums, of_all = w_bar[f, d], wide[d - top], total[f]
                for j in range(H):
                    column[j] = sums[j] - np.float64(of_all[j])
