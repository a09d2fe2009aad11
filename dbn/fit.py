"""The training loop that `train` and `finetune` share, and the state of a run."""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dbn.data import Batch, Source
from dbn.history import DivergenceError, History, Record
from dbn.runtime import distributed
from dbn.runtime.checkpoint_manager import CheckpointManager, State
from dbn.runtime.distributed import Shard
from dbn.runtime.random_state import RandomState

_CHECK_EVERY = 100  # steps
_MAX_HALVINGS = 5  # of the learning rate from one snapshot, before the run goes back to its start
_MIN_LR_SCALE = 2.0**-40

T = TypeVar("T")


class Stateful(Protocol):
    """What a checkpoint can hold, as in `torch.distributed.checkpoint`: modules and optimisers are examples."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and containers of them. What differs between processes comes in a `Shard`."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore what `state_dict` returned."""


class Diverged(Exception):
    """Training diverged; the message says how. `fit` catches it on all processes alike."""


class Task(ABC):
    """What `fit` trains.

    Args:
        stateful: names to all objects that training changes.
    """

    def __init__(self, stateful: Mapping[str, Stateful]) -> None:
        self.stateful = stateful

    @property
    @abstractmethod
    def stopped(self) -> bool:
        """Whether training ends before its last epoch."""

    def begin_epoch(self) -> None:
        """Called before the first step of an epoch, and before an epoch is repeated or resumed."""
        return

    def buffer(self, rows: int) -> Tensor | None:
        """A buffer (rows, V) that a batch may be gathered into; None if there is none."""
        return None

    @abstractmethod
    def step(self, batch: Batch, epoch: float, lr_scale: float) -> None:
        """Update the parameters once.

        Args:
            batch: this process's rows.
            epoch: passes over the data so far, for schedules.
            lr_scale: a factor of all learning rates.
        """

    @abstractmethod
    def divergence(self) -> str:
        """Describe the divergence; empty if training is healthy."""

    @abstractmethod
    def metrics(self, state: "TrainingState", epoch: float) -> Record:
        """The next record of the history, after `epoch` passes over the data."""

    def end_epoch(self, record: Record) -> None:
        """Called with the record of a finished epoch, alike on all processes, before it enters the history."""
        return

    @abstractmethod
    def summary(self, record: Record) -> dict[str, str]:
        """What the progress bar shows of a record."""

    def recapture_if_changed(self) -> None:
        """Called after a callback, which may have changed settings that a CUDA graph holds."""
        return

    def close(self) -> None:
        """Free what only training needs."""
        return


