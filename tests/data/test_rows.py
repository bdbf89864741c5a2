"""Rows that need not fit into memory: sources, orders, the reader, training in windows, its bits, and what is refused."""

import itertools
import os
import subprocess
import sys
import textwrap
import threading

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse
import zarr

import gvae
from gvae import data, evaluation, random, training
from gvae.data.rows import Column, Order, Reader, ZarrRows, numbers_of
from gvae.errors import ConfigError, DataError, RunError, ShapeError, StoppedError
from gvae.runtime import limits

N, D, CHUNK = 100_000, 6, 1000
WINDOW = f"window:rows=8000,chunk={CHUNK}"
SMALL = {"latent": 2, "hidden": (8,), "random_state": 0, "observation": "gaussian", "posterior": "diagonal"}
FILES = ("x.npy", "x.zarr", "x.h5", "x.parquet")


def numbers(n, d=D, seed=0):
    return random.normal(random.key(seed), (n, d), np.float32) * np.float32(3) + np.float32(1)


def write(folder, x, chunk=CHUNK):
    """The same rows as a file of each kind."""
    np.save(folder / "x.npy", x)
    zarr.create_array(folder / "x.zarr", shape=x.shape, chunks=(chunk, *x.shape[1:]), dtype=x.dtype, overwrite=True)[:] = x
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("train", data=x, chunks=(chunk, *x.shape[1:]))
    table = pyarrow.table({f"c{j}": x[:, j] for j in range(x.shape[1])})
    pyarrow.parquet.write_table(table, folder / "x.parquet", row_group_size=chunk)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder, x = tmp_path_factory.mktemp("large"), numbers(N)
    write(folder, x)
    return folder, x


@pytest.fixture
def small(tmp_path):
    x = numbers(2000)
    write(tmp_path, x, chunk=100)
    return tmp_path, x


def bits(model):
    return model.parameters_.flat.tobytes()


# ---- sources


@pytest.mark.parametrize("name", ["x.h5", "x.zarr"])
def test_a_file_without_a_key_that_is_wanted(tmp_path, name):
    path, x = tmp_path / name, numbers(20)
    group = h5py.File(path, "w") if name == "x.h5" else zarr.open_group(path, mode="w")
    for key in ("bar", "foo"):
        group.create_array(key, data=x) if name == "x.zarr" else group.create_dataset(key, data=x)
    if name == "x.h5":
        group.close()
    with pytest.raises(DataError, match=r"no array to take among the keys .*'foo'.*; expected 'train' \(and, .* or 'x' "):
        data.load(path)


@pytest.mark.parametrize("name", FILES)
def test_take(large, name):
    folder, x = large
    rows = data.open_rows(folder / name)
    assert (rows.shape, rows.dtype, len(rows), rows.ndim) == (x.shape, x.dtype, N, 2)
    assert isinstance(rows, data.Rows)
    scattered = np.random.default_rng(0).integers(0, N, 300)  # some of them twice, in no order
    for index in (scattered, np.arange(990, 2010), np.array([N - 1]), np.zeros(0, np.int64), np.array([5, 4])):
        np.testing.assert_array_equal(rows.take(index), x[index])
    np.testing.assert_array_equal(rows[3:7], x[3:7])
    np.testing.assert_array_equal(rows[-1], x[-1])
    with pytest.raises(DataError, match="no row 100000"):
        rows.take(np.array([3, N]))


@pytest.mark.parametrize("name", FILES)
def test_rows_that_are_taken_more_than_once(small, name):
    folder, x = small
    rows, rng = data.open_rows(folder / name), np.random.default_rng(0)
    draws = [np.array([3, 3, 5]), np.array([7, 5, 5]), rng.integers(0, 2000, 2000), rng.integers(100, 112, 12)]
    for index in draws:
        np.testing.assert_array_equal(rows.take(index), x[index])
        np.testing.assert_array_equal(data.Part(rows, index)[:], x[index])


def test_indices_that_are_refused(small):
    folder, _ = small
    rows = data.open_rows(folder / "x.npy")
    for index in (np.array([0.7, 1.9]), np.zeros(1999, bool), np.array([[0, 1]])):
        with pytest.raises(DataError, match=r"expected a slice, integers \(n,\) or a boolean mask \(2000,\)"):
            rows[index]


def test_a_part_names_rows_of_the_whole(small):
    folder, x = small
    part = data.Part(data.Part(data.open_rows(folder / "x.npy"), np.arange(0, 2000, 2)), np.array([7, 9]))
    np.testing.assert_array_equal(part.take(np.array([1, 0])), x[[18, 14]])
    assert numbers_of(part, np.array([1])).tolist() == [18]
    assert part.fingerprint != data.Part(part.rows, np.array([7, 8])).fingerprint


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_sparse_rows(tmp_path, kind):
    counts = scipy.sparse.csr_array(np.random.default_rng(0).poisson(0.3, (500, 20)).astype(np.float32))
    path = tmp_path / f"counts.{kind}"
    root = zarr.open_group(path, mode="w") if kind == "zarr" else h5py.File(path, "w")
    group = root.create_group("train")
    for name in ("data", "indices", "indptr"):
        group.create_array(name, data=getattr(counts, name)) if kind == "zarr" else group.create_dataset(
            name, data=getattr(counts, name)
        )
    group.attrs["shape"] = [500, 20]
    if kind == "h5":
        root.close()
    rows = data.open_rows(path)
    index = np.array([499, 3, 3, 77])
    assert (rows.take(index) != counts[index]).nnz == 0
    settings = {"latent": 3, "random_state": 0, "epochs": 2, "batch_size": 50, "shuffle": "window:rows=200,chunk=50"}
    assert bits(gvae.DEF(**settings).fit(rows)) == bits(gvae.DEF(**settings).fit(counts))


def test_keys_of_groups(tmp_path):
    x, y = numbers(30), np.arange(30)
    root = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name, part in {"train": x, "train_y": y, "test": x[:5], "test_y": y[:5]}.items():
        root.create_array(name, data=part)
    for in_memory in (True, False):
        found = data.load(tmp_path / "g.zarr", in_memory=in_memory)
        np.testing.assert_array_equal(found.train[:], x)
        np.testing.assert_array_equal(found.test[:], x[:5])
        np.testing.assert_array_equal(found.columns["y"][0], y)
        np.testing.assert_array_equal(found.columns["y"][1], y[:5])
    root = zarr.open_group(tmp_path / "h.zarr", mode="w")
    for name in "ab":
        root.create_array(name, data=x)
    with pytest.raises(DataError, match="name an array of it as key: 'a', 'b'"):
        data.open_rows(tmp_path / "h.zarr")


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_arrays_that_are_not_rows_of_numbers(tmp_path, kind):
    x, roots = numbers(11), np.array([1j, -1j])
    path, wrong = tmp_path / f"f.{kind}", tmp_path / f"wrong.{kind}"
    for name, arrays in ((path, {"counts": x, "n": np.array(3.0), "roots": roots}), (wrong, {"x": x, "y": roots})):
        file = h5py.File(name, "w") if kind == "h5" else zarr.open_group(name, mode="w")
        for key, array in arrays.items():
            file.create_dataset(key, data=array) if kind == "h5" else file.create_array(key, data=array)
        if kind == "h5":
            file.close()
    for rows in (data.open_rows(path), data.open_rows(path, "counts"), data.load(path, in_memory=False).train.rows):
        np.testing.assert_array_equal(rows[:], x)
    with pytest.raises(DataError, match=r"'roots': .*expected real numbers"):
        data.open_rows(path, "roots")
    with pytest.raises(DataError, match=r"there is no 'train'; name an array of it as key: 'counts', 'n', 'roots'"):
        data.open_rows(path, "train")
    with pytest.raises(DataError, match=r"'y': .*expected real numbers"):  # it has a role, and must not be left out
        data.load(wrong)


