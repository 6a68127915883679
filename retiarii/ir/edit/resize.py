"""How attributes and parameters follow the types of a node's inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from retiarii.errors import ShapeError
from retiarii.ir.edit.literal_sizes import fit_expand, fit_parts, fit_split, fit_view
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Attrs, BatchSize, TensorType

Shape = tuple[int, ...]
Types = tuple[TensorType, ...]


class Record(Protocol):
    """What is read of a node's record here."""

    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def attrs(self) -> Attrs: ...
    @property
    def types(self) -> Types: ...


Rule = Callable[[Record, Types, Types | None], dict[str, Any]]


def resize(record: Record, input_types: Types, *, old_input_types: Types | None = None) -> Attrs:
    """The node's attributes, made to fit its inputs.

    Args:
        record: the node; its ``types`` are those it had with ``old_input_types``.
        input_types: types of its inputs now.
        old_input_types: types that its attributes were right for. Without them the literal sizes of
            views, expansions and splits stay.

    Returns:
        ``record.attrs`` itself where nothing changes.

    Raises:
        ShapeError: no attributes of this node fit (groups or heads that do not divide); names
            both shapes.
    """
    name = op_spec(record.op).resize
    if name is None or not input_types:
        return record.attrs
    try:
        changes = _RULES[name](record, input_types, old_input_types)
    except ShapeError as error:
        raise ShapeError(error.cause, where=f"node {record.name!r}", fix=error.fix) from None
    changes = {key: value for key, value in changes.items() if record.attrs.get(key) != value}
    return record.attrs.merged(changes) if changes else record.attrs


# --- layers --------------------------------------------------------------------------------------


