"""Runs that survive: a run that was stopped, at whatever step and however, ends with the bits of one that was not."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from run_cases import SETTINGS, X, after, same

import gvae
from gvae import VAE, cli, models
from gvae.data import Table
from gvae.errors import ConfigError, DataError, NonFiniteError, RunError, StoppedError
from gvae.runtime import pool
from gvae.training import RunFolder, Trainer, Until, load_checkpoint, survey, train

DATA = Path(__file__).parents[1] / "stored"
THEN = {"start": "glorot", "standardize": False}  # as version 0.1.0 always did
EVERYTHING = {
    "objective": "iwae",
    "samples": 2,
    "warmup": 2,
    "schedule": "plateau:1",
    "average": "ema:0.9",
    "clip": 0.5,
    "patience": 2,
    "validation_fraction": 0.2,
    "binarize": "dynamic",
}


# ---- resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        EVERYTHING,
        {"schedule": "cosine", "average": "swa:2", "on_nonfinite": "rollback", "posterior": "diagonal"},
        {"schedule": "iwae", "dtype": "float64", "observation": "gaussian", "on_nonfinite": "skip"},
        {"steps": 8, "epochs": 20, "binarize": "fixed"},
        THEN
        | {"observation": "gaussian", "learning_rate": 300.0, "on_nonfinite": "rollback", "average": "ema"},  # 3 roll-backs
    ],
    ids=lambda s: " ".join(s)[:40] or "plain",
)
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(settings, tmp_path):
    model = VAE(**SETTINGS | settings)
    validation = None if "patience" in settings else X[:10]
    taken = []
    model.fit(X, run=tmp_path / "whole", validation=validation, stop=lambda: taken.append(1))
    rolled_back = sum(event["policy"] == "rollback" for event in model.events_)
    assert len(taken) >= 6
    assert rolled_back == (3 if "learning_rate" in settings else 0)
    for first in range(1, len(taken) + 1):  # after 3, 6 and 9 all steps of an epoch are taken, and its end is still to come
        run = tmp_path / f"stopped after {first}"
        with pytest.raises(
            StoppedError, match=r"stopped at step \d, in epoch" if rolled_back else f"stopped at step {first},"
        ):
            VAE(**SETTINGS | settings).fit(X, run=run, validation=validation, stop=after(first))
        again = VAE(**SETTINGS | settings).fit(X, run=run, validation=validation, resume=True)
        same(run, tmp_path / "whole")
        np.testing.assert_array_equal(again.parameters_.flat, model.parameters_.flat)
        assert [row["epoch"] for row in again.history_] == [row["epoch"] for row in model.history_]
        np.testing.assert_array_equal(gvae.load(run).parameters_.flat, model.parameters_.flat)


def test_skipped_steps_are_part_of_a_run(tmp_path):
    """They count as steps, and not as the optimiser's."""
    rows = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    rows[17, 3] = 1e25  # no finite bound
    settings = SETTINGS | {"observation": "gaussian", "standardize": False, "on_nonfinite": "skip"}
    whole = VAE(**settings).fit(rows, run=tmp_path / "whole")
    assert len(whole.events_) == 3
    for first in range(1, 10):
        with pytest.raises(StoppedError):
            VAE(**settings).fit(rows, run=tmp_path / f"{first}", stop=after(first))
        VAE(**settings).fit(rows, run=tmp_path / f"{first}", resume=True)
        same(tmp_path / f"{first}", tmp_path / "whole")


def test_a_run_stopped_after_every_step(tmp_path):
    VAE(**SETTINGS | EVERYTHING).fit(X, run=tmp_path / "whole")
    resume, stops = False, 0
    while True:
        try:
            VAE(**SETTINGS | EVERYTHING).fit(X, run=tmp_path / "run", resume=resume, stop=lambda: True)
            break
        except StoppedError:
            resume, stops = True, stops + 1
    assert stops == load_checkpoint(tmp_path / "whole" / "checkpoint.safetensors").counters["steps"]
    same(tmp_path / "run", tmp_path / "whole")


