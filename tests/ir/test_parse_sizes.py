"""Sizes beside the batch that a model's Python reads: where it acts on them, others are refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.forms.json_form import from_json
from retiarii.ir.forms.text import parse_text
from retiarii.ir.parse import parse, parse_with
from retiarii.ir.tracing.memory import Memory

Forward = Callable[[nn.Module, torch.Tensor], Any]


class Model(nn.Module):
    """A convolution, and then what a test does with its result."""

    def __init__(self, then: Forward) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.then = then

    def forward(self, x):
        return self.then(self, self.conv(x))


def _threshold(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    _, _, h, w = y.shape
    return y.relu() if w > 20 else y.sigmoid() if h > 200 else y


def _reshaped(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    b, c, h, w = y.size()
    return y.reshape(b, c * h // 2, 2 * w)


def _table(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return y + torch.arange(y.shape[2]).view(-1, 1) + torch.linspace(0, 1, y.size(-1))


def _looped(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    total = y[:, :, 0, 0]
    for row in range(y.shape[2]):
        for column in range(1, y.shape[3], 2):
            total = total * 0.5 + y[:, :, row, column]
    return total


def _rooted(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    n = y.flatten(2).shape[2]
    side = int(math.sqrt(n))
    return y.flatten(2)[:, :, :side]


def _unbound(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    rows = y.unbind(2)
    return rows[0] + rows[-1] * sum(part.sum((2, 3))[..., None] for part in y.split(4, dim=3))


def _compared(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return y * 2 if y.shape == torch.Size((len(y), 8, 16, 16)) else y


def _counted(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return y / math.prod(y.shape[2:])


def _looked_up(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return y * {16: 2.0}.get(y.shape[2], 1.0) * {16: 2.0}.get(y.shape[3], 1.0)


def _returned(_: nn.Module, y: torch.Tensor) -> Any:
    return y, tuple(y.shape[2:])


def _strided(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return y * y.stride(0)


ACTED = [_threshold, _reshaped, _table, _looped, _rooted, _unbound, _compared, _counted]
ACTED += [_looked_up, _returned, _strided]


def _channels(model: nn.Module, y: torch.Tensor) -> torch.Tensor:
    b, c, _, _ = y.size()
    weights = y.mean((2, 3)).view(b, c // 2, 2).flatten(1)
    return y * weights.view(b, c, 1, 1).sigmoid()


def _flattened(model: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return model.pool(y).view(y.shape[0], -1)


def _held(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    size = y.shape
    h, w = y.shape[-2:]
    area = h * w  # computed, and then nothing becomes of it
    assert area is not None
    assert size is not None
    return y.relu()


def _patches(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    return y.flatten(2).transpose(1, 2).softmax(-1)[:, :-1].max(1).values


def _attended(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    z = y.flatten(2)
    return torch.softmax(z @ z.transpose(-2, -1) / z.shape[1] ** 0.5, -1) @ z


def _joined(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
    both = torch.cat([y, y[..., :1].expand_as(y)], 1)
    first, second = both.chunk(2, dim=1)
    return first * both.new_zeros(both.shape[0], both.size(1) // 2, 1, 1) + second


FREE = [_channels, _flattened, _held, _patches, _attended, _joined]


def _same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("then", ACTED, ids=lambda f: f.__name__)
def test_where_python_acts_on_a_size_others_are_refused(then: Forward) -> None:
    model = Model(then)
    graph = parse(model, torch.zeros(2, 3, 32, 32))
    assert [(size.input, size.dim) for size in graph.context.sizes] == [(0, 2), (0, 3)]
    first = then.__code__.co_firstlineno
    for size in graph.context.sizes:
        name, line = str(size.where).rsplit(":", 1)
        assert name.endswith("test_parse_sizes.py")
        assert first < int(line) < first + 8
    source: dict[str, Any] = {}
    exec(graph.to_source(), source)
    built = graph.to_module()
    for made in (built, source["Model"](), parse_text(str(graph)).to_module()):
        made.load_state_dict(model.state_dict())
        for batch in (1, 2, 5):
            x = torch.randn(batch, 3, 32, 32)
            if then is not _strided or batch == 2:
                _same(made(x), model(x))
        for size in ((48, 48), (32, 48), (48, 32), (31, 32)):
            with pytest.raises(ValueError, match=r"lowered for x.shape\[2:4\] == \(32, 32\)"):
                made(torch.randn(2, 3, *size))


@pytest.mark.parametrize("then", FREE, ids=lambda f: f.__name__)
def test_where_it_does_not_any_size_runs(then: Forward) -> None:
    model = Model(then)
    graph = parse(model, torch.zeros(2, 3, 32, 32))
    assert graph.context.sizes == ()
    built = graph.to_module()
    for shape in ((2, 3, 32, 32), (3, 3, 48, 20), (1, 3, 7, 64)):
        x = torch.randn(*shape)
        _same(built(x), model(x))


def test_the_error_names_input_size_and_line() -> None:
    class Second(nn.Module):
        def forward(self, image, tokens):
            return image.mean((1, 2)) + tokens[:, : tokens.shape[1] // 2].sum(1)

    graph = parse(Second(), (torch.zeros(2, 3, 4), torch.zeros(2, 6)))
    with pytest.raises(ValueError, match=r"tokens.shape\[1\] == 6, not 8: .*test_parse_sizes.py"):
        graph.to_module()(torch.zeros(2, 9, 9), torch.zeros(2, 8))
    assert graph.to_source().count("raise ValueError") == 1


def test_only_the_size_that_is_used() -> None:
    graph = parse(Model(lambda _, y: y[:, :, :, : y.shape[3] - 1]), torch.zeros(2, 3, 8, 8))
    assert [(size.input, size.dim) for size in graph.context.sizes] == [(0, 3)]
    assert graph.to_module()(torch.zeros(2, 3, 20, 8)).shape == (2, 8, 10, 3)


def test_what_one_mode_reads() -> None:
    class Trained(nn.Module):
        def forward(self, x):
            return x * 2 if not self.training and x.shape[1] > 100 else x

    for training in (True, False):
        graph = parse(Trained().train(training), torch.zeros(2, 8))
        assert [(size.input, size.dim) for size in graph.context.sizes] == [(0, 1)]


def test_a_model_that_reads_nothing_has_no_check() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = parse(model, torch.zeros(2, 3, 8, 8))
    assert "raise" not in graph.to_source()
    tokens = nn.Sequential(nn.Embedding(9, 4), nn.LSTM(4, 3, batch_first=True))
    graph = parse(tokens, torch.zeros(2, 5, dtype=torch.long))
    assert graph.context.sizes == ()
    assert graph.to_module()(torch.zeros(3, 9, dtype=torch.long))[0].shape == (3, 9, 3)


def test_an_opaque_module_reads_its_own_sizes() -> None:
    class Looks(nn.Module):
        def forward(self, x):
            return x * x.shape[1] if x.sum() > 0 else x

    graph = parse(nn.Sequential(nn.ReLU(), Looks()), torch.ones(2, 4))
    assert len(graph.opaque) == 1
    assert graph.context.sizes == ()
    x = torch.rand(3, 7)
    _same(graph.to_module()(x), x * 7)


def test_the_forms_keep_it() -> None:
    graph = parse(Model(_threshold), torch.zeros(2, 3, 32, 32))
    assert "  fixed size 0 2\n  fixed size 0 3\n" in str(graph)
    assert str(parse_text(str(graph))) == str(graph)
    assert from_json(graph.to_json()).context.sizes == graph.context.sizes
    for wrong in ("fixed size 1 2", "fixed size 0 4"):
        with pytest.raises(GraphError, match="is not there"):
            parse_text(str(graph).replace("fixed size 0 2", wrong))


@pytest.mark.parametrize("as_graph", [False, True])
def test_what_is_inserted_takes_it_along(as_graph: bool) -> None:
    graph = parse(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), torch.zeros(2, 3, 32, 32))
    before = graph.copy()
    block: Any = Rows()
    if as_graph:
        block = parse(block, torch.zeros(2, 8, 16, 16))
    made = graph.insert(block, graph.node("1"), name="rows")
    assert [(size.input, size.dim) for size in graph.sizes] == [(0, 2)]
    assert before.sizes == ()
    assert made.types[0].shape == (2, 8, 15, 16)
    with pytest.raises(ValueError, match=r"input.shape\[2\] == 32"):
        graph.to_module()(torch.zeros(2, 3, 30, 32))
    graph.to_module()(torch.zeros(2, 3, 32, 30))


def test_what_stands_before_may_change_between_two_insertions() -> None:
    graph = parse(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1)), torch.zeros(2, 3, 16, 16))
    graph.insert(Rows(), graph.node("1"), name="rows")
    assert [(size.input, size.dim) for size in graph.sizes] == [(0, 2)]

    def undone() -> None:
        with graph.edits():
            turned = graph.insert(torch.transpose, graph.inputs[0], 2, 3)
            graph.replace(graph.node("0"), turned)
            graph.insert(Rows(), graph.node("1"), name="undone")
            assert [(size.input, size.dim) for size in graph.sizes] == [(0, 2), (0, 3)]
            raise GraphError("all is undone")

    with pytest.raises(GraphError, match="all is undone"):
        undone()
    graph.insert(Rows(), graph.node("1"), name="again")
    assert [(size.input, size.dim) for size in graph.sizes] == [(0, 2)]
    graph.replace(graph.node("0"), graph.insert(torch.transpose, graph.inputs[0], 2, 3))
    graph.insert(Rows(), graph.node("1"), name="more")
    assert [(size.input, size.dim) for size in graph.sizes] == [(0, 2), (0, 3)]


class Rows(nn.Module):
    """Two nodes, so that they are spliced."""

    def forward(self, x):
        return (x[:, :, : x.shape[2] - 1] * 2).relu()


def test_sizes_are_integers_in_every_way() -> None:
    seen: list[Any] = []

    def then(_: nn.Module, y: torch.Tensor) -> torch.Tensor:
        h = y.shape[2]
        seen.append(h)
        values = [h + 1, 1 + h, h - 1, 40 - h, h * 2, h // 3, 50 // h, h % 5, divmod(h, 5), -h]
        values += [h**2, 2**h, h / 2, 3 / h, round(h), math.ceil(h / 3), abs(-h), h & 4, h << 1]
        values += [int(h), float(h), str(h), f"{h:03d}", hash(h), h == 16, h in (1, 16), bool(h)]
        values += [list(range(h))[-1], "x" * h, max(h, 3), sum(y.shape), copy.deepcopy(h), h.real]
        expected = [17, 17, 15, 24, 32, 5, 3, 1, (3, 1), -16, 256, 65536, 8.0, 3 / 16, 16, 6, 16]
        expected += [0, 32, 16, 16.0, "16", "016", hash(16), True, True, True, 15, "x" * 16, 16]
        expected += [y.shape[0] + 8 + 16 + 16, 16, 16]
        assert values == expected
        assert isinstance(h, int)
        return y

    parse(Model(then), torch.zeros(2, 3, 32, 32))
    assert type(copy.deepcopy(seen[0])) is int


def test_calls_from_memory_act_on_the_same_sizes() -> None:
    class Around(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.rows = Rows()
            self.head = nn.Linear(6, width)

        def forward(self, x):
            return self.head(self.rows(x))

    memory = Memory()
    for width in (3, 4, 5):
        graph = parse_with(memory, Around(width), torch.zeros(2, 8, 16, 6))
        assert [(size.input, size.dim) for size in graph.context.sizes] == [(0, 2)]
    assert any(call is not None and call.sizes for call in memory.replays.calls.values())
