"""Data whose log p(x) is known, and what models trained on them reach of it.

A case is a data set, settings of gvae.VAE, the figure to look at (the ELBO or importance-sampled log p(x)), and how far it
may end below the exact mean log p(x) of the test rows, or below the optimum of its own family. `test_evidence.py` runs the
cases that are marked as daily; all of them, with a table:

    python tests/evidence.py [NAME ...] [--out FILE]

The oracles of this file are NumPy and SciPy alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, special, stats

ROWS = 10_000, 2000  # training and test rows
LEARNING = {"learning_rate": 5e-3, "schedule": "cosine", "epochs": 40, "dtype": "float64"}  # all else: the defaults


@dataclass(frozen=True)
class Evidence:
    """train, test : rows        log_p : exact log p(x) of the test rows, in nats, (N,)"""

    train: np.ndarray
    test: np.ndarray
    log_p: np.ndarray


@dataclass(frozen=True)
class Case:
    """within : nats below the exact mean log p(x), or below optimum(evidence), at which the figure may end"""

    name: str
    evidence: Callable[[], Evidence]
    settings: dict[str, Any]
    within: float
    figure: str = "elbo"
    optimum: Callable[[Evidence], float] | None = None
    daily: bool = False


def made(settings: Mapping[str, Any], seed: int) -> Any:
    """The estimator of the model that the settings name."""
    import gvae

    settings = dict(settings)
    return gvae.estimators()[settings.pop("model", "vae")](**settings, random_state=seed)


def run(case: Case, seed: int = 0) -> dict[str, Any]:
    """Train the case, and measure it: `gap` is what it lacks, in nats per row."""
    started = time.perf_counter()
    evidence = case.evidence()
    model = made(LEARNING | case.settings, seed).fit(evidence.train)
    result = model.evaluate(evidence.test, samples=100)
    figure = float(getattr(result, case.figure).mean())
    reachable = float(evidence.log_p.mean()) if case.optimum is None else case.optimum(evidence)
    first = model.history_[0]["train_bound"]
    row = {"case": case.name, "seed": seed, "figure": case.figure, "value": figure, "reachable": reachable}
    row |= {"gap": reachable - figure, "within": case.within, "first": first, "exact": float(evidence.log_p.mean())}
    return row | {"seconds": time.perf_counter() - started}


# ---- data ----------------------------------------------------------------------------------------


def split(draw: Callable[[np.random.Generator, int], np.ndarray], log_p: Callable, rows: int = ROWS[0]) -> Evidence:
    x = draw(np.random.default_rng(0), rows + ROWS[1])
    return Evidence(x[:rows], x[rows:], log_p(x[rows:]))


def gaussian(mean: np.ndarray, covariance: np.ndarray, rows: int = ROWS[0]) -> Evidence:
    law = stats.multivariate_normal(mean, covariance)
    return split(lambda r, n: r.multivariate_normal(mean, covariance, size=n), law.logpdf, rows)


def autoregressive(n: int, rho: float) -> np.ndarray:
    """The covariance rho^|i-j|."""
    i = np.arange(n)
    return rho ** np.abs(i[:, None] - i).astype(float)


@functools.cache
def series(n: int = 12, rho: float = 0.8, noise: float = 0.5, rows: int = ROWS[0]) -> Evidence:
    """An AR(1) series, seen with noise."""
    return gaussian(np.zeros(n), autoregressive(n, rho) + noise**2 * np.eye(n), rows)


@functools.cache
def factors(D: int = 8, k: int = 3, noise: float = 0.4, units: float = 1.0) -> Evidence:
    """D columns of k factors. units : in which columns are measured, from 1/units to units, with means of 1e3 units"""
    r = np.random.default_rng(1)
    W = r.normal(size=(D, k)) * r.uniform(0.5, 2.0, size=(D, 1))
    plain = gaussian(2 * r.normal(size=D), W @ W.T + noise**2 * np.eye(D))
    if units == 1:
        return plain
    scale = np.exp(np.linspace(-1, 1, D) * math.log(units))
    train, test = (scale * (x + 1e3) for x in (plain.train, plain.test))
    return Evidence(train, test, plain.log_p - np.log(scale).sum())


@functools.cache
def layers(k: tuple[int, int] = (3, 2), D: int = 8, noise: float = 0.4) -> Evidence:
    """Two linear-Gaussian layers: z_2 -> z_1 -> x."""
    r = np.random.default_rng(2)
    A, W = 1.5 * r.normal(size=k), r.normal(size=(D, k[0]))
    return gaussian(r.normal(size=D), W @ (A @ A.T + 0.3**2 * np.eye(k[0])) @ W.T + noise**2 * np.eye(D))


@functools.cache
def clusters(components: int = 3, D: int = 4, noise: float = 0.3) -> Evidence:
    """A mixture of Gaussians."""
    r = np.random.default_rng(3)
    means, weights = 2 * r.normal(size=(components, D)), r.dirichlet(np.full(components, 5.0))

    def draw(r: np.random.Generator, n: int) -> np.ndarray:
        return means[r.choice(components, size=n, p=weights)] + noise * r.normal(size=(n, D))

    def log_p(x: np.ndarray) -> np.ndarray:
        return special.logsumexp(_log_normal(x[:, None], means, noise), b=weights, axis=1)

    return split(draw, log_p)


def _log_normal(x: np.ndarray, mean: np.ndarray, noise: float) -> np.ndarray:
    return stats.norm.logpdf(x, mean, noise).sum(axis=-1)


@functools.cache
def codes(kind: str, D: int = 4, noise: float = 0.3) -> Evidence:
    """x = W z + b + noise with two independent codes of a kind: log p(x) is a sum or an integral over both."""
    values, weights = CODES[kind]
    weights = weights / weights.sum()
    r = np.random.default_rng(4)
    W, b = r.normal(size=(2, D)) / values.std(), r.normal(size=D)
    z = np.stack(np.meshgrid(values, values, indexing="ij"), axis=-1).reshape(-1, 2)
    log_weights = np.log(np.outer(weights, weights).ravel())

    def draw(r: np.random.Generator, n: int) -> np.ndarray:
        return r.choice(values, size=(n, 2), p=weights) @ W + b + noise * r.normal(size=(n, D))

    def log_p(x: np.ndarray) -> np.ndarray:
        parts = [special.logsumexp(_log_normal(row, z @ W + b, noise) + log_weights) for row in x]
        return np.array(parts)

    return split(draw, log_p)


_U = (np.arange(60) + 0.5) / 60
_COUNTS = np.arange(12.0)
CODES = {  # values and their probabilities under the standard prior; what is continuous, on a fine grid
    **dict.fromkeys(("bernoulli", "autoregressive", "nade:4"), (np.arange(2.0), np.ones(2))),
    "categorical:3": (np.arange(3.0), np.ones(3)),
    "poisson": (_COUNTS, stats.poisson(1).pmf(_COUNTS)),
    "negative_binomial": (_COUNTS, 0.5 ** (_COUNTS + 1)),
    "zero_inflated:negative_binomial": (_COUNTS, 0.5 * (0.5 ** (_COUNTS + 1) + (_COUNTS == 0))),
    "beta": (_U, np.ones(60)),
    "continuous_bernoulli": (_U, np.ones(60)),
    "gamma": (-np.log1p(-_U), np.ones(60)),
    "log_gamma": (np.log(-np.log1p(-_U)), np.ones(60)),
    "logit:diagonal": ((special.expit(stats.norm.ppf(_U)) - 0.01) / 0.98, np.ones(60)),
}


def chain_of_bits(n: int = 6) -> Evidence:
    """Bits of which each is the one before it with probability 0.85."""

    def draw(r: np.random.Generator, rows: int) -> np.ndarray:
        flips = np.concatenate([r.random((rows, 1)) < 0.5, r.random((rows, n - 1)) < 0.15], axis=1)
        return (flips.cumsum(axis=1) % 2).astype(float)

    def log_p(x: np.ndarray) -> np.ndarray:
        same = (x[:, 1:] == x[:, :-1]).sum(axis=1)
        return math.log(0.5) + same * math.log(0.85) + (n - 1 - same) * math.log(0.15)

    return split(draw, log_p)


@functools.cache
def seen(text: str) -> Evidence:
    """Rows of an observation model's own family, which no code has to explain."""
    name = [part for part in text.split(":") if part.isidentifier()][-1]
    if name == "mixture":
        return clusters()
    if name in COVARIANCES:
        covariance = COVARIANCES[name]
        mean = np.linspace(-1, 1, len(covariance))
        if not text.startswith("logit"):
            return gaussian(mean, covariance)
        covariance = 0.2 * covariance
        law = stats.multivariate_normal(mean, covariance)

        def log_p(x: np.ndarray) -> np.ndarray:
            inside = 0.01 + 0.98 * x
            return law.logpdf(special.logit(inside)) + (math.log(0.98) - np.log(inside * (1 - inside))).sum(axis=1)

        def draw(r: np.random.Generator, n: int) -> np.ndarray:
            y = r.multivariate_normal(mean, covariance, size=n)
            return np.clip((special.expit(y) - 0.01) / 0.98, 0, 1)

        return split(draw, log_p)
    if name == "autoregressive" or text.startswith("nade"):
        return chain_of_bits()
    p = np.linspace(0.1, 0.9, 6)
    laws: dict[str, Any] = {
        "bernoulli": (stats.bernoulli(p), "logpmf"),
        "poisson": (stats.poisson(5 * p), "logpmf"),
        "negative_binomial": (stats.nbinom(1 + 3 * p, 0.3), "logpmf"),
        "beta": (stats.beta(1 + 4 * p, 3 - 2 * p), "logpdf"),
        "gamma": (stats.gamma(1 + 4 * p, scale=2 - p), "logpdf"),
        "log_gamma": (stats.loggamma(1 + 4 * p, loc=p), "logpdf"),
    }
    if text.startswith("categorical"):
        probabilities = np.random.default_rng(5).dirichlet(np.ones(4), size=6)
        edges = probabilities.cumsum(axis=1)
        return split(
            lambda r, n: (r.uniform(size=(n, 6, 1)) > edges).sum(axis=2).astype(float),
            lambda x: np.log(probabilities[np.arange(6), x.astype(int)]).sum(axis=1),
        )
    if text.startswith("zero_inflated"):
        base, pi = stats.nbinom(1 + 3 * p, 0.3), p[::-1]
        return split(
            lambda r, n: (r.uniform(size=(n, 6)) > pi) * base.rvs(size=(n, 6), random_state=r).astype(float),
            lambda x: np.log((1 - pi) * base.pmf(x) + pi * (x == 0)).sum(axis=1),
        )
    if text == "continuous_bernoulli":  # density a e^(a x) / (e^a - 1)
        a = 8 * p - 4
        return split(
            lambda r, n: np.log1p(r.uniform(size=(n, 6)) * np.expm1(a)) / a,
            lambda x: (a * x + np.log(a / np.expm1(a))).sum(axis=1),
        )
    law, density = laws[text]
    return split(
        lambda r, n: law.rvs(size=(n, 6), random_state=r).astype(float), lambda x: getattr(law, density)(x).sum(axis=1)
    )


