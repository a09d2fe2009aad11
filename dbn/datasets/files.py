"""The user's own files: .npz archives and .csv tables."""

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dbn.datasets.labels import class_numbers
from dbn.datasets.table import Array, Table

_GAPS = ("na", "n/a", "null", "none", "?", "-")


def read_file(path: Path, label_column: str | None, progress: bool, *, names: Sequence[str]) -> Table:
    """The arrays of a file, checked and joined; `names` are what a name that is no path could have meant."""
    if path.suffix.lower() not in (".npz", ".csv"):
        raise ValueError(f"unknown data set '{path}': give one of {', '.join(names)}, or a .npz or .csv file")
    try:
        path = path.expanduser()
        found = path.is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, or the home folder of nobody
        raise ValueError(f"name_or_file is no path ({error}): give that of an existing file") from error
    if not found:
        raise FileNotFoundError(f"no file {path} (looked in {Path.cwd()}): give the path of an existing file")
    try:
        return _table(_read_npz(path) if path.suffix.lower() == ".npz" else _read_csv(path, label_column, progress))
    except Exception as error:  # damaged archives fail in ways of their own
        raise ValueError(f"{path}: {error}") from error


def _table(arrays: dict[str, Array]) -> Table:
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
    y, class_names = class_numbers(ys)
    shape, before_test = arrays["x"].shape[1:], len(xs[0]) if "x_test" in arrays else None
    return Table(np.concatenate(xs), y, before_test, class_names, shape if len(shape) > 1 else None)


def _features(name: str, x: Array) -> Array:
    if x.ndim < 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers of shape (n, features) or (n, ...), found {x.dtype} {x.shape}")
    flat = x.reshape(len(x), -1).astype(np.uint8 if x.dtype.kind == "b" else x.dtype, copy=False)
    good = np.abs(flat) <= np.finfo(np.float32).max if x.dtype.kind == "f" else np.True_
    if not good.all():
        place, value = np.argwhere(~good)[0].tolist(), flat[~good][0]
        raise ValueError(f"{name} must be finite in float32, found {value} at {place}: remove or fill in such values")
    return flat


def _read_npz(path: Path) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        raise ValueError("this is no .npz file: write it with numpy.savez(path, x=..., y=...)")
    # A file that NumPy opens itself it leaves open if the archive is damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        if "x" not in archive.files:
            raise ValueError(f"no array x, found {archive.files}: name the vectors x and the labels y")
        return {name: archive[name] for name in archive.files if name in ("x", "y", "x_test", "y_test")}


def _read_csv(path: Path, label_column: str | None, progress: bool) -> dict[str, Array]:
    rows, labels = [], []
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream)
        header = [name.strip() for name in next(reader, [])]
        _check_names(header, label_column)
        if len(set(header)) < len(header) or "" in header:  # an unnamed column is mostly an index, not a feature
            raise ValueError(f"every column needs a name of its own, found {header[:8]}: name it, or leave it out")
        if label_column is not None and label_column not in header:
            advice = "pass the label_column there is, or None; the first line must hold the names of the columns"
            raise ValueError(f"no column {label_column!r}, found {header[:8]}: {advice}")
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


def _check_names(header: list[str], label_column: str | None) -> None:
    """Raise a ValueError if the first line looks like a row of data, which would be lost as column names.

    It does if all of it is numbers or gaps, or any of it a fraction. A word that was found as `label_column` makes it
    a header, and so do the numbers 0, 1, 2, … that pandas writes for columns without names.
    """
    named = label_column in header and not _is_number(str(label_column))
    counted = len(header) > 2 and header == [str(place) for place in range(len(header))]
    data = all(_is_number(name) or name.lower() in _GAPS for name in header)
    fraction = any(_is_number(name) and "." in name for name in header)
    if header and not named and not counted and (data or fraction):
        raise ValueError(
            f"the first line holds numbers, {header[:8]}, where the names of the columns are expected: write a line of "
            "names above it"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
