"""Runs as one file of HTML, which loads nothing: `gvae report`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

import gvae
from gvae import plots, training
from gvae.errors import DependencyError, RunError
from gvae.panels import Images, Panel, Sentences, Table, Text
from gvae.report import live, track
from gvae.report.charts import chart
from gvae.report.embed import image_uri
from gvae.report.exhibit import Absent, Exhibit
from gvae.report.parts import PARTS

__all__ = ["write", "write_panels"]

HERE = Path(__file__).parent
ORDER = ("curves", "evaluation", "decoder", "reconstructions", "samples", "codes", "covariance", "units", "factors")
CELL = 44  # pixels of the width of an image


def write(exhibits: Sequence[Exhibit], path: str | os.PathLike) -> None:
    """Write the report of some runs, side by side.

    What a run cannot show is said in a sentence.

    Parameters
    ----------
    exhibits : sequence of Exhibit
    path : path
        An existing file is replaced.

    Raises
    ------
    DependencyError
        Bokeh or Jinja2 is not installed.
    RunError
        The file cannot be written.
    """
    title = " and ".join(e.name for e in exhibits) if len(exhibits) < 4 else f"{len(exhibits)} runs"
    _write(path, title, lambda: list(_sections(exhibits)), several=len(exhibits) > 1)


def write_panels(
    title: str,
    facts: Sequence[tuple[str, Sequence[str]]],
    panels: Mapping[str, Sequence[Panel]],
    path: str | os.PathLike,
) -> None:
    """Write panels as one page, such as the report of a study.

    Parameters
    ----------
    title : str
    facts : sequence of (str, sequence of str)
        What it is about, as names with lines.
    panels : mapping of str to sequence of Panel
        By the title of their section; those without a panel are left out.
    path : path
        An existing file is replaced.

    Raises
    ------
    DependencyError
        Bokeh or Jinja2 is not installed.
    RunError
        The file cannot be written.
    """

    def sections() -> list[dict[str, Any]]:
        about = {"id": "about", "title": "About", "cells": [{"facts": facts}]}
        keys = {name: re.sub(r"\W+", "-", name.lower()) for name, found in panels.items() if found}
        return [about] + [
            {"id": key, "title": name, "cells": [{"panels": _rendered(panels[name], key)}]} for name, key in keys.items()
        ]

    _write(path, title, sections, several=False)


def _write(path: str | os.PathLike, title: str, sections: Callable[[], list[dict[str, Any]]], *, several: bool) -> None:
    try:
        from bokeh.resources import Resources
        from jinja2 import Environment, FileSystemLoader
        from markupsafe import Markup
    except ImportError:
        raise DependencyError("reports need Bokeh and Jinja2: pip install 'gvae[report]'") from None
    templates = Environment(loader=FileSystemLoader(HERE), autoescape=True)
    templates.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh's references look back
    scripts = [(HERE / name).read_text(encoding="utf-8") for name in ("decoder.js", "page.js")]
    text = templates.get_template("page.html").render(
        title=title,
        several=several,
        sections=sections(),
        version=gvae.__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render_js()),
        script=Markup("\n".join(scripts)),
    )
    try:
        training.write_atomically(Path(path), text.encode())
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def _sections(exhibits: Sequence[Exhibit]) -> Iterator[dict[str, Any]]:
    """All sections that some run has something for; the first says what each run is, and what it cannot show."""
    found = []
    for name in ORDER:
        title = "The decoder, alive" if name == "decoder" else PARTS[name].title
        found.append(_section(name, title, exhibits, [_cell(e, name, k) for k, e in enumerate(exhibits)]))
    own = [e.attempt("What the model adds", lambda e=e: e.sections) or {} for e in exhibits]  # type: ignore[misc]
    for title in dict.fromkeys(title for sections in own for title in sections):
        key = "own-" + re.sub(r"\W+", "-", title.lower())
        cells = [{"panels": _rendered(sections.get(title, []), f"{key}-{k}")} for k, sections in enumerate(own)]
        found.append(_section(key, title, exhibits, cells))
    yield _section("run", "Runs" if len(exhibits) > 1 else "The run", exhibits, [_header(e) for e in exhibits])
    yield from (section for section in found if any(cell.get("panels") or cell.get("decoder") for cell in section["cells"]))


def _section(key: str, title: str, exhibits: Sequence[Exhibit], cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"id": key, "title": title, "cells": [{"run": e.name} | cell for e, cell in zip(exhibits, cells, strict=True)]}


def _cell(e: Exhibit, name: str, k: int) -> dict[str, Any]:
    """A section of one run; without panels where it has nothing to show, with the reason in `e.reasons`."""
    if name != "decoder":
        if name == "factors" and not (e.path / track.FILE).exists():
            return {}
        return {"panels": _rendered(e.panels(PARTS[name].title, PARTS[name]), f"{name}-{k}")}
    found = e.attempt("The decoder", lambda: live.decoder(e))
    if found is None:
        return {}
    shape = next(iter(found["axes"].values()))["shape"]
    step = 2 * live.REACH / (live.GRID - 1) if found["kind"] == "grid" else 0.1
    return {"decoder": {"id": f"decoder-{k}", "content": found, "sliders": shape[1], "step": step}}


def _sentence(reason: Any) -> str:
    text = f"Not shown: {reason}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


# ---- the header ----------------------------------------------------------------------------------


def _header(e: Exhibit) -> dict[str, Any]:
    """What the run is, as (name, lines); and sentences on what it does not tell."""
    facts: list[tuple[str, list[str]]] = []
    starts = training.read_starts(e.path)
    rows = e.log[0]
    facts += e.attempt("The model", lambda: _of_model(e)) or []
    if rows:
        seconds = sum(row.get("seconds", 0) for row in rows)
        facts.append(("trained", [f"{rows[-1].get('epoch')} epochs, {rows[-1].get('step')} steps, {seconds:.1f} s"]))
    if starts:
        facts.append(("commands", [str(start.get("command") or "from Python") for start in starts]))
        facts.append(("begun", [_time(start.get("time")) for start in starts]))
        facts.append(("machine", list(dict.fromkeys(str(start.get("machine")) for start in starts))))
        versions = [start.get("versions") for start in starts]
        shown = [", ".join(f"{n} {v}" for n, v in found.items()) for found in versions if isinstance(found, dict)]
        facts.append(("versions", list(dict.fromkeys(shown))))
    checkpoint = e.path / training.CHECKPOINT if e.path.is_dir() else e.path
    if checkpoint.exists():
        saved = datetime.fromtimestamp(checkpoint.stat().st_mtime, UTC)
        facts.append(("saved", [saved.strftime("%Y-%m-%d %H:%M:%S UTC")]))
    said = [_sentence(reason) for reason in e.missing] + [f"{text}." for text in e.remarks] + list(_unfinished(e, rows))
    if not starts:
        said.append("The run does not tell when, where and by which command it was trained.")
    return {"facts": facts, "settings": _settings(e), "missing": said}


def _of_model(e: Exhibit) -> list[tuple[str, list[str]]]:
    model, notes, fitted = e.model, e.model.notes_, e.model.config_["fitted"]
    source = notes.get("data")
    data = [source if isinstance(source, str) else "not noted: the run was trained from Python"]
    others = {
        view: n for view, n in getattr(model.model_, "sizes", {}).items() if view in model.model_.views and view != "x"
    }
    further = "".join(f", and {n} of the view {view}" for view, n in others.items())
    data.append(f"{fitted.get('n_rows', 'an unknown number of')} training rows of {model.n_features_in_} columns{further}")
    facts = [("model", [repr(model)]), ("data", data)]
    if e.source is not None:
        facts.append(("rows that are shown", [str(e.source)]))
    if "data_sha256" in fitted:
        facts.append(("data, SHA-256", [str(fitted["data_sha256"])]))
    facts.append(("parameters, SHA-256", [model.parameters_.sha256()]))
    facts.append(("seed", [str(model.seed_)]))
    further = notes.keys() - {"data", "data_dir", "image_shape", "gvae", "names"}
    return [*facts, *((f"note: {name}", [_note(notes[name])]) for name in sorted(further))]


def _note(value: Any) -> str:
    return ", ".join(f"{name} {_time(x)}" for name, x in value.items()) if isinstance(value, dict) else str(value)


def _settings(e: Exhibit) -> list[tuple[str, str]]:
    try:
        return [(name, str(value)) for name, value in e.model.get_params().items()]
    except Absent:
        return []


def _unfinished(e: Exhibit, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    try:
        model = e.model
    except Absent:
        return
    asked, key = (model.steps, "step") if getattr(model, "steps", None) else (getattr(model, "epochs", 1), "epoch")
    if rows and isinstance(asked, int) and rows[-1].get(key, asked) < asked and not model.holds_out:
        yield f"Training stopped at {key} {rows[-1][key]} of {asked}: the figures are those of an unfinished run."


def _time(text: Any) -> str:
    return str(text).replace("T", " ").replace("+00:00", " UTC")


# ---- panels --------------------------------------------------------------------------------------


def _rendered(panels: Sequence[Panel], key: str) -> list[dict[str, Any]]:
    """Panels as the template takes them; key: the beginning of the charts' ids."""
    return [{"title": panel.title, "id": f"{key}-{i}"} | _render(panel, f"{key}-{i}") for i, panel in enumerate(panels)]


