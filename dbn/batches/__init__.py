"""Minibatches from tensors, arrays, memory maps, data sets and loaders, through one interface."""

from dbn.batches.loaders import DatasetSource, LoaderSource
from dbn.batches.memory import MemmapSource, TensorSource
from dbn.batches.opening import open_source
from dbn.batches.reader import Check, Reader
from dbn.batches.source import Batch, MappedSource, Place, Source
from dbn.batches.streaming import StreamedSource

__all__ = [
    "Batch",
    "Check",
    "DatasetSource",
    "LoaderSource",
    "MappedSource",
    "MemmapSource",
    "Place",
    "Reader",
    "Source",
    "StreamedSource",
    "TensorSource",
    "open_source",
]
