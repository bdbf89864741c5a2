"""What the kernels' contract promises beyond what the ops show: ranges, other people's jitted code, threads, memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gvae
from gvae import ops
from gvae.autodiff import gradient
from gvae.kernels import LANES
from gvae.kernels.cpu import banded, likelihoods, optim, weights
from gvae.runtime import memory

rng = np.random.default_rng(0)
F, K, N = 6, 3, 9
OFFSETS = np.array([0, 1, 3])
CHOL = rng.normal(size=(F, 3, N)) * 0.3
CHOL[:, 0] = rng.uniform(0.8, 1.5, size=(F, N))


WIDE = np.resize(CHOL, (F * LANES, 3, N)) + rng.uniform(0, 0.1, size=(F * LANES, 3, N))
EACH = np.arange(F * LANES)


def run_solve(lo, hi, x, info):
    banded.solve_triangular(WIDE, OFFSETS, EACH, EACH, EACH, WIDE[:, 1].copy(), x, True, info, LANES * lo, LANES * hi)


def run_inverse(lo, hi, x, info):
    banded.inverse(WIDE, OFFSETS, x.reshape(F * LANES, 4, N), info, LANES * lo, LANES * hi)


def run_bernoulli(lo, hi, x, info):
    data, logits = (np.arange(F * K * N).reshape(F * K, N) % 2).astype(float), np.linspace(-3, 3, F * K * N).reshape(-1, N)
    likelihoods.bernoulli(data, np.arange(F * K), logits, x[:, 0], np.empty((0, N)), lo * K, hi * K)


def run_weights(lo, hi, x, info):
    w = np.linspace(-5, 5, F * K * N).reshape(F, K, N)
    weights.log_mean_exp(w, x[:F], np.empty((F, 0, N)), lo, hi)


def run_adam(lo, hi, x, info):
    g = np.linspace(-1, 1, x.size)
    flat = x.reshape(-1)
    optim.adam(g, flat, np.zeros(x.size), np.zeros(x.size), 0.1, 0.9, 0.99, 1e-8, lo * K * N, hi * K * N)


def run_adamw(lo, hi, x, info):
    g, is_weight, flat = np.linspace(-1, 1, x.size), (np.arange(x.size) % 3 == 0).astype(float), x.reshape(-1)
    m, v = np.zeros(x.size), np.zeros(x.size)
    optim.adamw(g, is_weight, flat, m, v, 0.1, 0.9, 0.99, 1e-8, 0.3, lo * K * N, hi * K * N)


def run_sgd(lo, hi, x, info):
    optim.sgd(np.linspace(-1, 1, x.size), x.reshape(-1), 0.1, lo * K * N, hi * K * N)


def run_momentum(lo, hi, x, info):
    optim.momentum(np.linspace(-1, 1, x.size), x.reshape(-1), np.ones(x.size), 0.1, 0.9, lo * K * N, hi * K * N)


RUNS = [run_solve, run_inverse, run_bernoulli, run_weights, run_adam, run_adamw, run_sgd, run_momentum]


@pytest.mark.parametrize("run", RUNS)
def test_any_split_of_the_range_gives_the_same_bits(run):
    start = rng.normal(size=(4 * F * LANES, N))
    whole, info = start.copy(), np.zeros(F * LANES, np.int32)
    run(0, F, whole, info)
    for cut in (1, 2, 5):
        parts = start.copy()
        for lo, hi in ((cut, F), (0, cut)):
            run(lo, hi, parts, info)
        np.testing.assert_array_equal(parts, whole)


def test_one_system_functions_serve_other_jitted_code():
    import numba

    @numba.njit
    def smooth(chol, offsets, b):
        x = b.copy()
        banded.solve_triangular_one(chol, offsets, x)
        banded.solve_triangular_transposed_one(chol, offsets, x)
        return x

    b = rng.normal(size=N)
    L = ops.band_to_dense(CHOL[0], offsets=(0, 1, 3))
    np.testing.assert_allclose(smooth(CHOL[0], OFFSETS, b), np.linalg.solve(L @ L.T, b), rtol=1e-12)


def test_two_compiled_versions_of_each_kernel_and_no_more():
    """Whatever layouts, read-only views and broadcasts come in: float32 and float64, nothing else is ever compiled."""
    code = """
