"""Named objects in one file: written atomically, read without running code."""

import os
from os import PathLike
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


def save(path: str | PathLike[str], objects: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them to `path`, which is whole or untouched at every moment.

    Args:
        path: the file; its folder is made where it is missing.
        objects: names to values; "kind" names what the file holds.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/a.pt", {"kind": "numbers", "values": torch.arange(3)})
        ...     load(f"{folder}/a.pt", kind="numbers")["values"]
        tensor([0, 1, 2])
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **objects}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | PathLike[str], *, kind: str) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU, refusing files that hold anything but data.

    Args:
        path: the file.
        kind: what the file must hold.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is damaged, holds code or another kind, or was written by a newer version.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # noise makes the unpickler raise almost anything
        raise ValueError(f"{path} is damaged or was not written by dbn: {error}") from error
    if not isinstance(saved, dict) or "format" not in saved:
        raise ValueError(f"{path} was not written by dbn: load it with torch.load")
    if saved["format"] > FORMAT:
        raise ValueError(f"{path} has format {saved['format']}, this version reads up to {FORMAT}: update dbn")
    if saved.get("kind") != kind:
        raise ValueError(f"{path} holds a {saved.get('kind')}, not a {kind}: load it as what it is")
    return saved
