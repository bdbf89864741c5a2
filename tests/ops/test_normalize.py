"""Batch normalisation and dropout: the op, networks in their modes, moments of a population, and training with them."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import reference as ref
import scipy.sparse
from gradcheck import check_vjp
from hypothesis import given
from hypothesis import strategies as st
from run_cases import SETTINGS, X, after, same
from strategies import seeds

import gvae
from gvae import families, modes, nn, objectives, ops, random
from gvae.autodiff import gradient, stop_gradient
from gvae.data import Table
from gvae.errors import ConfigError, NonFiniteError, ShapeError, StoppedError
from gvae.models import base
from gvae.runtime import pool
from gvae.training import Trainer, load_checkpoint, train

KEY = random.key(0)
EPSILON = 1e-5
BOTH = {"normalize": "batch", "dropout": 0.3}
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rows(n=40, d=6, seed=0):
    return np.random.default_rng(seed).random((n, d)).astype(np.float32)


# ---- the op --------------------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize("activation", ops.ACTIVATIONS)
@pytest.mark.parametrize("shape", [(2, 1), (7, 5), (3, 4, 6), (2, 3, 5, 3), (200, 33)], ids=str)
def test_the_op_is_a_loop_over_columns(shape, activation, dtype):
    x, scale, shift = (a.astype(dtype) for a in (2 * normal(*shape), normal(shape[-1], seed=1), normal(shape[-1], seed=2)))
    y = ops.batch_norm(x, scale, shift, activation=activation)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    expected = ref.batch_norm(*(a.astype(np.float64) for a in (x, scale, shift)), activation)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance * np.abs(x).max())


@every_dtype
def test_columns_far_from_zero(dtype):
    """The mean of 1e4 has an error of half an ulp, which shifts a column; its deviation keeps its digits."""
    x = (1e4 + normal(1000, 40)).astype(dtype)
    y = ops.batch_norm(x, np.ones(40, dtype), np.zeros(40, dtype)).astype(np.float64)
    expected = ref.batch_norm(x.astype(np.float64), np.ones(40), np.zeros(40))
    apart = y - expected
    assert np.abs(apart).max() <= np.spacing(dtype(1e4)) * (0.55 if dtype == np.float32 else 3)  # the reference rounds, too
    assert np.abs(apart - apart.mean(axis=0)).max() <= (2e-6 if dtype == np.float32 else 1e-12)
    bars = gradient(lambda a: ops.sum(ops.batch_norm(a, np.ones(40, dtype), np.zeros(40, dtype)) ** 3), x)
    of_wide = gradient(lambda a: ops.sum(ops.batch_norm(a, np.ones(40), np.zeros(40)) ** 3), x.astype(np.float64))
    np.testing.assert_allclose(bars, of_wide, atol=0.02 if dtype == np.float32 else 1e-9)


@every_dtype
@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678, -1e-20])
def test_constant_columns_are_the_shift(value, dtype):
    x, shift = np.full((333, 2), value, dtype), np.array([0.5, -2.0], dtype)
    scale = np.array([3.0, -7.0], dtype)
    np.testing.assert_array_equal(ops.batch_norm(x, scale, shift), np.broadcast_to(shift, x.shape))
    bars = gradient(lambda *a: ops.sum(ops.batch_norm(*a)), x, scale, shift)
    for bar, expected in zip(bars, (0, 0, 333), strict=True):
        np.testing.assert_allclose(bar, np.full(bar.shape, expected), atol=1e-3 if dtype == np.float32 else 1e-9)


def test_what_the_op_refuses():
    with pytest.raises(ShapeError, match="batch_norm: x has 1 row, expected at least 2"):
        ops.batch_norm(np.ones((1, 3)), np.ones(3), np.ones(3))
    with pytest.raises(ShapeError, match="batch_norm: x has 1 row"):
        ops.batch_norm(np.ones(3), np.ones(3), np.ones(3))
    with pytest.raises(ConfigError, match="batch_norm: activation is 'swish', expected one of identity, relu"):
        ops.batch_norm(np.ones((2, 3)), np.ones(3), np.ones(3), activation="swish")
    with pytest.raises(ShapeError, match="scale has shape"):
        ops.batch_norm(np.ones((2, 3)), np.ones(2), np.ones(3))


@given(
    st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.sampled_from(["identity", "elu", "tanh", "softplus"]), seeds
)
def test_the_vjp_agrees_with_differences(K, B, N, activation, seed):
    """Over samples and rows; of a result that is used twice, so that a cotangent must not be overwritten for another."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(K, B, N)) + np.where(np.arange(B) % 2, 2, -2)[:, None]
    args = x, rng.normal(size=N), rng.normal(size=N)

    def twice(*a):
        y = ops.batch_norm(*a, activation=activation)
        return y * y + ops.sum(y, axis=0) * y

    check_vjp(twice, args, rng)
    check_vjp(lambda a: ops.batch_norm(a, *args[1:], activation=activation), args[:1], rng)
    check_vjp(lambda s: ops.batch_norm(x, s, args[2], activation=activation), args[1:2], rng)
    check_vjp(lambda t: ops.batch_norm(x, args[1], t, activation=activation), args[2:], rng)


