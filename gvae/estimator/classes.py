"""The estimators, one for each model: what the field calls it, and the groups of settings that it has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from gvae import models
from gvae.earlier import LACKS, ONE_CLASS
from gvae.errors import ConfigError
from gvae.estimator import sections
from gvae.estimator.base import Classifier, Estimator
from gvae.estimator.protocol import declared
from gvae.models import (
    darn,
    denoising,
    density,
    dlgm,
    eonade,
    factor_analysis,
    hierarchical,
    nlfa,
    sbn,
    vae,
    vib,
    vlae,
    weights,
)
from gvae.settings import Ascent, Length, Machine, Objective, Presentation, Standardized, fields

__all__ = [
    "DARN",
    "DLGM",
    "MAPVAE",
    "SBN",
    "VAE",
    "VIB",
    "VLAE",
    "Autoencoder",
    "AutoregressiveDensity",
    "BayesianVAE",
    "DenoisingVAE",
    "EoNADE",
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
    """Variational autoencoder with a structured posterior.

    z ~ p(z), x | z ~ observation(decoder(z)), q(z | x) = posterior(encoder(x)).

    Data are rows (N, D) or images (N, rows, columns): dense, finite real numbers, a DataFrame too. uint8 with a value above
    1 are grey levels and divided by 255, unless the observation is one of whole numbers (poisson, negative_binomial,
    categorical); if fit saw uint8, its X decides for all later uint8.

    Settings are checked by `fit`; changes after it have no effect on the fitted model.

    Attributes
    ----------
    history_ : list of dict
        A row per epoch.
    events_ : list of dict
        See the setting on_nonfinite.
    n_iter_ : int
        The steps after which the weights that are kept were reached.
    parameters_, state_ : mapping of str to array
        The weights, and what else the model learned.
    model_ : Model
        See `gvae.models`.
    seed_ : int
    binarize_, observation_ : str
        What the settings of these names were resolved to.
    standardization_ : Standardization or None
        None where X is not standardized.
    config_ : dict
        What a saved file holds beside the weights.
    n_features_in_ : int
    feature_names_in_ : array of str
        Of a DataFrame.

    Notes
    -----
    Source: Kingma and Welling (2014); with structured posteriors, Peste and Malagò.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.VAE(latent=2, posterior="chain", hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape, model.score_samples(X).shape  # posterior means; log p(x) in nats
    ((100, 2), (100,))
    """

    model = models.VAE

    def __new__(cls, *args: Any, model: str = "vae", **given: Any) -> Any:
        if model == "vae" or cls is not VAE:
            return super().__new__(cls)
        return _of_one_class(model, *args, **given)


@declared("map")
class MAPVAE(_ByGradients, weights.Settings):
    """VAE with a Gaussian prior on its decoder's weights, at their most probable values.

    That is weight decay derived from the bound, which in training includes log p(weights) / N.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.MAPVAE(latent=2, hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 2)
    """

    model = models.MAP


@declared("bayes")
class BayesianVAE(_ByGradients, weights.BayesSettings):
    """VAE with a Gaussian posterior over each of its decoder's weights.

    Codes and samples are computed at the weights' means; bounds draw weights.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.BayesianVAE(latent=2, hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 2)
    """

    model = models.Bayes

    def report_sections(self, X, y=None):
        return sections.weights(self)


@declared("denoising")
class DenoisingVAE(_ByGradients, denoising.Settings):
    """VAE whose encoder reads corrupted rows in training, from a high level of corruption to a low one.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.DenoisingVAE(latent=2, hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 2)
    """

    model = models.Denoising


@declared("autoencoder")
class Autoencoder(_ByGradients, vae.Settings):
    """Autoencoder: encoder and decoder of a VAE without sampling and without a prior; a baseline.

    In place of a bound it reports the reconstruction term, which bounds nothing.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.Autoencoder(latent=2, hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 2)
    """

    model = models.Autoencoder


@declared("linear")
class LinearVAE(_ByGradients, factor_analysis.Settings):
    """VAE without hidden layers: with a Gaussian observation, factor analysis by stochastic gradients.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.LinearVAE(latent=2, epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 2)
    """

    model = models.LinearVAE

    def report_sections(self, X, y=None):
        return sections.loadings(self, X)


@declared("factor_analysis")
class FactorAnalysis(Estimator, Machine, Length, Standardized, factor_analysis.ExactSettings):
    """Factor analysis x | z ~ N(W z + b, diag psi) by exact expectation maximization.

    An epoch is an iteration on all rows, and the bounds that it reports are log p(x).

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.FactorAnalysis(latent=2, epochs=10, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 2)
    """

    model = models.FactorAnalysisEM
    fixed: ClassVar[Mapping[str, Any]] = {"objective": "elbo_a", "batch_size": None}

    def report_sections(self, X, y=None):
        return sections.loadings(self, X)


@declared("nlfa")
class NonlinearFactorAnalysis(_ByGradients, nlfa.Settings):
    """Non-linear factor analysis by variational expectation maximization: a VAE without an encoder.

    Each row has posterior parameters of its own; those of new rows are inferred by gradient steps.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.NonlinearFactorAnalysis(latent=2, hidden=(8,), epochs=2, row_steps=5, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 2)
    """

    model = models.NonlinearFactorAnalysis


@declared("hierarchical")
class HierarchicalVAE(_ByGradients, hierarchical.Settings):
    """Hierarchical VAE: several layers of codes, inferred from the data upwards.

    `transform` returns the means of the layer next to the data, `codes` those of all layers.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.HierarchicalVAE(latent=(2, 1), hidden=((8,), (4,)), epochs=2, random_state=0).fit(X)
    >>> {name: z.shape for name, z in model.codes(X).items()}
    {'z1': (100, 2), 'z2': (100, 1)}
    """

    model = models.Hierarchical


@declared("vib")
class VIB(Classifier, Machine, Ascent, Length, Objective, Presentation, vib.Settings):
    """Deep variational information bottleneck: a classifier through a code with as little information on x as possible.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> y = X[:, 0] > 0
    >>> model = gvae.VIB(latent=2, hidden=(8,), epochs=20, random_state=0).fit(X, y)
    >>> model.predict(X).dtype, model.predict_proba(X).shape, model.score_samples(X, y).shape  # the last in nats
    (dtype('bool'), (100, 2), (100,))
    """

    model = models.VIB


@declared("dlgm")
class DLGM(_ByGradients, dlgm.Settings):
    """Deep latent Gaussian model: noise enters at each of several layers, and is inferred for all of them from the data.

    `transform` joins the means of all layers' noise.

    Notes
    -----
    Source: Rezende, Mohamed and Wierstra (2014).

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.DLGM(latent=(2, 1), posterior="lowrank:1", hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 3)
    """

    model = models.DLGM


@declared("vlae")
class VLAE(_ByGradients, vlae.Settings):
    """Variational ladder autoencoder: several standard normal codes, inferred by networks of growing depth.

    `transform` joins their means; those of the first level are next to the data.

    Notes
    -----
    Source: Zhao, Song and Ermon (2017).

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.VLAE(latent=(2, 1), hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> {name: z.shape for name, z in model.codes(X).items()}
    {'z1': (100, 2), 'z2': (100, 1)}
    """

    model = models.VLAE


@declared("sbn")
class SBN(_ByGradients, sbn.Settings):
    """Sigmoid belief network: layers of bits, inferred from the data upwards.

    `transform` returns the probabilities of the layer next to the data.

    Notes
    -----
    Sources: Neal (1992); Mnih and Gregor (2014).

    Examples
    --------
    >>> X = (gvae.random.uniform(gvae.random.key(0), (100, 5)) < 0.3).astype(np.float32)
    >>> model = gvae.SBN(latent=(4, 2), gradient="vimco", objective="iwae", samples=5, epochs=2, random_state=0).fit(X)
    >>> {name: z.shape for name, z in model.codes(X).items()}
    {'z1': (100, 4), 'z2': (100, 2)}
    """

    model = models.SBN


@declared("darn")
class DARN(_ByGradients, darn.Settings):
    """Deep autoregressive network: bits that depend on those before them, in every layer.

    `transform` returns the probabilities of the layer next to the data.

    Notes
    -----
    Source: Gregor, Danihelka, Mnih, Blundell and Wierstra (2014).

    Examples
    --------
    >>> X = (gvae.random.uniform(gvae.random.key(0), (100, 5)) < 0.3).astype(np.float32)
    >>> model = gvae.DARN(latent=3, epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape, sorted(set(model.sample(4, draw=True).ravel().tolist()) | {0.0, 1.0})
    ((100, 3), [0.0, 1.0])
    """

    model = models.DARN


@declared("density")
class AutoregressiveDensity(_ByGradients, density.Settings):
    """Density of bits without a code, each variable given those before it; `score_samples` is exact.

    "autoregressive" is a fully visible sigmoid belief network, "nade:500" NADE; other families serve as well.

    Notes
    -----
    Sources: Frey, Hinton and Dayan (1996); Larochelle and Murray (2011).

    Examples
    --------
    >>> X = (gvae.random.uniform(gvae.random.key(0), (100, 5)) < 0.3).astype(np.float32)
    >>> model = gvae.AutoregressiveDensity("nade:4", epochs=2, random_state=0).fit(X)
    >>> model.score_samples(X).shape, model.sample(3, draw=True).shape
    ((100,), (3, 5))
    """

    model = models.Density


@declared("eonade")
class EoNADE(_ByGradients, eonade.Settings):
    """Density of bits without a code by one network for all orders; scores and draws are those of an ensemble of orders.

    Notes
    -----
    Training maximizes the mean of log p_o(x) over all orders, estimated from one random part of each row. `score_samples`
    is exact for the ensemble, and costs a pass over the network for each bit and order. Source: Uria, Murray and Larochelle
    (2014).

    Examples
    --------
    >>> X = (gvae.random.uniform(gvae.random.key(0), (100, 5)) < 0.3).astype(np.float32)
    >>> model = gvae.EoNADE(hidden=(8,), orders=4, epochs=2, random_state=0).fit(X)
    >>> model.score_samples(X).shape, model.sample(3, draw=True).shape
    ((100,), (3, 5))
    """

    model = models.EoNADE
    fixed: ClassVar[Mapping[str, Any]] = {"observation": "autoregressive"}


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
    SBN,
    DARN,
    AutoregressiveDensity,
    EoNADE,
)
REGISTRY: dict[str, type[Estimator]] = {cls.name: cls for cls in CLASSES}


def estimators() -> dict[str, type[Estimator]]:
    """All estimators by the name of their model, as `gvae train --model NAME` spells it.

    Returns
    -------
    dict of str to class

    Examples
    --------
    >>> gvae.estimators()["map"] is gvae.MAPVAE
    True
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
