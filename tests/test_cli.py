"""The command line, used as a user uses it: commands that work, and every mistake we could think of.

A mistake gets one line on stderr and exit code 2, and leaves no trace on the disk.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import gvae
import gvae.demo
from gvae import cli, data, evaluation, families, models, training
from gvae.training import Trainer

ROOT = Path(gvae.__file__).parents[1]
RUN = ["checkpoint.previous.safetensors", "checkpoint.safetensors", "config.json", "log.jsonl"]
rng = np.random.default_rng(0)
ROWS = rng.random((40, 6)).astype(np.float32)


def environment(**changes):
    names = {k: v for k, v in os.environ.items() if k != "GVAE_DATA_DIR"}
    return names | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])} | changes


def command(*arguments, **settings):
    """`gvae ...` in a process of its own; returns (exit code, stdout, stderr)."""
    settings = {"capture_output": True, "text": True, "env": environment(), "timeout": 300} | settings
    done = subprocess.run([sys.executable, "-m", "gvae", *map(str, arguments)], **settings)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, and no data folder set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GVAE_DATA_DIR", raising=False)
    return tmp_path


@pytest.fixture
def gvae_(here, capsys):
    """`gvae ...` in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as exit:  # argparse's own way
            code = exit.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(gvae_, here):
    """`gvae ...` ends with code 2, one line that holds all the words, and the folder as it was."""

    def call(arguments, *words):
        before = listing(here)
        code, out, err = gvae_(*arguments)
        assert code == 2, err
        assert out == ""
        assert err.startswith("gvae")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        for word in words:
            assert word in err, err
        assert listing(here) == before
        return err

    return call


def listing(folder):
    """What a folder holds, with the content of every file."""
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in Path(folder).rglob("*")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run on the digits, trained once by the command itself: (folder, stdout, stderr)."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    settings = "--latent 4 --posterior extended_grid:2x2 --hidden 16 12 --epochs 3 --batch-size 200 --samples 2 --seed 7"
    code, out, err = command("train", "digits", "--out", folder, *settings.split(), cwd=folder.parent)
    assert code == 0, err
    return folder, out, err


@pytest.fixture
def run(trained):
    return trained[0]


