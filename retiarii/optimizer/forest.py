"""The forest: the dataflow graphs of many models as one list of items, in functional form.

A layer's parameters and buffers are items of their own (leaves) and inputs of its call, so that
weights, ties between them and values that models share are all the same thing: ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from retiarii.ir.context import InputSpec
from retiarii.ir.types import TensorType
from retiarii.optimizer.rules.base import Call

# The owner of what all models may use.
SHARED = -1


class Port(NamedTuple):
    """One tensor: a result of an item."""

    item: int
    result: int = 0


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor that nothing computes.

    Attributes:
        kind: ``"input"``, ``"parameter"``, ``"buffer"`` or ``"constant"``.
        key: the state key in the owner's model, the constant's key, or the input's number.
        trainable: whether it takes a gradient.
        digest: of a value that never changes: frozen weights, buffers, constants; else ``None``.
    """

    kind: str
    key: str
    trainable: bool = False
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One call of one model, or one leaf.

    Attributes:
        owner: the number of its model, or `SHARED`.
        name: the node's name in the owner's graph.
        call: what it computes; equal calls are one object.
        inputs: what it reads.
        leaf: for leaves, where the tensor is.
        no_grad: it runs without recording gradients.
        after: items that must run before it although it reads none of their results: random
            numbers are drawn, and buffers written, in the model's own order.
        template: the module path of an opaque submodule.
        where: file and line of the call.
    """

    owner: int
    name: str
    call: Call
    inputs: tuple[Port, ...] = ()
    leaf: Leaf | None = None
    no_grad: bool = False
    after: tuple[int, ...] = ()
    template: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one model returns: its tensors, and the structure with ``Result(i)`` that holds them."""

    ports: tuple[Port, ...]
    structure: Any


@dataclass(frozen=True, slots=True)
class Forest:
    """The models as one dataflow graph.

    Attributes:
        items: in topological order; an item's number is its position.
        outputs: of each model.
        homes: (model, state key) -> the leaf that holds it. Several may lead to one leaf.
        forward: how ``forward`` takes its arguments.
        batch_input: the number of the input whose first dimension is the batch.
        lost: items whose gradient is zero because all that read them was multiplied by zero, and
            is not computed any more; with the outputs that they led to, as `gradient_ways` says.
    """

    items: tuple[Item, ...]
    outputs: tuple[Outputs, ...]
    homes: Mapping[tuple[int, str], int]
    forward: InputSpec
    batch_input: int = 0
    lost: Mapping[int, int] = field(default_factory=dict)

    @property
    def models(self) -> int:
        """The number of models."""
        return len(self.outputs)

    def type_of(self, port: Port) -> TensorType:
        """The type of a tensor, at the example batch size."""
        return self.items[port.item].call.results[port.result]

    def __str__(self) -> str:
        """One item a line: number, owner, name, call."""
        lines = [f"forest of {self.models} models, {len(self.items)} items"]
        for number, item in enumerate(self.items):
            owner = "*" if item.owner == SHARED else str(item.owner)
            reads = ", ".join(
                f"%{p.item}.{p.result}" if p.result else f"%{p.item}" for p in item.inputs
            )
            mark = " no_grad" if item.no_grad else ""
            types = ", ".join(map(str, item.call.results))
            lines.append(
                f"  %{number} [{owner}] {item.name} = {shown(item)}({reads}): {types}{mark}"
            )
        for model, out in enumerate(self.outputs):
            lines.append(f"  out {model}: " + ", ".join(f"%{p.item}.{p.result}" for p in out.ports))
        return "\n".join(lines)


def shown(item: Item) -> str:
    """An item's operation, with the attributes that matter to a reader."""
    if item.leaf is not None:
        return f"{'frozen ' * (item.leaf.kind == 'parameter' and not item.leaf.trainable)}" + (
            f"{item.leaf.kind}"
        )
    attrs = ", ".join(f"{k}={v!r}" for k, v in sorted(item.call.attrs.items()))
    return f"{item.call.op}[{attrs}]" if attrs else item.call.op