def test_the_index_of_a_frame_is_not_a_column(tmp_path):
    frame = pytest.importorskip("pandas").DataFrame({"a": np.arange(20.0), "b": np.ones(20)})
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "f.parquet")
    assert data.open_rows(tmp_path / "f.parquet").names == ("a", "b")
    assert data.load(tmp_path / "f.parquet", target="b", in_memory=False).names == ("a",)


@pytest.mark.parametrize("notes", [b"{", b"[1]", b'{"index_columns": 3}', b"\xff", b"[" * 100_000])
def test_notes_that_pandas_did_not_write(tmp_path, notes):
    table = pyarrow.table({"a": np.arange(4.0), "b": np.ones(4)}).replace_schema_metadata({b"pandas": notes})
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
    assert data.open_rows(tmp_path / "f.parquet").names == ("a", "b")


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_output_of_another_shape(tmp_path, suffix):
    path = tmp_path / f"o{suffix}"
    for rows, error, words in (
        (np.zeros((4, 3)), ShapeError, r"append: x has shape \(4, 3\), expected at most \(4, 2\)"),
        (np.zeros((5, 2)), ShapeError, r"append: x has shape \(5, 2\)"),
        (np.zeros((3, 2)), DataError, "3 rows were appended, expected the 4 that were announced"),
    ):
        with pytest.raises(error, match=words), data.Output(path) as out:
            out.array(None, (4, 2), np.float32).append(rows)
        assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no array was written"), data.Output(path):
        pass


