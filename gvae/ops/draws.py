"""Draws of bits, categories, counts and gamma variables as operations: recorded, captured and replayed like any other.

Those of gamma variables are differentiable, and those of bits may have a surrogate derivative. A draw h of a logit a has no
derivative; the argument `path` names the surrogate for dh/da:

    None              none: objectives take the score function
    taylor            |h - sigmoid(a)| / 2, the estimator of DARN: unbiased for functions that are quadratic in h
    straight_through  sigmoid'(a)

For DARN's rule: with q = sigmoid(a), grad q(h) / (2 q(h)) f'(h) has for h = 1 the slope q (1 - q) / (2 q) = (1 - q) / 2, and
for h = 0 the slope q / 2. Source: Gregor, Danihelka, Mnih, Blundell and Wierstra (2014), section 3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae.autodiff import primitive, value_of
from gvae.checks import check_arrays, check_floating
from gvae.errors import ConfigError, ShapeError
from gvae.ops import elementwise
from gvae.ops._batching import broadcast, flat, owners, widened
from gvae.ops.elementwise import unbroadcast
from gvae.runtime import device
from gvae.runtime.compile import Use, registered
from gvae.typing import Array, Cotangents, Needs

__all__ = [
    "PATHS",
    "autoregressive_draw",
    "bernoulli_draw",
    "categorical_draw",
    "keep",
    "log_gamma_draw",
    "nade_draw",
    "nade_log_prob",
    "poisson_draw",
    "strict_triangle",
]

PATHS = ("taylor", "straight_through")
GAMMA_WORK = 60  # elements that could be accessed in the time of a draw
UNITS = 32  # hidden units of NADE that a thread takes together: their loops fill vector registers


def bernoulli_draw(logits: Array, uniform: Array, *, path: str | None = None) -> Array:
    """Draws of independent binary variables: 1 where uniform < sigmoid(logits), else 0.

    Parameters
    ----------
    logits, uniform : array (..., N)
    path : {None, "taylor", "straight_through"}
        The surrogate for the derivative of a draw in its logit, see `gvae.ops.draws`.

    Returns
    -------
    array (..., N)

    Raises
    ------
    ShapeError, DTypeError
    ConfigError
        An unknown path.

    Examples
    --------
    >>> logits, uniform = np.array([2.0, 2.0]), np.array([0.5, 0.95])
    >>> gvae.ops.bernoulli_draw(logits, uniform)
    array([1., 0.])
    >>> gvae.gradient(lambda a: gvae.ops.bernoulli_draw(a, uniform, path="taylor").sum(), logits).round(4)
    array([0.0596, 0.4404])
    """
    _check_path("bernoulli_draw", path)
    check_arrays("logits: ... N, uniform: ... N", where="bernoulli_draw", logits=logits, uniform=uniform)
    return _bernoulli_draw(value_of(logits) if path is None else logits, uniform, path=path)


@primitive(saves=True)
def _bernoulli_draw(logits: Array, uniform: Array, *, path: str | None, save: bool = False) -> Any:
    p = elementwise.sigmoid(logits)
    one, zero = uniform < p, uniform >= p
    draw = np.where(one | zero, one.astype(p.dtype), uniform + p)  # NaN where one of them is
    return (draw, p) if save else draw


@_bernoulli_draw.vjp
def _(h_bar: Array, h: Array, logits: Array, uniform: Array, *, needs: Needs, path: str | None, saved: Any) -> Cotangents:
    return unbroadcast(h_bar * _slope(path, h, saved), logits.shape), None


def keep(uniform: Array, rate: Any) -> Array:
    """Which entries are kept when each is dropped with a probability: 1 where uniform >= rate, else 0.

    Parameters
    ----------
    uniform : array
        Uniform numbers in [0, 1).
    rate : float or array
        The probability of being dropped; broadcasts.

    Returns
    -------
    array
        In the shape and the dtype of `uniform`. A constant: no derivative passes.

    Raises
    ------
    DTypeError
    ConfigError
        A rate that is not a number from 0 to 1. The entries of an array are not checked.

    Examples
    --------
    >>> gvae.ops.keep(np.array([0.1, 0.3, 0.9]), 0.25)
    array([0., 1., 1.])
    """
    check_floating(where="keep", uniform=uniform)
    if not hasattr(rate, "dtype") and not (isinstance(rate, (int, float)) and 0 <= rate <= 1):
        raise ConfigError(f"keep: rate is {rate!r}, expected a number from 0 to 1")
    return _keep(uniform, rate)


@functools.partial(primitive, differentiable=False)
def _keep(uniform: Array, rate: float) -> Array:
    return np.where(uniform == uniform, (uniform >= rate).astype(uniform.dtype), uniform)  # NaN where it is


def _slope(path: str | None, h: Array, p: Any) -> Array:
    """The surrogate for dh/da at a draw h of probability p."""
    return 0.5 * np.abs(h - p) if path == "taylor" else p * (1 - p)


def _check_path(name: str, path: str | None) -> None:
    if path is not None and path not in PATHS:
        raise ConfigError(f"{name}: path is {path!r}, expected None or one of {', '.join(PATHS)}")


@functools.partial(primitive, differentiable=False)
def categorical_draw(logits: Array, uniform: Array) -> Array:
    """Draws of independent categories: the number of classes whose cumulative probability is at most the uniform number.

    Parameters
    ----------
    logits : array (..., N, C)
    uniform : array (..., N)
        In [0, 1).

    Returns
    -------
    array (..., N)
        Class numbers 0 .. C - 1. No derivative passes through them.

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.categorical_draw(np.log([[0.5, 0.25, 0.25]]), np.array([[0.4], [0.6], [0.9]])).ravel()
    array([0., 1., 2.])
    """
    check_arrays("logits: ... N C, uniform: ... N", where="categorical_draw", logits=logits, uniform=uniform)
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    below = np.cumsum(p, axis=-1)
    below = below[..., :-1] / below[..., -1:]
    wrong = uniform + below.sum(axis=-1)  # NaN where one of them is
    return np.where(wrong == wrong, (uniform[..., None] >= below).sum(axis=-1).astype(uniform.dtype), wrong)


@functools.partial(primitive, differentiable=False)
def poisson_draw(log_rate: Array, uniform: Array) -> Array:
    """Draws of independent Poisson counts: the smallest k with P(x <= k) > uniform.

    Parameters
    ----------
    log_rate, uniform : array (..., N)
        uniform in [0, 1).

    Returns
    -------
    array (..., N)
        No derivative passes through them.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    In float64: probabilities are added up from 12 deviations below the mean.

    Examples
    --------
    >>> gvae.ops.poisson_draw(np.log([1.0, 1.0, 100.0]), np.array([0.3, 0.7, 0.5]))
    array([  0.,   1., 100.])
    """
    sizes = check_arrays("log_rate: ... N, uniform: ... N", where="poisson_draw", log_rate=log_rate, uniform=uniform)
    size = (*sizes["..."], sizes["N"])
    u = flat(widened(uniform, size), 1)
    k = device.empty(u.shape, u.dtype, u)
    given = flat(log_rate, 1), owners(log_rate.shape[:-1], sizes["..."]), u, k
    device.launch("gamma", "poisson_quantile", *given, n=len(u), work=u.size * GAMMA_WORK)
    return k.reshape(size)


def on_host(*arrays: Array) -> tuple[np.ndarray, ...]:
    """In host memory and float64: CuPy does not have the inverses of distribution functions."""
    return tuple(device.to_host(a).astype(np.float64) for a in arrays)


def smallest_count(guess: Any, u: Array, cdf: Any) -> Array:
    """The smallest k with P(x <= k) > u, from a guess that may be off by one."""
    k = np.maximum(np.ceil(guess), 0)
    k = np.where((k > 0) & (cdf(np.maximum(k - 1, 0)) > u), k - 1, k)
    return np.where(cdf(k) > u, k, k + 1)


@primitive(contract="shape: ... N, uniform: ... N")
def log_gamma_draw(shape: Any, uniform: Array) -> Array:
    """Draws of y = log z, where z is gamma-distributed with the given shape and rate 1: P(shape, z) = uniform.

    Parameters
    ----------
    shape : array (..., N)
        Positive and finite; NaN results elsewhere.
    uniform : array (..., N)
        In [0, 1). A 0 counts as half the smallest number that `gvae.random.uniform` draws, 2^-25 in float32 and 2^-54 in
        float64, so that every draw is finite.

    Returns
    -------
    array (..., N)
        In the logarithm, as e^y underflows at small shapes. Differentiable in both arguments: the derivative in the shape
        is that of the draw at a fixed uniform number.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    P is the regularised lower incomplete gamma function. For shapes from 1e-3 to 1e6 and any uniform in (0, 1), y has an
    error of 3e-12, or 2 ulp where that is more, and dy/dshape = -(dP/dshape) / (z p(z)) a relative error of 3e-12.
    float32 arrays are computed in float64 and rounded. Source of the derivative: Figurnov, Mohamed and Mnih (2018).

    Examples
    --------
    >>> gvae.ops.log_gamma_draw(np.array([0.01, 1.0, 100.0]), np.array([0.5, 0.5, 0.5])).round(4)
    array([-69.8837,  -0.3665,   4.6018])
    >>> gvae.gradient(lambda a: gvae.ops.log_gamma_draw(a, np.array([0.5])).sum(), np.array([100.0])).round(6)
    array([0.010033])
    """
    sizes = check_arrays(log_gamma_draw.contract, where="log_gamma_draw", shape=shape, uniform=uniform)
    size = (*sizes["..."], sizes["N"])
    u = flat(widened(uniform, size), 1)
    y, least = device.empty(u.shape, u.dtype, u), u.dtype.type(2.0 ** -(np.finfo(u.dtype).nmant + 2))
    given = flat(shape, 1), owners(shape.shape[:-1], sizes["..."]), u, least, y
    device.launch("gamma", "quantile", *given, n=len(u), work=u.size * GAMMA_WORK)
    return y.reshape(size)


@log_gamma_draw.vjp(owned=True)
def _(y_bar: Array, y: Array, shape: Array, uniform: Array, *, needs: Needs) -> Cotangents:
    shape_bar = u_bar = None
    if needs[0]:
        bars, size = flat(device.plain(y_bar), 1), y.shape
        shape_bar = device.empty(bars.shape, bars.dtype, bars)
        given = bars, flat(shape, 1), owners(shape.shape[:-1], size[:-1]), flat(y, 1), shape_bar
        device.launch("gamma", "quantile_vjp", *given, n=len(bars), work=bars.size * GAMMA_WORK // 2)
        shape_bar = unbroadcast(shape_bar.reshape(size), shape.shape)
    if needs[1]:  # dy/du = 1 / (z p(z))
        a, x = shape.astype(np.float64), y.astype(np.float64)
        slope = np.exp(np.exp(x) - a * x + device.special(a).gammaln(a))
        u_bar = unbroadcast((y_bar * slope).astype(y.dtype), uniform.shape)
    return shape_bar, u_bar


# ---- autoregressive logits -----------------------------------------------------------------------


@lru_cache(maxsize=16)
def _above(n: int) -> np.ndarray:
    """Positions above the diagonal of an n x n matrix, row by row."""
    rows, columns = np.triu_indices(n, 1)
    found = rows * n + columns
    found.setflags(write=False)
    return found


@primitive
def strict_triangle(entries: Array, *, n: int) -> Array:
    """Matrix with the given entries above its diagonal, row by row, and zeros elsewhere.

    Parameters
    ----------
    entries : array (..., n (n - 1) / 2)
    n : int

    Returns
    -------
    array (..., n, n)

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> gvae.ops.strict_triangle(np.array([1.0, 2.0, 3.0]), n=3)
    array([[0., 1., 2.],
           [0., 0., 3.],
           [0., 0., 0.]])
    """
    check_arrays("entries: ... K", where="strict_triangle", entries=entries)
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ShapeError(f"strict_triangle: n is {n!r}, expected an integer of at least 0")
    size = n * (n - 1) // 2
    if entries.shape[-1:] != (size,):
        raise ShapeError(f"strict_triangle: entries has shape {entries.shape}, expected (..., {size}) for n = {n}")
    result = device.zeros((*entries.shape[:-1], n * n), entries.dtype, entries)
    result[..., device.beside(_above(n), entries)] = entries
    return result.reshape(*entries.shape[:-1], n, n)


@strict_triangle.vjp
def _(y_bar: Array, y: Array, entries: Array, *, needs: Needs, n: int) -> Cotangents:
    return (y_bar.reshape(*y_bar.shape[:-2], n * n)[..., device.beside(_above(n), y_bar)],)


@lru_cache(maxsize=16)
def _triangle(n: int, dtype: DTypeLike) -> np.ndarray:
    """Ones above the diagonal."""
    found = np.triu(np.ones((n, n), dtype), 1)
    found.setflags(write=False)
    return found


def autoregressive_draw(bias: Array, weight: Array, uniform: Array, *, path: str | None = None) -> Array:
    """Draws h_j = 1 where uniform_j < sigmoid(a_j), else 0, one after the other: a_j = bias_j + Σ_{i<j} h_i weight_ij.

    Parameters
    ----------
    bias : array (..., D)
    weight : array (..., D, D)
        Only what lies above the diagonal is read.
    uniform : array (..., D)
    path : {None, "taylor", "straight_through"}
        The surrogate for the derivative of a draw in its logit, see `gvae.ops.draws`. It acts on later units, too: their
        distributions depend on the draw. This is closer to the gradient than with the others fixed, and not exact even for
        linear functions.

    Returns
    -------
    array (..., D)

    Raises
    ------
    ShapeError, DTypeError
    ConfigError
        An unknown path.

    Examples
    --------
    >>> bias, weight = np.zeros(3), np.full((3, 3), 5.0)
    >>> gvae.ops.autoregressive_draw(bias, weight, np.array([0.4, 0.9, 0.9]))  # the first unit turns the others on
    array([1., 1., 1.])
    >>> gvae.ops.autoregressive_draw(bias, weight, np.array([0.6, 0.9, 0.9]))
    array([0., 0., 0.])
    """
    _check_path("autoregressive_draw", path)
    if path is None:
        bias, weight = value_of(bias), value_of(weight)
    return _autoregressive_draw(bias, weight, uniform, path=path)


@primitive(saves=True, contract="bias: ... D, weight: ... D D, uniform: ... D", settings={"path": ("taylor",)})
def _autoregressive_draw(bias: Array, weight: Array, uniform: Array, *, path: str | None, save: bool = False) -> Any:
    given = {"bias": bias, "weight": weight, "uniform": uniform}
    sizes = check_arrays(_autoregressive_draw.contract, where="autoregressive_draw", **given)
    batch, D = sizes["..."], sizes["D"]
    u = flat(widened(uniform, (*batch, D)), 1)
    draw, logits = (device.empty(u.shape, u.dtype, u) for _ in range(2))
    shared = flat(bias, 1), owners(bias.shape[:-1], batch), flat(weight, 2), owners(weight.shape[:-2], batch)
    device.launch("scan", "autoregressive_draw", u, *shared, draw, logits, n=len(u), work=u.size * (8 + D // 8))
    draw = draw.reshape(*batch, D)
    return (draw, logits) if save else draw


@_autoregressive_draw.vjp
def _(
    h_bar: Array, h: Array, bias: Array, weight: Array, uniform: Array, *, needs: Needs, path: str | None, saved: Any
) -> Cotangents:
    # down the units: a_j's cotangent is slope_j (h_bar_j + sum_{k>j} U_jk a_bar_k); then b_bar = a_bar, U_bar = h a_barᵀ
    batch, D = h.shape[:-1], h.shape[-1]
    slope = _slope(path, h.reshape(-1, D), elementwise.sigmoid(saved))
    bars, a_bar = flat(device.plain(h_bar), 1), device.empty(slope.shape, h.dtype, h)
    given = bars, device.plain(slope), flat(weight, 2), owners(weight.shape[:-2], batch), a_bar
    device.launch("scan", "autoregressive_draw_vjp", *given, n=len(a_bar), work=a_bar.size * (8 + D // 4))
    weight_bar = None
    if needs[1]:
        above = device.beside(_triangle(D, h.dtype), h)
        if weight.ndim == 2:
            weight_bar = (h.reshape(-1, D).T @ a_bar) * above
        else:
            outer = h[..., :, None] * a_bar.reshape(*batch, D)[..., None, :]
            weight_bar = unbroadcast(outer, weight.shape) * above
    return unbroadcast(a_bar.reshape(*batch, D), bias.shape) if needs[0] else None, weight_bar, None


# ---- NADE ----------------------------------------------------------------------------------------

_NADE = "bias: ... D, hidden: ... H, weight: ... D H, out_weight: ... D H"


@primitive(saves=True, contract=f"x: ... D, {_NADE}")
def nade_log_prob(x: Array, bias: Array, hidden: Array, weight: Array, out_weight: Array, *, save: bool = False) -> Any:
    """Log-probability of binary x under NADE: logits t_j = bias_j + V_j · sigmoid(a_j), a_j = hidden + Σ_{i<j} x_i W_i.

    Parameters
    ----------
    x : array (..., D)
        Zeros and ones. Not checked.
    bias : array (..., D)
    hidden : array (..., H)
    weight, out_weight : array (..., D, H)
        W and V.
    save : bool, default False
        For the tape, which passes True where a gradient is wanted: also return x - sigmoid(t).

    Returns
    -------
    array (...)
        Nats; batch axes broadcast.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    The hidden units change only where x_j = 1, so that a row takes D H multiplications and as many logistic functions as H
    times its ones. The derivative runs the recurrence down again and stores nothing of it. Source: Larochelle and Murray
    (2011).

    Examples
    --------
    >>> x, bias, hidden = np.array([1.0, 0.0]), np.zeros(2), np.zeros(1)
    >>> weight, out_weight = np.array([[100.0], [0.0]]), np.array([[0.0], [2.0]])
    >>> gvae.ops.nade_log_prob(x, bias, hidden, weight, out_weight).round(4)  # log 1/2 + log(1 - sigmoid(2))
    np.float64(-2.8201)
    """
    given = {"x": x, "bias": bias, "hidden": hidden, "weight": weight, "out_weight": out_weight}
    sizes = check_arrays(nade_log_prob.contract, where="nade_log_prob", **given)
    batch, D = sizes["..."], sizes["D"]
    data, R = flat(x, 1), math.prod(batch)
    log_prob = device.empty((R,), data.dtype, data)
    residual = device.empty((R if save else 0, D), data.dtype, data)
    rows, shared = owners(x.shape[:-1], batch), _shared(batch, bias, hidden, weight, out_weight)
    work = R * D * (8 + sizes["H"])
    device.launch("scan", "nade", data, rows, *shared, log_prob, residual, n=R, work=work)
    value = log_prob.reshape(batch)
    return (value, residual) if save else value


@nade_log_prob.vjp
def _(
    y_bar: Array,
    y: Array,
    x: Array,
    bias: Array,
    hidden: Array,
    weight: Array,
    out_weight: Array,
    *,
    needs: Needs,
    saved: Any,
) -> Cotangents:
    batch, (D, H) = y.shape, weight.shape[-2:]
    s, data, rows = device.plain(y_bar).reshape(-1), flat(x, 1), owners(x.shape[:-1], batch)
    logit_bar = device.apply(np.multiply, saved, s[:, None])
    b, b_rows, c, W, V, w_rows = _shared(batch, bias, hidden, weight, out_weight)
    x_bar = hidden_bar = weight_bar = out_weight_bar = None
    if needs[0]:
        x_bar = device.empty(logit_bar.shape, y.dtype, y)
        given = data, rows, b, b_rows, c, W, V, w_rows, logit_bar, s, x_bar
        device.launch("scan", "nade_input_vjp", *given, n=len(s), work=len(s) * D * H * 2)
        x_bar = unbroadcast(x_bar.reshape(*batch, D), x.shape)
    if any(needs[2:]):
        hidden_bar = device.empty((len(s), H), y.dtype, y)
        bars = [device.empty(W.shape, y.dtype, y) for _ in range(2)]
        given = data, rows, c, b_rows, W, V, w_rows, logit_bar, hidden_bar, *bars
        device.launch("scan", "nade_vjp", *given, n=H, work=len(s) * D * H * 2, step=UNITS)
        hidden_bar = unbroadcast(hidden_bar.reshape(*batch, H), hidden.shape)
        lead = broadcast(weight.shape[:-2], out_weight.shape[:-2])
        weight_bar, out_weight_bar = (
            unbroadcast(bar.reshape(*lead, D, H), each.shape) for bar, each in zip(bars, (weight, out_weight), strict=True)
        )
    bias_bar = unbroadcast(logit_bar.reshape(*batch, D), bias.shape) if needs[1] else None
    return x_bar, bias_bar, hidden_bar, weight_bar, out_weight_bar


@functools.partial(primitive, differentiable=False, contract=f"uniform: ... D, {_NADE}")
def nade_draw(uniform: Array, bias: Array, hidden: Array, weight: Array, out_weight: Array) -> Array:
    """Draws of NADE's binary variables, one after the other: 1 where uniform_j < sigmoid(t_j), else 0; not differentiable.

    Parameters
    ----------
    uniform : array (..., D)
    bias : array (..., D)
    hidden : array (..., H)
    weight, out_weight : array (..., D, H)
        As for `nade_log_prob`.

    Returns
    -------
    array (..., D)

    Raises
    ------
    ShapeError, DTypeError

    Examples
    --------
    >>> bias, hidden = np.zeros(2), np.zeros(1)
    >>> weight, out_weight = np.array([[100.0], [0.0]]), np.array([[0.0], [9.0]])
    >>> gvae.ops.nade_draw(np.array([0.4, 0.9]), bias, hidden, weight, out_weight)
    array([1., 1.])
    """
    given = {"uniform": uniform, "bias": bias, "hidden": hidden, "weight": weight, "out_weight": out_weight}
    sizes = check_arrays(nade_draw.contract, where="nade_draw", **given)
    batch, D = sizes["..."], sizes["D"]
    u = flat(widened(uniform, (*batch, D)), 1)
    draw, shared = device.empty(u.shape, u.dtype, u), _shared(batch, bias, hidden, weight, out_weight)
    device.launch("scan", "nade_draw", u, *shared, draw, n=len(u), work=u.size * (8 + sizes["H"]))
    return draw.reshape(*batch, D)


def _shared(batch: tuple[int, ...], bias: Array, hidden: Array, weight: Array, out_weight: Array) -> tuple[Any, ...]:
    """bias, its rows, hidden, weights and their rows, flat: bias and hidden have the same rows, and so have the weights."""
    lead = broadcast(bias.shape[:-1], hidden.shape[:-1])
    b, c = (flat(widened(x, (*lead, x.shape[-1])), 1) for x in (bias, hidden))
    above = broadcast(weight.shape[:-2], out_weight.shape[:-2])
    W, V = (flat(widened(x, (*above, *x.shape[-2:])), 2) for x in (weight, out_weight))
    return b, owners(lead, batch), c, W, V, owners(above, batch)


@registered
def _(dtype: np.dtype) -> Iterator[Use]:
    x = np.ones((2, 3), dtype)
    yield lambda traced: poisson_draw(traced(x), traced(x / 2))
    yield lambda traced: elementwise.stirling(traced(x))
