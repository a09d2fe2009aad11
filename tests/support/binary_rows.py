"""Binary rows that hang together, and the containers in which they are handed over."""

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.support.oracles import generator


def pixels(n=200, width=6, seed=0):
    """Binary rows whose columns have means between 0.1 and 0.9 and hang together."""
    draw = generator(seed)
    common = torch.rand(n, 1, generator=draw) < 0.5
    means = torch.linspace(0.1, 0.9, width).expand(n, -1)
    return (torch.rand(n, width, generator=draw) < torch.where(common, means, 1 - means.flip(1))).double()


CONTAINERS = {
    "tensor": lambda x, path: x,
    "tensor_bool": lambda x, path: x.bool(),
    "array": lambda x, path: x.numpy(),
    "array_bytes": lambda x, path: x.numpy().astype(np.uint8),
    "memmap": lambda x, path: _mapped(x, path),
    "dataset": lambda x, path: TensorDataset(x),
    "labelled": lambda x, path: TensorDataset(x, torch.arange(len(x))),
    "loader": lambda x, path: DataLoader(TensorDataset(x), batch_size=20, shuffle=True, generator=generator()),
}


def _mapped(x, path):
    np.save(path / "rows.npy", x.numpy())
    return np.load(path / "rows.npy", mmap_mode="r")
