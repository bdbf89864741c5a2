"""Docstrings of the public names: numpydoc's sections are there and agree with the signatures, and their examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import warnings
from unittest import mock

import numpy as np
import pytest

import gvae
from gvae.estimator import protocol

MODULES = [
    "estimator",
    "families",
    "distributions",
    "graphs",
    "autodiff",
    "models",
    "bounds",
    "costs",
    "objectives",
    "training",
    "evaluation",
    "data",
    "random",
    "optim",
    "nn",
    "settings",
    "interop",
    "panels",
    "plots",
    "errors",
]
CHECKED = {"GL08", "PR01", "PR02", "PR03", "PR04", "RT01", "EX01"}  # there; parameters all, known, in order, typed; ...
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def public():
    """Objects by full name: functions, classes, and those methods that no base class in this list has, too."""
    homes = [f"gvae.ops.{name}" for name in gvae.ops._MODULES] + [f"gvae.{name}" for name in MODULES]
    listed = [
        (home, name, getattr(importlib.import_module(home), name))
        for home in homes
        for name in importlib.import_module(home).__all__
    ]
    listed += [("gvae", name, getattr(gvae, name)) for name in gvae._HOME]
    classes = {value for *_, value in listed if inspect.isclass(value)}
    found = {}
    for home, name, value in listed:
        instance = not inspect.isclass(value) and value.__doc__ is type(value).__doc__  # a constant, such as bounds.IWAE
        if not callable(value) or instance or any(value is other for other in found.values()):
            continue
        found[f"{home}.{name}"] = value
        for method in dir(value) if value in classes else ():
            described = any(hasattr(base, method) for base in value.__mro__[1:] if base in classes)
            described |= not any(method in vars(b) and b.__module__.startswith("gvae.") for b in value.__mro__)
            is_method = inspect.isroutine(getattr(value, method)) or isinstance(getattr(value, method), property)
            if is_method and not method.startswith("_") and not described:
                found[f"{home}.{name}.{method}"] = getattr(value, method)
    return found


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_sections(name):
    validate = pytest.importorskip("numpydoc.validate", reason="not installed: numpydoc (extra doc)").validate
    with warnings.catch_warnings(record=True) as unknown:  # a section that numpydoc does not know
        warnings.simplefilter("always")
        found = validate(name)["errors"]
    ignored = {"PR01"} if getattr(PUBLIC[name], "_is_protocol", False) else set()  # typing's constructor
    assert not [text for code, text in found if code in CHECKED - ignored]
    assert not [str(w.message) for w in unknown if "section" in str(w.message)]
    joined = re.findall(r"\w+ -{3,}.*", inspect.getdoc(PUBLIC[name]) or "")
    assert not joined, "a heading and its line of dashes on one line"


@pytest.mark.parametrize("name", PUBLIC)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(PUBLIC[name]) or ""
    examples = doctest.DocTestParser().get_doctest(text, {"np": np, "gvae": gvae}, name, None, None)
    assert examples.examples, "an example, with >>>"
    report = []
    with mock.patch.dict(protocol.DECLARED):  # a class that an example declares is not there for other tests
        doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=report.append)
    assert not report, "".join(report)


def test_public_types_are_complete():
    """Every parameter and result of a public function, method or constructor has a type."""
    lacking = []
    for name, value in PUBLIC.items():
        function = value.fget if isinstance(value, property) else getattr(value, "func", value)
        if inspect.isclass(function):
            function = vars(function).get("__init__")
        if function is None or getattr(function, "__module__", "").partition(".")[0] != "gvae":
            continue  # made by dataclasses or typing, from annotated fields
        signature = inspect.signature(inspect.unwrap(function))
        types = [p.annotation for p in signature.parameters.values() if p.name not in ("self", "cls")]
        types += [] if inspect.isclass(value) else [signature.return_annotation]
        lacking += [name] if inspect.Signature.empty in types else []
    assert not lacking
