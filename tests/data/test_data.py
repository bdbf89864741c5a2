"""gvae.data: the named data sets, files and arrays of a user's own, and what is refused.

The real files come from GVAE_DATA_DIR, or from shared/data beside the repository. No test touches the network.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import pickle
import sys
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import gvae.data.loaders
import gvae.data.readers
from gvae import random
from gvae.data import Dataset, Table, check_finite, check_support, dataset_names, load
from gvae.data.dataset import assemble
from gvae.data.loaders import noted_folder
from gvae.distributions import Support
from gvae.errors import ConfigError, DataError, DependencyError

REAL = Path(os.environ.get("GVAE_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
MNIST = tuple(gvae.data.loaders.MNIST_FILES)
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test sees the caller's data folder or downloads anything."""
    monkeypatch.delenv("GVAE_DATA_DIR", raising=False)
    if pooch := sys.modules.get("pooch"):
        monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("a download was tried"))


def real(*files):
    """The folder of the real data, if it holds these files."""
    if missing := [file for file in files if not (REAL / file).is_file()]:
        pytest.skip(f"no data folder with {missing[0]}")
    return REAL


def fails(source, *words, **settings):
    """load(source) raises a DataError of one line that holds all the words."""
    with pytest.raises(DataError) as caught:
        load(source, **settings)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def dumped(save, *args, **kwargs) -> bytes:
    stream = io.BytesIO()
    save(stream, *args, **kwargs)
    return stream.getvalue()


def idx(x, code=8, shape=None) -> bytes:
    x = np.asarray(x)
    sizes = np.array(x.shape if shape is None else shape, ">u4")
    return bytes([0, 0, code, len(sizes)]) + sizes.tobytes() + x.tobytes()


def npy(x, **header) -> bytes:
    """x as .npy, the entries of its header replaced by others."""
    entries = {"descr": x.dtype.str, "fortran_order": False, "shape": x.shape} | header
    text = f"{entries!r}\n".encode("latin1")
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + x.tobytes()


