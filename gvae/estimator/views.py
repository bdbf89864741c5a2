"""How each column of the data is shown to a model, as the fit has found it and every later call repeats it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import data, families
from gvae.distributions import Support
from gvae.errors import RunError
from gvae.estimator import inputs

__all__ = ["View", "data_support"]

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
    return Support() if observation in (None, "auto") else families.parse(observation, n).support


@dataclass
class View:
    """A column of numbers, of kind "matrix" or "counts".

    name        : in messages                       columns  : how many there are
    observation : the text of the family that explains it, or None where the model only reads it
    binarize    : see gvae.data.Table               dequantize : likewise
    grey        : whether uint8 are grey levels; None: there were none
    units       : its standardization, or None      names : of its columns, if it has any
    why         : the reason for what `auto` has chosen, or ""
    image_shape : (rows, columns) where the training rows came as images
    flat        : whether the training rows were one number each, (N,): what is said of the column then is, too
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
    ) -> tuple[View, Any, Any]:
        """(the view, its training rows, its validation rows or None), checked, and not standardized yet.

        begun : of a run that is continued, what it has found: that stays as it was
        """
        dtype, other = np.dtype(settings["dtype"]), "validation" if name == "X" else f"validation {name}"
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
        x, grey = inputs.as_matrix(X, dtype, name, grey=_grey(observation, raw), exact=exact, model=model)
        v = None
        if validation is not None:
            given = {"columns": x.shape[1], "grey": grey, "exact": exact, "model": model}
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

    @property
    def support(self) -> Support:
        return data_support(self.observation, self.binarize, self.columns)

    def check(self, x: Any, validation: Any = None) -> None:
        """Raise DataError for rows outside of the support."""
        data.check_support(x, self.support, self.name, names=self.names)
        if validation is not None:
            other = "validation" if self.name == "X" else f"validation {self.name}"
            data.check_support(validation, self.support, other, names=self.names)

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
        one_scale = self.observation is not None and families.parse(self.observation, self.columns).one_scale
        levels = self.dequantize
        self.units = kept or data.Standardization.of(x, levels=levels, one_scale=one_scale, weight=weight, name=self.name)
        if validation is not None:
            self.units.check(validation, self.dtype, "validation" if self.name == "X" else f"validation {self.name}")

    def name_constant(self, x: np.ndarray) -> None:
        """Warn of columns without a scale."""
        if not self.standardized or self.dequantize is not None or self.observation is None:
            return
        constant = np.flatnonzero((x == x[:1]).all(axis=0))
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
        """Of the observation, in the units of the data."""
        assert self.observation is not None
        family = families.parse(self.observation, self.columns)
        return family if self.units is None else families.Rescaled(family, self.units.scale)

    def read(self, X: Any, model: str) -> Any:
        """Rows as those of the fit: checked, in the units of the data."""
        inputs.check_names(X, self.names, model)
        X = inputs.as_columns(X) if self.name != "X" else X
        if self.kind == "counts":
            x = inputs.as_counts(X, self.dtype, self.name, columns=self.columns, model=model)
        else:
            given: dict[str, Any] = {"columns": self.columns, "grey": self.grey, "model": model}
            given["exact"] = self.units is not None
            x, _ = inputs.as_matrix(X, self.dtype, self.name, **given)
        self.check(x)
        if self.units is not None:
            self.units.check(x, self.dtype, self.name)
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
        raise RunError(f"{path} is damaged: its standardization is none: {error}") from None
    if len(units.location) != n:
        raise RunError(f"{path} is damaged: its standardization is of {len(units.location)} columns, expected {n}")
    return units


def _auto(settings: Mapping[str, Any], parts: list[np.ndarray], **about: bool) -> tuple[str, str]:
    """The observation family that suits the data, and why."""
    if settings["binarize"] not in (None, "none"):
        return "bernoulli", "the data are binarized"
    if settings["dequantize"] is not None:
        return "gaussian", "the data are dequantized"
    return data.kind(parts, **about)


def _grey(observation: str | None, raw: np.ndarray) -> bool | None:
    """False if bytes are no grey levels because the observation model is one of whole numbers; else let the data say."""
    if observation in (None, "auto") or raw.ndim not in (2, 3) or 0 in raw.shape:
        return None
    return False if data_support(observation, None, math.prod(raw.shape[1:])).whole else None


def _binarization(settings: Mapping[str, Any], observation: str | None, x: np.ndarray) -> str:
    if settings["binarize"] is not None:
        return settings["binarize"]
    may_be_grey = observation == "bernoulli" and settings["dequantize"] is None
    parts = (x[i : i + 1000] for i in range(0, len(x), 1000))  # grey shows in the first of them, as a rule
    return "dynamic" if may_be_grey and any(((part > 0) & (part < 1)).any() for part in parts) else "none"
