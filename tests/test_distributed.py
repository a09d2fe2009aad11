"""Several processes do as one: the same updates, the same likelihood, the same parameters on all."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from dbn import (
    CD,
    DBN,
    PCD,
    EarlyStopping,
    FastPCD,
    Gaussian,
    NoisyReLU,
    ParallelTempering,
    ais,
    bracket,
    datasets,
    distributed,
    exact_log_partition,
    finetune,
    reverse_ais,
    score_by_ais,
    train,
)
from dbn.likelihood import annealing
from dbn.rbm import RBM
from tests.machines import draw, generator, machine, rows, visible_probabilities
from tests.test_estimators import EXAMPLES, LESSONS, centred_teacher, kl_from, lesson_machine

X = torch.rand(402, 12, generator=generator(1))
Y = (X[:, :4].sum(1) > 2).long()
QUIET = {"progress": False, "seed": 3}
MEANS = CD(1, mean_field=True)


def numbers(module):
    return [value.detach().clone() for value in module.parameters()]


def furthest(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


# What processes exchange


def test_one_process_is_alone_and_changes_nothing():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.portion(7) == (0, 7, 1.0)
    assert distributed.rows_of([1, 2]) == ([1, 2], 1.0)
    value = torch.ones(2)
    assert distributed.add_up(value) is value
    assert distributed.means(1.0, value)[0] is value
    assert distributed.weighed(value, 1.0) is value
    assert distributed.gathered_rows(value) is value
    assert distributed.gathered("a") == ["a"]
    assert distributed.spread(str, [1, 2]) == ["1", "2"]
    draw_from = generator()
    assert distributed.draws(draw_from, value.device) == (draw_from, draw_from)
    assert distributed.draws(None, value.device) == (None, None)
    with distributed.start():
        assert distributed.world_size() == 1


def portions(count):
    return distributed.portion(count), distributed.rows_of(list(range(count)))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 100])
def test_every_thing_is_one_process_s(three, count):
    found = three(portions, count)
    assert [i for (first, last, _), _ in found for i in range(first, last)] == list(range(count))
    sizes = [last - first for (first, last, _), _ in found]
    assert max(sizes) - min(sizes) <= 1
    assert sum(share for _, (_, share) in found) == pytest.approx(1.0 if count else 0.0)
    assert all(len(part) == max(size, min(count, 1)) for size, (_, (part, _)) in zip(sizes, found, strict=True))


def exchanged():
    own = torch.full((2, 2), float(distributed.rank()))
    with distributed.alone():
        alone = distributed.world_size()
    return {
        "sum": distributed.add_up(own.clone()),
        "means": distributed.means(0.5, own[0], own[:, :1]),
        "sums": distributed.sums(1.0, float(distributed.rank())),
        "largest": distributed.largest(3 - distributed.rank(), distributed.rank()),
        "agreed": distributed.agreed("" if distributed.is_main() else "no"),
        "nothing": distributed.agreed(""),
        "numbers": distributed.numbers_of_main({"a": 0.1 + distributed.rank()}),
        "rows": distributed.gathered_rows(own[: 1 + distributed.rank()]),
        "spread": distributed.spread(lambda item: (item, distributed.world_size()), [5, 6, 7]),
        "alone": alone,
        "seed": distributed.own_seed(5),
    }


def test_what_is_exchanged_is_the_same_on_both(two):
    ours, theirs = two(exchanged)
    assert (ours.pop("seed"), theirs.pop("seed") != 5) == (5, True)
    assert torch.equal(ours["sum"], torch.ones(2, 2))
    assert [value.tolist() for value in ours["means"]] == [[0.5, 0.5], [[0.5], [0.5]]]
    assert ours["rows"].tolist() == [[0, 0], [1, 1], [1, 1]]
    for name in ("sum", "rows"):
        assert torch.equal(ours.pop(name), theirs.pop(name))
    assert ours.pop("means")[0].tolist() == theirs.pop("means")[0].tolist()
    assert ours == theirs == {
        "sums": [2.0, 1.0], "largest": (3, 1), "agreed": "no", "nothing": "", "numbers": {"a": 0.1},
        "spread": [(5, 1), (6, 1), (7, 1)], "alone": 1,
    }  # fmt: skip


def work_of_two(item):
    if item == 6:
        raise ArithmeticError("six")
    return item


def spreading():
    with pytest.raises(ArithmeticError, match="six"):
        distributed.spread(work_of_two, [5, 6, 7])
    return distributed.rank()


def test_an_error_in_one_process_s_work_is_raised_on_all(two):
    assert two(spreading) == [0, 1]


def failing():
    with pytest.raises(OSError, match="full"):
        distributed.from_main(full)
    return distributed.from_main(distributed.rank)


def full():
    raise OSError("the disk is full")


def test_an_error_of_the_main_process_is_raised_on_all(two):
    assert two(failing) == [0, 0]


def drawn(seed):
    order, own = distributed.draws(None if seed is None else generator(seed + distributed.rank()), torch.device("cpu"))
    drawn = torch.randperm(9, generator=order)
    later = [distributed.draws(order, order.device, spent=True).own for _ in range(2)]
    return drawn, *(torch.rand(9, generator=each) for each in (own, *later))


@pytest.mark.parametrize("seed", [None, 4])
def test_order_is_drawn_alike_and_samples_are_not(two, seed):
    (order, *ours), (same_order, *theirs) = two(drawn, seed)
    assert torch.equal(order, same_order)
    samples = [*ours, *theirs]
    assert not any(torch.equal(a, b) for i, a in enumerate(samples) for b in samples[:i])


def parting():
    values = [torch.zeros(3), torch.full((2,), float(distributed.rank()))]
    distributed.check_alike(values[:1], "the machine")
    distributed.check_alike(values, "the machine")


def test_processes_that_part_are_found_out(two):
    with pytest.raises(RuntimeError, match="the machine is no longer the same on all 2 processes"):
        two(parting)


# Learning


def container(kind, folder):
    if kind == "memmap":
        path = folder / "x.npy"
        if distributed.is_main():
            np.save(path, X.numpy())
        distributed.gathered(None)
        return np.load(path, mmap_mode="r")
    dataset = TensorDataset(X, Y)
    loader = DataLoader(dataset, 100, shuffle=True, generator=generator(7))
    return {"tensor": X, "dataset": dataset, "loader": loader}[kind]


RECIPES = {
    "plain": {},
    "centred": {"centring": 0.1},
    "held back": {"l1": 1e-3, "max_norm": 0.5, "sparsity_target": 0.2, "sparsity_cost": 1.0},
    "clipped": {"clip": 0.05, "centring": 0.1},
    "averaged": {"average_from": 10},
}


def by_means(kind, folder, recipe, **units):
    """100 updates of means in float64, of which every fifth has two rows alone."""
    rbm = RBM(units.get("visible", 12), units.get("hidden", 8), seed=0).double()
    history = train(
        rbm, container(kind, folder), epochs=20, validation=X[:50], estimator=MEANS, **RECIPES[recipe], **QUIET
    )
    return numbers(rbm), [{**record, "seconds": 0} for record in history]


def assert_as_one(many, one, within=1e-12):
    (ours, record), (theirs, other) = many[0], one
    assert record[-1]["step"] == other[-1]["step"] == 100
    assert furthest(ours, theirs) < within
    assert all(furthest(ours, parameters) == 0 and records == record for parameters, records in many)
    for mine, its in zip(record, other, strict=True):
        assert mine == pytest.approx(its, abs=100 * within)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_processes_with_half_the_batch_learn_as_one(two, recipe, tmp_path):
    assert_as_one(two(by_means, "tensor", tmp_path, recipe), by_means("tensor", tmp_path, recipe))


def in_single(_=None):
    """100 updates of means in float32, on digits."""
    rbm, x = RBM(784, 64, seed=0), datasets.load("mnist-sample", seed=0).train.x[:2000]
    history = train(rbm, x, epochs=5, estimator=MEANS, learning_rate=0.01, **QUIET)
    return numbers(rbm), history.last


def test_in_single_precision_they_part_by_rounding(two):
    (ours, record), _ = two(in_single)
    theirs, other = in_single()
    assert record["step"] == other["step"] == 100
    assert 0 < furthest(ours, theirs) < 1e-6


@pytest.mark.parametrize("recipe", RECIPES)
def test_three_of_which_one_has_no_row_at_times_do_too(three, recipe, tmp_path):
    assert_as_one(three(by_means, "tensor", tmp_path, recipe), by_means("tensor", tmp_path, recipe))


@pytest.mark.parametrize("kind", ["memmap", "dataset", "loader"])
def test_every_container_is_split(three, kind, tmp_path):
    assert_as_one(three(by_means, kind, tmp_path, "plain"), by_means(kind, tmp_path, "plain"))


def test_precisions_are_learned_as_one(three, tmp_path):
    units = {"visible": Gaussian(12, precision=torch.full((12,), 2.0), learned=True)}
    assert_as_one(three(by_means, "tensor", tmp_path, "plain", **units), by_means("tensor", tmp_path, "plain", **units))


def test_a_sampler_of_parts_is_refused():
    sampler = DistributedSampler(TensorDataset(X), num_replicas=2, rank=0)
    with pytest.raises(ValueError, match="data has a DistributedSampler: give the same loader on every process"):
        train(RBM(12, 3), DataLoader(TensorDataset(X), 100, sampler=sampler), epochs=1)


ESTIMATORS = {
    "CD": CD(1),
    "PCD": PCD(31),
    "PCD from data": PCD(31, start="data"),
    "FastPCD": FastPCD(31, rate=0.05),
    "tempering": ParallelTempering(31, 3),
}


def stacked(estimator):
    """A stack that is drawn anew on every process, so that all but the first must give theirs up."""
    torch.manual_seed(distributed.rank())
    stack = DBN([12, 9, 5])
    settings = {"epochs": 3, "estimator": ESTIMATORS[estimator], "progress": False, "binarise": "sample"}
    stopping = EarlyStopping(score_by_ais(X, chains=8, temperatures=20), patience=1)
    histories = stack.pretrain(X, validation=X[:99], centring=0.01, upward="samples", stopping=[None, None], **settings)
    train(stack.layers[0], X, stopping=stopping, **settings)
    return numbers(stack), [[{**record, "seconds": 0} for record in history] for history in histories]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_samples_leave_all_processes_with_the_same_stack(three, estimator):
    (first, records), *others = three(stacked, estimator)
    for parameters, found in others:
        assert furthest(first, parameters) == 0
        assert found == records


def chains_of(estimator):
    train(machine("bernoulli", "spin"), torch.ones(9, 3), epochs=1, estimator=estimator, **QUIET)
    return estimator.state_dict()["hidden"]


def test_every_process_has_chains_of_its_own_and_none_has_none(three):
    parts = three(chains_of, PCD(100))
    assert [len(part) for part in parts] == [34, 33, 33]
    assert not torch.equal(parts[1], parts[2])
    with pytest.raises(ValueError, match="chains is 2 for 3 processes: give at least one for each"):
        three(chains_of, PCD(2))


def taught(seed):
    """KL of a student from its teacher, in nats."""
    lesson = LESSONS[0]
    teacher, student = centred_teacher(*lesson), lesson_machine(*lesson[:2], 0.1, 99)
    v, p = visible_probabilities(teacher)
    settings = {"epochs": 8, "weight_decay": 0.0, "momentum": 0.5, "progress": False, "seed": seed}
    x = draw(v, p, EXAMPLES)
    train(student, x, learning_rate=lambda now: 0.5 * (1 - now / 8.01), estimator=PCD(100), **settings)
    return kl_from(teacher, student)


def test_students_of_two_processes_are_as_near_to_the_teacher(two):
    """Of 5 seeds each; the difference of the means within 3 standard errors."""
    both = torch.tensor([two(taught, seed)[0] for seed in range(5)])
    one = torch.tensor([taught(seed) for seed in range(5)])
    error = ((both.var() + one.var()) / 5).sqrt()
    assert float((both.mean() - one.mean()).abs()) < 3 * float(error)
    assert not torch.equal(both, one)


def wrongly(settings):
    train(RBM(12, 8, seed=0), X, **{**settings[distributed.rank()], **QUIET})


def test_processes_with_other_arguments_do_not_wait_for_each_other(two):
    with pytest.raises(ValueError, match="the processes have other batch_size, epochs: give all of them the same"):
        two(wrongly, [{"epochs": 1}, {"epochs": 2, "batch_size": 7}])


@pytest.mark.parametrize("what", ["checkpoint", "validation", "checkpoint_seconds"])
def test_what_the_main_process_alone_is_given_is_refused(two, what, tmp_path):
    with pytest.raises(ValueError, match=f"the processes have other {what}"):
        two(given_to_one, tmp_path, what)


def given_to_one(folder, what):
    given = {"checkpoint": folder, "validation": X[:9], "checkpoint_seconds": 5.0}
    settings = {name: value for name, value in given.items() if name != what or distributed.is_main()}
    train(RBM(12, 8, seed=0), X, epochs=1, **settings, **QUIET)


# Fine-tuning


def tuned(network, optimiser, **settings):
    history = finetune(network, X, Y, optimiser=optimiser, epochs=20, validation=(X[:80], Y[:80]), **settings, **QUIET)
    return numbers(network), [{**record, "seconds": 0} for record in history]


def perceptron():
    torch.manual_seed(5 + distributed.rank())
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 2))


def tuned_perceptron(optimiser, **settings):
    return tuned(perceptron(), optimiser, **settings)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_fine_tuning_by_several_is_fine_tuning_by_one(two, three, optimiser):
    settings = {"learning_rate": 0.01, "head_learning_rate": 0.02, "weight_decay": 1e-4}
    theirs, record = tuned_perceptron(optimiser, **settings)
    for many in (two, three):
        for ours, found in many(tuned_perceptron, optimiser, **settings):
            assert furthest(ours, theirs) < 1e-5
            assert found == [pytest.approx(entry, abs=1e-5) for entry in record]


class Forked(nn.Module):
    """A network with a part that its output does not come from, and batch normalisation."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = perceptron(), nn.Linear(3, 3)
        self.used.insert(1, nn.BatchNorm1d(16))
        with torch.no_grad():
            self.idle.weight.zero_()

    def forward(self, x):
        return self.used(x)


