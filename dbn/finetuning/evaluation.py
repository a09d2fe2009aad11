"""How a network does on labelled rows, and what it predicts."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import UninitializedParameter

from dbn.arguments import as_tensor, check_finite, check_instance
from dbn.batches import Source, open_source
from dbn.scaling import Scale, known_scale, scale_check

Loss = Callable[[Tensor, Tensor], Tensor]

ROWS_AT_ONCE = 2000


class Evaluation(NamedTuple):
    """How a network does on n rows.

    `error` and `accuracy` are fractions of rows, with error = 1 − accuracy. For real targets `error` is the mean
    squared error and `accuracy` is not a number. `loss` is the mean loss a row.
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
        y: labels or targets; None where `x` brings them along.
        loss: as for `finetune`.

    Raises:
        ValueError: where a row is unmistakably in other units than those of training, or labels do not fit.

    Rows of pixels in 0..255 are refused by networks that take 0..1, each row by its entries other than 0: if the
    network comes from a stack whose visible units are bounded, where their mean magnitude is above five times the
    largest of these units; if all rows of training lay in −1..1, where most of them are above 5. Other networks, such
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
    return judge(model, open_labelled(model, x, y, ROWS_AT_ONCE, "x", known_scale(model)), loss)


@torch.no_grad()
def predict(model: nn.Module, x: Any) -> Tensor:
    """The most probable class of each row, (n, …) -> (n,).

    Args:
        model: a classifier; its parameters and mode are left as they are.
        x: inputs, as for `evaluate`.

    Raises:
        ValueError: where a row is unmistakably in other units than those of training, as `evaluate` says.

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
    _outputs_of(model, next(source.in_order()).x, "x")
    with _evaluating(model):
        return torch.cat([torch.argmax(model(batch.x), 1) for batch in source.in_order()])


def open_labelled(model: nn.Module, x: Any, y: Any, batch_size: int, name: str, scale: Scale | None) -> Source:
    """The data as a source whose first rows pass through the model and whose labels fit its outputs."""
    like = like_of(model)
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
    check_labels(first.y if y is None else y, _outputs_of(model, first.x, name), name)
    return source


@torch.no_grad()
def _outputs_of(model: nn.Module, x: Tensor, name: str) -> Tensor:
    """What the model makes of the first row (1, k), or an error where rows of this shape do not fit it."""
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
    """Raise a ValueError where what the model makes of a row has no gradient to follow."""
    with _evaluating(model), torch.enable_grad():
        outputs: Tensor = model(next(source.in_order()).x[:1])
    if not outputs.requires_grad:
        raise ValueError("model computes its outputs without a gradient: give a network, such as what to_mlp returns")


def check_model(model: Any) -> None:
    """Raise an error where `model` is no network with numbers in it."""
    check_instance(model, nn.Module, "model", "a network, such as nn.Sequential(…)")
    for name, value in model.named_parameters():
        if isinstance(value, UninitializedParameter) or value.is_meta:
            raise ValueError(f"model has no numbers in {name} yet: pass some rows through it, or move it to a device")


def check_loss(loss: Any) -> None:
    """Raise a TypeError where `loss` is neither None nor a function."""
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
    labels = as_tensor(y, "labels")
    return labels if labels.is_floating_point() else labels.long()


def check_labels(y: Tensor, outputs: Tensor, name: str) -> None:
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
def judge(model: nn.Module, source: Source, loss: Loss | None) -> Evaluation:
    wrong, summed, rows, real = 0.0, 0.0, 0, False
    with _evaluating(model):
        for inputs, labels, _ in source.in_order():
            assert labels is not None
            outputs, real = model(inputs), labels.is_floating_point()
            summed += float(loss_of(outputs, labels, loss)) * len(inputs)
            if real:
                wrong += float((outputs - labels).square().mean()) * len(inputs)
            else:
                wrong += float((outputs.argmax(1) != labels).sum())
            rows += len(inputs)
    error = wrong / rows
    return Evaluation(error, math.nan if real else 1 - error, summed / rows, rows)


def loss_of(outputs: Tensor, labels: Tensor | None, loss: Loss | None) -> Tensor:
    assert labels is not None
    if loss is not None:
        value: Any = loss(outputs, labels)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError(f"loss gives {_described(value)}: let it give the mean over rows, a tensor of one number")
        return value.reshape(())
    if labels.is_floating_point():
        return functional.mse_loss(outputs, labels.to(outputs.dtype))
    return functional.cross_entropy(outputs, labels)


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def like_of(model: nn.Module) -> Tensor:
    nothing = torch.zeros((), dtype=torch.float32, device="cpu")
    return next((parameter for parameter in model.parameters() if parameter.is_floating_point()), nothing)


def _is_flat(model: nn.Module) -> bool:
    return isinstance(next(iter(with_own_parameters(model)), None), nn.Linear)


def with_own_parameters(model: nn.Module) -> list[nn.Module]:
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
