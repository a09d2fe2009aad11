"""Supervised training of any network: the loop, and what it carries from step to step."""

import copy
import math
from collections.abc import Callable
from contextlib import closing
from functools import partial
from os import PathLike
from typing import Any, Literal, Self

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dbn import distributed
from dbn.arguments import (
    as_generator,
    check_instance,
    check_watching,
    choice,
    choose_device,
    finite_number,
    whole_number,
)
from dbn.course import Course, Part, Whole, described, finite, name_of, plain, plain_of, randomness_of
from dbn.distributed import Draws, Shard
from dbn.finetuning.dropout import draws_globally, own_dropout
from dbn.finetuning.evaluation import (
    check_learns,
    check_loss,
    check_model,
    judge,
    like_of,
    open_labelled,
    pair,
    with_own_parameters,
)
from dbn.finetuning.steps import Optimiser, Steps, optimiser_factory, replayable
from dbn.finetuning.task import Loss, remember_task
from dbn.fingerprint import fingerprint_of_parameters
from dbn.history import History, Record
from dbn.keeper import Keeper, Picture
from dbn.memory import named_where_short
from dbn.scaling import known_scale, remember_scale, scale_of_training
from dbn.schedules import Schedule, as_schedule

_ROWS_FOR_SCALE = 10_000
_RUNAWAY = 1e6  # times the first batch's loss and 1, beyond which no loss of a network that learns is


