"""CUDA graphs without a GPU: a recording of calls that are made again on the very same memory.

As in a CUDA graph nothing of Python runs in a replay: whatever was a number of the host is the
number that it was when it was recorded, tensors are where they were, and random numbers go on where
the generators are. A step that is right when it is replayed so reads nothing but tensors that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from retiarii.training.cohort.recording import Done, Recording, Run


class CallRecorder:
    """A `Recorder` of the CPU.

    Attributes:
        warmed: steps that ran as they are.
        recorded: steps that were recorded.
        replayed: how often recordings ran.
        generators: what was announced for the last recording.
        calls: of the last recording.
    """

    def __init__(self) -> None:
        self.warmed = self.recorded = self.replayed = self.calls = 0
        self.generators: list[torch.Generator] = []

    def warm(self, run: Run) -> Done:
        self.warmed += 1
        return run()

    def record(self, run: Run, generators: Sequence[torch.Generator]) -> Recording:
        """Runs the step to see its calls, and puts all that it wrote to back."""
        self.generators = list(generators)
        states = [g.get_state() for g in generators]
        with _Calls() as calls:
            done = run()
        calls.restore()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        self.recorded += 1
        self.calls = len(calls.made)

        def replay() -> None:
            self.replayed += 1
            calls.replay()

        return Recording(replay, done)


class _Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each call with the tensors that it was given, and those that it made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[tuple[Any, tuple[Any, ...], dict[str, Any], dict[int, Tensor]]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._own: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number was read back from the device")
        if func is torch.ops.aten.lift_fresh.default:
            raise RuntimeError("a tensor was made of the host's numbers")
        given = _tensors((args, kwargs))
        held = {t.untyped_storage()._cdata for t in given}
        writes = func._schema.is_mutable
        for tensor in given:
            self._keep(tensor)  # not all schemas say what they write to
        results = func(*args, **kwargs)
        own = {}
        for position, tensor in enumerate(_tensors(results)):
            storage = tensor.untyped_storage()
            if storage._cdata not in held:
                self._own[storage._cdata] = storage
                own[position] = tensor
        if writes or own:  # else it is a view: there it is, and there it stays
            self.made.append((func, args, kwargs, own))
        return results

    def _keep(self, tensor: Tensor) -> None:
        """The value of what was there before, so that recording changes nothing."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._own and key not in self._before:
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._before[key] = (whole, whole.clone())

    def restore(self) -> None:
        for tensor, value in self._before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, own in self.made:
            results = _tensors(func(*args, **kwargs))
            for position, place in own.items():
                place.copy_(results[position])


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
