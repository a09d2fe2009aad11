"""Named data sets and the user's own files, as (train, validation, test) tensors with seeded, balanced splits."""

import contextlib
import csv
import importlib
import io
import os
import socket
import string
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

Array = NDArray[Any]
File = str | os.PathLike[str]
_BUNDLED = Path(__file__).parent / "data" / "mnist_sample.npz"
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
    images); new rows must enter a trained model as (row − offset) / scale.

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

    def __iter__(self) -> Iterator[Samples]:
        return iter((self.train, self.validation, self.test))


class DownloadError(ConnectionError):
    """A named data set is not on this machine and could not be downloaded."""


class _Table(NamedTuple):
    """A whole source in its own units, the test part last: x (n, features), y (n,) class numbers or -1."""

    x: Array
    y: Array
    before_test: int | None  # rows before the test part; None where the source leaves its choice to us
    class_names: tuple[str, ...]
    shape: tuple[int, ...] | None


def _idx_files(folder: str, train: str = "train", test: str = "t10k") -> list[str]:
    return [f"{folder}/raw/{part}-{kind}-ubyte" for part in (train, test) for kind in ("images-idx3", "labels-idx1")]


_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_LETTER_FILES = _idx_files("EMNIST", "emnist-letters-train", "emnist-letters-test")
_SOURCES = {  # torchvision's class, its files, the names of the classes
    "mnist": ("MNIST", _idx_files("MNIST"), tuple(string.digits)),
    "fashion-mnist": ("FashionMNIST", _idx_files("FashionMNIST"), _CLOTHES),
    "kmnist": ("KMNIST", _idx_files("KMNIST"), ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "emnist-letters": ("EMNIST", _LETTER_FILES, tuple(string.ascii_lowercase)),
    "usps": ("USPS", ["usps.bz2", "usps.t.bz2"], tuple(string.digits)),
}
NAMES = ("mnist-sample", *_SOURCES)


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
    its rows to the test part first, so that it depends on `seed` alone. Draws are balanced over the classes. Where
    only some rows have labels, test and validation rows are drawn from those, and all the others stay in train.

    Sources: MNIST (LeCun, Cortes, Burges), Fashion-MNIST (Xiao et al., 2017), KMNIST (Clanuwat et al., 2018), EMNIST
    (Cohen et al., 2017), USPS (Hull, 1994). Error rates on the bundled sample are *not* those published for MNIST.

    Args:
        name_or_file: one of `NAMES`; or the path of a `.npz` file with arrays x (n, ...), y (n,) and, if there are,
            x_test, y_test; or of a `.csv` file with a header row and numeric columns. Labels, numbers or strings,
            become 0..K-1 in sorted order; -1, NaN or empty marks an unlabelled row. Images are flattened.
        root: the folder of downloaded sets, by default that of `data_folder`; files already there need no network.
        labels: keep this many training labels, as equal over the classes as can be, and set the others to -1, so that
            all rows remain for pretraining; subsets of one seed are nested. None, or as many as there are, keeps all.
        seed: of all draws.
        validation: rows split off the training part, or a fraction of them if a float below 1; by default a sixth.
        standardise: see above.
        label_column: of a `.csv`, the column of the labels; None if there is none.
        progress: show a bar while downloading, or while reading a long `.csv`.

    Raises:
        ValueError: wrong arguments or contents; names the argument, what was found and what to do.
        FileNotFoundError: there is no such file.
        DownloadError: the set is neither on this machine nor to be had; names the files and the folder.
        ImportError: a set other than "mnist-sample" is asked for, and torchvision cannot be imported.

    Example:
        >>> split = load("mnist-sample", labels=100, seed=1)
        >>> split.train.x.shape, split.train.x.max().item(), split.train.labelled.y.bincount().tolist()
        (torch.Size([4167, 784]), 1.0, [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    _check_arguments(labels, seed, validation)
    if name_or_file in _SOURCES:
        table = _read_named(str(name_or_file), data_folder(root), progress)
    else:
        table = _read_file(_BUNDLED if name_or_file in NAMES else Path(name_or_file), label_column, progress)
    rest, test = _split_test(table, seed)
    train, held_out = _split_validation(table.y, rest, validation, seed)
    kept = _keep_labels(table, train, labels, seed)
    offset, scale = _scaling(table.x, train, (standardise or None) if name_or_file in NAMES else standardise)
    shown = ((train, kept), (held_out, table.y), (test, table.y))
    a, b, c = (Samples(_scaled(table.x[rows], offset, scale), torch.from_numpy(y[rows])) for rows, y in shown)
    units = torch.from_numpy(np.stack([offset, scale])).float()
    return DataSplit(a, b, c, len(table.class_names), table.shape, table.class_names, *units)


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
    """Those of `rows` to draw from: the labelled ones, or all where there is none."""
    labelled = rows[y[rows] >= 0]
    return labelled if len(labelled) else rows


def _draw(y: Array, rows: Array, count: int, seed: int, stream: int, *, equal: bool = False) -> Array:
    """`count` rows of the pool, sorted: as many of each class as its share, or equally many.

    Shuffle; the r-th row of its class (of s) then comes at (r + ½)/s, or at r; the first `count` are the draw. A class
    that runs out is made up for by the others, and of equals chance decides.
    """
    pool, generator = torch.from_numpy(_pool(y, rows)), torch.Generator().manual_seed(3 * int(seed) + stream)
    pool = pool[torch.randperm(len(pool), generator=generator)]
    sizes, by_class = (group := torch.from_numpy(y)[pool] + 1).bincount(), group.argsort(stable=True)
    rank = torch.empty(len(group), dtype=torch.float64)
    rank[by_class] = (torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group[by_class]]).double()
    key = rank if equal else (rank + 0.5) / sizes[group]
    return pool[key.argsort(stable=True)[:count]].sort().values.numpy()


def _split_off(y: Array, rows: Array, count: int, seed: int, stream: int) -> tuple[Array, Array]:
    """(the rest, `count` drawn rows), each in the order of the source."""
    drawn = _draw(y, rows, count, seed, stream)
    return np.setdiff1d(rows, drawn), drawn


def _split_test(table: _Table, seed: int) -> tuple[Array, Array]:
    rows = np.arange(len(table.y))
    if table.before_test is not None:
        return rows[: table.before_test], rows[table.before_test :]
    if (total := len(_pool(table.y, rows))) < _FEWEST_ROWS:
        raise ValueError(f"too few (labelled) rows for a test part: {total}; give {_FEWEST_ROWS}, or x_test and y_test")
    return _split_off(table.y, rows, round(total / 5), seed, _TEST)


def _split_validation(y: Array, rows: Array, validation: int | float | None, seed: int) -> tuple[Array, Array]:
    total = len(_pool(y, rows))
    count = total // 6 if validation is None else round(validation * (total if isinstance(validation, float) else 1))
    if count >= total:
        raise ValueError(f"validation={validation} leaves none of the {total} rows to draw from: give fewer")
    return _split_off(y, rows, count, seed, _VALIDATION)


def _keep_labels(table: _Table, train: Array, labels: int | None, seed: int) -> Array:
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
    """(x − offset) / scale in float32; in float64 on the way where there is an offset that could swamp the digits."""
    values = x - offset if offset.any() else x.astype(np.float32)
    values /= scale.astype(values.dtype)
    return torch.from_numpy(values.astype(np.float32, copy=False))


def _read_named(name: str, folder: Path, progress: bool) -> _Table:
    parts = _torchvision_parts(name, folder, progress)
    x = torch.cat([torch.as_tensor(part.data) for part in parts])
    y = torch.cat([torch.as_tensor(part.targets).long() for part in parts])
    if name == "emnist-letters":  # stored lying on their side, with labels from 1
        x, y = x.transpose(1, 2), y - 1
    return _Table(x.flatten(1).numpy(), y.numpy(), len(parts[0].data), _SOURCES[name][2], tuple(x.shape[1:]))


def _torchvision_parts(name: str, folder: Path, progress: bool) -> list[Any]:
    """torchvision's training and test part, downloaded if any file is missing; every failure in the user's terms."""
    kind, files, _ = _SOURCES[name]
    listed, options = ", ".join(files), {"split": "letters"} if name == "emnist-letters" else {}
    present = all((folder / file).is_file() for file in files)
    try:
        dataset = getattr(importlib.import_module("torchvision.datasets"), kind)
    except (ImportError, RuntimeError, OSError) as error:  # a build that does not match torch fails in all these ways
        advice = "install the one that belongs to your torch, or use 'mnist-sample'"
        raise ImportError(f"{name!r} needs torchvision, which cannot be imported ({error}): {advice}") from error
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
            socket.setdefaulttimeout(30)  # seconds: a firewall that drops packets must end in an error, not a hang
            stack.enter_context(contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()))
            return [dataset(str(folder), train=train, download=not present, **options) for train in (True, False)]
    except Exception as error:  # sockets, HTTP, archives and assertions fail in ways of their own
        if present:
            raise ValueError(f"{name!r} in {folder} is damaged ({error!r}): delete {listed}, load again") from error
        advice = f"Put {listed} there, or name a folder by root= or DBN_DATA; 'mnist-sample' is bundled and needs none"
        raise DownloadError(f"{name!r} is not in {folder} and cannot be downloaded ({error}). {advice}") from error


def _read_file(path: Path, label_column: str | None, progress: bool) -> _Table:
    path = path.expanduser()
    if path.suffix.lower() not in (".npz", ".csv"):
        raise ValueError(f"unknown data set '{path}': give one of {', '.join(NAMES)}, or a .npz or .csv file")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} (looked in {Path.cwd()}): give the path of an existing file")
    try:
        return _table(_read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path, label_column, progress))
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error


