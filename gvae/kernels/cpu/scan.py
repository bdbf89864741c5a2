"""Binary variables one after the other: autoregressive logits, and NADE, whose logits share hidden units.

Rows may share parameters: b_rows[r] is the bias that belongs to row r, w_rows[r] the weights.
"""

from __future__ import annotations

import numpy as np

from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import decay, inverse1p, log1p

GROUP = 8  # rows that NADE works on together: a row of its weights is read once for all of them


@kernel
def probability(a, zero, one):
    """sigmoid(a); zero and one are of its type."""
    e = decay(abs(a))
    return (one if a >= zero else e) * inverse1p(e)


@kernel
def drawn(u, p, zero, one):
    """1 if u < p, else 0; NaN if one of them is."""
    return one if u < p else (zero if u >= p else u + p)


@kernel
def probabilities(a, s):
    """s = sigmoid(a), for vectors."""
    wide_vectors()
    zero, one = s.dtype.type(0), s.dtype.type(1)
    for k in range(len(s)):
        e = decay(abs(a[k]))
        s[k] = (one if a[k] >= zero else e) * inverse1p(e)


@kernel
def autoregressive_draw(uniform, bias, b_rows, weight, w_rows, draw, logits, lo, hi):
    """h_j = 1 where u_j < sigmoid(a_j), else 0, with a_j = b_j + sum_{i<j} h_i U_ij.

    uniform, draw, logits (R, N); bias (Q, N); weight (F, N, N): U, of which the entries above the diagonal are read. A row
    of U is added only where its unit is 1.
    """
    wide_vectors()
    N = draw.shape[1]
    zero, one = weight.dtype.type(0), weight.dtype.type(1)
    uniform, bias, weight = borrowed(uniform), borrowed(bias), borrowed(weight)
    for r in range(lo, hi):
        a, b, f = logits[r], bias[b_rows[r]], w_rows[r]
        for j in range(N):
            a[j] = b[j]
        for j in range(N):
            h = drawn(uniform[r, j], probability(a[j], zero, one), zero, one)
            draw[r, j] = h
            if h != zero:
                w, rest = weight[f, j, j + 1 :], a[j + 1 :]
                for k in range(len(rest)):
                    rest[k] += h * w[k]


@kernel
def autoregressive_draw_vjp(draw_bar, slope, weight, w_rows, logits_bar, lo, hi):
    """a_bar_j = (h_bar_j + sum_{k>j} U_jk a_bar_k) slope_j, from the last unit to the first.

    draw_bar, slope, logits_bar (R, N); slope: the surrogate for dh/da.
    """
    wide_vectors()
    N = logits_bar.shape[1]
    draw_bar, slope, weight = borrowed(draw_bar), borrowed(slope), borrowed(weight)
    for r in range(lo, hi):
        f = w_rows[r]
        for i in range(N):
            j = N - 1 - i
            total = draw_bar[r, j]
            w, rest = weight[f, j, j + 1 :], logits_bar[r, j + 1 :]
            for k in range(len(rest)):
                total += w[k] * rest[k]
            logits_bar[r, j] = total * slope[r, j]