@singledispatch
def _render(panel: Any, key: str) -> dict[str, Any]:
    from bokeh.embed import json_item

    said = [panel.title, *(str(getattr(panel, name, "")) for name in ("x", "y", "across", "up"))]
    alt = ", ".join(word for word in said if word and len(word) < 100)
    return {"kind": "chart", "item": json_item(chart(panel)), "alt": f"chart: {alt}"}


@_render.register
def _(panel: Images, key: str) -> dict[str, Any]:
    names, n = list(panel.rows), panel.columns or max(len(row) for row in panel.rows.values())
    width, alt = n * max(CELL, panel.shape[1] + 1), f"{n} images of {panel.shape[0]} x {panel.shape[1]} side by side"
    uris = [image_uri(plots.image_grid(np.asarray(row, np.float64), panel.shape, n)) for row in panel.rows.values()]
    if names == [""]:
        return {"kind": "image", "uri": uris[0], "alt": alt, "width": width, "wide": True}
    return {"kind": "images", "rows": list(zip(names, uris, strict=True)), "alt": alt, "width": width, "wide": True}


@_render.register
def _(panel: Table, key: str) -> dict[str, Any]:
    return {"kind": "table", "heading": panel.heading, "rows": panel.rows, "wide": True}


@_render.register
def _(panel: Text, key: str) -> dict[str, Any]:
    return {"kind": "text", "text": panel.text, "alt": panel.title or "text", "wide": True}


@_render.register
def _(panel: Sentences, key: str) -> dict[str, Any]:
    return {"kind": "sentences", "texts": panel.texts, "wide": True}