def _table(arrays: dict[str, Array]) -> _Table:
    """Check and join the arrays of a file. The classes are those of both parts, so that test labels mean the same."""
    if ("x_test" in arrays) != ("y_test" in arrays) and ("y" in arrays or "y_test" in arrays):
        raise ValueError(f"x_test and y_test belong together, found {', '.join(sorted(arrays))}: add the other")
    xs, ys = [], []
    for name in ("x", "x_test") if "x_test" in arrays else ("x",):
        xs.append(_features(name, arrays[name]))
        ys.append(arrays.get(f"y{name[1:]}", np.full(len(xs[-1]), -1)))
        if ys[-1].shape != (len(xs[-1]),):
            raise ValueError(f"the labels of {name} must be one a row, ({len(xs[-1])},); found {ys[-1].shape}")
        if xs[-1].shape[1] != xs[0].shape[1]:
            raise ValueError(f"x_test has {xs[-1].shape[1]} columns and x {xs[0].shape[1]}: give both the same")
    y, class_names = _class_numbers(ys)
    shape, before_test = arrays["x"].shape[1:], len(xs[0]) if "x_test" in arrays else None
    return _Table(np.concatenate(xs), y, before_test, class_names, shape if len(shape) > 1 else None)


def _features(name: str, x: Array) -> Array:
    if x.ndim < 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers of shape (n, features) or (n, ...), found {x.dtype} {x.shape}")
    flat = x.reshape(len(x), -1).astype(np.uint8 if x.dtype.kind == "b" else x.dtype, copy=False)
    good = np.abs(flat) <= np.finfo(np.float32).max if x.dtype.kind == "f" else np.True_
    if not good.all():
        place, value = np.argwhere(~good)[0].tolist(), flat[~good][0]
        raise ValueError(f"{name} must be finite in float32, found {value} at {place}: remove or fill in such values")
    return flat


