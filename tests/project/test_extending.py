"""The patches of docs/extending.md: each applies, passes the tests of its registry, is reached by users, and is as small as
the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATCHES = ROOT / "docs" / "extending"


@dataclass(frozen=True)
class Example:
    """files : at most so many are touched        tests : arguments of pytest        shown : a program and what it prints"""

    files: int
    tests: tuple[tuple[str, str], ...]
    program: str
    shown: str


HELP = "from gvae.cli import main; main(['{}', '--help'])"
TRAIN = "from gvae.cli import main; main('train digits --hidden 5 --steps 5 --dtype float64 --out run {}'.split())"

EXAMPLES = {
    "measure": Example(
        1,
        (
            ("tests/evaluation/test_evaluation.py", "measures_by_name"),
            ("tests/cli/test_cli.py", "every_option_says"),
            ("tests/project/test_docstrings.py", "niformity"),
        ),
        HELP.format("evaluate"),
        r"uniformity: Kolmogorov-Smirnov",
    ),
    "objective": Example(
        1,
        (
            ("tests/models/test_models.py", "jackknife and diagonal and posterior"),
            ("tests/objectives/test_objectives.py", "test_names"),
            ("tests/project/test_docstrings.py", "Jackknife"),
        ),
        TRAIN.format("--posterior diagonal --objective jackknife --samples 3"),
        "",
    ),
    "family": Example(
        2,
        (
            ("tests/families/test_families.py", "laplace"),
            (
                "tests/models/test_models.py",
                "laplace and posterior and iwae and not vr and not ciwae and not miwae and not piwae",
            ),
            ("tests/evaluation/test_evidence.py", "among_the_cases"),
            ("tests/project/test_docstrings.py", "Laplace"),
        ),
        TRAIN.format("--posterior laplace"),
        "",
    ),
    "op": Example(
        4,
        (
            ("tests/ops/test_ops.py", "log1mexp or has_a_row or unique"),
            ("tests/ops/test_awkward.py", "log1mexp or has_every or every_parameter"),
            ("tests/project/test_benchmarks.py", "complements or structured or every_family"),
            ("tests/project/test_docstrings.py", "log1mexp"),
        ),
        "import numpy as np, gvae; print(gvae.ops.log1mexp(np.zeros(1)), 'log1mexp' in dir(gvae.ops))",
        r"\[-inf\] True",
    ),
    "kernel": Example(
        7,
        (
            ("tests/ops/test_ops.py", "decayed_sum"),
            ("tests/ops/test_awkward.py", "decayed_sum or every_parameter"),
            ("tests/kernels/test_cuda_kernels.py", "(decay and not spill) or twin or declared or exceptions"),
            ("tests/project/test_benchmarks.py", "decay or structured"),
            ("tests/project/test_docstrings.py", "decayed_sum"),
        ),
        "import numpy as np, gvae; print(gvae.ops.decayed_sum(np.ones(3), np.array(2.0)))",
        r"\[1\. 3\. 7\.\]",
    ),
    "model": Example(
        2,
        (
            ("tests/project/test_docs.py", "every_model_has_a_page"),
            ("tests/project/test_docstrings.py", "Bypass"),
            ("tests/settings/test_settings.py", "(help_names and BypassVAE) or documentation_has"),
        ),
        TRAIN.format("--model bypass --posterior diagonal") + "; import gvae; print(gvae.load('run'))",
        r"BypassVAE\(",
    ),
}


def touched(name):
    return set(re.findall(r"^\+\+\+ b/(.*)$", (PATCHES / f"{name}.patch").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_patch_is_on_the_page_and_tested():
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = re.findall(r"\{literalinclude\} extending/(\w+)\.patch", page)
    assert sorted(shown) == sorted(EXAMPLES) == sorted(path.stem for path in PATCHES.glob("*.patch"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_as_few_files_as_the_page_says(name):
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| \[[^]]*\]\(#[\w-]*{name}\) \| (\d+) \|", page, re.MULTILINE)
    assert len(touched(name)) == int(row[1]) <= EXAMPLES[name].files


@pytest.fixture(scope="module")
def files():
    """What git tracks, and this working tree has."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("the tracked files are known in a clone only")
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).exists()]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_patch_fits_the_tree(name, files, tmp_path):
    """The files that it touches, and so quickly that every push has it."""
    for file in touched(name) & set(files):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    command = ["git", "apply", "--check", str(PATCHES / f"{name}.patch")]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"GIT_DIR": "none"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_patch_applies_and_its_tests_pass(name, files, tmp_path):
    tree, example = tmp_path / "tree", EXAMPLES[name]
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tree / file)
    patch = PATCHES / f"{name}.patch"
    env = os.environ | {"GIT_DIR": "none", "PYTHONPATH": str(tree)}  # the copy is no clone, nor a part of one
    subprocess.run(["git", "apply", str(patch)], cwd=tree, env=env, check=True)
    for file, which in example.tests:
        chosen = ["-m", "not gpu and not slow", file, "-k", which]
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--nightly", *chosen]
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{file} -k {which!r}\n{done.stdout[-5000:]}{done.stderr[-2000:]}"
    done = subprocess.run([sys.executable, "-c", example.program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(example.shown, " ".join(done.stdout.split()))
