"""Supervised training of any network."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, Unpack

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dbn.data import Batch, data_config
from dbn.finetuning.dropout import draws_globally, own_dropout
from dbn.finetuning.evaluation import (
    Labelled,
    check_last_batch,
    check_learns,
    check_model,
    judge,
    last_layer,
    like_of,
    open_labelled,
    pair,
)
from dbn.finetuning.finetune_options import FinetuneKeywords, FinetuneOptions, optimiser_factory
from dbn.finetuning.graphed_step import SupervisedStep
from dbn.finetuning.target import remember_target
from dbn.fit import BestWeights, Task, TrainingState, finite, fit
from dbn.history import History, Record
from dbn.input_range import Scale, known_scale, remember_scale, scale_of_training
from dbn.runtime import distributed
from dbn.runtime.checkpoint_manager import CheckpointManager, State
from dbn.runtime.checks import as_generator, check_instance, check_watching, choose_device
from dbn.runtime.distributed import Generators, Shard
from dbn.runtime.fingerprint import fingerprint_of_parameters
from dbn.runtime.options import takes
from dbn.runtime.out_of_memory import named_where_short
from dbn.runtime.random_state import RandomState
from dbn.runtime.run_config import plain_values

_ROWS_FOR_SCALE = 10_000
_RUNAWAY = 1e6  # times 1 + the first batch's loss, beyond which no loss of a network that learns is


@takes(FinetuneOptions)
def finetune(
    model: nn.Module,
    x: Any,
    y: Any = None,
    *,
    epochs: int,
    validation: Any = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    device: str | torch.device | None = None,
    callback: Callable[[Record], None] | None = None,
    progress: bool = True,
    description: str = "fine-tuning",
    generator: Generator | None = None,
    seed: int | None = None,
    **options: Unpack[FinetuneKeywords],
) -> History:
    """Train a network on labelled rows, by default with Adam and the cross-entropy.

    Source: D. Kingma, J. Ba (2015), Adam: a method for stochastic optimization; for the smaller rate of pretrained
    layers, G. Hinton, R. Salakhutdinov (2006), Reducing the dimensionality of data with neural networks.

    Args:
        model: any network, trained in place and left in evaluation mode.
        x: inputs (n, …) as a tensor or an array, or a Dataset or DataLoader of (input, label). Inputs of networks that
            begin with a linear layer are flattened. Each of several processes is given all of them. Pixels in 0..255
            are refused by a network that takes 0..1, as `evaluate` says.
        y: class numbers, integers of shape (n,) or (n, 1), for a network with an output for each class; or real
            targets, floats of shape (n, k), or (n,) for one output; or what `loss` takes. None if `x` brings them
            along. What the network is for is decided once, from these and `loss`; of a container, from its first
            batch. The network remembers it, for `evaluate` and `predict`.
        epochs: passes over the data.
        validation: (inputs, labels), or a Dataset or DataLoader of them. The weights of the epoch with the lowest error
            on them are kept, and of epochs with equal errors those with the lowest loss. The error is that of
            `Evaluation`: for classes and for several labels the fraction that is wrong, otherwise the loss itself.
        checkpoint: a folder of this run alone. The run is saved there as it goes, also on SIGINT and SIGTERM, and the
            same call, with the same first weights and data, resumes it to the same bits; a finished run is given back.
            `train` says what of the data is compared.
        checkpoint_seconds: least time between two saves; 0 saves after every step.
        device: where to move the model first: "auto" for the first of cuda, mps and cpu that is there; by default it
            stays where it is.
        callback: called with the record of every epoch.
        progress: show a progress bar.
        description: the name of the run on the bar.
        generator: draws the order of the rows and dropout; it must be on the model's device. Modules of your own that
            draw in `forward`, and torch's other random ones, such as AlphaDropout, draw from torch's global one.
        seed: a number to seed a generator with, instead of `generator`.
        {options}

    Returns:
        The history. Each record has the epoch, the mean training loss, the seconds so far, and with `validation` its
        error and loss, as `evaluate` gives them.

    Raises:
        TypeError, ValueError: for arguments or data that do not fit, and a loss that fails on the first batch, before
            anything is changed.
        DivergenceError: if the loss or a parameter is no longer finite.
        OSError: if `checkpoint` cannot be written; what was saved before is intact.
        torch.OutOfMemoryError: if memory runs out, with the batch size to lower.

    Example:
        >>> from dbn import evaluate
        >>> inputs = torch.eye(4).repeat(25, 1)
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> history = finetune(model, inputs, inputs.argmax(1), epochs=30, learning_rate=0.1, progress=False, seed=0)
        >>> evaluate(model, inputs, inputs.argmax(1)).error
        0.0
    """
    check_model(model)
    check_watching(callback, progress, description)
    settings = FinetuneOptions.from_keywords(finetune, {"epochs": epochs, **options})
    if settings.patience is not None and validation is None:
        raise ValueError("patience is given without validation: give the rows whose error is to be watched")
    groups = _parameter_groups(
        model, float(settings.weight_decay), separate_head=settings.head_learning_rate is not None
    )
    destination = like_of(model).device if device is None else choose_device(device)
    generator = as_generator(generator, seed, destination)
    build = optimiser_factory(settings.optimiser)
    model.to(destination)
    data, held_out, scale = _open(model, x, y, validation, settings)
    rates = settings.learning_rates
    optimizer = build(groups, lr=rates[0](0.0))
    check_instance(optimizer, Optimizer, "optimiser", "what builds a torch optimiser, such as torch.optim.AdamW")
    generators = _with_separate_dropout(distributed.generators(generator, destination))
    of_validation, best = None if held_out is None else held_out.source, BestWeights(model)

    def config() -> State:
        return {
            "model": [str(model), str(like_of(model).dtype), destination.type],
            "trainable parameters": [name for name, value in model.named_parameters() if value.requires_grad],
            "optimiser": {"kind": type(optimizer).__name__, **plain_values(optimizer.defaults)},
            **settings.config(),
            **data_config(data.source, of_validation, generator),
        }

    def weights() -> list[str]:
        return [fingerprint_of_parameters(state) for state in (model.state_dict(), best.weights) if state is not None]

    with (
        CheckpointManager(checkpoint, "finetune", config, checkpoint_seconds, weights) as manager,
        _best_weights_at_exit(best),
        own_dropout(model, generators.local),
        distributed.data_parallel(model, data.source.rows, data.source.batch_size) as network,
        named_where_short(batch_size=settings.batch_size),
    ):
        remember_scale(model, scale)
        remember_target(model, data.target)
        step = SupervisedStep(model, network, optimizer, rates, data, settings.max_norm, generator=generators.local)
        task = SupervisedTask(model, step, optimizer, best, held_out, settings.patience)
        random = RandomState.of_run(
            generators, data.source, of_validation, globally=draws_globally(model) or settings.draws_globally
        )
        state = TrainingState(
            task, random, data.source, manager, description, settings.on_divergence, random.state_dict()
        )
        if manager.saved is not None:
            state.resume(manager.saved)
        if not state.done:
            fit(task, state, settings.epochs, callback=callback, progress=progress)
            state.finish()
        task.close()
    return state.history


class SupervisedTask(Task):
    """Training of a network on labelled rows.

    Args:
        model: trained in place.
        step: one update.
        optimizer: its state is saved.
        best: keeps the weights of the lowest validation error.
        validation: labelled rows, or None.
        patience: epochs in a row without a lower error, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        step: SupervisedStep,
        optimizer: Optimizer,
        best: BestWeights,
        validation: Labelled | None,
        patience: int | None,
    ) -> None:
        self.model, self.best, self.validation, self._step = model, best, validation, step
        self.patience, self.loss_meter = math.inf if patience is None else patience, LossMeter(like_of(model).device)
        self.partly_labelled, self.counted = step.data.partly_labelled, step.data.target.counted
        super().__init__({"model": model, "optimiser": optimizer, "best": best, "loss": self.loss_meter})

    @property
    def stopped(self) -> bool:
        return self.best.updates_since_best >= self.patience

    def begin_epoch(self) -> None:
        self.model.train()

    def step(self, batch: Batch, epoch: float, lr_scale: float) -> None:
        fraction, rows = batch.fraction, len(batch.x) if batch.fraction else 0
        if self.partly_labelled and batch.y is not None:
            rows = int(self.counted(batch.y).sum()) if batch.fraction else 0
            (labelled,) = distributed.all_reduce_scalars(rows)
            if not labelled:
                return
            fraction = rows / labelled
        self.loss_meter.update(self._step(batch.x, batch.y, fraction, epoch, lr_scale), rows)

    def divergence(self) -> str:
        distributed.check_replicated(list(self.model.parameters()), "the model")
        if not finite(self.loss_meter.summed, *self.model.parameters()):
            return "left the finite numbers"
        last, limit = float(self.loss_meter.last), _RUNAWAY * (1 + abs(float(self.loss_meter.first)))
        return "" if abs(last) <= limit else f"let the loss run away to {last:.3g}"

    def metrics(self, state: TrainingState, epoch: float) -> Record:
        record = {"epoch": epoch, "loss": self.loss_meter.mean(), "seconds": state.seconds}
        distributed.broadcast_(self.model.buffers())
        if self.validation is not None:
            with state.save_on_error():
                found = judge(self.model, self.validation)
            record |= {"validation_error": found.error, "validation_loss": found.loss}
        return record

    def end_epoch(self, record: Record) -> None:
        if self.validation is not None:
            self.best.update(-record["validation_error"], -record["validation_loss"])
        self.loss_meter.reset()

    def summary(self, record: Record) -> dict[str, str]:
        return {name: f"{record[name]:.4f}" for name in ("loss", "validation_error") if name in record}

    def recapture_if_changed(self) -> None:
        self._step.recapture_if_changed()

    def close(self) -> None:
        self._step.close()


