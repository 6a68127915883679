"""Two traces of one model, one in each mode, made one: ``by_mode`` nodes choose where they part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch

from retiarii.ir.node import NodeRecord
from retiarii.ir.op_rows.spec import OpSpec
from retiarii.ir.ops import op_spec
from retiarii.ir.tracing.events import Enter, Event, Leave, Trace
from retiarii.ir.types import (
    Attrs,
    ByMode,
    FrozenDict,
    FrozenList,
    Ref,
    TensorType,
    Training,
    map_leaves,
)

_CHOICE = "by_mode"


def merge_modes(one: Trace, two: Trace) -> Trace:
    """One trace for both modes.

    What both runs do is written once, by the names of the first. What only one does stays, and
    where a value that both need was made in two ways, a ``by_mode`` node chooses.

    Args:
        one: a run.
        two: one at the same batch size, in the other mode.
    """
    return _Merge(one, two).made()


@dataclass(frozen=True, slots=True)
class _Block:
    """A module's call: what its forward did."""

    path: str
    parts: tuple[_Item, ...]


_Item = NodeRecord | _Block


class _Merge:
    def __init__(self, one: Trace, two: Trace) -> None:
        self._one, self._two = one, two
        self._events: list[Event] = []
        self._sources = dict(one.sources)
        self._constants = dict(one.constants)
        self._here: dict[Ref, Ref] = {}  # a value of the second trace -> the one that it is here
        self._chosen: dict[tuple[Ref, Ref], Ref] = {}
        self._types: dict[str, tuple[TensorType, ...]] = {}
        self._taken = {e.name for e in one.events if isinstance(e, NodeRecord)}
        self._taken.update(r.name for r in (*one.inputs, *one.sources.values()))
        for record in (*one.inputs, *one.sources.values()):
            self._types[record.name] = record.types
        for record in two.sources.values():
            self._enter_source(record)

    def made(self) -> Trace:
        self._together(_blocks(self._one.events), _blocks(self._two.events))
        one = self._one
        outputs = self._value(one.outputs, self._moved(self._two.outputs))
        return Trace(
            one.batch,
            one.training,
            tuple(self._events),
            one.inputs,
            self._sources,
            self._constants,
            outputs,
            one.random,
            one.stateful,
        )

    def _enter_source(self, record: NodeRecord) -> None:
        """A parameter, buffer or constant that the second trace uses."""
        own = self._sources.get(record.name)
        if record.op != "constant":
            self._sources.setdefault(record.name, record)
        elif own is None or not same_numbers(
            self._one.constants[own.attrs["key"]], self._two.constants[record.attrs["key"]]
        ):
            name, key = self._free(record.name), record.attrs["key"]
            while key in self._constants:
                key += "_"
            self._constants[key] = self._two.constants[record.attrs["key"]]
            self._sources[name] = record.with_(name=name, attrs=Attrs(key=key))
            self._here[Ref(record.name)] = Ref(name)
            record = self._sources[name]
        self._types.setdefault(record.name, record.types)

    def _free(self, wanted: str, mark: str = "_") -> str:
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}{mark}{number}"
        self._taken.add(name)
        return name

    # --- alignment ---------------------------------------------------------------------------

    def _together(self, ones: Sequence[_Item], twos: Sequence[_Item]) -> None:
        keys, others = [_key(i) for i in ones], [_key(i) for i in twos]
        if keys == others:
            for a, b in zip(ones, twos, strict=True):
                self._pair(a, b)
            return
        matcher = SequenceMatcher(None, keys, others, autojunk=False)
        for kind, i, j, k, n in matcher.get_opcodes():
            if kind == "equal":
                for a, b in zip(ones[i:j], twos[k:n], strict=True):
                    self._pair(a, b)
                continue
            for a in ones[i:j]:
                self._first_only(a)
            for b in twos[k:n]:
                self._second_only(b)

    def _pair(self, a: _Item, b: _Item) -> None:
        if isinstance(a, _Block) and isinstance(b, _Block):
            self._events.append(Enter(a.path))
            self._together(a.parts, b.parts)
            self._events.append(Leave(a.path, None))
            return
        assert isinstance(a, NodeRecord)
        assert isinstance(b, NodeRecord)
        inputs = [
            self._choice(x, self._here.get(y, y)) for x, y in zip(a.inputs, b.inputs, strict=True)
        ]
        alike = a.types == b.types and a.result == b.result and _same_keys(a, b)
        if not alike or None in inputs:
            self._first_only(a)
            self._second_only(b)
            return
        made = a
        refs = tuple(ref for ref in inputs if ref is not None)
        if a.attrs != b.attrs:
            made = a.with_(attrs=self._attrs(a, b))
        if refs != a.inputs:
            made = made.with_(inputs=refs)
        self._append(made)
        for index in range(len(b.types)):
            self._here[Ref(b.name, index)] = Ref(a.name, index)

    def _append(self, record: NodeRecord) -> None:
        self._events.append(record)
        self._types[record.name] = record.types

    def _first_only(self, item: _Item) -> None:
        for event in _events(item):
            if isinstance(event, NodeRecord):
                self._append(event)
            else:
                self._events.append(event)

    def _second_only(self, item: _Item) -> None:
        for record in _events(item):
            if not isinstance(record, NodeRecord):
                self._events.append(record)
                continue
            name = self._free(record.path or record.name, "@" if record.path else "_")
            inputs = tuple(self._here.get(ref, ref) for ref in record.inputs)
            self._append(record.with_(name=name, inputs=inputs))
            for index in range(len(record.types)):
                self._here[Ref(record.name, index)] = Ref(name, index)

    # --- choices -----------------------------------------------------------------------------

    def _choice(self, a: Ref, b: Ref) -> Ref | None:
        """What is ``a`` in the first trace's mode and ``b`` in the other; ``None``: no one tensor.

        Both are values of the merged trace.
        """
        if a == b:
            return a
        found = self._chosen.get((a, b))
        if found is not None:
            return found
        kind = self._types[a.node][a.index]
        if kind != self._types[b.node][b.index]:
            return None
        name = self._free(f"{a.node.rpartition('.')[0]}.{_CHOICE}".lstrip("."))
        pair = (a, b) if self._one.training else (b, a)
        self._append(NodeRecord(name, _CHOICE, pair, Attrs(training=Training()), (kind,)))
        self._chosen[a, b] = Ref(name)
        return Ref(name)

    def _attrs(self, a: NodeRecord, b: NodeRecord) -> Attrs:
        spec = op_spec(a.op)
        merged: dict[str, Any] = {}
        for key in dict.fromkeys((*a.attrs, *b.attrs)):
            merged[key] = self._value(_given(a, key, spec), _given(b, key, spec))
        return Attrs(merged)

    def _value(self, a: Any, b: Any) -> Any:
        """One value for two of the merged trace."""
        if isinstance(a, Ref) and isinstance(b, Ref):
            chosen = self._choice(a, b)
            return ByMode(*self._ordered(a, b)) if chosen is None else chosen
        if isinstance(a, tuple) and type(a) is type(b) and len(a) == len(b):
            parts = [self._value(x, y) for x, y in zip(a, b, strict=True)]
            return type(a)(parts) if isinstance(a, FrozenDict | FrozenList) else tuple(parts)
        if isinstance(a, slice) and isinstance(b, slice):
            return slice(*(self._value(getattr(a, n), getattr(b, n)) for n in _SLICE))
        if type(a) is type(b) and (a == b or a != a):
            return a
        return chosen_value(*self._ordered(a, b))

    def _ordered(self, a: Any, b: Any) -> tuple[Any, Any]:
        return (a, b) if self._one.training else (b, a)

    def _moved(self, value: Any) -> Any:
        """A value of the second trace, by the names of the merged one."""
        return _map_refs(lambda ref: self._here.get(ref, ref), value)


