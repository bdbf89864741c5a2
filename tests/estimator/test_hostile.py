"""Hostile input: settings, command lines, data files and run folders that no careful person would make.

It works, or a GvaeError says what is wrong; on the command line that is one line and exit code 2.
Nothing outside the run folder is touched, and memory grows with what a file holds, not with what its header says.

500 examples of each kind; more with GVAE_FUZZ_EXAMPLES=20000, then drawn anew every time.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from run_cases import SETTINGS, X, after

import gvae
from gvae import VAE, cli, data, families, objectives
from gvae.errors import GvaeError
from gvae.ops.sparse import is_csr
from gvae.training import Checkpoint, encode, load_checkpoint
from gvae.training.checkpoint import decode

EXAMPLES = int(os.environ.get("GVAE_FUZZ_EXAMPLES", "50"))
ROOM = 48e6  # bytes: some of the chunks that readers read in

fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES <= 500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    phases=set(Phase) - {Phase.explain},  # which keeps traces of many thousand examples, gigabytes of them
)


@pytest.fixture(autouse=True)
def quiet():
    """What is warned of is not the point here."""
    logging.getLogger("gvae").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("gvae").setLevel(logging.NOTSET)


def listing(folder):
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in Path(folder).rglob("*")}


@contextlib.contextmanager
def little_memory(room=ROOM):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < room
    finally:
        tracemalloc.stop()


# ---- settings ------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.integers(10**12, 10**40),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from([1j, object, b"x", np.float32(0.5), np.int8(3), np.array([1, 2]), np.array(2), 10**400]),
)
NUMBERS = ["", "1", "2", "0", "-1", "2x2", "1x4", "0x4", "x", "1.5", "9" * 30, "4x4x4", "²"]
SIZES = st.sampled_from(["", *(f":{number}" for number in NUMBERS)])
NAMES = [*families.FAMILIES, *objectives.OBJECTIVES, *data.BINARIZATIONS]
NAMES += ["cosine", "plateau", "ema", "swa", "skip", "rollback", "auto"]
WORDS = st.builds(lambda name, size: name + size, st.sampled_from(NAMES), SIZES)
LEGAL = {
    "latent": st.sampled_from([1, 2, 4]),
    "posterior": st.sampled_from(["chain", "diagonal", "grid:2x2", "extended_grid", "full", "ar1", "lowrank:2", "band:9"]),
    "hidden": st.lists(st.integers(1, 4), max_size=2),
    "samples": st.integers(1, 3),
    "epochs": st.integers(1, 2),
    "steps": st.one_of(st.none(), st.integers(1, 3)),
    "batch_size": st.integers(5, 50),
    "learning_rate": st.sampled_from([1e-300, 1e-3, 1.0, 1e3, 1e30]),
    "schedule": st.sampled_from(["cosine", "iwae", "plateau", "plateau:1", "cosine:2"]),
    "average": st.sampled_from([None, "ema", "ema:0.5", "swa", "swa:2"]),
    "clip": st.sampled_from([None, 1e-30, 1, 1e300]),
    "on_nonfinite": st.sampled_from(["stop", "skip", "rollback"]),
    "patience": st.sampled_from([None, 1, 2]),
    "objective": st.sampled_from(["elbo", "elbo_a", "elbo_b", "iwae"]),
    "observation": st.sampled_from(["auto", "bernoulli", "gaussian", "chain"]),
}


@st.composite
def settings_of_a_vae(draw):
    chosen = {name: draw(legal) for name, legal in LEGAL.items() if draw(st.booleans())}
    for name in draw(st.lists(st.sampled_from(sorted(VAE().get_params())), max_size=2)):
        chosen[name] = draw(st.one_of(ODD, WORDS))
    return {"epochs": 1, "latent": 2, "hidden": (3,), "batch_size": 20} | chosen | {"verbose": False}


@fuzz
@given(settings_of_a_vae(), st.booleans())
def test_settings(chosen, grey):
    rows = X if grey else 3 * X - 1
    with contextlib.suppress(GvaeError):
        model = VAE(**chosen).fit(rows, validation=rows[:5], stop=after(20))  # 10^30 epochs are legal
        assert model.transform(rows).shape[0] == len(rows)


# ---- the command line ----------------------------------------------------------------------------

ARGUMENTS = [
    "1",
    "2",
    "0",
    "-1",
    "0.5",
    "nan",
    "inf",
    "1e400",
    "",
    " ",
    "--",
    "-",
    "rows.npy",
    "run",
    "bad",
    "/",
    ".",
    "\0",
    "é",
]
VALUES = st.one_of(WORDS, st.sampled_from(ARGUMENTS), st.text(max_size=6), st.integers(10**12, 10**40).map(str))
FLAGS = {  # but for what may make a run or an evaluation as long as one likes
    name: [
        action.option_strings[-1]
        for action in parser._actions
        if action.option_strings and action.dest not in ("epochs", "steps", "samples" if name == "evaluate" else "")
    ]
    for name, parser in next(a for a in cli.build_parser()._actions if a.dest == "command").choices.items()
    if name in ("train", "evaluate", "sample", "runs")
}


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from(sorted(FLAGS)))
    begin = {
        "train": st.sampled_from([["rows.npy", "--out", "new"], ["--resume", "run"], ["rows.csv", "--out", "new"], []]),
        "evaluate": st.sampled_from([["run", "--samples", "2"], ["bad"], []]),
        "sample": st.sampled_from([["run", "--out", "new/s.npy"], ["run", "--out", "s.npy"], []]),
        "runs": st.sampled_from([[], ["."], ["run"]]),
    }[name]
    words = [name, *draw(begin)]
    if name == "train" and "--resume" not in words:
        words += ["--epochs", "1", "--latent", "2", "--hidden", "3"]
    for flag in draw(st.lists(st.sampled_from(FLAGS[name]), max_size=3)):
        words.append(flag)
        words += draw(st.lists(VALUES, max_size=2))
    return words + draw(st.lists(VALUES, max_size=1))


@pytest.fixture(scope="module")
def folder():
    """Rows, a run that is finished and one that is damaged; in memory, if possible, to spare the waits for a disk."""
    folder = Path(tempfile.mkdtemp(prefix="gvae-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    np.save(folder / "rows.npy", X)
    (folder / "rows.csv").write_text("1,2,3\n4,5,6\n")
    VAE(**SETTINGS).fit(X, run=folder / "run", notes={"data": str(folder / "rows.npy")})
    shutil.copytree(folder / "run", folder / "bad")
    for name in ("checkpoint.safetensors", "checkpoint.previous.safetensors"):
        (folder / "bad" / name).write_bytes(b"bad")
    yield folder
    shutil.rmtree(folder)


def command(words):
    """(exit code, stdout, stderr) of `gvae ...` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as exit:
            code = exit.code
    return code, out.getvalue(), err.getvalue()


