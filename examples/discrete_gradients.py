"""Gradients of discrete codes: bias and variance of each estimator, exactly, by enumeration.

    python examples/discrete_gradients.py

The model is a sigmoid belief network of four bits with two layers of codes, of two bits and one. For each estimator all
tuples of K draws are listed with their probabilities, so that the mean and the variance of its gradient are sums and not
estimates. DisARM's draws come in pairs, one for each layer. For the encoders' parameters, the script prints the
relative error of the mean and the standard deviation of one estimate, both as norms relative to the gradient's norm. Run
time: some seconds.
"""

import itertools

import numpy as np

import gvae
from gvae import models
from gvae.data import Batch
from gvae.objectives import ELBO, ImportanceWeighted

LATENT = (2, 1)
BATCH = Batch({"x": np.array([[1.0, 0.0, 1.0, 1.0]])}, np.arange(1))
LOCAL, VIMCO = ELBO(gradient="local"), ImportanceWeighted(gradient="vimco")


def made(posterior="bernoulli"):
    model = models.SBN(4, latent=LATENT, posterior=posterior, dtype=np.float64)
    rng = np.random.default_rng(1)
    return model, {n: v + rng.normal(size=v.shape) for n, v in model.init(gvae.random.key(0)).items()}


def cells(*probabilities):
    """(size, u) of the cells of [0, 1)^n in which the draws u < p and 1 - u < p of bits are alike."""
    p = np.array(probabilities)
    edges = [np.unique([0, *each, *(1 - each), 1]) for each in p.T]
    for cell in itertools.product(*(itertools.pairwise(e) for e in edges)):
        yield np.prod([b - a for a, b in cell]), np.array([(a + b) / 2 for a, b in cell])


def probabilities(layer, below):
    model, params = made()
    return 1 / (1 + np.exp(-model.encoders[layer](params, below).logits))


P = probabilities(0, BATCH.x[0])


def singles():
    """(probability, noise of the first layer, of the second) of every draw."""
    for size, u in cells(P):
        yield from ((size * more, (u,), (v,)) for more, v in cells(probabilities(1, (u < P).astype(float))))


def pairs():
    """(probability, noise of the first layer, of the second) of every two pairs of draws: u and 1 - u in the first layer,
    and in the second."""
    one, two = [], []
    for size, u in cells(P):
        p, q = (probabilities(1, (n < P).astype(float)) for n in (u, 1 - u))
        one += [(size * more, (u, 1 - u), (v, v)) for more, v in cells(p, q)]
        two += [(size * more, (u, u), (v, 1 - v)) for more, v in cells(p)]
    for (a, u, v), (b, s, t) in itertools.product(one, two):
        yield a * b, u + s, v + t


def tuples(K):
    """Every K-tuple of independent draws."""
    merged = {}
    for size, (u,), (v,) in singles():  # cells that give the same draw count as one
        key = tuple(u < P), tuple(v < probabilities(1, (u < P).astype(float)))
        merged[key] = merged.get(key, (0.0,))[0] + size, (u,), (v,)
    for chosen in itertools.product(merged.values(), repeat=K):
        yield np.prod([c[0] for c in chosen]), sum((c[1] for c in chosen), ()), sum((c[2] for c in chosen), ())


ESTIMATORS = {  # name: objective, its bound, the draws, posterior
    "score function, K = 1": (ELBO(), tuples(1), "bernoulli"),
    "score function, K = 2": (ELBO(), tuples(2), "bernoulli"),
    "score function, K = 3": (ELBO(), tuples(3), "bernoulli"),
    "local, K = 2": (LOCAL, tuples(2), "bernoulli"),
    "local, K = 3": (LOCAL, tuples(3), "bernoulli"),
    "DisARM, K = 4 (2 pairs)": (ELBO(gradient="disarm"), pairs(), "bernoulli"),
    "VIMCO, K = 2": (VIMCO, tuples(2), "bernoulli"),
    "VIMCO, K = 3": (VIMCO, tuples(3), "bernoulli"),
    "Taylor (DARN), K = 1": (ELBO(), tuples(1), "bernoulli:taylor"),
    "straight through, K = 1": (ELBO(), tuples(1), "bernoulli:straight_through"),
}


def encoders(slopes):
    """The gradient in the encoders' parameters, as one vector."""
    return np.concatenate([v.ravel() for n, v in sorted(slopes.items()) if n.startswith("encoder")])


def noise_of(u, v):
    return {"z1": np.array(u)[:, None], "z2": np.array(v)[:, None]}


def exact(bound, K):
    """The gradient of the expected bound of K draws."""
    model, params = made()
    draws = list(tuples(1))
    noise = noise_of(*(sum((each[i] for each in draws), ()) for i in (1, 2)))

    def expected(params):
        terms = model.terms(params, {}, BATCH, noise)
        log_q, log_w = gvae.ops.add(*(layer.log_q for layer in terms.layers))[:, 0], terms.log_weights[:, 0]
        chosen = np.array(list(itertools.product(range(len(draws)), repeat=K)))
        probability = gvae.ops.exp(gvae.ops.sum(log_q[chosen], axis=1))
        return (probability * bound(log_w[chosen].T)).sum()

    return encoders(gvae.value_and_gradient(expected, params)[1])


def estimate(objective, posterior, u, v):
    """The gradient of the encoders that training takes with these draws."""
    model, params = made(posterior)

    def value(params):
        found = objective(model.terms(params, {}, BATCH, noise_of(u, v), 0))[0]
        return found["encoder1"] if isinstance(found, dict) else found  # VIMCO ascends another value for the encoders

    return encoders(gvae.value_and_gradient(value, params)[1])


print(f"{'estimator':<26}{'bound':>8}{'bias':>12}{'deviation':>12}")
for name, (objective, draws, posterior) in ESTIMATORS.items():
    listed = [(p, len(u), estimate(objective, posterior, u, v)) for p, u, v in draws]
    p, slopes = np.array([each[0] for each in listed]), np.array([each[2] for each in listed])
    iwae = objective is VIMCO
    wanted = exact(gvae.bounds.IWAE, listed[0][1]) if iwae else exact(gvae.bounds.Mean(), 1)
    mean = p @ slopes
    deviation = np.sqrt((p @ np.square(slopes - mean)).sum())
    size = np.linalg.norm(wanted)
    print(f"{name:<26}{'IWAE' if iwae else 'ELBO':>8}{np.linalg.norm(mean - wanted) / size:>12.1e}{deviation / size:>12.2f}")
