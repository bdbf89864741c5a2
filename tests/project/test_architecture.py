"""docs/architecture.md and CONTRIBUTING.md: what they name exists, and the layers are those that the tests hold."""

import importlib
import re

import pytest
from test_package import LAYERS, MOVED, ROOT

PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("docs/architecture.md", "CONTRIBUTING.md")}


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    here = set(re.findall(r"`((?:gvae|tests|docs|asv_bench|examples)/[\w./]*|\.ci/run)`", PAGES[page]))
    here |= {str((ROOT / page).parent.relative_to(ROOT) / path) for path in re.findall(r"\]\(([\w./]+)\)", PAGES[page])}
    assert len(here) > 8
    assert sorted(path for path in here if not (ROOT / path).exists() and "_build" not in path) == []


def test_names_exist():
    found = re.findall(r"\{py:\w+\}`(gvae[\w.]*)`", PAGES["docs/architecture.md"])
    assert len(found) > 6
    for name in found:
        module, rest = name.split("."), []
        while True:
            try:
                there = importlib.import_module(".".join(module))
                break
            except ModuleNotFoundError:
                rest.insert(0, module.pop())
        for part in rest:
            there = getattr(there, part)


def test_methods_of_a_step_exist():
    from gvae.training import Trainer

    steps = re.search(r"## The life of a step(.*?)## ", PAGES["docs/architecture.md"], re.DOTALL).group(1)
    named = re.findall(r"^\d\. `(\w+)`", steps, re.MULTILINE)
    assert len(named) == 6
    assert [name for name in named if not hasattr(Trainer, name)] == []


def test_layers_are_those_that_are_held():
    shown = re.search(r"```text\n(.*?)```", PAGES["docs/architecture.md"], re.DOTALL).group(1)
    held = [layer - set(MOVED) - {"__main__", "_moved"} for layer in LAYERS]
    assert [set(line.split(", ")) for line in shown.strip().splitlines()] == held


def test_the_folders_of_the_package_are_all_there():
    text = PAGES["docs/architecture.md"]
    folders = [path.name for path in (ROOT / "gvae").iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    assert [name for name in folders if f"`gvae/{name}/" not in text] == []


def test_every_file_of_tests_is_on_the_list():
    told = set(re.findall(r"`([\w/]*test_\w+\.py)`", (ROOT / "tests" / "README.md").read_text(encoding="utf-8")))
    files = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert told == files


def test_tests_are_laid_out_like_the_package():
    """Each folder of tests is one of the package's, but for what the package has no folder for."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))}
    others = {"project"}
    assert {name for name in folders - others if not (ROOT / "gvae" / name).is_dir()} == set()
    top = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert {name for name in top if not (ROOT / "gvae" / f"{name}.py").exists()} == set()
