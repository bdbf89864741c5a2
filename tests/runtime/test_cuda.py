"""Ops, models, training and the command line on CuPy arrays: emulated, and on a device where there is one (marked gpu)."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time

import devices
import numpy as np
import pytest
import scipy.sparse
import test_awkward as awkward
from cases import CASES
from emulator import cupy_emulated
from nightly import thinned
from run_cases import BITS, MODELS
from strategies import Sizes

import gvae
from gvae import VAE, data, families, models, nn, objectives, ops, optim, random, training
from gvae.autodiff import gradient, vjp
from gvae.errors import ConfigError, DeviceError, GvaeError, NonFiniteError, NotPositiveDefiniteError, ShapeError
from gvae.kernels.cuda import launch
from gvae.runtime import device

SIZES = {
    "alike": Sizes((2,), ((2,),) * 4, 3, (0, 1), 2, 2),
    "broadcast": Sizes((2, 3), ((2, 1), (3,), (), (2, 3)), 3, (0, 2), 2, 2),
    "a warp and more": Sizes((35,), ((35,),) * 4, 9, (0, 1, 4), 2, 3),
    "shared factor": Sizes((40,), ((), (40,), (40,), (40,)), 5, (0, 1, 2), 2, 3),
    "no rows": Sizes((3, 0), ((3, 0),) * 4, 2, (0, 1), 2, 2),
}
TOLERANCE = {np.float32: 3e-5, np.float64: 1e-11}
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)
# rows with a SciPy matrix inside: test_sparse_matrices
OPS = [case for case in CASES if "csr" not in str(case)]


def close(actual, expected, dtype):
    tolerance = TOLERANCE[dtype]
    assert actual.dtype == dtype
    np.testing.assert_allclose(
        actual.get(), expected, rtol=tolerance, atol=tolerance * (1 + np.abs(expected).max(initial=0))
    )


# ---- ops ----


@pytest.mark.parametrize(
    ("case", "size", "dtype"),
    thinned(
        itertools.product(OPS, SIZES, (np.float32, np.float64)),
        lambda _, size, dtype: (size, dtype) in (("broadcast", np.float64), ("a warp and more", np.float32)),
    ),
    ids=lambda value: getattr(value, "__name__", None) or str(value),
)
def test_ops(anywhere, case, size, dtype):
    """Value and gradient as on the CPU, on the device from end to end."""
    s = SIZES[size]
    here = [a.astype(dtype) for a in case.args(np.random.default_rng(0), s)]
    there = [anywhere.asarray(a) for a in here]
    op = case.op(s)
    close(op(*there), op(*here), dtype)
    expected, actual = (gradient(lambda *a: ops.sum(ops.square(op(*a))), *args) for args in (here, there))
    for bar, wanted in zip(*((x,) if len(here) == 1 else x for x in (actual, expected)), strict=True):
        close(bar, wanted, dtype)


def test_structured_ops_launch_kernels(cupy):
    s, launched = SIZES["a warp and more"], set()
    for case in CASES:
        if "csr" in str(case):
            continue
        before = launch.counts.copy()
        args = [cupy.asarray(a) for a in case.args(np.random.default_rng(0), s)]
        gradient(lambda *a, case=case: ops.sum(case.op(s)(*a)), *args)
        launched |= {name for name, n in launch.counts.items() if n > before[name]}
    wanted = {name for name in devices.KERNELS if name.split(".")[0] in ("affine", "banded", "likelihoods", "weights")}
    # one is for one long system, below; one comes after cuBLAS's products
    assert launched >= wanted - {"banded.multiply_columns", "affine.bias_activation"}


@every_dtype
def test_sparse_matrices(anywhere, dtype):
    counts = scipy.sparse.random_array((5, 7), density=0.4, rng=np.random.default_rng(0)).tocsr()
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(7, 3)).astype(dtype), rng.normal(size=3).astype(dtype)
    there = device.to_device(counts, "cuda"), anywhere.asarray(w), anywhere.asarray(b)
    for op in (ops.affine, lambda x, w, b: ops.csr_matmul(x, w) + b):
        close(op(*there), op(counts, w, b), dtype)
        bars, expected = (gradient(lambda *p, x=x, op=op: ops.sum(op(x, *p)), *p) for x, *p in (there, (counts, w, b)))
        for bar, wanted in zip(bars, expected, strict=True):
            close(bar, wanted, dtype)


@every_dtype
@pytest.mark.parametrize("by", ["row", "column"])
def test_poisson_counts(anywhere, by, dtype):
    """A device's matrix as it is, and a prepared one of the host, whose arrays go where the others are."""
    rng = np.random.default_rng(0)
    counts = scipy.sparse.csr_array(rng.poisson(0.5, size=(6, 9)) * 1.0)
    z, w = rng.gamma(2, size=(3, 6, 4)).astype(dtype), rng.gamma(2, size=(9, 4)).astype(dtype)
    there = anywhere.asarray(z), anywhere.asarray(w)
    before = launch.counts.copy()
    for x in (device.to_device(counts, "cuda"), ops.CountMatrix(counts)):
        close(ops.poisson_counts_log_prob(x, *there, by=by), ops.poisson_counts_log_prob(counts, z, w, by=by), dtype)
        bars, expected = (
            gradient(lambda *a, x=x: ops.sum(ops.poisson_counts_log_prob(x, *a, by=by)), *args)
            for x, args in ((x, there), (counts, (z, w)))
        )
        for bar, wanted in zip(bars, expected, strict=True):
            close(bar, wanted, dtype)
    launched = {name for name, n in launch.counts.items() if n > before[name]}
    assert launched == {name for name in devices.KERNELS if name.startswith("counts.")}


