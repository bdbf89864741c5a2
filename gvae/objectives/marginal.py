"""A divergence of the codes' marginal q(z) from p(z), as a term of the objective.

q(z) = E q(z|x) over the data. The objective of InfoVAE,

    J = E log p(x|z) - (1 - alpha) E KL(q(z|x) ‖ p(z)) - (alpha + lambda - 1) D(q(z) ‖ p(z)),

is, with D the KL, E log p(x|z) - (1 - alpha) I(x; z) - lambda KL(q(z) ‖ p(z)), as E KL(q(z|x) ‖ p(z)) is I(x; z) plus
KL(q(z) ‖ p(z)): the information of the code costs 1 - alpha, and the mismatch of the marginals lambda. Any other divergence
may take the place of D. It is estimated from the draws of a batch: a term of all rows together, not a mean over rows.

Source: Zhao, Song and Ermon (2017), "InfoVAE".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import DTypeLike

from gvae.autodiff import stop_gradient, value_of
from gvae.costs import Beta
from gvae.distributions import DiagonalGaussian
from gvae.errors import ConfigError
from gvae.objectives.elbo import ELBO
from gvae.objectives.means import mean_draws, warm
from gvae.objectives.terms import REST, Layer, Terms, by_group
from gvae.ops import arrays, dense, elementwise
from gvae.runtime import device
from gvae.typing import Array

__all__ = ["BALANCE", "CRITIC", "KERNELS", "MMD", "Divergence", "Info", "JensenShannon"]

KERNELS = ("rbf", "imq")
BALANCE = "balance"  # in place of a number for lambda
CRITIC = "critic"  # the parameter group of the network of JensenShannon
TINY = 1e-12  # the least |D| by which a ratio is divided; and the weight below which there is none


class Divergence(Protocol):
    """A divergence of q(z) from p(z), estimated from the draws of a batch.

    Attributes
    ----------
    least_rows : int
        The fewest rows that a batch may have.

    Examples
    --------
    >>> gvae.objectives.parse("info:divergence=mmd,kernel=imq").divergence
    MMD(kernel='imq', bandwidth=None, closed=True)
    """

    least_rows: ClassVar[int]

    def __call__(self, terms: Terms, weight: Array = None, stopped: bool = False) -> Any:
        """The divergence.

        Parameters
        ----------
        terms : Terms
        weight : array (B,), optional
            The weights of the rows.
        stopped : bool, default False
            Whether codes and prior are constants.

        Returns
        -------
        array ()
        """


# ---- codes and draws of the prior ----------------------------------------------------------------


def drawn(terms: Terms) -> list[Layer]:
    """The layers whose draws are the code z of a row. ConfigError for draws that are not reparameterized, and for layers
    under others."""
    layers = [layer for layer in terms.layers if layer.z is not None and layer.share is None]
    if not layers:
        raise ConfigError("info: the divergence is of codes that are drawn, and this model draws none")
    for layer in layers:
        q = type(layer.q).__name__
        if layer.q.path != "exact" or layer.q.discrete:
            raise ConfigError(
                f"info: draws of {q} are not differentiable; expected a reparameterized posterior, such as diagonal"
            )
        p = layer.q.standard if layer.p is None else layer.p
        if layer.coupled or p.batch_shape != ():
            raise ConfigError(f"info: the prior of {layer.name or q} depends on other draws; expected codes with one p(z)")
    return layers


def joined(layers: list[Layer], stopped: bool) -> Any:
    """The codes of all layers, (K, B, n)."""
    z = [layer.z for layer in layers]
    z = z[0] if len(z) == 1 else arrays.concatenate(z, axis=-1)
    return stop_gradient(z) if stopped else z


def from_prior(layers: list[Layer], stopped: bool) -> Any:
    """Draws of the prior, (K, B, n), from the noise of the posterior's draws.

    A draw of the prior is independent of the codes of all rows but its own.
    """
    found = []
    for layer in layers:
        p = layer.q.standard if layer.p is None else layer.p
        same = type(p).draw_noise is type(layer.q).draw_noise
        if not (p.path == "exact" and not p.discrete and same and layer.noise is not None):
            raise ConfigError(
                f"info: a prior that is a {type(p).__name__} has no differentiable draws from the noise of "
                f"{type(layer.q).__name__}; take N(0, I) (prior=None) or another Gaussian prior"
            )
        found.append((p.stopped() if stopped else p).sample(layer.noise))
    return found[0] if len(found) == 1 else arrays.concatenate(found, axis=-1)


def is_standard(layers: list[Layer]) -> bool:
    """Whether p(z) is N(0, I)."""
    return all(layer.p is None and isinstance(layer.q.standard, DiagonalGaussian) for layer in layers)


# ---- maximum mean discrepancy --------------------------------------------------------------------


def gram(x: Any, y: Any, kernel: str, bandwidth: float) -> Any:
    """k(x_i, y_j) of vectors (R, n) and (S, n), (R, S), with r = |x_i - y_j|²: rbf e^(-r/b), imq b / (b + r)."""
    squares = [arrays.sum(elementwise.square(v), axis=-1) for v in (x, y)]
    total = elementwise.add(squares[0][:, None], squares[1][None, :])
    r = elementwise.subtract(total, elementwise.multiply(dense.matmul(x, arrays.transpose(y)), 2.0))
    r = elementwise.maximum(r, 0.0)  # it may be rounded to less, by much where codes are far from 0
    if kernel == "rbf":
        return elementwise.exp(elementwise.multiply(r, -1 / bandwidth))
    return elementwise.divide(bandwidth, elementwise.add(r, bandwidth))


def mean_under_standard(z: Any, bandwidth: float) -> Any:
    """E k(z, y) of the rbf kernel, y ~ N(0, I), (..) of z (.., n). With s² = bandwidth / 2:

    (s² / (s² + 1))^(n/2) exp(-|z|² / (2 (s² + 1)))
    """
    s2, n = bandwidth / 2, z.shape[-1]
    square = arrays.sum(elementwise.square(z), axis=-1)
    return elementwise.multiply(elementwise.exp(elementwise.multiply(square, -0.5 / (s2 + 1))), (s2 / (s2 + 1)) ** (n / 2))


def constant_under_standard(n: int, bandwidth: float) -> float:
    """E k(y, y') of the rbf kernel, y, y' ~ N(0, I) in n variables: (s² / (s² + 2))^(n/2)."""
    return (bandwidth / (bandwidth + 4)) ** (n / 2)


@lru_cache(maxsize=16)
def _apart(rows: int, dtype: DTypeLike) -> np.ndarray:
    """1 for each pair of different rows, (rows, rows)."""
    mask = 1 - np.eye(rows, dtype=dtype)
    mask.flags.writeable = False
    return mask


def mean_of_pairs(k: Any, K: int, weight: Array) -> Any:
    """The mean of k (K B, K B), or of a sum of such, over pairs of draws of different rows, weighted by both rows."""
    B = k.shape[-1] // K
    pairs = device.beside(_apart(B, np.dtype(k.dtype)), value_of(k))
    if weight is not None:
        pairs = elementwise.multiply(elementwise.multiply(weight[:, None], weight[None, :]), pairs)
    total = B * (B - 1) if weight is None else arrays.sum(pairs)
    if K > 1:
        k, pairs = arrays.reshape(k, shape=(K, B, K, B)), arrays.reshape(pairs, shape=(B, 1, B))
    return elementwise.divide(arrays.sum(elementwise.multiply(k, pairs)), total * K**2)


@dataclass(frozen=True)
class MMD:
    """The squared maximum mean discrepancy, MMD² = E k(z, z') - 2 E k(z, y) + E k(y, y'), z ~ q(z), y ~ p(z).

    Parameters
    ----------
    kernel : {"rbf", "imq"}, default "rbf"
        With r = |z - z'|² and b the bandwidth: e^(-r/b), which is a Gaussian of variance s² = b/2, or b / (b + r).
    bandwidth : float, optional
        b = 2 s². None: the number of variables n; r has the mean 2 n where z and z' are from N(0, I).
    closed : bool, default True
        Whether the terms with p are in closed form where there is one: rbf and p(z) = N(0, I).

    Raises
    ------
    ConfigError
        An unknown kernel, a bandwidth that is not positive. On a call: a batch of one row; codes that
        are not reparameterized; a prior without reparameterized draws, or one that depends on other draws.

    Notes
    -----
    The estimate is a U-statistic: a mean over all pairs of draws of different rows, weighted if rows are. It has no bias
    for any number of draws K, and may be below 0. Pairs of draws of the same row are left out, as they are not independent
    given the data; with them (a V-statistic), K = 1 would add (k(0) - mean k) / B. Time and memory are of order (K B)².

    Where the terms with p have no closed form, draws of the prior are from the noise of the posterior's draws: the draw y_i
    depends on the codes of row i only, and pairs (z_i, y_i) are left out, too. The closed form varies less where q(z|x) is
    narrow, and these draws do where it is close to p(z), because there y_i is close to z_i.

    Codes of several layers are joined. The kernel has the dimension once: b = n, not n².

    Sources: Gretton et al. (2012), eq. 4; Zhao, Song and Ermon (2017), section 3.2.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.zeros((500, 2)), np.zeros((500, 2)))
    >>> noise = gvae.random.normal(gvae.random.key(0), (1, 500, 2), np.float64)
    >>> terms = gvae.objectives.Terms({}, [gvae.objectives.Layer(q, None, q.sample(noise), noise)])
    >>> bool(abs(gvae.objectives.MMD()(terms)) < 1e-2)  # q(z) is p(z)
    True
    >>> q = gvae.distributions.DiagonalGaussian(np.full((500, 2), 2.0), np.zeros((500, 2)))
    >>> terms = gvae.objectives.Terms({}, [gvae.objectives.Layer(q, None, q.sample(noise), noise)])
    >>> gvae.objectives.MMD()(terms).round(1)
    np.float64(0.5)
    """

    least_rows: ClassVar[int] = 2  # a pair
    kernel: str = "rbf"
    bandwidth: float | None = None
    closed: bool = True

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ConfigError(f"MMD: unknown kernel {self.kernel!r}; known are {', '.join(KERNELS)}")
        if self.bandwidth is not None and not 0 < self.bandwidth < math.inf:
            raise ConfigError(f"MMD: bandwidth is {self.bandwidth!r}, expected a positive number")

    def __call__(self, terms: Terms, weight: Array = None, stopped: bool = False) -> Any:
        layers = drawn(terms)
        z = joined(layers, stopped)
        K, B, n = z.shape
        if B < 2:
            raise ConfigError(
                "info: a batch has one row, and the divergence is a mean over pairs of rows; expected two or more rows in "
                "every batch: give larger batches"
            )
        b = float(n) if self.bandwidth is None else self.bandwidth
        rows = arrays.reshape(z, shape=(K * B, n))
        k = gram(rows, rows, self.kernel, b)
        if self.closed and self.kernel == "rbf" and is_standard(layers):
            to_p = mean_draws(mean_under_standard(z, b), weight)
            return mean_of_pairs(k, K, weight) - 2 * to_p + constant_under_standard(n, b)
        y = arrays.reshape(arrays.broadcast_to(from_prior(layers, stopped), shape=z.shape), shape=(K * B, n))
        both = elementwise.add(k, gram(y, y, self.kernel, b))
        return mean_of_pairs(elementwise.subtract(both, 2 * gram(rows, y, self.kernel, b)), K, weight)


# ---- Jensen-Shannon divergence -----------------------------------------------------------------


@dataclass(frozen=True)
class JensenShannon:
    """The Jensen-Shannon divergence by a critic c(z), in nats: a lower bound, tight at the best critic log p(z) / q(z).

        1/2 E log s(c(y)) + 1/2 E log s(-c(z)) + log 2,   y ~ p(z), z ~ q(z), s the logistic function

    Raises
    ------
    ConfigError
        On a call: the model has no critic; codes or a prior as for `MMD`.

    Notes
    -----
    The critic is a network of the model, the parameter group "critic", the only one that ascends this quantity; all other
    groups descend it, through the draws. rates="critic=2" gives the critic twice the learning rate. Sources: Goodfellow et
    al. (2014), eq. 3; Zhao, Song and Ermon (2017), section 3.2; Makhzani et al. (2016) for codes.

    Examples
    --------
    >>> model = gvae.models.VAE(4, latent=2, posterior="diagonal", hidden=(3,), critic=(5,))
    >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> params, noise = model.init(gvae.random.key(0)), model.noise(gvae.random.key(1), batch)
    >>> found = gvae.objectives.JensenShannon()(model.terms(params, {}, batch, noise))
    >>> bool(found < np.log(2))
    True
    """

    least_rows: ClassVar[int] = 1  # a mean over rows

    def __call__(self, terms: Terms, weight: Array = None, stopped: bool = False) -> Any:
        layers = drawn(terms)
        if terms.critic is None:
            raise ConfigError("info: divergence=js needs a critic, and the model has none: give widths, critic=(100, 100)")
        under_p = terms.critic(from_prior(layers, stopped))
        under_q = terms.critic(joined(layers, stopped))
        # log s(c) = -softplus(-c)
        each = elementwise.add(elementwise.softplus(elementwise.negative(under_p)), elementwise.softplus(under_q))
        return -0.5 * mean_draws(each, weight) + math.log(2)


# ---- the objective -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Info:
    """E log p(x|z) - (1 - alpha) KL - (alpha + lambda - 1) D(q(z) ‖ p(z)), with D of all rows of a batch together.

    A call returns (value, metrics) for `Terms`; metrics are "bound" (the ELBO), "log_likelihood" and "kl", in mean nats per
    row, "objective" (what is maximised) and "divergence" (D).

    Parameters
    ----------
    alpha : float, default 1.0
        At most 1: nats of I(x; z) that are given back.
    lambda_ : float or "balance", default 1000.0
        The weight of the marginals' mismatch. "balance": the ratio |E log p(x|z)| / |D| of the step, as a constant.
    divergence : Divergence, default MMD()
    warmup : int, default 0
        Steps over which the weights of the KL and of D grow from 0 to 1.

    Raises
    ------
    ConfigError
        alpha above 1, or alpha + lambda below 1. On a call: a model of y given x, or with a cost of its own; what the
        divergence raises.

    Notes
    -----
    alpha = 0, lambda = 1 is the ELBO, and alpha + lambda = 1 the cost `elbo:beta=1-alpha`: both have no term of D, which is
    reported all the same. With alpha = 1, D is the only penalty (MMD-VAE).

    With "balance" the weight of D is large where its estimate is near 0, as that of MMD is once q(z) is close to p(z): steps
    are then along the noise of D. The term of D in the objective is E log p(x|z) itself, with D's sign; its value does
    not measure progress, for patience or a schedule.

    Source: Zhao, Song and Ermon (2017), eq. 6.

    Examples
    --------
    >>> info = gvae.objectives.parse("info:alpha=1,lambda=10")
    >>> q = gvae.distributions.DiagonalGaussian(np.array([[0.5, 0.0], [-0.5, 0.0]]), np.zeros((2, 2)))
    >>> eps = np.array([[[1.0, -1.0], [0.0, 0.5]]])
    >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
    >>> value, metrics = info(gvae.objectives.Terms({"x": np.array([[-1.0, -2.0]])}, [layer]))
    >>> sorted(metrics)
    ['bound', 'divergence', 'kl', 'log_likelihood', 'objective']
    >>> np.isclose(value, metrics["log_likelihood"] - 10 * metrics["divergence"])
    np.True_
    """

    pure: ClassVar[bool] = True
    separable: ClassVar[bool] = False
    alpha: float = 1.0
    lambda_: float | str = 1000.0
    divergence: Divergence = MMD()
    warmup: int = 0

    def __post_init__(self) -> None:
        if not -math.inf < self.alpha <= 1:
            raise ConfigError(f"info: alpha is {self.alpha!r}, expected a number of at most 1: the KL would be rewarded")
        if isinstance(self.lambda_, str):
            if self.lambda_ != BALANCE:
                raise ConfigError(f"info: lambda is {self.lambda_!r}, expected a number or {BALANCE}")
        elif not -TINY <= self.alpha + self.lambda_ - 1 < math.inf:
            raise ConfigError(
                f"info: alpha + lambda is {self.alpha + self.lambda_:g}, expected a number of at least 1: below, the "
                "divergence would be rewarded"
            )

    @property
    def least_rows(self) -> int:
        """The fewest rows that a batch may have: two for MMD. A last batch of fewer is left out of its epoch.

        Examples
        --------
        >>> gvae.objectives.Info().least_rows
        2
        """
        return getattr(self.divergence, "least_rows", 1)

    def __call__(self, terms: Terms, step: int = 0, weight: Array = None) -> tuple[Any, dict[str, Any]]:
        if terms.conditional or terms.cost is not None:
            raise ConfigError("info: it is for models of x with their KL; this one explains y given x, or has another cost")
        if terms.penalty is not None:
            raise ConfigError(
                "info: this model subtracts a penalty from its bound, which the ELBO alone takes: objective='elbo'"
            )
        drawn(terms)  # refuses codes of other kinds by name
        # 1 - 0.7 is not the double 0.3: rounded, the cost is that of the decimal text
        value, metrics = ELBO(warmup=self.warmup, cost=Beta(round(1 - self.alpha, 15)))(terms, step, weight)
        none = not isinstance(self.lambda_, str) and self.alpha + self.lambda_ - 1 < TINY
        divergence = self.divergence(terms, weight, stopped=none)
        if not none:
            paid = elementwise.multiply(divergence, self._weight(metrics["log_likelihood"], divergence))
            if self.warmup:
                paid = elementwise.multiply(paid, warm(self.warmup, step))
            objective = elementwise.subtract(value[REST] if isinstance(value, dict) else value, paid)
            value = value | {REST: objective} if isinstance(value, dict) else objective
            metrics = metrics | {"objective": objective}
        metrics = metrics | {"divergence": divergence}
        return by_group(value, {CRITIC: divergence} if isinstance(self.divergence, JensenShannon) else {}), metrics

    def _weight(self, likelihood: Any, divergence: Any) -> Any:
        """The weight of D: alpha + lambda - 1."""
        if not isinstance(self.lambda_, str):
            return self.alpha + self.lambda_ - 1
        size = elementwise.maximum(elementwise.abs(stop_gradient(divergence)), TINY)
        ratio = elementwise.divide(elementwise.abs(stop_gradient(likelihood)), size)
        return elementwise.maximum(elementwise.add(ratio, self.alpha - 1), 0.0)
