"""Small models of every kind: the parsed graph computes what the model computes."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from retiarii.testing.faces import check_faces
from retiarii.testing.parsing import check, doubled

ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {}


def zoo(*shape: int, inputs: Callable[[int], Any] | None = None) -> Callable[[type], type]:
    """Registers a model; its input is ``randn(batch, *shape)``, or what ``inputs`` makes."""

    def register(cls: type) -> type:
        ZOO[cls.__name__] = (cls, inputs or (lambda batch: torch.randn(batch, *shape)))
        return cls

    return register


@zoo(4)
class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


@zoo(3, 8, 8)
class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = self.pool(self.stem(x))
        return self.head(x.view(x.size(0), -1))


class BasicBlock(nn.Module):
    def __init__(self, inside, outside, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.downsample = None
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


@zoo(3, 8, 8)
class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 12, 2), BasicBlock(12, 12))
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = self.layers(self.stem(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


@zoo(4, 6, 6)
class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(4 + 2 * i), nn.ReLU(), nn.Conv2d(4 + 2 * i, 2, 3, 1, 1))
            for i in range(3)
        )

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, dim=1).mean([2, 3])


@zoo(4, 6, 6)
class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleDict(
            {"one": nn.Conv2d(4, 2, 1), "three": nn.Conv2d(4, 3, 3, padding=1)}
        )
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, x):
        made = [branch(x) for branch in self.branches.values()]
        return torch.cat([*made, F.max_pool2d(x, 3, 1, 1), self.pool(x)], 1)


@zoo(4)
class ResidualTrap(nn.Module):
    """The residual is changed in place before it is read again."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.fc(x)
        identity = h
        out = self.relu(h)
        return out * 3 + identity


@zoo(4)
class SharedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.again = self.fc

    def forward(self, x):
        return self.fc(torch.tanh(self.fc(x))) + self.again(x)


@zoo(inputs=lambda b: torch.arange(b * 3).view(b, 3) % 7)
class TiedWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.norm = nn.LayerNorm(5)
        self.decoder = nn.Linear(5, 7, bias=False)
        self.decoder.weight = self.embed.weight

    def forward(self, ids):
        return self.decoder(self.norm(self.embed(ids)))


@zoo(4)
class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.register_buffer("shift", torch.ones(4), persistent=False)
        self.register_buffer("idle", torch.ones(2))
        self.register_buffer("nothing", None)

    def forward(self, x):
        return x * self.scale + self.shift


@zoo(5)
class RawParameters(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5))
        self.bias = nn.Parameter(torch.zeros(3))
        self.unused = nn.Parameter(torch.zeros(2))
        self.idle = nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.list = nn.ParameterList([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))])

    def forward(self, x):
        y = F.linear(x, self.weight, self.bias) * self.frozen
        for p in self.list:
            y = y * p
        return y


@zoo(6, 4)
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x):
        y = F.layer_norm(x, (4,), self.gain)
        y = F.gelu(y) + F.silu(y) - F.softplus(y)
        y = F.softmax(y, dim=-1) @ y.transpose(1, 2).transpose(-1, -2).mT
        return F.normalize(y, dim=1).clamp(min=-1.0, max=1.0).pow(2).sum(dim=-1, keepdim=True)


@zoo(6, 4)
class Methods(nn.Module):
    def forward(self, x):
        b, t, c = x.shape
        y = x.reshape(b * t, c).unsqueeze(1).expand(-1, 2, -1).contiguous()
        y = y.view(b, t, 2, c).permute(0, 2, 1, 3)
        value, index = y.max(dim=-1)
        return value.masked_fill(index == 0, 0.5).flatten(1) + 1 - (2 / (3 + x.abs().mean()))


@zoo(5, 4)
class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        out, (hidden, _cell) = self.rnn(x)
        return self.head(out[:, -1]), hidden


@zoo(5, 4)
class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)
        self.cell = nn.GRUCell(6, 3)

    def forward(self, x):
        start = torch.zeros(1, x.size(0), 6, dtype=x.dtype, device=x.device)
        out, _ = self.rnn(x, start)
        state = x.new_zeros(x.size(0), 3)
        for t in range(out.size(1)):
            state = self.cell(out[:, t], state)
        return state


@zoo(5, 8)
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        y, weights = self.attention(x, x, x)
        z, none = self.attention(y, x, x, need_weights=False)
        return y + z, weights, none


@zoo(5, 8)
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x)


@zoo(inputs=lambda b: {"batch": {"image": torch.randn(b, 4), "extra": [torch.randn(b, 4), 3]}})
class DictIo(nn.Module):
    def forward(self, batch, scale=2.0):
        x, (y, times) = batch["image"], batch["extra"]
        return {"sum": x + y * times, "parts": [x * scale, (y, None)], "n": 5}


Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Output:
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...] = ()


@zoo(inputs=lambda b: (Pair(torch.randn(b, 4), torch.randn(b, 4)), torch.randn(b, 4)))
class ClassIo(nn.Module):
    def forward(self, pair, z, *, flag=True):
        y = pair.left * pair.right if flag else z
        return Output(y + z, (y, z)), Pair(y, z)


@zoo(6, 3)
class ShapeLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        state = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            if t % 2:
                state = state - x[:, t]
                continue
            state = torch.tanh(self.fc(x[:, t]) + state)
        return state


