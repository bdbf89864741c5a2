"""`gvae sample`."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from gvae.cli import arguments
from gvae.cli.running import check_new, on_one_blas_thread, write_new
from gvae.errors import ConfigError

HELP = "Draw from a trained model: the observation model's means at draws of the prior."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN", help="a run folder, or a file saved by VAE.save")
    parser.add_argument(
        "--out",
        default="samples.png",
        metavar="FILE",
        help=".png (a sheet of images), .npy, or .npz for several views; must be new",
    )
    parser.add_argument("-n", type=arguments.count, default=100, metavar="N", help="number of samples")
    parser.add_argument("--draw", action="store_true", help="draw x itself instead of showing means")
    parser.add_argument("--seed", type=arguments.seed, default=0, metavar="N", help="seed of the draws")


@on_one_blas_thread
def run(options: argparse.Namespace) -> None:
    import numpy as np

    from gvae import estimator, plots, report

    out = Path(options.out)
    if out.suffix not in (".png", ".npy", ".npz"):
        raise ConfigError(f"{out}: expected a name that ends in .png, .npy or .npz")
    check_new(out)
    model = estimator.load(options.folder)
    shape = report.image_shape_of(model)
    count = f"{options.n} sample{'s' if options.n > 1 else ''}"
    views = list(model.model_.views)
    if out.suffix == ".npy" and len(views) > 1:
        raise ConfigError(
            f"{options.folder} has the views {', '.join(views)}: write a .npz file, which keeps each by its name"
        )
    if out.suffix != ".png":
        drawn, buffer = model.sample(options.n, seed=options.seed, draw=options.draw), io.BytesIO()
        if out.suffix == ".npy":
            np.save(buffer, drawn)
        else:
            np.savez(buffer, **(drawn if isinstance(drawn, dict) else {views[0]: drawn}))
        write_new(out, buffer.getvalue())
    elif shape is None:
        raise ConfigError(f"{options.folder} was not trained on images: write a .npy file instead")
    else:
        plots.check_sheet(options.n, shape)
        drawn = model.sample(options.n, seed=options.seed, draw=options.draw)
        plots.samples(out, {count: drawn["x"] if isinstance(drawn, dict) else drawn}, shape)
    print(f"{out}: {count}")