def forked(rows, batch_size):
    network = Forked()
    finetune(network, X[:rows], Y[:rows], epochs=3, batch_size=batch_size, progress=False, seed=0)
    return [*numbers(network), *(value.double() for value in network.buffers())]


def test_parts_that_are_not_used_and_means_of_normalisation_are_the_same(two):
    ours, theirs = two(forked, 400, 100)
    assert furthest(ours, theirs) == 0
    with pytest.raises(ValueError, match="a batch of 2 rows leaves one of 2 processes fewer than two"):
        two(forked, 402, 100)


def seen_rows(epochs):
    """The rows that this process is shown by a loader that shuffles from the global generator."""
    torch.manual_seed(distributed.rank())
    loader = DataLoader(TensorDataset(torch.arange(40.0)[:, None].expand(40, 12) / 40, Y[:40]), 10, shuffle=True)
    seen = []
    network = perceptron()
    network.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0][:, 0]) if module.training else None)
    finetune(network, loader, epochs=epochs, progress=False)
    return (torch.cat(seen) * 40).round().int().tolist()


def test_a_loader_without_a_generator_has_one_order_for_all(two):
    ours, theirs = two(seen_rows, 2)
    for epoch in (slice(0, 20), slice(20, 40)):
        assert sorted(ours[epoch] + theirs[epoch]) == list(range(40))
    assert ours[:20] != ours[20:]


