"""What several models share."""

from __future__ import annotations

from typing import Any

from gvae.distributions import Distribution
from gvae.objectives import Layer

__all__ = ["Penalty"]


class _Certain(Distribution):
    reparameterized = True


class Penalty(Layer):
    """A term of the bound that no draw decides: it takes `value` nats from every row, a scalar or (B,).

    With value = KL(q(w) ‖ p(w)) / N it is what N rows pay for weights w that all of them share; with 0, nothing.
    """

    def __init__(self, value: Any):
        super().__init__(_Certain(), None, None)
        self.log_q = self.log_q_along_path = self.kl = value
        self.log_p = self.log_q_of_score = 0 * value
