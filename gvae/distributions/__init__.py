"""Distributions over the last axis of an array: log-density, sampling, KL divergence, entropy, moments. In nats.

Every distribution has leading batch axes and n variables on the last axis. Parameters may have fewer batch axes than the
distribution (a mean per row and one scale for all rows); a result that depends only on those parameters has their batch
axes, and broadcasts. Arguments are plain arrays or Vars. Sampling takes its noise as an argument (`d.noise(key,
sample_shape)` draws it), so that a draw is a differentiable function and can be reproduced.
"""

from gvae.distributions.autoregressive import AutoregressiveBernoulli, NADEDistribution
from gvae.distributions.base import Distribution, Support
from gvae.distributions.counts import PoissonProduct
from gvae.distributions.discrete import (
    BernoulliDistribution,
    CategoricalDistribution,
    NegativeBinomialDistribution,
    PoissonDistribution,
    ZeroInflatedDistribution,
)
from gvae.distributions.flows import InversePlanarGaussian, PlanarGaussian, planar_flow
from gvae.distributions.gamma import GammaDistribution
from gvae.distributions.gaussians import (
    AR1Gaussian,
    BandedGaussian,
    DenseGaussian,
    DiagonalGaussian,
    LowRankGaussian,
)
from gvae.distributions.interval import BetaDistribution, ContinuousBernoulliDistribution, LogitNormal
from gvae.distributions.mixture import GaussianMixture
from gvae.distributions.products import product
from gvae.distributions.rescaled import Rescaled

__all__ = [
    "AR1Gaussian",
    "AutoregressiveBernoulli",
    "BandedGaussian",
    "BernoulliDistribution",
    "BetaDistribution",
    "CategoricalDistribution",
    "ContinuousBernoulliDistribution",
    "DenseGaussian",
    "DiagonalGaussian",
    "Distribution",
    "GammaDistribution",
    "GaussianMixture",
    "InversePlanarGaussian",
    "LogitNormal",
    "LowRankGaussian",
    "NADEDistribution",
    "NegativeBinomialDistribution",
    "PlanarGaussian",
    "PoissonDistribution",
    "PoissonProduct",
    "Rescaled",
    "Support",
    "ZeroInflatedDistribution",
    "planar_flow",
    "product",
]
