"""Pictures: learning curves, images, covariances. Needs matplotlib (the extra `plot`); writes files, shows nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvae.errors import DependencyError, ShapeError

__all__ = ["covariances", "image_grid", "learning_curves", "reconstructions", "samples"]


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **settings: Any) -> tuple[Any, Any]:
    """A figure of its own, on no screen and outside matplotlib's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("pictures need matplotlib: pip install 'gvae[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def image_grid(images: np.ndarray, shape: tuple[int, int], columns: int) -> np.ndarray:
    """Images (N, D) of `shape` side by side, `columns` to a row, one pixel apart: a matrix with NaN between and after."""
    rows, cols = shape
    if images.ndim != 2 or images.shape[1] != rows * cols:
        raise ShapeError(f"image_grid: images has shape {images.shape}, expected (N, {rows} x {cols} = {rows * cols})")
    n = len(images)
    grid = np.full((-(-n // columns) * (rows + 1) - 1, min(n, columns) * (cols + 1) - 1), np.nan)
    for i, image in enumerate(images):
        r, c = (i // columns) * (rows + 1), (i % columns) * (cols + 1)
        grid[r : r + rows, c : c + cols] = image.reshape(rows, cols)
    return grid


def learning_curves(path: str | os.PathLike, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Training (thin) and validation (thick) bound by epoch, one colour per run."""
    figure, axes = _figure(7, 4.2)
    axis = axes[0, 0]
    for i, (name, rows) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in rows]
        axis.plot(epochs, [row["train_bound"] for row in rows], color=f"C{i}", linewidth=0.8, alpha=0.6)
        if rows and "validation_bound" in rows[0]:
            axis.plot(epochs, [row["validation_bound"] for row in rows], color=f"C{i}", linewidth=1.8, label=name)
    tail = [
        row["validation_bound"]
        for rows in histories.values()
        for row in rows[len(rows) // 20 :]
        if "validation_bound" in row
    ]
    best = [row["train_bound"] for rows in histories.values() for row in rows]
    if tail:
        axis.set_ylim(min(tail), max(best) + 0.05 * (max(best) - min(tail)))
    axis.set(xlabel="epoch", ylabel="bound, nats per image", title="thick: held-out images, thin: training images")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def reconstructions(
    path: str | os.PathLike, originals: np.ndarray, reconstructed: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> None:
    """A row of originals above one row of reconstructions per model."""
    rows = {"original": originals, **reconstructed}
    figure, axes = _figure(0.62 * len(originals) + 1.5, 0.8 * len(rows), len(rows))
    for axis, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        _show(axis, image_grid(images, shape, len(images)))
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path)


def samples(path: str | os.PathLike, drawn: Mapping[str, np.ndarray], shape: tuple[int, int], columns: int = 10) -> None:
    """Images drawn from each model, in blocks side by side."""
    tallest = max(-(-len(images) // columns) for images in drawn.values())
    figure, axes = _figure(0.45 * columns * len(drawn), 0.45 * tallest * shape[0] / shape[1] + 0.5, 1, len(drawn))
    for axis, (name, images) in zip(axes[0], drawn.items(), strict=True):
        _show(axis, image_grid(images, shape, columns))
        axis.set_title(name)
    figure.savefig(path)


def covariances(
    path: str | os.PathLike, image: np.ndarray, matrices: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> None:
    """One image, and the posterior correlations of its latent variables under each model.

    The diagonal carries the standard deviations as numbers' extremes in the title: a correlation matrix alone hides them.
    """
    figure, axes = _figure(3.1 * (len(matrices) + 1), 3.3, 1, len(matrices) + 1)
    _show(axes[0, 0], image.reshape(shape))
    axes[0, 0].set_title("one image")
    for axis, (name, matrix) in zip(axes[0, 1:], matrices.items(), strict=True):
        scale = np.sqrt(np.diag(matrix))
        drawn = axis.imshow(matrix / np.outer(scale, scale), cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(f"{name}\nstandard deviations {scale.min():.2f} to {scale.max():.2f}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(drawn, ax=axes[0, 1:].tolist(), label="correlation", shrink=0.8)
    figure.savefig(path)


def _show(axis: Any, image: np.ndarray) -> None:
    axis.imshow(np.ma.masked_invalid(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)
