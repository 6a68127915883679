"""Edits of regions: copies of a set of nodes, and moving nodes into and out of a module path.

A region is a path prefix: the nodes of region ``stem`` are called ``stem.…``, and hold their
weights under ``stem.…`` in the ``state_dict``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from retiarii.errors import GraphError
from retiarii.ir.context import GraphContext
from retiarii.ir.edit.editing import own_name, own_ref
from retiarii.ir.infer import module_state
from retiarii.ir.node import Node, NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Ref

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph


class HasPath(Protocol):
    """A region of `Graph.regions`."""

    @property
    def path(self) -> str: ...


Nodes = str | HasPath | Node | Sequence[Node]
Replaced = Mapping[Any, Any] | Iterable[tuple[Any, Any]]

_RAW = ("parameter", "buffer")


def members(graph: Graph, what: Nodes) -> list[str]:
    """The names of the nodes of a region, or of those given, in topological order.

    Raises:
        GraphError: there are none; an input of the model, or a module that could not be lowered.
    """
    if isinstance(what, Node):
        names = [own_name(graph, what)]
    elif isinstance(what, str) or hasattr(what, "path"):
        path = what if isinstance(what, str) else what.path
        pattern = (path, f"{path}.*", f"{path}@*")
        graph.reads.note("found", pattern)
        names = graph.names_matching(pattern)
        if not names:
            raise GraphError(f"no node is in {path!r}", fix=graph.suggest(path))
    else:
        names = sorted({own_name(graph, node) for node in what}, key=graph.order.key)
    if not names:
        raise GraphError("no nodes are given", fix="give at least one")
    for name in names:
        record = graph.record(name)
        if record.op in ("input", "opaque"):
            kind = "an input of the model" if record.op == "input" else "a module as a whole"
            raise GraphError(
                f"{name!r} is {kind}, which stays where it is",
                where=f"node {name!r}",
                fix="leave it out",
            )
    return names


# --- copies ---------------------------------------------------------------------------------------


def duplicate(
    graph: Graph, what: Nodes, name: str | None, inputs: Replaced, copy_weights: bool
) -> dict[str, Node]:
    """See `Graph.duplicate`."""
    names = [n for n in members(graph, what) if graph.record(n).op != "constant"]
    graph.settle()
    pairs = inputs.items() if isinstance(inputs, Mapping) else inputs
    moved = {own_ref(graph, old): own_ref(graph, new) for old, new in pairs}
    taken = _Taken(graph)
    place = _placing(what, name, taken)
    paths: dict[str, str] = {}
    made: dict[str, str] = {}
    for old in names:
        record = graph.record(old)
        copied = record.op == "buffer" or (copy_weights and not record.fresh)
        path = record.path
        if path is not None and path not in paths:
            paths[path] = taken.claim(place(path))
        new = graph.free_name(_new_name(record, paths, place))
        graph.add(
            record.with_(
                name=new,
                inputs=tuple(moved.get(ref, ref) for ref in record.inputs),
                path=None if path is None else paths[path],
                fresh=not copied,
            )
        )
        for i in range(len(record.types)):
            moved[Ref(old, i)] = Ref(new, i)
        made[old] = new
        graph.transaction.added(new)
    graph.put_context(_with_copies(graph, made, paths))
    _tie_copies(graph, made)
    return {old: Node(graph, new) for old, new in made.items()}


def _placing(what: Nodes, name: str | None, taken: _Taken) -> Callable[[str], str]:
    """Where a copy of a path lies."""
    if isinstance(what, str) or (hasattr(what, "path") and not isinstance(what, Node)):
        region = what if isinstance(what, str) else what.path
        to = taken.claim(name or region)
        return lambda path: to + path[len(region) :]
    if name is not None:
        return _into(name)
    return lambda path: path


def _new_name(record: NodeRecord, paths: Mapping[str, str], place: Callable[[str], str]) -> str:
    path = record.path
    if path is not None and record.name.startswith(path):
        return paths[path] + record.name[len(path) :]
    return place(record.name)


def _with_copies(graph: Graph, made: Mapping[str, str], paths: Mapping[str, str]) -> GraphContext:
    """The context with the values that copies start from, and their modes."""
    context = graph.context
    weights, frozen = dict(context.weights), set(context.frozen)
    modes = dict(context.modes)
    for new in made.values():
        record = graph.record(new)
        if record.fresh or record.path is None:
            continue
        old = next(p for p, q in paths.items() if q == record.path)
        for local in _local_keys(graph, record):
            if old + local in weights:
                weights[record.path + local] = weights[old + local]
            if old + local in frozen:
                frozen.add(record.path + local)
        if old in modes:
            modes[record.path] = modes[old]
    return dataclasses.replace(context, weights=weights, frozen=frozenset(frozen), modes=modes)


def _local_keys(graph: Graph, record: NodeRecord) -> list[str]:
    if record.op in _RAW:
        return [""]
    return ["." + key for key in module_state(record.op, record.attrs, graph.context.types)]


def _tie_copies(graph: Graph, made: Mapping[str, str]) -> None:
    calls: dict[str, list[str]] = {}
    for new in made.values():
        record = graph.record(new)
        if record.path is not None and op_spec(record.op).kind == "module":
            calls.setdefault(record.path, []).append(new)
    several = {path: tuple(names) for path, names in calls.items() if len(names) > 1}
    if several:
        graph.put_twins({**graph.twins, **several})


# --- moves ----------------------------------------------------------------------------------------


def outline(graph: Graph, what: Nodes, name: str) -> tuple[Node, ...]:
    """See `Graph.outline`."""
    if not name or any(not part for part in name.split(".")):
        raise GraphError(f"{name!r} is no module path", fix="give a name such as 'stem'")
    names = members(graph, what)
    taken = _Taken(graph)
    if not taken.is_free(name):
        raise GraphError(
            f"there is a {name!r} already",
            where=f"outline into {name!r}",
            fix="give another name, or inline that one first",
        )
    return _move(graph, names, _into(name), taken)


def inline(graph: Graph, region: str | HasPath) -> tuple[Node, ...]:
    """See `Graph.inline`."""
    path = region if isinstance(region, str) else region.path
    names = [n for n in members(graph, path) if n.startswith(path + ".")]
    if not names:
        raise GraphError(
            f"{path!r} is a node, not a region", fix="name the module that holds the nodes"
        )
    above = path.rpartition(".")[0]
    prefix = f"{above}." if above else ""
    return _move(graph, names, lambda old: prefix + old[len(path) + 1 :], _Taken(graph))


def _into(name: str) -> Callable[[str], str]:
    """Paths below the region's own parent keep what follows it; others are kept whole."""
    above = name.rpartition(".")[0]
    prefix = f"{above}." if above else ""
    return lambda path: f"{name}.{path.removeprefix(prefix)}"


