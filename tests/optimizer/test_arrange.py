"""Sums that are computed where they are read, calls that are repeated, and the cheaper grouping."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from retiarii.ir.parse import parse
from retiarii.optimizer import arrange as arranging
from retiarii.optimizer.arrange import arrange
from retiarii.optimizer.dedup import dedup
from retiarii.optimizer.forest import Forest
from retiarii.optimizer.group import group
from retiarii.optimizer.layout import layout
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.lower import lower
from retiarii.optimizer.merge import merge
from retiarii.optimizer.merged import MergedModel
from retiarii.optimizer.plan import Plan
from retiarii.optimizer.repeat import repeat
from retiarii.optimizer.storage import store
from retiarii.optimizer.sums import inlined, terms


class Cell(nn.Module):
    """Branches in the order given, summed from the left or from the right."""

    def __init__(self, branches: str, left: bool = True, returns_sum: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.one, self.three = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)
        self.branches, self.left, self.returns_sum = branches, left, returns_sum

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x)
        made = {"1": self.one(x.relu()), "3": self.three(x.relu()), "s": x, "p": x.tanh()}
        a, b, c = (made[name] for name in self.branches)
        total = (a + b) + c if self.left else a + (b + c)
        out: Tensor = self.head(total.relu())
        return (out, total) if self.returns_sum else out


ORDERS = ("13s", "s31", "p1s", "31p", "sp1", "3sp")


def cells(**options: bool) -> list[nn.Module]:
    torch.manual_seed(0)
    return [Cell(order, **options).double() for order in ORDERS]


def forest_of(models: Sequence[nn.Module]) -> Forest:
    x = torch.zeros(2, 3, 5, 5, dtype=torch.float64)
    return dedup(lift([Model.of(parse(m, x), m) for m in models], True))


def planned(models: Sequence[nn.Module], beside: bool) -> Plan:
    forest = forest_of(models)
    return layout(group(repeat(forest) if beside else forest, beside=beside))


def take(beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes one of the two groupings, whatever it costs."""
    sign = -1 if beside else 1  # the one beside convolutions has more items
    monkeypatch.setattr(arranging, "_cost", lambda plan: sign * len(plan.forest.items))


