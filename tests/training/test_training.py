"""Training: repeatable, exact in its parts, honest in its log, careful with files."""

from __future__ import annotations

import copy
import gc
import importlib
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gvae import models, nn, random
from gvae.autodiff import value_of
from gvae.data import Table
from gvae.errors import ConfigError, DataError, NonFiniteError, RunError, ShapeError
from gvae.evaluation import evaluate
from gvae.kernels.cpu import _products
from gvae.objectives import ELBO, ImportanceWeighted
from gvae.optim import Adam, RowAdam
from gvae.runtime import memory, pool
from gvae.training import RunFolder, Trainer, load_checkpoint, save_checkpoint, train

KEY = random.key(0)
X = (np.random.default_rng(0).uniform(size=(60, 9)) < 0.4).astype(np.float32)


def small(**settings):
    return models.VAE(9, 4, **{"posterior": "chain", "hidden": (12,)} | settings)


def test_the_same_seed_gives_the_same_bits():
    runs = [train(small(), Table(X, binarize="dynamic"), epochs=3, batch_size=7, seed=s)[0] for s in (4, 4, 5)]
    np.testing.assert_array_equal(runs[0].parameters.flat, runs[1].parameters.flat)
    assert not np.array_equal(runs[0].parameters.flat, runs[2].parameters.flat)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder.0.weight": None}, r"decoder\.0\.weight is missing, expected float32 of shape"),
        ({"other": np.zeros(2, np.float32)}, r"which has 'other'; expected encoder\.0\.weight, "),
        ({"decoder.0.weight": np.zeros((1, 2), np.float32)}, r"decoder\.0\.weight is float32 of shape \(1, 2\), expected"),
        ({"decoder.0.weight": np.zeros((1, 2))}, r"decoder\.0\.weight is float64 of shape"),
    ],
)
def test_parameters_of_another_model_are_refused(change, words):
    given = {name: value for name, value in (small().init(random.key(0)) | change).items() if value is not None}
    with pytest.raises(ConfigError, match=rf"^train: parameters are of another model.* {words}"):
        Trainer(small(), parameters=given)
    with pytest.raises(ConfigError, match=r"^train: the state is of another model, which has 'mean'; expected none"):
        Trainer(small(), state={"mean": np.zeros(2)})


def test_steps_are_epochs_cut_short():
    by_epochs, _ = train(small(), Table(X), epochs=2, batch_size=20, seed=1)
    by_steps, history = train(small(), Table(X), steps=6, batch_size=20, seed=1)
    np.testing.assert_array_equal(by_epochs.parameters.flat, by_steps.parameters.flat)
    _, cut = train(small(), Table(X), steps=4, batch_size=20, seed=1)
    assert [row["step"] for row in cut.rows] == [3, 4]
    assert len(history.rows) == 2


def test_every_row_is_seen_once_an_epoch():
    seen = []

    class Watched(models.VAE):
        def terms(self, params, state, batch, noise, step=0):
            seen.append(batch.index)
            return super().terms(params, state, batch, noise, step)

    train(Watched(9, 4, hidden=(12,)), Table(X), epochs=2, batch_size=25)
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    np.testing.assert_array_equal(np.sort(first), np.arange(60))
    np.testing.assert_array_equal(np.sort(second), np.arange(60))
    assert not np.array_equal(first, second)


def trained(model, table, programs, **settings):
    trainer = Trainer(model, n_rows=len(table), programs=programs, seed=3, **settings)
    train(model, table, epochs=6, batch_size=25, trainer=trainer)  # 60 rows: batches of two shapes
    return trainer


class Deciding(models.VAE):
    """Decides by a value."""

    pure = True

    def terms(self, params, state, batch, noise, step=0):
        terms = super().terms(params, state, batch, noise, step)
        terms.extras["sign"] = 1 if float(value_of(terms.total_log_likelihood.sum())) > 0 else -1
        return terms


class Counting(models.VAE):
    """Says that it is pure, and is not."""

    pure = True
    calls = 0

    def terms(self, params, state, batch, noise, step=0):
        self.calls += 1
        terms = super().terms(params, state, batch, noise, step)
        terms.log_likelihood["x"] = terms.log_likelihood["x"] * float(self.calls)
        return terms


