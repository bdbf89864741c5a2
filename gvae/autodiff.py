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
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae.checks import FLOATS, caller_name, check_device
from gvae.errors import ConfigError, DTypeError, ShapeError
from gvae.runtime import device
from gvae.runtime.compile import registered, uses_of
from gvae.structures import leaves_beside, leaves_of, mapped

__all__ = ["Var", "gradient", "hessian", "primitive", "stop_gradient", "value_and_gradient", "value_of", "vjp"]


class Var:
    """An array on the tape. `.value` is the array; everything else follows from it.

    Operators (+, *, @, [], comparisons, .sum, .reshape, ...) are attached by `gvae.ops.elementwise` and
    `gvae.ops.arrays`, so that this file stays free of mathematics.
    """

    __slots__ = ("index", "node", "value")
    __array_ufunc__ = None  # `array * var` defers to Var.__rmul__ instead of making an array of objects

    def __init__(self, value: Any, node: Node | None = None, index: int | None = None):
        self.value, self.node, self.index = value, node, index

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
    """The array of a Var, to decide by or to compute with outside the tape; anything else is its own value."""
    return x.value if isinstance(x, Var) else x


class Node:
    """One recorded call: what ran, on what, and what came out. `depth` exceeds that of every parent."""

    __slots__ = ("args", "depth", "parents", "primitive", "saved", "settings", "value")

    def __init__(self, primitive, args, parents, settings, value, saved):
        self.primitive, self.args, self.parents = primitive, args, parents
        self.settings, self.value, self.saved = settings, value, saved
        self.depth = 1 + max([p.node.depth for p in parents if p is not None and p.node is not None], default=0)

    def pull(self, y_bar: Any, needs: tuple[bool, ...], may_overwrite: bool, out: list[Any]) -> tuple:
        """The cotangents of the arguments, by the primitive's rule."""
        primitive = self.primitive
        if primitive.rule is None:
            raise NotImplementedError(f"{primitive.__name__} has no derivative rule")
        settings = {name: x for name, x in self.settings.items() if name != "out"}
        if primitive.saves:
            settings["saved"] = self.saved
        if primitive.out:
            settings["out"] = out
        if primitive.may_overwrite:
            settings["may_overwrite"] = may_overwrite
        return primitive.rule(y_bar, self.value, *self.args, needs=needs, **settings)


class Primitive:
    """A forward function with its vjp. Made by `primitive`."""

    __name__: str

    def __init__(self, forward: Callable, saves: bool, differentiable: bool, contract: str):
        functools.update_wrapper(self, forward)
        self.forward = forward
        self.contract = contract
        self.saves = saves
        self.differentiable = differentiable
        self.rule: Callable | None = None
        self.owned: bool | tuple[bool, ...] = False
        self.out = self.may_overwrite = False

    def vjp(
        self,
        rule: Callable | None = None,
        *,
        owned: bool | tuple[bool, ...] = False,
        out: bool = False,
        may_overwrite: bool = False,
    ) -> Any:
        """Decorator: `rule(y_bar, y, *args, needs, **settings)` is the derivative of this primitive.

        owned : which cotangents that it returns are arrays of their own, which nothing else sees, so that the tape may add
                into them: all, none, or one answer per argument
        out   : the rule takes `out=`, for each argument None or an array into which it writes that cotangent
        may_overwrite : the rule takes `may_overwrite=`: whether nothing else sees y_bar, so that it may write there
        """
        if rule is None:
            return functools.partial(self.vjp, owned=owned, out=out, may_overwrite=may_overwrite)
        self.rule, self.owned, self.out, self.may_overwrite = rule, owned, out, may_overwrite
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
        node = Node(self, values, parents, settings, value, saved)
        if isinstance(value, tuple):
            return tuple([Var(v, node, i) for i, v in enumerate(value)])
        return Var(value, node)


def primitive(
    forward: Callable | None = None,
    *,
    saves: bool = False,
    differentiable: bool = True,
    contract: str = "",
    settings: Mapping[str, Sequence[Any]] | None = None,
) -> Any:
    """Make a primitive of a function on plain arrays.

    saves          : the forward takes `save=`; with save=True it returns (value, saved), and the rule gets `saved=`
    differentiable : False cuts the tape here: no cotangent passes
    contract       : shapes of its arguments, "chol: ... M N, b: ... N". Declared where compiled kernels are launched, which
                     can then be compiled ahead (gvae.runtime.compile): those of each combination of
    settings       : the values of settings on which it depends what is launched
    """
    if forward is None:
        return functools.partial(primitive, saves=saves, differentiable=differentiable, contract=contract, settings=settings)
    made = Primitive(forward, saves, differentiable, contract)
    if contract:
        registered(functools.partial(uses_of, functools.partial(_there_and_back, made), contract, settings or {}))
    return made


def _there_and_back(made: Primitive, *args: Any, **settings: Any) -> Any:
    value, pull = vjp(lambda *lifted: made(*lifted, **settings), *args)
    return pull(value)


@functools.partial(primitive, differentiable=False)
def _stopped(x):
    return x


