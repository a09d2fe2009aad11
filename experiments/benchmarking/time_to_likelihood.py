"""CPU seconds of other implementations and of this library to the same exact likelihood, in one process.

Both train an RBM by persistent contrastive divergence, from the same parameters, on the same rows, with the same
chains, Gibbs steps, batch size, learning rate and number of updates. Blocks of updates alternate. Each block runs the
public training loop of its library, with all extra work of that loop. A block is measured in CPU seconds of the
process, so that other work on the computer does not count. After some passes over the rows the mean log-likelihood of
test rows is computed exactly, by enumeration of the hidden states. Everything runs on the CPU.

Another implementation joins by a class like `Ours`, and a line in `TRAINERS`.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dbn import PCD, RBM, Bernoulli, Categorical, datasets, exact_log_partition, log_likelihood, train
from experiments.benchmarking import rbms_library
from experiments.benchmarking.other_libraries import OtherLibraryError, as_rbm, guarded
from experiments.benchmarking.timing import Row, skipped
from experiments.study.command_line import check_several, option

_CHUNK = 2**14  # hidden states in memory at once
OF = "CPU seconds of theirs / ours to the same exact likelihood"


@dataclass(frozen=True)
class Race:
    """Data, sizes and lengths of the training."""

    likelihood_data: tuple[str, ...] = option(
        ("digits", "potts"), "rows of it: digits, or those of a known Potts model"
    )
    likelihood_passes: tuple[int, ...] = option((50, 100), "passes over the rows before each exact likelihood")
    likelihood_rows: int = option(4000, "training rows of it")
    likelihood_batch: int = option(500, "rows an update of it")
    likelihood_chains: int = option(500, "persistent chains of it, of 5 Gibbs steps")
    likelihood_hidden: int = option(20, "hidden units of it, whose states are enumerated")
    likelihood_sites: tuple[int, int] = option((30, 21), "sites of the known Potts model, and states of a site")


@dataclass(frozen=True)
class Task:
    """An RBM to train: its start, its rows, and its options."""

    name: str
    start: RBM
    x: Tensor
    test: Tensor
    batch: int
    chains: int
    centred: bool = False
    learning_rate: float = 0.1
    steps: int = 5
    #: Mean log-likelihood of the test rows under the model that made the rows, if it is known.
    truth: float | None = None
    #: Mean log-likelihood of the test rows under the start.
    begin: float = math.nan

    @property
    def updates_per_pass(self) -> int:
        """Updates of one pass over the rows; the batch size divides their number."""
        return len(self.x) // self.batch


class Trainer(Protocol):
    """An implementation that trains on one task; its chains and its RBM persist between calls."""

    def update(self, updates: int) -> None:
        """Train for some more updates, a multiple of those of a pass."""

    def current_rbm(self) -> RBM:
        """Return its present parameters in an RBM of this library, with the units of the task."""


class Ours:
    """This library, by `train`, with its records."""

    def __init__(self, task: Task) -> None:
        self.task, self.rbm, self.chains = task, deepcopy(task.start), PCD(task.chains, steps=task.steps)
        self.generator = _generator()

    def update(self, updates: int) -> None:
        """Train for some more updates."""
        train(
            self.rbm,
            self.task.x,
            epochs=updates // self.task.updates_per_pass,
            batch_size=self.task.batch,
            learning_rate=self.task.learning_rate,
            momentum=0.0,
            weight_decay=0.0,
            centring=1.0 if self.task.centred else None,
            estimator=self.chains,
            initialise_bias=False,
            progress=False,
            generator=self.generator,
        )

    def current_rbm(self) -> RBM:
        """Return the RBM."""
        return self.rbm


class Rbms:
    """rbms 0.6, by its own loop and chains; the chains start at samples from the visible biases, as ours do."""

    def __init__(self, task: Task) -> None:
        self.task, start, units = task, task.start, task.start.visible
        noise = units.sample(start.visible_bias.detach().expand(task.chains, -1), generator=_generator())
        model: Any
        if isinstance(units, Categorical):
            model = rbms_library.potts(start, units.classes)
            rows, noise = (rbms_library.codes(part, units.classes) for part in (task.x, noise))
        else:
            model, rows = rbms_library.binary(start.weight, start.visible_bias, start.hidden_bias), task.x
        self.training = rbms_library.Training(
            model,
            rows,
            "categorical" if isinstance(units, Categorical) else "bernoulli",
            rbms_library.persistent(noise, task.steps),
            batch=task.batch,
            learning_rate=task.learning_rate,
            centred=task.centred,
            seed=0,
        )

    def update(self, updates: int) -> None:
        """Train for some more updates, without the bar of its loop."""
        guarded(lambda: self.training.update(updates))()

    def current_rbm(self) -> RBM:
        """Return its parameters in an RBM of the task's units; a Potts weight has a dimension for classes."""
        model, units = self.training.model, self.task.start
        return as_rbm(model.weight_matrix.reshape(units.weight.shape), model.vbias, model.hbias, units.visible)


