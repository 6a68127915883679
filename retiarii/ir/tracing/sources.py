"""Where a trace's values start: the model's parameters and buffers, and constants of its code."""

from __future__ import annotations

import torch

from retiarii.ir.node import NodeRecord
from retiarii.ir.tracing.signals import Unlowerable
from retiarii.ir.tracing.state import ModelState
from retiarii.ir.tracing.values import Entry, Held, Values
from retiarii.ir.types import Attrs, Ref, TensorType

_OUTLIVES = "tensor that outlives the call"


class Sources:
    """Enters the tensors that no node of the trace made.

    Args:
        copy: what the traced copy holds.
        held: the same, by identity.
        device: the symbolic device.
    """

    def __init__(self, copy: ModelState, held: Held, device: torch.device) -> None:
        self.values = Values(held, device)
        self.records: dict[str, NodeRecord] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self._state = copy
        self._device = device
        self._attributes: dict[int, str] | None = None

    def record_of(self, key: str) -> NodeRecord:
        """The node of a parameter or buffer."""
        tensor = self._state.tensors[key]
        kind = TensorType.of(tensor)
        attrs: dict[str, object] = {"shape": kind.shape, "dtype": kind.dtype}
        is_parameter = key in self._state.parameters
        if is_parameter:
            attrs["requires_grad"] = tensor.requires_grad
        else:
            attrs["persistent"] = key not in self._state.transient
        return NodeRecord(
            key, "parameter" if is_parameter else "buffer", (), Attrs(attrs), (kind,), path=key
        )

    def constant(
        self, tensor: torch.Tensor, device: torch.device | None = None, *, fresh: bool = False
    ) -> Entry:
        """Enters a tensor that the trace did not make.

        Args:
            device: the device that it shows; its own if ``None``.
            fresh: the code makes it in each call, so it may be written.

        Raises:
            Unlowerable: it comes from something that the trace cannot see.
        """
        shared = self.values.storage(tensor)
        if shared is not None and shared.lasting != _OUTLIVES:
            raise Unlowerable("uses memory of another tensor in a way that the trace cannot see")
        if tensor.is_meta:
            raise Unlowerable("uses a tensor made by code that the trace cannot see")
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise Unlowerable(f"uses a {type(tensor).__qualname__}")
        wanted = "constant" if fresh else self._attribute(tensor)
        key, number = wanted, 0
        while key in self.constants:
            number += 1
            key = f"{wanted}_{number}"
        self.constants[key] = tensor.detach().clone() if fresh else tensor.detach()
        name = f"constants.{key}"
        self.records[name] = NodeRecord(
            name, "constant", (), Attrs(key=key), (TensorType.of(tensor),)
        )
        return self.values.add(
            tensor,
            Ref(name),
            device or tensor.device,
            concrete=True,
            lasting=None if fresh else _OUTLIVES,
        )

    def _attribute(self, tensor: torch.Tensor) -> str:
        """The attribute that holds a tensor ("encoder.scale"), or "constant"."""
        if self._attributes is None:
            self._attributes = {
                id(value): f"{path}.{name}" if path else name
                for path, module in self._state.modules.items()
                for name, value in module.__dict__.items()
                if isinstance(value, torch.Tensor)
            }
        return self._attributes.get(id(tensor), "constant")
