"""How much is pretraining worth, by number of labels? The test error of every start, tuned in the same way.

Each trial, a start in an architecture with a number of labels, is tuned as `study.tuning` says. If it has more labels
than --narrow, it chooses one of the settings that were best with that number. With --refit N, networks that have all
labels are trained once more with the chosen setting, on training and validation rows together, and are tested instead.
They are trained for N epochs, or for --epochs if the first seeds then have a lower validation error.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbn import distributed
from dbn.runtime.checks import whole_number
from experiments.study import figures
from experiments.study.command_line import check_several, option, parse
from experiments.study.config import Study, begin, shares_test_rows, split_of
from experiments.study.initialisations import KNOWN
from experiments.study.records import as_dict, environment, launch, mean_sd, write_json
from experiments.study.tables import aligned, best_baseline, conclusion, labelled, table
from experiments.study.trial import Trial
from experiments.study.tuning import Arm, arm_of, arms_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STARTS = ("xavier", "he", "orthogonal-relu", "xavier-sigmoid", "permuted", "dbn", "dbn-relu")


@dataclass(frozen=True)
class Config(Study):
    """Options of the study, and the budget of every start."""

    architectures: tuple[str, ...] = option(("1024", "500-500"), "sizes of the hidden layers, bottom first")
    starts: tuple[str, ...] = option(_STARTS, f"starts to compare, of {' '.join(KNOWN)}")
    labels: tuple[int, ...] = option((100, 300, 1000, 3000, 10_000, 60_000), "numbers of labelled training rows")
    narrow: int = option(10_000, "with more labels, choose from the --kept settings that were best with this number")
    refit: int | None = option(
        None, "with all labels, train once more with the validation rows, for this number of epochs"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number(self.narrow, "narrow")
        if self.refit is not None:
            whole_number(self.refit, "refit")
        for count in check_several(self.labels, "labels"):
            whole_number(count, "labels")


_SETTINGS = (
    *("1e-3", "1e-4/1e-2", "1e-3/1e-2 decay 1e-4"),
    *(f"{rates} dropout 0.2/0.5" for rates in ("1e-3", "3e-3", "1e-3/1e-2", "1e-4/1e-2")),
)

PRESETS = {
    "mnist": Config(
        data="mnist",
        settings=_SETTINGS,
        pretrain_epochs=20,
        pretrain_rate=0.1,
        sparsity=0.05,
        epochs=25,
        updates=60,
        first=1,
    ),
    "tiny": Config(
        labels=(50, 4167),
        architectures=("16", "12-8"),
        starts=("he", "dbn"),
        seeds=2,
        pretrain_epochs=1,
        epochs=2,
        updates=1,
        settings=("1e-3", "3e-3/1e-2", "1e-3 dropout 0.2/0.5 decay 1e-4"),
        first=1,
        narrow=50,
        refit=3,
    ),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what is not finished yet, print the tables, write everything, and return the content of `results.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out)
    if max(config.labels) > config.narrow:
        split_of(config, config.narrow, 0)
    begin(config, out, sorted(config.labels))
    plan = [
        (start, architecture, labels)
        for architecture in config.architectures
        for labels in sorted(config.labels)
        for start in config.starts
    ]
    arms = arms_of((_trial(config, out, *one) for one in plan), len(plan), "labels")
    return report(config, arms, out)


def _trial(config: Config, out: Path, start: str, architecture: str, labels: int) -> Trial:
    """Make a trial with its settings to choose from: those of the study, or the best ones with fewer labels."""
    settings, kept = config.settings, config.kept
    if labels > config.narrow:
        settings, kept = tuple(arm_of(_trial(config, out, start, architecture, config.narrow))["kept"]), 1
    trial = Trial(config, out, start, architecture, labels, settings, kept)
    found, there = (len(split_of(config, count, 0).train.labelled.x) for count in (labels, None))
    return replace(trial, refit=config.refit if found == there else None)


def report(config: Config, arms: list[Arm], out: Path) -> dict[str, Any]:
    """Print the tables, write `labels.json`, `table.md` and `labels.png`."""
    content = {"config": as_dict(config), "environment": environment(config.device), "arms": arms}
    write_json(out / "labels.json", content)
    distributed.run_on_main(lambda: _show(config, arms, out))
    return content


def _show(config: Config, arms: list[Arm], out: Path) -> None:
    tables = text(config, arms, one_test_set=shares_test_rows(config))
    (out / "table.md").write_text(tables + "\n")
    print(f"\n{tables}\n")
    draw(config, arms).savefig(out / "labels.png")
    print(f"wrote {out}/labels.json, table.md and labels.png")


def text(config: Config, arms: Sequence[Arm], *, one_test_set: bool) -> str:
    """Return the tables of every architecture."""
    return "\n\n".join(_text(config, arms, one, one_test_set) for one in config.architectures)


def _text(config: Config, arms: Sequence[Arm], architecture: str, one_test_set: bool) -> str:
    """Return the tables of one architecture: errors by labels, and a conclusion for each number of labels."""
    arms, seeds = [arm for arm in arms if arm["architecture"] == architecture], f"{config.seeds} seeds"
    parts = [f"**{config.data}, {architecture}, test error % by labels, {seeds}**", summary(arms)]
    for labels in sorted(config.labels):
        parts += [f"**{architecture}, {labelled(arms, labels)}**", table(arms, labels, None)]
        parts.append(conclusion(arms, labels, one_test_set=one_test_set))
    return "\n\n".join(parts)


def summary(arms: Sequence[Arm]) -> str:
    """Return a row a start and a column a number of labels: test error, and a mark at the best baseline."""
    columns = sorted({arm["labels"] for arm in arms})
    rows = [["start", *(labelled(arms, labels) for labels in columns)]]
    for start in dict.fromkeys(arm["start"] for arm in arms):
        found = {arm["labels"]: arm for arm in arms if arm["start"] == start}
        cells = ["{:.2f} ± {:.2f}".format(*mean_sd(found[labels]["test_error"])) for labels in columns]
        marks = ["*" * (found[labels] is best_baseline(arms, labels)) for labels in columns]
        rows.append([start, *(cell + mark for cell, mark in zip(cells, marks, strict=True))])
    return aligned(rows) + "\n\n\\* best start without pretraining, by validation"


def draw(config: Config, arms: Sequence[Arm]) -> "Figure":
    """Draw test error against labels, a panel an architecture, with bands of one standard deviation."""
    panels: dict[str, dict[str, list[list[float]]]] = {}
    for arm in sorted(arms, key=lambda arm: int(arm["labels"])):
        runs = panels.setdefault(f"{config.data}, hidden layers {arm['architecture']}", {}).setdefault(
            arm["start"], [[] for _ in arm["test_error"]]
        )
        for run, error in zip(runs, arm["test_error"], strict=True):
            run.append(error)
    rows = sorted({arm["labelled_rows"] for arm in arms})
    again = " (the last: trained once more, with the validation rows)" * any("refit" in arm for arm in arms)
    return figures.curves(
        panels, xlabel=f"labels{again}", ylabel="test error, %", highlight=KNOWN["dbn"].label, log=True, at=rows
    )


if __name__ == "__main__":
    launch(main)
