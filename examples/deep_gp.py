"""A step with a gap: with one Gaussian process the fit is smooth next to a step or sharp at it; with two layers it is both.

50 points of a step in [-1, 1], none of them within 0.1 of it, with noise of standard deviation 0.01. The first layer bends
the line, the second puts a step on it: a function of a function. Printed for each depth: the log density of new points, in
nats, all of them and those outside the gap, and where draws of the function first cross 0: a single process can locate
the step only as precisely as its length scale. With --picture FILE, draws of the prior by depth, and the posteriors (needs
matplotlib). Source: Damianou and Lawrence (2013). Run time: about 10 seconds.
"""

import argparse

import numpy as np

import gvae

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--picture", metavar="FILE", help="write the picture")
options = parser.parse_args()

GAP = 0.1
rng = np.random.default_rng(options.seed)
x = np.sort(rng.uniform(GAP, 1, 50) * rng.choice([-1, 1], 50))[:, None]
y = np.sign(x[:, 0]) + 0.01 * rng.normal(size=50)
new = np.linspace(-1, 1, 401)[:, None]
truth = np.sign(new[:, 0] + 1e-9) + 0.01 * rng.normal(size=401)
outside = np.abs(new[:, 0]) > GAP

print(f"{'layers':<8}{'bound':>8}{'all new points':>16}{'outside the gap':>17}{'crossings of 0 (10, 50, 90 %)':>32}")
fitted = {}
for latent in ((), (1,), (1, 1)):
    model = gvae.DeepGP(latent, inducing=25 if latent else 50, epochs=options.epochs, random_state=options.seed).fit(x, y)
    log_p = model.score_samples(new, truth)
    draws = model.sample_y(new, 100)
    crossings = [new[np.abs(np.diff(np.sign(draws[:, i]), append=1)).argmax(), 0] for i in range(100)]
    where = "  ".join(f"{q:+.2f}" for q in np.quantile(crossings, (0.1, 0.5, 0.9)))
    bound = len(x) * model.history_[-1]["train_bound"]
    print(f"{len(latent) + 1:<8}{bound:>8.1f}{log_p.mean():>16.2f}{log_p[outside].mean():>17.2f}{where:>32}")
    fitted[len(latent) + 1] = model

if options.picture:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 5, figsize=(11, 4.2), constrained_layout=True, sharex=True)
    line = np.linspace(-1, 1, 200)[:, None]
    for depth, axis in enumerate(axes[0], 1):
        settings = {"latent": (1,) * (depth - 1), "inducing": 20, "dtype": "float64", "n_rows": 200}
        prior = gvae.models.DeepGP({"x": 1, "y": 1}, **settings)
        params, state = prior.init(gvae.random.key(0)), prior.init_state(gvae.random.key(0))
        for name in params:
            if name.startswith("kernel") and name.endswith("precision"):
                params[name] += np.log(10.0)
            if name.startswith("noise"):
                params[name] += 10.0
            if name.startswith("inducing"):
                params[name] = np.linspace(-3, 3, 20)[:, None]
        for i in range(4):
            axis.plot(line, prior.functions(params, state, line, gvae.random.key(10 * depth + i)), lw=1)
        axis.set_title(f"prior, {depth} layer{'s' if depth > 1 else ''}", fontsize=10)
    for axis, (depth, model) in zip(axes[1], fitted.items(), strict=False):
        axis.plot(new, model.sample_y(new, 12), lw=0.7, color="C0", alpha=0.6)
        axis.plot(x, y, "k.", ms=3)
        axis.set_title(f"posterior, {depth} layer{'s' if depth > 1 else ''}", fontsize=10)
    for axis in axes[1, len(fitted) :]:
        axis.axis("off")
    figure.savefig(options.picture, dpi=110)
