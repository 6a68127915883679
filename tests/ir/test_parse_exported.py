"""Programs of ``torch.export``."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim, export

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
    for batch in (2, 5) if dynamic else (2,):
        x = torch.randn(batch, 3, 6, 6)
        found, expected = built(x), net(x)
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found["logits"], expected["logits"])
        torch.testing.assert_close(found["twice"][0], expected["twice"][0])


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
