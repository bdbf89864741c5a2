"""Work on NumPy arrays as a list of launches, which can be made again without the Python that led to them.

What a CUDA graph is on a device, this is on a CPU: `Graph(run, workspace)` calls `run` once, and from then on `launch()` does
to the same memory what that did: the compiled kernels, as many as follow each other in one call without the interpreter,
and NumPy's own functions between them. Whoever wants other numbers writes them into the arrays that `run` read.

A stream sees what a device is asked to do. Here, arrays see it: `run` gets its arrays as `Traced` ones, whose functions,
operators and methods are NumPy's, and which write down what they are asked. So are all results. What would be lost on the
list is refused: to decide by a value (`float`, `bool`, an index), to write through a function, a kernel that returns
something. It raises NotCaptured, a TypeError.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from gvae import memory, threads

__all__ = ["Graph", "NotCaptured", "Traced", "Workspace", "current"]


class NotCaptured(TypeError):
    """Work that a list of launches cannot hold."""


class _Here(threading.local):
    graph: Graph | None = None


_here = _Here()


def current() -> Graph | None:
    """The graph that this thread captures, if it does."""
    return _here.graph


class Workspace(memory.Pool):
    """Memory of graphs that are launched one at a time: what is computed on the way lies here, and is used again within a
    launch as it is without a graph. It lives as long as a graph of it."""

    def __init__(self) -> None:
        super().__init__(np.inf, np.inf)
        self.handles: dict[int, tuple[int, np.ndarray]] = {}  # of blocks, by address: their size, and they once more

    def bare(self, array: np.ndarray) -> np.ndarray:
        """The same array for a graph, which keeps the workspace: where it lies in a block, it does not keep the block from
        being used again."""
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
    """What `run(traced)` does, as launches. traced(array): the array for its use, in whose memory the work begins.

    result : what it has returned, with NumPy's own arrays; their content is that of the last launch of any graph of the
             workspace. Raises whatever run does.
    """

    def __init__(self, run: Callable[[Callable[[np.ndarray], Traced]], Any], workspace: Workspace):
        self.workspace = workspace
        self._calls: list[Callable[[], Any]] = []
        self._pending: list[tuple] = []  # launches of kernels since the last other call
        self._held: list[Any] = []  # what the launches read and write
        self._errors = np.geterr()
        before, _here.graph = _here.graph, self
        try:
            with memory.using(workspace):
                self.result = self.bare(run(self.traced))
            self._flush()
        finally:
            _here.graph = before

    def launch(self) -> None:
        """Once more."""
        for call in self._calls:
            call()

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("a graph holds addresses, and cannot be copied")

    # ---- what is called while it is captured

    def traced(self, array: np.ndarray) -> Traced:
        return array.view(Traced)

    def bare(self, structure: Any) -> Any:
        """NumPy's own arrays for Traced ones."""
        if isinstance(structure, Traced):
            return self.workspace.bare(structure)
        if isinstance(structure, dict):
            return {name: self.bare(part) for name, part in structure.items()}
        if isinstance(structure, (list, tuple)):
            return type(structure)([self.bare(part) for part in structure])
        return structure

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Traced:
        return self.traced(self.workspace.empty(shape, dtype))

    def kernels(self, module: Any) -> _Kernels:
        """The kernels of a module, for who calls them without `over`: with all arguments, the last of which are 0 and n."""
        return _Kernels(self, module)

    def over(self, kernel: Any, *arguments: Any, n: int, work: int, step: int = 1) -> None:
        """`threads.over`."""
        bare = self.bare(arguments)
        threads.over(kernel, *bare, n=n, work=work, step=step)
        if hasattr(type(kernel), "signatures"):  # of Numba's
            self._pending.append((kernel, bare, n, threads.worth(n, work, step), step))
        else:
            self._record(functools.partial(threads.over, kernel, *bare, n=n, work=work, step=step))

    def write(self, function: Callable[..., Any], *arguments: Any) -> None:
        """function(*arguments), which writes into one of them."""
        function(*_plain(arguments))
        self._record(functools.partial(function, *self.bare(arguments)))

    def pure(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        """function(*arguments, **settings), which writes into none of them: views of them, or an array, but no value."""
        given = _plain((arguments, settings))
        result = function(*given[0], **given[1])
        if isinstance(result, (list, tuple)) and result and all(_is_view(part, given) for part in result):
            return type(result)([self.traced(part) for part in result])
        if _is_view(result, given):
            return self.traced(result)
        if not isinstance(result, (np.ndarray, np.generic)):
            raise NotCaptured(f"{function.__name__} returns {type(result).__name__}, which may be another in every launch")
        result = self._kept(result)
        kept, (arguments, settings) = self.bare(result), self.bare((arguments, settings))
        if function is np.zeros_like:
            self._record(functools.partial(kept.fill, 0))
        elif function is np.concatenate:
            self._record(functools.partial(function, *arguments, **settings | {"out": kept}))
        elif function is not np.empty_like:
            self._record(lambda: np.copyto(kept, function(*arguments, **settings)))
        return result

    def ufunc(self, ufunc: np.ufunc, method: str, inputs: tuple, out: Any, settings: dict[str, Any]) -> Any:
        """A ufunc, or a method of one, of Traced arrays."""
        if method == "at":
            return self.write(ufunc.at, *inputs)
        function, given = getattr(ufunc, method), _plain((inputs, settings))
        if out is None:
            results = function(*given[0], **given[1])
            out = tuple(map(self._kept, results if isinstance(results, tuple) else (results,)))
        else:
            function(*given[0], out=_plain(out), **given[1])
        inputs, out_, settings = self.bare((inputs, out, settings))
        self._record(functools.partial(function, *inputs, out=out_, **settings))
        return out if len(out) > 1 else out[0]

    def _kept(self, result: Any) -> Traced:
        """A new array in memory that launches write to again."""
        result = np.asarray(result)
        if result.nbytes >= memory.SMALL and result.flags.c_contiguous:
            kept = self.workspace.empty(result.shape, result.dtype)
            kept[...] = result
            result = kept
        return self.traced(result)

    def _record(self, call: Callable[[], Any]) -> None:
        self._flush()
        errors = np.geterr()
        self._calls.append(call if errors == self._errors else functools.partial(_under, errors, call))

    def _flush(self) -> None:
        """The pending launches as one call."""
        if not self._pending:
            return
        from gvae.kernels.cpu import _share  # not before: importing gvae loads no compiler

        rows, most = [], 1
        for kernel, arguments, n, shares, step in self._pending:
            address, code, place = _share.packed(kernel, arguments)
            self._held += [arguments, place]
            rows.append((address, code, place.ctypes.data, n, step, shares))
            most = max(most, shares)
        self._calls.append(functools.partial(threads.run, np.array(rows, np.int64), most))
        self._pending = []


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


def _under(errors: dict[str, Any], call: Callable[[], Any]) -> None:
    with np.errstate(**errors):
        call()


def _is_view(result: Any, structure: Any) -> bool:
    """Whether it is an array in the memory of one of the arrays of a structure."""
    if isinstance(structure, np.ndarray):
        return isinstance(result, np.ndarray) and np.may_share_memory(result, structure)
    parts = structure.values() if isinstance(structure, dict) else structure if isinstance(structure, (list, tuple)) else ()
    return any(_is_view(result, part) for part in parts)


KNOWN_BY_SHAPE = {np.shape, np.ndim, np.size, np.may_share_memory, np.shares_memory, np.result_type}


class Traced(np.ndarray):
    """An array of which a graph that is being captured sees what happens to it."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        graph = _here.graph
        if graph is None:
            inputs, out, settings = _plain((inputs, out, settings))
            return getattr(ufunc, method)(*inputs, **settings | ({} if out is None else {"out": out}))
        return graph.ufunc(ufunc, method, inputs, out, settings)

    def __array_function__(self, function, types, arguments, settings):
        graph = _here.graph
        if graph is None or function in KNOWN_BY_SHAPE:
            arguments, settings = _plain((arguments, settings))
            return function(*arguments, **settings)
        if "out" in settings:
            raise NotCaptured(f"{function.__name__} with out=")
        return graph.pure(function, *arguments, **settings)

    def __getitem__(self, index):
        return _do(operator.getitem, self, index)

    def __setitem__(self, index, value):
        if _here.graph is None:
            operator.setitem(_plain(self), _plain(index), _plain(value))
        else:
            _here.graph.write(operator.setitem, self, index, value)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def fill(self, value):
        self[...] = value


def _do(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    graph = _here.graph
    if graph is None:
        arguments, settings = _plain((arguments, settings))
        return function(*arguments, **settings)
    return graph.pure(function, *arguments, **settings)


def _plain(structure: Any) -> Any:
    """NumPy's own arrays for Traced ones, outside a capture."""
    if isinstance(structure, Traced):
        return structure.view(np.ndarray)
    if isinstance(structure, dict):
        return {name: _plain(part) for name, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)([_plain(part) for part in structure])
    return structure


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)
    return lambda self, *arguments, **settings: _do(function, self, *arguments, **settings)


def _refusal(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def refuse(self, *arguments, **settings):
        if _here.graph is None:
            return function(_plain(self), *_plain(arguments), **settings)
        raise NotCaptured(f"{name} of an array whose values are others in every launch")

    return refuse


# what may copy; NumPy's sum, mean, max, ... are made of ufuncs, and views are Traced by themselves
for _name in ("argmax", "argmin", "argsort", "astype", "choose", "compress", "conj", "conjugate", "copy", "cumprod", "cumsum",
              "diagonal", "dot", "flatten", "ravel", "repeat", "reshape", "round", "searchsorted", "take", "trace"):  # fmt: skip
    setattr(Traced, _name, _method(_name))
for _name in ("__bool__", "__complex__", "__contains__", "__float__", "__index__", "__int__", "byteswap", "dump", "dumps", "item", "nonzero",
              "partition", "put", "resize", "setfield", "sort", "tobytes", "tofile", "tolist"):  # fmt: skip
    setattr(Traced, _name, _refusal(_name))
