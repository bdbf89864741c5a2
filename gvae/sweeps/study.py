"""A study's folder: study.toml, journal.log, a run folder for each trial, and locks.

A trial belongs to the process that holds its lock. A trial that is running according to the journal, but whose lock is
free, has lost its process: the next process that asks for a trial takes it over, and resumes the run in its folder.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gvae import random, settings, training
from gvae.errors import ConfigError, DataError, DependencyError, GvaeError, RunError
from gvae.sweeps import locks
from gvae.sweeps.journal import Journal
from gvae.sweeps.plan import TABLES, Plan, parse_pruner, read_plan
from gvae.training import files

__all__ = ["JOURNAL", "PLAN", "MetricError", "Study", "Trial", "is_study"]

PLAN, JOURNAL, LOCKS = "study.toml", "journal.log", "locks"
NAME = "study"  # in the journal
FINISHED = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


class MetricError(ConfigError):
    """The log has no such column, or no number in it: an error of the study, not of a trial."""


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise DependencyError("sweeps need Optuna: pip install 'gvae[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def is_study(folder: str | os.PathLike) -> bool:
    """Whether a folder is that of a study."""
    return (Path(folder) / PLAN).is_file() and (Path(folder) / JOURNAL).is_file()


@dataclass
class Trial:
    """A trial, which belongs to this process until `release`.

    number   : from 0                              settings : plain values of the settings that it varies
    path     : its run folder, which may exist     pruned   : whether it is to end early
    """

    number: int
    settings: dict[str, Any]
    path: Path
    study: Study
    asked: Any  # optuna.trial.Trial
    lock: int
    reported: set[int] = field(default_factory=set)
    pruned: bool = False

    def look(self, row: dict[str, Any], model: Any) -> bool:
        """The callback of `fit`: reports epochs that the journal does not have yet. Returns whether the trial is to end."""
        self._report(model)
        self.pruned = self.asked.should_prune()
        return self.pruned

    def _report(self, model: Any) -> None:
        for each in model.history_:
            if each["epoch"] not in self.reported:
                self.asked.report(self.study.metric_of(each), each["epoch"])
                self.reported.add(each["epoch"])

    def finish(self, model: Any) -> float:
        """After training: the metric of the weights that were kept becomes the trial's value."""
        if not model.history_:
            raise RunError(f"{self.path} has lost its log; move it away, and the trial is trained again")
        self._report(model)
        kept = next((row for row in model.history_ if row["step"] == model.n_iter_), model.history_[-1])
        value = self.study.metric_of(kept)
        self._tell("PRUNED" if self.pruned else "COMPLETE", None if self.pruned else value, model.history_)
        return value

    def fail(self, reason: str) -> None:
        """The trial cannot be trained with its settings."""
        self._tell("FAIL", None, training.read_history(self.path)[0], reason=" ".join(reason.split()))

    def _tell(self, state: str, value: float | None, rows: list[dict[str, Any]], **about: Any) -> None:
        about |= {"seconds": sum(row.get("seconds", 0.0) for row in rows), "epoch": rows[-1]["epoch"] if rows else 0}
        self.asked.set_user_attr("ended", about)
        self.study.optuna.tell(self.asked, value, state=getattr(_optuna().trial.TrialState, state))

    def release(self) -> None:
        """Release the lock of the trial: another process may take it over if it has not ended."""
        os.close(self.lock)


