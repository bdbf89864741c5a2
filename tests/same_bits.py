"""Does a change keep all bits? Every registered model, family and objective, trained at two commits in one run:

    python tests/same_bits.py BASE                     # a commit, beside this working tree
    python tests/same_bits.py BASE OTHER               # two commits, or folders with the package gvae
    python tests/same_bits.py BASE --only nlfa         # cases whose name holds a text
    python tests/same_bits.py BASE --list

A case is 20 steps of an estimator on small data. Each side runs it in a process that has the side's gvae on PYTHONPATH,
through public estimators alone, and with every setting written out: BASE's registries and defaults decide the list, so that
a changed default is no difference. A BASE whose models were all one class, with a setting `model`, is compared through what
`gvae.VAE(model=...)` still stands for. Compared are the bits of the parameters, the history (not its times), the checkpoint,
`transform`, `reconstruct`, `sample` and `evaluate`. What one side refuses, the other must refuse with the same type of
error; any error that is not gvae's own counts as a difference.

Prints a line per difference and how many cases agree. Exit status: 0, or 1 if there is a difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import pickle
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS, LATENT, LAYERS = 12, 6, (5, 3)
TRAINING = {"hidden": (16,), "latent": LATENT, "batch_size": 16, "learning_rate": 5e-3, "steps": 20, "random_state": 7}
TRAINING |= {"posterior": "diagonal", "observation": "bernoulli", "binarize": "none", "standardize": False, "clip": None}
LARGE_STEPS = {"learning_rate": 1e4}  # the second step is not finite; after nine roll-backs all are
DRAWS = (1, 5)  # K
SEED = 20240607

TEXTS = {"lowrank": "lowrank:2", "categorical": "categorical:3", "mixture": "mixture:3"}  # else a family's default size
TEXTS |= {"shared": "shared:chain", "logit": "logit:chain", "zero_inflated": "zero_inflated:negative_binomial"}
UNSCORED = ("map", "bayes", "denoising")  # in validation, the one class showed them as in training: corrupted, priced
GROUPED = {"miwae": "miwae:{K}", "piwae": "piwae:{K}"}  # their number of groups has to divide K


FACTOR_ANALYSIS = {"observation": "gaussian", "posterior": "full", "hidden": (), "objective": "elbo_a", "batch_size": None}
OWN = {  # what models need
    "linear": {"hidden": ()},
    "factor_analysis": FACTOR_ANALYSIS,
    "nlfa": {"observation": "gaussian"},
    "hierarchical": {"latent": LAYERS},
}


@dataclass
class Case:
    """estimator : its class      settings : all of them; `model` too, where BASE has one class for all models
    data : see `rows`        stop : None, or the step after which training is stopped, and resumed from its checkpoint
    threads : GVAE_NUM_THREADS       evaluate : settings of `evaluate`"""

    name: str
    settings: dict[str, Any]
    data: str = "binary"
    estimator: str = "VAE"
    stop: int | None = None
    threads: int = 2
    evaluate: dict[str, Any] = field(default_factory=lambda: {"samples": 10})


# ---- the list of cases, in a process of BASE -----------------------------------------------------


def cases() -> list[Case]:
    """All of them, from the registries of the gvae that this process imports."""
    import gvae

    found = [*_models(), *_families(), *_objectives(), *_settings(), *_resumed(), *_wide()]
    for case in found:
        if hasattr(gvae, "estimators"):
            case.settings = dict(case.settings)  # cases share them
            cls = gvae.estimators()[case.settings.pop("model", "vae")]
            case.estimator, defaults = cls.__name__, cls().get_params()
            unknown = case.settings.keys() - defaults.keys()
            assert unknown <= {"hidden"} or cls is gvae.FactorAnalysis, (case.name, unknown)
        else:
            defaults = gvae.VAE().get_params()
        case.settings = {n: (TRAINING | case.settings).get(n, value) for n, value in defaults.items()}
    assert len({case.name for case in found}) == len(found)
    return found


def _bounds() -> Iterator[tuple[str, dict[str, Any]]]:
    for objective, K in itertools.product(("elbo", "iwae"), DRAWS):
        yield f"{objective}, K={K}", {"objective": objective, "samples": K}


def _models() -> Iterator[Case]:
    for name in _names_of_models():
        own = {"model": name} | OWN.get(name, {})
        exact = name == "factor_analysis"  # its bound and its step are; others it does not have
        posteriors = [own["posterior"]] if exact else ["diagonal", "chain"]
        for posterior, (bound, settings) in itertools.product(posteriors, [*_bounds()][: 1 if exact else None]):
            data = "real" if own.get("observation") == "gaussian" else "binary"
            yield Case(f"model {name}, {posterior}, {bound}", {"posterior": posterior} | settings | own, data)


def with_codes(model: Any) -> bool:
    return hasattr(model.Settings, "latent")


def _names_of_models() -> list[str]:
    """Those that read rows of numbers alone."""
    import gvae

    if hasattr(gvae, "estimators"):
        found = {name: cls.model for name, cls in gvae.estimators().items() if cls.model.columns == {"x": "matrix"}}
        return [name for name, model in found.items() if getattr(model, "Settings", None) is None or with_codes(model)]
    return list(gvae.models.MODELS)


def _families() -> Iterator[Case]:
    from gvae import families

    for name, role in itertools.product(families.FAMILIES, ("posterior", "observation", "prior")):
        text = TEXTS.get(name, name)
        if role != "posterior" and not getattr(families.parse(text, COLUMNS).distribution, "has_density", True):
            continue
        support = families.parse(text, COLUMNS).support
        settings: dict[str, Any] = {role: text}
        if role == "prior" and support != families.parse("diagonal", COLUMNS).support:
            settings["posterior"] = text  # a prior of counts belongs to codes that count
        data = _data_of(support) if role == "observation" else "binary"
        for bound, chosen in _bounds():
            if bound != "iwae, K=1":  # the ELBO by sampling
                yield Case(f"{role} {text}, {bound}", settings | chosen, data)
        if role == "posterior":
            several = {"objective": "iwae", "samples": 5, "dtype": "float64"}
            yield Case(f"{role} {text}, iwae, K=5, float64", settings | several, data)


def _data_of(support: Any) -> str:
    """Data that lie in the support of an observation family."""
    if support.whole and support.high == 1:
        return "binary"
    if support.whole:
        return "counts" if support.high == np.inf else "classes"
    if (support.low, support.high) == (0, 1):
        return "unit" if support.open else "grey"
    return "positive" if (support.low, support.open) == (0, True) else "real"


def _objectives() -> Iterator[Case]:
    from gvae import objectives

    codes = {  # with closed-form KL; of discrete draws, which take score functions; of several layers
        "chain": {"posterior": "chain"},
        "bernoulli codes": {"posterior": "bernoulli"},
        "two layers": {"model": "hierarchical", "latent": LAYERS},
    }
    triples = itertools.product(objectives.OBJECTIVES, objectives.GRADIENTS, codes, DRAWS)
    for objective, gradient, code, K in triples:
        settings = {"objective": GROUPED.get(objective, objective).format(K=K), "gradient": gradient, "samples": K}
        yield Case(f"objective {objective}, {gradient}, {code}, K={K}", codes[code] | settings)
    for objective in ("renyi:-1", "renyi:2", "vr_iwae:0", "ciwae:0.3", "miwae:2", "piwae:2"):
        yield Case(f"objective {objective}, K=4", {"posterior": "chain", "objective": objective, "samples": 4})
    for objective in objectives.OBJECTIVES:
        settings = {"objective": GROUPED.get(objective, objective).format(K=5), "samples": 5, "warmup": 3}
        yield Case(f"objective {objective}, KL warm-up, K=5", {"posterior": "chain"} | settings)


def _settings() -> Iterator[Case]:
    """Every other setting that changes a step or what becomes of it."""
    from gvae import data, evaluation, ops, optim, training

    chain = {"posterior": "chain"}
    gaussian = chain | {"observation": "gaussian"}

    def each(name: str, values: Iterable[Any], kind: str = "binary", **others: Any) -> Iterator[Case]:
        for value in values:
            yield Case(f"{name} {value}", chain | {name: value} | others, kind)

    yield from each("activation", ops.ACTIVATIONS, samples=5)
    yield from each("binarize", data.BINARIZATIONS, "grey")
    yield from each("schedule", [*optim.SCHEDULES, "plateau:1", "iwae:10", "cosine:8"])
    yield from each("average", [*optim.AVERAGES, "ema:0.9", "swa:2"])
    yield from each("clip", [0.01, 3.0])
    yield from each("start", ["calm", "glorot"])
    yield from each("dtype", ["float32", "float64"], samples=5, objective="iwae")
    yield from each("batch_size", [None, 1, 7, 50])
    yield from each("decoder_hidden", [(), (9, 5)], hidden=(7, 8))
    yield from each("patience", [1, 2], learning_rate=0.5)
    yield from each("patience", [3], learning_rate=0.5, average="ema:0.9", validation_fraction=0.2)
    yield from each("dequantize", [256], "grey", observation="logit:chain")
    for standardize, observation in itertools.product((True, False), ("gaussian", "chain", "full", "lowrank:2")):
        settings = {"standardize": standardize, "observation": observation}
        yield Case(f"standardize {standardize}, {observation}", chain | settings, "real")
        yield Case(f"standardize {standardize}, {observation}, float64", chain | settings | {"dtype": "float64"}, "real")
    yield Case("images of bytes", chain | {"binarize": "dynamic"}, "bytes")
    yield Case("bytes that are counts", chain | {"observation": "poisson"}, "byte counts")
    for policy in training.POLICIES:  # the bound overflows; a gradient does
        yield Case(f"on_nonfinite {policy}, some rows", gaussian | {"on_nonfinite": policy}, "rough")
        yield Case(f"on_nonfinite {policy}, large steps", gaussian | LARGE_STEPS | {"on_nonfinite": policy}, "real")
    annealed = {"first": 3, "chains": 2, "temperatures": 5}
    for name in evaluation.MEASURES:
        yield Case(f"measure {name}", chain, evaluate={"samples": 10, "measures": [name]} | annealed)
    yield Case("evaluated in chunks", chain, evaluate={"samples": 50, "memory": 0.05})


def _resumed() -> Iterator[Case]:
    """Stopped within an epoch and at its end, and resumed by another estimator."""
    kinds: dict[str, dict[str, Any]] = {
        "chain": {"posterior": "chain"},
        "lowrank": {"posterior": "lowrank:2", "samples": 5, "objective": "iwae"},
        "bernoulli codes": {"posterior": "bernoulli", "samples": 5, "gradient": "vimco", "objective": "iwae"},
        "two layers": {"model": "hierarchical", "latent": LAYERS},
        "nlfa": {"model": "nlfa", "observation": "gaussian", "standardize": True},
        "nlfa, ema, clip": {"model": "nlfa", "observation": "gaussian", "average": "ema:0.9", "clip": 0.5},
        "factor analysis": {"model": "factor_analysis"} | FACTOR_ANALYSIS,
        "ema, clip, cosine": {"posterior": "chain", "average": "ema:0.9", "clip": 0.5, "schedule": "cosine"},
        "swa, plateau": {"posterior": "chain", "average": "swa:2", "schedule": "plateau:1"},
        "patience": {"posterior": "chain", "patience": 2, "learning_rate": 0.1},
        "denoising": {"model": "denoising", "posterior": "chain"},
        "bayes, dynamic": {"model": "bayes", "posterior": "chain", "binarize": "dynamic"},
    }
    for (name, settings), stop in itertools.product(kinds.items(), (4, 11)):
        data = "real" if settings.get("observation") == "gaussian" else "grey"
        yield Case(f"resumed after {stop} steps, {name}", settings, data, stop=stop)
    settings = {"posterior": "chain", "observation": "gaussian"} | LARGE_STEPS
    yield Case("resumed after 6 steps, rollback", settings | {"on_nonfinite": "rollback"}, "real", stop=6)


def _wide() -> Iterator[Case]:
    """Layers that threads share, on one thread and on two."""
    small = {"batch_size": 100, "hidden": (200, 200), "latent": 16, "learning_rate": 1e-3}
    several = {"samples": 5, "objective": "iwae"}
    kinds: dict[str, dict[str, Any]] = {
        "diagonal": {"posterior": "diagonal"},
        "chain, K=5": {"posterior": "chain"} | several,
        "extended grid, dreg, K=5": {"posterior": "extended_grid:4x4", "gradient": "dreg"} | several,
        "full, ema, clip": {"posterior": "full", "average": "ema:0.9", "clip": 1.0},
        "lowrank": {"posterior": "lowrank:2"},
        "bernoulli codes, vimco, K=5": {"posterior": "bernoulli", "gradient": "vimco"} | several,
        "two layers, K=5": {"model": "hierarchical", "latent": (16, 8), "samples": 5},
        "chain, float64": {"posterior": "chain", "dtype": "float64"},
        "gaussian": {"posterior": "chain", "observation": "gaussian", "standardize": True},
        "nlfa": {"model": "nlfa", "observation": "gaussian", "steps": 6},
        "dynamic, resumed": {"posterior": "chain", "binarize": "dynamic"},
    }
    for (name, settings), threads in itertools.product(kinds.items(), (1, 2)):
        data = "wide real" if settings.get("observation") == "gaussian" else "wide"
        stop = 9 if "resumed" in name else None
        many = "one thread" if threads == 1 else f"{threads} threads"
        yield Case(f"784 columns, {many}, {name}", small | settings, data, stop=stop, threads=threads)


# ---- a case, in a process of either side ---------------------------------------------------------


def rows(kind: str) -> list[np.ndarray]:
    """Rows to train on, to validate, to use the model on. 50 rows in batches of 16 leave a batch of 2, 150 one of 50."""
    r = np.random.default_rng(SEED)
    sizes, n = ((150, 40, 20), 784) if kind.startswith("wide") else ((50, 23, 17), COLUMNS)
    N = sum(sizes)
    ones = r.integers(0, 2, size=(3, n))[r.integers(0, 3, N)] ^ (r.uniform(size=(N, n)) < 0.1)
    made = {
        "binary": lambda: ones.astype(float),
        "grey": lambda: np.clip(0.15 + 0.7 * ones + 0.2 * r.normal(size=(N, n)), 0, 1).round(2),
        "unit": lambda: 0.05 + 0.9 * r.uniform(size=(N, n)) ** (1 + ones),
        "positive": lambda: r.gamma(2.0, 0.5 + ones),
        "counts": lambda: r.poisson(1 + 4 * ones).astype(float),
        "classes": lambda: r.integers(0, 2, size=(N, n)) + ones.astype(float),
        "real": lambda: (
            np.geomspace(0.1, 10, n) * (2 + r.normal(size=(N, 3)) @ r.normal(size=(3, n)) + r.normal(size=(N, n)))
        ),
        "rough": lambda: np.where(np.arange(N)[:, None] == 33, 1e25, r.normal(size=(N, n))),
        "bytes": lambda: (255 * r.uniform(size=(N, 3, n // 3))).astype(np.uint8),
        "byte counts": lambda: r.poisson(3, size=(N, n)).astype(np.uint8),
        "wide": lambda: (r.uniform(size=(N, n)) < 0.1 + 0.2 * ones).astype(float),
        "wide real": lambda: r.normal(size=(N, 5)) @ r.normal(size=(5, n)) + r.normal(size=(N, n)),
    }
    return np.split(made[kind](), np.cumsum(sizes)[:-1])


def outcome(case: Case) -> dict[str, Any]:
    """All that is compared, by name; what was refused, as {what: Refusal}."""
    import gvae

    train, validation, test = rows(case.data)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gvae-same-bits-") as folder:
        run = Path(folder, "run")
        fitted: dict[str, Any] = {"validation": validation, "run": run}
        if case.stop is not None:
            asked = itertools.count(1)
            try:
                _made(case).fit(train, **fitted, stop=lambda: next(asked) == case.stop)
            except gvae.errors.StoppedError as stopped:
                found["stopped"] = str(stopped)
            found |= _checkpoint(run, "checkpoint where it stopped")
            fitted["resume"] = True
        model = _attempt(found, "fit", lambda: _made(case).fit(train, **fitted))
        found |= _checkpoint(run, "checkpoint")
    if model is None:
        return found
    found |= {f"parameter {name}": np.array(value) for name, value in model.parameters_.items()}
    found |= dict(_flat("history", model.history_)) | dict(_flat("events", model.events_))
    uses = {
        "transform": lambda: model.transform(test),
        "reconstruct": lambda: model.reconstruct(test),
        "sample": lambda: model.sample(7, seed=3),
        "sample, drawn": lambda: model.sample(7, seed=3, draw=True),
        "evaluate": lambda: model.evaluate(test, seed=5, **case.evaluate),
    }
    for name, use in uses.items():
        found |= dict(_flat(name, _attempt(found, name, use)))
    return found


def _made(case: Case) -> Any:
    import gvae

    settings, name = dict(case.settings), case.settings.get("model")
    if name is not None and hasattr(gvae, "estimators"):  # the one class wrote out settings that a model had no use for
        known = gvae.estimators()[name]().get_params()
        settings = {"model": name} | {n: value for n, value in settings.items() if n in known}
    return getattr(gvae, case.estimator)(**settings)


@dataclass(frozen=True)
class Refusal:
    """kind : the type of the error       ours : whether it is one of gvae's"""

    kind: str
    message: str
    ours: bool

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def _attempt(found: dict[str, Any], name: str, call: Any) -> Any:
    """What the call returns, or None, and what it raised among the found."""
    import gvae

    try:
        return call()
    except Exception as error:
        found[f"{name}: error"] = Refusal(type(error).__qualname__, str(error), isinstance(error, gvae.GvaeError))
        return None


