"""What users pass, turned into what the library computes with, or refused by name."""

import math
from collections.abc import Sequence
from types import UnionType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor

T = TypeVar("T")

_LARGEST = 2**63 - 1  # torch counts with 64 bits


def as_rows(x: Any, width: int, *, like: Tensor, name: str) -> Tensor:
    """`x` as rows (n, width) with the dtype and on the device of `like`.

    Args:
        x: a tensor or NumPy array of numbers; dimensions after the first are flattened.
        width: number of columns that the RBM expects.
        like: a tensor with the wanted dtype and device.
        name: what the caller calls the argument, for the errors.

    Raises:
        TypeError: if x is no array of numbers, or `like` is in half precision.
        ValueError: if its width is another.

    Example:
        >>> as_rows(np.zeros((5, 2, 3)), 6, like=torch.zeros(1), name="x").shape
        torch.Size([5, 6])
    """
    check_precision(like, name)
    tensor = as_tensor(x, name)
    if tensor.dim() != 2:
        tensor = flattened(tensor, name)
    if tensor.shape[1] != width:
        raise ValueError(f"{name} has {tensor.shape[1]} columns, but the layer has {width} units: give {width} columns")
    return tensor.to(device=like.device, dtype=like.dtype)


def check_precision(parameter: Tensor, name: str) -> None:
    """Raise a TypeError if an RBM's parameters are in half precision, which spoils probabilities and energies."""
    if parameter.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{name} would be computed with in {parameter.dtype}, which has too few digits for probabilities and "
            "energies: convert the RBM by .float()"
        )


def as_tensor(x: Any, name: str) -> Tensor:
    """`x` as a tensor that shares its memory if it can; a TypeError if it is no array of real numbers."""
    tensor = _from_numpy(x, name) if isinstance(x, np.ndarray) else x
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}: give a tensor or a NumPy array")
    return _real(tensor, name)


def _real(x: Tensor, name: str) -> Tensor:
    """`x` in a dtype that torch computes with; a TypeError if it holds no real numbers."""
    if x.is_complex() or x.layout != torch.strided or x.is_quantized or x.is_nested:
        kind = "nested" if x.is_nested else x.layout
        raise TypeError(f"{name} is a {kind} tensor of dtype {x.dtype}: give a dense tensor of real numbers")
    if x.is_meta:
        raise TypeError(f"{name} is on the meta device, where there are no numbers: give a tensor that has them")
    if x.is_inference() and not torch.is_inference_mode_enabled():  # autograd takes a copy alone
        x = x.clone()
    if x.is_floating_point() and x.element_size() == 1:  # torch cannot compare them
        return x.float()
    if x.dtype not in (torch.uint16, torch.uint32, torch.uint64):
        return x
    whole = x.long()
    if x.dtype == torch.uint64 and bool((whole < 0).any()):
        raise ValueError(f"{name} has whole numbers of 2**63 and more: give smaller ones, or floats")
    return whole


def _from_numpy(x: np.ndarray[Any, Any], name: str) -> Tensor:
    """The array as a tensor that shares its memory if it can."""
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} is an array of dtype {x.dtype}: give real numbers")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array: fill in what is masked, or leave those rows out")
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # what float64 cannot hold becomes infinite, and is refused as such
            x = x.astype(np.float64)
    if not x.flags.writeable or any(stride < 0 for stride in x.strides):
        x = x.copy()
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    return torch.from_numpy(x)


def flattened(rows: Tensor, name: str) -> Tensor:
    """Rows (n, …) as (n, features); a ValueError if there is no first dimension to count rows by."""
    if rows.dim() < 2:
        raise ValueError(f"{name} has shape {tuple(rows.shape)}: give rows, of shape (n, features)")
    return rows.flatten(1)


