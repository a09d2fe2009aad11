"""Greedy layerwise pretraining: each RBM on the hidden layer of the frozen RBMs below."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from dbn.data import MappedSource, Source, TensorSource, data_config
from dbn.history import History, Record
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.runtime.checkpoint_manager import CheckpointManager, State
from dbn.runtime.checks import check_watching, choice, whole_number
from dbn.runtime.distributed import Generators
from dbn.runtime.fingerprint import fingerprint, fingerprint_of_parameters
from dbn.runtime.out_of_memory import named_where_short
from dbn.runtime.random_state import RandomState
from dbn.training import (
    Run,
    TrainingData,
    TrainOptions,
    check_trainable,
    open_training_data,
    rbm_config,
    train_rbm,
)

CHUNK = 8192  # rows that pass through a stack at once


class StackOptions(NamedTuple):
    """How a stack is pretrained: the options of each RBM, and what holds for all; `DBN.pretrain` documents it."""

    layers: Sequence[TrainOptions]
    upward: Literal["means", "samples"]
    start: Literal["own", "transposed"]
    binarise: Literal["sample", "threshold"] | None
    cache_bytes: int

    def config(self) -> State:
        """All as plain values, to be compared with another run's; options are lists with one value per layer."""
        each = [options.config() for options in self.layers]
        own = {"upward": self.upward, "start": self.start, "binarise": self.binarise}
        return {**{name: [one[name] for one in each] for name in each[0]}, **own}


class Stack:
    """The RBMs of a stack and the histories of the finished ones, as a checkpoint holds them.

    Args:
        layers: bottom first.
    """

    def __init__(self, layers: Sequence[RBM]) -> None:
        self.layers = layers
        self.histories: list[History] = []

    def state_dict(self) -> State:
        """Parameters and histories."""
        return {
            "layers": [dict(rbm.state_dict()) for rbm in self.layers],
            "histories": [history.records for history in self.histories],
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Restore what `state_dict` returned."""
        self.histories[:] = map(History, state_dict["histories"])
        for rbm, state in zip(self.layers, state_dict["layers"], strict=True):
            rbm.load_state_dict(state)

    def fingerprints(self) -> list[str]:
        """The checksum of all parameters."""
        return [fingerprint(*(fingerprint_of_parameters(rbm.state_dict()) for rbm in self.layers))]

    def finish_saved(self, run: State | None, random: RandomState) -> State | None:
        """The checkpoint of the unfinished layer; a finished one's history is added to the others."""
        if run is None or not run["done"]:
            return run
        self.histories.append(History(run["history"]))
        random.load_state_dict(run["random"])
        return None


def pretrain(
    layers: Sequence[RBM],
    data: Any,
    validation: Any,
    options: StackOptions,
    *,
    checkpoint: str | PathLike[str] | None,
    checkpoint_seconds: float,
    callback: Callable[[Record], None] | None,
    progress: bool,
    generator: Generator | None,
) -> list[History]:
    """Train the RBMs one after another, bottom first."""
    _check(layers, options, validated=validation is not None)
    check_watching(callback, progress)
    stack, generators = Stack(layers), distributed.generators(generator, layers[0].weight.device)
    rows = open_training_data(layers[0], data, validation, options.binarise, options.layers[0], generators)

    def config() -> State:
        data = data_config(rows.train, rows.validation, generator)
        return {**data, **options.config(), "layers": [rbm_config(rbm) for rbm in layers]}

    manager = CheckpointManager(
        checkpoint, "pretrain", config, checkpoint_seconds, stack.fingerprints, {"stack": stack}
    )
    with manager:
        globally = any(own.draws_globally for own in options.layers)
        random = RandomState.of_run(generators, rows.train, rows.validation, globally=globally)
        saved = stack.finish_saved(manager.saved, random)
        finished = len(stack.histories)
        for index, (rbm, own) in enumerate(zip(layers, options.layers, strict=True)):
            if finished == len(layers):
                break
            if index:
                if options.start == "transposed" and index >= finished:
                    _transpose(rbm, layers[index - 1])
                rows = _encode(rows, layers[index - 1], options, index, generators)
            if index < finished:
                continue
            run = Run(manager, saved, _with_layer(callback, index + 1), progress, f"layer {index + 1}/{len(layers)}")
            with named_where_short(layer=index + 1, batch_size=own.batch_size, estimator=own.negative_phase):
                stack.histories.append(train_rbm(rbm, rows, own, generators, run))
            saved = None
    return stack.histories


def _check(layers: Sequence[RBM], options: StackOptions, *, validated: bool) -> None:
    """Raise an error, before any RBM is trained, if one of them could not be."""
    choice(options.upward, ("means", "samples"), "upward")
    choice(options.start, ("own", "transposed"), "start")
    whole_number(options.cache_bytes, "cache_bytes", at_least=0)
    for index, (rbm, own) in enumerate(zip(layers, options.layers, strict=True)):
        check_trainable(rbm, own, validated=validated, name=f"layer {index + 1}/{len(layers)}: rbm")
    for below, rbm in pairwise(layers):
        if options.start == "transposed" and rbm.hidden.config() != below.visible.config():
            raise ValueError(
                f'start is "transposed", but {rbm.hidden} lie two above {below.visible}: give the same units'
            )


@torch.no_grad()
def _transpose(rbm: RBM, below: RBM) -> None:
    """Start an RBM as the one below upside down.

    Source: G. Hinton, S. Osindero, Y. Teh (2006), A fast learning algorithm for deep belief nets, section 4.
    """
    rbm.weight.copy_(below.weight.t())
    rbm.visible_bias.copy_(below.hidden_bias)
    rbm.hidden_bias.copy_(below.visible_bias)
    rbm.visible.load_state_dict(below.hidden.state_dict())
    rbm.hidden.load_state_dict(below.visible.state_dict())


def _encode(rows: TrainingData, below: RBM, options: StackOptions, index: int, generators: Generators) -> TrainingData:
    """The rows of layer `index`: what the RBM below makes of its own."""
    train = _encoded(rows.train, below, options, index, generators.local)
    train = train.with_batch_size(options.layers[index].batch_size)
    return TrainingData(train, rows.validation and _encoded(rows.validation, below, options, index, None))


def _encoded(source: Source, below: RBM, options: StackOptions, index: int, generator: Generator | None) -> Source:
    width = below.hidden.size
    if options.upward == "samples":
        # The monitored rows must be the same at every call, also after a resume in a later layer, and their samples
        # independent of those of the layers below.
        monitored = partial(below.sample_hidden, seed=index)
        return MappedSource(source, partial(_sampled, below, generator), width, monitored)
    encoded = MappedSource(source, torch.no_grad()(below.mean_hidden), width, deterministic=source.deterministic)
    size = (source.rows or 0) * width * below.weight.element_size()
    if not source.deterministic or size > options.cache_bytes:
        return encoded
    rows, done = below.weight.new_empty(source.rows or 0, width), 0
    for batch in encoded.with_batch_size(CHUNK).sequential():
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
