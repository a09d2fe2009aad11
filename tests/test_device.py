"""Whatever works on a CPU works on the device that --device names, and comes to the same."""

import copy

import pytest
import scipy.stats
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dbn import (
    CD,
    DBN,
    PCD,
    EarlyStopping,
    FastPCD,
    ParallelTempering,
    ais,
    bracket,
    evaluate,
    exact_log_partition,
    finetune,
    initialise,
    log_likelihood,
    lower_bound,
    predict,
    pseudo_log_likelihood,
    reverse_ais,
    score_by_ais,
    train,
)
from dbn.arguments import choose_device
from dbn.initialisation import SCHEMES
from dbn.rbm import RBM
from tests.machines import (
    ENUMERABLE_PAIRS,
    HALF_ENUMERABLE_PAIRS,
    PAIRS,
    UNITS,
    assert_distributed,
    draw,
    generator,
    machine,
    rows,
    unit,
    visible_probabilities,
)
from tests.test_ais import standard_error
from tests.test_distributed_resume import Broken, breaking
from tests.test_evidence import stack_of
from tests.test_training import CONTAINERS, pixels
from tests.test_units import assert_moments, mild_field

QUIET = {"progress": False, "seed": 0}
WITH_NOISY = [("noisy", kind) for kind in (*UNITS, "noisy")] + [(kind, "noisy") for kind in UNITS]
ESTIMATORS = {
    "CD": lambda: CD(2, sample_visible=True),
    "PCD": lambda: PCD(7),
    "FastPCD": lambda: FastPCD(7),
    "tempering": lambda: ParallelTempering(5, 3),
}
MANY_CHAINS = {
    "CD": ESTIMATORS["CD"],
    "PCD": lambda: PCD(50),
    "FastPCD": lambda: FastPCD(50),
    "tempering": lambda: ParallelTempering(50, 3),
}
TRAINABLE = [(*pair, name) for name in ESTIMATORS for pair in (*PAIRS, *(WITH_NOISY if name != "tempering" else ()))]
TRAINED = [*PAIRS, *WITH_NOISY]
#: A chance of 1 in 10,000 that a law of means fails though it holds.
CHANCE = 1e-4
ROWS = pixels(120, 8).float()
LABELS = (ROWS[:, 0] > 0.5).long()


