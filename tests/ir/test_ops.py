"""The op table's lookups, the forms of a call, and the counts of operations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from retiarii.errors import GraphError
from retiarii.ir.graph import NodeRecord
from retiarii.ir.infer import TypeCache, infer
from retiarii.ir.op_rows.spec import Spelling, parse_signature
from retiarii.ir.ops import (
    OPS,
    arrange_call,
    bind_call,
    function_op,
    module_attrs,
    module_op,
    op_spec,
    split_call,
)
from retiarii.ir.types import (
    Attrs,
    BatchSize,
    FrozenList,
    Operand,
    Ref,
    TensorType,
    Training,
)

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
x = torch.arange(6.0).reshape(2, 3)


def test_the_table_cannot_be_written() -> None:
    assert isinstance(OPS, MappingProxyType)
    with pytest.raises(TypeError):
        OPS["mine"] = OPS["add"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        OPS["add"].pure = False  # type: ignore[misc]


def test_structural_rows() -> None:
    for name in ("input", "parameter", "buffer", "constant", "opaque"):
        assert op_spec(name).kind == "structural"
    assert not op_spec("opaque").pure


def test_an_unknown_op_is_named_with_the_nearest() -> None:
    with pytest.raises(GraphError, match="max_pool2d") as caught:
        op_spec("max_pool_2d")
    assert "'max_pool_2d'" in caught.value.cause


@pytest.mark.parametrize("op", ["torch.load", "torch.hub.load", "torch.save", "torch.nope"])
def test_functions_that_are_not_of_tensors_are_no_ops(op: str) -> None:
    with pytest.raises(GraphError):
        op_spec(op)


@pytest.mark.parametrize(
    "op", ["method.add_", "method.__class__", "method.nope", "method.", "os.x"]
)
def test_methods_that_write_or_are_not_there_are_no_ops(op: str) -> None:
    with pytest.raises(GraphError):
        op_spec(op)


def test_a_function_without_a_row_goes_by_its_qualified_name() -> None:
    assert function_op(torch.fft.fft2) is None
    spec = op_spec("torch.fft.fft2")
    assert spec.target is torch.fft.fft2
    assert not spec.pure
    operands, attrs = bind_call(spec, (x, None), {"norm": "ortho"})
    assert attrs == {"args": (None,), "norm": "ortho"}
    record = NodeRecord("f", spec.name, (Ref("x"),), Attrs(attrs))
    assert split_call(record) == ([Ref("x"), None], {"norm": "ortho"})
    types, _ = infer(spec.name, Attrs(attrs), (TensorType.of(x),), TypeCache())
    assert types == (TensorType((2, 3), torch.complex64),)
    assert operands[0] is x


def test_a_method_without_a_row() -> None:
    spec = op_spec("method.lu_solve") if hasattr(torch.Tensor, "lu_solve") else None
    assert spec is not None
    assert spec.method == "lu_solve"
    operands, attrs = bind_call(spec, (x, x, 1, x), {})
    assert [o is x for o in operands] == [True] * 3
    assert attrs == {"args": (1, Operand(2))}


def test_subclasses_of_layers_are_not_the_layer() -> None:
    class Mine(nn.Linear):
        pass

    assert module_op(nn.Linear) == "Linear"
    assert module_op(Mine) is None
    with pytest.raises(GraphError, match="Mine"):
        module_attrs(Mine(2, 2))


def test_whatever_is_not_of_torch_is_no_function() -> None:
    assert function_op(len) is None
    assert function_op([]) is None  # not even hashable


@pytest.mark.parametrize(
    ("called", "op"),
    [
        (torch.Tensor.add_, "add"),
        (torch.Tensor.__iadd__, "add"),
        (F.relu_, "relu"),
        (torch.relu_, "relu"),
        (torch.Tensor.masked_fill_, "masked_fill"),
        (torch.Tensor.__setitem__, "setitem"),
        (torch.Tensor.zero_, "zeros_like"),
        (torch.Tensor.squeeze_, "squeeze"),
    ],
)
def test_in_place_twins(called: Any, op: str) -> None:
    match = function_op(called)
    assert match is not None
    assert (match.op, match.inplace) == (op, True)


def test_every_in_place_method_with_an_out_of_place_row_is_known() -> None:
    missing = [
        name
        for name in dir(torch.Tensor)
        if name.endswith("_") and not name.endswith("__") and name[:-1] in OPS
        if function_op(getattr(torch.Tensor, name)) is None
    ]
    assert missing == []


def test_defaults_are_left_out_and_lists_become_tuples() -> None:
    assert bind_call(op_spec("flatten"), (x, 0, -1), {})[1] == {}
    assert bind_call(op_spec("mean"), (x, [0, 1]), {"keepdim": False})[1] == {"dim": (0, 1)}
    # True is not the default 1.
    assert bind_call(op_spec("add"), (x, x), {"alpha": True})[1] == {"alpha": True}


def test_tensors_in_other_places_become_operands() -> None:
    operands, attrs = bind_call(op_spec("layer_norm"), (x, (3,)), {"bias": x})
    assert len(operands) == 2
    assert attrs == {"normalized_shape": (3,), "bias": Operand(1)}
    operands, attrs = bind_call(op_spec("where"), (x > 0, 1.0, x), {})
    assert len(operands) == 2
    assert attrs == {"input": 1.0, "other": Operand(1)}
    record = NodeRecord("w", "where", (Ref("c"), Ref("x")), Attrs(attrs))
    assert split_call(record) == ([Ref("c"), 1.0, Ref("x")], {})


def test_a_list_inside_a_subscript_stays_a_list() -> None:
    _, attrs = bind_call(op_spec("getitem"), (x, (slice(None), [0, 2])), {})
    assert attrs == {"index": (slice(None), FrozenList((0, 2)))}
    positional, _ = arrange_call(op_spec("getitem"), Attrs(attrs), ["x"])
    assert positional == ["x", (slice(None), [0, 2])]


def test_a_reflected_operator_keeps_its_order() -> None:
    match = function_op(torch.Tensor.__rsub__)
    assert match is not None
    operands, attrs = bind_call(match.spec, (x, 2), {})
    assert attrs == {"input": 2, "other": Operand(0)}
    record = NodeRecord("s", "sub", (Ref("x"),), Attrs(attrs))
    assert split_call(record) == ([2, Ref("x")], {})
    assert operands[0] is x


def test_symbols_pass_through() -> None:
    _, attrs = bind_call(op_spec("view"), (x, BatchSize(), -1), {})
    assert attrs == {"size": (BatchSize(), -1)}
    _, attrs = bind_call(op_spec("dropout"), (x, 0.5, Training()), {})
    assert attrs == {"training": Training()}


def test_arguments_that_do_not_exist() -> None:
    with pytest.raises(TypeError, match="colour"):
        bind_call(op_spec("relu"), (x,), {"colour": 1})
    with pytest.raises(TypeError, match="out"):
        bind_call(op_spec("add"), (x, x), {"out": x})
    with pytest.raises(TypeError, match="takes"):
        bind_call(op_spec("t"), (x, 1), {})
    assert bind_call(op_spec("add"), (x, x), {"out": None})[1] == {}


def test_inplace_stays_among_the_attributes() -> None:
    assert bind_call(op_spec("relu"), (x, True), {})[1] == {"inplace": True}


def test_module_attributes_hold_the_defaults() -> None:
    attrs = module_attrs(nn.Conv2d(1, 2, 3))
    assert attrs["groups"] == 1
    assert attrs["bias"] is True
    assert attrs["kernel_size"] == (3, 3)


def test_placeholders_make_a_layer() -> None:
    for op, given in (
        ("Conv2d", {"out_channels": 8, "kernel_size": 3, "groups": 4}),
        ("GroupNorm", {"num_groups": 4}),
        ("MultiheadAttention", {"num_heads": 4}),
        ("Linear", {"out_features": 2}),
        ("LayerNorm", {}),
    ):
        spec: Any = OPS[op]
        filled = spec.placeholders(given)
        assert filled.keys() == spec.inferred.keys()
        made = module_attrs(spec.target(**filled, **given))
        if "groups" in given:
            assert made["in_channels"] != made["groups"]


def test_signatures_of_python_functions_are_torch_s() -> None:
    """Names, order and defaults of those functions that can be introspected."""
    hidden = {"out", "_random_samples"}
    checked = 0
    for spec in OPS.values():
        if spec.kind != "function" or spec.helper or not inspect.isfunction(spec.target):
            continue
        parameters = inspect.signature(spec.target).parameters
        kinds = {p.kind for p in parameters.values()}
        if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
            continue
        theirs = [p for p in parameters.values() if p.name not in hidden]
        ours = [n for n in spec.signature if n not in hidden]
        assert len(ours) == len(theirs), spec.name
        for name, parameter in zip(ours[1:], theirs[1:], strict=True):
            assert name == parameter.name, spec.name
            if parameter.default is not inspect.Parameter.empty:
                assert spec.defaults[name] == parameter.default, (spec.name, name)
        checked += 1
    assert checked > 30


def _layer_flops(layer: nn.Module, *args: torch.Tensor) -> tuple[int, int]:
    op = module_op(type(layer))
    assert op is not None
    with FlopCounterMode(display=False) as counter:
        layer(*args)
    kinds = tuple(TensorType.of(a) for a in args)
    attrs = module_attrs(layer)
    flops = op_spec(op).flops
    assert flops is not None
    return flops(attrs, kinds, infer(op, attrs, kinds, TypeCache())[0]), counter.get_total_flops()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, bias=False), (2, 4, 9, 9)),
        (nn.Conv2d(4, 8, 3, groups=4), (2, 4, 9, 9)),
        (nn.Conv3d(4, 6, 2), (2, 4, 5, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5)),
        (nn.Linear(7, 5), (2, 3, 7)),
    ],
)
def test_flops_of_layers_are_torch_s(layer: nn.Module, shape: tuple[int, ...]) -> None:
    ours, theirs = _layer_flops(layer, torch.zeros(shape))
    assert ours == theirs > 0


_T = torch.zeros


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("matmul", (_T(2, 3, 4), _T(2, 4, 5))),
        ("matmul", (_T(2, 3, 4), _T(4, 5))),
        ("mm", (_T(3, 4), _T(4, 5))),
        ("bmm", (_T(2, 3, 4), _T(2, 4, 5))),
        ("addmm", (_T(5), _T(3, 4), _T(4, 5))),
        ("baddbmm", (_T(2, 3, 5), _T(2, 3, 4), _T(2, 4, 5))),
        ("linear", (_T(2, 3, 4), _T(5, 4), _T(5))),
        ("conv2d", (_T(2, 4, 6, 6), _T(8, 4, 3, 3))),
        ("conv_transpose2d", (_T(2, 4, 6, 6), _T(4, 8, 3, 3))),
        ("scaled_dot_product_attention", (_T(2, 2, 5, 4), _T(2, 2, 6, 4), _T(2, 2, 6, 4))),
        ("einsum", ("bij,bjk->bik", _T(2, 3, 4), _T(2, 4, 5))),
        ("tensordot", (_T(3, 4, 5), _T(4, 5, 6), 2)),
    ],
)
def test_flops_of_functions_are_torch_s(op: str, args: tuple[Any, ...]) -> None:
    spec = op_spec(op)
    # The fused kernel of the CPU is one that torch does not count.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        spec.target(*args)
    operands, attrs = bind_call(spec, args, {})
    kinds = tuple(TensorType.of(o) for o in operands)
    assert spec.flops is not None
    ours = spec.flops(Attrs(attrs), kinds, infer(op, Attrs(attrs), kinds, TypeCache())[0])
    assert ours == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("layer", "shape", "multiplies"),
    [
        (nn.RNN(4, 5), (7, 2, 4), 7 * 2 * 5 * (4 + 5)),
        (nn.GRU(4, 5, num_layers=2), (7, 2, 4), 7 * 2 * 3 * 5 * (4 + 5 + 5 + 5)),
        (nn.LSTM(4, 5, bidirectional=True), (7, 2, 4), 7 * 2 * 2 * 4 * 5 * (4 + 5)),
        (nn.LSTM(4, 5, proj_size=3), (7, 2, 4), 7 * 2 * (4 * 5 * (4 + 3) + 5 * 3)),
        (nn.GRUCell(4, 5), (2, 4), 2 * 3 * 5 * (4 + 5)),
    ],
)
def test_flops_of_recurrent_layers(
    layer: nn.Module, shape: tuple[int, ...], multiplies: int
) -> None:
    assert _layer_flops(layer, torch.zeros(shape))[0] == 2 * multiplies


def test_flops_of_attention() -> None:
    tokens = torch.zeros(5, 2, 8)
    ours, theirs = _layer_flops(nn.MultiheadAttention(8, 2).train(), tokens, tokens, tokens)
    assert ours == theirs
    layer = nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=4)
    ours, theirs = _layer_flops(layer, _T(2, 5, 8), _T(2, 7, 6), _T(2, 7, 4))
    assert ours == theirs


def test_signature_notation() -> None:
    parsed = parse_signature("a: T, b: P, *sizes, c=1, d: T = None")
    assert parsed.names == ("a", "b", "sizes", "c", "d")
    assert parsed.operands == ("a", "d")
    assert parsed.rest == "sizes"
    assert parsed.positional == {"a", "b", "sizes", "d"}
    assert dict(parsed.defaults) == {"c": 1, "d": None}
    assert parse_signature("tensors: Ts, dim=0").variadic
    assert parse_signature("equation: P, *operands: T").star


def test_spellings_are_plain_values() -> None:
    assert Spelling("torch.add") == Spelling("torch.add")
    assert isinstance(op_spec("Conv2d").inferred, Mapping)


def test_reflected_operators_that_commute_are_the_plain_ones() -> None:
    match = function_op(torch.Tensor.__radd__)
    assert match is not None
    assert bind_call(match.spec, (x, 2), {})[1] == {"other": 2}


def test_names_that_imply_arguments() -> None:
    for called, args, expected in (
        (torch.Tensor.float, (), {"dtype": torch.float32}),
        (torch.Tensor.cuda, (), {"device": "cuda"}),
        (torch.Tensor.cuda, (1,), {"device": 1}),
        (torch.Tensor.bernoulli_, (), {"p": 0.5}),
        (torch.Tensor.bernoulli_, (0.1,), {"p": 0.1}),
        (torch.Tensor.mT.__get__, (), {"dim0": -2, "dim1": -1}),
    ):
        match = function_op(called)
        assert match is not None
        assert bind_call(match.spec, (x, *args), {})[1] == expected