def test_psi1_of_an_infinite_variance(anywhere):
    """One row without a value: the derivatives of the points are those of the other rows."""
    rng = np.random.default_rng(0)
    args = [rng.normal(size=(4, 2)), rng.random((4, 2)), rng.normal(size=(3, 2)), rng.random(2), np.array(1.5)]
    args[1][0, 0] = np.inf
    f = lambda *args: ops.sum(ops.psi1(*args))  # noqa: E731
    z_bar = gradient(f, *args)[2]
    assert np.isfinite(z_bar).all()
    close(gradient(f, *map(anywhere.asarray, args))[2], z_bar, np.float64)


@pytest.mark.parametrize("trans", [False, True])
def test_one_long_system(anywhere, trans):
    rng = np.random.default_rng(0)
    chol, b = rng.uniform(1, 2, size=(2, 70_000)), rng.normal(size=70_000)
    chol[1] = rng.normal(size=70_000) * 0.5
    there = anywhere.asarray(chol), anywhere.asarray(b)
    before = launch.counts.copy()
    for op in (ops.solve_triangular_banded, ops.multiply_triangular_banded):
        close(op(*there, trans=trans), op(chol, b, trans=trans), np.float64)
    close(ops.inverse_banded(there[0]), ops.inverse_banded(chol), np.float64)
    new = {name for name, n in launch.counts.items() if n > before[name]}
    assert new == {"banded.multiply_columns", *(f"chain.{name}" for name in ("ends", "connect", "fill", "serial"))}
    here, there = (gradient(lambda c, x: ops.sum(ops.square(ops.sample_banded(x, c, x))), *a) for a in ((chol, b), there))
    for bar, wanted in zip(there, here, strict=True):
        close(bar, wanted, np.float64)


@every_dtype
@pytest.mark.parametrize("case", [case for case in OPS if case.out], ids=str)
def test_out(anywhere, case, dtype):
    s = SIZES["broadcast"]
    args = [anywhere.asarray(a.astype(dtype)) for a in case.args(np.random.default_rng(0), s)]
    expected = case.op(s)(*args).get()
    for out in (anywhere.empty(expected.shape, dtype), anywhere.empty((*expected.shape, 2), dtype)[..., 0]):
        assert case.op(s)(*args, out=out) is out
        np.testing.assert_array_equal(out.get(), expected)
    with pytest.raises(DeviceError, match="out is a NumPy array, expected a CuPy array"):
        case.op(s)(*args, out=np.empty(expected.shape, dtype))