def test_a_gradient_of_several_parts_of_rows():
    """Sums over rows are added up in parts; against the formula for all rows at once."""
    x, scale, shift, y_bar = normal(301, 37), normal(37, seed=1), normal(37, seed=2), normal(301, 37, seed=3)
    bars = gradient(lambda *a: ops.sum(ops.batch_norm(*a) * y_bar), x, scale, shift)
    sigma = np.sqrt(x.var(axis=0) + EPSILON)
    h = (x - x.mean(axis=0)) / sigma
    first, second = y_bar.sum(axis=0), (y_bar * h).sum(axis=0)
    for bar, expected in zip(bars, (scale / sigma * (y_bar - first / 301 - h * second / 301), second, first), strict=True):
        np.testing.assert_allclose(bar, expected, rtol=1e-10, atol=1e-10)


def test_the_same_bits_for_every_number_of_threads(monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)
    found = []
    for n in ("1", "2", "3", "8"):
        monkeypatch.setenv("GVAE_NUM_THREADS", n)
        for dtype in (np.float32, np.float64):
            args = [a.astype(dtype) for a in (normal(3, 130, 83), normal(83, seed=1), normal(83, seed=2))]
            found.append([ops.batch_norm(*args, activation="elu")])
            found[-1] += gradient(lambda *a: ops.sum(ops.batch_norm(*a, activation="elu") ** 3), *args)
    for i, others in enumerate(found[2:]):
        for one, other in zip(found[i % 2], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_keep():
    u = np.random.default_rng(0).random((100_000,)).astype(np.float32)
    kept = ops.keep(u, 0.3)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, (u >= 0.3) * 1)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / u.size)
    np.testing.assert_array_equal(ops.keep(u[:2], np.array([0.0, 1.0])), [1, 0])
    assert (ops.keep(u, 0) == 1).all()
    np.testing.assert_array_equal(gradient(lambda a: ops.sum(a * ops.keep(a, 0.5)), np.array([0.2, 0.7])), [0, 1])
    with pytest.raises(ConfigError, match=r"keep: rate is 1.5, expected a number from 0 to 1"):
        ops.keep(u, 1.5)


# ---- networks in their modes ---------------------------------------------------------------------


def network(dtype=np.float64, **given):
    """A network of two hidden layers with scales, biases and moments that are not those of the start."""
    mlp = nn.MLP("net", (5, 7, 4, 3), activation="tanh", **given)
    rng = np.random.default_rng(1)
    params = {}
    for name, value in mlp.init(KEY, dtype).items():
        spread = rng.uniform(0.5, 2, size=value.shape)
        is_spread = name.endswith(("scale", "variance"))
        params[name] = (spread if is_spread else value + 0.3 * rng.normal(size=value.shape)).astype(dtype)
    return mlp, params


def by_hand(params, x, moments=None, last="identity", name="net"):
    """The network in NumPy: by the rows' own moments, or by given ones."""
    h = x
    for i in range(3):
        a = h @ params[f"{name}.{i}.weight"]
        if f"{name}.{i}.scale" not in params:
            return ref.activation(last, a + params[f"{name}.{i}.bias"])
        axes = tuple(range(a.ndim - 1))
        mean, variance = (a.mean(axis=axes), a.var(axis=axes)) if moments is None else moments(i)
        a = params[f"{name}.{i}.scale"] * (a - mean) / np.sqrt(variance + EPSILON) + params[f"{name}.{i}.bias"]
        h = np.tanh(a)
    return h


def given_moments(params, name="net"):
    return lambda i: tuple(params[f"statistics.{name}.{i}.{which}"] for which in ("mean", "variance"))


@every_dtype
@pytest.mark.parametrize("shape", [(9, 5), (2, 6, 5)], ids=str)
def test_the_two_modes(shape, dtype):
    mlp, params = network(dtype, normalize="batch")
    x = normal(*shape).astype(dtype)
    wide, tolerance = {n: v.astype(np.float64) for n, v in params.items()}, 1e-11 if dtype == np.float64 else 2e-5
    in_step = mlp(modes.in_step(params, {}, 3), x)
    assert in_step.dtype == dtype
    np.testing.assert_allclose(in_step, by_hand(wide, x.astype(np.float64)), rtol=tolerance, atol=tolerance)
    expected = by_hand(wide, x.astype(np.float64), given_moments(wide))
    np.testing.assert_allclose(mlp(params, x), expected, rtol=tolerance, atol=tolerance)
    assert not np.allclose(in_step, expected, atol=0.01)
    assert modes.in_step(params, {}, None) is params
    training_mode = modes.in_step(params, {}, 0)
    assert modes.in_step(training_mode, {}, 1) is training_mode


def test_the_last_layer_where_it_has_an_activation():
    mlp = nn.MLP("net", (5, 4), last="tanh", normalize="batch")
    params, x = mlp.init(KEY, np.float64), normal(8, 5)
    assert set(params) == {f"net.0.{n}" for n in ("weight", "bias", "scale")} | {
        f"statistics.net.0.{n}" for n in ("mean", "variance")
    }
    a = x @ params["net.0.weight"]
    expected = np.tanh((a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + EPSILON))
    np.testing.assert_allclose(mlp(modes.in_step(params, {}, 0), x), expected, atol=1e-12)
    assert "net.0.scale" not in nn.MLP("net", (5, 4), normalize="batch").init(KEY)


