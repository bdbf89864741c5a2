"""The house: layers, imports, names, examples, packaging."""

from __future__ import annotations

import ast
import importlib
import os
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import llvmlite
import numba
import numpy as np
import pytest
from packaging.requirements import Requirement

import gvae
from gvae import ops

PACKAGE = Path(gvae.__file__).parent
ROOT = Path(__file__).parents[2]
CHOL = np.array([[2.0, 1.5, 1.0], [0.5, 0.5, 0.25]])

MOVED = ("ahead", "capture", "dispatch", "memory", "threads", "warmup")  # old names of parts of the runtime
# Arrows go down only: a module may import from its own line's right-hand side and below.
LAYERS = [
    {"cli", "flags", "demo", "report", "doctor", "plots", "sweeps", "estimator", "__main__", "_moved"},
    {"models"},
    {"settings"},
    {"training", "evaluation", "data", "protocol"},
    {"objectives"},
    {"bounds", "costs"},
    {"families"},
    {"distributions", "nn", "optim"},
    {"modes"},
    {"interop"},
    {"ops"},
    {"autodiff"},
    {"random"},
    {"graphs", "checks", "texts", "blas"},
    {"runtime", *MOVED},
    {"kernels"},
    {"errors", "panels", "structures", "earlier", "typing", "discover"},
]
# Besides: the tape ends by importing the modules that attach Var's operators; doctor tells where compiled kernels lie.
EXCEPTIONS = {("autodiff", "ops"), ("runtime", "kernels"), ("doctor", "kernels")}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts[0], path


def imports(path):
    """The parts of every name that a file imports, wherever the statement stands: ["gvae", "runtime", "abi"]."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield [*node.module.split("."), alias.name]


def level(name):
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def test_arrays_go_down_only():
    for name, path in modules():
        if name in ("__init__", "kernels"):
            continue
        for target in imports(path):
            if target[0] == "gvae" and len(target) > 1 and not target[1].startswith("_"):
                below = target[1]
                if (name, below) not in EXCEPTIONS and below != name:
                    if below == "kernels":
                        pytest.fail(f"{path.name} imports kernels past runtime.device")
                    assert level(below) >= level(name), f"{path.relative_to(PACKAGE)} imports gvae.{below}"


def test_kernels_import_nothing_of_the_house_but_a_part_of_the_runtime():
    """The CPU's abi, which imports nothing of the house itself; a device's the context."""
    for name, path in modules():
        relative = path.relative_to(PACKAGE).as_posix()
        if name == "kernels":
            theirs = {"cpu": "abi", "cuda": "context"}.get(relative.split("/")[1], "none")
            allowed = [["gvae", "kernels"], ["gvae", "runtime", theirs]]
            for target in imports(path):
                assert target[0] != "gvae" or any(target[: len(way)] == way for way in allowed), (relative, target)
        elif relative == "runtime/abi.py":
            assert "gvae" not in {target[0] for target in imports(path)}


def names(path):
    """The parts of every dotted name in a file: ["numba", "core", "types"]."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            yield [node.id, *reversed(parts)]


PUBLIC = {"numba": {"config", "extending", "njit", "typeof", "types"}, "llvmlite": {"ir"}}


def test_private_parts_of_numba_are_in_abi_alone():
    """No numba.core, numba.np, numba._dispatcher, ... and no llvmlite.binding anywhere else."""
    private = []
    for _, path in modules():
        relative = path.relative_to(PACKAGE).as_posix()
        for first, *rest in [*imports(path), *names(path)]:
            if first in PUBLIC and rest and rest[0] not in PUBLIC[first]:
                private.append((relative, first, rest[0]))
    assert {place for place, *_ in private} == {"runtime/abi.py"}, private
    assert {("runtime/abi.py", "numba", "np"), ("runtime/abi.py", "llvmlite", "binding")} <= set(private)  # they are seen


def test_pip_installs_the_releases_that_abi_was_seen_with(monkeypatch):
    from gvae.runtime import abi

    given = {}
    monkeypatch.setitem(sys.modules, "setuptools", SimpleNamespace(setup=given.update, find_packages=lambda **_: []))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    asked = {requirement.name: requirement.specifier for requirement in map(Requirement, given["install_requires"])}
    for module in (numba, llvmlite):
        found = set()
        for minor in range(100):
            with monkeypatch.context() as patched:
                patched.setattr(module, "__version__", f"0.{minor}.1")
                found.add(asked[module.__name__].contains(module.__version__))
                assert asked[module.__name__].contains(module.__version__) == (abi.unseen() is None), module.__version__
        assert found == {False, True}


