"""Files that are no data sets, or odd ones, drawn from a seeded source."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fuzzing.draw import Draw, Given

_ROWS = 30


def invalid_file(draw: Draw) -> Given:
    """Write a file with odd contents, odd bytes or an odd name, and return its path."""
    kind = draw.one(["csv", "csv", "npz", "npz", "damaged", "name"])
    table: dict[str, Callable[[Draw], Given]] = {"csv": _csv, "npz": _npz, "damaged": _damaged, "name": _name}
    return table[kind](draw)


def _cells(draw: Draw) -> list[list[str]]:
    header = [["a", "b", "label"]]
    return header + [
        [f"{draw.random.random():.3f}", str(draw.random.randrange(9)), str(place % 3)] for place in range(_ROWS)
    ]


_CELLS = [
    *(
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "1e30",
        "1e39",
        "1e400",
        "1,5",
        "abc",
        "0x10",
        "1_000",
        '"',
        "'",
        "\t3",
        "−1",
        "٣",
    ),
    *("True", "None", "1e-40", "3.5", "-1", "-2", "9" * 400, "\x00", "1;2", "\r", "é", "1" * 200_000, "2**3", "1j"),
]


def _csv(draw: Draw) -> Given:
    cells = _cells(draw)
    if draw.chance(0.7):
        value = draw.one(_CELLS)
        row, column = draw.random.randrange(len(cells)), draw.random.randrange(3)
        for place in range(len(cells)) if draw.chance(0.3) else [row]:
            cells[place][column] = value
    if draw.chance(0.2):
        cells = draw.one([cells[:1], [], cells[1:], cells[:4], [row[:2] for row in cells], [[]] * 9 + cells])
    if draw.chance(0.1):
        cells[draw.random.randrange(len(cells))].pop() if cells and cells[0] else None
    separator, ending = draw.one([",", ",", ",", ";", "\t"]), draw.one(["\n", "\n", "\r\n", "\r", ""])
    text = ending.join(separator.join(row) for row in cells)
    path = draw.path(".csv")
    encoding = draw.one(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
    path.write_bytes(text.encode(encoding, errors="replace"))
    return Given(draw.one([path, str(path)]), f".csv {text[:60]!r} in {encoding}")


def _arrays(draw: Draw) -> dict[str, Any]:
    x, y = np.random.default_rng(draw.random.randrange(99)).random((_ROWS, 4)), np.arange(_ROWS) % 3
    xs = [
        *(x, x.astype(np.float32), x.astype(np.float16), (x * 255).astype(np.uint8), x.astype(complex), x.astype(str)),
        *(x.astype(object), x[0], x[:, 0], x[:0], x[:, :0], x.reshape(_ROWS, 2, 2), x * 1e30, x * 1e39, x * 1e300),
        *(np.full_like(x, np.nan), np.where(x > 0.5, np.inf, x), x > 0.5, x.astype(np.longdouble), x.astype(">f8")),
        *(np.full((_ROWS, 4), 2**63, dtype=np.uint64), np.full((_ROWS, 4), -(2**63)), np.asfortranarray(x), x * 1e-40),
        *(np.float64(3), np.zeros((_ROWS, 4), dtype="M8[s]"), np.full((_ROWS, 4), np.float16(6e4)), x[:5], x[:10]),
    ]
    ys = [
        *(y, y.astype(float), y.astype(str), y.astype("S2"), y + 0.5, y - 1, y - 5, y.astype(np.uint64), y > 0),
        *(np.full(_ROWS, np.nan), np.full(_ROWS, -1), y[:-1], y[:, None], y.astype(object), y.astype(complex)),
        *(y.astype(np.longdouble), y.astype(">i2"), np.full(_ROWS, 2**64 - 1, dtype=np.uint64), y * 1e300, y * 0),
        *(np.float64(1), np.full(_ROWS, np.inf), np.where(y, "", "b"), np.full(_ROWS, "\ud800"), y.astype("M8[s]")),
    ]
    content = {"x": draw.one(xs) if draw.chance(0.6) else x}
    if draw.chance(0.8):
        content["y"] = draw.one(ys) if draw.chance(0.6) else y
    if draw.chance(0.25):
        content |= {"x_test": draw.one(xs) if draw.chance(0.5) else x}
        content |= {"y_test": draw.one(ys)} if draw.chance(0.7) else {}
    return content


def _npz(draw: Draw) -> Given:
    content, path = _arrays(draw), draw.path(".npz")
    if draw.chance(0.1):
        content.pop(draw.one(list(content)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez(path, **content)
    words = ", ".join(f"{name}: {np.asarray(array).dtype}{np.shape(array)}" for name, array in content.items())
    return Given(draw.one([path, str(path)]), f".npz of {words}")


def _damaged(draw: Draw) -> Given:
    """Write a good file with changed bytes, truncated, or with a wrong suffix."""
    path = draw.path(".npz")
    save = draw.one([np.savez, np.savez_compressed])
    save(path, x=np.linspace(0, 1, 4 * _ROWS).reshape(_ROWS, 4), y=np.arange(_ROWS) % 3)
    content = bytearray(path.read_bytes())
    for _ in range(draw.one([0, 1, 3, 30])):
        content[draw.random.randrange(len(content))] = draw.random.randrange(256)
    if draw.chance(0.3):
        del content[draw.random.randrange(len(content)) :]
    path.write_bytes(content)
    if draw.chance(0.1):
        path = path.rename(path.with_suffix(".csv"))
    return Given(path, "damaged .npz")


def _name(draw: Draw) -> Given:
    folder = draw.path(".csv")
    folder.mkdir()
    names: list[Any] = [
        *("", "mnist_sample", "data.txt", "missing.csv", "missing.npz", "\0.csv", "a" * 5000 + ".csv", "~nobody/a.csv"),
        *(b"a.csv", Path(), Path("missing.npz"), folder, str(folder), "http://example.invalid/a.csv", ["mnist-sample"]),
        *({"name": "mnist"}, np.array(["a.csv"]), "MNIST-SAMPLE", "mnist-sample "),
    ]
    value = draw.one(names)
    return Given(value, f"name {str(value)[:40]!r}")
