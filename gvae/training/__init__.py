"""Training: the loop, its checkpoints and run folders. It depends on the model protocol (gvae.models) and on objectives,
and on no particular model or family.

All randomness is a pure function of the seed and of a position: the initial parameters, the order of epoch e, the
binarization and the noise of step s. So a run is repeatable, the draws of a step do not depend on any other step, and a run
that is resumed from a checkpoint, at any step, is bit-identical to the uninterrupted one.

Parts: `step` (the Trainer: one step, and all state that it changes), `program` (the execution of steps: in Python, as
launches, as a CUDA graph), `inputs` (the quantities that differ from step to step), `loop` (epochs, early stopping,
non-finite values), `until` (the default length), `validation`, `failure` (the rows that cause a non-finite step),
`snapshot`, `rows` (per-datum parameters of rows not trained on), `rounds` (a step of L-BFGS), `shards` (batches cut into
parts), `checkpoint` (the file), `runs` (the folder), `starts` (the record of each process in it), `files` (atomic writes and
the lock).
"""

from gvae.training.checkpoint import Checkpoint, encode, load_checkpoint, save_checkpoint
from gvae.training.files import write_atomically
from gvae.training.loop import POLICIES, History, train
from gvae.training.rows import ascend, has_rows, infer
from gvae.training.runs import (
    BEGUN,
    CHECKPOINT,
    CONFIG,
    LOG,
    SAVE_EVERY,
    RunFolder,
    check_free,
    read,
    read_config,
    read_history,
    survey,
)
from gvae.training.shards import Cut, Shards, check_ranks, why_not_shards
from gvae.training.starts import about_this_process, read_starts
from gvae.training.step import Trainer
from gvae.training.until import Until

__all__ = [
    "BEGUN",
    "CHECKPOINT",
    "CONFIG",
    "LOG",
    "POLICIES",
    "SAVE_EVERY",
    "Checkpoint",
    "Cut",
    "History",
    "RunFolder",
    "Shards",
    "Trainer",
    "Until",
    "about_this_process",
    "ascend",
    "check_free",
    "check_ranks",
    "encode",
    "has_rows",
    "infer",
    "load_checkpoint",
    "read",
    "read_config",
    "read_history",
    "read_starts",
    "save_checkpoint",
    "survey",
    "train",
    "why_not_shards",
    "write_atomically",
]
