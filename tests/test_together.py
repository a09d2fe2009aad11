"""Seeds that are fine-tuned as one batched program come to what each comes to alone."""

import copy

import pytest
import torch

from dbn import datasets, finetune
from experiments import compare
from experiments.starts import STARTS
from experiments.together import Together, alike
from tests.support.selection import slow_but_for

SETTINGS = {"epochs": 4, "batch_size": 20, "learning_rate": 3e-3, "head_learning_rate": 1e-2, "seed": 0}


def splits(labels=200, seeds=3):
    return [datasets.load("mnist-sample", labels=labels, seed=seed) for seed in range(seeds)]


@pytest.mark.parametrize("start", ["xavier", "xavier-sigmoid", "normal-0.01"])
def test_each_seed_comes_to_what_it_comes_to_alone(start):
    each = splits()
    networks = [STARTS[start].build([784, 16, 10], None, seed) for seed in range(3)]
    alone = copy.deepcopy(networks)
    histories = Together(each, torch.device("cpu")).tuned(networks, **SETTINGS)
    for network, other, split, history in zip(networks, alone, each, histories, strict=True):
        expected = finetune(other, *split.train.labelled, validation=split.validation, progress=False, **SETTINGS)
        assert history["validation_error"] == pytest.approx(expected["validation_error"], abs=2e-3)  # two rows of 1,000
        assert history["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-3)
        assert not network.training
        for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_seeds_with_other_numbers_of_rows_do_not_stand_together():
    assert alike(splits())
    assert not alike([*splits(), *splits(labels=100)])


@pytest.mark.parametrize("flag", slow_but_for(["--side-by-side"], ["--side-by-side", "--no-side-by-side"]))
def test_a_comparison_has_one_format_either_way(flag, tmp_path):
    content = compare.main(["tiny", "--starts", "he", "dbn", flag, "--out", str(tmp_path)])
    arms = content["arms"]
    assert [len(arm["test_error"]) for arm in arms] == [2, 2]
    assert all(len(curve) == 2 for arm in arms for curve in arm["validation_curves"])
