"""What the scripts of this folder share: rows of a published table, how one is trained, measured, recorded and shown.

A row is a set of settings of an estimator. Training has a run folder, so that an interrupted row continues where it
stopped, bit for bit, its evaluation too. A finished row leaves in docs/results/TABLE

    ROW.jsonl          a line per epoch as the run logged them, and a last line with the figures, the settings, the SHA-256
                       of the final parameters, versions, machine and date
    ROW.safetensors    the parameters in float16, if that takes at most 2 MB: what --verify evaluates without a run folder
    ROW.npz            ELBO and log p(x) of each test row, for comparisons of rows image by image
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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvae import blas

blas.choose_kernels()  # as gvae's own commands do, before anything loads NumPy

import numpy as np  # noqa: E402
from scipy import stats  # noqa: E402

import gvae  # noqa: E402
from gvae import data, estimator, training  # noqa: E402
from gvae.runtime import device  # noqa: E402

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SAMPLES = 5000  # importance samples per test row, as in the papers
ASKED = """\
# Results

Does structure in q help, by how much, where, and at what cost? Rows less rows with a diagonal posterior (`darn`: a factorial
one; `permuted-chain`: less the chain), in nats per test row, paired by image: means over seeds ± their standard errors, and
two-sided p-values of Student's t-test, not corrected for their number.
"""
LEARNED = """\
1. It helps: a full covariance of 16 variables gains half a nat to one of log p(x) on MNIST and 0.9 to 1.8 of ELBO, with
   networks of 200 units (one seed) and of 500 (`wide`), and after training on the bound of five samples (`iwae`), too, which
   by itself raises the log p(x) of a diagonal by 0.9 to 1.1.
2. Sparse graphs gain little: an extended grid 0.1 to 0.2 nats of log p(x), a chain at most 0.2; three seeds do not decide
   between the two nor, by annealing, whether either gains at all. Which variables a chain links does not matter beyond
   chance.
3. Not everywhere: in a DLGM with two layers of noise, factors of rank one gain nothing beyond chance, where its paper has
   0.7; where codes are bits (DARN), an encoder in which they depend on each other gains 1.7, with one seed.
4. Structure does not close the gap: under every family of the first table 3.6 to 4.5 nats remain between the ELBO and
   log p(x) by annealing.
