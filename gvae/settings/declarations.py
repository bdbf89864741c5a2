"""Declaring settings, and reading the declarations of a class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, dataclass_transform

from gvae.settings.kinds import Kind


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


def described(cls: type) -> str:
    """The settings of a class as the section Parameters of its docstring: name, type, default, help."""
    lines = ["Parameters", "----------"]
    for f in fields(cls):
        lines += [f"{f.name} : {annotation(f)}, default {f.default!r}", f"    {f.metadata['help']}"]
    return "\n".join(lines)


def annotation(f: dataclasses.Field) -> str:
    """The type of a setting, as text, as it is declared."""
    return str(f.type)
