"""Files as arrays: .npy, .npz, idx, text, packed by gzip or not.

What is missing, damaged or not real numbers is refused with a `DataError` of one line, and nothing is unpickled.
Memory grows with what a file holds, not with what its header announces.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import math
import os
import re
import warnings
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from gvae.data.sparse import csr_of
from gvae.errors import DataError

__all__ = [
    "READERS",
    "no_array",
    "open_npy",
    "opened",
    "packed",
    "read_exactly",
    "read_feat",
    "read_idx",
    "read_lines",
    "read_npy",
    "read_npz",
    "reading",
]

IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST = 2**31 - 1  # the largest id of a column
PAIR = re.compile(rb"[0-9]{1,9}:[0-9]{1,9}")
DOCUMENT = re.compile(rb"[0-9]{1,9}( [0-9]{1,9}:[0-9]{1,9})*\s*")
QUOTED = re.compile('"(?:[^"]|"")*"')  # a name in a heading, which may contain commas and blanks
CHUNK = 1 << 22  # bytes read at a time
HEADER = 10_000  # bytes of the longest .npy header that NumPy takes; those of plain arrays have about 100
NUMBERS, TEXT = r"[<>=|]?(b1|[iu][1248]|f[248])", r"[<>=|]?[SU][1-9][0-9]?"  # dtypes
LABELS = rf"{NUMBERS}|[<>=]?U[1-9][0-9]?"
KINDS = {"format": TEXT, "y": LABELS, "train_y": LABELS, "test_y": LABELS}  # of the roles in a .npz that may be text


def packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if packed(path) else open(path, "rb")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error that a missing, damaged or unreadable file causes in the readers into a DataError."""
    try:
        if not os.path.getsize(path):
            raise DataError(f"{path}: empty file (0 bytes)")
        yield
    except DataError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, csv.Error, zlib.error, zipfile.BadZipFile) as error:
        # RuntimeError: an encrypted member of a zip file, or (NotImplementedError) one of a newer kind
        raise DataError(f"{path}: damaged or not readable ({error})") from error


def read_exactly(stream: IO[bytes] | gzip.GzipFile, n: int, path: Path) -> bytearray:
    """The n bytes that the header announced, read a chunk at a time; DataError if the stream holds fewer or more."""
    data = bytearray()
    while len(data) < n and (chunk := stream.read(min(n - len(data), CHUNK))):
        data += chunk
    if len(data) < n:
        raise DataError(f"{path}: truncated; {n} bytes announced, {len(data)} found")
    if stream.read(1):  # the read that meets the end is also the one that checks a packed file's checksum
        raise DataError(f"{path}: damaged; {n} bytes announced, more found")
    return data


def read_idx(path: Path, magic: int | None = None) -> np.ndarray:
    """LeCun's format: two zero bytes, type, number of axes; the sizes (big-endian uint32); the values in C order."""
    with reading(path), opened(path) as stream:
        head = stream.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_TYPES or head[3] == 0:
            raise DataError(f"{path}: not an idx file; begins with {head.hex(' ')}")
        if magic is not None and int.from_bytes(head, "big") != magic:
            raise DataError(f"{path}: magic number is 0x{head.hex()}, expected {magic:#010x}")
        sizes = stream.read(4 * head[3])
        if len(sizes) < 4 * head[3]:
            raise DataError(f"{path}: truncated within its header")
        shape = np.frombuffer(sizes, ">u4").tolist()
        dtype = np.dtype(IDX_TYPES[head[2]])
        return np.frombuffer(read_exactly(stream, math.prod(shape) * dtype.itemsize, path), dtype).reshape(shape)


def read_npy(path: Path) -> np.ndarray:
    with reading(path), opened(path) as stream:
        return _parse_npy(stream, path)


def open_npy(path: Path) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """(shape, dtype, whether in Fortran order, bytes before the first value) of a .npy file of the right size."""
    with reading(path), open(path, "rb") as stream:
        shape, fortran, dtype = _read_header(stream, str(path))
        announced, found = math.prod(shape) * dtype.itemsize, os.path.getsize(path) - stream.tell()
        if found < announced:
            raise DataError(f"{path}: truncated; {announced} bytes announced, {found} found")
        if found > announced:
            raise DataError(f"{path}: damaged; {announced} bytes announced, more found")
        return shape, dtype, fortran, stream.tell()


