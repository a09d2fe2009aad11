"""Runs of two processes under torchrun, one of which is killed. torchrun runs this module."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from dbn import distributed
from experiments.fault_injection.kill_and_resume import equal, newest, work

_STAGES = {"pretrain": "pretraining", "finetune": "fine-tuning"}
_MODULE = "experiments.fault_injection.kill_rank"
_PATIENCE = 120  # seconds that a run may take


def killed_ranks(kills: int, out: Path) -> list[dict[str, Any]]:
    """Kill one of two processes in pretraining, and in fine-tuning, and let torchrun finish the run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    start(out / "unbroken", out / "unbroken.pt").communicate(timeout=_PATIENCE)
    unbroken, updates, draw = torch.load(out / "unbroken.pt"), _updates(out / "unbroken"), random.Random(0)
    rows = []
    for stage, name in _STAGES.items():
        same = 0
        for number in range(kills):
            folder, result = out / f"{stage}-{number}", out / f"{stage}-{number}.pt"
            run = start(folder, result)
            kill_one(run, folder / stage, draw)
            run.communicate(timeout=_PATIENCE)
            same += not run.returncode and _updates(folder) == updates and equal(unbroken, torch.load(result))
        how = f"by torchrun, to {' + '.join(map(str, updates))} updates and the bits of an unbroken run"
        rows.append({"what": f"one of two killed in {name}", "survived": same, "tried": kills, "how": how})
    return rows


def start(folder: Path, result: Path) -> "subprocess.Popen[str]":
    """Start two processes of `kill_and_resume.work` under torchrun, which restarts both if one dies."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "3", "-m", _MODULE, str(folder), str(result)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_one(run: "subprocess.Popen[str]", folder: Path, draw: random.Random) -> None:
    """Kill one process of a run, some time after the first save of this stage."""
    started = time.monotonic()
    while not list(folder.glob("*.pt")):
        if run.poll() is not None or time.monotonic() - started > _PATIENCE:
            raise RuntimeError(f"{folder} was never written to")
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.3))
    os.kill(draw.choice(_children(run.pid)), signal.SIGKILL)


def _children(process: int) -> list[int]:
    children = [line.split() for line in subprocess.check_output(["ps", "-eo", "pid,ppid"], text=True).splitlines()]
    return [int(pid) for pid, parent in children[1:] if int(parent) == process]


def _updates(folder: Path) -> list[int]:
    """Read from the last checkpoints the updates of the RBMs and of the network."""
    stack, network = (newest(folder / stage) for stage in _STAGES)
    histories = stack["stateful"]["stack"]["histories"]
    finished = [int(history[-1]["step"]) for history in histories]
    return [*finished, stack["run"]["global_step"], network["run"]["global_step"]]


if __name__ == "__main__":
    with distributed.start():
        work(Path(sys.argv[1]), Path(sys.argv[2]))
