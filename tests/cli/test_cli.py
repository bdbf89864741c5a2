"""The command line, used as a user uses it: commands that work."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import ROWS, RUN, command
from safetensors import safe_open
from safetensors.numpy import load_file

import gvae
import gvae.demo
from gvae import cli, data, doctor, evaluation, families, settings
from gvae.runtime import limits, pool

rng = np.random.default_rng(0)


@pytest.mark.sharing
def test_train_leaves_a_run_folder(trained):
    run, out, err = trained
    assert err == ""  # no progress bar where there is no terminal
    assert sorted(p.name for p in run.iterdir()) == RUN
    assert sorted(p.name for p in run.parent.iterdir()) == ["run"]

    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2, 3]
    assert [row["step"] for row in log] == [8, 16, 24]
    for row in log:
        for part in ("train", "validation"):
            assert row[f"{part}_bound"] == pytest.approx(row[f"{part}_log_likelihood"] - row[f"{part}_kl"])
            assert row[f"{part}_kl"] > 0
        assert row["steps_per_second"] == pytest.approx(8 / row["seconds"])
    assert log[-1]["validation_bound"] > log[0]["validation_bound"]
    assert f"bound {log[-1]['train_bound']:.2f} (train), {log[-1]['validation_bound']:.2f} (test)" in out
    chosen, _, summary = out.splitlines(keepends=True)[0], *out.partition("\n")[1:]
    assert chosen == "vae: observation bernoulli (grey levels: all values are multiples of 1/16), dynamic binarization\n"
    assert summary.count("\n") == 1

    config = json.loads((run / "config.json").read_text())
    assert config["model"] == "vae"
    assert config["settings"] == {
        "latent": 4,
        "initial": None,
        "shuffle": "auto",
        "posterior": "extended_grid:2x2",
        "observation": "auto",
        "dequantize": None,
        "prior": None,
        "hidden": [16, 12],
        "decoder_hidden": None,
        "normalize": None,
        "dropout": 0.0,
        "critic": None,
        "activation": "elu",
        "objective": "elbo",
        "gradient": "reparameterized",
        "samples": 2,
        "warmup": 0,
        "binarize": None,
        "epochs": 3,
        "steps": None,
        "batch_size": 200,
        "learning_rate": 1e-3,
        "rates": None,
        "alone": None,
        "optimizer": "adam",
        "schedule": "constant",
        "average": None,
        "clip": None,
        "on_nonfinite": "stop",
        "patience": None,
        "validation_fraction": 0.1,
        "start": "calm",
        "output_bias": "zero",
        "standardize": True,
        "dtype": "float32",
        "device": "cpu",
        "shards": 1,
        "random_state": 7,
        "verbose": True,
    }
    assert len(config["fitted"].pop("data_sha256")) == 64
    assert config["fitted"] == {
        "n_rows": 1498,
        "binarize": "dynamic",
        "observation": "bernoulli",
        "n_features_in": 64,
        "grey_levels": None,
    }
    assert config["notes"] == {"data": "digits", "data_dir": None, "image_shape": [8, 8], "gvae": gvae.__version__}

    with safe_open(run / "checkpoint.safetensors", "numpy") as file:
        names = set(file.keys())
        assert json.loads(file.metadata()["config"]) == json.loads((run / "config.json").read_text())
    assert {"optimizer/m", "optimizer/v", "parameters/encoder.0.weight", "parameters/decoder.2.bias"} <= names


def test_the_same_seed_gives_the_same_run(run, gvae_, here):
    shown = json.loads((run / "config.json").read_text())["settings"]
    flags = [f"--{n.replace('_', '-')}={shown[n]}" for n in ("latent", "posterior", "epochs", "batch_size", "samples")]
    gvae_("train", "digits", "--out", "again", *flags, "--hidden", "16", "12", "--seed", "7")
    gvae_("train", "digits", "--out", "other", *flags, "--hidden", "16", "12", "--seed", "8")
    ours, same, other = (load_file(p / "checkpoint.safetensors") for p in (run, here / "again", here / "other"))
    for name, value in ours.items():
        np.testing.assert_array_equal(value, same[name])
    assert not np.array_equal(ours["parameters/decoder.0.weight"], other["parameters/decoder.0.weight"])
    assert (run / "config.json").read_bytes() == (here / "again" / "config.json").read_bytes()


def test_evaluate_prints_what_python_computes(run, gvae_):
    code, out, err = gvae_("evaluate", run, "--samples", "7", "--seed", "3", "--json", "--rows", "rows.csv")
    assert (code, err) == (0, "")
    digits = data.load("digits")
    result = gvae.load(run).evaluate(digits.test, samples=7, seed=3)
    about = {"run": str(run), "data": "digits", "split": "test", "seed": 3, "binarize": "dynamic"}
    shown = json.loads(out)
    assert shown.pop("pareto_k") is result.summary().pop("pareto_k") is None  # too few samples
    assert shown == about | {k: v for k, v in result.summary().items() if k != "pareto_k"}
    assert json.loads(out)["rows"] == len(digits.test)

    heading, *lines = Path("rows.csv").read_text().splitlines()
    names = heading.split(",")
    assert names == ["row", "elbo", "log_likelihood", "standard_error", "kl", "effective_sample_size", "pareto_k"]
    table = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    np.testing.assert_array_equal(table[:, 0], np.arange(len(digits.test)))
    for column, name in enumerate(names[1:], 1):
        np.testing.assert_array_equal(table[:, column], getattr(result, name))
    assert os.listdir() == ["rows.csv"]

    code, same, err = gvae_("evaluate", run, "--samples", "7", "--seed", "3", "--json", "--memory", "30")
    assert (code, err) == (0, "")
    same, before = json.loads(same), json.loads(out)
    for name in ("elbo", "log_likelihood", "kl", "effective_sample_size"):
        assert same[name] == pytest.approx(before[name], rel=1e-5)
    code, _, err = gvae_("evaluate", run, "--memory", "0.001")
    assert (code, err.count("\n")) == (2, 1)
    assert "expected at least" in err
    code, out, err = gvae_("evaluate", run, "--samples", "7", "--seed", "3")
    assert (code, err) == (0, "")
    first, elbo, likelihood, error, kl, distortion, effective = out.splitlines()
    assert first == f"digits, test: {len(digits.test)} rows, binarized by one random draw; nats per row"
    shown = {"elbo": elbo, "log_likelihood": likelihood, "kl": kl, "distortion": distortion}
    for name, line in (shown | {"log_likelihood_sampling_error": error}).items():
        assert f" {result.summary()[name]:.3f}" in line
    assert "7 importance samples" in likelihood
    assert effective.endswith("of 7")


def test_evaluate_the_training_part_and_other_data(run, gvae_):
    code, out, _ = gvae_("evaluate", run, "--split", "train", "--samples", "1", "--json")
    assert (code, json.loads(out)["rows"]) == (0, len(data.load("digits").train))
    np.save("mine.npy", rng.random((20, 64)))
    code, out, _ = gvae_("evaluate", run, "mine.npy", "--samples", "1", "--json")
    assert (code, json.loads(out)["rows"], json.loads(out)["data"]) == (0, 2, "mine")


QUICK = ["--samples", "30", "--first", "3", "--chains", "4", "--temperatures", "5"]


def test_evaluate_with_all_measures(run, gvae_):
    code, out, err = gvae_("evaluate", run, *QUICK, "--with", "all", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out, parse_constant=pytest.fail)
    digits = data.load("digits")
    settings = {"samples": 30, "first": 3, "chains": 4, "temperatures": 5, "measures": ["all"]}
    summary = gvae.load(run).evaluate(digits.test, **settings).summary()
    measures = [name for name, measure in evaluation.MEASURES.items() if measure.of in (None, "x") and not measure.asked]
    assert measures == [name for name in summary if name in evaluation.MEASURES]
    for name in measures:
        assert shown[name] == summary[name], name
    assert summary["ais"]["rows"] == summary["bdmc"]["rows"] == summary["gaps"]["rows"] == summary["curve"]["rows"] == 3
    assert summary["surgery"]["rows"] == shown["rows"] == len(digits.test)
    assert summary["bdmc"]["lower"] < summary["bdmc"]["upper"]
    assert summary["gaps"]["approximation_gap"] > 0
    assert summary["gaps"]["amortization_gap"] > 0
    code, out, err = gvae_("evaluate", run, *QUICK, "--with", "curve", "ais", "units", "surgery")
    assert (code, err) == (0, "")
    assert f"active units: {summary['units']['active']} of 4" in out
    numbers = [("ais", "log_likelihood"), ("ais", "importance_sampled_log_likelihood"), ("surgery", "marginal_kl")]
    for name, value in numbers:
        assert f" {summary[name][value]:.3f}" in out, value
    for point in summary["curve"]["points"]:
        assert f"{point['beta']:>10g}{point['rate']:>12.3f}{point['distortion']:>12.3f}\n" in out + "\n"
    assert "inference gaps" not in out
    assert "nan" not in out


def test_an_interrupted_evaluation_goes_on(run, gvae_, monkeypatch, caplog):
    arguments = ["evaluate", run, *QUICK, "--with", "ais", "reconstruction", "--json"]
    _, expected, _ = gvae_(*arguments)
    asked = []
    terms = gvae.models.VAE.terms

    def count(self, *rest):
        asked.append(1)
        if len(asked) == stop:
            raise KeyboardInterrupt
        return terms(self, *rest)

    monkeypatch.setattr(gvae.models.VAE, "terms", count)
    stop = 3  # in the last of three batches
    code, out, err = gvae_(*arguments)
    assert (code, out, err) == (130, "", "gvae evaluate: interrupted; the same command continues from here\n")
    half = (run / "evaluation.partial").read_bytes()
    asked.clear()
    stop = 4  # the batch that is left, two of reconstruction
    assert gvae_(*arguments)[0] == 130
    asked.clear()
    stop = 0
    code, out, err = gvae_(*arguments)
    assert (code, out, err) == (0, expected, "")
    assert not (run / "evaluation.partial").exists()
    (run / "evaluation.partial").write_bytes(half[:-20])
    code, out, _ = gvae_(*arguments)
    assert (code, out) == (0, expected)
    assert "evaluation.partial is damaged" in caplog.text
    assert not (run / "evaluation.partial").exists()


def test_evaluate_one_row_writes_valid_json(run, gvae_):
    np.save("one.npy", rng.random((1, 64)))
    code, out, _ = gvae_("evaluate", run, "one.npy", "--samples", "2", "--json")
    assert (code, json.loads(out, parse_constant=pytest.fail)["elbo_standard_error"]) == (0, None)
    code, out, _ = gvae_("evaluate", run, "one.npy", "--samples", "2")
    assert code == 0
    assert "nan" not in out


def test_evaluate_finds_the_file_of_training_from_another_folder(gvae_, here, monkeypatch):
    np.savetxt("rows.csv", ROWS, delimiter=",")
    assert gvae_("train", "rows.csv", "--out", "run", "--latent", "2", "--hidden", "5", "--epochs", "1")[0] == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    code, out, err = gvae_("evaluate", "../run", "--samples", "3", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"] == 4


def test_sample(run, gvae_):
    assert gvae_("sample", run, "-n", "5", "--seed", "2", "--out", "s.npy") == (0, "s.npy: 5 samples\n", "")
    drawn = np.load("s.npy")
    np.testing.assert_array_equal(drawn, gvae.load(run).sample(5, seed=2))
    assert drawn.shape == (5, 64)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert gvae_("sample", run)[0] == 0
    assert Path("samples.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(os.listdir()) == ["s.npy", "samples.png"]


def test_a_saved_model_serves_as_a_run(run, gvae_):
    model = gvae.VAE(latent=2, hidden=(5,), epochs=1, random_state=0).fit(ROWS.reshape(40, 2, 3))
    model.save("mine.gvae")
    code, out, err = gvae_("evaluate", "mine.gvae", "digits")
    assert (code, out) == (2, "")
    assert "64 columns, but the model was trained on 6" in err
    assert gvae_("sample", "mine.gvae", "--out", "s.png", "-n", "3")[0] == 0  # X were images, so this is known
    code, _, err = gvae_("evaluate", "mine.gvae")
    assert code == 2
    assert "does not say what it was trained on" in err
    np.save("rows.npy", ROWS)
    code, out, err = gvae_("evaluate", "mine.gvae", "rows.npy", "--samples", "2")
    assert (code, err) == (
        0, "gvae evaluate: mine.gvae was trained from Python: the test rows of rows.npy may be rows that it was trained on\n"
    )  # fmt: skip


@pytest.mark.parametrize("model", [name for name, cls in gvae.estimators().items() if "y" not in cls.model.columns])
def test_every_model_trains_evaluates_and_samples(gvae_, here, model):
    """Whatever the observation and the prior; factor analysis with those that it is, counts for what reads them. Stopped, it
    goes on."""
    source, known = "digits", {f.name for f in settings.fields(gvae.estimators()[model])}
    counted = gvae.estimators()[model].model.columns["x"] == "counts"
    if counted:
        source = "counts.npy"
        np.save(source, np.round(16 * data.load("digits").train).astype(np.int16).reshape(-1, 8, 8))
    flags = ["--epochs", "1", *(["--latent", "3"] if "latent" in known else []), "--batch-size", "700"]
    flags += ["--hidden", "5"] if "hidden" in known else []
    if model == "factor_analysis":
        flags = flags[:4]
    elif counted:
        flags += ["--samples", "2"]
    else:
        of_bits = model == "eonade"
        flags += (
            ["--binarize", "dynamic"]
            if of_bits
            else ["--dequantize", "17", "--observation", "logit:shared:extended_grid:8x8"]
        )
        priors = {"mutual": "lowrank:1"} | dict.fromkeys(("sbn", "darn", "hvm"), "autoregressive")  # an entropy; bits
        prior = priors.get(model, "mixture:2")
        flags += ["--prior", prior] if "prior" in known else []
    code, out, err = gvae_("train", source, *flags, "--model", model, "--out", "run")
    exact = model == "factor_analysis"
    named = "gvae train: fit: 3 of 64 columns of X are constant (0, 32, 39; counted from 0)" if exact else ""
    assert (code, err[: len(named)], err.count("\n")) == (0, named, int(bool(named))), err
    assert ("KL(q(z|x) || p(z)) has no closed form" in out) is ("prior" in known and model != "autoencoder")
    assert json.loads(Path("run/config.json").read_text())["model"] == model
    assert gvae_("train", "--resume", "run", "--epochs", "2")[0] == 0
    code, out, err = gvae_("evaluate", "run", "--samples", "3")
    assert (code, "which is not a bound" in err) == (0, model == "autoencoder")
    assert gvae_("sample", "run", "--out", "draws.png", "--draw", "-n", "4")[0] == 0
    assert Path("draws.png").stat().st_size > 500


def test_resuming_says_when_nothing_was_left(gvae_, here):
    np.save("rows.npy", np.random.default_rng(0).random((40, 6)))
    said = gvae_("train", "rows.npy", "--out", "run", "--hidden", "5", "--epochs", "2")[1].splitlines()[-1]
    code, out, _ = gvae_("train", "--resume", "run")
    assert (code, out.splitlines()[-2:]) == (0, ["run: nothing left to train", said])
    code, out, _ = gvae_("train", "--resume", "run", "--epochs", "3")
    assert (code, "nothing left" in out, "run: 3 epochs" in out) == (0, False, True)
    Path("run/log.jsonl").unlink()
    code, out, _ = gvae_("train", "--resume", "run")
    assert (code, out.splitlines()[-1]) == (0, "run: nothing left to train")


@pytest.mark.parametrize("n", [9, 10])
def test_it_is_said_that_no_rows_are_held_out(gvae_, here, n):
    np.save("rows.npy", np.random.default_rng(0).random((n, 6)))
    said = ": rows has 9 rows, fewer than 10, so that none are held out: the test rows are the training rows\n"
    said = "" if n == 10 else said
    flags = ["--hidden", "5", "--epochs", "1"]
    code, out, err = gvae_("train", "rows.npy", "--out", "run", *flags)
    assert (code, err) == (0, said and f"gvae train{said}")
    assert ("(test)" in out, "(the same rows)" in out) == (n == 10, n == 9)
    assert gvae_("train", "rows.npy", "--out", "quiet", *flags, "--quiet") == (0, "", "")
    assert gvae_("evaluate", "run", "--samples", "3")[2] == (said and f"gvae evaluate{said}")
    assert gvae_("evaluate", "run", "--samples", "3", "--split", "train")[2] == ""


def test_the_help_names_every_model(gvae_):
    assert f"{', '.join(gvae.estimators())}: see gvae models (default: vae)" in " ".join(gvae_("train", "--help")[1].split())


def test_several_layers(gvae_, here):
    flags = ["--latent", "5", "3", "--hidden", "6", "--objective", "iwae", "--samples", "2", "--epochs", "1", "--quiet"]
    assert gvae_("train", "digits", "--model", "hierarchical", *flags, "--out", "run") == (0, "", "")
    assert json.loads(Path("run/config.json").read_text())["settings"]["latent"] == [5, 3]
    for hidden, read in ((["7,6", "5,"], [[7, 6], [5]]), (["7,", "5,"], [[7], [5]]), (["7", "5"], [7, 5])):
        gvae_("train", "digits", "--model", "hierarchical", *flags, "--hidden", *hidden, "--out", hidden[0])
        assert json.loads(Path(hidden[0], "config.json").read_text())["settings"]["hidden"] == read
    assert gvae_("train", "--resume", "run", "--epochs", "2")[0] == 0
    assert gvae_("evaluate", "run", "--samples", "3", "--with", "units")[0] == 0
    assert gvae_("sample", "run", "--out", "draws.png", "-n", "4")[0] == 0
    assert gvae.load("run").transform(data.load("digits").test[:4]).shape == (4, 5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["linear", "--hidden", "5"], "unrecognized arguments: --hidden 5; see gvae train --model linear --help"),
        (["vae", "--latent", "5", "3"], "unrecognized arguments: 3; see gvae train --model vae --help"),
        (["vae", "--alpha", "2"], "unrecognized arguments: --alpha 2; see gvae train --model vae --help"),
        (["factor_analysis", "--hidden", "5"], "arguments: --hidden 5; see gvae train --model factor_analysis --help"),
        (["factor_analysis", "--posterior", "diagonal"], "--posterior: 'diagonal' is not full or full:absolute"),
        (["factor_analysis", "--observation", "bernoulli"], "--observation: 'bernoulli' is not gaussian"),
        (["factor_analysis", "--prior", "ar1"], "arguments: --prior ar1; see gvae train --model factor_analysis --help"),
        (["factor_analysis", "--batch-size", "50"], "unrecognized arguments: --batch-size 50; see gvae train --model"),
    ],
)
def test_settings_that_a_model_has_not(refused, flags, words):
    refused(["train", "digits", "--out", "run", "--quiet", "--model", *flags], words)


@pytest.mark.parametrize("observation", ["bernoulli", "gaussian"])
def test_every_posterior_trains_and_evaluates(gvae_, observation):
    np.save("rows.npy", ROWS)
    for i, name in enumerate([*families.FAMILIES, "band:3", "extended_grid:3x2", "lowrank:2"]):
        flags = ["--latent", "6", "--hidden", "5", "--epochs", "1", "--observation", observation, "--posterior", name]
        code, out, err = gvae_("train", "rows.npy", "--out", f"run{i}", *flags)
        assert code == 0, f"{name}: {err}"
        assert "bound" in out
        code, out, err = gvae_("evaluate", f"run{i}", "--samples", "2", "--json")
        assert code == 0, f"{name}: {err}"
        assert np.isfinite(json.loads(out)["log_likelihood"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective", "iwae", "--samples", "3"],
        ["--objective", "elbo_a", "--warmup", "2"],
        ["--binarize", "fixed", "--activation", "tanh"],
        ["--binarize", "threshold", "--dtype", "float64"],
        ["--binarize", "none", "--steps", "3"],
        ["--batch-size", "1000000000000000000000", "--warmup", "1000000000000000000000"],
        ["--learning-rate", "1e-300"],
    ],
    ids=lambda flags: flags[0] + flags[1],
)
def test_settings_of_training(gvae_, flags):
    np.save("rows.npy", ROWS)
    length = [] if "--steps" in flags else ["--epochs", "2"]
    code, out, err = gvae_("train", "rows.npy", "--out", "run", "--latent", "3", "--hidden", "5", *length, *flags)
    assert code == 0, err
    assert ("3 epochs, 3 steps" if "--steps" in flags else "2 epochs, 2 steps") in out
    settings = json.loads(Path("run/config.json").read_text())["settings"]
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        assert str(settings[flag[2:].replace("-", "_")]) == value


def test_quiet(gvae_):
    np.save("rows.npy", ROWS)
    assert gvae_("train", "rows.npy", "--out", "run", "--epochs", "1", "--quiet") == (0, "", "")
    assert json.loads(Path("run/config.json").read_text())["settings"]["verbose"] is False  # no progress bar either


def test_an_empty_folder_will_do(gvae_, here):
    np.save("rows.npy", ROWS)
    (here / "run").mkdir()
    assert gvae_("train", "rows.npy", "--out", "run", "--epochs", "1", "--quiet") == (0, "", "")


def test_doctor(gvae_):
    code, out, err = gvae_("doctor", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["packages"]["gvae"] == gvae.__version__
    assert report["packages"]["numpy"] == np.__version__
    assert report["cpus"]["of the machine"] == os.cpu_count()
    assert report["cpus"]["used"] == pool.count()
    assert {"library", "kernel type"} <= set(report["blas"])
    assert report["cuda"]
    code, out, err = gvae_("doctor")
    assert (code, err) == (0, "")
    for word in ("python", "numba", "by affinity", "kernel type", "cuda", "cache"):
        assert word in out


def test_the_file_system_of_the_cache(monkeypatch, tmp_path):
    """By Linux's own table, with blanks in names and bytes that are no text."""
    root, blank, bytes_ = rb"/ / rw - ext4 a rw", rb"/ /a\040b rw - nfs4 b rw", b"/ /\xff rw - cifs c rw"
    table = b"".join(b"1 0 0:1 %b\n" % line for line in (root, blank, bytes_))
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_bytes(table)
    mounts = limits.mounts
    monkeypatch.setattr(limits, "mounts", lambda: mounts(str(tmp_path)))
    places = [Path(path) for path in ("/a b/c", "/a/b", os.fsdecode(b"/\xff/c"))]
    assert [doctor._file_system(place) for place in places] == ["nfs4", "ext4", "cifs"]


