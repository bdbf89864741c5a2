"""Start-up time of a new process, next to that of `import numpy`, the lower limit."""

from __future__ import annotations

import subprocess
import sys

FIRST_KL = """
import numpy as np
from gvae import ops

chol = np.full((100, 2, 16), 0.5, np.float32)
chol[:, 1, -1] = 0
ops.kl_divergence_banded(np.zeros((100, 16), np.float32), chol)
"""


class Import:
    params = (["gvae", "numpy"],)
    param_names = ("implementation",)
    repeat = (5, 10, 2.0)

    def timeraw_import(self, implementation):
        return f"import {implementation}"


class FirstKl:
    """Imports and the first call, with compiled kernels in the cache."""

    params = (["gvae"],)
    param_names = ("implementation",)
    repeat = (3, 6, 3.0)
    timeout = 120

    def setup(self, implementation):
        if not getattr(self, "_cached", False):
            subprocess.run([sys.executable, "-c", FIRST_KL], check=True)
            self._cached = True

    def timeraw_first_kl(self, implementation):
        return FIRST_KL