def test_numba_and_cupy_are_imported_in_their_places_only():
    for _, path in modules():
        tops = {target[0] for target in imports(path)}
        relative = path.relative_to(PACKAGE).as_posix()
        assert not tops & {"numba", "llvmlite"} or relative.startswith("kernels/cpu/") or relative == "runtime/abi.py", (
            relative
        )
        assert not tops & {"cupy", "cupyx"} or relative.startswith("kernels/cuda/") or relative == "doctor.py", relative
        assert "sklearn" not in tops or relative in ("data/loaders.py", "estimator/protocol.py"), relative


def test_other_frameworks_are_imported_in_interop_only_and_interop_by_nobody():
    for name, path in modules():
        targets = list(imports(path))
        tops = {target[0] for target in targets} & {"torch", "jax", "jaxlib"}
        relative = path.relative_to(PACKAGE).as_posix()
        assert tops <= {relative.removeprefix("interop/").removesuffix(".py")}, relative
        assert name == "interop" or ["gvae", "interop"] not in [target[:2] for target in targets], relative


@pytest.mark.parametrize(("framework", "title"), [("torch", "PyTorch"), ("jax", "JAX")])
def test_interop_without_its_framework_names_the_extra(framework, title):
    code = f"import sys; sys.modules['{framework}'] = None; import gvae.interop; import gvae.interop.{framework}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = f'DependencyError: gvae.interop.{framework} needs {title}: pip install "gvae[{framework}]"'
    assert done.stderr.splitlines()[-1].endswith(message)
    assert issubclass(gvae.errors.DependencyError, ImportError)


def test_no_module_but_ops_and_families_knows_a_family():
    """training, evaluation and objectives never ask what a model or a family is."""
    names = {"chain", "diagonal", "extended_grid", "ar1", "lowrank", "bernoulli", "banded", "VAE"}
    for name in ("training", "evaluation", "objectives"):
        nodes = [
            n for part, path in modules() if part == name for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        ]
        words = {n.id for n in nodes if isinstance(n, ast.Name)}
        words |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
        constants = (n.value for n in nodes if isinstance(n, ast.Constant))
        words |= {c for c in constants if isinstance(c, str)}  # a docstring is one long word, and never a name
        assert not words & names, name


def test_what_estimators_share_knows_no_model():
    """Nor do training, evaluation and the objectives: they use the protocol of models only."""
    classes = {name for cls in gvae.estimators().values() for name in (cls.__name__, cls.model.__name__)}
    for name, path in modules():
        shared = name in ("training", "evaluation", "objectives", "settings", "data")
        if shared or (name == "estimator" and path.name not in ("__init__.py", "classes.py")):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            words = {n.id for n in nodes if isinstance(n, ast.Name)}
            words |= {n.attr for n in nodes if isinstance(n, ast.Attribute)}
            texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert not words & classes, path
            assert not texts & gvae.estimators().keys(), path