def with_dropout():
    network = DBN([12, 9, 5], seed=0).to_mlp(2, dropout=0.5, input_dropout=0.2, seed=0)
    first = []
    network[0].register_forward_hook(lambda module, _, outputs: first.append(outputs == 0) if module.training else None)
    return tuned(network, "sgd", patience=2), first[0]


def test_dropout_is_drawn_by_each_and_the_network_is_the_same(two):
    ((ours, record), dropped), ((theirs, found), others) = two(with_dropout)
    assert furthest(ours, theirs) == 0
    assert found == record
    assert not torch.equal(dropped, others)


def runaway():
    with pytest.raises(RuntimeError, match="was put back to step 0"):
        tuned(perceptron(), "sgd", learning_rate=1e6, loss=lambda outputs, labels: outputs.square().mean() * 1e3)
    return distributed.rank()


def test_all_processes_see_that_one_has_diverged(two):
    assert two(runaway) == [0, 1]


# Likelihood


def estimates(chains, temperatures):
    rbm = machine("bernoulli", "bernoulli", scale=1.0)
    data = rows(rbm.visible, 40)
    forward = ais(rbm, chains=chains, temperatures=temperatures, **QUIET)
    backward = reverse_ais(rbm, data, temperatures=temperatures, **QUIET)
    return forward, backward, bracket(rbm, data, chains=chains, temperatures=temperatures, gibbs_steps=5, **QUIET)


