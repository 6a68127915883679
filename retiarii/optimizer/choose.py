"""Pass 4, choose: which groups pay on the device at hand, and whether merging does at all.

Measured times of one group (`measuring`) are added up to the time of a step: all fused, in part,
or call by call. What is measured differs a little from run to run: a kind of group is fused unless
something else is clearly better, and what was once chosen for a plan on a device is remembered, so
that the same cohort always becomes the same program.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil, prod
from typing import Any, Final

import torch

from retiarii.errors import RetiariiError
from retiarii.ir.analysis.remembering import Remembered
from retiarii.optimizer.allocator import keep_memory
from retiarii.optimizer.forest import SHARED, Forest
from retiarii.optimizer.gathering import gathered_call
from retiarii.optimizer.measuring import METHOD, Copying, Meter, budget
from retiarii.optimizer.plan import Group, Plan
from retiarii.optimizer.routes import Piece, route
from retiarii.optimizer.rules.base import Call
from retiarii.optimizer.sizes import calls_at
from retiarii.optimizer.storage import store
from retiarii.optimizer.sums import is_sum

# What is not this much better is left fused: measurements differ by less from run to run.
_CLEARLY: Final = 0.8
# The same where nothing was measured: the figures that are shipped are off by a factor of two.
_ROUGHLY: Final = 0.3
# What saves less of a step than this is not worth a group more.
_MATTERS: Final = 0.02
# Below so many seconds little can be measured: a longer training decides anew.
_BRIEF: Final = 2.0
_PARTS: Final = (1, 4, 16)
_LARGEST: Final = 64
# Bytes of activations that processors keep at hand.
_CACHED: Final = 32 << 20
_MOST_BYTES: Final = 1 << 29


@dataclass(frozen=True, slots=True)
class Choice:
    """What is fused.

    Attributes:
        fuse: whether anything is.
        reason: why.
        limits: kind of group (`kind_of`) -> the most members that are fused; no limit for others.
        serial: estimated seconds of one step of all models one after the other, without
            optimizers; ``None`` where nothing was measured.
        merged: the same of the merged step.
        kept: for each limit, what it is about.
    """

    fuse: bool
    reason: str
    limits: Mapping[str, int] = field(default_factory=dict)
    serial: float | None = None
    merged: float | None = None
    kept: tuple[str, ...] = ()

    @property
    def estimated_ratio(self) -> float | None:
        """How many times faster the merged step is."""
        if self.serial is None or self.merged is None or not self.merged:
            return None
        return self.serial / self.merged

    def __str__(self) -> str:
        return "\n".join([self.reason, *(f"  {line}" for line in self.kept)])

    def applied(self, plan: Plan) -> Plan:
        """The plan with its groups cut to their limits; their order stays."""
        if not self.limits:
            return plan
        groups: list[Group] = []
        for group in plan.groups:
            limit = self.limits.get(kind_of(group.call, group.shared), len(group.members))
            groups += [
                replace(group, members=group.members[i : i + limit])
                for i in range(0, len(group.members), limit)
            ]
        return replace(plan, groups=tuple(groups))


def kind_of(call: Call, shared: Sequence[bool]) -> str:
    """A name for all groups of one call, in training and in evaluation."""
    parts = (call.op, sorted(call.attrs.items()), list(map(str, call.inputs)), tuple(shared))
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def choose(
    lifted: Forest,
    plan: Plan,
    was: int,
    batch: int | None,
    device: torch.device,
    most: float = math.inf,
) -> Choice:
    """Decides for a plan, or remembers what was decided.

    Args:
        lifted: the models as they are, before anything was shared.
        plan: laid out; all that rules can is fused in it.
        was: the batch size of the example inputs.
        batch: the one that the models will be trained with; ``None``: the example's.
        device: where.
        most: seconds that measuring may take, where that is less than the budget.
    """
    seconds = min(budget(), most)
    if budget() == 0:
        return Choice(True, "all that can be is fused: measuring is off (RETIARII_MEASURE=0)")
    if all(len(g.members) == 1 for g in plan.groups):
        return Choice(True, "there is nothing to fuse: no two calls are alike")
    keep_memory()
    try:
        before, calls = (
            calls_at(lifted, was, batch or was),
            calls_at(plan.forest, was, batch or was),
        )
    except RetiariiError:  # models that take the example's batch size only
        before, calls = calls_at(lifted, was, was), calls_at(plan.forest, was, was)
        batch = was
    with Remembered("fusion") as cache:
        cold = sum(_results(c) for c in calls) > _CACHED
        meter = Meter(device, batch or was, cache, seconds, cold)
        estimate = _Estimate(before, lifted, plan, calls, meter)
        key = estimate.key(batch or was, seconds < _BRIEF)
        found = _read(cache.read(key))
        if found is None:
            found = _read(cache.settle(key, asdict(estimate.choice())))
    assert found is not None
    return found


def _read(value: Any) -> Choice | None:
    try:
        return Choice(
            bool(value["fuse"]),
            str(value["reason"]),
            {str(k): int(v) for k, v in value["limits"].items()},
            _number(value["serial"]),
            _number(value["merged"]),
            tuple(map(str, value["kept"])),
        )
    except (TypeError, KeyError, ValueError, AttributeError):
        return None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


class _Estimate:
    def __init__(
        self,
        before: Sequence[Call],
        lifted: Forest,
        plan: Plan,
        calls: Sequence[Call],
        meter: Meter,
    ) -> None:
        self._plan, self._calls, self._meter = plan, calls, meter
        self._cold = sum(map(_results, before)) > _CACHED * lifted.models
        self._alone = Counter(
            call
            for call, item in zip(before, lifted.items, strict=True)
            if item.leaf is None and call.op != "opaque"
        )
        self._kinds: dict[str, list[Group]] = {}
        for group in plan.groups:
            if group.call.op != "opaque":
                self._kinds.setdefault(kind_of(group.call, group.shared), []).append(group)

    def key(self, batch: int, brief: bool) -> str:
        """What the choice depends on."""
        parts = {
            "choice": METHOD,
            "meter": self._meter.name,
            "batch": batch,
            "brief": brief,
            "plan": [(kind_of(g.call, g.shared), len(g.members)) for g in self._plan.groups],
            "pieces": self._pieces(self._plan),
            "alone": sorted((kind_of(c, ()), n) for c, n in self._alone.items()),
        }
        digest = hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16)
        return f"choice {digest.hexdigest()}"

    def choice(self) -> Choice:
        """What to fuse."""
        found = self._choice()
        if not self._meter.consistent():
            return found
        found = self._choice()
        if self._meter.measures:
            return found
        # Good enough to choose by, and too rough to be told.
        reason = "fused" if found.fuse else "nothing is fused: it would not pay"
        return replace(found, reason=f"{reason}, by rough figures", serial=None, merged=None)

    def _choice(self) -> Choice:
        copying = self._meter.copying()
        # What takes longest is measured first: the budget may end.
        kinds = sorted(self._kinds, key=lambda k: -self._weight(self._kinds[k]))
        whole, single = {}, {}
        for kind in kinds:
            groups = self._kinds[kind]
            whole[kind], single[kind] = self._fused(groups), self._parts(groups, 1)
            self._meter.alone(self._calls[groups[0].members[0]], self._cold)
        serial = sum(n * self._meter.alone(c, self._cold) for c, n in self._alone.items())
        limits: dict[str, int] = {}
        kept: list[str] = []
        for kind in kinds:
            limit, seconds = self._limit(kind, whole[kind], single[kind], serial, copying)
            if limit is not None:
                limits[kind] = limit
                kept.append(self._about(kind, limit, whole[kind], seconds))
            whole[kind] = seconds
        chosen = Choice(True, "", limits)
        merged = sum(whole.values()) + self._moving(chosen.applied(self._plan), copying)
        unfused = sum(single.values())
        took = f"{_ms(merged)} a step, {_ms(serial)} one by one"
        clearly = _CLEARLY if self._meter.measures else _ROUGHLY
        if serial < clearly / _CLEARLY * merged or unfused < clearly * merged:
            return Choice(
                False,
                f"nothing is fused: it would not pay ({took}, both estimated)",
                {},
                serial,
                min(unfused, serial),
            )
        part = f", but for {len(limits)} kind{'s' * (len(limits) > 1)} of calls" if limits else ""
        reason = f"fused{part}: {took}, {serial / merged:.1f} times faster, as estimated"
        return Choice(True, reason, limits, serial, merged, tuple(kept))

    # --- groups -------------------------------------------------------------------------------

    def _limit(
        self, kind: str, whole: float, single: float, serial: float, copying: Copying
    ) -> tuple[int | None, float]:
        """The most members to fuse, where there is to be a limit, and what the kind then takes."""
        groups = self._kinds[kind]
        call = self._calls[groups[0].members[0]]
        best: tuple[int | None, float] = (None, whole)
        for limit in _PARTS:
            several = [g for g in groups if len(g.members) > limit]
            if not several:
                break
            moved = sum(len(g.members) for g in several)
            pieces = sum(ceil(len(g.members) / limit) for g in several)
            seconds = single if limit == 1 else self._parts(groups, limit)
            seconds += 2 * (moved * _bytes(call) * copying.byte + pieces * copying.piece)
            clearly = _CLEARLY if self._meter.measures else _ROUGHLY
            if seconds < min(clearly * whole, best[1]) and whole - seconds > _MATTERS * serial:
                best = limit, seconds
        return best

    def _fused(self, groups: Sequence[Group]) -> float:
        return sum(self._seconds(g, len(g.members)) for g in groups)

    def _parts(self, groups: Sequence[Group], limit: int) -> float:
        total = 0.0
        for g in groups:
            full, rest = divmod(len(g.members), limit)
            total += full * self._seconds(g, limit) if full else 0.0
            total += self._seconds(g, rest) if rest else 0.0
        return total

    def _seconds(self, group: Group, size: int) -> float:
        """Measured at powers of two, and between them by the straight line."""
        call, shared = self._calls[group.members[0]], group.shared
        least = 1 << (size.bit_length() - 1)
        most = max(1, min(_LARGEST, _MOST_BYTES // max(_bytes(call), 1)))
        if not group.fused:
            return size * self._meter.alone(call, self._cold)
        if least >= most:
            largest = 1 << (most.bit_length() - 1)
            return self._meter.fused(call, shared, largest) * size / largest
        low = self._meter.fused(call, shared, least)
        if size == least:
            return low
        high = self._meter.fused(call, shared, 2 * least)
        return low + (high - low) * (size - least) / least

    def _weight(self, groups: Sequence[Group]) -> float:
        return _bytes(self._calls[groups[0].members[0]]) * sum(len(g.members) for g in groups)

    def _about(self, kind: str, limit: int, whole: float, seconds: float) -> str:
        groups = self._kinds[kind]
        call = self._calls[groups[0].members[0]]
        count = sum(len(g.members) for g in groups)
        how = "one by one" if limit == 1 else f"{limit} at a time"
        shapes = ", ".join(str(t) for t in call.inputs[:2])
        return f"{count} x {call.op}({shapes}) {how}: {_ms(seconds)}, fused {_ms(whole)}"

    # --- copies -------------------------------------------------------------------------------

    def _pieces(self, plan: Plan) -> int:
        return sum(len(found) for found in route(plan, store(plan)).inputs.values())

    def _moving(self, plan: Plan, copying: Copying) -> float:
        """Seconds of bringing members together, and of adding up their gradients."""
        items = plan.forest.items
        routes = route(plan, store(plan))
        moved = pieces = 0
        for (g, _), found in routes.inputs.items():
            group = plan.groups[g]
            if len(found) < 2 or items[group.members[0]].owner == SHARED:
                continue
            pieces += len(found)
            names = [["a", "b"]] * len(group.call.operands)
            added = is_sum(items[group.members[0]], items)
            if not added and gathered_call(0, names, group.call) is None:
                moved += 2 * self._size(plan, found)
        for source, needs in routes.needs.items():
            if source.stack is None and len(needs) > 1:
                call = self._calls[plan.groups[source.group].members[0]]
                moved += sum(b - a for a, b in needs) * _size(call.results[source.result])
        return moved * copying.byte + 2 * pieces * copying.piece

    def _size(self, plan: Plan, found: Sequence[Piece]) -> int:
        total = 0
        for piece in found:
            if piece.source.stack is None:
                call = self._calls[plan.groups[piece.source.group].members[0]]
                total += (piece.stop - piece.start) * _size(call.results[piece.source.result])
        return total


def _size(kind: Any) -> int:
    return int(prod(kind.shape) * kind.dtype.itemsize)


def _results(call: Call) -> int:
    return sum(map(_size, call.results))


def _bytes(call: Call) -> int:
    """Bytes of one member's operands and results."""
    return sum(map(_size, (*call.operands, *call.results)))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
