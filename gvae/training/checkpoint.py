"""Checkpoints: all state that is needed to resume a run, in one safetensors file with a checksum. No pickle, no code.

The header's metadata has four texts: `format`; `config` and `counters`, as JSON; and `checksum`, the SHA-256 of the whole
file with zeros in place of its digits, so that a change of any bit of the file is detected. The arrays, by name:

    parameters/...        optimizer/{m, v}: its moments        state/...        rows/NAME/{values, m, v, steps}
    average/...           best/..., best_state/...        mark/...: all of these again, at the target of a roll-back

`counters["use"]` says which of parameters, average and best are to be used. `best_state` is the model's state that belongs
to `best`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gvae.earlier import upgraded
from gvae.errors import RunError
from gvae.runtime import device
from gvae.training.files import write_atomically
from gvae.training.step import Trainer

FORMAT = 3
PREFIX = "gvae-checkpoint-"
DIGITS = 64
MARK = '"checksum":"'  # as safetensors writes it; inside a JSON text of the metadata its quotes would be escaped


class Checkpoint(NamedTuple):
    """The content of a checkpoint file: arrays, configuration and counters.

    Parameters
    ----------
    tensors : dict of str to array
        All arrays, by their names in the file, such as "parameters/encoder.0.weight".
    config : dict
        The configuration of the run.
    counters : dict
        The position of training: steps, epochs, the epoch in progress, early stopping, ...; "use" says which arrays are
        the parameters to use.

    Examples
    --------
    >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
    >>> gvae.training.save_checkpoint("model", trainer, {"data": "digits"})
    >>> checkpoint = gvae.training.load_checkpoint("model")
    >>> checkpoint.config, checkpoint.counters["steps"], checkpoint.counters["use"]
    ({'data': 'digits'}, 0, 'parameters')
    """

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    counters: dict[str, Any]

    def parameters(self) -> dict[str, np.ndarray]:
        """The parameters to use: those of the best epoch, else the running average, else the last ones.

        Returns
        -------
        dict of str to array
            By their names in the model.

        Examples
        --------
        >>> tensors = {"parameters/w": np.zeros(2), "average/w": np.ones(2)}
        >>> gvae.training.Checkpoint(tensors, {}, {"use": "average"}).parameters()
        {'w': array([1., 1.])}
        """
        return self._under(self.counters["use"])

    def state(self) -> dict[str, np.ndarray]:
        """The model's state that belongs to `parameters()`.

        Returns
        -------
        dict of str to array
            By their names in the model; {} for a model without state.

        Examples
        --------
        >>> tensors = {"state/mean": np.zeros(2), "best_state/mean": np.ones(2)}
        >>> gvae.training.Checkpoint(tensors, {}, {"use": "best"}).state()
        {'mean': array([1., 1.])}
        """
        return self._under("best_state" if self.counters["use"] == "best" else "state")

    def _under(self, part: str) -> dict[str, np.ndarray]:
        prefix = f"{part}/"
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}


def save_checkpoint(path: str | os.PathLike, trainer: Trainer, config: dict[str, Any]) -> None:
    """Write all state of a trainer to one file, atomically: to a temporary file, which is then renamed.

    Parameters
    ----------
    path : str or path-like
    trainer : Trainer
    config : dict
        The configuration of the run: values that JSON can hold.

    Raises
    ------
    OSError

    Examples
    --------
    >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
    >>> gvae.training.save_checkpoint("model", trainer, {})
    >>> saved = gvae.training.load_checkpoint("model").parameters()
    >>> all(np.array_equal(saved[name], value) for name, value in trainer.parameters.items())
    True
    """
    write_atomically(Path(path), encode(trainer_checkpoint(trainer, config)))


def trainer_checkpoint(trainer: Trainer, config: dict[str, Any]) -> Checkpoint:
    """The checkpoint of a trainer's current state."""
    tensors, counters = trainer.snapshot()
    last = "parameters" if trainer.weights is trainer.parameters else "average"
    counters["use"] = last if trainer.best is None else "best"
    counters["mark"] = None
    if trainer.mark is not None and trainer.epoch.batches:  # at the start of an epoch the mark is this very state
        arrays, counters["mark"] = trainer.mark
        tensors |= {f"mark/{name}": array for name, array in arrays.items()}
    return Checkpoint(tensors, config, counters)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Resume a trainer from a checkpoint. RunError if that has other settings; then nothing is changed."""
    own = {name: x for name, x in checkpoint.tensors.items() if not name.startswith("mark/")}
    counters = dict(checkpoint.counters)
    mark, _, _ = (counters.pop(name, None) for name in ("mark", "use", "log_bytes"))
    if mark is not None:  # restored first, which checks it
        marked = {name.removeprefix("mark/"): x for name, x in checkpoint.tensors.items() if name.startswith("mark/")}
        trainer.restore((marked, mark))
        trainer.set_mark()
    trainer.restore((own, counters))


def encode(checkpoint: Checkpoint) -> bytes:
    """Serialise a checkpoint, in the current format.

    Parameters
    ----------
    checkpoint : Checkpoint

    Returns
    -------
    bytes
        The content of the file, with its checksum.

    Examples
    --------
    >>> from pathlib import Path
    >>> checkpoint = gvae.training.Checkpoint({"parameters/w": np.ones(2)}, {"epochs": 3}, {"use": "parameters"})
    >>> n_bytes = Path("model").write_bytes(gvae.training.encode(checkpoint))
    >>> gvae.training.load_checkpoint("model").parameters()
    {'w': array([1., 1.])}
    """
    from safetensors.numpy import save

    tensors = {name: np.asarray(device.to_host(x), order="C") for name, x in checkpoint.tensors.items()}
    texts = {"config": json.dumps(checkpoint.config), "counters": json.dumps(checkpoint.counters)}
    content = save(tensors, metadata={"format": f"{PREFIX}{FORMAT}", "checksum": "0" * DIGITS, **texts})
    at = _place_of_checksum(content)
    assert at is not None
    return b"".join((content[:at], hashlib.sha256(content).hexdigest().encode(), content[at + DIGITS :]))


def decode(content: bytes) -> Checkpoint:
    """The checkpoint in the content of a file of this or an earlier format. ValueError if it is damaged or not a
    checkpoint."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        checked = _is_checked(content)
        header = _header(content)
        if not checked and header.get("format", "") in (f"{PREFIX}{n}" for n in range(2, FORMAT + 1)):
            raise ValueError("it has no checksum")
        return _interpret(header, lambda: load(content))
    except (SafetensorError, *_ODD) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None