@pytest.mark.sharing
def test_versions(capsys):
    gvae.show_versions()
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["gvae"] == gvae.__version__
    assert lines["numpy"] == np.__version__
    assert {"python", "scipy", "numba", "llvmlite", "safetensors"} <= lines.keys()


def test_doctor_shows_what_a_container_may_use(gvae_, monkeypatch):
    for name, value in {"affinity": 64, "cpu_quota": 1.5, "machine_memory": 256 << 30, "memory_limit": 3 << 29}.items():
        monkeypatch.setattr(limits, name, lambda root="/", value=value: value)
    monkeypatch.setattr(os, "cpu_count", lambda: 96)
    monkeypatch.delenv("GVAE_NUM_THREADS", raising=False)
    report = json.loads(gvae_("doctor", "--json")[1])
    assert report["cpus"] | {"environment": {}} == {
        "of the machine": 96,
        "by affinity": 64,
        "by quota": 1.5,
        "used": 2,
        "environment": {},
    }
    assert report["memory"] == {"of the machine": "256 GiB", "limit": "1.5 GiB"}
    monkeypatch.setenv("GVAE_NUM_THREADS", "3")
    for name in ("cpu_quota", "machine_memory", "memory_limit"):
        monkeypatch.setattr(limits, name, lambda root="/": None)
    report = json.loads(gvae_("doctor", "--json")[1])
    assert (report["cpus"]["by quota"], report["cpus"]["used"]) == ("no quota", 3)
    assert report["cpus"]["environment"]["GVAE_NUM_THREADS"] == "3"
    assert report["memory"] == {"of the machine": "unknown", "limit": "no limit"}


