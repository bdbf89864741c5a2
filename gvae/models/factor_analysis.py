"""Factor analysis by exact EM: z ~ N(0, I), x | z ~ N(W z + b, diag psi).

All quantities have a closed form, so it is the reference for every linear model here. With M = I + Wᵀ diag(psi)⁻¹ W,

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
from gvae.data import Batch
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
from gvae.typing import Key, Params

__all__ = ["FactorAnalysis", "FactorAnalysisEM", "LinearVAE"]

FLOOR = 1e-5  # the lower limit of psi, in training: above the square of the family's least standard deviation, 1e-3


@dataclass
class FactorAnalysis:
    """Factor analysis, z ~ N(0, I), x | z ~ N(W z + b, diag psi), with everything in closed form.

    Parameters
    ----------
    W : array (D, k)
        Loadings.
    b : array (D,)
    psi : array (D,)
        Variances of the noise, positive.
    history : list of float, optional
        The mean of log p(x) after each iteration of EM.

    Notes
    -----
    W is determined up to a rotation: compare W Wᵀ + diag psi. Source: Rubin and Thayer (1982).

    Examples
    --------
    >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
    >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
    >>> fa.log_prob(np.array([[1.0, 0.0, 2.0]])).round(3)
    array([-5.071])
    """

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
        """Maximum likelihood by EM, in float64, until an iteration gains less than `tolerance` nats per row.

        Parameters
        ----------
        x : array (N, D)
            Rows: at least two, of finite numbers.
        latent : int
            Number of factors k, from 1 to D.
        iterations : int, default 500
            The largest number of iterations.
        tolerance : float, default 1e-9
        floor : float, default 1e-6
            A lower bound on psi; without one, the likelihood of a constant column has no maximum.
        seed : int, default 0
            The seed of the initial W.

        Returns
        -------
        FactorAnalysis

        Raises
        ------
        ShapeError, DataError, ConfigError

        Examples
        --------
        >>> truth = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [-1.0]]), np.zeros(3), np.full(3, 0.5))
        >>> fa = gvae.models.FactorAnalysis.fit(truth.sample(gvae.random.key(0), 1000), latent=1)
        >>> (fa.W @ fa.W.T).round(1)
        array([[ 3.9,  1.9, -2. ],
               [ 1.9,  0.9, -1. ],
               [-2. , -1. ,  1.1]])
        >>> fa.psi.round(1)
        array([0.4, 0.5, 0.5])
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
        """One iteration of EM.

        Parameters
        ----------
        S : array (D, D)
            Second moments of the rows about b.
        floor : float
            A lower bound on psi.

        Returns
        -------
        FactorAnalysis
            The new model, with the same b.

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> x = gvae.random.normal(gvae.random.key(0), (100, 3), np.float64)
        >>> better = fa.step(x.T @ x / 100, floor=1e-6)
        >>> fa.log_prob(x).mean().round(2), better.log_prob(x).mean().round(2)
        (np.float64(-4.91), np.float64(-4.45))
        """
        # E step: E[z] = beta (x - b), and the mean of E[z zᵀ] is I - beta W + beta S betaᵀ
        beta = self.to_code
        second = np.eye(len(beta)) - beta @ self.W + beta @ S @ beta.T
        # M step
        W = np.linalg.solve(second, beta @ S).T
        psi = np.maximum(np.diag(S) - (W * (beta @ S).T).sum(axis=1), floor)
        return FactorAnalysis(W, self.b, psi, self.history)

    @property
    def to_code(self) -> np.ndarray:
        """The matrix beta = M⁻¹ Wᵀ diag(psi)⁻¹, (k, D), with E[z | x] = beta (x - b).

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> x = np.array([[1.0, 0.0, 2.0]])
        >>> np.allclose(x @ fa.to_code.T, fa.posterior(x).mean)
        True
        """
        return np.linalg.solve(self.M, (self.W / self.psi[:, None]).T)

    @property
    def M(self) -> np.ndarray:
        """Precision of the posterior, M = I + Wᵀ diag(psi)⁻¹ W, (k, k).

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> fa.M
        array([[4.  , 0.5 ],
               [0.5 , 5.25]])
        """
        return np.eye(self.W.shape[1]) + self.W.T @ (self.W / self.psi[:, None])

    def _mean_log_prob(self, S: np.ndarray) -> float:
        """The mean of log p(x) of rows with second moments S about b."""
        M, scaled = self.M, self.W / self.psi[:, None]
        trace = (np.diag(S) / self.psi).sum() - np.trace(np.linalg.solve(M, scaled.T @ S @ scaled))
        return -0.5 * (len(self.b) * LOG_2PI + np.log(self.psi).sum() + np.linalg.slogdet(M)[1] + trace)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Marginal log-density log p(x) of rows.

        Parameters
        ----------
        x : array (N, D)

        Returns
        -------
        array (N,)
            Nats.

        Notes
        -----
        Time N D k.

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> fa.log_prob(np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])).round(3)
        array([-5.071, -3.927])
        """
        e = np.asarray(x, np.float64) - self.b
        M = self.M
        t = e @ (self.W / self.psi[:, None])
        quadratic = (e * e / self.psi).sum(axis=1) - (t * np.linalg.solve(M, t.T).T).sum(axis=1)
        return -0.5 * (len(self.b) * LOG_2PI + np.log(self.psi).sum() + np.linalg.slogdet(M)[1] + quadratic)

    def posterior(self, x: np.ndarray) -> DenseGaussian:
        """The posterior p(z | x) of each row.

        Parameters
        ----------
        x : array (N, D)

        Returns
        -------
        DenseGaussian

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> p = fa.posterior(np.array([[1.0, 0.0, 2.0]]))
        >>> p.mean.round(3), p.variance().round(3)
        (array([[0.41 , 0.723]]), array([0.253, 0.193]))
        """
        t = (np.asarray(x, np.float64) - self.b) @ (self.W / self.psi[:, None])
        return DenseGaussian(np.linalg.solve(self.M, t.T).T, np.linalg.cholesky(np.linalg.inv(self.M)))

    def mean_field_gap(self) -> float:
        """The gap log p(x) - ELBO of the best diagonal q: 1/2 (sum_i log M_ii - log |M|), the same for every x.

        Returns
        -------
        float
            Nats.

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> round(fa.mean_field_gap(), 4)
        0.006
        """
        return 0.5 * float(np.log(np.diag(self.M)).sum() - np.linalg.slogdet(self.M)[1])

    def sample(self, key: Key, n: int) -> np.ndarray:
        """Draws of x from the model.

        Parameters
        ----------
        key : array (4,)
        n : int

        Returns
        -------
        array (n, D)

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> x = fa.sample(gvae.random.key(0), 10000)
        >>> x.var(axis=0).round(1), np.diag(W @ W.T) + fa.psi
        (array([1.5, 2.2, 5. ]), array([1.5 , 2.25, 5.  ]))
        """
        z = random.normal(random.fold_in(key, 0), (n, self.W.shape[1]), np.float64)
        e = random.normal(random.fold_in(key, 1), (n, len(self.b)), np.float64)
        return z @ self.W.T + self.b + np.sqrt(self.psi) * e

    def as_vae(self, posterior: str = "full") -> tuple[VAE, dict[str, np.ndarray]]:
        """The same model as a VAE with a linear decoder and a linear encoder, in float64.

        Parameters
        ----------
        posterior : str, default "full"
            "full": the encoder has the exact posterior. "diagonal": the best posterior of independent variables.

        Returns
        -------
        model : LinearVAE
        params : dict of str to array

        Raises
        ------
        ConfigError
            Another posterior.

        Examples
        --------
        >>> W = np.array([[1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
        >>> fa = gvae.models.FactorAnalysis(W, np.zeros(3), np.array([0.5, 1.0, 1.0]))
        >>> model, params = fa.as_vae()
        >>> batch = gvae.data.Batch({"x": np.array([[1.0, 0.0, 2.0]])}, np.arange(1))
        >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(0), batch, samples=2))
        >>> terms.log_weights.ravel().round(3), fa.log_prob(batch.x).round(3)  # each draw is exact
        (array([-5.071, -5.071]), array([-5.071]))
        """
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
    """Settings of a linear VAE."""

    latent: int = restated(vae.Settings, "latent", default=16, kw_only=False)
    posterior: str | Family = restated(vae.Settings, "posterior", default="full", kw_only=False)
    observation: str | Family = restated(vae.Settings, "observation", default="gaussian", kw_only=False)
    prior: str | Family | None = restated(vae.Settings, "prior", default=None)
    start: str = restated(vae.Settings, "start", default="calm")
    output_bias: str = restated(vae.Settings, "output_bias", default="zero")


class LinearVAE(VAE):
    """A VAE without hidden layers.

    With a Gaussian observation it is factor analysis by gradients, with the exact posterior where its family is "full".

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.LinearVAE`.

    Examples
    --------
    >>> params = gvae.models.LinearVAE(4, latent=2).init(gvae.random.key(0))
    >>> {name: value.shape for name, value in params.items() if name.startswith("decoder")}
    {'decoder.0.weight': (2, 4), 'decoder.0.bias': (4,), 'decoder.shared': (4,)}
    """

    Settings: ClassVar[Any] = Settings

    def build(self, settings: Any) -> None:
        chosen = {f.name: getattr(settings, f.name) for f in fields(type(settings))}
        super().build(vae.Settings(**chosen, hidden=()))

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return [(sizes["x"], settings.latent), (settings.latent, sizes["x"])]


@settings.group("model")
class ExactSettings(settings.Settings):
    """Settings of factor analysis."""

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
    bounds that training reports are exact. psi is kept from falling below 1e-5.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
        The number of rows of every batch of `update`.
    **given : object
        As for `Base`, with the settings of `gvae.FactorAnalysis`.

    Examples
    --------
    >>> model = gvae.models.FactorAnalysisEM(3, latent=1, dtype="float64", n_rows=100)
    >>> params = model.init(gvae.random.key(0))
    >>> batch = gvae.data.Batch({"x": gvae.random.normal(gvae.random.key(1), (100, 3), np.float64)}, np.arange(100))
    >>> terms = model.terms(params, {}, batch, model.noise(gvae.random.key(2), batch, samples=2))
    >>> bool(np.ptp(terms.log_weights, axis=0).max() < 1e-12)  # each draw is log p(x)
    True
    """

    Settings: ClassVar[Any] = ExactSettings

    def init(self, key: Key) -> dict[str, np.ndarray]:
        return self._with_encoder(_decoder(super().init(key)))

    def update(self, params: Params, batch: Batch) -> Any:
        """The parameters after an iteration of EM.

        Parameters
        ----------
        params : mapping of str to array
        batch : Batch
            All rows; they may have weights.

        Returns
        -------
        dict of str to array

        Raises
        ------
        ConfigError
            The batch does not have all rows.
        DataError
            Noise or codes have standard deviations outside (1e-3, 1e3).

        Examples
        --------
        >>> model = gvae.models.FactorAnalysisEM(3, latent=1, dtype="float64", n_rows=100)
        >>> params = model.init(gvae.random.key(0))
        >>> batch = gvae.data.Batch({"x": gvae.random.normal(gvae.random.key(1), (100, 3), np.float64)}, np.arange(100))
        >>> noise = model.noise(gvae.random.key(2), batch)
        >>> for moved in (params, model.update(params, batch)):  # mean log p(x) before and after
        ...     print(model.terms(moved, {}, batch, noise).log_weights.mean().round(2))
        -4.46
        -4.29
        """
        x = np.asarray(device.to_host(batch.x), np.float64)
        if len(x) != self.n_rows:
            raise ConfigError(
                f"FactorAnalysisEM: a batch of {len(x)} rows, expected all {self.n_rows}: an EM step takes no minibatches"
            )
        weight = None if batch.weight is None else np.asarray(device.to_host(batch.weight), np.float64)
        b = np.average(x, axis=0, weights=weight)  # the optimum for any W and psi
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


def _decoder(params: Params) -> FactorAnalysis:
    """The factor analysis that a linear decoder is, in float64."""
    W, b, shared = (np.asarray(params[f"decoder.{name}"], np.float64) for name in ("0.weight", "0.bias", "shared"))
    return FactorAnalysis(W.T, b, np.exp(2 * elementwise.bounded(shared, limit=LOG_SCALE)))
