"""The terms that a model reports for a batch: log-likelihoods and stochastic layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from gvae.autodiff import stop_gradient
from gvae.costs import Cost
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.ops import elementwise
from gvae.typing import Array, Noise

__all__ = ["REST", "SHARED", "Blanket", "Layer", "Objective", "Terms", "added", "by_group", "noise_of_rows", "total"]

REST = "*"  # in an objective's value: the parameter groups that no other key names
SHARED = "all."  # the names of noise without an axis of rows begin with it


@dataclass(frozen=True)
class Blanket:
    """The terms of the bound that depend on each unit of a layer's draw, apart from the layer's own log q and log p.

    Arrays are (K, B), or (K, B, n) where the units of the draw enter different terms, in nats.

    Parameters
    ----------
    likelihood : array or float, default 0.0
        Log-likelihoods of views.
    prior : array or float, default 0.0
        log p of other layers, which is conditioned on the draw.
    layers : tuple of Layer, default ()
        Layers whose q is conditioned on the draw, itself or through other draws: all of log q - log p depends on it.

    Notes
    -----
    For a layer that all rows share, `likelihood` and `prior` are means over the rows of the batch, weighted as the rows are:
    (K,), or (K, n).

    Examples
    --------
    >>> model = gvae.models.SBN(4, latent=(3, 2))
    >>> batch = gvae.data.Batch({"x": np.eye(4, dtype=np.float32)}, np.arange(4))
    >>> params, noise = model.init(gvae.random.key(0)), model.noise(gvae.random.key(1), batch)
    >>> first, second = model.terms(params, {}, batch, noise).layers
    >>> first.blanket().layers == (second,), np.array_equal(second.blanket().prior, first.log_p)
    (True, True)
    """

    likelihood: Any = 0.0
    prior: Any = 0.0
    layers: tuple[Layer, ...] = ()


@dataclass(eq=False)
class Layer:
    """A stochastic layer: its posterior q, its prior p and the draw z from q.

    A layer that all rows share, such as weights with a posterior, has a `share`: its q and p have no batch axis, its draws
    are (K, n), its log q and log p (K,), and each row is charged that share of them.

    Parameters
    ----------
    q : Distribution
    p : Distribution or None
        None: the standard one, `q.standard`.
    z : array (K, B, n) or None
        K draws for each of B rows, or (K, n) for all of them; None for a term of the bound that does not depend on a draw.
    noise : array, optional
        The noise from which z was computed; None if z was not drawn by `q.sample`.
    coupled : bool, default False
        Whether p is conditioned on draws that depend on z, as p(z1|z2) is where z2 ~ q(z2|z1). KL(q ‖ p) is then not a term
        of the bound: E log q(z)/p(z) is over both draws.
    again : callable, optional
        again(f, g) returns q with f applied to the parameters of its network, and g to the draws of other layers that it is
        conditioned on. A model of several layers sets it for each, so that derivatives can be restricted to one of these
        paths.
    name : str, default ""
        For messages.
    blanket : callable, optional
        blanket() returns the terms that depend on the draw, as a `Blanket`, for gradient="local".
    baseline : array (B,) or (K, B), optional
        What a network of the parameter group "baseline" predicts of the bound's terms, for draws that are not
        differentiable. It may depend on the data and on the draws that q is conditioned on.
    share : float, optional
        The part of a shared layer that is charged to each row: 1 / N for N rows of training data.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
    >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
    >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
    >>> layer.z.shape
    (2, 1, 2)
    >>> layer.kl, (layer.log_q - layer.log_p).mean()  # in closed form; by sampling
    (array([0.25]), np.float64(0.375))
    """

    q: Distribution
    p: Distribution | None
    z: Any
    noise: Noise | None = None
    coupled: bool = False
    again: Callable[[Callable, Callable], Distribution] | None = None
    name: str = ""
    blanket: Callable[[], Blanket] | None = None
    baseline: Any = None
    share: float | None = None

    @property
    def of_all_rows(self) -> bool:
        """Whether it is drawn for all rows together, such as weights with a posterior.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.full(2, 0.5), np.zeros(2))
        >>> gvae.objectives.Layer(q, None, q.sample(np.zeros((3, 2))), np.zeros((3, 2)), share=1 / 100).of_all_rows
        True
        """
        return self.share is not None and self.z is not None

    def of_each_row(self, nats: Any) -> Any:
        """What each row is charged of a term of the layer, such as log q or the KL.

        Parameters
        ----------
        nats : array (B,) or (K, B); () or (K,) for a shared layer

        Returns
        -------
        array
            The argument itself; for a shared layer its share, () or (K, 1).

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.full(2, 0.5), np.zeros(2))
        >>> layer = gvae.objectives.Layer(q, None, q.sample(np.zeros((3, 2))), np.zeros((3, 2)), share=1 / 100)
        >>> layer.kl, layer.of_each_row(layer.kl), layer.of_each_row(layer.log_q).shape
        (np.float64(0.25), np.float64(0.0025), (3, 1))
        """
        if self.share is None:
            return nats
        part = elementwise.multiply(nats, self.share)
        return part[..., None] if len(part.shape) == 1 else part

    @cached_property
    def log_q(self) -> Any:
        """log q(z), (K, B), in nats.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
        >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
        >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        >>> layer.log_q.round(3)
        array([[-2.838],
               [-1.963]])
        """
        if self.q.reparameterized and self.noise is not None:
            return self.q.log_prob_of_draw(self.noise, self.z)
        return self.q.log_prob(self.z)

    @cached_property
    def log_q_along_path(self) -> Any:
        """log q(z), (K, B), with q's parameters constant: derivatives pass through the draws only.

        Examples
        --------
        >>> def f(mean):
        ...     q = gvae.distributions.DiagonalGaussian(mean, np.zeros((1, 2)))
        ...     layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        ...     return layer.log_q_along_path.sum()
        >>> eps = np.array([[[1.0, -1.0]]])
        >>> gvae.autodiff.gradient(f, np.zeros((1, 2)))
        array([[-1.,  1.]])
        """
        q = self.q.stopped() if self.again is None else self.again(stop_gradient, _same)
        return q.log_prob(self.z)

    @cached_property
    def log_q_of_score(self) -> Any:
        """log q(z), (K, B), with all draws constant: derivatives pass through q's parameters only.

        Examples
        --------
        >>> def f(mean):
        ...     q = gvae.distributions.DiagonalGaussian(mean, np.zeros((1, 2)))
        ...     layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        ...     return layer.log_q_of_score.sum()
        >>> eps = np.array([[[1.0, -1.0]]])
        >>> gvae.autodiff.gradient(f, np.zeros((1, 2)))
        array([[ 1., -1.]])
        """
        q = self.q if self.again is None else self.again(_same, stop_gradient)
        return q.log_prob(stop_gradient(self.z))

    @cached_property
    def log_p(self) -> Any:
        """log p(z), (K, B), in nats.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
        >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
        >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        >>> layer.log_p.round(3)
        array([[-3.088],
               [-2.463]])
        """
        return (self.q.standard if self.p is None else self.p).log_prob(self.z)

    @cached_property
    def kl(self) -> Any:
        """KL(q ‖ p) in closed form, (B,) or (K, B), in nats; None where there is none, or where the layer is coupled.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
        >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
        >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        >>> layer.kl.round(3)
        array([0.25])
        """
        return None if self.coupled else self.q.kl(self.p)

    @cached_property
    def kl_by_probe(self) -> Any:
        """KL(q ‖ p), (K, B), in nats, with a random probe for the trace of q's covariance; None where that has no use.

        It is None, too, where the layer is coupled or has no noise.

        Examples
        --------
        >>> q = gvae.families.parse("chain", 3)(np.array([[0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.5, 0.5]]))
        >>> eps = gvae.random.normal(gvae.random.key(0), (1000, 1, 3), np.float64)
        >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        >>> layer.kl_by_probe.shape, layer.kl_by_probe.mean().round(1), layer.kl.round(1)
        ((1000, 1), np.float64(0.4), array([0.4]))
        """
        return None if self.coupled or self.noise is None else self.q.kl_by_probe(self.noise, self.p)


@dataclass
class Terms:
    """The terms of a bound that a model reports for a batch.

    Parameters
    ----------
    log_likelihood : mapping of str to array (K, B)
        log p(view | z) by view, in nats.
    layers : list of Layer
        The stochastic layers.
    extras : dict of str to object, optional
        Anything an objective or a log may use.
    state : dict of str to array, optional
        The model's new state (running statistics, baselines).
    inference : tuple of str, default ("encoder",)
        The parameter groups of q, which gradient estimators treat separately from those of the generative model.
    views : mapping of str to Distribution, optional
        p(view | z) by view, where a model has it as a distribution.
    weights : array (K, B), optional
        Log-weights of the draws, where the model defines them; None: log p(views, z) - log q(z | x).
    conditional : bool, default False
        Whether the model explains y given x: q is then a part of the model and not a posterior, and the bounded quantity is
        log p(y|x).
    cost : Cost, optional
        The cost of its codes that the model itself defines, see `gvae.costs`; None: their KL.
    entangled : bool, default False
        Whether parameters of the generative model take part in q, so that no estimator can treat the two separately.
    dream : callable, optional
        dream() returns log q(z | x), (K, B), of codes and views drawn from the model, both as constants; None where no
        dreams are drawn, as where rows are scored.
    unweighted : mapping of str to array (K, B), optional
        log p(view | z) by view, where `log_likelihood` has multiples of them: bounds are reported of these, see `ascended`.
    penalty : array (), optional
        Subtracted from what is ascended, but not from the bound. None: there is none.
    auxiliary : dict of str to array (), optional
        What parameter groups outside of the bound ascend.
    figures : dict of str to array (), optional
        Further metrics.
    likelihood_at : callable, optional
        Maps a list of other draws, one for each layer in their order, to log p(views | z), (K, B). None: not available.
    critic : callable, optional
        Maps codes (K, B, n), those of all layers joined, to numbers (K, B): a network of the parameter group "critic". None:
        the model has none.
    events : list of dict, optional
        Events that the model or the objective reports: training logs each of them once.
    joint : bool, default False
        Whether the terms of a row depend on the draws of the other rows, too, as they do in the training steps of a decoder
        with batch normalisation: estimators of gradients that take them for each row's own then raise ConfigError.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
    >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
    >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
    >>> terms = gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]])}, [layer])
    >>> terms.log_weights
    array([[-1.25],
           [-2.5 ]])
    >>> value, metrics = gvae.objectives.ELBO()(terms)
    >>> value
    np.float64(-1.75)
    """

    log_likelihood: Mapping[str, Any]
    layers: list[Layer]
    extras: dict[str, Any] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    inference: tuple[str, ...] = ("encoder",)
    views: Mapping[str, Distribution] = field(default_factory=dict)
    weights: Any = None
    conditional: bool = False
    cost: Cost | None = None
    entangled: bool = False
    dream: Callable[[], Any] | None = None
    unweighted: Mapping[str, Any] | None = None
    penalty: Any = None
    auxiliary: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    likelihood_at: Callable[[list[Any]], Any] | None = None
    critic: Callable[[Any], Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    joint: bool = False

    @cached_property
    def log_weights(self) -> Any:
        """Log-weights of the draws, (K, B), in nats: the mean of their exponentials estimates p(x), or p(y|x).

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
        >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
        >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        >>> terms = gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]])}, [layer])
        >>> terms.log_weights
        array([[-1.25],
               [-2.5 ]])
        """
        return self.weighed(_same)

    def weighed(self, cast: Callable[[Any], Any]) -> Any:
        """Log-weights of the draws, computed from parts that `cast` has converted.

        An evaluation adds in float64 the parts that a model computes in float32.

        Parameters
        ----------
        cast : callable
            Maps an array to an array, such as one of another dtype.

        Returns
        -------
        array (K, B)
            Nats.

        Examples
        --------
        >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
        >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
        >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
        >>> terms = gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]])}, [layer])
        >>> terms.weighed(lambda part: part.astype(np.float32)).dtype
        dtype('float32')
        """
        if self.weights is not None:
            return cast(self.weights)
        found = cast(self.total_log_likelihood)
        for layer in self.layers:
            found = elementwise.subtract(
                found, layer.of_each_row(elementwise.subtract(cast(layer.log_q), cast(layer.log_p)))
            )
        return found

    @cached_property
    def total_log_likelihood(self) -> Any:
        """The log-likelihood summed over the views, (K, B), in nats.

        Examples
        --------
        >>> terms = gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]]), "y": np.array([[-0.5], [-0.5]])}, [])
        >>> terms.total_log_likelihood
        array([[-1.5],
               [-2.5]])
        """
        return total(self.log_likelihood)


def noise_of_rows(noise: Noise, rows: Any) -> dict[str, Any]:
    """The noise of some rows of a batch.

    Parameters
    ----------
    noise : mapping of str to array (K, B, ...)
        As a model's `noise` draws it; noise of shared layers, whose names begin with "all.", has no axis of rows.
    rows : index
        Positions in the batch.

    Returns
    -------
    dict of str to array

    Examples
    --------
    >>> noise = {"z1": np.zeros((2, 4, 3)), "all.weights1": np.zeros((2, 5))}
    >>> {name: u.shape for name, u in gvae.objectives.noise_of_rows(noise, [0, 2]).items()}
    {'z1': (2, 2, 3), 'all.weights1': (2, 5)}
    """
    return {name: draws if name.startswith(SHARED) else draws[:, rows] for name, draws in noise.items()}


def by_group(value: Any, auxiliary: Mapping[str, Any]) -> Any:
    """An objective's value, with what further parameter groups ascend: unchanged if there are none."""
    if not auxiliary:
        return value
    return (value if isinstance(value, dict) else {REST: value}) | dict(auxiliary)


