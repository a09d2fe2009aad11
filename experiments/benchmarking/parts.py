"""Parts of `benchmark` that run on any device: steps, pretraining, other libraries, AIS, fine-tuning and memory."""

import contextlib
import io
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dbn import CD, DBN, PCD, RBM, Estimator, ais, datasets, evaluate, finetune, initialise
from experiments.benchmarking.device_benchmark import Sizes
from experiments.benchmarking.other_libraries import (
    OTHER_LIBRARIES,
    Images,
    OtherLibraryError,
    guarded,
    nats,
    original_finetuning,
    ours,
)
from experiments.benchmarking.rbms_library import annealing as rbms_annealing
from experiments.benchmarking.step_cost import growth
from experiments.benchmarking.timing import Row, Work, learning, paired, products, repeated, skipped
from experiments.study.command_line import option
from experiments.study.initialisations import perceptron
from experiments.study.records import ROOT


@dataclass(frozen=True)
class PartSizes(Sizes):
    """Sizes of the parts."""

    hidden: tuple[int, ...] = option((256, 500), "sizes of the hidden layer")
    epochs: tuple[int, ...] = option((1, 10), "epochs of whole pretraining")
    batches: tuple[int, ...] = option((10, 32, 100, 320, 1024, 4096), "rows a batch, for the part growth")
    widths: tuple[int, ...] = option((64, 128, 256, 512, 1024, 2048, 4096), "hidden units, for the part growth")
    gibbs_steps: tuple[int, ...] = option((1, 2, 5, 10, 25), "k of CD-k, for the part growth")
    layers: tuple[int, ...] = option((1, 2, 3), "layers, for the part growth")
    temperatures: tuple[int, int] = option(
        (100, 1000), "temperatures of AIS beside its products, and beside other libraries"
    )


def steps(config: PartSizes, device: torch.device) -> list[Row]:
    """Time training steps over their products, for the default recipe, sampled visibles and PCD."""
    x = _rows(config, device)
    recipes: dict[str, Callable[[], Estimator]] = {
        "CD-1, h sampled": lambda: CD(1),
        "CD-1, h and v sampled": lambda: CD(1, sample_visible=True),
        "PCD-1": lambda: PCD(100),
    }
    rows = []
    for hidden in config.hidden:
        floor = products(x, hidden)
        for name, estimator in recipes.items():
            work = learning(x, RBM(784, hidden, seed=0).to(device), estimator())
            rows.append(paired(f"{name}, 784→{hidden}", "step / its products", work, floor, config.rounds, device))
    return rows


def epoch(config: PartSizes, device: torch.device) -> list[Row]:
    """Time `DBN.pretrain`, with bars, history and encoding, over the sum of its steps."""
    x, hidden = _rows(config, device), config.hidden[0]
    lower = learning(x, RBM(784, hidden, seed=0).to(device), CD(1))
    upper = learning(torch.rand(len(x), hidden, device=device), RBM(hidden, hidden, seed=0).to(device), CD(1))

    rows = []
    for epochs in config.epochs:

        def pretrain(epochs: int = epochs) -> None:
            with contextlib.redirect_stderr(io.StringIO()):
                DBN([784, hidden, hidden], seed=0).to(device).pretrain(x, epochs=epochs, seed=0)

        def both(epochs: int = epochs) -> None:
            for _ in range(epochs):
                lower()
                upper()

        what = f"DBN.pretrain, 784→{hidden}→{hidden}, {epochs} epochs a layer"
        rows.append(paired(what, "pretrain / its steps", pretrain, both, config.rounds, device))
    return rows


def growing(config: PartSizes, device: torch.device) -> Iterable[Row]:
    """Time training over its products for growing sizes; drawn in scaling.png."""
    grid = {
        "rows a batch": config.batches,
        "hidden units": config.widths,
        "Gibbs steps": config.gibbs_steps,
        "layers": config.layers,
    }
    return growth(_rows(config, device), grid, config.rounds)


def other_libraries(config: PartSizes, device: torch.device) -> list[Row]:
    """Time an epoch of every installed library over ours, with the same rows and updates, and compare likelihoods."""
    x, test = _rows(config, device), (datasets.load("mnist-sample").test.x[:500] > 0.5).float()
    rows = []
    for hidden in config.hidden:
        own = ours(x, hidden)
        for name, peer in OTHER_LIBRARIES.items():
            what = f"{name}, 784→{hidden}"
            try:
                theirs = guarded(guarded(partial(peer, x, hidden))())
                row = paired(what, "epoch of theirs / ours", theirs, own, config.rounds, device)
                rows.append(row | {"likelihood": [nats(fit(), test) for fit in (theirs, own)]})
            except OtherLibraryError as error:
                rows.append(skipped(what, error))
    return rows


