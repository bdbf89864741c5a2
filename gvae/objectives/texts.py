"""Objectives by name: "elbo:beta=0.5", "iwae", "miwae:8", ..."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gvae import bounds, costs, texts
from gvae.bounds import Bound
from gvae.costs import Beta, Cost
from gvae.errors import ConfigError
from gvae.objectives.dreams import WakeSleep
from gvae.objectives.elbo import DISARM, ELBO, LOCAL
from gvae.objectives.importance import GRADIENTS, ImportanceWeighted
from gvae.objectives.marginal import BALANCE, KERNELS, MMD, Info, JensenShannon
from gvae.objectives.registry import ABOUT, OBJECTIVES, objective
from gvae.objectives.second_order import HESSIAN
from gvae.objectives.terms import Objective

__all__ = ["keys", "parse"]

BY_PATH = ("reparameterized",)


def _number(name: str, text: str | None, default: float, least: float, below: float, kind: type = float) -> Any:
    try:
        number = default if text is None else kind(text)
    except ValueError:
        number = math.nan
    if not least <= number < below:
        kinds = "a whole number" if kind is int else "one"
        raise ConfigError(f"{name}: its number is {text!r}, expected {kinds} of at least {least:g} and below {below:g}")
    return number


def _renyi(name: str, least: float, below: float) -> Callable[..., Objective]:
    def make(setting: str | None, gradient: str, warmup: int) -> Objective:
        alpha = _number(name, setting, 0.5, least, below)
        return ImportanceWeighted(bounds.Renyi(alpha), gradient, warmup=warmup)

    return make


class _Codes:
    """Indices of codes, counted from 0: "0+3"."""

    expected = "different whole numbers of codes such as 0+3"

    @staticmethod
    def kind(text: str) -> tuple[int, ...]:
        return tuple(int(part) if part.isdecimal() else -1 for part in text.split("+"))

    @staticmethod
    def accepts(codes: tuple[int, ...]) -> bool:
        return min(codes) >= 0 and len(set(codes)) == len(codes)


class _Choice:
    """One of some words."""

    kind = str

    def __init__(self, *words: str):
        self.words, self.expected = words, " or ".join(words)

    def accepts(self, word: str) -> bool:
        return word in self.words


class _Lambda:
    """A weight, or the word for the ratio of a step."""

    expected = f"a number of at least 0, or {BALANCE}"

    @staticmethod
    def kind(text: str) -> float | str:
        return text if text == BALANCE else float(text)

    @staticmethod
    def accepts(value: float | str) -> bool:
        return isinstance(value, str) or 0 <= value < math.inf


DIVERGENCES = ("mmd", "js")
INFO: dict[str, Any] = {
    "alpha": texts.Number("a number of at most 1", lambda x: x <= 1),
    "lambda": _Lambda,
    "divergence": _Choice(*DIVERGENCES),
    "kernel": _Choice(*KERNELS),
    "bandwidth": texts.POSITIVE,
}
COSTS: dict[str, Any] = {
    "beta": texts.NOT_NEGATIVE,
    "rate": texts.NOT_NEGATIVE,
    "free": texts.NOT_NEGATIVE,
    "anchor": _Codes,
}
WEIGHTED = ("rate", "anchor")


def _settings(name: str, setting: str) -> tuple[Cost | None, str]:
    """The cost and the trace of "beta=0.5", "rate=16,weight=4", "free=0.1", "anchor=0+3,weight=0.9", "trace=probe", ..."""
    text = f"{name}:{setting}"
    _, given = texts.parse("objective", text, {name: COSTS | {"weight": texts.POSITIVE, "trace": _Choice("exact", "probe")}})
    trace = given.pop("trace", "exact")
    weight = given.pop("weight", None)
    if not given and weight is None:
        return None, trace
    if len(given) != 1 or (weight is not None and not given.keys() & set(WEIGHTED)):
        kinds = f"one of {', '.join(COSTS)}, and weight with {' or '.join(WEIGHTED)} only"
        raise ConfigError(f"objective {text!r}: expected {kinds}")
    if "beta" in given:
        return costs.Beta(given["beta"]), trace
    if "free" in given:
        return costs.FreeBits(given["free"]), trace
    if "rate" in given:
        return costs.Target(given["rate"], 1.0 if weight is None else weight), trace
    if weight is None or weight > 1:
        raise ConfigError(f"objective {text!r}: weight is {weight}, expected a number in (0, 1]: above 1 nothing is bounded")
    return costs.Anchor(given["anchor"], weight), trace


def keys(text: str) -> set[str]:
    """Names of the settings in the text of an objective.

    Parameters
    ----------
    text : str

    Returns
    -------
    set of str

    Examples
    --------
    >>> sorted(gvae.objectives.keys("elbo:rate=16,weight=4"))
    ['rate', 'weight']
    >>> gvae.objectives.keys("renyi:-1")
    set()
    """
    return {part.partition("=")[0] for part in text.partition(":")[2].split(",") if "=" in part}


def _elbo(estimator: str) -> Callable[..., Objective]:
    def make(setting: str | None, gradient: str, warmup: int) -> Objective:
        if setting is not None:
            if gradient not in COSTED:
                raise ConfigError(
                    f"objective 'elbo:{setting}': its settings take the gradients {', '.join(COSTED)}, not {gradient!r}"
                )
            cost, trace = _settings("elbo", setting)
            if trace == "probe" and estimator == "A":
                raise ConfigError(f"objective 'elbo_a:{setting}': it samples all of the KL, and has no trace to probe")
            if gradient == LOCAL and not isinstance(cost, Beta | None):
                raise ConfigError(f"objective 'elbo:{setting}': gradient 'local' weighs the KL of each unit, as beta does")
            return ELBO(estimator, warmup, cost, trace, gradient)
        if gradient in COSTED:
            return ELBO(estimator, warmup, gradient=gradient)
        if gradient == HESSIAN:
            if estimator == "A":
                raise ConfigError("elbo_a: gradient 'hessian' needs the KL in closed form: use elbo")
            return ELBO(estimator, warmup, gradient=gradient)
        if estimator == "B":
            raise ConfigError(f"elbo_b: gradient {gradient!r} needs log q by sampling, as in elbo_a")
        return ImportanceWeighted(bounds.Mean(), gradient, warmup=warmup)

    return make


def _ciwae(setting: str | None, gradient: str, warmup: int) -> Objective:
    share = _number("ciwae", setting, 0.05, 0, 1)
    bound = bounds.Mixture((share, 1 - share), (bounds.Mean(), bounds.IWAE))
    return ImportanceWeighted(bound, gradient, warmup=warmup)


def _grouped(name: str, model: Bound | None) -> Callable[..., Objective]:
    def make(setting: str | None, gradient: str, warmup: int) -> Objective:
        bound = bounds.Grouped(_number(name, setting, 2, 1, math.inf, int))
        if model is None:
            return ImportanceWeighted(bound, gradient, warmup=warmup)
        return ImportanceWeighted(model, gradient, inference_bound=bound, warmup=warmup)

    return make


def _info(setting: str | None, gradient: str, warmup: int) -> Objective:
    text = "info" if setting is None else f"info:{setting}"
    if gradient != "reparameterized":
        raise ConfigError(
            f"objective {text!r}: gradient is {gradient!r}, expected 'reparameterized': D is differentiated through draws"
        )
    _, given = texts.parse("objective", text, {"info": INFO})
    name = given.pop("divergence", "mmd")
    of_mmd = {key: given.pop(key) for key in ("kernel", "bandwidth") if key in given}
    if name != "mmd" and of_mmd:
        raise ConfigError(f"objective {text!r}: {next(iter(of_mmd))} is a setting of divergence=mmd, not of {name}")
    divergence = MMD(**of_mmd) if name == "mmd" else JensenShannon()
    return Info(given.get("alpha", 1.0), given.get("lambda", 1000.0), divergence, warmup)


def _wake_sleep(setting: str | None, gradient: str, warmup: int) -> Objective:
    for name, value, expected in (("gradient", gradient, "reparameterized"), ("warmup", warmup, 0)):
        if value != expected:
            raise ConfigError(f"objective 'wake_sleep': {name} is {value!r}, expected {expected!r}: it has no other")
    return WakeSleep()


def _iwae(setting: str | None, gradient: str, warmup: int) -> Objective:
    return ImportanceWeighted(gradient=gradient, warmup=warmup)


objective(
    "elbo",
    r"$\mathrm{E} \log p(x \mid z) - \mathrm{KL}(q \,\Vert\, p)$",
    "the KL in closed form in each layer that has one, else from the draws",
    keyed=True,
)(_elbo("auto"))
objective("elbo_a", r"$\frac{1}{K} \sum_k \log w_k$", "estimator A: KL estimated from the draws too", keyed=True)(_elbo("A"))
objective(
    "elbo_b", "as `elbo`", "estimator B: an error where a layer has no KL in closed form", keyed=True, gradients=BY_PATH
)(_elbo("B"))
objective("iwae", r"$\log \frac{1}{K} \sum_k w_k$", "tighter as K grows", plain=True)(_iwae)
objective(
    "vr_iwae",
    r"$\frac{1}{1 - \alpha} \log \frac{1}{K} \sum_k w_k^{1 - \alpha}$",
    "between ELBO (α = 1) and IWAE (α = 0)",
    example="vr_iwae:0.5",
)(_renyi("vr_iwae", 0, 1))
objective("renyi", "the same, for any α", "for negative α its limit for large K is an upper bound", example="renyi:-0.5")(
    _renyi("renyi", -math.inf, math.inf)
)
objective("ciwae", "0.05 ELBO + 0.95 IWAE", example="ciwae:0.05")(_ciwae)
objective("miwae", "mean of 2 IWAE bounds of K / 2 draws", example="miwae:2")(_grouped("miwae", None))
objective("piwae", "decoder by `iwae`, encoder by `miwae:2`", example="piwae:2")(_grouped("piwae", bounds.IWAE))
objective(
    "info",
    r"$\mathrm{E} \log p(x \mid z) - (1 - \alpha)\, \mathrm{KL} - (\alpha + \lambda - 1)\, D(q(z) \,\Vert\, p(z))$",
    "not a bound; [below](#a-divergence-of-the-marginals)",
    keyed=True,
    bound=False,
    gradients=BY_PATH,
)(_info)
objective(
    "wake_sleep",
    r"$\mathrm{E}_{q(z \mid x)} \log p(x, z)$ for the model, $\mathrm{E}_{p(z, x)} \log q(z \mid x)$ for q",
    "two objectives; [below](#wake-sleep-and-steps-alone)",
    plain=True,
    bound=False,
    gradients=BY_PATH,
)(_wake_sleep)

COSTLY = ("elbo", "elbo_a", "elbo_b")  # these take costs
COSTED = ("reparameterized", LOCAL, DISARM)  # with these gradients
OF_ELBO = (LOCAL, DISARM, HESSIAN)  # gradients of no other bound
BY_DIFFERENCES = ("rws", "rws_dreg")  # gradients of no ELBO: there the weights of draws are equal


def parse(text: str | Objective, warmup: int = 0, gradient: str = "reparameterized") -> Objective:
    """The objective that a text names: "elbo", "iwae", "vr_iwae:0.5", "renyi:-1", "ciwae:0.05", "miwae:8", "piwae:8",
    "info:lambda=100".

    Parameters
    ----------
    text : str or Objective
        A callable is returned as it is.
    warmup : int, default 0
        Steps over which the weight of the KL grows from 0 to 1.
    gradient : str, default "reparameterized"
        As in `ImportanceWeighted`, with which "elbo" is estimator A; or "local", "disarm" or "hessian", see `ELBO`.

    Returns
    -------
    Objective

    Raises
    ------
    ConfigError
        With the list of known names.

    Notes
    -----
    The number of vr_iwae and of renyi is alpha, that of ciwae the share of the ELBO, that of miwae and of piwae the number
    of groups. "elbo_a" and "elbo_b" are the ELBO by its estimators A and B.

    The codes of the ELBO may have a cost, see `gvae.costs`: "elbo:beta=0.5", "elbo:rate=16,weight=4", "elbo:free=0.1",
    "elbo:anchor=0+3,weight=0.9". "elbo:trace=probe", alone or with a cost, estimates the trace in the KL, see `ELBO`.

    "info:alpha=1,lambda=1000,divergence=mmd" weighs the KL and a divergence of the marginals q(z) and p(z), see `Info`; with
    kernel=rbf or imq and bandwidth=B for mmd, lambda=balance, divergence=js. Without a number, alpha is 1 and lambda 1000.

    Examples
    --------
    >>> gvae.objectives.parse("elbo:beta=0.5", warmup=100)
    ELBO(estimator='auto', warmup=100, cost=Beta(beta=0.5), trace='exact', gradient='reparameterized')
    >>> gvae.objectives.parse("iwae", gradient="dreg")
    ImportanceWeighted(bound=Renyi(alpha=0.0), gradient='dreg', inference_bound=None, warmup=0)
    """
    if callable(text):
        return text
    name, _, setting = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name in OBJECTIVES and not ABOUT[name].keyed and "=" in setting:
        have = ", ".join(COSTLY)
        raise ConfigError(f"objective {text!r}: a cost weighs the KL, which {have} alone have as a term of its own")
    if name not in OBJECTIVES or (":" in text and (not setting or ABOUT[name].plain)):
        raise ConfigError(f"unknown objective {text!r}; known are {', '.join(OBJECTIVES)} (renyi:0.5, ciwae:0.05, miwae:8)")
    if not isinstance(warmup, (int, np.integer)) or isinstance(warmup, bool) or warmup < 0:
        raise ConfigError(f"warmup is {warmup!r}, expected a whole number of steps, 0 or more")
    if gradient not in (*GRADIENTS, *OF_ELBO):
        raise ConfigError(f"unknown gradient {gradient!r}; known are {', '.join((*GRADIENTS, *OF_ELBO))}")
    if gradient in OF_ELBO and name not in COSTLY:
        raise ConfigError(
            f"objective {text!r}: gradient {gradient!r} is for the ELBO only; "
            "expected objective='elbo', or gradient='reparameterized'"
        )
    if gradient in BY_DIFFERENCES and name in COSTLY:
        raise ConfigError(
            f"objective {text!r}: gradient {gradient!r} trains the encoder by differences of the draws' weights, which are "
            "equal under an ELBO; expected another bound, such as objective='iwae'"
        )
    return OBJECTIVES[name](setting or None, gradient, int(warmup))
