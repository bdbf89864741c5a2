"""Training on a device: Python first, then the step as a CUDA graph, from records of numbers in the device's memory."""

from __future__ import annotations

import gc
import logging
import weakref

import numpy as np
import pytest
from emulator import cupy_emulated
from run_cases import trainer_state

from gvae import data, models, objectives, random, training
from gvae.errors import DeviceError, StoppedError
from gvae.kernels.cuda import graph, launch, product
from gvae.runtime import device
from gvae.training.program import CudaGraph, Pass

X = np.random.default_rng(0).random((60, 12), np.float32)
HOW = {"python": {"programs": False}, "graph": {}}


def trained(how, epochs=3, posterior="chain", batch_size=16, weighted=False, dtype=np.float32, table=None, **settings):
    """A trainer after some epochs of 60 rows: in batches of 16, the last of each epoch is smaller."""
    model = models.VAE(12, 6, posterior=posterior, hidden=(8,), dtype=dtype, **settings.pop("model", {}))
    settings["objective"] = objectives.parse(settings.get("objective", "elbo"))
    trainer = training.Trainer(model, seed=3, device="cuda", **settings, **HOW[how])
    if table is None:
        weights = {"weight": np.linspace(0.5, 2, 60).astype(dtype)} if weighted else {}
        table = data.Table(X.astype(dtype), binarize="dynamic", **weights)
    _, history = training.train(model, table, epochs=epochs, batch_size=batch_size, trainer=trainer)
    return trainer, [{k: v for k, v in row.items() if "second" not in k} for row in history.rows]


@pytest.fixture
def quick_collections():
    """gc.collect() looks at what the test makes, and not at all that there is, which stays frozen as conftest.py has it."""
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("standardized", [False, True])
def test_dequantized_rows_are_the_cpus(anywhere, standardized):
    x = np.round(X * 7) / np.float32(7)
    table = data.Table(x, dequantize=8, standardization=data.Standardization.of(x, levels=8) if standardized else None)
    here, there = (
        t.batch(t_index, random.key(1)).x for t, t_index in ((table, np.arange(9)), (table.to("cuda"), anywhere.arange(9)))
    )
    np.testing.assert_allclose(there.get(), here, rtol=1e-6, atol=1e-6 if standardized else 0)
    assert (here != table.columns["x"][:9]).any()


@pytest.mark.parametrize("posterior", ["full", "lowrank:2"])
def test_what_cannot_be_captured_stays_python(anywhere, caplog, posterior):
    with caplog.at_level(logging.INFO, "gvae.training.program"):
        trainer, rows = trained("graph", posterior=posterior)
    assert trainer.graph.graph is None
    (message,) = (record.getMessage() for record in caplog.records)
    assert "steps are taken by Python: NotImplementedError: calling cu" in message
    assert rows == trained("python", posterior=posterior)[1]
    assert not anywhere.cuda.get_current_stream().is_capturing()


def test_a_model_that_draws_on_the_host_stays_python(cupy):
    class Signs(models.VAE):
        pure = True

        def noise(self, key, batch, samples=1):
            signs = random.rademacher(key, (samples, len(batch), 6), np.float32)
            return {"z": device.to_device(signs, "cuda" if device.is_cuda(batch.x) else "cpu")}

        def terms(self, params, state, batch, noise, step=0):
            return super().terms(params, state, batch, noise, step)

    runs = []
    for programs in (True, False):
        trainer = training.Trainer(Signs(12, 6, hidden=(8,)), seed=3, device="cuda", programs=programs)
        training.train(trainer.model, data.Table(X), epochs=3, batch_size=20, trainer=trainer)
        if programs:
            assert trainer.graph.refused
            assert trainer.graph.why_not.startswith("DeviceError: bits: key is a CuPy array")
        runs.append(trainer_state(trainer))
    assert runs[0] == runs[1]


def test_a_graph_that_gives_other_numbers_is_found_out(cupy):
    """Here by a model that says it is pure, and does something else while it is captured: the steps are Python's."""

    class Twofaced(models.VAE):
        pure = True

        def terms(self, params, state, batch, noise, step=0):
            terms = super().terms(params, state, batch, noise, step)
            if cupy.cuda.get_current_stream().is_capturing():
                terms.log_likelihood["x"] = terms.log_likelihood["x"] * np.float32(2)
            return terms

    runs = []
    for programs in (True, False):
        trainer = training.Trainer(Twofaced(12, 6, hidden=(8,)), seed=3, device="cuda", programs=programs)
        training.train(trainer.model, data.Table(X), epochs=2, batch_size=20, trainer=trainer)
        runs.append(trainer_state(trainer))
        if programs:
            assert (trainer.graph.why_not, trainer.graph.graph) == ("its graph gives other numbers", None)
    assert runs[0] == runs[1]


