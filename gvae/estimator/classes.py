"""The estimators, one for each model: what the field calls it, and the groups of settings that it has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from gvae import models
from gvae.earlier import LACKS, ONE_CLASS
from gvae.errors import ConfigError
from gvae.estimator.base import Classifier, Estimator
from gvae.estimator.protocol import declared
from gvae.models import denoising, dlgm, factor_analysis, hierarchical, nlfa, vae, vib, vlae, weights
from gvae.settings import Ascent, Length, Machine, Objective, Presentation, Standardized, fields

__all__ = [
    "DLGM",
    "MAPVAE",
    "VAE",
    "VIB",
    "VLAE",
    "Autoencoder",
    "BayesianVAE",
    "DenoisingVAE",
    "FactorAnalysis",
    "HierarchicalVAE",
    "LinearVAE",
    "NonlinearFactorAnalysis",
    "estimators",
]


class _ByGradients(Estimator, Machine, Ascent, Length, Objective, Presentation):
    """What is trained by stochastic gradients on a bound."""


@declared("vae")
class VAE(_ByGradients, vae.Settings):
    """A variational autoencoder with a structured posterior: z ~ p(z), x | z ~ observation(decoder(z)),
    q(z | x) = posterior(encoder(x)).

        model = gvae.VAE(latent=16, posterior="chain", random_state=1).fit(X)
        codes = model.transform(X)                  # posterior means
        model.score_samples(X)                      # importance-sampled log p(x), nats per row
        model.save("model.gvae"); model = gvae.load("model.gvae")

    Data are rows (N, D) or images (N, rows, columns): dense, finite real numbers, a DataFrame too. uint8 with a value above
    1 are grey levels and divided by 255, unless the observation is one of whole numbers (poisson, negative_binomial,
    categorical); if fit saw uint8, its X decides for all later uint8.

    After fit: `history_` (a row per epoch), `events_` (see on_nonfinite), `n_iter_` (the steps after which the
    weights were those that are kept), `parameters_`, `state_`,
    `model_`, `seed_`, `binarize_`, `observation_`, `standardization_` (None where X is not standardized), `config_`,
    `n_features_in_`, `feature_names_in_` (of a DataFrame). Settings are checked by fit, and read by nothing after it.

    Source: Kingma and Welling (2014); with structured posteriors, Peste and Malagò.
    """

    model = models.VAE

    def __new__(cls, *args: Any, model: str = "vae", **given: Any) -> Any:
        if model == "vae" or cls is not VAE:
            return super().__new__(cls)
        return _of_one_class(model, *args, **given)


@declared("map")
class MAPVAE(_ByGradients, weights.Settings):
    """A VAE with the most probable weights of its decoder, under a Gaussian prior: weight decay by the decoder's part of
    the bound. The training bound includes log p(weights) / N."""

    model = models.MAP


@declared("bayes")
class BayesianVAE(_ByGradients, weights.BayesSettings):
    """A VAE with a Gaussian posterior over each of its decoder's weights. Its codes and samples are those of the weights'
    means; its bounds draw weights."""

    model = models.Bayes


@declared("denoising")
class DenoisingVAE(_ByGradients, denoising.Settings):
    """A VAE whose encoder sees corrupted rows in training, from a high level of corruption to a low one."""

    model = models.Denoising


@declared("autoencoder")
class Autoencoder(_ByGradients, vae.Settings):
    """An autoencoder: encoder and decoder of a VAE without sampling and without a prior; a baseline. What stands for its
    bound is the reconstruction term, which bounds nothing."""

    model = models.Autoencoder


@declared("linear")
class LinearVAE(_ByGradients, factor_analysis.Settings):
    """A VAE without hidden layers: with a Gaussian observation it is factor analysis by stochastic gradients."""

    model = models.LinearVAE


@declared("factor_analysis")
class FactorAnalysis(Estimator, Machine, Length, Standardized, factor_analysis.ExactSettings):
    """Factor analysis x | z ~ N(W z + b, diag psi) by exact expectation maximization: an epoch is an iteration on all rows,
    and the bounds that it reports are log p(x)."""

    model = models.FactorAnalysisEM
    fixed: ClassVar[Mapping[str, Any]] = {"objective": "elbo_a", "batch_size": None}


@declared("nlfa")
class NonlinearFactorAnalysis(_ByGradients, nlfa.Settings):
    """Non-linear factor analysis by variational expectation maximization: a VAE without an encoder, whose rows have
    posteriors of their own. Those of new rows are inferred by gradient steps."""

    model = models.NonlinearFactorAnalysis


@declared("hierarchical")
class HierarchicalVAE(_ByGradients, hierarchical.Settings):
    """Several layers of codes, inferred from the data upwards. `transform` gives the means of the layer next to the data,
    `codes` those of all layers."""

    model = models.Hierarchical


@declared("vib")
class VIB(Classifier, Machine, Ascent, Length, Objective, Presentation, vib.Settings):
    """A deep variational information bottleneck: a classifier of labels y by a code that says as little of x as they allow.

    model = gvae.VIB(latent=16, hidden=(200,)).fit(X, y)
    model.predict(X), model.predict_proba(X)    # by 12 draws of the code
    model.score(X, y)                           # accuracy
    model.score_samples(X, y)                   # log p(y | x), nats per row
    """

    model = models.VIB


@declared("dlgm")
class DLGM(_ByGradients, dlgm.Settings):
    """A deep latent Gaussian model: noise enters at each of several layers, and is inferred for all of them from the data.
    `transform` joins the means of all layers' noise.

        model = gvae.DLGM(latent=(20, 10), posterior="lowrank:1").fit(X)

    Source: Rezende, Mohamed and Wierstra (2014)."""

    model = models.DLGM


@declared("vlae")
class VLAE(_ByGradients, vlae.Settings):
    """A variational ladder autoencoder: several codes, all standard normal and inferred from the data, whose networks grow
    in depth. `transform` joins their means; those of the first level are next to the data.

        model = gvae.VLAE(latent=(2, 2, 2)).fit(X)
        model.codes(X)["z3"]                        # what the deepest networks hold

    Source: Zhao, Song and Ermon (2017)."""

    model = models.VLAE


CLASSES = (
    VAE,
    MAPVAE,
    BayesianVAE,
    DenoisingVAE,
    Autoencoder,
    LinearVAE,
    FactorAnalysis,
    NonlinearFactorAnalysis,
    HierarchicalVAE,
    VIB,
    DLGM,
    VLAE,
)
REGISTRY: dict[str, type[Estimator]] = {cls.name: cls for cls in CLASSES}


def estimators() -> dict[str, type[Estimator]]:
    """All estimators by the name of their model, as `gvae train --model NAME` spells it.

    gvae.estimators()["map"]     # gvae.MAPVAE
    """
    return dict(REGISTRY)


# ---- VAE(model=...), for one release -------------------------------------------------------------

_positional = VAE.__init__


def _without_model(self: VAE, *args: Any, model: str = "vae", **given: Any) -> None:
    if model == "vae":
        _positional(self, *args, **given)


_without_model.__signature__ = VAE.__signature__  # type: ignore[attr-defined]
VAE.__init__ = _without_model  # type: ignore[method-assign]


def _of_one_class(model: str, *args: Any, **given: Any) -> Estimator:
    """The estimator that VAE(model=...) stood for, with the defaults that it had."""
    if model not in REGISTRY:
        raise ConfigError(f"unknown model {model!r}; known are {', '.join(REGISTRY)}")
    cls = REGISTRY[model]
    warnings.warn(f"gvae.VAE(model={model!r}) is now gvae.{cls.__name__}(...)", FutureWarning, stacklevel=3)
    given |= dict(zip([f.name for f in fields(VAE) if not f.kw_only], args, strict=False))
    usual = {f.name: f.default for f in fields(VAE)}
    for name in LACKS.get(model, ()):
        value = given.pop(name, None)
        if value is not None and value not in (usual[name], cls.fixed.get(name), ()):
            raise ConfigError(f"gvae.{cls.__name__} has no setting {name!r}, which is {value!r}")
    known = {f.name for f in fields(cls)} - {"posterior" if cls is FactorAnalysis else ""}  # whose posterior was its own
    return cls(**{name: value for name, value in ONE_CLASS.items() if name in known} | given)
