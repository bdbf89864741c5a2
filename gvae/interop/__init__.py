"""gvae's structured Gaussians inside other frameworks: `gvae.interop.torch` and `gvae.interop.jax`.

Each has the functions named in `OPS`, with the argument order, settings, shapes and units of `gvae.ops`, on tensors or
arrays of the framework. They contain no formulas: a call runs the op of `gvae.ops` on NumPy views and records it on gvae's
own tape, whose pull is the framework's backward pass. This module imports neither framework.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from gvae import autodiff, ops

__all__ = ["OPS", "lift", "record"]

# The lifted ops, and for each of their arrays the number of trailing axes that are not batch axes. A further op needs only
# a further line.
OPS: dict[str, tuple[int, ...]] = {
    "cholesky_banded": (2,),
    "gram_banded": (2,),
    "solve_triangular_banded": (2, 1),
    "multiply_triangular_banded": (2, 1),
    "cho_solve_banded": (2, 1),
    "inverse_banded": (2,),
    "variance_banded": (2,),
    "logdet_banded": (2,),
    "entropy_banded": (2,),
    "trace_inverse_banded": (2,),
    "trace_probe_banded": (2, 1),
    "sample_banded": (1, 2, 1),
    "log_prob_banded": (1, 1, 2),
    "log_prob_of_draw_banded": (2, 1),
    "kl_divergence_banded": (1, 2, 1, 2),
    "sample_ar1": (1, 0, 0, 1),
    "log_prob_ar1": (1, 1, 0, 0),
    "kl_divergence_ar1": (1, 0, 0),
    "sample_lowrank": (1, 1, 2, 1),
    "log_prob_lowrank": (1, 1, 1, 2),
    "kl_divergence_lowrank": (1, 1, 2),
}


def lift(
    name: str, call: Callable, *, module: str, note: str, without: frozenset[str] = frozenset(), **defaults: Any
) -> Callable:
    """Make the op `name` a public function of `module`, on the arrays of another framework.

    Parameters
    ----------
    name : str
        An op of `gvae.ops`.
    call : callable
        call(name, arrays, settings), which runs an op in the framework; `arrays` is a dict by parameter, with None for an
        argument that was left out.
    module : str
        The function's `__module__`.
    note : str
        The first lines of the docstring, above the op's own.
    without : frozenset of str, default frozenset()
        Settings that the framework cannot have. `out` and `save` are always left out: they are for NumPy.
    **defaults : Any
        Settings whose default differs from the op's.

    Returns
    -------
    callable
        The function, with the op's signature and docstring.

    Examples
    --------
    >>> from gvae.interop import lift
    >>> def call(name, arrays, settings):
    ...     return getattr(gvae.ops, name)(*map(np.array, arrays.values()), **settings).tolist()
    >>> solve = lift("solve_triangular_banded", call, module="lists", note="On lists of numbers.")
    >>> solve([[2.0, 2.0], [-1.0, 0.0]], [2.0, 3.0])
    [1.0, 2.0]
    """
    op = getattr(ops, name)
    signature = inspect.signature(op)
    signature = signature.replace(
        parameters=[
            p.replace(default=defaults.get(p.name, p.default))
            for p in signature.parameters.values()
            if p.name not in {"out", "save", *without}
        ]
    )

    def lifted(*args: Any, **settings: Any) -> Any:
        bound = signature.bind(*args, **settings)
        bound.apply_defaults()
        return call(name, dict(zip(signature.parameters, bound.args, strict=False)), bound.kwargs)

    lifted.__name__ = lifted.__qualname__ = name
    lifted.__module__ = module
    margin = "".join(re.findall(r"\n( *)\S", op.__doc__ or "")[:1])  # as its sections have: help() then strips it everywhere
    lifted.__doc__ = f"{note}\n\n{margin}{op.__doc__}"
    lifted.__signature__ = signature  # type: ignore[attr-defined]
    return lifted


def record(name: str, arrays: Any, needs: Any, settings: dict[str, Any]) -> tuple:
    """Run an op on NumPy arrays and record it on gvae's tape, for the backward pass of another framework.

    Parameters
    ----------
    name : str
        An op of `gvae.ops`.
    arrays : sequence of array or None
        The op's array arguments, in order; None for one left out.
    needs : sequence of bool
        For each argument, whether its cotangent is needed.
    settings : dict
        The op's settings, by name.

    Returns
    -------
    value : array
        The op's result.
    pull : callable
        pull(y_bar) -> list of a cotangent for each array that needs one, else None.

    Examples
    --------
    >>> from gvae.interop import record
    >>> chol, b = np.array([[2.0, 2.0], [-1.0, 0.0]]), np.array([2.0, 3.0])
    >>> x, pull = record("solve_triangular_banded", [chol, b], [False, True], {})
    >>> x
    array([1., 2.])
    >>> pull(np.ones(2))
    [None, array([0.75, 0.5 ])]
    """

    def run(leaves: list) -> Any:
        return getattr(ops, name)(*(a if leaf is None else leaf for a, leaf in zip(arrays, leaves, strict=True)), **settings)

    return autodiff.vjp(run, [a if need else None for a, need in zip(arrays, needs, strict=True)])
