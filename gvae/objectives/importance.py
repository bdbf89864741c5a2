"""Bounds of several importance-weighted draws, and the estimators of their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gvae import bounds
from gvae.autodiff import stop_gradient
from gvae.bounds import Bound
from gvae.errors import ConfigError
from gvae.objectives.means import mean_draws, mean_rows, warm
from gvae.objectives.score import less_the_others, score_function
from gvae.objectives.terms import REST, Terms, added, by_group
from gvae.ops import arrays, elementwise
from gvae.typing import Array

__all__ = ["GRADIENTS", "ImportanceWeighted"]

GRADIENTS = ("reparameterized", "stl", "dreg", "vimco", "rws", "rws_dreg")


@dataclass(frozen=True)
class ImportanceWeighted:
    """The bound E bound(l) of importance-weighted draws, l_k = log p(x, z_k) - log q(z_k | x); by default that of IWAE.

    A call returns (value, metrics) for `Terms` of K samples; metrics are "bound", "log_likelihood" and "kl", in mean nats
    per row.

    Parameters
    ----------
    bound : Bound, default IWAE
        See `gvae.bounds`; with K = 1 every one of them is ELBO's estimator A.
    gradient : str, default "reparameterized"
        The estimator of the gradient with respect to q's parameters phi, see Notes.
    inference_bound : Bound, optional
        The bound that phi ascends, where it differs from the one that the model's parameters ascend (PIWAE).
    warmup : int, default 0
        Steps over which the weight of log q - log p grows, as in `ELBO`.

    Raises
    ------
    ConfigError
        On a call: an unknown gradient, or one that does not suit the layers; a model with a cost of its codes; a model that
        defines its log-weights, with a warm-up or another gradient than "reparameterized".

    Notes
    -----
    With w_k = d bound / d l_k, "path" = the derivative of l_k only through the draw z_k, "score" = grad_phi log q(z_k | x),
    the estimators of grad_phi are

        reparameterized   sum w_k (path - score), what the chain rule gives
        stl               sum w_k path; unbiased for bounds.Mean and for K = 1 only; no variance where q is the posterior
        dreg              sum (w_k - d w_k / d l_k) path: for IWAE sum w̃_k² path; unbiased
        vimco             sum (bound - bound without k - w_k) score, for draws that may be discrete; unbiased; K >= 2
        rws               sum w_k score, of wake-sleep's wake phase: not the bound's gradient; descends KL(posterior ‖ q)
        rws_dreg          sum (d w_k / d l_k) path, which has the same mean as rws

    For "reparameterized", layers whose draws are not differentiable use vimco's term; a surrogate derivative counts as
    one there and for stl.

    Sources: Burda, Grosse and Salakhutdinov (2016), eqs. 8 and 14; Roeder, Wu and Duvenaud (2017); Tucker, Lawson, Gu and
    Maddison (2019), eqs. 8 and 10; Mnih and Rezende (2016), eq. 9; Bornschein and Bengio (2015). That dreg holds for any
    bound: E[w_k score] = E[(d w_k / d l_k) path], by the reparameterization of a single draw with the others fixed.

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
    >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
    >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
    >>> terms = gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]])}, [layer])
    >>> terms.log_weights.ravel()
    array([-1.25, -2.5 ])
    >>> value, metrics = gvae.objectives.ImportanceWeighted()(terms)
    >>> value.round(4), np.log(np.exp(terms.log_weights).mean()).round(4)
    (np.float64(-1.6912), np.float64(-1.6912))
    """

    pure: ClassVar[bool] = True
    bound: Bound = bounds.IWAE
    gradient: str = "reparameterized"
    inference_bound: Bound | None = None
    warmup: int = 0

    def __call__(self, terms: Terms, step: int = 0, weight: Array = None) -> tuple[Any, dict[str, Any]]:
        self._check(terms)
        if terms.penalty is not None:
            raise ConfigError("this model subtracts a penalty from its bound, which the ELBO alone takes: objective='elbo'")
        if terms.cost is not None:
            raise ConfigError(
                f"the codes of this model have a cost, {terms.cost}, which the ELBO alone takes: objective='elbo'"
            )
        if terms.weights is not None and (self.gradient != "reparameterized" or self.warmup):
            setting = f"warmup {self.warmup}" if self.warmup else f"gradient {self.gradient!r}"
            raise ConfigError(f"{setting}: it is for weights p(x, z) / q(z|x), and the model defines its own")
        path = self.gradient in ("stl", "dreg", "rws_dreg")
        penalty = added(
            [
                layer.of_each_row(elementwise.subtract(layer.log_q_along_path if path else layer.log_q, layer.log_p))
                for layer in terms.layers
            ]
        )
        beta = warm(self.warmup, step)
        if terms.weights is not None:
            log_weights = terms.weights
        else:
            log_weights = elementwise.subtract(terms.total_log_likelihood, beta * penalty if self.warmup else penalty)
        value = bound = mean_rows(self.bound(log_weights), weight)
        warmed = {}
        if self.warmup:  # what is ascended is no bound until it is over
            warmed["objective"] = value
            bound = mean_rows(self.bound(elementwise.subtract(terms.total_log_likelihood, penalty)), weight)
        likelihood = mean_draws(terms.total_log_likelihood, weight)
        kl = mean_draws(penalty, weight)
        if self.inference_bound is not None or self.gradient not in ("reparameterized", "stl"):
            ascent = mean_rows(self._inference(terms, log_weights, beta), weight)
            value = {REST: value} | dict.fromkeys(terms.inference, ascent)
        elif any(layer.q.path is None for layer in terms.layers):
            value = value + mean_rows(arrays.sum(self._score(terms, log_weights), axis=0), weight)
        metrics = {"bound": bound, "log_likelihood": likelihood, "kl": kl} | warmed
        return by_group(value, terms.auxiliary), metrics | terms.figures

    def _inference(self, terms: Terms, log_weights: Array, beta: Any) -> Any:
        """The quantity that phi ascends, (B,)."""
        bound = self.bound if self.inference_bound is None else self.inference_bound
        constant = stop_gradient(log_weights)
        if self.gradient in ("reparameterized", "stl"):
            value = bound(log_weights)
            score = self._score(terms, log_weights)
            return value if score is None else value + arrays.sum(score, axis=0)
        if self.gradient == "dreg":
            share, along = bound.weights(constant) - beta * bound.curvature(constant), log_weights
        elif self.gradient == "rws_dreg":
            share, along = bound.curvature(constant), log_weights
        else:
            share, along = bound.weights(constant), added([layer.log_q_of_score for layer in terms.layers])
            if self.gradient == "vimco":
                share = bound(constant) - bounds.leave_one_out(bound, constant) - beta * share
        return arrays.sum(elementwise.multiply(stop_gradient(share), along), axis=0)

    def _score(self, terms: Terms, log_weights: Array) -> Any:
        bound = self.bound if self.inference_bound is None else self.inference_bound

        def signal() -> Any:
            constant = stop_gradient(log_weights)
            if constant.shape[0] == 1:
                return less_the_others(constant)
            return bound(constant) - bounds.leave_one_out(bound, constant)

        return score_function([layer for layer in terms.layers if layer.q.path is None], signal)

    def _check(self, terms: Terms) -> None:
        if self.gradient not in GRADIENTS:
            raise ConfigError(f"unknown gradient {self.gradient!r}; known are {', '.join(GRADIENTS)}")
        if any(layer.baseline is not None for layer in terms.layers):
            raise ConfigError("a learned baseline is for the elbo; bounds of several draws have one of their own (vimco)")
        for layer in terms.layers:
            if layer.of_all_rows:
                what = f"the layer {layer.name!r}" if layer.name else "weights that are drawn"
                raise ConfigError(f"bounds of several draws are of each row, and all rows share {what}: objective='elbo'")
        if terms.entangled and (self.gradient not in ("reparameterized", "stl") or self.inference_bound is not None):
            raise ConfigError(
                f"gradient {self.gradient!r} treats the parameters of q separately, and here those of the generative model "
                "take part in q: use gradient='reparameterized', or share=False"
            )
        if self.gradient == "reparameterized":
            return
        if terms.joint and self.gradient not in ("stl", "rws"):
            raise ConfigError(
                f"gradient {self.gradient!r}: it takes the weights of a row for functions of its own draws, but in a step "
                "of this model they depend on those of all rows, by batch normalisation: expected 'reparameterized' or 'stl'"
            )
        drawn = [layer for layer in terms.layers if layer.z is not None]
        if len(drawn) > 1 and any(layer.again is None for layer in drawn):
            raise ConfigError(f"gradient {self.gradient!r}: each layer of a model of several needs `again`, see Layer")
        if self.gradient in ("stl", "dreg", "rws_dreg"):
            for layer in drawn:
                if layer.q.path is None or (layer.q.path != "exact" and self.gradient != "stl"):
                    what = "are not differentiable" if layer.q.path is None else "have only a surrogate derivative"
                    name = type(layer.q).__name__
                    raise ConfigError(f"gradient {self.gradient!r}: draws from a {name} {what}; use vimco or rws")
