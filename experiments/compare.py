"""Was pretraining worth it? A pretrained stack against named starts, on the same splits and the same budget.

Every seed draws its own labelled subset, validation rows, weights and order; all starts of a seed share them. A stack
is pretrained once a seed on all training rows, without labels. For every start the learning rate with the lowest mean
validation error is taken from one list, the weights are those of the best epoch on validation, and the test set is
read once, by the networks so chosen. Several processes share the runs between them, each alone with its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from dbn import DBN, distributed, evaluate, finetune, plots
from dbn.arguments import choose_device, finite_number, whole_number
from dbn.history import History
from experiments.pretrain import image_shape
from experiments.study.command_line import check_several, option, parse
from experiments.study.config import check_labels, loaded
from experiments.study.initialisations import STARTS, pretrained
from experiments.study.records import as_dict, claim, environment, kept, launch, write_json
from experiments.study.signal_propagation import layer_names, seeded_rows, spreads
from experiments.study.tables import conclusion, labelled, table
from experiments.study.tuning import batch_size

Trial = tuple[nn.Sequential, History]


@dataclass(frozen=True)
class Config:
    """What to compare, on what, and the budget that every start has."""

    data: str = option("mnist-sample", "a named data set, or the path of a .npz or .csv file")
    root: str | None = option(None, "folder of the data; else DBN_DATA, else a cache folder")
    labels: tuple[int, ...] = option((500,), "numbers of labelled training rows, each a comparison of its own")
    seeds: int = option(5, "number of seeds")
    hidden: tuple[int, ...] = option((256, 256), "sizes of the hidden layers, bottom first")
    starts: tuple[str, ...] = option(tuple(STARTS), "starts to compare")
    pretrain_epochs: int = option(30, "passes over the unlabelled rows for each layer")
    epochs: int = option(12, "passes over the labelled rows, in batches of a fiftieth of them, 10 to 100")
    updates: int = option(600, "least number of updates: more passes are made where labels are few")
    rates: tuple[str, ...] = option(
        ("1e-3", "3e-3", "1e-2", "1e-3/1e-2", "3e-3/1e-2"), "Adam's rates to choose from, for all layers or body/head"
    )
    target_error: float | None = option(
        None,
        "validation error in percent for the epochs column; by default what every seed of the best baseline reaches",
    )
    device: str = option("auto", "cpu, cuda, mps, or auto for the best there is")
    out: str | None = option(
        None, "folder for results and pictures, and to resume from; runs/compare-PRESET by default"
    )

    def __post_init__(self) -> None:
        for name in ("seeds", "pretrain_epochs", "epochs", "updates"):
            whole_number(getattr(self, name), name)
        check_several(self.starts, "starts", STARTS)
        for count in check_several(self.labels, "labels"):
            whole_number(count, "labels")
        for rate in check_several(self.rates, "rates"):
            rates_of(rate)
        if not self.hidden:
            raise ValueError("hidden is (): give at least one size")
        for size in self.hidden:
            whole_number(size, "hidden")
        choose_device(self.device)


_FULL: dict[str, Any] = {"labels": (1000, 60000), "epochs": 15, "updates": 2000}
_LETTERS: dict[str, Any] = _FULL | {"labels": (1000, 124800)}
_USPS: dict[str, Any] = _FULL | {"labels": (1000, 7291)}


def rates_of(text: str) -> tuple[float, float]:
    """ "1e-3/1e-2" as body and head, "1e-3" as both."""
    body, _, head = text.partition("/")
    return finite_number(float(body), "rates", positive=True), finite_number(
        float(head or body), "rates", positive=True
    )


PRESETS = {
    "sample": Config(),
    "mnist": Config(data="mnist", **_FULL),
    "mnist-few": Config(data="mnist", **_FULL | {"labels": (1000,), "hidden": (500, 500)}),
    "fashion-mnist": Config(data="fashion-mnist", **_FULL),
    "kmnist": Config(data="kmnist", **_FULL),
    "emnist-letters": Config(data="emnist-letters", **_LETTERS),
    "usps": Config(data="usps", **_USPS),
    "tiny": Config(
        labels=(100,), seeds=2, hidden=(32, 16), pretrain_epochs=1, epochs=2, updates=1, rates=("1e-3", "3e-3")
    ),
}

#: What may differ between two runs in one folder: it changes no number of an arm, or is part of the arm's name.
_FREE = ("target_error", "out", "root", "device", "starts", "labels")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what is not finished yet, print the table, write everything, and return the content of `results.json`."""
    preset, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out or f"runs/compare-{preset}")
    check_labels(lambda count: loaded(config.data, config.root, count, 0), sorted(config.labels))
    claim(out, config, _FREE)
    trained = _stacks(config, out)
    stacks = [stack for stack, _ in trained]
    arms = _arms(config, stacks, out)
    for name, arm in zip(config.starts * len(config.labels), arms, strict=True):
        if STARTS[name].from_stack:
            arm["pretrain_seconds"] = [seconds for _, seconds in trained]
    return report(config, arms, stacks, out)


