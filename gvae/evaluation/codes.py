"""What the codes carry: active units, the parts of the KL, and the error of reconstructions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.distributions import DiagonalGaussian, Distribution
from gvae.errors import ConfigError
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import standard_error
from gvae.evaluation.mixtures import Mixture, blocks
from gvae.evaluation.registry import largest, line, measure, spread
from gvae.evaluation.subject import Subject, dense, whole
from gvae.typing import Array

__all__ = ["Reconstruction", "Surgery", "Units", "active_units", "reconstruction", "surgery"]

ACTIVE = 0.01  # Burda, Grosse and Salakhutdinov (2016), section 5.3


@dataclass(frozen=True)
class Units:
    """Activity and mean KL of the units of each layer.

    The KLs of a layer's units add up to its KL if q(z|x) and p(z) are independent over units, otherwise to less or more.

    Parameters
    ----------
    activity : list of array (units,)
        By layer, Var_x(E_q[u | x]) of each unit.
    kl : list of array (units,)
        By layer, the mean KL of each unit's marginal, KL(q(u|x) ‖ p(u)). Nats.
    names : tuple of str, optional
        The names of the layers' codes.

    Examples
    --------
    >>> units = gvae.evaluation.Units([np.array([0.9, 0.001])], [np.array([1.5, 0.002])])
    >>> units.summary()["active"], units.summary()["collapsed"]
    (1, 0.5)
    """

    activity: list[np.ndarray]
    kl: list[np.ndarray]
    names: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Counts of active units, those with activity above 0.01, and the share of the others, over all layers and by layer.

        Returns
        -------
        dict
            "active", "units", "collapsed" (the share of units that are not active), and "layers", a list of dicts with
            "active", "units", "activity" and "kl", and "name" where codes have names.

        Examples
        --------
        >>> units = gvae.evaluation.Units([np.array([0.9, 0.001])], [np.array([1.5, 0.002])])
        >>> units.summary()["layers"]
        [{'active': 1, 'units': 2, 'activity': [0.9, 0.001], 'kl': [1.5, 0.002]}]
        """
        layers = [
            {
                "active": int((activity > ACTIVE).sum()),
                "units": len(activity),
                "activity": activity.tolist(),
                "kl": kl.tolist(),
            }
            for activity, kl in zip(self.activity, self.kl, strict=True)
        ]
        for layer, name in zip(layers, self.names, strict=False):
            layer["name"] = name
        active, units = (sum(layer[name] for layer in layers) for name in ("active", "units"))
        return {"active": active, "units": units, "collapsed": 1 - active / units, "layers": layers}


