"""The forward of a graph as straight-line Python: what `build` executes and `source` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retiarii.errors import GraphError
from retiarii.ir.build.checks import size_checks
from retiarii.ir.build.expressions import Expressions, Names
from retiarii.ir.build.tree import ModuleTree, Place, Style
from retiarii.ir.modes import sides
from retiarii.ir.ops import op_spec, split_call
from retiarii.ir.types import (
    BatchSize,
    ByMode,
    FrozenDict,
    FrozenList,
    InputDevice,
    Ref,
    Result,
    Training,
    TypeOf,
    leaves,
)

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

_INDENT = "    "
# The method by which generated code calls a model that is opaque as a whole.
WHOLE = "_call_whole"


@dataclass(frozen=True, slots=True)
class ForwardCode:
    """A forward, in parts.

    Attributes:
        signature: ``def forward(self, x):``.
        body: its lines, not yet indented.
        imports: the lines that bring the modules which it uses.
        helpers: the source of functions that it calls.
        classes: the classes that it calls, by the name it uses.
    """

    signature: str
    body: tuple[str, ...]
    imports: tuple[str, ...]
    helpers: tuple[str, ...]
    classes: Mapping[str, type]


def generate(graph: Graph, tree: ModuleTree, reserved: frozenset[str] = frozenset()) -> ForwardCode:
    """Writes the forward.

    Args:
        graph: a graph that verifies.
        tree: its places, which the code names.
        reserved: names that the code shall not use.

    Raises:
        GraphError: a node that no code can be written for.
    """
    return _Writer(graph, tree, reserved).write()


class _Writer:
    def __init__(self, graph: Graph, tree: ModuleTree, reserved: frozenset[str]) -> None:
        self._graph = graph
        self._tree = tree
        self._params = graph.context.forward.params
        self._records = _needed(graph)
        helpers = {op_spec(r.op).call for r in self._records if op_spec(r.op).helper is not None}
        self._names = Names(
            {name for name, _ in self._params} | helpers | reserved | {"with_attributes"}
        )
        self._variables: dict[Ref, str] = {}
        self._expressions = Expressions(self._names, self._leaf)
        self._helpers: dict[str, str] = {}

    def write(self) -> ForwardCode:
        signature = self._signature()
        body = list(self._unpack_inputs())
        body += self._nodes()
        structure = self._graph.output_structure
        outputs = self._graph.output_refs()
        returned = _replaced(Result(0) if structure is None else structure, outputs)
        text = self._expressions.value(returned)
        if isinstance(returned, ByMode):
            text = text[1:-1]
        if type(returned) is tuple and returned and text.startswith("(") and len(returned) > 1:
            text = text[1:-1]
        body.append(f"return {text}")
        expressions = self._expressions
        return ForwardCode(
            signature,
            tuple(body),
            tuple(expressions.imports),
            (*self._helpers.values(), *expressions.helpers.values()),
            expressions.classes,
        )

    # --- arguments ---------------------------------------------------------------------------

    def _signature(self) -> str:
        spec = self._graph.context.forward
        positional = [p for p in self._params if p[0] not in spec.keyword_only]
        by_name = [p for p in self._params if p[0] in spec.keyword_only]
        parts = ["self"]
        optional = False
        for name, structure in positional:
            if _holds_input(structure):
                # A default may not stand before a parameter without one.
                parts.append(self._annotated(name, structure) + " = None" * optional)
            else:
                optional = True
                parts.append(self._defaulted(name, structure))
        if by_name:
            parts.append("*")
            parts += [
                self._annotated(n, s) if _holds_input(s) else self._defaulted(n, s)
                for n, s in by_name
            ]
        return f"def forward({', '.join(parts)}):"

    def _annotated(self, name: str, structure: Any) -> str:
        if isinstance(structure, Result):
            return f"{name}: {self._expressions.library('torch.Tensor')}"
        return name

    def _defaulted(self, name: str, structure: Any) -> str:
        return f"{name}={self._expressions.value(structure)}"

    def _unpack_inputs(self) -> Iterator[str]:
        inputs = [node.record.name for node in self._graph.inputs]
        for name, structure in self._params:
            for index, access in access_paths(structure):
                ref = Ref(inputs[index])
                if ref in self._variables:
                    continue
                if not access:
                    self._variables[ref] = name
                    continue
                self._variables[ref] = self._names.new(inputs[index])
                yield f"{self._variables[ref]} = {name}{access}"
        for name, structure in self._params:
            if not _holds_input(structure) and isinstance(
                structure, bool | int | float | str | type(None)
            ):
                yield from self._check_constant(name, structure)
        distinct = {r.attrs for r in self._records}
        held = [leaf for attrs in distinct for v in attrs.values() for leaf in leaves(v)]
        yield from self._check_mode()
        if not inputs:
            return
        counted = self._variables[Ref(inputs[self._graph.context.batch_input])]
        first = self._variables[Ref(inputs[0])]
        yield from self._check_batch(counted)
        yield from size_checks(self._graph, {name: self._variables[Ref(name)] for name in inputs})
        if any(isinstance(leaf, BatchSize) for leaf in held):
            self._expressions.batch = self._names.new("batch")
            yield f"{self._expressions.batch} = {counted}.shape[0]"
        if any(isinstance(leaf, InputDevice) for leaf in held):
            self._expressions.device = f"{first}.device"

    def _check_constant(self, name: str, value: Any) -> Iterator[str]:
        """The graph holds what the model did for this value, and for no other."""
        text = self._expressions.value(value)
        test = f"{name} is not None" if value is None else f"{name} != {text}"
        yield f"if {test}:"
        yield f'{_INDENT}raise ValueError("this model was lowered with {name}={_plain(text)}")'

    def _check_mode(self) -> Iterator[str]:
        """The model ran in one mode only: what it does in the other is not known."""
        context = self._graph.context
        if "training" in context.fixed:
            mode = "training" if context.training else "evaluation"
            yield f"if {'not ' * context.training}self.training:"
            yield f'{_INDENT}raise ValueError("this model was lowered for {mode} mode only")'

    def _check_batch(self, counted: str) -> Iterator[str]:
        """The model ran at one batch size only: others would get that one's sizes."""
        context = self._graph.context
        if "batch" in context.fixed:
            yield f"if {counted}.shape[0] != {context.batch}:"
            said = f"this model was lowered for a batch of {context.batch} only"
            yield f'{_INDENT}raise ValueError("{said}")'

    # --- nodes -------------------------------------------------------------------------------

    def _nodes(self) -> Iterator[str]:
        without_grad = False
        only = sides(self._graph, self._records)
        within: bool | None = None
        chains = _chains(self._graph, self._tree, self._records, only)
        skip: set[str] = set()
        for record in self._records:
            if record.op in _INLINE:
                self._variables[Ref(record.name)] = _INLINE[record.op](self._tree, record)
                continue
            if record.op == "input" or record.name in skip:
                continue
            side = only.get(record.name)
            deep = side is not None
            if side is not within:
                without_grad = False
                if deep:
                    yield "if self.training:" if side else "if not self.training:"
            within = side
            if record.no_grad and not without_grad:
                yield f"{_INDENT * deep}with {self._expressions.library('torch')}.no_grad():"
            without_grad = record.no_grad
            chain = chains.get(record.name)
            if chain is None:
                line = self._call(record)
            else:
                place, members = chain
                skip.update(member.name for member in members)
                argument = self._variables[record.inputs[0]]
                target = self._names.new(place.path, "block")
                self._variables[Ref(members[-1].name)] = target
                line = f"{target} = {self._tree.module(place.path)}({argument})"
            yield _INDENT * (deep + record.no_grad) + line

    def _call(self, record: NodeRecord) -> str:
        text = self._right_side(record)
        if record.result is None:
            name = self._names.new(record.name, record.op)
            self._variables[Ref(record.name)] = name
            return f"{name} = {text}"
        accesses = list(access_paths(record.result))
        if _is_nested_tuple(record.result):
            used = self._graph.users_of(record.name)
            read = {r for u in used for r in self._graph.record(u).inputs}
            read.update(self._graph.output_refs())
            names: dict[int, str] = {}
            for index, _ in accesses:
                ref = Ref(record.name, index)
                wanted = f"{record.name}_{index}" if index else record.name
                names[index] = self._names.new(wanted, record.op) if ref in read else "_"
                self._variables[ref] = names[index]
            return f"{_pattern(record.result, names)} = {text}"
        name = self._names.new(record.name, record.op)
        for index, access in accesses:
            self._variables[Ref(record.name, index)] = name + access
        return f"{name} = {text}"

    def _right_side(self, record: NodeRecord) -> str:
        spec = op_spec(record.op)
        positional, keywords = split_call(record)
        if record.op == "opaque":
            keywords.pop("reason")
        write = self._expressions.value
        if record.op == "getitem":
            (x,), index = positional[:1], [*positional[1:], *keywords.values()][0]
            return f"{write(x)}[{self._expressions.index(index)}]"
        if record.op == "by_mode" and record.attrs["training"] == Training():
            return f"{write(positional[0])} if self.training else {write(positional[1])}"
        if record.op in _OPERATORS and len(positional) == 2 and not keywords:
            left, right = map(self._operand, positional)
            return f"{left} {_OPERATORS[record.op]} {right}"
        arguments = [write(v) for v in positional]
        arguments += [f"{key}={write(value)}" for key, value in keywords.items()]
        if spec.helper is not None:
            self._helpers[spec.call] = spec.helper
            self._expressions.library("torch")  # which all helpers use
            return f"{spec.call}({', '.join(arguments)})"
        if spec.kind == "module" or record.op == "opaque":
            assert record.path is not None
            if not record.path:  # the model as a whole: `build` keeps it behind this method
                return f"self.{WHOLE}({', '.join(arguments)})"
            return f"{self._tree.module(record.path)}({', '.join(arguments)})"
        if spec.method is not None:
            return f"{arguments[0]}.{spec.method}({', '.join(arguments[1:])})"
        return f"{self._expressions.library(spec.call)}({', '.join(arguments)})"

    def _operand(self, value: Any) -> str:
        """A value beside an operator: what is an expression of its own stands in brackets."""
        text = self._expressions.value(value)
        bare = text.isidentifier() or not isinstance(value, BatchSize | Training)
        return text if bare else f"({text})"

    def _leaf(self, value: Any) -> str | None:
        if isinstance(value, Ref):
            return self._variables[value]
        return None


