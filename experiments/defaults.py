"""Do the defaults of CD and PCD give a better density than independent columns, on digits, a table and spikes?

RBMs are trained with the library's own learning rate, momentum and weight decay. They are compared by the
log-likelihood of test rows with independent columns that are fitted to the same training rows. Log Z is exact up to 14
hidden units, and a bracket of forward and reverse AIS above. The digits are the bundled ones: training pixels are
sampled at every presentation, test pixels are thresholded. The table is scikit-learn's breast masses, 30 columns that
are standardised by the training rows. The spikes are simulated: neurons fire by themselves and in assemblies.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dbn import (
    CD,
    PCD,
    RBM,
    Estimator,
    Gaussian,
    ReLU,
    Unit,
    bracket,
    datasets,
    exact_log_partition,
    log_likelihood,
    train,
)
from experiments.study.command_line import check_several, option, parse
from experiments.study.options import OutOption, SeedsOption
from experiments.study.records import as_dict, environment, launch, mean_sd, write_json, write_text
from experiments.study.tables import aligned

_ENUMERABLE = 14
ESTIMATORS: dict[str, Callable[[], Estimator]] = {"CD-1": lambda: CD(1), "PCD": lambda: PCD(100)}


class Rows(NamedTuple):
    """Training, validation and test rows."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Case(NamedTuple):
    """Rows, the units of an RBM for them, epochs that make some thousand updates, and options of training."""

    rows: Callable[[], Rows]
    visible: Callable[[int], int | Unit]
    hidden: Callable[[], int | Unit]
    epochs: int
    options: dict[str, Any]


def digits() -> Rows:
    """Load grey training rows, and validation and test pixels thresholded at 0.5."""
    split = datasets.load("mnist-sample", seed=0)
    return Rows(split.train.x, (split.validation.x > 0.5).float(), (split.test.x > 0.5).float())


def table() -> Rows:
    """Load breast masses: 380, 75 and 114 rows of 30 columns, standardised by the training rows."""
    from sklearn.datasets import load_breast_cancer

    x = torch.from_numpy(load_breast_cancer().data).float()
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    x = (x - x[:380].mean(0)) / x[:380].std(0)
    return Rows(x[:380], x[380:455], x[455:])


