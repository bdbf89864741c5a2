"""What is trained: sizes, data, initial parameters, and the numbers in which gvae's posteriors are written.

A structured posterior draws z = mean + L⁻ᵀ eps, where row j of Lᵀ, divided by its pivot 1 / s_j, reads 1 on the diagonal and
a bounded ratio r per edge. So the hand-written forms of other libraries need no matrix L:

    z = mean + W eps,    (I + N) W = diag(s),    N_j,j+o = r_oj,    log |W| = sum log s,    KL = |W|² / 2 + ...
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from benchmarks.common import SEED

from gvae import random
from gvae.families import Family
from gvae.models.vae import VAE

ONES = 0.13  # share of the pixels, as in binarized MNIST, but here uniform over the image


@dataclass(frozen=True)
class Case:
    """A model and a batch. With one sample the objective is the ELBO, with several the importance-weighted bound."""

    posterior: str
    rows: int
    samples: int
    latent: int = 16
    activation: str = "elu"
    pixels: int = 784
    hidden: int = 200
    learning_rate: float = 1e-3

    def __str__(self) -> str:
        bound = "IWAE" if self.samples > 1 else "ELBO"
        sizes = f"{self.pixels}-{self.hidden}-{self.hidden}-{self.latent}"
        return f"{self.posterior}, {sizes} {self.activation}, {bound}, {self.rows} rows x {self.samples}"

    def model(self) -> VAE:
        hidden = (self.hidden, self.hidden)
        return VAE(self.pixels, self.latent, self.posterior, hidden=hidden, activation=self.activation)

    @cached_property
    def family(self) -> Family:
        return self.model().posterior

    def parameters(self) -> dict[str, np.ndarray]:
        """gvae's initial parameters, from which all libraries start: "encoder.0.weight" (inputs, outputs), ..."""
        return self.model().init(random.key(SEED))

    def data(self) -> np.ndarray:
        return (np.random.default_rng(SEED).random((self.rows, self.pixels)) < ONES).astype(np.float32)

    def noise(self, step: int) -> np.ndarray:
        shape = (self.samples, self.rows, self.latent)
        return np.random.default_rng((SEED, step)).standard_normal(shape, np.float32)

    @cached_property
    def edges(self) -> list[tuple[int, int]]:
        """(j, j + o) for each ratio r_oj, in the order in which the encoder emits them; none for a diagonal posterior."""
        if self.posterior == "diagonal":
            return []
        graph = self.family.graph
        return [
            (int(j), int(j) + o) for o, row in zip(graph.offsets[1:], graph.mask[1:], strict=True) for j in row.nonzero()[0]
        ]


GRID = "extended_grid:4x4"
CASES = {
    "diagonal": Case("diagonal", 100, 1),
    "diagonal-20x50": Case("diagonal", 20, 50),
    "diagonal-100x50": Case("diagonal", 100, 50),
    "diagonal-1000": Case("diagonal", 1000, 1),
    "chain": Case("chain", 100, 1),
    "chain-20x50": Case("chain", 20, 50),
    "grid": Case(GRID, 100, 1),
    "grid-20x50": Case(GRID, 20, 50),
    "tanh-20x50": Case("diagonal", 20, 50, latent=50, activation="tanh"),
}


class Step(Protocol):
    """An implementation of a case, made by Implementation(case). It returns the loss: minus the bound, in nats per row."""

    def __call__(self) -> float:
        """One step with new noise, drawn by the library's own generator; the loss is read, so that the step has ended."""

    def given(self, noise: np.ndarray) -> float:
        """One step with this noise (samples, rows, latent)."""

    def parameters(self) -> dict[str, Any]:
        """As arrays, by gvae's names."""
