"""How good are RBMs as probability models, by estimator?

Every estimator trains for the same number of updates, or for the same time, on binary pixels that are sampled at every
presentation. The log-likelihood is that of test pixels sampled once. Log Z is exact up to 25 hidden units, and a
bracket of forward and reverse AIS above. The same command resumes an interrupted run. Values of the data are in 0..1.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dbn import (
    CD,
    PCD,
    RBM,
    Estimator,
    FastPCD,
    ParallelTempering,
    bracket,
    datasets,
    distributed,
    exact_log_partition,
    log_likelihood,
    plots,
    train,
)
from dbn.runtime.checks import choose_device
from dbn.schedules import linear
from experiments.benchmarking.timing import Work, learning, seconds
from experiments.pretrain import image_shape
from experiments.study.command_line import option, parse
from experiments.study.options import DataOptions, DeviceOption, OutOption, SeedsOption
from experiments.study.records import as_dict, environment, kept, launch, mean_sd, write_json, write_text
from experiments.study.tables import aligned

PROTOCOL = "training pixels drawn at every presentation, test pixels drawn once (seed 0), nats a test row"
_ENUMERABLE = 25
_PARTS = ("test", "validation", "train")
_EFFORT = ("epochs", "seconds")
_DREAMS = 15  # images a row


@dataclass(frozen=True)
class Config(DataOptions, SeedsOption, DeviceOption, OutOption):
    """RBMs, their training, and the measurement."""

    hidden: int = option(20, "hidden units")
    estimators: tuple[str, ...] = option(
        ("CD", "PCD"), "estimators: CD, CD-25, PCD, FastPCD, tempering, each also with -uncentred"
    )
    equal: str = option(
        "updates", "what all estimators share: the number of updates, or the time of the first estimator"
    )
    epochs: tuple[int, ...] = option((60,), "passes over the training rows, a number for each stage")
    gibbs_steps: tuple[int, ...] = option((1,), "k of each stage")
    rates: tuple[float, ...] = option((0.05, 0.001), "learning rates at the ends of the stages, linear between")
    momentum: float = option(0.5, "momentum")
    weight_decay: float = option(0.0, "L2 cost of the weights")
    batch_size: int = option(100, "rows an update")
    chains: int = option(100, "persistent chains")
    replicas: int = option(10, "temperatures of tempering")
    centring: float = option(0.01, "rate of the offsets' moving mean")
    average: float = option(0.33, "share of the last stage's epochs whose weights are averaged")
    ais_chains: int = option(100, "chains of each annealing run")
    temperatures: int = option(10_000, "temperatures of each annealing run")
    dream_steps: int = option(10_000, "Gibbs steps of the chains in the picture")


PRESETS = {
    "small": Config(data="mnist"),
    "table": Config(
        data="mnist",
        estimators=("CD", "CD-uncentred", "CD-25", "PCD", "PCD-uncentred", "FastPCD", "tempering"),
        epochs=(10,),
    ),
    "rbm500": Config(
        data="mnist",
        hidden=500,
        estimators=("PCD",),
        epochs=(60, 60, 120, 120),
        gibbs_steps=(1, 2, 5, 10),
        rates=(0.05, 0.02, 0.01, 0.003, 0.0002),
        temperatures=30_000,
        seeds=1,
    ),
    "tiny": Config(
        hidden=5,
        epochs=(1, 1),
        gibbs_steps=(1, 2),
        rates=(0.05, 0.02, 0.01),
        dream_steps=10,
        seeds=2,
        device="cpu",
    ),
}

ESTIMATORS: dict[str, Callable[[Config, int], Estimator]] = {
    "CD": lambda config, steps: CD(steps, sample_visible=True),
    "CD-25": lambda config, steps: CD(25 * steps, sample_visible=True),
    "PCD": lambda config, steps: PCD(config.chains, steps),
    "FastPCD": lambda config, steps: FastPCD(config.chains, steps, rate=config.rates[0]),
    "tempering": lambda config, steps: ParallelTempering(config.chains, config.replicas, steps),
}
_PLAIN = "-uncentred"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Train and measure every RBM, print the table, and write `results.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    for name in config.estimators:
        if name.removesuffix(_PLAIN) not in ESTIMATORS:
            raise ValueError(f"--estimators {name}: known are {' '.join(ESTIMATORS)}")
    stages, out, device = _stages(config), Path(config.out), choose_device(config.device)
    split = datasets.load(config.data, root=config.root, seed=0)
    shares = _shares(config, split.train.x.to(device), out / "shares.json")
    generator = torch.Generator().manual_seed(0)
    parts = {"test": split.test.x, "train": split.train.x[: len(split.test.x)], "validation": split.validation.x}
    binary = {name: torch.bernoulli(x, generator=generator).to(device) for name, x in parts.items()}
    arms = []
    for name in config.estimators:
        for seed in range(config.seeds):
            path = out / "arms" / f"{name}-{seed}.json"
            arm = kept(path)
            if arm is None:
                own = [(max(1, round(shares[name] * epochs)), *more) for epochs, *more in stages]
                rbm, took = trained(config, own, name, seed, split.train.x, out, device)
                measured = measure(rbm, binary, config)
                epochs = sum(stage[0] for stage in own)
                arm = {"estimator": name, "seed": seed, "seconds": took, "epochs": epochs, **measured}
                write_json(path, arm)
            arms.append(arm)
            distributed.print0(f"{name}, seed {seed}: validation {arm['validation']:.2f} nats")
    content = {"config": as_dict(config), "environment": environment(config.device), "protocol": PROTOCOL, "arms": arms}
    write_json(out / "results.json", content)
    distributed.run_on_main(lambda: _draw(config, split, out))
    found = f"{PROTOCOL}\n\n{table(arms)}"
    write_text(out / "table.md", found)
    distributed.print0(f"\n{found}\n\nwrote {out}/results.json and table.md")
    return content


Stage = tuple[int, int, float, float]


def _stages(config: Config) -> list[Stage]:
    """Return epochs, k, and first and last learning rate of every stage."""
    if not len(config.epochs) == len(config.gibbs_steps) == len(config.rates) - 1:
        raise ValueError("--epochs and --gibbs-steps take a number for each stage, and --rates one more")
    return [(*two, *rates) for two, rates in zip(zip(config.epochs, config.gibbs_steps), pairwise(config.rates))]  # noqa: B905


def _shares(config: Config, x: Tensor, path: Path) -> dict[str, float]:
    """Return the share of the first estimator's epochs that each estimator gets: all, or those of the same time."""
    if config.equal not in ("updates", "time"):
        raise ValueError(f"--equal {config.equal}: choose updates or time")
    if config.equal == "updates":
        return dict.fromkeys(config.estimators, 1.0)
    shares = kept(path)
    if shares is None:
        with distributed.single_process():
            works = {name: _steps(config, name, x[:5000]) for name in config.estimators}
            rounds = [{name: seconds(work, x.device) for name, work in works.items()} for _ in range(6)][1:]
        times = {name: statistics.median(found[name] for found in rounds) for name in works}
        timed = {name: times[config.estimators[0]] / time for name, time in times.items()}
        shares = distributed.run_on_main(lambda: timed)
        write_json(path, shares)
    return shares


