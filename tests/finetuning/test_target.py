"""One meaning of the error: what is kept, waited for, recorded, evaluated and predicted is what the network is for."""

import copy
import functools
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from dbn import DBN, evaluate, finetune, initialise, predict
from tests.support.oracles import generator

QUIET = {"progress": False, "seed": 0}
X = torch.randn(240, 12, generator=generator(0))
FIELDS = X @ torch.randn(12, 4, generator=generator(1)) + 2
SEVERAL = (FIELDS > 0).float()
CLASSES = FIELDS.argmax(1)
REALS = FIELDS + 0.1 * torch.randn(240, 4, generator=generator(2))
ONE_HOT = functional.one_hot(CLASSES, 4).float()


def network(outputs=4, last=None):
    parts = [nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, outputs)]
    return initialise(nn.Sequential(*parts, *([] if last is None else [last])), "he_normal", seed=0)


def wrong_classes(outputs, y):
    return (outputs.argmax(1) != y.flatten()).double().mean()


def wrong_classes_of_probabilities(outputs, y):
    return wrong_classes(outputs, y.argmax(1))


def wrong_labels(outputs, y, threshold=0.0):
    return ((outputs > threshold).double() != y.reshape(outputs.shape)).double().mean()


def absolute(outputs, y):
    return (outputs - y).abs().mean()


def of_mean(outputs, y):
    """Targets of another shape than the outputs: one a row for four of them."""
    return (outputs.mean(1) - y).square().mean()


def focal(outputs, y):
    chosen = functional.log_softmax(outputs, 1).gather(1, y.reshape(-1, 1))
    return -((1 - chosen.exp()) ** 2 * chosen).mean()


#: Outputs, targets, loss, and the error that is meant, of outputs and targets; None for the loss itself.
TASKS = {
    "classes": (4, CLASSES, None, wrong_classes),
    "classes in a column": (4, CLASSES[:, None], None, wrong_classes),
    "classes, smoothed": (4, CLASSES[:, None], nn.CrossEntropyLoss(label_smoothing=0.1), wrong_classes),
    "classes, partial": (4, CLASSES, functools.partial(functional.cross_entropy, label_smoothing=0.1), wrong_classes),
    "classes, margin": (4, CLASSES, nn.MultiMarginLoss(), wrong_classes),
    "classes, own loss": (4, CLASSES, focal, wrong_classes),
    "probabilities": (4, 0.9 * ONE_HOT + 0.025, nn.CrossEntropyLoss(), wrong_classes_of_probabilities),
    "labels": (4, SEVERAL, nn.BCEWithLogitsLoss(), wrong_labels),
    "labels as integers": (4, SEVERAL.long(), nn.BCEWithLogitsLoss(), wrong_labels),
    "labels as flags": (4, SEVERAL.bool(), functional.binary_cross_entropy_with_logits, wrong_labels),
    "labels, weighted": (4, SEVERAL, nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2, 3, 4])), wrong_labels),
    "labels, margin": (4, SEVERAL, nn.MultiLabelSoftMarginLoss(), wrong_labels),
    "labels of probabilities": (4, SEVERAL, nn.BCELoss(), functools.partial(wrong_labels, threshold=0.5)),
    "one label": (1, SEVERAL[:, 0], nn.BCEWithLogitsLoss(), wrong_labels),
    "one label in a column": (1, SEVERAL[:, :1].long(), nn.BCEWithLogitsLoss(), wrong_labels),
    "smoothed labels": (4, 0.8 * SEVERAL + 0.1, nn.BCEWithLogitsLoss(), None),
    "labels, own loss": (4, SEVERAL, lambda o, y: functional.binary_cross_entropy_with_logits(o, y), None),
    "reals": (4, REALS, None, None),
    "reals, squared": (4, REALS, nn.MSELoss(), None),
    "reals, absolute": (4, REALS, nn.L1Loss(), None),
    "reals, own loss": (4, REALS, absolute, None),
    "one real": (1, REALS[:, 0], None, None),
    "one real in a column": (1, REALS[:, :1], None, None),
    "one real, own loss": (1, REALS[:, 0], lambda o, y: absolute(o.flatten(), y), None),
    "one real in a column, own loss": (1, REALS[:, :1], absolute, None),
    "one real, loss of pairs": (1, REALS[:, 0], lambda o, y: (o.flatten().diff() - y.diff()).square().mean(), None),
    "one real, Huber": (1, REALS[:, 0], nn.HuberLoss(), None),
    "counts": (1, FIELDS[:, 0].clamp(min=0).long(), nn.PoissonNLLLoss(), None),
    "other shape": (4, REALS[:, 0], of_mean, None),
    "several integers": (4, SEVERAL[:, :2].long(), lambda o, y: (o[:, :2] - y).square().mean(), None),
}
LAST = {"labels of probabilities": nn.Sigmoid}


