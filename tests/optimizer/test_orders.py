"""Random numbers are drawn in the order of memory that the model alone has."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import retiarii as rt
from retiarii.ir.infer import Strided, infer_strides
from retiarii.ir.ops import OPS, arrange_call, bind_call, function_op
from retiarii.ir.types import Attrs
from retiarii.optimizer import kernels
from retiarii.optimizer.apart import apart_call
from retiarii.optimizer.forest import Item
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.merge import merge
from retiarii.optimizer.strides import ALWAYS_CONTIGUOUS, contiguous, stays_contiguous
from retiarii.testing.equivalence import call_of_function, flat
from retiarii.testing.merging import sgd, train_alone, train_merged

STEPS = 10
_LAST: dict[str, Any] = {"memory_format": torch.channels_last}


class Then(nn.Module):
    """A layer, and a function of what it makes."""

    def __init__(self, layer: nn.Module, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer = layer
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.layer(x))


class Vision(nn.Module):
    """Patches, a class token, attention: all that reads them reads a transposed tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.drop = nn.Dropout(0.3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, 0.2, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.patches(x).flatten(2).transpose(1, 2)
        found = torch.cat([self.token.expand(x.shape[0], -1, -1), found], dim=1)
        made: Tensor = self.head(self.layer(self.drop(found))[:, 0])
        return made


def _encoder(**kwargs: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 12, 0.3, **kwargs)


def _images(function: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: Then(nn.Conv2d(3, 4, 3), function)


def _rows(function: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: Then(nn.Linear(8, 8), function)


def _channels_last() -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)]
    layers += [nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.Dropout(0.3)]
    return nn.Sequential(*layers).to(**_LAST)


def _normed(y: Tensor) -> Tensor:
    """Batch norm answers a contiguous tensor."""
    return F.dropout(F.batch_norm(y.permute(0, 2, 3, 1), None, None, training=True), 0.4)


IMAGES, ROWS = (3, 3, 8, 8), (3, 5, 8)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder": (_encoder, ROWS),
    "encoder, batch first": (lambda: _encoder(batch_first=True), ROWS),
    "encoder, norm first": (lambda: _encoder(norm_first=True), ROWS),
    "encoder, both": (lambda: _encoder(batch_first=True, norm_first=True), ROWS),
    "vision": (Vision, IMAGES),
    "channels last": (_channels_last, IMAGES),
    "permuted": (_images(lambda y: F.dropout(y.permute(0, 2, 3, 1), 0.4)), IMAGES),
    "permuted, normed": (
        _images(lambda y: _normed(y)),
        IMAGES,
    ),
    "alpha": (_images(lambda y: F.alpha_dropout(y.permute(0, 3, 1, 2), 0.4, True)), IMAGES),
    "channels of images": (_images(lambda y: F.dropout2d(y.transpose(1, 3), 0.4)), IMAGES),
    "channels of rows": (_rows(lambda y: F.dropout1d(y.transpose(1, 2), 0.4)), ROWS),
    "with holes": (_rows(lambda y: F.dropout(y[:, ::2].transpose(0, 1), 0.4)), ROWS),
    "copied": (_rows(lambda y: F.dropout(y.transpose(0, 1).clone(), 0.4)), ROWS),
    "made contiguous": (_rows(lambda y: F.dropout(y.transpose(0, 1).contiguous(), 0.4)), ROWS),
    "twice": (
        _rows(lambda y: F.dropout(F.dropout(y, 0.2).mT, 0.2) + F.dropout(y, 0.2).mT),
        ROWS,
    ),
    "rand_like": (_rows(lambda y: y.mT * torch.rand_like(y.mT)), ROWS),
    "randn_like": (_rows(lambda y: y.mT + torch.randn_like(y.mT)), ROWS),
    "randint_like": (_rows(lambda y: y.mT * torch.randint_like(y.mT, 5)), ROWS),
    "uniform": (_rows(lambda y: y.mT * torch.empty_like(y.mT).uniform_(-1, 1)), ROWS),
    "bernoulli": (_rows(lambda y: y.mT * torch.bernoulli(y.mT.detach().sigmoid())), ROWS),
    "rrelu": (_rows(lambda y: F.rrelu(y.mT, training=True)), ROWS),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fuse", ["on", "off"])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_training_is_that_of_the_models_alone(name: str, fuse: str) -> None:
    make, shape = MODELS[name]
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(make().double())
    data = [(torch.randn(shape, dtype=torch.float64),) for _ in range(STEPS)]
    merged = merge(models, data[0], fuse=fuse)
    seeds = [7, 8, 9]
    for model, seed, course in zip(
        models, seeds, train_merged(merged, data, optimizer=sgd, seeds=seeds), strict=True
    ):
        alone = train_alone(model, data, optimizer=sgd, seed=seed)
        for a, b in zip(alone.outputs, course.outputs, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x == 0, y == 0), "another mask"
        for key, value in alone.state.items():
            torch.testing.assert_close(course.state[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 2])
def test_masks_are_bitwise_the_models_own(batch: int, dtype: torch.dtype) -> None:
    """Also at another batch size than the one that was parsed, and where that was 1."""

    def masks(y: Tensor) -> tuple[Tensor, ...]:
        ones = torch.ones_like(y.transpose(0, 1))
        return F.dropout(ones, 0.4), F.alpha_dropout(ones, 0.4, True), torch.randn_like(ones)

    models = [Then(nn.Linear(8, 8), masks).to(dtype) for _ in range(2)]
    merged = merge(models, torch.zeros(batch, 5, 8, dtype=dtype))
    x = torch.zeros(4, 5, 8, dtype=dtype)
    merged.seed([3, 4])
    for model, seed, outputs in zip(models, [3, 4], merged(x), strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for a, b in zip(model(x), outputs, strict=True):
                assert torch.equal(a, b)


def test_calls_of_other_orders_do_not_mix() -> None:
    models = [
        Then(nn.Linear(8, 8), lambda y: F.dropout(y.transpose(0, 1), 0.4)),
        Then(nn.Linear(8, 8), lambda y: F.dropout(y.transpose(0, 1).contiguous(), 0.4)),
    ]
    merged = merge(models, torch.zeros(2, 5, 8), fuse="on")
    groups = [g for g in merged.program.plan.groups if g.call.op == "dropout"]
    assert [len(g.members) for g in groups] == [1, 1]
    assert {g.call.order for g in groups} == {None, (1, 0, 2)}


def test_an_unfused_call_keeps_its_order_whatever_fused_calls_made() -> None:
    shape = (4, 5, 6)
    call, _ = call_of_function(F.dropout, (torch.ones(shape),), {"p": 0.4})
    alone = torch.ones(5, 4, 6).transpose(0, 1)
    for order, given, lies in [
        ((1, 0, 2), torch.ones(shape), alone),
        (None, alone, torch.ones(shape)),
    ]:
        code = apart_call(Item(0, "drop", replace(call, order=order)), 0)
        owner = SimpleNamespace(streams=[kernels.ModelStream(5, torch.device("cpu"))])
        scope = {"F": F, "torch": torch, "kernels": kernels, "self": owner, "x": given}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            expected = F.dropout(lies, 0.4)
        assert torch.equal(eval(code.text.replace("$0", "x"), scope), expected)


# --- what it costs -----------------------------------------------------------------------------


def _forbid(*_: Any) -> Any:
    raise AssertionError("run on tensors without storage")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1), nn.Dropout()),
        lambda: Then(nn.Conv2d(3, 4, 3), lambda y: F.relu(y).permute(0, 2, 3, 1)),
        lambda: Then(nn.Conv2d(3, 4, 3), lambda y: nn.Dropout(0.0)(y.permute(0, 2, 3, 1))),
    ],
    ids=["contiguous", "no dropout", "drops nothing"],
)
def test_nothing_is_run_where_no_order_can_differ(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], nn.Module]
) -> None:
    monkeypatch.setattr("retiarii.optimizer.orders.infer_strides", _forbid)
    model = make()
    merge([model, make()], torch.zeros(IMAGES))
    assert all(i.call.order is None for i in lift([_lifted(model, IMAGES)], True).items)


