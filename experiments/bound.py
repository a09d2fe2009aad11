"""Does a second RBM improve the model of the first?

A second RBM is stacked on a trained one in two ways. The transposed start takes the first weights upside down; the
stack is then the model of the first RBM, and its variational bound is tight. The other start is wider and has small
random weights. Both are trained by PCD on samples of the first hidden layer. The bound is printed beside the
log-likelihood of the first RBM. It needs log Z of the top RBM, which AIS brackets. Numbers are nats a test row, of
pixels that were sampled once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dbn import DBN, PCD, RBM, bracket, datasets, log_likelihood, lower_bound, train
from dbn.runtime.checks import choose_device
from dbn.schedules import linear
from experiments.study.command_line import option, parse
from experiments.study.options import DataOptions, DeviceOption, OutOption
from experiments.study.records import as_dict, environment, launch, write_json, write_text
from experiments.study.tables import aligned


@dataclass(frozen=True)
class Config(DataOptions, DeviceOption, OutOption):
    """The first RBM, the second, and how both are measured."""

    machine: str | None = option(None, "a saved RBM, such as machines/PCD-0.pt of likelihood; else one is trained")
    hidden: int = option(500, "hidden units of the first RBM, if it is trained here")
    wide: int = option(2000, "hidden units of the second RBM that starts from random weights")
    epochs: tuple[int, int] = option((50, 20), "passes over the training rows for the first RBM and the second")
    gibbs_steps: int = option(5, "k of both")
    rates: tuple[float, float] = option((0.02, 0.0005), "first and last learning rate of both, linear between")
    chains: int = option(100, "persistent chains")
    ais_chains: int = option(100, "chains of each annealing run")
    temperatures: int = option(10_000, "temperatures of each annealing run")
    samples: int = option(20, "samples of the hidden units a row, for the bound")
    rows: int = option(10_000, "test rows")


PRESETS = {
    "mnist": Config(data="mnist"),
    "tiny": Config(
        hidden=8,
        wide=12,
        epochs=(1, 1),
        gibbs_steps=1,
        ais_chains=20,
        temperatures=50,
        samples=2,
        rows=100,
        device="cpu",
    ),
}

Start = Literal["own", "transposed"]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, measure, print the table, and write `results.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    device = choose_device(config.device)
    split = datasets.load(config.data, root=config.root, seed=0)
    x = split.train.x.to(device)
    test = torch.bernoulli(split.test.x, generator=torch.Generator().manual_seed(0))[: config.rows].to(device)
    bottom = _bottom(config, x)
    rows = [_alone(bottom, x, test, config)]
    starts: list[tuple[str, int, Start]] = [
        ("transposed", bottom.visible.size, "transposed"),
        ("random", config.wide, "own"),
    ]
    for name, width, start in starts:
        stack = DBN([bottom.visible, bottom.hidden, width], seed=0).to(device)
        stack.layers[0].load_state_dict(bottom.state_dict())
        for epochs in (0, config.epochs[1]) if start == "transposed" else (config.epochs[1],):
            _learn(stack, x, epochs, start, config)
            rows.append({"second machine": name, "epochs": epochs, **_bound(stack, x, test, config)})
            print(rows[-1], flush=True)
    content = {"config": as_dict(config), "environment": environment(config.device), "rows": rows}
    write_json(Path(config.out) / "results.json", content)
    found = table(rows)
    write_text(Path(config.out) / "table.md", found)
    print(f"\n{found}\n\nwrote {config.out}/results.json and table.md")
    return content


def _bottom(config: Config, x: Tensor) -> RBM:
    if config.machine is not None:
        return RBM.load(config.machine).to(x.device)
    rbm = RBM(x.shape[1], config.hidden, seed=0)
    train(rbm.to(x.device), x, epochs=config.epochs[0], description="first RBM", **_settings(config, config.epochs[0]))
    return rbm


def _learn(stack: DBN, x: Tensor, epochs: int, start: Start, config: Config) -> None:
    stack.pretrain(x, epochs=[0, epochs], start=start, upward="samples", **_settings(config, epochs))


def _settings(config: Config, epochs: int) -> dict[str, Any]:
    return {
        "learning_rate": linear(*config.rates, max(epochs, 1)),
        "momentum": 0.5,
        "weight_decay": 0.0,
        "estimator": PCD(config.chains, config.gibbs_steps),
        "centring": 0.01,
        "binarise": "sample",
        "average_from": epochs * 0.67,
        "seed": 0,
    }


def _alone(rbm: RBM, x: Tensor, test: Tensor, config: Config) -> dict[str, Any]:
    """Measure the log-likelihood of the first RBM."""
    found = bracket(rbm, torch.bernoulli(x[: len(test)]), **_annealing(config))
    both = {name: float(log_likelihood(rbm, test, log_z).mean()) for name, log_z in _sides(found).items()}
    return {"second machine": "none", "epochs": 0, **both, "doubts": list(found.doubts)}


def _bound(stack: DBN, x: Tensor, test: Tensor, config: Config) -> dict[str, Any]:
    """Measure the variational bound of the stack."""
    below, top = stack.layers
    found = bracket(top, below.sample_hidden(torch.bernoulli(x[: len(test)]), seed=0), **_annealing(config))
    bound = float(lower_bound(stack, test, 0.0, samples=config.samples, seed=0).mean())
    return {**{name: bound - float(log_z) for name, log_z in _sides(found).items()}, "doubts": list(found.doubts)}


def _annealing(config: Config) -> dict[str, Any]:
    return {"chains": config.ais_chains, "temperatures": config.temperatures, "seed": 0}


def _sides(found: Any) -> dict[str, Any]:
    return {"forward": found, "reverse": found.reverse}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a row a second RBM: likelihood or bound, and doubts about log Z."""
    head = ["second machine", "its epochs", "likelihood or bound", "by reverse AIS", "doubts"]
    cells = [
        [r["second machine"], str(r["epochs"]), f"{r['forward']:.2f}", f"{r['reverse']:.2f}", "; ".join(r["doubts"])]
        for r in rows
    ]
    return aligned([head, *cells])


if __name__ == "__main__":
    launch(main)