def test_a_tower_is_its_levels():
    tower = nn.Tower("trunk", 5, [(7, 4), (3,)], "tanh", normalize="batch", dropout=0.5)
    params, x = tower.init(KEY, np.float64), normal(8, 5)
    noise = {name: np.full((1, 8, n), 0.9) for name, n in (("0.0", 7), ("0.1", 4), ("1.0", 3))}
    assert {name: u.shape for name, u in tower.masks(KEY, (1, 8)).items()} == {
        f"dropout.trunk.{name}": u.shape for name, u in noise.items()
    }
    found = tower(modes.in_step(params, {f"dropout.trunk.{n}": u for n, u in noise.items()}, 0), x)
    h, features = x, []
    for level, last in (("0", 1), ("1", 0)):
        for i in range(last + 1):
            a = h @ params[f"trunk.{level}.{i}.weight"]
            h = 2 * np.tanh((a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + EPSILON))  # all are kept
        features.append(h)
    for one, expected in zip(found, features, strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-12)


@every_dtype
@pytest.mark.parametrize("step", [None, 0])
def test_sparse_rows_are_dense_rows(step, dtype):
    mlp, params = network(dtype, normalize="batch")
    x = np.round(normal(9, 5)).astype(dtype)
    mode = modes.in_step(params, {}, step)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(mlp(mode, scipy.sparse.csr_array(x)), mlp(mode, x), atol=tolerance, rtol=tolerance)
    slopes = [
        gradient(lambda p, a=a: ops.sum(mlp(modes.in_step(p, {}, step), a) ** 2), params)
        for a in (scipy.sparse.csr_array(x), x)
    ]
    for name in params:
        np.testing.assert_allclose(slopes[0][name], slopes[1][name], atol=100 * tolerance)


def test_changed_parameters_keep_the_mode():
    noise = {"dropout.net.0": np.zeros(1)}
    mode = modes.changed(modes.in_step({"a": 1.0}, noise, 0), lambda values: {n: 2 * v for n, v in values.items()})
    assert (dict(mode), mode.noise) == ({"a": 2.0}, noise)
    assert modes.changed({"a": 1.0}, dict) == {"a": 1.0}


def test_dropout_drops_what_the_noise_says_and_scales_the_rest():
    mlp, params = network(dropout=0.25, drops_inputs=True)
    x = normal(2, 6, 5)
    noise = mlp.masks(random.key(3), (2, 6), np.float64)
    assert {name: u.shape for name, u in noise.items()} == {
        "dropout.net.0": (2, 6, 7), "dropout.net.1": (2, 6, 4), "dropout.net.inputs": (2, 6, 5)
    }  # fmt: skip
    h = x * (noise["dropout.net.inputs"] >= 0.25) / 0.75
    for i in range(2):
        h = np.tanh(h @ params[f"net.{i}.weight"] + params[f"net.{i}.bias"])
        h = h * (noise[f"dropout.net.{i}"] >= 0.25) / 0.75
    h = h @ params["net.2.weight"] + params["net.2.bias"]
    np.testing.assert_allclose(mlp(modes.in_step(params, noise, 0), x), h, atol=1e-12)
    plain = nn.MLP("net", mlp.sizes, "tanh")
    np.testing.assert_array_equal(mlp(params, x), plain(params, x))
    assert plain.masks(KEY, (3,)) == {}


def test_the_expectation_over_masks_of_a_linear_network():
    mlp = nn.MLP("net", (4, 30, 2), activation="identity", dropout=0.4, drops_inputs=True)
    params, x = mlp.init(KEY, np.float64), np.broadcast_to(normal(4), (20_000, 4))
    y = mlp(modes.in_step(params, mlp.masks(random.key(1), (20_000,), np.float64), 0), x)
    error = y.std(axis=0) / np.sqrt(len(y))
    assert (error > 1e-4).all()
    assert (np.abs(y.mean(axis=0) - mlp(params, x[0])) < 4.5 * error).all()