# ---- what works ----------------------------------------------------------------------------------


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
    assert out.count("\n") == 1

    config = json.loads((run / "config.json").read_text())
    assert config["model"] == "vae"
    assert config["settings"] == {
        "model": "vae",
        "latent": 4,
        "posterior": "extended_grid:2x2",
        "observation": "auto",
        "dequantize": None,
        "prior": None,
        "hidden": [16, 12],
        "decoder_hidden": None,
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
        "schedule": "constant",
        "average": None,
        "clip": None,
        "on_nonfinite": "stop",
        "patience": None,
        "validation_fraction": 0.1,
        "dtype": "float32",
        "device": "cpu",
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
    assert list(evaluation.MEASURES) == [name for name in summary if name in evaluation.MEASURES]
    for name in evaluation.MEASURES:
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
    assert (code, out, err) == (130, "", "gvae evaluate: interrupted; the same command goes on from here\n")
    assert (run / "evaluation.partial").is_file()
    asked.clear()
    stop = 4  # the batch that is left, two of reconstruction
    assert gvae_(*arguments)[0] == 130
    asked.clear()
    stop = 0
    code, out, err = gvae_(*arguments)
    assert (code, out, err) == (0, expected, "")
    assert not (run / "evaluation.partial").exists()
    (run / "evaluation.partial").write_bytes(b"nonsense")
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


@pytest.mark.parametrize("model", models.MODELS)
def test_every_model_trains_evaluates_and_samples(gvae_, here, model):
    """Whatever the observation and the prior; factor analysis with those that it is. Stopped, it goes on."""
    flags = ["--latent", "3", "--epochs", "1", "--batch-size", "700"]
    flags += [] if "hidden" in models.MODELS[model].defaults else ["--hidden", "5"]
    if model == "factor_analysis":
        flags = flags[:4]
    else:
        flags += ["--prior", "mixture:2", "--dequantize", "17", "--observation", "logit:shared:extended_grid:8x8"]
    code, out, err = gvae_("train", "digits", *flags, "--model", model, "--out", "run")
    assert (code, err) == (0, ""), err
    assert ("KL(q(z|x) || p(z)) has no closed form" in out) is (model != "factor_analysis")
    assert json.loads(Path("run/config.json").read_text())["settings"]["model"] == model
    assert gvae_("train", "--resume", "run", "--epochs", "2")[0] == 0
    code, out, err = gvae_("evaluate", "run", "--samples", "3")
    assert (code, "bounds nothing" in err) == (0, model == "autoencoder")
    assert gvae_("sample", "run", "--out", "draws.png", "--draw", "-n", "4")[0] == 0
    assert Path("draws.png").stat().st_size > 500


def test_the_help_names_every_model(gvae_):
    assert f"{', '.join(models.MODELS)} (default" in " ".join(gvae_("train", "--help")[1].split())


def test_several_layers(gvae_, here):
    flags = ["--latent", "5", "3", "--hidden", "6", "--objective", "iwae", "--samples", "2", "--epochs", "1", "--quiet"]
    assert gvae_("train", "digits", "--model", "hierarchical", *flags, "--out", "run") == (0, "", "")
    assert json.loads(Path("run/config.json").read_text())["settings"]["latent"] == [5, 3]
    assert gvae_("train", "--resume", "run", "--epochs", "2")[0] == 0
    assert gvae_("evaluate", "run", "--samples", "3", "--with", "units")[0] == 0
    assert gvae_("sample", "run", "--out", "draws.png", "-n", "4")[0] == 0
    assert gvae.load("run").transform(data.load("digits").test[:4]).shape == (4, 5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["linear", "--hidden", "5"], "LinearVAE: hidden is (5,), expected none: the model is linear"),
        (["vae", "--latent", "5", "3"], "latent is [5, 3], expected a whole number; see hierarchical"),
        (["factor_analysis", "--hidden", "5"], "FactorAnalysisEM: hidden is (5,), expected none"),
        (["factor_analysis", "--posterior", "diagonal"], "posterior is diagonal, expected full"),
        (["factor_analysis", "--observation", "bernoulli"], "observation is bernoulli, expected gaussian"),
        (["factor_analysis", "--prior", "ar1"], "prior is ar1, expected None"),
        (["factor_analysis", "--batch-size", "50"], "a batch of 50 rows, expected all 1498: EM takes no part"),
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
    assert report["threads"]["usable cores"] >= 1
    assert {"library", "kernel type"} <= set(report["blas"])
    assert report["cuda"]
    code, out, err = gvae_("doctor")
    assert (code, err) == (0, "")
    for word in ("python", "numba", "cores", "kernel type", "cuda", "cache"):
        assert word in out


def test_doctor_advises_where_the_blas_is_slow(monkeypatch):
    from gvae import blas, doctor

    if blas.find_openblas() is None:
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


@pytest.mark.parametrize("name", ["", "demo", "train", "evaluate", "sample", "runs", "warmup", "doctor"])
def test_help(gvae_, name):
    code, out, err = gvae_(*([name] if name else []), "--help")
    assert (code, err) == (0, "")
    assert "None" not in out
    assert "False" not in out
    assert "[200, 200]" not in out
    if name == "train":
        text = " ".join(out.split())
        assert "widths of the encoder's hidden layers (default: 200 200)" in text
        assert "of Adam (default: 0.001)" in text
        assert "epochs of KL warm-up (default: 0)" in text
        assert "the run folder; must be new or empty --" in text  # a required option has no default
    if name == "evaluate":
        text = " ".join(out.split())
        assert "(default: )" not in text
        for measure, about in evaluation.MEASURES.items():
            assert f"{measure}: {about.what} ({about.cost})" in text


def test_every_option_says_what_it_is():
    commands = next(a for a in cli._parser()._actions if a.dest == "command").choices
    assert set(commands) == {"demo", "train", "evaluate", "sample", "runs", "warmup", "doctor"}
    for name, parser in commands.items():
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"


def test_version(gvae_):
    assert gvae_("--version") == (0, f"gvae {gvae.__version__}\n", "")


def test_demo(here):
    assert gvae.demo.POSTERIORS == {"diagonal": "diagonal", "chain": "chain", "extended grid": "extended_grid:4x4"}
    code, out, err = command("demo", "--epochs", "2", "--out", "pictures", cwd=here)
    assert code == 0, err
    assert err == ""
    pictures = ["covariance.png", "learning-curves.png", "reconstructions.png", "samples.png"]
    assert sorted(p.name for p in (here / "pictures").iterdir()) == pictures
    for name in pictures:
        assert (here / "pictures" / name).stat().st_size > 5000
        assert f"pictures/{name}" in out
    table = re.findall(r"^(diagonal|chain|extended grid) +(-\d+\.\d\d) +(-\d+\.\d\d) +\d+\.\d s$", out, re.M)
    assert [row[0] for row in table] == ["diagonal", "chain", "extended grid"]
    for _, elbo, likelihood in table:
        assert -45 < float(elbo) < float(likelihood) < -20


# ---- mistakes ------------------------------------------------------------------------------------

TRAIN = ["train", "rows.npy", "--out", "run"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--posterior", "nope"], ["nope", *families.FAMILIES]),
        (["--observation", "nope"], ["nope", *families.FAMILIES]),
        (
            ["--model", "nope"],
            ["nope", "vae, map, bayes, denoising, autoencoder, linear, factor_analysis, nlfa, hierarchical"],
        ),
        (["--prior", "nope"], ["nope", *families.FAMILIES]),
        (["--objective", "nope"], ["nope", "elbo", "elbo_a", "elbo_b", "iwae"]),
        (["--activation", "nope"], ["nope", "relu", "tanh", "softplus"]),
        (["--binarize", "nope"], ["nope", *data.BINARIZATIONS]),
        (["--model", "nope"], ["nope", "vae"]),
        (["--dtype", "float16"], ["float16", "float32", "float64"]),
        (["--latent", "16", "--posterior", "extended_grid:3x3"], ["3 x 3 = 9", "16"]),
        (["--latent", "16", "--posterior", "extended_grid:4"], ["4", "4x4"]),
        (["--latent", "16", "--posterior", "extended_grid:"], ["extended_grid:4x4"]),
        (["--latent", "16", "--posterior", "extended_grid:-4x-4"], ["-4x-4"]),
        (["--latent", "7", "--posterior", "extended_grid"], ["7"]),
        (["--posterior", "chain:3"], ["chain takes no size"]),
        (["--posterior", "lowrank:0"], ["lowrank"]),
        (["--posterior", "band:x"], ["'x'"]),
        (["--objective", "elbo_b", "--posterior", "bernoulli", "--latent", "-3"], ["-3"]),
        *[
            ([flag, value], [flag, repr(value), "at least 1"])
            for flag in ("--latent", "--hidden", "--epochs", "--steps", "--batch-size", "--samples")
            for value in ("0", "-1", "1.5", "x", "nan", "", "1e3")
        ],
        *[(["--warmup", value], ["--warmup", "at least 0"]) for value in ("-1", "0.5", "x")],
        *[(["--learning-rate", value], ["--learning-rate", "positive"]) for value in ("0", "-1", "nan", "inf", "x", "")],
        *[(["--seed", value], ["--seed", "2^64"]) for value in ("-1", str(2**64), "1.5", "x", "9" * 9999)],
        *[
            ([flag, value], ["GiB", value])
            for flag in ("--latent", "--hidden", "--samples")
            for value in ("99999999999999", "9" * 30)
        ],
        (["--hidden", "1000000", "1000000"], ["GiB"]),
        (["--hidden"], ["--hidden", "expected"]),
        (["--epochs", "1", "--steps", "1"], ["--steps", "--epochs"]),
        (["--nope"], ["--nope"]),
        (["--learning-rate", "1e30", "--batch-size", "10"], ["not finite", "learning rate"]),
    ],
    ids=lambda x: " ".join(x)[:40] if x and x[0].startswith("-") else "",
)
def test_settings_that_are_refused(refused, here, flags, words):
    np.save("rows.npy", ROWS)
    refused([*TRAIN, *flags], *words)
    assert os.listdir() == ["rows.npy"]