def _lattice(rows: int, cols: int, inside: bool) -> np.ndarray:
    """A covariance whose precision lies on a lattice (inside: whose factor does)."""
    n = rows * cols
    edges = np.zeros((n, n))
    for i in range(n):
        if (i + 1) % cols:
            edges[i + 1, i] = -0.5
        if i + cols < n:
            edges[i + cols, i] = -0.5
    if inside:
        factor = np.eye(n) + edges
        return np.linalg.inv(factor @ factor.T)
    K = edges + edges.T
    return np.linalg.inv(K + np.diag(1 + np.abs(K).sum(axis=1)))


_R = np.random.default_rng(6)
_LINE = np.arange(12.0)
COVARIANCES = {
    "diagonal": np.diag(np.linspace(0.2, 3, 12)),
    "independent": np.diag(np.linspace(0.2, 3, 12)),
    "gaussian": np.diag(np.linspace(0.2, 3, 12)),
    "chain": autoregressive(12, 0.9),
    "band": np.linalg.inv(
        np.linalg.inv(autoregressive(12, 0.9)) + 0.3 * (np.eye(12, k=2) + np.eye(12, k=-2)) + 0.6 * np.eye(12)
    ),
    "grid": _lattice(3, 4, inside=False),
    "extended_grid": _lattice(3, 4, inside=True),
    "ar1": 2 * autoregressive(12, -0.7),
    "lowrank": np.linalg.inv(np.diag(np.linspace(0.5, 2, 12)) + np.outer(*2 * [_R.normal(size=12)])),
    "full": np.cov(_R.normal(size=(12, 40))),
    "random_walk": 0.5 + 0.3 * np.minimum(_LINE[:, None], _LINE),
}


