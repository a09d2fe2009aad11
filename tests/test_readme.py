"""The README's code runs, and its commands are those that CI runs."""

import re
from pathlib import Path

import pytest

from experiments.study.records import mean_sd, read_json

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


CODE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_ten_lines_run(capsys):
    exec(re.sub(r"epochs=\d+", "epochs=1", CODE[0]), {})
    assert 0 < float(capsys.readouterr().out) < 0.9


@pytest.mark.slow
def test_the_likelihood_that_one_can_believe_is_the_one_that_is_printed(capsys):
    """To 5 nats: log Z is annealed with 100 temperatures here, and products round otherwise on other processors."""
    exec(CODE[1].replace("temperatures=1000", "temperatures=100, gibbs_steps=100"), {})
    said = float(re.search(r"This prints \*\*−(\d+\.\d+)\*\* nats", TEXT)[1])
    assert float(re.search(r"tensor\(-(\d+\.\d+)", capsys.readouterr().out)[1]) == pytest.approx(said, abs=5)
    assert "independent pixels have −207.1" in TEXT


def test_the_table_of_defaults_is_what_its_file_says():
    results = [ROOT / "experiments" / "results" / name / "results.json" for name in ("defaults", "defaults-relu")]
    arms = [arm for path in results for arm in read_json(path)["arms"]]
    for name, data in (
        ("digits", "digits"),
        ("breast masses", "table"),
        ("spikes of 200 neurons", "spikes"),
        ("the same spikes", "spikes-relu"),
    ):
        row = re.search(rf"^\| {name}, .*$", TEXT, flags=re.MULTILINE)[0].split(" | ")
        found = [[arm for arm in arms if (arm["data"], arm["estimator"]) == (data, e)] for e in ("CD-1", "PCD")]
        cells = ["{:.2f} ± {:.2f}".format(*mean_sd([arm["test"] for arm in seeds])) for seeds in found]
        expected = [f"{found[0][0]['independent_test']:.2f}", *cells]
        assert [cell.strip(" |") for cell in row[1:]] == [cell.replace("-", "−") for cell in expected]


def test_nothing_is_lost_between_two_calls(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(re.sub(r"epochs=\d+", "epochs=1", CODE[0]), names)
    names["images"] = names["split"].train.x
    for _ in range(2):
        exec(re.sub(r"epochs=\d+", "epochs=1", CODE[2]), names)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"stack", "mlp"}
    assert len(CODE) == 3


def test_the_two_commands_come_first():
    commands = re.findall(r"^pip install .*$", TEXT, flags=re.MULTILINE)
    assert commands[0] == "pip install -e '.[plots]' && python -m experiments.compare"
    assert commands[1] == "pip install -e '.[test]' && python -m pytest"


def test_every_picture_and_link_is_there():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) >= 4
    assert all((ROOT / link).exists() for link in links)
