"""The public API as a table: for each name a maker of its subject, the call, and its arguments."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

import dbn
from dbn import (
    CD,
    DBN,
    PCD,
    RBM,
    Bernoulli,
    Categorical,
    EarlyStopping,
    FastPCD,
    Gaussian,
    Joint,
    NoisyReLU,
    ParallelTempering,
    ReLU,
    Spin,
    datasets,
    schedules,
)
from experiments.fuzzing.arguments import (
    ANNEALING,
    BOTTOM,
    BOTTOM_DATA,
    CALLBACK,
    COUNT,
    DATA,
    DRAWS,
    EVERY,
    FLAG,
    FREE,
    HIDDEN,
    ITSELF,
    LABELLED,
    LADDER,
    LEARNING,
    LOADS,
    LOG_Z,
    MAYBE,
    NETWORK_ROWS,
    PATH,
    RATE,
    SAVES,
    SCHEDULE,
    STEPS,
    TOP,
    UNIT,
    VISIBLE,
    Argument,
    invalid_labels,
    invalid_pair,
    one_of,
    valid_labels,
    valid_pair,
    words_of,
)
from experiments.fuzzing.draw import Draw
from experiments.fuzzing.subjects import draw_network, draw_rbm, draw_stack, nothing


class Entry(NamedTuple):
    """One name of the public API.

    `needed` are the arguments of every call, `more` the optional ones. `also` are other words that an error may use for
    an argument.
    """

    make: Callable[[Draw], Any]
    call: Callable[..., Any]
    needed: dict[str, Argument]
    more: Mapping[str, Argument] = MappingProxyType({})
    also: tuple[str, ...] = ()


def _tiny_ais(rbm: Any, *, temperatures: Any = 3, **given: Any) -> Any:
    return dbn.ais(rbm, temperatures=temperatures, **{"chains": 3, **given})


def _tiny_reverse_ais(rbm: Any, samples: Any, *, temperatures: Any = 3, **given: Any) -> Any:
    return dbn.reverse_ais(rbm, samples, temperatures=temperatures, **given)


def _tiny_bracket(rbm: Any, data: Any, *, temperatures: Any = 3, **given: Any) -> Any:
    return dbn.bracket(rbm, data, temperatures=temperatures, **{"chains": 3, "gibbs_steps": 1, **given})


def _scored(held_back: Any, subject: Any, **given: Any) -> Any:
    return dbn.score_by_ais(held_back, **{"chains": 3, "temperatures": 3, **given})(subject)


def _pretrained(subject: Any, data: Any, epochs: Any = 1, **given: Any) -> Any:
    return subject.pretrain(data, epochs=epochs, **given)


def _saved(subject: RBM, path: Any) -> RBM:
    """Save and load."""
    subject.save(path)
    return RBM.load(path)


def _method(name: str) -> Callable[..., Any]:
    return lambda subject, **given: getattr(subject, name)(**given)


def _only(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda subject, **given: function(**given)


def _followed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a schedule, and return its value."""
    return lambda subject, **given: function(**given)(0.5)


def _layers(method: str, arguments: dict[str, Argument], more: dict[str, Argument] | None = None) -> Entry:
    return Entry(draw_rbm, _method(method), arguments, more or {})


_SIZE = {"size": COUNT}
_FINETUNING = {
    "batch_size": FREE, "learning_rate": SCHEDULE, "head_learning_rate": SCHEDULE, "weight_decay": RATE,
    "max_norm": MAYBE,
    "optimiser": one_of(["adam", "sgd", torch.optim.AdamW], ["lbfgs", lambda groups, lr: None], called=True),
    "validation": Argument(valid_pair, invalid_pair), "patience": EVERY, "callback": CALLBACK,
    "loss": one_of([nn.functional.cross_entropy], [3, "mse", lambda a, b: None, lambda a, b: a], called=True),
    "device": one_of([None, "cpu", "auto"], ["cuda:99", "meta", "nowhere", torch.device]),
    "description": one_of(["fine-tuning"]), "progress": FLAG, **SAVES, **DRAWS,
}  # fmt: skip
_NOTHING: dict[str, Argument] = {}

