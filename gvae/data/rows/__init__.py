"""Rows that need not fit into memory: `Rows` is the protocol of their sources; files, orders, and a thread that reads ahead.

`sources` has the files, `order` the order in which rows are presented, `column` their conversion and the reader, `writing`
what writes row by row. `gvae.data.Table` takes a `Column` wherever it takes an array.
"""

from gvae.data.rows.column import Column, Reader, default_window
from gvae.data.rows.order import Order, Shuffle
from gvae.data.rows.protocol import ArrayRows, Part, Rows, chunk_of, numbers_of, stored_in
from gvae.data.rows.sources import CsrRows, HDF5Rows, NpyRows, ParquetRows, ZarrRows, as_rows, columns_of_file, open_rows
from gvae.data.rows.writing import Output, pack

__all__ = [
    "ArrayRows",
    "Column",
    "CsrRows",
    "HDF5Rows",
    "NpyRows",
    "Order",
    "Output",
    "ParquetRows",
    "Part",
    "Reader",
    "Rows",
    "Shuffle",
    "ZarrRows",
    "as_rows",
    "chunk_of",
    "columns_of_file",
    "default_window",
    "numbers_of",
    "open_rows",
    "pack",
    "stored_in",
]
