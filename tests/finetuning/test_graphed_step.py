"""Steps of fine-tuning that are recorded and replayed do what plain ones do, and what is not known is not recorded."""

import pytest
import torch
from torch import nn

from dbn import finetune
from tests.support.recorded_runs import FULL, X, Y, network, same


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimiser": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True), "weight_decay": 0.1},
        {"loss": nn.functional.cross_entropy},
        {"optimiser": "sgd", "max_norm": 1.0, "weight_decay": 1e-3, "head_learning_rate": lambda epoch: 0.1},
        {"learning_rate": lambda epoch: 0.01 / (1 + epoch), "head_learning_rate": 0.01, "validation": (X, Y)},
    ],
    ids=["adam", "adamw", "loss", "sgd", "schedules"],
)
def test_replayed_fine_tuning_equals_eager_fine_tuning(options, recording):
    def tuned():
        model = network().double()
        return model, finetune(model, X, Y, epochs=5, batch_size=50, progress=False, seed=1, **options)

    plain, history = tuned()
    seen = recording()
    model, other = tuned()
    same(model, plain, within=1e-6)  # the rates on the device are in single precision
    assert other["loss"] == pytest.approx(history["loss"], abs=1e-6)
    assert (seen.recordings, seen.replays) == (1, FULL)


@pytest.mark.parametrize(
    ("targets", "loss"),
    [((X[:, :4] > 0.5).long(), nn.BCEWithLogitsLoss()), (X[:, :4], nn.L1Loss()), (Y[:, None], None)],
    ids=["several labels", "reals", "classes in a column"],
)
def test_labels_are_fitted_to_the_loss_in_replays_too(targets, loss, recording):
    def tuned():
        model = network().double()
        finetune(model, X, targets, epochs=5, batch_size=50, loss=loss, progress=False, seed=1)
        return model

    plain, seen = tuned(), recording()
    same(tuned(), plain, within=1e-6)
    assert (seen.recordings, seen.replays) == (1, FULL)


class Ours(nn.Linear):
    """A module whose forward pass may do anything."""


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": lambda groups, lr: torch.optim.AdamW(groups, lr=lr)},
        {"loss": lambda outputs, labels: nn.functional.cross_entropy(outputs, labels)},
        {"model": nn.Sequential(Ours(12, 4))},
    ],
    ids=["optimiser", "loss", "module"],
)
def test_unknown_losses_and_optimisers_are_not_captured(options, recording):
    seen, options = recording(), dict(options)
    model = options.pop("model", None) or network()
    finetune(model, X, Y, epochs=2, batch_size=50, progress=False, seed=1, **options)
    assert not seen.recordings


def test_a_changed_dropout_is_captured_again(recording):
    def tuned():
        model = network().double()
        drop = lambda record: setattr(model[4], "p", 0.0 if record["epoch"] >= 2 else 0.5)  # noqa: E731
        finetune(model, X, Y, epochs=5, batch_size=50, callback=drop, progress=False, seed=1)
        return model

    plain, seen = tuned(), recording()
    same(tuned(), plain, within=1e-6)
    assert seen.recordings == 2


@pytest.mark.parametrize("where", ["optimiser", "parameter", "instance"])
def test_networks_with_replaced_forward_or_step_are_not_captured(where, recording):
    seen, model, calls = recording(), network(), []

    def build(groups, lr):
        optimizer = torch.optim.Adam(groups, lr=lr, fused=True)
        if where == "optimiser":
            optimizer.register_step_post_hook(lambda *_: calls.append(1))
        return optimizer

    if where == "parameter":
        model[1].weight.register_hook(lambda slope: calls.append(1))
    if where == "instance":
        model[3].forward = lambda x: (calls.append(1), x.sigmoid())[1]
    finetune(model, X, Y, epochs=2, batch_size=50, optimiser=build, progress=False, seed=1)
    assert not seen.recordings
    assert len(calls) >= 10


CHANGES = {
    "betas": lambda model, optimizer, loss: optimizer.param_groups[0].update(betas=(0.5, 0.9)),
    "loss": lambda model, optimizer, loss: setattr(loss, "label_smoothing", 0.3),
    "module": lambda model, optimizer, loss: model.__setitem__(3, nn.Tanh()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_settings_changed_by_a_callback_are_captured_again(what, recording):
    def tuned():
        model, loss, built = network().double(), nn.CrossEntropyLoss(), []

        def build(groups, lr):
            built.append(torch.optim.Adam(groups, lr=lr, fused=True))
            return built[0]

        def change(record):
            if record["epoch"] == 2:
                CHANGES[what](model, built[0], loss)

        options = {"optimiser": build, "loss": loss, "callback": change, "progress": False, "seed": 1}
        finetune(model, X, Y, epochs=5, batch_size=50, **options)
        return model

    plain, seen = tuned(), recording()
    same(tuned(), plain, within=1e-6)
    assert seen.recordings == 2


def test_a_hook_added_by_a_callback_is_called(recording):
    seen, model, calls = recording(), network(), []

    def hang(record):
        if record["epoch"] == 2:
            model[1].weight.register_hook(lambda slope: calls.append(1))

    finetune(model, X, Y, epochs=4, batch_size=50, callback=hang, progress=False, seed=1)
    assert len(calls) == 10
    assert seen.recordings == 1


def test_a_callback_finds_the_gradients_of_the_last_step(recording):
    def norms():
        model, found = network().double(), []
        note = lambda record: found.append(float(model[1].weight.grad.norm()))  # noqa: E731
        finetune(model, X[:200], Y[:200], epochs=5, batch_size=50, callback=note, progress=False, seed=1)
        return found

    plain, seen = norms(), recording()
    assert norms() == pytest.approx(plain, rel=1e-5)
    assert seen.replays == FULL


def test_a_network_with_hooks_is_not_captured(recording):
    seen, model, calls = recording(), network(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    finetune(model, X, Y, epochs=2, batch_size=50, progress=False, seed=1)
    assert not seen.recordings
    assert len(calls) >= 10