@pytest.mark.parametrize("kind", [Deciding, Counting])
def test_what_cannot_be_captured_runs(kind):
    launched, ran = (trained(kind(9, 4, hidden=(12,)), Table(X), programs) for programs in (True, False))
    why = {known.why_not for known in launched.programs.known.values()}
    assert why == {
        "NotCaptured: __float__ of an array whose values are others in every launch"
        if kind is Deciding
        else "its launches give other numbers"
    }
    if kind is Deciding:
        np.testing.assert_array_equal(launched.parameters.flat, ran.parameters.flat)


def test_an_override_is_not_taken_for_pure():
    class Silent(models.VAE):
        def terms(self, params, state, batch, noise, step=0):
            return super().terms(params, state, batch, noise, step)

    assert trained(small(), Table(X), True).programs.known
    for trainer, why in [
        (trained(Silent(9, 4, hidden=(12,)), Table(X), True), "Silent does not call its terms pure"),
        (trained(small(), Table(X), True, objective=lambda *a: ELBO()(*a)), "function does not call its __call__ pure"),
    ]:
        assert (trainer.why_not, trainer.programs.known) == (why, {})


def test_an_error_of_the_model_is_its_own():
    class Broken(models.VAE):
        pure = True

        def terms(self, params, state, batch, noise, step=0):
            raise ZeroDivisionError("of the model")

    with pytest.raises(ZeroDivisionError, match="of the model"):
        trained(Broken(9, 4, hidden=(12,)), Table(X), True)


def test_adam_is_adam():
    """The flat kernel against Kingma and Ba's algorithm 1, written out; a group with rate 0 rests, one with 2 doubles."""
    r = np.random.default_rng(0)
    arrays = {"a.w": r.normal(size=(3, 2)), "b.w": r.normal(size=4), "c.w": r.normal(size=2)}
    parameters = nn.Parameters(arrays)
    optimizer = Adam(parameters, 0.01, beta1=0.8, beta2=0.95, eps=1e-3, rates={"b": 0.0, "c": 2.0})
    expected = {k: v.copy() for k, v in arrays.items()}
    m, v = ({k: np.zeros_like(x) for k, x in arrays.items()} for _ in range(2))
    for t in range(1, 6):
        gradient = nn.Parameters({k: r.normal(size=x.shape) for k, x in arrays.items()})
        optimizer.update(gradient)
        for k, rate in (("a.w", 0.01), ("c.w", 0.02)):
            m[k] = 0.8 * m[k] + 0.2 * gradient[k]
            v[k] = 0.95 * v[k] + 0.05 * gradient[k] ** 2
            expected[k] -= rate * (m[k] / (1 - 0.8**t)) / (np.sqrt(v[k] / (1 - 0.95**t)) + 1e-3)
    for k in arrays:
        np.testing.assert_allclose(parameters[k], expected[k], rtol=1e-12)
    with pytest.raises(ConfigError, match="rates names the parameter group 'd'; known are a, b, c"):
        Adam(parameters, rates={"d": 1.0})
    with pytest.raises(ShapeError, match=r"gradient has 'a' \(2,\), expected 'a.w'"):
        optimizer.update(nn.Parameters({"a": np.zeros(2)}))
    for bad in (0.0, -1.0, float("nan"), float("inf"), True):
        with pytest.raises(ConfigError, match="learning_rate is"):
            Adam(parameters, bad)


def test_row_adam_is_adam_per_row():
    r = np.random.default_rng(1)
    start = r.normal(size=(5, 3))
    rows = RowAdam(start.copy(), 0.01)
    dense = nn.Parameters({"x": start[2].copy()})
    optimizer = Adam(dense, 0.01)
    for _ in range(4):
        g = r.normal(size=3)
        rows.update(np.array([2, 0]), np.stack([g, -g]))
        optimizer.update(nn.Parameters({"x": g}))
    np.testing.assert_allclose(rows.values[2], dense["x"], rtol=1e-12)
    np.testing.assert_array_equal(rows.values[[1, 3, 4]], start[[1, 3, 4]])


