"""rbms 0.6, by its own public calls: training loop, samplers and AIS.

rbms (Béreux et al., https://github.com/DsysDML/rbms) 0.6 needs Python 3.12. Releases before 0.6 had other modules and
are not supported. Its loop writes an archive at its last update, which is included.
"""

import importlib
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from dbn import RBM

KNOWN = "0.6"
Rows = Literal["bernoulli", "categorical"]


def installed() -> str:
    """Return the installed release; the module's own `__version__` is not that of the package.

    Raises:
        ImportError: if no release is installed, or one before 0.6.
    """
    try:
        found = version("rbms")
    except PackageNotFoundError as error:
        raise ImportError(f"rbms is not installed: pip install 'rbms>={KNOWN}', on Python 3.12 or later") from error
    if tuple(map(int, found.split(".")[:2])) < tuple(map(int, KNOWN.split("."))):
        raise ImportError(f"rbms is {found}, whose modules are others: install {KNOWN} or later")
    return found


def part(module: str, name: str) -> Any:
    """Import one public name of rbms, without warnings."""
    installed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(f"rbms.{module}"), name)


class Training:
    """Training by the loop of rbms, some updates at a time, with random numbers of its own.

    Args:
        model: an RBM of rbms.
        rows: training rows, in the format of the model.
        kind: of the rows. Its data set samples binary rows anew in every batch.
        sampler: makes the sampler of the negative phase for a model.
        batch: rows an update.
        learning_rate: of plain gradient ascent.
        centred: whether the gradient is centred at each batch's means, as rbms does by default.
        seed: of all random numbers.
    """

    def __init__(
        self,
        model: Any,
        rows: Tensor,
        kind: Rows,
        sampler: Callable[[Any], Any],
        *,
        batch: int,
        learning_rate: float,
        centred: bool,
        seed: int,
    ) -> None:
        self.model, self.batch, self.centred, self.done = model, batch, centred, 0
        self.loop = part("training.pcd", "train")
        self.data = part("dataset.dataset_class", "RBMDataset")(
            rows.cpu().numpy(), np.zeros(len(rows)), np.ones(len(rows)), np.arange(len(rows)), "rows", kind, rows.device
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.sampler = sampler(model)
            self.random = torch.get_rng_state()
        model.init_grad()
        self.optimisers = [torch.optim.SGD(model.parameters(), lr=learning_rate, maximize=True)]

    def update(self, updates: int) -> None:
        """Train for some more updates."""
        with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
            torch.set_rng_state(self.random)
            self.loop(
                train_dataset=self.data,
                test_dataset=self.data,
                params=self.model,
                sampler=self.sampler,
                optimizer=self.optimisers,
                batch_size=self.batch,
                centered=self.centred,
                curr_update=self.done,
                pre_grad_update=nn.Sequential(),
                elapsed_time=0.0,
                checkpoints=np.array([]),
                num_updates=self.done + updates,
                filename=str(Path(folder) / "archive.h5"),
            )
            self.random = torch.get_rng_state()
        self.done += updates


def binary(weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> Any:
    """Make its binary RBM with copies of these parameters."""
    return part("bernoulli_bernoulli.classes", "BBRBM")(
        *(value.detach().clone() for value in (weight, visible_bias, hidden_bias))
    )


def potts(rbm: RBM, classes: int) -> Any:
    """Make its RBM of Potts and binary units with the parameters of `rbm`; its weight is (sites, classes, H)."""
    shape = (-1, classes)
    weight = rbm.weight.detach().clone().view(*shape, rbm.hidden.size)
    parts = weight, rbm.visible_bias.detach().clone().view(shape), rbm.hidden_bias.detach().clone()
    return part("potts_bernoulli.classes", "PBRBM")(*parts)


def codes(rows: Tensor, classes: int) -> Tensor:
    """Convert one-hot rows (n, sites · classes) to class numbers (n, sites), the format of its Potts RBM."""
    return rows.view(len(rows), -1, classes).argmax(-1).to(rows.dtype)


def epoch(start: tuple[Tensor, Tensor, Tensor], x: Tensor, *, batch: int, learning_rate: float) -> Any:
    """Train its binary RBM for an epoch of centred CD-1."""
    cd, model = part("sampler", "CD"), binary(*start)
    options = {"batch": batch, "learning_rate": learning_rate, "centred": True, "seed": 0}
    Training(model, x, "bernoulli", lambda model: cd(model, num_steps=1), **options).update(len(x) // batch)
    return model


def persistent(start: Tensor, steps: int) -> Callable[[Any], Any]:
    """Return a maker of its sampler of persistent chains, which start at these rows."""
    kind = part("sampler", "PCD")
    return lambda model: kind(model, model.init_chains(num_samples=len(start), start_v=start), steps)


def annealing(rbm: RBM, *, chains: int, temperatures: int) -> Callable[[], float]:
    """Return a call of its AIS for log Z of `rbm`, from its base: biases without weights."""
    estimate = part("partition_function.ais", "compute_partition_function_ais")
    model = binary(rbm.weight, rbm.visible_bias, rbm.hidden_bias)
    return torch.no_grad()(lambda: float(estimate(num_chains=chains, num_beta=temperatures, params=model)))