def changed(index, value):
    x = ROWS.copy()
    x[index] = value
    return x


@pytest.mark.parametrize(
    ("name", "content", "flags", "words"),
    [
        ("missing.npy", None, [], ["missing.npy: no such file", *data.dataset_names()]),
        ("empty.npy", b"", [], ["empty.npy", "empty"]),
        ("empty.csv", b"", [], ["empty.csv", "empty"]),
        ("noise.npy", b"abcdefghijklmnop", [], ["noise.npy", "not a .npy"]),
        ("x.csv", b"1,2\n3,x\n", [], ["x.csv: line 2, column 2: 'x' is not a number"]),
        ("x.csv", b"1,2\n3\n", [], ["x.csv: line 2"]),
        ("x.csv", b"1,2\n3,nan\n", [], ["row 1, column 1"]),
        ("x.parquet", b"PAR1", [], ["unknown kind of file", ".csv"]),
        ("x.npy", changed((7, 3), np.nan), [], ["x.npy", "row 7, column 3"]),
        ("x.npy", changed((9, 3), np.inf), [], ["x.npy", "row 9, column 3"]),
        ("x.npy", changed((5, 1), 1.5), ["--observation", "bernoulli"], ["outside [0, 1]", "1.5", "row 5, column 1"]),
        ("x.npy", changed((9, 1), -2), ["--observation", "bernoulli"], ["test rows", "outside [0, 1]", "-2.0"]),
        ("x.npy", changed((5, 1), 1.5), ["--observation", "poisson"], ["training rows", "outside 0, 1, .."]),
        ("x.npy", changed((5, 1), 0.0), ["--observation", "beta"], ["training rows", "outside (0, 1)"]),
        ("x.npy", changed((5, 1), 1.5), ["--binarize", "dynamic"], ["outside [0, 1]", "1.5"]),
        ("x.npy", changed((9, 1), 1.5), ["--binarize", "fixed", "--observation", "gaussian"], ["outside [0, 1]"]),
        ("x.npy", np.array([1, {}], object), [], ["x.npy", "pickle"]),
        ("x.npy", b"\x80\x04\x95", [], ["x.npy", "pickle"]),
        ("x.npy", ROWS + 1j, [], ["x.npy", "not real numbers"]),
        ("x.npy", ROWS[0], [], ["x.npy", "(6,)"]),
        ("x.npy", ROWS[:0], [], ["x.npy", "no rows"]),
        ("x.npy", ROWS[:, :0], [], ["x.npy", "no columns"]),
        ("x.npy", np.full((20, 3), 1e300), [], ["float32", "row 0, column 0"]),
        ("x.npy", np.full((20, 3), 1e300), ["--dtype", "float64"], ["not finite"]),
    ],
    ids=lambda x: x[:12] if isinstance(x, str) else "",
)
def test_data_that_is_refused(refused, here, name, content, flags, words):
    if isinstance(content, bytes):
        (here / name).write_bytes(content)
    elif content is not None:
        np.save(name, content)
    refused(["train", name, "--out", "run", "--epochs", "1", *flags], *words)
    assert not (here / "run").exists()


