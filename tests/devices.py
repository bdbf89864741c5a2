"""What the CUDA tests share: the kernels there are, where they have been seen, and the real device if there is one."""

from __future__ import annotations

import datetime
import hashlib
import importlib
import json
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

import gvae.kernels.cuda
from gvae.kernels.cuda import launch

ROOT = Path(__file__).parents[1]
WITNESS = ROOT / "benchmarks" / "gpu" / "witness.json"
FAMILIES = sorted(
    info.name
    for info in pkgutil.iter_modules(gvae.kernels.cuda.__path__)
    if info.name != "launch" and (info.name in launch.PARTS or (Path(launch.__file__).parent / f"{info.name}.cu").exists())
)
for _family in FAMILIES:
    importlib.import_module(f"gvae.kernels.cuda.{_family}")

KERNELS = {f"{family}.{name}" for family, kernels in launch.KERNELS.items() for name in kernels}

# in this run: name -> the architectures it was compiled for; names that ran in the emulator, and on a device
compiled: dict[str, set[str]] = {}
emulated: set[str] = set()
on_device: set[str] = set()


def seen_here() -> list:
    """What this process has seen, in types that a worker of pytest-xdist can send."""
    return [{name: sorted(found) for name, found in compiled.items()}, sorted(emulated), sorted(on_device)]


def add_seen(seen: list) -> None:
    """Add what another process has seen."""
    for name, architectures in seen[0].items():
        compiled.setdefault(name, set()).update(architectures)
    emulated.update(seen[1])
    on_device.update(seen[2])


def digest(family: str) -> str:
    """Of the text that is compiled."""
    return hashlib.sha256(launch.source(family).encode()).hexdigest()[:16]


def witness() -> dict[str, dict[str, str]]:
    """By kernel: the digest of its source when it last passed on a device, which device, with what, and when."""
    return json.loads(WITNESS.read_text(encoding="utf-8"))["kernels"]


def describe_device() -> dict[str, str]:
    import cupy

    runtime = cupy.cuda.runtime
    return {
        "device": runtime.getDeviceProperties(0)["name"].decode(),
        "driver": str(runtime.driverGetVersion()),
        "runtime": str(runtime.runtimeGetVersion()),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "cupy": cupy.__version__,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def write_witness(path: Path) -> None:
    """Note every kernel that this run has seen on the device."""
    known = witness()
    seen = describe_device()
    for name in sorted(on_device & KERNELS):
        known[name] = {"source": digest(name.split(".")[0])} | seen
    text = json.dumps({"kernels": dict(sorted(known.items()))}, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


@cache
def why_no_device() -> str | None:
    """Why the tests marked gpu cannot run; None if they can."""
    try:
        import cupy
    except ImportError:
        return "no CUDA device: CuPy is not installed (pip install 'gvae[cuda13]')"
    if not cupy.cuda.is_available():
        return "no CUDA device: CuPy finds no driver or no GPU"
    return None


def summary() -> list[str]:
    """The closing lines of a run that had to do with CUDA."""
    if not (compiled or emulated or on_device):
        return []
    architectures = sorted(set().union(*compiled.values()))
    lines = [
        f"{len(KERNELS)} kernels: {len(compiled)} compiled for {', '.join(architectures) or 'no device'}, "
        f"{len(emulated & KERNELS)} emulated, {len(on_device & KERNELS)} run on a device"
    ]
    last: dict[str, list[str]] = {}
    known: dict[str, Any] = witness()
    for name in sorted(KERNELS):
        seen = known.get(name)
        if seen is None:
            when = "never seen on a device"
        else:
            moved = "" if seen["source"] == digest(name.split(".")[0]) else ", and changed since"
            when = f"last passed on {seen['device']}, {seen['date']}, CuPy {seen['cupy']}{moved}"
        last.setdefault(when, []).append(name)
    for when, names in last.items():
        lines.append(f"{when}: {'all' if len(names) == len(KERNELS) else ', '.join(names)}")
    for what, seen_here in (("not compiled", compiled), ("not emulated", emulated)):
        missing = sorted(KERNELS - set(seen_here))
        if missing and seen_here:
            lines.append(f"{what} in this run: {', '.join(missing)}")
    return lines
