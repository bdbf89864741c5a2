"""Settings, each declared once: a typed field of a dataclass, with its default, its help text and its admissible values.

    @group("weights")
    class Settings(vae.Settings):
        alpha: float = setting(1.0, "standard deviation of the weights' prior", Number())

The declarations determine the signature and `help()` of an estimator, `get_params`, the flags of `gvae train --model NAME`,
the keys of its configuration files, the checks and their messages, and the table in docs/settings.md. The settings of one
model are declared in its file (`models/NAME.py`); the groups below are shared by all models.
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

MOST_COLUMNS = 10**6  # of a range on the command line
NONE = "none"  # the spelling of None in the shell and in configuration files


class Kind:
    """The set of admissible values of a setting: base class.

    Attributes
    ----------
    expected : str
        A description of the values, which completes "expected ..." in error messages.
    metavar : str or None
        The placeholder of a value in the help of the command line.
    several : bool
        Whether the flag on the command line accepts several values in a row.
    choices : sequence of str or None
        The admissible values, where they can be enumerated.

    Examples
    --------
    >>> class Even(gvae.settings.Kind):
    ...     expected = "an even number"
    ...     def plain(self, value):
    ...         if value % 2:
    ...             raise ValueError
    ...         return int(value)
    >>> Even().check("n_units", 4)
    4
    """

    expected = ""
    metavar: str | None = None
    several = False
    choices: Sequence[str] | None = None

    def plain(self, value: Any) -> Any:
        """Validate a value and convert it to its JSON representation.

        Parameters
        ----------
        value : object

        Returns
        -------
        object
            The value in types that JSON can hold.

        Raises
        ------
        ValueError, TypeError, OverflowError
            The value is not admissible.

        Examples
        --------
        >>> gvae.settings.Widths().plain((200, np.int64(100)))
        [200, 100]
        """
        raise NotImplementedError

    def check(self, name: str, value: Any) -> Any:
        """Validate a value as `plain` does, with an error message that names the setting.

        Parameters
        ----------
        name : str
            The name of the setting.
        value : object

        Returns
        -------
        object
            The value in types that JSON can hold.

        Raises
        ------
        ConfigError
            The value is not admissible.

        Examples
        --------
        >>> gvae.settings.Whole().check("epochs", 20)
        20
        >>> gvae.settings.Whole().check("epochs", 0)
        Traceback (most recent call last):
        ...
        gvae.errors.ConfigError: epochs is 0, expected a whole number of at least 1
        """
        try:
            return self.plain(value)
        except GvaeError:
            raise
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{name} is {value!r:.80}, expected {self.expected}") from None

    def parse(self, text: str) -> Any:
        """Parse the text of a command-line argument.

        Parameters
        ----------
        text : str

        Returns
        -------
        object
            The value, as `plain` returns it. Of a kind with `several` values on the command line: one of these.

        Raises
        ------
        ValueError
            The text denotes no admissible value.

        Examples
        --------
        >>> gvae.settings.Number().parse("1e-3")
        0.001
        """
        return self.plain(text)


class Whole(Kind):
    """Whole numbers from a lower bound on.

    Parameters
    ----------
    least : int, default 1
        The lower bound, included.
    below : int or None, default None
        The upper bound, excluded: a power of two (the message names its exponent). None: unbounded.

    Examples
    --------
    >>> gvae.settings.Whole(0, below=2**64).expected
    'a whole number from 0 to 2^64 - 1'
    >>> gvae.settings.Whole().plain(np.int64(3))
    3
    """

    metavar = "N"

    def __init__(self, least: int = 1, below: int | None = None):
        self.least, self.below = least, below
        self.expected = f"a whole number of at least {least}"
        if below is not None:
            self.expected = f"a whole number from {least} to 2^{below.bit_length() - 1} - 1"

    def plain(self, value: Any) -> Any:
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise ValueError
        number = int(value)
        if number < self.least or (self.below is not None and number >= self.below):
            raise ValueError
        return number

    def parse(self, text: str) -> Any:
        return self.plain(int(text))


class Number(Kind):
    """Positive real numbers, optionally with an upper bound or including 0.

    Parameters
    ----------
    below : float, default inf
        An upper bound, excluded.
    most : float or None, default None
        An upper bound, included.
    zero : bool, default False
        Whether 0 is admissible.

    Examples
    --------
    >>> gvae.settings.Number(below=1).expected
    'a positive number below 1'
    >>> gvae.settings.Number(most=1, zero=True).plain(0)
    0.0
    """

    metavar = "X"

    def __init__(self, *, below: float = math.inf, most: float | None = None, zero: bool = False):
        self.below, self.most, self.zero = below, most, zero
        if most is not None:
            self.expected = f"a number from 0 to {most:g}" if zero else f"a positive number of at most {most:g}"
        else:
            self.expected = ("a number of at least 0" if zero else "a positive number") + (
                "" if below == math.inf else f" below {below:g}"
            )

    def plain(self, value: Any) -> Any:
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            raise ValueError
        number = float(value)
        least = number >= 0 if self.zero else number > 0
        if not (least and number < self.below and (self.most is None or number <= self.most)):
            raise ValueError
        return number

    def parse(self, text: str) -> Any:
        return self.plain(float(text))


class Numbers(Kind):
    """Sequences of a fixed number of values of another kind.

    Parameters
    ----------
    kind : Kind
        The kind of each value.
    n : int
        The number of values.

    Examples
    --------
    >>> gvae.settings.Numbers(gvae.settings.Number(), 2).plain((1, 0.5))
    [1.0, 0.5]
    """

    several = True

    def __init__(self, kind: Kind, n: int):
        self.kind, self.n, self.metavar = kind, n, kind.metavar
        self.expected = f"{n} values, each {kind.expected}"

    def plain(self, value: Any) -> Any:
        if isinstance(value, (str, bytes)) or len(value) != self.n:
            raise ValueError
        return [self.kind.plain(x) for x in value]

    def parse(self, text: str) -> Any:
        return self.kind.parse(text)


class YesNo(Kind):
    """True or False; on the command line a flag and its --no- variant.

    Examples
    --------
    >>> gvae.settings.YesNo().check("standardize", "yes")
    Traceback (most recent call last):
    ...
    gvae.errors.ConfigError: standardize is 'yes', expected True or False
    """

    expected = "True or False"

    def plain(self, value: Any) -> Any:
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError
        return bool(value)


class Choice(Kind):
    """One of a fixed set of names.

    Parameters
    ----------
    *choices : str
        The admissible names.

    Examples
    --------
    >>> gvae.settings.Choice("cpu", "cuda").check("device", "gpu")
    Traceback (most recent call last):
    ...
    gvae.errors.ConfigError: device is 'gpu'; known are cpu, cuda
    """

    def __init__(self, *choices: str):
        self.choices = choices
        self.expected = f"one of {', '.join(choices)}"

    def plain(self, value: Any) -> Any:
        if not isinstance(value, str) or value not in (self.choices or ()):
            raise ValueError
        return str(value)

    def check(self, name: str, value: Any) -> Any:
        try:
            return self.plain(value)
        except (ValueError, TypeError):
            raise ConfigError(f"{name} is {value!r:.80}; known are {', '.join(self.choices or ())}") from None


class Precision(Choice):
    """float32 or float64, as text or as a NumPy type."""

    def __init__(self) -> None:
        super().__init__("float32", "float64")

    def plain(self, value: Any) -> Any:
        if value is None:
            raise ValueError
        return super().plain(str(np.dtype(value)))


class Text(Kind):
    """Texts of a grammar, which a function checks.

    Parameters
    ----------
    check : callable
        check(text) raises ConfigError, with the reason, if the text is not of the grammar; its result is ignored.
    metavar : str, default "NAME"
        The placeholder of a value in the help of the command line.

    Examples
    --------
    >>> kind = gvae.settings.Text(gvae.objectives.parse)
    >>> kind.plain("vr_iwae:0.5")
    'vr_iwae:0.5'
    """

    metavar = "NAME"
    expected = "a name as text"

    def __init__(self, check: Callable[[str], Any], metavar: str = "NAME"):
        self._check, self.metavar = check, metavar

    def plain(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError
        self._check(str(value))
        return str(value)


class Families(Kind):
    """Families of distributions, as text or as an object.

    The grammar of a text is not checked here, except that no number in it has more than six digits.

    Parameters
    ----------
    *only : str
        The admissible texts. Empty: any text.
    several : bool, default False
        Whether a sequence is admissible as well: one family for each layer or view.

    Examples
    --------
    >>> gvae.settings.Families(several=True).plain(("chain", "diagonal"))
    ['chain', 'diagonal']
    """

    metavar = "FAMILY"

    def __init__(self, *only: str, several: bool = False):
        self.several, self.only = several, only
        self.expected = "a name as text" + (", or one for each layer or view" if several else "")

    def plain(self, value: Any) -> Any:
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
    """Widths of the hidden layers of a network, or of several networks.

    Parameters
    ----------
    nested : bool, default False
        Whether a sequence of widths for each layer or view is admissible as well. In the shell: `512,512 256,`, where a
        comma makes a sequence, as it makes a tuple in Python.

    Examples
    --------
    >>> gvae.settings.Widths().plain(200)
    [200]
    >>> kind = gvae.settings.Widths(nested=True)
    >>> kind.plain([kind.parse(text) for text in "512,512 256,".split()])
    [[512, 512], [256]]
    """

    metavar = "N"
    several = True

    def __init__(self, nested: bool = False):
        self.nested = nested
        each = ", or such for each layer or view (in the shell: 200,100 50,)" if nested else ""
        self.expected = f"widths such as (200, 200), each a whole number of at least 1{each}"

    def plain(self, value: Any) -> Any:
        if isinstance(value, numbers.Integral):
            value = [value]
        if isinstance(value, (str, bytes)):
            raise ValueError
        whole = Whole()
        if self.nested and any(not isinstance(x, numbers.Integral) for x in value):
            return [[whole.plain(x) for x in widths] for widths in value]
        return [whole.plain(x) for x in value]

    def parse(self, text: str) -> Any:
        if not self.nested or "," not in text:
            return Whole().parse(text)
        return [Whole().parse(part) for part in text.removesuffix(",").split(",")]


class Layers(Kind):
    """A whole number of at least 1, or one for each layer, from the data upwards; no layer at all (in the shell: 0) where
    there may be none."""

    metavar = "N"
    several = True

    def __init__(self, several: bool = True, empty: bool = False):
        self.several, self.empty = several, empty
        self.expected = "a whole number of at least 1" + (", or one for each layer" if several else "")
        self.expected += ", or none: ()" if empty else ""

    def plain(self, value: Any) -> Any:
        listed = isinstance(value, (list, tuple))
        if self.empty and (list(value) if listed else [value]) in ([], [0]):
            return []
        if listed and self.several and value:
            return [Whole().plain(x) for x in value]
        return Whole().plain(value)

    def parse(self, text: str) -> Any:
        return Whole(0 if self.empty else 1).parse(text)


class Columns(Kind):
    """Groups of columns by name: {"a": [0, 1, 2], "b": [3]}. In the shell: a=0-2 b=3,5.

    Examples
    --------
    >>> kind = gvae.settings.Columns()
    >>> kind.plain([kind.parse(text) for text in "a=0-2 b=3,5".split()])
    {'a': [0, 1, 2], 'b': [3, 5]}
    """

    metavar = "NAME=COLUMNS"
    several = True
    expected = "columns by name, such as {'a': [0, 1], 'b': [2]} (in the shell: a=0-1 b=2)"

    def plain(self, value: Any) -> Any:
        pairs = value.items() if isinstance(value, Mapping) else value
        found = {}
        for name, columns in pairs:
            if not isinstance(name, str) or not re.fullmatch(r"\w+", name) or name in found or not len(columns):
                raise ValueError
            found[name] = [Whole(0).plain(column) for column in columns]
        if not found:
            raise ValueError
        return found

    def parse(self, text: str) -> Any:
        name, _, columns = text.partition("=")
        found: list[int] = []
        for part in columns.split(","):
            first, _, last = part.partition("-")
            each = range(int(first), int(last or first) + 1)
            if len(each) > MOST_COLUMNS:
                raise ValueError
            found += each
        return (name, found)


class Maybe(Kind):
    """None (in the shell: none), or a value of another kind.

    Parameters
    ----------
    kind : Kind
        The kind of the values other than None.

    Examples
    --------
    >>> kind = gvae.settings.Maybe(gvae.settings.Whole())
    >>> kind.expected
    'a whole number of at least 1, or None'
    >>> kind.parse("none") is None, kind.parse("5")
    (True, 5)
    """

    def __init__(self, kind: Kind):
        self.kind = kind
        self.metavar, self.several, self.choices = kind.metavar, kind.several, kind.choices
        self.expected = f"{kind.expected}, or None"

    def plain(self, value: Any) -> Any:
        return None if value is None else self.kind.plain(value)

    def check(self, name: str, value: Any) -> Any:
        return (
            None if value is None else super().check(name, value) if self.choices is None else self.kind.check(name, value)
        )

    def parse(self, text: str) -> Any:
        return None if text == NONE and NONE not in (self.choices or ()) else self.kind.parse(text)


class Or(Kind):
    """A reserved word, or a value of another kind."""

    def __init__(self, word: str, kind: Kind):
        self.word, self.kind, self.metavar, self.several = word, kind, kind.metavar, kind.several
        self.expected = f"{kind.expected}, or {word!r}"

    def plain(self, value: Any) -> Any:
        return value if isinstance(value, str) and value == self.word else self.kind.plain(value)

    def parse(self, text: str) -> Any:
        return text if text == self.word else self.kind.parse(text)


# ---- declarations --------------------------------------------------------------------------------


def setting(default: Any, help: str, kind: Kind, *, flag: str | None = None, kw_only: bool = True) -> Any:
    """Declare a setting: a dataclass field of a group.

    Parameters
    ----------
    default : object
    help : str
        The help text, which help(), the command line and the documentation show.
    kind : Kind
        The admissible values.
    flag : str, optional
        The flag on the command line; by default "--" and the name with dashes for underscores. "" for no flag.
    kw_only : bool, default True
        Whether the setting is keyword-only in Python.

    Returns
    -------
    dataclasses.Field

    Examples
    --------
    >>> from gvae.settings import Number, Settings, fields, group, setting
    >>> @group("weights")
    ... class Weights(Settings):
    ...     alpha: float = setting(1.0, "standard deviation of the weights' prior", Number())
    >>> [(f.name, f.default) for f in fields(Weights)]
    [('alpha', 1.0)]
    """
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"help": help, "kind": kind, "flag": flag})


def restated(group: type, name: str, default: Any, help: str | None = None, kw_only: bool = True) -> Any:
    """Declare a setting of another group again, with another default and optionally another help text.

    Parameters
    ----------
    group : type
        The group that declares the setting.
    name : str
        The name of the setting there.
    default : object
        The new default.
    help : str, optional
        The new help text; by default that of the other group.
    kw_only : bool, default True
        Whether the setting is keyword-only in Python.

    Returns
    -------
    dataclasses.Field
        Its kind and its flag are those of the other group.

    Raises
    ------
    KeyError
        The other group has no such setting.

    Examples
    --------
    >>> from gvae.settings import fields, group, restated
    >>> @group("model")
    ... class Small(gvae.models.VAE.Settings):
    ...     latent: int = restated(gvae.models.VAE.Settings, "latent", default=2, kw_only=False)
    >>> [(f.name, f.default) for f in fields(Small)][0]
    ('latent', 2)
    """
    known = {f.name: f for f in dataclasses.fields(group)}[name]
    return dataclasses.field(
        default=default, kw_only=kw_only, metadata={**known.metadata, "help": help or known.metadata["help"]}
    )


_Group = TypeVar("_Group", bound=type)


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(setting, restated))
def group(title: str) -> Callable[[_Group], _Group]:
    """Class decorator: a group of settings, a dataclass whose fields are declared by `setting`.

    Parameters
    ----------
    title : str
        The heading of the group in the help of the command line and in the documentation.

    Returns
    -------
    callable
        The decorator. The dataclass has neither `__eq__` nor `__repr__`.

    Examples
    --------
    >>> from gvae.settings import Number, Settings, group, setting
    >>> @group("weights")
    ... class Weights(Settings):
    ...     alpha: float = setting(1.0, "standard deviation of the weights' prior", Number())
    >>> Weights(alpha=2).checked()
    {'alpha': 2.0}
    """

    def decorate(cls: _Group) -> _Group:
        cls.title = title  # type: ignore[attr-defined]
        return dataclasses.dataclass(eq=False, repr=False)(cls)  # type: ignore[return-value]

    return decorate


class Settings:
    """Base class of the groups of settings.

    Attributes
    ----------
    title : str
        The heading of the group, as given to `group`.

    Examples
    --------
    >>> settings = gvae.models.VAE.Settings(latent=8)
    >>> isinstance(settings, gvae.settings.Settings), settings.title, settings.latent
    (True, 'model', 8)
    """

    title: ClassVar[str]

    def together(self, values: Mapping[str, Any]) -> None:
        """Check values that depend on each other. Groups override it.

        Parameters
        ----------
        values : mapping
            The settings by name, as `Kind.plain` returns them.

        Raises
        ------
        ConfigError

        Examples
        --------
        >>> from gvae.settings import Settings, Whole, group, setting
        >>> @group("range")
        ... class Range(Settings):
        ...     low: int = setting(1, "lower end", Whole())
        ...     high: int = setting(9, "upper end", Whole())
        ...     def together(self, values):
        ...         if values["low"] > values["high"]:
        ...             raise gvae.errors.ConfigError("low is above high")
        >>> Range(low=10).checked()
        Traceback (most recent call last):
        ...
        gvae.errors.ConfigError: low is above high
        """

    def checked(self) -> dict[str, Any]:
        """Check all settings, each by its kind, then by the `together` of every group that they come from.

        Returns
        -------
        dict
            The settings by name, in types that JSON can hold.

        Raises
        ------
        ConfigError
            It names the first setting that is not admissible.

        Examples
        --------
        >>> values = gvae.models.VAE.Settings(latent=np.int64(8), hidden=(100,)).checked()
        >>> values["latent"], values["hidden"], values["posterior"]
        (8, [100], 'chain')
        """
        values = {f.name: f.metadata["kind"].check(f.name, getattr(self, f.name)) for f in fields(type(self))}
        for cls in type(self).__mro__:
            if "together" in vars(cls):
                vars(cls)["together"](self, values)
        return values


def fields(cls: type) -> Iterator[dataclasses.Field]:
    """The settings of a class, in the order of its signature.

    The class `cls` is a group, or inherits from groups, as estimators do.

    Returns
    -------
    iterator of dataclasses.Field
        Fields that are not settings are left out.

    Examples
    --------
    >>> [f.name for f in gvae.settings.fields(gvae.VAE)][:4]
    ['latent', 'posterior', 'observation', 'hidden']
    """
    return iter(f for f in dataclasses.fields(cls) if "kind" in f.metadata)


def titled(cls: type) -> dict[str, list[dataclasses.Field]]:
    """The settings of a class, by the titles of the groups that declare them."""
    groups: dict[str, list[dataclasses.Field]] = {}
    for f in fields(cls):
        declaring = [c for c in cls.__mro__ if f.name in vars(c).get("__annotations__", {})]
        groups.setdefault(vars(declaring[-1]).get("title", ""), []).append(f)
    return groups


def plain(value: Any) -> Any:
    """Convert tuples to lists, at all levels: a value as it is after a round trip through JSON.

    Parameters
    ----------
    value : object

    Returns
    -------
    object
        Lists and tuples as lists; anything else as it is.

    Examples
    --------
    >>> gvae.settings.plain(((200, 100), (50,)))
    [[200, 100], [50]]
    """
    return [plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def native(value: Any) -> Any:
    """Convert lists to tuples, at all levels: the inverse of `plain`."""
    return tuple(map(native, value)) if isinstance(value, list) else value


def described(cls: type) -> str:
    """The settings of a class as the section Parameters of its docstring: name, type, default, help."""
    lines = ["Parameters", "----------"]
    for f in fields(cls):
        lines += [f"{f.name} : {annotation(f)}, default {f.default!r}", f"    {f.metadata['help']}"]
    return "\n".join(lines)


def annotation(f: dataclasses.Field) -> str:
    """The type of a setting, as text, as it is declared."""
    return str(f.type)


# ---- groups that all models share ----------------------------------------------------------------


KINKED = ("relu", "leaky_relu")  # activations whose second derivative is zero except at the kink


def _check_objective(text: str) -> None:
    from gvae import objectives

    objectives.parse(text)


def _check_schedule(text: str) -> None:
    from gvae import optim

    optim.parse_schedule(text)


def _check_average(text: str) -> None:
    from gvae import nn, optim

    optim.parse_average(text, nn.Parameters({}))


def _check_rates(text: str) -> None:
    from gvae import optim

    optim.parse_rates(text)


def _check_alone(text: str) -> None:
    from gvae import optim

    optim.parse_alone(text)


def _check_shuffle(text: str) -> None:
    from gvae import data

    data.Shuffle.of(text)


def _check_optimizer(text: str) -> None:
    from gvae import optim

    optim.check_optimizer(text)


@group("data")
class Standardized(Settings):
    """The units in which a model is given real-valued columns."""

    standardize: bool = setting(
        default=True,
        help="scale real-valued columns to mean 0 and standard deviation 1 over the training rows; densities, means and "
        "draws stay in the units of the data. Other columns are not scaled",
        kind=YesNo(),
    )


@group("data")
class Presentation(Standardized):
    """How rows are presented to a model."""

    binarize: str | None = setting(
        default=None,
        help="how grey levels become black and white: dynamic, drawn whenever a row is presented; fixed, drawn once; "
        "threshold, at 1/2; none; None: dynamic for images of grey levels under a Bernoulli observation, else none",
        kind=Maybe(Choice("dynamic", "fixed", "threshold", "none")),
    )
    dequantize: int | None = setting(
        default=None,
        help="number of grey levels L of data in [0, 1] to be modelled by a density (256 for bytes): x = k / (L - 1) is"
        " presented as (k + u) / L with u ~ U(0, 1)",
        kind=Maybe(Whole(2, below=2**24)),
    )


@group("objective")
class Objective(Settings):
    """The objective that training maximises."""

    objective: str = setting(
        default="elbo",
        help="elbo, elbo_a, elbo_b, each also with a cost in place of the KL (elbo:beta=0.5, elbo:rate=16,weight=4, "
        "elbo:free=0.1, elbo:anchor=0+3,weight=0.9), elbo:trace=probe; iwae, vr_iwae:0.5, renyi:-1, ciwae:0.05, miwae:8, "
        "piwae:8; info:alpha=1,lambda=1000,divergence=mmd: see gvae.objectives.parse",
        kind=Text(_check_objective),
    )
    gradient: str = setting(
        default="reparameterized",
        help="estimator of the encoder's gradient: reparameterized, stl, dreg, vimco, rws, rws_dreg; of the elbo: local and "
        "disarm, for discrete codes; hessian, by second derivatives, in float64 for at most 64 variables",
        kind=Text(lambda text: None),
    )
    samples: int = setting(default=1, help="draws of the codes per row and step", kind=Whole())
    warmup: int = setting(default=0, help="epochs over which the weight of the KL grows from 0 to 1", kind=Whole(0))

    def together(self, values: Mapping[str, Any]) -> None:
        from gvae import objectives

        objectives.parse(values["objective"], gradient=values["gradient"])
        if values["gradient"] == objectives.HESSIAN and values.get("activation") in KINKED:
            raise ConfigError(
                f"gradient 'hessian': activation {values['activation']!r} has kinks, which a mean of second derivatives "
                "misses; take elu, softplus or tanh"
            )
        for key in objectives.keys(values["objective"]):
            if key in values and not values["objective"].startswith("info:"):  # whose alpha is no other alpha
                raise ConfigError(
                    f"objective {values['objective']!r}: {key} is a setting of the model itself: give it there"
                )


@group("length of training")
class Length(Settings):
    """The length of training."""

    epochs: int | str = setting(
        default="auto",
        help="passes over the data; auto: until the bound on held-out rows stops growing, see gvae.training.Until",
        kind=Or("auto", Whole()),
    )
    steps: int | None = setting(default=None, help="steps of one batch each, instead of epochs", kind=Maybe(Whole()))
    patience: int | None = setting(
        default=None,
        help="early stopping: stop after this number of epochs without a better bound on held-out rows, and keep"
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
    """The steps of training."""

    batch_size: int | None = setting(default=100, help="rows per step; None: all", kind=Maybe(Whole()))
    shuffle: str = setting(
        default="auto",
        help="order of the rows of an epoch: full, all shuffled; window:W, chunks of consecutive rows drawn at random and "
        "shuffled among W rows (window:rows=W,chunk=C with chunks of C rows), for rows that are not in memory; auto: full "
        "where the rows fit into a third of the memory",
        kind=Text(_check_shuffle),
    )
    learning_rate: float = setting(default=1e-3, help="of the optimizer", kind=Number())
    optimizer: str = setting(
        default="adam",
        help="adam:beta1=,beta2=,eps=; adamw:0.01 with decay of the weights; sgd:0.9 with momentum; lbfgs:50, "
        "50 iterations of L-BFGS on all rows in each step, without a learning rate",
        kind=Text(_check_optimizer),
    )
    rates: str | None = setting(
        default=None,
        help="multiples of the learning rate by parameter group, as in baseline=10,prior=0.1",
        kind=Maybe(Text(_check_rates, metavar="GROUP=NUMBER,..")),
    )
    alone: str | None = setting(
        default=None,
        help="steps of parameter groups alone, with noise of their own, before each step of the others, as in critic=3",
        kind=Maybe(Text(_check_alone, metavar="GROUP=STEPS,..")),
    )
    schedule: str = setting(
        default="constant",
        help="of the learning rate: constant; cosine, to 0 at the end of the run, or cosine:E of epoch E; plateau:E, "
        "halved after E epochs without a better bound; iwae, 10^(-i/7) for 3^i epochs, or iwae:S, in 1/S of "
        "the epochs; exponential:0.97/2, times 0.97 after every 2 epochs",
        kind=Text(_check_schedule),
    )
    average: str | None = setting(
        default=None,
        help="a running average of the weights, validated and kept in their place: ema:0.999 over steps; swa:E over the "
        "ends of epochs from the E-th on",
        kind=Maybe(Text(_check_average)),
    )
    clip: float | None = setting(
        default=None, help="the largest norm of the gradient; a longer gradient is scaled to it", kind=Maybe(Number())
    )
    on_nonfinite: str = setting(
        default="stop",
        help="after a bound or gradient that is NaN or infinite: stop; skip the step; or rollback, to the start of the"
        " epoch with half of the learning rate",
        kind=Choice("stop", "skip", "rollback"),
    )


@group("machine")
class Machine(Settings):
    """Device, precision, seed and verbosity."""

    dtype: str = setting(default="float32", help="precision of all arithmetic", kind=Precision())
    random_state: int | None = setting(
        default=None,
        help="seed from which everything random follows; None: a fresh one, kept as seed_",
        kind=Maybe(Whole(0, below=2**64)),
        flag="--seed",
    )
    device: str = setting(default="cpu", help="where training runs; results are on the CPU", kind=Choice("cpu", "cuda"))
    shards: int = setting(
        default=1,
        help="parts of each batch, a power of two, which ranks of MPI share; the bits of a run depend on it, and not on the "
        "number of ranks",
        kind=Whole(1),
    )
    verbose: bool = setting(default=False, help="print what was chosen, and show a progress bar", kind=YesNo(), flag="")


# ---- configuration files -------------------------------------------------------------------------


def spelled(f: dataclasses.Field, value: Any) -> Any:
    """A plain value as configuration files spell it: None stays, to be left out, where it is the default, else "none"."""
    return NONE if value is None and f.default is not None else value


def from_file(f: dataclasses.Field, value: Any) -> Any:
    """The inverse of `spelled`, with tuples for lists."""
    optional = isinstance(f.metadata["kind"], Maybe) and NONE not in (f.metadata["kind"].choices or ())
    return None if optional and value == NONE else native(value)


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values as TOML. TOML has no None: entries that are None are left out."""
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items() if value is not None), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_toml(name)} = {_toml(x)}' for name, x in value.items())}}}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
