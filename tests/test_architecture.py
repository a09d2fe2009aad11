"""The house: who may import whom, how long a file and a function may be, and what a public name owes its reader."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import dbn

HOUSE = Path(dbn.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.rglob("*.py"))

#: Every module of the library, and the modules of the library that it may import. Leaves know no model.
RANKS = {
    "version": set(),
    "history": set(),
    "input_range": set(),
    "plots": set(),
    "units": set(),
    "runtime": {"version"},
    "schedules": {"runtime"},
    "datasets": {"runtime"},
    "data": {"runtime"},
    "fit": {"data", "history", "runtime"},
    "initialisation": {"input_range", "runtime"},
    "normalisability": {"units"},
    "rbm": {"units", "normalisability", "history", "runtime"},
    "gradient": {"rbm", "units"},
    "estimators": {"gradient", "rbm", "units", "runtime"},
    "likelihood": {"rbm", "units", "normalisability", "runtime"},
    "training": {
        "estimators", "gradient", "rbm", "normalisability", "schedules", "fit", "data", "history", "runtime",
    },
    "pretraining": {"training", "rbm", "data", "history", "runtime"},
    "mlp": {"rbm", "input_range", "runtime"},
    "belief_net": {"pretraining", "training", "mlp", "estimators", "rbm", "units", "history", "runtime"},
    "finetuning": {"fit", "data", "schedules", "input_range", "history", "runtime"},
}  # fmt: skip


def module_of(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it; `from dbn import x` is dbn.x, as of tests."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            whole = node.module in ("dbn", "tests")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if whole else {str(node.module)}
    return found


def known_from(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports_of(path) if name.startswith("dbn.")} - {module_of(path)}


@pytest.mark.parametrize("path", [path for path in FILES if path != HOUSE / "__init__.py"], ids=lambda path: path.stem)
def test_imports_go_in_one_direction(path):
    module = module_of(path)
    assert module in RANKS, f"{module} has no rank: say in RANKS what it may know"
    assert known_from(path) <= RANKS[module]


def test_the_ranks_have_no_circle():
    open_ranks = dict(RANKS)
    while open_ranks:
        free = {module for module, known in open_ranks.items() if not known & open_ranks.keys()}
        assert free, f"these modules import each other in a circle: {sorted(open_ranks)}"
        open_ranks = {module: known for module, known in open_ranks.items() if module not in free}


def test_the_ranks_would_catch_a_wrong_import(tmp_path):
    wrong = tmp_path / "rbm.py"
    wrong.write_text("def f():\n    from dbn.training import train\n    from dbn import mlp\n")
    assert imports_of(wrong) == {"dbn.training", "dbn.mlp"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_library_knows_nothing_of_experiments_or_tests(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & {"experiments", "tests"}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_test_file_imports_another(path):
    parts = {part for name in imports_of(path) for part in name.split(".")}
    assert not [part for part in parts if part.startswith("test_") or part == "conftest"]


@pytest.fixture(scope="module")
def imported():
    """What a process says that imports the library, and then what it has loaded and whether anything was drawn."""
    script = """
import sys, torch
before = torch.get_rng_state()
import dbn, dbn.plots, dbn.mlp
sys.stderr.write(" ".join([str(torch.equal(before, torch.get_rng_state())), *sys.modules]))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)


def test_import_prints_nothing_and_loads_neither_torchvision_nor_matplotlib(imported):
    assert imported.stdout == ""
    loaded = {name.split(".")[0] for name in imported.stderr.split()}
    assert loaded >= {"dbn", "torch"}
    assert not loaded & {"torchvision", "matplotlib", "sklearn", "experiments", "pytest"}


def test_import_draws_and_seeds_nothing(imported):
    assert imported.stderr.split()[0] == "True"


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return 0 if not body else (function.end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert lines_of(node) <= 60, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_public_names_exist_and_are_all_listed():
    assert len(set(dbn.__all__)) == len(dbn.__all__)
    public = {name for name, value in vars(dbn).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public <= set(dbn.__all__)
    assert set(dbn.__all__) <= set(dir(dbn))


@pytest.mark.parametrize("name", dbn.__all__)
def test_public_names_are_documented(name):
    thing = getattr(dbn, name)
    documentation = inspect.getdoc(thing)
    assert documentation
    assert inspect.ismodule(thing) or thing.__module__.startswith("dbn.")
    no_example = inspect.ismodule(thing) or inspect.isabstract(thing)
    if not no_example and not (inspect.isclass(thing) and issubclass(thing, Exception | tuple)):
        assert "Example:" in documentation
        assert ">>> " in documentation


@pytest.mark.parametrize("name", [name for name in dbn.__all__ if inspect.isclass(getattr(dbn, name))])
def test_public_methods_of_our_own_are_documented(name):
    for method_name, method in vars(getattr(dbn, name)).items():
        if inspect.isfunction(method) and not method_name.startswith("_"):
            assert inspect.getdoc(getattr(getattr(dbn, name), method_name)), f"{name}.{method_name}"
