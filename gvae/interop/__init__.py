"""gvae's structured Gaussians inside other frameworks: `gvae.interop.torch` and `gvae.interop.jax`.

Each has the functions named in `OPS`, with the argument order, settings, shapes and units of `gvae.ops`, on tensors or
arrays of its own. No formula stands here: a call runs the op of `gvae.ops` on NumPy views and records it on gvae's own tape,
whose pull is the framework's backward pass. This module imports neither framework.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from gvae import autodiff, ops

__all__ = ["OPS", "lift", "record"]

# What is lifted, and how many trailing axes of each argument are not batch axes. A name more is a line more, nothing else.
OPS: dict[str, tuple[int, ...]] = {
    "cholesky_banded": (2,),
    "solve_triangular_banded": (2, 1),
    "multiply_triangular_banded": (2, 1),
    "cho_solve_banded": (2, 1),
    "inverse_banded": (2,),
    "marginal_variances_banded": (2,),
    "logdet_banded": (2,),
    "entropy_banded": (2,),
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
    """The op `name` as a public function of `module`.

    call     : call(name, arrays, settings), the framework's way to run an op: arrays by parameter, None for one left out
    note     : the first lines of the docstring, above the op's own
    without  : settings that the framework cannot have; out= and save= are NumPy's everywhere
    defaults : settings whose default differs from the op's
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
    lifted.__doc__ = f"{note}\n\n{op.__doc__}"
    lifted.__signature__ = signature  # type: ignore[attr-defined]
    return lifted


def record(name: str, arrays: Any, needs: Any, settings: dict[str, Any]) -> tuple:
    """(value, pull): the op on NumPy arrays, and pull(y_bar) -> a cotangent for each array that `needs` one, else None."""

    def run(leaves: list) -> Any:
        return getattr(ops, name)(*(a if leaf is None else leaf for a, leaf in zip(arrays, leaves, strict=True)), **settings)

    return autodiff.vjp(run, [a if need else None for a, need in zip(arrays, needs, strict=True)])
