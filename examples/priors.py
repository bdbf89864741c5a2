"""Structured priors and posteriors: codes that wander, seen through N(0, I), AR(1), a random walk and a mixture.

The data are slow paths, so that a code's neighbours are alike. Run time: some seconds.
"""

import numpy as np

import gvae

rng = np.random.default_rng(0)
paths = 0.6 * np.cumsum(rng.normal(size=(1500, 8)), axis=1)
x = np.repeat(paths, 2, axis=1) + 0.3 * rng.normal(size=(1500, 16))
print(f"{'prior':<14}{'posterior':<12}{'held-out log p(x)':>18}   KL")
for prior in (None, "ar1", "random_walk", "mixture:5"):
    for posterior in ("diagonal", "ar1"):
        model = gvae.VAE(latent=8, posterior=posterior, prior=prior, observation="gaussian", hidden=(), epochs=25,
                         learning_rate=1e-2, random_state=0).fit(x[:1300])  # fmt: skip
        kl = "closed form" if model.model_.has_closed_kl else "by sampling (estimator A)"
        print(f"{prior or 'N(0, I)':<14}{posterior:<12}{model.score(x[1300:]):>18.2f}   {kl}")
