"""What users pass, turned into what the library computes with, or refused by name."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

T = TypeVar("T")


def as_rows(x: Any, width: int, *, like: Tensor, name: str) -> Tensor:
    """`x` as rows (n, width) with the dtype and on the device of `like`.

    Args:
        x: a tensor or NumPy array of numbers; dimensions after the first are flattened.
        width: number of columns that the machine expects.
        like: a tensor with the wanted dtype and device.
        name: what the caller calls the argument, for the errors.

    Raises:
        TypeError: where x is no array of numbers.
        ValueError: where its width is another.

    Example:
        >>> as_rows(np.zeros((5, 2, 3)), 6, like=torch.zeros(1), name="x").shape
        torch.Size([5, 6])
    """
    tensor = as_tensor(x, name)
    if tensor.dim() != 2:
        tensor = flattened(tensor, name)
    if tensor.shape[1] != width:
        raise ValueError(f"{name} has {tensor.shape[1]} columns, but the layer has {width} units: give {width} columns")
    return tensor.to(device=like.device, dtype=like.dtype)


def as_tensor(x: Any, name: str) -> Tensor:
    """`x` as a tensor that shares its memory where it can; a TypeError where it is no array of real numbers."""
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "fiub":
            raise TypeError(f"{name} is an array of dtype {x.dtype}: give real numbers")
        if not x.flags.writeable or any(stride < 0 for stride in x.strides):
            x = x.copy()
        if not x.dtype.isnative:
            x = x.astype(x.dtype.newbyteorder("="))
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}: give a tensor or a NumPy array")
    if x.is_complex() or x.layout != torch.strided:
        raise TypeError(f"{name} is a {x.layout} tensor of dtype {x.dtype}: give a dense tensor of real numbers")
    return x.long() if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x


def flattened(rows: Tensor, name: str) -> Tensor:
    """Rows (n, …) as (n, features); a ValueError where there is no first dimension to count rows by."""
    if rows.dim() < 2:
        raise ValueError(f"{name} has shape {tuple(rows.shape)}: give rows, of shape (n, features)")
    return rows.flatten(1)


def check_finite(x: Tensor, name: str) -> None:
    """Raise a ValueError that counts the rows of (n, features) with a NaN or an infinity."""
    if x.numel() and not all(math.isfinite(bound) for bound in torch.aminmax(x.detach())):  # no copy of x is made
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        raise ValueError(f"{name} has NaN or infinite values in {bad} of {len(x)} rows: remove or impute them")


def as_generator(generator: Generator | None, seed: int | None, device: torch.device) -> Generator | None:
    """The generator given, or a new one on `device` from the seed, or None for torch's global one.

    Raises:
        TypeError: where either is something else.
        ValueError: where both are given, or the generator lives on another device.

    Example:
        >>> as_generator(None, 3, torch.device("cpu")).initial_seed()
        3
    """
    if generator is not None and seed is not None:
        raise ValueError("generator and seed are both given: give one of them")
    if not isinstance(generator, Generator | None):
        raise TypeError(f"generator is {generator!r}: give a torch.Generator, or a number as seed")
    if generator is not None and generator.device.type != device.type:
        raise ValueError(f"generator is on {generator.device}, the module on {device}: make it on the same device")
    if seed is None:
        return generator
    return torch.Generator(device).manual_seed(whole_number(seed, "seed", at_least=0))


def choose_device(device: str | torch.device) -> torch.device:
    """`device` as a torch.device, with "auto" for the first of cuda, mps and cpu that is there.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def whole_number(value: Any, name: str, *, at_least: int = 1) -> int:
    """`value` as an int; TypeError or ValueError where it is no whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}: give a whole number")
    if value < at_least:
        raise ValueError(f"{name} is {value}: give a whole number of at least {at_least}")
    return int(value)


def finite_number(value: Any, name: str, *, positive: bool = False) -> float:
    """`value` as a finite float of at least, or with `positive` above, zero."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} is {value!r}: give a number")
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{name} is {value}: give a finite number {'above' if positive else 'of at least'} 0")
    return float(value)


def per_layer(value: T | Sequence[T], layers: int, name: str) -> list[T]:
    """One value a layer, from a value for all or a list or tuple with one a layer.

    Raises:
        ValueError: where the list is longer or shorter than the stack.

    Example:
        >>> per_layer(0.1, 2, "learning_rate"), per_layer([0.1, 0.05], 2, "learning_rate")
        ([0.1, 0.1], [0.1, 0.05])
    """
    if not isinstance(value, list | tuple):
        return [value] * layers  # type: ignore[list-item]
    if len(value) != layers:
        raise ValueError(f"{name} has {len(value)} values for {layers} layers: give one value, or one a layer")
    return list(value)
