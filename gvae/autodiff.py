"""The tape: reverse-mode differentiation of first order. It knows no mathematics and no device.

A primitive is a forward function on plain arrays, with its rule below it:

    @primitive
    def multiply(x, y):
        return x * y

    @multiply.vjp
    def _(z_bar, z, x, y, *, needs):
        return z_bar * y, z_bar * x

Arrays are positional, settings are keywords. Called with plain arrays, a primitive returns plain arrays and records
nothing; called with at least one `Var`, it returns a `Var`. A rule receives the cotangent of the result, the result, the
arguments and the settings; it returns one cotangent per positional argument (None where `needs` says it is not wanted or
where there is none) and never adds into anything: only the tape adds.

Nodes hold their parents; there is no global stack, so nothing needs zeroing and threads do not meet. Differentiation is
of first order: `gradient` may run inside a function that is itself being differentiated, and what it returns is data.

A call is a list of nodes, so it can be had again for other arrays of the same shapes without running the function:
`Recording` keeps the list, and the plan of the way back, and `replay` walks along them.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gvae import dispatch
from gvae.checks import FLOATS, caller_name, check_device
from gvae.errors import ConfigError, DTypeError, ShapeError

__all__ = ["Recording", "Var", "gradient", "primitive", "stop_gradient", "value_and_gradient", "value_of", "vjp"]


_thread = threading.local()  # .nodes: the list of the recording that this thread makes, if it makes one


class Var:
    """An array on the tape. `.value` is the array; everything else follows from it.

    Operators (+, *, @, [], comparisons, .sum, .reshape, ...) are attached by `gvae.ops.elementwise` and
    `gvae.ops.arrays`, so that this file stays free of mathematics.
    """

    __slots__ = ("index", "node", "value")
    __array_ufunc__ = None  # `array * var` defers to Var.__rmul__ instead of making an array of objects

    def __init__(self, value: Any, node: _Node | None = None, index: int | None = None):
        self.value = value
        self.node = node
        self.index = index

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def size(self) -> int:
        return self.value.size

    def __len__(self) -> int:
        return len(self.value)

    def __float__(self) -> float:
        return float(value_of(self))

    def __bool__(self) -> bool:
        return bool(value_of(self))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a Var is not an array: use gvae.ops on it, or .value for its array outside differentiation")

    def __repr__(self) -> str:
        return f"Var({self.value!r})"

    __hash__ = None  # type: ignore[assignment]  # == compares elements, as for arrays

    if TYPE_CHECKING:  # what gvae.ops attaches

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any) -> Any: ...
        def __radd__(self, other: Any) -> Any: ...
        def __sub__(self, other: Any) -> Any: ...
        def __rsub__(self, other: Any) -> Any: ...
        def __mul__(self, other: Any) -> Any: ...
        def __rmul__(self, other: Any) -> Any: ...
        def __truediv__(self, other: Any) -> Any: ...
        def __rtruediv__(self, other: Any) -> Any: ...
        def __pow__(self, other: Any) -> Any: ...
        def __matmul__(self, other: Any) -> Any: ...
        def __rmatmul__(self, other: Any) -> Any: ...
        def __neg__(self) -> Any: ...
        def __getitem__(self, index: Any) -> Any: ...


def value_of(x: Any) -> Any:
    """The array of a Var, to decide by or to compute with outside the tape; anything else is its own value.

    Raises TypeError while a recording is made: what is decided or computed now would stay as it is in every replay.
    """
    if not isinstance(x, Var):
        return x
    if getattr(_thread, "nodes", None) is not None:
        raise TypeError("a function that is being recorded asks for the value of a Var, which is another in every replay")
    return x.value


class _Node:
    """One recorded call: what ran, on what, and what came out. `depth` exceeds that of every parent."""

    __slots__ = ("args", "depth", "outputs", "parents", "primitive", "saved", "settings", "value")

    def __init__(self, primitive, args, parents, settings, value, saved):
        self.primitive = primitive
        self.args = args
        self.parents = parents
        self.settings = settings
        self.value = value
        self.saved = saved
        self.outputs: tuple[Var, ...] = ()  # in a recording: what stands for the value
        self.depth = 1 + max((p.node.depth for p in parents if p is not None and p.node is not None), default=0)

    def run(self) -> None:
        """Once more, for the values that the parents have now."""
        primitive = self.primitive
        self.args = [a if p is None else p.value for a, p in zip(self.args, self.parents, strict=True)]
        if primitive.saves:
            self.value, self.saved = primitive.forward(*self.args, save=True, **self.settings)
        else:
            self.value = primitive.forward(*self.args, **self.settings)
        for output in self.outputs:
            output.value = self.value if output.index is None else self.value[output.index]

    def release(self) -> None:
        """Let go of all arrays that the parents bring again, and of the result."""
        self.args = [a if p is None else None for a, p in zip(self.args, self.parents, strict=True)]
        self.value = self.saved = None
        for output in self.outputs:
            output.value = None


class Primitive:
    """A forward function with its vjp. Made by `primitive`."""

    __name__: str

    def __init__(self, forward: Callable, saves: bool, differentiable: bool):
        functools.update_wrapper(self, forward)
        self.forward = forward
        self.saves = saves
        self.differentiable = differentiable
        self.rule: Callable | None = None
        self.fresh: Iterable[bool] = ()
        self.into = False

    def vjp(self, rule: Callable | None = None, *, fresh: bool | tuple[bool, ...] = False, into: bool = False) -> Any:
        """Decorator: `rule(y_bar, y, *args, needs, **settings)` is the derivative of this primitive.

        fresh : which cotangents that it returns are arrays of their own, which nothing else sees, so that the tape may add
                into them: all, none, or one answer per argument
        into  : the rule takes `into=`, for each argument None or an array into which it writes that cotangent
        """
        if rule is None:
            return functools.partial(self.vjp, fresh=fresh, into=into)
        self.rule, self.fresh, self.into = rule, fresh if isinstance(fresh, tuple) else itertools.repeat(fresh), into
        return rule

    def __call__(self, *args: Any, **settings: Any) -> Any:
        for arg in args:
            if isinstance(arg, Var):
                return self._record(args, settings)
        return self.forward(*args, **settings)

    def _record(self, args, settings):
        if settings.get("out") is not None:
            raise ConfigError(f"{caller_name(self.__name__)}: out= cannot be combined with a Var: the tape owns its results")
        parents = [a if isinstance(a, Var) else None for a in args]
        values = [a.value if isinstance(a, Var) else a for a in args]
        if self.saves:
            value, saved = self.forward(*values, save=True, **settings)
        else:
            value, saved = self.forward(*values, **settings), None
        node = _Node(self, values, parents, settings, value, saved)
        several = isinstance(value, tuple)
        outputs = tuple(Var(v, node, i) for i, v in enumerate(value)) if several else (Var(value, node),)
        nodes = getattr(_thread, "nodes", None)
        if nodes is not None:
            node.outputs = outputs
            nodes.append(node)
        return outputs if several else outputs[0]

    def pull(self, node: _Node, y_bar: Any, needs: tuple[bool, ...], buffer: Callable[[Var], Any]) -> tuple:
        """The cotangents of a node's arguments; buffer(argument) is where the caller would like one to be written."""
        if self.rule is None:
            raise NotImplementedError(f"{self.__name__} has no derivative rule")
        settings = {k: v for k, v in node.settings.items() if k != "out"}
        if self.saves:
            settings["saved"] = node.saved
        if self.into:
            settings["into"] = tuple(buffer(p) if need else None for p, need in zip(node.parents, needs, strict=True))
        return self.rule(y_bar, node.value, *node.args, needs=needs, **settings)


