"""`gvae sweep`: trials by one process and by several, killed, interrupted, pruned; what is refused; what a study shows.

A fault of any kind ends in one line, and the same command afterwards leads to the trials of a study without faults, bit for
bit.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from command_line import ROWS, environment, listing
from run_cases import state

import gvae
from gvae import cli, sweeps, training
from gvae.errors import ConfigError, RunError
from gvae.training import runs

pytest.importorskip("optuna", reason="not installed: optuna (extra sweep)")

DIGITS = """
[data]
source = "digits"
[fixed]
epochs = 3
hidden = [16]
batch_size = 200
observation = "bernoulli"
[ranges]
learning_rate = {low = 1e-4, high = 1e-2, log = true}
latent = [2, 4, 8]
[study]
trials = 12
"""
SMALL = """
[data]
source = "rows.npy"
[fixed]
epochs = 4
hidden = [5]
batch_size = 10
[ranges]
learning_rate = {low = 1e-3, high = 1e-1, log = true}
latent = [1, 2]
[study]
trials = 3
seed = 7
"""
SWEEP = ["sweep", "study.toml", "--out", "study"]


@pytest.fixture
def small(here):
    """A folder with rows and study.toml."""
    np.save("rows.npy", ROWS)
    Path("study.toml").write_text(SMALL)
    return here


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study of SMALL by one process, without faults."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        np.save("rows.npy", ROWS)
        Path("study.toml").write_text(SMALL)
        assert cli.main([*SWEEP, "--quiet"]) == 0
    return folder / "study"


def plan(text, folder=Path()):
    (folder / "plan.toml").write_text(text)
    return sweeps.read_plan(folder / "plan.toml")


def trials(study):
    return sweeps.Study(study).trials()


def agree(study, other):
    """That two studies have the same trials, to the last bit of all parameters."""
    mine, theirs = trials(study), trials(other)
    for a, b in zip(mine, theirs, strict=True):
        assert [a[k] for k in ("trial", "state", "value", "settings", "curve")] == [
            b[k] for k in ("trial", "state", "value", "settings", "curve")
        ]
        assert {a["state"]} <= {"complete", "pruned"}
        same(a["run"], b["run"])


def same(run, other):
    """That two runs have the same weights, configuration and log, but for the place of their data."""
    for one, two in zip(state(Path(run)), state(Path(other)), strict=True):
        for part in (one, two):
            if isinstance(part, dict):
                for name in ("data", "file"):  # where the rows of a study are, and when they were written
                    part.get("notes", {}).pop(name, None)
        assert one == two


def forked(work):
    """work() in a child process; returns its exit status, negative for a signal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks of threads
        child = os.fork()
    if child == 0:
        with contextlib.redirect_stdout(None):
            code = 1
            with contextlib.suppress(BaseException):
                code = work()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def saved_rows(run):
    """The rows of a log that a checkpoint has seen, with the times that they took."""
    found = (run / training.runs.CHECKPOINT).exists()
    return training.read_history(run, training.read(run)[1])[0] if found else []


def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


# ---- several processes ---------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from gvae import cli
from gvae.training import RunFolder
save, seen = RunFolder.save, []
def killing(run, trainer):
    save(run, trainer)
    seen.append(trainer)
    if len(seen) == 5:  # in the second epoch of the second trial
        os.kill(os.getpid(), signal.SIGKILL)
