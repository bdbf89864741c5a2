"""Factor analysis by exact EM, its linear VAE, and what an encoder of a non-linear model costs. Run time: some seconds."""

import numpy as np

import gvae
from gvae import evaluation, models
from gvae.data import Table

rng = np.random.default_rng(0)
W, b = rng.normal(size=(10, 3)), rng.normal(size=10)
x = rng.normal(size=(1000, 3)) @ W.T + b + 0.5 * rng.normal(size=(1000, 10))

fa = models.FactorAnalysis.fit(x, 3)
print(f"factor analysis by EM       log p(x) {fa.log_prob(x).mean():8.3f} nats per row, {len(fa.history)} iterations")
by_name = gvae.FactorAnalysis(latent=3, epochs=len(fa.history), dtype="float64", random_state=0).fit(x)
print(f"EM, as gvae train does      log p(x) {by_name.score(x):8.3f}   (transform, sample, save, run folders: as any model)")
vae, params = fa.as_vae()
result = gvae.evaluate(vae, params, Table(x), samples=10)
print(
    f"the same as a linear VAE    log p(x) {result.log_likelihood.mean():8.3f}   (exact posterior: every draw gives log p)"
)
vae, params = fa.as_vae("diagonal")
result = gvae.evaluate(vae, params, Table(x), samples=200)
gap = f"gap {fa.log_prob(x).mean() - result.elbo.mean():.3f}, by the formula {fa.mean_field_gap():.3f}"
print(f"  ... diagonal posterior        ELBO {result.elbo.mean():8.3f}   ({gap})")

curved = np.tanh(x[:, :5] * 0.8) + 0.1 * rng.normal(size=(1000, 5))
vae = models.VAE(5, 2, "diagonal", "gaussian", (20,), dtype=np.float64)
trainer, _ = gvae.train(vae, Table(curved), epochs=40, learning_rate=5e-3)
few = evaluation.Subject(vae, trainer.parameters, Table(curved[:100]))
gaps = evaluation.inference_gaps(few, samples=300, steps=200)
parts = f"{gaps.approximation.mean():.3f} approximation + {gaps.amortization.mean():.3f} amortization"
print(f"amortized, curved data          ELBO {gaps.elbo.mean():8.3f}   below log p(x) by {parts}")

settings = {"latent": 2, "hidden": (20,), "posterior": "diagonal", "dtype": "float64", "epochs": 40, "random_state": 0}
free = gvae.NonlinearFactorAnalysis(**settings, learning_rate=5e-3).fit(curved[100:])
held = free.evaluate(curved[:100], samples=300).summary()
print(f"a posterior per datum (EM)      ELBO {held['elbo']:8.3f}   of new rows, inferred afresh")
