"""Gamma variables: the logarithm of the quantile, and its derivative in the shape.

z has the density z^(a - 1) e^-z / Gamma(a), a is the shape, y = log z. P and Q = 1 - P are the regularised incomplete gamma
functions, and D = z^a e^-z / Gamma(a) is the density of y. Three forms serve P / D or Q / D, whichever is the smaller:

    the power series of P / D                               small z
    the continued fraction of Q / D                         large z
    a normal distribution function and Temme's correction   a >= UNIFORM and z near a, |eta| <= 1

with eta^2 / 2 = z/a - 1 - log(z/a), eta of the sign of z - a. Source of the last: Gil, Segura and Temme (2012).

The quantile starts from a guess that is off by a percent or so, and takes a Taylor polynomial in the logarithm of P or Q.
Its coefficients follow from a recurrence: g = dy / d log P = P/D has dg / d log P = g - (a - z) g^2, and g = -Q/D has the
same derivative in log Q. The last two terms give an estimate of the next one; where it is too large, another step follows.

    error of y, for a from 1e-3 to 1e6    3e-12, or 2 ulp where that is more
    relative error of dy/da               3e-12

Draws are collected in two blocks, one for small shapes and one for large ones. Nine in ten are computed by a loop without
branches, in SIMD lanes; it leaves NaN for the others, which are computed one by one (`quantile_at`, `slope_at`).
Everything is computed in float64, for arrays of float32 too.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from gvae.kernels import LANES
from gvae.kernels.cpu._jit import kernel, wide_vectors
from gvae.kernels.cpu._lanes import borrowed
from gvae.kernels.cpu._math import exp, expm1, horner, log, log1p

UNIFORM = 8.0  # the least shape of the uniform expansion: its error there is 1e-12 of D
TERMS = 24  # terms of it
GROUPS = 12  # groups of four terms: these 48 are enough for the power series up to z = 2.5 + 1.5 a, a < UNIFORM
SMALL = 1e-13  # a series ends where its terms are below this, relatively
ENOUGH = 1e-13  # bound on the next term of the Taylor polynomial, extrapolated geometrically from the last two
ROUNDS = 30
BLOCK = 4 * LANES  # draws that are collected before they are computed together
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
EULER = 0.5772156649015329
TINY = 1e-300
STIRLING_FROM = 20.0  # from here on, Stirling's series of log(k!) is exact to a unit of rounding
NO_MORE = 1e-17  # a probability that does not change the sum of others

# (x + 3.75) (1 - Phi(x)) / phi(x) in powers of t = (x - 3.75) / (x + 3.75), from Chebyshev's series: 1e-14 for x >= 0
MILLS = (
    *(1.8807083358297374, -1.4743697189591356, 0.8846890259988553, -0.37979645894410574, 0.09397180308898462),
    *(0.00292862367874268, -0.0104347632347922, 0.0015288239632812236, 0.0011776735477745564, -0.00029382513947313557),
    *(-0.0001756535593251247, 4.285715673131671e-05, 3.33610544477534e-05, -4.2905928744246865e-06),
    *(-6.93464064407169e-06, -1.8577094811018202e-07, 1.3463425977561867e-06, 2.002482939673202e-07),
    *(-2.0429431994045063e-07, -3.310708541684129e-08, 1.7333247337903852e-08),
)
STIRLING = 1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156  # for log Gamma, in 1/t, 1/t^3, ..
STIRLING_SLOPE = 1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12  # for psi, in 1/t^2, 1/t^4, ..

STIRLING_CURVATURE = 1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6  # for psi', in 1/t^3, 1/t^5, ..


def slopes_of_log(terms: int) -> tuple[float, ...]:
    """Taylor coefficients of f(eta) = d log(l) / d eta = eta / (l - 1), where eta^2 / 2 = l - 1 - log(l)."""
    c = [Fraction(0), Fraction(1)]  # of l - 1: from (l - 1) dl/deta = eta l
    for k in range(2, terms + 1):
        c.append((c[k - 1] - sum(c[i] * (k + 1 - i) * c[k + 1 - i] for i in range(2, k))) / (k + 1))
    f = [Fraction(1)]
    for k in range(1, terms):
        f.append(-sum((c[j + 1] * f[k - j] for j in range(1, k + 1)), Fraction(0)))
    return tuple(float(x) for x in f)


SLOPES = np.array(slopes_of_log(TERMS + 1))


@kernel(inner=True)
def log_gamma1_of_small(a):
    """log Gamma(a + 1), by Stirling's series at a + 9: to 2e-15 for a < 8. No branch."""
    p = (a + 1.0) * (a + 2.0) * (a + 3.0) * (a + 4.0) * ((a + 5.0) * (a + 6.0) * (a + 7.0) * (a + 8.0))
    t = a + 9.0
    i = 1.0 / t
    return (t - 0.5) * log(t) - t + HALF_LOG_2PI + i * horner(i * i, STIRLING) - log(p)