@pytest.mark.parametrize(
    "f",
    [
        lambda c, **k: ops.solve_triangular_banded(c, c[..., 0, :], **k),
        lambda c, **k: ops.inverse_banded(c, **k),
        lambda c, **k: ops.logdet_banded(c, **k),
        lambda c, **k: ops.cholesky_banded(-c, **k),
        lambda c, **k: ops.cholesky(-ops.band_to_dense(c), **k),
    ],
)
def test_failures_are_those_of_the_cpu(anywhere, f):
    chol = np.ones((5, 2, 4))
    chol[:, 1] = 0.1
    for array in (chol, anywhere.asarray(chol)):
        array[1, 0, 2], array[3, 0, 0], array[4, 0, 1] = -1, 0, np.nan
    errors = []
    for where in (chol, anywhere.asarray(chol)):
        with pytest.raises(NotPositiveDefiniteError) as raised:
            f(where)
        errors.append((str(raised.value), raised.value.rows, raised.value.minors))
    assert errors[0] == errors[1]
    here, there = np.full(5, 7, np.int32), anywhere.full(5, 7, np.int32)
    expected, actual = f(chol, check=False, info=here), f(anywhere.asarray(chol), check=False, info=there)
    np.testing.assert_array_equal(there.get(), here)
    np.testing.assert_allclose(actual.get(), expected, rtol=1e-12, equal_nan=True)
    with pytest.raises(DeviceError, match="info"):
        f(anywhere.asarray(chol), check=False, info=here)


def test_without_check_nothing_is_waited_for(cupy):
    p = np.random.default_rng(0)
    chol = cupy.asarray(np.stack([p.uniform(1, 2, size=(9, 6)), p.normal(size=(9, 6)) * 0.3], axis=1))
    x = cupy.asarray(p.normal(size=(9, 6)))
    for _ in range(2):  # index arrays are uploaded the first time
        with cupy_emulated.counted() as n:
            for f in (
                lambda c, x: ops.kl_divergence_banded(x, c, check=False),
                lambda c, x: ops.sample_banded(x, c, x, check=False),
                lambda c, x: ops.log_prob_banded(x, x, c, check=False),
                lambda c, x: ops.logdet_banded(c, check=False),
                lambda c, x: ops.cholesky_banded(c, check=False),
            ):
                gradient(lambda c, x, f=f: ops.sum(f(c, x)), chol, x)
    assert (n.to_host, n.to_device, n.synchronize) == (0, 0, 0)
    with cupy_emulated.counted() as n:
        ops.solve_triangular_banded(chol, x)
    assert n.to_host > 0  # check=True asks


def test_devices_are_not_mixed(cupy):
    there, here = cupy.ones((2, 3)), np.ones((2, 3))
    for f in (ops.add, ops.matmul, lambda x, y: ops.sample_diagonal(x, x, y), lambda x, y: ops.bernoulli_log_prob(x, y)):
        for pair in ((there, here), (here, there)):
            with pytest.raises(DeviceError, match="one device"):
                f(*pair)
    elsewhere = cupy.ones((2, 3))
    elsewhere.data.mem.device_id = 1
    for f in (ops.add, ops.matmul, lambda x, y: ops.sample_diagonal(x, x, y)):
        with pytest.raises(DeviceError, match="is on CUDA device 1, expected device 0 as"):
            f(there, elsewhere)
    with pytest.raises(DeviceError):
        vjp(ops.multiply, there, there)[1](here)
    with pytest.raises(DeviceError):
        nn.Parameters({"a.x": there, "a.y": here})
    with pytest.raises(DeviceError, match="SciPy"):
        ops.csr_matmul(scipy.sparse.csr_array(here), cupy.ones((3, 2)))


def refusal(f, *args, **settings):
    """What a call is refused with, in words."""
    with np.errstate(all="ignore"), pytest.raises(GvaeError) as raised:
        f(*args, **settings)
    return type(raised.value), str(raised.value)


