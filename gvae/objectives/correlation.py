"""The sum of the canonical correlations of two views, which is not a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gvae.errors import ConfigError
from gvae.objectives.terms import Terms
from gvae.typing import Array

__all__ = ["Correlation"]


@dataclass(frozen=True)
class Correlation:
    """The correlation of two views that a model reports in the extras of its terms, as "correlation": a scalar of a batch.

    A call returns (value, metrics). The metric is called "bound", so that training follows what is maximized; it is a
    sum of correlations, and not a bound.

    Raises
    ------
    ConfigError
        On a call: the model reports no correlation, or rows have weights.

    Notes
    -----
    It is a function of all rows of a batch together, not a mean over rows. Source: Andrew, Arora, Bilmes and Livescu
    (2013).

    Examples
    --------
    >>> terms = gvae.objectives.Terms({}, [], extras={"correlation": np.float64(1.5)})
    >>> gvae.objectives.Correlation()(terms)
    (np.float64(1.5), {'bound': np.float64(1.5)})
    """

    pure: ClassVar[bool] = True
    separable: ClassVar[bool] = False

    def __call__(self, terms: Terms, step: int = 0, weight: Array = None) -> tuple[Any, dict[str, Any]]:
        if "correlation" not in terms.extras:
            raise ConfigError("Correlation: the model reports no correlation of two views; expected one in Terms.extras")
        if weight is not None:
            raise ConfigError(
                "Correlation: rows have weights, which correlations of two views do not take: sample_weight=None"
            )
        value = terms.extras["correlation"]
        return value, {"bound": value}
