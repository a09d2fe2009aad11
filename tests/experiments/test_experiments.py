"""Every experiment's tiny preset, end to end, in the format that it promises."""

import json
import math

import pytest
import torch
from torch import nn

from dbn import DBN
from experiments import annealing, benchmark, bound, compare, defaults, faults, finetune, likelihood, pretrain
from experiments.benchmarking import parts, time_to_likelihood
from experiments.benchmarking.step_cost import leaving
from experiments.study import tuning
from experiments.study.command_line import parse
from experiments.study.initialisations import STARTS
from experiments.study.records import launch, mean_sd, paired_interval
from experiments.study.signal_propagation import spreads
from experiments.study.tables import conclusion, labelled, table
from tests.support.results import is_png, written

pytest.importorskip("matplotlib", reason="the experiments draw: pip install 'dbn[plots]'")


HINTON_KEYS = ("hinton_2006_pretrain_seconds", "hinton_2006_pretrain_seconds_float32")


def test_pretrain_saves_a_stack_its_log_and_its_pictures(tmp_path, capsys):
    path = pretrain.main(["tiny", "--out", str(tmp_path)])
    assert [rbm.weight.shape for rbm in DBN.load(path).layers] == [(784, 32), (32, 16)]
    assert written(tmp_path) == {"stack.pt", "log.json", "filters.png", "reconstructions.png"}
    assert is_png(tmp_path / "filters.png")
    assert is_png(tmp_path / "reconstructions.png")
    log = json.loads((tmp_path / "log.json").read_text())
    assert [record["layer"] for record in log["records"]] == [1, 2]
    captured = capsys.readouterr()
    assert "layer 1/2" in captured.err
    assert "layer 2: reconstruction error" in captured.out


