"""The nodes of a graph by the modules that they came from, and which of these are the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from retiarii.ir.types import TensorType

if TYPE_CHECKING:
    import torch
    from torch import nn

    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

_RAW: Final = frozenset({"parameter", "buffer"})
# Constants up to this many elements are compared by their values, larger ones by their name.
_COMPARED: Final = 64
_PLAIN: Final = (bool, int, float, str, tuple)


@dataclass(frozen=True, slots=True)
class Region:
    """The nodes of one submodule.

    Attributes:
        path: of the module; empty for the whole model.
        nodes: names of the nodes that are its own and in no smaller region, in topological order.
        children: the submodules in it that have nodes, in the order of their first nodes.
        hash: equal for regions that are the same up to names: operations, arguments, types, how
            they are connected and which parameters they share; 32 hex digits.
    """

    path: str
    nodes: tuple[str, ...]
    children: tuple[Region, ...]
    hash: str

    @property
    def size(self) -> int:
        """The number of its nodes, those of the regions in it included."""
        return len(self.nodes) + sum(child.size for child in self.children)

    @property
    def all_nodes(self) -> tuple[str, ...]:
        """Names of all nodes in it, its own first."""
        return (*self.nodes, *(name for child in self.children for name in child.all_nodes))

    def walk(self) -> Iterator[Region]:
        """The region and all regions in it, outer ones first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def runs(self) -> tuple[tuple[Region, ...], ...]:
        """The children, with those side by side that are the same up to names in one tuple."""
        runs: list[list[Region]] = []
        for child in self.children:
            if runs and runs[-1][0].hash == child.hash:
                runs[-1].append(child)
            else:
                runs.append([child])
        return tuple(map(tuple, runs))

    def alike(self) -> tuple[tuple[str, ...], ...]:
        """Paths of regions that are the same up to names, wherever they are: groups of two or more.

        Regions inside of regions that are already in a group are left out.
        """
        groups: dict[str, list[str]] = defaultdict(list)
        number: dict[str, int] = defaultdict(int)
        for region in self.walk():
            number[region.hash] += 1

        def visit(region: Region) -> None:
            for child in region.children:
                if number[child.hash] > 1:
                    first = child.hash not in groups
                    groups[child.hash].append(child.path)
                    if not first:
                        continue
                visit(child)

        visit(self)
        return tuple(tuple(paths) for paths in groups.values() if len(paths) > 1)

    def __str__(self) -> str:
        """The tree, what is the same folded."""
        return "\n".join(self._lines(""))

    def _lines(self, indent: str) -> Iterator[str]:
        yield f"{indent}{self.path or 'model'}: {count_nodes(self.size)}"
        for run in self.runs():
            if len(run) == 1:
                yield from run[0]._lines(indent + "  ")
            else:
                yield indent + "  " + folded(run)


def folded(run: Sequence[Region]) -> str:
    """``stage.0 .. stage.3: 4 x the same 7 nodes``, for regions that are the same."""
    number = count_nodes(run[0].size)
    if len(run) == 1:
        return f"{run[0].path}: {number}"
    return f"{run[0].path} .. {run[-1].path}: {len(run)} x the same {number}"


def count_nodes(number: int) -> str:
    """``1 node``, ``7 nodes``."""
    return f"{number:,} node{'' if number == 1 else 's'}"


def regions(graph: Graph) -> Region:
    """The tree of a graph's regions.

    A layer belongs to the module that holds it, an operation to the module whose ``forward``
    called it, as far as its name tells.
    """
    homes = {record.name: _home(record) for record in graph.records()}
    own: dict[str, list[str]] = defaultdict(list)
    inside: dict[str, list[str]] = defaultdict(list)
    children: dict[str, dict[str, None]] = defaultdict(dict)
    for name, home in homes.items():
        own[home].append(name)
        inside[""].append(name)
        above = ""
        for path in _prefixes(home):
            inside[path].append(name)
            children[above].setdefault(path)
            above = path
    frozen = graph.context.frozen

    def make(path: str) -> Region:
        digest = _Outline(graph, inside[path], frozen).digest()
        below = tuple(make(child) for child in children[path])
        return Region(path, tuple(own[path]), below, digest)

    return make("")


def _home(record: NodeRecord) -> str:
    if record.op == "input":
        return ""
    if record.op == "constant":
        return str(record.attrs["key"]).rpartition(".")[0]
    return (record.path or record.name).rpartition(".")[0]


def _prefixes(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]


class _Outline:
    """What a set of nodes is, without their names."""

    def __init__(self, graph: Graph, names: Sequence[str], frozen: frozenset[str]) -> None:
        self._graph = graph
        self._names = names
        self._frozen = frozen
        self._position = {name: i for i, name in enumerate(names)}
        self._outside: dict[Any, int] = {}
        self._owners: dict[str, int] = {}

    def digest(self) -> str:
        lines = [self._line(self._graph.record(name)) for name in self._names]
        return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()

    def _line(self, record: NodeRecord) -> str:
        reads = []
        for ref in record.inputs:
            at = self._position.get(ref.node)
            if at is None:
                number = self._outside.setdefault(ref, len(self._outside))
                kind = self._graph.record(ref.node).types[ref.index]
                reads.append(f"from {number}: {kind}")
            else:
                reads.append(f"{at}#{ref.index}")
        path = record.path
        owner = None if path is None else self._owners.setdefault(path, len(self._owners))
        return repr(
            (
                record.op,
                reads,
                self._meaning(record),
                [str(kind) for kind in record.types],
                repr(record.result),
                owner,
                [] if path is None else self._remarks(path),
                record.no_grad,
                self._leaves(record.name),
            )
        )

    def _meaning(self, record: NodeRecord) -> str:
        context = self._graph.context
        if record.op == "opaque":
            # The reason may name the place; what it holds does not.
            module = context.opaque.get(record.path or "")
            rest = {k: v for k, v in record.attrs.items() if k != "reason"}
            return repr((None if module is None else _described(module), rest))
        if record.op == "constant":
            return _constant(record.attrs["key"], context.constants)
        return record.attrs.key

    def _remarks(self, path: str) -> list[Any]:
        """The layer's mode where it is another than the model's, and its frozen parameters."""
        remarks: list[Any] = [self._graph.context.modes.get(path)]
        if self._frozen:
            remarks += sorted(
                key[len(path) :]
                for key in self._frozen
                if key == path or key.startswith(path + ".")
            )
        return remarks

    def _leaves(self, name: str) -> list[int]:
        """Which results are read by nodes outside, or returned."""
        used = {ref.index for ref in self._graph.output_refs() if ref.node == name}
        for user in self._graph.users_of(name):
            if user not in self._position:
                inputs = self._graph.record(user).inputs
                used |= {ref.index for ref in inputs if ref.node == name}
        return sorted(used)


def _described(module: nn.Module) -> list[Any]:
    """What is inside an opaque module: classes, shapes, and settings that are plain values."""
    described: list[Any] = []
    for path, part in module.named_modules():
        settings = {k: v for k, v in vars(part).items() if isinstance(v, _PLAIN)}
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        described.append((path, kind, sorted(settings.items())))
    state = module.state_dict(keep_vars=True)
    described += [(k, str(TensorType.of(t))) for k, t in state.items() if hasattr(t, "shape")]
    return described


def _constant(key: str, constants: Mapping[str, torch.Tensor]) -> str:
    value = constants.get(key)
    if value is None or value.is_meta or value.numel() > _COMPARED:
        return key
    return f"{TensorType.of(value)} {value.tolist()}"
