"""Networks made from a stack compute exactly what the stack computes, on copies of its numbers."""

import pytest
import torch
from torch import nn

from dbn import DBN, Bernoulli, Categorical, Gaussian
from dbn.input_range import known_scale
from tests.support.oracles import UNITS, generator, rows, unit

HIDDEN = [*UNITS, "noisy"]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def stack_of(*kinds) -> DBN:
    stack = DBN([unit(kind) if isinstance(kind, str) else kind for kind in kinds], seed=0, weight_scale=0.7)
    with torch.no_grad():
        for rbm in stack.layers:
            rbm.visible_bias.normal_(generator=generator(1))
            rbm.hidden_bias.normal_(generator=generator(2))
    return stack


def data_for(stack, n=20):
    return rows(stack.layers[0].visible, n)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("visible", ["bernoulli", "learned"])
def test_the_body_is_the_up_pass_and_the_head_is_linear(visible, hidden):
    stack = stack_of(visible, hidden, Bernoulli(4), hidden)
    x = data_for(stack)
    network = stack.to_mlp(3, seed=0)
    head = network[-1]
    torch.testing.assert_close(network[:-1](x), stack.encode(x))
    torch.testing.assert_close(network(x), stack.encode(x) @ head.weight.t() + head.bias)
    assert type(network) is nn.Sequential
    assert network(x).shape == (20, 3)
    assert not any(isinstance(module, nn.Identity) for module in network)


@pytest.mark.parametrize("kind", HIDDEN)
def test_the_autoencoder_is_the_reconstruction(kind):
    stack = stack_of(kind, "bernoulli", kind)
    x = data_for(stack)
    torch.testing.assert_close(stack.to_autoencoder()(x), stack.reconstruct(x))


@pytest.mark.parametrize("make", [lambda stack: stack.to_mlp(2, seed=0), DBN.to_autoencoder])
def test_weights_are_copies(make):
    stack = stack_of("precise", "learned", "bernoulli")
    x, network = data_for(stack), make(stack)
    own = {value.data_ptr() for value in network.state_dict().values()}
    assert not own & {value.data_ptr() for value in stack.state_dict().values()}
    assert len(own) == len(network.state_dict()), "encoder and decoder are untied"
    before, encoded = network(x).detach(), stack.encode(x)
    with torch.no_grad():
        for value in stack.parameters():
            value.add_(1)
    assert torch.equal(network(x), before)
    assert not torch.equal(stack.encode(x), encoded)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_every_parameter_can_be_trained(hidden):
    network = stack_of("bernoulli", hidden, 4).to_mlp(3, seed=0)
    network(rows(Bernoulli(3), 20)).square().sum().backward()
    for name, value in network.named_parameters():
        assert value.grad is not None, name
        assert bool(value.grad.isfinite().all()), name
        assert bool((value.grad != 0).any()), name


def test_dropout_stands_after_hidden_layers_and_rescales_nothing():
    stack = stack_of("bernoulli", "bernoulli", "bernoulli")
    plain = stack.to_mlp(2, seed=0)
    network = stack.to_mlp(2, dropout=0.5, input_dropout=0.2, seed=0)
    kinds = [type(module).__name__ for module in network]
    assert kinds == ["Dropout", "Linear", "Sigmoid", "Dropout", "Linear", "Sigmoid", "Dropout", "Linear"]
    assert [module.p for module in network if isinstance(module, nn.Dropout)] == [0.2, 0.5, 0.5]
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    x = data_for(stack)
    assert torch.equal(network.eval()(x), plain(x))


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan"), 2])
@pytest.mark.parametrize("name", ["dropout", "input_dropout"])
def test_impossible_dropout_is_refused(name, dropout):
    with pytest.raises(ValueError, match=f"^{name} is"):
        stack_of("bernoulli", 2).to_mlp(2, **{name: dropout})


def test_copied_rectifiers_take_the_numbers_as_they_are():
    stack = stack_of("bernoulli", "bernoulli", "spin")
    x, network = data_for(stack), stack.to_mlp(2, transfer="relu_copied", seed=0)
    up = x
    for rbm in stack.layers:
        up = (up @ rbm.weight + rbm.hidden_bias).relu()
    torch.testing.assert_close(network[:-1](x), up)


def test_rescaled_rectifiers_have_fields_of_unit_variance_and_the_same_directions():
    stack = stack_of("bernoulli", "bernoulli", "bernoulli")
    x = data_for(stack, 300)
    network = stack.to_mlp(2, transfer="relu_rescaled", data=x, seed=0)
    for place, rbm in enumerate(stack.layers):
        field = network[: 2 * place + 1](x)
        assert float(field.detach().std()) == pytest.approx(1.0)
        linear = network[2 * place]
        ratio = linear.weight.t() / rbm.weight
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
        torch.testing.assert_close(linear.bias, rbm.hidden_bias * ratio[0, 0])
        assert isinstance(network[2 * place + 1], nn.ReLU)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transfer": "sigmoid"}, "transfer is 'sigmoid': choose one of exact, relu_rescaled, relu_copied"),
        ({"transfer": "relu_rescaled"}, "data is missing"),
        ({"transfer": "relu_rescaled", "data": torch.ones(5, 7)}, "data has 7 columns"),
        ({"transfer": "relu_rescaled", "data": torch.full((5, 3), torch.nan)}, "data has NaN"),
        ({"transfer": "relu_rescaled", "data": torch.full((5, 3), 255.0)}, "data lies in 255..255"),
        ({"outputs": 0}, "outputs is 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        stack_of("bernoulli", 2).to_mlp(**{"outputs": 2, **options})


def test_the_head_is_xavier_uniform_with_zero_biases_and_follows_the_seed():
    stack = DBN([4, 300], seed=0)
    before = torch.random.get_rng_state()
    first, again, other = (stack.to_mlp(200, seed=seed)[-1] for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert not bool(first.bias.any())
    bound = (6 / 500) ** 0.5
    assert float(first.weight.detach().abs().max()) <= bound
    variance, count = bound**2 / 3, first.weight.numel()
    assert float(first.weight.detach().square().mean()) == pytest.approx(
        variance, abs=4 * variance * (0.8 / count) ** 0.5
    )


@pytest.mark.parametrize(
    ("visible", "known"),
    [(Bernoulli(3), (0.0, 1.0)), (Categorical(3), (0.0, 1.0)), ("spin", (-1.0, 1.0)), (Gaussian(3), None)],
)
def test_networks_know_the_range_of_their_inputs(visible, known):
    stack = stack_of(visible, 4)
    expected = None if known is None else (*known, True)
    assert known_scale(stack.to_mlp(2)) == known_scale(stack.to_autoencoder()) == expected
