"""Supervised training of any network, and its evaluation."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from tqdm import tqdm

from dbn.arguments import as_generator, as_tensor, check_finite, choose_device, finite_number, whole_number
from dbn.batches import Source, open_source
from dbn.history import History, Record
from dbn.scaling import Scale, known_scale, remember_scale, scale_check, scale_of, widened
from dbn.schedules import Schedule, as_schedule

Loss = Callable[[Tensor, Tensor], Tensor]

_ROWS_FOR_SCALE = 10_000
_ROWS_AT_ONCE = 2000


class Evaluation(NamedTuple):
    """How a network does on n rows.

    `error` and `accuracy` are fractions of rows, with error = 1 − accuracy. For real targets `error` is the mean
    squared error and `accuracy` is not a number. `loss` is the mean loss a row.
    """

    error: float
    accuracy: float
    loss: float
    n: int


def finetune(
    model: nn.Module,
    x: Any,
    y: Any = None,
    *,
    epochs: int,
    batch_size: int = 100,
    learning_rate: float | Schedule = 1e-3,
    head_learning_rate: float | Schedule | None = None,
    optimiser: str | Callable[..., Optimizer] = "adam",
    weight_decay: float = 0.0,
    validation: Any = None,
    patience: int | None = None,
    loss: Loss | None = None,
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
            begin with a linear layer are flattened.
        y: class numbers (n,), or real targets (n, k); None where `x` brings them along.
        epochs: passes over the data.
        batch_size: rows an update.
        learning_rate: a number, or a schedule of the epoch.
        head_learning_rate: the same for the last layer alone; by default as the rest.
        optimiser: "adam", "sgd" (momentum 0.9), or what builds a torch optimiser from parameter groups and `lr=`,
            such as `torch.optim.AdamW`.
        weight_decay: as that optimiser means it, on weights and not on biases.
        validation: (inputs, labels), or a Dataset or DataLoader of them, held back; the weights of the epoch with the
            lowest error on them are kept.
        patience: stop after so many epochs without a lower error on `validation`.
        loss: of outputs and labels, a mean over rows; by default cross-entropy for class numbers and squared error for
            real targets.
        device: where to move the model first: "auto" for the first of cuda, mps and cpu that is there; by default it
            stays where it is.
        callback: called with the record of every epoch.
        progress: show a bar.
        description: what the bar calls this run.
        generator: draws the order of the rows and dropout; it must be on the device of the model.
        seed: likewise, as a number.

    Returns:
        The history. Each record has the epoch, the mean training loss, the seconds so far, and with `validation` its
        error and loss.

    Raises:
        TypeError, ValueError: for arguments or data that do not fit, before anything is changed.
        DivergenceError: where the loss is no longer finite.

    Example:
        >>> inputs = torch.eye(4).repeat(25, 1)
        >>> model = nn.Sequential(nn.Linear(4, 4))
        >>> history = finetune(model, inputs, inputs.argmax(1), epochs=30, learning_rate=0.1, progress=False, seed=0)
        >>> evaluate(model, inputs, inputs.argmax(1)).error
        0.0
    """
    epochs = whole_number(epochs, "epochs", at_least=0)
    rates = [as_schedule(learning_rate, "learning_rate")] * 2
    if head_learning_rate is not None:
        rates[1] = as_schedule(head_learning_rate, "head_learning_rate")
    limit = math.inf if patience is None else whole_number(patience, "patience")
    if patience is not None and validation is None:
        raise ValueError("patience is given without validation: give the rows whose error is to be watched")
    decay = finite_number(weight_decay, "weight_decay")
    groups = _parameter_groups(model, decay, parted=head_learning_rate is not None)
    target = _device_of(model) if device is None else choose_device(device)
    generator = as_generator(generator, seed, target)
    build = _optimiser_factory(optimiser)
    whole_number(batch_size, "batch_size")
    model.to(target)
    source = _open(model, x, y, batch_size, "x", known_scale(model))
    scale = widened(known_scale(model), scale_of(source.subset(_ROWS_FOR_SCALE)))
    held_back = None if validation is None else _open(model, *_pair(validation), _ROWS_AT_ONCE, "validation", scale)

    remember_scale(model, scale)
    optimizer = build(groups, lr=rates[0](0.0))
    best, history, started = _Best(model), History(), time.perf_counter()
    total = None if source.steps is None else epochs * source.steps
    bar = tqdm(total=total, desc=description, unit="step", disable=not progress, dynamic_ncols=True)
    with bar, best, _own_randomness(generator):
        for epoch in range(epochs):
            model.train()
            summed, rows = torch.zeros((), device=target), 0
            for place, (inputs, labels) in enumerate(source.batches(generator)):
                _set_rates(optimizer, rates, epoch + (place / source.steps if source.steps else 0.0))
                outputs = model(inputs)
                if not source.fixed and labels is not None:
                    _check_labels(labels, outputs, "x")
                value = _loss_of(outputs, labels, loss)
                optimizer.zero_grad()
                torch.autograd.backward(value)
                optimizer.step()
                summed, rows = summed + value.detach() * len(inputs), rows + len(inputs)
                bar.update()
            record = {"epoch": epoch + 1.0, "loss": float(summed) / rows, "seconds": time.perf_counter() - started}
            if held_back is not None:
                judged = _judge(model, held_back, loss)
                record |= {"validation_error": judged.error, "validation_loss": judged.loss}
                best.see(judged)
            history.append(record, description)
            bar.set_postfix({name: f"{record[name]:.4f}" for name in ("loss", "validation_error") if name in record})
            if callback is not None:
                callback(record)
            if best.waited >= limit:
                break
    return history


