"""Work on NumPy arrays as a list of launches, which can be replayed without the Python code that led to them.

This is on a CPU what a CUDA graph is on a device: `Graph(run, workspace)` calls `run` once, and from then on `launch()`
repeats the same work on the same memory: the compiled kernels, consecutive ones in one call without the interpreter, and
NumPy's own functions between them. New values are written into the arrays that `run` read.

A CUDA stream records what a device is asked to do. Here the arrays record it: `run` gets its arrays as `Traced` ones, which
note what NumPy's operators, methods and functions do to them, and so are all results. Work that a list cannot hold raises
NotCaptured, a TypeError: a decision by a value (`float`, `bool`, an index), or a kernel that returns something; and so does
a launch in which values would give a result another shape. Arrays do not see code that takes their values in another way,
`np.asarray` above all: these values would stay as they were. So a launch of functions from elsewhere is compared once with
the functions themselves, at other values: see `captured` and gvae.training.program.
"""

from __future__ import annotations

import ctypes
import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from gvae.errors import DTypeError, ShapeError
from gvae.runtime import memory, pool
from gvae.runtime.context import context, entered
from gvae.structures import leaves_of, mapped

__all__ = ["Argument", "Graph", "NotCaptured", "Traced", "Workspace", "captured"]


class NotCaptured(TypeError):
    """Work that a list of launches cannot hold."""


class Workspace(memory.Pool):
    """Memory of graphs that are launched one at a time, for intermediate results.

    It is reused within a launch, as memory is without a graph, and lives as long as a graph that uses it.
    """

    def __init__(self) -> None:
        super().__init__(np.inf, np.inf)
        self.handles: dict[int, tuple[int, np.ndarray]] = {}  # handles of blocks, by address: size, and a second view

    def bare(self, array: np.ndarray) -> np.ndarray:
        """The same array for a graph, which keeps the workspace: in a block, a view that does not prevent its reuse."""
        address = array.__array_interface__["data"][0]
        for block, size, _ in self.blocks:
            start = block.ctypes.data
            if start <= address < start + size:
                if start not in self.handles:
                    handle = (ctypes.c_uint8 * block.nbytes).from_address(start)
                    self.handles[start] = block.nbytes, np.frombuffer(handle, np.uint8)
                return np.ndarray(array.shape, array.dtype, self.handles[start][1], address - start, array.strides)
        return array.view(np.ndarray)


