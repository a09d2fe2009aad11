"""How a network does on labelled rows, and what it predicts."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from dbn.data import Source, open_source
from dbn.finetuning.target import Classes, Loss, Target, known_target, target_of
from dbn.input_range import Scale, known_scale, scale_check
from dbn.runtime.checks import as_tensor, check_finite, check_instance

ROWS_AT_ONCE = 2000


class Evaluation(NamedTuple):
    """How a network does on n rows.

    `error` is what `finetune` watches on validation rows, and depends on what the network is for:

    | labels | loss | `error` |
    |---|---|---|
    | class numbers (n,) or (n, 1) | cross-entropy, or any function | fraction of rows in the wrong class |
    | probabilities of the classes (n, k) | cross-entropy | the same, of the most probable class |
    | 0 and 1 (n, k), or (n,) for one output | binary cross-entropy | fraction of labels that are wrong (Hamming loss) |
    | real targets (n, k), or (n,) for one output | none given | mean squared error, the same as `loss` |
    | anything else | any function | the same as `loss` |

    `accuracy` is 1 − error if the error is a fraction, otherwise NaN. `loss` is the mean loss a row.
    """

    error: float
    accuracy: float
    loss: float
    n: int


def evaluate(model: nn.Module, x: Any, y: Any = None, *, loss: Loss | None = None) -> Evaluation:
    """Error, accuracy and loss of a network on labelled rows.

    Args:
        model: any network; its parameters and mode are left as they are.
        x: inputs, as for `finetune`, in the units of those of training.
        y: labels or targets; None if `x` brings them along.
        loss: as for `finetune`. Without it, labels of 0 and 1, probabilities of classes, and whole numbers as targets
            are judged as those that the network was fine-tuned on; all others by their type, as `finetune` does.

    Raises:
        ValueError: if a row is unmistakably in other units than those of training, or labels do not fit.

    Rows of pixels in 0..255 are refused by networks that take 0..1, each row by its entries other than 0: if the
    network comes from a stack whose visible units are bounded, if their mean magnitude is above five times the
    largest of these units; if all rows of training lay in −1..1, if most of them are above 5. Other networks, such
    as those of standardised columns, take all rows, and `model(x)` always does. The range is an attribute of the
    module, which copies with it but is no part of its `state_dict`: a network built anew from saved weights takes all
    rows too.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2))
        >>> round(evaluate(model, torch.zeros(3, 2), torch.tensor([0, 1, 1])).accuracy, 2) in (0.33, 0.67)
        True
    """
    check_model(model)
    check_loss(loss)
    return judge(
        model, open_labelled(model, x, y, name="x", loss=loss, scale=known_scale(model), known=known_target(model))
    )


@torch.no_grad()
def predict(model: nn.Module, x: Any) -> Tensor:
    """What a network predicts for each row, (n, …) -> (n,) or (n, k), in the shape of the targets of `finetune`.

    That is the most probable class (n,); or 0 or 1 for each of several labels; or for other targets the outputs. A
    network that was not fine-tuned is taken for a classifier; like the range of its inputs, what it is for is an
    attribute that copies with it but is no part of its `state_dict`.

    Args:
        model: any network; its parameters and mode are left as they are.
        x: inputs, as for `evaluate`.

    Raises:
        ValueError: if a row is unmistakably in other units than those of training, as `evaluate` says, or if a
            network with one output was not fine-tuned, which may stand for a real number or for two classes.

    Example:
        >>> predict(nn.Sequential(nn.Identity()), torch.tensor([[0.1, 0.9], [0.8, 0.2]]))
        tensor([1, 0])
    """
    check_model(model)
    source = open_source(
        x,
        batch_size=ROWS_AT_ONCE,
        like=like_of(model),
        check=scale_check(known_scale(model)),
        name="x",
        flatten=_is_flat(model),
    )
    outputs, target = _outputs_of(model, next(source.sequential()).x, "x").shape[1], known_target(model)
    if target is None or target.outputs != outputs:
        target = _classes(outputs)
    with _evaluating(model):
        return torch.cat([target.predictions(model(batch.x)) for batch in source.sequential()])


def _classes(outputs: int) -> Classes:
    """What a network that was not fine-tuned is taken for, or a ValueError if one output may be anything."""
    if outputs == 1:
        raise ValueError(
            "model has 1 output, and does not know what for, as after `finetune`: use model(x) for real numbers, and "
            "model(x) > 0 for two classes"
        )
    return Classes(outputs)


class Labelled(NamedTuple):
    """Labelled rows, what their labels are for, and the loss that is taken."""

    source: Source
    target: Target
    loss: Loss
    name: str
    #: Whether some labels mark rows to be left out, or may.
    partly_labelled: bool


def open_labelled(
    model: nn.Module,
    x: Any,
    y: Any,
    *,
    name: str,
    loss: Loss | None,
    batch_size: int = ROWS_AT_ONCE,
    scale: Scale | None = None,
    target: Target | None = None,
    known: Target | None = None,
) -> Labelled:
    """The data as a source whose first rows pass through the model and the loss, and whose labels fit the target.

    Without `target` it is told from the labels, the loss and `known`, what the model was fine-tuned for.
    """
    y = None if y is None else _labels(y)
    source = open_source(
        x,
        y,
        batch_size=batch_size,
        like=like_of(model),
        check=scale_check(scale),
        name=name,
        flatten=_is_flat(model),
    )
    first = next(source.sequential())
    if first.y is None:
        raise ValueError(f"labels of {name} are missing: give y, or a Dataset or DataLoader of (input, label)")
    outputs, labels = _outputs_of(model, first.x, name), first.y if y is None else y
    if target is None:
        target = target_of(labels, outputs.shape[1], loss, name, known)
    target.check(labels, name)
    counted = target.counted(labels)
    if source.deterministic and not bool(counted.any()):
        raise ValueError(f"labels of {name} mark all rows to be left out: give some with a class")
    partly = not (source.deterministic and bool(counted.all()))
    data = Labelled(source, target, target.usual_loss() if loss is None else loss, name, partly)
    if loss is not None:
        _check_loss_on(model, first.x, first.y, data)
    return data


@torch.no_grad()
def _check_loss_on(model: nn.Module, x: Tensor, y: Tensor, data: Labelled) -> None:
    """Raise a ValueError if the loss cannot be taken of the first batch."""
    with _evaluating(model):
        outputs = model(x)
    try:
        targets = data.target.fitted(y, outputs)
        value = data.loss(outputs, targets)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a function of the user's may raise anything
        raise ValueError(
            f"loss cannot be taken of outputs {tuple(outputs.shape)} and labels of {data.name} of shape "
            f"{tuple(y.shape)} and type {y.dtype}: {type(error).__name__}: {error}"
        ) from error
    number = _one_number(value)
    if targets.dim() == 1 and outputs.shape[1] == 1 and _mixes_rows(data.loss, outputs[:8], targets[:8]):
        raise ValueError(
            f"loss takes each output {tuple(outputs.shape)} with every label of {data.name} {tuple(y.shape)}: give "
            "labels of shape (n, 1), or a loss that makes both one shape"
        )
    if not math.isfinite(number) and y.is_floating_point():
        check_finite(y.reshape(len(y), -1), f"labels of {data.name}")


def _mixes_rows(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether outputs (n, 1) and targets (n,) are broadcast to (n, n): only as (n, 1) is the loss a mean over rows."""
    places = [slice(place, place + 1) for place in range(len(outputs))]
    try:
        alone = torch.stack([loss(outputs[place], targets[place]).reshape(()) for place in places]).mean()
        together, column = (loss(outputs, given) for given in (targets, targets[:, None]))
    except Exception:  # a loss that takes whole batches only, or targets (n,) only
        return False
    return bool(torch.isclose(column, alone, rtol=1e-4) & ~torch.isclose(together, alone, rtol=1e-4))


