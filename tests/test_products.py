"""What products of less precision do to a likelihood and to an error, where a CPU rounds as a GPU would."""

import pytest
import torch

from dbn import (
    CD,
    DBN,
    PCD,
    RBM,
    ais,
    datasets,
    evaluate,
    exact_log_partition,
    finetune,
    log_likelihood,
    matrix_products,
    train,
)
from tests.support.emulated_tf32 import Rounded, rounded

TF32 = 10
SEEDS = 5


def settings():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


def test_the_setting_is_that_of_the_block_alone():
    before = settings()
    with matrix_products("tf32"):
        assert settings() == ("tf32", "tf32")
        with matrix_products("float32"):
            assert settings() == ("ieee", "ieee")
        assert settings() == ("tf32", "tf32")
    with pytest.raises(KeyError, match="broken"), matrix_products("tf32"):
        raise KeyError("broken")
    assert settings() == before


def test_a_setting_of_single_backends_is_put_back_too():
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with matrix_products("float32"):
            assert settings() == ("ieee", "ieee")
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert torch.get_float32_matmul_precision() == "highest"


def test_another_kind_is_refused_before_anything_is_changed():
    before = settings()
    with pytest.raises(ValueError, match="kind is 'bf16': choose one of float32, tf32"), matrix_products("bf16"):
        pass
    assert settings() == before


def test_rounding_is_that_of_torch_where_torch_has_it():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rounded(x, 7), x.bfloat16().float())
    assert float((rounded(x, TF32) / x - 1).abs().max()) <= 2.0**-11


def small(split):
    """Every second pixel of every second row of the digits, as ones and zeros."""
    return (split.x.reshape(-1, 28, 28)[:, 4:24:2, 4:24:2].flatten(1) > 0.5).float()


def likelihoods(digits, estimator, mode=None):
    """Exact mean log-likelihoods of held-back digits after training, one a seed, always judged in full precision."""
    found = []
    for seed in range(SEEDS):
        rbm = RBM(100, 12, seed=seed)
        options = {
            "epochs": 5,
            "batch_size": 50,
            "learning_rate": 0.05,
            "momentum": 0.5,
            "progress": False,
            "seed": seed,
        }
        if mode is None:
            train(rbm, digits.train, estimator=estimator(), **options)
        else:
            with mode:
                train(rbm, digits.train, estimator=estimator(), **options)
        rbm.double()
        found.append(float(log_likelihood(rbm, digits.test.double(), exact_log_partition(rbm)).mean()))
    return torch.tensor(found)


class Digits:
    def __init__(self, rows=1500):
        split = datasets.load("mnist-sample")
        self.train, self.test = small(split.train)[:rows], small(split.test)[:500]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [lambda: CD(1), lambda: PCD(50)], ids=["CD", "PCD"])
def test_rounded_products_train_machines_as_likely(estimator):
    digits, mode = Digits(), Rounded(TF32)
    plain, other = likelihoods(digits, estimator), likelihoods(digits, estimator, mode)
    assert mode.count > 1000
    difference = other - plain
    # Paired over seeds: within three standard errors, or a fiftieth of a nat, whichever is more.
    assert abs(float(difference.mean())) < max(3 * float(difference.std()) / SEEDS**0.5, 0.02)
    assert not torch.equal(plain, other)


@pytest.mark.slow
def test_products_of_three_bits_are_seen_to_be_worse():
    digits = Digits(rows=500)
    plain, other = likelihoods(digits, lambda: PCD(50)), likelihoods(digits, lambda: PCD(50), Rounded(2))
    difference = other - plain
    assert float(difference.mean()) < -3 * float(difference.std()) / SEEDS**0.5


def test_rounded_products_move_a_log_partition_by_less_than_a_tenth_of_a_nat():
    digits = Digits()
    rbm = RBM(100, 12, seed=0)
    train(rbm, digits.train, epochs=5, estimator=PCD(50), progress=False, seed=0)
    with Rounded(TF32):
        estimate = ais(rbm, chains=200, temperatures=1000, progress=False, seed=0)
    assert estimate.value == pytest.approx(float(exact_log_partition(rbm.double())), abs=0.1)


def test_rounded_products_fine_tune_as_well():
    split = datasets.load("mnist-sample", labels=500)
    errors = []
    for mode in (None, Rounded(TF32)):
        mlp = DBN([784, 32], seed=0).to_mlp(outputs=10, seed=0)
        options = {"epochs": 10, "progress": False, "seed": 0}
        if mode is None:
            finetune(mlp, *split.train.labelled, **options)
        else:
            with mode:
                finetune(mlp, *split.train.labelled, **options)
        errors.append(evaluate(mlp, *split.test).error)
    assert errors[0] == pytest.approx(errors[1], abs=3 * (2 * 0.1 * 0.9 / 2000) ** 0.5)
