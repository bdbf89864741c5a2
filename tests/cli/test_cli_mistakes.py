"""The command line and every mistake we could think of.

A mistake gets one line on stderr and exit code 2, and leaves no trace on the disk.
"""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from command_line import CHOSEN, ROWS, RUN, TRAIN, command
from safetensors.numpy import save_file

import gvae
from gvae import data, families, training
from gvae.training import Trainer


@pytest.mark.sharing
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
        (["--hidden", "5,"], ["--hidden", "'5,'", "at least 1"]),
        *[
            (["--model", "vlae", "--latent", "2", "2", "--hidden", *widths], ["hidden", words, "for each layer or view"])
            for widths, words in ((["5", "5,5"], "(5, (5, 5))"), (["5,", ","], "','"), (["5,,5", "5,"], "'5,,5'"))
        ],
        (["--hidden"], ["--hidden", "expected"]),
        (["--epochs", "1", "--steps", "1"], ["--steps", "--epochs"]),
        (["--nope"], ["--nope"]),
        (["--model", "dlgm", "--kappa", "0"], ["--kappa", "positive"]),
        (["--model", "dlgm", "--noise", "sparse"], ["sparse", "'full', 'diagonal', 'identity'"]),
        (["--model", "dlgm", "--posterior", "bernoulli"], ["DLGM: posterior bernoulli", "all real numbers"]),
        (["--model", "dlgm", "--hidden", "5,5", "4,4", "3,3"], ["hidden has 3 entries", "2 layers"]),
        (["--model", "dlgm", "--corruption", "salt"], ["salt", "'masking', 'gaussian', 'flipping'"]),
        (["--model", "dlgm", "--gradient", "hessian", "--latent", "3", "--quiet"], ["float32, expected float64"]),
        (["--model", "dlgm", "--gradient", "hessian", "--activation", "relu"], ["relu", "kinks"]),
        (
            ["--model", "dlgm", "--gradient", "hessian", "--dtype", "float64", "--latent", "65", "--quiet"],
            ["65 variables", "at most 64"],
        ),
        (["--model", "vlae", "--combine", "add"], ["add", "'concat', 'gate'"]),
        (["--model", "vlae", "--latent", "2", "0"], ["--latent", "at least 1"]),
        (["--model", "vlae", "--hidden", "5,5", "4,4"], ["hidden has 2 entries", "3 layers"]),
        (["--model", "vib"], ["y", "label"]),
        (["--output-bias", "mean"], ["mean", "'zero', 'data'"]),
        (["--output-bias", "data", "--observation", "mixture:2", "--quiet"], ["output_bias 'data'", "mixture:2"]),
        (["--objective", "elbo:beta=-1"], ["-1", "at least 0"]),
        (["--objective", "elbo:rate=-1"], ["-1", "at least 0"]),
        (["--objective", "elbo:rate=1,weight=0"], ["weight", "positive"]),
        (["--objective", "elbo:beta=1,rate=2"], ["expected one of beta, rate, free, anchor"]),
        (["--objective", "elbo:anchor=16,weight=0.5", "--posterior", "diagonal", "--quiet"], ["the code 16", "0 to 15"]),
        (
            ["--objective", "elbo:anchor=0,weight=0.5", "--posterior", "chain", "--quiet"],
            ["anchor needs the KL of each", "diagonal"],
        ),
        (
            ["--objective", "elbo:anchor=0,weight=0.5", "--prior", "mixture:2", "--posterior", "diagonal", "--quiet"],
            ["anchor", "KL"],
        ),
        (["--objective", "elbo:trace=probe", "--posterior", "diagonal", "--quiet"], ["trace=probe", "banded"]),
        (["--model", "autoencoder", "--objective", "elbo:beta=2", "--quiet"], ["draws none"]),
        (["--learning-rate", "1e30", "--batch-size", "10", "--epochs", "20", "--quiet"], ["not finite", "learning rate"]),
    ],
    ids=lambda x: " ".join(x)[:40] if x and x[0].startswith("-") else "",
)
def test_settings_that_are_refused(refused, here, flags, words):
    np.save("rows.npy", ROWS)
    refused([*TRAIN, *flags], *words)
    assert os.listdir() == ["rows.npy"]


def changed(index, value):
    x = ROWS.astype(np.result_type(ROWS, np.min_scalar_type(value)))
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
        ("x.orc", b"ORC", [], ["unknown kind of file", ".csv"]),
        ("x.parquet", b"PAR1", [], ["damaged or not readable"]),
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
        ("x.npy", changed((5, 1), 1e300), [], ["X: the mean and deviation", "1e+300, at row 5, column 1"]),
        ("x.npy", changed((5, 1), 1e300), ["--no-standardize"], ["float32", "row 5, column 1"]),
        ("x.npy", np.full((20, 3), 1e300), ["--dtype", "float64", "--no-standardize", "--quiet"], ["not finite"]),
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
    (here / "begun").mkdir()
    (here / "begun" / "config.json").write_text("{}")
    refused([*first, "--out", "begun"], "name a new folder, or continue this run with resume=True (--resume); nothing")
    refused([*first, "--out", "."], "already holds something")
    refused([*first, "--out", "file/run"], "file/run", "Not a directory")  # a file in the way of the path
    if name == "train":
        refused([name, "missing.npy", "--out", "full"], "already holds something")  # before the data are looked at