def _steps(config: Config, name: str, x: Tensor) -> Work:
    """Return steps of one estimator, to be timed."""
    rbm = RBM(x.shape[1], config.hidden, seed=0).to(x.device)
    estimator = ESTIMATORS[name.removesuffix(_PLAIN)](config, config.gibbs_steps[0])
    return learning(x, rbm, estimator, batch=config.batch_size)


def trained(
    config: Config, stages: list[Stage], name: str, seed: int, x: Tensor, out: Path, device: torch.device
) -> tuple[RBM, float]:
    """Train an RBM through all stages, or resume it, and return it with its seconds of training."""
    rbm, took = RBM(x.shape[1], config.hidden, seed=seed).to(device), 0.0
    path, carried = out / "machines" / f"{name}-{seed}", {}
    for place, (epochs, steps, first, last) in enumerate(stages):
        estimator = ESTIMATORS[name.removesuffix(_PLAIN)](config, steps)
        if carried:
            estimator.load_state_dict(carried)
        history = train(
            rbm,
            x,
            epochs=epochs,
            batch_size=config.batch_size,
            learning_rate=linear(first, last, epochs),
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            estimator=estimator,
            centring=None if name.endswith(_PLAIN) else config.centring,
            binarise="sample",
            average_from=epochs * (1 - config.average) if place == len(stages) - 1 and config.average else None,
            checkpoint=path / f"stage-{place + 1}",
            description=f"{name} {steps}, seed {seed}, stage {place + 1}/{len(stages)}",
            seed=1000 * seed + place,
        )
        carried, took = estimator.state_dict(), took + history.last["seconds"]
    distributed.run_on_main(lambda: rbm.save(path.with_suffix(".pt")))
    return rbm, took


