"""Inputs in other units than the network's are refused, row by row; honest rows and their outliers are not."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dbn import DBN, Categorical, Gaussian, ReLU, Spin, datasets, evaluate, finetune, initialise, predict
from dbn.input_range import known_scale
from tests.support.oracles import generator

QUIET = {"progress": False, "seed": 0}
LABELS = torch.arange(120) % 3
IMAGES = torch.rand(120, 64, generator=generator(0)) * (torch.rand(120, 64, generator=generator(1)) < 0.3)
SPINS = 2 * (IMAGES > 0).float() - 1
REALS = torch.randn(120, 64, generator=generator(2))


def plain(width=64):
    return initialise(nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 3)), "he_normal", seed=0)


def trained(rows, model=None):
    model = plain(rows.shape[1]) if model is None else model
    finetune(model, rows, torch.arange(len(rows)) % 3, epochs=1, **QUIET)
    return model


def of_stack(visible=64):
    return DBN([visible, 5], seed=0).to_mlp(3, seed=0)


BOUNDED = {
    "bernoulli": (of_stack, IMAGES),
    "categorical": (lambda: of_stack(Categorical(64, 4)), nn.functional.one_hot(LABELS, 4).repeat(1, 16).float()),
    "spin": (lambda: of_stack(Spin(64)), SPINS),
    "autoencoder": (lambda: DBN([64, 5], seed=0).to_autoencoder(), IMAGES),
    "trained on 0..1": (lambda: trained(IMAGES), IMAGES),
    "trained on -1..1": (lambda: trained(SPINS), SPINS),
    "stack, trained": (lambda: trained(IMAGES, of_stack()), IMAGES),
}
COPIES = {"itself": lambda model: model, "copied": copy.deepcopy, "pickled": lambda m: pickle.loads(pickle.dumps(m))}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("kind", BOUNDED)
def test_pixels_up_to_255_are_refused_by_what_takes_0_to_1(kind, copied):
    make, rows = BOUNDED[kind]
    model = COPIES[copied](make())
    before = copy.deepcopy(model.state_dict())
    pixels = 255 * rows
    for x in (pixels, pixels[3:4], torch.cat([rows[:100], pixels[3:4]]), (pixels.clamp(0) + 0.5).to(torch.uint8)):
        y = LABELS[: len(x)]
        for call in (
            lambda x=x, y=y: evaluate(model, x, y),
            lambda x=x: predict(model, x),
            lambda x=x, y=y: predict(model, TensorDataset(x, y)),
            lambda x=x, y=y: finetune(model, x, y, epochs=1, **QUIET),
            lambda x=x, y=y: finetune(model, rows, LABELS, validation=(x, y), epochs=1, **QUIET),
        ):
            with pytest.raises(ValueError, match=r"(x|validation) lies in .* but the model was made for inputs in "):
                call()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", BOUNDED)
def test_a_row_is_judged_by_itself_and_not_by_those_beside_it(kind):
    make, rows = BOUNDED[kind]
    model = make()
    outlier, slightly, black = rows[:1].clone(), 1.3 * rows, torch.zeros(2, 64)
    outlier[0, 5] = 40.0
    for x in (rows, black, outlier, slightly, torch.cat([outlier, rows])):
        assert len(predict(model, x)) == len(x)
        assert all(len(predict(model, row[None])) == 1 for row in x[:20])


UNBOUNDED = {
    "plain": lambda: trained(REALS),
    "few training rows": lambda: trained(REALS[:6]),
    "gaussian": lambda: trained(REALS, of_stack(Gaussian(64))),
    "relu": lambda: trained(REALS.abs(), of_stack(ReLU(64))),
    "never trained": plain,
    "trained on 0..255": lambda: trained(255 * IMAGES),
    "trained again on reals": lambda: trained(REALS, trained(IMAGES)),
    "initialised again": lambda: initialise(trained(IMAGES), "he_normal", seed=0),
}


@pytest.mark.parametrize("kind", UNBOUNDED)
def test_networks_of_real_columns_take_all_rows(kind):
    model = UNBOUNDED[kind]()
    assert known_scale(model) is None
    outlier = REALS[:1].clone()
    outlier[0, 5] = 1e4
    for x in (REALS, 3 * REALS, outlier, 1e3 * REALS[:1], IMAGES, 255 * IMAGES):
        assert len(predict(model, x)) == len(x)
    assert all(len(predict(model, 4 * row[None])) == 1 for row in REALS)
    assert evaluate(model, outlier, LABELS[:1]).n == 1


def test_rows_served_one_by_one_are_rows_served_together():
    x = torch.randn(260, 30, generator=generator(3))
    x = (x - x[:60].mean(0)) / x[:60].std(0)
    model = trained(x[:60])
    together = predict(model, x[60:])
    assert torch.equal(together, torch.cat([predict(model, row[None]) for row in x[60:]]))


def test_a_line_may_be_drawn_beyond_a_few_training_points():
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 2))
    finetune(model, torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), epochs=1, **QUIET)
    assert len(predict(model, torch.linspace(-20, 20, 50)[:, None])) == 50


class Divide(nn.Module):
    def forward(self, x):
        return x / 255


def test_what_scales_its_inputs_itself_takes_pixels():
    inner = trained(IMAGES)
    served = nn.Sequential(Divide(), inner)
    assert torch.equal(predict(served, 255 * IMAGES), predict(inner, IMAGES))
    wrapped = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), inner)
    with pytest.raises(ValueError, match="x lies in"):
        predict(wrapped, 255 * IMAGES)


def test_every_digit_of_the_sample_is_refused_in_0_to_255_by_a_network_trained_on_0_to_1():
    split = datasets.load("mnist-sample")
    model = initialise(nn.Sequential(nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)), "xavier_uniform", seed=0)
    finetune(model, split.train.x[:500], split.train.y[:500], epochs=1, **QUIET)
    assert len(predict(model, split.test.x)) == 2000
    for row in 255 * split.test.x[:300]:
        with pytest.raises(ValueError, match="divide by 255"):
            predict(model, row[None])
