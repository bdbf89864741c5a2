"""`gvae ...` for tests: in this process or in one of its own, in an empty folder, and a run that it has trained.

Its fixtures are there for all tests: conftest.py names this file as a plugin.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gvae
from gvae import cli

ROOT = Path(gvae.__file__).parents[1]
RUN = ["checkpoint.previous.safetensors", "checkpoint.safetensors", "config.json", "log.jsonl", "run.toml", "starts.jsonl"]
ROWS = np.random.default_rng(0).random((40, 6)).astype(np.float32)
TRAIN = ["train", "rows.npy", "--out", "run"]
CHOSEN = "vae: observation gaussian (real numbers: 0.636962 is no whole multiple of 1/255), standardized\n"  # of these rows


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


@pytest.fixture(scope="session")
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
