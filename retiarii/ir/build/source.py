"""A graph as a plain ``model.py``: one class that imports torch and nothing of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import torch

from retiarii.errors import GraphError
from retiarii.ir.build.codegen import ForwardCode, check_buildable, generate
from retiarii.ir.build.expressions import Expressions, Names
from retiarii.ir.build.literals import Literals
from retiarii.ir.build.tree import ModuleTree, Place, Style, attribute
from retiarii.ir.build.wrapping import INDENT, broken
from retiarii.ir.canonical.signature import PER_DIMENSION
from retiarii.ir.ops import OPS, constructor_attrs
from retiarii.ir.types import freeze

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord


# A dataclass that is a mapping of those of its fields that are there.
_ITEMS = """
    def __getitem__(self, key):
        there = {name: value for name, value in vars(self).items() if value is not None}
        return there[key] if isinstance(key, str) else list(there.values())[key]
"""


def to_source(graph: Graph, class_name: str = "Model") -> str:
    """The text of a ``model.py``.

    ``Model()`` has fresh weights; ``load_state_dict`` takes what `to_module` saves, strictly.
    Tensors that are in no ``state_dict`` are in the text: as an expression that makes them, or
    byte by byte at its end.

    Args:
        graph: a graph that verifies.
        class_name: what the class is called.

    Raises:
        GraphError: a node that only its module can stand for, or a constant that is not dense.
    """
    if not class_name.isidentifier():
        raise GraphError(
            f"{class_name!r} cannot be the name of a class", fix="use letters, digits and _"
        )
    _refuse_opaque(graph)
    check_buildable(graph)
    tree = ModuleTree(graph)
    code = generate(graph, tree, Literals.names | {class_name})
    writer = _InitWriter(graph, tree)
    init = list(writer.lines())
    base = f"nn.{tree.root.style.value.__name__}"
    body = [f'"""{line}' if i == 0 else line for i, line in enumerate(_docstring(graph))]
    body += ['"""', "", "def __init__(self) -> None:", f"{INDENT}super().__init__()"]
    body += [f"{INDENT}{s}" for line in init for s in broken(line)]
    body += [
        "",
        *broken(code.signature),
        *(f"{INDENT}{s}" for line in code.body for s in broken(line)),
    ]
    lines = [*_imports(code, writer.literals.imports), "", ""]
    for name, target in code.classes.items():
        lines += [*_class(name, target), "", ""]
    for helper in (*code.helpers, *writer.literals.helpers):
        lines += [*helper.strip("\n").splitlines(), "", ""]
    lines += [f"class {class_name}({base}):"]
    lines += [f"{INDENT}{line}" if line else "" for line in body]
    footer = list(writer.literals.footer())
    lines += ["", "", *footer] if footer else []
    return "\n".join(lines) + "\n"


def _refuse_opaque(graph: Graph) -> None:
    nodes = [r for r in graph.records() if r.op == "opaque"]
    if nodes:
        listed = "; ".join(f"{r.name!r}: {r.attrs['reason']}" for r in nodes[:5])
        more = f" and {len(nodes) - 5} more" if len(nodes) > 5 else ""
        raise GraphError(
            f"{len(nodes)} submodules could not be lowered, so their code cannot be written "
            f"({listed}{more})",
            where=", ".join(r.where for r in nodes[:5] if r.where) or None,
            fix="rewrite those submodules with operations of torch, "
            "or save the module's state_dict and keep its own code",
        )


def _imports(code: ForwardCode, more: Set[str]) -> list[str]:
    lines = {"import torch", "from torch import nn", *code.imports, *more}
    if any(_is_named_tuple(c) for c in code.classes.values()):
        lines.add("from collections import namedtuple")
    if any(dataclasses.is_dataclass(c) for c in code.classes.values()):
        lines |= {"from dataclasses import dataclass", "from typing import Any"}
    standard = sorted(line for line in lines if "torch" not in line)
    ours = sorted((line for line in lines if "torch" in line), key=lambda t: (t[0] != "i", t))
    return [*standard, *([""] if standard else []), *ours]


def _is_named_tuple(target: type) -> bool:
    return issubclass(target, tuple) and hasattr(target, "_fields")


