"""What the models of a cohort return, stacked: one structure for models that return alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retiarii.ir.tracing.structure import rebuild
from retiarii.ir.types import Result
from retiarii.optimizer.forest import SHARED
from retiarii.optimizer.merged import MergedModel
from retiarii.optimizer.program import Program
from retiarii.training.cohort.placing import Placer
from retiarii.training.structure import map_tensors


@dataclass(frozen=True, slots=True)
class Outputs:
    """What several models return.

    Attributes:
        models: in the order in which they are stacked.
        value: as one model returns it, each tensor with a dimension for the models in front.
    """

    models: tuple[int, ...]
    value: Any

    def member(self, place: int) -> Any:
        """What the model at a place returned."""
        return map_tensors(lambda t: t[place], self.value)

    def only(self, places: list[int], place: Placer) -> Outputs:
        """Of the models at these places alone; ``place`` is of the tensors' device."""
        if len(places) == len(self.models):
            return self
        models = tuple(self.models[p] for p in places)
        return Outputs(
            models,
            map_tensors(lambda t: t[place(places, torch.int64)], self.value),
        )


@dataclass(frozen=True, slots=True)
class _Position:
    """Where one output tensor of some models lies: a stack, and their places in it."""

    stack: int
    plain: bool
    places: tuple[int, ...] | None  # None: all of them, in order


@dataclass(frozen=True, slots=True)
class _Alike:
    """Models whose outputs are held alike, and lie in the same stacks."""

    models: tuple[int, ...]
    structure: Any
    positions: tuple[_Position, ...]


class OutputReader:
    """Puts the output stacks of a merged model together.

    Args:
        merged: the merged model.
        place: of its device.
    """

    def __init__(self, merged: MergedModel, place: Placer) -> None:
        self._merged = merged
        self._place = place
        self._found: dict[bool, tuple[_Alike, ...]] = {}

    def read(self, tensors: list[Tensor]) -> list[Outputs]:
        """The outputs, each model's in one of them.

        Args:
            tensors: of `MergedModel.stacked`, in order.
        """
        mode = self._merged.training
        if mode not in self._found:
            self._found[mode] = _alike(self._merged.program)
        return [_taken(alike, tensors, self._place) for alike in self._found[mode]]


def _taken(alike: _Alike, tensors: list[Tensor], place: Placer) -> Outputs:
    values = []
    for position in alike.positions:
        tensor = tensors[position.stack]
        if position.plain:
            tensor = tensor.expand(len(alike.models), *tensor.shape)
        elif position.places is not None:
            tensor = tensor[place(position.places, torch.int64)]
        values.append(tensor)
    value = rebuild(alike.structure, lambda v: values[v.index] if isinstance(v, Result) else v)
    return Outputs(alike.models, value)


def _alike(program: Program) -> tuple[_Alike, ...]:
    forest = program.plan.forest
    where: list[dict[int, tuple[int, int]]] = [{} for _ in forest.outputs]
    for number, out in enumerate(program.plan.outputs):
        for place, model in enumerate(out.models):
            where[model][out.position] = (number, place)
    groups: dict[Any, list[int]] = {}
    for model, own in enumerate(forest.outputs):
        stacks = tuple(where[model][p][0] for p in range(len(own.ports)))
        groups.setdefault((repr(own.structure), stacks), []).append(model)
    found = []
    for (_, stacks), models in groups.items():
        if stacks:  # in the order of the first stack, which then is read as it is
            models = sorted(models, key=lambda m: where[m][0][1])
        positions = []
        for position, number in enumerate(stacks):
            stack = program.plan.outputs[number]
            plain = forest.items[stack.ports[0].item].owner == SHARED
            whole = stack.models == tuple(models)
            places = None if whole else tuple(where[m][position][1] for m in models)
            positions.append(_Position(number, plain, places))
        found.append(_Alike(tuple(models), forest.outputs[models[0]].structure, tuple(positions)))
    return tuple(found)