@fuzz
@given(command_lines())
def test_command_lines(folder, monkeypatch, words):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GVAE_DATA_DIR", raising=False)
    before = listing(folder)
    code, out, err = command(words)
    assert code in (0, 2), err
    if code:
        assert err.startswith("gvae")
        assert err.count("\n") == 1
    assert "Traceback" not in out + err
    made = listing(folder).keys() - before.keys()
    for path in made:
        assert not path.is_absolute()
        target = folder / path
        if target.is_dir():
            shutil.rmtree(target)
        elif target.exists():
            target.unlink()
    if code:
        assert made == set(), made
    elif words[0] in ("evaluate", "sample", "runs"):
        assert len(made) <= 1
    else:
        assert all(len(path.parts) <= 2 for path in made)
    assert {path: content for path, content in listing(folder).items() if path.parts[0] != "run"} == {
        path: content for path, content in before.items() if path.parts[0] != "run"
    }


# ---- data files ----------------------------------------------------------------------------------


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def sparse(form):
    buffer = io.BytesIO()
    scipy.sparse.save_npz(buffer, scipy.sparse.coo_array(np.rint(3 * X)).asformat(form), compressed=False)
    return buffer.getvalue()


COLUMNS = {"train_y": X[:, :2], "test_y": X[:3, :2], "train_weight": np.ones(40), "test_weight": np.ones(3)}
GOOD = {
    ".npy": npy(X),
    ".npz": npz(train=X, test=X[:3], labels=np.arange(40), **COLUMNS),
    ".csr.npz": sparse("csr"),
    ".coo.npz": sparse("coo"),
    ".csv": b"a,b,c\n1,2,3\n4,5,6\n7,8,9\n",
    ".feat": b"1 1:2 3:4\n1\n1 2:1\n",
    ".txt": b"1 2 3\n4 5 6\n",
    ".idx": b"\0\0\x08\x03" + struct.pack(">III", 4, 2, 3) + bytes(range(24)),
    "-ubyte": b"\0\0\x0d\x02" + struct.pack(">II", 2, 3) + np.arange(6, dtype=">f4").tobytes(),
}


@st.composite
def mutated(draw, content):
    """Some bytes changed, some cut out, some put in, some of it twice, the end lost."""
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0:
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del content[at : at + draw(st.integers(1, 9))]
            case 2:
                content[at:at] = draw(
                    st.one_of(st.binary(max_size=9), st.sampled_from([b"9" * 20, b"\xff" * 8, b"nan", b"O", b"\n"]))
                )
            case 3:
                content[at:at] = content[at : at + 50]
            case 4:
                del content[at:]
    return bytes(content)