@pytest.mark.parametrize("row", [row for row in awkward.ROWS if "csr" not in str(row)], ids=str)
def test_bad_input_is_refused_in_the_words_of_the_cpu(cupy, row):
    s, args, names = awkward.S, awkward.arguments(row), awkward.names(row)
    bad = []
    for i, name in enumerate(names):
        wrong = [] if row.name in awkward.MOVERS else [args[i].astype(t) for t in (np.int64, np.bool_, np.float16)]
        wrong += [args[i].astype(np.float32)] * (len(args) > 1) + [a for other, a in awkward.misfits(row) if other == name]
        bad += [([*args[:i], a, *args[i + 1 :]], {}) for a in wrong]
    for setting in sorted(awkward.SETTINGS[row.name] & awkward.WRONG.keys()):
        bad += [(args, {setting: value}) for value in awkward.WRONG[setting][1]]
    assert bad or len(args) == 1
    op = row.public(s)
    for given, settings in bad:
        assert refusal(op, *map(cupy.asarray, given), **settings) == refusal(op, *given, **settings)


def test_masks_and_indices_may_come_from_the_host(cupy):
    x = cupy.asarray(np.arange(12.0).reshape(3, 4))
    mask = np.arange(4) % 2 == 0
    np.testing.assert_array_equal(ops.where(mask, x, 0.0).get(), np.where(mask, x.get(), 0))
    mask[:] = False  # what was passed is not what is kept
    np.testing.assert_array_equal(ops.where(mask, x, 0.0).get(), 0 * x.get())
    np.testing.assert_array_equal(ops.getitem(x, (np.array([2, 0]), slice(None))).get(), x.get()[[2, 0]])


def test_running_out_of_memory(cupy):
    """The error is the device's, what was there is as it was, and what was taken is given back."""
    pool = cupy.get_default_memory_pool()
    chol, b = cupy.ones((50, 2, 40)), cupy.ones((50, 40))
    gradient(lambda c, x: ops.sum(ops.sample_banded(x, c, x)), chol, b)  # index arrays stay
    before = pool.used_bytes()
    pool.set_limit(size=pool.total_bytes() + 20_000)
    try:
        with pytest.raises(MemoryError):
            gradient(lambda c, x: ops.sum(ops.sample_banded(x, c, x)), chol, b)
    finally:
        pool.set_limit(size=0)
    assert pool.used_bytes() == before
    assert float(chol.min()) == float(b.max()) == 1
    assert np.isfinite(gradient(lambda c, x: ops.sum(ops.sample_banded(x, c, x)), chol, b)[0].get()).all()


# ---- random numbers ----


@every_dtype
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (0, 2), (1000,)])
def test_draws(anywhere, shape, dtype):
    key = random.fold_in(random.key(3), 4)
    like = anywhere.zeros(1, dtype)
    uniform = random.uniform(key, shape, dtype, like)
    np.testing.assert_array_equal(uniform.get(), random.uniform(key, shape, dtype))
    normal, expected = random.normal(key, shape, dtype, like).get(), random.normal(key, shape, dtype)
    assert (np.abs(normal - expected) <= 4 * np.spacing(np.abs(expected))).all()
    p = random.uniform(random.key(9), shape, dtype)
    np.testing.assert_array_equal(random.bernoulli(key, anywhere.asarray(p)).get(), random.bernoulli(key, p))


# ---- training ----

X = np.random.default_rng(0).random((60, 12), np.float32)
POSTERIORS = ("diagonal", "independent", "chain", "band:2", "grid:2x3", "extended_grid:2x3", "ar1", "lowrank:2", "full")


def steps(device, posterior, objective="elbo", observation="bernoulli", n=3, dtype=np.float32, dispatching=None):
    """(flat parameters, bounds) after n steps of a small model, and the last step's counts if it is emulated."""
    model = models.VAE(12, 6, posterior=posterior, observation=observation, hidden=(8,), dtype=dtype)
    trainer = training.Trainer(model, objective=objectives.parse(objective), samples=2, seed=1, device=device)
    table = data.Table(X.astype(dtype), binarize="dynamic").to(device)
    bounds, counts = [], None
    for i, batch in enumerate(table.batches(random.key(5), 20)):
        if dispatching is not None and i == 2:
            with dispatching.counted() as counts:
                bounds.append(trainer.step(batch)["bound"])
        else:
            bounds.append(trainer.step(batch)["bound"])
    return trainer.parameters.to("cpu").flat, [float(b) for b in bounds], counts