def test_a_target_column(tmp_path):
    x, y = numbers(40), np.arange(40) % 3
    table = pyarrow.table({"a": x[:, 0], "kind": y, "b": x[:, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    for in_memory in (True, False):
        found = data.load(tmp_path / "t.parquet", target="kind", in_memory=in_memory)
        assert found.names == ("a", "b")
        np.testing.assert_array_equal(found.train[:], x[:, :2][np.arange(40) % 10 != 9])
        np.testing.assert_array_equal(found.columns["y"][1], y[9::10])
    with pytest.raises(DataError, match="there is no column 'c'; columns are a, kind, b"):
        data.load(tmp_path / "t.parquet", target="c")
    table = pyarrow.table({"a": [1.0, None], "s": ["u", "v"]})
    pyarrow.parquet.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"column 's' is string, expected real numbers"):
        data.open_rows(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\), column 'a': the value is missing"):
        data.open_rows(tmp_path / "bad.parquet", target="s")[:]


@pytest.mark.parametrize("in_memory", [True, False])
def test_labels_in_words_and_weights(tmp_path, in_memory):
    x = numbers(40)
    words = np.array(["a", "bb", "ccc"])[np.arange(40) % 3]
    table = pyarrow.table({"a": x[:, 0], "kind": words, "b": x[:, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    found = data.load(tmp_path / "t.parquet", target="kind", in_memory=in_memory)
    assert found.columns["y"][1].tolist() == words[9::10].tolist()
    gvae.VIB(latent=2, hidden=(3,), epochs=1).fit(found.train, found.columns["y"][0])
    for i, bad in enumerate((-np.ones(40), np.full(40, np.nan), np.zeros(40), np.ones((40, 1)))):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file["train"], file["train_weight"] = x, bad
        with pytest.raises(DataError, match="weight"):
            data.load(tmp_path / f"{i}.h5", in_memory=in_memory)


def test_whole_numbers_are_the_same_in_memory_and_from_a_file(tmp_path):
    x = np.random.default_rng(0).integers(0, 50, (600, 3))
    x[:, 0] = 1_700_000_000 + np.arange(600)  # float32 rounds these to multiples of 128
    np.save(tmp_path / "x.npy", x)
    found = [data.load(tmp_path / "x.npy", in_memory=in_memory).train for in_memory in (True, False)]
    assert [rows.dtype for rows in found] == [np.float64, np.int64]
    np.testing.assert_array_equal(found[0], found[1][:])
    one, other = (gvae.VAE(**SMALL | {"epochs": 2, "shuffle": "window:rows=256,chunk=64"}).fit(rows) for rows in found)
    np.testing.assert_array_equal(one.standardization_.scale, other.standardization_.scale)
    assert data.load(x[:, 1:]).train.dtype == np.float32


def test_sparse_rows_take_the_memory_of_their_values(tmp_path, monkeypatch):
    n, d = 3000, 100_000  # 1.2 GB if they were dense, 0.2 MB as they are
    rng = np.random.default_rng(0)
    counts = scipy.sparse.csr_array(
        (np.ones(5 * n, np.float32), rng.integers(0, d, 5 * n), np.arange(0, 5 * n + 1, 5)), (n, d)
    )
    counts.sum_duplicates()
    data.pack({"train": counts}, tmp_path / "c.zarr")
    monkeypatch.setattr(limits, "memory", lambda: 1 << 28)
    assert scipy.sparse.issparse(data.load(tmp_path / "c.zarr").train)  # at once
    model = gvae.DEF(latent=(2,), steps=2, batch_size=500, shuffle="window:rows=1000,chunk=100", random_state=0)
    model.fit(data.open_rows(tmp_path / "c.zarr"))
    assert model.n_iter_ == 2


# ---- orders


@pytest.mark.parametrize(("n", "chunk", "n_chunks"), [(1, 1, 1), (10, 3, 2), (12, 3, 2), (100, 7, 20), (64, 8, 1)])
def test_order(n, chunk, n_chunks):
    bounds = np.append(np.arange(0, n, chunk), n)
    order = Order(bounds, n_chunks, random.key(1))
    whole = order.index(0, n)
    np.testing.assert_array_equal(np.sort(whole), np.arange(n))
    for begin in range(n):
        for end in range(begin, n + 1):
            np.testing.assert_array_equal(Order(bounds, n_chunks, random.key(1)).index(begin, end), whole[begin:end])
    window = whole[: order.begins[1]]  # of whole chunks
    assert all((np.isin(np.arange(a, b), window)).mean() in (0, 1) for a, b in itertools.pairwise(bounds))
    np.testing.assert_array_equal(Order(bounds, n_chunks).index(0, n), np.arange(n))


def test_orders_of_keys_differ():
    bounds = np.arange(0, 1001, 10)
    one, other = (Order(bounds, 5, random.key(i)).index(0, 1000) for i in range(2))
    assert (one == other).mean() < 0.02
    places = np.argsort(one)  # each row comes at each place as often: over keys, the mean place of row 0 is the middle
    found = [np.argsort(Order(bounds, 5, random.key(i)).index(0, 1000))[0] for i in range(400)]
    assert abs(np.mean(found) - 499.5) < 4 * 289 / 20
    assert places.shape == (1000,)


def test_chunks_of_a_part_end_with_those_of_the_whole():
    rows = data.ArrayRows(np.zeros((10, 1)))
    table = data.Table(_column(data.Part(rows, np.array([0, 1, 4, 5, 6, 9]))))
    assert table.bounds(4).tolist() == [0, 2, 5, 6]
    table = data.Table(_column(data.Part(rows, np.array([9, 0, 1]))))
    assert table.bounds(2).tolist() == [0, 2, 3]


def _column(rows):
    return Column(rows, lambda x: x, tuple(rows.shape), np.dtype(rows.dtype))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("windows:3", "unknown shuffle"),
        ("window", "it lacks the rows of a window"),
        ("window:0", "a whole number of at least 1"),
        ("window:rows=9,chunks=3", "window takes rows=, chunk="),
        ("full:3", "full takes no settings"),
    ],
)
def test_shuffles_that_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        gvae.VAE(shuffle=text).fit(numbers(20))


# ---- the reader


def test_the_reader_keeps_two_windows():
    x, asked = numbers(2000), []

    class Counted:  # all that is asked of rows
        shape, dtype, fingerprint = x.shape, x.dtype, {"made": "here"}

        def take(self, index):
            asked.append((index[0], len(index)))
            return x[index]

    order = Order(np.arange(0, 2001, 100), 4, random.key(0))
    with Reader({"x": _column(Counted())}, order) as reader:
        index, found = reader.take(950, 960)  # in the middle of window 2
        np.testing.assert_array_equal(found["x"], x[index])
        np.testing.assert_array_equal(index, order.index(950, 960))
        reader.next[1].result()
        assert sorted(begin for begin, _ in asked) == sorted(begin for w in (2, 3) for begin, _ in order.ranges(w))
        index, found = reader.take(1190, 1210)
        np.testing.assert_array_equal(found["x"], x[order.index(1190, 1210)])


def test_an_error_of_the_reader_is_raised_where_rows_are_taken(small):
    folder, _ = small
    rows = data.open_rows(folder / "x.npy")
    with Reader({"x": _column(rows)}, Order(np.arange(0, 2001, 100), 4)) as reader:
        reader.take(0, 10)
        os.truncate(folder / "x.npy", 128 + 1500 * D * 4)
        reader.take(390, 410)
        with pytest.raises(DataError, match=r"x.npy: .*rows 1500 to 1599\) is damaged or not readable \(truncated"):
            reader.take(1200, 1601)


# ---- training


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_files_have_the_bits_of_an_array_however_they_are_interrupted(large, tmp_path, name):
    folder, x = large
    settings = SMALL | {"shuffle": WINDOW, "batch_size": 730, "steps": 200}  # no multiple of it is a window
    expected = gvae.VAE(**settings).fit(x)
    rng, rows, left = np.random.default_rng(len(name)), data.open_rows(folder / name), True
    while left:
        steps = iter(range(int(rng.integers(1, 70)), -1, -1))
        try:
            resumed = (tmp_path / "run").exists()
            model = gvae.VAE(**settings).fit(rows, run=tmp_path / "run", resume=resumed, stop=lambda s=steps: next(s) == 0)
            left = False
        except StoppedError:
            pass
    assert bits(model) == bits(expected)
    assert [row["step"] for row in model.history_] == [137, 200]


@pytest.mark.parametrize("how", [{"epochs": 2}, {"epochs": 3, "patience": 1}, {"epochs": 1, "standardize": False}])
@pytest.mark.parametrize("name", FILES)
def test_all_files_train_alike(small, name, how):
    folder, x = small
    settings = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 64, "observation": "auto"} | how
    model = gvae.VAE(**settings).fit(data.open_rows(folder / name))
    expected = gvae.VAE(**settings).fit(x)
    assert bits(model) == bits(expected)
    assert model.history_[-1]["train_bound"] == expected.history_[-1]["train_bound"]
    assert model.config_["fitted"]["shuffle"] == "window:rows=400,chunk=100"


def test_a_table_without_an_estimator(small):
    folder, x = small
    tables = data.Table(_column(data.open_rows(folder / "x.npy"))), data.Table(x)
    model, shuffle = gvae.models.VAE(D, 2, "diagonal", "gaussian", hidden=(4,)), data.Shuffle(400, 100)
    found = [training.train(model, table, epochs=2, validation=table, shuffle=shuffle) for table in tables]
    assert found[0][0].parameters.flat.tobytes() == found[1][0].parameters.flat.tobytes()
    without = [{k: v for k, v in history.rows[-1].items() if "second" not in k} for _, history in found]
    assert without[0] == without[1]
    by_default = training.train(model, tables[0], epochs=1)[0]
    assert isinstance(by_default.order_of(tables[0]), Order)


@pytest.mark.parametrize("observation", ["auto", "bernoulli", "gaussian", "poisson"])
def test_bytes_have_the_bits_of_numbers(tmp_path, observation):
    x = (np.random.default_rng(0).random((300, 20)) * 256).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    settings = SMALL | {"observation": observation, "epochs": 2}
    by_bytes = gvae.VAE(**settings).fit(x)
    levels = x.astype(np.float32) if observation == "poisson" else x.astype(np.float32) / np.float32(255)
    assert bits(by_bytes) == bits(gvae.VAE(**settings).fit(levels))
    assert by_bytes.grey_levels_ is (observation != "poisson")
    windows = settings | {"shuffle": "window:rows=64,chunk=16"}
    assert bits(gvae.VAE(**windows).fit(data.open_rows(tmp_path / "x.npy"))) == bits(gvae.VAE(**windows).fit(levels))


def test_bytes_stay_bytes():
    import tracemalloc

    x = np.random.default_rng(0).integers(0, 256, (200_000, 100), np.uint8)
    settings = SMALL | {"observation": "bernoulli", "steps": 2}
    gvae.VAE(**settings).fit(x[:1000])
    tracemalloc.start()
    try:
        gvae.VAE(**settings).fit(x)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 2.5 * x.nbytes  # as numbers, they alone would be four times as large


def test_labels_and_views(tmp_path):
    x, y = numbers(600), np.arange(600) % 3
    root = zarr.open_group(tmp_path / "g.zarr", mode="w")
    for name, part in {"train": x, "train_y": y, "second": x[:, :3] * 2}.items():
        root.create_array(name, data=part, chunks=(50, *part.shape[1:]))
    rows = {name: data.open_rows(tmp_path / "g.zarr", name) for name in ("train", "train_y", "second")}
    how = {"latent": 2, "hidden": (8,), "random_state": 0, "epochs": 2, "shuffle": "window:rows=200,chunk=50"}
    model = gvae.VIB(**how).fit(rows["train"], rows["train_y"])
    assert bits(model) == bits(gvae.VIB(**how).fit(x, y))
    np.testing.assert_array_equal(model.predict(rows["train"]), model.predict(x))
    two = gvae.VCCA(**how).fit(rows["train"], rows["second"])
    assert bits(two) == bits(gvae.VCCA(**how).fit(x, x[:, :3] * 2))
    np.testing.assert_array_equal(
        two.evaluate(rows["train"], rows["second"], samples=3).elbo, two.evaluate(x, x[:, :3] * 2, samples=3).elbo
    )
    weights = np.arange(600) % 4.0
    weighted = [
        gvae.VAE(**SMALL | {"epochs": 1, "shuffle": how["shuffle"]}).fit(z, sample_weight=weights)
        for z in (rows["train"], x)
    ]
    assert bits(weighted[0]) == bits(weighted[1])


def test_a_fixed_binarization_needs_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((100, 4)).astype(np.float32))
    with pytest.raises(ConfigError, match="binarize='fixed' draws the bits of all rows of x at once"):
        gvae.VAE(binarize="fixed", shuffle="window:32").fit(data.open_rows(tmp_path / "x.npy"))


def test_windows_are_chosen_where_rows_do_not_fit(small, monkeypatch, capsys):
    folder, x = small
    rows = data.open_rows(folder / "x.npy")
    assert "shuffle" not in gvae.VAE(**SMALL | {"epochs": 1}).fit(rows).config_["fitted"]
    monkeypatch.setattr(limits, "memory", lambda root="/": x.nbytes * 2)
    monkeypatch.setattr("gvae.data.rows.column.BUDGET", x.nbytes // 4)
    monkeypatch.setattr("gvae.data.rows.column.LEAST", 1)
    model = gvae.VAE(**SMALL | {"epochs": 1, "shuffle": "window:rows=200,chunk=100", "verbose": True}).fit(rows)
    assert "; shuffle window:rows=200,chunk=100" in capsys.readouterr().out
    assert model.n_iter_ == 20
    with pytest.raises(ConfigError, match=r"a shuffle of window:rows=2000,chunk=100 needs more than"):
        gvae.VAE(**SMALL | {"epochs": 1, "shuffle": "window:rows=2000,chunk=100"}).fit(rows)
    monkeypatch.setattr(limits, "memory", lambda root="/": 1000)
    with pytest.raises(ConfigError, match="a result for 2000 rows, without out=, needs more than"):
        model.reconstruct(rows)


CHILD = """
import os, resource, sys
import numpy as np, gvae
from gvae import data

settings = dict(latent=2, hidden=(8,), random_state=0, observation="gaussian", posterior="diagonal", epochs=1,
                batch_size=2000, shuffle="window:rows=16384,chunk=1024")
small = np.random.default_rng(0).normal(size=(40000, 64)).astype(np.float32)
np.save(sys.argv[2], small)
gvae.VAE(**settings).fit(data.open_rows(sys.argv[2]))  # threads and kernels are there
rows = data.open_rows(sys.argv[1])
pages = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (pages + 100 * 2**20,) * 2)
model = gvae.VAE(**settings).fit(rows)
codes = model.transform(rows, out=sys.argv[3])
print(model.n_iter_, codes.shape[0])
try:
    rows[:]
except MemoryError:
    print("the table does not fit")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_table_larger_than_the_memory_that_is_left(tmp_path):
    n = 1_200_000
    with data.Output(tmp_path / "x.npy") as out:  # 300 MB; 100 are left to the process
        writer = out.array(None, (n, 64), np.float32)
        for seed in range(12):
            writer.append(numbers(n // 12, 64, seed))
    command = [sys.executable, "-c", CHILD, *(str(tmp_path / name) for name in ("x.npy", "small.npy", "codes.npy"))]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == [f"{n // 2000} {n}", "the table does not fit"], found.stderr[-2000:]


# ---- what is not as it should be


def resumed(path, run, **more):
    how = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 50, "epochs": 2} | more
    return gvae.VAE(**how).fit(data.open_rows(path), run=run, resume=run.exists())


def stopped(path, run, at=7, then=lambda: None):
    """A run that is stopped after a step; before, something happens."""
    left = iter(range(at, -1, -1))

    def stop():
        if next(left) == 0:
            then()
            return True
        return False

    how = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 50, "epochs": 2}
    with pytest.raises(StoppedError):
        gvae.VAE(**how).fit(data.open_rows(path), run=run, stop=stop)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_is_refused_by_name(small, name):
    folder, x = small
    stopped(folder / name, folder / "run")
    changed = x.copy()
    changed[1234, 3] += 1
    before = os.stat(folder / "x.npy")
    write(folder, changed, chunk=100)
    with pytest.raises(DataError, match=rf"{name}.* is not what it was when .*run was begun: (modified|bytes|content) was"):
        resumed(folder / name, folder / "run")
    if name == "x.npy":  # the time was set back, the size is the same: what is looked at of the content decides
        other = -x
        np.save(folder / name, other)
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(DataError, match=rf"{name} is not what it was when .*run was begun: content was"):
            resumed(folder / name, folder / "run")
        np.save(folder / name, x)
        os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        model = resumed(folder / name, folder / "run")
        assert bits(model) == bits(resumed(folder / name, folder / "another"))


def test_a_run_is_readable_and_resumed_after_its_file_was_moved(small):
    """Also if it is stopped before the first checkpoint after that: content is compared, and not its place."""
    folder, _ = small
    stopped(folder / "x.npy", folder / "run")
    whole = bits(resumed(folder / "x.npy", folder / "another"))
    (folder / "elsewhere").mkdir()
    (folder / "x.npy").rename(folder / "elsewhere" / "x.npy")
    how = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 50, "epochs": 2}
    rows = data.open_rows(folder / "elsewhere" / "x.npy")
    with pytest.raises(StoppedError):
        gvae.VAE(**how).fit(rows, run=folder / "run", resume=True, stop=lambda: True)
    gvae.load(folder / "run")
    assert bits(resumed(folder / "elsewhere" / "x.npy", folder / "run")) == whole


def test_other_validation_rows_are_refused(small):
    folder, x = small
    np.save(folder / "held.npy", x[:50])
    np.save(folder / "other.npy", x[:50] + 1)
    how = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 50}

    def fit(held, epochs, **more):
        rows, held = data.open_rows(folder / "x.npy"), data.open_rows(folder / held)
        return gvae.VAE(**how, epochs=epochs).fit(rows, validation=held, run=folder / "run", **more)

    fit("held.npy", 1)
    with pytest.raises(DataError, match=r"other\.npy is not what it was when .*run was begun"):
        fit("other.npy", 2, resume=True)
    assert len(fit("held.npy", 2, resume=True).history_) == 2


def test_names_of_columns_are_those_of_the_fit(tmp_path):
    """Windows of a file, all of it, and a DataFrame with the columns in another order are compared with the same names."""
    x = numbers(60, 2)
    for name, order in (("ab", [0, 1]), ("ba", [1, 0])):
        table = pyarrow.table({"ab"[j]: x[:, j] for j in order})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=20)
    ab, ba = (data.open_rows(tmp_path / f"{name}.parquet") for name in ("ab", "ba"))
    for shuffle in ("full", "window:20"):
        model = gvae.VAE(**SMALL | {"latent": 1, "epochs": 1, "shuffle": shuffle}).fit(ab)
        assert model.feature_names_in_.tolist() == ["a", "b"]
        assert model.transform(ab).shape == (60, 1)
        for use in (model.transform, model.score_samples, model.codes):
            with pytest.raises(DataError, match="must be in the same order as they were in fit"):
                use(ba)


def test_an_evaluation_compares_the_names_of_columns(gvae_, here):
    x = numbers(40, 2)
    np.savetxt("ab.csv", x, delimiter=",", header="a,b", comments="")
    np.savetxt("ba.csv", x[:, ::-1], delimiter=",", header="b,a", comments="")
    assert gvae_("train", "ab.csv", "--latent", "1", "--hidden", "4", "--epochs", "1", "--out", "run", "--quiet")[0] == 0
    assert gvae_("evaluate", "run", "ab.csv", "--samples", "2")[0] == 0
    code, out, err = gvae_("evaluate", "run", "ba.csv", "--samples", "2")
    assert (code, out) == (2, "")
    assert "the columns are b, a, but the model was trained on a, b: expected the same names in the same order" in err


def test_threads_read_a_file_of_row_groups(small):
    folder, x = small
    rows, wrong = data.open_rows(folder / "x.parquet"), []

    def read(seed):
        places = np.random.default_rng(seed)
        for _ in range(30):
            begin = int(places.integers(0, 1900))
            index = np.arange(begin, begin + 100)
            if not np.array_equal(rows.take(index), x[index]):
                wrong.append(begin)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("in_memory", [True, False])
def test_all_keys_are_read_whether_or_not_rows_are(tmp_path, in_memory):
    x, y, w = numbers(20, 3), np.arange(20.0), np.linspace(1, 2, 20)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, values in {"x": x, "y": y, "weight": w, "labels": np.arange(20) % 3}.items():
            file[name] = values
    found = data.load(tmp_path / "x.h5", in_memory=in_memory)
    held = np.arange(20) % 10 == 9
    for name, values in (("y", y), ("weight", w)):
        for part, which in zip(found.columns[name], (~held, held), strict=True):
            np.testing.assert_allclose(part, values[which], rtol=1e-6)
    np.testing.assert_array_equal(found.train_labels, (np.arange(20) % 3)[~held])
    np.testing.assert_array_equal(found.test_labels, (np.arange(20) % 3)[held])


def test_sparse_groups_that_are_not_rows(tmp_path):
    matrix = scipy.sparse.random_array((6, 6), density=0.5, rng=np.random.default_rng(0))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, form, parts in (
            ("columns", "csc_matrix", ("data", "indices", "indptr")),
            ("part", "csr_matrix", ("indices", "indptr")),
        ):
            group, kept = file.create_group(name), scipy.sparse.csc_array(matrix)
            group.attrs["encoding-type"], group.attrs["shape"] = form, (6, 6)
            for part in parts:
                group[part] = getattr(kept, part)
        with pytest.raises(DataError, match=r"a sparse matrix by columns \(CSC\), expected one by rows \(CSR\)"):
            data.rows.CsrRows(file["columns"], "x.h5", "columns")
        with pytest.raises(DataError, match="a sparse matrix without 'data'"):
            data.rows.CsrRows(file["part"], "x.h5", "part")
    with pytest.raises(DataError, match="one of train and test is sparse, and the other is not"):
        data.dataset.assemble("x", "x", scipy.sparse.csr_array(matrix), np.ones((2, 6)))
    with pytest.raises(DataError, match="'train_y': a sparse matrix; expected a dense array"):
        data.dataset.assemble("x", "x", np.ones((6, 2)), train_y=scipy.sparse.csr_array(matrix))


def test_a_part_by_a_mask(small):
    folder, x = small
    mask = np.arange(len(x)) % 3 == 1
    part = data.Part(data.open_rows(folder / "x.npy"), mask)
    assert part.shape == (mask.sum(), D)
    np.testing.assert_array_equal(part.take(np.arange(5)), x[mask][:5])


def test_other_validation_rows_in_a_file_are_refused(small):
    folder, _ = small
    rows, how = data.open_rows(folder / "x.npy"), SMALL | {"epochs": 1, "batch_size": 500, "shuffle": "window:500"}
    gvae.VAE(**how).fit(rows, run=folder / "run")
    with pytest.raises(DataError, match=r"was begun without rows of a file as validation x, but .*x.h5"):
        gvae.VAE(**how | {"epochs": 2}).fit(
            rows, validation=data.open_rows(folder / "x.h5"), run=folder / "run", resume=True
        )


def test_y_in_a_list(small):
    folder, _ = small
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(60, 2))
    np.save(folder / "short.npy", x)
    model = gvae.VCCA(latent=2, hidden=(3,), epochs=1, random_state=0, observation="gaussian").fit(x, y)
    found = model.codes(data.open_rows(folder / "short.npy"), y.tolist())
    assert found.keys() == model.codes(x, y).keys()


def test_y_of_another_length_than_rows(small):
    folder, x = small
    model = gvae.VCCA(latent=1, private=(1, 1), hidden=(4,), epochs=1, random_state=0).fit(x[:100], x[:100, :2])
    with pytest.raises(DataError, match="2000 rows of x, 30 rows of y"):
        model.codes(data.open_rows(folder / "x.npy"), x[:30, :2])


def test_a_target_is_for_parquet_files(tmp_path):
    for source in ("digits", numbers(10)):
        with pytest.raises(DataError, match="load: target is 'c', expected None"):
            data.load(source, target="c")


def test_a_run_that_was_begun_in_memory_stays_there(small, monkeypatch):
    folder, x = small
    rows, how = data.open_rows(folder / "x.npy"), SMALL | {"epochs": 1, "batch_size": 50}
    gvae.VAE(**how).fit(rows, run=folder / "run")
    monkeypatch.setattr(limits, "memory", lambda root="/": 2 * x.nbytes)  # as on a smaller machine: auto would be windows
    model = gvae.VAE(**how | {"epochs": 2}).fit(rows, run=folder / "run", resume=True)
    assert bits(model) == bits(gvae.VAE(**how | {"epochs": 2, "shuffle": "full"}).fit(x))


def test_another_kind_of_data_is_refused(small):
    folder, x = small
    stopped(folder / "x.npy", folder / "run")
    how = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 50, "epochs": 2}
    with pytest.raises(DataError, match=r"was begun with the rows of a file as x, .*x.npy: give that file"):
        gvae.VAE(**how).fit(x, run=folder / "run", resume=True)


def test_what_goes_wrong_while_training_loses_nothing(small):
    folder, x = small
    path, stat = folder / "x.npy", os.stat(folder / "x.npy")
    content, left = path.read_bytes(), iter(range(10, -100, -1))

    def stop():
        if next(left) == 0:
            os.truncate(path, 1000)
        return False

    how = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 50, "epochs": 2}
    with pytest.raises(
        DataError, match=r"x.npy: chunk \d+ .* \(truncated: 1000 bytes\); the run is kept at step \d+$"
    ) as error:
        gvae.VAE(**how).fit(data.open_rows(path), run=folder / "run", stop=stop)
    assert "\n" not in str(error.value)
    kept = int(str(error.value).split()[-1])
    assert kept >= 11
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    model = resumed(path, folder / "run")
    assert bits(model) == bits(gvae.VAE(**how).fit(x))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite(tmp_path, value):
    x = numbers(5000)
    x[4321, 2] = value
    np.save(tmp_path / "x.npy", x)
    how = SMALL | {"shuffle": "window:rows=400,chunk=100", "batch_size": 50, "epochs": 1, "standardize": False}
    words = (
        r"X \(.*x.npy\), rows 4300 to 4399: NaN or infinite values: 1 in all, the first, (nan|inf), at row 4321, column 2"
    )
    with pytest.raises(DataError, match=words):
        gvae.VAE(**how).fit(data.open_rows(tmp_path / "x.npy"))
    with pytest.raises(DataError, match="at row 4321, column 2"):  # by the pass that standardization makes
        gvae.VAE(**how | {"standardize": True}).fit(data.open_rows(tmp_path / "x.npy"))
    model = gvae.VAE(**how).fit(x[:100])
    for use in (model.transform, model.score_samples, model.reconstruct):
        with pytest.raises(DataError, match="at row 4321, column 2"):
            use(data.open_rows(tmp_path / "x.npy"), out=tmp_path / "out.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]


def test_a_row_outside_of_the_support(tmp_path):
    x = np.random.default_rng(0).poisson(3.0, (1000, 4)).astype(np.float32)
    x[777, 1] = -1
    np.save(tmp_path / "x.npy", x)
    how = SMALL | {"shuffle": "window:rows=200,chunk=50", "observation": "poisson", "epochs": 1}
    with pytest.raises(
        DataError, match=r"rows 750 to 799: values outside 0, 1, ..: 1 in all, the first, -1.0, at row 777, column 1"
    ):
        gvae.VAE(**how).fit(data.open_rows(tmp_path / "x.npy"))


def test_damaged_files(small):
    folder, _ = small
    for name, keep in (("x.npy", 1000), ("x.h5", 300), ("x.parquet", 300)):
        os.truncate(folder / name, keep)
        with pytest.raises(DataError, match=rf"{name}: .*(truncated|damaged)"):
            data.open_rows(folder / name)
    (folder / "x.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match=r"x.zarr: damaged or not a Zarr array or group"):
        data.open_rows(folder / "x.zarr")
    with pytest.raises(DataError, match="no such file"):
        data.open_rows(folder / "y.npy")
    np.save(folder / "o.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(DataError, match="pickled arrays are refused"):
        data.open_rows(folder / "o.npy")


# ---- packing


def test_pack(small):
    folder, x = small
    shapes = data.pack({"train": data.open_rows(folder / "x.h5")}, folder / "p.zarr", key=random.key(5), chunk=64)
    assert shapes == {"train": (2000, D)}
    rows = data.open_rows(folder / "p.zarr")
    order = random.permutation(random.fold_in(random.key(5), 0), 2000)
    np.testing.assert_array_equal(rows[:], x[order])
    assert rows.chunk == 64
    data.pack({"train": data.open_rows(folder / "x.h5")}, folder / "q.zarr")
    np.testing.assert_array_equal(data.open_rows(folder / "q.zarr")[:], x)
    with pytest.raises(RunError, match="exists; name a new one"):
        data.pack({"train": rows}, folder / "q.zarr")
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.zarr"):
        data.pack({"train": rows}, folder / "q.npy")


def test_pack_beyond_memory(small, monkeypatch):
    folder, x = small
    data.pack({"train": data.open_rows(folder / "x.npy")}, folder / "p.zarr", key=random.key(5))
    monkeypatch.setattr(limits, "memory", lambda root="/": x.nbytes)
    monkeypatch.setattr("gvae.data.rows.writing.BUDGET", 8 * 37 * D * 4)
    data.pack({"train": data.open_rows(folder / "x.npy")}, folder / "q.zarr", key=random.key(5))
    np.testing.assert_array_equal(data.open_rows(folder / "p.zarr")[:], data.open_rows(folder / "q.zarr")[:])
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_keys_of_packed_columns(tmp_path):
    x = numbers(12)
    packed = data.pack({"x": x, "y": np.arange(12.0), "weight": np.ones(12)}, tmp_path / "p.zarr")
    assert packed == {"train": (12, D), "train_y": (12,), "train_weight": (12,)}
    np.testing.assert_array_equal(data.load(tmp_path / "p.zarr", in_memory=False).columns["y"][1], [9.0])
    with pytest.raises(ConfigError, match="pack: a column is named 'rows', expected x, y, weight, labels, train, "):
        data.pack({"rows": x}, tmp_path / "q.zarr")
    with pytest.raises(DataError, match="pack: train without rows"):
        data.pack({"train": x[:0]}, tmp_path / "q.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["p.zarr"]


def test_packed_columns_keep_together(tmp_path):
    x = numbers(300)
    columns = {"train": x, "train_y": np.arange(300), "test": x[:20], "test_y": np.arange(20)}
    data.pack({name: data.ArrayRows(part) for name, part in columns.items()}, tmp_path / "p.zarr", key=random.key(0))
    found = data.load(tmp_path / "p.zarr")
    labels = found.columns["y"][0]
    assert sorted(labels.tolist()) == list(range(300))
    assert labels.tolist() != list(range(300))
    np.testing.assert_array_equal(found.train, x[labels])
    np.testing.assert_array_equal(found.test, x[:20][found.columns["y"][1]])
    with pytest.raises(DataError, match="columns have different lengths"):
        data.pack({"train": data.ArrayRows(x), "train_y": data.ArrayRows(np.arange(3))}, tmp_path / "q.zarr")
    assert not (tmp_path / "q.zarr").exists()


def test_packed_counts(tmp_path):
    counts = scipy.sparse.csr_array(np.random.default_rng(0).poisson(0.3, (500, 20)).astype(np.float32))
    for key, order in ((None, np.arange(500)), (random.key(2), random.permutation(random.fold_in(random.key(2), 0), 500))):
        path = tmp_path / f"{key is None}.zarr"
        data.pack({"train": data.ArrayRows(counts)}, path, key=key)
        assert (data.open_rows(path)[:] != counts[order]).nnz == 0


def test_packed_rows_are_known_by_their_checksums(small):
    folder, _ = small
    data.pack({"train": data.open_rows(folder / "x.npy")}, folder / "p.zarr", chunk=100)
    stopped(folder / "p.zarr", folder / "run")
    os.rename(folder / "p.zarr", folder / "moved.zarr")  # by another name, with other times
    os.utime(folder / "moved.zarr" / "zarr.json")
    model = resumed(folder / "moved.zarr", folder / "run")
    assert bits(model) == bits(resumed(folder / "x.npy", folder / "other"))
    chunks = sorted(path for path in (folder / "moved.zarr" / "c").rglob("*") if path.is_file())
    content = chunks[3].read_bytes()
    for damaged in (content[: len(content) // 2], content[::-1], None):
        if damaged is None:
            chunks[3].unlink()  # which Zarr reads as zeros
        else:
            chunks[3].write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"moved.zarr: chunk \d+ \(counted from 0; rows \d+ to \d+\) is damaged or not readable"
        ):
            data.open_rows(folder / "moved.zarr")[:]
    chunks[3].write_bytes(content)
    array = zarr.open(folder / "moved.zarr")
    array[1234, 0] = 77  # a valid chunk, of other numbers
    with pytest.raises(DataError, match=r"chunk 12 .*not the content that was packed"):
        data.open_rows(folder / "moved.zarr").take(np.array([1250]))


FULL = """
import resource, sys
from gvae.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("out", ["pack", "npy", "zarr"])
def test_a_disk_without_room(tmp_path, out):
    x = np.random.default_rng(0).integers(0, 256, (3000, 50), np.uint8)
    np.save(tmp_path / "x.npy", x)
    if out == "pack":
        command = ["data", "pack", str(tmp_path / "x.npy"), "--out", str(tmp_path / "x.zarr")]
        found = subprocess.run([sys.executable, "-c", FULL, *command], capture_output=True, text=True, check=False)
        assert found.returncode == 2
        assert found.stdout == ""
        assert found.stderr.startswith(f"gvae data: cannot write {tmp_path / 'x.zarr'}: File too large")
        assert len(found.stderr.splitlines()) == 1
    else:
        code = textwrap.dedent(f"""
            import resource, numpy as np, gvae
            from gvae import data
            from gvae.errors import RunError
            rows = data.open_rows({str(tmp_path / "x.npy")!r})
            model = gvae.VAE(latent=2, hidden=(8,), observation="bernoulli", posterior="diagonal", steps=1).fit(rows)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
            try:
                model.reconstruct(rows, out={str(tmp_path / f"out.{out}")!r})
            except RunError as error:
                print(error)
        """)
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert found.stdout == f"cannot write {tmp_path / f'out.{out}'}: File too large; nothing of it was kept\n", (
            found.stderr
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x)


# ---- use


@pytest.mark.parametrize("name", FILES)
def test_use_of_rows(small, name, monkeypatch):
    folder, x = small
    monkeypatch.setattr("gvae.estimator.base.CHUNK", 300)
    model = gvae.VAE(**SMALL | {"epochs": 1}).fit(x)
    rows = data.open_rows(folder / name)
    for use, how in (("transform", {}), ("reconstruct", {}), ("score_samples", {"samples": 3})):
        expected = getattr(model, use)(x, **how)
        np.testing.assert_array_equal(getattr(model, use)(rows, **how), expected)
        for suffix in (".npy", ".zarr"):
            found = getattr(model, use)(rows, out=folder / f"{use}{suffix}", **how)
            np.testing.assert_array_equal(np.asarray(found[:]), expected)
            with pytest.raises(RunError, match="exists"):
                getattr(model, use)(rows, out=folder / f"{use}{suffix}", **how)
    found, expected = model.evaluate(rows, samples=3, measures="units"), model.evaluate(x, samples=3, measures="units")
    np.testing.assert_array_equal(found.elbo, expected.elbo)
    np.testing.assert_array_equal(found.measures["units"].activity, expected.measures["units"].activity)
    np.testing.assert_array_equal(model.transform(x, out=folder / "of-array.npy"), model.transform(x))


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
def test_an_evaluation_in_a_file(small, monkeypatch, suffix):
    """It has the bits of one in memory, and a .npy file is memory-mapped; nothing is left where it cannot be written."""
    folder, x = small
    model = gvae.VAE(**SMALL | {"epochs": 1}).fit(x)
    expected, out = model.evaluate(x, samples=30), folder / "out" / f"rows{suffix}"
    out.parent.mkdir()
    found = model.evaluate(data.open_rows(folder / "x.npy"), samples=30, out=out)
    for name in evaluation.COLUMNS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.summary() == expected.summary()
    if suffix == ".npy":
        assert isinstance(found.elbo, np.memmap)
        kept = np.load(out)[:, evaluation.COLUMNS.index("log_likelihood")]
    else:
        kept = pytest.importorskip("zarr").open(out, mode="r")["log_likelihood"][:]
    np.testing.assert_array_equal(kept, expected.log_likelihood)
    for wrong in ({"measures": "units"}, {"partial": out.with_name("part")}):
        with pytest.raises(ConfigError, match=r"out= cannot be combined with measures=, partial= or several ranks"):
            model.evaluate(x, **{"out": out.with_stem("more")} | wrong)
    with pytest.raises(RunError, match="exists"):
        model.evaluate(x, out=out)
    monkeypatch.setattr(limits, "memory", lambda root="/": 1000)
    with pytest.raises(ConfigError, match=r"an evaluation of \d+ rows, without out=, needs more"):
        model.evaluate(x)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(("asked", "rows"), [("rows=50,chunk=20", 40), ("rows=5,chunk=20", 20), ("rows=40,chunk=20", 40)])
def test_a_window_has_whole_chunks_and_says_so(small, asked, rows):
    folder, _ = small
    given = SMALL | {"epochs": 1, "shuffle": f"window:{asked}"}
    model = gvae.VAE(**given).fit(data.open_rows(folder / "x.npy"), run=folder / "r")
    assert model.config_["fitted"]["shuffle"] == f"window:rows={rows},chunk=20"
    gvae.VAE(**given | {"epochs": 2}).fit(data.open_rows(folder / "x.npy"), run=folder / "r", resume=True)


def test_several_views_are_a_group(tmp_path):
    x = numbers(200)
    model = gvae.VCCA(latent=2, hidden=(8,), random_state=0, epochs=1).fit(x, x[:, :3])
    expected = model.reconstruct(x)
    found = model.reconstruct(x, out=tmp_path / "both.zarr")
    assert found.keys() == expected.keys() == {"x", "y"}
    for name, array in found.items():
        np.testing.assert_array_equal(array[:], expected[name])
    with pytest.raises(ConfigError, match=r"a .npy file has one array, and there are several"):
        model.reconstruct(x, out=tmp_path / "both.npy")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda x: x[:-1], r"shape \(29, 6\) for 30 rows, expected an array of shape \(30, 6\)"),
        (lambda x: x[:, :3], r"shape \(30, 3\) for 30 rows"),
        (lambda x: x.tolist(), "list for 30 rows"),
        (lambda x: None, "NoneType for 30 rows"),
    ],
    ids=["fewer rows", "fewer columns", "a list", "nothing"],
)
def test_a_class_of_the_callers_that_returns_other_rows(given, said):
    x = np.random.default_rng(0).normal(size=(60, 6))
    model = gvae.VAE(latent=2, hidden=(4,), epochs=1, batch_size=30, random_state=0).fit(x)

    class Own:
        shape, dtype, fingerprint = x.shape, x.dtype, {"mine": 1}

        def take(self, index):
            return given(x[index][:30])

    with pytest.raises(DataError, match=r"Own: take returned "):
        model.transform(Own())
    with pytest.raises(DataError, match=f"Own: take returned {said}"):
        data.rows.Column(Own(), lambda rows: rows, x.shape, x.dtype)[np.arange(30)]
    with pytest.raises(DataError, match="Own: take returned "):
        gvae.VAE(latent=2, hidden=(4,), epochs=1, batch_size=30, shuffle="window:30").fit(Own())


