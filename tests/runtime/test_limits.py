"""What control groups leave of the machine, read from folders that look like those of Linux's kinds of containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import gvae
from gvae import VAE
from gvae.errors import ConfigError
from gvae.runtime import limits, pool

GIB = 1 << 30
V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
V1 = "33 32 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:10 master:3 - cgroup cgroup rw,cpu,cpuacct\n"
V1 += "36 32 0:33 {top} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
OTHERS = "21 1 254:1 / / rw,relatime - ext4 /dev/root rw\n22 1 0:20 / /proc rw - proc proc rw\nnot a mount\n"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """machine(cgroup, mounts, files) -> the folder that is its root. It has 64 CPUs and 16 GiB."""
    monkeypatch.setattr(limits, "affinity", lambda: 64)
    monkeypatch.setattr(limits, "machine_memory", lambda: 16 * GIB)

    def machine(cgroup, mounts, **files):
        files = {Path("sys/fs/cgroup", name): content for name, content in files.pop("files").items()}
        proc = Path("proc/self")
        for path, content in (files | {proc / "cgroup": cgroup, proc / "mountinfo": OTHERS + mounts}).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)
        return str(tmp_path)

    return machine


def check(root, quota, cpus, limit):
    assert limits.cpu_quota(root) == quota
    assert limits.cpus(root) == cpus
    assert limits.memory_limit(root) == limit
    assert limits.memory(root) == (16 * GIB if limit is None else min(limit, 16 * GIB))


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("400000 100000", 4), ("150000 100000", 2), ("100000 100000", 1), ("1000 100000", 1), ("20000 5000", 4)],
)
def test_a_quota_is_rounded_up(machine, quota, cpus):
    """4 of 64 CPUs: four threads. 1.5: two."""
    used, period = map(int, quota.split())
    root = machine("0::/\n", V2.format(top="/"), files={"cpu.max": f"{quota}\n"})
    check(root, used / period, cpus, None)


def test_a_quota_beyond_the_affinity_changes_nothing(machine):
    root = machine("0::/\n", V2.format(top="/"), files={"cpu.max": "12800000 100000\n", "memory.max": f"{99 * GIB}\n"})
    check(root, 128, 64, 99 * GIB)


def test_version_2(machine):
    """A service on the host itself: the tightest of its own group and those above it, none of another one's."""
    files = {
        "a.slice/cpu.max": "200000 100000\n",
        "a.slice/memory.max": "max\n",
        "a.slice/memory.high": f"{5 * GIB}\n",
        "a.slice/b.service/cpu.max": "600000 100000\n",
        "a.slice/b.service/memory.max": f"{8 * GIB}\n",
        "a.slice/b.service/memory.high": "max\n",
        "a.slice/b.service/child/cpu.max": "1000 100000\n",
        "other.slice/cpu.max": "1000 100000\n",
        "other.slice/memory.max": "4096\n",
    }
    check(machine("0::/a.slice/b.service\n", V2.format(top="/"), files=files), 2, 2, 5 * GIB)


