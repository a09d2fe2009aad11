"""Several processes that work as one, under torchrun and `torch.distributed`; on one process all of it does nothing.

Every process makes the same calls with the same arguments. Batches, chains and annealing runs are split among them, so
that a batch has as many rows, a run as many steps and an estimate as many chains on any number of processes.
"""

import os
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

T = TypeVar("T")

# A process that dies is noticed by its connections; one that waits for another's long work is not dead.
_PATIENCE = timedelta(days=1)
_STRIDE = 0x9E3779B97F4A7C15  # from the seed of one process to that of the next
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_single_process: ContextVar[bool] = ContextVar("single_process", default=False)


@contextmanager
def start() -> Iterator[None]:
    """Join the processes that torchrun has started, inside the block; without torchrun, do nothing.

    Where there is a GPU for each of a machine's processes, each has its own and NCCL joins them; else Gloo does. An
    error that one process alone meets, such as a row that it alone cannot read, must end it: torchrun then ends the
    others, which else wait for it.

    Example:
        >>> with start():
        ...     rank(), world_size()
        (0, 1)
    """
    if "RANK" not in os.environ or _joined():
        yield
        return
    # Not at the top: a torch that was built for one process has no such modules.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    on_gpus = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, place, count = next(rendezvous("env://", timeout=_PATIENCE))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # After a restart torchrun's store still holds the addresses of processes that are gone. Several machines do
        # not count restarts alike.
        store = PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=place, world_size=count, timeout=_PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error, when others may wait for this process


@contextmanager
def single_process() -> Iterator[None]:
    """Work as a single process inside the block.

    Example:
        >>> with single_process():
        ...     world_size()
        1
    """
    token = _single_process.set(True)
    try:
        yield
    finally:
        _single_process.reset(token)


def world_size() -> int:
    """The number of processes that work as one."""
    return 1 if _single_process.get() or not _joined() else dist.get_world_size()


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files: rank 0."""
    return rank() == 0


def shows_progress() -> bool:
    """Whether this process shows bars: the first does, also if each works alone."""
    return not _joined() or dist.get_rank() == 0


def print0(text: str) -> None:
    """Print on the main process."""
    if is_main():
        print(text, flush=True)


class LocalRange(NamedTuple):
    """The range of items of this process, from `first` to before `last`, and its fraction of all."""

    first: int
    last: int
    fraction: float


def local_range(count: int) -> LocalRange:
    """The range of this process among `count` items; sizes differ by at most one."""
    if world_size() == 1:
        return LocalRange(0, count, 1.0)
    each, more = divmod(count, world_size())
    first = rank() * each + min(rank(), more)
    last = first + each + (rank() < more)
    return LocalRange(first, last, (last - first) / max(count, 1))


def local_rows(rows: Any) -> tuple[Any, float]:
    """This process's rows and their fraction of all.

    A process without rows gets one of fraction 0, so that all run the same collectives.
    """
    if world_size() == 1:
        return rows, 1.0
    first, last, fraction = local_range(len(rows))
    return (rows[first:last], fraction) if last > first else (rows[:1], 0.0)


def map_over_ranks(work: Callable[[T], Any], items: Sequence[T]) -> list[Any]:
    """Apply `work` to every item, each on one process, and return all results in order on all processes.

    An error on one process is raised on all.
    """
    place, count = rank(), world_size()
    own: list[Any] = []
    error: Exception | None = None
    with single_process():
        try:
            own = [work(item) for item in items[place::count]]
        except Exception as met:
            error = met
    done = all_gather_object((own, _portable(error)))
    for _, found in done:
        if found is not None:
            raise found if error is None else error
    return [done[at % count][0][at // count] for at in range(len(items))]


def all_gather_object(thing: T) -> list[T]:
    """The object of every process, by rank; its tensors keep their device."""
    if world_size() == 1:
        return [thing]
    things: list[Any] = [None] * world_size()
    dist.all_gather_object(things, thing)
    return things


def all_gather_rows(rows: Tensor, dim: int = 0) -> Tensor:
    """The rows of all processes, in one tensor on the device of `rows`."""
    if world_size() == 1:
        return rows
    return torch.cat([part.to(rows.device) for part in all_gather_object(rows.cpu())], dim)


def run_on_main(work: Callable[[], T]) -> T:
    """Run `work` on the main process and return its result on all; an error is raised on all."""
    if world_size() == 1:
        return work()
    answer: list[Any] = [None, None]
    own: Exception | None = None
    if is_main():
        try:
            answer[0] = work()
        except Exception as error:
            own, answer[1] = error, _portable(error)
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise own or answer[1]
    return answer[0]  # type: ignore[no-any-return]


def _portable(error: Exception | None) -> Exception | None:
    """The error as other processes can have it: its text, if it cannot be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def broadcast_scalars(values: Mapping[str, float]) -> dict[str, float]:
    """The main process's values of named numbers, so that all processes decide alike."""
    if world_size() == 1:
        return dict(values)
    mine = torch.tensor(list(values.values()), dtype=torch.float64, device=_exchange_device())
    dist.broadcast(mine, src=0)
    return dict(zip(values, mine.tolist(), strict=True))