def test_finetune_prints_the_error_and_one_random_digit(tmp_path, capsys):
    error = finetune.main(["tiny", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"error {error:.2f} % of 2000 rows" in printed
    assert "label" in printed
    assert "prediction" in printed
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["test"]["n"] == 2000
    assert 100 * result["test"]["error"] == pytest.approx(error)


def test_finetune_starts_from_a_saved_stack(tmp_path):
    path = str(pretrain.main(["tiny", "--out", str(tmp_path / "stack")]))
    by_default = finetune.main(["tiny", "--stack", path, "--out", str(tmp_path / "a")])
    by_name = finetune.main(["tiny", "--start", "dbn", "--stack", path, "--out", str(tmp_path)])
    assert by_default == by_name


def test_without_validation_all_training_rows_train_and_no_more(tmp_path, monkeypatch):
    seen = []
    original = finetune.finetune
    monkeypatch.setattr(
        finetune, "finetune", lambda *given, **more: seen.append(len(given[1])) or original(*given, **more)
    )
    finetune.main(["tiny", "--no-validation", "--out", str(tmp_path)])
    finetune.main(["tiny", "--no-validation", "--labels", "5000", "--out", str(tmp_path)])
    assert seen == [100, 5000]


@pytest.mark.parametrize("start", ["no-such-start", "dbn"])
def test_finetune_says_what_a_start_needs(start, tmp_path):
    with pytest.raises(ValueError, match="--start"):
        finetune.main(["tiny", "--start", start, "--out", str(tmp_path)])


def test_the_original_script_is_a_preset():
    config = finetune.PRESETS["seed"]
    assert (config.data, config.start, config.hidden) == ("mnist", "xavier", (256, 256))
    assert (config.learning_rate, config.epochs, config.batch_size, config.seed) == (1e-3, 15, 100, 777)
    assert not config.validation


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    return out, compare.main(["tiny", "--out", str(out)])


def test_compare_writes_its_results_in_the_agreed_format(comparison):
    out, content = comparison
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(content))
    assert set(content) == {"config", "environment", "arms"}
    assert [arm["start"] for arm in content["arms"]] == [start.label for start in STARTS.values()]
    for arm in content["arms"]:
        assert {"start", "activation", "labels", "learning_rate", "test_error", "seconds"} <= set(arm)
        assert arm["labels"] == 100
        assert len(arm["test_error"]) == len(arm["seconds"]) == 2
        assert all(0 <= error <= 100 for error in arm["test_error"])


def test_compare_draws_and_tabulates(comparison):
    out, _ = comparison
    for name in ("curves.png", "filters.png", "signal.png"):
        assert is_png(out / name)
    text = (out / "table.md").read_text()
    assert "best baseline" in text
    assert all(start.label in text for start in STARTS.values())


def test_zero_weights_and_biases_never_leave_chance(comparison):
    _, content = comparison
    zeros = next(arm for arm in content["arms"] if arm["start"] == "zeros")
    assert zeros["test_error"] == pytest.approx([90.0, 90.0])


def test_an_interrupted_comparison_goes_on_from_its_finished_arms(comparison, tmp_path, monkeypatch):
    out, content = comparison
    (out / "arms" / "32-16_100_dbn.json").unlink()
    ran = []
    original = tuning.searched
    monkeypatch.setattr(tuning, "searched", lambda trial: ran.append(trial.start) or original(trial))
    again = compare.main(["tiny", "--out", str(out)])
    assert ran == ["dbn"]
    assert [arm["test_error"] for arm in again["arms"]] == [arm["test_error"] for arm in content["arms"]]


def test_compare_refuses_the_folder_of_another_configuration(comparison):
    out, _ = comparison
    with pytest.raises(ValueError, match="a run with other --seeds"):
        compare.main(["tiny", "--seeds", "3", "--out", str(out)])
    assert compare.main(["tiny", "--starts", "he", "dbn", "--target-error", "70", "--out", str(out)])["arms"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--starts", "bananas"], "bananas"),
        (["--rates", "fast"], "fast"),
        (["--rates", "1e-3/-1"], "setting '1e-3/-1'"),
        (["--seeds", "0"], "seeds is 0"),
        (["--starts", "he", "he"], "starts has he twice"),
        (["--labels", "7"], "labels=7 is fewer"),
        (["--labels", "4167", "5000"], "labels has 4167 and 5000"),
        (["--hidden", "0"], "hidden is 0"),
    ],
)
def test_compare_refuses_what_cannot_work_before_any_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare.main(["tiny", *options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_comparison_without_hidden_layers_is_refused():
    with pytest.raises(ValueError, match=r"hidden is \(\)"):
        compare.Config(hidden=())


def test_the_command_line_ends_in_one_line(capsys):
    def fail():
        raise ValueError("seeds is 0: give more")

    def interrupt():
        raise KeyboardInterrupt

    for work, words in ((fail, "error: seeds is 0: give more"), (interrupt, "the same command goes on")):
        with pytest.raises(SystemExit, match=words):
            launch(work)


def test_compare_takes_a_table_of_the_users_own(tmp_path):
    generator = torch.Generator().manual_seed(0)
    rows = 3 * torch.randn(200, 4, generator=generator) + 10
    lines = [
        "a,b,c,d,label",
        *(",".join(f"{x:.4f}" for x in row) + f",{'hot' if row[0] > 10 else 'cold'}" for row in rows),
    ]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(lines))
    starts = ["--starts", "xavier", "dbn", "--labels", "50", "--hidden", "6"]
    content = compare.main(["tiny", "--data", str(path), "--out", str(tmp_path / "out"), *starts])
    assert [arm["start"] for arm in content["arms"]] == ["Xavier", "DBN"]
    assert "each with test rows of its own" in (tmp_path / "out" / "table.md").read_text()
    path.write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="a run with other contents of --data"):
        compare.main(["tiny", "--data", str(path), "--out", str(tmp_path / "out"), *starts])


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs"), [(100, 10, 60), (500, 10, 12), (2500, 50, 12), (50_000, 100, 12)]
)
def test_budget_gives_few_labels_more_epochs(rows, batch_size, epochs):
    budget = compare.Config().budget(rows, epochs=12)
    assert (budget.batch_size, budget.epochs, budget.repeats) == (batch_size, epochs, 1)


