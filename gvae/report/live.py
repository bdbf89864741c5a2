"""The decoder in the page: what decoder.js needs to compute a view's mean from a code; a grid of means where it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from gvae.nn import MLP
from gvae.report.embed import float32_text
from gvae.report.exhibit import Absent, Exhibit, dense, of_x
from gvae.report.parts import SHOWN, covariances_of

__all__ = ["decoder"]

LARGEST = 2**21  # bytes of a network in float32; a larger one becomes a grid
SLIDERS = 3
REACH = 3.0  # standard deviations to each side
GRID = 9  # positions of each of two sliders
CHECKED = 20  # codes at which the page's arithmetic is compared with the model's
TOLERANCE = 1e-5
LINKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"identity": np.positive, "sigmoid": special.expit, "exp": np.exp}


def decoder(e: Exhibit) -> dict[str, Any]:
    """The content of the page's decoder: values that JSON can hold, arrays as base64 of float32.

    Returns
    -------
    dict of str to object
        "kind" is "network" or "grid"; "codes" of some test rows, "axes" along which sliders move them, and "view": how a
        mean is drawn.

    Raises
    ------
    Absent
        The model has no view, or its codes and means are not of real numbers.
    """
    e.views_only()
    few = e.X[: min(SHOWN, len(e.X))]
    z = np.asarray(e.model.transform(e.X), np.float64)
    codes, spread = z[: len(few)], z.std(axis=0)
    axes = {"the posterior means' principal axes": np.broadcast_to(_principal(z), (len(few), *_principal(z).shape))}
    found = {"codes": _array(codes), "rows": [_named(e, i) for i in range(len(few))], "reach": REACH}
    found["view"] = _view(e)
    network = _network(e, codes)
    if network is None:
        return found | _grid(e, z)
    with contextlib.suppress(Absent):  # a posterior without a covariance has no axes of its own
        axes["the row's own posterior, its widest axes"] = _own(e, few)
    order = np.argsort(spread)[::-1][:SLIDERS]
    single = np.zeros((len(order), z.shape[1]))
    single[np.arange(len(order)), order] = np.maximum(spread[order], 1e-3)
    axes[f"single variables: {', '.join(f'z{j}' for j in order)}"] = np.broadcast_to(single, (len(few), *single.shape))
    return found | network | {"axes": {name: _array(a) for name, a in axes.items()}}


def _principal(z: np.ndarray) -> np.ndarray:
    """The first principal axes of codes, each as long as their standard deviation along it."""
    _, s, axes = np.linalg.svd(z - z.mean(0), full_matrices=False)
    return axes[:SLIDERS] * (s[:SLIDERS, None] / np.sqrt(len(z)))


def _own(e: Exhibit, few: Any) -> np.ndarray:
    """The widest axes of each row's posterior, (rows, axes, variables)."""
    q = e.model.posterior_of(few, None if e.y is None else e.y[: len(few)])
    if isinstance(q, dict):
        raise Absent("the model has several codes")
    scale, axes = np.linalg.eigh(covariances_of(q, len(few)))
    widest = np.sqrt(np.maximum(scale, 0))[:, None, :] * axes
    return np.swapaxes(widest, 1, 2)[:, ::-1][:, :SLIDERS]


def _named(e: Exhibit, i: int) -> str:
    return f"{e.part} row {i}" + ("" if e.labels is None else f", label {e.labels[i]}")


def _view(e: Exhibit) -> dict[str, Any]:
    """How a mean is drawn: as an image, or as a bar per column between the smallest and largest value of the data."""
    x = dense(e.X).reshape(len(e.X), -1)
    if e.image_shape is not None:
        return {"shape": list(e.image_shape), "low": float(min(0.0, x.min())), "high": float(max(1.0, x.max()))}
    shown = min(3 * SHOWN, x.shape[1])
    low, high = x[:, :shown].min(axis=0), x[:, :shown].max(axis=0)
    return {"names": e.names[:shown], "low": low.astype(float).tolist(), "high": high.astype(float).tolist()}


def _network(e: Exhibit, codes: np.ndarray) -> dict[str, Any] | None:
    """The layers between code and mean, if they are one MLP and a link known to the page: seen to give the model's means."""
    model = e.model.model_
    network = getattr(model.emitters.get("x"), "network", None)
    if len(model.codes) != 1 or type(network) is not MLP or network.sizes[0] != sum(model.codes.values()):
        return None
    D, n, params = e.model.n_features_in_, len(network.sizes) - 1, e.model.parameters_
    layers = []
    for i in range(n):
        wide = slice(D) if i == n - 1 else slice(None)  # in the last layer, only what the mean depends on
        weight, bias = (np.asarray(a, np.float32)[..., wide] for a in network.scoring_layer(params, i))
        layers.append((weight, bias))
    if sum(4 * a.size for layer in layers for a in layer) > LARGEST:
        return None
    units = e.model.views_["x"].units
    location, scale = (0.0, 1.0) if units is None else (units.location, units.scale)
    z = codes[np.arange(CHECKED) % len(codes)] + np.random.default_rng(0).normal(size=(CHECKED, codes.shape[1]))
    raw = np.asarray(network(params, z.astype(model.dtype)), np.float64)[:, :D]
    means = of_x(e.model.inverse_transform(z.astype(model.dtype)))
    link = next((name for name in LINKS if _agree(location + scale * LINKS[name](raw), means)), None)
    if link is None:
        return None
    return {
        "kind": "network",
        "layers": [{"weight": _array(weight), "bias": _array(bias)} for weight, bias in layers],
        "activation": network.activation,
        "link": link,
        "location": _array(np.broadcast_to(location, D)),
        "scale": _array(np.broadcast_to(scale, D)),
    }


def _agree(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE))


def _grid(e: Exhibit, z: np.ndarray) -> dict[str, Any]:
    """Means at GRID x GRID codes about the mean code, along its first two principal axes."""
    axes = _principal(z)[:2]
    steps = np.linspace(-REACH, REACH, GRID)
    at = np.stack(np.meshgrid(*[steps] * len(axes), indexing="ij"), -1).reshape(-1, len(axes))
    means = of_x(e.model.inverse_transform((z.mean(0) + at @ axes).astype(e.model.model_.dtype)))
    names = {"the posterior means' principal axes": _array(axes[None])}
    return {
        "kind": "grid",
        "steps": GRID,
        "rows": [],
        "axes": names,
        "codes": _array(z.mean(0)[None]),
        "means": _array(means),
    }


def _array(values: Any) -> dict[str, Any]:
    return {"shape": list(np.shape(values)), "values": float32_text(values)}