class TrainingState:
    """Counters, random numbers and history of a run; snapshots, roll-back and saving.

    Args:
        task: what is trained.
        random: all that the run draws from.
        source: the rows.
        checkpoints: saves the run.
        name: what errors and the progress bar call the run.
        on_divergence: "raise" an error, or "halve" the learning rate and repeat from the start of the epoch.
        initial_random: the state of `random` before anything was drawn for this run.
    """

    def __init__(
        self,
        task: Task,
        random: RandomState,
        source: Source,
        checkpoints: CheckpointManager,
        name: str,
        on_divergence: Literal["raise", "halve"],
        initial_random: State,
    ) -> None:
        self.task, self.random, self.source, self.checkpoints = task, random, source, checkpoints
        self.name, self.on_divergence = name, on_divergence
        self.epoch, self.step_in_epoch, self.global_step, self.done = 0, 0, 0, False
        #: Halved after each divergence.
        self.lr_scale = 1.0
        self.history = History()
        self._initial_random, self._epoch_random = initial_random, random.state_dict()
        self._snapshot: State = {}
        self._started = time.perf_counter()
        self._take_snapshot()
        # A snapshot may lead to divergence at any rate: then the run goes back to its first one.
        self._first, self._failures = self._snapshot if on_divergence == "halve" else {}, 0

    @property
    def seconds(self) -> float:
        """Seconds spent on the run, those before a resume included."""
        return time.perf_counter() - self._started

    @property
    def time(self) -> float:
        """Passes over the data so far; whole epochs if their length is not known."""
        return self.epoch + (self.step_in_epoch / self.source.steps if self.source.steps else 0.0)

    def progress_bar(self, epochs: int, progress: bool) -> "tqdm[Any]":
        """A bar over all steps that starts at the current one; shown by one process."""
        return tqdm(
            total=None if self.source.steps is None else epochs * self.source.steps,
            initial=self.global_step,
            desc=self.name,
            unit="step",
            disable=not (progress and distributed.shows_progress()),
            dynamic_ncols=True,
        )

    def remaining_batches(self) -> Iterator[Batch]:
        """The batches of this epoch from the current step on, in the same order after a resume."""
        shared, buffer = self.random.shared[0], self.task.buffer
        if not self.step_in_epoch:
            self._epoch_random = self.random.state_dict()
            return self._saved_on_error(self.source.batches(shared, buffer))
        now = self.random.state_dict()
        self.random.load_state_dict(self._epoch_random)
        batches = self.source.batches(shared, buffer, self.step_in_epoch)
        self.random.load_state_dict(now)
        return self._saved_on_error(batches)

    def _saved_on_error(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            with self.save_on_error():
                batch = next(batches, None)
            if batch is None:
                return
            self.checkpoints.defer_worker_deaths()
            yield batch

    @contextmanager
    def save_on_error(self) -> Iterator[None]:
        """Save the run if rows cannot be read in the block, which must not change the run."""
        try:
            yield
        except Exception as error:
            if not self.step_in_epoch:  # the order of the epoch will be drawn again
                self.random.load_state_dict(self._epoch_random)
            self.checkpoints.save_on_error(self._checkpoint, error)
            raise

    def advance(self) -> None:
        """Count a step; every 100 steps, raise `Diverged` if training has diverged."""
        self.step_in_epoch, self.global_step = self.step_in_epoch + 1, self.global_step + 1
        if self.global_step % _CHECK_EVERY == 0:
            self.check()

    def check(self) -> None:
        """Raise `Diverged`, on all processes alike, if training has diverged on one of them."""
        divergence = distributed.first_non_empty(self.task.divergence())
        if divergence:
            raise Diverged(divergence)

    def record(self, record: Record) -> None:
        """Add a record to the history; raise `Diverged` if a number in it is not finite."""
        if not all(map(math.isfinite, record.values())):
            raise Diverged("left the finite numbers")
        self.history.append(record)

    def is_due(self, every: int | None) -> bool:
        """Whether a record inside the epoch is due after this step, with one every `every` steps."""
        return bool(every) and self.global_step % (every or 1) == 0 and self.time < self.epoch + 1

    def maybe_save(self) -> None:
        """Save if it is time to or a signal has come; called when all of a step is done, its record included."""
        self.checkpoints.maybe_save(self._checkpoint)

    def end_epoch(self) -> None:
        """Begin the next epoch, which a divergence repeats from here."""
        self.epoch, self.step_in_epoch = self.epoch + 1, 0
        self._take_snapshot()
        self.maybe_save()

    def finish(self) -> None:
        """Save the finished run."""
        self.done, self.step_in_epoch = True, 0
        self.checkpoints.save(self.state_dict())

    def roll_back(self, divergence: Diverged) -> None:
        """Restore the snapshot and halve the learning rate, or raise a DivergenceError.

        If a few halvings do not help, the run restarts from its first snapshot.
        """
        when, lr_scale = f"in epoch {self.epoch + 1}, by step {self.global_step}", self.lr_scale / 2
        if self._failures >= _MAX_HALVINGS and self._first:
            self._snapshot, self._failures = self._first, 0
        self._failures += 1
        self.load_state_dict(_cloned(self._snapshot))
        if self.on_divergence == "halve" and lr_scale >= _MIN_LR_SCALE:
            self.lr_scale = lr_scale
            return
        other = ', or give on_divergence="halve",' if self.on_divergence == "raise" else ""
        raise DivergenceError(
            f"{self.name} {divergence} {when}, and was put back to step {self.global_step}: lower the learning rate"
            f"{other} and standardise the columns of real data"
        )

    def state_dict(self) -> State:
        """All that is needed to continue."""
        counters = ("epoch", "step_in_epoch", "global_step", "done", "lr_scale", "seconds")
        return {
            **{name: getattr(self, name) for name in counters},
            "history": list(self.history.records),
            "initial_random": self._initial_random,
            "epoch_random": self._epoch_random,
            "random": self.random.state_dict(),
            "task": {name: part.state_dict() for name, part in self.task.stateful.items()},
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Restore what `state_dict` returned."""
        for name in ("epoch", "step_in_epoch", "global_step", "done", "lr_scale"):
            setattr(self, name, state_dict[name])
        self._started = time.perf_counter() - state_dict["seconds"]
        self.history.records[:] = state_dict["history"]
        self._initial_random, self._epoch_random = state_dict["initial_random"], state_dict["epoch_random"]
        self.random.load_state_dict(state_dict["random"])
        for name, part in self.task.stateful.items():
            part.load_state_dict(state_dict["task"][name])

    def resume(self, checkpoint: State) -> None:
        """Continue from a checkpoint of this run, on any number of processes."""
        self.load_state_dict(checkpoint)
        self._take_snapshot()
        if checkpoint.get("snapshots"):
            self._snapshot, self._first, self._failures = (
                checkpoint["snapshots"][name] for name in ("last", "first", "failures")
            )

    def _checkpoint(self) -> State | None:
        """What is saved of the run; None if it has diverged."""
        if distributed.first_non_empty(self.task.divergence()):
            return None
        snapshots = {"last": self._snapshot, "first": self._first, "failures": self._failures}
        return {**self.state_dict(), "snapshots": snapshots if self.on_divergence == "halve" else None}

    def _take_snapshot(self) -> None:
        self._snapshot, self._failures = _cloned(self.state_dict()), 0


def fit(
    task: Task,
    state: TrainingState,
    epochs: int,
    *,
    record_every: int | None = None,
    callback: Callable[[Record], None] | None = None,
    progress: bool = True,
) -> None:
    """Train from the current state until the last epoch, or until the task stops.

    Args:
        task: what is trained.
        state: of a new or a resumed run.
        epochs: passes over the data in all.
        record_every: steps between records inside an epoch, if any.
        callback: called with every record.
        progress: show a bar.

    Raises:
        DivergenceError: if training diverges and the learning rate is not halved.
    """

    def record(epoch: float) -> None:
        entry = distributed.broadcast_scalars(task.metrics(state, epoch))
        if epoch == state.epoch + 1:
            task.end_epoch(entry)
        state.record(entry)
        bar.set_postfix(task.summary(entry), refresh=False)
        if callback is not None:
            callback(entry)
            task.recapture_if_changed()

    with state.progress_bar(epochs, progress) as bar, closing(task):
        while state.epoch < epochs and not task.stopped:
            task.begin_epoch()
            try:
                for batch in state.remaining_batches():
                    task.step(batch, state.time, state.lr_scale)
                    state.advance()
                    bar.update()
                    if state.is_due(record_every):
                        record(state.time)
                    state.maybe_save()
                state.check()
                record(state.epoch + 1.0)
                state.check()  # the callback may have changed parameters
            except Diverged as divergence:
                state.roll_back(divergence)
                bar.update(state.global_step - bar.n)
                continue
            state.end_epoch()


class BestWeights:
    """The weights of the highest score so far.

    Args:
        module: whose weights they are.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.score: tuple[float, ...] = ()
        #: Updates in a row whose first score was not the highest.
        self.updates_since_best = 0
        self.weights: State | None = None

    def update(self, *score: float) -> None:
        """Keep the weights if their score is the highest; further scores break ties."""
        self.updates_since_best = 0 if score[:1] > self.score[:1] else self.updates_since_best + 1
        if score > self.score:
            self.score, self.weights = score, copy.deepcopy(dict(self.module.state_dict()))

    def restore(self) -> None:
        """Load the best weights into the module, if there are any."""
        if self.weights is not None:
            self.module.load_state_dict(self.weights)

    def state_dict(self) -> State:
        """The weights and their score."""
        return {"score": self.score, "updates_since_best": self.updates_since_best, "weights": self.weights}

    def load_state_dict(self, state_dict: State) -> None:
        """Restore what `state_dict` returned."""
        self.score, self.weights = tuple(state_dict["score"]), state_dict["weights"]
        self.updates_since_best = state_dict["updates_since_best"]


def finite(*values: Tensor) -> bool:
    """Whether the sums of all tensors are finite, read from the device in one transfer."""
    return math.isfinite(float(torch.stack([value.detach().sum() for value in values]).sum()))


def _cloned(value: T) -> T:
    """A copy whose tensors share no memory with those of the original."""
    if isinstance(value, Tensor):
        return value.detach().clone()  # type: ignore[return-value]
    if isinstance(value, dict):
        return {name: _cloned(part) for name, part in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [_cloned(part) for part in value]  # type: ignore[return-value]
    if isinstance(value, Shard):
        return Shard(value.value.clone(), value.dim)  # type: ignore[return-value]
    return value