#: Every name of the public API that takes input.
PUBLIC_API: dict[str, Entry] = {
    "RBM": Entry(nothing, _only(RBM), {"visible": UNIT, "hidden": UNIT}, {"weight_scale": RATE, **DRAWS}),
    **{kind.__name__: Entry(nothing, _only(kind), _SIZE) for kind in (Bernoulli, Spin, ReLU, NoisyReLU)},
    "Categorical": Entry(nothing, _only(Categorical), {"size": one_of([6, 3])}, {"classes": one_of([3, None])}),
    "Gaussian": Entry(
        nothing,
        _only(Gaussian),
        {"size": one_of([2])},
        {"precision": one_of([1.0, 2, [1.0, 2.0], torch.ones(2)], huge=True), "learned": FLAG},
    ),
    "Joint": Entry(nothing, lambda subject, first, second: Joint(first, second), {"first": UNIT, "second": UNIT},
                  also=("parts",)),
    "RBM.energy": _layers("energy", {"v": VISIBLE, "h": HIDDEN}),
    **{f"RBM.{name}": _layers(name, {"v": VISIBLE})
       for name in ("free_energy", "hidden_field", "mean_hidden", "reconstruct")},
    **{f"RBM.{name}": _layers(name, {"h": HIDDEN})
       for name in ("hidden_free_energy", "visible_field", "mean_visible")},
    "RBM.sample_hidden": _layers("sample_hidden", {"v": VISIBLE}, DRAWS),
    "RBM.sample_visible": _layers("sample_visible", {"h": HIDDEN}, DRAWS),
    "RBM.gibbs": _layers("gibbs", {"v": VISIBLE}, {"steps": STEPS, **DRAWS}),
    "RBM.save": Entry(draw_rbm, _saved, {"path": PATH}),
    "CD": Entry(nothing, _only(CD), {}, {"steps": FREE, "sample_visible": FLAG, "mean_field": FLAG}),
    "PCD": Entry(nothing, _only(PCD), {}, {"chains": FREE, "steps": FREE, "start": words_of("noise", "data")}),
    "FastPCD": Entry(nothing, _only(FastPCD), {}, {"chains": FREE, "steps": FREE, "rate": RATE, "decay": RATE,
                                                   "start": words_of("noise", "data")}),
    "ParallelTempering": Entry(nothing, _only(ParallelTempering), {},
                              {"chains": FREE, "temperatures": one_of([2, 5]), "steps": FREE}),
    "EarlyStopping": Entry(nothing, _only(EarlyStopping), {"score": one_of([len, None], ["len"], called=True)},
                          {"every": FREE, "patience": FREE, "largest_gap": MAYBE}, also=("neither a score",)),
    "schedules.constant": Entry(nothing, _followed(schedules.constant), {"value": RATE}),
    "schedules.switch": Entry(nothing, _followed(schedules.switch), {"before": RATE, "after": RATE, "at": RATE}),
    "schedules.linear": Entry(nothing, _followed(schedules.linear),
                             {"start": RATE, "end": RATE, "epochs": one_of([1, 2.5], huge=True)}),
    "schedules.cosine": Entry(nothing, _followed(schedules.cosine),
                             {"start": RATE, "end": RATE, "epochs": one_of([1, 2.5], huge=True)}),
    "train": Entry(
        draw_rbm,
        lambda subject, **given: dbn.train(**given),
        {"rbm": ITSELF, "data": DATA, "epochs": one_of([0, 1, 1, 1])},
        {"validation": VISIBLE, "description": one_of(["training"]), **LEARNING},
        also=("labels",),
    ),
    "DBN": Entry(nothing, _only(DBN),
                {"units": one_of([[3, 2], (3, Gaussian(2), 2)], [[3], [3, None], [3, "2"], [0, 3]])},
                {"weight_scale": RATE, **DRAWS}),
    "DBN.encode": Entry(draw_stack, _method("encode"), {"x": BOTTOM}),
    "DBN.decode": Entry(draw_stack, _method("decode"), {"h": TOP}),
    "DBN.reconstruct": Entry(draw_stack, _method("reconstruct"), {"x": BOTTOM}),
    "DBN.sample": Entry(draw_stack, _method("sample"), {"n": COUNT}, {"steps": STEPS, "mean": FLAG, **DRAWS}),
    "DBN.to_autoencoder": Entry(draw_stack, _method("to_autoencoder"), _NOTHING),
    "DBN.to_mlp": Entry(draw_stack, _method("to_mlp"), {"outputs": COUNT, "data": BOTTOM},
                       {"transfer": words_of("exact", "relu_rescaled", "relu_copied"), "dropout": RATE,
                        "input_dropout": RATE, **DRAWS}),
    "DBN.pretrain": Entry(
        draw_stack,
        _pretrained,
        {"data": BOTTOM_DATA},
        {"epochs": one_of([0, 1]), "validation": BOTTOM, "upward": words_of("means", "samples"),
         "start": words_of("own", "transposed"), "cache_bytes": one_of([0, 2**31], huge=True), **LEARNING},
        also=("labels", "rbm"),
    ),
    "initialise": Entry(
        draw_network,
        lambda subject, **given: dbn.initialise(**given),
        {"model": ITSELF, "scheme": words_of(*sorted(dbn.initialisation.SCHEMES))},
        {"scale": MAYBE, **DRAWS},
    ),
    "finetune": Entry(
        draw_network,
        lambda subject, **given: dbn.finetune(**given),
        {"model": ITSELF, "x": NETWORK_ROWS, "y": Argument(valid_labels, invalid_labels), "epochs": one_of([0, 1, 1])},
        _FINETUNING,
        also=("labels",),
    ),
    "finetune, loader": Entry(
        draw_network,
        lambda subject, **given: dbn.finetune(**given),
        {"model": ITSELF, "x": LABELLED, "epochs": one_of([0, 1, 1])},
        _FINETUNING,
        also=("labels",),
    ),
    **{f"{name}, loader": Entry(draw_network, lambda subject, call=call, **given: call(**given),
                               {"model": ITSELF, "x": LABELLED}, also=("labels",))
       for name, call in (("evaluate", dbn.evaluate), ("predict", dbn.predict))},
    "evaluate": Entry(
        draw_network,
        lambda subject, **given: dbn.evaluate(**given),
        {"model": ITSELF, "x": NETWORK_ROWS, "y": Argument(valid_labels, invalid_labels)},
        {"loss": one_of([nn.functional.cross_entropy, None], ["mse", lambda a, b: None, lambda a, b: a], called=True)},
        also=("labels",),
    ),
    "predict": Entry(draw_network, lambda subject, **given: dbn.predict(**given), {"model": ITSELF, "x": NETWORK_ROWS},
                    also=("labels",)),
    "exact_log_partition": Entry(draw_rbm, _only(dbn.exact_log_partition), {"rbm": ITSELF}),
    "ais": Entry(draw_rbm, _only(_tiny_ais), {"rbm": ITSELF}, {"chains": COUNT, **ANNEALING}),
    "reverse_ais": Entry(draw_rbm, _only(_tiny_reverse_ais), {"rbm": ITSELF, "samples": VISIBLE}, ANNEALING),
    "bracket": Entry(draw_rbm, _only(_tiny_bracket), {"rbm": ITSELF, "data": VISIBLE},
                    {"chains": COUNT, "temperatures": LADDER, "gibbs_steps": STEPS, "memory": FREE,
                     "progress": FLAG, **DRAWS}),
    "log_likelihood": Entry(draw_rbm, _only(dbn.log_likelihood),
                           {"rbm": ITSELF, "x": VISIBLE, "log_partition": LOG_Z}),
    "pseudo_log_likelihood": Entry(draw_rbm, _only(dbn.pseudo_log_likelihood), {"rbm": ITSELF, "x": VISIBLE},
                                  {"variables": one_of([1, 2, None], huge=True), **DRAWS}),
    "score_by_ais": Entry(draw_rbm, lambda subject, **given: _scored(subject=subject, **given), {"held_back": VISIBLE},
                         {"chains": COUNT, "temperatures": COUNT, "seed": one_of([0, 7], huge=True)},
                         also=("x", "rbm")),
    "lower_bound": Entry(draw_stack, _only(dbn.lower_bound), {"stack": ITSELF, "x": BOTTOM, "log_partition": LOG_Z},
                        {"samples": COUNT, **DRAWS}),
    "datasets.load": Entry(
        nothing,
        _only(datasets.load),
        {"name_or_file": LOADS},
        {"root": one_of([None]), "labels": one_of([None, 10], huge=True), "seed": one_of([0, 1], huge=True),
         "validation": one_of([None, 5, 0.2], huge=True), "standardise": one_of([None, True, False]),
         "label_column": one_of([None, "label", "y"]), "progress": FLAG},
        also=(".csv", ".npz"),
    ),
}  # fmt: skip