_OPERATORS: Mapping[str, str] = {"add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@"}
_INLINE: Mapping[str, Any] = {
    "parameter": lambda tree, record: tree.tensor(record.path),
    "buffer": lambda tree, record: tree.tensor(record.path),
    "constant": lambda tree, record: tree.constant(record.attrs["key"]),
}


def _needed(graph: Graph) -> list[NodeRecord]:
    """The nodes whose results are used, and those that do something besides."""
    wanted = {ref.node for ref in graph.output_refs()}
    needed: list[NodeRecord] = []
    for record in reversed(list(graph.records())):
        if record.name in wanted or _acts(record):
            needed.append(record)
            wanted.update(ref.node for ref in record.inputs)
    needed.reverse()
    return needed


def _acts(record: NodeRecord) -> bool:
    if record.op in _INLINE or record.op == "input":
        return False
    spec = op_spec(record.op)
    return record.op == "opaque" or spec.random or spec.stateful


def _chains(
    graph: Graph, tree: ModuleTree, records: list[NodeRecord], only: Mapping[str, bool]
) -> dict[str, tuple[Place, list[NodeRecord]]]:
    """Runs of nodes that are one call of an ``nn.Sequential``, by the name of the first."""
    position = {record.name: i for i, record in enumerate(records)}
    returned = {ref.node for ref in graph.output_refs()}
    found: dict[str, tuple[Place, list[NodeRecord]]] = {}
    for place in tree.root.walk():
        if place.style is not Style.CHAIN or place is tree.root:
            continue
        members = place.run()
        if members[0].name in found:
            continue  # part of a chain that is called as a whole
        first = position.get(members[0].name)
        run = [] if first is None else records[first : first + len(members)]
        inner = members[:-1]
        if (
            len(members) > 1
            and [r.name for r in run] == [m.name for m in members]
            and len({(m.no_grad, only.get(m.name)) for m in members}) == 1
            and not any(m.name in returned or len(graph.users_of(m.name)) > 1 for m in inner)
        ):
            found[members[0].name] = (place, members)
    return found