@kernel
def nade(x, x_rows, bias, b_rows, hidden, weight, out_weight, w_rows, log_prob, residual, lo, hi):
    """log_prob[r] = sum_j x_j t_j - softplus(t_j), t_j = b_j + V_j . sigmoid(a_j), a_j = c + sum_{i<j} x_i W_i.

    x (P, N); bias (Q, N) and hidden (Q, H): b and c; weight, out_weight (F, N, H): W and V; residual (R, N), or (0, N) if
    not wanted: x_j - sigmoid(t_j). Hidden units change only where x_j is not 0.
    """
    wide_vectors()
    _, N, H = weight.shape
    zero, one = weight.dtype.type(0), weight.dtype.type(1)
    wanted = residual.shape[0] > 0
    x, bias, hidden = borrowed(x), borrowed(bias), borrowed(hidden)
    weight, out_weight, residual = borrowed(weight), borrowed(out_weight), borrowed(residual)
    a, s = np.empty((GROUP, H), weight.dtype), np.empty((GROUP, H), weight.dtype)
    for top in range(lo, hi, GROUP):  # rows that read a row of V while it is in the caches
        end = min(top + GROUP, hi)
        for r in range(top, end):
            c, units = hidden[b_rows[r]], a[r - top]
            for k in range(H):
                units[k] = c[k]
            probabilities(units, s[r - top])
            log_prob[r] = zero
        for j in range(N):
            for r in range(top, end):
                x_j, t, v, units = x[x_rows[r], j], zero, out_weight[w_rows[r], j], s[r - top]
                for k in range(H):
                    t += v[k] * units[k]
                t += bias[b_rows[r], j]
                log_prob[r] += x_j * t - max(t, zero) - log1p(decay(abs(t)))
                if wanted:
                    residual[r, j] = x_j - probability(t, zero, one)
                if x_j != zero:
                    w, before = weight[w_rows[r], j], a[r - top]
                    for k in range(H):
                        before[k] += x_j * w[k]
                    probabilities(before, units)


@kernel
def nade_draw(uniform, bias, b_rows, hidden, weight, out_weight, w_rows, draw, lo, hi):
    """h_j = 1 where u_j < sigmoid(t_j), else 0, with t_j of `nade` at the units drawn before."""
    wide_vectors()
    _, N, H = weight.shape
    zero, one = weight.dtype.type(0), weight.dtype.type(1)
    uniform, bias, hidden = borrowed(uniform), borrowed(bias), borrowed(hidden)
    weight, out_weight = borrowed(weight), borrowed(out_weight)
    a, s = np.empty((GROUP, H), weight.dtype), np.empty((GROUP, H), weight.dtype)
    for top in range(lo, hi, GROUP):
        end = min(top + GROUP, hi)
        for r in range(top, end):
            c, units = hidden[b_rows[r]], a[r - top]
            for k in range(H):
                units[k] = c[k]
            probabilities(units, s[r - top])
        for j in range(N):
            for r in range(top, end):
                t, v, units = zero, out_weight[w_rows[r], j], s[r - top]
                for k in range(H):
                    t += v[k] * units[k]
                h = drawn(uniform[r, j], probability(t + bias[b_rows[r], j], zero, one), zero, one)
                draw[r, j] = h
                if h != zero:
                    w, before = weight[w_rows[r], j], a[r - top]
                    for k in range(H):
                        before[k] += h * w[k]
                    probabilities(before, units)


@kernel
def nade_end(data, c, weight, f, a, first, last):
    """a = c + sum_j x_j W_j, for hidden units first <= k < last."""
    for k in range(last - first):
        a[k] = c[first + k]
    for j in range(len(data)):
        if data[j] != data.dtype.type(0):
            w = weight[f, j, first:last]
            for k in range(len(w)):
                a[k] += data[j] * w[k]