def test_a_fingerprint_that_is_no_dict(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 6))

    class Own:
        shape, dtype, fingerprint = x.shape, x.dtype, "abc"

        def take(self, index):
            return x[index]

    with pytest.raises(DataError, match="x: Own has the fingerprint 'abc', expected a dict"):
        gvae.VAE(latent=2, hidden=(4,), epochs=1, shuffle="window:30").fit(Own(), run=tmp_path / "run")


def test_an_evaluation_is_resumed(small):
    folder, x = small
    model = gvae.VAE(**SMALL | {"epochs": 1}).fit(x)
    expected = model.evaluate(x, samples=3)
    rows, calls = data.open_rows(folder / "x.zarr"), iter(range(9, -1, -1))

    class Interrupted(ZarrRows):
        def take(self, index):
            if next(calls) == 0:
                raise KeyboardInterrupt
            return super().take(index)

    with pytest.raises(KeyboardInterrupt):
        model.evaluate(Interrupted(rows.array, rows.path), samples=3, partial=folder / "partial")
    np.testing.assert_array_equal(model.evaluate(rows, samples=3, partial=folder / "partial").elbo, expected.elbo)
    assert not (folder / "partial").exists()


# ---- from the shell


def test_from_the_shell(gvae_, here):
    x = numbers(2000)
    np.save("x.npy", x)
    assert gvae_("data", "pack", "x.npy", "--out", "x.zarr", "--keep-order", "--chunk", "100") == (
        0,
        "x.zarr: train, 2000 rows of 6\n",
        "",
    )
    how = [
        "--latent",
        "2",
        "--posterior",
        "diagonal",
        "--hidden",
        "8",
        "--epochs",
        "1",
        "--shuffle",
        "window:rows=400,chunk=100",
    ]
    for name in ("x.npy", "x.zarr"):
        code, out, err = gvae_("train", name, "--out", f"run-{name}", *how)
        assert (code, err) == (0, ""), err
        assert "standardized; shuffle window:rows=400,chunk=100\n" in out
    assert gvae.load("run-x.npy").parameters_.sha256() == gvae.load("run-x.zarr").parameters_.sha256()
    assert gvae_("train", "--resume", "run-x.zarr", "--epochs", "2", "--quiet") == (0, "", "")
    assert gvae.load("run-x.zarr").n_iter_ == 36
    assert "200 rows" in gvae_("evaluate", "run-x.zarr", "--samples", "2")[1]
    code, out, err = gvae_("data", "pack", "x.npy", "--out", "x.zarr")
    assert (code, out, err) == (2, "", "gvae data: x.zarr exists; name a new one, nothing was written\n")
    code, out, err = gvae_("data", "pack", "none.npy", "--out", "y.zarr")
    assert (code, out, err) == (2, "", "gvae data: none.npy: no such file\n")


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".txt", " ")])
def test_text_is_converted_as_the_message_says(gvae_, here, suffix, delimiter):
    np.savetxt(f"ok{suffix}", numbers(20), delimiter=delimiter)
    code, _, err = gvae_("data", "pack", f"ok{suffix}", "--out", "x.zarr")
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith(", with skiprows=1 where its first line has names\n")
    with pytest.raises(DataError, match=r"convert it by np\.save\("):
        data.open_rows(f"ok{suffix}")
    exec(err.partition("convert it by ")[2].rpartition(", with")[0])
    np.testing.assert_array_equal(data.open_rows("ok.npy")[:].astype(np.float32), numbers(20))


def test_other_kinds_of_files_are_not_rows(tmp_path):
    (tmp_path / "x.orc").write_text("ORC")
    with pytest.raises(DataError, match=r"known are .*\.parquet$"):
        data.open_rows(tmp_path / "x.orc")


def test_a_target_from_the_shell(gvae_, here):
    x = numbers(400)
    table = pyarrow.table({f"c{j}": x[:, j] for j in range(D)} | {"kind": (x[:, 0] > 1).astype(np.int64)})
    pyarrow.parquet.write_table(table, "t.parquet", row_group_size=50)
    how = ["--model", "vib", "--target", "kind", "--latent", "2", "--hidden", "8", "--epochs", "1", "--quiet"]
    assert gvae_("train", "t.parquet", "--out", "run", *how) == (0, "", "")
    assert gvae.load("run").classes_.tolist() == [0, 1]
    assert gvae_("evaluate", "run", "--samples", "2")[0] == 0  # it remembers the column
    assert gvae_("train", "--resume", "run", "--epochs", "2", "--quiet") == (0, "", "")
