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
from collections.abc import Callable, Iterable
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
        self.depth = 1
        for parent in parents:
            if parent is not None and parent.node is not None and parent.node.depth >= self.depth:
                self.depth = parent.node.depth + 1

    def run(self) -> None:
        """Once more, for the values that the parents have now."""
        primitive, args = self.primitive, self.args
        for i, parent in enumerate(self.parents):
            if parent is not None:
                args[i] = parent.value
        if primitive.saves:
            self.value, self.saved = primitive.forward(*args, save=True, **self.settings)
        else:
            self.value = primitive.forward(*args, **self.settings)
        for output in self.outputs:
            output.value = self.value if output.index is None else self.value[output.index]

    def release(self) -> None:
        """Let go of all arrays that the parents bring again, and of the result."""
        for i, parent in enumerate(self.parents):
            if parent is not None:
                self.args[i] = None
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
        self.fresh: bool | tuple[bool, ...] = False
        self.into = self.mine = False

    def vjp(
        self,
        rule: Callable | None = None,
        *,
        fresh: bool | tuple[bool, ...] = False,
        into: bool = False,
        mine: bool = False,
    ) -> Any:
        """Decorator: `rule(y_bar, y, *args, needs, **settings)` is the derivative of this primitive.

        fresh : which cotangents that it returns are arrays of their own, which nothing else sees, so that the tape may add
                into them: all, none, or one answer per argument
        into  : the rule takes `into=`, for each argument None or an array into which it writes that cotangent
        mine  : the rule takes `mine=`: whether nothing else sees y_bar, so that it may write there
        """
        if rule is None:
            return functools.partial(self.vjp, fresh=fresh, into=into, mine=mine)
        self.rule, self.fresh, self.into, self.mine = rule, fresh, into, mine
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
        outputs = tuple([Var(v, node, i) for i, v in enumerate(value)]) if several else (Var(value, node),)
        nodes = getattr(_thread, "nodes", None)
        if nodes is not None:
            node.outputs = outputs
            nodes.append(node)
        return outputs if several else outputs[0]


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
    return mapped(lambda leaf: _stopped(leaf) if isinstance(leaf, Var) else leaf, x)


# (leaf, visit, output), where a cotangent is collected: a leaf, or an output (None: the only one) of a node that is visited
_Place = tuple[int | None, int | None, int | None]


class _Visit:
    """A node on the way back: how its rule is called, and where the cotangents of its arguments go."""

    __slots__ = ("gifts", "into", "needs", "node", "settings")

    def __init__(self, node: _Node, places: list[_Place | None]):
        self.node, self.needs = node, tuple([place is not None for place in places])
        self.settings = {name: x for name, x in node.settings.items() if name != "out"}
        fresh = node.primitive.fresh
        self.gifts = [  # (position among the arguments, variable, its place, whether the rule makes an array of its own)
            (i, node.parents[i], place, fresh[i] if isinstance(fresh, tuple) else fresh)
            for i, place in enumerate(places)
            if place is not None
        ]
        self.into = [place[0] if place else None for place in places] if node.primitive.into else []

    def pull(self, y_bar: Any, mine: bool, offers: list[Any]) -> tuple:
        """The cotangents of the node's arguments. mine: whether nothing else sees y_bar. offers: by leaf, an array into
        which the first rule that can may write."""
        node, primitive, settings = self.node, self.node.primitive, self.settings
        if primitive.rule is None:
            raise NotImplementedError(f"{primitive.__name__} has no derivative rule")
        if primitive.saves:
            settings = settings | {"saved": node.saved}
        if primitive.into:
            into = [None] * len(self.into)
            for i, leaf in enumerate(self.into):
                if leaf is not None:
                    into[i], offers[leaf] = offers[leaf], None
            settings = settings | {"into": into}
        if primitive.mine:
            settings = settings | {"mine": mine}
        return primitive.rule(y_bar, node.value, *node.args, needs=self.needs, **settings)


