"""What single models add to `gvae plot` and `gvae report`: panels by title, see `Estimator.report_sections`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gvae.panels import Histogram, Images, Line, Lines, Matrix, Panel, Table

__all__ = ["confusion", "information", "loadings", "names_of_columns", "units", "weights"]

Sections = dict[str, list[Panel]]


def confusion(model: Any, X: Any, y: Any) -> Sections:
    """Labels of a classifier's rows against its predictions."""
    names = [str(c) for c in model.classes_]
    labels, predicted = model._read(X, y)["y"], model.predict_proba(X).argmax(axis=1)
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, predicted), 1)
    right = np.trace(counts) / counts.sum()
    title = f"{len(predicted)} rows, {right:.1%} right; label down, prediction across"
    return {"Confusion": [Matrix(counts.astype(float), None, names, names, counts=True, title=title)]}


def information(model: Any) -> Sections:
    """The mutual information of code and data under the model by epoch, next to the target."""
    rows = [row for row in model.history_ if "train_information" in row]
    if not rows:
        return {}
    epochs, found = [row["epoch"] for row in rows], [row["train_information"] for row in rows]
    lines = [
        Line(epochs, found, "found by the recogniser", 0),
        Line(epochs, [model.nats] * len(rows), "asked for", 1, thin=True),
    ]
    title = f"of code and data: {model.nats:g} nats asked for, {found[-1]:.2f} found"
    return {"Mutual information": [Lines(lines, "epoch", "nats", title=title)]}


def loadings(model: Any, X: Any) -> Sections:
    """W of x | z ~ p(x; W z + b), where the data are standardized in standard deviations of each column."""
    W = np.asarray(model.parameters_["decoder.0.weight"], np.float64)[:, : model.n_features_in_]
    codes = [f"z{j}" for j in range(len(W))]
    if X.ndim == 3:
        shown = 0.5 + 0.5 * W / np.maximum(np.abs(W).max(axis=1, keepdims=True), np.finfo(float).tiny)
        return {"Loadings": [Images({"": shown}, X.shape[1:], min(len(W), 12), title="each column of W; grey is 0")]}
    names = getattr(model, "feature_names_in_", range(W.shape[1]))
    title = "W" if model.views_["x"].units is None else "W, in standard deviations of each column"
    return {"Loadings": [Matrix(W.T, None, [str(name) for name in names], codes, title=title)]}


def names_of_columns(model: Any) -> list[str] | None:
    """The column names of the DataFrame of the fit, or of the file that `gvae train` read; None if they had none."""
    names = getattr(model, "feature_names_in_", model.notes_.get("names"))  # the notes are the user's, and unchecked
    fits = names is not None and not isinstance(names, str) and len(names) == model.n_features_in_
    return [str(name) for name in names] if fits else None


def units(model: Any, X: Any) -> Sections:
    """The columns of each unit of a family of counts, layer by layer: their names or, where rows are images, pictures."""
    shape = _image_shape(model, X)
    panels: list[Panel] = []
    if shape is None:
        for layer, words in model.top_words().items():
            rows = [[f"{layer}[{k}]", ", ".join(map(str, unit))] for k, unit in enumerate(words.tolist())]
            panels.append(Table(["unit", "columns of largest weight"], rows, title=f"{layer}: {len(rows)} units"))
    else:
        for layer, w in model.model_.loadings(model.parameters_).items():
            shown = (w / np.maximum(w.max(axis=0), np.finfo(float).tiny)).clip(0, 1).T
            title = f"{layer}: weights of {len(shown)} units, each relative to its largest"
            panels.append(Images({"": shown}, shape, min(len(shown), 12), title=title))
    return {"Units": panels}


def _image_shape(model: Any, X: Any) -> tuple[int, int] | None:
    """The shape of rows that are images; columns without names are taken for a square image, of 8 x 8 or more, if they form
    one."""
    if len(X.shape) == 3:
        return X.shape[1], X.shape[2]
    side = math.isqrt(model.n_features_in_)
    square = side >= 8 and side * side == model.n_features_in_ and names_of_columns(model) is None
    return (side, side) if square else None


def weights(model: Any) -> Sections:
    """Standard deviations of the posterior of a Bayesian decoder's weights, by layer."""
    params, prefix = model.parameters_, "decoder_log_scale."
    scales = {
        f"layer {name.split('.')[1]}": np.log10(np.e) * np.asarray(value, np.float64).ravel()
        for name, value in params.items()
        if name.startswith(prefix) and name.endswith(".weight")
    }
    edges = np.histogram_bin_edges(np.concatenate(list(scales.values())), 40)
    heights = {name: np.histogram(s, edges, density=True)[0] for name, s in scales.items()}
    title = f"of the decoder's weights; the prior's is {model.alpha:g}"
    across = "log10 of the posterior's standard deviation"
    return {"Weights": [Histogram(edges, heights, across, "density of weights", title=title)]}
