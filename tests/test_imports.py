"""`import retiarii` and ``--help`` are light, and the public names are there."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import retiarii

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "optuna", "numpy", "networkx")


def heavy_after(code: str) -> list[str]:
    """Which heavy modules a fresh Python has loaded after running ``code``."""
    script = f"import sys\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


def test_import_is_light() -> None:
    assert heavy_after("import retiarii as rt; dir(rt); rt.RetiariiError") == []


@pytest.mark.parametrize("words", [[], ["run"], ["show"], ["export"], ["inspect"], ["bench"]])
def test_help_is_light(words: list[str]) -> None:
    code = (
        "from typer.testing import CliRunner\nfrom retiarii.cli import app\n"
        f"result = CliRunner().invoke(app, {[*words, '--help']!r})\n"
        "assert result.exit_code == 0 and 'Usage' in result.output, result.output"
    )
    assert heavy_after(code) == []


def test_showing_needs_no_torch() -> None:
    assert "torch" not in heavy_after("from retiarii.result import open_result")


@pytest.mark.parametrize("name", retiarii.__all__)
def test_public_name(name: str) -> None:
    value = getattr(retiarii, name)
    assert name == "__version__" or getattr(value, "__module__", "retiarii").startswith("retiarii")
    assert name in dir(retiarii)


def test_names_for_people_and_for_type_checkers_are_the_same() -> None:
    tree = ast.parse((ROOT / "retiarii" / "__init__.py").read_text())
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("retiarii.")
        for alias in node.names
    }
    loaded = {n for names in retiarii._NAMES_BY_MODULE.values() for n in names.split()}
    # `spaces` is a package, not a name in a module.
    assert typed == loaded == set(retiarii.__all__) - {"__version__", "spaces"}


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Modelspace'"):
        _ = retiarii.Modelspace


def test_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == retiarii.__version__
