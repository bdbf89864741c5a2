"""What codes cost: an objective ascends E log p(x|z) less a cost of the codes' KL, where the bound takes the KL itself.

D is the distortion -E log p(x|z) and R the rate, the KL of all layers that are drawn, in mean nats per row. A cost is any
callable

    cost(layers, penalty, mean) -> (paid, rows)

layers : those that are drawn           penalty : R of each row, (B,) or (K, B)
mean   : of such values over rows (and draws), weighted as the objective weighs rows; mean(values, by_unit=True) is that of
         (B, n) or (K, B, n) for each of n variables
paid   : what a row pays in the mean, a scalar Var; `rows` () -> what each row pays, up to a constant, (B,) or (K, B): the
signal of draws that have no path
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gvae.autodiff import stop_gradient
from gvae.errors import ConfigError
from gvae.ops import arrays, elementwise
from gvae.runtime import device

__all__ = ["Anchor", "Beta", "Cost", "FreeBits", "Target"]

Mean = Callable[..., Any]


class Cost(Protocol):
    """See above."""

    def __call__(self, layers: Sequence[Any], penalty: Any, mean: Mean) -> tuple[Any, Callable[[], Any]]: ...


@dataclass(frozen=True)
class Beta:
    """beta R. Source: Higgins et al. (2017), eq. 4; as a path through rate and distortion, Alemi et al. (2018)."""

    beta: float = 1.0

    def __call__(self, layers, penalty, mean):
        paid = elementwise.multiply(penalty, self.beta)
        return mean(paid), lambda: paid


@dataclass(frozen=True)
class Target:
    """weight |R - rate|, with R the batch's mean; by Jensen its expectation is at least that of the data's R.

    With weight 1 the kink can only raise R above the rate R* that the bound itself ends at: for R > rate the objective is
    D + R but for a constant. A lower target needs a weight above -dD/dR there. Source: Alemi et al. (2018), section 4.
    """

    rate: float
    weight: float = 1.0

    def __call__(self, layers, penalty, mean):
        off = elementwise.subtract(mean(penalty), self.rate)
        paid = elementwise.multiply(elementwise.abs(off), self.weight)

        def rows() -> Any:
            sign = elementwise.divide(off, elementwise.maximum(elementwise.abs(off), 1e-30))
            return elementwise.multiply(penalty, elementwise.multiply(stop_gradient(sign), self.weight))

        return paid, rows

    def remark(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """An event, if the rate of an epoch's row is off the target by a tenth."""
        rate = row["train_kl"]
        if abs(rate - self.rate) <= 0.1 * max(self.rate, 1e-2):
            return None
        return {"event": "off target", "rate": rate, "target": self.rate, "weight": self.weight}


@dataclass(frozen=True)
class FreeBits:
    """The sum over variables of max(KL of the variable in the batch's mean, free): the first nats of each cost nothing more.

    For independent posteriors. Source: Kingma et al. (2016), appendix C.8.
    """

    free: float

    def __call__(self, layers, penalty, mean):
        paid: Any = 0.0
        for layer in layers:
            each = mean(by_unit(layer, "free"), by_unit=True)
            paid = elementwise.add(paid, arrays.sum(elementwise.maximum(each, self.free)))
        return paid, lambda: penalty


@dataclass(frozen=True)
class Anchor:
    """R, of which some variables of the layer next to the data pay the share 1 - weight: what is ascended is
    E log p(x|z) - KL + weight sum_k KL_k, whose last term bounds weight sum_k I(z_k; x) from above.

    For independent posteriors. Source: Gao et al. (2019), eq. 14.
    """

    codes: tuple[int, ...]
    weight: float

    def __call__(self, layers, penalty, mean):
        units = by_unit(layers[0], "anchor")
        n = units.shape[-1]
        if max(self.codes) >= n:
            raise ConfigError(f"elbo: anchor names the code {max(self.codes)}, expected one from 0 to {n - 1}")
        share = np.zeros(n, units.dtype)
        share[list(self.codes)] = self.weight
        given = arrays.sum(elementwise.multiply(units, device.beside(share, units)), axis=-1)
        paid = elementwise.subtract(penalty, given)
        return mean(paid), lambda: paid


def by_unit(layer: Any, key: str) -> Any:
    """The KL of each variable of a layer, (B, n) or (K, B, n). Raises ConfigError for dependent ones."""
    units = None if layer.coupled else layer.q.kl_by_unit(layer.p)
    if units is None:
        why = "is coupled to another layer's draw" if layer.coupled else "is of variables that are not independent"
        raise ConfigError(f"elbo: {key} needs the KL of each variable; {type(layer.q).__name__} {why}: take diagonal")
    return units
