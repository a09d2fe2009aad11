"""How far a run of training has come, and how it goes on, backs up or ends."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from dbn import distributed
from dbn.batches import Batch, Place, Source
from dbn.distributed import Draws, Shard
from dbn.fingerprint import fingerprint
from dbn.history import DivergenceError, History, Record
from dbn.keeper import Keeper, Picture, Randomness

_LOOK_EVERY = 100  # steps from one look for a fault to the next
_SAMPLED = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987)  # epochs at which schedules are compared
_HALVINGS = 5  # of the learning rate from one state, before that is given up
_LEAST_SHARE = 2.0**-40  # of the learning rate, after which halving it again is no help

T = TypeVar("T")


class Part(Protocol):
    """What a run changes and must be put back as it was."""

    def state(self) -> Any:
        """All of it that changes, as tensors, numbers and containers of them.

        What is not alike on all processes comes in a `Shard`.
        """

    def put(self, state: Any) -> None:
        """Put back what `state` returned."""


class Course:
    """The place of a run in its epochs, with all that it needs to go on from there to the same bits.

    Args:
        parts: names to what the run changes.
        fault: says in words how what was trained has left all reason, or nothing.
        randomness: all that the run draws from.
        source: the rows.
        keeper: saves pictures of the run.
        name: what errors call the run.
        on_divergence: "raise" where numbers leave the finite, or "halve" the learning rate and go on from the last
            epoch's start.
        start: the state of the randomness before anything was drawn for the run. What is set up from there, such as the
            rows that are watched, is the same when the run is taken up.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        fault: Callable[[], str],
        randomness: Randomness,
        source: Source,
        keeper: Keeper,
        name: str,
        on_divergence: Literal["raise", "halve"],
        start: Picture,
    ) -> None:
        self.parts, self._look, self.keeper, self.name = parts, fault, keeper, name
        self.randomness, self.source, self.start = randomness, source, start
        self.on_divergence = on_divergence
        self.epoch, self.place, self.step, self.done = 0, 0, 0, False
        #: What is left of the learning rate after halving it.
        self.share = 1.0
        self.history = History()
        #: In words, what is wrong with a record that was made.
        self.flaw = ""
        self._order = randomness.state()
        self._started = time.perf_counter()
        self._good: Picture = {}
        self.hold()
        #: The start of the run, and how often the last good state has led to a fault: it may be none.
        self._first, self._failures = self._good if on_divergence == "halve" else {}, 0

    @property
    def seconds(self) -> float:
        """Time spent on the run, also before it was taken up again."""
        return time.perf_counter() - self._started

    def bar(self, epochs: int, progress: bool) -> "tqdm[Any]":
        """A bar of all steps of so many epochs, at where the run is; of several processes one shows it."""
        return tqdm(
            total=None if self.source.steps is None else epochs * self.source.steps,
            initial=self.step,
            desc=self.name,
            unit="step",
            disable=not (progress and distributed.shows_progress()),
            dynamic_ncols=True,
        )

    def batches(self, place: Place | None = None) -> Iterator[Batch]:
        """The batches of this epoch that are still to come."""
        generator = self.randomness.alike[0]
        if not self.place:
            self._order = self.randomness.state()
            return self._kept_on_error(self.source.batches(generator, place))
        now = self.randomness.state()
        self.randomness.put(self._order)
        batches = self.source.batches(generator, place, self.place)
        self.randomness.put(now)
        return self._kept_on_error(batches)

    def _kept_on_error(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; where one cannot be had, the run is saved as the step before has left it."""
        while True:
            with self.saved_on_error():
                batch = next(batches, None)
            if batch is None:
                return
            self.keeper.defer_deaths()
            yield batch

    @contextmanager
    def saved_on_error(self) -> Iterator[None]:
        """Save the run where rows cannot be read in the block, which changes nothing of the run."""
        try:
            yield
        except Exception as error:
            if not self.place:  # the order of the epoch has been drawn, and will be drawn again
                self.randomness.put(self._order)
            self.keeper.leave(self._saved, error)
            raise

    def recorded(self, record: Record) -> bool:
        """Add a record, alike on all processes; False, with the flaw noted, where a number in it is not finite."""
        if not all(map(math.isfinite, record.values())):
            self.flaw = "left the finite numbers"
            return False
        self.history.append(record, self.name)
        return True

    def fault(self) -> str:
        """In words, how what was trained has left all reason, or nothing."""
        return self.flaw or distributed.agreed(self._look())

    def stepped(self) -> bool:
        """One step more is done; False where a look, once every so many steps, finds a fault."""
        self.place, self.step = self.place + 1, self.step + 1
        return bool(self.step % _LOOK_EVERY) or not self.fault()

    def keep(self) -> None:
        """All that belongs to a step is done, its record included: the moment at which the run may be saved."""
        self.keeper.tick(self._saved)

    def passed(self) -> None:
        """An epoch is done, with its record: what a divergence backs up to, from now on."""
        self.epoch, self.place = self.epoch + 1, 0
        self.hold()
        self.keep()

    def finish(self) -> None:
        """The run is done."""
        self.done, self.place = True, 0
        self.keeper.save(self.picture())

    def _saved(self) -> Picture | None:
        """What is saved of the run as it is now: nothing where it has a fault."""
        if self.fault():
            return None
        backing = {"good": self._good, "first": self._first, "failures": self._failures}
        return {**self.picture(), "backing": backing if self.on_divergence == "halve" else None}

    def hold(self) -> None:
        """Remember the run as it is now, as the last good state."""
        self._good, self._failures = _cloned(self.picture()), 0

    def diverged(self) -> bool:
        """False where there is no fault; else back up to the last good state, and halve the learning rate or raise.

        A state from which a few halvings have not helped was none: the run is put back to its start.
        """
        how = self.fault()
        if not how:
            return False
        where, share = f"in epoch {self.epoch + 1}, by step {self.step}", self.share / 2
        if self._failures >= _HALVINGS and self._first:
            self._good, self._failures = self._first, 0
        self._failures += 1
        self.put(_cloned(self._good))
        if self.on_divergence == "halve" and share >= _LEAST_SHARE:
            self.share = share
            return True
        other = ', or give on_divergence="halve",' if self.on_divergence == "raise" else ""
        raise DivergenceError(
            f"{self.name} {how} {where}, and was put back to step {self.step}: lower the learning rate{other} and "
            "standardise the columns of real data"
        )

    def picture(self) -> Picture:
        """All that is needed to go on."""
        counts = {name: getattr(self, name) for name in ("epoch", "place", "step", "done", "share", "seconds")}
        return {
            **counts,
            "history": list(self.history.records),
            "order": self._order,
            "start": self.start,
            "now": self.randomness.state(),
            "parts": {name: part.state() for name, part in self.parts.items()},
        }

    def take_up(self, found: Picture) -> None:
        """Go on from what was saved of this run, by as many processes or others."""
        self.put(found)
        self.hold()
        if found.get("backing"):
            self._good, self._first, self._failures = (found["backing"][n] for n in ("good", "first", "failures"))

    def put(self, picture: Picture) -> None:
        """Put all back as it was in a picture."""
        for name in ("epoch", "place", "step", "done", "share"):
            setattr(self, name, picture[name])
        self._started = time.perf_counter() - picture["seconds"]
        self.history.records[:] = picture["history"]
        self._order, self.flaw = picture["order"], ""
        self.start = picture["start"]
        self.randomness.put(picture["now"])
        for name, part in self.parts.items():
            part.put(picture["parts"][name])


def randomness_of(draws: Draws, *sources: Source | None, globally: bool = False) -> Randomness:
    """All that a run draws from: its own generators, those of its sources, and the global one where needed."""
    given = [source for source in sources if source is not None]
    of_sources = [generator for source in given for generator in source.generators]
    globally = globally or draws.order is None or any(source.draws_globally for source in given)
    return Randomness([draws.order, *of_sources], None if draws.own is draws.order else draws.own, globally=globally)


class Whole:
    """A module, as a part of a run.

    Args:
        module: all of its parameters and buffers are put back.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def state(self) -> dict[str, Tensor]:
        """Its parameters and buffers."""
        return dict(self.module.state_dict())

    def put(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` returned."""
        self.module.load_state_dict(state)


def described(source: Source, validation: Source | None, generator: Generator | None) -> dict[str, Any]:
    """The rows and the seed, to be compared with another run's."""
    seed = None if generator is None else generator.initial_seed()
    return {
        "rows": source.rows,
        "columns": source.width,
        "rows_a_batch": source.batch_size,
        "batches": source.steps,
        "seed": seed,
        "data": fingerprint(*source.contents()),
        "validation": None if validation is None else fingerprint(*validation.contents()),
    }


def plain(value: Any, epochs: int) -> Any:
    """A setting as plain values: a schedule at some epochs of the run, a module by the numbers and words in it."""
    if isinstance(value, nn.Module):
        return {"kind": type(value).__name__, **plain_of(vars(value))}
    if is_dataclass(value) and not callable(value):
        return {field.name: _named(getattr(value, field.name)) for field in fields(value)}
    if not callable(value):
        return value
    return {str(epoch): float(value(float(epoch))) for epoch in _SAMPLED if epoch < max(epochs, 1)}


def plain_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some named values that are numbers and words."""
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def _named(value: Any) -> Any:
    return name_of(value) if callable(value) else value


def name_of(function: Any) -> str | None:
    """What a function or its class is called."""
    return None if function is None else str(getattr(function, "__qualname__", type(function).__qualname__))


def finite(*values: Tensor) -> bool:
    """Whether all numbers of some tensors are finite, as far as their sums tell."""
    return math.isfinite(float(torch.stack([value.detach().sum() for value in values]).sum()))


def _cloned(thing: T) -> T:
    """A copy whose tensors share no memory with those of the original."""
    if isinstance(thing, Tensor):
        return thing.detach().clone()  # type: ignore[return-value]
    if isinstance(thing, dict):
        return {name: _cloned(value) for name, value in thing.items()}  # type: ignore[return-value]
    if isinstance(thing, list):
        return [_cloned(value) for value in thing]  # type: ignore[return-value]
    if isinstance(thing, Shard):
        return Shard(thing.value.clone(), thing.dim)  # type: ignore[return-value]
    return thing
