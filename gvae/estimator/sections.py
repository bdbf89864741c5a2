"""What single models add to `gvae plot` and `gvae report`: panels by title, see `Estimator.report_sections`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gvae.panels import Histogram, Images, Matrix, Panel

__all__ = ["confusion", "loadings", "weights"]

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
