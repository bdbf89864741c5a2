"""Observation models for data that are not black and white images: counts, shares, classes. Run time: some seconds.

Held-out log p(x) is comparable between families with the same support, and not across supports.
"""

import numpy as np

import gvae

rng = np.random.default_rng(0)
z = rng.normal(size=(1200, 2))
level = np.exp(0.7 * z @ rng.normal(size=(2, 20)) + 0.5)
share = 1 / (1 + np.exp(-(z @ rng.normal(size=(2, 20)))))
data = {
    "counts, overdispersed": (rng.poisson(level * rng.gamma(2, 0.5, size=level.shape)), ("poisson", "negative_binomial")),
    "shares in (0, 1)": (
        rng.beta(8 * share, 8 * (1 - share)).clip(1e-6, 1 - 1e-6),
        ("continuous_bernoulli", "beta", "logit"),
    ),
    "classes 0 .. 3": (rng.binomial(3, share), ("categorical:4", "poisson")),
    "real numbers": (z @ rng.normal(size=(2, 20)) + rng.normal(size=(1200, 20)), ("diagonal", "gaussian")),
}
print(f"{'data':<24}{'observation':<22}{'held-out log p(x)':>18}")
for name, (x, observations) in data.items():
    for observation in observations:
        model = gvae.VAE(latent=2, posterior="chain", observation=observation, hidden=(30,), epochs=30, learning_rate=3e-3,
                         random_state=0).fit(x[:1000])  # fmt: skip
        print(f"{name:<24}{observation:<22}{model.score(x[1000:]):>18.2f}")
