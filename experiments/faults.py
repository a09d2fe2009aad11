"""What does a long run survive: kills, corrupt checkpoints, a full disk, divergence, and data larger than memory?

- kills: a process pretrains and fine-tunes, and is killed by SIGKILL at a random moment. The same command must end in
  the parameters of an uninterrupted run, bit by bit.
- steps: small runs from every kind of source are killed after every step, with the same requirement.
- ranks: one of two processes under torchrun is killed. torchrun's --max-restarts must bring the run to the same end.
- damage: checkpoints are truncated, changed, replaced and filled with code. Each must be refused, or skipped in favour
  of the checkpoint before it.
- disk: a process may write no more. The checkpoint before must be intact.
- divergence: a learning rate far too high must end in an error that names the layer, or be halved.
- memory: a file larger than the memory of a process is pretrained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.fault_injection.corrupt_checkpoints import damaged_files
from experiments.fault_injection.kill_and_resume import killed_runs
from experiments.fault_injection.kill_matrix import killed_everywhere
from experiments.fault_injection.kill_rank import killed_ranks
from experiments.fault_injection.resource_limits import diverging, full_disk, larger_than_memory
from experiments.study.command_line import option, parse
from experiments.study.options import OutOption
from experiments.study.records import as_dict, environment, launch, write_json, write_text
from experiments.study.tables import aligned


@dataclass(frozen=True)
class Config(OutOption):
    """Parts, and their sizes."""

    parts: tuple[str, ...] = option(
        ("kills", "steps", "ranks", "damage", "disk", "divergence", "memory"), "parts to try"
    )
    kills: int = option(50, "runs that are killed once each")
    stride: int = option(1, "steps from one kill to the next, in runs that are killed after every step")
    rank_kills: int = option(10, "runs of two processes in which one is killed, in pretraining and in fine-tuning each")
    damages: int = option(200, "damaged files")
    megabytes: int = option(4096, "size of the file to pretrain on")
    limit: int = option(1536, "megabytes of memory that the process may take at its peak")


PRESETS = {
    "full": Config(),
    "tiny": Config(
        parts=("kills", "damage", "disk", "divergence", "memory"),
        kills=2,
        rank_kills=1,
        damages=20,
        megabytes=150,
        limit=1024,
    ),
}

Outcome = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Try all parts, print the table, write `results.json`, and raise an error if something did not survive."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out)
    trials: dict[str, Callable[[], list[Outcome]]] = {
        "kills": lambda: [killed_runs(config.kills, out / "kills")],
        "steps": lambda: killed_everywhere(config.stride),
        "ranks": lambda: killed_ranks(config.rank_kills, out / "ranks"),
        "damage": lambda: damaged_files(config.damages, out / "damage"),
        "disk": lambda: [full_disk(out / "disk")],
        "divergence": diverging,
        "memory": lambda: [larger_than_memory(config.megabytes, config.limit, out / "memory")],
    }
    for part in config.parts:
        if part not in trials:
            raise ValueError(f"--parts {part}: known are {' '.join(trials)}")
    rows = []
    for part in config.parts:
        for row in trials[part]():
            rows.append(row)
            print(f"{row['what']}: {row['survived']} of {row['tried']}, {row['how']}", flush=True)
    content = {"config": as_dict(config), "environment": environment(), "rows": rows}
    write_json(out / "results.json", content)
    found = table(rows)
    write_text(out / "table.md", found)
    print(f"\n{found}")
    lost = [row["what"] for row in rows if row["survived"] < row["tried"]]
    if lost:
        raise ValueError(f"not all survived: {', '.join(lost)}")
    return content


def table(rows: Sequence[Outcome]) -> str:
    """Return a row a fault: how often a run survived it, and how."""
    return aligned([["what", "survived", "how"], *([row["what"], _count(row), row["how"]] for row in rows)])


def _count(row: Outcome) -> str:
    return f"{row['survived']} of {row['tried']}"


if __name__ == "__main__":
    launch(main)
