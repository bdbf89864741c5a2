"""`gvae demo`: posteriors of several structures on scikit-learn's digits and on series with a gap; two tables, five figures.

On the digits the posteriors differ by less than the spread over seeds. On the series, whose log p(x) and posterior are
known exactly, a chain reaches the exact posterior, and a diagonal one cannot.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gvae import data, estimator, families, ops, optim, plots, settings, training
from gvae.distributions import AR1Gaussian, DiagonalGaussian, Distribution
from gvae.errors import RunError
from gvae.families import Conditional
from gvae.models import Code, Codes
from gvae.typing import Arrays, Noise, Params

__all__ = ["run"]

Rows = list[dict[str, Any]]  # the rows of a table
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]  # mean, standard deviation and draws of a posterior


def run(out: str | os.PathLike, *, epochs: int, seed: int = 1, samples: int = 500, quiet: bool = False) -> dict[str, Rows]:
    """Train, print the tables, write the figures into the folder `out`. Returns the rows of both tables, by part.

    epochs, seed, samples : of the models of digits
    """
    folder = Path(out)
    training.check_free(folder)
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {folder}: {error.strerror or error}") from None
    try:
        return _run(folder, epochs, seed, samples, quiet)
    finally:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if nothing is in it


def _run(folder: Path, epochs: int, seed: int, samples: int, quiet: bool) -> dict[str, Rows]:
    plots.require()  # now, not after a minute of training

    def say(*lines: str) -> None:
        if not quiet:
            print(*lines, sep="\n", flush=True)

    images, pictures = _digits(folder, say, epochs, seed, samples, verbose=not quiet)
    series, picture = _series(folder, say)
    say("", "figures:", *(f"  {path}" for path in (*pictures, picture)))
    return {"digits": images, "series": series}


# ---- digits

POSTERIORS = {"diagonal": "diagonal", "chain": "chain", "extended grid": "extended_grid:4x4"}


def _digits(
    folder: Path, say: Callable[..., None], epochs: int, seed: int, samples: int, verbose: bool
) -> tuple[Rows, list[Path]]:
    digits = data.load("digits")
    assert digits.image_shape is not None
    shape = digits.image_shape
    say(
        f"{len(digits.train)} training and {len(digits.test)} test images of 8 x 8, 16 latent variables, {epochs} epochs",
        "(the first run also compiles the kernels that it needs, which takes about half a minute on two cores)",
    )
    fitted: dict[str, estimator.VAE] = {}
    rows: Rows = []
    for name, posterior in POSTERIORS.items():
        model = estimator.VAE(
            latent=16, posterior=posterior, observation="bernoulli", epochs=epochs, random_state=seed, verbose=verbose
        )
        fitted[name] = model.fit(digits.train, validation=digits.test)
        summary = model.evaluate(digits.test, samples=samples, seed=seed).summary()
        rows.append({"posterior": name, **summary, "seconds": sum(row["seconds"] for row in model.history_)})

    log_p = f"log p(x), {samples} samples"
    say("", f"{'posterior':<15}{'test ELBO':>12}{log_p:>25}{'training':>15}")
    for row in rows:
        say(f"{row['posterior']:<15}{row['elbo']:>12.2f}{row['log_likelihood']:>25.2f}{row['seconds']:>13.1f} s")
    say(
        "",
        f"nats per image, mean over the {len(digits.test)} test images, grey levels binarized by one fixed random draw;",
        f"the choice of images causes a standard error of {rows[0]['elbo_standard_error']:.2f}, in all three rows alike",
    )

    few = digits.test[:: len(digits.test) // 12][:12]
    image = digits.test[3]
    posteriors = {n: m.posterior_of(image[None]).covariance()[0].astype(np.float64) for n, m in fitted.items()}
    pictures = [folder / f"{name}.png" for name in ("learning-curves", "reconstructions", "samples", "covariance")]
    plots.learning_curves(pictures[0], {n: m.history_ for n, m in fitted.items()})
    plots.reconstructions(pictures[1], few, {n: m.reconstruct(few) for n, m in fitted.items()}, shape)
    plots.samples(pictures[2], {n: m.sample(60, seed=seed) for n, m in fitted.items()}, shape)
    plots.covariances(pictures[3], image, posteriors, shape)
    return rows, pictures


# ---- series with a gap: z is a stationary AR(1) series, x = A z + noise; A has the rows of I that are not in the gap

N, RHO, NOISE = 32, 0.95, 0.3  # z_j has variance 1, neighbours correlation RHO; NOISE is the noise's standard deviation
GAP = slice(11, 21)
SEEN = np.delete(np.arange(N), GAP)
D = len(SEEN)
ROWS, STEPS, SEEDS = (10_000, 1000), 1000, (0, 1, 2)  # training and test series; steps of a training
SHARED = {"chain": "shared:chain", "diagonal": "shared:diagonal"}  # the posterior's covariance is the same for all x

C = RHO ** np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
A = np.eye(N)[SEEN]
S = A @ C @ A.T + NOISE**2 * np.eye(D)  # p(x) = N(0, S)
Q = np.linalg.inv(C) + A.T @ A / NOISE**2  # p(z | x) = N(Q⁻¹ Aᵀ x / NOISE², Q⁻¹): Q is tridiagonal
LEAST = {"chain": 0.0, "diagonal": 0.5 * (np.log(np.diag(Q)).sum() - np.linalg.slogdet(Q)[1])}  # least KL(q ‖ p(z | x))


def draw(count: int, seed: int) -> np.ndarray:
    """Series x, (count, D)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, N)) @ np.linalg.cholesky(C).T
    return (z @ A.T + NOISE * rng.normal(size=(count, D))).astype(np.float32)


