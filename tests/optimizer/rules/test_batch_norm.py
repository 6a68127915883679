from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from retiarii.ir.ops import bind_call, function_op
from retiarii.ir.types import Attrs, TensorType
from retiarii.optimizer.kernels import batch_norm
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group
from retiarii.testing.equivalence import call_of_module, check, check_module, fused
from retiarii.testing.isolation import check_module_isolation

LAYERS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def images(rank: int) -> torch.Tensor:
    return torch.randn(5, 4, *(3, 2, 2)[: rank - 2], dtype=torch.float64)


@settings(max_examples=80, deadline=None)
@given(
    rank=st.integers(2, 5),
    eps=st.sampled_from([1e-5, 1e-2]),
    momentum=st.sampled_from([None, 0.1, 0.0, 1.0]),
    affine=st.booleans(),
    track=st.booleans(),
    training=st.booleans(),
    size=st.integers(1, 3),
    form=st.sampled_from([Form.MEMBERS, Form.CHANNELS]),
    shared=st.booleans(),
)
def test_layers(rank, eps, momentum, affine, track, training, size, form, shared):
    """Running statistics and counts of each member differ from those of the others."""
    count = iter(range(3))

    def make():
        layer = LAYERS[rank](4, eps, momentum, affine, track)
        if track:
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            layer.num_batches_tracked.fill_(next(count))
        return layer

    options = {"size": size, "form": form, "training": training, "shared": [shared]}
    check_module(make, images(rank), **options)


def test_without_bias():
    check_module(lambda: nn.BatchNorm2d(4, bias=False), images(4))


@pytest.mark.parametrize(("training", "tracked"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("names", [(), ("weight",), ("weight", "bias")])
def test_functions(training, tracked, names):
    """Layers of users that call the function on buffers of their own."""
    rows = []
    for _ in range(3):
        running = [torch.randn(4).double(), torch.rand(4).double()] if tracked else [None, None]
        rows.append([images(3), *running, *(torch.randn(4).double() for _ in names)])
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}

    def alone(x, mean, var, *more):
        return F.batch_norm(x, mean, var, **dict(zip(names, more, strict=True)), **options)

    x, mean, var, *more = rows[0]
    match = function_op(F.batch_norm)
    given = dict(zip(names, more, strict=True))
    tensors, attrs = bind_call(match.spec, (x, mean, var), {**given, **options})
    types = tuple(map(TensorType.of, tensors))
    call = Call(match.op, Attrs(attrs), types, types[:1])
    present = [[t.clone() for t in row if t is not None] for row in rows]
    _, results = fused(call, present, [False] * len(tensors))
    for row, (out, _, *written) in zip(rows, results, strict=True):
        torch.testing.assert_close(out, alone(*row))
        for own, stacked in zip([t for t in row[1:] if t is not None], written, strict=True):
            torch.testing.assert_close(stacked, own)


def test_function_gradients():
    call_options = {"training": True, "momentum": 0.3}
    weight, bias = torch.randn(4).double(), torch.randn(4).double()

    def normed(x, weight, bias):
        return F.batch_norm(x, None, None, weight, bias, **call_options)

    x = images(4)
    match = function_op(F.batch_norm)
    tensors, attrs = bind_call(match.spec, (x, None, None, weight, bias), call_options)
    types = tuple(map(TensorType.of, tensors))
    rows = [[images(4), *(torch.randn(4).double() for _ in range(2))] for _ in range(3)]
    check(Call(match.op, Attrs(attrs), types, types[:1]), normed, rows)


def test_statistics_that_are_no_contiguous_stack_are_written():
    x = torch.randn(5, 6, 3)
    mean, var = torch.zeros(3, 2).t(), torch.ones(3, 2).t()
    batch_norm(x, mean, var, None, None, training=True, momentum=0.5, eps=1e-5)
    torch.testing.assert_close(mean.flatten(), x.mean((0, 2)) / 2)
    torch.testing.assert_close(var.flatten(), (x.transpose(0, 1).flatten(1).var(1) + 1) / 2)


def test_one_buffer_of_all_members_is_not_written_by_a_fused_call():
    layer = nn.BatchNorm1d(4)
    for training, fuses in ((True, False), (False, True)):
        call = call_of_module(layer.train(training), [torch.randn(5, 4)])
        shared = tuple(i > 0 for i in range(len(call.inputs)))
        forms = tuple(Form.PLAIN if s else Form.MEMBERS for s in shared)
        assert (lower_group(Fusion(call, 2, shared, forms)) is not None) is fuses


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("channels", [3, 4, 16])
def test_isolation(training, shared, momentum, channels):
    layer = nn.BatchNorm2d(channels, momentum=momentum).train(training)
    check_module_isolation(layer, torch.randn(4, channels, 5, 5), shared=shared)