#: Other implementations by name, each with a function that returns its release or raises ImportError.
TRAINERS: dict[str, tuple[Callable[[], str], Callable[[Task], Trainer]]] = {"rbms": (rbms_library.installed, Rbms)}


def race(config: Race, device: torch.device) -> Iterator[Row]:
    """Yield a row of every implementation for every task, with the ratio of CPU seconds to the same likelihood."""
    found: dict[str, str] = {}
    for name, (installed, _) in TRAINERS.items():
        try:
            found[name] = guarded(installed)()
        except OtherLibraryError as error:
            yield skipped(f"{name}, time to a likelihood", error)
    for task in tasks(config) if found else ():
        for name, release in found.items():
            label = f"{name} {release}, {task.name}"
            try:
                yield measured(label, task, TRAINERS[name][1], config.likelihood_passes)
            except OtherLibraryError as error:
                yield skipped(label, error)


def tasks(config: Race) -> Iterable[Task]:
    """The bundled digits in black and white, and rows of a known Potts model, by plain and by centred gradients."""
    made = {"digits": _digits, "potts": _potts}
    for data in check_several(config.likelihood_data, "--likelihood-data", made):
        task = made[data](config)
        task = replace(task, begin=_nats(task.start, task.test))
        yield replace(task, name=f"{task.name}, plain gradient")
        yield replace(task, name=f"{task.name}, centred gradient", centred=True)


def measured(label: str, task: Task, trainer: Callable[[Task], Trainer], passes: Sequence[int]) -> Row:
    """Measure one implementation: both curves of likelihood over CPU seconds, and their ratios."""
    guarded(lambda: trainer(task).update(task.updates_per_pass))()  # warm up: compiling is not counted
    Ours(task).update(task.updates_per_pass)
    sides: list[Trainer] = [guarded(lambda: trainer(task))(), Ours(task)]
    block, spent, ratios = math.gcd(*passes), [0.0, 0.0], []
    curves = [[Point(0, 0.0, task.begin)] for _ in sides]
    for done in range(block, max(passes) + 1, block):
        times = [_cpu_seconds(side, block * task.updates_per_pass) for side in sides]
        ratios.append(times[0] / times[1])
        spent = [before + more for before, more in zip(spent, times, strict=True)]
        if done in passes:
            for curve, side, seconds in zip(curves, sides, spent, strict=True):
                curve.append(Point(done * task.updates_per_pass, seconds, _nats(side.current_rbm(), task.test)))
    return _row(label, task, curves, ratios)


class Point(NamedTuple):
    """A point of a curve."""

    updates: int
    seconds: float
    likelihood: float


def seconds_to(curve: Sequence[Point], level: float) -> float | None:
    """Return the CPU seconds at which a curve first reaches a likelihood, by linear interpolation, or None."""
    for before, after in pairwise(curve):
        if before.likelihood <= level <= after.likelihood:
            part = (level - before.likelihood) / ((after.likelihood - before.likelihood) or 1.0)
            return before.seconds + part * (after.seconds - before.seconds)
    return None