class _Plan:
    """The way back from outputs to leaves: which nodes are visited, the last one first, and what is wanted of each."""

    def __init__(self, outputs: list[Var], leaves: list[Var]):
        self.leaves, self.leaf_at = leaves, {id(leaf): i for i, leaf in enumerate(leaves)}
        # Only nodes that lead to a requested leaf are visited: an outer tape's history costs nothing here.
        nodes: dict[int, _Node] = {}
        stack = [out.node for out in outputs if out.node is not None]
        while stack:
            node = stack.pop()
            if id(node) not in nodes:
                nodes[id(node)] = node
                stack += [p.node for p in node.parents if p is not None and p.node is not None]
        self.visit_at: dict[int, int] = {}
        self.visits: list[_Visit] = []
        for node in sorted(nodes.values(), key=lambda node: node.depth):
            places = [None if p is None else self._place(p) for p in node.parents]
            if node.primitive.differentiable and any(places):
                self.visit_at[id(node)] = len(self.visits)
                self.visits.append(_Visit(node, places))
        self.starts = [(out, self._place(out)) for out in outputs]

    def _place(self, var: Var) -> _Place | None:
        """None if nothing is wanted of the variable."""
        leaf, visit = self.leaf_at.get(id(var)), self.visit_at.get(id(var.node))
        return None if leaf is None and visit is None else (leaf, visit, var.index)


def _backward(plan: _Plan, seeds: list[Any], buffers: list[Any]) -> list[Any]:
    """Cotangents of the plan's leaves, given those of its outputs: zeros for a leaf that no output depends on.

    buffers: an array per leaf (or None) into which its cotangent is written, and which is then returned for it.
    """
    found: list[Any] = [None] * len(buffers)
    owned = [False] * len(buffers)
    offers = list(buffers)
    cotangents: list[Any] = [None] * len(plan.visits)
    mine = [False] * len(plan.visits)  # whether nothing but this tape sees the cotangent

    def give(var: Var, place: _Place, bar: Any, fresh: bool) -> None:
        """Add a cotangent to what a variable has received so far."""
        if bar.shape != var.value.shape:
            name = "output" if var.node is None else var.node.primitive.__name__
            raise ShapeError(f"{name}: its cotangent has shape {bar.shape}, expected {var.value.shape}")
        leaf, visit, output = place
        if leaf is not None:
            offers[leaf] = None
            if found[leaf] is not None:
                found[leaf], owned[leaf] = _sum(found[leaf], owned[leaf], bar, fresh), bar.ndim > 0
            elif buffers[leaf] is None:
                found[leaf], owned[leaf] = bar, fresh
            else:
                if bar is not buffers[leaf]:
                    buffers[leaf][...] = bar
                found[leaf], owned[leaf] = buffers[leaf], True
            return
        assert visit is not None
        if output is not None:
            if cotangents[visit] is None:
                cotangents[visit] = [None] * len(plan.visits[visit].node.value)
            slots = cotangents[visit]
            slots[output] = bar if slots[output] is None else slots[output] + bar
        elif cotangents[visit] is None:
            cotangents[visit], mine[visit] = bar, fresh
        else:
            cotangents[visit], mine[visit] = _sum(cotangents[visit], mine[visit], bar, fresh), bar.ndim > 0

    for (out, place), bar in zip(plan.starts, seeds, strict=True):
        if place is not None:
            give(out, place, bar, fresh=False)
    for i in range(len(plan.visits) - 1, -1, -1):
        visit, y_bar = plan.visits[i], cotangents[i]
        if y_bar is None:
            continue
        cotangents[i] = None
        bars = visit.pull(y_bar, mine[i], offers)
        for position, var, place, fresh in visit.gifts:
            if bars[position] is not None:
                give(var, place, bars[position], fresh)
    for i, bar in enumerate(found):
        if bar is None:
            found[i] = np.empty_like(plan.leaves[i].value) if buffers[i] is None else buffers[i]
            found[i][...] = 0
        elif not owned[i]:  # it may be a view of something else, or stand for several leaves
            found[i] = dispatch.copy(bar)
    return found


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
        self.lifted = mapped(self._lift, args)
        self.inputs = mapped(Var, inputs)
        buffers = [None] * len(self.leaves) if out is None else leaves_of((out,) if len(args) == 1 else out)
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
        for var, value in zip(itertools.chain(self.leaves, leaves_of(self.inputs)), leaves_of((args, inputs)), strict=True):
            var.value = value
        for node in self.nodes:
            node.run()
        return self.first

    def release(self) -> None:
        """Let go of the values until the next replay; `pull` is of no use until then."""
        for node in self.nodes:
            node.release()
        for var in leaves_of(self.inputs):
            var.value = None

    def _lift(self, leaf: Any) -> Var:
        value = leaf.value if isinstance(leaf, Var) else np.asarray(leaf) if isinstance(leaf, (int, float)) else leaf
        if getattr(value, "dtype", None) not in FLOATS:
            kind = getattr(value, "dtype", type(value).__name__)
            raise DTypeError(f"gradient: argument {len(self.leaves)} is {kind}, expected a float32 or float64 array")
        self.leaves.append(Var(value))
        return self.leaves[-1]

    def _pull(self, cotangent: Any = None, only: Iterable[str] | None = None) -> Any:
        pairs = (
            _leaves_beside(self.value, cotangent) if cotangent is not None else [(v, None) for v in leaves_of(self.value)]
        )
        pairs = [pair for pair in pairs if isinstance(pair[0], Var)]
        key = (tuple([id(var) for var, _ in pairs]), None if only is None else tuple(only))
        way = self.ways.get(key)
        if way is None:
            wanted = self.lifted if only is None else ({name: self.lifted[0][name] for name in only},)
            leaves = self.leaves if only is None else leaves_of(wanted)
            plan = _Plan([var for var, _ in pairs], leaves)
            way = self.ways[key] = _Way(plan, wanted, [self.buffers[id(leaf)] for leaf in leaves])
        bars = iter(_backward(way.plan, [_seed(var, seed) for var, seed in pairs], way.buffers))
        filled = mapped(lambda leaf: next(bars), way.wanted)
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
    if type(seed) is np.ndarray is type(var.value):
        return seed
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


