"""The named sets of images, which torchvision downloads and reads."""

import contextlib
import importlib
import io
import socket
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from dbn.datasets.table import Table


class DownloadError(ConnectionError):
    """A named data set is not on this RBM and could not be downloaded."""


def _idx_files(folder: str, train: str = "train", test: str = "t10k") -> list[str]:
    return [f"{folder}/raw/{part}-{kind}-ubyte" for part in (train, test) for kind in ("images-idx3", "labels-idx1")]


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_LETTER_FILES = _idx_files("EMNIST", "emnist-letters-train", "emnist-letters-test")
SOURCES = {  # torchvision's class, its files, the names of the classes
    "mnist": ("MNIST", _idx_files("MNIST"), tuple(string.digits)),
    "fashion-mnist": ("FashionMNIST", _idx_files("FashionMNIST"), _CLOTHES),
    "kmnist": ("KMNIST", _idx_files("KMNIST"), ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "emnist-letters": ("EMNIST", _LETTER_FILES, tuple(string.ascii_lowercase)),
    "usps": ("USPS", ["usps.bz2", "usps.t.bz2"], tuple(string.digits)),
}


def read_named(name: str, folder: Path, progress: bool) -> Table:
    """The set with that name, from the folder, where one process downloads it if it is missing and others wait."""
    parts = _torchvision_parts(name, folder, progress)
    x = torch.cat([torch.as_tensor(part.data) for part in parts])
    y = torch.cat([torch.as_tensor(part.targets).long() for part in parts])
    if name == "emnist-letters":  # stored lying on their side, with labels from 1
        x, y = x.transpose(1, 2), y - 1
    return Table(x.flatten(1).numpy(), y.numpy(), len(parts[0].data), SOURCES[name][2], tuple(x.shape[1:]))


def _torchvision_parts(name: str, folder: Path, progress: bool) -> list[Any]:
    """torchvision's training and test part, downloaded if any file is missing; every failure in the user's terms."""
    kind, files, _ = SOURCES[name]
    listed, options = ", ".join(files), {"split": "letters"} if name == "emnist-letters" else {}

    def present() -> bool:
        return all((folder / file).is_file() for file in files)

    try:
        dataset = getattr(importlib.import_module("torchvision.datasets"), kind)
    except (ImportError, RuntimeError, OSError) as error:  # a build that does not match torch fails in all these ways
        advice = "install the one that belongs to your torch, or use 'mnist-sample'"
        raise ImportError(f"{name!r} needs torchvision, which cannot be imported ({error}): {advice}") from error
    try:
        with _alone(folder, writing=not present(), progress=progress), contextlib.ExitStack() as stack:
            stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
            socket.setdefaulttimeout(30)  # seconds: a firewall that drops packets must end in an error, not a hang
            stack.enter_context(contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()))
            download = not present()
            return [dataset(str(folder), train=train, download=download, **options) for train in (True, False)]
    except Exception as error:  # sockets, HTTP, archives and assertions fail in ways of their own
        if present():
            raise ValueError(f"{name!r} in {folder} is damaged ({error!r}): delete {listed}, load again") from error
        advice = f"Put {listed} there, or name a folder by root= or DBN_DATA; 'mnist-sample' is bundled and needs none"
        raise DownloadError(f"{name!r} is not in {folder} and cannot be downloaded ({error}). {advice}") from error


@contextlib.contextmanager
def _alone(folder: Path, *, writing: bool, progress: bool) -> Iterator[None]:
    """One process at a time, so that none reads what another is still writing; readers wait if one ever wrote.

    Where no lock can be had, as in a folder that is read-only or of a system without them, there is none.
    """
    path = folder / ".dbn.lock"
    lock = FileLock(path, mode=0o666)
    with contextlib.suppress(OSError):
        if writing:
            folder.mkdir(parents=True, exist_ok=True)
        if writing or path.exists():
            _acquire(lock, progress)
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, progress: bool) -> None:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if progress:
            tqdm.write(f"waiting for another process that holds {lock.lock_file}")
        lock.acquire()
