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

import contextlib
import copy
import io
import linecache
import math
import re
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import dbn
from dbn import DivergenceError, EarlyStopping, Evaluation, History, datasets
from dbn.datasets import DataSplit
from experiments.fuzzing.draw import Draw, Given
from experiments.fuzzing.public_api import PUBLIC_API, Entry
from experiments.fuzzing.subjects import surroundings, words_for
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

OUTCOMES = ("works", "not finite", "refused", "diverged", "passed on")
#: Messages about inputs that are each valid but do not go together.
_APART = re.compile(
    r"few digits|no energy|normalisable|infinitely many|both given|validation|binarise|neither a score|transposed"
)
_LIBRARY = str(Path(dbn.__file__).parent)
_OWN = [str(Path(__file__).with_name("fuzzing") / name) for name in ("holders.py", "loaders.py")]
_LOADING = str(Path(torch.utils.data.__file__).parent)


class Slow(BaseException):
    """A call exceeds its time; no handler of the library catches this."""


class Outcome(NamedTuple):
    """The outcome of a case: one of `OUTCOMES`, or a finding in words."""

    face: str
    outcome: str
    case: int
    inputs: str
    message: str = ""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Call, print the table and the findings, and write `results.json`. Raise a ValueError if there is a finding."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    names = [name for name in PUBLIC_API if any(fnmatchcase(name, face) for face in config.faces or ("*",))]
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
    counts = {name: _counts(outcome for outcome in outcomes if outcome.face == name) for name in names}
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
        draw, face = Draw(config.seed, place, Path(folder)), PUBLIC_API[name]
        torch.manual_seed(draw.random.randrange(2**62))
        with surroundings(draw) as around:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what invalid inputs make of themselves
                subject = face.make(draw)
                given = _arguments(draw, face, subject)
            outcome, message = _outcome(face, subject, given, config.seconds)
    if outcome == "refused" and not draw.invalid and not _APART.search(message):
        outcome = "finding: refuses valid inputs"
    words = [around, words_for(subject), *(f"{key}={value.words}" for key, value in given.items())]
    return Outcome(name, outcome, place, "; ".join(filter(None, words)), message)


def _arguments(draw: Draw, face: Entry, subject: Any) -> dict[str, Given]:
    """Draw all needed arguments and some optional ones; at most two are invalid."""
    kinds = {**face.needed, **face.more}
    draw.invalid = invalid = {draw.one(list(kinds)) for _ in range(draw.one([0, 1, 1, 1, 1, 1, 2]))} if kinds else set()
    given: dict[str, Given] = {}
    for name, kind in kinds.items():
        if name in invalid:
            given[name] = kind.invalid(draw, subject)
        elif name in face.needed or draw.chance(0.15):
            given[name] = kind.valid(draw, subject)
    if "progress" in face.more:
        given.setdefault("progress", Given(False, "False"))
    return given


def _outcome(face: Entry, subject: Any, given: dict[str, Given], seconds: float) -> tuple[str, str]:
    """Make a call, and return one of `OUTCOMES` or a finding, with the message."""
    before, own = _state(subject, given), _inputs(given)
    with warnings.catch_warnings(record=True) as heard, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        try:
            with _limited(seconds):
                answer = face.call(subject, **{name: value.value for name, value in given.items()})
        except (Exception, Slow) as error:
            outcome, message = _judged_error(error, face, subject, given, before)
        else:
            outcome, message = _judged_answer(answer, subject, given)
    if heard:
        return f"finding: warns by {heard[0].category.__name__}", str(heard[0].message)
    if not _same(own, _inputs(given)):
        return "finding: the input was changed", message
    return outcome, message


def _judged_answer(answer: Any, subject: Any, given: dict[str, Given]) -> tuple[str, str]:
    numbers = list(_numbers([answer, subject]))
    if all(bool(value.isfinite().all()) for value in numbers):
        return "works", ""
    if not all(value.finite for value in given.values()) or _is_narrow(subject):
        return "not finite", ""
    return f"finding: {'NaN' if any(bool(x.isnan().any()) for x in numbers) else 'infinite'} out of finite numbers", ""


def _is_narrow(subject: Any) -> bool:
    """Whether it computes in half precision, which overflows earlier."""
    parameters = subject.parameters() if isinstance(subject, nn.Module) else ()
    return any(value.dtype in (torch.float16, torch.bfloat16) for value in parameters)


def _judged_error(
    error: BaseException, face: Entry, subject: Any, given: dict[str, Given], before: Any
) -> tuple[str, str]:
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]} [{_where(error)}]"
    if isinstance(error, Slow):
        return "finding: takes too long", message
    if isinstance(error, DivergenceError):
        return "diverged", message
    if _is_the_users(error):
        return "passed on", message
    if not _is_documented(error):
        return f"finding: raises {type(error).__name__}", message
    if not _names(str(error), face, subject, given):
        return "finding: names no argument", message
    if not isinstance(error, OSError) and not re.search(r": |; | must | needs ", str(error)):
        return "finding: does not say what to do", message
    late = any(value.late or _is_asked_later(value.value) for value in given.values())
    if not late and not _same(before, _state(subject, given)):
        return "finding: something changed", message
    return "refused", message


