"""Every benchmark runs, its baselines compute what gvae computes, and the scripts beside them do what they say."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gvae import ops

FOLDER = Path(__file__).parents[2] / "asv_bench"
BENCHMARK = re.compile(r"(time|timeraw|peakmem|mem|track)_")


def load(name, path):
    """Import a file or a package from where it lies."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def find_benchmarks():
    """{"banded.Solve": class}: all classes with a benchmark method, found as asv finds them: imported ones too."""
    package = load("gvae_benchmarks", FOLDER / "benchmarks" / "__init__.py")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, value in vars(module).items():
            if inspect.isclass(value) and methods(value):
                found[f"{info.name}.{name}"] = value
    return found


def methods(benchmark):
    return [name for name in dir(benchmark) if BENCHMARK.match(name)]


BENCHMARKS = find_benchmarks()
compare = load("gvae_bench_compare", FOLDER / "compare.py")
run = load("gvae_bench_run", FOLDER / "run.py")


def combinations(benchmark, implementation):
    """Those that are compared: every mode, graph and dtype, the first shape of each rank, the first of anything else."""

    def chosen(name, values):
        if name == "shape":
            return {len(shape): shape for shape in reversed(values)}.values()
        return values if name in ("mode", "graph", "dtype") else values[:1]

    rest = zip(benchmark.param_names[1:], benchmark.params[1:], strict=True)
    return itertools.product([implementation], *(chosen(name, values) for name, values in rest))


def test_every_family_has_benchmarks():
    families = {name.partition(".")[0] for name in BENCHMARKS}
    modules = {path.stem for path in (FOLDER / "benchmarks").glob("*.py")}
    assert families == modules - {"__init__", "common", "peers"}
    assert len(BENCHMARKS) > 40
    assert len(set(BENCHMARKS.values())) == len(BENCHMARKS)  # none is measured twice


def test_every_structured_op_has_a_benchmark():
    """By its name in the benchmarks' text; band_to_dense and the like are for looking, the rest are parts of the others."""
    text = "".join(path.read_text(encoding="utf-8") for path in (FOLDER / "benchmarks").glob("*.py"))
    parts = {
        "band_to_dense",
        "dense_to_band",
        "log_pivots_banded",
        "logdet_precision_ar1",
        "logdet_lowrank",
        "variance_lowrank",
    }
    parts |= {"method_banded", "PATHS", "bernoulli_draw", "categorical_draw", "poisson_draw", "strict_triangle", "keep"}
    plain = {"elementwise", "arrays", "dense", "sparse", "linalg", "gaussian", "correlation"}
    for family in set(ops._MODULES) - plain:
        for name in set(importlib.import_module(f"gvae.ops.{family}").__all__) - parts:
            assert f"ops.{name}" in text, name


@pytest.mark.parametrize("name", BENCHMARKS)
def test_runs(name):
    """The first combination; gvae's others run as far as a baseline is compared with them, below."""
    benchmark = BENCHMARKS[name]
    assert len(benchmark.param_names) == len(benchmark.params)
    assert benchmark.params[0][0] == "gvae"
    assert all(f"'{other}'".startswith(compare.BASELINES) for other in benchmark.params[0][1:])
    params = tuple(values[0] for values in benchmark.params)
    for method in methods(benchmark):
        instance = benchmark()
        if hasattr(instance, "setup"):
            instance.setup(*params)
        result = getattr(instance, method)(*params)
        if method.startswith("timeraw_"):
            subprocess.run([sys.executable, "-c", result], check=True, cwd=FOLDER.parent)


def check_agreement(name, implementation):
    """The number of combinations in which a baseline computed what gvae computes."""
    benchmark, agreed = BENCHMARKS[name], 0
    for params in combinations(benchmark, implementation):
        ours, theirs = benchmark(), benchmark()
        try:
            theirs.setup(*params)
        except NotImplementedError:
            continue
        ours.setup("gvae", *params[1:])
        results = [instance.to_numpy(instance.call()) for instance in (ours, theirs)]
        for x, y in zip(*results, strict=True):
            assert x.dtype == y.dtype, params
            rtol = 1e-4 if x.dtype == np.float32 else 1e-9
            np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(x).max(), err_msg=str(params))
        agreed += 1
    return agreed


