"""Two checkouts beside each other: the package of a commit or of a folder, and the environment of a process that imports it.

A commit's package is put into the user's cache by `git archive` and stays there: Numba finds compiled kernels again by the
path and the time of their source, which `git archive` sets to that of the commit.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the repository that this file belongs to
ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Checkout:
    """name : for people, with the commit       tree : a folder that holds the package gvae"""

    name: str
    tree: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of a process that imports this gvae, in which no GVAE_ variables but `variables` are set."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GVAE_")}
        return inherited | {"PYTHONPATH": str(self.tree)} | ONE_BLAS_THREAD | variables


def find(text: str, repository: Path = ROOT) -> Checkout:
    """The checkout that a commit (a branch, a tag, HEAD~3, ...) or a folder names. ValueError if it is neither."""
    done = _git(repository, "rev-parse", "--verify", "--quiet", f"{text}^{{commit}}")
    if done.returncode == 0:
        commit = done.stdout.decode().strip()
        return Checkout(f"{text} at {commit[:10]}", _archived(commit, repository))
    folder = Path(text).resolve()
    if not (folder / "gvae" / "__init__.py").is_file():
        raise ValueError(f"{text!r} is neither a commit of {repository} nor a folder with the package gvae")
    return Checkout(str(folder), folder)


def _archived(commit: str, repository: Path) -> Path:
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gvae" / "commits"
    tree = kept / commit
    if tree.is_dir():
        return tree
    kept.mkdir(parents=True, exist_ok=True)
    archive = _git(repository, "archive", "--format=tar", commit, "gvae")
    if archive.returncode:
        raise ValueError(f"commit {commit}: {archive.stderr.decode().strip()}")
    part = tempfile.mkdtemp(dir=kept)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(part, filter="data")
        os.rename(part, tree)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        if not tree.is_dir():  # else another process was faster
            raise
    return tree


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True)
