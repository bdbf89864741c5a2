"""Faults: killed processes, full disks, folders that cannot be written, damaged files, two processes on one run.

Each ends in one clear error or in none, loses nothing that was saved, and a run goes on to the bits of one without faults.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nightly import thinned
from run_cases import SETTINGS, X, after, same

import gvae
from gvae import VAE, cli
from gvae.errors import RunError, StoppedError
from gvae.training import Checkpoint, RunFolder, encode, files, load_checkpoint, write_atomically
from gvae.training.checkpoint import decode

pytestmark = pytest.mark.faults

ROOT = Path(gvae.__file__).parents[1]
FILES = ["checkpoint.previous.safetensors", "checkpoint.safetensors", "config.json", "log.jsonl", "run.toml", "starts.jsonl"]


def python(*arguments, **settings):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    settings = {"capture_output": True, "text": True, "env": environment, "timeout": 300} | settings
    return subprocess.run([sys.executable, *map(str, arguments)], **settings)


@pytest.fixture
def in_memory():
    """A folder that everybody may enter, in memory where there is such a place: a process that is killed, unlike a computer,
    loses nothing that it has written, so that the waits of fsync can be spared."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="gvae-", dir=place))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    VAE(**SETTINGS).fit(X, run=run)
    return run


def begun(run, steps=5):
    """A run stopped within its second epoch, with an older checkpoint of step 4."""
    with pytest.raises(StoppedError):
        VAE(**SETTINGS).fit(X, run=run, stop=after(steps), save_every=1e-9)
    return run


def resumed(run):
    return VAE(**SETTINGS).fit(X, run=run, resume=True)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


# ---- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", thinned([20, 100], lambda kills: kills == 20))
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_killed_run_resumes_to_the_same_bits(in_memory, kills):
    """Kills at random moments, and one before and after every call by which the first saves and some later ones change
    the disk, with KL warm-up, schedule, average, early stopping, clipping and skipped steps at work."""
    done = python(Path(__file__).parents[1] / "kill_runs.py", in_memory, kills)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["random kills"] == kills
    assert found["planned kills"] >= 30
    for place in ("before the first checkpoint", "writing a file", "between two names", "within an epoch"):
        assert found[place] >= 3, found
    assert found["after a line of the log"] >= 1, found
    assert found["events in a run"] == 4
    assert found["seconds"] < 300


# ---- nowhere to write ----------------------------------------------------------------------------

LIMITED = """
import resource, sys
from gvae import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_limit_on_files(tmp_path, monkeypatch):
    """A disk that is full, by the system's limit on the size of a file: config.json fits, a checkpoint does not."""
    pytest.importorskip("resource")
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "rows.npy", np.concatenate([X, X[:4]]))
    flags = ["--latent", "2", "--hidden", "5", "--epochs", "3", "--batch-size", "16", "--quiet"]
    begin = ["train", "rows.npy", "--out", "run", *flags]
    done = python("-c", LIMITED, *begin, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gvae train: cannot write into the run folder run: File too large\n"
    assert os.listdir(tmp_path) == ["rows.npy"]
    for name in ("whole", "run"):
        assert cli.main([*begin[:3], name, *flags]) == 0
    before = content(tmp_path / "run")
    done = python("-c", LIMITED, "train", "--resume", "run", "--epochs", "5", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    left = content(tmp_path / "run")
    for name in FILES[:2]:
        assert left.pop(name) == before[name]
    assert sorted(left) == FILES[2:]
    for name in ("whole", "run"):
        assert cli.main(["train", "--resume", name, "--epochs", "5", "--quiet"]) == 0
    same(tmp_path / "run", tmp_path / "whole")


def test_a_full_disk(tmp_path, whole):
    """A file system of 600 kB, filled up by somebody else in the middle of an epoch."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        asked = iter(range(1, 100))

        def fill():
            if next(asked) == 5:
                with open(disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(1000))
            return False

        with pytest.raises(RunError, match=r"cannot write into the run folder .*: No space left on device"):
            VAE(**SETTINGS).fit(X, run=disk / "run", save_every=1e-9, stop=fill)
        assert sorted(os.listdir(disk / "run")) == FILES
        assert load_checkpoint(disk / "run" / "checkpoint.safetensors").counters["steps"] == 4
        with pytest.raises(RunError, match="No space left"):
            resumed(disk / "run")
        assert load_checkpoint(disk / "run" / "checkpoint.safetensors").counters["steps"] == 4
        assert gvae.load(disk / "run").transform(X).shape == (40, 2)
        (disk / "filler").unlink()
        resumed(disk / "run")
        same(disk / "run", whole)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_no_half_line_stays_in_the_log(tmp_path, monkeypatch):
    run, write, left = RunFolder(tmp_path / "run", {}), os.write, [5]
    run.log({"epoch": 1, "step": 1})
    before = (run.path / "log.jsonl").read_bytes()

    def filling(descriptor, data):
        if not left:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: left.pop()])

    monkeypatch.setattr(os, "write", filling)
    with pytest.raises(RunError, match="No space left on device"):
        run.log({"epoch": 2, "step": 2})
    assert (run.path / "log.jsonl").read_bytes() == before


UNPRIVILEGED = """
import os, sys
import numpy as np
import gvae, gvae.plots, gvae.report, safetensors.numpy
from gvae import blas, cli
from gvae.runtime import compile as compiling
model = gvae.VAE(observation="bernoulli", latent=2, hidden=(5,), epochs=1, batch_size=16, random_state=1)
model.fit(np.load(sys.argv[1]))  # loads it all
model.sample(2), model.score(np.load(sys.argv[1])), blas.libraries()
compiling.is_cold = lambda: False  # the folder of compiled kernels may be the superuser's
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)  # the superuser may write everywhere
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.sharing
@pytest.mark.skipif(not hasattr(os, "setuid"), reason="permissions of POSIX")
def test_threads_may_write_one_file(tmp_path):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: write_atomically(tmp_path / "file", bytes([i % 251]) * 1000), range(100)))
    assert len(set((tmp_path / "file").read_bytes())) == 1
    assert os.listdir(tmp_path) == ["file"]


