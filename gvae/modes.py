"""Modes in which networks with normalised layers or dropout are evaluated.

Where rows are scored, a network takes its parameters as a plain mapping: normalised layers use the moments of the
population, which are stored with the weights as `statistics.LAYER.mean` and `.variance`, and nothing is dropped. In the
terms of a training step (`in_step`) the parameters are a `Training`: moments are those of the batch, and activations are
dropped by noise that was drawn ahead. `settled` computes the moments of the population under given weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gvae import random
from gvae.autodiff import value_of
from gvae.errors import ConfigError
from gvae.ops import elementwise
from gvae.ops.draws import keep
from gvae.runtime import device
from gvae.typing import Array, Arrays, Noise, Params

__all__ = ["DROPOUT", "STATISTICS", "Mode", "changed", "in_step", "settled", "with_statistics"]

STATISTICS = "statistics"  # the group of the moments, which no optimiser moves
DROPOUT = "dropout"  # names of noise begin with it


class Mode(Mapping[str, Any]):
    """Parameters by name, with what networks need besides them.

    Parameters
    ----------
    values : mapping of str to array
    """

    def __init__(self, values: Mapping[str, Any]):
        self.values_of = values

    def __getitem__(self, name: str) -> Any:
        return self.values_of[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)

    def like(self, values: Mapping[str, Any]) -> Mode:
        """Other values in the same mode."""
        raise NotImplementedError

    def moments(self, layer: str, h: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Mean and variance for a layer's sums h(); None: those of h() itself."""
        raise NotImplementedError

    def dropped(self, layer: str, y: Any, rate: float) -> Any:
        """The activations of a layer, of which a share `rate` may be dropped."""
        return y


class Training(Mode):
    """Parameters in a training step, with the noise of dropout."""

    def __init__(self, values: Mapping[str, Any], noise: Noise):
        super().__init__(values)
        self.noise = noise

    def like(self, values: Mapping[str, Any]) -> Mode:
        return Training(values, self.noise)

    def moments(self, layer: str, h: Callable[[], Any]) -> None:
        return None

    def dropped(self, layer: str, y: Any, rate: float) -> Any:
        u = self.noise.get(f"{DROPOUT}.{layer}")
        if u is None:
            raise ConfigError(
                f"dropout: the noise of a training step has no {DROPOUT}.{layer}: add what the model's "
                "masks(key, batch, samples) draws"
            )
        u = u.reshape(np.shape(y)) if u.size == np.size(y) else u  # (1, B, width), of rows, serves (K, B, width) of dreams
        return elementwise.multiply(y, keep(u, rate) * (1 / (1 - rate)))


class Settling(Mode):
    """Parameters in passes over a population, in which layers are settled one after the other: a layer's moments depend on
    those of the layers before it."""

    def __init__(self, values: Mapping[str, Any], known: Mapping[str, tuple[Any, Any]], once: bool):
        super().__init__(values)
        self.known, self.once = dict(known), once
        self.now: str | None = None  # the layer of these passes
        self.rows, self.mean, self.squares = 0, np.zeros(1), np.zeros(1)

    def like(self, values: Mapping[str, Any]) -> Mode:
        return _Within(values, self)

    def moments(self, layer: str, h: Callable[[], Any]) -> tuple[Any, Any]:
        if layer in self.known:
            return self.known[layer]
        value = value_of(h())
        rows = np.asarray(device.to_host(value), np.float64).reshape(-1, value.shape[-1])
        self.now = layer
        self._add(rows)
        if not self.once:
            raise _ReachedError
        self.settle(value)
        return self.known[layer]

    def _add(self, rows: np.ndarray) -> None:
        """Chan, Golub and LeVeque (1983)."""
        n, mean = len(rows), rows.mean(axis=0)
        total, difference = self.rows + n, mean - self.mean
        self.mean = self.mean + difference * (n / total)
        self.squares = self.squares + ((rows - mean) ** 2).sum(axis=0) + difference**2 * (self.rows * n / total)
        self.rows = total

    def settle(self, like: Array) -> None:
        """The layer's moments from what has been added up."""
        assert self.now is not None
        found = self.mean, self.squares / self.rows
        with np.errstate(all="ignore"):
            mean, variance = (device.namespace(like).asarray(x.astype(like.dtype)) for x in found)
        self.known[self.now] = mean, variance
        self.now, self.rows, self.mean, self.squares = None, 0, np.zeros(1), np.zeros(1)


