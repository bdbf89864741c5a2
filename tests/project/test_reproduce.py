"""The scripts of examples/reproduce: legal rows; training, resuming, recording and verifying one; the page."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import gradcheck
import numpy as np
import pytest
import scipy.stats
from emulator import cupy_emulated

import gvae
from gvae import families, optim
from gvae.ops import elementwise

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "reproduce"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    names = (
        "tables",
        "permuted",
        "ggm_vae",
        "iwae",
        "dlgm",
        "bits",
        "vib",
        "rate_distortion",
        "levels",
        "information",
        "page",
    )
    registered = dict(families.FAMILIES)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)
    for name in families.FAMILIES.keys() - registered.keys():
        del families.FAMILIES[name]


def test_every_row_is_legal(scripts):
    """Its settings build a model and an objective for MNIST's size: one step on two rows."""
    x = (np.random.default_rng(0).uniform(size=(40, 784)) < 0.2).astype(np.float32)
    for table in scripts["page"].TABLES:
        for row in table.rows:
            short = {"epochs": 1, "batch_size": 40, "samples": min(row.settings.get("samples", 1), 2), "device": "cpu"}
            if row.settings["schedule"] == "cosine":
                short["schedule"] = "constant"
            model = gvae.estimators()[row.model](**row.settings | short).fit(x)
            assert np.isfinite(model.history_[-1]["train_bound"]), row.name


def test_a_permuted_chain_against_dense_algebra(scripts):
    """Density, draws, moments and KL are those of the dense Gaussian with the chain's precision in the permuted order;
    gradients agree with differences."""
    rng = np.random.default_rng(0)
    family = families.parse("permuted_chain:1", 5)
    raw = rng.normal(size=(3, family.n_params))
    q, order = family(raw), family.order
    assert sorted(order) == list(range(5))
    assert list(order) != sorted(order)
    chain = families.parse("chain", 5).at(raw[:, order], raw[:, 5:])
    noise = q.noise(gvae.random.key(0), (4,))
    z = q.sample(noise)
    np.testing.assert_array_equal(z[..., order], chain.sample(noise))
    np.testing.assert_array_equal(q.mean, raw[:, :5])
    for b in range(3):
        covariance = np.empty((5, 5))
        covariance[np.ix_(order, order)] = chain.covariance()[b]
        dense = scipy.stats.multivariate_normal(raw[b, :5], covariance)
        np.testing.assert_allclose(q.log_prob(z)[:, b], dense.logpdf(z[:, b]), rtol=1e-10)
        np.testing.assert_allclose(q.covariance()[b], covariance, rtol=1e-12)
        np.testing.assert_allclose(q.variance()[b], covariance.diagonal(), rtol=1e-12)
        kl = (np.trace(covariance) + raw[b, :5] @ raw[b, :5] - 5 - np.linalg.slogdet(covariance)[1]) / 2
        np.testing.assert_allclose(q.kl()[b], kl, rtol=1e-10)
    np.testing.assert_allclose(q.log_prob_of_draw(noise, z), q.log_prob(z), rtol=1e-10)
    gradcheck.check_vjp(lambda raw: family(raw).sample(noise), (raw,), rng)
    gradcheck.check_vjp(lambda raw, z: family(raw).log_prob(z), (raw, z), rng)