import numpy as np
from cases import CASES
from strategies import Sizes
from gvae import ops
from gvae.autodiff import gradient
from gvae.kernels.cpu import affine, banded, likelihoods, random, weights
for s in (Sizes((2,), ((2,),) * 4, 3, (0, 1), 2, 2), Sizes((2, 3), ((2, 1), (3,), (), (2, 3)), 3, (0, 2), 2, 2)):
    for case in CASES:
        for dtype in (np.float32, np.float64):
            args = [a.astype(dtype) for a in case.args(np.random.default_rng(0), s)]
            for layout in (lambda a: a, lambda a: np.array(a, order="F"), lambda a: np.broadcast_to(a, a.shape)):
                gradient(lambda *a: ops.sum(case.op(s)(*a)), *(layout(a) for a in args))
for module in (affine, banded, likelihoods, weights, random):
    for name, f in vars(module).items():
        if hasattr(f, "signatures") and "lo" in f.py_func.__code__.co_varnames:
            assert len(f.signatures) <= 2, (module.__name__, name, f.signatures)
            print(name)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"solve_triangular", "inverse_vjp", "cholesky_vjp", "bernoulli", "bias_activation"} <= set(done.stdout.split())


def linear_uses(n):
    dtype = np.float64
    vector, ones = np.full((1, n), 0.5), np.ones((1, n))
    chain = np.stack([np.ones((1, n)), np.full((1, n), -0.5)], axis=1)
    u = np.full((1, 2, n), 1e-3, dtype)
    s, rho = np.ones(1), np.full(1, 0.5)
    return {
        "solve": (lambda c, x: ops.solve_triangular_banded(c, x), (chain, vector)),
        "multiply": (lambda c, x: ops.multiply_triangular_banded(c, x), (chain, vector)),
        "inverse": (lambda c: ops.inverse_banded(c), (chain,)),
        "kl": (lambda m, c: ops.kl_divergence_banded(m, c), (vector, chain)),
        "log_prob": (lambda x, m, c: ops.log_prob_banded(x, m, c), (vector, ones, chain)),
        "sample": (lambda m, c, e: ops.sample_banded(m, c, e), (vector, chain, ones)),
        "ar1 sample": (lambda m, e: ops.sample_ar1(m, s, rho, e), (vector, ones)),
        "ar1 kl": (lambda m: ops.kl_divergence_ar1(m, s, rho), (vector,)),
        "lowrank sample": (lambda m, d, u, e: ops.sample_lowrank(m, d, u, e), (vector, ones, u, ones)),
        "lowrank kl": (lambda m, d, u: ops.kl_divergence_lowrank(m, d, u), (vector, ones, u)),
    }


@pytest.mark.parametrize("name", list(linear_uses(4)))
def test_memory_is_linear(name):
    """At n = 10^5, value and gradient stay within 40 vectors of the size of the inputs: no N x N array, ever."""
    f, args = linear_uses(100_000)[name]
    gradient(lambda *a: ops.sum(f(*a)), *linear_uses(4)[name][1])  # compile
    size = sum(a.nbytes for a in args)
    memory.clear_memory()  # what is used again is not counted again
    tracemalloc.start()
    f(*args)
    forward = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    gradient(lambda *a: ops.sum(f(*a)), *args)
    both = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert forward < 20 * size
    assert both < 40 * size


def test_samples_share_a_factor_without_copies():
    """K = 1000 samples of one 20 x 2000 factor: forward and backward stay far below K copies of it."""
    n, M, samples = 2000, 20, 1000
    chol = np.full((1, M, n), 0.01)
    chol[:, 0] = 1
    eps = np.ones((samples, 1, n))
    gradient(lambda c: ops.sum(ops.solve_triangular_banded(c, eps[:1], trans=True)), chol)
    memory.clear_memory()  # what is used again is not counted again
    tracemalloc.start()
    gradient(lambda c: ops.sum(ops.solve_triangular_banded(c, eps, trans=True)), chol)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * eps.nbytes < samples * chol.nbytes / 3


OWN = """
import numpy as np
from numba import types
from numba.extending import intrinsic

from gvae import kernels
from gvae.kernels.cpu import _math
from gvae.kernels.cpu._jit import kernel
from gvae.runtime import abi

LANES = kernels.LANES

@intrinsic
def words(typingctx):
    return types.int64(), lambda context, builder, sig, args: context.get_constant(types.int64, abi.words(None))

@kernel
def use(out):
    out[0], out[1], out[2] = _math.exp(out[0]), LANES, words()

out = np.zeros(3)
use(out)
print(*out, sum(use.stats.cache_hits.values()))
"""


