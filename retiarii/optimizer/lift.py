"""Lifts graphs into the forest: modes resolved, layers in functional form, dead nodes gone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from retiarii.errors import GraphError
from retiarii.ir.graph import Graph
from retiarii.ir.infer import module_state
from retiarii.ir.modes import sides
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import op_spec
from retiarii.ir.types import (
    Attrs,
    ByMode,
    Ref,
    Result,
    TensorType,
    Training,
    leaves,
    map_leaves,
)
from retiarii.optimizer.forest import SHARED, Forest, Item, Leaf, Outputs, Port
from retiarii.optimizer.orders import Order, Orders
from retiarii.optimizer.rules.base import Call

_LEAVES: Final = frozenset({"parameter", "buffer", "constant"})


@dataclass(frozen=True, slots=True)
class Model:
    """A model to merge: its graph, and its tensors.

    Attributes:
        graph: what it computes.
        module: a module with the graph's state keys that holds the initial values.
        tensors: state key -> parameter or buffer of ``module``, those in no state_dict included.
    """

    graph: Graph
    module: nn.Module
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(graph: Graph, module: nn.Module) -> Model:
        named: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
        named.update(module.named_buffers(remove_duplicate=False))
        return Model(graph, module, named)


def lift(models: Sequence[Model], mode: bool | None) -> Forest:
    """The forest of the models. Nothing is shared yet but the inputs.

    Args:
        models: in the order of their numbers; all take the same inputs.
        mode: the training flag; ``None`` keeps the flags that each model was parsed with.

    Raises:
        GraphError: a choice that is still open.
    """
    lifter = _Lifter(models[0].graph)
    for number, model in enumerate(models):
        lifter.add(number, model, mode)
    context = models[0].graph.context
    return Forest(
        tuple(lifter.items),
        tuple(lifter.outputs),
        lifter.homes,
        context.forward,
        context.batch_input,
    )


class _Lifter:
    def __init__(self, first: Graph) -> None:
        self.items: list[Item] = []
        self.outputs: list[Outputs] = []
        self.homes: dict[tuple[int, str], int] = {}
        self._calls: dict[Any, Call] = {}
        self._attrs: dict[tuple[Attrs, bool], Attrs] = {}
        self._states: dict[Any, tuple[str, ...]] = {}
        self._digests: dict[tuple[int, int], bytes] = {}
        self._kept: list[Tensor] = []
        self._orders = Orders(self._resolved)
        self._inputs = [
            self._leaf(SHARED, n.record, "input", str(i), n.type)
            for i, n in enumerate(first.inputs)
        ]

    # --- one model ----------------------------------------------------------------------------

    def add(self, number: int, model: Model, mode: bool | None) -> None:
        """Appends a model's items."""
        graph, context = model.graph, model.graph.context
        flag = context.training if mode is None else mode
        modes = context.modes if mode is None else {}
        values: dict[str, tuple[Port, ...]] = {
            node.record.name: (Port(self._inputs[i]),) for i, node in enumerate(graph.inputs)
        }
        held: dict[int, int] = {}  # id of a tensor -> its leaf: ties are one leaf
        last_random: int | None = None
        writers: dict[int, int] = {}
        live = _live(graph, flag)
        orders = self._orders.of(graph, model.tensors, live, flag, modes)
        for record in live:
            if record.op in _LEAVES:
                values[record.name] = (Port(self._held(number, model, record, held)),)
                continue
            if record.is_choice:
                raise GraphError(
                    f"node {record.name!r} is a choice that is not made",
                    where=f"model {number}",
                    fix="merge candidates: space.sample(seed), or space.freeze(decisions)",
                )
            if record.op == "by_mode":
                # What only the other mode needs has not run.
                taken = record.inputs[0 if flag or len(record.inputs) == 1 else 1]
                values[record.name] = (values[taken.node][taken.index],)
                continue
            reads = [values[ref.node][ref.index] for ref in record.inputs]
            training = modes.get(record.path or "", flag)
            order = orders.get(record.name)
            item, passed = self._item(number, model, record, reads, training, held, order)
            if passed is not None:
                values[record.name] = (passed,)
                continue
            assert item is not None
            after = []
            if is_random(item.call):
                after += [] if last_random is None else [last_random]
                last_random = len(self.items)
            for leaf in written(item, self.items):
                after += [writers[leaf]] if leaf in writers else []
                writers[leaf] = len(self.items)
            if after:
                item = replace(item, after=tuple(after))
            values[record.name] = tuple(Port(len(self.items), i) for i in range(len(record.types)))
            self.items.append(item)
        for record in graph.records():
            if record.op == "constant":
                self._held(number, model, record, held)  # of the other mode
        # What no node reads is state all the same; an opaque module keeps its own buffers.
        opaque = tuple(f"{n.path}." if n.path else "" for n in graph.opaque)
        for key, tensor in model.tensors.items():
            if isinstance(tensor, nn.Parameter) or not (opaque and key.startswith(opaque)):
                self._state(number, model, key, held)
        structure = Result(0) if graph.output_structure is None else graph.output_structure
        self.outputs.append(_outputs(structure, graph.output_refs(), values, flag))

    def _item(
        self,
        number: int,
        model: Model,
        record: NodeRecord,
        reads: list[Port],
        training: bool,
        held: dict[int, int],
        order: Order | None,
    ) -> tuple[Item | None, Port | None]:
        """The node's item; or the port that it passes on unchanged."""
        op, attrs = record.op, self._resolved(record.attrs, training)
        state = self._state_names(record, attrs, model)
        if not state and op != "opaque":
            spec = op_spec(op)
            if spec.kind == "module" and spec.alias is not None:
                twin = spec.alias(attrs)
                if twin is not None:
                    op, attrs = twin[0], self._resolved(twin[1], training)
                    spec = op_spec(op)
            if spec.identity is not None and len(reads) == 1 and spec.identity(attrs):
                port = reads[0]
                if self.items[port.item].call.results[port.result] == record.types[0]:
                    return None, port
        inputs = [*reads]
        for name in state:
            key = f"{record.path}.{name}" if record.path else name
            inputs.append(Port(self._state(number, model, key, held)))
        types = tuple(self.items[p.item].call.results[p.result] for p in inputs)
        training = training or op_spec(op).kind == "function"  # its attributes say the mode
        call = self._call(op, attrs, types, record.types, record.result, state, training, order)
        template = record.path if op == "opaque" else None
        item = Item(
            number,
            record.name,
            call,
            tuple(inputs),
            None,
            record.no_grad,
            (),
            template,
            record.where,
        )
        return item, None

    def _state_names(self, record: NodeRecord, attrs: Attrs, model: Model) -> tuple[str, ...]:
        """The local names of the parameters and buffers that the node's module holds."""
        if record.op == "opaque":
            # Its buffers stay in the module, which may replace them.
            inner = model.module.get_submodule(record.path or "")
            return tuple(name for name, _ in inner.named_parameters())
        if record.path is None or op_spec(record.op).kind != "module":
            return ()
        key = (record.op, attrs)
        found = self._states.get(key)
        if found is None:
            found = tuple(module_state(record.op, attrs, model.graph.context.types))
            self._states[key] = found
        return found

    def _call(
        self,
        op: str,
        attrs: Attrs,
        inputs: tuple[TensorType, ...],
        results: tuple[TensorType, ...],
        result: Any,
        state: tuple[str, ...],
        training: bool,
        order: Order | None = None,
    ) -> Call:
        key = (op, attrs, inputs, results, repr(result), state, training, order)
        found = self._calls.get(key)
        if found is None:
            found = Call(op, attrs, inputs, results, result, state, training, order)
            self._calls[key] = found
        return found

    def _resolved(self, attrs: Attrs, training: bool) -> Attrs:
        found = self._attrs.get((attrs, training))
        if found is None:
            found = self._attrs[attrs, training] = resolve_modes(attrs, training)
        return found

    # --- leaves -------------------------------------------------------------------------------

    def _held(self, number: int, model: Model, record: NodeRecord, held: dict[int, int]) -> int:
        if record.op == "constant":
            key = record.attrs["key"]
            value = model.graph.context.constants[key]
            known = held.get(id(value))
            if known is None:
                self._kept.append(value)
                leaf = Leaf("constant", key, False, self._digest(value))
                known = held[id(value)] = self._put(number, record.name, leaf, record.types[0])
                self.homes[number, f"constant:{key}"] = known
            return known
        assert record.path is not None
        return self._state(number, model, record.path, held)

    def _state(self, number: int, model: Model, key: str, held: dict[int, int]) -> int:
        """The leaf of one parameter or buffer of a model."""
        tensor = model.tensors[key]
        found = held.get(id(tensor))
        if found is None:
            trains = isinstance(tensor, nn.Parameter) and tensor.requires_grad
            kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            digest = None if trains else self._digest(tensor)
            if digest is not None and kind == "buffer":
                digest += _modes(model.graph, key)
            leaf = Leaf(kind, key, trains, digest)
            found = self._put(number, key, leaf, TensorType.of(tensor))
            held[id(tensor)] = found
        self.homes[number, key] = found
        return found

    def _leaf(self, owner: int, record: NodeRecord, kind: str, key: str, type_: TensorType) -> int:
        return self._put(owner, record.name, Leaf(kind, key), type_)

    def _put(self, owner: int, name: str, leaf: Leaf, type_: TensorType) -> int:
        call = self._call(leaf.kind, Attrs(), (), (type_,), None, (), True)
        self.items.append(Item(owner, name, call, (), leaf))
        return len(self.items) - 1

    def _digest(self, tensor: Tensor) -> bytes:
        """Of type and value. Copies of a big backbone that share storage are read once."""
        key = (id(tensor), tensor._version)
        if key not in self._digests:
            self._kept.append(tensor)  # so that the id stays its own
            self._digests[key] = digest_of(tensor)
        return self._digests[key]


