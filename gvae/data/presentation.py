"""How a column of numbers is presented to a model: unchanged, binarized, dequantized, standardized."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gvae import random
from gvae.data.standardization import Standardization
from gvae.errors import ConfigError
from gvae.ops.sparse import is_csr
from gvae.runtime import device

__all__ = ["BINARIZATIONS", "Presentation"]

BINARIZATIONS = ("none", "dynamic", "fixed", "threshold")


@dataclass(frozen=True, eq=False)  # eq=False: a standardization holds arrays
class Presentation:
    """How a view is presented to a model; binarization, dequantization and standardization need a dense view.

    Parameters
    ----------
    binarize : {"none", "dynamic", "fixed", "threshold"}, default "none"
        "dynamic": x ~ Bernoulli(x) each time a row is presented; "fixed": drawn once; "threshold": x > 1/2.
    dequantize : int, optional
        Number of grey levels L: x = k / (L - 1) becomes (k + u) / L with u ~ U(0, 1) each time a row is presented, so
        that x has a density; its log is at most that of P(k), plus D log L.
    standardization : Standardization, optional
        Applied after the dequantization if there is one: x is presented as (x - location) / scale.
    dtype : dtype, optional
        The dtype of the view where it is standardized; None: the view's own.

    Raises
    ------
    ConfigError
        Unknown binarization. A table also raises it where a view is sparse, or binarized and dequantized or standardized.

    Examples
    --------
    >>> x, y = np.zeros((2, 3)), np.array([[1.0], [3.0]])
    >>> units = gvae.data.Presentation(standardization=gvae.data.Standardization.of(y))
    >>> gvae.data.Table(x, y=y, views={"y": units}).columns["y"]
    array([[-1.],
           [ 1.]])
    """

    binarize: str = "none"
    dequantize: int | None = None
    standardization: Standardization | None = None
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.binarize not in BINARIZATIONS:
            raise ConfigError(f"unknown binarization {self.binarize!r}; known are {', '.join(BINARIZATIONS)}")

    @cached_property
    def units(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Location and scale in dtype, for a view that is dequantized first; otherwise None.

        The arrays are kept, because a captured step reads them at their addresses.

        Examples
        --------
        >>> standardization = gvae.data.Standardization(np.array([0.5]), np.array([0.25]))
        >>> gvae.data.Presentation(dequantize=256, standardization=standardization, dtype=np.float32).units
        (array([0.5], dtype=float32), array([0.25], dtype=float32))
        """
        if self.standardization is None or self.dequantize is None:
            return None
        return self.standardization.location.astype(self.dtype), self.standardization.scale.astype(self.dtype)

    @property
    def draws(self) -> bool:
        """Whether something is drawn each time a row is presented.

        Examples
        --------
        >>> gvae.data.Presentation("dynamic").draws, gvae.data.Presentation("fixed").draws
        (True, False)
        """
        return self.binarize == "dynamic" or self.dequantize is not None

    def of(self, x: Any, name: str) -> Presentation:
        """This presentation for a given column, with the column's dtype where none is given.

        Parameters
        ----------
        x : array (N, ...) or CSR (N, D)
        name : str
            The column's name, for errors.

        Returns
        -------
        Presentation

        Raises
        ------
        ConfigError
            It does not suit the column.

        Examples
        --------
        >>> gvae.data.Presentation("dynamic").of(np.zeros((2, 3), np.float32), "x").dtype
        dtype('float32')
        """
        binarized, sparse = self.binarize != "none", is_csr(x)
        if binarized and sparse:
            raise ConfigError(f"binarization needs a dense {name}, got a CSR matrix")
        if self.dequantize is not None and (binarized or sparse):
            raise ConfigError(f"dequantization needs a dense {name} of grey levels that are not binarized")
        if self.standardization is not None and (binarized or sparse):
            raise ConfigError(f"standardization needs a dense {name} that is not binarized")
        return replace(self, dtype=np.dtype(x.dtype if self.dtype is None else self.dtype))

    def stored(self, x: Any, key: np.ndarray) -> Any:
        """What a table keeps of a column: everything that is not drawn each time is applied.

        Parameters
        ----------
        x : array (N, ...) or CSR (N, D)
        key : array (4,)
            The key for a fixed binarization.

        Returns
        -------
        array (N, ...) or CSR (N, D)

        Examples
        --------
        >>> gvae.data.Presentation("threshold").stored(np.array([[0.2, 0.7]]), gvae.random.key(0))
        array([[0., 1.]])
        """
        if self.standardization is not None:
            return self.standardization(x, self.dtype) if self.dequantize is None else x.astype(self.dtype)
        if self.binarize == "threshold":
            return (x > 0.5).astype(x.dtype)
        return random.bernoulli(key, x) if self.binarize == "fixed" else x

    def drawn(self, x: Any, key: np.ndarray) -> Any:
        """What a model sees of rows that `stored` returned.

        Parameters
        ----------
        x : array (B, ...) or CSR (B, D)
        key : array (4,)
            The key for what is drawn each time.

        Returns
        -------
        array (B, ...) or CSR (B, D)

        Examples
        --------
        >>> x = np.full((1000, 1), 0.3, np.float32)
        >>> bits = gvae.data.Presentation("dynamic").drawn(x, gvae.random.key(0))
        >>> np.unique(bits), bits.mean().round(1)
        (array([0., 1.], dtype=float32), np.float32(0.3))
        """
        if self.binarize == "dynamic":
            return random.bernoulli(key, x)
        if self.dequantize is None:
            return x
        u = random.uniform(key, x.shape, x.dtype, x)
        x = (x * (self.dequantize - 1) + u) / x.dtype.type(self.dequantize)
        if self.units is None:
            return x
        location, scale = (device.beside(a, x) for a in self.units)
        return (x - location) / scale