@dataclass(frozen=True)
class Surgery:
    """Log-densities of draws z of q(z|x_n), one per row, under q(z|x_n), the mixture q(z) and the prior.

    Parameters
    ----------
    log_q_given_x : array (N,)
        log q(z|x_n). Nats.
    log_q : array (N,)
        log q(z), where q(z) = 1/N sum_n q(z|x_n). Nats.
    log_p : array (N,)
        log p(z). Nats.
    responsibility_entropy : array (N,)
        The entropy H(q(n|z)) of the responsibilities q(n|z) = q(z|x_n) / sum_m q(z|x_m). Nats.
    layers : sequence of Surgery, optional
        The same quantities for each layer, where there are several; with p(z_l) as the model has it, even if it is
        conditioned on other layers.

    Examples
    --------
    >>> log_p = np.array([-1.6, -1.8])
    >>> result = gvae.evaluation.Surgery(log_p + 0.6, log_p + 0.1, log_p, np.zeros(2))
    >>> round(result.summary()["mutual_information"], 3)
    0.5
    """

    log_q_given_x: np.ndarray
    log_q: np.ndarray
    log_p: np.ndarray
    responsibility_entropy: np.ndarray
    layers: Sequence[Surgery] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The mean KL(q(z|x) ‖ p(z)) as marginal KL(q(z) ‖ p(z)) plus mutual information of index and code.

        Returns
        -------
        dict
            "rows", "log_rows" (log N), "kl", "marginal_kl", "mutual_information", "responsibility_entropy",
            "mutual_information_by_entropy", standard errors over rows as "_standard_error", and "layers", a list of the
            same for each layer, where there are several. Nats.

        Notes
        -----
        The mutual information lies in [0, log N]. There are two estimates of it from the same draws: the mean of
        log q(z|x_n) - log q(z), and, by entropy, log N - E H(q(n|z)).

        Examples
        --------
        >>> log_p = np.array([-1.6, -1.8])
        >>> result = gvae.evaluation.Surgery(log_p + 0.6, log_p + 0.1, log_p, np.zeros(2))
        >>> summary = result.summary()
        >>> [round(summary[name], 3) for name in ("kl", "marginal_kl", "mutual_information")]
        [0.6, 0.1, 0.5]
        """
        information, marginal = self.log_q_given_x - self.log_q, self.log_q - self.log_p
        entropy, log_rows = float(self.responsibility_entropy.mean()), math.log(len(self.log_q))
        result = {
            "rows": len(self.log_q),
            "kl": float((self.log_q_given_x - self.log_p).mean()),
            "marginal_kl": float(marginal.mean()),
            "marginal_kl_standard_error": standard_error(marginal),
            "mutual_information": float(information.mean()),
            "mutual_information_standard_error": standard_error(information),
            "responsibility_entropy": entropy,
            "mutual_information_by_entropy": log_rows - entropy,
            "mutual_information_by_entropy_standard_error": standard_error(self.responsibility_entropy),
            "log_rows": log_rows,
        }
        return result | ({"layers": [layer.summary() for layer in self.layers]} if self.layers else {})


@dataclass(frozen=True)
class Reconstruction:
    """Distortion, rate and squared error of reconstructions per row, as means over draws of q(z|x).

    Parameters
    ----------
    distortion : array (N,)
        -log p(x|z). Nats.
    rate : array (N,)
        log q(z|x) - log p(z), in closed form where there is one. Nats.
    squared_error : array (N,)
        The squared error of the mean of p(x|z), averaged over variables.

    Examples
    --------
    >>> result = gvae.evaluation.Reconstruction(np.array([80.0, 90.0]), np.array([20.0, 22.0]), np.array([0.01, 0.03]))
    >>> (result.rate + result.distortion).mean()  # minus the ELBO
    np.float64(106.0)
    """

    distortion: np.ndarray
    rate: np.ndarray
    squared_error: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Means over rows of rate, distortion and squared error, with standard errors.

        Returns
        -------
        dict
            "rows", "rate", "distortion" and "squared_error", each mean with its "_standard_error".

        Examples
        --------
        >>> result = gvae.evaluation.Reconstruction(np.array([80.0, 90.0]), np.array([20.0, 22.0]), np.array([0.01, 0.03]))
        >>> result.summary()["distortion"], result.summary()["distortion_standard_error"]
        (85.0, 5.0)
        """
        result: dict[str, Any] = {"rows": len(self.rate)}
        for name in ("rate", "distortion", "squared_error"):
            values = getattr(self, name)
            result |= {name: float(values.mean()), f"{name}_standard_error": standard_error(values)}
        return result


def _units_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"active units: {s['active']} of {s['units']}, {s['collapsed']:.0%} collapsed"
    for i, layer in enumerate(s["layers"]):
        name = layer.get("name", f"layer {i + 1}")
        which = f"{name}: {layer['active']} of {layer['units']}; " if len(s["layers"]) > 1 else ""
        yield f"  {which}KL of each, largest first, sum {sum(layer['kl']):.2f}: {largest(layer['kl'])}"


@measure(
    "units",
    "active units and the KL of each",
    "10 draws a row",
    lines=_units_lines,
)
def active_units(subject: Subject, *, samples: int = 10) -> Units:
    """Activity and KL of every unit of every layer.

    Parameters
    ----------
    subject : Subject
    samples : int, default 10
        Draws per row.

    Returns
    -------
    Units

    Raises
    ------
    ConfigError
        samples is not a positive integer, a layer's q has no mean, or no layer has a density variable by variable.

    Notes
    -----
    Layers under flows, whose density is joint over all variables, are left out.
    Layers above the first are inferred from draws of those below: E_q[u|x] is then a mean over `samples` of them.
    A unit is active if its activity Var_x(E_q[u|x]) is above 0.01 (Burda, Grosse and Salakhutdinov 2016, section 5.3).
    Where layers are inferred from the top down, the mean of a unit also moves with the layers above: its KL says whether x
    itself tells something about it.

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.01]]), np.zeros(3), np.ones(3))
    >>> x = fa.sample(gvae.random.key(0), 100)
    >>> subject = gvae.evaluation.Subject(*fa.as_vae("diagonal"), gvae.data.Table(x))
    >>> gvae.evaluation.active_units(subject).activity[0].round(2)  # the second code has no effect on x
    array([0.92, 0.  ])
    """
    samples = whole("samples", samples)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.CODES, i), batch, samples)
        columns = {}
        layers = [layer for layer in subject.terms(batch, noise).layers if _has_units(layer)]
        if not layers:
            raise ConfigError("active units: no layer has a density variable by variable")
        for j, layer in enumerate(layers):
            try:
                means = layer.q.means_along(layer.z)
            except AttributeError:
                raise ConfigError(f"active units: {type(layer.q).__name__}, a layer's q, has no mean") from None
            shape = (samples, len(batch), layer.q.n)
            mean = np.broadcast_to(np.asarray(means, np.float64), shape)
            columns[f"mean {j} {layer.name}"] = mean.mean(axis=0)
            columns[f"kl {j}"] = np.broadcast_to(_unit_kl(layer), shape).mean(axis=0)
        return columns

    columns = subject.each("active units", compute, settings={"samples": samples})
    # names of layers are with their columns: not every process has computed a batch
    found = sorted((name.split(" ", 2) for name in columns if name.startswith("mean ")), key=lambda parts: int(parts[1]))
    activity = [columns[" ".join(parts)].var(axis=0, ddof=1 if len(subject.table) > 1 else 0) for parts in found]
    names = tuple(name for _, _, name in found)
    return Units(activity, [columns[f"kl {j}"].mean(axis=0) for j in range(len(found))], names if all(names) else ())


