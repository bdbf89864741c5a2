"""The BLAS's threads and kernels are chosen in gvae's own processes only, and never against the user's choice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import threadpoolctl
from threadpoolctl import threadpool_limits

from gvae import blas


def openblas():
    """NumPy's, if it is one."""
    found = blas.libraries()[:1]
    if not found or found[0]["internal_api"] != "openblas":
        pytest.skip("NumPy runs on another BLAS here")
    return found[0]


def n_threads():
    return blas.libraries()[0]["num_threads"]


@pytest.fixture
def two_threads(monkeypatch):
    """OpenBLAS with two threads, and nothing chosen in the environment."""
    openblas()
    for name in blas.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, user_api="blas"):
        yield


def test_threads_are_put_back(two_threads):
    with blas.threads(1):
        assert n_threads() == 1
    assert n_threads() == 2
    with pytest.raises(ZeroDivisionError), blas.threads(1):
        1 / 0  # noqa: B018
    with blas.inherited():  # from nobody any more
        assert n_threads() == 2


@pytest.mark.parametrize("name", ["OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_choice_of_the_user_stays(two_threads, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    with blas.threads(1):
        assert n_threads() == 2


def test_the_choice_for_another_library_is_none_for_this_one(two_threads, monkeypatch):
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    with blas.threads(1):
        assert n_threads() == 1


# Two libraries that count threads as MKL and BLIS do: the one for each thread, the other for the process.
LIBRARIES = {
    "libmkl_rt.so": """
static __thread int n = 4;
int MKL_Get_Max_Threads(void) { return n; }
void MKL_Set_Num_Threads_Local(int k) { n = k; }
void MKL_Set_Num_Threads(int k) { n = k; }
void MKL_Get_Version_String(char *to, int length) { to[0] = 0; }
int MKL_Set_Threading_Layer(int layer) { return 0; }
""",
    "libblis.so": """
static int n = 4;
int bli_thread_get_num_threads(void) { return n; }
void bli_thread_set_num_threads(int k) { n = k; }
const char *bli_info_get_version_str(void) { return "1"; }
int bli_info_get_enable_openmp(void) { return 0; }
int bli_info_get_enable_pthreads(void) { return 1; }
int bli_arch_query_id(void) { return 1; }
const char *bli_arch_string(int id) { return "zen"; }
""",
}
OTHER_LIBRARIES = """
import contextlib, contextvars, ctypes, json, sys, threading
import numpy as np
from gvae import blas, models, random
from gvae.data import Table
from gvae.evaluation import subject
for path in sys.argv[1:]:
    ctypes.CDLL(path)
seen = []
def look(*_):
    seen.append({found["internal_api"]: found["num_threads"] for found in reversed(blas.libraries())})  # NumPy's last
look()
with blas.threads(1):
    look()
    model = models.VAE(12, 2, hidden=(3,))
    rows = subject.Subject(model, model.init(random.key(0)), Table(np.zeros((4, 12), np.float32)), batch_size=1)
    there = threading.Barrier(2)
    rows.each("looking", lambda *_: there.wait(60) is look() or {}, settings={}, at_once=2)
look()
print(json.dumps(seen))
"""


@pytest.mark.sharing
def test_other_libraries_and_other_threads(tmp_path):
    """MKL and BLIS run on one thread, too, in each thread of an evaluation. The user's choice for one is for that one."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler for Linux's kind of libraries")
    for name, text in LIBRARIES.items():
        (tmp_path / "source.c").write_text(text)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / name, tmp_path / "source.c"], check=True)
    paths = [str(tmp_path / name) for name in LIBRARIES]
    free = {name: value for name, value in os.environ.items() if name not in blas.THREAD_VARIABLES}

    def look(**environment):
        code = [sys.executable, "-c", OTHER_LIBRARIES, *paths]
        environment = free | {"GVAE_NUM_THREADS": "2"} | environment
        return json.loads(subprocess.run(code, env=environment, capture_output=True, text=True, check=True).stdout)

    before, *within, after = look()
    assert before == after
    assert before["mkl"] == before["blis"] == 4
    assert within == [dict.fromkeys(before, 1)] * 5
    before, *within, after = look(MKL_NUM_THREADS="4")
    assert before == after
    assert within == [dict.fromkeys(before, 1) | {"mkl": 4}] * 5


def test_a_library_out_of_reach_is_no_library(monkeypatch):
    """NumPy has it, but it cannot be opened once more: the process goes on with the threads it has."""

    def refuse(*_):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", refuse)
    assert blas.libraries() == []
    with blas.threads(1), blas.inherited():
        pass


def kernel_type(*command, **environment):
    """What OpenBLAS runs in a new process."""
    inherited = {name: value for name, value in os.environ.items() if name != blas.KERNELS}
    done = subprocess.run(
        [sys.executable, *command], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout


IMPORT = "import os, gvae.ops; print(os.environ.get('OPENBLAS_CORETYPE'))"


def test_commands_choose_the_kernels_unless_the_user_has():
    openblas()
    if not blas.has_avx512():
        pytest.skip("nothing to choose here")
    assert json.loads(kernel_type("-m", "gvae", "doctor", "--json"))["blas"]["kernel type"] == "SkylakeX"
    report = json.loads(kernel_type("-m", "gvae", "doctor", "--json", OPENBLAS_CORETYPE="Haswell"))
    assert report["blas"]["kernel type"] == "Haswell"
    assert report["blas"]["GFLOP/s"].keys() == {"as Python starts", "with AVX-512"}


def test_an_import_leaves_the_environment_alone():
    assert kernel_type("-c", IMPORT) == "None\n"


def test_a_rate_is_measured_or_fails():
    openblas()
    assert 0.1 < blas.rate(None) < 1e5


def test_flags_are_read_as_words(monkeypatch):
    line = "flags\t\t: fpu " + " ".join(sorted(blas.FLAGS))
    monkeypatch.setattr(blas.Path, "read_text", lambda self: f"model name\t: some processor\n{line}\n")
    assert blas.has_avx512()
    monkeypatch.setattr(blas.Path, "read_text", lambda self: line.replace("avx512vl", "avx512vl_not"))
    assert not blas.has_avx512()
