"""One Hypothesis profile for all tests: no deadline (a JIT compiles in the first example), the same examples every time.
Two workers, the emulated CuPy, and what a run says at its end about the CUDA kernels."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["command_line"]

settings.register_profile(
    "gvae", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("nightly", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gvae")


@pytest.fixture
def cupy():
    """CuPy without a device, in sys.modules for one test: see tests/emulator/cupy_emulated.py."""
    from emulator import cupy_emulated

    with cupy_emulated.installed() as module:
        yield module


@pytest.fixture(params=["emulated", pytest.param("device", marks=pytest.mark.gpu)])
def anywhere(request):
    """CuPy, emulated and (marked gpu) on a real device. Notes which kernels ran where."""
    import devices

    from gvae.kernels.cuda import launch

    before = launch.counts.copy()
    if request.param == "emulated":
        yield request.getfixturevalue("cupy")
    else:
        import cupy

        yield cupy
        cupy.cuda.get_current_stream().synchronize()
    (devices.emulated if request.param == "emulated" else devices.on_device).update(launch.counts - before)


# ---- several processes (pytest-xdist)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """The whole suite runs on two workers; named files, directories and tests run in this process, as with -n 0.
    An addopts of "-n 2" would be refused where pytest-xdist is not loaded."""
    if is_worker(config):
        return
    options = config.option
    whole = config.args_source == pytest.Config.ArgsSource.TESTPATHS
    if whole and getattr(options, "numprocesses", 0) is None and options.dist == "no" and not options.usepdb:
        options.numprocesses = 2
    if getattr(options, "numprocesses", None) and options.dist == "no":
        options.dist = "loadfile"  # what the tests of a file compile or cache is then needed in one worker only


def is_worker(config):
    return hasattr(config, "workerinput")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Among workers, a test marked exclusive runs while no other test does. Two locks, because flock is not fair: tests of
    the other worker that share the room one after the other would keep an exclusive one waiting; at the door they queue."""
    if fcntl is None or not is_worker(item.config):
        return (yield)
    exclusive = item.get_closest_marker("exclusive") is not None
    folder = item.config.workerinput["folder"]
    with open(f"{folder}/door", "w") as door, open(f"{folder}/room", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # explicitly: a child that a test has forked may hold the file open, too


# ---- gvae warmup, in the background


class Warmup:
    """`gvae warmup`, which compiles for some minutes where tests leave a CPU idle. It is started once, by the process that
    starts the workers if there are any; its report in the folder tells all of them that it has ended."""

    def __init__(self, folder):
        self.folder, self.process, self.thread = folder, None, None

    def start(self):
        if self.process is not None:
            return
        env = os.environ | {"NUMBA_CACHE_DIR": str(self.folder / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
        polite = ["nice", "-n", "19"] if shutil.which("nice") else []
        command = [*polite, sys.executable, "-m", "gvae", "warmup", "--json"]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._report, name="warmup", daemon=True)
        self.thread.start()

    def _report(self):
        out, errors = self.process.communicate()
        part = self.folder / "report.part"
        part.write_text(json.dumps([self.process.returncode, out, errors]), encoding="utf-8")
        part.rename(self.folder / "report.json")

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.thread.join()


_warmup = None  # in a worker


def pytest_configure(config):
    global _warmup
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background; some tests interrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not is_worker(config) and not config.option.collectonly:
        _warmup = Warmup(Path(tempfile.mkdtemp(prefix="gvae-tests-")))


def pytest_unconfigure(config):
    if _warmup is not None:
        _warmup.end()
        shutil.rmtree(_warmup.folder, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["folder"] = str(_warmup.folder)


def pytest_collection_finish(session):
    if _warmup is not None and any("warm" in getattr(item, "fixturenames", ()) for item in session.items):
        _warmup.start()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    """A worker reports names only: all tests with the fixture `warm` are in this file."""
    if any("test_warmup.py::" in name for name in ids):
        _warmup.start()


@pytest.fixture(scope="session")
def warm(request):
    """A cache folder that one `gvae warmup` has filled: (folder, what it printed)."""
    config = request.config
    folder = Path(config.workerinput["folder"]) if is_worker(config) else _warmup.folder
    until = time.monotonic() + 900
    while not (folder / "report.json").exists():
        assert time.monotonic() < until, "gvae warmup has not ended"
        time.sleep(0.1)
    code, out, errors = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert code == 0, errors
    return folder / "cache", out


# ---- CUDA


def pytest_collection_modifyitems(config, items):
    """Without a device, tests marked gpu are left out, unless they are asked for: then they say why they do not run. Tests
    marked nightly or documentation are left out without --nightly, unless a marker or a name asks for them."""
    import devices

    for item in items:
        if {"cupy", "anywhere"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("emulator")
    why = devices.why_no_device() if any("gpu" in item.keywords for item in items) else None
    left_out = set()
    if why is not None and "gpu" in config.getoption("-m"):
        for item in items:
            item.add_marker(pytest.mark.skipif("gpu" in item.keywords, reason=why))
    elif why is not None:
        left_out.add("gpu")
    named = any("::" in str(argument) for argument in config.args)
    if not (config.getoption("--nightly") or named):
        left_out |= {"nightly", "documentation"} - set(re.findall(r"\w+", config.getoption("-m")))
    gone = [item for item in items if any(item.get_closest_marker(name) for name in left_out)]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in set(gone)]


def pytest_addoption(parser):
    parser.addoption("--nightly", action="store_true", help="also what takes long: all sizes, combinations and examples")
    parser.addoption("--witness", type=Path, help="write which kernels passed on the device, if all did")


def pytest_sessionfinish(session, exitstatus):
    devices = sys.modules.get("devices")
    if devices is None:
        return
    if is_worker(session.config):
        session.config.workeroutput["kernels"] = devices.seen_here()
        return
    path = session.config.getoption("--witness")
    if path is not None and exitstatus == 0 and devices.on_device:
        devices.write_witness(path)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    kernels = getattr(node, "workeroutput", {}).get("kernels")
    if kernels is not None:
        import devices

        devices.add_seen(kernels)


def pytest_terminal_summary(terminalreporter):
    devices = sys.modules.get("devices")
    lines = devices.summary() if devices is not None else []
    if lines:
        terminalreporter.section("CUDA kernels")
        for line in lines:
            terminalreporter.write_line(line)