class _Within(Mode):
    """Other values in the passes of a `Settling`, which adds up what is reached."""

    def __init__(self, values: Mapping[str, Any], settling: Settling):
        super().__init__(values)
        self.like, self.moments = settling.like, settling.moments  # type: ignore[method-assign]


class _ReachedError(Exception):
    """The layer that is being settled has been reached; what follows it is not needed."""


def in_step(params: Params, noise: Noise, step: Any) -> Mapping[str, Any]:
    """Parameters in the mode of a training step, or as they are where rows are scored.

    Parameters
    ----------
    params : mapping of str to array
    noise : mapping of str to array
        It has the noise of dropout, as the model's `masks` draws it.
    step : int or None
        None where rows are scored.

    Returns
    -------
    mapping of str to array

    Examples
    --------
    >>> mlp = gvae.nn.MLP("net", (2, 3, 1), normalize="batch")
    >>> params, x = mlp.init(gvae.random.key(0)), np.array([[1, 2], [3, 5]], np.float32)
    >>> np.array_equal(mlp(params, x), mlp(gvae.modes.in_step(params, {}, 0), x))
    False
    """
    return params if step is None or isinstance(params, Mode) else Training(params, noise)


def changed(params: Params, f: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Mapping[str, Any]:
    """f(parameters), in the mode of the parameters.

    Parameters
    ----------
    params : mapping of str to array
    f : callable
        Takes and returns a dict, as `gvae.autodiff.stop_gradient` does.

    Returns
    -------
    mapping of str to array

    Examples
    --------
    >>> params = gvae.modes.in_step({"a": 1.0}, {}, 0)
    >>> gvae.modes.changed(params, lambda values: {"a": 2.0})["a"]
    2.0
    """
    return params.like(f(dict(params))) if isinstance(params, Mode) else f(dict(params))


def with_statistics(params: Params) -> list[str]:
    """The layers whose moments are among the parameters.

    Parameters
    ----------
    params : mapping of str to array

    Returns
    -------
    list of str

    Examples
    --------
    >>> params = gvae.nn.MLP("net", (2, 3, 1), normalize="batch").init(gvae.random.key(0))
    >>> gvae.modes.with_statistics(params)
    ['net.0']
    """
    first, last = f"{STATISTICS}.", ".mean"
    return [name[len(first) : -len(last)] for name in params if name.startswith(first) and name.endswith(last)]


def settled(model: Any, params: Params, state: Arrays, batches: Callable[[], Iterable[Any]]) -> dict[str, Any]:
    """The moments of all normalised layers over a population, under given weights.

    Parameters
    ----------
    model : Model
    params : mapping of str to array
    state : mapping of str to array
    batches : callable
        Returns the batches of the population, the same in every call.

    Returns
    -------
    dict of str to array
        `statistics.LAYER.mean` and `.variance`, (width,) each.

    Notes
    -----
    One pass for each layer, up to that layer, since its moments depend on those of the layers before it; a single batch
    needs one pass in all. Codes are drawn once for each row. Sums are of float64.

    Examples
    --------
    >>> model = gvae.models.VAE(3, latent=2, hidden=(4,), normalize="batch")
    >>> params, table = model.init(gvae.random.key(0)), gvae.data.Table(gvae.random.uniform(gvae.random.key(1), (50, 3)))
    >>> found = gvae.modes.settled(model, params, {}, lambda: table.batches(gvae.random.key(0), 20))
    >>> h = table.x @ params["encoder.0.weight"]
    >>> np.allclose(found["statistics.encoder.0.mean"], h.mean(axis=0), atol=1e-6)
    True
    """
    layers, terms = with_statistics(params), getattr(model, "watch", model.terms)
    known: dict[str, tuple[Any, Any]] = {}
    once = len(list(itertools.islice(batches(), 2))) == 1
    while len(known) < len(layers):
        mode = Settling(params, known, once)
        for i, batch in enumerate(batches()):
            try:
                with np.errstate(all="ignore"):  # training says what is not finite
                    terms(mode, state, batch, model.noise(random.fold_in(random.key(0), i), batch))
            except _ReachedError:
                continue
        if mode.now is not None:
            mode.settle(params[f"{STATISTICS}.{mode.now}.mean"])
        if len(mode.known) == len(known):
            break  # the terms do not use the other layers
        known = mode.known
    return {
        f"{STATISTICS}.{layer}.{name}": value
        for layer, found in known.items()
        for name, value in zip(("mean", "variance"), found, strict=True)
    }