def primitive(forward: Callable | None = None, *, saves: bool = False, differentiable: bool = True) -> Any:
    """Make a primitive of a function on plain arrays.

    saves          : the forward takes `save=`; with save=True it returns (value, saved), and the rule gets `saved=`
    differentiable : False cuts the tape here: no cotangent passes
    """
    if forward is None:
        return lambda f: Primitive(f, saves, differentiable)
    return Primitive(forward, saves, differentiable)


@functools.partial(primitive, differentiable=False)
def _stopped(x):
    return x


def stop_gradient(x: Any) -> Any:
    """x itself, as a constant: no derivative passes. Containers are mapped."""
    return _map(lambda leaf: _stopped(leaf) if isinstance(leaf, Var) else leaf, x)


class _Plan:
    """The way back from outputs to leaves: which nodes are visited, in which order, and what is wanted of each."""

    def __init__(self, outputs: list[Var], leaves: list[Var]):
        self.leaf_at = {id(leaf): i for i, leaf in enumerate(leaves)}
        # Only nodes that lead to a requested leaf are visited: an outer tape's history costs nothing here.
        nodes: dict[int, _Node] = {}
        stack = [out.node for out in outputs if out.node is not None]
        while stack:
            node = stack.pop()
            if id(node) not in nodes:
                nodes[id(node)] = node
                stack.extend(p.node for p in node.parents if p is not None and p.node is not None)
        self.leads: set[int] = set()
        self.visits: list[tuple[_Node, tuple[bool, ...]]] = []
        for node in sorted(nodes.values(), key=lambda node: node.depth):
            needs = tuple(self._wanted(p) for p in node.parents)
            if node.primitive.differentiable and any(needs):
                self.leads.add(id(node))
                self.visits.append((node, needs))
        self.visits.reverse()

    def _wanted(self, parent: Var | None) -> bool:
        return parent is not None and (
            id(parent) in self.leaf_at or (parent.node is not None and id(parent.node) in self.leads)
        )


