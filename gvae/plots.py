"""Pictures: learning curves, images, covariances, series. Needs matplotlib (the extra `plot`); writes files, shows nothing.

The file's extension is its format: .png, .pdf, .svg. A file is written whole or not at all. Figures are drawn by
matplotlib's Agg backend outside its global state: none stays open.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gvae import training
from gvae.errors import ConfigError, DependencyError, RunError, ShapeError

__all__ = [
    "check_sheet",
    "covariances",
    "image_grid",
    "learning_curves",
    "manifold",
    "manifold_codes",
    "reconstructions",
    "require",
    "rows",
    "samples",
    "series",
]

DPI = 110
COLUMNS = 10  # columns of a small sheet of samples; a larger one is roughly square
MOST_PIXELS = 5000  # along one side of a sheet


def require() -> tuple[Any, Any]:
    """matplotlib's Figure and its canvas without a screen.

    Returns
    -------
    (type, type)
        matplotlib.figure.Figure and matplotlib.backends.backend_agg.FigureCanvasAgg.

    Raises
    ------
    DependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> Figure, Canvas = gvae.plots.require()
    >>> Canvas.__name__
    'FigureCanvasAgg'
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError(
            "pictures need matplotlib: pip install 'gvae[plot]' (or, with scikit-learn's digits, 'gvae[demo]')"
        ) from None
    return Figure, FigureCanvasAgg


def new_figure(width: float, height: float, layout: str | None = "constrained") -> Any:
    """A figure of its own, outside matplotlib's global state; width and height in inches."""
    Figure, Canvas = require()
    figure = Figure(figsize=(width, height), layout=layout, dpi=DPI)
    Canvas(figure)
    return figure


def write_figure(figure: Any, path: str | os.PathLike) -> None:
    buffer, kind = io.BytesIO(), Path(path).suffix[1:] or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ConfigError(
            f"plots: path is {os.fspath(path)!r}, expected a name that ends in one of {', '.join(sorted(known))}"
        )
    figure.savefig(buffer, format=kind)
    try:
        training.write_atomically(Path(path), buffer.getvalue())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def _named(function: str, argument: str, given: Any, what: str) -> dict[str, Any]:
    """A mapping that is not empty. ConfigError otherwise."""
    if not isinstance(given, Mapping) or not given:
        said = "an empty mapping" if isinstance(given, Mapping) else type(given).__name__
        raise ConfigError(f"{function}: {argument} is {said}, expected a mapping of names to {what}, with one or more")
    return dict(given)


def _images(function: str, argument: str, given: Any, shape: tuple[int, int], same: bool = False) -> dict[str, np.ndarray]:
    """Images by name; same: as many of each. ConfigError, ShapeError."""
    D = shape[0] * shape[1]
    found = {name: np.asarray(x) for name, x in _named(function, argument, given, f"arrays (N, {D})").items()}
    n = {len(x) for x in found.values() if x.ndim}
    for name, x in found.items():
        if x.ndim != 2 or len(x) == 0 or x.shape[1] != D or (same and len(n) > 1):
            alike = " and the same N for all" if same else ""
            raise ShapeError(
                f"{function}: {argument} has {name!r} of shape {x.shape}, expected (N >= 1, {shape[0]} x {shape[1]} = {D})"
                f"{alike}"
            )
    return found


