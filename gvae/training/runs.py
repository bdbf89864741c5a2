"""Run folders: config.json, run.toml, log.jsonl, starts.jsonl, checkpoint.safetensors and the checkpoint before it.

Only the checkpoint defines a run and its state. config.json repeats its configuration, for readers and for a run that has
no checkpoint yet. log.jsonl has a line for every epoch and event; the training process holds the lock of this file.
starts.jsonl has a line for each such process.
"""

from __future__ import annotations

import json
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gvae.earlier import upgraded
from gvae.errors import RunError
from gvae.training import files
from gvae.training.checkpoint import Checkpoint, encode, glance, load_checkpoint, restore, trainer_checkpoint
from gvae.training.starts import STARTS, about_this_process
from gvae.training.step import Trainer
from gvae.training.until import Until

CONFIG, TOML, LOG = "config.json", "run.toml", "log.jsonl"
BEGUN = (CONFIG, TOML, LOG, STARTS)  # the files of a run before its first checkpoint
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
DAMAGED = "checkpoint.damaged.safetensors"
SAVE_EVERY = 300.0

logger = logging.getLogger(__name__)


class RunFolder:
    """A new run folder, locked by this process until `close` or the end of the process.

    Parameters
    ----------
    path : str or path-like
        A folder that does not exist yet or is empty; see `check_free`.
    config : dict
        The configuration of the run: values that JSON can hold.
    save_every : float, default 300.0
        Seconds since the last checkpoint after which `is_due` asks for one within an epoch.
    toml : callable, optional
        toml(config) is the text of run.toml, from which `gvae train --config` repeats the run.

    Attributes
    ----------
    path : Path
    config : dict
    rows, events : list of dict
        The content of the log when the folder was opened.
    reopened : bool
        Whether the run was begun earlier; see `reopen`.
    checkpoint : Checkpoint or None
        The state of a run that was reopened, until `restore` has used it.
    close : callable
        Releases the lock.

    Raises
    ------
    RunError
        The folder is occupied, in use by another process, or not writable.

    Examples
    --------
    >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
    >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
    >>> run = gvae.training.RunFolder("run", {"model": "vae"})
    >>> trainer, history = gvae.training.train(model, table, epochs=2, run=run)
    >>> run.close()
    >>> sorted(path.name for path in run.path.iterdir())
    ['checkpoint.previous.safetensors', 'checkpoint.safetensors', 'config.json', 'log.jsonl', 'starts.jsonl']
    """

    def __init__(
        self,
        path: str | os.PathLike,
        config: dict[str, Any],
        *,
        save_every: float = SAVE_EVERY,
        toml: Callable[[dict[str, Any]], str] | None = None,
    ):
        check_free(path)
        with _writing(Path(path)):
            Path(path).mkdir(parents=True, exist_ok=True)
        self._take(Path(path), save_every, toml)
        ours: tuple[str, ...] = ()
        try:
            check_free(path)  # again: another process may have written to it in between
            ours = BEGUN
            self._write_config(config)
            self._note_start()
        except BaseException:
            self.close()
            for name in ours:
                (self.path / name).unlink(missing_ok=True)
            raise

    @classmethod
    def reopen(
        cls,
        path: str | os.PathLike,
        *,
        save_every: float = SAVE_EVERY,
        toml: Callable[[dict[str, Any]], str] | None = None,
    ) -> RunFolder:
        """Open an existing run folder, to resume the run.

        If the newest checkpoint is damaged, the one before it is used, and the damaged file is renamed.

        Parameters
        ----------
        path : str or path-like
        save_every : float, default 300.0
            Seconds since the last checkpoint after which `is_due` asks for one within an epoch.
        toml : callable, optional
            toml(config) is the text of run.toml.

        Returns
        -------
        RunFolder
            Its `checkpoint` is None if the run has none yet.

        Raises
        ------
        RunError
            The folder is not a run, is in use by another process, is not writable, or has no valid checkpoint among its
            checkpoint files.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
        >>> run = gvae.training.RunFolder("run", {})
        >>> trainer, history = gvae.training.train(model, table, epochs=2, run=run)
        >>> run.close()
        >>> run = gvae.training.RunFolder.reopen("run")
        >>> run.checkpoint.counters["epochs"], len(run.rows)
        (2, 2)
        >>> run.close()
        """
        run, path = cls.__new__(cls), Path(path)
        if not (path / CONFIG).is_file():
            raise RunError(f"{path} is not a run folder: it holds no {CONFIG}")
        run._take(path, save_every, toml)
        try:
            run.reopened = True
            run.config, run.checkpoint, source = read(path)
            with _writing(path):
                files.remove_leftovers(path)
                if source == PREVIOUS and (path / CHECKPOINT).exists():
                    os.replace(path / CHECKPOINT, path / DAMAGED)
                content = _log_of(path, run.checkpoint)
                os.ftruncate(run._file, len(content))
            run.rows, run.events = _parse(content)
        except BaseException:
            run.close()
            raise
        return run

    def _take(self, path: Path, save_every: float, toml: Callable[[dict[str, Any]], str] | None) -> None:
        self.path, self.save_every, self.toml, self.reopened = path, save_every, toml, False
        self.checkpoint: Checkpoint | None = None
        self.rows: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._saved = time.monotonic()
        with _writing(path):
            self._file = os.open(path / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self.close = weakref.finalize(self, os.close, self._file)
        _taken.add(self)
        if not files.lock(self._file):
            self.close()
            raise RunError(f"{path} is in use: another process is training there")

    def _write_config(self, config: dict[str, Any]) -> None:
        self.config = config
        with _writing(self.path):
            files.remove_leftovers(self.path)
            files.write_atomically(self.path / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
            if self.toml is not None:
                files.write_atomically(self.path / TOML, self.toml(config).encode())

    def restore(self, trainer: Trainer, config: dict[str, Any]) -> None:
        """Restore a trainer to the state of the run's checkpoint, and update the run's configuration.

        Parameters
        ----------
        trainer : Trainer
            A trainer with the settings of the run. Without a checkpoint it is left as it is.
        config : dict
            The configuration under which the run is resumed, for instance with more epochs.

        Raises
        ------
        RunError
            The checkpoint does not fit the trainer, or the folder is not writable.

        Examples
        --------
        >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
        >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
        >>> run = gvae.training.RunFolder("run", {"epochs": 2})
        >>> trainer, history = gvae.training.train(model, table, epochs=2, run=run)
        >>> run.close()
        >>> run, trainer = gvae.training.RunFolder.reopen("run"), gvae.training.Trainer(model)
        >>> run.restore(trainer, {"epochs": 5})
        >>> trainer, history = gvae.training.train(model, table, epochs=5, run=run, trainer=trainer)
        >>> [row["epoch"] for row in history.rows]
        [1, 2, 3, 4, 5]
        >>> run.close()
        """
        if self.checkpoint is not None:
            try:
                restore(trainer, self.checkpoint)
            except RunError as error:
                raise RunError(f"{self.path} cannot be continued: {error}") from None
            self.checkpoint = None
        if config != self.config:
            self._write_config(config)
        self._note_start()

    def _note_start(self) -> None:
        with _writing(self.path), open(self.path / STARTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(about_this_process()) + "\n")

    def log(self, row: dict[str, Any]) -> None:
        """Append a line to log.jsonl.

        Parameters
        ----------
        row : dict
            The row of an epoch, or an event: values that JSON can hold.

        Raises
        ------
        RunError
            The line cannot be written; then no part of it is.

        Examples
        --------
        >>> run = gvae.training.RunFolder("run", {})
        >>> run.log({"epoch": 1, "step": 10, "train_bound": -3.5})
        >>> (run.path / "log.jsonl").read_text()
        '{"epoch": 1, "step": 10, "train_bound": -3.5}\\n'
        >>> run.close()
        """
        line = (json.dumps(row) + "\n").encode()
        with _writing(self.path):
            before = os.fstat(self._file).st_size
            try:
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                os.ftruncate(self._file, before)  # no partial line
                raise

    def is_due(self) -> bool:
        """Whether the last checkpoint is older than `save_every` seconds.

        Returns
        -------
        bool
            Before the first checkpoint, the age is counted from the opening of the folder.

        Examples
        --------
        >>> run = gvae.training.RunFolder("run", {}, save_every=300.0)
        >>> run.is_due()
        False
        >>> run.close()
        """
        return time.monotonic() - self._saved >= self.save_every

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint of a trainer's current state; the checkpoint before it is kept.

        Parameters
        ----------
        trainer : Trainer

        Raises
        ------
        RunError
            The checkpoint cannot be written.

        Examples
        --------
        >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
        >>> run = gvae.training.RunFolder("run", {})
        >>> run.save(trainer)
        >>> gvae.training.load_checkpoint("run/checkpoint.safetensors").counters["steps"]
        0
        >>> run.close()
        """
        checkpoint = trainer_checkpoint(trainer, self.config)
        with _writing(self.path):
            checkpoint.counters["log_bytes"] = os.fstat(self._file).st_size
            files.write_atomically(self.path / CHECKPOINT, encode(checkpoint), previous=self.path / PREVIOUS)
        self._saved = time.monotonic()
        logger.debug("%s: saved at step %d", self.path, trainer.steps)


_taken: weakref.WeakSet[RunFolder] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked child: the run belongs to its parent, and must not stay locked after the parent's end."""
    for run in list(_taken):
        run.close()
        run._file = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Convert an OSError in the block (a full disk, a removed folder) to a RunError that names the run folder."""
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        raise RunError(f"cannot write into the run folder {path}: {error.strerror or error}") from None


def check_free(path: str | os.PathLike) -> None:
    """Check that a new run can be begun in a folder.

    The folder must not exist yet, or be empty, or hold only what a process killed at its start has left: temporary files and
    an empty log.

    Parameters
    ----------
    path : str or path-like

    Raises
    ------
    RunError

    Examples
    --------
    >>> from pathlib import Path
    >>> gvae.training.check_free("run")
    >>> Path("run").mkdir()
    >>> Path("run/notes.txt").touch()
    >>> gvae.training.check_free("run")
    Traceback (most recent call last):
    ...
    gvae.errors.RunError: run already holds something; name a new folder; nothing was written
    """
    path = Path(path)
    try:
        occupied = path.exists() and (not path.is_dir() or any(not _is_nothing(entry) for entry in path.iterdir()))
        run = occupied and (path / CONFIG).is_file()
    except OSError as error:
        raise RunError(f"cannot look into {path}: {error.strerror or error}") from None
    if occupied:
        other = "name a new folder, or continue this run with resume=True (--resume)" if run else "name a new folder"
        raise RunError(f"{path} already holds something; {other}; nothing was written")


def _is_nothing(entry: Path) -> bool:
    return files.is_leftover(entry) or (entry.name == LOG and entry.stat().st_size == 0)


# ---- reading -------------------------------------------------------------------------------------


def read(folder: Path) -> tuple[dict[str, Any], Checkpoint | None, str | None]:
    """Read the configuration and the newest valid checkpoint of a run.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    config : dict
        The configuration: that of the checkpoint, or of config.json before the first checkpoint.
    checkpoint : Checkpoint or None
        None before the first checkpoint.
    name : str or None
        The name of the checkpoint's file.

    Raises
    ------
    RunError
        The folder is not a run, all its checkpoint files are invalid, or config.json contradicts the checkpoint.

    Examples
    --------
    >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
    >>> run = gvae.training.RunFolder("run", {"data": "digits"})
    >>> run.save(trainer)
    >>> run.close()
    >>> config, checkpoint, name = gvae.training.read(run.path)
    >>> config, name
    ({'data': 'digits'}, 'checkpoint.safetensors')
    """
    written = _read_config(folder)
    problem: RunError | None = None
    for name in (CHECKPOINT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            checkpoint = load_checkpoint(path)
        except RunError as error:
            problem = problem or error
            continue
        if written is None or not _agree(written, checkpoint.config):
            raise RunError(f"{folder}: {CONFIG} is missing, damaged or altered; it should say what the checkpoint says")
        if problem is not None:
            logger.warning("%s; %s is used instead, of step %s", problem, path, checkpoint.counters.get("steps"))
        return checkpoint.config, checkpoint, name
    if problem is not None:
        raise problem
    if written is None:
        what = "is damaged" if (folder / CONFIG).exists() else "is missing: it is not a run folder"
        raise RunError(f"{folder} holds no {CHECKPOINT}, and {CONFIG} {what}")
    return written, None, None


def read_history(folder: Path, checkpoint: Checkpoint | None = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the log of a run, up to a checkpoint.

    Parameters
    ----------
    folder : Path
    checkpoint : Checkpoint, optional
        None: the whole log.

    Returns
    -------
    rows, events : list of dict
        The lines that were logged before the checkpoint was written, up to the first damaged one. Empty if the log is
        missing, which is not an error.

    Examples
    --------
    >>> table = gvae.data.Table(np.eye(4, dtype=np.float32))
    >>> model = gvae.models.VAE(4, 2, "diagonal", hidden=(3,))
    >>> run = gvae.training.RunFolder("run", {})
    >>> trainer, history = gvae.training.train(model, table, epochs=2, run=run)
    >>> run.close()
    >>> rows, events = gvae.training.read_history(run.path, gvae.training.read(run.path)[1])
    >>> rows == history.rows, events
    (True, [])
    """
    try:
        return _parse((folder / LOG).read_bytes() if checkpoint is None else _log_of(folder, checkpoint))
    except OSError:
        return [], []


def _log_of(folder: Path, checkpoint: Checkpoint | None) -> bytes:
    """The log as it was when the checkpoint was written: a killed process may have logged more, and less may be left after a
    loss of power."""
    known = 0 if checkpoint is None else checkpoint.counters.get("log_bytes")  # None: all of it, in format 1
    with open(folder / LOG, "rb") as file:
        content = file.read()[: known if isinstance(known, int) else None]
    return content[: content.rfind(b"\n") + 1]


def _parse(log: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and events up to the first line that is damaged."""
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            break
        if isinstance(entry, dict) and "event" in entry:
            events.append(entry)
        elif isinstance(entry, dict) and {"epoch", "step"} <= entry.keys() and all(map(_is_number, entry.values())):
            rows.append(entry)
        else:
            break
    return rows, events


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def survey(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Summarise the run folders in a folder, and the folder itself if it is one.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    list of dict
        One per run, sorted by name. Keys: run (the path), model, state ("training", "finished", "stopped early",
        "interrupted", "not begun" or "damaged"), epoch and step (those reached), epochs and steps (the settings), bound (of
        the weights that are kept so far, on the validation rows if there are any), data, posterior, objective, saved
        (seconds since 1970). A key of which nothing is known is missing or None.

    Raises
    ------
    RunError
        The folder does not exist or is not readable.

    Notes
    -----
    The checkpoints are neither verified nor read in full, so that listing many runs is fast.

    Examples
    --------
    >>> for name in ("a", "b"):
    ...     run = gvae.training.RunFolder(name, {"model": "vae", "settings": {"epochs": 5}, "notes": {"data": "digits"}})
    ...     run.close()
    >>> [(found["run"], found["state"], found["epochs"]) for found in gvae.training.survey(".")]
    [('a', 'not begun', 5), ('b', 'not begun', 5)]
    """
    folder = Path(folder)
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise RunError(f"cannot look into {folder}: {error.strerror or error}") from None
    return [_describe(path) for path in (folder, *inside) if (path / CONFIG).is_file()]


def _describe(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"run": str(run), "state": "not begun"}
    config, counters = _read_config(run) or {}, None
    found["model"] = config.get("model")
    saved = next((run / name for name in (CHECKPOINT, PREVIOUS) if (run / name).is_file()), None)
    try:
        if saved is not None:
            found["saved"] = saved.stat().st_mtime
            checkpoint = glance(saved)
            config, counters = checkpoint.config, checkpoint.counters
        settings, notes = config["settings"], config["notes"]
        found |= {name: settings.get(name) for name in ("epochs", "steps", "posterior", "objective")}
        found["data"] = notes.get("data")
        if counters is not None:
            epochs, steps, waited = counters["epochs"], counters["steps"], counters["stopping"]["waited"]
            found |= {"epoch": epochs, "step": steps}
            early = settings.get("patience") is not None and waited >= settings["patience"]
            if "epochs" not in settings:  # a model of one step, such as CCA
                done = steps >= 1
            elif settings["steps"] is not None:
                done = steps >= settings["steps"]
            elif settings["epochs"] == "auto":
                n_rows = config["fitted"]["n_rows"]
                until = Until.of(n_rows, settings.get("batch_size") or n_rows)
                settled = settings.get("patience") is None and waited >= until.patience and steps >= until.least
                done = steps >= until.most or settled
            else:
                done = epochs >= settings["epochs"]
            found["state"] = "stopped early" if early else "finished" if done else "interrupted"
        rows, _ = _parse(_log_of(run, None if counters is None else Checkpoint({}, config, counters)))
        if rows:
            best = None if counters is None or counters["use"] != "best" else counters["stopping"]["epoch"]
            kept = next((row for row in rows if row["epoch"] == best), rows[-1])
            found["bound"] = kept.get("validation_bound", kept.get("train_bound"))
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        found["state"] = "damaged"
    if files.is_locked(run / LOG):
        found["state"] = "training"
    return found


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """Read the configuration of a run from its config.json.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    dict
        The configuration with which the run was begun or last resumed.

    Raises
    ------
    RunError
        The folder has no readable config.json.

    Examples
    --------
    >>> gvae.training.RunFolder("run", {"data": "digits"}).close()
    >>> gvae.training.read_config("run")
    {'data': 'digits'}
    """
    config = _read_config(Path(folder))
    if config is None:
        raise RunError(f"{folder} is not a run folder: it holds no readable {CONFIG}")
    return config


def _read_config(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return upgraded(config) if isinstance(config, dict) else None


def _agree(written: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether config.json agrees with the checkpoint, except for the number of epochs or steps, which may have been raised
    since, and for settings that the version which wrote the checkpoint did not have."""
    parts = {"settings", "fitted"}
    if any(written.get(name) != config.get(name) for name in (written.keys() | config.keys()) - parts):
        return False
    for name in parts:
        mine, other = written.get(name), config.get(name)
        if not (isinstance(mine, dict) and isinstance(other, dict)):
            return mine == other
        mine, other = _wherever(mine), _wherever(other)
        if any(mine[key] != other[key] for key in mine.keys() & other.keys() - {"epochs", "steps"}):
            return False
    return True


def _wherever(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a configuration without the names of files of rows, which may have been moved, or be named from another
    folder: their content is compared."""
    files = part.get("rows")
    if not isinstance(files, dict):
        return part
    kept = {
        name: {key: value for key, value in about.items() if key != "file"} if isinstance(about, dict) else about
        for name, about in files.items()
    }
    return part | {"rows": kept}
