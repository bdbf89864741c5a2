"""A coder for bits-back coding, on asymmetric numeral systems (rANS), of as many rows at once as it has heads.

A row costs -log2 p(x|z) - log2 p(z) + log2 q(z|x) bits: z is decoded from what is on the stack already, by q(z|x), then x
and z are encoded, by p(x|z) and p(z). On average over rows these are -ELBO / ln 2 bits. The coder does not depend on
families: distributions give the distribution function of each variable given those before it (`Distribution.conditionals`),
and an alphabet cuts it into symbols. Sources: Duda (2009) for rANS; Townsend, Bird and Barber (2019) for bits back with it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from gvae import random
from gvae.distributions import Distribution
from gvae.errors import ConfigError, DataError
from gvae.typing import Key

__all__ = ["Bins", "Coder", "Whole", "alphabet", "pop", "push"]

LEAST = 32  # bits of a head that always remain: words of 32 bits move between heads of 64 bits and the stack
COUNTS = 2**16  # symbols of a variable that has no largest value
BINS = 2**16  # bins of a real-valued code
MAGIC = b"gvae-bits-1\n"


class Coder:
    """Heads of 64 bits and a stack of words of 32 bits, from which symbols are taken in the reverse order.

    Parameters
    ----------
    heads : array (H,) of uint64
        Each is at least 2^32.
    words : array of uint32

    Examples
    --------
    >>> coder = gvae.evaluation.Coder.start(gvae.random.key(0), heads=2, words=3)
    >>> before = coder.tobytes()
    >>> coder.encode(np.array([0, 192]), np.array([64, 64]), bits=8)  # symbols of probability 1/4
    >>> interval = coder.peek(2, bits=8)
    >>> coder.remove(np.array([0, 192]), np.array([64, 64]), bits=8)
    >>> (interval // 64).tolist(), coder.tobytes() == before
    ([0, 3], True)
    """

    def __init__(self, heads: np.ndarray, words: np.ndarray):
        self.heads = heads
        self._words, self._n = words, len(words)
        self.least = self._n  # words that have never been taken

    @classmethod
    def start(cls, key: Key, heads: int, words: int) -> Coder:
        """A coder with random bits to begin with, which decoding gives back.

        Parameters
        ----------
        key : array (4,)
        heads, words : int

        Returns
        -------
        Coder

        Examples
        --------
        >>> len(gvae.evaluation.Coder.start(gvae.random.key(0), heads=2, words=3))
        224
        """
        drawn = random.bits(key, heads + words)
        return cls(drawn[:heads].astype(np.uint64) + np.uint64(2**LEAST), drawn[heads:])

    def __len__(self) -> int:
        """The number of bits: 32 for each word and 64 for each head."""
        return 32 * self._n + 64 * len(self.heads)

    @property
    def bits(self) -> float:
        """The information in it: 32 bits a word and log2 of each head.

        Examples
        --------
        >>> coder = gvae.evaluation.Coder(np.array([2**32, 2**33], np.uint64), np.zeros(3, np.uint32))
        >>> coder.bits
        161.0
        """
        return 32 * self._n + float(np.log2(self.heads.astype(np.float64)).sum())

    def encode(self, start: np.ndarray, size: np.ndarray, bits: int) -> None:
        """Put a symbol on each of the first heads: that of the interval [start, start + size) of [0, 2^bits).

        Parameters
        ----------
        start, size : array (R,)
            Whole numbers; R is at most the number of heads.
        bits : int
            At most 32.

        Examples
        --------
        >>> coder = gvae.evaluation.Coder(np.array([2**32], np.uint64), np.zeros(0, np.uint32))
        >>> before = coder.bits
        >>> coder.encode(np.array([0]), np.array([64]), bits=8)
        >>> coder.bits - before
        2.0
        """
        start, size = start.astype(np.uint64), size.astype(np.uint64)
        head = self.heads[: len(start)]
        full = (head >> np.uint64(64 - bits)) >= size
        self._push((head[full] & np.uint64(2**32 - 1)).astype(np.uint32))
        head[full] >>= np.uint64(32)
        head[:] = ((head // size) << np.uint64(bits)) + head % size + start

    def peek(self, rows: int, bits: int) -> np.ndarray:
        """For each of the first heads a number in the interval of its last symbol.

        Parameters
        ----------
        rows, bits : int

        Returns
        -------
        array (rows,) of int64

        Examples
        --------
        >>> gvae.evaluation.Coder(np.array([2**32 + 7], np.uint64), np.zeros(0, np.uint32)).peek(1, bits=8)
        array([7])
        """
        return (self.heads[:rows] & np.uint64(2**bits - 1)).astype(np.int64)

    def remove(self, start: np.ndarray, size: np.ndarray, bits: int) -> None:
        """Take the symbol off each of the first heads that `encode` put there.

        Parameters
        ----------
        start, size : array (R,)
        bits : int

        Raises
        ------
        DataError
            The stack has no more words: the stream ends too early.

        Examples
        --------
        >>> coder = gvae.evaluation.Coder(np.array([2**34], np.uint64), np.zeros(0, np.uint32))
        >>> coder.remove(np.array([0]), np.array([64]), bits=8)
        >>> int(np.log2(coder.heads[0]))
        32
        """
        start, size = start.astype(np.uint64), size.astype(np.uint64)
        head = self.heads[: len(start)]
        head[:] = size * (head >> np.uint64(bits)) + (head & np.uint64(2**bits - 1)) - start
        low = head < np.uint64(2**LEAST)
        words = self._pop(int(low.sum()))
        head[low] = (head[low] << np.uint64(32)) | words.astype(np.uint64)

    def mix(self, mask: np.ndarray) -> None:
        """Change bits of the first heads; a second time, change them back.

        Parameters
        ----------
        mask : array (R,) of uint32
            A bit is changed where the mask has a 1.

        Notes
        -----
        A head's last bits say what was encoded last, and are not random: codes decoded from them unmasked would depend on
        those of the previous row. With a pseudo-random mask they do not. It should change only those bits that are read
        next: heads grow where their higher bits are random.

        Examples
        --------
        >>> coder = gvae.evaluation.Coder(np.array([2**32 + 6], np.uint64), np.zeros(0, np.uint32))
        >>> coder.mix(np.array([3], np.uint32))
        >>> coder.peek(1, bits=8)
        array([5])
        """
        self.heads[: len(mask)] ^= mask.astype(np.uint64)

    def _push(self, words: np.ndarray) -> None:
        while self._n + len(words) > len(self._words):
            self._words = np.concatenate([self._words, np.zeros(max(1024, len(self._words)), np.uint32)])
        self._words[self._n : self._n + len(words)] = words
        self._n += len(words)

    def _pop(self, count: int) -> np.ndarray:
        if count > self._n:
            raise DataError("decode: the stream has no more words: it is cut off, or not of this model")
        self._n -= count
        self.least = min(self.least, self._n)
        return self._words[self._n : self._n + count]

    def tobytes(self) -> bytes:
        """The stream: a line, the number of heads, heads, words, and a checksum; little-endian.

        Returns
        -------
        bytes

        Examples
        --------
        >>> gvae.evaluation.Coder(np.array([2**32], np.uint64), np.zeros(0, np.uint32)).tobytes()[:12]
        b'gvae-bits-1\\n'
        """
        body = np.array([len(self.heads)], "<u4").tobytes()
        body += self.heads.astype("<u8").tobytes() + self._words[: self._n].astype("<u4").tobytes()
        return MAGIC + body + np.array([zlib.crc32(body)], "<u4").tobytes()

    @classmethod
    def frombytes(cls, stream: bytes) -> Coder:
        """The coder of a stream.

        Parameters
        ----------
        stream : bytes

        Returns
        -------
        Coder

        Raises
        ------
        DataError
            It is not such a stream, or was changed or cut off.

        Examples
        --------
        >>> stream = gvae.evaluation.Coder(np.array([2**32], np.uint64), np.zeros(0, np.uint32)).tobytes()
        >>> gvae.evaluation.Coder.frombytes(stream).bits
        32.0
        >>> gvae.evaluation.Coder.frombytes(stream[:-1] + b"!")
        Traceback (most recent call last):
            ...
        gvae.errors.DataError: decode: the stream is damaged: its checksum is another one
        """
        body, check = stream[len(MAGIC) : -4], stream[-4:]
        if not stream.startswith(MAGIC) or len(body) < 4 or len(body) % 4:
            raise DataError("decode: this is not a stream of gvae's coder, or it is cut off")
        if zlib.crc32(body) != int(np.frombuffer(check, "<u4")[0]):
            raise DataError("decode: the stream is damaged: its checksum is another one")
        n = int(np.frombuffer(body[:4], "<u4")[0])
        if len(body) < 4 + 8 * n:
            raise DataError(f"decode: the stream is damaged: it has {n} heads, and {len(body) - 4} bytes")
        heads = np.frombuffer(body[4 : 4 + 8 * n], "<u8").astype(np.uint64)
        return cls(heads, np.frombuffer(body[4 + 8 * n :], "<u4").astype(np.uint32))


# ---- symbols -------------------------------------------------------------------------------------


class Whole:
    """The whole numbers from `low` on, `size` of them, as symbols.

    Parameters
    ----------
    low, size : int

    Examples
    --------
    >>> symbols = gvae.evaluation.Whole(0, 2)
    >>> symbols.edge(0, np.array([1])), symbols.value(0, np.array([1]))
    (array([0]), array([1]))
    """

    def __init__(self, low: int, size: int):
        self.low, self.size = low, size

    def edge(self, j: int, i: np.ndarray) -> np.ndarray:
        """The largest value of the symbols before symbol i, for variable j.

        Parameters
        ----------
        j : int
            The variable.
        i : array of int
            Symbols.

        Returns
        -------
        array

        Examples
        --------
        >>> gvae.evaluation.Whole(5, 3).edge(0, np.array([1, 2]))
        array([5, 6])
        """
        return i + (self.low - 1)

    def value(self, j: int, i: np.ndarray) -> np.ndarray:
        """The value of symbol i, for variable j.

        Parameters
        ----------
        j : int
            The variable.
        i : array of int
            Symbols.

        Returns
        -------
        array

        Examples
        --------
        >>> gvae.evaluation.Whole(5, 3).value(0, np.array([1, 2]))
        array([6, 7])
        """
        return i + self.low

    def index(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The symbols of values.

        Parameters
        ----------
        values : array (R, n)
        rows : array (R,)
            Indices of the rows, for messages.

        Returns
        -------
        array (R, n) of int64

        Raises
        ------
        DataError
            A value has no symbol.

        Examples
        --------
        >>> gvae.evaluation.Whole(0, 2).index(np.array([[0.0, 1.0]]), np.array([7]))
        array([[0, 1]])
        >>> gvae.evaluation.Whole(0, 2).index(np.array([[0.0, 0.5]]), np.array([7]))
        Traceback (most recent call last):
            ...
        gvae.errors.DataError: bits: x is 0.5 in row 7, column 1, expected a whole number in 0 .. 1: it has no code word
        """
        symbols = np.floor(values) - self.low
        wrong = (values != np.floor(values)) | (symbols < 0) | (symbols >= self.size)
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            expected = f"a whole number in {self.low} .. {self.low + self.size - 1}"
            raise DataError(
                f"bits: x is {values[i, j]:g} in row {rows[i]}, column {j}, expected {expected}: it has no code word"
            )
        return symbols.astype(np.int64)


class Bins:
    """Bins of real numbers, of equal mass under N(mean_j, scale_j²), as symbols.

    Parameters
    ----------
    mean, scale : array (n,)
    size : int, default 65536

    Examples
    --------
    >>> bins = gvae.evaluation.Bins(np.zeros(1), np.ones(1), size=4)
    >>> bins.edge(0, np.arange(1, 4)).round(3), bins.value(0, np.arange(4)).round(3)
    (array([-0.674,  0.   ,  0.674]), array([-1.15 , -0.319,  0.319,  1.15 ]))
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray, size: int = BINS):
        self.mean, self.scale, self.size = mean, scale, size

    def edge(self, j: int, i: np.ndarray) -> np.ndarray:
        """The lower end of bin i of variable j.

        Parameters
        ----------
        j : int
            The variable.
        i : array of int
            Symbols.

        Returns
        -------
        array

        Examples
        --------
        >>> gvae.evaluation.Bins(np.zeros(1), np.ones(1), size=2).edge(0, np.array([1]))
        array([0.])
        """
        return self.mean[j] + self.scale[j] * special.ndtri(i / self.size)

    def value(self, j: int, i: np.ndarray) -> np.ndarray:
        """The median of bin i of variable j.

        Parameters
        ----------
        j : int
            The variable.
        i : array of int
            Symbols.

        Returns
        -------
        array

        Examples
        --------
        >>> gvae.evaluation.Bins(np.zeros(1), np.ones(1), size=2).value(0, np.array([0, 1])).round(3)
        array([-0.674,  0.674])
        """
        return self.mean[j] + self.scale[j] * special.ndtri((i + 0.5) / self.size)


Alphabet = Whole | Bins


def alphabet(p: Distribution) -> Whole:
    """The symbols of a discrete distribution.

    Parameters
    ----------
    p : Distribution

    Returns
    -------
    Whole

    Raises
    ------
    ConfigError
        It is continuous.

    Examples
    --------
    >>> gvae.evaluation.alphabet(gvae.distributions.PoissonDistribution(np.zeros(3))).size
    65536
    """
    if not p.discrete:
        raise ConfigError(f"bits: {type(p).__name__} has densities; only discrete data have a length in bits")
    low, high = p.support.low, p.support.high
    return Whole(int(low), COUNTS if math.isinf(high) else int(high - low) + 1)


@dataclass
class Symbols:
    """The symbols of a variable as intervals of [0, 2^bits), of sizes in proportion to probability, none of them empty."""

    alphabet: Alphabet
    j: int
    cdf: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        # Each symbol gets 2 of the 2^bits in advance, so that rounding of the cdf leaves none without an interval: a share
        # of at most 2^-14, and 2^-26 for bits. The price: draws that q would hardly make occur, and cost many bits of x.
        self.bits = max(28, (self.alphabet.size - 1).bit_length() + 15)
        if self.bits > 32:
            raise ConfigError(f"bits: an alphabet of {self.alphabet.size} symbols, expected at most {2**17}")

    def starts(self, i: np.ndarray) -> np.ndarray:
        """The beginning of the interval of symbol i, (R,); of i = size, the end of the last one."""
        size, total = self.alphabet.size, 2**self.bits
        inner = np.clip(i, 1, size - 1)
        share = self.cdf(self.alphabet.edge(self.j, inner))
        if not np.all((share >= 0) & (share <= 1)):
            raise ConfigError(f"bits: a distribution function is not in [0, 1] for variable {self.j}")
        found = np.floor(share * (total - 2 * size)).astype(np.int64) + 2 * inner
        return np.where(i <= 0, 0, np.where(i >= size, total, found))

    def find(self, u: np.ndarray) -> np.ndarray:
        """The symbols in whose intervals u lies, by bisection."""
        low, high = np.zeros(len(u), np.int64), np.full(len(u), self.alphabet.size)
        for _ in range((self.alphabet.size - 1).bit_length()):
            middle = (low + high) // 2
            above = u >= self.starts(middle)
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return low


Conditionals = Iterable[tuple[int, Callable[[np.ndarray], np.ndarray]]]


def push(
    coder: Coder, conditionals: Conditionals, symbols: np.ndarray, alphabet: Alphabet, masks: np.ndarray | None = None
) -> None:
    """Encode the symbols of all variables of some rows.

    Parameters
    ----------
    coder : Coder
    conditionals : iterable
        As `Distribution.conditionals` returns it, of the values of the symbols.
    symbols : array (R, n)
    alphabet : Whole or Bins
    masks : array (n, R) of uint32, optional
        As for `pop`, whose inverse this is.

    Examples
    --------
    >>> p = gvae.distributions.BernoulliDistribution(np.array([0.0, 3.0]))
    >>> coder = gvae.evaluation.Coder(np.array([2**60], np.uint64), np.zeros(0, np.uint32))
    >>> bits = gvae.evaluation.Whole(0, 2)
    >>> before, x = coder.bits, np.array([[1.0, 1.0]])
    >>> gvae.evaluation.push(coder, p.conditionals(x), x.astype(int), bits)
    >>> round(coder.bits - before, 4), (-p.log_prob(x) / np.log(2)).round(4)
    (1.0701, array([1.0701]))
    """
    intervals = []
    for j, cdf in conditionals:
        variable = Symbols(alphabet, j, cdf)
        start = variable.starts(symbols[:, j])
        intervals.append((start, variable.starts(symbols[:, j] + 1) - start, variable.bits))
    for k, (start, size, bits) in reversed(list(enumerate(intervals))):
        coder.encode(start, size, bits)
        if masks is not None:
            coder.mix(masks[k] & np.uint32(2**bits - 1))


def pop(
    coder: Coder, conditionals: Conditionals, values: np.ndarray, alphabet: Alphabet, masks: np.ndarray | None = None
) -> np.ndarray:
    """Decode all variables of some rows.

    Parameters
    ----------
    coder : Coder
    conditionals : iterable
        As `Distribution.conditionals(values)` returns it.
    values : array (R, n)
        Filled with the values of the symbols.
    alphabet : Whole or Bins
    masks : array (n, R) of uint32, optional
        The masks with which the heads are mixed before each variable, see `Coder.mix`.

    Returns
    -------
    array (R, n)
        The symbols.

    Examples
    --------
    >>> p = gvae.distributions.BernoulliDistribution(np.array([0.0, 3.0]))
    >>> coder, bits = gvae.evaluation.Coder.start(gvae.random.key(0), 1, 0), gvae.evaluation.Whole(0, 2)
    >>> x, found = np.array([[1.0, 0.0]]), np.zeros((1, 2))
    >>> gvae.evaluation.push(coder, p.conditionals(x), x.astype(int), bits)
    >>> gvae.evaluation.pop(coder, p.conditionals(found), found, bits)
    array([[1, 0]])
    """
    symbols = np.zeros(values.shape, np.int64)
    for k, (j, cdf) in enumerate(conditionals):
        variable = Symbols(alphabet, j, cdf)
        if masks is not None:
            coder.mix(masks[k] & np.uint32(2**variable.bits - 1))
        found = variable.find(coder.peek(len(values), variable.bits))
        start = variable.starts(found)
        coder.remove(start, variable.starts(found + 1) - start, variable.bits)
        symbols[:, j], values[:, j] = found, alphabet.value(j, found)
    return symbols
