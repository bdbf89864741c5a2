"""Distributions over the last axis of an array: log_prob, sample, kl, entropy, moments. In nats.

Every distribution has batch axes, which lead, and n variables. Parameters may have fewer batch axes than the whole (a mean
per row beside one scale for all); what depends on those alone has their batch axes, and broadcasts. Arguments are plain
arrays or Vars. Sampling takes its noise as an argument (`d.noise(key, sample_shape)` draws it), so a sample is a
differentiable function and a test can repeat it.
"""

from gvae.distributions.base import Distribution, Support
from gvae.distributions.discrete import (
    BernoulliDistribution,
    CategoricalDistribution,
    NegativeBinomialDistribution,
    PoissonDistribution,
    ZeroInflatedDistribution,
)
from gvae.distributions.gaussians import (
    AR1Gaussian,
    BandedGaussian,
    DenseGaussian,
    DiagonalGaussian,
    LowRankGaussian,
)
from gvae.distributions.interval import BetaDistribution, ContinuousBernoulliDistribution, LogitNormal
from gvae.distributions.mixture import GaussianMixture
from gvae.distributions.rescaled import Rescaled

__all__ = [
    "AR1Gaussian",
    "BandedGaussian",
    "BernoulliDistribution",
    "BetaDistribution",
    "CategoricalDistribution",
    "ContinuousBernoulliDistribution",
    "DenseGaussian",
    "DiagonalGaussian",
    "Distribution",
    "GaussianMixture",
    "LogitNormal",
    "LowRankGaussian",
    "NegativeBinomialDistribution",
    "PoissonDistribution",
    "Rescaled",
    "Support",
    "ZeroInflatedDistribution",
]
