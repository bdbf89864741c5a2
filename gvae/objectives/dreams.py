"""Wake-sleep: the model learns from the data, and the posterior from the model's own dreams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gvae import bounds
from gvae.errors import ConfigError
from gvae.objectives.importance import ImportanceWeighted
from gvae.objectives.means import mean_draws
from gvae.objectives.terms import REST, Terms, by_group
from gvae.typing import Array

__all__ = ["WakeSleep"]


@dataclass(frozen=True)
class WakeSleep:
    """The wake-sleep algorithm.

        wake    the generative model ascends  E_{q(z|x)} log p(x, z)  on the data
        sleep   the posterior ascends  E_{p(z) p(x|z)} log q(z | x)  on draws from the model

    Both in one step, from the same parameters. The sleep phase needs no derivative of draws, and minimises
    KL(p(z|x) ‖ q(z|x)) on dreamed x, not the bound's KL(q ‖ p) on the data: no objective is common to both phases.

    Notes
    -----
    The metrics are those of `elbo_a`, with "sleep", the mean log q of dreams, in steps of training. Source: Hinton, Dayan,
    Frey and Neal (1995).

    Examples
    --------
    >>> gvae.objectives.parse("wake_sleep")
    WakeSleep()
    """

    pure: ClassVar[bool] = True
    dreams: ClassVar[bool] = True

    def __call__(self, terms: Terms, step: int = 0, weight: Array = None) -> tuple[Any, dict[str, Any]]:
        if terms.conditional or terms.cost is not None or terms.entangled:
            raise ConfigError(
                "wake_sleep: it is for models of x with their KL, in which q has parameters of its own; this one explains y "
                "given x, has another cost, or shares networks between q and p"
            )
        _, metrics = ImportanceWeighted(bounds.Mean())(terms, step, weight)
        bound = metrics["bound"]
        if terms.dream is None:  # rows are scored
            return by_group(bound, terms.auxiliary), metrics
        sleep = mean_draws(terms.dream(), weight)
        value = {REST: bound} | dict.fromkeys(terms.inference, sleep)
        return by_group(value, terms.auxiliary), metrics | {"sleep": sleep}
