"""Noisy MNIST (Wang, Arora, Livescu and Bilmes 2015): a rotated digit, and another digit of its class under noise.

The pairs are bytes, and the same on every machine. Angles, partners and noise are made from random words by arithmetic on
integers, and images are rotated on integers too. Floating point only enters the table of cosines, whose values are at least
1e-6 of their last digit away from where they would be rounded otherwise (a test looks at all of them), which is far more
than libraries differ by.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gvae import random
from gvae.runtime import pool

__all__ = ["SHA256", "digest", "pairs", "rotated", "turns"]

SEED = 0x6E6F697379  # "noisy": not a seed that a model is likely to have
# SHA-256 of the bytes of x, y of the training part, x, y of the validation part, x, y of the test part.
SHA256 = "1ebb616951cd1022eae461181967a1559836590f70eb9ac53c37363f6873fc1d"
DEGREE, MOST = 1024, 45 * 1024  # angles are whole multiples of 1/1024 degree, in -45 to 45 degrees
ROWS = 64  # rows made at once: the arrays stay in the cache; and each such block has its own key for the noise
ONE, FINE = 16, 11  # fractional bits of cosines and sines, and of positions between pixels


def pairs(images: np.ndarray, labels: np.ndarray, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Views x and y (N, side, side), bytes, of images and labels of one part; each class has at least two images.

    x is the image itself, rotated about its centre by an angle uniform in -45 to 45 degrees. y is another image of its
    class, any of this part with the same probability, plus noise uniform in [0, 1] at each pixel, at most 1.

    part : index of the part, on which its random numbers depend
    """
    n, key = len(images), random.fold_in(random.key(SEED), part)
    cos, sin = turns(_below(random.bits(random.fold_in(key, 0), n), 2 * MOST + 1) - MOST)
    others = _partners(labels, random.bits(random.fold_in(key, 1), n))
    x, y = np.empty_like(images), np.empty_like(images)

    def make(first: int) -> None:
        rows = slice(first, first + ROWS)
        x[rows] = rotated(images[rows], cos[rows], sin[rows])
        noise = random.bits(random.fold_in(key, 2, first // ROWS), images[rows].shape) >> np.uint32(8)
        noise = (noise * np.uint32(255) + np.uint32(1 << 23)) >> np.uint32(24)  # 255 u to the nearest whole number
        y[rows] = np.minimum(noise + images[others[rows]], 255)

    pool.each(make, range(0, n, ROWS))
    return x, y


def digest(views: Any) -> str:
    """SHA-256 of the bytes of arrays, one after the other."""
    found = hashlib.sha256()
    for view in views:
        found.update(np.ascontiguousarray(view))
    return found.hexdigest()


def turns(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines as whole multiples of 2^-16, int32, of angles in units of 1/1024 degree.

    Examples
    --------
    >>> gvae.data.noisy.turns(np.array([0, 30 * 1024]))
    (array([65536, 56756], dtype=int32), array([    0, 32768], dtype=int32))
    """
    radians = angles * (np.pi / (180 * DEGREE))
    cos, sin = (np.rint(f(radians) * (1 << ONE)).astype(np.int32) for f in (np.cos, np.sin))
    return cos, sin


def rotated(images: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Square images (N, side, side), bytes, turned counterclockwise about their centres; 0 outside, bilinear in between.

    cos, sin : (N,), cosines and sines of the angles, as `turns` gives them

    Positions are rounded to 2^-11 of a pixel and grey levels to whole numbers. All integers are below 2^31.

    Examples
    --------
    >>> image = np.array([[[1, 2], [3, 4]]], np.uint8)
    >>> gvae.data.noisy.rotated(image, *gvae.data.noisy.turns(np.array([90 * 1024])))
    array([[[2, 4],
            [1, 3]]], dtype=uint8)
    """
    n, side, _ = images.shape
    margin = side // 4 + 1  # a corner turns to (sqrt(2) - 1) / 2 of a side outside; and the next pixel is read
    width = side + 2 * margin
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin))).astype(np.int32).reshape(-1)
    u = np.arange(1 - side, side, 2, dtype=np.int32)  # twice the distance from the centre
    c, s, middle = cos[:, None, None], sin[:, None, None], np.int32((width - 1) << ONE)
    across, down = u[None, None, :], u[None, :, None]
    half, shift = 1 << (ONE - FINE), ONE + 1 - FINE  # of the positions, which are in units of 2^-17
    column = (c * across - s * down + (middle + half)) >> shift
    row = (s * across + c * down + (middle + half)) >> shift
    right, below, one = column & ((1 << FINE) - 1), row & ((1 << FINE) - 1), 1 << FINE
    at = (row >> FINE) * width + (column >> FINE) + (np.arange(n, dtype=np.int32) * width**2)[:, None, None]
    upper = padded[at] * (one - right) + padded[at + 1] * right
    lower = padded[at + width] * (one - right) + padded[at + width + 1] * right
    return ((upper * (one - below) + lower * below + (1 << (2 * FINE - 1))) >> (2 * FINE)).astype(np.uint8)


def _below(words: np.ndarray, n: Any) -> np.ndarray:
    """Whole numbers uniform in 0 .. n - 1, int64, of random words; n < 2^32."""
    return ((words.astype(np.uint64) * np.asarray(n, np.uint64)) >> np.uint64(32)).astype(np.int64)


def _partners(labels: np.ndarray, words: np.ndarray) -> np.ndarray:
    """For each row another one with its label."""
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order, first = np.argsort(classes, kind="stable"), np.cumsum(sizes) - sizes
    rank = np.empty(len(labels), np.int64)  # the rank of a row in its class
    rank[order] = np.arange(len(labels)) - first[classes[order]]
    other = _below(words, sizes[classes] - 1)
    return order[first[classes] + other + (other >= rank)]