def test_equal_models_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def counted(op: str, *args: Any) -> tuple[Strided, ...]:
        ran.append(op)
        return infer_strides(op, *args)

    monkeypatch.setattr("retiarii.optimizer.orders.infer_strides", counted)
    lift([_lifted(Vision(), IMAGES)], True)
    once = len(ran)
    lift([_lifted(Vision(), IMAGES) for _ in range(5)], True)
    assert once > 0
    assert len(ran) == 2 * once
    lift([_lifted(Vision(), IMAGES)], False)
    assert len(ran) == 2 * once, "nothing is drawn in evaluation"


def _lifted(model: nn.Module, shape: tuple[int, ...]) -> Model:
    return Model.of(rt.parse(model, torch.zeros(shape)), model)


# --- how results lie ---------------------------------------------------------------------------

_IMAGE = torch.randn(4, 6, 8, 10)
VIEWS = {
    "swapped": _IMAGE.transpose(0, 1),
    "channels last": _IMAGE.permute(0, 3, 1, 2),
    "channels last, holes": _IMAGE.permute(0, 3, 1, 2)[:, :6],
    "channels first": _IMAGE.permute(0, 2, 3, 1),
    "turned": _IMAGE.transpose(2, 3),
    "holes": _IMAGE[:, ::2].transpose(1, 2),
    "one channel": torch.randn(4, 6, 8, 1).permute(0, 3, 1, 2),
    "one sample": torch.randn(1, 6, 8, 10).permute(0, 3, 1, 2),
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "broadcast": lambda x: x + torch.ones(x.shape[-1]),
    "two orders": lambda x: x.contiguous() + x,
    "batch_norm": lambda x: F.batch_norm(x, None, None, training=True),
    "instance_norm": lambda x: F.instance_norm(x),
    "group_norm": lambda x: F.group_norm(x, 1),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "linear": lambda x: F.linear(x, torch.ones(3, x.shape[-1]), torch.ones(3)),
    "matmul": lambda x: x @ x.mT,
    "einsum": lambda x: torch.einsum("abcd,abed->bcea", x, x),
    "softmax": lambda x: x.softmax(1),
    "conv2d": lambda x: F.conv2d(x, torch.ones(5, x.shape[1], 2, 2)),
    "conv2d, channels last": lambda x: F.conv2d(x, torch.ones(5, x.shape[1], 2, 2).to(**_LAST)),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, torch.ones(x.shape[1], 5, 2, 2)),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "pad": lambda x: F.pad(x, (1, 1, 1, 1)),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    "circular": lambda x: F.pad(x, (0, 0, 1, 1), mode="circular"),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 1),
    "roll": lambda x: x.roll((1, 1), (1, 2)),
    "flip": lambda x: x.flip(2),
    "logsigmoid": F.logsigmoid,
    "rrelu": lambda x: F.rrelu(x),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "cat": lambda x: torch.cat([x, x.contiguous()], 1),
    "stack": lambda x: torch.stack([x, x]),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "sum": lambda x: x.sum(1),
    "max": lambda x: x.max(1)[0],
    "cumsum": lambda x: x.cumsum(1),
    "flatten": lambda x: x.flatten(1, 2),
    "movedim": lambda x: x.movedim(1, -1),
    "index": lambda x: x[:, torch.tensor([0, 0])],
    "where": lambda x: torch.where(x > 0, x, 0.0),
}


