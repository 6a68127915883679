"""Takes a model through every form of its graph that can be read back or run."""

from __future__ import annotations

import builtins
import copy
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from retiarii.ir.build.source import to_source
from retiarii.ir.forms.text import parse_text
from retiarii.ir.graph import Graph
from retiarii.ir.types import FrozenDict, TypeOf
from retiarii.testing.parsing import call, parsed, same_structure, seeded, taken_apart


def check_faces(
    model: nn.Module, inputs: Any, *, modes: Iterable[bool] = (False, True), tolerance: float = 1e-9
) -> Graph:
    """Text and JSON read back to themselves; the module and the source compute what the model does.

    All have the model's ``state_dict`` keys. Where nothing is opaque the source runs in a namespace
    that can import torch and the standard library alone, and makes the module's very numbers.

    Args:
        model: it keeps its weights and buffers.
        inputs: as `retiarii.parse` takes them.
        modes: training flags to compare in.
        tolerance: how far the built module's outputs may be from the model's, relative to the
            largest number in each.

    Returns:
        The graph.
    """
    start = copy.deepcopy(model.state_dict())  # with the versions that it holds
    graph = parsed(model, inputs)
    text = str(graph)
    again = parse_text(text)
    assert str(again) == text
    data = graph.to_json()
    assert Graph.from_json(data).to_json() == data
    built = graph.to_module()
    runs = [built]
    if not graph.opaque:
        runs.append(run_source(to_source(graph)))
        assert _unsaved(runs[-1]) == _unsaved(built)
        if _is_whole(again):
            runs.append(again.to_module())
    for run in runs[:2]:
        assert list(run.state_dict()) == list(start)
    assert runs[-1].state_dict().keys() == start.keys()  # a text has no order of its own
    for training in modes:
        wanted = _outputs(model, start, inputs, training)
        outputs = [_outputs(run, start, inputs, training) for run in runs]
        same_structure(wanted, outputs[0])
        assert all(_named(wanted) == _named(output) for output in outputs)
        for one, other in _pairs(wanted, outputs[0]):
            _assert_close(one, other, tolerance)
        for more in outputs[1:]:
            for one, other in _pairs(outputs[0], more):
                torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True)
    return graph


def run_source(text: str) -> nn.Module:
    """The model of a ``model.py``, which may import torch and the standard library alone."""

    def restricted(name: str, *args: Any, **kwargs: Any) -> Any:
        top = name.partition(".")[0]
        # Torch imports what it needs as it runs, but from its own namespace.
        assert top == "torch" or top in sys.stdlib_module_names, f"model.py imports {name}"
        return __import__(name, *args, **kwargs)

    allowed = {**vars(builtins), "__import__": restricted}
    scope: dict[str, Any] = {"__name__": "model", "__builtins__": allowed}
    exec(compile(text, "model.py", "exec", dont_inherit=True), scope)
    made: nn.Module = scope["Model"]()
    return made


def _outputs(model: nn.Module, start: Any, inputs: Any, training: bool) -> Any:
    model.load_state_dict(start, strict=True)
    model.train(training)
    seeded(7)
    with torch.no_grad():
        return call(model, inputs)


def _named(value: Any) -> Any:
    """The structure around the tensors, with the names of classes for the classes."""

    def enter(value: Any) -> Any:
        if isinstance(value, TypeOf):
            return value.target.__name__
        if isinstance(value, FrozenDict):  # a field that is None may as well not be there
            return {key: enter(held) for key, held in value if held is not None}
        return tuple(map(enter, value)) if isinstance(value, tuple) else value

    return enter(taken_apart(value)[0])


def _pairs(one: Any, two: Any) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    return zip(taken_apart(one)[1], taken_apart(two)[1], strict=True)


def _assert_close(one: torch.Tensor, two: torch.Tensor, tolerance: float) -> None:
    if not one.is_floating_point() or not one.numel():
        assert torch.equal(one, two)
        return
    largest = float(one.abs().nan_to_num(0, 0, 0).max())
    torch.testing.assert_close(two, one, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def _unsaved(model: nn.Module) -> dict[str, tuple[torch.dtype, Any]]:
    """The buffers that no ``state_dict`` holds."""
    held = model.state_dict()
    return {
        key: (buffer.dtype, buffer.tolist())
        for key, buffer in model.named_buffers(remove_duplicate=False)
        if key not in held
    }


def _is_whole(graph: Graph) -> bool:
    """Whether a graph that was read from text lacks nothing but what a ``state_dict`` holds."""
    return all(
        r.attrs["key"] in graph.context.constants if r.op == "constant" else r.attrs["persistent"]
        for r in graph.records()
        if r.op in ("constant", "buffer")
    )
