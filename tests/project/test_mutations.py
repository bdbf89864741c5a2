"""Seeded mutations: each patch of tests/mutations/ fits the tree and names tests that exist; run.py tells what is caught."""

from __future__ import annotations

import difflib
import re
import shutil

import pytest
from mutations import run

PATCHES = sorted(run.HERE.glob("*.patch"))
FILE = "gvae/graphs.py"

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="patches are applied by git")


@needs_git
@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_fits_the_tree(path):
    mutation = run.read(path)
    assert mutation.files
    assert all(name.startswith("gvae/") for name in mutation.files)
    result = run.git("apply", "--check", str(path), cwd=run.ROOT)
    assert result.returncode == 0, result.stderr
    for test in mutation.tests:
        file, function = re.fullmatch(r"(tests/[\w/]+\.py)::(\w+)(?:\[.*\])?", test).groups()
        assert re.search(rf"^def {function}\(", (run.ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), test


@pytest.mark.parametrize("header", ["", "broken\n", "broken\ncaught by: a\nends: never\n", "caught by: a\n", "a\nb: c\n"])
def test_a_header_that_is_none(header, tmp_path):
    path = tmp_path / "a.patch"
    path.write_text(f"{header}\n--- a/x\n+++ b/x\n")
    with pytest.raises(ValueError, match="expected a line of what is broken"):
        run.read(path)


@needs_git
@pytest.mark.slow
@pytest.mark.skipif(not (run.ROOT / ".git").exists(), reason="the files to copy are listed by git")
def test_what_is_caught_and_what_is_not(tmp_path, capsys):
    text = (run.ROOT / FILE).read_text(encoding="utf-8")

    def write(name, old, new, test="test_patterns"):
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{FILE}", f"b/{FILE}")
        header = f"{name}\ncaught by: tests/test_graphs.py::{test}\n\n"
        (tmp_path / f"{name}.patch").write_text(header + "".join(lines), encoding="utf-8")

    write("broken", text, text + "\n\ndef chain(n):\n    return independent(n)\n")
    write("commented", text, text + "# a comment\n")
    write("refused", "no such\n", "line\n")
    write("untested", text, text + "# a comment\n", "test_that_does_not_exist")
    assert run.main(["--patches", str(tmp_path), "broken"]) == 0
    assert run.main(["--patches", str(tmp_path), "commented", "refused", "untested"]) == 1
    said = capsys.readouterr().out
    caught = dict(re.findall(r"^(\w+) +(yes|no) +[\d.]+$", said, re.MULTILINE))
    assert caught == {"broken": "yes", "commented": "no", "refused": "no", "untested": "no"}
    for why in ("it survives (passed)", "patch does not apply", "its tests do not pass without it (error)"):
        assert why in said
    assert "1 of 1 caught" in said
    assert "0 of 3 caught" in said
    assert (run.ROOT / FILE).read_text(encoding="utf-8") == text