@pytest.mark.parametrize(("kind", "amortized"), [("gamma", False), ("sigmoid", False), ("poisson", True)])
def test_sparse_counts_train_on_a_device(anywhere, kind, amortized):
    bounds = []
    for place in ("cpu", "cuda"):
        settings = {"latent": (3, 2), "hidden": (8,), "kind": kind, "amortized": amortized}
        model = models.DEF(12, **settings, dtype="float64", n_rows=60)
        trainer = training.Trainer(model, seed=1, device=place, n_rows=60, objective=objectives.ELBO(gradient="local"))
        table = data.Table(scipy.sparse.csr_array(np.floor(4.0 * X)), dtype=np.float64).to(place)
        bounds.append([float(trainer.step(batch)["bound"]) for _ in range(2) for batch in table.batches(random.key(5), 20)])
    np.testing.assert_allclose(bounds[1], bounds[0], rtol=1e-8)


@pytest.mark.parametrize("name", [name for name in families.FAMILIES if name != "gaussian"])
def test_families(anywhere, name):
    """Samples, densities, entropies, moments and divergences of every family, with raw numbers far out as well."""
    family = families.parse(name, 6)
    for spread in (1.0, 1e4):
        raw = np.random.default_rng(1).normal(size=(4, family.n_params)) * spread
        key = random.key(2)
        results = []
        for here in (raw, anywhere.asarray(raw)):
            d = family(here)
            noise = d.noise(key, (3,))
            z = d.sample(noise)
            with np.errstate(all="ignore"):  # a logit-normal's draw may be 0 or 1 itself
                results.append([z, d.shown, d.kl()])
                if spread == 1 or name != "full":  # a draw's density with a dense factor of 1e4 is what rounding leaves
                    results[-1].append(d.log_prob(z) if d.has_density else d.log_prob_of_draw(noise, z))
            for part in (d.entropy, d.variance, d.covariance, d.standard.entropy):
                try:
                    results[-1].append(part())
                except NotImplementedError:
                    results[-1].append(None)
        for wanted, actual in zip(*results, strict=True):
            if wanted is None:
                assert actual is None
                continue
            assert type(actual) is anywhere.ndarray
            np.testing.assert_allclose(
                actual.get(), wanted, rtol=1e-8 * spread, atol=1e-8 * spread * (1 + np.abs(wanted).max()), equal_nan=True
            )


def test_an_epoch(anywhere, tmp_path):
    """train, validation, the log and the checkpoint: what the CPU's run has, within rounding, and on the host."""
    histories, tensors = [], []
    for place in ("cpu", "cuda"):
        model = models.VAE(12, 6, posterior="chain", hidden=(8,))
        run = training.RunFolder(tmp_path / place, {"model": "test"})
        trainer = training.Trainer(model, seed=3, device=place)
        table, held_out = data.Table(X, binarize="dynamic"), data.Table(X[:20], binarize="threshold")
        trainer, history = training.train(
            model, table, epochs=2, batch_size=16, validation=held_out, run=run, trainer=trainer
        )
        histories.append(history.rows)
        tensors.append(training.load_checkpoint(tmp_path / place / "checkpoint.safetensors")[0])
    for here, there in zip(*histories, strict=True):
        assert all(isinstance(x, (int, float)) for x in there.values())
        for name in ("train_bound", "train_kl", "validation_bound", "epoch", "step"):
            np.testing.assert_allclose(there[name], here[name], rtol=1e-4)
    assert tensors[0].keys() == tensors[1].keys()
    for name, value in tensors[0].items():
        np.testing.assert_allclose(tensors[1][name], value, rtol=1e-2, atol=1e-4)


def test_what_cupy_lacks_is_said(cupy):
    with pytest.raises(DeviceError, match=r"scipy\.special\.pdtrik, which CuPy does not have"):
        device.special(cupy.ones(2)).pdtrik  # noqa: B018


