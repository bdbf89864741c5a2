"""What the tests of both frameworks run: every name of `gvae.interop.OPS`, with every flag and every choice of optional
arguments that its signature has. A name added to the table is tested without a line here."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass

import numpy as np

from gvae import ops
from gvae.autodiff import vjp
from gvae.interop import OPS

N = 5
OFFSETS = {"offsets": (0, 2), "prior_offsets": (0, 1, 3)}  # never the default of 0, 1, ..: a setting lost on the way shows
LEADS = [(3,), (2, 1), (), (2, 3)]  # batch axes of the arguments: of different rank, to be broadcast


@dataclass(frozen=True)
class Call:
    name: str
    given: tuple[str, ...]  # the array arguments that are not left out
    settings: tuple[tuple[str, object], ...]

    def __str__(self):
        flags = [k if v is True else f"{k}={v}" for k, v in self.settings if k not in OFFSETS and v is not False]
        return "-".join([self.name, *flags, *(g for g in self.given if g.startswith("prior"))])

    @property
    def cores(self):
        """Trailing axes of the arguments that are given."""
        return [core for p, core in zip(arrays_of(self.name), OPS[self.name], strict=True) if p in self.given]

    def of(self, namespace):
        """The op of that namespace, a function of the given arrays."""
        op, parameters, settings = getattr(namespace, self.name), arrays_of(self.name), dict(self.settings)

        def call(*arrays):
            given = dict(zip(self.given, arrays, strict=True))
            return op(*(given.get(p) for p in parameters), **settings)

        return call

    def args(self, dtype=np.float64, leads=LEADS):
        rng = np.random.default_rng(7)
        made = [argument(rng, p, core, lead) for p, core, lead in zip(self.given, self.cores, leads, strict=False)]
        return [a.astype(dtype) for a in made]

    def expected(self, args, y_bar=None):
        """Value and cotangents by gvae's own tape; the cotangent of the value is drawn if not given."""
        value, pull = vjp(lambda a: self.of(ops)(*a), list(args))
        y_bar = np.random.default_rng(8).normal(size=np.shape(value)).astype(args[0].dtype) if y_bar is None else y_bar
        return np.asarray(value), y_bar, [np.asarray(bar) for bar in pull(y_bar)]


def arrays_of(name):
    kinds = inspect.signature(getattr(ops, name)).parameters.values()
    return [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD]


def calls():
    for name in OPS:
        parameters = inspect.signature(getattr(ops, name)).parameters
        optional = [p for p in arrays_of(name) if parameters[p].default is None]
        flags = [f for f in ("trans", "fill") if f in parameters]
        for left_out in itertools.product((False, True), repeat=len(optional)):
            absent = {p for p, out in zip(optional, left_out, strict=True) if out}
            for values in itertools.product((False, True), repeat=len(flags)):
                settings = {
                    k: v for k, v in OFFSETS.items() if k in parameters and k.replace("offsets", "chol") not in absent
                }
                settings |= dict(zip(flags, values, strict=True))
                yield Call(name, tuple(p for p in arrays_of(name) if p not in absent), tuple(settings.items()))


def argument(rng, parameter, core, lead):
    """A valid argument by construction, from its parameter's name."""
    if parameter in ("variance", "d"):
        return rng.uniform(0.5, 2.0, size=(*lead, *(N,) * core))
    if parameter == "rho":
        return rng.uniform(-0.8, 0.8, size=lead)
    if core == 1:
        return rng.normal(size=(*lead, N))
    rows = len(OFFSETS["prior_offsets"] if parameter == "prior_chol" else OFFSETS["offsets"])
    band = 0.3 * rng.normal(size=(*lead, rows, N))
    if parameter != "u":
        band[..., 0, :] += 2.0  # a factor, or a symmetric band that dominates
    return band


CALLS = list(calls())
