"""What the codes carry: active units, the parts of the KL, and how well the data come back."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from gvae.evaluation.subject import Subject, dense, whole

__all__ = ["Reconstruction", "Surgery", "Units", "active_units", "reconstruction", "surgery"]

ACTIVE = 0.01  # Burda, Grosse and Salakhutdinov (2016), section 5.3


@dataclass(frozen=True)
class Units:
    """By layer, (units,) each: the activity Var_x(E_q[u | x]) and the mean KL of the unit's marginal, KL(q(u|x) ‖ p(u)).

    The KLs of a layer's units add up to its KL if q(z|x) and p(z) are independent over units, else to less or more.
    """

    activity: list[np.ndarray]
    kl: list[np.ndarray]

    def summary(self) -> dict[str, Any]:
        """Counts of units with activity above 0.01, and the share of those that are not, over all layers and by layer."""
        layers = [
            {
                "active": int((activity > ACTIVE).sum()),
                "units": len(activity),
                "activity": activity.tolist(),
                "kl": kl.tolist(),
            }
            for activity, kl in zip(self.activity, self.kl, strict=True)
        ]
        active, units = (sum(layer[name] for layer in layers) for name in ("active", "units"))
        return {"active": active, "units": units, "collapsed": 1 - active / units, "layers": layers}


@dataclass(frozen=True)
class Surgery:
    """Per row, over draws z of q(z|x_n), (N,): log q(z|x_n), log q(z) and log p(z), where q(z) = 1/N sum_n q(z|x_n), and the
    entropy H(q(n|z)) of the responsibilities q(n|z) = q(z|x_n) / sum_m q(z|x_m).

    layers : the same of each layer alone, where there are several; p(z_l) as the model has it, be it given other layers
    """

    log_q_given_x: np.ndarray
    log_q: np.ndarray
    log_p: np.ndarray
    responsibility_entropy: np.ndarray
    layers: Sequence[Surgery] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """mean KL(q(z|x) ‖ p(z)) = marginal KL(q(z) ‖ p(z)) + mutual information of index and code, in [0, log N].

        Two estimates of that information from the same draws: the mean of log q(z|x_n) - log q(z), and, by entropy,
        log N - E H(q(n|z)).
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
    """Per row, means over draws of q(z|x): the distortion -log p(x|z), the rate log q(z|x) - log p(z) (in closed form where
    there is one), and the squared error of the mean of p(x|z), averaged over variables."""

    distortion: np.ndarray
    rate: np.ndarray
    squared_error: np.ndarray

    def summary(self) -> dict[str, Any]:
        result: dict[str, Any] = {"rows": len(self.rate)}
        for name in ("rate", "distortion", "squared_error"):
            values = getattr(self, name)
            result |= {name: float(values.mean()), f"{name}_standard_error": standard_error(values)}
        return result


def active_units(subject: Subject, *, samples: int = 10) -> Units:
    """Activity and KL of every unit of every layer. Costs `samples` draws a row.

    Layers above the first are inferred from draws of those below: E_q[u|x] is then a mean over `samples` of them.
    """
    samples = whole("samples", samples)

    def compute(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.CODES, i), batch, samples)
        columns = {}
        for j, layer in enumerate(subject.terms(batch, noise).layers):
            if not hasattr(layer.q, "mean"):
                raise ConfigError(f"active units: {type(layer.q).__name__}, a layer's q, has no mean")
            shape = (samples, len(batch), layer.q.n)
            mean = np.broadcast_to(np.asarray(layer.q.mean, np.float64), shape)
            columns[f"mean {j}"] = mean.mean(axis=0)
            columns[f"kl {j}"] = np.broadcast_to(_unit_kl(layer), shape).mean(axis=0)
        return columns

    columns = subject.each("active units", compute, settings={"samples": samples})
    layers = range(len(columns) // 2)
    activity = [columns[f"mean {j}"].var(axis=0, ddof=1 if len(subject.table) > 1 else 0) for j in layers]
    return Units(activity, [columns[f"kl {j}"].mean(axis=0) for j in layers])


def _unit_kl(layer: Any) -> np.ndarray:
    """KL of each unit's marginal under q to that under p, (.., n): exact for Gaussians, else from the draws; where variables
    of p depend on each other, as in a mixture, of the unit given those before it, so that the sum is the layer's KL."""
    p = layer.q.standard if layer.p is None else layer.p
    if is_gaussian(layer.q) and is_gaussian(p):
        return np.asarray(_marginals(layer.q).kl(_marginals(p)), np.float64)
    return np.asarray(layer.q.log_prob(layer.z, reduce=False)) - np.asarray(p.log_prob(layer.z, reduce=False))


def is_gaussian(d: Distribution) -> bool:
    """By what is to be had of it: a KL to a diagonal Gaussian, in closed form."""
    zero = np.zeros(d.n, d.mean.dtype)
    return d.reparameterized and d.kl(DiagonalGaussian(zero, zero)) is not None


def _marginals(d: Distribution) -> DiagonalGaussian:
    """The marginals as distributions of one variable each, with one batch axis more."""
    mean, variance = np.asarray(d.mean, np.float64), np.asarray(d.variance(), np.float64)
    return DiagonalGaussian(mean[..., None], 0.5 * np.log(variance)[..., None])


def from_x_alone(layer: Any, batch: Batch) -> bool:
    """Whether a layer's q is q(z|x), and depends on no other draws."""
    return layer.q.batch_shape == (len(batch),)


def surgery(subject: Subject, *, rows: int | None = None) -> Surgery:
    """The parts of the KL on the first `rows` rows (None: all), with q(z) as the mixture of all of them.

    One draw a row, and the log-density of each draw under each row's q: O(rows²) evaluations of log q. Of several layers
    each has to be inferred from x alone; ConfigError otherwise.
    Source: Hoffman and Johnson (2016).
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
    z = [values for name, values in columns.items() if name.startswith("z ")]
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

    def parted(mixture: Mixture, which: str = "", layers: Sequence[Surgery] = ()) -> Surgery:
        log_q_given_x, log_p = columns[f"log_q_given_x{which}"], columns[f"log_p{which}"]
        return Surgery(log_q_given_x, mixture.log_q, log_p, mixture.entropy, layers)

    return parted(mixture, layers=[parted(part, f" {j}") for j, part in enumerate(parts)])


def reconstruction(subject: Subject, *, samples: int = 10) -> Reconstruction:
    """Rate, distortion and the squared error of reconstructions, with `samples` draws a row.

    The distributions p(view | z) come with the model's Terms as `views`; ConfigError if there are none.
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
