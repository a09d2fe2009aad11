"""Supervised training of any network: what is trained, what is refused, and what the numbers mean."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from dbn import DBN, DivergenceError, evaluate, finetune, predict
from dbn.input_range import known_scale
from tests.support.selection import slow_but_for

QUIET = {"progress": False, "seed": 0}
DRAW = torch.Generator().manual_seed(0)
LABELS = torch.arange(120) % 3
IMAGES = (torch.rand(120, 64, generator=DRAW) * 0.5 + 0.5 * nn.functional.one_hot(LABELS, 64)).clamp(0, 1)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def plain(width=64, outputs=3):
    return seeded(lambda: nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, outputs)))


def conv():
    return seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))


class Custom(nn.Module):
    """A module of a user: no Sequential, batch normalisation, a head that is not the last attribute used."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.inner(x))))


def state(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def mapped(path):
    np.save(path / "x.npy", IMAGES.numpy())
    return np.load(path / "x.npy", mmap_mode="r")


CASES = {
    "tensor": (plain, lambda path: (IMAGES, LABELS)),
    "images_for_linear": (plain, lambda path: (IMAGES.view(-1, 1, 8, 8), LABELS)),
    "arrays": (plain, lambda path: (IMAGES.numpy(), LABELS.numpy())),
    "lists_of_labels": (plain, lambda path: (IMAGES, LABELS.tolist())),
    "bytes": (plain, lambda path: (IMAGES, LABELS.numpy().astype(np.uint8))),
    "memmap": (plain, lambda path: (mapped(path), LABELS)),
    "dataset": (plain, lambda path: (TensorDataset(IMAGES, LABELS), None)),
    "loader": (plain, lambda path: (DataLoader(TensorDataset(IMAGES, LABELS), batch_size=30), None)),
    "conv": (conv, lambda path: (IMAGES.view(-1, 1, 8, 8), LABELS)),
    "conv_loader": (conv, lambda path: (DataLoader(TensorDataset(IMAGES.view(-1, 1, 8, 8), LABELS)), None)),
    "custom": (lambda: seeded(Custom), lambda path: (IMAGES, LABELS)),
    "double": (lambda: plain().double(), lambda path: (IMAGES, LABELS)),
}


@pytest.mark.parametrize("case", slow_but_for(CASES.keys() - {"conv_loader"}, CASES))
def test_any_network_learns_from_any_container(case, tmp_path):
    make, data = CASES[case]
    model, (x, y) = make(), data(tmp_path)
    history = finetune(model, x, y, epochs=20, batch_size=30, learning_rate=0.02, **QUIET)
    assert history["epoch"] == [float(epoch) for epoch in range(1, 21)]
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    result = evaluate(model, x, y)
    assert result.error < 0.05
    assert result.n == 120
    assert not model.training


@pytest.mark.parametrize(
    "optimiser", ["adam", "sgd", torch.optim.AdamW, lambda groups, lr: torch.optim.SGD(groups, lr)]
)
def test_optimisers(optimiser):
    model = plain()
    history = finetune(model, IMAGES, LABELS, epochs=4, learning_rate=0.01, optimiser=optimiser, **QUIET)
    assert history["loss"][-1] < history["loss"][0]


def test_one_step_of_gradient_descent_is_the_formula():
    model = plain()
    by_hand = copy.deepcopy(model)
    nn.functional.cross_entropy(by_hand(IMAGES), LABELS).backward()
    finetune(
        model, IMAGES, LABELS, epochs=1, batch_size=120, learning_rate=0.1, optimiser="sgd", weight_decay=0.3, **QUIET
    )
    for mine, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        decay = 0.3 * theirs if theirs.dim() > 1 else 0.0
        torch.testing.assert_close(mine, theirs - 0.1 * (theirs.grad + decay))


@pytest.mark.parametrize("make", [plain, conv, lambda: seeded(Custom)])
def test_max_norm_shrinks_only_the_weights_into_a_unit(make):
    free, bound = make(), make()
    x = IMAGES.view(-1, 1, 8, 8) if make is conv else IMAGES
    for model, norm in ((free, None), (bound, 0.5)):
        finetune(model, x, LABELS, epochs=1, batch_size=120, learning_rate=0.01, max_norm=norm, **QUIET)
    for mine, theirs in zip(bound.parameters(), free.parameters(), strict=True):
        if theirs.dim() > 1:
            norms = theirs.detach().flatten(1).norm(dim=1).view(-1, *[1] * (theirs.dim() - 1))
            theirs = theirs * (0.5 / norms).clamp(max=1)
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(ValueError, match="max_norm is 0"):
        finetune(bound, x, LABELS, epochs=1, max_norm=0, **QUIET)


@pytest.mark.parametrize("make", [plain, conv, lambda: seeded(Custom)])
@pytest.mark.parametrize(("body_rate", "head_rate"), [(0.0, 0.05), (0.05, 0.0), (0.05, None)])
def test_the_rate_of_the_head_is_for_the_last_layer_alone(make, body_rate, head_rate):
    model = make()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    x = (
        IMAGES.view(-1, 1, 8, 8)
        if isinstance(next(model.modules()), nn.Sequential) and model[0].weight.dim() > 2
        else IMAGES
    )
    finetune(model, x, LABELS, epochs=1, learning_rate=body_rate, head_learning_rate=head_rate, **QUIET)
    names = list(before)
    for name, value in model.named_parameters():
        rate = head_rate if name in names[-2:] and head_rate is not None else body_rate
        assert torch.equal(value, before[name]) is (rate == 0.0), name


def test_rates_follow_their_schedules():
    seen = []
    rate = lambda epoch: seen.append(epoch) or 0.0  # noqa: E731
    finetune(plain(), IMAGES, LABELS, epochs=2, batch_size=60, learning_rate=rate, head_learning_rate=0.1, **QUIET)
    assert sorted(set(seen)) == [0.0, 0.5, 1.0, 1.5]


class Scripted(nn.Module):
    """A classifier whose validation error follows a script, one entry an epoch."""

    def __init__(self, script):
        super().__init__()
        self.script, self.epoch = script, nn.Parameter(torch.zeros(()))

    def forward(self, x):
        wrong = self.script[min(int(self.epoch.detach()), len(self.script) - 1)]
        right = torch.arange(len(x)) >= round(wrong * len(x))
        return torch.stack([right.float(), 1 - right.float()], 1) * (1 + 0 * self.epoch)


class Counting(torch.optim.Optimizer):
    """Adds one to every parameter a step."""

    def __init__(self, groups, lr):
        super().__init__(groups, {"lr": lr})

    def step(self):
        with torch.no_grad():
            for group in self.param_groups:
                for value in group["params"]:
                    value.add_(1)


@pytest.mark.parametrize(
    ("script", "patience", "epochs", "best"),
    [
        ([0.9, 0.5, 0.2, 0.4, 0.3, 0.6, 0.1], 3, 5, 2),
        ([0.9, 0.5, 0.2, 0.4, 0.3, 0.6, 0.1], 4, 6, 6),
        ([0.9, 0.5, 0.2, 0.4, 0.3, 0.6, 0.1], None, 6, 6),
        ([0.9, 0.8, 0.1, 0.7, 0.6, 0.5, 0.4], None, 6, 2),
        ([0.9, 0.1, 0.7, 0.6, 0.5, 0.4, 0.3], 1, 2, 1),
    ],
)
def test_training_stops_after_patience_and_keeps_the_best_weights(script, patience, epochs, best):
    model, x, y = Scripted(script), torch.zeros(10, 1), torch.zeros(10, dtype=torch.int64)
    history = finetune(model, x, y, epochs=6, optimiser=Counting, validation=(x, y), patience=patience, **QUIET)
    assert history["validation_error"] == pytest.approx(script[1 : epochs + 1])
    assert float(model.epoch.detach()) == best
    assert evaluate(model, x, y).error == pytest.approx(script[best])


def test_validation_numbers_are_those_of_evaluate():
    model, seen = plain(), []
    held_back = IMAGES[:50], LABELS[:50]
    history = finetune(model, IMAGES, LABELS, epochs=2, validation=held_back, patience=9, callback=seen.append,
                       learning_rate=1e-3, **QUIET)  # fmt: skip
    assert seen == list(history)
    assert set(history.last) == {"epoch", "loss", "seconds", "validation_error", "validation_loss"}
    result = evaluate(model, *held_back)
    best = min(zip(history["validation_error"], history["validation_loss"], strict=True))
    assert (result.error, result.loss) == pytest.approx(best)


@pytest.mark.parametrize("rows", [1, 120, 4100])
def test_evaluate_and_predict_agree_with_numbers_by_hand(rows):
    model = plain().train()
    model[1].eval()
    x = torch.rand(rows, 64, generator=torch.Generator().manual_seed(1))
    y = torch.arange(rows) % 3
    before, modes = state(model), [module.training for module in model.modules()]
    result, classes = evaluate(model, x, y), predict(model, x)
    outputs = model(x).detach()
    assert torch.equal(classes, outputs.argmax(1))
    assert result.error == pytest.approx(float((outputs.argmax(1) != y).double().mean()))
    assert result.accuracy == pytest.approx(1 - result.error)
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(outputs, y)), rel=1e-5)
    assert result.n == rows
    assert same(before, state(model))
    assert modes == [module.training for module in model.modules()]


