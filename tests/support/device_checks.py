"""What tests of a device share: rows, small runs, and the laws that hold between a device and the CPU."""

import scipy.stats
import torch

from dbn import CD, DBN, PCD, FastPCD, ParallelTempering, finetune
from tests.support.binary_rows import pixels

QUIET = {"progress": False, "seed": 0}
ESTIMATORS = {
    "CD": lambda: CD(2, sample_visible=True),
    "PCD": lambda: PCD(7),
    "FastPCD": lambda: FastPCD(7),
    "tempering": lambda: ParallelTempering(5, 3),
}
#: A chance of 1 in 10,000 that a law of means fails though it holds.
CHANCE = 1e-4
ROWS = pixels(120, 8).float()
LABELS = (ROWS[:, 0] > 0.5).long()


def on(device, seed=0):
    return torch.Generator(device).manual_seed(seed)


def numbers(*modules):
    return [value.detach().clone() for module in modules for value in module.state_dict().values()]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def assert_sound(values, device):
    """Law: all values are finite, and lie on the device."""
    for value in values:
        assert value.device.type == device.type
        assert bool(value.isfinite().all())


def assert_close(ours, theirs, device, **tolerances):
    """Law: what was computed on the device is what the CPU computes, but for rounding."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.device.type == device.type
        torch.testing.assert_close(one.cpu(), other, **tolerances)


def assert_alike(ours, theirs):
    """Law: two samples of numbers have one mean, by Welch's test."""
    assert scipy.stats.ttest_ind(ours, theirs, equal_var=False).pvalue > CHANCE


def pretrained(device, **settings):
    stack = DBN([8, 6, 4], seed=0).to(device)
    estimators = [CD(1), PCD(5)]
    stack.pretrain(
        ROWS, epochs=[2, 1], batch_size=30, estimator=estimators, **{"validation": ROWS[:9]} | settings, **QUIET
    )
    return stack


def tuned(device, dropout=0.0, **settings):
    network = DBN([8, 6, 4], seed=0).to_mlp(2, dropout=dropout, seed=0)
    settings = {"learning_rate": 0.01, "validation": (ROWS, LABELS), "device": device, **settings}
    return network, finetune(network, ROWS, LABELS, epochs=8, batch_size=20, **settings, **QUIET)