def baselines(of_peers):
    """(benchmark, implementation) for all baselines that promise gvae's numbers: those of PyTorch and JAX, or the others."""
    for name, benchmark in BENCHMARKS.items():
        for implementation in benchmark.params[0][1:] if getattr(benchmark, "agree", False) else ():
            if (implementation.partition("_")[0] in run.PEERS) == of_peers:
                yield name, implementation


@pytest.mark.parametrize(("name", "implementation"), list(baselines(of_peers=False)))
def test_baselines_agree(name, implementation):
    assert check_agreement(name, implementation) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("library", run.PEERS)
def test_peers_agree(library):
    """In a process of their own: their threads would make later forks of this one unsafe."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = (
        "import sys; from test_benchmarks import baselines, check_agreement\n"
        "for name, implementation in baselines(of_peers=True):\n"
        "    if implementation.startswith(sys.argv[1]): print(name, implementation, check_agreement(name, implementation))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code, library]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert {"gaussian.SampleAndLogProb", "banded.Solve"} <= {pair.partition(" ")[0] for pair in counts}
    assert all(int(count) > 0 for count in counts.values()), counts


def test_setup_prepares_once_and_skips_what_is_missing():
    params = ("forward", "chain", (100, 16), "float32")
    instance = BENCHMARKS["banded.Solve"]()
    instance.setup("scipy", *params)
    call = instance.call
    instance.setup("scipy", *params)
    assert instance.call is call
    with pytest.raises(NotImplementedError, match="Solve has no cupy form"):
        instance.setup("cupy", *params)


def test_a_library_that_is_missing_is_skipped(monkeypatch):
    for library, implementation in (("torch", "torch"), ("jax", "jax_scan")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(NotImplementedError, match=f"{library} is not installed"):
            BENCHMARKS["banded.Solve"]().setup(implementation, "forward", "chain", (100, 16), "float32")


def test_version_follows_what_is_timed():
    versions = [benchmark().version for benchmark in BENCHMARKS.values() if hasattr(benchmark, "version")]
    assert len(set(versions)) == len(versions) >= 40


# --- compare.py

SOLVE = "banded.Solve.time_solve"
PARAMS = [["'gvae'", "'scipy'"], ["16", "256"]]


def results(tmp_path, name, rows, **extra):
    content = {"result_columns": ["result", "params", "version"], "results": rows} | extra
    path = tmp_path / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_compare_finds_what_became_slower(tmp_path, capsys):
    old = results(
        tmp_path, "old.json", {SOLVE: [[1e-5, 1e-3, 1e-4, 1e-4], PARAMS, "a"], "a.B.peakmem_c": [[2**20], [], "b"]}
    )
    new = results(
        tmp_path, "new.json", {SOLVE: [[1.2e-5, 3e-3, 9e-4, 1e-4], PARAMS, "a"], "a.B.peakmem_c": [[2**22], [], "b"]}
    )
    assert compare.main([old, new]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "slower, by more than 1.15 x: 3"
    assert lines[1].split() == ["4.00", "x", "1", "MiB", "->", "4", "MiB", "a.B.peakmem_c"]
    assert lines[2].split() == ["3.00", "x", "1", "ms", "->", "3", "ms", "banded.Solve.time_solve('gvae',", "256)"]
    assert lines[3].split()[:7] == ["1.20", "x", "10", "us", "->", "12", "us"]
    assert "5.00 x in the median of 2" in lines[4]  # the baselines, which are not judged
    assert lines[5] == "compared 3: 3 slower, 0 faster, 0 alike"

    assert compare.main([old, new, "--threshold", "1.5"]) == 1
    assert capsys.readouterr().out.startswith("slower, by more than 1.5 x: 2\n")


def test_compare_finds_what_fails(tmp_path, capsys):
    old = results(tmp_path, "old.json", {SOLVE: [[1e-5, 1e-3, 1e-4, 1e-4], PARAMS, "a"], "a.B.time_whole": [[1.0], [], "b"]})
    new = results(tmp_path, "new.json", {SOLVE: [[1e-5, None, 1e-4, None], PARAMS, "a"], "a.B.time_whole": [None, [], "b"]})
    assert compare.main([old, new]) == 1
    out = capsys.readouterr().out
    assert "fails in the new file: 2\n  banded.Solve.time_solve('gvae', 256)\n  a.B.time_whole\n" in out
    assert "only in the old file: 1\n  banded.Solve.time_solve('scipy', 256)\n" in out  # a baseline, which is not judged


def test_compare_finds_nothing(tmp_path, capsys):
    old = results(
        tmp_path,
        "old.json",
        {
            SOLVE: [[1e-5, 1e-3, 1e-4, None], PARAMS, "a" * 64],
            "a.B.time_gone": [[1.0], []],
            "a.B.time_anew": [[1.0], [], "b"],
        },
    )
    new = results(
        tmp_path,
        "new.json",
        {
            SOLVE: [[1.1e-5, 5e-4, 1e-4, 1e-4], PARAMS, "a" * 12],
            "a.B.time_gone": [[float("nan")], []],
            "a.B.time_failed": [None, [["1"]]],
            "a.B.time_anew": [[9.0], [], "c"],
        },
    )
    assert compare.main([old, new]) == 0
    out = capsys.readouterr().out
    assert "slower, by" not in out
    assert "faster: 1\n    0.50 x        1 ms ->     500 us  banded.Solve.time_solve('gvae', 256)\n" in out
    assert "only in the old file: 1\n  a.B.time_gone\n" in out
    assert "only in the new file: 1\n  banded.Solve.time_solve('scipy', 256)\n" in out
    assert "defined anew, not compared: 1\n  a.B.time_anew\n" in out
    assert compare.main([old, old]) == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"results": [], "result_columns": []}', '{"results": {"a": [1]}}'])
def test_compare_refuses_other_files(tmp_path, capsys, text):
    good = results(tmp_path, "good.json", {SOLVE: [[1e-5] * 4, PARAMS, "a"]})
    bad = tmp_path / "bad.json"
    bad.write_text(text, encoding="utf-8")
    for pair in ([good, str(bad)], [str(bad), good]):
        assert compare.main(pair) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.fullmatch(r"compare.py: .*bad.json (is not a file of|holds no)( benchmark)? results\n", captured.err)


def test_compare_refuses_what_has_nothing_in_common(tmp_path, capsys):
    good = results(tmp_path, "good.json", {SOLVE: [[1e-5] * 4, PARAMS, "a"]})
    other = results(tmp_path, "other.json", {"a.B.time_c": [[1.0], []]})
    assert compare.main([good, other]) == 2
    assert "no benchmark in common" in capsys.readouterr().err
    assert compare.main([good, str(tmp_path / "missing.json")]) == 2
    assert capsys.readouterr().err.endswith("missing.json: No such file or directory\n")
    for threshold in ("1", "x", "nan"):
        with pytest.raises(SystemExit, match="2"):
            compare.main([good, good, "--threshold", threshold])
        assert "is not a number above 1" in capsys.readouterr().err


def test_compare_as_a_command(tmp_path):
    good = results(tmp_path, "good.json", {SOLVE: [[1e-5] * 4, PARAMS, "a"]})
    done = subprocess.run([sys.executable, FOLDER / "compare.py", good, good], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    shown = subprocess.run([sys.executable, FOLDER / "compare.py", "--help"], capture_output=True, text=True, check=True)
    assert "Exit code: 1 if" in shown.stdout


def test_reference_files_can_be_compared():
    for path in (FOLDER / "reference").glob("*.json"):
        values, _, _, content = compare.read(str(path))
        assert path.stem == content["name"] == run.name_of(content["machine"])
        assert not content["quick"]
        assert {name.partition("(")[0].rpartition(".")[0] for name in values} <= set(BENCHMARKS)


# --- peers_table.py


def table(*arguments):
    command = [sys.executable, FOLDER / "peers_table.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.nightly
@pytest.mark.exclusive
def test_table_of_peers(tmp_path):
    done = table("kl", "entries", "--rounds", "3", "--seconds", "0.1", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    head, rule, *lines = done.stdout.splitlines()
    rows = lines[: lines.index("")]
    assert {line.count("|") for line in (head, rule, *rows)} == {7}
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(content["results"]) == len(rows) == 4
    assert {r["row"] for r in content["results"]} == {"kl", "entries"}
    for result, line in zip(content["results"], rows, strict=True):
        assert result["other"] in line
        assert result["low"] <= result["ratio"] <= result["high"]
        assert result["rounds"] == 3
        assert 0 < result["gvae_seconds"] < 1
    by_name = {r["other"]: r["ratio"] for r in content["results"]}
    assert by_name["its kernels alone"] < by_name["value and gradient"]
    for fact in (content["machine"]["cpu"], content["date"], content["commit"], "numpy ", "kl entries --rounds 3"):
        assert fact in lines[-1]


def test_table_beside_some_libraries_alone():
    code = """