def _modes(graph: Graph, key: str) -> bytes:
    """In which modes a buffer's layer and its model are: others may write what it keeps."""
    context = graph.context
    own = context.modes.get(key.rpartition(".")[0], context.training)
    if not context.modes:
        return bytes((own,))
    return repr((own, context.training, sorted(context.modes.items()))).encode()


def digest_of(tensor: Tensor) -> bytes:
    """A digest of a tensor's type and value."""
    made = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel():
        made.update(flat.view(torch.uint8).numpy().data)
    return made.digest()


def is_random(call: Call) -> bool:
    """Whether it may draw random numbers."""
    if call.op == "opaque":
        return True
    spec = op_spec(call.op)
    if not spec.random:
        return False
    if call.state or spec.kind == "module":
        return call.training and spec.is_random(call.attrs)
    return call.attrs.get("training", True) is not False and spec.is_random(call.attrs)


def written(item: Item, items: Sequence[Item]) -> list[int]:
    """The leaves that the item writes."""
    if item.call.op == "opaque" or not item.call.spec.stateful:
        return []
    state = item.inputs[len(item.call.operands) :] if item.call.state else item.inputs
    found = []
    for port in state:
        leaf = items[port.item].leaf
        if leaf is not None and leaf.kind == "buffer" and item.call.training:
            found.append(port.item)
    return found


