"""Costs of a zoo of models, against torch's own flop counter and the modules themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from retiarii.ir.analysis.cost import Cost
from retiarii.ir.parse import parse

Made = tuple[nn.Module, Any]
ZOO: dict[str, Callable[[], Made]] = {}


def zoo(*shape: int, batch: int = 2) -> Callable[[Callable[[], nn.Module]], Callable[[], Made]]:
    def register(make: Callable[[], nn.Module]) -> Callable[[], Made]:
        ZOO[make.__name__] = lambda: (make(), torch.randn(batch, *shape))
        return ZOO[make.__name__]

    return register


class Calls(nn.Module):
    """A forward that is a function of the module's parts."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.call = forward

    def forward(self, *inputs: Any) -> Any:
        return self.call(self, *inputs)


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + x)


def conv(i: int, o: int, k: int = 3, **more: Any) -> nn.Sequential:
    layer = nn.Conv2d(i, o, k, padding=k // 2, bias=False, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(o), nn.ReLU())


def head(width: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


@zoo(24)
def mlp():
    return nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 3))


@zoo(3, 16, 16)
def resnet():
    return nn.Sequential(conv(3, 8), *(Residual(conv(8, 8), conv(8, 8)) for _ in range(3)), head(8))


@zoo(3, 16, 16)
def vgg():
    return nn.Sequential(
        conv(3, 8), nn.MaxPool2d(2), conv(8, 16), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 5)
    )


@zoo(3, 16, 16)
def mobilenet():
    block = Residual(conv(8, 48, 1), conv(48, 48, 3, groups=48), conv(48, 8, 1))
    return nn.Sequential(conv(3, 8, stride=2), block, head(8))


@zoo(4, 12, 12)
def resnext():
    return nn.Sequential(conv(4, 32, 1), conv(32, 32, groups=8, dilation=1), head(32))


@zoo(3, 16, 16)
def squeeze_excite():
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 8, 1))
    run = lambda m, x: (lambda y: y * m.gate(y).sigmoid())(m.stem(x))  # noqa: E731
    return Calls(run, stem=conv(3, 8), gate=gate)


@zoo(3, 16, 16)
def unet():
    def run(m, x):
        a = m.down(x)
        b = m.mid(F.max_pool2d(a, 2))
        return m.out(torch.cat([a, m.up(b)], 1))

    return Calls(
        run,
        down=conv(3, 8),
        mid=conv(8, 16),
        up=nn.ConvTranspose2d(16, 8, 2, stride=2),
        out=nn.Conv2d(16, 2, 1),
    )


@zoo(4, 10, 10)
def densenet():
    def run(m, x):
        for layer in (m.a, m.b, m.c):
            x = torch.cat([x, layer(x)], 1)
        return x.mean((2, 3))

    return Calls(run, a=conv(4, 2), b=conv(6, 2), c=conv(8, 2))


@zoo(3, 16, 16)
def convnext():
    def run(m, x):
        y = m.spatial(m.patch(x)).permute(0, 2, 3, 1)
        return m.down(F.gelu(m.up(m.norm(y)))).mean((1, 2))

    return Calls(
        run,
        patch=nn.Conv2d(3, 8, 4, 4),
        spatial=nn.Conv2d(8, 8, 7, padding=3, groups=8),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 32),
        down=nn.Linear(32, 8),
    )


@zoo(6, 20)
def wavenet():
    return nn.Sequential(
        nn.Conv1d(6, 8, 3, dilation=2), nn.Tanh(), nn.ConvTranspose1d(8, 4, 4, 2, groups=2)
    )


@zoo(2, 6, 8, 8)
def volume():
    return nn.Sequential(
        nn.Conv3d(2, 4, (3, 1, 3), stride=(1, 2, 1)), nn.ReLU(), nn.Conv3d(4, 2, 2)
    )


@zoo(7, 16)
def encoder():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@zoo(7, 16)
def decoder():
    layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    return Calls(lambda m, x: m.layer(x, x[:, :5]), layer=layer)


@zoo(7, 16)
def attention():
    own = nn.MultiheadAttention(16, 4, batch_first=True)
    return Calls(lambda m, x: m.own(x, x[:, :3], x[:, :3])[0], own=own)