def stop_gradient(x: Any) -> Any:
    """x itself, as a constant: no derivative passes. Containers are mapped."""
    return mapped(lambda leaf: _stopped(leaf) if isinstance(leaf, Var) else leaf, x)


# ---- the way back --------------------------------------------------------------------------------


def _backward(outputs: list[Var], seeds: list[Any], leaves: list[Var], buffers: list[Any]) -> list[Any]:
    """Cotangents of the leaves, given those of outputs: zeros for a leaf that no output depends on.

    buffers : an array per leaf (or None) into which its cotangent is written, and which is then returned for it
    """
    plan, cotangents = _plan(outputs, leaves), _Cotangents(leaves, buffers)
    for output, seed in zip(outputs, seeds, strict=True):
        cotangents.accumulate(output, seed, owned=False)
    for node, needs in plan:
        y_bar, may_overwrite = cotangents.take(node)
        if y_bar is not None:
            bars = node.pull(y_bar, needs, may_overwrite, cotangents.out(node, needs))
            owned = node.primitive.owned
            for i, (parent, bar) in enumerate(zip(node.parents, bars, strict=True)):
                if needs[i] and bar is not None:
                    cotangents.accumulate(parent, bar, owned if isinstance(owned, bool) else owned[i])
    return [cotangents.of(leaf) for leaf in leaves]


def _plan(outputs: list[Var], leaves: list[Var]) -> list[tuple[Node, tuple[bool, ...]]]:
    """The nodes between outputs and leaves, each before those that it was computed from, and which of its arguments lead to
    a leaf. An outer tape's history, which does not, costs nothing."""
    nodes: dict[int, Node] = {}
    stack = [output.node for output in outputs]
    while stack:
        node = stack.pop()
        if node is not None and id(node) not in nodes:
            nodes[id(node)] = node
            stack += [parent.node for parent in node.parents if parent is not None]
    wanted, plan = {_key(leaf) for leaf in leaves}, []  # keys of leaves, and the nodes that lead to them
    for node in sorted(nodes.values(), key=lambda node: node.depth):
        needs = tuple([p is not None and (_key(p) if p.node is None else p.node) in wanted for p in node.parents])
        if node.primitive.differentiable and any(needs):
            wanted.add(node)
            plan.append((node, needs))
    return plan[::-1]


def _key(var: Var) -> Any:
    """Of a variable: a leaf, or an output of a node."""
    return ("leaf", id(var)) if var.node is None else (id(var.node), var.index)


class _Cotangents:
    """What variables have received so far, by their key."""

    def __init__(self, leaves: list[Var], buffers: list[Any]):
        self.bars: dict[Any, Any] = {}
        self.owned: set[Any] = set()  # keys of what nothing but this tape sees
        self.buffers = {_key(leaf): buffer for leaf, buffer in zip(leaves, buffers, strict=True) if buffer is not None}

    def accumulate(self, var: Var, bar: Any, owned: bool) -> None:
        """Add a cotangent to those of a variable."""
        key = _key(var)
        if bar.shape != var.value.shape:
            name = "output" if var.node is None else var.node.primitive.__name__
            raise ShapeError(f"{name}: its cotangent has shape {bar.shape}, expected {var.value.shape}")
        total, buffer = self.bars.get(key), self.buffers.get(key)
        if total is not None:  # the sum is written into either of them that nothing else sees
            into = None if bar.ndim == 0 else total if key in self.owned else bar if owned else None
            bar, owned = device.apply(np.add, total, bar, out=into), bar.ndim > 0
        elif buffer is not None:
            if bar is not buffer:
                buffer[...] = bar
            bar, owned = buffer, True
        self.bars[key] = bar
        (self.owned.add if owned else self.owned.discard)(key)

    def take(self, node: Node) -> tuple[Any, bool]:
        """The cotangent of a node's result (of several, a list; None: there is none), and whether nothing else sees it."""
        if isinstance(node.value, tuple):
            bars = [self.bars.pop((id(node), i), None) for i in range(len(node.value))]
            return (None if all(bar is None for bar in bars) else bars), False
        key = id(node), None
        return self.bars.pop(key, None), key in self.owned

    def out(self, node: Node, needs: tuple[bool, ...]) -> list[Any]:
        """By argument, the buffer of a leaf that has received nothing yet: the first rule that can writes there."""
        keys = [_key(parent) if need else None for parent, need in zip(node.parents, needs, strict=True)]
        return [
            self.buffers.get(key) if key not in self.bars and key not in keys[:i] else None for i, key in enumerate(keys)
        ]

    def of(self, leaf: Var) -> Any:
        key = _key(leaf)
        bar, buffer = self.bars.get(key), self.buffers.get(key)
        if bar is None:
            buffer = np.empty_like(leaf.value) if buffer is None else buffer
            buffer[...] = 0
        elif buffer is None:
            return bar if key in self.owned else device.copy(bar)  # it may be a view, or stand for several leaves
        elif bar is not buffer:
            buffer[...] = bar
        return buffer


