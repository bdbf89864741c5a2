"""Checkpoints: everything that continues a run, in one safetensors file with a checksum. No pickle, no code.

The header's metadata has four texts: `format`; `config` and `counters`, as JSON; and `checksum`, the SHA-256 of the whole
file with zeros in the place of its digits, so that no bit of the file can change unnoticed. The arrays, by name:

    parameters/...        optimizer/{m, v}: its moments        state/...        rows/NAME/{values, m, v, steps}
    average/...           best/..., best_state/...        mark/...: all of these once more, where a roll-back would lead

and `counters["use"]` says which of parameters, average and best are the ones to use. `best_state` is the model's state that
belongs to `best`.
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
    """The arrays by name, the configuration of the run, and the counters."""

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    counters: dict[str, Any]

    def parameters(self) -> dict[str, np.ndarray]:
        """Those to use, by their own names."""
        return self._under(self.counters["use"])

    def state(self) -> dict[str, np.ndarray]:
        """The model's state that goes with `parameters()`, by its own names; {} for a model without one."""
        return self._under("best_state" if self.counters["use"] == "best" else "state")

    def _under(self, part: str) -> dict[str, np.ndarray]:
        prefix = f"{part}/"
        return {name.removeprefix(prefix): x for name, x in self.tensors.items() if name.startswith(prefix)}


def save_checkpoint(path: str | os.PathLike, trainer: Trainer, config: dict[str, Any]) -> None:
    """All of a trainer's state in one file, written beside the target and renamed."""
    write_atomically(Path(path), encode(trainer_checkpoint(trainer, config)))


def trainer_checkpoint(trainer: Trainer, config: dict[str, Any]) -> Checkpoint:
    """What a checkpoint of this moment holds."""
    tensors, counters = trainer.snapshot()
    last = "parameters" if trainer.weights is trainer.parameters else "average"
    counters["use"] = last if trainer.best is None else "best"
    counters["mark"] = None
    if trainer.mark is not None and trainer.epoch.batches:  # at the start of an epoch the mark is this very state
        arrays, counters["mark"] = trainer.mark
        tensors |= {f"mark/{name}": array for name, array in arrays.items()}
    return Checkpoint(tensors, config, counters)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Make the trainer continue from a checkpoint. RunError if it is of other settings, and then nothing is changed."""
    own = {name: x for name, x in checkpoint.tensors.items() if not name.startswith("mark/")}
    counters = dict(checkpoint.counters)
    mark, _, _ = (counters.pop(name, None) for name in ("mark", "use", "log_bytes"))
    if mark is not None:  # it is checked as everything is: by restoring it
        marked = {name.removeprefix("mark/"): x for name, x in checkpoint.tensors.items() if name.startswith("mark/")}
        trainer.restore((marked, mark))
        trainer.set_mark()
    trainer.restore((own, counters))


def encode(checkpoint: Checkpoint) -> bytes:
    """The content of the file."""
    from safetensors.numpy import save

    tensors = {name: np.asarray(device.to_host(x), order="C") for name, x in checkpoint.tensors.items()}
    texts = {"config": json.dumps(checkpoint.config), "counters": json.dumps(checkpoint.counters)}
    content = save(tensors, metadata={"format": f"{PREFIX}{FORMAT}", "checksum": "0" * DIGITS, **texts})
    at = _place_of_checksum(content)
    assert at is not None
    return b"".join((content[:at], hashlib.sha256(content).hexdigest().encode(), content[at + DIGITS :]))


def decode(content: bytes) -> Checkpoint:
    """The checkpoint in the content of a file of this or of an earlier format. Raises ValueError: damaged or foreign."""
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


# what texts that are JSON, but not ours, make the code raise that reads them
_ODD = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError)


def glance(path: Path) -> Checkpoint:
    """A checkpoint without its arrays, and without a check of the file. Raises ValueError or OSError."""
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
    """The checkpoint of a header, in today's format."""
    version = header.get("format", "")
    newer = re.fullmatch(rf"{PREFIX}([1-9][0-9]{{0,5}})", version)
    if newer and int(newer[1]) > FORMAT:
        raise _Foreign(f"of a newer version of gvae (format {newer[1]}, this one reads up to {FORMAT}): install that")
    if version not in (f"{PREFIX}{n}" for n in range(1, FORMAT + 1)):
        raise _Foreign(f"not a gvae checkpoint (format {version!r}, expected {PREFIX}{FORMAT} or before)")
    checkpoint = Checkpoint(tensors(), json.loads(header["config"]), json.loads(header["counters"]))
    if not isinstance(checkpoint.config, dict) or not isinstance(checkpoint.counters, dict):
        raise ValueError("its configuration or its counters are no mapping")
    for older in range(int(version.removeprefix(PREFIX)), FORMAT):
        checkpoint = MIGRATIONS[older](checkpoint)
    if checkpoint.counters["use"] not in ("parameters", "average", "best"):
        raise ValueError(f"it uses {checkpoint.counters['use']!r}")
    return checkpoint


class _Foreign(ValueError):
    """Not damaged: another kind of file."""


def load_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint (tensors, config, counters) in a file. Raises RunError for one that is missing, damaged or foreign.

    Memory grows with the size of the file, never with what its header announces.
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
    """Where the digits of the checksum begin, if the header has one."""
    at = content.find(MARK.encode(), 8, 8 + int.from_bytes(content[:8], "little"))
    return at + len(MARK) if at >= 0 else None


def _is_checked(content: bytes) -> bool:
    """Whether the file has a checksum. Raises ValueError if it does not fit."""
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
    """Format 1 had no checksum, was written at the ends of epochs only, and knew no schedules, averages or early stopping:
    what settings it lacks have the values under which training continued as it did then."""
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
