"""Objectives: from the terms that a model reports for a batch to one scalar to maximise, in mean nats per row.

A model reports `Terms`: the log-likelihood of each view and, per stochastic layer, its q, its p and the draw. All of them
have shape (K, B): K samples lead, B rows. Objectives do not depend on families or models; they ask a layer for log q, log p
or the closed-form KL. An objective is any callable

    objective(terms, step, weight) -> (value, metrics)

where `value` is a scalar Var, or a dict from parameter groups to scalars when groups maximise different things (REST: all
groups that are not named; a group that no key covers is not updated), `metrics` are scalars, Vars or numbers, `step` counts
training steps and `weight` (B,) weights rows (None: all equally). An objective that depends on these only, and has no other
effect, may declare so by `pure = True`: steps may then be captured (see gvae.training.program).

terms           what a model reports: Layer, Terms, Blanket
elbo            ELBO, with the KL or a cost in its place; second_order: its gradient by second derivatives
marginal        Info, with a divergence of the marginals q(z) and p(z): MMD, JensenShannon
score           gradients of draws that are not differentiable: score function, local signals, pairs, learned baselines
importance      ImportanceWeighted, and the estimators of its gradient
correlation     Correlation, of two views
dreams          WakeSleep, in which q learns from draws of the model
means           means over rows and draws, and the weight of a warm-up
registry        all of them by name, each declared where it is made, by `objective`
texts           parse, and those that are made of the classes above
"""

from gvae import discover
from gvae.objectives.correlation import Correlation
from gvae.objectives.dreams import WakeSleep
from gvae.objectives.elbo import ELBO
from gvae.objectives.importance import GRADIENTS, ImportanceWeighted
from gvae.objectives.marginal import MMD, Divergence, Info, JensenShannon
from gvae.objectives.registry import ABOUT, OBJECTIVES, About, objective
from gvae.objectives.second_order import HESSIAN
from gvae.objectives.terms import REST, SHARED, Blanket, Layer, Objective, Terms, noise_of_rows, total
from gvae.objectives.texts import COSTLY, keys, parse

__all__ = [
    "ABOUT",
    "COSTLY",
    "ELBO",
    "GRADIENTS",
    "HESSIAN",
    "MMD",
    "OBJECTIVES",
    "REST",
    "SHARED",
    "About",
    "Blanket",
    "Correlation",
    "Divergence",
    "ImportanceWeighted",
    "Info",
    "JensenShannon",
    "Layer",
    "Objective",
    "Terms",
    "WakeSleep",
    "keys",
    "noise_of_rows",
    "objective",
    "parse",
    "total",
]

__all__ += discover.further(__name__, __path__, globals())