def _holds_input(structure: Any) -> bool:
    return any(isinstance(leaf, Result) for leaf in leaves(structure))


def _replaced(structure: Any, refs: tuple[Ref, ...]) -> Any:
    from retiarii.ir.types import map_leaves

    return map_leaves(lambda v: refs[v.index] if isinstance(v, Result) else v, structure)


def access_paths(structure: Any) -> Iterator[tuple[int, str]]:
    """(index, how to get there) for each Result: ``[1]["image"].mask``."""
    if isinstance(structure, Result):
        yield structure.index, ""
    elif isinstance(structure, FrozenDict):
        for key, value in structure:
            yield from ((i, f"[{key!r}]{rest}") for i, rest in access_paths(value))
    elif type(structure) is tuple and len(structure) == 2 and isinstance(structure[0], TypeOf):
        by_key = issubclass(structure[0].target, Mapping)
        for key, value in structure[1]:
            step = f"[{key!r}]" if by_key else f".{key}"
            yield from ((i, step + rest) for i, rest in access_paths(value))
    elif isinstance(structure, tuple):
        for position, value in enumerate(structure):
            yield from ((i, f"[{position}]{rest}") for i, rest in access_paths(value))


def _is_nested_tuple(structure: Any) -> bool:
    if isinstance(structure, FrozenDict | TypeOf):
        return False
    if type(structure) is tuple or isinstance(structure, FrozenList):
        return len(structure) > 0 and all(_is_nested_tuple(v) for v in structure)
    return True


def _pattern(structure: Any, names: Mapping[int, str], top: bool = True) -> str:
    """The left side of an assignment that takes the structure apart."""
    if not isinstance(structure, tuple):
        return names[structure.index] if isinstance(structure, Result) else "_"
    inner = ", ".join(_pattern(v, names, False) for v in structure)
    if len(structure) == 1:
        return f"({inner},)"
    return inner if top else f"({inner})"


def _plain(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', "'")


def check_buildable(graph: Graph) -> None:
    """Checks that every node has its module or tensor at hand.

    Raises:
        GraphError: an opaque module or a constant that the graph's text could not hold.
    """
    context = graph.context
    for record in graph.records():
        if record.op == "opaque" and record.path not in context.opaque:
            raise GraphError(
                f"the module of opaque node {record.name!r} is not at hand",
                where=f"node {record.name!r}",
                fix="a graph read from text has no opaque modules: parse the model instead",
            )
        if record.op == "constant" and record.attrs["key"] not in context.constants:
            raise GraphError(
                f"the value of constant {record.attrs['key']!r} is not at hand",
                where=f"node {record.name!r}",
                fix="a graph read from text has only small constants: parse the model instead",
            )