def test_a_truncated_file_is_refused(refused, here):
    np.save("x.npy", ROWS)
    (here / "x.npy").write_bytes((here / "x.npy").read_bytes()[:-100])
    refused(["train", "x.npy", "--out", "run"], "x.npy", "truncated")


@pytest.mark.parametrize("flags", [["mnist", "--data-dir", "."], ["omniglot"], ["frey_faces", "--data-dir", "nowhere"]])
def test_data_sets_that_are_not_there(refused, here, flags):
    refused(["train", *flags, "--out", "run"], flags[0])


@pytest.mark.parametrize("name", ["demo", "train"])
def test_an_output_that_holds_something_is_kept(refused, here, name):
    (here / "full").mkdir()
    (here / "full" / "precious").write_text("x")
    (here / "file").write_text("x")
    np.save("rows.npy", ROWS)
    first = [name, "rows.npy"] if name == "train" else [name]
    refused([*first, "--out", "full"], "full already holds something", "nothing was written")
    refused([*first, "--out", "file"], "file already holds something")
    refused([*first, "--out", "."], "already holds something")
    refused([*first, "--out", "file/run"], "file/run", "Not a directory")  # a file in the way of the path
    if name == "train":
        refused([name, "missing.npy", "--out", "full"], "already holds something")  # before the data are looked at


def test_a_run_that_diverges_in_its_first_epoch_keeps_an_empty_folder_empty(refused, here):
    np.save("rows.npy", ROWS)
    (here / "run").mkdir()
    refused([*TRAIN, "--learning-rate", "1e30", "--batch-size", "10"], "not finite")
    assert list((here / "run").iterdir()) == []