@zoo(4, 3)
class BatchArithmetic(nn.Module):
    def forward(self, x):
        b = x.shape[0]
        y = x.view(b * 2, -1).reshape(b, -1)
        z = torch.arange(2 * b, device=x.device).view(b, 2).to(x.dtype)
        ones = torch.ones(b + 1, dtype=x.dtype)[1:]
        return y.sum(1) + z.sum(1) + ones, x.split(b)[0] / b


@zoo(4)
class FunctionalDropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.3, training=self.training) + F.dropout(x, 0.3, not self.training)


@zoo(5, 8)
class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 2, 4))

    def forward(self, x):
        q = torch.einsum("btc,chd->bhtd", x, self.weight)
        scores = torch.einsum("bhtd,bhsd->bhts", [q, q])
        return scores.softmax(-1)


@zoo(6, 4)
class Chunks(nn.Module):
    def forward(self, x):
        a, b, c = x.chunk(3, dim=1)
        d, e = torch.split(x, [2, 4], dim=1)
        f = torch.stack(x.unbind(1)[:2], 1)
        return a * b + c - d + e[:, :2] * f


@zoo(6, 4)
class SetItem(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[:, 0] = 1.0
        y[:, 1:3] += x[:, 3:5]
        y[..., -1] = y[..., 0] * 2
        z = torch.zeros(x.shape[0], 4, dtype=x.dtype, device=x.device)
        z[:, :2] = y[:, 0, :2]
        return y, z


@zoo(6, 4)
class ViewWrites(nn.Module):
    def forward(self, x):
        y = x * 2
        flat = y.view(-1)
        flat.mul_(3)
        part = y[:, 0]
        part.add_(1)
        turned = y.transpose(1, 2)
        turned.mul_(0.5)
        first, second = y[:, :3], y.narrow(1, 3, 3)
        second.zero_()
        row = y.select(1, 1)
        row.copy_(x[:, 5])
        return y, flat, part, turned, first, second


@zoo(4)
class NoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            target = self.a(x) * 2
        return self.b(x) - target.detach() + self.a(x).detach()


@zoo(5)
class WeightNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.new = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
        self.orthogonal = nn.Linear(4, 4)
        nn.utils.parametrize.register_parametrization(self.orthogonal, "weight", Symmetric())

    def forward(self, x):
        return self.orthogonal(self.new(x))


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).T


@zoo(inputs=lambda b: torch.arange(b * 6).view(b, 6) % 11)
class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.position = nn.Embedding(10, 8)
        self.ln = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.tril(torch.ones(10, 10)).view(1, 1, 10, 10))

    def forward(self, ids):
        b, t = ids.size()
        assert t <= 10
        x = self.embed(ids) + self.position(torch.arange(t, device=ids.device))
        q, k, v = self.qkv(self.ln(x)).split(8, dim=2)
        q, k, v = (z.view(b, t, 2, 4).transpose(1, 2) for z in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        x = x + self.proj(y.transpose(1, 2).contiguous().view(b, t, 8))
        x = x + F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return self.head(x + self.mlp(x))


@zoo(inputs=lambda b: (torch.randn(b, 5, 3), torch.arange(b) % 5 + 1))
class Masks(nn.Module):
    def forward(self, x, lengths):
        mask = torch.arange(x.size(1), device=x.device)[None, :] < lengths[:, None]
        x = torch.where(mask.unsqueeze(-1), x, torch.zeros_like(x))
        causal = torch.triu(torch.full((5, 5), float("-inf")), diagonal=1).to(x)
        scores = (x @ x.transpose(1, 2) + causal).softmax(-1)
        return x.sum(1) / mask.sum(1, keepdim=True), scores


@zoo(4)
class DataIndependent(nn.Module):
    """Reads numbers, but only of tensors that follow from the code."""

    def forward(self, x):
        rates = [float(r) for r in torch.linspace(0, 0.5, 3)]
        if torch.tensor([1.0, 2.0]).sum() > 2:
            x = x * torch.arange(4).tolist()[3]
        return x * sum(rates) + torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype)


@zoo(4, 4)
class ComplexAndInteger(nn.Module):
    def forward(self, x):
        spectrum = torch.fft.fft2(x)
        y = torch.fft.ifft2(spectrum * torch.conj(spectrum)).real
        return y + (x > 0).long().cumsum(1).to(x.dtype) // 2


@zoo(4)
class ClosureOverSelf(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.run = lambda x: self.fc(x) * 2

    def forward(self, x):
        return self.run(x) + self.fc(x)


@zoo(4)
class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.fc.register_forward_hook(lambda m, args, out: out * 2)
        self.fc.register_forward_pre_hook(lambda m, args: (args[0] + 1,))

    def forward(self, x):
        return self.fc(x)


@zoo(4)
class LeavesAttributes(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.seen: list[Any] = []
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        self.calls += 1
        self.last = self.fc(x)
        self.seen.append(self.last)
        return self.last


@pytest.mark.parametrize("name", sorted(ZOO))
def test_zoo_model(name: str) -> None:
    make, inputs = ZOO[name]
    check(make, inputs)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_zoo_model_in_every_form(name: str) -> None:
    make, inputs = ZOO[name]
    torch.manual_seed(0)
    check_faces(make().double(), doubled(inputs(2)))


@pytest.mark.parametrize("name", ["ResNet", "Gpt", "FunctionalDropout", "Masks", "Attention"])
def test_parsed_in_evaluation_mode_at_batch_one(name: str) -> None:
    make, inputs = ZOO[name]
    check(make, inputs, example=1, train_example=False)
