"""CUDA graphs: a step is captured once and then replayed, with a few launches instead of one per kernel."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

_WARMUP_STEPS = 3  # in which the device's libraries set themselves up
_MAX_CAPTURES = 100  # after which the tensors are assumed to move at every step
_TOLERANCE = 0.05  # of a tensor's change, by which a replay may differ: rounding can flip single samples
_ROUNDING = 1e-5

#: Unused streams of each device. Two live graphs must not share one, since torch frees a stream's workspace when one of
#: its graphs is deleted; and every new stream allocates a workspace.
_free_streams: dict[torch.device, list[Any]] = {}


class Graph(Protocol):
    """What was captured."""

    def replay(self) -> None:
        """Run it again, on the same tensors."""


def can_capture(device: torch.device) -> bool:
    """Whether steps on this device can be captured."""
    return device.type == "cuda"


def declares_capturable(part: Any) -> bool:
    """Whether the class of a part declares itself `capturable`; what it inherits does not count."""
    return "capturable" in vars(type(part)) and bool(part.capturable)


def capture(step: Callable[[], None], generator: Generator, stream: Any) -> Graph:
    """Capture what `step` launches, without running it; `generator` draws for it, anew at every replay."""
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):  # restored however this ends
        graph = torch.cuda.CUDAGraph()
        if torch.__version__ < "2.14":  # since then every generator that is met while capturing is registered
            graph.register_generator_state(generator)
        # Other threads, such as those of a loader that pins memory, may do what a capture forbids.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    return graph


class GraphedStep:
    """A step that runs eagerly three times, is captured as a CUDA graph, and is then replayed.

    The step must depend neither on numbers that are read back from the device nor on plain numbers that change. The
    first replay is compared with an eager run from the same numbers. If capturing fails or the two differ, a warning
    says so once and all steps run eagerly. If a tensor has moved since, the step is captured again.

    Args:
        step: reads and writes tensors that stay at the same addresses.
        tensors: returns the tensors that one call leaves to the next, and those that it reads and overwrites.
        generator: draws its samples; None for the device's default one.
        device: where it runs.
    """

    def __init__(
        self,
        step: Callable[[], None],
        tensors: Callable[[], list[Tensor]],
        generator: Generator | None,
        device: torch.device,
    ) -> None:
        self.step, self.tensors, self.device = step, tensors, device
        self.generator = _generator_of(device) if generator is None else generator
        self.stream = _stream_of(device)
        self.graph: Graph | None = None
        self.addresses: list[int] = []
        self.warmup, self.captures, self.compared, self.failed = _WARMUP_STEPS, 0, False, False
        #: Whether the step is being captured, and not run.
        self.capturing = False

    def __call__(self) -> None:
        if self.failed or self.warmup:
            self.warmup -= not self.failed
            self._run_eagerly()
            return
        addresses = self._addresses()
        if self.graph is None or addresses != self.addresses:
            self.addresses = addresses
            self._capture()
        else:
            self.graph.replay()

    def invalidate(self) -> None:
        """Capture again at the next call: a plain number that was captured may have changed."""
        if self.graph is not None:
            self.graph, self.captures = None, self.captures - 1

    def stop(self) -> None:
        """Run eagerly from now on: the step may now do what cannot be captured."""
        self.graph, self.failed = None, True

    def close(self) -> None:
        """Free the graph and its memory; there are no more calls."""
        self.invalidate()
        self.step, self.tensors = _nothing, list
        if self.stream is not None:
            _free_streams.setdefault(self.device, []).append(self.stream)
            self.stream = None

    def _addresses(self) -> list[int]:
        return [value.data_ptr() for value in self.tensors()]

    def _capture(self) -> None:
        """Capture the step, and run it once by a first replay."""
        self.graph, self.captures = None, self.captures + 1
        reason = "its tensors move at every step" if self.captures > _MAX_CAPTURES else self._try_capture()
        if self.graph is None:
            self._fail(reason)
            self._run_eagerly()
        elif self.compared or self._addresses() != self.addresses:  # what the capture allocated has no numbers yet
            self.graph.replay()
        else:
            self._compare(self.graph)

    def _try_capture(self) -> str:
        """Capture; the reason if that fails, as text, since an error would keep its tensors alive."""
        self.capturing = True
        try:
            self.graph = capture(self.step, self.generator, self.stream)
        except RuntimeError as error:
            if self.stream is not None:
                for generator in (self.generator, _generator_of(self.device)):  # which may still be registered
                    generator.graphsafe_set_state(generator.clone_state())
            return str(error)
        finally:
            self.capturing = False
        return ""

    def _compare(self, graph: Graph) -> None:
        """Run eagerly and by a replay from the same numbers; keep the eager result if they differ."""
        tensors, random, self.compared = self.tensors(), self.generator.get_state(), True
        before = _copies(tensors)
        if before is not None:
            self._run_eagerly()
        eager = None if before is None else _copies(tensors)
        if before is None or eager is None:
            self._fail("there is no memory to compare a replay with an eager run")
            if before is None:
                self._run_eagerly()
            return
        random_after = self.generator.get_state()
        _copy_back(tensors, before)
        self.generator.set_state(random)
        graph.replay()
        reason = _difference(before, eager, tensors)
        if reason:
            _copy_back(tensors, eager)
            self.generator.set_state(random_after)
            self._fail(reason)

    def _run_eagerly(self) -> None:
        """Run on the stream of the capture: what autograd keeps belongs to the stream that it was made on."""
        if self.stream is None:
            self.step()
            return
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            self.step()
        main.wait_stream(self.stream)

    def _fail(self, reason: str) -> None:
        self.stop()
        warnings.warn(f"steps run without CUDA graphs, since they cannot be replayed: {reason}", stacklevel=2)


class TrainingStep(ABC):
    """A step of training that is captured if it can be: what pretraining and fine-tuning share.

    Args:
        capturable: whether it can be captured; asked now and after every callback.
        generator: draws its samples; None for the device's default one.
        device: where it runs.
    """

    def __init__(self, capturable: Callable[[], bool], generator: Generator | None, device: torch.device) -> None:
        self._capturable, self._captured_settings = capturable, self.settings()
        self.graphed = GraphedStep(self.step_in_buffers, self.tensors, generator, device) if capturable() else None

    @abstractmethod
    def settings(self) -> Any:
        """The plain numbers and strings that a graph holds as they were."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The tensors that a step reads and writes."""

    @abstractmethod
    def step_in_buffers(self) -> None:
        """One step from the rows in the buffers."""

    def recapture_if_changed(self) -> None:
        """Capture again if a setting has changed; no more if that has become impossible."""
        if self.graphed is None:
            return
        if not self._capturable():
            self.graphed.stop()
        if self._captured_settings != (settings := self.settings()):
            self._captured_settings = settings
            self.graphed.invalidate()

    def close(self) -> None:
        """Free what a graph holds; there are no more steps."""
        if self.graphed is not None:
            self.graphed.close()


