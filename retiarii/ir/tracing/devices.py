"""Devices in a trace: the model sees the one that it will run on; calls run on meta, or the CPU."""

from __future__ import annotations

from typing import Any

import torch

from retiarii.ir.tracing.values import Entry
from retiarii.ir.types import InputDevice

# An index that no machine has: tells the inputs' device from one that the model names itself.
_SYMBOLIC_INDEX = 113


class Devices:
    """What ``tensor.device`` shows.

    Args:
        real: the device of the example inputs.

    Attributes:
        symbolic: stands for the device of the inputs, whatever it will be; of the real type, so
            that code which branches on ``device.type`` works.
    """

    def __init__(self, real: torch.device) -> None:
        kind = "cpu" if real.type == "meta" else real.type
        self.symbolic = torch.device(kind, _SYMBOLIC_INDEX)

    def attr(self, value: Any) -> Any:
        """A device as a node's attribute."""
        if isinstance(value, torch.device) and value == self.symbolic:
            return InputDevice()
        return value

    def flag(self, name: str, device: torch.device, func: Any, args: tuple[Any, ...]) -> Any:
        """``tensor.is_cuda`` and the like."""
        kind = name.removeprefix("is_").removesuffix(".get")
        if kind in ("cuda", "cpu", "meta", "xpu", "mps", "ipu", "xla", "maia", "vulkan", "mtia"):
            return device.type == kind
        return func(*args)

    def of_result(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Entry]
    ) -> torch.device:
        """The device that a call's result shows."""
        named = kwargs.get("device")
        if named is None:
            named = next((a for a in args if isinstance(a, torch.device)), None)
        if named is not None:
            return torch.device(named) if not isinstance(named, torch.device) else named
        for entry in operands:
            if entry.tensor.dim():
                return entry.device
        return operands[0].device if operands else torch.device("cpu")

    def for_execution(
        self, args: Any, kwargs: dict[str, Any], *, meta: bool, factory: bool
    ) -> tuple[Any, dict[str, Any]]:
        """The arguments with every device exchanged for the one that the call runs on."""
        target = torch.device("meta" if meta else "cpu")

        def swap(value: Any) -> Any:
            return target if isinstance(value, torch.device) or _names_device(value) else value

        args = tuple(swap(a) for a in args)
        kwargs = {k: (target if k == "device" and v is not None else v) for k, v in kwargs.items()}
        if meta and factory:
            kwargs["device"] = target
        return args, kwargs


def _names_device(value: Any) -> bool:
    return isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda", "mps", "xpu")
