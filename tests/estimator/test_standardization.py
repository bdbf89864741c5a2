"""Columns in whatever units: the model sees them standardized, and what it says is in the units of the data, exactly."""

from __future__ import annotations

import json
import logging
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn import datasets
from sklearn.base import clone

import gvae
from gvae import data, families, random, training
from gvae.data import Standardization, Table
from gvae.errors import ConfigError, DataError, RunError, StoppedError

DATA = Path(__file__).parents[1] / "stored"
r = np.random.default_rng(0)
UNITS = np.array([1e-3, 1.0, 50.0, 1e6])
X = UNITS * (r.normal(size=(300, 4)) @ r.normal(size=(4, 4)) + np.array([0, 3, -1e4, 1]))
SMALL = {"latent": 2, "hidden": (8,), "epochs": 3, "batch_size": 50, "random_state": 1, "posterior": "chain"}


def deviations(x):
    return x.mean(axis=0), x.std(axis=0)


# ---- location and scale --------------------------------------------------------------------------


def test_mean_and_deviation_wherever_columns_lie(monkeypatch):
    """A column far from 0 loses no more digits than its numbers have, and blocks of rows make no difference."""
    x = 1e6 + 1e-3 * r.normal(size=(1000, 3))
    units = Standardization.of(x)
    np.testing.assert_allclose(units.location, x.mean(axis=0), rtol=1e-15)
    np.testing.assert_allclose(units.scale, (x - 1e6).std(axis=0), rtol=1e-6)  # x has ten digits after the point
    y = units(x, np.float32)
    assert (y.dtype, y.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_allclose(deviations(y.astype(np.float64)), [[0] * 3, [1] * 3], atol=1e-6)
    np.testing.assert_allclose(units.inverse(y), x, rtol=0, atol=1e-9)
    monkeypatch.setattr("gvae.data.standardization.BLOCK", 30)
    np.testing.assert_allclose(Standardization.of(x).scale, units.scale, rtol=1e-12)
    np.testing.assert_array_equal(units(x, np.float32), y)


def test_a_constant_column_whose_first_row_has_no_weight():
    x = np.array([[5.3], [0.1], [0.1], [0.1]])
    units = Standardization.of(x, weight=np.array([0, 0.3, 0.7, 0.9]))
    np.testing.assert_allclose((units.location, units.scale), ([0.1], [1.0]))


def test_constant_columns_keep_their_unit():
    x = np.array([[0.1, 1.0], [0.1, 3.0]] * 500)  # a mean of a thousand times 0.1 is not 0.1
    units = Standardization.of(x)
    np.testing.assert_array_equal(units.scale, [1, 1])
    np.testing.assert_array_equal(units(x, np.float64)[:, 0], 0)
    assert Standardization.of(x[:1]).scale.tolist() == [1, 1]


def test_one_scale_is_the_root_of_the_mean_variance():
    x = r.normal(size=(50, 3)) * [1, 2, 5]
    np.testing.assert_allclose(Standardization.of(x, one_scale=True).scale, np.sqrt(x.var(axis=0).mean()), rtol=1e-12)
    assert families.parse("shared:ar1", 3).one_scale
    assert not families.parse("chain", 3).one_scale


def test_grey_levels_are_dequantized_before_they_are_standardized():
    k = r.integers(0, 16, size=(2000, 5))
    units = Standardization.of(k / 15, levels=16)
    np.testing.assert_allclose(units.location, (k.mean(axis=0) + 0.5) / 16)
    np.testing.assert_allclose(units.scale, np.sqrt(k.var(axis=0) + 1 / 12) / 16)  # of k + u, u ~ U(0, 1)
    table = Table(k / 15, dequantize=16, standardization=units)
    first, again = (table.batch(np.arange(2000), random.key(seed)).x for seed in (0, 1))
    assert not np.array_equal(first, again)  # drawn at every presentation
    np.testing.assert_array_equal(np.floor(units.inverse(first) * 16), k)
    np.testing.assert_allclose(deviations(first), [[0] * 5, [1] * 5], atol=0.05)  # 2,000 rows: three standard errors


def test_what_cannot_be_standardized():
    with pytest.raises(DataError, match=r"X: the mean and deviation of column 1 .* -1e\+300, at row 2, column 1"):
        Standardization.of(np.array([[1, 2], [3, 4], [5, -1e300]]), name="X")
    with pytest.raises(ConfigError, match="standardization needs a dense x that is not binarized"):
        Table(X, standardization=Standardization.of(X), binarize="fixed")
    with pytest.raises(DataError, match=r"rows, standardized, as float32: NaN or infinite.*row 1, column 0"):
        Standardization.of(X).check(np.array([[1, 2, 3, 4], [1e300, 2, 3, 4]]), np.float32, "rows")
    for wrong in ({"location": [0.0], "scale": [0.0]}, {"location": [0.0, 1.0], "scale": [1.0]}):
        with pytest.raises(ValueError, match="no finite locations and positive scales"):
            Standardization.from_config(wrong)
    with pytest.raises(ConfigError, match=r"bernoulli has the support \[0, 1\], expected a family of real numbers"):
        families.Rescaled(families.parse("bernoulli", 3), np.ones(3))
    with pytest.raises(ConfigError, match=r"scale has shape \(2,\), expected 3 positive numbers"):
        families.Rescaled(families.parse("gaussian", 3), np.ones(2))


# ---- densities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["diagonal", "gaussian", "shared:chain", "full", "lowrank:1", "ar1", "mixture:2"])
def test_a_rescaled_density_is_that_of_the_units(text):
    """log p(x) = log p(y) - sum log scale with x = location + scale y: against SciPy's density in x."""
    base, units = families.parse(text, 4), np.array([0.1, 1.0, 5.0, 30.0])
    family = families.Rescaled(base, units)
    assert (str(family), family.n_shared, family.n_params) == (str(base), base.n_shared, base.n_params)
    raw, y = 0.3 * r.normal(size=base.n_params), r.normal(size=(7, 4))
    p, q = family(raw), base(raw)
    if text == "mixture:2":
        expected = q.log_prob(y) - np.log(units).sum()
    else:
        covariance = units[:, None] * q.covariance() * units
        expected = stats.multivariate_normal(units * q.mean, covariance).logpdf(units * y)
    np.testing.assert_allclose(p.log_prob(y), expected, rtol=1e-10)
    noise = p.noise(random.key(0), (3,))
    np.testing.assert_array_equal(p.sample(noise), q.sample(noise))
    np.testing.assert_allclose(p.log_prob_of_draw(noise, q.sample(noise)), p.log_prob(q.sample(noise)), rtol=1e-9)
    np.testing.assert_allclose(p.error(y), units * (q.mean - y))
    if text in ("diagonal", "shared:chain"):
        np.testing.assert_allclose(p.log_prob(y, reduce=False).sum(axis=-1), expected, rtol=1e-10)


@pytest.mark.parametrize("observation", ["gaussian", "diagonal", "shared:chain", "full", "mixture:2"])
def test_units_change_nothing_but_the_jacobian(observation):
    """Fitted on scaled columns and counted back, or on columns as they are: the same model, score, draws and codes."""
    settings = SMALL | {"observation": observation, "dtype": "float64"}
    train, test = X[:200], X[200:]
    location, scale = deviations(train)
    there = gvae.VAE(**settings, standardize=False).fit((train - location) / scale, validation=(test - location) / scale)
    here = gvae.VAE(**settings).fit(train, validation=test)
    jacobian = np.log(scale).sum()
    scaled = (test - location) / scale
    np.testing.assert_allclose(here.score_samples(test), there.score_samples(scaled) - jacobian, rtol=1e-6)
    for name in ("train_bound", "validation_bound", "train_log_likelihood"):
        assert here.history_[-1][name] == pytest.approx(there.history_[-1][name] - jacobian, rel=1e-6)
    np.testing.assert_allclose(here.transform(test), there.transform(scaled), rtol=1e-5, atol=1e-7)
    for name, arguments in (("sample", (5,)), ("inverse_transform", (np.eye(2),))):
        ours, theirs = (getattr(model, name)(*arguments) for model in (here, there))
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, location + scale * theirs, rtol=1e-5)
    np.testing.assert_allclose(here.reconstruct(test), location + scale * there.reconstruct(scaled), rtol=1e-5)
    measured, expected = (
        model.evaluate(x, samples=5, measures="reconstruction").measures["reconstruction"].summary()
        for model, x in ((here, test), (there, scaled))
    )
    assert measured["distortion"] == pytest.approx(expected["distortion"] + jacobian, rel=1e-6)
    assert (
        measured["squared_error"] > 100 * expected["squared_error"]
    )  # in the units of the data, the largest of which decides