@pytest.mark.parametrize("progress", [False, True])
def test_an_epochs_seconds_are_those_of_the_device(cupy, progress, monkeypatch, capsys):
    """Launches return at once: what the device still has to do is waited for when numbers are shown or read, and counts."""
    known = cupy.ndarray.__float__

    def late(x):
        time.sleep(0.2)
        return known(x)

    monkeypatch.setattr(cupy.ndarray, "__float__", late)
    model, table = models.VAE(12, 6, hidden=(8,)), data.Table(X, binarize="dynamic").to("cuda")
    _, history = training.train(model, table, epochs=2, batch_size=60, seed=1, device="cuda", progress=progress)
    assert history.rows[1]["seconds"] > (0.76 if progress else 0.56)


def test_an_epoch_is_waited_for_once(cupy):
    trainer = training.Trainer(models.VAE(12, 6, posterior="chain", hidden=(8,)), seed=3, device="cuda")
    table = data.Table(X, binarize="dynamic").to("cuda")
    reads = []
    for batch_size in (20, 10):
        training.train(trainer.model, table, epochs=1, batch_size=batch_size, trainer=trainer)  # and captured
        with cupy_emulated.counted() as n:
            training.train(trainer.model, table, epochs=1, batch_size=batch_size, trainer=trainer)
        reads.append(n.to_host)
    assert reads[0] == reads[1]  # however many steps it has
    assert trainer.graph.verified


def test_rows_of_parameters(anywhere):
    values = np.random.default_rng(0).normal(size=(6, 3))
    both = []
    for xp in (np, anywhere):
        adam = optim.RowAdam(xp.asarray(values.copy()), 0.1)
        for index in ([0, 3], [3, 5]):
            adam.update(xp.asarray(index), xp.asarray(np.ones((2, 3))))
        both.append(device.to_host(adam.values))
    np.testing.assert_allclose(both[1], both[0], rtol=1e-12)


def test_a_bound_that_is_not_finite(cupy):
    trainer = training.Trainer(models.VAE(12, 6, hidden=(8,)), learning_rate=1e30, seed=1, device="cuda")
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match="not finite"):
        training.train(trainer.model, data.Table(X), epochs=3, batch_size=20, trainer=trainer)