def test_noise_that_is_missing_is_asked_for():
    model = gvae.models.VAE(6, latent=2, hidden=(5,), dropout=0.3)
    batch = Table(X).batch(np.arange(4), KEY)
    params, noise = model.init(KEY), model.noise(KEY, batch)
    model.terms(params, {}, batch, noise)
    with pytest.raises(ConfigError, match=r"has no dropout.encoder.0: add what the model's masks\(key, batch, samples\)"):
        model.terms(params, {}, batch, noise, 0)
    model.terms(params, {}, batch, noise | model.masks(KEY, batch), 0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"normalize": "layer"}, "normalize is 'layer', expected None or 'batch'"),
        ({"dropout": 1.0}, "dropout is 1.0, expected a probability below 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_settings_that_networks_refuse(given, said):
    with pytest.raises(ConfigError, match=said):
        nn.MLP("net", (3, 2, 1), **given)
    with pytest.raises(ConfigError, match=next(iter(given))):
        gvae.models.VAE(6, latent=2, **given)


# ---- moments of the population -------------------------------------------------------------------


def vae(dtype="float64", **given):
    return gvae.models.VAE(
        6, latent=2, posterior="diagonal", hidden=(7, 4), activation="tanh", normalize="batch", dtype=dtype, **given
    )


def moments_by_hand(model, params, batches):
    """Layer by layer: forward through the layers before it, whose moments are known by then."""
    found = {}

    def settle(name, inputs):
        """Of a network's hidden layers; the outputs of its last layer, (.., outputs) of each of the inputs."""
        for i in range(2):
            sums = [h @ params[f"{name}.{i}.weight"] for h in inputs]
            of_rows = np.concatenate([a.reshape(-1, a.shape[-1]) for a in sums])
            mean, variance = of_rows.mean(axis=0), ((of_rows - of_rows.mean(axis=0)) ** 2).mean(axis=0)
            found[f"statistics.{name}.{i}.mean"], found[f"statistics.{name}.{i}.variance"] = mean, variance
            scale, bias = params[f"{name}.{i}.scale"], params[f"{name}.{i}.bias"]
            inputs = [np.tanh(scale * (a - mean) / np.sqrt(variance + EPSILON) + bias) for a in sums]
        return [h @ params[f"{name}.2.weight"] + params[f"{name}.2.bias"] for h in inputs]

    draws = []
    for i, raw in enumerate(settle("encoder", [batch.x for batch in batches])):
        noise = model.noise(random.fold_in(KEY, i), batches[i])["z"]
        draws.append(model.posterior(raw).sample(noise))
    settle("decoder", draws)
    return found


@pytest.mark.parametrize("size", [50, 20, 7])
def test_settled_moments_are_those_of_a_loop(size):
    model, table = vae(), Table(rows(50).astype(np.float64), dtype=np.float64)
    params = model.init(KEY)
    for name in params:
        params[name] = params[name] + 0.2 * np.abs(normal(*params[name].shape, seed=len(name)))
    batches = list(table.batches(KEY, size))
    assert len(batches) == -(-50 // size)
    found = modes.settled(model, params, {}, lambda: table.batches(KEY, size))
    expected = moments_by_hand(model, params, batches)
    assert found.keys() == expected.keys() == {n for n in params if n.startswith("statistics.")}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)
    # what does not depend on draws does not depend on how rows are batched
    whole = modes.settled(model, params, {}, lambda: [table.batch(np.arange(50), KEY)])
    for name in (n for n in found if "encoder" in n):
        np.testing.assert_allclose(value := found[name], whole[name], rtol=1e-11, atol=1e-13)
        assert value.dtype == np.float64


def test_one_pass_for_each_layer_and_one_for_a_single_batch():
    passes, model = [], vae()
    table = Table(rows(50).astype(np.float64), dtype=np.float64)

    def counted(*batches):
        passes.append(0)
        for batch in batches:
            passes[-1] += 1
            yield batch

    params = model.init(KEY)
    parts = [table.batch(np.arange(i, i + 10), KEY) for i in range(0, 50, 10)]
    modes.settled(model, params, {}, lambda: counted(*parts))
    assert [n for n in passes if n == 5] == [5] * 4  # two layers of two networks; the first look is at two batches
    passes.clear()
    modes.settled(model, params, {}, lambda: counted(table.batch(np.arange(50), KEY)))
    assert passes == [1, 1]


def test_moments_far_from_zero_have_their_digits():
    """float32 activations with a mean of 1e4; sums are of float64."""
    model = gvae.models.VAE(3, latent=1, hidden=(2,), posterior="diagonal", normalize="batch")
    x = (1e4 + normal(5000, 3)).astype(np.float32)
    params = model.init(KEY)
    params["encoder.0.weight"] = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    found = modes.settled(model, params, {}, lambda: Table(x).batches(KEY, 100))
    wide = x.astype(np.float64)[:, :2]
    np.testing.assert_allclose(found["statistics.encoder.0.variance"], wide.var(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["statistics.encoder.0.mean"], wide.mean(axis=0), rtol=1e-7)


MODELS = {
    "vae": (gvae.models.VAE, {"latent": 3, "hidden": (5,)}),
    "denoising": (gvae.models.Denoising, {"latent": 3, "hidden": (5,)}),
    "map": (gvae.models.MAP, {"latent": 3, "hidden": (5,), "n_rows": 40}),
    "autoencoder": (gvae.models.Autoencoder, {"latent": 3, "hidden": (5,)}),
    "dlgm": (gvae.models.DLGM, {"latent": (3, 2), "hidden": (5,), "posterior": "diagonal"}),
    "dlgm, corrupted": (gvae.models.DLGM, {"latent": (3, 2), "hidden": (5,), "corruption": "masking"}),
    "vlae": (gvae.models.VLAE, {"latent": (3, 2), "hidden": (5,)}),
    "hierarchical": (gvae.models.Hierarchical, {"latent": (3, 2), "hidden": (5,)}),
    "darn": (
        gvae.models.Hierarchical,
        {"latent": (3, 2), "hidden": (5,), "posterior": "bernoulli:taylor", "between": "bernoulli"},
    ),
    "hvm": (gvae.models.HVM, {"latent": 3, "hidden": (5,), "posterior": "bernoulli:taylor"}),
    "vib": (gvae.models.VIB, {"latent": 3, "hidden": (5,), "decoder_hidden": (4,)}),
    "vcca": (gvae.models.VCCA, {"latent": 3, "hidden": (5,), "private": (2, 1), "observation": "gaussian"}),
    "ladder": (gvae.models.Ladder, {"latent": (3, 2), "hidden": (5,)}),
    "ladder, unshared": (gvae.models.Ladder, {"latent": (3, 2), "hidden": (5,), "share": False}),
    "mutual": (gvae.models.Mutual, {"latent": 3, "hidden": (5,), "observation": "gaussian"}),
    "dcca": (gvae.models.DCCA, {"latent": 2, "hidden": (5,)}),
}
every_model = pytest.mark.parametrize("name", list(MODELS))


def built(name, dtype="float32", **given):
    """A model with both settings, and its table."""
    cls, settings = MODELS[name]
    x, columns, sizes = rows(40), {}, {"x": 6}
    if cls is gvae.models.VIB:
        columns, sizes = {"y": np.arange(40) % 3}, {"x": 6, "y": 3}
    if cls in (gvae.models.DCCA, gvae.models.VCCA):
        columns, sizes = {"y": (x @ rows(6, 4, seed=1)).astype(dtype)}, {"x": 6, "y": 4}
    return cls(sizes, dtype=dtype, **settings | BOTH | given), Table(x.astype(dtype), dtype=np.dtype(dtype), **columns)


def objective_of(name):
    return objectives.Correlation() if name == "dcca" else objectives.ELBO()


@every_model
def test_every_layer_of_every_model_is_settled(name):
    model, table = built(name)
    params = model.init(random.key(1))
    layers = modes.with_statistics(params)
    assert layers
    found, _ = model.settle(params, model.init_state(KEY) if hasattr(model, "init_state") else {}, table)
    assert set(found) == {f"statistics.{layer}.{n}" for layer in layers for n in ("mean", "variance")}
    for value_name, value in found.items():
        assert value.dtype == np.float32
        assert not np.array_equal(value, params[value_name]), value_name


@every_model
def test_all_noise_of_dropout_is_drawn_and_used(name):
    """By its shape, one mask for each row or each draw of it; every mask changes the terms."""
    model, table = built(name)
    trainer = Trainer(model, objective=objective_of(name), samples=2)
    batch = table.batch(np.arange(20), KEY)
    noise = trainer.noise(KEY, batch)
    masks = {n: u for n, u in noise.items() if n.startswith("dropout.")}
    hidden = {f"dropout.{layer}" for layer in modes.with_statistics(trainer.parameters)}
    codes = {f"dropout.{view}.inputs" for view in (("decoder", "decoder_y") if name == "vcca" else ())}
    assert set(masks) == hidden | codes
    dreams = {n for n in noise if n.startswith("dream.")}
    assert trainer.noise(KEY, batch, masks=False).keys() == noise.keys() - masks.keys() - dreams
    params = dict(trainer.parameters)

    def value(noise):
        metrics = trainer.evaluate(params, trainer.arguments(batch, noise, 0))[1][0]
        return float(metrics.get("objective", metrics["bound"]))

    before = value(noise)
    for n, u in masks.items():
        assert u.shape[1] == 20
        other = u[:, ::-1].copy()
        assert value(noise | {n: other}) != before, n


# ---- scoring -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in MODELS if n != "dcca"])
def test_scores_of_a_row_do_not_depend_on_the_others(name):
    model, table = built(name, "float64")
    params = model.init(random.key(1))
    found, _ = model.settle(params, {}, table)
    params |= found
    batch = table.batch(np.arange(20), KEY)
    noise = model.noise(KEY, batch, 2)
    assert not any(n.startswith("dropout") for n in noise)
    together = model.terms(params, {}, batch, noise)
    assert not together.joint
    for part in ([3], [7, 1], list(range(20))[::-1]):
        alone = model.terms(params, {}, batch[np.array(part)], objectives.noise_of_rows(noise, part))
        np.testing.assert_allclose(
            alone.total_log_likelihood, np.asarray(together.total_log_likelihood)[:, part], rtol=1e-12, atol=1e-12
        )
        if name != "autoencoder":
            np.testing.assert_allclose(alone.log_weights, np.asarray(together.log_weights)[:, part], rtol=1e-12, atol=1e-12)


SMALL = SETTINGS | {"observation": "gaussian", "posterior": "diagonal"} | BOTH


def test_the_last_bound_of_validation_is_that_of_the_loaded_model(tmp_path):
    """Of the same rows with the same noise, in whatever batches."""
    held_out = rows(11, seed=5)
    model = gvae.VAE(**SMALL, standardize=False, dtype="float64").fit(X, validation=held_out)
    model.save(tmp_path / "model")
    loaded = gvae.load(tmp_path / "model")
    trainer = Trainer(loaded.model_, parameters=dict(loaded.parameters_), seed=SMALL["random_state"])
    last = model.history_[-1]["validation_bound"]
    table = Table(held_out.astype(np.float64), dtype=np.float64)
    np.testing.assert_allclose(trainer.validate(table)["bound"], last, rtol=1e-13)
    np.testing.assert_array_equal(loaded.score_samples(held_out), model.score_samples(held_out))
    np.testing.assert_allclose(model.transform(held_out)[:1], model.transform(held_out[:1]), rtol=1e-12)  # one row, alone


def test_validation_draws_no_masks_and_takes_no_moments_of_a_batch(monkeypatch):
    model = gvae.models.VAE(6, latent=2, hidden=(5,), **BOTH)
    trainer = Trainer(model)
    trainer.settle(Table(X))

    def never(*arguments, **settings):
        raise AssertionError("a step's")

    monkeypatch.setattr(model, "masks", never)
    monkeypatch.setattr("gvae.ops.normalize.batch_norm", never)
    assert np.isfinite(trainer.validate(Table(X), batch_size=1)["bound"])
    np.testing.assert_allclose(
        trainer.validate(Table(X[:1]))["bound"], trainer.validate(Table(X[:1]), batch_size=1)["bound"]
    )
    with pytest.raises(AssertionError, match="a step's"):
        trainer.step(Table(X).batch(np.arange(4), KEY))


# ---- training ------------------------------------------------------------------------------------


@every_model
def test_steps_are_captured_with_the_bits_of_python(name):
    model, table = built(name)
    trainers = [Trainer(model, objective=objective_of(name), seed=3, programs=programs) for programs in (True, False)]
    for trainer in trainers:
        train(model, table, epochs=3, batch_size=20, trainer=trainer)
    assert trainers[0].why_not == ""
    assert [(known.verified, known.why_not) for known in trainers[0].programs.known.values()] == [(True, "")]
    for part in ("parameters", "gradient"):
        np.testing.assert_array_equal(*(getattr(trainer, part).flat for trainer in trainers))
    assert all(not trainers[0].gradient[n].any() for n in trainers[0].parameters if n.startswith("statistics."))


def test_each_step_has_masks_of_its_own():
    model = gvae.models.VAE(6, latent=2, hidden=(5,), dropout=0.5)
    trainer, table = Trainer(model), Table(X)
    batch = table.batch(np.arange(10), KEY)
    drawn = [trainer.noise(trainer.inputs().noise, batch)["dropout.encoder.0"]]
    for _ in range(2):
        trainer.step(batch)
        drawn.append(trainer.noise(trainer.inputs().noise, batch)["dropout.encoder.0"])
    assert len({u.tobytes() for u in drawn}) == 3
    assert not np.array_equal(drawn[0], trainer.noise(KEY, batch)["dropout.decoder.0"])


RUNS = {
    "early stopping": {"average": "ema:0.9", "patience": 2, "validation_fraction": 0.2, "optimizer": "adamw:0.1"},
    "late average": {"average": "swa:2", "optimizer": "adamw:0.1"},
    "rollback": {"on_nonfinite": "rollback", "binarize": "dynamic", "observation": "bernoulli"},
}


@pytest.mark.parametrize("settings", list(RUNS))
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(settings, tmp_path, monkeypatch):
    """Within an epoch, with interim moments of some rows; those at the end are of all."""
    monkeypatch.setattr(base, "SETTLED", 20)
    settings, taken = SMALL | RUNS[settings], []
    model = gvae.VAE(**settings).fit(X, run=tmp_path / "whole", stop=lambda: taken.append(1))
    assert len(taken) >= 6
    for first in range(1, len(taken) + 1):
        run = tmp_path / f"stopped after {first}"
        with pytest.raises(StoppedError):
            gvae.VAE(**settings).fit(X, run=run, stop=after(first))
        again = gvae.VAE(**settings).fit(X, run=run, resume=True)
        same(run, tmp_path / "whole")
        np.testing.assert_array_equal(again.parameters_.flat, model.parameters_.flat)
        np.testing.assert_array_equal(gvae.load(run).parameters_.flat, model.parameters_.flat)


def statistics(params):
    return {name: value for name, value in params.items() if name.startswith("statistics.")}


@pytest.mark.parametrize("settings", [{}, {"average": "ema:0.9"}, RUNS["early stopping"]], ids=["last", "average", "best"])
def test_the_moments_that_are_kept_are_exact(settings, tmp_path, monkeypatch):
    """Of all training rows under the weights that are kept, in the run's last checkpoint, too."""
    monkeypatch.setattr(base, "SETTLED", 7)
    rows_of_all = X[: 32 if "patience" in settings else 40]
    held_out = {"validation": X[32:]} if "patience" in settings else {}
    settings = {n: v for n, v in settings.items() if n != "validation_fraction"}
    model = gvae.VAE(**SMALL | {"standardize": False} | settings).fit(rows_of_all, run=tmp_path / "run", **held_out)
    table = Table(rows_of_all)
    exact = modes.settled(model.model_, model.parameters_, {}, lambda: table.batches(KEY, 7))
    part = model.model_.settle(model.parameters_, {}, table, exact=False)[0]
    found = statistics(model.parameters_)
    assert found.keys() == exact.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, exact[name], err_msg=name)
        assert not np.array_equal(value, part[name])
    loaded = gvae.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.score_samples(X), model.score_samples(X))
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").tensors
    prefix = "best" if "patience" in settings else "average" if settings else "parameters"
    for name, value in found.items():
        np.testing.assert_array_equal(kept[f"{prefix}/{name}"], value)


