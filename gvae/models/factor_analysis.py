"""Factor analysis by exact EM: z ~ N(0, I), x | z ~ N(W z + b, diag psi).

Everything has a closed form, so it is the oracle of every linear model here. With M = I + Wᵀ diag(psi)⁻¹ W,

    p(x) = N(b, W Wᵀ + diag psi),     p(z | x) = N(M⁻¹ Wᵀ diag(psi)⁻¹ (x - b), M⁻¹)

W is determined up to a rotation: compare W Wᵀ + diag psi. Source: Rubin and Thayer (1982).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from gvae import families, random, settings
from gvae.checks import check_shapes
from gvae.distributions import DenseGaussian
from gvae.errors import ConfigError, DataError
from gvae.families import LOG_SCALE, Family
from gvae.families.base import unbounded
from gvae.models import vae
from gvae.models.vae import VAE
from gvae.ops import elementwise
from gvae.ops.banded import LOG_2PI
from gvae.runtime import device
from gvae.settings import Families, fields, restated, setting

__all__ = ["FactorAnalysis", "FactorAnalysisEM", "LinearVAE"]

FLOOR = 1e-5  # of psi, in training: above the square of the family's least standard deviation, 1e-3


@dataclass
class FactorAnalysis:
    """W : (D, k)      b : (D,)      psi : (D,), positive      history : mean log p(x) after each iteration of EM"""

    W: np.ndarray
    b: np.ndarray
    psi: np.ndarray
    history: list[float] = field(default_factory=list)

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        latent: int,
        *,
        iterations: int = 500,
        tolerance: float = 1e-9,
        floor: float = 1e-6,
        seed: int = 0,
    ) -> FactorAnalysis:
        """Maximise the likelihood of rows x (N, D) by EM, in float64, until it gains less than `tolerance` nats per row.

        floor : psi is kept from falling below it; without one the likelihood of a column that never changes has no maximum
        Raises ShapeError, DataError, ConfigError.
        """
        x = np.asarray(x, np.float64)
        sizes = check_shapes("x: N D", where="FactorAnalysis.fit", x=x)
        N, D = sizes["N"], sizes["D"]
        if N < 2 or not np.isfinite(x).all():
            raise DataError(f"FactorAnalysis.fit: x has shape {x.shape}, expected at least two rows of finite numbers")
        if not isinstance(latent, int) or not 1 <= latent <= D:
            raise ConfigError(f"FactorAnalysis.fit: latent is {latent!r}, expected an integer from 1 to {D}")
        b = x.mean(axis=0)
        S = (x - b).T @ (x - b) / N
        variance = np.maximum(np.diag(S), floor)
        W = random.normal(random.key(seed), (D, latent), np.float64) * np.sqrt(variance / latent)[:, None]
        model = cls(W, b, variance)
        for _ in range(iterations):
            model = model.step(S, floor)
            model.history.append(float(model._mean_log_prob(S)))
            if len(model.history) > 1 and model.history[-1] - model.history[-2] < tolerance:
                break
        return model

    def step(self, S: np.ndarray, floor: float) -> FactorAnalysis:
        """An iteration of EM on rows with second moments S (D, D) about b."""
        # E step: E[z] = beta (x - b), and the mean of E[z zᵀ] is I - beta W + beta S betaᵀ
        beta = self.to_code
        second = np.eye(len(beta)) - beta @ self.W + beta @ S @ beta.T
        # M step
        W = np.linalg.solve(second, beta @ S).T
        psi = np.maximum(np.diag(S) - (W * (beta @ S).T).sum(axis=1), floor)
        return FactorAnalysis(W, self.b, psi, self.history)

    @property
    def to_code(self) -> np.ndarray:
        """beta = M⁻¹ Wᵀ diag(psi)⁻¹, (k, D), with E[z | x] = beta (x - b)."""
        return np.linalg.solve(self.M, (self.W / self.psi[:, None]).T)

    @property
    def M(self) -> np.ndarray:
        """The posterior's precision, (k, k)."""
        return np.eye(self.W.shape[1]) + self.W.T @ (self.W / self.psi[:, None])

    def _mean_log_prob(self, S: np.ndarray) -> float:
        """Of rows with second moments S about b."""
        M, scaled = self.M, self.W / self.psi[:, None]
        trace = (np.diag(S) / self.psi).sum() - np.trace(np.linalg.solve(M, scaled.T @ S @ scaled))
        return -0.5 * (len(self.b) * LOG_2PI + np.log(self.psi).sum() + np.linalg.slogdet(M)[1] + trace)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log p(x) of rows (N, D), in nats, (N,), in time N D k."""
        e = np.asarray(x, np.float64) - self.b
        M = self.M
        t = e @ (self.W / self.psi[:, None])
        quadratic = (e * e / self.psi).sum(axis=1) - (t * np.linalg.solve(M, t.T).T).sum(axis=1)
        return -0.5 * (len(self.b) * LOG_2PI + np.log(self.psi).sum() + np.linalg.slogdet(M)[1] + quadratic)

    def posterior(self, x: np.ndarray) -> DenseGaussian:
        """p(z | x) of each row."""
        t = (np.asarray(x, np.float64) - self.b) @ (self.W / self.psi[:, None])
        return DenseGaussian(np.linalg.solve(self.M, t.T).T, np.linalg.cholesky(np.linalg.inv(self.M)))

    def mean_field_gap(self) -> float:
        """log p(x) - ELBO of the best diagonal q: 1/2 (sum_i log M_ii - log |M|), the same for every x."""
        return 0.5 * float(np.log(np.diag(self.M)).sum() - np.linalg.slogdet(self.M)[1])

    def sample(self, key: np.ndarray, n: int) -> np.ndarray:
        """n draws of x, (n, D)."""
        z = random.normal(random.fold_in(key, 0), (n, self.W.shape[1]), np.float64)
        e = random.normal(random.fold_in(key, 1), (n, len(self.b)), np.float64)
        return z @ self.W.T + self.b + np.sqrt(self.psi) * e

    def as_vae(self, posterior: str = "full") -> tuple[VAE, dict[str, np.ndarray]]:
        """The same model as a VAE with a linear decoder, and its parameters: a linear encoder with the exact posterior
        ("full"), or with the best one of independent variables ("diagonal"). In float64."""
        D, k = self.W.shape
        model = LinearVAE(D, k, posterior, dtype=np.float64)
        to_mean, family = self.to_code.T, model.posterior
        if isinstance(family, families.Full):
            rest = family.unconstrained(np.linalg.cholesky(np.linalg.inv(self.M)))
        elif isinstance(family, families.Diagonal):
            rest = unbounded(-0.5 * np.log(np.diag(self.M)), LOG_SCALE)
        else:
            raise ConfigError(f"FactorAnalysis.as_vae: posterior is {posterior!r}, expected 'full' or 'diagonal'")
        return model, {
            "encoder.0.weight": np.concatenate([to_mean, np.zeros((D, len(rest)))], axis=1),
            "encoder.0.bias": np.concatenate([-self.b @ to_mean, rest]),
            "decoder.0.weight": self.W.T.copy(),
            "decoder.0.bias": self.b.copy(),
            "decoder.shared": unbounded(0.5 * np.log(self.psi), LOG_SCALE),
        }


@settings.group("model")
class Settings(settings.Settings):
    """Those of a linear VAE."""

    latent: int = restated(vae.Settings, "latent", default=16, kw_only=False)
    posterior: str | Family = restated(vae.Settings, "posterior", default="full", kw_only=False)
    observation: str | Family = restated(vae.Settings, "observation", default="gaussian", kw_only=False)
    prior: str | Family | None = restated(vae.Settings, "prior", default=None)
    start: str = restated(vae.Settings, "start", default="calm")
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")


class LinearVAE(VAE):
    """A VAE without hidden layers: with a Gaussian observation it is factor analysis by gradients, with the exact posterior
    where its family is "full". Settings: see gvae.LinearVAE."""

    Settings: ClassVar[Any] = Settings

    def build(self, settings):
        chosen = {f.name: getattr(settings, f.name) for f in fields(type(settings))}
        super().build(vae.Settings(**chosen, hidden=()))

    @classmethod
    def layers(cls, settings, sizes):
        return [(sizes["x"], settings.latent), (settings.latent, sizes["x"])]


@settings.group("model")
class ExactSettings(settings.Settings):
    """Those of factor analysis."""

    latent: int = restated(vae.Settings, "latent", default=16, kw_only=False)
    posterior: str | Family = setting(
        default="full",
        help="family of p(z|x), which is exact; full:absolute is how older files write it",
        kind=Families("full", "full:absolute"),
    )
    observation: str | Family = setting(default="gaussian", help="family of p(x|z)", kind=Families("gaussian"))


class FactorAnalysisEM(LinearVAE):
    """Factor analysis whose training step is an iteration of exact EM on all rows, without gradients.

    Its encoder is the exact posterior of its decoder after every step, so that each draw of estimator A is log p(x), and the
    bounds that training reports are exact. psi is kept from falling below 1e-5. Settings: see gvae.FactorAnalysis.
    """

    Settings: ClassVar[Any] = ExactSettings

    def init(self, key):
        return self._with_encoder(_decoder(super().init(key)))

    def update(self, params, batch):
        x = np.asarray(device.to_host(batch.x), np.float64)
        if len(x) != self.n_rows:
            raise ConfigError(f"FactorAnalysisEM: a batch of {len(x)} rows, expected all {self.n_rows}: EM takes no part")
        weight = None if batch.weight is None else np.asarray(device.to_host(batch.weight), np.float64)
        b = np.average(x, axis=0, weights=weight)  # the best one, whatever W and psi
        e = x - b
        S = e.T @ e / len(x) if weight is None else (e * weight[:, None]).T @ e / weight.sum()
        model = _decoder({name: device.to_host(value) for name, value in params.items()})
        moved = self._with_encoder(replace(model, b=b).step(S, FLOOR))
        return {name: device.beside(value, batch.x) for name, value in moved.items()}

    def _with_encoder(self, model: FactorAnalysis) -> dict[str, np.ndarray]:
        params = {name: value.astype(self.dtype) for name, value in model.as_vae(str(self.posterior))[1].items()}
        if not all(np.isfinite(value).all() for value in params.values()):
            raise DataError("FactorAnalysisEM: noise or codes have standard deviations outside (1e-3, 1e3): scale the data")
        return params


def _decoder(params: Mapping[str, np.ndarray]) -> FactorAnalysis:
    """The factor analysis that a linear decoder is, in float64."""
    W, b, shared = (np.asarray(params[f"decoder.{name}"], np.float64) for name in ("0.weight", "0.bias", "shared"))
    return FactorAnalysis(W.T, b, np.exp(2 * elementwise.bounded(shared, limit=LOG_SCALE)))
