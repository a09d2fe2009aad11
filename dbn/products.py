"""How exactly single-precision matrix products are computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from dbn.arguments import choice

Products = Literal["float32", "tf32"]

_KINDS = {"float32": "highest", "tf32": "high"}  # as torch calls them


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
    It is torch's own setting, `torch.set_float32_matmul_precision`, of the whole process, and put back after.
    """
    wanted = _KINDS[choice(kind, tuple(_KINDS), "kind")]
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before, whole = [one.fp32_precision for one in backends], _whole()
    torch.set_float32_matmul_precision(wanted)
    try:
        yield
    finally:
        if whole is not None:
            torch.set_float32_matmul_precision(whole)
        for one, value in zip(backends, before, strict=True):
            one.fp32_precision = value


def _whole() -> str | None:
    """The setting of all backends together, or None where they were set one by one, which torch does not mix."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
