"""Data: loading it (`load`), checking it, and handing it to a model in batches (`Table`)."""

from gvae.data.loaders import Dataset, check_finite, check_support, dataset_names, load
from gvae.data.standardization import Standardization
from gvae.data.table import BINARIZATIONS, Batch, Table

__all__ = [
    "BINARIZATIONS",
    "Batch",
    "Dataset",
    "Standardization",
    "Table",
    "check_finite",
    "check_support",
    "dataset_names",
    "load",
]
