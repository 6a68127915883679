"""What in a step waits for the device, or reads the host's memory: it cannot be recorded."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Their results, or the shapes of these, depend on data: torch waits for the device.
_WAITS: Final = frozenset(
    {
        "_local_scalar_dense",
        "_unique2",
        "bincount",
        "_ctc_loss",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "to_dense",
        "_to_dense",
        "_coalesce",
        "unique_consecutive",
        "unique_dim",
    }
)
_INDEXING: Final = frozenset({"index", "index_put", "index_put_", "_unsafe_index"})
_COPIES: Final = frozenset({"_to_copy", "copy_"})


class HostWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that finds the first call, if any, that ties a step to the host.

    Args:
        device: where the step runs.

    Attributes:
        found: what it is.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if self.found is None:
            self.found = self._tie(func.overloadpacket.__name__, args, kwargs)
        return func(*args, **kwargs)

    def _tie(self, name: str, args: tuple[Any, ...], kwargs: Any) -> str | None:
        if name in _WAITS or (name == "repeat_interleave" and _waits_for_size(kwargs)):
            return f"{name} waits for the device"
        if name in _INDEXING and any(_is_mask(index) for index in args[1]):
            return f"{name} by a mask waits for the device"
        if name == "lift_fresh" and args[0].device.type == self._device.type:
            return "a tensor is made of the host's numbers"
        if name in _COPIES and self._crosses(name, args, kwargs):
            return f"{name} between the host and the device"
        return None

    def _crosses(self, name: str, args: tuple[Any, ...], kwargs: Any) -> bool:
        source = args[1] if name == "copy_" else args[0]
        target = args[0].device if name == "copy_" else kwargs.get("device")
        return target is not None and torch.device(target).type != source.device.type


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _waits_for_size(kwargs: Any) -> bool:
    return kwargs.get("output_size") is None
