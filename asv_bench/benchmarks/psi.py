"""The RBF kernel and its statistics under Gaussian inputs. Baseline: dense arrays in NumPy."""

from __future__ import annotations

import numpy as np

from .common import DTYPES, MODES, Op

SHAPES = [(500, 50, 5), (2000, 50, 5)]  # rows, inducing inputs, axes


class Statistic(Op):
    params = (["gvae", "numpy"], MODES, SHAPES, DTYPES)
    param_names = ("implementation", "mode", "shape", "dtype")

    def data(self, shape, dtype):
        """mean, variance, z, precision, scale."""
        N, M, Q = shape
        rows = self.normal(N, Q, dtype=dtype), self.uniform(0.01, 1, N, Q, dtype=dtype)
        return *rows, self.normal(M, Q, dtype=dtype), self.uniform(0.2, 1, Q, dtype=dtype), np.array(1.3, dtype)


class Psi1(Statistic):
    def op(self, ops, shape, dtype):
        return ops.psi1

    def numpy(self, mode, shape, dtype):
        mean, S, z, a, v = self.data(shape, dtype)
        y_bar = self.normal(shape[0], shape[1], dtype=dtype)

        def call():
            c = 1 / (a * S + 1)
            u, gap = a * c, mean[:, None] - z
            square = gap * gap
            of_one = np.sqrt(c).prod(axis=-1)[:, None] * np.exp(-0.5 * np.einsum("nq,nmq->nm", u, square))
            y = v * of_one
            if mode == "forward":
                return y
            T = y_bar * y
            t, first, second = T.sum(axis=1)[:, None], np.einsum("nm,nmq->nq", T, gap), np.einsum("nm,nmq->nq", T, square)
            z_bar = np.einsum("nm,nq,nmq->mq", T, u, gap, optimize=True)
            a_bar = -0.5 * (c * c * second + t * S * c).sum(axis=0)
            return y, -u * first, 0.5 * u * (u * second - t), z_bar, a_bar, (y_bar * of_one).sum()

        return call

    def time_psi1(self, *_):
        return self.call()


class Psi2(Statistic):
    def op(self, ops, shape, dtype):
        return ops.psi2

    def numpy(self, mode, shape, dtype):
        mean, S, z, a, v = self.data(shape, dtype)
        M = shape[1]
        y_bar = self.normal(M, M, dtype=dtype)
        symmetric = 0.5 * (y_bar + y_bar.T)

        def call():
            c = 1 / (2 * a * S + 1)
            u, w, gap, between = a * c, 0.5 * a * a * S * c, mean[:, None] - z, z[:, None] - z
            h = 0.5 * np.einsum("nq,nmq->nm", u, gap * gap)
            terms = -np.tensordot(w, between * between, (1, 2))
            terms -= h[:, :, None]
            terms -= h[:, None]
            np.exp(terms, out=terms)
            terms *= np.sqrt(c).prod(axis=-1)[:, None, None]
            total = terms.sum(axis=0)
            if mode == "forward":
                return v * v * total
            terms *= v * v * symmetric
            r = terms.sum(axis=2)
            t, second = r.sum(axis=1)[:, None], np.einsum("nm,nmq->nq", r, gap * gap)
            d = np.tensordot(terms, between * between, 2)
            mean_bar = -2 * u * np.einsum("nm,nmq->nq", r, gap)
            variance_bar = 2 * u * u * (second - d / 4) - t * u
            a_bar = (-t * S * c - second * c * c - 0.5 * d * u * S * (1 + c)).sum(axis=0)
            z_bar = 2 * np.einsum("nm,nq,nmq->mq", r, u, gap, optimize=True)
            z_bar -= 4 * (np.tensordot(terms, w, (0, 0)) * between).sum(axis=1)
            return v * v * total, mean_bar, variance_bar, z_bar, a_bar, 2 * v * (symmetric * total).sum()

        return call

    def time_psi2(self, *_):
        return self.call()


class Rbf(Statistic):
    def data(self, shape, dtype):
        """x, z, precision, scale."""
        mean, _, *others = super().data(shape, dtype)
        return mean, *others

    def op(self, ops, shape, dtype):
        return ops.rbf

    def numpy(self, mode, shape, dtype):
        x, z, a, v = self.data(shape, dtype)
        y_bar = self.normal(shape[0], shape[1], dtype=dtype)

        def call():
            gap = x[:, None] - z
            of_one = np.exp(-0.5 * np.einsum("q,nmq->nm", a, gap * gap))
            y = v * of_one
            if mode == "forward":
                return y
            T = y_bar * y
            first = a * np.einsum("nm,nmq->nq", T, gap)
            z_bar = a * np.einsum("nm,nmq->mq", T, gap)
            return y, -first, z_bar, -0.5 * np.einsum("nm,nmq->q", T, gap * gap), (y_bar * of_one).sum()

        return call

    def time_rbf(self, *_):
        return self.call()
