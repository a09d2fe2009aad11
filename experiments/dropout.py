"""How much does dropout help, with and without pretraining? All labels, and the same budget for every start.

Each start is tuned twice as `study.tuning` says: among the settings without dropout, and among those with dropout. Some
of the latter bound the norm of the weights into each unit. The chosen networks are trained once more, with the
validation rows, unless --no-refit is given.

Source: N. Srivastava et al. (2014), Dropout: a simple way to prevent neural networks from overfitting: 784-500-500-2000
from a stack 1.18 % without and 0.92 % with dropout; no pretraining, three layers of 1024, logistic 1.35 %, ReLU 1.25 %,
ReLU and max-norm 1.06 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbn import distributed
from experiments.study import figures
from experiments.study.command_line import option, parse
from experiments.study.config import Study, begin, shares_test_rows
from experiments.study.initialisations import KNOWN
from experiments.study.records import as_dict, environment, launch, write_json
from experiments.study.setting import setting_of
from experiments.study.tables import conclusion, table
from experiments.study.trial import Trial
from experiments.study.tuning import Arm, arms_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUPS = ("without dropout", "with dropout")
_DROPOUT = "dropout 0.2/0.5"


@dataclass(frozen=True)
class Config(Study):
    """Options of the study, and the budget of every start."""

    architectures: tuple[str, ...] = option(("500-500-2000",), "sizes of the hidden layers, bottom first")
    starts: tuple[str, ...] = option(
        ("dbn", "dbn-relu", "xavier", "he", "xavier-sigmoid"), f"starts to compare, of {' '.join(KNOWN)}"
    )
    pretrain_epochs: int = option(100, "passes over the unlabelled rows for each layer")
    pretrain_rate: float | None = option(0.1, "first rate of pretraining, falling to 0; else what suits the units")
    epochs: int = option(300, "passes over the labelled rows, in batches of 100")
    settings: tuple[str, ...] = option(
        (
            *("1e-3", "1e-4/1e-3", "1e-3 decay 1e-5"),
            *(f"{rates} {_DROPOUT}" for rates in ("1e-3", "3e-3", "1e-3/1e-2")),
            *(f"{rates} {_DROPOUT} norm 4" for rates in ("1e-3", "3e-3")),
            *(f"{rate} momentum 0.95 {_DROPOUT} norm 4" for rate in ("0.03", "0.1")),
        ),
        "settings to choose from, as study.setting says",
    )
    first: int = option(1, "seeds that every setting is tried with")
    kept: int = option(1, "settings that are tried with all seeds")
    refit: bool = option(True, "train the chosen networks once more with the validation rows")


PRESETS = {
    "whole": Config(data="mnist"),
    "cpu": Config(
        data="mnist",
        starts=("dbn", "he"),
        pretrain_epochs=10,
        epochs=15,
        settings=("1e-3", "3e-4", "1e-3/1e-2 decay 1e-4", f"1e-3 {_DROPOUT}", f"3e-3 {_DROPOUT}"),
        refit=False,
    ),
    "tiny": Config(
        architectures=("16",),
        starts=("dbn", "he"),
        seeds=2,
        pretrain_epochs=1,
        epochs=1,
        updates=1,
        settings=("1e-3", f"3e-3 {_DROPOUT} norm 4"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what is not finished yet, print the tables, write everything, and return the content of `dropout.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out)
    begin(config, out, [None])
    refit = config.epochs if config.refit else None
    plan = [
        (group, Trial(config, out, start, architecture, None, settings, config.kept, group.split()[0], refit))
        for architecture in config.architectures
        for group, settings in _grouped(config.settings).items()
        for start in config.starts
    ]
    found = arms_of((trial for _, trial in plan), len(plan), "dropout")
    arms = [arm | {"group": group} for arm, (group, _) in zip(found, plan, strict=True)]
    return report(config, arms, out)


def _grouped(settings: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group the settings: without dropout and with it. Empty groups are left out."""
    without = tuple(one for one in settings if not setting_of(one).dropout and not setting_of(one).input_dropout)
    found = dict(zip(_GROUPS, (without, tuple(set_ for set_ in settings if set_ not in without)), strict=True))
    return {group: some for group, some in found.items() if some}


def report(config: Config, arms: list[Arm], out: Path) -> dict[str, Any]:
    """Print the tables, write `dropout.json`, `table.md` and `dropout.png`."""
    content = {"config": as_dict(config), "environment": environment(config.device), "arms": arms}
    write_json(out / "dropout.json", content)
    distributed.run_on_main(lambda: _show(config, arms, out))
    return content


def _show(config: Config, arms: list[Arm], out: Path) -> None:
    tables = text(config, arms, one_test_set=shares_test_rows(config))
    (out / "table.md").write_text(tables + "\n")
    print(f"\n{tables}\n")
    draw(arms).savefig(out / "dropout.png")
    print(f"wrote {out}/dropout.json, table.md and dropout.png")


def text(config: Config, arms: Sequence[Arm], *, one_test_set: bool) -> str:
    """Return the tables and conclusions of each architecture, without and with dropout."""
    return "\n\n".join(
        f"**{config.data}, {architecture}, {group}, {found[0]['labelled_rows']} labels, {config.seeds} seeds**\n\n"
        f"{table(found, found[0]['labels'], None)}\n\n"
        f"{conclusion(found, found[0]['labels'], one_test_set=one_test_set)}"
        for (architecture, group), found in _panels(arms).items()
    )


def _panels(arms: Sequence[Arm]) -> dict[tuple[str, str], list[Arm]]:
    """Group arms by architecture and by dropout."""
    found: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        found.setdefault((arm["architecture"], arm["group"]), []).append(arm)
    return found


def draw(arms: Sequence[Arm]) -> "Figure":
    """Draw validation error by epoch, without and with dropout."""
    panels = {
        f"{architecture}, {group}": {arm["start"]: arm["validation_curves"] for arm in found}
        for (architecture, group), found in _panels(arms).items()
    }
    return figures.curves(panels, xlabel="epoch", ylabel="validation error, %", highlight=KNOWN["dbn"].label, log=True)


if __name__ == "__main__":
    launch(main)
