"""The work of a process on a study: it takes a trial, trains it, reports how it ended, and takes the next."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gvae import training
from gvae.errors import ConfigError, DataError, DTypeError, NonFiniteError, NotPositiveDefiniteError, RunError, ShapeError
from gvae.sweeps.show import line
from gvae.sweeps.study import MetricError, Study, Trial

__all__ = ["POLL", "work"]

POLL = 0.5  # seconds between checks of the trials of other processes
OF_A_TRIAL = (ConfigError, DataError, DTypeError, NonFiniteError, NotPositiveDefiniteError, ShapeError)

Fit = Callable[[dict[str, Any], Path, Callable[[dict[str, Any], Any], Any]], Any]


def work(study: Study, fit: Fit, *, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Train trials until all of a study have ended. Trials of other processes are waited for, and taken over if these die.

    Parameters
    ----------
    study : Study
    fit : callable
        fit(settings, run, callback) trains with these plain settings in a run folder, or resumes what it holds. Returns the
        fitted estimator.
    stop : callable
        stop() returns whether to end, instead of waiting for other processes; ending a training run is up to `fit`.
    say : callable
        say(line) is called with a line for each trial that has ended.

    Raises
    ------
    GvaeError
        An error that a trial's settings have not caused, such as a full disk. The trial can be taken over.
    """
    waiting = False
    while not stop():
        trial = study.claim()
        if trial is not None:
            try:
                _train(study, trial, fit)
            finally:
                trial.release()
            say(line(study, study.trials()[trial.number]))
        elif study.is_over():
            return
        else:
            if not waiting:
                say(f"{study.path}: the last trials are trained by other processes")
            waiting = True
            time.sleep(POLL)


def _train(study: Study, trial: Trial, fit: Fit) -> None:
    settings = study.plan.fixed | trial.settings
    _check_run(trial)
    try:
        model = fit(settings, trial.path, trial.look)
        trial.finish(model)
    except MetricError:
        raise
    except OF_A_TRIAL as error:
        trial.fail(str(error))


def _check_run(trial: Trial) -> None:
    """A run folder that is there already must be this trial's: the journal may have been cut."""
    if not (trial.path / training.CONFIG).is_file():
        return
    begun = training.read_config(trial.path).get("settings")
    for name, value in trial.settings.items():
        was = begun.get(name) if isinstance(begun, dict) else None
        if was != value:
            whose = f"{trial.path} was begun with {name} {was!r:.80}"
            raise RunError(f"{whose}, but trial {trial.number} has {value!r:.80}; move it away")
