"""The estimators, one for each model: what the field calls it, and the groups of settings that it has."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gvae import models
from gvae.earlier import LACKS, ONE_CLASS
from gvae.errors import ConfigError
from gvae.estimator import sections
from gvae.estimator.base import Classifier, Correlator, Estimator, Regressor
from gvae.estimator.protocol import declared
from gvae.models import (
    cca,
    darn,
    deep_exponential,
    deep_gp,
    denoising,
    density,
    dlgm,
    double_def,
    eonade,
    factor_analysis,
    hierarchical,
    hvm,
    ladder,
    mutual,
    nlfa,
    registry,
    sbn,
    vae,
    vcca,
    vib,
    vlae,
    weights,
)
from gvae.objectives import Correlation
from gvae.panels import Panel
from gvae.settings import Ascent, Length, Machine, Objective, Presentation, Standardized, fields, restated

__all__ = [
    "CCA",
    "DARN",
    "DCCA",
    "DEF",
    "DLGM",
    "HVM",
    "MAPVAE",
    "SBN",
    "VAE",
    "VCCA",
    "VIB",
    "VLAE",
    "Autoencoder",
    "AutoregressiveDensity",
    "BayesianVAE",
    "DeepGP",
    "DenoisingVAE",
    "DoubleDEF",
    "EoNADE",
    "FactorAnalysis",
    "HierarchicalVAE",
    "LadderVAE",
    "LinearVAE",
    "MutualAutoencoder",
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
        The rows of the log: one per epoch or, with epochs="auto", one per evaluation of the validation bound.
    events_ : list of dict
        What happened between the rows, such as a bound that was not finite (see the setting on_nonfinite).
    n_iter_ : int
        The number of steps after which the weights had the values that are kept.
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
        What a saved file holds besides the weights.
    n_features_in_ : int
    feature_names_in_ : array of str
        The column names of a DataFrame.

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

    def report_sections(self, X: Any, y: Any = None) -> dict[str, list[Panel]]:
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

    In place of a bound it reports the reconstruction term, which is not a bound.

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

    def report_sections(self, X: Any, y: Any = None) -> dict[str, list[Panel]]:
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

    def report_sections(self, X: Any, y: Any = None) -> dict[str, list[Panel]]:
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


@declared("ladder")
class LadderVAE(_ByGradients, ladder.Settings):
    """Ladder variational autoencoder: layers of codes, inferred from the top down, each merging the data with its prior.

    `transform` returns the means of the layer next to the data, given those of the layers above.

    Notes
    -----
    Batch normalisation is on, and rows are scored by the moments of the training rows. Train with `warmup`, as the paper
    does, or the upper layers are not used. Source: Sønderby, Raiko, Maaløe, Sønderby and Winther (2016).

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.LadderVAE(latent=(2, 1), hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> {name: z.shape for name, z in model.codes(X).items()}
    {'z1': (100, 2), 'z2': (100, 1)}
    """

    model = models.Ladder


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


class _OfCounts(Estimator, Machine, Ascent, Length, Objective):
    """Deep exponential families, whose units are described by the columns that occur under them."""

    def top_words(self, n: int = 8) -> dict[str, np.ndarray]:
        """The columns of largest weight of each unit, in the order of their weights.

        Parameters
        ----------
        n : int, default 8
            Columns of each unit; all where there are fewer.

        Returns
        -------
        dict of str to array
            "z1", "z2", .. (units, n), of the layer next to the data first: column names where the data had any, else column
            indices, counted from 0.

        Raises
        ------
        ConfigError
            Not fitted yet, or n is not a positive integer.

        Notes
        -----
        The weights are those of W_0 for the first layer, W_0 W_1 for the second, and so on, at the mean of their posterior.

        Examples
        --------
        >>> x = np.kron(np.eye(2), np.ones((50, 3))) * 3.0  # two sets of columns that occur together
        >>> model = gvae.DEF(latent=(2,), epochs=60, random_state=0).fit(x)
        >>> sorted(sorted(unit) for unit in model.top_words(3)["z1"].tolist())
        [[0, 1, 2], [3, 4, 5]]
        """
        self._check_fitted()
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
            raise ConfigError(f"top_words: n is {n!r}, expected a whole number of at least 1")
        names = sections.names_of_columns(self)
        words = np.arange(self.n_features_in_) if names is None else np.array(names)
        weights = self.model_.loadings(self.parameters_)
        return {layer: words[np.argsort(-w, axis=0, kind="stable")[:n].T] for layer, w in weights.items()}

    def report_sections(self, X: Any, y: Any = None) -> dict[str, list[Panel]]:
        return sections.units(self, X)


@declared("def")
class DEF(_OfCounts, deep_exponential.Settings):
    """Deep exponential family: counts explained by layers of gamma variables, bits or counts, and weights with a posterior.

    X are counts: whole numbers, dense or sparse; sparse ones are never made dense. `transform` returns the means of the
    layer next to the data. Rows have posteriors of their own, which are inferred for other data by gradient steps; with
    `amortized=True` an encoder infers them.

    Notes
    -----
    The bound of training steps includes each row's share of the KL of the weights' posterior. Source: Ranganath, Tang,
    Charlin and Blei (2015).

    Examples
    --------
    >>> X = gvae.ops.poisson_draw(np.zeros((100, 5)), gvae.random.uniform(gvae.random.key(0), (100, 5), np.float64))
    >>> model = gvae.DEF(latent=(3, 2), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape, model.sample(4).shape
    ((100, 3), (4, 5))
    """

    model = models.DEF
    fixed: ClassVar[Mapping[str, Any]] = {"observation": "poisson"}
    learning_rate: float = restated(Ascent, "learning_rate", default=5e-2)
    gradient: str = restated(Objective, "gradient", default="local")
    dtype: str = restated(Machine, "dtype", default="float64")


@declared("double_def")
class DoubleDEF(_OfCounts, double_def.Settings):
    """Double deep exponential family: the cells of a matrix of counts, explained by codes of its rows and of its columns.

    X are counts, dense or sparse. `transform` returns the means of the rows' layer next to the data; rows of other data are
    inferred, columns are those of the fit.

    Notes
    -----
    Source: Ranganath, Tang, Charlin and Blei (2015), section 5.

    Examples
    --------
    >>> X = gvae.ops.poisson_draw(np.zeros((100, 5)), gvae.random.uniform(gvae.random.key(0), (100, 5), np.float64))
    >>> model = gvae.DoubleDEF(latent=(3, 2), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 3)
    """

    model = models.DoubleDEF
    fixed: ClassVar[Mapping[str, Any]] = {"observation": "poisson"}
    learning_rate: float = restated(Ascent, "learning_rate", default=5e-2)
    gradient: str = restated(Objective, "gradient", default="local")
    dtype: str = restated(Machine, "dtype", default="float64")


@declared("hvm")
class HVM(_ByGradients, hvm.Settings):
    """VAE with a hierarchical variational model as posterior: codes, discrete ones too, that depend on each other.

    `transform` returns the means of the codes at the centre of the distribution of their parameters.

    Notes
    -----
    Source: Ranganath, Tran and Blei (2016).

    Examples
    --------
    >>> X = (gvae.random.uniform(gvae.random.key(0), (100, 5)) < 0.3).astype(np.float32)
    >>> model = gvae.HVM(latent=3, variational_prior="planar:2", hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> model.transform(X).shape
    (100, 3)
    """

    model = models.HVM
    gradient: str = restated(Objective, "gradient", default="local")


@declared("vcca")
class VCCA(_ByGradients, vcca.Settings):
    """Variational canonical correlation analysis: a code that explains two views, inferred from the first.

    `fit(X1, X2)` takes the second view where others take y. `transform(X1)` returns the means of the code that the views
    share, `codes(X1, X2)` those of private codes as well, "h_x" and "h_y"; `reconstruct`, `inverse_transform` and `sample`
    return a dict by view, "x" and "y".

    Notes
    -----
    `inverse_transform` takes the shared code, and private ones at the mean of their prior. With reads="both" the code needs
    both views. Source: Wang, Yan, Lee and Livescu (2016).

    Examples
    --------
    >>> X1 = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> X2 = X1[:, :3] + gvae.random.normal(gvae.random.key(1), (100, 3), np.float64)
    >>> model = gvae.VCCA(latent=2, private=(1, 1), hidden=(8,), epochs=2, random_state=0).fit(X1, X2)
    >>> model.transform(X1).shape, {name: z.shape for name, z in model.codes(X1, X2).items()}
    ((100, 2), {'z': (100, 2), 'h_x': (100, 1), 'h_y': (100, 1)})
    """

    model = models.VCCA


@declared("mutual")
class MutualAutoencoder(_ByGradients, mutual.Settings):
    """Mutual autoencoder: a VAE whose model is held to a chosen mutual information of code and data.

    Attributes
    ----------
    history_ : list of dict
        With "train_information", the bound on the mutual information in nats, and "train_objective", what is ascended.

    Notes
    -----
    The recogniser, which estimates the information, takes five separate steps before each step of the others, on draws of
    its own (alone="recogniser=5"); with alone=None both move at once. For decoders whose draws are not differentiable the
    derivative of the information is by the score function; "bernoulli:straight_through" or "autoregressive:taylor" give
    them a surrogate derivative.
    Source: Phuong, Welling, Kushman, Tomioka and Nowozin (2018).

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.MutualAutoencoder(latent=2, nats=1.0, hidden=(8,), epochs=2, random_state=0).fit(X)
    >>> "train_information" in model.history_[-1]
    True
    """

    model = models.Mutual
    alone: str | None = restated(Ascent, "alone", default="recogniser=5")

    def report_sections(self, X: Any, y: Any = None) -> dict[str, list[Panel]]:
        return sections.information(self)


@declared("deep_gp")
class DeepGP(Regressor, Machine, Ascent, Length, Standardized, deep_gp.Settings):
    """Deep Gaussian process: a regression of y on x, or a code of x, through layers of Gaussian processes.

    `fit(X, y)` is a regression, with `predict(X, return_std=True)`; latent=() is a sparse Gaussian process. With
    unsupervised=True, `fit(X)` explains X by a code: a Gaussian process latent variable model where latent is one layer.
    `transform` returns the means of the hidden layer next to the data.

    Attributes
    ----------
    embedding_ : array (N, latent[0])
        See below.

    Notes
    -----
    The bounds collapsed and explicit take all rows in each step of L-BFGS, or batches with another optimizer (explicit:
    optimizer="adam", batch_size=100); bound="sampled" draws through the layers. Sources: Damianou and Lawrence (2013); Dai,
    Damianou, González and Lawrence (2016); Salimbeni and Deisenroth (2017).

    Examples
    --------
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> model = gvae.DeepGP(latent=(1,), inducing=10, epochs=3, random_state=0).fit(X, np.sign(X[:, 0]))
    >>> mean, deviation = model.predict(X[:3], return_std=True)
    >>> mean.round(1), bool((deviation < 0.2).all())
    (array([-1., -1., -1.]), True)
    """

    model = models.DeepGP
    batch_size: int | None = restated(Ascent, "batch_size", default=None)
    optimizer: str = restated(Ascent, "optimizer", default="lbfgs:50")
    epochs: int | str = restated(Length, "epochs", default=10)
    dtype: str = restated(Machine, "dtype", default="float64")
    samples: int = restated(
        Objective, "samples", default=1, help="draws of the layers per row and step of the sampled bound"
    )

    @property
    def embedding_(self) -> np.ndarray:
        """The codes of the training rows in the layer next to the data.

        Returns
        -------
        array (N, latent[0])

        Raises
        ------
        ConfigError
            Not fitted yet, or rows have no codes of their own.

        Examples
        --------
        >>> X = gvae.random.normal(gvae.random.key(0), (20, 5), np.float64)
        >>> gvae.DeepGP(latent=(2,), unsupervised=True, epochs=2, random_state=0).fit(X).embedding_.shape
        (20, 2)
        """
        self._check_fitted()
        if "rows.z1" not in self.state_:
            raise ConfigError("DeepGP.embedding_: rows have no codes of their own; see transform")
        return np.asarray(self.state_["rows.z1"])


@declared("cca")
class CCA(Correlator, Machine, Standardized, cca.Settings):
    """Canonical correlation analysis of two views, in closed form: pairs of linear functions with the largest correlations.

    `fit(X1, X2)` takes the second view where others take y. `transform(X1)` returns the canonical variables of the first
    view, `codes(X1, X2)` those of both, "z_x" and "z_y", and `score(X1, X2)` is the sum of their correlations. There is no
    model of the data, hence no `score_samples`, `sample` or `reconstruct`, and no sample weights.

    Notes
    -----
    `parameters_` has the means and projections of both views, in standardized units unless standardize=False. With ridge=0
    the canonical variables have unit variance, and do not change if a view is mapped affinely. Source: Hotelling (1936).

    Examples
    --------
    >>> X1 = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> X2 = X1[:, :3] + gvae.random.normal(gvae.random.key(1), (100, 3), np.float64)
    >>> model = gvae.CCA(latent=2).fit(X1, X2)
    >>> model.transform(X1).shape, round(model.score(X1, X2), 2)
    ((100, 2), 1.45)
    """

    model = models.CCA
    fixed: ClassVar[Mapping[str, Any]] = {
        "objective": Correlation(),
        "batch_size": None,
        "epochs": 1,
        "steps": None,
        "patience": None,
    }
    dtype: str = restated(Machine, "dtype", default="float64")


@declared("dcca")
class DCCA(Correlator, Machine, Ascent, Length, Standardized, cca.DeepSettings):
    """Deep canonical correlation analysis: networks of two views whose outputs have the largest canonical correlations.

    `fit(X1, X2)` takes the second view where others take y. `transform(X1)` returns the canonical variables of the first
    network's outputs, `codes(X1, X2)` those of both, "z_x" and "z_y", and `score(X1, X2)` is the sum of their correlations.
    There is no model of the data, hence no `score_samples`, `sample` or `reconstruct`, and no sample weights.

    Notes
    -----
    A step maximizes the correlation of its batch, which is not a mean over rows: batches need more than 2 latent rows,
    and several hundred to be useful. A last batch of fewer rows is left out. What the log calls a bound is the sum of
    correlations. Source: Andrew, Arora, Bilmes and Livescu (2013).

    Examples
    --------
    >>> X1 = gvae.random.normal(gvae.random.key(0), (300, 5))
    >>> X2 = np.abs(X1) + 0.1 * gvae.random.normal(gvae.random.key(1), (300, 5))
    >>> model = gvae.DCCA(latent=2, hidden=(16,), epochs=5, random_state=0).fit(X1, X2)
    >>> model.transform(X1).shape, {name: z.shape for name, z in model.codes(X1, X2).items()}
    ((300, 2), {'z_x': (300, 2), 'z_y': (300, 2)})
    """

    model = models.DCCA
    fixed: ClassVar[Mapping[str, Any]] = {"objective": Correlation()}
    batch_size: int | None = restated(Ascent, "batch_size", default=1000)


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
    LadderVAE,
    VLAE,
    SBN,
    DARN,
    AutoregressiveDensity,
    EoNADE,
    DEF,
    DoubleDEF,
    HVM,
    VCCA,
    MutualAutoencoder,
    CCA,
    DCCA,
    DeepGP,
)
REGISTRY: dict[str, type[Estimator]] = {cls.name: cls for cls in CLASSES}
KINDS = (Estimator, Classifier, Regressor, Correlator)


def _estimator_of(name: str, entry: registry.Entry) -> type[Estimator]:
    """The estimator of a model that is registered in its own file."""
    (kind,) = (kind for kind in KINDS if kind.__name__ == entry.kind)
    bases = (kind, Machine, Ascent, Length, Objective, Presentation, entry.cls.Settings)
    head = re.split(r"^\w.*\n-{3,}$", inspect.cleandoc(entry.cls.__doc__), maxsplit=1, flags=re.MULTILINE)[0].rstrip()
    about = f"{head}\n\nExamples\n--------\n>>> gvae.{entry.estimator}()\n{entry.estimator}()\n"
    return declared(name)(type(entry.estimator, bases, {"__doc__": about, "__module__": __name__, "model": entry.cls}))


for _name, _entry in registry.MODELS.items():
    REGISTRY[_name] = globals()[_entry.estimator] = _estimator_of(_name, _entry)
    __all__ += [_entry.estimator]


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