def spikes(bins: int = 20_000, neurons: int = 200, assemblies: int = 12) -> Rows:
    """Simulate neurons that fire in 2.4 % of bins by themselves, and in half of the bins of their active assemblies.

    An assembly has a tenth of all neurons, and is active in 1 % of bins.
    """
    generator = torch.Generator().manual_seed(0)
    members = (torch.rand(assemblies, neurons, generator=generator) < 0.1).float()
    active = (torch.rand(bins, assemblies, generator=generator) < 0.01).float()
    alone = 0.024 * (0.5 + torch.rand(neurons, generator=generator))
    x = torch.bernoulli(1 - (1 - alone) * 0.5 ** (active @ members), generator=generator)
    return Rows(*torch.split(x, [bins * 7 // 10, bins * 3 // 20, bins - bins * 7 // 10 - bins * 3 // 20]))


_real = partial(Gaussian, learned=True)
CASES = {
    "digits": Case(digits, int, lambda: 100, 20, {"binarise": "sample"}),
    "table": Case(table, _real, lambda: 12, 100, {}),
    "spikes": Case(spikes, int, lambda: 24, 40, {}),
    "spikes-relu": Case(spikes, int, lambda: ReLU(24), 40, {}),
}


@dataclass(frozen=True)
class Config(SeedsOption, OutOption):
    """Data and estimators, repetitions, and the estimate of log Z."""

    data: tuple[str, ...] = option(tuple(CASES), f"what to learn, of {' '.join(CASES)}")
    estimators: tuple[str, ...] = option(tuple(ESTIMATORS), f"how, of {' '.join(ESTIMATORS)}")
    epochs: float = option(1.0, "factor of the epochs of each data set")
    hidden: int | None = option(None, "Bernoulli hidden units, instead of the units of each data set")
    temperatures: int = option(500, "temperatures of each annealing run")
    gibbs_steps: int = option(500, "Gibbs steps from the data before annealing backwards")


PRESETS = {
    "full": Config(),
    "tiny": Config(
        data=("digits", "table"),
        epochs=0.05,
        hidden=4,
        temperatures=20,
        gibbs_steps=5,
        seeds=2,
    ),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and measure every RBM, print the table, and write `results.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    check_several(config.data, "data", CASES)
    check_several(config.estimators, "estimators", ESTIMATORS)
    arms = [
        _arm(config, data, name, seed)
        for data in config.data
        for name in config.estimators
        for seed in range(config.seeds)
    ]
    content = {"config": as_dict(config), "environment": environment("cpu"), "arms": arms}
    write_json(Path(config.out) / "results.json", content)
    found = text(arms)
    write_text(Path(config.out) / "table.md", found)
    print(f"nats a test row\n\n{found}\n\nwrote {config.out}/results.json and table.md")
    return content


def _arm(config: Config, data: str, name: str, seed: int) -> dict[str, Any]:
    """Train an RBM, and measure its log-likelihood and that of independent columns."""
    case = CASES[data]
    rows, epochs = case.rows(), max(1, round(config.epochs * case.epochs))
    rbm = RBM(case.visible(rows.train.shape[1]), config.hidden or case.hidden(), seed=seed)
    history = train(
        rbm,
        rows.train,
        epochs=epochs,
        estimator=ESTIMATORS[name](),
        description=f"{data}, {name}, seed {seed}",
        seed=seed,
        **case.options,
    )
    arm = {"data": data, "estimator": name, "seed": seed, "epochs": epochs, **_measured(config, rbm, rows)}
    arm |= {f"independent_{part}": _independent(rbm, rows.train, x) for part, x in _held_back(rows).items()}
    return {**arm, "last_record": history.last}


def _held_back(rows: Rows) -> dict[str, Tensor]:
    return {"validation": rows.validation, "test": rows.test}


def _measured(config: Config, rbm: RBM, rows: Rows) -> dict[str, Any]:
    if rbm.hidden.cardinality is not None and rbm.hidden.size <= _ENUMERABLE:
        log_z, doubts = float(exact_log_partition(rbm)), None
    else:
        steps = {"temperatures": config.temperatures, "gibbs_steps": config.gibbs_steps}
        found = bracket(rbm, rows.validation, progress=False, seed=0, **steps)
        log_z, doubts = found.value, list(found.doubts)
    nats = {name: float(log_likelihood(rbm, x, log_z).mean()) for name, x in _held_back(rows).items()}
    return {**nats, "log_z": log_z, "doubts": doubts}


def _independent(rbm: RBM, train_rows: Tensor, x: Tensor) -> float:
    """Return the mean log-likelihood of independent columns: normal, or binary with one more row of each value."""
    if rbm.visible.cardinality is None:
        mean, variance = train_rows.mean(0), train_rows.var(0, correction=0)
        return float(-((x - mean).square() / variance + (2 * math.pi * variance).log()).sum(1).mean() / 2)
    p = (train_rows.sum(0) + 1) / (len(train_rows) + 2)
    return float((x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean())


def text(arms: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each data set and estimator: means and standard deviations over seeds."""
    rows = [["data", "estimator", "test", "independent columns", "validation", "chain gap", "trusted"]]
    for data, name in dict.fromkeys((arm["data"], arm["estimator"]) for arm in arms):
        found = [arm for arm in arms if (arm["data"], arm["estimator"]) == (data, name)]
        both = ["{:.2f} ± {:.2f}".format(*mean_sd([arm[part] for arm in found])) for part in ("test", "validation")]
        gaps = [arm["last_record"]["chain_gap"] for arm in found if "chain_gap" in arm["last_record"]]
        gap = "{:.1f} ± {:.1f}".format(*mean_sd(gaps)) if gaps else ""
        trusted = f"{sum(not arm['doubts'] for arm in found)} of {len(found)}"
        rows.append([data, name, both[0], f"{found[0]['independent_test']:.2f}", both[1], gap, trusted])
    return aligned(rows)


if __name__ == "__main__":
    launch(main)