@kernel(inner=True)
def log_gamma1(a):
    """log Gamma(a + 1)."""
    if a < 8.0:
        return log_gamma1_of_small(a)
    t = a + 1.0
    i = 1.0 / t
    return (t - 0.5) * log(t) - t + HALF_LOG_2PI + i * horner(i * i, STIRLING)


@kernel(inner=True)
def digamma1_of_small(a):
    """psi(a + 1), by the same method."""
    t, p, slope = a + 1.0, 1.0, 0.0  # of the product p, too
    for _ in range(8):
        slope = slope * t + p
        p *= t
        t += 1.0
    i = 1.0 / t
    return log(t) - i * (0.5 + i * horner(i * i, STIRLING_SLOPE)) - slope / p


@kernel(inner=True)
def digamma1(a):
    """psi(a + 1)."""
    if a < 8.0:
        return digamma1_of_small(a)
    i = 1.0 / (a + 1.0)
    return log(a + 1.0) - i * (0.5 + i * horner(i * i, STIRLING_SLOPE))


@kernel(inner=True)
def series(a, z):
    """P / D, a sum of positive terms z^n / (a (a + 1) .. (a + n)), four of them with one division."""
    t, total, k, z2 = 1.0, 1.0, a, z * z
    while t > SMALL * total:
        p, q = (k + 1.0) * (k + 2.0), (k + 3.0) * (k + 4.0)
        t /= p * q
        total += t * z * ((k + 2.0 + z) * q + z2 * (k + 4.0 + z))
        t *= z2 * z2
        k += 4.0
    return total / a


@kernel(inner=True)
def series_slope(a, z):
    """a P / D, and the derivative of log(P / D) + log(a) in a times it."""
    t, total, s, slope, k = 1.0, 1.0, 0.0, 0.0, a
    while t > SMALL * total or -s > SMALL * -slope:
        k += 1.0
        i = 1.0 / k
        s = (s - t * i) * (z * i)
        t *= z * i
        total += t
        slope += s
    return total, slope


@kernel(inner=True)
def fraction(a, z):
    """Q / D, by its continued fraction, evaluated forward."""
    b = z + 1.0 - a
    p0, p, q0, q, n = 0.0, 1.0, 1.0, b, 0.0
    while n < 500.0:
        n += 1.0
        b += 2.0
        c = n * (a - n)
        p0, p = p, b * p + c * p0
        q0, q = q, b * q + c * q0
        across = p * q0
        if not abs(across - p0 * q) > SMALL * abs(across):
            break
        if q > 1e100:
            p0, p, q0, q = p0 * 1e-100, p * 1e-100, q0 * 1e-100, q * 1e-100
    return p / q


@kernel(inner=True)
def fraction_slope(a, z):
    """Q / D and its derivative in a."""
    b = z + 1.0 - a
    p0, p, q0, q, n = 0.0, 1.0, 1.0, b, 0.0
    r0, r, s0, s = 0.0, 0.0, 0.0, -1.0  # the derivatives of p and q
    ratio, slope = p / q, -(p / q) * s / q
    while n < 500.0:
        n += 1.0
        b += 2.0
        c = n * (a - n)
        r0, r = r, b * r + c * r0 - p + n * p0
        s0, s = s, b * s + c * s0 - q + n * q0
        p0, p = p, b * p + c * p0
        q0, q = q, b * q + c * q0
        i = 1.0 / q
        before, slope_before = ratio, slope
        ratio = p * i
        slope = (r - ratio * s) * i
        if not (abs(ratio - before) > SMALL * abs(ratio) or abs(slope - slope_before) > SMALL * abs(slope)):
            break
        if q > 1e100:
            p0, p, q0, q = p0 * 1e-100, p * 1e-100, q0 * 1e-100, q * 1e-100
            r0, r, s0, s = r0 * 1e-100, r * 1e-100, s0 * 1e-100, s * 1e-100
    return ratio, slope