# errors raised by the interpretation of valid JSON that is not a checkpoint's
_ODD = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError)


def glance(path: Path) -> Checkpoint:
    """A checkpoint without its arrays; the checksum is not verified. Raises ValueError or OSError."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if length > os.fstat(file.fileno()).st_size:
            raise ValueError("truncated within its header")
        try:
            return _interpret(_header(start + file.read(length)), dict)
        except _ODD as error:
            raise ValueError(f"{type(error).__name__} {error}") from None


def _interpret(header: Mapping[str, str], tensors: Callable[[], dict[str, np.ndarray]]) -> Checkpoint:
    """The checkpoint of a header, in the current format."""
    version = header.get("format", "")
    newer = re.fullmatch(rf"{PREFIX}([1-9][0-9]{{0,5}})", version)
    if newer and int(newer[1]) > FORMAT:
        raise _Foreign(f"of a newer version of gvae (format {newer[1]}, this one reads up to {FORMAT}): install that")
    if version not in (f"{PREFIX}{n}" for n in range(1, FORMAT + 1)):
        raise _Foreign(f"not a gvae checkpoint (format {version!r}, expected {PREFIX}{FORMAT} or before)")
    checkpoint = Checkpoint(tensors(), json.loads(header["config"]), json.loads(header["counters"]))
    if not isinstance(checkpoint.config, dict) or not isinstance(checkpoint.counters, dict):
        raise ValueError("its configuration or its counters are not a mapping")
    for older in range(int(version.removeprefix(PREFIX)), FORMAT):
        checkpoint = MIGRATIONS[older](checkpoint)
    if checkpoint.counters["use"] not in ("parameters", "average", "best"):
        raise ValueError(f"it uses {checkpoint.counters['use']!r}")
    return checkpoint


class _Foreign(ValueError):
    """The file is not damaged, but of another kind."""


def load_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint from a file of the current or an earlier format, and verify its checksum.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Checkpoint
        tensors, config and counters.

    Raises
    ------
    RunError
        The file is missing, not readable, damaged, not a gvae checkpoint, or of a newer format.

    Notes
    -----
    Memory grows with the size of the file, never with the sizes that its header announces. Files of the first format have
    no checksum.

    Examples
    --------
    >>> trainer = gvae.training.Trainer(gvae.models.VAE(4, 2, "diagonal", hidden=(3,)))
    >>> gvae.training.save_checkpoint("model", trainer, {})
    >>> sorted(gvae.training.load_checkpoint("model").tensors)[-1]
    'parameters/encoder.1.weight'
    >>> gvae.training.load_checkpoint("other")
    Traceback (most recent call last):
    ...
    gvae.errors.RunError: no checkpoint at other
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"no checkpoint at {path}")
    try:
        return decode(path.read_bytes())
    except _Foreign as error:
        raise RunError(f"{path} is {error}") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from None


def _header(content: bytes) -> Mapping[str, str]:
    """The metadata of a safetensors file: a length (8 bytes, little-endian), then JSON."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("truncated within its header")
    header = json.loads(content[8 : 8 + length])
    metadata = header.get("__metadata__", {})
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata are not texts")
    return metadata


