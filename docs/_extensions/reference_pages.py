"""Reference pages, written when the site is built: the API from the docstrings, commands from their parser, the errors."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import docstrings
from docstrings import is_field, prose, restructured, split_fields

__all__ = ["ADVICE", "command_line", "write"]

# name of the page, module, title; `gvae.ops` has a page for each of its modules besides
MODULES = (
    ("gvae.estimator", "What estimators share"),
    ("gvae.ops", "Ops"),
    ("gvae.families", "Families"),
    ("gvae.distributions", "Distributions"),
    ("gvae.graphs", "Graphs"),
    ("gvae.autodiff", "Differentiation"),
    ("gvae.models", "Models"),
    ("gvae.objectives", "Objectives"),
    ("gvae.bounds", "Bounds"),
    ("gvae.costs", "Costs of codes"),
    ("gvae.training", "Training"),
    ("gvae.evaluation", "Evaluation"),
    ("gvae.data", "Data"),
    ("gvae.random", "Random numbers"),
    ("gvae.optim", "Optimizers, schedules, averages"),
    ("gvae.nn", "Networks and parameters"),
    ("gvae.settings", "Declarations of settings"),
    ("gvae.interop", "PyTorch and JAX"),
    ("gvae.plots", "Pictures"),
    ("gvae.panels", "Panels of reports"),
)

ADVICE = {
    "GvaeError": "Catch it to catch all of the below.",
    "ShapeError": "Compare the shapes in the message with those in the function's docstring.",
    "BoundsError": "Compare the index with the length of the axis that the message names.",
    "DTypeError": "Convert all arrays of a call to one of float32 and float64, with `astype`.",
    "DeviceError": "Move arrays with `cupy.asarray` or `.get()` first; `gvae doctor` says why CUDA cannot be used.",
    "ConfigError": "The message lists what is accepted; `gvae train --model NAME --help` has the settings of a model.",
    "DataError": "The message names the file, column or value; see `gvae.data.load` for what can be read.",
    "RunError": "Choose a new folder for `--out`, or resume with `--resume`; `gvae runs` lists the folders that can be.",
    "RankError": "The message names the rank and what has happened there; a run is resumed on any number of ranks.",
    "DependencyError": "Install the extra that the message names, as in `pip install 'gvae[plot]'`.",
    "NonFiniteError": "Look at the rows in `error.rows`; lower the learning rate, set `clip`, or choose what follows by "
    "`on_nonfinite`.",
    "StoppedError": "Resume the run: `gvae train --resume RUN`.",
    "NotPositiveDefiniteError": "Look at the systems in `error.rows`; with `check=False` their results are NaN, and the "
    "others are computed.",
}

OF_PACKAGE = ("estimators", "load", "captured", "clear_memory", "show_versions")  # described on the first page

INTEROP = ("gvae.interop.torch", "gvae.interop.jax")


def write(folder: Path) -> None:
    """All pages. A file whose text would stay the same is not touched, so that a second build reads only what changed."""
    pages = _Pages()
    texts = pages.all() | {
        "command_line.rst": command_line(),
        "errors.rst": pages.errors(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.rst"):
        if old.name not in texts:
            old.unlink()
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _heading(title: str, sign: str) -> list[str]:
    return [title, sign * len(title), ""]


# ---- API -----------------------------------------------------------------------------------------


class _Pages:
    """The API by module. An object that several modules offer is described where it comes first, others refer to it."""

    def __init__(self) -> None:
        import gvae

        self.gvae = gvae
        self.estimators = [cls.__name__ for cls in gvae.estimators().values()]
        self.home: dict[int, str] = {}
        self.names: dict[str, list[str]] = {}
        for name in gvae.errors.__all__:
            self._own(getattr(gvae.errors, name), f"gvae.errors.{name}")
        for name in [*self.estimators, *OF_PACKAGE]:
            self._own(getattr(gvae, name), f"gvae.{name}")
        for module, _ in MODULES:
            for name in self._public(module):
                self._own(getattr(importlib.import_module(module), name), f"{module}.{name}")
        docstrings.LINKS.clear()
        for full in self.home.values():
            docstrings.LINKS[full] = full
            docstrings.LINKS[full.removeprefix("gvae.")] = full
        for name, fulls in self.names.items():
            if len(fulls) == 1 and (name[0].isupper() or "_" in name):  # other words may mean an argument
                docstrings.LINKS[name] = fulls[0]
        docstrings.ERRORS.update({name: f"gvae.errors.{name}" for name in gvae.errors.__all__})

    def _own(self, value: Any, full: str) -> None:
        if callable(value) and id(value) not in self.home:
            self.home[id(value)] = full
            self.names.setdefault(full.rpartition(".")[2], []).append(full)

    def _public(self, module: str) -> list[str]:
        if module == "gvae.ops":
            return [name for sub in self._ops_modules() for name in importlib.import_module(f"gvae.ops.{sub}").__all__]
        return list(importlib.import_module(module).__all__)

    def _ops_modules(self) -> tuple[str, ...]:
        return self.gvae.ops._MODULES

    def all(self) -> dict[str, str]:
        texts = {"api.rst": self._index()}
        for name in self.estimators:
            cls = getattr(self.gvae, name)
            lines = [*_heading(f"gvae.{name}", "="), *self._class(cls, f"gvae.{name}", members=False)]
            parent = next(b for b in cls.__mro__ if b.__name__ in ("Classifier", "Estimator"))
            lines += [f"Methods: see :py:class:`gvae.estimator.{parent.__name__}`.", ""]
            texts[f"gvae.{name}.rst"] = "\n".join(lines)
        for module, title in MODULES:
            if module == "gvae.ops":
                texts |= self._ops()
            elif module == "gvae.interop":
                texts["gvae.interop.rst"] = self._interop(title)
            else:
                texts[f"{module}.rst"] = self._module(module, title)
        return texts

    def _index(self) -> str:
        lines = [*_heading("API", "="), *restructured(self.gvae.__doc__), *_heading("Estimators", "-")]
        lines += [
            "One for each model; :doc:`what they share <gvae.estimator>`, ``fit`` and ``score`` among it, has a page.",
            "",
        ]
        rows = [(f":py:class:`gvae.{n}`", _summary(getattr(self.gvae, n))) for n in self.estimators]
        lines += [*_table(rows), *_heading("Functions of the package", "-")]
        rest = [n for n in self.gvae._HOME if n not in self.estimators]
        rows = []
        for n in rest:
            value = getattr(self.gvae, n)
            rows.append((self._reference(value, f"gvae.{n}"), _summary(value)))
        lines += [*_table(rows)]
        for n in OF_PACKAGE:
            lines += self._object(getattr(self.gvae, n), f"gvae.{n}")
        lines += [*_heading("Modules", "-")]
        rows = [(f":doc:`{m} <{m}>`", title) for m, title in MODULES] + [(":doc:`gvae.errors <errors>`", "Errors")]
        lines += _table(rows)
        pages = [*(f"gvae.{n}" for n in self.estimators), *(m for m, _ in MODULES)]
        return "\n".join([*lines, ".. toctree::", "   :hidden:", "", *(f"   {p}" for p in pages), ""])

    def _module(self, module: str, title: str, prefix: str | None = None) -> str:
        loaded = importlib.import_module(module)
        lines = _heading(f"{title}: {module}" if title else module, "=")
        lines += [f".. py:module:: {module}", "", *restructured(loaded.__doc__)]
        names = list(loaded.__all__) if prefix is None else sorted(loaded.__all__)
        return "\n".join([*lines, *self._members(loaded, names, prefix or module)])

    def _members(self, loaded: Any, names: list[str], prefix: str) -> list[str]:
        rows, bodies = [], []
        for name in names:
            value, full = getattr(loaded, name), f"{prefix}.{name}"
            rows.append((self._reference(value, full), _summary(value)))
            if not callable(value) or self.home[id(value)] == full:
                bodies += self._object(value, full)
        return [*_table(rows), *bodies]

    def _reference(self, value: Any, full: str) -> str:
        home = self.home.get(id(value), full) if callable(value) else full
        short = full.rpartition(".")[2]
        return f":py:obj:`{short} <{home}>`"

    def _ops(self) -> dict[str, str]:
        modules = self._ops_modules()
        texts = {}
        lines = [*_heading("Ops: gvae.ops", "="), ".. py:module:: gvae.ops", "", *restructured(self.gvae.ops.__doc__)]
        rows = []
        for sub in modules:
            loaded = importlib.import_module(f"gvae.ops.{sub}")
            names = ", ".join(self._reference(getattr(loaded, n), f"gvae.ops.{n}") for n in loaded.__all__)
            rows.append((f":doc:`{sub} <gvae.ops.{sub}>`", names))
            body = self._module(f"gvae.ops.{sub}", "", prefix="gvae.ops")
            texts[f"gvae.ops.{sub}.rst"] = body
        lines += [*_table(rows), ".. toctree::", "   :hidden:", "", *(f"   gvae.ops.{sub}" for sub in modules), ""]
        return texts | {"gvae.ops.rst": "\n".join(lines)}

    def _interop(self, title: str) -> str:
        loaded = importlib.import_module("gvae.interop")
        lines = [*_heading(f"{title}: gvae.interop", "="), ".. py:module:: gvae.interop", "", *restructured(loaded.__doc__)]
        lines += ["Functions of both modules, each described where its op is:", ""]
        rows = [
            (self._reference(getattr(self.gvae.ops, n), f"gvae.ops.{n}"), _summary(getattr(self.gvae.ops, n)))
            for n in loaded.OPS
        ]
        lines += _table(rows)
        for module in INTEROP:  # read, not imported: neither framework has to be there
            source = Path(
                importlib.util.find_spec("gvae.interop").submodule_search_locations[0], f"{module.rpartition('.')[2]}.py"
            )
            text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
            lines += [*_heading(module, "-"), f".. py:module:: {module}", "", *restructured(text)]
        lines += [*_heading("For other frameworks", "-")]
        return "\n".join([*lines, *self._members(loaded, [n for n in loaded.__all__ if n != "OPS"], "gvae.interop")])

    # ---- one object

    def _object(self, value: Any, full: str) -> list[str]:
        if inspect.isclass(value):
            return self._class(value, full)
        if callable(value):
            return _described("function", full, _signature(value), restructured(value.__doc__))
        return _described("data", full, "", [_contents(value), ""])

    def _class(self, cls: type, full: str, members: bool = True, note: str = "") -> list[str]:
        kind = "exception" if issubclass(cls, BaseException) else "class"
        positional = not members
        body = [*restructured(cls.__doc__ if not _made_by_dataclass(cls) else ""), note, ""]
        if members:
            for name, value in self._methods(cls):
                body += self._method(cls, name, value)
        return _described(kind, full, _signature(cls, positional), body)

    def _methods(self, cls: type) -> list[tuple[str, Any]]:
        """Public ones of its own, and of bases that have no description of theirs."""
        found: dict[str, Any] = {}
        for base in cls.__mro__:
            foreign = not base.__module__.startswith("gvae.")
            if foreign or issubclass(base, BaseException) or (base is not cls and id(base) in self.home):
                continue
            for name, value in vars(base).items():
                if not name.startswith("_") and name not in found:
                    found[name] = value
        return [
            (n, v) for n, v in found.items() if isinstance(v, property | classmethod | staticmethod) or inspect.isfunction(v)
        ]

    def _method(self, cls: type, name: str, value: Any) -> list[str]:
        text = inspect.getdoc(getattr(cls, name))
        if isinstance(value, property):
            return _directive("property", name, restructured(text))
        options = {classmethod: ["   :classmethod:"], staticmethod: ["   :staticmethod:"]}.get(type(value), [])
        function = getattr(value, "__func__", value)
        drop = not isinstance(value, staticmethod)
        return _directive("method", f"{name}{_signature(function, drop_first=drop)}", restructured(text), options)

    # ---- errors

    def errors(self) -> str:
        errors = self.gvae.errors
        if set(ADVICE) != set(errors.__all__):
            raise ValueError(f"ADVICE lacks, or has too many of: {set(ADVICE) ^ set(errors.__all__)}")
        lines = [*_heading("Errors, and what to do", "="), ".. py:module:: gvae.errors", "", *restructured(errors.__doc__)]
        lines += [
            "On the command line an error is one line on stderr, with exit code 2; nothing is written before all input has "
            "been checked. A run that Ctrl-C or TERM interrupts is saved, and ends with 130 or 143.",
            "",
        ]
        rows, bodies = [], []
        for name in ["GvaeError", *(n for n in errors.__all__ if n != "GvaeError")]:
            cls = getattr(errors, name)
            own = [c for c in cls.__mro__ if c.__module__ == "gvae.errors"]
            others = {b.__name__ for c in own for b in c.__bases__ if b.__module__ != "gvae.errors"} - {"Exception"}
            builtin = ", ".join(f"``{other}``" for other in sorted(others))
            rows.append((f":py:exc:`{name} <gvae.errors.{name}>`", _summary(cls), prose(ADVICE[name])))
            note = f"Also a {builtin}." if builtin else ""
            bodies += self._class(cls, f"gvae.errors.{name}", note=note)
        lines += _table(rows, ("error", "when", "what to do"))
        lines += [*_heading("Their classes", "-"), *bodies]
        return "\n".join(lines)


def _made_by_dataclass(cls: type) -> bool:
    return (cls.__doc__ or "").startswith(f"{cls.__name__}(")


def _directive(kind: str, text: str, body: list[str], options: list[str] | tuple = ()) -> list[str]:
    return [f".. py:{kind}:: {text}", *options, "", *("   " + line if line else "" for line in body), ""]


def _described(kind: str, full: str, signature: str, body: list[str]) -> list[str]:
    module, _, name = full.rpartition(".")
    return _directive(kind, name + signature, body, [f"   :module: {module}"])


def _signature(value: Any, positional: bool = False, drop_first: bool = False) -> str:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "()"
    parameters = list(signature.parameters.values())[1 if drop_first else 0 :]
    if positional:  # an estimator, whose other settings are listed below it
        parameters = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
        parameters.append(inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD))
    return str(inspect.Signature([p.replace(annotation=p.empty, default=_default(p)) for p in parameters]))


class _Shown:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _default(parameter: inspect.Parameter) -> Any:
    value = parameter.default
    if value is parameter.empty:
        return value
    text = getattr(value, "__name__", repr(value)) if callable(value) else repr(value)
    return _Shown("..." if "<" in text or "\n" in text or len(text) > 60 else text)


def _contents(value: Any) -> str:
    """What a constant holds."""
    if isinstance(value, dict):
        return "Keys: " + ", ".join(f"``{key}``" for key in value) + "."
    if isinstance(value, tuple | list | set | frozenset):
        return ", ".join(f"``{item!r}``" for item in value if "<" not in repr(item)) + "."
    text = repr(value)
    return f"``{text}``" if "<" not in text and len(text) < 100 else f"A ``{type(value).__name__}``."


def _summary(value: Any) -> str:
    """The first sentence of a docstring."""
    if not callable(value):
        return _contents(value)
    text = inspect.getdoc(value) if not (inspect.isclass(value) and _made_by_dataclass(value)) else ""
    lines: list[str] = []
    for line in (text or "").split("\n\n")[0].splitlines():
        pieces = split_fields(line)
        if is_field(pieces[0]) or (lines and line.startswith("    ")):
            break
        lines.append(pieces[0])
        if len(pieces) > 1:
            break
    paragraph = " ".join(" ".join(lines).split())
    for end in (". ", ": x", "; "):
        if len(paragraph) > 160 and end in paragraph:
            paragraph = paragraph[: paragraph.index(end)] + "."
    return prose(paragraph.removesuffix("."))


def _table(rows: list[tuple[str, ...]], heads: tuple[str, ...] = ()) -> list[str]:
    lines = [".. list-table::", f"   :header-rows: {int(bool(heads))}", "   :class: names", ""]
    for row in ([heads] if heads else []) + list(rows):
        for i, cell in enumerate(row):
            lines.append(f"   {'* -' if i == 0 else '  -'} {cell or ' '}")
    return [*lines, ""]


# ---- commands ------------------------------------------------------------------------------------


def command_line() -> str:
    """Every command and flag, as the parser has them."""
    from gvae.cli import build_parser

    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    lines = [*_heading("Command line", "="), f"``{parser.prog}``: {prose(parser.description or '')}", ""]
    lines += [
        "Made from the parser of the commands. ``gvae COMMAND --help`` prints the same; ``gvae train --model NAME --help``",
        "the settings of one model only.",
        "",
    ]
    summaries = {a.dest: a.help for a in commands._choices_actions}
    lines += _table([(f":ref:`gvae {n} <command-{n}>`", prose(summaries.get(n) or "")) for n in commands.choices])
    for name, sub in commands.choices.items():
        lines += [f".. _command-{name}:", "", *_heading(f"gvae {name}", "-"), prose(sub.description or ""), ""]
        lines += [".. code-block:: text", "", f"    {_usage(sub)}", "", f".. program:: gvae {name}", ""]
        for group in sub._action_groups:
            members = [
                a for a in group._group_actions if a.help is not argparse.SUPPRESS and "--help" not in a.option_strings
            ]
            if not members:
                continue
            if group.title not in ("positional arguments", "options"):
                lines += [f".. rubric:: {group.title.capitalize()}", ""]
            for action in members:
                lines += [f".. option:: {_invocation(action)}", "", "   " + prose(_help(sub, action)), ""]
        if sub.epilog:
            lines += [prose(sub.epilog), ""]
    return "\n".join(lines)


def _usage(sub: argparse.ArgumentParser) -> str:
    """One line: positional arguments by name, flags as a whole."""
    words = [sub.prog]
    for action in sub._actions:
        if not action.option_strings:
            word = str(action.metavar or action.dest) if action.choices is None else "|".join(map(str, action.choices))
            words.append(f"[{word}]" if action.nargs == "?" else word)
    return " ".join([*words, "[FLAGS]"])


def _invocation(action: argparse.Action) -> str:
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper())
    if not action.option_strings:
        return value
    if action.nargs == 0:
        return ", ".join(action.option_strings)
    value = f"{value} [{value} ...]" if action.nargs == "+" else value
    return ", ".join(f"{flag} {value}" for flag in action.option_strings)


def _help(sub: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = sub._get_formatter()._expand_help(action) if action.help else ""
    if action.choices and action.metavar:
        text += f" (one of: {', '.join(map(str, action.choices))})"
    return text
