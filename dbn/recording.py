"""Work that is recorded once on a GPU and then replayed, at the price of a few launches instead of one a kernel."""

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

_PLAIN = 3  # runs before the recording, in which the device's libraries set themselves up
_MOST = 100  # recordings of one work, after which its tensors are taken never to stay where they are
_PARTED = 0.05  # of a tensor's change, by which a replay may part from it: rounding can turn single samples over
_ROUNDING = 1e-5

#: Streams of each device that no work records on now. Two graphs that live must not share one, since torch frees what
#: the products of a stream write to when a graph of it goes; and every new stream takes room of its own for that.
_free: dict[torch.device, list[Any]] = {}


class Graph(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Do it again, to the same tensors."""


def recordable(device: torch.device) -> bool:
    """Whether work on this device can be recorded."""
    return device.type == "cuda"


def declared(part: Any) -> bool:
    """Whether the class of a part itself, and not one that it derives from, says that its work can be recorded."""
    return "replayable" in vars(type(part)) and bool(part.replayable)


def record(work: Callable[[], None], generator: Generator, stream: Any) -> Graph:
    """A graph of what `work` does on the GPU, without doing it; `generator` draws for it, and at every replay anew."""
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):  # put back as they were, however this ends
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # since then every generator that is met while recording is taken in
            graph.register_generator_state(generator)
        # Other threads, such as those of a loader that pins memory, may go on with what a recording forbids.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work()
    return graph


class Replay:
    """Work that does the same to the same tensors at every call: plain at first, then recorded, and from then replayed.

    What is recorded must depend neither on numbers that are read back from the device nor on plain numbers that change.
    The first replay is held to a plain run from the same numbers. Where recording fails, or the two part, a warning
    says so once, and all is done plainly. Where a tensor has moved since, the work is recorded anew.

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
        self.stream = _stream_of(device)
        self.graph: Graph | None = None
        self.places: list[int] = []
        self.plain, self.recordings, self.checked, self.failed = _PLAIN, 0, False, False
        #: Whether the work is being recorded, and not done.
        self.recording = False

    def __call__(self) -> None:
        if self.failed or self.plain:
            self.plain -= not self.failed
            self._run_aside()
            return
        places = self._places()
        if self.graph is None or places != self.places:
            self.places = places
            self._record()
        else:
            self.graph.replay()

    def forget(self) -> None:
        """Record anew at the next call: something that was recorded as a plain number may have changed."""
        if self.graph is not None:
            self.graph, self.recordings = None, self.recordings - 1

    def stop(self) -> None:
        """Do all plainly from now on: what is called may be of another kind than what was recorded."""
        self.graph, self.failed = None, True

    def close(self) -> None:
        """Give back what a graph holds, also of its memory; there are no more calls."""
        self.forget()
        self.work, self.state = _nothing, list
        if self.stream is not None:
            _free.setdefault(self.device, []).append(self.stream)
            self.stream = None

    def _places(self) -> list[int]:
        return [value.data_ptr() for value in self.state()]

    def _record(self) -> None:
        """Record the work and do it once, by a first replay."""
        self.graph, self.recordings = None, self.recordings + 1
        why = "its tensors do not stay where they are" if self.recordings > _MOST else self._tried()
        if self.graph is None:
            self._fail(why)
            self._run_aside()
        elif self.checked or self._places() != self.places:  # what was first made in the recording is not there yet
            self.graph.replay()
        else:
            self._check(self.graph)

    def _tried(self) -> str:
        """Record; or why that was not possible, in words alone, since an error would hold what it has met."""
        self.recording = True
        try:
            self.graph = record(self.work, self.generator, self.stream)
        except RuntimeError as error:
            if self.stream is not None:
                for generator in (self.generator, _generator_of(self.device)):  # which may believe to be recorded yet
                    generator.graphsafe_set_state(generator.clone_state())
            return str(error)
        finally:
            self.recording = False
        return ""

    def _check(self, graph: Graph) -> None:
        """Run plainly and by a replay from the same numbers; go on from the plain run where they part."""
        state, drawing, self.checked = self.state(), self.generator.get_state(), True
        before = _copies(state)
        if before is not None:
            self._run_aside()
        plain = None if before is None else _copies(state)
        if before is None or plain is None:
            self._fail("there is no memory to hold a replay to a plain run")
            if before is None:
                self._run_aside()
            return
        spent = self.generator.get_state()
        _put(state, before)
        self.generator.set_state(drawing)
        graph.replay()
        why = _difference(before, plain, state)
        if why:
            _put(state, plain)
            self.generator.set_state(spent)
            self._fail(why)

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

    def _fail(self, why: str) -> None:
        self.stop()
        warnings.warn(f"steps are launched kernel by kernel, since they cannot be replayed: {why}", stacklevel=2)


def _nothing() -> None:
    return


def _stream_of(device: torch.device) -> Any:
    if device.type != "cuda":
        return None
    free = _free.get(device)
    return free.pop() if free else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _generator_of(device: torch.device) -> Generator:
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def _copies(state: list[Tensor]) -> list[Tensor] | None:
    """The numbers as they are now, or None where there is no room for them."""
    try:
        return [value.detach().clone() for value in state]
    except torch.OutOfMemoryError:
        return None


@torch.no_grad()
def _put(state: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


def _difference(before: list[Tensor], plain: list[Tensor], replayed: list[Tensor]) -> str:
    """In words, how a replay has done something else than a plain run from the same numbers, or nothing."""
    changed = [triple for triple in zip(before, plain, replayed, strict=True) if not torch.equal(*triple[:2])]
    try:
        parted = sum(_parted(*triple) for triple in changed)
    except torch.OutOfMemoryError:
        return "there is no memory to hold a replay to a plain run"
    # What has no gradient but rounding, such as a bias under batch normalisation, goes anywhere under Adam.
    return "a replay does not do what the plain run does" if parted and 2 * parted >= len(changed) else ""


def _parted(before: Tensor, plain: Tensor, replayed: Tensor) -> bool:
    """Whether what a replay left is not what a plain run left, by more than rounding explains."""
    before, plain, replayed = (value.detach().double() for value in (before, plain, replayed))
    bound = _PARTED * (plain - before).norm() + _ROUNDING * plain.norm()
    return bool((replayed - plain).norm() > bound)