_ARRAYS = (np.ndarray, Var)  # what most leaves are: known at once


def mapped(f: Callable, structure: Any) -> Any:
    """Apply f to each leaf of nested dicts, lists and tuples; None stays None."""
    if structure is None or isinstance(structure, _ARRAYS):
        return None if structure is None else f(structure)
    if isinstance(structure, dict):
        return {k: f(v) if isinstance(v, _ARRAYS) else mapped(f, v) for k, v in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)([f(v) if isinstance(v, _ARRAYS) else mapped(f, v) for v in structure])
    return f(structure)


def leaves_of(structure: Any) -> list[Any]:
    if structure is None:
        return []
    if not isinstance(structure, (dict, list, tuple)):
        return [structure]
    found = []
    for part in structure.values() if isinstance(structure, dict) else structure:
        if isinstance(part, _ARRAYS):
            found.append(part)
        else:
            found += leaves_of(part)
    return found


def _leaves_beside(structure: Any, other: Any) -> list[tuple[Any, Any]]:
    """(leaf, its counterpart in another structure of the same form), without those whose counterpart is None."""
    if other is None or structure is None:
        return []
    if isinstance(structure, _ARRAYS) or not isinstance(structure, (dict, list, tuple)):
        return [(structure, other)]
    keys = structure.keys() if isinstance(structure, dict) else range(len(structure))
    return [pair for key in keys for pair in _leaves_beside(structure[key], other[key])]


def _plain(structure: Any) -> Any:
    return mapped(lambda leaf: leaf.value if isinstance(leaf, Var) else leaf, structure)


# The one deliberate upward import: these modules attach Var's operators, so that `Var` alone is complete.
import gvae.ops.arrays  # noqa: E402
import gvae.ops.dense  # noqa: E402
import gvae.ops.elementwise  # noqa: E402, F401
