"""One training step of the same model in gvae, PyTorch and JAX: a Markdown table of measured ratios.

    python asv_bench/peers/training.py                     # all cases
    python asv_bench/peers/training.py chain grid-20x50    # some of them
    python asv_bench/peers/training.py --list

All libraries start from gvae's initial parameters and take Adam steps on the same batch of binary data, which is in memory
in the library's own form. A timed step draws its noise, and ends when the loss can be read. gvae's is the step of
`gvae train`; PyTorch runs eagerly and compiled, JAX jitted; threads are as each library sets them by itself. Before a case
is timed, all take three steps on the same noise: what then has another loss, or has moved its parameters elsewhere, is not
timed. steps_torch.py and steps_jax.py say which forms were tried.

Timed steps have a learning rate of 1e-8, as in benchmarks/training.py: the parameters hardly move, so that all steps are
equal. Otherwise the work would change from step to step, and a faster library would be at a later step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np
import peers_table  # first of all: it makes gvae and the benchmarks importable
from peers_table import Row, Timed
from steps_gvae import Gvae, Products
from steps_jax import Jax
from steps_torch import Compiled, Torch
from training_cases import CASES, Case, Step

PEERS: dict[str, Callable[[Case], Step]] = {"PyTorch": Torch, "PyTorch, compiled": Compiled, "JAX": Jax}
STEPS = 3
RTOL = 1e-4  # of a loss
MOVED = 5e-2  # of the distance that a parameter has moved: Adam's first steps have the size of the rate, however small the
#               gradient, and where that is rounding error alone they go either way

SAMPLE = 1.0  # seconds: steady state; short bursts would measure how threads wake and how they are scheduled
PAUSE = 0.15  # seconds: OpenBLAS's threads spin for 0.1 after gvae's last product, and the next library would pay for it


def trial(make: Callable[[Case], Step], case: Case) -> tuple[list[float], dict[str, np.ndarray]]:
    """The losses of some steps on given noise, and how far each parameter has moved."""
    step = make(case)
    losses = [step.given(case.noise(i)) for i in range(STEPS)]
    start = case.parameters()
    return losses, {name: value - start[name] for name, value in step.parameters().items()}


def disagreements(case: Case, peers: Mapping[str, Callable[[Case], Step]]) -> dict[str, str]:
    """{peer: why it must not be timed}: it computes something else than gvae does, or it is missing."""
    ours, moves = trial(Gvae, case)
    reasons = {}
    for name, make in peers.items():
        try:
            theirs, their_moves = trial(make, case)
        except NotImplementedError as missing:
            reasons[name] = str(missing)
            continue
        far = [
            parameter
            for parameter, move in moves.items()
            if not np.linalg.norm(their_moves[parameter] - move) <= MOVED * np.linalg.norm(move)
        ]
        if not np.allclose(theirs, ours, rtol=RTOL, atol=0):
            reasons[name] = f"its losses are {theirs}, gvae's {ours}"
        elif far:
            reasons[name] = f"after {STEPS} steps it disagrees with gvae on {', '.join(far)}"
    return reasons


def row_of(case: Case) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        peers = {name: PEERS[name] for name in peers_table.beside(PEERS)}
        reasons = disagreements(case, peers)
        still = replace(case, learning_rate=1e-8)
        makers: dict[str, Callable[[Case], Any]] = {"gvae": Gvae, **peers, "its matrix products alone": Products}
        timed = [Timed(name, make(still)) for name, make in makers.items() if name not in reasons]
        missing = [f"{name}: {why}" for name, why in reasons.items()]
        yield Row(str(case), timed, missing=missing, pause=PAUSE, sample=SAMPLE)

    rows.__doc__ = str(case)
    return rows


ROWS = {name: row_of(case) for name, case in CASES.items()}

if __name__ == "__main__":
    sys.exit(peers_table.main(rows=ROWS, script="asv_bench/peers/training.py"))
