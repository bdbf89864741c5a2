"""The tape: reverse-mode differentiation of first order. It contains no mathematics and no device code.

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
where there is none) and never accumulates into an array: only the tape adds.

Nodes hold their parents; there is no global stack, so nothing needs zeroing and threads are independent. Differentiation
is of first order: `gradient` may run inside a function that is itself being differentiated, and what it returns is data.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae.checks import FLOATS, caller_name, check_device, check_out
from gvae.errors import ConfigError, DTypeError, ShapeError
from gvae.runtime import device
from gvae.runtime.compile import registered, uses_of
from gvae.structures import leaves_beside, leaves_of, mapped
from gvae.typing import Array, Cotangents, Needs

__all__ = ["Var", "gradient", "hessian", "primitive", "stop_gradient", "value_and_gradient", "value_of", "vjp"]


class Var:
    """An array on the tape, whose operations are recorded for differentiation.

    Operators (+, *, @, [], comparisons, .sum, .reshape, ...) are attached by `gvae.ops.elementwise`, `gvae.ops.arrays` and
    `gvae.ops.dense`, so that this module contains no mathematics. Comparisons return arrays of booleans.

    Parameters
    ----------
    value : array
    node : Node, optional
        The recorded call that computed the array; None for a variable of differentiation.
    index : int, optional
        Which result of the call, if it has several.

    Attributes
    ----------
    value : array
        The array; shape, dtype, ndim and size are its own.

    Examples
    --------
    >>> x = gvae.Var(np.array([1.0, 2.0]))
    >>> 2 * x + 1
    Var(array([3., 5.]))
    >>> (2 * x + 1).value
    array([3., 5.])
    >>> x > 1.5
    array([False,  True])
    """

    __slots__ = ("index", "node", "value")
    __array_ufunc__ = None  # `array * var` defers to Var.__rmul__ instead of making an array of objects

    def __init__(self, value: Array, node: Node | None = None, index: int | None = None):
        self.value, self.node, self.index = value, node, index

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array.

        Examples
        --------
        >>> gvae.Var(np.zeros((2, 3))).shape
        (2, 3)
        """
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the array.

        Examples
        --------
        >>> gvae.Var(np.zeros(3, np.float32)).dtype
        dtype('float32')
        """
        return self.value.dtype

    @property
    def ndim(self) -> int:
        """The number of axes of the array.

        Examples
        --------
        >>> gvae.Var(np.zeros((2, 3))).ndim
        2
        """
        return self.value.ndim

    @property
    def size(self) -> int:
        """The number of elements of the array.

        Examples
        --------
        >>> gvae.Var(np.zeros((2, 3))).size
        6
        """
        return self.value.size

    def __len__(self) -> int:
        return len(self.value)

    def __float__(self) -> float:
        raise TypeError("a Var is not a number: use gvae.ops on it, or .value for its array outside differentiation")

    def __bool__(self) -> bool:
        return bool(value_of(self))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a Var is not an array: use gvae.ops on it, or .value for its array outside differentiation")

    def __repr__(self) -> str:
        return f"Var({self.value!r})"

    __hash__ = None  # type: ignore[assignment]  # == compares elements, as for arrays

    if TYPE_CHECKING:  # attached by gvae.ops

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
    """The array of a Var, for decisions and computations that are not differentiated.

    Parameters
    ----------
    x : Var or object

    Returns
    -------
    array or object
        x itself if it is not a Var.

    Examples
    --------
    >>> from gvae.autodiff import value_of
    >>> value_of(gvae.Var(np.array([1.0, 2.0]))), value_of(3.0)
    (array([1., 2.]), 3.0)
    """
    return x.value if isinstance(x, Var) else x


class Node:
    """One recorded call: the primitive, its arguments and its result. `depth` exceeds that of every parent."""

    __slots__ = ("args", "depth", "parents", "primitive", "saved", "settings", "value")

    def __init__(
        self,
        primitive: Primitive,
        args: list[Any],
        parents: list[Any],  # a Var for each argument that is one, else None
        settings: dict[str, Any],
        value: Any,
        saved: Any,
    ):
        self.primitive, self.args, self.parents = primitive, args, parents
        self.settings, self.value, self.saved = settings, value, saved
        self.depth: int = 1 + max([p.node.depth for p in parents if p is not None and p.node is not None], default=0)

    def pull(self, y_bar: Any, needs: Needs, may_overwrite: bool, out: list[Any]) -> Cotangents:
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
        """Decorator: set `rule(y_bar, y, *args, needs, **settings)` as the derivative of this primitive.

        Parameters
        ----------
        rule : callable
            Returns one cotangent per positional argument, or None.
        owned : bool or tuple of bool, default False
            Which of the returned cotangents are new arrays that nothing else refers to, so that the tape may add into them:
            all, none, or one answer per argument.
        out : bool, default False
            The rule takes `out=`: for each argument None, or an array into which it writes that cotangent.
        may_overwrite : bool, default False
            The rule takes `may_overwrite=`: whether nothing else refers to y_bar, so that the rule may write into it.

        Returns
        -------
        callable
            The rule, or a decorator if no rule is given.
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

    def _record(self, args: tuple[Any, ...], settings: dict[str, Any]) -> Var | tuple[Var, ...]:
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
    """Decorator: make a differentiable primitive of a function on plain arrays.

    Parameters
    ----------
    forward : callable, optional
        f(*arrays, **settings) of plain arrays. Without it, a decorator is returned.
    saves : bool, default False
        The forward takes `save=`; with save=True it returns (value, saved), and the rule gets `saved=`.
    differentiable : bool, default True
        False cuts the tape here: no cotangent passes.
    contract : str, optional
        Shapes of the arguments, as in "chol: ... M N, b: ... N". Declared where compiled kernels are launched, which can
        then be compiled ahead (`gvae.runtime.compile`): those of each combination of `settings`.
    settings : mapping from str to sequence, optional
        The values of those settings that decide which kernels are launched.

    Returns
    -------
    Primitive
        Called like `forward`. Its method `vjp` is the decorator of the derivative rule.

    Examples
    --------
    >>> from gvae.autodiff import primitive
    >>> @primitive
    ... def cube(x):
    ...     return x**3
    >>> @cube.vjp
    ... def _(y_bar, y, x, *, needs):
    ...     return (3 * x**2 * y_bar,)
    >>> gvae.gradient(lambda x: cube(x).sum(), np.array([1.0, 2.0]))
    array([ 3., 12.])
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
def _stopped(x: Array) -> Array:
    return x


def stop_gradient(x: Any) -> Any:
    """The argument as a constant: no derivative passes.

    Parameters
    ----------
    x : Var, array, or dict, list or tuple of these

    Returns
    -------
    Var, array or structure
        x itself, as a constant; containers are mapped.

    Examples
    --------
    >>> x = np.array([1.0, 2.0])
    >>> gvae.gradient(lambda x: (gvae.stop_gradient(x) * x).sum(), x)
    array([1., 2.])
    """
    return mapped(lambda leaf: _stopped(leaf) if isinstance(leaf, Var) else leaf, x)


# ---- backward pass -------------------------------------------------------------------------------


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
    """The nodes between outputs and leaves, each before its parents, and which of its arguments lead to a leaf.

    The history of an outer tape does not lead to a leaf and costs nothing.
    """
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
    """The key of a variable, which is a leaf or an output of a node."""
    return ("leaf", id(var)) if var.node is None else (id(var.node), var.index)


class _Cotangents:
    """The cotangents that variables have received so far, by key."""

    def __init__(self, leaves: list[Var], buffers: list[Any]):
        self.bars: dict[Any, Any] = {}
        self.owned: set[Any] = set()  # keys of arrays that nothing but this tape refers to
        pairs = zip(leaves, buffers, strict=True)
        self.buffers = {_key(leaf): device.written(buffer) for leaf, buffer in pairs if buffer is not None}
        self.direct = {key: buffer for key, buffer in self.buffers.items() if buffer.flags.c_contiguous}  # for kernels

    def accumulate(self, var: Var, bar: Any, owned: bool) -> None:
        """Add a cotangent to those of a variable."""
        key = _key(var)
        if bar.shape != var.value.shape:
            name = "output" if var.node is None else var.node.primitive.__name__
            raise ShapeError(f"{name}: its cotangent has shape {bar.shape}, expected {var.value.shape}")
        total, buffer = self.bars.get(key), self.buffers.get(key)
        if total is not None:  # the sum is written into one of them, if nothing else refers to it
            into = None if bar.ndim == 0 else total if key in self.owned else bar if owned else None
            bar, owned = device.apply(np.add, total, bar, out=into), bar.ndim > 0
        elif buffer is not None:
            if bar is not buffer:
                buffer[...] = bar
            bar, owned = buffer, True
        self.bars[key] = bar
        (self.owned.add if owned else self.owned.discard)(key)

    def take(self, node: Node) -> tuple[Any, bool]:
        """The cotangent of a node's result (a list for several, None for none), and whether nothing else refers to it."""
        if isinstance(node.value, tuple):
            bars = [self.bars.pop((id(node), i), None) for i in range(len(node.value))]
            return (None if all(bar is None for bar in bars) else bars), False
        key = id(node), None
        return self.bars.pop(key, None), key in self.owned

    def out(self, node: Node, needs: tuple[bool, ...]) -> list[Any]:
        """By argument, the buffer of a leaf that has received nothing yet: the first rule that can writes there."""
        keys = [_key(parent) if need else None for parent, need in zip(node.parents, needs, strict=True)]
        return [self.direct.get(key) if key not in self.bars and key not in keys[:i] else None for i, key in enumerate(keys)]

    def of(self, leaf: Var) -> Any:
        key = _key(leaf)
        bar, buffer = self.bars.get(key), self.buffers.get(key)
        if bar is None:
            buffer = np.empty_like(leaf.value) if buffer is None else buffer
            buffer[...] = 0
        elif buffer is None:
            return bar if key in self.owned else device.copy(bar)  # it may be a view, or belong to several leaves
        elif bar is not buffer:
            buffer[...] = bar
        return buffer


