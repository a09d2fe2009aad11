"""How exactly single-precision matrix products are computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from dbn.arguments import choice

Products = Literal["float32", "tf32"]

_KINDS = {"float32": "ieee", "tf32": "tf32"}


@contextmanager
def matrix_products(kind: Products) -> Iterator[None]:
    """Compute the matrix products of single-precision tensors so, for as long as the block runs.

    "tf32" rounds both factors to 10 bits after the leading one, where float32 has 23, and adds up in float32: on GPUs
    from Ampere on, several times as fast. All else, parameters, increments and chains included, stays in float32.

    Source: NVIDIA (2020), A100 tensor core GPU architecture, whitepaper.

    Args:
        kind: "float32" or "tf32". Hardware without such products computes them in float32.

    Raises:
        ValueError: for another kind.

    Example:
        >>> from dbn import RBM, train
        >>> with matrix_products("tf32"):
        ...     history = train(RBM(4, 3, seed=0), torch.ones(20, 4), epochs=1, progress=False, seed=0)

    Not for what must be exact to more than three digits: a log-likelihood of 100 nats may be off by a tenth of a nat.
    It is torch's own setting, `torch.backends.cuda.matmul.fp32_precision`, of the whole process, and put back after.
    """
    wanted = _KINDS[choice(kind, tuple(_KINDS), "kind")]
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [one.fp32_precision for one in settings]
    _set(settings, [wanted] * len(settings))
    try:
        yield
    finally:
        _set(settings, before)


def _set(settings: tuple[object, ...], values: list[str]) -> None:
    for one, value in zip(settings, values, strict=True):
        setattr(one, "fp32_precision", value)  # noqa: B010
