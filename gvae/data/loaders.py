"""Data sets as rows to train and to test on: digits offline, MNIST and others by file or cached download, files, arrays.

What is not finite real numbers is refused with a `DataError` of one line; nothing is repaired, nothing is unpickled.
Memory grows with what a file holds, not with what its header announces.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gvae.data import noisy
from gvae.data.dataset import COLUMNS, EVERY, Dataset, as_labels, as_weight, as_y, assemble, scaled, split
from gvae.data.readers import (
    READERS,
    no_array,
    opened,
    packed,
    read_exactly,
    read_feat,
    read_heading,
    read_idx,
    read_lines,
    read_npy,
    read_npz,
    read_text,
    reading,
)
from gvae.data.rows.protocol import Part, stored_bytes
from gvae.data.rows.sources import SUFFIXES, columns_of_file
from gvae.data.sparse import PARTS, csr_of
from gvae.errors import DataError, DependencyError
from gvae.runtime import limits

__all__ = ["dataset_names", "load", "noted_folder"]

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {  # sha256 of the .gz, which are those of the original distribution
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
MNIST_SHA256 = "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"  # the SHA-256 of the arrays
NOISY_ROWS = 50_000  # of MNIST's training images that are training pairs; the others are the validation part
OLIVETTI_BYTES, OLIVETTI_SHA256 = 1_432_511, "b1988d02c72fe5b8ee82b5ef3bb7982eafc74f1e1ff0ae0ade35061ad0af534d"
BINARIZED_ROWS = {"train": 50_000, "test": 10_000}
WANTED = "'train' (and, if there are any, 'test', 'train_y', ..), or 'x' (and 'y', ..), or a single array"  # see `load`
ADVICE = "give the folder of the files as data_dir (--data-dir) or in GVAE_DATA_DIR"


def dataset_names() -> tuple[str, ...]:
    """Names of the data sets that `load` knows.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> gvae.data.dataset_names()
    ('digits', 'mnist', 'noisy_mnist', 'binarized_mnist', 'omniglot', 'frey_faces', '20news', 'olivetti', 'nips_counts')
    """
    return tuple(_LOADERS)


def load(
    source: Any,
    *,
    data_dir: str | os.PathLike | None = None,
    name: str | None = None,
    target: str | None = None,
    in_memory: bool | None = None,
) -> Dataset:
    """A data set by name, from a file, or from an array.

    Parameters
    ----------
    source : str, path-like, array (N, D) or (N, rows, columns), or sparse matrix (N, D)
        A name, the path of a file, or the data; see Notes.
    data_dir : str or path-like, optional
        Folder of the named data sets, by default GVAE_DATA_DIR. They are searched in it and in data_dir/<name>, and nowhere
        else. Only if neither is given is MNIST downloaded (once, to pooch's cache, with its sha256); the others never.
        noisy_mnist is made from the files of mnist.
    name : str, optional
        By default the name of the data set or file, or "array".
    target : str, optional
        The column of a Parquet file that is y.
    in_memory : bool, optional
        Whether the rows of a .npy, Zarr, HDF5 or Parquet file are read at once. None: if they take a third of the memory, or
        less. Otherwise x, and y if it has two axes, are `gvae.data.Rows`.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        The data are missing, damaged, empty, pickled, not real numbers, NaN, infinite, of a wrong number of axes, or a
        column has another number of rows than x.
    DependencyError
        scikit-learn (digits) or pooch (download) is missing.

    Notes
    -----
    Sources are

    - "digits": scikit-learn's 1,797 images of 8 x 8, pixels / 16; every sixth row (index % 6 == 5) is the test set
    - "mnist": 60,000 + 10,000 images of 28 x 28, pixels / 255, from the four idx files, packed or not
    - "noisy_mnist": two views, 50,000 + 10,000 pairs and 10,000 for validation, pixels / 255, made from "mnist" and the same
      on every machine. x is a digit rotated by an angle uniform in -45 to 45 degrees; the column "y" is another digit of its
      class plus noise uniform in 0 to 1 at each pixel, at most 1. The labels are the classes. The values are real numbers:
      `gvae train` reads observation auto as gaussian, and for `fit`, which sees grey levels, name the observation
    - "binarized_mnist": the fixed binarization of Larochelle and Murray, 50,000 + 10,000; the validation part is unused, and
      the test rows are sorted by digit
    - "omniglot": omniglot_28x28_derived.npz (images; split: 0 train, 1 test; character: the label), pixels / 255
    - "frey_faces": freyfaces.npy, 1,965 images of 28 x 20, pixels / 255, in one fixed shuffled order, 1,765 + 200
    - "20news": counts of 1,995 words (`Dataset.names`) in 11,259 + 7,488 documents of 20 newsgroups, CSR, from train.feat,
      test.feat and vocab.new; one document of each part is empty
    - "olivetti": olivettifaces.mat, 400 faces of 64 x 64 as counts 0 to 255; the last two of each ten are the test set
    - "nips_counts": counts of 5,715 words in 305 papers, CSR; the test set are further words of the same papers
    - an array (N, D), or images (N, rows, columns), which are flattened; a sparse matrix of SciPy's, which becomes CSR
    - the path of a file

    Files, any but .npz and the next three also packed as .gz, are

    - .npy
    - .zarr, a folder: an array, or a group with the keys of a .npz below; each may be a sparse matrix as AnnData writes them
    - .h5 or .hdf5: a dataset, or several with these keys
    - .parquet: a number per column; `target` names the column that is y
    - idx (.idx or *-ubyte)
    - .feat: a document a line, a number that is not used and then id:count, ids from 1; it becomes CSR
    - .csv or .txt: numbers between commas or blanks, read as float32; the first line may be a heading (it starts with # or
      has no number in it), whose names `Dataset.names` keeps
    - .npz: "train" [and "test"], else "x", else the only array, with "train_labels" or "labels", "test_labels", "train_y"
      and "test_y", "train_weight" and "test_weight", or just "y" and "weight" if there is no "test" (see `Dataset`); y may
      be text; other keys are ignored
    - .npz written by scipy.sparse.save_npz (csr, csc or coo), to which "y", "weight" and "labels" may have been added

    bool and integers become float32. uint8 with a value above 1, in train or test, are grey levels and divided by 255; so
    are those of a second view, but not those of a sparse matrix, which are counts. Without a test part every tenth row
    (index % 10 == 9) of all columns is held out; with fewer than 10 rows none are: the test set is the training rows again,
    and `Dataset.held_out` is False.

    Not checked: that the values suit a model, see `check_support`.

    Examples
    --------
    >>> np.savetxt("rows.csv", np.arange(22.0).reshape(11, 2), delimiter=",")
    >>> dataset = gvae.data.load("rows.csv")
    >>> dataset.name, dataset.train.shape, dataset.test
    ('rows', (10, 2), array([[18., 19.]], dtype=float32))
    """
    named = isinstance(source, str) and source in _LOADERS
    if target is not None and (named or not isinstance(source, str | os.PathLike)):
        raise DataError(f"load: target is {target!r}, expected None: a target column is named for Parquet files only")
    if named:
        dataset = _LOADERS[source](_folders(MADE_FROM.get(source, source), data_dir))
    elif isinstance(source, str | os.PathLike):
        dataset = _load_file(source, target, in_memory)
    else:
        dataset = assemble("array", "array", source)
    return dataset if name is None else replace(dataset, name=name)


# ---- the named data sets -------------------------------------------------------------------------


def _digits(folders: list[Path]) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DependencyError("digits: scikit-learn is needed; pip install 'gvae[demo]'") from error
    x, labels = load_digits(return_X_y=True)
    split_rows = split(len(x), every=6)
    return assemble("digits", "digits", *split_rows((x / 16).astype(np.float32).reshape(-1, 8, 8)), *split_rows(labels))


def _mnist(folders: list[Path]) -> Dataset:
    where, train, train_labels, test, test_labels = _read_mnist("mnist", folders)
    return assemble("mnist", where, train, test, train_labels, test_labels)


def _read_mnist(name: str, folders: list[Path]) -> tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The folder, and images and labels of both parts, for the data set of a name."""
    paths = _locate(name, list(MNIST_FILES), folders) if folders else [_download(name, file) for file in MNIST_FILES]
    train, train_labels, test, test_labels = (
        read_idx(path, magic) for path, magic in zip(paths, (0x803, 0x801) * 2, strict=True)
    )
    return str(paths[0].parent), train, train_labels, test, test_labels


def _noisy_mnist(folders: list[Path]) -> Dataset:
    where, *read = _read_mnist("noisy_mnist", folders)
    if noisy.digest(read) != MNIST_SHA256:
        raise DataError(f"{where}: not the original files of MNIST, from which noisy_mnist is made: fetch them again")
    images, labels, test, test_labels = read
    first, second = slice(NOISY_ROWS), slice(NOISY_ROWS, None)
    parts = ((images[first], labels[first]), (images[second], labels[second]), (test, test_labels))
    (x, y), (vx, vy), (tx, ty) = made = [noisy.pairs(*part, number) for number, part in enumerate(parts)]
    if (found := noisy.digest(view for pair in made for view in pair)) != noisy.SHA256:
        raise DataError(
            f"noisy_mnist: the pairs made here have the SHA-256 {found}, expected {noisy.SHA256}: this version or machine "
            f"makes others, whose results cannot be compared; please report it with the output of gvae doctor"
        )
    dataset = assemble("noisy_mnist", where, x, tx, labels[first], test_labels, train_y=y, test_y=ty)
    validation = tuple(scaled(view.reshape(len(view), -1), np.float32) for view in (vx, vy))
    return replace(dataset, validation=validation, validation_labels=labels[second].astype(np.int64), real=True)


def _download(name: str, file: str) -> Path:
    try:
        import pooch
    except ImportError as error:
        raise DependencyError(f"{name}: the download needs pooch; pip install 'gvae[data]', or {ADVICE}") from error
    url, sha256 = f"{MNIST_URL}{file}.gz", f"sha256:{MNIST_FILES[file]}"
    try:
        return Path(pooch.retrieve(url, known_hash=sha256, fname=f"{file}.gz", path=pooch.os_cache("gvae")))
    except (OSError, ValueError) as error:  # no network, no room; another hash
        raise DataError(f"{name}: cannot download {url} ({error}); fetch it by other means and {ADVICE}") from error


def _binarized_mnist(folders: list[Path]) -> Dataset:
    paths = _locate("binarized_mnist", [f"binarized_mnist_{part}.amat" for part in BINARIZED_ROWS], folders)
    train, test = (_read_amat(path, rows) for path, rows in zip(paths, BINARIZED_ROWS.values(), strict=True))
    return assemble("binarized_mnist", str(paths[0].parent), train, test)


def _read_amat(path: Path, rows: int) -> np.ndarray:
    """(rows, 28, 28) uint8 from text: a line has 784 digits, each followed by one blank or the line's end."""
    with reading(path), opened(path) as stream:
        text = np.frombuffer(read_exactly(stream, rows * 784 * 2, path), np.uint8).reshape(rows, 784, 2)
    bits = text[..., 0] - np.uint8(ord("0"))
    if bits.max() > 1 or (text[:, :-1, 1] != ord(" ")).any() or (text[:, -1, 1] != ord("\n")).any():
        raise DataError(f"{path}: damaged; expected lines of 784 digits 0 or 1 with single blanks between them")
    return bits.reshape(rows, 28, 28)


def _omniglot(folders: list[Path]) -> Dataset:
    (path,) = _locate("omniglot", ["omniglot_28x28_derived.npz"], folders)
    keys = ("images", "split", "character")
    arrays = read_npz(path, lambda _: {key: key for key in keys}, ", ".join(map(repr, keys)))
    images, split, labels = arrays["images"], arrays["split"], arrays["character"]
    if split.shape != images.shape[:1] or labels.shape != split.shape:
        raise DataError(f"{path}: images {images.shape}, split {split.shape}, character {labels.shape} disagree")
    train, test = split == 0, split == 1
    return assemble("omniglot", str(path), images[train], images[test], labels[train], labels[test])


def _frey_faces(folders: list[Path]) -> Dataset:
    (path,) = _locate("frey_faces", ["freyfaces.npy"], folders)
    faces = read_npy(path)
    if faces.shape != (1965, 28, 20) or faces.dtype != np.uint8:
        raise DataError(f"{path}: {faces.dtype} {faces.shape}, expected uint8 (1965, 28, 20)")
    # Neighbouring rows are neighbouring frames. NumPy has frozen the stream of RandomState, not that of its successors.
    order = np.random.RandomState(0).permutation(len(faces))
    return assemble("frey_faces", str(path), faces[order[:-200]], faces[order[-200:]])


def _20news(folders: list[Path]) -> Dataset:
    train, test, words = _locate("20news", ["train.feat", "test.feat", "vocab.new"], folders)
    names = read_lines(words)
    found = assemble("20news", str(train.parent), *(read_feat(path, len(names)) for path in (train, test)))
    return replace(found, names=names)


def _olivetti(folders: list[Path]) -> Dataset:
    (path,) = _locate("olivetti", ["olivettifaces.mat"], folders)
    with reading(path), opened(path) as stream:
        content = stream.read(OLIVETTI_BYTES + 1)
    if hashlib.sha256(content).hexdigest() != OLIVETTI_SHA256:
        raise DataError(f"{path}: not the original file: {len(content)} bytes of another SHA-256")
    from scipy.io import loadmat

    faces = loadmat(io.BytesIO(content))["faces"].T.reshape(400, 64, 64).swapaxes(1, 2)  # stored by columns
    test = np.arange(400) % 10 >= 8
    return assemble(
        "olivetti", str(path), *(faces[part].astype(np.int16) for part in (~test, test))
    )  # counts, not grey levels


def _nips_counts(folders: list[Path]) -> Dataset:
    paths = _locate("nips_counts", ["nips_train.csv", "nips_test.csv"], folders)
    from scipy.sparse import csr_array

    parts = [read_text(path) for path in paths]
    for path, part in zip(paths, parts, strict=True):
        if part.shape != (305, 5715) or not ((part >= 0) & (part == np.floor(part))).all():
            raise DataError(f"{path}: {part.shape[0]} x {part.shape[1]} numbers, expected 305 x 5715 counts")
    return assemble("nips_counts", str(paths[0].parent), *map(csr_array, parts))


_LOADERS: dict[str, Callable[[list[Path]], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "noisy_mnist": _noisy_mnist,
    "binarized_mnist": _binarized_mnist,
    "omniglot": _omniglot,
    "frey_faces": _frey_faces,
    "20news": _20news,
    "olivetti": _olivetti,
    "nips_counts": _nips_counts,
}
MADE_FROM = {"noisy_mnist": "mnist"}  # whose files it reads


def _folders(name: str, data_dir: Any) -> list[Path]:
    given = data_dir or os.environ.get("GVAE_DATA_DIR")
    return [(root := Path(os.path.expanduser(given))), root / name] if given else []


def noted_folder(notes: Mapping[str, Any]) -> str | None:
    """The folder of the data that a run notes; where it is not on this machine, GVAE_DATA_DIR if that is set."""
    folder = notes.get("data_dir")
    if not isinstance(folder, str):
        return None
    return folder if os.path.isdir(folder) else os.environ.get("GVAE_DATA_DIR") or folder


def _locate(name: str, files: Sequence[str], folders: list[Path]) -> list[Path]:
    """The files, packed or not, all from the first folder that has all of them: never a mixture of two copies."""
    if not folders:
        raise DataError(f"{name}: needs {', '.join(files)}, which gvae does not download, and no folder was given: {ADVICE}")
    fewest = list(files)
    for folder in folders:
        found = {file: p for file in files for p in (folder / f"{file}.gz", folder / file) if os.path.isfile(p)}
        missing = [file for file in files if file not in found]
        if not missing:
            return [found[file] for file in files]
        fewest = min(fewest, missing, key=len)
    there = "" if folders[0].is_dir() else f": there is no folder {folders[0]}"
    raise DataError(f"{name}: {', '.join(fewest)} (or with .gz) not found; searched {', '.join(map(str, folders))}{there}")


# ---- files ---------------------------------------------------------------------------------------


def _load_file(source: Any, target: str | None, in_memory: bool | None) -> Dataset:
    path = Path(os.path.expanduser(source))
    suffix = path.suffix.lower()
    if suffix in SUFFIXES and (suffix != ".npy" or not _fits_unread(path, in_memory)) and path.exists():
        return _load_rows(path, target, in_memory)
    if target is not None:
        raise DataError(f"{path}: a target column is named for Parquet files; others have y as train_y")
    if os.path.isdir(path):
        raise DataError(f"{path}: is a folder; expected a file")
    if not os.path.isfile(path):
        bare = isinstance(source, str) and os.sep not in source  # it may be the name of a data set, mistyped
        names = f", nor a data set of that name ({', '.join(dataset_names())})" if bare else ""
        raise DataError(f"{path}: no such file{names}")
    plain = Path(path.name[:-3]) if packed(path) else path
    suffix = ".idx" if plain.name.lower().endswith("-ubyte") else plain.suffix.lower()
    if suffix == ".npz" and not packed(path):
        arrays = read_npz(path, _npz_roles, WANTED)
        if "format" in arrays:
            arrays["train"] = csr_of({part: arrays.pop(part) for part in PARTS if part in arrays}, str(path))
        return assemble(plain.stem, str(path), **arrays)
    if suffix in READERS:
        x = READERS[suffix](path)
        heading = read_heading(path, x.shape[1]) if READERS[suffix] is read_text else None
        return assemble(plain.stem, str(path), x, names=heading)
    raise DataError(
        f"{path}: unknown kind of file; known: .npz, .zarr, .h5, .parquet; {', '.join(READERS)}, *-ubyte, also with .gz"
    )


def _fits_unread(path: Path, in_memory: bool | None) -> bool:
    """Whether a .npy file is to be read as a whole."""
    return (not path.is_file() or limits.fits(path.stat().st_size)) if in_memory is None else in_memory


def _load_rows(path: Path, target: str | None, in_memory: bool | None) -> Dataset:
    """A data set of a file whose rows can be read some at a time: in memory, or as `Rows`."""
    found = columns_of_file(path, target)
    roles = _npz_roles(list(found))
    if not roles:
        raise no_array(path, found, WANTED)
    names = getattr(found[roles["train"]], "names", None)
    n_bytes = sum(found[key].shape[0] * stored_bytes(found[key]) for key in roles.values())
    if in_memory or (in_memory is None and limits.fits(n_bytes)):
        arrays = {role: found[key][:] for role, key in roles.items()}
        return assemble(path.stem, str(path), names=names, **arrays)
    return replace(_of_rows(path, {role: found[key] for role, key in roles.items()}), names=names)


def _of_rows(path: Path, found: dict[str, Any]) -> Dataset:
    """The data set of rows that are not read yet; those of one number each are read. Every tenth row is held out if there is
    no test part."""
    x, test = found["train"], found.get("test")
    own_test = test is not None
    if len(x.shape) not in (2, 3):
        raise DataError(f"{path}: shape {x.shape}; expected (N, D), or (N, rows, columns) for images")
    if test is not None and test.shape[1:] != x.shape[1:]:
        raise DataError(f"{path}: a row of train has shape {x.shape[1:]}, of test {test.shape[1:]}")
    n, columns = x.shape[0], {}
    numbers = np.arange(n)
    kept, held = split(n)(numbers)
    for name in COLUMNS:
        parts = []
        whole = next((key for key in (f"train_{name}", name) if key in found), name)
        for key, rows in ((whole, n), (f"test_{name}", 0 if test is None else test.shape[0])):
            if key not in found:
                continue
            y = found[key] if len(found[key].shape) > 1 else found[key][:]
            if y.shape[0] != rows:
                raise DataError(f"{path}, {key!r}: shape {tuple(y.shape)}; expected {rows} rows, as many as x has")
            if name == "weight" or isinstance(y, np.ndarray):  # in memory, and checked
                y = (as_weight if name == "weight" else as_y)(y[:], rows, f"{path}, {key!r}")
            parts.append(y.astype(np.int64) if isinstance(y, np.ndarray) and name == "y" and y.dtype.kind in "biu" else y)
        if len(parts) == 1 and test is None:
            y = parts[0]
            parts = [y[kept], y[held]] if isinstance(y, np.ndarray) else [Part(y, kept), Part(y, held)]
        if len(parts) == 2:
            columns[name] = (parts[0], parts[1])
        elif parts:
            raise DataError(f"{path}: {name} of one part without the other, though x has a train and a test part")
    held_out = test is not None or n >= EVERY
    train = x if test is not None or not held_out else Part(x, kept)
    test = test if test is not None else Part(x, held) if held_out else x
    shape = x.shape[1:] if len(x.shape) == 3 else None
    if own_test:
        labels, tested = _labels(path, found, "train", n), _labels(path, found, "test", test.shape[0])
    else:
        labels, tested = split(n)(_labels(path, found, "train", n))
    if labels is not None and tested is not None:
        columns = {"y": (labels, tested)} | columns
    return Dataset(path.stem, train, test, labels, tested, shape, columns, held_out=held_out)


def _labels(path: Path, found: Mapping[str, Any], part: str, n: int) -> np.ndarray | None:
    """The labels of the n rows of a part, or None."""
    key = f"{part}_labels"
    return as_labels(found[key][:], n, f"{path}, {part}") if key in found else None


def _npz_roles(keys: list[str]) -> dict[str, str]:
    """Which key of a user's .npz has which role in `assemble` or `csr_of`; empty if that cannot be decided."""
    data: list[str] = next(([key] for key in ("train", "x") if key in keys), [])
    if not data and {"data", "shape", "format"} <= set(keys):  # as scipy.sparse.save_npz writes
        roles = {part: part for part in PARTS if part in keys}
    else:
        others = [key for key in keys if key not in ("train_labels", "labels", "test_labels")]
        if not data and len(others) > 1:
            others = [key for key in others if key.removeprefix("train_").removeprefix("test_") not in COLUMNS]
        data = data or others
        if len(data) != 1:
            return {}
        roles = {"train": data[0]}
    if labels := [key for key in ("train_labels", "labels") if key in keys]:
        roles["train_labels"] = labels[0]
    tested = data == ["train"] and "test" in keys
    wanted = ["test", "test_labels"] if tested else []
    wanted += [f"{part}{name}" for name in COLUMNS for part in (("train_", "test_") if tested else ("train_", ""))]
    return roles | {key: key for key in wanted if key in keys and key not in data}
