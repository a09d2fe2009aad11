"""The table of bad inputs and public calls: each is refused by name, and nothing is changed."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from dbn import (
    CD,
    DBN,
    PCD,
    RBM,
    Bernoulli,
    Categorical,
    Gaussian,
    Joint,
    Spin,
    evaluate,
    finetune,
    initialise,
    predict,
    train,
)

ROWS = (torch.rand(30, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
LABELS = torch.arange(30) % 2
QUIET = {"progress": False, "seed": 0}


def poisoned(value):
    rows = ROWS.clone()
    rows[4, 2] = value
    return rows


WRONG_KIND = {
    "none": (None, "is a NoneType"),
    "list": (ROWS.tolist(), "is a list"),
    "string": ("rows.csv", "is a str"),
    "complex": (ROWS.cfloat(), "complex"),
    "complex_array": (ROWS.numpy().astype(complex), "dtype complex"),
    "words": (np.full((30, 6), "a"), "dtype <U1"),
    "objects": (np.full((30, 6), None), "dtype object"),
    "sparse": (ROWS.to_sparse(), "dense"),
    "one_dimension": (ROWS[0], "has shape|does not pass"),
    "no_dimension": (torch.tensor(1.0), "has shape|does not pass"),
}
WRONG_WIDTH = {
    "narrow": (ROWS[:, :5], "columns|does not pass"),
    "wide": (torch.cat([ROWS, ROWS], 1), "columns|does not pass"),
    "images": (ROWS.view(30, 1, 6, 1).expand(30, 2, 6, 1), "columns|does not pass"),
}
WRONG_VALUES = {
    "bytes": ((ROWS * 255).to(torch.uint8), r"0\.\.255.*divide by 255"),
    "bytes_array": ((ROWS * 255).numpy().astype(np.uint8), r"0\.\.255.*divide by 255"),
    "nan": (poisoned(math.nan), "NaN or infinite values in 1 of 30 rows"),
    "infinite": (poisoned(math.inf), "NaN or infinite values in 1 of 30 rows"),
    "large": (poisoned(1000.0), "1000"),
    "negative": (poisoned(-200.0), "-200"),
}
WRONG_DATASETS = {
    "dataset_bytes": (TensorDataset(ROWS * 255, LABELS), r"0\.\.255.*divide by 255"),
    "dataset_nan": (TensorDataset(poisoned(math.nan), LABELS), "NaN or infinite"),
    "dataset_narrow": (TensorDataset(ROWS[:, :5], LABELS), "columns|does not pass"),
    "dataset_empty": (TensorDataset(ROWS[:0], LABELS[:0]), "is empty"),
}
EMPTY = {"empty": (ROWS[:0], "is empty"), "no_columns": (ROWS[:, :0], "is empty")}


def machine():
    return RBM(6, 4, seed=0)


def stack():
    return DBN([6, 4, 2], seed=0)


def network():
    return stack().to_mlp(2, seed=0)


def labels_for(x):
    return (
        LABELS[: len(x)]
        if isinstance(x, torch.Tensor | np.ndarray) and x.ndim
        else None
        if hasattr(x, "tensors")
        else LABELS
    )


#: What makes the model, the call with data that do not fit, and what the call names the argument.
HOT = {  # inner loops of training go through these: they check what costs nothing, and leave values alone
    name: (machine, lambda rbm, x, name=name: getattr(rbm, name)(x), "v")
    for name in (
        "free_energy", "hidden_field", "mean_hidden", "sample_hidden", "gibbs", "reconstruct",
    )
} | {
    name: (lambda: RBM(4, 6, seed=0), lambda rbm, x, name=name: getattr(rbm, name)(x), "h")
    for name in ("hidden_free_energy", "visible_field", "mean_visible", "sample_visible")
} | {"energy": (machine, lambda rbm, x: rbm.energy(x, torch.zeros(30, 4)), "v")}  # fmt: skip
CODES = {
    "encode": (stack, lambda model, x: model.encode(x), "x"),
    "reconstruct": (stack, lambda model, x: model.reconstruct(x), "x"),
    "decode": (lambda: DBN([2, 4, 6], seed=0), lambda model, x: model.decode(x), "h"),
}
LEARNING = {
    "train": (machine, lambda rbm, x: train(rbm, x, epochs=1, **QUIET), "data"),
    "train_validation": (machine, lambda rbm, x: train(rbm, ROWS, validation=x, epochs=1, **QUIET), "validation"),
    "pretrain": (stack, lambda model, x: model.pretrain(x, epochs=1, **QUIET), "data"),
    "pretrain_validation": (
        stack,
        lambda model, x: model.pretrain(ROWS, validation=x, epochs=1, **QUIET),
        "validation",
    ),
    "finetune": (network, lambda model, x: finetune(model, x, labels_for(x), epochs=1, **QUIET), "x"),
    "evaluate": (network, lambda model, x: evaluate(model, x, labels_for(x)), "x"),
    "predict": (network, lambda model, x: predict(model, x), "x"),
}
TABLE = [
    *((call, bad) for call in HOT.items() for bad in {**WRONG_KIND, **WRONG_WIDTH}.items()),
    *((call, bad) for call in CODES.items() for bad in {**WRONG_KIND, **WRONG_WIDTH, **WRONG_VALUES}.items()),
    *(
        (call, bad)
        for call in LEARNING.items()
        for bad in {**WRONG_KIND, **WRONG_WIDTH, **WRONG_VALUES, **WRONG_DATASETS, **EMPTY}.items()
        if (call[0].endswith("validation"), bad[0]) != (True, "none")  # no validation rows are fine
    ),
]


@pytest.mark.parametrize(("call", "bad"), TABLE, ids=lambda pair: pair[0])
def test_data_that_do_not_fit_are_refused_by_name_and_change_nothing(call, bad):
    (_, (make, use, argument)), (_, (data, words)) = call, bad
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        use(model, data)
    assert str(caught.value).startswith((argument, f"labels of {argument}")), caught.value
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    "rows", [ROWS, ROWS.bool(), ROWS.int(), ROWS.double(), ROWS.half(), ROWS.numpy(), ROWS.view(30, 2, 3)]
)
def test_good_rows_of_any_number_type_pass_everywhere(rows):
    for make, use, _ in [*HOT.values(), *CODES.values(), *LEARNING.values()]:
        use(make(), rows)


COUNTS = [0, -1, 1.5, "3", None, True, math.nan]
RATES = [-0.1, math.nan, math.inf, "fast", [0.1, 0.2, 0.3]]
SETTINGS = {
    "epochs": [-1, 1.0, "2", True, None],
    "batch_size": COUNTS,
    "learning_rate": RATES,
    "momentum": RATES,
    "weight_decay": [*RATES, None],
    "estimator": ["CD", 1, CD, [CD(1)] * 3],
    "monitor_rows": COUNTS,
    "record_every": [0, -1, 1.5, "3"],
    "seed": [-1, 1.5, "1"],
    "generator": [3, "seed"],
}
FINE = {"epochs", "batch_size", "learning_rate", "weight_decay", "seed", "generator"}
FINETUNE_ONLY = {
    "head_learning_rate": RATES,
    "optimiser": ["lbfgs", 3, None],
    "patience": [0, 1.5, "3"],
    "validation": [ROWS, 3, (ROWS,), (ROWS, LABELS, LABELS), [ROWS, LABELS[:-1]]],
}


def refuses(model, call, name):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises((ValueError, TypeError), match=name):
        call()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in SETTINGS for value in SETTINGS[name]], ids=str)
def test_settings_of_training_that_do_not_fit_are_refused_by_name(name, value):
    settings = {"epochs": 1, "progress": False, name: value}
    rbm, model = machine(), stack()
    refuses(rbm, lambda: train(rbm, ROWS, **settings), name)
    refuses(model, lambda: model.pretrain(ROWS, **settings), name)
    if name in FINE and value is not None:
        net = network()
        refuses(net, lambda: finetune(net, ROWS, LABELS, **settings), name)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in FINETUNE_ONLY for value in FINETUNE_ONLY[name]])
def test_settings_of_finetuning_that_do_not_fit_are_refused_by_name(name, value):
    net = network()
    settings = {"epochs": 1, "validation": (ROWS, LABELS), name: value, **QUIET}
    refuses(net, lambda: finetune(net, ROWS, LABELS, **settings), name)


def test_patience_needs_validation_and_unknown_settings_are_named():
    net, model = network(), stack()
    refuses(net, lambda: finetune(net, ROWS, LABELS, epochs=1, patience=2), "patience is given without validation")
    refuses(model, lambda: model.pretrain(ROWS, learning_rates=0.1), "learning_rates")
    refuses(model, lambda: model.pretrain(ROWS, upward="both"), "upward is 'both'")


BOTH = {"seed": 0, "generator": torch.Generator()}


@pytest.mark.parametrize(
    "call",
    [
        lambda: RBM(3, 2, **BOTH),
        lambda: DBN([3, 2], **BOTH),
        lambda: train(machine(), ROWS, epochs=1, **BOTH),
        lambda: stack().pretrain(ROWS, **BOTH),
        lambda: stack().sample(3, 1, **BOTH),
        lambda: stack().to_mlp(2, **BOTH),
        lambda: machine().gibbs(ROWS, **BOTH),
        lambda: machine().sample_hidden(ROWS, **BOTH),
        lambda: initialise(network(), "normal", **BOTH),
        lambda: finetune(network(), ROWS, LABELS, epochs=1, **BOTH),
    ],
)
def test_a_seed_and_a_generator_are_one_too_many(call):
    with pytest.raises(ValueError, match="generator and seed are both given"):
        call()


@pytest.mark.parametrize("size", [0, -1, 2.5, "3", None, True])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda size: RBM(size, 2), "visible"),
        (lambda size: RBM(2, size), "hidden"),
        (lambda size: DBN([3, size]), r"units\[1\]"),
        (Bernoulli, "size"),
        (Spin, "size"),
        (Gaussian, "size"),
        (Categorical, "size"),
    ],
)
def test_layers_need_a_number_of_units(make, name, size):
    with pytest.raises((ValueError, TypeError), match=f"^{name} is"):
        make(size)


@pytest.mark.parametrize("units", [[], [784], 784, Bernoulli(3), None, 2.5, "deep"])
def test_stacks_need_two_layers(units):
    with pytest.raises((ValueError, TypeError), match=r"^units"):
        DBN(units)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Categorical(7, classes=3), "classes is 3 and size is 7"),
        (lambda: Categorical(4, classes=1), "classes is 1"),
        (lambda: Categorical(4, classes=0), "classes is 0"),
        (lambda: Categorical(4, classes=-2), "classes is -2"),
        (lambda: Categorical(4, classes=2.0), "classes is 2.0"),
        (lambda: Gaussian(3, precision=0.0), "precision"),
        (lambda: Gaussian(3, precision=torch.tensor([1.0, -1.0, 1.0])), "precision"),
        (lambda: Gaussian(3, precision=math.nan), "precision"),
        (lambda: Gaussian(3, precision=torch.ones(2)), "precision"),
        (lambda: Joint(), "parts"),
        (lambda: Joint(3, Bernoulli(2)), "parts"),
        (lambda: CD(0), "steps"),
        (lambda: PCD(0), "chains"),
        (lambda: PCD(3, steps=1.5), "steps"),
        (lambda: RBM(3, 2, weight_scale=-1.0), "weight_scale"),
        (lambda: RBM(3, 2, weight_scale=math.nan), "weight_scale"),
        (lambda: DBN([3, 2], weight_scale="small"), "weight_scale"),
        (lambda: machine().gibbs(ROWS, steps=-1), "steps"),
        (lambda: stack().sample(0), "n is 0"),
        (lambda: stack().sample(2, steps=-1), "steps"),
        (lambda: stack().to_mlp(0), "outputs"),
        (lambda: stack().to_mlp(2.0), "outputs"),
        (lambda: stack().to_mlp(2, dropout="half"), "dropout"),
        (lambda: finetune(nn.ReLU(), ROWS, LABELS, epochs=1), "model has no parameters"),
    ],
)
def test_other_arguments_that_do_not_fit_are_refused_by_name(call, name):
    with pytest.raises((ValueError, TypeError), match=name):
        call()


@pytest.mark.parametrize(
    ("units", "rows", "words"),
    [
        (Spin(6), ROWS * 3, r"data lies in 0\.\.3"),
        (Categorical(6, classes=3), ROWS, "data has groups of 3 columns that do not sum to 1"),
        (Joint(Bernoulli(3), Categorical(3)), ROWS, r"data\[:, 3:6\] has groups"),
        (Joint(Spin(3), Bernoulli(3)), 2 * ROWS - 1, r"data\[:, 3:6\] lies in -1\.\.1"),
    ],
)
def test_units_refuse_what_they_do_not_take(units, rows, words):
    rbm = RBM(units, 4, seed=0)
    refuses(rbm, lambda: train(rbm, rows, epochs=1, **QUIET), words)