def resolve_modes(attrs: Attrs, training: bool) -> Attrs:
    """The attributes with every training flag in them set."""
    if not any(
        isinstance(leaf, Training) or isinstance(v, ByMode)
        for v in attrs.values()
        for leaf in leaves(v)
    ):
        return attrs
    return Attrs({name: _resolve(value, training) for name, value in attrs.items()})


def _resolve(value: Any, training: bool) -> Any:
    if isinstance(value, ByMode):
        return _resolve(value.training if training else value.evaluating, training)
    if isinstance(value, tuple | slice):
        return map_leaves(lambda leaf: _resolve(leaf, training), value)
    if isinstance(value, Training):
        return training is not value.inverted
    return value


def _live(graph: Graph, training: bool) -> list[NodeRecord]:
    """The nodes that run in this mode, in order."""
    records = list(graph.records())
    only = sides(graph, records)
    structure = Result(0) if graph.output_structure is None else graph.output_structure
    refs = graph.output_refs()
    wanted = {
        refs[leaf.index].node
        for leaf in leaves(_resolve(structure, training))
        if isinstance(leaf, Result)
    }
    found = []
    for record in reversed(records):
        if record.op == "input" or only.get(record.name, training) is not training:
            continue
        if record.name not in wanted and not _acts(record):
            continue
        found.append(record)
        if record.op == "by_mode":
            chosen = record.inputs[0 if training or len(record.inputs) == 1 else 1]
            wanted.add(chosen.node)
        else:
            wanted.update(ref.node for ref in record.inputs)
    found.reverse()
    return found


def _acts(record: NodeRecord) -> bool:
    if record.op in _LEAVES:
        return False
    spec = op_spec(record.op)
    return record.op == "opaque" or spec.random or spec.stateful


def _outputs(
    structure: Any, refs: tuple[Ref, ...], values: Mapping[str, tuple[Port, ...]], training: bool
) -> Outputs:
    ports: list[Port] = []

    def number(leaf: Any) -> Any:
        if not isinstance(leaf, Result):
            return leaf
        ref = refs[leaf.index]
        ports.append(values[ref.node][ref.index])
        return Result(len(ports) - 1)

    resolved = map_leaves(number, _resolve(structure, training))
    return Outputs(tuple(ports), resolved)