def test_no_optimiser_and_no_average_moves_the_moments():
    """Weight decay and averages pass over them, but a look replaces what is left."""
    model, table = vae("float32"), Table(X)
    trainer = Trainer(model, optimizer="adamw:0.5", average="ema:0.5", learning_rate=0.01)
    train(model, table, epochs=2, batch_size=16, trainer=trainer)
    exact, _ = model.settle(trainer.weights, {}, table)
    for params in (trainer.weights, trainer.parameters):
        for name, value in exact.items():
            np.testing.assert_array_equal(params[name], value)


def test_a_batch_needs_two_rows(caplog):
    model = gvae.models.VAE(6, latent=2, hidden=(5,), normalize="batch")
    for batch_size, n in ((1, 40), (16, 1)):
        with pytest.raises(ConfigError, match=r"batches have 1 row .* in a step of VAE the rows of a batch depend on each"):
            train(model, Table(X[:n]), epochs=1, batch_size=batch_size)
    with caplog.at_level(logging.INFO):
        trainer, history = train(model, Table(X[:33]), epochs=2, batch_size=16)
    assert trainer.steps == 4
    assert {"event": "last batch left out", "rows": 1, "least": 2} in history.events
    assert "the last 1 of 33 rows of each epoch" in caplog.text
    assert train(model, Table(X[:34]), epochs=1, batch_size=16)[0].steps == 3
    plain = gvae.models.VAE(6, latent=2, hidden=(5,), dropout=0.5)
    assert train(plain, Table(X[:33]), epochs=1, batch_size=16)[0].steps == 3