@torch.no_grad()
def _outputs_of(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """What the model makes of the first row (1, k), or an error if rows of this shape do not fit it."""
    try:
        with _evaluating(model):
            outputs: Any = model(x[:1])
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{name} of shape {tuple(x.shape)} does not pass through the model: {error}") from error
    if not isinstance(outputs, Tensor):
        raise TypeError(f"model returns a {type(outputs).__name__}: give a network whose output is one tensor (n, k)")
    if outputs.dim() != 2 or len(outputs) != 1:
        raise ValueError(f"model makes {tuple(outputs.shape)} of one row of {name}: its output must be (n, k)")
    return outputs


def check_learns(model: nn.Module, source: Source) -> None:
    """Raise a ValueError if what the model makes of a row has no gradient to follow."""
    with _evaluating(model), torch.enable_grad():
        outputs: Tensor = model(next(source.sequential()).x[:1])
    if not outputs.requires_grad:
        raise ValueError("model computes its outputs without a gradient: give a network, such as what to_mlp returns")


def check_last_batch(model: nn.Module, source: Source) -> None:
    """Raise a ValueError if the last batch has one row, and batch normalisation cannot take it."""
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if not normalised or source.rows_in_last_batch != 1:
        return
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(next(source.sequential()).x[:1])
    except ValueError as error:
        raise ValueError(
            f"model has batch normalisation, and the last of the batches of {source.batch_size} has one row: choose "
            "another batch_size"
        ) from error


def check_model(model: Any) -> None:
    """Raise an error if `model` is no network with numbers in it."""
    check_instance(model, nn.Module, "model", "a network, such as nn.Sequential(…)")
    for name, value in model.named_parameters():
        if isinstance(value, UninitializedParameter) or value.is_meta:
            raise ValueError(f"model has no numbers in {name} yet: pass some rows through it, or move it to a device")


def check_loss(loss: Any) -> None:
    """Raise a TypeError if `loss` is neither None nor a function."""
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is {loss!r}: give a function of outputs and labels")


def pair(validation: Any) -> tuple[Any, Any]:
    if not isinstance(validation, tuple | list):
        return validation, None
    if len(validation) != 2:
        raise ValueError(f"validation has {len(validation)} parts: give a pair of inputs and labels")
    return validation[0], validation[1]


def _labels(y: Any) -> Tensor:
    if isinstance(y, list | tuple):
        try:
            y = torch.as_tensor(y)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"labels are a {type(y).__name__} that is no table of numbers ({error}): give one label a row"
            ) from error
    labels = as_tensor(y, "labels").detach()
    return labels if labels.is_floating_point() else labels.long()


