"""Every start has the variance, the range and the biases that its name promises."""

import math

import pytest
import torch
from torch import nn

from dbn import initialise
from dbn.initialisation import SCHEMES

RANDOM = [scheme for scheme in SCHEMES if scheme not in ("zeros", "constant")]
LAYERS = {
    "wide": (lambda: nn.Linear(300, 200), 300, 200),
    "narrow": (lambda: nn.Linear(100, 400), 100, 400),
    "conv1d": (lambda: nn.Conv1d(40, 60, 5), 200, 300),
    "conv2d": (lambda: nn.Conv2d(20, 30, 3), 180, 270),
    "conv3d": (lambda: nn.Conv3d(10, 8, 3), 270, 216),
}
VARIANCES = {
    "uniform": lambda fan_in, fan_out: 1 / (3 * fan_in),
    "normal": lambda fan_in, fan_out: 0.01**2,
    "xavier_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
}


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 4))


@pytest.mark.parametrize("scheme", VARIANCES)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("factor", [None, 0.5])
def test_variance_is_that_of_the_table(scheme, kind, factor):
    make, fan_in, fan_out = LAYERS[kind]
    layer = initialise(make(), scheme, scale=factor, seed=0)
    weights, variance = layer.weight.detach().double(), VARIANCES[scheme](fan_in, fan_out)
    if factor is not None:
        own = {"uniform": factor**2 / 3, "normal": factor**2}
        variance = own.get(scheme, variance * factor**2)
    flat = "uniform" in scheme
    # The variance of x² is σ⁴ times the excess over 1 of the fourth standardised moment: 9/5 flat, 3 normal.
    error = variance * math.sqrt((0.8 if flat else 2.0) / weights.numel())
    assert float(weights.square().mean()) == pytest.approx(variance, abs=4 * error)
    assert abs(float(weights.mean())) < 4 * math.sqrt(variance / weights.numel())
    if flat:
        bound = math.sqrt(3 * variance)
        assert 0.99 * bound < float(weights.abs().max()) <= bound * (1 + 1e-6)
    else:
        assert float(weights.abs().max()) > 3 * math.sqrt(variance)
    assert not bool(layer.bias.any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "permuted"])
def test_a_start_in_fewer_digits_is_that_of_single_precision_rounded(scheme, dtype):
    single, narrow = (initialise(nn.Linear(9, 7).to(kind), scheme, seed=0) for kind in (torch.float32, dtype))
    assert narrow.weight.dtype == narrow.bias.dtype == dtype
    assert torch.equal(narrow.weight.float(), single.weight.to(dtype).float())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_orthogonal_rows_or_columns(kind, scale):
    weight = initialise(LAYERS[kind][0]().double(), "orthogonal", scale=scale, seed=0).weight.detach().flatten(1)
    weight = weight if weight.shape[0] <= weight.shape[1] else weight.t()
    expected = (1.0 if scale is None else scale) ** 2 * torch.eye(len(weight), dtype=torch.float64)
    torch.testing.assert_close(weight @ weight.t(), expected)


@pytest.mark.parametrize(("scheme", "value"), [("zeros", 0.0), ("constant", 0.1)])
def test_weights_that_are_not_random(scheme, value):
    for name, parameter in initialise(network(), scheme).named_parameters():
        expected = value if name.endswith("weight") else 0.0
        assert torch.equal(parameter, torch.full_like(parameter, expected))


@pytest.mark.parametrize("scheme", [*VARIANCES, "constant", "orthogonal"])
def test_a_scale_of_zero_is_zero(scheme):
    assert not any(bool(value.any()) for value in initialise(network(), scheme, scale=0.0, seed=0).parameters())


def test_permuted_keeps_the_numbers_of_every_layer_and_moves_them():
    before, after = network(), initialise(network(), "permuted", seed=0)
    for (name, mine), theirs in zip(after.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(mine.flatten().sort().values, theirs.flatten().sort().values), name
        assert not torch.equal(mine, theirs), name


@pytest.mark.parametrize("scheme", RANDOM)
def test_a_seed_decides_and_the_global_generator_is_untouched(scheme):
    before = torch.random.get_rng_state()
    first, again, other, by_generator = (
        initialise(network(), scheme, **randomness).state_dict()
        for randomness in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"generator": torch.Generator().manual_seed(1)})
    )
    assert torch.equal(before, torch.random.get_rng_state())
    for name in first:
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name], by_generator[name])
        assert not name.endswith("weight") or not torch.equal(first[name], other[name])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_network_comes_back_trainable(scheme):
    model = network()
    assert initialise(model, scheme, seed=0) is model
    assert all(value.requires_grad and value.is_leaf for value in model.parameters())
    linear = initialise(nn.Linear(3, 2, bias=False), scheme, seed=0)
    assert linear.bias is None


def test_other_layers_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    initialise(model, "zeros")
    assert bool((model[1].weight == 1).all())


def test_zero_weights_give_a_gradient_to_the_biases_of_the_head_alone():
    """No symmetry is broken: the class shares are all that such a network learns."""
    x, y = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3

    def learn(scheme, activation):
        model = nn.Sequential(nn.Linear(6, 5), activation(), nn.Linear(5, 3))
        initialise(model, scheme, seed=0)
        for _ in range(3):
            nn.functional.cross_entropy(model(x), y).backward()
            moved = [bool(value.grad.abs().max() > 1e-7) for value in model.parameters()]
            with torch.no_grad():
                for value in model.parameters():
                    value.sub_(0.5 * value.grad)
                    value.grad = None
        return moved

    for activation in (nn.ReLU, nn.Tanh):
        assert learn("zeros", activation) == [False, False, False, True]
        assert learn("xavier_uniform", activation) == [True, True, True, True]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"scheme": "glorot"}, ValueError, f"scheme is 'glorot': choose one of {', '.join(SCHEMES)}"),
        ({"scheme": None}, ValueError, "scheme is None"),
        ({"model": nn.ReLU()}, ValueError, "model has no linear or convolutional layer"),
        ({"scale": -1.0}, ValueError, "scale is -1"),
        ({"scale": math.nan}, ValueError, "scale is nan"),
        ({"scale": "1"}, TypeError, "scale is '1'"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "generator and seed"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(settings, error, words):
    model = network()
    before = [value.detach().clone() for value in model.parameters()]
    with pytest.raises(error, match=words):
        initialise(**{"model": model, "scheme": "normal", **settings})
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
