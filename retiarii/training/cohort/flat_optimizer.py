"""What all flat optimizers share: values per model, skipped models, and states in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from retiarii.training.cohort.arithmetic import add_scaled
from retiarii.training.cohort.blocks import Region
from retiarii.training.cohort.counts import Counts
from retiarii.training.cohort.stacks import FlatGradient, FlatParameters, expanded
from retiarii.training.optimizers import Optimizer

Rates = Sequence[float] | Tensor
Number = float | Tensor


class CohortOptimizer(ABC):
    """Updates the weights of all models of a cohort in one step."""

    @abstractmethod
    def step(self, grad: FlatGradient, lr: Rates, skip: Tensor | None = None) -> None:
        """Update all weights.

        Args:
            grad: of every model; it is left as it is.
            lr: each model's learning rate. A ``[K]`` tensor on the parameters' device for a step
                that is captured in a CUDA graph; otherwise plain numbers, which are cheaper when
                they agree.
            skip: bool ``[K]``: models of which no bit changes, neither weights nor state. It may
                be known to the device alone: nothing waits for it.
        """

    @abstractmethod
    def state_of(self, model: int) -> dict[int, dict[str, Any]]:
        """A model's state as its own ``torch.optim`` optimizer has it under ``"state"``.

        The keys are indices of the model's parameters in its own order. Tensors are copies on the
        device. Waits for the device.
        """

    @abstractmethod
    def load_state_of(self, model: int, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Take over a model's state, as :meth:`state_of` or ``torch.optim`` gives it.

        Parameters that are not in it begin afresh.

        Raises:
            ValueError: it does not fit the model's parameters or its optimizer.
        """

    @abstractmethod
    def tensors(self) -> Iterable[Tensor]:
        """All state tensors, for what counts memory."""


class Setting:
    """A hyper-parameter, one value a model; spread over the elements when a kernel needs it."""

    def __init__(self, flat: FlatParameters, values: Iterable[float]) -> None:
        self.values = tuple(float(v) for v in values)
        self.vector: Number = flat.vector(self.values)
        self._elements: dict[int, Number] = {}

    @property
    def any(self) -> bool:
        """Whether it is other than 0 for any model."""
        return any(v != 0 for v in self.values)

    def on(self, part: Part) -> Number:
        if part.index not in self._elements:
            self._elements[part.index] = expanded(part.region, self.vector, part.data)
        return self._elements[part.index]


class Flag:
    """A yes or no, one a model."""

    def __init__(self, values: Iterable[bool]) -> None:
        self.values = tuple(bool(v) for v in values)
        self.any = any(self.values)
        self.mixed = self.any and not all(self.values)
        self._masks: dict[int, Tensor] = {}

    def choose(self, part: Part, yes: Tensor, no: Tensor) -> Tensor:
        """``yes`` for the elements of models that have it, ``no`` for the others."""
        if not self.mixed:
            return yes if self.any else no
        if part.index not in self._masks:
            chosen = torch.tensor(self.values, device=part.region.device)
            self._masks[part.index] = part.region.expand(chosen)
        return torch.where(self._masks[part.index], yes, no)


