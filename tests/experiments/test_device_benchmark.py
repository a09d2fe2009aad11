"""The parts of the benchmark that ask for a GPU: what they skip, and what a run on one has by default."""

from dataclasses import replace

import pytest
import torch

from experiments import benchmark
from experiments.benchmarking import device_benchmark, other_libraries


def test_peers_compute_where_the_rows_are_and_what_fails_is_skipped_with_its_reason(monkeypatch):
    def failing(x, hidden):
        return lambda: torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr(device_benchmark, "rbms", failing)
    monkeypatch.setattr(device_benchmark, "learnergy", other_libraries.tutorial_of_tensors)
    config = benchmark.PRESETS["tiny"]
    first, second = device_benchmark.rivals(config, torch.device("cpu"))
    assert first["of"] == "skipped"
    assert "inconsistent tensor size" in first["reason"]
    assert second["ratio"] == pytest.approx(second["seconds"][0] / second["seconds"][1])
    assert [pair["what"] for pair in second["layers"]] == ["784→16", "16→12"]
    with pytest.raises(other_libraries.OtherLibraryError, match="CPUs alone, not on meta"):
        other_libraries.guarded(
            lambda: other_libraries.scikit_learn(torch.zeros(2, 3, device="meta"), 2, torch.float32)
        )()


def test_what_is_not_there_is_not_compared(monkeypatch, tmp_path):
    monkeypatch.setenv("DBN_DATA", str(tmp_path))
    config = replace(benchmark.PRESETS["tiny"], comparison="mnist", hinton_data="mnist")
    (row,) = device_benchmark.comparison(config, torch.device("cpu"))
    assert (row["of"], row["reason"]) == ("skipped", f"mnist is not in {tmp_path}")
    x, _, name = device_benchmark._digits(config)
    assert (len(x), name) == (1000, "mnist-sample")


def test_a_run_on_a_gpu_has_all_parts_and_a_file_of_its_own(monkeypatch, tmp_path):
    run, cuda = [], torch.device("cuda")
    known = {name: lambda config, device, name=name: run.append((name, device)) or [] for name in benchmark.ON_GPU}
    for name in (
        "steps",
        "epoch",
        "other_libraries",
        "annealing",
        "finetuning",
        "throughput",
        "memory",
        "growing",
        "race",
    ):
        monkeypatch.setattr(benchmark, name, lambda config, device: run.append(("cpu", device)) or [])
    monkeypatch.setattr(benchmark, "ON_GPU", known)
    for device, file, parts in ((cuda, "benchmark-cuda.json", 15), (torch.device("cpu"), "benchmark.json", 9)):
        monkeypatch.setattr(benchmark, "choose_device", lambda name, device=device: device)
        content = benchmark.main(["full", "--out", str(tmp_path)])
        assert (tmp_path / file).exists()
        assert len(content["config"]["parts"]) == len(run) == parts
        assert {where for _, where in run} == {device}
        run.clear()


@pytest.mark.parametrize("name", ["large", "long-ais"])
def test_sizes_that_are_missing_are_asked_for(name):
    with pytest.raises(ValueError, match=f"--{name} has 2 numbers: give three"):
        benchmark.main(["tiny", f"--{name}", "4", "5"])
