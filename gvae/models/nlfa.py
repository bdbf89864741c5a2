"""Non-linear factor analysis, z ~ N(0, I), x | z ~ N(f(z), Psi) with one diagonal Psi for all data, by variational EM.

Each datum has a posterior of its own, so nothing is amortized: the E step improves the rows of a batch by some gradient
steps from where they were, the M step moves the decoder. Data not trained on are given fresh posteriors with the decoder
held fixed. The amortized twin is `VAE(..., observation="gaussian")` with the same decoder, and
`gvae.evaluation.inference_gaps` says what its encoder costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae import autodiff, families, random
from gvae.data import Batch, Table
from gvae.families import Conditional, Family
from gvae.objectives import ELBO, Layer, Terms
from gvae.optim import RowAdam
from gvae.training import Trainer

__all__ = ["NonlinearFactorAnalysis"]


class NonlinearFactorAnalysis:
    """n_inputs, latent : variables of x and z      hidden : widths of the decoder's layers

    posterior   : family of each datum's q
    observation : of p(x|z); "gaussian" has one diagonal noise for all data

    The rows' numbers come from the trainer; for other data from a column, as in
    evaluate(model, params, Table(x, posterior=model.infer(params, x))).
    """

    pure = True

    def __init__(
        self,
        n_inputs: int,
        latent: int = 16,
        posterior: str | Family = "diagonal",
        observation: str | Family = "gaussian",
        hidden: Sequence[int] = (200, 200),
        activation: str = "elu",
        dtype: Any = np.float32,
    ):
        self.dtype = np.dtype(dtype)
        self.posterior = families.parse(posterior, latent)
        self.observation = families.parse(observation, n_inputs)
        self.decoder = Conditional("decoder", latent, self.observation, hidden, activation)

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        return self.decoder.init(key, self.dtype)

    def init_rows(self, key: np.ndarray, n_rows: int) -> dict[str, np.ndarray]:
        return {"posterior": np.zeros((n_rows, self.posterior.n_params), self.dtype)}

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        return {"z": self.posterior.noise(key, (samples, len(batch)), self.dtype, vars(batch).get("x"))}

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: int = 0) -> Terms:
        raw = batch.posterior if "posterior" not in params else params["posterior"]  # noqa: SIM401  (a table may lack it)
        q = self.posterior(raw)
        z = q.sample(noise["z"])
        return Terms({"x": self.decoder(params, z).log_prob(batch.x)}, [Layer(q, None, z, noise["z"])])

    def improve(self, params: Any, rows: RowAdam, batch: Any, key: np.ndarray, *, steps: int, samples: int = 1) -> None:
        """The E step: so many gradient steps of the batch's rows, `batch.index` of `rows`, the decoder held fixed."""
        objective = ELBO()
        for t in range(steps):
            noise = self.noise(random.fold_in(key, t), batch, samples)

            def bound(raw: Any, noise: Any = noise) -> Any:  # summed: each row ascends its own
                terms = self.terms(dict(params) | {"posterior": raw}, {}, batch, noise)
                return objective(terms)[0] * float(len(batch))

            rows.update(batch.index, -autodiff.gradient(bound, rows.values[batch.index]))

    def fit(
        self,
        table: Table,
        *,
        epochs: int,
        e_steps: int = 5,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        samples: int = 1,
        seed: int = 0,
    ) -> tuple[Trainer, list[float]]:
        """Variational EM: per batch `e_steps` steps of its rows alone, then one of rows and decoder together.

        Returns the trainer (its parameters, its `rows`) and the mean bound of each epoch.
        """
        trainer = Trainer(self, n_rows=len(table), learning_rate=learning_rate, samples=samples, seed=seed)
        history = []
        for epoch in range(epochs):
            total = 0.0
            key = random.fold_in(trainer.key, 1000, epoch)
            for i, batch in enumerate(table.batches(random.fold_in(key, 0), batch_size, trainer.order(len(table)))):
                step_key = random.fold_in(key, 1, i)
                self.improve(trainer.parameters, trainer.rows["posterior"], batch, step_key, steps=e_steps, samples=samples)
                total += len(batch) * trainer.step(batch)["bound"]
            trainer.epochs += 1
            history.append(total / len(table))
        return trainer, history

    def infer(
        self,
        params: Any,
        x: np.ndarray,
        *,
        start: np.ndarray | None = None,
        steps: int = 500,
        learning_rate: float = 0.02,
        samples: int = 8,
        key: np.ndarray | None = None,
    ) -> np.ndarray:
        """Raw posteriors (N, n_params) of rows x (N, D), optimised with the decoder held fixed, from `start` or N(0, I).

        The rate falls to a twentieth for the last half, so that the noise of the gradient averages out.
        """
        key = random.key(0) if key is None else key
        raw = np.zeros((len(x), self.posterior.n_params), self.dtype) if start is None else np.array(start)
        rows, batch = RowAdam(raw, learning_rate), Batch({"x": x}, np.arange(len(x)))
        for i, rate in enumerate((learning_rate, learning_rate / 20)):
            rows.learning_rate = rate
            self.improve(params, rows, batch, random.fold_in(key, i), steps=-(-steps // 2), samples=samples)
        return rows.values