def test_a_run_that_diverges_in_its_first_epoch_keeps_an_empty_folder_empty(refused, here):
    np.save("rows.npy", ROWS)
    (here / "run").mkdir()
    flags = ["--learning-rate", "1e30", "--batch-size", "10", "--epochs", "20", "--quiet"]
    refused([*TRAIN, *flags], "not finite")
    assert list((here / "run").iterdir()) == []


def test_a_run_that_diverges_at_once_keeps_nothing(gvae_, here):
    np.save("rows.npy", ROWS)
    # one step per epoch; its update leaves no finite bound
    code, out, err = gvae_(*TRAIN, "--learning-rate", "1e30", "--epochs", "20")
    assert (code, out, err.count("\n")) == (2, CHOSEN, 1)
    assert "not finite after step 1 (epoch 1)" in err
    assert not (here / "run").exists()


def test_a_run_that_diverges_later_keeps_its_last_epoch(gvae_, here, monkeypatch):
    np.save("rows.npy", ROWS)
    step = Trainer.step

    def breaking(self, batch, inputs=None):
        metrics = step(self, batch, inputs)
        if self.steps == 2:
            self.parameters["encoder.0.bias"][0] = np.nan
        return metrics

    monkeypatch.setattr(Trainer, "step", breaking)
    code, out, err = gvae_(*TRAIN, "--epochs", "20")
    assert (code, out, err.count("\n")) == (2, CHOSEN, 1)
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
    refused(["evaluate", "wide.npy"], "wide.npy is neither a run folder nor a saved model")
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
    refused(["sample", run, "--out", "x.jpg"], ".png, .npy or .npz")
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
    "the model is a list": lambda run: rewritten(run, lambda config, _: config | {"model": []}),
    "the model of the one class is a list": lambda run: rewritten(
        run, lambda config, _: config["settings"].pop("optimizer") and config["settings"].update(model=[])
    ),
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
        (
            ["nope"],
            ["nope", "demo", "train", "evaluate", "sample", "plot", "models", "runs", "warmup", "completion", "doctor"],
        ),
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


def test_no_command_is_a_call_for_help(gvae_):
    assert gvae_() == gvae_("--help")
    assert gvae_()[0] == 0


@pytest.mark.parametrize(
    "arguments", [["evaluate", "nowhere"], ["train", "digits", "--latent", "0", "--out", "run"], ["nope"]]
)
def test_a_mistake_in_a_process_of_its_own(here, arguments):
    code, out, err = command(*arguments, cwd=here)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("words", [["runs", "\0"], ["\0"], ["train", "digits", "--out", "a\0b"]])
def test_a_character_that_no_path_can_have(refused, words):
    refused(words, "NUL")


def test_plot_keeps_the_pictures_of_two_models_apart(gvae_, here):
    x = np.random.default_rng(0).normal(size=(13, 4))  # one row is held out
    model = gvae.VAE(latent=2, hidden=(4,), epochs=1, random_state=0)
    for folder in ("one", "other"):
        (here / folder).mkdir()
        model.fit(x, notes={"data": str(here / "x.npy")}).save(here / folder / "model")
    np.save("x.npy", x)
    for name in ("first", "second"):
        model.save(here / name)
    code, out, err = gvae_("plot", "first", "second", "--what", "codes")
    assert (code, out.split()) == (0, ["plots/first/codes.png", "plots/second/codes.png"]), err
    for out in ([], ["--out", "pictures"]):
        code, _, err = gvae_("plot", "one/model", "other/model", "--what", "codes", *out)
        assert (code, "would both be in" in err) == (2, True)


def test_plot_leaves_no_folder_where_nothing_is_drawn(gvae_, here):
    np.save("wide.npy", np.zeros((20, 30)))
    before = sorted(here.iterdir())
    code, out, err = gvae_("plot", "wide.npy")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("wide.npy: nothing could be drawn")
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["train", "digits", "--latent", "16", "--ot", "R"], "--ot"),
        (["sweep", "s.toml", "--ou=S", "--outt", "S"], "--outt"),
        (["sample", "run", "--uot", "s.npy"], "--uot"),
    ],
)
def test_a_mistyped_flag_is_named_though_another_is_missing_for_it(refused, words, flag):
    refused(words, f"unrecognized arguments: {flag}")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("command", ["demo", "sample", "plot", "report", "models", "runs", "data", "doctor"])
def test_several_ranks_of_what_they_do_not_share(gvae_, here, monkeypatch, command, rank):
    monkeypatch.setenv("PMI_SIZE", "3")
    monkeypatch.setenv("PMI_RANK", str(rank))
    more = {"sample": ["run"], "plot": ["run"], "report": ["run"], "data": ["pack", "x.npy", "--out", "x.zarr"]}
    why = "3 ranks were started, but only train, evaluate and sweep share their work; start it without mpirun"
    said = (0, "", "") if rank else (2, "", f"gvae {command}: {why}\n")
    assert gvae_(command, *more.get(command, [])) == said
    assert os.listdir() == []
