"""Elementary functions that a kernel's loop can run in SIMD lanes: no call into libm, no branch, no table.

    exp(x)       1.1 ulp, subnormal results included; 0 and inf beyond the ends
    expm1(x)     1.4 ulp, also near 0
    decay(x)     exp(-x) for x >= 0, in fewer steps: 1.1 ulp, 0 where that is below the normal numbers
    decaym1(x)   expm1(-x) for x >= 0, in fewer steps: 1.4 ulp
    log(x)       0.9 ulp, also near 1, subnormal x included; 0 -> -inf, negative -> NaN
    log1p(x)     1.0 ulp, also near 0; -1 -> -inf, below -1 -> NaN
    inverse1p(x) 1 / (1 + x) for 0 <= x <= 1: 1.7 ulp, in a fraction of a division's time
    scaled(x)    (m, n), x = m 2^n with m near 1, exactly
    sincospi(x)  (sin(pi x), cos(pi x)) to 1.1 ulp each (1.7 without fused multiply-add), also near zeros; |x| < 2^20

Bounds hold in float32 and in float64, on any machine. NaN gives NaN; the sign of a zero is not kept.
The argument's type chooses the arithmetic: float32 never passes through float64, hence a type on every constant.

Reductions need the order of operations as it is written, so these functions carry their own flags into the kernel that
inlines them: `contract` (a fused multiply-add never hurts here) and not the `reassoc` of the kernel around them.
Coefficients are Taylor's, as many as leave a remainder well below half an ulp. They can be called inside kernels only.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numba import types
from numba.extending import intrinsic, overload, register_jitable

__all__ = ["decay", "decaym1", "exp", "expm1", "inverse1p", "log", "log1p", "scaled", "sincospi"]

LN2 = Fraction("0.69314718055994530941723212145817656807550013436026")
PI = Fraction("3.14159265358979323846264338327950288419716939937511")

OPTIONS = {"fastmath": {"contract"}, "error_model": "numpy", "forceinline": True}

_BITS = {types.float32: types.int32, types.float64: types.int64}
_FLOAT = {bits: real for real, bits in _BITS.items()}


@intrinsic
def to_bits(typingctx, x):
    """The integer with the bits of the float x."""
    bits = _BITS[x]
    return bits(x), lambda context, builder, sig, args: builder.bitcast(args[0], context.get_value_type(bits))


@intrinsic
def from_bits(typingctx, j):
    """The float with the bits of the integer j."""
    real = _FLOAT[j]
    return real(j), lambda context, builder, sig, args: builder.bitcast(args[0], context.get_value_type(real))


@intrinsic
def horner(typingctx, x, c):
    """c[0] + c[1] x + c[2] x^2 + ..., unrolled; c is a constant tuple of x's type."""

    def codegen(context, builder, sig, args):
        x, c = args
        k = sig.args[1].count - 1
        p = builder.extract_value(c, k)
        while k > 0:
            k -= 1
            p = builder.fmul(p, x, flags=("contract",))
            p = builder.fadd(p, builder.extract_value(c, k), flags=("contract",))
        return p

    return (x(x, c), codegen) if isinstance(c, types.UniTuple) and c.dtype == x else None


