"""Parts of `benchmark` for a GPU: large stacks and steps, long AIS, a whole comparison, and repeated runs.

They also run on a CPU, at smaller sizes. Most rows have seconds of wall time instead of ratios, including the queue of
the device.
"""

import contextlib
import io
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dbn import CD, DBN, RBM, ais, datasets, finetune
from dbn.datasets.named import SOURCES
from experiments import compare
from experiments.benchmarking.other_libraries import OtherLibraryError, guarded, learnergy, nats, ours, rbms
from experiments.benchmarking.timing import Row, learning, paired, products, repeated, seconds, skipped
from experiments.study.command_line import option, parse
from experiments.study.records import mean_sd

#: What factors of matrix products are rounded to, and torch's own name for it.
PRODUCTS = {"tf32": "high", "float32": "highest"}
HINTON = "hinton_2006_pretrain_seconds"
_OUTER = 2  # products of a step of CD-1 that are outer ones, beside three forward


@dataclass(frozen=True)
class Sizes:
    """Sizes of the work, and repetitions."""

    rounds: int = option(9, "rounds of each pair")
    rows: int = option(20_000, "training rows; a hundredth as many updates")
    hinton: tuple[int, ...] = option((500, 500, 2000), "hidden layers of the stack of Hinton and Salakhutdinov (2006)")
    hinton_data: str = option("mnist", "its data; if absent, the bundled digits, repeated")
    hinton_rows: int = option(60_000, "its training rows, in batches of 100")
    hinton_epochs: int = option(50, "its epochs a layer")
    agreement_epochs: int = option(3, "epochs a layer of shorter runs on the CPU and on the device")
    agreement_seeds: int = option(5, "seeds of the shorter runs")
    large: tuple[int, ...] = option((4096, 4096, 4096), "rows a batch, visible and hidden units of large steps")
    large_batches: int = option(10, "batches of large steps a round")
    long_ais: tuple[int, ...] = option((500, 1000, 14_503), "hidden units, chains and temperatures of a long AIS")
    comparison: str = option("mnist", "preset and options of a whole comparison by experiments.compare, as one word")

    def __post_init__(self) -> None:
        for name in ("large", "long_ais"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"--{name.replace('_', '-')} has {len(getattr(self, name))} numbers: give three")


def hinton(config: Sizes, device: torch.device) -> Iterator[Row]:
    """Time a whole pretraining, measure its stack, and compare shorter runs on the CPU and on the device."""
    x, test, name = _digits(config)
    sizes = _named(config)
    _pretrained(config, x[:200], device, epochs=1, seed=0)  # warm up: loading and compiling are not counted
    for kind in PRODUCTS:
        with _matrix_products(kind):
            took, stack = _pretrained(config, x, device, epochs=config.hinton_epochs, seed=0)
        quality = _quality(stack, test)
        what = f"DBN.pretrain, {sizes}, {config.hinton_epochs} epochs a layer, {len(x)} rows of {name}, {kind}"
        key = f"{HINTON}_float32" if kind == "float32" else HINTON
        result = f"{took:.1f} s, " + ", ".join(f"{key.replace('_', ' ')} {one:.2f}" for key, one in quality.items())
        yield {"what": what, "of": "wall seconds", "key": key, "wall_seconds": took, **quality, "result": result}
    yield from _agreement(config, x, test, device)