@pytest.mark.slow
def test_the_benchmark_measures_every_part_and_says_what_it_skips(tmp_path, monkeypatch):
    def missing(x, hidden):
        raise ImportError("no module named peer")

    tutorial = "tutorial loop, tensors"
    monkeypatch.setattr(parts, "OTHER_LIBRARIES", {tutorial: parts.OTHER_LIBRARIES[tutorial], "peer": missing})
    monkeypatch.setattr(parts, "rbms_annealing", lambda rbm, chains, temperatures: lambda: 1.0)
    trainers = {"ours": (lambda: "again", time_to_likelihood.Ours), "peer": (lambda: missing(None, None), None)}
    monkeypatch.setattr(time_to_likelihood, "TRAINERS", trainers)
    content = benchmark.main(["tiny", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "benchmark.json").read_text()) == json.loads(json.dumps(content))
    rows, measured = content["rows"], [row for row in content["rows"] if "ratio" in row]
    assert all(row["ratio"] > 0 for row in measured)
    assert {row["of"] for row in content["rows"] if "reason" in row} == {"skipped"}
    assert "peer, time to a likelihood" in [row["what"] for row in rows if "reason" in row]
    assert len([row for row in rows if row["of"] == time_to_likelihood.OF]) == 4
    kinds = (
        "step / its products",
        "pretrain / its steps",
        "growth / its products",
        "AIS / its products",
        "AIS of theirs / ours",
    )
    assert {*kinds, "epoch of theirs / ours", "peak / data and parameters"} <= {row["of"] for row in measured}
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert [row["wall_seconds"] for row in rows if "key" in row] == [content[key] for key in HINTON_KEYS]
    (agreement,) = (row for row in rows if row["of"] == "mean ± sd of 2 seeds")
    assert all(len(agreement[name]) == 2 for name in ("reconstruction_error", "likelihood", "wall_seconds"))
    assert [row["same_bits"] for row in rows if row["of"] == "repeats"] == [True, True]
    assert len([row for row in measured if "tflops" in row]) == 2
    (compared,) = (row for row in rows if "arms" in row)
    assert [arm["start"] for arm in compared["arms"]] == ["Xavier", "DBN"]
    assert next(row for row in rows if row["what"].startswith("AIS") and "wall_seconds" in row)["ess"] > 1


def test_where_learning_leaves_the_floor_in_words():
    values = [10, 100, 1000]
    assert leaving(values, [1.8, 1.6, 1.2]) == "1.20 to 1.80 times the products, over 1.5 up to 100"
    assert leaving(values, [1.1, 1.2, 1.7]) == "1.10 to 1.70 times the products, over 1.5 from 1000"
    assert leaving(values, [1.1, 1.2, 1.3]).endswith("never over 1.5")
    assert leaving(values, [1.6, 1.7, 1.8]).endswith("always over 1.5")


def test_likelihoods_are_measured_once_and_go_on_from_what_is_finished(tmp_path, capsys):
    first = likelihood.main(["tiny", "--out", str(tmp_path)])
    assert is_png(tmp_path / "dreams.png")
    assert [(arm["estimator"], arm["seed"]) for arm in first["arms"]] == [("CD", 0), ("CD", 1), ("PCD", 0), ("PCD", 1)]
    assert all(-784 * math.log(2) < arm["test"] < -100 and arm["log_partition"] == "exact" for arm in first["arms"])
    (tmp_path / "arms" / "PCD-1.json").unlink()  # its machine is still there: only the measuring is done again
    again = likelihood.main(["tiny", "--out", str(tmp_path)])
    assert [arm["test"] for arm in again["arms"]] == [arm["test"] for arm in first["arms"]]
    assert "| PCD " in capsys.readouterr().out
    with pytest.raises(ValueError, match="--rates one more"):
        likelihood.main(["tiny", "--rates", "0.1"])


def test_wide_machines_are_measured_by_a_bracket(tmp_path):
    wide = ["--hidden", "26", "--estimators", "PCD", "--seeds", "1", "--ais-chains", "20", "--temperatures", "50"]
    (arm,) = likelihood.main(["tiny", *wide, "--out", str(tmp_path)])["arms"]
    assert arm["log_partition"] == "AIS"
    assert {estimate["base"] for estimate in arm["forward"]} == {"data_mean", "visible_bias", "zeros"}
    assert isinstance(arm["trusted"], bool)