def test_a_run_that_diverges_at_once_keeps_nothing(gvae_, here):
    np.save("rows.npy", ROWS)
    code, out, err = gvae_(*TRAIN, "--learning-rate", "1e30")  # one step per epoch; its update leaves no finite bound
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not finite after step 1 (epoch 1)" in err
    assert not (here / "run").exists()


def test_a_run_that_diverges_later_keeps_its_last_epoch(gvae_, here, monkeypatch):
    np.save("rows.npy", ROWS)
    step = Trainer.step

    def breaking(self, batch):
        metrics = step(self, batch)
        if self.steps == 2:
            self.parameters["encoder.0.bias"][0] = np.nan
        return metrics

    monkeypatch.setattr(Trainer, "step", breaking)
    code, out, err = gvae_(*TRAIN)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "encoder.0.bias is not finite after step 2 (epoch 2)" in err
    assert sorted(p.name for p in (here / "run").iterdir()) == RUN[1:]
    first, event = map(json.loads, (here / "run" / "log.jsonl").read_text().splitlines())
    assert (first["epoch"], event["epoch"], event["event"]) == (1, 2, "not finite")


def test_evaluate_refuses(refused, run, here):
    np.save("wide.npy", np.zeros((20, 7), np.float32))
    np.save("high.npy", np.full((20, 64), 3.0))
    (here / "file").write_text("x")
    refused(["evaluate", "nowhere"], "nowhere: no such run folder")
    refused(["evaluate", "."], "holds no checkpoint", "not a run folder")
    refused(["evaluate", "file"], "file")
    refused(["evaluate", "wide.npy"], "wide.npy")
    refused(["evaluate", run, "wide.npy"], "wide, test rows: 7 columns, but the model was trained on 64")
    refused(["evaluate", run, "high.npy"], "high, test rows", "outside [0, 1]", "row 0, column 0")
    refused(["evaluate", run, "nope"], "nope: no such file", "digits")
    refused(["evaluate", run, "--samples", "0"], "--samples", "at least 1")
    refused(["evaluate", run, "--split", "nope"], "--split")
    refused(["evaluate", run, "--with", "nope"], "--with", "nope", "units", "surgery", "ais", "gaps", "curve", "all")
    refused(["evaluate", run, "--with", "ais", "--chains", "0"], "--chains", "at least 1")
    refused(["evaluate", run, "--rows", "file"], "file exists", "nothing was written")
    refused(["evaluate", run, "--rows", "nowhere/rows.csv"], "there is no folder")
    refused(["evaluate", run, "--rows", "file/rows.csv"], "there is no folder")


def test_sample_refuses(refused, run, here):
    (here / "there.png").write_text("x")
    np.save("rows.npy", ROWS)
    gvae.VAE(latent=2, hidden=(3,), epochs=1, random_state=0).fit(ROWS).save("flat.gvae")
    refused(["sample", "nowhere"], "nowhere: no such run folder")
    refused(["sample", run, "--out", "there.png"], "there.png exists")
    refused(["sample", run, "--out", "x.jpg"], ".png or .npy")
    refused(["sample", run, "--out", "nowhere/x.png"], "there is no folder")
    refused(["sample", run, "-n", "0"], "-n", "at least 1")
    refused(["sample", run, "-n", "x"], "-n")
    refused(["sample", run, "-n", "1000000"], "do not fit a picture")
    refused(["sample", run, "-n", "99999999999999", "--out", "x.npy"], "GiB")
    refused(["sample", run, "--seed", "-1"], "--seed")
    refused(["sample", "flat.gvae"], "not trained on images", ".npy")


def rewritten(folder, change):
    """The run's checkpoint and config.json with metadata and tensors changed in step, as a careful forger would."""
    path = folder / "checkpoint.safetensors"
    tensors, config, counters = training.load_checkpoint(path)
    config = change(config, tensors) or config
    path.write_bytes(training.encode(training.Checkpoint(tensors, config, counters)))
    (folder / "config.json").write_text(json.dumps(config))


def setting(name, value):
    return lambda folder: rewritten(folder, lambda config, _: config["settings"].__setitem__(name, value))


def fact(name, value):
    return lambda folder: rewritten(folder, lambda config, _: config["fitted"].__setitem__(name, value))


