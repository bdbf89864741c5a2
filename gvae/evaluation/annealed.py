"""Annealed importance sampling with Hamiltonian Monte Carlo, and what follows from it: log p(x) between two bounds, and the
rate-distortion curve of a decoder.

All computations take place in the space of the standard normal noise e of which the draws of z are made. One form covers
all:

    log p(x) = log E_{e ~ N(0, I)} exp t(e),     p_b(e) ∝ N(e; 0, I) exp(b t(e))  for b from 0 to 1

where the tilt t(e) is log p(x, z) - log q(z|x) with z = q.sample(e), to start at q(z|x), or log p(x | z) with
z = prior.sample(e), to start at the prior. By the change of variables these are the paths q^(1-b) p(x, z)^b and
p(z) p(x|z)^b of z, for models of any number of layers, and HMC moves in coordinates in which the start is white.

Sources: Neal (2001); Neal (2011), for HMC; Grosse, Ghahramani and Adams (2015), for the bounds from both sides (BDMC); Wu,
Burda, Salakhutdinov and Grosse (2017), for decoders; Huang, Makhzani, Cao and Grosse (2020), for the curve.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.autodiff import vjp
from gvae.data import Batch, Table
from gvae.errors import ConfigError, NonFiniteError
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import Weights, sampling_error, standard_error
from gvae.evaluation.registry import line, measure, spread
from gvae.evaluation.subject import Subject, whole
from gvae.objectives import noise_of_rows
from gvae.ops import arrays, elementwise
from gvae.typing import Key, Noise

__all__ = [
    "Annealed",
    "Bidirectional",
    "RateDistortion",
    "annealed_importance_sampling",
    "bidirectional",
    "rate_distortion",
]

STARTS = ("posterior", "prior")
ACCEPTED = 0.65  # share of accepted proposals that step sizes aim at: the best in high dimension (Beskos et al. 2013)
FIRST_STEP = 0.5
GAIN = 0.3  # log step size per unit of acceptance above ACCEPTED, in the pilot run
PILOTS = 4  # chains for each of the pilot run: steps change slowly with the temperature, so that few chains find them
LEAPFROGS = 5  # leapfrog steps of a transition: 200 temperatures of 5 bound closer than 100 of 10, at equal cost
CURVE = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Annealed:
    """log p(x) by annealed importance sampling, per row.

    Parameters
    ----------
    log_likelihood : array (N,)
        A lower bound on log p(x) in expectation. Nats.
    standard_error : array (N,)
        The standard error of log_likelihood. Nats.
    effective_sample_size : array (N,)
        The effective sample size of the chains.
    acceptance : array (N,)
        The share of accepted proposals.
    chains : int

    Examples
    --------
    >>> result = gvae.evaluation.Annealed(np.array([-3.0, -5.0]), np.full(2, 0.1), np.full(2, 14.0), np.full(2, 0.7), 16)
    >>> result.log_likelihood.mean()
    np.float64(-4.0)
    """

    log_likelihood: np.ndarray
    standard_error: np.ndarray
    effective_sample_size: np.ndarray
    acceptance: np.ndarray
    chains: int

    def summary(self) -> dict[str, Any]:
        """Means over rows of log p(x), its errors, the effective sample size and the acceptance.

        Returns
        -------
        dict
            "rows", "chains", "log_likelihood" with "log_likelihood_standard_error", over rows, and
            "log_likelihood_sampling_error", due to the chains only; "effective_sample_size" and "acceptance".

        Examples
        --------
        >>> result = gvae.evaluation.Annealed(np.array([-3.0, -5.0]), np.full(2, 0.1), np.full(2, 14.0), np.full(2, 0.7), 16)
        >>> summary = result.summary()
        >>> round(summary["log_likelihood_standard_error"], 3), round(summary["log_likelihood_sampling_error"], 3)
        (1.0, 0.071)
        """
        return {
            "rows": len(self.log_likelihood),
            "chains": self.chains,
            "log_likelihood": float(self.log_likelihood.mean()),
            "log_likelihood_standard_error": standard_error(self.log_likelihood),
            "log_likelihood_sampling_error": sampling_error(self.standard_error),
            "effective_sample_size": float(self.effective_sample_size.mean()),
            "acceptance": float(self.acceptance.mean()),
        }


@dataclass(frozen=True)
class Bidirectional:
    """Bounds on log p(x) per simulated row, which hold in expectation.

    Parameters
    ----------
    lower : array (N,)
        From forward chains. Nats.
    upper : array (N,)
        From reverse chains. Nats.
    acceptance : array (N,)
        The share of accepted proposals, of both directions.
    chains : int

    Examples
    --------
    >>> result = gvae.evaluation.Bidirectional(np.array([-3.1, -5.1]), np.array([-3.0, -4.8]), np.full(2, 0.7), 16)
    >>> (result.upper - result.lower).round(3)
    array([0.1, 0.3])
    """

    lower: np.ndarray
    upper: np.ndarray
    acceptance: np.ndarray
    chains: int

    def summary(self) -> dict[str, Any]:
        """Means over rows of both bounds, of the gap between them and of the acceptance.

        Returns
        -------
        dict
            "rows", "chains", "lower", "upper", "gap" with "gap_standard_error", over rows, and "acceptance".

        Examples
        --------
        >>> result = gvae.evaluation.Bidirectional(np.array([-3.1, -5.1]), np.array([-3.0, -4.8]), np.full(2, 0.7), 16)
        >>> round(result.summary()["gap"], 3), round(result.summary()["gap_standard_error"], 3)
        (0.2, 0.1)
        """
        gap = self.upper - self.lower
        return {
            "rows": len(gap),
            "chains": self.chains,
            "lower": float(self.lower.mean()),
            "upper": float(self.upper.mean()),
            "gap": float(gap.mean()),
            "gap_standard_error": standard_error(gap),
            "acceptance": float(self.acceptance.mean()),
        }


@dataclass(frozen=True)
class RateDistortion:
    """Points of a decoder's rate-distortion curve, per row, at inverse temperatures b.

    The codes p_b(z) ∝ p(z) p(x|z)^b are the best ones for this decoder.

    Parameters
    ----------
    betas : tuple of float
        The inverse temperatures b.
    rate : array (points, N)
        KL(p_b(z) ‖ p(z)), an upper bound in expectation. Nats.
    distortion : array (points, N)
        -E_{p_b} log p(x|z). Nats.
    acceptance : array (N,)
        The share of accepted proposals.
    chains : int

    Examples
    --------
    >>> rate, distortion = np.array([[0.5], [1.0]]), np.array([[4.0], [3.2]])
    >>> result = gvae.evaluation.RateDistortion((0.5, 1.0), rate, distortion, np.array([0.7]), 16)
    >>> -(result.rate + result.distortion)[1]  # at b = 1: log p(x)
    array([-4.2])
    """

    betas: tuple[float, ...]
    rate: np.ndarray
    distortion: np.ndarray
    acceptance: np.ndarray
    chains: int

    def summary(self) -> dict[str, Any]:
        """Means over rows of rate and distortion at each inverse temperature, with standard errors over rows.

        Returns
        -------
        dict
            "rows", "chains", "acceptance", and "points", a list of dicts with "beta", "rate", "rate_standard_error",
            "distortion" and "distortion_standard_error".

        Examples
        --------
        >>> rate, distortion = np.array([[0.5, 0.7], [1.0, 1.4]]), np.array([[4.0, 5.0], [3.2, 3.8]])
        >>> result = gvae.evaluation.RateDistortion((0.5, 1.0), rate, distortion, np.array([0.7, 0.8]), 16)
        >>> [(point["beta"], round(point["rate"], 3), round(point["distortion"], 3)) for point in result.summary()["points"]]
        [(0.5, 0.6, 4.5), (1.0, 1.2, 3.5)]
        """
        points = [
            {
                "beta": beta,
                "rate": float(rate.mean()),
                "rate_standard_error": standard_error(rate),
                "distortion": float(distortion.mean()),
                "distortion_standard_error": standard_error(distortion),
            }
            for beta, rate, distortion in zip(self.betas, self.rate, self.distortion, strict=True)
        ]
        acceptance = float(self.acceptance.mean())
        return {"rows": self.rate.shape[1], "chains": self.chains, "points": points, "acceptance": acceptance}


_ANNEALED = ("first", "chains", "temperatures")


def _cost(runs: int) -> str:
    """The cost of that many runs and a pilot run; a gradient costs as much as two values."""
    return f"{3 * LEAPFROGS * (runs + 1 / PILOTS):.0f} x chains x temperatures decoder passes for each of them"


def _of_chains(s: Mapping[str, Any]) -> str:
    return f"{s['rows']} rows, {s['chains']} chains, {s['acceptance']:.0%} of proposals accepted"


def _ais_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"annealed importance sampling: {_of_chains(s)}"
    yield line("log p(x), annealed", s["log_likelihood"], spread(s, "log_likelihood"))
    if math.isfinite(s["log_likelihood_sampling_error"]):
        yield line("  its standard error by sampling", s["log_likelihood_sampling_error"])
    yield line("log p(x), importance samples", s["importance_sampled_log_likelihood"], "of the same rows")


@measure(
    "ais",
    "log p(x) by annealed importance sampling with HMC from q(z|x), on the first rows",
    _cost(1),
    lines=_ais_lines,
    settings=_ANNEALED,
    of="x",
)
def annealed_importance_sampling(
    subject: Subject,
    *,
    rows: int | None = 100,
    chains: int = 16,
    temperatures: int = 500,
    leapfrogs: int = LEAPFROGS,
    start: str = "posterior",
) -> Annealed:
    """log p(x) of the first rows by annealing to the posterior.

    Parameters
    ----------
    subject : Subject
    rows : int, optional
        How many of the first rows, by default 100; None: all.
    chains : int, default 16
        Chains per row.
    temperatures : int, default 500
        Steps of the annealing schedule.
    leapfrogs : int, default 5
        Leapfrog steps of a transition.
    start : {"posterior", "prior"}, default "posterior"
        "posterior" starts from q(z|x). "prior" does not depend on q, and needs the model's method `generate`.

    Returns
    -------
    Annealed

    Raises
    ------
    ConfigError
        A setting is invalid, the model has no method `generate` (start="prior"), or a layer is not drawn by standard
        normal noise.
    NonFiniteError
        log p(x, z) of a row is NaN or +inf at the start.

    Notes
    -----
    Step sizes follow, per row and temperature, from a pilot run with noise of its own, and are then frozen, so that E
    exp(log_likelihood) = p(x). Costs chains x temperatures x leapfrogs evaluations of log p(x, z) with gradients per row,
    and the pilot run, which has a quarter of the chains, a quarter of that.
    Sources: Neal (2001); Neal (2011), for HMC; Wu, Burda, Salakhutdinov and Grosse (2017), for decoders.

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> x = fa.sample(gvae.random.key(0), 4)
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(x))
    >>> result = gvae.evaluation.annealed_importance_sampling(subject, temperatures=40, leapfrogs=3, start="prior")
    >>> np.abs(result.log_likelihood - fa.log_prob(x)).max().round(1)
    np.float64(0.2)
    """
    settings = _checked(chains, temperatures, leapfrogs)
    betas = _sigmoid_schedule(temperatures)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        key = random.fold_in(subject.key, streams.ANNEALED, i)
        path = _Path(subject, batch, start, chains, leapfrogs, key)
        steps = path.pilot(betas, random.fold_in(key, 1))
        log_weights, acceptance = path.forward(betas, steps, random.fold_in(key, 2))
        return _estimate(log_weights) | {"acceptance": acceptance}

    settings |= {"start": start}
    columns: dict[str, Any] = subject.each("annealed importance sampling", compute, settings=settings, rows=rows)
    return Annealed(chains=chains, **columns)


def _bdmc_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"log p(x) from both sides on rows that the model has drawn: {_of_chains(s)}"
    yield line("log p(x), from below", s["lower"])
    yield line("log p(x), from above", s["upper"])
    yield line("between them", s["gap"], spread(s, "gap"))


@measure(
    "bdmc",
    "log p(x) from below and above, on rows drawn from the model",
    _cost(2),
    lines=_bdmc_lines,
    settings=_ANNEALED,
    needs="generate",
    of="x",
)
def bidirectional(
    subject: Subject, *, rows: int = 100, chains: int = 16, temperatures: int = 500, leapfrogs: int = LEAPFROGS
) -> Bidirectional:
    """Lower and upper bounds on log p(x), for rows that the model itself draws (bidirectional Monte Carlo).

    Parameters
    ----------
    subject : Subject
        Its model has the method `generate`.
    rows : int, default 100
        How many rows are drawn.
    chains : int, default 16
        Chains per row.
    temperatures : int, default 500
        Steps of the annealing schedule.
    leapfrogs : int, default 5
        Leapfrog steps of a transition.

    Returns
    -------
    Bidirectional

    Raises
    ------
    ConfigError
        A setting is invalid, the model has no method `generate`, a layer is not drawn by standard normal noise, or the model
        draws more than its codes, such as a decoder's weights.
    NonFiniteError
        log p(x, z) of a row is NaN or +inf at the start.

    Notes
    -----
    For a row that the model draws, z is an exact draw of the posterior p(z|x), from which chains can start in reverse. Both
    directions anneal between prior and posterior with the same step sizes. Source: Grosse, Ghahramani and Adams (2015).

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(fa.sample(gvae.random.key(0), 4)))
    >>> result = gvae.evaluation.bidirectional(subject, rows=8, temperatures=20, leapfrogs=3)
    >>> result.lower.mean().round(3), result.upper.mean().round(3)
    (np.float64(-4.995), np.float64(-4.99))
    """
    settings = _checked(chains, temperatures, leapfrogs)
    rows = whole("rows", rows)
    generate = subject.optional("generate", "bidirectional")
    betas = _sigmoid_schedule(temperatures)
    key = random.fold_in(subject.key, streams.SIMULATED)
    some = subject.table.batch(np.arange(rows) % len(subject.table), key)  # the noise takes its shapes from them
    noise = _noise_of(subject, "prior", random.fold_in(key, 0), some, 1)
    terms = generate(subject.parameters, subject.state, noise)
    views = terms.views
    drawn = {
        name: np.asarray(view.sample(view.noise(random.fold_in(key, 1, v))))[0]
        for v, (name, view) in enumerate(views.items())
    }
    fresh = _noise_of(subject, "prior", key, some, 1)
    other = {name: fresh[name] for name, draws in noise.items() if not any(draws is code.noise for code in terms.layers)}
    for name, view in generate(subject.parameters, subject.state, noise | other).views.items():
        if not np.array_equal(view.log_prob(drawn[name]), views[name].log_prob(drawn[name])):
            raise ConfigError(
                f"bidirectional: {type(subject.model).__name__} draws {name} with noise other than that of its codes "
                f"(of {', '.join(other)}), such as weights: the codes are then no exact draw of the posterior"
            )
    simulated = subject.on(Table(**drawn))

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        key_i = random.fold_in(key, 2, i)
        path = _Path(simulated, batch, "prior", chains, leapfrogs, key_i)
        steps = path.pilot(betas, random.fold_in(key_i, 1))
        forward, accepted = path.forward(betas, steps, random.fold_in(key_i, 2))
        exact = noise_of_rows(noise, batch.index)
        reverse, accepted_back = path.reverse(betas, steps, random.fold_in(key_i, 3), exact)
        upper = -_estimate(-reverse)["log_likelihood"]
        return {
            "lower": _estimate(forward)["log_likelihood"],
            "upper": upper,
            "acceptance": 0.5 * (accepted + accepted_back),
        }

    columns: dict[str, Any] = simulated.each("bidirectional Monte Carlo", compute, settings=settings)
    return Bidirectional(chains=chains, **columns)


def _curve_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"rate-distortion curve of the decoder: {_of_chains(s)}"
    yield f"  {'beta':>10}{'rate':>12}{'distortion':>12}"
    for point in s["points"]:
        yield f"  {point['beta']:>10g}{point['rate']:>12.3f}{point['distortion']:>12.3f}"


@measure(
    "curve",
    "rate-distortion curve of the decoder, on the first rows",
    _cost(1),
    lines=_curve_lines,
    settings=_ANNEALED,
    needs="generate",
    of="x",
)
def rate_distortion(
    subject: Subject,
    *,
    rows: int | None = 100,
    chains: int = 16,
    temperatures: int = 500,
    leapfrogs: int = LEAPFROGS,
    betas: Sequence[float] = CURVE,
) -> RateDistortion:
    """The rate-distortion curve of the decoder on the first rows, at given inverse temperatures.

    Parameters
    ----------
    subject : Subject
        Its model has the method `generate`.
    rows : int, optional
        How many of the first rows, by default 100; None: all.
    chains : int, default 16
        Chains per row.
    temperatures : int, default 500
        Steps of the annealing schedule.
    leapfrogs : int, default 5
        Leapfrog steps of a transition.
    betas : sequence of float, default (0.1, 0.2, 0.5, 1, 2, 5, 10)
        The inverse temperatures, positive and ascending.

    Returns
    -------
    RateDistortion

    Raises
    ------
    ConfigError
        A setting is invalid, betas are not positive and ascending, the model has no method `generate`, or a layer is not
        drawn by standard normal noise.
    NonFiniteError
        log p(x, z) of a row is NaN or +inf at the start.

    Notes
    -----
    Chains start at the prior, where the rate is 0, and pass the points one after the other. The encoder is not used. At b =
    1 rate plus distortion is -log p(x). The cost is that of `annealed_importance_sampling`. Source: Huang, Makhzani, Cao and
    Grosse (2020).

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> x = fa.sample(gvae.random.key(0), 4)
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(x))
    >>> result = gvae.evaluation.rate_distortion(subject, temperatures=80, leapfrogs=5, betas=(0.5, 1.0))
    >>> -(result.rate + result.distortion)[1].mean().round(1), fa.log_prob(x).mean().round(1)  # at b = 1
    (np.float64(-5.0), np.float64(-5.0))
    """
    settings = _checked(chains, temperatures, leapfrogs)
    subject.optional("generate", "rate_distortion")
    points = tuple(float(beta) for beta in betas)
    if not points or not all(0 < b < math.inf for b in points) or list(points) != sorted(set(points)):
        raise ConfigError(f"rate_distortion: betas are {tuple(betas)}, expected positive numbers, ascending")
    path_betas, at = _through(points, temperatures)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        key = random.fold_in(subject.key, streams.CURVE, i)
        path = _Path(subject, batch, "prior", chains, leapfrogs, key)
        steps = path.pilot(path_betas, random.fold_in(key, 1), last=True)
        columns: dict[str, np.ndarray] = {}

        def look(t: int, log_weights: np.ndarray, tilt: np.ndarray) -> None:
            if t in at:
                log_z = _estimate(log_weights)["log_likelihood"]
                with np.errstate(under="ignore"):
                    w = np.exp(log_weights - log_weights.max(axis=0))
                distortion = -(w * tilt).sum(axis=0) / w.sum(axis=0)
                columns[f"distortion {at[t]}"] = distortion
                # KL(p_b ‖ p) = E_{p_b} b log p(x|z) - log Z_b
                columns[f"rate {at[t]}"] = -points[at[t]] * distortion - log_z

        _, columns["acceptance"] = path.forward(path_betas, steps, random.fold_in(key, 2), last=True, look=look)
        return columns

    columns = subject.each("rate-distortion curve", compute, settings=settings | {"betas": points}, rows=rows)
    curves = [np.stack([columns[f"{name} {p}"] for p in range(len(points))]) for name in ("rate", "distortion")]
    return RateDistortion(points, curves[0], curves[1], columns["acceptance"], chains)


def _checked(chains: int, temperatures: int, leapfrogs: int) -> dict[str, Any]:
    settings = {"chains": chains, "temperatures": temperatures, "leapfrogs": leapfrogs}
    return {name: whole(name, x) for name, x in settings.items()}


def _sigmoid_schedule(temperatures: int) -> np.ndarray:
    """0 = b_0 < .. < b_T = 1, close together at both ends, where the path is steep (Wu et al. 2017, section 3)."""
    s = 1 / (1 + np.exp(-4 * np.linspace(-1, 1, temperatures + 1)))
    return (s - s[0]) / (s[-1] - s[0])


def _through(points: Sequence[float], temperatures: int) -> tuple[np.ndarray, dict[int, int]]:
    """A schedule from 0 through all points, and which of its entries they are: the same number of steps to each, the first
    ones quadratic, later ones in equal ratios.
    """
    each = max(1, temperatures // len(points))
    share = np.arange(1, each + 1) / each
    parts = [np.zeros(1), points[0] * share**2]
    parts += [a * (b / a) ** share for a, b in itertools.pairwise(points)]
    schedule = np.concatenate(parts)
    at = {each * (i + 1): i for i in range(len(points))}
    schedule[list(at)] = points
    return schedule, at


def _estimate(log_weights: np.ndarray) -> dict[str, np.ndarray]:
    """log 1/C sum w of (C, B), with its standard error and effective sample size."""
    weights = Weights(log_weights.shape[1])
    weights.add(log_weights)
    return weights.finish()


def _noise_of(subject: Subject, start: str, key: Key, batch: Batch, samples: int) -> dict[str, Any]:
    """The model's noise (K, B, ..); from the prior, codes have that of their priors, which may be of another kind."""
    noise = dict(subject.model.noise(key, batch, samples))
    if start == "prior" and hasattr(subject.model, "prior_noise"):
        noise |= subject.model.prior_noise(key, batch, samples)
    return noise


