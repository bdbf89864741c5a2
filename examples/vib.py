"""The variational information bottleneck as a classifier: what its code keeps of x, and what that is worth.

    python examples/vib.py [--epochs 30]

Made-up data: eight classes, each a cloud around a point of its own in 20 dimensions, so that x says far more than the label.
The higher the price beta of the code's information, the less the code keeps of x, I(Z; X). The error stays the same until
information on the label, I(Z; Y), is lost as well. Run time: some seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=30)
args = parser.parse_args()

rng = np.random.default_rng(0)
y = rng.integers(0, 8, 3000)
x = rng.normal(size=(8, 20))[y] + rng.normal(size=(3000, 20))

print(f"{'beta':>6}{'test error':>12}{'I(Z; X) at most':>18}{'I(Z; Y) at least':>19}")
for beta in (0.001, 0.1, 0.5, 0.9):
    model = gvae.VIB(latent=8, beta=beta, hidden=(32,), epochs=args.epochs, learning_rate=5e-3, schedule="cosine",
                     random_state=0).fit(x[:2000], y[:2000])  # fmt: skip
    found = model.evaluate(x[2000:], y[2000:], samples=10, measures="classification").summary()["classification"]
    print(f"{beta:>6g}{found['error']:>12.1%}{found['i_zx_bits']:>13.2f} bits{found['i_zy_bits']:>14.2f} bits")
