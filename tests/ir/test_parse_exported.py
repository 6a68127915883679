"""Programs of ``torch.export``."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim, export

from retiarii.errors import ParseError
from retiarii.ir.parse import parse


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x, *, scale=None):
        x = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        x = self.mix(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.head(x[:, 1:].mean(1))
        return {"logits": x if scale is None else x * scale, "twice": (x * 2,)}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    model = Net().eval()
    model(torch.randn(2, 3, 6, 6))
    return model


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_program_is_parsed_with_its_keys(net: nn.Module, dynamic: bool) -> None:
    x = torch.randn(2, 3, 6, 6)
    shapes = {"x": {0: Dim("b")}} if dynamic else None
    graph = parse(export(net, (x,), dynamic_shapes=shapes))
    graph.verify()
    assert graph.opaque == ()
    built = graph.to_module()
    assert list(built.state_dict()) == list(net.state_dict())
    built.load_state_dict(net.state_dict(), strict=True)
    assert graph.context.fixed == (frozenset() if dynamic else {"batch"})
    if not dynamic:
        with pytest.raises(ValueError, match="batch of 2 only"):
            built(torch.randn(5, 3, 6, 6))
    for batch in (2, 5) if dynamic else (2,):
        x = torch.randn(batch, 3, 6, 6)
        found, expected = built(x), net(x)
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found["logits"], expected["logits"])
        torch.testing.assert_close(found["twice"][0], expected["twice"][0])


def test_a_program_for_one_batch_size_is_not_parsed_at_another(net: nn.Module) -> None:
    with pytest.raises(ParseError, match="exported for a batch of 2, and for no other"):
        parse(export(net, (torch.randn(2, 3, 6, 6),)), torch.randn(4, 3, 6, 6))


class Normed(nn.Module):
    """A norm of its own, one that is called twice, one without weights, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.own = nn.BatchNorm2d(4, momentum=0.3, eps=1e-3)
        self.twice = nn.BatchNorm2d(4)
        self.plain = nn.BatchNorm1d(4, affine=False)
        self.frozen = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.twice(torch.relu(self.twice(self.own(self.conv(x)))))
        return self.drop(self.frozen(self.plain(x.mean((2, 3)))))


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_program_in_training_counts_and_keeps_statistics(dynamic: bool) -> None:
    torch.manual_seed(0)
    model = Normed().train()
    model.frozen.eval()
    model(torch.randn(4, 3, 5, 5))
    shapes = {"x": {0: Dim("b")}} if dynamic else None
    x = torch.randn(4, 3, 5, 5)
    program = export(model, (x,), dynamic_shapes=shapes)
    before = {key: value.clone() for key, value in program.state_dict.items()}
    graph = parse(program)
    for key, value in program.state_dict.items():
        assert torch.equal(value, before[key]), key
    graph.verify()
    assert graph.opaque == ()
    assert graph.context.fixed == ({"training"} if dynamic else {"batch", "training"})
    norms = [n.record.path for n in graph.nodes if n.op.startswith("BatchNorm")]
    assert norms == ["own", "twice", "twice", "plain"]
    built = graph.to_module()
    assert set(built.state_dict()) == set(model.state_dict())
    for batch in (4, 6) if dynamic else (4,):
        x = torch.randn(batch, 3, 5, 5)
        outputs = []
        for made in (built, model):
            torch.manual_seed(1)
            outputs.append(made(x))
        torch.testing.assert_close(*outputs)
    assert model.own.num_batches_tracked == (3 if dynamic else 2)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(built.state_dict()[key], value, msg=key)
    with pytest.raises(ValueError, match="for training mode only"):
        built.eval()(x)


class CountsTwice(nn.BatchNorm2d):
    def forward(self, x):
        self.num_batches_tracked.add_(1)
        return super().forward(x)


def test_what_only_looks_like_a_norm_stays_opaque() -> None:
    model = nn.Sequential(CountsTwice(3)).train()
    x = torch.randn(2, 3, 4, 4)
    graph = parse(export(model, (x,)))
    assert [n.attrs["reason"] for n in graph.opaque] == ["writes a buffer in forward"]
    built = graph.to_module()
    torch.testing.assert_close(built(x), model(x))
    assert built.state_dict()["0.num_batches_tracked"] == 2


def test_other_inputs_may_be_given(net: nn.Module) -> None:
    x = torch.randn(2, 3, 6, 6)
    program = export(net, (x,), dynamic_shapes={"x": {0: Dim("b")}})
    graph = parse(program, torch.randn(4, 3, 6, 6))
    assert graph.context.batch == 4


def test_arguments_by_name(net: nn.Module) -> None:
    x, scale = torch.randn(2, 3, 6, 6), torch.randn(2, 1)
    graph = parse(export(net, (x,), {"scale": scale}))
    assert [n.name for n in graph.inputs] == ["x", "scale"]
    found = graph.to_module()(x, scale=scale)["logits"]
    torch.testing.assert_close(found, net(x, scale=scale)["logits"])


def test_the_program_stays_as_it_was(net: nn.Module) -> None:
    program = export(net, (torch.randn(2, 3, 6, 6),))
    before = str(program.graph), {k: v.clone() for k, v in program.state_dict.items()}
    parse(program)
    assert str(program.graph) == before[0]
    for key, value in program.state_dict.items():
        assert torch.equal(value, before[1][key])


def test_it_holds_for_the_sizes_that_it_was_exported_for() -> None:
    class Halved(nn.Module):
        def forward(self, x, y):
            return x[:, : x.shape[1] // 2] + y.mean(1, keepdim=True)

    given = (torch.randn(2, 6), torch.randn(2, 3))
    some = torch.export.Dim("n", min=2)
    program = torch.export.export(Halved(), given, dynamic_shapes=({}, {1: some}))
    graph = parse(program)
    assert [(size.input, size.dim) for size in graph.context.sizes] == [(0, 1)]
    built = graph.to_module()
    other = torch.randn(2, 5)
    torch.testing.assert_close(built(given[0], other), Halved()(given[0], other))
    with pytest.raises(ValueError, match=r"x.shape\[1\] == 6, not 8$"):
        built(torch.randn(2, 8), given[1])
    with pytest.raises(ParseError, match=r"exported for x.shape\[1\] == 6"):
        parse(program, (torch.randn(2, 8), given[1]))