@contextlib.contextmanager
def _matrix_products(kind: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRODUCTS[kind])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _agreement(config: Sizes, x: Tensor, test: Tensor, device: torch.device) -> Iterator[Row]:
    """Measure shorter runs of several seeds on the CPU, and on the device if it is another."""
    places: list[tuple[torch.device, str]] = [(torch.device("cpu"), "float32")]
    places += [(device, kind) for kind in PRODUCTS if device.type != "cpu"]
    for place, kind in places:
        runs = []
        for seed in range(config.agreement_seeds):
            with _matrix_products(kind):
                took, stack = _pretrained(config, x, place, epochs=config.agreement_epochs, seed=seed)
            runs.append({"wall_seconds": took, **_quality(stack, test)})
        values = {name: [run[name] for run in runs] for name in runs[0]}
        spreads = {name: mean_sd(each) for name, each in values.items()}
        result = ", ".join(f"{name.replace('_', ' ')} {mean:.3f} ± {sd:.3f}" for name, (mean, sd) in spreads.items())
        what = f"DBN.pretrain, {_named(config)}, {config.agreement_epochs} epochs a layer, {place.type}, {kind}"
        of = f"mean ± sd of {config.agreement_seeds} seeds"
        yield {"what": what, "of": of, "device": place.type, "products": kind, "result": result, **values}


def _pretrained(config: Sizes, x: Tensor, device: torch.device, *, epochs: int, seed: int) -> tuple[float, DBN]:
    """Pretrain a stack, and return the seconds and the stack."""
    stack = DBN([x.shape[1], *config.hinton], seed=seed).to(device)
    with contextlib.redirect_stderr(io.StringIO()):
        took = seconds(lambda: stack.pretrain(x, epochs=epochs, seed=seed), device)
    return took, stack


def _quality(stack: DBN, test: Tensor) -> dict[str, float]:
    """Return the squared error of reconstructed test rows, and the first layer's log-likelihood of binary rows."""
    error = (stack.reconstruct(test).cpu() - test).square().sum(1).mean()
    return {"reconstruction_error": float(error), "likelihood": nats(stack.layers[0], (test > 0.5).float())}