def _arms(config: Config, stacks: list[DBN | None], out: Path) -> list[dict[str, Any]]:
    """Every number of labels with every start, from its file where it is finished."""
    arms = []
    plan = [(labels, start) for labels in config.labels for start in config.starts]
    total = len(plan) * len(config.rates) * config.seeds
    shown = distributed.shows_progress()
    with tqdm(total=total, desc="fine-tuning", unit="run", dynamic_ncols=True, disable=not shown) as bar:
        for labels, start in plan:
            path = out / "arms" / f"{labels}-{start}.json"
            found = kept(path)
            if found is None:
                found = _run_arm(config, labels, start, stacks, bar)
                write_json(path, found)
            else:
                bar.update(len(config.rates) * config.seeds)
                bar.write(f"{path} is finished, from commit {found['commit']}, on {found['device']}")
            arms.append(found)
    return arms


def _stacks(config: Config, out: Path) -> list[tuple[DBN | None, float]]:
    if not any(STARTS[name].from_stack for name in config.starts):
        return [(None, 0.0)] * config.seeds
    device = str(choose_device(config.device))

    def stack(seed: int) -> tuple[DBN, float]:
        return pretrained(
            loaded(config.data, config.root, None, seed),
            config.hidden,
            epochs=config.pretrain_epochs,
            seed=seed,
            device=device,
            path=out / "stacks" / f"seed-{seed}.pt",
        )

    return distributed.spread(stack, range(config.seeds))


def _run_arm(config: Config, labels: int, name: str, stacks: list[DBN | None], bar: "tqdm[Any]") -> dict[str, Any]:
    """Every rate with every seed; then the chosen rate's networks, and only they, on the test set."""
    start = STARTS[name]
    trials = _trials(config, labels, name, stacks, bar)
    chosen = min(config.rates, key=lambda rate: sum(min(history["validation_error"]) for _, history in trials[rate]))
    body, head = rates_of(chosen)
    histories = [history for _, history in trials[chosen]]
    return {
        "start": start.label,
        "activation": start.activation,
        "labels": labels,
        "labelled_rows": len(loaded(config.data, config.root, labels, 0).train.labelled.x),
        "commit": environment()["commit"],
        "device": choose_device(config.device).type,
        "learning_rate": body,
        "head_learning_rate": head,
        "test_error": [
            100 * evaluate(network, *loaded(config.data, config.root, labels, seed).test).error
            for seed, (network, _) in enumerate(trials[chosen])
        ],
        "seconds": [history.last["seconds"] for history in histories],
        "validation_error": [100 * min(history["validation_error"]) for history in histories],
        "validation_curves": [[100 * error for error in history["validation_error"]] for history in histories],
    }


def _trials(
    config: Config, labels: int, name: str, stacks: list[DBN | None], bar: "tqdm[Any]"
) -> dict[str, list[Trial]]:
    """Run every rate with every seed; several processes share the runs."""
    processes = distributed.world_size()

    def trial(rate_and_seed: tuple[str, int]) -> Trial:
        rate, seed = rate_and_seed
        bar.set_description(f"{labels} labels, {STARTS[name].label}, rate {rate}, seed {seed}")
        network = _network(config, labels, name, seed, stacks[seed])
        history = _fine_tuned(config, labels, rate, network, seed)
        bar.update(processes)
        return network.cpu() if processes > 1 else network, history

    runs = iter(distributed.spread(trial, [(rate, seed) for rate in config.rates for seed in range(config.seeds)]))
    return {rate: [next(runs) for _ in range(config.seeds)] for rate in config.rates}


