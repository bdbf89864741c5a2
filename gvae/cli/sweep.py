"""`gvae sweep`."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvae import flags
from gvae.cli import arguments
from gvae.cli.running import on_one_blas_thread, say
from gvae.cli.signals import Interruptible, Signalled
from gvae.cli.train import columns_of, notes_of, observed
from gvae.errors import ConfigError, RunError, StoppedError
from gvae.training import CONFIG

HELP = "Train a model under many settings, in a folder that any number of processes share."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="FILE", help="a .toml file with the tables [data], [fixed], [ranges] and [study]")
    parser.add_argument(
        "--out",
        metavar="STUDY",
        required=True,
        help="the folder of the study: a new one, or one that was begun with this file, which this process then joins",
    )
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of the named data sets (default: GVAE_DATA_DIR)")
    parser.add_argument(
        "--save-every", type=arguments.positive, default=300, metavar="S", help="seconds between checkpoints within an epoch"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing about trials")


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    from gvae import data, sweeps
    from gvae.estimator.origin import not_held_out
    from gvae.runtime import compile as compiling

    plan = sweeps.read_plan(options.plan)
    again = f"continue with: gvae sweep {shlex.join([options.plan, '--out', options.out])}"
    cold = compiling.is_cold()
    if not options.quiet and cold:
        print("gvae sweep: compiling the kernels for this machine, once; it takes about 25 seconds", file=sys.stderr)

    def show(line: str) -> None:
        if not options.quiet:
            print(line, flush=True)

    with compiling.asked(cold):
        source = plan.tables["data"]["source"]
        data_dir = options.data_dir or plan.tables["data"].get("dir")
        target = plan.tables["data"].get("target")
        dataset = data.load(source, data_dir=data_dir, target=target)
        if not options.quiet:
            say("sweep", not_held_out(dataset))
        with Interruptible() as interrupted:
            fit = _Fit(plan, dataset, notes_of(dataset, source, data_dir, target), options.save_every, interrupted)
            fit.check()
            study = sweeps.Study.join(options.out, plan, _digest(dataset))
            try:
                sweeps.work(study, fit, stop=interrupted, say=show)
            except StoppedError as stopped:
                raise Signalled(interrupted.number, f"{stopped}; {again}") from None
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"; {again}") from None
            if interrupted():
                raise Signalled(interrupted.number, f"no trial was in training; {again}")
    best = study.best()
    if best is None:
        raise RunError(f"{options.out}: no trial is complete; for their reasons: gvae runs {shlex.quote(options.out)}")
    show(f"{options.out}: {sweeps.counted(study)}")
    gone = " (its run folder is gone)" if best["missing"] else ""
    show(f"best: {sweeps.line(study, best)}; {best['run']}{gone}")


def _digest(dataset: Any) -> str:
    """A hash by which the processes of a study check that they have the same rows."""
    import numpy as np

    from gvae.data.rows import as_rows

    digest, held = hashlib.sha256(), dataset.validation
    further = [column[0] for name, column in sorted(dataset.columns.items())]
    for x in (dataset.train, *further, *(held if isinstance(held, tuple) else () if held is None else (held,))):
        if (rows := as_rows(x)) is not None:
            digest.update(repr(rows.fingerprint).encode())
            continue
        for part in (x.data, x.indices, x.indptr) if hasattr(x, "indptr") else (x,):
            digest.update(f"{part.shape}{part.dtype.str}".encode())
            digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()


@dataclass
class _Fit:
    """Trains a trial as `gvae train` does, but holds rows out of training where the data have none for validation:
    trials are never compared on test rows."""

    plan: Any
    dataset: Any
    notes: dict[str, Any]
    save_every: float
    stop: Callable[[], bool]

    def __call__(self, settings: dict[str, Any], run: Path, callback: Callable[[dict[str, Any], Any], Any]) -> Any:
        model, train, held, weight = self._prepared(settings)
        given: dict[str, Any] = {"run": run, "resume": (run / CONFIG).is_file(), "save_every": self.save_every}
        given |= {"notes": self.notes, "stop": self.stop, "callback": callback}
        validation = held if held is None or len(held) > 1 else held[0]
        return model.fit(*train, sample_weight=weight, validation=validation, **given)

    def check(self) -> None:
        """Raise errors that the data or the settings of all trials cause."""
        if "observation" not in {r.name for r in self.plan.ranges}:
            self._prepared(self.plan.fixed)

    def _prepared(self, settings: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
        from gvae.settings import native

        estimator, validated = self.plan.estimator, self.plan.settings["metric"].startswith("validation_")
        model = estimator(**flags.DEFAULTS | {name: native(value) for name, value in settings.items()})
        model.set_params(**observed(self.dataset, model.get_params()))
        if validated and self.dataset.validation is None and not model.holds_out:
            if not hasattr(model, "patience"):
                why = f"model {estimator.name} holds out no rows, and {self.dataset.name} has none for validation"
                raise ConfigError(f"{self.plan.path}: {why}: name a metric of the training rows")
            model.set_params(patience=model.steps or model.epochs)
        train, test, held, weight = columns_of(self.dataset, estimator, model.get_params())
        return model, train, test if held is None and not model.holds_out else held, weight