def test_doctor_advises_where_the_blas_is_slow(monkeypatch):
    from gvae import blas, doctor

    if not any(library["internal_api"] == "openblas" for library in blas.libraries()):
        pytest.skip("NumPy runs on another BLAS here")
    rates = {None: 200.0, "Haswell": 200.0, "SkylakeX": 300.0}
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(blas, "has_avx512", lambda: True)
    monkeypatch.setattr(blas, "rate", rates.get)
    advice = doctor.examine()["blas"]["advice"]
    assert "OPENBLAS_CORETYPE=SkylakeX" in advice
    assert "1.5 times" in advice
    assert "own commands" in advice
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert "own commands" not in doctor.examine()["blas"]["advice"]
    rates["Haswell"] = None
    assert doctor.examine()["blas"]["GFLOP/s"] == {"as Python starts": "fails", "with AVX-512": 300}
    monkeypatch.setattr(blas, "has_avx512", lambda: False)
    assert not {"advice", "GFLOP/s"} & set(doctor.examine()["blas"])


COMMANDS = {"data", "demo", "train", "sweep", "evaluate", "sample", "plot", "report", "models", "runs"}
COMMANDS |= {"warmup", "completion", "doctor"}


@pytest.mark.parametrize("name", ["", *sorted(COMMANDS)])
def test_help(gvae_, name):
    code, out, err = gvae_(*([name] if name else []), "--help")
    assert (code, err) == (0, "")
    assert "None" not in out
    assert "False" not in out
    assert "[200, 200]" not in out
    if name == "train":
        text = " ".join(out.split())
        assert "widths of the encoder's hidden layers (default: 200 200)" in text
        assert "of the optimizer (default: 0.001)" in text
        assert "epochs over which the weight of the KL grows from 0 to 1 (default: 0)" in text
        assert "the run folder; must be new or empty --" in text  # a required option has no default
    if name == "evaluate":
        text = " ".join(out.split())
        assert "(default: )" not in text
        for measure, about in evaluation.MEASURES.items():
            assert f"{measure}: {about.what} ({about.cost})" in text


