"""A run and its data, read when they are needed. What is missing or damaged is said in a sentence, and the rest is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gvae import data, estimator, training
from gvae.data.loaders import noted_folder
from gvae.errors import ConfigError, GvaeError
from gvae.estimator import origin
from gvae.panels import Panel

__all__ = ["Absent", "Exhibit", "by_view", "dense", "image_shape_of", "of_x"]

ROWS = 1000  # test rows that are evaluated and mapped


class Absent(Exception):
    """Why a part cannot be shown: a sentence."""


@dataclass
class Exhibit:
    """A run folder, or a saved model, and the data that it was trained on.

    Parameters
    ----------
    path : path
        A run folder, or a file written by `save`.
    source : str, optional
        The data to show; by default those of training.
    data_dir : str, optional
        Folder of the named data sets.
    first : int, default 1000
        The number of test rows that are evaluated and mapped.
    samples : int, default 100
        Draws per row of the evaluation.

    reasons : dict of str to list of str
        Why parts cannot be shown: the parts, by reason.
    remarks : list of str
        What is to be said of the rows, once they are read.
    """

    path: Path
    source: str | None = None
    data_dir: str | None = None
    first: int = ROWS
    samples: int = 100
    reasons: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name or str(self.path)

    @cached_property
    def log(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows and events of the log: of the model, or, where it cannot be read, of the file."""
        try:
            return self.model.history_, self.model.events_
        except Absent:
            return training.read_history(self.path)

    @cached_property
    def model(self) -> Any:
        """The fitted estimator."""
        try:
            return estimator.load(self.path)
        except GvaeError as error:
            raise Absent(f"the model cannot be read: {error}") from None

    @cached_property
    def dataset(self) -> data.Dataset:
        notes = self.model.notes_
        source, folder = self.source or notes.get("data"), self.data_dir or noted_folder(notes)
        if not isinstance(source, str):
            raise Absent("the run does not say what it was trained on: name the data")
        try:
            target = notes.get("target") if self.source is None else None
            found = data.load(source, data_dir=folder, target=target)
        except GvaeError as error:
            raise Absent(f"the data cannot be read: {error}") from None
        origin.check_rows(self.model, found, found.test, f"{found.name}, test rows")
        self.remarks = origin.remarks(self.model, self.path, source, self.source is not None, found)
        return found

    @property
    def part(self) -> str:
        """What the rows are: "test", or "training" where none are held out."""
        return "test" if self.dataset.held_out else "training"

    @cached_property
    def X(self) -> Any:
        """The first test rows, dense: (rows, D), or images (rows, height, width) if the model was trained on images."""
        rows = dense(self.dataset.test[: self.first])
        return rows if self.image_shape is None else rows.reshape(-1, *self.image_shape)

    @cached_property
    def y(self) -> Any:
        """Their labels or second view, for models that read them."""
        columns = self.dataset.columns
        return columns["y"][1][: self.first] if "y" in columns and "y" in self.model.model_.columns else None

    @cached_property
    def labels(self) -> np.ndarray | None:
        """A class for each of these rows, to colour them by; None if the data have none."""
        known = self.dataset.columns.get("y") if self.dataset.test_labels is None else (None, self.dataset.test_labels)
        found = None if known is None else np.asarray(known[1][: self.first])
        return found if found is not None and found.ndim == 1 and len(np.unique(found)) <= 20 else None

    @property
    def image_shape(self) -> tuple[int, int] | None:
        return image_shape_of(self.model)

    @cached_property
    def evaluation(self) -> Any:
        model = self.model.model_
        further = ["classification"] if model.conditional and model.columns["y"] == "labels" else []
        given = {"samples": self.samples}
        try:
            return self.model.evaluate(self.X, self.y, **given, measures=["units", *further])
        except ConfigError:  # a model without codes, or whose codes are not drawn, has no units
            return self.model.evaluate(self.X, self.y, **given, measures=further)

    @property
    def by_row(self) -> dict[str, np.ndarray]:
        """Values of each row by name; {} where the rows cannot be evaluated."""
        try:
            result = self.evaluation
        except (Absent, GvaeError):
            return {}
        if not self.model.model_.has_bound:
            return {}
        return {result.explained: result.log_likelihood, "KL": result.kl}

    @cached_property
    def sections(self) -> dict[str, Any]:
        """What the estimator contributes, panels by title."""
        return dict(self.model.report_sections(self.X, self.y))

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns of x."""
        known = getattr(self.model, "feature_names_in_", self.dataset.names)
        return [str(n) for n in (range(self.model.n_features_in_) if known is None else known)]

    def views_only(self) -> None:
        """Raises Absent for a model that explains no view."""
        if not self.model.model_.views:
            what = "labels only" if getattr(self.model.model_, "has_bound", True) else "no view"
            raise Absent(f"the model explains {what}: there is nothing to draw")

    def attempt(self, name: str, show: Callable[[], Any]) -> Any:
        """show(), or None where it cannot be shown, with the reason in `reasons`."""
        try:
            return show()
        except (Absent, GvaeError) as reason:
            self.reasons.setdefault(str(reason), []).append(name)
            return None

    def panels(self, name: str, part: Any) -> list[Panel]:
        """The panels of a part; [] where it cannot be shown."""
        return list(self.attempt(name, lambda: part.panels(self)) or [])

    @property
    def missing(self) -> list[str]:
        """Sentences on what cannot be shown."""
        return [f"{', '.join(parts)}: {reason}" for reason, parts in self.reasons.items()]


def dense(X: Any) -> np.ndarray:
    """Rows of data, (rows, D) or images, as a dense array."""
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X)


def by_view(model: Any, found: Any) -> dict[str, np.ndarray]:
    """What `reconstruct` or `sample` of an estimator return, by view, dense."""
    views = found if isinstance(found, dict) else {model.model_.views[0]: found}
    return {view: dense(x) for view, x in views.items()}


def of_x(views: Any) -> np.ndarray:
    """The view x of what `reconstruct` or `sample` return."""
    return dense(views["x"] if isinstance(views, dict) else views)


def image_shape_of(model: Any) -> tuple[int, int] | None:
    """The shape of the images that the model was trained on, if it was. The notes are the user's, and unchecked."""
    match model.notes_.get("image_shape"):
        case [int(rows), int(columns)] if rows > 0 and rows * columns == model.n_features_in_:
            return rows, columns
    return None
