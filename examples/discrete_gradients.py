"""Gradients of discrete codes: bias and variance of each estimator, exactly, by enumeration.

    python examples/discrete_gradients.py

The model is a sigmoid belief network of four bits with two layers of codes, of two bits and one: eight codes in all. For
each estimator all tuples of K draws are listed with their probabilities, so that the mean and the variance of its gradient
are sums and not estimates. Printed are, for the encoders' parameters, the relative error of the mean and the standard
deviation of one estimate, both as lengths of the vector in units of the gradient's length. Run time: some seconds.
"""

import itertools

import numpy as np

import gvae
from gvae import models
from gvae.data import Batch
from gvae.objectives import ELBO, ImportanceWeighted

LATENT, ONE, ZERO = (2, 1), 1e-12, 1 - 1e-12  # noise that leads to a one, and to a zero
BATCH = Batch({"x": np.array([[1.0, 0.0, 1.0, 1.0]])}, np.arange(1))
CODES = np.array(list(itertools.product((0.0, 1.0), repeat=sum(LATENT))))
ESTIMATORS = {  # name: objective, K, posterior
    "score function, K = 1": (ELBO(), 1, "bernoulli"),
    "score function, K = 2": (ELBO(), 2, "bernoulli"),
    "score function, K = 3": (ELBO(), 3, "bernoulli"),
    "VIMCO, K = 2": (ImportanceWeighted(gradient="vimco"), 2, "bernoulli"),
    "VIMCO, K = 3": (ImportanceWeighted(gradient="vimco"), 3, "bernoulli"),
    "Taylor (DARN), K = 1": (ELBO(), 1, "bernoulli:taylor"),
    "straight through, K = 1": (ELBO(), 1, "bernoulli:straight_through"),
}


def noise_of(codes):
    parts = np.split(np.where(codes > 0, ONE, ZERO), np.cumsum(LATENT)[:-1], axis=-1)
    return {f"z{i + 1}": part[:, None, :] for i, part in enumerate(parts)}


def made(posterior):
    model = models.SBN(4, latent=LATENT, posterior=posterior, dtype=np.float64)
    rng = np.random.default_rng(1)
    return model, {n: v + rng.normal(size=v.shape) for n, v in model.init(gvae.random.key(0)).items()}


def encoders(slopes):
    """The gradient in the encoders' parameters, as one vector."""
    return np.concatenate([v.ravel() for n, v in sorted(slopes.items()) if n.startswith("encoder")])


def exact(bound, K):
    """The gradient of the expected bound of K draws."""
    model, params = made("bernoulli")

    def expected(params):
        terms = model.terms(params, {}, BATCH, noise_of(CODES))
        log_q, log_w = gvae.ops.add(*(layer.log_q for layer in terms.layers))[:, 0], terms.log_weights[:, 0]
        tuples = np.array(list(itertools.product(range(len(CODES)), repeat=K)))
        probability = gvae.ops.exp(gvae.ops.sum(log_q[tuples], axis=1))
        return (probability * bound(log_w[tuples].T)).sum()

    return encoders(gvae.value_and_gradient(expected, params)[1])


def listed(objective, K, posterior):
    """(probability, gradient) of every tuple of K draws."""
    model, params = made(posterior)
    log_q = sum(layer.log_q for layer in model.terms(params, {}, BATCH, noise_of(CODES)).layers)[:, 0]
    for tuple_ in itertools.product(range(len(CODES)), repeat=K):
        noise = noise_of(CODES[list(tuple_)])

        def value(params, noise=noise):
            found = objective(model.terms(params, {}, BATCH, noise, 0))[0]
            return found["encoder1"] if isinstance(found, dict) else found  # VIMCO ascends another value for the encoders

        yield np.exp(log_q[list(tuple_)].sum()), encoders(gvae.value_and_gradient(value, params)[1])


print(f"{'estimator':<26}{'bound':>8}{'bias':>12}{'deviation':>12}")
for name, (objective, K, posterior) in ESTIMATORS.items():
    iwae = isinstance(objective, ImportanceWeighted)
    wanted = exact(gvae.bounds.IWAE if iwae else gvae.bounds.Mean(), K)
    p, slopes = map(np.array, zip(*listed(objective, K, posterior), strict=True))
    mean = p @ slopes
    deviation = np.sqrt((p @ np.square(slopes - mean)).sum())
    size = np.linalg.norm(wanted)
    print(f"{name:<26}{'IWAE' if iwae else 'ELBO':>8}{np.linalg.norm(mean - wanted) / size:>12.1e}{deviation / size:>12.2f}")
