"""Pass 3, layout: the order of members in each stacked tensor.

A group whose members lie in the order of their inputs reads a slice; any other order is a copy for
each run of neighbours. Orders are found as layered drawings are freed of crossings (Sugiyama et
al., 1981): sweeps forward (by where the inputs lie) and backward (by where results are read).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from retiarii.optimizer.plan import Group, OutputStack, Plan
from retiarii.optimizer.sums import inlinable, terms

_ROUNDS = 2
# Forests of more items are swept once: about 500 models.
_MOST = 40_000
# In place of an item, where a sum has no further term; and where that is sorted.
_NOTHING = -1
_LAST = (1 << 30, 0)


def layout(plan: Plan) -> Plan:
    """The plan with each group's members, and each output's models, in an order of few copies."""
    if all(len(g.members) == 1 for g in plan.groups):
        return plan
    return _Layout(plan).run()


def pieces(sources: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int, int]]:
    """Runs of neighbours: (value, result, start, stop), from (value, result, place) a member."""
    runs: list[tuple[int, int, int, int]] = []
    for value, result, place in sources:
        if runs and runs[-1][:2] == (value, result) and runs[-1][3] == place:
            runs[-1] = (value, result, runs[-1][2], place + 1)
        else:
            runs.append((value, result, place, place + 1))
    return runs


class _Layout:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        items = plan.forest.items
        self._orders: list[list[int]] = [list(g.members) for g in plan.groups]
        self._group_of = [-1] * len(items)
        self._sources: list[tuple[int, ...]] = [()] * len(items)  # the items that each reads
        sums = inlinable(plan)
        for g, group in enumerate(plan.groups):
            for m in group.members:
                self._group_of[m] = g
        # Sums that are computed where they are read have no place, and come last in their groups.
        self._orders = [[m for m in order if m not in sums] for order in self._orders]
        self._left = [[m for m in g.members if m in sums] for g in plan.groups]
        self._place = [0] * len(items)
        # For each group: the rows of what it reads that are neither shared nor leaves. Sums are
        # read as further rows, in which some members have nothing.
        self._reads: list[list[int]] = []
        for group, order in zip(plan.groups, self._orders, strict=True):
            rows: list[list[int]] = []
            for j, shared in enumerate(group.shared):
                first = items[group.members[0]].inputs[j].item
                if shared or items[first].leaf is not None:
                    continue
                listed = [terms(items[m].inputs[j], items, sums) for m in order]
                for row in range(max(map(len, listed), default=0)):
                    rows.append([t[row].item if row < len(t) else _NOTHING for t in listed])
            for place, m in enumerate(order):
                self._sources[m] = tuple(row[place] for row in rows)
            self._reads.append(list(range(len(rows))))
        self._readers: list[list[tuple[int, int]]] = [[] for _ in plan.groups]
        for g, order in enumerate(self._orders):
            for j in self._reads[g]:
                read = {self._sources[m][j] for m in order} - {_NOTHING}
                for source in {self._group_of[item] for item in read}:
                    self._readers[source].append((g, j))

    def run(self) -> Plan:
        self._rank_models()
        self._forward()
        best, kept = self._total(), [list(o) for o in self._orders]
        for _ in range(_ROUNDS if len(self._place) <= _MOST else 1):
            self._backward()
            self._forward()
            total = self._total()
            if total < best:
                best, kept = total, [list(o) for o in self._orders]
        self._orders = kept
        for g in range(len(kept)):
            self._settle(g)
        groups = [
            Group(g.call, (*order, *left), g.shared, g.no_grad, g.fused)
            for g, order, left in zip(self._plan.groups, kept, self._left, strict=True)
        ]
        outputs = [self._ordered(out) for out in self._plan.outputs]
        return Plan(self._plan.forest, tuple(groups), tuple(outputs))

    def _rank_models(self) -> None:
        """Models that take part in the same groups begin as neighbours."""
        items = self._plan.forest.items
        taken: dict[int, list[int]] = {}
        for g, order in enumerate(self._orders):
            for m in order:
                taken.setdefault(items[m].owner, []).append(g)
        ranked = {model: r for r, model in enumerate(sorted(taken, key=lambda k: (taken[k], k)))}
        for g, order in enumerate(self._orders):
            order.sort(key=lambda m: (ranked[items[m].owner], m))
            self._settle(g)

    def _settle(self, g: int) -> None:
        for place, m in enumerate(self._orders[g]):
            self._place[m] = place

    # --- sweeps -------------------------------------------------------------------------------

    def _forward(self) -> None:
        for g, order in enumerate(self._orders):
            if len(order) < 2 or not self._reads[g]:
                continue
            candidates = [order]
            for first in self._reads[g]:
                others = [j for j in self._reads[g] if j != first]
                candidates.append(sorted(order, key=lambda m: self._key(m, first, others)))
            self._orders[g] = min(candidates, key=lambda o: self._own_cost(g, o))
            self._settle(g)

    def _backward(self) -> None:
        for g in range(len(self._orders) - 1, -1, -1):
            order = self._orders[g]
            if len(order) < 2 or not self._readers[g]:
                continue
            best, found = self._cost_around(g), order
            for reader, j in self._readers[g]:
                by_reader = self._read_places(reader, j)
                missing = len(by_reader)
                tried = sorted(
                    order,
                    key=lambda m: (by_reader.get(m, missing), self._place[m]),
                )
                if tried == order:
                    continue
                self._orders[g] = tried
                self._settle(g)
                cost = self._cost_around(g)
                if cost < best:
                    best, found = cost, tried
            self._orders[g] = found
            self._settle(g)

    def _key(self, m: int, first: int, others: Sequence[int]) -> tuple[int, ...]:
        sources = self._sources[m]
        key: list[int] = []
        for j in (first, *others):
            item = sources[j]
            key += (self._group_of[item], self._place[item]) if item != _NOTHING else _LAST
        return (*key, self._place[m])

    def _read_places(self, reader: int, j: int) -> dict[int, int]:
        places: dict[int, int] = {}
        for place, m in enumerate(self._orders[reader]):
            places.setdefault(self._sources[m][j], place)
        return places

    # --- costs --------------------------------------------------------------------------------

    def _cost(self, order: Sequence[int], j: int) -> float:
        """Copies that input ``j`` takes: 0 for a whole value, else its runs, and a little."""
        sources, groups, place = self._sources, self._group_of, self._place
        runs, last_group, last_place = 0, -1, -2
        start = 0
        for m in order:
            item = sources[m][j]
            if item == _NOTHING:
                last_place = -2
                continue
            group, at = groups[item], place[item]
            if group != last_group or at != last_place + 1:
                runs += 1
                start = at
            last_group, last_place = group, at
        if runs != 1:
            return runs + 1.0 if runs else 0.0
        whole = start == 0 and len(self._orders[last_group]) == len(order)
        return 0.0 if whole else 0.5

    def _own_cost(self, g: int, order: Sequence[int]) -> float:
        return sum(self._cost(order, j) for j in self._reads[g])

    def _cost_around(self, g: int) -> float:
        return self._own_cost(g, self._orders[g]) + sum(
            self._cost(self._orders[reader], j) for reader, j in self._readers[g]
        )

    def _total(self) -> float:
        return sum(self._own_cost(g, order) for g, order in enumerate(self._orders))

    def _ordered(self, out: OutputStack) -> OutputStack:
        items = self._plan.forest.items

        def key(i: int) -> tuple[int, int, int]:
            port = out.ports[i]
            if items[port.item].leaf is not None:
                return -1, port.item, 0
            return self._group_of[port.item], port.result, self._place[port.item]

        order = sorted(range(len(out.ports)), key=key)
        return OutputStack(
            out.position,
            out.type,
            tuple(out.ports[i] for i in order),
            tuple(out.models[i] for i in order),
        )
