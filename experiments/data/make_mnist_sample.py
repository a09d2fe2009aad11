"""Make the bundled `dbn/data/mnist_sample.npz`: 500 training and 200 test images of each digit of MNIST.

The training images are drawn from MNIST's 60,000 and the test images from its 10,000, so that nothing of the test set
is trained on. Pixels stay uint8, unaltered. The same command writes the same bytes. MNIST is by Yann LeCun, Corinna
Cortes and Christopher Burges, under CC BY-SA 3.0, and so is this sample of it.

    python -m experiments.data.make_mnist_sample --root FOLDER
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dbn import datasets

TARGET = Path(datasets.__file__).parent / "data" / "mnist_sample.npz"
NOTICE = b"A sample of MNIST (Y. LeCun, C. Cortes, C. J. C. Burges), CC BY-SA 3.0"


def draw(y: torch.Tensor, per_class: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the rows of `per_class` samples of every class, in the order of the source."""
    classes = [(y == label).nonzero()[:, 0] for label in y.unique()]
    drawn = [rows[torch.randperm(len(rows), generator=generator)[:per_class]] for rows in classes]
    return torch.cat(drawn).sort().values


def sample(root: str | None, train_per_class: int = 500, test_per_class: int = 200) -> dict[str, NDArray[np.uint8]]:
    """Return the arrays x, y, x_test, y_test of the file, uint8, images (n, 28, 28)."""
    split = datasets.load("mnist", root=root, validation=0)
    generator = torch.Generator().manual_seed(0)
    arrays = {}
    for suffix, (x, y), per_class in (("", split.train, train_per_class), ("_test", split.test, test_per_class)):
        rows = draw(y, per_class, generator)
        arrays["x" + suffix] = (x[rows] * 255).round().to(torch.uint8).reshape(-1, 28, 28).numpy()
        arrays["y" + suffix] = y[rows].to(torch.uint8).numpy()
    return arrays


def write(path: Path, arrays: dict[str, NDArray[np.uint8]]) -> None:
    """Write as `numpy.savez_compressed` does, but with fixed dates, so that equal arrays give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = NOTICE
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # zipfile would write the number of the operating system it runs on
            archive.writestr(member, stream.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", help="folder of MNIST; by default DBN_DATA or the user's cache, else downloaded")
    parser.add_argument("--out", type=Path, default=TARGET, help="the file to write")
    options = parser.parse_args(arguments)
    write(options.out, sample(options.root))
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