def log_prob(x: np.ndarray) -> np.ndarray:
    """The exact log p(x), (B,)."""
    x = x.astype(np.float64)
    return -0.5 * ((x @ np.linalg.inv(S) * x).sum(axis=-1) + np.linalg.slogdet(S)[1] + D * np.log(2 * np.pi))


def exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of p(z | x), for one series x, (D,)."""
    return np.linalg.solve(Q, A.T @ x) / NOISE**2, np.linalg.inv(Q)


class Known(Code):
    """A code whose prior is known, and has no parameters."""

    def p(self, params: Params) -> Distribution:
        return AR1Gaussian(np.zeros(N, np.float32), np.float32(1), np.float32(RHO))


@settings.group("model")
class SeriesSettings(settings.Settings):
    posterior: str = settings.setting(default="shared:chain", help="family of q(z|x)", kind=settings.Families())


class Series(Codes):
    """The model of the series, with q(z | x) = posterior(encoder(x)) and a linear encoder: only q has parameters."""

    Settings: ClassVar[Any] = SeriesSettings
    pure = True

    def build(self, settings: Any) -> None:
        encoder = Conditional("encoder", D, families.parse(settings.posterior, N))
        self.coded, self.decoders = {"z": Known(encoder)}, ()

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Distribution]:
        seen = ops.concatenate([z["z"][..., : GAP.start], z["z"][..., GAP.stop :]], axis=-1)  # A z
        return {"x": DiagonalGaussian(seen, np.full(D, np.log(NOISE), np.float32))}

    def elbo(self, params: Params, x: np.ndarray) -> np.ndarray:
        """E_q log p(x | z) - KL(q ‖ p) of each series, (B,), both in closed form."""
        q = self.posterior(params, x)
        error = (x - q.mean[:, SEEN]) ** 2 + q.variance()[..., SEEN]
        return -0.5 * (error / NOISE**2 + np.log(2 * np.pi * NOISE**2)).sum(axis=-1) - q.kl(self.prior_of(params))

    def posterior(self, params: Params, x: np.ndarray) -> Any:
        """q(z | x)."""
        return self.code(params, {}, data.Batch({"x": x}, np.arange(len(x))))["z"]


def fit(posterior: str, seed: int, steps: int) -> tuple[Series, Mapping[str, np.ndarray]]:
    """A trained model of the series, and its parameters. The seed determines the series and all randomness of training."""
    model, table = Series(D, posterior=posterior), data.Table(draw(ROWS[0], seed))
    schedule = optim.Cosine(steps)
    trainer, _ = training.train(model, table, steps=steps, learning_rate=0.05, schedule=schedule, seed=seed)
    return model, trainer.parameters


def _series(folder: Path, say: Callable[..., None], steps: int = STEPS) -> tuple[Rows, Path]:
    say(
        "",
        f"{ROWS[0]} training and {ROWS[1]} test series of {N} values with a gap of {N - D}, linear encoder, {steps} steps",
    )
    x = draw(ROWS[1], seed=max(SEEDS) + 1)
    log_p = log_prob(x).mean()
    fitted = {name: [fit(posterior, seed, steps) for seed in SEEDS] for name, posterior in SHARED.items()}
    losses = {name: np.array([log_p - m.elbo(params, x).mean() for m, params in fits]) for name, fits in fitted.items()}
    rows: Rows = [{"posterior": "exact", "elbo": log_p, "loss": 0.0, "spread": 0.0, "least": 0.0}]
    for name, values in losses.items():
        loss, spread = values.mean(), values.std(ddof=1)
        rows.append({"posterior": name, "elbo": log_p - loss, "loss": loss, "spread": spread, "least": LEAST[name]})

    say("", f"{'posterior':<15}{'test ELBO':>22}{'log p(x) - ELBO':>25}{'least possible':>18}")
    for row in rows:
        seeds = "" if row["posterior"] == "exact" else f" +- {row['spread']:.4f}"
        elbo, below = (f"{row[name]:.4f}{seeds:<10}" for name in ("elbo", "loss"))
        say(f"{row['posterior']:<15}{elbo:>22}{below:>25}{row['least']:>18.4f}")
    gain = losses["diagonal"] - losses["chain"]
    above = f"{gain.mean():.4f} +- {gain.std(ddof=1):.4f}"
    say(
        "",
        f"nats per series, mean over the {len(x)} test series, +- standard deviation over {len(SEEDS)} seeds;",
        f"the chain's ELBO is {above} above the diagonal's; the exact posterior's is log p(x)",
    )

    picture = folder / "series.png"
    plots.series(picture, SEEN, x[0], _posteriors(x[0], {name: fits[0] for name, fits in fitted.items()}))
    return rows, picture


def _posteriors(x: np.ndarray, fitted: Mapping[str, tuple[Series, Mapping[str, Any]]]) -> dict[str, Drawn]:
    """The posteriors of one series x, (D,), exact and fitted, with four draws by the same noise."""
    noise = np.random.default_rng(0).normal(size=(4, 1, N)).astype(np.float32)
    mean, covariance = exact(x)
    draws = mean + np.linalg.solve(np.linalg.cholesky(Q).T, noise[:, 0].T).T  # mean + L⁻ᵀ noise, as a chain draws
    found: dict[str, Drawn] = {"exact": (mean, np.sqrt(np.diag(covariance)), draws)}
    for name, (model, params) in fitted.items():
        q = model.posterior(params, x[None])
        found[name] = q.mean[0], np.sqrt(q.variance()), q.sample(noise)[:, 0]
    return found
