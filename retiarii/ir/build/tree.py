"""The tree of modules that a graph stands for: which module lies at which path, and how it is said.

`build` makes the tree and `source` writes it; the forward's code (`codegen`) names its places.
"""

from __future__ import annotations

import enum
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from retiarii.ir.infer import module_state
from retiarii.ir.ops import OPS

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

_RAW = ("parameter", "buffer")


class Style(enum.Enum):
    """What holds the children of a place; its value is the class."""

    CHAIN = nn.Sequential  # children 0..n-1, each called once, one after another
    LIST = nn.ModuleList  # children 0..n-1
    DICT = nn.ModuleDict  # children whose names are no identifiers
    PLAIN = nn.Module  # children as attributes


@dataclass
class Place:
    """One module path.

    Attributes:
        path: "" for the root.
        record: the node that calls it, for a leaf or an opaque module.
        children: by name, in the order in which they are registered.
        tensors: parameters and buffers that lie here and belong to no leaf, by name.
        alias: the path of the module that this one is, where a module has two paths.
        style: how it holds its children.
    """

    path: str
    record: NodeRecord | None = None
    children: dict[str, Place] = field(default_factory=dict)
    tensors: dict[str, NodeRecord] = field(default_factory=dict)
    alias: str | None = None
    style: Style = Style.PLAIN

    def run(self) -> list[NodeRecord]:
        """The nodes that one call of this place stands for: a leaf's, or those of a chain."""
        if self.record is not None:
            return [] if self.children else [self.record]
        if self.style is not Style.CHAIN:
            return []
        return [record for child in self.children.values() for record in child.run()]

    def walk(self) -> Iterator[Place]:
        """This place and all below it, parents first."""
        yield self
        for child in self.children.values():
            yield from child.walk()


