"""Compares a parsed graph's module with the model that it was parsed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse
from retiarii.ir.tracing.structure import (
    freeze_structure,
    map_tensors,
    tensors_in,
)

MakeInputs = Callable[[int], Any]


def seeded(seed: int = 0) -> None:
    torch.manual_seed(seed)


def doubled(value: Any) -> Any:
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, value)


def call(model: nn.Module, inputs: Any) -> Any:
    """Runs a model on what `parse` takes as example inputs."""
    if type(inputs) is tuple:
        return model(*inputs)
    return model(**inputs) if type(inputs) is dict else model(inputs)


def fingerprint(model: nn.Module) -> list[tuple[str, Any]]:
    """All that parsing must leave as it is."""
    found: list[tuple[str, Any]] = [("rng", torch.get_rng_state().tolist())]
    for path, module in model.named_modules():
        found.append((path, (module.training, sorted(module.__dict__))))
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        found.append((key, (id(tensor), tensor._version, tensor.device.type)))
    return found


def parsed(model: nn.Module, inputs: Any) -> Graph:
    """Parses, checking that the model is left alone and that the graph verifies."""
    before = fingerprint(model)
    graph = parse(model, inputs)
    after = fingerprint(model)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert not changed
    graph.verify()
    return graph


def same_structure(one: Any, two: Any) -> None:
    """Both values have the same classes around their tensors."""
    assert taken_apart(one)[0] == taken_apart(two)[0]


def taken_apart(value: Any) -> tuple[Any, list[torch.Tensor]]:
    """The structure without its tensors, and those; objects that a model returns are entered."""
    tensors: list[torch.Tensor] = []

    def leaf(tensor: torch.Tensor) -> str:
        tensors.append(tensor)
        return "tensor"

    return freeze_structure(value, leaf, records=True), tensors


def assert_same_run(model: nn.Module, built: nn.Module, inputs: Any) -> None:
    """Outputs, gradients of parameters and inputs, and buffers afterwards are equal."""
    one, gradients = _run(model, inputs)
    two, others = _run(built, inputs)
    same_structure(one, two)
    for a, b in zip(taken_apart(one)[1], taken_apart(two)[1], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)
    assert gradients.keys() == others.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(others[key], gradient, rtol=1e-8, atol=1e-10, msg=key)
    held = built.state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(held[key], value, rtol=1e-9, atol=1e-11, msg=key)


def _run(model: nn.Module, inputs: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The output, and all gradients that are not zero."""
    model.zero_grad()
    given = map_tensors(lambda t: t.clone().requires_grad_(t.is_floating_point()), inputs)
    # A leaf may not be written in place, whoever runs the model.
    passed = map_tensors(lambda t: t * 1 if t.is_floating_point() else t, given)
    seeded(7)
    output = call(model, passed)
    parts = [
        (t * torch.linspace(0.5, 1.5, t.numel()).view(t.shape)).sum()
        for t in taken_apart(output)[1]
        if t.is_floating_point() and t.requires_grad
    ]
    if parts:
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
    found = {key: parameter.grad for key, parameter in model.named_parameters()}
    found |= {f"input {i}": t.grad for i, t in enumerate(tensors_in(given))}
    return output, {key: grad for key, grad in found.items() if grad is not None and grad.any()}


def check(
    make: Callable[[], nn.Module],
    make_inputs: MakeInputs,
    *,
    opaque: tuple[str, ...] = (),
    batches: tuple[int, ...] = (2, 5),
    example: int = 2,
    modes: tuple[bool, ...] = (True, False),
    train_example: bool = True,
) -> Graph:
    """Parses at one batch size and compares at others, in both modes, both ways of loading.

    Args:
        make: the model.
        make_inputs: batch size -> example inputs.
        opaque: the paths that must be opaque, and no others.
        batches: batch sizes to compare at.
        example: the batch size to parse at.
        modes: training flags to compare in.
        train_example: the flag to parse in.
    """
    seeded()
    model = make().double().train(train_example)
    graph = parsed(model, doubled(make_inputs(example)))
    assert tuple(sorted(n.record.path or "" for n in graph.opaque)) == tuple(sorted(opaque)), [
        (n.record.path, n.attrs["reason"], n.record.where) for n in graph.opaque
    ]
    built = graph.to_module()
    assert built.training is train_example
    model.load_state_dict(built.state_dict(), strict=True)
    built.load_state_dict(model.state_dict(), strict=True)
    for training in modes:
        for batch in batches:
            model.train(training)
            built.train(training)
            seeded(batch)
            assert_same_run(model, built, doubled(make_inputs(batch)))
    return graph
