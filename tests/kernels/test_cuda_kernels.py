"""The CUDA kernels: compiled for devices, and run (emulated, or on a device) against their CPU twins on the same arrays."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
import threading
from functools import cache
from pathlib import Path

import devices
import numba
import numpy as np
import pytest
from emulator import EmulatorError, EmuModule, Schedule, nvrtc, recorded
from nightly import thinned
from scipy import sparse, special

import gvae.kernels.cpu
from gvae import ops
from gvae.kernels import LANES, NORM_EPSILON
from gvae.kernels.cuda import launch
from gvae.ops._batching import lane_order, rows_of_factors
from gvae.runtime.context import context, entered

pytestmark = pytest.mark.emulator

FLOATS = (np.float32, np.float64)
every_family = pytest.mark.parametrize("family", devices.FAMILIES)
every_dtype = pytest.mark.parametrize("dtype", FLOATS, ids=lambda t: t.__name__)


def in_both(names, rows, chosen):
    """Rows in both precisions, the last parameter. One text is compiled for either, so that a push has all rows in float32,
    in which a double shows, and those that `chosen` names in float64."""
    found = [(*(row if isinstance(row, tuple) else (row,)), dtype) for row in rows for dtype in FLOATS]
    rows = thinned(found, lambda *row: row[-1] == np.float32 or chosen(*row[:-1]))
    return pytest.mark.parametrize((*names, "dtype"), rows, ids=label)


def label(value):
    return value.__name__ if value in FLOATS else str(value)


def cpu(family):
    return importlib.import_module(f"gvae.kernels.cpu.{family}")


def gpu(family):
    return importlib.import_module(f"gvae.kernels.cuda.{family}")


# ---- every kernel has a twin ----

# What a CPU needs and a device does otherwise. A kernel that is in neither place has been forgotten.
CPU_ONLY = {
    "_lanes": {  # tiles in shared memory (`fetch`)
        *("pack", "unpack", "unpack_sums", "pack_systems", "unpack_systems", "neighbours"),
    },
    "banded": {
        *("scratch_width", "solve_scratch", "vjp_scratch", "load_factors", "starts_of", "starts_from"),  # groups of lanes
        *("pack_differences", "invert_pivots", "substitute", "substitute_transposed", "sums_of_squares"),
        *("invert_and_substitute_transposed", "judge", "move"),
        "mark_failed",  # `solve_triangular` is part of these reverses there, and marks
        *("first_bad_pivot", "solve_one", "add", "subtract", "subtract_multiple"),  # lines of a kernel there
        *("sum_of_logs", "sum_of_squares", "quadratic_along", "quadratic_along_vjp"),  # `density`, `pivots`, a warp's lanes
        *("outer_one", "first_outer_one", "quadratic_one", "quadratic_vjp_one"),  # one thread per entry
        *("multiply_triangular_transposed_one", "cholesky_vjp_one", "inverse_vjp_one"),  # in the kernel itself
    },
    # segments are as short as a device needs, and the choice between them and the serial loop is made on the device
    "chain": {"coefficients", "ends", "end_one", "connect", "fill", "fill_one", "rest", "serial", "status"},
    "_products": {  # product.cu
        *("product", "product_part", "packed_whole", "product_of_packed", "pack_panels", "multiply_panels"),
        *("pack", "tile_of", "breadth"),
    },
    "_sparse": {"nonzero_bits", "gather_of", "sparse_part"},  # product.cu: zeros are multiplied with there
    "_wait": {"wait", "tell_and_wait"},  # between threads of the host
    "_share": {"rouse", "run", "serve", "share"},
    "affine": {"activate"},  # `activated`, one number
    "likelihoods": {"joined", "left", "bernoulli_row", "bernoulli_rows"},  # of a row, which a block shares there
    "optim": {"square_sums"},  # CuPy's own sums
    "random": {"philox_block"},
    "scan": {"probabilities", "nade_end"},  # a unit for each thread there
    # a warp on a system there, in one way for all densities
    "counts": {"add_row_vectors", "add_piece", "add_logs", "add_product", "clear", "is_full", "keep", "place_of"},
    "gamma": {  # loops for SIMD lanes, and what they call instead of what has a branch
        *("quantiles_of_small", "quantiles_of_large", "slopes_of_small", "slopes_of_large", "sixteen_terms", "filled"),
        *("log_gamma1_of_small", "digamma1_of_small"),
    },
    "psi": {"load_rows", "move_bars", "exponents"},  # of rows in lanes
    "triangular": {"substitute", "substitute_transposed"},  # in the kernel itself
}


def rooms(family):
    """The modules of a family's CPU kernels by file name: one, or those of its folder."""
    module = cpu(family)
    inside = pkgutil.iter_modules(getattr(module, "__path__", ()))
    return {family: module} | {info.name: cpu(f"{family}.{info.name}") for info in inside}


def test_every_cpu_kernel_has_a_twin():
    folder = Path(launch.__file__).parent
    for family in (info.name for info in pkgutil.iter_modules(gvae.kernels.cpu.__path__)):
        for room, module in rooms(family).items():
            source = folder / (f"{family}/{room}.cu" if room in launch.PARTS.get(family, ()) else f"{family}.cu")
            text = source.read_text(encoding="utf-8") if source.exists() else ""
            for name, kernel in vars(module).items():
                if not hasattr(kernel, "signatures") or kernel.py_func.__module__ != module.__name__:
                    continue
                if name in CPU_ONLY.get(family, ()):
                    continue
                parameters = kernel.py_func.__code__.co_varnames[: kernel.py_func.__code__.co_argcount]
                if parameters[-2:] != ("lo", "hi"):  # a function for one system: in the source, under its name
                    assert re.search(rf"__device__ [^;{{]*\b{name}\(", text), f"{family}.{name} is not in {source.name}"
                    continue
                twin = getattr(gpu(family), name, None)
                assert twin is not None, f"{family}.{name} has no CUDA twin"
                if isinstance(twin, launch.Kernel):
                    given = twin.parameters
                    assert re.search(rf"\b{name}\(", text), f"{family}.{name} is not in {source.name}"
                else:
                    given = tuple(inspect.signature(twin).parameters)
                assert given == parameters, f"{family}.{name}"


def test_the_exceptions_exist():
    for family, names in CPU_ONLY.items():
        there = {name for module in rooms(family).values() for name in vars(module)}
        assert names <= there, names - there


@every_family
def test_sources(family):
    text = launch.source(family)
    assert "#include" not in text
    declared = set(launch.KERNELS[family])
    assert declared == set(re.findall(r"__global__ void\s+(?:__launch_bounds__\((?:[^()]|\(\w+\))*\)\s+)?(\w+)\(", text))
    for name, kernel in launch.KERNELS[family].items():
        found = re.search(rf"\b{name}\(([^{{]*)\) \{{", text[text.index("__global__") :])
        names = [re.split(r"[ *]", parameter.strip())[-1] for parameter in found[1].split(",")]
        passed = {"key": ("k0", "k1", "s2", "s3", "key_at")}
        passed |= {p: (p, f"{p}_at") for p, kind, _ in kernel.arguments if kind.startswith("number")}
        wanted = [word for p in kernel.parameters[:-2] for word in passed.get(p, (p,))]
        assert names[: len(wanted)] == wanted, f"{family}.{name}"
        assert names[-2:] == ["lo", "hi"]
        assert len(names) >= len(wanted) + len(kernel.sizes) + 2