def image_grid(images: np.ndarray, shape: tuple[int, int], columns: int) -> np.ndarray:
    """Images side by side in one matrix, one pixel apart.

    Parameters
    ----------
    images : array (N, rows * columns)
    shape : (int, int)
        Rows and columns of an image.
    columns : int
        Images in a row of the grid.

    Returns
    -------
    float64 array
        With NaN between the images and after the last.

    Raises
    ------
    ShapeError
        images does not fit shape, has no rows, or columns is below 1.

    Examples
    --------
    >>> gvae.plots.image_grid(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), (1, 2), columns=2)
    array([[ 1.,  2., nan,  3.,  4.],
           [nan, nan, nan, nan, nan],
           [ 5.,  6., nan, nan, nan]])
    """
    rows, cols = shape
    if images.ndim != 2 or len(images) == 0 or images.shape[1] != rows * cols:
        raise ShapeError(f"image_grid: images has shape {images.shape}, expected (N >= 1, {rows} x {cols} = {rows * cols})")
    if columns < 1:
        raise ShapeError(f"image_grid: columns is {columns}, expected at least 1")
    n = len(images)
    grid = np.full((-(-n // columns) * (rows + 1) - 1, min(n, columns) * (cols + 1) - 1), np.nan)
    for i, image in enumerate(images):
        r, c = (i // columns) * (rows + 1), (i % columns) * (cols + 1)
        grid[r : r + rows, c : c + cols] = image.reshape(rows, cols)
    return grid


def learning_curves(
    path: str | os.PathLike,
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    events: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a picture of the bound by epoch, one colour per run: training (thin) and, if there is one, validation (thick).

    The vertical axis leaves out the first twentieth of the epochs, in which the bound rises from far below.

    Parameters
    ----------
    path : str or path-like
    histories : mapping of str to sequence of mapping
        By run, a row per epoch with "epoch", "train_bound" and, where rows are held out, "validation_bound", in nats per
        row.
    events : sequence of mapping, optional
        Events of the log, such as skipped steps: those with an "epoch" are marked by vertical lines.

    Raises
    ------
    ConfigError
        histories is not a mapping, or a row has no "epoch".
    DependencyError
        matplotlib is not installed.
    RunError
        The file cannot be written.

    Examples
    --------
    >>> import os, matplotlib
    >>> matplotlib.use("Agg")
    >>> history = [{"epoch": epoch, "train_bound": -100 / epoch, "validation_bound": -110 / epoch} for epoch in (1, 2, 3)]
    >>> gvae.plots.learning_curves("curves.png", {"chain": history})
    >>> os.path.exists("curves.png")
    True
    """
    histories = histories if histories == {} else _named("learning_curves", "histories", histories, "rows by epoch")
    if bad := [name for name, rows in histories.items() if any("epoch" not in row for row in rows)]:
        raise ConfigError(f"learning_curves: histories has a row of {bad[0]!r} without 'epoch'")
    figure = new_figure(7, 4.2)
    axis = figure.subplots()
    shown: list[float] = []
    validated = False
    for i, (name, rows) in enumerate(histories.items()):
        epochs = [row["epoch"] for row in rows]
        for kind, style in (("train", {"linewidth": 0.8, "alpha": 0.6}), ("validation", {"linewidth": 1.8})):
            bounds = [row[f"{kind}_bound"] for row in rows if f"{kind}_bound" in row]
            if len(bounds) == len(rows) > 0:
                last = kind == "validation" or "validation_bound" not in rows[0]
                marker = "o" if len(rows) == 1 else ""
                axis.plot(epochs, bounds, color=f"C{i}", marker=marker, label=name if last else None, **style)
                bounds = [math.nan if bound is None else bound for bound in bounds]
                shown += filter(math.isfinite, bounds[-(-len(rows) // 20) :] if len(rows) > 1 else bounds)
                validated |= kind == "validation"
    if shown:
        margin = 0.05 * (max(shown) - min(shown)) or 1.0
        axis.set_ylim(min(shown) - margin, max(shown) + margin)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, loc="lower right")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="epoch", ylabel="bound, nats per row")
    for kind in sorted({str(event["event"]) for event in events if "epoch" in event}):
        epochs = [event["epoch"] for event in events if event["event"] == kind and "epoch" in event]
        axis.vlines(epochs, 0, 1, transform=axis.get_xaxis_transform(), color="0.6", linewidth=0.6, linestyle=":")
        axis.annotate(kind, (epochs[0], 0.02), xycoords=axis.get_xaxis_transform(), fontsize=7, color="0.4", rotation=90)
    if validated:
        axis.set_title("thick: held-out rows, thin: training rows", fontsize="medium")
    axis.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)


def reconstructions(
    path: str | os.PathLike, originals: np.ndarray, reconstructed: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> None:
    """Write a picture with a row of originals above one row of reconstructions per model.

    Parameters
    ----------
    path : str or path-like
    originals : array (N, D)
    reconstructed : mapping of str to array (N, D)
        By model.
    shape : (int, int)
        Rows and columns of an image.

    Raises
    ------
    ConfigError, DependencyError, RunError, ShapeError

    Examples
    --------
    >>> import os, matplotlib
    >>> matplotlib.use("Agg")
    >>> x = np.linspace(0, 1, 12).reshape(3, 4)
    >>> gvae.plots.reconstructions("rows.png", x, {"VAE": 0.9 * x}, (2, 2))
    >>> os.path.exists("rows.png")
    True
    """
    reconstructed = _named("reconstructions", "reconstructed", reconstructed, "arrays (N, D)")
    given = _images("reconstructions", "originals and reconstructed", {"original": originals, **reconstructed}, shape, True)
    rows(path, given, shape)


def rows(path: str | os.PathLike, images: Mapping[str, np.ndarray], shape: tuple[int, int]) -> None:
    """Write a picture with rows of images, each row with its name at the left.

    Parameters
    ----------
    path : str or path-like
    images : mapping of str to array (N, D)
        By name; shorter rows end earlier.
    shape : (int, int)
        Rows and columns of an image.

    Raises
    ------
    ConfigError, DependencyError, RunError, ShapeError

    Examples
    --------
    >>> import os, matplotlib
    >>> matplotlib.use("Agg")
    >>> x = np.linspace(0, 1, 12).reshape(3, 4)
    >>> gvae.plots.rows("rows.png", {"original": x, "darker": 0.5 * x}, (2, 2))
    >>> os.path.exists("rows.png")
    True
    """
    images = _images("rows", "images", images, shape)
    n, label = max(map(len, images.values())), 0.085 * max(map(len, images)) + 0.15  # inches
    width = 0.62 * n + label
    figure = new_figure(width, 0.66 * len(images) * shape[0] / shape[1], layout=None)  # a layout's engine cuts names off
    figure.subplots_adjust(left=label / width, right=0.995, bottom=0.01, top=0.99, hspace=0.06)
    axes = figure.subplots(len(images), 1, squeeze=False)
    for axis, (name, row) in zip(axes[:, 0], images.items(), strict=True):
        show_images(axis, image_grid(row, shape, n))
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    write_figure(figure, path)


def manifold_codes(n: int) -> np.ndarray:
    """Codes on a grid that has equal probability under N(0, I) in every cell, z = Phi⁻¹((i + 1/2) / n) per axis.

    Parameters
    ----------
    n : int
        Codes per axis.

    Returns
    -------
    array (n², 2)
        Row by row of a picture, the second code increasing upwards.

    Raises
    ------
    ShapeError
        n is below 1.

    Notes
    -----
    Source: Kingma and Welling (2014), appendix A.

    Examples
    --------
    >>> gvae.plots.manifold_codes(2).round(2)
    array([[-0.67,  0.67],
           [ 0.67,  0.67],
           [-0.67, -0.67],
           [ 0.67, -0.67]])
    """
    from scipy.special import ndtri

    if not isinstance(n, (int, np.integer)) or n < 1:
        raise ShapeError(f"manifold_codes: n is {n!r}, expected a whole number of at least 1")
    z = ndtri((np.arange(n) + 0.5) / n)
    across, up = np.meshgrid(z, z[::-1])
    return np.stack([across.ravel(), up.ravel()], axis=1)


def manifold(path: str | os.PathLike, images: np.ndarray, shape: tuple[int, int]) -> None:
    """Write a picture of a learned manifold, in n rows of n images.

    Parameters
    ----------
    path : str or path-like
    images : array (n², D)
        Decoded from `manifold_codes(n)`.
    shape : (int, int)
        Rows and columns of an image.

    Raises
    ------
    DependencyError, RunError
    ShapeError
        The number of images is not a square, or they do not fit shape.

    Examples
    --------
    >>> import os, matplotlib
    >>> matplotlib.use("Agg")
    >>> images = 1 / (1 + np.exp(-gvae.plots.manifold_codes(3) @ np.ones((2, 4))))
    >>> gvae.plots.manifold("manifold.png", images, (2, 2))
    >>> os.path.exists("manifold.png")
    True
    """
    images = _images("manifold", "images", {"images": images}, shape)["images"]
    n = round(len(images) ** 0.5)
    if n * n != len(images):
        raise ShapeError(f"manifold: {len(images)} images, expected a square number")
    width = n * (shape[1] + 1) / DPI * max(1, 40 // shape[1])
    figure = new_figure(max(width, 2), max(width * shape[0] / shape[1], 2))
    show_images(figure.subplots(), image_grid(images, shape, n))
    write_figure(figure, path)


def check_sheet(n: int, shape: tuple[int, int]) -> None:
    """Raise an error if images do not fit a picture of at most 5,000 pixels along a side.

    Parameters
    ----------
    n : int
        The number of images.
    shape : (int, int)
        Rows and columns of an image.

    Raises
    ------
    ConfigError

    Examples
    --------
    >>> gvae.plots.check_sheet(100, (28, 28))
    >>> gvae.plots.check_sheet(100_000, (28, 28))
    Traceback (most recent call last):
        ...
    gvae.errors.ConfigError: 100000 images of 28 x 28 do not fit a picture: take fewer
    """
    if n < 1:
        raise ConfigError(f"check_sheet: n is {n}, expected at least 1")
    if max(_sheet(n, shape)[1:]) > MOST_PIXELS:
        raise ConfigError(f"{n} images of {shape[0]} x {shape[1]} do not fit a picture: take fewer")


def _sheet(n: int, shape: tuple[int, int]) -> tuple[int, float, float]:
    """Columns of a sheet of n images, its width and height in pixels: each image in its own pixels or a multiple."""
    columns = max(min(n, COLUMNS), round(n**0.5))
    cell = (shape[1] + 1) * max(1, (58 if n <= COLUMNS**2 else 32) // (shape[1] + 1))
    return columns, columns * cell, -(-n // columns) * cell * shape[0] / shape[1]


def samples(path: str | os.PathLike, drawn: Mapping[str, np.ndarray], shape: tuple[int, int]) -> None:
    """Write a picture of images drawn from models, in blocks side by side.

    Parameters
    ----------
    path : str or path-like
    drawn : mapping of str to array (N, D)
        By model.
    shape : (int, int)
        Rows and columns of an image.

    Raises
    ------
    ConfigError
        The images do not fit a picture, see `check_sheet`, or `drawn` is empty.
    DependencyError, RunError, ShapeError

    Examples
    --------
    >>> import os, matplotlib
    >>> matplotlib.use("Agg")
    >>> images = gvae.random.uniform(gvae.random.key(0), (10, 16))
    >>> gvae.plots.samples("samples.png", {"VAE": images, "darker": 0.5 * images}, (4, 4))
    >>> os.path.exists("samples.png")
    True
    """
    drawn = _images("samples", "drawn", drawn, shape)
    n = max(len(images) for images in drawn.values())
    check_sheet(n, shape)
    columns, width, height = _sheet(n, shape)
    width, height, gap = max(width / DPI, 1.5), height / DPI, 0.3
    figure = new_figure(len(drawn) * (width + gap), height + 0.4)
    axes = figure.subplots(1, len(drawn), squeeze=False)
    figure.get_layout_engine().set(h_pad=0.08, wspace=gap / 2 / width)
    for axis, (name, images) in zip(axes[0], drawn.items(), strict=True):
        show_images(axis, image_grid(images, shape, columns))
        axis.set_title(name, fontsize="medium")
    write_figure(figure, path)


def covariances(
    path: str | os.PathLike, image: np.ndarray, matrices: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> None:
    """Write a picture of one image, and of the covariance (above) and correlation (below) of its posterior under each model.

    Covariances share one colour scale, that of the largest entry; the correlations show the structure of small covariances.

    Parameters
    ----------
    path : str or path-like
    image : array (D,)
    matrices : mapping of str to array (n, n)
        Covariances by model.
    shape : (int, int)
        Rows and columns of the image.

    Raises
    ------
    ConfigError, DependencyError, RunError, ShapeError

    Examples
    --------
    >>> import os, matplotlib
    >>> matplotlib.use("Agg")
    >>> chain = 0.5 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    >>> gvae.plots.covariances("covariances.png", np.linspace(0, 1, 4), {"diagonal": np.eye(4), "chain": chain}, (2, 2))
    >>> os.path.exists("covariances.png")
    True
    """
    matrices = {name: np.asarray(m) for name, m in _named("covariances", "matrices", matrices, "arrays (n, n)").items()}
    for name, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ShapeError(f"covariances: matrices has {name!r} of shape {matrix.shape}, expected (n, n)")
    if np.size(image) != shape[0] * shape[1]:
        given = f"image has shape {np.shape(image)}"
        raise ShapeError(f"covariances: {given}, expected ({shape[0]} x {shape[1]} = {shape[0] * shape[1]},)")
    image = np.asarray(image)
    figure = new_figure(2.6 * (len(matrices) + 1) + 0.6, 5.6)
    axes = figure.subplots(2, len(matrices) + 1, squeeze=False)
    show_images(axes[0, 0], image.reshape(shape))
    axes[0, 0].set_title("the image", fontsize="medium")
    axes[1, 0].set_axis_off()
    largest = max(float(np.abs(matrix).max()) for matrix in matrices.values())
    for column, (name, matrix) in enumerate(matrices.items(), 1):
        scale = np.sqrt(np.diag(matrix))
        scale = np.where(scale > 0, scale, np.inf)  # a variable without variance has no correlations
        above, below = axes[:, column]
        covariance = above.imshow(matrix, cmap="RdBu_r", vmin=-largest, vmax=largest)
        correlation = below.imshow(matrix / np.outer(scale, scale), cmap="RdBu_r", vmin=-1, vmax=1)
        above.set_title(name, fontsize="medium")
        for axis in (above, below):
            axis.set_xticks([])
            axis.set_yticks([])
    figure.colorbar(covariance, ax=axes[0, 1:].tolist(), label="covariance", shrink=0.9)
    figure.colorbar(correlation, ax=axes[1, 1:].tolist(), label="correlation", shrink=0.9)
    write_figure(figure, path)


def series(
    path: str | os.PathLike,
    positions: np.ndarray,
    values: np.ndarray,
    posteriors: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Write a picture of a series that is observed in part, and of its posterior under each model, side by side.

    Each panel has the observed values (points), the posterior's mean (line), the band of 2 standard deviations about it, and
    draws from the posterior (thin lines).

    Parameters
    ----------
    path : str or path-like
    positions : int array (D,)
        Which of the n variables were observed.
    values : array (D,)
        The observed values.
    posteriors : mapping of str to (array (n,), array (n,), array (K, n))
        Mean, standard deviation and K draws, by model.

    Raises
    ------
    ConfigError, DependencyError, RunError, ShapeError

    Examples
    --------
    >>> import os, matplotlib
    >>> matplotlib.use("Agg")
    >>> q = gvae.distributions.DiagonalGaussian(np.linspace(0, 1, 5), np.full(5, -1.0))
    >>> draws = q.sample(q.noise(gvae.random.key(0), (3,)))
    >>> seen = np.array([0, 1, 4])
    >>> gvae.plots.series("series.png", seen, q.mean[seen], {"diagonal": (q.mean, np.sqrt(q.variance()), draws)})
    >>> os.path.exists("series.png")
    True
    """
    posteriors = _named("series", "posteriors", posteriors, "(mean, standard deviation, draws)")
    if np.shape(positions) != np.shape(values) or np.ndim(values) != 1:
        raise ShapeError(f"series: positions {np.shape(positions)} and values {np.shape(values)}, expected (D,) for both")
    for name, (mean, scale, draws) in posteriors.items():
        if np.ndim(mean) != 1 or np.shape(scale) not in ((), np.shape(mean)) or np.shape(draws)[1:] != np.shape(mean):
            shapes = ", ".join(str(np.shape(x)) for x in (mean, scale, draws))
            raise ShapeError(f"series: posteriors has {name!r} of shapes {shapes}, expected (n,), (n,) and (K, n)")
    figure = new_figure(3.3 * len(posteriors) + 0.6, 3.4)
    axes = figure.subplots(1, len(posteriors), squeeze=False, sharex=True, sharey=True)[0]
    for axis, (name, (mean, scale, draws)) in zip(axes, posteriors.items(), strict=True):
        index = np.arange(len(mean))
        axis.fill_between(index, mean - 2 * scale, mean + 2 * scale, color="C0", alpha=0.2, linewidth=0)
        axis.plot(index, np.transpose(draws), color="C1", linewidth=0.8, alpha=0.8)
        axis.plot(index, mean, color="C0", linewidth=1.8)
        axis.plot(positions, values, "o", color="black", markersize=3)
        axis.set_title(name, fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("position")
    figure.suptitle("points: observed; line and band: mean and 2 standard deviations; thin: draws", fontsize="medium")
    write_figure(figure, path)


def show_images(axis: Any, image: np.ndarray) -> None:
    """In grey: 0 is black and 1 white, unless the values go beyond."""
    shown = np.ma.masked_invalid(image)
    axis.imshow(shown, cmap="gray", vmin=min(0.0, shown.min()), vmax=max(1.0, shown.max()), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_frame_on(False)
