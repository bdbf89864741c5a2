"""The setting `initial`: training that starts from the parameters of another fitted model."""

import re

import numpy as np
import pytest

import gvae
from gvae import cli
from gvae.errors import ConfigError, RunError

SMALL = {"latent": 2, "hidden": (4,), "observation": "gaussian", "random_state": 0, "epochs": 2}
STILL = SMALL | {"random_state": 1, "epochs": 1, "learning_rate": 1e-30}  # parameters remain those of the start


@pytest.fixture
def rows():
    return gvae.random.normal(gvae.random.key(0), (60, 5), np.float32)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("half", [False, True])
def test_parameters_are_those_of_a_saved_model(rows, tmp_path, half):
    gvae.VAE(**SMALL).fit(rows).save(tmp_path / "first", half=half)
    kept = gvae.load(tmp_path / "first")
    assert not same(gvae.VAE(**STILL).fit(rows).parameters_, kept.parameters_)
    model = gvae.VAE(**STILL, initial=tmp_path / "first").fit(rows)
    assert same(model.parameters_, kept.parameters_)
    assert model.config_["fitted"]["initial"] == kept.parameters_.sha256()


def test_output_biases_are_not_set_again_by_the_data(rows, tmp_path):
    x = (rows > 1).astype(np.float32)
    bernoulli = {"observation": "bernoulli", "output_bias": "data"}
    first = gvae.VAE(**SMALL | bernoulli).fit(x, run=tmp_path / "first")
    model = gvae.VAE(**STILL | bernoulli, initial=str(tmp_path / "first")).fit(x)
    assert same(model.parameters_, first.parameters_)


def test_the_objective_and_the_precision_may_differ(rows, tmp_path):
    first = gvae.VAE(**SMALL).fit(rows, run=tmp_path / "first")
    other = {"objective": "iwae", "samples": 3, "gradient": "dreg", "dtype": "float64"}
    model = gvae.VAE(**STILL | other, initial=str(tmp_path / "first")).fit(rows)
    assert same(model.parameters_, {name: value.astype(np.float64) for name, value in first.parameters_.items()})
    assert all(value.dtype == np.float64 for value in model.parameters_.values())


def test_the_state_is_that_of_the_other_model(rows, tmp_path, monkeypatch):
    y, settings = rows[:, :3] ** 2, {"latent": 2, "hidden": (4,), "random_state": 0}
    kept = gvae.DCCA(**settings, epochs=3).fit(rows, y, run=tmp_path / "first").state_
    train, starts = gvae.training.train, []

    def watched(*given, trainer, **settings):
        starts.append({name: np.array(value) for name, value in trainer.state.items()})
        return train(*given, trainer=trainer, **settings)

    monkeypatch.setattr(gvae.training, "train", watched)
    for initial in (str(tmp_path / "first"), None):
        gvae.DCCA(**settings, epochs=1, initial=initial).fit(rows, y)
    assert kept
    assert same(starts[0], kept)
    assert not same(starts[1], kept)


def test_a_resumed_run_has_the_bits_of_one_that_was_not_stopped(rows, tmp_path):
    gvae.VAE(**SMALL).fit(rows, run=tmp_path / "first")
    settings = SMALL | {"random_state": 3, "initial": str(tmp_path / "first")}
    whole = gvae.VAE(**settings).fit(rows, run=tmp_path / "whole")
    gvae.VAE(**settings | {"epochs": 1}).fit(rows, run=tmp_path / "parts")
    parts = gvae.VAE(**settings).fit(rows, run=tmp_path / "parts", resume=True)
    assert parts.parameters_.sha256() == whole.parameters_.sha256()
    assert f'initial = "{tmp_path}/first"' in (tmp_path / "whole" / "run.toml").read_text()
    (tmp_path / "first").rename(tmp_path / "moved")
    longer = settings | {"epochs": settings["epochs"] + 1, "initial": str(tmp_path / "moved")}
    moved = gvae.VAE(**longer).fit(rows, run=tmp_path / "parts", resume=True)
    assert moved.config_["settings"]["initial"] == str(tmp_path / "moved")


def test_a_run_with_a_relative_path_is_resumed_elsewhere(rows, tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    np.save("rows.npy", rows)
    flags = ["--latent", "2", "--hidden", "4", "--quiet"]
    assert cli.main(["train", "rows.npy", "--out", "first", "--epochs", "1", *flags]) == 0
    assert cli.main(["train", "rows.npy", "--out", "run", "--epochs", "1", "--initial", "first", *flags]) == 0
    monkeypatch.chdir(tmp_path / "there")
    assert cli.main(["train", "--resume", "../here/run", "--epochs", "2", "--quiet"]) == 0
    assert cli.main(["train", "--config", "../here/run/run.toml", "--out", "again", "--quiet"]) == 0
    assert gvae.load("again").get_params()["initial"] == str(tmp_path / "here" / "first")


def test_a_run_is_not_resumed_with_other_initial_parameters(rows, tmp_path):
    first = str(tmp_path / "first")
    gvae.VAE(**SMALL).fit(rows).save(first)
    settings = SMALL | {"epochs": 1, "initial": first}
    gvae.VAE(**settings).fit(rows, run=tmp_path / "run")
    gvae.VAE(**SMALL | {"random_state": 5}).fit(rows).save(first)
    with pytest.raises(ConfigError, match=r"was begun from other parameters than those that .* now has"):
        gvae.VAE(**settings | {"epochs": 2}).fit(rows, run=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"was begun with initial .*first', not None"):
        gvae.VAE(**settings | {"epochs": 2, "initial": None}).fit(rows, run=tmp_path / "run", resume=True)


def test_models_with_parameters_of_rows_are_refused(rows, tmp_path):
    """They would start anew beside networks that expect those of the other run."""
    settings = {"latent": 2, "hidden": (4,), "random_state": 0, "epochs": 1}
    gvae.NonlinearFactorAnalysis(**settings).fit(rows).save(tmp_path / "first")
    with pytest.raises(ConfigError, match=r"fit: initial is .*first', expected None: \w+ has parameters for each row"):
        gvae.NonlinearFactorAnalysis(**settings, initial=str(tmp_path / "first")).fit(rows)


def test_another_model_is_refused(rows, tmp_path):
    first = str(tmp_path / "first")
    gvae.VAE(**SMALL).fit(rows).save(first)
    wider = r"initial is .*first': its parameter \S+ has shape \(5, 4\), expected shape \(5, 6\)"
    with pytest.raises(ConfigError, match=wider):
        gvae.VAE(**STILL | {"hidden": (6,)}, initial=first).fit(rows)
    for change, problem in (({"normalize": "batch"}, r"has none, expected shape"), ({}, r"has shape \S+, expected none")):
        other = str(tmp_path / f"other{len(change)}")
        gvae.VAE(**SMALL | ({} if change else {"normalize": "batch"})).fit(rows).save(other)
        with pytest.raises(ConfigError, match=rf"initial is .*: its parameter \S+ {problem}"):
            gvae.VAE(**STILL | change, initial=other).fit(rows)
    with pytest.raises(RunError, match=re.escape(f"initial: {tmp_path / 'none'}")):
        gvae.VAE(**STILL, initial=str(tmp_path / "none")).fit(rows)
