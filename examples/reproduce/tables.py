"""What the scripts of this folder share: rows of a published table, how one is trained, measured, recorded and shown.

A row is a set of settings of an estimator. Training has a run folder, so that an interrupted row continues where it
stopped, bit for bit. A finished row leaves one JSON-lines file under docs/results/TABLE: a line per epoch as the run logged
them, and a last line with the figures, the settings, the SHA-256 of the final parameters, versions, machine and date.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gvae import blas

blas.choose_kernels()  # as gvae's own commands do, before anything loads NumPy

import numpy as np  # noqa: E402

import gvae  # noqa: E402
from gvae import data, estimator  # noqa: E402

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SAMPLES = 5000  # importance samples per test row, as in the papers
INTRODUCTION = """\
# Results

Written by `python examples/reproduce/page.py` from the files under `docs/results/`, one a row: its epochs, figures,
settings, command, machine, date and the SHA-256 of its final parameters. In nats per test row, ± the standard error that the
choice of rows causes; "k > 0.7" is the share of rows whose Pareto k says that their log p(x) rests on a few draws, and is
too low. Minutes are those of a machine that did other work as well. A row that is not there yet is pending: `python
examples/reproduce/TABLE.py ROW` trains it, and continues it if it was interrupted. With `--verify`, a finished run is
evaluated again.
"""
SEED = 0  # of the binarization and the noise of every evaluation


@dataclass(frozen=True)
class Row:
    """name: "chain-0"     settings: of the estimator     published: (log p(x), ELBO), nats per row; None where there is none

    model : the estimator's name, see gvae.estimators     measures : that its record holds in addition, see gvae.evaluation
    """

    name: str
    settings: dict[str, Any]
    published: tuple[float | None, float | None] = (None, None)
    model: str = "vae"
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """name: of the folder of results     title: what it reproduces     dataset: as gvae.data names it

    samples : importance samples per test row
    """

    name: str
    title: str
    dataset: str
    rows: tuple[Row, ...]
    notes: str = ""
    samples: int = SAMPLES
    by_name: dict[str, Row] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.by_name.update({row.name: row for row in self.rows})

    def path(self, row: Row) -> Path:
        return RESULTS / self.name / f"{row.name}.jsonl"

    def record(self, row: Row) -> dict[str, Any] | None:
        """The last line of the row's results, or None while it is pending."""
        path = self.path(row)
        return json.loads(path.read_text().splitlines()[-1]) if path.exists() else None


def measure(model: gvae.VAE, test: np.ndarray, samples: int, progress: bool, measures: tuple[str, ...]) -> dict[str, Any]:
    """The figures of a trained row, in nats per test row."""
    result = model.evaluate(test, samples=samples, measures=measures, seed=SEED, progress=progress)
    numbers = {name: value for name, value in result.summary().items() if isinstance(value, (int, float))}
    figures: dict[str, Any] = {name: value for name, value in numbers.items() if math.isfinite(value)}
    figures |= {name: found.summary() for name, found in result.measures.items()}
    if not model.model_.codes:
        return figures
    units = np.concatenate([model.transform(test[i : i + 1000]) for i in range(0, len(test), 1000)])
    return figures | {"active_units": int((units.var(axis=0) > 0.01).sum())}


