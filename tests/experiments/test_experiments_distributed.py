"""Experiments by several processes, and the experiment on how much faster they are."""

import pytest

from experiments import compare, likelihood, pretrain, scaling
from tests.support.results import is_png, written

pytest.importorskip("matplotlib", reason="the experiments draw: pip install 'dbn[plots]'")


@pytest.mark.slow
def test_several_processes_do_what_one_does_and_write_once(two, tmp_path):
    starts = ["--starts", "he", "dbn"]
    contents = two(compare.main, ["tiny", *starts, "--out", str(tmp_path / "a")])
    alone = compare.main(["tiny", *starts, "--out", str(tmp_path / "b")])
    assert written(tmp_path / "a") == written(tmp_path / "b")
    for content in contents:
        for ours, theirs in zip(content["arms"], alone["arms"], strict=True):
            for name in ("start", "learning_rate", "labelled_rows"):
                assert ours[name] == theirs[name]
            assert ours["test_error"] == pytest.approx(theirs["test_error"], abs=0.5)  # other numbers of threads
    assert two(pretrain.main, ["tiny", "--out", str(tmp_path / "c")]) == [tmp_path / "c" / "stack.pt"] * 2
    assert written(tmp_path / "c") == {"stack.pt", "log.json", "filters.png", "reconstructions.png"}
    ours, theirs = two(likelihood.main, ["tiny", "--estimators", "PCD", "--seeds", "1", "--out", str(tmp_path / "d")])
    assert ours["arms"] == theirs["arms"]
    assert ours["environment"]["processes"] == 2


@pytest.mark.slow
def test_scaling_is_measured_fitted_and_drawn(tmp_path, capsys):
    content = scaling.main(["tiny", "--out", str(tmp_path)])
    assert [row["processes"] for row in content["rows"]] == [1, 2] * 4
    assert is_png(tmp_path / "scaling_ranks.png")
    assert "fastest with" in capsys.readouterr().out
    with pytest.raises(ValueError, match="begin with 1"):
        scaling.main(["tiny", "--processes", "2", "4"])


def test_the_model_of_scaling_finds_the_costs_it_was_made_with():
    cost = scaling.Cost(1e-9, 2e-9, 1e-4, 5e-5, 1e-9)
    rows = [
        {"hidden": hidden, "batch": batch, "processes": count}
        for hidden in (100, 1000) for batch in (50, 500) for count in (1, 2, 4)
    ]  # fmt: skip
    for row in rows:
        row["seconds"] = cost.step(row["processes"], scaling._weights(row["hidden"]), row["batch"])
    assert scaling.fitted(rows) == pytest.approx(cost)
    config = scaling.Config()
    slow, fast = (scaling.ending(cost, config, 1024, scaling.Link("", *link)) for link in ((1.0, 1e9), (1e-9, 1e15)))
    assert (slow["fastest"], slow["half"], slow["speedup"]) == (1, 1, 1)
    assert fast["fastest"] > 64
