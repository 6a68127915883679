"""Two traces made one: what changed with the batch size becomes symbolic, and so does the mode."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.tracing.by_mode import chosen_value, same_numbers
from retiarii.ir.tracing.events import Enter, Event, Leave, Trace
from retiarii.ir.types import Attrs, BatchSize, ByMode, FrozenDict, FrozenList, Ref, Training

# (value in the first trace, value in the second) -> what stands for both; `None`: nothing does.
Solve = Callable[[Any, Any], Any]
_LARGEST_DIVISOR = 64


class DivergedError(Exception):
    """Two traces that no one graph stands for.

    Args:
        path: the smallest module in which they part.
        detail: what differs, one line.
        where: ``file:line``.
    """

    def __init__(self, path: str, detail: str, where: str | None) -> None:
        super().__init__(detail)
        self.path = path
        self.detail = detail
        self.where = where


class _DiffersError(Exception):
    pass


def solve_batch(first: int, second: int) -> Solve:
    """Makes integers a function of the batch size, which was ``first`` and ``second``."""

    def solve(value: Any, other: Any) -> Any:
        if type(value) is not int or type(other) is not int:
            return None
        scale, rest = divmod(other - value, second - first)
        if not rest:
            return BatchSize(scale, 1, value - scale * first)
        for divisor in range(2, _LARGEST_DIVISOR + 1):
            for scale in range(1, divisor):
                found = BatchSize(scale, divisor, value - scale * first // divisor)
                if found.at(second) == other:
                    return found
        return None

    return solve


def solve_both(one: Trace, two: Trace) -> Solve:
    """Makes integers a function of the batch size, and all else one of the mode.

    Two traces that differ in both cannot tell which it is: compare with a third one.
    """
    by_batch = solve_batch(one.batch, two.batch)

    def solve(value: Any, other: Any) -> Any:
        if type(value) is int and type(other) is int:
            return by_batch(value, other)
        if isinstance(value, Ref) or isinstance(other, Ref) or isinstance(value, tuple):
            return None
        return chosen_value(*((value, other) if one.training else (other, value)))

    return solve


def solve_nothing(value: Any, other: Any) -> Any:
    """No two different values are one."""
    del value, other
    return None


def unify(one: Trace, two: Trace, solve: Solve) -> Trace:
    """The first trace, with what ``solve`` says where the second differs.

    Raises:
        DivergedError: the traces differ in what ``solve`` has no answer to.
    """
    solve = _beside_known(solve, one, two)
    events: list[Event] = []
    open_paths = [""]
    for a, b in zip_longest(one.events, two.events):
        try:
            events.append(_event(a, b, solve, one, two))
        except _DiffersError as error:
            where = next((e.where for e in (a, b) if isinstance(e, NodeRecord)), None)
            raise DivergedError(open_paths[-1], str(error), where) from None
        if isinstance(a, Enter):
            open_paths.append(a.path)
        elif isinstance(a, Leave):
            open_paths.pop()
    try:
        outputs = _value(one.outputs, two.outputs, solve)
    except _DiffersError as error:
        raise DivergedError("", f"returns {error}", None) from None
    return Trace(
        one.batch,
        one.training,
        tuple(events),
        one.inputs,
        one.sources,
        one.constants,
        outputs,
        one.random,
        one.stateful,
    )


def _beside_known(solve: Solve, one: Trace, two: Trace) -> Solve:
    """Also takes what earlier pairs of traces told, where it foretells the other trace."""

    def foretold(value: Any, other: Any) -> Any:
        if isinstance(value, BatchSize):
            return value if type(other) is int and value.at(two.batch) == other else None
        if isinstance(value, ByMode) and not isinstance(other, ByMode):
            here = value.training if two.training else value.evaluating
            if isinstance(here, BatchSize) and type(other) is int:
                return value if here.at(two.batch) == other else None
            return value if type(here) is type(other) and here == other else None
        if isinstance(value, Training):
            return value if other is (two.training is not value.inverted) else None
        if isinstance(other, Training):
            return other if value is (one.training is not other.inverted) else None
        return solve(value, other)

    return foretold


def _event(a: Event | None, b: Event | None, solve: Solve, one: Trace, two: Trace) -> Event:
    if a is None or b is None or type(a) is not type(b):
        raise _DiffersError(f"{_shown(a)} or {_shown(b)}")
    if isinstance(a, Enter) and isinstance(b, Enter):
        if a.path != b.path:
            raise _DiffersError(f"calls {a.path!r} or {b.path!r}")
        return a
    if isinstance(a, Leave) and isinstance(b, Leave):
        return Leave(a.path, _value(a.result, b.result, solve))
    assert isinstance(a, NodeRecord)
    assert isinstance(b, NodeRecord)
    if (a.op, a.path, a.no_grad) != (b.op, b.path, b.no_grad):
        raise _DiffersError(f"{_shown(a)} or {_shown(b)}")
    if a.inputs != b.inputs or a.name != b.name:
        raise _DiffersError(f"{a.op} of {_refs(a)} or of {_refs(b)}")
    if [t.dtype for t in a.types] != [t.dtype for t in b.types]:
        raise _DiffersError(f"{a.op} of another dtype")
    for ref in a.inputs:
        _constants(ref, one, two)
    attrs = _attrs(a, b, solve)
    result = _value(a.result, b.result, solve)
    if attrs is a.attrs and result is a.result:
        return a
    return a.with_(attrs=attrs, result=result)


def _attrs(a: NodeRecord, b: NodeRecord, solve: Solve) -> Attrs:
    if a.attrs == b.attrs:
        return a.attrs
    # An argument that equals its default is left out.
    defaults = op_spec(a.op).defaults
    merged: dict[str, Any] = {}
    for key in dict.fromkeys((*a.attrs, *b.attrs)):
        if any(key not in attrs and key not in defaults for attrs in (a.attrs, b.attrs)):
            raise _DiffersError(f"{a.op} with {_keys(a)} or {_keys(b)}")
        value, other = (at[key] if key in at else defaults[key] for at in (a.attrs, b.attrs))
        try:
            merged[key] = _value(value, other, solve)
        except _DiffersError as error:
            raise _DiffersError(f"{a.op} with {key}={error}") from None
    return Attrs(merged)


def _value(a: Any, b: Any, solve: Solve) -> Any:
    """One value for two; ``a`` itself where they are equal."""
    if a is b:
        return a
    if isinstance(a, tuple) and type(a) is type(b) and not isinstance(a, Ref):
        if len(a) != len(b):
            raise _DiffersError(f"{len(a)} or {len(b)} values")
        made = [_value(x, y, solve) for x, y in zip(a, b, strict=True)]
        if all(x is y for x, y in zip(made, a, strict=True)):
            return a
        return type(a)(made) if isinstance(a, FrozenDict | FrozenList) else tuple(made)
    if isinstance(a, slice) and isinstance(b, slice):
        made = [_value(getattr(a, n), getattr(b, n), solve) for n in ("start", "stop", "step")]
        return slice(*made)
    if isinstance(a, ByMode) and isinstance(b, ByMode):
        made = [_value(getattr(a, n), getattr(b, n), solve) for n in ("training", "evaluating")]
        return ByMode(*made)
    if type(a) is type(b) and (a == b or a != a):
        return a
    solved = solve(a, b)
    if solved is None:
        raise _DiffersError(f"{a!r} or {b!r}")
    return solved


def _constants(ref: Ref, one: Trace, two: Trace) -> None:
    source = one.sources.get(ref.node)
    if source is None or source.op != "constant":
        return
    key = source.attrs["key"]
    a, b = one.constants[key], two.constants.get(key)
    if a is b:
        return
    if b is None or not same_numbers(a, b):
        raise _DiffersError(f"the tensor {key!r}, whose value changes")


def _keys(record: NodeRecord) -> str:
    return ", ".join(record.attrs) or "no arguments"


def _refs(record: NodeRecord) -> str:
    return ", ".join(ref.node for ref in record.inputs) or "nothing"


def _shown(event: Event | None) -> str:
    if event is None:
        return "ends"
    if isinstance(event, Enter):
        return f"calls {event.path!r}"
    return "returns" if isinstance(event, Leave) else f"calls {event.op}"