@kernel(inner=True)
def uniform_terms(i, eta):
    """sum_n beta_n eta^n and Gamma*(a) = 1 + beta_1 / a, i = 1/a, with beta_{n-1} = f_n + (n + 1) beta_{n+1} / a."""
    odd, even, odd_sum, even_sum, square = 0.0, 0.0, 0.0, 0.0, eta * eta
    for m in range(TERMS // 2):
        n = TERMS - 2 * m  # beta_{n-1}, odd, then beta_{n-2}, even
        odd = SLOPES[n] + (n + 1) * i * odd
        even = SLOPES[n - 1] + n * i * even
        odd_sum = odd_sum * square + odd
        even_sum = even_sum * square + even
    return even_sum + eta * odd_sum, 1.0 + odd * i


@kernel(inner=True)
def uniform_slopes(i, eta):
    """As uniform_terms, and the derivatives of both in i."""
    odd, even, total = 0.0, 0.0, 0.0
    odd_i, even_i, total_i = 0.0, 0.0, 0.0
    for m in range(TERMS // 2):
        n = TERMS - 2 * m
        odd_i = (n + 1) * (odd + i * odd_i)
        even_i = n * (even + i * even_i)
        odd = SLOPES[n] + (n + 1) * i * odd
        even = SLOPES[n - 1] + n * i * even
        total = (total * eta + odd) * eta + even
        total_i = (total_i * eta + odd_i) * eta + even_i
    return total, total_i, 1.0 + odd * i, odd + i * odd_i


@kernel(inner=True)
def mills(upper):
    """(1 - Phi(upper)) / phi(upper) for upper >= 0."""
    i = 1.0 / (upper + 3.75)
    t = (upper - 3.75) * i
    return i * (horner(t * t, MILLS[0::2]) + t * horner(t * t, MILLS[1::2]))


@kernel(inner=True)
def normal_quantile(upper, log_tail):
    """The normal quantile to 5e-4, from the logarithm of the probability on its side. Source: Hastings (1955)."""
    t = math.sqrt(-2.0 * log_tail)
    s = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    return s if upper else -s


@kernel(inner=True)
def reversed_series(a, x):
    """z / w - 1 for w = (u Gamma(a + 1))^(1/a), x = w / (a + 1): five terms."""
    r = 1.0 / ((a + 2.0) * (a + 2.0) * (a + 3.0) * (a + 4.0))
    c3 = 12.0 * (3.0 * a + 5.0) * (a + 2.0) * (a + 3.0) * (a + 4.0)
    c4 = 8.0 * ((8.0 * a + 33.0) * a + 31.0) * (a + 2.0) * (a + 4.0)
    c5 = (((125.0 * a + 1179.0) * a + 3971.0) * a + 5661.0) * a + 2888.0
    return x * (1.0 + x * r * (1.0 / 24.0) * (c3 + x * (c4 + x * c5)))


@kernel(inner=True)
def guess_of_tail(a, b):
    """z with Q Gamma(a) = b, roughly, for a < 0.4: by e^-z z^(a - 1) or, where that is large, by -log(z) - EULER."""
    w = -log(b)
    if w > 0.9:
        z = w - (1.0 - a) * log(w + 0.5)
        return w - (1.0 - a) * log(z) - log1p((1.0 - a) / (1.0 + z))
    t = exp(-EULER - b)
    return t * exp(t * exp(t))


@kernel(inner=True)
def taylor(g, z, wide, e):
    """What y gains if log P or log Q gains e, to the fifth power, and the last two terms; wide = a - z."""
    h0, z1 = g * g, z * g
    g1 = g - wide * h0
    h1, z2 = 2.0 * g * g1, 0.5 * (z * g1 + z1 * g)
    g2 = 0.5 * (g1 - wide * h1 + z1 * h0)
    h2, z3 = 2.0 * g * g2 + g1 * g1, (z * g2 + z1 * g1 + z2 * g) * (1.0 / 3.0)
    g3 = (g2 - wide * h2 + z1 * h1 + z2 * h0) * (1.0 / 3.0)
    h3 = 2.0 * (g * g3 + g1 * g2)
    g4 = 0.25 * (g3 - wide * h3 + z1 * h2 + z2 * h1 + z3 * h0)
    fourth, fifth = 0.25 * g3 * (e * e) * (e * e), 0.2 * g4 * e * (e * e) * (e * e)
    return e * (g + e * (0.5 * g1 + e * (g2 * (1.0 / 3.0)))) + (fourth + fifth), fourth, fifth


@kernel(inner=True)
def quantile_at(a, u):
    """log z with P(a, z) = u, for a > 0 and 0 < u < 1, in float64."""
    v = 1.0 - u
    upper = u > 0.5
    log_tail = log(v if upper else u)
    root = 1.0 / math.sqrt(a)
    i, h = root * root, root * (1.0 / 3.0)
    c = h * (normal_quantile(upper, log_tail) - h)  # Wilson and Hilferty: z = a (1 + c)^3
    log_a, log_gamma = log(a), np.nan
    if c > -0.3 and a >= 1.0:
        excess = c * (3.0 + c * (3.0 + c))
        m, z = 3.0 * log1p(c), a + a * excess
        y = log_a + m
    else:
        log_gamma = log_gamma1(a)
        y = ((log(u) if upper else log_tail) + log_gamma) / a
        z = exp(y)
        x = z / (a + 1.0)
        if x < 0.35 or a >= 1.0:
            d = reversed_series(a, x)
            y += log1p(d)
            if x < 1e-3:
                return y
            z += z * d
        else:
            z = a * ((1.0 + c) * (1.0 + c) * (1.0 + c)) if a > 0.4 else guess_of_tail(a, v * exp(log_gamma) / a)
            y = log(z)
        excess, m = z * i - 1.0, y - log_a
    for _ in range(ROUNDS):
        half = excess - m  # eta^2 / 2
        if a >= UNIFORM and half < 0.5:
            # P / phi(x) = (1 - Phi(-x)) / phi - S / sqrt(a), Q / phi(x) = (1 - Phi(x)) / phi + S / sqrt(a), x = eta sqrt(a)
            eta = math.sqrt(2.0 * max(half, 0.0))
            upper = m > 0.0
            total, star = uniform_terms(i, eta if upper else -eta)
            total *= root / star
            tail = mills(eta * a * root) + (total if upper else -total)
            wide = -a * excess
            g = star * root * tail  # D = sqrt(a) phi / Gamma*
            g = -g if upper else g
            e = log((v if upper else u) / tail) + a * half + HALF_LOG_2PI
        else:
            if log_gamma != log_gamma:
                log_gamma = log_gamma1(a)
            wide = a - z
            log_d = a * y - z - log_gamma + log_a
            if z > 2.5 + 1.5 * a:
                g = fraction(a, z)
                e = log(v / g) - log_d
                g = -g
            else:
                g = series(a, z)
                if u < 0.8:
                    e = log(u / g) - log_d
                else:  # Q is the smaller one
                    d = exp(log_d)
                    q = max(1.0 - d * g, TINY)
                    e = log(v / q)
                    g = -q / d
        step, fourth, fifth = taylor(g, z, wide, e)
        if abs(fifth) < ENOUGH or fifth * fifth < ENOUGH * abs(fourth):
            return y + step
        # Newton's step where the series is of no use: it cannot fail, because log P and log Q are concave in y
        y += step if abs(fifth) < 0.05 * abs(step) else g * e
        z, m = exp(y), y - log_a
        excess = expm1(m)
    return y


@kernel(inner=True)
def quantiles_of_large(a, u, y, n):
    """y[k] = log z with P(a[k], z) = u[k] for k < n, a >= UNIFORM, or NaN where quantile_at is needed.

    As `quantile_at` with one round, by the uniform expansion.
    """
    for k in range(n):
        v = 1.0 - u[k]
        upper = u[k] > 0.5
        root = 1.0 / math.sqrt(a[k])
        h = root * (1.0 / 3.0)
        c = h * (normal_quantile(upper, log(v if upper else u[k])) - h)
        excess, m = c * (3.0 + c * (3.0 + c)), 3.0 * log1p(c)
        half = excess - m
        eta = math.sqrt(2.0 * max(half, 0.0))
        upper = m > 0.0
        total, star = uniform_terms(root * root, eta if upper else -eta)
        total *= root / star
        tail = mills(eta * a[k] * root) + (total if upper else -total)
        g = star * root * tail
        e = log((v if upper else u[k]) / tail) + a[k] * half + HALF_LOG_2PI
        step, fourth, fifth = taylor(-g if upper else g, a[k] + a[k] * excess, -a[k] * excess, e)
        good = (c > -0.3) & (half < 0.5) & ((abs(fifth) < ENOUGH) | (fifth * fifth < ENOUGH * abs(fourth)))
        y[k] = log(a[k]) + m + step if good else np.nan


@kernel(inner=True)
def quantiles_of_small(a, u, y, n):
    """As `quantiles_of_large`, for shapes below UNIFORM, by the power series."""
    for k in range(n):
        v = 1.0 - u[k]
        upper = u[k] > 0.5
        log_u, log_a = log(u[k]), log(a[k])
        h = 1.0 / (3.0 * math.sqrt(a[k]))
        c = h * (normal_quantile(upper, log(v) if upper else log_u) - h)
        log_gamma = log_gamma1_of_small(a[k])
        start = (log_u + log_gamma) / a[k]
        w = exp(start)
        x = w / (a[k] + 1.0)
        reverse = x < (0.35 if a[k] < 0.4 else 0.25)
        d = reversed_series(a[k], x)
        gain = log1p(d if reverse else c)
        start = start + gain if reverse else log_a + 3.0 * gain
        z = w + w * d if reverse else a[k] * ((1.0 + c) * (1.0 + c) * (1.0 + c))
        total = 1.0
        t, z2, b = 1.0, z * z, a[k]
        for _ in range(GROUPS):  # `series`
            p, q = (b + 1.0) * (b + 2.0), (b + 3.0) * (b + 4.0)
            t /= p * q
            total += t * z * ((b + 2.0 + z) * q + z2 * (b + 4.0 + z))
            t *= z2 * z2
            b += 4.0
        g = total / a[k]
        log_d = a[k] * start - z - log_gamma + log_a
        density = exp(log_d)
        rest = max(1.0 - density * g, TINY)
        lower = u[k] < 0.8
        e = log(u[k] / g if lower else v / rest) - (log_d if lower else 0.0)
        step, fourth, fifth = taylor(g if lower else -rest / density, z, a[k] - z, e)
        good = (abs(fifth) < ENOUGH) | (fifth * fifth < ENOUGH * abs(fourth))
        good = good & (z < 2.5 + 1.5 * a[k]) & (reverse | (a[k] > 0.4))
        y[k] = start if reverse & (x < 1e-3) else (start + step if good else np.nan)


@kernel(inner=True)
def slope_at(a, y):
    """dy/da at fixed u, -(dP/da) / D, from y = log z."""
    log_a = log(a)
    m = y - log_a
    half = expm1(m) - m
    if a >= UNIFORM and half < 0.5:
        i = 1.0 / a
        eta = math.sqrt(2.0 * max(half, 0.0))
        eta = -eta if m < 0.0 else eta
        total, total_i, star, star_i = uniform_slopes(i, eta)
        # S = total / star; a dy/da = 1 - star (eta / 2 + S (eta^2 + 1/a) / 2 - dS/da), d/da = -i^2 d/di
        ds = -i * i * (total_i - total * star_i / star)
        return i * (1.0 - 0.5 * star * eta - 0.5 * total * (eta * eta + i) + ds)
    z = exp(y)
    if z > 2.5 + 1.5 * a:
        ratio, slope = fraction_slope(a, z)
        return ratio * (y - digamma1(a) + 1.0 / a) + slope
    total, slope = series_slope(a, z)
    return (total * (digamma1(a) - y) - slope) / a


@kernel(inner=True)
def slopes_of_large(a, y, slope, n):
    """slope[k] = slope_at(a[k], y[k]) for k < n, a >= UNIFORM, or NaN where that itself is needed."""
    for k in range(n):
        i = 1.0 / a[k]
        m = y[k] - log(a[k])
        half = expm1(m) - m
        eta = math.sqrt(2.0 * max(half, 0.0))
        eta = -eta if m < 0.0 else eta
        total, total_i, star, star_i = uniform_slopes(i, eta)
        ds = -i * i * (total_i - total * star_i / star)
        found = i * (1.0 - 0.5 * star * eta - 0.5 * total * (eta * eta + i) + ds)
        slope[k] = found if half < 0.5 else np.nan


@kernel(inner=True)
def sixteen_terms(b, z, t, total, s, slope):
    """Terms of `series_slope`; longer loops than this are not unrolled, and then the loop around them has no SIMD lanes."""
    for _ in range(16):
        b += 1.0
        i = 1.0 / b
        s = (s - t * i) * (z * i)
        t *= z * i
        total += t
        slope += s
    return t, total, s, slope


@kernel(inner=True)
def slopes_of_small(a, y, slope, n):
    """As `slopes_of_large`, for shapes below UNIFORM."""
    for k in range(n):
        z = exp(y[k])
        t, total, s, total_a = sixteen_terms(a[k], z, 1.0, 1.0, 0.0, 0.0)
        t, total, s, total_a = sixteen_terms(a[k] + 16.0, z, t, total, s, total_a)
        t, total, s, total_a = sixteen_terms(a[k] + 32.0, z, t, total, s, total_a)
        found = (total * (digamma1_of_small(a[k]) - y[k]) - total_a) / a[k]
        slope[k] = found if z < 2.5 + 1.5 * a[k] else np.nan


@kernel(inner=True)
def filled(a, x, n, of_a, of_x):
    """The next multiple of LANES, up to which both get a number: what lies beyond a loop's last full vector would be rounded
    otherwise, and a draw's bits would depend on the draws next to it."""
    end = (n + LANES - 1) // LANES * LANES
    for k in range(n, end):
        a[k], x[k] = of_a, of_x
    return end


@kernel
def quantile(shape, shape_rows, uniform, least, log_z, lo, hi):
    """log_z = y with P(shape, e^y) = u, u = uniform or, where that is 0, least.

    uniform, log_z (R, N); shape (Q, N), whose row shape_rows[r] belongs to row r. inf at u = 1; NaN unless shape is positive
    and finite and u in [0, 1].
    """
    wide_vectors()
    shape, uniform = borrowed(shape), borrowed(uniform)
    real, N = log_z.dtype.type, log_z.shape[1]
    a, u, y = np.empty((2, BLOCK)), np.empty((2, BLOCK)), np.empty((2, BLOCK))  # small shapes, and large ones
    rows, columns, n = np.empty((2, BLOCK), np.int64), np.empty((2, BLOCK), np.int64), np.zeros(2, np.int64)
    r, j = lo, 0
    for first in range(0, (hi - lo) * N, BLOCK):
        n[0] = n[1] = 0
        for _ in range(min(BLOCK, (hi - lo) * N - first)):
            a_j, u_j = np.float64(shape[shape_rows[r], j]), np.float64(uniform[r, j])
            u_j = np.float64(least) if u_j == 0.0 else u_j
            if a_j > 0.0 and a_j < np.inf and u_j > 0.0 and u_j < 1.0:
                kind = 1 if a_j >= UNIFORM else 0
                k = n[kind]
                a[kind, k], u[kind, k], rows[kind, k], columns[kind, k] = a_j, u_j, r, j
                n[kind] = k + 1
            else:
                log_z[r, j] = real(np.inf if a_j > 0.0 and a_j < np.inf and u_j == 1.0 else np.nan)
            j += 1
            if j == N:
                r, j = r + 1, 0
        quantiles_of_small(a[0], u[0], y[0], filled(a[0], u[0], n[0], 1.0, 0.5))
        quantiles_of_large(a[1], u[1], y[1], filled(a[1], u[1], n[1], UNIFORM, 0.5))
        for kind in range(2):
            for k in range(n[kind]):
                found = y[kind, k]
                found = found if found == found else quantile_at(a[kind, k], u[kind, k])
                log_z[rows[kind, k], columns[kind, k]] = real(found)


@kernel
def quantile_vjp(log_z_bar, shape, shape_rows, log_z, shape_bar, lo, hi):
    """shape_bar = log_z_bar dy/dshape at fixed u, from y = log_z; (R, N) each, but shape (Q, N)."""
    wide_vectors()
    log_z_bar, shape, log_z = borrowed(log_z_bar), borrowed(shape), borrowed(log_z)
    real, N = log_z.dtype.type, log_z.shape[1]
    a, y, slope = np.empty((2, BLOCK)), np.empty((2, BLOCK)), np.empty((2, BLOCK))
    rows, columns, n = np.empty((2, BLOCK), np.int64), np.empty((2, BLOCK), np.int64), np.zeros(2, np.int64)
    r, j = lo, 0
    for first in range(0, (hi - lo) * N, BLOCK):
        n[0] = n[1] = 0
        for _ in range(min(BLOCK, (hi - lo) * N - first)):
            a_j = np.float64(shape[shape_rows[r], j])
            kind = 1 if a_j >= UNIFORM else 0
            k = n[kind]
            a[kind, k], y[kind, k], rows[kind, k], columns[kind, k] = a_j, np.float64(log_z[r, j]), r, j
            n[kind] = k + 1
            j += 1
            if j == N:
                r, j = r + 1, 0
        slopes_of_small(a[0], y[0], slope[0], filled(a[0], y[0], n[0], 1.0, 0.0))
        slopes_of_large(a[1], y[1], slope[1], filled(a[1], y[1], n[1], UNIFORM, 2.0))
        for kind in range(2):
            for k in range(n[kind]):
                found, at = slope[kind, k], (rows[kind, k], columns[kind, k])
                found = found if found == found else slope_at(a[kind, k], y[kind, k])
                shape_bar[at] = real(np.float64(log_z_bar[at]) * found)


@kernel
def stirling(x, order, y, lo, hi):
    """y = s(x) = log Gamma(x) - (x log x - x) for order 0, its derivative psi(x) - log x for 1, and the next one for 2.

    x, y (E,): above 0. By Stirling's series at x or, below 8, at x + 8. One loop for each order, so that all are in vectors.
    """
    wide_vectors()
    a, out = borrowed(x)[lo:hi], y[lo:hi]
    real = out.dtype.type
    if order == 0:
        for e in range(len(out)):
            v = np.float64(a[e])
            small = v < 8.0
            t = v + 8.0 if small else v
            i = 1.0 / t
            far = HALF_LOG_2PI - 0.5 * log(t) + i * horner(i * i, STIRLING)
            p = v * (v + 1.0) * (v + 2.0) * (v + 3.0) * ((v + 4.0) * (v + 5.0) * (v + 6.0) * (v + 7.0))
            near = t * (log(t) - 1.0) - log(p) - v * (log(v) - 1.0) + far
            out[e] = real(near if small else far)
    elif order == 1:
        for e in range(len(out)):
            v = np.float64(a[e])
            small = v < 8.0
            t = v + 8.0 if small else v
            i = 1.0 / t
            far = -i * (0.5 + i * horner(i * i, STIRLING_SLOPE))
            n, p = 1.0, v  # n / p is the sum of 1 / (v + j)
            for j in range(1, 8):
                n, p = n * (v + j) + p, p * (v + j)
            out[e] = real(far + log(t) - log(v) - n / p if small else far)
    else:
        for e in range(len(out)):
            v = np.float64(a[e])
            small = v < 8.0
            t = v + 8.0 if small else v
            i = 1.0 / t
            far = i * i * (0.5 + i * horner(i * i, STIRLING_CURVATURE))
            total = far + i - 1.0 / v
            for j in range(8):
                total += 1.0 / ((v + j) * (v + j))
            out[e] = real(total if small else far)


@kernel
def poisson_quantile(log_rate, rate_rows, uniform, count, lo, hi):
    """count = the least k with P(x <= k) > u, for x of the Poisson distribution of rate e^log_rate.

    uniform, count (R, N); log_rate (Q, N), whose row rate_rows[r] belongs to row r. Probabilities are added up from 12
    deviations below the mean, before which lies less than 1e-30, until they no longer change the sum. NaN if one of the two
    is, or the rate is 1e15 or more.

    The first is exp(k (log(1 + x) - x)) / sqrt(2 pi k) times Stirling's correction, x = rate / k - 1: k log(rate) - rate -
    log(k!) would lose rate log(rate) units of rounding.
    """
    log_rate, uniform = borrowed(log_rate), borrowed(uniform)
    real = count.dtype.type
    for r in range(lo, hi):
        f = rate_rows[r]
        for j in range(count.shape[1]):
            eta, u = np.float64(log_rate[f, j]), np.float64(uniform[r, j])
            rate = exp(eta)
            if not (rate < 1e15 and u < 1.0):
                count[r, j] = real(np.nan)
                continue
            spread = 12.0 * math.sqrt(rate) + 12.0
            k, p = np.floor(rate - spread), exp(-rate)
            if k < STIRLING_FROM:
                k = 0.0
            else:
                x, i = (rate - k) / k, 1.0 / k
                p = exp(k * (log1p(x) - x) - 0.5 * log(k) - HALF_LOG_2PI - i * horner(i * i, STIRLING))
            total = p
            while total <= u and (k < rate or p > NO_MORE):
                k += 1.0
                p *= rate / k
                total += p
            count[r, j] = real(k)
