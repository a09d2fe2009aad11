"""The rows of training: opened, checked against the visible units, and shown to the RBM as asked."""

from typing import Any, Literal

import torch
from torch import Generator, Tensor

from dbn.data import MappedSource, Source, open_source
from dbn.rbm import RBM

#: Rows of the training data that a mean is taken over.
ROWS_FOR_MEAN = 10_000


def open_rows(rbm: RBM, data: Any, batch_size: int, name: str = "data") -> Source:
    """`data` as a source of rows that fit the visible layer; ValueErrors name what does not."""

    def check(rows: Tensor, name: str) -> None:
        width = rbm.visible.size
        if rows.shape[1] != width:
            raise ValueError(f"{name} has {rows.shape[1]} columns, but the RBM has {width} visible units: give {width}")
        rbm.visible.constrain_data(rows, name)

    return open_source(data, batch_size=batch_size, like=rbm.weight, check=check, name=name)


@torch.no_grad()
def initialise_visible_bias(rbm: RBM, source: Source) -> None:
    """Set visible biases that are all still zero to the field of the data's mean, log[p/(1 − p)] for Bernoulli units.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines, section 8.
    """
    if bool((rbm.visible_bias == 0).all()):
        rows = source.representative_rows(ROWS_FOR_MEAN)
        rbm.visible_bias.copy_(rbm.visible.field_of_mean(rows.mean(0)))


def presented(
    rbm: RBM, source: Source, binarise: Literal["sample", "threshold"] | None, generator: Generator | None
) -> Source:
    """The rows as the RBM is shown them: as they are, drawn anew at every presentation, or thresholded.

    What is shown are states of the visible units. Rows that are drawn have the data's mean.

    Raises:
        TypeError: if the visible units have infinitely many states, and no means to draw them by.
    """
    if binarise is None:
        return source
    if rbm.visible.cardinality is None:
        raise TypeError(f'binarise is "{binarise}", but {rbm.visible} have infinitely many states: leave it out')
    if binarise == "threshold":
        _check_mode(rbm)
        return MappedSource(source, rbm.visible.mode, source.width, deterministic=source.deterministic)

    def drawn(rows: Tensor, draw_from: Generator | None = generator) -> Tensor:
        return rbm.visible.sample(rows, mean=rows, generator=draw_from)

    # What is watched must not draw what training draws, and must be the same at every call.
    return MappedSource(source, drawn, source.width, lambda rows: drawn(rows, _still(rows.device)))


def _check_mode(rbm: RBM) -> None:
    try:
        rbm.visible.mode(rbm.visible.mean(torch.zeros_like(rbm.visible_bias)))
    except TypeError as error:  # of units of the user's
        raise TypeError(f'binarise is "threshold", but {error}') from error


def _still(device: torch.device) -> Generator:
    return torch.Generator(device).manual_seed(0)