@st.composite
def files(draw):
    suffix = draw(st.sampled_from(sorted(GOOD)))
    content = draw(st.one_of(mutated(GOOD[suffix]), st.binary(max_size=60)))
    if not suffix.endswith(".npz") and draw(st.booleans()):
        packed = gzip.compress(content, mtime=0)
        return f"{suffix}.gz", draw(mutated(packed)) if draw(st.booleans()) else packed
    return suffix, content


@fuzz
@given(files())
def test_data_files(folder, file):
    suffix, content = file
    path = folder / f"hostile{suffix}"
    path.write_bytes(content)
    with little_memory(), contextlib.suppress(GvaeError):
        dataset = data.load(path)
        assert dataset.train.ndim == dataset.test.ndim == 2
        for part in (dataset.train, dataset.test):
            assert np.isfinite(part.data if is_csr(part) else part).all()
        assert all(len(part) for parts in dataset.columns.values() for part in parts)
    path.unlink()


@pytest.mark.parametrize("sizes", [(2**31, 2**31), (2**63, 1), (10**30, 10**30), (0, 10**18), (2**40,), (1,) * 300])
def test_headers_that_announce_much(folder, sizes):
    """The header of .npy and idx, alone, packed, and within .npz."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {sizes!r}, }}".encode()
    arrays = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(100)
    idx = (
        b"\0\0\x0e"
        + bytes([min(len(sizes), 255)])
        + b"".join(struct.pack(">I", min(n, 2**32 - 1)) for n in sizes)
        + bytes(100)
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.npy", arrays)
    for suffix, content in (
        (".npy", arrays),
        (".npy.gz", gzip.compress(arrays)),
        (".npz", archive.getvalue()),
        (".idx", idx),
    ):
        path = folder / f"announces{suffix}"
        path.write_bytes(content)
        with little_memory(), pytest.raises(GvaeError):
            data.load(path)
        path.unlink()


@pytest.mark.parametrize("version", [b"\2\0", b"\3\0", b"\0\0"])
def test_headers_of_npy_that_announce_a_long_header(folder, version):
    arrays = b"\x93NUMPY" + version + struct.pack("<I", 1 << 30) + b"{'descr': '<f8', "
    for suffix, content in ((".npy", arrays), (".npy.gz", gzip.compress(arrays))):
        path = folder / f"announces{suffix}"
        path.write_bytes(content)
        with little_memory(), pytest.raises(GvaeError, match=r"damaged \.npy header"):
            data.load(path)
        path.unlink()


@pytest.mark.parametrize("kind", ["npy", "npz", "sparse", "csv", "feat", "idx", "gz", "checkpoint", "run"])
def test_readers_under_a_coverage_guided_fuzzer(kind, tmp_path):
    """Shortly, where atheris is there (extra `fuzz`)."""
    pytest.importorskip("atheris")
    paths = os.pathsep.join([str(Path(gvae.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    script = Path(__file__).parents[1] / "fuzz_readers.py"
    command = [sys.executable, str(script), kind, f"-runs={2 * EXAMPLES}", "-seed=1"]
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


# ---- checkpoints and run folders -----------------------------------------------------------------


@fuzz
@given(st.data())
def test_bytes_of_a_checkpoint(folder, drawn):
    good = (folder / "run" / "checkpoint.safetensors").read_bytes()
    content = drawn.draw(mutated(good))
    with little_memory():
        try:
            decode(content)
        except ValueError:
            return
    assert content == good


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-2, 5), st.integers(10**9, 10**30), st.floats(), st.text(max_size=5), WORDS
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)


def places(value, path=()):
    """All places in a nested dict."""
    for key, inner in value.items():
        yield (*path, key)
        if isinstance(inner, dict):
            yield from places(inner, (*path, key))


def forge(draw, value):
    """A nested dict with something changed, taken away or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, 3))):
        *path, key = draw(st.sampled_from(list(places(value)) or [("x",)]))
        inner = value
        for step in path:
            inner = inner[step]
        match draw(st.integers(0, 3)):
            case 0:
                inner.pop(key, None)
            case 1:
                inner[draw(st.text(max_size=4))] = draw(JSON)
            case _:
                inner[key] = draw(JSON)
    return value


def forged_tensors(draw, tensors):
    tensors = dict(tensors)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(tensors)))
        match draw(st.integers(0, 4)):
            case 0:
                del tensors[name]
            case 1:
                tensors[name] = tensors[name].astype(np.float64)
            case 2:
                tensors[name] = tensors[name].reshape(-1)[:-1]
            case 3:
                tensors[draw(st.text(max_size=12))] = np.zeros((0, 10**9), np.float32)
            case 4:
                tensors[name] = np.full_like(tensors[name], np.nan if tensors[name].dtype.kind == "f" else -1)
        if not tensors:
            break
    return tensors