def _nothing() -> None:
    return


def _stream_of(device: torch.device) -> Any:
    if device.type != "cuda":
        return None
    free = _free_streams.get(device)
    return free.pop() if free else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def _generator_of(device: torch.device) -> Generator:
    if device.type != "cuda":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def _copies(tensors: list[Tensor]) -> list[Tensor] | None:
    """Copies of the tensors; None if there is no memory for them."""
    try:
        return [value.detach().clone() for value in tensors]
    except torch.OutOfMemoryError:
        return None


@torch.no_grad()
def _copy_back(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _difference(before: list[Tensor], eager: list[Tensor], replayed: list[Tensor]) -> str:
    """Describe how a replay differs from an eager run from the same numbers; empty if it does not."""
    changed = [triple for triple in zip(before, eager, replayed, strict=True) if not torch.equal(*triple[:2])]
    try:
        different = sum(_differs(*triple) for triple in changed)
    except torch.OutOfMemoryError:
        return "there is no memory to compare a replay with an eager run"
    # What has no gradient but rounding, such as a bias under batch normalisation, goes anywhere under Adam.
    return "a replay does not do what the eager run does" if different and 2 * different >= len(changed) else ""


def _differs(before: Tensor, eager: Tensor, replayed: Tensor) -> bool:
    """Whether a replay's result differs from an eager one by more than rounding explains."""
    before, eager, replayed = (value.detach().double() for value in (before, eager, replayed))
    bound = _TOLERANCE * (eager - before).norm() + _ROUNDING * eager.norm()
    return bool((replayed - eager).norm() > bound)
