"""The README's code runs, and its commands are those that CI runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


CODE = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_ten_lines_run(capsys):
    exec(re.sub(r"epochs=\d+", "epochs=1", CODE[0]), {})
    assert 0 < float(capsys.readouterr().out) < 0.9


def test_the_likelihood_that_one_can_believe_runs(capsys):
    exec(re.sub(r"(epochs|average_from|temperatures)=\d+", r"\1=1", CODE[1]), {})
    assert float(re.search(r"tensor\((-\d+\.\d+)", capsys.readouterr().out)[1]) < 0


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