class Part:
    """One region of the parameters, and an optimizer's state for it.

    Attributes:
        index: among all parts.
        block: the index of the block that it is in.
        data: its weights, as :meth:`Region.of` gives them.
        counts: steps done, for each of its segments.
        states: its part of each state tensor.
    """

    def __init__(self, index: int, block: int, region: Region, data: Tensor, captured: bool):
        self.index = index
        self.block = block
        self.region = region
        self.data = region.of(data)
        self.counts = Counts(region.segments, data.device, captured)
        self.states: dict[str, Tensor] = {}
        self._reads = data.device.type == "cpu" and not captured
        self._remembered: dict[str, tuple[Any, Any]] = {}

    def remember(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gave when it was last called, if ``key`` is the same; ``None`` is not."""
        last = self._remembered.get(name)
        if key is None or last is None or last[0] != key:
            last = self._remembered[name] = (key, make())
        return last[1]

    def level(self, *values: Number) -> tuple[Number, ...]:
        """Numbers per model, brought to where the counts are: per segment if these differ."""
        if self.counts.common is not None:
            return values
        return tuple(self.region.to_segments(v) if isinstance(v, Tensor) else v for v in values)

    @property
    def count(self) -> Number:
        """Steps done, as :meth:`level` has it."""
        common = self.counts.common
        return self.counts.values if common is None else common

    def spread(self, value: Number) -> Number:
        """What was computed from levelled numbers, for each element."""
        if not isinstance(value, Tensor):
            return value
        value = value.to(self.data.dtype)
        if self.counts.common is not None:
            return self.region.expand(value)
        return self.region.expand_segments(value)

    def hold(self, active: Tensor) -> Callable[[], None]:
        """Remember what is not active (bool ``[segments]``); returns what puts it back."""
        tensors = [self.data, *self.states.values()]
        mask = self.region.expand_segments(active)
        if self._reads:
            # Only what is to be kept is copied. How much that is, a GPU would have to be asked.
            kept = (~mask).flatten().nonzero().squeeze(1)
            parts = [t.index_select(0, kept) for t in tensors]
            return partial(_copy_back, tensors, parts, kept)
        before = [t.clone() for t in tensors]
        return partial(_put_back, tensors, before, mask)


def _put_back(tensors: Sequence[Tensor], before: Sequence[Tensor], active: Tensor) -> None:
    for now, old in zip(tensors, before, strict=True):
        torch.where(active, now, old, out=now)


def _copy_back(tensors: Sequence[Tensor], parts: Sequence[Tensor], rows: Tensor) -> None:
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.index_copy_(0, rows, part)


class FlatOptimizer(CohortOptimizer):
    """Base of the optimizers of one class.

    Args:
        flat: the parameters.
        descriptions: each model's optimizer, every choice in it made, all of one class. Each field
            may differ from model to model.
        captured: keep on the device whatever changes from step to step, as a CUDA graph needs it.
    """

    # Whether torch's state holds the number of steps; and whether it is there before the first.
    COUNTED: ClassVar[bool] = True
    EAGER: ClassVar[bool] = False

    def __init__(
        self, flat: FlatParameters, descriptions: Sequence[Optimizer], captured: bool = False
    ) -> None:
        self._flat = flat
        self._captured = captured
        self._descriptions = tuple(descriptions)
        self._rate: tuple[tuple[float, ...], Number] | None = None
        self._maximize = Flag(self._field("maximize"))
        decay: list[float] = self._field("weight_decay")
        self._decay = Setting(flat, decay)
        self._decays = Flag(v != 0 for v in decay)
        regions = [(b, r) for b, block in enumerate(flat.blocks) for r in block.regions]
        self.parts = [
            Part(i, b, region, flat.blocks[b].data, captured)
            for i, (b, region) in enumerate(regions)
        ]
        self._prepare()
        self._states = {
            name: [torch.zeros_like(block.data) for block in flat.blocks]
            for name in self._state_names()
        }
        for part in self.parts:
            for name, tensors in self._states.items():
                part.states[name] = part.region.of(tensors[part.block])
                self._reset(part, name)

    def _field(self, name: str) -> list[Any]:
        return [getattr(d, name) for d in self._descriptions]

    def _setting(self, name: str) -> Setting:
        return Setting(self._flat, self._field(name))

    # --- what each class says ---------------------------------------------------------------------

    @abstractmethod
    def _prepare(self) -> None:
        """Read the fields."""

    @abstractmethod
    def _state_names(self) -> list[str]:
        """The names, as torch has them, of the state tensors that any of the models needs."""

    @abstractmethod
    def _holds(self, name: str, model: int) -> bool:
        """Whether torch's optimizer of this model has that state tensor."""

    @abstractmethod
    def _update(self, part: Part, grad: Tensor, lr: Number, key: Any) -> None:
        """One step of a block, its counts being advanced already.

        ``lr`` is a number or float64 ``[K]``; ``key`` is equal for equal rates, or ``None``.
        """

    def _initial(self, name: str) -> list[float] | None:
        """What a state tensor begins with, for each model; ``None`` for zeros."""
        del name
        return None

    # --- the step ---------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, grad: FlatGradient, lr: Rates, skip: Tensor | None = None) -> None:
        looks = skip is not None and skip.device.type == "cpu" and not self._captured
        if skip is not None and looks and not bool(skip.any()):
            # Looking costs nothing on a CPU, and nothing needs to be put back.
            skip = None
        rate, key = self._rates(lr)
        for part in self.parts:
            active = _active(part, None if grad.present is None else grad.present[part.block], skip)
            restore = None if active is None else part.hold(active)
            part.counts.advance(active)
            self._update(part, part.region.of(grad.tensors[part.block]), rate, key)
            if restore is not None:
                restore()

    def _rates(self, lr: Rates) -> tuple[Number, Any]:
        if isinstance(lr, Tensor):
            return lr.to(torch.float64), None
        key = tuple(float(v) for v in lr)
        if self._rate is None or self._rate[0] != key:
            self._rate = (key, self._flat.vector(key))
        return self._rate[1], key

    def _ascending(self, part: Part, grad: Tensor) -> Tensor:
        return self._maximize.choose(part, -grad, grad) if self._maximize.any else grad

    def _decayed(self, part: Part, grad: Tensor) -> Tensor:
        """The gradient with the weights' decay added to it."""
        if not self._decays.any:
            return grad
        added = add_scaled(grad, part.data, self._decay.on(part))
        # Not by a factor of 0: that would make NaN of a weight that is infinite.
        return self._decays.choose(part, added, grad)

    def _descent(self, part: Part, lr: Number, key: Any) -> Number:
        """Minus the learning rate, for each element."""
        found: Number = part.remember("lr", key, lambda: expanded(part.region, -lr, part.data))
        return found

    # --- states in and out ------------------------------------------------------------------------

    def tensors(self) -> Iterable[Tensor]:
        return [t for tensors in self._states.values() for t in tensors]

    def _reset(self, part: Part, name: str) -> None:
        values = self._initial(name)
        if values is not None and any(values):
            found = expanded(part.region, self._flat.vector(values), part.data)
            state = part.states[name]
            state.copy_(found) if isinstance(found, Tensor) else state.fill_(found)

    def state_of(self, model: int) -> dict[int, dict[str, Any]]:
        counts = self._step_counts()
        found: dict[int, dict[str, Any]] = {}
        for index, slot in enumerate(self._flat.slots[model]):
            count = counts[slot.block][slot.segment]
            if count == 0 and not self.EAGER:
                continue
            entry: dict[str, Any] = {"step": torch.tensor(count)} if self.COUNTED else {}
            for name in self._state_names():
                if self._holds(name, model):
                    entry[name] = self._flat.member(self._states[name], slot).clone()
            if entry:
                found[index] = entry
        return found

    @torch.no_grad()
    def load_state_of(self, model: int, state: Mapping[int, Mapping[str, Any]]) -> None:
        slots = self._flat.slots[model]
        if any(not 0 <= index < len(slots) for index in state):
            raise ValueError(
                f"the state is of parameters {sorted(state)}, and the model has {len(slots)}"
            )
        held = [name for name in self._state_names() if self._holds(name, model)]
        counts: list[dict[int, float]] = [{} for _ in self._flat.blocks]
        for index, slot in enumerate(slots):
            entry = {k: v for k, v in state.get(index, {}).items() if v is not None}
            expected = {*held, "step"} if self.COUNTED else set(held)
            if entry and entry.keys() != expected:
                raise ValueError(
                    f"the state of parameter {index} holds {sorted(entry)}, not {sorted(expected)}"
                )
            for name in held:
                ours = self._flat.member(self._states[name], slot)
                if entry and entry[name].shape != ours.shape:
                    raise ValueError(
                        f"{name} of parameter {index} has shape {tuple(entry[name].shape)}, "
                        f"not {tuple(ours.shape)}"
                    )
                begin = self._initial(name)
                ours.copy_(entry[name]) if entry else ours.fill_(begin[model] if begin else 0.0)
            steps = float(entry["step"]) if "step" in entry else float(bool(entry))
            counts[slot.block][slot.segment] = steps
        for part in self.parts:
            first, known = part.region.first_segment, counts[part.block]
            local = range(part.region.segments)
            part.counts.set({s: known[first + s] for s in local if first + s in known})

    def _step_counts(self) -> list[list[float]]:
        """Steps done, for each block and segment."""
        found: list[list[float]] = [[] for _ in self._flat.blocks]
        for part in self.parts:
            found[part.block].extend(part.counts.values.tolist())
        return found


def _active(part: Part, present: tuple[bool, ...] | None, skip: Tensor | None) -> Tensor | None:
    """The segments that are updated: bool ``[segments]``; ``None`` for all."""
    active: Tensor | None = None
    region = part.region
    if present is not None:
        own = present[region.first_segment : region.first_segment + region.segments]
        if not all(own):
            make = partial(torch.tensor, own, device=region.device)
            active = part.remember("present", own, make)
    if skip is not None:
        wanted = ~region.to_segments(skip.to(region.device))
        active = wanted if active is None else active & wanted
    return active
