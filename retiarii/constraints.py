"""Constraints on a space: what a candidate must satisfy, asked before any weight exists."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retiarii.errors import InfeasibleError, RetiariiError, SpaceError
from retiarii.mutators.choice import show

if TYPE_CHECKING:
    from retiarii.space import Candidate

_LONGEST = 80


class UnmetError(InfeasibleError):
    """A candidate that violates a constraint.

    Attributes:
        constraint: as errors name it.
    """

    constraint: str = ""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One condition on candidates.

    Attributes:
        test: candidate -> whether it will do.
        name: as errors name it; the source of a lambda, where nothing else was said.
        where: ``file:line`` of the function; ``None`` where Python does not know.
        source: what the test says, for telling whether a search is the same.
    """

    test: Callable[[Candidate], Any]
    name: str
    where: str | None
    source: str

    @staticmethod
    def of(test: Callable[[Candidate], Any], name: str | None) -> Constraint:
        """A constraint from what `ModelSpace.require` is given.

        Raises:
            SpaceError: ``test`` cannot be called.
        """
        if not callable(test):
            raise SpaceError(
                f"require was given {show(test)}, which cannot be called",
                fix="give a function of a candidate: lambda c: c.cost().params < 1e6",
            )
        node = _written(test)
        code = getattr(test, "__code__", None)
        where = f"{code.co_filename}:{code.co_firstlineno}" if code is not None else None
        text = ast.unparse(node.body) if isinstance(node, ast.Lambda) else show(test)
        if text == "<lambda>":
            text = "a lambda"
        short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
        return Constraint(test, name or short, where, _source(test, node))

    def check(self, candidate: Candidate) -> None:
        """Raises where the candidate will not do.

        Raises:
            UnmetError: the test said no.
            SpaceError: the test raised, or said neither yes nor no.
        """
        try:
            answer = self.test(candidate)
            met = bool(answer)
        except InfeasibleError:
            raise
        except Exception as error:
            cause = error.cause if isinstance(error, RetiariiError) else error
            raise SpaceError(
                f"the constraint `{self.name}` raised {type(error).__name__}: {cause}",
                where=self._place(candidate),
                fix="mend it; decisions that not all candidates have: c.decisions.get(label)",
            ) from error
        if answer is None:
            raise SpaceError(
                f"the constraint `{self.name}` returned nothing",
                where=self.where,
                fix="let it return whether the candidate will do",
            )
        if not met:
            unmet = UnmetError(
                f"the constraint `{self.name}` is not met",
                where=self._place(candidate),
                fix="choose otherwise, or loosen the constraint",
            )
            unmet.constraint = self.name
            raise unmet

    def _place(self, candidate: Candidate) -> str:
        decisions = ", ".join(f"{k}: {show(v)}" for k, v in candidate.decisions.items())
        return f"{self.where or 'require'}; decisions {{{decisions}}}"

    def describe(self) -> dict[str, str]:
        """For the identity of a search: what it says, and not where it stands."""
        return {"name": self.name, "source": self.source}


class Refusals:
    """Why samples were refused, for the error that says that none was feasible."""

    def __init__(self) -> None:
        self._unmet: Counter[str] = Counter()
        self._last: dict[str, InfeasibleError] = {}
        self._number = 0

    def note(self, error: InfeasibleError) -> None:
        """Counts one sample."""
        name = error.constraint if isinstance(error, UnmetError) else ""
        self._number += 1
        self._unmet[name] += 1
        self._last[name] = error

    def error(self) -> InfeasibleError:
        """The error, which names what refused most."""
        (most, times), *others = self._unmet.most_common()
        last = self._last[most]
        if not most and not others:
            return InfeasibleError(
                f"{last.cause} (the last of {self._number} samples, none of which was feasible)",
                where=last.where,
                fix=last.fix,
            )
        reasons = [_counted(most, times), *(_counted(name, n) for name, n in others)]
        return InfeasibleError(
            f"none of {self._number} samples was feasible: {', '.join(reasons)}",
            where=f"the last of the {times}: {last.where}",
            fix="loosen the constraint, or give the mutators options that can meet it"
            if most
            else last.fix,
        )


def _counted(name: str, times: int) -> str:
    return f"{times} did not meet `{name}`" if name else f"{times} led to no model"


# --- what a function says ------------------------------------------------------------------------


def _written(test: Any) -> ast.Lambda | ast.FunctionDef | None:
    """The function's part of its file's syntax tree, where there is a file."""
    code = getattr(test, "__code__", None)
    if code is None:
        return None
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except (SyntaxError, ValueError):
        return None
    first = code.co_firstlineno
    spots = [(line, column) for line, _, column, _ in code.co_positions() if line and column]
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Lambda | ast.FunctionDef)
        and _called(node) == code.co_name
        and first in (node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ())))
        and all(_holds(node, *spot) for spot in spots)
    ]
    # Of lambdas in lambdas, the one that holds no more than it must.
    return min(found, key=lambda node: len(ast.dump(node)), default=None)


def _called(node: ast.Lambda | ast.FunctionDef) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _holds(node: ast.Lambda | ast.FunctionDef, line: int, column: int) -> bool:
    last = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= (line, column) <= last


def _source(test: Any, node: ast.Lambda | ast.FunctionDef | None) -> str:
    """What the test says and the values that it uses, without layout and without addresses."""
    code = getattr(test, "__code__", None)
    if code is None:
        fields = sorted((k, show(v)) for k, v in getattr(test, "__dict__", {}).items())
        called = type(test).__call__
        return f"{type(test).__qualname__} {fields} {_source(called, _written(called))}"
    if node is not None:
        said = ast.unparse(node)
    else:
        constants = [show(c) for c in code.co_consts if not inspect.iscode(c)]
        said = f"{code.co_code.hex()} {code.co_names} {constants}"
    closed = inspect.getclosurevars(test)
    outside = {**closed.globals, **closed.nonlocals}
    values = {name: show(value) for name, value in sorted(outside.items()) if _is_plain(value)}
    given = [show(value) for value in (test.__defaults__ or ())]
    return f"{said} with {values} {given}" if values or given else said


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