def test_the_command_line_trains_scores_and_says_what_is_wrong(gvae_, here):
    np.savez("rows.npz", train=X, test=X[:9])
    flags = ["--hidden", "5", "--latent", "2", "--normalize", "batch", "--dropout", "0.2", "--epochs", "1", "--quiet"]
    assert gvae_("train", "rows.npz", *flags, "--batch-size", "13", "--out", "run")[0] == 0
    events = [json.loads(line) for line in (here / "run" / "log.jsonl").read_text().splitlines()]
    assert {"event": "last batch left out", "rows": 1, "least": 2} in [
        {n: e.get(n) for n in ("event", "rows", "least")} for e in events
    ]
    assert gvae_("evaluate", "run", "rows.npz", "--samples", "3")[0] == 0
    code, _, said = gvae_("train", "rows.npz", *flags, "--batch-size", "1", "--out", "other")
    assert code != 0
    assert "give larger batches" in said


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dlgm", "dlgm, corrupted", "vlae", "hierarchical", "ladder", "ladder, unshared"])
def test_a_posterior_again_has_the_mode_and_the_masks_of_the_step(name):
    model, table = built(name, "float64")
    params, batch = model.init(random.key(1)), table.batch(np.arange(20), KEY)
    noise = dict(model.noise(KEY, batch, 2)) | model.masks(KEY, batch, 2)
    terms = model.terms(params, {}, batch, noise, 0)
    assert terms.joint
    for layer in terms.layers:
        if layer.z is None:
            continue
        for f in (dict, stop_gradient):
            np.testing.assert_array_equal(layer.again(f, lambda z: z).mean, layer.q.mean)


