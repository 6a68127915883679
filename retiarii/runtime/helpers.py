"""Which definitions of a space file an evaluator's scores depend on."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retiarii.runtime.identity import label_of, local_files, name_in

# An evaluator of these kinds says by itself all that its scores depend on.
_COMPLETE = frozenset({"supervised"})


def evaluator_helpers(file: Path, description: Mapping[str, Any]) -> frozenset[str]:
    """The definitions that a function and what it calls are made of, as `definitions` names them.

    It goes by names alone, in ``file`` and the modules beside it: too many, rather than too few.

    Args:
        description: `Evaluator.describe`.
    """
    if description.get("kind") in _COMPLETE:
        return frozenset()
    found: dict[str, list[tuple[str, set[str]]]] = {}
    for each in local_files(file):
        for statement in ast.parse(each.read_bytes()).body:
            label = label_of(statement)
            used = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
            used |= {n.attr for n in ast.walk(statement) if isinstance(n, ast.Attribute)}
            for name in label.removeprefix("class ").removeprefix("function ").split(", "):
                found.setdefault(name, []).append((name_in(each, file.parent, label), used))
    function = description.get("function", {})
    start = str(function.get("name", "")).partition(".")[0]
    ahead = [start if start in found else "evaluator"]
    seen: set[str] = set()
    reached: set[str] = set()
    while ahead:
        name = ahead.pop()
        if name in seen or name == "space":
            continue
        seen.add(name)
        for label, used in found.get(name, ()):
            reached.add(label)
            ahead += used
    return frozenset(reached)
