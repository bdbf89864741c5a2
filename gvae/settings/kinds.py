"""Kinds: the sets of admissible values of settings, with their checks, messages and spelling in a shell."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gvae.errors import ConfigError, GvaeError

MOST_COLUMNS = 10**6  # the most columns of a range on the command line
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
            The value, as `plain` returns it; for a kind with `several` values on the command line, one of them.

        Raises
        ------
        ValueError
            The text does not denote an admissible value.

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
        try:
            return super().plain(str(np.dtype(value)))
        except SyntaxError as error:  # NumPy evaluates some texts
            raise ValueError from error


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


class File(Kind):
    """Paths of files or folders, as text or a path; kept as text.

    Examples
    --------
    >>> from pathlib import Path
    >>> gvae.settings.File().plain(Path("runs/first"))
    'runs/first'
    """

    metavar = "PATH"
    expected = "a path"

    def plain(self, value: Any) -> Any:
        if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
            raise ValueError
        return str(os.fspath(value))


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
        self.expected = " or ".join(only) or "a name as text" + (", or one for each layer or view" if several else "")

    def plain(self, value: Any) -> Any:
        if self.several and isinstance(value, (list, tuple)) and value:
            each = [self.plain(x) for x in value]
            return each[0] if len(each) == 1 else each
        from gvae.families import Family

        if not isinstance(value, (str, Family)):
            raise ValueError
        if self.only and isinstance(value, str) and value not in self.only:
            raise ValueError
        if isinstance(value, str) and re.search(r"\d{7,}", value):  # its sizes determine the sizes of tables
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
    """A positive integer, or one for each layer, from the data upwards; with `empty`, also no layers (in the
    shell: 0)."""

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
            first, to, last = part.partition("-")
            each = range(int(first), int(last if to else first) + 1)
            if not 0 < len(each) <= MOST_COLUMNS:
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
