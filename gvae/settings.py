"""Settings, each declared once: a typed field of a dataclass, with its default, its help and the values that it takes.

    @group("weights")
    class Settings(vae.Settings):
        alpha: float = setting(1.0, "standard deviation of the weights' prior", Number())

From this follow the signature and `help()` of an estimator, `get_params`, the flags of `gvae train --model NAME`, the keys
of its configuration files, the checks with their messages, and the table in docs/settings.md. A model's own settings stand
in its file (`models/NAME.py`); the groups below are those of all models.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, dataclass_transform

import numpy as np

from gvae.errors import ConfigError, GvaeError

__all__ = [
    "Choice",
    "Families",
    "Kind",
    "Maybe",
    "Number",
    "Numbers",
    "Settings",
    "Text",
    "Whole",
    "Widths",
    "YesNo",
    "fields",
    "group",
    "plain",
    "restated",
    "setting",
]

NONE = "none"  # None, as the shell and configuration files spell it


class Kind:
    """The values that a setting takes.

    expected : what they are, in words that follow "expected"      metavar : how the command line's help names one
    several  : whether the command line takes several in a row
    """

    expected = ""
    metavar: str | None = None
    several = False
    choices: Sequence[str] | None = None

    def plain(self, value: Any) -> Any:
        """The value as JSON keeps it. Raises ValueError if it is none of these values."""
        raise NotImplementedError

    def check(self, name: str, value: Any) -> Any:
        """As `plain`; ConfigError that names the setting."""
        try:
            return self.plain(value)
        except GvaeError:
            raise
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{name} is {value!r:.80}, expected {self.expected}") from None

    def parse(self, text: str) -> Any:
        """What the shell says. Raises ValueError."""
        return self.plain(text)


class Whole(Kind):
    """A whole number of at least `least`, and below `below` if that is given."""

    metavar = "N"

    def __init__(self, least: int = 1, below: int | None = None):
        self.least, self.below = least, below
        self.expected = f"a whole number of at least {least}"
        if below is not None:
            self.expected = f"a whole number from {least} to 2^{below.bit_length() - 1} - 1"

    def plain(self, value):
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise ValueError
        number = int(value)
        if number < self.least or (self.below is not None and number >= self.below):
            raise ValueError
        return number

    def parse(self, text):
        return self.plain(int(text))


class Number(Kind):
    """A positive number; with `most` one of at most that, with `below` one below it, and with zero=True also 0."""

    metavar = "X"

    def __init__(self, *, below: float = math.inf, most: float | None = None, zero: bool = False):
        self.below, self.most, self.zero = below, most, zero
        if most is not None:
            self.expected = f"a number from 0 to {most:g}" if zero else f"a positive number of at most {most:g}"
        else:
            self.expected = ("a number of at least 0" if zero else "a positive number") + (
                "" if below == math.inf else f" below {below:g}"
            )

    def plain(self, value):
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise ValueError
        number = float(value)
        least = number >= 0 if self.zero else number > 0
        if not (least and number < self.below and (self.most is None or number <= self.most)):
            raise ValueError
        return number

    def parse(self, text):
        return self.plain(float(text))


class Numbers(Kind):
    """A fixed number of values of another kind."""

    several = True

    def __init__(self, kind: Kind, n: int):
        self.kind, self.n, self.metavar = kind, n, kind.metavar
        self.expected = f"{n} values, each {kind.expected}"

    def plain(self, value):
        if isinstance(value, (str, bytes)) or len(value) != self.n:
            raise ValueError
        return [self.kind.plain(x) for x in value]

    def parse(self, text):
        return self.kind.parse(text)


class YesNo(Kind):
    """True or False: a flag and its --no- twin."""

    expected = "True or False"

    def plain(self, value):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError
        return bool(value)


class Choice(Kind):
    """One of some names."""

    def __init__(self, *choices: str):
        self.choices = choices
        self.expected = f"one of {', '.join(choices)}"

    def plain(self, value):
        if not isinstance(value, str) or value not in (self.choices or ()):
            raise ValueError
        return str(value)

    def check(self, name, value):
        try:
            return self.plain(value)
        except (ValueError, TypeError):
            raise ConfigError(f"{name} is {value!r:.80}; known are {', '.join(self.choices or ())}") from None


class Precision(Choice):
    """float32 or float64, as text or as NumPy's type."""

    def __init__(self) -> None:
        super().__init__("float32", "float64")

    def plain(self, value):
        if value is None:
            raise ValueError
        return super().plain(str(np.dtype(value)))