def _read_header(stream: Any, where: str, kinds: str = NUMBERS) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, dtype) by NumPy's reader, which runs no code; `kinds`: a pattern for the dtype."""
    magic = stream.read(8)
    if magic[:1] == b"\x80":
        raise DataError(f"{where}: a pickle; pickled arrays are refused, because loading one can run any code")
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY":
        raise DataError(f"{where}: not a .npy file")
    size = stream.read(2 if magic[6] == 1 else 4)
    if (length := int.from_bytes(size, "little")) > HEADER:  # NumPy's reader asks for memory of that size before it checks
        raise DataError(f"{where}: damaged .npy header, or not a plain array ({length} bytes announced)")
    header = io.BytesIO(size + stream.read(length))
    read = np.lib.format.read_array_header_1_0 if magic[6] == 1 else np.lib.format.read_array_header_2_0
    try:
        with warnings.catch_warnings(action="ignore"):  # about headers written by Python 2
            shape, fortran, dtype = read(header)
    except Exception as error:  # for a header that is not a Python literal, or one with many brackets
        raise DataError(f"{where}: damaged .npy header, or not a plain array ({_line(error)})") from error
    if dtype.hasobject:
        raise DataError(f"{where}: dtype object; pickled arrays are refused, because loading one can run any code")
    if dtype.names is not None or dtype.subdtype is not None or not all(0 <= size < 1 << 63 for size in shape):
        raise DataError(f"{where}: damaged .npy header, or not a plain array")
    if not re.fullmatch(kinds, dtype.str):
        wanted = {NUMBERS: "real numbers", TEXT: "a short text", LABELS: "real numbers or short texts"}[kinds]
        raise DataError(f"{where}: dtype {dtype.str!r} is not {wanted}")
    return shape, fortran, dtype


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _parse_npy(stream: Any, path: Path, where: str | None = None, kinds: str = NUMBERS) -> np.ndarray:
    """One array in NumPy's format; memory grows with what is found, not with what the header announces."""
    shape, fortran, dtype = _read_header(stream, where or str(path), kinds)
    data = read_exactly(stream, math.prod(shape) * dtype.itemsize, path)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def no_array(path: Path, keys: Iterable[str], wanted: str) -> DataError:
    """The error of a file that lacks the arrays that are wanted."""
    return DataError(f"{path}: no array to take among the keys {', '.join(map(repr, keys)) or '(none)'}; expected {wanted}")


def read_npz(path: Path, choose: Callable[[list[str]], dict[str, str]], wanted: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz that choose(keys) asks for as {role: key}; no other is touched.

    wanted : the keys that choose looks for, in words
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        members = {m.filename[:-4]: m for m in archive.infolist() if m.filename.endswith(".npy")}
        roles = choose(list(members))
        if not roles or not members.keys() >= set(roles.values()):
            raise no_array(path, members, wanted)
        arrays = {}
        for role, key in roles.items():
            if members[key].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path}: {key!r} is packed in a way that NumPy does not write")
            with archive.open(members[key]) as stream:
                arrays[role] = _parse_npy(stream, path, f"{path}, {key!r}", KINDS.get(role, NUMBERS))
        return arrays


def read_text(path: Path) -> np.ndarray:
    """(N, D) float32; a line is split at its commas, else at blanks. Messages count lines and columns from 1."""
    last: tuple[int, str, int] = 0, "", 0  # number and text of the line that is read, and the number of cells of the first
    heading = ""

    def rows(lines: Iterable[str]) -> Iterator[str]:
        nonlocal last, heading
        blank, width = 0, 0
        for number, line in enumerate(lines, 1):
            if not line.strip():
                blank = blank or number
                continue
            if blank:  # a missing row, or the missing value of a single column: only the end may be blank
                raise DataError(f"{path}: line {blank} is empty")
            if number == 1 and _is_heading(line):
                heading = line
                continue
            width = width or len(_cells(line))
            last = number, line, width
            yield line if "," in line else ",".join(line.split())

    with reading(path), io.TextIOWrapper(opened(path), encoding="utf-8-sig") as lines:
        there = rows(lines)
        first = next(there, None)
        if first is None:
            raise DataError(f"{path}: no rows of numbers")
        try:
            with np.errstate(over="ignore"):
                found = itertools.chain([first], there)
                return np.loadtxt(found, np.float32, delimiter=",", comments=None, ndmin=2)  # it reads line by line
        except DataError:
            raise
        except ValueError as error:
            raise _refused_line(path, *last, _names(heading, last[2])) or error from error


def _cells(line: str) -> list[str]:
    return line.split("," if "," in line else None)


