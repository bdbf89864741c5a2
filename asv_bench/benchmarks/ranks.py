"""The sum of gradients over two ranks of MPI, without a step."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path


class Exchange:
    """Seconds for the 407,831 parameters of the 784-200-200-16 model with a chain posterior."""

    params, param_names = (["gvae"],), ("implementation",)
    unit, timeout = "seconds", 120

    def setup(self, *_):
        if not Path(sys.executable).with_name("mpirun").exists():
            raise NotImplementedError  # there is no MPI: asv skips the benchmark
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    def track_exchange(self, *_):
        import scaling_mpi

        launcher = str(Path(sys.executable).with_name("mpirun"))
        return statistics.median(scaling_mpi.launched(2, 1, launcher, "exchanged", "--times", "200"))