class Graph:
    """The work of `run(traced)` as launches. traced(array): the array for its use, in whose memory the work begins.

    result : what `run` returned, with NumPy's own arrays; their content is that of the last launch of any graph of the
             workspace. Raises whatever run does.
    """

    values = False  # the values of a launch are unknown during capture

    def __init__(self, run: Callable[[Callable[[np.ndarray], Traced]], Any], workspace: Workspace):
        self.workspace = workspace
        self._calls: list[Callable[[], Any]] = []
        self._pending: list[tuple] = []  # launches of kernels since the last call of another kind
        self._held: list[Any] = []  # arrays that the launches read and write
        self._packs: list[np.ndarray] = []  # the kernels' arguments, as numbers
        self._seen: list[np.ndarray] = []  # arrays that calls other than kernels refer to
        self._errors = np.geterr()
        _alone()
        with entered(backend=self, pool=workspace):
            self.result = self.bare(run(self.traced))
            self._flush()

    def launch(self) -> None:
        """Repeat the work."""
        _alone()
        for call in self._calls:
            call()

    def argument(self, array: np.ndarray) -> Argument:
        """The handle by which an array that `run` read is replaced by another one."""
        copied = array.nbytes < memory.SMALL or not array.flags.c_contiguous
        if copied or _is_view(array, [self.result, self._seen]):
            return Argument(array, [])
        start = array.ctypes.data
        words = [(pack, i) for pack in self._packs for i in np.flatnonzero((pack >= start) & (pack < start + array.nbytes))]
        return Argument(array, [(pack, int(i), int(pack[i]) - start) for pack, i in words])

    # ---- called during capture

    def traced(self, array: np.ndarray) -> Traced:
        return array.view(Traced)

    def bare(self, structure: Any) -> Any:
        """NumPy's own arrays for Traced ones, as a graph keeps them."""
        return _without_traced(self.workspace.bare, structure)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Traced:
        return self.traced(memory.empty(shape, dtype))

    def zeros(self, shape: int | tuple[int, ...], dtype: Any) -> Traced:
        zeros = self.empty(shape if isinstance(shape, tuple) else (shape,), dtype)
        zeros.fill(0)
        return zeros

    def kernels(self, module: Any) -> _Kernels:
        """The kernels of a module, for callers that do not use `over`: they pass all arguments, the last being 0 and n."""
        return _Kernels(self, module)

    def functions(self, module: Any) -> _Functions:
        """The functions of a module that is not NumPy's: not all of them are ufuncs."""
        return _Functions(self, module)

    def over(self, kernel: Any, *arguments: Any, n: int, work: int, step: int = 1) -> None:
        """`pool.over`."""
        how: dict[str, Any] = {"n": n, "work": work, "step": step}
        pool.over(kernel, *_plain(arguments), **how)
        if hasattr(type(kernel), "signatures"):  # a Numba kernel
            self._pending.append((kernel, self.bare(arguments), how))
        else:
            self._record(functools.partial(pool.over, kernel, *self._known(arguments), **how))

    def write(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> None:
        """function(*arguments, **settings), which writes into one of them."""
        given = _plain((arguments, settings))
        function(*given[0], **given[1])
        arguments, settings = self._known((arguments, settings))
        self._record(functools.partial(function, *arguments, **settings))

    def pure(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """function(*arguments, **settings), which writes into none of them: views of them, or an array, but no value."""
        given = _plain((arguments, settings))
        result = function(*given[0], **given[1])
        if isinstance(result, (list, tuple)) and result and all(_is_view(part, given, empty=True) for part in result):
            return type(result)([self.traced(part) for part in result])
        if _is_view(result, given):
            return self.traced(result)
        if not isinstance(result, (np.ndarray, np.generic)):
            raise NotCaptured(f"{function.__name__} returns {type(result).__name__}, which may be another in every launch")
        result = self._kept(result)
        kept, arguments, settings = self._known((result, arguments, settings))
        if function is np.zeros_like:
            self._record(functools.partial(kept.fill, 0))
        elif function is np.concatenate:
            self._record(functools.partial(function, *arguments, **settings | {"out": kept}))
        elif function is not np.empty_like:
            self._record(functools.partial(_into, kept, function, arguments, settings))
        return result

    def ufunc(self, ufunc: np.ufunc, method: str, inputs: tuple, out: Any, settings: dict[str, Any]) -> Any:
        """A ufunc, or a method of one, of Traced arrays."""
        if method == "at":
            return self.write(ufunc.at, *inputs)
        function, given = getattr(ufunc, method), _plain((inputs, settings))
        if out is None:
            results = function(*given[0], **given[1])
            out = tuple(map(self._kept, results if isinstance(results, tuple) else (results,)))
        elif any(array is None for array in out):
            raise NotCaptured(f"{ufunc.__name__} with out= for some results")
        else:
            function(*given[0], out=_plain(out), **given[1])
        inputs, out_, settings = self._known((inputs, out, settings))
        self._record(functools.partial(function, *inputs, out=out_, **settings))
        return out if len(out) > 1 else out[0]

    def _kept(self, result: Any) -> Traced:
        """A new array in memory that launches write to again."""
        result = np.asarray(result)
        if result.nbytes >= memory.SMALL and result.flags.c_contiguous:
            kept = memory.empty(result.shape, result.dtype)
            kept[...] = result
            result = kept
        elif not result.flags.writeable:  # an empty view
            result = result.copy()
        return self.traced(result)

    def _known(self, structure: Any) -> Any:
        """`bare`, for calls that are not kernels."""
        found = self.bare(structure)
        self._seen += _arrays(found)
        return found

    def _record(self, call: Callable[[], Any]) -> None:
        self._flush()
        errors = np.geterr()
        self._calls.append(call if errors == self._errors else functools.partial(_under, errors, call))

    def _flush(self) -> None:
        """The pending launches as one call."""
        if not self._pending:
            return
        if pool.works():
            rows = []
            for kernel, arguments, how in self._pending:
                row, memory = pool.pack(kernel, arguments, **how)
                rows.append(row)
                self._held.append(arguments)
                self._packs.append(memory)
            self._calls.append(functools.partial(pool.run, np.array(rows, np.int64), max(row[-1] for row in rows)))
        else:  # called one by one
            self._calls += [functools.partial(pool.over, kernel, *given, **how) for kernel, given, how in self._pending]
        self._pending = []


def captured(f: Callable[..., Any], *arrays: np.ndarray, verify: Any = True) -> Callable[..., Any]:
    """Capture a function of arrays as a list of launches, for arrays of the shapes and dtypes of these.

    Parameters
    ----------
    f : callable
        f(*arrays), of NumPy and gvae's ops.
    *arrays : array
        NumPy arrays at which f is called once. They are copied.
    verify : bool or tuple of array, default True
        Compare a launch with f at once, bit for bit, at other values: those of a tuple of arrays; True, at these arrays with
        floats changed by a few thousandths; False, not compared.

    Returns
    -------
    callable
        Called with arrays of these shapes and dtypes, it returns what f returns. The result lies in the same memory every
        time: it is valid until the next call. Not for two threads at once. A call raises ShapeError, DTypeError.

    Raises
    ------
    NotCaptured
        A TypeError: f cannot be a list of launches, or a launch differs from f. The message names what differs.
    Exception
        Whatever f raises at these arrays.

    Notes
    -----
    A launch repeats what NumPy and gvae's ops did to the arrays. It does not repeat what f did outside of these, such as
    `np.asarray(x)` in other compiled code. An op that checks values, such as pivots, cannot be captured: pass `check=False`.

    Examples
    --------
    >>> def loss(mean, chol):
    ...     return gvae.ops.kl_divergence_banded(mean, chol, check=False).sum()
    >>> mean, chol = np.zeros((1, 3)), np.array([[[1.0, 1.0, 1.0], [-0.5, -0.5, 0.0]]])
    >>> step = gvae.captured(lambda mean, chol: gvae.value_and_gradient(loss, mean, chol), mean, chol)
    >>> value, (mean_bar, chol_bar) = step(mean + 2.0, chol)
    >>> value.round(4), mean_bar
    (np.float64(6.2812), array([[2., 2., 2.]]))
    """
    own = [np.array(array) for array in arrays]
    graph = Graph(lambda traced: f(*map(traced, own)), Workspace())
    arguments, results = [graph.argument(array) for array in own], _arrays(graph.result)

    def call(*given: np.ndarray) -> Any:
        if len(given) != len(own):
            raise ShapeError(f"captured: {len(given)} arrays, expected {len(own)}")
        for i, (argument, array, mine) in enumerate(zip(arguments, given, own, strict=True)):
            if not isinstance(array, np.ndarray) or array.dtype != mine.dtype:
                kind = getattr(array, "dtype", type(array).__name__)
                raise DTypeError(f"captured: array {i} is {kind}, expected {mine.dtype} as it was captured with")
            if array.shape != mine.shape:
                raise ShapeError(
                    f"captured: array {i} has shape {array.shape}, expected {mine.shape} as it was captured with"
                )
            own_result = any(np.may_share_memory(array, kept) for kept in results)  # which the launch is about to replace
            argument.put(array.copy() if own_result else array)
        graph.launch()
        return graph.result

    if verify is not False:
        others = tuple(map(_changed, arrays)) if verify is True else tuple(verify)
        got = mapped(np.array, call(*others))  # copies: f may return the same memory, an `out` that it was given
        place = _difference(f(*others), got)
        if place is not None:
            name = getattr(f, "__name__", type(f).__name__)
            raise NotCaptured(f"captured: {name} gives other numbers when it is launched, in its result{place}")
    return call


def _changed(array: np.ndarray) -> np.ndarray:
    """Floats times 1 - 0.003 to 1 + 0.003; other dtypes unchanged."""
    if array.dtype.kind != "f":
        return array
    factors = 1 + 0.003 * np.cos(np.arange(array.size)).reshape(array.shape)
    return np.asarray(array * factors.astype(array.dtype))


def _difference(expected: Any, got: Any) -> str | None:
    """The place of the first difference in bits between two structures, or None."""
    if isinstance(expected, dict):
        parts = [(f"[{name!r}]", x, got[name]) for name, x in expected.items()]
    elif isinstance(expected, (list, tuple)):
        parts = [(f"[{i}]", x, y) for i, (x, y) in enumerate(zip(expected, got, strict=True))]
    else:
        return None if expected is None or np.asarray(expected).tobytes() == np.asarray(got).tobytes() else ""
    found = ((place, _difference(x, y)) for place, x, y in parts)
    return next((place + inner for place, inner in found if inner is not None), None)


class Argument:
    """An array that a graph reads, replaced by others before a launch.

    They are copied into it, or, where only kernels read it, the kernels read them in place.
    """

    def __init__(self, array: np.ndarray, words: list[tuple[np.ndarray, int, int]]):
        self.array, self.read = array, array
        self.words = words  # (a kernel's arguments, the position of an address in them, its distance from the array's)

    def put(self, array: np.ndarray) -> None:
        """Read this array in the next launches: until then it must not change."""
        there = array if self.words and array.flags.c_contiguous and array.flags.aligned else self.array
        if there is self.array:
            self.array[...] = array
        if there is not self.read:
            start = there.__array_interface__["data"][0]
            for pack, i, distance in self.words:
                pack[i] = start + distance
            self.read = there


def _alone() -> None:
    if context.backend is not None:
        raise NotCaptured("a graph while another is captured, which would not see it")


class _Kernels:
    def __init__(self, graph: Graph, module: Any):
        self.graph, self.module = graph, module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        return functools.partial(self._launch, found) if hasattr(type(found), "signatures") else found

    def _launch(self, kernel: Any, *arguments: Any) -> None:
        if arguments[-2:-1] != (0,):
            raise NotCaptured(f"{kernel.__name__}: a part of its work")
        self.graph.over(kernel, *arguments[:-2], n=arguments[-1], work=0)


class _Functions:
    def __init__(self, graph: Graph, module: Any):
        self.graph, self.module = graph, module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        return found if isinstance(found, np.ufunc) else functools.partial(self.graph.pure, found)


def _into(kept: np.ndarray, function: Callable[..., Any], arguments: tuple, settings: dict[str, Any]) -> None:
    result = function(*arguments, **settings)
    if result.shape != kept.shape:
        raise NotCaptured(f"{function.__name__} returns {result.shape}, where it was {kept.shape}: its values decide that")
    kept[...] = result


def _under(errors: Any, call: Callable[[], Any]) -> None:
    with np.errstate(**errors):
        call()


def _arrays(structure: Any) -> list[np.ndarray]:
    return [leaf for leaf in leaves_of(structure) if isinstance(leaf, np.ndarray)]


def _is_view(result: Any, structure: Any, empty: bool = False) -> bool:
    """Whether it is an array in the memory of one of the arrays of a structure; an empty array may be the selection of
    nothing by values."""
    if not isinstance(result, np.ndarray) or result.size == 0:
        return empty and isinstance(result, np.ndarray)
    return any(np.may_share_memory(result, array) for array in _arrays(structure))


KNOWN_BY_SHAPE = {np.shape, np.ndim, np.size, np.may_share_memory, np.shares_memory, np.result_type}


class Traced(np.ndarray):
    """An array whose operations are recorded by the graph that is being captured."""

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **settings: Any) -> Any:
        graph = context.backend
        if graph is None:
            inputs, out, settings = _plain((inputs, out, settings))
            return getattr(ufunc, method)(*inputs, **settings | ({} if out is None else {"out": out}))
        return graph.ufunc(ufunc, method, inputs, out, settings)

    def __array_function__(self, function: Callable[..., Any], types: Any, arguments: Any, settings: Any) -> Any:
        graph = context.backend
        if graph is None or function in KNOWN_BY_SHAPE:
            arguments, settings = _plain((arguments, settings))
            return function(*arguments, **settings)
        if settings.get("out") is not None:
            graph.write(function, *arguments, **settings)
            return settings["out"]
        return graph.pure(function, *arguments, **settings)

    def __getitem__(self, index: Any) -> Any:
        return _do(operator.getitem, self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        if context.backend is None:
            operator.setitem(_plain(self), _plain(index), _plain(value))
        else:
            context.backend.write(operator.setitem, self, index, value)

    def fill(self, value: Any) -> None:
        self[...] = value


def _do(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    graph = context.backend
    if graph is None:
        arguments, settings = _plain((arguments, settings))
        return function(*arguments, **settings)
    return graph.pure(function, *arguments, **settings)


def _plain(structure: Any) -> Any:
    """NumPy's own arrays in place of Traced ones, to compute with at once."""
    return _without_traced(lambda array: array.view(np.ndarray), structure)


def _without_traced(f: Callable[[Traced], np.ndarray], structure: Any) -> Any:
    return mapped(lambda leaf: f(leaf) if isinstance(leaf, Traced) else leaf, structure)


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)
    return lambda self, *arguments, **settings: _do(function, self, *arguments, **settings)


def _refusal(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def refuse(self: Traced, *arguments: Any, **settings: Any) -> Any:
        if context.backend is None:
            return function(_plain(self), *_plain(arguments), **settings)
        raise NotCaptured(f"{name} of an array whose values are others in every launch")

    return refuse


# Methods that may copy. NumPy's sum, mean, max, ... are made of ufuncs, and views are Traced by themselves.
COPYING = """argmax argmin argsort astype choose compress conj conjugate copy cumprod cumsum diagonal dot flatten ravel
    repeat reshape round searchsorted take trace"""
REFUSED = """__bool__ __complex__ __contains__ __float__ __index__ __int__ byteswap dump dumps item nonzero partition put
    resize setfield sort tobytes tofile tolist"""
for _name in COPYING.split():
    setattr(Traced, _name, _method(_name))
for _name in REFUSED.split():
    setattr(Traced, _name, _refusal(_name))
