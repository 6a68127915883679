"""Models apart and the same models stacked, so that both can be trained side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retiarii.training.cohort import blocks
from retiarii.training.cohort.stacks import FlatParameters

# Members of each stack by model: models own none, one or several; the last is one model's alone.
OWNERS: tuple[int | tuple[int, ...], ...] = ((0, 1, 2), (2, 0), (1, 1, 0, 2), 1)
SHAPES = ((3, 2), (5,), (2, 3, 1, 2), (4, 3))
MODELS = 3


@dataclass
class Pair:
    """The same parameters twice.

    Attributes:
        alone: each model's own parameters, in its order.
        stacked: the stacked parameters.
        flat: laid end to end.
        places: for each model the stack and the member of each of its parameters.
    """

    alone: list[list[nn.Parameter]]
    stacked: list[nn.Parameter]
    flat: FlatParameters
    places: list[list[tuple[int, int]]]

    def grads(self, seed: int, missing: Sequence[int] = ()) -> list[Tensor | None]:
        """Random gradients of the stacks, which the models alone get too."""
        generator = torch.Generator().manual_seed(seed)
        found: list[Tensor | None] = []
        for index, p in enumerate(self.stacked):
            value = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
            # Some gradients are exactly 0, as those of dead units are.
            value[value.abs() < 0.1] = 0.0
            found.append(None if index in missing else value)
        for own, places in zip(self.alone, self.places, strict=True):
            for p, (index, member) in zip(own, places, strict=True):
                grad = found[index]
                if grad is not None and not isinstance(OWNERS[index], int):
                    grad = grad[member]
                p.grad = None if grad is None else grad.clone()
        return found

    def weights(self, model: int) -> list[Tensor]:
        return self.flat.member_of([b.data for b in self.flat.blocks], model)

    def assert_equal(self, tolerance: float, models: Sequence[int] = range(MODELS)) -> None:
        for model in models:
            for own, merged in zip(self.alone[model], self.weights(model), strict=True):
                torch.testing.assert_close(merged, own.detach(), rtol=tolerance, atol=tolerance)


def make_pair(
    dtype: torch.dtype = torch.float64,
    shuffled: bool = False,
    lay_out: Callable[[Tensor], Tensor] = lambda t: t,
) -> Pair:
    generator = torch.Generator().manual_seed(0)
    stacked = []
    places: list[list[tuple[int, int]]] = [[] for _ in range(MODELS)]
    for index, (owners, shape) in enumerate(zip(OWNERS, SHAPES, strict=True)):
        row = [owners] if isinstance(owners, int) else owners
        size = shape if isinstance(owners, int) else (len(row), *shape)
        value = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
        stacked.append(nn.Parameter(lay_out(value)))
        for member, model in enumerate(row):
            places[model].append((index, member))
    if shuffled:
        places = [list(reversed(row)) for row in places]
    alone = [
        [
            nn.Parameter(
                (stacked[i] if isinstance(OWNERS[i], int) else stacked[i][g]).detach().clone()
            )
            for i, g in row
        ]
        for row in places
    ]
    flat = FlatParameters(stacked, OWNERS, order=places)
    return Pair(alone, stacked, flat, places)


class Cohorts:
    """What tests of this folder share."""

    Pair = Pair
    OWNERS = OWNERS
    MODELS = MODELS
    pair = staticmethod(make_pair)

    def torchs(self, pair: Pair, descriptions: Sequence[Any]) -> list[torch.optim.Optimizer]:
        return [d.build(own) for d, own in zip(descriptions, pair.alone, strict=True)]


@pytest.fixture(scope="session", params=[blocks.LARGE, 20], ids=["one-vector", "in-rows"])
def cohorts(request: pytest.FixtureRequest) -> Iterator[Cohorts]:
    """With all stacks in one vector, and with the largest as a matrix of its own."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LARGE", request.param)
        yield Cohorts()
