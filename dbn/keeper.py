"""Pictures of a long run, kept in a folder so that the same call goes on where it was."""

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np
import torch
from torch import Generator

from dbn import distributed
from dbn.arguments import check_instance, finite_number
from dbn.checkpoint import DamagedError, load, save
from dbn.distributed import Shard, own_generator

Picture = dict[str, Any]

_VERSION = 3  # of what a picture holds
_FIRST = "first weights"
_SAME_SIGNAL = 1.0  # seconds within which a signal to a group of processes reaches all of them
_AGREE_EVERY = 10  # steps, among several processes
_KEPT = 2  # files in the folder: the newest, and the one before it should that be damaged


class Keeper:
    """Saves pictures of a run: at most one every so many seconds, one when asked to stop, and one at the end.

    While it is entered, SIGINT and SIGTERM save first and then stop; a second signal stops at once. Several processes
    save together what each has, the main one reads and writes, and they stop together.

    Args:
        folder: where the files lie, of this run alone; None keeps nothing and leaves signals as they are.
        kind: what the run is.
        plan: gives names to plain values of all that decides the run's numbers; asked only where there is a folder.
        weights: gives the checksums of what is trained: as it is now, and as the run may leave it if it is broken off.
        every: seconds from one picture to the next; 0 for one a step.

    Raises:
        ValueError: where the folder holds another run, or no file of it is whole, or where processes differ in plan.
    """

    def __init__(
        self,
        folder: str | PathLike[str] | None,
        kind: str,
        plan: Callable[[], Picture] = dict,
        every: float = 60.0,
        weights: Callable[[], list[str]] = lambda: [""],
    ) -> None:
        self.folder = None if folder is None else _made(folder)
        self.kind, self.every = kind, finite_number(every, "checkpoint_seconds")
        several = distributed.world_size() > 1
        self.plan, self.weights = {}, weights
        if several or self.folder is not None:
            # A run begins from the weights of the main process.
            self.plan = {"pictures": _VERSION, **plan(), _FIRST: distributed.from_main(weights)[0]}
        _check_alike({"checkpoint": self.folder is not None, "checkpoint_seconds": self.every, **self.plan})
        if self.folder is not None:
            distributed.from_main(partial(_check_writable, self.folder))
        #: What a picture of the run is put into before it is saved.
        self.frame: Callable[[Picture], Picture] = dict
        self.found = None if self.folder is None else distributed.parted(distributed.from_main(self._newest))
        self._due, self._asked, self._ticks = time.monotonic() + self.every, 0, 0
        self._before: dict[int, Any] = {}
        self._handles_signals = False
        self._of_deaths: Any = None

    def tick(self, picture: Callable[[], Picture | None]) -> None:
        """After a step: save where it is time to, and where a signal has come, and then stop for the signal."""
        self._ticks += 1
        if self.folder is None or not self._agrees():
            return
        # Not into `_asked` itself, which a signal may set meanwhile.
        asked, due = distributed.largest(self._asked, time.monotonic() >= self._due)
        if asked or due:
            self.save(picture())
        if asked:
            self._stop(asked)

    def save(self, picture: Picture | None) -> None:
        """Save now, and forget the oldest file; a picture that is None is not worth saving."""
        if self.folder is None or picture is None:
            return
        content = _native(
            distributed.whole(
                {"kind": self.kind, "plan": self.plan, "weights": self.weights(), "picture": self.frame(picture)}
            )
        )
        distributed.from_main(partial(self._write, self.folder, content))
        self._due = time.monotonic() + self.every

    def _agrees(self) -> bool:
        """Whether this is a step at which all processes look whether one of them has a reason to save."""
        return not self.every or distributed.world_size() == 1 or self._ticks % _AGREE_EVERY == 0

    def _write(self, folder: Path, content: Picture) -> None:
        files = self._files()
        number = int(files[-1].stem) + 1 if files else 1
        path = folder / f"{number:09d}.pt"
        save(path, content)
        for old in [*files, path][:-_KEPT]:
            old.unlink(missing_ok=True)

    def leave(self, picture: Callable[[], Picture | None], error: Exception) -> None:
        """Save because an error ends the run between two steps, and stop where a signal is the reason."""
        if self.folder is None or distributed.world_size() > 1:
            return
        self.save(picture())
        waited = time.monotonic() + _SAME_SIGNAL
        while "DataLoader worker" in str(error) and not self._asked and time.monotonic() < waited:
            time.sleep(0.01)
        if self._asked:
            self._stop(self._asked)

    def __enter__(self) -> Self:
        if self.folder is not None and threading.current_thread() is threading.main_thread():
            self._handles_signals = hasattr(signal, "SIGCHLD")
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._release()
        if self._of_deaths is not None:
            signal.signal(signal.SIGCHLD, self._of_deaths)
        self._handles_signals, self._of_deaths = False, None
        if self.folder is None or kind is not None:
            return
        (asked,) = distributed.largest(self._asked)
        if asked:
            self._stop(asked)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        self._release()

    def defer_deaths(self) -> None:
        """Let the death of a loader's worker raise where the next batch is fetched, and not in the midst of a step.

        A signal to a group of processes ends the workers too, and the handler that torch sets with the first of them
        raises wherever the main process is, before it has saved. Without it the loader notices dead workers where it
        waits for them, within five seconds.
        """
        handler = signal.getsignal(signal.SIGCHLD) if self._handles_signals else None
        if callable(handler) and handler is not _nothing:
            self._of_deaths = signal.signal(signal.SIGCHLD, _nothing)

    def _release(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _stop(self, number: int) -> None:
        self._asked = 0
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _files(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob("[0-9]" * 9 + ".pt"))

    def _newest(self) -> Picture | None:
        """The newest picture that is whole, with a warning where newer ones are not."""
        for left in [] if self.folder is None else self.folder.glob(".*.partial"):
            left.unlink(missing_ok=True)
        files, damage = self._files(), ""
        for path in reversed(files):
            try:
                saved = load(path, kind=self.kind)
            except DamagedError as error:
                damage = damage or str(error)
                continue
            if damage:
                warnings.warn(f"{damage}; going on from {path}, the one before it", stacklevel=5)
            if self.plan[_FIRST] in saved["weights"]:  # the run's own, as it was left
                self.plan[_FIRST] = saved["plan"][_FIRST]
            self._check(saved["plan"])
            picture: Picture = saved["picture"]
            return picture
        if files:
            raise ValueError(f"checkpoint {self.folder} holds no whole file ({damage}): delete it to begin anew")
        return None

    def _check(self, theirs: Picture) -> None:
        names = [name for name in {**self.plan, **theirs} if not _same(self.plan.get(name), theirs.get(name))]
        if names:
            advice = ", and weights made from the same seed," if _FIRST in names else ""
            raise ValueError(
                f"checkpoint {self.folder} holds a run with other {', '.join(names)}: give the same arguments "
                f"as before{advice} to go on with it, or another folder"
            )


def _made(folder: Any) -> Path:
    """The folder by its full name, made where it is missing."""
    check_instance(folder, str | PathLike, "checkpoint", "the name of a folder")
    if not fspath(folder) or "\0" in str(folder):  # an empty name would be the folder where the process runs
        raise ValueError(f"checkpoint is {str(folder)!r}: give the name of a folder of this run alone")
    path = Path(folder).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be a folder ({error.strerror}): give another name") from error
    return path


def _check_writable(path: Path) -> None:
    """Raise a ValueError, before the run begins, where no file can be written to the folder."""
    trial = path / f".{os.getpid()}.partial"
    try:
        trial.write_bytes(b"trial")
        trial.unlink()
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be written ({error.strerror}): give another folder") from error


def _nothing(number: int, frame: FrameType | None) -> None:
    return


def _check_alike(plan: Picture) -> None:
    """Raise a ValueError on every process where one has another plan: they would wait for each other for ever."""
    first, *others = distributed.gathered(plan)
    names = {name for other in others for name in {**first, **other} if not _same(first.get(name), other.get(name))}
    if names:
        raise ValueError(f"the processes have other {', '.join(sorted(names))}: give all of them the same arguments")


def _native(thing: Any) -> Any:
    """The same with numbers of NumPy as Python's own, which is what a file without code can hold."""
    if isinstance(thing, dict):
        return {_native(name): _native(value) for name, value in thing.items()}
    if isinstance(thing, list | tuple):
        return type(thing)(map(_native, thing))
    return thing.item() if isinstance(thing, np.generic) else thing


def _same(one: Any, other: Any) -> bool:
    """Equality of plain values in which tuples are lists, a NaN is a NaN, and tables are compared where both have."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one[name], other[name]) for name in one.keys() & other.keys())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or bool(one == other)


class Randomness:
    """All that a run draws from, whose state is saved with it and put back.

    Args:
        alike: generators that are alike on all processes, such as that of the order of the rows.
        own: this process's own generator, where it is another.
        globally: whether the run also draws from torch's global generators, which it else leaves alone.
    """

    def __init__(self, alike: Sequence[Generator | None], own: Generator | None, *, globally: bool) -> None:
        self.alike, self.own, self.globally = tuple(alike), own, globally

    def state(self) -> Picture:
        """The states of all generators; of the global ones that on the CPU and those on CUDA devices in use."""
        in_use = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if in_use and self.globally else []
        return {
            "alike": [None if each is None else each.get_state() for each in self.alike],
            "own": None if self.own is None else Shard(self.own.get_state()[None]),
            "cpu": Shard(torch.get_rng_state()[None]) if self.globally else None,
            "cuda": [Shard(value[None]) for value in cuda],
        }

    def put(self, state: Picture) -> None:
        """Put back what `state` returned; a process that had no part in it begins a generator of its own."""
        for each, value in zip(self.alike, state["alike"], strict=False):
            if each is not None and value is not None:
                each.set_state(value)
        if self.own is not None and state["own"] is not None and len(state["own"].value):
            self.own.set_state(state["own"].value[0])
        elif self.own is not None and self.alike[0] is not None:
            self.own.set_state(own_generator(self.alike[0].clone_state()).get_state())
        if self.globally:
            self._put_global(state)

    def _put_global(self, state: Picture) -> None:
        if state["cpu"] is not None and len(state["cpu"].value):
            torch.set_rng_state(state["cpu"].value[0])
        for place, kept in enumerate(state["cuda"][: torch.cuda.device_count()]):
            if len(kept.value):
                torch.cuda.set_rng_state(kept.value[0], place)
