"""A cohort in one merged pass has the scores that its models have alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.proxies.base import Sample
from retiarii.proxies.passes import run
from retiarii.proxies.registry import REGISTERED, make_proxy
from retiarii.testing.small_spaces import SMALL


def batch(size: int = 6) -> Sample:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 3, 8, 8, generator=generator, dtype=torch.float64)
    return Sample((x,), {}, torch.arange(size) % 3, nn.CrossEntropyLoss())


@pytest.mark.parametrize("name", REGISTERED)
def test_merged_equals_alone(name: str) -> None:
    candidates = [SMALL["nas_bench_201"]().sample(seed) for seed in range(5)]
    together = run(make_proxy(name), [c.build(1) for c in candidates], batch(), 7)
    alone = run(make_proxy(name), [c.build(1) for c in candidates], batch(), 7, merge=False)
    assert together == pytest.approx(alone, rel=1e-9)
    assert len({round(score, 9) for score in alone}) > 1


@pytest.mark.parametrize("name", REGISTERED)
def test_models_with_dropout_and_shared_layers(name: str) -> None:
    def model(width: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        shared = nn.Linear(width, width)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(192, width),
            nn.BatchNorm1d(width),
            nn.GELU(),
            shared,
            nn.Dropout(0.3),
            shared,
            nn.ReLU(),
            nn.Linear(width, 3),
        )

    def made() -> list[nn.Module]:
        return [model(8, 0), model(8, 1), model(12, 2)]

    together = run(make_proxy(name), made(), batch(), 3)
    assert together == pytest.approx(
        run(make_proxy(name), made(), batch(), 3, merge=False), rel=1e-9
    )


def test_a_branch_that_does_not_train_counts_nothing() -> None:
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 3))
    frozen[1].weight.requires_grad_(False)  # type: ignore[union-attr]
    free = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 3))
    free.load_state_dict(frozen.state_dict())
    less, more = run(make_proxy("grad_norm"), [frozen, free], batch(), 0)
    assert 0 < less < more


def test_a_merged_pass_is_merged() -> None:
    """What it computes is one program of fused groups."""
    from retiarii.proxies.passes import Together, ready

    proxy = make_proxy("snip")
    modules = [c.build(1) for c in (SMALL["nas_bench_201"]().sample(s) for s in range(4))]
    models = [ready(proxy, module, batch(), 0) for module in modules]
    stats = Together(models, batch(), 0)._merged.stats
    assert stats.groups > 0


def test_candidates_are_not_changed() -> None:
    space = rt.ModelSpace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.zeros(2, 2))
    candidate = space.sample(0)
    before = candidate.build(0).state_dict()
    run(make_proxy("synflow"), [candidate.build(0)], Sample((torch.ones(2, 2).double(),), {}), 0)
    after = candidate.build(0).state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