def _has_units(layer: Any) -> bool:
    return all(d is None or d.by_variable or is_gaussian(d) for d in (layer.q, layer.p))


def _unit_kl(layer: Any) -> np.ndarray:
    """KL of each unit's marginal under q to that under p, (.., n): exact for Gaussians, otherwise from the draws, as where p
    depends on a draw that depends on this layer's: its share of the bound. Where variables of one of them depend on each
    other, as in a mixture, the KL of the unit given those before it: the sum is the layer's KL.
    """
    p = layer.q.standard if layer.p is None else layer.p
    if not layer.coupled and is_gaussian(layer.q) and is_gaussian(p):
        return np.asarray(_marginals(layer.q).kl(_marginals(p)), np.float64)
    return _terms_in_order(layer.q, layer.z) - _terms_in_order(p, layer.z)


def _terms_in_order(d: Distribution, z: Array) -> np.ndarray:
    """log d(z_j | z_1, .., z_(j-1)) of each unit, (.., n): those of Gaussians by R R^T, their covariance."""
    if d.independent or not is_gaussian(d):
        return np.asarray(d.log_prob(z, reduce=False))
    r = np.linalg.cholesky(np.asarray(d.covariance(), np.float64))
    eps = np.linalg.solve(r, np.asarray(z - d.mean, np.float64)[..., None])[..., 0]
    return -0.5 * (eps**2 + math.log(2 * math.pi)) - np.log(np.einsum("...ii->...i", r))


def is_gaussian(d: Distribution) -> bool:
    """Whether d is Gaussian, decided by its KL to a diagonal Gaussian, which then has a closed form."""
    if not d.reparameterized:
        return False
    zero = np.zeros(d.n, d.shown.dtype)
    return d.kl(DiagonalGaussian(zero, zero)) is not None


def _marginals(d: Distribution) -> DiagonalGaussian:
    """The marginals as distributions of one variable each, with an additional batch axis."""
    mean, variance = np.asarray(d.mean, np.float64), np.asarray(d.variance(), np.float64)
    return DiagonalGaussian(mean[..., None], 0.5 * np.log(variance)[..., None])


def from_x_alone(layer: Any, batch: Batch) -> bool:
    """Whether a layer's q is q(z|x), and depends on no other draws."""
    return layer.q.batch_shape == (len(batch),)


def _surgery_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"the KL in parts, {s['rows']} rows"
    yield line("marginal KL(q(z) || p(z))", s["marginal_kl"], spread(s, "marginal_kl"))
    at_most = f"of at most log {s['rows']} = {s['log_rows']:.3f}"
    yield line("mutual information of row and code", s["mutual_information"], at_most)
    yield line("  by entropy, log N - E H(n|z)", s["mutual_information_by_entropy"])
    yield line("their sum, KL by sampling", s["kl"])
    for i, layer in enumerate(s.get("layers", ())):
        marginal, information = layer["marginal_kl"], layer["mutual_information"]
        yield f"  layer {i + 1}: marginal KL {marginal:.3f}, mutual information {information:.3f}"


