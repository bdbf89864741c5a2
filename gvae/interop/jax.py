"""gvae's structured Gaussians on JAX arrays, with gradients: under jit, grad, vmap and what is composed of them.

    from gvae.interop import jax as gj
    z = gj.sample_banded(mean, chol, eps)              # mean, eps: (..., N)   chol: (..., M, N)
    jax.jit(jax.grad(lambda c: gj.kl_divergence_banded(mean, c).sum()))(chol)

Names, argument order, settings, shapes and units are those of `gvae.ops`, with these differences: check is False unless
asked for, and a system that is not positive definite is NaN, as elsewhere in JAX; out= and info= do not exist. Settings
are static. Arguments are float32 or float64 arrays, all of one dtype; ShapeError and DTypeError are raised when a function
is traced. With check=True a failure reaches the caller as JAX's own JaxRuntimeError, whose text ends with ours.

Each op is one `jax.pure_callback`, on the host. Its gradient is another, which runs the forward pass again (what the tape
holds of it lives in Python, and a pure function may leave nothing there) and computes only the cotangents that are needed.
Differentiation is in reverse mode and of first order. A vmap costs one call, not one per element. An argument that it does
not map is not copied in the forward pass, but is in the gradient, for which JAX wants a cotangent per element; arguments
whose batch axes broadcast (mean (N,), chol (M, N), eps (K, N)) are shared in both. JAX copies what goes into a callback and
what comes out of it; on a GPU, to the host and back.

JAX's CPU client can wait for itself in a callback that takes 100 kB or more, surely so in a process that may use one core
only (jax-ml/jax#24255). That raises here, after `PATIENCE` seconds; the cure, before JAX computes anything, is
jax.config.update("jax_cpu_enable_async_dispatch", False).
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

PATIENCE = 30.0  # seconds; what a callback waits for is a copy in memory


def _call(name: str, arguments: dict[str, Any], settings: dict[str, Any]) -> Any:
    arrays: list[Any] = [None if a is None else jnp.asarray(a) for a in arguments.values()]
    # vmap puts an axis in front of each argument; for these to meet, all must have equally many batch axes before it
    leads = [None if a is None else a.ndim - core for a, core in zip(arrays, OPS[name], strict=True)]
    batch = max((n for n in leads if n is not None), default=0)
    static = tuple((k, tuple(np.asarray(v).tolist()) if np.iterable(v) else v) for k, v in settings.items())
    try:
        if any(n is not None and n < 0 for n in leads):
            raise ShapeError(f"{name}: too few axes")
        aligned = (a if n is None else a[(None,) * (batch - n)] for a, n in zip(arrays, leads, strict=True))
        return _function(name, static)(*aligned)
    except (ShapeError, DTypeError):
        _on_zeros(name, arrays, settings)  # raises the same, of the shapes that were given
        raise


@cache
def _function(name: str, static: tuple) -> Any:
    """The op with its settings, as a JAX function of arrays with equally many batch axes.

    Kept, because JAX compiles a call outside jit once per function.
    """
    settings = dict(static)

    def run(*arrays):
        return np.asarray(getattr(ops, name)(*_views(arrays), **settings))

    def pull(leaves, others, y_bar):
        *arrays, y_bar = _views([*(o if l is None else l for l, o in zip(leaves, others, strict=True)), y_bar])
        _, pull = record(name, arrays, [leaf is not None for leaf in leaves], settings)
        return tuple(pull(y_bar))

    @jax.custom_vjp
    def function(*arrays):
        empty = _on_zeros(name, arrays, settings, lead=(0,))  # no systems, so no work, but all checks and the result's shape
        like = jax.ShapeDtypeStruct(empty.shape[1:], empty.dtype)
        return jax.pure_callback(run, like, *arrays, vmap_method="expand_dims")

    def forward(*primals):
        values = tuple(p if p is None else p.value for p in primals)
        needs = [p is not None and p.perturbed for p in primals]
        leaves = tuple(v if need else None for v, need in zip(values, needs, strict=True))
        others = tuple(None if need else v for v, need in zip(values, needs, strict=True))
        return function(*values), (leaves, others)

    def backward(residuals, y_bar):
        # one cotangent per element of a vmap, also for what it does not map: JAX adds where they are to be added
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


_NOTE = "On JAX arrays, under jit, grad and vmap; check is False by default; else as the function in `gvae.ops`:"
globals().update(
    {name: lift(name, _call, module=__name__, note=_NOTE, without=frozenset({"info"}), check=False) for name in OPS}
)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
