"""What one step does: the kernels that it calls, and the memory that it takes at its peak."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from _fusion.contestant import Contestant

# They touch no element, although no view is what they return.
_FREE = frozenset(
    {
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "_unsafe_view",
        "_reshape_alias",
        "lift_fresh",
        "_local_scalar_dense",
    }
)


def does_work(op: Any) -> bool:
    """Whether a call of an operator of aten computes or copies elements."""
    if op.overloadpacket.__name__ in _FREE:
        return False
    results = [r.alias_info for r in op._schema.returns]
    return not any(alias is not None and not alias.is_write for alias in results)


class Watch(TorchDispatchMode):
    """Counts calls that do work, and the bytes of all storages that are alive.

    A call of a ``foreach`` operator counts once. Scratch memory inside of a kernel is not seen.

    Args:
        held: tensors that are there already.

    Attributes:
        calls: so far.
        live: bytes now.
        peak: bytes at most.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.calls = 0
        self.live = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._see(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls += does_work(func)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def watched_step(contestant: Contestant, device: torch.device) -> tuple[int | None, int | None]:
    """One step's calls, and its peak in bytes with all that the contestant holds.

    ``None`` where it cannot be seen: what is compiled is not run under a mode, and what runs in
    other processes is theirs.
    """
    if device.type == "cuda":
        calls = _calls(contestant) if contestant.watchable else None
        return calls, _cuda_peak(contestant, device)
    if not contestant.watchable:
        return None, None
    with Watch(contestant.tensors()) as watch:
        contestant.step()
    return watch.calls, watch.peak


def _calls(contestant: Contestant) -> int:
    with Watch() as watch:
        contestant.step()
    return watch.calls


def _cuda_peak(contestant: Contestant, device: torch.device) -> int:
    held = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in contestant.tensors()
    }
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    contestant.step()
    torch.cuda.synchronize(device)
    grown = torch.cuda.max_memory_allocated(device) - before
    return sum(held.values()) + grown + contestant.captured