def test_kinds_and_sizes_of_blocks_are_the_same_on_both_sides():
    kinds = re.search(r"enum Kind \{ (.*?) \};", launch.source("chain"))[1]
    assert kinds == ", ".join(f"{name} = {getattr(gpu('chain'), name)}" for name in ("FORWARD", "BACKWARD", "INVERSE"))
    for family, name, value in (
        ("chain", "WIDTH", gpu("chain").SEGMENT),
        ("chain", "PIECES", gpu("chain").PIECES),
        ("likelihoods", "ROW", gpu("likelihoods").ROW),
        ("normalize", "ROW", gpu("normalize").ROW),
        ("scan", "ROW", gpu("scan").ROW),
        ("counts", "ROW", gpu("counts").ROW),
        ("counts", "PIECE", cpu("counts").PIECE),
        ("product", "WIDE", gpu("product").WIDE),
        ("product", "NARROW", gpu("product").NARROW),
        ("product", "EACH", gpu("product").EACH),
        ("psi", "EACH", gpu("psi").EACH),
        ("banded", "LANES", LANES),
    ):
        assert int(re.search(rf"constexpr int (?:\w+ = \d+, )*{name} = (\d+)[,;]", launch.source(family))[1]) == value
    epsilon = re.search(r"constexpr double EPSILON = (\S+);", launch.source("normalize"))[1]
    assert float(epsilon) == NORM_EPSILON == cpu("normalize").EPSILON


# ---- compiled, without a device ----

# long sums of a density, the quantile of a gamma variable, moments of columns: on purpose in float64
DOUBLES = ("sample", "log_prob", "log_prob_of_draw", "quantile", "quantile_vjp", "stirling", "poisson_quantile")
DOUBLES += ("sums", "poisson", "poisson_vjp", "poisson_weight_vjp")
DOUBLES += ("moments", "normalize", "input_vjp")
DOUBLES += ("psi2_sums", "z_vjp", "row_vjp")


@every_family
@pytest.mark.parametrize("arch", thinned(nvrtc.ARCHITECTURES, lambda arch: arch == nvrtc.ARCHITECTURES[-1]))
@pytest.mark.skipif(nvrtc.why_not() is not None, reason=nvrtc.why_not() or "")
def test_every_instantiation_compiles_without_a_spill(family, arch):
    for dtype in FLOATS:
        names = launch.name_expressions(family, dtype)
        reports = nvrtc.check(launch.source(family), names, options=launch.OPTIONS, archs=[arch], doubles=DOUBLES)
        for (arch, name), report in reports.items():
            # three blocks of four warps find room with 168 registers for each thread, two of eight with 128
            most = 168 if name == "product_wide<double>" else 128
            assert report.registers <= most, (arch, name, report.registers)
            assert report.shared <= launch.SHARED
            devices.compiled.setdefault(f"{family}.{name.split('<')[0]}", set()).add(arch)


# ---- run, against the CPU ----

# F factors with K right-hand sides each, N columns, offsets: less than a warp and more, one column, tiles that are full and
# not, windows that reach over several tiles, and some that no tile can hold
SHAPES = {
    "tiny": (3, 1, 7, (0, 1)),
    "chain": (37, 1, 45, (0, 1)),
    "band 4": (40, 2, 70, (0, 1, 2, 3, 4)),
    "grid": (9, 3, 50, (0, 1, 7)),
    "wide": (33, 2, 40, (0, 1, 30)),
    "M > N": (5, 2, 3, (0, 1, 2, 4, 8)),
    "one column": (5, 1, 1, (0, 1)),
    "no tile": (2, 2, 300, (0, 1, 200)),
    "diagonal": (6, 1, 20, (0,)),
}


