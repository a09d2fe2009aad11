"""Named objects in one file: written atomically, checked by a checksum, read without running code."""

import contextlib
import hashlib
import io
import os
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from dbn.version import __version__

FORMAT = 2

#: What a file ends in, before its SHA-256. torch.load reads the file all the same.
_MARK = b"dbn checkpoint"
_TAIL = len(_MARK) + hashlib.sha256().digest_size


class DamagedError(ValueError):
    """A file is not what was written: cut off, changed, or never written by this library."""


def save(path: str | PathLike[str], objects: dict[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them to `path`, which is whole or untouched at every moment.

    Args:
        path: the file; its folder is created if it is missing.
        objects: names to values; "kind" names what the file holds.

    Raises:
        TypeError, ValueError: if `path` is no path, or names no file.
        OSError: if it cannot be written, such as on a full disk; what was at `path` before is then still there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/a.pt", {"kind": "numbers", "values": torch.arange(3)})
        ...     load(f"{folder}/a.pt", kind="numbers")["values"]
        tensor([0, 1, 2])
    """
    target = _file(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save({"format": FORMAT, "version": __version__, **objects}, content)
        with partial.open("wb") as file:
            file.write(content.getbuffer())
            file.write(_MARK + hashlib.sha256(content.getbuffer()).digest())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        before = "; the file before it is whole" if target.is_file() else ""
        raise OSError(error.errno, f"{target} could not be saved ({error.strerror or error}){before}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def load(path: str | PathLike[str], *, kind: str) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU, refusing files that hold anything but data.

    Args:
        path: the file.
        kind: what the file must hold.

    Raises:
        TypeError, ValueError: if `path` is no path, or names no file.
        FileNotFoundError: if there is no such file.
        DamagedError: if it is not as it was written, or holds code, which is not run.
        ValueError: if it holds another kind, or was written by a newer version.
    """
    content = _file(path).read_bytes()
    mark, digest = content[-_TAIL : -_TAIL + len(_MARK)], content[-_TAIL + len(_MARK) :]
    whole = mark == _MARK and hashlib.sha256(memoryview(content)[:-_TAIL]).digest() == digest
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch makes of strange files is said below, in our words
            saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noise makes the unpickler raise almost anything
        raise DamagedError(f"{path} {_fault(error)}") from error
    if not isinstance(saved, dict) or "format" not in saved:
        raise DamagedError(f"{path} was not written by dbn: load it with torch.load")
    if not isinstance(saved["format"], int) or saved["format"] > FORMAT:
        raise ValueError(f"{path} has format {saved['format']}, this version reads up to {FORMAT}: update dbn")
    if saved["format"] < FORMAT:
        raise ValueError(f"{path} has format {saved['format']}, which was written before {FORMAT}: make it anew")
    if not whole:
        raise DamagedError(f"{path} is damaged, or was not written by dbn: it has no checksum that fits its content")
    if saved.get("kind") != kind:
        raise ValueError(f"{path} holds a {saved.get('kind')}, not a {kind}: load it as what it is")
    return saved


def _file(path: Any) -> Path:
    """`path` as the path of a file; a TypeError or a ValueError if it cannot be one."""
    try:
        target = Path(path)
    except TypeError as error:
        raise TypeError(f"path is {path!r}: give the path of a file, as a string or a pathlib.Path") from error
    if not target.name or "\0" in str(target):
        raise ValueError(f"path is {str(path)!r}, which names no file: give the path of a file")
    return target


def _fault(error: Exception) -> str:
    """What is wrong with a file that could not be read: the code that it names, or damage."""
    _, found, rest = str(error).partition("GLOBAL ")
    if found:
        return f"holds code ({rest.split()[0]}), which was not run: only data are loaded"
    return f"is damaged or was not written by dbn: {error}"


def _sync_folder(folder: Path) -> None:
    """Make the new name of a file durable, if folders can be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
