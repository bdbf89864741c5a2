"""A deep latent Gaussian model: noise at two layers, inferred by posteriors of three kinds; and two ways to their gradients.

The data are linear in three codes. A decoder that is learned turns them such that independent variables are as good a
posterior as correlated ones, and the upper layer, which only shapes the prior, is left unused: its KL is 0. The gradient by
second derivatives (gradient="hessian") has the same mean as the pathwise one, and less variance. Run time: some seconds.
"""

import argparse

import numpy as np

import gvae
from gvae import objectives, random
from gvae.data import Batch

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=40)
epochs = parser.parse_args().epochs

rng = np.random.default_rng(0)
z = rng.normal(size=(1500, 3))
x = z @ (np.ones((3, 12)) + 0.3 * rng.normal(size=(3, 12))) + 0.5 * rng.normal(size=(1500, 12))
train, test = x[:1200], x[1200:]

print(f"{'posterior':<12}{'test ELBO':>12}{'log p(x)':>12}{'KL of each layer':>24}")
for posterior in ("diagonal", "lowrank:1", "full"):
    model = gvae.DLGM(latent=(3, 2), posterior=posterior, hidden=(20,), epochs=epochs, learning_rate=5e-3, random_state=0)
    found = model.fit(train).evaluate(test, samples=200).summary()
    paid = "  ".join(f"{q.kl().mean():.2f}" for q in model.posterior_of(test).values())
    print(f"{posterior:<12}{found['elbo']:>12.2f}{found['log_likelihood']:>12.2f}{paid:>24}")

# both routes, of one datum's q, 2,000 draws: the standard deviation of a draw's gradient, mean over q's numbers
deep = (
    gvae.DLGM(latent=(3, 2), posterior="diagonal", hidden=(20,), epochs=2, dtype="float64", random_state=0).fit(train).model_
)
params = deep.init(random.key(0))
batch = Batch({"x": np.tile(test[:1], (2000, 1))}, np.arange(2000))
noise, raw = deep.noise(random.key(1), batch), deep.raw(params, {}, batch)
print(f"\n{'gradient':<18}{'mean size':>12}{'deviation of a draw':>22}")
for gradient in ("reparameterized", "hessian"):
    objective = objectives.parse("elbo", gradient=gradient)
    slopes = gvae.gradient(lambda r, o=objective: 2000 * o(deep.terms(params | r, {}, batch, noise, 0))[0], raw)
    each = np.concatenate(list(slopes.values()), axis=1)
    print(f"{gradient:<18}{np.abs(each.mean(axis=0)).mean():>12.3f}{each.std(axis=0).mean():>22.3f}")
