"""Stateless random numbers: a draw is a pure function of a key and of the position in the draw.

    k = key(0)                                   # four uint32 words; the only place where a seed enters
    eps = normal(fold_in(k, epoch, step), (100, 16))

There is no generator and no global state, so nothing has to be saved, restored or passed back: the same key gives the
same numbers in every thread, in any order of calls, after fork, and however a draw is split. Use a key for one draw;
derive as many as needed with `fold_in`. Elements are numbered in C order, and element i depends only on the key and i:
the first n elements of a longer draw are a shorter draw of the same key. (Not so `permutation`, which depends on n.)

A key may lie on a device, as a CuPy array of its four words. Draws there and `fold_in` then read it on the device, so that
a captured graph that is replayed draws by the key that the array holds at that time.

Generator: Philox4x32-10 (Salmon et al. 2011). The mapping from seeds to numbers is format 1 and fixed in every release:
bits, uniforms, Bernoulli draws and permutations to the last bit, normals to 4 ulp (a processor may fuse multiply and add).
Draws of different kinds from one key share their bits: `bernoulli(key, p)` is `uniform(key, p.shape, p.dtype) < p`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gvae.checks import FLOATS, check_floating
from gvae.errors import ConfigError, DeviceError, DTypeError, ShapeError
from gvae.runtime.compile import Use, registered
from gvae.runtime.device import empty, is_cuda, kernels_for, plain
from gvae.typing import Array, Key

__all__ = ["bernoulli", "bits", "fold_in", "fold_in_each", "key", "normal", "permutation", "rademacher", "uniform"]

_FOLD = 1 << 63  # blocks from here on make keys, blocks below make draws


def key(seed: int) -> Key:
    """The key of a seed.

    Parameters
    ----------
    seed : int
        In [0, 2^64).

    Returns
    -------
    array of uint32 (4,)
        The words (seed mod 2^32, seed / 2^32, 0, 0), with integer division.

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> gvae.random.key(2**32 + 7)
    array([7, 1, 0, 0], dtype=uint32)
    """
    s = _integer(seed, 64, "key: seed")
    return np.array([s & 0xFFFFFFFF, s >> 32, 0, 0], np.uint32)


def fold_in(key: Key, *ints: int) -> Key:
    """A new key, derived from a key and integers.

    Parameters
    ----------
    key : array of uint32 (4,)
    *ints : int
        In [0, 2^63), folded in one after the other; their order matters: fold_in(k, i, j) = fold_in(fold_in(k, i), j).

    Returns
    -------
    array of uint32 (4,)
        Where the key lies.

    Raises
    ------
    ConfigError
        An integer is outside [0, 2^63), or not an integer.
    ShapeError, DTypeError
        The key is not four uint32 words.

    Notes
    -----
    The words of fold_in(k, i) are block 2^63 + i of k, which no draw reads: derived keys are independent of each other and
    of the draws from k.

    Examples
    --------
    >>> k = gvae.random.key(0)
    >>> epoch, step = 3, 5
    >>> bool((gvae.random.fold_in(k, epoch, step) == gvae.random.fold_in(gvae.random.fold_in(k, epoch), step)).all())
    True
    >>> gvae.random.normal(gvae.random.fold_in(k, epoch, step), 3).round(3)
    array([ 0.928, -0.559,  0.297], dtype=float32)
    """
    k = _words(key, "fold_in", key).copy()
    kernels = kernels_for("random", k)
    for i in ints:
        block = empty((1, 4), np.uint32, k)
        kernels.philox(k, np.uint64(_FOLD | _integer(i, 63, "fold_in: integer")), block, 0, 1)
        k = block[0]
    return k


def fold_in_each(key: Key, start: int, n: int) -> NDArray[np.uint32]:
    """Keys of consecutive integers, fold_in(key, start + i) for i = 0 .. n - 1, in one pass.

    Parameters
    ----------
    key : array of uint32 (4,)
    start : int
        The first integer; all of them in [0, 2^63).
    n : int

    Returns
    -------
    array of uint32 (n, 4)

    Raises
    ------
    ConfigError, ShapeError, DTypeError

    Examples
    --------
    >>> k = gvae.random.key(0)
    >>> keys = gvae.random.fold_in_each(k, 5, 3)
    >>> keys.shape, bool((keys[1] == gvae.random.fold_in(k, 6)).all())
    ((3, 4), True)
    """
    k, first = _words(key, "fold_in_each", key), _integer(start, 63, "fold_in_each: start")
    (n,) = _shape(n, "fold_in_each", "n")
    _integer(first + max(n, 1) - 1, 63, "fold_in_each: the last integer")
    out = empty((n, 4), np.uint32, k)
    kernels_for("random", k).philox(k, np.uint64(_FOLD | first), out, 0, n)
    return out


def uniform(key: Key, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32, like: Array = None) -> NDArray[Any]:
    """Uniform random numbers in [0, 1).

    Parameters
    ----------
    key : array of uint32 (4,)
    shape : int or tuple of int
    dtype : dtype, default float32
        float32 or float64.
    like : array, optional
        An array on the device wanted; NumPy by default.

    Returns
    -------
    array (*shape)
        Multiples of 2^-24 in float32, of 2^-53 in float64.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> k = gvae.random.key(0)
    >>> gvae.random.uniform(k, (2, 2)).round(3)
    array([[0.399, 0.881],
           [0.736, 0.605]], dtype=float32)
    >>> gvae.random.uniform(k, 2).round(3)  # a shorter draw of the same key
    array([0.399, 0.881], dtype=float32)
    """
    return _draw("uniform", key, shape, dtype, like)


def normal(key: Key, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32, like: Array = None) -> NDArray[Any]:
    """Standard normal random numbers.

    Parameters
    ----------
    key : array of uint32 (4,)
    shape : int or tuple of int
    dtype : dtype, default float32
        float32 or float64.
    like : array, optional
        An array on the device wanted; NumPy by default.

    Returns
    -------
    array (*shape)

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Notes
    -----
    By Box-Muller in the arithmetic of dtype: no number exceeds 6.77 in size in float32, 8.66 in float64.

    Examples
    --------
    >>> k = gvae.random.key(0)
    >>> gvae.random.normal(k, 4).round(3)
    array([ 0.991, -0.925, -0.618, -0.482], dtype=float32)
    >>> eps = gvae.random.normal(k, (1000, 10), np.float64)
    >>> eps.mean().round(2), eps.std().round(2)
    (np.float64(-0.01), np.float64(1.0))
    """
    return _draw("normal", key, shape, dtype, like)


def bernoulli(key: Key, p: NDArray[Any]) -> NDArray[Any]:
    """Bernoulli random numbers: 1 with probability p, else 0.

    Parameters
    ----------
    key : array of uint32 (4,)
    p : array (...)
        float32 or float64. Not checked: that p lies in [0, 1]; NaN gives 0.

    Returns
    -------
    array (...)
        In the dtype of p: uniform(key, p.shape, p.dtype) < p, in one pass.

    Raises
    ------
    DTypeError, ShapeError, DeviceError

    Examples
    --------
    >>> gvae.random.bernoulli(gvae.random.key(2), np.array([0.0, 0.5, 0.5, 0.5, 1.0]))
    array([0., 0., 1., 0., 1.])
    """
    kernels = kernels_for("random", p)
    k = _words(key, "bernoulli", p)
    if not isinstance(p, np.ndarray | np.floating) and not is_cuda(p):
        raise DTypeError(f"bernoulli: p is {type(p).__name__}, expected a float32 or float64 array")
    source = plain(p if is_cuda(p) else np.asarray(p))
    out = empty((source.size,), check_floating(p=source, where="bernoulli"), source)
    kernels.bernoulli(k, source.reshape(-1), out, 0, _blocks(out))
    return out.reshape(source.shape)


def rademacher(key: Key, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32, like: Array = None) -> NDArray[Any]:
    """Random signs, +1 or -1.

    Parameters
    ----------
    key : array of uint32 (4,)
    shape : int or tuple of int
    dtype : dtype, default float32
        float32 or float64.
    like : array, optional
        An array on the device wanted; NumPy by default.

    Returns
    -------
    array (*shape)
        The top bits of `bits`, set for -1.

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.random.rademacher(gvae.random.key(0), 6, np.float64)
    array([ 1., -1., -1., -1., -1.,  1.])
    """
    signs = bits(key, shape, like) >> np.uint32(31)
    return 1 - 2 * signs.astype(_floating(dtype, "rademacher"))


def bits(key: Key, shape: int | tuple[int, ...], like: Array = None) -> NDArray[np.uint32]:
    """Random 32-bit words.

    Parameters
    ----------
    key : array of uint32 (4,)
    shape : int or tuple of int
    like : array, optional
        An array on the device wanted; NumPy by default.

    Returns
    -------
    array of uint32 (*shape)

    Raises
    ------
    ShapeError, DTypeError, DeviceError

    Examples
    --------
    >>> gvae.random.bits(gvae.random.key(0), 3)
    array([1713891541, 3781805453, 3159862348], dtype=uint32)
    """
    kernels = kernels_for("random", like)
    k, sizes = _words(key, "bits", like), _shape(shape, "bits")
    n = math.prod(sizes)
    out = empty((-(-n // 4), 4), np.uint32, like if is_cuda(like) else k)
    kernels.philox(k, np.uint64(0), out, 0, len(out))
    return out.reshape(-1)[:n].reshape(sizes)


def permutation(key: Key, n: int) -> NDArray[np.int64]:
    """A random permutation of 0 .. n - 1, each equally likely.

    Parameters
    ----------
    key : array of uint32 (4,)
    n : int

    Returns
    -------
    array of int64 (n,)
        The order of n 64-bit words.

    Raises
    ------
    ShapeError, DTypeError
    DeviceError
        The key lies on a device.

    Examples
    --------
    >>> gvae.random.permutation(gvae.random.key(0), 6)
    array([4, 5, 0, 3, 1, 2])
    """
    _words(key, "permutation")
    (n,) = _shape(n, "permutation", "n")
    high, low = bits(key, (n, 2)).astype(np.uint64).T
    return np.argsort((high << np.uint64(32)) | low, kind="stable").astype(np.int64, copy=False)


def _draw(name: str, key: Key, shape: Any, dtype: DTypeLike, like: Array) -> NDArray[Any]:
    kernels = kernels_for("random", like)
    k, sizes = _words(key, name, like), _shape(shape, name)
    out = empty((math.prod(sizes),), _floating(dtype, name), like if is_cuda(like) else k)
    getattr(kernels, name)(k, out, 0, _blocks(out))
    return out.reshape(sizes)


def _blocks(out: NDArray[Any]) -> int:
    """The number of blocks of 16 bytes in a draw."""
    return -(-out.nbytes // 16)


def _integer(value: Any, n_bits: int, what: str) -> int:
    try:
        i = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        i = -1
    if not 0 <= i < 1 << n_bits:
        raise ConfigError(f"{what} is {value!r}, expected an integer in [0, 2^{n_bits})")
    return i


def _words(key: Any, where: str, like: Array = None) -> Key:
    """The checked key as kernels read it. A key on a device serves draws on that device only, that of `like`."""
    there = type(key) is not np.ndarray and is_cuda(key)
    if there and not is_cuda(like):
        raise DeviceError(f"{where}: key is a CuPy array, which draws on its device only, and not here")
    if not (there or isinstance(key, np.ndarray)) or key.dtype != np.uint32:
        given = getattr(key, "dtype", type(key).__name__)
        raise DTypeError(f"{where}: key is {given}, expected four uint32 words as gvae.random.key(seed) returns")
    if key.shape != (4,):
        raise ShapeError(f"{where}: key has shape {key.shape}, expected (4,)")
    return plain(key)


def _shape(shape: Any, where: str, name: str = "shape") -> tuple[int, ...]:
    try:
        single = name == "n" or not hasattr(shape, "__iter__")
        sizes = (operator.index(shape),) if single else tuple(operator.index(s) for s in shape)
    except TypeError:
        sizes = (-1,)
    if min(sizes, default=0) < 0:
        raise ShapeError(f"{where}: {name} is {shape!r}, expected integers that are not negative")
    return sizes


def _floating(dtype: DTypeLike, where: str) -> np.dtype[Any]:
    try:
        given = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64: there is no default here
    except TypeError:
        given = None
    if given is None or given not in FLOATS:
        raise DTypeError(f"{where}: dtype is {dtype!r}, expected float32 or float64")
    return given


@registered
def _(dtype: np.dtype) -> Iterator[Use]:
    k = key(0)
    yield lambda _: (uniform(k, 3, dtype), normal(k, 3, dtype))
    yield lambda traced: bernoulli(k, traced(np.full(3, 0.5, dtype)))
    yield lambda _: bits(k, 3)