def _conv(record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    rank = int(record.op[-2])
    shape = inputs[0].shape
    if len(shape) not in (rank + 1, rank + 2):
        return {}
    attrs = record.attrs
    before, groups, now = attrs["in_channels"], attrs["groups"], shape[-rank - 1]
    if now == before:
        return {}
    if groups == before and groups > 1:
        # Depthwise: a filter (or several) of its own for each channel.
        out = attrs["out_channels"] // before * now
        return {"in_channels": now, "groups": now, "out_channels": out}
    if now % groups:
        raise _indivisible(record, "groups", groups, before, inputs[0], now, "channels")
    return {"in_channels": now}


def _channels(_record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    shape = inputs[0].shape
    return {"num_features": shape[1]} if len(shape) > 1 else {}


def _instance_channels(record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    rank = int(record.op[-2])
    shape = inputs[0].shape
    return {"num_features": shape[-rank - 1]} if len(shape) > rank else {}


def _group_norm(record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    shape = inputs[0].shape
    if len(shape) < 2:
        return {}
    groups, before = record.attrs["num_groups"], record.attrs["num_channels"]
    if shape[1] % groups:
        raise _indivisible(record, "groups", groups, before, inputs[0], shape[1], "channels")
    return {"num_channels": shape[1]}


def _normalized_shape(record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    given = record.attrs["normalized_shape"]
    shape = inputs[0].shape
    sizes = given if isinstance(given, tuple) else (given,)
    if not 0 < len(sizes) <= len(shape):
        return {}
    pairs = zip(sizes, shape[-len(sizes) :], strict=True)
    fitted = tuple(old if isinstance(old, BatchSize) else new for old, new in pairs)
    return {"normalized_shape": fitted if isinstance(given, tuple) else fitted[0]}


def _linear(_record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    return {"in_features": inputs[0].shape[-1]} if inputs[0].shape else {}


def _bilinear(_record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    names = ("in1_features", "in2_features")
    return {n: t.shape[-1] for n, t in zip(names, inputs, strict=False) if t.shape}


def _recurrent(_record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    return {"input_size": inputs[0].shape[-1]} if inputs[0].shape else {}


def _attention(record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    if len(inputs) < 3 or any(not t.shape for t in inputs[:3]):
        return {}
    query, key, value = (t.shape[-1] for t in inputs[:3])
    heads, before = record.attrs["num_heads"], record.attrs["embed_dim"]
    if query % heads:
        raise _indivisible(record, "heads", heads, before, inputs[0], query, "features")
    return {"embed_dim": query, "kdim": key, "vdim": value}


def _prelu(record: Record, inputs: Types, _old: Types | None) -> dict[str, Any]:
    shape = inputs[0].shape
    if record.attrs["num_parameters"] == 1 or len(shape) < 2:
        return {}
    return {"num_parameters": shape[1]}


def _indivisible(
    record: Record, what: str, parts: int, before: int, kind: TensorType, now: int, width: str
) -> ShapeError:
    return ShapeError(
        f"{record.op} has {parts} {what} for {before} {width} and gets {now}, in {kind}, "
        f"which {parts} does not divide",
        fix=f"give it a multiple of {parts} {width}, or update its {what}",
    )


# --- literal sizes -------------------------------------------------------------------------------


def _view(record: Record, inputs: Types, old: Types | None) -> dict[str, Any]:
    name = "size" if record.op == "view" else "shape"
    sizes = record.attrs.get(name)
    if old is None or not record.types or not isinstance(sizes, tuple):
        return {}
    return {name: fit_view(sizes, old[0].shape, inputs[0].shape, record.types[0].shape)}


def _expand(record: Record, inputs: Types, old: Types | None) -> dict[str, Any]:
    sizes = record.attrs.get("size")
    if old is None or not isinstance(sizes, tuple):
        return {}
    return {"size": fit_expand(sizes, old[0].shape, inputs[0].shape)}


def _unflatten(record: Record, inputs: Types, old: Types | None) -> dict[str, Any]:
    name = "sizes" if record.op == "unflatten" else "unflattened_size"
    sizes, at = record.attrs[name], record.attrs["dim"]
    shape = inputs[0].shape
    if old is None or not record.types or not isinstance(at, int):
        return {}
    before = old[0].shape
    if len(before) != len(shape) or before[at] == shape[at]:
        return {}
    start = at % len(before)
    made = record.types[0].shape[start : start + len(sizes)]
    fitted = fit_parts(sizes, made, shape[at])
    if fitted is None:
        raise ShapeError(
            f"the sizes {sizes} split {before[at]} of {list(before)} and cannot split "
            f"{shape[at]} of {list(shape)}",
            fix="keep the width a multiple of what it is split into, or write -1 there",
        )
    return {name: tuple(fitted)}


def _split(record: Record, inputs: Types, old: Types | None) -> dict[str, Any]:
    name, at = "split_size_or_sections", record.attrs.get("dim", 0)
    sizes, shape = record.attrs.get(name), inputs[0].shape
    if old is None or sizes is None or isinstance(sizes, BatchSize):
        return {}
    if len(old[0].shape) != len(shape):
        return {}
    return {name: fit_split(sizes, old[0].shape[at], shape[at])}


_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "conv": _conv,
        "channels": _channels,
        "instance_channels": _instance_channels,
        "group_norm": _group_norm,
        "normalized_shape": _normalized_shape,
        "linear": _linear,
        "bilinear": _bilinear,
        "recurrent": _recurrent,
        "attention": _attention,
        "prelu": _prelu,
        "view": _view,
        "expand": _expand,
        "unflatten": _unflatten,
        "split": _split,
    }
)


# --- parameters used directly --------------------------------------------------------------------


def fit_parameter(shape: Shape, old_other: Shape, new_other: Shape) -> Shape | None:
    """The shape of a parameter that is broadcast against a tensor whose shape changed.

    Args:
        shape: the parameter's.
        old_other: the tensor's, before.
        new_other: the tensor's, now.

    Returns:
        ``None`` where the two cannot be compared. Dimensions of size 1 stay.
    """
    if len(old_other) != len(new_other):
        return None
    fitted = list(shape)
    for at in range(1, min(len(shape), len(old_other)) + 1):
        if shape[-at] == old_other[-at] != 1:
            fitted[-at] = new_other[-at]
    return tuple(fitted)


def fit_parameters(
    record: Record, input_types: Types, old_input_types: Types, parameters: Collection[int]
) -> dict[int, Shape]:
    """New shapes for the parameters that a node reads, after its other inputs changed.

    Args:
        record: the node.
        input_types: types of its inputs now, the parameters' still the old ones.
        old_input_types: types that fitted.
        parameters: which inputs are parameters.

    Returns:
        input index -> shape, of those that change.
    """
    moved = [
        i
        for i, (old, new) in enumerate(zip(old_input_types, input_types, strict=True))
        if old.shape != new.shape and i not in parameters
    ]
    if not moved:
        return {}
    old, new = old_input_types[moved[0]].shape, input_types[moved[0]].shape
    fit = _WEIGHTS.get(record.op)
    fitted: dict[int, Shape] = {}
    for i in parameters:
        shape = input_types[i].shape
        if fit is None:
            made = fit_parameter(shape, old, new)
        else:
            made = fit(i, shape, old, new, record.attrs)
        if made is not None and made != shape:
            fitted[i] = made
    return fitted


WeightRule = Callable[[int, Shape, Shape, Shape, Attrs], Shape | None]


def _linear_weight(at: int, shape: Shape, _old: Shape, new: Shape, _attrs: Attrs) -> Shape | None:
    return (*shape[:-1], new[-1]) if at == 1 else None


def _matmul_weight(at: int, shape: Shape, _old: Shape, new: Shape, _attrs: Attrs) -> Shape | None:
    if at == 1:  # x @ weight
        return (*shape[:-2], new[-1], shape[-1]) if len(shape) > 1 else (new[-1],)
    width = new[-2] if len(new) > 1 else new[-1]
    return (*shape[:-1], width)


def _conv_weight(at: int, shape: Shape, _old: Shape, new: Shape, attrs: Attrs) -> Shape | None:
    width = new[1 - len(shape)]
    groups = attrs.get("groups", 1)
    return (shape[0], width // groups, *shape[2:]) if at == 1 and width % groups == 0 else None


def _transposed_weight(
    at: int, shape: Shape, _old: Shape, new: Shape, _attrs: Attrs
) -> Shape | None:
    return (new[1 - len(shape)], *shape[1:]) if at == 1 else None


def _channel_weight(_at: int, shape: Shape, old: Shape, new: Shape, _attrs: Attrs) -> Shape | None:
    return (new[1],) if len(new) > 1 and shape == (old[1],) and shape != (1,) else None


_WEIGHTS: Final[Mapping[str, WeightRule]] = MappingProxyType(
    {
        "linear": _linear_weight,
        **dict.fromkeys(("matmul", "mm", "bmm"), _matmul_weight),
        **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv_weight),
        **dict.fromkeys(
            ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_weight
        ),
        **dict.fromkeys(("batch_norm", "instance_norm", "group_norm", "prelu"), _channel_weight),
    }
)