def _class(name: str, target: type) -> list[str]:
    """A definition that stands for a class which ``forward`` takes apart or returns."""
    place = target.__module__
    if place == "builtins":
        return [f"{name} = {target.__qualname__}"]
    if place.partition(".")[0] == "torch":
        return [f"{name} = {place}.{target.__qualname__}"]
    if _is_named_tuple(target):
        fields = ", ".join(f'"{f}"' for f in target._fields)  # type: ignore[attr-defined]
        return [f'{name} = namedtuple("{name}", [{fields}])']
    if dataclasses.is_dataclass(target):
        fields_ = [f"{INDENT}{f.name}: Any = None" for f in dataclasses.fields(target) if f.init]
        items = _ITEMS.splitlines() if issubclass(target, Mapping) else []
        return ["@dataclass", f"class {name}:", *fields_, *items]
    if issubclass(target, Mapping):
        return [f"class {name}(dict):", f'{INDENT}"""A dict, as the model returned it."""']
    return [
        f"class {name}:",
        f'{INDENT}"""The attributes of {target.__qualname__}, without methods."""',
    ]


def _docstring(graph: Graph) -> list[str]:
    lines = ["A model written by retiarii.", "", "Shapes, at the batch size it was made with:"]
    for node in graph.inputs:
        lines.append(f"    {node.record.name}: {node.record.types[0]}")
    for number, ref in enumerate(graph.output_refs()):
        label = "returns" if len(graph.output_refs()) == 1 else f"output {number}"
        lines.append(f"    {label}: {graph.record(ref.node).types[ref.index]}")
    return lines


# --- __init__ --------------------------------------------------------------------------------


