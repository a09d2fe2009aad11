"""What tells one run from another: a checkpoint is resumed by the same call alone, and refused by name by any other."""

from functools import partial

import pytest
import torch
from torch import Generator, nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from dbn import PCD, RBM, EarlyStopping, ParallelTempering, finetune, pseudo_log_likelihood, schedules, train
from tests.support.oracles import generator

QUIET = {"progress": False, "seed": 0}
X = (torch.rand(40, 6, generator=generator()) < 0.4).float()
Y = (X[:, 0] > 0).long()
WEIGHT = (torch.rand(40, generator=generator(1)) + 0.1).tolist()


def network():
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 2))
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 0.3, generator=generator(1))
    return model


def tuned(folder, **options):
    model = network()
    for index in options.pop("frozen", ()):
        model[index].requires_grad_(False)
    finetune(model, X, Y, epochs=2, checkpoint=folder, **options, **QUIET)
    return [value.clone() for value in model.parameters()]


def squared(power):
    return lambda outputs, labels: ((outputs - labels[:, None]) ** power).mean()


def absolute():
    return lambda outputs, labels: (outputs - labels[:, None]).abs().mean()


FINETUNING = {
    "class weights": [{"loss": nn.CrossEntropyLoss(weight=torch.tensor(w))} for w in ([1.0, 9.0], [9.0, 1.0])],
    "smoothing": [{"loss": nn.CrossEntropyLoss(label_smoothing=s)} for s in (0.0, 0.1)],
    "function": [{"loss": partial(f)} for f in (functional.cross_entropy, functional.multi_margin_loss)],
    "partial": [{"loss": partial(functional.cross_entropy, label_smoothing=s)} for s in (0.0, 0.2)],
    "code": [{"loss": loss} for loss in (squared(2), absolute())],
    "closure": [{"loss": squared(power)} for power in (2, 4)],
    "frozen": [{"frozen": (0,)}, {"frozen": (2,)}],
    "one frozen": [{}, {"frozen": (0,)}],
    "optimiser": [{"optimiser": partial(torch.optim.Adam, betas=(b, 0.9))} for b in (0.8, 0.9)],
}


@pytest.mark.parametrize("name", FINETUNING)
def test_fine_tuning_with_another_setting_is_refused(name, tmp_path):
    first, other = FINETUNING[name]
    done = tuned(tmp_path, **first)
    assert all(map(torch.equal, done, tuned(tmp_path, **first)))
    with pytest.raises(ValueError, match=r"holds a run with other (loss|trainable parameters|optimiser)"):
        tuned(tmp_path, **other)


class Items(Dataset):
    """Rows of a data set of the user's."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def shuffled(seed):
    return DataLoader(TensorDataset(X), 10, shuffle=True, generator=Generator().manual_seed(seed))


def weighted(weight):
    sampler = WeightedRandomSampler(weight, 40, generator=Generator().manual_seed(1))
    return DataLoader(TensorDataset(X), 10, sampler=sampler)


def scored(variables):
    def score(rbm):
        return float(pseudo_log_likelihood(rbm, X, variables=variables, seed=0).mean())

    return EarlyStopping(score, patience=9)


TRAINING = {
    "subset": [{"data": Subset(Items(X), range(start, start + 20))} for start in (0, 20)],
    "list of indices": [{"data": Subset(Items(X), list(range(start, start + 20)))} for start in (0, 20)],
    "many parts": [{"data": ConcatDataset([Items(X[k + at :][:3]) for k in range(12)])} for at in (0, 9)],
    "order": [{"data": shuffled(1)}, {"data": DataLoader(TensorDataset(X), 10)}],
    "seed of the order": [{"data": shuffled(1)}, {"data": shuffled(2)}],
    "weights of the rows": [{"data": weighted(WEIGHT)}, {"data": weighted(WEIGHT[::-1])}],
    "temperatures": [{"estimator": ParallelTempering(5, temperatures=n)} for n in (4, 3)],
    "schedule": [{"momentum": schedules.switch(0.5, 0.9, at)} for at in (1, 2)],
    "score": [{"stopping": scored(n)} for n in (2, 3)],
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_with_another_setting_is_refused(name, tmp_path):
    options = {"data": X, "epochs": 3, "learning_rate": 0.1, "checkpoint": tmp_path, **QUIET}
    first, other = TRAINING[name]
    train(RBM(6, 4, seed=0), **{**options, **first})
    with pytest.raises(ValueError, match=r"holds a run with other (data|estimator|momentum|stopping)"):
        train(RBM(6, 4, seed=0), **{**options, **other})


class Noisy(Items):
    """Rows with noise from a generator of the data set's own."""

    def __init__(self, rows):
        super().__init__(rows)
        self.generator = Generator().manual_seed(4)

    def __getitem__(self, index):
        return (self.rows[index] + torch.rand(6, generator=self.generator) > 0.9).float()


class Stop(Exception):
    """Ends a run in a callback."""


def interrupted(start, stop_at):
    """Start a run that a callback ends at its n-th record, and then the same again."""
    seen = []

    def callback(record):
        seen.append(record)
        if len(seen) == stop_at:
            raise Stop

    with pytest.raises(Stop):
        start(callback)
    return start(None)


WRAPS = {
    "itself": lambda data: data,
    "subset": lambda data: Subset(data, range(20)),
    "loader": lambda data: DataLoader(Subset(data, range(20)), 7),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_generator_that_a_data_set_holds_is_resumed(wrap, tmp_path):
    def run(folder, callback=None):
        rbm = RBM(6, 4, seed=0)
        settings = {"batch_size": 7, "checkpoint": folder, "checkpoint_seconds": 0, "callback": callback}
        history = train(rbm, WRAPS[wrap](Noisy(X)), epochs=3, **settings, **QUIET)
        return [*rbm.parameters()], history["reconstruction_error"]

    whole = run(tmp_path / "whole")
    resumed = interrupted(partial(run, tmp_path / "interrupted"), 2)
    assert all(map(torch.equal, whole[0], resumed[0]))
    assert whole[1] == resumed[1]


def test_a_score_may_draw_from_the_global_generator(tmp_path):
    stopping = EarlyStopping(lambda rbm: float(torch.rand(())), patience=99)

    def run(folder, callback=None):
        torch.manual_seed(3)
        options = {"estimator": PCD(5), "checkpoint": folder, "checkpoint_seconds": 0, "callback": callback}
        return train(RBM(6, 4, seed=0), X, epochs=5, stopping=stopping, **options, **QUIET)["score"]

    assert run(tmp_path / "whole") == interrupted(partial(run, tmp_path / "interrupted"), 3)


def test_a_list_of_batches_is_compared_too(tmp_path):
    def run(batches):
        return train(
            RBM(6, 4, seed=0), DataLoader(Items(X), batch_sampler=batches), epochs=1, checkpoint=tmp_path, **QUIET
        )

    run([[0, 1, 2], [3, 4]])
    with pytest.raises(ValueError, match="holds a run with other data"):
        run([[0, 1, 2], [5, 4]])
