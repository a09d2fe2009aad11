"""The loop: a recipe followed on rows that are open, with its history."""

from collections.abc import Callable
from contextlib import closing
from os import PathLike
from typing import Any, Literal

import torch
from torch import Generator

from dbn import distributed
from dbn.arguments import (
    as_generator,
    check_instance,
    check_watching,
)
from dbn.batches import Source
from dbn.course import Course, Part, Whole, described, randomness_of
from dbn.distributed import Draws
from dbn.estimators import Estimator
from dbn.fingerprint import fingerprint_of_parameters
from dbn.gradient import Offsets
from dbn.history import History, Record
from dbn.keeper import Keeper, Picture
from dbn.memory import named_where_short
from dbn.rbm import RBM
from dbn.schedules import Schedule
from dbn.training.recipe import Recipe, check_fit, kind_of
from dbn.training.rows import ROWS_FOR_MEAN, initialise_visible_bias, open_rows, presented
from dbn.training.step import Learner
from dbn.training.steps import Steps, replayable
from dbn.training.watching import Average, Best, EarlyStopping, Monitor


def train(
    rbm: RBM,
    data: Any,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float | Schedule | None = None,
    momentum: float | Schedule | None = None,
    weight_decay: float = 2e-4,
    estimator: Estimator | None = None,
    validation: Any = None,
    centring: float | None = None,
    binarise: Literal["sample", "threshold"] | None = None,
    average_from: float | None = None,
    l1: float = 0.0,
    max_norm: float | None = None,
    sparsity_target: float | None = None,
    sparsity_cost: float = 0.1,
    clip: float | None = None,
    stopping: EarlyStopping | None = None,
    on_divergence: Literal["raise", "halve"] = "raise",
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
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
            along are ignored. Each of several processes is given all of them.
        epochs: passes over the data.
        batch_size: rows an update, of all processes together; the last batch of an epoch may be shorter and has its own
            denominator.
        learning_rate: a number, or a schedule of the epoch; by default what suits the units, the estimator and the
            momentum m: r · (1 − m) / (1 − m₀), so that the effective rate, learning_rate / (1 − m), does not depend on
            m. For CD, m₀ is 0.5, and 0.9 from the sixth epoch, and r is 0.1 for Bernoulli units on both sides, 0.01
            with ReLU, 0.003 with Gaussian ones, and a quarter of it for every side of spins. For persistent chains m₀
            is 0, and r is constant over the first half of the epochs, then falls in a line to 0: from twice what it
            is for CD, or from 0.05 where the hidden units are Bernoulli and the visible ones Gaussian or ReLU.
        momentum: a number or a schedule, below 1 if no learning rate is given; by default m₀, what suits the estimator.
        weight_decay: L2 cost of the weights.
        estimator: the negative phase, CD(1) by default.
        validation: rows held back, as a tensor or an array, for the free-energy gap.
        centring: centre the gradient (Montavon and Müller 2012) at the mean units at the data, followed at this rate,
            such as 0.01; None for the plain gradient.
        binarise: turn probabilities, such as grey pixels, into states of the visible units: "sample" draws them anew
            at every presentation, "threshold" takes the most probable state (1 above 0.5, of a one-hot group the first
            of the largest). Grey pixels taken for probabilities, as by default, train features well, but no density of
            binary images.
        average_from: leave in the machine the mean of the parameters at the ends of the epochs after so many.
        l1: cost of the sum of |W|, whose slope is sign W.
        max_norm: after every update, shrink the weights of each hidden unit to a Euclidean norm of at most this.
        sparsity_target: mean activity q that hidden units are pulled to (Lee, Ekanadham and Ng 2008), such as 0.05:
            their biases fall by learning_rate · sparsity_cost · (q̂ − q), with q̂ a moving mean, and their weights by
            that times the batch's mean visible units (Hinton 2010, section 11).
        sparsity_cost: how hard.
        clip: shrink each gradient of the likelihood, all parameters together and before penalties and decay, to a
            Euclidean norm of at most this.
        stopping: end before the last epoch, and leave the best weights; see `EarlyStopping`.
        on_divergence: "raise" an error where parameters leave the finite numbers or the free energy runs away, with the
            machine put back to the start of that epoch (or to where the run was taken up in it), or "halve" the
            learning rate and go on from there; from where that does not help, from the start of the run.
        checkpoint: a folder of this run alone. The run is saved there as it goes, also on SIGINT and SIGTERM, and the
            same call, with the same first weights and data, goes on from it to the same bits; a finished run is given
            back. Tensors and arrays of up to 64 MiB are compared by all values, larger ones by 1,000 evenly spaced
            rows, a Dataset by its length and the tensors and arrays that it holds. A DataLoader that shuffles must be
            given a generator, or torch's global one must be seeded before the call.
        checkpoint_seconds: least time from one save to the next; 0 saves after every step.
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
        gap: mean F(validation) − mean F(training subset), in nats, whose growth is a sign of overfitting. With units
        without bounds on both sides it has the margin of `RBM.normalisable`. With persistent chains: `chain_gap`,
        the difference of chains and training subset in ⟨v⟩ and ⟨v h⟩ over its standard error, rms over entries, the
        larger of both: about 1 where chains look like the data, far above 1 where they have lost a mode or lag behind
        the weights.

    Raises:
        TypeError, ValueError: for arguments or data that do not fit, before anything is changed. Rows of a Dataset, a
            DataLoader or a memory map are looked at as they are read, and may be refused later.
        DivergenceError: where parameters are no longer finite, the free energy has run away, or the machine is no
            longer normalisable.
        OSError: where `checkpoint` cannot be written; what was saved before is whole.
        torch.OutOfMemoryError: where memory runs out, with the batch size and the chains to lower.

    Example:
        >>> rows = (torch.rand(200, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        >>> history = train(RBM(6, 4, seed=0), rows, epochs=2, progress=False, seed=0)
        >>> history["epoch"]
        [1.0, 2.0]

    The reconstruction error does not rank machines as density models: contrastive divergence all but minimises it.
    """
    check_instance(rbm, RBM, "rbm", "a machine, such as RBM(784, 500)")
    check_watching(callback, progress, description)
    generator = as_generator(generator, seed, rbm.weight.device)
    draws = distributed.draws(generator, rbm.weight.device)
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
        l1=l1,
        max_norm=max_norm,
        sparsity_target=sparsity_target,
        sparsity_cost=sparsity_cost,
        clip=clip,
        stopping=stopping,
        on_divergence=on_divergence,
        initialise_bias=initialise_bias,
        monitor_rows=monitor_rows,
        record_every=record_every,
    )
    check_fit(rbm, recipe, validated=validation is not None)
    source = presented(rbm, open_rows(rbm, data, batch_size), binarise, draws.own)
    held_back = None
    if validation is not None:
        held_back = presented(rbm, open_rows(rbm, validation, monitor_rows, "validation"), binarise, draws.own)

    def plan() -> Picture:
        return {"machine": kind_of(rbm), **described(source, held_back, generator), **recipe.described()}

    def weights() -> list[str]:
        return [fingerprint_of_parameters(rbm.state_dict())]

    named = named_where_short(batch_size=batch_size, estimator=recipe.negative_phase)
    with Keeper(checkpoint, "train", plan, checkpoint_seconds, weights) as keeper, named:
        return run(rbm, source, recipe, draws, held_back, callback, progress, description, keeper, keeper.found)


def run(
    rbm: RBM,
    source: Source,
    recipe: Recipe,
    draws: Draws,
    validation: Source | None,
    callback: Callable[[Record], None] | None,
    progress: bool,
    description: str,
    keeper: Keeper,
    found: Picture | None,
) -> History:
    """The loop behind `train`: a recipe followed on rows that are already open, from a picture where one was found."""
    estimator = recipe.negative_phase
    rate, momentum = recipe.rate_for(rbm), recipe.momentum_used
    randomness = randomness_of(draws, source, validation)
    if found is not None:  # what is set up here, and the rows that are watched, are those of the run's beginning
        randomness.put(found["start"])
    start = randomness.state()
    monitor = Monitor(rbm, source, validation, recipe.monitor_rows, estimator)
    if recipe.initialise_bias:
        initialise_visible_bias(rbm, source)
    distributed.take_from_main(rbm.state_dict().values())
    estimator.prepare(rbm, draws.own)
    centre = _centre(rbm, source, recipe.centring)
    learner = Learner(rbm, estimator, draws.own, centre, recipe, apart=replayable(rbm, estimator))
    average, best = Average(rbm), Best(rbm, recipe.stopping)
    parts: dict[str, Part] = {
        "rbm": Whole(rbm),
        "learner": learner,
        "average": average,
        "best": best,
        "monitor": monitor,
    }
    course = Course(parts, monitor.fault, randomness, source, keeper, description, recipe.on_divergence, start)
    if found is not None:
        course.take_up(found)
    if course.done:
        return course.history
    step = Steps(learner, min(source.batch_size, source.rows or source.batch_size), recipe.weight_decay)

    def record(epochs_done: float) -> None:
        seen = {"epoch": epochs_done, "step": float(course.step), "seconds": course.seconds, **monitor()}
        entry = distributed.numbers_of_main(seen)
        if epochs_done == course.epoch + 1:
            best.judge(entry, average)
        if not course.recorded(entry):
            return
        shown = {
            "error": "reconstruction_error",
            "gap": "free_energy_gap",
            "chain_gap": "chain_gap",
            "activity": "hidden_activity",
        }
        bar.set_postfix({name: f"{entry[key]:.2f}" for name, key in shown.items() if key in entry}, refresh=False)
        if callback is not None:
            callback(entry)
            step.look_again()

    full = torch.autocast(rbm.weight.device.type, enabled=False)
    with course.bar(recipe.epochs, progress) as bar, closing(step), full:
        while course.epoch < recipe.epochs and not best.stopped:
            for v, _, share in course.batches(learner.place):
                now, done = (
                    course.epoch + (at / source.steps if source.steps else 0.0)
                    for at in (course.place, course.place + 1)
                )
                step(v, course.share * rate(now), momentum(now), share)
                if not course.stepped():
                    break
                bar.update()
                if recipe.record_every and course.step % recipe.record_every == 0 and done < course.epoch + 1:
                    record(done)
                    if course.flaw:
                        break
                course.keep()
            if not course.fault():
                if recipe.average_from is not None and course.epoch >= recipe.average_from:
                    average.add()
                record(course.epoch + 1.0)
            if course.diverged():
                bar.update(course.step - bar.n)
                continue
            course.passed()
    average.leave()
    best.leave()
    course.finish()
    return course.history


@torch.no_grad()
def _centre(rbm: RBM, source: Source, rate: float | None) -> tuple[Offsets, float] | None:
    """Offsets that start at the mean of both layers at a subset of the data."""
    if rate is None:
        return None
    rows = source.subset(ROWS_FOR_MEAN)
    offsets = Offsets(rows.mean(0), rbm.mean_hidden(rows).mean(0))
    distributed.take_from_main(offsets)
    return offsets, rate
