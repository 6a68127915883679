"""Stacked parameters of many models, laid end to end, and their gradients likewise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.training.cohort.blocks import Block, Region, Span, best_order, memory_order


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one parameter of one model is stored.

    Attributes:
        block: the index of its block.
        span: the index of its stack in the block.
        member: which member of the stack it is.
        segment: the index of the segment in the block.
    """

    block: int
    span: int
    member: int
    segment: int


@dataclass(frozen=True, slots=True)
class FlatGradient:
    """The gradient of all stacked parameters.

    Attributes:
        tensors: one ``[N]`` for each block; zeros where there is no gradient.
        present: for each block and each of its segments, whether it has a gradient at all; ``None``
            when all have one. What has none is not updated: no decay, no momentum, no step counted.
    """

    tensors: tuple[Tensor, ...]
    present: tuple[tuple[bool, ...], ...] | None = None


class FlatParameters:
    """Stacked parameters whose data lie in one buffer for each type and device.

    Each parameter's ``.data`` becomes a view of its block, in the memory format that it had, so
    that one kernel updates the weights of all models.

    Args:
        params: stacked parameters ``[G, *S]``, or a parameter ``S`` of a single model.
        owners: for each of them the model of every member, or one model (an ``int``) for a
            parameter that is no stack. A model may own several members of one stack.
        models: how many models there are; the highest owner and one by default.
        order: for each model its own parameters, in its own order, each as ``(index of the
            parameter, member)``. By default the order in which its members come.

    Raises:
        ValueError: owners and parameters do not fit, ``order`` is not all of a model's members, a
            parameter is given twice, or is not of real numbers.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        owners: Sequence[int | Sequence[int]],
        models: int | None = None,
        order: Sequence[Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        members = [_members(p, o, i) for i, (p, o) in enumerate(zip(params, owners, strict=True))]
        if len({id(p) for p in params}) < len(params):
            raise ValueError("a parameter is given twice: tied weights are one parameter")
        if not all(p.is_floating_point() for p in params):
            raise ValueError("a parameter is complex: train its model by itself")
        highest = max((k for row in members for k in row), default=-1)
        self.models = highest + 1 if models is None else models
        if highest >= self.models:
            raise ValueError(f"a member belongs to model {highest}, but there are {self.models}")
        self.params = tuple(params)
        self._stacked = [not isinstance(o, int) for o in owners]
        self._members_of = members
        self.blocks: tuple[Block, ...] = self._lay_out(members)
        self._places = {
            (span.parameter, g): Slot(b, s, g, span.first_segment + g)
            for b, block in enumerate(self.blocks)
            for s, span in enumerate(block.spans)
            for g in range(span.members)
        }
        self.slots: tuple[tuple[Slot, ...], ...] = self._find_slots(members, order)
        self._present: dict[tuple[bool, ...], tuple[tuple[bool, ...], ...]] = {}

    def _lay_out(self, members: Sequence[Sequence[int]]) -> tuple[Block, ...]:
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for index, param in enumerate(self.params):
            kinds.setdefault((param.dtype, param.device), []).append(index)
        blocks = []
        for (_, device), found in kinds.items():
            order = best_order([self.params[i].numel() for i in found], device)
            indices = [found[i] for i in order]
            spans: list[Span] = []
            pieces: list[Tensor] = []
            start = segment = 0
            for index in indices:
                data = self.params[index].detach()
                stack = data if self._stacked[index] else data.unsqueeze(0)
                span = Span(index, start, tuple(stack.shape), memory_order(stack), segment)
                spans.append(span)
                pieces.append(span.flattened(stack))
                start += span.length
                segment += span.members
            flat = torch.cat(pieces)
            owners = [owner for index in indices for owner in members[index]]
            block = Block(flat, spans, owners, self.models)
            for span in spans:
                param = self.params[span.parameter]
                param.data = span.view(flat).view(param.shape)
            blocks.append(block)
        return tuple(blocks)

    def _find_slots(
        self,
        members: Sequence[Sequence[int]],
        order: Sequence[Sequence[tuple[int, int]]] | None,
    ) -> tuple[tuple[Slot, ...], ...]:
        owned: list[list[tuple[int, int]]] = [[] for _ in range(self.models)]
        for index, row in enumerate(members):
            for member, model in enumerate(row):
                owned[model].append((index, member))
        if order is None:
            order = owned
        for model, (given, known) in enumerate(zip(order, owned, strict=True)):
            if sorted(given) != sorted(known):
                raise ValueError(f"the order of model {model} does not name each of its parameters")
        return tuple(tuple(self._places[key] for key in row) for row in order)

    # --- gradients --------------------------------------------------------------------------------

    @torch.no_grad()
    def gather(
        self,
        grads: Sequence[Tensor | None],
        present: Sequence[Sequence[bool]] | None = None,
    ) -> FlatGradient:
        """One flat gradient from those of the parameters, in their order.

        Args:
            grads: as ``torch.autograd.grad(..., allow_unused=True)`` gives them; ``None`` for a
                parameter that no loss depends on.
            present: for each parameter and member whether it counts as having a gradient, where a
                stack has one although the loss of some of its members' models does not depend on
                them. By default every member of a stack that has a gradient.
        """
        tensors = []
        for block in self.blocks:
            pieces = []
            for span in block.spans:
                grad = grads[span.parameter]
                if grad is None:
                    pieces.append(block.data.new_zeros(span.length))
                else:
                    # A sparse embedding's gradient: with zeros filled in it is the same.
                    dense = grad if grad.layout is torch.strided else grad.to_dense()
                    pieces.append(span.flattened(dense))
            tensors.append(torch.cat(pieces))
        if present is not None:
            rows = [
                [flag and grad is not None for flag in row]
                for row, grad in zip(present, grads, strict=True)
            ]
            return FlatGradient(tuple(tensors), self._by_block(rows))
        given = tuple(grad is not None for grad in grads)
        if all(given):
            return FlatGradient(tuple(tensors))
        if given not in self._present:
            rows = [[flag] * len(row) for flag, row in zip(given, self._members_of, strict=True)]
            self._present[given] = self._by_block(rows)
        return FlatGradient(tuple(tensors), self._present[given])

    def _by_block(self, rows: Sequence[Sequence[bool]]) -> tuple[tuple[bool, ...], ...]:
        return tuple(
            tuple(flag for span in block.spans for flag in rows[span.parameter])
            for block in self.blocks
        )

    def views(self, flat: Sequence[Tensor]) -> list[Tensor]:
        """Flat tensors, one for each block, as one view for each parameter, in its shape."""
        found: dict[int, Tensor] = {}
        for block, tensor in zip(self.blocks, flat, strict=True):
            for span, view in zip(block.spans, block.views(tensor), strict=True):
                found[span.parameter] = view.view(self.params[span.parameter].shape)
        return [found[index] for index in range(len(self.params))]

    # --- per model --------------------------------------------------------------------------------

    def vector(self, values: Sequence[float]) -> float | Tensor:
        """One number a model: a plain float when all agree, else float64 ``[K]``."""
        first = float(values[0]) if len(values) else 0.0
        if all(v == first for v in values):
            return first
        device = self.blocks[0].data.device if self.blocks else None
        return torch.tensor([float(v) for v in values], dtype=torch.float64, device=device)

    def expand(self, values: float | Tensor) -> list[float | Tensor]:
        """Per block, each element's own value of ``[K]``, in the block's type (bools stay bools).

        A float stays one.
        """
        if not isinstance(values, Tensor):
            return [values for _ in self.blocks]
        return [block.expand(_fitting(block.data, values)) for block in self.blocks]

    def pieces(self, *flat: Sequence[Tensor]) -> Iterator[tuple[Region, list[Tensor]]]:
        """Each region with its part of flat tensors, of which one is given for each block."""
        for block, tensors in zip(self.blocks, zip(*flat, strict=True), strict=True):
            for region in block.regions:
                yield region, [region.of(tensor) for tensor in tensors]

    @torch.no_grad()
    def sums(self, flat: Sequence[Tensor]) -> Tensor:
        """Flat tensors summed over each model: ``[K]``; NaN and infinity stay with their model."""
        found: Tensor | None = None
        for block, tensor in zip(self.blocks, flat, strict=True):
            part = block.model_sums(block.segment_sums(tensor))
            found = part if found is None else found + part.to(found.device)
        return torch.zeros(self.models) if found is None else found

    def squared_norms(self, grad: FlatGradient) -> Tensor:
        """The squared norm of each model's gradient: ``[K]``."""
        return self.sums([g * g for g in grad.tensors])

    def member(self, flat: Sequence[Tensor], slot: Slot) -> Tensor:
        """One parameter's part of flat tensors, as a view in the parameter's own shape."""
        return self.blocks[slot.block].spans[slot.span].view(flat[slot.block])[slot.member]

    def member_of(self, flat: Sequence[Tensor], model: int) -> list[Tensor]:
        """A model's parts of flat tensors, in its own order of parameters."""
        return [self.member(flat, slot) for slot in self.slots[model]]


def expanded(region: Region, values: Any, like: Tensor) -> Any:
    """A float as it is; ``[K]`` spread over a region whose part of a block is ``like``."""
    return region.expand(_fitting(like, values)) if isinstance(values, Tensor) else values


def _fitting(like: Tensor, values: Tensor) -> Tensor:
    """Bools stay bools."""
    return values.to(like.device, values.dtype if values.dtype is torch.bool else like.dtype)


def _members(param: nn.Parameter, owners: int | Sequence[int], index: int) -> list[int]:
    if isinstance(owners, int):
        return [owners]
    if param.ndim == 0 or param.shape[0] != len(owners):
        raise ValueError(
            f"parameter {index} has shape {tuple(param.shape)} and {len(owners)} owners"
        )
    return list(owners)
