"""Which definitions a function's scores depend on."""

from __future__ import annotations

from pathlib import Path

from retiarii.runtime.helpers import evaluator_helpers

SPACE = """
import retiarii as rt
from helpers import scale

FACTOR = 3

class Net:
    width = FACTOR

def unused():
    return FACTOR

def inner(x):
    return scale(x) * FACTOR

def score(trial):
    return inner(trial.decisions["x"])

space = rt.ModelSpace(Net)
evaluator = rt.Function(score)
"""
HELPERS = """
OTHER = 1

def scale(x):
    return x
"""


def test_what_is_called_directly_or_not(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "helpers.py").write_text(HELPERS)
    file = tmp_path / "space.py"
    function = {"kind": "function", "function": {"name": "score"}}
    assert evaluator_helpers(file, function) == {
        "space.py: function score",
        "space.py: function inner",
        "space.py: FACTOR",
        "helpers.py: function scale",
    }
    unnamed = {"kind": "function", "function": {"name": "<lambda>"}}
    assert evaluator_helpers(file, unnamed) == evaluator_helpers(file, function) | {
        "space.py: evaluator"
    }
    assert evaluator_helpers(file, {"kind": "supervised"}) == frozenset()
