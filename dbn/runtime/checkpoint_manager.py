"""Checkpoint manager: the same call resumes from the newest intact file of a folder."""

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from types import FrameType
from typing import Any, Self

import numpy as np

from dbn.runtime import distributed
from dbn.runtime.checkpoint import DamagedError, load, save
from dbn.runtime.checks import check_instance, finite_number

State = dict[str, Any]

_VERSION = 4  # of what a checkpoint holds
_FIRST_WEIGHTS = "first weights"
_SAME_SIGNAL = 1.0  # seconds within which a signal to a group of processes reaches all of them
_AGREE_EVERY = 10  # steps, among several processes
_FILES_KEPT = 2  # the newest, and the one before it in case that is damaged


class CheckpointManager:
    """Saves a run at most once in a number of seconds, on SIGINT and SIGTERM, and at its end.

    While it is entered, a signal first saves and then stops; a second signal stops at once. Several processes save
    together what each has, the main one reads and writes, and they stop together.

    Args:
        folder: of this run alone; None saves nothing and leaves signals as they are.
        kind: what the run is.
        config: returns names and plain values of all that decides the run's numbers; called only if there is a folder.
        seconds: least time between two saves; 0 saves after every step.
        weights: returns the checksums of what is trained: as it is now, and as the run may leave it if interrupted.
        stateful: names to what is saved besides the run, and restored on entering.

    Raises:
        ValueError: on entering, if the folder holds another run or no intact file, or if processes differ in `config`.
    """

    def __init__(
        self,
        folder: str | PathLike[str] | None,
        kind: str,
        config: Callable[[], State] = dict,
        seconds: float = 60.0,
        weights: Callable[[], list[str]] = lambda: [""],
        stateful: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = None if folder is None else _folder_of(folder)
        self.kind, self.seconds = kind, finite_number(seconds, "checkpoint_seconds")
        self.config_of, self.weights, self.stateful = config, weights, stateful or {}
        self.config: State = {}
        #: What was last saved of the run; None if it is new.
        self.saved: State | None = None
        self._due, self._signal, self._steps = math.inf, 0, 0
        self._handlers: dict[int, Any] = {}
        self._handles_signals = False
        self._worker_handler: Any = None

    def __enter__(self) -> Self:
        several = distributed.world_size() > 1
        if several or self.folder is not None:
            # A run begins from the weights of the main process.
            first = distributed.run_on_main(self.weights)[0]
            self.config = {"version": _VERSION, **self.config_of(), _FIRST_WEIGHTS: first}
        _check_alike({"checkpoint": self.folder is not None, "checkpoint_seconds": self.seconds, **self.config})
        if self.folder is not None:
            distributed.run_on_main(partial(_check_writable, self.folder))
            self._restore(distributed.split_shards(distributed.run_on_main(self._newest)))
            self._handle_signals()
        self._due = time.monotonic() + self.seconds
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore_handlers()
        if self._worker_handler is not None:
            signal.signal(signal.SIGCHLD, self._worker_handler)
        self._handles_signals, self._worker_handler = False, None
        if self.folder is None or kind is not None:
            return
        (number,) = distributed.all_reduce_max(self._signal)
        if number:
            self._stop(number)

    def maybe_save(self, state: Callable[[], State | None]) -> None:
        """After a step: save if it is time to or a signal has come, and then stop for the signal."""
        self._steps += 1
        if self.folder is None or not self._agrees():
            return
        # Not into `_signal` itself, which a signal may set meanwhile.
        number, due = distributed.all_reduce_max(self._signal, time.monotonic() >= self._due)
        if number or due:
            self.save(state())
        if number:
            self._stop(number)

    def save(self, state: State | None) -> None:
        """Save now, and delete the oldest file; None is not saved."""
        if self.folder is None or state is None:
            return
        stateful = {name: part.state_dict() for name, part in self.stateful.items()}
        own = {"kind": self.kind, "config": self.config, "weights": self.weights()}
        content = _native(distributed.gather_shards({**own, "run": state, "stateful": stateful}))
        distributed.run_on_main(partial(self._write, self.folder, content))
        self._due = time.monotonic() + self.seconds

    def save_on_error(self, state: Callable[[], State | None], error: Exception) -> None:
        """Save because an error ends the run between two steps; stop if a signal is the reason."""
        if self.folder is None or distributed.world_size() > 1:
            return
        self.save(state())
        waited = time.monotonic() + _SAME_SIGNAL
        while "DataLoader worker" in str(error) and not self._signal and time.monotonic() < waited:
            time.sleep(0.01)
        if self._signal:
            self._stop(self._signal)

    def defer_worker_deaths(self) -> None:
        """Let the death of a loader's worker raise when the next batch is fetched, and not inside a step.

        A signal to a group of processes ends the workers too, and the handler that torch sets with the first of them
        raises wherever the main process is, before it has saved. Without it the loader notices dead workers when it
        waits for them, within five seconds.
        """
        handler = signal.getsignal(signal.SIGCHLD) if self._handles_signals else None
        if callable(handler) and handler is not _ignore:
            self._worker_handler = signal.signal(signal.SIGCHLD, _ignore)

    def _agrees(self) -> bool:
        """Whether all processes look at this step whether one of them has a reason to save."""
        return not self.seconds or distributed.world_size() == 1 or self._steps % _AGREE_EVERY == 0

    def _handle_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self._handles_signals = hasattr(signal, "SIGCHLD")
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _stop(self, number: int) -> None:
        self._signal = 0
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _restore(self, content: State | None) -> None:
        if content is None:
            return
        self.saved = content["run"]
        for name, part in self.stateful.items():
            part.load_state_dict(content["stateful"][name])

    def _write(self, folder: Path, content: State) -> None:
        files = self._files()
        number = int(files[-1].stem) + 1 if files else 1
        path = folder / f"{number:09d}.pt"
        save(path, content)
        for old in [*files, path][:-_FILES_KEPT]:
            old.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [] if self.folder is None else sorted(self.folder.glob("[0-9]" * 9 + ".pt"))

    def _newest(self) -> State | None:
        """The newest intact checkpoint, with a warning if newer ones are damaged."""
        for unfinished in [] if self.folder is None else self.folder.glob(".*.partial"):
            unfinished.unlink(missing_ok=True)
        files, damage = self._files(), ""
        for path in reversed(files):
            try:
                content: State = load(path, kind=self.kind)
            except DamagedError as error:
                damage = damage or str(error)
                continue
            if damage:
                warnings.warn(f"{damage}; resuming from {path}, the one before it", stacklevel=6)
            if self.config[_FIRST_WEIGHTS] in content["weights"]:  # the run's own, as it was interrupted
                self.config[_FIRST_WEIGHTS] = content["config"][_FIRST_WEIGHTS]
            self._check(content["config"])
            return content
        if files:
            raise ValueError(f"checkpoint {self.folder} holds no intact file ({damage}): delete it to begin anew")
        return None

    def _check(self, saved: State) -> None:
        names = [name for name in {**self.config, **saved} if not _same(self.config.get(name), saved.get(name))]
        if names:
            advice = ", and weights made from the same seed," if _FIRST_WEIGHTS in names else ""
            raise ValueError(
                f"checkpoint {self.folder} holds a run with other {', '.join(names)}: give the same arguments "
                f"as before{advice} to resume it, or another folder"
            )


def _folder_of(folder: Any) -> Path:
    """The folder's full name; the folder is created if it is missing."""
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
    """Raise a ValueError, before the run begins, if no file can be written to the folder."""
    trial = path / f".{os.getpid()}.partial"
    try:
        trial.write_bytes(b"trial")
        trial.unlink()
    except OSError as error:
        raise ValueError(f"checkpoint {path} cannot be written ({error.strerror}): give another folder") from error


def _ignore(number: int, frame: FrameType | None) -> None:
    return


def _check_alike(config: State) -> None:
    """Raise a ValueError on every process if one has another config: they would wait for each other for ever."""
    first, *others = distributed.all_gather_object(config)
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
    """Equality of plain values in which tuples are lists, a NaN is a NaN, and dictionaries are compared by
    the keys that both have."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one[name], other[name]) for name in one.keys() & other.keys())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or bool(one == other)