class LossMeter:
    """The mean loss of the epoch so far, and the losses of the first and the last batch of all.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self.summed, self.rows = torch.zeros((), dtype=torch.float32, device=device), 0
        self.first = self.last = torch.zeros((), dtype=torch.float32, device=device)
        self.begun = False

    def update(self, loss: Tensor, rows: int) -> None:
        """Add the mean loss over some rows of this process."""
        self.first, self.last, self.begun = self.first if self.begun else loss, loss, True
        self.summed, self.rows = self.summed + loss * rows, self.rows + rows

    def mean(self) -> float:
        """The mean over the rows of all processes."""
        summed, rows = distributed.all_reduce_scalars(float(self.summed), self.rows)
        if not rows:
            raise ValueError("labels of x mark all rows to be left out: give some with a class")
        return summed / rows

    def reset(self) -> None:
        """Begin the next epoch."""
        self.summed, self.rows = torch.zeros_like(self.summed), 0

    def state_dict(self) -> dict[str, Any]:
        """Sums, which differ between processes, and the first and last loss."""
        rows = torch.full_like(self.summed, self.rows, dtype=torch.int64)
        sums = {"summed": Shard(self.summed[None]), "rows": Shard(rows[None])}
        return {**sums, "first": self.first, "last": self.last, "begun": self.begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device = self.summed.device
        self.summed, self.rows = state_dict["summed"].value.sum().to(device), int(state_dict["rows"].value.sum())
        self.first, self.last = (state_dict[name].to(device) for name in ("first", "last"))
        self.begun = state_dict["begun"]


def _open(
    model: nn.Module, x: Any, y: Any, validation: Any, settings: FinetuneOptions
) -> tuple[Labelled, Labelled | None, Scale | None]:
    """The rows of training and of validation, and the range of the inputs."""
    scale, loss = known_scale(model), settings.loss
    data = open_labelled(model, x, y, name="x", loss=loss, batch_size=settings.batch_size, scale=scale)
    check_learns(model, data.source)
    if settings.epochs:
        check_last_batch(model, data.source)
    scale = scale_of_training(scale, data.source.representative_rows(_ROWS_FOR_SCALE))
    if validation is None:
        return data, None, scale
    inputs, labels = pair(validation)
    held_out = open_labelled(model, inputs, labels, name="validation", loss=loss, scale=scale, target=data.target)
    return data, held_out, scale


@contextmanager
def _best_weights_at_exit(best: BestWeights) -> Iterator[None]:
    """Load the best weights, and leave the model in evaluation mode, however the block ends."""
    try:
        yield
    finally:
        best.restore()
        best.module.eval()


def _parameter_groups(model: nn.Module, weight_decay: float, *, separate_head: bool) -> list[dict[str, Any]]:
    """Weights and biases, those of the last layer apart if it has a rate of its own; "rate" is the index of the rate.

    Parameters with equal settings share a group, since the fused optimiser launches once per group.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model has no parameters that require a gradient: there is nothing to train")
    head = {id(parameter) for parameter in last_layer(model).parameters()}
    groups: dict[tuple[int, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = int(id(parameter) in head) if separate_head else 0
            groups.setdefault((rate, weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return [{"params": found, "rate": key[0], "weight_decay": key[1]} for key, found in groups.items()]


def _with_separate_dropout(generators: Generators) -> Generators:
    """The same order of rows, with a generator for dropout alone, which draws other numbers on each process."""
    shared = generators.shared
    if shared is None:
        return generators
    seed = int(torch.randint(2**62, (), generator=shared, device=shared.device))
    return Generators(shared, Generator(shared.device).manual_seed(distributed.local_seed(seed)))
