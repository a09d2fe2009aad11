"""The README's code runs, and its commands are those that CI runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_the_ten_lines_run(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(re.sub(r"epochs=\d+", "epochs=1", code), {})
    assert 0 < float(capsys.readouterr().out) < 0.9


def test_the_two_commands_come_first():
    commands = re.findall(r"^pip install .*$", TEXT, flags=re.MULTILINE)
    assert commands[0] == "pip install -e '.[plots]' && python -m experiments.compare"
    assert commands[1] == "pip install -e '.[test]' && python -m pytest"


def test_every_picture_and_link_is_there():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) >= 4
    assert all((ROOT / link).exists() for link in links)