def given(case):
    outputs, y, loss, error = TASKS[case]
    return network(outputs, LAST.get(case, lambda: None)()), y, loss, error


def as_the_loss_takes(y, outputs, loss):
    """Labels for torch's losses, by hand."""
    own = loss is not None and not str(getattr(loss, "__module__", "")).startswith(("torch", "functools"))
    if own:
        return y
    if isinstance(loss, nn.CrossEntropyLoss | nn.MultiMarginLoss) or loss is None or type(loss) is functools.partial:
        return y if y.is_floating_point() and y.dim() > 1 else y.reshape(outputs.shape) if outputs.shape[1] == 1 else (
            y.flatten())  # fmt: skip
    return y.reshape(outputs.shape).to(outputs.dtype)


@pytest.mark.parametrize("case", TASKS)
def test_the_epoch_that_is_kept_is_the_best_of_what_evaluate_says(case):
    model, y, loss, error = given(case)
    seen, rows = [], (X[160:], y[160:])
    note = lambda record: seen.append(evaluate(model, *rows, loss=loss))  # noqa: E731
    history = finetune(model, X[:160], y[:160], epochs=12, batch_size=20, learning_rate=0.01, loss=loss,
                       validation=rows, callback=note, **QUIET)  # fmt: skip
    assert [(one.error, one.loss) for one in seen] == list(
        zip(history["validation_error"], history["validation_loss"], strict=True)
    )
    kept = evaluate(model, *rows, loss=loss)
    assert (kept.error, kept.loss) == min((one.error, one.loss) for one in seen)
    outputs = model(X[160:]).detach()
    targets = as_the_loss_takes(y[160:], outputs, loss)
    usual = functional.mse_loss if y.is_floating_point() else functional.cross_entropy
    assert kept.loss == pytest.approx(float((loss or usual)(outputs, targets)), rel=1e-5)
    if error is None:
        assert kept.error == kept.loss
        assert math.isnan(kept.accuracy)
    else:
        assert kept.error == pytest.approx(float(error(outputs, y[160:])))
        assert kept.accuracy == 1 - kept.error
    assert kept.n == 80


@pytest.mark.parametrize("case", TASKS)
@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_predictions_are_those_of_the_task_in_the_shape_of_the_targets(case, copied):
    model, y, loss, error = given(case)
    finetune(model, X, y, epochs=1, loss=loss, **QUIET)
    model = copied(model)
    found, outputs = predict(model, X), model(X).detach()
    if error in (wrong_classes, wrong_classes_of_probabilities):
        assert torch.equal(found, outputs.argmax(1))
    elif error is None:
        assert torch.equal(found.reshape(outputs.shape), outputs)
    else:
        assert torch.equal(found.reshape(outputs.shape), (outputs > (0.5 if case in LAST else 0)).long())
    if error not in (wrong_classes, wrong_classes_of_probabilities) and y.numel() == outputs.numel():
        assert found.shape == y.shape, "so that predictions minus targets is what it says"