def rivals(config: Sizes, device: torch.device) -> Iterator[Row]:
    """Estimate the seconds of other libraries for the same updates on the same device, from one epoch, over ours."""
    x, _, _ = _digits(config)
    layers = [
        (x.to(device) if place == 0 else torch.rand(len(x), inputs, device=device), hidden)
        for place, (inputs, hidden) in enumerate(pairwise([x.shape[1], *config.hinton]))
    ]
    rounds, epochs = max(1, config.rounds // 3), config.hinton_epochs
    for name, peer in (("rbms", rbms), ("learnergy", learnergy)):
        what = f"{name}, {_named(config)}, {epochs} epochs a layer of {len(x)} rows, from one"
        pairs = []
        try:
            for rows, hidden in layers:
                theirs = guarded(guarded(partial(peer, rows, hidden))())
                shape = f"{rows.shape[1]}→{hidden}"
                pairs.append(paired(shape, "epoch of theirs / ours", theirs, ours(rows, hidden), rounds, device))
        except OtherLibraryError as error:
            yield skipped(what, error)
            continue
        both = [epochs * sum(pair["seconds"][side] for pair in pairs) for side in (0, 1)]
        ratio = both[0] / both[1]
        yield {"what": what, "of": "seconds of theirs / ours", "ratio": ratio, "seconds": both, "layers": pairs}


def large(config: Sizes, device: torch.device) -> Iterator[Row]:
    """Time large steps in TFLOP/s, over their products at the same precision."""
    batch, visible, hidden = config.large
    x = torch.rand(config.large_batches * batch, visible, device=device, generator=_generator(device))
    operations = 2 * (3 + _OUTER) * len(x) * visible * hidden
    for kind in PRODUCTS:
        with _matrix_products(kind):
            work = learning(x, RBM(visible, hidden, seed=0).to(device), CD(1), batch=batch)
            floor = products(x, hidden, batch=batch)
            what = f"CD-1, {visible}→{hidden}, {batch} rows a batch, {kind}"
            row = paired(what, "step / its products", work, floor, config.rounds, device)
        yield row | {"tflops": [operations / took / 1e12 for took in row["seconds"]]}


def long_annealing(config: Sizes, device: torch.device) -> Iterator[Row]:
    """Time AIS with the temperatures of Salakhutdinov and Murray (2008)."""
    hidden, chains, temperatures = config.long_ais
    x = repeated(datasets.load("mnist-sample").train.x, config.rows).to(device)
    rbm, found = ours(x, hidden)(), []

    def work(temperatures: int) -> None:
        found.append(ais(rbm, chains=chains, temperatures=temperatures, progress=False, seed=0))

    work(2)
    took, what = seconds(partial(work, temperatures), device), f"AIS, {x.shape[1]}→{hidden}"
    row = {"what": f"{what}, {chains} chains, {temperatures} temperatures", "of": "wall seconds", "wall_seconds": took}
    estimate = found[-1]
    result = f"{took:.1f} s, log Z {estimate.value:.2f}, {estimate.ess:.0f} effective chains"
    yield row | {"log_z": estimate.value, "ess": estimate.ess, "result": result}


def comparison(config: Sizes, device: torch.device) -> Iterator[Row]:
    """Time a whole comparison of starts, pretraining included."""
    words = shlex.split(config.comparison)
    _, chosen = parse(compare.PRESETS, "", words)
    what = f"experiments.compare {config.comparison}"
    if not _is_there(chosen.data, chosen.root):
        yield skipped(what, f"{chosen.data} is not in {datasets.data_folder(chosen.root)}")
        return
    with tempfile.TemporaryDirectory() as out:
        contents: list[dict[str, Any]] = []
        work = partial(compare.main, [*words, "--device", str(device), "--out", out])
        took = seconds(lambda: contents.append(work()), device)
    kept = ("start", "labels", "learning_rate", "head_learning_rate", "test_error", "seconds", "pretrain_seconds")
    arms = [{name: arm[name] for name in kept if name in arm} for arm in contents[0]["arms"]]
    yield {"what": what, "of": "wall seconds", "wall_seconds": took, "arms": arms, "result": f"{took:.1f} s"}


def repeat(config: Sizes, device: torch.device) -> Iterator[Row]:
    """Check that one seed gives the same bits twice, of a stack and of its fine-tuned network."""
    split = datasets.load("mnist-sample")
    rows = [repeated(part, config.rows) for part in split.train]
    for kind in PRODUCTS:
        with _matrix_products(kind):
            first, again = (_trained(config, *rows, split.classes, device) for _ in range(2))
        alike = all(map(torch.equal, first, again))
        what = f"pretraining and fine-tuning twice from one seed, {_named(config)}, {kind}"
        result = "the same bits" if alike else "other bits"
        yield {"what": what, "of": "repeats", "same_bits": alike, "result": result}


def _trained(config: Sizes, x: Tensor, y: Tensor, classes: int, device: torch.device) -> list[Tensor]:
    """Return the parameters of a stack after an epoch a layer, and of its network after one with dropout."""
    _, stack = _pretrained(config, x, device, epochs=1, seed=0)
    network = stack.to_mlp(classes, dropout=0.5, seed=0)
    finetune(network, x, y, epochs=1, progress=False, seed=0)
    return [value.detach().clone() for module in (stack, network) for value in module.parameters()]


def _digits(config: Sizes) -> tuple[Tensor, Tensor, str]:
    """Return training and validation rows, repeated to the wanted number, test rows, and the name of the data."""
    name = config.hinton_data if _is_there(config.hinton_data) else "mnist-sample"
    split = datasets.load(name)
    return repeated(torch.cat([split.train.x, split.validation.x]), config.hinton_rows), split.test.x, name


def _is_there(data: str, root: str | None = None) -> bool:
    """Whether a data set is on this computer: bundled, in the data folder, or a file."""
    files = SOURCES[data][1] if data in SOURCES else []
    return all((datasets.data_folder(root) / file).is_file() for file in files)


def _named(config: Sizes) -> str:
    return "-".join(map(str, (784, *config.hinton)))


def _generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


#: The parts by name. A run on CUDA has them by default.
ON_GPU: dict[str, Callable[[Any, torch.device], Iterable[Row]]] = {
    "hinton": hinton,
    "hinton-peers": rivals,
    "large": large,
    "long-ais": long_annealing,
    "compare": comparison,
    "repeat": repeat,
}
