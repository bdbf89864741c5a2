"""Data: loading them (`load`), checking them, and passing them to a model in batches (`Table`)."""

from gvae.data.checks import check_finite, check_support, check_weight, column_names
from gvae.data.dataset import Dataset
from gvae.data.kinds import kind
from gvae.data.loaders import dataset_names, load
from gvae.data.presentation import BINARIZATIONS, Presentation
from gvae.data.rows import (
    ArrayRows,
    Column,
    CsrRows,
    HDF5Rows,
    NpyRows,
    Order,
    Output,
    ParquetRows,
    Part,
    Reader,
    Rows,
    Shuffle,
    ZarrRows,
    as_rows,
    chunk_of,
    columns_of_file,
    default_window,
    numbers_of,
    open_rows,
    pack,
    stored_in,
)
from gvae.data.sparse import as_csr
from gvae.data.split import split_counts
from gvae.data.standardization import Standardization
from gvae.data.table import Batch, Table

__all__ = [
    "BINARIZATIONS",
    "ArrayRows",
    "Batch",
    "Column",
    "CsrRows",
    "Dataset",
    "HDF5Rows",
    "NpyRows",
    "Order",
    "Output",
    "ParquetRows",
    "Part",
    "Presentation",
    "Reader",
    "Rows",
    "Shuffle",
    "Standardization",
    "Table",
    "ZarrRows",
    "as_csr",
    "as_rows",
    "check_finite",
    "check_support",
    "check_weight",
    "chunk_of",
    "column_names",
    "columns_of_file",
    "dataset_names",
    "default_window",
    "kind",
    "load",
    "numbers_of",
    "open_rows",
    "pack",
    "split_counts",
    "stored_in",
]
