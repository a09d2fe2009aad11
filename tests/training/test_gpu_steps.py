"""Steps on a GPU without one: shapes and devices are followed, and nothing is computed.

A tensor left on the CPU beside one on the GPU is an error here as there, and so is a number read back, which a
recording forbids. Backward passes cannot be followed so: autograd asks for the device itself.
"""

import importlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily

import dbn.runtime.cuda_graph
import dbn.training.graphed_update
from dbn import CD, RBM
from dbn.data import StreamedSource, TensorSource
from dbn.estimators import Estimator
from dbn.gradient import Offsets
from dbn.training import RBMUpdate, TrainOptions
from dbn.training.graphed_update import GraphedUpdate
from dbn.units import Bernoulli, ReLU
from tests.support.recorded_runs import ESTIMATORS, LAYERS

annealing = importlib.import_module("dbn.likelihood.ais")  # the package has a function of that name

PENALTIES = TrainOptions(epochs=0, weight_decay=0.0, l1=1e-3, clip=1.0, max_norm=3.0, sparsity_target=0.1)


class Plain:
    """In place of `GraphedStep`, which needs a GPU."""

    def __init__(self, work, *_):
        self.work = work

    def __call__(self):
        self.work()


@pytest.fixture
def mode(monkeypatch):
    for module in (dbn.runtime.cuda_graph, annealing):
        monkeypatch.setattr(module, "GraphedStep", Plain)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def on_gpu(module: nn.Module) -> nn.Module:
    """A module whose tensors are on a GPU, as far as anybody can tell."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(value.detach().to("cuda"), value.requires_grad)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = value.to("cuda")
    return module


def machine(layers):
    with unset_fake_temporarily():
        rbm = RBM(*layers())
    return on_gpu(rbm)


def step(rbm: RBM, estimator: Estimator, penalties: TrainOptions) -> RBMUpdate:
    """Two full batches, of which the first makes what the second finds, and a short one."""
    estimator.prepare(rbm, None)
    centre = Offsets(rbm.visible_bias.detach().clone(), rbm.hidden_bias.detach().clone()), 0.01
    learner = RBMUpdate(rbm, estimator, None, centre, penalties, separate_gradient=True)
    steps = GraphedUpdate(learner, 50)
    for rows in (50, 50, 23):
        steps(torch.zeros(rows, rbm.visible.size, device="cuda"), 0.1, 0.5)
    return learner


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_step_stays_on_the_device_and_reads_nothing_back(layers, estimator, mode):
    if (layers, estimator) == ("noisy", "tempering"):
        pytest.skip("tempering needs an energy")
    learner = step(machine(LAYERS[layers]), ESTIMATORS[estimator](), PENALTIES)
    assert {value.device.type for value in (learner.flat_velocity, learner.activity, *learner.centre[0])} == {"cuda"}


def test_relu_units_read_numbers_back_and_are_not_capturable(mode):
    rbm = machine(lambda: (Bernoulli(12), ReLU(7)))
    assert not rbm.hidden.capturable
    with pytest.raises(DataDependentOutputException):
        step(rbm, CD(1), PENALTIES)


@torch.no_grad()
@pytest.mark.parametrize("layers", [name for name in LAYERS if name != "noisy"])
def test_a_temperature_stays_on_the_device_and_reads_nothing_back(layers, mode):
    rbm = machine(LAYERS[layers])
    v, biases = torch.zeros(20, 12, device="cuda"), torch.zeros(12, device="cuda")
    passage = annealing._Passage(rbm, v, biases, rbm.visible_bias.detach() - biases, [0.0, 0.5, 1.0], None)
    for place in range(2):
        passage.step(place)
    assert isinstance(passage.graphed, Plain)
    assert passage.log_weights.device.type == "cuda"


@pytest.mark.parametrize("kind", [TensorSource, StreamedSource])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_batches_come_to_the_device_without_reading_back(kind, dtype, mode):
    source = kind(
        torch.zeros(100, 12, dtype=dtype), torch.zeros(100), batch_size=50, like=torch.zeros(1, device="cuda")
    )
    for batch in source.batches(None):
        assert {batch.x.device.type, batch.y.device.type} == {"cuda"}
        assert batch.x.dtype == torch.float32
