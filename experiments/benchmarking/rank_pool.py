"""A pool of processes that are joined by Gloo and wait for calls, for tests and timings."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_PATIENCE = 60  # seconds, after which a call has hung


class RankPool:
    """A pool of processes that make the same call.

    Args:
        count: number of processes.
        pinned: pin each to a core of its own, if there are enough cores.
    """

    def __init__(self, count: int, *, pinned: bool = False) -> None:
        self.count = count
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self.cores = cores[:count] if pinned and len(cores) >= count else [None] * count
        self.processes: list[Any] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> list[Any]:
        """Call a function on every process, and return its values; raise the first error."""
        if not self.processes:
            self.start()
        for pipe in self.pipes:
            pipe.send((function, arguments, named))
        answers = [pipe.recv() if pipe.poll(_PATIENCE) else (None, TimeoutError("hangs")) for pipe in self.pipes]
        errors = [error for _, error in answers if error is not None]
        if 0 < len(errors) < self.count or any(isinstance(error, TimeoutError) for error in errors):
            self.stop()  # they are out of step
        if errors:
            raise errors[0]
        return [value for value, _ in answers]

    def start(self) -> None:
        """Start the processes, in some seconds."""
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        store, ends = Path(self.folder.name) / "store", [context.Pipe() for _ in range(self.count)]
        self.pipes = [ours for ours, _ in ends]
        self.processes = [
            context.Process(target=_serve, args=(theirs, str(store), self.count, rank, self.cores[rank]), daemon=True)
            for rank, (_, theirs) in enumerate(ends)
        ]
        for process in self.processes:
            process.start()

    def stop(self) -> None:
        """End the processes; the next call starts new ones."""
        for process in self.processes:
            process.kill()
            process.join()
        if self.processes:
            self.folder.cleanup()
        self.processes = []


def _serve(connection: Any, store: str, count: int, rank: int, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)  # else the processes would wait for each other's threads
    patience = timedelta(seconds=_PATIENCE)
    dist.init_process_group("gloo", init_method=f"file://{store}", world_size=count, rank=rank, timeout=patience)
    while True:
        function, arguments, named = connection.recv()
        try:
            connection.send((function(*arguments, **named), None))
        except Exception as error:
            connection.send((None, error))
