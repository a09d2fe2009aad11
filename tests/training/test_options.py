"""Options are declared once: signatures, documentation, checks and types follow from their fields."""

import inspect
from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from dbn import DBN, RBM, finetune, train
from dbn.finetuning.finetune_options import FinetuneKeywords, FinetuneOptions
from dbn.training import TrainKeywords, TrainOptions

DECLARED = [(train, TrainOptions), (DBN.pretrain, TrainOptions), (finetune, FinetuneOptions)]
X = torch.zeros(4, 3)


@pytest.mark.parametrize(("function", "options"), DECLARED)
def test_signature_and_documentation_name_every_option(function, options):
    parameters, documentation = inspect.signature(function).parameters, inspect.getdoc(function)
    for field in fields(options):
        assert parameters[field.name].kind is inspect.Parameter.KEYWORD_ONLY
        assert f"{field.name}: " in documentation
        if field.name != "epochs":
            assert parameters[field.name].default == field.default
            assert " ".join(field.metadata["documentation"].split()) in " ".join(documentation.split())
    assert "{options}" not in documentation


@pytest.mark.parametrize(("keywords", "options"), [(TrainKeywords, TrainOptions), (FinetuneKeywords, FinetuneOptions)])
def test_type_checkers_know_every_option_and_its_type(keywords, options):
    types, declared = get_type_hints(keywords), get_type_hints(options)
    assert types.keys() == declared.keys() - {"epochs"}
    for name, kind in types.items():
        assert (
            kind == declared[name]
            or declared[name] in get_args(kind)
            or set(get_args(declared[name])) < set(get_args(kind))
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train(RBM(3, 2), X, epochs=1, momentm=0.5), r"train\(\) .* 'momentm': did you mean 'momentum'"),
        (lambda: DBN([3, 2]).pretrain(X, learning_rates=0.1), r"pretrain\(\) .*: did you mean 'learning_rate'"),
        (
            lambda: finetune(nn.Linear(3, 2), X, X, epochs=1, optimizer="sgd"),
            r"finetune\(\) .*did you mean 'optimiser'",
        ),
        (lambda: train(RBM(3, 2), X, epochs=1, validaton=X), r"'validaton': did you mean 'validation'"),
        (
            lambda: train(RBM(3, 2), X, epochs=1, zzz=1),
            r"unexpected keyword argument 'zzz': known are rbm, data, epochs",
        ),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_one(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_one_rbm_takes_no_list_of_options():
    with pytest.raises(TypeError, match=r"batch_size is \[1, 2\]: give a whole number"):
        train(RBM(3, 2), X, epochs=1, batch_size=[1, 2], progress=False)