def _functions(T, I, n_exp, n_log, n_sin, n_cos, n_newton):
    """The functions in the arithmetic of float type T, whose bits are of integer type I; n_* count terms, or steps."""
    t = np.finfo(T)
    MANTISSA, BIAS = I(t.nmant), I(t.maxexp - 1)
    MASK = I((1 << t.nmant) - 1)
    INF, NAN = T(np.inf), T(np.nan)
    HALF, ONE, TWO = T(0.5), T(1), T(2)

    # Adding MAGIC = 1.5 2^nmant rounds to an integer, which then stands in the low bits; subtracting its bits reads it.
    MAGIC = T(1.5 * 2.0**t.nmant)
    MAGIC_BITS = I(MAGIC.view(I))
    SCALE_BITS = I(BIAS - MAGIC_BITS)  # the bits of n + MAGIC and these are the exponent of 2^n

    # ln 2 = HI + LO, with zeros at the end of HI so that n HI is exact for every exponent n.
    spare = t.nmant + 1 - int(t.maxexp).bit_length() - 1
    LN2_HI = T(math.floor(LN2 * 2**spare) / 2**spare)
    LN2_LO = T(float(LN2 - Fraction(float(LN2_HI))))
    LOG2E = T(float(1 / LN2))

    EXP_MIN = T(math.floor((t.minexp - t.nmant - 1) * LN2))  # here the result rounds to 0 ...
    EXP_MAX = T(math.ceil(t.maxexp * LN2))  # ... and here to inf
    EXPM1_MIN = T(-t.nmant - 2)  # and here expm1 rounds to -1
    EXP = tuple(T(1 / math.factorial(k)) for k in range(2, 2 + n_exp))

    def exp(x):
        # x = k ln 2 + r, |r| <= ln 2 / 2, e^x = 2^k e^r; 2^k in two factors, because the last may leave the normal numbers
        x = EXP_MIN if x < EXP_MIN else x
        x = EXP_MAX if x > EXP_MAX else x
        y = x * LOG2E + MAGIC
        k = I(to_bits(y) - MAGIC_BITS)
        n = y - MAGIC
        r = (x - n * LN2_HI) - n * LN2_LO
        p = ONE + (r + r * r * horner(r, EXP))
        h = I(k >> 1)
        return p * from_bits(I((BIAS + h) << MANTISSA)) * from_bits(I((BIAS + k - h) << MANTISSA))

    NORMAL = T(-t.minexp * LN2)  # up to here e^-x is a normal number

    def decay(x):
        # as exp, whose second factor and whose limits are not needed: 0 replaces whatever comes of a large x
        y = MAGIC - x * LOG2E
        n = y - MAGIC
        r = -(x + n * LN2_HI) - n * LN2_LO
        p = ONE + (r + r * r * horner(r, EXP))
        p *= from_bits(I((to_bits(y) + SCALE_BITS) << MANTISSA))
        return T(0) if x > NORMAL else p

    def expm1(x):
        # as exp; c is what rounding r left behind, and 2^k r + (2^k - 1) comes first, because it rounds little or nothing
        x = EXPM1_MIN if x < EXPM1_MIN else x
        x = EXP_MAX if x > EXP_MAX else x
        y = x * LOG2E + MAGIC
        k = I(to_bits(y) - MAGIC_BITS)
        n = y - MAGIC
        a = x - n * LN2_HI
        r = a - n * LN2_LO
        c = (a - r) - n * LN2_LO
        top = TWO if k > BIAS else ONE
        h = I(BIAS if k > BIAS else k)
        s = from_bits(I((BIAS + h) << MANTISSA))
        return top * ((s * r + (s - ONE)) + s * (r * r * horner(r, EXP) + c))

    def decaym1(x):
        # as expm1, whose 2^k is at most 1 here
        x = -EXPM1_MIN if x > -EXPM1_MIN else x
        y = MAGIC - x * LOG2E
        n = y - MAGIC
        a = -(x + n * LN2_HI)
        r = a - n * LN2_LO
        c = (a - r) - n * LN2_LO
        s = from_bits(I((to_bits(y) + SCALE_BITS) << MANTISSA))
        return (s * r + (s - ONE)) + s * (r * r * horner(r, EXP) + c)

    # 1 - (1 + x) p(x) = T_3(2x - 1) / T_3(-3): of all quadratics p, this one is nearest to 1 / (1 + x), to 1/99
    GUESS = T(98 / 99), T(-80 / 99), T(32 / 99)

    def inverse1p(x):
        # Newton's steps square the error
        d, y = ONE + x, horner(x, GUESS)
        for _ in range(n_newton):
            y += y * (ONE - d * y)
        return y

    SQRT_HALF_BITS = I(T(math.sqrt(0.5)).view(I))
    MIN_NORMAL, LIFT = t.smallest_normal, T(2.0 ** (t.nmant + 1))
    LIFT_EXPONENT = T(t.nmant + 1)
    ATANH = tuple(T(2 / (2 * k + 1)) for k in range(1, 1 + n_log))

    @register_jitable(**OPTIONS)
    def split(x):
        # x = m 2^k, with m in [sqrt(1/2), sqrt(2)), and k as an integer and as a float
        j = I(to_bits(x) - SQRT_HALF_BITS)
        k = I(j >> MANTISSA)
        return from_bits(I((j & MASK) + SQRT_HALF_BITS)), k, from_bits(I(k + MAGIC_BITS)) - MAGIC

    @register_jitable(**OPTIONS)
    def log_split(f, n, c):
        # n ln 2 + log(1 + f) + c.  With s = f / (2 + f): log(1 + f) = 2 atanh s = f - f^2/2 + s (f^2/2 + R),
        # R = 2 s^2/3 + 2 s^4/5 + ..., so that f, which is exact, is added last and the error of s weighs little
        s = f / (TWO + f)
        z = s * s
        h = HALF * f * f
        return n * LN2_HI + (f - (h - (s * (h + z * horner(z, ATANH)) + (n * LN2_LO + c))))

    def scaled(x):
        small = x < MIN_NORMAL
        m, _, n = split(x * LIFT if small else x)
        return (m if x < INF else x), n - (LIFT_EXPONENT if small else T(0))

    def log(x):
        small = x < MIN_NORMAL
        m, _, n = split(x * LIFT if small else x)
        y = log_split(m - ONE, n - (LIFT_EXPONENT if small else T(0)), T(0))  # m - 1 is exact
        y = x if x == INF else y
        return y if x > T(0) else (-INF if x == T(0) else NAN)

    def log1p(x):
        # u + e = 1 + x exactly; log(u + e) = log(u) + e/u, with 1/u = 2^-k / (1 + f) and 1 / (1 + f) = 1 - f + f^2
        u = ONE + x
        v = u - ONE
        e = (ONE - (u - v)) + (x - v)
        m, k, n = split(u)
        f = m - ONE
        c = e * from_bits(I((BIAS - k if k < BIAS else 0) << MANTISSA)) * (ONE - f * (ONE - f))
        y = log_split(f, n, c)
        y = x if x == INF else y
        return y if u > T(0) else (-INF if u == T(0) else NAN)

    PI_HI = T(float(PI))
    PI_LO = T(float(PI - Fraction(float(PI_HI))))
    SIN = (PI_LO, *(T(float((-1) ** k * PI ** (2 * k + 1) / math.factorial(2 * k + 1))) for k in range(1, 1 + n_sin)))
    COS = tuple(T(float((-1) ** k * PI ** (2 * k) / math.factorial(2 * k))) for k in range(1, 1 + n_cos))
    SIGN = I(8 * t.dtype.itemsize - 2)

    def sincospi(x):
        # x = n/2 + r, exact, |r| <= 1/4: quarter turn n exchanges sine and cosine and turns their signs
        y = TWO * x + MAGIC
        n = to_bits(y)
        r = x - HALF * (y - MAGIC)
        z = r * r
        s = PI_HI * r + r * horner(z, SIN)
        c = ONE + z * horner(z, COS)
        odd = (n & 1) != 0
        sine = to_bits(c if odd else s) ^ ((n & 2) << SIGN)
        cosine = to_bits(s if odd else c) ^ (((n + 1) & 2) << SIGN)
        return from_bits(I(sine)), from_bits(I(cosine))

    return {f.__name__: f for f in (decay, decaym1, exp, expm1, inverse1p, log, log1p, scaled, sincospi)}


