"""What does a long run survive: kills, damaged files, a full disk, divergence, and data larger than memory?

Kills: a process pretrains and fine-tunes, is killed by SIGKILL at a random moment, and the same command follows; its
parameters must be those of an unbroken run, bit by bit. Steps: small runs from every kind of source are killed after
every step; parameters and history must be those of an unbroken run. Ranks: one of two processes under torchrun is
killed, and torchrun's --max-restarts must bring the run to the same end. Damage: checkpoints are cut off, flipped,
replaced and filled with code; each must be refused, or passed over for the one before it. A process may write no more;
the checkpoint before must be whole. Learning rates far too high must end in an error that names the layer, or be
halved. A file larger than the memory that a process may take is pretrained on.
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
from experiments.study.records import as_dict, environment, launch, write_json
from experiments.study.tables import aligned


@dataclass(frozen=True)
class Config(OutOption):
    """How often, and how much."""

    parts: tuple[str, ...] = option(
        ("kills", "steps", "ranks", "damage", "disk", "divergence", "memory"), "what to try"
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
    """Try all, print the table, write `results.json`, and end in an error where something did not survive."""
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
    print("\n" + aligned([["what", "survived", "how"], *([r["what"], _count(r), r["how"]] for r in rows)]))
    lost = [row["what"] for row in rows if row["survived"] < row["tried"]]
    if lost:
        raise ValueError(f"not all survived: {', '.join(lost)}")
    return content


def _count(row: Outcome) -> str:
    return f"{row['survived']} of {row['tried']}"


if __name__ == "__main__":
    launch(main)
