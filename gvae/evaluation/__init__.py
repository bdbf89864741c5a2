"""Evaluation: how good a model is on given rows. It uses the model protocol only (gvae.models); all values are in nats.

importance   the ELBO, importance-sampled log p(x) and how far it can be trusted
annealed     log p(x) by annealed importance sampling, from both sides on simulated rows; rate-distortion curve of a decoder
codes        active units, the parts of the KL, reconstruction error
information  mutual informations and total correlations, variable by variable
gibbs        imputation of missing variables of x, by drawing codes and x in turn
classification    error of labels, bits of x and y in a classifier's code
completion   perplexity of held-out words
mmd          the discrepancy of the codes' marginal from the prior
bits         the rows encoded by the model, with bits back, and decoded again; coder: how
correlation  correlations of the codes of two views
gaps         inference gaps: the losses due to the family of q and due to the encoder
registry     all of them by name: each is declared next to its function, by `measure`
measures     `evaluate` computes any of them; table: the results as readable text

A measure is a pass over the rows of a `Subject` in batches; its result has values per row, and a `summary` over them.
"""

from gvae import discover
from gvae.evaluation.annealed import (
    Annealed,
    Bidirectional,
    RateDistortion,
    annealed_importance_sampling,
    bidirectional,
    rate_distortion,
)
from gvae.evaluation.bits import Bits, bits
from gvae.evaluation.classification import Classification, classification
from gvae.evaluation.coder import Bins, Coder, Whole, alphabet, pop, push
from gvae.evaluation.codes import Reconstruction, Surgery, Units, active_units, reconstruction, surgery
from gvae.evaluation.completion import Completion, complete, completion, log_shares
from gvae.evaluation.correlation import ViewCorrelations, view_correlations
from gvae.evaluation.gaps import Gaps, inference_gaps
from gvae.evaluation.gibbs import Gibbs, gibbs
from gvae.evaluation.importance import COLUMNS, Evaluation, importance_sampling
from gvae.evaluation.information import Information, information
from gvae.evaluation.measures import Measured, evaluate
from gvae.evaluation.mmd import Discrepancy, mmd
from gvae.evaluation.pareto import pareto_k
from gvae.evaluation.partial import Partial
from gvae.evaluation.registry import MEASURES, Measure, measure
from gvae.evaluation.subject import Subject
from gvae.evaluation.table import table, warnings

__all__ = [
    "COLUMNS",
    "MEASURES",
    "Annealed",
    "Bidirectional",
    "Bins",
    "Bits",
    "Classification",
    "Coder",
    "Completion",
    "Discrepancy",
    "Evaluation",
    "Gaps",
    "Gibbs",
    "Information",
    "Measure",
    "Measured",
    "Partial",
    "RateDistortion",
    "Reconstruction",
    "Subject",
    "Surgery",
    "Units",
    "ViewCorrelations",
    "Whole",
    "active_units",
    "alphabet",
    "annealed_importance_sampling",
    "bidirectional",
    "bits",
    "classification",
    "complete",
    "completion",
    "evaluate",
    "gibbs",
    "importance_sampling",
    "inference_gaps",
    "information",
    "log_shares",
    "measure",
    "mmd",
    "pareto_k",
    "pop",
    "push",
    "rate_distortion",
    "reconstruction",
    "surgery",
    "table",
    "view_correlations",
    "warnings",
]

__all__ += discover.further(__name__, __path__, globals())

# The order of reports: sections of these modules first, those of others after them.
_ORDER = ("codes", "information", "gibbs", "gaps", "annealed", "bits", "completion", "mmd", "classification", "correlation")
_places = {f"{__name__}.{module}": place for place, module in enumerate(_ORDER)}
for _name in sorted(MEASURES, key=lambda name: _places.get(MEASURES[name].run.__module__, len(_ORDER))):
    MEASURES[_name] = MEASURES.pop(_name)