def annealing(config: PartSizes, device: torch.device) -> Iterable[Row]:
    """Time AIS with 1000 chains, 784×500, over two products a temperature, and the AIS of rbms over ours."""
    hidden, temperatures = config.hidden[-1], config.temperatures
    rbm = ours(_rows(config, device), hidden)()
    w = rbm.weight.detach()
    v, h = torch.rand(1000, 784, device=device), torch.empty(1000, hidden, device=device)

    def floor() -> None:
        for _ in range(temperatures[0]):
            torch.mm(v, w, out=h)
            torch.mm(h, w.t(), out=v)

    def work(temperatures: int = temperatures[0]) -> float:
        return float(ais(rbm, chains=1000, temperatures=temperatures, progress=False, seed=0))

    what = f"AIS, 1000 chains, 784→{hidden}"
    yield paired(what, "AIS / its products", work, floor, config.rounds, device)
    what = f"rbms, AIS of 1000 chains and {temperatures[1]} temperatures, 784→{hidden}"
    own = partial(work, temperatures[1])
    try:
        theirs = guarded(guarded(partial(rbms_annealing, rbm, chains=1000, temperatures=temperatures[1]))())
        row = paired(what, "AIS of theirs / ours", theirs, own, max(1, config.rounds // 3), device)
        yield row | {"log_z": [theirs(), own()]}
    except OtherLibraryError as error:
        yield skipped(what, error)


def finetuning(config: PartSizes, device: torch.device) -> list[Row]:
    """Time a fine-tuning epoch of the seed net: the original script's loop over ours, and ours over its products."""
    split = datasets.load("mnist-sample")
    x, y = (repeated(part, config.rows) for part in split.train)
    sizes = [784, 256, 256, 10]
    networks = {name: initialise(perceptron(sizes, "relu"), "xavier_uniform", seed=0).to(device) for name in "ab"}
    original = original_finetuning(networks["a"], Images(x, y), device)
    held = x.to(device), y.to(device)

    def own() -> None:
        finetune(networks["b"], *held, epochs=1, progress=False, seed=0)

    errors = {}
    row = paired("seed net, fine-tuning", "epoch of the original / ours", original, own, config.rounds, device)
    for name, network in networks.items():
        errors[name] = 100 * evaluate(network, split.test.x, split.test.y).error
    floor = _perceptron_products(held[0], sizes)
    row |= {"test_error": list(errors.values())}
    return [row, paired("seed net, fine-tuning", "epoch / its products", own, floor, config.rounds, device)]


def _perceptron_products(x: Tensor, sizes: list[int]) -> Work:
    pairs = list(itertools.pairwise(sizes))
    weights = [torch.randn(i, o, device=x.device) for i, o in pairs]
    fields = [torch.randn(100, size, device=x.device) for size in sizes]

    def work() -> None:
        for rows in torch.split(x, 100):
            fields[0] = rows
            for layer, w in enumerate(weights):
                torch.mm(fields[layer], w, out=fields[layer + 1])
            for layer, w in reversed(list(enumerate(weights))):
                fields[layer].t() @ fields[layer + 1]
                if layer:
                    fields[layer + 1] @ w.t()

    return work


def throughput(config: PartSizes, device: torch.device) -> list[Row]:
    """Time encoding and sampling over their products."""
    x, hidden = _rows(config, device), config.hidden[0]
    stack = DBN([784, hidden, hidden], seed=0).to(device)
    first, second = (rbm.weight.detach() for rbm in stack.layers)

    def up() -> None:
        for rows in torch.split(x, 8192):
            rows @ first @ second

    def around() -> None:
        h = torch.rand(1000, hidden, device=device)
        for _ in range(100):
            h = h @ second.t() @ second

    encode = paired("encode, two layers", "encode / its products", lambda: stack.encode(x), up, config.rounds, device)
    sample = paired(
        "sample, 1000 rows of 100 steps",
        "sample / its products",
        lambda: stack.sample(1000, 100, seed=0),
        around,
        config.rounds,
        device,
    )
    return [
        encode | {"rows_per_second": len(x) / encode["seconds"][0]},
        sample | {"rows_per_second": 1000 / sample["seconds"][0]},
    ]


_MEMORY = """
import sys, torch
from dbn import DBN
from experiments.benchmarking.memory import forget_peak, peak_bytes
from experiments.benchmarking.other_libraries import OTHER_LIBRARIES
name, rows, hidden = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ours = lambda x, hidden: lambda: DBN([784, hidden], seed=0).pretrain(x, epochs=1, progress=False, seed=0)
fit = {"dbn": ours, **OTHER_LIBRARIES}[name]
fit(torch.rand(200, 784), hidden)()
x = torch.rand(rows, 784)
data = x.nbytes + 4 * (784 * hidden + 784 + hidden)
forget_peak()
before = peak_bytes()
fit(x, hidden)()
print((data + peak_bytes() - before) / data)
"""


def memory(config: PartSizes, device: torch.device) -> list[Row]:
    """Measure the peak memory of pretraining over data and parameters, of every library in its own process."""
    rows = []
    for name in ("dbn", *OTHER_LIBRARIES):
        command = [sys.executable, "-c", _MEMORY, name, str(3 * config.rows), str(config.hidden[0])]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        row = {"what": f"peak memory, {name}, 784→{config.hidden[0]}", "of": "peak / data and parameters"}
        if run.returncode:
            rows.append(row | {"of": "skipped", "reason": run.stderr.strip().splitlines()[-1]})
        else:
            rows.append(row | {"ratio": float(run.stdout.splitlines()[-1])})
    return rows


def _rows(config: PartSizes, device: torch.device) -> Tensor:
    return repeated(datasets.load("mnist-sample").train.x, config.rows).to(device)
