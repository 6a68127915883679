"""Tensors as the bytes of a safetensors file, without a detour for each of them.

The format: the header's length in eight bytes, the header as JSON (each tensor's type, shape, and
where its bytes begin and end), then the bytes of all tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

_TYPES: Final[Mapping[torch.dtype, str]] = MappingProxyType(
    {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
)
_ALIGNED: Final = 8


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of these tensors, from wherever they are.

    Tied tensors are written once for each of their names, so that the file holds every key.
    """
    if not all(t.dtype in _TYPES and t.layout is torch.strided for t in tensors.values()):
        rare: bytes = safetensors.torch.save(portable(tensors))
        return rare
    # As the format has it, the widest types first: all are aligned then.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return b"".join([len(text).to_bytes(8, "little"), text, *_bodies([tensors[n] for n in names])])


def _bodies(tensors: Sequence[Tensor]) -> list[Any]:
    """Each tensor's bytes; a device is asked once for all of its."""
    flat = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in tensors]
    if all(t.is_cpu for t in flat):
        return [t.numpy() for t in flat]
    bodies: dict[int, Any] = {}
    for device in {t.device for t in flat}:
        own = [i for i, t in enumerate(flat) if t.device == device]
        whole = torch.cat([flat[i] for i in own]).cpu().numpy()
        start = 0
        for i in own:
            bodies[i] = whole[start : start + len(flat[i])]
            start += len(flat[i])
    return [bodies[i] for i in range(len(flat))]


def portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the safetensors library takes them: on the CPU, contiguous, none sharing memory.

    Tied tensors are copied for each of their names.
    """
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        kept = tensor.detach().cpu().contiguous()
        storage = kept.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != kept.numel() * kept.element_size():
            kept = kept.clone()
        seen.add(kept.untyped_storage().data_ptr())
        result[name] = kept
    return result