5. A step with a chain takes 16 to 24 % longer than one with a diagonal, one with an extended grid 7 to 10 %, by the rows of
   100 x 1 and 20 x 50 on an idle CPU ([performance](performance.md#a-training-step-on-the-cpu)), which does not show in the
   minutes of rows that were trained beside other work; a full covariance needs an output of the encoder for each entry of
   its factor.
"""
READING = """\
## How to read the tables

Figures are in nats per test row, ± the standard error that the choice of rows causes, unless a column or a note says
otherwise. log p(x) is by importance sampling; "k > 0.7" is the share of rows whose Pareto k says that it rests on a few
draws, and is too low. Beside it, log p(x) of 1,000 test rows (the first ones or, where a file is sorted by digit, every
tenth) by annealed importance sampling, also a lower bound, which starts from q but moves away from it, and again by
importance sampling; "BDMC" is the distance between a lower and an upper bound on log p(x) by annealing from the prior,
for 200 rows that the model has drawn. A published figure in brackets is not comparable, for a reason that the notes give,
such as 27 times the epochs; where the notes say that a paper leaves its networks or its schedule open, or differs in some
other way, one without brackets compares no more than that. Minutes are those of training, on a machine that did other work
as well; in brackets, an estimate for a row that is pending, on one core (`whole`: on an H100), with its evaluation.

There is no row of OMNIGLOT beside a published one: those are of the 28 x 28 images of Burda, Grosse and Salakhutdinov
(24,345 and 8,070 of them), and `omniglot` is a derived file, made from the originals with another split. Nor is there one
of Frey faces: published figures are of 200 test rows after a shuffle, and which rows these are is not known here.

The page is written by `python examples/reproduce/page.py` from the files under `docs/results/`. The sections of GGM-VAE,
IWAE, DLGM and bits have a file for each row: its epochs, figures, settings, command, machine, date and the SHA-256 of its
final parameters. The others have one file each, whose lines are figures with the command that made them; their scripts need
`--runs FOLDER`, where run folders lie or are made. A row of the former that is not there yet is pending:
`python examples/reproduce/TABLE.py ROW` trains it, and continues it if it was interrupted. `--verify ROW` evaluates a
finished row again, from its run folder or from the weights beside its record, bounds by annealing as well (with
`--samples K`, without them); a row that has neither says by which command it is trained again.
"""
FIGURES = ("elbo", "log_likelihood")  # the figures by which rows are compared
SEED = 0  # the seed of the binarization and the noise of every evaluation
KEPT = 2 << 20  # bytes of the largest weights that are kept
ROUNDED = 0.01  # nats by which weights in float16 may change a mean over rows; seen: 0.0002
ANNEALED = {  # of test rows, and of rows that the model draws; from the prior, where BDMC starts, the way is longer
    "ais": {"first": 1000, "chains": 4, "temperatures": 300},
    "bdmc": {"first": 200, "chains": 4, "temperatures": 1000},
}


@dataclass(frozen=True)
class Row:
    """name: "chain-0"     settings: of the estimator     published: (log p(x), ELBO), nats per row; None where there is none

    model : the estimator's name, see gvae.estimators     measures : that its record holds in addition, see gvae.evaluation
    comparable : whether the published figures are of the same data and of at most the effort of the row
    against : the name of a row of the same seed, from which this one is subtracted image by image, see `differences`
    initial : the name of a row of the same table from whose kept weights training starts
    minutes : an estimate of the time on one core, evaluation included, which is shown while the row is pending
    """

    name: str
    settings: dict[str, Any]
    published: tuple[float | None, float | None] = (None, None)
    model: str = "vae"
    measures: tuple[str, ...] = ()
    comparable: bool = True
    against: str | None = None
    initial: str | None = None
    minutes: int | None = None


@dataclass(frozen=True)
class Table:
    """name: of the folder of results     title: what it reproduces     dataset: as gvae.data names it

    samples : importance samples per test row     annealed : whether log p(x) is bounded by annealing, too, which
    needs continuous codes     stride : annealing takes every stride-th test row, where the rows of a file are sorted
    script: the script of the table, if it has another name
    """

    name: str
    title: str
    dataset: str
    rows: tuple[Row, ...]
    notes: str = ""
    samples: int = SAMPLES
    annealed: bool = True
    stride: int = 1
    script: str | None = None

    @property
    def command(self) -> str:
        return f"python examples/reproduce/{self.script or self.name}.py"

    def path(self, row: Row) -> Path:
        return RESULTS / self.name / f"{row.name}.jsonl"

    def weights(self, row: Row) -> Path:
        return self.path(row).with_suffix(".safetensors")

    def record(self, row: Row) -> dict[str, Any] | None:
        """The last line of the row's results, or None while it is pending."""
        path = self.path(row)
        return json.loads(path.read_text(encoding="utf-8").splitlines()[-1]) if path.exists() else None


def measure(
    model: gvae.VAE,
    test: np.ndarray,
    samples: int,
    *,
    measures: tuple[str, ...] = (),
    annealed: bool = False,
    stride: int = 1,
    progress: bool = False,
    partial: Path | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The figures of a trained row, in nats per test row; and those of each test row.

    annealed : with bounds by annealing, of every stride-th row     partial : a file that keeps what is finished, should this
    be interrupted
    """
    order = np.argsort(np.arange(len(test)) % stride, kind="stable")  # annealing takes the first
    given: dict[str, Any] = {"seed": SEED, "progress": progress}
    chosen = (*measures, "ais") if annealed else measures
    result = model.evaluate(test[order], samples=samples, measures=chosen, partial=partial, **given, **ANNEALED["ais"])
    summary = result.summary()
    numbers = {name: value for name, value in summary.items() if isinstance(value, (int, float))}
    figures: dict[str, Any] = {name: value for name, value in numbers.items() if math.isfinite(value)}
    figures |= {name: summary[name] for name in result.measures}
    if annealed:
        drawn = model.evaluate(test[:1], samples=1, measures=("bdmc",), **given, **ANNEALED["bdmc"])
        figures["bdmc"] = drawn.summary()["bdmc"]
    each = {"elbo": result.elbo[np.argsort(order)], "log_likelihood": result.log_likelihood[np.argsort(order)]}
    if model.model_.codes:
        units = np.concatenate([model.transform(test[i : i + 1000]) for i in range(0, len(test), 1000)])
        figures["active_units"] = int((units.var(axis=0) > 0.01).sum())
    return figures, each


def by_annealing(model: gvae.VAE, x: np.ndarray) -> dict[str, float]:
    """log p(x) of few rows by annealed importance sampling, and by 1,000 importance samples."""
    found = model.evaluate(x, samples=1000, measures=["ais"], first=len(x), chains=4, temperatures=200).summary()["ais"]
    return {"ais": found["log_likelihood"], "importance_sampled": found["importance_sampled_log_likelihood"]}


def train(table: Table, row: Row, runs: Path, samples: int, quiet: bool = False) -> dict[str, Any]:
    """Train a row, or resume it, measure it and keep the result. Returns what was recorded."""
    dataset, folder = data.load(table.dataset), runs / table.name / row.name
    model = trained(table, row, dataset, folder, quiet)
    started = time.perf_counter()
    record = {"row": row.name, "settings": row.settings, "parameters_sha256": model.parameters_.sha256()}
    record |= {} if row.initial is None else {"initial": row.initial}
    record |= {"trained_on": model.notes_["device"]} if "device" in row.settings else {}
    figures, each = measure(
        model,
        dataset.test,
        samples,
        measures=row.measures,
        annealed=table.annealed,
        stride=table.stride,
        progress=not quiet,
        partial=folder.with_name(f"{row.name}.evaluation"),
    )
    record |= figures
    record |= {
        "evaluation_seconds": round(time.perf_counter() - started, 1),
        "training_seconds": round(sum(epoch["seconds"] for epoch in model.history_), 1),
        "command": f"{table.command} {row.name}" + ("" if samples == table.samples else f" --samples {samples}"),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": {"gvae": gvae.__version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    write(table.path(row), model.history_, record)
    np.savez_compressed(table.path(row).with_suffix(".npz"), **{name: x.astype(np.float32) for name, x in each.items()})
    if row.initial is not None:  # a path for any clone: not the folder of this one
        start = RESULTS / table.name / f"{row.initial}.safetensors"
        model.config_["settings"]["initial"] = start.relative_to(RESULTS.parents[1]).as_posix()
    model.save(table.weights(row), half=True)
    if table.weights(row).stat().st_size > KEPT:
        table.weights(row).unlink()
    return record


def trained(table: Table, row: Row, dataset: data.Dataset, folder: Path, quiet: bool = False) -> gvae.VAE:
    """The row's model, trained in a run folder, or resumed there; or, if training has ended there, perhaps on a machine
    with a device that this one lacks, as it was kept."""
    begun = (folder / "config.json").exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    start = {} if row.initial is None else {"initial": os.path.relpath(RESULTS / table.name / f"{row.initial}.safetensors")}
    model = gvae.estimators()[row.model](**row.settings, **start, verbose=not quiet)
    notes: dict[str, Any] = {"image_shape": dataset.image_shape}
    if "device" in row.settings:
        if begun and training.survey(folder)[0]["state"] == "finished":
            kept = estimator.load(folder)
            if other := [name for name, value in row.settings.items() if kept.get_params()[name] != value]:
                raise SystemExit(f"{folder} was trained with another {other[0]}: {kept.get_params()[other[0]]!r}")
            return kept
        notes["device"] = describe_device()
    return model.fit(dataset.train, validation=dataset.test, run=folder, resume=begun, notes=notes)


def describe_device() -> str:
    """The name of the CUDA device, and CuPy's version."""
    cupy = device.module("cuda")
    return f"{cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}, CuPy {cupy.__version__}"


def write(path: Path, epochs: list[dict[str, Any]], record: dict[str, Any]) -> None:
    """The row's file: a line an epoch, and the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in (*epochs, record)), encoding="utf-8")


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
    check_names(parser, options.points, points)
    options.runs.mkdir(parents=True, exist_ok=True)
    for name in options.points or points:
        row = {"point": name} | points[name](options.runs / name)
        # a command for any machine: not the folder where the runs lie on this one
        append(options.results, row, f"python examples/reproduce/{result.stem}.py {name} --runs runs")
        print(f"{name}: {row}", flush=True)


def check_names(parser: argparse.ArgumentParser, names: Iterable[str], known: Collection[str]) -> None:
    """Before anything is trained: exit with a message if a name is unknown."""
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown name {unknown[0]!r}; known are {', '.join(known)}")


def lines(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """The lines of such a file by one of their entries, of several the last; {} where there is no file."""
    if not path.exists():
        return {}
    return {record[key]: record for record in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def section(title: str, script: str, columns: tuple[str, ...], rows: list[list[str]], notes: str, records: Any) -> str:
    """A part of the page for results that are not a Table: heading, where they were seen, table, notes."""
    about = sorted({f"{r['machine']}, {r['date']}" for r in records})
    seen = f"Seen on {'; '.join(about)}." if about else "No row has been run."
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n\n".join((f"## {title}", f"`python examples/reproduce/{script}`. {seen}", "\n".join(table), notes))


def machine() -> str:
    """The processor, its cores, and threads."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def verify(table: Table, row: Row, runs: Path, samples: int | None) -> list[str]:
    """Evaluate the row again, from its run folder or else from the kept weights, which are rounded. Returns the differences
    from its record, [] if there are none."""
    record = table.record(row)
    if record is None:
        return [f"{row.name} has no record: it is pending"]
    wrong: list[str] = []
    run, weights = runs / table.name / row.name, table.weights(row)
    if not run.exists() and not weights.exists():
        return [f"there is no run {run}, and its weights are not kept: `{record['command']} --again` trains it again"]
    model = estimator.load(run if run.exists() else weights)
    if run.exists() and (found := model.parameters_.sha256()) != record["parameters_sha256"]:
        wrong.append(f"the run's parameters have the SHA-256 {found}, the record says {record['parameters_sha256']}")
    few = samples is not None and samples != record["samples"]
    again, each = measure(
        model,
        data.load(table.dataset).test,
        samples or record["samples"],
        measures=row.measures,
        annealed="ais" in record and not few,
        stride=table.stride,
        progress=True,
    )
    there = dict(_figures(again))
    if few:  # then the ELBO is noisier, and log p(x) lies between the two
        noise, kept = record["elbo_standard_error"], table.path(row).with_suffix(".npz")
        if kept.exists():
            with np.load(kept) as before:
                noise = (each["elbo"] - before["elbo"]).std() / math.sqrt(len(each["elbo"]))
        _compare("elbo", there["elbo"], record["elbo"], 4 * noise + ROUNDED, wrong)
        if not there["elbo"] <= there["log_likelihood"] <= record["log_likelihood"] + 4 * noise + ROUNDED:
            bounds = f"between {there['elbo']:.3f}, the ELBO, and {record['log_likelihood']:.3f}, the record's"
            wrong.append(f"log_likelihood is {there['log_likelihood']:.3f}, expected {bounds}")
        return wrong
    said = dict(_figures(record))
    for name in (name for name in said if name in there):
        if isinstance(said[name], int):  # counts: what is rounded may lie on the other side of a limit
            tolerance = 0 if run.exists() else 1
        elif name.startswith("ais.") and f"{name}_sampling_error" in said:  # HMC's decisions amplify the order of sums
            tolerance = 4 * math.sqrt(2) * said[f"{name}_sampling_error"] + ROUNDED
        elif name == "bdmc.gap":  # rounded weights draw other rows: two standard errors of a difference
            tolerance = 2 * math.sqrt(2) * said["bdmc.gap_standard_error"]
        elif name == "bits.initial_bits":  # by draws of one batch, which rounding changes: over seeds SBN deviates by 0.4 %
            tolerance = abs(said[name]) / 100
        elif name.startswith("bits."):
            tolerance = abs(said[name]) / 1000
        elif name in (*FIGURES, "ais.importance_sampled_log_likelihood"):
            tolerance = 1e-3 if run.exists() else ROUNDED
        else:
            continue
        _compare(name, there[name], said[name], tolerance, wrong)
    return wrong


def _compare(name: str, found: float, expected: float, tolerance: float, wrong: list[str]) -> None:
    if not abs(found - expected) <= tolerance:
        wrong.append(f"{name} is {found:.3f}, the record says {expected:.3f}, expected within {tolerance:.3f}")


def _figures(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every figure of a record, with those of its measures: "elbo", "ais.log_likelihood", "bits.decoded", ..."""
    for name, value in record.items():
        if isinstance(value, dict) and name not in ("settings", "versions"):
            yield from ((f"{name}.{part}", x) for part, x in _figures(value))
        elif isinstance(value, (int, float)):
            yield name, value


def show(table: Table) -> str:
    """The table as Markdown, published figures next to ours."""
    columns = _columns(table)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in table.rows:
        record = table.record(row)
        cells = []
        for name, cell in columns.items():
            pending = "pending" if name == "log p(x)" else ""
            cells.append(pending if record is None and name not in OF_ROWS else cell(row, record or {}))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


OF_ROWS = ("row", "published", "published ELBO", "epochs", "minutes")  # columns that do not need a record


def _columns(table: Table) -> dict[str, Callable[[Row, Mapping[str, Any]], str]]:
    """What the table shows of a row and its record, by column."""

    def ours(name: str) -> Callable[[Row, Mapping[str, Any]], str]:
        return lambda _, r: f"{r[name]:.2f} ± {r[f'{name}_standard_error']:.2f}"

    def published(i: int) -> Callable[[Row, Mapping[str, Any]], str]:
        shown = {True: "{:g}", False: "({:g})"}
        return lambda row, _: "-" if (x := row.published[i]) is None else shown[row.comparable].format(x)

    def of(measure: str, name: str, digits: int = 2) -> Callable[[Row, Mapping[str, Any]], str]:
        return lambda _, r: f"{r[measure][name]:.{digits}f}" if measure in r else "-"

    columns: dict[str, Callable[[Row, Mapping[str, Any]], str]] = {"row": lambda row, _: row.name}
    columns |= {"log p(x)": ours("log_likelihood"), "published": published(0)}
    if table.annealed:
        columns["by AIS, 1,000 rows"] = of("ais", "log_likelihood")
        columns["by samples, 1,000 rows"] = of("ais", "importance_sampled_log_likelihood")
        columns["BDMC"] = of("bdmc", "gap")
    columns |= {"ELBO": ours("elbo"), "published ELBO": published(1)}
    if any("bits" in row.measures for row in table.rows):
        columns["net bits"] = of("bits", "net_bits_per_row")
        columns["-ELBO / ln 2"] = of("bits", "bound_bits_per_row")
    return (
        columns
        | {
            "k > 0.7": lambda _, r: f"{r['pareto_k_unreliable']:.0%}" if "pareto_k_unreliable" in r else "-",  # few samples
            "active units": _active,
            "epochs": lambda row, _: str(row.settings["epochs"]),
            "minutes": lambda row, r: (
                f"{r['training_seconds'] / 60:.0f}" if r else f"({row.minutes})" if row.minutes else ""
            ),
            "parameters": lambda _, r: f"`{r['parameters_sha256'][:12]}`",
        }
    )


def _active(_: Row, record: Mapping[str, Any]) -> str:
    if "units" in record:
        return " + ".join(str(layer["active"]) for layer in record["units"]["layers"])
    return str(record.get("active_units", "-"))


def spreads(table: Table) -> str:
    """Mean and standard deviation over the seeds of rows NAME-0, NAME-1, ..., where more than one is done; or nothing."""
    seeds: dict[str, list[dict[str, Any]]] = {}
    for row in table.rows:
        name, _, seed = row.name.rpartition("-")
        record = table.record(row)
        if seed.isdecimal() and record is not None and record["settings"].get("random_state") == int(seed):
            seeds.setdefault(name, []).append(record)
    lines = ["| mean ± standard deviation over seeds | seeds | log p(x) | ELBO |", "|---|---|---|---|"]
    for name, records in seeds.items():
        if len(records) > 1:
            values = [[r[figure] for r in records] for figure in FIGURES]
            cells = " | ".join(f"{np.mean(v):.2f} ± {np.std(v, ddof=1):.2f}" for v in values)
            lines.append(f"| {name} | {len(records)} | {cells} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def differences(tables: Iterable[Table]) -> str:
    """Rows less those that they are `against`, on the same images, as Markdown, or "" where no such pair is recorded.

    Of each figure the mean over seeds, its standard error, and p of Student's t-test, two-sided; a single seed has neither.
    Below the table, the largest standard error over images of a mean over seeds; by annealing these are not on record.
    """
    columns = ("table", "row", "less", "seeds", "ELBO", "log p(x)", "log p(x) by AIS")
    lines, of_images = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"], []
    for table in tables:
        for (name, against), pairs in _pairs(table).items():
            cells = [table.name, name, against, str(len(pairs))]
            for figure in FIGURES:
                each = np.stack([pair[figure] for pair in pairs]).astype(np.float64)  # (seeds, images)
                cells.append(_mean(each.mean(axis=1)))
                of_images.append(_error(each.mean(axis=0)))
            annealed = [pair["ais"] for pair in pairs if "ais" in pair]
            cells.append(_mean(np.array(annealed)) if annealed else "-")
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Standard errors over images, of ELBO and log p(x): at most {max(of_images, default=0.0):.2f}."]
    return "\n".join(lines) if of_images else ""


def _pairs(table: Table) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Differences of FIGURES by image, and of the mean by annealing as "ais", a dict for each seed that has both rows."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    by_name = {row.name: row for row in table.rows}
    for row in (row for row in table.rows if row.against is not None):
        both = row, by_name[row.against]
        paths = [table.path(each).with_suffix(".npz") for each in both]
        if all(path.exists() for path in paths):
            with np.load(paths[0]) as one, np.load(paths[1]) as other:
                pair: dict[str, Any] = {figure: one[figure] - other[figure] for figure in FIGURES}
            annealed = [(table.record(each) or {}).get("ais") for each in both]
            if all(annealed):
                pair["ais"] = annealed[0]["log_likelihood"] - annealed[1]["log_likelihood"]
            name, against = (each.name.rpartition("-")[0] for each in both)
            found.setdefault((name, against), []).append(pair)
    return found


def _mean(values: np.ndarray) -> str:
    """The mean of one figure per seed, its standard error, and p."""
    if len(values) < 2:
        return f"{values.mean():.2f}"
    p = stats.ttest_1samp(values, 0).pvalue
    return f"{values.mean():.2f} ± {_error(values):.2f} (p={p:.1g})"


def _error(values: np.ndarray) -> float:
    """The standard error of the mean of two or more values."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def main(*tables: Table, arguments: list[str] | None = None) -> int:
    """The command line of the script of these tables."""
    rows = {row.name: (table, row) for table in tables for row in table.rows}
    parser = argparse.ArgumentParser(
        description=f"{'; '.join(table.title for table in tables)}. Without arguments: the tables as they stand."
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(rows)}; or all")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs lie (default: runs)")
    parser.add_argument("--verify", action="store_true", help="evaluate finished rows again and compare with their records")
    parser.add_argument(
        "--again", action="store_true", help="measure rows that have a record, too, and train those without a run folder"
    )
    parser.add_argument("--samples", type=int, metavar="K", help="importance samples (default: those of the table)")
    options = parser.parse_args(arguments)
    names = list(rows) if options.rows == ["all"] else options.rows
    check_names(parser, names, rows)
    if options.samples is not None and options.samples < 1:
        parser.error(f"--samples is {options.samples}, expected at least 1")
    failed = False
    with blas.threads(1):  # as gvae's own commands: the bits of a result depend on it
        for name in names:
            table, row = rows[name]
            if options.verify:
                wrong = verify(table, row, options.runs, options.samples)
                print(f"{name}: {'; '.join(wrong) or 'as recorded'}")
                failed |= bool(wrong)
            elif table.record(row) is not None and not options.again:
                print(f"{name}: done, see {table.path(row)}")
            else:
                train(table, row, options.runs, options.samples or table.samples)
    for table in tables:
        print(f"\n{table.title}\n\n{show(table)}\n\n{table.notes}".rstrip())
    return int(failed)


def page(tables: list[Table], sections: list[str]) -> str:
    """docs/results.md.   sections : parts for results that are not a Table, see `section`"""
    parts = [ASKED, differences(tables), LEARNED]
    for table in tables:
        done = [record for record in map(table.record, table.rows) if record is not None]
        about = sorted({f"{r['machine']}, {r['date']}" for r in done})
        seen = f"Seen on {'; '.join(about)}." if about else "No row has been run."
        parts.append(
            "\n\n".join(
                part
                for part in (
                    f"## {table.title}",
                    f"`{table.command}`. {seen} {table.samples:,} importance samples per row.",
                    show(table),
                    spreads(table),
                    table.notes,
                )
                if part
            )
        )
    return "\n\n".join(part.rstrip() for part in (*parts, *sections, READING)) + "\n"


if __name__ == "__main__":
    sys.exit("run one of the tables: ggm_vae.py, iwae.py, dlgm.py, bits.py")
