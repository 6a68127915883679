"""Attributes, literal sizes and parameters that follow the inputs."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from retiarii.errors import ShapeError
from retiarii.ir.edit.literal_sizes import fit_expand, fit_parts, fit_split, fit_view
from retiarii.ir.edit.resize import _RULES, fit_parameter, fit_parameters, resize
from retiarii.ir.graph import NodeRecord
from retiarii.ir.infer import TypeCache, infer, module_state
from retiarii.ir.ops import OPS, module_attrs, module_op
from retiarii.ir.types import Attrs, BatchSize, Operand, Ref, TensorType

B = BatchSize()


def f32(*shape: int) -> TensorType:
    return TensorType(shape, torch.float32)


def _layer_record(layer: nn.Module, inputs: int = 1) -> NodeRecord:
    op = module_op(type(layer))
    assert op is not None
    return NodeRecord("net.it", op, (Ref("x"),) * inputs, module_attrs(layer))


def _function_record(op: str, old: TensorType, **attrs: Any) -> NodeRecord:
    types, _ = infer(op, Attrs(attrs), (old,), TypeCache(2))
    return NodeRecord("it", op, (Ref("x"),), Attrs(attrs), types)


@pytest.mark.parametrize(
    ("layer", "shape", "changes"),
    [
        (nn.Conv1d(4, 6, 3), (2, 5, 9), {"in_channels": 5}),
        (nn.Conv2d(4, 6, 3), (2, 5, 9, 9), {"in_channels": 5}),
        (nn.Conv2d(4, 6, 3), (5, 9, 9), {"in_channels": 5}),
        (nn.Conv3d(4, 6, 3), (2, 5, 9, 9, 9), {"in_channels": 5}),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 8, 9, 9), {"in_channels": 8}),
        (
            nn.Conv2d(4, 4, 3, groups=4),
            (2, 6, 9, 9),
            {"in_channels": 6, "out_channels": 6, "groups": 6},
        ),
        (
            nn.Conv2d(4, 12, 3, groups=4),
            (2, 6, 9, 9),
            {"in_channels": 6, "out_channels": 18, "groups": 6},
        ),
        (nn.Conv2d(1, 6, 3), (2, 3, 9, 9), {"in_channels": 3}),
        (nn.ConvTranspose2d(4, 6, 3), (2, 5, 9, 9), {"in_channels": 5}),
        (
            nn.ConvTranspose1d(4, 4, 3, groups=4),
            (2, 6, 9),
            {"in_channels": 6, "out_channels": 6, "groups": 6},
        ),
        (nn.BatchNorm1d(4), (2, 5), {"num_features": 5}),
        (nn.BatchNorm1d(4), (2, 5, 7), {"num_features": 5}),
        (nn.BatchNorm2d(4), (2, 5, 7, 7), {"num_features": 5}),
        (nn.InstanceNorm2d(4), (2, 5, 7, 7), {"num_features": 5}),
        (nn.InstanceNorm1d(4), (5, 7), {"num_features": 5}),
        (nn.GroupNorm(2, 4), (2, 6, 7), {"num_channels": 6}),
        (nn.LayerNorm(4), (2, 3, 5), {"normalized_shape": (5,)}),
        (nn.LayerNorm((4, 3)), (2, 5, 6), {"normalized_shape": (5, 6)}),
        (nn.RMSNorm(4), (2, 5), {"normalized_shape": (5,)}),
        (nn.Linear(4, 3), (2, 7, 5), {"in_features": 5}),
        (nn.LSTM(4, 3), (7, 2, 5), {"input_size": 5}),
        (nn.GRU(4, 3), (7, 2, 5), {"input_size": 5}),
        (nn.RNNCell(4, 3), (2, 5), {"input_size": 5}),
        (nn.PReLU(4), (2, 5, 7), {"num_parameters": 5}),
        (nn.PReLU(4), (5,), {}),
        (nn.PReLU(1), (2, 5, 7), {}),
        (nn.ReLU(), (2, 5), {}),
    ],
)
def test_layers_follow_their_input(
    layer: nn.Module, shape: tuple[int, ...], changes: dict[str, Any]
) -> None:
    record = _layer_record(layer)
    attrs = resize(record, (f32(*shape),))
    assert dict(attrs) == {**record.attrs, **changes}
    if not changes:
        assert attrs is record.attrs
    if len(shape) > 1:
        infer(record.op, attrs, (f32(*shape),), TypeCache())
    module_state(record.op, attrs)


def test_a_layer_that_fits_keeps_its_very_attributes() -> None:
    record = _layer_record(nn.Conv2d(4, 6, 3))
    assert resize(record, (f32(2, 4, 9, 9),)) is record.attrs


def test_bilinear_follows_both_inputs() -> None:
    record = _layer_record(nn.Bilinear(3, 4, 5), inputs=2)
    attrs = resize(record, (f32(2, 6), f32(2, 7)))
    assert (attrs["in1_features"], attrs["in2_features"]) == (6, 7)


def test_attention_follows_query_key_and_value() -> None:
    record = _layer_record(nn.MultiheadAttention(8, 2), inputs=3)
    kinds = (f32(5, 2, 6), f32(5, 2, 7), f32(5, 2, 3))
    attrs = resize(record, kinds)
    assert (attrs["embed_dim"], attrs["kdim"], attrs["vdim"]) == (6, 7, 3)
    infer("MultiheadAttention", attrs, kinds, TypeCache())
    again = resize(record, (f32(5, 2, 6),) * 3)
    assert infer("MultiheadAttention", again, (f32(5, 2, 6),) * 3, TypeCache())


@pytest.mark.parametrize(
    ("layer", "inputs", "shape", "words"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), 1, (2, 5, 9, 9), ("2 groups", "4", "gets 5", "2, 5, 9, 9")),
        (nn.ConvTranspose2d(4, 4, 3, groups=2), 1, (2, 5, 9, 9), ("groups", "2, 5, 9, 9")),
        (nn.GroupNorm(4, 8), 1, (2, 6, 3), ("4 groups", "8", "6", "2, 6, 3")),
        (nn.MultiheadAttention(8, 4), 3, (5, 2, 6), ("4 heads", "8", "6", "5, 2, 6")),
    ],
)
def test_what_does_not_divide_is_an_error_with_both_sizes(
    layer: nn.Module, inputs: int, shape: tuple[int, ...], words: tuple[str, ...]
) -> None:
    with pytest.raises(ShapeError) as caught:
        resize(_layer_record(layer, inputs), (f32(*shape),) * inputs)
    for word in words:
        assert word in caught.value.cause
    assert caught.value.where == "node 'net.it'"
    assert caught.value.fix


def test_an_input_of_another_rank_is_left_to_inference() -> None:
    for layer in (
        nn.Conv2d(4, 4, 3),
        nn.InstanceNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm((4, 4)),
    ):
        record = _layer_record(layer)
        assert resize(record, (f32(3),)) is record.attrs


def test_functional_layer_norm() -> None:
    record = NodeRecord("it", "layer_norm", (Ref("x"),), Attrs(normalized_shape=(4,)))
    assert resize(record, (f32(2, 5),))["normalized_shape"] == (5,)


VIEWS: list[tuple[tuple[Any, ...], tuple[int, ...], tuple[int, ...], Any]] = [
    # sizes, old input, new input, sizes now
    ((B, 400), (2, 16, 5, 5), (2, 32, 5, 5), (B, 800)),
    ((-1, 400), (2, 16, 5, 5), (2, 32, 5, 5), (-1, 800)),
    ((B, -1), (2, 16, 5, 5), (2, 32, 5, 5), (B, -1)),
    ((2, 400), (2, 16, 5, 5), (2, 32, 5, 5), (2, 800)),
    ((B, 16), (2, 16, 1, 1), (2, 24, 1, 1), (B, 24)),
    # heads keep their number
    ((B, 10, 4, 16), (2, 10, 64), (2, 10, 96), (B, 10, 4, 24)),
    ((B, 10, 4, 4), (2, 10, 16), (2, 10, 24), (B, 10, 4, 6)),
    ((B, 10, 3, 4, 16), (2, 10, 192), (2, 10, 384), (B, 10, 3, 4, 32)),
    ((B, -1, 4, 16), (2, 10, 64), (2, 10, 96), (B, -1, 4, 24)),
    # and join again
    ((B, 10, 64), (2, 10, 4, 16), (2, 10, 4, 24), (B, 10, 96)),
    # a channel shuffle keeps its groups, a pixel shuffle its factor
    ((B, 2, 8, 5, 5), (2, 16, 5, 5), (2, 24, 5, 5), (B, 2, 12, 5, 5)),
    ((B, 16, 2, 2, 5, 5), (2, 64, 5, 5), (2, 96, 5, 5), (B, 24, 2, 2, 5, 5)),
    # batch and time in one
    ((BatchSize(10), 64), (2, 10, 64), (2, 10, 96), (BatchSize(10), 96)),
    ((BatchSize(10), 64), (2, 10, 64), (2, 12, 64), (BatchSize(12), 64)),
    ((B, 10, 64), (20, 64), (20, 96), (B, 10, 96)),
    # all in one
    ((-1,), (2, 3, 4), (2, 3, 5), (-1,)),
    ((24,), (2, 3, 4), (2, 3, 5), (30,)),
    # nothing known
    ((B, 400), (2, 16, 5, 5), (2, 400), (B, 400)),
]


@pytest.mark.parametrize("op", ["view", "reshape"])
@pytest.mark.parametrize(("sizes", "old", "new", "fitted"), VIEWS)
def test_views_follow_their_input(
    op: str, sizes: tuple[Any, ...], old: tuple[int, ...], new: tuple[int, ...], fitted: Any
) -> None:
    name = "size" if op == "view" else "shape"
    record = _function_record(op, f32(*old), **{name: sizes})
    attrs = resize(record, (f32(*new),), old_input_types=(f32(*old),))
    assert attrs[name] == fitted
    infer(op, attrs, (f32(*new),), TypeCache(2))
    assert resize(record, (f32(*new),)) is record.attrs  # unknown what the sizes meant


def test_a_view_that_cannot_follow_names_both_shapes() -> None:
    record = _function_record("view", f32(2, 10, 64), size=(B, 10, 4, 16))
    with pytest.raises(ShapeError) as caught:
        resize(record, (f32(2, 10, 7),), old_input_types=(f32(2, 10, 64),))
    assert "[2, 10, 64]" in caught.value.cause
    assert "[2, 10, 7]" in caught.value.cause


def test_a_view_as_another_dtype_has_no_sizes() -> None:
    record = _function_record("view", f32(2, 4), dtype=torch.int32)
    assert resize(record, (f32(2, 6),), old_input_types=(f32(2, 4),)) is record.attrs


sizes_lists = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(sizes_lists, st.data())
def test_a_fitted_view_holds_as_many_elements(old: list[int], data: st.DataObject) -> None:
    flat = data.draw(st.permutations([f for n in old for f in _factors(n)])) or [1]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(flat)), max_size=3)))
    target = tuple(prod(flat[a:b]) for a, b in zip([0, *cuts], [*cuts, len(flat)], strict=True))
    at = data.draw(st.integers(0, len(old) - 1))
    new = list(old)
    new[at] = data.draw(st.integers(1, 12))
    try:
        fitted = fit_view(target, tuple(old), tuple(new), target)
    except ShapeError:
        assume(False)
    assert prod(fitted) == prod(new)
    assert len(fitted) == len(target)
    assert fit_view(target, tuple(old), tuple(old), target) == target


def _factors(n: int) -> list[int]:
    found = []
    for p in (2, 3, 5):
        while n % p == 0:
            found.append(p)
            n //= p
    return found


def test_parts_take_what_divides() -> None:
    assert fit_parts((4, 16), (4, 16), 96) == [4, 24]
    assert fit_parts((4, 16), (4, 16), 48) == [4, 12]
    assert fit_parts((4, -1), (4, 16), 96) == [4, -1]
    assert fit_parts((4, 16), (4, 16), 7) is None


def test_unflatten_function_and_layer() -> None:
    old, new = (f32(2, 8, 3),), (f32(2, 12, 3),)
    record = _function_record("unflatten", old[0], dim=1, sizes=(2, 4))
    assert resize(record, new, old_input_types=old)["sizes"] == (2, 6)
    record = _function_record("unflatten", old[0], dim=-2, sizes=(2, -1))
    assert resize(record, new, old_input_types=old) is record.attrs
    attrs = module_attrs(nn.Unflatten(1, (2, 4)))
    types, _ = infer("Unflatten", attrs, old, TypeCache())
    record = NodeRecord("it", "Unflatten", (Ref("x"),), attrs, types)
    assert resize(record, new, old_input_types=old)["unflattened_size"] == (2, 6)
    with pytest.raises(ShapeError, match=r"8 of \[2, 8, 3\]"):
        resize(record, (f32(2, 7, 3),), old_input_types=old)


def test_expand_follows_what_it_only_repeats() -> None:
    assert fit_expand((B, 4, 5), (1, 1, 5), (1, 1, 7)) == (B, 4, 7)
    assert fit_expand((8, -1, 5), (2, 5), (3, 7)) == (8, -1, 7)
    assert fit_expand((2, 3), (2, 3), (2, 3, 4)) == (2, 3)
    record = _function_record("expand", f32(1, 5), size=(4, 5))
    assert resize(record, (f32(1, 6),), old_input_types=(f32(1, 5),))["size"] == (4, 6)


def test_split_keeps_its_number_of_parts() -> None:
    assert fit_split(4, 8, 12) == 6
    assert fit_split(4, 8, 7) == 4  # still two parts
    assert fit_split(4, 10, 11) == 4
    assert fit_split((2, 6), 8, 12) == (3, 9)
    assert fit_split(4, 8, 8) == 4
    for sizes, new in ((4, 13), ((2, 6), 9)):
        with pytest.raises(ShapeError, match=str(new)):
            fit_split(sizes, 8, new)
    record = _function_record("split", f32(2, 8), split_size_or_sections=4, dim=1)
    attrs = resize(record, (f32(2, 12),), old_input_types=(f32(2, 8),))
    assert attrs["split_size_or_sections"] == 6


def test_a_parameter_follows_what_it_is_broadcast_against() -> None:
    assert fit_parameter((1, 10, 64), (2, 10, 64), (2, 10, 96)) == (1, 10, 96)
    assert fit_parameter((64,), (2, 10, 64), (2, 10, 96)) == (96,)
    assert fit_parameter((64, 1, 1), (2, 64, 5, 5), (2, 32, 5, 5)) == (32, 1, 1)
    assert fit_parameter((1, 10, 64), (2, 10, 64), (2, 12, 64)) == (1, 12, 64)
    assert fit_parameter((1,), (2, 1), (2, 4)) == (1,)
    assert fit_parameter((64,), (2, 64), (2, 64, 3)) is None


@pytest.mark.parametrize(
    ("op", "attrs", "old", "new", "fitted"),
    [
        ("add", {}, ((2, 4), (4,)), (2, 5), (5,)),
        ("linear", {}, ((2, 4), (3, 4)), (2, 5), (3, 5)),
        ("matmul", {}, ((2, 4), (4, 3)), (2, 5), (5, 3)),
        ("matmul", {}, ((2, 4), (4,)), (2, 5), (5,)),
        ("conv2d", {}, ((2, 4, 5, 5), (3, 4, 2, 2)), (2, 6, 5, 5), (3, 6, 2, 2)),
        ("conv2d", {"groups": 2}, ((2, 4, 5, 5), (6, 2, 2, 2)), (2, 6, 5, 5), (6, 3, 2, 2)),
        ("conv_transpose2d", {}, ((2, 4, 5, 5), (4, 3, 2, 2)), (2, 6, 5, 5), (6, 3, 2, 2)),
        ("prelu", {}, ((2, 4, 5), (4,)), (2, 6, 5), (6,)),
        (
            "layer_norm",
            {"normalized_shape": (4,), "weight": Operand(1)},
            ((2, 4), (4,)),
            (2, 5),
            (5,),
        ),
        ("group_norm", {"num_groups": 2, "weight": Operand(1)}, ((2, 4, 3), (4,)), (2, 6, 3), (6,)),
    ],
)
def test_weights_of_functional_layers(
    op: str, attrs: dict[str, Any], old: Any, new: tuple[int, ...], fitted: tuple[int, ...]
) -> None:
    record = NodeRecord("it", op, (Ref("x"), Ref("w")), Attrs(attrs))
    before = (f32(*old[0]), f32(*old[1]))
    found = fit_parameters(record, (f32(*new), before[1]), before, [1])
    assert found == {1: fitted}
    after = (f32(*new), f32(*fitted))
    infer(op, resize(record, after), after, TypeCache())


def test_a_parameter_on_the_left_of_a_product() -> None:
    record = NodeRecord("it", "matmul", (Ref("w"), Ref("x")))
    before = (f32(3, 4), f32(4, 2))
    assert fit_parameters(record, (f32(3, 4), f32(5, 2)), before, [0]) == {0: (3, 5)}
    assert fit_parameters(record, before, before, [0]) == {}


def test_every_rule_that_a_row_names_exists() -> None:
    named = {spec.resize for spec in OPS.values() if spec.resize}
    assert named == set(_RULES)


def test_rules_name_attributes_of_their_rows() -> None:
    for spec in OPS.values():
        if spec.kind == "module" and spec.inferred:
            assert spec.resize is not None
            assert set(spec.inferred) <= set(spec.signature)
