"""Stacks and networks work on the device that --device names, and compute what the CPU computes."""

import copy

import pytest
import torch

from dbn import DBN, evaluate, initialise, predict
from dbn.initialisation import SCHEMES
from tests.support.device_checks import LABELS, ROWS, assert_close, assert_sound, numbers, pretrained, same, tuned

RECIPES = [{}, {"upward": "samples", "binarise": "sample", "centring": 0.01, "average_from": 1}, {"cache_bytes": 0}]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_stack_pretrains_encodes_decodes_and_samples(recipe, device):
    stack = pretrained(device, **recipe)
    assert_sound(numbers(stack), device)
    assert same(numbers(stack), numbers(pretrained(device, **recipe)))
    there = copy.deepcopy(stack).cpu()
    code = there.encode(ROWS)
    results = [[one.encode(ROWS), one.decode(code), one.reconstruct(ROWS)] for one in (stack, there)]
    assert_close(*results, device)
    drawn = stack.sample(50, steps=5, seed=1)
    assert_sound([drawn], device)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(drawn, stack.sample(50, steps=5, seed=1))


def test_a_stack_becomes_the_network_that_it_computes(device):
    stack, there = pretrained(device), pretrained(device).cpu()
    networks = [stack.to_mlp(3, seed=0)[:-1], stack.to_autoencoder()]
    results = [network(ROWS.to(device)).detach() for network in networks]
    assert_close(results, [there.encode(ROWS), there.reconstruct(ROWS)], device)
    for transfer in ("relu_rescaled", "relu_copied"):
        network = stack.to_mlp(3, transfer=transfer, data=ROWS, seed=0)
        assert_sound(numbers(network), device)


TUNINGS = {
    "adam": {},
    "adam and dropout": {"dropout": 0.5, "head_learning_rate": 0.02, "weight_decay": 1e-3},
    "adam within a norm": {"dropout": 0.2, "max_norm": 1.0},
    "sgd": {"optimiser": "sgd"},
    "sgd, dropout and a norm": {"optimiser": "sgd", "dropout": 0.5, "max_norm": 1.0},
    "AdamW": {"optimiser": torch.optim.AdamW},
}


@pytest.mark.parametrize("name", TUNINGS)
def test_networks_are_tuned_judged_and_repeat(name, device):
    network, history = tuned(device, **TUNINGS[name])
    assert_sound(numbers(network), device)
    assert same(numbers(network), numbers(tuned(device, **TUNINGS[name])[0]))
    assert history["loss"][-1] < history["loss"][0]
    if "max_norm" in TUNINGS[name]:
        assert all(float(value.norm(dim=1).max()) < 1.001 for value in numbers(network) if value.dim() > 1)
    there = copy.deepcopy(network).cpu()
    assert evaluate(network, ROWS, LABELS) == pytest.approx(evaluate(there, ROWS, LABELS), abs=1e-5)
    found = predict(network, ROWS)
    assert found.device.type == device.type
    assert torch.equal(found.cpu(), predict(there, ROWS))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_networks_start_by_every_scheme(scheme, device):
    starts = []
    for _ in range(2):
        network = DBN([8, 6], weight_scale=1.0, seed=0).to_mlp(2, seed=0).to(device)
        before = network[0].weight.detach().clone()
        assert initialise(network, scheme, seed=0) is network
        starts.append(numbers(network))
    assert_sound(starts[0], device)
    assert same(*starts)
    if scheme == "permuted":
        assert torch.equal(network[0].weight.detach().flatten().sort().values, before.flatten().sort().values)
        assert not torch.equal(network[0].weight, before)
