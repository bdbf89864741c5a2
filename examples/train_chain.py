"""Train the same VAE with a diagonal and with a chain posterior on 8x8 pictures of bars, and print their bounds."""

import numpy as np

import gvae

rng = np.random.default_rng(0)
rows, columns = rng.random((2, 2000, 8)) < 0.2  # each picture: some full rows and some full columns
images = (rows[:, :, None] | columns[:, None, :]).astype(float)

for posterior in ("diagonal", "chain"):
    model = gvae.VAE(16, posterior, "bernoulli", hidden=(64,), epochs=20, random_state=1)
    model.fit(images[:1800])
    result = model.evaluate(images[1800:], samples=100).summary()
    print(f"{posterior:>9}: ELBO {result['elbo']:.2f}, log p(x) {result['log_likelihood']:.2f} nats per image")
