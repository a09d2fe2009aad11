"""Does every input to the public API either work or raise one of the documented errors?

Names of the public API are called with arguments that are drawn by a seed: one or two invalid ones among valid ones.
The outcomes of a call are:

- works: the answer is finite.
- not finite: the input was not finite, or too large to be squared.
- refused: the library raises a ValueError, TypeError or OSError that names an argument and says what to do.
- diverged: DivergenceError.
- passed on: the error of the user's own data set.

Anything else is a finding: another error, a warning, a message without an argument, valid inputs that are refused, NaN
out of finite numbers, or a refused call that changed something. Some calls run under another default dtype, on RBMs in
double or half precision, or with a user's own units. `--first N --cases 1` repeats case N.
"""

import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from experiments.fuzzing.draw import Draw, Given
from experiments.fuzzing.public_api import PUBLIC_API, Entry
from experiments.fuzzing.subjects import surroundings, words_for
from experiments.fuzzing.verdict import OUTCOMES, outcome_of
from experiments.study.command_line import option, parse
from experiments.study.options import OutOption
from experiments.study.records import as_dict, environment, launch, write_json, write_text
from experiments.study.tables import aligned


@dataclass(frozen=True)
class Config(OutOption):
    """The number of calls, and their names."""

    cases: int = option(10_000, "calls")
    first: int = option(0, "number of the first case")
    seed: int = option(0, "seed of all cases")
    faces: tuple[str, ...] = option((), "names to call, or patterns such as RBM.*; all by default")
    seconds: float = option(30.0, "CPU seconds that a call may take")


PRESETS = {"all": Config(), "tiny": Config(cases=300)}

#: Messages about inputs that are each valid but do not go together.
_APART = re.compile(
    r"few digits|no energy|normalisable|infinitely many|both given|validation|binarise|neither a score|transposed"
)


class Outcome(NamedTuple):
    """The outcome of a case: one of `OUTCOMES`, or a finding in words."""

    name: str
    outcome: str
    case: int
    inputs: str
    message: str = ""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Call, print the table and the findings, and write `results.json`. Raise a ValueError if there is a finding."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    names = [name for name in PUBLIC_API if any(fnmatchcase(name, pattern) for pattern in config.faces or ("*",))]
    if not names:
        raise ValueError(f"--faces {' '.join(config.faces)} is no name: known are {', '.join(PUBLIC_API)}")
    # The more arguments a name has, the more calls it gets.
    turns = [name for name in names for _ in range(1 + len(PUBLIC_API[name].more) // 5)]
    places = range(config.first, config.first + config.cases)
    outcomes = [
        _case(turns[place % len(turns)], place, config)
        for place in tqdm(places, desc="fuzz", unit="call", dynamic_ncols=True)
    ]
    findings = _gathered(outcomes)
    counts = {name: _counts(outcome for outcome in outcomes if outcome.name == name) for name in names}
    content = {"config": as_dict(config), "environment": environment(), "counts": counts, "findings": findings}
    write_json(Path(config.out) / "results.json", content)
    found = f"{table(counts)}\n\n{_listed(findings)}"
    write_text(Path(config.out) / "table.md", found)
    print(f"{found}\n\nwrote {config.out}/results.json and table.md")
    if findings:
        raise ValueError(f"{len(findings)} kinds of finding in {len(outcomes)} calls, listed above: mend the library")
    return content


def _case(name: str, place: int, config: Config) -> Outcome:
    """Make one call with drawn arguments, and return its outcome."""
    with tempfile.TemporaryDirectory() as folder:
        draw, entry = Draw(config.seed, place, Path(folder)), PUBLIC_API[name]
        torch.manual_seed(draw.random.randrange(2**62))
        with surroundings(draw) as around:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what invalid inputs make of themselves
                subject = entry.make(draw)
                given = _arguments(draw, entry, subject)
            outcome, message = outcome_of(entry, subject, given, config.seconds)
    if outcome == "refused" and not draw.invalid and not _APART.search(message):
        outcome = "finding: refuses valid inputs"
    words = [around, words_for(subject), *(f"{key}={value.words}" for key, value in given.items())]
    return Outcome(name, outcome, place, "; ".join(filter(None, words)), message)


def _arguments(draw: Draw, entry: Entry, subject: Any) -> dict[str, Given]:
    """Draw all needed arguments and some optional ones; at most two are invalid."""
    known = {**entry.needed, **entry.more}
    draw.invalid = invalid = {draw.one(list(known)) for _ in range(draw.one([0, 1, 1, 1, 1, 1, 2]))} if known else set()
    given: dict[str, Given] = {}
    for name, argument in known.items():
        if name in invalid:
            given[name] = argument.invalid(draw, subject)
        elif name in entry.needed or draw.chance(0.15):
            given[name] = argument.valid(draw, subject)
    if "progress" in entry.more:
        given.setdefault("progress", Given(False, "False"))
    return given


def _gathered(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Group equal findings, with their number and one case."""
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.outcome.startswith("finding"):
            key = (outcome.name, outcome.outcome, re.sub(r"[\d.]+|'.*?'|0x\w+", "…", outcome.message)[:60])
            groups.setdefault(key, []).append(outcome)
    return [{"calls": len(group), **group[0]._asdict()} for group in groups.values()]


def _counts(outcomes: Iterator[Outcome]) -> dict[str, int]:
    counts = Counter(outcome.outcome.split(":")[0] for outcome in outcomes)
    return {"calls": counts.total(), **{name: counts[name] for name in (*OUTCOMES, "finding")}}


def table(counts: dict[str, dict[str, int]]) -> str:
    """Return a row a name: its calls by outcome."""
    header = ["function", "calls", *OUTCOMES, "findings"]
    totals = [str(sum(row[key] for row in counts.values())) for key in ("calls", *OUTCOMES, "finding")]
    rows = [[name, *map(str, row.values())] for name, row in counts.items()]
    return aligned([header, *rows, ["all", *totals]])


def _listed(findings: Sequence[dict[str, Any]]) -> str:
    lines = ["{calls} × {name}, {outcome}\n  case {case}: {inputs}\n  {message}".format(**found) for found in findings]
    return "\n".join(lines) or "no findings"


if __name__ == "__main__":
    launch(main)
