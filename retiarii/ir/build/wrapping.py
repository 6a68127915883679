"""Long statements broken into lines, as a formatter breaks them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise

INDENT = "    "
# Of a line in the body of a method.
WIDTH = 100 - 2 * len(INDENT)
_OPENING, _CLOSING = "([{", ")]}"
_OPERATOR = re.compile(r" (?:[-+*/@]|if|else) ")


def broken(statement: str, width: int = WIDTH) -> Iterator[str]:
    """A statement, indented or not, in as many lines as it takes.

    Args:
        statement: one line of Python.
        width: what a line may have.
    """
    code = statement.lstrip()
    indent = statement[: len(statement) - len(code)]
    width -= len(indent)
    if len(code) <= width:
        yield statement
        return
    prefix = _prefix(code)
    made = code[len(prefix) :]
    targets = _parts(prefix[: -len(" = ")]) if len(prefix) > width else []
    if len(targets) > 1:
        yield from (f"{indent}{line}" for line in ("(", *(f"{INDENT}{t}," for t in targets)))
        prefix = ") = "
    lines = _opened(prefix, made, "", width)
    if prefix and (_places(_OPERATOR, made) or len(lines[0]) > width):
        inner = width - len(INDENT)
        terms = _terms(made) if len(made) > inner else [made]
        lines = [f"{INDENT}{line}" for term in terms for line in _opened("", term, "", inner)]
        lines = [f"{prefix}(", *lines, ")"]
    yield from (f"{indent}{line}" for line in lines)


def _prefix(code: str) -> str:
    """What stands before the expression: ``x = `` or ``return ``."""
    if code.startswith("return "):
        return "return "
    equals = _places(re.compile(" = "), code)
    return code[: equals[0] + len(" = ")] if equals else ""


def _opened(prefix: str, made: str, end: str, width: int) -> list[str]:
    """An expression with what is in its last brackets on lines of its own, if it is too long.

    Where the part before those brackets is too long itself, the longest brackets are opened.
    """
    line = f"{prefix}{made}{end}"
    groups = _outermost(made) if len(line) > width else []
    if not groups:
        return [line]
    start, stop = groups[-1]
    if len(prefix) + start >= width or stop - start == 1:
        start, stop = max(groups, key=lambda group: group[1] - group[0])
    within = made[start + 1 : stop].rstrip()
    parts = _parts(within)
    if not parts:
        return [line]
    before = made[start - 1 : start]
    applied = before.isalnum() or before in ("_", ")", "]")  # f(...), x[...]
    # Elsewhere a comma behind a single part would make it a tuple.
    comma = "," if applied == (made[start] == "(") or len(parts) > 1 else ""
    given = "," if within.endswith(",") else ""
    joined = f"{INDENT}{', '.join(parts)}{given}"
    if len(joined) <= width:
        inner = [joined]
    elif all(part.replace(".", "").replace("-", "").isalnum() for part in parts):  # numbers
        inner = [f"{INDENT}{line}" for line in _filled(parts, comma or given, width - len(INDENT))]
    else:
        inner = []
        for i, part in enumerate(parts):
            behind = "," if i < len(parts) - 1 else comma or given
            inner += [f"{INDENT}{s}" for s in _opened("", part, behind, width - len(INDENT))]
    return [f"{prefix}{made[: start + 1]}", *inner, f"{made[stop:]}{end}"]


def _filled(parts: list[str], comma: str, width: int) -> list[str]:
    return textwrap.wrap(
        ", ".join(parts) + comma, max(width, 1), break_long_words=False, break_on_hyphens=False
    )


def _terms(made: str) -> list[str]:
    """The terms of a sum, or the branches of a condition, each with the operator before it."""
    cuts = [0, *_places(_OPERATOR, made), len(made)]
    return [made[a:b].strip() for a, b in pairwise(cuts)]


def _places(pattern: re.Pattern[str], text: str) -> list[int]:
    """Where a pattern is found outside of brackets and strings."""
    plain = [" "] * len(text)
    depth = 0
    for i, character in _code(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        plain[i] = "x" if depth or character in _CLOSING else character
    return [match.start() for match in pattern.finditer("".join(plain))]


def _outermost(text: str) -> list[tuple[int, int]]:
    """Where the outermost brackets open and close."""
    found: list[tuple[int, int]] = []
    depth = start = 0
    for i, character in _code(text):
        if character in _OPENING:
            start = i if not depth else start
            depth += 1
        elif character in _CLOSING:
            depth -= 1
            if not depth:
                found.append((start, i))
    return found


def _parts(text: str) -> list[str]:
    """What stands between the commas that are in no brackets."""
    cuts, depth = [-1], 0
    for i, character in _code(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == "," and not depth:
            cuts.append(i)
    parts = [text[a + 1 : b].strip() for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
    return [part for part in parts if part]


def _code(text: str) -> Iterator[tuple[int, str]]:
    """The characters that are in no string, with their places."""
    quote, escaped = "", False
    for i, character in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == quote:
                quote = ""
        elif character in "\"'":
            quote = character
        else:
            yield i, character
