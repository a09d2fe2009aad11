"""The default dtype and device of the process change nothing; half precision is refused; slopes hold in all modes."""

import ast
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.func import jacfwd, jvp

import dbn
from dbn import CD, DBN, PCD, RBM, Bernoulli, Categorical, FastPCD, Gaussian, Joint, ParallelTempering, ReLU, Spin
from tests.support.oracles import UNITS, generator, unit

HOUSE = Path(dbn.__file__).parent
QUIET = {"progress": False, "seed": 0}
#: Functions that make tensors: a call must name its device, since the default is the user's, and mostly its dtype too.
FACTORIES = ("empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "eye", "tensor")
WHOLE = ("randint", "randperm")


def factory_calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, named = node.func.attr, {keyword.arg for keyword in node.keywords}
            if name in (*FACTORIES, *WHOLE) and ast.unparse(node.func) == f"torch.{name}":
                yield node.lineno, name, ({"device"} if name in WHOLE else {"dtype", "device"}) - named


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda path: str(path.relative_to(HOUSE)))
def test_every_call_that_makes_a_tensor_names_its_dtype_and_device(path):
    calls = factory_calls(ast.parse(path.read_text(encoding="utf-8")))
    assert not [f"line {line}: torch.{name} without {missing}" for line, name, missing in calls if missing]


def test_a_call_without_a_dtype_would_be_found():
    (call,) = factory_calls(ast.parse("x = torch.zeros(3, device=y.device)"))
    assert call == (1, "zeros", {"dtype"})


@pytest.fixture
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def meta_by_default():
    torch.set_default_device("meta")  # where nothing can be computed: what lands there by default is found
    yield
    torch.set_default_device(None)


@contextmanager
def usual_defaults():
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with torch.device("cpu"):
        yield
    torch.set_default_dtype(dtype)


def results():
    """Numbers of RBMs of every kind in float32, as tensors, made by every estimator and every likelihood."""
    found, ones = {}, torch.ones(8, dtype=torch.float32, device="cpu")
    with usual_defaults():
        units = {"bernoulli": Bernoulli(4), "spin": Spin(4), "groups": Categorical(4, classes=2), "relu": ReLU(4),
             "joint": Joint(Bernoulli(1), Gaussian(1, learned=True), Categorical(2))}  # fmt: skip
    for name, one in units.items():
        with usual_defaults():
            rbm = RBM(one, 3, weight_scale=0.3, seed=0)
        data = one.sample(torch.zeros(40, 4, dtype=torch.float32, device="cpu"), generator=generator(1))
        for estimator in (CD(1), PCD(6), FastPCD(6), ParallelTempering(6, 3)):
            history = dbn.train(rbm, data, epochs=1, estimator=estimator, validation=data, learning_rate=0.01, **QUIET)
            numbers = [value for key, value in history.last.items() if key != "seconds"]
            found[f"{name} {estimator}"] = ones.new_tensor(numbers)
        found[f"{name} gibbs"] = rbm.gibbs(data, 3, seed=2)
        found[f"{name} ais"] = ones.new_tensor(dbn.ais(rbm, chains=10, temperatures=10, **QUIET).value)
        bracket = dbn.bracket(rbm, data, chains=10, temperatures=10, gibbs_steps=2, **QUIET)
        found[f"{name} bracket"] = ones.new_tensor(bracket.value)
        found[f"{name} exact"] = dbn.exact_log_partition(rbm)
        found[f"{name} likelihood"] = dbn.log_likelihood(rbm, data, bracket)
        found[f"{name} weight"] = rbm.weight.detach()
    return found


def stack_results():
    with usual_defaults():
        stack = DBN([Bernoulli(6), Bernoulli(5), Joint(Bernoulli(2), Categorical(2))], seed=0)
    data = Bernoulli(6).sample(torch.zeros(40, 6, dtype=torch.float32, device="cpu"), generator=generator(1))
    labels = (data[:, 0] > 0).long()
    stack.pretrain(data, epochs=1, binarise="sample", upward="samples", estimator=[PCD(5), CD(1)], **QUIET)
    network = stack.to_mlp(2, dropout=0.2, seed=0)
    dbn.finetune(network, data, labels, epochs=2, validation=(data, labels), **QUIET)
    evaluation = dbn.evaluate(network, data, labels)
    log_z = dbn.exact_log_partition(stack.layers[-1])
    return {
        "encoded": stack.encode(data), "dreams": stack.sample(5, 3, seed=1), "outputs": network(data).detach(),
        "bound": dbn.lower_bound(stack, data, log_z, samples=2, seed=0),
        "loss": log_z.new_tensor([evaluation.error, evaluation.loss]),
    }  # fmt: skip


