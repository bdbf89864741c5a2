"""A graph over the pixels: images whose noise is smooth, seen by independent pixels and by an extended grid.

Each image is a blurred spot of random place, plus noise that neighbours share. The decoder explains the spot; what is left
are correlations of neighbours, which only the grid can express. Run time: some seconds.
"""

import numpy as np

import gvae

ROWS = COLUMNS = 8
rng = np.random.default_rng(0)
at = rng.uniform(1, 6, size=(1500, 2, 1, 1))
i, j = np.mgrid[:ROWS, :COLUMNS]
spot = 3 * np.exp(-((i - at[:, 0]) ** 2 + (j - at[:, 1]) ** 2) / 4) - 1.5
noise = rng.normal(size=(1500, ROWS + 1, COLUMNS + 1))
smooth = (noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1] + noise[:, :-1, :-1]) / 2
images = 1 / (1 + np.exp(-(spot + 0.7 * smooth)))
images = np.round(255 * images).astype(np.uint8)

for observation in ("logit:shared:diagonal", "logit:shared:extended_grid:8x8"):
    model = gvae.VAE(latent=2, posterior="diagonal", observation=observation, hidden=(50,), dequantize=256,
                     steps=1200, learning_rate=3e-3, random_state=0).fit(images[:1300])  # fmt: skip
    draws = model.sample(500, draw=True).reshape(-1, ROWS, COLUMNS)
    left = np.corrcoef(np.diff(draws, axis=2)[:, :, :-1].ravel(), np.diff(draws, axis=2)[:, :, 1:].ravel())[0, 1]
    score = model.score(images[1300:])
    print(f"{observation:<32} held-out log p(x) {score:7.2f} nats per image; steps of its draws correlate {left:5.2f}")
pixels = images / 255
left = np.corrcoef(np.diff(pixels, axis=2)[:, :, :-1].ravel(), np.diff(pixels, axis=2)[:, :, 1:].ravel())[0, 1]
print(f"{'the images themselves':<32} {'':43}steps of the images {left:5.2f}")