def test_a_lock_that_is_looked_at_is_free(tmp_path):
    """`gvae runs` and a waiting sweep hold the lock of a log for an instant; a run that starts then tries again."""
    path = tmp_path / "log.jsonl"
    path.touch()
    with path.open() as looking, path.open() as starting:
        fcntl.flock(looking, fcntl.LOCK_SH)
        release = threading.Timer(0.05, fcntl.flock, (looking, fcntl.LOCK_UN))
        release.start()
        assert files.lock(starting.fileno())
        release.join()
    with path.open() as training, path.open() as other:
        assert files.lock(training.fileno())
        assert not files.lock(other.fileno())


def test_a_folder_that_cannot_be_written(in_memory):
    rows, run = in_memory / "rows.npy", in_memory / "run"
    np.save(rows, X)
    VAE(**SETTINGS).fit(X, run=run, notes={"data": str(rows)})
    run.chmod(0o555)
    for path in run.iterdir():
        path.chmod(0o444)
    before = content(run)
    try:
        for arguments, words in (
            (["train", rows, "--out", run / "new"], "cannot write into the run folder"),
            (["train", "--resume", run, "--epochs", "9"], "cannot write into the run folder"),
            (["sample", run, "--out", run / "s.npy"], "cannot write into the folder"),
        ):
            done = python("-c", UNPRIVILEGED, rows, *arguments, cwd=in_memory)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
            assert words in done.stderr
        done = python("-c", UNPRIVILEGED, rows, "evaluate", run, "--samples", "2", "--json", cwd=in_memory)
        assert done.returncode == 0, done.stderr
        assert content(run) == before
    finally:
        run.chmod(0o755)


# ---- damaged files -------------------------------------------------------------------------------


def test_no_bit_of_a_checkpoint_changes_unnoticed():
    """Every bit of every byte, and every length that is too short."""
    tensors = {"parameters/a": np.arange(6, dtype=np.float32).reshape(2, 3), "optimizer/m": np.ones(3)}
    good = encode(Checkpoint(tensors, {"model": "vae", "notes": {"checksum": 'x"checksum":"0'}}, {"use": "parameters"}))
    again = decode(good)
    assert again.config["notes"] == {"checksum": 'x"checksum":"0'}
    np.testing.assert_array_equal(again.tensors["parameters/a"], tensors["parameters/a"])
    tried = 0
    for at in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[at] ^= 1 << bit
            with pytest.raises(ValueError, match=r"."):
                decode(bytes(damaged))
            tried += 1
        with pytest.raises(ValueError, match=r"."):
            decode(good[:at])
    with pytest.raises(ValueError, match=r"."):
        decode(good + b"\0")
    assert tried == 8 * len(good) > 3000


def flipped(fraction):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[int(fraction * (len(data) - 1))] ^= 16
        path.write_bytes(data)

    return damage


def replaced(make):
    return lambda path: path.write_bytes(make(path.read_bytes()))


