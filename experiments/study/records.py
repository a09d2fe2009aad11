"""Results: files with the configuration, the environment and every seed's number."""

import dataclasses
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

import dbn
from dbn import DivergenceError, distributed
from dbn.datasets import NAMES
from dbn.runtime.checks import choose_device

#: The folder of the repository, in which other processes are started.
ROOT = Path(__file__).parents[2]

_FORMAT = 1  # of a folder of results; raise it if finished arms can no longer be read

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_STUDENT = [
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
]


def environment(device: str = "auto") -> dict[str, Any]:
    """Collect versions, hardware, command and commit, so that a reader can repeat the run."""
    found = choose_device(device)
    return {
        "dbn": dbn.__version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "device": torch.cuda.get_device_name(found) if found.type == "cuda" else found.type,
        "commit": _commit(),
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a result atomically, on the main process alone."""
    if not distributed.is_main():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a table, on the main process alone."""
    if distributed.is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a result of `write_json`."""
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def kept(path: Path) -> dict[str, Any] | None:
    """Read a result on the main process, for all processes; None if there is none."""
    return distributed.run_on_main(lambda: read_json(path) if path.exists() else None)


def as_dict(config: Any) -> dict[str, Any]:
    """Convert a configuration to plain JSON values."""
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    assert isinstance(plain, dict)
    return plain


def claim(out: Path, config: Any, free: Sequence[str]) -> None:
    """Make `out` the folder of a configuration. The fields in `free` may differ between its runs.

    The contents of a user's own data file belong to the configuration.

    Raises:
        ValueError: if the folder holds results of another configuration.
    """
    path, ours = out / "config.json", {key: value for key, value in as_dict(config).items() if key not in free}
    if config.data not in NAMES:
        with Path(config.data).open("rb") as file:
            ours["contents"] = hashlib.file_digest(file, "sha256").hexdigest()
    ours["format"] = _FORMAT
    theirs = kept(path)
    if theirs is not None and theirs.get("format") != _FORMAT:
        raise ValueError(f"{out} holds a run of another version of this experiment: choose another --out, or delete it")
    keys = [key for key in ours if theirs is not None and theirs.get(key) != ours[key]]
    if keys:
        differing = ["contents of --data" if key == "contents" else f"--{key.replace('_', '-')}" for key in keys]
        raise ValueError(f"{out} holds a run with other {' '.join(differing)}: choose another --out, or delete it")
    write_json(path, ours)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation over seeds; the latter is NaN for one seed."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


def paired_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference of paired seeds, and the half-width of its 95 % interval by Student's t."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, spread = mean_sd(differences)
    freedom = len(differences) - 1
    if freedom < 1:
        return mean, float("nan")
    return mean, _STUDENT[min(freedom, len(_STUDENT)) - 1] * spread / len(differences) ** 0.5


def launch(main: Callable[[], object]) -> None:
    """Run an experiment from the command line, on one process or as one of torchrun's.

    A wrong input ends it with one line.
    """
    try:
        with distributed.start():
            main()
    except (ValueError, TypeError, OSError, DivergenceError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command goes on from the finished parts") from None


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _commit() -> str:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