def test_the_number_of_threads_may_change_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "SHARE", 1)  # so that work this small is shared at all
    settings = SETTINGS | EVERYTHING | {"epochs": 4}
    monkeypatch.setenv("GVAE_NUM_THREADS", "1")
    VAE(**settings).fit(X, run=tmp_path / "whole")
    for i, n in enumerate(("3", "1", "2", "8")):
        monkeypatch.setenv("GVAE_NUM_THREADS", n)
        with contextlib.suppress(StoppedError):
            VAE(**settings).fit(X, run=tmp_path / "run", resume=i > 0, stop=after(2) if n != "8" else None)
    same(tmp_path / "run", tmp_path / "whole")


class Stateful(models.VAE):
    """With a running statistic that enters the bound, and per-datum parameters."""

    def init_state(self, key):
        return {"level": np.zeros((), np.float32)}

    def init_rows(self, key, n_rows):
        return {"rows.shift": np.zeros((n_rows, 6), np.float32)}

    def terms(self, params, state, batch, noise, step=0):
        batch.x = batch.x + params["rows.shift"]
        terms = super().terms(params, state, batch, noise, step)
        terms.log_likelihood["x"] = terms.log_likelihood["x"] * (1 + float(state["level"]))
        terms.state = {"level": np.float32(0.9) * state["level"] + np.float32(0.01)}
        return terms


@pytest.mark.parametrize("policy", ["stop", "rollback"])
def test_state_and_rows_are_part_of_a_run(tmp_path, policy):
    def run(path, stop=None, reopen=False):
        model = Stateful(6, 2, hidden=(5,), observation="gaussian")
        folder = RunFolder.reopen(path) if reopen else RunFolder(path, {"a": 1})
        trainer = Trainer(model, n_rows=40, average="ema")
        if reopen:
            folder.restore(trainer, {"a": 1})
        try:
            train(model, Table(X), epochs=3, batch_size=16, run=folder, trainer=trainer, stop=stop, on_nonfinite=policy)
        finally:
            folder.close()

    run(tmp_path / "whole")
    for first in (1, 4, 6, 8):
        with pytest.raises(StoppedError):
            run(tmp_path / f"{first}", after(first))
        run(tmp_path / f"{first}", reopen=True)
        same(tmp_path / f"{first}", tmp_path / "whole")
    names = load_checkpoint(tmp_path / "whole" / "checkpoint.safetensors").tensors
    assert {"state/level", "rows/rows.shift/values", "rows/rows.shift/steps"} <= set(names)


