"""Log-probability of Poisson counts in CSR whose rates are a product: topic models and factorisations of counts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np

from gvae.autodiff import primitive, value_of, vjp
from gvae.checks import check_floating, check_shapes
from gvae.errors import ConfigError, DataError, DeviceError, DTypeError
from gvae.ops._batching import broadcast, flat, owners, rows_of_factors
from gvae.ops.sparse import is_csr
from gvae.runtime import device
from gvae.runtime.compile import Use, registered
from gvae.runtime.device import is_cuda
from gvae.typing import Array, Cotangents, Needs

__all__ = ["CountMatrix", "poisson_counts_log_prob"]

WAYS = ("row", "column")
TABLE = 4096  # counts below this one have their log-factorials in a table
STEP = 16  # entries of a sum that a thread takes together: they fill a vector register


class CountMatrix:
    """Counts in CSR, checked and prepared once for all calls of `poisson_counts_log_prob` with them.

    The function also takes CSR matrices as they are, and then prepares them in each call: sums of log-factorials, and the
    order of the counts by columns. That takes about a third of the time of the call and its gradient.

    Parameters
    ----------
    x : CSR matrix (B, D)
        SciPy's or CuPy's, whole numbers of at least 0 of any real dtype. An entry in several parts is their sum. It must
        not be changed as long as this object is used.

    Raises
    ------
    DTypeError
        x is not a CSR matrix of real numbers.
    DataError
        Counts that are negative, fractional or not finite, or an index outside of x.

    Notes
    -----
    It is prepared in host memory. Its arrays go to the device of the other arguments at their first use there.

    Examples
    --------
    >>> import scipy.sparse
    >>> x = gvae.ops.CountMatrix(scipy.sparse.csr_array(np.array([[1, 0, 2], [0, 3, 0]])))
    >>> x.shape, x
    ((2, 3), CountMatrix(2 x 3, 3 counts))
    """

    def __init__(self, x: Array):
        self._x = _checked(x, "CountMatrix")
        self._made: dict[Any, tuple[Any, ...]] = {}

    @classmethod
    def _for(cls, x: Array, where: str) -> CountMatrix:
        """The counts of a matrix that was passed to another function."""
        made = cls.__new__(cls)
        made._x, made._made = _checked(x, where), {}
        return made

    @property
    def shape(self) -> tuple[int, int]:
        """(B, D).

        Examples
        --------
        >>> import scipy.sparse
        >>> gvae.ops.CountMatrix(scipy.sparse.csr_array(np.eye(3))).shape
        (3, 3)
        """
        return self._x.shape

    def __repr__(self) -> str:
        return f"CountMatrix({self.shape[0]} x {self.shape[1]}, {len(self._x.data)} counts)"

    def _rows(self, by: str, like: Array) -> tuple[Any, ...]:
        """(values, columns, pointers, sums of log x!) of the counts row by row, or column by column: those of the transpose.

        In the dtype and on the device of an array, as are the others.
        """
        return self._there(("counts", by), like, lambda: _rows_of(self._x) if by == "row" else _columns_of(self._x))

    def _columns(self, by: str, like: Array) -> tuple[Any, ...]:
        """(rows, pointers, places among the counts of `_rows`) in the order of the columns, or of the transpose's."""
        return self._there(("order", by), like, lambda: _by_columns(self._x) if by == "row" else _by_rows(self._x))

    def _there(self, name: tuple[str, str], like: Array, make: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        key = name, like.dtype, getattr(getattr(like, "data", None), "device_id", None)
        if key not in self._made:
            real = (each.astype(like.dtype if each.dtype.kind == "f" else np.int64, copy=False) for each in make())
            self._made[key] = tuple(device.beside(device.plain(each), like) for each in real)
            if is_cuda(like):  # other streams do not wait for this one's uploads
                sys.modules["cupy"].cuda.get_current_stream().synchronize()
        return self._made[key]


def _checked(x: Array, where: str) -> Array:
    """x in host memory, float64, with sorted columns and without duplicates."""
    if not is_csr(x):
        raise DTypeError(f"{where}: x is {type(x).__name__}, expected a CSR matrix")
    if x.dtype.kind not in "biuf":
        raise DTypeError(f"{where}: x is {x.dtype}, expected real numbers, integers or booleans")
    x = device.to_host(x)
    columns = x.indices
    if len(columns) and not (columns.min() >= 0 and columns.max() < x.shape[1]):
        t = int(((columns < 0) | (columns >= x.shape[1])).argmax())
        raise DataError(f"{where}: x has the column {columns[t]}, expected 0 to {x.shape[1] - 1}")
    if not x.has_canonical_format:
        x = x.astype(np.float64)  # a copy; small integers would wrap
        x.sum_duplicates()
    values = x.data
    if values.dtype.kind != "b" and len(values):
        with np.errstate(invalid="ignore"):
            good = (values >= 0) & (values < np.inf)
            good = good if values.dtype.kind in "iu" else good & (values == np.floor(values))
        if not good.all():
            t = int(good.argmin())
            row, column = int(np.searchsorted(x.indptr, t, side="right")) - 1, x.indices[t]
            raise DataError(
                f"{where}: x is {values[t]} at row {row}, column {column} (counted from 0), expected whole numbers of at "
                f"least 0; there are {len(good) - np.count_nonzero(good)} others in all"
            )
    return x


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """log x! of x = 0, 1, ... below TABLE."""
    return device.special(np.empty(0)).gammaln(np.arange(1.0, TABLE + 1))


def _log_factorials(values: np.ndarray) -> np.ndarray:
    if len(values) and values.max() >= TABLE:
        return device.special(np.empty(0)).gammaln(values.astype(np.float64) + 1)
    return _table()[values.astype(np.int64)]


def _sums_of(terms: np.ndarray, pointers: np.ndarray) -> np.ndarray:
    """The sum of each row's terms."""
    sums, filled = np.zeros(len(pointers) - 1), pointers[1:] > pointers[:-1]
    if len(terms):
        sums[filled] = np.add.reduceat(terms, pointers[:-1][filled])
    return sums


def _by_columns(x: Array) -> tuple[Any, ...]:
    """(rows, pointers, places) of the counts in the order of the columns."""
    places = type(x)((np.arange(len(x.data)), x.indices, x.indptr), shape=x.shape).tocsc()
    return places.indices, places.indptr, places.data


def _by_rows(x: Array) -> tuple[Any, ...]:
    """(columns, pointers, places) of the counts in the order of the rows, as they are; the places in that of the columns."""
    places = _by_columns(x)[2]
    back = np.empty_like(places)
    back[places] = np.arange(len(places))
    return x.indices, x.indptr, back


def _rows_of(x: Array) -> tuple[Any, ...]:
    return x.data.astype(np.float64), x.indices, x.indptr, _sums_of(_log_factorials(x.data), x.indptr)


def _columns_of(x: Array) -> tuple[Any, ...]:
    rows, pointers, places = _by_columns(x)
    values = x.data[places]
    return values.astype(np.float64), rows, pointers, _sums_of(_log_factorials(values), pointers)


def poisson_counts_log_prob(x: Array, z: Array, w: Array, *, by: str = "row") -> Array:
    """Log-probability of Poisson counts with rates z_b · w_d, summed over each row of x or over each column.

    Parameters
    ----------
    x : CSR matrix (B, D) or CountMatrix
        Whole numbers of at least 0; a constant. See `CountMatrix`, which avoids repeated preparation.
    z : array (..., B, H)
        Units of the rows, at least 0. Not checked.
    w : array (..., D, H)
        Weights of the columns, at least 0. Not checked. Batch axes, of samples, broadcast against those of z.
    by : str, default "row"
        "row" or "column".

    Returns
    -------
    array (..., B), or (..., D) by="column"
        Nats: Σ_d of x_bd log(z_b · w_d) - z_b · w_d - log x_bd!, or Σ_b. A count of 0 whose rate is 0 has probability 1, any
        other count -inf there, and then gradients are not finite.

    Raises
    ------
    ShapeError, DTypeError
    DeviceError
        x is SciPy's and the arrays CuPy's, or the reverse.
    DataError
        Counts that are negative, fractional or not finite.
    ConfigError
        An unknown `by`.

    Notes
    -----
    Rates are computed where x is not zero; all others enter by z_b · Σ_d w_d. So it takes time in proportion to the
    number of counts, E, and for a gradient the memory of E ratios x / rate in each sample; there is never an array B x D.
    If more than three in four entries have a count, rates are computed in panels by matrix products. Sums are of float64,
    or of parts in float32, in an order that does not depend on the number of threads. Source: the log-likelihood is that
    of Gopalan, Hofman and Blei (2015), section 2.

    Examples
    --------
    >>> import scipy.sparse
    >>> x = scipy.sparse.csr_array(np.array([[1, 0, 2], [0, 3, 0]]))
    >>> z, w = np.array([[1.0, 0.5], [0.2, 2.0]]), np.array([[1.0, 0.0], [0.5, 1.0], [1.0, 2.0]])
    >>> gvae.ops.poisson_counts_log_prob(x, z, w).round(4)
    array([-3.3069, -6.0659])
    >>> gvae.ops.poisson_counts_log_prob(x, z, w, by="column").round(4)
    array([-1.2   , -2.6659, -5.5069])
    >>> gvae.gradient(lambda z: gvae.ops.poisson_counts_log_prob(x, z, w).sum(), z).round(4)
    array([[-0.5   , -1.    ],
           [-1.7857, -1.5714]])
    """
    name = "poisson_counts_log_prob"
    if by not in WAYS:
        raise ConfigError(f"{name}: by is {by!r}, expected one of {', '.join(WAYS)}")
    given, prepared = {"z": value_of(z), "w": value_of(w)}, isinstance(x, CountMatrix)
    if not prepared and not is_csr(x):
        raise DTypeError(f"{name}: x is {type(x).__name__}, expected a CSR matrix or a CountMatrix")
    check_floating(where=name, **given)
    if not prepared and is_cuda(x) != is_cuda(given["z"]):
        kinds = ("CuPy", "NumPy") if is_cuda(x) else ("SciPy", "CuPy")
        raise DeviceError(f"{name}: x is a {kinds[0]} matrix and z a {kinds[1]} array, expected both on one device")
    check_shapes("x: B D, z: ... B H, w: ... D H", where=name, x=x, **given)
    if not prepared:
        x = CountMatrix._for(x, name)
    return _poisson(z, w, x=x, by=by) if by == "row" else _poisson(w, z, x=x, by=by)


def _samples(z: Array, w: Array) -> tuple[tuple[int, ...], Any, Any, Any, Any]:
    """The batch axes of both, flat z and w, and which of them each sample uses."""
    batch = broadcast(z.shape[:-2], w.shape[:-2])
    return batch, flat(z, 2), owners(z.shape[:-2], batch), flat(w, 2), owners(w.shape[:-2], batch)


def _sums(scale: Array, a: Array, a_of: Any) -> Array:
    """(K, H): Σ_i scale[k, i] a[a_of[k], i], or without the scale for scale (0, M)."""
    total = device.empty((len(a_of), a.shape[2]), a.dtype, a)
    work = total.size * a.shape[1]
    device.launch("counts", "sums", device.plain(scale), a, a_of, total, n=total.size, work=work, step=STEP)
    return total


@primitive(saves=True)
def _poisson(z: Array, w: Array, *, x: CountMatrix, by: str, save: bool = False) -> Any:
    """The columns of x are the rows of its transpose: by="column" z and w have changed places."""
    batch, units, z_of, weights, w_of = _samples(z, w)
    counts, K, (_, B, H) = x._rows(by, units), math.prod(batch), units.shape
    total = _sums(device.empty((0, weights.shape[1]), z.dtype, z), weights, np.arange(len(weights)))
    log_prob = device.empty((K, B), z.dtype, z)
    ratio = device.empty((K if save else 0, len(counts[0])), z.dtype, z)
    arrays = *counts, units, z_of, weights, w_of, total, log_prob, ratio
    device.launch("counts", "poisson", *arrays, n=log_prob.size, work=K * (B + ratio.shape[1]) * H)
    value = log_prob.reshape(*batch, B)
    return (value, (ratio, total)) if save else value


@_poisson.vjp(owned=True)
def _(y_bar: Array, y: Array, z: Array, w: Array, *, needs: Needs, x: CountMatrix, by: str, saved: Any) -> Cotangents:
    # with r = x / rate:  z̄_b = s_b (Σ_d r_bd w_d - Σ_d w_d),  w̄_d = Σ_b s_b (r_bd z_b - z_b); r is 0 where x is
    ratio, total = saved
    batch, units, z_of, weights, w_of = _samples(z, w)
    _, B, H = units.shape
    s, work = device.plain(y_bar).reshape(len(z_of), B), len(z_of) * (B + ratio.shape[1]) * H
    z_bar = w_bar = None
    if needs[0]:
        z_bar, samples = device.empty(units.shape, y.dtype, y), rows_of_factors(z.shape[:-2], batch)
        _, columns, pointers, _ = x._rows(by, units)
        arrays = s, columns, pointers, ratio, weights, w_of, total, samples, z_bar
        device.launch("counts", "poisson_vjp", *arrays, n=len(units) * B, work=work)
        z_bar = z_bar.reshape(z.shape)
    if needs[1]:
        w_bar, samples = device.empty(weights.shape, y.dtype, y), rows_of_factors(w.shape[:-2], batch)
        of_all = _sums(s, units, z_of)[device.beside(samples, s)].sum(axis=1)
        given = s, *x._columns(by, units), ratio, units, z_of, of_all, samples, w_bar
        device.launch("counts", "poisson_weight_vjp", *given, n=len(weights) * weights.shape[1], work=work)
        w_bar = w_bar.reshape(w.shape)
    return z_bar, w_bar


@registered
def _(dtype: np.dtype) -> Iterator[Use]:
    from scipy import sparse

    x = CountMatrix(sparse.csr_array(np.eye(2)))
    yield partial(_used, x, np.ones((2, 3), dtype))


def _used(x: CountMatrix, z: np.ndarray, traced: Callable[[np.ndarray], Any]) -> None:
    value, pull = vjp(partial(_poisson, x=x, by="row"), traced(z), traced(z))
    pull(value)