def tensor(name, make):
    return lambda folder: rewritten(folder, lambda _, tensors: tensors.__setitem__(name, make(tensors[name])))


def edited(old, new):
    return lambda folder: (folder / "config.json").write_text((folder / "config.json").read_text().replace(old, new))


def cut(folder, size):
    content = (folder / "checkpoint.safetensors").read_bytes()
    (folder / "checkpoint.safetensors").write_bytes(content[:size])


BIAS = "parameters/encoder.0.bias"
DAMAGE = {
    "no checkpoint": lambda run: (run / "checkpoint.safetensors").unlink(),
    "no config": lambda run: (run / "config.json").unlink(),
    "config is not JSON": lambda run: (run / "config.json").write_text("{"),
    "config edited": edited('"latent": 4', '"latent": 8'),
    "notes edited": edited('"data": "digits"', '"data": "mnist"'),
    "empty checkpoint": lambda run: cut(run, 0),
    "checkpoint cut in its header": lambda run: cut(run, 300),
    "checkpoint cut in its data": lambda run: cut(run, -100),
    "foreign": lambda run: save_file({"x": np.ones(3)}, run / "checkpoint.safetensors"),
    "foreign with metadata": lambda run: save_file({"x": np.ones(3)}, run / "checkpoint.safetensors", metadata={"a": "b"}),
    "another format": lambda run: save_file({}, run / "checkpoint.safetensors", metadata={"format": "gvae-checkpoint-99"}),
    "half a header": lambda run: save_file({}, run / "checkpoint.safetensors", metadata={"format": "gvae-checkpoint-1"}),
    "another model": lambda run: rewritten(run, lambda config, _: config | {"model": "ladder"}),
    "config is a list": lambda run: rewritten(run, lambda *_: [1]),
    "notes are a number": lambda run: rewritten(run, lambda config, _: config | {"notes": 3}),
    "nothing fitted": lambda run: rewritten(run, lambda config, _: config.pop("fitted") and None),
    "unknown setting": setting("nope", 1),
    "another latent size": setting("latent", 8),
    "latent is text": setting("latent", "4"),
    "huge latent": setting("latent", 10**13),
    "unknown posterior": setting("posterior", "nope"),
    "hidden is a number": setting("hidden", 7),
    "another dtype": setting("dtype", "float64"),
    "another number of columns": fact("n_features_in", 65),
    "negative columns": fact("n_features_in", -1),
    "unknown binarization": fact("binarize", "nope"),
    "a parameter is missing": lambda run: rewritten(run, lambda _, tensors: tensors.pop(BIAS).shape and None),
    "a parameter of another shape": tensor(BIAS, lambda x: np.append(x, x)),
    "a parameter of another dtype": tensor(BIAS, lambda x: x.astype(np.float64)),
    "a parameter is NaN": tensor(BIAS, lambda x: x * np.float32(np.nan)),
}


@pytest.mark.parametrize("damage", list(DAMAGE.values()), ids=list(DAMAGE))
def test_damaged_runs_are_refused(refused, run, here, damage):
    shutil.copytree(run, here / "bad")
    (here / "bad" / "checkpoint.previous.safetensors").unlink()
    damage(here / "bad")
    refused(["evaluate", "bad", "--samples", "1"], "bad")
    refused(["sample", "bad", "--out", "s.npy"], "bad")


def test_notes_that_make_no_sense(refused, run, here):
    shutil.copytree(run, here / "bad")
    rewritten(here / "bad", lambda config, _: config | {"notes": {"data": 5, "image_shape": [3, 3]}})
    refused(["evaluate", "bad"], "name the data")
    refused(["sample", "bad"], "not trained on images")


def test_a_lost_log_does_not_matter(gvae_, run, here):
    shutil.copytree(run, here / "copy")
    (here / "copy" / "log.jsonl").unlink()
    assert gvae_("evaluate", "copy", "--samples", "1")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["nope"], ["nope", "demo", "train", "evaluate", "sample", "runs", "warmup", "doctor"]),
        (["train"], ["--out", "--resume"]),
        (["train", "digits"], ["--out", "--resume"]),
        (["train", "--out", "run"], ["DATA"]),
        (["train", "digits", "--out", "run", "--resume", "run"], ["--resume"]),
        (["evaluate"], ["RUN"]),
        (["sample"], ["RUN"]),
        (["demo", "--epochs", "0"], ["--epochs"]),
        (["demo", "--seed", "x"], ["--seed"]),
        (["doctor", "--nope"], ["--nope"]),
    ],
)
def test_wrong_usage(refused, arguments, words):
    refused(arguments, *words, "--help")


