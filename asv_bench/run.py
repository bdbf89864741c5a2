"""Run the benchmarks with the current Python on this checkout, and write the results with the facts of the machine.

    python asv_bench/run.py NEW.json

asv does the work; its own results folder is not touched.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PEERS = ("torch", "jax")
VERSION_DIGITS = 12  # compare.py compares as many
COLUMNS = ("result", "params", "version", "stats_ci_99_a", "stats_ci_99_b", "stats_number", "stats_repeat")


def machine() -> dict[str, Any]:
    """What timings depend on; nothing that identifies this machine."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", info)
    flags = re.search(r"flags\s*:\s*(.+)", info)
    wide = [name for name in ("avx512f", "avx2") if flags and name in flags[1].split()]
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    return {
        "cpu": model[1].strip() if model else platform.processor() or platform.machine(),
        "vectors": wide[0].removesuffix("f") if wide else "unknown",
        "cores": cores(),
        "os": system,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numpy", "scipy", "numba")},
        **{name: version for name in PEERS if (version := _installed(name))},
        "blas": _blas(),
        "threads": {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS") or k == "OPENBLAS_CORETYPE"},
    }


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    """Name and kernel type, as `gvae doctor` finds them."""
    code = "import json; from gvae import doctor; print(json.dumps(doctor.examine()['blas']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    if done.returncode:  # an old commit without it
        return "unknown"
    found = json.loads(done.stdout)
    return f"{found.get('library')}, kernel type {found.get('kernel type')}"


def name_of(facts: dict[str, Any]) -> str:
    """A name for such machines: "intel-xeon-avx512-2core"."""
    words = re.sub(r"\(.*?\)|@.*|\b(processor|cpu)\b", " ", facts["cpu"], flags=re.IGNORECASE)
    return "-".join([*re.findall(r"[a-z0-9]+", words.lower()), facts["vectors"], f"{facts['cores']}core"])


def _environment() -> dict[str, str]:
    """This checkout first: asv passes its own variable on to a benchmark's process, PYTHONPATH to processes it starts."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "ASV_PYTHONPATH": path}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit("run.py: needs a git checkout with at least one commit")
    return done.stdout.strip()


def run(
    bench: list[str], quick: bool, show_stderr: bool, name: str, commit: str, history: Path | None
) -> tuple[dict[str, Any], int]:
    """The contents of asv's result file, and asv's exit code. In `history`, a folder, results are kept beside those of
    earlier calls, and published as pages."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) if history is None else history.resolve()
        configuration = {
            "version": 1,
            "project": "gvae",
            "repo": str(ROOT),
            "branches": ["HEAD"],
            "environment_type": "existing",
            "benchmark_dir": str(HERE / "benchmarks"),
            # every combination gets a process of its own: forked, it inherits what benchmarks/common.py has imported, and
            # one that is skipped costs nothing; half the time of the whole run
            "launch_method": "forkserver" if hasattr(os, "fork") else "spawn",
            "env_dir": str(Path(folder, "env")),
            "results_dir": str(kept / "results"),
            "html_dir": str(kept / "html"),
        }
        Path(folder, "asv.conf.json").write_text(json.dumps(configuration), encoding="utf-8")
        asv = [sys.executable, "-m", "asv"]
        common = ["--config", str(Path(folder, "asv.conf.json"))]
        # asv wants an entry in its list of machines; this adds one and changes no other
        subprocess.run([*asv, "machine", *common, "--yes", "--machine", name], capture_output=True, env=_environment())
        command = [*asv, "run", *common, "--environment", "existing:same", "--machine", name, "--set-commit-hash", commit]
        command += ["--quick"] if quick else []
        command += [f"--bench={pattern}" for pattern in bench]
        command += ["--show-stderr"] if show_stderr else []
        code = subprocess.run(command, env=_environment()).returncode
        found = list((kept / "results" / name).glob(f"{commit[:8]}*.json"))
        if not found:
            raise SystemExit(f"run.py: asv wrote no results (its exit code is {code})")
        if history is not None:
            subprocess.run([*asv, "publish", *common], env=_environment(), check=True)
        return json.loads(max(found, key=os.path.getmtime).read_text(encoding="utf-8")), code


def export(results: dict[str, Any], about: dict[str, Any]) -> str:
    """JSON with one line per benchmark, in asv's own columns; numbers to five digits, null where there is none."""

    def short(x: Any) -> Any:
        if isinstance(x, list):
            return [short(i) for i in x]
        if not isinstance(x, float):
            return x
        return float(f"{x:.5g}") if math.isfinite(x) else None

    rows = []
    for name, row in sorted(results["results"].items()):
        entry = dict(zip(results["result_columns"], row, strict=False))
        entry["version"] = entry["version"][:VERSION_DIGITS]
        rows.append(f"  {json.dumps(name)}: {json.dumps([short(entry.get(column)) for column in COLUMNS])}")
    head = json.dumps({**about, "result_columns": COLUMNS}, indent=1)
    return head.removesuffix("\n}") + ',\n "results": {\n' + ",\n".join(rows) + "\n }\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Run the benchmarks with the current Python on this checkout and write one JSON file: results, "
        "machine, versions, commit, date. Close other programs first. Needs asv and a commit in git.",
        epilog="Exit code: 0, or 2 if a benchmark failed (the file is written all the same, without its results).",
    )
    parser.add_argument("out", metavar="OUT.json", help="the file to write; FOLDER/ for FOLDER/<name of the machine>.json")
    parser.add_argument("--bench", action="append", default=[], metavar="REGEX", help="only these; may be repeated")
    parser.add_argument("--quick", action="store_true", help="every benchmark once: to see that all of them run")
    parser.add_argument(
        "--history", type=Path, metavar="FOLDER", help="keep asv's results there, and publish them as pages, FOLDER/html"
    )
    parser.add_argument("--show-stderr", action="store_true", help="say why a benchmark failed or was skipped")
    options = parser.parse_args(arguments)
    facts = machine()
    name = name_of(facts)
    out = Path(options.out, f"{name}.json") if options.out.endswith(("/", os.sep)) else Path(options.out)
    if not out.parent.is_dir():
        parser.error(f"{out}: there is no folder {out.parent}")
    commit = _git("rev-parse", "HEAD")
    changed = bool(_git("status", "--porcelain", "--", "gvae", "asv_bench/benchmarks"))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"run.py: other programs are busy (load {load:.1f}): timings will be too long", file=sys.stderr)
    results, code = run(options.bench, options.quick, options.show_stderr, name, commit, options.history)
    about = {
        "name": name,
        "machine": facts,
        "commit": commit + (" with changes" if changed else ""),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "load_before": round(load, 2),
        "quick": options.quick,
    }
    out.write_text(export(results, about), encoding="utf-8")
    print(f"{out}: {len(results['results'])} benchmarks")
    return code


if __name__ == "__main__":
    sys.exit(main())
