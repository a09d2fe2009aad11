"""Was pretraining worth it? A pretrained stack against named starts, on the same splits and the same budget.

Every start is tuned as `study.tuning` says: all learning rates of one list are tried with all seeds. Rates stay as they
are during a run. Several processes share the runs between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbn import distributed, plots
from dbn.runtime.checks import whole_number
from experiments.pretrain import image_shape
from experiments.study import figures
from experiments.study.command_line import check_several, option, parse
from experiments.study.config import FREE, StudyOptions, begin, shares_test_rows
from experiments.study.initialisations import STARTS
from experiments.study.records import as_dict, environment, launch, write_json
from experiments.study.setting import Budget, batch_size, setting_of
from experiments.study.signal_propagation import layer_names, signal_of
from experiments.study.tables import conclusion, labelled, table
from experiments.study.trial import Trial
from experiments.study.tuning import Arm, arms_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config(StudyOptions):
    """Options of the study, and the budget of every start."""

    labels: tuple[int, ...] = option((500,), "numbers of labelled training rows, each a comparison of its own")
    hidden: tuple[int, ...] = option((256, 256), "sizes of the hidden layers, bottom first")
    starts: tuple[str, ...] = option(tuple(STARTS), "starts to compare")
    epochs: int = option(12, "passes over the labelled rows, in batches of a fiftieth of them, 10 to 100")
    updates: int = option(600, "least number of updates: more passes are made if labels are few")
    rates: tuple[str, ...] = option(
        ("1e-3", "3e-3", "1e-2", "1e-3/1e-2", "3e-3/1e-2"), "Adam's rates to choose from, for all layers or body/head"
    )
    target_error: float | None = option(
        None,
        "validation error in percent for the epochs column; by default what every seed of the best baseline reaches",
    )

    def __post_init__(self) -> None:
        if not self.hidden:
            raise ValueError("hidden is (): give at least one size")
        for size in self.hidden:
            whole_number(size, "hidden")
        super().__post_init__()
        for count in check_several(self.labels, "labels"):
            whole_number(count, "labels")
        for rate in check_several(self.rates, "rates"):
            setting_of(rate)

    @property
    def architectures(self) -> tuple[str, ...]:
        """The one architecture."""
        return ("-".join(map(str, self.hidden)),)

    @property
    def first(self) -> int:
        """Every rate is tried with all seeds."""
        return self.seeds

    def recipe(self, activation: str) -> dict[str, Any]:
        """The library's defaults."""
        return {}

    def budget(self, rows: int, epochs: int) -> Budget:
        """Make more passes if labels are few."""
        size = batch_size(rows)
        return Budget(max(epochs, -(-self.updates * size // rows)), size, falling=False)


_FULL: dict[str, Any] = {"labels": (1000, 60000), "epochs": 15, "updates": 2000}
_LETTERS: dict[str, Any] = _FULL | {"labels": (1000, 124800)}
_USPS: dict[str, Any] = _FULL | {"labels": (1000, 7291)}


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


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what is not finished yet, print the table, write everything, and return the content of `results.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out)
    begin(config, out, sorted(config.labels), (*FREE, "hidden", "target_error"))
    plan = [
        Trial(config, out, start, architecture, labels, config.rates, kept=1)
        for architecture in config.architectures
        for labels in config.labels
        for start in config.starts
    ]
    return report(config, arms_of(plan, len(plan), "compare"), plan, out)


def report(config: Config, arms: list[Arm], plan: Sequence[Trial], out: Path) -> dict[str, Any]:
    """Print the table, write `results.json`, `table.md` and the pictures."""
    content = {"config": as_dict(config), "environment": environment(config.device), "arms": arms}
    write_json(out / "results.json", content)
    distributed.run_on_main(lambda: _show(config, arms, plan, out))
    return content


def _show(config: Config, arms: list[Arm], plan: Sequence[Trial], out: Path) -> None:
    found = text(config, arms, one_test_set=shares_test_rows(config))
    (out / "table.md").write_text(found + "\n")
    print(f"\n{found}\n")
    pictures = drawn(config, arms, plan)
    for name, figure in pictures.items():
        figure.savefig(out / name)
    print(f"wrote {out}/results.json, table.md, {', '.join(pictures)}")


def text(config: Config, arms: list[dict[str, Any]], *, one_test_set: bool) -> str:
    """The table of every number of labels, and what it came to."""
    return "\n\n".join(
        f"**{config.data}, {labelled(arms, labels)}, {'-'.join(map(str, config.hidden))}, {config.seeds} seeds**\n\n"
        f"{table(arms, labels, config.target_error)}\n\n{conclusion(arms, labels, one_test_set=one_test_set)}"
        for labels in config.labels
    )


def drawn(config: Config, arms: Sequence[Arm], plan: Sequence[Trial]) -> dict[str, "Figure"]:
    """Draw `curves.png`, `signal.png` and, if a stack was pretrained, `filters.png`."""
    pictures = {"curves.png": _curves(config, arms), "signal.png": _signals(config, plan[: len(config.starts)])}
    pretrained = [trial for trial in plan if trial.initialisation.from_stack]
    if pretrained:
        weight = pretrained[0].stack(0)[0].layers[0].weight
        pictures["filters.png"] = plots.filters(weight, image_shape(plan[0].split(0)))
    return pictures


def _curves(config: Config, arms: Sequence[Arm]) -> "Figure":
    """Draw validation error by epoch, a panel a number of labels."""
    panels = {
        labelled(arms, labels): {arm["start"]: arm["validation_curves"] for arm in arms if arm["labels"] == labels}
        for labels in config.labels
    }
    highlight = STARTS["dbn"].label
    return figures.curves(panels, xlabel="epoch", ylabel="validation error, %", highlight=highlight, log=True)


def _signals(config: Config, trials: Sequence[Trial]) -> "Figure":
    """Draw the spread of activations and of gradients before training, by layer."""
    kinds = ("activations", "gradients")
    found = [signal_of(trial, seeds=1) for trial in trials]
    panels = {
        f"spread of {kind} before training": {signal["start"]: signal[kind] for signal in found} for kind in kinds
    }
    ticks = dict(zip(panels, layer_names(len(config.hidden)), strict=True))
    return figures.by_layer(panels, ticks=ticks, highlight=STARTS["dbn"].label)


if __name__ == "__main__":
    launch(main)