class Text(Kind):
    """A text of a grammar; `check`, given the text, raises a ConfigError that says what is wrong with it."""

    metavar = "NAME"
    expected = "a name as text"

    def __init__(self, check: Callable[[str], Any], metavar: str = "NAME"):
        self._check, self.metavar = check, metavar

    def plain(self, value):
        if not isinstance(value, str):
            raise ValueError
        self._check(str(value))
        return str(value)


class Families(Kind):
    """The text of a family, or the family itself; with several=True also a sequence: one for each layer or view.

    only : the texts that it may be
    """

    metavar = "FAMILY"

    def __init__(self, *only: str, several: bool = False):
        self.several, self.only = several, only
        self.expected = "a name as text" + (", or one for each layer or view" if several else "")

    def plain(self, value):
        if self.several and isinstance(value, (list, tuple)) and value:
            each = [self.plain(x) for x in value]
            return each[0] if len(each) == 1 else each
        from gvae.families import Family

        if not isinstance(value, (str, Family)):
            raise ValueError
        if self.only and isinstance(value, str) and value not in self.only:
            raise ConfigError(f"the family is {value[:40]!r}, expected {' or '.join(self.only)}")
        if isinstance(value, str) and re.search(r"\d{7,}", value):  # tables are made from the sizes in it
            raise ConfigError(f"the family is {value[:40]!r}: no size in it may have more than six digits")
        return value


class Widths(Kind):
    """Widths of hidden layers; with nested=True also one sequence of them for each layer or view: in the shell
    `512,512 256,`, where a comma makes a sequence, as it makes a tuple in Python."""

    metavar = "N"
    several = True

    def __init__(self, nested: bool = False):
        self.nested = nested
        each = ", or such for each layer or view (in the shell: 200,100 50,)" if nested else ""
        self.expected = f"widths such as (200, 200), each a whole number of at least 1{each}"

    def plain(self, value):
        if isinstance(value, numbers.Integral):
            value = [value]
        if isinstance(value, (str, bytes)):
            raise ValueError
        whole = Whole()
        if self.nested and any(not isinstance(x, numbers.Integral) for x in value):
            return [[whole.plain(x) for x in widths] for widths in value]
        return [whole.plain(x) for x in value]

    def parse(self, text):
        if not self.nested or "," not in text:
            return Whole().parse(text)
        return [Whole().parse(part) for part in text.removesuffix(",").split(",")]


class Layers(Kind):
    """A number, or one for each layer from the data upwards."""

    metavar = "N"
    several = True

    def __init__(self, several: bool = True):
        self.several = several
        self.expected = "a whole number of at least 1" + (", or one for each layer" if several else "")

    def plain(self, value):
        if isinstance(value, (list, tuple)) and self.several and value:
            return [Whole().plain(x) for x in value]
        return Whole().plain(value)

    def parse(self, text):
        return Whole().parse(text)


class Maybe(Kind):
    """None (in the shell: none), or a value of another kind. otherwise: another text with a meaning of its own."""

    def __init__(self, kind: Kind):
        self.kind = kind
        self.metavar, self.several, self.choices = kind.metavar, kind.several, kind.choices
        self.expected = f"{kind.expected}, or None"

    def plain(self, value):
        return None if value is None else self.kind.plain(value)

    def check(self, name, value):
        return (
            None if value is None else super().check(name, value) if self.choices is None else self.kind.check(name, value)
        )

    def parse(self, text):
        return None if text == NONE and NONE not in (self.choices or ()) else self.kind.parse(text)


class Or(Kind):
    """A word with a meaning of its own, or a value of another kind."""

    def __init__(self, word: str, kind: Kind):
        self.word, self.kind, self.metavar, self.several = word, kind, kind.metavar, kind.several
        self.expected = f"{kind.expected}, or {word!r}"

    def plain(self, value):
        return value if isinstance(value, str) and value == self.word else self.kind.plain(value)

    def parse(self, text):
        return text if text == self.word else self.kind.parse(text)


# ---- declaring them ------------------------------------------------------------------------------


def setting(default: Any, help: str, kind: Kind, *, flag: str | None = None, kw_only: bool = True) -> Any:
    """A field of a group.

    flag    : of the command line, where it is not the name with dashes; "" for none
    kw_only : whether Python's callers have to name it
    """
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"help": help, "kind": kind, "flag": flag})


def restated(group: type, name: str, default: Any, help: str | None = None, kw_only: bool = True) -> Any:
    """The setting of another group with another default, and perhaps other help."""
    known = {f.name: f for f in dataclasses.fields(group)}[name]
    return dataclasses.field(
        default=default, kw_only=kw_only, metadata={**known.metadata, "help": help or known.metadata["help"]}
    )


