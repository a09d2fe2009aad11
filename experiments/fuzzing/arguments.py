"""Arguments of the public API, each with a maker of valid values and one of invalid values."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dbn import (
    CD,
    DBN,
    PCD,
    RBM,
    Bernoulli,
    EarlyStopping,
    FastPCD,
    ParallelTempering,
    Unit,
    schedules,
)
from experiments.fuzzing.draw import ROWS, Draw, Given
from experiments.fuzzing.invalid_files import invalid_file
from experiments.fuzzing.invalid_inputs import described, invalid_number, invalid_rows, valid_rows
from experiments.fuzzing.loaders import valid_loader
from experiments.fuzzing.subjects import UNITS

Maker = Callable[[Draw, Any], Given]


class Argument(NamedTuple):
    """Makers of valid and of invalid values of an argument, given the subject of the call."""

    valid: Maker
    invalid: Maker


def _rows(units: Callable[[Any], Unit]) -> Argument:
    def valid(draw: Draw, subject: Any) -> Given:
        rows = _valid_tensor(draw, units(subject))
        return Given(rows, f"valid rows in {rows.dtype}")

    return Argument(valid, lambda draw, subject: invalid_rows(draw, units(subject)))


def _valid_tensor(draw: Draw, units: Unit) -> Tensor:
    """Draw rows of the units, in a dtype that holds them."""
    rows = torch.from_numpy(valid_rows(draw, units))
    whole = [torch.bool, torch.uint8, torch.int64] if bool(((rows == 0) | (rows == 1)).all()) else []
    return rows.to(draw.one([torch.float32] * 6 + [torch.float64, torch.get_default_dtype(), *whole]))


def _loaded(units: Callable[[Any], Unit], labels: bool) -> Maker:
    """Make a valid loader of rows; with `labels` it always has labels, else half of the time."""

    def valid(draw: Draw, subject: Any) -> Given:
        y = torch.arange(ROWS) % 3 if labels or draw.chance(0.5) else None
        return valid_loader(draw, _valid_tensor(draw, units(subject)), y)

    return valid


def _data(units: Callable[[Any], Unit]) -> Argument:
    """Training rows: a tensor, or a loader."""
    rows, loader = _rows(units), _loaded(units, labels=False)
    return Argument(lambda draw, subject: (loader if draw.chance(0.4) else rows.valid)(draw, subject), rows.invalid)


def one_of(valid: Sequence[Any], odd: Sequence[Any] = (), *, huge: bool = False, called: bool = False) -> Argument:
    """Choose one of the valid values; as an invalid one choose one of `odd`, or half of the time any odd number.

    An argument that is `called` gets no function of another signature, since its error would be the user's.
    """

    def chosen(draw: Draw, subject: Any) -> Given:
        value = draw.one(valid)
        return Given(value, described(value))

    def invalid(draw: Draw, subject: Any) -> Given:
        while not odd or draw.chance(0.5):
            given = invalid_number(draw, huge)
            if not (called and callable(given.value)):
                return given
        value = draw.one(odd)
        return Given(value, described(value))

    return Argument(chosen, invalid)


def _made(*makers: Callable[[Draw], Any], odd: Sequence[Any] = ()) -> Argument:
    """Make a new value for every case."""

    def valid(draw: Draw, subject: Any) -> Given:
        value = draw.one(makers)(draw)
        return Given(value, described(value))

    return Argument(valid, one_of([None], odd).invalid)


def valid_labels(draw: Draw, subject: Any) -> Given:
    return Given(torch.arange(ROWS) % 3, "valid labels")


def invalid_labels(draw: Draw, subject: Any) -> Given:
    valid = np.arange(ROWS) % 3
    table: dict[str, Any] = {
        "list": valid.tolist(), "array": valid, "floats": valid.astype(float), "bool": valid > 0,
        "bytes": valid.astype(np.uint8), "uint64": valid.astype(np.uint64), "big-endian": valid.astype(">i4"),
        "reversed": valid[::-1], "column": valid[:, None], "one-hot": np.eye(3)[valid], "one-hot numbers":
        np.eye(3, dtype=int)[valid], "minus one": valid - 1, "too high": valid + 1, "too few": valid[1:],
        "none": valid[:0], "scalar": np.array(1), "NaN": np.full((ROWS, 3), np.nan), "words": valid.astype(str),
        "objects": valid.astype(object), "None in a list": [None] * ROWS, "words in a list": ["a"] * ROWS,
        "complex": valid.astype(complex), "huge": valid + 2**62, "targets of 1e30": np.full((ROWS, 3), 1e30),
        "uneven list": [[1], [1, 2]], "longdouble targets": np.eye(3, dtype=np.longdouble)[valid],
    }  # fmt: skip
    if draw.chance(0.2):
        return invalid_number(draw)
    name = draw.one(list(table))
    return Given(table[name], f"labels {name}", name not in ("NaN", "targets of 1e30"))


def valid_pair(draw: Draw, subject: Any) -> Given:
    return Given((NETWORK_ROWS.valid(draw, subject).value, valid_labels(draw, subject).value), "valid pair")


def invalid_pair(draw: Draw, subject: Any) -> Given:
    x, y = NETWORK_ROWS.invalid(draw, subject), invalid_labels(draw, subject)
    first, second = (x, valid_labels(draw, subject)) if draw.chance(0.5) else (NETWORK_ROWS.valid(draw, subject), y)
    value: Any = draw.one([(first.value, second.value)] * 4 + [[first.value, second.value], first.value, (x.value,)])
    return Given(value, f"({first.words}; {second.words})", first.finite and second.finite, first.late)


def _other_model(draw: Draw, subject: Any) -> Given:
    if draw.chance(0.5):
        return _itself(draw, subject)
    table: list[Callable[[], Any]] = [
        lambda: None, lambda: "model", lambda: RBM, lambda: 3, lambda: torch.zeros(4, 3), lambda: nn.ReLU(),
        lambda: nn.Sequential(), lambda: nn.Linear(4, 3), lambda: nn.Conv1d(4, 3, 1), lambda: nn.LazyLinear(3),
        lambda: RBM(4, 3), lambda: DBN([4, 3]), lambda: nn.Linear(4, 3).requires_grad_(False), lambda: nn.Flatten(0),
        lambda: nn.Linear(4, 3, device="meta"), lambda: nn.Linear(4, 3).half(), lambda: CD(1), lambda: Bernoulli(4),
        lambda: nn.LSTM(4, 3), lambda: nn.Bilinear(4, 4, 3), lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
        lambda: nn.Embedding(4, 3), lambda: nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (3, 1))),
    ]  # fmt: skip
    value = draw.one(table)()
    return Given(value, described(value))


def _itself(draw: Draw, subject: Any) -> Given:
    return Given(subject, "valid model")


def _log_partition(draw: Draw, subject: Any) -> Given:
    return Given(draw.one([3.5, torch.tensor(3.5), np.float64(3.5)]), "valid log Z")


NETWORK_ROWS = _rows(lambda model: Bernoulli(4))
VISIBLE = _rows(lambda rbm: rbm.visible)
HIDDEN = _rows(lambda rbm: rbm.hidden)
BOTTOM = _rows(lambda model: model.layers[0].visible)
DATA = _data(lambda rbm: rbm.visible)
BOTTOM_DATA = _data(lambda model: model.layers[0].visible)
LABELLED = Argument(_loaded(lambda model: Bernoulli(4), labels=True), NETWORK_ROWS.invalid)
TOP = _rows(lambda model: model.layers[-1].hidden)
ITSELF = Argument(_itself, _other_model)
COUNT, FREE, STEPS = one_of([1, 2, 3]), one_of([1, 5, 100], huge=True), one_of([0, 1, 2])
EVERY = one_of([1, 5, None], huge=True)
RATE, MAYBE = one_of([0.0, 0.01, 0.05], huge=True), one_of([None, 0.01, 0.1], huge=True)
FLAG = one_of([True, False])
SEED = one_of([0, 7, None], huge=True)
GENERATOR = Argument(
    lambda draw, subject: Given(torch.Generator().manual_seed(0), "generator"),
    one_of([None], [np.random.default_rng(0), torch.Generator, torch.Generator().get_state()]).invalid,
)
DRAWS = {"generator": GENERATOR, "seed": SEED}
UNIT = Argument(
    lambda draw, subject: Given(unit := draw.one(UNITS)(), described(unit)),
    one_of([None], [Bernoulli, "Bernoulli", nn.Linear(2, 2), RBM(2, 2)]).invalid,
)
SCHEDULE = one_of(
    [0.01, 0.1, schedules.constant(0.1), schedules.linear(0.1, 0.0, 1.0)],
    [
        lambda epoch: None,
        lambda epoch: float("nan"),
        lambda epoch: "0.1",
        lambda epoch: -1.0,
        schedules,
        lambda epoch: 0.1 - epoch,
        lambda epoch: float("nan") if epoch else 0.1,
    ],
    huge=True,
    called=True,
)
ESTIMATOR = _made(
    *(lambda draw: None, lambda draw: CD(draw.one([1, 2])), lambda draw: CD(1, mean_field=True)),
    *(lambda draw: PCD(3), lambda draw: PCD(3, start="data"), lambda draw: FastPCD(3)),
    lambda draw: ParallelTempering(3, 3),
    odd=[CD, "CD", nn.Linear(2, 2), [CD(1)], [CD(1), CD(1)], [PCD(2), None]],
)
STOPPING = _made(
    *(lambda draw: None, lambda draw: EarlyStopping(lambda rbm: 1.0), lambda draw: EarlyStopping(largest_gap=1e6)),
    odd=[EarlyStopping, EarlyStopping(lambda rbm: None), EarlyStopping(lambda rbm: float("nan")), "early"],  # type: ignore[arg-type, return-value]
)
CALLBACK = one_of([None, len], [3, "print"], called=True)
LOADS = Argument(
    lambda draw, subject: Given("mnist-sample", "mnist-sample"),
    lambda draw, subject: invalid_file(draw) if draw.chance(0.9) else invalid_number(draw),
)
LADDER = one_of(
    [1, 3, torch.tensor([0.0, 0.5, 1.0])],
    [torch.tensor([0.0, 1.0], dtype=torch.float16), torch.tensor([0, 1]), torch.tensor([[0.0, 1.0]]), torch.tensor(1.0),
     torch.tensor([0.0, float("nan"), 1.0]), torch.tensor([0j, 1 + 0j]), torch.tensor([1.0, 0.0]), [0.0, 1.0],
     np.array([0.0, 0.5, 1.0]), torch.zeros(0), torch.tensor([0.0, 1.0], device="meta")],
)  # fmt: skip
BASE = Argument(
    one_of(["visible_bias", "zeros"]).valid,
    lambda draw, subject: draw.one([one_of([None], ["data", "", ["zeros"], np.array(["zeros"] * 2)]).invalid, _biases])(
        draw, subject
    ),
)


def _biases(draw: Draw, subject: Any) -> Given:
    given = VISIBLE.invalid(draw, subject)
    value = given.value
    return given._replace(value=value[0]) if isinstance(value, Tensor) and value.dim() and len(value) else given


PATH = Argument(
    lambda draw, subject: Given(draw.path(".pt"), "new file"),
    lambda draw, subject: draw.one([_taken_folder, one_of([None], [""]).invalid])(draw, subject),
)


def _taken_folder(draw: Draw, subject: Any) -> Given:
    """Return a path where no folder can be, or a folder that holds something else."""
    path = draw.path("")
    if draw.chance(0.5):
        path.write_text("a file")
        return Given(path, "checkpoint is a file")
    path.mkdir()
    (path / "notes.txt").write_text("notes")
    return Given(path, "checkpoint is a folder with notes")


def words_of(*options: str) -> Argument:
    return one_of(options, ["other", "", options[0].encode(), [options[0]], np.array([options[0]] * 2)])


LOG_Z = Argument(_log_partition, one_of([None], ["3.5", (1.0,), torch.zeros(2), np.zeros(3)], huge=True).invalid)
SAVES = {
    "on_divergence": words_of("raise", "halve"),
    "checkpoint": Argument(
        lambda draw, subject: Given(draw.path(""), "new folder"),
        lambda draw, subject: draw.one([_taken_folder, one_of([None], ["", b"folder"], called=True).invalid])(
            draw, subject
        ),
    ),
    "checkpoint_seconds": one_of([0, 60.0], huge=True),
}
LEARNING = {
    "batch_size": FREE, "learning_rate": SCHEDULE, "momentum": SCHEDULE, "weight_decay": RATE,
    "estimator": ESTIMATOR, "centring": MAYBE, "binarise": one_of([None, "sample", "threshold"], ["other", ["sample"]]),
    "average_from": MAYBE, "l1": RATE, "max_norm": MAYBE, "sparsity_target": MAYBE, "sparsity_cost": RATE,
    "clip": MAYBE, "stopping": STOPPING, "initialise_bias": FLAG, "monitor_rows": FREE, "record_every": EVERY,
    "callback": CALLBACK, "progress": FLAG, **SAVES, **DRAWS,
}  # fmt: skip
ANNEALING = {"temperatures": LADDER, "base": BASE, "memory": FREE, "progress": FLAG, **DRAWS}