def _move(
    graph: Graph, names: list[str], place: Callable[[str], str], taken: _Taken
) -> tuple[Node, ...]:
    graph.settle()
    _check_calls(graph, names)
    paths: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for old in names:
        record = graph.record(old)
        path = record.path
        if path is not None and path not in paths:
            paths[path] = taken.claim(place(path))
        wanted = _new_name(record, paths, place)
        new = wanted if wanted not in renamed.values() else graph.free_name(wanted)
        renamed[old] = new if new not in graph else graph.free_name(new)
    graph.rename(renamed)
    for new in renamed.values():
        path = graph.record(new).path
        if path is not None:
            graph.put(graph.record(new).with_(path=paths[path]))
    graph.put_context(_moved_context(graph.context, paths))
    twins = {
        paths.get(path, path): tuple(renamed.get(n, n) for n in calls)
        for path, calls in graph.twins.items()
    }
    graph.put_twins(twins)
    return tuple(Node(graph, renamed[n]) for n in names)


def _check_calls(graph: Graph, names: list[str]) -> None:
    chosen = set(names)
    layers = {graph.record(name).path for name in names}
    for name in graph.order:
        record = graph.record(name)
        if record.op in _RAW and name not in chosen and _layer_of(record) in layers:
            raise GraphError(
                f"{record.path!r} is used outside of its layer too, and is not to move with it",
                where=f"node {name!r}",
                fix=f"move {name!r} as well",
            )
    for name in names:
        for twin in graph.twins_of(graph.record(name)):
            if twin in graph and twin not in chosen:
                raise GraphError(
                    f"module {graph.record(name).path!r} is called at {name!r} and at {twin!r}, "
                    "and only one of them is to move",
                    where=f"node {name!r}",
                    fix="move both, or give one call a module of its own",
                )


def _layer_of(record: NodeRecord) -> str:
    return (record.path or "").rpartition(".")[0]


def _moved_context(context: GraphContext, paths: Mapping[str, str]) -> GraphContext:
    def moved(key: str) -> str:
        prefix = key
        while prefix:
            if prefix in paths:
                return paths[prefix] + key[len(prefix) :]
            prefix = prefix.rpartition(".")[0]
        return key

    return dataclasses.replace(
        context,
        weights={moved(key): tensor for key, tensor in context.weights.items()},
        ties={moved(alias): moved(first) for alias, first in context.ties.items()},
        frozen=frozenset(map(moved, context.frozen)),
        modes={moved(path): flag for path, flag in context.modes.items()},
    )


class _Taken:
    """The module paths of a graph, and the paths of what holds them."""

    def __init__(self, graph: Graph) -> None:
        self._leaves: set[str] = set()
        self._above: set[str] = set()
        for name in graph.order:
            record = graph.record(name)
            for path in {record.path or name, name}:
                self._add(path)

    def is_free(self, path: str) -> bool:
        """Whether a module can lie at a path: nothing does, nothing below it, no layer above it."""
        parts = path.split(".")
        above = {".".join(parts[:i]) for i in range(1, len(parts))}
        return path not in self._leaves and path not in self._above and not above & self._leaves

    def claim(self, wanted: str) -> str:
        """``wanted``, or with a number behind it where it is taken."""
        parts = wanted.split(".")
        for i in range(1, len(parts)):
            if ".".join(parts[:i]) in self._leaves:  # a layer's own parameter, used directly
                wanted = ".".join([*parts[: i - 1], "_".join(parts[i - 1 :])])
                break
        path, number = wanted, 0
        while not self.is_free(path):
            number += 1
            path = f"{wanted}_{number}"
        return path

    def _add(self, path: str) -> None:
        self._leaves.add(path)
        parts = path.split(".")
        self._above.update(".".join(parts[:i]) for i in range(1, len(parts)))
