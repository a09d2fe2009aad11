"""Other implementations of the same training, each as a function that fits one epoch.

Each gets the same rows, the same number of updates and learning rate 0.1, through its own public calls. Extra work of
its own loop, such as pseudo-likelihoods, metrics and bars, is included. Parameters are on the device of the rows. Rows
that are read one by one lie on the CPU, as in data sets, and go to the device in batches. A library that is not
installed is skipped.
"""

import contextlib
import importlib
import io
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import ToTensor

from dbn import RBM, Unit, ais, log_likelihood, train
from experiments.benchmarking import rbms_library

BATCH = 100
RATE = 0.1

Fit = Callable[[], RBM]

T = TypeVar("T")


class OtherLibraryError(Exception):
    """Another implementation is not installed, or has failed."""


def guarded(work: Callable[[], T]) -> Callable[[], T]:
    """Make work silent, and raise its errors as OtherLibraryError."""

    def quiet() -> T:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                return work()
            except Exception as error:
                raise OtherLibraryError(str(error) or type(error).__name__) from error

    return quiet


def ours(x: Tensor, hidden: int) -> Fit:
    """Fit an epoch by this library."""

    def fit() -> RBM:
        rbm = RBM(x.shape[1], hidden, seed=0).to(x.device)
        train(rbm, x, epochs=1, batch_size=BATCH, progress=False, seed=0)
        return rbm

    return fit


def nats(rbm: RBM, test: Tensor) -> float:
    """Return the mean log-likelihood of binary rows, by AIS."""
    estimate = ais(rbm, chains=100, temperatures=1000, progress=False, seed=0)
    return float(log_likelihood(rbm, test, estimate).mean())


class Images(Dataset[tuple[Tensor, int]]):
    """Grey images as torchvision's data sets return them: a PIL image and ToTensor for every row."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y, self.transform = (255 * x.cpu()).to(torch.uint8).reshape(-1, 28, 28), y.cpu(), ToTensor()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.x[place].numpy())), int(self.y[place])


def tutorial_of_tensors(x: Tensor, hidden: int) -> Fit:
    """Fit by the loop of the tutorials, over rows that are tensors."""
    return tutorial(x, hidden, DataLoader(TensorDataset(x.cpu()), batch_size=BATCH, shuffle=True))


def tutorial_of_images(x: Tensor, hidden: int) -> Fit:
    """Fit by the loop of the tutorials, over images of torchvision's data sets."""
    return tutorial(x, hidden, DataLoader(Images(x, torch.zeros(len(x))), batch_size=BATCH, shuffle=True))


def tutorial(x: Tensor, hidden: int, loader: Iterable[Any]) -> Fit:
    """Fit by the loop of the tutorials: a DataLoader, torch.bernoulli, and plain updates of the parameters."""

    @torch.no_grad()
    def fit() -> RBM:
        w, b, c = _start(x, hidden)
        for batch in loader:
            v = batch[0].view(-1, x.shape[1]).to(x.device)
            h = torch.sigmoid(v @ w + c)
            v1 = torch.sigmoid(torch.bernoulli(h) @ w.t() + b)
            h1 = torch.sigmoid(v1 @ w + c)
            w += RATE * (v.t() @ h - v1.t() @ h1) / len(v)
            b += RATE * (v - v1).mean(0)
            c += RATE * (h - h1).mean(0)
        return as_rbm(w, b, c)

    return fit


def scikit_learn(x: Tensor, hidden: int, dtype: torch.dtype) -> Fit:
    """Fit by scikit-learn's BernoulliRBM, which trains by PCD-1."""
    if x.device.type != "cpu":
        raise ValueError(f"scikit-learn computes on CPUs alone, not on {x.device.type}")
    kind = importlib.import_module("sklearn.neural_network").BernoulliRBM
    rows = x.to(dtype).numpy()

    def fit() -> RBM:
        model = kind(n_components=hidden, learning_rate=RATE, batch_size=BATCH, n_iter=1, random_state=0).fit(rows)
        parts = (model.components_.T, model.intercept_visible_, model.intercept_hidden_)
        return as_rbm(*(torch.as_tensor(part).float() for part in parts))

    return fit


