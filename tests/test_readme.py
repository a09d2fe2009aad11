"""The README's code runs, and its commands are those that CI runs."""

import re
from pathlib import Path

import pytest

from experiments.study.records import mean_sd, read_json

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
DOCS = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def code(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


QUICKSTART, OWN_ARRAYS = code(TEXT)
(LIKELIHOOD,), (CHECKPOINTS,) = (code(DOCS[name]) for name in ("likelihood", "checkpoints"))


def test_the_quickstart_runs(capsys):
    exec(re.sub(r"epochs=\d+", "epochs=1", QUICKSTART), {})
    assert 0 < float(capsys.readouterr().out) < 0.9


def test_the_quickstart_with_own_arrays_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(OWN_ARRAYS, {})
    assert "tensor([" in capsys.readouterr().out
    assert (tmp_path / "stack.pt").exists()


@pytest.mark.slow
def test_the_likelihood_that_one_can_believe_is_the_one_that_is_printed(capsys):
    """To 5 nats: log Z is annealed with 100 temperatures here, and products round otherwise on other processors."""
    exec(LIKELIHOOD.replace("temperatures=1000", "temperatures=100, gibbs_steps=100"), {})
    said = float(re.search(r"This prints \*\*−(\d+\.\d+)\*\* nats", DOCS["likelihood"])[1])
    assert float(re.search(r"tensor\(-(\d+\.\d+)", capsys.readouterr().out)[1]) == pytest.approx(said, abs=5)
    assert "independent pixels have −207.1" in DOCS["likelihood"]


def test_the_table_of_defaults_is_what_its_file_says():
    results = [ROOT / "experiments" / "results" / name / "results.json" for name in ("defaults", "defaults-relu")]
    arms = [arm for path in results for arm in read_json(path)["arms"]]
    for name, data in (
        ("digits", "digits"),
        ("breast masses", "table"),
        ("spikes of 200 neurons", "spikes"),
        ("the same spikes", "spikes-relu"),
    ):
        row = re.search(rf"^\| {name}, .*$", DOCS["likelihood"], flags=re.MULTILINE)[0].split(" | ")
        found = [[arm for arm in arms if (arm["data"], arm["estimator"]) == (data, e)] for e in ("CD-1", "PCD")]
        cells = ["{:.2f} ± {:.2f}".format(*mean_sd([arm["test"] for arm in seeds])) for seeds in found]
        expected = [f"{found[0][0]['independent_test']:.2f}", *cells]
        assert [cell.strip(" |") for cell in row[1:]] == [cell.replace("-", "−") for cell in expected]


def test_the_table_of_errors_by_labels_is_what_its_file_says():
    arms = read_json(ROOT / "experiments" / "results" / "labels.json")["arms"]
    for start in ("He", "DBN"):
        cells = (
            re.search(rf"^\| {start} \| \d+\.\d+ ± [^|]*\| \d.*$", TEXT, flags=re.MULTILINE)[0]
            .strip("| ")
            .split(" | ")[1:]
        )
        found = sorted((arm["labels"] or 60_000, arm["test_error"]) for arm in arms if arm["start"] == start)
        assert cells == ["{:.2f} ± {:.2f}".format(*mean_sd(errors)) for _, errors in found]


def test_a_run_is_resumed_by_the_same_call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.sub(r"epochs=\d+", "epochs=1", QUICKSTART), names)
    names["images"] = names["split"].train.x
    for _ in range(2):
        exec(re.sub(r"epochs=\d+", "epochs=1", CHECKPOINTS), names)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"stack", "mlp"}


def test_the_two_commands_come_first():
    commands = re.findall(r"^pip install .*$", TEXT, flags=re.MULTILINE)
    assert commands[0] == "pip install -e '.[plots]' && python -m experiments.compare"
    assert commands[1] == "pip install -e '.[test]' && python -m pytest"


def test_all_pictures_and_links_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [page.parent / link for page in pages for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    assert len(links) >= 15
    assert all(link.exists() for link in links)


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) < 200