# ---- functions of whole computations -------------------------------------------------------------


def vjp(f: Callable, *args: Any, has_aux: bool = False, out: Any = None) -> tuple:
    """Value of a function and its vector-Jacobian product, as a function of the cotangent.

    Parameters
    ----------
    f : callable
        f(*args), written in `gvae.ops` and operators of Vars.
    *args : array, or dict, list or tuple of arrays
        float32 or float64.
    has_aux : bool, default False
        f returns (value, aux), of which only the value is differentiated.
    out : array or structure, optional
        Arrays in the structure of the arguments, for a single argument without a tuple around it, each of the shape and
        dtype of its argument: they receive the cotangents. None in place of an array: a new one is made.

    Returns
    -------
    value : array or structure
        f at the arguments.
    pull : callable
        pull(cotangent, only=None) returns the cotangents of the arguments, in their structure; a single argument's comes
        without a tuple around it. The cotangent has the structure of the value; where it is None, nothing is pulled from
        there. By default it is 1, for a scalar value. `only`, for a single argument that is a dict, names the entries whose
        cotangents are wanted: the others are neither computed, nor written, nor returned.
    aux : array or structure
        With has_aux only: arrays in place of Vars.

    Raises
    ------
    DTypeError, ShapeError, DeviceError
        An argument is not float32 or float64. An array of `out` does not fit its argument, is read-only, or shares memory
        with it. In pull: the cotangent does not fit the value.
    NotImplementedError
        In pull: a primitive has no derivative rule.

    Examples
    --------
    >>> p = {"x": np.array([1.0, 2.0]), "y": np.array([3.0, 4.0])}
    >>> value, pull = gvae.autodiff.vjp(lambda p: p["x"] * p["y"], p)
    >>> value
    array([3., 8.])
    >>> pull(np.array([1.0, 0.0]))
    {'x': array([3., 0.]), 'y': array([1., 0.])}
    >>> pull(np.array([1.0, 0.0]), only=["y"])
    {'y': array([1., 0.])}
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
    buffers = {}
    for leaf, buffer in leaves_beside(lifted, (out,) if len(args) == 1 and out is not None else out):
        check_out(buffer, leaf.shape, leaf.dtype, like=leaf.value, where="gradient")
        buffers[id(leaf)] = buffer
    _check_apart([buffer for buffer in buffers.values() if buffer is not None], [leaf.value for leaf in leaves])
    result = f(*lifted)
    value, aux = result if has_aux else (result, None)

    def pull(cotangent: Any = None, only: Iterable[str] | None = None) -> Any:
        pairs = leaves_beside(value, cotangent) if cotangent is not None else [(v, None) for v in leaves_of(value)]
        pairs = [pair for pair in pairs if isinstance(pair[0], Var)]
        wanted = lifted if only is None else ({name: lifted[0][name] for name in only},)
        targets = leaves if only is None else leaves_of(wanted)
        seeds = [_seed(var, seed) for var, seed in pairs]
        bars = iter(_backward([var for var, _ in pairs], seeds, targets, [buffers.get(id(leaf)) for leaf in targets]))
        filled = mapped(lambda leaf: next(bars), wanted)
        return filled[0] if len(filled) == 1 else filled

    return (_plain(value), pull, _plain(aux)) if has_aux else (_plain(value), pull)


def _check_apart(buffers: list[Any], values: list[Any]) -> None:
    """ShapeError if a buffer of a gradient shares memory with an argument, or with another buffer."""
    spans = [(*device.span(x), i < len(buffers)) for i, x in enumerate((*buffers, *values)) if buffers and x.size]
    ends = {True: 0, False: 0}  # of the buffers and of the arguments that begin before
    for low, high, is_buffer in sorted(spans):
        if ends[True] > low or (is_buffer and ends[False] > low):
            what = "another part of out" if is_buffer and ends[True] > low else "an argument"
            raise ShapeError(f"gradient: out shares memory with {what}, expected an array of its own")
        ends[is_buffer] = max(ends[is_buffer], high)


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
    return device.namespace(var.value).full((), number) if device.is_cuda(var.value) else device.constant(number)


def value_and_gradient(f: Callable, *args: Any, has_aux: bool = False, out: Any = None) -> tuple:
    """Value and gradient of a scalar function at the arguments.

    Parameters
    ----------
    f : callable
        f(*args), written in `gvae.ops` and operators of Vars, with a scalar value.
    *args : array, or dict, list or tuple of arrays
        float32 or float64.
    has_aux : bool, default False
        f returns (value, aux), of which only the value is differentiated.
    out : array or structure, optional
        Receives the gradient; has the structure of the arguments. See `vjp`.

    Returns
    -------
    value : array () or tuple
        f at the arguments; with has_aux, (value, aux).
    gradient : array, structure or tuple
        In the structure of the argument; a tuple for several arguments.

    Raises
    ------
    DTypeError, ShapeError, DeviceError
        An argument is not float32 or float64, or `out` does not fit. The value is not a scalar.

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0]), "b": np.array(0.5)}
    >>> x = np.array([3.0, -1.0])
    >>> gvae.value_and_gradient(lambda p: ((p["w"] * x).sum() + p["b"]) ** 2, params)
    (np.float64(2.25), {'w': array([ 9., -3.]), 'b': np.float64(3.0)})
    """
    if has_aux:
        value, pull, aux = vjp(f, *args, has_aux=True, out=out)
        return (value, aux), pull()
    value, pull = vjp(f, *args, out=out)
    return value, pull()


def gradient(f: Callable, *args: Any, has_aux: bool = False, out: Any = None) -> Any:
    """Gradient of a scalar function at the arguments.

    Parameters
    ----------
    f : callable
        f(*args), written in `gvae.ops` and operators of Vars, with a scalar value.
    *args : array, or dict, list or tuple of arrays
        float32 or float64.
    has_aux : bool, default False
        f returns (value, aux), of which only the value is differentiated.
    out : array or structure, optional
        Receives the gradient; has the structure of the arguments. See `vjp`.

    Returns
    -------
    array, structure or tuple
        In the structure of the argument; a tuple for several arguments. With has_aux, (gradient, aux).

    Raises
    ------
    DTypeError, ShapeError, DeviceError
        An argument is not float32 or float64, or `out` does not fit. The value is not a scalar.

    Examples
    --------
    >>> gvae.gradient(lambda x, y: (x * gvae.ops.exp(y)).sum(), np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    (array([1., 1.]), array([1., 2.]))
    """
    result, grad = value_and_gradient(f, *args, has_aux=has_aux, out=out)
    return (grad, result[1]) if has_aux else grad


def hessian(f: Callable, x: Any) -> Any:
    """Second derivatives of a function, by central differences of the tape's gradient.

    The gradient is of first order, so second derivatives are differences. A tool for small problems.

    Parameters
    ----------
    f : callable
        Maps x (..., n) to (...); each value depends only on its own n numbers.
    x : array (..., n)
        float64, n <= 64.

    Returns
    -------
    array (..., n, n)
        Symmetric.

    Raises
    ------
    DTypeError, ShapeError

    Notes
    -----
    The cost is 2 n gradients. The error is about 1e-10 times the size of f's gradient and of its fourth derivatives.

    Examples
    --------
    >>> f = lambda z: z[..., 0] ** 2 * z[..., 1]
    >>> gvae.autodiff.hessian(f, np.array([1.0, 3.0])).round(6)
    array([[6., 2.],
           [2., 0.]])
    >>> gvae.autodiff.hessian(f, np.ones((100, 2))).shape
    (100, 2, 2)
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
        columns.append(difference / (above - below)[..., j : j + 1])  # the rounded distance
    H = np.stack(columns, axis=-1)
    return 0.5 * (H + H.swapaxes(-1, -2))


HESSIAN_MOST = 64


def _plain(structure: Any) -> Any:
    return mapped(lambda leaf: leaf.value if isinstance(leaf, Var) else leaf, structure)


def __getattr__(name: str) -> Any:
    if name == "Recording":
        from gvae._moved import Recording

        warnings.warn("autodiff.Recording is deprecated: use autodiff.vjp", DeprecationWarning, stacklevel=2)
        return Recording
    raise AttributeError(f"module 'gvae.autodiff' has no attribute {name!r}")


# The one deliberate upward import: these modules attach Var's operators, so that `Var` is complete.
import gvae.ops.arrays  # noqa: E402
import gvae.ops.dense  # noqa: E402
import gvae.ops.elementwise  # noqa: E402, F401