def banded_problem(shape, dtype, rng):
    """Arrays by the kernels' argument names; one factor has a pivot that fails."""
    F, K, N, offsets = SHAPES[shape]
    M, W, R = len(offsets), offsets[-1] + 1, F * K
    chol = rng.normal(size=(F, M, N)) * 0.6 / max(M - 1, 1)
    chol[:, 0] = rng.uniform(0.7, 2, size=(F, N))
    for k, o in enumerate(offsets):
        chol[:, k, max(N - o, 0) :] = 1e3  # rubbish that must not be read
    chol = chol.astype(dtype)
    bad = chol.copy()
    bad[1, 0, N // 2] = -1
    bad[F - 1, 0, :] = np.nan
    rows = rows_of_factors((F,), (K, F))
    owner, row = lane_order((F,), (K, F))

    def vectors():
        return rng.normal(size=(R, N)).astype(dtype)

    s, info = np.empty((F, W, N), dtype), np.zeros(F, np.int32)
    cpu("banded").inverse(chol, np.array(offsets), s, info, 0, F)
    ab = chol.copy()
    ab[:, 0] += 3
    return {
        **{"F": F, "K": K, "N": N, "M": M, "R": R, "W": W, "dtype": dtype, "info": info},
        **{"chol": chol, "bad": bad, "offsets": np.array(offsets), "owner": owner, "row": row, "rows": rows, "s": s},
        **{"x": vectors(), "y": vectors(), "z": vectors(), "log_q": rng.normal(size=R).astype(dtype)},
        **{"s_bar": rng.normal(size=s.shape).astype(dtype), "ab": ab, "turned": rows[:, ::-1].copy()},
    }


def solves(p):
    for trans in (False, True):
        yield (p["bad"], p["offsets"], p["owner"], p["row"], p["row"], p["x"], out(p["x"]), trans, p["info"]), (6, 8), p["R"]


def solve_vjps(p):
    for trans in (False, True):
        yield (p["chol"], p["offsets"], p["rows"], p["x"], p["y"], trans, out(p["x"]), out(p["chol"])), (6, 7), p["F"]
    yield (p["chol"], p["offsets"], p["rows"], p["x"], p["y"], True, out(p["x"][:0]), out(p["chol"])), (7,), p["F"]


def samples(p):
    for log_q in (p["log_q"], p["log_q"][:0]):
        where = (p["owner"], p["row"], p["row"], p["row"])
        yield (p["bad"], p["offsets"], *where, p["y"], p["x"], out(p["x"]), out(log_q), p["info"]), (8, 9, 10), p["R"]


def sample_vjps(p):
    for log_q_bar, eps_bar in ((p["log_q"], p["x"]), (p["log_q"], p["x"][:0]), (p["log_q"][:0], p["x"])):
        given = (p["chol"], p["offsets"], p["rows"], p["rows"], p["x"], p["y"], log_q_bar)
        for mean_bar in (p["x"][: p["F"]], p["x"][:0]):
            yield (*given, out(eps_bar), out(mean_bar), out(p["chol"])), (7, 8, 9), p["F"]


def multiplications(p):
    for trans in (False, True):
        yield (p["chol"], p["offsets"], p["owner"], p["row"], p["x"], out(p["x"]), trans), (5,), p["R"]


def column_products(p):
    for trans in (False, True):
        yield (p["chol"][0], p["offsets"], p["x"][0], out(p["x"][0]), trans), (3,), p["N"]


def outers(p):
    for sign in (1, -1):
        yield (p["x"], p["y"], p["rows"], p["offsets"], sign, out(p["chol"])), (5,), p["F"]


def densities(p):
    where = (p["rows"], p["rows"], p["turned"])
    yield (p["bad"], p["offsets"], *where, p["x"], p["y"], out(p["log_q"]), p["info"]), (7, 8), p["F"]


def density_vjps(p):
    where = (p["rows"], p["rows"], p["turned"])
    given = (p["chol"], p["offsets"], *where, p["x"], p["y"], p["log_q"])
    yield (*given, out(p["x"]), out(p["chol"])), (8, 9), p["F"]


def draw_densities(p):
    yield (p["bad"], p["rows"], p["turned"], p["x"], out(p["log_q"]), p["info"]), (4, 5), p["F"]


def inverses(p):
    yield (p["bad"], p["offsets"], out(p["s"]), p["info"]), (2, 3), p["F"]


def inverse_vjps(p):
    yield (p["chol"], p["offsets"], p["s"], p["s_bar"], out(p["chol"])), (4,), p["F"]


def factorisations(p):
    ab = p["ab"].copy()
    ab[1, 0, p["N"] // 2] = -1
    yield (ab, out(ab), p["info"]), (1, 2), p["F"]


def factorisation_vjps(p):
    chol, info = np.empty_like(p["ab"]), p["info"].copy()
    cpu("banded").cholesky(p["ab"], chol, info, 0, p["F"])
    yield (chol, p["chol"], out(chol)), (2,), p["F"]


def out(like):
    return np.full_like(like, np.nan)


BANDED = {
    "solve_triangular": solves,
    "solve_triangular_vjp": solve_vjps,
    "sample": samples,
    "sample_vjp": sample_vjps,
    "multiply_triangular": multiplications,
    "multiply_columns": column_products,
    "outer": outers,
    "log_prob": densities,
    "log_prob_vjp": density_vjps,
    "log_prob_of_draw": draw_densities,
    "inverse": inverses,
    "inverse_vjp": inverse_vjps,
    "cholesky": factorisations,
    "cholesky_vjp": factorisation_vjps,
}
# which launches a twin that is no kernel itself stands for
PARTS = {
    "solve_triangular_vjp": ("solve_triangular", "outer"),
    "sample_vjp": ("solve_triangular", "outer", "sample_vjp_density"),
    "log_prob_vjp": ("log_prob_vjp_weights", "log_prob_vjp_factor", "multiply_triangular"),
    "affine": ("product.product_narrow",),
    "affine_weight_vjp": ("product.product_narrow", "activation_vjp"),
    "affine_input_vjp": ("product.product_narrow",),
    "bernoulli_affine": ("product.product_narrow", "bernoulli"),
    "bernoulli_affine_input_vjp": ("product.product_narrow",),
    "bernoulli_affine_weight_vjp": ("product.product_narrow",),
    "psi2": ("row_terms", "psi2_sums"),
    "psi1_vjp": ("row_terms", "psi1_weights", "z_vjp", "row_vjp"),
    "psi2_vjp": ("row_terms", "psi2_weights", "z_vjp", "row_vjp"),
}


def affine_problems(name, dtype, rng):
    x, w, b, y = (rng.normal(size=size).astype(dtype) * 0.9 for size in ((21, 13), (13, 40), 40, (21, 40)))
    if name == "affine_input_vjp":
        yield (y, w, out(x), False), (2,), 13
        return
    for activation in range(7):
        if name == "affine":
            yield (x, w, b, out(y), activation, False), (3,), 40
        elif name == "affine_weight_vjp":
            yield (y, x, y[::-1].copy(), out(w), out(b), activation), (2, 3, 4), 40
        elif name == "bias_activation":
            a, bias = (rng.choice([-1, 1], n) * 10 ** rng.uniform(-6, 1.5, n) for n in ((19, 30), 30))
            a, bias = a.astype(dtype), bias.astype(dtype)
            bias[:20] = 0
            a[3, :3] = np.nan, np.inf, -np.inf
            yield (a, bias, activation), (0,), 19
        else:
            y, a_bar = (rng.normal(size=700).astype(dtype) * 0.9 for _ in range(2))
            yield (y, a_bar, activation), (1,), 700


def likelihood_problems(name, dtype, rng):
    if name == "bernoulli_affine_weight_vjp":
        s, r, h = (rng.normal(size=size).astype(dtype) for size in (21, (21, 40), (21, 13)))
        yield (s, r, h, out(np.empty((13, 40), dtype)), out(r[0])), (3, 4), 40
        return
    if name == "bernoulli_affine_input_vjp":
        s, r, w = (rng.normal(size=size).astype(dtype) for size in (21, (21, 40), (13, 40)))
        yield (s, r, w, out(np.empty((21, 13), dtype)), False), (3,), 13
        return
    for S in (7, 0):
        for N in (1, 200):
            if name == "bernoulli_affine":
                h, w, b = (rng.normal(size=size).astype(dtype) * 2 for size in ((7, 13), (13, N), N))
                x, log_prob = (rng.random((3, N)) < 0.5).astype(dtype), out(h[:, 0])
                yield (x, np.arange(7) % 3, h, w, b, log_prob, out(np.empty((S, N), dtype))), (5, 6), 7
                continue
            x, a = (rng.random((3, N)) < 0.5).astype(dtype), rng.normal(size=(7, N)).astype(dtype) * 9
            yield (x, np.arange(7) % 3, a, out(a[:, 0]), out(a[:S])), (3, 4), 7


def optim_problems(name, dtype, rng):
    g, p, m = (rng.normal(size=700).astype(dtype) for _ in range(3))
    v, is_weight = rng.random(700).astype(dtype), (rng.random(700) < 0.5).astype(dtype)
    yield {
        "adam": ((g, p, m, v, *map(dtype, (0.1, 0.9, 0.99, 1e-8))), (1, 2, 3), 700),
        "adamw": ((g, is_weight, p, m, v, *map(dtype, (0.1, 0.9, 0.99, 1e-8, 0.3))), (2, 3, 4), 700),
        "sgd": ((g, p, dtype(0.1)), (1,), 700),
        "momentum": ((g, p, m, dtype(0.1), dtype(0.9)), (1, 2), 700),
    }[name]


def weights_problems(name, dtype, rng):
    w = rng.normal(size=(3, 6, 5)).astype(dtype) * 9
    w[0, :, 0], w[1, 2, 1], w[2, 3:, 3], w[2, 0, 2] = -np.inf, np.nan, np.inf, -np.inf
    w[0, 1, 4], w[0, 3, 4], w[1, 1, 4], w[1, 3, 4] = np.nan, np.inf, np.inf, np.nan
    for V in (6, 0):
        yield (w, out(w[:, 0]), out(w[:, :V])), (1, 2), 3


def random_problems(name, dtype, rng):
    key = np.array([1, 2, 3, 4], np.uint32)
    if name == "philox":
        yield (key, np.uint64(2**63 + 5), np.zeros((9, 4), np.uint32)), (2,), 9
        return
    for n in (1, 7, 1000):
        result = np.full(n, np.nan, dtype)
        given = (key, rng.random(n).astype(dtype), result) if name == "bernoulli" else (key, result)
        yield given, (len(given) - 1,), -(-result.nbytes // 16)


def scan_problems(name, dtype, rng):
    """Two matrices of weights among seven rows of three biases; sizes below and above a block's."""
    R, b_rows, w_rows = 7, np.arange(7) % 3, np.arange(7) % 2
    for N in (1, 5, 150):
        bias, bar, u = (rng.normal(size=(n, N)).astype(dtype) for n in (3, R, R))
        u = special.expit(u)
        if name.startswith("autoregressive"):
            weight = np.triu(rng.normal(size=(2, N, N)), 1).astype(dtype)
            if name == "autoregressive_draw":
                yield (u, bias, b_rows, weight, w_rows, out(u), out(u)), (5, 6), R
            else:
                yield (bar, u, weight / N, w_rows, out(u)), (4,), R
            continue
        H = 3 if N == 5 else 140
        hidden, weight, out_weight = (rng.normal(size=s).astype(dtype) for s in ((3, H), (2, N, H), (2, N, H)))
        out_weight, x, x_rows = out_weight / dtype(H), (rng.random((4, N)) < 0.3).astype(dtype), np.arange(R) % 4
        shared = (weight, out_weight, w_rows)
        if name == "nade_draw":
            yield (u, bias, b_rows, hidden, *shared, out(u)), (7,), R
        elif name == "nade":
            for S in (R, 0):
                yield (x, x_rows, bias, b_rows, hidden, *shared, out(bar[:, 0]), out(bar[:S])), (8, 9), R
        elif name == "nade_vjp":
            units = np.empty((R, H), dtype)
            yield (x, x_rows, hidden, b_rows, *shared, bar, out(units), out(weight), out(weight)), (8, 9, 10), H
        else:
            yield (x, x_rows, bias, b_rows, hidden, *shared, bar, bar[:, 0].copy(), out(u)), (10,), R


def counts_problems(name, dtype, rng):
    """Three samples of rows, of which two share z and two w; a few counts, and nearly all; units below and above a warp."""
    K, z_of, w_of = 3, np.array([0, 1, 0]), np.array([0, 0, 1])
    for B, D, H, density in ((5, 7, 1, 0.3), (40, 9, 3, 0.2), (6, 90, 50, 0.4), (7, 5, 20, 1.0)):
        x = sparse.random_array((B, D), density=density, rng=rng, data_sampler=lambda size: rng.poisson(3, size)).tocsr()
        order = sparse.csr_array((np.arange(x.nnz), x.indices, x.indptr), shape=x.shape).tocsc()
        z, w, total = (rng.gamma(2, 1, size=(2, n, H)).astype(dtype) for n in (B, D, 1))
        s, ratio, constants = rng.normal(size=(K, B)).astype(dtype), rng.random((K, x.nnz)), np.zeros(B, dtype)
        columns, pointers = x.indices.astype(np.int64), x.indptr.astype(np.int64)
        places = [each.astype(np.int64) for each in (order.indices, order.indptr, order.data)]
        total, ratio = total[:, 0].copy(), ratio.astype(dtype)
        if name == "sums":
            yield (s, z, z_of, out(np.empty((K, H), dtype))), (3,), K * H
            yield (s[:0], z, np.arange(2), out(z[:, 0])), (3,), 2 * H
        elif name == "poisson":
            for V in (K, 0):
                given = x.data.astype(dtype), columns, pointers, constants, z, z_of, w, w_of, total
                yield (*given, out(s), out(ratio[:V])), (9, 10), K * B
        elif name == "poisson_vjp":
            yield (s, columns, pointers, ratio, w, w_of, total, np.array([[0, 2], [1, 1]]), out(z)), (8,), 2 * B
        else:
            yield (s, *places, ratio, z, z_of, total, np.array([[0, 1], [2, 2]]), out(w)), (9,), 2 * D


def gamma_problems(name, dtype, rng):
    if name == "stirling":
        x = np.exp(rng.uniform(-6, 12, 300)).astype(dtype)
        for order in range(3):
            yield (x, order, out(x)), (2,), len(x)
        return
    if name == "poisson_quantile":
        log_rate, rows, u = rng.uniform(-5, 9, (3, 7)).astype(dtype), np.arange(40) % 3, rng.random((40, 7)).astype(dtype)
        u[:3, 0], log_rate[0, 1] = (0, np.nan, 1), np.nan
        yield (log_rate, rows, u, out(u)), (3,), 40
        return
    for R, N in ((1, 1), (40, 7)):
        shape, rows = np.exp(rng.uniform(-6, 12, (3, N))).astype(dtype), np.arange(R) % 3
        u = rng.random((R, N)).astype(dtype)
        u[::5] = np.maximum(u[::5] ** 40, np.finfo(dtype).tiny)  # CuPy's option -ftz=true makes 0 of smaller ones
        if R > 1:
            u[:4, 0] = 0, 1, np.nan, -1
            shape[0, :4] = 0, np.nan, np.inf, -1
        y = out(u)
        cpu("gamma").quantile(shape, rows, u, dtype(1e-9), y, 0, R)
        if name == "quantile":
            yield (shape, rows, u, dtype(1e-9), out(u)), (4,), R
        else:
            yield (rng.normal(size=u.shape).astype(dtype), shape, rows, np.where(np.isfinite(y), y, 0), out(u)), (4,), R


def normalize_problems(name, dtype, rng):
    """Rows of less than a part and of several, columns of less than a warp and more; means far from 0, constant columns."""
    for R, O in ((2, 1), (5, 40), (131, 33), (300, 3)):
        a = rng.normal(size=(R, O)) * rng.uniform(0.3, 3, size=O) + rng.normal(size=O) * (1 if name == "input_vjp" else 30)
        a[:, 0] = 0.5
        a, b = a.astype(dtype), rng.normal(size=(R, O)).astype(dtype)
        mean, scale, shift, first, second = (rng.normal(size=O).astype(dtype) for _ in range(5))
        variance = rng.uniform(0, 2, size=O).astype(dtype)
        if name == "moments":
            yield (a, out(mean), out(variance)), (1, 2), O
        elif name == "sums":
            yield (a, mean, variance, b, out(scale), out(shift)), (4, 5), O
        elif name == "input_vjp":
            yield (a, mean, variance, scale, b, first, second, out(a)), (7,), R
        else:
            for activation in range(7):
                yield (a, mean, variance, scale, shift, activation, out(a)), (6,), R


def psi_problems(name, dtype, rng):
    """Rows in parts of less than a piece and more, the last shorter or empty; axes of one step and more; variances of 0."""
    for N, M, Q, P in ((1, 1, 1, 1), (9, 5, 2, 4), (70, 3, 3, 1), (6, 40, 9, 4)):
        mean, variance, z, precision = (
            rng.normal(size=(N, Q)),
            rng.uniform(0, 2, (N, Q)),
            rng.normal(size=(M, Q)),
            rng.uniform(0.1, 1, Q),
        )
        variance[0] = 0
        given = [a.astype(dtype) for a in (mean, variance, z, precision)]
        if name == "psi1":
            yield (*given, np.array([1.7], dtype), np.full((N, M), np.nan, dtype)), (5,), N
        elif name == "psi2":
            yield (*given, np.full((P, M, M), np.nan)), (4,), P
        else:
            y_bar = rng.normal(size=(N if name == "psi1_vjp" else M, M))
            y_bar = y_bar if name == "psi1_vjp" else y_bar + y_bar.T
            results = out(given[0]), out(given[1]), np.full((P, M, Q), np.nan), np.full((P, Q + 1), np.nan)
            yield (*given, y_bar.astype(dtype), *results), (5, 6, 7, 8), P


def triangular_problems(name, dtype, rng):
    """Systems with factors of their own and shared; columns of less than a warp, of one and of several."""
    for N, K in ((1, 1), (7, 3), (20, 32), (33, 70)):
        l = (0.4 * rng.normal(size=(2, N, N)) / np.sqrt(N) + 1.5 * np.eye(N)).astype(dtype)
        l[:, ~np.tri(N, dtype=bool)] = np.nan
        for trans in (False, True):
            yield (l, np.array([1, 0, 1]), trans, rng.normal(size=(3, N, K)).astype(dtype)), (3,), 3 * -(-K // LANES)


OTHERS = {
    "affine": (
        affine_problems,
        ("bias_activation", "activation_vjp", "affine", "affine_weight_vjp", "affine_input_vjp"),
    ),
    "likelihoods": (
        likelihood_problems,
        ("bernoulli", "bernoulli_affine", "bernoulli_affine_input_vjp", "bernoulli_affine_weight_vjp"),
    ),
    "normalize": (normalize_problems, ("moments", "normalize", "sums", "input_vjp")),
    "optim": (optim_problems, ("adam", "adamw", "sgd", "momentum")),
    "weights": (weights_problems, ("log_mean_exp",)),
    "scan": (
        scan_problems,
        ("autoregressive_draw", "autoregressive_draw_vjp", "nade", "nade_draw", "nade_vjp", "nade_input_vjp"),
    ),
    "counts": (counts_problems, ("sums", "poisson", "poisson_vjp", "poisson_weight_vjp")),
    "psi": (psi_problems, ("psi1", "psi1_vjp", "psi2", "psi2_vjp")),
    "triangular": (triangular_problems, ("solve",)),
    "random": (random_problems, ("philox", "uniform", "normal", "bernoulli")),
    "gamma": (gamma_problems, ("quantile", "quantile_vjp", "stirling", "poisson_quantile")),
}
EXACT = {"philox", "uniform", "random.bernoulli"}  # bit for bit, on a device too


def run_on_device(cupy, twin, args, n):
    """The arguments after the call, on the host again."""
    given = [cupy.asarray(a) if lives_there(a) else a for a in args]
    twin(*given, 0, n)
    return [a.get() if isinstance(a, cupy.ndarray) else a for a in given]


def lives_there(a):
    """Index arrays and keys come from the host, as in ops."""
    return isinstance(a, np.ndarray) and a.dtype != np.int64 and not (a.dtype == np.uint32 and a.ndim == 1)


def same_bits(x, y):
    return x.tobytes() == y.tobytes()


def compare(cupy, family, name, problems, scale=300, parts=()):
    """The twin's results against the CPU's, and in the emulator under several schedules, bit for bit alike."""
    before, keys = launch.counts.copy(), {part if "." in part else f"{family}.{part}" for part in parts or (name,)}
    for args, results, n in problems:
        expected = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        getattr(cpu(family), name)(*expected, 0, n)
        got = run_on_device(cupy, getattr(gpu(family), name), args, n)
        for i in results:
            wanted = expected[i]
            if name in EXACT or f"{family}.{name}" in EXACT or wanted.dtype.kind != "f":
                np.testing.assert_array_equal(got[i], wanted)
                continue
            # an activation counts by itself, however small; sums and differences by their largest terms
            size = 0 if name == "bias_activation" else np.max(np.abs(wanted), where=np.isfinite(wanted), initial=1)
            # sums in float64 are of terms in the working type
            kinds = {a.dtype for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
            tolerance = scale * max(np.finfo(kind).eps for kind in kinds)
            np.testing.assert_allclose(got[i], wanted, rtol=tolerance, atol=tolerance * size)
        if not is_emulated(cupy):
            again = run_on_device(cupy, getattr(gpu(family), name), args, n)
            assert all(same_bits(again[i], got[i]) for i in results)
            continue
        for schedule in Schedule.several(2):
            with schedule, recorded() as launches:
                again = run_on_device(cupy, getattr(gpu(family), name), args, n)
            assert all(same_bits(again[i], got[i]) for i in results), schedule
            codes = {record.module.code for record in launches}
            assert codes
            assert codes <= {launch.source(key.split(".")[0]) for key in keys}
    assert {key for key, n in launch.counts.items() if n > before[key]} == keys


def is_emulated(cupy):
    return isinstance(cupy.RawModule, type) and issubclass(cupy.RawModule, EmuModule)


def has_all_diagonals(shape):
    return len(SHAPES[shape][3]) == SHAPES[shape][3][-1] + 1


def banded_rows(names, shapes):
    """A factorisation has all diagonals."""
    return [(n, s) for n in names for s in shapes if has_all_diagonals(s) or not n.startswith("cholesky")]


@in_both(("name", "shape"), banded_rows(BANDED, SHAPES), lambda name, shape: shape == "band 4")
def test_banded(anywhere, name, shape, dtype):
    problem = banded_problem(shape, dtype, np.random.default_rng(0))
    compare(anywhere, "banded", name, BANDED[name](problem), parts=PARTS.get(name, ()))


@in_both(
    ("family", "name"),
    [(family, name) for family, (_, names) in OTHERS.items() for name in names],
    lambda family, name: family in ("random", "gamma", "counts", "psi", "normalize"),  # where they differ by it
)
def test_other_families(anywhere, family, name, dtype):
    problems = OTHERS[family][0](name, dtype, np.random.default_rng(0))
    scale = 16 if name == "bias_activation" else 20000 if family == "gamma" and dtype == np.float64 else 300
    compare(anywhere, family, name, problems, scale=scale, parts=PARTS.get(name, ()))


def test_every_declared_kernel_has_a_test():
    tested = {f"banded.{part}" for name in BANDED for part in PARTS.get(name, (name,))}
    parts = {(family, part) for family, (_, names) in OTHERS.items() for name in names for part in PARTS.get(name, (name,))}
    tested |= {f"{family}.{part}" for family, part in parts if "." not in part}
    tested |= {f"chain.{name}" for name in ("ends", "connect", "fill", "serial")} | {
        "product.product_wide",
        "product.product_narrow",
    }  # below
    assert tested == devices.KERNELS


def test_normals_agree_to_four_ulp(anywhere):
    key = np.array([5, 6, 7, 8], np.uint32)
    for dtype in FLOATS:
        on_cpu, there = np.empty(20000, dtype), anywhere.empty(20000, dtype)
        blocks = -(-on_cpu.nbytes // 16)
        cpu("random").normal(key, on_cpu, 0, blocks)
        gpu("random").normal(key, there, 0, blocks)
        apart = np.abs(there.get() - on_cpu) / np.spacing(np.abs(on_cpu))
        assert apart.max() <= 4


# ---- products ----

# m, k, n: less than a tile, full tiles and more; one piece of the inner axis, one for each warp, several; empty
PRODUCTS = [(1, 1, 1), (5, 7, 9), (33, 40, 50), (32, 16, 64), (40, 300, 33), (2, 1000, 3), (3, 0, 4), (0, 3, 4), (3, 4, 0)]


def in_order(x, y, warps, depth):
    """x y with the kernels' order of summation: pieces of the inner axis in turn to as many sums, which are added."""
    warps, depth = 4 * warps // x.itemsize, 4 * depth // x.itemsize
    sums = np.zeros((max(min(-(-x.shape[1] // depth), warps), 1), len(x), y.shape[1]), x.dtype)
    for k in range(x.shape[1]):
        sums[k // depth % len(sums)] += x[:, k, None] * y[k]
    total = sums[0]
    for more in sums[1:]:
        total += more
    return total


@in_both(
    ("shape", "turned"),
    list(itertools.product(PRODUCTS, [(False, False), (True, False), (False, True), (True, True)])),
    lambda shape, turned: shape == (33, 40, 50),
)
@pytest.mark.parametrize(("name", "few", "order"), [("wide", 0, (8, 8)), ("narrow", 1000, (16, 16))])
def test_products(anywhere, name, few, order, shape, turned, dtype, monkeypatch):
    monkeypatch.setattr(gpu("product"), "FEW", few)
    name = f"product.product_{name}"
    rng, (m, k, n) = np.random.default_rng(0), shape
    x, y = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    given = [
        anywhere.asarray(np.ascontiguousarray(a.T)).T if t else anywhere.asarray(a)
        for a, t in zip((x, y), turned, strict=True)
    ]
    got, before = anywhere.full((m, n), np.nan, dtype), launch.counts[name]
    gpu("product").product(*given, got, 0, m)
    assert launch.counts[name] == before + (m > 0 and n > 0)
    if not is_emulated(anywhere):  # sums of products are contracted there
        terms = np.abs(x).astype(float) @ np.abs(y).astype(float)
        assert (np.abs(got.get() - x.astype(float) @ y.astype(float)) <= (k + 2) * np.finfo(dtype).eps * terms).all()
        return
    np.testing.assert_array_equal(got.get(), in_order(x, y, *order))
    for schedule in Schedule.several(2):
        again = anywhere.full((m, n), np.nan, dtype)
        with schedule, recorded() as launches:
            for lo, hi in ((0, m // 3), (m // 3, m)):
                gpu("product").product(*given, again, lo, hi)
        assert same_bits(again.get(), got.get())
        assert {record.module.code for record in launches} <= {launch.source("product")}


@in_both(("shape",), [(shape,) for shape in PRODUCTS], lambda shape: shape == (33, 40, 50))
@pytest.mark.parametrize("few", [0, 1000], ids=["wide", "narrow"])
def test_a_product_with_what_stands_beside_it(anywhere, few, shape, dtype, monkeypatch):
    """Bias and activation after it, a scale of the inner axis before it, and the sums of what it reads."""
    monkeypatch.setattr(gpu("product"), "FEW", few)
    monkeypatch.setattr(gpu("product"), "BUSY", 5)  # the inner axis is divided by less
    rng, (m, k, n) = np.random.default_rng(0), shape
    x, s, y, b = (rng.normal(size=size).astype(dtype) for size in ((m, k), k, (k, n), n))
    given = {name: anywhere.asarray(a) for name, a in (("x", x), ("y", y), ("scale", s), ("bias", b))}
    out, sums = anywhere.full((m, n), np.nan, dtype), anywhere.full((n,), np.nan, dtype)
    gpu("product").product(**given, out=out, lo=0, hi=m, activation=1, sums=sums)
    if m * n == 0:
        return
    x, s, y, b = (a.astype(float) for a in (x, s, y, b))
    eps = (k + 4) * np.finfo(dtype).eps
    error = np.abs(out.get() - np.maximum(x * s @ y + b, 0))
    assert (error <= eps * (np.abs(x * s) @ np.abs(y) + np.abs(b))).all()
    assert (np.abs(sums.get() - s @ y) <= eps * (np.abs(s) @ np.abs(y))).all()
    gpu("product").product(given["x"], given["y"], out, 0, m, sums=sums)
    assert (np.abs(sums.get() - y.sum(axis=0)) <= eps * np.abs(y).sum(axis=0)).all()


@every_dtype
def test_sums_without_an_input(anywhere, dtype):
    """A layer that reads nothing has a bias all the same."""
    a_bar = np.arange(12, dtype=dtype).reshape(4, 3)
    there, x, scale = anywhere.asarray(a_bar), anywhere.zeros((4, 0), dtype), np.arange(4, dtype=dtype)
    for given, wanted in ((None, a_bar.sum(axis=0)), (anywhere.asarray(scale), scale @ a_bar)):
        bias_bar = anywhere.full((3,), np.nan, dtype)
        gpu("affine").multiply_and_sum(x, given, there, anywhere.empty((0, 3), dtype), bias_bar)
        np.testing.assert_array_equal(bias_bar.get(), wanted)


def test_products_that_do_not_fit(cupy):
    x = cupy.ones((2, 3))
    for shapes in (((2, 3), (2, 3), (2, 3)), ((2, 3), (3, 4), (2, 5)), ((2, 3), (3, 4), (3, 4))):
        with pytest.raises(ValueError, match="do not fit"):
            gpu("product").product(*(cupy.ones(s) for s in shapes), 0, 2)
    with pytest.raises(ValueError, match="y is not C-contiguous"):
        gpu("product").product(x, cupy.ones((3, 8))[:, ::2], cupy.ones((2, 4)), 0, 2)


# ---- long chains ----


def long_chain(N, R, dtype, rng):
    """One whose segments forget what came before, and others where it hardly fades."""
    chol = np.stack([rng.uniform(0.8, 2, size=(R, N)), rng.normal(size=(R, N)) * 0.5], axis=1)
    chol[1:] = np.stack([np.ones((R - 1, N)), rng.choice([-1, 1], size=(R - 1, N)) * rng.uniform(0.99, 1)], axis=1)
    return chol.astype(dtype), rng.normal(size=(R, N)).astype(dtype)


def run_chain(cupy, kind, chol, b, rows):
    chain = gpu("chain")
    V = 2 if kind == "INVERSE" else 1
    y, info = cupy.full((len(b), V, chol.shape[-1]), np.nan, chol.dtype), cupy.full((len(chol),), -7, np.int32)
    given = cupy.asarray(chol), cupy.asarray(b)
    chain.run(getattr(chain, kind), *given, rows % len(chol), rows, rows, y, info)
    return y.get(), info.get()


def serially(kind, chol, b):
    """In float64, by the one-system functions of the CPU."""
    y = np.empty((len(b), 2 if kind == "INVERSE" else 1, b.shape[-1]))
    for t in range(len(b)):
        factor = chol[t % len(chol)].astype(float)
        cpu("chain").serial(factor, b[t].astype(float), getattr(cpu("chain"), kind), np.arange(2), y[t])
    return y


@in_both(
    ("N", "kind"),
    list(itertools.product([1, 2, 31, 32, 33, 1024, 1025, 9000], ["FORWARD", "BACKWARD", "INVERSE"])),
    lambda N, kind: N == 1025,
)
def test_long_chains(anywhere, N, kind, dtype):
    chol, b = long_chain(N, 2, dtype, np.random.default_rng(N))
    before = launch.counts.copy()
    with recorded() as launches:
        y, info = run_chain(anywhere, kind, chol, b, np.arange(2))
    assert {record.module.code for record in launches} <= {launch.source("chain")}
    assert {name: n - before[f"chain.{name}"] for name, n in launch_counts("chain").items()} == dict.fromkeys(
        ("ends", "connect", "fill", "serial"), 1
    )
    assert (info == 0).all()
    wanted = serially(kind, chol, b)
    for t in range(2):
        tolerance = (50 if t == 0 else 50 + N) * np.finfo(dtype).eps  # where nothing fades, errors add up
        np.testing.assert_allclose(y[t], wanted[t], rtol=tolerance, atol=tolerance * np.abs(wanted[t]).max())
    if is_emulated(anywhere):
        for schedule in Schedule.several(2):
            with schedule:
                assert same_bits(run_chain(anywhere, kind, chol, b, np.arange(2))[0], y)
    one, _ = run_chain(anywhere, kind, chol[:1], b[:1], np.arange(1))
    assert same_bits(one[0], y[0])  # the bits depend on the chain alone


def launch_counts(family):
    return {name.split(".")[1]: n for name, n in launch.counts.items() if name.startswith(f"{family}.")}


def residual_of(kind, chol, x, b):
    """The largest residual of a row of a long chain's system, over the sum of its terms, in units of rounding."""
    a, c, y, right = (v.astype(float) for v in (*chol, x, b))
    product, terms = a * y, np.abs(a * y)
    j, other = (slice(1, None), slice(-1)) if kind == "FORWARD" else (slice(-1), slice(1, None))
    product[j] += c[:-1] * y[other]
    terms[j] += np.abs(c[:-1] * y[other])
    return (np.abs(product - right) / (terms + np.abs(right))).max() / np.finfo(x.dtype).eps


@every_dtype
@pytest.mark.parametrize("kind", ["FORWARD", "BACKWARD"])
def test_growing_chains_are_left_to_the_serial_recurrence(anywhere, kind, dtype):
    """Where the homogeneous solution grows, segments would not leave a small residual: the device decides by itself."""
    rng = np.random.default_rng(0)
    chol, b = long_chain(200, 3, dtype, rng)
    chol[[0, 2]] = np.stack([np.ones(200), np.full(200, 1.5)])  # the one between them does not grow
    x = rng.normal(size=(2, 200)).astype(dtype)  # a solution that stays small, while errors would grow
    b[[0, 2]] = x
    if kind == "FORWARD":
        b[[0, 2], 1:] += dtype(1.5) * x[:, :-1]
    else:
        b[[0, 2], :-1] += dtype(1.5) * x[:, 1:]
    y, info = run_chain(anywhere, kind, chol, b, np.arange(3))
    assert (info == 0).all()
    for t, most in enumerate((3, 3 * (1 + gpu("chain").MAX_GROWTH), 3)):  # what comes into a segment has errors that grow
        assert residual_of(kind, chol[t], y[t, 0], b[t]) <= most


@every_dtype
@pytest.mark.parametrize("kind", ["FORWARD", "BACKWARD"])
def test_growth_within_a_piece_counts(anywhere, kind, dtype):
    """Segments that grow beside segments that fade: two to a piece of `connect`, whose ends alone do not show it."""
    width, pieces = gpu("chain").SEGMENT, gpu("chain").PIECES
    N = 2 * pieces * width
    chol = np.ones((1, 2, N), dtype)
    chol[0, 1, :-1] = np.where(np.arange(1, N) // width % 2 == (kind == "BACKWARD"), 1.5, 0.5)
    x = np.cos(np.arange(N) / 50).astype(dtype)
    b, c = x[None].copy(), chol[0, 1, :-1]
    if kind == "FORWARD":
        b[0, 1:] += c * x[:-1]
    else:
        b[0, :-1] += c * x[1:]
    y, info = run_chain(anywhere, kind, chol, b, np.arange(1))
    assert info == 0
    assert residual_of(kind, chol[0], y[0, 0], b[0]) <= 3


def test_failing_pivots_of_long_chains(anywhere):
    chol, b = long_chain(3000, 3, np.float64, np.random.default_rng(0))
    chol[1, 0, 2000], chol[1, 0, 777], chol[2, 0, 2999] = 0, np.nan, -1
    for kind in ("FORWARD", "BACKWARD", "INVERSE"):
        y, info = run_chain(anywhere, kind, chol, b, np.arange(3))
        np.testing.assert_array_equal(info, [0, 778, 3000])
        assert np.isfinite(y[0]).all()
        assert np.isnan(y[1:]).all()


# ---- bit for bit, where the loops are the same and nothing is contracted ----


@cache
def exactly(function):
    """A one-system function of the CPU compiled without fused multiply-add and in its written order."""
    return numba.njit(error_model="numpy")(function.py_func)


ONE_SYSTEM = ["solve_triangular", "inverse", "inverse_vjp", "cholesky", "cholesky_vjp"]


@in_both(
    ("name", "shape"),
    banded_rows(ONE_SYSTEM, ["tiny", "chain", "band 4", "grid", "wide", "M > N", "no tile"]),
    lambda name, shape: shape == "band 4",
)
def test_the_same_bits_as_the_cpu(cupy, name, shape, dtype):
    p = banded_problem(shape, dtype, np.random.default_rng(0))
    p["bad"] = p["chol"]
    for args, results, n in BANDED[name](p):
        got = run_on_device(cupy, getattr(gpu("banded"), name), args, n)[results[0]]
        trans = name == "solve_triangular" and args[7]
        one = exactly(getattr(cpu("banded"), f"{name}_transposed_one" if trans else f"{name}_one"))
        for t in range(n):
            system = one_system(name, args, t)
            one(*system)
            f = args[3][t] if name == "solve_triangular" else t
            wanted = system[{"solve_triangular": 2, "inverse": 2, "inverse_vjp": 4, "cholesky": 1, "cholesky_vjp": 2}[name]]
            if name.startswith("cholesky") and not (wanted[0] > 0).all():
                continue
            if dtype == np.float32 and name in ("inverse", "cholesky_vjp"):  # where the CPU's 1 / x and 2 x are float64
                np.testing.assert_allclose(got[f], wanted, rtol=3e-6, atol=3e-6 * np.abs(wanted).max())
            else:
                np.testing.assert_array_equal(got[f], wanted)


def one_system(name, args, t):
    """The arguments of the one-system function for the t-th system."""
    if name == "solve_triangular":
        chol, offsets, owner, _, b_row, b = args[:6]
        return chol[owner[t]], offsets, b[b_row[t]].copy()
    return tuple(a if a.ndim == 1 else a[t].copy() for a in args if isinstance(a, np.ndarray) and a.dtype != np.int32)


# ---- the launcher ----


def test_the_launcher_checks_what_it_is_given(cupy):
    adam, solve = gpu("optim").adam, gpu("banded").solve_triangular
    x = cupy.zeros(10, np.float32)
    rates = (0.1, 0.9, 0.99, 1e-8)
    with pytest.raises(TypeError, match=r"optim\.adam: m is float64, expected float32"):
        adam(x, x.copy(), x.astype(np.float64), x.copy(), *rates, 0, 10)
    with pytest.raises(TypeError, match=r"optim\.adam: v is ndarray, expected a CuPy array"):
        adam(x, x.copy(), x.copy(), np.zeros(10, np.float32), *rates, 0, 10)
    with pytest.raises(ValueError, match=r"m has shape \(9,\), expected \(size=10\)"):
        adam(x, x.copy(), x[:9].copy(), x.copy(), *rates, 0, 10)
    with pytest.raises(ValueError, match="m is not C-contiguous"):
        adam(x, x.copy(), cupy.zeros((10, 2), np.float32)[:, 0], x.copy(), *rates, 0, 10)
    elsewhere = cupy.zeros(10, np.float32)
    elsewhere.data.mem.device_id = 1
    with pytest.raises(ValueError, match=r"optim\.adam: v is on device 1, expected one on the current device, 0"):
        adam(x, x.copy(), x.copy(), elsewhere, *rates, 0, 10)
    with pytest.raises(TypeError, match="takes 8 arguments"):
        adam(x, x, x, x, 0, 10)
    with pytest.raises(ValueError, match="fewer than 2"):
        gpu("banded")._addressable({"M": 1 << 16, "N": 1 << 15}, "M")
    before = launch.counts.copy()
    adam(x, x.copy(), x.copy(), x.copy(), *rates, 3, 3)  # nothing to do
    assert launch.counts == before
    assert solve.parameters[:2] == ("chol", "offsets")


def test_scalars_are_cast_to_the_kernels_type(cupy):
    """A Python float would go to a float parameter as eight bytes; the emulator refuses what the launcher has to cast."""
    for dtype in FLOATS:
        arrays = [cupy.ones(5, dtype) for _ in range(4)]
        gpu("optim").adam(*arrays, 0.1, np.float64(0.9), 1, np.float32(0.5), 0, 5)
        assert np.isfinite(arrays[1].get()).all()


def test_numbers_and_keys_may_lie_on_the_device(cupy):
    """With the same bits; what is there when the kernel runs counts."""
    rates, key = (0.1, 0.9, 0.99, 1e-8), np.array([1, 2, 3, 4], np.uint32)
    for dtype in FLOATS:
        start = np.random.default_rng(0).random((4, 5)).astype(dtype)
        results = []
        for rate, eps in ((0.1, 1e-8), (cupy.full((), 0.1, dtype), cupy.full(1, 1e-8, dtype))):
            arrays = [cupy.asarray(a) for a in start]
            gpu("optim").adam(*arrays, rate, 0.9, 0.99, eps, 0, 5)
            results.append([a.get() for a in arrays])
        np.testing.assert_array_equal(*results)
        for name, more in (("uniform", ()), ("normal", ()), ("bernoulli", (cupy.full(9, 0.5, dtype),))):
            draws = [cupy.empty(9, dtype) for _ in range(2)]
            for k, out in zip((key, cupy.asarray(key)), draws, strict=True):
                getattr(gpu("random"), name)(k, *more, out, 0, -(-out.nbytes // 16))
            np.testing.assert_array_equal(*(d.get() for d in draws))
    x = cupy.zeros(5, np.float32)
    with pytest.raises(TypeError, match="rate is float64, expected float32"):
        gpu("optim").adam(x, x, x, x, cupy.ones(()), *rates[1:], 0, 5)
    with pytest.raises(ValueError, match=r"key has shape \(3,\), expected 4"):
        gpu("random").uniform(cupy.ones(3, np.uint32), x, 0, 2)


def test_what_is_kept_does_not_lie_in_memory_that_is_used_again(cupy):
    from gvae.kernels.cuda.graph import Workspace

    workspace, index = Workspace(), np.arange(7)
    with workspace.used(), entered(uploads=[]):
        there = launch.resident(index)
        x = cupy.ones(3)
        assert context.uploads[0] is there
    assert workspace.pool.used_bytes() == 512  # x alone
    del workspace, x
    assert there.get().tolist() == index.tolist()


def test_a_workspace_stays_while_an_array_lies_in_it(cupy):
    from gvae.kernels.cuda import graph

    workspace = graph.Workspace()
    with workspace.used():
        x = cupy.ones(3)
    pool = workspace.pool
    del workspace
    assert pool in graph._outlived
    assert (x.get() == 1).all()
    del x
    graph.Workspace()
    assert pool not in graph._outlived


def test_index_arrays_are_uploaded_once(cupy, monkeypatch):
    from emulator import cupy_emulated

    index = np.arange(5)
    with cupy_emulated.counted() as n:
        first = launch.resident(index)
        assert launch.resident(index) is first
        assert launch.resident(first) is first
        assert n.to_device == 1
        for _ in range(launch.RESIDENT):
            launch.resident(np.arange(5))
        assert launch.resident(index) is not first  # the oldest had to go
    assert len(launch._uploads) == launch.RESIDENT
    monkeypatch.setattr(launch, "RESIDENT_BYTES", 200)
    launch.resident(np.arange(20))
    assert sum(host.nbytes for host, _ in launch._uploads.values()) <= 200
    launch.resident(np.arange(100))  # larger than that by itself: it is used now
    assert len(launch._uploads) == 1


def test_launches_and_uploads_follow_the_current_stream(cupy):
    index, streams = np.arange(5), (cupy.cuda.Stream(), cupy.cuda.Stream())
    copies = []
    for stream in streams:
        with stream:
            copies.append(launch.resident(index))
            assert launch.resident(index) is copies[-1]
    assert copies[0] is not copies[1]


def test_the_default_streams_of_threads_are_not_one(cupy):
    index, copies = np.arange(5), []

    def upload():
        with cupy.cuda.Stream.ptds:
            copies.append(launch.resident(index))

    for thread in [threading.Thread(target=upload) for _ in range(2)]:
        thread.start()
        thread.join()
    assert copies[0] is not copies[1]


def test_streams_wait_for_the_upload_of_counts(cupy):
    from emulator import cupy_emulated

    x, z = ops.CountMatrix(sparse.csr_array(np.eye(3))), cupy.ones((3, 2))
    with cupy_emulated.counted() as n:
        for _ in range(2):
            ops.poisson_counts_log_prob(x, z, z)
    assert n.synchronize == 1


def test_a_range_of_systems(cupy):
    p = banded_problem("grid", np.float64, np.random.default_rng(0))
    args, results, n = next(solves(p))
    whole = run_on_device(cupy, gpu("banded").solve_triangular, args, n)[results[0]]
    given = [cupy.asarray(a) if lives_there(a) else a for a in args]
    for lo, hi in ((5, n), (0, 5)):
        gpu("banded").solve_triangular(*given, lo, hi)
    assert same_bits(given[results[0]].get(), whole)


def test_a_module_is_built_once_per_precision(cupy, monkeypatch):
    built, original = [], cupy.RawModule

    class Counted(original):
        def __init__(self, **settings):
            built.append(settings["name_expressions"])
            super().__init__(**settings)

    monkeypatch.setattr(cupy, "RawModule", Counted)
    launch._module.cache_clear()
    launch._function.cache_clear()
    for _ in range(3):
        for dtype in FLOATS:
            gpu("optim").adam(*(cupy.ones(5, dtype) for _ in range(4)), 0.1, 0.9, 1, 0.5, 0, 5)
    kernels = ("adam", "adamw", "sgd", "momentum")
    assert built == [tuple(f"{kernel}<{kind}>" for kernel in kernels) for kind in ("float", "double")]


def test_threads_launch_side_by_side(cupy):
    from concurrent.futures import ThreadPoolExecutor

    p = banded_problem("grid", np.float64, np.random.default_rng(0))
    args, results, n = next(solves(p))
    expected = run_on_device(cupy, gpu("banded").solve_triangular, args, n)[results[0]]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(run_on_device, cupy, gpu("banded").solve_triangular, args, n) for _ in range(8)]
        assert all(same_bits(run.result()[results[0]], expected) for run in runs)


def test_an_unknown_name_does_not_compile(cupy):
    with pytest.raises(EmulatorError):
        cupy.RawModule(code=launch.source("optim"), options=launch.OPTIONS, name_expressions=("adamm<float>",))
