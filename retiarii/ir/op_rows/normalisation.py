"""Normalisation layers and functions."""

from __future__ import annotations

from typing import Final

from torch import nn

from retiarii.ir.op_rows.spec import Row, always, function, module, twin

_BATCH = (
    "num_features, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True, *, bias=True"
)
_INSTANCE = (
    "num_features, eps=1e-05, momentum=0.1, affine=False, track_running_stats=False, *, bias=True"
)
_RESPONSE = "input: T, size, alpha=0.0001, beta=0.75, k=1.0"

NORMALISATION: Final[tuple[Row, ...]] = (
    *(
        module(
            layer,
            _BATCH,
            inferred="num_features",
            optional="bias",
            placed=True,
            pure=False,
            stateful=True,
            resize="channels",
            fuse="batch_norm",
        )
        for layer in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    ),
    *(
        module(
            layer,
            _INSTANCE,
            inferred="num_features",
            optional="bias",
            placed=True,
            resize="instance_channels",
            fuse="norm",
        )
        for layer in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    ),
    module(
        nn.GroupNorm,
        "num_groups, num_channels, eps=1e-05, affine=True, *, bias=True",
        inferred="num_channels:num_groups",
        optional="bias",
        placed=True,
        resize="group_norm",
        fuse="norm",
    ),
    module(
        nn.LayerNorm,
        "normalized_shape, eps=1e-05, elementwise_affine=True, bias=True",
        inferred="normalized_shape",
        placed=True,
        resize="normalized_shape",
        fuse="norm",
    ),
    module(
        nn.RMSNorm,
        "normalized_shape, eps=None, elementwise_affine=True",
        "x: T",
        inferred="normalized_shape",
        placed=True,
        zero_preserving=always,
        resize="normalized_shape",
        fuse="norm",
    ),
    module(
        nn.LocalResponseNorm,
        _RESPONSE.removeprefix("input: T, "),
        zero_preserving=always,
        alias=twin("local_response_norm", _RESPONSE),
        fuse="norm",
    ),
    # torch.batch_norm and torch.instance_norm take their arguments in another order.
    function(
        "batch_norm",
        "input: T, running_mean: T, running_var: T, weight: T = None, bias: T = None, "
        "training=False, momentum=0.1, eps=1e-05",
        "F.batch_norm",
        search=False,
        pure=False,
        stateful=True,
        fuse="batch_norm",
    ),
    function(
        "instance_norm",
        "input: T, running_mean: T = None, running_var: T = None, weight: T = None, "
        "bias: T = None, use_input_stats=True, momentum=0.1, eps=1e-05",
        "F.instance_norm",
        search=False,
        pure=False,
        stateful=True,
        fuse="norm",
    ),
    function(
        "group_norm",
        "input: T, num_groups, weight: T = None, bias: T = None, eps=1e-05",
        "F.group_norm",
        fuse="norm",
    ),
    function(
        "layer_norm",
        "input: T, normalized_shape, weight: T = None, bias: T = None, eps=1e-05",
        "F.layer_norm",
        fuse="norm",
        resize="normalized_shape",
    ),
    function(
        "rms_norm",
        "input: T, normalized_shape, weight: T = None, eps=None",
        "F.rms_norm",
        fuse="norm",
        zero_preserving=always,
        resize="normalized_shape",
    ),
    function(
        "normalize",
        "input: T, p=2.0, dim=1, eps=1e-12",
        "F.normalize",
        zero_preserving=always,
        fuse="norm",
    ),
    function(
        "local_response_norm",
        _RESPONSE,
        "F.local_response_norm",
        zero_preserving=always,
        fuse="norm",
    ),
)