def test_predictions_of_a_dataset_stand_in_its_order():
    class Rows(Dataset):
        def __len__(self):
            return len(IMAGES)

        def __getitem__(self, place):
            return IMAGES[place]

    assert torch.equal(predict(plain(), Rows()), plain()(IMAGES).argmax(1))


def test_evaluation_is_deterministic_with_dropout():
    model = nn.Sequential(nn.Dropout(0.5), *plain()).train()
    assert evaluate(model, IMAGES, LABELS) == evaluate(model, IMAGES, LABELS)
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_real_targets(dtype):
    targets = IMAGES[:, :2].to(dtype) * 2 - 1
    model = plain(outputs=2)
    history = finetune(model, IMAGES, targets, epochs=10, batch_size=20, learning_rate=0.01, **QUIET)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    result = evaluate(model, IMAGES, targets)
    expected = float((model(IMAGES).detach() - targets).square().mean())
    assert result.error == pytest.approx(expected, rel=1e-5)
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert math.isnan(result.accuracy)


def test_another_loss_is_the_one_that_is_used():
    def absolute(outputs, targets):
        return (outputs - targets).abs().mean()

    model, targets = plain(outputs=2), IMAGES[:, :2]
    history = finetune(model, IMAGES, targets, epochs=1, learning_rate=0.0, loss=absolute, **QUIET)
    expected = float(absolute(model(IMAGES), targets).detach())
    assert history["loss"] == [pytest.approx(expected, rel=1e-5)]
    assert evaluate(model, IMAGES, targets, loss=absolute).loss == pytest.approx(expected, rel=1e-5)


