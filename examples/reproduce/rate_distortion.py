"""Rate and distortion of VAEs at different prices of a nat, on the fixed binarization of MNIST, after Alemi et al. (2018).

    python examples/reproduce/rate_distortion.py --runs FOLDER                    all points, trained or continued
    python examples/reproduce/rate_distortion.py standard-1 mixture-1 --runs FOLDER
    python examples/reproduce/rate_distortion.py --draw docs/models-rate-distortion.png

Seven prices beta of `elbo:beta=..`, with p(z) = N(0, I), with a learned mixture of 20 Gaussians, and with a decoder that is
autoregressive in the pixels; 16 latents, diagonal posteriors, two layers of 200. A line per point goes to
docs/results/rate_distortion.jsonl; that of beta = 1 under N(0, I) also has the curve of its decoder by itself, by annealed
importance sampling on 20 test images. `--draw` reads the lines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from tables import RESULTS, append, check_names, lines, section

import gvae
from gvae import data

BETAS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
KINDS: dict[str, dict] = {
    "standard": {},
    "mixture": {"prior": "mixture:20"},
    "autoregressive": {"observation": "autoregressive"},
}
LABELS = {"standard": "p(z) = N(0, I)", "mixture": "p(z) = mixture:20", "autoregressive": "N(0, I), autoregressive decoder"}
SETTINGS = {
    "latent": 16,
    "posterior": "diagonal",
    "observation": "bernoulli",
    "hidden": (200, 200),
    "output_bias": "data",
    "batch_size": 100,
    "learning_rate": 2e-3,
    "schedule": "cosine",
    "random_state": 0,
}
POINTS = {f"{kind}-{beta:g}": (beta, kind) for kind in KINDS for beta in BETAS}
CURVE = "standard-1"  # the point whose decoder's curve is measured
IMAGES = 20
RESULT = RESULTS / "rate_distortion.jsonl"

NOTES = """\
16 latents, diagonal posteriors, two layers of 200 ELU units each way, Adam at 2e-3 down to 0 along half a cosine, batches of
100, epochs of 50,000 images, seed 0; on 10,000 test images. `slope` is -dD/dR between the point and the next: at the
optimum it lies between their betas. The picture is in docs/models.md."""


def page() -> str:
    """The part of docs/results.md."""
    found, rows = lines(RESULT, "point"), []
    for kind in KINDS:
        for i, beta in enumerate(BETAS):
            name = f"{kind}-{beta:g}"
            if name not in found:
                rows.append([name, *["pending"] * 4, "", ""])
                continue
            r, after = found[name], found.get(f"{kind}-{BETAS[i + 1]:g}") if i + 1 < len(BETAS) else None
            slope = "" if after is None else f"{(after['distortion'] - r['distortion']) / (r['rate'] - after['rate']):.2f}"
            figures = [f"{r[key]:.2f}" for key in ("rate", "distortion", "elbo", "log_likelihood")]
            rows.append([name, *figures, slope, str(r["epochs"])])
    columns = ("model, beta", "rate", "distortion", "ELBO", "log p(x), 100 samples", "slope", "epochs")
    title = "Rate and distortion on the fixed binarization of MNIST"
    return section(title, "rate_distortion.py", columns, rows, NOTES, found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("points", nargs="*", help=", ".join(POINTS))
    parser.add_argument("--runs", type=Path, help="where run folders lie, or are made")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--data", default="binarized_mnist")
    parser.add_argument("--results", type=Path, default=RESULT)
    parser.add_argument("--draw", type=Path, help="draw the points of --results to this file, and train nothing")
    options = parser.parse_args()
    if options.draw is not None:
        draw([json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()], options.draw)
        return
    if options.runs is None:
        parser.error("--runs is needed: the folder where run folders lie, or are made")
    check_names(parser, options.points, POINTS)
    images = data.load(options.data)
    for name in options.points or POINTS:
        beta, kind = POINTS[name]
        run = options.runs / name
        model = gvae.VAE(**SETTINGS | KINDS[kind], objective=f"elbo:beta={beta:g}", epochs=options.epochs)
        model.fit(images.train, run=run, resume=(run / "config.json").exists())
        found = model.evaluate(images.test, samples=100).summary()
        row = {"point": name, "beta": beta, "epochs": options.epochs}
        row |= {"rate": found["kl"], "distortion": found["distortion"], "elbo": found["elbo"]}
        row |= {"log_likelihood": found["log_likelihood"], "standard_error": found["elbo_standard_error"]}
        if name == CURVE:
            few = images.test[:: -(-len(images.test) // IMAGES)]
            chosen = model.evaluate(few, samples=100, measures="curve", first=len(few), chains=8, temperatures=300).summary()
            row["curve"] = {"rate": chosen["kl"], "distortion": chosen["distortion"], "points": chosen["curve"]["points"]}
        append(options.results, row, f"python examples/reproduce/rate_distortion.py {name} --epochs {options.epochs}")
        print(f"{name}: rate {row['rate']:.2f}, distortion {row['distortion']:.2f}, ELBO {row['elbo']:.2f}", flush=True)


def draw(rows: list[dict], path: Path) -> None:
    """Points by model, lines of equal ELBO, the curve of one decoder, and both limits at H = the least -log p(x) found."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    H = -max(row["log_likelihood"] for row in rows)
    top = max(row["rate"] for row in rows) * 1.1
    R = np.array([0, max(top, 1.05 * H)])
    for elbo in range(-200, -79, 20):
        axes.plot(R, -elbo - R, color="0.88", linewidth=0.8, zorder=0)
    for name, marker in zip(KINDS, "os^", strict=True):
        own = sorted((row for row in rows if row["point"].startswith(f"{name}-")), key=lambda row: row["beta"])
        axes.plot([r["rate"] for r in own], [r["distortion"] for r in own], marker=marker, markersize=5, label=LABELS[name])
        if name == "standard":
            for r in own:
                axes.annotate(f"{r['beta']:g}", (r["rate"], r["distortion"]), textcoords="offset points", xytext=(5, 5))
        for r in own:
            if "curve" in r:
                curve = sorted((point["rate"], point["distortion"]) for point in r["curve"]["points"])
                about = f"decoder of beta = 1 alone, {IMAGES} images, by AIS; with its encoder"
                axes.plot(*zip(*curve, strict=True), linestyle=":", color="0.4")
                axes.plot(r["curve"]["rate"], r["curve"]["distortion"], "x:", color="0.4", label=about)
    axes.plot(0, H, marker="*", color="black", markersize=10, linestyle="", label=f"limits: (0, H) and (H, 0), H <= {H:.1f}")
    axes.plot(H, 0, marker="*", color="black", markersize=10, linestyle="")
    axes.set(xlabel="rate R, nats", ylabel="distortion D, nats", xlim=(-3, R[1]), ylim=(-5, 215))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