def test_parameters_are_views_of_one_buffer():
    p = nn.Parameters({"b.x": np.ones(2), "a.x": np.zeros((2, 2)), "b.y": np.full(1, 3.0)})
    assert p.flat.size == 7
    assert all(np.shares_memory(v, p.flat) for v in p.values())
    for group, part in p.groups.items():
        assert part.stop - part.start == sum(v.size for k, v in p.items() if k.startswith(group))
    p["a.x"][...] = 9
    assert (p.flat == 9).sum() == 4
    assert (p.zeros().flat == 0).all()
    for other in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        other.flat[:] = 5
        assert (other["a.x"] == 5).all()
        assert (p["a.x"] == 9).all()
    with pytest.raises(ConfigError, match="several dtypes"):
        nn.Parameters({"a": np.zeros(1), "b": np.zeros(1, np.float32)})


def test_a_bound_that_is_not_finite_stops():
    model = small()
    trainer = Trainer(model)
    trainer.parameters["decoder.1.bias"][2] = np.nan
    with pytest.raises(NonFiniteError, match=r"parameter decoder.1.bias is not finite at step 0 \(batch of rows 0, 1, 2"):
        trainer.step(Table(X).batch(np.arange(10), random.key(0)))


@pytest.mark.parametrize("broken", ["parameters", "validation"])
def test_an_epoch_that_ends_broken_is_not_kept(tmp_path, broken, monkeypatch):
    """The bound of every step was finite, but the last update, or the held-out rows, were not."""

    class Last(Trainer):
        def step(self, batch, inputs=None):
            metrics = super().step(batch, inputs)
            if broken == "parameters":
                self.parameters["encoder.0.bias"][1] = np.inf
            return metrics

        def validate(self, table, batch_size=500):
            return {"bound": float("nan")} if broken == "validation" else super().validate(table, batch_size)

    run = RunFolder(tmp_path / "run", {})
    validation = Table(X[:10]) if broken == "validation" else None
    with pytest.raises(NonFiniteError, match=r"(encoder.0.bias|validation_bound) is not finite after step 1"):
        train(small(), Table(X), epochs=2, run=run, validation=validation, trainer=Last(small()))
    assert sorted(p.name for p in run.path.iterdir()) == ["config.json", "log.jsonl", "starts.jsonl"]
    (event,) = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    assert event["event"] == "not finite"


def test_validation_is_the_rowwise_mean():
    trainer = Trainer(small(dtype=np.float64), objective=ELBO("B"), samples=2)
    table = Table(X.astype(np.float64))
    whole, pieces = trainer.validate(table, 60), trainer.validate(table, 25)
    assert whole == trainer.validate(table, 60)
    assert whole["kl"] == pytest.approx(pieces["kl"], rel=1e-12)
    assert whole["bound"] == pytest.approx(pieces["bound"], abs=1.0)  # other noise


def test_binarization():
    grey = np.random.default_rng(3).uniform(size=(50, 9)).astype(np.float32)
    dynamic, key = Table(grey, binarize="dynamic"), random.key(1)
    index = np.arange(50)
    first = dynamic.batch(index, key).x
    np.testing.assert_array_equal(first, dynamic.batch(index, key).x)
    assert not np.array_equal(first, dynamic.batch(index, random.fold_in(key, 1)).x)
    assert set(np.unique(first)) == {0.0, 1.0}
    fixed = Table(grey, binarize="fixed", key=key)
    np.testing.assert_array_equal(fixed.batch(index, key).x, fixed.batch(index, random.key(7)).x)
    np.testing.assert_array_equal(Table(grey, binarize="threshold").batch(index, key).x, grey > 0.5)
    np.testing.assert_array_equal(Table(grey).batch(index, key).x, grey)
    many = np.stack([dynamic.batch(index, random.fold_in(key, i)).x for i in range(4000)]).mean(axis=0)
    assert np.abs((many - grey) / np.sqrt(grey * (1 - grey) / 4000 + 1e-9)).max() < 5.5  # 450 comparisons, below 2e-5
    with pytest.raises(ConfigError, match="unknown binarization 'coin'"):
        Table(grey, binarize="coin")
    with pytest.raises(DataError, match="different lengths"):
        Table(grey, y=np.zeros(3))
    with pytest.raises(DataError, match="asks for column 'labels'"):
        Table(grey).batch(index, key).labels  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1, "steps": 3}, "give epochs or steps"),
        ({}, "give epochs or steps"),
        ({"steps": -1}, "steps is -1"),
        ({"epochs": 1, "batch_size": 0}, "batch_size is 0"),
        ({"epochs": 1, "samples": 0}, "samples is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"epochs": 1, "learning_rate": -1.0}, "learning_rate is -1.0"),
    ],
)
def test_settings_that_are_none(settings, message):
    with pytest.raises(ConfigError, match=message):
        train(small(), Table(X), **settings)


