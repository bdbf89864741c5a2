"""The documentation: its site is built without a warning and needs no network; pages written by hand agree with the code."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import gvae

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NEEDED = ("sphinx", "myst_parser", "sphinx_gallery", "sphinx_design", "sphinx_copybutton", "pydata_sphinx_theme")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


def extension(name):
    """A module of docs/_extensions, which are on the path of Sphinx only."""
    folder = str(DOCS / "_extensions")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)} (extra doc)")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-d", str(out / "doctrees"), str(DOCS), str(out / "html")]
    done = subprocess.run(command, env=os.environ | {"GVAE_DOCS_RUN": "0"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return out / "html"


class Page(HTMLParser):
    """What a page loads, what it links to, and the names that links can end at."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.names = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.names |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag in ("script", "img", "iframe", "source", "embed") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("href") and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given["href"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "index",
        "install",
        "start/digits",
        "guide/families",
        "engine/write_a_model",
        "gallery/index",
        "reference/made/api",
        "models",
    ],
)
def test_the_site_has_its_pages(site, name):
    assert (site / f"{name}.html").is_file()


@pytest.mark.slow
def test_no_page_needs_a_network(site, pages):
    loads = {
        f"{path.relative_to(site)}: {load}" for path, page in pages.items() for load in page.loads if urlsplit(load).netloc
    }
    assert not loads
    imported = re.compile(r"""(?:@import\s+|url\(\s*)["']?(?:https?:)?//""")
    assert not [sheet for sheet in site.rglob("*.css") if imported.search(sheet.read_text(encoding="utf-8"))]


@pytest.mark.slow
def test_no_link_is_broken(site, pages):
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            known = pages.get(target)
            if not target.exists() or (known and parts.fragment and unquote(parts.fragment) not in known.names):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


DESCRIBED = ("autodiff", "data", "distributions", "evaluation", "families", "graphs", "models", "nn", "objectives", "ops",
             "optim", "plots", "random", "training")  # fmt: skip


@pytest.mark.slow
def test_every_public_name_is_described(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference" / "made").glob("*.html"))
    described = set(re.findall(r'id="(gvae\.[\w.]+)"', text))
    homes = {name.rpartition(".")[2] for name in described}
    assert not [name for name in gvae.__all__ if callable(getattr(gvae, name)) and name not in homes]
    modules = (getattr(gvae, name) for name in DESCRIBED)
    for module in modules:
        names = dir(module) if module is gvae.ops else module.__all__
        submodules = gvae.ops._MODULES if module is gvae.ops else ()
        assert not [name for name in names if name not in homes and name not in submodules], module.__name__


def test_the_command_line_page_has_every_flag():
    from gvae.cli import _parser

    page = extension("reference").command_line()
    commands = next(a for a in _parser()._actions if getattr(a, "choices", None) and a.dest == "command")
    for name, parser in commands.choices.items():
        section = page.split(f"\ngvae {name}\n---", 1)[1].split("\n.. _command-", 1)[0]
        for action in parser._actions:
            for flag in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"^\.\. option:: .*(?<![\w-]){flag}(?![\w-])", section, re.MULTILINE), (
                    f"gvae {name} {flag}"
                )


def test_every_error_has_advice():
    assert set(extension("reference").ADVICE) == set(gvae.errors.__all__)


def test_every_environment_variable_is_listed():
    read = set()
    for path in (ROOT / "gvae").rglob("*.py"):
        read |= set(re.findall(r"\bGVAE_[A-Z][A-Z_]*", path.read_text(encoding="utf-8")))
    listed = set(re.findall(r"envvar\} (GVAE_\w+)", (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")))
    assert listed == read


def test_every_model_has_a_page():
    pages = {path.stem for path in (DOCS / "guide" / "model").glob("*.md")} - {"index"}
    assert pages == set(gvae.estimators())


def test_every_extra_is_listed():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    extras = set(re.findall(r'^        "(\w+)": ', setup.split("extras_require", 1)[1].split("},", 1)[0], re.MULTILINE))
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    assert not [name for name in extras if f"`{name}`" not in page]


@pytest.mark.parametrize("page", ["storage", "write_an_op", "write_a_family", "write_a_model"])
def test_the_code_of_a_page_runs(page):
    """In a process of its own: it registers families and settings."""
    text = (DOCS / "engine" / f"{page}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300, capture_output=True)


DOCSTRINGS = {
    "fields": (
        "A sum.\n\nx, y : (..., N)      weight : (N,)      Returns (...).\nRaises ShapeError.",
        [":x, y: (..., N)", ":weight: (N,)"],
    ),
    "an example": ("A sum.\n\n    total(x, y)\n", [".. code-block:: python", "    total(x, y)"]),
    "columns": ("Parts.\n\none      the first of them\ntwo      the second of them", [".. code-block:: text"]),
    "signs": (
        "The norm |x| of x_j, *all* of it, by `norm`.",
        ["The norm \\|x\\| of x\\_j, \\*all\\* of it, by \\ ``norm``\\ ."],
    ),
    "bullets": ("One of\n\n- a thing,\n  or two\n- another", ["- a thing,", "  or two", "- another"]),
}


@pytest.mark.parametrize("kind", DOCSTRINGS)
def test_docstrings_become_markup(kind):
    text, expected = DOCSTRINGS[kind]
    lines = extension("docstrings").restructured(text)
    assert [line for line in expected if line not in lines] == []
