"""Models whose estimator follows from their settings: each is declared where it is defined, by `model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["MODELS", "Entry", "model"]

Class = TypeVar("Class", bound=type)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the estimator of a model is made from.

    Parameters
    ----------
    cls : type
        The model, with its `Settings`.
    estimator : str
        The name of the estimator's class.
    kind : str, default "Estimator"
        Its base class in `gvae.estimator`: "Estimator", "Classifier", "Regressor" or "Correlator".
    """

    cls: Any
    estimator: str
    kind: str = "Estimator"


MODELS: dict[str, Entry] = {}


def model(name: str, estimator: str, kind: str = "Estimator") -> Callable[[Class], Class]:
    """Class decorator: register a model. Its estimator has its settings, all shared ones, and the head of its docstring.

    Parameters
    ----------
    name : str
        For `gvae train --model`.
    estimator, kind : str
        As in `Entry`.

    Returns
    -------
    callable
        A decorator that returns the class as it is.

    Examples
    --------
    >>> from gvae.models import registry
    >>> @registry.model("again", "AgainVAE")
    ... class Again(gvae.models.VAE):
    ...     pass
    >>> registry.MODELS.pop("again").estimator
    'AgainVAE'
    """

    def register(cls: Class) -> Class:
        MODELS[name] = Entry(cls, estimator, kind)
        return cls

    return register