# ---- optima --------------------------------------------------------------------------------------


def optimum(
    covariance: Callable[[np.ndarray, int], np.ndarray], start: Sequence[float], k: int
) -> Callable[[Evidence], float]:
    """What the best linear VAE reaches whose posterior has one covariance for all rows, by direct maximisation.

    Of p(z | x) = N(m(x), M^-1) the best posterior with covariance C has the mean m(x), so that

        ELBO = log p(x) - (tr(M C) - log|M C| - k) / 2,    M = I + W^T psi^-1 W

    which is maximised over W, psi and the parameters of covariance(p, k), begun at `start`, on the training rows, from a few
    rotations of the principal axes, and evaluated on the test rows. Columns are standardized, which moves no optimum.
    """

    def reach(evidence: Evidence) -> float:
        b, scale = evidence.train.mean(axis=0), evidence.train.std(axis=0)
        train, test = ((x - b) / scale for x in (evidence.train, evidence.test))
        D = train.shape[1]
        moments = [x.T @ x / len(x) for x in (train, test)]
        values, vectors = np.linalg.eigh(moments[0])
        noise = values[: D - k].mean() if k < D else 0.5 * values[0]
        axes = vectors[:, D - k :] * np.sqrt(np.maximum(values[D - k :] - noise, 0.05))
        size = D * k + D

        def minus(p: np.ndarray, S: np.ndarray) -> tuple[float, np.ndarray]:
            W, psi, extra = p[: D * k].reshape(D, k), np.exp(p[D * k : size]), p[size:]
            M, C = np.eye(k) + W.T @ (W / psi[:, None]), W @ W.T + np.diag(psi)

            def gap(extra: np.ndarray) -> float:
                MC = M @ covariance(extra, k)
                return 0.5 * (np.trace(MC) - np.linalg.slogdet(MC)[1] - k)

            inverse = np.linalg.inv(C)
            log_p = -0.5 * (D * math.log(2 * math.pi) + np.linalg.slogdet(C)[1] + np.sum(inverse * S))
            C_bar, M_bar = 0.5 * (inverse - inverse @ S @ inverse), 0.5 * (covariance(extra, k) - np.linalg.inv(M))
            W_bar = 2 * C_bar @ W + 2 * (W / psi[:, None]) @ M_bar
            psi_bar = np.diag(C_bar) - np.sum(W @ M_bar * W, axis=1) / psi**2
            extra_bar = [(gap(extra + e) - gap(extra - e)) / 2e-6 for e in 1e-6 * np.eye(len(extra))]
            return gap(extra) - log_p, np.concatenate([W_bar.ravel(), psi_bar * psi, extra_bar])

        best = None
        for seed in range(8):
            Q = np.eye(k) if seed == 0 else stats.ortho_group.rvs(k, random_state=seed) if k > 1 else np.eye(1)
            begin = np.concatenate([(axes @ Q).ravel(), np.full(D, math.log(noise)), start])
            found = optimize.minimize(
                minus, begin, args=(moments[0],), method="L-BFGS-B", jac=True, options={"maxiter": 5000}
            )
            best = found if best is None or found.fun < best.fun else best
        return -minus(best.x, moments[1])[0] - float(np.log(scale).sum())

    return reach


