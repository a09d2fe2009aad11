"""Minibatches from tensors, arrays, memory maps, data sets and loaders, through one interface."""

from dbn.data.loaders import DatasetSource, LoaderSource
from dbn.data.opening import open_source
from dbn.data.reader import Check, Reader
from dbn.data.source import Batch, BufferOf, MappedSource, Source, data_config
from dbn.data.streaming import StreamedSource
from dbn.data.tensors import MemmapSource, TensorSource

__all__ = [
    "Batch",
    "BufferOf",
    "Check",
    "DatasetSource",
    "LoaderSource",
    "MappedSource",
    "MemmapSource",
    "Reader",
    "Source",
    "StreamedSource",
    "TensorSource",
    "data_config",
    "open_source",
]
