"""Helpers that several models share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae.autodiff import value_of
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Family
from gvae.objectives import Layer
from gvae.ops import arrays, elementwise
from gvae.ops.banded import LOG_2PI
from gvae.runtime import device
from gvae.typing import Params

__all__ = [
    "Penalty",
    "each_layer",
    "known_observation",
    "network_widths",
    "numbers_of_layers",
    "plain_style",
    "price_of_weights",
    "shared_by",
    "style",
    "widths_of_layers",
    "zeros",
]


def zeros(n: int, dtype: DTypeLike, params: Params) -> Any:
    """n zeros on the device of the parameters."""
    like = value_of(next(iter(params.values()), None))
    return device.zeros(n, dtype, like) if device.is_cuda(like) else np.zeros(n, dtype)


class _Certain(Distribution):
    reparameterized = True


class Penalty(Layer):
    """A term of the bound that does not depend on a draw: it subtracts `value` nats from the bound of every row.

    Parameters
    ----------
    value : float or array (B,); array () if it is shared
    share : float, optional
        The part of KL(q(w) ‖ p(w)) of weights w, shared by all rows, that is charged to each row.
    drawn : bool, default False
        Whether the likelihood is of a draw of w.
    """

    def __init__(self, value: Any, share: float | None = None, drawn: bool = False):
        super().__init__(_Certain(), None, None, share=share)
        self._drawn = drawn
        self.log_q = self.log_q_along_path = self.kl = value
        self.log_p = self.log_q_of_score = 0 * value

    @property
    def of_all_rows(self) -> bool:
        return self._drawn


def price_of_weights(params: Params, names: Iterable[str], deviation: float) -> Any:
    """-log p(weights), in nats, of independent weights N(0, deviation²)."""
    total: Any = 0.0
    for name in names:
        w = params[name]
        total = total + 0.5 * arrays.sum(elementwise.square(w)) * deviation**-2
        total = total + math.prod(w.shape) * (0.5 * LOG_2PI + math.log(deviation))
    return total


def style(settings: Any) -> dict[str, Any]:
    """The settings that all networks of a model share, as `Conditional` takes them."""
    return {name: getattr(settings, name) for name in ("activation", "start", "normalize", "dropout")}


def plain_style(settings: Any) -> dict[str, Any]:
    """The settings that all networks of a model share, as `MLP` takes them."""
    return {name: value for name, value in style(settings).items() if name != "start"}


def shared_by(model: Any) -> int:
    """The number of rows that share the weights of a model whose bound depends on it. ConfigError unless it is positive."""
    n_rows = model.n_rows
    if not isinstance(n_rows, (int, np.integer)) or n_rows < 1:
        raise ConfigError(
            f"{type(model).__name__}: n_rows is {n_rows!r}, expected the number of rows that share the weights"
        )
    return int(n_rows)


def each_layer(name: str, value: Any, n: int) -> Sequence[Any]:
    """One value for each of n layers, from one for all or one for each: a family, or the widths of hidden layers.

    Raises ConfigError for a wrong number of values.
    """
    if isinstance(value, (str, Family)) or all(isinstance(width, (int, np.integer)) for width in value):
        return [value] * n
    if len(value) != n:
        raise ConfigError(f"{name} has {len(value)} entries, expected one for each of {n} layers")
    return value


def numbers_of_layers(latent: int | Sequence[int]) -> tuple[int, ...]:
    """Numbers of variables of each layer, from the data upwards; a single number is one layer."""
    return (latent,) if isinstance(latent, int) else tuple(latent)


def widths_of_layers(settings: Any, n: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Widths of the encoders' and of the decoders' hidden layers, for each of n layers of codes.

    Without `decoder_hidden` each decoder mirrors its encoder.
    """
    up = [tuple(widths) for widths in each_layer("hidden", settings.hidden, n)]
    if getattr(settings, "decoder_hidden", None) is None:
        return up, [widths[::-1] for widths in up]
    return up, [tuple(widths) for widths in each_layer("decoder_hidden", settings.decoder_hidden, n)]


def known_observation(observation: Any) -> Any:
    """The family of an observation model; "auto", where there are no data to choose by, is bernoulli."""
    return "bernoulli" if isinstance(observation, str) and observation == "auto" else observation


def critic_widths(settings: Any, n_codes: int) -> list[tuple[int, ...]]:
    """Widths of the critic of all codes, joined, which the setting `critic` asks for; [] without it."""
    return [] if settings.critic is None else [(n_codes, *settings.critic, 1)]


def network_widths(settings: Any, latents: Sequence[int], n_inputs: int) -> list[tuple[int, ...]]:
    """Widths of the encoders and decoders of codes from the data upwards, as far as families' texts tell: an under-estimate.

    Families are not parsed, as that may allocate tables of their size.
    """

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
