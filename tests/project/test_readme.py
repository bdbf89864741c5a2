"""The README: its length, its links, and every program and command in it, run as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
ENV = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def commands():
    """The lines of its indented blocks that begin with gvae, without comments."""
    for line in TEXT.splitlines():
        if line.startswith("    gvae "):
            yield shlex.split(line, comments=True)


def test_it_is_short():
    lines = TEXT.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100 and not line.startswith("![")] == []


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 10
    for link in links:
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        if heading:
            names = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in names}, link


@pytest.mark.documentation
def test_its_programs_run(tmp_path):
    """All Python blocks of it, one after another in one process; three of them before its first heading but the title."""
    programs = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert TEXT.partition("\n## ")[0].count("```python") == 3
    run = [sys.executable, "-W", "error", "-c", "\n".join(programs)]
    done = subprocess.run(run, cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    score, summary = done.stdout.splitlines()
    assert -14 < float(score) < -9
    elbo, unreliable = map(float, summary.split())
    assert elbo < float(score) + 1
    assert 0 <= unreliable < 0.2


@pytest.mark.documentation
def test_its_commands_run(tmp_path):
    """In their order, in one folder, with the examples of the clone."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    found = list(commands())
    assert len(found) >= 5
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for words in found:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "samples.png").stat().st_size > 1000
    assert (tmp_path / "RUN" / "run.toml").exists()


def test_its_tables_name_what_there_is():
    """Every estimator, and every posterior that a text may name."""
    import gvae
    from gvae import families

    for cls in gvae.estimators().values():
        assert f"`{cls.__name__}`" in TEXT, cls
    found = re.findall(r"^\| `([^`=]+)` \| (?:independent|precision|factor|covariance|any)", TEXT, re.MULTILINE)
    assert len(found) == 8
    for text in found:
        assert families.parse(text, 16).n == 16