@torch.no_grad()
def judge(model: nn.Module, data: Labelled) -> Evaluation:
    """How a network does on labelled rows."""
    wrong, judged, summed, weight, rows = 0.0, 0, 0.0, 0.0, 0
    with _evaluating(model):
        for inputs, labels, _ in data.source.sequential():
            assert labels is not None
            if not data.source.deterministic:
                data.target.check(labels, data.name)
            outputs = model(inputs)
            targets = data.target.fitted(labels, outputs)
            value = float(loss_of(outputs, targets, data.loss))
            errors, count = data.target.errors(outputs, targets, value)
            wrong, judged, rows = wrong + errors, judged + count, rows + len(inputs)
            if of_batch := data.target.loss_weight(labels, data.loss):  # without any, the loss is not a number
                summed, weight = summed + value * of_batch, weight + of_batch
    if not judged:
        raise ValueError(f"labels of {data.name} mark all rows to be left out: give some with a class")
    error = wrong / judged
    return Evaluation(
        error, 1 - error if data.target.counts else math.nan, summed / weight if weight else math.nan, rows
    )


def loss_of(outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """The loss of a batch, or a TypeError if it is not one number."""
    return _one_number(loss(outputs, targets))


def _one_number(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TypeError(f"loss gives {_described(value)}: let it give the mean over rows, a tensor of one number")
    return value.reshape(())


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def like_of(model: nn.Module) -> Tensor:
    nothing = torch.zeros((), dtype=torch.float32, device="cpu")
    return next((parameter for parameter in model.parameters() if parameter.is_floating_point()), nothing)


def _is_flat(model: nn.Module) -> bool:
    return isinstance(next(iter(with_own_parameters(model)), None), nn.Linear)


def with_own_parameters(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]


def last_layer(model: nn.Module) -> nn.Module:
    """The last layer with parameters: of a Sequential the last that is called, else the last that was registered."""
    if isinstance(model, nn.Sequential):
        called_last = next((part for part in reversed(list(model)) if with_own_parameters(part)), None)
        if called_last is not None:
            return last_layer(called_last)
    return with_own_parameters(model)[-1]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