_BY_TYPE = {
    types.float32: _functions(np.float32, np.int32, n_exp=6, n_log=4, n_sin=4, n_cos=5, n_newton=2),
    types.float64: _functions(np.float64, np.int64, n_exp=12, n_log=10, n_sin=8, n_cos=8, n_newton=4),
}


def _scalar(stub):
    """What kernels call by this name: Numba takes the function of the argument's type. Other types do not compile."""
    overload(stub, jit_options=OPTIONS)(lambda x: _BY_TYPE.get(x, {}).get(stub.__name__))
    return stub


@_scalar
def decay(x):
    """e^-x to 1.1 ulp for x >= 0; 0 where it is below the normal numbers."""
    raise NotImplementedError("only inside kernels")


@_scalar
def decaym1(x):
    """e^-x - 1 to 1.4 ulp for x >= 0."""
    raise NotImplementedError("only inside kernels")


@_scalar
def exp(x):
    """e^x to 1.1 ulp."""
    raise NotImplementedError("only inside kernels")


@_scalar
def expm1(x):
    """e^x - 1 to 1.4 ulp."""
    raise NotImplementedError("only inside kernels")


@_scalar
def inverse1p(x):
    """1 / (1 + x) to 1.7 ulp for 0 <= x <= 1."""
    raise NotImplementedError("only inside kernels")


@_scalar
def log(x):
    """Natural logarithm to 0.9 ulp."""
    raise NotImplementedError("only inside kernels")


@_scalar
def log1p(x):
    """log(1 + x) to 1.0 ulp."""
    raise NotImplementedError("only inside kernels")


@_scalar
def scaled(x):
    """(m, n) with x = m 2^n exactly, m in [sqrt(1/2), sqrt(2)), n a float; x > 0. (x, any) if x is inf or NaN."""
    raise NotImplementedError("only inside kernels")


@_scalar
def sincospi(x):
    """(sin(pi x), cos(pi x)) to 1.7 ulp each, for |x| < 2^20."""
    raise NotImplementedError("only inside kernels")