def test_an_edited_file_never_runs_stale(tmp_path):
    """Change a helper that another file's kernel inlines: the next process must see it, cached code or not."""
    package = tmp_path / "site" / "gvae"
    shutil.copytree(Path(gvae.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    env = os.environ | {"PYTHONPATH": str(package.parent), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "own.py").write_text(OWN)

    def run():
        command = [sys.executable, str(tmp_path / "own.py")]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()

    assert run() == ["1.0", f"{float(LANES)}", "2.0", "0"]
    assert run() == ["1.0", f"{float(LANES)}", "2.0", "1"]  # loaded
    for place, edit, found in [
        (
            "kernels/cpu/_math.py",
            "@register_jitable(**OPTIONS)\ndef exp(x):\n    return x + 7",
            ["7.0", f"{float(LANES)}", "2.0"],
        ),
        ("kernels/__init__.py", "LANES = 16", ["7.0", "16.0", "2.0"]),
        ("runtime/abi.py", "def words(ndim):\n    return 3", ["7.0", "16.0", "3.0"]),
    ]:
        with open(package / place, "a") as file:
            file.write(f"\n\n{edit}\n")
        assert run() == [*found, "0"]
    assert run() == [*found, "1"]


def test_no_cache_folder_is_no_failure(tmp_path):
    (tmp_path / "file").write_text("in the way")
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "file" / "below"), "PYTHONDONTWRITEBYTECODE": "1"}
    code = "import numpy as np; from gvae import ops; print(ops.inverse_banded(np.ones((1, 3))))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", ["max", "smallest_normal", "smallest_subnormal", 1.4, 0.72, np.inf])
def test_a_sum_of_logs_does_not_leave_the_range(value, dtype):
    """It goes over products, of numbers that may all be as large, or as small, as there are."""
    x = np.full(1000, getattr(np.finfo(dtype), value) if isinstance(value, str) else value, dtype)
    exact = 1000 * np.log(np.float64(x[0]))
    np.testing.assert_allclose(
        banded.density.sum_of_logs(x), exact, rtol=8 * np.finfo(dtype).eps, atol=100 * np.finfo(dtype).eps
    )


def test_a_draw_in_groups_of_lanes_is_a_draw_one_by_one():
    """F x K systems in every order of owners, with means and noise of their own or shared."""
    means, noise = rng.normal(size=(F * LANES, N)), rng.normal(size=(2, F * LANES, N))
    z, log_q = ops.sample_and_log_prob_banded(means, WIDE, noise, offsets=OFFSETS)
    for f in range(0, F * LANES, 7):
        for k in range(2):
            one = ops.sample_and_log_prob_banded(means[f], WIDE[f], noise[k, f], offsets=OFFSETS)
            np.testing.assert_allclose(z[k, f], one[0], rtol=1e-13)
            np.testing.assert_allclose(log_q[k, f], one[1], rtol=1e-13)


@pytest.mark.parametrize("noise_shape", [(2, F * LANES, N), (2, 1, N)])
def test_a_draw_in_groups_of_lanes_goes_back_as_its_parts_do(noise_shape):
    """Against the solve and the density by themselves; with the noise shared by all systems too."""
    means, noise, w = (rng.normal(size=shape) for shape in ((F * LANES, N), noise_shape, (2, F * LANES, N)))

    def of(draw):
        def total(mean, chol, eps):
            z, log_q = draw(mean, chol, eps)
            return ops.sum(z * w) + ops.sum(ops.square(log_q))

        return gradient(total, means, WIDE, noise)

    def parts(mean, chol, eps):
        e = ops.solve_triangular_banded(chol, eps, offsets=OFFSETS, trans=True)
        return mean + e, ops.log_prob_of_draw_banded(chol, eps)

    fused = of(lambda *a: ops.sample_and_log_prob_banded(*a, offsets=OFFSETS))
    for bar, expected in zip(fused, of(parts), strict=True):
        np.testing.assert_allclose(bar, expected, rtol=1e-12, atol=1e-12)
