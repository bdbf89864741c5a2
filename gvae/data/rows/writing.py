"""Writing row by row: results with any number of rows, and `pack`, which stores rows in a form that is read fast."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gvae import random
from gvae.checks import check_paths
from gvae.data.checks import check_finite
from gvae.data.rows.column import BUDGET, Column
from gvae.data.rows.protocol import ArrayRows, default_chunk, stored_bytes
from gvae.data.rows.sources import PACKED
from gvae.errors import ConfigError, DataError, DependencyError, RunError, ShapeError
from gvae.ops.sparse import is_csr
from gvae.runtime import limits

__all__ = ["Output", "pack"]

SHARDED = 2000  # with more chunks than this, PER_SHARD of them are in one file
PER_SHARD = 16
WORTH = 0.85  # rows are compressed if that shrinks the first chunk below this fraction of its size
SHARE = 6  # rows that are shuffled in memory may take 1 / SHARE of it


class Output:
    """Arrays that are written row by row to a .npy file or a Zarr store. Unless everything is written, nothing is left.

    Parameters
    ----------
    path : path
        A new .npy file, or a new folder that ends in .zarr.

    Raises
    ------
    ConfigError
        It is no path, or the name does not end in one of these.
    RunError
        The path exists, or cannot be written.
    DependencyError
        zarr is missing.

    Examples
    --------
    >>> with gvae.data.Output("codes.npy") as out:
    ...     codes = out.array(None, (4, 2), np.float32)
    ...     for block in (np.zeros((3, 2), np.float32), np.ones((1, 2), np.float32)):
    ...         codes.append(block)
    >>> np.load("codes.npy")[-1]
    array([1., 1.], dtype=float32)
    """

    def __init__(self, path: str | os.PathLike):
        check_paths("Output", out=path)
        self.path = Path(os.path.expanduser(path))
        self.suffix = self.path.suffix.lower()
        if self.suffix not in (".npy", ".zarr"):
            raise ConfigError(f"{path}: expected a name that ends in .npy or .zarr")
        if self.path.exists():
            raise RunError(f"{path} exists; name a new one, nothing was written")
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise RunError(f"{path}: there is no folder {folder}")
        if self.suffix == ".zarr":
            _zarr()
        self.partial = folder / f".{self.path.name}.{os.getpid()}.partial"
        self.writers: list[Any] = []

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        try:
            if error is None:
                for writer in self.writers:
                    writer.finish()
                if not self.partial.exists():
                    raise DataError(f"Output: no array was written to {self.path}")
                os.rename(self.partial, self.path)
        except BaseException as raised:
            error = raised
            raise self._named(raised) from raised
        finally:
            if error is not None:
                for writer in self.writers:
                    writer.abandon()
                self._remove()
        if error is not None and (named := self._named(error)) is not error:
            raise named from error

    def read(self) -> Any:
        """What was written.

        Returns
        -------
        array, or dict of str to array
            Memory-mapped, or a Zarr array.

        Examples
        --------
        >>> with gvae.data.Output("codes.npy") as out:
        ...     out.array(None, (1, 2), np.float32).append(np.ones((1, 2)))
        >>> out.read().shape
        (1, 2)
        """
        if self.suffix == ".npy":
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        found = _zarr().open(self.path, mode="r")
        return dict(found.arrays()) if hasattr(found, "arrays") else found

    def _named(self, error: BaseException) -> BaseException:
        """An error of the file system as a RunError that names the output."""
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno):
            cause = cause.__cause__ or cause.__context__
        ours = cause is not None and getattr(cause, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EIO,
            errno.EFBIG,
        )
        if not ours and not isinstance(error, OSError):
            return error
        return RunError(f"cannot write {self.path}: {getattr(cause, 'strerror', None) or error}; nothing of it was kept")

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            shutil.rmtree(self.partial) if self.partial.is_dir() else self.partial.unlink()

    def array(
        self, name: str | None, shape: tuple[int, ...], dtype: Any, chunk: int | None = None, packed: bool = False
    ) -> Any:
        """An array to write: append(rows) adds some of its rows.

        Parameters
        ----------
        name : str or None
            The name of the array in a Zarr group; None: the file is the array.
        shape : tuple of int
        dtype : dtype
        chunk : int, optional
            Rows of a chunk; by default about 2 MiB.
        packed : bool, default False
            Whether to keep checksums, see `pack`.

        Returns
        -------
        object
            With the method `append`, which raises ShapeError for rows of another shape, or more of them than announced. If
            there are fewer at the end, the `with` statement raises DataError, and nothing is left.

        Raises
        ------
        ConfigError
            A name is given for an array in a .npy file.

        Examples
        --------
        >>> with gvae.data.Output("two.zarr") as out:
        ...     for name in ("x", "y"):
        ...         out.array(name, (3, 2), np.float32).append(np.ones((3, 2)))
        >>> sorted(out.read())
        ['x', 'y']
        """
        if self.suffix == ".npy":
            if name is not None:
                raise ConfigError(f"{self.path}: a .npy file has one array, and there are several: name a .zarr")
            writer: Any = _Npy(self.partial, shape, np.dtype(dtype))
        else:
            writer = _Zarr(self.partial, name, shape, np.dtype(dtype), chunk, packed)
        self.writers.append(writer)
        return writer


class _Writer(ABC):
    """An array that is written row by row; a subclass writes."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self.shape, self.dtype, self.given = tuple(shape), dtype, 0

    def append(self, x: Any) -> None:
        x = np.ascontiguousarray(x, self.dtype)
        if x.shape[1:] != self.shape[1:] or x.ndim != len(self.shape) or self.given + len(x) > self.shape[0]:
            left = (self.shape[0] - self.given, *self.shape[1:])
            raise ShapeError(f"append: x has shape {x.shape}, expected at most {left}: what is left of {self.shape}")
        self.given += len(x)
        self.write(x)

    @abstractmethod
    def write(self, x: np.ndarray) -> None:
        """Rows that have been checked."""

    def check_complete(self) -> None:
        if self.given != self.shape[0]:
            raise DataError(f"Output: {self.given} rows were appended, expected the {self.shape[0]} that were announced")


