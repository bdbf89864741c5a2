"""Arrays as texts of a page: pictures as data URIs, numbers in base64."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

__all__ = ["float32_text", "image_uri"]


def image_uri(image: np.ndarray) -> str:
    """An image in grey, (rows, columns), as the data URI of a PNG: 0 is black and 1 white, unless the values go beyond.

    NaN is transparent.
    """
    seen = np.asarray(image, np.float64)
    missing = np.isnan(seen)
    known = seen[~missing]
    low, high = min(0.0, known.min(initial=0.0)), max(1.0, known.max(initial=1.0))
    grey = np.where(missing, 0, np.round(255 * (np.nan_to_num(seen) - low) / (high - low))).astype(np.uint8)
    pixels, kind = (np.stack([grey, np.where(missing, 0, 255).astype(np.uint8)], -1), 4) if missing.any() else (grey, 0)
    rows, columns = grey.shape
    lines = pixels.reshape(rows, -1)
    filtered = np.concatenate([np.zeros((rows, 1), np.uint8), lines], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(filtered, 9)), (b"IEND", b"")
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def float32_text(values: Any) -> str:
    """Numbers as base64 of little-endian float32."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4")).decode()
