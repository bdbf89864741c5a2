"""One Hypothesis profile for all tests: no deadline (a JIT compiles in the first example), the same examples every time.
The emulated CuPy, and what a run says at its end about the CUDA kernels."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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


_warmup: tuple[Path, subprocess.Popen] | None = None


def pytest_collection_finish(session):
    """`gvae warmup` compiles for some minutes where tests leave a CPU idle, which most do: it starts before them."""
    global _warmup
    if session.config.option.collectonly or not any("warm" in getattr(item, "fixturenames", ()) for item in session.items):
        return
    folder = Path(tempfile.mkdtemp(prefix="gvae-warm-"))
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    polite = ["nice", "-n", "19"] if shutil.which("nice") else []
    command = [*polite, sys.executable, "-m", "gvae", "warmup", "--json"]
    _warmup = folder, subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="session")
def warm():
    """A cache folder that one `gvae warmup` has filled: (folder, what it printed)."""
    folder, process = _warmup
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return folder, out


def pytest_collection_modifyitems(config, items):
    """Without a device, tests marked gpu are left out, unless they are asked for: then they say why they do not run."""
    import devices

    why = devices.why_no_device() if any("gpu" in item.keywords for item in items) else None
    if why is None:
        return
    if "gpu" in config.getoption("-m"):
        for item in items:
            item.add_marker(pytest.mark.skipif("gpu" in item.keywords, reason=why))
    else:
        config.hook.pytest_deselected(items=[item for item in items if "gpu" in item.keywords])
        items[:] = [item for item in items if "gpu" not in item.keywords]


def pytest_addoption(parser):
    parser.addoption("--witness", type=Path, help="write which kernels passed on the device, if all did")


def pytest_sessionfinish(session, exitstatus):
    if _warmup is not None:
        folder, process = _warmup
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    devices = sys.modules.get("devices")
    if devices is None:
        return
    if hasattr(session.config, "workeroutput"):  # one of several processes (pytest-xdist) tells the first
        session.config.workeroutput["on_device"] = sorted(devices.on_device)
        return
    path = session.config.getoption("--witness")
    if path is not None and exitstatus == 0 and devices.on_device:
        devices.write_witness(path)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    import devices

    devices.on_device.update(getattr(node, "workeroutput", {}).get("on_device", ()))


def pytest_terminal_summary(terminalreporter):
    devices = sys.modules.get("devices")
    lines = devices.summary() if devices is not None else []
    if lines:
        terminalreporter.section("CUDA kernels")
        for line in lines:
            terminalreporter.write_line(line)
