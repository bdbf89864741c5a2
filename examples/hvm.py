"""Hierarchical variational models: a posterior over two bits that agree, and what each family reaches of log p(x).

p(z) is uniform on two bits, and p(x = 1 | z) = sigmoid(4) where they agree, sigmoid(-4) where they do not: given x = 1 both
bits are 1, or both are 0. A product of two independent bits (the mean field) has to choose. A hierarchical variational model
draws the logits of both bits from a flow, so that they depend on each other; its r(lambda | z) is Gaussian, or a flow too.
log p(x) is exactly -log 2. Run time: some seconds.
"""

import argparse

import numpy as np

import gvae
from gvae import models, objectives, optim, training
from gvae.data import Batch, Table
from gvae.distributions import BernoulliDistribution

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=1000)
options = parser.parse_args()

STRENGTH = 4.0
one = Batch({"x": np.ones((1, 1))}, np.arange(1))


class Agreeing(models.HVM):
    """A decoder that is known: z is all there is to infer."""

    pure = True

    def decode(self, params, state, z, noise=None):
        sign = 2 * z["z"] - 1
        return {"x": BernoulliDistribution(STRENGTH * sign[..., :1] * sign[..., 1:])}


def mean_field():
    """The largest bound of independent bits, on a grid of their probabilities."""
    p = np.linspace(0, 1, 2003)[1:-1]
    entropy = -p * np.log(p) - (1 - p) * np.log1p(-p)
    agree = p[:, None] * p + (1 - p[:, None]) * (1 - p)
    likelihood = -agree * np.logaddexp(0, -STRENGTH) - (1 - agree) * np.logaddexp(0, STRENGTH)
    return (likelihood - 2 * np.log(2) + entropy[:, None] + entropy).max()


def trained(**settings):
    """The bound after training, averaged over draws, and its standard error."""
    model = Agreeing(1, latent=2, hidden=(), dtype="float64", **settings)
    params = model.init(gvae.random.key(0))
    params["encoder.0.bias"][2:4] += 1  # wide at the start: a narrow q(lambda) reaches the mean field before correlations
    trainer = training.Trainer(
        model,
        objective=objectives.ELBO(gradient="local"),
        samples=50,
        learning_rate=1e-2,
        schedule=optim.Cosine(options.steps),
        parameters=params,
    )
    training.train(model, Table(one.x), steps=options.steps, batch_size=1, trainer=trainer)
    noise = model.noise(gvae.random.key(1), one, 20_000)
    draws = model.terms(trainer.parameters, {}, one, noise).log_weights
    return draws.mean(), draws.std() / np.sqrt(draws.size)


print(f"{'mean field':<40}{mean_field():>9.4f}")
for r, steps in (("Gaussian r", 0), ("r of 4 planar flows", 4)):
    bound, error = trained(variational_prior="planar:4", recursive_steps=steps)
    print(f"{'4 planar flows, ' + r:<40}{bound:>9.4f} +- {error:.4f}")
print(f"{'log p(x)':<40}{-np.log(2):>9.4f}")
