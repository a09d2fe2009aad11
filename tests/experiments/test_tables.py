"""What the table of a comparison says of its seeds, its test rows and its epochs."""

import numpy as np
import pytest

from experiments import compare, labels
from experiments.study.config import shares_test_rows
from experiments.study.tables import table

pytest.importorskip("matplotlib", reason="the experiments draw: pip install 'dbn[plots]'")


def test_test_rows_that_a_file_brings_are_shared_by_all_seeds_however_they_are_scaled(tmp_path):
    x = 3 * np.random.default_rng(0).normal(size=(120, 4)) + 10
    y = (x[:, 0] > 10).astype(int)
    np.savez(tmp_path / "own.npz", x=x[:80], y=y[:80], x_test=x[80:], y_test=y[80:])
    starts = ["--starts", "xavier", "dbn", "--labels", "40", "--hidden", "6"]
    compare.main(["tiny", "--data", str(tmp_path / "own.npz"), "--out", str(tmp_path / "out"), *starts])
    assert "which all share one test set" in (tmp_path / "out" / "table.md").read_text()
    assert shares_test_rows(labels.Config(data=str(tmp_path / "own.npz"), seeds=3))
    np.savez(tmp_path / "drawn.npz", x=x, y=y)
    assert not shares_test_rows(labels.Config(data=str(tmp_path / "drawn.npz"), seeds=3))


def arm(start, curves):
    best = [min(curve) for curve in curves]
    return {
        **{"start": start, "activation": "relu", "labels": 10, "learning_rate": 1e-3, "head_learning_rate": 1e-3},
        **{"test_error": best, "validation_error": best, "validation_curves": curves, "seconds": [1.0] * len(curves)},
    }


def test_epochs_are_counted_to_the_error_that_the_table_names():
    rows = [arm("He", [[3.0, 1.58, 1.55]] * 3)]
    for target, words in ((None, "| epochs to 1.55 % "), (1.55, "| epochs to 1.55 % "), (0.25, "| epochs to 0.25 % ")):
        assert words in table(rows, 10, target)
    assert "| 3  " in table(rows, 10, None)


def test_of_an_even_number_of_seeds_the_later_epoch_in_the_middle_counts():
    assert "| 3  " in table([arm("He", [[1.0, 1, 1], [2, 2, 1.0]])], 10, 1.0)
