"""Subjects of the calls: RBMs, stacks and networks of every kind of unit, in several dtypes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

import dbn
from dbn import DBN, RBM, Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, ReLU, Spin, Unit
from experiments.fuzzing.draw import Draw
from experiments.fuzzing.own_units import Curved, Renamed, Shifted, Ternary

Model = TypeVar("Model", bound=nn.Module)


def _twice(units: Unit) -> Joint:
    """Use one object as two parts."""
    return Joint(units, units)


#: Every kind of units, small: the library's, those nested in others, and those of a user.
UNITS: list[Callable[[], Unit]] = [
    *(lambda: Bernoulli(5), lambda: Spin(4), lambda: Categorical(6, classes=3), lambda: Categorical(3)),
    *(lambda: Gaussian(3), lambda: Gaussian(2, precision=torch.tensor([0.5, 4.0]), learned=True)),
    *(lambda: ReLU(3), lambda: NoisyReLU(3), lambda: Joint(Bernoulli(2), Categorical(3))),
    lambda: Joint(Spin(1), Gaussian(1, precision=2.0, learned=True), ReLU(1), NoisyReLU(1)),
    lambda: Joint(Joint(Bernoulli(2), Categorical(3)), Gaussian(2, learned=True)),
    lambda: Joint(Joint(Bernoulli(1), Joint(Categorical(2), Bernoulli(1))), Categorical(2)),
    lambda: Joint(Joint(Joint(Spin(2))), Joint(ReLU(1))),
    *(lambda: _twice(Gaussian(1, learned=True)), lambda: _twice(Joint(Bernoulli(1), Gaussian(1, learned=True)))),
    *(lambda: Ternary(3), lambda: Curved(2), lambda: Shifted(2), lambda: Renamed(3, label="other")),
    *(lambda: Joint(Curved(1), Bernoulli(2)), lambda: Joint(Joint(Shifted(1), Ternary(1)), _twice(Curved(1)))),
]


def draw_rbm(draw: Draw) -> RBM:
    """Draw an RBM of any units; sometimes both sides are one object."""
    visible = draw.one(UNITS)()
    hidden = visible if draw.chance(0.05) else draw.one(UNITS)()
    scale = draw.one([0.0, 0.01, 0.5, 0.5, 2.0])
    return _in_some_dtype(draw, RBM(visible, hidden, weight_scale=scale, generator=draw.generator))


def draw_stack(draw: Draw) -> DBN:
    """Draw a stack of any units."""
    units = [draw.one(UNITS)() for _ in range(draw.one([2, 3, 3]))]
    scale = draw.one([0.0, 0.01, 0.5])
    return _in_some_dtype(draw, DBN(units, weight_scale=scale, generator=draw.generator))


def draw_network(draw: Draw) -> nn.Module:
    """Draw a network of four inputs and three outputs, from a stack or not."""
    if draw.chance(0.5):
        return DBN([4, 3], generator=draw.generator).to_mlp(3, generator=draw.generator)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    return dbn.initialise(model, "normal", generator=draw.generator)


def nothing(draw: Draw) -> None:
    """Return None, for functions without a subject."""


def words_for(subject: object) -> str:
    """Describe the subject of a call in a few words."""
    if not isinstance(subject, RBM | DBN):
        return ""
    layers = [subject] if isinstance(subject, RBM) else list(subject.layers)
    units = [layers[0].visible, *(layer.hidden for layer in layers)]
    return f"{' '.join(map(str, units))} in {next(subject.parameters()).dtype}"


@contextlib.contextmanager
def surroundings(draw: Draw) -> Iterator[str]:
    """Set a default dtype and a device context as a user may, yield their description, and restore them."""
    dtype = draw.one([torch.float32] * 7 + [torch.float64] * 2 + [draw.one([torch.float16, torch.bfloat16])])
    device = draw.chance(0.1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cpu") if device else contextlib.nullcontext():
            yield " and ".join(filter(None, [f"default {dtype}" * (dtype != before), "a device context" * device]))
    finally:
        torch.set_default_dtype(before)


def _in_some_dtype(draw: Draw, model: Model) -> Model:
    half = draw.one([torch.float16, torch.bfloat16])
    dtype = draw.one([None] * 6 + [torch.float32, torch.float64, torch.float64, half])
    return model if dtype is None else model.to(dtype)