def measure(rbm: RBM, binary: dict[str, Tensor], config: Config) -> dict[str, Any]:
    """Return the mean log-likelihood of every part, the standard error on test rows, and the estimate of log Z."""
    if rbm.hidden.size <= _ENUMERABLE:
        log_z, how = float(exact_log_partition(rbm)), {"log_partition": "exact"}
    else:
        found = bracket(rbm, binary["train"], chains=config.ais_chains, temperatures=config.temperatures, seed=0)
        log_z = found.value
        how = {
            "log_partition": "AIS",
            "forward": [estimate._asdict() for estimate in found.forward],
            "reverse": found.reverse._asdict(),
            "test_by_reverse": float(log_likelihood(rbm, binary["test"], found.reverse).mean()),
            "trusted": found.trusted,
            "doubts": list(found.doubts),
        }
    rows = {name: log_likelihood(rbm, x, log_z) for name, x in binary.items()}
    error = float(rows["test"].std()) / len(rows["test"]) ** 0.5
    return {**{name: float(row.mean()) for name, row in rows.items()}, "standard_error": error, "log_z": log_z, **how}


def _draw(config: Config, split: datasets.DataSplit, out: Path) -> None:
    """Draw samples of the first RBM of each estimator beside test rows, if rows are images: `dreams.png`."""
    shape = image_shape(split)
    if shape is None:
        return
    rows = {"test rows": split.test.x[:_DREAMS]}
    for name in config.estimators:
        rbm = RBM.load(out / "machines" / f"{name}-0.pt")
        noise = rbm.visible.sample(
            rbm.visible_bias.detach().expand(_DREAMS, -1), generator=torch.Generator().manual_seed(0)
        )
        dreams = rbm.gibbs(noise, config.dream_steps, seed=0)
        rows[name] = rbm.mean_visible(rbm.sample_hidden(dreams, seed=1)).detach()
    title = f"p(v | h) after {config.dream_steps} Gibbs steps from independent pixels, a chain an image"
    plots.image_rows(rows, shape, title=title).savefig(out / "dreams.png")


def table(arms: Sequence[dict[str, Any]]) -> str:
    """Return a row an estimator: mean and standard deviation over seeds."""
    known = {key for arm in arms for key in arm}
    parts, effort = ([key for key in keys if key in known] for keys in (_PARTS, _EFFORT))
    rows = [["estimator", *parts, "log Z", "test by reverse AIS", *effort]]
    for name in dict.fromkeys(arm["estimator"] for arm in arms):
        found = [arm for arm in arms if arm["estimator"] == name]
        cells = ["{:.2f} ± {:.2f}".format(*mean_sd([arm[key] for arm in found])) for key in parts]
        reverse = [arm["test_by_reverse"] for arm in found if "test_by_reverse" in arm]
        backwards = "{:.2f} ± {:.2f}".format(*mean_sd(reverse)) if reverse else ""
        trust = "" if all(arm.get("trusted", True) for arm in found) else ", not to be trusted"
        means = [f"{mean_sd([arm[key] for arm in found])[0]:.0f}" for key in effort]
        rows.append([name, *cells, found[0]["log_partition"] + trust, backwards, *means])
    return aligned(rows)


if __name__ == "__main__":
    launch(main)