@pytest.mark.parametrize("length", [({}, {"epochs": 5}), ({"steps": 9}, {"steps": 15})], ids=["epochs", "steps"])
def test_the_length_may_be_more(tmp_path, length):
    first, more = (SETTINGS | settings for settings in length)
    VAE(**more).fit(X, run=tmp_path / "whole")
    VAE(**first).fit(X, run=tmp_path / "run")
    with pytest.raises(StoppedError):
        VAE(**more).fit(X, run=tmp_path / "run", resume=True, stop=after(1))
    VAE(**more).fit(X, run=tmp_path / "run", resume=True)
    same(tmp_path / "run", tmp_path / "whole")
    for name in ("config.json", "run.toml"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    model = VAE(**more).fit(X, run=tmp_path / "run", resume=True)  # nothing is left to do
    assert [row["epoch"] for row in model.history_] == [1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match="it can be extended, not shortened"):
        VAE(**first).fit(X, run=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("settings", "rows", "error", "message"),
    [
        ({"latent": 3}, X, ConfigError, "was begun with latent 2, not 3"),
        ({"hidden": (6,)}, X, ConfigError, r"was begun with hidden \[5\], not \[6\]"),
        ({"random_state": 2}, X, ConfigError, "was begun with random_state 1, not 2"),
        ({"schedule": "plateau"}, X, ConfigError, "was begun with schedule 'constant', not 'plateau'"),
        ({"average": "ema"}, X, ConfigError, "was begun with average None, not 'ema'"),
        ({"epochs": 2}, X, ConfigError, "was begun with epochs 3, not 2; it can be extended, not shortened"),
        ({"steps": 100}, X, ConfigError, "was begun with steps None, not 100"),
        ({}, X[::-1].copy(), DataError, r"not the rows that .*: data_sha256 was [0-9a-f]{12}\.\., is [0-9a-f]{12}\.\.$"),
        ({}, X[:, :5], DataError, "n_features_in was 6, is 5"),
    ],
)
def test_what_contradicts_a_run_is_refused(tmp_path, settings, rows, error, message):
    with pytest.raises(StoppedError):
        VAE(**SETTINGS).fit(X, run=tmp_path / "run", stop=after(2))
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(error, match=message):
        VAE(**SETTINGS | settings).fit(rows, run=tmp_path / "run", resume=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_a_cosine_cannot_be_extended(tmp_path):
    VAE(**SETTINGS | {"schedule": "cosine"}).fit(X, run=tmp_path / "run")
    with pytest.raises(ConfigError, match="ends with epoch 3"):
        VAE(**SETTINGS | {"schedule": "cosine", "epochs": 4}).fit(X, run=tmp_path / "run", resume=True)
    VAE(**SETTINGS | {"schedule": "cosine:4"}).fit(X, run=tmp_path / "longer")
    model = VAE(**SETTINGS | {"schedule": "cosine:4", "epochs": 4}).fit(X, run=tmp_path / "longer", resume=True)
    assert len(model.history_) == 4


def test_a_drawn_seed_is_the_runs(tmp_path):
    settings = SETTINGS | {"random_state": None}
    with pytest.raises(StoppedError):
        VAE(**settings).fit(X, run=tmp_path / "run", stop=after(4))
    model = VAE(**settings).fit(X, run=tmp_path / "run", resume=True)
    whole = VAE(**settings | {"random_state": model.seed_}).fit(X)
    np.testing.assert_array_equal(model.parameters_.flat, whole.parameters_.flat)


def test_a_run_without_a_checkpoint_starts_anew(tmp_path):
    """As a process leaves it that is killed before its first one, with a line of the log already there."""
    VAE(**SETTINGS).fit(X, run=tmp_path / "whole")
    VAE(**SETTINGS).fit(X, run=tmp_path / "run")
    for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(RunError, match="was stopped before the first one"):
        gvae.load(tmp_path / "run")
    VAE(**SETTINGS).fit(X, run=tmp_path / "run", resume=True)
    same(tmp_path / "run", tmp_path / "whole")


def test_what_is_no_run_cannot_be_resumed(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("file", "empty", "nowhere"):
        with pytest.raises(RunError, match="is not a run folder"):
            VAE(**SETTINGS).fit(X, run=tmp_path / name, resume=True)
    with pytest.raises(ConfigError, match="resume needs the folder"):
        VAE(**SETTINGS).fit(X, resume=True)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file"]
    assert os.listdir(tmp_path / "empty") == []


def test_the_command_takes_all_from_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", X)
    np.save("other.npy", X[::-1])
    flags = ["--latent", "2", "--hidden", "5", "4", "--epochs", "3", "--batch-size", "16", "--seed", "5", "--warmup", "2"]
    flags += ["--average", "swa:2", "--patience", "2", "--clip", "3", "--quiet"]
    assert cli.main(["train", "rows.npy", "--out", "whole", *flags, "--epochs", "4"]) == 0
    assert cli.main(["train", "rows.npy", "--out", "run", *flags]) == 0
    capsys.readouterr()
    for wrong, words in (
        (["--latent", "3"], "was begun with latent 2, not 3"),
        (["--hidden", "5"], "was begun with hidden [5, 4], not [5]"),
        (["--seed", "0"], "was begun with random_state 5, not 0"),
        (["--epochs", "2"], "extended, not shortened"),
        (["--steps", "7"], "was begun with steps None, not 7"),
        (["other.npy"], "not the rows that run was begun with"),
        (["missing.npy"], "missing.npy: no such file"),
        (["--resume", ""], "is not a run folder"),
    ):
        assert cli.main(["train", "--resume", "run", *wrong]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), words in err) == ("", 1, True), err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cli.main(["train", "--resume", "../run", "--epochs", "4", "--latent", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "4 epochs, 8 steps" in out
    assert "kept: the weights of epoch" in out
    same(tmp_path / "run", tmp_path / "whole")


# ---- earlier formats -----------------------------------------------------------------------------

FORMAT_1 = {"latent": 2, "hidden": (5,), "batch_size": 16, "random_state": 3, "warmup": 4}


def test_a_run_of_format_1_loads_and_goes_on(tmp_path):
    """Files that version 0.1.0 wrote, after 3 epochs; and its parameters after 5 of a run that never stopped, perhaps on
    another processor."""
    rows = np.random.default_rng(0).random((40, 6)).astype(np.float32)
    shutil.copytree(DATA / "format-1", tmp_path / "run")
    loaded = gvae.load(tmp_path / "run")
    assert [row["epoch"] for row in loaded.history_] == [1, 2, 3]
    assert (loaded.observation, loaded.observation_, loaded.binarize_) == ("auto", "bernoulli", "dynamic")  # of then
    assert (loaded.schedule, loaded.average, loaded.on_nonfinite, loaded.warmup) == ("constant", None, "stop", 4)
    np.testing.assert_array_equal(gvae.load(DATA / "format-1-saved.safetensors").parameters_.flat, loaded.parameters_.flat)
    resumed = VAE(**FORMAT_1, epochs=5).fit(rows, validation=rows[:10], run=tmp_path / "run", resume=True)
    np.testing.assert_allclose(resumed.parameters_.flat, np.load(DATA / "format-1-after-5-epochs.npy"), rtol=1e-4, atol=1e-6)
    whole = VAE(**FORMAT_1, **THEN, observation="bernoulli", epochs=5).fit(rows, validation=rows[:10])
    np.testing.assert_allclose(resumed.parameters_.flat, whole.parameters_.flat, rtol=1e-4, atol=1e-6)
    assert [row["epoch"] for row in resumed.history_] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(gvae.load(tmp_path / "run").parameters_.flat, resumed.parameters_.flat)
    config = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors").config
    assert config["settings"]["schedule"] == "constant"
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config


def test_every_earlier_format_has_a_migration():
    from gvae.training import checkpoint

    assert sorted(checkpoint.MIGRATIONS) == list(range(1, checkpoint.FORMAT))


# ---- what is logged where ------------------------------------------------------------------------


def test_loggers(tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG, logger="gvae")
    VAE(**SETTINGS).fit(X, run=tmp_path / "run")
    records = [(r.name, r.levelname) for r in caplog.records]
    each_epoch = [("gvae.training.loop", "INFO"), ("gvae.training.runs", "DEBUG")]
    assert records == [("gvae.estimator", "INFO"), *each_epoch * 3]
    assert caplog.records[0].getMessage() == "fit: observation bernoulli, dynamic binarization"
    assert capsys.readouterr() == ("", "")


def test_a_long_epoch_is_saved_within(tmp_path):
    saved = []

    class Watched(RunFolder):
        def save(self, trainer):
            saved.append((trainer.epochs, trainer.epoch.batches))
            super().save(trainer)

    train(models.VAE(6, 2, hidden=(5,)), Table(X), epochs=2, batch_size=16, run=Watched(tmp_path / "run", {}, save_every=0))
    assert saved == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]


# ---- gvae runs -----------------------------------------------------------------------------------


def test_a_table_of_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["runs"]) == 0
    assert capsys.readouterr() == (".: no run folders\n", "")
    last = {}
    for name, settings, stop in (
        ("a finished", {}, None),
        ("b stopped early", {"epochs": 60, "learning_rate": 0.1, "hidden": (30,), "patience": 2}, None),
        ("c interrupted", {"epochs": 9}, after(4)),
        ("d by steps", {"steps": 4}, None),
        ("e damaged", {}, None),
        ("f not begun", {}, None),
        ("g training", {}, None),
    ):
        with contextlib.suppress(StoppedError):
            model = VAE(**SETTINGS | settings).fit(X, run=name, stop=stop, notes={"data": "x.npy"})
            last[name] = next(row for row in model.history_ if row["step"] == model.n_iter_)  # of the weights that are kept
    shutil.copytree(DATA / "format-1", "h of format 1")
    os.mkdir("other")
    for checkpoint in ("checkpoint.safetensors", "checkpoint.previous.safetensors"):
        Path("e damaged", checkpoint).write_bytes(b"12345678 no header")
        Path("f not begun", checkpoint).unlink()
    with contextlib.closing(RunFolder.reopen("g training")):
        assert cli.main(["runs", "."]) == 0
        out, err = capsys.readouterr()
        assert cli.main(["runs", "--json"]) == 0
        found = {run["run"]: run for run in json.loads(capsys.readouterr().out)}
    assert err == ""
    heading, *lines = out.splitlines()
    assert heading.split() == ["run", "epoch", "state", "bound", "data", "model", "posterior", "objective"]
    assert len(lines) == len(found) == 8
    for line, (name, run) in zip(lines, found.items(), strict=True):
        assert line.startswith(name)
        assert run["state"] == ("finished" if name in ("d by steps", "h of format 1") else name[2:])
        assert run["state"] in line
        assert (run["model"], " vae " in line) == ("vae", True)
        if name in last and name[0] not in "ef":
            bound = last[name].get("validation_bound", last[name]["train_bound"])
            assert run["bound"] == bound
            assert f"{bound:.2f}" in line
            assert (run["epoch"] > last[name]["epoch"]) == (name == "b stopped early")
    assert (found["c interrupted"]["epoch"], found["c interrupted"]["step"]) == (1, 4)
    assert "1/9 " in lines[2]
    assert "step 4/4" in lines[3]
    assert cli.main(["runs", "a finished"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["runs", "nowhere"]) == 2
    assert "cannot look into nowhere" in capsys.readouterr().err


def test_a_run_of_a_model_of_one_step_is_finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gvae.CCA(latent=2, random_state=0).fit(X, X[:, ::-1], run="run")
    (found,) = survey(".")
    assert (found["state"], found["epochs"], found["step"]) == ("finished", None, 1)


def test_a_run_with_a_patience_of_its_own_is_not_finished_before_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS | {"epochs": "auto", "patience": 4000}
    with contextlib.suppress(StoppedError):
        VAE(**settings).fit(X, run="run", stop=after(1500))  # the bound is at its best before
    waited = load_checkpoint("run/checkpoint.safetensors").counters["stopping"]["waited"]
    until = Until.of(len(X), SETTINGS["batch_size"])
    assert waited >= until.patience
    assert [found["state"] for found in survey(".")] == ["interrupted"]


def test_a_run_that_cannot_begin_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = set(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("gvae.training.runs.about_this_process", full)  # for the last of its first files
        with pytest.raises(RunError, match="No space left on device"):
            VAE(**SETTINGS).fit(X, run=tmp_path / "new" / "run")
    assert set(tmp_path.iterdir()) == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(NonFiniteError):
        VAE(**SETTINGS | {"learning_rate": 1e300}).fit(X, run=tmp_path / "mine" / "new" / "run")
    assert list((tmp_path / "mine").iterdir()) == []
    VAE(**SETTINGS).fit(X, run=tmp_path / "new" / "run")