# ---- functions of whole computations -------------------------------------------------------------


def vjp(f: Callable, *args: Any, has_aux: bool = False, out: Any = None) -> tuple:
    """(value, pull): the value of f at the arguments, and pull(cotangent, only=None) -> cotangents of the arguments.

    Arguments may be arrays or dicts, lists and tuples of arrays; cotangents have the same structure, and a single
    argument's cotangent comes without a tuple around it. A value may have structure too; where its cotangent is None,
    nothing is pulled from there. `only`, for a single argument that is a dict, names the entries whose cotangents are
    wanted: the others are neither computed, nor written, nor returned. With has_aux, f returns (value, aux) and so does
    this: (value, pull, aux), aux with arrays for Vars. `out` has the structure of the arguments and receives cotangents.
    """
    leaves: list[Var] = []

    def lift(leaf: Any) -> Var:
        value = leaf.value if isinstance(leaf, Var) else np.asarray(leaf) if isinstance(leaf, (int, float)) else leaf
        if getattr(value, "dtype", None) not in FLOATS:
            kind = getattr(value, "dtype", type(value).__name__)
            raise DTypeError(f"gradient: argument {len(leaves)} is {kind}, expected a float32 or float64 array")
        leaves.append(Var(value))
        return leaves[-1]

    lifted = mapped(lift, args)
    given = [None] * len(leaves) if out is None else leaves_of((out,) if len(args) == 1 else out)
    buffers = {id(leaf): buffer for leaf, buffer in zip(leaves, given, strict=True)}
    result = f(*lifted)
    value, aux = result if has_aux else (result, None)

    def pull(cotangent: Any = None, only: Iterable[str] | None = None) -> Any:
        pairs = leaves_beside(value, cotangent) if cotangent is not None else [(v, None) for v in leaves_of(value)]
        pairs = [pair for pair in pairs if isinstance(pair[0], Var)]
        wanted = lifted if only is None else ({name: lifted[0][name] for name in only},)
        targets = leaves if only is None else leaves_of(wanted)
        seeds = [_seed(var, seed) for var, seed in pairs]
        bars = iter(_backward([var for var, _ in pairs], seeds, targets, [buffers[id(leaf)] for leaf in targets]))
        filled = mapped(lambda leaf: next(bars), wanted)
        return filled[0] if len(filled) == 1 else filled

    return (_plain(value), pull, _plain(aux)) if has_aux else (_plain(value), pull)


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
    if isinstance(seed, np.ndarray) or device.is_cuda(seed):
        check_device(where="vjp", value=var.value, cotangent=seed)
        return seed
    number = var.dtype.type(1 if seed is None else seed)
    return device.namespace(var.value).full((), number) if device.is_cuda(var.value) else number


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


def hessian(f: Callable, x: Any) -> Any:
    """The second derivatives of f at x by central differences of the tape's gradient, which is of first order.

    f : of x (..., n) to (...), each from its own n numbers          x : float64, n <= 64
    Returns (..., n, n), symmetric, from 2 n gradients; the error is about 1e-10 times the size of f's gradient and of its
    fourth derivatives. A tool for small problems. Raises DTypeError, ShapeError.

        H = hessian(lambda z: model_log_prob(z), np.zeros((100, 3)))          # (100, 3, 3)
    """
    x = value_of(x)
    n = x.shape[-1] if getattr(x, "ndim", 0) else 0
    if getattr(x, "dtype", None) != np.float64:
        raise DTypeError(f"hessian: x is {getattr(x, 'dtype', type(x).__name__)}, expected a float64 array")
    if not 1 <= n <= HESSIAN_MOST:
        raise ShapeError(f"hessian: x has shape {x.shape}, expected (..., n) with n from 1 to {HESSIAN_MOST}")
    step = np.maximum(1.0, np.abs(x)) * np.finfo(np.float64).eps ** (1 / 3)
    columns = []
    for j in range(n):
        move = np.zeros(n)
        move[j] = 1.0
        above, below = x + step * move, x - step * move
        difference = gradient(lambda z: f(z).sum(), above) - gradient(lambda z: f(z).sum(), below)
        columns.append(difference / (above - below)[..., j : j + 1])  # the distance as it was rounded
    H = np.stack(columns, axis=-1)
    return 0.5 * (H + H.swapaxes(-1, -2))


HESSIAN_MOST = 64


def _plain(structure: Any) -> Any:
    return mapped(lambda leaf: leaf.value if isinstance(leaf, Var) else leaf, structure)


def __getattr__(name: str) -> Any:
    if name == "Recording":
        from gvae._moved import Recording

        warnings.warn("autodiff.Recording goes with the next release: use autodiff.vjp", DeprecationWarning, stacklevel=2)
        return Recording
    raise AttributeError(f"module 'gvae.autodiff' has no attribute {name!r}")


# The one deliberate upward import: these modules attach Var's operators, so that `Var` alone is complete.
import gvae.ops.arrays  # noqa: E402
import gvae.ops.dense  # noqa: E402
import gvae.ops.elementwise  # noqa: E402, F401