DAMAGE = {
    "gone": Path.unlink,
    "empty": replaced(lambda data: b""),
    "one byte": replaced(lambda data: data[:1]),
    "half": replaced(lambda data: data[: len(data) // 2]),
    "last byte lost": replaced(lambda data: data[:-1]),
    "zeros": replaced(lambda data: bytes(len(data))),
    "text": replaced(lambda data: b"hello, world"),
    "a header of 2^63 bytes": replaced(lambda data: (1 << 63).to_bytes(8, "little") + data[8:]),
    "arrays of another checkpoint": replaced(lambda data: data[:-64] + bytes(64)),
    **{f"a bit flipped at {fraction:.0%}": flipped(fraction) for fraction in (0, 0.001, 0.05, 0.2, 0.4, 0.6, 0.8, 1)},
}


@pytest.mark.parametrize("damage", list(DAMAGE.values()), ids=list(DAMAGE))
def test_the_older_checkpoint_stands_in(tmp_path, whole, caplog, damage):
    run = begun(tmp_path / "run")
    damage(run / "checkpoint.safetensors")
    damaged = content(run).get("checkpoint.safetensors")
    assert load_checkpoint(run / "checkpoint.previous.safetensors").counters["steps"] == 4
    with caplog.at_level(logging.WARNING, "gvae"):
        gvae.load(run)
    expected = [] if damaged is None else ["is used instead, of step 4"]
    assert [w in r.getMessage() for w, r in zip(expected, caplog.records, strict=True)] == [True] * len(expected)
    resumed(run)
    same(run, whole)
    left = content(run)
    assert left.pop("checkpoint.damaged.safetensors", None) == damaged
    assert sorted(left) == FILES


def test_two_damaged_checkpoints(tmp_path):
    run = begun(tmp_path / "run")
    for name in FILES[:2]:
        flipped(0.5)(run / name)
    before = content(run)
    for use in (gvae.load, resumed):
        with pytest.raises(RunError, match=r"checkpoint.safetensors is damaged: its checksum does not fit"):
            use(run)
    assert content(run) == before


@pytest.mark.parametrize("damage", [Path.unlink, replaced(lambda data: b"{"), replaced(lambda x: x.replace(b"5", b"6"))])
def test_a_damaged_config(tmp_path, damage):
    run = begun(tmp_path / "run")
    damage(run / "config.json")
    before = content(run)
    for use in (gvae.load, resumed):
        with pytest.raises(RunError, match=r"config.json"):
            use(run)
    assert content(run) == before


@pytest.mark.parametrize("damage", [Path.unlink, replaced(lambda x: b""), replaced(lambda x: x[:-9]), flipped(0.01)])
def test_a_damaged_log_does_not_stop_a_run(tmp_path, whole, damage):
    run = begun(tmp_path / "run")
    damage(run / "log.jsonl")
    model = resumed(run)
    expected = load_checkpoint(whole / "checkpoint.safetensors").tensors
    found = load_checkpoint(run / "checkpoint.safetensors").tensors
    assert {n: x.tobytes() for n, x in found.items()} == {n: x.tobytes() for n, x in expected.items()}
    assert model.history_[-1]["epoch"] == 3
    assert all(line.startswith("{") for line in (run / "log.jsonl").read_text().splitlines()[1:])


# ---- two processes -------------------------------------------------------------------------------

HOLDING = """
import sys, time
from gvae.training import RunFolder
run = RunFolder.reopen(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


def test_two_processes_on_one_run(tmp_path, whole, monkeypatch, capsys):
    run = begun(tmp_path / "run")
    before = content(run)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    other = subprocess.Popen([sys.executable, "-c", HOLDING, run], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="is in use: another process is training there"):
            resumed(run)
        np.save(tmp_path / "rows.npy", X)
        assert cli.main(["train", str(tmp_path / "rows.npy"), "--resume", str(run)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), "in use" in err) == ("", 1, True)
        assert content(run) == before
        gvae.load(run)  # reading is free
    finally:
        other.kill()  # the lock dies with its process
        other.communicate()
    resumed(run)
    same(run, whole)


def test_two_processes_that_begin_one_run(tmp_path):
    """However they meet, one of them has it, and the other says so and spoils nothing."""
    first = RunFolder(tmp_path / "run", {"a": 1})
    with pytest.raises(RunError, match="already holds something"):
        RunFolder(tmp_path / "run", {"a": 2})
    for name in ("config.json", "starts.jsonl"):  # as if it had not come so far yet
        (tmp_path / "run" / name).unlink()
    with pytest.raises(RunError, match="in use"):
        RunFolder(tmp_path / "run", {"a": 2})
    assert os.listdir(tmp_path / "run") == ["log.jsonl"]
    first.close()
    RunFolder(tmp_path / "run", {"a": 3}).close()
    results, start = [], threading.Barrier(8)

    def begin(i):
        start.wait()
        try:
            results.append(RunFolder(tmp_path / "race", {"a": i}))
        except RunError:
            results.append(None)

    workers = [threading.Thread(target=begin, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    (winner,) = [run for run in results if run is not None]
    assert json.loads((tmp_path / "race" / "config.json").read_text()) == winner.config


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_keep_a_run_locked(tmp_path):
    code = """
import os, sys, time
from gvae.training import RunFolder
run = RunFolder(sys.argv[1], {})
reading, writing = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(writing, b"started")
    time.sleep(600)
os.read(reading, 7)
run.close()
RunFolder.reopen(sys.argv[1]).close()
os.kill(pid, 9)
"""
    assert python("-c", code, tmp_path / "run", timeout=60).returncode == 0
