"""What a network is fine-tuned for: which labels fit it, which error is watched, and how its outputs are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dbn.runtime.checks import check_finite

Loss = Callable[[Tensor, Tensor], Tensor]

_ATTRIBUTE = "dbn_target"
_OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_OF_CLASSES_AS_FUNCTIONS = (functional.cross_entropy, functional.nll_loss, functional.multi_margin_loss)
#: Whose mean is over the weights of the rows' classes.
_DIVIDE_BY_WEIGHT = (nn.CrossEntropyLoss, nn.NLLLoss)
_DIVIDE_BY_WEIGHT_AS_FUNCTIONS = (functional.cross_entropy, functional.nll_loss)
_OF_LOGITS = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)
_OF_LOGITS_AS_FUNCTIONS = (functional.binary_cross_entropy_with_logits, functional.multilabel_soft_margin_loss)


@dataclass(frozen=True)
class Target(ABC):
    """What the outputs (n, k) of a network stand for.

    Args:
        outputs: their number k.
        flat: whether there is one target a row, given as (n,).
        own_loss: whether labels are for a function of the user's, which takes them in the shape in which they come.
    """

    outputs: int
    flat: bool = False
    own_loss: bool = False

    #: Whether the error is a fraction of what is wrong, and so 1 minus the accuracy.
    counts = True

    @abstractmethod
    def check(self, labels: Tensor, name: str) -> None:
        """Raise a ValueError if labels of `name` do not fit."""

    @abstractmethod
    def fitted(self, labels: Tensor, outputs: Tensor) -> Tensor:
        """The labels in the shape and number type that the loss takes."""

    @abstractmethod
    def errors(self, outputs: Tensor, labels: Tensor, loss: float) -> tuple[float, int]:
        """The sum of errors over a batch, and of how many; `loss` is the mean loss of its rows."""

    def counted(self, labels: Tensor) -> Tensor:
        """Which rows count (n,); the others are left out of loss and error."""
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)

    def loss_weight(self, labels: Tensor, loss: Loss) -> float:
        """What a loss divides the sum over a batch by, which makes its means of several batches one mean."""
        return float(self.counted(labels).sum())

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """What is predicted, in the shape of the targets."""

    @abstractmethod
    def usual_loss(self) -> Loss:
        """The loss if none is given."""

    def recognises(self, labels: Tensor) -> bool:
        """Whether labels are certainly of this kind, so that a network trained for it is judged without its loss."""
        return False

    def _as_outputs(self, labels: Tensor, outputs: Tensor) -> Tensor:
        if self.own_loss:
            return labels.to(outputs.dtype) if labels.is_floating_point() else labels
        return labels.to(outputs.dtype).reshape(outputs.shape)

    def _has_shape(self, labels: Tensor) -> bool:
        """Whether there is a label for each output."""
        return labels.shape[1:] == (self.outputs,) or (self.outputs == 1 and labels.dim() == 1)

    def _check_shape(self, labels: Tensor, name: str) -> None:
        if not self._has_shape(labels):
            kind = "real numbers" if labels.is_floating_point() else "whole numbers"
            raise ValueError(
                f"labels of {name} are {kind} of shape {tuple(labels.shape)} for {self.outputs} outputs: give targets "
                f"of shape (n, {self.outputs}), or class numbers as integers with the cross-entropy"
            )

    def _shaped(self, predictions: Tensor) -> Tensor:
        return predictions.flatten() if self.flat else predictions


@dataclass(frozen=True)
class Classes(Target):
    """One class a row: class numbers (n,) or (n, 1), or with `probabilities` those of the classes, (n, k).

    The error is the fraction of rows whose largest output is not that of their class, or of their most probable class.
    Rows labelled `ignored`, or for a loss of the user's below 0, are left out of it.
    """

    probabilities: bool = False
    ignored: int | None = None

    def check(self, labels: Tensor, name: str) -> None:
        if self.own_loss:
            return
        if labels.is_floating_point():
            self._check_probabilities(labels, name)
            return
        if self.outputs == 1:
            raise ValueError(
                f"labels of {name} are whole numbers, but the model has 1 output: give floats for real targets, "
                "loss=nn.BCEWithLogitsLoss() for two classes, or a model with an output for each class"
            )
        if not _one_a_row(labels):
            raise ValueError(
                f"labels of {name} have shape {tuple(labels.shape)}: give one class number a row, of shape (n,), "
                "floats for real targets, or loss=nn.BCEWithLogitsLoss() for several labels a row"
            )
        judged = labels[self.counted(labels)]
        low, high = (int(bound) for bound in torch.aminmax(judged)) if len(judged) else (0, 0)
        if low < 0 or high >= self.outputs:
            raise ValueError(
                f"labels of {name} lie in {low}..{high}, but the model has {self.outputs} outputs: class numbers are "
                f"0..{self.outputs - 1}" + (", and −1 marks unlabelled rows to be left out" if low == -1 else "")
            )

    def _check_probabilities(self, labels: Tensor, name: str) -> None:
        check_finite(labels.reshape(len(labels), -1), f"labels of {name}")
        self._check_shape(labels, name)
        if not self.probabilities:
            raise ValueError(f"labels of {name} are real numbers where there were class numbers before: give integers")

    def fitted(self, labels: Tensor, outputs: Tensor) -> Tensor:
        if labels.is_floating_point():
            return labels.to(outputs.dtype)
        return labels if self.own_loss else labels.flatten()

    def errors(self, outputs: Tensor, labels: Tensor, loss: float) -> tuple[float, int]:
        classes = labels.argmax(1) if labels.is_floating_point() else labels.flatten()
        counted = self.counted(labels)
        return float(((outputs.argmax(1) != classes) & counted).sum()), int(counted.sum())

    def counted(self, labels: Tensor) -> Tensor:
        if labels.is_floating_point():
            return super().counted(labels)
        classes = labels.flatten()
        counted = classes >= 0 if self.own_loss else torch.ones_like(classes, dtype=torch.bool)
        return counted if self.ignored is None else counted & (classes != self.ignored)

    def loss_weight(self, labels: Tensor, loss: Loss) -> float:
        function, options = unwrapped(loss)
        weight = getattr(function, "weight", options.get("weight"))
        by_weight = _is(function, _DIVIDE_BY_WEIGHT, _DIVIDE_BY_WEIGHT_AS_FUNCTIONS)
        if not by_weight or weight is None or labels.is_floating_point():
            return super().loss_weight(labels, loss)
        return float(weight[labels.flatten()[self.counted(labels)]].sum())

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def usual_loss(self) -> Loss:
        return functional.cross_entropy

    def recognises(self, labels: Tensor) -> bool:
        return self.probabilities and labels.is_floating_point() and self._has_shape(labels)


@dataclass(frozen=True)
class MultiLabel(Target):
    """Any of k labels a row: targets of 0 and 1, (n, k), or (n,) for one output.

    The error is the fraction of labels that are wrong (the Hamming loss); an output above `threshold` predicts a 1.
    """

    threshold: float = 0.0

    def check(self, labels: Tensor, name: str) -> None:
        self._check_shape(labels, name)
        check_zero_to_one(labels, name)

    def fitted(self, labels: Tensor, outputs: Tensor) -> Tensor:
        return self._as_outputs(labels, outputs)

    def errors(self, outputs: Tensor, labels: Tensor, loss: float) -> tuple[float, int]:
        wrong = (outputs > self.threshold) != (labels > 0.5)
        return float(wrong.sum()), wrong.numel()

    def predictions(self, outputs: Tensor) -> Tensor:
        return self._shaped((outputs > self.threshold).long())

    def usual_loss(self) -> Loss:
        return functional.binary_cross_entropy if self.threshold else functional.binary_cross_entropy_with_logits

    def recognises(self, labels: Tensor) -> bool:
        return self._has_shape(labels) and _is_exact(labels)


@dataclass(frozen=True)
class RealTargets(Target):
    """Real targets (n, k), or (n,) for one output, or whatever a loss of the user's takes.

    The error is the loss: the squared error if none is given.
    """

    counts = False

    def check(self, labels: Tensor, name: str) -> None:
        if self.own_loss:
            return
        check_finite(labels.reshape(len(labels), -1), f"labels of {name}")
        self._check_shape(labels, name)

    def fitted(self, labels: Tensor, outputs: Tensor) -> Tensor:
        return self._as_outputs(labels, outputs)

    def errors(self, outputs: Tensor, labels: Tensor, loss: float) -> tuple[float, int]:
        return loss * len(outputs), len(outputs)

    def predictions(self, outputs: Tensor) -> Tensor:
        return self._shaped(outputs)

    def usual_loss(self) -> Loss:
        return functional.mse_loss

    def recognises(self, labels: Tensor) -> bool:
        return not self.own_loss and self._has_shape(labels)


def target_of(labels: Tensor, outputs: int, loss: Loss | None, name: str, known: Target | None = None) -> Target:
    """The target that labels and a loss stand for, for a network with `outputs` outputs.

    `known` is what it was fine-tuned for, which decides if there is no loss and the labels are recognised.
    """
    flat = labels.dim() == 1 and outputs == 1
    if loss is None and known is not None and known.outputs == outputs and known.recognises(labels):
        return known
    if loss is None:
        return RealTargets(outputs, flat) if labels.is_floating_point() else Classes(outputs)
    function, options = unwrapped(loss)
    if _is(function, _OF_CLASSES, _OF_CLASSES_AS_FUNCTIONS):
        ignored = getattr(function, "ignore_index", options.get("ignore_index"))
        return Classes(outputs, probabilities=labels.is_floating_point(), ignored=ignored)
    threshold, torchs = _threshold(function), is_torchs(function)
    if threshold is not None:
        check_zero_to_one(labels, name)
        return MultiLabel(outputs, flat, threshold=threshold) if _is_exact(labels) else RealTargets(outputs, flat)
    if _is_class_numbers(labels, outputs) and not torchs:
        return Classes(outputs, own_loss=True)
    return RealTargets(outputs, flat, own_loss=not torchs)


def check_zero_to_one(labels: Tensor, name: str) -> None:
    """Raise a ValueError if labels are no zeros, ones, or numbers between."""
    check_finite(labels.reshape(len(labels), -1), f"labels of {name}")
    low, high = (float(bound) for bound in torch.aminmax(labels.detach()))
    if low < 0 or high > 1:
        raise ValueError(f"labels of {name} lie in {low:g}..{high:g}: give 0 or 1 for each label to this loss")


def remember_target(model: nn.Module, target: Target) -> None:
    """Let the model know what its outputs stand for; a copy of it does too."""
    setattr(model, _ATTRIBUTE, target)


def known_target(model: nn.Module) -> Target | None:
    """What the outputs of the model stand for, if it was fine-tuned."""
    return cast(Target | None, getattr(model, _ATTRIBUTE, None))


def unwrapped(loss: Any) -> tuple[Any, dict[str, Any]]:
    """The function in `functools.partial`, and what it is given beside outputs and labels."""
    options: dict[str, Any] = {}
    while isinstance(loss, partial):
        loss, options = loss.func, {**loss.keywords, **options}
    return loss, options


def _is(loss: Any, kinds: tuple[type, ...], functions: tuple[Loss, ...]) -> bool:
    return isinstance(loss, kinds) or any(loss is function for function in functions)


def _threshold(loss: Any) -> float | None:
    """The output above which a label is predicted, for losses of several labels a row."""
    if _is(loss, _OF_LOGITS, _OF_LOGITS_AS_FUNCTIONS):
        return 0.0
    return 0.5 if _is(loss, (nn.BCELoss,), (functional.binary_cross_entropy,)) else None


def is_torchs(loss: Any) -> bool:
    """Whether a loss is one of torch's that takes targets in the shape of the outputs."""
    indices = _is(loss, (nn.MultiLabelMarginLoss,), (functional.multilabel_margin_loss,))  # targets are class numbers
    return str(getattr(loss, "__module__", "")).startswith("torch.nn") and not indices


def _one_a_row(labels: Tensor) -> bool:
    return labels.dim() == 1 or labels.shape[1:] == (1,)


def _is_class_numbers(labels: Tensor, outputs: int) -> bool:
    """Whether labels for a loss of the user's are class numbers, of which those below 0 mark unlabelled rows."""
    if labels.is_floating_point() or not _one_a_row(labels) or outputs == 1:
        return False
    return -1 <= int(labels.max()) < outputs


def _is_exact(labels: Tensor) -> bool:
    """Whether labels are zeros and ones alone."""
    return bool(((labels == 0) | (labels == 1)).all())