def ar1_covariance(p: np.ndarray, k: int) -> np.ndarray:
    return math.exp(p[0]) * autoregressive(k, math.tanh(p[1]))


def walk_covariance(p: np.ndarray, k: int) -> np.ndarray:
    i = np.arange(k)
    return math.exp(p[0]) + math.exp(p[1]) * np.minimum(i[:, None], i)


NARROW: dict[str, Any] = {"ar1": (ar1_covariance, (0.0, 0.1)), "random_walk": (walk_covariance, (0.0, 0.0))}

# ---- cases ---------------------------------------------------------------------------------------

POSTERIORS = ("diagonal", "independent", "chain", "band:2", "grid", "extended_grid", "ar1", "lowrank:1", "full")
POSTERIORS += ("gaussian", "random_walk", "shared:chain", "planar:4")
OBSERVATIONS = ("diagonal", "independent", "chain", "band:2", "grid:3x4", "extended_grid:3x4", "ar1", "lowrank:1", "full")
OBSERVATIONS += ("gaussian", "random_walk", "mixture:3", "shared:chain", "bernoulli", "categorical:4", "poisson")
OBSERVATIONS += ("autoregressive", "nade:8")
OBSERVATIONS += ("negative_binomial", "zero_inflated:negative_binomial", "beta", "continuous_bernoulli")
OBSERVATIONS += ("gamma", "log_gamma")
OBSERVATIONS += ("logit:shared:chain",)
GRADIENTS = ("reparameterized", "stl", "dreg", "vimco", "rws", "rws_dreg")
LINEAR = {"model": "linear", "observation": "gaussian"}
MLP = {"observation": "gaussian", "hidden": (64,)}
SMALL = {"observation": "gaussian", "hidden": (32,), "latent": 2, "samples": 5, "objective": "iwae", "epochs": 20}