def _is_heading(line: str) -> bool:
    """Whether a first line that is not all numbers has none, but a name in every cell, or begins with #."""
    cells = _cells(QUOTED.sub("name", line))
    bad = [cell.strip() for cell in cells if _numbers([cell], cell) is None]
    return bool(bad) and (line.startswith("#") or (len(bad) == len(cells) and all(bad)))


def _refused_line(path: Path, number: int, line: str, width: int, names: tuple[str, ...] | None) -> DataError | None:
    """What is wrong with a line, of a table whose columns have these names, if they have any."""
    cells = _cells(line)
    if bad := [cell.strip() for cell in cells if _numbers([cell], cell) is None]:
        i = [cell.strip() for cell in cells].index(bad[0])
        column = repr(names[i]) if names is not None and i < len(names) else i + 1
        what = f"{bad[0][:40]!r} is not a number" if bad[0] else "empty cell"
        return DataError(f"{path}: line {number}, column {column}: {what}")
    if len(cells) != width:
        return DataError(f"{path}: line {number} has {len(cells)} numbers, the lines before it have {width}")
    return None


def read_heading(path: Path, columns: int) -> tuple[str, ...] | None:
    """The names of the columns of a text that `read_text` reads, where its first line has a name for each of them."""
    with reading(path), io.TextIOWrapper(opened(path), encoding="utf-8-sig") as lines:
        line = next(lines)
        return _names(line, columns) if _is_heading(line) else None


def _names(heading: str, columns: int) -> tuple[str, ...] | None:
    """The names in a heading, if there are as many as columns; those that R and spreadsheets write, without their quotes."""
    text = heading.removeprefix("#").strip()
    delimiter = "," if "," in QUOTED.sub("name", text) else " "
    given = [text if delimiter == "," else text.expandtabs(1)]
    names = [name.strip() for name in next(csv.reader(given, delimiter=delimiter, skipinitialspace=True), [])]
    return tuple(names) if len(names) == columns and _numbers(_cells(text), text) is None else None


def _numbers(cells: list[str], text: str) -> list[float] | None:
    """The cells of a text as numbers, or None if one is not; 1_000, which Python takes, is not."""
    try:
        return None if "_" in text else [float(cell) for cell in cells]
    except ValueError:
        return None


def read_feat(path: Path, columns: int | None = None) -> Any:
    """Counts (N, D) as CSR: a line per document, a first number that is not used, then id:count with ids from 1.

    columns : D; by default the largest id
    """
    lengths, parts = array("q", [0]), [np.zeros(0, np.int64)]
    with reading(path), opened(path) as lines:
        for number, line in enumerate(lines, 1):
            if not DOCUMENT.fullmatch(line):
                cells = line.split()
                bad = next((cell for cell in cells[1:] if not PAIR.fullmatch(cell)), b" ".join(cells[:1]))
                what = repr(bad[:40].decode("latin1"))
                raise DataError(f"{path}: line {number}: {what}, expected a number and then id:count of whole numbers")
            pairs = np.array(line.replace(b":", b" ").split()[1:], np.int64)
            if len(pairs) and not (pairs.min() >= 1 and pairs[::2].max() <= (columns or MOST)):
                expected = f"ids in 1 to {columns or MOST} and counts of at least 1"
                raise DataError(f"{path}: line {number}: ids {pairs[::2].min()} to {pairs[::2].max()}, expected {expected}")
            parts.append(pairs)
            lengths.append(lengths[-1] + len(pairs) // 2)
    pairs = np.concatenate(parts)
    if len(lengths) == 1 or not len(pairs):
        raise DataError(f"{path}: no counts")
    ids, shape = pairs[::2] - 1, (len(lengths) - 1, columns or int(pairs[::2].max()))
    form, pointers = np.array("csr"), np.frombuffer(lengths, np.int64)
    found = {"format": form, "shape": np.array(shape), "data": pairs[1::2], "indices": ids, "indptr": pointers}
    return csr_of(found, str(path))


def read_lines(path: Path) -> tuple[str, ...]:
    """The first word of every line."""
    with reading(path), io.TextIOWrapper(opened(path), encoding="utf-8") as lines:
        found = [line.split() for line in lines]
    if not all(found):
        raise DataError(f"{path}: line {found.index([]) + 1} is empty")
    return tuple(words[0] for words in found)


READERS = {".feat": read_feat, ".npy": read_npy, ".csv": read_text, ".txt": read_text, ".idx": read_idx}