RunFolder.save = killing
sys.exit(cli.main(sys.argv[1:]))
"""


def test_two_processes_one_of_them_killed(here):
    """All trials are there once, with the settings and, to the last bit, the weights of the study of one process alone."""
    Path("study.toml").write_text(DIGITS)
    start = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    survivor = subprocess.Popen([sys.executable, "-m", "gvae", *SWEEP], **start)
    victim = subprocess.Popen([sys.executable, "-c", KILLED, *SWEEP], **start)
    assert cli.main([*SWEEP[:3], "alone", "--quiet"]) == 0
    victim.communicate(timeout=120)
    out, err = survivor.communicate(timeout=120)
    assert (victim.returncode, survivor.returncode, err) == (-signal.SIGKILL, 0, "")
    agree("study", "alone")
    operations = [json.loads(line) for line in Path("study/journal.log").read_text().splitlines()]
    assert len({op["worker_id"] for op in operations}) == 2
    assert sum(op["op_code"] == 4 for op in operations) == len(trials("study")) == 12
    starts = [len(training.read_starts(Path(trial["run"]))) for trial in trials("study")]
    assert sorted(starts) == [1] * 11 + [2]
    best = sweeps.Study("study").best()
    assert best == sweeps.Study("alone").best() | {"run": best["run"], "seconds": best["seconds"]}
    assert "study: 12 trials: 12 complete\n" in out
    assert f"trial {best['trial']} complete: validation_bound {best['value']:.6g}" in out.splitlines()[-1]


def test_a_trial_of_a_living_process_is_left_to_it(small):
    """By its lock, and by the lock of its run folder, which gvae train --resume holds."""
    study = sweeps.Study.join("study", plan(SMALL), "rows")
    first = study.claim()
    assert (first.number, study.trials()[0]["state"]) == (0, "running")

    def take():
        other = sweeps.Study("study").claim()
        return 100 + other.number

    assert forked(take) == 101
    assert [trial["state"] for trial in study.trials()] == ["running", "interrupted"]
    first.release()
    assert forked(take) == 100
    first.path.mkdir()
    log = os.open(first.path / "log.jsonl", os.O_WRONLY | os.O_CREAT)
    assert training.files.lock(log)
    assert forked(take) == 101
    os.close(log)


HOLDING = """
import time
from gvae import sweeps
study = sweeps.Study("study")
held = [study.claim() for _ in range(3)]
print("held", flush=True)
time.sleep(100)
"""


def test_the_last_trials_of_others_are_waited_for(small, alone, gvae_, monkeypatch):
    """And taken over when the process that has them is killed."""
    shutil.copytree(alone, "study")
    Path("study/journal.log").write_text(Path("study/journal.log").read_text().splitlines(keepends=True)[0])
    for run in Path("study").glob("trial-*"):
        shutil.rmtree(run)
    other = subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE, text=True, env=environment())
    assert other.stdout.readline() == "held\n"
    asleep = []

    def sleep(seconds):
        asleep.append(seconds)
        if len(asleep) == 3:
            other.kill()
            other.communicate()

    monkeypatch.setattr(sweeps.work.__globals__["time"], "sleep", sleep)
    code, out, err = gvae_(*SWEEP)
    assert (code, err, other.returncode) == (0, "", -signal.SIGKILL)
    assert asleep == [0.5] * 3
    assert out.count("study: the last trials are trained by other processes\n") == 1
    agree("study", alone)


def test_a_study_that_another_process_is_beginning_is_free(small, tmp_path):
    """Whatever of it is there already; under the lock, it is decided whether the folder has anything else."""
    check, folder = sweeps.study._check_free, tmp_path / "begun"
    (folder / sweeps.study.LOCKS).mkdir(parents=True)
    for name in ("", sweeps.study.JOURNAL, sweeps.study.PLAN):
        if name:
            (folder / name).touch()
        check(folder)
    (folder / sweeps.study.PLAN).unlink()
    check(folder, locked=True)
    (folder / "letter.txt").touch()
    with pytest.raises(RunError, match="already holds something"):
        check(folder, locked=True)
    with pytest.raises(RunError, match="already holds something"):
        sweeps.Study.join(folder, plan(SMALL), "rows")
    (folder / sweeps.study.LOCKS / "study").unlink()
    (folder / sweeps.study.LOCKS).rmdir()
    with pytest.raises(RunError, match="nothing was written"):
        sweeps.Study.join(folder, plan(SMALL), "rows")
    assert not (folder / sweeps.study.LOCKS).exists()


def test_trials_that_end_meanwhile_are_not_taken_over(small, monkeypatch):
    """One that has ended between a look at the journal and the lock."""
    study = sweeps.Study.join("study", plan(SMALL), "rows")
    first, other = study.claim(), sweeps.Study("study")
    take = sweeps.locks.take

    def late(path):
        if path.name == "000":
            first.asked.study.tell(0, 1.0)
            first.release()
        return take(path)

    monkeypatch.setattr(sweeps.locks, "take", late)
    assert other.claim().number == 1


# ---- kills ---------------------------------------------------------------------------------------


def half_a_line(descriptor, text):
    """os.write of a process that is killed in the middle."""
    if b"op_code" in text and b'"step":2' in text:
        WRITE(descriptor, text[: len(text) // 2])
        kill()
    return WRITE(descriptor, text)


WRITE = os.write
MOMENTS = {
    "a study without a plan": lambda patch: patch.setattr(sweeps.study.files, "write_atomically", kill),
    "half a line of the journal": lambda patch: patch.setattr(os, "write", half_a_line),
    "a trial without settings": lambda patch: patch.setattr("optuna.trial.Trial.suggest_float", kill),
    "a trial that no process has claimed": lambda patch: patch.setattr("optuna.study.Study.ask", kill),
    "no run folder": lambda patch: patch.setattr(gvae.VAE, "fit", kill),
    "no configuration": lambda patch: patch.setattr(runs.RunFolder, "_write_config", kill),
    "no checkpoint": lambda patch: patch.setattr(runs.RunFolder, "save", kill),
    "in an epoch": lambda patch: patch.setattr(sweeps.study.Trial, "_report", kill),
    "trained, and not told": lambda patch: patch.setattr(sweeps.study.Trial, "finish", kill),
    "told in part": lambda patch: patch.setattr("optuna.study.Study.tell", kill),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(small, alone, moment):
    def work():
        with pytest.MonkeyPatch.context() as patch:
            MOMENTS[moment](patch)
            return cli.main([*SWEEP, "--quiet"])

    assert forked(work) == -signal.SIGKILL
    before = saved_rows(Path("study/trial-000"))
    assert cli.main([*SWEEP, "--quiet"]) == 0
    agree("study", alone)
    assert saved_rows(Path("study/trial-000"))[: len(before)] == before  # resumed, not begun again


def test_interrupted(small, alone, gvae_, monkeypatch):
    """TERM: the step ends, the run is saved, the trial waits for the same command."""

    def terminate(row, model, look=sweeps.study.Trial.look):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.study.Trial, "look", terminate)
        code, out, err = gvae_(*SWEEP)
    assert (code, out) == (143, "")
    assert err.startswith("gvae sweep: training stopped at step 5, in epoch 2")
    assert err.endswith("; continue with: gvae sweep study.toml --out study\n")
    assert [trial["state"] for trial in trials("study")] == ["interrupted"]
    assert gvae_(*SWEEP)[0] == 0
    agree("study", alone)


# ---- pruning -------------------------------------------------------------------------------------

PRUNED = SMALL.replace("trials = 3", 'trials = 8\npruner = "median:startup=2"')


def test_a_pruned_trial_can_be_resumed(small, gvae_):
    """By gvae train --resume, to the bits of the trial in a study without a pruner."""
    Path("study.toml").write_text(PRUNED)
    code, out, _ = gvae_(*SWEEP)
    assert code == 0
    found = trials("study")
    pruned = [trial for trial in found if trial["state"] == "pruned"]
    assert 1 <= len(pruned) < len(found)
    assert f"{len(pruned)} pruned" in out
    for trial in pruned:
        assert trial["epoch"] < 4
        assert trial["value"] == trial["curve"][trial["epoch"]]
    assert sweeps.Study("study").best()["state"] == "complete"
    Path("study.toml").write_text(PRUNED.replace("median:startup=2", "none"))
    assert gvae_(*SWEEP[:3], "whole")[0] == 0
    for trial, other in zip(found, trials("whole"), strict=True):
        assert trial["settings"] == other["settings"]
        if trial["state"] == "pruned":
            assert gvae_("train", "--resume", trial["run"], "--quiet") == (0, "", "")
        same(trial["run"], other["run"])


def test_pruners(small):
    for text, kind, keys in (
        ("none", "NopPruner", {}),
        ("median:startup=3,warmup=2", "MedianPruner", {"_n_startup_trials": 3, "_n_warmup_steps": 2}),
        ("halving:2", "SuccessiveHalvingPruner", {"_min_resource": 1, "_reduction_factor": 2}),
    ):
        found = sweeps.study._pruner(plan(SMALL + f'pruner = "{text}"'))
        assert type(found).__name__ == kind
        assert {key: getattr(found, key) for key in keys} == keys


# ---- proposals -----------------------------------------------------------------------------------


def test_random_proposals_depend_on_seed_and_number(here):
    one, two = plan(SMALL), plan(SMALL)
    assert [one.proposal(i) for i in (5, 0, 3)] == [two.proposal(i) for i in (5, 0, 3)]
    other = plan(SMALL.replace("seed = 7", "seed = 8"))
    assert all(one.proposal(i) != other.proposal(i) for i in range(20))
    wide = (
        "dropout = {low = 0.1, high = 0.5}\nbatch_size = {low = 3, high = 5}\nsamples = {low = 1, high = 64, log = true}\n"
    )
    drawn = plan(SMALL.replace("batch_size = 10", "").replace("latent = [1, 2]", f"latent = [1, 2]\n{wide}"))
    found = [drawn.varied(drawn.proposal(i)) for i in range(2000)]
    rates = np.log10([p["learning_rate"] for p in found])
    assert (rates >= -3).all()
    assert (rates <= -1).all()
    np.testing.assert_allclose(np.quantile(rates, [0.25, 0.5, 0.75]), [-2.5, -2, -1.5], atol=0.08)
    np.testing.assert_allclose(np.quantile([p["dropout"] for p in found], [0.25, 0.5]), [0.2, 0.3], atol=0.02)
    for name, values in (("latent", (1, 2)), ("batch_size", (3, 4, 5))):
        drawn_values = [p[name] for p in found]
        assert set(drawn_values) == set(values)
        shares = [drawn_values.count(v) / 2000 for v in values]
        np.testing.assert_allclose(shares, 1 / len(values), atol=0.05)
    samples = [p["samples"] for p in found]
    assert (min(samples), max(samples)) == (1, 64)
    assert np.mean(np.array(samples) < 8) == pytest.approx(math.log(8) / math.log(65), abs=0.04)
    assert abs(np.corrcoef(rates, [p["dropout"] for p in found])[0, 1]) < 0.07


def test_a_grid_has_each_point_once(small, gvae_):
    text = SMALL.replace("{low = 1e-3, high = 1e-1, log = true}", "[0.01, 0.1]").replace("trials = 3", 'sampler = "grid"')
    text = text.replace("hidden = [5]", "").replace("[1, 2]", "[1, 2]\nhidden = [[5], [4, 3], []]")
    Path("study.toml").write_text(text.replace("epochs = 4", "epochs = 1"))
    assert gvae_(*SWEEP)[0] == 0
    found = [tuple(map(str, trial["settings"].values())) for trial in trials("study")]
    assert found == [(a, b, c) for a in ("0.01", "0.1") for b in ("1", "2") for c in ("[5]", "[4, 3]", "[]")]
    for trial in trials("study"):
        config = training.read_config(Path(trial["run"]))["settings"]
        assert {name: config[name] for name in trial["settings"]} == trial["settings"]
    assert plan(text + "trials = 5").trials == 5


def test_tpe_alone_is_reproducible(small, gvae_):
    Path("study.toml").write_text(
        SMALL.replace("epochs = 4", "epochs = 1").replace("trials = 3", 'trials = 14\nsampler = "tpe"')
    )
    assert gvae_(*SWEEP)[0] == gvae_(*SWEEP[:3], "again")[0] == 0
    agree("study", "again")
    assert len({trial["settings"]["learning_rate"] for trial in trials("study")}) == 14


# ---- held-out rows -------------------------------------------------------------------------------


def test_trials_are_not_compared_on_test_rows(small, alone):
    """Rows are held out of training, the same in each trial; the data's own validation rows where it has some."""
    config = training.read_config(alone / "trial-000")
    assert config["settings"]["patience"] == 4
    assert config["fitted"]["n_rows"] == training.read_config(alone / "trial-001")["fitted"]["n_rows"] < len(ROWS) * 0.85
    dataset = gvae.data.load("rows.npy")
    fit = cli.sweep._Fit(plan(SMALL), dataset, {}, 300.0, lambda: False)
    model, train, held, _ = fit._prepared(fit.plan.fixed)
    assert held is None
    assert train[0] is dataset.train
    assert model.holds_out
    given = gvae.data.dataset.Dataset("rows", dataset.train, dataset.test, validation=dataset.train[:7])
    model, _, held, _ = cli.sweep._Fit(plan(SMALL), given, {}, 300.0, lambda: False)._prepared(fit.plan.fixed)
    assert (model.patience, len(held[0])) == (None, 7)


