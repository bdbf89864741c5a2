"""Data sets as two matrices: digits offline, MNIST and friends by file or cached download, files, arrays.

What is not finite real numbers is refused with a `DataError` of one line; nothing is repaired, nothing is unpickled.
Memory grows with what a file holds, not with what its header announces.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gvae.distributions import Support
from gvae.errors import DataError, DependencyError
from gvae.runtime import pool

__all__ = ["Dataset", "check_finite", "check_support", "dataset_names", "load"]

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {  # sha256 of the .gz, which are those of the original distribution
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
BINARIZED_ROWS = {"train": 50_000, "test": 10_000}
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
CHUNK = 1 << 22  # bytes read at a time
ADVICE = "give the folder of the files as data_dir (--data-dir) or in GVAE_DATA_DIR"


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays field by field has no truth value
class Dataset:
    """Rows to train on and rows to test on, of the same width and dtype, C-contiguous and finite.

    train : (N, D) float32, or float64 where the source is a float64 array       test : (M, D)
    train_labels : (N,) int64 or None        test_labels : (M,) int64 or None
    image_shape : (rows, columns) with rows * columns = D, if a row is an image
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None


def dataset_names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return tuple(_LOADERS)


def load(source, *, data_dir=None, name=None) -> Dataset:
    """A data set by name, from a file, or from an array.

    source is one of

    - "digits": scikit-learn's 1,797 images of 8 x 8, pixels / 16; every sixth row (index % 6 == 5) is the test set
    - "mnist": 60,000 + 10,000 images of 28 x 28, pixels / 255, from the four idx files, packed or not
    - "binarized_mnist": the fixed binarization of Larochelle and Murray, 50,000 + 10,000; the validation part is unused
    - "omniglot": omniglot_28x28_derived.npz (images; split: 0 train, 1 test; character: the label), pixels / 255
    - "frey_faces": freyfaces.npy, 1,965 images of 28 x 20, pixels / 255, in one fixed shuffled order, 1,765 + 200
    - an array (N, D), or images (N, rows, columns), which are flattened
    - the path of a file, any but .npz also packed as .gz:
      .npy; idx (.idx or *-ubyte); .csv or .txt: numbers between commas or blanks, read as float32, the first line may
      be a heading (it starts with # or has no number in it); .npz: "train" [and "test"], else "x", else the only
      array, with "train_labels" or "labels", "test_labels"; other keys are ignored

    bool and integers become float32. uint8 with a value above 1, in train or test, are grey levels and divided by 255.
    Without a test part every tenth row (index % 10 == 9) is held out; with fewer than 10 rows the test set is the
    training rows again.

    data_dir : folder of the named data sets, looked for in it and in data_dir/<name>, then likewise in GVAE_DATA_DIR.
               Only if neither is given is MNIST downloaded (once, to pooch's cache, with its sha256); the others never
    name     : what to call it; by default the name of the data set or file, or "array"

    Raises DataError for what is missing, damaged, empty, pickled, not real numbers, NaN, infinite, or of another rank;
    DependencyError without scikit-learn (digits) or pooch (download). Not checked: that the values suit a model, see
    `check_support`.
    """
    if isinstance(source, str) and source in _LOADERS:
        dataset = _LOADERS[source](_folders(source, data_dir))
    elif isinstance(source, str | os.PathLike):
        dataset = _load_file(source)
    else:
        dataset = _assemble("array", "array", source)
    return dataset if name is None else replace(dataset, name=name)


def check_finite(x, name="data") -> None:
    """Raise DataError if x (N, ...) holds a NaN or infinity; it names first row, column (from 0) and count."""
    x = _real(x, name)
    with np.errstate(invalid="ignore"):
        if x.dtype.kind != "f" or x.size == 0 or (np.isfinite(x.min()) and np.isfinite(x.max())):
            return  # a NaN or infinity shows in min or max; no temporary of the size of x
    _refuse(~np.isfinite(x), x, f"{name}: NaN or infinite values")


