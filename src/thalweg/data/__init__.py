"""Where `y` comes from: files, dataframes, built-in sets and toys; the schema; codes."""

from thalweg.data import toys
from thalweg.data.boxes import Boxes
from thalweg.data.column import ColumnSchema
from thalweg.data.crops import windows
from thalweg.data.dataset import Dataset
from thalweg.data.load import load
from thalweg.data.rows import Rows
from thalweg.data.schema import Schema
from thalweg.data.split import split
from thalweg.data.stream import batches
from thalweg.data.writer import Writer

__all__ = [
    "Boxes",
    "ColumnSchema",
    "Dataset",
    "Rows",
    "Schema",
    "Writer",
    "batches",
    "load",
    "split",
    "toys",
    "windows",
]