NOT_A_NUMBER = IMAGES.clone()
NOT_A_NUMBER[3, 4] = math.nan
BAD = {
    "labels_too_large": (IMAGES, LABELS + 1, "labels of x lie in 1..3, but the model has 3 outputs"),
    "unlabelled": (IMAGES, LABELS - 1, "labels of x lie in -1..1.*unlabelled"),
    "wrong_length": (IMAGES, LABELS[:-1], "x has 120 rows and 119 labels"),
    "float_classes": (IMAGES, LABELS.float(), r"labels of x are real numbers of shape \(120,\) for 3 outputs"),
    "one_hot_integers": (IMAGES, nn.functional.one_hot(LABELS, 3), r"labels of x have shape \(120, 3\)"),
    "missing": (IMAGES, None, "labels of x are missing"),
    "missing_in_dataset": (TensorDataset(IMAGES), None, "labels of x are missing"),
    "bad_targets": (IMAGES, torch.full((120, 3), math.nan), "labels of x has NaN"),
    "not_a_number": (NOT_A_NUMBER, LABELS, "x has NaN or infinite values in 1 of 120 rows"),
    "wrong_width": (IMAGES[:, :-1], LABELS, "x of shape .* does not pass through the model"),
    "empty": (IMAGES[:0], LABELS[:0], "x is empty"),
    "one_dimension": (IMAGES[:, 0], LABELS, "x has shape"),
    "words": (IMAGES, np.array(["a"] * 120), "labels is an array of dtype"),
    "list": (IMAGES.tolist(), LABELS, "x is a list"),
    "complex": (IMAGES.cfloat(), LABELS, "x is a .*complex"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_are_refused_by_name_before_anything_changes(case):
    x, y, words = BAD[case]
    model = plain()
    before = state(model)
    for call in (lambda: finetune(model, x, y, epochs=1, **QUIET), lambda: evaluate(model, x, y)):
        with pytest.raises((ValueError, TypeError), match=words):
            call()
    assert same(before, state(model))
    assert known_scale(model) is None
    with pytest.raises(
        (ValueError, TypeError), match=words.replace("x ", "validation ").replace("x is", "validation is")
    ):
        finetune(model, IMAGES, LABELS, epochs=1, validation=(x, y), **QUIET)
    assert same(before, state(model))


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_seed_decides_order_and_dropout_and_the_global_generator_is_untouched(optimiser):
    results = []
    for seed in (1, 1, 2):
        model = seeded(lambda: nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)))
        before = torch.random.get_rng_state()
        finetune(model, IMAGES, LABELS, epochs=2, batch_size=50, optimiser=optimiser, progress=False, seed=seed)
        assert torch.equal(before, torch.random.get_rng_state())
        results.append(state(model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_a_loss_that_diverges_is_reported():
    with pytest.raises(
        DivergenceError,
        match=r"^third run let the loss run away to \S+ in epoch 1, by step 2, and was put back to step \d+: lower",
    ):
        finetune(plain(outputs=2), IMAGES, IMAGES[:, :2], epochs=20, optimiser="sgd", learning_rate=1e6,
                 description="third run", **QUIET)  # fmt: skip


def test_no_epochs_train_nothing():
    model = plain()
    before = state(model)
    assert len(finetune(model, IMAGES, LABELS, epochs=0, **QUIET)) == 0
    assert same(before, state(model))


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_is_shown_where_wanted(progress, capsys):
    finetune(plain(), IMAGES, LABELS, epochs=1, progress=progress, seed=0)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("fine-tuning" in err and "2/2" in err) if progress else err == ""


def test_a_network_without_a_gradient_is_refused():
    with pytest.raises(ValueError, match="model computes its outputs without a gradient"):
        finetune(DBN([6, 4], seed=0), torch.rand(20, 6), torch.zeros(20, dtype=torch.int64), epochs=1, progress=False)
