"""Greedy layerwise pretraining: each machine on the hidden layer of the frozen machines below."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from dbn import distributed
from dbn.arguments import check_watching, choice, whole_number
from dbn.batches import MappedSource, Source, TensorSource
from dbn.course import described, randomness_of
from dbn.fingerprint import fingerprint, fingerprint_of_parameters
from dbn.history import History, Record
from dbn.keeper import Keeper, Picture, Randomness
from dbn.memory import named_where_short
from dbn.rbm import RBM
from dbn.training import Recipe, check_fit, kind_of, open_rows, presented, run

CHUNK = 8192  # rows that pass through a stack at once


class Plan(NamedTuple):
    """How a stack is pretrained: a recipe a machine, and what holds for all; `DBN.pretrain` explains it."""

    recipes: Sequence[Recipe]
    upward: Literal["means", "samples"]
    start: Literal["own", "transposed"]
    binarise: Literal["sample", "threshold"] | None
    cache_bytes: int

    def described(self) -> dict[str, Any]:
        """Every setting that decides a number as plain values, one a machine where there are several."""
        each = [recipe.described() for recipe in self.recipes]
        settings = {name: [one[name] for one in each] for name in each[0]}
        return {**settings, "upward": self.upward, "start": self.start, "binarise": self.binarise}


def greedy(
    layers: Sequence[RBM],
    data: Any,
    plan: Plan,
    validation: Any,
    callback: Callable[[Record], None] | None,
    progress: bool,
    generator: Generator | None,
    checkpoint: str | PathLike[str] | None,
    checkpoint_seconds: float,
) -> list[History]:
    """Train the machines one after another, bottom first, each by `train`'s own loop."""
    _check(layers, plan, validated=validation is not None)
    check_watching(callback, progress)
    bottom, draws = layers[0], distributed.draws(generator, layers[0].weight.device)
    source = presented(bottom, open_rows(bottom, data, plan.recipes[0].batch_size), plan.binarise, draws.own)
    held_back = None
    if validation is not None:
        held_back = presented(bottom, open_rows(bottom, validation, CHUNK, "validation"), plan.binarise, draws.own)

    seen = partial(described, source, held_back, generator)

    def settings() -> Picture:
        return {**seen(), **plan.described(), "machines": [kind_of(rbm) for rbm in layers]}

    histories: list[History] = []
    with Keeper(checkpoint, "pretrain", settings, checkpoint_seconds, partial(_weights, layers)) as keeper:
        found = _taken_up(layers, keeper.found, histories, randomness_of(draws, source, held_back))
        for place, (rbm, recipe) in enumerate(zip(layers, plan.recipes, strict=True)):
            if len(histories) == len(layers):
                break
            if place:
                below = layers[place - 1]
                if plan.start == "transposed" and place >= len(histories):
                    _transpose(rbm, below)
                source = _encoded(source, below, plan, place, draws.own).with_batch_size(recipe.batch_size)
                held_back = held_back and _encoded(held_back, below, plan, place, None)
            if place < len(histories):
                continue
            notify, name = _with_layer(callback, place + 1), f"layer {place + 1}/{len(layers)}"
            keeper.frame = partial(_framed, layers, histories)
            with named_where_short(layer=place + 1, batch_size=recipe.batch_size, estimator=recipe.negative_phase):
                history = run(rbm, source, recipe, draws, held_back, notify, progress, name, keeper, found)
            histories.append(history)
            found = None
    return histories


def _framed(layers: Sequence[RBM], histories: Sequence[History], picture: Picture) -> Picture:
    """The picture of one machine's run, with all machines and the histories of those that are finished."""
    return {
        "run": picture,
        "machines": [dict(rbm.state_dict()) for rbm in layers],
        "histories": [history.records for history in histories],
    }


def _weights(layers: Sequence[RBM]) -> list[str]:
    return [fingerprint(*(fingerprint_of_parameters(rbm.state_dict()) for rbm in layers))]


def _taken_up(
    layers: Sequence[RBM], found: Picture | None, histories: list[History], randomness: Randomness
) -> Picture | None:
    """Put back all machines and the histories of those that are finished; return the picture of the run that is not."""
    if found is None:
        return None
    histories.extend(map(History, found["histories"]))
    if found["run"]["done"]:
        histories.append(History(found["run"]["history"]))
        randomness.put(found["run"]["now"])
    for rbm, state in zip(layers, found["machines"], strict=True):
        rbm.load_state_dict(state)
    return None if found["run"]["done"] else found["run"]


def _check(layers: Sequence[RBM], plan: Plan, *, validated: bool) -> None:
    """Raise a ValueError, before any machine is trained, where one of them could not be."""
    choice(plan.upward, ("means", "samples"), "upward")
    choice(plan.start, ("own", "transposed"), "start")
    whole_number(plan.cache_bytes, "cache_bytes", at_least=0)
    for place, (rbm, recipe) in enumerate(zip(layers, plan.recipes, strict=True)):
        check_fit(rbm, recipe, validated=validated, name=f"layer {place + 1}/{len(layers)}: rbm")
    for below, rbm in pairwise(layers):
        if plan.start == "transposed" and rbm.hidden.config() != below.visible.config():
            raise ValueError(
                f'start is "transposed", but {rbm.hidden} lie two above {below.visible}: give the same units'
            )


@torch.no_grad()
def _transpose(rbm: RBM, below: RBM) -> None:
    """Start a machine as the one below upside down.

    Source: G. Hinton, S. Osindero, Y. Teh (2006), A fast learning algorithm for deep belief nets, section 4.
    """
    rbm.weight.copy_(below.weight.t())
    rbm.visible_bias.copy_(below.hidden_bias)
    rbm.hidden_bias.copy_(below.visible_bias)
    rbm.visible.load_state_dict(below.hidden.state_dict())
    rbm.hidden.load_state_dict(below.visible.state_dict())


def _encoded(source: Source, below: RBM, plan: Plan, place: int, generator: Generator | None) -> Source:
    """The rows of the next layer: what the machine below makes of the rows of `source`."""
    width = below.hidden.size
    if plan.upward == "samples":
        # What is watched must be the same at every call, also where a run is taken up in a later layer, and its samples
        # independent of those of the layers below.
        watch = partial(below.sample_hidden, seed=place)
        return MappedSource(source, partial(_sampled, below, generator), width, watch)
    encoded = MappedSource(source, torch.no_grad()(below.mean_hidden), width, fixed=source.fixed)
    size = (source.rows or 0) * width * below.weight.element_size()
    if not source.fixed or size > plan.cache_bytes:
        return encoded
    rows, done = below.weight.new_empty(source.rows or 0, width), 0
    for batch in encoded.with_batch_size(CHUNK).in_order():
        rows[done : done + len(batch.x)] = batch.x
        done += len(batch.x)
    return TensorSource(rows, None, batch_size=source.batch_size, like=below.weight)


@torch.no_grad()
def _sampled(below: RBM, generator: Generator | None, v: Tensor) -> Tensor:
    """Hidden samples (n, H) at rows v (n, V) that have been checked before."""
    return below.hidden.sample(below.hidden_field(v), generator=generator)


def _with_layer(callback: Callable[[Record], None] | None, layer: int) -> Callable[[Record], None] | None:
    if callback is None:
        return None
    return lambda record: callback({"layer": float(layer), **record})
