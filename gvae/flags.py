"""Settings on the command line and in its configuration files: flags and keys follow from the settings' declarations."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gvae.errors import ConfigError, GvaeError

__all__ = ["DEFAULTS", "add_settings", "chosen", "settings_of"]

DEFAULTS = {"random_state": 0}  # defaults of the command line, where they differ from those of the estimators


def chosen(arguments: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """(the estimator that `gvae train` is to train, the tables of its configuration file): its flags depend on the model,
    which is named by the command line, a configuration file, or the run that is resumed."""
    from gvae import training
    from gvae.estimator import stored
    from gvae.estimator.protocol import DECLARED as known

    if "train" not in arguments[:1]:
        return known["vae"], {}
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--model", "--config", "--resume", "--out"):
        first.add_argument(flag)
    try:
        given, _ = first.parse_known_args(arguments[1:])
    except argparse.ArgumentError:  # the main parser reports it
        return known["vae"], {}
    if given.out is not None:  # together with --resume: the main parser reports it
        given.resume = None
    tables: dict[str, Any] = {} if given.config is None else _read_toml(given.config)
    name = given.model or tables.get("settings", {}).get("model")
    if name is None and given.resume is not None and "--help" not in arguments and "-h" not in arguments:
        return stored.class_of(training.read_config(given.resume), f"{given.resume}: its config.json"), tables
    if name is not None and (not isinstance(name, str) or name not in known):
        raise ConfigError(f"unknown model {name!r:.80}; known are {', '.join(known)}")
    return known[name or "vae"], tables


def _read_toml(path: str) -> dict[str, Any]:
    """The tables [data] and [settings] of a configuration file. Raises ConfigError."""
    import tomllib

    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
    known: dict[str, Any] = {"data": ("source", "dir", "target"), "settings": None}
    for name, table in tables.items():
        if name not in known or not isinstance(table, dict):
            raise ConfigError(f"{path}: {name} is unknown; known are the tables [data] and [settings]")
        for key, value in table.items() if known[name] else ():
            if key not in known[name] or not isinstance(value, str):
                keys = f"the keys {', '.join(known[name])}, with strings"
                raise ConfigError(f"{path}: [{name}] has {key} = {value!r:.80}; expected {keys}")
    return tables


def settings_of(path: str, table: dict[str, Any], estimator: Any) -> dict[str, Any]:
    """The settings of a configuration file, as passed in Python. Raises ConfigError for an unknown one."""
    from gvae import settings

    known = {f.name: f for f in settings.fields(estimator)}
    for name in table:
        if name != "model" and name not in known:
            known_names = ", ".join(["model", *known])
            raise ConfigError(f"{path}: model {estimator.name} has no setting {name!r}; known are {known_names}")
    return {name: settings.from_file(known[name], value) for name, value in table.items() if name != "model"}


def add_settings(train: argparse.ArgumentParser, estimators: Sequence[Any]) -> None:
    """Add a flag for each setting; the options contain only those that are given."""
    from gvae import settings

    there = set()
    for estimator in estimators:
        for title, members in settings.titled(estimator).items():
            group = train.add_argument_group(title)
            for f in members:
                flag = _flag(f)
                if flag and flag not in there:
                    there.add(flag)
                    group.add_argument(flag, dest=f.name, default=argparse.SUPPRESS, **_details(f))


def _flag(f: Any) -> str:
    return f"--{f.name.replace('_', '-')}" if f.metadata["flag"] is None else f.metadata["flag"]


def _details(f: Any) -> dict[str, Any]:
    """The arguments of `add_argument` for a setting."""
    from gvae import settings

    kind = f.metadata["kind"]
    default = DEFAULTS.get(f.name, f.default)
    default = " ".join(map(str, default)) if isinstance(default, tuple) else default
    absent = "not given" if settings.NONE in (kind.choices or ()) else settings.NONE  # how the shell says None
    said = re.sub(r"\bNone\b", absent, f"{f.metadata['help']} (default: {default})").replace("%", "%%")
    if isinstance(kind, settings.YesNo):
        return {"help": said, "action": argparse.BooleanOptionalAction}
    if kind.choices is not None:
        optional = [] if not isinstance(kind, settings.Maybe) or settings.NONE in kind.choices else [settings.NONE]
        return {"help": said, "type": _parsed(kind, check=False), "choices": [*kind.choices, *optional]}
    several = {"nargs": "+"} if kind.several else {}
    return {"help": said, "type": _parsed(kind), "metavar": kind.metavar} | several


def _parsed(kind: Any, check: bool = True) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind.parse(text) if check else text
        except GvaeError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except (ValueError, OverflowError):
            expected = getattr(kind, "kind", kind).expected
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {expected}") from None

    return parse