def _backward(plan: _Plan, outputs: list[tuple[Var, Any]], buffers: list[Any]) -> list[Any]:
    """Cotangents of the plan's leaves, given (output, cotangent) pairs; None for a leaf that no output depends on.

    buffers: an array per leaf (or None) into which its cotangent is written, and which is then returned for it.
    """
    leaf_at, leads = plan.leaf_at, plan.leads
    found: list[Any] = [None] * len(leaf_at)
    owned = [False] * len(leaf_at)
    cotangents: dict[int, Any] = {}
    mine: set[int] = set()  # nodes whose cotangent nothing but this tape sees

    offered: set[int] = set()

    def buffer(var: Var) -> Any:
        """The caller's buffer for a leaf, to the first rule that asks for it: what comes later is added."""
        i = leaf_at.get(id(var))
        if i is None or i in offered or found[i] is not None:
            return None
        offered.add(i)
        return buffers[i]

    def give(var: Var, bar: Any, fresh: bool) -> None:
        """Add a cotangent to what a variable has received so far."""
        if bar.shape != var.value.shape:
            name = "output" if var.node is None else var.node.primitive.__name__
            raise ShapeError(f"{name}: its cotangent has shape {bar.shape}, expected {var.value.shape}")
        i = leaf_at.get(id(var))
        if i is not None:
            if found[i] is None:
                if buffers[i] is not None:
                    if bar is not buffers[i]:
                        buffers[i][...] = bar
                    found[i], owned[i] = buffers[i], True
                else:
                    found[i], owned[i] = bar, fresh
            else:
                found[i], owned[i] = _sum(found[i], owned[i], bar, fresh), bar.ndim > 0
        elif var.node is not None and id(var.node) in leads:
            key = id(var.node)
            if var.index is None:
                if key in cotangents:
                    bar, fresh = _sum(cotangents[key], key in mine, bar, fresh), bar.ndim > 0
                cotangents[key] = bar
                if fresh:
                    mine.add(key)
            else:
                slots = cotangents.setdefault(key, [None] * len(var.node.value))
                slots[var.index] = bar if slots[var.index] is None else slots[var.index] + bar

    for out, bar in outputs:
        give(out, bar, fresh=False)
    for node, needs in plan.visits:
        y_bar = cotangents.pop(id(node), None)
        if y_bar is None:
            continue
        bars = node.primitive.pull(node, y_bar, needs, buffer)
        for parent, need, bar, fresh in zip(node.parents, needs, bars, node.primitive.fresh, strict=False):
            if need and bar is not None:
                give(parent, bar, fresh)
    # what the tape has not summed itself may be a view of something else, or stand for several leaves
    return [bar if bar is None or own else dispatch.copy(bar) for bar, own in zip(found, owned, strict=True)]


