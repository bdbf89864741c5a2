"""How each column of the data is shown to a model, as the fit has found it and every later call repeats it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import data, families
from gvae.data.rows import Column, numbers_of, stored_in
from gvae.distributions import Support
from gvae.errors import ConfigError, DataError, RunError
from gvae.estimator import inputs

__all__ = ["View", "data_support"]

BLOCK = 10_000  # rows that are converted at once

logger = logging.getLogger(__name__)


def data_support(observation: str | None, binarize: str | None, n: int) -> Support:
    """Support that data must have: [0, 1] for data to binarize, else that of the observation model.

    Parameters
    ----------
    observation : str or None
        As the setting of that name.
    binarize : str or None
        As the setting of that name.
    n : int
        The number of columns.

    Returns
    -------
    Support
        See `gvae.families`.

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> str(gvae.estimator.data_support("poisson", None, 3))
    '0, 1, ..'
    """
    if binarize not in (None, "none"):
        return Support(0, 1)
    return Support() if observation in (None, "auto") else families.parse(observation, n, "observation").support


@dataclass
class View:
    """A column of numbers, of kind "matrix" or "counts".

    name        : in messages                       columns  : how many there are
    observation : the text of the family that explains it, or None where the model only reads it
    binarize    : see gvae.data.Table               dequantize : see gvae.data.Table
    grey        : whether uint8 are grey levels; None: there were none
    units       : its standardization, or None      names : the names of its columns, if it has any
    why         : the reason for what `auto` has chosen, or ""
    image_shape : (rows, columns) where the training rows came as images
    flat        : whether the training rows were one number each, (N,): what the model returns for it then is, too
    """

    name: str
    kind: str
    columns: int
    dtype: np.dtype
    observation: str | None
    binarize: str = "none"
    dequantize: int | None = None
    grey: bool | None = None
    units: data.Standardization | None = None
    names: np.ndarray | None = None
    why: str = ""
    standardized: bool = False
    image_shape: tuple[int, ...] | None = None
    flat: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        X: Any,
        validation: Any,
        settings: Mapping[str, Any],
        observation: str | None,
        begun: Mapping[str, Any] | None,
        model: str,
        target: bool = False,
    ) -> tuple[View, Any, Any]:
        """(the view, its training rows, its validation rows or None), checked, and not standardized yet.

        begun  : what a run that is continued has found, which is kept
        target : whether it is predicted, so that bytes are numbers
        """
        dtype, other = np.dtype(settings["dtype"]), "validation" if name == "X" else f"validation {name}"
        if isinstance(X, data.Rows):
            return cls._of_rows(name, kind, X, validation, settings, observation, begun, model, target)
        inputs.check_names_of_validation(validation, inputs.names_of(X), other)
        validation = inputs.loaded(validation)
        if kind == "counts":
            x = inputs.as_counts(X, dtype, name, model=model)
            v = None if validation is None else inputs.as_counts(validation, dtype, other, columns=x.shape[1], model=model)
            view = cls(name, kind, x.shape[1], dtype, observation, names=inputs.names_of(X))
            view.image_shape = None if hasattr(X, "tocsr") or np.ndim(X) != 3 else np.shape(X)[1:]
            view.check(x, v)
            return view, x, v
        flat = name != "X" and np.asarray(X).ndim == 1
        X, validation = (inputs.as_columns(a) if name != "X" else a for a in (X, validation))
        raw, exact = inputs.numbers(X, name, model), settings["standardize"]
        known_grey = False if target or flat else _grey(observation, raw.shape)
        x, grey = inputs.as_matrix(X, dtype, name, grey=known_grey, exact=exact, model=model)
        v = None
        if validation is not None:
            given = {"columns": x.shape[1], "grey": known_grey if grey is None else grey, "exact": exact, "model": model}
            v, _ = inputs.as_matrix(validation, dtype, other, **given)
        why, chosen, n = "", observation, x.shape[1]
        if observation in (None, "auto"):
            found, why = _auto(settings, [x] if v is None else [x, v], images=raw.ndim == 3, grey=bool(grey))
            chosen = found if observation == "auto" else None
            if begun is not None and observation == "auto" and isinstance(begun.get("observation"), str):
                chosen, why = begun["observation"], "as the run was begun"
            real = found == "gaussian"
        else:
            real = True
        standardized = exact and real and data_support(chosen, settings["binarize"], n) == Support()
        if not standardized:
            x, v = inputs.converted(x, dtype, name), None if v is None else inputs.converted(v, dtype, other)
        binarize = _binarization(settings, chosen, x)
        view = cls(name, kind, n, dtype, chosen, binarize, settings["dequantize"], grey, None, inputs.names_of(X), why)
        view.flat = flat
        view.standardized, view.image_shape = standardized, raw.shape[1:] if raw.ndim == 3 else None
        view.check(x, v)
        return view, x, v

    @classmethod
    def _of_rows(
        cls,
        name: str,
        kind: str,
        X: Any,
        validation: Any,
        settings: Mapping[str, Any],
        observation: str | None,
        begun: Mapping[str, Any] | None,
        model: str,
        target: bool,
    ) -> tuple[View, Any, Any]:
        """As `of`, for rows that are converted when they are taken. Those of a file are read only as far as what is chosen
        depends on them, and checked when they are read."""
        n, dtype = math.prod(X.shape[1:]), np.dtype(settings["dtype"])
        inputs.check_rows((X.shape[0], n) if len(X.shape) == 3 else X.shape, name, None, model)
        view = cls(name, kind, n, dtype, observation, names=inputs.named(X))
        known, ahead = begun if reads_ahead(X) else None, reads_ahead(X)
        if len(X.shape) == 3:
            view.image_shape = tuple(X.shape[1:])
        if kind == "counts":
            x = view.column(X, model)
            v = None if validation is None else view.read(validation, model, fitted=False)
            view.check(x, v)
            return view, x, v
        view.dequantize, exact = settings["dequantize"], settings["standardize"]
        if X.dtype == np.uint8:
            by_kind = False if target else _grey(observation, X.shape)
            view.grey = by_kind if known is None else known["grey_levels"]
            if view.grey is None:
                stored = Column(X, lambda x: x, tuple(X.shape), X.dtype, read_ahead=ahead)
                view.grey = any(block.max() > 1 for block in stored.blocks(BLOCK))
        view.standardized = exact
        x = view.column(X, model)
        v = None if validation is None else view.read(validation, model, fitted=False)
        real, chosen = True, observation
        if known is not None:
            chosen = known["observation"]
            real, view.why = "standardization" in known, "as the run was begun" if observation == "auto" else ""
        elif observation in (None, "auto"):
            found, view.why = _auto(settings, [x] if v is None else [x, v], images=len(X.shape) == 3, grey=bool(view.grey))
            chosen = found if observation == "auto" else None
            if begun is not None and observation == "auto" and isinstance(begun.get("observation"), str):
                chosen, view.why = begun["observation"], "as the run was begun"
            real = found == "gaussian"
        view.observation = chosen
        view.standardized = exact and real and data_support(chosen, settings["binarize"], n) == Support()
        if not view.standardized:
            x, v = view.column(X, model), None if validation is None else view.read(validation, model, fitted=False)
        view.binarize = known["binarize"] if known is not None else _binarization(settings, chosen, x)
        x = view.column(X, model)  # the support that is checked follows from what was chosen
        if not ahead:
            for begin in range(0, X.shape[0], BLOCK):
                numbers = np.arange(begin, min(begin + BLOCK, X.shape[0]))
                data.check_finite(X.take(numbers), name, rows=numbers_of(X, numbers))
        view.check(x, v)
        return view, x, v

    def column(self, rows: Any, model: str, said: str | None = None) -> Column:
        """Rows that are converted when they are taken; those that are not in memory are checked then, too."""
        said, ahead = said or self.name, reads_ahead(rows)
        inputs.check_rows((rows.shape[0], math.prod(rows.shape[1:])), said, self.columns, model)
        base, names = stored_in(rows), self.names if self.names is not None else inputs.named(rows)
        where = f"{said} ({base.where})" if hasattr(base, "where") else said
        wide = self.standardized and not np.can_cast(rows.dtype, self.dtype)
        dtype = np.dtype(np.float64) if wide and self.kind == "matrix" else self.dtype

        def convert(x: Any, name: str = where, numbers: Any = None) -> Any:
            if self.kind == "counts":
                return inputs.as_counts(x, self.dtype, name, columns=self.columns, model=model, rows=numbers)
            return inputs.presented(x, dtype, bool(self.grey))

        def check(x: Any, numbers: np.ndarray) -> None:
            if not len(numbers):
                return
            name = f"{where}, rows {numbers.min()} to {numbers.max()}"
            data.check_finite(x, name, names=names, rows=numbers)
            narrower = self.kind == "matrix" and x.dtype.kind == "f" and x.dtype.itemsize > dtype.itemsize
            if not narrower and self.support == Support() and self.kind == "matrix":
                return
            shown = convert(x, name, numbers)
            if narrower:
                data.check_finite(shown, f"{name} as {dtype}", names=names, rows=numbers)
            data.check_support(shown, self.support, name, names=names, rows=numbers)

        return Column(rows, convert, (rows.shape[0], self.columns), dtype, check if ahead else None, ahead)

    @property
    def support(self) -> Support:
        if self.dequantize is not None:  # what is presented to the model are grey levels of [0, 1]
            return Support(0, 1)
        return data_support(self.observation, self.binarize, self.columns)

    def check(self, x: Any, validation: Any = None) -> None:
        """Raise DataError for rows outside of the support, ConfigError for dequantized rows of a model without a density."""
        if self.dequantize is not None and self.observation is not None:
            family = families.parse(self.observation, self.columns, "observation")
            if family.drawn.whole:
                raise ConfigError(
                    f"dequantize is {self.dequantize}, expected an observation with a density; {family.name} is over "
                    f"{family.drawn}"
                )
        other = "validation" if self.name == "X" else f"validation {self.name}"
        for rows, said in ((x, self.name), (validation, other)):
            if isinstance(rows, Column):
                self._check_column(rows, said)
            elif rows is not None:
                data.check_support(rows, self.support, said, names=self.names)

    def _check_column(self, column: Column, said: str) -> None:
        if column.read_ahead:
            return
        try:
            for block in column.blocks(BLOCK):
                data.check_support(block, self.support, said)
        except DataError:  # all of them, for the message
            data.check_support(column[:], self.support, said, names=self.names)
            raise

    def measure(
        self,
        x: np.ndarray,
        validation: np.ndarray | None,
        kept: data.Standardization | None,
        weight: np.ndarray | None,
    ) -> None:
        """Find location and scale of the training rows, or take those of the run that is continued."""
        if not self.standardized:
            return
        one_scale = self.observation is not None and families.parse(self.observation, self.columns, "observation").one_scale
        levels = self.dequantize
        self.units = kept or data.Standardization.of(x, levels=levels, one_scale=one_scale, weight=weight, name=self.name)
        if validation is not None:
            self.units.check(validation, self.dtype, "validation" if self.name == "X" else f"validation {self.name}")

    def name_constant(self, x: np.ndarray) -> None:
        """Warn of columns without a scale."""
        if not self.standardized or self.dequantize is not None or self.observation is None:
            return
        constant = np.flatnonzero(_is_constant(x, self.units))
        if len(constant):
            shown = ", ".join(map(str, constant[:10])) + (", ..." if len(constant) > 10 else "")
            logger.warning(
                "fit: %d of %d columns of %s are constant (%s; counted from 0): a density has no maximum there; leave them "
                "out",
                len(constant),
                x.shape[1],
                self.name,
                shown,
            )

    def family(self) -> families.Family:
        """The family of the observation, in the units of the data."""
        if self.observation is None:  # in a configuration that was changed
            raise ConfigError(f"{self.name}: observation is None, expected the family by which the model explains it")
        family = families.parse(self.observation, self.columns, "observation")
        return family if self.units is None else families.Rescaled(family, self.units.scale)

    def read(self, X: Any, model: str, *, fitted: bool = True, rows: Any = None) -> Any:
        """Rows as those of the fit: checked, in the units of the data.

        fitted : whether they come after the fit; else they are rows to validate on
        rows   : their indices, if they are a part of others
        """
        said = self.name if fitted else "validation" if self.name == "X" else f"validation {self.name}"
        if not fitted:
            inputs.check_names_of_validation(X, self.names, said)
        elif rows is None:  # of a part, the whole has been checked
            inputs.check_names(X, self.names, model)
        if isinstance(X, data.Rows):
            return self.column(X, model, said)
        X = inputs.as_columns(X) if self.name != "X" else X
        if self.kind == "counts":
            x = inputs.as_counts(X, self.dtype, said, columns=self.columns, model=model, rows=rows)
        else:
            grey = self.grey
            if grey is None:  # the fit saw no bytes
                grey = False if self.flat else _grey(self.observation, (1, self.columns))
            given: dict[str, Any] = {"columns": self.columns, "grey": grey, "model": model, "rows": rows}
            given["exact"] = self.units is not None if fitted else self.standardized
            x, _ = inputs.as_matrix(X, self.dtype, said, **given)
        if not fitted:
            return x
        data.check_support(x, self.support, said, names=self.names, rows=rows)
        if self.units is not None:
            self.units.check(x, self.dtype, said)
        return x

    def seen(self, x: Any) -> Any:
        """Rows as a model reads them where nothing is drawn: standardized, and not binarized."""
        return x if self.units is None else self.units(x, self.dtype)

    def output(self, x: Any) -> np.ndarray:
        """What a model says of the column, in the units of the data."""
        shown = np.asarray(x) if self.units is None else self.units.inverse(x)
        return shown[..., 0] if self.flat else shown

    def deviation(self, x: Any) -> np.ndarray:
        """Standard deviations that a model says of the column, in the units of the data."""
        shown = np.asarray(x) if self.units is None else x * self.units.scale
        return shown[..., 0] if self.flat else shown

    @property
    def presentation(self) -> dict[str, Any]:
        """For gvae.data.Table."""
        return {
            "binarize": self.binarize,
            "dequantize": self.dequantize,
            "standardization": self.units,
            "dtype": self.dtype,
        }

    def __str__(self) -> str:
        """What was chosen, and why: for people."""
        said = [f"observation {self.observation}" if self.observation else "read"]
        if self.why:
            said[0] += f" ({self.why})"
        if self.binarize != "none":
            said.append(f"{self.binarize} binarization")
        if self.dequantize:
            said.append(f"dequantized from {self.dequantize} levels")
        if self.standardized:
            said.append("standardized")
        return ", ".join(said)

    # ---- as JSON

    def as_config(self) -> dict[str, Any]:
        kept: dict[str, Any] = {
            "binarize": self.binarize,
            "observation": self.observation,
            "n_features_in": self.columns,
            "grey_levels": self.grey,
        }
        if self.names is not None:
            kept["feature_names"] = [str(name) for name in self.names]
        if self.units is not None:
            kept["standardization"] = self.units.as_config()
        if self.flat:
            kept["flat"] = True
        return kept

    @classmethod
    def from_config(cls, kept: Mapping[str, Any], name: str, kind: str, settings: Mapping[str, Any], path: object) -> View:
        """What `as_config` gave. Raises RunError, KeyError for anything else."""
        n, dtype = kept["n_features_in"], np.dtype(settings["dtype"])
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise RunError(f"{path} is damaged: n_features_in is {n!r}, expected a whole number of at least 1")
        if kept["binarize"] not in data.BINARIZATIONS:
            raise RunError(f"{path} is damaged: unknown binarization {kept['binarize']!r}")
        names = kept.get("feature_names")
        units = units_of(kept, path)
        dequantize = settings.get("dequantize") if kind == "matrix" else None
        columns = None if names is None else np.array(names, dtype=object)
        shown = {"binarize": kept["binarize"], "dequantize": dequantize, "grey": kept["grey_levels"], "units": units}
        return cls(
            name,
            kind,
            n,
            dtype,
            kept["observation"],
            **shown,
            names=columns,
            standardized=units is not None,
            flat=kept.get("flat") is True,
        )


def units_of(fitted: Mapping[str, Any], path: object) -> data.Standardization | None:
    """The standardization that the configuration read from a path holds."""
    kept, n = fitted.get("standardization"), fitted.get("n_features_in")
    if kept is None:
        return None
    try:
        units = data.Standardization.from_config(kept)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is damaged: its standardization is not valid: {error}") from None
    if len(units.location) != n:
        raise RunError(f"{path} is damaged: its standardization is of {len(units.location)} columns, expected {n}")
    return units


def _auto(settings: Mapping[str, Any], parts: list[Any], **about: bool) -> tuple[str, str]:
    """The observation family that suits the data, and why."""
    if settings["binarize"] not in (None, "none"):
        return "bernoulli", "the data are binarized"
    if settings["dequantize"] is not None:
        return "gaussian", "the data are dequantized"
    return data.kind(parts, **about)


def reads_ahead(rows: Any) -> bool:
    """Whether rows are in a file."""
    base = stored_in(rows)
    return not isinstance(base, data.ArrayRows) or isinstance(base.array, np.memmap)


def _is_constant(x: Any, units: data.Standardization | None) -> np.ndarray:
    """Which columns have one value only."""
    if not isinstance(x, Column):
        return (x == x[:1]).all(axis=0)
    constant = np.ones(x.shape[1], bool) if units is None else units.scale == 1
    first = x[:1]
    if constant.any():
        for block in x.blocks(BLOCK):
            constant &= (block == first).all(axis=0)
    return constant


def _grey(observation: str | None, shape: tuple[int, ...]) -> bool | None:
    """False if bytes are not grey levels because the observation model is one of whole numbers; else let the data say."""
    if observation in (None, "auto") or len(shape) not in (2, 3) or 0 in shape:
        return None
    return False if data_support(observation, None, math.prod(shape[1:])).whole else None


def _binarization(settings: Mapping[str, Any], observation: str | None, x: Any) -> str:
    if settings["binarize"] is not None:
        return settings["binarize"]
    may_be_grey = observation == "bernoulli" and settings["dequantize"] is None
    # grey shows in the first of them, as a rule
    parts = x.blocks(1000) if isinstance(x, Column) else (x[i : i + 1000] for i in range(0, len(x), 1000))
    return "dynamic" if may_be_grey and any(((part > 0) & (part < 1)).any() for part in parts) else "none"