@pytest.mark.parametrize(("top", "path"), [("/", "/pods/one"), ("/pods", "/pods/one"), ("/pods/one", "/pods/one")])
def test_version_1(machine, top, path):
    """Where the host's groups are mounted, or those from the pod's on, or the container's own."""
    inside = path.removeprefix(top).strip("/")
    own = {
        "cpu.cfs_quota_us": "300000\n",
        "cpu.cfs_period_us": "100000\n",
        "memory.limit_in_bytes": f"{2 * GIB}\n",
        "cpu.max": "",
    }
    files = {f"{'memory' if 'mem' in name else 'cpu,cpuacct'}/{inside}/{name}": text for name, text in own.items()}
    if inside:
        files |= {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
        files["memory/memory.limit_in_bytes"] = "9223372036854771712\n"  # no limit
    cgroup = f"9:name=systemd:/elsewhere\n5:cpu,cpuacct:{path}\n4:memory:{path}\n3:cpuset:/elsewhere\n0::/\n"
    check(machine(cgroup, V1.format(top=top) + V2.format(top="/"), files=files), 3, 3, 2 * GIB)


def test_a_limit_above_counts_in_version_1(machine):
    files = {
        "cpu,cpuacct/a/cpu.cfs_quota_us": "150000",
        "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
        "memory/a/memory.limit_in_bytes": str(GIB),
        "memory/a/b/memory.limit_in_bytes": str(3 * GIB),
    }
    check(machine("2:cpu,cpuacct:/a/b\n3:memory:/a/b\n", V1.format(top="/"), files=files), 1.5, 2, GIB)


@pytest.mark.parametrize(
    ("path", "top"),
    [("/docker/1f", "/docker/77"), ("/../../init.scope", "/"), ("/", "/../.."), ("/a/../../b", "/a"), ("/docker", "/dock")],
)
def test_a_group_that_is_not_to_be_seen_is_the_mount_point(machine, path, top):
    """And nothing outside of what is mounted is read."""
    files = {"cpu.max": "250000 100000\n", "memory.max": f"{GIB}\n"}
    files |= {f"../../{name}/cpu.max": "1000 100000\n" for name in ("init.scope", "b")}
    check(machine(f"0::{path}\n", V2.format(top=top), files=files), 2.5, 3, GIB)


def test_each_hierarchy_has_its_mount(machine):
    """That of version 1 for memory shows all groups, the others the container's own only."""
    mounts = "".join(line.format(top=top) for line, top in zip(V1.splitlines(True), ("/hidden", "/"), strict=True))
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    files["memory/own/memory.limit_in_bytes"] = str(GIB)
    files["memory.max"] = str(GIB // 2)
    cgroup = "2:cpu,cpuacct:/own\n3:memory:/own\n0::/own\n"
    check(machine(cgroup, mounts + V2.format(top="/hidden"), files=files), 3, 3, GIB // 2)


def test_of_two_mounts_the_one_with_the_own_group_counts(machine):
    """The other one shows the groups of another container, as monitors have it."""
    mounts = V2.format(top="/other").replace("/sys/fs/cgroup", "/sys/fs/cgroup/other") + V2.format(top="/own")
    files = {"other/cpu.max": "1000 100000\n", "other/memory.max": "4096\n", "cpu.max": "300000 100000\n"}
    check(machine("0::/own\n", mounts, files=files), 3, 3, None)


def test_blanks_and_colons_in_paths(machine):
    mounts = V2.format(top="/").replace("/sys/fs/cgroup", r"/sys/fs/cgroup/a\040b\134c")
    files = {"a b\\c/x:y z/cpu.max": "300000 100000\n", "a b\\c/x:y z/memory.max": f"{GIB}\n"}
    check(machine("0::/x:y z\n", mounts, files=files), 3, 3, GIB)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.high": "max\n"},
        {"cpu.max": "", "memory.max": ""},
        {"cpu.max": "100000\n", "memory.max": "1 GiB\n"},
        {"cpu.max": "100000 0\n", "memory.max": str(1 << 63)},
        {"cpu.max/a folder": "", "memory.max/a folder": ""},
    ],
)
def test_what_is_no_limit(machine, files):
    check(machine("0::/\n", V2.format(top="/"), files=files), None, 64, None)


@pytest.mark.parametrize(
    "files", [{"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, {"cpu.cfs_quota_us": "5000\n"}]
)
def test_what_is_no_quota_in_version_1(machine, files):
    files = {f"cpu,cpuacct/{name}": text for name, text in files.items()}
    check(machine("2:cpu,cpuacct:/\n", V1.format(top="/"), files=files), None, 64, None)


def test_files_that_cannot_be_read_are_no_limit(machine, monkeypatch):
    root = machine("0::/\n", V2.format(top="/"), files={"cpu.max": "100000 100000\n", "memory.max": f"{GIB}\n"})
    read = Path.read_bytes

    def refuse(path):
        if path.name in ("cpu.max", "memory.max"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    check(root, None, 64, None)


@pytest.mark.parametrize("missing", [["cgroup", "mountinfo"], ["cgroup"], ["mountinfo"]])
def test_without_proc_there_is_no_limit(machine, missing):
    """macOS, Windows, and sandboxes."""
    root = machine("0::/\n", V2.format(top="/"), files={"cpu.max": "100000 100000\n", "memory.max": f"{GIB}\n"})
    for name in missing:
        Path(root, "proc/self", name).unlink()
    check(root, None, 64, None)


def test_a_system_that_says_nothing_of_its_memory(machine, monkeypatch):
    root = machine("0::/\n", V2.format(top="/"), files={"memory.max": f"{GIB}\n"})
    monkeypatch.setattr(limits, "machine_memory", lambda: None)
    assert limits.memory(root) == GIB
    Path(root, "proc/self/cgroup").unlink()
    assert limits.memory(root) is None
    monkeypatch.undo()
    monkeypatch.setattr(os, "sysconf_names", {})
    assert limits.machine_memory() is None
    monkeypatch.delattr(os, "sysconf_names")
    monkeypatch.delattr(os, "sysconf")
    assert limits.machine_memory() is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert limits.affinity() == os.cpu_count()


def test_this_machine():
    assert 1 <= limits.cpus() <= limits.affinity()
    if hasattr(os, "sysconf"):
        assert 1 << 20 < limits.memory() <= limits.machine_memory() < 1 << 60


# ---- who asks


@pytest.mark.sharing
@pytest.mark.parametrize(("quota", "n"), [(4.0, 4), (1.5, 2), (None, 64)])
def test_threads_heed_the_quota_unless_the_user_has_chosen(monkeypatch, quota, n):
    monkeypatch.setattr(limits, "affinity", lambda: 64)
    monkeypatch.setattr(limits, "cpu_quota", lambda root="/": quota)
    monkeypatch.delenv(pool.VARIABLE, raising=False)
    assert pool.count() == pool.cpus() == n
    monkeypatch.setenv(pool.VARIABLE, "7")
    assert pool.count() == 7


@pytest.mark.parametrize("model", ["VAE", "VLAE", "DLGM"])
@pytest.mark.parametrize("name", ["hidden", "critic"])
def test_networks_of_any_size_are_refused_before_they_are_made(model, name):
    for width in (10**12, 2**60):  # beyond the memory, and beyond what an array may have
        with pytest.raises(ConfigError, match="needs more than"):
            getattr(gvae, model)(latent=(2, 1) if model != "VAE" else 2, epochs=1, **{name: (width,)}).fit([[0.5, 0.25]] * 4)


def test_importance_samples_whose_tail_is_beyond_the_memory_are_refused():
    model = VAE(latent=2, hidden=(2,), steps=1).fit([[0.5, 0.25]] * 4)
    for samples in (10**20, 10**400):
        with pytest.raises(ConfigError, match=f"evaluate: the tail of {samples} importance weights needs more than"):
            model.evaluate([[0.5, 0.25]] * 4, samples=samples)


def test_what_does_not_fit_into_the_control_group_is_refused(monkeypatch):
    """It names the tighter one of the two."""
    model = VAE(latent=2, hidden=(1 << 14, 1 << 14), epochs=1)  # 8 GiB: 2^28 weights, their gradient, two moments, and twins
    monkeypatch.setattr(limits, "machine_memory", lambda: 16 * GIB)
    monkeypatch.setattr(limits, "memory_limit", lambda root: 2 * GIB)
    with pytest.raises(ConfigError, match=r"GiB; the control group of this process allows 2 GiB$"):
        model.fit([[0.5, 0.25]] * 4)
    monkeypatch.setattr(limits, "machine_memory", lambda: GIB)
    with pytest.raises(ConfigError, match=r"GiB; this machine has 1 GiB$"):
        model.fit([[0.5, 0.25]] * 4)
