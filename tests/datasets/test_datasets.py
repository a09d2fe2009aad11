"""Laws of `dbn.datasets`: what is split off, hidden and scaled by what, and what is refused in which words."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dbn.datasets import DataSplit, Samples, load
from experiments.data.make_mnist_sample import write
from tests.support.splits import counts, rows


def is_even(y: torch.Tensor) -> bool:
    return int(counts(y).max() - counts(y).min()) <= 1


def vectors(n: int = 60, features: int = 4, *, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, scale, size=(n, features))


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


def text(folder: Path, content: str) -> Path:
    (folder / "mine.csv").write_text(content, encoding="utf-8")
    return folder / "mine.csv"


@pytest.fixture(scope="module")
def sample() -> DataSplit:
    return load("mnist-sample")


# ---- the bundled sample


def test_the_sample_has_the_promised_sizes_types_and_range(sample: DataSplit) -> None:
    assert [len(part.x) for part in sample] == [len(part.y) for part in sample] == [4167, 833, 2000]
    assert (sample.classes, sample.shape, sample.class_names[3]) == (10, (28, 28), "3")
    for x, y in sample:
        assert (x.dtype, y.dtype, x.shape[1], x.min(), x.max()) == (torch.float32, torch.int64, 784, 0, 1)
        assert x.is_contiguous()
        torch.testing.assert_close(x * 255, (x * 255).round(), rtol=0, atol=1e-4)


def test_the_sample_is_balanced_in_every_part(sample: DataSplit) -> None:
    assert counts(sample.test.y).tolist() == [200] * 10
    assert (counts(sample.train.y) + counts(sample.validation.y)).tolist() == [500] * 10
    assert is_even(sample.validation.y)


def test_train_validation_and_test_share_no_row(sample: DataSplit) -> None:
    train, validation, test = (rows(part.x) for part in sample)
    assert len(train) == 4167
    assert train.isdisjoint(validation)
    assert test.isdisjoint(train | validation)


def test_a_part_unpacks_and_labelled_drops_the_unlabelled(sample: DataSplit) -> None:
    x, y = sample.test
    assert torch.equal(x, sample.test.x)
    assert torch.equal(y, sample.test.labelled.y)
    x, y = Samples(torch.arange(6.0).reshape(3, 2), torch.tensor([-1, 0, 2])).labelled
    assert (x.tolist(), y.tolist()) == ([[2, 3], [4, 5]], [0, 2])


def test_seeds_reproduce_and_differ_and_leave_the_test_set_alone(sample: DataSplit) -> None:
    again, other = load("mnist-sample", labels=100, seed=7), load("mnist-sample", labels=100, seed=8)
    for left, right in zip(load("mnist-sample", labels=100, seed=7), again, strict=True):
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.y, right.y)
    assert torch.equal(other.test.x, sample.test.x)
    assert torch.equal(other.test.y, sample.test.y)
    assert rows(other.validation.x) != rows(again.validation.x)
    assert rows(other.train.labelled.x) != rows(again.train.labelled.x)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    state = torch.get_rng_state()
    first = load("mnist-sample", labels=50).train.y
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(load("mnist-sample", labels=50).train.y, first)


@pytest.mark.parametrize("labels", [10, 11, 55, 500, 4000])
def test_labelled_subsets_are_even_and_hide_nothing_else(sample: DataSplit, labels: int) -> None:
    split = load("mnist-sample", labels=labels)
    shown = split.train.y >= 0
    assert int(shown.sum()) == labels
    assert is_even(split.train.y)
    assert torch.equal(split.train.x, sample.train.x)
    assert torch.equal(split.train.y[shown], sample.train.y[shown])
    assert torch.equal(split.validation.y, sample.validation.y)
    assert torch.equal(split.test.y, sample.test.y)


def test_smaller_labelled_subsets_lie_within_larger_ones() -> None:
    few, many = (load("mnist-sample", labels=n).train.y >= 0 for n in (37, 400))
    assert bool((few <= many).all())


@pytest.mark.parametrize("labels", [None, 4167, 60_000])
def test_as_many_labels_as_rows_keep_all(labels: int | None) -> None:
    assert bool((load("mnist-sample", labels=labels).train.y >= 0).all())


@pytest.mark.parametrize(("validation", "rows"), [(0, 0), (0.0, 0), (1000, 1000), (0.1, 500), (np.int64(7), 7)])
def test_validation_counts_rows_or_a_fraction(validation: int | float, rows: int) -> None:
    split = load("mnist-sample", validation=validation)
    assert (len(split.validation.x), len(split.train.x)) == (rows, 5000 - rows)
    assert split.validation.x.shape[1] == 784


def test_standardised_images_use_training_rows_only(sample: DataSplit) -> None:
    split = load("mnist-sample", standardise=True)
    varies = sample.train.x.std(0, correction=0) > 0
    torch.testing.assert_close(split.train.x.mean(0), torch.zeros(784), rtol=0, atol=1e-5)
    torch.testing.assert_close(split.train.x.std(0, correction=0), varies.float(), rtol=0, atol=1e-4)
    assert split.offset is not None
    assert split.scale is not None
    torch.testing.assert_close(split.test.x * split.scale + split.offset, sample.test.x * 255, rtol=1e-4, atol=1e-3)
    assert float(load("mnist-sample", standardise=False).train.x.max()) == 1


def test_the_script_writes_equal_bytes_for_equal_arrays(tmp_path: Path) -> None:
    arrays = {"x": np.arange(24, dtype=np.uint8).reshape(6, 4), "y": np.zeros(6, np.uint8)}
    write(tmp_path / "a.npz", arrays)
    os.utime(tmp_path / "a.npz", (0, 0))
    write(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["x"], arrays["x"])


# ---- the user's own files


def test_npz_with_a_test_part_keeps_it(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).random((30, 5)), np.arange(30) % 3
    file = save(tmp_path, x=x[:20], y=y[:20], x_test=x[20:], y_test=y[20:])
    for seed in (0, 1):
        split = load(file, seed=seed, validation=5)
        np.testing.assert_array_equal(split.test.x.numpy(), x[20:].astype(np.float32))
        np.testing.assert_array_equal(split.test.y.numpy(), y[20:])
        assert rows(split.train.x) | rows(split.validation.x) == rows(torch.from_numpy(x[:20]).float())
    assert (split.classes, split.shape, len(split.train.x), len(split.validation.x)) == (3, None, 15, 5)


def test_images_are_flattened_and_their_shape_kept(tmp_path: Path) -> None:
    split = load(save(tmp_path, x=np.zeros((20, 3, 2), np.uint8), y=np.arange(20) % 2))
    assert (split.shape, split.train.x.shape[1]) == ((3, 2), 6)


def test_the_split_off_test_part_depends_on_the_seed_only(tmp_path: Path) -> None:
    file = save(tmp_path, x=vectors(100), y=np.repeat([0, 1], [80, 20]))
    first = load(file, standardise=False)
    other = load(file, validation=0.5, labels=10, standardise=False)
    assert torch.equal(first.test.x, other.test.x)
    assert rows(load(file, seed=1, standardise=False).test.x) != rows(first.test.x)
    assert counts(first.test.y).tolist() == [16, 4]
    assert counts(other.validation.y).tolist() == [32, 8]
    assert counts(other.train.y).tolist() == [5, 5]
    assert len(rows(first.train.x) | rows(first.validation.x) | rows(first.test.x)) == 100


def test_a_small_class_gives_what_it_has(tmp_path: Path) -> None:
    file = save(tmp_path, x=vectors(63), y=np.repeat([0, 1, 2], [30, 30, 3]), x_test=vectors(3), y_test=np.arange(3))
    assert counts(load(file, labels=21, validation=0).train.y).tolist() == [9, 9, 3]


def test_unlabelled_rows_all_stay_in_train(tmp_path: Path) -> None:
    y = np.full(100, -1)
    y[:40] = np.arange(40) % 2
    split = load(save(tmp_path, x=vectors(100), y=y), validation=8)
    assert [len(part.x) for part in split] == [84, 8, 8]
    assert counts(split.train.y).tolist() == [12, 12]
    assert counts(split.validation.y).tolist() == counts(split.test.y).tolist() == [4, 4]
    assert len(load(save(tmp_path, x=vectors(100), y=y), labels=10).train.labelled.x) == 10


def test_wholly_unlabelled_files_load_for_pretraining(tmp_path: Path) -> None:
    split = load(save(tmp_path, x=vectors(60)))
    assert [len(part.x) for part in split] == [40, 8, 12]
    assert (split.classes, split.class_names, int(split.train.y.max())) == (0, (), -1)
    with pytest.raises(ValueError, match="labels=5, but the file has no labels"):
        load(tmp_path / "mine.npz", labels=5)
    text(tmp_path, "a,b\n" + "1.5,2\n3,4\n" * 10)
    assert load(tmp_path / "mine.csv", label_column=None).train.x.shape == (14, 2)


@pytest.mark.parametrize(
    ("given", "names", "numbers"),
    [
        (["dog", "cat", "", "ant"], ("ant", "cat", "dog"), [2, 1, -1, 0]),
        (["10", "9", "-1", "10"], ("9", "10"), [1, 0, -1, 1]),
        (["2.0", "1.0", "nan", "2.0"], ("1", "2"), [1, 0, -1, 1]),
        (["02", "10", "", "-1.0"], ("02", "10"), [0, 1, -1, -1]),
        (["2", "2.0x", "02", " 2 "], ("02", "2", "2.0x"), [1, 2, 0, 1]),
        (["1", "", "1", "nan"], ("1",), [0, -1, 0, -1]),
        ([1.0, float("nan"), 1.0, 1.0], ("1",), [0, -1, 0, 0]),
        ([7, 3, -1, -5], ("-5", "3", "7"), [2, 1, -1, 0]),
        ([7.0, 3.0, float("nan"), 3.0], ("3", "7"), [1, 0, -1, 0]),
        ([True, False, True, False], ("0", "1"), [1, 0, 1, 0]),
        ([b"x", b"y", b"", b"x"], ("x", "y"), [0, 1, -1, 0]),
    ],
)
def test_labels_become_numbers_in_sorted_order(
    tmp_path: Path, given: list[Any], names: tuple[str, ...], numbers: list[int]
) -> None:
    x = np.arange(8.0).reshape(4, 2)
    split = load(save(tmp_path, x=x, y=given, x_test=x, y_test=given), validation=0)
    assert split.class_names == names
    assert split.train.y.tolist() == split.test.y.tolist() == numbers


def test_csv_gives_what_npz_gives(tmp_path: Path) -> None:
    x, kinds = vectors(40), np.array(["ham", "spam", ""])[np.arange(40) % 3]
    lines = [f"{a!r},{b!r},{kind},{c!r},{d!r}" for (a, b, c, d), kind in zip(x.tolist(), kinds, strict=True)]
    text(tmp_path, "\ufeffa, b,kind,c,d\n\n" + "\n".join(lines) + "\n\n")
    ours = load(str(tmp_path / "mine.csv"), label_column="kind", labels=6, progress=False)
    theirs = load(save(tmp_path, x=x, y=kinds), labels=6)
    for left, right in zip(ours, theirs, strict=True):
        assert torch.equal(left.x, right.x)
        assert torch.equal(left.y, right.y)
    assert ours.class_names == theirs.class_names == ("ham", "spam")


def test_reals_are_standardised_by_training_statistics(tmp_path: Path) -> None:
    x = vectors(60) * [1.0, 1e6, 1e-6, 0.0] + [0.0, 1e9, 0.0, 0.1]
    raw, split = (load(save(tmp_path, x=x, y=np.arange(60) % 2), standardise=flag) for flag in (False, None))
    assert split.offset is not None
    assert split.scale is not None
    train = x[np.isin(x[:, 0].astype(np.float32), raw.train.x[:, 0].numpy())]
    assert len(train) == 40
    mean, sd = train.mean(0), np.append(train.std(0)[:3], 1.0)
    np.testing.assert_allclose(split.offset.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(split.scale.numpy(), sd, rtol=1e-6)
    np.testing.assert_allclose(split.train.x.numpy(), (train - mean) / sd, rtol=1e-5, atol=1e-6)
    assert bool((split.test.x[:, 3].abs() < 1e-6).all())
    assert not torch.allclose(split.test.x.mean(0), torch.zeros(4), atol=1e-3)


@pytest.mark.parametrize(
    ("x", "scale"),
    [
        (np.full((20, 2), 255, np.uint8), 255),
        (np.full((20, 2), 9, np.uint8), 255),
        (np.tile([0, 255], (20, 1)), 255),
        (np.tile([0.0, 255.0], (20, 1)), 255),
        (np.tile([0, 1], (20, 1)).astype(np.uint8), 1),
        (np.tile([False, True], (20, 1)), 1),
        (np.tile([0.25, 1.0], (20, 1)).astype(np.float16), 1),
    ],
)
def test_pixels_and_probabilities_keep_their_zero(tmp_path: Path, x: np.ndarray, scale: int) -> None:
    split = load(save(tmp_path, x=x, y=np.arange(20) % 2))
    np.testing.assert_array_equal(split.train.x.numpy(), x[:14].astype(np.float32) / np.float32(scale))
    np.testing.assert_array_equal(load(tmp_path / "mine.npz", standardise=False).train.x, x[:14].astype(np.float32))
    assert split.scale is not None
    assert bool((split.scale == scale).all())


# ---- what is refused

GOOD = {"x": np.random.default_rng(0).random((20, 2)), "y": np.arange(20) % 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": 9}, "labels=9 is fewer than the 10 classes"),
        ({"labels": 0}, "labels must be a positive whole number, or None to keep all; found 0"),
        ({"labels": -3}, "labels must be a positive whole number"),
        ({"labels": 100.0}, r"labels must be a positive whole number.*found 100\.0"),
        ({"labels": True}, "labels must be a positive whole number.*found True"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"validation": -1}, "validation must be a number of rows or a fraction below 1, found -1"),
        ({"validation": 1.5}, r"validation must be .* found 1\.5"),
        ({"validation": float("nan")}, "validation must be .* found nan"),
        ({"validation": "some"}, "validation must be .* found 'some'"),
        ({"validation": 5000}, "validation=5000 leaves none of the 5000 rows"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load("mnist-sample", **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": np.where(np.arange(40).reshape(20, 2) == 7, np.nan, 0.5)},
            r"mine.npz: x must be finite.*nan at \[3, 1\]",
        ),
        ({"x": np.where(np.arange(40).reshape(20, 2) == 0, -np.inf, 0.5)}, "x must be finite.*-inf"),
        ({"x": np.full((20, 2), 1e300)}, r"x must be finite in float32, found 1e\+300"),
        ({"x": np.ones(20)}, r"x must be numbers of shape \(n, features\).*\(20,\)"),
        ({"x": np.ones((0, 2))}, r"x must be numbers of shape.*\(0, 2\)"),
        ({"x": np.full((20, 2), "a")}, "x must be numbers"),
        ({"x": np.ones((20, 2), complex)}, "x must be numbers"),
        ({"x": np.full((20, 2), None)}, "Object arrays cannot be loaded"),
        ({"y": np.arange(19)}, r"labels of x must be one a row, \(20,\); found \(19,\)"),
        ({"y": np.eye(20)}, r"labels of x must be one a row, \(20,\); found \(20, 20\)"),
        ({"y": np.linspace(0, 1, 20)}, "labels must be whole numbers or strings, found float64"),
        ({"y": np.arange(20).astype("M8[s]")}, "labels must be whole numbers or strings, found datetime64"),
        ({"y": np.tile([-1, 1], 10)}, "write the classes as 0 and 1"),
        ({"x_test": np.ones((3, 2))}, "x_test and y_test belong together"),
        ({"y_test": np.ones(3)}, "x_test and y_test belong together"),
        ({"x_test": np.ones((3, 5)), "y_test": np.ones(3)}, "x_test has 5 columns and x 2"),
        ({"x_test": np.ones((3, 2)), "y_test": np.ones(4)}, r"labels of x_test must be one a row, \(3,\)"),
        ({"x": np.ones((9, 2)), "y": np.arange(9) % 2}, r"too few \(labelled\) rows for a test part: 9; give 10"),
        ({"y": np.repeat([0, -1], [5, 15])}, r"too few \(labelled\) rows for a test part: 5"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    load(save(tmp_path, **GOOD))
    with pytest.raises(ValueError, match=message):
        load(save(tmp_path, **(GOOD | change)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no column 'label', found \\[\\]"),
        ("a,b\n1,2\n", "no column 'label', found \\['a', 'b'\\]: pass the label_column"),
        ("a,label\n", "too few rows"),
        ("a,label\n1,2,3\n", "line 2 has 3 cells under 2 columns"),
        ("a,label\n1,x\ntall,y\n", "line 3: could not convert string to float: 'tall'"),
        ("a,label\n,x\n", "line 2: could not convert string to float: ''"),
        ("a,a,label\n1,2,3\n", "every column needs a name of its own"),
        (",a,label\n0,2,3\n", "every column needs a name of its own"),
        ("a,label\n" + "nan,0\n1,1\n" * 10, r"x must be finite.*nan at \[0, 0\]"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"mine.csv: {message}"):
        load(text(tmp_path, content))


def test_unknown_names_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"unknown data set 'minst': give one of mnist-sample, mnist.*or a \.npz or \.csv"
    ):
        load("minst")
    (tmp_path / "mine.txt").write_text("1")
    with pytest.raises(ValueError, match=r"unknown data set .*mine\.txt.* a \.npz or \.csv file"):
        load(tmp_path / "mine.txt")
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.csv \(looked in"):
        load(tmp_path / "none.csv")
    (tmp_path / "fake.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"fake\.npz: this is no \.npz file"):
        load(tmp_path / "fake.npz")
    with pytest.raises(ValueError, match=r"no array x, found \['x_train'\]"):
        load(save(tmp_path, x_train=np.ones((20, 2))))
    whole = save(tmp_path, **GOOD).read_bytes()
    (tmp_path / "mine.npz").write_bytes(whole[:200] + b"\0" * 8 + whole[208:])
    with pytest.raises(ValueError, match=r"mine\.npz: .*CRC"):
        load(tmp_path / "mine.npz")