@pytest.mark.parametrize("name", thinned(MODELS, lambda name: name in ("vae", "hierarchical", "nlfa", "factor_analysis")))
def test_the_estimator(anywhere, name):
    """On a push, one of each way to train: `test_execution_paths.py` has the steps of all models."""
    settings = {
        "latent": 4,
        "posterior": "extended_grid:2x2",
        "hidden": (8,),
        "batch_size": 20,
        "epochs": 2,
        "random_state": 1,
    }
    make = gvae.estimators()[name]
    own = {
        "ladder": {"latent": (4, 2), "posterior": "chain"},
        "vae": {"observation": "bernoulli"},
        "factor_analysis": {"posterior": "full"},
        "hvm": BITS["sbn"],
    } | BITS
    asked = settings | own.get(name, {})
    settings = {name: value for name, value in asked.items() if name in make().get_params()}
    here, there = (make(**settings, device=device).fit(X, validation=X[:10]) for device in ("cpu", "cuda"))
    assert all(type(value) is np.ndarray for value in there.parameters_.values())
    np.testing.assert_allclose(there.transform(X), here.transform(X), rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(there.history_[-1]["train_bound"], here.history_[-1]["train_bound"], rtol=1e-4)


@pytest.mark.parametrize("private", [None, (2, 1)])
def test_an_estimator_of_two_views(anywhere, private):
    settings = {"latent": 3, "private": private, "hidden": (8,), "dropout": 0.2, "batch_size": 20, "epochs": 2}
    Y = X[:, ::-2].copy()
    here, there = (
        gvae.VCCA(**settings, random_state=1, device=device).fit(X, Y, validation=(X[:10], Y[:10]))
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(there.transform(X), here.transform(X), rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(there.history_[-1]["train_bound"], here.history_[-1]["train_bound"], rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"bound": "explicit"}, {"bound": "sampled"}, {"bound": "sampled", "unsupervised": True}]
)
def test_deep_gaussian_processes_in_batches(anywhere, settings):
    settings |= {"latent": (1,), "inducing": 6, "optimizer": "adam", "batch_size": 20, "epochs": 2, "random_state": 1}
    y = () if settings.get("unsupervised") else (X[:, 0],)
    here, there = (gvae.DeepGP(**settings, device=device).fit(X[:, 1:4], *y) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(there.transform(X[:, 1:4]), here.transform(X[:, 1:4]), rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="optimizer 'lbfgs:50': device is 'cuda', expected 'cpu'"):
        gvae.DeepGP(device="cuda").fit(X[:, 1:4], X[:, 0])


def test_the_model_of_a_callback_is_on_the_host(cupy):
    """With its state: what training computes from rows beside the parameters."""
    shown = []

    def look(row, model):
        shown.append((row["epoch"], model.transform(X)))

    settings = {"latent": 2, "hidden": (5,), "batch_size": 30, "epochs": 2, "random_state": 1, "device": "cuda"}
    trained = gvae.DCCA(**settings).fit(X, X[:, ::-1], callback=look)
    assert [epoch for epoch, _ in shown] == [1, 2]
    np.testing.assert_array_equal(shown[-1][1], trained.transform(X))
    assert (shown[0][1] != shown[1][1]).any()


def test_the_command_line(cupy, tmp_path, capsys):
    from gvae import cli

    np.save(tmp_path / "x.npy", X)
    arguments = ["train", str(tmp_path / "x.npy"), "--out", str(tmp_path / "run"), "--epochs", "1", "--latent", "4"]
    before = launch.counts["banded.sample"] + launch.counts["optim.adam"]
    assert cli.main([*arguments, "--hidden", "8", "--device", "cuda", "--quiet"]) in (0, None)
    assert launch.counts["banded.sample"] + launch.counts["optim.adam"] > before
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


# ---- without CUDA ----


def test_asking_for_cuda_without_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cupy", None)
    for ask in (
        lambda: device.module("cuda"),
        lambda: VAE(device="cuda").fit(X, run=tmp_path / "run"),
        lambda: training.Trainer(models.VAE(12, 4), device="cuda"),
        lambda: data.Table(X).to("cuda"),
    ):
        with pytest.raises(DeviceError, match=r"pip install 'gvae\[cuda13\]'"):
            ask()
    assert not (tmp_path / "run").exists()
    for ask in (lambda: device.module("gpu"), lambda: VAE(device="cuda:1").fit(X), lambda: VAE(device=None).fit(X)):
        with pytest.raises(ConfigError, match="cpu"):
            ask()


def test_asking_for_cuda_without_a_driver(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda, "is_available", lambda: False, raising=False)
    with pytest.raises(DeviceError, match="driver"):
        device.module("cuda")


def test_importing_and_training_on_the_cpu_does_not_import_cupy():
    code = (
        "import sys, numpy as np, gvae; gvae.VAE(latent=2, hidden=(4,), epochs=1).fit(np.eye(6))\n"
        "assert 'cupy' not in sys.modules and 'gvae.kernels.cuda.launch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_moving_between_devices(cupy):
    table = data.Table(X, binarize="threshold", weight=np.ones(60, np.float32))
    there = table.to("cuda")
    assert there.to("cuda") is there
    assert table.to("cpu") is table
    assert {type(c) for c in there.columns.values()} == {cupy.ndarray}
    np.testing.assert_array_equal(there.to("cpu").columns["x"], table.columns["x"])
    parameters = nn.Parameters({"a.w": X, "a.b": X[0], "c.w": X[1]})
    moved = parameters.to("cuda")
    assert moved.groups == parameters.groups
    np.testing.assert_array_equal(moved.to("cpu").flat, parameters.flat)
    with pytest.raises(ShapeError):
        ops.add(cupy.ones(3), cupy.ones(4))


# ---- what is to be run when a device is there ----


@pytest.fixture
def measure(cupy, monkeypatch):
    """benchmarks/gpu/measure.py, as on a machine with a device."""
    monkeypatch.setattr(sys, "path", [str(devices.ROOT / "benchmarks" / "gpu"), *sys.path])
    monkeypatch.setattr(devices, "why_no_device", lambda: None)
    import measure

    monkeypatch.setattr(measure, "seconds", lambda cupy, call, repeats=20, rounds=5: [call() for _ in range(2)] and 1e-6)
    return measure


@pytest.mark.nightly
def test_the_script_that_measures_a_device_runs(measure, monkeypatch, tmp_path, capsys):
    """From end to end on small shapes, emulated: its numbers mean nothing here, but none may be missing."""
    monkeypatch.setattr(measure, "TARGETS", dict(list(measure.TARGETS.items())[::3]))
    monkeypatch.setattr(measure, "STEPS", ("chain", "diagonal-20x50"))
    measure.main(["--no-tests", "--small", "--to", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    report, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert report["machine"]["device"] == "emulated"
    assert set(report) == {"machine", *measure.PARTS}
    assert len(report["bandwidths"]) == 2 * len(measure.TARGETS)
    assert all(row["fraction"] > 0 for row in report["bandwidths"])
    assert all(row["same_bits"] for row in [*report["long_chains"], *report["products"], *report["training"]])
    assert len(report["training"]) == 2
    for row in report["training"]:
        assert all(isinstance(row["microseconds"][f"gvae, {way}"], float) for way in ("from Python", "graph"))
        assert {"PyTorch, eager", "JAX, jit"} <= set(row["microseconds"])
    assert all(name in printed for _, name in measure.TARGETS)
    assert str(path) in printed


def test_a_part_that_fails_does_not_cost_the_others(measure, monkeypatch, tmp_path, capsys):
    def broken(*_):
        raise RuntimeError("no such instruction")

    parts = dict.fromkeys(measure.PARTS, broken) | {
        "products": lambda cupy, cases, small: measure.products(cupy, [(2, 3, 4)])
    }
    monkeypatch.setattr(measure, "PARTS", parts)
    measure.main(["--no-tests", "--to", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    report, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert report["training"] == {"error": "RuntimeError: no such instruction"}
    assert len(report["products"]) == 2
    assert "training: RuntimeError: no such instruction" in printed


@pytest.mark.nightly
def test_the_tests_that_a_device_runs_exist(measure, monkeypatch):
    """The commands themselves, as far as pytest can say without a device: files, marks and names."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "1 passed\n", "")

    monkeypatch.setattr(measure.shutil, "which", lambda name: f"/somewhere/{name}")
    monkeypatch.setattr(measure.subprocess, "run", run)
    for tool in (None, "memcheck", "racecheck"):
        assert measure.run_tests(tool) == {"ran": True, "passed": True, "exit": 0, "last_lines": ["1 passed"]}
    monkeypatch.undo()
    assert commands[0][:3] == [sys.executable, "-m", "pytest"]
    assert commands[1][:5] == ["/somewhere/compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "99"]
    collect = [*commands[2][5:], "--collect-only"]
    done = subprocess.run(collect, cwd=devices.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (
        "test_banded[device-",
        "test_long_chains[device-",
        "test_a_graph_has_the_bits_of_python_and_the_numbers_of_the_cpu[device-",
        "test_products[device-",
    ):
        assert name in done.stdout


def test_measuring_without_a_device_says_why():
    if devices.why_no_device() is None:
        pytest.skip("there is a device")
    script = devices.ROOT / "benchmarks" / "gpu" / "measure.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("measure.py: no CUDA device: ")


def test_the_witness_file():
    """Each entry names a kernel that exists; a source that has moved on shows in the summary."""
    for name, entry in devices.witness().items():
        assert name in devices.KERNELS
        assert {"source", "device", "driver", "cupy", "date"} <= set(entry)


def test_the_summary(monkeypatch):
    now = devices.digest("optim")
    seen = {"device": "a device", "date": "2026-01-02", "cupy": "14"}
    known = {"optim.adam": {"source": now} | seen, "weights.log_mean_exp": {"source": "another"} | seen}
    monkeypatch.setattr(devices, "witness", lambda: known)
    monkeypatch.setattr(devices, "emulated", {"optim.adam"})
    text = "\n".join(devices.summary())
    assert "last passed on a device, 2026-01-02, CuPy 14: optim.adam" in text
    assert "CuPy 14, and changed since: weights.log_mean_exp" in text
    assert "never seen on a device: affine.activation_vjp" in text