def label(value):
    """Test ids without raw bytes."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else None


def put(folder, name, content) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", ">i4", "i8", "u8", "f2", "f4", ">f4", "g"])
def test_array_becomes_c_contiguous_float(dtype):
    x = np.asfortranarray(rng.integers(0, 2, (25, 3)).astype(dtype))
    before = x.copy()
    d = load(x)
    assert_array_equal(x, before)
    wanted = np.float64 if dtype == "g" else np.float32
    assert d.train.dtype == d.test.dtype == wanted
    assert d.train.flags.c_contiguous
    assert d.test.flags.c_contiguous
    held = np.arange(25) % 10 == 9
    assert_array_equal(d.train, x[~held])
    assert_array_equal(d.test, x[held])
    assert (d.name, d.image_shape, d.train_labels, d.test_labels) == ("array", None, None, None)


@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_float64_stays_float64(dtype):
    x = (rng.normal(size=(12, 2)) * 1e200).astype(dtype)
    d = load(x, name="mine")
    assert d.train.dtype == d.test.dtype == np.float64
    assert d.train.dtype.isnative
    assert_array_equal(np.vstack([d.train[:9], d.test, d.train[9:]]), x)
    assert d.name == "mine"


@pytest.mark.parametrize("n", [1, 9, 10, 11])
def test_few_rows_are_their_own_test_set(n):
    x = np.arange(2.0 * n).reshape(n, 2)
    d = load(x)
    if n < 10:
        assert_array_equal(d.train, x)
        assert_array_equal(d.test, x)
    else:
        assert_array_equal(d.test, x[9:10])
        assert len(d.train) == n - 1
    assert d.held_out == (n >= 10)
    assert assemble("a", "a", x, x).held_out


@pytest.mark.parametrize("n", [9, 10])
def test_few_rows_of_a_file_that_is_not_read_at_once(n, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(2.0 * n).reshape(n, 2))
    d = load(tmp_path / "x.npy", in_memory=False)
    assert (d.held_out, d.train.shape[0], d.test.shape[0]) == ((False, 9, 9) if n < 10 else (True, 9, 1))


def test_images_are_flattened_and_bytes_above_one_are_grey_levels():
    grey = np.arange(240, dtype=np.uint8).reshape(10, 4, 6)
    d = load(grey)
    assert d.image_shape == (4, 6)
    assert_array_equal(d.train, (grey[:9].reshape(9, 24) / 255.0).astype(np.float32))
    bits = grey % 2
    assert_array_equal(load(bits).train, bits[:9].reshape(9, 24))
    assert_array_equal(load(grey.astype(np.int16)).train, grey[:9].reshape(9, 24))  # only uint8 means grey levels
    few = load(np.asfortranarray(grey[:5].reshape(5, 24)))
    assert few.train.flags.c_contiguous
    assert_array_equal(few.test, d.train[:5])


def test_lists_are_arrays():
    assert_array_equal(load([[1, 2], [3, 4]]).train, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("x", "word"),
    [
        (np.zeros(3), "shape (3,)"),
        (np.zeros((2, 2, 2, 2)), "shape (2, 2, 2, 2)"),
        (np.float64(1), "shape ()"),
        (np.zeros((0, 3)), "no rows"),
        (np.zeros((3, 0)), "no columns"),
        (np.zeros((0, 2, 2)), "no rows"),
        (np.zeros((2, 0, 2)), "no columns"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.zeros((2, 2), object), "object"),
        (np.array([["a", "b"]]), "<U1"),
        (np.zeros(2, "f4,f4"), "not real numbers"),
        (None, "object"),
        ([[1, 2], [3]], "not an array"),
        (np.ma.masked_array(np.ones((2, 2)), [[0, 0], [0, 1]]), "masked"),
    ],
)
def test_array_that_is_no_matrix_of_numbers(x, word):
    fails(x, "array: ", word)


def test_not_finite_names_the_first_place_and_the_count():
    x = np.zeros((12, 5), np.float32)
    x[10, 0], x[3, 2], x[3, 4] = np.inf, np.nan, -np.inf
    fails(x, "row 3, column 2", "counted from 0", "3 in all", "nan")
    fails(np.asfortranarray(x), "row 3, column 2", "3 in all")
    fails(x.reshape(12, 5, 1), "row 3, column 2")
    fails(np.full((2, 2), np.finfo("g").max), "row 0, column 0", "4 in all", "inf")  # a long double beyond float64


def test_check_finite_alone():
    check_finite(np.zeros((2, 2)))
    check_finite(np.zeros((0, 2)))
    check_finite(np.arange(3))
    check_finite(np.full((2, 2), np.finfo("f8").max))
    with pytest.raises(DataError, match=r"counts: .*row 1, column 0"):
        check_finite(np.array([0, np.nan]), "counts")
    with pytest.raises(DataError, match="complex"):
        check_finite(np.zeros((2, 2), complex))


def test_check_support():
    unit = Support(0, 1)
    check_support(np.array([[0, 1], [0.5, 1]]), unit)
    check_support(np.array([[True]]), unit)
    check_support(np.zeros((0, 4)), unit)
    with pytest.raises(DataError, match="1 in all, the first, -1, at row 0, column 1"):
        check_support(np.array([[0, -1]]), unit)
    x = np.zeros((4, 3))
    x[1, 2], x[2, 0] = 1.5, -0.25
    with pytest.raises(DataError, match=r"pixels: .*2 in all, the first, 1\.5, at row 1, column 2 \(counted from 0\)"):
        check_support(x, unit, "pixels")
    x[0, 1] = np.nan
    with pytest.raises(DataError, match=r"3 in all, the first, nan, at row 0, column 1"):
        check_support(x, unit)
    with pytest.raises(DataError, match=r"the first, 255, at row 0, column 1"):
        check_support(np.array([[0, 255]], np.uint8), unit)
    with pytest.raises(DataError, match=r"data: values outside 0, 1, ..: 2 in all, the first, 0.5, at row 0, column 1"):
        check_support(np.array([[3, 0.5], [-1, 2]]), Support(0, whole=True))
    with pytest.raises(DataError, match=r"values outside \(0, 1\): 1 in all, the first, 1.0, at row 0, column 1"):
        check_support(np.array([[0.5, 1]]), Support(0, 1, open=True))
    check_support(np.array([[-5.0, 1e9]]), Support())


def test_dequantization_is_uniform_within_a_level_and_anew_at_every_presentation():
    levels = rng.integers(0, 17, size=(200, 50))
    table = Table((levels / 16).astype(np.float32), dequantize=17)
    first, again, other = (table.batch(np.arange(200), random.key(k)).x for k in (0, 0, 1))
    assert first.dtype == np.float32
    assert_array_equal(np.floor(first * 17), levels)
    assert_array_equal(first, again)
    u = first * 17 - levels
    assert abs(u.mean() - 0.5) < 5 * (12 * u.size) ** -0.5
    assert abs(np.corrcoef(u.ravel(), (other * 17 - levels).ravel())[0, 1]) < 5 * u.size**-0.5
    with pytest.raises(ConfigError, match="dequantization needs"):
        Table(first, dequantize=17, binarize="fixed")


# ---- named data sets -----------------------------------------------------------------------------


def test_names():
    assert dataset_names() == (
        *("digits", "mnist", "noisy_mnist", "binarized_mnist", "omniglot", "frey_faces"),
        *("20news", "olivetti", "nips_counts"),
    )


def test_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    d = load("digits", data_dir="/nowhere")
    x, y = datasets.load_digits(return_X_y=True)
    held = np.arange(1797) % 6 == 5
    assert (d.name, d.image_shape, d.train.shape, d.test.shape) == ("digits", (8, 8), (1498, 64), (299, 64))
    assert d.train.dtype == np.float32
    for part, labels, rows in ((d.train, d.train_labels, ~held), (d.test, d.test_labels, held)):
        assert_array_equal(part, x[rows] / 16)
        assert_array_equal(labels, y[rows])
    check_support(d.train, Support(0, 1))


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DependencyError, match=r"pip install 'gvae\[demo\]'"):
        load("digits")


def test_real_mnist(monkeypatch):
    monkeypatch.setenv("GVAE_DATA_DIR", str(real(*(f"mnist/{file}.gz" for file in MNIST))))
    d = load("mnist")
    assert (d.name, d.image_shape, d.train.shape, d.test.shape) == ("mnist", (28, 28), (60_000, 784), (10_000, 784))
    assert d.train.dtype == d.test.dtype == np.float32
    assert d.train.mean(dtype=np.float64) == pytest.approx(0.13066, abs=5e-6)
    assert (d.train.min(), d.train.max()) == (0, 1)
    assert d.train_labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(d.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(d.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_real_binarized_mnist():
    files = [f"binarized_mnist/binarized_mnist_{part}.amat.gz" for part in ("train", "test")]
    d = load("binarized_mnist", data_dir=real(*files))
    assert (d.image_shape, d.train.shape, d.test.shape) == ((28, 28), (50_000, 784), (10_000, 784))
    assert d.train.mean(dtype=np.float64) == pytest.approx(0.130562, abs=5e-7)
    assert d.test.mean(dtype=np.float64) == pytest.approx(0.132512, abs=5e-7)
    assert ((d.test == 0) | (d.test == 1)).all()


def test_real_omniglot():
    d = load("omniglot", data_dir=real("omniglot/omniglot_28x28_derived.npz"))
    assert (d.image_shape, d.train.shape, d.test.shape) == ((28, 28), (24_345, 784), (8_070, 784))
    assert d.train.mean(dtype=np.float64) == pytest.approx(0.0805, abs=5e-5)
    assert d.train_labels.shape == (24_345,)
    assert max(d.train_labels.max(), d.test_labels.max()) == 1622


def test_real_frey_faces():
    path = real("frey_faces/freyfaces.npy") / "frey_faces" / "freyfaces.npy"
    d = load("frey_faces", data_dir=path.parent)  # the folder itself, too
    assert (d.image_shape, d.train.shape, d.test.shape) == ((28, 20), (1765, 560), (200, 560))
    order = np.random.RandomState(0).permutation(1965)
    faces = np.load(path).reshape(1965, 560)
    assert_array_equal(d.test, (faces[order[1765:]] / 255.0).astype(np.float32))
    assert_array_equal(np.sort(np.vstack([d.train, d.test]).sum(1)), np.sort((faces / np.float32(255)).sum(1)))


def test_real_20news():
    d = load("20news", data_dir=real("20news/train.feat", "20news/test.feat", "20news/vocab.new"))
    assert (d.train.shape, d.test.shape, d.train.format, d.train.dtype) == ((11_259, 1995), (7488, 1995), "csr", np.float32)
    assert (d.train.sum(dtype=np.float64), d.test.sum(dtype=np.float64)) == (991_493, 629_312)
    assert [int((np.diff(part.indptr) == 0).sum()) for part in (d.train, d.test)] == [1, 1]
    assert (d.train.max(), d.test.max()) == (549, 210)
    assert len(d.names) == 1995
    assert d.names[0] == "_eos_"
    assert d.train[:, [0]].nnz == d.test[:, [0]].nnz == 0
    # words that are near: of those that occur in 50 documents, by the cosine of their columns
    seen = (d.train > 0).astype(np.float64).tocsc()
    often = np.flatnonzero(np.diff(seen.indptr) >= 50)
    j = d.names.index("encryption")
    near = (seen.T @ seen[:, [j]]).toarray()[often, 0] / np.sqrt(np.diff(seen.indptr)[often])
    assert {d.names[i] for i in often[np.argsort(-near)[:5]]} >= {"encryption", "clipper", "key", "secure"}


def test_real_olivetti():
    d = load("olivetti", data_dir=real("olivetti/olivettifaces.mat"))
    assert (d.image_shape, d.train.shape, d.test.shape) == ((64, 64), (320, 4096), (80, 4096))
    assert d.train.dtype == np.float32
    assert (d.test.min(), d.test.max()) == (1, 238)  # counts
    face = d.train[0].reshape(64, 64)  # upright: left and right are alike, top and bottom are not
    assert np.corrcoef(face.ravel(), face[:, ::-1].ravel())[0, 1] > np.corrcoef(face.ravel(), face[::-1].ravel())[0, 1] + 0.2


def test_real_nips_counts():
    d = load("nips_counts", data_dir=real("nips_counts/nips_train.csv.gz", "nips_counts/nips_test.csv.gz"))
    assert (d.train.shape, d.test.shape, d.train.format) == ((305, 5715), (305, 5715), "csr")
    assert (d.train.sum(dtype=np.float64), d.test.sum(dtype=np.float64)) == (490_005, 122_503)


def small_news(folder, train=b"1 2:3 3:1\n1\n1 3:2 3:4\n", vocabulary=b"a 0\nb 0\nc 0\n"):
    (folder / "train.feat").write_bytes(train)
    (folder / "test.feat").write_bytes(b"1 1:5\n")
    (folder / "vocab.new").write_bytes(vocabulary)


def test_20news_in_small(tmp_path):
    """A document without words; counts of one word twice in a document add up."""
    small_news(tmp_path)
    d = load("20news", data_dir=tmp_path)
    assert_array_equal(d.train.toarray(), [[0, 3, 1], [0, 0, 0], [0, 0, 6]])
    assert_array_equal(d.test.toarray(), [[5, 0, 0]])
    assert d.names == ("a", "b", "c")
    direct = load(tmp_path / "train.feat")
    assert_array_equal(direct.train.toarray(), d.train.toarray())


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"1 4:1\n", "line 1: ids 4 to 4, expected ids in 1 to 3 and counts of at least 1"),
        (b"1 0:1\n", "line 1: ids 0 to 0, expected ids in 1 to 3"),
        (b"1 2:1\n1 1:0\n", "line 2: ids 1 to 1, expected ids in 1 to 3 and counts of at least 1"),
        (b"1 2:1\n1 1:1.5\n", "line 2: '1:1.5', expected a number and then id:count"),
        (b"1 2:-1\n", "line 1: '2:-1', expected"),
        (b"1 2\n", "line 1: '2', expected"),
        (b"1 1:2  2:2\n", "line 1: "),
        (b"1 1:2\n\n1 1:2\n", "line 2: '', expected"),
        (b"one 1:2\n", "line 1: 'one', expected"),
        (b"1\n1\n", "no counts"),
        (b"", "empty file"),
    ],
)
def test_20news_damaged(tmp_path, train, message):
    small_news(tmp_path, train)
    fails("20news", "train.feat", message, data_dir=tmp_path)


def test_other_files_under_the_names_of_counts(tmp_path):
    small_news(tmp_path, vocabulary=b"a 0\n\nc 0\n")
    fails("20news", "vocab.new", "line 2 is empty", data_dir=tmp_path)
    (tmp_path / "olivettifaces.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    fails("olivetti", "olivettifaces.mat", "not the original file: 19 bytes of another SHA-256", data_dir=tmp_path)
    for name in ("nips_train.csv", "nips_test.csv"):
        (tmp_path / name).write_text("1\t2\n")
    fails("nips_counts", "nips_train.csv", "1 x 2 numbers, expected 305 x 5715 counts", data_dir=tmp_path)


def small_mnist(folder, packed=True, **changed):
    """Twelve training and five test images of 3 x 4 under MNIST's names; `changed` replaces whole files."""
    arrays = [rng.integers(0, 256, shape, np.uint8) for shape in ((12, 3, 4), (12,), (5, 3, 4), (5,))]
    for file, x in zip(MNIST, arrays, strict=True):
        content = changed.get(file, idx(x))
        put(folder, f"{file}.gz" if packed else file, gzip.compress(content) if packed else content)
    return arrays


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("by_variable", [True, False])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_mnist_is_found_in_both_places(tmp_path, monkeypatch, packed, by_variable, below):
    train, train_labels, test, test_labels = small_mnist(tmp_path / below, packed)
    if by_variable:
        monkeypatch.setenv("GVAE_DATA_DIR", str(tmp_path))
    d = load("mnist", data_dir=None if by_variable else str(tmp_path))
    assert_array_equal(d.train, (train.reshape(12, 12) / 255.0).astype(np.float32))
    assert_array_equal(d.test, (test.reshape(5, 12) / 255.0).astype(np.float32))
    assert_array_equal(d.train_labels, train_labels)
    assert_array_equal(d.test_labels, test_labels)
    assert d.image_shape == (3, 4)