def ascended(objective: Objective, terms: Terms, step: int, weight: Array) -> tuple[Any, dict[str, Any]]:
    """The value and metrics of an objective. Where a model weights its views, "bound" and "log_likelihood" are reported
    without these weights, and "objective" is what they are with them."""
    value, metrics = objective(terms, step, weight)
    if terms.unweighted is None:
        return value, metrics
    plain = dataclasses.replace(terms, log_likelihood=terms.unweighted, unweighted=None, events=[])
    reported = objective(plain, step, weight)[1]
    return value, reported | {"objective": metrics.get("objective", metrics["bound"])}


class Objective(Protocol):
    """The protocol of objectives, which training maximises: a callable objective(terms, step, weight) -> (value, metrics).

    The value is a scalar, or a dict of scalars by parameter group. The metrics are by name, in mean nats per row.

    An optional method arrange(noise, codes) returns the noise of a step where its draws must not be independent: `codes` are
    the names of the codes' noise, from the data upwards.

    An optional attribute least_rows, above 1 where a term is of all rows of a batch together, is the fewest rows that a
    batch may have: training leaves out a last batch of fewer. An optional attribute separable is False where the objective
    is not a mean over rows for another reason: a batch cannot be cut into shards then.

    Examples
    --------
    >>> def reconstruction(terms, step=0, weight=None):
    ...     value = terms.total_log_likelihood.mean()
    ...     return value, {"bound": value}
    >>> reconstruction(gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]])}, []))
    (np.float64(-1.5), {'bound': np.float64(-1.5)})
    """

    def __call__(self, terms: Terms, step: int = 0, weight: Array = None) -> tuple[Any, dict[str, Any]]: ...


def _same(x: Any) -> Any:
    return x


def total(log_likelihood: Mapping[str, Any]) -> Any:
    """The sum of log-likelihoods over views.

    Parameters
    ----------
    log_likelihood : mapping of str to array (K, B)
        At least one view.

    Returns
    -------
    array (K, B)
        Nats.

    Raises
    ------
    ConfigError
        There is no view.

    Examples
    --------
    >>> gvae.objectives.total({"x": np.array([[-1.0], [-2.0]]), "y": np.array([[-0.5], [-0.5]])})
    array([[-1.5],
           [-2.5]])
    """
    return added(list(log_likelihood.values()))


def added(parts: list[Any]) -> Any:
    """The sum of at least one array; ConfigError if there is none."""
    if not parts:
        raise ConfigError("the model reports no terms of a bound: it has an objective of its own")
    first, *others = parts
    for part in others:
        first = first + part
    return first
