"""The documentation: its site is built without a warning and needs no network; pages written by hand agree with the code."""

from __future__ import annotations

import functools
import http.server
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

import gvae

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NEEDED = ("sphinx", "myst_parser", "sphinx_gallery", "sphinx_design", "sphinx_copybutton", "pydata_sphinx_theme")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


def extension(name):
    """A module of docs/_extensions, which are on the path of Sphinx only."""
    folder = str(DOCS / "_extensions")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


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


FOUND = ("index", "install", "models", "start/digits", "engine/write_a_model", "gallery/index", "reference/made/api")
DESCRIBED = [
    "autodiff",
    "bounds",
    "costs",
    "data",
    "distributions",
    "evaluation",
    "families",
    "graphs",
    "models",
    "nn",
    "objectives",
    "ops",
    "optim",
    "panels",
    "plots",
    "random",
    "training",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built from a copy, for Sphinx writes beside its sources."""
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)} (extra doc)")
    folder = tmp_path_factory.mktemp("docs")
    ignored = shutil.ignore_patterns("_build", "_gallery_src", "gallery", "made", "__pycache__")
    shutil.copytree(DOCS, folder / "docs", ignore=ignored)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=ignored)
    shutil.copy(ROOT / "CHANGELOG.md", folder)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-d", folder / "trees", folder / "docs", folder / "site"]
    done = subprocess.run(command, env=os.environ | {"GVAE_DOCS_RUN": "0"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site):
    found = [path for path in site.rglob("*.html") if "_static" not in path.relative_to(site).parts]  # where templates lie
    return {path: Page(path) for path in found}


@pytest.mark.documentation
def test_pages_are_there(site, pages):
    assert not [name for name in FOUND if site / f"{name}.html" not in pages]


@pytest.mark.documentation
def test_no_page_needs_a_network(site, pages):
    assert not {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}
    loading = re.compile(r"""(?:@import\s+|url\(\s*)["']?(?:https?:)?//""")
    assert not [sheet for sheet in site.rglob("*.css") if loading.search(sheet.read_text(encoding="utf-8"))]


@pytest.mark.documentation
def test_no_link_is_broken(site, pages):
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(target)
            if not target.exists() or (known and parts.fragment and unquote(parts.fragment) not in known.names):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


@pytest.mark.documentation
def test_every_public_name_is_described(site):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference" / "made").glob("*.html"))
    described = {name.rpartition(".")[2] for name in re.findall(r'id="(gvae\.[\w.]+)"', text)}
    assert not [name for name in gvae.__all__ if callable(getattr(gvae, name)) and name not in described]
    for module in (getattr(gvae, name) for name in DESCRIBED):
        names = set(dir(module)) - set(gvae.ops._MODULES) if module is gvae.ops else set(module.__all__)
        assert not names - described, module.__name__


@pytest.mark.documentation
@pytest.mark.parametrize("page", ["index", "guide/model/vae", "reference/made/gvae.ops.banded"])
def test_a_browser_opens_pages(site, page):
    """In Chromium, from a local server: no request fails, nothing is asked of another host, the console stays empty."""
    browsers = pytest.importorskip("playwright.sync_api", reason="not installed: playwright (extra dev)")
    if CHROMIUM is None:
        pytest.skip("not installed: chromium")
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browsers.sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here, problems = f"http://127.0.0.1:{server.server_port}/", []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("requestfailed", lambda request: problems.append(f"failed: {request.url}"))
        tab.on("request", lambda request: None if request.url.startswith((here, "data:")) else problems.append(request.url))
        tab.on("response", lambda r: None if r.ok else problems.append(f"{r.status}: {r.url}"))
        tab.goto(f"{here}{page}.html", wait_until="networkidle")
        assert tab.locator("h1").count() == 1
        browser.close()
        server.shutdown()
    assert not problems


def test_the_command_line_page_has_every_flag():
    from gvae.cli import build_parser

    page = extension("reference_pages").command_line()
    commands = next(a for a in build_parser()._actions if getattr(a, "choices", None) and a.dest == "command")
    for name, parser in commands.choices.items():
        section = page.split(f"\ngvae {name}\n---", 1)[1].split("\n.. _command-", 1)[0]
        for action in parser._actions:
            for flag in set(action.option_strings) - {"-h", "--help"}:
                assert re.search(rf"^\.\. option:: .*(?<![\w-]){flag}(?![\w-])", section, re.MULTILINE), (
                    f"gvae {name} {flag}"
                )


def test_every_error_has_advice():
    assert set(extension("reference_pages").ADVICE) == set(gvae.errors.__all__)


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


PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "results"} & set(path.parts)]
PROGRAMS = [page for page in PAGES if re.search(r"^```python$", page.read_text(encoding="utf-8"), re.MULTILINE)]
PRELUDE = """
import numpy as np, gvae
from gvae import data, plots
mnist = data.load("digits")
images = X = mnist.train[:60]
test = X_test = mnist.test[:20]
y = mnist.train_labels[:60]
first = second = gvae.FactorAnalysis(latent=2, epochs=1).fit(X)
"""


