"""Micro-measurements: how long one group's forward and backward pass takes, on the device at hand.

A measurement is keyed by everything that it depends on (the call with its attributes and shapes,
the batch, what is shared, the number of members, the device with its threads, and torch's
version), and kept in ``fusion.sqlite`` in the user's cache (`remembering`). Measuring is bounded in
time. What is over the budget, or was measured while others used the machine and varies, is
estimated with `retiarii.optimizer.defaults`, which come from a CPU alone: on GPUs they are guesses.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from retiarii.ir.analysis.latency import device_name
from retiarii.ir.analysis.remembering import Remembered
from retiarii.ir.infer import TypeCache, module_state
from retiarii.ir.ops import constructor_attrs
from retiarii.ir.types import TensorType
from retiarii.optimizer import kernels
from retiarii.optimizer.apart import apart_call
from retiarii.optimizer.defaults import default_seconds
from retiarii.optimizer.evaluate import flat, runner
from retiarii.optimizer.forest import Item
from retiarii.optimizer.lift import is_random
from retiarii.optimizer.rules.base import Call, Form, Fusion
from retiarii.optimizer.rules.registry import lower_group

# Changing how is measured changes this, so that old measurements are not taken for new ones.
METHOD: Final = 2
BUDGET: Final = 10.0
_MOST: Final = 60.0
_LONGEST: Final = 0.05  # seconds of runs for one measurement, where three runs are shorter
_FEWEST, _MOST_RUNS = 3, 9
_UNSTEADY: Final = 1.6  # how much more than the fastest run the median may take
# A call that takes so many times what is usual, and so many seconds more, was kept waiting: with
# several threads and other work on the machine, every run is.
_FAR, _LONG = 8.0, 2e-3
_TICK: Final = 2e-6  # seconds that clocks are off by
_CACHES: Final = 32 << 20  # bytes
_VIEW: Final = 3e-6  # what a view costs, forward and backward


def budget() -> float:
    """Seconds that one merge may measure: ``RETIARII_MEASURE``, 0 for none, at most a minute."""
    given = os.environ.get("RETIARII_MEASURE", "")
    try:
        return BUDGET if not given else min(max(float(given), 0.0), _MOST)
    except ValueError:
        return BUDGET


@dataclass(frozen=True, slots=True)
class Copying:
    """What bringing members together costs.

    Attributes:
        byte: seconds for each byte that is read and written once.
        piece: seconds for each piece, besides.
    """

    byte: float
    piece: float


# About what one core of an AMD EPYC needs.
_COPYING: Final = Copying(1.5e-10, 4e-6)


class Meter:
    """Measures, remembers, and estimates what there is no time to measure.

    Args:
        device: where to run.
        batch: the batch size, which generated code may name.
        cache: what is remembered.
        seconds: how long all measurements may take.
        cold: whether a step's tensors are more than the processor's caches hold.
    """

    def __init__(
        self,
        device: torch.device,
        batch: int,
        cache: Remembered,
        seconds: float = BUDGET,
        cold: bool = True,
    ) -> None:
        self._device, self._batch, self._cache, self._left = device, batch, cache, seconds
        self._known: dict[str, float] = {}
        self._cold = cold
        self._filler: Tensor | None = None
        self._base = {
            "device": device_name(device),
            "torch": str(torch.__version__),
            "method": METHOD,
        }
        self.name = json.dumps(self._base, sort_keys=True)
        self.estimated = 0
        self._guessed: set[Call] = set()
        self._consistent = self._all = False

    def alone(self, call: Call, cold: bool) -> float:
        """Seconds of the call as the model alone makes it, forward and backward.

        Args:
            call: the call.
            cold: whether its model's tensors fill the processor's caches by themselves.
        """
        if is_random(call) and call.spec.kind == "function":
            return self.fused(call, (False,) * len(call.inputs), 1)
        return self._asked(call, None, None, cold, lambda: self._alone(call))

    def fused(self, call: Call, shared: Sequence[bool], size: int) -> float:
        """Seconds of a group, forward and backward, members and all that they read in place.

        Args:
            call: what each member computes.
            shared: which inputs are one for all members; these take no gradient.
            size: the number of members.
        """
        return self._asked(
            call, tuple(shared), size, self._cold, lambda: self._fused(call, shared, size)
        )

    def consistent(self) -> bool:
        """From now on, calls of which anything had to be estimated are estimated in all.

        Measurements and estimates must not be compared with each other. Where most is estimated,
        the machine is too busy, or too slow, for the rest to say anything: then all is.

        Returns:
            Whether there are such calls.
        """
        self._consistent = True
        self._all = 2 * self.estimated > len(self._known)
        return self._all or bool(self._guessed)

    @property
    def measures(self) -> bool:
        """Whether anything is measured; else all is estimated."""
        return not self._all

    def copying(self) -> Copying:
        """What copies cost."""
        if self._all:
            return _COPYING
        key = json.dumps({**self._base, "what": "copying", "cold": self._cold}, sort_keys=True)
        found = self._cache.read(key)
        try:
            return Copying(float(found["byte"]), float(found["piece"]))
        except (TypeError, KeyError, ValueError):
            pass
        made = self._copying()
        if made is None:
            return _COPYING
        self._cache.write(key, {"byte": made.byte, "piece": made.piece})
        return made

    # --- asking -------------------------------------------------------------------------------

    def _asked(
        self,
        call: Call,
        shared: tuple[bool, ...] | None,
        size: int | None,
        cold: bool,
        make: Callable[[], _Step | None],
    ) -> float:
        if self._all or (self._consistent and call in self._guessed):
            return default_seconds(call, size)
        key = json.dumps(
            {
                **self._base,
                "op": call.op,
                "attrs": repr(sorted(call.attrs.items())),
                "inputs": list(map(str, call.inputs)),
                "training": call.training,
                "batch": self._batch,
                "shared": shared,
                "members": size,
                "cold": cold,
            },
            sort_keys=True,
        )
        if key not in self._known:
            self._known[key] = self._looked_up(key, call, size, make, cold)
        return self._known[key]

    def _looked_up(
        self, key: str, call: Call, size: int | None, make: Callable[[], _Step | None], cold: bool
    ) -> float:
        found = self._cache.read(key)
        if isinstance(found, float | int) and found > 0:
            return float(found)
        seconds = self._measured(make, cold) if self._left > 0 else None
        usual = default_seconds(call, size)
        if seconds is None or seconds > _FAR * usual + _LONG:
            self.estimated += 1
            self._guessed.add(call)
            return usual
        self._cache.write(key, seconds)
        return seconds

    def _measured(self, make: Callable[[], _Step | None], cold: bool) -> float | None:
        start = time.perf_counter()
        try:
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                step = make()
                if step is None:
                    return None
                median = self._median(step, cold)
                return None if median is None else max(median - self._overhead(), 1e-7)
        except Exception:  # made-up inputs that the call does not take
            return None
        finally:
            self._left -= time.perf_counter() - start

    def _overhead(self) -> float:
        """What differentiating one call alone costs, besides the call."""
        if "overhead" not in self._known:
            x = torch.zeros(1, device=self._device, requires_grad=True)
            step = _Step(lambda v: v.view_as(v), [x])
            self._known["overhead"] = max((self._median(step, False) or 0.0) - _VIEW, 0.0)
        return self._known["overhead"]

    def _median(self, step: _Step, cold: bool) -> float | None:
        """Seconds of a run; ``None`` where others use the machine so much that it says nothing."""
        self._timed(step, cold)
        first = self._timed(step, cold)
        runs = max(_FEWEST, min(_MOST_RUNS, int(_LONGEST / max(first, 1e-6))))
        times = [first, *(self._timed(step, cold) for _ in range(runs - 1))]
        median = statistics.median(times)
        return median if median < _UNSTEADY * min(times) + _TICK else None

    def _timed(self, step: _Step, cold: bool) -> float:
        """Forward, then backward. Between them all else of a step runs: what was saved has left
        the processor's caches, while gradients have just been made."""
        start = self._now()
        made = step.forward()
        middle = self._now()
        if cold and self._device.type == "cpu":
            self._forget()
            step.touch()
        again = self._now()
        step.backward(made)
        return middle - start + self._now() - again

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif torch.get_num_threads() == 1:
            return time.thread_time()  # whatever else the machine does
        return time.perf_counter()

    def _forget(self) -> None:
        """Empties the processor's caches."""
        if self._filler is None:
            self._filler = torch.empty(_CACHES, dtype=torch.uint8)
        self._filler.add_(1)

    # --- what is run --------------------------------------------------------------------------

    def _alone(self, call: Call) -> _Step | None:
        count = len(call.operands)
        values = [self._value(t, None) for t in call.operands]
        if call.spec.kind == "module":
            layer = call.spec.target(**constructor_attrs(call.spec, call.attrs))
            layer = layer.to(self._device).train(call.training)
            for kind in call.inputs[count:]:
                if kind.dtype.is_floating_point:
                    layer = layer.to(kind.dtype)
            return _Step(layer, values, list(layer.parameters()))
        made = apart_call(Item(0, "alone", call), 0)
        scope: dict[str, Any] = dict(made.scope)
        exec("".join(f"{text}\n" for text in made.helpers.values()), {"torch": torch}, scope)
        return _Step(runner(made.text, count, self._batch, self._device, None, scope), values)

    def _fused(self, call: Call, shared: Sequence[bool], size: int) -> _Step | None:
        images = any(len(t.shape) >= 4 for t in call.operands)
        forms = tuple(
            Form.PLAIN if s else Form.CHANNELS if images and len(t.shape) >= 4 else Form.MEMBERS
            for s, t in zip(shared, call.inputs, strict=True)
        )
        lowering = lower_group(Fusion(call, size, tuple(shared), forms))
        if lowering is None:
            return None
        values, text = [], lowering.text
        names = ("",) * len(call.operands) + call.state
        for i, (kind, asked, name) in enumerate(
            zip(call.inputs, lowering.inputs, names, strict=True)
        ):
            grows = not shared[i] and not self._is_buffer(call, name)
            if asked is Form.PLAIN or not shared[i]:
                values.append(
                    self._value(kind, None if asked is Form.PLAIN else (asked, size), grows)
                )
                continue
            values.append(self._value(kind, None, False))
            maker = "spread" if asked is Form.CHANNELS else "expand"
            text = text.replace(f"${i}", f"kernels.{maker}(${i}, {size})")
        streams = None
        if is_random(call):
            streams = [torch.Generator(self._device).manual_seed(i) for i in range(size)]
        return _Step(runner(text, len(values), self._batch, self._device, streams), values)

    def _is_buffer(self, call: Call, name: str) -> bool:
        if not name or call.spec.kind != "module":
            return False
        return module_state(call.op, call.attrs, TypeCache(self._batch))[name].kind == "buffer"

    def _value(
        self, kind: TensorType, stacked: tuple[Form, int] | None, grows: bool = True
    ) -> Tensor:
        """Normal numbers, or zeros where they are whole: an index that is always there."""
        shape = kind.shape
        if stacked is not None:
            form, size = stacked
            shape = (
                (size, *shape) if form is Form.MEMBERS else (shape[0], size * shape[1], *shape[2:])
            )
        if not (kind.dtype.is_floating_point or kind.dtype.is_complex):
            return torch.zeros(shape, dtype=kind.dtype, device=self._device)
        value = torch.randn(shape, dtype=kind.dtype, device=self._device)
        if stacked is not None and stacked[0] is Form.CHANNELS:
            value = kernels.images(value)
        elif stacked is not None:
            value = kernels.filters(value)
        return value.requires_grad_(grows)

    def _copying(self) -> Copying | None:
        """Pieces of images, since these are most of what is copied, and cost most."""

        def joining(side: int) -> tuple[float | None, int]:
            shape = (2 * side, 16, side, side)
            parts = [kernels.images(torch.randn(shape, device=self._device)) for _ in range(8)]
            for part in parts:
                part.requires_grad_()
            step = _Step(lambda *v: torch.cat(v, 1), parts)
            return self._median(step, self._cold), 8 * 4 * parts[0].numel()

        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            small, large = joining(2), joining(16)
        if small[0] is None or large[0] is None:
            return None
        byte = max(large[0] - small[0], 1e-9) / (2 * (large[1] - small[1]))
        return Copying(byte, max(small[0] - self._overhead(), 1e-7) / 8)


class _Step:
    """Forward and backward of one function.

    Args:
        function: what is measured.
        values: its arguments.
        parameters: what it reads besides, and is differentiated by.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        values: Sequence[Tensor],
        parameters: Sequence[Tensor] = (),
    ) -> None:
        self._function, self._values = function, values
        self._wanted = [t for t in (*values, *parameters) if t.requires_grad]
        self._grads = [torch.ones_like(t) for t in self.forward()]

    def forward(self) -> list[Tensor]:
        """The results that take gradients."""
        return [t for t in flat(self._function(*self._values)) if t.requires_grad]

    def touch(self) -> None:
        """Brings the results' gradients into the processor's caches."""
        for grad in self._grads:
            grad.add_(0)

    def backward(self, made: Sequence[Tensor]) -> None:
        """Differentiates by all that takes gradients."""
        if made:
            torch.autograd.grad(made, self._wanted, self._grads, allow_unused=True)