def test_the_page_is_up_to_date():
    done = subprocess.run([sys.executable, str(FOLDER / "page.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_records_hold_what_the_page_needs(scripts):
    """Every committed record: an epoch's line each, settings as the script has them, figures that are numbers."""
    for table in scripts["page"].TABLES:
        for row in table.rows:
            record = table.record(row)
            if record is None:
                continue
            *epochs, last = map(json.loads, table.path(row).read_text().splitlines())
            assert last == record
            assert [epoch["epoch"] for epoch in epochs] == list(range(1, row.settings["epochs"] + 1))
            assert record["settings"] == json.loads(json.dumps(row.settings))
            exact = gvae.estimators()[row.model].model.exact
            assert record["samples"] == (1 if exact else table.samples)
            assert record["log_likelihood"] >= max(record["elbo"], epochs[0]["validation_bound"])
            assert len(record["parameters_sha256"]) == 64


def test_a_row_trained_on_a_device_is_measured_on_a_machine_without(scripts, tmp_path, monkeypatch):
    """A run that has ended on a device is measured where there is none; its record has the device. Other settings are
    refused, and training that has not ended needs the device."""
    tables = scripts["tables"]
    settings = {"observation": "bernoulli", "latent": 2, "hidden": (4,), "epochs": 2, "batch_size": 700, "device": "cuda"}
    row = tables.Row("small", settings | {"random_state": 1})
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    few = {"chains": 2, "temperatures": 3, "first": 3}
    monkeypatch.setattr(tables, "ANNEALED", {"ais": few, "bdmc": few})
    table = tables.Table("toy", "A toy", "digits", (row,))
    folder, dataset = tmp_path / "toy" / "small", gvae.data.load("digits")
    with cupy_emulated.installed():
        there = tables.trained(table, row, dataset, folder, quiet=True)
    record = tables.train(table, row, tmp_path, 2, quiet=True)
    assert record["parameters_sha256"] == there.parameters_.sha256()
    assert record["trained_on"].endswith(f"CuPy {cupy_emulated.cupy.__version__}")
    assert tables.verify(table, row, tmp_path, None) == []
    other = tables.Row("small", row.settings | {"learning_rate": 0.5})
    with pytest.raises(SystemExit, match=r"was trained with another learning_rate: 0\.001"):
        tables.train(table, other, tmp_path, 2, quiet=True)
    with pytest.raises(gvae.errors.DeviceError):
        tables.train(table, row, tmp_path / "another", 2, quiet=True)


def test_weights_name_no_folder_of_a_machine(scripts):
    """No string in the header of a weights file is an absolute path."""
    files = sorted(scripts["tables"].RESULTS.rglob("*.safetensors"))
    assert len(files) > 40
    for path in files:
        content = path.read_bytes()
        assert b'\\"/' not in content[8 : 8 + int.from_bytes(content[:8], "little")], path.name


def test_a_row_from_training_to_verification(scripts, tmp_path, monkeypatch, capsys):
    """Three epochs on digits: interrupted within the second one it continues to the same parameters; the record holds, and
    does not once it is altered."""
    tables = scripts["tables"]
    settings = {"posterior": "chain", "observation": "bernoulli", "latent": 4, "hidden": (8,), "epochs": 3}
    settings |= {"schedule": "cosine", "random_state": 1}
    row = tables.Row("small-1", settings, (-1.0, None))
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    few = {"chains": 2, "temperatures": 10}
    monkeypatch.setattr(tables, "ANNEALED", {"ais": few | {"first": 5}, "bdmc": few | {"first": 3}})
    table = tables.Table("toy", "A toy", "digits", (row,))
    assert "| small-1 | pending | -1 |  |  |  |  | - |  |  | 3 |  |  |" in tables.show(table)
    assert tables.verify(table, row, tmp_path / "a", 5) == ["small-1 has no record: it is pending"]

    asked = iter(range(10**6))
    dataset = gvae.data.load("digits")
    run = tmp_path / "a" / "toy" / "small-1"
    run.parent.mkdir(parents=True)
    begun = {"validation": dataset.test, "run": run, "notes": {"image_shape": dataset.image_shape}}
    with pytest.raises(gvae.errors.StoppedError):
        gvae.VAE(**settings).fit(dataset.train, **begun, stop=lambda: next(asked) == 20)
    interrupted = tables.train(table, row, tmp_path / "a", 20, quiet=True)
    table.path(row).unlink()
    straight = tables.train(table, row, tmp_path / "b", 20, quiet=True)
    same = ("parameters_sha256", "elbo", "log_likelihood", "kl", "active_units")
    assert [interrupted[name] for name in same] == [straight[name] for name in same]
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    for file in (tmp_path / "c" / "toy" / "small-1").glob("checkpoint*"):  # as if killed before there was one
        file.unlink()
    assert tables.train(table, row, tmp_path / "c", 20, quiet=True)["parameters_sha256"] == straight["parameters_sha256"]

    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    assert tables.main(table, arguments=["--runs", str(tmp_path / "b"), "--verify", "small-1"]) == 0
    assert "small-1: as recorded" in capsys.readouterr().out
    assert tables.verify(table, row, tmp_path / "b", 7) == []
    record = table.record(row)
    assert (record["ais"]["rows"], record["bdmc"]["rows"]) == (5, 3)
    with np.load(table.path(row).with_suffix(".npz")) as each:
        assert each["elbo"].mean() == pytest.approx(record["elbo"], abs=1e-4)
        assert each["log_likelihood"].shape == (len(dataset.test),)

    rounded = gvae.load(table.weights(row)).parameters_.sha256()
    assert rounded != record["parameters_sha256"]
    assert tables.verify(table, row, tmp_path / "no runs", None) == []  # from the weights that are kept
    altered = record | {"ais": record["ais"] | {"log_likelihood": 0.0}, "bdmc": record["bdmc"] | {"gap": -50.0}}
    tables.write(table.path(row), [], altered)
    assert [said.split()[0] for said in tables.verify(table, row, tmp_path / "b", None)] == [
        "ais.log_likelihood",
        "bdmc.gap",
    ]
    assert tables.verify(table, row, tmp_path / "b", 7) == []  # few samples: no annealing
    tables.write(table.path(row), [], record | {"log_likelihood": record["log_likelihood"] - 2})
    (said,) = tables.verify(table, row, tmp_path / "b", 7)
    assert re.match(r"log_likelihood is -\S+, expected between -\S+, the ELBO, and -\S+, the record's", said)
    tables.write(table.path(row), [], record)
    other = gvae.VAE(**settings | {"random_state": 2}).fit(dataset.train)  # of another row, and hardly worse
    other.save(tmp_path / "other.safetensors", half=True)
    kept = table.weights(row).read_bytes()
    table.weights(row).write_bytes((tmp_path / "other.safetensors").read_bytes())
    assert any(said.startswith("elbo is") for said in tables.verify(table, row, tmp_path / "no runs", None))
    assert any(said.startswith("elbo is") for said in tables.verify(table, row, tmp_path / "no runs", 7))
    table.weights(row).write_bytes(kept)
    broken = gvae.load(table.weights(row))
    broken.parameters_["decoder.0.weight"][...] = 0
    broken.save(table.weights(row), half=True)
    assert any(said.startswith("elbo is") for said in tables.verify(table, row, tmp_path / "no runs", None))
    table.weights(row).unlink()
    (said,) = tables.verify(table, row, tmp_path / "no runs", None)
    assert "`python examples/reproduce/toy.py small-1 --samples 20 --again` trains it again" in said

    tables.write(table.path(row), [], record | {"parameters_sha256": "0" * 64, "elbo": record["elbo"] + 1})
    wrong = tables.verify(table, row, tmp_path / "b", None)
    assert len(wrong) == 2
    assert "SHA-256" in wrong[0]
    assert "elbo is" in wrong[1]


def test_a_record_of_a_point_names_no_folder_of_this_machine(scripts, tmp_path, monkeypatch):
    result = tmp_path / "toy.jsonl"
    monkeypatch.setattr(sys, "argv", ["toy.py", "one", "--runs", str(tmp_path / "runs")])
    scripts["tables"].run_points({"one": lambda run: {"error": 1.0}}, result, "A toy")
    (record,) = map(json.loads, result.read_text().splitlines())
    assert record["command"] == "python examples/reproduce/toy.py one --runs runs"
    for path in (ROOT / "docs" / "results").rglob("*.jsonl"):
        commands = re.findall(r'"command": "([^"]*)"', path.read_text(encoding="utf-8"))
        assert not [command for command in commands if re.search(r"(^| )/", command)], path


def test_annealing_takes_rows_at_a_stride(scripts, monkeypatch):
    """The figures of each row stay in the order of the rows."""
    tables, test = scripts["tables"], (gvae.data.load("digits").test > 0.5).astype(np.float32)
    few = {"chains": 2, "temperatures": 10}
    monkeypatch.setattr(tables, "ANNEALED", {"ais": few | {"first": 5}, "bdmc": few | {"first": 3}})
    model = gvae.VAE(latent=4, hidden=(8,), epochs=40, learning_rate=1e-2, observation="bernoulli", random_state=0).fit(test)
    found = [tables.measure(model, test, 50, annealed=True, stride=stride) for stride in (1, 60)]
    each, strided = (of_rows["log_likelihood"] for _, of_rows in found)
    assert np.corrcoef(each, strided)[0, 1] > 0.9
    chosen = model.evaluate(test[::60], samples=50, measures=["ais"], **tables.ANNEALED["ais"]).summary()["ais"]
    assert found[1][0]["ais"]["log_likelihood"] == pytest.approx(chosen["log_likelihood"], abs=1e-3)
    assert abs(found[0][0]["ais"]["log_likelihood"] - chosen["log_likelihood"]) > 0.1


def test_a_name_that_is_unknown_is_refused_before_anything_runs(scripts, tmp_path, monkeypatch, capsys):
    tables, ran = scripts["tables"], []
    monkeypatch.setattr(sys, "argv", ["toy.py", "--runs", str(tmp_path), "one", "twoo"])
    with pytest.raises(SystemExit):
        tables.run_points({"one": ran.append, "two": ran.append}, tmp_path / "toy.jsonl", "a toy")
    assert ran == []
    assert "unknown name 'twoo'; known are one, two" in capsys.readouterr().err


def test_differences_of_rows_image_by_image(scripts, tmp_path, monkeypatch):
    """Against the means and standard errors of three pairs by hand; a pair of which a row is missing is left out."""
    tables, rng = scripts["tables"], np.random.default_rng(0)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    rows = [tables.Row(f"diagonal-{seed}", {}) for seed in range(4)]
    rows += [tables.Row(f"chain-{seed}", {}, against=f"diagonal-{seed}") for seed in range(4)]
    table = tables.Table("toy", "A toy", "digits", tuple(rows))
    (tmp_path / "toy").mkdir()
    assert tables.differences([table]) == ""
    gains = rng.normal(np.array([[0.1], [0.4], [0.2]]), 1.0, size=(3, 50))
    for seed, gain in enumerate(gains):
        base = 10 * rng.normal(size=50)
        np.savez(tmp_path / "toy" / f"diagonal-{seed}.npz", elbo=base, log_likelihood=2 * base)
        np.savez(tmp_path / "toy" / f"chain-{seed}.npz", elbo=base + gain, log_likelihood=2 * base - gain)
    np.savez(tmp_path / "toy" / "chain-3.npz", elbo=base, log_likelihood=base)
    of_seeds, of_images = (values.std(ddof=1) / len(values) ** 0.5 for values in (gains.mean(axis=1), gains.mean(axis=0)))
    p = 2 * scipy.stats.t.sf(abs(gains.mean()) / of_seeds, 2)
    rest = f" ± {of_seeds:.2f} (p={p:.1g})"
    line = f"| toy | chain | diagonal | 3 | {gains.mean():.2f}{rest} | {-gains.mean():.2f}{rest}"
    below = ["", f"Standard errors over images, of ELBO and log p(x): at most {of_images:.2f}."]
    assert tables.differences([table]).splitlines()[2:] == [f"{line} | - |", *below]
    for name, figure in {
        "diagonal-0": -90.0,
        "chain-0": -89.5,
        "diagonal-1": -91.0,
        "chain-1": -90.1,
        "chain-2": -80,
    }.items():
        record = {"ais": {"log_likelihood": figure}}
        (tmp_path / "toy" / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    p = 2 * scipy.stats.t.sf(0.7 / 0.2, 1)  # of two pairs, 0.5 and 0.9
    assert tables.differences([table]).splitlines()[2:] == [f"{line} | 0.70 ± 0.20 (p={p:.1g}) |", *below]


def test_the_shortened_schedule():
    """1/27 of 3,280 epochs: the rates of the paper, each for 1/27 of its epochs."""
    full, short = optim.parse_schedule("iwae", 2700), optim.parse_schedule("iwae:27", 2700)
    steps = np.arange(0, 2700 * 3300, 9973)
    np.testing.assert_array_equal(
        [short(step // 27) for step in steps[::27]], [full(step // 27 * 27) for step in steps[::27]]
    )
    assert short(0) == 1.0
    assert short(2700 * 122) == pytest.approx(0.1)


HELP = """
import os, runpy, sys, gvae.cli
for script in sys.argv[1:]:  # each in a process of its own, which does not import gvae anew
    if os.fork() == 0:
        sys.argv = [script, "--help"]
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            sys.stdout.flush()
            os._exit(end.code or 0)
        os._exit(3)
    print(script, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_every_script_says_what_it_does():
    scripts = sorted({path.name for path in FOLDER.glob("*.py")} - {"tables.py", "page.py", "permuted.py"})
    done = subprocess.run([sys.executable, "-c", HELP, *scripts], cwd=FOLDER, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for script in scripts:
        assert f"usage: {script} " in done.stdout
        assert f"\n{script} 0\n" in done.stdout


FEW = ["--rows", "150", "--epochs", "1", "--seeds", "1", "2"]
SMALL = {
    "compare.py": [
        "digits",
        *FEW,
        "--hidden",
        "5",
        "--vary",
        "model",
        "vae",
        "linear",
        "nlfa",
        "autoencoder",
        "--set",
        "observation=gaussian",
        "dequantize=17",
    ],
    "rho_vae.py": ["--data", "digits", *FEW],
}


@pytest.mark.parametrize("script", SMALL)
def test_a_comparison_on_few_rows(script):
    done = subprocess.run([sys.executable, str(FOLDER / script), *SMALL[script]], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    table = [line for line in done.stdout.splitlines() if "+-" in line]
    assert len(table) == {"compare.py": 4 + 3, "rho_vae.py": 3}[script]
    assert "nan" not in done.stdout
    if script == "compare.py":  # an autoencoder has no bounds
        assert re.match(r"autoencoder +- +- +-\d", table[-2])


WRONG = {
    "--set foo --vary latent 2": "--set foo has no value, expected --set SETTING=VALUE ...",
    "--vary latent": "--vary latent has no values, expected --vary SETTING VALUE ...",
    "--vary model vae foo": "unknown name 'foo'; known are ",
    "--vary model factor_analysis vae": "factor_analysis, vae: densities do not compare with bernoulli probabilities",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_comparison(words, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["compare.py", "digits", *words.split()])
    try:
        with pytest.raises(SystemExit):
            importlib.import_module("compare").main()
    finally:
        for name in ("compare", "tables"):
            sys.modules.pop(name, None)
    assert WRONG[words] in capsys.readouterr().err


def test_parametrisations(monkeypatch):
    """The script's own: correlations depend on the edges alone, of neighbours in a chain as stated."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    importlib.import_module("parametrisations")
    r = np.random.default_rng(0)
    for text in ("chain_row", "chain_partial", "extended_grid_row:2x3", "extended_grid_partial", "full_unit"):
        family = families.parse(text, 6)
        edges = r.uniform(-0.3, 0.3, size=family.n_params - 12)
        found = [family(np.concatenate([r.normal(size=12), edges])).covariance() for _ in range(2)]
        one, other = (C / np.sqrt(np.outer(np.diag(C), np.diag(C))) for C in found)
        np.testing.assert_allclose(one, other, atol=1e-12)
        assert abs(one - np.eye(6)).max() > 0.1
        if text == "chain_partial":
            w = elementwise.bounded(edges, limit=family.limit)
            np.testing.assert_allclose(np.diag(one, 1), -w / np.sqrt(1 + w**2), atol=1e-12)
        if text == "full_unit":
            C = family(np.concatenate([np.zeros(12), edges])).covariance()
            np.testing.assert_allclose(np.diag(C), 1, atol=1e-12)
    sys.modules.pop("parametrisations")
    arguments = [sys.executable, str(FOLDER / "parametrisations.py"), "series", "--rows", "200", "--seeds", "0", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len([line for line in done.stdout.splitlines() if "+-" in line]) == 4


@pytest.mark.parametrize(("score", "seconds", "good"), [(-19.9, 29.0, True), (-20.1, 29.0, False), (-19.9, 31.0, False)])
def test_the_rule_of_length_is_held_to_its_targets(score, seconds, good, monkeypatch, capsys):
    """In the mean over seeds, against the best fixed length of the same seeds."""
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(FOLDER))
    length = importlib.import_module("length")
    fixed = [("wine", 200, 0, -19.5), ("wine", 200, 1, -20.5), ("wine", 500, 0, -19.0), ("wine", 500, 1, -19.0)]
    records = [
        {"data": d, "length": k, "seed": s, "score": x, "seconds": 99.0} for d, k, s, x in [*fixed, ("wine", 500, 7, 0.0)]
    ]
    rule = {"data": "wine", "length": "auto", "steps": 3000, "kept": 1000}
    records += [rule | {"seed": s, "score": score + d, "seconds": t} for s, d, t in [(0, 0.5, seconds), (1, -0.5, 1.0)]]
    try:
        assert length.show(records) is good
        assert f"{score + 19:+.2f}" in capsys.readouterr().out
    finally:
        for name in ("length", "tables"):
            sys.modules.pop(name, None)


SHORTENED = """
import runpy, sys
import numpy as np
import gvae
from dataclasses import replace
from gvae import data
from gvae.estimator.base import Estimator

fit, evaluate, load = Estimator.fit, Estimator.evaluate, data.load
few = {"first": 2, "chains": 2, "temperatures": 3}
most = 222 if "parametrisations" in sys.argv[1] else 2  # it reads the bound after that many epochs
shapes = {"digits": (8, 8), "frey_faces": (28, 20)}

def on_few_rows(self, X, y=None, **given):
    lengths = {name: getattr(self, name, None) for name in ("epochs", "steps")}
    self.set_params(**{name: min(length, most) for name, length in lengths.items() if isinstance(length, int)})
    return fit(self, X[:60], None if y is None else y[:60], **given)

def briefly(self, X, y=None, *, samples=100, **given):
    given |= {name: few[name] for name in few if name in given}
    return evaluate(self, X[:20], None if y is None else y[:20], samples=min(samples, 5), **given)

def made_up(name, **given):
    random = np.random.default_rng(0)
    images = (random.uniform(size=(100, *shapes.get(name, (28, 28)))) < 0.3).astype(np.float32)
    train, test = np.arange(60) % 10, np.arange(40) % 10
    found = load(images, name=name)
    part = {"train": found.train[:60], "test": found.train[-40:]}
    columns = {"y": (train, test)}
    if name == "noisy_mnist":  # y is a view
        columns = {"y": (part["train"][::-1], part["test"][::-1])}
        part |= {"validation": (part["test"], columns["y"][1]), "validation_labels": test}
    return replace(found, **part, train_labels=train, test_labels=test, columns=columns)

Estimator.fit, Estimator.evaluate, data.load = on_few_rows, briefly, made_up
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ONE = {
    "tests/evidence.py": ["factors, mlp, diagonal"],
    "examples/reproduce/parametrisations.py": ["series", "frey_faces", "--seeds", "0"],
    "examples/reproduce/rate_distortion.py": ["standard-1", "mixture-5"],
}
ONE |= {f"examples/reproduce/{name}.py": ["--seeds", "1"] for name in ("compare", "rho_vae", "observation_graphs")}


def programs():
    """The commands of the documentation that run a script of examples/reproduce, or the evidence."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        if "_build" not in page.parts:
            text = page.read_text(encoding="utf-8").replace("\\\n", " ")
            for line in re.findall(r"^(?:\$ |    )python ((?:examples/reproduce|tests/evidence).*)$", text, re.MULTILINE):
                yield shlex.split(line, comments=True)


@pytest.mark.documentation
@pytest.mark.parametrize("words", list(programs()), ids=" ".join)
def test_the_programs_of_the_pages_run(words, tmp_path):
    """On few made-up rows, in a copy of the folders that they write to, from the results that there are."""
    for folder in ("docs/results", "examples", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    length = tmp_path / "docs" / "results" / "length.jsonl"
    lines = length.read_text().splitlines(keepends=True)
    length.write_text("".join(line for line in lines if '"length": 200,' not in line))  # so that some are left to do
    run = [sys.executable, "-c", SHORTENED, *words, *ONE.get(words[0], [])]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
