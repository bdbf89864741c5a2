"""gvae's training step, and the matrix products that any implementation of it has to do."""

from __future__ import annotations

import itertools

import numpy as np
from training_cases import Case

from gvae import blas, objectives, random
from gvae.data import Table
from gvae.training import Trainer


class Gvae:
    """`Trainer.step` as `gvae train` runs it, with one BLAS thread."""

    def __init__(self, case: Case):
        self.trainer = Trainer(
            case.model(),
            objective=objectives.parse("iwae" if case.samples > 1 else "elbo"),
            samples=case.samples,
            learning_rate=case.learning_rate,
            parameters=case.parameters(),
        )
        self.batch = Table(case.data()).batch(np.arange(case.rows), random.key(0))

    def __call__(self):
        with blas.threads(1):
            return -self.trainer.step(self.batch)["bound"]

    def given(self, noise):
        model = self.trainer.model
        model.noise = lambda *_: {"z": noise}
        try:
            return self()
        finally:
            del model.noise

    def parameters(self):
        return dict(self.trainer.parameters)


class Products:
    """All matrix products of a step, with NumPy into arrays that are there already: what is left is the rest of the step.

    Y = X W, W̄ = Xᵀ Ā, X̄ = Ā Wᵀ for each layer; the data need no X̄.
    """

    def __init__(self, case: Case):
        rng = np.random.default_rng(0)
        hidden = (case.hidden, case.hidden)
        encoder = (case.pixels, *hidden, case.family.n_params)
        decoder = (case.latent, *hidden, case.pixels)
        self.products = []
        for sizes, rows in ((encoder, case.rows), (decoder, case.samples * case.rows)):
            for n_in, n_out in itertools.pairwise(sizes):
                shapes = ((rows, n_in), (n_in, n_out), (rows, n_out))
                x, w, a = (rng.standard_normal(shape, np.float32) for shape in shapes)
                self.products += [(x, w, np.empty_like(a)), (x.T, a, np.empty_like(w))]
                if n_in != case.pixels:
                    self.products.append((a, w.T, np.empty_like(x)))

    def __call__(self):
        for x, y, out in self.products:
            np.matmul(x, y, out=out)
