"""Data: loading them (`load`), checking them, and passing them to a model in batches (`Table`)."""

from gvae.data.checks import check_finite, check_support, check_weight, column_names
from gvae.data.dataset import Dataset
from gvae.data.kinds import kind
from gvae.data.loaders import dataset_names, load
from gvae.data.presentation import BINARIZATIONS, Presentation
from gvae.data.rows import ArrayRows, Output, Part, Rows, Shuffle, open_rows, pack
from gvae.data.sparse import as_csr
from gvae.data.split import split_counts
from gvae.data.standardization import Standardization
from gvae.data.table import Batch, Table

__all__ = [
    "BINARIZATIONS",
    "ArrayRows",
    "Batch",
    "Dataset",
    "Output",
    "Part",
    "Presentation",
    "Rows",
    "Shuffle",
    "Standardization",
    "Table",
    "as_csr",
    "check_finite",
    "check_support",
    "check_weight",
    "column_names",
    "dataset_names",
    "kind",
    "load",
    "open_rows",
    "pack",
    "split_counts",
]