class _Best:
    """Keeps the weights of the lowest validation error, and puts them back when the work ends, however it ends."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.lowest, self.waited = model, (math.inf, math.inf), 0
        self.state: dict[str, Any] | None = None

    def see(self, judged: Evaluation) -> None:
        self.waited += 1
        if (judged.error, judged.loss) < self.lowest:
            self.lowest, self.waited = (judged.error, judged.loss), 0
            self.state = copy.deepcopy(self.model.state_dict())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.state is not None:
            self.model.load_state_dict(self.state)
        self.model.eval()


def evaluate(model: nn.Module, x: Any, y: Any = None, *, loss: Loss | None = None) -> Evaluation:
    """Error, accuracy and loss of a network on labelled rows.

    Args:
        model: any network; its parameters and mode are left as they are.
        x: inputs, as for `finetune`, scaled as those of training.
        y: labels or targets; None where `x` brings them along.
        loss: as for `finetune`.

    Raises:
        ValueError: where the inputs are scaled unlike those of training, or labels do not fit.

    The scale of training is an attribute of the module, which copies with it but is no part of its `state_dict`: a
    network built anew from saved weights takes inputs of any scale.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> round(evaluate(model, torch.zeros(3, 2), torch.tensor([0, 1, 1])).accuracy, 2) in (0.33, 0.67)
        True
    """
    return _judge(model, _open(model, x, y, _ROWS_AT_ONCE, "x", known_scale(model)), loss)


@torch.no_grad()
def predict(model: nn.Module, x: Any) -> Tensor:
    """The most probable class of each row, (n, …) -> (n,).

    Args:
        model: a classifier; its parameters and mode are left as they are.
        x: inputs as a tensor or an array, scaled as those of training.

    Raises:
        ValueError: where the inputs are scaled unlike those of training.

    Example:
        >>> predict(nn.Sequential(nn.Identity()), torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
        tensor([1, 0])
    """
    source = open_source(
        x,
        batch_size=_ROWS_AT_ONCE,
        like=_like(model),
        check=scale_check(known_scale(model)),
        name="x",
        flatten=_is_flat(model),
    )
    _outputs_of(model, next(source.in_order()).x, "x")
    with _evaluating(model):
        return torch.cat([torch.argmax(model(batch.x), 1) for batch in source.in_order()])


def _open(model: nn.Module, x: Any, y: Any, batch_size: int, name: str, scale: Scale | None) -> Source:
    """The data as a source whose first rows pass through the model and whose labels fit its outputs."""
    like = _like(model)
    y = None if y is None else _labels(y)
    source = open_source(
        x,
        y,
        batch_size=batch_size,
        like=like,
        check=scale_check(scale),
        name=name,
        flatten=_is_flat(model),
    )
    first = next(source.in_order())
    if first.y is None:
        raise ValueError(f"labels of {name} are missing: give y, or a Dataset or DataLoader of (input, label)")
    _check_labels(first.y if y is None else y, _outputs_of(model, first.x, name), name)
    return source


@torch.no_grad()
def _outputs_of(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """What the model makes of the first row, or a ValueError where rows of this shape do not fit it."""
    try:
        with _evaluating(model):
            outputs: Tensor = model(x[:1])
    except RuntimeError as error:
        raise ValueError(f"{name} of shape {tuple(x.shape)} does not pass through the model: {error}") from error
    return outputs


def _pair(validation: Any) -> tuple[Any, Any]:
    if not isinstance(validation, tuple | list):
        return validation, None
    if len(validation) != 2:
        raise ValueError(f"validation has {len(validation)} parts: give a pair of inputs and labels")
    return validation[0], validation[1]


def _labels(y: Any) -> Tensor:
    labels = as_tensor(torch.as_tensor(y) if isinstance(y, list | tuple) else y, "labels")
    return labels if labels.is_floating_point() else labels.long()


def _check_labels(y: Tensor, outputs: Tensor, name: str) -> None:
    if y.is_floating_point():
        check_finite(y[:, None], f"labels of {name}")
        if y.shape[1:] != outputs.shape[1:]:
            raise ValueError(
                f"labels of {name} are real numbers of shape {tuple(y.shape)} for {outputs.shape[1]} outputs: give "
                f"class numbers as integers, or targets of shape (n, {outputs.shape[1]})"
            )
        return
    if y.dim() != 1:
        raise ValueError(f"labels of {name} have shape {tuple(y.shape)}: give one class number a row, of shape (n,)")
    low, high = (int(bound) for bound in torch.aminmax(y))
    if low < 0 or high >= outputs.shape[1]:
        raise ValueError(
            f"labels of {name} lie in {low}..{high}, but the model has {outputs.shape[1]} outputs: class numbers are "
            f"0..{outputs.shape[1] - 1}" + (", and −1 marks unlabelled rows to be left out" if low == -1 else "")
        )


@torch.no_grad()
def _judge(model: nn.Module, source: Source, loss: Loss | None) -> Evaluation:
    wrong, summed, rows, real = 0.0, 0.0, 0, False
    with _evaluating(model):
        for inputs, labels in source.in_order():
            assert labels is not None
            outputs, real = model(inputs), labels.is_floating_point()
            summed += float(_loss_of(outputs, labels, loss)) * len(inputs)
            if real:
                wrong += float((outputs - labels).square().mean()) * len(inputs)
            else:
                wrong += float((outputs.argmax(1) != labels).sum())
            rows += len(inputs)
    error = wrong / rows
    return Evaluation(error, math.nan if real else 1 - error, summed / rows, rows)


def _loss_of(outputs: Tensor, labels: Tensor | None, loss: Loss | None) -> Tensor:
    assert labels is not None
    if loss is not None:
        return loss(outputs, labels)
    if labels.is_floating_point():
        return functional.mse_loss(outputs, labels.to(outputs.dtype))
    return functional.cross_entropy(outputs, labels)


def _parameter_groups(model: nn.Module, weight_decay: float, parted: bool) -> list[dict[str, Any]]:
    """Weights and biases, those of the last layer apart where it has a rate of its own, with their place in the rates.

    As few groups as there are settings: each costs a call of the optimiser a step.
    """
    own = _with_own_parameters(model)
    if not own:
        raise ValueError("model has no parameters: there is nothing to train")
    head = {id(parameter) for parameter in own[-1].parameters()}
    groups: dict[tuple[int, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (int(id(parameter) in head) if parted else 0, weight_decay if parameter.dim() > 1 else 0.0)
            groups.setdefault(key, []).append(parameter)
    return [{"params": found, "rate": key[0], "weight_decay": key[1]} for key, found in groups.items()]


def _optimiser_factory(optimiser: str | Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    if callable(optimiser):
        return optimiser
    if optimiser == "adam":
        return lambda groups, lr: torch.optim.Adam(groups, lr=lr, fused=True)
    if optimiser == "sgd":
        return lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)
    raise ValueError(f'optimiser is {optimiser!r}: choose "adam", "sgd" or a torch optimiser class')


def _set_rates(optimizer: Optimizer, rates: list[Schedule], epoch: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rates[group["rate"]](epoch)


def _device_of(model: nn.Module) -> torch.device:
    return _like(model).device


def _like(model: nn.Module) -> Tensor:
    return next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.zeros(()))


def _is_flat(model: nn.Module) -> bool:
    return isinstance(next(iter(_with_own_parameters(model)), None), nn.Linear)


def _with_own_parameters(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _own_randomness(generator: Generator | None) -> AbstractContextManager[None]:
    """Dropout draws from torch's global generator: lend it a seed of ours, and give it back as it was."""
    if generator is None:
        return nullcontext()
    return _lent_seed(generator)


@contextmanager
def _lent_seed(generator: Generator) -> Iterator[None]:
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    devices = [generator.device] if generator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
