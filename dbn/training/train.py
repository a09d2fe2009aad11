"""Training of one RBM."""

from collections.abc import Callable
from os import PathLike
from typing import Any, Literal, NamedTuple, Unpack

import torch
from torch import Generator, Tensor

from dbn.data import Batch, Source, data_config
from dbn.fit import Task, TrainingState, fit
from dbn.gradient import Offsets
from dbn.history import History, Record
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.runtime.checkpoint_manager import CheckpointManager, State
from dbn.runtime.checks import as_generator, check_instance, check_watching, choice
from dbn.runtime.distributed import Generators
from dbn.runtime.fingerprint import fingerprint_of_parameters
from dbn.runtime.options import takes
from dbn.runtime.out_of_memory import named_where_short
from dbn.runtime.random_state import RandomState
from dbn.training.early_stopping import Average, Stopper
from dbn.training.graphed_update import GraphedUpdate, capturable
from dbn.training.monitor import Monitor
from dbn.training.train_options import TrainKeywords, TrainOptions, check_trainable, rbm_config
from dbn.training.training_data import ROWS_FOR_MEAN, initialise_visible_bias, open_rows, presented
from dbn.training.update import RBMUpdate

_SUMMARY = {
    "error": "reconstruction_error",
    "gap": "free_energy_gap",
    "chain_gap": "chain_gap",
    "activity": "hidden_activity",
}


@takes(TrainOptions)
def train(
    rbm: RBM,
    data: Any,
    *,
    epochs: int,
    validation: Any = None,
    binarise: Literal["sample", "threshold"] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    callback: Callable[[Record], None] | None = None,
    progress: bool = True,
    description: str = "training",
    generator: Generator | None = None,
    seed: int | None = None,
    **options: Unpack[TrainKeywords],
) -> History:
    """Train an RBM by stochastic ascent of an estimate of the likelihood, with Hinton's recipe as the defaults.

    Δθ ← momentum · Δθ + learning_rate · (∂(−F)/∂θ at the data − at the model − weight_decay · W), θ ← θ + Δθ, with the
    decay on weights alone.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines; R. Salakhutdinov, G. Hinton
    (2006), code for Reducing the dimensionality of data with neural networks.

    Args:
        rbm: trained in place, on its device.
        data: rows (n, V) as a tensor, NumPy array or memmap, or a Dataset or DataLoader of them; labels that come
            along are ignored. Each of several processes is given all of them.
        epochs: passes over the data.
        validation: validation rows, as a tensor or an array, for the free-energy gap.
        binarise: turn probabilities, such as grey pixels, into states of the visible units: "sample" draws them anew
            at every presentation, "threshold" takes the most probable state (1 above 0.5, of a one-hot group the first
            of the largest). Grey pixels taken for probabilities, as by default, train features well, but no density of
            binary images.
        checkpoint: a folder of this run alone. The run is saved there as it goes, also on SIGINT and SIGTERM, and the
            same call, with the same first weights and data, resumes it to the same bits; a finished run is given back.
            Tensors and arrays of up to 64 MiB are compared by all values, larger ones by 1,000 evenly spaced rows, a
            Dataset by its length and the tensors and arrays that it holds. A DataLoader that shuffles must be given a
            generator, or torch's global one must be seeded before the call.
        checkpoint_seconds: least time between two saves; 0 saves after every step.
        callback: called with every record.
        progress: show a progress bar.
        description: the name of the run on the bar.
        generator: draws the order of the rows and all samples; it must be on the RBM's device. A DataLoader has an
            order and a batch size of its own.
        seed: a number to seed a generator with, instead of `generator`.
        {options}

    Returns:
        The history. Each record has the epoch, the step, the reconstruction error (squared, summed over columns, mean
        over rows), the mean hidden activity, the parameters' norms, and if the RBM has an energy the free-energy gap:
        mean F(validation) − mean F(training subset), in nats, whose growth is a sign of overfitting. With units
        without bounds on both sides it has the margin of `RBM.normalisable`. With persistent chains: `chain_gap`,
        the difference of chains and training subset in ⟨v⟩ and ⟨v h⟩ over its standard error, rms over entries, the
        larger of both: about 1 if chains look like the data, far above 1 if they have lost a mode or lag behind the
        weights.

    Raises:
        TypeError, ValueError: for arguments or data that do not fit, before anything is changed. Rows of a Dataset, a
            DataLoader or a memory map are checked as they are read, and may be refused later.
        DivergenceError: if parameters are no longer finite, the free energy has run away, or the RBM is no longer
            normalisable.
        OSError: if `checkpoint` cannot be written; what was saved before is intact.
        torch.OutOfMemoryError: if memory runs out, with the batch size and the chains to lower.

    Example:
        >>> rows = (torch.rand(200, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        >>> history = train(RBM(6, 4, seed=0), rows, epochs=2, progress=False, seed=0)
        >>> history["epoch"]
        [1.0, 2.0]

    The reconstruction error does not rank RBMs as density models: contrastive divergence all but minimises it.
    """
    check_instance(rbm, RBM, "rbm", "an RBM, such as RBM(784, 500)")
    check_watching(callback, progress, description)
    generator = as_generator(generator, seed, rbm.weight.device)
    generators = distributed.generators(generator, rbm.weight.device)
    settings = TrainOptions.from_keywords(train, {"epochs": epochs, **options})
    check_trainable(rbm, settings, validated=validation is not None)
    rows = open_training_data(rbm, data, validation, binarise, settings, generators)

    def config() -> State:
        data = data_config(rows.train, rows.validation, generator)
        return {"rbm": rbm_config(rbm), "binarise": binarise, **data, **settings.config()}

    def weights() -> list[str]:
        return [fingerprint_of_parameters(rbm.state_dict())]

    manager = CheckpointManager(checkpoint, "train", config, checkpoint_seconds, weights)
    with manager, named_where_short(batch_size=settings.batch_size, estimator=settings.negative_phase):
        run = Run(manager, manager.saved, callback, progress, description)
        return train_rbm(rbm, rows, settings, generators, run)


