"""The CPUs and the memory that this process may use.

A container with 4 of 64 CPUs is a control group (cgroup) with a quota: its processes may run on each of the 64, but for no
more than 400 ms of CPU time in 100 ms; when that is used up, all their threads stop. If a group exceeds its memory limit,
one of its processes is killed. Both limits hold for all groups below, so the tightest limits of the process's own group and
its ancestors count, as far as they are visible to the process.

All of this is specific to Linux. A limit that cannot be read is treated as absent. `root` is the folder that contains /proc
and the mount points.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from functools import cache
from pathlib import Path, PurePosixPath

from gvae.errors import ConfigError

__all__ = ["affinity", "check_room", "cpu_quota", "cpus", "fits", "machine_memory", "memory", "memory_limit", "mounts"]

UNLIMITED = 1 << 62  # bytes: without a limit, version 1 reports the largest number of whole pages
GROUP = re.compile(r"^\d+:([^:\n]*):(.*)$", re.MULTILINE)  # controllers, path: see cgroups(7)
MOUNT = re.compile(  # the folder of the file system that is mounted, where, type, options: see proc_pid_mountinfo(5)
    r"^[^ \n]+ [^ \n]+ [^ \n]+ ([^ \n]+) ([^ \n]+) .*- ([^ \n]+) [^ \n]+ ([^ \n]+)$", re.MULTILINE
)


def cpus(root: str = "/") -> int:
    """The number of CPUs that this process may use: those of its affinity, at most the quota, rounded up."""
    quota = cpu_quota(root)
    return affinity() if quota is None else min(affinity(), math.ceil(quota))


def affinity() -> int:
    """The number of CPUs on which this process may be scheduled."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache  # called for every shared kernel
def cpu_quota(root: str = "/") -> float | None:
    """The CPU quota of the control groups, in CPUs; None without a quota. Read once per process."""
    quotas = []
    for group in _groups("cpu", root):
        words = _text(group / "cpu.max").split() or [_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        with contextlib.suppress(ValueError):  # "max", or a file is missing
            quota, period = map(int, words)
            if quota > 0 and period > 0:  # version 1: a quota of -1 is none
                quotas.append(quota / period)
    return min(quotas, default=None)


def memory(root: str = "/") -> int | None:
    """Bytes of memory that this process may use: the machine's, at most the limit. None if neither is known."""
    known = [n_bytes for n_bytes in (machine_memory(), memory_limit(root)) if n_bytes is not None]
    return min(known, default=None)


def fits(n_bytes: int) -> bool:
    """Whether rows of n_bytes are read into memory: at most a third of it, since what is made of them needs room, too."""
    room = memory()
    return room is None or n_bytes <= room // 3


def check_room(n_bytes: float, what: str) -> None:
    """ConfigError if this process may not use n_bytes of memory.   what : what needs them, as in "a shuffle of 10 rows"."""
    room = memory()
    if room is not None and n_bytes > room:
        least = min(n_bytes, 10**30) / 2**30  # an integer may be beyond floating point
        whose = "this machine has" if room == machine_memory() else "the control group of this process allows"
        raise ConfigError(f"{what} needs more than {least:.3g} GiB; {whose} {room / 2**30:.3g} GiB")


def machine_memory() -> int | None:
    """Bytes of physical memory, or None if the system does not report it."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    n_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return n_bytes if n_bytes > 0 else None


def memory_limit(root: str = "/") -> int | None:
    """The memory limit of the control groups, in bytes; None without one. memory.high counts as well: no process is killed
    beyond it, but a process whose arrays need more is throttled until it makes no progress."""
    limits = []
    for group in _groups("memory", root):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with contextlib.suppress(ValueError):  # "max", or no such file
                limit = int(_text(group / name))
                if limit < UNLIMITED:
                    limits.append(limit)
    return min(limits, default=None)


def _groups(controller: str, root: str) -> list[Path]:
    """The folders of this process's control groups and of their ancestors: of version 2, which has one group for all
    controllers, and of the hierarchy of version 1 with this controller."""
    paths = {}  # the paths of the process's group, by the type of file system
    for controllers, path in GROUP.findall(_text(Path(root, "proc/self/cgroup"))):
        if not controllers or controller in controllers.split(","):
            paths["cgroup" if controllers else "cgroup2"] = PurePosixPath(path)
    folders: list[Path] = []
    for version, path in paths.items():
        seen: list[Path] = []
        unseen: list[Path] = []
        for top, mounted, system, options in mounts(root):
            if system != version or (version == "cgroup" and controller not in options.split(",")):
                continue
            folder = Path(root, mounted.lstrip("/"))
            below = path.relative_to(top).parts if path.is_relative_to(top) else ("..",)
            if ".." in below:
                unseen.append(folder)
            else:
                seen += [folder.joinpath(*below[:n]) for n in range(len(below) + 1)]
        # A container may be given its path on the host, while only its own group is visible, as the mount point.
        folders += seen or unseen
    return folders


def mounts(root: str = "/") -> list[tuple[str, ...]]:
    """(the folder of a file system that is mounted, where, its type, options) of each mount that this process sees, as Linux
    names them; [] where they are not known."""
    found = MOUNT.findall(_text(Path(root, "proc/self/mountinfo")))
    return [tuple(_unescaped(word) for word in words) for words in found]


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:  # not Linux, no such controller, or no permission
        return ""


def _unescaped(path: str) -> str:
    """Decode mountinfo's octal escapes of blanks and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
