"""Families map unconstrained parameters (a network's outputs) to distributions: posteriors, priors, observation models.

One family serves in each of these roles.

    family = parse("extended_grid:4x4", 16)
    q = family(raw)                     raw : (..., family.n_params), any real numbers

Every unconstrained parameter other than a mean or a logit is first bounded smoothly, c tanh(raw / c): near 0 it is
unchanged, and far out it saturates at c, so that any raw in +-1e4 gives a finite sample, KL and gradient in float32 and
float64. (The weights of `autoregressive` and `nade` are not bounded, as those of a network are not; the surrogate derivative
of autoregressive:taylor multiplies them unit by unit, and may overflow.) Raw 0 is N(0, I), or a fair coin, unless the family
says otherwise.

The last `n_shared` unconstrained parameters are by default not emitted per data point but learned once for all data: see
`Conditional`, which combines a network and a family.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gvae import discover, graphs
from gvae.distributions import Distribution
from gvae.errors import ConfigError
from gvae.families.autoregressive import NADE, Autoregressive
from gvae.families.base import LOG_SCALE, Family
from gvae.families.flows import Planar
from gvae.families.gaussians import (
    AR1,
    Cholesky,
    Diagonal,
    Dominant,
    Full,
    Gaussian,
    Located,
    LowRank,
    Mixture,
    RandomWalk,
    Shared,
)
from gvae.families.others import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Gamma,
    Logit,
    NegativeBinomial,
    Poisson,
    ZeroInflated,
)
from gvae.families.registry import FAMILIES, family, plain
from gvae.families.rescaled import Rescaled
from gvae.nn import MLP
from gvae.typing import Array, Key

__all__ = [
    "AR1",
    "FAMILIES",
    "LOG_SCALE",
    "NADE",
    "STARTS",
    "Autoregressive",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Cholesky",
    "Conditional",
    "ContinuousBernoulli",
    "Diagonal",
    "Dominant",
    "Family",
    "Full",
    "Gamma",
    "Gaussian",
    "Located",
    "Logit",
    "LowRank",
    "Mixture",
    "NegativeBinomial",
    "Planar",
    "Poisson",
    "RandomWalk",
    "Rescaled",
    "Shared",
    "ZeroInflated",
    "family",
    "parse",
]


def _sized(name: str, make: Callable[[int, int], Family]) -> Callable[[int, str | None], Family]:
    def build(n: int, setting: str | None) -> Family:
        if setting is None:
            rows = max((r for r in range(2, math.isqrt(n) + 1) if n % r == 0), default=0)
            if not rows:
                raise ConfigError(f"{name}: {n} variables form no grid; write its size, as in {name}:1x{n}")
            return make(rows, n // rows)
        parts = setting.split("x")
        if len(parts) != 2 or not all(p.isdecimal() and int(p) > 0 for p in parts):
            raise ConfigError(f"{name}: size is {setting!r}, expected ROWSxCOLUMNS such as 4x4")
        rows, cols = map(int, parts)
        if rows * cols != n:
            raise ConfigError(f"{name}:{setting} has {rows} x {cols} = {rows * cols} variables, expected {n}")
        return make(rows, cols)

    return build


def _counted(name: str, make: Callable[[int, int], Family], default: int, least: int) -> Callable:
    def build(n: int, setting: str | None) -> Family:
        if setting is not None and not setting.isdecimal():
            raise ConfigError(f"{name}: its number is {setting!r}, expected an integer such as {name}:{default}")
        number = default if setting is None else int(setting)
        if number < least:
            raise ConfigError(f"{name}: its number is {number}, expected at least {least}")
        return make(n, number)

    return build


def _of(make: Callable[[Any], Family], default: str = "diagonal") -> Callable[[int, str | None], Family]:
    """A builder of a family that is made from another one, which the setting names."""
    return lambda n, setting: make(parse(setting or default, n, "inner family"))


def _full(n: int, setting: str | None) -> Family:
    if setting not in (None, "absolute"):
        raise ConfigError(f"full takes no size, got full:{setting}")
    return Full(n, absolute=setting == "absolute")


def _gamma(log: bool) -> Callable[[int, str | None], Family]:
    def build(n: int, setting: str | None) -> Family:
        if setting not in (None, "score"):
            name = Gamma(n, log).name
            raise ConfigError(f"{name} takes no size, got {name}:{setting}; {name}:score has draws without derivatives")
        return Gamma(n, log, "exact" if setting is None else None)

    return build


STARTS = ("calm", "glorot")

FAMILIES |= {
    "diagonal": plain(Diagonal),
    "independent": plain(lambda n: Cholesky(graphs.independent(n))),
    "chain": plain(lambda n: Cholesky(graphs.chain(n))),
    "band": _counted("band", lambda n, w: Cholesky(graphs.band(n, w)), 2, 0),
    "grid": _sized("grid", lambda rows, cols: Dominant(graphs.grid(rows, cols))),
    "extended_grid": _sized("extended_grid", lambda rows, cols: Cholesky(graphs.extended_grid(rows, cols))),
    "ar1": plain(AR1),
    "lowrank": _counted("lowrank", LowRank, 1, 1),
    "full": _full,
    "gaussian": plain(Gaussian),
    "random_walk": plain(RandomWalk),
    "mixture": _counted("mixture", Mixture, 10, 1),
    "planar": _counted("planar", Planar, 8, 1),
    "shared": _of(Shared),
    "bernoulli": Bernoulli,
    "autoregressive": Autoregressive,
    "nade": _counted("nade", NADE, 100, 1),
    "categorical": _counted("categorical", Categorical, 2, 2),
    "poisson": plain(Poisson),
    "negative_binomial": plain(NegativeBinomial),
    "zero_inflated": _of(ZeroInflated, "negative_binomial"),
    "gamma": _gamma(log=False),
    "log_gamma": _gamma(log=True),
    "beta": plain(Beta),
    "continuous_bernoulli": plain(ContinuousBernoulli),
    "logit": _of(Logit),
}


SAMPLED = ("posterior", "variational_prior")  # roles in which a density is evaluated at the family's own draws only


def parse(text: str | Family, n: int, role: str | None = None, of: Family | None = None) -> Family:
    """The family of n variables that a text names: "diagonal", "chain", "band:3", "extended_grid:4x4", "lowrank:2", ...

    Parameters
    ----------
    text : str or Family
        A Family of n variables is returned as it is.
    n : int
        The number of variables.
    role : str, optional
        The setting that it comes from, such as "prior", which errors name. Except for "posterior" and "variational_prior"
        its density must be known for any value.
    of : Family, optional
        The posterior, for a prior: both draw the same values.

    Returns
    -------
    Family

    Raises
    ------
    ConfigError
        The name is unknown (the message lists the known ones), the size does not fit n, n is not a positive integer, or the
        family cannot serve in this role, or draws other values than the posterior.

    Examples
    --------
    >>> gvae.families.parse("band:3", 16)
    Cholesky('band:3', n=16)
    >>> gvae.families.parse("grid", 12), gvae.families.parse("shared:chain", 12)
    (Dominant('grid:3x4', n=12), Shared('shared:chain', n=12))
    >>> list(gvae.families.FAMILIES)[:4]
    ['diagonal', 'independent', 'chain', 'band']
    """
    try:
        family = text if isinstance(text, Family) else _named(text, n)
        if family.n != n:
            raise ConfigError(f"{text!r} has {family.n} variables, expected {n}")
    except ConfigError as error:
        if role is None:
            raise
        raise ConfigError(f"{role}: {error}") from None
    if of is not None and not family.drawn.covers(of.drawn):
        raise ConfigError(
            f"{role} is {family.name}, a distribution over {family.drawn}, expected one with a density at every draw of the "
            f"posterior {of.name}: {of.drawn}"
        )
    if of is not None and not of.drawn.covers(family.drawn):
        raise ConfigError(
            f"{role} is {family.name}, a distribution over {family.drawn}, of which the posterior {of.name} draws "
            f"{of.drawn} alone; expected one over these: log p(x) by importance sampling would leave out the others"
        )
    if role not in (None, *SAMPLED) and not family.distribution.has_density:
        raise ConfigError(
            f"{role} is {family.name}, whose density is known for its own draws alone: it serves as a posterior, or as "
            "variational_prior"
        )
    return family


def _named(text: str, n: int) -> Family:
    if not isinstance(text, str):
        raise ConfigError(f"a family is written as text such as 'chain', got {text!r}")
    name, _, setting = text.partition(":")
    if name not in FAMILIES or (":" in text and not setting):
        raise ConfigError(f"unknown family {text!r}; known are {', '.join(FAMILIES)} (band:3, extended_grid:4x4, lowrank:2)")
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ConfigError(f"{name}: the number of variables is {n!r}, expected an integer of at least 1")
    return FAMILIES[name](n, setting or None)


class Conditional:
    """A conditional distribution p(y | x) = family(network(x)): an encoder, a decoder, or one layer given another.

    The network emits the family's unconstrained parameters, except the shared ones, which are learned once for all data.

    Parameters
    ----------
    name : str
        Prefix of the names of its parameters.
    n_inputs : int
        The number of inputs of the network.
    family : Family
    hidden : sequence of int, default ()
        Widths of the hidden layers.
    activation : str, default "elu"
        One of `gvae.ops.dense.ACTIVATIONS`.
    start : {"calm", "glorot"}, default "calm"
        "calm": for every input, scales, edges and the like start as in `Family.start`, and only location parameters (means,
        logits, log rates) are random; "glorot": the last layer is as random as the others.
    normalize : str, optional
    dropout : float, default 0
    drops_inputs : bool, default False
        Settings of the network, as for `gvae.nn.MLP`.

    Raises
    ------
    ConfigError
        An unknown start or activation, or a width that is not a positive integer.

    Examples
    --------
    >>> encoder = gvae.families.Conditional("encoder", 4, gvae.families.parse("chain", 2), hidden=(8,))
    >>> params = encoder.init(gvae.random.key(0))
    >>> q = encoder(params, np.ones((3, 4), np.float32))
    >>> q
    BandedGaussian(batch_shape=(3,), n=2)
    >>> q.variance()
    array([[1., 1.],
           [1., 1.],
           [1., 1.]], dtype=float32)
    """

    def __init__(
        self,
        name: str,
        n_inputs: int,
        family: Family,
        hidden: Sequence[int] = (),
        activation: str = "elu",
        start: str = "calm",
        normalize: str | None = None,
        dropout: float = 0.0,
        drops_inputs: bool = False,
    ):
        if start not in STARTS:
            raise ConfigError(f"start is {start!r}, expected one of {', '.join(STARTS)}")
        self.name, self.family, self.start = name, family, start
        self.network = MLP(
            name,
            (n_inputs, *hidden, family.n_params - family.n_shared),
            activation,
            normalize=normalize,
            dropout=dropout,
            drops_inputs=drops_inputs,
        )

    def init(self, key: Key, dtype: DTypeLike = np.float32) -> dict[str, np.ndarray]:
        """Initial parameters by name: those of the network, and NAME.shared where the family shares some.

        Parameters
        ----------
        key : array
            A key of `gvae.random`.
        dtype : dtype, default np.float32

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> decoder = gvae.families.Conditional("decoder", 2, gvae.families.parse("gaussian", 4), hidden=(8,))
        >>> list(decoder.init(gvae.random.key(0)))
        ['decoder.0.weight', 'decoder.0.bias', 'decoder.1.weight', 'decoder.1.bias', 'decoder.shared']
        """
        params, family = self.network.init(key, dtype), self.family
        raw = family.start(key, dtype)
        emitted, shared = np.split(raw, [family.n_params - family.n_shared])
        if self.start == "calm":
            weight, bias = list(params)[-2:]
            params |= {weight: family.start_weight(params[weight]), bias: emitted}
        if family.n_shared:
            params[f"{self.name}.shared"] = shared
        return params

    def masks(self, key: Key, shape: tuple[int, ...], dtype: DTypeLike = np.float32, like: Array = None) -> dict[str, Any]:
        """The noise of the network's dropout, as `gvae.nn.MLP.masks` draws it.

        Parameters
        ----------
        key : array (4,)
        shape : tuple of int
        dtype : dtype, default float32
        like : array, optional

        Returns
        -------
        dict of str to array

        Examples
        --------
        >>> encoder = gvae.families.Conditional("encoder", 4, gvae.families.parse("chain", 2), hidden=(8,), dropout=0.5)
        >>> encoder.masks(gvae.random.key(0), (3,))["dropout.encoder.0"].shape
        (3, 8)
        """
        return self.network.masks(key, shape, dtype, like)

    def located(self, params: Mapping[str, np.ndarray], mean: np.ndarray) -> dict[str, np.ndarray]:
        """The last layer's bias with which p(y | x) has the given mean where the rest of the layer emits 0.

        Parameters
        ----------
        params : mapping of str to array
        mean : array (n,)

        Returns
        -------
        dict of str to array
            The bias, under its name.

        Raises
        ------
        ConfigError
            As for `Family.located`.

        Examples
        --------
        >>> decoder = gvae.families.Conditional("decoder", 2, gvae.families.parse("bernoulli", 3))
        >>> params = decoder.init(gvae.random.key(0), np.float64)
        >>> params |= decoder.located(params, np.array([0.1, 0.5, 0.9]))
        >>> decoder(params, np.zeros(2)).mean.round(4)
        array([0.1, 0.5, 0.9])
        """
        name = f"{self.network.name}.{len(self.network.sizes) - 2}.bias"
        return {name: self.family.located(params[name], mean)}

    def __call__(self, params: Mapping[str, Any], x: Array) -> Distribution:
        """p(y | x). Where params have unconstrained parameters per row, as NAME.raw, those replace the network's outputs."""
        raw = params.get(f"{self.name}.raw")
        if raw is not None:
            return self.family(raw)
        return self.family.of_layer(*self.network.last_layer(params, x), params.get(f"{self.name}.shared"))

    def raw(self, params: Mapping[str, Any], x: Array) -> np.ndarray:
        """All unconstrained parameters of the family for each row, including the shared ones.

        Parameters
        ----------
        params : mapping of str to array
            Where it has unconstrained parameters per row, as NAME.raw, those are returned.
        x : array (..., n_inputs)

        Returns
        -------
        array (..., n_params)

        Examples
        --------
        >>> decoder = gvae.families.Conditional("decoder", 2, gvae.families.parse("gaussian", 3))
        >>> params = decoder.init(gvae.random.key(0))
        >>> decoder.raw(params, np.zeros((5, 2), np.float32)).shape
        (5, 6)
        """
        if f"{self.name}.raw" in params:
            return params[f"{self.name}.raw"]
        emitted, shared = self.network(params, x), params.get(f"{self.name}.shared")
        if shared is None:
            return emitted
        return np.concatenate([emitted, np.broadcast_to(shared, (*emitted.shape[:-1], len(shared)))], axis=-1)


__all__ += discover.further(__name__, __path__, globals())  # families of further modules follow