def test_every_option_says_what_it_is():
    commands = next(a for a in cli.build_parser()._actions if a.dest == "command").choices
    assert set(commands) == COMMANDS
    for name, parser in commands.items():
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"


def test_version(gvae_):
    assert gvae_("--version") == (0, f"gvae {gvae.__version__}\n", "")


@pytest.mark.nightly
@pytest.mark.sharing
def test_demo(here):
    assert gvae.demo.POSTERIORS == {"diagonal": "diagonal", "chain": "chain", "extended grid": "extended_grid:4x4"}
    code, out, err = command("demo", "--epochs", "2", "--out", "pictures", cwd=here)
    assert code == 0, err
    assert err == ""
    pictures = ["covariance.png", "learning-curves.png", "reconstructions.png", "samples.png", "series.png"]
    assert sorted(p.name for p in (here / "pictures").iterdir()) == pictures
    for name in pictures:
        assert (here / "pictures" / name).stat().st_size > 5000
        assert f"pictures/{name}" in out
    table = re.findall(r"^(diagonal|chain|extended grid) +(-\d+\.\d\d) +(-\d+\.\d\d) +\d+\.\d s$", out, re.M)
    assert [row[0] for row in table] == ["diagonal", "chain", "extended grid"]
    for _, elbo, likelihood in table:
        assert -45 < float(elbo) < float(likelihood) < -20
    (log_p,) = re.findall(r"^exact +(-\d+\.\d{4}) +0\.0000 +0\.0000$", out, re.M)
    one, spread = r"(-?\d+\.\d{4})", r"(-?\d+\.\d{4}) \+- (\d\.\d{4})"
    table = re.findall(rf"^(chain|diagonal) +{spread} +{spread} +{one}$", out, re.M)
    assert [row[0] for row in table] == ["chain", "diagonal"]
    (elbo, _, chain, _, _), (_, _, diagonal, deviation, least) = (map(float, row[1:]) for row in table)
    assert elbo == pytest.approx(float(log_p) - chain, abs=2e-4)
    assert -1e-4 < chain < 0.1 < 3 < least < diagonal + 1e-4 < least + 0.1
    assert deviation < 0.05
    ((gain, its),) = re.findall(rf"^the chain's ELBO is {spread} above the diagonal's", out, re.M)
    assert float(gain) == pytest.approx(diagonal - chain, abs=2e-4)
    assert float(its) < 0.05


