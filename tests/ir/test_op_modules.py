"""Every module row: read off a layer, made again, called, and its types and state inferred."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn

from retiarii.ir.graph import NodeRecord
from retiarii.ir.infer import TypeCache, infer, module_state
from retiarii.ir.ops import (
    OPS,
    bind_call,
    constructor_attrs,
    module_attrs,
    module_op,
    op_spec,
    split_call,
)
from retiarii.ir.types import Attrs, Ref, TensorType

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
_G = torch.Generator().manual_seed(3)


def _normal(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=_G)


seq, img, vol = _normal(2, 4, 8), _normal(2, 4, 6, 6), _normal(2, 4, 4, 4, 4)
x, y = _normal(2, 3), _normal(2, 3)
time = _normal(5, 2, 4)
whole = torch.randint(0, 6, (2, 3), generator=_G)
by_rank = {1: seq, 2: img, 3: vol}
pooled = {
    1: nn.MaxPool1d(2, return_indices=True)(seq),
    2: nn.MaxPool2d(2, return_indices=True)(img),
    3: nn.MaxPool3d(2, return_indices=True)(vol),
}
Sample = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


def _one(layer: nn.Module, *args: Any, **kwargs: Any) -> Sample:
    return layer, args, kwargs


def _ranked() -> dict[str, list[Sample]]:
    made: dict[str, list[Sample]] = {}
    for n, t in by_rank.items():

        def layer(kind: str, n: int = n) -> Any:
            return getattr(nn, f"{kind}{n}d")

        made |= {
            f"Conv{n}d": [
                _one(layer("Conv")(4, 6, 3, padding=1, padding_mode="circular"), t),
                _one(layer("Conv")(4, 8, 3, groups=4, bias=False, padding="same"), t),
            ],
            f"ConvTranspose{n}d": [
                _one(layer("ConvTranspose")(4, 6, 3, 2, 1, 1, groups=2), t),
                _one(
                    layer("ConvTranspose")(4, 6, 3, stride=2),
                    t,
                    output_size=[2 * s + 2 for s in t.shape[2:]],
                ),
            ],
            f"MaxPool{n}d": [
                _one(layer("MaxPool")(2), t),
                _one(layer("MaxPool")(3, 1, 1, return_indices=True), t),
            ],
            f"AvgPool{n}d": [_one(layer("AvgPool")(2, 1, count_include_pad=False), t)],
            f"LPPool{n}d": [_one(layer("LPPool")(2.0, 2), t)],
            f"AdaptiveAvgPool{n}d": [_one(layer("AdaptiveAvgPool")(1), t)],
            f"AdaptiveMaxPool{n}d": [
                _one(layer("AdaptiveMaxPool")(2, return_indices=True), t),
                _one(layer("AdaptiveMaxPool")(2), t),
            ],
            f"MaxUnpool{n}d": [_one(layer("MaxUnpool")(2), *pooled[n])],
            f"BatchNorm{n}d": [
                _one(layer("BatchNorm")(4), t),
                _one(layer("BatchNorm")(4, affine=False, track_running_stats=False), t),
            ],
            f"InstanceNorm{n}d": [
                _one(layer("InstanceNorm")(4, affine=True, track_running_stats=True), t),
                _one(layer("InstanceNorm")(4), t),
            ],
            f"ZeroPad{n}d": [_one(layer("ZeroPad")(1), t)],
            f"ConstantPad{n}d": [_one(layer("ConstantPad")(1, 2.0), t)],
            f"ReflectionPad{n}d": [_one(layer("ReflectionPad")(1), t)],
            f"ReplicationPad{n}d": [_one(layer("ReplicationPad")(1), t)],
            f"CircularPad{n}d": [_one(layer("CircularPad")(1), t)],
        }
    return made


SAMPLES: dict[str, list[Sample]] = {
    **_ranked(),
    "FractionalMaxPool2d": [_one(nn.FractionalMaxPool2d(2, output_size=3), img)],
    "FractionalMaxPool3d": [_one(nn.FractionalMaxPool3d(2, output_ratio=0.5), vol)],
    "Fold": [_one(nn.Fold((4, 4), 2), _normal(2, 12, 9))],
    "Unfold": [_one(nn.Unfold(3, padding=1), img)],
    "Identity": [_one(nn.Identity(), x)],
    "Linear": [
        _one(nn.Linear(3, 5), x),
        _one(nn.Linear(3, 5, bias=False, dtype=torch.float64), x.double()),
    ],
    "Bilinear": [_one(nn.Bilinear(3, 3, 4), x, y)],
    "Embedding": [_one(nn.Embedding(6, 4, padding_idx=-1), whole)],
    "EmbeddingBag": [
        _one(nn.EmbeddingBag(6, 4), whole),
        _one(nn.EmbeddingBag(6, 4, mode="sum"), whole[0], torch.tensor([0, 2]), _normal(3)),
    ],
    "CosineSimilarity": [_one(nn.CosineSimilarity(), x, y)],
    "PairwiseDistance": [_one(nn.PairwiseDistance(1.0, keepdim=True), x, y)],
    "GroupNorm": [_one(nn.GroupNorm(2, 4), img), _one(nn.GroupNorm(2, 4, affine=False), img)],
    "LayerNorm": [
        _one(nn.LayerNorm(3), x),
        _one(nn.LayerNorm([6, 6], bias=False), img),
        _one(nn.LayerNorm(3, elementwise_affine=False), x),
    ],
    "RMSNorm": [_one(nn.RMSNorm(3), x)],
    "LocalResponseNorm": [_one(nn.LocalResponseNorm(2), img)],
    **{
        name: [_one(getattr(nn, name)(), x)]
        for name in [
            "ReLU",
            "ReLU6",
            "LeakyReLU",
            "ELU",
            "CELU",
            "SELU",
            "GELU",
            "SiLU",
            "Mish",
            "Hardswish",
            "Hardsigmoid",
            "Hardtanh",
            "Hardshrink",
            "Softshrink",
            "Tanhshrink",
            "Softsign",
            "Softplus",
            "LogSigmoid",
            "Sigmoid",
            "Tanh",
            "RReLU",
        ]
    },
    "Threshold": [_one(nn.Threshold(0.1, 2.0), x)],
    "PReLU": [_one(nn.PReLU(), x), _one(nn.PReLU(4), img)],
    "GLU": [_one(nn.GLU(1), img)],
    "Softmax": [_one(nn.Softmax(-1), x)],
    "LogSoftmax": [_one(nn.LogSoftmax(1), x)],
    "Softmin": [_one(nn.Softmin(1), x)],
    "Softmax2d": [_one(nn.Softmax2d(), img)],
    "Dropout": [_one(nn.Dropout(0.2), x)],
    "Dropout1d": [_one(nn.Dropout1d(), seq)],
    "Dropout2d": [_one(nn.Dropout2d(), img)],
    "Dropout3d": [_one(nn.Dropout3d(), vol)],
    "AlphaDropout": [_one(nn.AlphaDropout(), x)],
    "FeatureAlphaDropout": [_one(nn.FeatureAlphaDropout(), img)],
    "RNN": [
        _one(nn.RNN(4, 5, 2, nonlinearity="relu", bidirectional=True), time),
        _one(nn.RNN(4, 5), time, _normal(1, 2, 5)),
    ],
    "LSTM": [
        _one(nn.LSTM(4, 5, 2, dropout=0.5, proj_size=3), time),
        _one(nn.LSTM(4, 5, batch_first=True), time, (_normal(1, 5, 5), _normal(1, 5, 5))),
    ],
    "GRU": [_one(nn.GRU(4, 5, bias=False), time), _one(nn.GRU(4, 5), time, hx=_normal(1, 2, 5))],
    "RNNCell": [_one(nn.RNNCell(3, 4), x)],
    "LSTMCell": [_one(nn.LSTMCell(3, 4), x, (_normal(2, 4), _normal(2, 4)))],
    "GRUCell": [_one(nn.GRUCell(3, 4, bias=False), x, _normal(2, 4))],
    "MultiheadAttention": [
        _one(nn.MultiheadAttention(4, 2), time, time, time),
        _one(
            nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.5),
            time,
            time,
            time,
            need_weights=False,
        ),
        _one(
            nn.MultiheadAttention(4, 2, bias=False, add_bias_kv=True, kdim=8, vdim=8),
            time,
            _normal(3, 2, 8),
            _normal(3, 2, 8),
        ),
        _one(
            nn.MultiheadAttention(4, 2),
            time,
            time,
            time,
            attn_mask=torch.zeros(5, 5),
            average_attn_weights=False,
        ),
        _one(nn.MultiheadAttention(4, 2), time, time, time, torch.zeros(2, 5, dtype=torch.bool)),
    ],
    "Flatten": [_one(nn.Flatten(), img)],
    "Unflatten": [_one(nn.Unflatten(1, (2, 2)), img)],
    "Upsample": [
        _one(nn.Upsample(scale_factor=2), img),
        _one(nn.Upsample((3, 3), mode="bilinear", align_corners=True), img),
    ],
    "UpsamplingNearest2d": [_one(nn.UpsamplingNearest2d(scale_factor=2), img)],
    "UpsamplingBilinear2d": [_one(nn.UpsamplingBilinear2d((4, 4)), img)],
    "PixelShuffle": [_one(nn.PixelShuffle(2), img)],
    "PixelUnshuffle": [_one(nn.PixelUnshuffle(3), img)],
    "ChannelShuffle": [_one(nn.ChannelShuffle(2), img)],
}
_CASES = [
    pytest.param(op, sample, id=f"{op}-{i}")
    for op, samples in SAMPLES.items()
    for i, sample in enumerate(samples)
]


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [t for part in value for t in _tensors(part)]
    return []


def _node(op: str, sample: Sample) -> tuple[NodeRecord, list[torch.Tensor]]:
    layer, args, kwargs = sample
    operands, call = bind_call(op_spec(op), args, kwargs)
    refs = tuple(Ref(f"n{i}") for i in range(len(operands)))
    return NodeRecord("it", op, refs, module_attrs(layer).merged(call)), operands


def _real(value: Any, record: NodeRecord, operands: list[torch.Tensor]) -> Any:
    if isinstance(value, Ref):
        return operands[record.inputs.index(value)]
    if isinstance(value, tuple | list):
        return type(value)(_real(v, record, operands) for v in value)
    return value


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("op", "sample"), _CASES)
def test_a_layer_made_from_its_attributes_is_the_same_layer(
    op: str, sample: Sample, training: bool
) -> None:
    layer = copy.deepcopy(sample[0]).train(training)
    assert module_op(type(layer)) == op
    record, operands = _node(op, sample)
    spec = op_spec(op)
    again = spec.target(**constructor_attrs(spec, record.attrs)).train(training)
    again.load_state_dict(layer.state_dict(), strict=True)
    assert module_attrs(again) == module_attrs(layer)
    positional, named = split_call(record)
    torch.manual_seed(1)
    expected = layer(*sample[1], **sample[2])
    torch.manual_seed(1)
    args = [_real(p, record, operands) for p in positional]
    made = again(*args, **{k: _real(v, record, operands) for k, v in named.items()})
    assert len(_tensors(made)) == len(_tensors(expected))
    for a, b in zip(_tensors(made), _tensors(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("op", "sample"), _CASES)
def test_types_and_state_are_inferred_without_storage_or_random_numbers(
    op: str, sample: Sample
) -> None:
    layer = copy.deepcopy(sample[0])
    record, operands = _node(op, sample)
    cache = TypeCache(2)
    before = torch.get_rng_state()
    types, result = infer(op, record.attrs, tuple(map(TensorType.of, operands)), cache)
    state = module_state(op, record.attrs, cache)
    assert torch.equal(before, torch.get_rng_state())
    returned = layer(*sample[1], **sample[2])
    assert types == tuple(TensorType.of(t) for t in _tensors(returned))
    assert (result is None) == isinstance(returned, torch.Tensor)
    kept = {name: spec.type for name, spec in state.items() if spec.persistent}
    expected = {name: TensorType.of(t) for name, t in layer.state_dict().items()}
    assert list(kept.items()) == list(expected.items())
    parameters = {name for name, spec in state.items() if spec.kind == "parameter"}
    assert parameters == {name for name, _ in layer.named_parameters()}


@pytest.mark.parametrize("op", SAMPLES)
def test_the_row_names_the_constructor_s_own_parameters(op: str) -> None:
    spec = OPS[op]
    if issubclass(spec.target, nn.RNNBase):
        pytest.skip("takes *args")
    parameters = inspect.signature(spec.target).parameters
    hidden = {"device", "dtype", "_weight", "_freeze", "_random_samples", "args", "kwargs"}
    hidden |= {"init"} if op == "PReLU" else set()  # only where training starts from
    hidden |= {"min_value", "max_value"}  # deprecated names
    known = {name: p.default for name, p in parameters.items() if name not in hidden}
    assert set(spec.signature) - set(spec.optional) <= known.keys()
    assert known.keys() <= set(spec.signature)
    for name, default in known.items():
        if default is not inspect.Parameter.empty:
            assert spec.defaults[name] == default, name
        else:
            assert name not in spec.defaults
    assert spec.placed == ("device" in parameters)


def test_every_module_row_has_a_sample() -> None:
    rows = {name for name, spec in OPS.items() if spec.kind == "module"}
    assert rows ^ SAMPLES.keys() == set()


_NOT_LAYERS = {
    # containers, bases, and what is traced through
    *("Container", "Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList"),
    *("Sequential", "DataParallel", "RNNBase", "RNNCellBase", "Transformer"),
    *("TransformerEncoder", "TransformerEncoderLayer"),
    *("TransformerDecoder", "TransformerDecoderLayer"),
    # need several devices, or have no meta kernel
    *("SyncBatchNorm", "CrossMapLRN2d"),
}


def test_every_layer_of_torch_has_a_row() -> None:
    layers = {
        name
        for name, cls in vars(nn).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module)
        if "Loss" not in name and not name.startswith("Lazy")
    }
    assert layers - OPS.keys() - _NOT_LAYERS == set()


def test_a_double_layer_keeps_its_dtype() -> None:
    attrs = module_attrs(nn.Conv2d(1, 1, 1, dtype=torch.float64))
    assert attrs["dtype"] == torch.float64
    assert "dtype" not in module_attrs(nn.Conv2d(1, 1, 1))
    state = module_state("Conv2d", attrs)
    assert {s.type.dtype for s in state.values()} == {torch.float64}


def test_aliases_name_rows_that_compute_the_same() -> None:
    torch.manual_seed(0)
    for op, samples in SAMPLES.items():
        spec = OPS[op]
        if spec.alias is None or spec.is_random(module_attrs(samples[0][0])):
            continue
        for layer, args, _ in samples:
            found = spec.alias(module_attrs(layer))
            assert found is not None
            twin = op_spec(found[0])
            record = NodeRecord(
                "it", twin.name, tuple(Ref(f"n{i}") for i in range(len(args))), found[1]
            )
            positional, named = split_call(record)
            operands = list(args)
            made = twin.target(*(_real(p, record, operands) for p in positional), **named)
            assert bind_call(twin, *split_call(record), lambda v: isinstance(v, Ref))[1] == dict(
                Attrs(found[1])
            )
            for a, b in zip(_tensors(made), _tensors(layer(*args)), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(("op", "sample"), _CASES)
def test_what_the_row_claims_of_zeros_identity_and_randomness(op: str, sample: Sample) -> None:
    spec = OPS[op]
    record, operands = _node(op, sample)
    positional, named = split_call(record)

    def call(values: list[torch.Tensor], seed: int) -> Any:
        torch.manual_seed(seed)
        layer = copy.deepcopy(sample[0])
        for parameter in layer.parameters():
            nn.init.ones_(parameter)
        args = [_real(p, record, values) for p in positional]
        return layer(*args, **{k: _real(v, record, values) for k, v in named.items()})

    if spec.zero_preserving is not None and spec.zero_preserving(record.attrs):
        zeros = [torch.zeros_like(t) for t in operands]
        assert all(not t.any() for t in _tensors(call(zeros, 0)))
    if spec.identity is not None and spec.identity(record.attrs):
        torch.testing.assert_close(call(operands, 0), operands[0])
    if not spec.is_random(record.attrs):
        for a, b in zip(_tensors(call(operands, 1)), _tensors(call(operands, 2)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    if spec.stateful:
        assert not spec.pure
    if spec.random:
        assert spec.draws is not None or not spec.pure