def test_the_argument_comes_before_the_variable(tmp_path, monkeypatch):
    first, *_ = small_mnist(tmp_path / "argument")
    second, *_ = small_mnist(tmp_path / "variable")
    monkeypatch.setenv("GVAE_DATA_DIR", str(tmp_path / "variable"))
    assert_array_equal(load("mnist", data_dir=tmp_path / "argument").train, (first / np.float32(255)).reshape(12, 12))
    assert_array_equal(load("mnist").train, (second / np.float32(255)).reshape(12, 12))
    fails("mnist", str(tmp_path), str(tmp_path / "mnist"), data_dir=tmp_path)  # and is not replaced by it
    absent = tmp_path / "absent"
    fails("mnist", f"there is no folder {absent}", data_dir=absent)
    assert noted_folder({"data_dir": str(absent)}) == str(tmp_path / "variable")  # of a run from another machine
    monkeypatch.delenv("GVAE_DATA_DIR")
    assert noted_folder({"data_dir": str(absent)}) == str(absent)  # refused, not downloaded
    assert noted_folder({"data_dir": str(tmp_path)}) == str(tmp_path)
    assert noted_folder({"data_dir": 3}) is noted_folder({}) is None


def test_mnist_is_never_mixed_from_two_folders(tmp_path):
    small_mnist(tmp_path)
    small_mnist(tmp_path / "mnist")
    (tmp_path / f"{MNIST[0]}.gz").unlink()
    load("mnist", data_dir=tmp_path)  # all from the second folder
    (tmp_path / "mnist" / f"{MNIST[1]}.gz").unlink()
    (tmp_path / "mnist" / f"{MNIST[2]}.gz").unlink()
    message = fails("mnist", MNIST[0], f"{tmp_path}, {tmp_path / 'mnist'}", data_dir=tmp_path)
    assert MNIST[1] not in message


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "train-images-idx3-ubyte"),
        ("binarized_mnist", "binarized_mnist_train.amat"),
        ("omniglot", "omniglot_28x28_derived.npz"),
        ("frey_faces", "freyfaces.npy"),
        ("20news", "train.feat"),
        ("olivetti", "olivettifaces.mat"),
        ("nips_counts", "nips_train.csv"),
    ],
)
def test_a_missing_file_is_named_with_the_folders_searched(tmp_path, monkeypatch, name, file):
    fails(name, file, str(tmp_path), str(tmp_path / name), data_dir=tmp_path)
    monkeypatch.setenv("GVAE_DATA_DIR", str(tmp_path / "absent"))
    fails(name, file, str(tmp_path / "absent" / name))
    monkeypatch.setenv("GVAE_DATA_DIR", "")  # as good as not set
    if name != "mnist":
        fails(name, file, "does not download", "--data-dir", "GVAE_DATA_DIR")


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        (MNIST[0], idx(np.zeros(12, np.uint8)), "magic number is 0x00000801, expected 0x00000803"),
        (MNIST[1], idx(np.zeros((12, 3, 4), np.uint8)), "expected 0x00000801"),
        (MNIST[1], idx(np.zeros(11, np.uint8)), "expected integers (12,)"),
        (MNIST[3], idx(np.zeros(6, np.uint8)), "expected integers (5,)"),
        (MNIST[2], idx(np.zeros((5, 4, 3), np.uint8)), "size (3, 4), of test (4, 3)"),
        (MNIST[2], idx(np.zeros((5, 3, 4), np.uint8))[:-1], "truncated"),
        (MNIST[2], idx(np.zeros((5, 3, 4), np.uint8)) + b"\0", "more found"),
    ],
    ids=label,
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_mnist(tmp_path, file, content, word, packed):
    small_mnist(tmp_path, packed, **{file: content})
    fails("mnist", str(tmp_path), word, data_dir=tmp_path)


