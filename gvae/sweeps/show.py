"""A study as lines of text, and as the sections of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gvae.panels import Line, Lines, Panel, Points, Sentences, Table
from gvae.sweeps.study import Study

__all__ = ["counted", "exhibit", "line", "listed", "settings_text"]

NAMED = 6  # the largest number of curves that are all named in the legend; of more, only the best one


def line(study: Study, trial: dict[str, Any]) -> str:
    """A trial that has ended, in one line."""
    what = trial["reason"] if trial["state"] == "failed" else f"{study.plan.settings['metric']} {number(trial['value'])}"
    spent = "" if trial["seconds"] is None else f"; {trial['epoch']} epochs, {trial['seconds']:.1f} s"
    return f"trial {trial['trial']} {trial['state']}: {what}; {settings_text(trial['settings'])}{spent}"


def settings_text(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {setting(value)}" for name, value in values.items())


def setting(value: Any) -> str:
    return number(value, 4) if isinstance(value, float) else " ".join(str(value).split())


def number(value: float | None, digits: int = 6) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def listed(study: Study) -> list[tuple[str, ...]]:
    """A table of all trials: the heading, and a row for each."""
    metric, names = study.plan.settings["metric"], [r.name for r in study.plan.ranges]
    best = study.best()
    table = [("trial", "state", metric, "epochs", "seconds", *names, "")]
    for trial in study.trials():
        marked = "best" if best is not None and trial["trial"] == best["trial"] else ""
        said = trial["reason"] or ("its run folder is gone" if trial["missing"] else marked)
        cells = (str(trial["trial"]), trial["state"], number(trial["value"]), str(trial["epoch"]))
        seconds = "-" if trial["seconds"] is None else f"{trial['seconds']:.1f}"
        table.append((*cells, seconds, *(setting(trial["settings"].get(name, "-")) for name in names), said))
    return table


def counted(study: Study) -> str:
    """How many trials are in each state."""
    states = [trial["state"] for trial in study.trials()]
    found = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return f"{study.plan.trials} trials" + (f": {found}" if found else "")


def exhibit(study: Study) -> tuple[str, list[tuple[str, list[str]]], dict[str, tuple[Panel, ...]]]:
    """A report: its title, facts as (name, lines), and panels by the title of their section."""
    panels = {
        "Trials": _table(study),
        "Best value": _best(study),
        "Learning curves": _curves(study),
        "Settings and values": _settings(study),
    }
    return study.path.resolve().name, _facts(study), panels


def _facts(study: Study) -> list[tuple[str, list[str]]]:
    plan, best = study.plan, study.best()
    rows = plan.tables["data"]
    facts = [("best", ["no trial is complete" if best is None else line(study, best)]), ("trials", [counted(study)])]
    facts += [("model", [plan.estimator.name]), ("data", [", ".join(rows.values())])]
    facts += [("settings", [settings_text(plan.fixed) or "as they are by default"])]
    facts += [("study", [f"{name} {value}" for name, value in plan.settings.items()])]
    return facts


def _table(study: Study) -> tuple[Panel, ...]:
    heading, *rows = listed(study)
    lost = [str(trial["trial"]) for trial in study.trials() if trial["missing"]]
    said = [f"The run folders of trials {', '.join(lost)} are gone; the journal has kept what is shown."] if lost else []
    return (Table(heading, rows), *([Sentences(said)] if said else []))


def _valued(study: Study) -> list[dict[str, Any]]:
    return [t for t in study.trials() if t["state"] in ("complete", "pruned") and t["value"] is not None]


def _best(study: Study) -> tuple[Panel, ...]:
    done = [trial for trial in _valued(study) if trial["state"] == "complete"]
    if not done:
        return ()
    values = np.array([trial["value"] for trial in done])
    best = (np.maximum if study.plan.maximize else np.minimum).accumulate(values)
    numbers, metric = [trial["trial"] for trial in done], study.plan.settings["metric"]
    return (Lines([Line(numbers, best, "best so far"), Line(numbers, values, "trial", 1, thin=True)], "trial", metric),)


def _curves(study: Study) -> tuple[Panel, ...]:
    lines, trials, best = [], study.trials(), study.best()
    for trial in trials:
        curve = {k: v for k, v in trial["curve"].items() if math.isfinite(v)}
        is_best = best is not None and trial["trial"] == best["trial"]
        name = f"trial {trial['trial']}: {settings_text(trial['settings'])}" if is_best or len(trials) <= NAMED else ""
        if curve:
            lines.append(Line(list(curve), list(curve.values()), name, trial["trial"], thin=trial["state"] != "complete"))
    return (Lines(lines, "epoch", study.plan.settings["metric"]),) if lines else ()


def _settings(study: Study) -> tuple[Panel, ...]:
    """The values against each setting: against its number, or the position of its choice."""
    done, panels = _valued(study), []
    if not done:
        return ()
    values = np.array([trial["value"] for trial in done])
    about = {"trial": [str(t["trial"]) for t in done], "settings": [settings_text(t["settings"]) for t in done]}
    states, metric = [trial["state"] for trial in done], study.plan.settings["metric"]
    groups = states if len(set(states)) > 1 else None
    for r in study.plan.ranges:
        given: Sequence[Any] = [trial["settings"][r.name] for trial in done]
        if r.choices is None or all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in r.choices):
            x, name = np.ravel(np.array(given, float)), r.name
        else:
            x = np.array([r.choices.index(v) for v in given], float)
            name = f"{r.name}: " + ", ".join(f"{i} = {setting(choice)}" for i, choice in enumerate(r.choices))
        if r.log:
            x, name = np.log10(x), f"log10 {r.name}"
        panels.append(Points(x, values, name, metric, groups, about))
    return tuple(panels)
