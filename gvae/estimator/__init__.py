"""Estimators: scikit-learn's protocol around every model. `classes` has one for each. They share `protocol`
(scikit-learn's), `fitting`, `base` (use), `views` and `inputs` (how data reach a model), `stored` (files and run folders)
and `sections` (what single models add to plots and reports).

    model = gvae.VAE(latent=16, posterior="chain", random_state=1).fit(images)
    model.score_samples(images)                      # importance-sampled log p(x), nats per row
    model.save("digits.gvae"); model = gvae.load("digits.gvae")
"""

from gvae.estimator.base import Classifier, Correlator, Estimator, Regressor
from gvae.estimator.classes import (
    CCA,
    DARN,
    DCCA,
    DEF,
    DLGM,
    HVM,
    MAPVAE,
    REGISTRY,
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
)
from gvae.estimator.protocol import declared
from gvae.estimator.stored import load
from gvae.estimator.views import data_support

__all__ = [
    "CCA",
    "DARN",
    "DCCA",
    "DEF",
    "DLGM",
    "HVM",
    "MAPVAE",
    "REGISTRY",
    "SBN",
    "VAE",
    "VCCA",
    "VIB",
    "VLAE",
    "Autoencoder",
    "AutoregressiveDensity",
    "BayesianVAE",
    "Classifier",
    "Correlator",
    "DeepGP",
    "DenoisingVAE",
    "DoubleDEF",
    "EoNADE",
    "Estimator",
    "FactorAnalysis",
    "HierarchicalVAE",
    "LadderVAE",
    "LinearVAE",
    "MutualAutoencoder",
    "NonlinearFactorAnalysis",
    "Regressor",
    "data_support",
    "declared",
    "estimators",
    "load",
]

for _cls in REGISTRY.values():  # those of models that are registered in their own files
    if _cls.__name__ not in __all__:
        globals()[_cls.__name__] = _cls
        __all__ += [_cls.__name__]
