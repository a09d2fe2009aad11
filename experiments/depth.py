"""How deep does each start still train? One to six layers of sigmoid, tanh and ReLU units, by plain gradient descent.

Every network has the same number of updates, 1,500 by default, of stochastic gradient descent without momentum, as in
the papers below. Its rate is chosen on validation, as `study.tuning` says. One stack of the greatest depth is
pretrained for each seed and activation. Shallower networks start from its lower layers. Its units are Bernoulli for
sigmoid, Spin for tanh and NoisyReLU for ReLU. The study also measures the gradient in each layer of the deepest
networks before training.

Source: X. Glorot, Y. Bengio (2010), Understanding the difficulty of training deep feedforward neural networks; D. Erhan
et al. (2010), Why does unsupervised pre-training help deep learning?
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbn import distributed
from dbn.runtime.checks import whole_number
from experiments.study import figures
from experiments.study.command_line import check_several, option, parse
from experiments.study.config import FREE, Study, begin
from experiments.study.initialisations import KNOWN
from experiments.study.records import as_dict, environment, launch, mean_sd, write_json
from experiments.study.signal_propagation import signal_of
from experiments.study.tables import aligned
from experiments.study.trial import Trial
from experiments.study.tuning import Arm, arms_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCHEMES = ("normal-0.01", "xavier", "he", "orthogonal", "dbn")
_STARTS = tuple(f"{scheme}-{activation}" for activation in ("sigmoid", "tanh", "relu") for scheme in _SCHEMES)


@dataclass(frozen=True)
class Config(Study):
    """Options of the study, and the budget of every start."""

    width: int = option(500, "units of every hidden layer")
    labels: int | None = option(1000, "labelled training rows")
    depths: tuple[int, ...] = option((1, 2, 3, 4, 5, 6), "numbers of hidden layers")
    starts: tuple[str, ...] = option(_STARTS, f"starts to compare, of {' '.join(KNOWN)}")
    pretrain_epochs: int = option(20, "passes over the unlabelled rows for each layer")
    epochs: int = option(15, "epochs of at least --updates updates, and of at least one pass over the labelled rows")
    settings: tuple[str, ...] = option(
        tuple(f"{rate} momentum 0" for rate in ("0.01", "0.1", "1")), "settings to choose from"
    )
    first: int = option(1, "seeds that every setting is tried with")
    kept: int = option(1, "settings that are tried with all seeds")
    trained: float = option(20.0, "largest test error in percent of a network that counts as trained")

    def __post_init__(self) -> None:
        whole_number(self.width, "width")
        for depth in check_several(self.depths, "depths"):
            whole_number(depth, "depths")
        if self.labels is not None:
            whole_number(self.labels, "labels")
        if not 0 < self.trained < 100:
            raise ValueError(f"trained is {self.trained}: give a test error between 0 and 100 %")
        super().__post_init__()

    @property
    def architectures(self) -> tuple[str, ...]:
        """Networks of one width, from the shallowest to the deepest."""
        return tuple("-".join([str(self.width)] * depth) for depth in sorted(self.depths))


PRESETS = {
    "sample": Config(),
    "mnist": Config(data="mnist"),
    "tiny": Config(
        width=12, depths=(1, 2), seeds=2, pretrain_epochs=1, epochs=1, updates=1, settings=("0.1 momentum 0",)
    ),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run what is not finished yet, print the table, write everything, and return the content of `depth.json`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out)
    begin(config, out, [config.labels], (*FREE, "depths"))
    plan = [
        Trial(config, out, start, architecture, config.labels, config.settings, config.kept)
        for start in config.starts
        for architecture in config.architectures
    ]
    arms = [
        arm | {"depth": len(trial.hidden)} for arm, trial in zip(arms_of(plan, len(plan), "depth"), plan, strict=True)
    ]
    deepest = [trial for trial in plan if trial.architecture == config.architectures[-1]]
    return report(config, arms, [signal_of(trial, config.seeds) for trial in deepest], out)


def report(config: Config, arms: list[Arm], signals: list[dict[str, Any]], out: Path) -> dict[str, Any]:
    """Print the table, write `depth.json`, `table.md`, `depth.png` and `gradients.png`."""
    content = {"config": as_dict(config), "environment": environment(config.device), "arms": arms, "signals": signals}
    write_json(out / "depth.json", content)
    distributed.run_on_main(lambda: _show(config, arms, signals, out))
    return content


def _show(config: Config, arms: list[Arm], signals: list[dict[str, Any]], out: Path) -> None:
    text = table(arms, config.trained)
    (out / "table.md").write_text(text + "\n")
    print(f"\n{text}\n")
    draw(arms).savefig(out / "depth.png")
    draw_gradients(signals).savefig(out / "gradients.png")
    print(f"wrote {out}/depth.json, table.md, depth.png and gradients.png")


def table(arms: Sequence[Arm], trained: float) -> str:
    """Return a row a start and a column a depth: test error, and the number of trained seeds unless all trained."""
    depths = sorted({arm["depth"] for arm in arms})
    rows = [["start", *(f"{depth} layer{'s' * (depth > 1)}" for depth in depths), "trains up to"]]
    for start in dict.fromkeys(arm["start"] for arm in arms):
        found = [arm for depth in depths for arm in arms if (arm["start"], arm["depth"]) == (start, depth)]
        rows.append([start, *(_cell_text(arm, trained) for arm in found), _limit(found, trained)])
    return aligned(rows) + f"\n\nTest error %; trained is a network with at most {trained:g} %."


def _cell_text(arm: Arm, trained: float) -> str:
    errors = arm["test_error"]
    count = sum(error <= trained for error in errors)
    share = f" ({count} of {len(errors)})" if 0 < count < len(errors) else ""
    return "{:.1f} ± {:.1f}".format(*mean_sd(errors)) + share


def _limit(arms: Sequence[Arm], trained: float) -> str:
    """Return the largest tried depth up to which every seed trains."""
    reached = [arm["depth"] for arm in takewhile(lambda arm: max(arm["test_error"]) <= trained, arms)]
    if reached:
        return str(reached[-1])
    return "none" if arms[0]["depth"] == 1 else f"fewer than {arms[0]['depth']}"


def _panels(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group rows by activation."""
    return {
        one: [row for row in rows if row["activation"] == one] for one in dict.fromkeys(r["activation"] for r in rows)
    }