def test_annealing_on_two_processes_has_all_chains_and_the_same_answer_on_both(two):
    ours, theirs = two(estimates, 501, 50)
    assert ours == theirs
    forward, backward, both = ours
    exact = float(exact_log_partition(machine("bernoulli", "bernoulli", scale=1.0)))
    assert (forward.chains, backward.chains, both.reverse.chains) == (501, 40, 501)
    assert forward.low < exact < forward.high
    alone, *_ = estimates(501, 50)
    assert alone.low < forward.value < alone.high
    assert both.trusted


def weights_and_estimate(monkeypatch_name="_annealed"):
    """The log weights of this process's chains, and what all made of theirs."""
    kept, original = [], getattr(annealing, monkeypatch_name)

    def keeping(*arguments):
        kept.append(original(*arguments))
        return kept[-1]

    setattr(annealing, monkeypatch_name, keeping)
    try:
        found = ais(machine("spin", "bernoulli", scale=1.0), chains=11, temperatures=20, **QUIET)
    finally:
        setattr(annealing, monkeypatch_name, original)
    return torch.cat(kept), found


def test_log_weights_are_merged_exactly(three):
    found = three(weights_and_estimate)
    weights = torch.cat([own for own, _ in found])
    assert [len(own) for own, _ in found] == [4, 4, 3]
    estimate = found[0][1]
    base = annealing._log_partition_of_base(rbm := machine("spin", "bernoulli", scale=1.0), rbm.visible_bias.detach())
    assert estimate.value == pytest.approx(base + float(weights.logsumexp(0)) - float(torch.tensor(11.0).log()))
    assert estimate.ess == pytest.approx(float(weights.softmax(0).square().sum().reciprocal()))


def test_more_processes_than_chains_are_no_harm(three):
    assert three(estimates, 2, 5)[2][0].chains == 2


def test_units_without_an_energy_learn_on_several_processes(two):
    ours, theirs = two(noisy)
    assert furthest(ours, theirs) == 0
    assert furthest(ours, numbers(RBM(12, NoisyReLU(5), seed=0))) > 0


def noisy():
    rbm = RBM(12, NoisyReLU(5), seed=0)
    train(rbm, X, epochs=2, **QUIET)
    return numbers(rbm)
