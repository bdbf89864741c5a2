"""The evidence lower bound, with the KL of its codes or a cost in place of the KL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gvae.costs import Beta, Cost
from gvae.errors import ConfigError
from gvae.objectives import score
from gvae.objectives.means import mean_draws, mean_units, warm
from gvae.objectives.second_order import HESSIAN, likelihood_by_hessian
from gvae.objectives.terms import REST, Layer, Terms, added, by_group
from gvae.ops import elementwise
from gvae.typing import Array, Noise

__all__ = ["DISARM", "ELBO", "LOCAL"]

LOCAL, DISARM = "local", "disarm"  # estimators of the gradient of draws that are not differentiable


@dataclass(frozen=True)
class ELBO:
    """The evidence lower bound.

    A call returns (value, metrics) for `Terms`; metrics are "bound", "log_likelihood" and "kl", in mean nats per row.

    Parameters
    ----------
    estimator : str, default "auto"
        "B": E log p(x|z) - KL, with the closed-form KL. "A": E [log p(x, z) - log q(z)], all of it by sampling. "auto": B
        for each layer that has a closed form, A for the others.
    warmup : int, default 0
        Steps over which the weight of the KL, or of its cost, grows from 0 to 1.
    cost : Cost, optional
        The cost of the codes in place of their KL, see `gvae.costs`. The maximised quantity is then reported as "objective"
        in addition to the bound.
    trace : str, default "exact"
        "exact", or "probe": the trace in the KL of a banded posterior to N(0, I) is estimated by random signs, without bias
        (see `gvae.ops.traces`, with its variance).
    gradient : str, default "reparameterized"
        The estimator of the gradient of q's parameters: "reparameterized", "local", "disarm" or "hessian", see Notes.

    Raises
    ------
    ConfigError
        On a call: "B" where a layer has no closed form; "probe" where a layer is not a banded posterior under N(0, I); a
        cost where the model defines one of its own or draws no codes; "hessian" and "disarm" for other codes than those in
        Notes; "local" with a cost other than `costs.Beta`.

    Notes
    -----
    gradient="reparameterized" differentiates through the draws; draws that are not differentiable use the score function of
    their layer, times the bound minus that of the row's other draws (with K = 1: of the other rows). For them, "local" uses,
    for each unit, the terms of the bound that depend on it (Rao-Blackwellization, see `Blanket`), and a layer without a
    blanket is named in the log. "disarm" is for bits that are independent given the draws below: K is a multiple of twice
    the number of layers, and the pair of a layer shares all noise but the layer's. A layer's learned baseline (NVIL) is
    subtracted from its signal; it ascends minus its squared error, as the parameter group "baseline".

    gradient="hessian" is for Gaussian codes in float64. With f = log p(x|z),

        d E f / d mean = E grad f,     d E f / d C = 1/2 E Hess f.

    The Hessian is by differences (`autodiff.hessian`): a tool for small models, and to measure variances by. It misses kinks
    of f, such as those of relu. Source: Rezende, Mohamed and Wierstra (2014).

    Sources of "local": Ranganath, Gerrish and Blei (2014); Mnih and Gregor (2014), who learn baselines; of "disarm": Dong,
    Mnih and Tucker (2020).

    Source of the bound: Kingma and Welling (2014), eqs. 6 (A) and 7 (B).

    Examples
    --------
    >>> q = gvae.distributions.DiagonalGaussian(np.full((1, 2), 0.5), np.zeros((1, 2)))
    >>> eps = np.array([[[1.0, -1.0]], [[0.0, 0.5]]])  # two draws for one row
    >>> layer = gvae.objectives.Layer(q, None, q.sample(eps), eps)
    >>> terms = gvae.objectives.Terms({"x": np.array([[-1.0], [-2.0]])}, [layer])
    >>> value, metrics = gvae.objectives.ELBO()(terms)
    >>> metrics["log_likelihood"], metrics["kl"], value
    (np.float64(-1.5), np.float64(0.25), np.float64(-1.75))
    >>> gvae.objectives.ELBO("A")(terms)[0]  # the KL by sampling
    np.float64(-1.875)
    """

    pure: ClassVar[bool] = True
    estimator: str = "auto"
    warmup: int = 0
    cost: Cost | None = None
    trace: str = "exact"
    gradient: str = "reparameterized"

    @property
    def separable(self) -> bool:
        """Whether it is a mean over rows: some costs are not.

        Examples
        --------
        >>> gvae.objectives.parse("elbo:beta=4").separable, gvae.objectives.parse("elbo:free=0.1").separable
        (True, False)
        """
        return getattr(self.cost, "separable", True)

    def __call__(self, terms: Terms, step: int = 0, weight: Array = None) -> tuple[Any, dict[str, Any]]:
        value, metrics = self._of_rows(terms, step, weight)
        if terms.penalty is not None:
            paid = value if isinstance(value, dict) else {REST: value}
            value = paid | {REST: elementwise.subtract(paid[REST], terms.penalty)}
            metrics = metrics | {
                "objective": elementwise.subtract(metrics.get("objective", metrics["bound"]), terms.penalty)
            }
        return by_group(value, terms.auxiliary), metrics | terms.figures

    def _of_rows(self, terms: Terms, step: int, weight: Array) -> tuple[Any, dict[str, Any]]:
        beta = warm(self.warmup, step)
        if self.cost is not None and terms.cost is not None:
            raise ConfigError(
                f"elbo: the codes of this model have a cost of their own, {terms.cost}; got {self.cost} as well"
            )
        cost = terms.cost if self.cost is None else self.cost
        if cost is None and terms.conditional:  # the bound has no KL, but the objective subtracts it
            cost = Beta()
        if cost is not None:
            return self._at_a_cost(cost, terms, beta, weight)
        penalty = added([self._divergence(layer) for layer in terms.layers])  # (B,) or (K, B)
        likelihood = mean_draws(terms.total_log_likelihood, weight)
        kl = mean_draws(penalty, weight)
        bound = elementwise.subtract(likelihood, kl)
        if self.gradient == HESSIAN:
            value = mean_draws(likelihood_by_hessian(terms), weight) - beta * kl
            return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl}
        value = bound if not self.warmup else likelihood - beta * kl
        value = self._with_score(value, terms, lambda: terms.total_log_likelihood - beta * penalty, (beta, beta), weight)
        return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl}

    def _at_a_cost(self, cost: Cost, terms: Terms, beta: Any, weight: Array) -> tuple[Any, dict[str, Any]]:
        drawn = [layer for layer in terms.layers if layer.z is not None and layer.share is None]
        if not drawn:
            raise ConfigError(f"elbo: the cost {cost} needs codes that are drawn, and this model draws none")
        penalty = added([self._divergence(layer) for layer in drawn])
        weights = [self._divergence(layer) for layer in terms.layers if layer not in drawn]
        fixed: Any = added(weights) if weights else 0.0  # what weights cost is not changed

        def mean(values: Any, by_unit: bool = False) -> Any:
            return mean_units(values, weight) if by_unit else mean_draws(values, weight)

        paid, rows = cost(drawn, penalty, mean)
        likelihood, kl = mean(terms.total_log_likelihood), mean(penalty)
        others = mean(fixed) if weights else 0.0
        bound = likelihood - others if terms.conditional else likelihood - kl - others
        value = objective = likelihood - beta * (paid + others)
        if self.gradient == LOCAL and not isinstance(cost, Beta):
            raise ConfigError(f"gradient 'local' weighs the KL of each unit, as beta does; got {cost}")
        prices = beta * cost.beta if isinstance(cost, Beta) else beta, beta
        value = self._with_score(value, terms, lambda: terms.total_log_likelihood - beta * (rows() + fixed), prices, weight)
        return value, {"bound": bound, "log_likelihood": likelihood, "kl": kl, "objective": objective}

    def _with_score(self, value: Any, terms: Terms, f: Callable[[], Any], prices: tuple[Any, Any], weight: Array) -> Any:
        """The value with the terms of the draws that are not differentiable, and with what other parameter groups ascend.

        f() : the objective of each row, (K, B)
        prices : the weight of the KL of the layers of rows, and of the layers that all rows share
        """
        layers = [layer for layer in terms.layers if layer.q.path is None]
        signals: list[tuple[Layer, Any]] = []  # of the layers that have their own
        if self.gradient == DISARM:
            for layer in (layer for layer in terms.layers if layer.z is not None and layer.share is None):
                if layer.q.path is not None:
                    raise ConfigError(
                        f"gradient 'disarm' is for draws without a derivative; those of a {type(layer.q).__name__} have one"
                    )
                if layer.baseline is not None:
                    raise ConfigError("gradient 'disarm' takes no learned baseline: baseline=None")
            return value + score.disarm(layers, f(), weight)
        plain = []
        for layer in layers:
            if self.gradient == LOCAL and layer.blanket is not None:
                signals.append((layer, score.local_signal(layer, prices, self._closed)))
            elif layer.baseline is not None:
                signals.append((layer, f()))
            else:
                if layer.share is None:
                    plain.append(layer)
                else:  # all rows depend on its draw
                    signals.append((layer, score.mean_of_rows(f(), weight)))
                if self.gradient == LOCAL:
                    terms.events.append({"event": "no blanket", "layer": layer.name or type(layer.q).__name__})
        common = score.score_function(plain, lambda: score.less_the_others(f()))
        for term in ([] if common is None else [common]) + [score.layer_score(*each) for each in signals]:
            value = value + mean_draws(term, weight)
        return by_group(value, score.errors_of_baselines(signals, weight))

    def arrange(self, noise: Noise, codes: Sequence[str]) -> Mapping[str, Any]:
        """The noise of a step, in pairs where gradient="disarm", see `Objective`.

        Parameters
        ----------
        noise : mapping of str to array (K, B, n)
        codes : sequence of str
            The names of the codes' noise, from the data upwards.

        Returns
        -------
        mapping of str to array

        Raises
        ------
        ConfigError
            K is not a multiple of twice the number of codes.

        Examples
        --------
        >>> noise = {"z1": np.array([[[0.2]], [[0.4]]])}
        >>> gvae.objectives.ELBO(gradient="disarm").arrange(noise, ["z1"])["z1"].ravel()
        array([0.2, 0.8])
        """
        return score.antithetic(noise, codes) if self.gradient == DISARM else noise

    def remark(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """An event about the last row of a training's log, if the cost reports one.

        Parameters
        ----------
        row : mapping of str to object
            The row, with "train_kl".

        Returns
        -------
        dict of str to object or None
            The event; None if there is nothing to report.

        Examples
        --------
        >>> elbo = gvae.objectives.parse("elbo:rate=16,weight=4")
        >>> elbo.remark({"train_kl": 10.0})
        {'event': 'off target', 'rate': 10.0, 'target': 16.0, 'weight': 4.0}
        >>> elbo.remark({"train_kl": 16.1}) is None
        True
        """
        look = getattr(self.cost, "remark", None)
        return None if look is None else look(row)

    def _divergence(self, layer: Layer) -> Any:
        """The KL of a layer, in closed form or by its draws, as charged to each row: (B,), (K, B), () or (K, 1)."""
        return layer.of_each_row(self._rate(layer))

    def _rate(self, layer: Layer) -> Any:
        if self.trace == "probe" and layer.z is not None:
            if layer.kl_by_probe is None:
                expected = "a banded posterior under N(0, I), such as chain, band:3 or extended_grid"
                raise ConfigError(f"elbo: trace=probe is for {expected}; got {type(layer.q).__name__}")
            return layer.kl_by_probe
        closed = self._closed(layer)
        if closed is None:
            if self.estimator == "B":
                why = "is coupled to another layer's draw" if layer.coupled else "has no closed form"
                p = "the standard" if layer.p is None else type(layer.p).__name__
                raise ConfigError(f"elbo_b: KL({type(layer.q).__name__} ‖ {p}) {why}")
            return elementwise.subtract(layer.log_q, layer.log_p)
        return closed

    def _closed(self, layer: Layer) -> Any:
        return layer.kl if self.estimator != "A" else None