def _is_asked_later(value: Any) -> bool:
    """Whether it is a user's function, whose answers are known only during the work."""
    return isinstance(value, FunctionType | EarlyStopping)


def _is_the_users(error: BaseException) -> bool:
    """Whether a user's data set or loader raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename in _OWN or frames[-1].filename.startswith(_LOADING)


def _is_documented(error: BaseException) -> bool:
    """Whether it is of a documented kind, and raised by a statement of the library."""
    kinds = (ValueError, TypeError, OSError, datasets.DownloadError)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise ")
    return isinstance(error, kinds) and said and frame.filename.startswith(_LIBRARY)


def _names(message: str, face: Entry, subject: Any, given: dict[str, Given]) -> bool:
    """Whether a message names an argument, its path, or the units that refuse the work."""
    paths = {str(one.value) for one in given.values() if isinstance(one.value, Path)}
    if any(word in message for word in (*face.also, *_units(subject), *paths)):
        return True
    return any(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", message) for name in given)


def _units(subject: Any) -> set[str]:
    modules = subject.modules() if isinstance(subject, nn.Module) else ()
    return {str(module) for module in modules if isinstance(module, dbn.Unit)}


def _where(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(_LIBRARY)]
    return f"{Path(frames[-1].filename).relative_to(_LIBRARY)}: {frames[-1].name}" if frames else "outside"


def _state(subject: Any, given: dict[str, Given]) -> list[Any]:
    """Copy all that a refused call must not change: of the subject, and of modules among the arguments."""
    modules = [value for value in (subject, *(value.value for value in given.values())) if isinstance(value, nn.Module)]
    return [
        [(name, _frozen(value)) for name, value in module.state_dict().items()]
        + [(m.training, vars(m).get("dbn_input_scale")) for m in module.modules()]
        + [value.requires_grad for value in module.parameters()]
        for module in modules
    ]


def _inputs(given: dict[str, Given]) -> list[Any]:
    return [_frozen(value.value) for value in given.values()]


def _frozen(value: Any) -> Any:
    """Copy a value for a later comparison, if it can be compared."""
    if isinstance(value, nn.parameter.UninitializedTensorMixin) or (isinstance(value, Tensor) and value.is_meta):
        return None
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else copy.copy(value) if isinstance(value, list) else None


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor):
        if a.layout != torch.strided or a.is_quantized:
            return True
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bytes(a), _bytes(b))
    return a.tobytes() == b.tobytes() if isinstance(a, np.ndarray) else bool(a is b or repr(a) == repr(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.numel()).copy_(tensor.flatten()).view(torch.uint8)


def _numbers(answer: Any) -> Iterator[Tensor]:
    """Yield every tensor and real number of an answer, in float64."""
    if isinstance(answer, Evaluation):
        answer = answer._replace(accuracy=0.0)  # documented not to be a number for real targets
    if isinstance(answer, nn.Module):
        answer = list(answer.parameters())
    if isinstance(answer, History):
        answer = [list(record.values()) for record in answer]
    if isinstance(answer, DataSplit):
        answer = [*answer, answer.offset, answer.scale]
    if isinstance(answer, list | tuple):
        for part in answer:
            yield from _numbers(part)
    elif isinstance(answer, Tensor) and answer.layout == torch.strided and not isinstance(answer, _UNFILLED):
        yield torch.zeros(0) if answer.is_meta else answer.detach().double()
    elif isinstance(answer, float) and not math.isinf(answer):  # bounds may be infinite, and say so
        yield torch.tensor(answer, dtype=torch.float64)


_UNFILLED = nn.parameter.UninitializedTensorMixin


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `Slow` in a block that takes more CPU seconds, or twenty times as many by the clock."""

    def stop(*_: object) -> None:
        raise Slow(f"more than {seconds:g} seconds")

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, 20 * seconds))
    before = [(number, signal.signal(number, stop)) for _, number, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)
        for number, handler in before:
            signal.signal(number, handler)


def _gathered(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Group equal findings, with their number and one case."""
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.outcome.startswith("finding"):
            key = (outcome.face, outcome.outcome, re.sub(r"[\d.]+|'.*?'|0x\w+", "…", outcome.message)[:60])
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
    lines = ["{calls} × {face}, {outcome}\n  case {case}: {inputs}\n  {message}".format(**found) for found in findings]
    return "\n".join(lines) or "no findings"


if __name__ == "__main__":
    launch(main)
