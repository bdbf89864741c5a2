"""Compare two files of benchmark results: python asv_bench/compare.py OLD.json NEW.json

A file is one that asv_bench/run.py wrote, or a result file of asv itself (results/MACHINE/COMMIT-ENVIRONMENT.json).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BASELINES = ("'numpy'", "'scipy'", "'lapack'", "'dense'", "'serial'", "'torch'", "'jax_")  # how their parameter begins
VERSION_DIGITS = 12
LINES = 10  # of what is only for information


class BadInput(Exception):
    """A file that cannot be compared; the message is one line."""


def read(path: str) -> tuple[dict[str, float], dict[str, str], set[str], dict[str, Any]]:
    """(value by name with parameters, version of the benchmark by the same name, names of those that failed, the file)."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        columns = content["result_columns"]
        values, versions, failed = {}, {}, set()
        for name, row in content["results"].items():
            entry = dict(zip(columns, row, strict=False))
            results = entry["result"] or itertools.repeat(None)  # None: failed, NaN: skipped
            for params, value in zip(itertools.product(*entry["params"]), results, strict=False):
                full = f"{name}({', '.join(params)})" if params else name
                if value is None:
                    failed.add(full)
                elif math.isfinite(value) and value > 0:
                    values[full], versions[full] = float(value), str(entry.get("version"))[:VERSION_DIGITS]
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput(f"{path} is not a file of benchmark results") from None
    if not values:
        raise BadInput(f"{path} holds no results")
    return values, versions, failed, content


def human(value: float, name: str) -> str:
    """With its unit, which follows from the kind of benchmark."""
    method = name.partition("(")[0].rpartition(".")[2]
    if method.startswith(("mem_", "peakmem_")):
        return f"{value / 2**20:.4g} MiB"
    if not method.startswith(("time_", "timeraw_")):
        return f"{value:.4g}"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.4g} {unit}"
    return f"{value / 1e-9:.4g} ns"


def is_baseline(name: str) -> bool:
    return name.partition("(")[2].startswith(BASELINES)


def compare(old_path: str, new_path: str, threshold: float) -> int:
    """Print the comparison; 1 if something of gvae's got slower (or larger) by more than the threshold, or fails, else 0."""
    (old, old_versions, _, old_file), (new, new_versions, broken, new_file) = read(old_path), read(new_path)
    common = [name for name in new if name in old]
    if not common:
        raise BadInput(f"{old_path} and {new_path} have no benchmark in common")
    if old_file.get("machine") != new_file.get("machine") and "machine" in old_file and "machine" in new_file:
        print("note: the two files come from different machines or versions of the libraries:")
        for side, file in (("old", old_file), ("new", new_file)):
            print(f"  {side}: {', '.join(f'{k} {v}' for k, v in file['machine'].items())}")

    redefined = [name for name in common if old_versions[name] != new_versions[name]]
    ratios = {name: new[name] / old[name] for name in common if name not in redefined}
    ours = sorted((name for name in ratios if not is_baseline(name)), key=lambda name: -ratios[name])
    slower = [name for name in ours if ratios[name] > threshold]
    faster = [name for name in reversed(ours) if ratios[name] < 1 / threshold]

    def show(title: str, names: list[str], most: int | None) -> None:
        if names:
            print(f"{title}: {len(names)}")
        for name in names[:most]:
            print(f"  {ratios[name]:6.2f} x  {human(old[name], name):>10} -> {human(new[name], name):>10}  {name}")
        if most is not None and len(names) > most:
            print(f"  ... and {len(names) - most} more")

    def mention(title: str, names: list[str], most: int | None = LINES) -> None:
        if names:
            print(f"{title}: {len(names)}", *(f"  {name}" for name in names[:most]), sep="\n")
        if most is not None and len(names) > most:
            print(f"  ... and {len(names) - most} more")

    fails = [name for name in old if name in broken and not is_baseline(name)]
    mention("fails in the new file", fails, None)
    show(f"slower, by more than {threshold:g} x", slower, None)
    show("faster", faster, LINES)
    mention("only in the old file", [name for name in old if name not in new and name not in fails])
    mention("only in the new file", [name for name in new if name not in old])
    mention("defined anew, not compared", redefined)
    baselines = [ratios[name] for name in ratios if is_baseline(name)]
    if baselines:
        print(f"baselines (not judged): {statistics.median(baselines):.2f} x in the median of {len(baselines)}")
    print(f"compared {len(ours)}: {len(slower)} slower, {len(faster)} faster, {len(ours) - len(slower) - len(faster)} alike")
    return 1 if slower or fails else 0


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 1")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description="List the benchmarks that became slower from OLD to NEW, the worst first; then briefly what became "
        "faster and what is in one file only. Memory counts like time.",
        epilog="Exit code: 1 if anything of gvae became slower, 0 if nothing did, 2 for a file that cannot be compared. "
        "Baselines (NumPy, SciPy, PyTorch, JAX) are not judged: if they changed as much, the machine did.",
    )
    parser.add_argument("old", metavar="OLD.json", help="results to compare with, such as a file in asv_bench/reference")
    parser.add_argument("new", metavar="NEW.json", help="results to judge")
    parser.add_argument(
        "--threshold", type=_threshold, default=1.15, metavar="X", help="slower means more than X times the old time [1.15]"
    )
    options = parser.parse_args(arguments)
    try:
        return compare(options.old, options.new, options.threshold)
    except BadInput as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
