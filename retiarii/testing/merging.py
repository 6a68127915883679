"""Training alone and merged, side by side: losses, gradients, buffers and weights are the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from retiarii.optimizer.merge import merge
from retiarii.optimizer.merged import MergedModel

Inputs = tuple[Any, ...]
Loss = Callable[[Any], Tensor]
MakeOptimizer = Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]


def sgd(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """All of SGD's state that depends on whether a parameter has a gradient."""
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=0.01)


def adam(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with a step that is large enough to tell."""
    return torch.optim.Adam(parameters, lr=0.003, weight_decay=0.01)


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of what a model returns, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)


def mixed_loss(value: Any) -> Tensor:
    """A loss of any structure that holds a float tensor: every element counts differently."""
    total = torch.zeros((), dtype=torch.float64)
    for i, tensor in enumerate(tensors(value)):
        if tensor.is_floating_point():
            weights = torch.linspace(0.5, 1.5, tensor.numel(), dtype=tensor.dtype)
            flat = tensor.reshape(-1)
            total = total + (i + 1) * (flat.sin() * weights + 0.1 * flat.square()).mean()
    return total


@dataclass
class Course:
    """What training one model went through.

    Attributes:
        losses: of each step.
        outputs: of each step, detached.
        gradients: state key -> gradient after the last step, ``None`` where there is none.
        state: the final state_dict.
    """

    losses: list[float] = field(default_factory=list)
    outputs: list[list[Tensor]] = field(default_factory=list)
    gradients: dict[str, Tensor | None] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


def train_alone(
    model: nn.Module,
    batches: Sequence[Inputs],
    loss: Loss = mixed_loss,
    optimizer: MakeOptimizer = sgd,
    seed: int = 0,
) -> Course:
    """A step a batch, of a copy of the model."""
    model = copy.deepcopy(model)
    course = Course()
    parameters = [p for p in model.parameters() if p.requires_grad]
    worker = optimizer(parameters) if parameters else None
    with fresh_stream(seed):
        for inputs in batches:
            output = model(*inputs)
            value = loss(output)
            _step(worker, value)
            course.losses.append(value.item())
            course.outputs.append([t.detach().clone() for t in tensors(output)])
    course.gradients = {
        k: None if p.grad is None else p.grad.clone()
        for k, p in model.named_parameters(remove_duplicate=False)
    }
    course.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return course


def train_merged(
    merged: MergedModel,
    batches: Sequence[Inputs],
    loss: Loss = mixed_loss,
    optimizer: MakeOptimizer = sgd,
    seeds: Sequence[int] | None = None,
) -> list[Course]:
    """The same steps of all models at once; losses are summed."""
    count = merged.models
    courses = [Course() for _ in range(count)]
    merged.seed(range(count) if seeds is None else seeds)
    parameters = [p for p in merged.parameters() if p.requires_grad]
    worker = optimizer(parameters) if parameters else None
    for inputs in batches:
        outputs = merged(*inputs)
        losses = [loss(output) for output in outputs]
        _step(worker, torch.stack(losses).sum())
        for course, value, output in zip(courses, losses, outputs, strict=True):
            course.losses.append(value.item())
            course.outputs.append([t.detach().clone() for t in tensors(output)])
    for i, course in enumerate(courses):
        course.gradients = gradients_of(merged, i)
        course.state = merged.state_dict_of(i)
    return courses


def gradients_of(merged: MergedModel, model: int) -> dict[str, Tensor | None]:
    """State key -> the present gradient of one model's parameter."""
    found: dict[str, Tensor | None] = {}
    for (owner, key), (number, member) in merged.storage.places.items():
        stack = merged.storage.stacks[number]
        if owner != model or stack.kind != "parameter":
            continue
        grad = getattr(merged, stack.name).grad
        found[key] = grad if grad is None or stack.plain else grad[member].clone()
    return found


def assert_close(got: Course, expected: Course, rtol: float = 1e-9, who: str = "") -> None:
    """Finds where two courses differ; gradients of zeros and none count as different."""
    torch.testing.assert_close(
        torch.tensor(got.losses, dtype=torch.float64),
        torch.tensor(expected.losses, dtype=torch.float64),
        rtol=rtol,
        atol=rtol,
        msg=lambda m: f"{who} losses: {m}",
    )
    for step, (ours, theirs) in enumerate(zip(got.outputs, expected.outputs, strict=True)):
        for a, b in zip(ours, theirs, strict=True):
            _close(a, b, rtol, f"{who} output of step {step}")
    assert got.gradients.keys() == expected.gradients.keys(), who
    for key, grad in expected.gradients.items():
        own = got.gradients[key]
        assert (own is None) == (grad is None), f"{who} {key}: gradient {own}, alone {grad}"
        if own is not None and grad is not None:
            _close(own, grad, rtol, f"{who} gradient of {key}")
    assert list(got.state) == list(expected.state), who
    for key, value in expected.state.items():
        _close(got.state[key], value, rtol, f"{who} {key}")


def check_merged(
    models: Sequence[nn.Module],
    batches: Sequence[Inputs],
    *,
    loss: Loss = mixed_loss,
    optimizer: MakeOptimizer = sgd,
    rtol: float = 1e-9,
    example: Inputs | None = None,
    dedup: bool = True,
) -> MergedModel:
    """Trains the models alone and merged, and compares; then compares them in evaluation.

    Args:
        models: in float64; they are not changed.
        batches: the arguments of each step; their sizes may differ.
        loss: of what a model returns.
        optimizer: made once for each model, and once for the merged one.
        rtol: the relative difference allowed.
        example: the example inputs; the first batch where there are none.
        dedup: as for `rt.merge`.
    """
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in models]
    example = batches[0] if example is None else example
    merged = merge(list(models), example, dedup=dedup, fuse="on")
    courses = train_merged(merged, batches, loss, optimizer)
    for i, (model, got) in enumerate(zip(models, courses, strict=True)):
        expected = train_alone(model, batches, loss, optimizer, i)
        assert_close(got, expected, rtol, f"model {i}")
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[i][key]), f"merging changed {key} of model {i}"
    check_evaluation(merged, models, batches[-1], rtol)
    return merged


def check_evaluation(
    merged: MergedModel, models: Sequence[nn.Module], inputs: Inputs, rtol: float = 1e-9
) -> None:
    """In evaluation, the merged model returns what the classes with its weights return."""
    merged.eval()
    with torch.no_grad():
        outputs = merged(*inputs)
        for i, (model, output) in enumerate(zip(models, outputs, strict=True)):
            alone = copy.deepcopy(model).eval()
            alone.load_state_dict(merged.state_dict_of(i), strict=True)
            for a, b in zip(tensors(output), tensors(alone(*inputs)), strict=True):
                _close(a, b, rtol, f"model {i} in evaluation")


@contextmanager
def fresh_stream(seed: int) -> Iterator[None]:
    """Inside, torch's random numbers begin with ``seed``; outside they go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _step(worker: torch.optim.Optimizer | None, loss: Tensor) -> None:
    if worker is not None:
        worker.zero_grad()
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    if worker is not None:
        worker.step()


def _close(got: Tensor, expected: Tensor, rtol: float, who: str) -> None:
    assert got.dtype == expected.dtype, f"{who}: {got.dtype}, alone {expected.dtype}"
    scale = expected.abs().max().item() if expected.numel() and expected.is_floating_point() else 0
    torch.testing.assert_close(
        got, expected, rtol=rtol, atol=rtol * max(scale, 1.0), msg=lambda m: f"{who}: {m}"
    )
