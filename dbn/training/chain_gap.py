"""How far persistent chains are from the data, in units of the noise."""

import torch
from torch import Tensor

from dbn.rbm import RBM
from dbn.runtime import distributed

_MOST = 2**16  # entries of ⟨v h⟩ that are looked at


@torch.no_grad()
def chain_gap(rbm: RBM, data: Tensor, chains: Tensor, hidden: Tensor | None = None) -> Tensor:
    """The difference of chains and data in ⟨v⟩ and ⟨v h⟩ over its standard error, rms over entries.

    z_i = (⟨x_i⟩_data − ⟨x_i⟩_chains) / √(s_i² (1/n + 1/m)), with s_i² the variance of x_i over the n rows and m chains
    together. x are the visible units v, or the products (v − μ)(h − λ) with h = E[h | v] and μ, λ the means at the
    data. The larger of both rms is returned: averages over thousands of products would hide a shift of ⟨v⟩. Entries
    that do not vary at all have z = 0 and are left out; at most √(n + m) is reached, by entries that are constant in
    both and differ. Of layers with more than 65,536 products, every k-th hidden unit is looked at.

    About 1 if the chains are independent samples of an RBM that fits; entries hang together, and so single values
    scatter. Much above 1 if the chains have lost a mode, or lag behind the weights.

    Args:
        rbm: the RBM.
        data: rows (n, V), the same on all processes.
        chains: states v of the chains of this process (m, V); m counts those of all processes.
        hidden: E[h | v] at the data (n, H), if known.
    """
    count = distributed.all_reduce_scalars(len(chains))[0]
    every = -(-rbm.weight.numel() // _MOST)
    h = (rbm.mean_hidden(data) if hidden is None else hidden)[:, ::every]
    offsets = data.mean(0), h.mean(0)
    of_data = _moments(data, h, offsets)
    of_chains = distributed.weighted_means(
        len(chains) / count, *_moments(chains, rbm.mean_hidden(chains)[:, ::every], offsets)
    )
    pairs = list(zip(of_data, of_chains, strict=True))
    return torch.maximum(*(_rms(*pairs[at], *pairs[at + 1], len(data), count) for at in (0, 2)))


def _moments(v: Tensor, h: Tensor, offsets: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Means of x and x², of the visible units and of the products."""
    v, h = v - offsets[0], h - offsets[1]
    squares = v.square()
    return [v.mean(0), squares.mean(0), v.t() @ h / len(v), squares.t() @ h.square() / len(v)]


def _rms(data: Tensor, chains: Tensor, data_square: Tensor, chains_square: Tensor, n: float, m: float) -> Tensor:
    mean = (n * data + m * chains) / (n + m)
    variance = (n * data_square + m * chains_square) / (n + m) - mean.square()
    varies = variance > 0
    z_squares = (data - chains).square() / (variance * (1 / n + 1 / m))
    return (torch.where(varies, z_squares, 0.0).sum() / varies.sum().clamp(min=1)).sqrt()
