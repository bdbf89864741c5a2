"""One setting varied, or the model, all else equal: held-out ELBO and log p(x), mean and spread over seeds.

    python examples/reproduce/compare.py digits --vary posterior diagonal ar1 chain
    python examples/reproduce/compare.py digits --vary activation tanh sigmoid relu leaky_relu softplus elu
    python examples/reproduce/compare.py digits --vary hidden 200 200,200 200,200,200 --set decoder_hidden=200
    python examples/reproduce/compare.py digits --vary prior none random_walk mixture:10
    python examples/reproduce/compare.py digits --vary model vae map denoising autoencoder
    python examples/reproduce/compare.py mnist --set model=hierarchical latent=32,16 --vary posterior diagonal chain
    python examples/reproduce/compare.py frey_faces --vary model factor_analysis linear vae nlfa --set observation=gaussian
    python examples/reproduce/compare.py mnist --set model=hierarchical latent=30,10 --vary start calm glorot

Next to each candidate except the first: its mean difference to the first, paired by seed, and the standard error of that
mean.

Every bound printed is a bound: the same averaging over the batch for each part of it, the same noise for every candidate.
An autoencoder has none, so that only its reconstructions compare: log p(x | z) from the mean code and from a draw, and the
squared error of the former, summed over columns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from tables import check_names

import gvae
from gvae import data, random


def reconstruction(model: gvae.VAE, x: np.ndarray) -> tuple[float, float, float]:
    """log p(x | z), in nats per row, at the posterior's mean and at one draw, and the squared error at the mean."""
    q, units = model.posterior_of(x), model.standardization_
    x = x.astype(model.model_.dtype) if units is None else units(x, model.model_.dtype)
    at_mean, of_draw = (model.model_.decoder(model.parameters_, z) for z in (q.mean, q.sample(q.noise(random.key(7)))))
    error = np.square(at_mean.error(x)).sum(axis=1)
    return float(at_mean.log_prob(x).mean()), float(of_draw.log_prob(x).mean()), float(error.mean())


def parsed(setting: str, text: str) -> Any:
    """A setting's value: widths of layers as 200,200; numbers; none, true, false; a name; or several for several layers."""
    if setting.endswith("hidden"):
        return [int(width) for width in text.split(",") if width]
    if "," in text:
        return [parsed(setting, part) for part in text.split(",")]
    words = {"none": None, "true": True, "false": False}
    if text in words:
        return words[text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def cells(rows: np.ndarray, sign: str = "", divisor: float = 1.0) -> str:
    """Means over the rows, one a seed, and standard deviations over a divisor if there are several; "-" for NaN."""
    shown = []
    for column, width in zip(rows.T, (18, 18, 16, 16, 16), strict=True):
        spread = f" +-{column.std(ddof=1) / divisor:4.2f}" if len(column) > 1 else " " * 7
        mean = f"{column.mean():>{sign}{width - 7}.2f}{spread}"
        shown.append(f"{'-':>{width - 7}}{'':7}" if np.isnan(column).any() else mean)
    return "".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--data-dir")
    parser.add_argument("--vary", nargs="+", required=True, metavar=("SETTING", "VALUE"))
    parser.add_argument("--set", nargs="+", default=[], metavar="SETTING=VALUE", help="of all candidates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--latent", type=int, default=10)
    parser.add_argument("--hidden", type=int, nargs="*", default=[200])
    parser.add_argument("--out", type=Path, help="a file that receives one line of JSON per run")
    options = parser.parse_args()
    setting, *values = options.vary
    if not values:
        parser.error(f"--vary {setting} has no values, expected --vary SETTING VALUE ...")
    if pairs := [pair for pair in options.set if "=" not in pair]:
        parser.error(f"--set {pairs[0]} has no value, expected --set SETTING=VALUE ...")
    dataset = data.load(options.data, data_dir=options.data_dir)
    train, test = dataset.train[: options.rows], dataset.test[:2000]
    common = {"latent": options.latent, "hidden": options.hidden, "posterior": "diagonal", "observation": "bernoulli"}
    gaussian = {"factor_analysis": ("posterior", "observation"), "nlfa": ("observation",)}  # what they are by themselves
    fixed: dict[str, Any] = {name: parsed(name, text) for name, text in (pair.split("=", 1) for pair in options.set)}
    models = values if setting == "model" else [fixed.get("model", "vae")]
    check_names(parser, models, gvae.estimators())
    other = (common | fixed)["observation"]
    if len({"gaussian" if "observation" in gaussian.get(name, ()) else other for name in models}) > 1:
        parser.error(
            f"{', '.join(models)}: densities do not compare with {other} probabilities; expected --set observation=gaussian"
        )
    print(f"{dataset.name}, {len(train)} + {len(test)} rows, {options.epochs} epochs, seeds {options.seeds}: nats per row")
    print(f"{setting:<18}{'ELBO':>18}{'log p(x)':>18}{'rec. at mean':>16}{'rec. of a draw':>16}{'squared error':>16}")
    first: list[tuple[float, ...]] = []  # of the first candidate, a row per seed
    for value in values:
        rows: list[tuple[float, ...]] = []
        for seed in options.seeds:
            started = time.perf_counter()
            chosen = fixed | {setting: parsed(setting, value)}
            name = chosen.pop("model", "vae")
            make = gvae.estimators()[name]
            known = make().get_params().keys() - {*gaussian.get(name, ())}  # linear models have no hidden layers
            chosen = {name: x for name, x in common.items() if name in known} | chosen
            model = make(**chosen, epochs=options.epochs, random_state=seed).fit(train)
            summary = model.evaluate(test, samples=200).summary()
            at_mean, of_draw, error = reconstruction(model, test)
            bounds = summary["elbo"], summary["log_likelihood"]
            rows.append((*((math.nan, math.nan) if name == "autoencoder" else bounds), at_mean, of_draw, error))
            if options.out is not None:
                row = {"data": dataset.name, setting: value, "seed": seed, "seconds": time.perf_counter() - started}
                row |= summary | {"at_mean": at_mean, "of_draw": of_draw, "squared_error": error}
                with open(options.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        value = value if len(value) < 18 else f"{value}\n{'':<18}"
        print(f"{value:<18}{cells(np.array(rows))}", flush=True)
        if first and len(rows) > 1:
            print(f"{'  less the first':<18}{cells(np.subtract(rows, first), '+', len(rows) ** 0.5)}", flush=True)
        first = first or rows


if __name__ == "__main__":
    main()
