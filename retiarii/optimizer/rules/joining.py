"""Several tensors become one, or are brought to one shape."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.dims import from_end, from_start, members, ones
from retiarii.optimizer.rules.writing import argument, written


def _listed(fusion: Fusion) -> str:
    return ", ".join(f"${i}" for i in range(len(fusion.call.inputs)))


def _ranks(fusion: Fusion) -> set[int]:
    return {len(t.shape) for t in fusion.call.inputs}


def _cat(fusion: Fusion, dim: int | None = None) -> Lowering | None:
    call = fusion.call
    dim = argument(call, "dim") if dim is None else dim
    # Ranks differ only where an empty tensor is left out.
    if type(dim) is not int or len(_ranks(fusion)) != 1 or _ranks(fusion) == {0}:
        return None
    rank = len(call.inputs[0].shape)
    place = from_start(dim, rank)
    stacked = [f for f, s in zip(fusion.forms, fusion.shared, strict=True) if not s]
    if rank >= 2 and stacked and stacked.count(Form.CHANNELS) * 2 >= len(stacked):
        return _cat_channels(fusion, place)
    return members(fusion, f"torch.cat([{_listed(fusion)}], dim={place - rank})")


def _cat_channels(fusion: Fusion, place: int) -> Lowering:
    inputs = tuple(
        Form.PLAIN if shared and place == 1 else Form.CHANNELS for shared in fusion.shared
    )
    if place != 1:
        return Lowering(f"torch.cat([{_listed(fusion)}], dim={place})", inputs, (Form.CHANNELS,))
    if fusion.size == 1:
        text = f"torch.cat([{_listed(fusion)}], dim=1)"
    elif any(fusion.shared):
        shared = f", shared={tuple(i for i, s in enumerate(fusion.shared) if s)}"
        text = f"kernels.cat_channels([{_listed(fusion)}], {fusion.size}{shared})"
    else:
        text = f"kernels.cat_channels([{_listed(fusion)}], {fusion.size})"
    return Lowering(text, inputs, (Form.CHANNELS,))


def _stack(fusion: Fusion) -> Lowering | None:
    dim = argument(fusion.call, "dim")
    if type(dim) is not int:
        return None
    rank = len(fusion.call.results[0].shape)
    return members(fusion, f"torch.stack([{_listed(fusion)}], dim={from_end(dim, rank)})")


def _hstack(fusion: Fusion) -> Lowering | None:
    return _cat(fusion, 0 if _ranks(fusion) == {1} else 1)


def _vstack(fusion: Fusion) -> Lowering | None:
    if _ranks(fusion) == {1}:
        return members(fusion, f"torch.stack([{_listed(fusion)}], dim=-2)")
    return _cat(fusion, 0)


def _dstack(fusion: Fusion) -> Lowering | None:
    return _cat(fusion, 2) if min(_ranks(fusion)) >= 3 else None


def _column_stack(fusion: Fusion) -> Lowering | None:
    if _ranks(fusion) == {1}:
        return members(fusion, f"torch.stack([{_listed(fusion)}], dim=-1)")
    return _cat(fusion, 1) if min(_ranks(fusion)) >= 2 else None


def _broadcast_tensors(fusion: Fusion) -> Lowering | None:
    rank = max(_ranks(fusion))
    operands = [f"${i}{ones(rank - len(t.shape))}" for i, t in enumerate(fusion.call.inputs)]
    return members(fusion, written(fusion.call, operands))


def _meshgrid(fusion: Fusion) -> Lowering | None:
    indexing = argument(fusion.call, "indexing") or "ij"
    if indexing not in ("ij", "xy") or not _ranks(fusion) <= {0, 1}:
        return None
    return members(fusion, f"kernels.meshgrid([{_listed(fusion)}], {indexing!r})")


def join(fusion: Fusion) -> Lowering | None:
    """Any row that takes several tensors and moves their elements."""
    rule = OPS.get(fusion.call.op)
    # Given by name, they need not be in the order of the inputs.
    return None if rule is None or "tensors" in fusion.call.attrs else rule(fusion)


OPS: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "cat": _cat,
        "stack": _stack,
        "hstack": _hstack,
        "vstack": _vstack,
        "dstack": _dstack,
        "column_stack": _column_stack,
        "broadcast_tensors": _broadcast_tensors,
        "meshgrid": _meshgrid,
    }
)
