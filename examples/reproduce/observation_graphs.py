"""Graphical models over the pixels compared with independent pixels: held-out log-density, three seeds, and pictures.

    python examples/reproduce/observation_graphs.py digits --out FOLDER [--data-dir FOLDER] [--seeds 1 2 3]

Data: digits, frey_faces or mnist, dequantized. Every number is the importance-sampled log-density (100 samples) of the
dequantized held-out pixels in [0, 1], in nats per image, Jacobians included: it compares across all rows of the table.
FOLDER receives results.jsonl and, per model of the first seed, a sheet: draws of x above, medians of p(x|z) below.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import gvae
from gvae import data, plots, random

LEVELS = {"digits": 17, "frey_faces": 256, "mnist": 256}
STEPS = {"digits": 4000, "frey_faces": 4000, "mnist": 6000}
ROWS = {"digits": None, "frey_faces": None, "mnist": 20_000}
OBSERVATIONS = (
    "logit:shared:diagonal",
    "logit:diagonal",
    "logit:shared:chain",
    "logit:shared:extended_grid:{size}",
    "logit:extended_grid:{size}",
    "logit:shared:grid:{size}",
    "gaussian",
    "shared:extended_grid:{size}",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(LEVELS))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--observations", nargs="+", default=OBSERVATIONS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = data.load(options.data, data_dir=options.data_dir)
    shape = dataset.image_shape
    train, test = dataset.train[: ROWS[options.data]], dataset.test[:1000]
    for seed in options.seeds:
        for observation in options.observations:
            name = observation.format(size=f"{shape[0]}x{shape[1]}")
            started = time.perf_counter()
            model = gvae.VAE(
                latent=16,
                posterior="diagonal",
                observation=name,
                hidden=(200,),
                dequantize=LEVELS[options.data],
                steps=options.steps or STEPS[options.data],
                random_state=seed,
            ).fit(train, validation=test)
            seconds = time.perf_counter() - started
            summary = model.evaluate(test, samples=100, seed=0).summary()
            row = {"data": options.data, "observation": name, "seed": seed, "seconds": round(seconds, 1)} | summary
            row["best_validation_bound"] = max(h["validation_bound"] for h in model.history_)
            with open(options.out / "results.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{name:<36} seed {seed}: log p(x) {row['log_likelihood']:9.2f}, ELBO {row['elbo']:9.2f}  {seconds:.0f} s")
            if seed == options.seeds[0]:
                picture = options.out / f"{options.data}-{name.replace(':', '-')}.png"
                z = model.model_.sample_prior(model.parameters_, random.key(0), 30)["z"]
                p = model.model_.decoder(model.parameters_, z)
                draws, medians = p.sample(p.noise(random.key(1))), getattr(p, "median", p.mean)
                plots.samples(picture, {"draws": np.clip(draws, 0, 1), "medians": np.clip(medians, 0, 1)}, shape)


if __name__ == "__main__":
    main()