CONTAINERS = {
    "tensors": lambda y: (X, y),
    "arrays": lambda y: (X.numpy(), y.numpy()),
    "double": lambda y: (X, y.numpy().astype(np.float64) if y.is_floating_point() else y.numpy().astype(np.int32)),
    "half": lambda y: (X, y.half() if y.is_floating_point() else y.to(torch.uint8)),
    "lists": lambda y: (X, y.tolist()),
    "dataset": lambda y: (TensorDataset(X, y), None),
    "loader": lambda y: (DataLoader(TensorDataset(X, y), batch_size=50), None),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("case", ["classes in a column", "labels as integers", "one label", "one real", "counts"])
def test_containers_of_labels_mean_the_same(case, container):
    (plain, y, loss, _), (model, *_) = given(case), given(case)
    same = {"epochs": 2, "batch_size": 240, "loss": loss, **QUIET}
    finetune(plain, X, y, validation=(X, y), **same)
    x, labels = CONTAINERS[container](y)
    held_back = x if labels is None else (x, labels)
    history = finetune(model, x if container != "loader" else TensorDataset(X, y), labels, validation=held_back, **same)
    found, expected = evaluate(model, x, labels, loss=loss), evaluate(plain, X, y, loss=loss)
    assert found == pytest.approx(expected, rel=2e-3, nan_ok=True)
    assert history["validation_error"][-1] == pytest.approx(found.error, rel=1e-6)


def test_more_labels_are_right_as_the_loss_falls_and_the_best_epoch_is_kept():
    model = network()
    history = finetune(model, X[:160], SEVERAL[:160], epochs=40, batch_size=20, learning_rate=3e-3, **QUIET,
                       loss=nn.BCEWithLogitsLoss(), validation=(X[160:], SEVERAL[160:]))  # fmt: skip
    assert history["validation_loss"][-1] < 0.5 * history["validation_loss"][0]
    kept = evaluate(model, X[160:], SEVERAL[160:])
    assert kept.error == min(history["validation_error"]) < 0.12
    assert kept.loss < 0.6 * history["validation_loss"][0]


def test_a_network_remembers_its_target_until_it_is_trained_for_another():
    model = network()
    finetune(model, X, SEVERAL, epochs=1, loss=nn.BCEWithLogitsLoss(), **QUIET)
    assert evaluate(model, X, SEVERAL) == evaluate(model, X, SEVERAL, loss=nn.BCEWithLogitsLoss())
    assert math.isnan(evaluate(model, X, REALS).accuracy)
    assert evaluate(model, X, CLASSES).error == pytest.approx(float(wrong_classes(model(X), CLASSES)))
    model[2] = nn.Linear(16, 3)
    assert torch.equal(predict(model, X), model(X).argmax(1)), "another head stands for something else"
    finetune(model, X, CLASSES.clamp(max=2), epochs=1, **QUIET)
    assert torch.equal(predict(model, X), model(X).argmax(1))


def test_gray_targets_of_an_autoencoder_are_judged_by_its_loss():
    x = torch.rand(60, 9, generator=generator(3))
    model = DBN([9, 4], seed=0).to_autoencoder()
    history = finetune(model, x, x, epochs=3, loss=nn.BCELoss(), validation=(x, x), patience=1, **QUIET)
    assert history["validation_error"] == history["validation_loss"]
    assert len(history) == 3, "the loss falls, and so does the error"
    assert torch.equal(predict(model, x), model(x))


@pytest.mark.parametrize(
    ("loss", "mark"),
    [(nn.CrossEntropyLoss(), -100), (nn.CrossEntropyLoss(ignore_index=-1), -1), (nn.NLLLoss(ignore_index=3), 3),
     (lambda outputs, y: focal(outputs[y >= 0], y[y >= 0]), -1)],
)  # fmt: skip
def test_rows_that_a_loss_leaves_out_are_in_no_error(loss, mark):
    y = CLASSES.clone()
    y[::3] = mark
    kept = y != mark
    model = network()
    finetune(model, X, y, epochs=2, loss=loss, validation=(X, y), **QUIET)
    assert evaluate(model, X, y, loss=loss).error == evaluate(model, X[kept], y[kept], loss=loss).error
    with pytest.raises(ValueError, match="labels of x mark all rows to be left out"):
        evaluate(model, X, torch.full_like(y, mark), loss=nn.CrossEntropyLoss(ignore_index=mark))


REFUSED = {
    "integers, one output": (1, CLASSES, None, "whole numbers, but the model has 1 output: give floats"),
    "zeros, one output": (1, 0 * CLASSES, None, "whole numbers, but the model has 1 output"),
    "column, one output": (1, CLASSES[:, None], None, "whole numbers, but the model has 1 output"),
    "flags, one output": (1, CLASSES > 1, None, "whole numbers, but the model has 1 output"),
    "integers of several": (4, SEVERAL.long(), None, r"have shape \(240, 4\).*BCEWithLogitsLoss"),
    "floats, several outputs": (4, REALS[:, 0], None, r"real numbers of shape \(240,\) for 4 outputs"),
    "floats in a column": (4, REALS[:, :1], None, r"real numbers of shape \(240, 1\) for 4 outputs"),
    "column for a loss of torch": (4, REALS[:, :1], nn.L1Loss(), r"shape \(240, 1\) for 4 outputs"),
    "classes for a loss of reals": (4, CLASSES, nn.MSELoss(), r"shape \(240,\) for 4 outputs"),
    "classes too large": (3, CLASSES, nn.CrossEntropyLoss(), r"lie in 0\.\.3, but the model has 3 outputs"),
    "unlabelled": (4, CLASSES - 1, functional.cross_entropy, "lie in -1..2, .* −1 marks unlabelled"),
    "float classes": (4, CLASSES.float(), nn.CrossEntropyLoss(), r"shape \(240,\) for 4 outputs"),
    "integers of probabilities": (4, ONE_HOT.long(), nn.CrossEntropyLoss(), r"have shape \(240, 4\)"),
    "signs": (4, 2 * SEVERAL - 1, nn.BCEWithLogitsLoss(), r"lie in -1\.\.1: give 0 or 1"),
    "classes for labels": (4, CLASSES, nn.BCEWithLogitsLoss(), r"lie in 0\.\.3: give 0 or 1"),
    "too few labels": (4, SEVERAL[:, :2], nn.BCEWithLogitsLoss(), r"shape \(240, 2\) for 4 outputs"),
    "not a number": (4, REALS.clone().fill_(math.nan), nn.L1Loss(), "NaN or infinite values in 240 of 240 rows"),
    "not a number, one": (1, REALS[:, 0].clone().fill_(math.nan), None, "NaN or infinite values in 240 of 240"),
    "not a number, own loss": (4, REALS.clone().fill_(math.nan), absolute, "NaN or infinite values in"),
    "loss that fails": (4, REALS, lambda o, y: (o @ y).mean(), r"loss cannot be taken of outputs \(\d+, 4\)"),
    "loss of three": (4, REALS, nn.GaussianNLLLoss(), "loss cannot be taken of outputs"),
    "loss that mixes rows": (1, REALS[:, 0], absolute, r"every label of x \(\d+,\): give labels of shape \(n, 1\)"),
    "loss of a shape, one": (1, REALS[:, 0], lambda o, y: o.flatten() - y, "loss gives a tensor of shape"),
    "loss of a shape": (4, REALS, lambda o, y: o, "loss gives a tensor of shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_fit_nothing_are_refused_by_name_before_training(case):
    outputs, y, loss, words = REFUSED[case]
    model = network(outputs)
    before, good = copy.deepcopy(model.state_dict()), {1: REALS[:, :1]}.get(outputs, REALS[:, :outputs])
    for call in (
        lambda: finetune(model, X, y, epochs=1, loss=loss, **QUIET),
        lambda: finetune(model, TensorDataset(X, y), epochs=1, loss=loss, batch_size=240, **QUIET),
        lambda: evaluate(model, X, y, loss=loss),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            call()
    if loss is None and y.is_floating_point():
        with pytest.raises(ValueError, match="labels of validation"):
            finetune(model, X, good, epochs=1, validation=(X, y), **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_whole_numbers_are_targets_of_a_network_that_is_trained_on_reals():
    model, y = network(1), REALS[:, 0].round()
    finetune(model, X, y, epochs=1, validation=(X, y.long()), **QUIET)
    assert evaluate(model, X, y.long()) == evaluate(model, X, y)


@pytest.mark.parametrize("y", [REALS, CLASSES.float()])
def test_validation_labels_are_of_the_kind_of_those_of_training(y):
    with pytest.raises(ValueError, match="labels of validation are real numbers"):
        finetune(network(), X, CLASSES, epochs=1, validation=(X, y), **QUIET)


def test_an_untrained_network_with_one_output_refuses_to_predict():
    with pytest.raises(ValueError, match=r"model has 1 output, .* use model"):
        predict(network(1), X)


class Script(nn.Module):
    """Right in scripted shares of rows after each step, by scripted margins."""

    def __init__(self, errors, margins):
        super().__init__()
        self.errors, self.margins, self.steps = errors, margins, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        step = min(int(self.steps.detach()) - 1, len(self.errors) - 1) if self.steps > 0 else 0
        right = (torch.arange(len(x)) >= round(self.errors[step] * len(x))).float()
        return torch.stack([right, 1 - right], 1) * self.margins[step] + 0 * self.steps


class AddOne(torch.optim.Optimizer):
    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for value in group["params"]:
                value.add_(1)


@pytest.mark.parametrize(
    ("errors", "margins", "patience", "epochs", "kept"),
    [
        ([0.0] * 9, [1, 2, 3, 4, 5, 6, 7, 8, 9], 2, 3, 3),
        ([0.0] * 9, [1, 2, 3, 4, 5, 6, 7, 8, 9], None, 9, 9),
        ([0.5, 0.3, 0.3, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1], [3, 3, 2, 3, 3, 3, 3, 3, 3], 3, 5, 3),
        ([0.5, 0.3, 0.3, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2], [3, 3, 2, 3, 3, 3, 3, 2, 3], 3, 8, 8),
        ([0.5, 0.3, 0.4, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2], [3, 3, 3, 3, 3, 3, 3, 3, 3], 2, 6, 4),
    ],
)
def test_patience_counts_epochs_without_a_lower_error(errors, margins, patience, epochs, kept):
    model, x, y = Script(errors, margins), torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64)
    history = finetune(model, x, y, epochs=9, optimiser=AddOne, validation=(x, y), patience=patience, **QUIET)
    assert history["validation_error"] == pytest.approx(errors[:epochs])
    assert int(model.steps.detach()) == kept


def test_the_loss_of_several_batches_is_that_of_all_rows_together():
    """Rows that are left out and classes that weigh more count as in one batch: torch divides by the sum of weights."""
    model, x = nn.Sequential(nn.Linear(3, 3)), torch.randn(4100, 3, generator=generator())
    y = torch.randint(0, 3, (4100,), generator=generator(1)).sort().values
    y[2000:4000] = -1
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 50.0]), ignore_index=-1)
    assert evaluate(model, x, y, loss=loss).loss == pytest.approx(loss(model(x), y).item(), rel=1e-5)


def test_unlabelled_rows_change_nothing():
    """Batches in which no row has a label are left out, also under an optimiser with momentum and decay."""
    x, y = torch.randn(60, 3, generator=generator()), torch.randint(0, 3, (60,), generator=generator(1))
    trained = []
    for rows, labels in ((x, y), (torch.cat([x, x]), torch.cat([y, torch.full_like(y, -1)]))):
        model = nn.Sequential(nn.Linear(3, 3))
        initialise(model, "zeros")
        loader = DataLoader(TensorDataset(rows, labels), batch_size=20)
        options = {"optimiser": "sgd", "weight_decay": 0.1, "loss": nn.CrossEntropyLoss(ignore_index=-1)}
        history = finetune(model, loader, epochs=3, validation=(rows, labels), **options, progress=False)
        trained.append([*model.parameters(), torch.tensor(history["loss"]), torch.tensor(history["validation_loss"])])
    for one, other in zip(*trained, strict=True):
        torch.testing.assert_close(one, other)


def test_labels_that_leave_out_all_rows_are_refused():
    x, y = torch.randn(6, 3), torch.full((6,), -1)
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="labels of x mark all rows to be left out"):
        finetune(model, x, y, epochs=1, loss=nn.CrossEntropyLoss(ignore_index=-1), progress=False)


