"""The length of the rows in bits, by encoding them with the model and decoding them again."""

from __future__ import annotations

import bz2
import gzip
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.evaluation import coder
from gvae.evaluation import subject as streams
from gvae.evaluation.coder import Alphabet, Bins, Coder, Whole
from gvae.evaluation.importance import standard_error
from gvae.evaluation.registry import line, measure, spread
from gvae.evaluation.subject import Subject, dense, whole
from gvae.objectives import Terms

__all__ = ["Bits", "bits"]

PRIOR = 1000  # draws from the prior, whose moments define the bins of real-valued codes


@dataclass(frozen=True)
class Bits:
    """Lengths of rows in bits.

    Parameters
    ----------
    net : float
        The bits of the stream for all rows, beyond those that were there before.
    initial : float
        Bits that had to be there before: codes are decoded from them, and decoding the stream gives them back.
    bound : array (N,)
        -ELBO / ln 2 of each row, by draws.
    decoded : bool
        Whether the stream decoded to the rows, bit for bit, and to what was there before.
    gzip, bz2 : float
        The bits of all rows, packed by the two compressors at their best level.
    variables : int
        Variables of a row.

    Examples
    --------
    >>> result = gvae.evaluation.Bits(200.0, 64.0, np.array([99.0, 101.0]), True, 800.0, 900.0, 784)
    >>> result.summary()["net_bits_per_row"]
    100.0
    """

    net: float
    initial: float
    bound: np.ndarray
    decoded: bool
    gzip: float
    bz2: float
    variables: int

    def summary(self) -> dict[str, Any]:
        """Bits per row and per variable.

        Returns
        -------
        dict
            "rows"; "net_bits_per_row", "bound_bits_per_row" with "bound_standard_error" (bits), "net_bits_per_variable",
            "gzip_bits_per_row", "bz2_bits_per_row"; "initial_bits" of the whole stream; "decoded".

        Examples
        --------
        >>> result = gvae.evaluation.Bits(200.0, 64.0, np.array([99.0, 101.0]), True, 800.0, 900.0, 784)
        >>> summary = result.summary()
        >>> summary["net_bits_per_row"], summary["bound_bits_per_row"], summary["gzip_bits_per_row"]
        (100.0, 100.0, 400.0)
        """
        n = len(self.bound)
        return {
            "rows": n,
            "net_bits_per_row": self.net / n,
            "bound_bits_per_row": float(self.bound.mean()),
            "bound_standard_error": standard_error(self.bound),
            "net_bits_per_variable": self.net / n / self.variables,
            "gzip_bits_per_row": self.gzip / n,
            "bz2_bits_per_row": self.bz2 / n,
            "initial_bits": self.initial,
            "decoded": self.decoded,
        }


def _bits_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"bits, {s['rows']} rows in one stream" + ("" if s["decoded"] else ": IT DID NOT DECODE TO THE ROWS")
    yield line("net bits of a row", s["net_bits_per_row"], f"{s['net_bits_per_variable']:.4f} of a variable")
    yield line("-ELBO / ln 2", s["bound_bits_per_row"], spread(s, "bound"))
    yield line("gzip", s["gzip_bits_per_row"])
    yield line("bz2", s["bz2_bits_per_row"])
    yield line("bits to begin with, in all", s["initial_bits"])


