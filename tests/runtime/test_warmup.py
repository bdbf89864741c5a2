"""gvae warmup: nothing is left to compile afterwards, and what could be forgotten is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from nightly import thinned

import gvae
from gvae import cli
from gvae.autodiff import primitive
from gvae.errors import GvaeError
from gvae.kernels.cpu import banded
from gvae.runtime import compile as compiling
from gvae.runtime import pool

FIRST_KL = """
import time
import numpy as np
from gvae import ops
chol, mean = np.full((100, 2, 16), 0.5, np.float32), np.zeros((100, 16), np.float32)
start = time.perf_counter()
ops.kl_divergence_banded(mean, chol)
print(time.perf_counter() - start)
"""
ONE_KERNEL = """
import numpy as np
from gvae import ops
ops.log_mean_exp(np.zeros((20, 30), np.float32))
"""
A_KERNEL = """
import numba
@numba.njit(cache=True)
def total(x):
    return x.sum()
"""
FIRST_TOTAL = """
import time
import numpy as np
x = np.zeros(3, np.float32)
start = time.perf_counter()
import a_kernel
a_kernel.total(x)
print(time.perf_counter() - start)
"""
EVERYTHING = """
import numpy as np
from gvae import ops
from gvae.autodiff import gradient
for dtype in (np.float32, np.float64):
    for offsets in ((0, 1), (0, 3)):
        chol, mean = np.full((7, 2, 9), 0.5, dtype), np.zeros((7, 9), dtype)
        gradient(lambda m, c: ops.sum(ops.kl_divergence_banded(m, c, offsets=offsets)), mean, chol)
        gradient(lambda m, c, p: ops.sum(ops.kl_divergence_banded(m, c, m, p, offsets=offsets)), mean, chol, chol)
        gradient(lambda m, c: ops.sum(ops.sample_banded(m, c, m, offsets=offsets)), mean, chol)
"""


def python(*arguments, cache=None):
    """What a process of its own prints, with this one's gvae: a test may have put another copy on the path."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(gvae.__file__).parents[1]), *sys.path])}
    env |= {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def parameters(kernel):
    code = kernel.py_func.__code__
    return code.co_varnames[: code.co_argcount]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.nb[ci]")}


@pytest.fixture(scope="module", params=thinned(["completed", "from nothing"], lambda how: how == "completed"))
def warm(request, tmp_path_factory):
    """A cache folder that `gvae warmup` has filled: (folder, what it printed). On a push, one precision of a kernel has come
    into it by use, and the other kernels are copied, which spares their compilation."""
    folder = tmp_path_factory.mktemp("cache")
    if request.param == "completed":
        shared = Path(json.loads(python("-m", "gvae", "warmup", "--json"))["cache"])  # that of all tests
        python("-c", ONE_KERNEL, cache=folder)
        begun = {path.name.split("-")[0] for path in files(folder)}
        assert begun
        for path in files(shared):
            if path.name.split("-")[0] not in begun:
                there = folder / path.relative_to(shared.parent)
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, there)
    return folder, python("-m", "gvae", "warmup", "--json", cache=folder)


def test_what_it_says(warm):
    """Of what was there already it compiles what is missing, and that is the other precision."""
    folder, printed = warm
    report = json.loads(printed)
    compiled = [path for path in files(folder) if path.suffix == ".nbc"]
    assert report["kernels"] < report["compiled versions"] <= len(compiled)  # processes that race leave a file behind
    assert 0 < report["new"] <= report["compiled versions"]
    used = [name for name, _ in compiling._kernels() if not name.startswith(compiling._unused())]  # with one CPU not all
    assert report["kernels"] == len(used) > 20
    assert {str(path.parent.parent) for path in compiled} == {report["cache"]}  # a folder for each of the package's
    assert report["seconds"] > 0