def test_another_table_is_fed_anew(cupy):
    """Also where the same one has got other rows."""
    trainer, _ = trained("graph", epochs=2)
    first = trainer.graph
    table = first.table
    for change in (lambda: table, lambda: data.Table(X[::-1].copy()).to("cuda")):
        training.train(trainer.model, change(), epochs=1, batch_size=16, trainer=trainer)
        assert (trainer.graph is first) == (change() is table)
    table.columns["x"] = cupy.asarray(X[::-1].copy())
    training.train(trainer.model, table, epochs=1, batch_size=16, trainer=trainer)
    assert trainer.graph.columns["x"] is table.columns["x"]


def test_large_products_are_left_to_cublas(anywhere, monkeypatch):
    before = launch.counts["product.product_narrow"]
    monkeypatch.setattr(product, "OWN", 0)
    trainer, _ = trained("graph")
    assert "cuBLAS" in trainer.graph.why_not
    assert launch.counts["product.product_narrow"] == before


@pytest.mark.parametrize("posterior", ["diagonal", "chain", "extended_grid:2x3", "ar1"])
def test_in_the_long_run_a_step_takes_no_memory(cupy, posterior):
    """Nor does it copy, nor wait; a graph is all there is to a step."""
    trainer, _ = trained("graph", posterior=posterior, batch_size=20, average="ema")
    table = trainer.graph.table
    with device.stream("cuda"):
        steps = Pass(trainer, table, random.key(1), 20, np.arange(60))
        steps.step(0)
        pointers = trainer.graph.workspace.pool.total_bytes()
        with cupy_emulated.counted() as n:
            steps.step(1)
            steps.step(2)
    assert (n.allocations, n.to_host, n.to_device, n.synchronize) == (0, 0, 0, 0)
    assert trainer.graph.workspace.pool.total_bytes() == pointers
    assert trainer.graph.workspace.pool.used_bytes() == 0  # between steps nothing is held there
    assert (n.graphs, n.launches, n.operations) == (2, 0, 0)


def test_no_memory_is_taken_while_a_step_is_captured(cupy):
    trainer, _ = trained("graph")
    with device.stream("cuda"), cupy_emulated.counted() as n:
        graph.Graph(lambda: trainer.graph._run(trainer), trainer.graph.workspace)
    assert n.launches > 10
    assert (n.allocations, n.graphs) == (0, 0)


def test_others_memory_is_not_written_to(cupy):
    """What a graph works in is given to nobody else, and goes back when the trainer goes."""
    gc.collect()
    before = cupy.get_default_memory_pool().used_bytes()
    trainer, _ = trained("graph")
    others = [cupy.full(shape, 7.0, np.float32) for shape in [(16, 12), (16, 8), (16, 6), (1, 16), (12, 8), (8,), ()] * 4]
    with device.stream("cuda"):
        steps = Pass(trainer, trainer.graph.table, random.key(1), 16, np.arange(60))
        for i in range(3):
            steps.step(i)
    assert all((x.get() == 7).all() for x in others)
    gone = weakref.ref(trainer)
    gc.disable()  # nothing waits for a collection
    try:
        del trainer, steps, others
        assert gone() is None
    finally:
        gc.enable()
    assert cupy.get_default_memory_pool().used_bytes() - before < 20_000  # index arrays stay


def test_index_arrays_of_a_graph_stay(cupy, quick_collections):
    """However many others are uploaded meanwhile."""
    runs = []
    for crowded in (False, True):
        trainer, _ = trained("graph")
        with device.stream("cuda"):
            steps = Pass(trainer, trainer.graph.table, random.key(1), 16, np.arange(60))
            for i in range(3):
                if crowded:
                    for j in range(launch.RESIDENT):
                        launch.resident(np.full(5, j))
                    gc.collect()
                steps.step(i)
        runs.append(trainer_state(trainer))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("how", ["python", "graph"])
def test_stopping_and_going_on(anywhere, how):
    """Within an epoch, from a snapshot on the host: the bits of a run that was not stopped."""
    whole, _ = trained(how, average="ema")
    table = data.Table(X, binarize="dynamic")
    stopped, resumed = (trained(how, epochs=2, average="ema")[0] for _ in range(2))
    with pytest.raises(StoppedError):
        training.train(stopped.model, table, epochs=1, batch_size=16, trainer=stopped, stop=lambda: stopped.steps == 10)
    arrays, counters = stopped.snapshot()
    assert counters["epoch"]["rows"] == 32
    resumed.restore(({name: device.to_host(a).copy() for name, a in arrays.items()}, counters))
    training.train(resumed.model, table, steps=2, batch_size=16, trainer=resumed)
    assert trainer_state(resumed) == trainer_state(whole)