def run_alone(models: Sequence[nn.Module], x: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
    found = []
    for model in models:
        out = model(x)
        out = out[0] if isinstance(out, tuple) else out
        grads = torch.autograd.grad(
            out.square().sum(), list(model.parameters()), materialize_grads=True
        )
        found.append((out.detach(), list(grads)))
    return found


def gradient(merged: MergedModel, model: int, name: str) -> Tensor:
    """The gradient of a model's parameter; zeros where it has none."""
    stack, member = merged.storage.places[model, name]
    parameter: Tensor = getattr(merged, merged.storage.stacks[stack].name)
    held = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return held[member]


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("returns_sum", [True, False])
@pytest.mark.parametrize("beside", [True, False])
def test_the_merged_model_is_exact_either_way(
    left: bool, returns_sum: bool, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(beside, monkeypatch)
    models = cells(left=left, returns_sum=returns_sum)
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    merged = merge(models, x, fuse="on")
    expected = run_alone(models, x)
    outs = [out[0] if isinstance(out, tuple) else out for out in merged(x)]
    torch.stack([out.square().sum() for out in outs]).sum().backward()
    for number, (out, (value, grads)) in enumerate(zip(outs, expected, strict=True)):
        torch.testing.assert_close(out, value, rtol=1e-10, atol=1e-10)
        merged_model = merged.state_dict_of(number)
        assert merged_model.keys() == dict(models[number].named_parameters()).keys()
        for (name, _), grad in zip(models[number].named_parameters(), grads, strict=True):
            held = gradient(merged, number, name)
            torch.testing.assert_close(held, grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("beside", [True, False])
def test_chains_of_additions_are_added_where_they_are_read(beside: bool) -> None:
    plan = planned(cells(), beside)
    reduced, sums = inlined(plan)
    # The sum in front of the last ReLU is read once, and the one inside of it as well.
    assert len(sums) == 2 * len(ORDERS)
    assert not any(g.call.op == "add" for g in reduced.groups)
    items = plan.forest.items
    for group_ in plan.groups:
        for m in group_.members:
            if items[m].call.op == "relu" and items[m].inputs[0].item in sums:
                assert len(terms(items[m].inputs[0], items, sums)) == 3
    source = lower(plan, store(plan)).source
    assert "gathered_sum" in source
    assert " x add" not in source


def test_sums_from_the_right_keep_their_order() -> None:
    """``a + (b + c)`` is not ``(a + b) + c`` to the last bit."""
    plan = planned(cells(left=False), False)
    _, sums = inlined(plan)
    assert len(sums) == len(ORDERS)


def test_sums_that_are_returned_are_computed() -> None:
    plan = planned(cells(returns_sum=True), False)
    reduced, sums = inlined(plan)
    assert {plan.forest.items[m].name for m in sums} == {"add"}
    assert any(g.call.op == "add" for g in reduced.groups)


def test_what_reads_nothing_else_is_not_inlined_into_single_calls() -> None:
    """A model by itself stays as it is."""
    plan = planned(cells()[:1], True)
    assert inlined(plan) == (plan, frozenset())
    assert "gathered" not in lower(plan, store(plan)).source


def test_a_relu_in_front_of_two_convolutions_is_made_twice() -> None:
    forest = forest_of(cells())
    twice = repeat(forest)
    plan = layout(group(twice, beside=True))
    fed = {}
    for g in plan.groups:
        for m in g.members:
            fed[m] = g
    for g in plan.groups:
        if g.call.op == "Conv2d" and not g.shared[0]:
            sources = [fed[twice.items[m].inputs[0].item] for m in g.members]
            assert len({id(s) for s in sources}) == 1
            assert sources[0].call.op == "relu"
            assert [twice.items[m].inputs[0].item for m in g.members] == list(sources[0].members)
    assert repeat(twice) == twice
    assert twice.models == forest.models
    names = [i.name for i in twice.items if i.leaf is None and i.owner == 0]
    assert len(names) > len(set(names))


def test_what_is_repeated_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for beside in (True, False):
        take(beside, monkeypatch)
        found.append(merge(cells(), torch.zeros(2, 3, 5, 5).double(), fuse="on"))
    items = [len(merged.program.plan.forest.items) for merged in found]
    assert items[0] > items[1]
    assert found[0].stats.shared == found[1].stats.shared


def test_the_cheaper_grouping_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = forest_of(cells())
    monkeypatch.setattr(arranging, "_CALL", 0.0)
    copied = arrange(forest)
    monkeypatch.setattr(arranging, "_CALL", 1000.0)
    called = arrange(forest)
    assert len(called.groups) <= len(copied.groups)
    copies = [lower(p, store(p)).copies for p in (copied, called)]
    assert copies[0] <= copies[1]
    monkeypatch.setattr(arranging, "_MOST", 0)
    assert len(arrange(forest).forest.items) > len(forest.items)


@pytest.mark.parametrize("beside", [True, False])
def test_a_nan_stays_in_its_model(beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    take(beside, monkeypatch)
    models = cells()
    x = torch.randn(3, 3, 5, 5, dtype=torch.float64)
    broken = copy.deepcopy(models)
    with torch.no_grad():
        next(broken[2].parameters()).fill_(float("nan"))
    runs = []
    for given in (models, broken):
        merged = merge(given, x, fuse="on")
        outs = merged(x)
        torch.stack([out.square().sum() for out in outs]).sum().backward()
        runs.append((merged, outs))
    (whole, good), (merged, bad) = runs
    assert bad[2].isnan().all()
    for number in (0, 1, 3, 4, 5):
        assert torch.equal(good[number], bad[number])
        for name, _ in models[number].named_parameters():
            assert torch.equal(gradient(whole, number, name), gradient(merged, number, name))
