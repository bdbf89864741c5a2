"""Hypothesis profiles for all tests: no deadline (a JIT compiles in the first example), the same examples every time.
Two workers, the emulated CuPy, and what a run says at its end about the CUDA kernels."""

import gc
import re
import shutil
import signal
import subprocess
import sys
import tempfile
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
settings.register_profile("push", parent=settings.get_profile("gvae"), max_examples=20)
settings.load_profile("push")


@pytest.fixture
def cupy():
    """CuPy without a device, in sys.modules for one test: see tests/emulator/cupy_emulated."""
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


# All kernels are used. Workers that compile them as they go do so twice, and wait for those of long tests.
COMPILE = "from gvae.runtime import compile as c; c.is_cold() and c.compile_kernels()"


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
        if not options.collectonly and (config.rootpath / "gvae").is_dir():
            subprocess.run([sys.executable, "-c", COMPILE], check=True)
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


_folder = None  # what the workers of this run share, made by the process that starts them


def pytest_configure(config):
    global _folder
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background; some tests interrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("--nightly") and not config.getoption("--hypothesis-profile", None):
        settings.load_profile("gvae")
    if not is_worker(config) and not config.option.collectonly:
        _folder = tempfile.mkdtemp(prefix="gvae-tests-")


def pytest_unconfigure(config):
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)


def pytest_collection_finish(session):
    """Thousands of tests, their parameters and the modules stay until the end: no later collection needs to look at them."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["folder"] = _folder


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
