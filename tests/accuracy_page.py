"""Write docs/accuracy.md from the table of ops/test_accuracy.py:    python tests/accuracy_page.py"""

from __future__ import annotations

import decimal
import sys
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"

HEAD = """\
<!-- Made by: python tests/accuracy_page.py -->

# Accuracy

What each operation promises, and the largest error observed in its test, in units of the bound without its leading
constant: where the bound is 4 eps x and the table says 1.7, the error was 1.7 eps x at most. Tests enforce the bounds
(`tests/ops/test_accuracy.py`); the observed errors are rounded up to two digits and may change a little with the machine.
The inputs are random, graded over four decades, and nearly singular (cond A up to about 1/(1000 eps)); sizes go from 0 to
300 and bandwidths from 0 to 4, and an extended grid is included.

n is the size of a system, eps is 1.2e-7 in float32 and 2.2e-16 in float64, |.|₁ the largest column sum (of a vector: the
sum) of absolute values, A = L Lᵀ. "Sum of absolute terms" is the result's own sum, with every term taken positive: where
terms cancel, the error is small beside them, not beside the result.

| operation | bound | worst, float32 | worst, float64 |
| --- | --- | --- | --- |
"""


def line(row, *seen: str) -> str:
    bound = row.bound.replace("|", "\\|")
    return " | ".join([f"| `{row.op}`", bound, *seen]) + " |"


def rounded_up(x: float) -> str:
    """Two significant digits, never less than x."""
    if x == 0:
        return "0"
    return f"{float(decimal.Context(prec=2, rounding=decimal.ROUND_CEILING).create_decimal_from_float(x)):g}"


def write() -> None:
    sys.path[:0] = [str(Path(__file__).parent / folder) for folder in ("ops", "kernels")]
    from test_accuracy import DTYPES, TABLE

    lines = [line(row, *(rounded_up(row.worst(np.dtype(d).type)) for d in DTYPES)) for row in TABLE]
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