class _InitWriter:
    """Writes the statements that make the tree of modules."""

    def __init__(self, graph: Graph, tree: ModuleTree) -> None:
        self._context = graph.context
        self._tree = tree
        self._values = Expressions(Names(()), lambda _: None)
        self._readers = {r.attrs["key"]: r for r in graph.records() if r.op == "constant"}
        self.literals = Literals(self._values.value)
        self._made: set[str] = set()

    def lines(self) -> Iterator[str]:
        """The body of ``__init__``, behind ``super().__init__()``."""
        root = self._tree.root
        yield from self._content(root, "self")
        for place in root.walk():
            if place.alias is not None and place.path not in self._made:
                path, _, name = place.path.rpartition(".")
                yield self._add(path, name, self._tree.module(place.alias))
        for alias, first in self._tree.ties:
            path, _, name = alias.rpartition(".")
            if self._same_shape(alias, first):
                module, tensor = self._tree.module(path), self._tree.tensor(first)
                said = attribute(module, name)
                if said.startswith("getattr"):
                    yield f'setattr({module}, "{name}", {tensor})'
                else:
                    yield f"{said} = {tensor}"
        for key, name in self._tree.constants.items():
            value = self._literal(self._context.constants[key], name, self._readers[key])
            yield f'self.register_buffer("{name}", {value}, persistent=False)'
        yield from self._frozen()
        yield from self._modes()

    def _content(self, place: Place, said: str) -> Iterator[str]:
        """Statements for the tensors and children of a place that exists already."""
        for name, record in place.tensors.items():
            yield from self._tensor(said, name, record)
        if place.style in (Style.CHAIN, Style.LIST) and place is self._tree.root:
            for child in place.children.values():
                call = "append" if place.style is Style.LIST else f'add_module("{_last(child)}", '
                opening = f"{said}.append(" if call == "append" else f"{said}.{call}"
                yield f"{opening}{self._expression(child)})"
                yield from self._below(child)
                self._made.update(inner.path for inner in child.walk() if inner.alias is None)
            return
        for name, child in place.children.items():
            yield from self._assigned(place, said, name, self._expression(child))
            yield from self._below(child)
            self._made.update(inner.path for inner in child.walk() if inner.alias is None)

    def _assigned(self, place: Place, said: str, name: str, made: str) -> Iterator[str]:
        if place.style is Style.DICT:
            yield f'{said}["{name}"] = {made}'
        elif attribute(said, name).startswith("getattr"):
            yield f'{said}.add_module("{name}", {made})'
        else:
            yield f"{said}.{name} = {made}"

    def _add(self, path: str, name: str, made: str) -> str:
        return f'{self._tree.module(path)}.add_module("{name}", {made})'

    def _below(self, place: Place) -> Iterator[str]:
        """Statements for what the place's own expression did not make."""
        if self._is_inline(place):
            return
        said = self._tree.module(place.path)
        if place.style in (Style.CHAIN, Style.LIST, Style.DICT) and place.record is None:
            for name, record in place.tensors.items():
                yield from self._tensor(said, name, record)
            for child in place.children.values():
                yield from self._below(child)
            return
        yield from self._content(place, said)

    def _is_inline(self, place: Place) -> bool:
        """Whether one expression makes the place and all below it."""
        if place.tensors:
            return False
        if place.style is Style.PLAIN or place.record is not None:
            return not place.children and (place.record is not None or place.alias is not None)
        return all(self._is_inline(child) for child in place.children.values())

    def _expression(self, place: Place) -> str:
        if place.alias is not None:
            if place.alias not in self._made:
                return "nn.Module()"  # keeps its turn; `lines` puts the module there
            self._made.add(place.path)
            return self._tree.module(place.alias)
        if place.record is not None:
            return self._layer(place.record)
        children = [(name, self._expression(c)) for name, c in place.children.items()]
        if place.style is Style.CHAIN:
            return f"nn.Sequential({', '.join(made for _, made in children)})"
        if place.style is Style.LIST:
            return f"nn.ModuleList([{', '.join(made for _, made in children)}])"
        if place.style is Style.DICT:
            pairs = ", ".join([f'"{name}": {made}' for name, made in children])
            return f"nn.ModuleDict({{{pairs}}})"
        return "nn.Module()"

    def _layer(self, record: NodeRecord) -> str:
        """``nn.Conv2d(1, 16, kernel_size=(3, 3))``: required arguments by place, defaults not."""
        spec = OPS[record.op]
        arguments = constructor_attrs(spec, record.attrs)
        parts: list[str] = []
        for name in sorted(arguments, key=_position(spec.signature)):
            value = freeze(arguments[name])
            if name in PER_DIMENSION and type(value) is tuple and len(set(value)) == 1:
                value = value[0]
            text = self._values.value(value)
            if name in spec.signature and name not in spec.defaults:
                parts.append(text)
            elif not _same(spec.defaults.get(name, ...), value):
                parts.append(f"{name}={text}")
        return f"nn.{spec.target.__name__}({', '.join(parts)})"

    def _tensor(self, said: str, name: str, record: NodeRecord) -> Iterator[str]:
        attrs = record.attrs
        shape = self._values.value(tuple(attrs["shape"]))
        dtype = "" if attrs["dtype"] is torch.float32 else f", dtype={attrs['dtype']}"
        made = f"torch.zeros({shape}{dtype})"
        if record.op == "parameter":
            learned = "" if attrs["requires_grad"] else ", requires_grad=False"
            place = attribute(said, name)
            if place.startswith("getattr"):
                yield f'{said}.register_parameter("{name}", nn.Parameter({made}{learned}))'
            else:
                yield f"{place} = nn.Parameter({made}{learned})"
        elif attrs["persistent"]:
            yield f'{said}.register_buffer("{name}", {made})'
        else:
            value = self._context.weights.get(str(record.path))
            if value is not None and not value.is_meta:
                made = self._literal(value, str(record.path), record)
            yield f'{said}.register_buffer("{name}", {made}, persistent=False)'

    def _literal(self, tensor: torch.Tensor, name: str, record: NodeRecord) -> str:
        if tensor.layout is not torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout)
            raise GraphError(
                f"node {record.name!r} is a {kind} tensor that is in no state_dict, "
                "and model.py can only hold dense ones",
                where=record.where or f"node {record.name!r}",
                fix="keep it dense (to_dense(), dequantize()), and convert it in forward",
            )
        return self.literals.write(tensor, name)

    def _same_shape(self, alias: str, first: str) -> bool:
        from retiarii.ir.infer import module_state

        def shape(key: str) -> Any:
            owner = self._tree.owner(key)
            if owner is None or owner.op in ("parameter", "buffer"):
                return None if owner is None else tuple(owner.attrs["shape"])
            if owner.op == "opaque":
                return None
            state = module_state(owner.op, owner.attrs, self._context.types)
            return state[key[len(str(owner.path)) + 1 :]].type.shape

        return shape(alias) in (None, shape(first))

    def _frozen(self) -> Iterator[str]:
        for key in self._context.weights or sorted(self._context.frozen):
            owner = self._tree.owner(key) if key in self._context.frozen else None
            if owner is None or owner.fresh or key in self._context.ties:
                continue
            if owner.op == "parameter" and not owner.attrs["requires_grad"]:
                continue
            yield f"{self._tree.tensor(key)}.requires_grad_(False)"

    def _modes(self) -> Iterator[str]:
        places = {place.path for place in self._tree.root.walk()}
        for path, flag in self._context.modes.items():
            if path in places and flag is False:
                yield f"{self._tree.module(path)}.training = False"


def _last(place: Place) -> str:
    return place.path.rpartition(".")[2]


def _position(names: Sequence[str]) -> Callable[[str], int]:
    place = {name: i for i, name in enumerate(names)}
    return lambda name: place.get(name, len(place))


def _same(default: Any, value: Any) -> bool:
    return type(default) is type(value) and bool(default == value)