def check_support(x, support: Support, name="data") -> None:
    """Raise DataError if x (N, ...) leaves the support of an observation model's distribution.

    The message names the first row and column (from 0), the value there and the count. A NaN is outside.
    """
    x = _real(x, name)
    with np.errstate(invalid="ignore"):
        if not support.holds(x):
            _refuse(~support.contains(x), x, f"{name}: values outside {support}")


def _refuse(bad, x, complaint):
    first = int(bad.argmax())  # in C order, whatever the memory layout
    row, column = divmod(first, x.size // x.shape[0] if x.ndim else 1)
    where = f"row {row}, column {column} (counted from 0)"
    raise DataError(f"{complaint}: {np.count_nonzero(bad)} in all, the first, {x.flat[first]}, at {where}")


# ---- raw arrays to a Dataset ---------------------------------------------------------------------


def _real(x, where):
    """x as an array of real numbers, of any rank."""
    if np.ma.is_masked(x):
        raise DataError(f"{where}: masked entries; gvae takes complete rows only")
    try:
        x = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, arrays on a device
        raise DataError(f"{where}: not an array of numbers ({error})") from error
    if x.dtype.kind not in "biuf":
        raise DataError(f"{where}: dtype {x.dtype} is not real numbers")
    return x


def _as_rows(x, where):
    """Raw x as (N, D), finite, not yet scaled or converted, and the shape of an image or None."""
    x = _real(x, where)
    if x.ndim not in (2, 3):
        raise DataError(f"{where}: shape {x.shape}; expected (N, D), or (N, rows, columns) for images")
    if x.size == 0:
        raise DataError(f"{where}: shape {x.shape}; no {'columns' if x.shape[0] else 'rows'}")
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is then refused
            x = x.astype(np.float64)
    check_finite(x, where)
    return x.reshape(len(x), -1), ((x.shape[1], x.shape[2]) if x.ndim == 3 else None)


def _as_labels(labels, n, where):
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biu" or labels.shape != (n,):
        raise DataError(f"{where}: labels are {labels.dtype} {labels.shape}, expected integers ({n},)")
    return labels.astype(np.int64)


def _assemble(name, where, train, test=None, train_labels=None, test_labels=None) -> Dataset:
    """Check raw arrays, hold out rows if there is no test part, then scale and convert: no copy before the split."""
    train, image_shape = _as_rows(train, where)
    train_labels = _as_labels(train_labels, len(train), f"{where}, train")
    if test is not None:
        test, test_shape = _as_rows(test, f"{where}, test")
        test_labels = _as_labels(test_labels, len(test), f"{where}, test")
        if (train.shape[1], image_shape) != (test.shape[1], test_shape):
            sizes = [shape or x.shape[1] for x, shape in ((train, image_shape), (test, test_shape))]
            raise DataError(f"{where}: a row of train has size {sizes[0]}, of test {sizes[1]}")
    elif len(train) >= 10:
        train, test, train_labels, test_labels = _hold_out(train, train_labels, every=10)
    else:
        test, test_labels = train, train_labels
    dtype = np.float64 if any(x.dtype.str[1:] == "f8" for x in (train, test)) else np.float32
    grey = any(x.dtype == np.uint8 and x.max() > 1 for x in (train, test))
    train, test = (
        _scaled(x, dtype) if grey and x.dtype == np.uint8 else np.ascontiguousarray(x, dtype=dtype) for x in (train, test)
    )
    return Dataset(name, train, test, train_labels, test_labels, image_shape)


def _scaled(x, dtype):
    """x / 255 as C-contiguous rows; by all CPUs, because to a virtual machine new memory takes longer than dividing."""
    out = np.empty(x.shape, dtype)

    def scale(first):
        rows = slice(first, first + 1000)
        np.divide(x[rows], 255, out=out[rows], dtype=dtype)

    pool.each(scale, range(0, len(x), 1000))
    return out


def _hold_out(x, labels, every):
    """Every so many rows are the test set: by position, so that the split depends on no draw."""
    held = np.arange(len(x)) % every == every - 1
    return x[~held], x[held], *((None, None) if labels is None else (labels[~held], labels[held]))


# ---- the named data sets -------------------------------------------------------------------------


def _digits(folders) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DependencyError("digits: scikit-learn is needed; pip install 'gvae[demo]'") from error
    x, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = _hold_out((x / 16).astype(np.float32).reshape(-1, 8, 8), labels, every=6)
    return _assemble("digits", "digits", train, test, train_labels, test_labels)


def _mnist(folders) -> Dataset:
    paths = _locate("mnist", list(MNIST_FILES), folders) if folders else [_download(file) for file in MNIST_FILES]
    train, train_labels, test, test_labels = (
        _read_idx(path, magic) for path, magic in zip(paths, (0x803, 0x801) * 2, strict=True)
    )
    return _assemble("mnist", str(paths[0].parent), train, test, train_labels, test_labels)


def _download(file: str) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise DependencyError(f"mnist: the download needs pooch; pip install 'gvae[data]', or {ADVICE}") from error
    url, sha256 = f"{MNIST_URL}{file}.gz", f"sha256:{MNIST_FILES[file]}"
    try:
        return Path(pooch.retrieve(url, known_hash=sha256, fname=f"{file}.gz", path=pooch.os_cache("gvae")))
    except (OSError, ValueError) as error:  # no network, no room; another hash
        raise DataError(f"mnist: cannot download {url} ({error}); fetch it by other means and {ADVICE}") from error


def _binarized_mnist(folders) -> Dataset:
    paths = _locate("binarized_mnist", [f"binarized_mnist_{part}.amat" for part in BINARIZED_ROWS], folders)
    train, test = (_read_amat(path, rows) for path, rows in zip(paths, BINARIZED_ROWS.values(), strict=True))
    return _assemble("binarized_mnist", str(paths[0].parent), train, test)


def _read_amat(path, rows):
    """(rows, 28, 28) uint8 from text: a line has 784 digits, each followed by one blank or the line's end."""
    with _reading(path), _open(path) as stream:
        text = np.frombuffer(_read_exactly(stream, rows * 784 * 2, path), np.uint8).reshape(rows, 784, 2)
    bits = text[..., 0] - np.uint8(ord("0"))
    if bits.max() > 1 or (text[:, :-1, 1] != ord(" ")).any() or (text[:, -1, 1] != ord("\n")).any():
        raise DataError(f"{path}: damaged; expected lines of 784 digits 0 or 1 with single blanks between them")
    return bits.reshape(rows, 28, 28)


def _omniglot(folders) -> Dataset:
    (path,) = _locate("omniglot", ["omniglot_28x28_derived.npz"], folders)
    arrays = _read_npz(path, lambda keys: {key: key for key in ("images", "split", "character")})
    images, split, labels = arrays["images"], arrays["split"], arrays["character"]
    if split.shape != images.shape[:1] or labels.shape != split.shape:
        raise DataError(f"{path}: images {images.shape}, split {split.shape}, character {labels.shape} disagree")
    train, test = split == 0, split == 1
    return _assemble("omniglot", str(path), images[train], images[test], labels[train], labels[test])


def _frey_faces(folders) -> Dataset:
    (path,) = _locate("frey_faces", ["freyfaces.npy"], folders)
    faces = _read_npy(path)
    if faces.shape != (1965, 28, 20) or faces.dtype != np.uint8:
        raise DataError(f"{path}: {faces.dtype} {faces.shape}, expected uint8 (1965, 28, 20)")
    # Neighbouring rows are neighbouring frames. NumPy has frozen the stream of RandomState, not that of its successors.
    order = np.random.RandomState(0).permutation(len(faces))
    return _assemble("frey_faces", str(path), faces[order[:-200]], faces[order[-200:]])


_LOADERS: dict[str, Callable[[list[Path]], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "binarized_mnist": _binarized_mnist,
    "omniglot": _omniglot,
    "frey_faces": _frey_faces,
}


def _folders(name: str, data_dir) -> list[Path]:
    roots = [Path(os.path.expanduser(root)) for root in (data_dir, os.environ.get("GVAE_DATA_DIR")) if root]
    return [folder for root in roots for folder in (root, root / name)]


def _locate(name: str, files: Sequence[str], folders: list[Path]) -> list[Path]:
    """The files, packed or not, all from the first folder that has them all: never a mixture of two copies."""
    if not folders:
        raise DataError(f"{name}: needs {', '.join(files)}, never downloaded; looked nowhere: {ADVICE}")
    fewest = list(files)
    for folder in folders:
        found = {file: p for file in files for p in (folder / f"{file}.gz", folder / file) if os.path.isfile(p)}
        missing = [file for file in files if file not in found]
        if not missing:
            return [found[file] for file in files]
        fewest = min(fewest, missing, key=len)
    searched = ", ".join(map(str, dict.fromkeys(folders)))
    raise DataError(f"{name}: {', '.join(fewest)} (or with .gz) not found; searched {searched}")


# ---- files ---------------------------------------------------------------------------------------


def _load_file(source) -> Dataset:
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        raise DataError(f"{path}: is a folder; expected a file")
    if not os.path.isfile(path):
        names = f", nor a data set of that name ({', '.join(dataset_names())})" if isinstance(source, str) else ""
        raise DataError(f"{path}: no such file{names}")
    plain = Path(path.name[:-3]) if _packed(path) else path
    suffix = ".idx" if plain.name.lower().endswith("-ubyte") else plain.suffix.lower()
    if suffix == ".npz" and not _packed(path):
        return _assemble(plain.stem, str(path), **_read_npz(path, _npz_roles))
    if suffix in _READERS:
        return _assemble(plain.stem, str(path), _READERS[suffix](path))
    raise DataError(f"{path}: unknown kind of file; known: .npz; {', '.join(_READERS)}, *-ubyte, also with .gz")


def _packed(path) -> bool:
    return path.suffix.lower() == ".gz"


def _open(path):
    return gzip.open(path, "rb") if _packed(path) else open(path, "rb")


@contextmanager
def _reading(path) -> Iterator[None]:
    """Turn whatever a missing, damaged or unreadable file makes the readers raise into a DataError."""
    try:
        if not os.path.getsize(path):
            raise DataError(f"{path}: empty file (0 bytes)")
        yield
    except DataError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        # RuntimeError: an encrypted member of a zip file, or (NotImplementedError) one of a newer kind
        raise DataError(f"{path}: damaged or not readable ({error})") from error


def _read_exactly(stream, n: int, path) -> bytearray:
    """The n bytes that the header announced, read a chunk at a time; DataError if the stream holds fewer or more."""
    data = bytearray()
    while len(data) < n and (chunk := stream.read(min(n - len(data), CHUNK))):
        data += chunk
    if len(data) < n:
        raise DataError(f"{path}: truncated; {n} bytes announced, {len(data)} found")
    if stream.read(1):  # the read that meets the end is also the one that checks a packed file's checksum
        raise DataError(f"{path}: damaged; {n} bytes announced, more found")
    return data


def _read_idx(path, magic: int | None = None) -> np.ndarray:
    """LeCun's format: two zero bytes, type, number of axes; the sizes (big-endian uint32); the values in C order."""
    with _reading(path), _open(path) as stream:
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
        return np.frombuffer(_read_exactly(stream, math.prod(shape) * dtype.itemsize, path), dtype).reshape(shape)


def _read_npy(path) -> np.ndarray:
    with _reading(path), _open(path) as stream:
        return _parse_npy(stream, path)


def _parse_npy(stream, path, where: str | None = None) -> np.ndarray:
    """One array in NumPy's format, whose header is a Python literal.

    Read by pattern, because `numpy.load` evaluates the header and allocates what it asks for before it sees the rest.
    """
    where = where or str(path)
    magic = stream.read(8)
    if magic[:1] == b"\x80":
        raise DataError(f"{where}: a pickle; pickled arrays are refused, because loading one can run any code")
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY":
        raise DataError(f"{where}: not a .npy file")
    length = int.from_bytes(stream.read(2 if magic[6] == 1 else 4), "little")
    header = stream.read(min(length, 10_000)).decode("latin1")  # plain arrays need about 100
    descr = re.search(r"""['"]descr['"]\s*:\s*['"]([^'"]*)['"]""", header)
    order = re.search(r"""['"]fortran_order['"]\s*:\s*(True|False)""", header)
    shape = re.search(r"""['"]shape['"]\s*:\s*\(([0-9L,\s]*)\)""", header)
    if not (descr and order and shape):
        raise DataError(f"{where}: damaged .npy header, or not a plain array")
    if "O" in descr[1]:
        raise DataError(f"{where}: dtype object; pickled arrays are refused, because loading one can run any code")
    if not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248])", descr[1]):
        raise DataError(f"{where}: dtype {descr[1]!r} is not real numbers")
    dtype, sizes = np.dtype(descr[1]), [int(size) for size in re.findall("[0-9]+", shape[1])]
    data = _read_exactly(stream, math.prod(sizes) * dtype.itemsize, path)
    return np.frombuffer(data, dtype).reshape(sizes, order="F" if order[1] == "True" else "C")


