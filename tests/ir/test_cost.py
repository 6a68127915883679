"""Costs from the op table, counted by hand; `test_cost_zoo` has the comparison with torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.analysis.cost import VIEWS, types_at
from retiarii.ir.graph import Graph
from retiarii.ir.ops import OPS, arrange_call, op_spec
from retiarii.ir.parse import parse


class Calls(nn.Module):
    """A forward that is a function of the module's parts."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = forward

    def forward(self, *inputs: Any) -> Any:
        return self.call(self, *inputs)


def mlp() -> Graph:
    model = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 3))
    return parse(model, torch.zeros(2, 24))


def opaque() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.second(x) if float(x.detach().sum()) > 1e9 else m.second(m.first(x))

    return Calls(
        lambda m, x: m.out(m.inner(x)),
        inner=Calls(run, first=nn.Linear(4, 6), second=nn.Linear(6, 4)),
        out=nn.Linear(4, 4),
    )


def test_a_shared_and_a_tied_layer_have_their_parameters_once() -> None:
    module = Calls(
        lambda m, x: m.out(m.fc(m.fc(x))), fc=nn.Linear(4, 4, bias=False), out=nn.Linear(4, 4)
    )
    module.out.weight = module.fc.weight
    cost = parse(module, torch.zeros(2, 4)).cost()
    assert [(row.name, row.params) for row in cost.nodes if row.op == "Linear"] == [
        ("fc", 16),
        ("fc@1", 0),
        ("out", 4),
    ]
    assert [row.flops for row in cost.nodes if row.op == "Linear"] == [64, 64, 64]


def test_activations_are_bytes_of_what_is_made() -> None:
    module = nn.Sequential(
        nn.Linear(4, 6), nn.Identity(), nn.Unflatten(1, (2, 3)), nn.Sigmoid(), nn.Flatten()
    )
    cost = parse(module, torch.zeros(2, 4)).cost()
    made = {row.op: row.activations for row in cost.nodes}
    assert made["Linear"] == made["Sigmoid"] == 2 * 6 * 4
    assert cost.activations == 2 * 48
    half = parse(module.half(), torch.zeros(2, 4, dtype=torch.half)).cost()
    assert half.activations == cost.activations // 2
    assert half.size == cost.size // 2 == 2 * half.params


def test_a_layer_in_place_makes_nothing() -> None:
    graph = parse(nn.Linear(4, 6), torch.zeros(2, 4))
    before = graph.cost().activations
    (value,) = graph.outputs
    new = graph.insert(nn.ReLU(inplace=True), value, name="act")
    assert graph.cost().activations == before
    graph.update(new, inplace=False)
    assert graph.cost().activations == 2 * before


def test_views_share_the_memory_of_their_input() -> None:
    """Each row that counts as a view, and each that does not, in graphs that use it."""

    def run(m: nn.Module, x: torch.Tensor) -> Any:
        y = x.view(2, 6, 4).permute(0, 2, 1).transpose(1, 2).unsqueeze(1).squeeze(1)
        parts = [*y.chunk(2, 1), *y.split(3, 1), *y.unbind(1), y.narrow(1, 0, 1), y.select(1, 0)]
        parts += [y[:, 0], y[..., None], y[:, [0, 1]], y.flatten(1), y.reshape(2, -1)]
        parts += [y.expand(3, 2, 6, 4), y.detach(), y.contiguous(), y.mT, y.movedim(0, 1)]
        parts += [y.clone(), y + 1, y.sum(1), torch.stack([y, y]), y.repeat(1, 2, 1), y.flip(0)]
        parts += [x.unflatten(1, (4, 6)), y.diagonal(0, 1, 2), y.unfold(1, 2, 1), y.ravel()]
        return parts

    graph = parse(Calls(run), torch.randn(2, 24))
    rows = {row.name: row for row in graph.cost().nodes}
    seen = set()
    for record in graph.records():
        if record.op in ("input", "opaque", "constant"):
            continue
        tensors = [t.meta() for t in graph.input_types(record)]
        spec = op_spec(record.op)
        args, named = arrange_call(spec, record.attrs, tensors)
        try:
            made = getattr(args[0], spec.method)(*args[1:], **named) if spec.method else None
            made = spec.target(*args, **named) if made is None else made
        except (RuntimeError, NotImplementedError):
            continue  # its result depends on values: no meta tensor tells
        first = made[0] if isinstance(made, list | tuple) else made
        shares = first.untyped_storage()._cdata == tensors[0].untyped_storage()._cdata
        assert (rows[record.name].activations == 0) == shares, record
        seen.add(record.op)
    assert {"view", "permute", "chunk", "getitem", "clone", "add", "stack"} <= seen


def test_views_are_rows_of_the_table() -> None:
    assert set(OPS) >= VIEWS


def test_an_opaque_submodule_is_counted_where_it_runs_without_values() -> None:
    class Sorts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    graph = parse(opaque(), torch.randn(2, 4))
    (node,) = graph.opaque
    cost = graph.cost()
    # The branch needs a value, which a count has not: said, and not guessed.
    assert cost.uncounted == (node.name,)
    assert cost.flops == 2 * 2 * 4 * 4
    assert cost.node(node.name).params == 24 + 6 + 24 + 4
    assert cost.part([node.name]).uncounted == (node.name,)
    assert cost.part(["out"]).uncounted == ()

    record = graph.record(node.name)
    context = graph.context
    object.__setattr__(context, "opaque", {node.name: Sorts()})
    again = Graph.build(graph.records(), graph.output_refs(), graph.output_structure, context)
    context.notes.clear()
    counted = again.cost()
    assert counted.uncounted == ()
    assert counted.node(record.name).flops == 2 * 2 * 4 * 4


def test_counting_changes_nothing() -> None:
    module = opaque()
    graph = parse(module, torch.randn(2, 4))
    before, random = str(graph), torch.random.get_rng_state()
    assert graph.cost() == graph.cost()
    assert str(graph) == before
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(p.device.type == "cpu" for p in module.parameters())


def test_cost_follows_an_edit() -> None:
    graph = mlp()
    before = graph.cost()
    graph.update(graph.node("0"), out_features=96)
    after = graph.cost()
    assert after.params == 24 * 96 + 96 + 96 * 3 + 3
    assert after.flops == 2 * before.flops


def test_a_graph_from_text_has_the_same_cost() -> None:
    graph = mlp()
    assert Graph.from_text(str(graph)).cost() == graph.cost()


def test_types_at_another_batch() -> None:
    module = Calls(lambda m, x: x.view(x.shape[0] * 2, -1))
    graph = parse(module, torch.zeros(3, 4))
    assert types_at(graph, 5)["view"][0].shape == (10, 2)
    assert types_at(graph, 3)["view"] == graph.node("view").types


def test_errors_name_what_is_wrong() -> None:
    graph = mlp()
    with pytest.raises(GraphError, match="batch of 0 samples"):
        graph.cost(batch=0)
    with pytest.raises(GraphError, match="no node is called 'nothing'"):
        graph.cost().node("nothing")