_Group = TypeVar("_Group", bound=type)


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(setting, restated))
def group(title: str) -> Callable[[_Group], _Group]:
    """A group of settings: a dataclass whose fields are declared by `setting`. title: over them in help and docs."""

    def decorate(cls: _Group) -> _Group:
        cls.title = title  # type: ignore[attr-defined]
        return dataclasses.dataclass(eq=False, repr=False)(cls)  # type: ignore[return-value]

    return decorate


class Settings:
    """What a group inherits from."""

    title: ClassVar[str]

    def together(self, values: Mapping[str, Any]) -> None:
        """Check plain values that depend on each other. Raises ConfigError."""

    def checked(self) -> dict[str, Any]:
        """All settings as plain values that JSON can hold. ConfigError names the first one that is wrong."""
        values = {f.name: f.metadata["kind"].check(f.name, getattr(self, f.name)) for f in fields(type(self))}
        for cls in type(self).__mro__:
            if "together" in vars(cls):
                vars(cls)["together"](self, values)
        return values


def fields(cls: type) -> Iterator[dataclasses.Field]:
    """The settings of a class, in the order of its signature."""
    return iter(f for f in dataclasses.fields(cls) if "kind" in f.metadata)


def titled(cls: type) -> dict[str, list[dataclasses.Field]]:
    """The settings of a class by the titles of the groups that declare them."""
    groups: dict[str, list[dataclasses.Field]] = {}
    for f in fields(cls):
        declaring = [c for c in cls.__mro__ if f.name in vars(c).get("__annotations__", {})]
        groups.setdefault(vars(declaring[-1]).get("title", ""), []).append(f)
    return groups


def plain(value: Any) -> Any:
    """A value as JSON gives it back."""
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def native(value: Any) -> Any:
    """A value as Python's callers write it: tuples where JSON has lists."""
    return tuple(map(native, value)) if isinstance(value, list) else value


def described(cls: type) -> str:
    """The settings of a class as a section of its docstring: name, type, default, help."""
    lines = ["Settings", "--------"]
    for title, members in titled(cls).items():
        lines += ["", f"*{title}*", ""]
        for f in members:
            lines += [f"{f.name} : {annotation(f)}, default {f.default!r}", f"    {f.metadata['help']}"]
    return "\n".join(lines)


def annotation(f: dataclasses.Field) -> str:
    """The type of a setting, as it is declared."""
    return str(f.type)


# ---- groups that all models share ----------------------------------------------------------------


KINKED = ("relu", "leaky_relu")  # activations whose second derivative is zero but where it is infinite


def _check_objective(text: str) -> None:
    from gvae import objectives

    objectives.parse(text)


def _check_schedule(text: str) -> None:
    from gvae import optim

    optim.parse_schedule(text)


def _check_average(text: str) -> None:
    from gvae import nn, optim

    optim.parse_average(text, nn.Parameters({}))


def _check_optimizer(text: str) -> None:
    from gvae import optim

    optim.check_optimizer(text)


@group("data")
class Standardized(Settings):
    """In which units real numbers are shown to a model."""

    standardize: bool = setting(
        default=True,
        help="give the model real-valued columns with mean 0 and deviation 1, those of the training rows; densities "
        "stay those of the data, and what is decoded, drawn or reconstructed has their units. Other columns it "
        "sees as they are",
        kind=YesNo(),
    )


@group("data")
class Presentation(Standardized):
    """How rows are shown to a model."""

    binarize: str | None = setting(
        default=None,
        help="how grey levels become black and white: drawn anew whenever a row is presented, once, by a threshold of "
        "1/2, or not at all; None: dynamic for images of grey levels under a Bernoulli observation, else none",
        kind=Maybe(Choice("dynamic", "fixed", "threshold", "none")),
    )
    dequantize: int | None = setting(
        default=None,
        help="number of grey levels L of data in [0, 1] that are to have a density (256 for bytes): x = k / (L - 1) is"
        " presented as (k + u) / L with u ~ U(0, 1)",
        kind=Maybe(Whole(2, below=2**24)),
    )