def _network(config: Config, labels: int, name: str, seed: int, stack: DBN | None) -> nn.Sequential:
    split = loaded(config.data, config.root, labels, seed)
    return STARTS[name].build([split.train.x.shape[1], *config.hidden, split.classes], stack, seed)


def _fine_tuned(config: Config, labels: int, rate: str, network: nn.Sequential, seed: int) -> History:
    split = loaded(config.data, config.root, labels, seed)
    body, head = rates_of(rate)
    size, epochs = budget(len(split.train.labelled.x), config)
    return finetune(
        network,
        *split.train.labelled,
        epochs=epochs,
        batch_size=size,
        learning_rate=body,
        head_learning_rate=head,
        validation=split.validation,
        device=config.device,
        progress=False,
        seed=seed,
    )


def budget(rows: int, config: Config) -> tuple[int, int]:
    """Batch size and epochs for so many labelled rows: a fiftieth of them, 10 to 100, and enough updates."""
    size = batch_size(rows)
    return size, max(config.epochs, -(-config.updates * size // rows))


def report(config: Config, arms: list[dict[str, Any]], stacks: list[DBN | None], out: Path) -> dict[str, Any]:
    """Print the table, write `results.json`, `table.md` and the pictures."""
    content = {"config": as_dict(config), "environment": environment(config.device), "arms": arms}
    write_json(out / "results.json", content)
    distributed.from_main(lambda: _show(config, arms, stacks, out))
    return content


def _show(config: Config, arms: list[dict[str, Any]], stacks: list[DBN | None], out: Path) -> None:
    found = text(config, arms, one_test_set=loaded(config.data, config.root, None, 0).fixed_test)
    (out / "table.md").write_text(found + "\n")
    print(f"\n{found}\n")
    draw(config, arms, stacks, out)
    print(f"wrote {out}/results.json, table.md, curves.png, signal.png" + ", filters.png" * (stacks[0] is not None))


def text(config: Config, arms: list[dict[str, Any]], *, one_test_set: bool) -> str:
    """The table of every number of labels, and what it came to."""
    return "\n\n".join(
        f"**{config.data}, {labelled(arms, labels)}, {'-'.join(map(str, config.hidden))}, {config.seeds} seeds**\n\n"
        f"{table(arms, labels, config.target_error)}\n\n{conclusion(arms, labels, one_test_set=one_test_set)}"
        for labels in config.labels
    )


def draw(config: Config, arms: list[dict[str, Any]], stacks: list[DBN | None], out: Path) -> None:
    """Write `curves.png`, `signal.png` and, where there is a stack, `filters.png`."""
    panels = {
        labelled(arms, labels): {arm["start"]: arm["validation_curves"] for arm in arms if arm["labels"] == labels}
        for labels in config.labels
    }
    highlight = STARTS["dbn"].label
    figure = plots.curves(panels, xlabel="epoch", ylabel="validation error, %", highlight=highlight, log=True)
    figure.savefig(out / "curves.png")
    split = loaded(config.data, config.root, None, 0)
    rows = seeded_rows(*split.train.labelled, count=500, seed=0)
    sizes = [split.train.x.shape[1], *config.hidden, split.classes]
    titles = ("spread of activations before training", "spread of gradients before training")
    signals: dict[str, dict[str, list[float]]] = {title: {} for title in titles}
    for name in config.starts:
        network = STARTS[name].build(sizes, stacks[0], seed=0)
        for title, values in zip(titles, spreads(network, *rows), strict=True):
            signals[title][STARTS[name].label] = values
    ticks = dict(zip(titles, layer_names(len(config.hidden)), strict=True))
    plots.by_layer(signals, ticks=ticks, highlight=highlight).savefig(out / "signal.png")
    if stacks[0] is not None:
        plots.filters(stacks[0].layers[0].weight, image_shape(split)).savefig(out / "filters.png")


if __name__ == "__main__":
    launch(main)
