"""gvae.data: second views, labels, weights and counts from files, and what is refused of them; names of columns; tables."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from gvae import random
from gvae.data import (
    Presentation,
    Standardization,
    Table,
    check_finite,
    check_support,
    check_weight,
    column_names,
    load,
)
from gvae.data.sparse import EMPTY
from gvae.distributions import Support
from gvae.errors import ConfigError, DataError, DTypeError
from gvae.ops.sparse import is_csr

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(20, 3)), rng.normal(size=(20, 4)).astype(np.float32)
HELD = np.arange(20) % 10 == 9
COUNTS = scipy.sparse.random_array((25, 7), density=0.3, rng=rng, data_sampler=lambda size: rng.integers(1, 9, size)).astype(
    np.int64
)
DENSE = COUNTS.toarray()


def npz(folder, **arrays) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def refused(path, *words):
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# ---- further columns of a file -------------------------------------------------------------------


def test_a_second_view_and_weights(tmp_path):
    w = np.arange(15)
    d = load(npz(tmp_path, train=X[:15], test=X[15:], train_y=Y[:15], test_y=Y[15:], train_weight=w, test_weight=w[:5]))
    assert set(d.columns) == {"y", "weight"}
    for part, wanted in zip((*d.columns["y"], *d.columns["weight"]), (Y[:15], Y[15:], w, w[:5]), strict=True):
        assert_array_equal(part, wanted)
        assert part.dtype == np.float32
        assert part.flags.c_contiguous
    assert d.train.dtype == np.float64
    assert d.train_labels is None


@pytest.mark.parametrize("keys", [("x", "y"), ("x", "train_y"), ("train", "y"), ("train", "train_y"), ("whatever", "y")])
def test_without_a_test_part_all_columns_are_split_alike(tmp_path, keys):
    w = np.linspace(0, 1, 20)
    d = load(npz(tmp_path, **{keys[0]: X, keys[1]: Y}, weight=w, labels=np.arange(20)))
    for (train, test), whole in ((d.columns["y"], Y), (d.columns["weight"], w), ((d.train, d.test), X)):
        assert_array_equal(train, whole[~HELD])
        assert_array_equal(test, whole[HELD])
    assert d.test_labels.tolist() == [9, 19]
    few = load(npz(tmp_path, x=X[:4], y=Y[:4]))
    assert_array_equal(few.columns["y"][0], few.columns["y"][1])


@pytest.mark.parametrize(
    ("y", "dtype"),
    [
        (np.arange(20, dtype=np.uint8) * 10, np.int64),
        (np.arange(20) % 2 == 0, np.int64),
        (X[:, 0], np.float64),
        (Y[:, 0], np.float32),
        (np.arange(20, dtype=">i2")[:, None], np.float32),
    ],
)
def test_labels_and_targets(tmp_path, y, dtype):
    train, test = load(npz(tmp_path, x=X, y=y)).columns["y"]
    assert train.dtype == test.dtype == dtype
    assert_array_equal(train, y[~HELD])
    assert_array_equal(test, y[HELD])


def test_the_labels_are_y_unless_there_is_one(tmp_path):
    labels = np.arange(20)
    d = load(npz(tmp_path, train=X, train_labels=labels))
    assert d.columns["y"][0] is d.train_labels
    assert d.columns["y"][1] is d.test_labels
    d = load(npz(tmp_path, train=X, test=X, train_labels=labels))
    assert d.columns == {}  # rows to test on have none
    d = load(npz(tmp_path, train=X, test=X, train_labels=labels, test_labels=labels, train_y=Y, test_y=Y))
    assert_array_equal(d.columns["y"][0], Y)
    assert_array_equal(d.test_labels, labels)
    digits = load("digits")
    assert digits.columns["y"] == (digits.train_labels, digits.test_labels)
    assert load(X).columns == {}


def test_grey_levels_of_a_second_view_are_scaled(tmp_path):
    images = rng.integers(0, 256, (20, 2, 3), np.uint8)
    d = load(npz(tmp_path, train=X, test=X, train_y=images, test_y=np.ones((20, 2, 3), np.uint8)))
    assert_array_equal(d.columns["y"][0], images.reshape(20, 6).astype(np.float32) / np.float32(255))
    assert_array_equal(d.columns["y"][1], np.full((20, 6), np.float32(1) / np.float32(255)))


def test_keys_that_play_no_part_are_not_read(tmp_path):
    unread = np.array([None])
    assert load(npz(tmp_path, train=X, test=X, y=unread, weight=unread, z=unread)).columns == {}
    assert load(npz(tmp_path, x=X, test_y=unread, test_weight=unread)).columns == {}


def test_labels_in_words(tmp_path):
    words = np.array(["no", "yes"] * 10)
    train, test = load(npz(tmp_path, x=X, y=words)).columns["y"]
    assert_array_equal(train, words[~HELD])
    assert_array_equal(test, words[HELD])
    train, test = load(npz(tmp_path, train=X, test=X[:4], train_y=words, test_y=words[:4])).columns["y"]
    assert_array_equal(train, words)
    assert_array_equal(test, words[:4])
    for mixed in ({"train_y": words, "test_y": np.arange(4)}, {"train_y": np.arange(20), "test_y": words[:4]}):
        with pytest.raises(DataError, match=r"'train_y' are .*, 'test_y' are .*; only one is text"):
            load(npz(tmp_path, train=X, test=X[:4], **mixed))


def test_y_alone_is_the_data_as_any_other_key(tmp_path):
    assert_array_equal(load(npz(tmp_path, y=X)).train, X[~HELD])


BAD = X.copy()
BAD[3, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X, "y": Y[:19]}, ["'y'", "(19, 4)", "(20,)"]),
        ({"x": X, "train_y": Y[:19]}, ["'train_y'", "(19, 4)"]),
        ({"x": X, "y": BAD}, ["'y'", "row 3, column 1", "nan"]),
        ({"x": X, "y": BAD[:, 1]}, ["'y'", "row 3", "nan"]),
        ({"x": X, "y": X * 1j}, ["'y'", "'<c16' is not real numbers or short texts"]),
        ({"x": X, "y": np.array(["a" * 100] * 20)}, ["'y'", "'<U100'"]),
        ({"x": X, "y": np.array([["a", "b"]] * 20)}, ["'y'", "<U1 is not real numbers"]),
        ({"x": X, "weight": np.array(["a"] * 20)}, ["'weight'", "'<U1' is not real numbers"]),
        ({"x": X, "y": np.array([None] * 20)}, ["'y'", "pickled"]),
        ({"x": X, "y": X[:, :0]}, ["'y'", "no columns"]),
        ({"x": X, "y": np.array(1)}, ["'y'", "shape ()"]),
        ({"x": X, "y": X[:, :, None, None]}, ["'y'", "(20, 3, 1, 1)"]),
        ({"x": X, "y": np.arange(20, dtype=np.uint64) + 2**63}, ["'y'", "row 19", "int64"]),
        ({"train": X, "test": X, "train_y": Y}, ["'train_y' without 'test_y'"]),
        ({"train": X, "test": X, "test_weight": X[:, 0]}, ["'test_weight' without 'train_weight'"]),
        ({"train": X, "test": X, "train_y": Y, "test_y": Y[:, 1:]}, ["'train_y' has shape (4,), of 'test_y' (3,)"]),
        ({"train": X, "test": X, "train_y": Y, "test_y": Y[:, 0]}, ["'train_y' has shape (4,), of 'test_y' ()"]),
        ({"train": X, "test": X[:4], "train_y": Y, "test_y": Y}, ["'test_y'", "(20, 4)", "(4,)"]),
        ({"x": X, "weight": np.arange(19)}, ["'weight'", "(19,)", "(20,)"]),
        ({"x": X, "weight": X}, ["'weight'", "(20, 3)"]),
        ({"x": X, "weight": 3 - np.arange(20)}, ["'weight'", "16 in all", "-1, at row 4"]),
        ({"x": X, "weight": np.where(np.arange(20) == 6, np.inf, 1)}, ["'weight'", "inf, at row 6"]),
        ({"x": X, "weight": np.zeros(20)}, ["'weight'", "all 20 weights are 0"]),
    ],
)
def test_columns_that_are_refused(tmp_path, arrays, words):
    path = npz(tmp_path, **arrays)
    refused(path, str(path), *words)


# ---- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_sparse_files(tmp_path, kind, form, packed):
    held = np.arange(25) % 10 == 9
    x = getattr(scipy.sparse, f"{form}_{kind}")(COUNTS)
    scipy.sparse.save_npz(tmp_path / "x.npz", x, compressed=packed)
    d = load(tmp_path / "x.npz")
    for part, wanted in ((d.train, DENSE[~held]), (d.test, DENSE[held])):
        assert isinstance(part, scipy.sparse.csr_array)
        assert is_csr(part)
        assert part.has_canonical_format
        assert part.dtype == np.float32
        assert_array_equal(part.toarray(), wanted)
    assert d.image_shape is None
    assert_array_equal(load(x).train.toarray(), d.train.toarray())


def test_sparse_files_may_hold_other_columns(tmp_path):
    x = COUNTS.tocsr()
    arrays = {"data": x.data, "indices": x.indices, "indptr": x.indptr, "shape": x.shape, "format": "csr"}
    d = load(npz(tmp_path, **arrays, y=np.arange(25), weight=np.ones(25)))
    assert d.columns["y"][1].tolist() == [9, 19]
    assert len(d.columns["weight"][0]) == 23
    d = load(npz(tmp_path, x=DENSE, **arrays))  # x comes first, whatever else there is
    assert isinstance(d.train, np.ndarray)


@pytest.mark.parametrize("form", ["bsr", "dia"])
def test_other_sparse_formats(tmp_path, form):
    x = COUNTS.asformat(form)
    scipy.sparse.save_npz(tmp_path / "x.npz", x)
    refused(tmp_path / "x.npz", str(tmp_path), repr(form), "csr, csc, coo")
    assert_array_equal(load(x).test.toarray(), DENSE[[9, 19]])  # SciPy converts what is in memory


def test_sparse_matrices_are_made_canonical_and_left_alone():
    x = scipy.sparse.csr_array((np.array([200, 100, 1], np.uint8), np.array([1, 1, 0]), np.array([0, 3, 3])), shape=(2, 3))
    before = x.indices.copy(), x.data.copy()
    d = load(x)
    assert_array_equal(d.train.toarray(), [[1, 300, 0], [0, 0, 0]])  # 300 is beyond uint8
    assert d.train.indices.tolist() == [0, 1]
    assert_array_equal(x.indices, before[0])
    assert_array_equal(x.data, before[1])
    assert load(x.astype(np.float64)).train.dtype == np.float64
    assert load(scipy.sparse.csr_array((3, 4))).train.nnz == 0
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    d = load(x)
    assert {d.train.indices.dtype, d.train.indptr.dtype} == {np.dtype(np.int32)}  # as CuPy needs them


CSR = {
    "data": np.array([1, 2, 3]),
    "indices": np.array([0, 2, 1]),
    "indptr": np.array([0, 2, 2, 3]),
    "shape": np.array([3, 3]),
    "format": np.array(b"csr"),
}
COO = {"data": CSR["data"], "row": np.array([0, 0, 2]), "col": np.array([0, 2, 1]), "shape": CSR["shape"], "format": "coo"}


def test_the_matrix_that_is_damaged_below_is_one(tmp_path):
    for arrays in (CSR, COO):
        assert_array_equal(load(npz(tmp_path, **arrays)).train.toarray(), [[1, 0, 2], [0, 0, 0], [0, 3, 0]])


@pytest.mark.parametrize(
    ("whole", "changed", "words"),
    [
        (CSR, {"data": np.array([1, np.nan, 3])}, ["row 0, column 2", "nan"]),
        (CSR, {"data": np.array([1, 2, np.inf])}, ["row 2, column 1", "inf"]),
        (CSR, {"data": np.array([1j, 2, 3])}, ["'data'", "not real numbers"]),
        (CSR, {"data": np.array([None] * 3)}, ["'data'", "pickled"]),
        (CSR, {"data": np.ones((3, 1))}, ["'data'", "one axis"]),
        (CSR, {"data": np.ones(2)}, ["'indptr'", "4 entries, from 0 to 3; expected 4 entries, from 0 to 2"]),
        (CSR, {"indices": np.array([0, 3, 1])}, ["'indices'", "index 3 of value 1", "0 to 2"]),
        (CSR, {"indices": np.array([0, -1, 1])}, ["'indices'", "index -1"]),
        (CSR, {"indices": np.array([0, 1])}, ["'indices'", "2 indices for 3 values"]),
        (CSR, {"indices": np.array([0.0, 2, 1])}, ["'indices'", "float64"]),
        (CSR, {"indices": np.array([0, 2, 2**64 - 1], np.uint64)}, ["'indices'", "18446744073709551615"]),
        (CSR, {"indptr": np.array([0, 3, 2, 3])}, ["'indptr'", "decreases after entry 1"]),
        (CSR, {"indptr": np.array([0, 3])}, ["'indptr'", "expected 4"]),
        (CSR, {"indptr": np.array([1, 2, 2, 3])}, ["'indptr'", "from 1 to 3"]),
        (CSR, {"indptr": np.zeros(0, int)}, ["'indptr'", "0 entries"]),
        (CSR, {"indptr": np.array([0, 2**40, 2, 3])}, ["'indptr'", "decreases"]),
        (CSR, {"shape": np.array([3, 3, 3])}, ["'shape' is [3, 3, 3]"]),
        (CSR, {"shape": np.array([3.0, 3.0])}, ["'shape' is float64 (2,)"]),
        (CSR, {"shape": np.array([-3, 3])}, ["'shape' is [-3, 3]"]),
        (CSR, {"shape": np.array([0, 3]), "indptr": np.array([0])}, ["no rows"]),
        (CSR, {"shape": np.array([3, 0])}, ["no columns"]),
        (CSR, {"shape": np.array([10**12, 3])}, ["'indptr'", "expected 1000000000001"]),
        (CSR, {"format": np.array("lil")}, ["'lil'"]),
        (CSR, {"format": np.array(["csr"])}, ["format None"]),
        (CSR, {"format": np.array(3)}, ["'format'", "not a short text"]),
        (CSR, {"format": np.array(b"csc"), "shape": np.array([10**12, 3])}, ["1000000000000 rows announced"]),
        (CSR, {"format": np.array("coo")}, ["without 'row'"]),
        (CSR, {"y": np.arange(2)}, ["'y'", "(2,)", "(3,)"]),
        (COO, {"row": np.array([0, 0, 3])}, ["'row'", "index 3"]),
        (COO, {"col": np.array([0, 2])}, ["'col'", "2 indices"]),
        (COO, {"shape": np.array([EMPTY + 49, 3])}, ["rows announced"]),
        (COO, {"shape": np.array([2**63 - 1, 2**63 - 1])}, ["rows announced"]),
    ],
)
def test_sparse_files_that_are_refused(tmp_path, whole, changed, words):
    path = npz(tmp_path, **{**whole, **changed})
    refused(path, str(path), *words)


def test_a_damaged_matrix_in_memory_is_refused():
    x = scipy.sparse.csr_array(DENSE)
    x.indices[2] = 99
    with pytest.raises(DataError, match="array, 'indices': index 99 of value 2"):
        load(x)


def archive(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


@st.composite
def damaged(draw):
    """A sparse matrix and its columns with numbers replaced within its arrays: checksums of the file fit."""
    whole = dict(draw(st.sampled_from([CSR, COO]))) | {"y": np.arange(3), "weight": np.ones(3)}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(whole.keys() - {"format"})))
        array = np.array(whole[name])
        change = draw(st.integers(0, 2))
        if change == 0 and array.size:
            numbers = [-1, 0, 1, 2, 3, 4, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)]
            array[draw(st.integers(0, array.size - 1))] = np.array(draw(st.sampled_from(numbers))).astype(array.dtype)
        elif change == 1:
            array = array[: draw(st.integers(0, 3))]
        else:
            with np.errstate(invalid="ignore"):
                array = array.astype(draw(st.sampled_from(["i1", "u1", ">i4", "f4", "f8", "u8", "?"])))
        whole[name] = array
    return archive(**whole | {"format": draw(st.sampled_from([whole["format"], "csc", b"csr", "coo", ""]))})


@settings(max_examples=400, deadline=None)
@given(damaged())
def test_whatever_a_sparse_file_holds(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        path.write_bytes(content)
        try:
            d = load(path)
        except DataError as error:
            d = error
    if isinstance(d, DataError):
        assert str(path) in str(d)
        assert "\n" not in str(d)
        return
    assert d.train.has_canonical_format
    d.train.check_format(full_check=True)
    assert np.isfinite(d.train.data).all()
    for name in d.columns:
        assert len(d.columns[name][0]) == d.train.shape[0]


def test_a_sparse_file_packed_otherwise(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_BZIP2) as file:
        for name in CSR:
            file.writestr(f"{name}.npy", b"")
    refused(tmp_path / "x.npz", "NumPy does not write")


# ---- checks --------------------------------------------------------------------------------------


def test_checks_of_csr_are_those_of_dense():
    for x in (DENSE.astype(float), DENSE - 0.5 * (DENSE == 8), DENSE * np.where(DENSE == 3, np.nan, 1), DENSE * 0.0):
        csr = scipy.sparse.csr_array(x)
        for support in (Support(0, whole=True), Support(0, 5), Support(0, 9, open=True), Support(1), Support()):
            for check in (lambda x, s=support: check_support(x, s, "c"), lambda x: check_finite(x, "c")):
                messages = []
                for form in (x, csr, csr.tocoo()):
                    try:
                        check(form)
                        messages.append("")
                    except DataError as error:
                        messages.append(str(error))
                assert messages[0] == messages[1] == messages[2]


def test_a_full_csr_has_no_implicit_zero():
    full = scipy.sparse.csr_array(np.ones((2, 2)))
    check_support(full, Support(0, 2, open=True))
    full = scipy.sparse.csr_array(np.array([[1.0, 1], [1, 0]]))
    with pytest.raises(DataError, match=r"1 in all, the first, 0\.0, at row 1, column 1 \(counted from 0\)"):
        check_support(full, Support(0, 2, open=True), "c")
    twice = scipy.sparse.csr_array((np.array([0.5, 0.5, 1]), np.array([0, 0, 1]), np.array([0, 3])), shape=(1, 2))
    check_support(twice, Support(1, 1))
    assert twice.nnz == 3  # as it was


def test_messages_have_the_names_of_columns():
    names = np.array(["age", "height"], dtype=object)
    with pytest.raises(DataError, match=r"X: .* 1 in all, the first, nan, at row 1 \(counted from 0\), column 'height'$"):
        check_finite(np.array([[0, 1], [2, np.nan]]), "X", names=names)
    with pytest.raises(DataError, match=r"the first, -1, at row 0 \(counted from 0\), column 'age'$"):
        check_support(np.array([[-1, 1]]), Support(0), names=names)


def test_check_weight():
    check_weight(np.array([0, 2, 1.5]), 3)
    check_weight([0, 0], 2)
    with pytest.raises(DataError, match=r"weight: .*2 in all, the first, nan, at row 1 \(counted from 0\)"):
        check_weight(np.array([0, np.nan, -1]), 3)
    with pytest.raises(DataError, match=r"sample_weight: shape \(3, 1\); expected \(3,\)"):
        check_weight(np.ones((3, 1)), 3, "sample_weight")
    with pytest.raises(DataError, match="complex"):
        check_weight(np.ones(3, complex), 3)


# ---- names of columns ----------------------------------------------------------------------------


class Frame:
    """As much of a data frame as is looked at."""

    def __init__(self, columns):
        self.columns, self.shape = columns, (2, len(columns))


def test_column_names():
    names = column_names(Frame(["a", "b"]))
    assert names.dtype == object
    assert names.tolist() == ["a", "b"]
    for x in (Frame([0, 1]), Frame([("a", 0), ("b", 1)]), Frame([]), X, COUNTS, [[1]], None, Table(X)):
        assert column_names(x) is None
    for mixed in (["a", 3], [3, "a"], ["a", "b", 3], [3, 4, "a"]):
        with pytest.raises(DTypeError, match=r"mixed types, such as 'a' and 3; expected only strings"):
            column_names(Frame(mixed))


def test_column_names_of_pandas():
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame({"a": [1.0, 2], "b": [3, 4]})
    assert column_names(x).tolist() == ["a", "b"]
    assert column_names(x["a"]) is None
    assert column_names(pandas.DataFrame(X)) is None
    assert column_names(pandas.DataFrame(X, columns=pandas.MultiIndex.from_product([["a"], [0, 1, 2]]))) is None
    with pytest.raises(DTypeError, match="mixed types"):
        column_names(pandas.DataFrame(X, columns=["a", "b", 2]))


def test_column_names_of_polars():
    polars = pytest.importorskip("polars")
    assert column_names(polars.DataFrame({"a": [1.0, 2], "b": [3, 4]})).tolist() == ["a", "b"]


# ---- tables --------------------------------------------------------------------------------------

P = rng.random((20, 3)).astype(np.float32)
INDEX = np.array([3, 1, 7])


def test_views_are_presented_as_x_is():
    units = Standardization.of(X)
    table = Table(P, y=X, z=P, views={"y": Presentation(standardization=units, dtype=np.float32)}, w=X)
    batch = table.batch(INDEX, random.key(0))
    assert batch.y.dtype == np.float32
    assert_array_equal(batch.y, units(X, np.float32)[INDEX])
    assert_array_equal(batch.z, P[INDEX])
    assert batch.w.dtype == np.float64
    for binarize in ("threshold", "fixed", "dynamic"):
        y = Table(P, y=P, views={"y": Presentation(binarize)}).batch(INDEX, random.key(0)).y
        assert set(np.unique(y)) <= {0, 1}
        assert binarize != "threshold" or (y == (P[INDEX] > 0.5)).all()
    levels = (rng.integers(0, 17, (20, 3)) / 16).astype(np.float32)
    table = Table(P, y=levels, views={"y": Presentation(dequantize=17, standardization=units)})
    first, again, other = (table.batch(INDEX, random.key(k)).y for k in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first != other).all()
    raw = first * units.scale.astype(np.float32) + units.location.astype(np.float32)
    u = raw * 17 - levels[INDEX] * 16
    assert ((u > -1e-4) & (u < 1 + 1e-4)).all()


@pytest.mark.parametrize("how", [{"binarize": "dynamic"}, {"binarize": "fixed"}, {"dequantize": 2}])
def test_a_further_view_changes_no_draw_of_x_and_has_its_own(how):
    shown = {"y": Presentation(**how), "z": Presentation(**how)}
    key = random.key(4)
    alone = Table(P, key=random.key(3), **how).batch(INDEX, key)
    both = Table(P, key=random.key(3), weight=np.ones(20), y=P, z=P, views=shown, **how).batch(INDEX, key)
    assert_array_equal(both.x, alone.x)
    assert not np.array_equal(both.y, both.x)
    assert not np.array_equal(both.y, both.z)
    derived = Table(P, key=random.fold_in(random.key(3), 1), **how).batch(INDEX, random.fold_in(key, 1))
    assert_array_equal(both.y, derived.x)  # its place among the columns, weights left out


def test_x_may_be_presented_by_views():
    how = {"x": Presentation("dynamic")}
    assert_array_equal(
        Table(P, views=how).batch(INDEX, random.key(0)).x, Table(P, binarize="dynamic").batch(INDEX, random.key(0)).x
    )
    assert Table(P, views=how).binarize == "dynamic"
    with pytest.raises(ConfigError, match=r"'x' .* twice"):
        Table(P, binarize="fixed", views=how)


def test_a_csr_view_stays_csr():
    table = Table(DENSE, y=COUNTS.tocsr(), weight=np.ones(25))
    batch = table.batch(INDEX, random.key(0))
    assert is_csr(batch.y)
    assert_array_equal(batch.y.toarray(), DENSE[INDEX])
    for how, word in (
        ({"binarize": "fixed"}, "binari"),
        ({"dequantize": 3}, "dequanti"),
        ({"standardization": 0}, "standardi"),
    ):
        with pytest.raises(ConfigError, match=f"{word}zation needs a dense y"):
            Table(DENSE, y=COUNTS.tocsr(), views={"y": Presentation(**how)})


def test_what_a_table_refuses():
    with pytest.raises(ConfigError, match="views has 'q'; expected columns of the table but weight: x, y"):
        Table(P, y=P, views={"q": Presentation()})
    with pytest.raises(ConfigError, match="views has 'weight'"):
        Table(P, weight=np.ones(20), views={"weight": Presentation()})
    with pytest.raises(ConfigError, match="unknown binarization 'random'"):
        Presentation("random")
    with pytest.raises(DataError, match=r"weight: .*the first, -1.0, at row 2"):
        Table(P, weight=np.where(np.arange(20) == 2, -1.0, 1))
    with pytest.raises(DataError, match=r"weight: shape \(20, 1\)"):
        Table(P, weight=np.ones((20, 1)))
    with pytest.raises(DataError, match="different lengths"):
        Table(P, weight=np.ones(19))


def test_views_on_a_device_are_the_cpus(cupy):
    levels = (rng.integers(0, 17, (20, 3)) / 16).astype(np.float32)
    views = {
        "y": Presentation("dynamic"),
        "z": Presentation(dequantize=17, standardization=Standardization.of(levels, levels=17)),
        "c": Presentation("fixed"),
    }
    table = Table(
        P, binarize="dynamic", y=P, z=levels, c=P, counts=COUNTS.tocsr()[:20].astype("f4"), weight=np.ones(20), views=views
    )
    there = table.to("cuda")
    assert there.views is table.views
    here, moved = table.batch(INDEX, random.key(1)), there.batch(cupy.asarray(INDEX), random.key(1))
    for name in ("x", "y", "c", "weight"):
        assert_array_equal(getattr(moved, name).get(), getattr(here, name))
    np.testing.assert_allclose(moved.z.get(), here.z, rtol=1e-6, atol=1e-6)
    assert_array_equal(moved.counts.get().toarray(), here.counts.toarray())
    by_key = there.batch(cupy.asarray(INDEX), cupy.asarray(random.key(1)))  # as a captured step has it
    assert_array_equal(by_key.y.get(), here.y)
    check_weight(there.columns["weight"], 20)
    with pytest.raises(DataError, match="at row 4"):
        Table(there.columns["x"], weight=-(cupy.arange(20) == 4).astype(np.float32))
