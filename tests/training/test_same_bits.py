"""tests/same_bits.py finds what differs between two checkouts: by one bit, by an error, by a process that dies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import same_bits
from nightly import NIGHTLY
from same_bits import Refusal, differences

import gvae
from gvae import families, objectives

ROOT = Path(__file__).parents[2]
CASE = "posterior diagonal, iwae, K=5, float64"


@pytest.fixture
def copy(tmp_path):
    """copy({file: (old, new)}) -> a folder with a changed copy of gvae. Its kernels are this tree's, by their path, so that
    they need not be compiled again."""

    def copy(changes):
        package = tmp_path / "other" / "gvae"
        shutil.copytree(ROOT / "gvae", package, ignore=shutil.ignore_patterns("kernels", "__pycache__"))
        with (package / "__init__.py").open("a", encoding="utf-8") as file:
            file.write(f"\n__path__.append({str(ROOT / 'gvae')!r})\n")
        for path, (old, new) in changes.items():
            text = (package / path).read_text(encoding="utf-8")
            assert text.count(old) == 1, path
            (package / path).write_text(text.replace(old, new), encoding="utf-8")
        return package.parent

    return copy


def run(*arguments):
    command = [sys.executable, ROOT / "tests" / "same_bits.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_a_changed_default_is_no_difference(copy):
    other = copy({"models/vae.py": ('default="elu"', 'default="tanh"')})
    done = run(str(ROOT), str(other), "--only", CASE.removesuffix(", float64"))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"2 of 2 cases agree: .*\n", done.stdout)


def test_one_bit_is_reported(copy):
    nudged = "np.nextafter(p.shown, np.where(np.arange(84).reshape(7, 12) == 27, 9, p.shown))"
    other = copy({"estimator/base.py": ("if draw else p.shown", f"if draw else {nudged}")})
    done = run(str(ROOT), str(other), "--only", CASE)
    assert (done.returncode, done.stderr) == (1, "")
    line, last = done.stdout.splitlines()
    expected = rf"{CASE}: sample\[2, 3\]: 0\.\d+ in BASE; 0\.\d+ in OTHER, 1 ulp; 1 of 84 differ, by up to 5\.55e-17"
    assert re.fullmatch(expected, line)
    assert last.startswith("0 of 1 cases agree: ")


def test_another_step_is_reported_where_it_shows(copy):
    """Adam's rate, changed by 4096 ulp: by few, a mean over rows may round to the same number."""
    rate = "return self.learning_rate * self.scale * self.schedule(step)"
    other = copy({"training/step.py": (rate, f"{rate} * (1 + 2**-40)")})
    done = run(str(ROOT), str(other), "--only", CASE, "--most", "1000")
    assert done.returncode == 1
    for what in (
        r"checkpoint parameters/encoder\.0\.weight\[\d+, \d+\]",
        r"checkpoint optimizer/m\[\d+\]",
        r"parameter decoder\.1\.bias\[\d+\]",
        r"history 1 train_bound",
        r"transform\[0, 0\]",
        r"evaluate log_likelihood\[\d+\]",
    ):
        assert re.search(rf"^{CASE}: {what}: .* ulp; .* differ, by up to", done.stdout, re.MULTILINE), what


@pytest.mark.parametrize(
    ("does", "status"),
    [
        pytest.param("os._exit(7)", 7, id="dies"),
        pytest.param("__import__('time').sleep(600)", -9, id="hangs", marks=NIGHTLY),
    ],
)
def test_a_process_that_dies_or_hangs_is_reported(copy, does, status):
    begins = "        begun, ranks = None, parallel.of(comm)"
    other = copy({"estimator/fitting.py": (begins, f"        {does}\n{begins}")})
    done = run(str(ROOT), str(other), "--only", CASE, "--timeout", "30" if status == 7 else "5")
    assert done.returncode == 1
    assert f"{CASE}: the process of OTHER died with status {status}\n" in done.stdout


def test_what_cannot_be_compared_is_a_mistake():
    for arguments, said in (
        (("no-such-commit",), "neither a commit of"),
        ((str(ROOT), "--only", "no such case"), "see --list"),
    ):
        done = run(*arguments)
        assert done.returncode != 0
        assert said in done.stderr


# ---- the comparison

ARRAYS = {
    "by one ulp": (np.float32([1, 2, 3]), np.float32([1, 2, np.nextafter(np.float32(3), 9)]), r"x\[2\]: .*, 1 ulp; 1 of 3"),
    "by sign": (
        np.array(1.0),
        np.array(-1.0),
        r"x: 1.0 in BASE; -1.0 in OTHER, \d+ ulp; 1 of 1",
    ),
    "by the sign of zero": (np.zeros((2, 2)), np.array([[0, 0], [-0.0, 0]]), r"x\[1, 0\]: .*, 0 ulp; 1 of 4"),
    "by a NaN": (np.array([np.nan, 1]), np.array([np.nan, np.nan]), r"x\[1\]: .* 1 of 2 differ, by up to nan"),
    "whole numbers": (np.arange(3), np.array([0, 1, 3]), r"x\[2\]: 2 in BASE; 3 in OTHER; 1 of 3 differ"),
    "truth": (np.array(True), np.array(False), r"x: True in BASE; False in OTHER; 1 of 1 differ"),
    "shape": (np.zeros((2, 1)), np.zeros(2), r"x: float64 \(2, 1\) in BASE; float64 \(2,\) in OTHER"),
    "type": (np.zeros(2), np.zeros(2, np.float32), r"x: float64 \(2,\) in BASE; float32 \(2,\) in OTHER"),
    "text": ("a", "b", r"x: 'a' in BASE; 'b' in OTHER"),
    "none": (None, np.zeros(1), r"x: None in BASE; array\(\[0\.\]\) in OTHER"),
    "type of error": (Refusal("A", "no", True), Refusal("B", "no", True), r"x: A: no in BASE; B: no in OTHER"),
    "not gvae's": (Refusal("A", "no", False), Refusal("A", "no", False), r"x: A: no in BASE; A: no in OTHER"),
}


