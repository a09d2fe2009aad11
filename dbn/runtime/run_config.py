"""Settings of a run as plain values, by which a checkpoint is compared with the call that would resume it."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CellType, CodeType, FunctionType
from typing import Any

from torch import Tensor, nn

from dbn.runtime.fingerprint import fingerprint, fingerprint_of_parameters

_EPOCHS_COMPARED = 1000  # of schedules
_MAX_LEVELS = 5  # of functions in each other


def plain_setting(value: Any, epochs: int) -> Any:
    """A setting as plain values: a schedule by its numbers, a module by its attributes, a dataclass by its fields."""
    if isinstance(value, nn.Module):
        return {"kind": type(value).__name__, **plain_attributes(value)}
    if is_dataclass(value) and not callable(value):
        return {field.name: _plain_part(getattr(value, field.name)) for field in fields(value)}
    if not callable(value):
        return value
    return {str(epoch): float(value(float(epoch))) for epoch in range(min(max(epochs, 1), _EPOCHS_COMPARED))}


def plain_attributes(module: Any) -> dict[str, Any]:
    """The attributes of an object that are numbers, strings or tuples of them."""
    return plain_values(vars(module))


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some named values that are numbers, strings or tuples of them."""
    return {name: value for name, value in values.items() if _is_plain(value)}


def plain_function(function: Any, level: int = 0) -> Any:
    """A function as plain values: its name and what it computes with, as far as that can be told.

    A module is known by its attributes, parameters and buffers, a `partial` by its function and arguments, a function
    of Python by its code, defaults and enclosed values, and any other object by its class and attributes.
    """
    if function is None or level > _MAX_LEVELS:
        return None
    if isinstance(function, nn.Module):
        return [*_plain_module(function), fingerprint_of_parameters(function.state_dict())]
    if isinstance(function, partial):
        arguments = [_plain_part(one, level + 1) for one in function.args]
        return [plain_function(function.func, level + 1), arguments, _plain_parts(function.keywords, level)]
    if isinstance(function, FunctionType):
        enclosed = dict(zip(function.__code__.co_freevars, map(_contents, function.__closure__ or ()), strict=True))
        defaults = [_plain_part(one, level + 1) for one in function.__defaults__ or ()]
        named = _plain_parts({**enclosed, **(function.__kwdefaults__ or {})}, level)
        return [function.__qualname__, fingerprint(*_code(function.__code__)), defaults, named]
    if hasattr(function, "__qualname__"):
        return str(function.__qualname__)
    return [type(function).__qualname__, _plain_parts(getattr(function, "__dict__", {}), level)]


def _plain_parts(values: Mapping[Any, Any], level: int) -> dict[str, Any]:
    return {str(name): _plain_part(value, level + 1) for name, value in values.items()}


def _plain_part(value: Any, level: int = 0) -> Any:
    """A value inside a setting: plain as it is, tensors by their checksum, functions as above, others by their class.

    A module is known by its attributes alone, since it may be the one that is trained.
    """
    if _is_plain(value) or value is None:
        return value
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, nn.Module):
        return _plain_module(value)
    return plain_function(value, level) if callable(value) else type(value).__qualname__


def _plain_module(module: nn.Module) -> list[Any]:
    return [type(module).__qualname__, plain_attributes(module)]


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _code(code: CodeType) -> list[Any]:
    """The instructions and constants of a function and of those in it, apart from where they stand in a file."""
    nested = [part for constant in code.co_consts if isinstance(constant, CodeType) for part in _code(constant)]
    return [code.co_code, code.co_names, [one for one in code.co_consts if not isinstance(one, CodeType)], *nested]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)
