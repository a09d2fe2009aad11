"""Write a `.csv` file like a user's own: the breast masses of Wisconsin that come with scikit-learn.

Thirty real columns measured on 569 images of cell nuclei, benign or malignant. It needs scikit-learn, and no network.

    python -m experiments.data.make_table runs/breast.csv && python -m experiments.compare --data runs/breast.csv

Source: W. Wolberg, O. Mangasarian, N. Street, W. Street (1995), Breast cancer Wisconsin (diagnostic), UCI machine
learning repository, CC BY 4.0.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from experiments.study.records import launch


def main(arguments: Sequence[str] | None = None) -> Path:
    """Write the file with a header row and the label in words, and return its path."""
    from sklearn.datasets import load_breast_cancer

    parser = argparse.ArgumentParser(
        prog="python -m experiments.data.make_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="the file to write")
    path: Path = parser.parse_args(arguments).path
    table = load_breast_cancer()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*table.feature_names, "label"])
        writer.writerows([*row, table.target_names[label]] for row, label in zip(table.data, table.target, strict=True))
    print(f"wrote {path}: {len(table.data)} rows, {table.data.shape[1]} columns and the label")
    return path


if __name__ == "__main__":
    launch(main)
