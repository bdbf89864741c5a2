"""gvae's structured Gaussians on PyTorch tensors, with gradients.

    from gvae.interop import torch as gt
    z = gt.sample_banded(mean, chol, eps)              # mean, eps: (..., N)   chol: (..., M, N)
    gt.kl_divergence_banded(mean, chol).sum().backward()

Names, argument order, settings, shapes and units are those of `gvae.ops`; only out= and save= do not exist. Arguments are
float32 or float64 tensors on the CPU, all of one dtype, and so is the result. Memory is shared both ways, and contiguous
tensors are not copied. The forward pass runs once, and its tape is kept for the backward pass; without gradients
(torch.no_grad, or no argument that requires one) nothing is kept. `info=` may be an int32 tensor.

Raises DTypeError, DeviceError, and what the op raises: with check=True, the default, NotPositiveDefiniteError. Derivatives
are of first order: second derivatives raise. An argument or result must not be changed in place before its backward pass:
PyTorch detects this and raises. torch.func has no rules for these functions; inside torch.compile, wrap the called function
in torch.compiler.disable, or PyTorch tries to trace gvae's NumPy code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gvae import ops
from gvae.errors import DependencyError, DeviceError, DTypeError
from gvae.interop import OPS, lift, record

try:
    import torch
except ImportError as error:
    raise DependencyError('gvae.interop.torch needs PyTorch: pip install "gvae[torch]"') from error

__all__ = [*OPS]


class _Recorded(torch.autograd.Function):
    """An op on both tapes: PyTorch's node holds the pull of gvae's tape."""

    @staticmethod
    def forward(ctx: Any, name: str, settings: dict[str, Any], *tensors: Any) -> Any:
        value, ctx.pull = record(name, [_array(t) for t in tensors], ctx.needs_input_grad[2:], settings)
        ctx.name, result = name, _tensor(value)
        # gvae's tape reads these tensors' memory in the backward pass; PyTorch detects changes to it, and a second pass
        ctx.save_for_backward(*tensors, result)
        return result

    @staticmethod
    def backward(ctx: Any, y_bar: Any) -> Any:
        *tensors, _ = ctx.saved_tensors
        return None, None, *_Pulled.apply(ctx.name, ctx.pull, y_bar, *tensors)


class _Pulled(torch.autograd.Function):
    """The cotangents. Under create_graph=True PyTorch knows that they depend on the arguments, so that a second derivative
    raises; its `once_differentiable` would take them for constants wherever y_bar is one."""

    @staticmethod
    def forward(ctx: Any, name: str, pull: Any, y_bar: Any, *tensors: Any) -> Any:
        ctx.name = name
        return tuple(None if bar is None else _tensor(bar) for bar in pull(_array(y_bar)))

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        raise NotImplementedError(f"gvae's tape is of first order: there are no gradients of {ctx.name}'s gradient")


def _call(name: str, tensors: dict[str, Any], settings: dict[str, Any]) -> Any:
    given = {k: t for k, t in tensors.items() if t is not None}
    for k, t in given.items():
        kind = t.dtype if isinstance(t, torch.Tensor) else type(t).__name__
        if kind not in (torch.float32, torch.float64):
            raise DTypeError(f"{name}: {k} is {kind}, expected a float32 or float64 tensor")
        if t.device.type != "cpu":
            raise DeviceError(
                f"{name}: {k} is on {t.device}, expected the CPU, where gvae's kernels run: {k}.cpu() moves it"
            )
    settings = {k: _array(v) if isinstance(v, torch.Tensor) else v for k, v in settings.items()}
    if torch.is_grad_enabled() and any(t.requires_grad for t in given.values()):
        return _Recorded.apply(name, settings, *tensors.values())
    return _tensor(getattr(ops, name)(*(_array(t) for t in tensors.values()), **settings))


def _array(tensor: Any) -> Any:
    """The tensor's memory as a NumPy array."""
    return None if tensor is None else tensor.detach().numpy()


def _tensor(array: Any) -> Any:
    """The array's memory as a tensor; a NumPy scalar as a tensor without axes."""
    return torch.from_numpy(np.asarray(array))


_NOTE = "As in `gvae.ops`, on PyTorch CPU tensors, once differentiable in each of them; no out= or save=."
globals().update({name: lift(name, _call, module=__name__, note=_NOTE) for name in OPS})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...
