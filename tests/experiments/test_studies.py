"""The studies of labels, depth and dropout: how a start is tuned, and every tiny preset in its format."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from dbn import DBN, DivergenceError, datasets
from dbn.datasets import Samples
from experiments import depth, dropout, labels
from experiments.data import make_table
from experiments.study import trial, tuning
from experiments.study.initialisations import HIDDEN_UNITS, KNOWN, perceptron
from experiments.study.setting import setting_of, tuned
from experiments.study.trial import Trial
from experiments.study.tuning import arm_of, narrowed
from tests.support.results import FORMAT, is_png

pytest.importorskip("matplotlib", reason="the experiments draw: pip install 'dbn[plots]'")


def checked(content, path, seeds=2):
    """The arms of a result, each in the agreed format, as they are in its file."""
    assert json.loads(path.read_text()) == json.loads(json.dumps(content))
    assert {"config", "environment", "arms"} <= set(content)
    for arm in content["arms"]:
        assert set(arm) >= FORMAT
        assert len(arm["test_error"]) == len(arm["validation_error"]) == len(arm["seconds"]) == seeds
        assert all(0 <= error <= 100 for error in arm["test_error"])
        assert arm["setting"] == arm["kept"][0]
        assert ("pretrain_seconds" in arm) is arm["start"].startswith("DBN")
    return content["arms"]


@pytest.fixture(scope="module")
def by_labels(tmp_path_factory):
    out = tmp_path_factory.mktemp("labels")
    return out, labels.main(["tiny", "--out", str(out)])


@pytest.mark.slow
def test_labels_are_studied_in_the_agreed_format(by_labels):
    out, content = by_labels
    arms = checked(content, out / "labels.json")
    assert [(arm["architecture"], arm["labels"], arm["start"]) for arm in arms] == [
        (architecture, count, start)
        for architecture in ("16", "12-8")
        for count in (50, 4167)
        for start in ("He", "DBN")
    ]
    assert is_png(out / "labels.png")
    assert "\\* best start without pretraining" in (out / "table.md").read_text()


@pytest.mark.slow
def test_many_labels_choose_from_what_was_best_with_fewer(by_labels):
    few, many = (next(arm for arm in by_labels[1]["arms"] if arm["labels"] == count) for count in (50, 4167))
    assert len(few["tried"]) == 3
    assert {len(errors) for errors in few["tried"].values()} == {1, 2}
    assert list(many["tried"]) == few["kept"]
    assert len(many["kept"]) == 1


@pytest.mark.slow
def test_all_labels_are_those_of_the_validation_rows_too_after_a_refit(by_labels, tmp_path):
    out, content = by_labels
    assert {arm["labelled_rows"] for arm in content["arms"]} == {50, 5000}
    names = {path.name for path in (out / "arms").iterdir()}
    assert {"16_50_he.json", "16_4167_he_refit-3.json"} <= names
    assert "16_4167_he.json" not in names, "networks that a refit only chose by are not read off the test set"
    assert not list((out / "runs").iterdir())
    many = [arm for arm in content["arms"] if arm["labels"] == 4167]
    assert all(arm["refit"]["epochs"] in (2, 3) for arm in many)
    assert all(list(map(int, arm["refit"]["validation_error"])) == [2, 3] for arm in many)


@pytest.mark.slow
def test_an_interrupted_study_goes_on_from_its_finished_arms(by_labels, monkeypatch):
    out, content = by_labels
    (out / "arms" / "16_50_dbn.json").unlink()
    ran = []
    original = tuning.searched
    monkeypatch.setattr(tuning, "searched", lambda trial: ran.append(trial.name) or original(trial))
    again = labels.main(["tiny", "--out", str(out)])
    assert ran == ["16_50_dbn"]
    assert [arm["test_error"] for arm in again["arms"]] == [arm["test_error"] for arm in content["arms"]]
    with pytest.raises(ValueError, match="a run with other --epochs"):
        labels.main(["tiny", "--epochs", "3", "--out", str(out)])


@pytest.mark.slow
def test_depth_is_studied_with_every_activation(tmp_path):
    content = depth.main(["tiny", "--out", str(tmp_path)])
    arms = checked(content, tmp_path / "depth.json")
    assert len(arms) == 2 * len(depth._STARTS)
    assert {(arm["activation"], arm["depth"]) for arm in arms} == {(one, two) for one in HIDDEN_UNITS for two in (1, 2)}
    assert all(len(signal["gradients"]) == 3 for signal in content["signals"])
    assert is_png(tmp_path / "depth.png")
    assert is_png(tmp_path / "gradients.png")
    assert "trains up to" in (tmp_path / "table.md").read_text()


def test_how_deep_a_start_trains_is_where_every_seed_is_at_most_at_the_bound():
    arms = [{"start": "He", "depth": depth, "test_error": errors} for depth, errors in enumerate(ERRORS, start=1)]
    row = depth.table(arms, trained=20.0).splitlines()[2]
    assert row.split("|")[-2].strip() == "2"
    assert "(1 of 2)" in row


ERRORS = [[5.0, 6.0], [7.0, 20.0], [8.0, 90.0], [9.0, 9.0]]


@pytest.mark.parametrize(("first", "words"), [(1, "none"), (3, "fewer than 3")])
def test_a_start_that_never_trains_is_reported_up_to_the_depth_tried(first, words):
    arms = [{"start": "He", "depth": first, "test_error": [5.0, 90.0]}]
    assert depth.table(arms, trained=20.0).splitlines()[2].split("|")[-2].strip() == words


@pytest.mark.slow
def test_dropout_is_tuned_apart_from_what_has_none(tmp_path):
    arms = checked(dropout.main(["tiny", "--out", str(tmp_path)]), tmp_path / "dropout.json")
    assert [(arm["group"], arm["start"], arm["setting"]) for arm in arms] == [
        ("without dropout", "DBN", "1e-3"),
        ("without dropout", "He", "1e-3"),
        ("with dropout", "DBN", "3e-3 dropout 0.2/0.5 norm 4"),
        ("with dropout", "He", "3e-3 dropout 0.2/0.5 norm 4"),
    ]
    assert is_png(tmp_path / "dropout.png")


REFUSED = [
    *(("--starts bananas", "bananas"), ("--starts he he", "starts has he twice"), ("--seeds 0", "seeds is 0")),
    *(("--settings fast", "fast"), ("--settings 1e-3 1e-3", "settings has 1e-3 twice")),
    *(("--sparsity 2", "sparsity is 2"), ("--sparsity-cost -1", "sparsity_cost is -1")),
    *(("--pretrain-rate -1", "pretrain_rate is -1"), ("--device tpu", "tpu")),
]
BY_ARCHITECTURE = [
    *(("--architectures 12 10-x", "architectures has '10-x'"), ("--architectures 0-5", "architectures has '0-5'")),
    ("--architectures 12 12", "architectures has 12 twice"),
]
BY_LABELS = [
    *(("--labels 0", "labels is 0"), ("--labels 7", "labels=7 is fewer"), ("--labels 50 50", "labels has 50 twice")),
    *(("--labels 4167 5000", "labels has 4167 and 5000"), ("--refit 0", "refit is 0"), ("--narrow 0", "narrow is 0")),
]
BY_DEPTH = [
    *(("--depths 0", "depths is 0"), ("--depths 1 1", "depths has 1 twice"), ("--width 0", "width is 0")),
    *(("--trained -5", "trained is -5"), ("--labels 7", "labels=7 is fewer"), ("--kept 0", "kept is 0")),
]


@pytest.mark.parametrize(
    ("study", "options", "message"),
    [
        *((study, *case) for study in (labels, depth, dropout) for case in REFUSED),
        *((study, *case) for study in (labels, dropout) for case in BY_ARCHITECTURE),
        *((labels, *case) for case in BY_LABELS),
        *((depth, *case) for case in BY_DEPTH),
    ],
)
def test_studies_refuse_what_cannot_work_before_any_work(study, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        study.main(["tiny", *options.split(), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_what_drops_inputs_alone_is_dropout_too(tmp_path):
    assert dropout._grouped(("1e-3", "1e-3 dropout 0.2/0", "1e-3 dropout 0/0.5")) == {
        "without dropout": ("1e-3",),
        "with dropout": ("1e-3 dropout 0.2/0", "1e-3 dropout 0/0.5"),
    }


def test_a_stack_of_other_units_is_held_against_the_baseline_too(tmp_path, capsys):
    given = ["--starts", "he", "dbn-relu", "--labels", "50", "--architectures", "8"]
    labels.main(["tiny", *given, "--out", str(tmp_path)])
    assert "DBN, relu against He (relu), the best start without pretraining" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--narrow", "10000"], ["--labels", "4167", "--narrow", "10000"]])
def test_networks_with_all_labels_are_refitted_however_they_choose(options, tmp_path):
    one = ["--starts", "he", "--architectures", "4", "--settings", "1e-3"]
    content = labels.main(["tiny", *one, *options, "--out", str(tmp_path)])
    assert ["refit" in arm for arm in content["arms"]][-1]
    assert {path.name for path in (tmp_path / "arms").iterdir()} <= {"4_50_he.json", "4_4167_he_refit-3.json"}


def test_rows_without_any_labels_are_refused(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, x=np.random.default_rng(0).random((60, 4)), y=np.full(60, -1))
    for study in (dropout, depth, labels):
        with pytest.raises(ValueError, match="labels"):
            study.main(["tiny", "--data", str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_version_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="another version of this experiment"):
        labels.main(["tiny", "--out", str(tmp_path)])


def test_a_refit_that_diverges_is_reported(tmp_path, monkeypatch):
    def diverging(network, train, validation, *given, **more):
        if validation is None:
            raise DivergenceError("left the finite numbers")
        return tuned(network, train, validation, *given, **more)

    monkeypatch.setattr(trial, "tuned", diverging)
    study = labels.Config(data="mnist-sample", epochs=1, updates=1, starts=("he",), seeds=1)
    arm = arm_of(Trial(study, tmp_path, "he", "4", 50, ("1e-3",), kept=1, refit=1))
    assert (arm["test_error"], arm["diverged"]) == ([100.0], [True])
    assert arm["validation_error"][0] < 100


def test_a_setting_in_words():
    setting = setting_of("1e-3/1e-2 dropout 0.2/0.5 decay 1e-4 momentum 0.9 norm 4")
    assert (setting.body, setting.head, setting.weight_decay) == (1e-3, 1e-2, 1e-4)
    assert (setting.input_dropout, setting.dropout, setting.momentum, setting.max_norm) == (0.2, 0.5, 0.9, 4.0)
    plain = setting_of("0.1")
    assert (plain.body, plain.head, plain.dropout, plain.momentum, plain.max_norm) == (0.1, 0.1, 0.0, None, None)
    weights = [nn.Parameter(torch.zeros(2, 2))]
    assert isinstance(plain.optimiser(weights, 0.1), torch.optim.Adam)
    assert isinstance(setting.optimiser(weights, 0.1), torch.optim.SGD)


@pytest.mark.parametrize(
    "text",
    [
        *("", "fast", "1e-3 dropout", "1e-3 drop 0.5", "1e-3/1e-2/1e-1x", "-1", "1e-3 decay 1 decay 2"),
        *("1e-3 dropout 1.5", "1e-3 dropout 1/0", "1e-3 norm 0", "1e-3 momentum 1"),
    ],
)
def test_a_setting_that_is_none_is_refused_with_its_text(text):
    with pytest.raises(ValueError, match=f"setting '{text}'"):
        setting_of(text)


def test_narrowing_keeps_the_lowest_mean_over_the_first_seeds():
    errors = {"a": [1.0, 9.0, 9.0], "b": [3.0, 3.0, 0.0], "c": [2.0, 2.0, 9.0]}
    error = lambda setting, seed: errors[setting][seed]  # noqa: E731
    assert narrowed(list(errors), error, first=1, kept=2) == ["a", "c"]
    assert narrowed(list(errors), error, first=2, kept=2) == ["c", "b"]
    assert narrowed(list(errors), error, first=3, kept=1) == ["b"]


def test_few_rows_are_repeated_within_an_epoch():
    rows = Samples(torch.rand(20, 6), torch.arange(20) % 2)
    model, seen = perceptron([6, 2], "relu"), []
    model.register_forward_hook(
        lambda module, inputs, outputs: seen.append(len(inputs[0])) if module.training else None
    )
    budget = labels.Config(updates=5).budget(20, epochs=2)
    assert (budget.batch_size, budget.repeats) == (10, 3)
    tuned(model, rows, rows, setting_of("0.1 momentum 0"), budget, seed=0, device="cpu")
    assert sum(seen) == 2 * 3 * 20


@pytest.mark.parametrize("activation", HIDDEN_UNITS)
def test_a_start_takes_the_lower_layers_of_a_deeper_stack(activation):
    stack = DBN([6, *map(HIDDEN_UNITS[activation], (5, 4, 3))], seed=0)
    network = KNOWN[f"dbn-{activation}"].build([6, 5, 4, 2], stack, 0, dropout=0.5, input_dropout=0.2).eval()
    x = torch.rand(7, 6)
    below = stack.layers[1].mean_hidden(stack.layers[0].mean_hidden(x))
    torch.testing.assert_close(network[:-1](x), below)
    assert sum(isinstance(module, nn.Dropout) for module in network) == 3
    other = KNOWN[f"xavier-{activation}"].build([6, 5, 4, 2], None, 0, dropout=0.5, input_dropout=0.2)
    assert [type(module) for module in other] == [type(module) for module in network]


@pytest.mark.parametrize("refit", [None, 3])
def test_a_run_that_leaves_the_finite_numbers_counts_as_no_better_than_none(refit, tmp_path, monkeypatch):
    def diverging(*given, **more):
        raise DivergenceError("left the finite numbers")

    monkeypatch.setattr(trial, "tuned", diverging)
    study = labels.Config(data="mnist-sample", epochs=2, starts=("he",), seeds=1)
    one = Trial(study, tmp_path, "he", "4", 50, ("1e-3",), kept=1, refit=refit)
    arm = arm_of(one)
    assert (arm["test_error"], arm["validation_curves"], arm["diverged"]) == ([100.0], [[100.0, 100.0]], [True])


def test_a_real_table_is_written_as_the_users_own(tmp_path):
    pytest.importorskip("sklearn", reason="the table comes with scikit-learn")
    split = datasets.load(make_table.main([str(tmp_path / "breast.csv")]), labels=20)
    assert split.class_names == ("benign", "malignant")
    assert [len(part.x) for part in split] == [380, 75, 114]
    assert split.train.x.shape[1] == 30
