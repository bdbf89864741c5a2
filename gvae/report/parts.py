"""The parts of a run as panels: what `gvae plot` and `gvae report` show, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gvae import evaluation
from gvae.errors import GvaeError, RunError
from gvae.panels import Bars, Histogram, Images, Line, Lines, Matrix, Panel, Points, Sentences, Table, Text
from gvae.report.exhibit import Absent, Exhibit, by_view, dense
from gvae.report.track import read_track, tracked_row

__all__ = ["PARTS", "Part", "usual_parts"]

SHOWN = 12  # images in a row, columns of a table
LARGEST = 256  # variables of a covariance that is drawn
REPLICATES, REPLICATED = 50, 200  # data sets that are drawn for predictive checks, and their rows at most
CHECKS: dict[str, Callable[..., Any]] = {"mean": np.mean, "sd": np.std, "smallest": np.min, "largest": np.max}


@dataclass(frozen=True)
class Part:
    """A part of a run: `panels(exhibit)` lists what to draw, or raises Absent; `columns` of them stand side by side."""

    title: str
    panels: Callable[[Exhibit], Sequence[Panel]]
    columns: int = 1


def curves(e: Exhibit) -> list[Panel]:
    """Bounds by epoch, with the events of the log."""
    rows, events = e.log
    if not rows:
        raise Absent("the log has no epoch yet")
    lines, shown = [], []
    kinds = [kind for kind in ("train", "validation") if all(f"{kind}_bound" in row for row in rows)]
    for kind in kinds:
        bounds = [row[f"{kind}_bound"] for row in rows]
        name = {"train": "training rows", "validation": "held-out rows"}[kind]
        lines.append(Line([row["epoch"] for row in rows], bounds, name, 0, thin=kind != kinds[-1]))
        shown += bounds[-(-len(rows) // 20) :] if len(rows) > 1 else bounds  # without the rise from far below
    if not lines:
        raise Absent("the log has no bounds")
    margin = 0.05 * (max(shown) - min(shown)) or 1.0
    marks = sorted({(event["epoch"], str(event["event"])) for event in events if "epoch" in event})
    return [Lines(lines, "epoch", _ascended(e), marks, (min(shown) - margin, max(shown) + margin))]


def _ascended(e: Exhibit) -> str:
    """What the bounds of the log are."""
    try:
        bounded = e.model.model_.has_bound
    except Absent:
        bounded = True
    return "bound, nats per row" if bounded else "sum of correlations"


def evaluated(e: Exhibit) -> list[Panel]:
    """The evaluation as text, and the rows' log p(x)."""
    if not e.model.model_.has_bound:
        return [Text(evaluation.table(e.evaluation), title=f"the first {e.evaluation.rows} {e.part} rows")]
    result, about = e.evaluation, f"the first {len(e.evaluation.elbo)} {e.part} rows, nats per row"
    values = {"ELBO": result.elbo, result.explained: result.log_likelihood}
    values = {name: value[np.isfinite(value)] for name, value in values.items()}  # an impossible row is -inf
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), min(40, 5 + len(result.elbo) // 5))
    heights = {name: np.histogram(value, edges)[0] for name, value in values.items()}
    panels = [Histogram(edges, heights, "nats", "rows"), Text(evaluation.table(result, warnings=False), title=about)]
    said = [*evaluation.warnings(result), *([e.model.model_.caution] if e.model.model_.caution else []), *e.remarks]
    return [*panels, *([Sentences(said, title="warnings")] if said else [])]


def covariance(e: Exhibit) -> list[Panel]:
    """Covariance and correlations of q(z|x) for some rows, next to the pattern of the precision."""
    q = e.model.posterior_of(e.X[:3], None if e.y is None else e.y[:3])
    q = next(iter(q.values())) if isinstance(q, dict) else q
    c = covariances_of(q, min(3, len(e.X)))
    scale = np.sqrt(np.einsum("...ii->...i", c))
    r = c / (scale[:, :, None] * scale[:, None, :])
    pattern = _precision_pattern(q, c).astype(float)
    panels: list[Panel] = [Matrix(cov, np.abs(c).max(), title=f"row {k}: covariance") for k, cov in enumerate(c)]
    panels.append(Matrix(pattern, 1.0, title="precision: non-zero entries"))
    panels += [Matrix(cor, 1.0, title=f"row {k}: correlations") for k, cor in enumerate(r)]
    lines = [Line(np.arange(len(row)), row, f"row {k}", k) for k, row in enumerate(scale)]
    return [*panels, Lines(lines, "variable", title="standard deviations")]


def _precision_pattern(q: Any, c: np.ndarray) -> np.ndarray:
    """Where the precision of some row is not zero, (k, k) bool: by the Cholesky factor L of one that is stored by diagonals,
    as L Lᵀ, otherwise by inverting the covariances c (n, k, k), whose rounding would show as entries of a sparse one."""
    of = q.banded() if hasattr(q, "banded") else None
    if of is None:
        precision = np.abs(np.linalg.inv(c))
        return (precision > 1e-6 * precision.max()).any(0)
    entries = np.asarray(of.chol).reshape(-1, len(of.offsets), q.n) != 0
    factor = np.zeros((q.n, q.n), int)
    for offset, there in zip(of.offsets, entries.any(0), strict=True):
        j = np.arange(q.n - offset)
        factor[j + offset, j] = there[: len(j)]
    return factor @ factor.T > 0


def covariances_of(q: Any, n: int) -> np.ndarray:
    """The covariances (n, k, k) of a posterior of n rows; Absent where it has none that can be drawn."""
    if not hasattr(q, "covariance") or q.n > LARGEST:
        raise Absent(f"{type(q).__name__} of {q.n} variables has no covariance to look at (at most {LARGEST})")
    try:
        c = np.asarray(q.covariance(), np.float64)
    except NotImplementedError:
        raise Absent(f"{type(q).__name__} has no covariance in closed form") from None
    return np.broadcast_to(c, (n, *c.shape[-2:]))


def reconstructions(e: Exhibit) -> list[Panel]:
    """Originals above their reconstructions; for a table, columns against their reconstructions."""
    e.views_only()
    found = by_view(e.model, e.model.reconstruct(e.X))
    panels: list[Panel] = []
    left_out: list[Panel] = []
    for view, again in found.items():
        x, again = dense(e.X if view == "x" else e.y).reshape(len(again), -1), again.reshape(len(again), -1)
        title = f"view {view}" if len(found) > 1 else ""
        if (shape := _shape(e, x)) is not None:
            panels.append(Images({"original": x[:SHOWN], "reconstruction": again[:SHOWN]}, shape, title=title))
        else:
            names = _names(e, view, x.shape[1])
            panels += [
                Points(x[:, j], again[:, j], "value", "mean given z", diagonal=True, title=n) for j, n in names.items()
            ]
            left_out += _left_out(names, x, title)
    return panels + left_out


def _shape(e: Exhibit, x: np.ndarray) -> tuple[int, int] | None:
    """The shape of the images of the training data, if rows of a view are as long as these."""
    shape = e.image_shape
    return shape if shape is not None and shape[0] * shape[1] == x.shape[1] else None


def _names(e: Exhibit, view: str, D: int) -> dict[int, str]:
    """The names of the columns of a view that are shown."""
    known = e.names if view == "x" else [f"{view}: {j}" for j in range(D)]
    return {j: known[j] for j in range(min(SHOWN, D))}


def _left_out(names: dict[int, str], x: np.ndarray, title: str) -> list[Panel]:
    """A sentence on the columns that are not shown, if there are any."""
    if len(names) == x.shape[1]:
        return []
    return [Sentences([f"The first {len(names)} of {x.shape[1]} columns are shown."], title=title or "columns")]


def samples(e: Exhibit) -> list[Panel]:
    """Images from the prior; for a table, the columns' distributions in data and in draws, and predictive checks."""
    e.views_only()
    given = {view: dense(e.X if view == "x" else e.y).reshape(len(e.X), -1) for view in e.model.model_.views}
    shapes = {view: _shape(e, x) for view, x in given.items()}
    titles = {view: f"view {view}" if len(given) > 1 else "" for view in given}
    panels: list[Panel] = []
    left_out: list[Panel] = []
    if any(shapes.values()):
        means = by_view(e.model, e.model.sample(5 * SHOWN))
        drawn_images = {view: (means[view], shape) for view, shape in shapes.items() if shape is not None}
        panels += [Images({"": x}, shape, SHOWN, title=titles[view]) for view, (x, shape) in drawn_images.items()]
    if tables := {view: x for view, x in given.items() if shapes[view] is None}:
        drawn = by_view(e.model, e.model.sample(1000, draw=True))
        n = min(REPLICATED, len(e.X))
        replicates = by_view(e.model, e.model.sample(REPLICATES * n, draw=True, seed=1))
        for view, x in tables.items():
            names = _names(e, view, x.shape[1])
            panels += [_marginal(x[:, j], drawn[view][:, j], name) for j, name in names.items()]
            panels.append(_checks(x[:n], replicates[view].reshape(REPLICATES, n, -1), names, e.part))
            left_out += _left_out(names, x, titles[view])
    return panels + left_out


def _marginal(x: np.ndarray, drawn: np.ndarray, name: str) -> Panel:
    edges = np.histogram_bin_edges(np.concatenate([x, np.quantile(drawn, [0.005, 0.995])]), 30)
    heights = {which: np.histogram(a, edges, density=True)[0] for which, a in (("data", x), ("draws", drawn))}
    return Histogram(edges, heights, "value", "density of rows", title=name)


def _checks(x: np.ndarray, drawn: np.ndarray, names: dict[int, str], part: str) -> Panel:
    """Statistics of the data among those of data sets of the same size that the model has drawn."""
    heading, rows = ["column", *(f"{name}: data, draws' 5 to 95 %" for name in CHECKS)], []
    for j, name in names.items():
        cells = [name]
        for statistic in CHECKS.values():
            seen = statistic(x[:, j])
            low, high = np.quantile(statistic(drawn[:, :, j], axis=1), [0.05, 0.95])
            cells.append(f"{seen:.3g}, {low:.3g} to {high:.3g}{'' if low <= seen <= high else '  outside'}")
        rows.append(cells)
    about = f"the first {len(x)} {part} rows among {REPLICATES} draws of as many rows"
    return Table(heading, rows, title=f"predictive checks: {about}")


def codes(e: Exhibit) -> list[Panel]:
    """Posterior means on their first two principal axes, coloured by label."""
    z = np.asarray(e.model.transform(e.X), np.float64)
    centred = z - z.mean(0)
    _, spread, axes = np.linalg.svd(centred, full_matrices=False)
    at = np.zeros((len(z), 2))
    at[:, : len(axes)] = centred @ axes[:2].T  # a single axis, of one variable or one row, is drawn on a line
    share = np.square(spread) / max(np.square(spread).sum(), np.finfo(float).tiny)
    words = [f"principal axis {k + 1}, {share[k]:.0%} of the variance" for k in range(min(2, len(share)))]
    about = {"row": [str(i) for i in range(len(z))]}
    about |= {name: [f"{value:.2f}" for value in values] for name, values in e.by_row.items()}
    return [
        Points(
            at[:, 0],
            at[:, 1],
            words[0],
            words[1] if len(words) > 1 else "",
            None if e.labels is None else [str(c) for c in e.labels],
            about,
            None if e.image_shape is None else dense(e.X).reshape(len(z), -1),
            e.image_shape,
            title=f"posterior means of {len(z)} {e.part} rows",
        )
    ]


def units(e: Exhibit) -> list[Panel]:
    """The KL of each latent variable, largest first, by layer, and the rate and distortion as training went on."""
    summary = e.evaluation.summary()
    if "units" not in summary:
        raise Absent("the model has no units to list")
    panels: list[Panel] = []
    layers = summary["units"]["layers"]
    for i, layer in enumerate(layers):
        order = np.argsort(layer["kl"])[::-1]
        faint = np.asarray(layer["activity"])[order] <= 0.01
        which = f"{layer.get('name', f'layer {i + 1}')}: " if len(layers) > 1 else ""
        title = (
            f"{which}{layer['active']} of {layer['units']} variables active, marginal KL {sum(layer['kl']):.2f} nats in sum"
        )
        panels.append(Bars([str(j) for j in order], np.asarray(layer["kl"])[order], "KL, nats", faint, title=title))
    return [*panels, *rate_and_distortion(e, summary)]


def rate_and_distortion(e: Exhibit, summary: dict[str, Any]) -> Iterator[Panel]:
    rows = [row for row in e.log[0] if {"validation_kl", "validation_log_likelihood"} <= row.keys()]
    if not rows or summary["kl"] is None or summary["distortion"] is None:
        return
    R, D = (np.array([row[name] for row in rows]) for name in ("validation_kl", "validation_log_likelihood"))
    settled = slice(-(-len(rows) // 20), None) if len(rows) > 1 else slice(None)  # without the fall from far above
    R, D, end = R[settled], -D[settled], summary["kl"] + summary["distortion"]
    across = np.array([min(R.min(), summary["kl"]), max(R.max(), summary["kl"])])
    lines = [Line(R, D, "held-out rows, by epoch", 0)]
    lines.append(Line(across, end - across, f"rate + distortion = {end:.2f}", 1, thin=True))
    yield Lines(
        [*lines, Line([summary["kl"]], [summary["distortion"]], "the trained model", 3)],
        "rate KL(q(z|x) || p(z)), nats",
        f"distortion -E log p({'y' if e.evaluation.conditional else ', '.join(e.evaluation.views)}|z), nats",
        title="rate and distortion",
    )


def factors(e: Exhibit) -> list[Panel]:
    """The posterior mean and the entries of its Cholesky factor for one row, by epoch."""
    try:
        tracked = read_track(e.path)
    except RunError as error:
        raise Absent(str(error)) from None
    panels: list[Panel] = []
    for code, kept in tracked.items():
        epochs, N = kept["epoch"], kept["mean"].shape[1]
        means = [Line(epochs, kept["mean"][:, i], colour=i) for i in range(N)]
        panels.append(Lines(means, "epoch", title=f"{code}: posterior mean of row {kept['row']}"))
        entries = [
            Line(epochs, kept["chol"][:, k, i], ("diagonal" if offset == 0 else f"offset {offset}") * (i == 0), k)
            for k, offset in enumerate(kept["offsets"])
            for i in range(N - offset)
        ]
        panels.append(Lines(entries, "epoch", title="entries of the precision's Cholesky factor"))
    return panels


def own(e: Exhibit) -> list[Panel]:
    """All that the estimator contributes: see `Estimator.report_sections`."""
    if not e.sections:
        raise Absent("the model adds nothing of its own")
    return [panel for panels in e.sections.values() for panel in panels]


PARTS: dict[str, Part] = {
    "curves": Part("Learning curves", curves),
    "evaluation": Part("Evaluation", evaluated, 2),
    "covariance": Part("Covariance of q(z|x)", covariance, 4),
    "reconstructions": Part("Reconstructions", reconstructions, 4),
    "samples": Part("Samples", samples, 4),
    "codes": Part("Codes", codes),
    "units": Part("Latent variables", units),
    "factors": Part("One posterior as training went on", factors, 2),
    "own": Part("Of this model", own, 2),
}


def usual_parts(e: Exhibit) -> list[str]:
    """All parts but those that only some runs have and this one has not."""
    lacking = set() if tracked_row(e.path) is not None else {"factors"}
    try:
        lacking |= set() if e.sections else {"own"}
    except (Absent, GvaeError):
        lacking.add("own")
    return [name for name in PARTS if name not in lacking]