class TrainingData(NamedTuple):
    """The rows of a run, as the RBM is shown them."""

    train: Source
    validation: Source | None


class Run(NamedTuple):
    """How a run is saved and shown; `saved` is the checkpoint that it resumes from."""

    manager: CheckpointManager
    saved: State | None
    callback: Callable[[Record], None] | None
    progress: bool
    description: str


def open_training_data(
    rbm: RBM,
    data: Any,
    validation: Any,
    binarise: Literal["sample", "threshold"] | None,
    options: TrainOptions,
    generators: Generators,
) -> TrainingData:
    """Open and check the rows, as the RBM is shown them."""
    if binarise is not None:
        choice(binarise, ("sample", "threshold"), "binarise")
    train = presented(rbm, open_rows(rbm, data, options.batch_size), binarise, generators.local)
    if validation is None:
        return TrainingData(train, None)
    rows = open_rows(rbm, validation, options.monitor_rows, "validation")
    return TrainingData(train, presented(rbm, rows, binarise, generators.local))


def train_rbm(rbm: RBM, data: TrainingData, options: TrainOptions, generators: Generators, run: Run) -> History:
    """Train one RBM, alone or as a layer of a stack, on rows that are open and with options that are checked."""
    random = RandomState.of_run(generators, data.train, data.validation, globally=options.draws_globally)
    if run.saved is not None:  # what is set up here, and the monitored rows, are those of the run's beginning
        random.load_state_dict(run.saved["initial_random"])
    initial_random = random.state_dict()
    task = RBMTask(rbm, data, options, generators.local)
    state = TrainingState(task, random, data.train, run.manager, run.description, options.on_divergence, initial_random)
    if run.saved is not None:
        state.resume(run.saved)
    if state.done:
        task.close()
        return state.history
    with torch.autocast(rbm.weight.device.type, enabled=False):
        fit(
            task,
            state,
            options.epochs,
            record_every=options.record_every,
            callback=run.callback,
            progress=run.progress,
        )
    task.load_final_weights()
    state.finish()
    return state.history


class RBMTask(Task):
    """Training of an RBM: updates, monitoring, averaging and early stopping.

    Args:
        rbm: trained in place.
        data: its rows.
        options: how it is trained.
        generator: draws all samples of this process.
    """

    def __init__(self, rbm: RBM, data: TrainingData, options: TrainOptions, generator: Generator | None) -> None:
        self.options, estimator = options, options.negative_phase
        self.learning_rate, self.momentum = options.rate_for(rbm), options.momentum_used
        self.monitor = Monitor(rbm, data.train, data.validation, options.monitor_rows, estimator)
        if options.initialise_bias:
            initialise_visible_bias(rbm, data.train)
        distributed.broadcast_(rbm.state_dict().values())
        estimator.prepare(rbm, generator)
        centre, separate = _centre(rbm, data.train, options.centring), capturable(rbm, estimator)
        update = RBMUpdate(rbm, estimator, generator, centre, options, separate_gradient=separate)
        self.average, self.stopper = Average(rbm), Stopper(rbm, options.stopping)
        super().__init__(
            {"rbm": rbm, "update": update, "average": self.average, "stopper": self.stopper, "monitor": self.monitor}
        )
        batch_size = data.train.batch_size
        self.update, self._step = update, GraphedUpdate(update, min(batch_size, data.train.rows or batch_size))

    @property
    def stopped(self) -> bool:
        return self.stopper.stopped

    def buffer(self, rows: int) -> Tensor | None:
        return self.update.buffers(rows).positive.visible

    def step(self, batch: Batch, epoch: float, lr_scale: float) -> None:
        self._step(batch.x, lr_scale * self.learning_rate(epoch), self.momentum(epoch), batch.fraction)

    def divergence(self) -> str:
        return self.monitor.divergence()

    def metrics(self, state: TrainingState, epoch: float) -> Record:
        return {"epoch": epoch, "step": float(state.global_step), "seconds": state.seconds, **self.monitor()}

    def end_epoch(self, record: Record) -> None:
        if self.options.average_from is not None and record["epoch"] - 1 >= self.options.average_from:
            self.average.update()
        self.stopper.evaluate(record, self.average)

    def summary(self, record: Record) -> dict[str, str]:
        return {name: f"{record[key]:.2f}" for name, key in _SUMMARY.items() if key in record}

    def recapture_if_changed(self) -> None:
        self._step.recapture_if_changed()

    def close(self) -> None:
        self._step.close()

    def load_final_weights(self) -> None:
        """Load the mean of the last parameters, or the best ones, if any."""
        self.average.load_into_rbm()
        self.stopper.best.restore()


@torch.no_grad()
def _centre(rbm: RBM, source: Source, rate: float | None) -> tuple[Offsets, float] | None:
    """Offsets that start at the mean of both layers at a subset of the data."""
    if rate is None:
        return None
    rows = source.representative_rows(ROWS_FOR_MEAN)
    offsets = Offsets(rows.mean(0), rbm.mean_hidden(rows).mean(0))
    distributed.broadcast_(offsets)
    return offsets, rate