def all_reduce_max(*values: int) -> tuple[int, ...]:
    """The largest of each whole number over all processes."""
    if world_size() == 1:
        return values
    mine = torch.tensor(values, dtype=torch.int64, device=_exchange_device())
    dist.all_reduce(mine, dist.ReduceOp.MAX)
    return tuple(mine.tolist())


def all_reduce_scalars(*values: float) -> list[float]:
    """The sum of each number over all processes."""
    if world_size() == 1:
        return list(values)
    total = all_reduce_sum(torch.tensor(values, dtype=torch.float64, device=_exchange_device()))
    return [float(value) for value in total]


def first_non_empty(text: str) -> str:
    """The first text of any process that is not empty."""
    if not any(all_reduce_max(len(text))):
        return ""
    return next(found for found in all_gather_object(text) if found)


def all_reduce_sum(total: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place, and return it."""
    if world_size() == 2 and total.device.type == "cpu":
        # Two that send each other all wait for one message; in Gloo's ring they would wait for two halves in turn.
        theirs, other = torch.empty_like(total), 1 - rank()
        sending = dist.isend(total, other)
        dist.recv(theirs, other)
        if sending is not None:
            sending.wait()
        return total.add_(theirs)
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def weighted_means(fraction: float, *own: Tensor) -> list[Tensor]:
    """Means over all rows of a batch, from the means over this process's fraction; one exchange for all."""
    if world_size() == 1:
        return list(own)
    flat = all_reduce_sum(torch.cat([value.flatten() for value in own]) * fraction)
    parts = torch.split(flat, [value.numel() for value in own])
    return [part.view_as(value) for part, value in zip(parts, own, strict=True)]


@torch.no_grad()
def broadcast_(values: Iterable[Tensor]) -> None:
    """Set tensors to those of the main process, in place."""
    if world_size() > 1:
        for value in values:
            dist.broadcast(value.data, src=0)


@torch.no_grad()
def check_replicated(values: Sequence[Tensor], name: str) -> None:
    """Raise a RuntimeError if tensors differ between processes."""
    if world_size() == 1:
        return
    # Sums of bits do not depend on their order, as those of numbers do on other hardware.
    sums = torch.stack([value.detach().view(_BITS[value.element_size()]).sum(dtype=torch.int64) for value in values])
    sums = sums.to(_exchange_device())
    both = torch.cat([sums, -sums])
    dist.all_reduce(both, dist.ReduceOp.MAX)
    if not torch.equal(both[: len(sums)], -both[len(sums) :]):
        raise RuntimeError(f"{name} is no longer the same on all {world_size()} processes: run it anew")


def scale_loss_for_ddp(mean: Tensor, fraction: float) -> Tensor:
    """Scale the mean loss of a fraction of the batch so that DDP's averaged gradient is that of the whole batch."""
    return mean if fraction * world_size() == 1 else mean * (fraction * world_size())


@contextmanager
def data_parallel(model: nn.Module, rows: int | None, batch_size: int) -> Iterator[nn.Module]:
    """The model in DistributedDataParallel, which averages its gradients over all processes.

    Raises:
        ValueError: if batch normalisation would meet one row on a process.
    """
    if world_size() == 1:
        yield model
        return
    from torch.nn.parallel import DistributedDataParallel

    last = batch_size if rows is None else rows % batch_size or min(batch_size, rows)
    normalised = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if normalised and min(batch_size, last) // world_size() < 2:
        raise ValueError(
            f"model has batch normalisation, and a batch of {min(batch_size, last)} rows leaves one of {world_size()} "
            "processes fewer than two: choose another batch_size"
        )
    with warnings.catch_warnings():
        # Only so may the loss leave parameters out, and gradients be added up in the same order after a restart.
        warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
        yield DistributedDataParallel(model, find_unused_parameters=True)


class Generators(NamedTuple):
    """The generators of a run: `shared` draws the order of the rows, alike on all processes, `local` the samples."""

    shared: Generator | None
    local: Generator | None


def generators(generator: Generator | None, device: torch.device, *, advance: bool = False) -> Generators:
    """The generators of a run, from that of the main process; on one process both are the given one.

    Args:
        generator: the caller's, or None for torch's global one.
        device: where to draw.
        advance: leave the caller's generator further on than it was, for runs that draw no order from it.
    """
    if world_size() == 1:
        return Generators(generator, generator)
    shared = generator or Generator(device).manual_seed(
        run_on_main(lambda: int(torch.randint(2**62, (), device="cpu")))
    )
    shared.set_state(run_on_main(shared.get_state))
    return Generators(shared, local_generator(shared if advance else shared.clone_state()))


def local_generator(shared: Generator) -> Generator:
    """A new generator of this process, different on each, from one that is alike on all."""
    seed = int(torch.randint(2**62, (), generator=shared, device=shared.device))
    return Generator(shared.device).manual_seed(local_seed(seed))


def local_seed(seed: int) -> int:
    """A seed of this process, different on each; the given one on the main process."""
    return (seed + rank() * _STRIDE) % 2**63


class Shard(NamedTuple):
    """This process's part of a tensor that is split among all processes along a dimension."""

    value: Tensor
    dim: int = 0


def gather_shards(state: Any) -> Any:
    """A nest of dictionaries and lists in which every `Shard` is replaced by the whole tensor and its dimension."""
    shards = list(_shards(state))
    if not shards:
        return state
    parts = zip(*all_gather_object([shard.value.cpu() for shard in shards]), strict=True)
    joined = iter([torch.cat(part, shard.dim) for part, shard in zip(parts, shards, strict=True)])
    return _mapped(state, lambda value: {"joined": next(joined), "dim": value.dim} if _is_shard(value) else value)


def split_shards(state: Any) -> Any:
    """Undo `gather_shards`: this process's shards, on any number of processes."""
    return _mapped(state, lambda value: _shard_of(**value) if _is_joined(value) else value)


def _shard_of(joined: Tensor, dim: int) -> Shard:
    first, last, _ = local_range(joined.shape[dim])
    return Shard(joined.narrow(dim, first, last - first).clone(), dim)


def _is_shard(value: Any) -> bool:
    return isinstance(value, Shard)


def _is_joined(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"joined", "dim"}


def _shards(value: Any) -> Iterator[Shard]:
    if isinstance(value, Shard):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _shards(part)


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """A nest with `function` applied to everything in it; what it leaves as it is, is descended into."""
    other = function(value)
    if other is not value or isinstance(value, Shard):
        return other
    if isinstance(value, dict):
        return {name: _mapped(part, function) for name, part in value.items()}
    return [_mapped(part, function) for part in value] if isinstance(value, list) else value


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _exchange_device() -> torch.device:
    """The device on which scalars are exchanged: the CPU, unless the backend is NCCL alone."""
    nccl_alone = "gloo" not in dist.get_backend_config()
    return torch.device("cuda", torch.cuda.current_device()) if nccl_alone else torch.device("cpu")
