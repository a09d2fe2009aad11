"""The deep belief network: RBMs stacked greedily, each trained on what the ones below make of the data."""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from typing import Any, Literal, Self, Unpack

import torch
from torch import Generator, Tensor, nn

from dbn import mlp
from dbn.estimators import Estimator
from dbn.history import History, Record
from dbn.pretraining import CHUNK, StackOptions, pretrain
from dbn.rbm import RBM
from dbn.runtime.checkpoint import load, save
from dbn.runtime.checks import as_generator, as_rows, check_finite, check_precision, flag, per_layer, whole_number
from dbn.runtime.options import check_names, takes
from dbn.training import PerLayer, TrainKeywords, TrainOptions
from dbn.units import Unit, as_unit, from_config, rebuildable_config


class DBN(nn.Module):
    """A deep belief network: a stack of restricted Boltzmann machines, pretrained greedily from the bottom up.

    The top two layers are an RBM with the joint p(h_{L−1}, h_L); below it, v and h are generated downwards by
    p(h_{k−1} | h_k), the conditional of the k-th RBM.

    Source: G. Hinton, S. Osindero, Y. Teh (2006), A fast learning algorithm for deep belief nets.

    Args:
        units: the layers bottom first, at least two, each a number of Bernoulli units or units.
        weight_scale: standard deviation of the first weights.
        generator: draws the first weights.
        seed: a number to seed a generator with, instead of `generator`.

    Raises:
        TypeError, ValueError: for fewer than two layers, or layers that are no units.

    Example:
        >>> stack = DBN([16, 8, 4], seed=0)
        >>> rows = (torch.rand(100, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
        >>> histories = stack.pretrain(rows, epochs=1, progress=False, seed=0)
        >>> stack.encode(rows).shape
        torch.Size([100, 4])
    """

    #: The RBMs, bottom first.
    layers: Sequence[RBM]

    def __init__(
        self,
        units: Sequence[int | Unit],
        *,
        weight_scale: float = 0.01,
        generator: Generator | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(units, list | tuple) or len(units) < 2:
            raise ValueError(f"units is {units!r}: list at least the visible layer and one hidden layer")
        generator = as_generator(generator, seed, torch.get_default_device())
        kinds = [as_unit(unit, f"units[{place}]") for place, unit in enumerate(units)]
        self.layers = nn.ModuleList(  # type: ignore[assignment]
            RBM(low, high, weight_scale=weight_scale, generator=generator) for low, high in pairwise(kinds)
        )

    @takes(TrainOptions)
    def pretrain(
        self,
        data: Any,
        *,
        epochs: PerLayer[int] = 10,
        upward: Literal["means", "samples"] = "means",
        start: Literal["own", "transposed"] = "own",
        validation: Any = None,
        binarise: Literal["sample", "threshold"] | None = None,
        cache_bytes: int = 2**31,
        checkpoint: str | PathLike[str] | None = None,
        checkpoint_seconds: float = 60.0,
        callback: Callable[[Record], None] | None = None,
        progress: bool = True,
        generator: Generator | None = None,
        seed: int | None = None,
        **options: Unpack[TrainKeywords],
    ) -> list[History]:
        """Train the RBMs one after another, each on the hidden layer of the frozen RBMs below.

        Source: G. Hinton, S. Osindero, Y. Teh (2006), A fast learning algorithm for deep belief nets.

        Args:
            data: rows (n, V) as a tensor, NumPy array or memmap, or a Dataset or DataLoader of them; labels that come
                along are ignored. Each of several processes is given all of them.
            epochs: passes over the data, one value or a list with one per layer.
            upward: pass "means" (Hinton's recipe) or fresh "samples" of the hidden units to the next layer.
            start: "own": every RBM starts from its own parameters. "transposed": every RBM after the first starts as
                the one below, upside down: W₂ = W₁ᵀ. With this start the stack is the RBM below, its variational bound
                is tight, and training on samples by an unbiased gradient can only raise it. The layer must have the
                units of the one two below.
            validation: validation rows, for the free-energy gap of every layer.
            binarise: as for `train`, of the data, not of what is passed upwards.
            cache_bytes: encodings for the next layer are kept in memory up to this size, and computed anew for every
                batch above it. Samples, and batches of a Dataset or DataLoader, are always computed anew.
            checkpoint, checkpoint_seconds: as for `train`: the same call resumes in the layer, epoch and step where it
                was.
            callback: called with every record, which has the number of the layer, from 1, under "layer".
            progress: show a progress bar per layer.
            generator: draws everything that is drawn; it must be on the stack's device.
            seed: a number to seed a generator with, instead of `generator`.
            options: those of `train`, each as one value or as a list with one per layer. An estimator given once is
                copied for every layer. They are:
            {options}

        Returns:
            A history per layer, as `train` returns it.

        Raises:
            TypeError, ValueError: for arguments or data that do not fit, before anything is changed.
            DivergenceError: if parameters of a layer are no longer finite, or its free energy has run away.
            OSError: if `checkpoint` cannot be written; what was saved before is intact.
            torch.OutOfMemoryError: if memory runs out, with the layer, the batch size and the chains to lower.

        Example:
            >>> stack = DBN([16, 8, 4], seed=0)
            >>> histories = stack.pretrain(torch.zeros(100, 16), epochs=[1, 2], progress=False, seed=0)
            >>> [len(history) for history in histories]
            [1, 2]
        """
        check_names(DBN.pretrain, options)
        given = per_layer_options({"epochs": epochs, **options}, len(self.layers))
        return pretrain(
            self.layers,
            data,
            validation,
            StackOptions([TrainOptions(**one) for one in given], upward, start, binarise, cache_bytes),
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            callback=callback,
            progress=progress,
            generator=as_generator(generator, seed, self.layers[0].weight.device),
        )

    def encode(self, x: Any) -> Tensor:
        """The mean-field up pass: E[h | v] of each layer fed to the next, (n, V) -> (n, H of the top).

        Args:
            x: rows (n, V) as a tensor or an array.

        Raises:
            ValueError: if the width is not V, or the visible units do not take such values.

        Example:
            >>> DBN([6, 4, 2], seed=0).encode(torch.ones(3, 6)).shape
            torch.Size([3, 2])
        """
        return self._in_chunks(self._up, self._rows(x, self.layers[0].visible, "x"))

    def decode(self, h: Any) -> Tensor:
        """The mean-field down pass: E[v | h] of each layer fed to the one below, (n, H of the top) -> (n, V).

        Args:
            h: rows (n, H) of the top layer.

        Raises:
            ValueError: if the width is not H, or the top units do not take such values.

        Example:
            >>> DBN([6, 4, 2], seed=0).decode(torch.ones(3, 2)).shape
            torch.Size([3, 6])
        """
        return self._in_chunks(self._down, self._rows(h, self.layers[-1].hidden, "h"))

    def reconstruct(self, x: Any) -> Tensor:
        """`decode(encode(x))`: (n, V) -> (n, V)."""
        return self._in_chunks(lambda rows: self._down(self._up(rows)), self._rows(x, self.layers[0].visible, "x"))

    @torch.no_grad()
    def sample(
        self,
        n: int,
        steps: int = 1000,
        *,
        mean: bool = False,
        generator: Generator | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Draw visible rows: Gibbs sampling in the top RBM, then one sampled pass down.

        Source: G. Hinton, S. Osindero, Y. Teh (2006), A fast learning algorithm for deep belief nets, section 5.

        Args:
            n: number of independent chains, each giving one row.
            steps: Gibbs steps in the top RBM, from a start drawn at its visible biases.
            mean: return E[v | h] of the last step instead of a sample, which is what pictures of digits show.
            generator: draws everything; it must be on the device of the stack.
            seed: a number to seed a generator with, instead of `generator`.

        Returns:
            Rows (n, V).

        Example:
            >>> DBN([6, 4, 2], seed=0).sample(5, steps=10, seed=1).shape
            torch.Size([5, 6])

        Not samples of the model if the top RBM's chains have not mixed: compare several numbers of steps.
        """
        check_precision(self.layers[0].weight, "n rows")
        generator = as_generator(generator, seed, self.layers[0].weight.device)
        mean = flag(mean, "mean")
        top, *below = reversed(self.layers)
        v = top.visible.sample(top.visible_bias.expand(whole_number(n, "n"), -1), generator=generator)
        h = top.sample_hidden(top.gibbs(v, steps, generator=generator), generator=generator)
        for rbm in (top, *below[:-1]) if below else ():
            h = rbm.sample_visible(h, generator=generator)
        bottom = self.layers[0]
        return bottom.mean_visible(h) if mean else bottom.sample_visible(h, generator=generator)

    def to_mlp(
        self,
        outputs: int,
        *,
        transfer: mlp.Transfer = "exact",
        data: Any = None,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        generator: Generator | None = None,
        seed: int | None = None,
    ) -> nn.Sequential:
        """A plain network whose body computes exactly `encode(x)`, with a new head; see `dbn.mlp.classifier`.

        Args:
            outputs: number of classes or of real targets.
            transfer: "exact", or "relu_rescaled" or "relu_copied" for a ReLU network, which is another function.
            data: rows (n, V) for "relu_rescaled".
            dropout: probability of dropping an activation of a hidden layer.
            input_dropout: the same for the inputs.
            generator: draws the head.
            seed: a number to seed a generator with, instead of `generator`.

        Example:
            >>> DBN([6, 4, 2], seed=0).to_mlp(outputs=3)(torch.ones(5, 6)).shape
            torch.Size([5, 3])
        """
        return mlp.classifier(
            self.layers,
            outputs,
            transfer=transfer,
            data=data,
            dropout=dropout,
            input_dropout=input_dropout,
            generator=generator,
            seed=seed,
        )

    def forward(self, x: Any) -> Tensor:
        """`encode(x)`."""
        return self.encode(x)

    def to_autoencoder(self) -> nn.Sequential:
        """A plain network that computes exactly `reconstruct(x)`, for fine-tuning as an autoencoder."""
        return mlp.autoencoder(self.layers)

    def save(self, path: str | PathLike[str]) -> None:
        """Write units and parameters to one file, atomically; `DBN.load` reads it without running code.

        Raises:
            ValueError: if units of your own could not be built again from their `config()`.
        """
        layers = [self.layers[0].visible, *(rbm.hidden for rbm in self.layers)]
        units = [rebuildable_config(one, f"units[{place}]") for place, one in enumerate(layers)]
        save(path, {"kind": "DBN", "units": units, "state": self.state_dict()})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote, onto the CPU. Classes of units of your own must have been defined before.

        Raises:
            ValueError: if the file holds something else, is damaged, or names units that are not known.
        """
        saved = load(path, kind="DBN")
        with torch.device("cpu"):
            stack = cls([from_config(config) for config in saved["units"]], seed=0)
        stack.to(saved["state"]["layers.0.weight"].dtype).load_state_dict(saved["state"])
        return stack

    def _up(self, x: Tensor) -> Tensor:
        for rbm in self.layers:
            x = rbm.mean_hidden(x)
        return x

    def _down(self, h: Tensor) -> Tensor:
        for rbm in reversed(self.layers):
            h = rbm.mean_visible(h)
        return h

    def _rows(self, x: Any, units: Unit, name: str) -> Tensor:
        rows = as_rows(x, units.size, like=self.layers[0].weight, name=name)
        if len(rows):
            check_finite(rows, name)
            units.constrain_data(rows, name)
        return rows

    @torch.no_grad()
    def _in_chunks(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([function(rows) for rows in torch.split(x, CHUNK)]) if len(x) > CHUNK else function(x)


def per_layer_options(options: Mapping[str, Any], layers: int) -> list[dict[str, Any]]:
    """The options of each layer; every layer has an estimator of its own."""
    columns = {name: per_layer(value, layers, name) for name, value in options.items()}
    columns["estimator"] = [
        copy.deepcopy(one) if isinstance(one, Estimator) else one for one in columns.get("estimator", [None] * layers)
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
