"""Steps of every registered model, objective, posterior and optimiser on every path of execution: Python and launches on a
CPU, with kernels compiled ahead; Python and a CUDA graph on a device. What a path leaves is compared with Python's: equal in
bits on the same device, and within rounding between a CPU and a device.

A registered name is a row here from its first day; a name that needs more than its default settings has them in `run_cases`.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

import numpy as np
import pytest
from emulator import cupy_emulated
from run_cases import MODELS, small, trainer_state

from gvae import data, families, models, objectives, optim, random, training
from gvae.runtime import memory

ROWS, BATCH = 28, 8  # three whole batches and a smaller one: what the emulator computes takes as long as there are rows
X = np.random.default_rng(0).random((ROWS, 12), np.float32)
GREY = np.round(X * 7) / np.float32(7)
ELBO = objectives.ELBO()


@dataclasses.dataclass(frozen=True)
class Case:
    """A model under an objective. own : its steps are not those of a batch's gradient, so that no program takes them
    host : they read numbers of the device, so that no graph does. batch : rows of a batch, None for all. near : relative
    difference of bounds between a CPU and a device"""

    model: Callable[[], models.Model]
    objective: objectives.Objective = ELBO
    samples: int = 2
    batch: int | None = BATCH
    settings: dict = dataclasses.field(default_factory=dict)
    table: dict = dataclasses.field(default_factory=lambda: {"binarize": "dynamic"})
    weighted: bool = False
    own: bool = False
    host: bool = False
    near: float = 1e-4


def vae(**settings):
    return lambda: models.VAE(12, settings.pop("latent", 4), **{"posterior": "chain", "hidden": (8,)} | settings)


def of_model(name):
    settings, objective, batch = small(name)
    latent = (5, 3) if name in ("hierarchical", "dlgm", "vlae", "ladder") else 4
    if name == "dlgm":
        settings["posterior"] = "diagonal"  # its own, lowrank:1, needs cuBLAS on a device: a row of the posteriors
    return Case(
        lambda: MODELS[name](12, latent, n_rows=ROWS, **settings),
        objective,
        samples=1 if name == "factor_analysis" else 2,
        batch=batch and BATCH,
        table={},
        own=name in ("nlfa", "factor_analysis"),  # parameters of rows; EM
        host=name == "factor_analysis",
    )


def of_posterior(name):
    """Under the ELBO, or where its draws have no path, under VIMCO."""
    path = families.parse(name, 4)(np.zeros(families.parse(name, 4).n_params)).reparameterized
    objective = ELBO if path else objectives.parse("iwae", gradient="vimco")
    host = name in ("categorical", "negative_binomial", "zero_inflated")  # they check or draw there
    return Case(vae(posterior=name), objective, host=host, near=1e-3)


STEPS = {f"model {name}": of_model(name) for name in MODELS}
STEPS |= {
    f"objective {about.example}": Case(vae(), objectives.parse(about.example), samples=4)
    for about in objectives.ABOUT.values()
}
STEPS |= {f"posterior {name}": of_posterior(name) for name in families.FAMILIES}
STEPS |= {f"float64 {name}": Case(vae(posterior=name, dtype=np.float64), near=1e-8) for name in ("chain", "band:2", "full")}
STEPS |= {
    f"optimiser {text}": Case(vae(posterior="diagonal"), settings={"optimizer": text, "schedule": optim.Cosine(30)})
    for text in ("adamw:0.3", "sgd", "sgd:0.9")
}
STEPS |= {
    "average, clipping and weights": Case(vae(), settings={"average": "ema:0.9", "clip": 0.5}, weighted=True),
    "average of epochs": Case(vae(posterior="ar1", prior="ar1"), settings={"average": "swa"}),
    "a KL warmed up": Case(vae(posterior="extended_grid:2x2"), objectives.parse("iwae", warmup=7), samples=3),
    "real numbers": Case(vae(observation="gaussian", activation="tanh"), objectives.ELBO("A", warmup=7), table={}),
    "grey levels": Case(vae(observation="gaussian"), table={"x": GREY, "dequantize": 8}),
}


def rows_of(chosen):
    steps = {name: case for name, case in STEPS.items() if chosen(case)}
    return pytest.mark.parametrize("case", steps.values(), ids=list(steps))


every_step = rows_of(lambda case: True)


def untrained(case, place, programs=True):
    return training.Trainer(
        case.model(),
        objective=case.objective,
        samples=case.samples,
        n_rows=ROWS,
        seed=3,
        device=place,
        programs=programs,
        **case.settings,
    )


def table_of(case, dtype):
    columns = {"x": X} | ({"weight": np.linspace(0.5, 2, ROWS)} if case.weighted else {})
    presented = {name: value for name, value in case.table.items() if name not in columns}
    columns = {name: np.asarray(case.table.get(name, column), dtype) for name, column in columns.items()}
    return data.Table(**columns, **presented)


def trained(case, place, programs):
    """(trainer, rows of its history) after 3 epochs: of 3 whole batches each, and a smaller one."""
    trainer = untrained(case, place, programs)
    table = table_of(case, trainer.model.dtype)
    _, history = training.train(trainer.model, table, epochs=3, batch_size=case.batch or ROWS, trainer=trainer)
    return trainer, [{k: v for k, v in row.items() if "second" not in k} for row in history.rows]


@every_step
def test_launches_have_the_bits_of_python(case):
    """Of both shapes of batches: captured in the first epoch, compared in the second, and launched in the third."""
    (launched, rows), (ran, expected) = (trained(case, "cpu", programs) for programs in (True, False))
    assert rows == expected
    assert trainer_state(launched) == trainer_state(ran)
    assert ran.why_not == "programs=False"
    if case.own:
        assert launched.why_not or not launched.programs.known
    else:
        shapes = 2 if case.batch else 1
        assert [(known.verified, known.why_not) for known in launched.programs.known.values()] == [(True, "")] * shapes


@every_step
def test_steps_and_scores_leave_no_reference_cycles(case):
    """Those keep arrays in memory until a garbage collection, which is triggered by the number of objects, not by bytes."""
    trainer = untrained(case, "cpu", programs=False)
    table = table_of(case, trainer.model.dtype)
    batch = table.batch(np.arange(BATCH if case.batch else ROWS), random.key(0))
    for _ in range(2):  # what the first call caches is no garbage
        gc.collect()
        gc.disable()
        try:
            trainer.step(batch)
            trainer.validate(table)
            unreachable = gc.collect()
        finally:
            gc.enable()
    assert unreachable == 0


@rows_of(lambda case: not case.own)
def test_kernels_are_compiled_ahead(rehearsed, case):
    """All that a first step launches is on the list made before it, and making the list changes nothing."""
    known_ahead(rehearsed, case)


def test_memory_as_it_is_found_does_not_end_the_list(rehearsed, monkeypatch):
    """A dense Cholesky factorisation of NaN fails."""
    empty = memory.empty

    def poisoned(shape, dtype):
        array = empty(shape, dtype)
        array.fill(np.nan if array.dtype.kind == "f" else 1)
        return array

    monkeypatch.setattr(memory, "empty", poisoned)
    known_ahead(rehearsed, STEPS["posterior lowrank"])


def known_ahead(rehearsed, case):
    trainer, other = untrained(case, "cpu"), untrained(case, "cpu")
    batch = table_of(case, trainer.model.dtype).batch(np.arange(20), random.key(0))
    compiled, launched, metrics = rehearsed(trainer, batch)
    assert launched
    assert launched <= compiled
    assert {name for (_, name), _ in compiled - launched} <= {"log_mean_exp"}  # which is called past `device.launch`
    assert metrics == other.step(batch)
    assert trainer_state(trainer) == trainer_state(other)


@every_step
def test_a_graph_has_the_bits_of_python_and_the_numbers_of_the_cpu(anywhere, case):
    (trainer, rows), (ran, expected) = (trained(case, "cuda", programs) for programs in (True, False))
    assert rows == expected
    assert trainer_state(trainer) == trainer_state(ran)
    assert ran.graph is None
    if case.own:
        assert trainer.graph is None
    elif case.host:
        assert trainer.graph.why_not
    else:
        assert trainer.graph.verified or "cuBLAS" in trainer.graph.why_not
    other, here = trained(case, "cpu", True)
    for name in ("train_bound", "train_log_likelihood"):
        np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in here], rtol=case.near)
    scores = [each.validate(table_of(case, each.model.dtype).to(each.device))["bound"] for each in (trainer, other)]
    np.testing.assert_allclose(*scores, rtol=case.near)


@rows_of(lambda case: not case.host)
def test_a_step_stays_on_the_device(cupy, case):
    """Presentation, noise, forward, backward, update: nothing goes to or comes from the host, nothing waits."""
    trainer = untrained(case, "cuda", programs=False)
    table = table_of(case, trainer.model.dtype).to("cuda")
    for i, batch in enumerate(table.batches(random.key(5), case.batch or ROWS)):
        with cupy_emulated.counted() as counts:
            trainer.step(batch)
        if i == 2:  # kernels are loaded, index arrays uploaded
            assert (counts.to_host, counts.to_device, counts.synchronize) == (0, 0, 0)
            assert counts.launches > 2
