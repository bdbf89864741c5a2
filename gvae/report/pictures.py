"""The parts of a run as pictures, by matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gvae import evaluation, plots
from gvae.errors import RunError
from gvae.report.exhibit import Absent, Exhibit
from gvae.report.track import read_track

__all__ = ["PARTS", "draw"]

SHOWN = 12  # images in a row, columns of a table
LARGEST = 256  # variables of a covariance that is drawn


def draw(exhibit: Exhibit, part: str, path: str | os.PathLike) -> bool:
    """Draw a part of a run, or note in `exhibit.reasons` why it cannot be drawn.

    Parameters
    ----------
    exhibit : Exhibit
    part : str
        A key of `PARTS`.
    path : path
        The picture; its extension is the format, such as .png, .svg or .pdf.

    Returns
    -------
    bool
        Whether it was drawn.

    Raises
    ------
    DependencyError
        matplotlib is not installed.
    RunError
        The file cannot be written.
    """
    return exhibit.show(part, lambda: PARTS[part](exhibit, Path(path)))


def curves(e: Exhibit, path: Path) -> None:
    """Bounds by epoch, with the events of the log."""
    rows, events = e.log
    if not rows:
        raise Absent("the log has no epoch yet")
    plots.learning_curves(path, {e.name: rows}, events=events)


def evaluated(e: Exhibit, path: Path) -> None:
    """The evaluation as text, the rows' log p(x) and Pareto k; of a classifier, its confusions."""
    result = e.evaluation
    figure = plots.new_figure(10, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    if e.model.model_.conditional:
        _confusion(left, np.asarray(e.y), e.model.predict(e.X), e.model.classes_)
    else:
        bins = np.histogram_bin_edges(
            np.concatenate([result.elbo, result.log_likelihood]), min(40, 5 + len(result.elbo) // 5)
        )
        left.hist(result.elbo, bins, alpha=0.6, label="ELBO")
        left.hist(result.log_likelihood, bins, alpha=0.6, label="log p(x)")
        left.set(xlabel="nats", ylabel="rows")
        left.legend(frameon=False)
    right.set_axis_off()
    right.text(0, 1, evaluation.table(result), family="monospace", fontsize=6.5, va="top").set_in_layout(False)
    figure.suptitle(f"{e.name}: the first {len(result.elbo)} test rows, nats per row", fontsize="medium")
    plots.write_figure(figure, path)


def _confusion(axis: Any, truth: np.ndarray, predicted: np.ndarray, classes: np.ndarray) -> None:
    place = {c: i for i, c in enumerate(classes.tolist())}
    counts = np.zeros((len(place), len(place)), int)
    np.add.at(counts, ([place[c] for c in truth.tolist()], [place[c] for c in predicted.tolist()]), 1)
    axis.imshow(np.log1p(counts), cmap="Blues")
    for (i, j), n in np.ndenumerate(counts) if len(place) <= 20 else ():
        if n:
            axis.text(j, i, str(n), ha="center", va="center", fontsize=7, color="white" if n > counts.max() / 4 else "black")
    ticks = range(len(place)) if len(place) <= 20 else ()
    axis.set_xticks(ticks, [str(classes[i])[:12] for i in ticks], rotation=90 if len(str(classes[0])) > 2 else 0)
    axis.set_yticks(ticks, [str(classes[i])[:12] for i in ticks])
    axis.set(xlabel="predicted", ylabel="label")


def covariance(e: Exhibit, path: Path) -> None:
    """Covariance and correlations of q(z|x) for some rows, beside the pattern of the precision."""
    q = e.model.posterior_of(e.X[:3], None if e.y is None else e.y[:3])
    q = next(iter(q.values())) if isinstance(q, dict) else q
    if not hasattr(q, "covariance") or q.n > LARGEST:
        raise Absent(f"{type(q).__name__} of {q.n} variables has no covariance to look at (at most {LARGEST})")
    try:
        c = np.asarray(q.covariance(), np.float64)
    except NotImplementedError:
        raise Absent(f"{type(q).__name__} has no covariance in closed form") from None
    c = np.broadcast_to(c, (min(3, len(e.X)), *c.shape[-2:]))
    scale = np.sqrt(np.einsum("...ii->...i", c))
    r = c / (scale[:, :, None] * scale[:, None, :])
    precision = np.abs(np.linalg.inv(c))
    figure = plots.new_figure(2.6 * len(c) + 2.2, 5.0)
    axes = figure.subplots(2, len(c) + 1)
    for k, (cov, cor) in enumerate(zip(c, r, strict=True)):
        _matrix(axes[0, k], cov, np.abs(c).max(), f"row {k}: covariance")
        _matrix(axes[1, k], cor, 1.0, "correlations")
    _matrix(axes[0, -1], (precision > 1e-6 * precision.max()).any(0).astype(float), 1.0, "precision: non-zero entries")
    axes[1, -1].plot(scale.T, ".-", markersize=3, linewidth=0.8)
    axes[1, -1].xaxis.get_major_locator().set_params(integer=True)
    axes[1, -1].set_title("standard deviations", fontsize="small")
    plots.write_figure(figure, path)


def _matrix(axis: Any, matrix: np.ndarray, limit: float, title: str) -> None:
    axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axis.set_title(title, fontsize="small")
    axis.set_xticks([])
    axis.set_yticks([])


def reconstructions(e: Exhibit, path: Path) -> None:
    """Originals above their reconstructions; of a table, columns against their reconstructions."""
    e.views_only()
    if e.image_shape is not None:
        few = e.X[: min(SHOWN, len(e.X))]
        again = _of_x(e.model.reconstruct(few))
        plots.reconstructions(path, few.reshape(len(few), -1), {"reconstruction": again}, e.image_shape)
        return
    x, again = _dense(e.X), _of_x(e.model.reconstruct(e.X))
    figure, axes = _grid(min(SHOWN, x.shape[1]))
    for j, axis in enumerate(axes):
        axis.plot(x[:, j], again[:, j], ".", markersize=2, alpha=0.5)
        low, high = min(x[:, j].min(), again[:, j].min()), max(x[:, j].max(), again[:, j].max())
        axis.plot([low, high], [low, high], color="0.6", linewidth=0.7)
        axis.set_title(e.names[j][:28], fontsize="small")
    figure.supxlabel("value", fontsize="small")
    figure.supylabel("mean given the code", fontsize="small")
    plots.write_figure(figure, path)


def samples(e: Exhibit, path: Path) -> None:
    """A sheet of images from the prior; of a table, the columns' distributions in data and in draws."""
    e.views_only()
    if e.image_shape is not None:
        plots.samples(path, {e.name: _of_x(e.model.sample(60))}, e.image_shape)
        return
    x, drawn = _dense(e.X), _of_x(e.model.sample(1000, draw=True))
    figure, axes = _grid(min(SHOWN, x.shape[1]))
    for j, axis in enumerate(axes):
        bins = np.histogram_bin_edges(np.concatenate([x[:, j], np.quantile(drawn[:, j], [0.005, 0.995])]), 30)
        axis.hist(x[:, j], bins, density=True, alpha=0.6, label="data")
        axis.hist(drawn[:, j], bins, density=True, histtype="step", color="C1", label="draws of the model")
        axis.set_title(e.names[j][:28], fontsize="small")
        axis.set_yticks([])
    axes[0].legend(frameon=False, fontsize=6)
    plots.write_figure(figure, path)


def codes(e: Exhibit, path: Path) -> None:
    """Posterior means on their first two principal axes, coloured by label."""
    z = e.model.transform(e.X)
    z = np.asarray(z, np.float64)
    centred = z - z.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    at = centred @ axes[:2].T if z.shape[1] > 1 else np.stack([centred[:, 0], np.zeros(len(z))], axis=1)
    figure = plots.new_figure(6, 5.2)
    axis = figure.subplots()
    groups = [("", np.ones(len(z), bool))] if e.labels is None else [(str(c), e.labels == c) for c in np.unique(e.labels)]
    for i, (name, chosen) in enumerate(groups):
        colour = f"C{i}" if len(groups) <= 10 else None
        axis.plot(*at[chosen].T, ".", markersize=3, alpha=0.7, label=name[:20] or None, color=colour)
    if e.labels is not None:
        axis.legend(frameon=False, fontsize=7, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    share = np.square(spread) / max(np.square(spread).sum(), np.finfo(float).tiny)
    words = [f"principal axis {k + 1}, {share[k]:.0%} of the variance" for k in range(min(2, len(share)))]
    axis.set(xlabel=words[0], ylabel=words[-1] if len(words) > 1 else "", title=f"posterior means of {len(z)} test rows")
    plots.write_figure(figure, path)


def units(e: Exhibit, path: Path) -> None:
    """The KL of each latent variable, largest first, by layer."""
    summary = e.evaluation.summary()
    if "units" not in summary:
        raise Absent("the model has no units to list")
    layers = summary["units"]["layers"]
    figure = plots.new_figure(7, 1.2 + 1.8 * len(layers))
    for i, (axis, layer) in enumerate(zip(np.atleast_1d(figure.subplots(len(layers), 1)), layers, strict=True)):
        order = np.argsort(layer["kl"])[::-1]
        active = np.asarray(layer["activity"])[order] > 0.01
        heights = np.asarray(layer["kl"])[order]
        axis.bar(np.arange(len(order)), heights, color=np.where(active, "C0", "0.75"))
        if len(order) <= 64:
            axis.set_xticks(np.arange(len(order)), [str(j) for j in order], fontsize=6)
        which = f"layer {i + 1}: " if len(layers) > 1 else ""
        axis.set_title(f"{which}{layer['active']} of {layer['units']} variables active (blue)", fontsize="small")
        axis.set_ylabel("KL, nats", fontsize="small")
    plots.write_figure(figure, path)


def factors(e: Exhibit, path: Path) -> None:
    """The posterior mean and the entries of its Cholesky factor for one row, by epoch."""
    try:
        tracked = read_track(e.path)
    except RunError as error:
        raise Absent(str(error)) from None
    figure = plots.new_figure(10, 3.4 * len(tracked))
    for axes, (code, kept) in zip(figure.subplots(len(tracked), 2, squeeze=False), tracked.items(), strict=True):
        epochs, N = kept["epoch"], kept["mean"].shape[1]
        axes[0].plot(epochs, kept["mean"], linewidth=0.9)
        axes[0].set(xlabel="epoch", title=f"{code}: posterior mean of row {kept['row']}")
        for k, offset in enumerate(kept["offsets"]):
            lines = axes[1].plot(epochs, kept["chol"][:, k, : N - offset], color=f"C{k}", linewidth=0.9)
            if lines:
                lines[0].set_label("diagonal" if offset == 0 else f"offset {offset}")
        axes[1].set(xlabel="epoch", title="entries of the precision's Cholesky factor")
        axes[1].legend(frameon=False, fontsize=7)
    plots.write_figure(figure, path)


def _grid(n: int) -> tuple[Any, Sequence[Any]]:
    columns = min(4, n)
    figure = plots.new_figure(2.4 * columns, 2.0 * -(-n // columns))
    axes = figure.subplots(-(-n // columns), columns, squeeze=False).ravel()
    for axis in axes[n:]:
        axis.set_axis_off()
    for axis in axes:
        axis.tick_params(labelsize=6)
    return figure, axes[:n]


def _dense(X: Any) -> np.ndarray:
    return np.asarray(X.toarray() if hasattr(X, "toarray") else X)


def _of_x(views: Any) -> np.ndarray:
    return _dense(views["x"] if isinstance(views, dict) else views)


PARTS: dict[str, Callable[[Exhibit, Path], None]] = {
    "curves": curves,
    "evaluation": evaluated,
    "covariance": covariance,
    "reconstructions": reconstructions,
    "samples": samples,
    "codes": codes,
    "units": units,
    "factors": factors,
}
