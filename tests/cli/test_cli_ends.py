"""How a command ends that is neither done nor mistaken: by signals, without memory, on a full disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import CHOSEN, ROWS, TRAIN, command, environment

import gvae
from gvae import data, training
from gvae.training import Trainer


def interrupt(folder, ready, *flags, number=signal.SIGINT, arguments=("train", "digits", "--out", "run", "--hidden", "5")):
    """Ctrl-C, or another signal, as soon as `ready(folder / "run")`; returns (exit code, stderr)."""
    program = (  # a shell that runs the tests in the background has told its children to ignore Ctrl-C
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from gvae.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments, *flags], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + 120
        while not ready(folder / "run"):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err


@pytest.mark.sharing
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(here, number, expected):
    """Within an epoch; and what it says works: epochs of 1,500 steps, of which the run holds a part."""
    flags = ["--latent", "2", "--batch-size", "1", "--epochs", "1000000"]
    code, err = interrupt(here, lambda run: (run / "config.json").exists(), *flags, number=number)
    match = re.fullmatch(
        r"gvae train: training stopped at step (\d+), in epoch (\d+); continue with: gvae train --resume run\n", err
    )
    assert match, err
    assert code == expected
    step, epoch = map(int, match.groups())
    model = gvae.load(here / "run")
    assert len(model.history_) == epoch - 1
    assert np.isfinite(model.score_samples(data.load("digits").test[:5], samples=2)).all()
    assert training.load_checkpoint(here / "run" / "checkpoint.safetensors").counters["steps"] == step
    before = (here / "run" / "checkpoint.safetensors").stat().st_mtime_ns
    arguments = ["train", "--resume", "run", "--quiet", "--save-every", "0.1"]
    code, err = interrupt(
        here,
        lambda run: (run / "checkpoint.safetensors").stat().st_mtime_ns > before,
        number=number,
        arguments=arguments,
    )
    later = training.load_checkpoint(here / "run" / "checkpoint.safetensors").counters["steps"]
    assert (code, later > step) == (expected, True), err


def test_control_c_before_the_first_step_leaves_nothing(gvae_, here, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    np.save("rows.npy", ROWS)
    monkeypatch.setattr(Trainer, "step", interrupted)
    assert gvae_(*TRAIN, "--epochs", "20") == (130, CHOSEN, "gvae train: interrupted; nothing was kept\n")
    assert [p.name for p in here.iterdir()] == ["rows.npy"]


def test_a_reader_that_has_seen_enough(run, here):
    """`gvae ... | head -0` says nothing on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    code, _, err = command("doctor", cwd=here, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (code, err) == (1, "")


def test_too_little_memory_is_one_line(refused, here, monkeypatch):
    def greedy(*_, **__):
        raise MemoryError("Unable to allocate\n8 TiB")

    np.save("rows.npy", ROWS)
    monkeypatch.setattr(gvae.VAE, "fit", greedy)
    refused(TRAIN, "not enough memory", "8 TiB")


def test_a_disk_that_fills_up_is_one_line(gvae_, here, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "run/log.jsonl")

    np.save("rows.npy", ROWS)
    monkeypatch.setattr(training.RunFolder, "log", full)
    assert gvae_(*TRAIN, "--epochs", "20") == (2, CHOSEN, "gvae train: run/log.jsonl: No space left on device\n")


def test_a_full_disk_is_one_line(refused, run, here, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "rows.csv")

    monkeypatch.setattr(os, "fsync", full)
    np.save("rows.npy", ROWS)
    refused([*TRAIN, "--epochs", "20"], "No space left on device")
    refused(["evaluate", run, "--samples", "1", "--rows", "rows.csv"], "rows.csv", "No space left on device")
    refused(["sample", run, "--out", "s.npy"], "s.npy", "No space left on device")
    refused(["sample", run, "--out", "s.png"], "s.png", "No space left on device")


def test_demo_without_matplotlib_says_so_at_once(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(["demo"], "matplotlib", "gvae[plot]")