@pytest.mark.parametrize("kind", ["rows.npy", "rows.zarr"])
def test_evaluate_says_when_the_rows_are_no_longer_those_of_training(gvae_, here, kind):
    """Which rows are test rows is by position: of rows in another order, some were trained on."""
    x = np.random.default_rng(0).normal(size=(60, 3))

    def write(seed):
        if kind == "rows.npy":
            np.save(kind, x[:: 1 - 2 * seed])
        else:
            shutil.rmtree(kind, ignore_errors=True)
            data.pack({"train": data.ArrayRows(x)}, kind, key=gvae.random.key(seed))
        for path in (here / kind, *(here / kind).rglob("*")):
            os.utime(path, (1e9 + seed, 1e9 + seed))

    write(0)
    train = ["--latent", "2", "--hidden", "4", "--epochs", "1", "--quiet"]
    assert gvae_("train", kind, "--out", "run", *train)[0] == 0
    code, _, err = gvae_("evaluate", "run", "--samples", "2")
    assert (code, err) == (0, "")
    write(1)
    code, _, err = gvae_("evaluate", "run", "--samples", "2")
    assert code == 0
    assert err.startswith(f"gvae evaluate: {here / kind} has changed since run was trained on it (")
    assert "modified was '2001-09-09T01:46:40+00:00', is '2001-09-09T01:46:41+00:00'" in err
    assert err.count("\n") == 1
    code, _, err = gvae_("evaluate", "run", kind, "--samples", "2")  # named: the caller knows
    assert (code, err) == (0, "")
    (here / kind).rename(here / f"moved-{kind}")
    code, _, err = gvae_("evaluate", "run", "--samples", "2")
    said = f"run was trained on {here / kind}, which does not exist now: name the data on the command line"
    assert (code, err) == (2, f"gvae evaluate: {said}\n")
    assert gvae_("evaluate", "run", f"moved-{kind}", "--samples", "2")[0] == 0
