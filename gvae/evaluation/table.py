"""An evaluation as readable text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from gvae.evaluation.importance import Evaluation
from gvae.evaluation.measures import Measured
from gvae.evaluation.pareto import UNRELIABLE
from gvae.evaluation.registry import MEASURES, line, spread

__all__ = ["table", "warnings"]

MANY = 0.05  # share of rows with an unreliable estimate that is worth a warning


def table(result: Evaluation | Measured, warnings: bool = True) -> str:
    """The summary of an evaluation as text: one line per number, in nats per row, under a heading per measure.

    Parameters
    ----------
    result : Evaluation or Measured
    warnings : bool, default True
        Whether to add the `warnings`.

    Returns
    -------
    str

    Examples
    --------
    >>> one = np.ones(2)
    >>> result = gvae.evaluation.Evaluation(-3 * one, np.array([-2.5, -2.7]), 0.1 * one, one, 40 * one, 0.2 * one, 100)
    >>> print(gvae.evaluation.table(result))
      ELBO                                    -3.000  +- 0.000 (standard error over rows)
      log p(x), 100 importance samples        -2.600  +- 0.100 (standard error over rows)
        its standard error by sampling         0.071
      rate KL(q(z|x) || p(z))                  1.000
      distortion -E log p(x|z)                 2.000
      effective sample size                     40.0  of 100
      Pareto k, median                         0.200  0.0% of rows above 0.7
    """
    summary = result.summary()
    lines: list[str] = []
    if isinstance(result, Evaluation):
        lines += _importance(summary, result)
        for sentence in _warnings(summary, result.explained) if warnings else ():
            lines += [f"  {line}" for line in textwrap.wrap(f"warning: {sentence}", 100)]
    for name in result.measures:
        lines += [*([""] if lines else []), *MEASURES[name].lines(summary[name])]
    if result.left_out:
        lines += ["", "measures that the model does not have"]
        for name, why in result.left_out.items():
            text = f"{name}: {why.removeprefix(f'{name}: ')}"
            lines += textwrap.wrap(text, 102, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def warnings(result: Evaluation | Measured) -> list[str]:
    """What must be known before the numbers of an evaluation are trusted, in sentences.

    Parameters
    ----------
    result : Evaluation or Measured

    Returns
    -------
    list of str
        [] if nothing speaks against them.

    Examples
    --------
    >>> one = np.ones(2)
    >>> result = gvae.evaluation.Evaluation(-3 * one, np.array([-2.5, -2.7]), 0.1 * one, one, 40 * one, 0.9 * one, 100)
    >>> gvae.evaluation.warnings(result)[0][:39]
    'for 100.0% of rows a few weights decide'
    """
    return list(_warnings(result.summary(), result.explained)) if isinstance(result, Evaluation) else []


def _warnings(s: Mapping[str, Any], what: str) -> Iterator[str]:
    share = s["pareto_k_unreliable"] if s["pareto_k"] is not None else 0.0
    if share > MANY:
        yield (
            f"for {share:.1%} of rows a few weights decide: neither {what}, likely too low, nor its error can be trusted; "
            "more samples help little, a better q or annealing (ais) does"
        )


def _importance(s: Mapping[str, Any], result: Evaluation) -> Iterator[str]:
    seen = "y" if result.conditional else ", ".join(result.views)
    yield line("its bound, E log p(y|z)" if result.conditional else "ELBO", s["elbo"], spread(s, "elbo"))
    label = f"{result.explained}, {s['samples']} importance samples"
    yield line(label, s["log_likelihood"], spread(s, "log_likelihood"))
    if math.isfinite(s["log_likelihood_sampling_error"]):
        yield line("  its standard error by sampling", s["log_likelihood_sampling_error"])
    yield line("rate KL(q(z|x) || p(z))", s["kl"])
    yield line(f"distortion -E log p({seen}|z)", s["distortion"])
    yield f"  {'effective sample size':<34}{s['effective_sample_size']:>12.1f}  of {s['samples']}"
    if s["pareto_k"] is not None:
        share = s["pareto_k_unreliable"]
        yield line("Pareto k, median", s["pareto_k"], f"{share:.1%} of rows above {UNRELIABLE}")
