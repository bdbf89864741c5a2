"""Networks as functions of parameters, and the one flat buffer in which parameters live.

A network holds sizes and names only. `init(key, dtype)` makes a dict from names to arrays; calling the network reads its
entries from such a dict, of plain arrays or of Vars. Names are dotted, "encoder.0.weight"; the first part is the group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvae import random
from gvae.errors import ConfigError
from gvae.ops import dense
from gvae.runtime import device
from gvae.runtime.device import to_device

__all__ = ["MLP", "Parameters", "Tower"]


class MLP:
    """Affine layers with an activation between them.

    name       : prefix of its parameters          sizes : (inputs, hidden .., outputs)
    activation : after every layer but the last, one of gvae.ops.dense.ACTIVATIONS
    last       : the activation after the last layer
    """

    def __init__(self, name: str, sizes: Sequence[int], activation: str = "elu", last: str = "identity"):
        if len(sizes) < 2 or any(not isinstance(s, (int, np.integer)) or s < 1 for s in sizes):
            raise ConfigError(f"MLP {name!r}: sizes are {tuple(sizes)}, expected at least two positive integers")
        for given in (activation, last):
            if given not in dense.ACTIVATIONS:
                raise ConfigError(f"unknown activation {given!r}; known are {', '.join(dense.ACTIVATIONS)}")
        self.name, self.sizes = name, tuple(int(s) for s in sizes)
        self.activation, self.last = activation, last

    def init(self, key: np.ndarray, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """Weights uniform in +-sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010), biases 0."""
        params = {}
        for i, (n_in, n_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            u = random.uniform(random.fold_in(key, i), (n_in, n_out), dtype)
            limit = np.dtype(dtype).type(np.sqrt(6 / (n_in + n_out)))
            params[f"{self.name}.{i}.weight"] = limit * (2 * u - 1)
            params[f"{self.name}.{i}.bias"] = np.zeros(n_out, dtype)
        return params

    def __call__(self, params: Mapping[str, Any], x: Any) -> Any:
        """x (..., inputs) or CSR (rows, inputs) -> (..., outputs)."""
        return dense.affine(*self.last_layer(params, x), activation=self.last)

    def last_layer(self, params: Mapping[str, Any], x: Any) -> tuple[Any, Any, Any]:
        """What the last layer is given, its weight and its bias, for those who fuse it with what comes after."""
        last = len(self.sizes) - 2
        for i in range(last):
            x = dense.affine(x, *self._layer(params, i), activation=self.activation)
        return x, *self._layer(params, last)

    def _layer(self, params: Mapping[str, Any], i: int) -> tuple[Any, Any]:
        return params[f"{self.name}.{i}.weight"], params[f"{self.name}.{i}.bias"]


class Tower:
    """MLPs one after another, each of which reads what the one before it returns: a trunk with features at several levels.

    name : prefix of its parameters, "trunk" for "trunk.0.1.weight"      n_inputs : numbers that the first level reads
    widths : of each level's layers, which all end in the activation

        h1, h2 = Tower("trunk", 784, [(200, 100), (50,)])(params, x)        # (.., 100) and (.., 50)
    """

    def __init__(self, name: str, n_inputs: int, widths: Sequence[Sequence[int]], activation: str = "elu"):
        below = [n_inputs, *(level[-1] for level in widths)]
        self.name = name
        self.levels = [
            MLP(f"{name}.{i}", (n, *level), activation, activation)
            for i, (n, level) in enumerate(zip(below, widths, strict=False))
        ]

    def init(self, key: np.ndarray, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """The parameters of all levels."""
        return {n: v for i, level in enumerate(self.levels) for n, v in level.init(random.fold_in(key, i), dtype).items()}

    def __call__(self, params: Mapping[str, Any], x: Any) -> list[Any]:
        """x (..., inputs) or CSR -> the features of each level, (..., last width)."""
        found = [x]
        for level in self.levels:
            found.append(level(params, found[-1]))
        return found[1:]


class Parameters(Mapping[str, np.ndarray]):
    """Named arrays that are views of ONE flat buffer, so that an optimiser makes one pass and a checkpoint is one block.

    Arrays of one group (the name up to the first dot) are contiguous: `groups` maps it to its slice of `flat`.
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

    def __iter__(self):
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __reduce__(self):
        return Parameters, (dict(self._views),)  # a copy's arrays must be views of the copy's buffer

    def zeros(self) -> Parameters:
        """The same names and shapes, all zero: a gradient buffer."""
        like = Parameters(self)
        like.flat[:] = 0
        return like

    def to(self, device: str) -> Parameters:
        """The same on a device, "cpu" or "cuda"; itself if it is there. Raises DeviceError."""
        moved = {name: to_device(value, device) for name, value in self.items()}
        return self if all(moved[name] is value for name, value in self.items()) else Parameters(moved)


def _group(name: str) -> str:
    return name.split(".")[0]