def _sum(total: Any, mine: bool, bar: Any, fresh: bool) -> Any:
    """total + bar, written into either of them that nothing else sees."""
    into = None if bar.ndim == 0 else total if mine else bar if fresh else None
    return dispatch.apply(np.add, total, bar, out=into)


def vjp(f: Callable, *args: Any, has_aux: bool = False, out: Any = None) -> tuple:
    """(value, pull): the value of f at the arguments, and pull(cotangent, only=None) -> cotangents of the arguments.

    Arguments may be arrays or dicts, lists and tuples of arrays; cotangents have the same structure, and a single
    argument's cotangent comes without a tuple around it. A value may have structure too; where its cotangent is None,
    nothing is pulled from there. `only`, for a single argument that is a dict, names the entries whose cotangents are
    wanted: the others are neither computed, nor written, nor returned. With has_aux, f returns (value, aux) and so does
    this: (value, pull, aux), aux with arrays for Vars. `out` has the structure of the arguments and receives cotangents.
    """
    return Recording(f, *args, has_aux=has_aux, out=out, replayable=False).first


class Recording:
    """A call of f as `vjp` makes it, `first`, and with the same list of nodes for other values, `replay`.

    args   : what is differentiated; structures of floating arrays          inputs : a structure of arrays that is not
    f is called with the arguments and, if there are any, the inputs. It is recorded with Vars for both, so that whatever it
    computes from them goes through primitives; it cannot decide by their values. What else it computes, or finds outside,
    stays as it is. Both raise TypeError or whatever f raises.
    """

    def __init__(
        self,
        f: Callable,
        *args: Any,
        inputs: Any = None,
        has_aux: bool = False,
        out: Any = None,
        replayable: bool = True,
    ):
        self.leaves: list[Var] = []
        self.nodes: list[_Node] = []
        self.lifted = _map(self._lift, args)
        self.inputs = _map(Var, inputs)
        buffers = [None] * len(self.leaves) if out is None else _leaves((out,) if len(args) == 1 else out)
        self.buffers = dict(zip(map(id, self.leaves), buffers, strict=True))
        self.has_aux = has_aux
        before, _thread.nodes = getattr(_thread, "nodes", None), self.nodes if replayable else None
        try:
            result = f(*self.lifted) if inputs is None else f(*self.lifted, self.inputs)
        finally:
            _thread.nodes = before
        self.ways: dict[Any, _Way] = {}
        self.value: Any
        self.aux: Any
        self.value, self.aux = result if has_aux else (result, None)

    @property
    def first(self) -> tuple:
        """What `vjp` returns."""
        value = _plain(self.value)
        return (value, self._pull, _plain(self.aux)) if self.has_aux else (value, self._pull)

    def replay(self, *args: Any, inputs: Any = None) -> tuple:
        """What `vjp` returns, for arrays of the shapes and dtypes of the recorded ones, with the same bits as if f ran."""
        for var, value in zip(itertools.chain(self.leaves, _leaves(self.inputs)), _leaves((args, inputs)), strict=True):
            var.value = value
        for node in self.nodes:
            node.run()
        return self.first

    def release(self) -> None:
        """Let go of the values until the next replay; `pull` is of no use until then."""
        for node in self.nodes:
            node.release()
        for var in _leaves(self.inputs):
            var.value = None

    def _lift(self, leaf: Any) -> Var:
        value = leaf.value if isinstance(leaf, Var) else np.asarray(leaf) if isinstance(leaf, (int, float)) else leaf
        if getattr(value, "dtype", None) not in FLOATS:
            kind = getattr(value, "dtype", type(value).__name__)
            raise DTypeError(f"gradient: argument {len(self.leaves)} is {kind}, expected a float32 or float64 array")
        self.leaves.append(Var(value))
        return self.leaves[-1]

    def _pull(self, cotangent: Any = None, only: Iterable[str] | None = None) -> Any:
        pairs = _leaves_beside(self.value, cotangent) if cotangent is not None else ((v, None) for v in _leaves(self.value))
        outputs = [(var, _seed(var, seed)) for var, seed in pairs if isinstance(var, Var)]
        key = (tuple(id(var) for var, _ in outputs), None if only is None else tuple(only))
        if key not in self.ways:
            wanted = self.lifted if only is None else ({name: self.lifted[0][name] for name in only},)
            leaves = list(_leaves(wanted))
            plan = _Plan([var for var, _ in outputs], leaves)
            self.ways[key] = _Way(plan, wanted, [self.buffers[id(leaf)] for leaf in leaves])
        way = self.ways[key]
        bars = iter(zip(_backward(way.plan, outputs, way.buffers), way.buffers, strict=True))

        def fill(leaf: Var) -> Any:
            bar, buffer = next(bars)
            if bar is None and buffer is not None:
                buffer[...] = 0
            return bar if bar is not None else buffer if buffer is not None else np.zeros_like(leaf.value)

        filled = _map(fill, way.wanted)
        return filled[0] if len(filled) == 1 else filled