def test_rolling_back(anywhere):
    """A restored trainer has a new graph: it knows arrays, not the trainer."""
    trainers = []
    for how in ("python", "graph"):
        trainer, _ = trained(how, epochs=1)
        trainer.set_mark()
        table = data.Table(X, binarize="dynamic")
        training.train(trainer.model, table, epochs=2, batch_size=16, trainer=trainer)
        trainer.roll_back()
        assert trainer.graph is None
        training.train(trainer.model, table, epochs=2, batch_size=16, trainer=trainer)
        trainers.append(trainer)
    assert trainers[1].graph.graph is not None
    assert trainers[0].scale == trainers[1].scale == 0.5
    assert trainer_state(trainers[0]) == trainer_state(trainers[1])


@pytest.mark.parametrize("pure", [False, True])
def test_a_step_of_ones_own_is_taken(cupy, pure):
    """By Python in every step, unless it says that it is pure: then its program is a graph as well."""

    class Signs(training.Trainer):
        calls = 0

        def step(self, batch, inputs=None):
            self.calls += 1
            now = self.inputs() if inputs is None else inputs
            noise = self.model.noise(now.noise, batch, self.samples)
            metrics, _, _ = self.value_and_gradient(dict(self.parameters), batch, noise, now)
            self.parameters.flat -= np.float32(1e-2) * np.sign(self.gradient.flat)
            self.keep({}, self.epoch.plus(metrics, len(batch)))
            self.steps += 1
            return metrics

    if pure:
        Signs.pure = True
    flats = []
    for programs in (True, False):
        trainer = Signs(models.VAE(12, 6, hidden=(8,)), device="cuda", programs=programs)
        training.train(trainer.model, data.Table(X), epochs=3, batch_size=20, trainer=trainer)
        assert trainer.steps == 9
        flats.append(trainer.parameters.flat.get())
        if programs and pure:
            assert (trainer.graph.verified, trainer.calls) == (True, 4)  # twice from records, once captured
        else:
            assert (trainer.calls, trainer.graph) == (9, None)
            assert trainer.why_not == ("Signs does not call its step pure" if programs else "programs=False")
    np.testing.assert_array_equal(*flats)


def test_the_callers_stream_waits_and_is_waited_for(cupy, monkeypatch):
    waits = []
    monkeypatch.setattr(cupy.cuda.Stream, "wait_event", lambda self, event: waits.append((self.ptr, event.stream)))
    monkeypatch.setattr(cupy.cuda.Stream, "record", lambda self: type("Event", (), {"stream": self.ptr})())
    with device.stream("cuda"):
        own = cupy.cuda.get_current_stream().ptr
    assert waits == [(own, 0), (0, own)]
    assert own != 0
    with device.stream("cuda"):
        assert cupy.cuda.get_current_stream().ptr == own  # the same next time
    mine = cupy.cuda.Stream(non_blocking=True)
    with mine, device.stream("cuda"):
        assert cupy.cuda.get_current_stream() is mine  # one that can capture is used
    with cupy.cuda.Stream(), device.stream("cuda"):
        assert cupy.cuda.get_current_stream().ptr == own  # what the null stream is given would break a capture
    with device.stream("cpu"):
        assert cupy.cuda.get_current_stream().ptr == 0


def test_a_failed_capture_leaves_the_stream_as_it_was(cupy):
    workspace, x = graph.Workspace(), cupy.ones(3)

    def run():
        nonlocal x
        x += 1
        float(x.sum())

    assert gc.isenabled()
    with device.stream("cuda"):
        with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
            graph.Graph(run, workspace)
        assert not cupy.cuda.get_current_stream().is_capturing()
    assert gc.isenabled()
    assert (x.get() == 1).all()
    with pytest.raises(RuntimeError, match="default"):  # the null stream
        graph.Graph(run, workspace)


def test_keys_on_a_device_draw_there_only(cupy):
    key = random.fold_in(random.key(3), 4)
    there = cupy.asarray(key)
    np.testing.assert_array_equal(random.fold_in(there, 5, 6).get(), random.fold_in(key, 5, 6))
    like = cupy.zeros(1)
    for draw in (random.uniform, random.normal):
        np.testing.assert_array_equal(draw(there, (3, 5), np.float64, like).get(), draw(key, (3, 5), np.float64, like).get())
    p = cupy.full((4, 3), 0.3)
    np.testing.assert_array_equal(random.bernoulli(there, p).get(), random.bernoulli(key, p.get()))
    for ask in (
        lambda: random.uniform(there, 3),
        lambda: random.bits(there, 3),
        lambda: random.permutation(there, 3),
        lambda: random.bernoulli(there, p.get()),
    ):
        with pytest.raises(DeviceError, match="key is a CuPy array, which draws on its device only"):
            ask()