def train(table: Table, row: Row, runs: Path, samples: int, quiet: bool = False) -> dict[str, Any]:
    """Train a row, or resume it, measure it and keep the result. Returns what was recorded."""
    dataset, folder = data.load(table.dataset), runs / table.name / row.name
    begun = (folder / "checkpoint.safetensors").exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    model = gvae.estimators()[row.model](**row.settings, verbose=not quiet)
    notes = {"image_shape": dataset.image_shape}
    model.fit(dataset.train, validation=dataset.test, run=folder, resume=begun, notes=notes)
    started = time.perf_counter()
    record = {"row": row.name, "settings": row.settings, "parameters_sha256": model.parameters_.sha256()}
    record |= measure(model, dataset.test, samples, not quiet, row.measures)
    record |= {
        "evaluation_seconds": round(time.perf_counter() - started, 1),
        "training_seconds": round(sum(epoch["seconds"] for epoch in model.history_), 1),
        "command": " ".join(["python", f"examples/reproduce/{table.name}.py", row.name]),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {"gvae": gvae.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    write(table.path(row), model.history_, record)
    return record


def write(path: Path, epochs: list[dict[str, Any]], record: dict[str, Any]) -> None:
    """The row's file: a line an epoch, and the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in (*epochs, record)))


def append(path: Path, record: dict[str, Any], command: str) -> None:
    """A line of results with the command that made it, date and machine."""
    about = {"command": command, "date": datetime.date.today().isoformat(), "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record | about) + "\n")


def run_points(points: Mapping[str, Callable[[Path], dict[str, Any]]], result: Path, description: str) -> None:
    """The command line of a script whose points are trained and measured by `points[name](run folder)`: a line for each."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="*", metavar="POINT", help=", ".join(points))
    parser.add_argument("--runs", type=Path, required=True, help="where run folders lie, or are made")
    parser.add_argument("--results", type=Path, default=result)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    for name in options.points or points:
        row = {"point": name} | points[name](options.runs / name)
        append(options.results, row, f"python examples/reproduce/{result.stem}.py {name}")
        print(f"{name}: {row}", flush=True)


def lines(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """The lines of such a file by one of their entries, of several the last; {} where there is no file."""
    if not path.exists():
        return {}
    return {record[key]: record for record in map(json.loads, path.read_text().splitlines())}


def section(title: str, script: str, columns: tuple[str, ...], rows: list[list[str]], notes: str, records: Any) -> str:
    """A part of the page for results that are no Table: heading, where they were seen, table, notes."""
    about = sorted({f"{r['machine']}, {r['date']}" for r in records})
    seen = f"Seen on {'; '.join(about)}." if about else "No row has been run."
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join((f"## {title}", f"`python examples/reproduce/{script}`. {seen}", "\n".join(table), notes))


def machine() -> str:
    """The processor, its cores, and threads."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def verify(table: Table, row: Row, runs: Path, samples: int | None) -> list[str]:
    """Evaluate the row's run again. Returns what differs from its record: nothing, if it is what it says."""
    record = table.record(row)
    if record is None:
        return [f"{row.name} has no record: it is pending"]
    model = estimator.load(runs / table.name / row.name)
    wrong = []
    if (found := model.parameters_.sha256()) != record["parameters_sha256"]:
        wrong.append(f"the run's parameters have the SHA-256 {found}, the record says {record['parameters_sha256']}")
    again = measure(model, data.load(table.dataset).test, samples or record["samples"], True, ())
    for name in ("elbo", "log_likelihood"):
        few = samples is not None and samples != record["samples"]
        tolerance = 4 * record[f"{name}_standard_error"] if few else 1e-3  # the order of sums depends on the BLAS
        if abs(again[name] - record[name]) > tolerance:
            wrong.append(f"{name} is {again[name]:.3f}, the record says {record[name]:.3f}")
    return wrong


def show(table: Table) -> str:
    """The table as Markdown, published figures beside ours."""
    columns = ("row", f"log p(x), {table.samples} samples", "published", "ELBO", "published")
    coded = any("bits" in row.measures for row in table.rows)
    columns += ("net bits", "-ELBO / ln 2") if coded else ()
    columns += ("k > 0.7", "active units", "epochs", "minutes", "parameters")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table.rows:
        log_p, elbo = ("-" if x is None else f"{x:g}" for x in row.published)
        r = table.record(row)
        if r is None:
            blank = "| | " if coded else ""
            lines.append(f"| {row.name} | pending | {log_p} | pending | {elbo} | {blank}| | {row.settings['epochs']} | | |")
            continue
        ours = [f"{r[n]:.2f} ± {r[n + '_standard_error']:.2f}" for n in ("log_likelihood", "elbo")]
        k = f"{r['pareto_k_unreliable']:.0%}" if "pareto_k_unreliable" in r else "-"  # none for very few samples
        minutes, sha = r["training_seconds"] / 60, r["parameters_sha256"][:12]
        net = [f"{r['bits'][n]:.2f}" if "bits" in r else "-" for n in ("net_bits_per_row", "bound_bits_per_row")]
        cells = (
            row.name,
            ours[0],
            log_p,
            ours[1],
            elbo,
            *(net if coded else ()),
            k,
            r.get("active_units", "-"),
            r["settings"]["epochs"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} | {minutes:.0f} | `{sha}` |")
    return "\n".join(lines)


def spreads(table: Table) -> str:
    """Mean and standard deviation over the seeds of rows NAME-0, NAME-1, ..., where more than one is done; or nothing."""
    seeds: dict[str, list[dict[str, Any]]] = {}
    for row in table.rows:
        name, _, seed = row.name.rpartition("-")
        record = table.record(row)
        if seed.isdecimal() and record is not None and record["settings"].get("random_state") == int(seed):
            seeds.setdefault(name, []).append(record)
    lines = ["| over seeds | seeds | log p(x) | ELBO |", "|---|---|---|---|"]
    for name, records in seeds.items():
        if len(records) > 1:
            values = [[r[figure] for r in records] for figure in ("log_likelihood", "elbo")]
            cells = " | ".join(f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in values)
            lines.append(f"| {name} | {len(records)} | {cells} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def main(table: Table, arguments: list[str] | None = None) -> int:
    """The command line of a table's script."""
    parser = argparse.ArgumentParser(description=table.title + ". Without arguments: the table as it stands.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(table.by_name)}; or all")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs lie (default: runs)")
    parser.add_argument("--verify", action="store_true", help="evaluate finished rows again and compare with their records")
    parser.add_argument("--samples", type=int, metavar="K", help=f"importance samples (default: {table.samples})")
    options = parser.parse_args(arguments)
    names = list(table.by_name) if options.rows == ["all"] else options.rows
    unknown = [name for name in names if name not in table.by_name]
    if unknown:
        parser.error(f"unknown row {unknown[0]!r}; known are {', '.join(table.by_name)}")
    failed = False
    with blas.threads(1):  # as gvae's own commands: the bits of a result depend on it
        for name in names:
            row = table.by_name[name]
            if options.verify:
                wrong = verify(table, row, options.runs, options.samples)
                print(f"{name}: {'; '.join(wrong) or 'as recorded'}")
                failed |= bool(wrong)
            elif table.record(row) is not None:
                print(f"{name}: done, see {table.path(row)}")
            else:
                train(table, row, options.runs, options.samples or table.samples)
    print(f"\n{table.title}\n\n{show(table)}\n\n{table.notes}".rstrip())
    return int(failed)


def page(tables: list[Table], sections: list[str]) -> str:
    """docs/results.md.   sections : parts for results that are no Table, see `section`"""
    parts = [INTRODUCTION]
    for table in tables:
        done = [record for record in map(table.record, table.rows) if record is not None]
        about = sorted({f"{r['machine']}, {r['date']}" for r in done})
        seen = f"Seen on {'; '.join(about)}." if about else "No row has been run."
        parts.append(
            "\n\n".join(
                part
                for part in (
                    f"## {table.title}",
                    f"`python examples/reproduce/{table.name}.py`. {seen}",
                    show(table),
                    spreads(table),
                    table.notes,
                )
                if part
            )
        )
    return "\n\n".join(part.rstrip() for part in (*parts, *sections)) + "\n"


if __name__ == "__main__":
    sys.exit("run one of the tables: ggm_vae.py, iwae.py, dlgm.py")