@pytest.mark.parametrize("work", [results, stack_results])
@pytest.mark.parametrize("default", ["double_by_default", "meta_by_default"])
def test_a_float32_machine_does_the_same_under_any_default(work, default, request):
    expected = work()
    request.getfixturevalue(default)
    found = work()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def test_machines_are_loaded_onto_the_cpu_under_any_default(tmp_path, meta_by_default):
    with torch.device("cpu"):
        rbm = RBM(Gaussian(3, learned=True), 2, seed=0)
        stack = DBN([3, 2, 2], seed=0)
    rbm.save(tmp_path / "rbm.pt")
    stack.save(tmp_path / "stack.pt")
    assert torch.equal(RBM.load(tmp_path / "rbm.pt").weight, rbm.weight)
    assert torch.equal(DBN.load(tmp_path / "stack.pt").layers[0].weight, stack.layers[0].weight)


def test_a_machine_has_the_default_dtype_when_it_is_made(double_by_default):
    rbm = RBM(Joint(Bernoulli(2), Gaussian(1)), Spin(2), seed=0)
    assert {value.dtype for value in rbm.parameters()} == {torch.float64}
    dbn.train(rbm, torch.zeros(10, 3), epochs=1, estimator=ParallelTempering(4, 3), **QUIET)
    assert rbm.gibbs(torch.zeros(2, 3), 2).dtype == torch.float64


HALF = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", [*UNITS, "noisy"])
def test_units_refuse_to_draw_in_half_precision(name, dtype):
    units = unit(name).to(dtype)
    with pytest.raises(TypeError, match=r"field is torch.*float16, whose probabilities have few digits"):
        units.sample(torch.full((3, units.size), -8.0, dtype=dtype), generator=generator())


@pytest.mark.parametrize("dtype", HALF)
def test_machines_in_half_precision_are_refused_by_name(dtype):
    rbm, x = RBM(4, 3, seed=0).to(dtype), torch.ones(2, 4)
    stack = DBN([4, 3, 2], seed=0).to(dtype)
    calls = [
        lambda: dbn.train(rbm, x, epochs=1, **QUIET),
        lambda: stack.pretrain(x, epochs=1, **QUIET),
        lambda: rbm.sample_hidden(x),
        lambda: rbm.sample_visible(x[:, :3]),
        lambda: rbm.gibbs(x),
        lambda: rbm.free_energy(x),
        lambda: dbn.ais(rbm, progress=False),
        lambda: dbn.bracket(rbm, x, progress=False),
        lambda: dbn.exact_log_partition(rbm),
        lambda: dbn.log_likelihood(rbm, x, 0.0),
        lambda: stack.sample(3, 2),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"float16.* has too few digits .*convert the RBM by|float16, whose"):
            call()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")  # torch's own, of its first jacfwd
@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("grad", [True, False])
def test_forward_mode_slopes_of_the_log_partition_are_the_mean_at_zero_too(name, grad):
    units = unit(name)
    for field in (torch.zeros(units.size, dtype=torch.float64), torch.arange(units.size).double() - 1):
        with torch.set_grad_enabled(grad):
            slope = jacfwd(units.log_partition)(field)
            along = jvp(units.log_partition, (field,), (torch.ones_like(field),))[1]
        torch.testing.assert_close(slope.detach(), units.mean(field).detach())
        torch.testing.assert_close(along.detach(), units.mean(field).sum().detach())


@pytest.mark.parametrize("name", UNITS)
def test_single_precision_slopes_of_the_log_partition_are_the_mean_however_far(name):
    units = unit(name)
    far = [-3e4, -1e4, -1e3, -300.0, -101.0, -30.0, -12.1, -11.9, -4.1, -3.9, 0.0, 11.9, 12.1, 1e3]
    fields = torch.tensor(far)[:, None].repeat(1, units.size).double()
    expected = units.mean(fields).detach()
    field = fields.float().requires_grad_()
    (slope,) = torch.autograd.grad(units.float().log_partition(field).sum(), field)
    # A field this large has no more digits.
    allowed = 2e-5 * expected.abs() + 2 * torch.finfo(torch.float32).eps * fields.abs() * (units.size > 2) + 1e-6
    assert bool(((slope.double() - expected).abs() <= allowed).all())


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_rows_with_nan_are_refused_where_samples_would_hide_them(steps):
    rbm, bad = RBM(4, 3, seed=0), torch.ones(5, 4)
    bad[1, 2] = torch.nan
    with pytest.raises(ValueError, match="v has NaN or infinite values in 1 of 5 rows"):
        rbm.gibbs(bad, steps)
    with pytest.raises(ValueError, match="v has NaN"):
        rbm.sample_hidden(bad)
    with pytest.raises(ValueError, match="h has NaN"):
        rbm.sample_visible(bad[:, :3])