def test_an_empty_table():
    with pytest.raises(DataError, match="no rows"):
        train(small(), Table(X[:0]), epochs=1)


def test_a_run_folder(tmp_path):
    run = RunFolder(tmp_path / "deep" / "run", {"answer": 42})
    trainer, history = train(small(), Table(X), epochs=2, validation=Table(X[:20]), run=run)
    files = ["checkpoint.previous.safetensors", "checkpoint.safetensors", "config.json", "log.jsonl", "starts.jsonl"]
    assert sorted(p.name for p in run.path.iterdir()) == files
    rows = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert rows == history.rows
    expected = {"epoch", "step", "seconds", "steps_per_second"}
    expected |= {f"{a}_{b}" for a in ("train", "validation") for b in ("bound", "kl", "log_likelihood")}
    assert set(rows[0]) == expected
    tensors, config, counters = load_checkpoint(run.path / "checkpoint.safetensors")
    assert config == {"answer": 42}
    assert [counters[name] for name in ("steps", "epochs", "optimizer_step")] == [2, 2, 2]
    for name, value in trainer.parameters.items():
        np.testing.assert_array_equal(tensors[f"parameters/{name}"], value)
    np.testing.assert_array_equal(tensors["optimizer/m"], trainer.optimizer.m)
    with pytest.raises(RunError, match="already holds something"):
        RunFolder(run.path, {})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="already holds something"):
        RunFolder(tmp_path / "file", {})
    with pytest.raises(RunError):
        RunFolder(tmp_path / "file" / "below", {})
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    trainer = Trainer(small())
    save_checkpoint(path, trainer, {})
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("disk full")))
    trainer.parameters.flat += 1
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, trainer, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "foreign", "flipped header"])
def test_a_damaged_checkpoint(tmp_path, damage):
    from safetensors.numpy import save_file

    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, Trainer(small()), {})
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "foreign":
        save_file({"x": np.zeros(3)}, path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[:-50],
                "text": b"hello, world",
                "flipped header": content[:9] + b"!" + content[10:],
            }[damage]
        )
    with pytest.raises(RunError, match=r"no checkpoint|damaged|not a gvae checkpoint"):
        load_checkpoint(path)