@measure(
    "bits",
    "length in bits of discrete x, encoded with bits back and decoded again, compared with gzip and bz2",
    "10 draws a row, and one variable after the other, twice",
    lines=_bits_lines,
    of="x",
    coded=False,
    asked=True,
)
def bits(subject: Subject, *, draws: int = 10) -> Bits:
    """Encode all rows in one stream, by bits-back coding, decode the stream and compare.

    Parameters
    ----------
    subject : Subject
        Its model explains discrete x; as many rows as its batch_size are coded at once.
    draws : int, default 10
        Draws of the codes of each row for the bound.

    Returns
    -------
    Bits

    Raises
    ------
    ConfigError
        x has a density, a family has no conditional distributions in closed form, or the model has per-datum parameters,
        which a decoder would not have.
    DataError
        A value of x has no code word, such as a grey level where bits are expected.

    Notes
    -----
    The stream is decoded in the same process. A file format needs more: the same arithmetic in float32, on another machine,
    for the networks of encoder and decoder. Real-valued codes are in bins of equal mass under a Gaussian with the moments of
    the prior. Sources: Frey and Hinton (1997); Townsend, Bird and Barber (2019).

    Examples
    --------
    >>> x = (gvae.random.uniform(gvae.random.key(0), (200, 4)) < [0.1, 0.3, 0.5, 0.9]).astype(np.float32)
    >>> model = gvae.models.Density(4)
    >>> params = {"density.raw": np.log([0.1 / 0.9, 0.3 / 0.7, 1.0, 9.0]).astype(np.float32)}
    >>> params["density.shared"] = np.zeros(6, np.float32)
    >>> found = gvae.evaluation.bits(gvae.evaluation.Subject(model, params, gvae.data.Table(x))).summary()
    >>> found["decoded"], abs(found["net_bits_per_row"] / found["bound_bits_per_row"] - 1) < 0.01
    (True, True)
    """
    draws = whole("draws", draws)
    if subject.rows:
        raise ConfigError(f"bits: {type(subject.model).__name__} has parameters of each row, which a decoder does not have")
    with subject.lacking("bits"):
        stream = _Stream(subject)
    bound: list[np.ndarray] = []

    def encode(i: int, batch: Batch) -> dict[str, np.ndarray]:
        key = random.fold_in(subject.key, streams.BITS, i)
        terms: Terms = subject.terms(batch, subject.model.noise(key, batch, draws))
        log_weights = terms.weighed(lambda part: np.asarray(part, np.float64))
        bound.append(np.broadcast_to(log_weights.mean(axis=0), len(batch)) / -math.log(2))
        stream.encode(i, batch)
        return {"x": dense(batch.x)}

    x = subject.each("bits", encode, settings={}, kept=False)["x"]
    end, before = Coder.frombytes(stream.coder.tobytes()), stream.before
    decoded = _Stream(subject, end)
    batches = list(subject.table.batches(random.fold_in(subject.key, streams.BINARIZE), subject.batch_size))
    same = all(np.array_equal(decoded.decode(i, batch), dense(batch.x)) for i, batch in reversed(list(enumerate(batches))))
    packed = _packed(x)
    return Bits(
        net=stream.coder.bits - before.bits,
        initial=before.bits - 32.0 * stream.coder.least,
        bound=np.concatenate(bound),
        decoded=same and end.tobytes() == before.tobytes(),
        gzip=8.0 * len(gzip.compress(packed, 9)),
        bz2=8.0 * len(bz2.compress(packed, 9)),
        variables=x.shape[1],
    )


