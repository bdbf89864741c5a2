"""Differentiable operations. Each accepts plain arrays (and returns plain arrays) or `Var`s (and returns `Var`s).

elementwise  arithmetic and elementwise functions             linalg      dense Cholesky, triangular solve, eigh
arrays       reductions, shapes, indexing                     banded      Gaussians with a banded Cholesky factor
dense        matrix products, affine layers                   ar1         Gaussians with covariance s * rho^|i-j|
sparse       CSR x dense                                      lowrank     Gaussians with precision D + U'U
likelihoods  log-densities of data                            gaussian    diagonal and dense Gaussians
weights      importance weights                               traces      tr (L Lᵀ)⁻¹, exact and by random probes
draws        draws of bits, with or without a surrogate, of categories, counts and gamma variables
counts       log-probability of Poisson counts in CSR          correlation   canonical correlations of two views
gp           the RBF kernel and its statistics under Gaussian inputs
normalize    batch normalisation
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import gvae.autodiff  # noqa: F401  (first: it ends by importing the modules that attach Var's operators)
from gvae.ops import _former

_MODULES: tuple[str, ...] = (
    "elementwise",
    "arrays",
    "dense",
    "normalize",
    "sparse",
    "likelihoods",
    "weights",
    "linalg",
    "banded",
    "traces",
    "draws",
    "ar1",
    "lowrank",
    "gaussian",
    "counts",
    "correlation",
    "gp",
)
_MODULES += tuple(  # further modules, in the order of their names; nothing is imported yet
    sorted({i.name for i in pkgutil.iter_modules(__path__) if not i.name.startswith("_")} - {*_MODULES})
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"gvae.ops.{name}")
    if name in _former.OPS:
        return _former.renamed_op(__name__, name)
    if not name.startswith("_"):
        for module in _MODULES:  # names are few and unique; found once, then kept here
            namespace = importlib.import_module(f"gvae.ops.{module}")
            if name in namespace.__all__:
                globals()[name] = getattr(namespace, name)
                return globals()[name]
    raise AttributeError(f"module 'gvae.ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    names = {n for m in _MODULES for n in importlib.import_module(f"gvae.ops.{m}").__all__}
    return sorted(names | set(_MODULES))