_SLICE = ("start", "stop", "step")


def chosen_value(training: Any, evaluating: Any) -> Any:
    """What stands for a value in each mode."""
    if type(training) is bool and type(evaluating) is bool:
        return Training(inverted=not training)
    return ByMode(training, evaluating)


def same_numbers(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are equal, NaNs included."""
    if a is b:
        return True
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _same_keys(a: NodeRecord, b: NodeRecord) -> bool:
    """Whether each argument is given in both, or has a default."""
    return a.attrs.keys() == b.attrs.keys() or all(
        key in op_spec(a.op).defaults for key in a.attrs.keys() ^ b.attrs.keys()
    )


def _given(record: NodeRecord, key: str, spec: OpSpec) -> Any:
    """An argument, or the default that a record leaves out."""
    return record.attrs[key] if key in record.attrs else spec.defaults.get(key)


def _map_refs(fn: Any, value: Any) -> Any:
    if isinstance(value, Ref):
        return fn(value)
    if isinstance(value, FrozenDict | FrozenList):
        return type(value)(_map_refs(fn, v) for v in value)
    if type(value) is tuple:
        return tuple(_map_refs(fn, v) for v in value)
    return map_leaves(lambda v: fn(v) if isinstance(v, Ref) else v, value)


def _key(item: _Item) -> Any:
    if isinstance(item, _Block):
        return item.path
    return item.op, item.path, item.no_grad, len(item.inputs), len(item.types)


def _events(item: _Item) -> Iterator[Event]:
    if isinstance(item, NodeRecord):
        yield item
        return
    yield Enter(item.path)
    for part in item.parts:
        yield from _events(part)
    yield Leave(item.path, None)


def _blocks(events: Sequence[Event]) -> tuple[_Item, ...]:
    """The events as a tree of module calls."""
    stack: list[tuple[str, list[_Item]]] = [("", [])]
    for event in events:
        if isinstance(event, Enter):
            stack.append((event.path, []))
        elif isinstance(event, Leave):
            path, parts = stack.pop()
            stack[-1][1].append(_Block(path, tuple(parts)))
        else:
            stack[-1][1].append(event)
    return tuple(stack[0][1])
