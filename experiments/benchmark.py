"""How fast is the library, relative to its bare matrix products and to other libraries?

Every row times two pieces of work in turn, round by round, and reports the median and quartiles of the paired ratios. A
ratio is stable on a shared computer; seconds are not. Products are the matrix products of the work alone, at the same
shapes, into buffers that are allocated once. Training rows are the bundled digits, repeated. `likelihood` is the mean
log-likelihood in nats of 500 thresholded test digits, by AIS, after the same number of updates. The part `likelihood`
asks the reverse: how many CPU seconds does the same exact likelihood take?

On CUDA everything but the memory of a process runs there, the parts of `device_benchmark` are added, and the result is
`benchmark-cuda.json`. The file is written after every row.
"""

import contextlib
import io
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dbn import CD, DBN, PCD, RBM, Estimator, ais, datasets, evaluate, finetune, initialise
from dbn.arguments import choose_device
from experiments.benchmarking.device_benchmark import ON_GPU, Sizes
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
from experiments.benchmarking.step_cost import draw, growth
from experiments.benchmarking.time_to_likelihood import Race, race
from experiments.benchmarking.timing import Row, Work, learning, paired, products, repeated, skipped
from experiments.study.command_line import option, parse
from experiments.study.initialisations import perceptron
from experiments.study.options import DeviceOption, OutOption
from experiments.study.records import ROOT, as_dict, environment, launch, write_json, write_text
from experiments.study.tables import aligned

PARTS = ("steps", "epoch", "peers", "ais", "finetuning", "throughput", "memory", "growth", "likelihood")


@dataclass(frozen=True)
class Config(Sizes, Race, DeviceOption, OutOption):
    """Parts to measure, and their sizes."""

    parts: tuple[str, ...] | None = option(
        None, f"groups of rows to measure: {' '.join(PARTS)} by default, and on CUDA also {' '.join(ON_GPU)}"
    )
    hidden: tuple[int, ...] = option((256, 500), "sizes of the hidden layer")
    epochs: tuple[int, ...] = option((1, 10), "epochs of whole pretraining")
    batches: tuple[int, ...] = option((10, 32, 100, 320, 1024, 4096), "rows a batch, for the part growth")
    widths: tuple[int, ...] = option((64, 128, 256, 512, 1024, 2048, 4096), "hidden units, for the part growth")
    gibbs_steps: tuple[int, ...] = option((1, 2, 5, 10, 25), "k of CD-k, for the part growth")
    layers: tuple[int, ...] = option((1, 2, 3), "layers, for the part growth")
    temperatures: tuple[int, int] = option(
        (100, 1000), "temperatures of AIS beside its products, and beside other libraries"
    )


PRESETS = {
    "full": Config(),
    "tiny": Config(
        parts=(*PARTS, *ON_GPU),
        hinton=(16, 12),
        hinton_data="mnist-sample",
        hinton_rows=1000,
        hinton_epochs=1,
        agreement_epochs=1,
        agreement_seeds=2,
        large=(64, 32, 16),
        large_batches=2,
        long_ais=(16, 20, 50),
        comparison="tiny --starts xavier dbn",
        hidden=(16,),
        rounds=1,
        rows=1000,
        device="cpu",
        epochs=(1,),
        batches=(50, 100),
        widths=(8, 16),
        gibbs_steps=(1, 2),
        layers=(1,),
        temperatures=(5, 10),
        likelihood_passes=(1, 2),
        likelihood_rows=200,
        likelihood_batch=50,
        likelihood_chains=10,
        likelihood_hidden=4,
        likelihood_sites=(3, 4),
    ),
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print the table, and write `benchmark.json`, or `benchmark-cuda.json` of what ran on CUDA."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    device = choose_device(config.device)
    on_gpu = device.type == "cuda"
    config = replace(config, parts=config.parts or (*PARTS, *(ON_GPU if on_gpu else ())))
    path = Path(config.out) / ("benchmark-cuda.json" if on_gpu else "benchmark.json")
    rows: list[Row] = []
    content = {"config": as_dict(config), "environment": environment(config.device), "rows": rows}
    for group in _groups(config):
        for row in group(config, device):
            rows.append(row)
            print(f"{row['what']}: {row['of']} {_shown(row)}", flush=True)
            content |= {row["key"]: row["wall_seconds"]} if "key" in row else {}
            write_json(path, content)
    write_json(path, content)
    if any("axis" in row for row in rows):
        draw([row for row in rows if "axis" in row], path.with_name("scaling.png"))
    found = table(rows)
    write_text(path.with_suffix(".md"), found)
    print(f"\n{found}\n\nwrote {path}")
    return content


def _groups(config: Config) -> list[Callable[[Config, torch.device], Iterable[Row]]]:
    """Return the functions that measure the chosen parts."""
    known: dict[str, Callable[[Config, torch.device], Iterable[Row]]] = dict(
        zip(PARTS, (steps, epoch, peers, annealing, finetuning, throughput, memory, growing, race), strict=True)
    )
    known |= ON_GPU
    parts = config.parts or ()
    for part in parts:
        if part not in known:
            raise SystemExit(f"--parts {part}: known are {' '.join(known)}")
    return [known[part] for part in parts]


def steps(config: Config, device: torch.device) -> list[Row]:
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


def epoch(config: Config, device: torch.device) -> list[Row]:
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


def growing(config: Config, device: torch.device) -> Iterable[Row]:
    """Time training over its products for growing sizes; drawn in scaling.png."""
    grid = {
        "rows a batch": config.batches,
        "hidden units": config.widths,
        "Gibbs steps": config.gibbs_steps,
        "layers": config.layers,
    }
    return growth(_rows(config, device), grid, config.rounds)


def peers(config: Config, device: torch.device) -> list[Row]:
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


def annealing(config: Config, device: torch.device) -> Iterable[Row]:
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


def finetuning(config: Config, device: torch.device) -> list[Row]:
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


def throughput(config: Config, device: torch.device) -> list[Row]:
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


def memory(config: Config, device: torch.device) -> list[Row]:
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


def _rows(config: Config, device: torch.device) -> Tensor:
    return repeated(datasets.load("mnist-sample").train.x, config.rows).to(device)


def table(rows: Sequence[Row]) -> str:
    """Return a row a measurement: the median of its ratio, and quartiles."""
    return aligned([["what", "ratio of what", "median (quartiles)"], *([r["what"], r["of"], _shown(r)] for r in rows)])


def _shown(row: Row) -> str:
    if "reason" in row:
        return f"skipped: {row['reason']}"
    if "result" in row:
        return str(row["result"])
    spread = " ({:.2f} to {:.2f})".format(*row["quartiles"]) if "quartiles" in row else ""
    more = {
        name: row[name] for name in ("likelihood", "log_z", "test_error", "rows_per_second", "tflops") if name in row
    }
    notes = "".join(f", {name.replace('_', ' ')} {_rounded(value)}" for name, value in more.items())
    return f"{row['ratio']:.2f}{spread}{notes}"


def _rounded(value: Any) -> str:
    return " / ".join(f"{number:.1f}" for number in value) if isinstance(value, list) else f"{value:.0f}"


if __name__ == "__main__":
    launch(main)
