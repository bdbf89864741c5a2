"""The BLAS's threads and kernels are chosen in gvae's own processes only, and never against the user's choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from gvae import blas


def test_threads_are_put_back(monkeypatch):
    library = blas.find_openblas()
    if library is None:
        pytest.skip("NumPy runs on another BLAS here")
    for name in blas.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = library.get_threads()
    library.set_threads(2)
    with blas.threads(1):
        assert library.get_threads() == 1
    assert library.get_threads() == 2
    with pytest.raises(ZeroDivisionError), blas.threads(1):
        1 / 0  # noqa: B018
    assert library.get_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with blas.threads(1):
        assert library.get_threads() == 2  # the user has chosen
    library.set_threads(before)
    assert library.kernel_type().decode()


def test_a_library_out_of_reach_is_no_library(monkeypatch):
    """NumPy has it, but it cannot be opened once more: the process goes on with the threads it has."""

    def refuse(path):
        raise OSError(13, "Permission denied", path)

    monkeypatch.setattr(blas.ctypes, "CDLL", refuse)
    assert blas.find_openblas.__wrapped__() is None


def kernel_type(*command, **environment):
    """What OpenBLAS runs in a new process."""
    inherited = {name: value for name, value in os.environ.items() if name != blas.KERNELS}
    done = subprocess.run(
        [sys.executable, *command], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


IMPORT = "import os, gvae.ops; print(os.environ.get('OPENBLAS_CORETYPE'))"


def test_commands_choose_the_kernels_unless_the_user_has():
    if blas.find_openblas() is None or not blas.has_avx512():
        pytest.skip("nothing to choose here")
    assert json.loads(kernel_type("-m", "gvae", "doctor", "--json"))["blas"]["kernel type"] == "SkylakeX"
    report = json.loads(kernel_type("-m", "gvae", "doctor", "--json", OPENBLAS_CORETYPE="Haswell"))
    assert report["blas"]["kernel type"] == "Haswell"
    assert report["blas"]["GFLOP/s"].keys() == {"as Python starts", "with AVX-512"}


def test_an_import_leaves_the_environment_alone():
    assert kernel_type("-c", IMPORT) == "None\n"


def test_a_rate_is_measured_or_fails():
    if blas.find_openblas() is None:
        pytest.skip("NumPy runs on another BLAS here")
    assert 0.1 < blas.rate(None) < 1e5


def test_flags_are_read_as_words(monkeypatch):
    line = "flags\t\t: fpu " + " ".join(sorted(blas.FLAGS))
    monkeypatch.setattr(blas.Path, "read_text", lambda self: f"model name\t: some processor\n{line}\n")
    assert blas.has_avx512()
    monkeypatch.setattr(blas.Path, "read_text", lambda self: line.replace("avx512vl", "avx512vl_not"))
    assert not blas.has_avx512()