def test_the_head_is_the_layer_that_is_called_last():
    a, b = nn.Linear(6, 6), nn.Linear(6, 6)
    before = [layer.weight.detach().clone() for layer in (a, b)]
    model = nn.Sequential(a, nn.Tanh(), b, nn.Tanh(), a)
    rates = {"learning_rate": 0.0, "head_learning_rate": 0.1}
    finetune(model, torch.randn(20, 6), torch.arange(20) % 6, epochs=1, progress=False, **rates)
    assert torch.equal(b.weight, before[1])
    assert not torch.equal(a.weight, before[0])


def test_a_last_batch_of_one_row_under_batch_normalisation_is_refused_before_anything_changes():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="the last of the batches of 10 has one row"):
        finetune(model, torch.randn(21, 3), torch.arange(21) % 2, epochs=1, batch_size=10, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_loader_that_leaves_out_rows_is_not_refused_for_a_batch_that_it_never_makes():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    data = TensorDataset(torch.randn(250, 3), torch.arange(250) % 3)
    finetune(model, DataLoader(data, batch_size=83, drop_last=True), epochs=1, progress=False)


def test_classes_of_weight_zero_have_an_error_and_no_loss():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 2.0]))
    found = evaluate(nn.Sequential(nn.Linear(3, 3)), torch.randn(4, 3), torch.zeros(4).long(), loss=loss)
    assert math.isnan(found.loss)
    assert 0 <= found.error <= 1


