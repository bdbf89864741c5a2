"""Two views of digits: one image rotated, and another of its class under noise. What do codes of the first view keep of it?

The class is in both views, the angle only in the first. Printed for each code: the error of a linear classifier on test
images, and how much of the angle a linear map of the code tells (R²). Canonical correlations, linear (CCA) or of networks
(DCCA), keep what the views share, and drop the angle. Variational CCA (VCCA) is a model of both views: its code explains the
first one too, and keeps the angle. A private code of the first view, h_x, takes a part of that; nothing keeps z from telling
the angle as well. DCCA has the best code for the class; VCCA has samples, reconstructions and log p(x, y). Needs
scikit-learn, whose digits they are. Run time: some seconds.
"""

import argparse

import numpy as np

import gvae
from gvae import data, random

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=20)
options = parser.parse_args()


def rotated(images, angles):
    """Images (N, 8, 8) rotated by angles in radians, bilinear, black outside."""
    centred = np.arange(8) - 3.5
    rows, columns = centred[:, None], centred
    cos, sin = (f(angles)[:, None, None] for f in (np.cos, np.sin))
    at = cos * rows - sin * columns + 4.5, sin * rows + cos * columns + 4.5  # in images with a margin of one pixel
    padded, which = np.pad(images, ((0, 0), (1, 1), (1, 1))), np.arange(len(images))[:, None, None]
    low = [np.floor(a).astype(int) for a in at]
    found = 0
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - np.abs(at[0] - low[0] - i)) * (1 - np.abs(at[1] - low[1] - j))
            found = found + weight * padded[which, np.clip(low[0] + i, 0, 9), np.clip(low[1] + j, 0, 9)]
    return found


def two_views(images, labels, key, copies=1):
    """Both views, with labels and angles in degrees; each image is in `copies` pairs."""
    images, labels = np.tile(images, (copies, 1)), np.tile(labels, copies)
    u = random.uniform(random.fold_in(key, 0), (len(images), 2), np.float64)
    angles = 60 * u[:, 0] - 30
    order, partner = np.argsort(u[:, 1]), np.empty(len(images), int)
    for c in range(10):
        partner[labels == c] = order[labels[order] == c]
    noise = random.uniform(random.fold_in(key, 1), images.shape, np.float64)
    first = rotated(images.reshape(-1, 8, 8), np.radians(angles)).reshape(images.shape)
    return first, np.minimum(images[partner] + noise, 1), labels, angles


digits = data.load("digits")
x, y, labels, angles = two_views(digits.train, digits.train_labels, random.key(0), copies=3)
x_test, y_test, labels_test, angles_test = two_views(digits.test, digits.test_labels, random.key(1))


def told(code):
    """Error of the class in percent, and R² of the angle, by least squares on training rows."""
    z, z_test = code(x, y), code(x_test, y_test)
    mean, scale = z.mean(axis=0), z.std(axis=0) + 1e-6
    design, design_test = (np.column_stack([(a - mean) / scale, np.ones(len(a))]) for a in (z, z_test))
    targets = np.column_stack([np.eye(10)[labels], angles])
    found = design_test @ np.linalg.solve(design.T @ design + np.eye(design.shape[1]), design.T @ targets)
    error = 100 * (found[:, :10].argmax(axis=1) != labels_test).mean()
    return error, 1 - np.square(found[:, 10] - angles_test).sum() / np.square(angles_test - angles_test.mean()).sum()


NETWORKS = {"hidden": (128,), "activation": "relu", "epochs": options.epochs, "random_state": 0}
VARIATIONAL = NETWORKS | {"latent": 20, "observation": ("bernoulli", "gaussian"), "binarize": "none", "weight_y": 4.0}
VARIATIONAL |= {"batch_size": 100, "learning_rate": 2e-3, "schedule": "cosine", "output_bias": "data"}
fitted = {
    "CCA": gvae.CCA(latent=9, ridge=0.1),
    "DCCA": gvae.DCCA(latent=9, ridge=0.1, batch_size=500, learning_rate=3e-3, **NETWORKS),
    "VCCA": gvae.VCCA(**VARIATIONAL),
    "VCCA, private": gvae.VCCA(private=(4, 0), **VARIATIONAL),
}
codes = {"pixels": lambda x, y: x}
for name, model in fitted.items():
    model.fit(x, y)
    for code in model.codes(x[:2], y[:2]):
        if code != "z_y":  # of the second view
            codes[f"{name}: {code}"] = lambda x, y, model=model, code=code: model.codes(x, y)[code]
print(f"{'code':<24}{'class, error':>14}{'angle, R²':>12}")
for name, code in codes.items():
    error, angle = told(code)
    print(f"{name:<24}{error:>12.1f} %{angle:>12.2f}")