class Study:
    """A study in a folder.

    Parameters
    ----------
    folder : path
        The folder of a study.

    Raises
    ------
    DependencyError
        Optuna is not installed.
    RunError
        The folder is not that of a study, or its journal is damaged.
    ConfigError
        Its study.toml is damaged.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        optuna = _optuna()
        if not is_study(self.path):
            raise RunError(f"{self.path} is not the folder of a study: it lacks {PLAN} or {JOURNAL}")
        self.plan = read_plan(self.path / PLAN)
        journal = self.path / JOURNAL
        try:
            self.storage = optuna.storages.JournalStorage(Journal(journal))
            known = self.storage.get_all_studies()
        except GvaeError:
            raise
        except Exception as error:  # what Optuna raises for operations that it has not written
            raise RunError(f"{journal} is damaged: {type(error).__name__}: {error}; nothing was changed") from None
        self.optuna: Any = None
        if known:
            self._load()

    @classmethod
    def join(cls, folder: str | os.PathLike, plan: Plan, rows: str) -> Study:
        """The study of a plan in a folder: a new one, or the one that was begun there.

        `rows` is a text that identifies the data.

        Raises
        ------
        ConfigError
            The folder's study has another plan; only the number of trials may be larger.
        DataError
            It has other data.
        RunError
            The folder is occupied or not writable.
        """
        _optuna()
        path = Path(folder)
        try:
            if path.is_dir():
                _check_free(path)
            elif path.exists():
                raise RunError(f"{path} is not a folder; name a new one; nothing was written")
            path.mkdir(parents=True, exist_ok=True)
        except RunError:
            raise
        except OSError as error:
            raise RunError(f"cannot create the folder {path}: {error.strerror or error}") from None
        with locks.held(path / LOCKS / "study"):
            _check_free(path, locked=True)
            if is_study(path):
                _extend(path, plan)
            else:
                _write(path / JOURNAL, b"")
                _write(path / PLAN, plan.text.encode())
            study = cls(path)
            if study.optuna is None:
                study.storage.create_new_study([_direction(study.plan)], NAME)
                study._load()
            known = study.optuna.user_attrs
            if "rows" not in known:
                study.optuna.set_user_attr("rows", rows)
            elif known["rows"] != rows:
                raise DataError(f"{path} was begun with other rows than those of {plan.tables['data']['source']} here")
        return study

    def _load(self) -> None:
        optuna = _optuna()
        self.optuna = optuna.load_study(study_name=NAME, storage=self.storage, pruner=_pruner(self.plan))

    # ---- assigning trials

    def claim(self) -> Trial | None:
        """A trial for this process: one that has lost its process, or a new one. None where all are taken or finished."""
        with locks.held(self.path / LOCKS / "study"):
            known = self.frozen()
            for trial in known:
                if trial.state.name in ("RUNNING", "WAITING") and (found := self._take(trial.number)) is not None:
                    return found
            return self._take(len(known)) if len(known) < self.plan.trials else None

    def _take(self, number: int) -> Trial | None:
        path = self.run_folder(number)
        if files.is_locked(path / training.LOG):  # by gvae train --resume
            return None
        lock = locks.take(self._lock(number))
        if lock is None:
            return None
        try:
            known = self.frozen()  # read again: the trial may have ended before its lock was free
            state = known[number].state.name if number < len(known) else None
            if state in FINISHED:
                os.close(lock)
                return None
            return self._begun(number, state, path, lock)
        except BaseException:
            os.close(lock)
            raise

    def _begun(self, number: int, state: str | None, path: Path, lock: int) -> Trial:
        optuna, proposal = _optuna(), self.plan.proposal(number)
        self.optuna.sampler = _sampler(self.plan, number)
        if state is None and proposal is not None:
            self.optuna.enqueue_trial(proposal)
        if state == "RUNNING":
            asked = optuna.trial.Trial(self.optuna, self.frozen()[number]._trial_id)
        else:
            asked = self.optuna.ask()
        kept = {}
        for r in self.plan.ranges:
            if r.choices is not None:
                kept[r.name] = asked.suggest_categorical(r.name, r.kept)
            elif r.whole:
                kept[r.name] = asked.suggest_int(r.name, r.low, r.high, log=r.log)
            else:
                kept[r.name] = asked.suggest_float(r.name, r.low, r.high, log=r.log)
        reported = set(self.frozen()[number].intermediate_values)
        return Trial(number, self.plan.varied(kept), path, self, asked, lock, reported)

    def is_over(self) -> bool:
        """Whether all trials have ended."""
        known = self.frozen()
        return len(known) >= self.plan.trials and all(trial.state.is_finished() for trial in known)

    # ---- reading

    def frozen(self) -> list[Any]:
        """Optuna's record of each trial, by number."""
        return [] if self.optuna is None else self.optuna.get_trials(deepcopy=False)

    def run_folder(self, number: int) -> Path:
        return self.path / f"trial-{number:03d}"

    def _lock(self, number: int) -> Path:
        return self.path / LOCKS / f"{number:03d}"

    def metric_of(self, row: dict[str, Any]) -> float:
        name = self.plan.settings["metric"]
        if name not in row:
            others = ", ".join(n for n in row if n.startswith(("train_", "validation_")))
            raise MetricError(
                f"{self.path}: metric {name} is not a column of the log; known are {others}; begin another study"
            )
        return float(row[name])

    def trials(self) -> list[dict[str, Any]]:
        """All trials as dicts, by number.

        Keys: trial, state (complete, pruned, failed, running, interrupted), value, settings, epoch, seconds, reason, run,
        missing (whether a run folder is gone), curve (the metric by epoch).
        """
        return [self._described(trial) for trial in self.frozen()]

    def _described(self, trial: Any) -> dict[str, Any]:
        run, ended, curve = self.run_folder(trial.number), trial.user_attrs.get("ended", {}), trial.intermediate_values
        state = FINISHED.get(trial.state.name)
        if state is None:
            alive = files.is_locked(self._lock(trial.number)) or files.is_locked(run / training.LOG)
            state = "running" if alive else "interrupted"
        found = {"trial": trial.number, "state": state, "value": trial.value if trial.state.is_finished() else None}
        found |= {"settings": self.plan.varied(trial.params), "epoch": ended.get("epoch", max(curve, default=0))}
        found |= {"seconds": ended.get("seconds"), "reason": ended.get("reason"), "run": str(run)}
        return found | {
            "missing": state in ("complete", "pruned") and not run.is_dir(),
            "curve": {k: curve[k] for k in sorted(curve)},
        }

    def best(self) -> dict[str, Any] | None:
        """The complete trial with the best value, the first if several have it; None before one is complete."""
        done = [trial for trial in self.trials() if trial["state"] == "complete"]
        return (max if self.plan.maximize else min)(done, key=lambda trial: trial["value"], default=None)