@measure(
    "surgery",
    "the KL as marginal KL plus mutual information of row and code",
    "rows^2 densities of q",
    lines=_surgery_lines,
)
def surgery(subject: Subject, *, rows: int | None = None) -> Surgery:
    """The parts of the KL: marginal KL and mutual information of row and code, with q(z) as the mixture over the rows.

    Parameters
    ----------
    subject : Subject
    rows : int, optional
        How many of the first rows; None: all.

    Returns
    -------
    Surgery

    Raises
    ------
    ConfigError
        rows is not a positive integer, or a layer is not inferred from x only.

    Notes
    -----
    One draw per row, and the log-density of each draw under each row's q: O(rows^2) evaluations of log q. Source: Hoffman
    and Johnson (2016).

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(fa.sample(gvae.random.key(0), 200)))
    >>> summary = gvae.evaluation.surgery(subject).summary()
    >>> [round(summary[name], 1) for name in ("kl", "marginal_kl", "mutual_information")]  # q(z) is close to the prior
    [0.9, 0.0, 0.9]
    """
    n = len(subject.table) if rows is None else min(whole("rows", rows), len(subject.table))

    def draw(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.SURGERY, i), batch, 1)
        layers = subject.terms(batch, noise).layers
        if not all(from_x_alone(layer, batch) for layer in layers):
            raise ConfigError("surgery: a layer's q depends on other draws than its own; expected q(z|x) for each layer")
        columns = {f"z {j}": np.asarray(layer.z)[0] for j, layer in enumerate(layers)}
        log_q = [np.asarray(layer.log_q, np.float64)[0] for layer in layers]
        log_p = [np.broadcast_to(np.asarray(layer.log_p, np.float64), (1, len(batch)))[0] for layer in layers]
        columns["log_q_given_x"], columns["log_p"] = sum(log_q), sum(log_p)
        if len(layers) > 1:
            columns |= {f"log_q_given_x {j}": values for j, values in enumerate(log_q)}
            columns |= {f"log_p {j}": values for j, values in enumerate(log_p)}
        return columns

    columns = subject.each("surgery: draws", draw, settings={}, rows=n)
    z = [columns[f"z {j}"] for j in range(sum(name.startswith("z ") for name in columns))]
    mixture, parts = Mixture(n), [Mixture(n) for _ in z] if len(z) > 1 else []

    def mix(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.SURGERY, i), batch, 1)
        layers = subject.terms(batch, noise).layers
        for block in blocks(n, len(batch) * max(layer.q.n for layer in layers)):
            log_q = [layer.q.log_prob(codes[block, None]) for layer, codes in zip(layers, z, strict=True)]
            mixture.add(block, np.asarray(np.sum(log_q, axis=0, dtype=np.float64)))
            for part, own in zip(parts, log_q, strict=False):
                part.add(block, np.asarray(own, np.float64))
        return {}

    subject.each("surgery: mixture", mix, settings={}, rows=n, kept=False)

    def result_of(mixture: Mixture, which: str = "", layers: Sequence[Surgery] = ()) -> Surgery:
        log_q_given_x, log_p = columns[f"log_q_given_x{which}"], columns[f"log_p{which}"]
        return Surgery(log_q_given_x, mixture.log_q, log_p, mixture.entropy, layers)

    return result_of(mixture, layers=[result_of(part, f" {j}") for j, part in enumerate(parts)])


def _reconstruction_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield "reconstructions, from draws of q(z|x)"
    yield line("rate", s["rate"], spread(s, "rate"))
    yield line("distortion", s["distortion"], spread(s, "distortion"))
    yield f"  {'squared error per variable':<34}{s['squared_error']:>12.5f}"


@measure(
    "reconstruction",
    "rate, distortion and squared error of reconstructions",
    "10 draws a row",
    lines=_reconstruction_lines,
    inferred=False,
)
def reconstruction(subject: Subject, *, samples: int = 10) -> Reconstruction:
    """Rate, distortion and squared error of reconstructions.

    Parameters
    ----------
    subject : Subject
    samples : int, default 10
        Draws per row.

    Returns
    -------
    Reconstruction

    Raises
    ------
    ConfigError
        samples is not a positive integer, or the model's Terms have no `views`, the distributions p(view | z).

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.full(3, 0.1))
    >>> subject = gvae.evaluation.Subject(*fa.as_vae(), gvae.data.Table(fa.sample(gvae.random.key(0), 200)))
    >>> summary = gvae.evaluation.reconstruction(subject).summary()
    >>> [round(summary[name], 2) for name in ("rate", "distortion", "squared_error")]
    [1.96, 0.72, 0.09]
    """
    samples = whole("samples", samples)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.RECONSTRUCTION, i), batch, samples)
        terms = subject.terms(batch, noise)
        if not terms.views:
            raise ConfigError(
                f"reconstruction: the Terms of {type(subject.model).__name__} have no `views`, see gvae.models"
            )
        shape = (samples, len(batch))
        rates = [layer.log_q - layer.log_p if layer.kl is None else layer.kl for layer in terms.layers]
        rate = sum(np.broadcast_to(np.asarray(r, np.float64), shape).mean(axis=0) for r in rates)
        wrong, count = np.zeros(len(batch)), 0
        for name, view in terms.views.items():
            wrong += np.square(view.error(dense(getattr(batch, name)))).sum(axis=-1).mean(axis=0)
            count += view.n
        distortion = -np.asarray(terms.total_log_likelihood, np.float64).mean(axis=0)
        return {"distortion": distortion, "rate": rate, "squared_error": wrong / count}

    columns: dict[str, Any] = subject.each("reconstruction", compute, settings={"samples": samples})
    return Reconstruction(**columns)
