"""gvae's ops on PyTorch tensors: the values of gvae.ops bit for bit, and gradients by torch's own gradcheck."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import numpy as np
import pytest
from interop_cases import CALLS, N

torch = pytest.importorskip("torch")

from gvae import ops  # noqa: E402
from gvae.errors import DeviceError, DTypeError, NotPositiveDefiniteError, ShapeError  # noqa: E402
from gvae.interop import OPS  # noqa: E402
from gvae.interop import torch as gt  # noqa: E402

every_call = pytest.mark.parametrize("call", CALLS, ids=str)


def tensors(arrays, requires_grad=True):
    return [torch.from_numpy(a.copy()).requires_grad_(requires_grad) for a in arrays]


def factor(*lead, dtype=np.float64):
    rng = np.random.default_rng(3)
    return np.stack([rng.uniform(1, 2, (*lead, N)), rng.normal(size=(*lead, N))], axis=-2).astype(dtype)


def test_every_name_is_there_with_the_signature_of_the_op():
    assert set(gt.__all__) == set(OPS)
    for name in OPS:
        own, op = inspect.signature(getattr(gt, name)), inspect.signature(getattr(ops, name))
        assert list(own.parameters.values()) == [p for p in op.parameters.values() if p.name not in ("out", "save")]
        assert getattr(gt, name).__doc__.endswith(getattr(ops, name).__doc__)
    with pytest.raises(TypeError, match="out"):
        gt.cholesky_banded(torch.ones(1, 3), out=torch.ones(1, 3))


@every_call
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_and_gradients_are_those_of_the_ops_bit_for_bit(call, dtype):
    args = call.args(dtype)
    value, y_bar, bars = call.expected(args)
    inputs = tensors(args)
    result = call.of(gt)(*inputs)
    result.backward(torch.from_numpy(y_bar))
    np.testing.assert_array_equal(result.detach().numpy(), call.of(ops)(*args), strict=True)
    np.testing.assert_array_equal(result.detach().numpy(), value, strict=True)
    for tensor, before, bar in zip(inputs, args, bars, strict=True):
        np.testing.assert_array_equal(tensor.detach().numpy(), before)
        np.testing.assert_array_equal(tensor.grad.numpy(), bar, strict=True)


@every_call
def test_gradcheck(call):
    assert torch.autograd.gradcheck(call.of(gt), tensors(call.args()), rtol=1e-6, atol=1e-8)


@every_call
def test_only_what_requires_a_gradient_gets_one(call):
    args = call.args()
    _, y_bar, bars = call.expected(args)
    for alone, bar in enumerate(bars):
        inputs = [t.requires_grad_(i == alone) for i, t in enumerate(tensors(args, False))]
        call.of(gt)(*inputs).backward(torch.from_numpy(y_bar))
        np.testing.assert_allclose(inputs[alone].grad.numpy(), bar, rtol=1e-14)
        assert all(t.grad is None for i, t in enumerate(inputs) if i != alone)


def test_the_tape_holds_what_requires_a_gradient_only(monkeypatch):
    needed, record = [], gt.record
    monkeypatch.setattr(gt, "record", lambda name, a, needs, s: needed.append(list(needs)) or record(name, a, needs, s))
    mean, chol = torch.zeros(N, dtype=torch.float64), torch.from_numpy(factor()).requires_grad_()
    gt.kl_divergence_banded(mean, chol, prior_chol=torch.from_numpy(factor()))
    assert needed == [[False, True, False, False]]


@pytest.mark.filterwarnings("ignore")  # the tracer's own, about gradients of its own
def test_inside_torch_compile():
    call = torch.compiler.disable(gt.logdet_banded)
    chol = torch.from_numpy(factor()).requires_grad_()
    torch.compile(lambda c: call(2 * c).sum(), backend="eager")(chol).backward()
    np.testing.assert_allclose(chol.grad[0].numpy(), 2 / factor()[0], rtol=1e-14)


@every_call
def test_layouts_do_not_matter(call):
    args = call.args()
    value, y_bar, bars = call.expected(args)
    leaves = tensors([np.stack([a, a + 1], axis=-1) for a in args])
    result = call.of(gt)(*(t[..., 0] for t in leaves))  # every second element of a larger tensor
    np.testing.assert_array_equal(result.detach().numpy(), value)
    wide = torch.from_numpy(np.stack([y_bar, y_bar], axis=-1))
    result.backward(wide[..., 1])
    for leaf, bar in zip(leaves, bars, strict=True):
        np.testing.assert_allclose(leaf.grad[..., 0].numpy(), bar, rtol=1e-13)
        assert not leaf.grad[..., 1].any()


@every_call
def test_without_batch_axes_and_with_an_empty_batch(call):
    for lead in ((), (0,)):
        inputs = tensors(call.args(leads=[lead] * 4))
        result = call.of(gt)(*inputs)
        assert isinstance(result, torch.Tensor)
        result.sum().backward()  # its cotangent is one number, spread by strides of zero
        assert all(t.grad.shape == t.shape for t in inputs)
        assert result.shape[: len(lead)] == lead


def test_without_gradients_there_is_no_tape(monkeypatch):
    monkeypatch.setattr(gt, "record", None)
    chol = torch.from_numpy(factor())
    assert gt.logdet_banded(chol).grad_fn is None
    chol.requires_grad_()
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert not gt.logdet_banded(chol).requires_grad
    with pytest.raises(TypeError):
        gt.logdet_banded(chol)


def test_memory_is_shared(monkeypatch):
    seen = []
    result = np.zeros(N)
    monkeypatch.setattr(ops, "variance_banded", lambda chol, **settings: seen.append(chol) or result)
    chol = torch.from_numpy(factor())
    out = gt.variance_banded(chol)
    assert seen[0].ctypes.data == chol.data_ptr()
    assert out.data_ptr() == result.ctypes.data


def test_a_change_in_place_before_the_backward_pass_is_noticed():
    leaf = torch.from_numpy(factor()).requires_grad_()
    for changed in ("input", "result"):
        chol = leaf * 1
        x = gt.solve_triangular_banded(chol, torch.ones(N, dtype=torch.float64))
        with torch.no_grad():
            (chol if changed == "input" else x).mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            x.sum().backward()


def test_one_backward_pass_or_several_and_first_order_only():
    chol = torch.from_numpy(factor()).requires_grad_()
    value = gt.variance_banded(chol).sum()
    value.backward(retain_graph=True)
    once = chol.grad.clone()
    value.backward()
    torch.testing.assert_close(chol.grad, 2 * once, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()
    (bar,) = torch.autograd.grad(gt.variance_banded(chol).sum(), chol, create_graph=True)
    with pytest.raises(NotImplementedError, match="gradients of variance_banded's gradient"):
        (bar.square().sum() + chol.sum()).backward()  # a penalty on a gradient: never silently without its share


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (torch.ones(N, dtype=torch.int64), DTypeError, r"b is torch.int64, expected a float32 or float64 tensor"),
        (torch.ones(N, dtype=torch.bfloat16), DTypeError, r"b is torch.bfloat16"),
        (torch.ones(N, dtype=torch.float32), DTypeError, r"b is float32, expected float64 as chol"),
        (np.ones(N), DTypeError, r"b is ndarray, expected a float32 or float64 tensor"),
        (1.0, DTypeError, r"b is float,"),
        (None, DTypeError, r"b is NoneType"),
        (torch.ones(N, dtype=torch.float64, device="meta"), DeviceError, r"b is on meta, expected the CPU.*b\.cpu\(\)"),
        (torch.ones(N + 1, dtype=torch.float64), ShapeError, r"b has shape \(6,\), expected"),
    ],
    ids=str,
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_errors_name_the_op_and_the_argument(wrong, error, message, requires_grad):
    chol = torch.from_numpy(factor()).requires_grad_(requires_grad)
    with pytest.raises(error, match="solve_triangular_banded: " + message):
        gt.solve_triangular_banded(chol, wrong)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_factor_that_fails(requires_grad):
    bad = factor(3)
    bad[1, 0, 2] = -1
    chol, good = (torch.from_numpy(a).requires_grad_(requires_grad) for a in (bad, factor(3)))
    with pytest.raises(NotPositiveDefiniteError) as caught:
        gt.inverse_banded(chol)
    assert (caught.value.rows, caught.value.minors) == ([(1,)], [3])
    info = torch.zeros(3, dtype=torch.int32)
    result = gt.inverse_banded(chol, check=False, info=info)
    assert info.tolist() == [0, 3, 0]
    assert result[1].isnan().all()
    neighbours = [0, 2]
    assert torch.equal(result[neighbours], gt.inverse_banded(good)[neighbours])
    if requires_grad:
        result.sum().backward()
        gt.inverse_banded(good).sum().backward()
        assert torch.equal(chol.grad[neighbours], good.grad[neighbours])
        assert chol.grad[1].isnan().any()


@pytest.mark.nightly
def test_the_example_finds_the_exact_posterior(capsys):
    found = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "torch_chain.py"))
    assert capsys.readouterr().out
    assert 0 <= found["gap"]["chain"] < 0.02
    assert found["gap"]["diagonal"] > 1
    assert abs(found["gap"]["diagonal"] - found["least"]) < 0.05