def _row(label: str, task: Task, curves: Sequence[Sequence[Point]], ratios: Sequence[float]) -> Row:
    """Return the measurements, in numbers and in a sentence."""
    ends = [curve[-1] for curve in curves]
    levels = [
        _level(curves, point.likelihood) for point in sorted({*curves[0][1:], *curves[1][1:]}, key=lambda p: p[2])
    ]
    reached = [level for level in levels if level["ratio"] is not None]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    row: Row = {
        "what": label,
        "of": OF,
        "updates": ends[0].updates,
        "ratio_per_update": ends[0].seconds / ends[1].seconds,
        "quartiles_per_update": [quartiles[0], quartiles[2]],
        "cpu_seconds": [end.seconds for end in ends],
        "likelihood": [end.likelihood for end in ends],
        "truth": task.truth,
        "curves": {side: [point._asdict() for point in curve] for side, curve in zip(_SIDES, curves, strict=True)},
        "levels": levels,
    }
    to = "no likelihood in common; "
    if reached:
        row["ratio"] = reached[-1]["ratio"]
        to = f"{row['ratio']:.2f} to {reached[-1]['likelihood']:.2f} nats; "
    same = f"{row['ratio_per_update']:.2f} ({quartiles[0]:.2f} to {quartiles[2]:.2f}) for {ends[0].updates} updates"
    return row | {"result": f"{to}{same}, {ends[0].likelihood:.2f} / {ends[1].likelihood:.2f} nats"}


_SIDES = ("theirs", "ours")


def _level(curves: Sequence[Sequence[Point]], likelihood: float) -> dict[str, Any]:
    """Return the CPU seconds of both to one likelihood, and their ratio if both reached it."""
    theirs, ours = (seconds_to(curve, likelihood) for curve in curves)
    ratio = theirs / ours if theirs is not None and ours else None
    return {"likelihood": likelihood, "cpu_seconds": [theirs, ours], "ratio": ratio}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _cpu_seconds(side: Trainer, updates: int) -> float:
    started = time.process_time()
    side.update(updates)
    return time.process_time() - started


def _nats(rbm: RBM, test: Tensor) -> float:
    """Return the exact mean log-likelihood of test rows."""
    return float(log_likelihood(rbm, test, exact_log_partition(rbm)).mean())


def _digits(config: Race) -> Task:
    """Make a task of the bundled digits in black and white."""
    split = datasets.load("mnist-sample")
    x, test = ((part > 0.5).float() for part in (split.train.x, split.test.x))
    return _task(config, f"digits, {x.shape[1]}→{config.likelihood_hidden}", Bernoulli(x.shape[1]), x, test)


def _potts(config: Race) -> Task:
    """Make a task of exact samples of a known Potts model: an RBM whose hidden units are on half of the time."""
    sites, classes = config.likelihood_sites
    units = Categorical(sites * classes, classes=classes)
    model = RBM(units, config.likelihood_hidden, weight_scale=1.0, seed=0)
    with torch.no_grad():  # each unit's weights of variance 1 add about ½ nat a site to the log-weight of its being on
        model.hidden_bias.fill_(-sites / 2)
    rows = exact_samples(model, 2 * config.likelihood_rows, seed=1)
    x, test = rows[: config.likelihood_rows], rows[config.likelihood_rows :]
    task = _task(config, f"Potts model, {sites}×{classes}→{config.likelihood_hidden}", units, x, test)
    return replace(task, truth=_nats(model, task.test))


def _task(config: Race, name: str, units: Bernoulli | Categorical, x: Tensor, test: Tensor) -> Task:
    """Make a task on whole batches of these rows, from the biases of their means and small weights."""
    batch, chains = config.likelihood_batch, config.likelihood_chains
    x = x[: min(len(x), config.likelihood_rows) // batch * batch]
    start = RBM(units, config.likelihood_hidden, seed=2)
    with torch.no_grad():
        start.visible_bias.copy_(units.field_of_mean(x.mean(0)))
    name = f"PCD-{Task.steps} with {chains} chains, {name}, batches of {batch} of {len(x)} rows"
    return Task(name, start, x, test[:2000], batch, chains)


@torch.no_grad()
def exact_samples(rbm: RBM, rows: int, *, seed: int) -> Tensor:
    """Draw independent samples of a small RBM: h by its probability among all hidden states, then v given h: (rows, V).

    Args:
        rbm: an RBM with at most 2²⁴ hidden states.
        rows: number of samples.
        seed: of the samples.
    """
    double, generator = deepcopy(rbm).double(), torch.Generator().manual_seed(seed)
    count = rbm.hidden.cardinality
    assert count is not None
    index = torch.arange(count)
    free = torch.cat([double.hidden_free_energy(rbm.hidden.states(part)) for part in torch.split(index, _CHUNK)])
    chosen = torch.multinomial((-free).softmax(0), rows, replacement=True, generator=generator)
    return double.sample_visible(rbm.hidden.states(chosen), generator=generator).to(rbm.weight.dtype)
