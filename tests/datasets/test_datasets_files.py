"""Laws of the user's own files: how labels are spelled, what a first line is, and whose the test rows are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbn.datasets import load


def vectors(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(5.0, 3.0, size=(n, 4))


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


def text(folder: Path, content: str) -> Path:
    (folder / "mine.csv").write_text(content, encoding="utf-8")
    return folder / "mine.csv"


@pytest.mark.parametrize(
    "given", [["01", "1", "2"], ["1e0", "1.0", "2"], ["1.0", "1", ""], ["+1", "1", "-1"], ["2", "1_0", "10"]]
)
@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_one_number_in_two_spellings_is_refused_with_both(tmp_path: Path, given: list[str], kind: str) -> None:
    if kind == "csv":
        file = text(tmp_path, "a,label\n" + "".join(f"{place},{label}\n" for place, label in enumerate(given * 9)))
    else:
        file = save(tmp_path, x=vectors(27), y=np.array(given * 9))
    with pytest.raises(ValueError, match=r"labels spell the number (1|10) as '.+' and '.+'") as caught:
        load(file)
    spelled = [label for label in given if label.strip() and float(label) in (1, 10)]
    assert all(repr(label) in str(caught.value) for label in spelled)


def test_two_spellings_are_refused_between_training_and_test_labels_too(tmp_path: Path) -> None:
    x, y = vectors(20), np.arange(20) % 2
    with pytest.raises(ValueError, match="labels spell the number 0 as '0' and '00'"):
        load(save(tmp_path, x=x, y=y, x_test=x, y_test=np.array(["00", "01"] * 10)))
    split = load(save(tmp_path, x=x, y=y.astype(float), x_test=x, y_test=y.astype(str)))
    assert (split.class_names, split.classes) == (("0", "1"), 2)


@pytest.mark.parametrize(
    ("header", "label_column"),
    [
        ("5.1,3.5,1.4", None),
        ("0,0,0", None),
        ("1,2,3", None),
        ("1,0,2", None),
        ("0,1", None),
        ("0.0,1.0,2.0", None),
        ("5.1,3.5,0", "0"),
        ("5.1,3.5,0", "label"),
        ("7", None),
        ("5,NA,3", None),
        ("a,1.5,2", None),
    ],
)
def test_a_first_line_of_numbers_is_no_header_and_no_row_is_lost(
    tmp_path: Path, header: str, label_column: str | None
) -> None:
    row = ",".join(str(place % 2) for place in range(header.count(",") + 1))
    file = text(tmp_path, header + "\n" + f"{row}\n" * 20)
    with pytest.raises(ValueError, match=r"the first line holds numbers, .* write a line of names above it"):
        load(file, label_column=label_column)


@pytest.mark.parametrize(
    ("header", "label_column"),
    [
        ("0,1,2", None),
        ("0,1,2", "2"),
        ("0,1,label", "label"),
        ("label,400,402,404", "label"),
        ("a,1,2", None),
    ],
)
def test_names_of_columns_may_be_numbers_where_they_cannot_be_a_row(
    tmp_path: Path, header: str, label_column: str | None
) -> None:
    columns = header.count(",") + 1
    rows_of_text = "".join(",".join(str((row + place) % 2) for place in range(columns)) + "\n" for row in range(20))
    split = load(text(tmp_path, header + "\n" + rows_of_text), label_column=label_column)
    assert sum(len(part.x) for part in split) == 20
    assert split.train.x.shape[1] == columns - (label_column is not None)


def test_a_split_says_whether_the_test_rows_are_the_sources_own(tmp_path: Path) -> None:
    x, y = vectors(30), np.arange(30) % 2
    assert load("mnist-sample").fixed_test
    assert not load(save(tmp_path, x=x, y=y)).fixed_test
    splits = [load(save(tmp_path, x=x[:20], y=y[:20], x_test=x[20:], y_test=y[20:]), seed=seed) for seed in range(3)]
    assert all(split.fixed_test for split in splits)
    for split in splits:
        torch.testing.assert_close(split.test.x * split.scale + split.offset, torch.from_numpy(x[20:]).float())
    assert not torch.equal(splits[0].test.x, splits[1].test.x), "standardised by other training rows"
