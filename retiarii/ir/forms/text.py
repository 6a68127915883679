"""The readable text form of a graph, which round-trips its structure exactly.

    graph (batch=2, training=True) {
      forward (x=$0)
      %x = input() : float32[2, 1, 8, 8]
      %stem.0 = Conv2d(%x, in_channels=1, ...) @ "stem.0" : float32[2, 16, 8, 8]
      return %stem.0
    }

Weights and opaque modules are not in the text: a graph read from it is built with fresh weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from retiarii.errors import GraphError
from retiarii.ir.context import FixedSize, GraphContext, InputSpec
from retiarii.ir.forms.text_print import print_graph
from retiarii.ir.forms.text_read import LineReader
from retiarii.ir.graph import Graph
from retiarii.ir.infer import TypeCache
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import FrozenList, Ref, Result, TensorType, map_leaves
from retiarii.ir.verify import verify

__all__ = ["parse_text", "print_graph"]


@dataclass
class _Draft:
    """What has been read so far."""

    batch: int = 1
    batch_input: int = 0
    training: bool = True
    forward: InputSpec | None = None
    fixed: set[str] = field(default_factory=set)
    sizes: list[FixedSize] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)
    ties: dict[str, str] = field(default_factory=dict)
    modes: dict[str, bool] = field(default_factory=dict)
    constants: dict[str, torch.Tensor] = field(default_factory=dict)
    records: dict[str, NodeRecord] = field(default_factory=dict)
    outputs: tuple[Ref, ...] | None = None
    structure: Any = None


def parse_text(text: str) -> Graph:
    """The graph that `print_graph` printed.

    Args:
        text: a whole ``graph (...) { ... }``; ``#`` starts a comment.

    Returns:
        A graph that verifies, without weights.

    Raises:
        GraphError: with the number of the line that is not right, or the node that is not.
    """
    lines = [
        reader
        for number, line in enumerate(text.splitlines(), 1)
        if not (reader := LineReader(line, number)).empty
    ]
    if not lines:
        raise GraphError("the text has no graph in it", fix="start with 'graph (batch=1) {'")
    draft = _Draft()
    _read_header(lines[0], draft)
    closed = False
    for line in lines[1:]:
        if closed:
            line.fail("there is text behind the graph's closing brace")
        closed = _read_line(line, draft)
    if not closed:
        lines[-1].fail("the graph is not closed", "add a last line '}'")
    if draft.outputs is None:
        lines[-1].fail("the graph returns nothing", "add a line such as 'return %x' before '}'")
    graph = _assemble(draft, lines[-1])
    verify(graph)
    return graph


def _assemble(draft: _Draft, last: LineReader) -> Graph:
    inputs = [r.name for r in draft.records.values() if r.op == "input"]
    forward = draft.forward
    if forward is None:
        unfit = [name for name in inputs if not name.isidentifier()]
        if unfit:
            last.fail(
                f"input {unfit[0]!r} is no parameter's name", "add a line 'forward (x=$0, ...)'"
            )
        forward = InputSpec.plain(tuple(inputs))
    context = GraphContext(
        forward=forward,
        batch=draft.batch,
        batch_input=draft.batch_input,
        training=draft.training,
        ties=draft.ties,
        constants=draft.constants,
        modes=draft.modes,
        frozen=frozenset(draft.frozen),
        fixed=frozenset(draft.fixed),
        sizes=tuple(draft.sizes),
        types=TypeCache(draft.batch),
    )
    assert draft.outputs is not None
    return Graph.build(draft.records.values(), draft.outputs, draft.structure, context)


def _read_header(line: LineReader, draft: _Draft) -> None:
    line.expect("graph")
    _, attrs = line.call()
    line.expect("{")
    line.end()
    unknown = set(attrs) - {"batch", "batch_input", "training"}
    if unknown:
        line.fail(
            f"a graph has no {sorted(unknown)[0]!r}", "it has batch, batch_input and training"
        )
    batch, training = attrs.get("batch", 1), attrs.get("training", True)
    counted = attrs.get("batch_input", 0)
    if type(counted) is not int or counted < 0:
        line.fail("batch_input is the number of an input")
    draft.batch_input = counted
    if type(batch) is not int or batch < 1 or type(training) is not bool:
        line.fail("batch is a positive number, and training is True or False")
    draft.batch, draft.training = batch, training


def _read_line(line: LineReader, draft: _Draft) -> bool:
    """Reads one line; whether it closes the graph."""
    kind, text = line.peek()
    if kind == "mark" and line.take("}"):
        line.end()
        return True
    if draft.outputs is not None:
        line.fail("a line stands behind the return")
    if kind == "ref":
        _read_record(line, draft)
    elif kind == "name" and text in _STATEMENTS:
        line.take(text)
        _STATEMENTS[text](line, draft)
    else:
        line.fail(f"a line cannot start with {text!r}", "start it with %name = op(...)")
    line.end()
    return False


def _read_record(line: LineReader, draft: _Draft) -> None:
    target = line.ref()
    if target.index:
        line.fail("a node is named without the number of a result")
    if target.node in draft.records:
        line.fail(f"two nodes are called {target.node!r}", "rename one of them")
    line.expect("=")
    op = line.name("an op")
    inputs, attrs = line.call()
    for ref in inputs:
        _check_ref(line, ref, draft)
    result = line.value(Result) if line.take("->") else None
    path = line.string("a module's path") if line.take("@") else None
    fresh = line.take("fresh")
    no_grad = line.take("no_grad")
    types: list[TensorType] = []
    if line.take(":"):
        types.append(line.tensor_type())
        while line.take(","):
            types.append(line.tensor_type())
    draft.records[target.node] = NodeRecord(
        target.node, op, inputs, attrs, tuple(types), result, path, fresh, no_grad
    )


def _read_forward(line: LineReader, draft: _Draft) -> None:
    line.expect("(")
    params: list[tuple[str, Any]] = []
    keyword_only: set[str] = set()
    starred = False
    while not line.take(")"):
        if line.take("*"):
            starred = True
        else:
            name = line.name("a parameter")
            line.expect("=")
            params.append((name, line.value(Result)))
            if starred:
                keyword_only.add(name)
        if not line.take(","):
            line.expect(")")
            break
    draft.forward = InputSpec(tuple(params), frozenset(keyword_only))


def _read_fixed(line: LineReader, draft: _Draft) -> None:
    what = line.name("batch, size or training")
    if what == "size":
        number, dim = line.integer("an input's number"), line.integer("a dimension")
        draft.sizes.append(FixedSize(number, dim))
    elif what in ("batch", "training"):
        draft.fixed.add(what)
    else:
        line.fail(f"{what!r} cannot be fixed", "batch, size and training can")


def _read_frozen(line: LineReader, draft: _Draft) -> None:
    draft.frozen.add(line.string())


def _read_tie(line: LineReader, draft: _Draft) -> None:
    alias = line.string()
    line.expect("=")
    draft.ties[alias] = line.string()


def _read_mode(line: LineReader, draft: _Draft) -> None:
    path = line.string()
    line.expect("=")
    draft.modes[path] = line.boolean()


def _read_value(line: LineReader, draft: _Draft) -> None:
    key = line.string()
    line.expect("=")
    numbers = line.value()
    line.expect(":")
    kind = line.tensor_type()
    try:
        tensor = torch.tensor(_lists(numbers), dtype=kind.dtype).reshape(kind.shape)
    except (TypeError, ValueError, RuntimeError) as error:
        line.fail(f"the numbers do not make a {kind}: {error}")
    draft.constants[key] = tensor


def _read_return(line: LineReader, draft: _Draft) -> None:
    refs: list[Ref] = []

    def place(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            refs.append(leaf)
            return Result(len(refs) - 1)
        return leaf

    structure = map_leaves(place, line.value(Result))
    if line.take("as"):
        structure = line.value(Result)
    for ref in refs:
        _check_ref(line, ref, draft)
    draft.outputs, draft.structure = tuple(refs), structure


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, FrozenList) else value


def _check_ref(line: LineReader, ref: Ref, draft: _Draft) -> None:
    record = draft.records.get(ref.node)
    if record is None:
        line.fail(f"%{ref.node} is read, but no line above makes it", "define it in a line above")
    if ref.index >= len(record.types):
        line.fail(f"%{ref.node} has no result number {ref.index}", f"it makes {len(record.types)}")


_STATEMENTS: Mapping[str, Callable[[LineReader, _Draft], None]] = {
    "forward": _read_forward,
    "fixed": _read_fixed,
    "frozen": _read_frozen,
    "tie": _read_tie,
    "mode": _read_mode,
    "value": _read_value,
    "return": _read_return,
}