class _Stream:
    """Rows on their way into a coder and out of it."""

    def __init__(self, subject: Subject, given: Coder | None = None):
        model: Any = subject.model  # with the optional methods that are asked for below
        self.subject, self.model = subject, model
        order: Any = subject.optional("inference_order", "bits")  # a tuple of names
        self.order: tuple[str, ...] = order
        self.down: tuple[str, ...] = getattr(self.model, "generation_order", order[::-1])
        for method in ("posterior_given", "prior_given") if self.order else ():
            subject.optional(method, "bits")
        self.alphabets: dict[str, Alphabet] = {}
        drawn: dict[str, Any] = {}
        for name in self.down:
            k = self.order.index(name)
            p = self.model.prior_given(subject.parameters, subject.state, name, drawn)
            drawn[name] = p.sample(
                p.noise(random.fold_in(subject.key, streams.BITS, k, 0, 0), () if p.batch_shape else (PRIOR,))
            )
            self.alphabets[name] = _codes(p, np.asarray(drawn[name], np.float64))
        heads = min(subject.batch_size, len(subject.table))
        words = heads * (1 + sum(z.shape[-1] for z in drawn.values()))  # more than the first rows take

        def start() -> Coder:
            return Coder.start(random.fold_in(subject.key, streams.BITS, len(subject.table)), heads, words)

        self.before = start()
        self.coder = start() if given is None else given

    def view(self, z: dict[str, Any], rows: int) -> Distribution:
        """p(x | codes) of some rows."""
        if not z:  # a model without codes
            z = self.model.sample_prior(self.subject.parameters, self.subject.key, rows)
        views = self.model.decode(self.subject.parameters, self.subject.state, z)
        if list(views) != ["x"]:
            name = type(self.model).__name__
            raise ConfigError(f"bits: {name} explains {' and '.join(views)}; expected a model that explains x alone")
        return views["x"]

    def encode(self, i: int, batch: Batch) -> None:
        given, rows = (self.subject.parameters, self.subject.state), len(batch)
        z: dict[str, Any] = {}
        symbols = {}
        for k, name in enumerate(self.order):
            q = self.model.posterior_given(*given, batch, name, z)
            z[name], symbols[name] = self._pop(q, self.alphabets[name], rows, self._masks(i, k, rows, q.n))
        p, x = self.view(z, rows), dense(batch.x)
        known = coder.alphabet(p)
        coder.push(self.coder, p.conditionals(x), known.index(x, batch.index), known)
        for name in reversed(self.down):
            prior = self.model.prior_given(*given, name, z)
            coder.push(self.coder, prior.conditionals(z[name]), symbols[name], self.alphabets[name])

    def decode(self, i: int, batch: Batch) -> np.ndarray:
        """The x of batch i, of which only the other columns are read."""
        given, rows = (self.subject.parameters, self.subject.state), len(batch)
        z: dict[str, Any] = {}
        symbols = {}
        for name in self.down:
            prior = self.model.prior_given(*given, name, z)
            z[name], symbols[name] = self._pop(prior, self.alphabets[name], rows)
        p = self.view(z, rows)
        x, _ = self._pop(p, coder.alphabet(p), rows)
        others = {name: value for name, value in vars(batch).items() if name not in ("index", "weight")}
        own = Batch(others | {"x": x}, batch.index)
        for k, name in reversed(list(enumerate(self.order))):
            q = self.model.posterior_given(*given, own, name, z)
            masks = self._masks(i, k, rows, q.n)
            coder.push(self.coder, q.conditionals(z[name]), symbols[name], self.alphabets[name], masks)
        return x

    def _pop(self, p: Distribution, known: Alphabet, rows: int, masks: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """(values in the model's dtype, symbols)"""
        values = np.zeros((rows, p.n), self.model.dtype)
        return values, coder.pop(self.coder, p.conditionals(values), values, known, masks)

    def _masks(self, i: int, k: int, rows: int, n: int) -> np.ndarray:
        """The masks for code k of batch i."""
        return random.bits(random.fold_in(self.subject.key, streams.BITS, i, k), (n, rows))


def _codes(prior: Distribution, drawn: np.ndarray) -> Alphabet:
    """The symbols of a code, given its prior and draws from it, (N, n)."""
    if prior.discrete:
        known = coder.alphabet(prior)
        return known if math.isfinite(prior.support.high) else Whole(known.low, min(4 * int(drawn.max()) + 64, known.size))
    return Bins(drawn.mean(axis=0), np.maximum(drawn.std(axis=0), np.finfo(np.float32).tiny))


def _packed(x: np.ndarray) -> bytes:
    """Whole numbers, as a file would hold them: eight bits a byte, else in the smallest type."""
    if x.max(initial=0) <= 1:
        return np.packbits(x.astype(np.uint8)).tobytes()
    return x.astype(np.min_scalar_type(int(x.max()))).tobytes()