# ---- running out of memory ----


@pytest.mark.parametrize("kind", ["fed", "rows"])
def test_a_step_that_runs_out_of_memory_changes_nothing(cupy, quick_collections, kind):
    """At whichever allocation it happens, in steps that Python runs, that are captured and compared; what the
    step has taken is given back, and training goes on with the bits it would have had."""
    pool, left = cupy.get_default_memory_pool(), [np.inf]

    def limited(size):
        left[0] -= 1
        if left[0] < 0:
            raise cupy.cuda.memory.OutOfMemoryError(f"Out of memory allocating {size} bytes")
        return pool.malloc(size)

    def epochs(points):
        """Two of them, in which step s fails at its allocations points[s], as long as it makes so many. And how often it
        failed, how many allocations each step made in the end."""
        settings, failures, needed = {"posterior": "diagonal", "hidden": (8,)}, 0, []
        if kind == "fed":
            model = models.VAE(12, 6, **settings)
        else:
            # E steps change a batch's own rows for good, whatever becomes of the step
            model = models.NonlinearFactorAnalysis(12, 6, observation="bernoulli", row_steps=0, **settings)
        trainer = training.Trainer(model, n_rows=60, seed=3, device="cuda", average="ema:0.9", clip=0.5)
        table = data.Table(X, binarize="dynamic").to("cuda")
        with device.stream("cuda"), cupy.cuda.using_allocator(limited):
            for s in range(8):
                if s % 4 == 0:
                    steps = Pass(trainer, table, random.key(s // 4), 16, trainer.order(60))
                    assert len(steps.there) == 60  # is uploaded
                for point in [*sorted(points[s]), 10**9]:
                    before, used = trainer_state(trainer), pool.used_bytes()
                    left[0] = point
                    try:
                        steps.step(s % 4)
                        break
                    except MemoryError:
                        failures += 1
                    finally:
                        needed.append(point - left[0])
                        left[0] = np.inf
                    needed.pop()
                    assert trainer_state(trainer) == before
                    gc.collect()
                    assert pool.used_bytes() - used <= 20_000  # index arrays, the feed's rows
        return trainer_state(trainer), failures, needed, trainer

    epochs([()] * 8)  # uploads index arrays
    whole, failures, needed, trainer = epochs([()] * 8)
    assert (failures, len(needed)) == (0, 8)
    # some from the first to the last, and the last ones: what is not allocated before the step changes something
    if kind == "fed":
        assert trainer.graph.verified
        assert needed[1] > 20  # the step that fills the workspace
        assert needed[6] == 0  # the graph
    got, failures, _, trainer = epochs([{*range(s, n, 37), *range(max(n - 3, 0), n)} for s, n in enumerate(needed)])
    assert failures > 15
    assert got == whole
    assert trainer.graph is None  # given up with its memory by the last step, which fails too


def test_a_snapshot_that_there_is_no_memory_for_changes_nothing(cupy):
    other, _ = trained("graph", epochs=2, average="ema")
    other.look(-1.0)
    arrays, counters = other.snapshot()
    snapshot = {name: device.to_host(array).copy() for name, array in arrays.items()}, counters
    trainer, _ = trained("graph", epochs=1, average="ema")
    malloc, before, left = cupy.get_default_memory_pool().malloc, trainer_state(trainer), 0

    def limited(size):
        nonlocal left
        left -= 1
        if left < 0:
            raise cupy.cuda.memory.OutOfMemoryError(f"Out of memory allocating {size} bytes")
        return malloc(size)

    for failures in range(1000):
        left = failures
        try:
            with cupy.cuda.using_allocator(limited):
                trainer.restore(snapshot)
            break
        except MemoryError:
            assert trainer_state(trainer) == before
            assert trainer.best is None
    assert failures > len(arrays) // 2
    assert trainer_state(trainer) == trainer_state(other)


def test_an_error_within_a_pass_leaves_the_next_step_its_numbers(cupy, monkeypatch):
    flats, run = [], CudaGraph._run
    for fails in (False, True):
        trainer, _ = trained("graph", posterior="full")  # cannot be captured: Python takes its steps from the records
        with device.stream("cuda"):
            steps = Pass(trainer, trainer.graph.table, random.key(1), 16, np.arange(60))
            for i in range(3):
                if fails and i == 1:

                    def half(graph, trainer):
                        graph.position += 1
                        raise ValueError("in the middle")

                    monkeypatch.setattr(CudaGraph, "_run", half)
                    with pytest.raises(ValueError, match="in the middle"):
                        steps.step(i)
                    monkeypatch.setattr(CudaGraph, "_run", run)
                steps.step(i)
        flats.append(trainer.parameters.flat.get())
    np.testing.assert_array_equal(*flats)