# ---- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff\xfe", b'{"op_code": 6}', b'{"op_code": 99, "worker_id": "w"}'])
def test_a_damaged_journal(small, alone, refused, line):
    """One line, nothing changed; cut before the damage, the journal is filled again from the run folders."""
    shutil.copytree(alone, "study")
    journal = Path("study/journal.log")
    lines = journal.read_bytes().splitlines(keepends=True)
    n = next(i for i, text in enumerate(lines) if b'"op_code":6' in text and b'"trial_id":1' in text)
    journal.write_bytes(b"".join([*lines[:n], line + b"\n", *lines[n:]]))
    for words in (SWEEP, ["runs", "study"], ["report", "study"]):
        said = refused(words, "study/journal.log", "damaged", "nothing was changed")
        if b"99" not in line:
            assert f"line {n + 1} is damaged" in said
    journal.write_bytes(b"".join(lines[:n]))
    kept = {p: p.stat().st_mtime_ns for p in Path("study").glob("*/checkpoint.safetensors")}
    assert cli.main([*SWEEP, "--quiet"]) == 0
    agree("study", alone)
    assert {p: p.stat().st_mtime_ns for p in Path("study").glob("*/checkpoint.safetensors")} == kept


def test_a_lost_journal(small, alone, refused):
    shutil.copytree(alone, "study")
    os.unlink("study/journal.log")
    refused(SWEEP, "study has lost its journal.log", "an empty file of that name")
    Path("study/journal.log").touch()
    assert cli.main([*SWEEP, "--quiet"]) == 0
    agree("study", alone)
    os.unlink("study/study.toml")
    refused(SWEEP, "already holds something")