def shorter(code):
    """With one epoch, and few steps."""
    code = re.sub(r"(epochs|warmup)=\d+", r"\1=1", code)
    code = re.sub(r"(steps)=\d+", r"\1=2", code)
    return "\n".join(
        line if re.search("epochs|steps", line) else re.sub(r"(gvae\.(?!CCA\b)\w+)\(latent", r"\1(epochs=1, latent", line)
        for line in code.splitlines()
    )


@pytest.mark.documentation
@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page, tmp_path):
    """In a process of its own, for it may register families and settings; what it trains, for one epoch."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    if page.stem in ("sweeps", "trackers"):
        pytest.skip("run by tests/sweeps/test_trackers.py, where their packages are installed")
    for package in ("cupy", "torch", "jax"):
        if f"import {package}\n" in code:
            pytest.importorskip(package)
    code = (PRELUDE if re.search(r"gvae\.|X_test", code) else "") + shorter(code)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, timeout=300, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def smaller(words):
    """A command on the digits, with one epoch and few draws, or None: the demo and the warm-up are run by other tests."""
    command, *rest = words
    if command in ("demo", "warmup") or "cuda" in rest:
        return None
    if command == "sweep":
        return [command, "study.toml", *rest[1:]]
    least = {"--temperatures": "3", "--chains": "2", "--first": "2", "--data-dir": ""}
    least |= {"--samples": "3"} if command == "evaluate" else {}
    least |= {"--epochs": "2" if "--resume" in rest else "1", "--warmup": "1"}
    for flag in [flag for flag in least if flag in rest]:
        place = rest.index(flag)
        rest[place : place + 2] = [flag, least[flag]] if least[flag] else []
    if command == "train" and not {"--epochs", "--steps", "--resume", "cca"} & {*rest}:  # cca is in closed form
        rest += ["--epochs", "1"]
    rest += ["--first", "20", "--samples", "3"] if command in ("plot", "report") else []
    if {"gaps", "ais"} & {*rest} and "--first" not in rest:
        rest += ["--first", "2"]
    rest += ["--binarize", "threshold"] if command == "train" and "binarized_mnist" in rest else []
    named = {"mnist", "binarized_mnist", "frey_faces", "DATA"}
    files = {"20news": "counts.npy", "nips_counts": "counts.npy", "noisy_mnist": "views.npz"}
    return [command, *("digits" if word in named else files.get(word, word) for word in rest)]


def commands_of(page):
    found = re.findall(r"^(?:\$ |    )gvae (.*?)(?:  .*)?$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [words for text in found if (words := smaller(shlex.split(text)))]


@pytest.mark.documentation
@pytest.mark.parametrize("page", [p for p in (*PAGES, ROOT / "README.md") if commands_of(p)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page, tmp_path, monkeypatch):
    """In their order, in one folder, in which there is a run already."""
    from gvae import cli

    commands = commands_of(page)
    monkeypatch.chdir(tmp_path)
    np.save("counts.npy", np.random.default_rng(0).poisson(1.0, size=(60, 5)))
    np.save("rows.npy", np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32))
    np.savetxt("table.csv", np.random.default_rng(0).normal(size=(60, 4)), delimiter=",")
    views = dict(
        zip(("train", "train_y", "test", "test_y"), np.random.default_rng(0).normal(size=(4, 100, 15)), strict=True)
    )
    np.savez("views.npz", **views)
    study = '[data]\nsource = "digits"\n[fixed]\nepochs = 1\n[ranges]\nlatent = [1, 2]\n[study]\ntrials = 2\n'
    (tmp_path / "study.toml").write_text(study)
    if "--out" not in commands[0]:
        assert cli.main(["train", "digits", "--latent", "2", "--epochs", "1", "--out", "RUN"]) == 0
    for words in commands:
        if "--out" in words:
            shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
        assert cli.main(words) == 0, words


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


COMMANDS = sorted(
    {
        command
        for path in (*DOCS.rglob("*.md"), ROOT / "README.md")
        if not {"_build", "results"} & set(path.parts)
        for command in re.findall(r"^(?:\$ |    )(gvae .*?)(?:  .*)?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_pages_parse(command, monkeypatch):
    from gvae import cli, flags, settings, training

    monkeypatch.setattr(training, "read_config", lambda run: {"model": "vae"})
    monkeypatch.setattr(flags, "_read_toml", lambda path: {})
    arguments = shlex.split(command)[1:]
    estimator, tables = flags.chosen(arguments)
    options, unknown = cli.build_parser(estimator, tables).parse_known_args(arguments)
    assert not unknown
    for f in settings.fields(estimator):
        if f.name in vars(options):
            f.metadata["kind"].check(f.name, settings.native(vars(options)[f.name]))