@pytest.mark.slow
def test_estimators_are_compared_at_equal_time_too(tmp_path):
    names = ["PCD", "CD-25", "FastPCD", "tempering", "CD-uncentred"]
    options = ["--equal", "time", "--seeds", "1", "--epochs", "4", "--gibbs-steps", "1", "--rates", "0.05", "0.01"]
    arms = likelihood.main(["tiny", "--estimators", *names, *options, "--replicas", "3", "--out", str(tmp_path)])[
        "arms"
    ]
    epochs = {arm["estimator"]: arm["epochs"] for arm in arms}
    assert epochs["PCD"] == 4
    assert epochs["CD-25"] < 4
    with pytest.raises(ValueError, match="--equal luck"):
        likelihood.main(["tiny", "--equal", "luck", "--out", str(tmp_path)])
    with pytest.raises(ValueError, match="--estimators SGD"):
        likelihood.main(["tiny", "--estimators", "SGD", "--out", str(tmp_path)])


def test_annealing_is_held_against_enumeration_and_drawn(tmp_path):
    content = annealing.main(["tiny", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(content))
    assert [machine["machine"] for machine in content["machines"]] == ["CD-1", "PCD-1"]
    assert {row["base"] for row in content["machines"][0]["estimates"]} == {
        *("data mean", "own visible bias", "zeros", "backwards from the data")
    }
    near = [row for machine in content["machines"] for row in machine["estimates"] if row["base"] != "zeros"]
    assert all(abs(error) < 0.5 for row in near for error in row["errors"])
    assert is_png(tmp_path / "ais.png")


@pytest.mark.slow
def test_a_second_machine_starts_from_the_bound_that_is_the_first_ones_likelihood(tmp_path):
    rows = bound.main(["tiny", "--temperatures", "300", "--samples", "20", "--out", str(tmp_path)])["rows"]
    alone, before, *_ = rows
    assert [(row["second machine"], row["epochs"]) for row in rows] == [
        ("none", 0), ("transposed", 0), ("transposed", 1), ("random", 1)
    ]  # fmt: skip
    assert before["forward"] == pytest.approx(alone["forward"], abs=0.5)


def test_defaults_are_held_against_independent_columns(tmp_path):
    pytest.importorskip("sklearn", reason="the table comes with scikit-learn")
    content = defaults.main(["tiny", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(content))
    assert [(arm["data"], arm["estimator"], arm["seed"]) for arm in content["arms"]] == [
        (data, name, seed) for data in ("digits", "table") for name in ("CD-1", "PCD") for seed in (0, 1)
    ]
    by_columns = {arm["data"]: arm["independent_test"] for arm in content["arms"]}
    assert by_columns["digits"] == pytest.approx(-207.05, abs=0.1)
    assert all(abs(arm["test"] - by_columns[arm["data"]]) < 15 for arm in content["arms"])
    assert ["chain_gap" in arm["last_record"] for arm in content["arms"][:4]] == [False, False, True, True]
    with pytest.raises(ValueError, match="data is"):
        defaults.main(["tiny", "--data", "words", "--out", str(tmp_path)])


@pytest.mark.parametrize("module", [annealing, benchmark, bound, pretrain, finetune, compare, defaults, likelihood])
def test_help_names_presets_and_defaults(module, capsys):
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "presets" in text
    assert "--hidden" in text


def test_options_change_the_preset():
    name, config = parse(finetune.PRESETS, "", ["seed", "--hidden", "10", "20", "--no-validation", "--labels", "50"])
    assert (name, config.hidden, config.labels, config.validation) == ("seed", (10, 20), 50, False)
    assert config.data == "mnist"


def test_paired_interval_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, t(2) = 4.303.
    mean, half = paired_interval([2, 4, 6], [1, 2, 3])
    assert (mean, half) == pytest.approx((2, 4.303 / math.sqrt(3)))
    assert math.isnan(paired_interval([1], [2])[1])
    assert math.isnan(mean_sd([1])[1])


def arm(start, errors):
    common = {
        "activation": "relu",
        "labels": 10,
        "labelled_rows": 10,
        "learning_rate": 1e-3,
        "head_learning_rate": 1e-3,
        "seconds": [1.0] * 3,
    }
    return {
        "start": start,
        "test_error": errors,
        "validation_error": errors,
        "validation_curves": [[9, e] for e in errors],
    } | common


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [([1, 2, 3], "pretraining helped"), ([9, 10, 11], "pretraining did harm"), ([4, 6, 5.1], "no difference")],
)
def test_the_conclusion_follows_the_interval(ours, verdict):
    arms = [arm("Xavier", [5, 6, 7.1]), arm("He", [8, 8, 8]), arm("DBN, permuted", [1, 1, 1]), arm("DBN", ours)]
    if verdict == "no difference":
        arms[0] = arm("Xavier", [6, 4, 5])
    text = conclusion(arms, 10, one_test_set=True)
    assert verdict in text
    assert "DBN against Xavier" in text
    assert "share one test set" in text
    both = conclusion([*arms, arm("DBN, relu", [1, 2, 3])], 10, one_test_set=False)
    assert "; DBN, relu -" in both
    assert "each with test rows of its own" in both
    assert "best baseline" in table(arms, 10, None)


def test_nothing_is_concluded_without_both_sides():
    assert "nothing to conclude" in conclusion([arm("DBN", [1, 2, 3])], 10, one_test_set=True)
    assert "epochs" in table([arm("DBN", [1, 2, 3])], 10, None)


def test_epochs_are_the_median_and_a_seed_that_never_arrives_counts_as_last():
    curves = [[9, 5, 4], [9, 9, 4], [9, 9, 9]]
    rows = [arm("He", [4, 4, 9]) | {"validation_curves": curves, "pretrain_seconds": [2.0] * 3}]
    assert "| 3 (2 of 3 seeds) " in table(rows, 10, 5.0)
    assert "| never " in table(rows, 10, 3.0)
    assert "2.0 + 1.0" in table(rows, 10, 5.0)
    assert labelled([arm("He", [1, 1, 1]) | {"labelled_rows": 7}], 10) == "all 7 labels"


def test_spreads_by_hand():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    nn.init.eye_(network[0].weight)
    nn.init.zeros_(network[2].weight)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    forwards, backwards = spreads(network, x, torch.tensor([0, 1]))
    assert forwards == pytest.approx([float(x.std()), float(x.std()), 0.0])
    # At zero outputs both classes have probability 1/2, so the gradients of a row are −1/2 and 1/2.
    assert backwards == pytest.approx([0.0, math.sqrt(4 * 0.25 / 3)])


@pytest.mark.slow
def test_every_fault_is_survived(tmp_path):
    rows = faults.main(["tiny", "--damages", "12", "--kills", "1", "--out", str(tmp_path)])["rows"]
    assert all(row["survived"] == row["tried"] > 0 for row in rows)
    assert len(rows) == 9
    with pytest.raises(ValueError, match="--parts fire"):
        faults.main(["tiny", "--parts", "fire", "--out", str(tmp_path)])


def test_a_pretraining_that_was_broken_off_goes_on(tmp_path, monkeypatch):
    def draw(stack, split, out):
        raise KeyboardInterrupt

    whole = pretrain.main(["tiny", "--out", str(tmp_path / "whole")])
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_draw", draw)
        with pytest.raises(KeyboardInterrupt):
            pretrain.main(["tiny", "--out", str(tmp_path / "broken")])
    assert (tmp_path / "broken" / "checkpoint").exists()
    again = pretrain.main(["tiny", "--out", str(tmp_path / "broken")])
    assert not (tmp_path / "broken" / "checkpoint").exists()
    assert all(
        torch.equal(one, other)
        for one, other in zip(DBN.load(whole).parameters(), DBN.load(again).parameters(), strict=True)
    )