class Dropped(nn.Module):
    """A function of a tensor that lies as ``x`` does, and dropout of the result."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(x.detach())
        self.x.data = x.detach()
        self.function = function
        self.seen = x

    def forward(self, y: Tensor) -> Tensor:
        self.seen = self.function(self.x)
        return F.dropout(self.seen, 0.5).sum() + y.sum()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_orders_are_those_of_tensors_with_storage(function: str) -> None:
    for view, x in VIEWS.items():
        model = Dropped(FUNCTIONS[function], x)
        model(torch.ones(3))
        mask = torch.empty_like(model.seen)
        shape = mask.shape
        ones = [d for d in range(mask.ndim) if shape[d] == 1]
        real = [d for d in range(mask.ndim) if shape[d] != 1]
        found = sorted(real, key=lambda d: -mask.stride()[d])
        expected = None if found == real else (*ones, *found)
        graph = rt.parse(model, torch.ones(3))
        items = lift([Model.of(graph, model)], True).items
        (order,) = [i.call.order for i in items if i.call.op == "dropout"]
        assert order == expected, view


def _table(name: str) -> ModuleType:
    path = Path(__file__).parents[1] / "ir" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"orders_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SAMPLES = _table("test_op_functions")
STEADY = sorted(
    op for op in _SAMPLES.SAMPLES if op in ALWAYS_CONTIGUOUS or stays_contiguous(op, Attrs())
)


@pytest.mark.parametrize("op", STEADY)
def test_what_stays_contiguous_does(op: str) -> None:
    for sample in _SAMPLES.SAMPLES[op]:
        seen = _SAMPLES._observe(sample)
        match = function_op(seen.called)
        assert match is not None
        tensors, bound = bind_call(match.spec, seen.args, seen.kwargs)
        attrs = Attrs({k: v for k, v in bound.items() if k != "inplace"})
        if op not in ALWAYS_CONTIGUOUS and not stays_contiguous(op, attrs):
            continue
        operands = [t.detach().clone(memory_format=torch.contiguous_format) for t in tensors]
        if op in ALWAYS_CONTIGUOUS:
            operands = [_turned(t) for t in operands]
        spec = OPS[op]
        args, named = arrange_call(spec, attrs, operands)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = spec.target if spec.method is None else getattr(type(args[0]), spec.method)
            results = flat(call(*args, **named))
        for result in results:
            lies = Strided.of(result)
            assert lies == contiguous(lies.type)


def _turned(tensor: Tensor) -> Tensor:
    """Equal, and its dimensions lie in memory the other way round."""
    dims = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(dims).contiguous().permute(dims)