def pytest_generate_tests(metafunc):
    """Every pair of units on a GPU; on the CPU, where other tests have them all, every kind of unit with itself."""
    here = metafunc.config.getoption("--device", "cpu") == "cpu"
    for names, cases in ((("visible", "hidden", "name"), TRAINABLE), (("visible", "hidden"), TRAINED)):
        if set(names) <= set(metafunc.fixturenames) and not any(metafunc.definition.iter_markers("parametrize")):
            metafunc.parametrize(names, [case for case in cases if not here or case[0] == case[1]])
            return


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """No power fails in these tests: what is slow about saving is left out."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


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


def test_auto_is_the_best_there_is(device):
    assert choose_device(str(device)) == device
    found = choose_device("auto")
    assert device.type in ("cpu", found.type)
    network = nn.Sequential(nn.Linear(8, 2))
    finetune(network, ROWS, LABELS, epochs=1, device="auto", **QUIET)
    assert_sound(numbers(network), found)


def test_every_pair_trains_by_every_estimator_to_the_same_bits_twice(visible, hidden, name, device):
    start, results = machine(visible, hidden, scale=0.1).float(), []
    for _ in range(2):
        rbm, estimator = copy.deepcopy(start).to(device), ESTIMATORS[name]()
        train(rbm, rows(start.visible, 20), epochs=3, batch_size=10, learning_rate=1e-3, estimator=estimator, **QUIET)
        results.append(numbers(rbm, estimator))
    assert_sound(results[0], device)
    assert same(*results)
    assert not same(numbers(rbm), numbers(start.to(device)))


def test_what_is_not_drawn_is_what_the_cpu_computes(visible, hidden, device):
    start, results = machine(visible, hidden, scale=0.1), []
    low, high = start.hidden.support
    penalties = {"sparsity_target": max(low, -1) / 2 + min(high, 1) / 2 + 0.1, "l1": 1e-3, "max_norm": 1.0, "clip": 1.0}
    for place in (device, "cpu"):
        rbm, settings = copy.deepcopy(start).to(place), {"batch_size": 30, "centring": 0.1, "average_from": 1}
        data = rows(start.visible, 30)
        history = train(
            rbm, data, epochs=3, learning_rate=1e-2, estimator=CD(mean_field=True), **settings, **penalties, **QUIET
        )
        results.append((numbers(rbm), history["reconstruction_error"]))
    (ours, errors), (theirs, errors_there) = results
    assert_close(ours, theirs, device, rtol=1e-9, atol=1e-9)
    assert errors == pytest.approx(errors_there)


def likelihoods(name, device, seeds, rate=0.2):
    """Exact mean log-likelihoods of small machines of several seeds, of rows in two modes."""
    x, found = two_modes(200), []
    for seed in seeds:
        rbm = RBM(6, 4, weight_scale=0.1, seed=seed).to(device)
        settings = {"epochs": 10, "batch_size": 50, "estimator": MANY_CHAINS[name](), "progress": False, "seed": seed}
        train(rbm, x, learning_rate=rate, **settings)
        found.append(float(log_likelihood(rbm, x, exact_log_partition(rbm)).mean()))
    return found


def two_modes(n):
    """Rows (n, 6) all off or all on, with a tenth of the numbers flipped."""
    common, flips = (torch.rand(n, width, generator=generator(width)) for width in (1, 6))
    return ((common < 0.5) ^ (flips < 0.1)).float()


@pytest.mark.parametrize("name", MANY_CHAINS)
def test_machines_are_as_likely_as_those_of_the_cpu(name, device):
    theirs = likelihoods(name, "cpu", range(10, 20))
    assert_alike(likelihoods(name, device, range(10)), theirs)
    with pytest.raises(AssertionError):
        assert_alike(likelihoods(name, device, range(10), rate=0.05), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*UNITS, "noisy"])
def test_units_are_drawn_with_the_moments_of_theory(name, dtype, device):
    units, field = unit(name).to(device, dtype), mild_field(unit(name).size)
    x = units.sample(field.to(device, dtype).expand(20_000, -1), generator=on(device)).detach()
    assert x.device.type == device.type
    assert_moments(unit(name), field, x.cpu())


@pytest.mark.parametrize(("visible", "hidden"), ENUMERABLE_PAIRS)
def test_chains_come_to_the_distribution_of_the_machine(visible, hidden, device):
    rbm = machine(visible, hidden, scale=0.5)
    found = copy.deepcopy(rbm).float().to(device).gibbs(rows(rbm.visible, 5000), steps=10, generator=on(device))
    assert_distributed(found.cpu().double(), *visible_probabilities(rbm))


@pytest.mark.parametrize(("visible", "hidden"), HALF_ENUMERABLE_PAIRS)
def test_exact_likelihoods_are_those_of_the_cpu(visible, hidden, device):
    rbm, results = machine(visible, hidden), []
    v, h = rows(rbm.visible, 9), rows(rbm.hidden, 9)
    for place in (device, "cpu"):
        moved = copy.deepcopy(rbm).to(place)
        log_z = exact_log_partition(moved)
        found = [log_z, log_likelihood(moved, v, log_z), moved.energy(v, h), moved.hidden_free_energy(h)]
        results.append([value.detach() for value in found])
    assert_close(*results, device, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("visible", "hidden"), ENUMERABLE_PAIRS)
def test_estimates_agree_with_enumeration_on_the_cpu(visible, hidden, device):
    rbm = machine(visible, hidden, scale=0.5, seed=3)
    exact, moved = float(exact_log_partition(rbm)), copy.deepcopy(rbm).float().to(device)
    samples = draw(*visible_probabilities(rbm), 300)
    forward = ais(moved, chains=300, temperatures=30, **QUIET)
    back = reverse_ais(moved, samples, temperatures=30, **QUIET)
    for estimate in (forward, back):
        assert estimate.value == pytest.approx(exact, abs=5 * standard_error(estimate) + 1e-5)
    states = visible_probabilities(rbm)[0]
    (ours, theirs) = (pseudo_log_likelihood(copy.deepcopy(rbm).to(place), states) for place in (device, "cpu"))
    assert_close([ours], [theirs], device, rtol=1e-10, atol=1e-10)
    some = pseudo_log_likelihood(moved, states, variables=1, seed=0)
    assert_sound([some], device)


def test_the_bracket_is_trusted_and_right(device):
    rbm = machine("bernoulli", "spin", scale=0.5)
    found = bracket(copy.deepcopy(rbm).to(device), rows(rbm.visible, 50), temperatures=100, gibbs_steps=50, **QUIET)
    assert found.trusted
    errors = map(standard_error, (*found.forward, found.reverse))
    assert found.value == pytest.approx(float(exact_log_partition(rbm)), abs=5 * max(errors))


def test_bounds_of_stacks_are_those_of_the_cpu(device):
    stack = stack_of("bernoulli", "spin", "groups")
    x, log_z = rows(stack.layers[0].visible, 5), exact_log_partition(stack.layers[-1])
    drawn_from_none = [lower_bound(stack_of("bernoulli", "spin").to(place), x, 1.0) for place in (device, "cpu")]
    assert_close(drawn_from_none[:1], drawn_from_none[1:], device)
    there = copy.deepcopy(stack).to(device)
    ours = [float(lower_bound(there, x, log_z, samples=20, seed=seed).mean()) for seed in range(20)]
    assert_alike(ours, [float(lower_bound(stack, x, log_z, samples=20, seed=seed).mean()) for seed in range(20, 40)])


def test_a_machine_stops_where_its_estimated_likelihood_falls(device):
    rbm = RBM(8, 5, seed=0).to(device)
    stopping = EarlyStopping(score_by_ais(ROWS, temperatures=20), patience=1)
    history = train(rbm, ROWS, epochs=3, batch_size=30, stopping=stopping, validation=ROWS[:20], **QUIET)
    assert_sound(numbers(rbm), device)
    assert {"score", "free_energy_gap"} <= set(history.last)


def pretrained(device, **settings):
    stack = DBN([8, 6, 4], seed=0).to(device)
    estimators = [CD(1), PCD(5)]
    stack.pretrain(
        ROWS, epochs=[2, 1], batch_size=30, estimator=estimators, **{"validation": ROWS[:9]} | settings, **QUIET
    )
    return stack


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


def tuned(device, dropout=0.0, **settings):
    network = DBN([8, 6, 4], seed=0).to_mlp(2, dropout=dropout, seed=0)
    settings = {"learning_rate": 0.01, "validation": (ROWS, LABELS), "device": device, **settings}
    return network, finetune(network, ROWS, LABELS, epochs=8, batch_size=20, **settings, **QUIET)


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


IN_MEMORY = {
    "on the device": lambda x, path, device: x.to(device),
    "bytes": lambda x, path, device: x.to(torch.uint8),
    "bytes on the device": lambda x, path, device: x.to(device, torch.uint8),
    **{name: lambda x, path, device, name=name: CONTAINERS[name](x, path) for name in CONTAINERS},
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_rows_in_any_container_train_alike(kind, device, tmp_path):
    machines = []
    for data in (ROWS, IN_MEMORY[kind](ROWS, tmp_path, device)):
        rbm = RBM(8, 6, seed=0).to(device)
        history = train(rbm, data, epochs=20, batch_size=20, learning_rate=0.3, validation=ROWS, **QUIET)
        assert history["reconstruction_error"][-1] < 0.9 * history["reconstruction_error"][0]
        machines.append(numbers(rbm))
    assert_sound(machines[1], device)
    assert kind in ("memmap", "dataset", "labelled", "loader") or same(*machines)


def test_labelled_rows_of_any_source_are_learnt_and_judged(device):
    sources = [
        TensorDataset(ROWS, LABELS),
        DataLoader(TensorDataset(ROWS.to(device), LABELS.to(device)), batch_size=20),
    ]
    for source in sources:
        network = nn.Sequential(nn.Linear(8, 2)).to(device)
        finetune(network, source, epochs=8, batch_size=20, learning_rate=0.05, **QUIET)
        assert_sound(numbers(network), device)
        assert evaluate(network, source).error < 0.1


def test_a_stack_that_is_saved_on_the_device_goes_on_as_if_it_had_stayed(device, tmp_path):
    stack = pretrained(device)
    stack.save(tmp_path / "stack.pt")
    loaded = DBN.load(tmp_path / "stack.pt")
    assert_sound(numbers(loaded), torch.device("cpu"))
    loaded.to(device)
    assert same(numbers(stack), numbers(loaded))
    for one in (stack, loaded):
        one.pretrain(ROWS, epochs=1, **QUIET)
    assert same(numbers(stack), numbers(loaded))


@pytest.mark.parametrize("kind", UNITS)
def test_machines_of_all_units_are_saved_on_the_device(kind, device, tmp_path):
    rbm = machine(kind, kind, scale=0.1).to(device)
    rbm.save(tmp_path / "machine.pt")
    loaded = RBM.load(tmp_path / "machine.pt")
    assert_sound(numbers(loaded), torch.device("cpu"))
    assert same(numbers(rbm), numbers(loaded.to(device)))


def trained_by(name):
    def run(device, **keeping):
        rbm, estimator = RBM(8, 5, seed=0).to(device), ESTIMATORS[name]()
        settings = {"centring": 0.01, "clip": 1.0, "average_from": 1, "binarise": "sample"}
        train(rbm, ROWS, epochs=3, batch_size=30, estimator=estimator, **settings, **QUIET, **keeping)
        return numbers(rbm, estimator)

    return run


RUNS = {
    **{name: trained_by(name) for name in ESTIMATORS},
    "a stack": lambda device, **keeping: numbers(pretrained(device, upward="samples", **keeping)),
    "adam": lambda device, **keeping: numbers(tuned(device, dropout=0.3, **keeping)[0]),
    "sgd": lambda device, **keeping: numbers(tuned(device, dropout=0.3, optimiser="sgd", max_norm=1.0, **keeping)[0]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_broken_off_goes_on_to_the_same_bits(name, device, tmp_path):
    results, breaks = None, 0
    while results is None:
        try:
            with breaking(4):
                results = RUNS[name](device, checkpoint=tmp_path, checkpoint_seconds=0)
        except Broken:
            breaks += 1
            assert breaks < 50, "no attempt comes any further"
    assert breaks > 1
    assert_sound(results, device)
    assert same(results, RUNS[name](device))


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


def global_states(device):
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


@pytest.mark.parametrize("name", RUNS)
def test_seeds_leave_the_global_generators_alone(name, device):
    before = global_states(device)
    RUNS[name](device)
    assert same(before, global_states(device))


def test_a_generator_of_another_device_is_refused(device):
    if device.type == "cpu":
        pytest.skip("a CPU has no other: this is a test of --device cuda")
    rbm = RBM(8, 5, seed=0).to(device)
    with pytest.raises(ValueError, match=f"generator is on cpu, the module on {device.type}"):
        train(rbm, ROWS, epochs=1, progress=False, generator=generator())


def test_too_many_chains_are_named_and_change_nothing(device):
    rbm = RBM(8, 5, seed=0).to(device)
    before = numbers(rbm)
    with pytest.raises(torch.OutOfMemoryError, match=r"estimator = PCD\(chains=10000000000000"):
        train(rbm, ROWS, epochs=1, estimator=PCD(10**13), initialise_bias=False, **QUIET)
    assert same(before, numbers(rbm))