@pytest.mark.parametrize("gradient", ["reparameterized", "stl", "rws"])
@pytest.mark.parametrize("name", ["vae", "dlgm", "hierarchical"])
def test_estimators_of_gradients_that_work(name, gradient):
    model, table = built(name)
    objective = objectives.parse("iwae", gradient=gradient)
    trainer, _ = train(model, table, epochs=2, batch_size=20, objective=objective, samples=3)
    assert np.isfinite(trainer.parameters.flat).all()


@pytest.mark.parametrize("gradient", ["dreg", "vimco", "rws_dreg"])
def test_estimators_that_take_rows_for_independent_are_refused(gradient):
    """dreg weighs a draw's path by the square of its weight, but other rows' weights depend on the draw as well."""
    objective = objectives.parse("iwae", gradient=gradient)
    model, table = built("vae")
    with pytest.raises(ConfigError, match=rf"gradient '{gradient}': .* by batch normalisation: expected 'reparam"):
        train(model, table, epochs=1, batch_size=20, objective=objective, samples=3)
    # no draw is normalised by a linear decoder, nor by dropout
    for settings in ({"normalize": "batch", "decoder_hidden": ()}, {"normalize": None}):
        model, table = built("vae", **settings)
        train(model, table, epochs=1, batch_size=20, objective=objective, samples=3)
    model, table = built("vae", "float64", posterior="diagonal")
    with pytest.raises(ConfigError, match=r"gradient 'hessian': .* by batch normalisation"):
        train(model, table, epochs=1, batch_size=20, objective=objectives.parse("elbo", gradient="hessian"))


def test_a_pair_of_disarm_shares_its_masks():
    model = gvae.models.SBN(6, latent=(4, 3), hidden=(5,), dropout=0.5)
    bits, objective = Table((X > 0.5).astype(np.float32)), objectives.ELBO(gradient="disarm")
    trainer = Trainer(model, objective=objective, samples=4)
    noise = trainer.noise(KEY, bits.batch(np.arange(20), KEY))
    drawn = {n: u for n, u in noise.items() if n.startswith("dropout")}
    assert sorted({len(u) for u in drawn.values()}) == [1, 4]
    for u in drawn.values():
        if len(u) == 4:
            np.testing.assert_array_equal(u[0], u[1])
            assert not np.array_equal(u[0], u[2])
    train(model, bits, epochs=1, batch_size=20, trainer=trainer)
    with pytest.raises(ConfigError, match="samples is 3"):
        Trainer(model, objective=objective, samples=3).noise(KEY, bits.batch(np.arange(20), KEY))


