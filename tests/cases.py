"""One row per public differentiable op. test_ops.py gives each row: the dense oracle in both precisions, the vjp against
differences, batch = loop of singles, broadcasting, `out=`, unchanged inputs. test_awkward.py gives each what must raise and
what must work.

`args(rng, s)` makes valid arguments by construction (a dominant factor, positive variances), never by filtering.
`reference` is the oracle on float64 arrays with the same batch axes; `s` is given to both where a setting is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import reference as ref
import scipy.special
import scipy.stats

from gvae import ops


@dataclass(frozen=True)
class Case:
    name: str
    op: Callable  # (s) -> function of the arrays; it takes the public op's settings as keywords
    args: Callable  # (rng, s) -> tuple of float64 arrays
    reference: Callable  # (s) -> function of the float64 arrays
    cores: tuple[int, ...] | None = None  # trailing axes per argument, for ops that batch
    covers: tuple[str, ...] = ()  # public names; the case's own name if empty
    out: bool = False
    scale: Callable | None = None  # sum of absolute terms, where the result may cancel
    settings: str = ""
    direct: Callable | None = None  # the public op itself, where `op` is more than that or goes another way
    names: tuple[str, ...] = ()  # of the arrays as errors call them, where they are not the op's first parameters

    def public(self, s):
        return (self.direct or self.op)(s)

    def __str__(self):
        return self.name + self.settings


def real(rng, shape, spread=1.5):
    return rng.normal(size=shape) * spread


def away(rng, shape):
    """Real numbers away from 0, where relu and |x| have their corner."""
    return rng.choice([-1.0, 1.0], size=shape) * rng.uniform(0.1, 2.5, size=shape)


def positive(rng, shape):
    return np.asarray(rng.uniform(0.3, 3.0, size=shape))


def factor(rng, s, i=0):
    """A well-conditioned factor: off-diagonals small beside the diagonal. Corners hold rubbish that must not be read."""
    chol = rng.normal(size=(*s.lead(i), s.M, s.N)) * 0.6 / max(s.M - 1, 1)
    chol[..., 0, :] = rng.uniform(0.7, 2.0, size=(*s.lead(i), s.N))
    for k, o in enumerate(s.offsets):
        chol[..., k, max(s.N - o, 0) :] = 1e3
    return chol


def lower(rng, s, i=0):
    l = np.tril(rng.normal(size=(*s.lead(i), s.N, s.N))) * 0.4
    d = np.arange(s.N)
    l[..., d, d] = rng.uniform(0.7, 2.0, size=(*s.lead(i), s.N))
    return l


def unary(name, domain, function, scale=None):
    return Case(
        name,
        op=lambda s: getattr(ops, name),
        args=lambda rng, s: (domain(rng, (*s.lead(0), s.N)),),
        reference=lambda s: function,
        cores=(0,),
        scale=scale,
    )


def binary(name, first, second, function):
    return Case(
        name,
        op=lambda s: getattr(ops, name),
        args=lambda rng, s: (first(rng, (*s.lead(0), s.N)), second(rng, (*s.lead(1), s.N))),
        reference=lambda s: function,
        cores=(0, 0),
    )


def _where(x, y, mask):
    return ops.where(mask, x, y)


ELEMENTWISE = [
    binary("add", real, real, np.add),
    binary("subtract", real, real, np.subtract),
    binary("multiply", real, real, np.multiply),
    binary("divide", real, positive, np.divide),
    binary("power", positive, real, np.power),
    Case(
        "maximum",
        op=lambda s: ops.maximum,
        args=lambda rng, s: (1 + away(rng, (*s.lead(0), s.N)), np.ones((*s.lead(1), 1))),
        reference=lambda s: np.maximum,
        cores=(0, 0),
    ),
    Case(
        "minimum",
        op=lambda s: ops.minimum,
        args=lambda rng, s: (1 + away(rng, (*s.lead(0), s.N)), np.ones((*s.lead(1), 1))),
        reference=lambda s: np.minimum,
        cores=(0, 0),
    ),
    unary("negative", real, np.negative),
    unary("abs", away, np.abs),
    unary("square", real, np.square),
    unary("sqrt", positive, np.sqrt),
    unary("exp", real, np.exp),
    unary("expm1", real, np.expm1),
    unary("log", positive, np.log),
    unary("log1p", positive, np.log1p),
    unary("tanh", real, np.tanh),
    Case(
        "bounded",
        op=lambda s: partial(ops.bounded, limit=1.5),
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)),),
        reference=lambda s: lambda x: 1.5 * np.tanh(x / 1.5),
        cores=(0,),
    ),
    unary("sigmoid", real, scipy.special.expit),
    unary("softplus", real, lambda x: np.logaddexp(0, x)),
    unary("relu", away, lambda x: np.maximum(x, 0)),
    unary("leaky_relu", away, lambda x: np.where(x > 0, x, 0.01 * x)),
    unary("elu", away, lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    unary("lgamma", positive, scipy.special.gammaln, scale=lambda x: 1 + np.abs(x)),
    unary("stirling", positive, lambda x: scipy.special.gammaln(x) - x * (np.log(x) - 1)),
    unary("stirling_slope", positive, lambda x: scipy.special.digamma(x) - np.log(x)),
    binary("log_beta", positive, positive, scipy.special.betaln),
    binary("log_poisson", positive, real, lambda x, log_r: x * log_r - np.exp(log_r) - scipy.special.gammaln(x + 1)),
    unary("log_sinhc", real, lambda x: np.log(np.sinh(x) / x), scale=lambda x: 1 + np.abs(x)),
    unary("langevin", real, lambda x: 1 / np.tanh(x) - 1 / x, scale=lambda x: 1 + 1 / np.abs(x)),
    unary("digamma", positive, scipy.special.digamma, scale=lambda x: 4 + np.abs(x)),
    Case(
        "where",
        op=lambda s: partial(_where, mask=np.arange(s.N) % 2 == 0),
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), real(rng, (*s.lead(1), s.N))),
        reference=lambda s: lambda x, y: np.where(np.arange(s.N) % 2 == 0, x, y),
        names=("x", "y"),
    ),
]


def reduction(name, function, axis, keepdims):
    return Case(
        name,
        op=lambda s: partial(getattr(ops, name), axis=axis, keepdims=keepdims),
        args=lambda rng, s: (real(rng, (s.K, s.R, s.N)),),
        reference=lambda s: lambda x: function(x, axis=axis, keepdims=keepdims),
        scale=lambda x: 1 + np.abs(x).sum(),
        settings=f"[{axis},{keepdims}]",
    )


ARRAYS = [
    *(
        reduction(name, function, axis, keepdims)
        for name, function in (("sum", np.sum), ("mean", np.mean))
        for axis, keepdims in ((None, False), (0, False), (-1, True), ((0, 2), False), ((0, -1), True))
    ),
    *(reduction("logsumexp", scipy.special.logsumexp, axis, keep) for axis, keep in ((0, False), (-1, True), (1, False))),
    Case(
        "cumsum",
        op=lambda s: partial(ops.cumsum, axis=1),
        args=lambda rng, s: (real(rng, (s.K, s.N)),),
        reference=lambda s: lambda x: np.cumsum(x, axis=1),
        scale=lambda x: 1 + np.abs(x).sum(),
    ),
    Case(
        "reshape",
        op=lambda s: partial(ops.reshape, shape=(-1, s.K)),
        args=lambda rng, s: (real(rng, (s.K, s.N)),),
        reference=lambda s: lambda x: x.reshape(-1, s.K),
    ),
    Case(
        "transpose",
        op=lambda s: partial(ops.transpose, axes=(2, 0, -2)),
        args=lambda rng, s: (real(rng, (s.K, s.R, s.N)),),
        reference=lambda s: lambda x: x.transpose(2, 0, 1),
    ),
    Case(
        "transpose",
        op=lambda s: lambda x: x.T if not isinstance(x, np.ndarray) else ops.transpose(x),
        args=lambda rng, s: (real(rng, (s.K, s.R, s.N)),),
        reference=lambda s: lambda x: x.T,
        settings="[.T]",
        direct=lambda s: ops.transpose,
    ),
    Case(
        "swapaxes",
        op=lambda s: partial(ops.swapaxes, axis1=0, axis2=-1),
        args=lambda rng, s: (real(rng, (s.K, s.R, s.N)),),
        reference=lambda s: lambda x: x.swapaxes(0, -1),
    ),
    Case(
        "broadcast_to",
        op=lambda s: partial(ops.broadcast_to, shape=(*s.batch, s.K, s.N)),
        args=lambda rng, s: (real(rng, (s.K, 1)),),
        reference=lambda s: lambda x: np.broadcast_to(x, (*s.batch, s.K, s.N)),
    ),
    Case(
        "concatenate",
        op=lambda s: lambda x, y, axis=-1: ops.concatenate([x, y, x], axis=axis),
        args=lambda rng, s: (real(rng, (s.R, s.N)), real(rng, (s.R, s.K))),
        reference=lambda s: lambda x, y: np.concatenate([x, y, x], axis=-1),
        names=("arrays[0]", "arrays[1]"),
    ),
    Case(
        "stack",
        op=lambda s: lambda x, y, axis=1: ops.stack([x, y, x], axis=axis),
        args=lambda rng, s: (real(rng, (s.R, s.N)), real(rng, (s.R, s.N))),
        reference=lambda s: lambda x, y: np.stack([x, y, x], axis=1),
        names=("arrays[0]", "arrays[1]"),
    ),
    Case(
        "scatter_last",
        op=lambda s: partial(ops.scatter_last, index=np.arange(s.N) * 2 + 1, size=2 * s.N + 3),
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)),),
        reference=lambda s: (
            lambda x: np.insert(np.zeros((*x.shape[:-1], s.N + 3)), np.minimum(np.arange(s.N) + 1, s.N + 3), x, axis=-1)
        ),
    ),
    *(
        Case(
            "getitem",
            op=lambda s, index=index: lambda x: x[index],
            args=lambda rng, s: (real(rng, (4, 3, s.N + 1)),),
            reference=lambda s, index=index: lambda x: x[index],
            settings=f"[{label}]",
            direct=lambda s, index=index: partial(ops.getitem, index=index),
        )
        for label, index in (
            ("int", 1),
            ("slice", slice(None, None, 2)),
            ("ellipsis", (..., 0)),
            ("none", (slice(1), None)),
            ("repeated", np.array([0, 2, 0, 0])),
            ("pairs", (np.array([0, 1, 0]), np.array([2, 2, 2]))),
            ("mask", np.array([True, False, True, True])),
            ("list", [3, 3]),
            ("empty", slice(0, 0)),
        )
    ),
]

DENSE = [
    Case(
        "matmul",
        op=lambda s: ops.matmul,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.R, s.N)), real(rng, (*s.lead(1), s.N, s.K))),
        reference=lambda s: np.matmul,
        cores=(2, 2),
        scale=lambda x, y: 1 + (np.abs(x) @ np.abs(y)).max(initial=0),
    ),
    *(
        Case(
            "affine",
            op=lambda s, f=f: partial(ops.affine, activation=f),
            args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), real(rng, (s.N, 20), 0.7), real(rng, (20,))),
            reference=lambda s, f=f: lambda x, w, b: ref.activation(f, x @ w + b),
            cores=(1, 2, 1),
            scale=lambda x, w, b: 1 + (np.abs(x) @ np.abs(w) + np.abs(b)).max(initial=0),
            covers=("affine",) if f != "identity" else ("affine", "ACTIVATIONS"),
            settings=f"[{f}]",
        )
        for f in ops.ACTIVATIONS
    ),
]


def batch_norm(activation):
    def args(rng, s):
        R = s.K * (s.R + 1)
        x = np.where(np.arange(R) % 2, -1, 1)[:, None] * rng.uniform(0.5, 2.0, size=(R, s.N))  # no column is constant
        scale, shift = real(rng, (s.N,)), away(rng, (s.N,))
        if "relu" in activation:  # away from the corner: |x - mean| / deviation is below the root of the number of rows
            shift = np.sign(shift) * (0.1 + np.abs(scale) * np.sqrt(R))
        return x.reshape(s.K, s.R + 1, s.N), scale, shift

    return Case(
        "batch_norm",
        op=lambda s: partial(ops.batch_norm, activation=activation),
        args=args,
        reference=lambda s: partial(ref.batch_norm, name=activation),
        settings=f"[{activation}]",
    )


NORMALIZE = [batch_norm(activation) for activation in ops.ACTIVATIONS]


def banded(name, reference, cores, args, out=False, **settings):
    return Case(
        name,
        op=lambda s: partial(getattr(ops, name), offsets=s.offsets, **settings),
        args=args,
        reference=lambda s: ref.batched(lambda *a: reference(*a, s.offsets, **settings), *cores),
        cores=cores,
        out=out,
        settings="[" + ",".join(f"{k}={v}" for k, v in settings.items()) + "]" if settings else "",
    )


def draw(part, reference, settings):
    """A row for what `part` takes of a draw and its density: every pattern of cotangents has its own way back."""
    return Case(
        "sample_and_log_prob_banded",
        op=lambda s: lambda *a, **k: part(*ops.sample_and_log_prob_banded(*a, **{"offsets": s.offsets, **k})),
        args=lambda rng, s: (real(rng, (*s.lead(1), s.N)), factor(rng, s, 0), real(rng, (*s.lead(2), s.N))),
        reference=lambda s: ref.batched(lambda m, c, e: reference(*drawn(m, c, e, s.offsets)), 1, 2, 1),
        cores=(1, 2, 1),
        settings=settings,
        direct=lambda s: partial(ops.sample_and_log_prob_banded, offsets=s.offsets),
        scale=lambda m, c, e: 1 + np.abs(np.log(c[..., 0, :])).sum() + np.square(e).sum() + np.abs(m).sum(),
    )


def drawn(mean, chol, eps, offsets):
    z = mean + ref.solve(chol, eps, offsets, trans=True)
    return z, ref.gaussian_log_prob(z, mean, ref.covariance_from_factor(chol, offsets))


def factor_and_vector(rng, s):
    return factor(rng, s, 0), real(rng, (*s.lead(1), s.N))


def spd_band(rng, s):
    """A symmetric positive definite band by construction: the product of a well-conditioned factor with itself."""
    full = tuple(range(s.M))
    chol = factor(rng, replace(s, offsets=full))
    dense = ref.batched(lambda c: ref.dense_factor(c, full), 2)(chol)
    if dense is None:
        return chol
    return ref.batched(lambda l: ref.stored(l @ l.T, full), 2)(dense)


BANDED = [
    Case(
        "cholesky_banded",
        op=lambda s: ops.cholesky_banded,
        args=lambda rng, s: (spd_band(rng, s),),
        reference=lambda s: ref.batched(
            lambda ab: ref.stored(np.linalg.cholesky(ref.dense_symmetric(ab, range(s.M))), range(s.M)), 2
        ),
        cores=(2,),
        out=True,
    ),
    Case(
        "gram_banded",
        op=lambda s: partial(ops.gram_banded, offsets=s.offsets),
        args=lambda rng, s: (factor(rng, s),),
        reference=lambda s: ref.batched(
            lambda c: ref.stored(
                ref.dense_factor(c, s.offsets) @ ref.dense_factor(c, s.offsets).T, range(s.offsets[-1] + 1)
            ),
            2,
        ),
        cores=(2,),
    ),
    banded("cho_solve_banded", ref.cho_solve, (2, 1), factor_and_vector, out=True),
    *(
        banded("solve_triangular_banded", ref.solve, (2, 1), factor_and_vector, out=True, trans=trans)
        for trans in (False, True)
    ),
    *(
        banded("multiply_triangular_banded", ref.multiply, (2, 1), factor_and_vector, out=True, trans=trans)
        for trans in (False, True)
    ),
    banded(
        "trace_inverse_banded",
        lambda c, o: np.trace(ref.covariance_from_factor(c, o)),
        (2,),
        lambda rng, s: (factor(rng, s),),
    ),
    *(
        banded(
            "trace_probe_banded",
            lambda c, v, o, trans: (ref.solve(c, v, o, trans) ** 2).sum(),
            (2, 1),
            factor_and_vector,
            trans=trans,
        )
        for trans in (True, False)
    ),
    *(
        banded("inverse_banded", ref.inverse_banded, (2,), lambda rng, s: (factor(rng, s),), out=True, fill=fill)
        for fill in (False, True)
    ),
    Case(
        "log_prob_of_draw_banded",
        op=lambda s: ops.log_prob_of_draw_banded,
        args=factor_and_vector,
        reference=lambda s: ref.batched(
            lambda c, e: ref.gaussian_log_prob(
                ref.solve(c, e, s.offsets, True), 0 * e, ref.covariance_from_factor(c, s.offsets)
            ),
            2,
            1,
        ),
        cores=(2, 1),
        scale=lambda c, e: 1 + np.abs(np.log(c[..., 0, :])).sum() + np.square(e).sum(),
    ),
    banded(
        "variance_banded",
        lambda c, o: np.diag(ref.covariance_from_factor(c, o)),
        (2,),
        lambda rng, s: (factor(rng, s),),
    ),
    Case(
        "entropy_banded",
        op=lambda s: ops.entropy_banded,
        args=lambda rng, s: (factor(rng, s),),
        reference=lambda s: ref.batched(lambda c: ref.gaussian_entropy(ref.covariance_from_factor(c, s.offsets)), 2),
        cores=(2,),
        scale=lambda c: 1 + 1.5 * c.shape[-1] + np.abs(np.log(c[..., 0, :])).sum(),
    ),
    Case(
        "logdet_banded",
        op=lambda s: ops.logdet_banded,
        args=lambda rng, s: (factor(rng, s),),
        reference=lambda s: ref.batched(lambda c: -np.linalg.slogdet(ref.covariance_from_factor(c, s.offsets))[1], 2),
        cores=(2,),
        scale=lambda c: 1 + np.abs(np.log(c[..., 0, :])).sum(),
    ),
    Case(
        "log_pivots_banded",
        op=lambda s: ops.log_pivots_banded,
        args=lambda rng, s: (factor(rng, s),),
        reference=lambda s: lambda c: np.log(c[..., 0, :]),
        cores=(2,),
    ),
    banded(
        "sample_banded",
        lambda m, c, e, o: m + ref.solve(c, e, o, trans=True),
        (1, 2, 1),
        lambda rng, s: (real(rng, (*s.lead(1), s.N)), factor(rng, s, 0), real(rng, (*s.lead(2), s.N))),
    ),
    draw(lambda z, log_q: z, lambda z, log_q: z, "[z]"),
    draw(lambda z, log_q: log_q, lambda z, log_q: log_q, "[log_q]"),
    draw(lambda z, log_q: z * log_q[..., None], lambda z, log_q: z * log_q, "[both]"),
    banded(
        "log_prob_banded",
        lambda x, m, c, o: ref.gaussian_log_prob(x, m, ref.covariance_from_factor(c, o)),
        (1, 1, 2),
        lambda rng, s: (real(rng, (*s.lead(2), s.N)), real(rng, (*s.lead(1), s.N)), factor(rng, s, 0)),
    ),
    banded(
        "kl_divergence_banded",
        lambda m, c, o: ref.gaussian_kl(m, ref.covariance_from_factor(c, o)),
        (1, 2),
        lambda rng, s: (real(rng, (*s.lead(1), s.N)), factor(rng, s, 0)),
    ),
    *(
        Case(
            "kl_divergence_banded",
            op=lambda s, own=own: partial(
                ops.kl_divergence_banded, offsets=s.offsets if own else (0,), prior_offsets=(0,) if own else s.offsets
            ),
            args=lambda rng, s, own=own: (
                real(rng, (*s.lead(1), s.N)),
                factor(rng, s, 0)[..., : None if own else 1, :],
                real(rng, (*s.lead(2), s.N)),
                factor(rng, s, 3)[..., : 1 if own else None, :],
            ),
            reference=lambda s, own=own: ref.batched(
                lambda m, c, pm, pc: ref.gaussian_kl(
                    m,
                    ref.covariance_from_factor(c, s.offsets if own else (0,)),
                    pm,
                    ref.covariance_from_factor(pc, (0,) if own else s.offsets),
                ),
                1,
                2,
                1,
                2,
            ),
            cores=(1, 2, 1, 2),
            settings=f"[{label}]",
        )
        for label, own in (("banded q, diagonal p", True), ("diagonal q, banded p", False))
    ),
    Case(
        "kl_divergence_banded",
        op=lambda s: partial(ops.kl_divergence_banded, offsets=s.offsets, prior_offsets=(0, 1, 3)),
        args=lambda rng, s: (
            real(rng, (*s.lead(1), s.N)),
            factor(rng, s, 0),
            real(rng, (*s.lead(2), s.N)),
            np.stack([rng.uniform(0.7, 2, s.N), real(rng, s.N, 0.2), real(rng, s.N, 0.2)]),
        ),
        reference=lambda s: ref.batched(
            lambda m, c, pm, pc: ref.gaussian_kl(
                m, ref.covariance_from_factor(c, s.offsets), pm, ref.covariance_from_factor(pc, (0, 1, 3))
            ),
            1,
            2,
            1,
            2,
        ),
        cores=(1, 2, 1, 2),
        settings="[banded q, another banded p]",
    ),
]

AR1 = [
    Case(
        "sample_ar1",
        op=lambda s: ops.sample_ar1,
        args=lambda rng, s: (
            real(rng, (*s.lead(0), s.N)),
            positive(rng, s.lead(1)),
            rng.uniform(-0.9, 0.9, s.lead(2)),
            real(rng, (*s.lead(3), s.N)),
        ),
        reference=lambda s: ref.batched(
            lambda m, v, r, e: m + np.linalg.cholesky(ref.covariance_ar1(v, r, s.N)) @ e, 1, 0, 0, 1
        ),
        cores=(1, 0, 0, 1),
    ),
    Case(
        "log_prob_ar1",
        op=lambda s: ops.log_prob_ar1,
        args=lambda rng, s: (
            real(rng, (*s.lead(0), s.N)),
            real(rng, (*s.lead(3), s.N)),
            positive(rng, s.lead(1)),
            rng.uniform(-0.9, 0.9, s.lead(2)),
        ),
        reference=lambda s: ref.batched(
            lambda x, m, v, r: ref.gaussian_log_prob(x, m, ref.covariance_ar1(v, r, s.N)), 1, 1, 0, 0
        ),
        cores=(1, 1, 0, 0),
        scale=lambda x, m, v, r: 1 + 30 * (1 + np.abs(x).max(initial=0) + np.abs(m).max(initial=0)) ** 2,
    ),
    Case(
        "kl_divergence_ar1",
        op=lambda s: ops.kl_divergence_ar1,
        args=lambda rng, s: (
            real(rng, (*s.lead(0), s.N)),
            positive(rng, s.lead(1)),
            rng.uniform(-0.9, 0.9, s.lead(2)),
        ),
        reference=lambda s: ref.batched(lambda m, v, r: ref.gaussian_kl(m, ref.covariance_ar1(v, r, s.N)), 1, 0, 0),
        cores=(1, 0, 0),
    ),
]


AR1 += [
    Case(
        "precision_factor_ar1",
        op=lambda s: partial(ops.precision_factor_ar1, N=s.N),
        args=lambda rng, s: (positive(rng, s.lead(1)), rng.uniform(-0.9, 0.9, s.lead(2))),
        reference=lambda s: ref.batched(
            lambda v, r: ref.stored(np.linalg.cholesky(np.linalg.inv(ref.covariance_ar1(v, r, s.N))), (0, 1)), 0, 0
        ),
        cores=(0, 0),
    ),
    Case(
        "logdet_precision_ar1",
        op=lambda s: partial(ops.logdet_precision_ar1, N=s.N),
        args=lambda rng, s: (positive(rng, s.lead(1)), rng.uniform(-0.9, 0.9, s.lead(2))),
        reference=lambda s: ref.batched(lambda v, r: -np.linalg.slogdet(ref.covariance_ar1(v, r, s.N))[1], 0, 0),
        cores=(0, 0),
        scale=lambda v, r: 1 + 40.0,  # n (|log s| + |log(1 - rho²)|) in the worst of these shapes
    ),
]


def lowrank_u(rng, s, i):
    return real(rng, (*s.lead(i), s.R, s.N), 0.8)


LOWRANK = [
    Case(
        "sample_lowrank",
        # R > 1 has no canonical square root: the oracle uses the one that the module's docstring defines
        op=lambda s: ops.sample_lowrank,
        args=lambda rng, s: (
            real(rng, (*s.lead(0), s.N)),
            positive(rng, (*s.lead(1), s.N)),
            lowrank_u(rng, s, 2),
            real(rng, (*s.lead(3), s.N)),
        ),
        reference=lambda s: ref.batched(_lowrank_draw, 1, 1, 2, 1),
        cores=(1, 1, 2, 1),
    ),
    Case(
        "log_prob_lowrank",
        op=lambda s: ops.log_prob_lowrank,
        args=lambda rng, s: (
            real(rng, (*s.lead(0), s.N)),
            real(rng, (*s.lead(3), s.N)),
            positive(rng, (*s.lead(1), s.N)),
            lowrank_u(rng, s, 2),
        ),
        reference=lambda s: ref.batched(
            lambda x, m, d, u: ref.gaussian_log_prob(x, m, ref.covariance_lowrank(d, u)), 1, 1, 1, 2
        ),
        cores=(1, 1, 1, 2),
        scale=lambda x, m, d, u: 1 + 30 * (1 + np.abs(x).max(initial=0) + np.abs(m).max(initial=0)) ** 2,
    ),
    Case(
        "kl_divergence_lowrank",
        op=lambda s: ops.kl_divergence_lowrank,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), positive(rng, (*s.lead(1), s.N)), lowrank_u(rng, s, 2)),
        reference=lambda s: ref.batched(lambda m, d, u: ref.gaussian_kl(m, ref.covariance_lowrank(d, u)), 1, 1, 2),
        cores=(1, 1, 2),
    ),
    Case(
        "logdet_lowrank",
        op=lambda s: ops.logdet_lowrank,
        args=lambda rng, s: (positive(rng, (*s.lead(1), s.N)), lowrank_u(rng, s, 2)),
        reference=lambda s: ref.batched(lambda d, u: -np.linalg.slogdet(ref.covariance_lowrank(d, u))[1], 1, 2),
        cores=(1, 2),
        scale=lambda d, u: 1 + 40.0,
    ),
    Case(
        "variance_lowrank",
        op=lambda s: ops.variance_lowrank,
        args=lambda rng, s: (positive(rng, (*s.lead(1), s.N)), lowrank_u(rng, s, 2)),
        reference=lambda s: ref.batched(lambda d, u: np.diag(ref.covariance_lowrank(d, u)), 1, 2),
        cores=(1, 2),
    ),
]


def _lowrank_draw(m, d, u, e):
    v = u / np.sqrt(d)
    a = np.linalg.cholesky(np.eye(len(u)) + v @ v.T)
    k = np.linalg.inv(a).T @ np.linalg.inv(np.eye(len(u)) + a)
    root = (np.eye(len(m)) - v.T @ k @ v) / np.sqrt(d)[:, None]
    np.testing.assert_allclose(root @ root.T, ref.covariance_lowrank(d, u), atol=1e-12)  # it IS a square root of C
    return m + root @ e


GAUSSIAN = [
    Case(
        "sample_diagonal",
        op=lambda s: ops.sample_diagonal,
        args=lambda rng, s: tuple(real(rng, (*s.lead(i), s.N), 1.0) for i in range(3)),
        reference=lambda s: lambda m, l, e: m + np.exp(l) * e,
        cores=(1, 1, 1),
    ),
    Case(
        "kl_divergence_diagonal",
        op=lambda s: ops.kl_divergence_diagonal,
        args=lambda rng, s: tuple(real(rng, (*s.lead(i), s.N), 0.7) for i in range(2)),
        reference=lambda s: ref.batched(lambda m, l: ref.gaussian_kl(m, np.diag(np.exp(2 * l))), 1, 1),
        cores=(1, 1),
    ),
    Case(
        "sample_dense",
        op=lambda s: ops.sample_dense,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), lower(rng, s, 1), real(rng, (*s.lead(2), s.N))),
        reference=lambda s: ref.batched(lambda m, r, e: m + r @ e, 1, 2, 1),
        cores=(1, 2, 1),
    ),
    Case(
        "log_prob_dense",
        op=lambda s: ops.log_prob_dense,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), real(rng, (*s.lead(2), s.N)), lower(rng, s, 1)),
        reference=lambda s: ref.batched(lambda x, m, r: ref.gaussian_log_prob(x, m, np.tril(r) @ np.tril(r).T), 1, 1, 2),
        cores=(1, 1, 2),
        scale=lambda x, m, r: 1 + 100 * (1 + np.abs(x).max(initial=0) + np.abs(m).max(initial=0)) ** 2,
    ),
    Case(
        "kl_divergence_dense",
        op=lambda s: ops.kl_divergence_dense,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), lower(rng, s, 1)),
        # R is used as it stands: perturbed above the diagonal too, R Rᵀ is still the covariance, but |R| is not prod R_jj
        reference=lambda s: ref.batched(
            lambda m, r: 0.5 * (np.trace(r @ r.T) + m @ m - len(m)) - np.log(np.diag(r)).sum(), 1, 2
        ),
        cores=(1, 2),
    ),
    Case(
        "bernoulli_log_prob",
        op=lambda s: ops.bernoulli_log_prob,
        args=lambda rng, s: (rng.uniform(0.1, 0.9, (*s.lead(0), s.N)), real(rng, (*s.lead(1), s.N))),
        reference=lambda s: ref.batched(ref.bernoulli_log_prob, 1, 1),
        cores=(1, 1),
    ),
    Case(
        "bernoulli_affine_log_prob",
        op=lambda s: ops.bernoulli_affine_log_prob,
        args=lambda rng, s: (
            rng.uniform(0.1, 0.9, (*s.lead(0), s.N)),
            real(rng, (*s.lead(1), 3), 0.7),
            real(rng, (3, s.N), 0.7),
            real(rng, (s.N,), 0.7),
        ),
        reference=lambda s: lambda x, h, w, b: ref.batched(ref.bernoulli_log_prob, 1, 1)(x, h @ w + b),
        cores=(1, 1, 2, 1),
    ),
    Case(
        "normal_log_prob",
        op=lambda s: ops.normal_log_prob,
        args=lambda rng, s: tuple(real(rng, (*s.lead(i), s.N), 0.7) for i in range(3)),
        reference=lambda s: ref.batched(ref.normal_log_prob, 1, 1, 1),
        cores=(1, 1, 1),
        scale=lambda x, m, l: (
            1 + np.exp(-2 * l).max(initial=1) * (1 + np.abs(x).max(initial=0) + np.abs(m).max(initial=0)) ** 2 * 20
        ),
    ),
]

LINALG = [
    Case(
        "cholesky",
        # the argument is symmetrised first, so that every perturbation is a symmetric one
        op=lambda s: lambda a: ops.cholesky(0.5 * ops.add(a, ops.swapaxes(a, axis1=-1, axis2=-2))),
        args=lambda rng, s: (lambda l: (l @ l.swapaxes(-1, -2),))(lower(rng, s)),
        reference=lambda s: ref.batched(np.linalg.cholesky, 2),
        cores=(2,),
        direct=lambda s: ops.cholesky,
    ),
    *(
        Case(
            "solve_triangular",
            op=lambda s, t=trans: partial(ops.solve_triangular, trans=t),
            args=lambda rng, s: (lower(rng, s, 0), real(rng, (*s.lead(1), s.N, s.K))),
            reference=lambda s, t=trans: ref.batched(
                lambda l, b: np.linalg.solve(np.tril(l).T if t else np.tril(l), b), 2, 2
            ),
            cores=(2, 2),
            settings=f"[trans={trans}]",
        )
        for trans in (False, True)
    ),
    Case(
        "eigh",
        # a smooth function of both outputs: A^3 = V w^3 Vᵀ, and the eigenvalues themselves
        op=lambda s: _cube,
        args=lambda rng, s: (_separated(rng, s),),
        reference=lambda s: ref.batched(
            lambda a: np.linalg.matrix_power(0.5 * (a + a.T), 3) + np.diag(np.linalg.eigvalsh(0.5 * (a + a.T))), 2
        ),
        cores=(2,),
        scale=lambda a: 10 * (1 + np.abs(a).max(initial=0)) ** 3,
        direct=lambda s: ops.eigh,
    ),
]


def _separated(rng, s):
    """Symmetric, with eigenvalues 1, 2, 3, ...: the derivative of eigenvectors divides by their gaps."""
    q, _ = np.linalg.qr(rng.normal(size=(*s.lead(0), s.N, s.N)))
    return q @ (np.arange(1.0, s.N + 1)[:, None] * q.swapaxes(-1, -2))


def _cube(a):
    w, v = ops.eigh(0.5 * ops.add(a, ops.swapaxes(a, axis1=-1, axis2=-2)))
    vt = ops.swapaxes(v, axis1=-1, axis2=-2)
    n = w.shape[-1]
    i = np.arange(n)
    diagonal = ops.scatter_last(w, index=i * (n + 1), size=n * n)
    return ops.matmul(v * (w**3)[..., None, :], vt) + ops.reshape(diagonal, shape=(*w.shape[:-1], n, n))


def weights_case(name, function):
    return Case(
        name,
        op=lambda s: partial(getattr(ops, name), axis=1),
        args=lambda rng, s: (real(rng, (s.R, s.K, s.N), 3.0),),
        reference=lambda s: function,
    )


WEIGHTS = [
    weights_case("log_mean_exp", lambda x: np.log(np.exp(x).mean(axis=1))),
    weights_case("normalized_weights", lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
    weights_case("effective_sample_size", lambda x: np.exp(x).sum(axis=1) ** 2 / np.exp(2 * x).sum(axis=1)),
]


def _csr(s, seed=7):
    import scipy.sparse

    rng = np.random.default_rng(seed)
    return scipy.sparse.csr_array(rng.poisson(0.7, size=(s.R + 2, s.N)))


def _csr_matmul(y, x):
    return ops.csr_matmul(x, y)


SPARSE = [
    Case(
        "csr_matmul",
        op=lambda s: partial(_csr_matmul, x=_csr(s)),
        args=lambda rng, s: (real(rng, (s.N, s.K)),),
        reference=lambda s: lambda y: _csr(s).toarray() @ y,
        names=("y",),
    ),
    Case(
        "affine",
        op=lambda s: lambda w, b, activation="elu": ops.affine(_csr(s), w, b, activation=activation),
        args=lambda rng, s: (real(rng, (s.N, s.K)), real(rng, (s.K,))),
        reference=lambda s: lambda w, b: ref.activation("elu", _csr(s).toarray() @ w + b),
        settings="[csr]",
        names=("weight", "bias"),
    ),
    *(
        Case(
            "poisson_counts_log_prob",
            op=lambda s, by=by: lambda z, w, by=by: ops.poisson_counts_log_prob(_csr(s), z, w, by=by),
            args=lambda rng, s: (positive(rng, (s.R + 2, s.K)), positive(rng, (s.N, s.K))),
            reference=lambda s, axis=axis: (
                lambda z, w: scipy.stats.poisson.logpmf(_csr(s).toarray(), z @ w.T).sum(axis=axis)
            ),
            scale=lambda z, w: 1 + 10 * (z @ w.T).sum(),
            covers=("poisson_counts_log_prob", "CountMatrix"),
            settings=f"[csr,{by}]",
            names=("z", "w"),
        )
        for by, axis in (("row", -1), ("column", 0))
    ),
]

# Not differentiable, so only test_awkward.py drives them; test_ops.py has tests of their own.
HIDDEN = 3  # units of NADE


def nade(rng, s, first):
    """x or uniform numbers, then b, c, W and V."""
    shapes = (s.N,), (HIDDEN,), (s.N, HIDDEN), (s.N, HIDDEN)
    return first, *(real(rng, (*s.lead(min(i, 3)), *shape), 0.7) for i, shape in enumerate(shapes, 1))


def nade_log_prob(x, b, c, W, V):
    total, a = 0.0, c
    for x_j, b_j, w, v in zip(x, b, W, V, strict=True):
        t = b_j + v @ scipy.special.expit(a)
        total, a = total + x_j * t - np.logaddexp(0, t), a + x_j * w
    return total


def nade_draw(u, b, c, W, V):
    draw, a = np.zeros_like(u), c
    for j in range(len(u)):
        draw[j] = u[j] < scipy.special.expit(b[j] + V[j] @ scipy.special.expit(a))
        a = a + draw[j] * W[j]
    return draw


def autoregressive_draw(b, U, u):
    draw, a = np.zeros_like(u), b + 0
    for j in range(len(u)):
        draw[j] = u[j] < scipy.special.expit(a[j])
        a[j + 1 :] += draw[j] * U[j, j + 1 :]
    return draw


DRAWS = [
    Case(
        "strict_triangle",
        op=lambda s: partial(ops.strict_triangle, n=s.N),
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N * (s.N - 1) // 2)),),
        reference=lambda s: ref.batched(
            lambda e: np.array([[e[_at(i, j, s.N)] if i < j else 0.0 for j in range(s.N)] for i in range(s.N)]).reshape(
                s.N, s.N
            ),
            1,
        ),
        cores=(1,),
    ),
    Case(
        "nade_log_prob",
        op=lambda s: ops.nade_log_prob,
        args=lambda rng, s: nade(rng, s, rng.uniform(0.1, 0.9, (*s.lead(0), s.N))),
        reference=lambda s: ref.batched(nade_log_prob, 1, 1, 1, 2, 2),
        cores=(1, 1, 1, 2, 2),
    ),
    Case(
        "log_gamma_draw",
        op=lambda s: ops.log_gamma_draw,
        args=lambda rng, s: (np.exp(real(rng, (*s.lead(0), s.N))), rng.uniform(0.05, 0.95, (*s.lead(1), s.N))),
        reference=lambda s: lambda a, u: np.log(scipy.special.gammaincinv(a, u)),
        cores=(1, 1),
        names=("shape", "uniform"),
    ),
]


def _at(i, j, n):
    """Where the entry (i, j) above the diagonal lies, row by row."""
    return i * n - i * (i + 1) // 2 + j - i - 1


PLAIN = [
    Case(
        "keep",
        op=lambda s: lambda u, rate=0.3: ops.keep(u, rate),
        args=lambda rng, s: (rng.random((*s.lead(0), s.N)),),
        reference=lambda s: lambda u: np.where(u < 0.3, 0.0, 1.0),
        cores=(0,),
    ),
    Case(
        "bernoulli_draw",
        op=lambda s: ops.bernoulli_draw,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), rng.random((*s.lead(1), s.N))),
        reference=lambda s: ref.batched(lambda a, u: (u < scipy.special.expit(a)) * 1.0, 1, 1),
        cores=(1, 1),
    ),
    Case(
        "categorical_draw",
        op=lambda s: ops.categorical_draw,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N, 3)), rng.random((*s.lead(1), s.N))),
        reference=lambda s: ref.batched(
            lambda a, u: (u[:, None] >= np.cumsum(scipy.special.softmax(a, axis=-1), axis=-1)[:, :-1]).sum(axis=-1) * 1.0,
            2,
            1,
        ),
        cores=(2, 1),
    ),
    Case(
        "poisson_draw",
        op=lambda s: ops.poisson_draw,
        args=lambda rng, s: (real(rng, (*s.lead(0), s.N)), rng.random((*s.lead(1), s.N))),
        reference=lambda s: ref.batched(lambda a, u: scipy.stats.poisson.ppf(u, np.exp(a)), 1, 1),
        cores=(1, 1),
    ),
    Case(
        "autoregressive_draw",
        op=lambda s: ops.autoregressive_draw,
        args=lambda rng, s: (
            real(rng, (*s.lead(0), s.N)),
            real(rng, (*s.lead(1), s.N, s.N)),
            rng.random((*s.lead(2), s.N)),
        ),
        reference=lambda s: ref.batched(autoregressive_draw, 1, 2, 1),
        cores=(1, 2, 1),
    ),
    Case(
        "nade_draw",
        op=lambda s: ops.nade_draw,
        args=lambda rng, s: nade(rng, s, rng.random((*s.lead(0), s.N))),
        reference=lambda s: ref.batched(nade_draw, 1, 1, 1, 2, 2),
        cores=(1, 1, 1, 2, 2),
    ),
    Case(
        "band_to_dense",
        op=lambda s: partial(ops.band_to_dense, offsets=s.offsets),
        args=lambda rng, s: (factor(rng, s),),
        reference=lambda s: ref.batched(lambda c: ref.dense_factor(c, s.offsets), 2),
        cores=(2,),
    ),
    Case(
        "dense_to_band",
        op=lambda s: partial(ops.dense_to_band, offsets=s.offsets),
        args=lambda rng, s: (lower(rng, s),),
        reference=lambda s: ref.batched(lambda l: ref.stored(l, s.offsets), 2),
        cores=(2,),
    ),
]


def _views(rng, s):
    """Two views that depend on each other, so that no canonical correlation is near 0, where their sum has a kink."""
    n = 2 * max(s.N, s.K) + 20
    common = rng.normal(size=(n, max(s.N, s.K)))
    return (common[:, : s.N] + 0.3 * rng.normal(size=(n, s.N)), common[:, : s.K] + 0.3 * rng.normal(size=(n, s.K)))


def _nuclear(f, g, ridge):
    """The sum of singular values of Lx^-1 Sxy Ly^-T, with Cholesky factors in place of symmetric roots."""
    roots = []
    for x in (f, g):
        covariance = np.atleast_2d(np.cov(x.T))
        roots.append(
            np.linalg.cholesky(covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))
        )
    across = (f - f.mean(axis=0)).T @ (g - g.mean(axis=0)) / (len(f) - 1)
    return np.linalg.svd(np.linalg.solve(roots[0], across) @ np.linalg.inv(roots[1]).T, compute_uv=False).sum()


CORRELATION = [
    Case(
        "canonical_correlation",
        op=lambda s, r=ridge: partial(ops.canonical_correlation, ridge=r),
        args=_views,
        reference=lambda s, r=ridge: partial(_nuclear, ridge=r),
        settings=f"[ridge={ridge:g}]",
    )
    for ridge in (0.0, 0.1)
]


def _psi(rng, s, inputs=2):
    """Means and variances, or inputs alone; z, precision, scale."""
    N, M, Q = s.R + 2, s.K + 1, s.N
    rows = (real(rng, (N, Q), 0.7), positive(rng, (N, Q)))[:inputs]
    return *rows, real(rng, (M, Q), 0.7), positive(rng, (Q,)), positive(rng, ())


GP = [
    Case("rbf", op=lambda s: ops.rbf, args=partial(_psi, inputs=1), reference=lambda s: ref.rbf),
    Case("psi1", op=lambda s: ops.psi1, args=_psi, reference=lambda s: ref.psi1),
    Case("psi2", op=lambda s: ops.psi2, args=_psi, reference=lambda s: ref.psi2),
]


CASES = [*ELEMENTWISE, *ARRAYS, *DENSE, *NORMALIZE, *BANDED, *AR1, *LOWRANK, *GAUSSIAN, *LINALG, *WEIGHTS, *SPARSE, *DRAWS]
CASES += [*CORRELATION, *GP]
