"""What several models share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gvae.distributions import Distribution
from gvae.objectives import Layer

__all__ = ["Penalty", "known_observation", "network_widths"]


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


def known_observation(observation: Any) -> Any:
    """The family of an observation model; "auto", where there are no data to look at, is bernoulli."""
    return "bernoulli" if isinstance(observation, str) and observation == "auto" else observation


def network_widths(settings: Any, latents: Sequence[int], n_inputs: int) -> list[tuple[int, ...]]:
    """Of the layers of encoders and decoders of codes from the data upwards, as far as texts tell: parsing a family may
    make tables of its size. An under-estimate."""

    def emitted(family: Any, n: int) -> int:
        name, _, number = family.partition(":") if isinstance(family, str) else ("", "", "")
        if name == "full":
            return n * n // 2
        return n * (1 + min(int(number), n if name == "band" else int(number))) if number.isdecimal() else n

    def each(value: Any) -> list[Any]:
        nested = isinstance(value, (list, tuple)) and value and not isinstance(value[0], int)
        return list(value) if nested else [value] * len(latents)

    hidden, posteriors = each(settings.hidden), each(settings.posterior)
    mirrored = [tuple(w)[::-1] for w in hidden] if settings.decoder_hidden is None else each(settings.decoder_hidden)
    networks: list[tuple[int, ...]] = []
    below = n_inputs
    for i, (n, posterior, up, down) in enumerate(zip(latents, posteriors, hidden, mirrored, strict=False)):
        networks.append((below, *up, emitted(posterior, n)))
        networks.append((n, *down, below if i else emitted(settings.observation, below)))
        below = n
    return networks
