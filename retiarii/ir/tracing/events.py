"""What a trace leaves behind: the calls in order, and the tensors that they started from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from retiarii.ir.context import FixedSize
from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing.sizes import SizeLog
from retiarii.ir.types import ByMode, Ref


@dataclass(frozen=True, slots=True)
class Enter:
    """A module's forward begins."""

    path: str


@dataclass(frozen=True, slots=True)
class Leave:
    """A module's forward ends and returns ``result`` (frozen, with a `Ref` for each tensor)."""

    path: str
    result: Any


Event = NodeRecord | Enter | Leave


@dataclass(frozen=True)
class Trace:
    """One run of a model's forward.

    Attributes:
        batch: the batch size it ran at.
        training: the mode it ran in.
        events: nodes, and where modules begin and end, in order.
        inputs: the records of the input nodes.
        sources: name -> the parameters, buffers and constants that were used.
        constants: key -> the constants' tensors.
        outputs: what forward returned, frozen, with a `Ref` for each tensor.
        random: whether Python's or NumPy's random numbers were drawn.
        stateful: whether forward changed attributes of modules.
        fixed: what it stands for one value of only: "batch", "training".
        sizes: the sizes that the code read and used.
        bound: sizes of inputs that it stands for one value of only.
    """

    batch: int
    training: bool
    events: tuple[Event, ...]
    inputs: tuple[NodeRecord, ...]
    sources: Mapping[str, NodeRecord]
    constants: Mapping[str, torch.Tensor]
    outputs: Any
    random: bool
    stateful: bool
    fixed: frozenset[str] = frozenset()
    sizes: SizeLog | None = None
    bound: tuple[FixedSize, ...] = ()


class NodeNames:
    """Names for nodes: unique, and free of what is reserved for others.

    Args:
        reserved: names that only their owners may take (module paths, state_dict keys).
    """

    def __init__(self, reserved: frozenset[str]) -> None:
        self._reserved = reserved
        self._taken: set[str] = set()
        self._count: dict[str, int] = {}

    def free(self, wanted: str) -> str:
        """``wanted``, or ``wanted_1``, ``wanted_2``, ..."""
        return self._numbered(wanted, "_", self._reserved)

    def own(self, wanted: str) -> str:
        """A reserved name, for its owner: ``wanted``, or ``wanted@1`` for a further call."""
        return self._numbered(wanted, "@", frozenset())

    def take(self, names: Iterable[str], counts: Mapping[str, int]) -> None:
        """Takes names that were given before in a trace like this one."""
        self._taken.update(names)
        self._count.update(counts)

    def counts(self, path: str) -> dict[str, int]:
        """How the names at a module's path, and below it, are numbered by now."""
        below = f"{path}." if path else ""
        return {n: i for n, i in self._count.items() if n == path or n.startswith(below)}

    def _numbered(self, wanted: str, mark: str, reserved: frozenset[str]) -> str:
        name, number = wanted, self._count.get(wanted, 0)
        while name in self._taken or name in reserved:
            number += 1
            name = f"{wanted}{mark}{number}"
        self._count[wanted] = number
        self._taken.add(name)
        return name


def refs_in(value: Any) -> list[Ref]:
    """The refs in a frozen structure, in order."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, tuple):
        return [ref for part in value for ref in refs_in(part)]
    if isinstance(value, ByMode):
        return [*refs_in(value.training), *refs_in(value.evaluating)]
    return []