class ModuleTree:
    """The places of a graph's modules, parameters, buffers and constants.

    Attributes:
        root: the module as a whole.
        constants: constant key -> the name of its (non-persistent) buffer on the root.
        ties: (alias key, first key) of tensors that two places share.
    """

    def __init__(self, graph: Graph) -> None:
        self.root = Place("")
        self.constants: dict[str, str] = {}
        self._records = list(graph.records())
        self._modules: dict[str, NodeRecord] = {}
        self._raw: dict[str, NodeRecord] = {}
        self._around: dict[str, list[str]] = {}  # module path -> the layers at or above it
        for record in self._records:
            if record.path is None:
                continue
            if record.op in _RAW:
                self._raw.setdefault(record.path, record)
            elif record.op == "opaque" or (record.op in OPS and OPS[record.op].kind == "module"):
                self._modules.setdefault(record.path, record)
        self._types = graph.context.types
        self.ties = self._place_all(graph)
        self._style(self.root)
        self._name_constants()

    # --- saying ------------------------------------------------------------------------------

    def module(self, path: str) -> str:
        """How code says the module at ``path``: ``self.stem[0]``."""
        text, place = "self", self.root
        parts = _parts(path)
        for i, name in enumerate(parts):
            if name not in place.children:  # inside an opaque module
                return f'{text}.get_submodule("{".".join(parts[i:])}")'
            text = _child(text, place, name)
            place = place.children[name]
        return text

    def tensor(self, key: str) -> str:
        """How code says the parameter or buffer of that state_dict key."""
        path, _, name = key.rpartition(".")
        return attribute(self.module(path), name)

    def constant(self, key: str) -> str:
        return f"self.{self.constants[key]}"

    def owner(self, key: str) -> NodeRecord | None:
        """The node that holds the tensor of a state_dict key: a leaf module's, or a raw one."""
        inside = key.rpartition(".")[0]
        around = self._around.get(inside)
        if around is None:
            around = [p for p in _prefixes(key) if p in self._modules]
            self._around[inside] = around
        for prefix in around:
            record = self._modules[prefix]
            if self._holds(record, key[len(prefix) + 1 :]):
                return record
        return self._raw.get(key)

    def _holds(self, record: NodeRecord, name: str) -> bool:
        # What lies below a layer may be another one's: an activation inside a norm.
        return record.op == "opaque" or name in module_state(record.op, record.attrs, self._types)

    # --- making ------------------------------------------------------------------------------

    def _place_all(self, graph: Graph) -> list[tuple[str, str]]:
        """Places everything, in the order of the original's state_dict where there is one."""
        ties: list[tuple[str, str]] = []
        context = graph.context
        for key in context.weights:
            first = context.ties.get(key)
            if first is not None and self._tie(key, first):
                ties.append((key, first))
            self._place_owner(key)
        for key, first in context.ties.items():
            if key not in context.weights and self._tie(key, first):
                ties.append((key, first))
        for record in self._records:
            if record.path is not None and record.path in self._modules:
                self._at(record.path).record = self._modules[record.path]
            elif record.op in _RAW and record.path is not None:
                self._place_owner(record.path)
        return ties

    def _place_owner(self, key: str) -> None:
        owner = self.owner(key)
        if owner is None or owner.path is None:
            return
        if owner.op in _RAW:
            path, _, name = key.rpartition(".")
            self._at(path).tensors.setdefault(name, owner)
        else:
            self._at(owner.path).record = owner

    def _tie(self, alias: str, first: str) -> bool:
        """Whether both keys have a tensor of their own, to be made one."""
        holder = self.owner(first)
        if holder is None or holder.fresh:
            return False
        own = self.owner(alias)
        if own is not None:
            return not own.fresh
        # Nothing is called by the alias: the whole module, or the raw tensor, has two paths.
        assert holder.path is not None
        if holder.op in _RAW:
            path, _, name = alias.rpartition(".")
            self._at(path).tensors[name] = holder
            return True
        local = first[len(holder.path) :]
        if not alias.endswith(local):
            return False
        place = self._at(alias[: -len(local)])
        place.alias = holder.path
        return False

    def _at(self, path: str) -> Place:
        place = self.root
        for name in _parts(path):
            inside = f"{place.path}.{name}" if place.path else name
            place = place.children.setdefault(name, Place(inside))
        return place

    def _style(self, place: Place) -> None:
        for child in place.children.values():
            self._style(child)
        if place.record is not None or place.alias is not None or not place.children:
            return
        names = list(place.children)
        if sorted(names, key=_numeric) == [str(i) for i in range(len(names))]:
            weighty = [n for n in names if self._holds_state(place.children[n])]
            if weighty == sorted(weighty, key=_numeric):
                place.children = {n: place.children[n] for n in sorted(names, key=_numeric)}
                place.style = Style.CHAIN if self._is_chain(place) else Style.LIST
                return
        if not all(_is_attribute(n) for n in names) and not any(
            hasattr(nn.ModuleDict, n) for n in names
        ):
            place.style = Style.DICT

    def _holds_state(self, place: Place) -> bool:
        for inner in place.walk():
            record = inner.record
            if inner.tensors or inner.alias or (record is not None and record.op == "opaque"):
                return True
            if record is not None and module_state(record.op, record.attrs, self._types):
                return True
        return False

    def _is_chain(self, place: Place) -> bool:
        """Whether what lies below is called once each, with what the one before made."""
        called: list[NodeRecord] = []
        for child in place.children.values():
            run = child.run()
            if not run:
                return False
            called += run
        for before, record in pairwise([None, *called]):
            assert record is not None
            if len(record.inputs) != 1 or len(record.types) != 1:
                return False
            if before is not None and record.inputs[0].node != before.name:
                return False
        wanted = {record.path for record in called}
        return sum(record.path in wanted for record in self._records) == len(called)

    def _name_constants(self) -> None:
        taken = {*self.root.children, *self.root.tensors}
        for record in self._records:
            if record.op != "constant" or record.attrs["key"] in self.constants:
                continue
            wanted = re.sub(r"\W", "_", record.attrs["key"]).strip("_") or "value"
            name = wanted = f"constant_{wanted}" if not wanted.startswith("constant") else wanted
            number = 0
            while name in taken or hasattr(nn.Sequential, name):
                number += 1
                name = f"{wanted}_{number}"
            taken.add(name)
            self.constants[record.attrs["key"]] = name


def attribute(text: str, name: str) -> str:
    """``text.name``, for any name."""
    return f"{text}.{name}" if _is_attribute(name) else f'getattr({text}, "{name}")'


def _child(text: str, place: Place, name: str) -> str:
    if place.style in (Style.CHAIN, Style.LIST):
        return f"{text}[{name}]"
    if place.style is Style.DICT:
        return f'{text}["{name}"]'
    return attribute(text, name)


def _parts(path: str) -> list[str]:
    return path.split(".") if path else []


def _prefixes(key: str) -> Iterator[str]:
    """The module paths that ``key`` may lie in, outermost first."""
    parts = key.split(".")
    for length in range(1, len(parts)):
        yield ".".join(parts[:length])


def _is_attribute(name: str) -> bool:
    # Two leading underscores would be mangled inside a class.
    return name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")


def _numeric(name: str) -> tuple[bool, int, str]:
    digits = name.isdecimal()
    return (not digits, int(name) if digits else 0, name)
