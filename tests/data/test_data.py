"""Every kind of container is the same rows: visited once an epoch, in an order that a seed decides."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dbn.data import MappedSource, Source, open_source

ROWS = torch.arange(103 * 3, dtype=torch.float64).view(103, 3)
ARRAY = ROWS.numpy()
LABELS = torch.arange(103) // 13  # sorted by class
LIKE = torch.zeros(1, dtype=torch.float64)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Items(Dataset):
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, place):
        return ROWS[place]


def memmap(folder, values=ARRAY, dtype=np.float64):
    file = np.memmap(folder / "rows.bin", dtype=dtype, mode="w+", shape=values.shape)
    file[:] = values
    file.flush()
    return np.memmap(folder / "rows.bin", dtype=dtype, mode="r", shape=values.shape)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


IN_MEMORY = {
    "tensor": lambda folder: ROWS,
    "tensor_float32": lambda folder: ROWS.float(),
    "tensor_integers": lambda folder: ROWS.int(),
    "transposed": lambda folder: ROWS.t().contiguous().t(),
    "images": lambda folder: ROWS.view(103, 1, 3),
    "array": lambda folder: ARRAY,
    "fortran": lambda folder: np.asfortranarray(ARRAY),
    "negative_stride": lambda folder: ARRAY[::-1].copy()[::-1],
    "read_only": lambda folder: read_only(ARRAY),
    "big_endian": lambda folder: ARRAY.astype(">f8"),
    "uint16": lambda folder: ARRAY.astype(np.uint16),
    "memmap": memmap,
    "memmap_big_endian": lambda folder: memmap(folder, dtype=">f8"),
}
SHUFFLED = {
    **IN_MEMORY,
    "dataset": lambda folder: Items(),
    "labelled_dataset": lambda folder: TensorDataset(ROWS, LABELS),
}
FIXED_ORDER = {
    "stream": lambda folder: Stream(),
    "loader": lambda folder: DataLoader(Items(), batch_size=10),
    "labelled_loader": lambda folder: DataLoader(TensorDataset(ROWS, LABELS), batch_size=10),
}
EVERY = {**SHUFFLED, **FIXED_ORDER}


def source_of(kind: str, folder, **settings) -> Source:
    return open_source(EVERY[kind](folder), batch_size=10, like=LIKE, **settings)


def one_pass(source: Source, seed: int | torch.Generator):
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return [batch.x for batch in source.batches(generator)]


@pytest.mark.parametrize("kind", EVERY)
def test_an_epoch_visits_each_row_once_and_ends_in_a_short_batch(kind, tmp_path):
    before = torch.random.get_rng_state()
    source = source_of(kind, tmp_path)
    for seed in (0, 1):
        batches = one_pass(source, seed)
        assert [len(x) for x in batches] == [10] * 10 + [3]
        rows = torch.cat(batches)
        assert rows.dtype == LIKE.dtype
        assert torch.equal(rows[rows[:, 0].argsort()], ROWS)
    assert source.width == 3
    assert source.steps == (None if kind == "stream" else 11)
    assert source.rows == (None if kind == "stream" else 103)
    assert kind in FIXED_ORDER or torch.equal(torch.random.get_rng_state(), before), "the global generator was touched"


@pytest.mark.parametrize("kind", EVERY)
def test_in_order_is_the_stored_order(kind, tmp_path):
    assert torch.equal(torch.cat([batch.x for batch in source_of(kind, tmp_path).sequential()]), ROWS)


@pytest.mark.parametrize("kind", SHUFFLED)
def test_order_follows_the_seed_and_changes_from_epoch_to_epoch(kind, tmp_path):
    source, again = source_of(kind, tmp_path), source_of(kind, tmp_path)
    generator = torch.Generator().manual_seed(5)
    first, second = one_pass(source, generator), one_pass(source, generator)
    assert all(torch.equal(a, b) for a, b in zip(first, one_pass(again, 5), strict=True))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert not torch.equal(torch.cat(first), torch.cat(one_pass(source, 6)))
    assert not torch.equal(torch.cat(first), ROWS)


@pytest.mark.parametrize("kind", SHUFFLED)
def test_without_a_generator_the_order_comes_from_torchs_global_one(kind, tmp_path):
    source = source_of(kind, tmp_path)
    orders = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            orders.append(torch.cat([batch.x for batch in source.batches(None)]))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def labelled(kind, folder):
    if kind in IN_MEMORY:
        return source_of(kind, folder, labels=LABELS)
    return source_of(kind, folder)


@pytest.mark.parametrize("kind", [*IN_MEMORY, "labelled_dataset", "labelled_loader"])
def test_labels_stay_with_their_rows(kind, tmp_path):
    source = labelled(kind, tmp_path)
    for batches in (source.batches(torch.Generator().manual_seed(0)), source.sequential()):
        for x, y, _ in batches:
            assert torch.equal(y, LABELS[(x[:, 0] / 3).long()])


@pytest.mark.parametrize("kind", [*SHUFFLED])
def test_subset_of_rows_sorted_by_class_has_every_class(kind, tmp_path):
    source = source_of(kind, tmp_path)
    subset = source.representative_rows(20)
    classes = LABELS[(subset[:, 0] / 3).long()]
    assert classes.unique().tolist() == LABELS.unique().tolist()
    assert torch.equal(subset, source.representative_rows(20))
    assert LABELS[: len(subset)].unique().tolist() != LABELS.unique().tolist(), "the first rows are the broken variant"


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize(("count", "found"), [(1, 1), (20, 20), (103, 103), (500, 103)])
def test_subset_has_distinct_rows_and_as_many_as_there_are(kind, count, found, tmp_path):
    subset = source_of(kind, tmp_path).representative_rows(count)
    assert len(subset) == len(subset.unique(dim=0)) == found
    assert subset.dtype == LIKE.dtype


@pytest.mark.parametrize("kind", [*SHUFFLED, "stream"])
def test_another_batch_size_leaves_the_rows(kind, tmp_path):
    source = source_of(kind, tmp_path)
    mapped = MappedSource(source, lambda x: 2 * x, 3)
    for other, factor in ((source.with_batch_size(40), 1), (mapped.with_batch_size(40), 2)):
        batches = one_pass(other, 0)
        assert [len(x) for x in batches] == [40, 40, 23]
        assert torch.equal(torch.cat(batches).sort(0).values, factor * ROWS)
    assert len(one_pass(source, 0)) == 11, "the first source must stay as it was"


def test_a_mapped_source_maps_every_view_and_keeps_labels():
    source = open_source(ROWS, LABELS, batch_size=10, like=LIKE)
    mapped = MappedSource(source, lambda x: x[:, :2] + 1, 2)
    assert torch.equal(torch.cat([batch.x for batch in mapped.sequential()]), ROWS[:, :2] + 1)
    assert torch.equal(mapped.representative_rows(7), source.representative_rows(7)[:, :2] + 1)
    for x, y, _ in mapped.batches(torch.Generator().manual_seed(0)):
        assert torch.equal(y, LABELS[((x[:, 0] - 1) / 3).long()])
    assert (mapped.steps, mapped.rows, mapped.width) == (source.steps, 103, 2)


@pytest.mark.parametrize("kind", ["images", "memmap"])
def test_shape_is_kept_without_flatten(kind, tmp_path):
    data = {"images": ROWS.view(103, 1, 3), "memmap": memmap(tmp_path, ARRAY.reshape(103, 1, 3))}[kind]
    source = open_source(data, batch_size=10, like=LIKE, flatten=False)
    assert next(source.sequential()).x.shape == (10, 1, 3)
    assert open_source(data, batch_size=10, like=LIKE).width == 3


class Once(IterableDataset):
    """A stream that can be passed over only once."""

    def __init__(self):
        self.rows = iter(ROWS)

    def __iter__(self):
        return self.rows


def bad_check(rows, name):
    if rows.max() > 100:
        raise ValueError(f"{name} is too large")


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ([[1.0, 2.0]], TypeError, "rows is a list"),
        (None, TypeError, "rows is a NoneType"),
        (torch.zeros(3), ValueError, "rows has shape"),
        (torch.zeros(0, 3), ValueError, "rows is empty"),
        (torch.zeros(3, 0), ValueError, "rows is empty"),
        (np.array(3.0), ValueError, "rows has shape"),
        (np.array([["a", "b"]]), TypeError, "rows is an array of dtype"),
        (torch.zeros(2, 3, dtype=torch.complex64), TypeError, "rows is a"),
        (torch.zeros(2, 3).to_sparse(), TypeError, "rows is a"),
        (torch.tensor([[1.0, torch.nan]]), ValueError, "rows has NaN or infinite values in 1 of 1"),
        (ROWS, ValueError, "rows is too large"),
        (TensorDataset(ROWS[:0]), ValueError, "rows is empty"),
        (TensorDataset(ROWS), ValueError, "rows is too large"),
        (DataLoader(TensorDataset(ROWS[:0])), ValueError, "rows yields no batches"),
    ],
)
def test_what_is_no_data_is_refused_by_name(data, error, words):
    with pytest.raises(error, match=words):
        for _ in open_source(data, batch_size=10, like=LIKE, check=bad_check, name="rows").sequential():
            pass


def test_a_stream_that_ends_for_good_is_refused_instead_of_training_on_nothing():
    source = open_source(Once(), batch_size=200, like=LIKE, name="rows")
    with pytest.raises(ValueError, match="rows yields no batches"):
        list(source.batches(None))


@pytest.mark.parametrize("kind", ["dataset", "loader"])
def test_labels_beside_what_brings_its_own_are_refused(kind, tmp_path):
    with pytest.raises(TypeError, match="labels"):
        source_of(kind, tmp_path, labels=LABELS)
