"""study.toml: what a study varies, what it keeps fixed, and which settings each of its trials has."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gvae import flags, random, settings, texts
from gvae.errors import ConfigError
from gvae.estimator.protocol import DECLARED
from gvae.settings import Choice, Kind, Maybe, Settings, Text, Whole, group, setting

__all__ = ["Plan", "Range", "StudySettings", "read_plan"]

MOST_CHECKED = 100
TABLES = ("data", "fixed", "ranges", "study")
PRUNERS: dict[str, dict[str, texts.Number]] = {
    "none": {},
    "median": {
        "startup": texts.Number("a whole number of at least 1", lambda x: x >= 1, int),
        "warmup": texts.Number("a whole number of at least 0", lambda x: x >= 0, int),
    },
    "halving": {
        "factor": texts.Number("a whole number of at least 2", lambda x: x >= 2, int),
        "least": texts.Number("a whole number of at least 1", lambda x: x >= 1, int),
    },
}
LONE = {"median": "startup", "halving": "factor"}


def parse_pruner(text: str) -> tuple[str, dict[str, Any]]:
    """(name, settings) of a pruner's text. ConfigError for one that is not known."""
    return texts.parse("pruner", text, PRUNERS, LONE)


def _check_metric(text: str) -> None:
    if not re.fullmatch(r"(train|validation)_\w+", text):
        raise ConfigError(f"metric is {text[:80]!r}, expected a column of log.jsonl such as validation_bound")


@group("study")
class StudySettings(Settings):
    """The table [study] of study.toml."""

    trials: int | None = setting(None, "number of trials; for a grid, all of its points by default", Maybe(Whole()))
    metric: str = setting("validation_bound", "column of log.jsonl by which trials are compared", Text(_check_metric))
    direction: str = setting("maximize", "direction of the metric", Choice("maximize", "minimize"))
    sampler: str = setting("random", "how settings are proposed", Choice("random", "grid", "tpe"))
    seed: int = setting(0, "seed of the proposals", Whole(0, below=2**64))
    pruner: str = setting(
        "none",
        "which trials end early: none; median:startup=5,warmup=0, those whose best value so far is worse than the median "
        "at the same epoch of the trials that were completed, once there are 5; halving:factor=4,least=1, all but one in 4 "
        "at epochs 1, 4, 16, ...",
        Text(parse_pruner),
    )


@dataclass(frozen=True)
class Range:
    """The values of one setting: `choices`, or the numbers from `low` to `high`.

    kind    : that of the setting            whole : whether the numbers are whole
    choices : plain values, or None          log   : whether they are uniform in the logarithm
    """

    name: str
    kind: Kind
    choices: tuple[Any, ...] | None = None
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False

    def at(self, u: float) -> Any:
        """The value at a position u in [0, 1), as the journal stores it."""
        if self.choices is not None:
            return self.kept[int(u * len(self.choices))]
        low, high = self.low, self.high + (1 if self.whole else 0)
        x = math.exp(math.log(low) + u * math.log(high / low)) if self.log else low + u * (high - low)
        x = math.floor(x) if self.whole else float(x)
        return min(max(x, self.low), self.high)  # rounding

    @property
    def kept(self) -> list[Any]:
        """The choices as the journal stores them: sequences as texts."""
        return [json.dumps(x) if isinstance(x, (list, dict)) else x for x in self.choices or ()]

    def value(self, kept: Any) -> Any:
        """The plain value of a setting, from the value that the journal stores."""
        if self.choices is None:
            return self.kind.plain(kept)
        return next(x for x, k in zip(self.choices, self.kept, strict=True) if k == kept and type(k) is type(kept))


