"""The one training loop of restricted Boltzmann machines, for all units and all estimators."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from dbn.arguments import as_generator, finite_number, whole_number
from dbn.batches import MappedSource, Source, open_source
from dbn.estimators import CD, Estimator
from dbn.history import History, Record
from dbn.rbm import RBM, Contrast, Offsets, Phase, add_gradient
from dbn.schedules import Schedule, as_schedule, switch

#: Hinton's momentum: 0.5, and 0.9 from the sixth epoch.
MOMENTUM = switch(0.5, 0.9, at=5)

_ROWS_FOR_MEAN = 10_000


def train(
    rbm: RBM,
    data: Any,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float | Schedule | None = None,
    momentum: float | Schedule = MOMENTUM,
    weight_decay: float = 2e-4,
    estimator: Estimator | None = None,
    validation: Any = None,
    centring: float | None = None,
    binarise: Literal["sample", "threshold"] | None = None,
    average_from: float | None = None,
    initialise_bias: bool = True,
    monitor_rows: int = 1000,
    record_every: int | None = None,
    callback: Callable[[Record], None] | None = None,
    progress: bool = True,
    description: str = "training",
    generator: Generator | None = None,
    seed: int | None = None,
) -> History:
    """Train a machine by stochastic ascent of an estimate of the likelihood, with Hinton's recipe as the defaults.

    Δθ ← momentum · Δθ + learning_rate · (∂(−F)/∂θ at the data − at the model − weight_decay · W), θ ← θ + Δθ, with the
    decay on weights alone.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines; R. Salakhutdinov, G. Hinton
    (2006), code for Reducing the dimensionality of data with neural networks.

    Args:
        rbm: the machine, trained in place on the device where it is.
        data: rows (n, V) as a tensor, NumPy array or memmap, or a Dataset or DataLoader of them; labels that come
            along are ignored.
        epochs: passes over the data.
        batch_size: rows an update; the last batch of an epoch may be shorter and has its own denominator.
        learning_rate: a number, or a schedule of the epoch; by default what suits the units (0.1 for Bernoulli).
        momentum: likewise.
        weight_decay: L2 cost of the weights.
        estimator: the negative phase, CD(1) by default.
        validation: rows held back, as a tensor or an array, for the free-energy gap.
        centring: centre the gradient (Montavon and Müller 2012) at the mean units at the data, followed at this rate,
            such as 0.01; None for the plain gradient.
        binarise: turn probabilities (grey pixels) into ones and zeros: "sample" draws them anew at every presentation,
            "threshold" asks whether they exceed 0.5. Grey pixels taken for probabilities, as by default, train features
            well, but no density of binary images.
        average_from: leave in the machine the mean of the parameters at the ends of the epochs after so many.
        initialise_bias: set visible biases that are all zero to the field of the data's mean first.
        monitor_rows: rows of the fixed training subset that the history is computed on.
        record_every: also record every so many steps; an epoch always ends with a record.
        callback: called with every record.
        progress: show a bar.
        description: what the bar calls this run.
        generator: draws the order of the rows and all samples; it must be on the device of the machine. A DataLoader
            has an order and a batch size of its own.
        seed: likewise, as a number.

    Returns:
        The history. Each record has the epoch, the step, the reconstruction error (squared, summed over columns, mean
        over rows), the mean hidden activity, the parameters' norms, and where the machine has an energy the free-energy
        gap: mean F(validation) − mean F(training subset), in nats, whose growth is a sign of overfitting.

    Raises:
        TypeError, ValueError: for arguments or data that do not fit, before anything is changed.
        DivergenceError: where parameters are no longer finite.

    Example:
        >>> rows = (torch.rand(200, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        >>> history = train(RBM(6, 4, seed=0), rows, epochs=2, progress=False, seed=0)
        >>> history["epoch"]
        [1.0, 2.0]

    The reconstruction error does not rank machines as density models: contrastive divergence all but minimises it.
    """
    generator = as_generator(generator, seed, rbm.weight.device)
    recipe = Recipe(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        estimator=estimator,
        centring=centring,
        binarise=binarise,
        average_from=average_from,
        initialise_bias=initialise_bias,
        monitor_rows=monitor_rows,
        record_every=record_every,
    )
    source = presented(rbm, open_rows(rbm, data, batch_size), binarise, generator)
    held_back = None
    if validation is not None:
        held_back = presented(rbm, open_rows(rbm, validation, monitor_rows, "validation"), binarise, generator)
    return run(rbm, source, recipe, held_back, callback, progress, description, generator)


@dataclass(frozen=True)
class Recipe:
    """The settings of one training run, checked when they are put together; the arguments of `train` explain them."""

    epochs: int
    batch_size: int = 100
    learning_rate: float | Schedule | None = None
    momentum: float | Schedule = MOMENTUM
    weight_decay: float = 2e-4
    estimator: Estimator | None = None
    centring: float | None = None
    binarise: Literal["sample", "threshold"] | None = None
    average_from: float | None = None
    initialise_bias: bool = True
    monitor_rows: int = 1000
    record_every: int | None = None

    def __post_init__(self) -> None:
        whole_number(self.epochs, "epochs", at_least=0)
        whole_number(self.batch_size, "batch_size")
        as_schedule(0.0 if self.learning_rate is None else self.learning_rate, "learning_rate")
        as_schedule(self.momentum, "momentum")
        finite_number(self.weight_decay, "weight_decay")
        if self.centring is not None and finite_number(self.centring, "centring") > 1:
            raise ValueError(f"centring is {self.centring}: give the rate of a moving average, at most 1")
        if self.binarise not in (None, "sample", "threshold"):
            raise ValueError(f'binarise is {self.binarise!r}: choose "sample" or "threshold"')
        finite_number(0.0 if self.average_from is None else self.average_from, "average_from")
        whole_number(self.monitor_rows, "monitor_rows")
        whole_number(1 if self.record_every is None else self.record_every, "record_every")
        if not isinstance(self.estimator, Estimator | None):
            raise TypeError(f"estimator is {self.estimator!r}: give an estimator such as CD(1) or PCD(chains=100)")


def run(
    rbm: RBM,
    source: Source,
    recipe: Recipe,
    validation: Source | None = None,
    callback: Callable[[Record], None] | None = None,
    progress: bool = True,
    description: str = "training",
    generator: Generator | None = None,
) -> History:
    """The loop behind `train`: a recipe followed on rows that are already open."""
    rate = as_schedule(_suited_rate(rbm) if recipe.learning_rate is None else recipe.learning_rate, "learning_rate")
    momentum = as_schedule(recipe.momentum, "momentum")
    estimator = CD(1) if recipe.estimator is None else recipe.estimator
    monitor = Monitor(rbm, source, validation, recipe.monitor_rows)
    if recipe.initialise_bias:
        initialise_visible_bias(rbm, source)
    estimator.prepare(rbm, generator)
    learner = Learner(rbm, estimator, generator, _centre(rbm, source, recipe.centring))
    average = _Average(rbm)
    history, step, started = History(), 0, time.perf_counter()

    def record(epochs_done: float) -> None:
        entry = {"epoch": epochs_done, "step": float(step), "seconds": time.perf_counter() - started, **monitor()}
        history.append(entry, description)
        shown = {"error": "reconstruction_error", "gap": "free_energy_gap", "activity": "hidden_activity"}
        bar.set_postfix({name: f"{entry[key]:.2f}" for name, key in shown.items() if key in entry}, refresh=False)
        if callback is not None:
            callback(entry)

    total = None if source.steps is None else recipe.epochs * source.steps
    with tqdm(total=total, desc=description, unit="step", disable=not progress, dynamic_ncols=True) as bar:
        for epoch in range(recipe.epochs):
            for place, (v, _) in enumerate(source.batches(generator, learner.place)):
                now, done = (epoch + (at / source.steps if source.steps else 0.0) for at in (place, place + 1))
                learner.step(v, rate(now), momentum(now), recipe.weight_decay)
                step += 1
                bar.update()
                if recipe.record_every and step % recipe.record_every == 0 and done < epoch + 1:
                    record(done)
            record(epoch + 1.0)
            if recipe.average_from is not None and epoch >= recipe.average_from:
                average.add()
    average.put()
    return history


class Learner:
    """One step of learning, and what it carries to the next: increments (the momentum), chains, and buffers.

    Args:
        rbm: the machine.
        estimator: the negative phase, prepared for this machine.
        generator: draws all samples.
        centre: moving means that the gradient is centred at, and their rate; None for the plain gradient.
    """

    def __init__(
        self,
        rbm: RBM,
        estimator: Estimator,
        generator: Generator | None,
        centre: tuple[Offsets, float] | None = None,
    ) -> None:
        self.rbm, self.estimator, self.generator = rbm, estimator, generator
        self.centre = centre
        self.parameters = {name: value for name, value in rbm.named_parameters() if value.requires_grad}
        self.increments = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self.contrast = lru_cache(maxsize=4)(self._contrast)

    def place(self, rows: int) -> Tensor | None:
        """Where a batch of so many rows is best put: (rows, V)."""
        return self.contrast(rows).above.visible

    @torch.no_grad()
    def step(self, v: Tensor, learning_rate: float, momentum: float, weight_decay: float) -> None:
        """Learn from visible rows v (n, V), wherever they are."""
        contrast = self.contrast(len(v))
        positive = self.rbm.phase(v, room=contrast.above)
        negative = self.estimator.negative(self.rbm, positive, self.generator, contrast.below)
        offsets = None if self.centre is None else _followed(*self.centre, positive)
        add_gradient(self.rbm, self.increments, positive, negative, contrast, learning_rate, momentum, offsets)
        if "weight" in self.increments:
            self.increments["weight"].add_(self.rbm.weight, alpha=-learning_rate * weight_decay)
        for name, parameter in self.parameters.items():
            parameter.add_(self.increments[name])

    def _contrast(self, rows: int) -> Contrast:
        return Contrast(self.rbm, rows, self.estimator.rows(rows))


class Monitor:
    """The quantities of the history, on a fixed subset of the training rows and as many rows of validation.

    Args:
        rbm: the machine.
        source: where the training rows come from.
        validation: rows held back, or None.
        rows: number of rows of either.
    """

    def __init__(self, rbm: RBM, source: Source, validation: Source | None, rows: int) -> None:
        self.rbm = rbm
        self.train = source.subset(rows)
        self.validation = None if validation is None else validation.subset(rows)

    @torch.no_grad()
    def __call__(self) -> Record:
        """The quantities as they are now, read from the device in one transfer."""
        hidden = self.rbm.mean_hidden(self.train)
        error = (self.rbm.mean_visible(hidden) - self.train).square().sum(-1).mean()
        values = {"reconstruction_error": error, "hidden_activity": hidden.mean()}
        for name in ("weight", "visible_bias", "hidden_bias"):
            values[f"{name}_norm"] = self.rbm.get_parameter(name).norm()
        if self.validation is not None and self.rbm.has_energy:
            gap = self.rbm.free_energy(self.validation).mean() - self.rbm.free_energy(self.train).mean()
            values["free_energy_gap"] = gap
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def open_rows(rbm: RBM, data: Any, batch_size: int, name: str = "data") -> Source:
    """`data` as a source of rows that fit the visible layer; ValueErrors name what does not."""

    def check(rows: Tensor, name: str) -> None:
        width = rbm.visible.size
        if rows.shape[1] != width:
            raise ValueError(f"{name} has {rows.shape[1]} columns, but the machine has {width} visible units")
        rbm.visible.constrain_data(rows, name)

    return open_source(data, batch_size=batch_size, like=rbm.weight, check=check, name=name)


@torch.no_grad()
def initialise_visible_bias(rbm: RBM, source: Source) -> None:
    """Set visible biases that are all still zero to the field of the data's mean, log[p/(1 − p)] for Bernoulli units.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines, section 8.
    """
    if bool((rbm.visible_bias == 0).all()):
        rows = source.subset(_ROWS_FOR_MEAN)
        rbm.visible_bias.copy_(rbm.visible.field_of_mean(rows.mean(0)))


def presented(
    rbm: RBM, source: Source, binarise: Literal["sample", "threshold"] | None, generator: Generator | None
) -> Source:
    """The rows as the machine is shown them: as they are, drawn anew at every presentation, or thresholded.

    Raises:
        TypeError: where rows are to be drawn or thresholded that the visible units do not take for probabilities.
    """
    if binarise is None:
        return source
    if rbm.visible.cardinality is None or rbm.visible.support != (0.0, 1.0):
        raise TypeError(f'binarise is "{binarise}", but {rbm.visible} are not in 0..1: leave it out')
    if binarise == "threshold":
        return MappedSource(source, lambda rows: (rows > 0.5).to(rows.dtype), source.width)

    def drawn(rows: Tensor, draw_from: Generator | None = generator) -> Tensor:
        return rbm.visible.sample(rows, mean=rows, generator=draw_from)

    # What is watched must not draw what training draws, and must be the same at every call.
    return MappedSource(source, drawn, source.width, lambda rows: drawn(rows, _still(rows.device)))


def _still(device: torch.device) -> Generator:
    return torch.Generator(device).manual_seed(0)


@torch.no_grad()
def _centre(rbm: RBM, source: Source, rate: float | None) -> tuple[Offsets, float] | None:
    """Offsets that start at the mean of both layers at a subset of the data."""
    if rate is None:
        return None
    rows = source.subset(_ROWS_FOR_MEAN)
    return Offsets(rows.mean(0), rbm.mean_hidden(rows).mean(0)), rate


def _followed(offsets: Offsets, rate: float, positive: Phase) -> Offsets:
    """The offsets, moved towards the means of a batch."""
    offsets.visible.lerp_(positive.visible.mean(0), rate)
    offsets.hidden.lerp_(positive.hidden_mean.mean(0), rate)
    return offsets


class _Average:
    """The mean of a machine's parameters at several moments."""

    def __init__(self, rbm: RBM) -> None:
        self.parameters, self.count = list(rbm.parameters()), 0
        self.means: list[Tensor] = []

    @torch.no_grad()
    def add(self) -> None:
        """Take the parameters as they are now into the mean."""
        self.count += 1
        if self.count == 1:
            self.means = [value.clone() for value in self.parameters]
        for mean, value in zip(self.means, self.parameters, strict=False):
            mean.lerp_(value, 1 / self.count)

    @torch.no_grad()
    def put(self) -> None:
        """Leave the mean in the machine, where there is one."""
        for mean, value in zip(self.means, self.parameters, strict=False):
            value.copy_(mean)


def _suited_rate(rbm: RBM) -> float:
    return min(rbm.visible.suggested_learning_rate, rbm.hidden.suggested_learning_rate)
