"""Random programs of views, in-place writes and branches on shapes: the graph reads what PyTorch
reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from retiarii.ir.parse import parse
from retiarii.testing.faces import check_faces
from retiarii.testing.parsing import assert_same_run

Step = tuple[str, int, int]

NEW: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: x * 2,
    lambda x: x + 1,
    torch.sin,
    lambda x: x.clone(),
    lambda x: x.contiguous(),
    lambda x: x.reshape(x.shape),
    lambda x: x.to(x.dtype),
    lambda x: torch.zeros_like(x),
    lambda x: torch.arange(x.shape[-1], dtype=x.dtype).expand(x.shape).clone(),
    lambda x: x.sum(-1, keepdim=True) if x.shape[-1] > 2 else -x,
    lambda x: torch.stack([x[:, t] for t in range(x.shape[1])], 1) if x.dim() > 1 else x - 1,
]
VIEWS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: x.transpose(0, -1).transpose(0, -1) if x.dim() < 3 else x.transpose(1, 2),
    lambda x: x[:, 0] if x.dim() > 1 else x[None],
    lambda x: x[:, 1:] if x.dim() > 1 and x.shape[1] > 1 else x.view_as(x),
    lambda x: x[..., ::2],
    lambda x: x.view(x.shape[0], -1) if x.is_contiguous() else x.unsqueeze(1),
    lambda x: x.flatten(1) if x.dim() > 1 else x,
    lambda x: x.unsqueeze(1),
    lambda x: x.squeeze(1) if x.dim() > 1 else x,
    lambda x: x.narrow(-1, 0, 1),
    lambda x: x.select(-1, 0) if x.dim() > 1 else x,
    lambda x: x.permute(0, *reversed(range(1, x.dim()))),
    lambda x: x.movedim(-1, 0).movedim(0, -1),
    lambda x: x.expand_as(x),
]
WRITES: list[Callable[[torch.Tensor], Any]] = [
    lambda x: x.add_(1),
    lambda x: x.mul_(2),
    lambda x: torch.relu_(x),
    lambda x: nn.functional.leaky_relu(x, inplace=True),
    lambda x: x.zero_(),
    lambda x: x.fill_(0.5),
    lambda x: x.clamp_(max=1),
    lambda x: x.__setitem__((slice(None), 0), 0.25) if x.dim() > 1 else x.neg_(),
    lambda x: x.__setitem__((..., -1), x[..., 0] * 3) if x.dim() > 1 else x.neg_(),
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["new", "view", "write", "add", "iadd", "copy", "layer", "branch"]),
        st.integers(0, 50),
        st.integers(0, 50),
    ),
    min_size=1,
    max_size=9,
)


class Program(nn.Module):
    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.fc = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.same = nn.Identity()

    def forward(self, x):
        env = [x, x * 1.5]
        for kind, i, j in self.steps:
            # Not the input itself: its writes are the caller's to see.
            a = env[1 + i % (len(env) - 1)]
            b = env[j % len(env)]
            if kind == "new":
                env.append(NEW[j % len(NEW)](a))
            elif kind == "view":
                env.append(VIEWS[j % len(VIEWS)](a))
            elif kind == "write":
                WRITES[j % len(WRITES)](a)
            elif kind == "layer":
                # In evaluation mode dropout returns its argument itself: a copy, so that a write
                # to it means the same in both modes.
                layer = (self.relu, self.same, lambda a: self.drop(a) * 1)[j % 3]
                env.append(layer(a) if a.shape[-1] != 3 or j % 4 else self.fc(a))
            elif kind == "branch":
                env.append(a * 2 if a.dim() > b.dim() else a - 1)
            elif a.shape == b.shape:
                if kind == "add":
                    env.append(a + b)
                elif kind == "iadd":
                    a += b
                else:
                    a.copy_(b)
        return tuple(env[1:])


def runs(model: nn.Module, x: torch.Tensor) -> bool:
    """Whether the model runs, backward too (autograd forbids some writes)."""
    try:
        made = model(x.clone().requires_grad_(True) * 1)
        sum((t * t).sum() for t in made if t.requires_grad).backward()
    except RuntimeError:
        return False
    return True


def program(steps: list[Step], seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A model that runs in both modes, and the shape of one sample."""
    torch.manual_seed(seed)
    model = Program(steps).double()
    shape = ((4, 3), (3,), (2, 3), (3, 2))[seed]
    for training in (True, False):
        model.train(training)
        assume(runs(model, torch.randn(2, *shape, dtype=torch.float64)))
        assume(runs(model, torch.randn(5, *shape, dtype=torch.float64)))
    return model, shape


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, seed=st.integers(0, 3))
def test_random_programs(steps: list[Step], seed: int) -> None:
    model, shape = program(steps, seed)
    graph = parse(model, torch.randn(2, *shape, dtype=torch.float64))
    graph.verify()
    assert graph.opaque == ()
    built = graph.to_module()
    built.load_state_dict(model.state_dict(), strict=True)
    for training in (False, True):
        for batch in (2, 5):
            model.train(training)
            built.train(training)
            assert_same_run(model, built, torch.randn(batch, *shape, dtype=torch.float64))


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, seed=st.integers(0, 3))
def test_random_programs_in_every_form(steps: list[Step], seed: int) -> None:
    model, shape = program(steps, seed)
    check_faces(model, torch.randn(2, *shape, dtype=torch.float64))
