"""How far is annealed importance sampling from the exact log Z, by base, temperatures and chains?

RBMs with few hidden units are trained by CD-1 and by PCD-1 on binary pixels, which are sampled at every presentation.
Their log Z is estimated many times from every base, forwards and backwards, and compared with the exact one. `ais.png`
draws the mean error with a band of one standard deviation.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dbn import CD, PCD, RBM, Estimator, ais, datasets, exact_log_partition, reverse_ais, train
from dbn.runtime.checks import choose_device
from experiments.study import figures
from experiments.study.command_line import option, parse
from experiments.study.options import DataOptions, DeviceOption, OutOption
from experiments.study.records import as_dict, environment, launch, mean_sd, write_json, write_text
from experiments.study.tables import aligned


@dataclass(frozen=True)
class Config(DataOptions, DeviceOption, OutOption):
    """The RBMs, and the estimates of each."""

    hidden: int = option(20, "hidden units, few enough to enumerate")
    epochs: int = option(60, "passes over the training rows")
    temperatures: tuple[int, ...] = option((10, 30, 100, 300, 1000, 3000, 10_000), "temperatures of an estimate")
    chains: tuple[int, ...] = option((10, 100), "chains of an estimate")
    repeats: int = option(10, "estimates of each kind")
    gibbs_steps: int = option(1000, "Gibbs steps from the data before annealing backwards")


PRESETS = {
    "sample": Config(),
    "tiny": Config(hidden=4, epochs=1, temperatures=(5, 10), chains=(10,), repeats=2, gibbs_steps=5),
}

_REVERSE = "backwards from the data"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, estimate, print the table, draw the picture, and write `results.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    device, out = choose_device(config.device), Path(config.out)
    split = datasets.load(config.data, root=config.root, seed=0)
    x = split.train.x.to(device)
    estimators: dict[str, Estimator] = {"CD-1": CD(1, sample_visible=True), "PCD-1": PCD(100)}
    machines = []
    for name, estimator in estimators.items():
        rbm = RBM(x.shape[1], config.hidden, seed=0).to(device)
        settings = {"learning_rate": 0.05, "momentum": 0.5, "weight_decay": 0.0, "centring": 0.01, "seed": 0}
        train(rbm, x, epochs=config.epochs, estimator=estimator, binarise="sample", description=name, **settings)
        exact = float(exact_log_partition(rbm))
        machines.append({"machine": name, "log_z": exact, "estimates": list(_estimates(rbm, x, exact, config))})
    content = {"config": as_dict(config), "environment": environment(config.device), "machines": machines}
    write_json(out / "results.json", content)
    found = table(machines)
    write_text(out / "table.md", found)
    _draw(machines, config).savefig(out / "ais.png")
    print(
        f"errors in nats at the most temperatures and chains\n\n{found}\n\nwrote {out}/results.json, table.md, ais.png"
    )
    return content


def _estimates(rbm: RBM, x: Tensor, exact: float, config: Config) -> Iterator[dict[str, Any]]:
    """Estimate log Z repeatedly; a row for each base and each number of chains and of temperatures."""
    mean = rbm.visible.field_of_mean(x.mean(0))
    bases: dict[str, str | Tensor] = {"data mean": mean, "own visible bias": "visible_bias", "zeros": "zeros"}
    grid = list(itertools.product([*bases, _REVERSE], config.chains, config.temperatures))
    for base, chains, temperatures in tqdm(grid, desc="annealing", unit="kind", dynamic_ncols=True):
        errors, sizes = [], []
        for seed in range(config.repeats):
            settings = {"temperatures": temperatures, "progress": False}
            generator = torch.Generator(x.device).manual_seed(seed)
            if base == _REVERSE:
                chosen = torch.randint(len(x), (chains,), generator=generator, device=x.device)
                samples = rbm.gibbs(
                    torch.bernoulli(x[chosen], generator=generator), config.gibbs_steps, generator=generator
                )
                found = reverse_ais(rbm, samples, base=mean, generator=generator, **settings)
            else:
                found = ais(rbm, chains=chains, base=bases[base], generator=generator, **settings)
            errors.append(found.value - exact)
            sizes.append(found.ess)
        yield {"base": base, "chains": chains, "temperatures": temperatures, "errors": errors, "ess": sizes}


def _draw(machines: Sequence[dict[str, Any]], config: Config) -> Any:
    panels = {
        f"{machine['machine']}, {chains} chains": {
            base: torch.tensor([row["errors"] for row in machine["estimates"] if _is(row, base, chains)]).t().tolist()
            for base in dict.fromkeys(row["base"] for row in machine["estimates"])
        }
        for machine in machines
        for chains in config.chains
    }
    ylabel = "estimate − exact log Z, nats"
    return figures.curves(panels, xlabel="temperatures", ylabel=ylabel, at=config.temperatures, linear_within=0.1)


def _is(row: dict[str, Any], base: str, chains: int) -> bool:
    return bool(row["base"] == base and row["chains"] == chains)


def table(machines: Sequence[dict[str, Any]]) -> str:
    """Return a row an RBM and base: errors and effective chains at the most temperatures and chains."""
    rows = [["machine", "base", "error, nats", "effective chains"]]
    for machine in machines:
        most = max((row["chains"], row["temperatures"]) for row in machine["estimates"])
        for row in machine["estimates"]:
            if (row["chains"], row["temperatures"]) == most:
                error = "{:+.3f} ± {:.3f}".format(*mean_sd(row["errors"]))
                rows.append(
                    [machine["machine"], row["base"], error, f"{mean_sd(row['ess'])[0]:.0f} of {row['chains']}"]
                )
    return aligned(rows)


if __name__ == "__main__":
    launch(main)
