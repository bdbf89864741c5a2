"""An evaluation as readable text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from gvae.evaluation.importance import Evaluation
from gvae.evaluation.measures import Measured
from gvae.evaluation.pareto import UNRELIABLE

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
        lines += [*([""] if lines else []), *_SECTIONS[name](summary[name])]
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


def _of_chains(s: Mapping[str, Any]) -> str:
    return f"{s['rows']} rows, {s['chains']} chains, {s['acceptance']:.0%} of proposals accepted"


def _line(label: str, value: float | None, after: str = "") -> str:
    shown = "-" if value is None or math.isnan(value) else f"{value:.3f}"
    return f"  {label:<34}{shown:>12}{'  ' + after if after else ''}"


def _spread(summary: Mapping[str, Any], name: str) -> str:
    error = summary[f"{name}_standard_error"]
    return f"+- {error:.3f} (standard error over rows)" if math.isfinite(error) else ""


def _importance(s: Mapping[str, Any], result: Evaluation) -> Iterator[str]:
    seen = "y" if result.conditional else ", ".join(result.views)
    yield _line("its bound, E log p(y|z)" if result.conditional else "ELBO", s["elbo"], _spread(s, "elbo"))
    label = f"{result.explained}, {s['samples']} importance samples"
    yield _line(label, s["log_likelihood"], _spread(s, "log_likelihood"))
    if math.isfinite(s["log_likelihood_sampling_error"]):
        yield _line("  its standard error by sampling", s["log_likelihood_sampling_error"])
    yield _line("rate KL(q(z|x) || p(z))", s["kl"])
    yield _line(f"distortion -E log p({seen}|z)", s["distortion"])
    yield f"  {'effective sample size':<34}{s['effective_sample_size']:>12.1f}  of {s['samples']}"
    if s["pareto_k"] is not None:
        share = s["pareto_k_unreliable"]
        yield _line("Pareto k, median", s["pareto_k"], f"{share:.1%} of rows above {UNRELIABLE}")


def _units(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"active units: {s['active']} of {s['units']}, {s['collapsed']:.0%} collapsed"
    for i, layer in enumerate(s["layers"]):
        name = layer.get("name", f"layer {i + 1}")
        which = f"{name}: {layer['active']} of {layer['units']}; " if len(s["layers"]) > 1 else ""
        values = " ".join(f"{x:.2f}" for x in sorted(layer["kl"], reverse=True))
        yield f"  {which}KL of each, largest first, sum {sum(layer['kl']):.2f}: {values}"


def _surgery(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"the KL in parts, {s['rows']} rows"
    yield _line("marginal KL(q(z) || p(z))", s["marginal_kl"], _spread(s, "marginal_kl"))
    at_most = f"of at most log {s['rows']} = {s['log_rows']:.3f}"
    yield _line("mutual information of row and code", s["mutual_information"], at_most)
    yield _line("  by entropy, log N - E H(n|z)", s["mutual_information_by_entropy"])
    yield _line("their sum, KL by sampling", s["kl"])
    for i, layer in enumerate(s.get("layers", ())):
        marginal, information = layer["marginal_kl"], layer["mutual_information"]
        yield f"  layer {i + 1}: marginal KL {marginal:.3f}, mutual information {information:.3f}"


def _reconstruction(s: Mapping[str, Any]) -> Iterator[str]:
    yield "reconstructions, from draws of q(z|x)"
    yield _line("rate", s["rate"], _spread(s, "rate"))
    yield _line("distortion", s["distortion"], _spread(s, "distortion"))
    yield f"  {'squared error per variable':<34}{s['squared_error']:>12.5f}"


def _information(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"information, {s['rows']} rows"
    yield _line("I(z; x)", s["mutual_information"], f"of at most log {s['rows']} = {s['log_rows']:.3f}")
    yield _line("TC(z)", s["total_correlation"], _spread(s, "total_correlation"))
    yield _line("sum of KL(q(z_j) || p(z_j))", s["sum_code_kl"])
    yield _line("their sum, KL by sampling", s["kl"])
    for name, code in s["codes"].items():
        values = " ".join(f"{x:.2f}" for x in sorted(code["mutual_information"], reverse=True))
        yield f"  I({name}_j; x) of each, largest first: {values}"
    yield _line("sum of I(z_j; x)", s["sum_code_information"])
    yield _line("sum of I(x_i; z), at least", s["sum_view_information"])
    yield _line("TC(x; z), at least", s["explained"])
    yield _line("TC(x; z) - TC(z), at least", s["explained_beyond_codes"])
    yield _line("ELBO + sum of H(x_i)", s["total_correlation_bound"], "at most TC(x; z)")
    if s["kl"] is None:
        yield "  of the codes next to the data, whose p(z) depends on the codes above: no KL to it"
    elif s["sum_code_kl"] is None:
        yield "  the variables of p(z) are not independent: no sum of KL(q(z_j) || p(z_j))"
    if s["sum_h"] is None:
        yield "  x is continuous: H(x_i), and what is bounded by it, are for bits, counts and categories"
    elif s["explained_beyond_codes"] is None:
        yield "  q(z|x) does not factorize: TC(x; z) - TC(z) is no difference of these sums"


def _gibbs(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"hidden variables, filled in by Gibbs sampling, {s['rows']} rows"
    yield f"  {'squared error after 1 step':<34}{s['first_squared_error']:>12.5f}"
    yield f"  {'squared error after ' + str(s['steps']):<34}{s['squared_error']:>12.5f}"


def _gaps(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"inference gaps, {s['rows']} rows"
    yield _line("ELBO of the encoder's q", s["elbo"])
    yield _line("ELBO of the best q of its family", s["best_elbo"])
    yield _line(f"log p(x), K = {s['samples']}, of the best q", s["log_likelihood"])
    yield _line("approximation gap", s["approximation_gap"], _spread(s, "approximation_gap"))
    yield _line("amortization gap", s["amortization_gap"], _spread(s, "amortization_gap"))


def _ais(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"annealed importance sampling: {_of_chains(s)}"
    yield _line("log p(x), annealed", s["log_likelihood"], _spread(s, "log_likelihood"))
    if math.isfinite(s["log_likelihood_sampling_error"]):
        yield _line("  its standard error by sampling", s["log_likelihood_sampling_error"])
    yield _line("log p(x), importance samples", s["importance_sampled_log_likelihood"], "of the same rows")


def _bdmc(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"log p(x) from both sides on rows that the model has drawn: {_of_chains(s)}"
    yield _line("log p(x), from below", s["lower"])
    yield _line("log p(x), from above", s["upper"])
    yield _line("between them", s["gap"], _spread(s, "gap"))


def _curve(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"rate-distortion curve of the decoder: {_of_chains(s)}"
    yield f"  {'beta':>10}{'rate':>12}{'distortion':>12}"
    for point in s["points"]:
        yield f"  {point['beta']:>10g}{point['rate']:>12.3f}{point['distortion']:>12.3f}"


def _classification(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"classification, {s['rows']} rows, {s['draws']} draws of the code"
    error = s["standard_error"]
    after = f"+- {error:.2%} (standard error over rows)" if math.isfinite(error) else ""
    yield f"  {'error':<34}{s['error']:>12.2%}{'  ' + after if after else ''}"
    yield _line("I(Z; X), at most, in bits", s["i_zx_bits"])
    yield _line("I(Z; Y), at least, in bits", s["i_zy_bits"])


def _completion(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"completion, {s['rows']} rows of which a share of {s['seen']:g} is seen, {s['held_out']:.0f} held-out counts"
    yield _line("perplexity", s["perplexity"])


def _mmd(s: Mapping[str, Any]) -> Iterator[str]:
    how = "terms with p in closed form" if s["closed"] else "one draw of p for each row"
    kernel = f"kernel {s['kernel']}, bandwidth {s['bandwidth']:g}"
    yield f"mmd of q(z) from p(z), {s['rows']} rows, {s['variables']} variables, {kernel}, {how}"
    error = s["mmd_squared_standard_error"]
    yield f"  {'MMD squared':<34}{s['mmd_squared']:>12.5f}  +- {error:.5f} (standard error over rows)"


def _bits(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"bits, {s['rows']} rows in one stream" + ("" if s["decoded"] else ": IT DID NOT DECODE TO THE ROWS")
    yield _line("net bits of a row", s["net_bits_per_row"], f"{s['net_bits_per_variable']:.4f} of a variable")
    yield _line("-ELBO / ln 2", s["bound_bits_per_row"], _spread(s, "bound"))
    yield _line("gzip", s["gzip_bits_per_row"])
    yield _line("bz2", s["bz2_bits_per_row"])
    yield _line("bits to begin with, in all", s["initial_bits"])


def _correlation(s: Mapping[str, Any]) -> Iterator[str]:
    yield f"correlations of the codes of two views, {s['rows']} rows"
    yield "  of each pair: " + " ".join(f"{x:.3f}" for x in s["correlations"])
    yield _line("their sum", s["total"], f"of at most {len(s['correlations'])}")
    yield _line("sum of the canonical ones here", s["canonical_total"], "the largest by any linear maps of the codes")


_SECTIONS = {
    "units": _units,
    "surgery": _surgery,
    "reconstruction": _reconstruction,
    "information": _information,
    "gibbs": _gibbs,
    "gaps": _gaps,
    "ais": _ais,
    "bdmc": _bdmc,
    "curve": _curve,
    "classification": _classification,
    "bits": _bits,
    "completion": _completion,
    "mmd": _mmd,
    "correlation": _correlation,
}