def check_finite(x: Tensor, name: str, dtype: torch.dtype | None = None) -> None:
    """Raise a ValueError that counts the rows of (n, features) with a NaN or an infinity, also one in that dtype."""
    low, high = (bound.item() for bound in torch.aminmax(x.detach())) if x.numel() else (0, 0)  # no copy of x is made
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        raise ValueError(f"{name} has NaN or infinite values in {bad} of {len(x)} rows: remove or impute them")
    if dtype is not None and max(-low, high) > torch.finfo(dtype).max:
        raise ValueError(f"{name} lies in {low:g}..{high:g}, which {dtype} cannot hold: rescale it")


def as_generator(generator: Generator | None, seed: int | None, device: torch.device) -> Generator | None:
    """The generator given, or a new one on `device` from the seed, or None for torch's global one.

    Raises:
        TypeError: if either is something else.
        ValueError: if both are given, or the generator lives on another device.

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
    if not isinstance(device, str | torch.device):
        raise TypeError(f'device is {device!r}: give "auto", a name such as "cpu" or "cuda:0", or a torch.device')
    if device != "auto":
        return _usable(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _usable(device: str | torch.device) -> torch.device:
    """`device` as a torch.device on which tensors can be made, or a ValueError."""
    try:
        found = torch.empty(0, dtype=torch.float32, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has an error of its own for each kind
        raise ValueError(
            f'device is "{device}", which cannot be used ({error}): give "auto", or one there is'
        ) from error
    if found.type == "meta":
        raise ValueError('device is "meta", where there are no numbers: give "auto", or one there is')
    return torch.device(device)


def check_instance(value: Any, kind: type | UnionType, name: str, advice: str) -> None:
    """Raise a TypeError if `value` is of another kind; `advice` says what to give."""
    if not isinstance(value, kind):
        found = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise TypeError(f"{name} is {found}: give {advice}")


def flag(value: Any, name: str) -> bool:
    """`value` as a bool; a TypeError if it is no True or False, 1 or 0, since "no" would count as yes."""
    if not isinstance(value, bool | int | np.bool_) or value not in (0, 1):
        raise TypeError(f"{name} is {value!r}: give True or False")
    return bool(value)


def check_watching(callback: Any, progress: Any, description: Any = "") -> None:
    """Raise a TypeError if a run could not be watched so."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}: give a function of a record")
    flag(progress, "progress")
    check_instance(description, str, "description", "what the bar calls the run, as a string")


def choice(value: Any, options: Sequence[str], name: str) -> str:
    """`value` if it is one of the options; otherwise a ValueError that lists them.

    Example:
        >>> choice("noise", ("noise", "data"), "start")
        'noise'
    """
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(options)}")
    return value


def whole_number(value: Any, name: str, *, at_least: int = 1) -> int:
    """`value` as an int; TypeError or ValueError where it is no whole number of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}: give a whole number")
    if value < at_least:
        raise ValueError(f"{name} is {value}: give a whole number of at least {at_least}")
    if value > _LARGEST:
        raise ValueError(f"{name} is 2**63 or more: give a smaller whole number")
    return int(value)


def finite_number(value: Any, name: str, *, positive: bool = False, signed: bool = False) -> float:
    """`value` as a finite float of at least, or with `positive` above, zero; with `signed`, of any sign."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} is {value!r}: give a number")
    try:
        number = float(value)
    except OverflowError:  # a whole number that no float can hold
        number = math.inf
    if not math.isfinite(number) or (number < 0 and not signed) or (positive and number == 0):
        wanted = "number" if signed else "number above 0" if positive else "number of at least 0"
        raise ValueError(f"{name} is {value if math.isfinite(number) else number}: give a finite {wanted}")
    return number


def per_layer(value: T | Sequence[T], layers: int, name: str) -> list[T]:
    """One value a layer, from a value for all or a list or tuple with one a layer.

    Raises:
        ValueError: if the list is longer or shorter than the stack.

    Example:
        >>> per_layer(0.1, 2, "learning_rate"), per_layer([0.1, 0.05], 2, "learning_rate")
        ([0.1, 0.1], [0.1, 0.05])
    """
    if not isinstance(value, list | tuple):
        return [value] * layers  # type: ignore[list-item]
    if len(value) != layers:
        raise ValueError(f"{name} has {len(value)} values for {layers} layers: give one value, or one a layer")
    return list(value)
