"""Options that many commands have, each declared once; a configuration inherits those that it needs."""

from dataclasses import dataclass

from experiments.study.command_line import option


@dataclass(frozen=True)
class DataOptions:
    """The data set, and where it lies."""

    data: str = option("mnist-sample", "a named data set, or the path of a .npz or .csv file")
    root: str | None = option(None, "folder of the data; else DBN_DATA, else a cache folder")


@dataclass(frozen=True)
class SeedsOption:
    """The number of repetitions with other seeds."""

    seeds: int = option(5, "number of seeds")


@dataclass(frozen=True)
class DeviceOption:
    """Where tensors lie."""

    device: str = option("auto", "cpu, cuda, mps, or auto for the best there is")


@dataclass(frozen=True)
class OutOption:
    """The folder of the results. The command line fills in its default."""

    out: str = option("", "folder for results and pictures, and to resume from; runs/COMMAND-PRESET by default")
