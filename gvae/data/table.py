"""Rows on their way into a model: named columns, minibatches, binarization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gvae import random
from gvae.data.standardization import Standardization
from gvae.errors import ConfigError, DataError
from gvae.ops.sparse import is_csr
from gvae.runtime import device
from gvae.runtime.device import to_device

__all__ = ["BINARIZATIONS", "Batch", "Table"]

BINARIZATIONS = ("none", "dynamic", "fixed", "threshold")


class Batch:
    """Some rows: the columns as attributes (x, ...), `index` (their row numbers) and `weight` (None, or (B,))."""

    def __init__(self, columns: Mapping[str, Any], index: np.ndarray, weight: np.ndarray | None = None):
        self.__dict__.update(columns)
        self.index, self.weight = index, weight

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: Any) -> Batch:
        """Some of the rows: a slice, or positions."""
        columns: dict[str, Any] = {n: None if column is None else column[part] for n, column in vars(self).items()}
        return Batch(columns, columns.pop("index"), columns.pop("weight"))

    def __getattr__(self, name: str) -> Any:
        raise DataError(f"the model asks for column {name!r}; the data has {', '.join(sorted(self.__dict__))}")


class Table:
    """Columns of equal length, dense or CSR, and how `x` becomes binary.

    binarize   : "none"; "dynamic" (x ~ Bernoulli(x) anew whenever a row is presented); "fixed" (drawn once, from `key`);
                 "threshold" (x > 1/2)
    dequantize : number of grey levels L: x = k / (L - 1) becomes (k + u) / L with u ~ U(0, 1) anew whenever a row is
                 presented, so that x has a density; its log is at most that of P(k), plus D log L
    standardization : of x, dense, after its dequantization if there is one: x is presented as (x - location) / scale
    dtype      : of x where it is standardized; None: that of x
    weight     : a column (N,) that weighs rows, under its own name "weight"
    """

    def __init__(
        self,
        x: Any,
        *,
        binarize: str = "none",
        dequantize: int | None = None,
        standardization: Standardization | None = None,
        dtype: Any = None,
        key: np.ndarray | None = None,
        **columns: Any,
    ):
        if binarize not in BINARIZATIONS:
            raise ConfigError(f"unknown binarization {binarize!r}; known are {', '.join(BINARIZATIONS)}")
        if binarize != "none" and is_csr(x):
            raise ConfigError("binarization needs a dense x, got a CSR matrix")
        if dequantize is not None and (binarize != "none" or is_csr(x)):
            raise ConfigError("dequantization needs a dense x of grey levels that are not binarized")
        if standardization is not None and (binarize != "none" or is_csr(x)):
            raise ConfigError("standardization needs a dense x that is not binarized")
        if standardization is not None:
            dtype = x.dtype if dtype is None else np.dtype(dtype)
            x = standardization(x, dtype) if dequantize is None else x.astype(dtype)
        self.columns = {"x": x, **columns}
        lengths = {name: column.shape[0] for name, column in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns have different lengths: {lengths}")
        self.binarize, self.dequantize = binarize, dequantize
        self._drawn_units: tuple[np.ndarray, np.ndarray] | None = None  # location and scale of what is yet to be drawn
        if standardization is not None and dequantize is not None:
            self._drawn_units = standardization.location.astype(dtype), standardization.scale.astype(dtype)
        if binarize == "threshold":
            self.columns["x"] = (x > 0.5).astype(x.dtype)
        elif binarize == "fixed":
            self.columns["x"] = random.bernoulli(random.key(0) if key is None else key, x)

    def __len__(self) -> int:
        return self.columns["x"].shape[0]

    def to(self, device: str) -> Table:
        """The same rows on a device, "cpu" or "cuda"; itself if they are there. Raises DeviceError."""
        moved = {name: to_device(column, device) for name, column in self.columns.items()}
        if all(moved[name] is column for name, column in self.columns.items()):
            return self
        table = Table(**moved)
        table.binarize = self.binarize  # what was fixed or cut by a threshold is so already
        table.dequantize, table._drawn_units = self.dequantize, self._drawn_units
        return table

    def batch(self, index: np.ndarray, key: np.ndarray) -> Batch:
        """The rows `index`; `key` draws their binarization, if it is dynamic, or their dequantization."""
        columns = {name: column[index] for name, column in self.columns.items()}
        if self.binarize == "dynamic":
            columns["x"] = random.bernoulli(key, columns["x"])
        elif self.dequantize is not None:
            x = columns["x"]
            u = random.uniform(key, x.shape, x.dtype, x)
            columns["x"] = (x * (self.dequantize - 1) + u) / x.dtype.type(self.dequantize)
            if self._drawn_units is not None:
                location, scale = (device.beside(a, x) for a in self._drawn_units)
                columns["x"] = (columns["x"] - location) / scale
        return Batch(columns, index, columns.get("weight"))

    def batches(self, key: np.ndarray, batch_size: int, order: np.ndarray | None = None, first: int = 0) -> Iterator[Batch]:
        """All rows once, in `order` (None: as they stand), in batches; the last may be smaller. Each batch's binarization
        has a key of its own, so that the pass is a function of (key, batch_size, order), and may begin at any batch."""
        order = device.beside(np.arange(len(self)) if order is None else order, self.columns["x"])
        for i in range(first, -(-len(order) // batch_size)):
            yield self.batch(order[i * batch_size : (i + 1) * batch_size], random.fold_in(key, i))
