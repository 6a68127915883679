"""What cannot be lowered stays one node: the smallest submodule, with the reason and the line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from retiarii.ir.graph import Graph
from retiarii.testing.parsing import check, parsed


class Around(nn.Module):
    """A model that holds another between two layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inner = inner
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.inner(torch.tanh(self.first(x))))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else self.fc(-x)  # here


class SumsUp(nn.Module):
    def forward(self, x):
        return x * x.mean().item()  # here


class Selects(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[x.nonzero()[:, 0]] = 1.0  # here
        return y


class GoesNumpy(nn.Module):
    def forward(self, x):
        return x + torch.from_numpy(x.detach().numpy() * 0 + 1)  # here


class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()  # here

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Custom(nn.Module):
    def forward(self, x):
        return Reversal.apply(x)


class Plain(torch.autograd.Function):
    """No torch call inside: only the result tells."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


class CustomPlain(nn.Module):
    def forward(self, x):
        return Plain.apply(x) * 2


class Averages(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0) * 0.1)  # here
        return x - self.mean


class Replaces(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x):
        self.steps += 1  # here
        return x * 2


class BatchLoop(nn.Module):
    def forward(self, x):
        return torch.stack([row * 2 for row in x])  # here


class CeilHalf(nn.Module):
    """The number of pieces is no function of the batch that a node can hold."""

    def forward(self, x):
        return torch.cat([x, x])[: x.shape[0] - x.shape[0] // 2 + x.shape[0] // 2]


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(x).to(x.dtype)  # here


class InnerGradient(nn.Module):
    def forward(self, x):
        with torch.enable_grad():
            y = x.detach().requires_grad_(True)  # here
            return torch.autograd.grad((y**2).sum(), y)[0] + x


class OtherObject(nn.Module):
    def forward(self, x):
        return x * len({*x.shape}) + x.data_ptr() * 0  # here


CASES: dict[str, Callable[[], nn.Module]] = {
    cls.__name__: cls
    for cls in (
        Branches,
        SumsUp,
        Selects,
        GoesNumpy,
        Custom,
        CustomPlain,
        Averages,
        Replaces,
        BatchLoop,
        InnerGradient,
        OtherObject,
    )
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_smallest_submodule_is_opaque(name: str) -> None:
    graph = check(lambda: Around(CASES[name]()), lambda b: torch.randn(b, 4), opaque=("inner",))
    (node,) = graph.opaque
    assert node.op == "opaque"
    assert node.path == "inner"
    assert node.attrs["reason"]
    assert node.where is not None
    assert node.where.partition(":")[0].endswith("test_parse_opaque.py")
    assert [n.op for n in graph.nodes if n.op == "Linear"] == ["Linear", "Linear"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_line_is_the_one_that_cannot_be_lowered(name: str) -> None:
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    graph = parsed(Around(CASES[name]()), torch.randn(2, 4))
    (node,) = graph.opaque
    line = source[int(str(node.where).rpartition(":")[2]) - 1]
    assert "# here" in line or name in ("CustomPlain", "BatchLoop"), line


def test_a_region_under_autocast_is_opaque() -> None:
    graph = parsed(Around(Autocast()), torch.randn(2, 4))
    (node,) = graph.opaque
    assert (node.path, node.attrs["reason"]) == ("inner", "computes under autocast")


class HalfOut(nn.Module):
    """Its only calls under autocast are layers, and its result is of another type."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(x)  # here


def test_layers_under_autocast_are_opaque_and_typed_as_they_return() -> None:
    graph = parsed(Around(nn.Sequential(HalfOut(), Half())), torch.randn(2, 4))
    (node,) = graph.opaque
    assert (node.path, node.attrs["reason"]) == ("inner.0", "computes under autocast")
    assert node.type.dtype is torch.bfloat16
    model = HalfOut()
    built = parsed(model, torch.randn(2, 4)).to_module()
    x = torch.randn(3, 4)
    assert torch.equal(built(x), model(x))


class Half(nn.Module):
    def forward(self, x):
        return x.float()


def test_python_random_numbers_are_never_baked_in() -> None:
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x) if random.random() < 0.5 else x

    state = random.getstate()
    graph = parsed(Around(Skips()), torch.randn(2, 4))
    assert [n.path for n in graph.opaque] == ["inner"]
    assert random.getstate() == state


def test_what_a_lone_root_cannot_lower_is_one_node() -> None:
    graph = parsed(SumsUp(), torch.randn(2, 4))
    (node,) = graph.opaque
    assert node.path == ""
    model = SumsUp()
    x = torch.randn(3, 4)
    torch.testing.assert_close(graph.to_module()(x), model(x))


def test_an_opaque_module_that_writes_its_argument_takes_its_caller_along() -> None:
    class Writes(nn.Module):
        def forward(self, x):
            x.add_(x.sum().item())
            return x * 2

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.writes = Writes()

        def forward(self, x):
            y = x * 1
            return self.writes(y) + y

    check(lambda: Around(Reads()), lambda b: torch.randn(b, 4), opaque=("inner",))