def test_mnist_download(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")
    train, *_ = small_mnist(tmp_path)
    calls = []

    def retrieve(url, known_hash, fname, path):
        calls.append((url, known_hash, path))
        return str(tmp_path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert_array_equal(load("mnist").train, (train / np.float32(255)).reshape(12, 12))
    assert [url for url, *_ in calls] == [f"https://ossci-datasets.s3.amazonaws.com/mnist/{file}.gz" for file in MNIST]
    assert calls[0][1] == "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    assert all(Path(path) == Path(pooch.os_cache("gvae")) for *_, path in calls)


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("hash of downloaded file differs")])
def test_mnist_download_fails(monkeypatch, error):
    pooch = pytest.importorskip("pooch")

    def retrieve(*_, **__):
        raise error

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    fails("mnist", "cannot download", str(error), "--data-dir", "GVAE_DATA_DIR")


def test_mnist_download_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DependencyError, match=r"pip install 'gvae\[data\]'"):
        load("mnist")


def amat(rows):
    return "".join(" ".join("01"[bit] for bit in row) + "\n" for row in rows)


def test_binarized_mnist_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(gvae.data.loaders, "BINARIZED_ROWS", {"train": 3, "test": 2})
    train, test = rng.integers(0, 2, (3, 784)), rng.integers(0, 2, (2, 784))
    put(tmp_path, "binarized_mnist_train.amat", amat(train))
    good = amat(test)
    put(tmp_path, "binarized_mnist_test.amat.gz", gzip.compress(good.encode()))
    d = load("binarized_mnist", data_dir=tmp_path)
    assert_array_equal(d.train, train)
    assert_array_equal(d.test, test)
    for bad in ("2" + good[1:], good[0] + "," + good[2:], good[:-1] + " ", good[:-2], good + good, "\0" * len(good)):
        put(tmp_path, "binarized_mnist_test.amat", bad)
        fails("binarized_mnist", "binarized_mnist_test.amat", data_dir=tmp_path)


