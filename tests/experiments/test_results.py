"""Committed tables say what the committed files say."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import (
    annealing,
    benchmark,
    bound,
    compare,
    defaults,
    depth,
    dropout,
    faults,
    fuzz,
    labels,
    likelihood,
    scaling,
)
from tests.support.results import FORMAT

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def _found(pattern):
    return sorted(RESULTS.glob(pattern))


#: Tables, their files, and what writes the one from the other; seeds share the test rows but of the user's own table.
TABLES = [
    *((f"{name}/table.md", f"{name}/results.json", compare) for name in ("compare-sample", "compare-breast")),
    ("labels.md", "labels.json", labels),
    *(
        (f"{path.parent.name}/table.md", f"{path.parent.name}/labels.json", labels)
        for path in _found("labels-*/*.json")
    ),
    *((f"{path.parent.name}/table.md", f"{path.parent.name}/depth.json", depth) for path in _found("depth*/*.json")),
    ("dropout-cpu/table.md", "dropout-cpu/dropout.json", dropout),
]


@pytest.mark.parametrize(("table", "file", "study"), TABLES, ids=[file for _, file, _ in TABLES])
def test_a_table_is_what_its_file_says(table, file, study):
    content = json.loads((RESULTS / file).read_text())
    config = SimpleNamespace(**content["config"])
    if study is depth:
        found = depth.table(content["arms"], config.trained)
    else:
        found = study.text(config, content["arms"], one_test_set=not config.data.endswith(".csv"))
    assert (RESULTS / table).read_text() == found + "\n"


#: Tables of results other than comparisons, and what writes them.
OTHERS = {
    "annealing/table.md": lambda content: annealing.table(content["machines"]),
    "benchmark-cpu.md": lambda content: benchmark.table(content["rows"]),
    "benchmark-likelihood/digits.md": lambda content: benchmark.table(content["rows"]),
    "benchmark-likelihood/potts.md": lambda content: benchmark.table(content["rows"]),
    "bound/table.md": lambda content: bound.table(content["rows"]),
    "defaults/table.md": lambda content: defaults.text(content["arms"]),
    "defaults-relu/table.md": lambda content: defaults.text(content["arms"]),
    "faults/table.md": lambda content: faults.table(content["rows"]),
    "faults-steps/table.md": lambda content: faults.table(content["rows"]),
    "faults-ranks/table.md": lambda content: faults.table(content["rows"]),
    "fuzz/table.md": lambda content: fuzz.table(content["counts"]) + "\n\nno findings",
    "likelihood-small/table.md": lambda content: content["protocol"] + "\n\n" + likelihood.table(content["arms"]),
    "likelihood-table/table.md": lambda content: content["protocol"] + "\n\n" + likelihood.table(content["arms"]),
    "likelihood-rbm500/table.md": lambda content: content["protocol"] + "\n\n" + likelihood.table(content["arms"]),
    "scaling-ranks/table.md": lambda content: scaling.text(
        content["rows"], scaling.Cost(**content["model"]), content["ends"]
    ),
}


@pytest.mark.parametrize("table", OTHERS)
def test_the_table_of_another_result_is_what_its_file_says(table):
    path = RESULTS / table
    file = path.with_name("results.json") if path.stem == "table" else path.with_suffix(".json")
    assert path.read_text() == OTHERS[table](json.loads(file.read_text())) + "\n"


@pytest.mark.parametrize("file", [file for _, file, study in TABLES if study is not compare])
def test_what_is_committed_has_the_format_that_the_tiny_preset_has(file):
    content = json.loads((RESULTS / file).read_text())
    assert {"config", "environment", "arms"} <= set(content)
    for arm in content["arms"]:
        assert set(arm) >= FORMAT
        assert len(arm["test_error"]) == content["config"]["seeds"] >= 5
