"""How the suite runs (conftest.py): two workers by default, exclusive tests, closing lines that count all workers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("xdist")

TESTS = Path(__file__).parents[1]
SUITE = """
import time
from pathlib import Path
import devices
import pytest

@pytest.mark.parametrize("i", range(4))
def test_shared(i):
    devices.emulated.add(sorted(devices.KERNELS)[{file} * 4 + i])
    devices.compiled.setdefault(sorted(devices.KERNELS)[0], set()).add("sm_{file}0")
    noted("shared")

@pytest.mark.exclusive
@pytest.mark.parametrize("i", range(2))
def test_exclusive(i):
    noted("exclusive")

def noted(kind):
    start = time.monotonic()
    time.sleep({seconds})
    with Path("{log}").open("a") as log:
        log.write(f"{{kind}} {{start}} {{time.monotonic()}}\\n")
"""


@pytest.fixture
def suite(tmp_path, request):
    """run(*arguments) -> what pytest prints for two files of four tests and two exclusive ones each; (kind, start, end)s."""
    shutil.copy(TESTS / "conftest.py", tmp_path)
    log, seconds = tmp_path / "log", 0.01 if "one_process" in request.node.name else 0.2
    for file in range(2):
        (tmp_path / f"test_{file}.py").write_text(SUITE.format(file=file, log=log, seconds=seconds), encoding="utf-8")
    markers = 'markers = ["exclusive: alone", "gpu: on a device"]'
    (tmp_path / "pyproject.toml").write_text(f'[tool.pytest.ini_options]\ntestpaths = ["."]\n{markers}\n', encoding="utf-8")

    def run(*arguments):
        log.unlink(missing_ok=True)
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "PYTEST_ADDOPTS": ""}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "12 passed" in done.stdout
        lines = (line.split() for line in log.read_text(encoding="utf-8").splitlines())
        return done.stdout, [(kind, float(start), float(end)) for kind, start, end in lines]

    return run


def overlapping(spans):
    """The kinds of every two tests that ran at the same time."""
    spans = sorted(spans, key=lambda span: span[1])
    return {tuple(sorted((a[0], b[0]))) for i, a in enumerate(spans) for b in spans[i + 1 :] if b[1] < a[2]}


def test_two_workers_by_default_and_exclusive_tests_run_alone(suite):
    printed, spans = suite()
    assert "2 workers" in printed
    assert overlapping(spans) == {("shared", "shared")}
    assert re.search(r"\d+ kernels: 1 compiled for sm_00, sm_10, 8 emulated, 0 run on a device", printed)


@pytest.mark.parametrize("arguments", [("-n", "0"), ("-p", "no:xdist"), ("test_0.py", "test_1.py")], ids=" ".join)
def test_one_process(suite, arguments):
    printed, spans = suite(*arguments)
    assert "workers" not in printed
    assert not overlapping(spans)
    assert re.search(r"\d+ kernels: 1 compiled for sm_00, sm_10, 8 emulated, 0 run on a device", printed)


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ([], 1),
        (["--nightly"], 3),
        (["-m", "documentation"], 1),
        (["-m", "nightly or documentation"], 2),
        (["test_it.py"], 1),
        (["test_it.py::test_at_night"], 1),
    ],
    ids=str,
)
def test_what_is_left_out_unless_asked_for(tmp_path, arguments, passed):
    shutil.copy(TESTS / "conftest.py", tmp_path)
    marked = "\n".join(
        f"@pytest.mark.{mark}\ndef test_{name}(): pass"
        for mark, name in (("nightly", "at_night"), ("documentation", "page"), ("slow", "always"))
    )
    (tmp_path / "test_it.py").write_text(f"import pytest\n{marked}\n", encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["."]\n', encoding="utf-8")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert re.search(r"(\d+) passed", done.stdout)[1] == str(passed), done.stdout + done.stderr
