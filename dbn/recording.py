"""Work that is recorded once on a GPU and then replayed, at the price of one launch instead of one a kernel."""

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

_PLAIN = 3  # runs before the recording, in which the device's libraries set themselves up
_MOST = 100  # recordings of one work, after which its tensors are taken never to stay where they are
_PARTED = 0.05  # of a tensor's change, by which a replay may part from it: rounding can turn single samples over
_ROUNDING = 1e-5


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Do it again, to the same tensors."""


def recordable(device: torch.device) -> bool:
    """Whether work on this device can be recorded."""
    return device.type == "cuda"


def record(work: Callable[[], None], generator: Generator, stream: torch.cuda.Stream | None) -> Graph:
    """A graph of what `work` does on the GPU, without doing it; `generator` draws for it, and at every replay anew."""
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    # Other threads, such as those of a loader that pins memory, may go on with what a recording forbids.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        work()
    return graph


class Replay:
    """Work that does the same to the same tensors at every call: plain at first, then recorded, and from then replayed.

    What is recorded must not depend on numbers that are read back from the device. The first replay is held to a plain
    run from the same numbers. Where recording fails, or the two part, a warning says so once, and all is done plainly.
    Where a tensor has moved since, the work is recorded anew.

    Args:
        work: reads and writes tensors that stay where they are.
        state: the tensors as they are now that one call leaves to the next, and those that it reads and uses up.
        generator: draws its samples; None for the device's own.
        device: where it runs.
    """

    def __init__(
        self,
        work: Callable[[], None],
        state: Callable[[], list[Tensor]],
        generator: Generator | None,
        device: torch.device,
    ) -> None:
        self.work, self.state, self.device = work, state, device
        self.generator = _generator_of(device) if generator is None else generator
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.graph: Graph | None = None
        self.places: list[int] = []
        self.plain, self.recordings, self.failed = _PLAIN, 0, False

    def __call__(self) -> None:
        if self.failed or self.plain:
            self.plain -= not self.failed
            self._run_aside()
            return
        places = [value.data_ptr() for value in self.state()]
        if self.graph is not None and places == self.places:
            self.graph.replay()
            return
        self.places = places
        self._record()

    def _record(self) -> None:
        """Record the work and do it once, by a first replay."""
        first, self.graph, self.recordings = not self.recordings, None, self.recordings + 1
        if self.recordings > _MOST:
            self._fail("its tensors do not stay where they are")
            return
        try:
            self.graph = record(self.work, self.generator, self.stream)
        except RuntimeError as error:
            self._fail(str(error))
            return
        if first:
            self._check(self.graph)
        else:
            self.graph.replay()

    def _check(self, graph: Graph) -> None:
        """Run plainly and by a replay from the same numbers; go on from the plain run where they part."""
        state, drawing = self.state(), self.generator.get_state()
        before = [value.detach().clone() for value in state]
        self._run_aside()
        plain = [value.detach().clone() for value in state]
        spent = self.generator.get_state()
        _put(state, before)
        self.generator.set_state(drawing)
        graph.replay()
        changed = [triple for triple in zip(before, plain, state, strict=True) if not torch.equal(*triple[:2])]
        # What has no gradient but rounding, such as a bias under batch normalisation, goes anywhere under Adam.
        if 2 * sum(_parted(*triple) for triple in changed) > len(changed):
            _put(state, plain)
            self.generator.set_state(spent)
            self.graph, self.failed = None, True
            self._warn("a replay does not do what the plain run does")

    def _fail(self, why: str) -> None:
        self.failed = True
        self._warn(why)
        self.work()

    def _run_aside(self) -> None:
        """On the stream of the recording: what autograd keeps belongs to the stream that it was made on."""
        if self.stream is None:
            self.work()
            return
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            self.work()
        main.wait_stream(self.stream)

    @staticmethod
    def _warn(why: str) -> None:
        warnings.warn(f"steps are launched kernel by kernel, since they cannot be replayed: {why}", stacklevel=2)


def _generator_of(device: torch.device) -> Generator:
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


@torch.no_grad()
def _put(state: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


def _parted(before: Tensor, plain: Tensor, replayed: Tensor) -> bool:
    """Whether what a replay left is not what a plain run left, by more than rounding explains."""
    before, plain, replayed = (value.detach().double() for value in (before, plain, replayed))
    bound = _PARTED * (plain - before).norm() + _ROUNDING * plain.norm()
    return bool((replayed - plain).norm() > bound)
