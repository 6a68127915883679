"""What all copies of one parsed graph share: weights, constants, and the memory of inference."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from retiarii.ir.infer import TypeCache
from retiarii.ir.transfer import Transfer
from retiarii.ir.types import Attrs, Result

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How the arguments of ``forward`` hold the graph's inputs.

    Attributes:
        params: (parameter name, structure) in order; a structure has ``Result(i)`` where it
            holds the graph's input number ``i``, and constants elsewhere.
        keyword_only: names of those that are passed by name.
    """

    params: tuple[tuple[str, Any], ...]
    keyword_only: frozenset[str] = frozenset()

    @staticmethod
    def plain(names: tuple[str, ...]) -> InputSpec:
        """Each input is one argument."""
        return InputSpec(tuple((name, Result(i)) for i, name in enumerate(names)))


@dataclass(frozen=True, slots=True)
class FixedSize:
    """A size of an input that the graph holds for one value of only: that of the example.

    Python of the model read it, and what it did depended on it.

    Attributes:
        input: the number of the input.
        dim: which of its dimensions.
        where: ``file:line`` where it was read.
    """

    input: int
    dim: int
    where: str | None = None


@dataclass(frozen=True, slots=True)
class GraphContext:
    """Shared by all copies of a graph, and never changed.

    Attributes:
        forward: how ``forward``'s arguments hold the inputs.
        batch: the batch size of the example inputs, at which all shapes are given.
        batch_input: the number of the input whose first dimension is the batch.
        training: the parsed model's training flag.
        weights: state_dict key -> the parsed model's own tensor (a reference, not a copy).
        ties: state_dict key -> the first key of the same tensor.
        constants: key -> a tensor that is in no state_dict.
        opaque: module path -> a submodule that could not be lowered.
        modes: module path -> training flag, where it differs from ``training``.
        frozen: state_dict keys of parameters that take no gradient.
        fixed: what the graph holds for one value of only, that at which it was parsed: "batch",
            "training" (the model's mode). Elsewhere the built module raises.
        sizes: likewise, sizes of inputs other than the batch.
        transfers: what growth and pruning did to the weights since they were parsed, in order.
        types: the memory of type inference; other parsed graphs may share it.
        notes: room for facts about what only this graph has, such as its opaque modules.
        digests: of tensors that are not learned, for the canonical form.
        completed: the memory of constructor arguments with their defaults.
        layers: the memory of the arguments of layers that are spliced in again and again.
        parsed: the memory of graphs of modules that are spliced in again and again.
    """

    forward: InputSpec
    batch: int = 1
    batch_input: int = 0
    training: bool = True
    weights: Mapping[str, torch.Tensor] = field(default_factory=lambda: _EMPTY)
    ties: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    constants: Mapping[str, torch.Tensor] = field(default_factory=lambda: _EMPTY)
    opaque: Mapping[str, nn.Module] = field(default_factory=lambda: _EMPTY)
    modes: Mapping[str, bool] = field(default_factory=lambda: _EMPTY)
    frozen: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    sizes: tuple[FixedSize, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    types: TypeCache = field(default_factory=TypeCache)
    notes: dict[Any, Any] = field(default_factory=dict)
    digests: MutableMapping[torch.Tensor, str] = field(default_factory=WeakTensorKeyDictionary)
    completed: dict[tuple[str, Attrs], Attrs] = field(default_factory=dict)
    layers: MutableMapping[nn.Module, tuple[tuple[str, str, Attrs], ...] | None] = field(
        default_factory=WeakKeyDictionary
    )
    parsed: MutableMapping[nn.Module, dict[Any, Graph]] = field(default_factory=WeakKeyDictionary)