def _read_npz(path, choose: Callable[[list[str]], dict[str, str]]) -> dict[str, np.ndarray]:
    """The arrays of a .npz that choose(keys) asks for as {role: key}; no other is touched."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        members = {m.filename[:-4]: m for m in archive.infolist() if m.filename.endswith(".npy")}
        roles = choose(list(members))
        if not roles or not members.keys() >= set(roles.values()):
            raise DataError(f"{path}: no array to take among the keys {', '.join(map(repr, members)) or '(none)'}")
        arrays = {}
        for role, key in roles.items():
            if members[key].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{path}: {key!r} is packed in a way that NumPy does not write")
            with archive.open(members[key]) as stream:
                arrays[role] = _parse_npy(stream, path, f"{path}, {key!r}")
        return arrays


def _npz_roles(keys: list[str]) -> dict[str, str]:
    """Which key of a user's .npz plays which part in `_assemble`; empty if that cannot be told."""
    others = [key for key in keys if key not in ("train_labels", "labels", "test_labels")]
    data = next(([key] for key in ("train", "x") if key in keys), others)
    if len(data) != 1:
        return {}
    roles = {"train": data[0]}
    if labels := [key for key in ("train_labels", "labels") if key in keys]:
        roles["train_labels"] = labels[0]
    if data == ["train"] and "test" in keys:
        roles |= {key: key for key in ("test", "test_labels") if key in keys}
    return roles


