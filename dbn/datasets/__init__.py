"""Named data sets and the user's own files, as (train, validation, test) tensors with seeded, balanced splits."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dbn.datasets.files import read_file
from dbn.datasets.named import SOURCES, DownloadError, read_named
from dbn.datasets.table import Array, Table
from dbn.runtime.checks import check_instance, flag

__all__ = ["NAMES", "DataSplit", "DownloadError", "Samples", "data_folder", "load"]

File = str | os.PathLike[str]
NAMES = ("mnist-sample", *SOURCES)
_BUNDLED = Path(__file__).with_name("mnist_sample.npz")
_FEWEST_ROWS = 10  # with a fifth for the test part, fewer would leave a part of the split empty
_TEST, _VALIDATION, _LABELS = range(3)  # each draw has a stream of its own, so that one does not shift another


class Samples(NamedTuple):
    """Rows of one part of a data set, `x` (n, features) float32 and `y` (n,) int64, where label -1 marks no label.

    Example:
        >>> x, y = samples = Samples(torch.zeros(2, 3), torch.tensor([4, -1]))
        >>> x.shape, y.tolist(), samples.labelled.y.tolist()
        (torch.Size([2, 3]), [4, -1], [4])
    """

    x: Tensor
    y: Tensor

    @property
    def labelled(self) -> "Samples":
        """The rows that have a label."""
        return Samples(self.x[self.y >= 0], self.y[self.y >= 0])


@dataclass(frozen=True)
class DataSplit:
    """A data set in its three parts, which `train, validation, test = split` unpacks, with what describes it.

    classes: their number. shape: of one image, such as (28, 28), or None for plain vectors. class_names: what label k
    was called in the source. offset, scale: (features,), in the units of the source (grey levels 0..255 for the named
    images); new rows must enter a trained model as (row − offset) / scale. fixed_test: whether the test part is the
    source's own, the same rows for every seed, rather than drawn.

    Example:
        >>> split = load("mnist-sample")
        >>> split.classes, split.shape, [len(part.x) for part in split]
        (10, (28, 28), [4167, 833, 2000])
    """

    train: Samples
    validation: Samples
    test: Samples
    classes: int
    shape: tuple[int, ...] | None
    class_names: tuple[str, ...]
    offset: Tensor
    scale: Tensor
    fixed_test: bool

    def __iter__(self) -> Iterator[Samples]:
        return iter((self.train, self.validation, self.test))


def load(
    name_or_file: File,
    *,
    root: File | None = None,
    labels: int | None = None,
    seed: int = 0,
    validation: int | float | None = None,
    standardise: bool | None = None,
    label_column: str | None = "label",
    progress: bool = True,
) -> DataSplit:
    """Load a data set by name, or the user's own vectors from a file, split into train, validation and test.

    Scaling, with `standardise=None`: data that lie in [0, 1] are kept; grey levels (uint8, or whole numbers from 0 up
    to exactly 255) are divided by 255; anything else is standardised column by column, x ← (x − mean) / sd, with mean
    and sd of the *training* rows only (sd 1 for a column constant there). True always standardises; False keeps a
    file's numbers as they are (named images are in [0, 1] even so).

    The test part of a named set, or of a file that brings one, is never touched; a file without one loses a fifth of
    its rows to the test part first, so that it depends on `seed` alone. Generators are balanced over the classes. Where
    only some rows have labels, test and validation rows are drawn from those, and all the others stay in train.

    Sources: MNIST (LeCun, Cortes, Burges), Fashion-MNIST (Xiao et al., 2017), KMNIST (Clanuwat et al., 2018), EMNIST
    (Cohen et al., 2017), USPS (Hull, 1994). Error rates on the bundled sample are *not* those published for MNIST.

    Args:
        name_or_file: one of `NAMES`; or the path of a `.npz` file with arrays x (n, ...), y (n,) and, if there are,
            x_test, y_test; or of a `.csv` file of numeric columns under a line of their names. Labels, numbers or
            strings, become 0..K-1 in sorted order; -1, NaN or empty marks an unlabelled row, and one number in two
            spellings, such as "01" and "1", is refused. Names of columns may be the numbers 0, 1, 2, … that pandas
            writes, of at least three columns; other numbers are taken for a row of data without a header and refused,
            unless the label column is found among them by a word. Images are flattened.
        root: the folder of downloaded sets, by default that of `data_folder`; files already there need no network.
        labels: keep this many training labels, as equal over the classes as can be, and set the others to -1, so that
            all rows remain for pretraining; subsets of one seed are nested. None, or as many as there are, keeps all.
        seed: of all draws.
        validation: rows split off the training part, or a fraction of them if a float below 1; by default a sixth.
        standardise: see above.
        label_column: of a `.csv`, the column of the labels; None if there is none.
        progress: show a bar while downloading, or while reading a long `.csv`.

    Raises:
        TypeError: an argument of the wrong kind, such as a path that is a number.
        ValueError: wrong arguments or contents; names the argument, what was found and what to do.
        FileNotFoundError: there is no such file.
        DownloadError: the set is neither on this RBM nor to be had; names the files and the folder.
        ImportError: a set other than "mnist-sample" is asked for, and torchvision cannot be imported.

    Example:
        >>> split = load("mnist-sample", labels=100, seed=1)
        >>> split.train.x.shape, split.train.x.max().item(), split.train.labelled.y.bincount().tolist()
        (torch.Size([4167, 784]), 1.0, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    check_instance(name_or_file, str | os.PathLike, "name_or_file", f"one of {', '.join(NAMES)}, or a path")
    check_instance(root, str | os.PathLike | None, "root", "the path of a folder")
    check_instance(label_column, str | None, "label_column", "the name of a column, or None")
    progress = flag(progress, "progress")
    standardise = None if standardise is None else flag(standardise, "standardise")
    _check_arguments(labels, seed, validation)
    if name_or_file in SOURCES:
        table = read_named(str(name_or_file), data_folder(root), progress)
    else:
        path = _BUNDLED if name_or_file in NAMES else Path(name_or_file)
        table = read_file(path, label_column, progress, names=NAMES)
    rest, test = _split_test(table, seed)
    train, held_out = _split_validation(table.y, rest, validation, seed)
    kept = _keep_labels(table, train, labels, seed)
    offset, scale = _scaling(table.x, train, (standardise or None) if name_or_file in NAMES else standardise)
    shown = ((train, kept), (held_out, table.y), (test, table.y))
    a, b, c = (Samples(_scaled(table.x[rows], offset, scale), torch.from_numpy(y[rows])) for rows, y in shown)
    offsets, scales = torch.from_numpy(np.stack([offset, scale])).float()
    fixed, names = table.before_test is not None, table.class_names
    return DataSplit(a, b, c, len(names), table.shape, names, offsets, scales, fixed)


def data_folder(root: File | None = None) -> Path:
    """The folder of downloaded sets: `root`, else the environment's DBN_DATA, else `dbn` in the user's cache folder.

    Args:
        root: a folder, with ~ for the home folder if you like; it need not exist.

    Example:
        >>> data_folder("digits").name
        'digits'
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "dbn"
    return Path(root or os.environ.get("DBN_DATA") or cache).expanduser()


def _check_arguments(labels: Any, seed: Any, validation: Any) -> None:
    def whole(value: Any) -> bool:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)

    if not whole(seed) or not 0 <= seed < 2**60:
        raise ValueError(f"seed must be a whole number from 0 to 2**60, found {seed!r}")
    if labels is not None and not (whole(labels) and labels > 0):
        raise ValueError(f"labels must be a positive whole number, or None to keep all; found {labels!r}")
    fraction = isinstance(validation, float) and 0 <= validation < 1
    if validation is not None and not fraction and not (whole(validation) and validation >= 0):
        raise ValueError(f"validation must be a number of rows or a fraction below 1, found {validation!r}")


def _pool(y: Array, rows: Array) -> Array:
    """Those of `rows` to draw from: the labelled ones, or all if there is none."""
    labelled = rows[y[rows] >= 0]
    return labelled if len(labelled) else rows


def _draw(y: Array, rows: Array, count: int, seed: int, stream: int, *, equal: bool = False) -> Array:
    """`count` rows of the pool, sorted: as many of each class as its share, or equally many.

    Shuffle; the r-th row of its class (of s) then comes at (r + ½)/s, or at r; the first `count` are the draw. A class
    that runs out is made up for by the others, and of equals chance decides.
    """
    pool, generator = torch.from_numpy(_pool(y, rows)), torch.Generator().manual_seed(3 * int(seed) + stream)
    pool = pool[torch.randperm(len(pool), generator=generator, device="cpu")]
    sizes, by_class = (group := torch.from_numpy(y)[pool] + 1).bincount(), group.argsort(stable=True)
    rank = torch.empty(len(group), dtype=torch.float64, device="cpu")
    places = torch.arange(len(group), dtype=torch.float64, device="cpu")
    rank[by_class] = places - (sizes.cumsum(0) - sizes)[group[by_class]]
    key = rank if equal else (rank + 0.5) / sizes[group]
    return pool[key.argsort(stable=True)[:count]].sort().values.numpy()


def _split_off(y: Array, rows: Array, count: int, seed: int, stream: int) -> tuple[Array, Array]:
    """(the rest, `count` drawn rows), each in the order of the source."""
    drawn = _draw(y, rows, count, seed, stream)
    return np.setdiff1d(rows, drawn), drawn


def _split_test(table: Table, seed: int) -> tuple[Array, Array]:
    rows = np.arange(len(table.y))
    if table.before_test is not None:
        return rows[: table.before_test], rows[table.before_test :]
    if (total := len(_pool(table.y, rows))) < _FEWEST_ROWS:
        raise ValueError(
            f"name_or_file has too few (labelled) rows for a test part: {total}; give {_FEWEST_ROWS}, or x_test "
            "and y_test"
        )
    return _split_off(table.y, rows, round(total / 5), seed, _TEST)


def _split_validation(y: Array, rows: Array, validation: int | float | None, seed: int) -> tuple[Array, Array]:
    total = len(_pool(y, rows))
    count = total // 6 if validation is None else round(validation * (total if isinstance(validation, float) else 1))
    if count >= total:
        raise ValueError(f"validation={validation} leaves none of the {total} rows to draw from: give fewer")
    return _split_off(y, rows, count, seed, _VALIDATION)


def _keep_labels(table: Table, train: Array, labels: int | None, seed: int) -> Array:
    if labels is None:
        return table.y
    if not table.class_names:
        raise ValueError(f"labels={labels}, but the file has no labels: leave labels=None, or give it a y")
    if labels < len(table.class_names):
        raise ValueError(f"labels={labels} is fewer than the {len(table.class_names)} classes: give at least one each")
    drawn, kept = _draw(table.y, train, labels, seed, _LABELS, equal=True), np.full_like(table.y, -1)
    kept[drawn] = table.y[drawn]
    return kept


def _scaling(x: Array, train: Array, standardise: bool | None) -> tuple[Array, Array]:
    """Offset and scale of each column. Which rule applies is read off all rows, the statistics off `train` alone."""
    zeros, ones, low, high = np.zeros(x.shape[1]), np.ones(x.shape[1]), x.min(), x.max()
    if standardise is False or (standardise is None and low >= 0 and high <= 1):
        return zeros, ones
    if standardise is None and (x.dtype == np.uint8 or (low >= 0 and high == 255 and (x == np.floor(x)).all())):
        return zeros, 255 * ones
    x = x[train]
    sd = x.std(axis=0, dtype=np.float64)
    varies = (x.max(axis=0) > x.min(axis=0)) & (sd > 0)  # the rounded sd of a constant column need not be 0
    return x.mean(axis=0, dtype=np.float64), np.where(varies, sd, 1.0)


def _scaled(x: Array, offset: Array, scale: Array) -> Tensor:
    """(x − offset) / scale in float32; in float64 on the way if there is an offset that could swamp the digits."""
    values = x - offset if offset.any() else x.astype(np.float32)
    values /= scale.astype(values.dtype)
    return torch.from_numpy(values.astype(np.float32, copy=False))
