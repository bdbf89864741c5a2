"""How long to train by default: the rule of epochs="auto" against fixed lengths, on tables that scikit-learn brings along.

    python examples/reproduce/length.py                                             all that is not recorded yet
    python examples/reproduce/length.py wine digits --lengths auto 2000 --seeds 0 1

VAE(latent=3), with the defaults of all other settings, is trained on four fifths of the rows of the raw table (which it
standardizes itself); the score is the mean log p(x) of the other rows, in nats per row. A fixed length trains on all of the
four fifths; the rule holds a tenth of them out. The targets: the rule is within 1 nat of the best fixed length, averaged
over seeds, and a fit takes at most 30 seconds; otherwise this script exits with 1. Each fit adds a line to
docs/results/length.jsonl, and is not repeated.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from tables import RESULTS, check_names, machine

import gvae
from gvae import blas

DATA = {
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
    "digits": datasets.load_digits,  # counts of 0 to 16, some columns constant in all rows but a few
}
GRID = (200, 500, 1000, 2000, 5000, 10_000)  # steps
NATS, SECONDS = 1.0, 30.0  # the targets


def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(training rows, test rows): every fifth row is one of the test."""
    x = np.asarray(DATA[name]().data, np.float64)
    test = np.arange(len(x)) % 5 == 4
    return x[~test], x[test]


def measure(name: str, length: int | str, seed: int) -> dict[str, Any]:
    """One fit and its score. `kept` is the step whose weights the rule has kept."""
    train, test = split(name)
    model = gvae.VAE(latent=3, random_state=seed, **({} if length == "auto" else {"steps": length}))
    started = time.perf_counter()
    model.fit(train)
    seconds, rows = time.perf_counter() - started, model.history_
    result = {"data": name, "seed": seed, "length": length, "score": model.score(test), "seconds": round(seconds, 2)}
    result |= {"steps": rows[-1]["step"]}
    if length == "auto":
        result |= {"kept": max(rows, key=lambda row: row["validation_bound"])["step"]}
    return result | {"date": datetime.date.today().isoformat(), "machine": machine()}


def mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def show(records: list[dict[str, Any]]) -> bool:
    """Print a line per data set; whether the rule is where it should be, of what has been measured."""
    print(f"{'':<14}" + "".join(f"{k:>9}" for k in GRID) + "     auto   to best   steps    kept  longest fit, s")
    good = True
    for name in DATA:
        own = [row for row in records if row["data"] == name]
        rule = [row for row in own if row["length"] == "auto"]
        seeds = {row["seed"] for row in rule} or {row["seed"] for row in own}
        grid = {k: [r for r in own if r["length"] == k and r["seed"] in seeds] for k in GRID}
        scores = {k: mean(rows, "score") for k, rows in grid.items() if rows}
        line = f"{name:<14}" + "".join(f"{scores[k]:9.2f}" if k in scores else f"{'':9}" for k in GRID)
        if rule and scores:
            gap, longest = mean(rule, "score") - max(scores.values()), max(row["seconds"] for row in rule)
            line += f"{mean(rule, 'score'):9.2f}{gap:+10.2f}"
            line += f"{mean(rule, 'steps'):8.0f}{mean(rule, 'kept'):8.0f}{longest:17.1f}"
            good &= gap >= -NATS and longest <= SECONDS
        print(line)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", metavar="DATA", help=f"{', '.join(DATA)} (default: all)")
    known = {"auto": "auto"} | {str(k): k for k in GRID}
    parser.add_argument("--lengths", nargs="+", choices=known, default=list(known))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=RESULTS / "length.jsonl", metavar="FILE")
    options = parser.parse_args()
    check_names(parser, options.data, DATA)
    written = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    records = [json.loads(line) for line in written.splitlines()]
    done = {(row["data"], row["length"], row["seed"]) for row in records}
    with blas.threads(1):  # as gvae's own commands: the bits of a result depend on it
        for name in options.data or DATA:
            for length in map(known.__getitem__, options.lengths):
                for seed in options.seeds:
                    if (name, length, seed) not in done:
                        records.append(measure(name, length, seed))
                        with open(options.out, "a", encoding="utf-8") as file:
                            file.write(json.dumps(records[-1]) + "\n")
    return 0 if show(records) else 1


if __name__ == "__main__":
    sys.exit(main())