def _checkpoint(run: Path, name: str) -> Iterable[tuple[str, Any]]:
    """The tensors and the counters of a run's last checkpoint, read without gvae."""
    from safetensors import safe_open

    path = run / "checkpoint.safetensors"
    if not path.exists():
        return {}.items()
    with safe_open(path, "np") as file:
        counters = json.loads(file.metadata()["counters"])
        counters.pop("log_bytes", None)  # the log says how long epochs took
        tensors = {f"{name} {key}": file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
    return (tensors | dict(_flat(f"{name} counters", counters))).items()


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(name, array, text or None) of everything in nested results, but for times."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        for key, part in value.items():
            if "second" not in key:
                yield from _flat(f"{name} {key}", part)
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _flat(f"{name} {i}", part)
    elif value is None or isinstance(value, str):
        yield name, value
    else:
        yield name, np.array(value)


def _serve(job: Mapping[str, Any]) -> None:
    """What a side's process does: run the cases whose numbers it reads, and leave what they give in files."""
    import gvae

    if not Path(gvae.__file__).is_relative_to(job["tree"]):
        raise SystemExit(f"gvae was imported from {gvae.__file__}, expected it in {job['tree']}")
    if job["cases"] is None:
        Path(job["folder"], "cases.json").write_text(json.dumps([dataclasses.asdict(case) for case in cases()]))
        return
    logging.disable()
    warnings.simplefilter("ignore")
    for i, case in job["cases"]:
        part = Path(job["folder"], "part")
        part.write_bytes(pickle.dumps(outcome(Case(**case))))
        part.rename(part.with_name(str(i)))


# ---- the comparison ------------------------------------------------------------------------------


def _meant(case: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What is to be the same: since there is an estimator for each model, rows that are scored are neither corrupted nor
    charged with weights, so the validation figures of some models are not those of before."""
    if case["settings"].get("model") not in UNSCORED:
        return found
    return {name: value for name, value in found.items() if not re.match(r"history \d+ validation_", name)}


def differences(base: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """A line for each thing that is not the same: what, where first, by how much."""
    lines = []
    for name in dict.fromkeys((*base, *other)):
        if name not in base or name not in other:
            side, there = ("OTHER", base[name]) if name in base else ("BASE", other[name])
            shown = f": {there}" if isinstance(there, Refusal) else ""
            lines.append(f"{name}: not there in {side}{shown}")
            continue
        x, y = base[name], other[name]
        if isinstance(x, Refusal) and isinstance(y, Refusal):
            if x.kind != y.kind or not (x.ours and y.ours):
                lines.append(f"{name}: {x} in BASE; {y} in OTHER")
        elif isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
            lines += _unequal_arrays(name, x, y)
        elif type(x) is not type(y) or x != y:
            lines.append(f"{name}: {x!r} in BASE; {y!r} in OTHER")
    return lines


def _unequal_arrays(name: str, x: np.ndarray, y: np.ndarray) -> list[str]:
    if (x.shape, x.dtype) != (y.shape, y.dtype):
        return [f"{name}: {x.dtype} {x.shape} in BASE; {y.dtype} {y.shape} in OTHER"]
    if x.tobytes() == y.tobytes():
        return []
    bits = [np.ascontiguousarray(a).view(np.uint8).reshape(*a.shape, a.itemsize) for a in (x, y)]
    unequal = (bits[0] != bits[1]).any(axis=-1)
    first = tuple(int(i) for i in np.argwhere(unequal)[0])
    where = f"[{', '.join(map(str, first))}]" if first else ""
    if x.dtype.kind != "f":
        return [f"{name}{where}: {x[first]} in BASE; {y[first]} in OTHER; {unequal.sum()} of {x.size} differ"]
    with np.errstate(all="ignore"):
        most = np.abs(x.astype(np.float64) - y)[unequal].max()
    return [
        f"{name}{where}: {x[first]} in BASE; {y[first]} in OTHER, {_ulps(x[first], y[first])} ulp; "
        f"{unequal.sum()} of {x.size} differ, by up to {most:.3g}"
    ]


def _ulps(x: np.floating, y: np.floating) -> int:
    """How many floating-point numbers apart; both zeros are one."""

    def ordinal(number: np.floating) -> int:
        bits = int(number.view(f"i{number.itemsize}"))
        return bits if bits >= 0 else -(2 ** (8 * number.itemsize - 1)) - bits

    return abs(ordinal(x) - ordinal(y))


class Side:
    """The processes of one checkout, one after the other."""

    def __init__(self, label: str, checkout: Any, folder: Path):
        self.label, self.checkout, self.folder = label, checkout, folder
        self.folder.mkdir()
        self.process: subprocess.Popen | None = None

    def start(self, chosen: list[tuple[int, dict]] | None, threads: int = 1) -> None:
        """chosen : numbers and cases; None: have the list of cases made"""
        job = {"tree": str(self.checkout.tree), "folder": str(self.folder), "cases": chosen}
        environment = self.checkout.environment(GVAE_NUM_THREADS=str(threads))
        command = [sys.executable, str(Path(__file__).resolve()), "--worker"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True)
        self.process.stdin.write(json.dumps(job))
        self.process.stdin.close()

    def cases(self) -> list[dict]:
        self.start(None)
        if self.process.wait():
            raise SystemExit(f"{self.label}: the list of cases could not be made")
        return json.loads((self.folder / "cases.json").read_text())

    def take(self, i: int, timeout: float) -> dict[str, Any] | None:
        """What a case gave, waited for. None: the process has died before it, or was killed after `timeout` seconds."""
        path, until = self.folder / str(i), time.monotonic() + timeout
        while not path.exists():
            if time.monotonic() > until:
                self.process.kill()
                self.process.wait()
            if self.process.poll() is not None and not path.exists():
                return None
            time.sleep(0.02)
        found = pickle.loads(path.read_bytes())
        path.unlink()
        return found

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def compare(base: Side, other: Side, only: list[str], most: int, timeout: float) -> int:
    """Run and compare the cases; returns the exit status."""
    listed = [case for case in base.cases() if not only or any(text in case["name"] for text in only)]
    if not listed:
        raise SystemExit(f"no case has {' or '.join(map(repr, only))} in its name; see --list")
    started, agreeing, refused = time.monotonic(), 0, Counter()
    for threads in sorted({case["threads"] for case in listed}, reverse=True):
        chosen = [(i, case) for i, case in enumerate(listed) if case["threads"] == threads]
        for side in (base, other):
            side.start(chosen, threads)
        for i, case in chosen:
            found = [side.take(i, timeout) for side in (base, other)]
            dead = [side for side, result in zip((base, other), found, strict=True) if result is None]
            for side in dead:
                print(f"{case['name']}: the process of {side.label} died with status {side.process.returncode}", flush=True)
            if dead:
                break
            lines = differences(*(_meant(case, result) for result in found))
            for line in lines[:most]:
                print(f"{case['name']}: {line}", flush=True)
            if len(lines) > most:
                print(f"{case['name']}: {len(lines) - most} more differences")
            agreeing += not lines
            refused.update(f"{what.partition(':')[0]}: {x}" for what, x in found[0].items() if isinstance(x, Refusal))
        for side in (base, other):
            side.end()
    for what, n in sorted(refused.items()):
        print(f"refused in {n} {'case' if n == 1 else 'cases'}, {what}")
    seconds = time.monotonic() - started
    print(f"{agreeing} of {len(listed)} cases agree: {base.checkout.name} and {other.checkout.name}, {seconds:.0f} s")
    return int(agreeing < len(listed))


def main(arguments: list[str] | None = None) -> int:
    if arguments is None and sys.argv[1:] == ["--worker"]:
        _serve(json.load(sys.stdin))
        return 0
    root = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(root / "asv_bench")]
    import checkouts

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE", help="a commit, or a folder with the package gvae")
    parser.add_argument("other", metavar="OTHER", nargs="?", default=str(root), help="likewise [this working tree]")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases with it in their name")
    parser.add_argument("--most", type=int, default=5, metavar="N", help="lines per case at most [%(default)d]")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="for a case, kernels compiled [%(default)g]")
    parser.add_argument("--list", action="store_true", help="the names of all cases, and nothing else")
    options = parser.parse_args(arguments)
    try:
        sides = [checkouts.find(text, root) for text in (options.base, options.other)]
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="gvae-same-bits-") as folder:
        base, other = (Side(label, side, Path(folder, label)) for label, side in zip(("BASE", "OTHER"), sides, strict=True))
        try:
            if options.list:
                print(*(case["name"] for case in base.cases()), sep="\n")
                return 0
            return compare(base, other, options.only, options.most, options.timeout)
        finally:
            base.end()
            other.end()


if __name__ == "__main__":
    sys.exit(main())
