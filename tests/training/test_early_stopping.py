"""Training that ends early: at the best score, or where the free-energy gap grows."""

import pytest
import torch

from dbn import DBN, EarlyStopping, NoisyReLU, log_likelihood, score_by_ais, train
from dbn.likelihood import exact_log_partition
from dbn.rbm import RBM
from tests.support.oracles import generator

QUIET = {"progress": False, "seed": 0}


def data(n=100):
    return (torch.rand(n, 6, generator=generator()) < 0.3).float()


class Peak:
    """A score that rises to its highest at one call and falls after it; keeps the weights that it saw."""

    def __init__(self, at):
        self.at, self.seen = at, []

    def __call__(self, rbm):
        self.seen.append(rbm.weight.detach().clone())
        return -abs(len(self.seen) - self.at)


def test_it_stops_after_its_patience_and_leaves_the_best():
    rbm, peak = RBM(6, 4, seed=0), Peak(3)
    history = train(rbm, data(), epochs=50, stopping=EarlyStopping(peak, patience=2), **QUIET)
    assert history["score"] == [-2.0, -1.0, 0.0, -1.0, -2.0]
    assert torch.equal(rbm.weight.detach(), peak.seen[2])
    assert not torch.equal(peak.seen[2], peak.seen[4])


def test_scores_are_computed_every_given_number_of_epochs():
    rbm, peak = RBM(6, 4, seed=0), Peak(2)
    history = train(rbm, data(), epochs=50, stopping=EarlyStopping(peak, every=3, patience=1), **QUIET)
    assert [record["epoch"] for record in history if "score" in record] == [3.0, 6.0, 9.0]
    assert len(history) == 9


def test_the_best_weights_are_kept_even_if_training_does_not_stop_early():
    rbm, peak = RBM(6, 4, seed=0), Peak(2)
    assert len(train(rbm, data(), epochs=4, stopping=EarlyStopping(peak), **QUIET)) == 4
    assert torch.equal(rbm.weight.detach(), peak.seen[1])


def test_averaged_weights_are_what_is_scored_and_left():
    rbm, ends, peak = RBM(6, 4, seed=0), [], Peak(4)
    stopping = EarlyStopping(peak, patience=1)
    train(rbm, data(), epochs=9, average_from=1, stopping=stopping,
          callback=lambda record: ends.append(rbm.weight.detach().clone()), **QUIET)  # fmt: skip
    assert torch.equal(peak.seen[0], ends[0])
    torch.testing.assert_close(peak.seen[3], torch.stack(ends[1:4]).mean(0))
    assert torch.equal(rbm.weight.detach(), peak.seen[3])
    plain = RBM(6, 4, seed=0)
    train(plain, data(), epochs=5, **QUIET)
    assert torch.equal(plain.weight.detach(), ends[4])  # scoring drew nothing and left the weights as they were


def test_the_gap_stops_training_where_it_grows():
    rows, other = data(20), 1 - data(20)
    rbm = RBM(6, 30, seed=0)
    history = train(
        rbm, rows, epochs=200, batch_size=5, validation=other, stopping=EarlyStopping(largest_gap=3.0), **QUIET
    )
    gaps = history["free_energy_gap"]
    assert len(gaps) < 200
    assert gaps[-1] > 3.0 >= max(gaps[:-1])


def test_annealing_scores_the_likelihood():
    rbm, rows = RBM(6, 4, seed=0), data()
    train(rbm, rows, epochs=3, stopping=EarlyStopping(score_by_ais(rows, temperatures=200), every=3), **QUIET)
    exact = float(log_likelihood(rbm, rows, exact_log_partition(rbm)).mean())
    assert score_by_ais(rows, temperatures=200)(rbm) == pytest.approx(exact, abs=0.02)


def test_each_machine_of_a_stack_stops_by_itself():
    stopping = [EarlyStopping(Peak(2), patience=1), None]
    histories = DBN([6, 5, 4], seed=0).pretrain(data(), epochs=6, stopping=stopping, **QUIET)
    assert [len(history) for history in histories] == [3, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither a score nor a largest_gap"),
        ({"score": len, "every": 0}, "every is 0"),
        ({"score": len, "patience": 0}, "patience is 0"),
        ({"largest_gap": -1.0}, "largest_gap is -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


def test_a_gap_needs_rows_held_back_and_an_energy():
    stopping = EarlyStopping(largest_gap=1.0)
    for rbm, more in ((RBM(6, 4), {}), (RBM(6, NoisyReLU(4)), {"validation": data()})):
        with pytest.raises(ValueError, match="needs validation rows and units with an energy"):
            train(rbm, data(), epochs=1, stopping=stopping, **more, **QUIET)
    with pytest.raises(TypeError, match="stopping is a int: give an EarlyStopping"):
        train(RBM(6, 4), data(), epochs=1, stopping=3, **QUIET)
