"""Rate and distortion of a linear VAE: the rate at a given price, elbo:beta=.., or held at a target, elbo:rate=..

    python examples/rate_distortion.py [--epochs 50]

Made-up data, x = W z + noise, whose entropy H is known. No code has a distortion below H - R; with the ELBO, whose price is
1, a linear VAE gets there. At a higher price the rate falls, and the distortion rises faster than H - R does. A rate above
the ELBO's own is reached; one below needs a weight above 1: without, training reports at its end that the target is missed.
Run time: some seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=50)
args = parser.parse_args()

rng = np.random.default_rng(0)
W = rng.normal(size=(8, 3))
x = rng.normal(size=(3000, 3)) @ W.T + 0.5 * rng.normal(size=(3000, 8))
H = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * (W @ W.T + 0.25 * np.eye(8)))[1]

print(f"{'objective':<24}{'rate R':>8}{'distortion':>12}{'H - R':>8}")
for objective in ("elbo", "elbo:beta=2", "elbo:beta=4", "elbo:rate=5", "elbo:rate=2", "elbo:rate=2,weight=4"):
    model = gvae.LinearVAE(latent=3, observation="gaussian", objective=objective, epochs=args.epochs, batch_size=250,
                           learning_rate=5e-2, schedule="cosine", random_state=0).fit(x[:2000])  # fmt: skip
    found = model.evaluate(x[2000:], samples=20).summary()
    print(f"{objective:<24}{found['kl']:>8.2f}{found['distortion']:>12.2f}{H - found['kl']:>8.2f}")