@kernel
def nade_vjp(
    x, x_rows, hidden, b_rows, weight, out_weight, w_rows, logit_bar, hidden_bar, weight_bar, out_weight_bar, lo, hi
):
    """Cotangents of c, W and V for hidden units lo <= k < hi, from those of the logits, logit_bar (R, N).

    hidden_bar (R, H), weight_bar, out_weight_bar (F, N, H). The recurrence runs down again: nothing of it was stored. Sums
    over rows are in the order of the rows, so that any split of the units over threads gives the same bits.
    """
    wide_vectors()
    (R, N), n = logit_bar.shape, hi - lo
    zero, one = weight.dtype.type(0), weight.dtype.type(1)
    x, hidden, weight, out_weight = borrowed(x), borrowed(hidden), borrowed(weight), borrowed(out_weight)
    logit_bar, weight_bar, out_weight_bar = borrowed(logit_bar), borrowed(weight_bar), borrowed(out_weight_bar)
    a, s = np.empty((GROUP, n), weight.dtype), np.empty((GROUP, n), weight.dtype)
    g, a_bar = np.empty((GROUP, n), weight.dtype), np.empty((GROUP, n), weight.dtype)  # g: since the last change of a
    for f in range(len(weight)):
        for j in range(N):
            w_bar, v_bar = weight_bar[f, j, lo:hi], out_weight_bar[f, j, lo:hi]
            for k in range(n):
                w_bar[k] = zero
                v_bar[k] = zero
    for top in range(0, R, GROUP):
        end = min(top + GROUP, R)
        for r in range(top, end):
            nade_end(x[x_rows[r]], hidden[b_rows[r]], weight, w_rows[r], a[r - top], lo, hi)
            probabilities(a[r - top], s[r - top])
            since, along = g[r - top], a_bar[r - top]
            for k in range(n):
                since[k] = zero
                along[k] = zero
        for i in range(N):
            j = N - 1 - i
            for r in range(top, end):
                x_j, f, units, since = x[x_rows[r], j], w_rows[r], s[r - top], g[r - top]
                if x_j != zero:
                    w, w_bar, before, along = weight[f, j, lo:hi], weight_bar[f, j, lo:hi], a[r - top], a_bar[r - top]
                    for k in range(n):
                        along[k] += since[k] * units[k] * (one - units[k])
                        since[k] = zero
                        w_bar[k] += x_j * along[k]
                        before[k] -= x_j * w[k]
                    probabilities(before, units)
                t_bar, v, v_bar = logit_bar[r, j], out_weight[f, j, lo:hi], out_weight_bar[f, j, lo:hi]
                for k in range(n):
                    v_bar[k] += t_bar * units[k]
                    since[k] += t_bar * v[k]
        for r in range(top, end):
            out, units, since, along = hidden_bar[r, lo:hi], s[r - top], g[r - top], a_bar[r - top]
            for k in range(n):
                out[k] = along[k] + since[k] * units[k] * (one - units[k])


@kernel
def nade_input_vjp(x, x_rows, bias, b_rows, hidden, weight, out_weight, w_rows, logit_bar, scale, x_bar, lo, hi):
    """x_bar[r, j] = scale_r t_j + W_j . a_bar_j, the cotangents of x; scale (R,): those of log_prob."""
    wide_vectors()
    _, N, H = weight.shape
    zero, one = weight.dtype.type(0), weight.dtype.type(1)
    x, bias, hidden, logit_bar = borrowed(x), borrowed(bias), borrowed(hidden), borrowed(logit_bar)
    weight, out_weight = borrowed(weight), borrowed(out_weight)
    a, s = np.empty(H, weight.dtype), np.empty(H, weight.dtype)
    g, a_bar = np.empty(H, weight.dtype), np.empty(H, weight.dtype)
    for r in range(lo, hi):
        data, b, f = x[x_rows[r]], bias[b_rows[r]], w_rows[r]
        nade_end(data, hidden[b_rows[r]], weight, f, a, 0, H)
        probabilities(a, s)
        for k in range(H):
            g[k] = zero
            a_bar[k] = zero
        for i in range(N):
            j = N - 1 - i
            w, v, total = weight[f, j], out_weight[f, j], zero
            for k in range(H):
                total += w[k] * (a_bar[k] + g[k] * s[k] * (one - s[k]))
            if data[j] != zero:
                for k in range(H):
                    a_bar[k] += g[k] * s[k] * (one - s[k])
                    g[k] = zero
                    a[k] -= data[j] * w[k]
                probabilities(a, s)
            t_bar, t = logit_bar[r, j], b[j]
            for k in range(H):
                t += v[k] * s[k]
                g[k] += t_bar * v[k]
            x_bar[r, j] = scale[r] * t + total