class Weighted(nn.Sequential):
    """A Sequential whose only parameters are its own."""

    def __init__(self):
        super().__init__(nn.Flatten())
        self.weight = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x):
        return super().forward(x) @ self.weight


def test_a_sequential_with_parameters_of_its_own_is_trained():
    model = Weighted()
    finetune(model, torch.randn(9, 3), torch.arange(9) % 3, epochs=1, progress=False)
    assert bool((model.weight != 0).any())


def test_a_first_batch_without_labels_is_one_of_classes_under_a_loss_of_ones_own():
    data = TensorDataset(torch.randn(40, 3), torch.cat([torch.full((20,), -1), torch.arange(20) % 3]))
    loss = lambda outputs, labels: functional.cross_entropy(outputs[labels >= 0], labels[labels >= 0])  # noqa: E731
    model = nn.Sequential(nn.Linear(3, 3))
    finetune(model, DataLoader(data, batch_size=10), epochs=1, loss=loss, progress=False)
    assert predict(model, torch.randn(5, 3)).shape == (5,)
    with pytest.raises(ValueError, match="labels of x mark all rows to be left out"):
        evaluate(model, torch.randn(4, 3), torch.full((4,), -1), loss=loss)


def test_a_refused_call_leaves_the_generator_as_it_was():
    draw = generator(5)
    before = draw.get_state()
    with pytest.raises(ValueError, match="labels"):
        finetune(nn.Sequential(nn.Linear(3, 3)), torch.randn(4, 3), torch.full((4,), 9), epochs=1, generator=draw)
    assert torch.equal(draw.get_state(), before)
