"""An estimator for each model: VAE, MAP, full variational Bayes, denoising, autoencoder, linear, a posterior per
datum. Run time: some seconds."""

import numpy as np

import gvae

rng = np.random.default_rng(0)
prototypes = rng.integers(0, 2, size=(6, 30))
x = (prototypes[rng.integers(0, 6, 1200)] ^ (rng.uniform(size=(1200, 30)) < 0.08)).astype(np.float64)
train, test = x[:1000], x[1000:]

print(f"{'model':<14}{'test ELBO':>12}{'log p(x)':>12}")
settings = {"latent": 4, "posterior": "diagonal", "observation": "bernoulli", "epochs": 40, "learning_rate": 3e-3}
for name in ("vae", "map", "bayes", "denoising", "autoencoder", "linear", "nlfa"):
    layers = {} if name == "linear" else {"hidden": (50,)}
    model = gvae.estimators()[name](**settings, **layers, random_state=0).fit(train)
    summary = model.evaluate(test, samples=200).summary()
    note = "   (its reconstruction term, which is not a bound)" if name == "autoencoder" else ""
    print(f"{name:<14}{summary['elbo']:>12.2f}{summary['log_likelihood']:>12.2f}{note}")