@dataclass(frozen=True)
class Plan:
    """A study file, checked.

    Parameters
    ----------
    path : str
        The path of the file, for messages.
    text : str
        Its content.
    tables : dict of str to dict
        Its tables, as they were read.
    estimator : type
        The class that is trained.
    fixed : dict
        Plain values of the settings that all trials share.
    ranges : tuple of Range
        The varied settings, in the order of the file.
    settings : dict
        The table [study] with its defaults, `trials` filled in.
    """

    path: str
    text: str
    tables: dict[str, dict[str, Any]]
    estimator: Any
    fixed: dict[str, Any]
    ranges: tuple[Range, ...]
    settings: dict[str, Any]

    @property
    def trials(self) -> int:
        return self.settings["trials"]

    @property
    def maximize(self) -> bool:
        return self.settings["direction"] == "maximize"

    def proposal(self, number: int) -> dict[str, Any] | None:
        """The varied settings of trial `number`, as the journal stores them: a function of seed and number.

        None where they depend on results.
        """
        if self.settings["sampler"] == "grid":
            found = {}
            for r in reversed(self.ranges):  # the last one varies fastest
                number, i = divmod(number, len(r.kept))
                found[r.name] = r.kept[i]
            return {r.name: found[r.name] for r in self.ranges}
        return self.drawn(number) if self.settings["sampler"] == "random" else None

    def drawn(self, number: int) -> dict[str, Any]:
        """Independent uniform draws for trial `number`."""
        u = random.uniform(random.fold_in(random.key(self.settings["seed"]), number), (len(self.ranges),), np.float64)
        return {r.name: r.at(float(x)) for r, x in zip(self.ranges, u, strict=True)}

    def varied(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Plain values of the settings that a trial varies, from the values that the journal stores."""
        return {r.name: r.value(kept[r.name]) for r in self.ranges if r.name in kept}


def read_plan(path: str | Path) -> Plan:
    """Read a study file.

    Raises
    ------
    ConfigError
        Not TOML; an unknown table, key, model or setting; a value or a range that is not admissible.
    OSError
        The file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    try:
        return _checked(str(path), text, tables)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _checked(path: str, text: str, tables: dict[str, Any]) -> Plan:
    for name, table in tables.items():
        if name not in TABLES or not isinstance(table, dict):
            raise ConfigError(f"{name} is unknown; known are the tables [data], [fixed], [ranges] and [study]")
    data, fixed = tables.get("data", {}), tables.get("fixed", {})
    for key, value in data.items():
        if key not in ("source", "dir", "target") or not isinstance(value, str):
            raise ConfigError(f"[data] has {key} = {value!r:.80}; known are source, dir and target, strings")
    if "source" not in data:
        raise ConfigError("[data] names no source, such as digits or rows.npy")
    known, model = DECLARED, fixed.get("model", "vae")
    if not isinstance(model, str) or model not in known:
        raise ConfigError(f"[fixed]: unknown model {model!r:.80}; known are {', '.join(known)}")
    estimator = known[model]
    ranges = tuple(_ranges(tables.get("ranges", {}), fixed, estimator))
    if not ranges:
        raise ConfigError("[ranges] is empty; name a setting and its values, as in latent = [4, 8, 16]")
    own = {f.name: f for f in settings.fields(estimator)}
    shared = flags.settings_of("[fixed]", fixed, estimator)
    shared = {name: own[name].metadata["kind"].check(f"[fixed] {name}", value) for name, value in shared.items()}
    plan = Plan(path, text, tables, estimator, shared, ranges, _study(tables.get("study", {}), ranges))
    _check_trials(plan)
    return plan


def _check_trials(plan: Plan) -> None:
    """Single trials may have settings that exclude each other, but not all trials."""
    reason = None
    for number in range(min(plan.trials, MOST_CHECKED)):
        varied = plan.varied(plan.proposal(number) or plan.drawn(number))
        try:
            plan.estimator(**{n: settings.native(x) for n, x in (plan.fixed | varied).items()}).checked()
            return
        except ConfigError as error:
            reason = reason or error
    raise ConfigError(f"no trial has settings that go together: {reason}")


def _ranges(table: Mapping[str, Any], fixed: Mapping[str, Any], estimator: Any) -> Any:
    if "model" in table:
        raise ConfigError("[ranges] has model, which is the same in all trials of a study: name it in [fixed]")
    flags.settings_of("[ranges]", dict(table), estimator)  # raises if one is unknown
    known = {f.name: f for f in settings.fields(estimator)}
    for name, given in table.items():
        f, where = known[name], f"[ranges] {name}"
        if name in fixed:
            raise ConfigError(f"{name} is in [fixed] and in [ranges]; it can be in one of them")
        if isinstance(given, list):
            yield _choices(f, where, given)
        elif isinstance(given, dict):
            yield _interval(f, where, given)
        else:
            raise ConfigError(f"{where} is {given!r:.80}, expected [choices] or {{low = .., high = .., log = true}}")


def _choices(f: Any, where: str, given: list[Any]) -> Range:
    values: list[Any] = []
    for x in given:
        value = f.metadata["kind"].check(where, settings.from_file(f, x))
        if value in values:
            raise ConfigError(f"{where} has {x!r:.80} twice")
        values.append(value)
    if not values:
        raise ConfigError(f"{where} is [], expected one choice or more")
    return Range(f.name, f.metadata["kind"], choices=tuple(values))


def _interval(f: Any, where: str, given: dict[str, Any]) -> Range:
    kind, numbers = f.metadata["kind"], ("low", "high")
    for key in given:
        if key not in (*numbers, "log"):
            raise ConfigError(f"{where} has {key!r:.80}; known are low, high and log")
    for key in numbers:
        if not isinstance(given.get(key), (int, float)) or isinstance(given[key], bool):
            raise ConfigError(f"{where} has {key} = {given.get(key)!r:.80}, expected a number")
    if not isinstance(given.get("log", False), bool):
        raise ConfigError(f"{where} has log = {given['log']!r:.80}, expected true or false")
    low, high = (kind.check(f"{where}, {key},", given[key]) for key in numbers)
    whole = not isinstance(low, float)
    if whole:
        low, high = given["low"], given["high"]  # for widths: one number instead of a list
    if not low < high:
        raise ConfigError(f"{where} has low = {low!r} and high = {high!r}, expected low < high")
    if given.get("log", False) and low <= 0:
        raise ConfigError(f"{where} has low = {low!r}, expected a positive number with log = true")
    return Range(f.name, kind, low=low, high=high, log=given.get("log", False), whole=whole)


def _study(table: Mapping[str, Any], ranges: tuple[Range, ...]) -> dict[str, Any]:
    known = [f.name for f in settings.fields(StudySettings)]
    for key in table:
        if key not in known:
            raise ConfigError(f"[study] has no setting {key!r:.80}; known are {', '.join(known)}")
    try:
        values = StudySettings(**table).checked()
    except ConfigError as error:
        raise ConfigError(f"[study] {error}") from None
    if values["sampler"] == "grid":
        if numbers := [r.name for r in ranges if r.choices is None]:
            raise ConfigError(f"[ranges] {numbers[0]}: a grid needs [choices]")
        size = math.prod(len(r.kept) for r in ranges)
        values["trials"] = size if values["trials"] is None else values["trials"]
        if values["trials"] > size:
            raise ConfigError(f"[study] trials is {values['trials']}, but the grid has {size} points")
    if values["trials"] is None:
        raise ConfigError("[study] trials is missing, expected the number of trials")
    return values
