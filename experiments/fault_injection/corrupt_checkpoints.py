"""Checkpoints that are truncated, changed, replaced and filled with code."""

import io
import pickle
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dbn import DBN, RBM, train
from dbn.runtime import checkpoint
from experiments.fault_injection.kill_and_resume import states_equal

RAN: list[str] = []


def explode(word: str) -> None:
    """Stand for the code of a malicious file."""
    RAN.append(word)


class Explosive:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return explode, ("boom",)


def _cut(whole: bytes, draw: random.Random) -> bytes:
    return whole[: draw.randrange(len(whole))]


def _flipped(whole: bytes, draw: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(draw.choice([1, 1, 1, 8, 100])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def _wrong(whole: bytes, draw: random.Random) -> bytes:
    kinds = [
        b"",
        b"\x89PNG\r\n\x1a\n" + draw.randbytes(500),
        b"weights: 1, 2, 3\n",
        draw.randbytes(5000),
        whole[:99] * 2,
    ]
    return draw.choice(kinds)


def _evil(whole: bytes, draw: random.Random) -> bytes:
    payload = {"format": checkpoint.FORMAT, "kind": draw.choice(["RBM", "DBN", "train"]), "state": Explosive()}
    if draw.random() < 0.5:
        return pickle.dumps(payload, protocol=draw.choice([0, 2, 4]))
    content = io.BytesIO()
    torch.save(payload, content)
    return content.getvalue()


KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut off": _cut,
    "bits flipped": _flipped,
    "another file": _wrong,
    "holding code": _evil,
}


def damaged_files(count: int, out: Path) -> list[dict[str, Any]]:
    """Count for each kind of damage the files that are refused, or skipped in favour of the one before."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    draw, rows = random.Random(0), []
    for name, damage in KINDS.items():
        outcomes = [_outcome(damage, draw, out, number % 3) for number in range(count // len(KINDS))]
        kinds = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in sorted(set(outcomes)))
        survived = outcomes.count("refused") + outcomes.count("passed over")
        rows.append({"what": f"files {name}", "survived": survived, "tried": len(outcomes), "how": kinds})
    return rows


def _outcome(damage: Callable[[bytes, random.Random], bytes], draw: random.Random, out: Path, target: int) -> str:
    """Damage the file of an RBM, a stack or a run, load it, and name the outcome."""
    RAN.clear()
    found = _loaded(damage, draw, out, target) if target < 2 else _gone_on(damage, draw, out)
    return "ran its code" if RAN else found


def _loaded(damage: Callable[[bytes, random.Random], bytes], draw: random.Random, out: Path, target: int) -> str:
    path, thing = out / "saved.pt", (RBM(20, 10, seed=0), DBN([20, 10, 5], seed=0))[target]
    thing.save(path)
    path.write_bytes(damage(path.read_bytes(), draw))
    try:
        type(thing).load(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else "refused without its name"
    return "loaded"


def _gone_on(damage: Callable[[bytes, random.Random], bytes], draw: random.Random, out: Path) -> str:
    """Resume a run whose newest file is damaged: it must end in the same bits, from the file before."""
    folder, states = out / "run", []
    shutil.rmtree(folder, ignore_errors=True)
    x = torch.rand(60, 20, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        rbm = RBM(20, 10, seed=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train(rbm, x, epochs=3, batch_size=20, checkpoint=folder, checkpoint_seconds=0, progress=False, seed=0)
        states.append(dict(rbm.state_dict()))
        newest = max(folder.iterdir())
        newest.write_bytes(damage(newest.read_bytes(), draw))
    return "passed over" if states_equal(states) and "resuming from" in str(caught[0].message) else "loaded"
