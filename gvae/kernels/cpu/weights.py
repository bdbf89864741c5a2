"""Importance weights along one axis of an array seen as (outer, K, inner)."""

from __future__ import annotations

import math

from gvae.kernels.cpu._jit import kernel


@kernel
def log_mean_exp(log_weights, result, weights, lo, hi):
    """result[o, i] = log 1/K sum_k e^(log_weights[o, k, i]); weights[o, k, i] = the normalised weights, which sum to 1.

    For outer indices lo <= o < hi. weights may have K = 0: not wanted. A column of -inf gives -inf and weights 0; NaN gives
    NaN; +inf gives +inf, and the weight is shared among the infinite ones.
    """
    _, K, I = log_weights.shape
    wanted = weights.shape[1] > 0
    zero, one = log_weights.dtype.type(0), log_weights.dtype.type(1)
    for o in range(lo, hi):
        for i in range(I):
            top = log_weights[o, 0, i]
            for k in range(1, K):
                w = log_weights[o, k, i]
                if w > top or w != w:
                    top = w
                if top != top:
                    break
            if top != top:
                result[o, i] = top
                if wanted:
                    for k in range(K):
                        weights[o, k, i] = top
                continue
            total = zero
            if math.isinf(top):
                for k in range(K):
                    total += one if log_weights[o, k, i] == top else zero
                result[o, i] = top
                if wanted:
                    for k in range(K):
                        weights[o, k, i] = one / total if top > zero and log_weights[o, k, i] == top else zero
                continue
            for k in range(K):
                total += math.exp(log_weights[o, k, i] - top)
            result[o, i] = top + math.log(total / K)
            if wanted:
                for k in range(K):
                    weights[o, k, i] = math.exp(log_weights[o, k, i] - top) / total
