"""What the parts of a data set hold: their rows as a set, and their labels counted."""

import torch


def rows(x: torch.Tensor) -> set[bytes]:
    return {row.tobytes() for row in x.numpy()}


def counts(y: torch.Tensor) -> torch.Tensor:
    return y[y >= 0].bincount()