def test_what_is_not_finite_is_named():
    """Rows are not searched for the cause: in a step they depend on each other."""
    x = X.copy()
    x[5] = 1e30
    model = gvae.models.VAE(6, latent=2, hidden=(5,), observation="gaussian", **BOTH)
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError) as caught:
        train(model, Table(x), epochs=1, batch_size=40)
    assert caught.value.rows == []
    assert "batch of rows" in str(caught.value)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: gvae.models.SBN(6, latent=(3,), normalize="batch"),
            r"SBN: normalize is 'batch'.*not differentiable \(posterior bern",
        ),
        (lambda: gvae.models.HVM(6, latent=3, normalize="batch"), r"HVM: normalize is 'batch', expected None where draws"),
        (lambda: gvae.models.VAE(6, latent=3, posterior="bernoulli", normalize="batch"), r"VAE: normalize is 'batch'"),
        (
            lambda: gvae.models.NonlinearFactorAnalysis(6, latent=2, normalize="batch"),
            "NonlinearFactorAnalysis: normalize is",
        ),
        (lambda: gvae.models.Bayes(6, latent=2, normalize="batch", n_rows=9), "Bayes: normalize and dropout are not for"),
        (lambda: gvae.models.Bayes(6, latent=2, dropout=0.1, n_rows=9), "Bayes: normalize and dropout are not for"),
    ],
)
def test_models_that_refuse(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_settings_that_are_off_change_no_parameter():
    params = gvae.models.VAE(6, latent=2, hidden=(5,), normalize=None, dropout=0.0).init(KEY)
    assert list(params) == [f"{n}.{i}.{p}" for n in ("encoder", "decoder") for i in (0, 1) for p in ("weight", "bias")]
    conditional = families.Conditional("encoder", 4, families.parse("chain", 2), hidden=(8,))
    assert conditional.masks(KEY, (3,)) == {}


def test_a_dropped_model_without_an_encoder_learns_its_rows():
    model = gvae.models.NonlinearFactorAnalysis(6, latent=2, hidden=(5,), dropout=0.3)
    trainer, _ = train(model, Table(X), epochs=2, batch_size=20)
    assert np.isfinite(trainer.rows["encoder.raw"].values).all()
    assert np.isfinite(trainer.validate(Table(X[:5]))["bound"])


# ---- on a device ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vae", "vlae", "hierarchical", "dcca"])
def test_a_device_takes_the_same_steps(anywhere, name, monkeypatch):
    monkeypatch.setattr(base, "SETTLED", 16)
    model, table = built(name, "float64")
    trainers = []
    for place in ("cpu", "cuda"):
        trainer = Trainer(model, objective=objective_of(name), device=place, average="ema:0.9")
        train(model, table, epochs=2, batch_size=20, trainer=trainer)
        trainers.append(trainer)
    here, there = trainers
    assert not isinstance(there.weights.flat, np.ndarray)
    for params in ("parameters", "weights"):
        for n, value in getattr(here, params).items():
            np.testing.assert_allclose(getattr(there, params)[n].get(), value, rtol=1e-8, atol=1e-8, err_msg=n)
    bounds = [trainer.validate(table.to(trainer.device))["bound"] for trainer in trainers]
    np.testing.assert_allclose(*bounds, rtol=1e-9)


# ---- where layers are read one by one ------------------------------------------------------------


@every_dtype
def test_a_scoring_layer_is_affine(dtype):
    mlp, params = network(dtype, normalize="batch", dropout=0.5)
    h = x = normal(9, 5).astype(dtype)
    for i in range(3):
        weight, bias = mlp.scoring_layer(params, i)
        h = ref.activation("tanh" if i < 2 else "identity", h @ weight + bias)
    tolerance = 1e-12 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(h, mlp(params, x), rtol=tolerance, atol=tolerance)


def test_the_decoder_in_a_report_is_that_of_the_model(gvae_, here, monkeypatch):
    """What the page computes from the layers that it gets."""
    from gvae.report import Exhibit, live

    np.savez("rows.npz", train=X, test=X[:9])
    flags = ["--hidden", "5", "--latent", "2", "--observation", "bernoulli", "--activation", "tanh", "--normalize", "batch"]
    assert gvae_("train", "rows.npz", *flags, "--epochs", "2", "--batch-size", "10", "--quiet", "--out", "run")[0] == 0
    monkeypatch.setattr(live, "_array", np.asarray)
    exhibit = Exhibit(here / "run", first=9)
    found = live.decoder(exhibit)
    assert found["kind"] == "network"
    assert any(layer.startswith("decoder") for layer in modes.with_statistics(exhibit.model.parameters_))
    h = z = normal(20, 2)
    for layer in found["layers"]:
        a = h @ layer["weight"] + layer["bias"]
        h = np.tanh(a)
    means = exhibit.model.inverse_transform(z.astype(np.float32))
    np.testing.assert_allclose(ref.activation("sigmoid", a), means, rtol=1e-4, atol=1e-5)
