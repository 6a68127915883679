"""The frozen prefix of a merged model, and the rest of it, as programs of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retiarii.optimizer.cut import Cut, Value, cut
from retiarii.optimizer.lift import digest_of, written
from retiarii.optimizer.storage import Home

if TYPE_CHECKING:
    from retiarii.optimizer.merged import MergedModel
    from retiarii.optimizer.plan import Plan


class FrozenPrefix:
    """A merged model in one mode, in two programs.

    ``rest([*head(inputs), *(inputs[i] for i in reads)])`` is what ``merged.stacked`` computes in
    that mode of the same inputs. The head's results follow from the inputs and from tensors that
    never change, so they may be kept. Both use the merged model's own tensors.

    Attributes:
        values: the boundary values, in the order in which the head returns them.
        reads: the numbers of the models' inputs that the rest takes after the values.
    """

    def __init__(self, merged: MergedModel, made: Cut) -> None:
        self.values: tuple[Value, ...] = made.values
        self.reads: tuple[int, ...] = made.reads
        self._stacked = made.stacked
        self._rest = _Part(merged, made.rest)
        # Compiled when it is asked for: often all that it makes is kept already.
        self._make_head = partial(_Part, merged, made.head)

    @cached_property
    def _head(self) -> _Part:
        return self._make_head()

    def head(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The boundary values of a batch.

        Args:
            inputs: of the models, in the order of their numbers.
        """
        with torch.no_grad():
            found = self._head.run(inputs)
        return [v[0] if s else v for v, s in zip(found, self._stacked, strict=True)]

    def rest(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The output stacks, in the order of `MergedModel.stacked`.

        Args:
            inputs: the boundary values, then the inputs of `reads`.
        """
        return list(self._rest.run(inputs))

    @property
    def source(self) -> str:
        """The code of both programs."""
        return f"# the prefix\n{self._head.source}\n# the rest\n{self._rest.source}"


class _Part:
    """The ``self`` of a program that is a part of the merged model's."""

    def __init__(self, merged: MergedModel, plan: Plan) -> None:
        program = merged.part(plan)
        self._merged = merged
        self._program = program
        self.templates = program.templates
        self.source = program.source

    def run(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._program.run(self, inputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._merged, name)


def frozen_prefix(merged: MergedModel, training: bool) -> FrozenPrefix | str:
    """What of a merged model follows from the inputs and frozen tensors alone.

    Statistics that training writes are not frozen, in evaluation neither.

    Args:
        merged: on its device. Its mode is set to ``training``.
        training: the mode.

    Returns:
        The two programs; or, in words, why there is no prefix that is worth anything.
    """
    merged.train()
    changing = _written_homes(merged.program.plan)
    merged.train(training)
    plan = merged.program.plan
    homes: dict[int, Home] = {}
    for home, leaf in plan.forest.homes.items():
        homes.setdefault(leaf, home)
    leaves = {leaf for home, leaf in plan.forest.homes.items() if home in changing}
    made = cut(plan, leaves, lambda leaf: digest_of(merged.tensor_of(*homes[leaf])))
    return made if isinstance(made, str) else FrozenPrefix(merged, made)


def _written_homes(plan: Plan) -> set[Home]:
    """The buffers that a program writes."""
    items = plan.forest.items
    leaves = {leaf for item in items if item.leaf is None for leaf in written(item, items)}
    return {home for home, leaf in plan.forest.homes.items() if leaf in leaves}
