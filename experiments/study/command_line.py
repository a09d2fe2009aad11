"""Make a command line of a frozen dataclass and a table of presets."""

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")


def option(default: Any, text: str) -> Any:
    """Declare a field of a configuration, with its default and its line of `--help`."""
    return dataclasses.field(default=default, metadata={"help": text})


def check_several(values: tuple[Any, ...], name: str, known: Collection[Any] = ()) -> tuple[Any, ...]:
    """Return `values` if there is at least one, none is given twice, and all are known.

    Raises:
        ValueError: otherwise.
    """
    if not values or (known and not set(values) <= set(known)):
        raise ValueError(f"{name} is {values}: give at least one" + f" of {' '.join(known)}" * bool(known))
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{name} has {' '.join(map(str, twice))} twice: give each once")
    return values


def parse(
    presets: Mapping[str, Config], description: str, arguments: Sequence[str] | None = None
) -> tuple[str, Config]:
    """Return the name of the chosen preset, and its configuration with the options of the command line.

    Args:
        presets: names to configurations of one dataclass; the first is the default.
        description: what the experiment answers.
        arguments: the command line without the program; by default that of the process.
    """
    default, example = next(iter(presets.items()))
    parser = argparse.ArgumentParser(
        prog=f"python -m {_module_of(example)}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_describe(presets),
    )
    parser.add_argument(
        "preset",
        nargs="?",
        default=default,
        choices=list(presets),
        help=f"a set of defaults, listed below; {default} if none is named",
    )
    hints = typing.get_type_hints(type(example))
    for field in dataclasses.fields(example):  # type: ignore[arg-type]
        _add(parser, field, hints[field.name], getattr(example, field.name))
    given = vars(parser.parse_args(arguments))
    name = given.pop("preset")
    changed = {key: value for key, value in given.items() if value is not argparse.SUPPRESS}
    config = dataclasses.replace(presets[name], **changed)  # type: ignore[type-var]
    if getattr(config, "out", None) == "":
        command = _module_of(example).removeprefix("experiments.")
        config = dataclasses.replace(config, out=f"runs/{command}-{name}")  # type: ignore[type-var]
    return name, config


def _module_of(example: Any) -> str:
    module = type(example).__module__
    spec = sys.modules["__main__"].__spec__ if module == "__main__" else None
    return module if spec is None else spec.name


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any, default: Any) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    text = field.metadata["help"] + ("" if default in (None, "") else f" ({_shown(default)})")
    kind = _plain(hint)
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
    elif typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        parser.add_argument(
            flag,
            type=item,
            nargs="+",
            action=_Tuple,
            default=argparse.SUPPRESS,
            help=text,
            metavar=_meta(item, field.name),
        )
    else:
        parser.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=text, metavar=_meta(kind, field.name))


class _Tuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _plain(hint: Any) -> Any:
    """Return X for `X | None`."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _meta(kind: type, name: str) -> str:
    return {int: "N", float: "X"}.get(kind, name.upper())


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _describe(presets: Mapping[str, Any]) -> str:
    """Describe the differences of each preset from the first."""
    (first, base), *others = presets.items()
    lines = [f"presets (the defaults above are those of {first!r}):"]
    for name, config in others:
        changes = [
            f"{field.name}={_shown(getattr(config, field.name))}"
            for field in dataclasses.fields(config)
            if getattr(config, field.name) != getattr(base, field.name)
        ]
        lines.append(f"  {name}: {', '.join(changes)}")
    return "\n".join(lines)
