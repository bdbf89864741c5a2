"""The model protocol, and what models inherit.

`Model` is what training, evaluation, estimators and the command line know of a model: nothing else of it is used by them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families import Conditional
from gvae.objectives import Terms
from gvae.settings import Settings, fields, native

__all__ = ["Base", "Model", "UnknownSettingError"]


class UnknownSettingError(ConfigError, TypeError):
    """A setting that a model or an estimator does not have."""


class Model(Protocol):
    """What a model says and does.

    Settings : the dataclass of its settings, see gvae.settings
    columns  : what it reads, and of which kind: "matrix" (real numbers), "counts" (whole numbers, CSR) or "labels"
    views    : those of them that it explains, each by a distribution: they have an `observation`
    codes    : the codes that `transform` joins, by name, with their numbers of variables
    caution  : a sentence that is said where its figures are reported, or ""
    conditional : whether it explains y given x
    """

    Settings: ClassVar[type[Settings]]
    columns: ClassVar[Mapping[str, str]]
    views: ClassVar[tuple[str, ...]]
    caution: ClassVar[str]
    conditional: ClassVar[bool]
    dtype: np.dtype
    has_closed_kl: Any

    @property
    def codes(self) -> Mapping[str, int]: ...

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]: ...

    def init(self, key: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters at the start, arrays by name; the name up to the first dot is the group."""

    def noise(self, key: np.ndarray, batch: Any, samples: int = 1) -> dict[str, np.ndarray]:
        """All randomness of one evaluation of `terms`, drawn ahead."""

    def terms(self, params: Any, state: Any, batch: Any, noise: Any, step: Any = None) -> Terms:
        """What the model says about a batch. step: the number of a training step; None where rows are scored."""

    def code(self, params: Any, state: Any, batch: Any) -> dict[str, Distribution]:
        """q(code | x) of each row, by name."""

    def decode(self, params: Any, state: Any, z: Mapping[str, Any], noise: Any = None) -> dict[str, Distribution]:
        """p(view | codes), by view. noise: that of `noise`, where a draw decides; None: without one."""

    def sample_prior(self, params: Any, key: np.ndarray, n: int) -> dict[str, Any]:
        """n draws of the codes, by name: what `decode` takes."""


class Base:
    """A model that is made of its settings and of the numbers of columns that it reads.

    sizes    : the columns of x, or a mapping from each column of the data to its size (of labels: how many there are)
    settings : a `Settings`, or its fields
    dtype    : of all arithmetic           n_rows : of the training data, for models whose bound or step depends on it

        models.VAE(784, 16, "chain", hidden=(200,))
        models.VAE({"x": 784}, models.VAE.Settings(16, "chain", hidden=(200,)), dtype="float64")
    """

    Settings: ClassVar[Any]
    columns: ClassVar[Mapping[str, str]] = {"x": "matrix"}
    views: ClassVar[tuple[str, ...]] = ("x",)
    caution: ClassVar[str] = ""
    conditional: ClassVar[bool] = False
    has_closed_kl: Any = True
    emitters: Mapping[str, Conditional] = {}

    def __init__(
        self, sizes: int | Mapping[str, int], *settings: Any, dtype: Any = np.float32, n_rows: int = 0, **given: Any
    ):
        self.sizes = dict(sizes) if isinstance(sizes, Mapping) else {"x": sizes}
        self.dtype, self.n_rows = np.dtype(dtype), n_rows
        if len(settings) == 1 and isinstance(settings[0], self.Settings):
            (chosen,) = settings
        else:
            check_known(type(self).__name__, self.Settings, given)
            chosen = self.Settings(*settings, **given)
        plain = {name: native(value) for name, value in chosen.checked().items()}
        self.output_bias = plain.get("output_bias", "zero")
        self.build(self.Settings(**plain))

    def build(self, settings: Any) -> None:
        """Make the parts, of settings that have been checked. `emitters`: the network of each view that has one."""
        raise NotImplementedError

    def prepare(self, params: Mapping[str, np.ndarray], state: Any, table: Any, key: np.ndarray) -> tuple[dict, Any]:
        """(params, state) with what is learned of the training rows before the first step: biases of the output."""
        params = dict(params)
        if self.output_bias == "data":
            for view, emitter in self.emitters.items():
                params |= emitter.located(params, table.mean(view))
        return params, state

    @classmethod
    def layers(cls, settings: Any, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The widths of all networks, as far as texts tell without a table of that size being made: by these a model that
        cannot fit into memory is refused before it is made."""
        return []


def check_known(what: str, settings: type, given: Mapping[str, Any] | Sequence[str]) -> None:
    """Raise UnknownSettingError if some of the names given are no settings."""
    known = [f.name for f in fields(settings)]
    for name in given:
        if name not in known:
            raise UnknownSettingError(f"{what} has no setting {name!r}; known are {', '.join(known)}")