def test_omniglot_in_small(tmp_path):
    images, split = rng.integers(0, 256, (7, 28, 28), np.uint8), np.array([0, 1, 0, 2, 0, 1, 0], np.uint8)
    path, label = tmp_path / "omniglot_28x28_derived.npz", np.arange(7, dtype=np.int16)
    np.savez(path, images=images, split=split, character=label)
    d = load("omniglot", data_dir=tmp_path)
    assert_array_equal(d.train, (images[split == 0] / 255.0).astype(np.float32).reshape(4, 784))
    assert (d.train_labels.tolist(), d.test_labels.tolist()) == ([0, 2, 4, 6], [1, 5])
    np.savez(path, images=images, split=split[:-1], character=label)
    fails("omniglot", str(path), "disagree", data_dir=tmp_path)
    np.savez(path, images=images, split=split * 0, character=label)
    fails("omniglot", str(path), ", test", "no rows", data_dir=tmp_path)
    np.savez(path, images=images)
    fails("omniglot", str(path), "'images'", data_dir=tmp_path)


def test_frey_faces_of_another_shape(tmp_path):
    np.save(tmp_path / "freyfaces.npy", np.zeros((1965, 560), np.uint8))
    fails("frey_faces", "freyfaces.npy", "(1965, 28, 20)", data_dir=tmp_path)


# ---- a user's own files: what is read ------------------------------------------------------------


@pytest.mark.parametrize("x", [rng.normal(size=(23, 4)), rng.normal(size=(9, 2, 3)).astype(">f4"), np.eye(11) > 0])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("suffix", [".npy", ".npy.gz", ".npz"])
def test_numpy_files_equal_the_array(tmp_path, x, order, suffix):
    path = tmp_path / f"my.data{suffix}"
    content = dumped(np.savez_compressed if suffix == ".npz" else np.save, np.asarray(x, order=order))
    put(tmp_path, path.name, gzip.compress(content) if suffix.endswith("gz") else content)
    for source in (path, str(path)):
        d, wanted = load(source), load(x)
        assert_array_equal(d.train, wanted.train)
        assert_array_equal(d.test, wanted.test)
        assert (d.name, d.image_shape, d.train.dtype) == ("my.data", wanted.image_shape, wanted.train.dtype)


def test_npy_of_every_version(tmp_path):
    x = np.arange(6.0).reshape(3, 2)
    for version in ((1, 0), (2, 0), (3, 0)):
        path = put(tmp_path, "x.npy", dumped(np.lib.format.write_array, x, version=version))
        assert_array_equal(load(path).train, x)
    path = put(tmp_path, "x.npy", npy(x).replace(b"(3, 2)}\n", b"(3L,2L)}"))  # as Python 2 wrote it
    assert_array_equal(load(path).train, x)