@pytest.mark.parametrize(
    "arguments", [["evaluate", "nowhere"], ["train", "digits", "--latent", "0", "--out", "run"], ["nope"]]
)
def test_a_mistake_in_a_process_of_its_own(here, arguments):
    code, out, err = command(*arguments, cwd=here)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert list(here.iterdir()) == []


# ---- other ways to end ---------------------------------------------------------------------------


def interrupt(folder, ready, *flags, number=signal.SIGINT, arguments=("train", "digits", "--out", "run", "--hidden", "5")):
    """Ctrl-C, or another signal, as soon as `ready(folder / "run")`; returns (exit code, stderr)."""
    program = (  # a shell that runs the tests in the background has told its children to ignore Ctrl-C
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from gvae.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, *flags], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 120
        while not ready(folder / "run"):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(here, number, expected):
    """Within an epoch; and what it says works: epochs of 1,500 steps, of which the run holds a part."""
    flags = ["--latent", "2", "--batch-size", "1", "--epochs", "1000000"]
    code, err = interrupt(here, lambda run: (run / "config.json").exists(), *flags, number=number)
    match = re.fullmatch(
        r"gvae train: training stopped at step (\d+), in epoch (\d+); continue with: gvae train --resume run\n", err
    )
    assert match, err
    assert code == expected
    step, epoch = map(int, match.groups())
    model = gvae.load(here / "run")
    assert len(model.history_) == epoch - 1
    assert np.isfinite(model.score_samples(data.load("digits").test[:5], samples=2)).all()
    assert training.load_checkpoint(here / "run" / "checkpoint.safetensors").counters["steps"] == step
    before = (here / "run" / "checkpoint.safetensors").stat().st_mtime_ns
    arguments = ["train", "--resume", "run", "--quiet", "--save-every", "0.1"]
    code, err = interrupt(
        here,
        lambda run: (run / "checkpoint.safetensors").stat().st_mtime_ns > before,
        number=number,
        arguments=arguments,
    )
    later = training.load_checkpoint(here / "run" / "checkpoint.safetensors").counters["steps"]
    assert (code, later > step) == (expected, True), err


def test_control_c_before_the_first_step_leaves_nothing(gvae_, here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    np.save("rows.npy", ROWS)
    monkeypatch.setattr(Trainer, "step", interrupted)
    assert gvae_(*TRAIN) == (130, "", "gvae train: interrupted; nothing was kept\n")
    assert [p.name for p in here.iterdir()] == ["rows.npy"]


def test_a_reader_that_has_seen_enough(run, here):
    """`gvae ... | head -0` says nothing on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    code, _, err = command("doctor", cwd=here, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (code, err) == (1, "")


def test_too_little_memory_is_one_line(refused, here, monkeypatch):
    def greedy(*_, **__):
        raise MemoryError("Unable to allocate\n8 TiB")

    np.save("rows.npy", ROWS)
    monkeypatch.setattr(gvae.VAE, "fit", greedy)
    refused(TRAIN, "not enough memory", "8 TiB")


def test_a_disk_that_fills_up_is_one_line(gvae_, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "run/log.jsonl")

    np.save("rows.npy", ROWS)
    monkeypatch.setattr(training.RunFolder, "log", full)
    assert gvae_(*TRAIN) == (2, "", "gvae train: run/log.jsonl: No space left on device\n")


def test_a_full_disk_is_one_line(refused, run, here, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "rows.csv")

    monkeypatch.setattr(os, "fsync", full)
    np.save("rows.npy", ROWS)
    refused(TRAIN, "No space left on device")
    refused(["evaluate", run, "--samples", "1", "--rows", "rows.csv"], "rows.csv", "No space left on device")
    refused(["sample", run, "--out", "s.npy"], "s.npy", "No space left on device")
    refused(["sample", run, "--out", "s.png"], "s.png", "No space left on device")


def test_demo_without_matplotlib_says_so_at_once(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(["demo"], "matplotlib", "gvae[plot]")