def test_every_model_stands_in_any_units():
    """Means of 1e6 and deviations from 1e-3 to 1e6: the bounds of the scaled columns."""
    x = X + 1e6 * (UNITS < 1e6)
    location, scale = deviations(x)
    for name, make in gvae.estimators().items():
        if make.model.columns != {"x": "matrix"} or name == "eonade":  # of bits
            continue
        settings = {"observation": "gaussian", "epochs": 3}
        if name != "density":
            settings["latent"] = (2, 1) if name == "hierarchical" else 2
        model = make(**settings, random_state=1)
        here, there = clone(model).fit(x), clone(model).fit((x - location) / scale)
        assert here.history_[-1]["train_bound"] == pytest.approx(
            there.history_[-1]["train_bound"] - np.log(scale).sum(), abs=0.3
        )
        assert np.isfinite(here.sample(3)).all(), name


TABLES = {
    "wine": lambda: datasets.load_wine().data,
    "diabetes": lambda: datasets.load_diabetes(scaled=False).data,
    "breast cancer": lambda: datasets.load_breast_cancer().data,
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_as_they_come(name):
    """With defaults, for 20 epochs, held-out log p(x) is that of a scaler's run, counted back; without, it was thousands
    of nats below."""
    x = TABLES[name]()
    x = x[np.random.default_rng(0).permutation(len(x))]
    train, test = x[: len(x) * 4 // 5], x[len(x) * 4 // 5 :]
    location, scale = deviations(train)
    settings = {"latent": 3, "epochs": 20, "random_state": 0}
    ours = gvae.VAE(**settings).fit(train).score(test)
    scaled = gvae.VAE(**settings).fit((train - location) / scale).score((test - location) / scale)
    assert ours == pytest.approx(scaled - np.log(scale).sum(), abs=0.3)
    assert gvae.VAE(**settings, standardize=False).fit(train).score(test) < ours - 100


# ---- what is standardized, and where it is kept ---------------------------------------------------


def test_models_of_other_data_see_it_as_it_is():
    for observation, x in (
        ("bernoulli", r.random((50, 4))),
        ("poisson", r.poisson(50.0, size=(50, 4))),
        ("beta", r.uniform(0.1, 0.9, (50, 4))),
        ("gamma", r.gamma(2.0, size=(50, 4))),
    ):
        model = gvae.VAE(**SMALL, observation=observation).fit(x)
        assert model.standardization_ is None
        assert "standardization" not in model.config_["fitted"]
        assert model.sample(2).dtype == np.float32
    assert gvae.VAE(**SMALL, observation="gaussian", standardize=False).fit(r.normal(size=(50, 4))).standardization_ is None


def test_it_is_measured_on_the_rows_trained_on():
    """Rows held out for early stopping are no part of it; validation rows neither."""
    model = gvae.VAE(**SMALL, patience=2, validation_fraction=0.5).fit(X)
    held = np.zeros(len(X), bool)
    held[random.permutation(random.fold_in(random.key(1), 3), len(X))[:150]] = True
    np.testing.assert_allclose(model.standardization_.location, X[~held].mean(axis=0), rtol=1e-12)
    wild = gvae.VAE(**SMALL).fit(X, validation=X * 1e3)
    np.testing.assert_allclose(wild.standardization_.scale, X.std(axis=0), rtol=1e-12)


def test_constant_columns_are_named(caplog):
    x = X[:60].copy()
    x[:, [1, 3]] = 7.0
    with caplog.at_level(logging.WARNING, logger="gvae"):
        model = gvae.VAE(**SMALL, observation="gaussian").fit(x)
    assert [record.getMessage() for record in caplog.records] == [
        "fit: 2 of 4 columns of X are constant (1, 3; counted from 0): a density has no maximum there; leave them out"
    ]
    np.testing.assert_allclose(model.reconstruct(x)[:, 1], 7, atol=3)


def test_it_is_saved_loaded_and_resumed(tmp_path):
    settings = SMALL | {"observation": "gaussian"}
    whole = gvae.VAE(**settings).fit(X, run=tmp_path / "whole")
    kept = training.read_config(tmp_path / "whole")["fitted"]["standardization"]
    np.testing.assert_array_equal(kept["location"], whole.standardization_.location)
    asked = iter(range(100))
    with pytest.raises(StoppedError):
        gvae.VAE(**settings).fit(X, run=tmp_path / "run", stop=lambda: next(asked) == 4)
    again = gvae.VAE(**settings).fit(X, run=tmp_path / "run", resume=True)
    whole.save(tmp_path / "saved.gvae")
    for model in (again, gvae.load(tmp_path / "run"), gvae.load(tmp_path / "saved.gvae"), pickle.loads(pickle.dumps(whole))):
        np.testing.assert_array_equal(model.parameters_.flat, whole.parameters_.flat)
        np.testing.assert_array_equal(model.score_samples(X[:20], samples=3), whole.score_samples(X[:20], samples=3))
        np.testing.assert_array_equal(model.sample(3), whole.sample(3))
    with pytest.raises(ConfigError, match="was begun with standardize True, not False"):
        gvae.VAE(**settings, standardize=False).fit(X, run=tmp_path / "run", resume=True)
    for rows in (X[:, :3], X + UNITS):
        with pytest.raises(DataError, match="these are not the rows that"):
            gvae.VAE(**settings).fit(rows, run=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"location": [0.0] * 4, "scale": [-1.0] * 4}, "its standardization is not valid: no finite locations"),
        ({"location": [0.0] * 4}, "its standardization is not valid: 'scale'"),
        ({"location": [0.0], "scale": [1.0]}, "its standardization is of 1 columns, expected 4"),
        ("x", "its standardization is not valid: "),
    ],
)
def test_a_damaged_standardization_is_refused(change, message, tmp_path):
    """By a saved model, and by a run that is resumed."""
    model = gvae.VAE(**SMALL).fit(X, run=tmp_path / "run")
    model.config_["fitted"]["standardization"] = change
    model.save(tmp_path / "saved.gvae")
    (tmp_path / "run" / "config.json").write_text(json.dumps(model.config_))
    with pytest.raises(RunError, match=f"is damaged: {message}"):
        gvae.load(tmp_path / "saved.gvae")
    with pytest.raises(RunError, match=f"is damaged: {message}"):
        gvae.VAE(**SMALL | {"epochs": 4}).fit(X, run=tmp_path / "run", resume=True)


