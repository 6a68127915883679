"""What makes a search itself: facts that a resumed search must share, and their difference."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from retiarii.errors import StoreError
from retiarii.runtime.shown import plain

_ABSENT = object()
_SHOWN_LINES = 12
# What says of which kind something is; the rest are its options.
_KINDS = ("kind", "name")
# A range or a list of options: which value a trial had of it is among its decisions.
_CHOICE = re.compile(
    r"^(?:choice\(\[|(?:log)?uniform\(|(?:log)?randint\().*?(?P<label> label=.*)?$"
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def definitions(files: Iterable[Path], root: Path) -> dict[str, str]:
    """A hash for each top-level definition of Python files; comments and layout do not count.

    Args:
        files: the files, each with valid syntax.
        root: the folder that they are named relative to.

    Returns:
        ``"space.py: class Net"`` -> hash. Assignments go by the names they assign, other
        statements of a file are taken together. Docstrings and ``if __name__ == "__main__"``
        do not count.
    """
    found: dict[str, str] = {}
    for file in files:
        parts: dict[str, list[str]] = {}
        for statement in ast.parse(file.read_bytes()).body:
            if not _is_main_guard(statement):
                parts.setdefault(label_of(statement), []).append(_text(statement))
        for label, texts in parts.items():
            digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()
            found[name_in(file, root, label)] = digest
    return found


def name_in(file: Path, root: Path, label: str) -> str:
    """A definition's name: ``"space.py: class Net"``."""
    name = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    return f"{name}: {label}"


def local_files(file: Path) -> list[Path]:
    """``file`` and the modules of its own folder that it imports, directly or not.

    It goes by the import statements alone, so that every process finds the same ones.
    """
    found = {file: None}
    ahead = [file]
    while ahead:
        here = ahead.pop()
        try:
            tree = ast.parse(here.read_bytes())
        except (OSError, SyntaxError, ValueError):  # a module that is never imported, perhaps
            if here != file:
                del found[here]
            continue
        for node in ast.walk(tree):
            for folder, name in _imported(node, here, file.parent):
                for module in _module_files(folder, name):
                    if module not in found:
                        found[module] = None
                        ahead.append(module)
    return [file, *sorted(set(found) - {file})]


def _imported(node: ast.AST, here: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """(folder to look in, dotted name) of what an import statement may import."""
    if isinstance(node, ast.Import):
        yield from ((root, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        folder = here.parents[node.level - 1] if node.level else root
        prefix = f"{node.module}." if node.module else ""
        yield from ((folder, f"{prefix}{alias.name}") for alias in node.names)


def _module_files(folder: Path, dotted: str) -> Iterator[Path]:
    for part in dotted.split("."):
        module, package = folder / f"{part}.py", folder / part / "__init__.py"
        if package.is_file():
            yield package
        elif module.is_file():
            yield module
        folder = folder / part


def label_of(statement: ast.stmt) -> str:
    """What a statement defines: ``class Net``, ``function score``, or the names it assigns."""
    if isinstance(statement, ast.ClassDef):
        return f"class {statement.name}"
    if isinstance(statement, _DEFINITIONS):
        return f"function {statement.name}"
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign):
        targets = [statement.target]
    names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return ", ".join(names) if names else "other statements"


def _text(statement: ast.stmt) -> str:
    for node in ast.walk(statement):
        if isinstance(node, _DEFINITIONS) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return ""  # the docstring of the file
    return ast.dump(statement)


def _is_main_guard(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.If)
        and isinstance(statement.test, ast.Compare)
        and isinstance(statement.test.left, ast.Name)
        and statement.test.left.id == "__name__"
    )


def normal(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as they read back from JSON, so that what was and what is compare alike."""
    read: dict[str, Any] = json.loads(json.dumps(plain(facts)))
    return read


def scoring(value: Any) -> Any:
    """What scores depend on: an evaluator's description without what may be chosen in it.

    Two evaluators that agree in it give the same score to the same decisions.
    """
    if isinstance(value, Mapping):
        return {key: scoring(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [scoring(inner) for inner in value]
    if isinstance(value, str) and (found := _CHOICE.match(value)) is not None:
        return f"chosen{found['label'] or ''}"
    return value


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Accepts the facts of a resumed search, or says what differs.

    Raises:
        StoreError: the facts differ; each difference is one line.
    """
    # Earlier versions took what it ran on for a part of it.
    was = {name: fact for name, fact in normal(before).items() if name != "executor"}
    lines = list(difference(was, normal(now)))
    if not lines:
        return
    shown = lines[:_SHOWN_LINES]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    raise StoreError(
        "this directory holds another search; what differs:\n    " + "\n    ".join(shown),
        where=where,
        fix="run the same command on it (only a larger number of trials or budget may change), "
        "or choose another directory",
    )


def difference(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Lines that say where two JSON values differ: ``seed: was 0, is 1``.

    Of two things of different kinds it says just that: their fields have nothing in common.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in _KINDS:
            was, is_ = before.get(key), now.get(key)
            if isinstance(was, str) and isinstance(is_, str) and was != is_:
                yield f"{path}: {_change(was, is_)}" if path else f"{key}: {_change(was, is_)}"
                return
        for key in dict.fromkeys([*before, *now]):
            inner = f"{path}.{key}" if path else str(key)
            yield from difference(before.get(key, _ABSENT), now.get(key, _ABSENT), inner)
    elif before is _ABSENT:
        yield f"{path}: new" if _is_hash(now) else f"{path}: new, is {_short(now)}"
    elif now is _ABSENT:
        yield f"{path}: gone" if _is_hash(before) else f"{path}: gone, was {_short(before)}"
    elif before != now:
        yield f"{path}: {_change(before, now)}"


def _change(before: Any, now: Any) -> str:
    if _is_hash(before) and _is_hash(now):
        return "changed"
    if isinstance(before, str) and isinstance(now, str) and "\n" in before + now:
        lines = zip_longest(before.splitlines(), now.splitlines(), fillvalue="")
        for number, (was, is_) in enumerate(lines, 1):
            if was != is_:
                return f"line {number} was {_short(was.strip())}, is {_short(is_.strip())}"
    was, is_ = _short(before), _short(now)
    return "changed" if was == is_ else f"was {was}, is {is_}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) >= 16 and not set(value) - set("0123456789abcdef")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