def test_npz_with_parts_and_labels(tmp_path):
    path, x, y = tmp_path / "p.npz", rng.normal(size=(20, 3)), np.arange(20, dtype=np.uint8)
    np.savez(path, train=x[:15], test=x[15:].astype(np.float32), train_labels=y[:15], test_labels=y[15:], x=np.eye(2))
    d = load(path)
    assert_array_equal(d.train, x[:15])
    assert_array_equal(d.test, x[15:].astype(np.float32))
    assert d.train.dtype == d.test.dtype == np.float64  # the wider of the two
    assert d.train_labels.dtype == np.int64
    assert (d.train_labels.tolist(), d.test_labels.tolist()) == (list(range(15)), list(range(15, 20)))


@pytest.mark.parametrize("key", ["train", "x", "whatever"])
def test_npz_with_one_array_and_labels(tmp_path, key):
    path, x = tmp_path / "p.npz", rng.normal(size=(20, 3))
    np.savez(path, **{key: x}, labels=np.arange(20))
    d = load(path)
    assert_array_equal(d.test, x[[9, 19]])
    assert d.test_labels.tolist() == [9, 19]
    assert len(d.train_labels) == 18


def test_npz_leaves_other_keys_alone(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.eye(3), names=np.array(["a"], object))
    assert_array_equal(load(tmp_path / "p.npz").train, np.eye(3))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_npz_scales_both_parts_alike(tmp_path, dtype):
    bits, grey = np.ones((2, 2), np.uint8), np.full((2, 2), 255, dtype)
    np.savez(tmp_path / "p.npz", train=bits, test=grey)
    np.savez(tmp_path / "q.npz", train=grey, test=bits)
    p, q = load(tmp_path / "p.npz"), load(tmp_path / "q.npz")
    scale = np.float32(255 if dtype == np.uint8 else 1)
    for x, wanted in ((p.train, bits / scale), (p.test, grey / scale), (q.train, grey / scale), (q.test, bits / scale)):
        assert_array_equal(x, wanted)


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ('"alpha","b"', ("alpha", "b")),
        ('"alpha","b, c"', ("alpha", "b, c")),
        ('"b, 2, c", "say ""x"""', ("b, 2, c", 'say "x"')),
        ('"2019","2020"', ("2019", "2020")),  # a quoted number is a name
        ('alpha , "b"', ("alpha", "b")),
        ('# "alpha","b"', ("alpha", "b")),
        ('"alpha"  "b c"', ("alpha", "b c")),
        ('"alpha"\t"b"', ("alpha", "b")),
        ('"alpha","b","c"', None),
        ("# 1 2", None),
    ],
)
def test_quoted_names(heading, names, tmp_path):
    """As R and spreadsheets write them."""
    (tmp_path / "t.csv").write_text(f"{heading}\n1,2\n3,4\n")
    d = load(tmp_path / "t.csv")
    assert_array_equal(d.train, [[1, 2], [3, 4]])
    assert d.names == names


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1).map(str.strip), min_size=1))
def test_what_csv_writes_is_read(names):
    """Names of any characters, in the quotes of Python's csv."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerow(names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.csv")
        path.write_text(text.getvalue() + ",".join("1" * len(names)) + "\n", encoding="utf-8", newline="")
        assert load(path).names == tuple(names)


@pytest.mark.parametrize("suffix", ["csv", "txt", "csv.gz", "TXT"])
@pytest.mark.parametrize(
    "text",
    [
        "1,2.5\n-3e-1, 4\n",
        "1 2.5\n-.3\t4",
        "a,b\n1,2.5\n-.3,4\n\n\n",
        "\ufeff1,2.5\r\n-.3,4\r\n",
        "# 2 columns\n1 2.5\n -0.3 4 \n",
    ],
)
def test_text(tmp_path, suffix, text):
    path = put(tmp_path, f"t.{suffix}", gzip.compress(text.encode()) if suffix.endswith("gz") else text)
    d = load(path)
    assert_array_equal(d.train, np.array([[1, 2.5], [-0.3, 4]], np.float32))
    assert (d.train.dtype, d.name) == (np.float32, "t")


@pytest.mark.parametrize("name", ["x.idx", "x.idx.gz", "x-idx3-ubyte", "x.idx3-ubyte.gz"])
def test_idx(tmp_path, name):
    x = rng.integers(0, 256, (11, 2, 3), np.uint8)
    d = load(put(tmp_path, name, gzip.compress(idx(x)) if name.endswith("gz") else idx(x)))
    assert_array_equal(d.test, (x[9:10] / 255.0).astype(np.float32).reshape(1, 6))
    assert d.image_shape == (2, 3)


@pytest.mark.parametrize(("code", "dtype"), [(9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_idx_of_other_types(tmp_path, code, dtype):
    x = np.arange(-3, 3).reshape(3, 2).astype(dtype)
    assert_array_equal(load(put(tmp_path, "x.idx", idx(x, code))).train, x)


# ---- a user's own files: what is refused ---------------------------------------------------------

EYE = np.eye(12)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        # text; lines and columns count from 1
        ("t.csv", "1,2\n3,\n", ["line 2, column 2", "empty cell"]),
        ("t.csv", "1,,2\n", ["line 1, column 2", "empty cell"]),
        ("t.csv", "a,\n1,2\n", ["line 1, column 1", "'a'"]),
        ("t.csv", "1,2\n3,x y\n", ["line 2, column 2", "'x y'"]),
        ("t.csv", "a,b\n3,4\nc,d\n", ["line 3, column 'a'", "'c'"]),
        ("t.csv", ",b\n1,2\n", ["line 1, column 1", "empty cell"]),
        ("t.csv", "a,1\n3,4\n", ["line 1, column 1", "'a'"]),
        ("t.csv", "1;2\n3;4\n", ["line 2, column '1;2'", "'3;4'"]),
        ("t.csv", "1,2_000\n", ["line 1, column 2", "'2_000'"]),
        ("t.txt", "1 2\n3 4 5\n", ["line 2 has 3 numbers", "have 2"]),
        ("t.txt", "1 2\n\n \n3 4\n", ["line 2 is empty"]),
        ("t.txt", "\n", ["no rows"]),
        ("t.csv", "a,b\n", ["no rows"]),
        ("t.csv", "a,b\n1,2\n3,nan\n", ["row 1 (counted from 0), column 'b'"]),
        ("t.csv", "1,2\n3,nan\n", ["row 1, column 1 (counted from 0)"]),
        ("t.csv", 'a,"b, c"\n1,2\n3,\n', ["line 3, column 'b, c': empty cell"]),
        ("t.csv", "a,b\n1,2\n3,4,x\n", ["line 3, column 3: 'x' is not a number"]),
        ("t.csv", "1,2\n1e300,2\n", ["row 1, column 0", "inf"]),  # beyond float32
        ("t.csv", b"1,2\n\xff,3\n", ["damaged"]),
        ("t.csv.gz", gzip.compress(b"1,2\n" * 99)[:-9], ["damaged"]),
        # .npy
        ("x.npy", dumped(np.save, np.array([[1, "a"]], object)), ["pickled arrays are refused"]),
        ("x.npy", pickle.dumps(np.eye(2)), ["pickled arrays are refused"]),
        ("x.npy", dumped(np.save, EYE.astype(complex)), ["'<c16' is not real numbers"]),
        ("x.npy", dumped(np.save, np.array([["a"]])), ["'<U1'"]),
        ("x.npy", dumped(np.save, np.zeros(3, "f4,f4")), ["not a plain array"]),
        ("x.npy", dumped(np.save, EYE)[:-1], ["announced"]),
        ("x.npy", dumped(np.save, EYE) + b"\0", ["more found"]),
        ("x.npy", dumped(np.save, EYE)[:20], ["damaged"]),
        ("x.npy", b"\x93NUMPY", ["not a .npy file"]),
        ("x.npy", b"hello", ["not a .npy file"]),
        ("x.npy", dumped(np.savez, EYE), ["not a .npy file"]),
        ("x.npy", dumped(np.save, np.zeros((0, 3))), ["no rows"]),
        ("x.npy", dumped(np.save, np.zeros((3, 0))), ["no columns"]),
        ("x.npy", dumped(np.save, np.zeros(3)), ["shape (3,)"]),
        ("x.npy", dumped(np.save, EYE * np.nan), ["row 0, column 0", "144 in all"]),
        ("x.npy", npy(EYE, shape=(-12, 12)), ["damaged"]),
        ("x.npy", npy(EYE, shape=(10**9, 10**9)), ["announced"]),
        ("x.npy", npy(EYE, descr="<f3"), ["'<f3'"]),
        ("x.npy.gz", gzip.compress(dumped(np.save, EYE))[:-12], ["damaged"]),
        ("x.npy.gz", dumped(np.save, EYE), ["damaged"]),
        # .npz
        (
            "x.npz",
            dumped(np.savez, a=EYE, b=EYE),
            ["keys 'a', 'b'; expected 'train' (and, if", "or 'x' (and 'y', ..), or a"],
        ),
        ("x.npz", dumped(np.savez, labels=np.arange(12)), ["'labels'"]),
        ("x.npz", dumped(np.savez, test=EYE, test_labels=EYE, b=EYE), ["'test', 'test_labels', 'b'"]),
        ("x.npz", dumped(np.savez), ["(none)"]),
        ("x.npz", dumped(np.savez, x=np.array([[None]])), ["'x'", "pickled arrays are refused"]),
        ("x.npz", dumped(np.savez, x=EYE, labels=np.arange(11)), ["labels", "(11,)", "(12,)"]),
        ("x.npz", dumped(np.savez, x=EYE, labels=EYE[0]), ["labels", "float64"]),
        ("x.npz", dumped(np.savez, train=EYE, test=EYE, test_labels=np.arange(3)), [", test", "(3,)"]),
        ("x.npz", dumped(np.savez, train=EYE, test=EYE[:, 1:]), ["size 12, of test 11"]),
        ("x.npz", dumped(np.savez, train=EYE, test=EYE.reshape(12, 3, 4)), ["size 12, of test (3, 4)"]),
        ("x.npz", dumped(np.savez, train=EYE, test=EYE[:0]), [", test", "no rows"]),
        ("x.npz", dumped(np.savez, train=EYE, test=EYE + np.inf), [", test", "row 0, column 0", "144 in all"]),
        ("x.npz", b"PK", ["damaged"]),
        ("x.npz", dumped(np.savez, x=EYE)[:-30], ["damaged"]),
        ("x.npz", dumped(np.savez, x=EYE).replace(EYE.tobytes(), EYE[::-1].tobytes()), ["damaged", "CRC"]),
        ("x.npz", dumped(np.save, EYE), ["damaged"]),
        # idx
        ("x.idx", idx(np.zeros((3, 2), np.uint8))[:-1], ["truncated; 6 bytes announced, 5 found"]),
        ("x.idx", idx(np.zeros((3, 2), np.uint8)) + b"\0", ["more found"]),
        ("x.idx", idx(np.zeros((3, 2), np.uint8))[:7], ["truncated within its header"]),
        ("x.idx", idx(np.zeros(3, np.uint8)), ["shape (3,)"]),
        ("x.idx", idx(np.zeros((0, 3), np.uint8)), ["no rows"]),
        ("x.idx", idx(np.zeros((3, 2), np.uint8), code=7), ["not an idx file"]),
        ("x.idx", b"\0\0\x08\0", ["not an idx file"]),
        ("x.idx", b"\x01\0\x08\x02" + bytes(8), ["not an idx file", "01 00 08 02"]),
        ("x-ubyte", b"\0", ["not an idx file"]),
        ("x.idx.gz", gzip.compress(idx(np.eye(50, dtype=np.uint8)))[:-5], ["damaged"]),
        ("x.idx.gz", gzip.compress(idx(np.eye(50, dtype=np.uint8)))[:40], ["damaged"]),
        ("x.idx.gz", gzip.compress(idx(np.eye(50, dtype=np.uint8), shape=(50, 51))), ["truncated"]),
        ("x.idx.gz", gzip.compress(b""), ["not an idx file"]),
        # other kinds
        ("x.mat", b"hello", ["unknown kind of file", ".npy", ".npz", ".csv", ".txt", ".idx"]),
        ("x.npz.gz", b"hello", ["unknown kind of file"]),
        ("x", b"hello", ["unknown kind of file"]),
        (".gz", b"hello", ["unknown kind of file"]),
    ],
    ids=label,
)
def test_refused(tmp_path, name, content, words):
    path = put(tmp_path, name, content)
    fails(path, str(path), *words)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv", "x.txt", "x.idx", "x.npy.gz", "x.csv.gz", "x.idx.gz"])
def test_empty_missing_and_folder(tmp_path, name):
    path = tmp_path / name
    message = fails(path, str(path), "no such file")
    assert "mnist" not in message
    fails(str(path), str(path), "no such file")
    put(tmp_path, name, b"")
    assert fails(path) == f"{path}: empty file (0 bytes)"
    path.unlink()
    path.mkdir()
    fails(path, str(path), "is a folder")


def test_the_home_folder_may_be_abbreviated(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    put(tmp_path, "x.npy", npy(EYE))
    assert_array_equal(load("~/x.npy").test, EYE[9:10])
    small_mnist(tmp_path / "mnist")
    assert load("mnist", data_dir="~").train.shape == (12, 12)


def test_unknown_name():
    fails("minst", "minst", "no such file", *dataset_names())
    fails("x\0y", "no such file")
    fails("x" * 5000, "no such file")


def test_unreadable_file(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = put(tmp_path, "x.npy", npy(EYE))
    monkeypatch.setattr(gvae.data.readers, "opened", refuse)
    fails(path, str(path), "Permission denied")


def test_npz_packed_otherwise(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", npy(EYE))
    fails(tmp_path / "x.npz", "'x'", "NumPy does not write")


def zipped(content) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", content)
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2500, 2500)])  # deflate could pack the second into the file's size
@pytest.mark.parametrize("name", ["x.idx", "x.idx.gz", "x.npy", "x.npy.gz", "x.npz"])
def test_a_header_alone_allocates_nothing(tmp_path, name, shape):
    x = rng.integers(0, 256, (100, 100), np.uint8)
    content = idx(x, shape=shape) if "idx" in name else npy(x, shape=shape)
    content = {"gz": gzip.compress, "npz": zipped}.get(name.split(".")[-1], bytes)(content)
    path = put(tmp_path, name, content)
    tracemalloc.start()
    try:
        fails(path, str(path), f"{shape[0] * shape[1]} bytes announced")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * gvae.data.readers.CHUNK  # one read's buffer; 2500 x 2500 would be 6.25 MB


# ---- whatever bytes a file holds, the answer is a Dataset or a DataError -------------------------

KINDS = [".npy", ".npz", ".idx", ".csv", ".npy.gz", ".idx.gz", ".csv.gz"]
SMALL = np.arange(22, dtype=np.float32).reshape(11, 2)
GOOD = {
    ".npy": npy(SMALL),
    ".npz": dumped(np.savez_compressed, train=SMALL, test=SMALL, labels=np.arange(11)),
    ".idx": idx(SMALL.astype(np.uint8)),
    ".csv": "a,b\n1,2\n3,-4.5e1\n".encode("utf-8-sig"),
}
GOOD |= {f"{kind}.gz": gzip.compress(GOOD[kind]) for kind in (".npy", ".idx", ".csv")}


@st.composite
def files(draw):
    """A suffix, and either any bytes at all or a good file with a few places overwritten, cut out or put in."""
    kind = draw(st.sampled_from(KINDS))
    if draw(st.integers(0, 3)) == 0:
        return kind, draw(st.binary(max_size=200))
    content = bytearray(GOOD[kind])
    for _ in range(draw(st.integers(1, 4))):
        start, cut = draw(st.integers(0, len(content))), draw(st.integers(0, 8))
        content[start : start + cut] = draw(st.binary(max_size=8))
    return kind, bytes(content)


def loaded_or_error(path):
    try:
        return load(path)
    except DataError as error:
        return error


@settings(max_examples=1000, deadline=None)
@given(files())
def test_any_bytes(file):
    kind, content = file
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder), f"x{kind}", content)
        d = loaded_or_error(path)
    if isinstance(d, DataError):
        assert str(path) in str(d)
        assert "\n" not in str(d)
        return
    assert isinstance(d, Dataset)
    assert d.train.ndim == d.test.ndim == 2
    assert d.train.shape[1] == d.test.shape[1]
    assert np.isfinite(d.train).all()
    assert np.isfinite(d.test).all()
