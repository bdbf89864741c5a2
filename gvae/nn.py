"""Networks as functions of parameters, and the one flat buffer in which parameters live.

A network holds sizes and names only. `init(key, dtype)` returns its parameters as a dict from names to arrays; a call of the
network takes such a dict, of plain arrays or of Vars. Names are dotted, "encoder.0.weight"; the first part is the group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import random
from gvae.autodiff import value_of
from gvae.errors import ConfigError
from gvae.modes import DROPOUT, STATISTICS, Mode
from gvae.ops import dense, elementwise, normalize
from gvae.runtime import device
from gvae.runtime.device import to_device
from gvae.typing import Array, Key, Params

NORMALIZATIONS = (None, "batch")

__all__ = ["MLP", "Parameters", "Tower"]


class MLP:
    """A multilayer perceptron: affine layers with an activation between them.

    A call `mlp(params, x)` maps x (..., inputs), or CSR (rows, inputs), to (..., outputs).

    Parameters
    ----------
    name : str
        Prefix of the names of its parameters.
    sizes : sequence of int
        (inputs, hidden .., outputs).
    activation : str, default "elu"
        The activation after every layer except the last: one of `gvae.ops.dense.ACTIVATIONS`.
    last : str, default "identity"
        The activation after the last layer.
    normalize : str, optional
        "batch": batch normalisation before each activation, with a learned scale for each unit and with the layer's bias as
        its shift. In training steps by the moments of the batch, elsewhere by those among the parameters, see `gvae.modes`.
    dropout : float, default 0
        The probability with which an activation is dropped in training steps; the others are divided by 1 - dropout.
    drops_inputs : bool, default False
        Whether dropout applies to the inputs, too.

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> mlp = gvae.nn.MLP("encoder", (3, 4, 2))
    >>> params = mlp.init(gvae.random.key(0))
    >>> list(params)
    ['encoder.0.weight', 'encoder.0.bias', 'encoder.1.weight', 'encoder.1.bias']
    >>> mlp(params, np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    def __init__(
        self,
        name: str,
        sizes: Sequence[int],
        activation: str = "elu",
        last: str = "identity",
        normalize: str | None = None,
        dropout: float = 0.0,
        drops_inputs: bool = False,
    ):
        if len(sizes) < 2 or any(not isinstance(s, (int, np.integer)) or s < 1 for s in sizes):
            raise ConfigError(f"MLP {name!r}: sizes are {tuple(sizes)}, expected at least two positive integers")
        for given in (activation, last):
            if given not in dense.ACTIVATIONS:
                raise ConfigError(f"unknown activation {given!r}; known are {', '.join(dense.ACTIVATIONS)}")
        self.name, self.sizes = name, tuple(int(s) for s in sizes)
        if normalize not in NORMALIZATIONS:
            raise ConfigError(f"MLP {name!r}: normalize is {normalize!r}, expected None or 'batch'")
        if not 0 <= dropout < 1:
            raise ConfigError(f"MLP {name!r}: dropout is {dropout!r}, expected a probability below 1")
        self.activation, self.last = activation, last
        self.normalize, self.dropout, self.drops_inputs = normalize, float(dropout), drops_inputs
        self.n_hidden = len(self.sizes) - 2 + (last != "identity")  # layers with an activation

    def init(self, key: Key, dtype: DTypeLike = np.float32) -> dict[str, np.ndarray]:
        """Initial parameters: weights uniform in ±sqrt(6 / (inputs + outputs)), biases 0.

        Parameters
        ----------
        key : array (4,)
        dtype : dtype, default float32

        Returns
        -------
        dict of str to array
            For layer i, `NAME.i.weight` (inputs, outputs) and `NAME.i.bias` (outputs,). If it is normalised, `NAME.i.scale`
            (outputs,), of ones, and the moments `statistics.NAME.i.mean` and `.variance`, 0 and 1.

        Notes
        -----
        Source: Glorot and Bengio (2010).

        Examples
        --------
        >>> params = gvae.nn.MLP("encoder", (3, 4, 2)).init(gvae.random.key(0))
        >>> {name: value.shape for name, value in params.items()}
        {'encoder.0.weight': (3, 4), 'encoder.0.bias': (4,), 'encoder.1.weight': (4, 2), 'encoder.1.bias': (2,)}
        >>> bool(np.abs(params["encoder.0.weight"]).max() <= np.sqrt(6 / (3 + 4)))
        True
        """
        params, statistics = {}, {}
        for i, (n_in, n_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            u = random.uniform(random.fold_in(key, i), (n_in, n_out), dtype)
            limit = np.dtype(dtype).type(np.sqrt(6 / (n_in + n_out)))
            params[f"{self.name}.{i}.weight"] = limit * (2 * u - 1)
            params[f"{self.name}.{i}.bias"] = np.zeros(n_out, dtype)
            if self.normalize is not None and i < self.n_hidden:
                params[f"{self.name}.{i}.scale"] = np.ones(n_out, dtype)
                statistics[f"{STATISTICS}.{self.name}.{i}.mean"] = np.zeros(n_out, dtype)
                statistics[f"{STATISTICS}.{self.name}.{i}.variance"] = np.ones(n_out, dtype)
        return statistics | params

    def masks(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike = np.float32, like: Array = None) -> dict[str, Any]:
        """The noise of dropout in a training step, uniform numbers.

        Parameters
        ----------
        key : array (4,)
        shape : tuple of int
            The leading axes of the network's inputs; axes of length 1 may stand before them.
        dtype : dtype, default float32
        like : array, optional
            An array on the device where the noise is wanted.

        Returns
        -------
        dict of str to array
            "dropout.NAME.i", (*shape, width) of layer i, and "dropout.NAME.inputs"; {} without dropout.

        Examples
        --------
        >>> mlp = gvae.nn.MLP("encoder", (3, 4, 2), dropout=0.2)
        >>> {name: value.shape for name, value in mlp.masks(gvae.random.key(0), (5,)).items()}
        {'dropout.encoder.0': (5, 4)}
        """
        if not self.dropout:
            return {}
        widths = {f"{DROPOUT}.{self.name}.{i}": self.sizes[i + 1] for i in range(self.n_hidden)}
        if self.drops_inputs:
            widths[f"{DROPOUT}.{self.name}.inputs"] = self.sizes[0]
        drawn = enumerate(widths.items())
        return {name: random.uniform(random.fold_in(key, i), (*shape, n), dtype, like) for i, (name, n) in drawn}

    def __call__(self, params: Params, x: Any) -> Any:
        """The outputs (..., outputs) of x (..., inputs) or CSR (rows, inputs)."""
        x, weight, bias = self.last_layer(params, x)
        i = len(self.sizes) - 2
        return self._hidden(params, i, x) if i < self.n_hidden else dense.affine(x, weight, bias)

    def last_layer(self, params: Params, x: Any) -> tuple[Any, Any, Any]:
        """The input, weight and bias of the last layer, for callers that fuse it with the operation after it.

        Parameters
        ----------
        params : mapping of str to array
        x : array (..., inputs)
            Or CSR (rows, inputs).

        Returns
        -------
        x : array (..., hidden)
            The input of the last layer, after the activation of the layer before.
        weight : array (hidden, outputs)
        bias : array (outputs,)

        Examples
        --------
        >>> mlp = gvae.nn.MLP("encoder", (3, 4, 2))
        >>> params, x = mlp.init(gvae.random.key(0)), np.ones((5, 3), np.float32)
        >>> h, weight, bias = mlp.last_layer(params, x)
        >>> h.shape, np.allclose(h @ weight + bias, mlp(params, x))
        ((5, 4), True)
        """
        last = len(self.sizes) - 2
        if self.drops_inputs:
            x = self._dropped(params, "inputs", x)
        plain = self.normalize is None and not self.dropout
        for i in range(last):
            if plain:
                x = dense.affine(x, *self._layer(params, i), activation=self.activation)
            else:
                x = self._hidden(params, i, x)
        return x, *self._layer(params, last)

    def _hidden(self, params: Params, i: int, x: Any) -> Any:
        """A layer with its activation."""
        activation = self.last if i == len(self.sizes) - 2 else self.activation
        weight, bias = self._layer(params, i)
        if self.normalize is None:
            return self._dropped(params, i, dense.affine(x, weight, bias, activation=activation))
        layer, scale = f"{self.name}.{i}", params[f"{self.name}.{i}.scale"]

        def sums() -> Any:
            return dense.affine(x, weight, device.zeros(self.sizes[i + 1], value_of(weight).dtype, value_of(weight)))

        found = params.moments(layer, sums) if isinstance(params, Mode) else self._moments(params, i)
        if found is None:
            y = normalize.batch_norm(sums(), scale, bias, activation=activation)
        else:
            y = dense.affine(x, *_normalized(weight, bias, scale, *found), activation=activation)
        return self._dropped(params, i, y)

    def scoring_layer(self, params: Params, i: int) -> tuple[Any, Any]:
        """The weight and bias of a layer where rows are scored: a normalised one is an affine function there, too.

        Parameters
        ----------
        params : mapping of str to array
        i : int

        Returns
        -------
        weight : array (inputs, outputs)
        bias : array (outputs,)

        Examples
        --------
        >>> mlp = gvae.nn.MLP("encoder", (3, 4, 2), activation="tanh", normalize="batch")
        >>> params, x = mlp.init(gvae.random.key(0), np.float64), np.eye(5, 3)
        >>> h = np.tanh(gvae.ops.affine(x, *mlp.scoring_layer(params, 0)))
        >>> np.allclose(gvae.ops.affine(h, *mlp.scoring_layer(params, 1)), mlp(params, x))
        True
        """
        weight, bias = self._layer(params, i)
        if self.normalize is None or i >= self.n_hidden:
            return weight, bias
        return _normalized(weight, bias, params[f"{self.name}.{i}.scale"], *self._moments(params, i))

    def _moments(self, params: Params, i: int) -> tuple[Any, Any]:
        layer = f"{STATISTICS}.{self.name}.{i}"
        return params[f"{layer}.mean"], params[f"{layer}.variance"]

    def _dropped(self, params: Params, i: Any, y: Any) -> Any:
        return params.dropped(f"{self.name}.{i}", y, self.dropout) if self.dropout and isinstance(params, Mode) else y

    def _layer(self, params: Params, i: int) -> tuple[Any, Any]:
        return params[f"{self.name}.{i}.weight"], params[f"{self.name}.{i}.bias"]


def _normalized(weight: Array, bias: Array, scale: Array, mean: Array, variance: Array) -> tuple[Any, Any]:
    """Weight and bias of a layer whose sums are normalised by given moments."""
    factor = scale / elementwise.sqrt(variance + device.NORM_EPSILON)
    return weight * factor, bias - mean * factor


class Tower:
    """MLPs in sequence, each of which reads the output of the one before it: a trunk with features at several levels.

    A call `tower(params, x)` maps x (..., inputs), or CSR, to the list of the features of each level, (..., last width).

    Parameters
    ----------
    name : str
        Prefix of the names of its parameters, "trunk" for "trunk.0.1.weight".
    n_inputs : int
        Number of inputs of the first level.
    widths : sequence of sequence of int
        Widths of each level's layers, each followed by the activation.
    activation : str, default "elu"
    normalize : str, optional
    dropout : float, default 0
        As for `MLP`.

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> tower = gvae.nn.Tower("trunk", 784, [(200, 100), (50,)])
    >>> params = tower.init(gvae.random.key(0))
    >>> h1, h2 = tower(params, np.ones((5, 784), np.float32))
    >>> h1.shape, h2.shape
    ((5, 100), (5, 50))
    """

    def __init__(
        self,
        name: str,
        n_inputs: int,
        widths: Sequence[Sequence[int]],
        activation: str = "elu",
        normalize: str | None = None,
        dropout: float = 0.0,
    ):
        below = [n_inputs, *(level[-1] for level in widths)]
        self.name = name
        self.levels = [
            MLP(f"{name}.{i}", (n, *level), activation, activation, normalize, dropout)
            for i, (n, level) in enumerate(zip(below, widths, strict=False))
        ]

    def init(self, key: Key, dtype: DTypeLike = np.float32) -> dict[str, np.ndarray]:
        """Initial parameters of all levels, each as `MLP.init` draws them.

        Parameters
        ----------
        key : array (4,)
        dtype : dtype, default float32

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> list(gvae.nn.Tower("trunk", 8, [(4,), (2,)]).init(gvae.random.key(0)))
        ['trunk.0.0.weight', 'trunk.0.0.bias', 'trunk.1.0.weight', 'trunk.1.0.bias']
        """
        return {n: v for i, level in enumerate(self.levels) for n, v in level.init(random.fold_in(key, i), dtype).items()}

    def masks(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike = np.float32, like: Array = None) -> dict[str, Any]:
        """The noise of dropout of all levels, each as `MLP.masks` draws it.

        Parameters
        ----------
        key : array (4,)
        shape : tuple of int
        dtype : dtype, default float32
        like : array, optional

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> list(gvae.nn.Tower("trunk", 8, [(4,), (2,)], dropout=0.5).masks(gvae.random.key(0), (5,)))
        ['dropout.trunk.0.0', 'dropout.trunk.1.0']
        """
        levels = enumerate(self.levels)
        return {n: v for i, level in levels for n, v in level.masks(random.fold_in(key, i), shape, dtype, like).items()}

    def __call__(self, params: Params, x: Any) -> list[Any]:
        """The features of each level, (..., last width), of x (..., inputs) or CSR."""
        found = [x]
        for level in self.levels:
            found.append(level(params, found[-1]))
        return found[1:]


class Parameters(Mapping[str, np.ndarray]):
    """Named arrays that are views of one flat buffer.

    An optimiser makes one pass over the buffer, and a checkpoint is one block. Arrays of one group (the name up to the first
    dot) are contiguous.

    Parameters
    ----------
    arrays : mapping of str to array
        They are copied. All have one dtype and are on one device.

    Attributes
    ----------
    flat : array (n,)
        The buffer.
    groups : dict of str to slice
        The slice of `flat` of each group.

    Raises
    ------
    ConfigError
        The arrays have several dtypes.
    DeviceError
        The arrays are on several devices.

    Examples
    --------
    >>> params = gvae.nn.Parameters({"encoder.weight": np.ones((2, 2)), "decoder.bias": np.zeros(2)})
    >>> params.flat
    array([1., 1., 1., 1., 0., 0.])
    >>> params.groups
    {'encoder': slice(0, 4, None), 'decoder': slice(4, 6, None)}
    >>> params.flat *= 3
    >>> params["encoder.weight"]
    array([[3., 3.],
           [3., 3.]])
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        order = sorted(arrays, key=lambda name: list(dict.fromkeys(map(_group, arrays))).index(_group(name)))
        dtypes = {arrays[name].dtype for name in order}
        if len(dtypes) > 1:
            raise ConfigError(f"parameters have several dtypes: {', '.join(sorted(map(str, dtypes)))}; expected one")
        size = sum(arrays[name].size for name in order)
        device.namespace(*arrays.values())  # all on one device
        like = next(iter(arrays.values()), np.empty(0, np.float32))
        self.flat = device.empty((size,), like.dtype, like)
        self.groups: dict[str, slice] = {}
        self._views: dict[str, np.ndarray] = {}
        start = 0
        for name in order:
            source = arrays[name]
            stop = start + source.size
            self._views[name] = self.flat[start:stop].reshape(source.shape)
            self._views[name][...] = source
            first = self.groups[_group(name)].start if _group(name) in self.groups else start
            self.groups[_group(name)] = slice(first, stop)
            start = stop

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameters, (dict(self._views),)  # a copy's arrays must be views of the copy's buffer

    def sha256(self) -> str:
        """SHA-256 of names, shapes, types and bytes, by which the parameters of two runs can be compared.

        Returns
        -------
        str
            Hexadecimal.

        Examples
        --------
        >>> gvae.nn.Parameters({"decoder.bias": np.zeros(2)}).sha256()[:12]
        '8a6a70722657'
        """
        digest = hashlib.sha256()
        for name, value in sorted(self.to("cpu").items()):
            digest.update(f"{name}{value.shape}{value.dtype.str}".encode())
            digest.update(np.ascontiguousarray(value))
        return digest.hexdigest()

    def zeros(self) -> Parameters:
        """Zeros under the same names and in the same shapes: a gradient buffer.

        Returns
        -------
        Parameters

        Examples
        --------
        >>> params = gvae.nn.Parameters({"encoder.weight": np.ones((2, 2))})
        >>> params.zeros()["encoder.weight"]
        array([[0., 0.],
               [0., 0.]])
        """
        like = Parameters(self)
        like.flat[:] = 0
        return like

    def to(self, device: str) -> Parameters:
        """The same parameters on a device.

        Parameters
        ----------
        device : str
            "cpu" or "cuda".

        Returns
        -------
        Parameters
            The object itself if it is on that device already.

        Raises
        ------
        ConfigError, DeviceError

        Examples
        --------
        >>> params = gvae.nn.Parameters({"encoder.weight": np.ones((2, 2))})
        >>> params.to("cpu") is params
        True
        """
        moved = {name: to_device(value, device) for name, value in self.items()}
        return self if all(moved[name] is value for name, value in self.items()) else Parameters(moved)


def _group(name: str) -> str:
    return name.split(".")[0]
