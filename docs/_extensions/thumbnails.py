"""A picture for each example of the gallery: its data or the structure that it is about, drawn by a few lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw"]

BLUE, ORANGE, GREY = "#3b6ea8", "#e08e45", "#b9c0c8"


def _chain(n: int = 12, edge: float = -0.9) -> np.ndarray:
    L = np.diag(np.full(n, 1.5)) + np.diag(np.full(n - 1, edge), -1)
    return L @ L.T


def _matrix(axes: Any, A: np.ndarray, limit: float | None = None) -> None:
    limit = limit or np.abs(A).max()
    axes.imshow(A, cmap="RdBu", vmin=-limit, vmax=limit)


def _walk(rng: np.random.Generator, n: int = 120) -> np.ndarray:
    return np.cumsum(rng.normal(size=n))


def train_chain(axes: Any, rng: np.random.Generator) -> None:
    _matrix(axes, _chain())


def embed_kernel(axes: Any, rng: np.random.Generator) -> None:
    x = 0.15 * _walk(rng)
    axes.plot(x + 0.3 * rng.standard_t(1.5, size=len(x)), ".", color=GREY, ms=4)
    axes.plot(x, color=BLUE, lw=2)
    axes.set_ylim(x.min() - 1, x.max() + 1)


def families(axes: Any, rng: np.random.Generator) -> None:
    axes.hist(rng.poisson(4 * rng.gamma(2, 0.5, size=2000)), bins=np.arange(16) - 0.5, color=BLUE, rwidth=0.8)


def observation_graph(axes: Any, rng: np.random.Generator) -> None:
    n, c = 64, 8
    L = np.diag(np.full(n, 1.0)) + np.diag(np.full(n - 1, -0.45), -1) + np.diag(np.full(n - c, -0.45), -c)
    axes.imshow(np.linalg.solve(L.T, rng.normal(size=n)).reshape(c, c), cmap="Greys_r")


def priors(axes: Any, rng: np.random.Generator) -> None:
    for color in (BLUE, ORANGE, GREY):
        axes.plot(_walk(rng, 30), color=color, lw=2)


def factor_analysis(axes: Any, rng: np.random.Generator) -> None:
    _matrix(axes, rng.normal(size=(10, 3)) @ rng.normal(size=(3, 10)))


def sgvb(axes: Any, rng: np.random.Generator) -> None:
    axes.imshow(rng.integers(0, 2, size=(6, 30)).repeat(3, axis=0), cmap="Greys", aspect="auto")


def dlgm(axes: Any, rng: np.random.Generator) -> None:
    u = rng.normal(size=10)
    _matrix(axes, np.diag(np.full(10, 1.0)) + np.outer(u, u))


def ladder(axes: Any, rng: np.random.Generator) -> None:
    heights = rng.gamma(0.7, size=(3, 12)) * np.array([[1.0], [0.6], [0.3]])
    for i, row in enumerate(heights):
        axes.bar(np.arange(12) + 13 * i, np.sort(row)[::-1], color=(BLUE, ORANGE, GREY)[i])


def two_views(axes: Any, rng: np.random.Generator) -> None:
    z = rng.normal(size=200)
    axes.plot(z + 0.3 * rng.normal(size=200), z + 0.3 * rng.normal(size=200), ".", color=BLUE, ms=5)


def mutual(axes: Any, rng: np.random.Generator) -> None:
    for nats, color in ((0.5, GREY), (1.0, ORANGE), (1.5, BLUE)):
        axes.plot(nats + np.exp(-np.arange(30) / 5) * rng.normal(size=30), color=color, lw=2)
        axes.axhline(nats, color=color, lw=0.8, ls=":")


def vlae(axes: Any, rng: np.random.Generator) -> None:
    place, width = np.arange(24), 3
    rows = [np.exp(-0.5 * (((place - p + 12) % 24 - 12) / width) ** 2) for p in range(0, 24, 2)]
    axes.imshow(np.stack(rows) * rng.uniform(0.3, 1, size=(12, 1)), cmap="Greys", aspect="auto")


def plain_step(axes: Any, rng: np.random.Generator) -> None:
    rows, columns = rng.random((2, 8)) < 0.3
    axes.imshow(rows[:, None] | columns | (np.arange(8) == 3), cmap="Greys")


def launches(axes: Any, rng: np.random.Generator) -> None:
    axes.plot(np.exp(0.06 * _walk(rng, 250)) * rng.normal(size=250), color=BLUE, lw=0.8)


def torch_chain(axes: Any, rng: np.random.Generator) -> None:
    _matrix(axes, np.linalg.inv(_chain()))


def jax_chain(axes: Any, rng: np.random.Generator) -> None:
    x = np.zeros(60)
    for j in range(1, 60):
        x[j] = 0.9 * x[j - 1] + rng.normal()
    seen = rng.random(60) < 0.4
    axes.plot(x, color=BLUE, lw=2)
    axes.plot(np.flatnonzero(seen), (x + 0.6 * rng.normal(size=60))[seen], "o", color=ORANGE, ms=5)


def deep_gp(axes: Any, rng: np.random.Generator) -> None:
    x = np.sort(rng.uniform(-1, 1, 60))
    x = x[np.abs(x - 0.4) > 0.15]
    t = np.linspace(-1, 1, 200)
    axes.fill_between(t, np.sign(t) - 0.25, np.sign(t) + 0.25, color=GREY)
    axes.plot(x, np.sign(x) + 0.1 * rng.normal(size=len(x)), "o", color=ORANGE, ms=4)
    axes.plot(t, np.tanh(20 * t), color=BLUE, lw=2)


def draw(name: str, path: Path) -> bool:
    """Whether there is one for this example; an existing file is kept."""
    function: Callable | None = globals().get(name) if name not in __all__ else None
    if function is None or getattr(function, "__module__", "") != __name__:
        return False
    if not path.exists():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4, 2.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set(xticks=[], yticks=[])
        function(axes, np.random.default_rng(3))
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100)
    return True
