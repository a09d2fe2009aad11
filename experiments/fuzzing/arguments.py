"""Kinds of arguments of the public face, each with how it is drawn as it should be, and as it should not."""

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
from experiments.fuzzing.invalid_files import strange_file
from experiments.fuzzing.invalid_inputs import described, plain_rows, strange_number, strange_rows
from experiments.fuzzing.loaders import plain_loader
from experiments.fuzzing.subjects import UNITS

Maker = Callable[[Draw, Any], Given]


class Kind(NamedTuple):
    """How an argument is drawn, as it should be and as it should not, given what is called."""

    plain: Maker
    strange: Maker


def _rows(units: Callable[[Any], Unit]) -> Kind:
    def plain(draw: Draw, subject: Any) -> Given:
        rows = _plain_tensor(draw, units(subject))
        return Given(rows, f"plain rows in {rows.dtype}")

    return Kind(plain, lambda draw, subject: strange_rows(draw, units(subject)))


def _plain_tensor(draw: Draw, units: Unit) -> Tensor:
    """Rows of the units, in a dtype that holds them."""
    rows = torch.from_numpy(plain_rows(draw, units))
    whole = [torch.bool, torch.uint8, torch.int64] if bool(((rows == 0) | (rows == 1)).all()) else []
    return rows.to(draw.one([torch.float32] * 6 + [torch.float64, torch.get_default_dtype(), *whole]))


def _loaded(units: Callable[[Any], Unit], labels: bool) -> Maker:
    """A plain loader of rows; with `labels` always with labels, else half of the time."""

    def plain(draw: Draw, subject: Any) -> Given:
        y = torch.arange(ROWS) % 3 if labels or draw.chance(0.5) else None
        return plain_loader(draw, _plain_tensor(draw, units(subject)), y)

    return plain


def _data(units: Callable[[Any], Unit]) -> Kind:
    """Rows to train on: a tensor, or a loader of them."""
    rows, loader = _rows(units), _loaded(units, labels=False)
    return Kind(lambda draw, subject: (loader if draw.chance(0.4) else rows.plain)(draw, subject), rows.strange)


def one_of(plain: Sequence[Any], odd: Sequence[Any] = (), *, huge: bool = False, called: bool = False) -> Kind:
    """One of the plain values, or one of the odd ones, half the time, or any number that is none.

    What is `called` is never given a function of another signature, whose own error would be the user's.
    """

    def chosen(draw: Draw, subject: Any) -> Given:
        value = draw.one(plain)
        return Given(value, described(value))

    def strange(draw: Draw, subject: Any) -> Given:
        while not odd or draw.chance(0.5):
            given = strange_number(draw, huge)
            if not (called and callable(given.value)):
                return given
        value = draw.one(odd)
        return Given(value, described(value))

    return Kind(chosen, strange)


def _made(*makers: Callable[[Draw], Any], odd: Sequence[Any] = ()) -> Kind:
    """What a maker makes anew for every case."""

    def plain(draw: Draw, subject: Any) -> Given:
        value = draw.one(makers)(draw)
        return Given(value, described(value))

    return Kind(plain, one_of([None], odd).strange)


def plain_labels(draw: Draw, subject: Any) -> Given:
    return Given(torch.arange(ROWS) % 3, "plain labels")


def strange_labels(draw: Draw, subject: Any) -> Given:
    plain = np.arange(ROWS) % 3
    table: dict[str, Any] = {
        "list": plain.tolist(), "array": plain, "floats": plain.astype(float), "bool": plain > 0,
        "bytes": plain.astype(np.uint8), "uint64": plain.astype(np.uint64), "big-endian": plain.astype(">i4"),
        "reversed": plain[::-1], "column": plain[:, None], "one-hot": np.eye(3)[plain], "one-hot numbers":
        np.eye(3, dtype=int)[plain], "minus one": plain - 1, "too high": plain + 1, "too few": plain[1:],
        "none": plain[:0], "scalar": np.array(1), "NaN": np.full((ROWS, 3), np.nan), "words": plain.astype(str),
        "objects": plain.astype(object), "None in a list": [None] * ROWS, "words in a list": ["a"] * ROWS,
        "complex": plain.astype(complex), "huge": plain + 2**62, "targets of 1e30": np.full((ROWS, 3), 1e30),
        "uneven list": [[1], [1, 2]], "longdouble targets": np.eye(3, dtype=np.longdouble)[plain],
    }  # fmt: skip
    if draw.chance(0.2):
        return strange_number(draw)
    name = draw.one(list(table))
    return Given(table[name], f"labels {name}", name not in ("NaN", "targets of 1e30"))


def plain_pair(draw: Draw, subject: Any) -> Given:
    return Given((NETWORK_ROWS.plain(draw, subject).value, plain_labels(draw, subject).value), "plain pair")


