"""Tables of a comparison, and their conclusions."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from experiments.study.initialisations import KNOWN
from experiments.study.records import mean_sd, paired_interval

_FROM_STACK = {start.label for start in KNOWN.values() if start.from_stack}
_PRETRAINED = {start.label for start in KNOWN.values() if start.scheme == "as pretrained"}

Arm = dict[str, Any]


def best_baseline(arms: Sequence[Arm], labels: int) -> Arm | None:
    """Return the start without pretraining that has the lowest mean validation error, or None."""
    found = [arm for arm in arms if arm["labels"] == labels and arm["start"] not in _FROM_STACK]
    return min(found, key=lambda arm: mean_sd(arm["validation_error"])[0], default=None)


def table(arms: Sequence[Arm], labels: int, target_error: float | None) -> str:
    """Return a row a start: rates, errors, paired difference to the best baseline, epochs to a target error."""
    baseline = best_baseline(arms, labels)
    if target_error is None and baseline is not None:
        target_error = max(baseline["validation_error"])
    target = "epochs" if target_error is None else f"epochs to {target_error:.4g} %"
    head = ["start", "activation", "rate body/head", "test error %", "− best baseline (95 %)", target, "seconds"]
    rows = [
        [
            arm["start"],
            arm["activation"],
            _setting(arm),
            "{:.2f} ± {:.2f}".format(*mean_sd(arm["test_error"])),
            _difference(arm, baseline),
            "" if "refit" in arm else _epochs_to(arm["validation_curves"], target_error),
            " + ".join(f"{mean_sd(arm[key])[0]:.1f}" for key in ("pretrain_seconds", "seconds") if key in arm),
        ]
        for arm in arms
        if arm["labels"] == labels
    ]
    return aligned([head, *rows])


def conclusion(arms: Sequence[Arm], labels: int, *, one_test_set: bool) -> str:
    """Say whether each pretrained start was better, as far as its interval allows."""
    baseline = best_baseline(arms, labels)
    ours = [arm for arm in arms if arm["labels"] == labels and arm["start"] in _PRETRAINED]
    if not ours or baseline is None:
        return "No pretrained start or no baseline was asked for, so there is nothing to conclude."
    first, *others = (_verdict(arm, baseline) for arm in ours)
    more = "".join(f"; {arm['start']} {verdict}" for arm, verdict in zip(ours[1:], others, strict=True))
    tested = (
        "which all share one test set"
        if one_test_set
        else "each with test rows of its own, drawn from the same rows, so that the interval is too short"
    )
    return (
        f"{ours[0]['start']} against {baseline['start']} ({baseline['activation']}), the best start without "
        f"pretraining on validation: {first}{more}. The 95 % interval is over paired seeds (labelled rows, weights, "
        f"order), {tested}."
    )


def _verdict(arm: Arm, baseline: Arm) -> str:
    mean, half = paired_interval(arm["test_error"], baseline["test_error"])
    if math.isnan(half):
        verdict = "one seed tells nothing about the spread"
    elif mean + half < 0:
        verdict = "pretraining helped"
    elif mean - half > 0:
        verdict = "pretraining did harm"
    else:
        verdict = "no difference that these seeds can show"
    return f"{mean:+.2f} ± {half:.2f} points of test error, {verdict}"


def labelled(arms: Sequence[Arm], labels: int) -> str:
    """Name the number of labels, or say that all rows are labelled if there are fewer."""
    found = next(arm["labelled_rows"] for arm in arms if arm["labels"] == labels)
    return f"{labels} labels" if found == labels else f"all {found} labels"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _setting(arm: Arm) -> str:
    """Return the chosen setting; older files have rates alone."""
    found: str = arm.get("setting", f"{arm['learning_rate']:g}/{arm['head_learning_rate']:g}")
    return found


def _difference(arm: Arm, baseline: Arm | None) -> str:
    if baseline is None:
        return ""
    if arm is baseline:
        return "best baseline"
    return "{:+.2f} ± {:.2f}".format(*paired_interval(arm["test_error"], baseline["test_error"]))


def _epochs_to(curves: Sequence[Sequence[float]], target: float | None) -> str:
    """Return the median over seeds of the first epoch at or below the target; a seed without one counts as last.

    Of an even number of seeds it is the higher of the two in the middle.
    """
    if target is None:
        return ""
    firsts = [next((place + 1 for place, error in enumerate(curve) if error <= target), math.inf) for curve in curves]
    middle, reached = statistics.median_high(firsts), sum(map(math.isfinite, firsts))
    share = "" if reached in (0, len(firsts)) else f" ({reached} of {len(firsts)} seeds)"
    return ("never" if math.isinf(middle) else f"{middle:.0f}") + share