@pytest.mark.parametrize(("base", "other", "line"), ARRAYS.values(), ids=list(ARRAYS))
def test_what_differs_and_by_how_much(base, other, line):
    (found,) = differences({"x": base}, {"x": other})
    assert re.match(line, found)


def test_what_is_alike():
    x = np.array([np.nan, -0.0, np.inf])
    base = {"x": x, "text": "a", "none": None, "error": Refusal("ConfigError", "one message", True)}
    assert not differences(base, base | {"x": x.copy(), "error": Refusal("ConfigError", "another", True)})


def test_what_one_side_lacks():
    refused = {"fit: error": Refusal("ConfigError", "no", True)}
    assert differences({"x": 1}, {}) == ["x: not there in OTHER"]
    assert differences({}, refused) == ["fit: error: not there in BASE: ConfigError: no"]


# ---- the list


def test_everything_registered_has_its_cases():
    cases = same_bits.cases()
    names = [case.name for case in cases]
    for K in same_bits.DRAWS:
        for model, cls in gvae.estimators().items():
            drawn = K == 1 or hasattr(cls, "samples")
            if cls.model.columns == {"x": "matrix"} and same_bits.with_codes(cls.model) and drawn:
                assert any(name.startswith(f"model {model}, ") and name.endswith(f"K={K}") for name in names), model
        for objective in objectives.OBJECTIVES:
            for gradient in objectives.GRADIENTS:
                assert f"objective {objective}, {gradient}, chain, K={K}" in names
        for family in families.FAMILIES:
            for role in ("posterior", "observation", "prior"):
                text = same_bits.TEXTS.get(family, family)
                if role != "posterior" and family == "planar":  # its density is known for its own draws alone
                    continue
                assert f"{role} {text}, elbo, K={K}" in names
    for case in cases:
        assert set(case.settings) == set(getattr(gvae, case.estimator)().get_params())  # all of them are written out
        assert case.settings["observation"] != "auto"
        assert case.settings.get("binarize", "none") is not None


def test_a_case_of_the_one_class_is_that_of_the_models_own():
    """As a BASE with one class writes it out: with settings that the model never used, too."""
    shared = gvae.VAE().get_params() | same_bits.TRAINING | {"epochs": 20}
    exact = shared | {"model": "factor_analysis"} | same_bits.FACTOR_ANALYSIS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made = same_bits._made(same_bits.Case("then", exact))
        other = same_bits._made(same_bits.Case("then", shared | {"model": "map"}))
    assert (type(made), made.latent, made.steps) == (gvae.FactorAnalysis, same_bits.LATENT, 20)
    assert (type(other), other.hidden, other.batch_size) == (gvae.MAPVAE, (16,), 16)


def test_validation_of_some_models_is_not_compared():
    found = {"history 0 validation_bound": 1, "history 0 train_bound": 2, "checkpoint counters": 3}
    kept = {name: value for name, value in found.items() if "validation" not in name}
    assert same_bits._meant({"settings": {"model": "bayes"}}, found) == kept
    assert same_bits._meant({"settings": {"model": "nlfa"}}, found) == found
    assert same_bits._meant({"settings": {}}, found) == found  # of a BASE with an estimator for each


def test_data_lie_in_the_support():
    for case in same_bits.cases():
        support = families.parse(case.settings["observation"], 784 if "wide" in case.data else 12).support
        for part in same_bits.rows(case.data):
            assert support.holds(part.reshape(len(part), -1)) or "byte" in case.data, case.name
    train, *_ = same_bits.rows("binary")
    np.testing.assert_array_equal(train, same_bits.rows("binary")[0])
    assert len(train) % same_bits.TRAINING["batch_size"]  # a ragged last batch


# ---- checkouts.py


def test_a_commit_and_a_folder(tmp_path, monkeypatch):
    sys_path = [str(ROOT / "asv_bench"), *sys.path]
    monkeypatch.setattr(sys, "path", sys_path)
    import checkouts

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GVAE_NUM_THREADS", "5")
    repository = tmp_path / "repository"
    module = repository / "gvae" / "__init__.py"
    module.parent.mkdir(parents=True)

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", repository, *who, *arguments], check=True, capture_output=True)

    git("init")
    for text in ("x = 1\n", "x = 2\n"):
        module.write_text(text)
        git("add", ".")
        git("commit", "-m", text)
    module.write_text("x = 3\n")
    found = [checkouts.find(text, repository) for text in ("HEAD~1", "HEAD", str(repository), "HEAD~1")]
    assert [(one.tree / "gvae" / "__init__.py").read_text() for one in found] == [f"x = {n}\n" for n in (1, 2, 3, 1)]
    assert found[0].tree == found[3].tree != found[1].tree  # kept, for the kernels that are compiled there
    assert found[0].tree.parent == tmp_path / "cache" / "gvae" / "commits"
    environment = found[2].environment(GVAE_NUM_THREADS="2")
    assert (environment["PYTHONPATH"], environment["GVAE_NUM_THREADS"]) == (str(repository), "2")
    assert "GVAE_NUM_THREADS" not in found[2].environment()
    with pytest.raises(ValueError, match=r"'HEAD~9' is neither a commit of .* nor a folder with the package gvae"):
        checkouts.find("HEAD~9", repository)