def strange_pair(draw: Draw, subject: Any) -> Given:
    x, y = NETWORK_ROWS.strange(draw, subject), strange_labels(draw, subject)
    first, second = (x, plain_labels(draw, subject)) if draw.chance(0.5) else (NETWORK_ROWS.plain(draw, subject), y)
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
    return Given(subject, "plain model")


def _log_partition(draw: Draw, subject: Any) -> Given:
    return Given(draw.one([3.5, torch.tensor(3.5), np.float64(3.5)]), "plain log Z")


NETWORK_ROWS = _rows(lambda model: Bernoulli(4))
VISIBLE = _rows(lambda rbm: rbm.visible)
HIDDEN = _rows(lambda rbm: rbm.hidden)
BOTTOM = _rows(lambda model: model.layers[0].visible)
DATA = _data(lambda rbm: rbm.visible)
BOTTOM_DATA = _data(lambda model: model.layers[0].visible)
LABELLED = Kind(_loaded(lambda model: Bernoulli(4), labels=True), NETWORK_ROWS.strange)
TOP = _rows(lambda model: model.layers[-1].hidden)
ITSELF = Kind(_itself, _other_model)
COUNT, FREE, STEPS = one_of([1, 2, 3]), one_of([1, 5, 100], huge=True), one_of([0, 1, 2])
EVERY = one_of([1, 5, None], huge=True)
RATE, MAYBE = one_of([0.0, 0.01, 0.05], huge=True), one_of([None, 0.01, 0.1], huge=True)
FLAG = one_of([True, False])
SEED = one_of([0, 7, None], huge=True)
GENERATOR = Kind(
    lambda draw, subject: Given(torch.Generator().manual_seed(0), "generator"),
    one_of([None], [np.random.default_rng(0), torch.Generator, torch.Generator().get_state()]).strange,
)
DRAWS = {"generator": GENERATOR, "seed": SEED}
UNIT = Kind(
    lambda draw, subject: Given(unit := draw.one(UNITS)(), described(unit)),
    one_of([None], [Bernoulli, "Bernoulli", nn.Linear(2, 2), RBM(2, 2)]).strange,
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
LOADS = Kind(
    lambda draw, subject: Given("mnist-sample", "mnist-sample"),
    lambda draw, subject: strange_file(draw) if draw.chance(0.9) else strange_number(draw),
)
LADDER = one_of(
    [1, 3, torch.tensor([0.0, 0.5, 1.0])],
    [torch.tensor([0.0, 1.0], dtype=torch.float16), torch.tensor([0, 1]), torch.tensor([[0.0, 1.0]]), torch.tensor(1.0),
     torch.tensor([0.0, float("nan"), 1.0]), torch.tensor([0j, 1 + 0j]), torch.tensor([1.0, 0.0]), [0.0, 1.0],
     np.array([0.0, 0.5, 1.0]), torch.zeros(0), torch.tensor([0.0, 1.0], device="meta")],
)  # fmt: skip
BASE = Kind(
    one_of(["visible_bias", "zeros"]).plain,
    lambda draw, subject: draw.one([one_of([None], ["data", "", ["zeros"], np.array(["zeros"] * 2)]).strange, _biases])(
        draw, subject
    ),
)


def _biases(draw: Draw, subject: Any) -> Given:
    given = VISIBLE.strange(draw, subject)
    value = given.value
    return given._replace(value=value[0]) if isinstance(value, Tensor) and value.dim() and len(value) else given


PATH = Kind(
    lambda draw, subject: Given(draw.path(".pt"), "new file"),
    lambda draw, subject: draw.one([_taken_folder, one_of([None], [""]).strange])(draw, subject),
)


def _taken_folder(draw: Draw, subject: Any) -> Given:
    """A path where a folder cannot be, or one that holds something else."""
    path = draw.path("")
    if draw.chance(0.5):
        path.write_text("a file")
        return Given(path, "checkpoint is a file")
    path.mkdir()
    (path / "notes.txt").write_text("notes")
    return Given(path, "checkpoint is a folder with notes")


def words_of(*options: str) -> Kind:
    return one_of(options, ["other", "", options[0].encode(), [options[0]], np.array([options[0]] * 2)])


LOG_Z = Kind(_log_partition, one_of([None], ["3.5", (1.0,), torch.zeros(2), np.zeros(3)], huge=True).strange)
SAVES = {
    "on_divergence": words_of("raise", "halve"),
    "checkpoint": Kind(
        lambda draw, subject: Given(draw.path(""), "new folder"),
        lambda draw, subject: draw.one([_taken_folder, one_of([None], ["", b"folder"], called=True).strange])(
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
