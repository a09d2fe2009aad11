"""The outcome of a call: what it answered or raised, what it changed, and whether that is documented."""

import contextlib
import copy
import io
import linecache
import math
import re
import signal
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dbn
from dbn import DivergenceError, EarlyStopping, Evaluation, History, datasets
from dbn.datasets import DataSplit
from experiments.fuzzing.draw import Given
from experiments.fuzzing.public_api import Entry

OUTCOMES = ("works", "not finite", "refused", "diverged", "passed on")
_LIBRARY = str(Path(dbn.__file__).parent)
_OWN = [str(Path(__file__).with_name(name)) for name in ("holders.py", "loaders.py")]
_LOADING = str(Path(torch.utils.data.__file__).parent)


class Slow(BaseException):
    """A call exceeds its time; no handler of the library catches this."""


def outcome_of(entry: Entry, subject: Any, given: dict[str, Given], seconds: float) -> tuple[str, str]:
    """Make a call, and return one of `OUTCOMES` or a finding, with the message."""
    before, own = _state(subject, given), _inputs(given)
    with warnings.catch_warnings(record=True) as heard, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        try:
            with _limited(seconds):
                answer = entry.call(subject, **{name: value.value for name, value in given.items()})
        except (Exception, Slow) as error:
            outcome, message = _judged_error(error, entry, subject, given, before)
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
    error: BaseException, entry: Entry, subject: Any, given: dict[str, Given], before: Any
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
    if not _names(str(error), entry, subject, given):
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


def _names(message: str, entry: Entry, subject: Any, given: dict[str, Given]) -> bool:
    """Whether a message names an argument, its path, or the units that refuse the work."""
    paths = {str(one.value) for one in given.values() if isinstance(one.value, Path)}
    if any(word in message for word in (*entry.also, *_units(subject), *paths)):
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
        if a.layout != torch.strided or a.is_quantized or a.is_meta:
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