def pointless(bound: str, gradient: str) -> bool:
    """The ELBO's weights are all 1/K, whatever the draws: of wake-sleep's wake phase, which learns q from their differences,
    nothing is left."""
    return bound.startswith("elbo") and gradient.startswith("rws")


def cases() -> list[Case]:
    found: list[Case] = []

    def add(name: str, *arguments: Any, **settings: Any) -> None:
        found.append(Case(name, *arguments, **settings))

    for posterior in POSTERIORS:  # the posterior's role
        for k, name, evidence in ((12, "series", series), (3, "factors", factors)):
            if k == 3 and "grid" in posterior:
                continue
            best = optimum(*NARROW[posterior], k) if posterior in NARROW else None
            settings = {"latent": k, "posterior": posterior}
            if posterior in NARROW and k == 12:  # a narrow valley: direct maximisation takes 3,000 steps of L-BFGS
                settings |= {"epochs": 400}
            if k == 12:
                linear = LINEAR | settings
                add(
                    f"{name}, linear, {posterior}",
                    evidence,
                    linear,
                    0.05 if best else 0.1,
                    optimum=best,
                    daily=posterior == "full",
                )
            daily = k == 3 or posterior not in (*NARROW, "lowrank:1")
            add(f"{name}, mlp, {posterior}", evidence, MLP | settings, 0.05, optimum=best, daily=daily)
    for posterior in ("diagonal", "chain", "full"):
        settings = MLP | {"latent": 3, "posterior": posterior}
        add(
            f"factors in other units, mlp, {posterior}",
            lambda: factors(units=1e3),
            settings,
            0.05,
            daily=posterior == "chain",
        )
        settings = {"model": "hierarchical", "latent": (3, 2), "posterior": posterior} | MLP  # several layers
        add(f"two layers, mlp, {posterior}", layers, settings, 0.15, daily=posterior == "diagonal")
        add(f"factors, two layers, mlp, {posterior}", factors, settings, 0.15)
    for n, rho in ((6, 0.3), (6, 0.95), (20, 0.3), (20, 0.95), (40, 0.8)):
        large = n > 12  # of 10,000 rows alone it cannot be learned to 0.05 nats
        evidence = functools.partial(series, n, rho, rows=40_000 if large else ROWS[0])
        own = {"latent": n, "posterior": "chain"} | ({"epochs": 20} if large else {})
        add(f"series of {n}, rho {rho}, linear, chain", evidence, LINEAR | own, 0.1)
        add(f"series of {n}, rho {rho}, mlp, chain", evidence, MLP | own | ({"hidden": (128,)} if large else {}), 0.05)
    add("factors, mlp, mixture:2", lambda: factors(4, 2), SMALL | {"posterior": "mixture:2"}, 0.2, "log_likelihood")
    for kind in CODES:
        evidence = lambda kind=kind: codes(kind)  # noqa: E731
        slow = "negative_binomial" in kind or kind == "gamma"
        settings = SMALL | {"posterior": kind} | ({"epochs": 60} if slow else {})
        add(f"codes, {kind}", evidence, settings, 0.2, "log_likelihood", daily=kind == "bernoulli")
        add(f"prior, {kind}", evidence, settings | {"prior": kind}, 0.2, "log_likelihood")
    for observation in OBSERVATIONS:  # the observation's role
        settings = {"model": "linear", "latent": 1, "posterior": "diagonal", "observation": observation}
        slow = observation.endswith(("mixture:3", "poisson", "negative_binomial", "autoregressive", "gamma"))
        settings |= {} if slow else {"epochs": 15}
        add(f"seen, {observation}", lambda text=observation: seen(text), settings, 0.05, daily=True)
    for prior in (p for p in POSTERIORS if p != "planar:4"):  # the prior's role; planar is known for its own draws alone
        settings = LINEAR | {"latent": 4, "posterior": "full", "prior": prior, "epochs": 15}
        add(f"prior, {prior}", lambda: series(4, 0.9, 0.3), settings, 0.1, daily=True)
    settings = {"observation": "gaussian", "hidden": (32,), "latent": 4, "posterior": "full", "prior": "mixture:3"}
    add("prior, mixture:3", clusters, settings, 0.1, daily=True)
    from gvae import objectives

    for about in (about for about in objectives.ABOUT.values() if about.bound):  # bounds and estimators of their gradients
        bound = about.example
        for gradient in about.gradients or GRADIENTS:
            if not pointless(bound, gradient):
                settings = MLP | {
                    "latent": 3,
                    "posterior": "diagonal",
                    "objective": bound,
                    "gradient": gradient,
                    "samples": 4,
                }
                daily = bound == "iwae" or gradient == "dreg"
                add(f"{bound}, {gradient}", factors, settings | {"epochs": 20}, 0.2, "log_likelihood", daily=daily)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of the names of cases (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING=VALUE", help="of all cases, such as start=glorot")
    parser.add_argument("--out", type=Path, help="a file that receives one line of JSON per run")
    options = parser.parse_args()
    for case in cases():
        if options.names and not any(name in case.name for name in options.names):
            continue
        case.settings.update(pair.split("=", 1) for pair in options.set)
        for seed in options.seeds:
            row = run(case, seed)
            verdict = "" if row["gap"] <= case.within else "  MISSES"
            cells = f"{row['value']:>10.3f}{row['reachable']:>10.3f}{row['gap']:>8.3f} of {case.within}"
            print(f"{case.name:<44}{cells}{row['first']:>12.2f}{row['seconds']:>7.1f} s{verdict}", flush=True)
            if options.out is not None:
                with open(options.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
