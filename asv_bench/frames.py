"""The way from a training step to its first kernel: a line per frame.

    python asv_bench/frames.py [--step 0]

Steps 0 and 1 run Python (the first is captured, the second compared with the launches); from step 2 on the step is a list of
launches, and between `Trainer.step` and the first kernel lies what starts it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from gvae import models, random
from gvae.data import Table
from gvae.runtime import device, launches
from gvae.training import Trainer

HERE = Path(device.__file__).parent


def frames(steps: int) -> list[list[str]]:
    """For each step the functions from `Trainer.step` to where its first layer's kernel, or its list, is called."""
    x = (np.random.default_rng(0).random((100, 64)) < 0.3).astype(np.float32)
    trainer = Trainer(models.VAE(64, 8, posterior="chain", hidden=(32,)), seed=1)
    table, found = Table(x), []
    for step in range(steps):
        stacks: list[list[str]] = []

        def noted(function: Callable, wanted: Callable[[tuple], bool], stacks: list = stacks) -> Callable:
            def call(*arguments: Any, **settings: Any) -> Any:
                if not stacks and wanted(arguments):
                    stacks.append(_stack(sys._getframe(1)))
                return function(*arguments, **settings)

            return call

        launch, again = device.launch, launches.Graph.launch
        device.launch = noted(launch, lambda arguments: arguments[:2] == ("affine", "affine"))
        launches.Graph.launch = noted(again, lambda arguments: len(found) > 1)  # type: ignore[method-assign]
        try:
            trainer.step(table.batch(np.arange(100), random.key(step)))
        finally:
            device.launch, launches.Graph.launch = launch, again  # type: ignore[method-assign]
        found.append(stacks[0] if stacks else [])
    return found


def _stack(frame: FrameType | None) -> list[str]:
    names: list[str] = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        place = path.relative_to(HERE) if HERE in path.parents else path.name
        names.append(f"{place}:{frame.f_lineno} {frame.f_code.co_qualname}")
        if frame.f_code.co_qualname == "Trainer.step":
            return names[::-1]
        frame = frame.f_back
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1)
    options = parser.parse_args()
    found = frames(options.step + 1)[options.step]
    print("\n".join(found))
    print(f"{len(found)} frames")


if __name__ == "__main__":
    main()
