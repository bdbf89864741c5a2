"""Information that codes and data hold about each other, by variable: mutual informations and total correlations.

Over the rows' empirical distribution q(x, z) = 1/N sum_n delta(x - x_n) q(z|x_n), with TC(z) = KL(q(z) ‖ prod_j q(z_j)):

    mean KL(q(z|x) ‖ p(z)) = I(z; x) + TC(z) + sum_j KL(q(z_j) ‖ p(z_j)),      where the variables of p(z) are independent
    TC(x; z) = TC(x) - TC(x|z) = sum_i I(x_i; z) - I(z; x)
    TC(x; z) - TC(z)           = sum_i I(x_i; z) - sum_j I(z_j; x),            where those of q(z|x) are

and, of discrete variables, I(x_i; z) >= H(x_i) + E log p(x_i|z). Sources: Gao, Brekelmans, Ver Steeg and Galstyan (2019);
Chen, Li, Grosse and Duvenaud (2018) for the parts of the KL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import random
from gvae.data import Batch
from gvae.distributions import DiagonalGaussian, Distribution
from gvae.errors import ConfigError, DataError
from gvae.evaluation import codes
from gvae.evaluation import subject as streams
from gvae.evaluation.importance import standard_error
from gvae.evaluation.mixtures import Mixture, blocks
from gvae.evaluation.registry import largest, line, measure, spread
from gvae.evaluation.subject import Subject, dense, view_of_x, whole
from gvae.objectives import Layer, Terms

__all__ = ["Information", "information"]


@dataclass(frozen=True)
class Information:
    """Log-densities of codes and data, from which mutual informations and total correlations follow.

    The first six arrays are for one draw z of q(z|x_n) per row, where q(z) = 1/N sum_n q(z|x_n); E log p(x_i|z) and the ELBO
    are means over `samples` draws per row.

    Parameters
    ----------
    log_q_given_x : array (N,)
        log q(z|x_n). Nats.
    log_q : array (N,)
        log q(z). Nats.
    log_p : array (N,) or None
        log p(z). None where there is no p(z) of these codes by themselves. Nats.
    log_q_given_x_by_code, log_q_by_code : mapping of str to array (N, variables)
        log q(z_j|x_n) and log q(z_j) of each variable, by code. Nats.
    log_p_by_code : mapping of str to array (N, variables) or None
        log p(z_j) of each variable. None where log_p is None, and where the variables of p(z) depend on each other. Nats.
    entropy : array (D,) or None
        H(x_i). None where x is continuous, or its variables depend on each other given z. Nats.
    log_p_of_view : array (D,) or None
        E log p(x_i|z). None where `entropy` is. Nats.
    elbo : array (N,)
        Nats.
    factorizes : bool
        Whether the variables of q(z|x) are independent.
    samples : int

    Examples
    --------
    >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
    >>> subject = gvae.evaluation.Subject(*fa.as_vae("diagonal"), gvae.data.Table(fa.sample(gvae.random.key(3), 200)))
    >>> result = gvae.evaluation.information(subject)
    >>> (result.log_q_given_x - result.log_q).mean().round(1), round(np.log(6) / 2, 1)  # I(z; x), and its exact value
    (np.float64(0.9), np.float64(0.9))
    """

    log_q_given_x: np.ndarray
    log_q: np.ndarray
    log_p: np.ndarray | None
    log_q_given_x_by_code: Mapping[str, np.ndarray]
    log_q_by_code: Mapping[str, np.ndarray]
    log_p_by_code: Mapping[str, np.ndarray] | None
    entropy: np.ndarray | None
    log_p_of_view: np.ndarray | None
    elbo: np.ndarray
    factorizes: bool
    samples: int

    def summary(self) -> dict[str, Any]:
        """Mutual informations, total correlations, the parts of the KL and lower bounds, as means over the same draws.

        Returns
        -------
        dict
            "rows", "samples" and "log_rows" (log N), and the quantities below, with standard errors over rows as
            "_standard_error" where they are means over rows. What cannot be computed is None. Nats.

        Notes
        -----
        - "kl" = "mutual_information" + "total_correlation" + "sum_code_kl".
        - "mutual_information" is I(z; x), at most "log_rows"; "total_correlation" is TC(z); "marginal_kl" is
          KL(q(z) ‖ p(z)).
        - "codes" has, for each variable by code, "mutual_information" I(z_j; x) and "kl" KL(q(z_j) ‖ p(z_j));
          "sum_code_information" and "sum_code_kl" are their sums.
        - "entropy" is H(x_i) of each x_i, and "sum_h" its sum over i.
        - "view_information" is, for each x_i, at most I(x_i; z); below 0 where a constant predicts better than p(x_i|z).
          "sum_view_information" is its sum.
        - "explained" = "sum_view_information" - I(z; x), at most TC(x; z).
        - "explained_beyond_codes" = "sum_view_information" - "sum_code_information", at most TC(x; z) - TC(z); None unless
          q(z|x) factorizes.
        - "total_correlation_bound" = "elbo" + "sum_h", at most TC(x; z); at most TC(x; z) - TC(z) if p(z) factorizes.

        Examples
        --------
        >>> fa = gvae.models.FactorAnalysis(np.array([[2.0], [1.0], [0.0]]), np.zeros(3), np.ones(3))
        >>> subject = gvae.evaluation.Subject(*fa.as_vae("diagonal"), gvae.data.Table(fa.sample(gvae.random.key(0), 200)))
        >>> summary = gvae.evaluation.information(subject).summary()
        >>> parts = summary["mutual_information"] + summary["total_correlation"] + summary["sum_code_kl"]
        >>> np.isclose(summary["kl"], parts)
        np.True_
        """
        of_code = {name: own - self.log_q_by_code[name] for name, own in self.log_q_given_x_by_code.items()}
        p = self.log_p_by_code
        kl_of_code = None if p is None else {name: own - p[name] for name, own in self.log_q_by_code.items()}
        per_row: dict[str, np.ndarray | None] = {
            "mutual_information": self.log_q_given_x - self.log_q,
            "total_correlation": self.log_q - _sum(self.log_q_by_code),
            "marginal_kl": None if self.log_p is None else self.log_q - self.log_p,
            "kl": None if self.log_p is None else self.log_q_given_x - self.log_p,
            "sum_code_information": _sum(of_code),
            "sum_code_kl": None if kl_of_code is None else _sum(kl_of_code),
            "elbo": self.elbo,
        }
        result: dict[str, Any] = {"rows": len(self.log_q), "samples": self.samples, "log_rows": math.log(len(self.log_q))}
        for name, values in per_row.items():
            result[name] = None if values is None else float(values.mean())
            result[f"{name}_standard_error"] = None if values is None else standard_error(values)
        result["codes"] = {
            name: {
                "mutual_information": values.mean(axis=0).tolist(),
                "kl": None if kl_of_code is None else kl_of_code[name].mean(axis=0).tolist(),
            }
            for name, values in of_code.items()
        }
        result |= dict.fromkeys(("entropy", "sum_h", "view_information", "sum_view_information"))
        result |= dict.fromkeys(("explained", "explained_beyond_codes", "total_correlation_bound"))
        if self.entropy is not None and self.log_p_of_view is not None:
            by_variable, sum_h = self.entropy + self.log_p_of_view, float(self.entropy.sum())
            result |= {"entropy": self.entropy.tolist(), "sum_h": sum_h, "view_information": by_variable.tolist()}
            result |= {"sum_view_information": float(by_variable.sum()), "total_correlation_bound": result["elbo"] + sum_h}
            result["explained"] = result["sum_view_information"] - result["mutual_information"]
            if self.factorizes:
                result["explained_beyond_codes"] = result["sum_view_information"] - result["sum_code_information"]
        return result


def _information_lines(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"information, {s['rows']} rows"
    yield line("I(z; x)", s["mutual_information"], f"of at most log {s['rows']} = {s['log_rows']:.3f}")
    yield line("TC(z)", s["total_correlation"], spread(s, "total_correlation"))
    yield line("sum of KL(q(z_j) || p(z_j))", s["sum_code_kl"])
    yield line("their sum, KL by sampling", s["kl"])
    for name, code in s["codes"].items():
        yield f"  I({name}_j; x) of each, largest first: {largest(code['mutual_information'])}"
    yield line("sum of I(z_j; x)", s["sum_code_information"])
    yield line("sum of I(x_i; z), at least", s["sum_view_information"])
    yield line("TC(x; z), at least", s["explained"])
    yield line("TC(x; z) - TC(z), at least", s["explained_beyond_codes"])
    yield line("ELBO + sum of H(x_i)", s["total_correlation_bound"], "at most TC(x; z)")
    if s["kl"] is None:
        yield "  of the codes next to the data, whose p(z) depends on the codes above: no KL to it"
    elif s["sum_code_kl"] is None:
        yield "  the variables of p(z) are not independent: no sum of KL(q(z_j) || p(z_j))"
    if s["sum_h"] is None:
        yield "  H(x_i), and what is bounded by it, are for bits, counts and categories that are independent given z"
    elif s["explained_beyond_codes"] is None:
        yield "  q(z|x) does not factorize: TC(x; z) - TC(z) is not a difference of these sums"


@measure(
    "information",
    "mutual informations and total correlations of codes and data, and the KL in parts, variable by variable",
    "rows^2 densities of each variable of q, 10 draws a row",
    lines=_information_lines,
    of="x",
)
def information(subject: Subject, *, samples: int = 10, rows: int | None = None) -> Information:
    """Mutual informations and total correlations of codes and data, for a model that explains only x.

    Parameters
    ----------
    subject : Subject
    samples : int, default 10
        Draws per row for the ELBO and log p(x_i|z).
    rows : int, optional
        How many of the first rows; None: all.

    Returns
    -------
    Information

    Raises
    ------
    ConfigError
        samples or rows is not a positive integer; the model explains more than x, or another column; the first layer's q
        depends on draws of other layers; or q(z_j|x) has no closed form.
    DataError
        x has values outside the support of p(x|z).

    Notes
    -----
    One draw per row has its log-density under each row's q taken by variable: O(rows^2) evaluations of log q. Layers are
    joined if each is inferred from x only; otherwise z is only the first layer, next to the data, without a p(z), because
    the model's is conditioned on the layers above. The weights of rows are ignored. Where p(x_i|z) takes grey levels as the
    probabilities of bits, x_i is the bit. The formulas are those of this module: TC(x; z) = sum_i I(x_i; z) - I(z; x), and
    I(x_i; z) >= H(x_i) + E log p(x_i|z). Sources: Gao, Brekelmans, Ver Steeg and Galstyan (2019); Chen, Li, Grosse and
    Duvenaud (2018) for the parts of the KL.

    Examples
    --------
    >>> x = (gvae.random.uniform(gvae.random.key(0), (100, 3)) < 0.5).astype(np.float32)
    >>> model = gvae.models.VAE(3, latent=2, posterior="diagonal", hidden=(4,))
    >>> subject = gvae.evaluation.Subject(model, model.init(gvae.random.key(0)), gvae.data.Table(x))
    >>> result = gvae.evaluation.information(subject)
    >>> result.entropy.round(2), round(float(np.log(2)), 2)  # of fair bits
    (array([0.69, 0.68, 0.67]), 0.69)
    """
    samples = whole("samples", samples)
    n = len(subject.table) if rows is None else min(whole("rows", rows), len(subject.table))
    counts: dict[float, np.ndarray] = {}  # the count of each value, by variable of x
    log_p_sums: list[np.ndarray] = []  # sums over rows of E log p(x_i | z), by batch
    factorizes = True

    def draw(i: int, batch: Batch) -> dict[str, np.ndarray]:
        nonlocal factorizes
        noise = subject.model.noise(random.fold_in(subject.key, streams.INFORMATION, i), batch, samples)
        terms = subject.terms(batch, noise)
        view, own = view_of_x(subject, "information", terms), _own(terms, batch)
        shape = (samples, len(batch))
        columns: dict[str, Any] = {"log_q_given_x": sum(np.asarray(layer.log_q, np.float64)[0] for layer in own)}
        ps = [layer.q.standard if layer.p is None else layer.p for layer in own]
        complete = len(own) == len(terms.layers)
        if complete:
            columns["log_p"] = sum(np.broadcast_to(np.asarray(layer.log_p, np.float64), shape)[0] for layer in own)
        for j, layer in enumerate(own):
            z = np.asarray(layer.z)[0]
            columns |= {f"z {j}": z, f"log_q_given_x {j}": _by_variable(_marginals(layer.q), z)}
            if complete and all(p.batch_shape == () and p.independent for p in ps):
                columns[f"log_p {j}"] = _by_variable(ps[j], z)
        factorizes = all(layer.q.independent for layer in own)
        if view.discrete and view.independent:  # otherwise there is no p(x_i|z)
            x = dense(batch.x)
            if not view.support.holds(x):
                raise DataError(f"information: x has other values than those of {type(view).__name__}, {view.support}")
            _count(counts, x, bits=not view.support.whole)
            log_p = np.broadcast_to(np.asarray(view.log_prob(x, reduce=False), np.float64), (*shape, view.n))
            log_p_sums.append(log_p.mean(axis=0).sum(axis=0))
        rates = [layer.log_q - layer.log_p if layer.kl is None else layer.kl for layer in terms.layers]
        rate = sum(np.broadcast_to(np.asarray(r, np.float64), shape).mean(axis=0) for r in rates)
        columns["elbo"] = np.asarray(terms.total_log_likelihood, np.float64).mean(axis=0) - rate
        return columns

    # not kept in `partial`: sums over rows would lack the rows of an earlier run
    columns = subject.each("information: draws", draw, settings={}, rows=n, kept=False)
    z = [values for name, values in columns.items() if name.startswith("z ")]
    joint, mixtures = Mixture(n), [Mixture(n, code.shape[1]) for code in z]

    def mix(i: int, batch: Batch) -> dict[str, np.ndarray]:
        noise = subject.model.noise(random.fold_in(subject.key, streams.INFORMATION, i), batch, 1)
        own = _own(subject.terms(batch, noise), batch)
        marginals = [_marginals(layer.q) for layer in own]
        for block in blocks(n, len(batch) * sum(layer.q.n for layer in own)):
            draws = [code[block, None] for code in z]
            log_q = [layer.q.log_prob(code) for layer, code in zip(own, draws, strict=True)]
            joint.add(block, np.asarray(np.sum(log_q, axis=0, dtype=np.float64)))
            for mixture, q, code in zip(mixtures, marginals, draws, strict=True):
                mixture.add(block, _by_variable(q, code))
        return {}

    subject.each("information: mixture", mix, settings={}, rows=n, kept=False)
    names = list(getattr(subject.model, "codes", {}))
    names = names if len(names) == len(z) else [f"z{j + 1}" for j in range(len(z))]

    def by_code(which: str) -> dict[str, np.ndarray]:
        return {name: columns[f"{which} {j}"] for j, name in enumerate(names)}

    return Information(
        columns["log_q_given_x"],
        joint.log_q,
        columns.get("log_p"),
        by_code("log_q_given_x"),
        {name: mixture.log_q for name, mixture in zip(names, mixtures, strict=True)},
        by_code("log_p") if "log_p 0" in columns else None,
        _entropy(counts, n) if counts else None,
        np.sum(log_p_sums, axis=0) / n if counts else None,
        columns["elbo"],
        factorizes,
        samples,
    )


def _own(terms: Terms, batch: Batch) -> list[Layer]:
    """The layers whose codes are z."""
    if all(codes.from_x_alone(layer, batch) for layer in terms.layers):
        return terms.layers
    if not codes.from_x_alone(terms.layers[0], batch):
        raise ConfigError("information: the first layer's q depends on other draws than its own; expected q(z|x)")
    return terms.layers[:1]


def _marginals(q: Distribution) -> Distribution:
    """The product of the marginals of a layer's q."""
    if codes.is_gaussian(q):
        return DiagonalGaussian(np.asarray(q.mean, np.float64), 0.5 * np.log(np.asarray(q.variance(), np.float64)))
    if q.independent:
        return q
    raise ConfigError(f"information: {type(q).__name__}, a layer's q, has no marginals in closed form")


def _by_variable(d: Distribution, z: np.ndarray) -> np.ndarray:
    """log d(z_j) of each variable of a product, (.., n)."""
    z = z.astype(d.mean.dtype) if isinstance(d, DiagonalGaussian) else z
    return np.asarray(d.log_prob(z, reduce=False), np.float64)


def _sum(by_code: Mapping[str, np.ndarray]) -> np.ndarray:
    """The sum over the variables of all codes, (N,)."""
    return np.concatenate(list(by_code.values()), axis=1).sum(axis=1)


def _count(counts: dict[float, np.ndarray], x: np.ndarray, bits: bool) -> None:
    """Add the values of some rows (B, D); for bits, x are the probabilities that they are 1."""
    ones = x.sum(axis=0, dtype=np.float64)
    found = {0.0: len(x) - ones, 1.0: ones} if bits else {float(v): (x == v).sum(axis=0) for v in np.unique(x)}
    for value, number in found.items():
        counts[value] = counts.get(value, 0) + number


def _entropy(counts: Mapping[float, np.ndarray], n: int) -> np.ndarray:
    """H(x_i) of the values of n rows, (D,)."""
    share = np.stack(list(counts.values())) / n
    return -(share * np.log(np.where(share > 0, share, 1))).sum(axis=0)