def _check_free(path: Path, *, locked: bool = False) -> None:
    """Raise RunError unless a folder is that of a study, or has only what a process leaves if killed while it begins one.

    locked : whether this process holds the lock under which studies are begun; without it, a folder of locks is enough, as
    another process may be about to begin the study
    """
    there = list(path.iterdir())
    names = {p.name for p in there}
    if is_study(path) or (LOCKS in names and not locked):
        return
    if PLAN in names:
        raise RunError(
            f"{path} has lost its {JOURNAL}; with an empty file of that name, trials are read from their run folders"
        )
    ours = [p for p in there if p.name == LOCKS or files.is_leftover(p) or (p.name == JOURNAL and _is_empty(p))]
    if len(ours) < len(there):
        raise RunError(f"{path} already holds something, and no {PLAN}; name a new folder; nothing was written")


def _is_empty(path: Path) -> bool:
    return path.stat().st_size == 0


def _write(path: Path, content: bytes) -> None:
    try:
        training.write_atomically(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def _extend(path: Path, plan: Plan) -> None:
    """Increase the number of trials of a study. Raises ConfigError for any other difference of its plan."""
    begun = read_plan(path / PLAN)
    for name in TABLES:
        was, now = ({**p.tables.get(name, {}), **(p.settings if name == "study" else {})} for p in (begun, plan))
        for key in [*was, *(key for key in now if key not in was)]:
            if was.get(key) != now.get(key) and (name, key) != ("study", "trials"):
                had, has = (_said(values.get(key)) for values in (was, now))
                raise ConfigError(f"{path} was begun with [{name}] {key} = {had}, not {has}; name a new folder")
    if [r.name for r in plan.ranges] != [r.name for r in begun.ranges]:
        raise ConfigError(f"{path} was begun with [ranges] in another order, which proposals depend on; keep that order")
    if plan.trials < begun.trials:
        raise ConfigError(f"{path} was begun with {begun.trials} trials, not {plan.trials}; they can become more, not fewer")
    if plan.trials > begun.trials:
        _write(path / PLAN, plan.text.encode())


def _said(value: Any) -> str:
    return "nothing" if value is None else f"{settings.plain(value)!r:.80}"


def _direction(plan: Plan) -> Any:
    names = _optuna().study.StudyDirection
    return names.MAXIMIZE if plan.maximize else names.MINIMIZE


def _sampler(plan: Plan, number: int) -> Any:
    """For TPE a sampler with a seed for each trial: its proposal depends on that and on the results so far. For the others,
    whose proposals are given, a sampler that draws nothing."""
    samplers = _optuna().samplers
    if plan.settings["sampler"] != "tpe":
        return samplers.RandomSampler(0)
    seed = int(random.fold_in(random.key(plan.settings["seed"]), number)[0]) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks constant_liar as experimental
        return samplers.TPESampler(seed=seed, constant_liar=True)


def _pruner(plan: Plan) -> Any:
    pruners = _optuna().pruners
    name, given = parse_pruner(plan.settings["pruner"])
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=given.get("startup", 5), n_warmup_steps=given.get("warmup", 0))
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(
            min_resource=given.get("least", 1), reduction_factor=given.get("factor", 4), bootstrap_count=0
        )
    return pruners.NopPruner()