def rbms(x: Tensor, hidden: int) -> Fit:
    """Fit by rbms 0.6: centred CD-1 by its own loop, with the archive that the loop writes at its end."""
    rbms_library.installed()

    def fit() -> RBM:
        model = rbms_library.epoch(_start(x, hidden), x, batch=BATCH, learning_rate=RATE)
        return as_rbm(model.weight_matrix, model.vbias, model.hbias)

    return fit


def learnergy(x: Tensor, hidden: int) -> Fit:
    """Fit by learnergy's RBM: CD-1 by autograd."""
    kind = importlib.import_module("learnergy.models.bernoulli").RBM
    rows, on_gpu = TensorDataset(x.cpu(), torch.zeros(len(x))), x.device.type == "cuda"

    def fit() -> RBM:
        model = kind(n_visible=x.shape[1], n_hidden=hidden, learning_rate=RATE, use_gpu=on_gpu)
        model.fit(rows, batch_size=BATCH, epochs=1)
        return as_rbm(model.W.detach(), model.a.detach(), model.b.detach())

    return fit


def boltzmann9(x: Tensor, hidden: int) -> Fit:
    """Fit by boltzmann9: PCD-1 by its own step."""
    kind = importlib.import_module("boltzmann9").RBM

    def fit() -> RBM:
        model = kind({"visible_blocks": {"v": x.shape[1]}, "hidden_blocks": {"h": hidden}}).to(x.device)
        for rows in DataLoader(x.cpu(), batch_size=BATCH, shuffle=True):
            model.cd_step(rows.to(x.device), lr=RATE, k=1)
        return as_rbm(model.W.detach(), model.bv.detach(), model.bh.detach())

    return fit


def original_finetuning(network: nn.Module, images: Dataset[Any], device: torch.device) -> Callable[[], None]:
    """Return an epoch of the original script's fine-tuning: Adam at 1e-3, batches of 100 from a DataLoader."""
    loader = DataLoader(images, batch_size=100, shuffle=True, drop_last=True)
    optimizer, criterion = torch.optim.Adam(network.parameters(), lr=1e-3), nn.CrossEntropyLoss()

    def work() -> None:
        network.train()
        for x, y in loader:
            optimizer.zero_grad()
            criterion(network(x.view(-1, 784).to(device)), y.to(device)).backward()
            optimizer.step()

    return work


OTHER_LIBRARIES: dict[str, Callable[[Tensor, int], Fit]] = {
    "tutorial loop, images": tutorial_of_images,
    "tutorial loop, tensors": tutorial_of_tensors,
    "scikit-learn, float64": lambda x, hidden: scikit_learn(x, hidden, torch.float64),
    "scikit-learn, float32": lambda x, hidden: scikit_learn(x, hidden, torch.float32),
    "rbms": rbms,
    "learnergy": learnergy,
    "boltzmann9": boltzmann9,
}


@torch.no_grad()
def as_rbm(weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor, visible: Unit | None = None) -> RBM:
    """Copy parameters of another library into an RBM of this one, with Bernoulli or other visible units."""
    rbm = RBM(visible or weight.shape[0], weight.shape[1], weight_scale=0.0).to(weight.device)
    rbm.weight.copy_(weight)
    rbm.visible_bias.copy_(visible_bias.flatten())
    rbm.hidden_bias.copy_(hidden_bias.flatten())
    return rbm


def _start(x: Tensor, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw initial weights and biases, on the device of the rows."""
    visible, device = x.shape[1], x.device
    weight = 0.01 * torch.randn(visible, hidden, device=device)
    return weight, torch.zeros(visible, device=device), torch.zeros(hidden, device=device)
