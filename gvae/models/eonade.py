"""EoNADE: one network for the conditional distributions of bits in every order, and an ensemble of orders.

    p_o(x) = prod_t Bernoulli(x_o(t); sigmoid(network([x m, m])_o(t))),   m: 1 for the bits o(1) .. o(t-1), else 0
    log p(x) = log mean of p_o(x) over R fixed orders o

A step shows the network a random part of each row, as large as the first t - 1 bits of a random order, and scores the
others: on average over parts this is the mean of log p_o(x) over all orders, at most the log of the mean of p_o(x) over
them. Sources: Uria,
Murray and Larochelle (2014).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gvae import random, settings
from gvae.autodiff import value_of
from gvae.data import Batch
from gvae.distributions.autoregressive import Sequential
from gvae.distributions.base import Conditionals
from gvae.errors import ConfigError
from gvae.families.others import log_odds
from gvae.models import vae
from gvae.models.density import Codeless
from gvae.models.parts import Penalty
from gvae.nn import MLP
from gvae.objectives import Terms
from gvae.ops import arrays, dense, elementwise
from gvae.runtime import device
from gvae.settings import Whole, restated, setting
from gvae.typing import Array, Arrays, Key, Noise, Params

__all__ = ["EoNADE"]

ORDERS = 1000  # the key of the fixed orders


@settings.group("model")
class Settings(settings.Settings):
    """Settings of an ensemble of orders."""

    hidden: tuple[int, ...] = restated(
        vae.Settings, "hidden", default=(500, 500), kw_only=False, help="widths of the network's hidden layers"
    )
    activation: str = restated(vae.Settings, "activation", default="relu")
    orders: int = setting(default=16, help="number of orders in the ensemble that scores and draws use", kind=Whole())
    output_bias: str = restated(
        vae.Settings, "output_bias", default="data", help="first bias of the last layer: zero, or the log-odds of the data"
    )


class EoNADE(Codeless):
    """A density of bits without a code, by one network for all orders.

    Parameters
    ----------
    sizes : int or mapping of str to int
    *settings : Settings or object
    dtype : dtype, default float32
    n_rows : int, default 0
    **given : object
        As for `Base`, with the settings of `gvae.EoNADE`.

    Examples
    --------
    >>> model = gvae.models.EoNADE(784, hidden=(500, 500), orders=4)
    >>> model.network.sizes, model.orders.shape
    ((1568, 500, 500, 784), (4, 784))
    """

    Settings = Settings
    pure = True

    def build(self, settings: Any) -> None:
        D, hidden = self.sizes["x"], tuple(settings.hidden)
        if not hidden:
            raise ConfigError("EoNADE: hidden is (), expected the widths of at least one hidden layer")
        self.network = MLP("network", (2 * D, *hidden, D), settings.activation)
        self.orders = np.array([random.permutation(random.key(ORDERS + r), D) for r in range(settings.orders)])
        self.emitters = {"x": self}  # type: ignore[dict-item]  # only `located` is needed of it

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return [(2 * sizes["x"], *settings.hidden, sizes["x"])]

    def init(self, key: Key) -> dict[str, np.ndarray]:
        """Initial parameters of the network.

        Parameters
        ----------
        key : array (4,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> params = gvae.models.EoNADE(4, hidden=(3,)).init(gvae.random.key(0))
        >>> {name: value.shape for name, value in params.items() if "weight" in name}
        {'network.0.weight': (8, 3), 'network.1.weight': (3, 4)}
        """
        return self.network.init(key, self.dtype)

    def located(self, params: Params, mean: np.ndarray) -> dict[str, np.ndarray]:
        """The last bias with which a network of no weights has the given mean.

        Parameters
        ----------
        params : mapping of str to array
        mean : array (n,)

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> model = gvae.models.EoNADE(2, hidden=(3,))
        >>> model.located(model.init(gvae.random.key(0)), np.array([0.5, 0.75]))["network.1.bias"].round(3)
        array([0.   , 1.099], dtype=float32)
        """
        name = f"network.{len(self.network.sizes) - 2}.bias"
        return {name: log_odds(mean).astype(params[name].dtype)}

    def noise(self, key: Key, batch: Batch, samples: int = 1) -> dict[str, np.ndarray]:
        """What decides the part of each row that is shown to the network.

        Parameters
        ----------
        key : array (4,)
        batch : Batch
        samples : int, default 1

        Returns
        -------
        dict of str to array
            "order" (K, B, D) and "position" (K, B, 1), uniform: shown are the bits with an order below the position.

        Examples
        --------
        >>> model, batch = gvae.models.EoNADE(2), gvae.data.Batch({"x": np.ones((3, 2), np.float32)}, np.arange(3))
        >>> {name: value.shape for name, value in model.noise(gvae.random.key(0), batch, samples=5).items()}
        {'order': (5, 3, 2), 'position': (5, 3, 1)}
        """
        shape, like = (samples, len(batch)), vars(batch).get("x")
        return {
            "order": random.uniform(random.fold_in(key, 0), (*shape, self.sizes["x"]), self.dtype, like),
            "position": random.uniform(random.fold_in(key, 1), (*shape, 1), self.dtype, like),
        }

    def terms(self, params: Params, state: Arrays, batch: Batch, noise: Noise, step: Any = None) -> Terms:
        """In training an unbiased estimate of the mean of log p_o(x) over all orders; where rows are scored, log p(x).

        Parameters
        ----------
        params, state : mapping of str to array
        batch : Batch
        noise : mapping of str to array
            As `noise` draws it.
        step : int, optional
            The number of a training step; None where rows are scored.

        Returns
        -------
        Terms
            See `gvae.objectives`.

        Notes
        -----
        With a threshold u ~ U(0, 1), the number of D uniform numbers below it is uniform in 0 .. D, and given this number
        any set of bits is as probable: the bits that a random order has before a random position, or all. The score of
        those that remain, times (D + 1) over their number, has the mean of log p_o(x).

        Examples
        --------
        >>> model, batch = gvae.models.EoNADE(2), gvae.data.Batch({"x": np.ones((3, 2), np.float32)}, np.arange(3))
        >>> model.terms(model.init(gvae.random.key(0)), {}, batch, {}).log_weights.shape
        (1, 3)
        """
        if step is not None:
            return self.watch(params, state, batch, noise)
        R, B = len(self.orders), len(batch)
        x = np.broadcast_to(device.to_host(value_of(batch.x)), (R, B, self.sizes["x"]))
        each = self._in_order(params, np.broadcast_to(np.arange(R)[:, None], (R, B))).log_prob(x)
        return self._reported(arrays.logsumexp(each, axis=0, keepdims=True) - float(np.log(R)), batch)

    def watch(self, params: Params, state: Arrays, batch: Batch, noise: Noise) -> Terms:
        # the estimate of a training step, which is cheap
        x, D = batch.x, self.sizes["x"]
        shown = (noise["order"] < noise["position"]).astype(self.dtype)
        a = self.network(params, arrays.concatenate([x * shown, shown], axis=-1))
        each = elementwise.subtract(elementwise.multiply(x, a), elementwise.softplus(a))
        left = 1 - shown
        weight = (D + 1) / np.maximum(left.sum(axis=-1), 1)
        found = arrays.sum(elementwise.multiply(each, left), axis=-1) * weight
        return self._reported(arrays.mean(found, axis=0, keepdims=True), batch)  # estimates, and no weights of draws

    def _reported(self, log_p: Array, batch: Batch) -> Terms:
        nothing = device.zeros(len(batch), self.dtype, batch.x)
        return Terms({"x": log_p}, [Penalty(nothing)], inference=())

    def decode(self, params: Params, state: Arrays, z: Arrays, noise: Noise | None = None) -> dict[str, Any]:
        """The distribution of the data in given orders.

        Parameters
        ----------
        params, state : mapping of str to array
        z : mapping of str to array
            "order" (..., 1): indices of orders.
        noise : mapping of str to array, optional
            Not used.

        Returns
        -------
        dict of str to Distribution
            "x".

        Examples
        --------
        >>> model = gvae.models.EoNADE(2, hidden=(3,))
        >>> params = model.init(gvae.random.key(0))
        >>> model.decode(params, {}, model.sample_prior(params, gvae.random.key(1), 5))
        {'x': BitsInOrder(batch_shape=(5,), n=2)}
        """
        return {"x": self._in_order(params, np.asarray(device.to_host(z["order"]))[..., 0].astype(np.int64))}

    def sample_prior(self, params: Params, key: Key, n: int) -> dict[str, Any]:
        """n orders of the ensemble.

        Parameters
        ----------
        params : mapping of str to array
        key : array (4,)
        n : int

        Returns
        -------
        dict of str to array
            "order", (n, 1): their indices.

        Examples
        --------
        >>> gvae.models.EoNADE(2, orders=4).sample_prior({}, gvae.random.key(0), 5)["order"].ravel()
        array([1., 3., 2., 2., 3.], dtype=float32)
        """
        return {"order": np.floor(random.uniform(key, (n, 1), self.dtype) * len(self.orders))}

    def _in_order(self, params: Params, which: np.ndarray) -> BitsInOrder:
        host = {name: np.asarray(device.to_host(value_of(value))) for name, value in params.items()}
        return BitsInOrder(self.network, host, self.orders[which])


class BitsInOrder(Sequential):
    """Bits whose conditional distributions one network gives, each row in an order of its own. It has no derivatives.

    Parameters
    ----------
    network : MLP
        Maps [x m, m] to the logits.
    params : mapping of str to array
    orders : int array (..., n)
    """

    def __init__(self, network: MLP, params: Params, orders: np.ndarray):
        self.network, self.params, self.orders = network, params, orders
        self.bias = params[f"{network.name}.{len(network.sizes) - 2}.bias"]

    sequential = False  # its terms are in the order of the variables

    def _leads(self) -> tuple[tuple[int, ...], ...]:
        return (self.orders.shape[:-1],)

    def conditionals(self, x: np.ndarray) -> Conditionals:
        raise ConfigError("EoNADE: a mean over orders is not coded; see AutoregressiveDensity")

    def sample(self, noise: Array) -> Array:
        def drawn(place: Any, logits: np.ndarray) -> np.ndarray:
            return (u[place] < 1 / (1 + np.exp(-logits))).astype(u.dtype)

        u = np.broadcast_to(device.to_host(noise), np.broadcast_shapes(noise.shape, self.orders.shape))
        return self._scan(u.shape, drawn)[0]

    def log_prob(self, x: Array, reduce: bool = True) -> Array:
        x, logits = self._along(x)
        each = x * logits - np.logaddexp(0, logits)
        return each.sum(axis=-1) if reduce else each

    def _logits_of(self, x: Array) -> Array:
        return self._along(x)[1]

    def _along(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        x = np.asarray(device.to_host(value_of(x)))
        x = np.broadcast_to(x, np.broadcast_shapes(x.shape, self.orders.shape))
        return self._scan(x.shape, lambda place, logits: x[place])

    def _scan(self, shape: tuple[int, ...], value: Callable[[Any, np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(x, logits) of all bits, one after the other: value(place, logits) says what the next bit of each row is."""
        n, network, params = shape[-1], self.network, self.params
        orders = np.broadcast_to(self.orders, shape).reshape(-1, n)
        weight, bias = (params[f"{network.name}.0.{part}"] for part in ("weight", "bias"))
        last = params[f"{network.name}.{len(network.sizes) - 2}.weight"].T.copy()
        x, logits = (np.zeros(orders.shape, bias.dtype) for _ in range(2))
        a, rows = np.zeros((len(orders), len(bias)), bias.dtype), np.arange(len(orders))
        for j in orders.T:
            # a bit adds its two rows to the first layer; of the last layer one unit is wanted
            h = dense.bias_activation(a, bias, activation=network.activation)
            for i in range(1, len(network.sizes) - 2):
                given = params[f"{network.name}.{i}.weight"], params[f"{network.name}.{i}.bias"]
                h = dense.affine(h, *given, activation=network.activation)
            logits[rows, j] = np.einsum("rh,rh->r", h, last[j]) + self.bias[j]
            place = (*np.unravel_index(rows, shape[:-1]), j) if len(shape) > 1 else (j,)
            x[rows, j] = value(place, logits[rows, j])
            a += x[rows, j, None] * weight[j] + weight[n + j]
        return x.reshape(shape), logits.reshape(shape)