import importlib, sys, peers_table
from functools import partial
def row():
    "One row."
    names = peers_table.beside(["gvae", "json", "wave"])
    yield peers_table.Row("a row", [peers_table.Timed(name, partial(importlib.import_module, name)) for name in names])
for only in ("json", "missing"):
    print(peers_table.main(["--rounds", "5", "--seconds", "0", "--only", only], rows={"row": row}), "wave" in sys.modules)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert [line.split("|")[3].strip() for line in done.stdout.splitlines() if "| a row |" in line] == ["json"]
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "there was nothing to compare gvae with: --only has missing" in done.stderr


def test_table_says_what_there_is():
    listed = table("--list").stdout.splitlines()
    names = [line.split()[0] for line in listed]
    assert names == ["headline", "throughput", "entries", "long", "inverse", "linear", "kl"]
    assert all(len(line.split()) > 5 for line in listed)
    for arguments in (["--rounds", "0"], ["nope"]):
        done = table(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
    assert "no row is called 'nope'" in done.stderr


def in_peers(code, *arguments):
    """What Python prints, in a process of its own that can import asv_bench/peers."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER / "peers"), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_load_ends_with_the_measurement():
    code = """
import subprocess, training, peers_table
started, popen = [], subprocess.Popen
subprocess.Popen = lambda *given, **settings: started.append(popen(*given, **settings)) or started[-1]
try:
    with peers_table.busy(2):
        print([process.poll() for process in started])
        raise KeyError
except KeyError:
    print([process.returncode for process in started])
"""
    assert in_peers(code).splitlines() == ["[None, None]", "[-9, -9]"]


def test_rounds_in_turn_at_rest_and_beside_a_load():
    code = """
import training, peers_table
from contextlib import contextmanager
now = [0]
@contextmanager
def busy(n):
    now[0] = n
    yield
    now[0] = 0
peers_table.busy = busy
peers_table.once = lambda call, number: call()
calls = []
ours = lambda: calls.append(now[0]) or 1.0 + now[0]
row = peers_table.Row("a row", [peers_table.Timed("gvae", ours), peers_table.Timed("other", lambda: 3.0)])
for result in peers_table.measure("row", row, 5, 0.0, 2):
    print(result.load, result.gvae_seconds, result.other_seconds, result.ratio, result.kept, result.rounds)
print(*peers_table.markdown(peers_table.measure("row", row, 5, 0.0, 2)), sep="\\n")
print(calls[-4:])
"""
    *results, at_rest, loaded, calls = in_peers(code).splitlines()
    assert results[0] == "0 1.0 3.0 3.0 None 5"
    assert results[1].split()[:4] == ["2", "3.0", "3.0", "1.0"]
    assert float(results[1].split()[4]) == pytest.approx(1 / 3)
    assert "| a row | 1 s | other | 3 s | 3 | 3-3 |" in at_rest
    assert "| a row, beside 2 busy processes | 3 s | other | 3 s | 1, 0.333 of that at rest | 1-1 |" in loaded
    assert calls == "[0, 0, 2, 2]"  # an untimed one before each


# --- peers/training.py


@pytest.mark.nightly
@pytest.mark.parametrize("peer", ["PyTorch", "PyTorch, compiled", "JAX"])
def test_training_steps_agree(peer):
    """Three steps of every kind of case, at small sizes."""
    library = {"JAX": "jax"}.get(peer, "torch")
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = """
import json, sys, training
from dataclasses import replace
name = sys.argv[1]
small = {replace(case, rows=5, samples=min(case.samples, 3), pixels=16, hidden=8) for case in training.CASES.values()}
print(json.dumps({str(case): training.disagreements(case, {name: training.PEERS[name]}) for case in small}))
"""
    reasons = json.loads(in_peers(code, peer).splitlines()[-1])
    assert len(reasons) == 7
    found = [why for by_peer in reasons.values() for why in by_peer.values()]
    if any("needs a C++ compiler" in why for why in found):
        pytest.skip(found[0])
    assert found == []


def test_a_training_step_that_disagrees_is_not_timed():
    code = """
import training
from dataclasses import replace
from steps_gvae import Gvae
class Noisier(Gvae):
    def given(self, noise):
        return super().given(1.1 * noise)
class Moved(Gvae):
    def parameters(self):
        return {name: 1.1 * value for name, value in super().parameters().items()}
training.PEERS = {"same": Gvae, "noisier": Noisier, "moved": Moved}
row = next(training.row_of(replace(training.CASES["chain"], rows=5, pixels=16, hidden=8))())
print([timed.name for timed in row.timed], *row.missing, sep="\\n")
"""
    timed, noisier, moved = in_peers(code).splitlines()
    assert timed == "['gvae', 'same', 'its matrix products alone']"
    assert noisier.startswith("noisier: its losses are [")
    assert moved.startswith("moved: after 3 steps it disagrees with gvae on encoder.0.weight, ")


def test_training_says_what_there_is():
    code = "import sys, training; sys.exit(training.peers_table.main(['--list'], rows=training.ROWS))"
    listed = in_peers(code).splitlines()
    assert len(listed) == 9
    assert listed[5] == "chain-20x50      chain, 784-200-200-16 elu, IWAE, 20 rows x 50"


# --- step_profile.py


def profiled(*arguments):
    command = [sys.executable, FOLDER / "step_profile.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.nightly
@pytest.mark.exclusive
def test_a_steps_parts_are_the_step():
    done = profiled("chain", "--seconds", "1", "--kernels")
    assert done.returncode == 0, done.stderr
    head, _, row, *kernels = done.stdout.splitlines()
    parts = dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (head, row)), strict=True))
    took = {name: float(cell.split()[0]) for name, cell in parts.items() if cell.endswith("ms")}
    step, alone = took.pop("step"), took.pop("products alone")
    assert list(took) == ["kernels", "NumPy's functions", "noise", "norm and Adam", "Python"]
    assert min(*took.values(), alone) > 0
    assert 0.8 < sum(took.values()) / step < 1.2  # medians need not add up
    named = {line.split()[-1]: float(line.split()[0]) for line in kernels}
    assert {"affine", "affine_weight_vjp", "bernoulli_affine", "sample", "inverse_vjp"} <= set(named)
    assert 0.3 < sum(named.values()) / took["kernels"] < 3


def test_a_profile_of_what_there_is_not():
    done = profiled("nothing")
    assert done.returncode == 2
    assert "there is no row 'nothing': expected some of diagonal, " in done.stderr


# --- discrete_steps.py


@pytest.mark.nightly
def test_steps_of_discrete_codes():
    command = [sys.executable, FOLDER / "discrete_steps.py", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    cells = [line.strip("| ").split(" | ")[1:] for line in done.stdout.splitlines() if line.count("|") == 4]
    numbers = [float(cell) for row in cells if row[0][0].isdigit() for cell in row]
    assert len(numbers) == 2 * (8 + 3)
    assert min(numbers) > 0


# --- two_checkouts.py

two_checkouts = load("gvae_bench_two_checkouts", FOLDER / "two_checkouts.py")


def two(*arguments):
    command = [sys.executable, FOLDER / "two_checkouts.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.nightly
def test_two_checkouts(tmp_path):
    """Of this tree, so that everything but noise is the same."""
    few = ["--small", "--rounds", "3", "--seconds", "0.02", "--starts", "1"]
    tree = str(FOLDER.parent)
    done = two(tree, tree, "--family", "diagonal", *few, "--json", tmp_path / "out.json")
    assert done.returncode in (0, 1), done.stderr
    lines = done.stdout.splitlines()
    content = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert content["other"] == tree
    of = {r["quantity"]: r for r in content["results"]}
    assert list(of) == list(two_checkouts.QUANTITIES)
    assert {line.count("|") for line in lines[: 2 + len(of)]} == {10}
    for r, line in zip(of.values(), lines[2:], strict=False):
        assert r["quantity"] in line
        assert r["rounds"] == (3 if r["quantity"] == "step" else 1)
        assert 0 < r["low"] <= r["ratio"] <= r["high"]
        assert 0 < r["spread_low"] <= r["spread"] <= r["spread_high"]
    assert of["import"]["base"] < of["start"]["base"]
    assert 20 < of["memory"]["base"] < 1000
    assert of["step"]["base"] < 1e3 * of["start"]["base"]


def test_two_checkouts_judge_by_the_spread():
    def of(other, again=(9.0, 11.0, 10.0)):
        return two_checkouts.result("chain", "step", "ms", {"BASE": [10.0] * 3, "BASE again": again, "OTHER": other})

    found = of([10.0, 30.0, 11.0])  # the spread: 10 to 90 % of 0.9, 1.1 and 1.0, and of their inverses
    assert (found.base, found.other, found.ratio, found.spread) == (10, 11, 1.1, 1)
    assert (found.spread_low, found.spread_high) == pytest.approx((0.92, 1.08))
    assert found.is_worse
    assert not of([10.85, 30.0, 1.0]).is_worse  # 1 / 0.92 is 1.087
    assert not of([10.05] * 3, [10.0] * 3).is_worse
    assert of([10.2] * 3, [10.0] * 3).is_worse
    assert [line.split("|")[-2].strip() for line in two_checkouts.markdown([found])][2:] == ["slower"]


def test_two_checkouts_of_nothing():
    done = two("no-such-commit")
    assert done.returncode == 2
    assert "'no-such-commit' is neither a commit of" in done.stderr


# --- run.py


def test_names_of_machines():
    def name(cpu, vectors="avx2", cores=4):
        return run.name_of({"cpu": cpu, "vectors": vectors, "cores": cores})

    assert name("Intel(R) Xeon(R) Processor", "avx512", 2) == "intel-xeon-avx512-2core"
    assert name("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz") == "intel-core-i7-8550u-avx2-4core"
    facts = run.machine()
    assert re.fullmatch(r"[a-z0-9-]+-\d+core", run.name_of(facts))
    assert json.loads(json.dumps(facts)) == facts


def test_export_is_what_compare_reads(tmp_path):
    of_asv = {
        "result_columns": ["result", "params", "version", "started_at", "duration", "stats_ci_99_a"],
        "results": {SOLVE: [[1.23456789e-5, None, float("nan"), 2.0], PARAMS, "a" * 64, 0, 1.0, [float("-inf")] * 4]},
    }
    path = tmp_path / "out.json"
    path.write_text(run.export(of_asv, {"name": "x", "machine": {"cpu": "y"}}), encoding="utf-8")
    values, versions, _, content = compare.read(str(path))
    assert values == {f"{SOLVE}('gvae', 16)": 1.2346e-05, f"{SOLVE}('scipy', 256)": 2.0}
    assert set(versions.values()) == {"a" * 12}
    assert content["name"] == "x"
    assert not re.search("NaN|Infinity", path.read_text(encoding="utf-8"))


def test_configuration_of_asv():
    text = (FOLDER / "asv.conf.json").read_text(encoding="utf-8")
    configuration = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert (FOLDER / configuration["benchmark_dir"]).is_dir()
    assert (FOLDER / configuration["repo"]).resolve() == FOLDER.parent