def finetune(
    model: nn.Module,
    x: Any,
    y: Any = None,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float | Schedule = 1e-3,
    head_learning_rate: float | Schedule | None = None,
    optimiser: Optimiser = "adam",
    weight_decay: float = 0.0,
    max_norm: float | None = None,
    validation: Any = None,
    patience: int | None = None,
    loss: Loss | None = None,
    on_divergence: Literal["raise", "halve"] = "raise",
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    device: str | torch.device | None = None,
    callback: Callable[[Record], None] | None = None,
    progress: bool = True,
    description: str = "fine-tuning",
    generator: Generator | None = None,
    seed: int | None = None,
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
            targets, floats of shape (n, k), or (n,) for one output; or what `loss` takes. None where `x` brings them
            along. What the network is for is told from these and `loss` once, for containers from their first batch;
            the network remembers it, for `evaluate` and `predict`.
        epochs: passes over the data.
        batch_size: rows an update, of all processes together.
        learning_rate: a number, or a schedule of the epoch.
        head_learning_rate: the same for the last layer alone; by default as the rest.
        optimiser: "adam", "sgd" (momentum 0.9), or what builds a torch optimiser from parameter groups and `lr=`,
            such as `torch.optim.AdamW`.
        weight_decay: as that optimiser means it, on weights and not on biases.
        max_norm: after every update, shrink the weights into each unit of each layer to a Euclidean norm of at most
            this; 3 or 4 go well with dropout (Srivastava et al. 2014).
        validation: (inputs, labels), or a Dataset or DataLoader of them, held back; the weights of the epoch with the
            lowest error on them are kept, and of epochs with equal errors those with the lowest loss. The error is that
            of `Evaluation`: of classes and of several labels the share that is wrong, else the loss itself.
        patience: stop after this many epochs in a row without a lower error on `validation`; a lower loss at the same
            error does not count.
        loss: of outputs and labels, a mean over rows; by default cross-entropy for class numbers and squared error for
            real targets. A loss of torch is given floats in the shape and number type of the outputs, and class numbers
            as (n,); with `nn.BCEWithLogitsLoss` and its kin, labels of 0 and 1 are several labels a row. A function of
            your own is given labels as they come, floats in the number type of the outputs; integers (n,) that are
            class numbers, or below 0 for unlabelled rows, are still judged as classes.
        on_divergence: "raise" an error where the loss or a parameter leaves the finite numbers, with the model put back
            to the start of that epoch (or to its best weights), or "halve" the learning rates and go on from there.
        checkpoint: a folder of this run alone. The run is saved there as it goes, also on SIGINT and SIGTERM, and the
            same call, with the same first weights and data, goes on from it to the same bits; a finished run is given
            back. What of the data is compared, `train` says.
        checkpoint_seconds: least time from one save to the next; 0 saves after every step.
        device: where to move the model first: "auto" for the first of cuda, mps and cpu that is there; by default it
            stays where it is.
        callback: called with the record of every epoch.
        progress: show a bar.
        description: what the bar calls this run.
        generator: draws the order of the rows and dropout; it must be on the device of the model. Modules of your own
            that draw in `forward`, and torch's other random ones, such as AlphaDropout, draw from torch's global one.
        seed: likewise, as a number.

    Returns:
        The history. Each record has the epoch, the mean training loss, the seconds so far, and with `validation` its
        error and loss, as `evaluate` gives them.

    Raises:
        TypeError, ValueError: for arguments or data that do not fit, and a loss that fails on the first batch, before
            anything is changed.
        DivergenceError: where the loss or a parameter is no longer finite.
        OSError: where `checkpoint` cannot be written; what was saved before is whole.
        torch.OutOfMemoryError: where memory runs out, with the batch size to lower.

    Example:
        >>> from dbn import evaluate
        >>> inputs = torch.eye(4).repeat(25, 1)
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> history = finetune(model, inputs, inputs.argmax(1), epochs=30, learning_rate=0.1, progress=False, seed=0)
        >>> evaluate(model, inputs, inputs.argmax(1)).error
        0.0
    """
    check_model(model)
    check_loss(loss)
    check_watching(callback, progress, description)
    epochs = whole_number(epochs, "epochs", at_least=0)
    rates = [as_schedule(learning_rate, "learning_rate")] * 2
    if head_learning_rate is not None:
        rates[1] = as_schedule(head_learning_rate, "head_learning_rate")
    limit = math.inf if patience is None else whole_number(patience, "patience")
    if patience is not None and validation is None:
        raise ValueError("patience is given without validation: give the rows whose error is to be watched")
    choice(on_divergence, ("raise", "halve"), "on_divergence")
    decay = finite_number(weight_decay, "weight_decay")
    bound = None if max_norm is None else finite_number(max_norm, "max_norm", positive=True)
    groups = _parameter_groups(model, decay, parted=head_learning_rate is not None)
    target = _device_of(model) if device is None else choose_device(device)
    generator = as_generator(generator, seed, target)
    draws = _with_dropout_apart(distributed.draws(generator, target))
    build = optimiser_factory(optimiser)
    whole_number(batch_size, "batch_size")
    model.to(target)
    scale = known_scale(model)
    source, task, usual, _ = open_labelled(model, x, y, name="x", loss=loss, batch_size=batch_size, scale=scale)
    check_learns(model, source)
    scale = scale_of_training(scale, source.subset(_ROWS_FOR_SCALE))
    held_back = (
        None
        if validation is None
        else open_labelled(model, *pair(validation), name="validation", loss=loss, scale=scale, task=task)
    )
    of_validation = None if held_back is None else held_back.source

    optimizer = build(groups, lr=rates[0](0.0))
    check_instance(optimizer, Optimizer, "optimiser", "what builds a torch optimiser, such as torch.optim.AdamW")
    best, tally = _Best(model), _Tally(target)
    parts: dict[str, Part] = {"model": Whole(model), "optimiser": _Optimiser(optimizer), "best": best, "tally": tally}

    def plan() -> Picture:
        return {
            "model": [str(model), str(like_of(model).dtype), target.type],
            "optimiser": {"kind": type(optimizer).__name__, **plain_of(optimizer.defaults)},
            "epochs": epochs,
            "learning_rate": plain(rates[0], epochs),
            "head_learning_rate": plain(rates[1], epochs),
            "on_divergence": on_divergence,
            "weight_decay": decay,
            "max_norm": bound,
            "patience": limit,
            "loss": name_of(loss),
            **described(source, of_validation, generator),
        }

    def weights() -> list[str]:
        return [fingerprint_of_parameters(state) for state in (model.state_dict(), best.weights) if state is not None]

    together = distributed.parallel(model, source.rows, source.batch_size)
    with (
        Keeper(checkpoint, "finetune", plan, checkpoint_seconds, weights) as keeper,
        best,
        own_dropout(model, draws.own),
        together as network,
    ):
        remember_scale(model, scale)
        remember_task(model, task)
        fault = partial(_fault, model, tally)
        randomness = randomness_of(draws, source, of_validation, globally=draws_globally(model))
        course = Course(parts, fault, randomness, source, keeper, description, on_divergence, randomness.state())
        if keeper.found is not None:
            course.take_up(keeper.found)
        recorded = partial(replayable, model, optimizer, usual, source)
        step = Steps(network, optimizer, rates, task, usual, bound, source, generator=draws.own, recorded=recorded)
        named = named_where_short(batch_size=batch_size)
        with course.bar(epochs, progress) as bar, named, closing(step):
            while course.epoch < epochs and best.waited < limit and not course.done:
                model.train()
                for inputs, labels, share in course.batches():
                    now = course.epoch + (course.place / source.steps if source.steps else 0.0)
                    value = step(inputs, labels, share, now, course.share)
                    tally.add(value, len(inputs) if share else 0)
                    if not course.stepped():
                        break
                    bar.update()
                    course.keep()
                record = {"epoch": course.epoch + 1.0, "loss": tally.mean(), "seconds": course.seconds}
                distributed.take_from_main(model.buffers())
                if held_back is not None and not course.fault():
                    with course.saved_on_error():
                        judged = judge(model, held_back)
                    record |= {"validation_error": judged.error, "validation_loss": judged.loss}
                record = distributed.numbers_of_main(record)
                if not course.fault() and course.recorded(record):
                    if held_back is not None:
                        best.see(record["validation_error"], record["validation_loss"])
                    names = [name for name in ("loss", "validation_error") if name in record]
                    bar.set_postfix({name: f"{record[name]:.4f}" for name in names})
                    if callback is not None:
                        callback(record)
                        step.look_again()
                if course.diverged():
                    bar.update(course.step - bar.n)
                    continue
                tally.clear()
                course.passed()
        if not course.done:
            course.finish()
    return course.history


class _Tally:
    """The sum of the loss over this process's rows of an epoch so far."""

    def __init__(self, device: torch.device) -> None:
        self.summed, self.rows = torch.zeros((), dtype=torch.float32, device=device), 0
        # Losses of the first batch of all, and of the last.
        self.first = self.last = torch.zeros((), dtype=torch.float32, device=device)
        self.begun = False

    def add(self, loss: Tensor, rows: int) -> None:
        self.first, self.last, self.begun = self.first if self.begun else loss, loss, True
        self.summed, self.rows = self.summed + loss * rows, self.rows + rows

    def mean(self) -> float:
        summed, rows = distributed.sums(float(self.summed), self.rows)
        return summed / rows

    def clear(self) -> None:
        self.summed, self.rows = torch.zeros_like(self.summed), 0

    def state(self) -> dict[str, Any]:
        rows = torch.full_like(self.summed, self.rows, dtype=torch.int64)
        sums = {"summed": Shard(self.summed[None]), "rows": Shard(rows[None])}
        return {**sums, "first": self.first, "last": self.last, "begun": self.begun}

    def put(self, state: dict[str, Any]) -> None:
        device = self.summed.device
        self.summed, self.rows = state["summed"].value.sum().to(device), int(state["rows"].value.sum())
        self.first, self.last, self.begun = state["first"].to(device), state["last"].to(device), state["begun"]


class _Optimiser:
    """An optimiser's moments and steps, as a part of a run."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def state(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def put(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


class _Best:
    """Keeps the weights of the lowest validation error, and puts them back when the work ends, however it ends.

    Of equal errors the lower loss decides what is kept, but not for how many epochs the error has not been lower.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.lowest, self.waited = model, (math.inf, math.inf), 0
        self.weights: dict[str, Any] | None = None

    def see(self, error: float, loss: float) -> None:
        self.waited = 0 if error < self.lowest[0] else self.waited + 1
        if (error, loss) < self.lowest:
            self.lowest = error, loss
            self.weights = copy.deepcopy(self.model.state_dict())

    def state(self) -> dict[str, Any]:
        weights = None if self.weights is None else dict(self.weights)
        return {"lowest": list(self.lowest), "waited": self.waited, "weights": weights}

    def put(self, state: dict[str, Any]) -> None:
        error, loss = state["lowest"]
        self.lowest, self.waited, self.weights = (error, loss), state["waited"], state["weights"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.weights is not None:
            self.model.load_state_dict(self.weights)
        self.model.eval()


def _fault(model: nn.Module, tally: _Tally) -> str:
    """In words, how the network has left all reason, or nothing; an error where processes have other networks."""
    distributed.check_alike(list(model.parameters()), "the model")
    if not finite(tally.summed, *model.parameters()):
        return "left the finite numbers"
    last, limit = float(tally.last), _RUNAWAY * (1 + abs(float(tally.first)))
    return "" if abs(last) <= limit else f"let the loss run away to {last:.3g}"


def _parameter_groups(model: nn.Module, weight_decay: float, parted: bool) -> list[dict[str, Any]]:
    """Weights and biases, those of the last layer apart where it has a rate of its own, with their place in the rates.

    As few groups as there are settings: each costs a call of the optimiser a step.
    """
    own = with_own_parameters(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("model has no parameters that require a gradient: there is nothing to train")
    head = {id(parameter) for parameter in own[-1].parameters()}
    groups: dict[tuple[int, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (int(id(parameter) in head) if parted else 0, weight_decay if parameter.dim() > 1 else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": found, "rate": key[0], "weight_decay": key[1]} for key, found in groups.items()]


def _device_of(model: nn.Module) -> torch.device:
    return like_of(model).device


def _with_dropout_apart(draws: Draws) -> Draws:
    """The same order of rows, with a generator for dropout alone, which draws other numbers on each process."""
    if draws.order is None:
        return draws
    seed = int(torch.randint(2**62, (), generator=draws.order, device=draws.order.device))
    return Draws(draws.order, Generator(draws.order.device).manual_seed(distributed.own_seed(seed)))
