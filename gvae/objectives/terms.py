"""The terms that a model reports for a batch: log-likelihoods and stochastic layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from gvae.autodiff import stop_gradient
from gvae.costs import Cost
from gvae.distributions import Distribution
from gvae.ops import elementwise

__all__ = ["REST", "Blanket", "Layer", "Objective", "Terms", "added", "by_group", "total"]

REST = "*"  # in an objective's value: the parameter groups that no other key names


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

    Parameters
    ----------
    q : Distribution
    p : Distribution or None
        None: the standard one, `q.standard`.
    z : array (K, B, n) or None
        K draws for each of B rows; None for a term of the bound that does not depend on a draw.
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
        What a network of the parameter group "baseline" predicts of the bound's terms, for draws that have no path. It may
        depend on the data and on the draws that q is conditioned on.

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
    noise: Any = None
    coupled: bool = False
    again: Callable[[Callable, Callable], Distribution] | None = None
    name: str = ""
    blanket: Callable[[], Blanket] | None = None
    baseline: Any = None

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
    likelihood_at : callable, optional
        Maps a list of other draws, one for each layer in their order, to log p(views | z), (K, B). None: not available.
    events : list of dict, optional
        Events that the model or the objective reports: training logs each of them once.

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
    likelihood_at: Callable[[list[Any]], Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

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
            found = elementwise.subtract(found, elementwise.subtract(cast(layer.log_q), cast(layer.log_p)))
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


def by_group(value: Any, auxiliary: Mapping[str, Any]) -> Any:
    """An objective's value, with what further parameter groups ascend: unchanged if there are none."""
    if not auxiliary:
        return value
    return (value if isinstance(value, dict) else {REST: value}) | dict(auxiliary)


class Objective(Protocol):
    """The protocol of objectives, which training maximises: a callable objective(terms, step, weight) -> (value, metrics).

    The value is a scalar, or a dict of scalars by parameter group. The metrics are by name, in mean nats per row.

    An optional method arrange(noise, codes) returns the noise of a step where its draws must not be independent: `codes` are
    the names of the codes' noise, from the data upwards.

    Examples
    --------
    >>> def reconstruction(terms, step=0, weight=None):
    ...     value = terms.total_log_likelihood.mean()
    ...     return value, {"bound": value}
    >>> reconstruction(gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]])}, []))
    (np.float64(-1.5), {'bound': np.float64(-1.5)})
    """

    def __call__(self, terms: Terms, step: int = 0, weight: Any = None) -> tuple[Any, dict[str, Any]]: ...


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

    Examples
    --------
    >>> gvae.objectives.total({"x": np.array([[-1.0], [-2.0]]), "y": np.array([[-0.5], [-0.5]])})
    array([[-1.5],
           [-2.5]])
    """
    return added(list(log_likelihood.values()))


def added(parts: list[Any]) -> Any:
    """The sum of at least one array."""
    first, *others = parts
    for part in others:
        first = first + part
    return first
