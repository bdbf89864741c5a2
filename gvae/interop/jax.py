"""gvae's structured Gaussians on JAX arrays, with gradients: under jit, grad, vmap and their compositions.

    from gvae.interop import jax as gj
    z = gj.sample_banded(mean, chol, eps)              # mean, eps: (..., N)   chol: (..., M, N)
    jax.jit(jax.grad(lambda c: gj.kl_divergence_banded(mean, c).sum()))(chol)

Names, argument order, settings, shapes and units are those of `gvae.ops`, with these differences: check is False by default,
and a system that is not positive definite is NaN, as elsewhere in JAX; out=, info= and save= do not exist. Settings are
static. Arguments are float32 or float64 arrays, all of one dtype; ShapeError and DTypeError are raised when a function
is traced. With check=True a failure reaches the caller as JAX's own JaxRuntimeError, whose text ends with gvae's.

Each op is one `jax.pure_callback`, on the host. Its gradient is another one, which runs the forward pass again (the tape
is a Python object, and a pure function may not keep any between calls) and computes only the cotangents that are needed.
Differentiation is in reverse mode and of first order. A vmap costs one call, not one per element. An argument that is
not mapped is not copied in the forward pass, but is in the gradient, for which JAX requires a cotangent per element;
arguments whose batch axes broadcast (mean (N,), chol (M, N), eps (K, N)) are shared in both. JAX copies the arguments and
results of a callback; on a GPU, to the host and back.

JAX's CPU client can deadlock in a callback with arguments of 100 kB or more, and always does in a process that may use one
core only (jax-ml/jax#24255). Here that raises DeviceError after `PATIENCE` seconds; the remedy, before JAX computes
anything, is jax.config.update("jax_cpu_enable_async_dispatch", False).
"""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import ops
from gvae.errors import DependencyError, DeviceError, DTypeError, ShapeError
from gvae.interop import OPS, lift, record

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise DependencyError('gvae.interop.jax needs JAX: pip install "gvae[jax]"') from error

__all__ = [*OPS]

PATIENCE = 30.0  # seconds; a callback waits only for a copy in memory


def _call(name: str, arguments: dict[str, Any], settings: dict[str, Any]) -> Any:
    arrays: list[Any] = [None if a is None else jnp.asarray(a) for a in arguments.values()]
    # vmap puts an axis in front of each argument; to be aligned, they all need the same number of batch axes before that
    leads = [None if a is None else a.ndim - core for a, core in zip(arrays, OPS[name], strict=True)]
    batch = max((n for n in leads if n is not None), default=0)
    several = {k: np.iterable(v) and not isinstance(v, str) for k, v in settings.items()}
    static = tuple((k, tuple(np.asarray(v).tolist()) if several[k] else v) for k, v in settings.items())
    try:
        if any(n is not None and n < 0 for n in leads):
            raise ShapeError(f"{name}: too few axes")
        aligned = (a if n is None else a[(None,) * (batch - n)] for a, n in zip(arrays, leads, strict=True))
        return _function(name, static)(*aligned)
    except (ShapeError, DTypeError):
        _on_zeros(name, arrays, settings)  # raises the same error, with the shapes as given
        raise


@cache
def _function(name: str, static: tuple) -> Any:
    """The op with its settings, as a JAX function of arrays with the same number of batch axes.

    Cached, because JAX compiles a call outside jit once per function.
    """
    settings = dict(static)

    def run(*arrays: Any) -> np.ndarray:
        return np.asarray(getattr(ops, name)(*_views(arrays), **settings))

    def pull(leaves: tuple[Any, ...], others: tuple[Any, ...], y_bar: Any) -> tuple[Any, ...]:
        *arrays, y_bar = _views([*(o if l is None else l for l, o in zip(leaves, others, strict=True)), y_bar])
        _, pull = record(name, arrays, [leaf is not None for leaf in leaves], settings)
        return tuple(pull(y_bar))

    @jax.custom_vjp
    def function(*arrays: Any) -> Any:
        empty = _on_zeros(name, arrays, settings, lead=(0,))  # no systems: no work, but all checks and the result's shape
        like = jax.ShapeDtypeStruct(empty.shape[1:], empty.dtype)
        return jax.pure_callback(run, like, *arrays, vmap_method="expand_dims")

    def forward(*primals: Any) -> tuple[Any, tuple[Any, Any]]:
        values = tuple(p if p is None else p.value for p in primals)
        needs = [p is not None and p.perturbed for p in primals]
        leaves = tuple(v if need else None for v, need in zip(values, needs, strict=True))
        others = tuple(None if need else v for v, need in zip(values, needs, strict=True))
        return function(*values), (leaves, others)

    def backward(residuals: Any, y_bar: Any) -> Any:
        # one cotangent per element of a vmap, also for unmapped arguments, whose cotangents JAX sums
        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), residuals[0])
        return jax.pure_callback(pull, like, *residuals, y_bar, vmap_method="broadcast_all")

    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


def _on_zeros(name: str, arrays: Any, settings: dict[str, Any], lead: tuple[int, ...] = ()) -> Any:
    """The op on zeros of the arrays' dtypes and shapes, with further batch axes in front."""
    zeros = (None if a is None else np.broadcast_to(np.zeros((), a.dtype), (*lead, *a.shape)) for a in arrays)
    return getattr(ops, name)(*zeros, **settings)


def _views(arrays: Any) -> list[Any]:
    """A callback's arguments as NumPy arrays."""
    deadline = time.monotonic() + PATIENCE
    while not all(a is None or a.is_ready() for a in arrays):
        if time.monotonic() > deadline:
            raise DeviceError(
                "JAX's CPU client waits for itself in a callback (jax-ml/jax#24255): call "
                'jax.config.update("jax_cpu_enable_async_dispatch", False) before JAX computes anything'
            )
        time.sleep(1e-4)
    return [None if a is None else np.asarray(a) for a in arrays]


_NOTE = "As in `gvae.ops`, on JAX arrays, under jit, grad and vmap; check=False by default; no out=, info= or save=."
globals().update(
    {name: lift(name, _call, module=__name__, note=_NOTE, without=frozenset({"info"}), check=False) for name in OPS}
)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
