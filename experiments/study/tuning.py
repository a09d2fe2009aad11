"""How a trial is tuned, in the same way for every start.

All settings of one list are tried with the first seeds. The best few on validation are tried with all seeds. Of those
the one with the lowest mean validation error is chosen. The test set is read once, by the chosen networks. Several
processes share the runs, each run by one process alone; they need a folder that all of them see.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, TypeVar

from tqdm import tqdm

from dbn import distributed
from dbn.runtime.checks import choose_device
from experiments.study.records import environment, kept, write_json
from experiments.study.setting import batch_size, setting_of
from experiments.study.trial import Trial

Arm = dict[str, Any]
T = TypeVar("T")


def arms_of(trials: Iterable[Trial], count: int, description: str) -> list[Arm]:
    """Return the results of trials in their order, with a bar."""
    arms = []
    with tqdm(total=count, desc=description, unit="arm", disable=not distributed.shows_progress()) as bar:
        for trial in trials:
            bar.set_postfix_str(trial.name)
            arms.append(arm_of(trial))
            bar.update()
    return arms


def arm_of(trial: Trial) -> Arm:
    """Return the result of a trial: from its file if it is finished, else by tuning and then reading the test set."""
    arm = kept(trial.path)
    if arm is None:
        write_json(trial.path, _tuned(trial) if trial.refit is None else _refitted(trial))
        arm = kept(trial.path)
        assert arm is not None
    elif distributed.is_main():
        tqdm.write(f"{trial.path} is finished, from commit {arm['commit']}, on {arm['device']}")
    if distributed.is_main():
        trial.forget()
        replace(trial, refit=None).forget()
    return arm


def narrowed(settings: Sequence[str], error: Callable[[str, int], float], *, first: int, kept: int) -> list[str]:
    """Return the `kept` settings with the lowest mean error over the first seeds, best first."""
    return sorted(settings, key=lambda setting: fmean(error(setting, seed) for seed in range(first)))[:kept]


def searched(trial: Trial) -> tuple[list[str], dict[str, list[float]]]:
    """Return the settings that were tried with all seeds, best first, and the lowest validation errors of all."""
    seeds, first = trial.study.seeds, min(trial.study.first, trial.study.seeds)
    if trial.initialisation.from_stack:
        _shared(lambda seed: trial.stack(seed)[1], range(seeds))
    _shared(lambda run: trial.run(*run), [(setting, seed) for setting in trial.settings for seed in range(first)])
    best_few = _on_main(lambda: narrowed(trial.settings, trial.best, first=first, kept=trial.kept))
    _shared(lambda run: trial.run(*run), [(setting, seed) for setting in best_few for seed in range(first, seeds)])
    return _on_main(lambda: _ranked(trial, best_few, first))


def _ranked(trial: Trial, best_few: list[str], first: int) -> tuple[list[str], dict[str, list[float]]]:
    seeds = trial.study.seeds
    chosen = narrowed(best_few, trial.best, first=seeds, kept=len(best_few))
    counts = {setting: seeds if setting in chosen else first for setting in trial.settings}
    return chosen, {setting: [trial.best(setting, seed) for seed in range(count)] for setting, count in counts.items()}


def _shared(work: Callable[[Any], Any], items: Sequence[Any]) -> None:
    """Share work between the processes; its results are in files."""

    def without_result(item: Any) -> None:
        work(item)

    distributed.map_over_ranks(without_result, items)


def _on_main(work: Callable[[], T]) -> T:
    """Return on all processes what `work` gives on the main one, which does it alone."""

    def by_itself() -> T:
        with distributed.single_process():
            return work()

    return distributed.run_on_main(by_itself)


def _tuned(trial: Trial) -> Arm:
    chosen, tried = searched(trial)
    return _on_main(lambda: _tested(trial, chosen, tried))


def _tested(trial: Trial, chosen: list[str], tried: dict[str, list[float]]) -> Arm:
    seeds = range(trial.study.seeds)
    return _described(trial, chosen, tried) | {
        "labelled_rows": len(trial.split(0).train.labelled.x),
        "test_error": [round(trial.test_error(chosen[0], seed), 4) for seed in seeds],
        "seconds": [trial.run(chosen[0], seed)["seconds"] for seed in seeds],
    }


def _refitted(trial: Trial) -> Arm:
    """Choose as the trial without a refit does, and test networks that were trained on the validation rows too."""
    chooser = replace(trial, refit=None)
    chosen, tried = searched(chooser)
    first = range(min(trial.study.first, trial.study.seeds))
    choosers = {chooser.epochs: chooser}
    choosers.setdefault(trial.epochs, trial)
    _shared(lambda run: run[0].run(chosen[0], run[1]), [(one, seed) for one in choosers.values() for seed in first])
    tried_epochs = _on_main(
        lambda: {
            epochs: [one.run(chosen[0], seed)["validation_errors"][-1] for seed in first]
            for epochs, one in choosers.items()
        }
    )
    epochs = min(tried_epochs, key=lambda epochs: fmean(tried_epochs[epochs]))
    _shared(lambda seed: trial.refitted(chosen[0], seed, epochs), range(trial.study.seeds))
    return _on_main(
        lambda: (
            _retested(trial, epochs, _described(chooser, chosen, tried))
            | {"refit": {"epochs": epochs, "validation_error": tried_epochs}}
        )
    )


def _retested(trial: Trial, epochs: int, arm: Arm) -> Arm:
    split, seeds, setting = trial.split(0), range(trial.study.seeds), arm["setting"]
    again = [trial.refitted(setting, seed, epochs) for seed in seeds]
    return arm | {
        "labelled_rows": len(split.train.labelled.x) + len(split.validation.x),
        "test_error": [round(trial.refitted_error(setting, seed, epochs), 4) for seed in seeds],
        "diverged": [record["diverged"] for record in again],
        "seconds": [record["seconds"] for record in again],
    }


def _described(trial: Trial, chosen: list[str], tried: dict[str, list[float]]) -> Arm:
    """Describe a trial and its choice, without the test set."""
    start, setting, seeds = trial.initialisation, setting_of(chosen[0]), range(trial.study.seeds)
    rows = len(trial.split(0).train.labelled.x)
    runs = [trial.run(chosen[0], seed) for seed in seeds]
    arm = {
        "start": start.label,
        "activation": start.activation,
        "architecture": trial.architecture,
        "labels": trial.labels or rows,
        "commit": environment()["commit"],
        "device": choose_device(trial.study.device).type,
        "setting": chosen[0],
        "learning_rate": setting.body,
        "head_learning_rate": setting.head,
        "input_dropout": setting.input_dropout,
        "dropout": setting.dropout,
        "weight_decay": setting.weight_decay,
        "batch_size": batch_size(rows),
        "validation_error": [min(run["validation_errors"]) for run in runs],
        "validation_curves": [run["validation_errors"] for run in runs],
        "diverged": [run["diverged"] for run in runs],
        "kept": chosen,
        "tried": tried,
    }
    if start.from_stack:
        arm["pretrain_seconds"] = [trial.stack(seed)[1] for seed in seeds]
    return arm