@pytest.mark.exclusive
def test_import_is_light():
    """No Numba, CuPy, SciPy or other framework, and at most the promised 0.15 s beyond NumPy's own import (best of 3)."""
    code = (
        "import time, numpy; t = time.perf_counter(); import gvae; t = time.perf_counter() - t\n"
        "import sys, gvae.interop\n"
        "names = ('numba', 'cupy', 'scipy', 'sklearn', 'matplotlib', 'tqdm', 'threadpoolctl', 'torch', 'jax')\n"
        "print(t, *(m for m in names if m in sys.modules))"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert all(len(o) == 1 for o in outputs), outputs
    assert min(float(o[0]) for o in outputs) < 0.15


def test_import_of_everything_but_kernels_needs_no_numba():
    code = (
        "import sys, gvae\n"
        "for m in gvae._MODULES: importlib = __import__('importlib').import_module('gvae.' + m)\n"
        "import gvae.cli; gvae.ops.add; print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


def test_public_names_exist():
    for name in gvae.__all__:
        assert getattr(gvae, name) is not None
    for name in gvae._MODULES:
        module = importlib.import_module(f"gvae.{name}")
        for public in getattr(module, "__all__", []):
            assert getattr(module, public) is not None
    assert set(gvae.__all__) <= set(dir(gvae))
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        gvae.absent  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        gvae.ops.absent  # noqa: B018


def test_public_functions_have_docstrings():
    for name in gvae._MODULES:
        module = importlib.import_module(f"gvae.{name}")
        assert module.__doc__
        for public in getattr(module, "__all__", []):
            thing = getattr(module, public)
            if callable(thing) and getattr(thing, "__module__", "").startswith("gvae"):
                assert thing.__doc__, f"gvae.{name}.{public}"


def runtime_examples():
    """Those for another framework run in that framework's test file."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        if ["gvae", "interop"] not in [target[:2] for target in imports(path)]:
            yield path.name


@pytest.mark.documentation
@pytest.mark.parametrize("example", list(runtime_examples()))
def test_examples_run_on_the_runtime_dependencies(example, tmp_path):
    """Each under a minute, without matplotlib, pooch or a data folder; without scikit-learn, unless its digits are used."""
    blocker, absent = tmp_path / "sitecustomize.py", ["matplotlib", "pooch", "cupy"]
    absent += [] if 'load("digits")' in (ROOT / "examples" / example).read_text(encoding="utf-8") else ["sklearn"]
    blocker.write_text(f"import sys\nfor m in {absent}: sys.modules[m] = None\n")
    env = {k: v for k, v in os.environ.items() if k != "GVAE_DATA_DIR"}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(PACKAGE.parent), env.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / example)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["sitecustomize.py"]


def test_the_citation_has_the_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == gvae.__version__
    assert "BSD-3-Clause" in text


def test_the_conda_recipe_has_the_limits_of_setup_py():
    recipe = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^    - (\w+) ([<>=.,\d]+)$", recipe.partition("  run:")[2], re.MULTILINE))
    needed = {re.match(r"([\w-]+)(.*)", r).groups() for r in metadata.requires("gvae") if "extra ==" not in r}
    needed |= {("python", metadata.metadata("gvae")["Requires-Python"])}
    assert {(n, frozenset(v.split(","))) for n, v in listed} == {(n, frozenset(v.split(","))) for n, v in needed}
    assert f"version: {gvae.__version__}" in recipe


def test_the_application_decides_what_is_logged():
    code = "import logging, gvae; logging.getLogger('gvae.training').warning('heard by nobody')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


FORMER = {
    "logdet_ar1": (lambda: ops.logdet_ar1(CHOL, CHOL / 4, 3), lambda: -ops.logdet_precision_ar1(CHOL, CHOL / 4, N=3)),
    "variance": (lambda: ops.marginal_variances_banded(CHOL), lambda: ops.variance_banded(CHOL)),
    "of its module": (lambda: ops.banded.marginal_variances_banded(CHOL), lambda: ops.variance_banded(CHOL)),
    "place": (lambda: ops.place(CHOL, index=[0, 2, 4], size=5), lambda: ops.scatter_last(CHOL, index=[0, 2, 4], size=5)),
    "log_mean_exp": (lambda: ops.log_mean_exp(CHOL, 1), lambda: ops.log_mean_exp(CHOL, axis=1)),
    "weights": (lambda: ops.normalized_weights(CHOL, 1), lambda: ops.normalized_weights(CHOL, axis=1)),
    "ess": (lambda: ops.effective_sample_size(CHOL, 1), lambda: ops.effective_sample_size(CHOL, axis=1)),
    "stack": (lambda: ops.stack([CHOL, CHOL], 1), lambda: ops.stack([CHOL, CHOL], axis=1)),
    "concatenate": (lambda: ops.concatenate([CHOL, CHOL], 1), lambda: ops.concatenate([CHOL, CHOL], axis=1)),
    "factor": (lambda: ops.precision_factor_ar1(CHOL, CHOL / 4, 3), lambda: ops.precision_factor_ar1(CHOL, CHOL / 4, N=3)),
}


@pytest.mark.parametrize("name", FORMER)
def test_former_spellings_of_ops_warn_and_work(name):
    old, new = FORMER[name]
    with pytest.warns(DeprecationWarning, match=r"is now|keyword-only") as noted:
        np.testing.assert_array_equal(old(), new())
    assert [Path(w.filename).name for w in noted] == [Path(__file__).name]  # where the caller can find it


def test_old_names_still_work():
    """For one release, with a warning; nothing of the package uses them."""
    from gvae import autodiff

    for module, name, now in [
        ("capture", "captured", gvae.captured),
        ("memory", "clear", gvae.clear_memory),
        ("threads", "count", gvae.runtime.pool.count),
        ("dispatch", "is_cuda", gvae.runtime.device.is_cuda),
    ]:
        with pytest.warns(DeprecationWarning, match=rf"gvae.{module}.{name} is now gvae.runtime"):
            assert getattr(importlib.import_module(f"gvae.{module}"), name) is now
        with pytest.raises(AttributeError):
            importlib.import_module(f"gvae.{module}").nothing  # noqa: B018
    with pytest.warns(DeprecationWarning, match="use autodiff.vjp"):
        recording = autodiff.Recording(lambda x, y: (x * y).sum(), 2.0, inputs=3.0)
    assert recording.replay(5.0, inputs=4.0)[1]() == 4.0
    assert gvae.capture.__name__ == "gvae.capture"
