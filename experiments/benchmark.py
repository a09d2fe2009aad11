"""How fast is the library, relative to its bare matrix products and to other libraries?

Every row times two pieces of work in turn, round by round, and reports the median and quartiles of the paired ratios. A
ratio is stable on a shared computer; seconds are not. Products are the matrix products of the work alone, at the same
shapes, into buffers that are allocated once. Training rows are the bundled digits, repeated. `likelihood` is the mean
log-likelihood in nats of 500 thresholded test digits, by AIS, after the same number of updates. The part `likelihood`
asks the reverse: how many CPU seconds does the same exact likelihood take?

On CUDA everything but the memory of a process runs there, the parts of `device_benchmark` are added, and the result is
`benchmark-cuda.json`. The file is written after every row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dbn.runtime.checks import choose_device
from experiments.benchmarking.device_benchmark import ON_GPU
from experiments.benchmarking.parts import (
    PartSizes,
    annealing,
    epoch,
    finetuning,
    growing,
    memory,
    other_libraries,
    steps,
    throughput,
)
from experiments.benchmarking.step_cost import draw
from experiments.benchmarking.time_to_likelihood import Race, race
from experiments.benchmarking.timing import Row
from experiments.study.command_line import option, parse
from experiments.study.options import DeviceOption, OutOption
from experiments.study.records import as_dict, environment, launch, write_json, write_text
from experiments.study.tables import aligned

PARTS = ("steps", "epoch", "peers", "ais", "finetuning", "throughput", "memory", "growth", "likelihood")


@dataclass(frozen=True)
class Config(PartSizes, Race, DeviceOption, OutOption):
    """Parts to measure, and their sizes."""

    parts: tuple[str, ...] | None = option(
        None, f"groups of rows to measure: {' '.join(PARTS)} by default, and on CUDA also {' '.join(ON_GPU)}"
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
        zip(
            PARTS,
            (steps, epoch, other_libraries, annealing, finetuning, throughput, memory, growing, race),
            strict=True,
        )
    )
    known |= ON_GPU
    parts = config.parts or ()
    for part in parts:
        if part not in known:
            raise SystemExit(f"--parts {part}: known are {' '.join(known)}")
    return [known[part] for part in parts]


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