@zoo(9, 16)
def handmade_attention():
    def run(m, x):
        q, k, v = m.qkv(x).reshape(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        return m.out(y.transpose(1, 2).flatten(2))

    return Calls(run, qkv=nn.Linear(16, 48), out=nn.Linear(16, 16))


@zoo(4, 9, 8)
def scaled_dot_product():
    return Calls(lambda m, x: F.scaled_dot_product_attention(x, x[:, :, :5], x[:, :, :5]))


@zoo(9, 16)
def mixer():
    def run(m, x):
        x = x + m.tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + m.channels(x)

    tokens = nn.Sequential(nn.Linear(9, 18), nn.GELU(), nn.Linear(18, 9))
    channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    return Calls(run, tokens=tokens, channels=channels)


@zoo(5, 8)
def einsums():
    def run(m, x):
        q = torch.einsum("btc,chd->bhtd", x, m.w)
        scores = torch.einsum("bhtd, bhsd", q, q)
        mixed = torch.einsum("...ts,...sd->...td", scores.softmax(-1), q)
        return torch.einsum("bhtd,chd->btc", mixed, m.w), torch.einsum("btc->bc", x)

    return Calls(run, w=nn.Parameter(torch.randn(8, 2, 4)))


@zoo(5, 8)
def products():
    def run(m, x):
        y = torch.baddbmm(x, x @ x.mT, x)
        z = torch.addmm(m.b, y[:, 0], m.w) + F.linear(x[:, 0], m.w)
        return torch.bmm(x, x.transpose(1, 2)), z.mm(m.w), torch.matmul(x, m.w)

    return Calls(run, w=nn.Parameter(torch.randn(8, 8)), b=nn.Parameter(torch.randn(8)))


@zoo(3, 10, 10)
def functional_convolutions():
    def run(m, x):
        return F.conv_transpose2d(F.conv2d(x, m.w, stride=2), m.w)

    return Calls(run, w=nn.Parameter(torch.randn(5, 3, 3, 3)))


@zoo(6, 4)
def shared_layer():
    return Calls(lambda m, x: m.fc(torch.tanh(m.fc(x))), fc=nn.Linear(4, 4))


@zoo(6, 8)
def shape_loop():
    def run(m, x):
        state = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = torch.tanh(m.fc(x[:, t]) + state)
        return state

    return Calls(run, fc=nn.Linear(8, 8))


@zoo(6, 8)
def without_a_row():
    return Calls(lambda m, x: torch.chain_matmul(m.w, m.w, m.w) + x.sum(), w=_square(8))


@zoo(4)
def opaque():
    def run(m, x):
        return m.second(x) if float(x.detach().sum()) > 1e9 else m.second(m.first(x))

    return Calls(
        lambda m, x: m.out(m.inner(x)),
        inner=Calls(run, first=nn.Linear(4, 6), second=nn.Linear(6, 4)),
        out=nn.Linear(4, 4),
    )


def _square(size: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(size, size))


def counted_by_torch(module: nn.Module, inputs: Any) -> int:
    # On meta tensors: the counter knows no fused attention of the CPU.
    with FlopCounterMode(display=False) as counter:
        module.train().to("meta")(inputs.to("meta"))
    return int(counter.get_total_flops())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", [n for n in ZOO if n != "opaque"])
def test_flops_are_torch_s(name: str) -> None:
    module, inputs = ZOO[name]()
    graph = parse(module, inputs)
    assert not graph.opaque
    theirs = counted_by_torch(module, inputs)
    assert theirs > 0
    assert graph.cost().flops == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("name", ["resnet", "encoder", "shape_loop", "einsums"])
def test_flops_at_another_batch_are_torch_s(name: str) -> None:
    module, inputs = ZOO[name]()
    cost = parse(module, inputs).cost(batch=6)
    assert cost.batch == 6
    theirs = counted_by_torch(module, torch.cat([inputs] * 3))
    assert cost.flops == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_flops_of_recurrent_models(layer: Any, gates: int) -> None:
    # torch's counter does not see into these on a CPU.
    module = Calls(lambda m, x: m.rnn(x)[0], rnn=layer(6, 5, 2, batch_first=True))
    cost = parse(module, torch.randn(2, 7, 6)).cost()
    assert cost.flops == 2 * 2 * 7 * gates * 5 * ((6 + 5) + (5 + 5))


@pytest.mark.parametrize("name", list(ZOO))
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_parameters_and_size_are_those_of_the_module(name: str) -> None:
    module, inputs = ZOO[name]()
    cost = parse(module, inputs).cost()
    held = {id(t): t for t in module.state_dict(keep_vars=True).values()}
    assert cost.params == sum(p.numel() for p in module.parameters())
    assert cost.size == sum(t.numel() * t.element_size() for t in held.values())


@pytest.mark.parametrize("name", list(ZOO))
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_table_adds_up(name: str) -> None:
    graph = parse(*ZOO[name]())
    cost = graph.cost()
    assert [row.name for row in cost.nodes] == [node.name for node in graph.nodes]
    for field in ("params", "flops", "activations", "size"):
        assert getattr(cost, field) == sum(getattr(row, field) for row in cost.nodes)
    assert cost.part(row.name for row in cost.nodes) == cost
    assert cost.part([]) == Cost(0, 0, 0, 0, (), cost.batch, uncounted=())