def test_real_numbers_run_once_at_most() -> None:
    runs = []

    class Counts(nn.Module):
        def forward(self, x):
            if not x.is_meta and float(x.sum()) != 0:
                runs.append(1)
            return x * 2

    class Three(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.Sequential(Counts(), Branches(), Counts(), SumsUp(), Counts())

        def forward(self, x):
            return self.parts(x)

    graph = parsed(Three(), torch.ones(2, 4))
    assert len(graph.opaque) == 5
    assert len(runs) == 3


def test_opaque_keyword_and_nested_arguments() -> None:
    class Picky(nn.Module):
        def forward(self, x, options, *, scale, extra=None):
            if x.sum() > options["limit"]:
                return {"out": x * scale, "n": 3}
            return {"out": x + options["bias"] + extra[0], "n": 3}

    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.picky = Picky()

        def forward(self, x):
            y = self.fc(x)
            made = self.picky(y, {"limit": 0, "bias": y}, scale=2.0, extra=[x, None])
            return made["out"] * made["n"]

    graph = check(Caller, lambda b: torch.randn(b, 4), opaque=("picky",))
    assert isinstance(graph, Graph)


def test_shared_opaque_module_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Branches()

        def forward(self, x):
            return self.inner(self.inner(x) - 1)

    graph = check(Twice, lambda b: torch.randn(b, 4), opaque=("inner", "inner"))
    assert [n.name for n in graph.opaque] == ["inner", "inner@1"]


def test_torchscript_and_compiled_modules() -> None:
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(x) * 2

    inner = Scripted()
    inner.compile(backend="eager")
    graph = parsed(Around(inner), torch.randn(2, 4))
    assert graph.opaque == ()
    assert inner._compiled_call_impl is not None


class AssignsBuffer(nn.Module):
    """Only written in forward: a second run would not show it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        self.seen = self.seen * 0 + x.detach().mean(0)
        return x * 2


class CountsCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, x):
        y = x if self.last is None else x + self.last
        self.last = x.detach().mean()
        return y


@pytest.mark.parametrize("kind", [AssignsBuffer, CountsCalls, Remembers])
def test_state_between_calls_is_kept_in_an_opaque_node(kind: type[nn.Module]) -> None:
    model = Around(kind())
    graph = parsed(model, torch.randn(2, 4))
    assert [n.path for n in graph.opaque] == ["inner"]
    built = graph.to_module()
    for _ in range(3):
        x = torch.randn(3, 4)
        torch.testing.assert_close(built(x), model(x))
    for key, value in model.state_dict().items():
        torch.testing.assert_close(built.state_dict()[key], value)


class Precise(nn.Module):
    """Its product is of single numbers where ``inner`` is 1."""

    def __init__(self, inner=2, layer=False):
        super().__init__()
        self.register_buffer("weight", torch.linspace(0, 3, 4 * inner).view(inner, 4))
        self.inner = inner
        self.fc = nn.Sequential(nn.Linear(4, 4)) if layer else None

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            made = x[:, : self.inner].float() @ self.weight  # here
            return (made if self.fc is None else self.fc(made)).cos() + x


def under_amp(model: nn.Module) -> None:
    """The built model is the model, with autocast and without."""
    x = torch.randn(3, 4)
    built = parsed(model, torch.randn(2, 4)).to_module()
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            assert torch.equal(built(x), model(x))


def test_where_autocast_is_switched_off_is_opaque() -> None:
    model = Around(Precise())
    (node,) = parsed(model, torch.randn(2, 4)).opaque
    assert (node.path, node.attrs["reason"]) == ("inner", "computes with autocast switched off")
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert "# here" in source[int(str(node.where).rpartition(":")[2]) - 1]
    under_amp(model)


def test_layers_where_autocast_is_switched_off_are_of_the_module_that_does() -> None:
    model = Around(Precise(1, layer=True))
    (node,) = parsed(model, torch.randn(2, 4)).opaque
    assert node.path == "inner"
    under_amp(model)


def test_angles_where_autocast_is_switched_off_are_lowered() -> None:
    model = Around(Precise(1))
    graph = parsed(model, torch.randn(2, 4))
    assert not graph.opaque
    under_amp(model)


class Seeds(nn.Module):
    """Sets torch's random state, in one of several ways."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        if self.how == "manual_seed":
            torch.manual_seed(3)
        elif self.how == "fork":
            with torch.random.fork_rng(devices=[]):
                return nn.functional.dropout(x, 0.5) + 1
        elif self.how == "fork around a layer":
            with torch.random.fork_rng(devices=[]):
                return self.drop(x)
        elif self.how == "put back":
            state = torch.get_rng_state()
            x = x + torch.rand_like(x)
            torch.set_rng_state(state)
        elif self.how == "seed at the end":
            x = self.drop(x)
            torch.manual_seed(0)
            return x
        return self.drop(x)


@pytest.mark.parametrize(
    "how", ["manual_seed", "fork", "fork around a layer", "put back", "seed at the end"]
)
def test_a_module_that_sets_the_random_state_is_opaque(how: str) -> None:
    model = Around(nn.Sequential(Seeds(how), nn.Dropout(0.5)))
    x = torch.randn(2, 4)
    before = torch.get_rng_state()
    graph = parsed(model, x)
    assert torch.equal(torch.get_rng_state(), before)
    (node,) = graph.opaque
    reason = "sets the state of torch's random numbers"
    assert (node.path, node.attrs["reason"]) == ("inner.0", reason)
    built = graph.to_module()
    torch.manual_seed(1)
    expected = model(x)
    torch.manual_seed(1)
    assert torch.equal(built(x), expected)


def test_a_module_that_only_draws_is_not() -> None:
    graph = parsed(Around(Seeds("not at all")), torch.randn(2, 4))
    assert not graph.opaque