class _Npy(_Writer):
    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype):
        super().__init__(shape, dtype)
        self.stream = path.open("wb")
        np.lib.format.write_array_header_2_0(self.stream, {"descr": dtype.str, "fortran_order": False, "shape": shape})

    def write(self, x: np.ndarray) -> None:
        self.stream.write(x.data)

    def finish(self) -> None:
        self.check_complete()
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self.stream.close()


class _Zarr(_Writer):
    """Writes whole shards (or chunks), and keeps the checksums of chunks."""

    def __init__(
        self, root: Path, name: str | None, shape: tuple[int, ...], dtype: np.dtype, chunk: int | None, packed: bool
    ):
        super().__init__(shape, dtype)
        n_bytes = max(1, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)
        self.root, self.name, self.packed = root, name, packed
        self.chunk = max(1, min(chunk or default_chunk(n_bytes), shape[0]))
        self.shard = self.chunk * (PER_SHARD if shape[0] > SHARDED * self.chunk else 1)
        self.waiting: list[np.ndarray] = []
        self.rows = self.n_waiting = 0
        self.crc: list[int] = []
        self.sha256 = hashlib.sha256(f"{shape}{dtype.str}".encode())
        self.into: Any = None

    def _create(self, first: np.ndarray) -> Any:
        sample = np.ascontiguousarray(first[: self.chunk]).tobytes()
        worth = len(zlib.compress(sample, 1)) < WORTH * len(sample)
        rest = tuple(max(1, n) for n in self.shape[1:])
        shards = {} if self.shard == self.chunk else {"shards": (self.shard, *rest)}
        return _zarr().create_array(
            self.root,
            name=self.name,
            shape=self.shape,
            dtype=self.dtype,
            chunks=(self.chunk, *rest),
            compressors="auto" if worth else None,
            **shards,
        )

    def write(self, x: np.ndarray) -> None:
        if self.into is None and len(x):
            self.into = self._create(x)
        self.waiting.append(x)
        self.n_waiting += len(x)
        if self.n_waiting >= self.shard:
            self._write(self.n_waiting // self.shard * self.shard)

    def _write(self, n: int) -> None:
        x = self.waiting[0] if len(self.waiting) == 1 else np.concatenate(self.waiting)
        for begin in range(0, n, self.shard):
            part = x[begin : min(begin + self.shard, n)]
            self.into[self.rows : self.rows + len(part)] = part
            self.rows += len(part)
            if self.packed:
                self.sha256.update(part)
                self.crc += [zlib.crc32(part[i : i + self.chunk]) for i in range(0, len(part), self.chunk)]
        self.waiting, self.n_waiting = ([x[n:].copy()] if n < len(x) else []), len(x) - n

    def finish(self) -> None:
        self.check_complete()
        if self.n_waiting:
            self._write(self.n_waiting)
        if self.packed:
            self.into.attrs[PACKED] = {"crc32": self.crc, "sha256": self.sha256.hexdigest()}

    def abandon(self) -> None:
        self.waiting = []


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise DependencyError("Zarr stores need zarr: pip install 'gvae[zarr]'") from error
    return zarr


WHOLE = {"x": "train", "y": "train_y", "weight": "train_weight", "labels": "train_labels"}  # keys without a test part
KEYS = tuple(f"{part}{column}" for part in ("train", "test") for column in ("", "_y", "_weight", "_labels"))


def pack(
    columns: Mapping[str, Any], path: str | os.PathLike, *, key: np.ndarray | None = None, chunk: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Write rows to a Zarr store that is read fast: in chunks, shuffled once, with checksums.

    Parameters
    ----------
    columns : mapping of str to Rows
        By key: "train" (or "x"), and any of "train_y" ("y"), "train_weight" ("weight"), "train_labels" ("labels"), "test",
        "test_y", "test_weight", "test_labels". A single "train" becomes an array, several columns become a group. Arrays
        and CSR matrices are taken for rows as well.
    path : path
        A new folder that ends in .zarr.
    key : array (4,), optional
        The key for shuffling the rows, the columns of "train" alike and those of "test" alike. None: rows keep their order.
    chunk : int, optional
        Rows of a chunk. By default a power of two, of about 2 MiB.

    Returns
    -------
    dict of str to tuple of int
        The shapes.

    Raises
    ------
    DataError
        Rows cannot be read, are not finite, columns have different lengths or no rows. Nothing is left at `path` then.
    ConfigError, RunError
        See `gvae.data.Output`. Also for other keys, and where shuffling sparse rows would take more than a sixth of the
        memory.

    Notes
    -----
    Rows that do not fit into a sixth of the memory are shuffled through temporary files next to `path`, which have the same
    size as the rows.

    Examples
    --------
    >>> np.save("rows.npy", np.arange(6.0).reshape(3, 2))
    >>> gvae.data.pack({"train": gvae.data.open_rows("rows.npy")}, "rows.zarr", key=gvae.random.key(0))
    {'train': (3, 2)}
    >>> gvae.data.open_rows("rows.zarr").take(np.arange(3))
    array([[4., 5.],
           [0., 1.],
           [2., 3.]])
    """
    if Path(path).suffix.lower() != ".zarr":
        raise ConfigError(f"{path}: expected a name that ends in .zarr")
    if twice := [name for name, whole in WHOLE.items() if {name, whole} <= set(columns)]:
        raise ConfigError(f"pack: columns are named {twice[0]!r} and {WHOLE[twice[0]]!r}, expected one of them")
    columns = {
        WHOLE.get(name, name): ArrayRows(rows) if isinstance(rows, np.ndarray) or is_csr(rows) else rows
        for name, rows in columns.items()
    }
    if unknown := [name for name in columns if name not in KEYS]:
        raise ConfigError(f"pack: a column is named {unknown[0]!r}, expected {', '.join((*WHOLE, *KEYS))}")
    orders: dict[str, np.ndarray | None] = {}
    for i, part in enumerate(("train", "test")):
        there = {name: rows.shape[0] for name, rows in columns.items() if name.partition("_")[0] == part}
        if len(set(there.values())) > 1:
            raise DataError(f"columns have different lengths: {there}")
        if 0 in there.values():
            raise DataError(f"pack: {', '.join(there)} without rows; expected at least one")
        for name, n in there.items():
            orders[name] = None if key is None else random.permutation(random.fold_in(key, i), n)
    with Output(path) as out:
        for name, rows in columns.items():
            inside = name if len(columns) > 1 else None
            if is_csr(rows.take(np.arange(min(1, rows.shape[0])))):
                _pack_sparse(out, inside, rows, orders[name])
                continue
            writer = out.array(inside, tuple(rows.shape), rows.dtype, chunk, packed=True)
            for block in _shuffled(rows, orders[name], name, out.partial.parent):
                writer.append(block)
    return {name: tuple(rows.shape) for name, rows in columns.items()}


def _blocks(rows: Any, name: str) -> Iterator[Any]:
    """Rows in order, checked, some at a time."""
    where = getattr(rows, "where", name)

    def check(x: Any, numbers: np.ndarray) -> None:
        if len(numbers):
            check_finite(x, f"{where}, rows {numbers.min()} to {numbers.max()}", rows=numbers)

    column = Column(rows, lambda x: x, tuple(rows.shape), np.dtype(rows.dtype), check)
    return column.blocks(max(1, BUDGET // 8 // stored_bytes(rows)))


def _shuffled(rows: Any, order: np.ndarray | None, name: str, folder: Path) -> Iterator[np.ndarray]:
    """Blocks of the rows in an order; None: as they are stored."""
    if order is None:
        yield from _blocks(rows, name)
        return
    n_bytes, room = len(order) * stored_bytes(rows), (limits.memory() or 1 << 33) // SHARE
    step = max(1, BUDGET // 8 // stored_bytes(rows))
    if n_bytes <= room:
        x = np.empty(rows.shape, rows.dtype)
        done = 0
        for block in _blocks(rows, name):
            x[done : done + len(block)] = block
            done += len(block)
        yield from (x[order[i : i + step]] for i in range(0, len(order), step))
        return
    size = max(1, room // stored_bytes(rows))  # rows of a bucket
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    with tempfile.TemporaryDirectory(prefix=".shuffle-", dir=folder) as there, contextlib.ExitStack() as stack:
        buckets = [stack.enter_context(open(Path(there, str(b)), "w+b")) for b in range(-(-len(order) // size))]
        done = 0
        for block in _blocks(rows, name):
            which = place[done : done + len(block)] // size
            for b in np.unique(which):
                buckets[b].write(np.ascontiguousarray(block[which == b]).data)
            done += len(block)
        for b, bucket in enumerate(buckets):
            wanted = order[b * size : (b + 1) * size]
            bucket.seek(0)
            x = np.empty((len(wanted), *rows.shape[1:]), rows.dtype)
            bucket.readinto(memoryview(x).cast("B"))
            bucket.truncate(0)
            within = np.empty(len(wanted), np.int64)
            within[np.argsort(wanted)] = np.arange(len(wanted))  # a bucket has its rows in ascending order
            yield from (x[within[i : i + step]] for i in range(0, len(wanted), step))


def _pack_sparse(out: Output, name: str | None, rows: Any, order: np.ndarray | None) -> None:
    from scipy.sparse import vstack

    blocks: Any = _blocks(rows, name or "train")
    if order is not None:
        n_values = int(getattr(rows, "indptr", [0])[-1])
        if 16 * n_values > (limits.memory() or 1 << 33) // SHARE:
            raise ConfigError(
                f"{getattr(rows, 'where', name)}: shuffling these sparse rows would take more than 1/{SHARE} of the "
                "memory: keep their order"
            )
        x = vstack(list(blocks), format="csr")[order]
        blocks = [x]
    group = _zarr().create_group(out.partial) if name is None else _zarr().create_group(out.partial, path=name)
    counts, n = [np.zeros(1, np.int64)], 0
    arrays: dict[str, Any] = {}
    for part in blocks:
        if not arrays:
            for key, values in (("data", part.data), ("indices", part.indices)):
                arrays[key] = group.create_array(key, shape=(0,), chunks=(1 << 18,), dtype=values.dtype)
        for key in arrays:
            arrays[key].append(getattr(part, key))
        counts.append(part.indptr[1:].astype(np.int64) + n)
        n += part.nnz
    indptr = np.concatenate(counts)
    group.create_array("indptr", data=indptr)
    group.attrs["shape"] = list(rows.shape)
