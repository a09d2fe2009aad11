"""Laws of the named data sets: where their files are looked for, how they are read, and what is said without them."""

import bz2
import os
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from dbn import datasets
from dbn.datasets import DownloadError, data_folder, load
from tests.support.splits import counts, rows

# ---- sets by way of torchvision


def write_idx(folder: Path, prefix: str, x: np.ndarray, y: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">iiii", 0x803, *x.shape)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + x.astype(np.uint8).tobytes())
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
        struct.pack(">ii", 0x801, len(y)) + y.astype(np.uint8).tobytes()
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise URLError("no route to host")

    pytest.importorskip("torchvision.datasets", exc_type=ImportError)
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    monkeypatch.setattr("torchvision.datasets.usps.download_url", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_files_already_there_need_no_network(tmp_path: Path, name: str, folder: str) -> None:
    x = np.random.default_rng(0).integers(0, 256, (80, 28, 28))
    write_idx(tmp_path / folder / "raw", "train", x[:60], np.arange(60) % 10)
    write_idx(tmp_path / folder / "raw", "t10k", x[60:], np.arange(20) % 10)
    split = load(name, root=tmp_path)
    assert [len(part.x) for part in split] == [50, 10, 20]
    np.testing.assert_array_equal(split.test.x.numpy(), (x[60:].reshape(20, 784) / 255).astype(np.float32))
    assert (split.classes, len(split.class_names), split.shape) == (10, 10, (28, 28))


@pytest.mark.usefixtures("no_network")
def test_letters_stand_upright_and_count_from_0(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (52, 28, 28)), np.arange(52) % 26 + 1
    write_idx(tmp_path / "EMNIST" / "raw", "emnist-letters-train", x, y)
    write_idx(tmp_path / "EMNIST" / "raw", "emnist-letters-test", x, y)
    split = load("emnist-letters", root=tmp_path)
    np.testing.assert_array_equal(split.test.y.numpy(), y - 1)
    np.testing.assert_array_equal((split.test.x * 255).round().reshape(52, 28, 28), x.transpose(0, 2, 1))
    assert (split.classes, split.class_names[25]) == (26, "z")


@pytest.mark.usefixtures("no_network")
def test_usps_is_scaled_like_the_others(tmp_path: Path) -> None:
    for file in ("usps.bz2", "usps.t.bz2"):
        lines = [f"{k % 10 + 1} " + " ".join(f"{i + 1}:{(-1, 1)[(i + k) % 2]}" for i in range(256)) for k in range(20)]
        (tmp_path / file).write_bytes(bz2.compress("\n".join(lines).encode()))
    split = load("usps", root=tmp_path, validation=0)
    assert split.shape == (16, 16)
    assert split.train.x.unique().tolist() == [0, 1]
    assert split.test.y.tolist() == list(range(10)) * 2


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte"),
        ("fashion-mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("emnist-letters", "EMNIST/raw/emnist-letters-test-labels-idx1-ubyte"),
        ("usps", r"usps\.t\.bz2"),
    ],
)
def test_offline_the_error_says_what_to_put_where(tmp_path: Path, name: str, file: str, progress: bool) -> None:
    before = socket.getdefaulttimeout()
    with pytest.raises(
        DownloadError, match=f"(?s)'{name}' is not in .*data .*no route.*{file}.*'mnist-sample'"
    ) as caught:
        load(name, root=tmp_path / "data", progress=progress)
    assert str(tmp_path / "data") in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert socket.getdefaulttimeout() == before


@pytest.mark.usefixtures("no_network")
def test_damaged_files_are_named(tmp_path: Path) -> None:
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw", prefix, np.zeros((20, 28, 28)), np.arange(20) % 10)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + bytes(100))
    with pytest.raises(ValueError, match=r"'mnist' in .* is damaged .* delete MNIST/raw/train-images-idx3-ubyte"):
        load("mnist", root=tmp_path)


def test_one_process_downloads_and_the_others_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist = pytest.importorskip("torchvision.datasets.mnist", exc_type=ImportError)
    downloads, x = [], np.random.default_rng(0).integers(0, 256, (20, 28, 28))

    def download(url: str, download_root: str, filename: str, **options: Any) -> None:
        downloads.append(filename)
        for prefix in ("train", "t10k"):  # all files are there at once, and hold nothing for a while
            write_idx(Path(download_root), prefix, x[:0], np.arange(0))
        time.sleep(0.05)
        for prefix in ("train", "t10k"):
            write_idx(Path(download_root), prefix, x, np.arange(20) % 10)

    monkeypatch.setattr(mnist, "download_and_extract_archive", download)
    with ThreadPoolExecutor(4) as pool:
        splits = list(pool.map(lambda _: load("mnist", root=tmp_path / "new", progress=True), range(4)))
    assert len(downloads) == 4, "once each of four files"
    assert all(len(split.test.x) == 20 for split in splits)
    assert "waiting for another process that holds" in capsys.readouterr().out


@pytest.mark.usefixtures("no_network")
def test_no_lock_is_used_if_the_file_system_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(lock: Any, *given: Any, **more: Any) -> None:
        raise PermissionError("read-only file system")

    (tmp_path / ".dbn.lock").touch()
    monkeypatch.setattr("dbn.datasets.named.FileLock.acquire", refuse)
    with pytest.raises(DownloadError, match="no route to host"):
        load("mnist", root=tmp_path)
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw", prefix, np.zeros((20, 28, 28)), np.arange(20) % 10)
    assert len(load("mnist", root=tmp_path).test.x) == 20


def test_without_torchvision_the_sample_still_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match=r"'mnist' needs torchvision.*use 'mnist-sample'"):
        load("mnist")
    assert len(load("mnist-sample").test.x) == 2000


def test_root_goes_before_the_environment_and_that_before_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DBN_DATA", str(tmp_path / "data"))
    assert data_folder(tmp_path / "mine") == tmp_path / "mine"
    assert data_folder("~/mine") == tmp_path / "mine"
    assert data_folder() == tmp_path / "data"
    monkeypatch.setenv("DBN_DATA", "")
    assert data_folder() == tmp_path / "cache" / "dbn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder() == tmp_path / ".cache" / "dbn"


@pytest.mark.usefixtures("no_network")
def test_load_looks_under_root_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBN_DATA", str(tmp_path / "environment"))
    with pytest.raises(DownloadError, match=r"is not in .*environment "):
        load("kmnist")
    with pytest.raises(DownloadError, match=r"is not in .*given "):
        load("kmnist", root=tmp_path / "given")


@pytest.mark.usefixtures("no_network")
def test_the_whole_of_mnist() -> None:
    if not os.environ.get("DBN_DATA"):
        pytest.skip("set DBN_DATA to the folder of MNIST to test the whole of it")
    split = load("mnist", labels=60_000)
    assert [len(part.x) for part in split] == [50_000, 10_000, 10_000]
    assert bool((split.train.y >= 0).all())
    total = counts(split.train.y) + counts(split.validation.y)
    assert total.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert bool(((counts(split.validation.y) - total / 6).abs() <= 1).all())
    assert counts(split.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    sample = load("mnist-sample", validation=0)
    assert rows(sample.train.x) <= rows(split.train.x) | rows(split.validation.x)
    assert rows(sample.test.x) <= rows(split.test.x)


def test_names_are_listed() -> None:
    assert datasets.NAMES == ("mnist-sample", "mnist", "fashion-mnist", "kmnist", "emnist-letters", "usps")