def test_several_processes_share_nearly_all_kernels(monkeypatch):
    """Those of a rehearsal. It does not come to what one long system needs, which is known once its pivots are looked at."""
    monkeypatch.setattr(pool, "SHARE", 1)
    for dtype in (np.float32, np.float64):
        calls = compiling.rehearsed(*compiling._uses(np.dtype(dtype)))
        rehearsed = {f"{module.removeprefix('gvae.kernels.cpu.')}.{name}" for module, name, _ in calls}
        whole = {name for name, kernel in compiling._kernels() if parameters(kernel)[-2:] == ("lo", "hi")}
        assert whole - rehearsed == {"chain.ends", "chain.fill"}


def test_a_second_time_compiles_nothing(warm):
    folder, printed = warm
    before = files(folder)
    out = python("-m", "gvae", "warmup", cache=folder)
    assert files(folder) == before
    kernels = json.loads(printed)["kernels"]
    assert out.startswith(f"{kernels} kernels in both precisions: 0 versions compiled now, ")
    assert out.count("\n") == 1


def test_nothing_is_left_to_compile(warm):
    folder, _ = warm
    before = files(folder)
    python("-c", EVERYTHING, cache=folder)
    assert files(folder) == before


@pytest.mark.exclusive
def test_the_first_call_in_a_new_process_is_quick(warm, tmp_path, monkeypatch):
    """With a warm cache at most 1.4 times what Numba itself takes for a kernel of one line: it imports scipy.linalg when it
    loads its first kernel. The quickest of three each, in turn: what else the machine does only adds."""
    folder, _ = warm
    (tmp_path / "a_kernel.py").write_text(A_KERNEL, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    both = [[float(python("-c", code, cache=folder)) for code in (FIRST_TOTAL, FIRST_KL)] for _ in range(4)][1:]
    floor, first_call = map(min, zip(*both, strict=True))
    assert first_call < 1.4 * floor


def test_a_primitive_enters_itself_by_its_contract(monkeypatch):
    """Every combination of its settings, forward and backward, and arrays of all the sizes that kernels differ by."""
    monkeypatch.setattr(compiling, "REGISTRY", [])
    seen = []

    @primitive(contract="chol: ... M N, x: ... N, weight: N O", settings={"offsets": ((0, 1), (0, 3, 4)), "trans": (True,)})
    def made(chol, x, weight, *, offsets, trans):
        assert chol.dtype == x.dtype == weight.dtype == np.float32
        assert (chol[..., 0, :] == 1).all()
        assert (chol[..., 1:, :] < 1).all()
        assert trans
        return x.sum()

    @made.vjp
    def _(y_bar, y, chol, x, weight, *, needs, **settings):
        seen.append((chol.shape, x.shape, weight.shape))
        return None, None, None

    @primitive
    def without(x):
        return x

    (entry,) = compiling.REGISTRY
    for use in entry(np.dtype(np.float32)):
        use(np.asarray)
    assert set(seen) == {
        ((B, M, N), (*repeats, B, N), (N, compiling.SMALL))
        for B, N in compiling.SIZES
        for M in (2, 3)
        for repeats in ((), (2,))
    }


def forgotten(unheard_of):
    return unheard_of


@pytest.mark.parametrize("called_with", [[], [1.0], [2]])
def test_a_forgotten_kernel_is_named(monkeypatch, called_with):
    """Without a version; with one of the two; and one that knows no floating type, which needs one only."""
    kernel = numba.njit(forgotten)
    monkeypatch.setattr(forgotten, "__module__", banded.__name__)
    monkeypatch.setattr(banded, "forgotten", kernel, raising=False)
    for argument in called_with:
        kernel(argument)
    if called_with == [2]:
        compiling.compile_kernels()
    else:
        with pytest.raises(GvaeError, match=r"no entry of the registry compiles banded\.forgotten in both precisions"):
            compiling.compile_kernels()


def test_no_folder_for_the_cache_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(compiling, "_files", lambda kernel: iter(()))
    assert cli.main(["warmup"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("gvae warmup: compiled kernels cannot be kept: ")
    assert "NUMBA_CACHE_DIR" in err


def test_progress_goes_to_a_terminal_only(capsys):
    assert cli.main(["warmup"]) == 0
    out, err = capsys.readouterr()
    assert (out.count("\n"), err) == (1, "")
    assert str(Path(gvae.__file__).parent) not in out
