"""Data: loading it (`load`), checking it, and handing it to a model in batches (`Table`)."""

from gvae.data.checks import check_finite, check_support, check_weight, column_names
from gvae.data.dataset import Dataset
from gvae.data.loaders import dataset_names, load
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
    "check_weight",
    "column_names",
    "dataset_names",
    "load",
]