def test_a_run_folder_of_another_trial(small, refused, alone):
    """As where a journal was cut whose proposals depended on results."""
    shutil.copytree(alone, "study")
    Path("study/journal.log").write_bytes(b"")
    shutil.move("study/trial-000", "study/trial-001.old")
    shutil.move("study/trial-001", "study/trial-000")
    assert cli.main([*SWEEP, "--quiet"]) == 2
    assert [t["state"] for t in trials("study")] == ["interrupted"]
    shutil.rmtree("study/trial-000")
    assert cli.main([*SWEEP, "--quiet"]) == 0
    agree("study", alone)


@pytest.mark.parametrize("where", ["journal", "checkpoint"])
def test_a_full_disk(small, alone, gvae_, monkeypatch, where):
    """One line; the journal has no part of a line; the same command ends as if nothing had been."""

    def full(descriptor, text):
        if b"op_code" in text and b'"step":2' in text:
            WRITE(descriptor, text[: len(text) // 2])
            raise OSError(28, "No space left on device")
        return WRITE(descriptor, text)

    def no_checkpoint(path, content, previous=None):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if where == "journal":
            patch.setattr(os, "write", full)
        else:
            patch.setattr(runs.files, "write_atomically", no_checkpoint)
        code, out, err = gvae_(*SWEEP)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No space left on device" in err
    if where == "journal":
        assert err.startswith("gvae sweep: study/journal.log: ")
        assert Path("study/journal.log").read_bytes().endswith(b"\n")
    assert gvae_(*SWEEP)[0] == 0
    agree("study", alone)


def test_a_file_system_that_is_really_full(small, alone, gvae_):
    disk = small / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        words = [*SWEEP[:3], "disk/study"]
        code, _, err = gvae_(*words)
        assert (code, err.count("\n")) == (2, 1), err
        assert "No space left on device" in err
        assert subprocess.run(["mount", "-o", "remount,size=10m", disk]).returncode == 0
        assert gvae_(*words)[0] == 0
        agree("disk/study", alone)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_run_folder_deleted_while_it_is_trained(small, alone, gvae_, monkeypatch):
    report = sweeps.study.Trial._report

    def delete(trial, model):
        report(trial, model)
        if trial.number == 1 and len(model.history_) == 2:
            shutil.rmtree(trial.path)

    with monkeypatch.context() as patch:
        patch.setattr(sweeps.study.Trial, "_report", delete)
        code, out, err = gvae_(*SWEEP)
    assert (code, err) == (2, "gvae sweep: cannot write into the run folder study/trial-001: No such file or directory\n")
    assert out.startswith("trial 0 complete: ")
    assert [trial["state"] for trial in trials("study")] == ["complete", "interrupted"]
    assert gvae_(*SWEEP)[0] == 0
    agree("study", alone)


def test_a_run_folder_deleted_afterwards(small, alone, gvae_):
    shutil.copytree(alone, "study")
    shutil.rmtree("study/trial-001")
    code, out, _ = gvae_("runs", "study")
    assert (code, out.count("its run folder is gone")) == (0, 1)
    before = trials("study")
    assert before[1]["value"] == trials(alone)[1]["value"]
    code, out, _ = gvae_(*SWEEP)
    assert (code, trials("study")) == (0, before)  # it has its value: nothing is trained again


def test_a_folder_of_studies_says_how_to_list_them(alone, gvae_):
    said = f"{alone.parent}: no run folders, but studies: {alone}; gvae runs STUDY lists the trials of one\n"
    assert gvae_("runs", alone.parent) == (0, said, "")
    assert gvae_("runs", alone.parent, "--json") == (0, "[]\n", "")


def test_a_trial_that_cannot_be_trained_fails_alone(small, gvae_):
    """With settings that exclude each other, or that diverge."""
    text = SMALL.replace("latent = [1, 2]", 'gradient = ["steepest", "reparameterized"]').replace(
        "trials = 3", 'sampler = "grid"'
    )
    text = text.replace("{low = 1e-3, high = 1e-1, log = true}", "[0.01, 1e30]")
    Path("study.toml").write_text(text)
    code, out, err = gvae_(*SWEEP)
    found = trials("study")
    assert (code, err) == (0, "")
    assert [trial["state"] for trial in found] == ["failed", "complete", "failed", "failed"]
    assert "gradient 'steepest'" in found[0]["reason"]
    assert "not finite" in found[3]["reason"]
    assert found[0]["reason"] in out
    assert found[0]["reason"] in gvae_("runs", "study")[1]
    assert out.splitlines()[-2] == "study: 4 trials: 3 failed, 1 complete"


def test_a_study_all_of_whose_trials_fail(small, gvae_):
    Path("study.toml").write_text(SMALL.replace("low = 1e-3, high = 1e-1", "low = 1e30, high = 1e31"))
    code, _, err = gvae_(*SWEEP)
    assert (code, err) == (2, "gvae sweep: study: no trial is complete; for their reasons: gvae runs study\n")


def test_ranks_of_a_launcher_share_a_study(small, alone, monkeypatch):
    """As `srun -n 2` starts them; they meet in the folder, without MPI."""
    start = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = []
    for rank in range(2):
        env = environment(SLURM_STEP_NUM_TASKS="2", SLURM_PROCID=str(rank))
        both.append(subprocess.Popen([sys.executable, "-m", "gvae", *SWEEP], env=env, **start))
    assert [process.communicate(timeout=240)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    agree("study", alone)


def test_a_metric_that_the_log_lacks(small, gvae_):
    Path("study.toml").write_text(SMALL + 'metric = "validation_error"')
    code, _, err = gvae_(*SWEEP)
    assert (code, err.count("\n")) == (2, 1)
    assert "metric validation_error is not a column of the log; known are train_bound, " in err
    assert [trial["state"] for trial in trials("study")] == ["interrupted"]


# ---- what is refused -----------------------------------------------------------------------------

REFUSED = {
    "[fixed": ("hidden = [5]", "hiden = [5]", "[fixed]: model vae has no setting 'hiden'; known are model, latent,"),
    "value": ("hidden = [5]", "hidden = [0]", "[fixed] hidden is (0,), expected widths"),
    "model": ("hidden = [5]", 'model = "vea"', "unknown model 'vea'"),
    "[ranges": ("latent =", "latnt =", "[ranges]: model vae has no setting 'latnt'"),
    "both": ("latent =", "epochs =", "epochs is in [fixed] and in [ranges]"),
    "model varied": ("latent = [1, 2]", 'model = ["vae"]', "name it in [fixed]"),
    "a choice": ("[1, 2]", "[1, 0]", "[ranges] latent is 0, expected a whole number of at least 1"),
    "twice": ("[1, 2]", "[1, 2, 1]", "[ranges] latent has 1 twice"),
    "no choice": ("[1, 2]", "[]", "[ranges] latent is [], expected one choice or more"),
    "a number": ("[1, 2]", "3", "[ranges] latent is 3, expected [choices] or {low = .., high = .., log = true}"),
    "a key": ("log = true", "logarithm = true", "'logarithm'; known are low, high and log"),
    "an end": ("low = 1e-3, ", "", "[ranges] learning_rate has low = None, expected a number"),
    "an end's value": ("low = 1e-3", "low = -1", "[ranges] learning_rate, low, is -1, expected a positive number"),
    "order": ("high = 1e-1", "high = 1e-4", "low = 0.001 and high = 0.0001, expected low < high"),
    "log": ("log = true", "log = 1", "[ranges] learning_rate has log = 1, expected true or false"),
    "log of 0": ("latent = [1, 2]", "warmup = {low = 0, high = 3, log = true}", "low = 0, expected a positive number"),
    "texts": ("latent = [1, 2]", "posterior = {low = 1, high = 2}", "[ranges] posterior, low, is 1, expected a name"),
    "no range": ("[ranges]", "[others]", "others is unknown; known are the tables [data], [fixed], [ranges] and [study]"),
    "empty": ("learning_rate = {low = 1e-3, high = 1e-1, log = true}\nlatent = [1, 2]", "", "[ranges] is empty"),
    "[study": ("seed = 7", "sed = 7", "[study] has no setting 'sed'; known are trials, metric,"),
    "trials": ("trials = 3", "trials = 0", "[study] trials is 0, expected a whole number of at least 1"),
    "no trials": ("trials = 3", "", "[study] trials is missing"),
    "sampler": ("seed = 7", 'sampler = "bayes"', "sampler is 'bayes'; known are random, grid, tpe"),
    "grid": ("seed = 7", 'sampler = "grid"', "[ranges] learning_rate: a grid needs [choices]"),
    "direction": ("seed = 7", 'direction = "up"', "direction is 'up'; known are maximize, minimize"),
    "metric": ("seed = 7", 'metric = "bound"', "[study] metric is 'bound', expected a column of log.jsonl"),
    "pruner": ("seed = 7", 'pruner = "median:x=3"', "pruner 'median:x=3': unknown setting 'x=3'"),
    "data": ('source = "rows.npy"', 'sorce = "rows.npy"', "[data] has sorce = 'rows.npy'; known are source, dir and target"),
    "no data": ('source = "rows.npy"', "", "[data] names no source"),
    "lost data": ("rows.npy", "lost.npy", "lost.npy"),
    "TOML": ("[fixed]", "[fixed", "study.toml is not TOML"),
    "together": (
        "hidden = [5]",
        'gradient = "hessian"\nactivation = "relu"',
        "no trial has settings that go together: gradient",
    ),
    "labels": ("hidden = [5]", 'model = "vib"', "rows has no labels, which model vib reads"),
    "held out": (
        "epochs = 4\nhidden = [5]\nbatch_size = 10\n[ranges]\nlearning_rate = {low = 1e-3, high = 1e-1, log = true}",
        'model = "cca"\n[ranges]',
        "model cca holds out no rows, and rows has none for validation",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_study_files_that_are_refused(small, refused, case):
    old, new, words = REFUSED[case]
    assert SMALL.count(old) == 1
    Path("study.toml").write_text(SMALL.replace(old, new))
    refused(SWEEP, words)


def test_folders_that_are_refused(small, refused, alone):
    refused(["sweep", "lost.toml", "--out", "study"], "lost.toml: No such file or directory")
    refused(["sweep", "study.toml"], "--out")
    refused([*SWEEP[:3], "rows.npy"], "rows.npy is not a folder")
    Path("notes").mkdir()
    Path("notes/text").touch()
    refused([*SWEEP[:3], "notes"], "notes already holds something")
    shutil.copytree(alone, "study")
    for old, new, words in (
        ("hidden = [5]", "hidden = [6]", "study was begun with [fixed] hidden = [5], not [6]; name a new folder"),
        ("hidden = [5]", "", "[fixed] hidden = [5], not nothing"),
        ("[1, 2]", "[1, 2, 3]", "[ranges] latent = [1, 2], not [1, 2, 3]"),
        ("seed = 7", "", "[study] seed = 7, not 0"),
        ("trials = 3", "trials = 2", "study was begun with 3 trials, not 2; they can become more, not fewer"),
    ):
        Path("study.toml").write_text(SMALL.replace(old, new))
        refused(SWEEP, words)
    lines = SMALL.splitlines(keepends=True)
    i = lines.index("latent = [1, 2]\n")
    Path("study.toml").write_text("".join([*lines[: i - 1], lines[i], lines[i - 1], *lines[i + 1 :]]))
    refused(SWEEP, "[ranges] in another order")
    Path("study.toml").write_text(SMALL)
    np.save("rows.npy", ROWS[::-1])
    refused(SWEEP, "study was begun with other rows than those of rows.npy here")


def test_more_trials(small, alone, gvae_):
    """The first ones stay as they are."""
    shutil.copytree(alone, "study")
    Path("study.toml").write_text(SMALL.replace("trials = 3", "trials = 5  # two more"))
    assert gvae_(*SWEEP)[0] == 0
    assert trials("study")[:3] == [t | {"run": t["run"].replace(str(alone), "study")} for t in trials(alone)]
    assert len(trials("study")) == 5
    assert Path("study/study.toml").read_text() == Path("study.toml").read_text()


def test_without_optuna(small, alone, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for words in (SWEEP, ["runs", alone], ["report", alone]):
        refused(words, "sweeps need Optuna: pip install 'gvae[sweep]'")


# ---- what a study shows --------------------------------------------------------------------------


def test_the_list_of_trials(small, alone, gvae_):
    code, out, err = gvae_("runs", alone)
    first, *table = out.splitlines()
    assert (code, err, first) == (0, "", f"{alone}: 3 trials: 3 complete")
    assert table[0].split() == ["trial", "state", "validation_bound", "epochs", "seconds", "learning_rate", "latent"]
    best = sweeps.Study(alone).best()
    for line, trial in zip(table[1:], trials(alone), strict=True):
        assert line.split()[:4] == [str(trial["trial"]), "complete", f"{trial['value']:.6g}", "4"]
        assert line.endswith("best") == (trial["trial"] == best["trial"])
        rows = training.read_history(Path(trial["run"]))[0]
        assert trial["curve"] == {row["epoch"]: row["validation_bound"] for row in rows}
        assert trial["seconds"] == sum(row["seconds"] for row in rows)
        assert trial["value"] == max(trial["curve"].values())  # of the weights that are kept
    assert best["value"] == max(trial["value"] for trial in trials(alone))
    assert [
        {**t, "curve": {int(k): v for k, v in t["curve"].items()}} for t in json.loads(gvae_("runs", alone, "--json")[1])
    ] == trials(alone)


def test_a_lower_value_may_be_better(small, gvae_):
    Path("study.toml").write_text(SMALL + 'metric = "train_kl"\ndirection = "minimize"')
    assert gvae_(*SWEEP)[0] == 0
    found = trials("study")
    assert sweeps.Study("study").best()["value"] == min(trial["value"] for trial in found)
    assert [trial["value"] for trial in found] == [trial["curve"][4] for trial in found]
    assert gvae_("train", "--resume", "study/trial-000", "--epochs", "5", "--quiet") == (0, "", "")


@pytest.mark.nightly
def test_the_example_runs(here, gvae_):
    example = Path(__file__).parents[2] / "examples" / "sweep.toml"
    shutil.copy(example, "study.toml")
    code, out, err = gvae_(*SWEEP)
    assert (code, err) == (0, "")
    assert f"{sweeps.read_plan(example).trials} trials" in out


def test_choices_are_kept_with_their_types(here):
    varied = plan(SMALL.replace("latent = [1, 2]", 'clip = ["none", 1.0]'))
    values = [varied.varied(varied.proposal(i)) for i in range(20)]
    assert {v["clip"] for v in values} == {None, 1.0}
    with pytest.raises(ConfigError, match="clip"):
        plan(SMALL.replace("latent = [1, 2]", 'clip = ["nothing", 1.0]'))


def test_the_journal_is_optunas_own(small, alone):
    """Optuna's backend, and so its dashboard, reads it."""
    import optuna

    shutil.copytree(alone, "study")
    backend = optuna.storages.journal.JournalFileBackend("study/journal.log")
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert study.best_trial.number == sweeps.Study(alone).best()["trial"]
    assert [trial.params for trial in study.trials] == [trial["settings"] for trial in trials(alone)]


def test_reading_changes_nothing(small, alone, gvae_):
    shutil.copytree(alone, "study")
    before = listing(Path("study"))
    assert gvae_("runs", "study")[0] == gvae_("runs", "study", "--json")[0] == 0
    assert listing(Path("study")) == before
