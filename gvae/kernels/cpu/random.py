"""Philox4x32-10: random bits, uniforms and normals as pure functions of a key and a position.

A key is four uint32 words (k0, k1, s2, s3). Block b of the key is Philox, with its key (k0, k1), of the 128-bit counter
(b mod 2^32, b / 2^32, s2, s3): four words w0..w3, hence four float32 or two float64 values. The kernels run over blocks
lo <= b < hi and write those elements of `out` that belong to them; out has one axis, and its last block may be cut.

Each step works on words kept in 64 bits: a product of two words is then one SIMD instruction, and blocks run in lanes.
The mapping from keys to values is fixed for ever. Uniforms and bits are exact; normals depend, within 4 ulp, on whether
the machine fuses multiply and add.

Source: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3; Box & Muller 1958.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from gvae.kernels.cpu._jit import kernel
from gvae.kernels.cpu._math import OPTIONS, log, sincospi

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)  # the multipliers of the rounds
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # what the key moves by between rounds: golden ratio, sqrt(3) - 1
LOW, HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)
EIGHT, ELEVEN = np.uint64(8), np.uint64(11)

CHUNK = 256  # blocks whose uniforms bernoulli compares at a time: 4 KiB, which stays in the nearest cache


@register_jitable(**OPTIONS)
def rounds(k0, k1, c0, c1, c2, c3):
    """The ten rounds on words kept in uint64."""
    for _ in range(10):
        p0 = M0 * c0
        p1 = M1 * c2
        c0, c1, c2, c3 = (p1 >> HIGH) ^ c1 ^ k0, p1 & LOW, (p0 >> HIGH) ^ c3 ^ k1, p0 & LOW
        k0 = (k0 + W0) & LOW
        k1 = (k1 + W1) & LOW
    return c0, c1, c2, c3


@register_jitable(**OPTIONS)
def words(key):
    """The words of a key, kept in uint64; read before a loop, as its stores might change the key for all LLVM knows."""
    return np.uint64(key[0]), np.uint64(key[1]), np.uint64(key[2]), np.uint64(key[3])


@register_jitable(**OPTIONS)
def block(k, b):
    """The four words of block b of the key with words k."""
    b = np.uint64(b)
    return rounds(k[0], k[1], b & LOW, b >> HIGH, k[2], k[3])


@register_jitable(**OPTIONS)
def uniform_float(w):
    return np.float32(np.int32(w >> EIGHT)) * np.float32(2**-24)


@register_jitable(**OPTIONS)
def uniform_double(high, low):
    return np.float64(((high << HIGH) | low) >> ELEVEN) * np.float64(2**-53)


@register_jitable(**OPTIONS)
def normal_pair(u1, u2):
    """Box-Muller: two normals from u1 in (0, 1] and u2 in [0, 1)."""
    l = log(u1)
    r = math.sqrt(-(l + l))
    s, c = sincospi(u2 + u2)
    return r * c, r * s


def uniforms(out, w):
    """The uniforms in [0, 1) that a block's words give in out's dtype."""
    raise NotImplementedError("only inside kernels")


@overload(uniforms, jit_options=OPTIONS)
def _(out, w):
    def uniforms_float(out, w):
        return uniform_float(w[0]), uniform_float(w[1]), uniform_float(w[2]), uniform_float(w[3])

    def uniforms_double(out, w):
        return uniform_double(w[0], w[1]), uniform_double(w[2], w[3])

    return {types.float32: uniforms_float, types.float64: uniforms_double}[out.dtype]


def normals(out, w):
    """The normals that a block's words give in out's dtype."""
    raise NotImplementedError("only inside kernels")


@overload(normals, jit_options=OPTIONS)
def _(out, w):
    def normals_float(out, w):
        # (w + 1/2) / 2^32 lies in (0, 1], because float32 rounds the largest to 1
        half, scale = np.float32(0.5), np.float32(2**-32)
        z0, z1 = normal_pair((np.float32(np.uint32(w[0])) + half) * scale, uniform_float(w[1]))
        z2, z3 = normal_pair((np.float32(np.uint32(w[2])) + half) * scale, uniform_float(w[3]))
        return z0, z1, z2, z3

    def normals_double(out, w):
        half, scale = np.float64(0.5), np.float64(2**-53)
        u1 = (np.float64(((w[0] << HIGH) | w[1]) >> ELEVEN) + half) * scale
        return normal_pair(u1, uniform_double(w[2], w[3]))

    return {types.float32: normals_float, types.float64: normals_double}[out.dtype]


def put(out, b, v):
    """Write the values v of the whole block b."""
    raise NotImplementedError("only inside kernels")


@overload(put, jit_options=OPTIONS)
def _(out, b, v):
    def put_two(out, b, v):
        i = np.uint64(2 * b)
        out[i] = v[0]
        out[i + np.uint64(1)] = v[1]

    def put_four(out, b, v):
        i = np.uint64(4 * b)
        out[i] = v[0]
        out[i + np.uint64(1)] = v[1]
        out[i + np.uint64(2)] = v[2]
        out[i + np.uint64(3)] = v[3]

    return {2: put_two, 4: put_four}[v.count]


@kernel(fastmath=False)
def philox_block(k0, k1, c0, c1, c2, c3):
    """Philox4x32-10 of one counter: four words of uint32."""
    w0, w1, w2, w3 = rounds(np.uint64(k0), np.uint64(k1), np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3))
    return np.uint32(w0), np.uint32(w1), np.uint32(w2), np.uint32(w3)


@kernel(fastmath=False)
def philox(key, first_block, out_words, lo, hi):
    """out_words[b] = the words of block first_block + b. first_block: uint64; out_words (B, 4): uint32."""
    k = words(key)
    out = out_words.reshape(-1)
    for b in range(lo, hi):
        put(out, b, block(k, np.uint64(first_block) + np.uint64(b)))


@kernel(fastmath=False)
def uniform(key, out, lo, hi):
    """Uniforms in [0, 1). float32: element 4b + i is (w_i >> 8) 2^-24; float64: top 53 bits of (w0, w1), (w2, w3)."""
    n = out.size
    width = 16 // out.itemsize
    whole = n // width
    k = words(key)
    for b in range(lo, min(hi, whole)):
        put(out, b, uniforms(out, block(k, b)))
    if lo <= whole < hi:
        v = uniforms(out, block(k, whole))
        for i in range(n - whole * width):
            out[whole * width + i] = v[i]


@kernel(fastmath=False)
def normal(key, out, lo, hi):
    """Standard normals. float32: a pair from (w0, w1), a pair from (w2, w3); float64: one pair from all four words."""
    n = out.size
    width = 16 // out.itemsize
    whole = n // width
    k = words(key)
    for b in range(lo, min(hi, whole)):
        put(out, b, normals(out, block(k, b)))
    if lo <= whole < hi:
        v = normals(out, block(k, whole))
        for i in range(n - whole * width):
            out[whole * width + i] = v[i]


@kernel(fastmath=False)
def bernoulli(key, p, out, lo, hi):
    """out = 1 where the uniform of p's dtype is below p, else 0. out is not p."""
    n = out.size
    width = 16 // out.itemsize
    zero, one = p.dtype.type(0), p.dtype.type(1)
    for b in range(lo, hi, CHUNK):
        end = min(b + CHUNK, hi)
        uniform(key, out, b, end)
        for i in range(np.uint64(width * b), np.uint64(min(width * end, n))):
            out[i] = one if out[i] < p[i] else zero
