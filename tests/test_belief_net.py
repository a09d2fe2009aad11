"""Greedy stacking: each RBM is trained alone on what the frozen ones below make of the data."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dbn import CD, DBN, PCD, Bernoulli, Categorical, Gaussian, Joint, ReLU, Spin, pretraining, train
from dbn.data import open_source
from dbn.pretraining import CHUNK
from dbn.rbm import RBM
from dbn.schedules import linear
from tests.support.oracles import UNITS, generator, rows, unit, visible_probabilities

QUIET = {"progress": False, "seed": 0}
STACKS = {
    "bernoulli": lambda: [6, 5, 4],
    "deep": lambda: [6, 5, 4, 3],
    "single": lambda: [6, 4],
    "gaussian": lambda: [Gaussian(4, precision=2.0, learned=True), 5, Spin(3)],
    "mixed": lambda: [Joint(Bernoulli(3), Categorical(3)), Categorical(6, classes=3), ReLU(3)],
    "learned_inside": lambda: [4, Gaussian(3, learned=True), 4],
}


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stack_of(name="bernoulli", scale=0.5) -> DBN:
    stack = DBN(STACKS[name](), seed=0)
    draw = generator(1)
    with torch.no_grad():
        for rbm in stack.layers:
            for value in (rbm.weight, rbm.visible_bias, rbm.hidden_bias):
                value.normal_(0, scale, generator=draw)
    return stack


def data_for(stack: DBN, n=60, seed=0):
    return rows(stack.layers[0].visible, n, seed)


def parameters(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", STACKS)
def test_each_layer_is_trained_on_the_encodings_of_those_below(name):
    stack, by_hand = stack_of(name), stack_of(name)
    data = data_for(stack)
    settings = {"epochs": 2, "learning_rate": 0.01, "batch_size": 25}
    histories = stack.pretrain(data, progress=False, generator=generator(3), **settings)
    draw, below = generator(3), data
    for rbm, history in zip(by_hand.layers, histories, strict=True):
        assert train(rbm, below, progress=False, generator=draw, **settings)["weight_norm"] == history["weight_norm"]
        with torch.no_grad():
            below = torch.cat([rbm.mean_hidden(part) for part in below.split(25)])
    assert same(parameters(stack), parameters(by_hand))


@pytest.mark.parametrize("name", ["bernoulli", "deep", "gaussian", "learned_inside"])
def test_layers_below_are_frozen_while_those_above_train(name):
    stack = stack_of(name)
    frozen = {}

    def watch(record):
        layer = int(record["layer"])
        frozen[layer] = parameters(stack.layers[layer - 1])
        for earlier in range(1, layer):
            assert same(frozen[earlier], parameters(stack.layers[earlier - 1]))

    first = parameters(stack)
    stack.pretrain(data_for(stack), epochs=3, learning_rate=0.01, callback=watch, **QUIET)
    assert sorted(frozen) == list(range(1, len(stack.layers) + 1))
    after = parameters(stack)
    assert not any(torch.equal(first[name], after[name]) for name in first if name.endswith("weight"))


def test_one_value_for_all_layers_is_that_value_for_each():
    results = []
    for expand in (lambda value: value, lambda value: [value, value], lambda value: (value, value)):
        stack = DBN([6, 5, 4], seed=0)
        stack.pretrain(
            data_for(stack), epochs=expand(2), batch_size=expand(20), learning_rate=expand(linear(0.1, 0.01, 2)),
            momentum=expand(0.4), weight_decay=expand(0.01), estimator=expand(CD(2)), **QUIET,
        )  # fmt: skip
        results.append(parameters(stack))
    assert same(results[0], results[1])
    assert same(results[0], results[2])


DIFFERENT = {
    "epochs": [1, 3], "batch_size": [10, 30], "learning_rate": [0.1, 0.02], "momentum": [0.0, 0.8],
    "weight_decay": [0.0, 0.1], "estimator": [CD(1), PCD(chains=7)],
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_value_a_layer_reaches_its_layer(name):
    results = []
    for values in (DIFFERENT[name], [DIFFERENT[name][0]] * 2):
        stack = DBN([6, 5, 4], seed=0)
        stack.pretrain(data_for(stack), **{"epochs": 2, name: values}, **QUIET)
        results.append(stack)
    assert same(*(parameters(stack.layers[0]) for stack in results))
    assert not same(*(parameters(stack.layers[1]) for stack in results))


@pytest.mark.parametrize("kind", ["tensor", "dataset", "memmap"])
def test_epochs_and_batch_sizes_a_layer_give_their_numbers_of_steps(kind, tmp_path):
    stack = DBN([6, 5, 4], seed=0)
    data = data_for(stack)
    np.save(tmp_path / "rows.npy", data.numpy())
    data = {"tensor": data, "dataset": TensorDataset(data), "memmap": np.load(tmp_path / "rows.npy", "r")}[kind]
    for cache_bytes in (0, 2**20):
        settings = {"epochs": [1, 2], "batch_size": [20, 7], "cache_bytes": cache_bytes}
        histories = stack.pretrain(data, **settings, **QUIET)
        assert [history["step"] for history in histories] == [[3.0], [9.0, 18.0]]


def test_estimators_of_layers_do_not_share_chains():
    stack, estimator = DBN([6, 5, 5], seed=0), PCD(chains=4)
    stack.pretrain(data_for(stack), epochs=1, estimator=estimator, **QUIET)
    assert estimator.hidden is None


BAD_SECOND = {
    "epochs": [1, -1], "batch_size": [10, 0], "learning_rate": [0.1, float("nan")], "momentum": [0.5, "high"],
    "weight_decay": [0.0, -1.0], "estimator": [CD(1), "CD"],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_SECOND)
@pytest.mark.parametrize("wrong", ["value", "length"])
def test_a_setting_that_does_not_fit_is_refused_before_the_first_layer_changes(name, wrong):
    stack = DBN([6, 5, 4], seed=0)
    before, values = parameters(stack), BAD_SECOND[name]
    values = values if wrong == "value" else [values[0]] * 3
    with pytest.raises((ValueError, TypeError), match=name):
        stack.pretrain(data_for(stack), **{name: values}, **QUIET)
    assert same(before, parameters(stack))


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("batch_size", [20, [20, 30, 10], 17])
def test_kept_and_recomputed_encodings_give_the_same_bits(name, batch_size):
    results = []
    for cache_bytes in (2**31, 0):
        stack = stack_of(name)
        sizes = batch_size[: len(stack.layers)] if isinstance(batch_size, list) else batch_size
        settings = {"epochs": 3, "learning_rate": 0.01, "batch_size": sizes}
        stack.pretrain(data_for(stack), cache_bytes=cache_bytes, validation=data_for(stack, 9), **settings, **QUIET)
        results.append(parameters(stack))
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, rtol=0, atol=0)


def test_a_loader_trains_a_stack_as_its_rows_do():
    data = data_for(DBN([6, 4]))
    results = []
    for settings in ({}, {"cache_bytes": 0}):
        stack = DBN([6, 5, 4], seed=0)
        loader = DataLoader(TensorDataset(data, torch.arange(60)), batch_size=20)
        histories = stack.pretrain(loader, epochs=2, **settings, **QUIET)
        assert [history["step"] for history in histories] == [[3.0, 6.0]] * 2
        results.append(parameters(stack))
    assert same(*results)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_samples_can_be_passed_upwards(name):
    seen = []

    class Watching(CD):
        def negative(self, rbm, positive, draw, buffers):
            seen.append(positive.visible.clone())  # the buffers of a step serve the next one too
            return super().negative(rbm, positive, draw, buffers)

    for upward, binary in (("samples", True), ("means", False)):
        stack = stack_of(name)
        seen.clear()
        stack.pretrain(data_for(stack), epochs=2, batch_size=60, learning_rate=0.01, upward=upward,
                       estimator=[CD(1), Watching()], **QUIET)  # fmt: skip
        assert bool(((seen[0] == 0) | (seen[0] == 1)).all()) is binary
        assert torch.equal(seen[0].sort(0).values, seen[1].sort(0).values) is not binary, "samples are drawn afresh"


@pytest.mark.parametrize("upward", ["means", "samples"])
def test_free_energy_gaps_compare_like_with_like(upward):
    stack = stack_of("bernoulli", scale=2.0)
    data = data_for(stack, 4000)
    histories = stack.pretrain(
        data, validation=data, epochs=1, learning_rate=0.0, upward=upward, monitor_rows=4000, **QUIET
    )
    with torch.no_grad():
        free_energy = stack.layers[1].free_energy(stack.layers[0].sample_hidden(data, seed=0))
    assert histories[0]["free_energy_gap"] == [0.0]
    # Both sides are means of 4000 free energies: 4 standard errors of their difference.
    assert abs(histories[1]["free_energy_gap"][0]) <= 4 * float(free_energy.std()) * (2 / 4000) ** 0.5


@pytest.mark.parametrize("name", STACKS)
def test_up_and_down_passes_are_those_of_the_machines(name):
    stack = stack_of(name)
    x = data_for(stack)
    with torch.no_grad():
        up = x
        for rbm in stack.layers:
            up = rbm.hidden.mean(rbm.hidden_bias + up @ rbm.weight)
        down = up
        for rbm in reversed(stack.layers):
            down = rbm.visible.mean(rbm.visible_bias + down @ rbm.weight.t())
    torch.testing.assert_close(stack.encode(x), up)
    torch.testing.assert_close(stack.decode(up), down)
    torch.testing.assert_close(stack.reconstruct(x), down)
    torch.testing.assert_close(stack.encode(x.numpy()), up)
    assert not stack.encode(x).requires_grad


def test_many_rows_pass_in_chunks():
    stack = stack_of()
    x = data_for(stack, 2 * CHUNK + 5)
    for function in (stack.encode, stack.reconstruct):
        torch.testing.assert_close(function(x)[-7:], function(x[-7:]))
        assert len(function(x)) == len(x)


@pytest.mark.parametrize("kind", [*UNITS, "noisy"])
def test_samples_are_rows_of_the_visible_units_and_follow_the_seed(kind):
    stack = DBN([unit(kind), Bernoulli(4), Bernoulli(3)], seed=0, weight_scale=0.5)
    before = torch.random.get_rng_state()
    for mean in (False, True):
        first, again, other = (stack.sample(20, 5, mean=mean, seed=seed) for seed in (1, 1, 2))
        assert first.shape == (20, stack.layers[0].visible.size)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        stack.layers[0].visible.constrain_data(first, "samples")
    assert torch.equal(before, torch.random.get_rng_state())


def distribution_of(stack: DBN):
    """Visible states and their probabilities under the stack, by enumeration: the top RBM, then down."""
    top, *below = reversed(stack.layers)
    states, p = visible_probabilities(top)
    for rbm in below:
        visible, _ = visible_probabilities(rbm)
        field = rbm.visible_field(states)
        conditional = (visible @ field.t() - rbm.visible.log_partition(field)).exp()  # (visible states, hidden states)
        states, p = visible, conditional @ p
    return states, p.detach()


def variation(samples, states, p):
    """Total variation of samples to p, and the bound it must stay below if they come from p."""
    found = (samples[:, None] == states).all(-1).double().mean(0)
    assert float(found.sum()) == pytest.approx(1.0)
    return float((found - p).abs().sum() / 2), float(4 * (p * (1 - p) / len(samples)).sqrt().sum() / 2)


@pytest.mark.parametrize("units", [[4, 3], [3, 4, 3], [3, 3, 3, 2], [Joint(Spin(2), Categorical(3)), Spin(3), 3]])
def test_long_runs_sample_the_enumerated_distribution(units):
    stack = DBN(units, seed=0, weight_scale=1.0)
    with torch.no_grad():
        for rbm in stack.layers:
            rbm.visible_bias.normal_(0, 0.7, generator=generator(2))
    states, p = distribution_of(stack)
    assert float(p.sum()) == pytest.approx(1.0)
    distance, bound = variation(stack.sample(20_000, steps=60, seed=3), states, p)
    assert distance < bound
    swapped = copy.deepcopy(stack)
    with torch.no_grad():
        swapped.layers[0].weight.neg_()
    distance, bound = variation(swapped.sample(20_000, steps=60, seed=3), states, p)
    assert distance > bound, "another stack must be told apart"


def test_transposed_initialisation_keeps_the_first_machine():
    stack = DBN([4, 3, 4], seed=0, weight_scale=1.0)
    first, second = stack.layers
    with torch.no_grad():
        first.visible_bias.normal_(generator=generator(4))
        first.hidden_bias.normal_(generator=generator(5))
        second.weight.copy_(first.weight.t())
        second.visible_bias.copy_(first.hidden_bias)
        second.hidden_bias.copy_(first.visible_bias)
    states, p = distribution_of(stack)
    expected_states, expected = visible_probabilities(first)
    assert torch.equal(states, expected_states)
    torch.testing.assert_close(p, expected.detach())


def test_callbacks_know_the_layer():
    stack, seen = DBN([6, 5, 4, 3], seed=0), []
    histories = stack.pretrain(data_for(stack), epochs=[1, 2, 1], callback=seen.append, **QUIET)
    assert [record["layer"] for record in seen] == [1, 2, 2, 3]
    records = [{"layer": place, **record} for place, history in enumerate(histories, 1) for record in history]
    assert records == seen


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_names_the_layer(progress, capsys):
    stack = DBN([6, 5, 4, 3], seed=0)
    stack.pretrain(data_for(stack), epochs=1, progress=progress, seed=0)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("layer 2/3" in err and "layer 3/3" in err) if progress else err == ""


@pytest.mark.parametrize("upward", ["means", "samples"])
def test_a_seed_decides_everything_and_the_global_generator_is_untouched(upward):
    results = []
    for seed in (1, 1, 2):
        before = torch.random.get_rng_state()
        stack = DBN([6, 5, 4], seed=seed)
        stack.pretrain(data_for(stack), epochs=1, upward=upward, progress=False, seed=seed)
        results.append(parameters(stack))
        assert torch.equal(before, torch.random.get_rng_state())
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_layers_own_what_they_learn_of_shared_units():
    stack = DBN([4, Gaussian(3, learned=True), 2], seed=0)
    assert stack.layers[0].hidden.log_precision is not stack.layers[1].visible.log_precision


def test_a_saved_stack_computes_the_same(tmp_path):
    stack = stack_of("gaussian")
    stack.pretrain(data_for(stack), epochs=1, **QUIET)
    stack.save(tmp_path / "stack.pt")
    back = DBN.load(tmp_path / "stack.pt")
    assert torch.equal(stack.encode(data_for(stack)), back.encode(data_for(stack)))
    assert torch.equal(stack.sample(5, 3, seed=0), back.sample(5, 3, seed=0))


def test_a_transposed_start_is_the_machine_below_upside_down():
    x = torch.rand(60, 6, generator=generator())
    stack = DBN([6, 5, 6, 5], seed=0)
    stack.pretrain(x, epochs=[3, 0, 0], start="transposed", progress=False, seed=0)
    first, second, third = stack.layers
    assert torch.equal(second.weight, first.weight.t())
    assert torch.equal(second.visible_bias, first.hidden_bias)
    assert torch.equal(second.hidden_bias, first.visible_bias)
    assert torch.equal(third.weight, first.weight)
    stack.pretrain(x, epochs=[0, 1, 0], start="transposed", upward="samples", progress=False, seed=0)
    assert not torch.equal(second.weight, first.weight.t())


def test_a_transposed_start_needs_the_units_of_two_below_before_anything_changes():
    stack = DBN([6, 5, 4], seed=0)
    before = stack.layers[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r'start is "transposed", but Bernoulli\(4\) lie two above Bernoulli\(6\)'):
        stack.pretrain(torch.zeros(10, 6), start="transposed", progress=False)
    with pytest.raises(ValueError, match="start is 'upside down'"):
        stack.pretrain(torch.zeros(10, 6), start="upside down", progress=False)
    assert torch.equal(stack.layers[0].weight, before)


@torch.no_grad()
def test_watched_samples_of_one_layer_are_independent_of_those_below():
    low, top = RBM(5, 50, weight_scale=0.0), RBM(50, 50, weight_scale=0.0)
    top.weight.fill_diagonal_(4.0)
    top.hidden_bias.fill_(-2.0)
    plan = pretraining.StackOptions([], "samples", "own", None, 0)
    source = open_source(torch.zeros(4000, 5), batch_size=100, like=low.weight)
    middle = pretraining._encoded(source, low, plan, 1, None)
    watched = pretraining._encoded(middle, top, plan, 2, None).representative_rows(4000).mean()
    expected = (torch.sigmoid(torch.tensor(-2.0)) + torch.sigmoid(torch.tensor(2.0))) / 2
    assert float(watched) == pytest.approx(float(expected), abs=0.01)
