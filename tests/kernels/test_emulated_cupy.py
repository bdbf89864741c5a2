"""The emulated CuPy (tests/emulator/cupy_emulated) computes what NumPy does, refuses what CuPy refuses, and counts what
goes between host and device."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import sys
import threading

import numpy as np
import pytest
import scipy.sparse
from emulator import build, cupy_emulated, recorded
from emulator.cupy_emulated import counted

pytestmark = pytest.mark.emulator

needs_gpp = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

AXPY = """
template <typename T>
__global__ void axpy(const T* x, T* y, T a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
"""


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_")}


def test_emulated_names_are_real_names():
    """Everything public exists in the real CuPy; what exists there only says so, and what exists nowhere is no attribute."""
    for module in cupy_emulated.MODULES.values():
        listed = cupy_emulated.NAMES.get(module.__name__)
        if listed is not None:
            extra = set(dir(module)) - set(listed) - {"scipy"}
            assert extra == set(), module.__name__
    cupy = cupy_emulated.cupy
    for name, here in [
        ("ndarray", cupy.ndarray),
        ("cuda.Stream", cupy.cuda.Stream),
        ("cuda.Device", cupy.cuda.Device),
        ("RawModule", cupy.RawModule),
    ]:
        listed = cupy_emulated.NAMES[f"cupy.{name}"]
        assert not [n for n in vars(here) if not n.startswith("_") and n not in listed], name
    with pytest.raises(NotImplementedError, match=r"cupy\.fuse exists, but not in the emulated CuPy"):
        cupy.fuse  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'frombuffer2'"):
        cupy.frombuffer2  # noqa: B018


def test_installed_for_the_test_only(cupy):
    import cupy as imported
    import cupyx.scipy.special

    assert imported is cupy
    assert cupyx.scipy.special.digamma(cupy.ones(2)).shape == (2,)
    assert type(cupy.ones(2)).__module__ == "cupy"
    assert cupy.get_array_module(cupy.ones(2)) is cupy
    assert cupy.get_array_module(np.ones(2)) is np


def test_not_installed_otherwise():
    with cupy_emulated.installed() as inside:
        assert sys.modules["cupy"] is inside
    assert sys.modules.get("cupy") is not inside


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("np.asarray(x)", TypeError, "Implicit conversion to a NumPy array is not allowed"),
        ("h + x", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("x + h", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("np.add(x, h)", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("np.add(h, h, out=x)", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("np.add(x, x, out=h)", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("x @ h", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("np.concatenate([x, h])", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("cupy.where(x > 0, x, h)", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("cupy.exp(h)", TypeError, "Unsupported type <class 'numpy.ndarray'>"),
        ("cupy.exp([1.0])", TypeError, "Unsupported type <class 'list'>"),
        ("cupy.matmul(x, 2.0)", TypeError, "arrays of the device"),
        ("x.__setitem__(slice(None), h)", ValueError, "non-scalar numpy.ndarray cannot be used for fill"),
        ("x.max(initial=0)", TypeError, "unexpected keyword argument 'initial'"),
        ("x.sum(where=x > 0)", TypeError, "unexpected keyword argument 'where'"),
        ("np.exp(x, where=x > 0)", TypeError, "Wrong arguments"),
        ("np.add.reduce(x)", TypeError, "all returned NotImplemented"),
        ("np.add.at(x, 0, 1.0)", TypeError, "all returned NotImplemented"),
        ("np.spacing(x)", TypeError, "all returned NotImplemented"),
        ("np.linalg.eig(x)", NotImplementedError, "cupy.linalg.eig exists"),
        ("x.flags.writeable", AttributeError, "writeable"),
        ("x.ctypes", AttributeError, "ctypes"),
        ("cupy.cuda.Stream().add_callback(len, 0)", NotImplementedError, "cupy.cuda.Stream.add_callback exists"),
        ("cupy.cuda.Stream.null.begin_capture()", RuntimeError, "cannot capture on the default"),
        ("cupy.cuda.Stream().end_capture()", RuntimeError, "cudaErrorIllegalState"),
        ("cupy.cuda.Graph()", NotImplementedError, "must be created via stream capture"),
        ("x.set(h.astype('f4'))", TypeError, "float32 array cannot be set to float64 array"),
        ("x.get(out=np.ones(3))", ValueError, "Shape mismatch"),
        ("hash(x)", TypeError, "unhashable"),
        ("len(x.sum())", TypeError, "unsized"),
        ("list(x.sum())", TypeError, "0-d"),
        ("bool(x)", ValueError, "more than one element"),
        ("cupy.zeros(3).__iadd__(h)", TypeError, "Unsupported type"),
        ("cupy.asarray(['a'])", ValueError, "Unsupported dtype"),
        ("cupy.RawModule(code='', options=[])", TypeError, "expected tuple"),
        ("cupy.cuda.Device(1)", RuntimeError, "cudaErrorInvalidDevice"),
    ],
)
def test_what_cupy_refuses(cupy, expression, error, message):
    names = {"np": np, "cupy": cupy, "x": cupy.asarray(np.ones((2, 2))), "h": np.ones((2, 2))}
    with pytest.raises(error, match=message):
        eval(expression, names)


SAME = [
    lambda x: 2 * x + 1,
    lambda x: x / 3,
    lambda x: 1 - x,
    lambda x: -x,
    abs,
    lambda x: x**2,
    lambda x: x @ x.T,
    lambda x: x > 0.5,
    lambda x: np.float64(2) * x,
    np.exp,
    np.sum,
    lambda x: x.sum(axis=0),
    lambda x: x.sum(),
    lambda x: x.max(axis=1),
    lambda x: x.mean(axis=-1),
    lambda x: np.sum(x, axis=1, keepdims=True),
    lambda x: np.cumsum(x, axis=1),
    lambda x: np.where(x > 0, x, 0),
    lambda x: x[1:, ::2],
    lambda x: x[0, 0],
    lambda x: x[None],
    lambda x: x.T.copy(),
    lambda x: x.reshape(2, 6),
    lambda x: x.astype(np.float64),
    lambda x: np.zeros_like(x),
    lambda x: np.concatenate([x, x]),
    lambda x: np.einsum("ij,kj->ik", x, x),
    lambda x: np.linalg.inv(x[:, :3] @ x[:, :3].T + 1),
]


def test_arithmetic_is_numpys_and_stays_on_the_device(cupy):
    h = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with counted() as n:
        x = cupy.asarray(h)
    assert (n.to_device, n.to_host, n.allocations) == (1, 0, 1)
    with counted() as n:
        pairs = [(f(x), f(h)) for f in SAME]
    assert (n.to_host, n.to_device, n.synchronize) == (0, 0, 0)
    assert n.operations > 20
    for device, host in pairs:
        assert type(device) is cupy.ndarray
        assert device.dtype == host.dtype
        assert device.shape == host.shape
        np.testing.assert_array_equal(device.get(), host)
    x += 1
    x[0] = 5
    x[:, 1] *= 2
    h += 1
    h[0] = 5
    h[:, 1] *= 2
    np.testing.assert_array_equal(cupy.asnumpy(x), h)
    assert np.asarray(h) is cupy.asnumpy(h)


@pytest.mark.parametrize(
    ("expression", "to_host", "to_device", "synchronize"),
    [
        ("float(x.sum())", 1, 0, 0),
        ("bool(x.sum() > 0)", 1, 0, 0),
        ("x.get()", 1, 0, 0),
        ("x[0].item()", 1, 0, 0),
        ("x.tolist()", 1, 0, 0),
        ("repr(x)", 1, 0, 0),
        ("f'{x}'", 1, 0, 0),
        ("x[x > 0]", 1, 0, 0),
        ("np.flatnonzero(x)", 1, 0, 0),
        ("x[np.array([0, 1])]", 0, 1, 0),
        ("x[[0, 1]]", 0, 1, 0),
        ("cupy.asarray(2.0)", 0, 1, 0),
        ("x.set(np.ones(4))", 0, 1, 0),
        ("x[cupy.arange(2)]", 0, 0, 0),
        ("x[1]", 0, 0, 0),
        ("cupy.zeros(4) + cupy.full(4, 2.0)", 0, 0, 0),
        ("x.__setitem__(slice(2), 1.0)", 0, 0, 0),
        ("cupy.cuda.get_current_stream().synchronize()", 0, 0, 1),
        ("cupy.cuda.Device().synchronize()", 0, 0, 1),
        ("cupy.cuda.runtime.deviceSynchronize()", 0, 0, 1),
    ],
)
def test_what_goes_over_the_bus_is_counted(cupy, expression, to_host, to_device, synchronize):
    x = cupy.asarray(np.ones(4))
    with counted() as n:
        eval(expression, {"np": np, "cupy": cupy, "x": x})
    assert (n.to_host, n.to_device, n.synchronize) == (to_host, to_device, synchronize)


def test_rules_that_differ_from_numpys(cupy):
    x = cupy.asarray(np.arange(5.0))
    np.testing.assert_array_equal(x[cupy.asarray([5, -1, 7])].get(), [0, 4, 2])  # indices in arrays wrap around
    with pytest.raises(IndexError):
        x[5]
    assert np.isnan(cupy.empty(3).get()).all()  # so that what is forgotten shows
    assert np.isnan(cupy.empty_like(x).get()).all()
    bad = cupy.asarray(np.stack([np.eye(2), -np.eye(2)]))
    with counted() as n:
        factor = np.linalg.cholesky(bad)
    assert n.to_host == 0
    np.testing.assert_array_equal(factor.get(), [np.eye(2), np.full((2, 2), np.nan)])
    import cupyx

    with cupyx.errstate(linalg="raise"), pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(bad)
    cupy.add.at(x, cupy.asarray([1, 1]), cupy.asarray([1.0, 2.0]))
    assert x[1].item() == 4
    np.testing.assert_array_equal(copy.deepcopy(x).get(), pickle.loads(pickle.dumps(x)).get())


def test_results_of_several_parts(cupy):
    a = np.diag([2.0, 1.0])
    values, vectors = np.linalg.eigh(cupy.asarray(a))
    np.testing.assert_array_equal(values.get(), [1, 2])
    assert type(vectors) is type(np.split(values, 2)[0]) is cupy.ndarray
    import cupyx.scipy.special as special

    np.testing.assert_allclose(special.polygamma(1, values).get(), [np.pi**2 / 6, np.pi**2 / 6 - 1])


def test_sparse_matrices(cupy):
    import cupyx.scipy.sparse

    h = scipy.sparse.random(6, 4, 0.5, "csr", random_state=0)
    with counted() as n:
        x = cupyx.scipy.sparse.csr_matrix(h)
    assert n.to_device == 1
    y = cupy.asarray(np.random.default_rng(0).normal(size=(4, 3)))
    with counted() as n:
        z, back, part = x @ y, x.T @ (x @ y), x[cupy.arange(2)] @ y
    assert (n.to_device, n.to_host) == (0, 0)
    np.testing.assert_allclose(z.get(), h @ y.get())
    np.testing.assert_allclose(back.get(), h.T @ (h @ y.get()))
    np.testing.assert_allclose(part.get(), h[:2] @ y.get())
    assert (x.format, x.T.format, x.shape, x.nnz) == ("csr", "csc", (6, 4), h.nnz)
    assert type(x.indptr) is cupy.ndarray
    with pytest.raises(TypeError, match="Unsupported type"):
        x @ np.ones((4, 3))
    with pytest.raises(ValueError, match="Only bool, float32, float64"):
        cupyx.scipy.sparse.csr_matrix(h.astype(np.int32))


def test_memory_and_views(cupy):
    pool = cupy.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    x = cupy.zeros((100, 10))
    assert x.data.ptr % 8 == 0
    assert cupy.empty(7).data.ptr % 512 == 0
    assert x[3, 2:].data.ptr == x.data.ptr + (3 * 10 + 2) * 8
    view = cupy.ndarray((10,), np.float64, x.data + 10 * 8)
    view += 3
    assert x[1].sum().item() == 30
    assert x.sum().item() == 30
    with pytest.raises(NotImplementedError, match=r"cupy\.ndarray\.base exists"):
        x.base  # noqa: B018
    assert pool.used_bytes() >= before + 8000
    pool.set_limit(size=pool.used_bytes() + 100)
    try:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            x + 1
    finally:
        pool.set_limit(size=0)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    del x, view
    gc.collect()  # the error above holds frames
    assert pool.used_bytes() == before
    interface = cupy.ones((2, 3), "f4").__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((2, 3), "<f4", 3)


def test_streams_are_per_thread(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    seen = []
    with stream:
        assert cupy.cuda.get_current_stream().ptr == stream.ptr != 0
        other = threading.Thread(target=lambda: seen.append(cupy.cuda.get_current_stream().ptr))
        other.start()
        other.join()
    assert seen == [0]
    assert cupy.cuda.get_current_stream() == cupy.cuda.Stream.null
    assert cupy.cuda.is_available()


def test_a_pool_of_ones_own_keeps_what_it_took(cupy):
    default = cupy.get_default_memory_pool()
    gc.collect()
    before = default.used_bytes()
    mine = cupy.cuda.MemoryPool(cupy.cuda.get_allocator())
    with cupy.cuda.using_allocator(mine.malloc):
        x = cupy.zeros(1000)
        where = x.data.ptr
        with counted() as n:
            del x
            y = cupy.empty(1000)
            assert y.data.ptr == where
            assert np.isnan(y.get()).all()  # what was there is not to be relied on
            assert (y + 1).data.ptr != where
        assert n.allocations == 1
    with counted() as n:
        cupy.zeros(1000)
    assert n.allocations == 1  # outside of the block the default again
    assert default.used_bytes() - before == mine.total_bytes() == 2 * 8192
    assert (mine.used_bytes(), mine.free_bytes()) == (8192, 8192)
    mine.free_all_blocks()
    assert default.used_bytes() - before == mine.total_bytes() == 8192
    del y
    mine.free_all_blocks()
    assert default.used_bytes() == before


def test_arrays_do_not_outlive_their_pool(cupy):
    mine = cupy.cuda.MemoryPool(cupy.cuda.get_allocator())
    with cupy.cuda.using_allocator(mine.malloc):
        x = cupy.ones(3)
    del mine
    assert np.isnan(x.get()).all()


# ---- graphs ----


@contextlib.contextmanager
def captured(cupy, graphs):
    """What is captured in the block is appended to `graphs`."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        try:
            yield
        finally:
            graphs.append(stream.end_capture())


def test_what_is_captured_runs_when_the_graph_is_launched_and_not_before(cupy):
    graphs, x, y = [], cupy.arange(4.0), cupy.zeros(4)
    with captured(cupy, graphs), counted() as n:
        z = 2 * x + 1
        part = z.reshape(2, 2)[1]
        y += z
        y[0] = x[-1]
        part *= 10
        x.fill(5)
    assert n.operations > 5
    assert x.get().tolist() == [0, 1, 2, 3]
    assert y.get().tolist() == [0, 0, 0, 0]
    assert np.isnan(z.get()).all()
    with counted() as n:
        graphs[0].launch()
    assert (n.graphs, n.operations, n.allocations) == (1, 0, 0)
    assert z.get().tolist() == [1, 3, 50, 70]
    assert y.get().tolist() == [3, 3, 5, 7]
    graphs[0].launch()
    assert z.get().tolist() == [11, 11, 110, 110]
    assert y.get().tolist() == [5, 14, 16, 18]


@needs_gpp
def test_kernels_and_copies_in_a_graph(cupy):
    f = cupy.RawModule(code=AXPY, options=("--std=c++17",), name_expressions=["axpy<float>"]).get_function("axpy<float>")
    graphs, x, y, z = [], cupy.ones(100, "f4"), cupy.zeros(100, "f4"), cupy.zeros(100, "f4")
    with captured(cupy, graphs):
        f((4,), (32,), (x, y, np.float32(0.5), np.int32(100)))
        z.data.copy_from_device_async(y.data, y.nbytes)
    assert not y.get().any()
    for i in range(1, 4):
        graphs[0].launch()
        assert (z.get() == 0.5 * i).all()


def test_a_graph_keeps_nothing_alive(cupy):
    """An array that the graph reads is freed, and its memory given to another: the graph reads that."""
    mine, graphs = cupy.cuda.MemoryPool(cupy.cuda.get_allocator()), []
    y = cupy.zeros(3)
    with cupy.cuda.using_allocator(mine.malloc):
        x = cupy.ones(3)
        with captured(cupy, graphs):
            y += x
        del x
        other = cupy.full(3, 7.0)
        graphs[0].launch()
        assert (y.get() == 7).all()
        del other
    mine.free_all_blocks()
    graphs[0].launch()
    assert np.isnan(y.get()).all()


@pytest.mark.parametrize(
    "expression",
    ["x.get()", "float(x.sum())", "x[x > 0]", "cupy.asarray(np.ones(2))", "stream.synchronize()", "x[[0, 1]]"],
)
def test_what_waits_or_comes_from_the_host_breaks_a_capture(cupy, expression):
    x, stream = cupy.ones(3), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnsupported"):
            eval(expression, {"np": np, "cupy": cupy, "x": x, "stream": stream})
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            x += 1
        assert stream.is_capturing()
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
        assert not stream.is_capturing()
        x += 1
    assert (x.get() == 2).all()


def test_asking_whether_a_stream_is_done_breaks_its_capture(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert stream.done
        with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
    assert not stream.is_capturing()


@pytest.mark.parametrize(
    "expression", ["x @ x", "x.dot(x)", "np.linalg.inv(x)", "np.einsum('ij,jk', x, x)", "s @ x", "s[:1]"]
)
def test_libraries_are_not_called_while_a_stream_captures(cupy, expression):
    import cupyx.scipy.sparse

    graphs, names = (
        [],
        {"np": np, "x": cupy.ones((2, 2)), "s": cupyx.scipy.sparse.csr_matrix(scipy.sparse.eye(2, format="csr"))},
    )
    with (
        captured(cupy, graphs),
        pytest.raises(NotImplementedError, match="API during stream capture is currently unsupported"),
    ):
        eval(expression, names)
    graphs[0].launch()  # that is CuPy's own refusal: the capture goes on


def test_memory_may_be_taken_while_a_stream_captures_in_relaxed_mode_only(cupy):
    for mode, allowed in ((None, True), (0, False), (1, False)):
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture(mode)
            if allowed:
                cupy.empty(10)
                stream.end_capture()
            else:
                with pytest.raises(RuntimeError, match="StreamCaptureUnsupported"):
                    cupy.empty(10)
                with pytest.raises(RuntimeError, match="Invalidated"):
                    stream.end_capture()


@needs_gpp
def test_raw_modules_run_in_the_emulator(cupy):
    module = cupy.RawModule(code=AXPY, options=("--std=c++17",), name_expressions=["axpy<float>"])
    f = module.get_function("axpy<float>")
    x, y = cupy.ones(100, "f4"), cupy.empty(100, "f4")
    y.fill(2)
    with counted() as n, recorded() as launches:
        f((4,), (32,), (x, y, np.float32(0.5), np.int32(100)), stream=cupy.cuda.get_current_stream())
    assert (n.launches, n.to_host, n.to_device) == (1, 0, 0)
    assert launches.count("axpy") == 1
    assert module.code == AXPY
    assert (y.get() == 2.5).all()
    with pytest.raises(TypeError, match="Unsupported type"):
        f((4,), (32,), (np.ones(100, "f4"), y, np.float32(0.5), np.int32(100)))
