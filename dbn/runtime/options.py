"""Options that are declared once: default, documentation and check of each beside its field."""

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import UnionType
from typing import Any, Self, TypeVar

from dbn.runtime.checks import check_instance, choice

Check = Callable[[Any, str], Any]
F = TypeVar("F", bound=Callable[..., Any])


def option(default: Any, documentation: str, check: Check) -> Any:
    """A field with its default, its documentation, and what raises an error for a wrong value, given its name."""
    return field(default=default, metadata={"documentation": documentation, "check": check})


def required(documentation: str, check: Check) -> Any:
    """The same without a default."""
    return field(metadata={"documentation": documentation, "check": check})


def optional(check: Check) -> Check:
    """The same check for all values but None."""
    return lambda value, name: None if value is None else check(value, name)


def one_of(*choices: str) -> Check:
    """A check for one of some words."""
    return lambda value, name: choice(value, choices, name)


def instance_of(kind: type | UnionType, advice: str) -> Check:
    """A check for an object of a class; `advice` says what to give."""
    return lambda value, name: check_instance(value, kind, name, advice)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of frozen dataclasses whose fields are made by `option`; each value is checked."""

    def __post_init__(self) -> None:
        for one in fields(self):
            one.metadata["check"](getattr(self, one.name), one.name)

    @classmethod
    def from_keywords(cls, function: Callable[..., Any], given: Mapping[str, Any]) -> Self:
        """The options that a call of a function was given; a TypeError names the nearest one if one is unknown."""
        check_names(function, given)
        return cls(**given)


def check_names(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raise a TypeError for a keyword that a function does not have, as Python does, with the nearest one."""
    known = list(inspect.signature(function).parameters)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f": did you mean {near[0]!r}?" if near else f": known are {', '.join(known)}"
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}{advice}")


def takes(options: type[Options]) -> Callable[[F], F]:
    """Give a function with `**options` the signature and the documentation of all of them.

    The line `{options}` of its docstring is replaced; what its signature names itself is left as it is.
    """

    def documented(function: F) -> F:
        signature = inspect.signature(function)
        own = [value for value in signature.parameters.values() if value.kind is not value.VAR_KEYWORD]
        named = {value.name for value in own}
        further = [one for one in fields(options) if one.name not in named]
        function.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *map(_parameter, further)]
        )
        if function.__doc__:
            function.__doc__ = _with_documentation(function.__doc__, further)
        return function

    return documented


def _parameter(one: "Field[Any]") -> inspect.Parameter:
    default = inspect.Parameter.empty if one.default is MISSING else one.default
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=one.type)


def _with_documentation(text: str, further: "list[Field[Any]]") -> str:
    line = next((line for line in text.splitlines() if line.strip() == "{options}"), None)
    if line is None:
        return text
    indent = line[: -len("{options}")]
    entries = [
        textwrap.fill(
            f"{one.name}: {one.metadata['documentation']}",
            width=120,
            initial_indent=indent,
            subsequent_indent=indent + "    ",
            break_on_hyphens=False,
        )
        for one in further
    ]
    return text.replace(line, "\n".join(entries))
