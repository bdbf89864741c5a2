"""Random numbers without state: a draw is a pure function of a key and of the position in the draw.

    k = key(0)                                   # four uint32 words; the only place where a seed enters
    eps = normal(fold_in(k, epoch, step), (100, 16))

There is no generator and no global state, so nothing has to be saved, restored or passed back: the same key gives the
same numbers in every thread, in any order of calls, after fork, and however a draw is split. Use a key for one draw;
derive as many as needed with `fold_in`. Elements are numbered in C order, and element i depends on the key and i alone:
the first n elements of a longer draw are a shorter draw of the same key. (Not so `permutation`, which depends on n.)

A key may lie on a device, as a CuPy array of its four words: draws there and `fold_in` then read it there, so that whoever
launches them again (a captured graph) draws by the key that is there by then.

Generator: Philox4x32-10 (Salmon et al. 2011). The mapping from seeds to numbers is format 1 and fixed for ever: bits,
uniforms, Bernoulli draws and permutations to the last bit, normals to 4 ulp (a processor may fuse multiply and add).
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
from gvae.runtime.device import empty, is_cuda, kernels_for, namespace, plain

__all__ = ["bernoulli", "bits", "fold_in", "fold_in_each", "key", "normal", "permutation", "rademacher", "uniform"]

Key = NDArray[np.uint32]

_FOLD = 1 << 63  # blocks from here on make keys, blocks below make draws


def key(seed: int) -> Key:
    """The key of a seed in [0, 2^64): the words (seed mod 2^32, seed / 2^32, 0, 0). ConfigError for any other seed."""
    s = _integer(seed, 64, "key: seed")
    return np.array([s & 0xFFFFFFFF, s >> 32, 0, 0], np.uint32)


def fold_in(key: Key, *ints: int) -> Key:
    """A new key from a key and integers in [0, 2^63), folded in one after the other; their order matters.

    fold_in(k, i, j) = fold_in(fold_in(k, i), j). The words of fold_in(k, i) are block 2^63 + i of k, which no draw
    reads: derived keys are independent of each other and of the draws from k. Any other integer raises ConfigError.
    """
    k = _words(key, "fold_in", key).copy()
    xp, kernels = namespace(k), kernels_for("random", k)
    for i in ints:
        block = xp.empty((1, 4), np.uint32)
        kernels.philox(k, np.uint64(_FOLD | _integer(i, 63, "fold_in: integer")), block, 0, 1)
        k = block[0]
    return k


def fold_in_each(key: Key, start: int, n: int) -> NDArray[np.uint32]:
    """fold_in(key, start + i) for i = 0 .. n-1, all at once: (n, 4)."""
    k, first = _words(key, "fold_in_each", key), _integer(start, 63, "fold_in_each: start")
    (n,) = _shape(n, "fold_in_each", "n")
    _integer(first + max(n, 1) - 1, 63, "fold_in_each: the last integer")
    out = namespace(k).empty((n, 4), np.uint32)
    kernels_for("random", k).philox(k, np.uint64(_FOLD | first), out, 0, n)
    return out


def uniform(key: Key, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32, like: Any = None) -> NDArray[Any]:
    """Uniforms in [0, 1): multiples of 2^-24 in float32, of 2^-53 in float64.

    like: an array on the device wanted (default: NumPy). Raises ShapeError, DTypeError, DeviceError.
    """
    return _draw("uniform", key, shape, dtype, like)


def normal(key: Key, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32, like: Any = None) -> NDArray[Any]:
    """Standard normals by Box-Muller in the arithmetic of dtype; none is beyond 6.77 in float32, 8.66 in float64.

    like: an array on the device wanted (default: NumPy). Raises ShapeError, DTypeError, DeviceError.
    """
    return _draw("normal", key, shape, dtype, like)


def bernoulli(key: Key, p: NDArray[Any]) -> NDArray[Any]:
    """1 with probability p, else 0, in p's shape and dtype: uniform(key, p.shape, p.dtype) < p, in one pass.

    p: float32 or float64. Not checked: that p lies in [0, 1]; NaN gives 0. Raises DTypeError, DeviceError.
    """
    kernels = kernels_for("random", p)
    k = _words(key, "bernoulli", p)
    if not isinstance(p, np.ndarray | np.floating) and not is_cuda(p):
        raise DTypeError(f"bernoulli: p is {type(p).__name__}, expected a float32 or float64 array")
    source = plain(p if is_cuda(p) else np.asarray(p))
    out = empty((source.size,), check_floating(p=source, where="bernoulli"), source)
    kernels.bernoulli(k, source.reshape(-1), out, 0, _blocks(out))
    return out.reshape(source.shape)


def rademacher(key: Key, shape: int | tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Random signs, +1 or -1: the top bits of `bits`, set for -1. Raises ShapeError, DTypeError."""
    signs = bits(key, shape) >> np.uint32(31)
    return 1 - 2 * signs.astype(_floating(dtype, "rademacher"))


def bits(key: Key, shape: int | tuple[int, ...]) -> NDArray[np.uint32]:
    """Random 32-bit words. Raises ShapeError, DTypeError."""
    k, sizes = _words(key, "bits"), _shape(shape, "bits")
    n = math.prod(sizes)
    out = np.empty((-(-n // 4), 4), np.uint32)
    kernels_for("random").philox(k, np.uint64(0), out, 0, len(out))
    return out.reshape(-1)[:n].reshape(sizes)


def permutation(key: Key, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1, each equally likely: the order of n 64-bit words. Raises ShapeError, DTypeError."""
    _words(key, "permutation")
    (n,) = _shape(n, "permutation", "n")
    high, low = bits(key, (n, 2)).astype(np.uint64).T
    return np.argsort((high << np.uint64(32)) | low, kind="stable").astype(np.int64, copy=False)


def _draw(name: str, key: Key, shape: Any, dtype: DTypeLike, like: Any) -> NDArray[Any]:
    kernels = kernels_for("random", like)
    k, sizes = _words(key, name, like), _shape(shape, name)
    out = namespace(like).empty(math.prod(sizes), _floating(dtype, name))
    getattr(kernels, name)(k, out, 0, _blocks(out))
    return out.reshape(sizes)


def _blocks(out: NDArray[Any]) -> int:
    """How many blocks of 16 bytes fill a draw."""
    return -(-out.nbytes // 16)


def _integer(value: Any, n_bits: int, what: str) -> int:
    try:
        i = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        i = -1
    if not 0 <= i < 1 << n_bits:
        raise ConfigError(f"{what} is {value!r}, expected an integer in [0, 2^{n_bits})")
    return i


def _words(key: Any, where: str, like: Any = None) -> Key:
    """The key as kernels read it, checked; on a device only for what is drawn there, beside `like`."""
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