class _Way(NamedTuple):
    """What a pull from certain outputs to certain leaves needs."""

    plan: _Plan
    wanted: tuple  # the leaves, in the structure of the arguments
    buffers: list[Any]  # where their cotangents go, or None


def _seed(var: Var, seed: Any) -> Any:
    """The cotangent of an output: an array, or 1 or another number for a scalar, where the output lives."""
    if seed is None and var.shape != ():
        raise ShapeError(
            f"gradient: the function returned shape {var.shape}, expected a scalar; "
            "for anything else use vjp and give its pull a cotangent of that shape"
        )
    if getattr(seed, "shape", ()) != var.shape:
        raise ShapeError(f"vjp: cotangent has shape {getattr(seed, 'shape', ())}, expected {var.shape} as the value")
    if isinstance(seed, np.ndarray) or dispatch.is_cuda(seed):
        check_device(where="vjp", value=var.value, cotangent=seed)
        return seed
    number = var.dtype.type(1 if seed is None else seed)
    return dispatch.namespace(var.value).full((), number) if dispatch.is_cuda(var.value) else number


def value_and_gradient(f: Callable, *args: Any, has_aux: bool = False, out: Any = None) -> tuple:
    """(value, gradient) of a scalar function; with has_aux, ((value, aux), gradient). Structure as in `vjp`."""
    if has_aux:
        value, pull, aux = vjp(f, *args, has_aux=True, out=out)
        return (value, aux), pull()
    value, pull = vjp(f, *args, out=out)
    return value, pull()


def gradient(f: Callable, *args: Any, has_aux: bool = False, out: Any = None) -> Any:
    """The gradient of a scalar function at the arguments: one array (or structure), or a tuple of them for several."""
    result, grad = value_and_gradient(f, *args, has_aux=has_aux, out=out)
    return (grad, result[1]) if has_aux else grad


def _map(f: Callable, structure: Any) -> Any:
    """Apply f to each leaf of nested dicts, lists and tuples; None stays None."""
    if isinstance(structure, dict):
        return {k: _map(f, v) for k, v in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(_map(f, v) for v in structure)
    return None if structure is None else f(structure)


def _leaves(structure: Any) -> Iterator[Any]:
    if isinstance(structure, dict):
        for v in structure.values():
            yield from _leaves(v)
    elif isinstance(structure, (list, tuple)):
        for v in structure:
            yield from _leaves(v)
    elif structure is not None:
        yield structure


def _leaves_beside(structure: Any, other: Any) -> Iterator[tuple[Any, Any]]:
    """(leaf, its counterpart in another structure of the same form), without those whose counterpart is None."""
    if other is None or structure is None:
        return
    if isinstance(structure, (dict, list, tuple)):
        keys = structure.keys() if isinstance(structure, dict) else range(len(structure))
        for key in keys:
            yield from _leaves_beside(structure[key], other[key])
    else:
        yield structure, other


def _plain(structure: Any) -> Any:
    return _map(lambda leaf: leaf.value if isinstance(leaf, Var) else leaf, structure)


# The one deliberate upward import: these modules attach Var's operators, so that `Var` alone is complete.
import gvae.ops.arrays  # noqa: E402
import gvae.ops.dense  # noqa: E402
import gvae.ops.elementwise  # noqa: E402, F401