def test_evaluation_in_chunks_is_evaluation_at_once(monkeypatch):
    """The running sums over chunks of samples give what one big logsumexp gives, on the same noise."""
    from gvae.evaluation import importance as evaluation

    model = small(dtype=np.float64)
    params = model.init(random.key(0))
    table, key = Table(X[:10].astype(np.float64)), random.key(3)
    monkeypatch.setattr(evaluation, "ROWS_AT_ONCE", 40)  # 4 samples of 10 rows at a time
    result = evaluate(model, params, table, samples=10, key=key)
    log_w, likelihood = [], []
    for c, k in enumerate((4, 4, 2)):
        batch = table.batch(np.arange(10), random.fold_in(random.fold_in(key, 0), 0))
        terms = model.terms(params, {}, batch, model.noise(random.fold_in(key, 1, 0, c), batch, k))
        log_w.append(terms.total_log_likelihood - (terms.layers[0].log_q - terms.layers[0].log_p))
        likelihood.append(terms.total_log_likelihood)
    log_w, likelihood = np.concatenate(log_w), np.concatenate(likelihood)
    top = log_w.max(axis=0)
    w = np.exp(log_w - top)
    np.testing.assert_allclose(result.log_likelihood, top + np.log(w.mean(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(result.effective_sample_size, w.sum(axis=0) ** 2 / (w**2).sum(axis=0), rtol=1e-11)
    np.testing.assert_allclose(result.kl, terms.layers[0].kl, rtol=1e-12)
    np.testing.assert_allclose(result.elbo, likelihood.mean(axis=0) - result.kl, rtol=1e-12)
    summary = result.summary()
    assert summary["rows"] == 10
    assert summary["elbo"] == pytest.approx(result.elbo.mean())
    assert summary["elbo_standard_error"] == pytest.approx(result.elbo.std(ddof=1) / np.sqrt(10))


def test_evaluation_keeps_to_its_memory(monkeypatch):
    """The peak over many samples stays within the budget, and the numbers are those of any other budget."""
    monkeypatch.setenv(pool.VARIABLE, "1")  # parts of a kernel that run at the same time have working memory each
    model = models.VAE(784, 16, hidden=(100,))
    params = model.init(random.key(0))
    x = (np.random.default_rng(0).uniform(size=(100, 784)) < 0.2).astype(np.float32)
    settings = {"samples": 300, "key": random.key(1)}
    expected = evaluate(model, params, Table(x), **settings)
    for budget in (2, 5):
        memory.clear_memory()
        tracemalloc.start()
        got = evaluate(model, params, Table(x), memory=budget, **settings)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 0.6 * budget < (peak - x.nbytes) / 1e6 < 1.1 * budget + 0.2  # one batch of data; what Python takes
        np.testing.assert_allclose(got.log_likelihood, expected.log_likelihood, rtol=1e-5)
        np.testing.assert_allclose(got.elbo, expected.elbo, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"memory is 0.1 MB, expected at least \d+, which one sample of 100 rows takes"):
        evaluate(model, params, Table(x), memory=0.1, **settings)


def test_threads_share_the_memory_of_an_evaluation(monkeypatch):
    budget = 6  # with which each of them alone would take all of it
    monkeypatch.setenv(pool.VARIABLE, "2")
    model = models.VAE(784, 16, hidden=(100,))
    params = model.init(random.key(0))
    x = (np.random.default_rng(0).uniform(size=(400, 784)) < 0.2).astype(np.float32)
    evaluate(model, params, Table(x), samples=300, memory=budget)
    memory.clear_memory()
    tracemalloc.start()
    evaluate(model, params, Table(x), samples=300, memory=budget)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    data = 2 * x[:100].nbytes  # a batch of each
    assert 0.6 * budget < (peak - data) / 1e6 < 1.1 * budget + 0.2


@pytest.mark.parametrize("how", [{"programs": False}, {}], ids=["python", "launches"])
def test_a_step_allocates_nothing_large_in_the_long_run(how, monkeypatch):
    """All arrays of some size lie in memory that the steps before have used; kernels have some to work in, however large
    the batch."""
    monkeypatch.setenv(pool.VARIABLE, "1")  # one kernel at a time
    model = models.VAE(784, 16, posterior="chain", hidden=(100,))
    trainer = Trainer(model, objective=ImportanceWeighted(), samples=20, **how)
    batch = Table((np.random.default_rng(0).uniform(size=(50, 784)) < 0.2).astype(np.float32)).batch(np.arange(50), KEY)
    for _ in range(5):
        trainer.step(batch)
    memory.clear_memory()
    tracemalloc.start()
    peaks = []
    for _ in range(4):
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        trainer.step(batch)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    assert (peaks[0] > 1000 * 784 * 4) == bool(how)  # launches have memory of their own
    scratch = 4 * _products.DEPTH * (_products.WIDTH + _products.CHUNK + 100)  # panels, strips, and scaled rows of 100
    assert max(peaks[1:]) < scratch + 1000 * 100 * 4  # not one more array of a hidden layer


@pytest.mark.parametrize("programs", [True, False])
def test_memory_of_a_step_is_near_what_must_exist(programs):
    """For 100 images x 50 draws: the layers that the way back reads, of the decoder, and what else a step needs beside the
    trainer's own arrays."""
    model = models.VAE(784, 16, hidden=(200, 200))
    trainer = Trainer(model, objective=ImportanceWeighted(), samples=50, programs=programs)
    batch = Table((np.random.default_rng(0).uniform(size=(100, 784)) < 0.2).astype(np.float32)).batch(np.arange(100), KEY)
    trainer.step(Table(np.zeros((2, 784), np.float32)).batch(np.arange(2), KEY))
    other = Trainer(model, objective=ImportanceWeighted(), samples=50, programs=programs)
    other.step(batch)  # compiles, and what it leaves would be counted
    del other
    memory.clear_memory()
    gc.collect()
    tracemalloc.start()
    peaks = []
    for _ in range(7):
        tracemalloc.reset_peak()
        trainer.step(batch)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    layers = 100 * 50 * (200 + 200 + 784 + 200) * 4  # and a cotangent, while the one before it is made of it
    print(", ".join(f"{peak / layers:.2f}" for peak in peaks), f"of {layers / 1e6:.1f} MB")
    assert layers < peaks[-1] < 1.5 * layers


@pytest.mark.exclusive
def test_launches_need_no_more_memory_than_python():
    """But for the gradient and the batch that are kept to compare with, in the steps that they are captured in."""
    model = models.VAE(784, 16, posterior="chain", hidden=(100,))
    table = Table((np.random.default_rng(0).uniform(size=(70, 784)) < 0.2).astype(np.float32))
    peaks = []
    for programs in (False, True):
        trainer = Trainer(model, objective=ImportanceWeighted(), samples=20, programs=programs)
        trainer.step(table.batch(np.arange(70), KEY))  # compiles
        trainer = Trainer(model, objective=ImportanceWeighted(), samples=20, programs=programs)
        memory.clear_memory()
        gc.collect()
        tracemalloc.start()
        for i in range(8):
            trainer.step(table.batch(np.arange(i, 60 + i), KEY))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert all(known.verified for known in trainer.programs.known.values())
    kept = trainer.gradient.flat.nbytes + 2 * table.columns["x"].nbytes
    assert 1200 * 784 * 4 < peaks[1] < 1.1 * peaks[0] + kept


def test_evaluation_needs_samples():
    for bad in (0, -1, 2.5, True):
        with pytest.raises(ConfigError, match="samples is"):
            evaluate(small(), {}, Table(X), samples=bad)


# ---- to be read ----------------------------------------------------------------------------------


def test_the_plain_step_has_the_bits_of_the_trainers(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    plain = importlib.import_module("plain_step")
    model = models.VAE(64, plain.LATENT, posterior="chain", observation="bernoulli", hidden=(32,))
    trainer = Trainer(model, seed=1)
    for step, (bound, parameters) in enumerate(plain.train(3)):
        batch = Table(plain.images(step)).batch(np.arange(plain.ROWS), KEY)
        assert trainer.step(batch)["bound"] == bound
        assert parameters.keys() == trainer.parameters.keys()
        for name, value in parameters.items():
            np.testing.assert_array_equal(value, trainer.parameters[name])


def test_the_way_from_a_step_to_its_first_kernel_is_short(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "asv_bench"))
    ways = importlib.import_module("frames").frames(3)
    assert all(way[0].endswith("Trainer.step") for way in ways)
    assert ways[1][-1].endswith("launch_product")
    assert [len(way) for way in ways] <= [20, 18, 4]


@pytest.mark.parametrize("rows", [20, 25])
def test_another_step_is_taken_on_all_paths(rows):
    """A subclass with a `step` of its own, signs in place of Adam: by Python and by programs, with ragged batches too."""

    class Signs(Trainer):
        def step(self, batch, inputs=None):
            now = self.inputs() if inputs is None else inputs
            noise = self.model.noise(now.noise, batch, self.samples)
            metrics, state, _ = self.value_and_gradient(dict(self.parameters), batch, noise, now)
            sums = self.epoch.plus(metrics, len(batch))
            self.parameters.flat -= np.float32(1e-2) * np.sign(self.gradient.flat)
            self.keep(state, sums)
            self.steps += 1
            return metrics

    runs = []
    for programs in (True, False):
        trainer = Signs(small(), seed=3, programs=programs)
        _, history = train(trainer.model, Table(X, binarize="dynamic"), epochs=4, batch_size=rows, trainer=trainer)
        runs.append((trainer.parameters.flat.tobytes(), [row["train_bound"] for row in history.rows]))
        if programs:
            assert all(known.verified for known in trainer.programs.known.values())
    assert runs[0] == runs[1]
    assert runs[0][1][-1] > runs[0][1][0]


def test_old_settings_still_work():
    with pytest.warns(DeprecationWarning, match="replays and graphs are now programs"):
        assert Trainer(small(), replays=False).why_not == "programs=False"