def _class_numbers(found: list[Array]) -> tuple[Array, tuple[str, ...]]:
    """Labels as 0..K-1 in sorted order, -1 where there is none, and what each was called."""
    text = any(y.dtype.kind in "US" for y in found)
    values, missing = _label_values(np.concatenate([y.astype(str) if text else y for y in found]))
    kept = np.unique(values[~missing])
    names = tuple(str(label) for label in kept)
    if missing.any() and names == ("1",):
        raise ValueError("found the labels -1 and 1, but -1 marks an unlabelled row: write the classes as 0 and 1")
    return np.where(missing, -1, np.searchsorted(kept, values)).astype(np.int64), names


def _label_values(y: Array) -> tuple[Array, Array]:
    """Labels as integers if every one is a number, else as strings; and which are missing."""
    if y.dtype.kind == "U":
        y = np.char.strip(y)
        missing = np.isin(y, ["", "-1", "nan", "NaN"])
        try:
            y = np.where(missing, "-1", y).astype(np.float64)
        except ValueError:
            return y, missing
    y = np.where(np.isnan(y), -1.0, y) if y.dtype.kind == "f" else y
    if y.dtype.kind not in "biuf" or (y.dtype.kind == "f" and not ((y == np.floor(y)) & (np.abs(y) < 2**53)).all()):
        raise ValueError(f"labels must be whole numbers or strings, found {y.dtype} such as {y[:3].tolist()}")
    return y.astype(np.int64), y == -1


def _read_npz(path: Path) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        raise ValueError("this is no .npz file: write it with numpy.savez(path, x=..., y=...)")
    with np.load(path, allow_pickle=False) as archive:
        if "x" not in archive.files:
            raise ValueError(f"no array x, found {archive.files}: name the vectors x and the labels y")
        return {name: archive[name] for name in archive.files if name in ("x", "y", "x_test", "y_test")}


def _read_csv(path: Path, label_column: str | None, progress: bool) -> dict[str, Array]:
    rows, labels = [], []
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header) or "" in header:  # an unnamed column is mostly an index, not a feature
            raise ValueError(f"every column needs a name of its own, found {header[:8]}: name it, or leave it out")
        if label_column is not None and label_column not in header:
            raise ValueError(f"no column {label_column!r}, found {header[:8]}: pass the label_column there is, or None")
        label = None if label_column is None else header.index(label_column)
        lines = tqdm(reader, desc=path.name, unit=" rows", delay=2, leave=False, disable=not progress)
        for cells in filter(None, lines):  # blank lines have no cells
            if len(cells) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells under {len(header)} columns")
            labels += [] if label is None else [cells.pop(label)]
            try:
                rows.append(np.array(cells, dtype=np.float64))
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}; only label_column may hold text or gaps") from None
    if not rows:
        raise ValueError("too few rows: found none under the header")
    return {"x": np.stack(rows)} | ({} if label is None else {"y": np.array(labels)})