def _read_text(path) -> np.ndarray:
    """(N, D) float32; a line is split at its commas, else at blanks. Messages count lines and columns from 1."""
    values, width, blank = array("f"), 0, 0  # array: four bytes a number while the number of rows is unknown
    with _reading(path), io.TextIOWrapper(_open(path), encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            cells = line.split("," if "," in line else None)
            if not cells:
                blank = blank or number
                continue
            if blank:  # a missing row, or the missing value of a single column: only the end may be blank
                raise DataError(f"{path}: line {blank} is empty")
            row = _numbers(cells, line)
            if row is None:
                bad = [cell.strip() for cell in cells if _numbers([cell], cell) is None]
                if number == 1 and (line.startswith("#") or (len(bad) == len(cells) and all(bad))):
                    continue
                column = [cell.strip() for cell in cells].index(bad[0]) + 1
                what = f"{bad[0][:40]!r} is not a number" if bad[0] else "empty cell"
                raise DataError(f"{path}: line {number}, column {column}: {what}")
            width = width or len(row)
            if len(row) != width:
                raise DataError(f"{path}: line {number} has {len(row)} numbers, the lines before it have {width}")
            values.extend(row)
    if not width:
        raise DataError(f"{path}: no rows of numbers")
    return np.frombuffer(values, np.float32).reshape(-1, width)


def _numbers(cells: list[str], text: str) -> list[float] | None:
    """The cells of a text as numbers, or None if one is not; 1_000, which Python takes, is not."""
    try:
        return None if "_" in text else [float(cell) for cell in cells]
    except ValueError:
        return None


_READERS = {".npy": _read_npy, ".csv": _read_text, ".txt": _read_text, ".idx": _read_idx}