@group("objective")
class Objective(Settings):
    """What is ascended."""

    objective: str = setting(
        default="elbo",
        help="elbo, elbo_a, elbo_b, each also at a cost of its codes (elbo:beta=0.5, elbo:rate=16,weight=4, elbo:free=0.1, "
        "elbo:anchor=0+3,weight=0.9), elbo:trace=probe; iwae, vr_iwae:0.5, renyi:-1, ciwae:0.05, miwae:8, piwae:8: see "
        "gvae.objectives.parse",
        kind=Text(_check_objective),
    )
    gradient: str = setting(
        default="reparameterized",
        help="estimator of the encoder's gradient: reparameterized, stl, dreg, vimco, rws, rws_dreg; hessian: by second "
        "derivatives, of the elbo in float64 for at most 64 variables",
        kind=Text(lambda text: None),
    )
    samples: int = setting(default=1, help="draws of the codes per row and step", kind=Whole())
    warmup: int = setting(default=0, help="epochs over which the weight of the KL grows from 0 to 1", kind=Whole(0))

    def together(self, values):
        from gvae import objectives

        objectives.parse(values["objective"], gradient=values["gradient"])
        if values["gradient"] == objectives.HESSIAN and values.get("activation") in KINKED:
            raise ConfigError(
                f"gradient 'hessian': activation {values['activation']!r} has kinks, which a mean of second derivatives "
                "misses; take elu, softplus or tanh"
            )
        for key in objectives.keys(values["objective"]):
            if key in values:
                raise ConfigError(
                    f"objective {values['objective']!r}: {key} is a setting of the model itself: give it there"
                )


@group("length of training")
class Length(Settings):
    """How long training lasts."""

    epochs: int | str = setting(
        default="auto",
        help="passes over the data; auto: until the bound on rows held out from training stops growing, see "
        "gvae.training.Until",
        kind=Or("auto", Whole()),
    )
    steps: int | None = setting(default=None, help="steps of one batch each, instead of epochs", kind=Maybe(Whole()))
    patience: int | None = setting(
        default=None,
        help="early stopping: end after so many epochs without a better bound on rows held out from training, and keep"
        " the weights of the best one",
        kind=Maybe(Whole()),
    )
    validation_fraction: float = setting(
        default=0.1,
        help="share of the rows held out for early stopping where no validation rows are given",
        kind=Number(below=1),
    )


@group("steps of training")
class Ascent(Settings):
    """How steps are taken."""

    batch_size: int | None = setting(default=100, help="rows per step; None: all", kind=Maybe(Whole()))
    learning_rate: float = setting(default=1e-3, help="of the optimizer", kind=Number())
    optimizer: str = setting(
        default="adam",
        help="adam:beta1=,beta2=,eps=; adamw:0.01 with decay of the weights; sgd:0.9 with momentum",
        kind=Text(_check_optimizer),
    )
    schedule: str = setting(
        default="constant",
        help="of the learning rate: constant; cosine, to 0 at the end of the run, or cosine:E of epoch E; plateau:E, "
        "halved after E epochs without a better bound; iwae, 10^(-i/7) for 3^i epochs, or iwae:S, S times as "
        "short; exponential:0.97/2, times 0.97 after every 2 epochs",
        kind=Text(_check_schedule),
    )
    average: str | None = setting(
        default=None,
        help="a running average of the weights, which is then what is validated and kept: ema:0.999 over steps, swa:E "
        "over the ends of epochs from the E-th on",
        kind=Maybe(Text(_check_average)),
    )
    clip: float | None = setting(
        default=None, help="the largest norm of the gradient; a longer one is shortened to it", kind=Maybe(Number())
    )
    on_nonfinite: str = setting(
        default="stop",
        help="after a bound or gradient that is NaN or infinite: stop; skip the step; or rollback, to the start of the"
        " epoch with half of the learning rate",
        kind=Choice("stop", "skip", "rollback"),
    )


@group("machine")
class Machine(Settings):
    """Where and with what numbers a model is trained."""

    dtype: str = setting(default="float32", help="precision of all arithmetic", kind=Precision())
    random_state: int | None = setting(
        default=None,
        help="seed from which everything random follows; None: a fresh one, kept as seed_",
        kind=Maybe(Whole(0, below=2**64)),
        flag="--seed",
    )
    device: str = setting(default="cpu", help="where training runs; what it keeps is on the CPU", kind=Choice("cpu", "cuda"))
    verbose: bool = setting(default=False, help="say what was chosen, and show a progress bar", kind=YesNo(), flag="")


# ---- configuration files -------------------------------------------------------------------------


def spelled(f: dataclasses.Field, value: Any) -> Any:
    """A plain value as configuration files spell it: None is left out where it is the default, else "none"."""
    return NONE if value is None and f.default is not None else value


def from_file(f: dataclasses.Field, value: Any) -> Any:
    """The inverse of `spelled`, as Python's callers write it."""
    optional = isinstance(f.metadata["kind"], Maybe) and NONE not in (f.metadata["kind"].choices or ())
    return None if optional and value == NONE else native(value)


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values as TOML; None, which TOML does not have, is left out."""
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
