"""Deep latent Gaussian models on the fixed binarization of MNIST, after Rezende, Mohamed and Wierstra (2014).

python examples/reproduce/dlgm.py                       the table as it stands
python examples/reproduce/dlgm.py rank1-0 diagonal-0    train, or continue, and measure rows; "all" for all
"""

from __future__ import annotations

import sys

from tables import Row, Table, main

PUBLISHED = {"rank1": (-86.60, None), "diagonal": (-87.30, None)}
POSTERIORS = {"rank1": "lowrank:1", "diagonal": "diagonal"}
SETTINGS = {
    "latent": (64, 32),
    "observation": "bernoulli",
    "hidden": (200, 200),
    "corruption": "flipping",
    "levels": (0.05, 0.02),
    "anneal": 25_000,
    "kappa": 1.0,
    "output_bias": "data",
    "epochs": 100,
    "batch_size": 100,
    "learning_rate": 2e-3,
    "schedule": "cosine",
}

TABLE = Table(
    "dlgm",
    "DLGM: noise at two layers, on the fixed binarization of MNIST",
    "binarized_mnist",
    tuple(
        Row(
            f"{name}-{seed}",
            SETTINGS | {"posterior": posterior, "random_state": seed},
            PUBLISHED[name],
            "dlgm",
            against=None if name == "diagonal" else f"diagonal-{seed}",
        )
        for seed in range(3)
        for name, posterior in POSTERIORS.items()
    ),
    "Layers of 64 and 32 variables, two hidden layers of 200 ELU units each, Adam at 2e-3 down to 0 along half a cosine, "
    "batches of 100, 100 epochs on 50,000 images whose bits are flipped for the encoders with probability 0.05, which falls "
    "to 0.02 over 25,000 steps, N(0, I) on the generative weights, output biases at the pixels' log-odds. In the paper rank "
    "one gains 0.7 nats of log p(x) over the diagonal. Its figures are second-hand.",
    samples=1000,
    stride=10,
)

if __name__ == "__main__":
    sys.exit(main(TABLE))