def _scheme(label: str) -> str:
    return label.split(",")[0]


def draw(arms: Sequence[Arm]) -> "Figure":
    """Draw test error against depth, a panel an activation, with bands from the lowest seed to the highest."""
    panels: dict[str, dict[str, list[list[float]]]] = {}
    for activation, found in _panels(arms).items():
        lines = panels.setdefault(activation, {})
        for arm in sorted(found, key=lambda arm: int(arm["depth"])):
            runs = lines.setdefault(_scheme(arm["start"]), [[] for _ in arm["test_error"]])
            for run, error in zip(runs, arm["test_error"], strict=True):
                run.append(error)
    depths = sorted({int(arm["depth"]) for arm in arms})
    names = {"xlabel": "hidden layers", "ylabel": "test error, %", "highlight": "DBN"}
    return figures.curves(panels, **names, log=True, at=depths, at_log=False, band="range")


def draw_gradients(signals: Sequence[dict[str, Any]]) -> "Figure":
    """Draw the spread of gradients in each layer before training, a panel an activation."""
    panels = {
        f"{activation}: spread of gradients before training, by hidden layer": {
            _scheme(signal["start"]): signal["gradients"] for signal in found
        }
        for activation, found in _panels(signals).items()
    }
    names = [*map(str, range(1, len(signals[0]["gradients"]))), "output"]
    ticks = dict.fromkeys(panels, names)
    return figures.by_layer(panels, ticks=ticks, highlight="DBN")


if __name__ == "__main__":
    launch(main)
