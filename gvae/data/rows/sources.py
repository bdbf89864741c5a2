"""Rows in files: .npy, Zarr, HDF5, Parquet, and compressed sparse rows in Zarr or HDF5.

Each class reads ranges of consecutive rows; rows that cannot be read raise DataError, which names file, chunk and rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gvae.data.readers import open_npy
from gvae.data.rows.protocol import ArrayRows, Rows, Taken, check_numbers, default_chunk, is_run
from gvae.errors import DataError, DependencyError

__all__ = [
    "PACKED",
    "ROLES",
    "SUFFIXES",
    "CsrRows",
    "HDF5Rows",
    "NpyRows",
    "ParquetRows",
    "ZarrRows",
    "as_rows",
    "columns_of_file",
    "open_rows",
]

SUFFIXES = (".npy", ".zarr", ".h5", ".hdf5", ".parquet")
DELIMITERS = {".csv": ', delimiter=","', ".tsv": ', delimiter="\\t"', ".txt": ""}  # in text files, for np.loadtxt
ROLES = ("train", "test", "x", "y", "weight", "labels")  # of arrays in Zarr groups and HDF5 files, see `gvae.data.load`
PACKED = "gvae"  # the attribute in which a packed array keeps the checksums of its chunks
PLACES = 16  # the number of places in the files at which content is read for the fingerprint
BYTES = 1 << 14  # bytes read at each of them


class Stored(Taken):
    """Base of rows in files; a subclass has `shape`, `dtype`, `chunk` and `_read`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: int

    def __init__(self, path: str | os.PathLike, key: str | None = None):
        self.path, self.key = Path(path), key

    @property
    def where(self) -> str:
        """The file, for messages."""
        return f"{self.path}, {self.key!r}" if self.key else str(self.path)

    def _read(self, begin: int, end: int) -> Any:
        raise NotImplementedError

    def read(self, begin: int, end: int) -> Any:
        """Rows begin .. end - 1. Raises DataError."""
        try:
            x = self._read(begin, end)
        except (DataError, DependencyError, MemoryError):
            raise
        except Exception as error:  # a damaged file can make a library raise any error
            first, last = begin // self.chunk, (end - 1) // self.chunk
            for c in range(first, last + 1) if last > first else ():  # finds the damaged one
                self.read(max(begin, c * self.chunk), min(end, (c + 1) * self.chunk))
            raise self.damaged(begin, end, " ".join(str(error).split()) or type(error).__name__) from error
        if x.shape != (end - begin, *self.shape[1:]):
            raise self.damaged(begin, end, f"{x.shape} found, expected {(end - begin, *self.shape[1:])}")
        return x

    def damaged(self, begin: int, end: int, why: str) -> DataError:
        first, last = begin // self.chunk, max(begin, end - 1) // self.chunk
        chunks = f"chunk {first}" if first == last else f"one of the chunks {first} to {last}"
        return DataError(
            f"{self.where}: {chunks} (counted from 0; rows {begin} to {end - 1}) is damaged or not readable ({why})"
        )

    def take(self, index: np.ndarray) -> Any:
        """The rows with the given indices: see `Rows.take`."""
        index = np.asarray(index, np.int64)
        n = len(index)
        check_numbers(index, self.shape[0], self.where)
        if n == 0:
            return self._joined([], np.zeros(0, np.int64))
        if is_run(index):
            return self.read(int(index[0]), int(index[0]) + n)
        order = np.argsort(index, kind="stable")
        ascending = index[order]
        cuts = np.flatnonzero(np.diff(ascending // self.chunk)) + 1  # each chunk is read once
        parts = []
        for rows in np.split(ascending, cuts):
            block = self.read(int(rows[0]), int(rows[-1]) + 1)
            parts.append(block if is_run(rows) else block[rows - rows[0]])
        back = np.empty(n, np.int64)
        back[order] = np.arange(n)
        return self._joined(parts, back)

    def _take_into(self, index: np.ndarray, out: np.ndarray) -> None:
        fill = getattr(self, "_fill", None)
        if fill is not None and is_run(index) and index[0] >= 0 and index[-1] < self.shape[0] and out.flags.c_contiguous:
            try:
                fill(int(index[0]), int(index[0]) + len(index), out)
                return
            except Exception:  # `take` raises it again, with a message that names the file
                pass
        out[...] = self.take(index)

    def _joined(self, parts: list[Any], order: np.ndarray) -> Any:
        if not parts:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        return np.concatenate(parts)[order]

    def files(self) -> Iterator[Path]:
        """The files that hold the rows."""
        yield self.path

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Shape and dtype; number, sizes and times of modification of the files; and a hash of some of their content.

        A change that keeps size, time and the content of all places that are read is not noticed.

        Examples
        --------
        >>> np.save("rows.npy", np.zeros((5, 2)))
        >>> sorted(gvae.data.open_rows("rows.npy").fingerprint)
        ['bytes', 'content', 'dtype', 'file', 'files', 'modified', 'shape']
        """
        entries, size, latest = [], 0, 0
        for path in self.files():
            stat = os.stat(path)
            entries.append((str(path.relative_to(self.path)) if path != self.path else "", stat.st_size, stat.st_mtime_ns))
            size, latest = size + stat.st_size, max(latest, stat.st_mtime_ns)
        entries.sort()
        when = datetime.fromtimestamp(latest / 1e9, UTC).isoformat(timespec="seconds")
        times = hashlib.sha256(repr(entries).encode()).hexdigest()[:12]  # the times of all files, by name
        about = {"shape": list(self.shape), "dtype": np.dtype(self.dtype).str, "file": self.where}
        return about | {"files": len(entries), "bytes": size, "modified": f"{when} {times}", "content": self._content()}

    def _content(self) -> str:
        """A hash of bytes at places spread evenly over the files."""
        digest, paths = hashlib.sha256(), sorted(self.files())
        for path in paths[:: max(1, len(paths) // PLACES)]:
            size = os.path.getsize(path)
            n = max(1, PLACES // len(paths))
            with open(path, "rb") as stream:
                for i in range(n + 1):
                    stream.seek(max(0, (size - BYTES) * i // n))
                    digest.update(stream.read(BYTES))
        return digest.hexdigest()[:32]


class NpyRows(Stored):
    """Rows of a .npy file: none is read before it is taken. A file in Fortran order is mapped into memory.

    Parameters
    ----------
    path : path

    Raises
    ------
    DataError
        The file is missing, damaged or not an array of real numbers.

    Examples
    --------
    >>> np.save("rows.npy", np.arange(6.0).reshape(3, 2))
    >>> gvae.data.rows.NpyRows("rows.npy").take(np.array([1]))
    array([[2., 3.]])
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        self.shape, self.dtype, self.fortran, self.offset = open_npy(Path(path))
        self.row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self.chunk = default_chunk(self.row_bytes)
        if self.fortran:
            self.map = np.load(path, mmap_mode="r", allow_pickle=False)

    def _read(self, begin: int, end: int) -> np.ndarray:
        x = np.empty((end - begin, *self.shape[1:]), self.dtype)
        self._fill(begin, end, x)
        return x

    def _fill(self, begin: int, end: int, x: np.ndarray) -> None:
        if self.fortran:
            x[...] = self.map[begin:end]
            return
        # reading rather than mapping: pages that a map has touched count as memory of this process, and a file that has been
        # truncated meanwhile is an error instead of a bus error
        with open(self.path, "rb", buffering=0) as stream:
            stream.seek(self.offset + begin * self.row_bytes)
            view, done = memoryview(x).cast("B") if x.size else memoryview(b""), 0
            while done < len(view):
                n = stream.readinto(view[done:])
                if not n:
                    raise EOFError(f"truncated: {os.path.getsize(self.path)} bytes")
                done += n


class ZarrRows(Stored):
    """Rows of a Zarr array. If `gvae data pack` has written it, a chunk's checksum is verified when the chunk is first read.

    Parameters
    ----------
    array : zarr.Array
        Real numbers, (N, ...).
    path : path, optional
        Where it is, for messages; by default the location of its store.
    key : str, optional
        Its name within a group.

    Examples
    --------
    >>> import zarr
    >>> array = zarr.create_array("rows.zarr", shape=(6, 2), chunks=(3, 2), dtype="f4")
    >>> array[:] = np.arange(12).reshape(6, 2)
    >>> rows = gvae.data.rows.ZarrRows(array)
    >>> rows.chunk, rows.take(np.array([5, 0]))
    (3, array([[10., 11.],
               [ 0.,  1.]], dtype=float32))
    """

    def __init__(self, array: Any, path: str | os.PathLike | None = None, key: str | None = None):
        root = getattr(array.store, "root", None)
        inside = array.path if key is None else key
        super().__init__(path or root or str(array.store), inside or None)
        self.array, self.shape, self.dtype, self.chunk = array, tuple(array.shape), array.dtype, int(array.chunks[0])
        self.folder = None if root is None else Path(root) / array.path
        packed = array.attrs.asdict().get(PACKED)
        self.packed: dict[str, Any] | None = packed if isinstance(packed, dict) else None
        self.unseen = np.ones(-(-self.shape[0] // self.chunk), bool)
        if self.packed is not None and len(self.packed.get("crc32", ())) != len(self.unseen):
            raise DataError(f"{self.where}: damaged: expected {len(self.unseen)} checksums, one for each chunk")

    def _read(self, begin: int, end: int) -> np.ndarray:
        first, last = begin // self.chunk, -(-end // self.chunk)
        if self.packed is None or not self.unseen[first:last].any():
            return np.asarray(self.array[begin:end])
        low = first * self.chunk
        x = np.asarray(self.array[low : min(last * self.chunk, self.shape[0])])
        for c in range(first, last):
            block = x[c * self.chunk - low : (c + 1) * self.chunk - low]
            if self.unseen[c] and zlib.crc32(np.ascontiguousarray(block)) != self.packed["crc32"][c]:
                a = c * self.chunk
                raise self.damaged(a, a + len(block), "not the content that was packed")
            self.unseen[c] = False
        return x[begin - low : end - low]

    def files(self) -> Iterator[Path]:
        if self.folder is not None:
            for folder, _, names in os.walk(self.folder):
                yield from (Path(folder, name) for name in names)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """For a packed array its SHA-256, wherever it is; for any other array as for other files."""
        about = {"shape": list(self.shape), "dtype": np.dtype(self.dtype).str, "file": self.where}
        if self.packed is not None:
            return about | {"sha256": self.packed.get("sha256")}
        if self.folder is None:
            return about | {"metadata": repr(self.array.metadata)}
        return super().fingerprint


class HDF5Rows(Stored):
    """Rows of a dataset in an HDF5 file.

    Parameters
    ----------
    dataset : h5py.Dataset
        Real numbers, (N, ...).

    Examples
    --------
    >>> import h5py
    >>> with h5py.File("rows.h5", "w") as file:
    ...     dataset = file.create_dataset("train", data=np.arange(6.0).reshape(3, 2), chunks=(2, 2))
    ...     print(gvae.data.rows.HDF5Rows(dataset).take(np.array([2])))
    [[4. 5.]]
    """

    def __init__(self, dataset: Any):
        super().__init__(dataset.file.filename, dataset.name.strip("/"))
        self.dataset, self.shape, self.dtype = dataset, tuple(dataset.shape), dataset.dtype
        n_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self.chunk = default_chunk(n_bytes) if dataset.chunks is None else int(dataset.chunks[0])

    def _read(self, begin: int, end: int) -> np.ndarray:
        x = np.empty((end - begin, *self.shape[1:]), self.dtype)
        self._fill(begin, end, x)
        return x

    def _fill(self, begin: int, end: int, x: np.ndarray) -> None:
        if x.size:
            self.dataset.read_direct(x, np.s_[begin:end])


class CsrRows(Stored):
    """Sparse rows of a Zarr or HDF5 group that has the arrays "data", "indices" and "indptr", as AnnData writes them.

    Parameters
    ----------
    group : zarr.Group or h5py.Group
    path : path
    key : str, optional
        Its name within the file.

    Raises
    ------
    DataError
        The shape or an array is missing, the pointers do not fit the values, or the matrix is stored by columns.

    Notes
    -----
    "indptr" is in memory, 8 bytes for each row. The shape is the attribute or array "shape".

    Examples
    --------
    >>> import h5py
    >>> with h5py.File("counts.h5", "w") as file:
    ...     group = file.create_group("train")
    ...     for name, values in {"data": [2.0, 1.0], "indices": [1, 0], "indptr": [0, 1, 2], "shape": [2, 3]}.items():
    ...         group[name] = values
    ...     print(gvae.data.rows.CsrRows(group, "counts.h5", "train").take(np.array([1])).toarray())
    [[1. 0. 0.]]
    """

    def __init__(self, group: Any, path: str | os.PathLike, key: str | None = None):
        super().__init__(path, key)
        if "csc" in str(group.attrs.get("encoding-type", "")):
            raise DataError(f"{self.where}: a sparse matrix by columns (CSC), expected one by rows (CSR)")
        if missing := [part for part in ("data", "indices", "indptr") if part not in group]:
            raise DataError(f"{self.where}: a sparse matrix without {missing[0]!r}")
        self.data, self.indices = group["data"], group["indices"]
        self.indptr = np.asarray(group["indptr"][:], np.int64)
        shape = group.attrs["shape"] if "shape" in group.attrs else group["shape"][:] if "shape" in group else None
        if shape is None or len(shape) != 2:
            raise DataError(f"{self.where}: a sparse matrix without a shape (N, D)")
        self.shape, self.dtype = (int(shape[0]), int(shape[1])), self.data.dtype
        n_values = int(self.data.shape[0])
        self.chunk = default_chunk(8 * n_values // max(1, self.shape[0]))
        fits = len(self.indptr) == self.shape[0] + 1 and self.indptr[0] == 0 and (np.diff(self.indptr) >= 0).all()
        if not fits or self.indptr[-1] != n_values or self.indices.shape[0] != n_values:
            raise DataError(f"{self.where}, 'indptr': it does not fit {self.shape[0]} rows of {n_values} values")

    def _read(self, begin: int, end: int) -> Any:
        from gvae.data.sparse import csr_of

        low, high = int(self.indptr[begin]), int(self.indptr[end])
        parts = {"data": self.data[low:high], "indices": self.indices[low:high]}
        parts |= {"format": np.array("csr"), "shape": np.array([end - begin, self.shape[1]])}
        return csr_of(parts | {"indptr": self.indptr[begin : end + 1] - low}, f"{self.where}, rows {begin} to {end - 1}")

    def _joined(self, parts: list[Any], order: np.ndarray) -> Any:
        from scipy import sparse

        if not parts:
            return sparse.csr_array((0, self.shape[1]), dtype=np.float32)
        return sparse.vstack(parts, format="csr")[order]

    def files(self) -> Iterator[Path]:
        if self.path.is_dir():
            for folder, _, names in os.walk(self.path / (self.key or "")):
                yield from (Path(folder, name) for name in names)
        else:
            yield self.path


class ParquetRows(Stored):
    """Rows of a Parquet file, a number per column.

    Parameters
    ----------
    path : path
    columns : sequence of str, optional
        The columns to read; by default all but those in which pandas keeps the index of a frame.

    Raises
    ------
    DependencyError
        pyarrow is missing.
    DataError
        The file is missing or damaged, or a column is not of real numbers; when rows are read, a value is missing.

    Notes
    -----
    A row group is read as a whole, and the last one that was read is kept in memory.

    Examples
    --------
    >>> import pyarrow.parquet
    >>> table = pyarrow.table({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    >>> pyarrow.parquet.write_table(table, "rows.parquet")
    >>> rows = gvae.data.rows.ParquetRows("rows.parquet")
    >>> rows.names, rows.take(np.array([1]))
    (('a', 'b'), array([[2., 4.]]))
    """

    def __init__(self, path: str | os.PathLike, columns: Any = None):
        super().__init__(path)
        self.file = _parquet(path)
        schema = self.file.schema_arrow
        self.names: tuple[str, ...] = tuple(_columns_of(self.file) if columns is None else columns)
        if twice := [name for name in dict.fromkeys(self.names) if schema.names.count(name) > 1]:
            raise DataError(f"{path}: more than one column is named {twice[0]!r}")
        kinds = []
        for name in self.names:
            if name not in schema.names:
                raise DataError(f"{path}: there is no column {name!r}; columns are {', '.join(schema.names[:20])}")
            try:
                kind = np.dtype(schema.field(name).type.to_pandas_dtype())
            except (NotImplementedError, TypeError):
                kind = np.dtype(object)
            if kind.kind not in "biuf":
                raise DataError(f"{path}: column {name!r} is {schema.field(name).type}, expected real numbers")
            kinds.append(kind)
        if not kinds:
            raise DataError(f"{path}: no columns of numbers")
        meta = self.file.metadata
        self.shape, self.dtype = (meta.num_rows, len(kinds)), np.result_type(*kinds)
        sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        self.ends, self.chunk = np.cumsum(sizes), max(sizes, default=1)
        self.last: tuple[int, np.ndarray] | None = None
        self.reading = threading.Lock()  # a ParquetFile is for one thread at a time

    def _group(self, i: int) -> np.ndarray:
        with self.reading:
            if self.last is None or self.last[0] != i:
                self.last = None  # frees its memory
                self.last = i, self._read_group(i)
            return self.last[1]

    def _read_group(self, i: int) -> np.ndarray:
        table = self.file.read_row_group(i, columns=list(self.names), use_threads=False)
        x = np.empty((table.num_rows, len(self.names)), self.dtype)
        for j, name in enumerate(self.names):
            column = table.column(name)
            if column.null_count:
                row = int(self.ends[i]) - len(x) + int(np.flatnonzero(column.is_null().to_numpy())[0])
                raise DataError(f"{self.path}: row {row} (counted from 0), column {name!r}: the value is missing")
            x[:, j] = column.to_numpy()
        return x

    def _read(self, begin: int, end: int) -> np.ndarray:
        parts = []
        while begin < end:
            i = int(np.searchsorted(self.ends, begin, side="right"))
            group = self._group(i)
            first = int(self.ends[i]) - len(group)
            parts.append(group[begin - first : min(end - first, len(group))])
            begin = min(end, int(self.ends[i]))
        if len(parts) == 1:
            return parts[0].copy()
        return np.concatenate(parts) if parts else np.zeros((0, len(self.names)), self.dtype)


def _parquet(path: str | os.PathLike) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise _lacks("Parquet", "pyarrow", "parquet") from error
    try:
        return pyarrow.parquet.ParquetFile(path)
    except Exception as error:  # pyarrow's errors have no common base
        raise DataError(f"{path}: damaged or not readable ({' '.join(str(error).split())})") from error


def _lacks(what: str, package: str, extra: str) -> DependencyError:
    return DependencyError(f"{what} files need {package}: pip install 'gvae[{extra}]'")


def as_rows(X: Any) -> Rows | None:
    """X as `Rows`, if it has that protocol or is an array of Zarr or HDF5.

    Parameters
    ----------
    X : object

    Returns
    -------
    Rows, or None
        None for anything else, including arrays in memory.

    Examples
    --------
    >>> gvae.data.rows.as_rows(np.zeros((2, 2))) is None
    True
    """
    if isinstance(X, Rows):
        return X
    module = type(X).__module__.partition(".")[0]
    if module == "zarr" and hasattr(X, "chunks"):
        return ZarrRows(X)
    if module == "h5py" and hasattr(X, "chunks"):
        return HDF5Rows(X)
    return None


def open_rows(path: str | os.PathLike, key: str | None = None, *, target: str | None = None) -> Any:
    """The rows of a file; none of them is read yet.

    Parameters
    ----------
    path : path
        .npy, .zarr, .h5, .hdf5 or .parquet.
    key : str, optional
        Which array of a Zarr group or HDF5 file. Default: "train", "x", or the only one of numbers.
    target : str, optional
        The column of a Parquet file that is left out, because it is y.

    Returns
    -------
    Rows

    Raises
    ------
    DataError
        The file is missing, damaged or of another kind, or has no such array.
    DependencyError
        zarr, h5py or pyarrow is missing.

    Examples
    --------
    >>> np.save("rows.npy", np.zeros((5, 2), np.float32))
    >>> rows = gvae.data.open_rows("rows.npy")
    >>> rows.shape, rows.dtype
    ((5, 2), dtype('float32'))
    """
    known = _arrays(path, target)
    if key is None:
        found = _named(_suitable(known))
        if "train" in found:
            return found["train"]
    elif key in known:
        return known[key]()
    given = "" if key is None else f"there is no {key!r}; "
    raise DataError(f"{path}: {given}name an array of it as key: {', '.join(map(repr, sorted(known))) or '(none)'}")


def columns_of_file(path: str | os.PathLike, target: str | None = None) -> Mapping[str, Any]:
    """All arrays of a file as rows; none of them is read yet.

    Parameters
    ----------
    path : path
        .npy, .zarr, .h5, .hdf5 or .parquet.
    target : str, optional
        The column of a Parquet file that is y.

    Returns
    -------
    dict of str to Rows
        By key; a single array is "train", and the target "train_y". Rows with one axis only are numbers, (N,). What is not
        rows of numbers, such as names of columns, is left out unless its key is one that `gvae.data.load` reads.

    Raises
    ------
    DataError
        The file is missing, damaged or of another kind, or has no such array.
    DependencyError
        zarr, h5py or pyarrow is missing.

    Examples
    --------
    >>> np.save("rows.npy", np.zeros((5, 2), np.float32))
    >>> {name: rows.shape for name, rows in gvae.data.rows.columns_of_file("rows.npy").items()}
    {'train': (5, 2)}
    """
    return _named(_suitable(_arrays(path, target)))


def _arrays(path: str | os.PathLike, target: str | None) -> dict[str, Callable[[], Any]]:
    """What opens each array of a file, by its name there; an array without a name is "train", and the target "train_y"."""
    path = Path(os.path.expanduser(path))
    suffix = path.suffix.lower()
    if target is not None and suffix != ".parquet":
        raise DataError(f"{path}: a target column is named for Parquet files; others have y as train_y")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if suffix == ".npy":
        return {"train": lambda: NpyRows(path)}
    if suffix == ".parquet":
        if target is None:
            return {"train": lambda: ParquetRows(path)}
        names = [name for name in _columns_of(_parquet(path)) if name != target]
        return {"train": lambda: ParquetRows(path, names), "train_y": lambda: _target(path, target)}
    if suffix == ".zarr":
        return _of_zarr(path)
    if suffix in (".h5", ".hdf5"):
        return _of_hdf5(path)
    how = ""
    if suffix in DELIMITERS:  # where a row begins is known only after all rows before it were read
        made = f'np.save("{path.with_suffix(".npy")}", np.loadtxt("{path}"{DELIMITERS[suffix]}))'
        how = f"; convert it by {made}, with skiprows=1 where its first line has names"
    raise DataError(f"{path}: unknown kind of file for rows; known are {', '.join(SUFFIXES)}{how}")


def _target(path: Path, name: str) -> Any:
    """The column of a Parquet file as one axis, in memory: numbers or labels."""
    file = _parquet(path)
    if name not in file.schema_arrow.names:
        raise DataError(f"{path}: there is no column {name!r}; columns are {', '.join(file.schema_arrow.names[:20])}")
    column = file.read(columns=[name]).column(0)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{path}: row {row} (counted from 0), column {name!r}: the value is missing")
    return ArrayRows(np.asarray(column.to_numpy()))


def _columns_of(file: Any) -> list[str]:
    """The names of a Parquet file's columns, without those in which pandas keeps the index of a frame."""
    try:
        index = json.loads((file.schema_arrow.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        index = [name for name in index if isinstance(name, str)]
    except (ValueError, AttributeError, TypeError, RecursionError):  # not what pandas writes: then no column is an index
        index = []
    return [name for name in file.schema_arrow.names if name not in index]


def _of_zarr(path: Path) -> dict[str, Callable[[], Any]]:
    try:
        import zarr
    except ImportError as error:
        raise _lacks("Zarr", "zarr", "zarr") from error
    try:
        root = zarr.open(path, mode="r")
    except Exception as error:  # damaged metadata can make it raise any error
        raise DataError(f"{path}: damaged or not a Zarr array or group ({' '.join(str(error).split())})") from error
    if isinstance(root, zarr.Array):
        return {"train": lambda: ZarrRows(_checked(root, f"{path}"), path)}
    if "indptr" in root:
        return {"train": lambda: CsrRows(root, path)}
    found: dict[str, Callable[[], Any]] = {}
    for name, member in root.members():
        if isinstance(member, zarr.Array):
            found[name] = partial(_zarr_rows, member, path, name)
        elif "indptr" in member:
            found[name] = partial(CsrRows, member, path, name)
    return found


def _of_hdf5(path: Path) -> dict[str, Callable[[], Any]]:
    try:
        import h5py
    except ImportError as error:
        raise _lacks("HDF5", "h5py", "hdf5") from error
    try:
        root = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: damaged or not an HDF5 file ({' '.join(str(error).split())})") from error
    if "indptr" in root:
        return {"train": lambda: CsrRows(root, path)}
    found: dict[str, Callable[[], Any]] = {}
    for name, member in root.items():
        if isinstance(member, h5py.Dataset):
            found[name] = partial(_hdf5_rows, member, path, name)
        elif "indptr" in member:
            found[name] = partial(CsrRows, member, path, name)
    return found


def _suitable(known: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """The arrays that are rows of numbers. DataError for another one whose name has a role, or where there are no others."""
    found, errors = {}, []
    for name, opened in known.items():
        try:
            found[name] = opened()
        except DataError as error:
            if name.removeprefix("train_").removeprefix("test_") in ROLES:
                raise
            errors.append(error)
    if errors and not found:
        raise errors[0]
    return found


def _named(found: dict[str, Any]) -> dict[str, Any]:
    """Arrays by key; where there is no "train", "x" or the only array is renamed to it."""
    if "train" not in found:
        alone = "x" if "x" in found else next(iter(found)) if len(found) == 1 else None
        if alone is not None:
            found = {"train" if name == alone else name: rows for name, rows in found.items()}
    return found


def _zarr_rows(array: Any, path: Path, name: str) -> ZarrRows:
    return ZarrRows(_checked(array, f"{path}, {name!r}"), path, name)


def _hdf5_rows(array: Any, path: Path, name: str) -> HDF5Rows:
    return HDF5Rows(_checked(array, f"{path}, {name!r}"))


def _checked(array: Any, where: str) -> Any:
    """An array of Zarr or HDF5, if it is rows of numbers; `shape` of an HDF5 dataset without any is None."""
    if array.dtype.kind not in "biuf" or not 1 <= len(array.shape or ()) <= 3 or 0 in array.shape:
        raise DataError(f"{where}: {array.dtype} {array.shape}, expected real numbers (N, D), (N, rows, columns) or (N,)")
    return array