def _place_of_checksum(content: bytes) -> int | None:
    """The position of the checksum's digits, or None if the header has no checksum."""
    at = content.find(MARK.encode(), 8, 8 + int.from_bytes(content[:8], "little"))
    return at + len(MARK) if at >= 0 else None


def _is_checked(content: bytes) -> bool:
    """Whether the file has a checksum. Raises ValueError if it does not match the content."""
    at = _place_of_checksum(content)
    if at is None:
        return False
    digest = hashlib.sha256(content[:at])
    digest.update(b"0" * DIGITS)
    digest.update(memoryview(content)[at + DIGITS :])
    if content[at : at + DIGITS] != digest.hexdigest().encode():
        raise ValueError("its checksum does not fit its content")
    return True


# ---- earlier formats -----------------------------------------------------------------------------


def _from_1(old: Checkpoint) -> Checkpoint:
    """Format 1 had no checksum, was written at the ends of epochs only, and had no schedules, averages or early stopping:
    the missing settings get the values under which training continues as it did then."""
    steps, epochs, optimizer_step = (old.counters[name] for name in ("steps", "epochs", "optimizer_step"))
    counters = {
        "steps": steps,
        "epochs": epochs,
        "optimizer_step": optimizer_step,
        "epoch": {"batches": 0, "rows": 0, "sums": {}, "seconds": 0.0},
        "stopping": {"best": None, "epoch": 0, "waited": 0},
        "schedule": {},
        "average": 0,
        "scale": 1.0,
        "rollbacks": 0,
        "use": "parameters",
        "mark": None,
    }
    return old._replace(counters=counters)


def _from_2(old: Checkpoint) -> Checkpoint:
    """Format 2 had one class for all models: see gvae.earlier."""
    return old._replace(config=upgraded(old.config))


MIGRATIONS: dict[int, Callable[[Checkpoint], Checkpoint]] = {1: _from_1, 2: _from_2}  # from each earlier format to the next
