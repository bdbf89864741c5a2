"""Two failures of the ELBO, and InfoVAE in comparison: a divergence of the codes' marginal q(z) from N(0, I), by MMD.

Two points, -1 and 1, and a Gaussian decoder that learns its noise. As the noise falls the ELBO rises without limit, and the
codes become two spikes: q(z) leaves the prior, and q(z|x) the posterior. MMD holds q(z) near the prior.

Bits that a decoder without a code explains, each by those before it. The ELBO pays for the information of a code, and gets
none; with alpha = 1 it is free, and the decoder uses it.

alpha = 0 and lambda = 1 is the ELBO. Run time: some seconds.
"""

import numpy as np

import gvae

rng = np.random.default_rng(0)
points = np.tile([[-1.0], [1.0]], (100, 1))
start, flips = rng.integers(2, size=(2000, 1)), rng.random((2000, 8)) < 0.1
bits = ((start + np.cumsum(flips, axis=1)) % 2).astype(float)
COMMON = {"posterior": "diagonal", "random_state": 0}
EPOCHS = (200, 400, 800)

print(f"two points{'':<18}" + "".join(f"{f'ELBO, {n}':>11}" for n in EPOCHS) + f"{'KL':>9}{'MMD^2':>9}")
for objective in ("info:alpha=0,lambda=1", "info:alpha=1,lambda=100"):
    model = gvae.VAE(latent=1, observation="gaussian", hidden=(16,), epochs=EPOCHS[-1], batch_size=50, learning_rate=1e-2,
                     objective=objective, **COMMON).fit(points)  # fmt: skip
    found = model.evaluate(points, samples=10, measures="mmd").summary()
    bounds = [row["train_bound"] for row in model.history_]
    along = "".join(f"{np.median(bounds[n - 50 : n]):>11.2f}" for n in EPOCHS)
    print(f"  {objective:<26}{along}{found['kl']:>9.2f}{found['mmd']['mmd_squared']:>9.3f}")

print(f"\neight bits{'':<18}{'ELBO':>11}{'KL':>11}{'I(z; x)':>11}{'':>9}{'MMD^2':>9}")
for objective in ("info:alpha=0,lambda=1", "info:alpha=1,lambda=100"):
    model = gvae.VAE(latent=2, observation="autoregressive", hidden=(8,), epochs=100, learning_rate=3e-2,
                     objective=objective, **COMMON).fit(bits[:1500])  # fmt: skip
    found = model.evaluate(bits[1500:], samples=10, measures=["surgery", "mmd"]).summary()
    figures = (found["elbo"], found["kl"], found["surgery"]["mutual_information"])
    print(f"  {objective:<26}" + "".join(f"{x:>11.2f}" for x in figures) + f"{'':>9}{found['mmd']['mmd_squared']:>9.3f}")