def test_dequantized_pixels_under_a_gaussian(tmp_path):
    digits = data.load("digits").train[:200]
    model = gvae.VAE(**SMALL, observation="shared:extended_grid:8x8", dequantize=17).fit(digits, run=tmp_path / "run")
    assert (model.standardization_.scale >= 1 / (17 * math.sqrt(12))).all()  # no constant columns: of the drawn part
    assert abs(model.reconstruct(digits[:50]) - digits[:50]).mean() < 0.3
    np.testing.assert_array_equal(gvae.load(tmp_path / "run").score_samples(digits[:9]), model.score_samples(digits[:9]))


def test_a_run_of_an_earlier_version_is_what_it_was(tmp_path):
    """Begun before networks started calmly, columns were standardized and "full" was relative, for 3 epochs; and parameters
    after 6 of it, perhaps on another processor."""
    rows = (np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32) * [1, 2, 3, 4, 5, 6] + 3).astype(np.float32)
    shutil.copytree(DATA / "before-the-calm-start", tmp_path / "run")
    loaded = gvae.load(tmp_path / "run")
    assert (loaded.posterior, loaded.start, loaded.standardize, loaded.standardization_) == (
        "full:absolute",
        "glorot",
        False,
        None,
    )
    settings = {
        "latent": 3,
        "hidden": (5,),
        "batch_size": 16,
        "random_state": 3,
        "posterior": "full",
        "observation": "gaussian",
    }
    resumed = gvae.VAE(**settings, epochs=6).fit(rows, run=tmp_path / "run", resume=True)
    after = np.load(DATA / "before-the-calm-start-after-6-epochs.npy")
    np.testing.assert_allclose(resumed.parameters_.flat, after, rtol=1e-3, atol=1e-5)
    then = settings | {"posterior": "full:absolute", "start": "glorot", "standardize": False}
    whole = gvae.VAE(**then, epochs=6).fit(rows)
    np.testing.assert_allclose(resumed.parameters_.flat, whole.parameters_.flat, rtol=1e-3, atol=1e-5)
