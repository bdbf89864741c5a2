"""What a run folder keeps of each process that has trained in it: when, by which command, where, with which versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gvae.runtime import limits

__all__ = ["STARTS", "about_this_process", "read_starts"]

STARTS = "starts.jsonl"
PACKAGES = ("gvae", "numpy", "numba", "scipy")


def about_this_process() -> dict[str, Any]:
    """Time (UTC), command, machine and versions of this process.

    Returns
    -------
    dict of str to object
        "time", "command" (None in an interactive session), "machine", "versions".

    Examples
    --------
    >>> sorted(gvae.training.about_this_process())
    ['command', 'machine', 'time', 'versions']
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "command": _command(), "machine": _machine(), "versions": found}


def _command() -> str | None:
    program, *arguments = getattr(sys, "argv", [""])
    if program in ("", "-c"):
        return None
    path = Path(program)
    ours = path.name == "gvae" or path.parts[-2:] == ("gvae", "__main__.py")
    return shlex.join(["gvae" if ours else f"{path.name}", *arguments])


def _machine() -> str:
    """The processor, and how many CPUs this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # not Linux
        pass
    return f"{name}, {limits.cpus()} of {os.cpu_count()} CPUs, {platform.system()}"


def read_starts(run: str | os.PathLike) -> list[dict[str, Any]]:
    """Read what a run folder keeps of the processes that have trained in it.

    Parameters
    ----------
    run : path

    Returns
    -------
    list of dict
        As `about_this_process` gives them, in order; [] where there is no (readable) record, as of runs of gvae before 0.2.

    Examples
    --------
    >>> X = gvae.random.normal(gvae.random.key(0), (100, 5), np.float64)
    >>> model = gvae.VAE(latent=2, epochs=1).fit(X, run="run")
    >>> len(gvae.training.read_starts("run"))
    1
    """
    try:
        lines = [json.loads(line) for line in (Path(run) / STARTS).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    return [line for line in lines if isinstance(line, dict)]
