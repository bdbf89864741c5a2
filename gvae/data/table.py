"""Rows on their way into a model: named columns, each presented in its way, in minibatches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gvae import random
from gvae.data.checks import check_weight
from gvae.data.presentation import Presentation
from gvae.data.standardization import Standardization, mean_of_rows
from gvae.errors import ConfigError, DataError
from gvae.ops.sparse import is_csr
from gvae.runtime import device
from gvae.runtime.device import to_device

__all__ = ["Batch", "Table"]


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
    """Columns of equal length, dense or CSR, and how they are presented to a model.

    binarize, dequantize, standardization, dtype : how x is presented, see Presentation
    views      : how further columns are, by name; a column that is not named is presented as it is
    key        : draws what is drawn once, at binarize="fixed"
    weight     : a column (N,) that weighs rows, under its own name "weight": finite and at least 0

        Table(x, binarize="dynamic", y=y, views={"y": Presentation(binarize="dynamic")}, weight=w)

    Draws of x are those of the keys given here and to `batch`; those of a further view have keys of their own, derived by
    its place among the columns. Raises ConfigError for a presentation that does not suit its column, DataError for columns
    of different lengths, and for weights, with the row.
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
        views: Mapping[str, Presentation] | None = None,
        **columns: Any,
    ):
        of_x, further = Presentation(binarize, dequantize, standardization, dtype), dict(views or {})
        columns = {"x": x, **columns}
        known = columns.keys() - {"weight"}
        if odd := sorted(further.keys() - known):
            raise ConfigError(
                f"Table: views has {odd[0]!r}; expected columns of the table but weight: {', '.join(sorted(known))}"
            )
        if "x" in further and (binarize != "none" or any(part is not None for part in (dequantize, standardization, dtype))):
            raise ConfigError("Table: the presentation of 'x' is given twice, in views and by keywords of its own")
        shown = {"x": of_x} | further
        lengths = {name: column.shape[0] for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns have different lengths: {lengths}")
        if "weight" in columns:
            check_weight(columns["weight"], lengths["x"])
        self.views = {name: shown[name].of(column, name) for name, column in columns.items() if name in shown}
        self.columns = dict(columns)
        key = random.key(0) if key is None else key
        for name, view in self.views.items():
            self.columns[name] = view.stored(columns[name], self._key(key, name))

    @property
    def binarize(self) -> str:
        """How x is."""
        return self.views["x"].binarize

    def __len__(self) -> int:
        return self.columns["x"].shape[0]

    def mean(self, name: str) -> np.ndarray:
        """The mean of each column of a view, (D,), in float64, weighted if rows have weights. Grey levels stand for the bits
        that are drawn by them."""
        x, weight = (device.to_host(self.columns.get(column)) for column in (name, "weight"))
        if not is_csr(x):
            return mean_of_rows(x, weight)
        w = np.ones(len(self)) if weight is None else np.asarray(weight, np.float64)
        return (w @ x) / w.sum()

    def to(self, device: str) -> Table:
        """The same rows on a device, "cpu" or "cuda"; itself if they are there. Raises DeviceError."""
        moved = {name: to_device(column, device) for name, column in self.columns.items()}
        if all(moved[name] is column for name, column in self.columns.items()):
            return self
        table = copy.copy(self)  # what was fixed, cut by a threshold or checked is so already
        table.columns = moved
        return table

    def batch(self, index: np.ndarray, key: np.ndarray) -> Batch:
        """The rows `index`; `key` draws their binarization, if it is dynamic, or their dequantization."""
        columns = {name: column[index] for name, column in self.columns.items()}
        for name, view in self.views.items():
            columns[name] = view.drawn(columns[name], self._key(key, name) if view.draws else key)
        return Batch(columns, index, columns.get("weight"))

    def _key(self, key: np.ndarray, name: str) -> np.ndarray:
        """The key of a view's draws: x's is the table's or batch's own, from which nothing else is derived."""
        place = [column for column in self.columns if column != "weight"].index(name)
        return random.fold_in(key, place) if place else key

    def batches(self, key: np.ndarray, batch_size: int, order: np.ndarray | None = None, first: int = 0) -> Iterator[Batch]:
        """All rows once, in `order` (None: as they stand), in batches; the last may be smaller. Each batch's binarization
        has a key of its own, so that the pass is a function of (key, batch_size, order), and may begin at any batch."""
        order = device.beside(np.arange(len(self)) if order is None else order, self.columns["x"])
        for i in range(first, -(-len(order) // batch_size)):
            yield self.batch(order[i * batch_size : (i + 1) * batch_size], random.fold_in(key, i))