@fuzz
@given(st.data())
def test_forged_runs(folder, drawn):
    """With a checksum that fits: loaded, continued, listed."""
    run = folder / "forged"
    shutil.copytree(folder / "run", run, dirs_exist_ok=True)
    tensors, config, counters = load_checkpoint(run / "checkpoint.safetensors")
    config, counters = forge(drawn.draw, config), forge(drawn.draw, counters)
    (run / "checkpoint.safetensors").write_bytes(encode(Checkpoint(forged_tensors(drawn.draw, tensors), config, counters)))
    if drawn.draw(st.booleans()):
        (run / "config.json").write_text(json.dumps(config))
    if drawn.draw(st.booleans()):
        (run / "config.json").write_bytes(drawn.draw(mutated((run / "config.json").read_bytes())))
    if drawn.draw(st.booleans()):
        (run / "log.jsonl").write_bytes(drawn.draw(mutated((run / "log.jsonl").read_bytes())))
    if drawn.draw(st.booleans()):
        (run / "checkpoint.previous.safetensors").unlink()
    before = listing(folder)
    with little_memory(), contextlib.suppress(GvaeError):
        gvae.load(run).transform(X)
    code, _, err = command(["runs", str(run), *(["--json"] if drawn.draw(st.booleans()) else [])])
    assert (code, err) == (0, "")
    with contextlib.suppress(GvaeError):
        VAE(**SETTINGS | {"epochs": 4}).fit(X, run=run, resume=True, stop=after(2))
    outside = {path: content for path, content in before.items() if path.parts[0] != "forged"}
    assert {path: content for path, content in listing(folder).items() if path.parts[0] != "forged"} == outside
    shutil.rmtree(run)


@pytest.mark.parametrize(
    "change",
    [
        {"latent": 4000, "posterior": "full"},
        {"hidden": [4000, 4000]},
        {"posterior": "lowrank:999999", "hidden": [50]},
        {"latent": 400_000},
    ],
    ids=str,
)
def test_a_small_file_of_a_large_model(folder, change):
    """Nothing of the model's size is made before it is known that the file holds as many numbers."""
    tensors, config, counters = load_checkpoint(folder / "run" / "checkpoint.safetensors")
    path = folder / "forged.safetensors"
    path.write_bytes(encode(Checkpoint(tensors, config | {"settings": config["settings"] | change}, counters)))
    with little_memory(8e6), pytest.raises(GvaeError, match=r"needs \d+ parameters or more, and it holds"):
        gvae.load(path)
    path.unlink()


@pytest.mark.parametrize("part", ["settings", "fitted", "notes"])
@pytest.mark.parametrize("value", [None, 3, "x", [], [1], {}])
def test_a_configuration_that_is_none(folder, part, value):
    run = folder / "forged"
    shutil.copytree(folder / "run", run, dirs_exist_ok=True)
    tensors, config, counters = load_checkpoint(run / "checkpoint.safetensors")
    (run / "checkpoint.safetensors").write_bytes(encode(Checkpoint(tensors, config | {part: value}, counters)))
    (run / "config.json").write_text(json.dumps(config | {part: value}))
    for use in (gvae.load, lambda run: VAE(**SETTINGS).fit(X, run=run, resume=True)):
        with contextlib.suppress(GvaeError):
            use(run)
    shutil.rmtree(run)


def test_a_configuration_without_an_observation(folder):
    tensors, config, counters = load_checkpoint(folder / "run" / "checkpoint.safetensors")
    path = folder / "forged.safetensors"
    path.write_bytes(encode(Checkpoint(tensors, config | {"fitted": config["fitted"] | {"observation": None}}, counters)))
    with pytest.raises(GvaeError, match="X: observation is None, expected the family"):
        gvae.load(path)
    path.unlink()


@fuzz
@given(st.data())
def test_forged_configurations_on_the_command_line(folder, monkeypatch, drawn):
    """`gvae train --resume` takes its settings from config.json, before it looks at the checkpoint."""
    monkeypatch.chdir(folder)
    run = folder / "forged"
    shutil.copytree(folder / "run", run, dirs_exist_ok=True)
    config = forge(drawn.draw, json.loads((run / "config.json").read_text()))
    (run / "config.json").write_text(json.dumps(config))
    with contextlib.suppress(KeyError, TypeError):
        if config["settings"]["epochs"] not in (1, 2, 3):
            config["settings"]["epochs"] = 3  # a longer run is legal, and would take its time
            (run / "config.json").write_text(json.dumps(config))
    for words in (["train", "--resume", "forged", "--quiet"], ["evaluate", "forged", "--samples", "1"]):
        code, out, err = command(words)
        assert code in (0, 2)
        if code:
            assert err.count("\n") == 1
            assert out == ""
    shutil.rmtree(run)
