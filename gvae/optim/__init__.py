"""Optimisers on the flat parameter buffer, learning-rate schedules, averages of the parameters.

Optimisers and `shorten` change their arguments in place.
"""

from gvae.optim.adam import Adam, AdamW, RowAdam
from gvae.optim.averages import AVERAGES, EMA, SWA, Average, parse_average
from gvae.optim.lbfgs import LBFGS
from gvae.optim.norms import norm, shorten
from gvae.optim.optimizer import Optimizer
from gvae.optim.parsing import OPTIMIZERS, check_optimizer, parse_alone, parse_optimizer, parse_rates
from gvae.optim.schedules import IWAE, SCHEDULES, Cosine, Exponential, Plateau, Schedule, parse_schedule
from gvae.optim.sgd import SGD

__all__ = [
    "AVERAGES",
    "EMA",
    "IWAE",
    "LBFGS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "SWA",
    "Adam",
    "AdamW",
    "Average",
    "Cosine",
    "Exponential",
    "Optimizer",
    "Plateau",
    "RowAdam",
    "Schedule",
    "check_optimizer",
    "norm",
    "parse_alone",
    "parse_average",
    "parse_optimizer",
    "parse_rates",
    "parse_schedule",
    "shorten",
]
