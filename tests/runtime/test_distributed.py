"""Several processes do as one: what they exchange, and share out."""

import pytest
import torch

from dbn import (
    distributed,
)
from tests.support.oracles import generator


def test_a_single_process_exchanges_nothing():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.local_range(7) == (0, 7, 1.0)
    assert distributed.local_rows([1, 2]) == ([1, 2], 1.0)
    value = torch.ones(2)
    assert distributed.all_reduce_sum(value) is value
    assert distributed.weighted_means(1.0, value)[0] is value
    assert distributed.scale_loss_for_ddp(value, 1.0) is value
    assert distributed.all_gather_rows(value) is value
    assert distributed.all_gather_object("a") == ["a"]
    assert distributed.map_over_ranks(str, [1, 2]) == ["1", "2"]
    draw_from = generator()
    assert distributed.generators(draw_from, value.device) == (draw_from, draw_from)
    assert distributed.generators(None, value.device) == (None, None)
    with distributed.start():
        assert distributed.world_size() == 1


def portions(count):
    return distributed.local_range(count), distributed.local_rows(list(range(count)))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 100])
def test_each_item_belongs_to_exactly_one_process(three, count):
    found = three(portions, count)
    assert [i for (first, last, _), _ in found for i in range(first, last)] == list(range(count))
    sizes = [last - first for (first, last, _), _ in found]
    assert max(sizes) - min(sizes) <= 1
    assert sum(share for _, (_, share) in found) == pytest.approx(1.0 if count else 0.0)
    assert all(len(part) == max(size, min(count, 1)) for size, (_, (part, _)) in zip(sizes, found, strict=True))


def exchanged():
    own = torch.full((2, 2), float(distributed.rank()))
    with distributed.single_process():
        alone = distributed.world_size()
    return {
        "sum": distributed.all_reduce_sum(own.clone()),
        "means": distributed.weighted_means(0.5, own[0], own[:, :1]),
        "sums": distributed.all_reduce_scalars(1.0, float(distributed.rank())),
        "largest": distributed.all_reduce_max(3 - distributed.rank(), distributed.rank()),
        "agreed": distributed.first_non_empty("" if distributed.is_main() else "no"),
        "nothing": distributed.first_non_empty(""),
        "numbers": distributed.broadcast_scalars({"a": 0.1 + distributed.rank()}),
        "rows": distributed.all_gather_rows(own[: 1 + distributed.rank()]),
        "spread": distributed.map_over_ranks(lambda item: (item, distributed.world_size()), [5, 6, 7]),
        "alone": alone,
        "seed": distributed.local_seed(5),
    }


def test_collectives_return_the_same_on_both_processes(two):
    ours, theirs = two(exchanged)
    assert (ours.pop("seed"), theirs.pop("seed") != 5) == (5, True)
    assert torch.equal(ours["sum"], torch.ones(2, 2))
    assert [value.tolist() for value in ours["means"]] == [[0.5, 0.5], [[0.5], [0.5]]]
    assert ours["rows"].tolist() == [[0, 0], [1, 1], [1, 1]]
    for name in ("sum", "rows"):
        assert torch.equal(ours.pop(name), theirs.pop(name))
    assert ours.pop("means")[0].tolist() == theirs.pop("means")[0].tolist()
    assert ours == theirs == {
        "sums": [2.0, 1.0], "largest": (3, 1), "agreed": "no", "nothing": "", "numbers": {"a": 0.1},
        "spread": [(5, 1), (6, 1), (7, 1)], "alone": 1,
    }  # fmt: skip


def work_of_two(item):
    if item == 6:
        raise ArithmeticError("six")
    return item


def spreading():
    with pytest.raises(ArithmeticError, match="six"):
        distributed.map_over_ranks(work_of_two, [5, 6, 7])
    return distributed.rank()


def test_an_error_in_one_process_s_work_is_raised_on_all(two):
    assert two(spreading) == [0, 1]


def failing():
    with pytest.raises(OSError, match="full"):
        distributed.run_on_main(full)
    return distributed.run_on_main(distributed.rank)


def full():
    raise OSError("the disk is full")


def test_an_error_of_the_main_process_is_raised_on_all(two):
    assert two(failing) == [0, 0]


def drawn(seed):
    shared, local = distributed.generators(
        None if seed is None else generator(seed + distributed.rank()), torch.device("cpu")
    )
    drawn = torch.randperm(9, generator=shared)
    later = [distributed.generators(shared, shared.device, advance=True).local for _ in range(2)]
    return drawn, *(torch.rand(9, generator=each) for each in (local, *later))


@pytest.mark.parametrize("seed", [None, 4])
def test_order_is_drawn_alike_and_samples_are_not(two, seed):
    (order, *ours), (same_order, *theirs) = two(drawn, seed)
    assert torch.equal(order, same_order)
    samples = [*ours, *theirs]
    assert not any(torch.equal(a, b) for i, a in enumerate(samples) for b in samples[:i])


def parting():
    values = [torch.zeros(3), torch.full((2,), float(distributed.rank()))]
    distributed.check_replicated(values[:1], "the RBM")
    distributed.check_replicated(values, "the RBM")


def test_processes_that_part_are_found_out(two):
    with pytest.raises(RuntimeError, match="the RBM is no longer the same on all 2 processes"):
        two(parting)