class _Path:
    """p_b(e) ∝ N(e; 0, I) exp(b t(e)) for the rows of a batch, `chains` chains side by side; e is (chains, rows, n)."""

    def __init__(self, subject: Subject, batch: Batch, start: str, chains: int, leapfrogs: int, key: Key):
        if start not in STARTS:
            raise ConfigError(f"annealing starts at {start!r}, expected one of {', '.join(STARTS)}")
        self.subject, self.batch, self.start, self.chains, self.leapfrogs = subject, batch, start, chains, leapfrogs
        self.generate = subject.optional("generate", "annealing from the prior") if start == "prior" else None
        first = _noise_of(subject, start, random.fold_in(key, 0), batch, chains)
        moving = self._of_layers(first)
        self.shapes = {name: draws.shape[2:] for name, draws in first.items() if name in moving}
        # other noise, such as the corruption of a denoising model's input, is fixed: for any value of it E exp t(e) = p(x)
        self.fixed = {name: draws for name, draws in first.items() if name not in moving}
        self.initial = self._joined(first)
        self.dtype = self.initial.dtype

    def pilot(self, betas: np.ndarray, key: Key, *, last: bool = False) -> np.ndarray:
        """Step sizes (T + 1, rows) for the transition at each temperature, from a run that adapts them as it goes."""
        steps = np.full((len(betas), len(self.batch)), FIRST_STEP)
        few = -(-self.chains // PILOTS)
        path = _Path(self.subject, self.batch, self.start, few, self.leapfrogs, random.fold_in(key, 0))
        path._walk(betas, steps, random.fold_in(key, 1), path.initial, last=last, adapt=True)
        return steps

    def forward(
        self,
        betas: np.ndarray,
        steps: np.ndarray,
        key: Key,
        *,
        last: bool = False,
        look: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(log-weights (C, B), acceptance (B,)) of chains from b_0 = 0 to b_T.

        last : whether there is a transition at b_T as well      look(t, log_weights, tilt) is called at each temperature
        """
        return self._walk(betas, steps, key, self.initial, last=last, look=look)

    def reverse(
        self, betas: np.ndarray, steps: np.ndarray, key: Key, exact: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `forward`, for chains from an exact draw of p_1 back to b_0, made of the noise `exact` (1, B, ..)."""
        e = np.broadcast_to(self._joined(exact), self.initial.shape)
        log_weights, accepted = np.zeros(e.shape[:2]), np.zeros(e.shape[1])
        with np.errstate(all="ignore"):
            point = (e, *self._tilt(e))
            for t in range(len(betas) - 1, 0, -1):
                log_weights += (betas[t] - betas[t - 1]) * point[1]
                if t > 1:
                    point, accept = self._transition(point, betas[t - 1], steps[t - 1], random.fold_in(key, t))
                    accepted += accept
        return log_weights, accepted / max(len(betas) - 2, 1)

    def _walk(
        self,
        betas: np.ndarray,
        steps: np.ndarray,
        key: Key,
        e: np.ndarray,
        *,
        last: bool = False,
        adapt: bool = False,
        look: Callable[[int, np.ndarray, np.ndarray], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        log_weights, accepted = np.zeros(e.shape[:2]), np.zeros(e.shape[1])
        moves = len(betas) - 1 if last else len(betas) - 2
        with np.errstate(all="ignore"):  # a step that is too long overflows, and is not accepted
            point = (e, *self._tilt(e))
            self._check_finite(point[1])
            for t in range(1, len(betas)):
                log_weights += (betas[t] - betas[t - 1]) * point[1]
                if t <= moves:
                    point, accept = self._transition(point, betas[t], steps[t], random.fold_in(key, t))
                    accepted += accept
                    if adapt:
                        steps[t + 1 :] = steps[t] * np.exp(GAIN * (accept - ACCEPTED))
                if look is not None:
                    look(t, log_weights, point[1])
        return log_weights, accepted / max(moves, 1)

    def _transition(
        self, point: tuple[np.ndarray, np.ndarray, np.ndarray], beta: float, step: np.ndarray, key: Key
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """One HMC transition that leaves p_beta invariant; ((e, tilt, its gradient), share of accepted proposals by row)."""
        e, tilt, slope = point
        beta = self.dtype.type(beta)
        momentum = random.normal(random.fold_in(key, 0), e.shape, self.dtype)
        # lengths vary by a fifth, so that no trajectory closes on itself
        vary = random.uniform(random.fold_in(key, 1), e.shape[:2], np.float64)
        h = (step * (0.8 + 0.4 * vary)).astype(self.dtype)[..., None]
        p = momentum + 0.5 * h * (beta * slope - e)
        e_new = e
        for i in range(self.leapfrogs):
            e_new = e_new + h * p
            tilt_new, slope_new = self._tilt(e_new)
            p = p + (h if i + 1 < self.leapfrogs else 0.5 * h) * (beta * slope_new - e_new)
        kinetic = 0.5 * (_squares(momentum) - _squares(p)) + 0.5 * (_squares(e) - _squares(e_new))
        log_ratio = float(beta) * (tilt_new - tilt) + kinetic
        probability = np.where(np.isnan(log_ratio), 0.0, np.exp(np.minimum(log_ratio, 0)))
        accept = random.uniform(random.fold_in(key, 2), e.shape[:2], np.float64) < probability
        wide = accept[..., None]
        moved = (np.where(wide, e_new, e), np.where(accept, tilt_new, tilt), np.where(wide, slope_new, slope))
        return moved, probability.mean(axis=0)

    def _tilt(self, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """t(e) (C, B) in float64, and its gradient (C, B, n)."""
        value, pull = vjp(self._tilt_of, e)
        return np.asarray(value, np.float64), pull(np.ones_like(value))

    def _tilt_of(self, e: Any) -> Any:
        noise = self._split(e)
        if self.generate is None:
            return self.subject.terms(self.batch, noise).log_weights
        tilt = None
        for name, view in self.generate(self.subject.parameters, self.subject.state, noise).views.items():
            log_prob = view.log_prob(getattr(self.batch, name))
            tilt = log_prob if tilt is None else elementwise.add(tilt, log_prob)
        return tilt

    def _joined(self, noise: Noise) -> np.ndarray:
        return np.concatenate([noise[name].reshape(*noise[name].shape[:2], -1) for name in self.shapes], axis=-1)

    def _split(self, e: Any) -> dict[str, Any]:
        if len(self.shapes) == 1 and len(next(iter(self.shapes.values()))) == 1:
            return self.fixed | dict.fromkeys(self.shapes, e)
        noise, start = dict(self.fixed), 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            noise[name] = arrays.reshape(e[..., start:stop], shape=(*e.shape[:2], *shape))
            start = stop
        return noise

    def _of_layers(self, noise: Noise) -> set[str]:
        """The names of the noise that layers are drawn from. ConfigError unless it is what `random.normal` draws."""
        if self.generate is None:
            terms = self.subject.terms(self.batch, noise)
        else:
            terms = self.generate(self.subject.parameters, self.subject.state, noise)
        key, shape = random.key(0), (4,)
        for layer in terms.layers:
            drawn = next((draws for draws in noise.values() if draws is layer.noise), None)
            if drawn is not None and layer.q.reparameterized:
                normal = random.normal(key, shape, drawn.dtype)
                if np.array_equal(layer.q.draw_noise(key, shape, drawn.dtype), normal):
                    continue
            what = "q" if self.generate is None else "prior"
            raise ConfigError(
                f"annealing from the {self.start}: a layer's {what} is a {type(layer.q).__name__}, "
                "whose draws are not made of normal noise"
            )
        return {name for name, draws in noise.items() if any(draws is layer.noise for layer in terms.layers)}

    def _check_finite(self, tilt: np.ndarray) -> None:
        bad = np.flatnonzero(~(tilt < np.inf).all(axis=0))
        if len(bad):
            row = self.batch.index[bad[0]]
            raise NonFiniteError(f"annealing from the {self.start}: row {row}: log p(x, z) is not a number at its start")


def _squares(e: np.ndarray) -> np.ndarray:
    return np.einsum("cbn,cbn->cb", e, e, dtype=np.float64)
