"""How a column of numbers is presented to a model: as it is, binarized, dequantized, standardized."""

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
    """How a view is presented to a model. Each part needs a dense view.

    binarize   : "none"; "dynamic" (x ~ Bernoulli(x) anew whenever a row is presented); "fixed" (drawn once);
                 "threshold" (x > 1/2)
    dequantize : number of grey levels L: x = k / (L - 1) becomes (k + u) / L with u ~ U(0, 1) anew whenever a row is
                 presented, so that x has a density; its log is at most that of P(k), plus D log L
    standardization : after the dequantization if there is one: x is presented as (x - location) / scale
    dtype      : of the view where it is standardized; None: its own
    Raises ConfigError for an unknown binarization; a table does where a view is sparse, or binarized and dequantized or
    standardized.

        Table(x, y=y, views={"y": Presentation(standardization=Standardization.of(y))})
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
        """Location and scale in dtype, of what is dequantized first; kept, for a captured step reads them where they are."""
        if self.standardization is None or self.dequantize is None:
            return None
        return self.standardization.location.astype(self.dtype), self.standardization.scale.astype(self.dtype)

    @property
    def draws(self) -> bool:
        """Whether something is drawn anew whenever a row is presented."""
        return self.binarize == "dynamic" or self.dequantize is not None

    def of(self, x: Any, name: str) -> Presentation:
        """This for column x, with its dtype where none is given. Raises ConfigError if it does not suit the column."""
        binarized, sparse = self.binarize != "none", is_csr(x)
        if binarized and sparse:
            raise ConfigError(f"binarization needs a dense {name}, got a CSR matrix")
        if self.dequantize is not None and (binarized or sparse):
            raise ConfigError(f"dequantization needs a dense {name} of grey levels that are not binarized")
        if self.standardization is not None and (binarized or sparse):
            raise ConfigError(f"standardization needs a dense {name} that is not binarized")
        return replace(self, dtype=np.dtype(x.dtype if self.dtype is None else self.dtype))

    def stored(self, x: Any, key: np.ndarray) -> Any:
        """What a table keeps of x: all of it that is not drawn anew. `key` draws a fixed binarization."""
        if self.standardization is not None:
            return self.standardization(x, self.dtype) if self.dequantize is None else x.astype(self.dtype)
        if self.binarize == "threshold":
            return (x > 0.5).astype(x.dtype)
        return random.bernoulli(key, x) if self.binarize == "fixed" else x

    def drawn(self, x: Any, key: np.ndarray) -> Any:
        """What a model sees of rows x of what `stored` gave; `key` draws what is drawn anew."""
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
