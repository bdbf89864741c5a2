"""gvae: variational latent-variable models whose Gaussians have structure. A NumPy-native numerical engine.

    import gvae
    model = gvae.VAE(latent=16, posterior="chain").fit(images)
    model.score_samples(images)          # importance-sampled log p(x), nats per row

Names are imported when they are first used: `import gvae` loads neither Numba nor CuPy.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the application decides what is shown

_HOME = {
    "VAE": "estimator",
    "MAPVAE": "estimator",
    "BayesianVAE": "estimator",
    "DenoisingVAE": "estimator",
    "Autoencoder": "estimator",
    "LinearVAE": "estimator",
    "FactorAnalysis": "estimator",
    "NonlinearFactorAnalysis": "estimator",
    "HierarchicalVAE": "estimator",
    "VIB": "estimator",
    "DLGM": "estimator",
    "LadderVAE": "estimator",
    "VCCA": "estimator",
    "MutualAutoencoder": "estimator",
    "VLAE": "estimator",
    "SBN": "estimator",
    "DARN": "estimator",
    "AutoregressiveDensity": "estimator",
    "EoNADE": "estimator",
    "DEF": "estimator",
    "CCA": "estimator",
    "DCCA": "estimator",
    "DoubleDEF": "estimator",
    "DeepGP": "estimator",
    "HVM": "estimator",
    "estimators": "estimator",
    "load": "estimator",
    "Var": "autodiff",
    "gradient": "autodiff",
    "value_and_gradient": "autodiff",
    "stop_gradient": "autodiff",
    "evaluate": "evaluation",
    "train": "training",
    "GvaeError": "errors",
    "captured": "runtime.launches",
    "clear_memory": "runtime.memory",
    "show_versions": "doctor",
}
_MODULES = (
    "autodiff",
    "bounds",
    "costs",
    "data",
    "distributions",
    "errors",
    "estimator",
    "evaluation",
    "families",
    "graphs",
    "interop",
    "models",
    "nn",
    "objectives",
    "ops",
    "optim",
    "panels",
    "plots",
    "random",
    "settings",
    "training",
)

_INNER = ("checks", "runtime")  # not a part of the public interface
_MOVED = ("capture", "dispatch")  # into runtime; these names are removed in the next release

__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from gvae.autodiff import Var, gradient, stop_gradient, value_and_gradient
    from gvae.doctor import show_versions
    from gvae.errors import GvaeError
    from gvae.estimator import (
        CCA,
        DARN,
        DCCA,
        DEF,
        DLGM,
        HVM,
        MAPVAE,
        SBN,
        VAE,
        VCCA,
        VIB,
        VLAE,
        Autoencoder,
        AutoregressiveDensity,
        BayesianVAE,
        DeepGP,
        DenoisingVAE,
        DoubleDEF,
        EoNADE,
        FactorAnalysis,
        HierarchicalVAE,
        LadderVAE,
        LinearVAE,
        MutualAutoencoder,
        NonlinearFactorAnalysis,
        estimators,
        load,
    )
    from gvae.evaluation import evaluate
    from gvae.runtime.launches import captured
    from gvae.runtime.memory import clear_memory
    from gvae.training import train


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(f"gvae.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in (*_MODULES, *_INNER, *_MOVED):
        return importlib.import_module(f"gvae.{name}")
    if name[:1].isupper():  # an estimator of a model that is registered in its own file
        for cls in importlib.import_module("gvae.estimator").REGISTRY.values():
            if cls.__name__ == name:
                return cls
    raise AttributeError(f"module 'gvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
