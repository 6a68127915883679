"""The nodes of a graph, their users and their order, and the reversible steps of an edit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

from retiarii.errors import GraphError, nearest
from retiarii.ir.claims import Claim, bound, reach_of
from retiarii.ir.context import FixedSize, GraphContext
from retiarii.ir.edit.order import Order
from retiarii.ir.edit.transaction import Transaction
from retiarii.ir.node import NodeRecord
from retiarii.ir.reach import Reach
from retiarii.ir.reads import NoReads
from retiarii.ir.types import Ref, Result, TensorType

# Stands among a node's users for the graph's outputs.
_OUTPUT = ""


class Structure:
    """What passes and edits work on; `Graph` is its public face."""

    def __init__(self, context: GraphContext) -> None:
        self.context = context
        self.reads = NoReads()
        self.order = Order()
        self.output_structure: Any = Result(0)
        self._records: dict[str, NodeRecord] = {}
        self._users = {}
        self._outputs: tuple[Ref, ...] = ()
        self._inputs: tuple[str, ...] = ()
        self._twins: Mapping[str, tuple[str, ...]] = {}
        self._suffix: dict[str, int] = {}
        self._sizes = context.sizes
        self._claims: tuple[Claim, ...] = ()
        # Records of nodes that claims are about and that nothing used.
        self._gone: Mapping[str, NodeRecord] = {}
        self._reach: Reach | None = None
        self.claimed: list[Claim] | None = None
        self.under_edit: Transaction | None = None

    @cached_property
    def _users(self) -> dict[str, dict[str, int]]:
        """Who reads each node, and how often; counted when that is asked first."""
        users: dict[str, dict[str, int]] = {name: {} for name in self._records}
        for name, record in self._records.items():
            for ref in record.inputs:
                of = users[ref.node]
                of[name] = of.get(name, 0) + 1
        for ref in self._outputs:
            of = users[ref.node]
            of[_OUTPUT] = of.get(_OUTPUT, 0) + 1
        return users

    def _copy_to(self, twin: Structure) -> None:
        twin.order = self.order.copy()
        twin.output_structure = self.output_structure
        twin._records = self._records.copy()
        if "_users" in self.__dict__:
            # Inner dicts are replaced, never changed: see _count_user.
            twin._users = self._users.copy()
        else:
            del twin._users
        twin._outputs = self._outputs
        twin._inputs = self._inputs
        twin._twins = self._twins
        twin._suffix = self._suffix.copy()
        twin._sizes, twin._claims, twin._gone = self._sizes, self._claims, self._gone
        if self._reach is not None:
            twin._reach = self._reach.copy(twin.record)

    # --- reading -----------------------------------------------------------------------------

    @property
    def sizes(self) -> tuple[FixedSize, ...]:
        """Sizes of inputs, other than the batch, that the graph holds for one value of only."""
        self.settle_claims()
        return self._sizes

    def settle_claims(self) -> None:
        """Works out which sizes of inputs claims fix, while the nodes are as they were then."""
        if self._claims:
            records, gone = self._records, self._gone
            reach = self._new_reach(lambda name: records.get(name) or gone[name])
            self._sizes = bound(self._sizes, self._claims, reach)
            self._claims, self._gone = (), {}

    def record(self, name: str) -> NodeRecord:
        """The record of that name.

        Raises:
            GraphError: there is none.
        """
        try:
            return self._records[name]
        except KeyError:
            raise GraphError(
                f"node {name!r} is not in the graph (it was removed, or is of another graph)",
                fix=self.suggest(name),
            ) from None

    @property
    def suffixes(self) -> Mapping[str, int]:
        """The last number put behind each name that was taken."""
        return self._suffix

    def output_refs(self) -> tuple[Ref, ...]:
        return self._outputs

    def input_types(self, record: NodeRecord) -> tuple[TensorType, ...]:
        """The types of what the node reads."""
        return tuple([self._records[ref.node].types[ref.index] for ref in record.inputs])

    def users_of(self, name: str) -> list[str]:
        """The names of the nodes that read from it, in topological order."""
        users = [u for u in self._users.get(name, ()) if u != _OUTPUT]
        return sorted(users, key=self.order.key) if len(users) > 1 else users

    def is_used(self, name: str) -> bool:
        return bool(self._users.get(name))

    def used_beyond(self, name: str, users: frozenset[str]) -> bool:
        """Whether anything reads from it but these nodes; the graph's outputs count."""
        return not self._users.get(name, {}).keys() <= users

    def twins_of(self, record: NodeRecord) -> list[str]:
        """The other calls of the module that the node calls."""
        names = self._twins.get(record.path, ()) if record.path is not None else ()
        return [n for n in names if n != record.name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __len__(self) -> int:
        return len(self._records)

    def suggest(self, name: str) -> str:
        """What to say to somebody who named a node that is not there."""
        inside = [n for n in self.order if n.startswith(name + ".")]
        if inside:
            shown = ", ".join(repr(n) for n in inside[:4]) + (", ..." if len(inside) > 4 else "")
            return f"{name!r} is a container; name a node in it ({shown}), or all: '{name}.*'"
        return nearest(name, list(self._records), "names")

    def settle(self) -> None:
        """Infers what edits under way made stale; shapes that do not fit stay as they were."""
        if self.under_edit is not None and self.under_edit.unsettled:
            self.under_edit.settle(strict=False)

    def settled(self, name: str) -> NodeRecord:
        """The record, with types that are up to date."""
        self.settle()
        return self.record(name)

    @property
    def transaction(self) -> Transaction:
        """The edit under way (for the functions that make up edits)."""
        assert self.under_edit is not None
        return self.under_edit

    # --- the steps that edits are made of; each can be undone ---------------------------------

    def put(self, record: NodeRecord) -> None:
        """Exchanges the record of that name for one with the same inputs."""
        old = self._records[record.name]
        self._put(record)
        self.transaction.on_undo(lambda: self._put(old))

    def claim(self, claims: Iterable[Claim]) -> None:
        """From now on, these sizes must be as they are (or only notes them, in `claimed`)."""
        if self.claimed is not None:
            self.claimed += claims
            return
        self.settle()
        if self._reach is None:
            self._reach = self._new_reach(self.record)
        old = self.sizes
        self._sizes = bound(old, claims, self._reach)
        self.transaction.on_undo(lambda: setattr(self, "_sizes", old))

    def put_inputs(self, name: str, inputs: tuple[Ref, ...]) -> None:
        """Exchanges the inputs of a node, keeping the order topological.

        Raises:
            GraphError: it would make a cycle.
        """
        old = self._records[name]
        self.transaction.remember_inputs(old)
        for ref in inputs:
            moved = self.order.put_before(ref.node, name, self.users_of)
            if moved is None:
                raise GraphError(
                    f"node {name!r} would follow from itself: {ref.node!r} depends on it",
                    where=f"node {name!r}",
                    fix="rewire only the users that were there before "
                    "(users = target.users, then graph.rewire for each)",
                )
            if moved:
                self.transaction.on_undo(partial(self.order.put_back, moved))
        record = old.with_(inputs=inputs)
        self._swap_inputs(old, record)
        self.transaction.on_undo(lambda: self._swap_inputs(record, old))
        self.transaction.touch(name)

    def put_outputs(self, outputs: tuple[Ref, ...]) -> None:
        old = self._outputs
        self._set_outputs(outputs)
        self.transaction.on_undo(lambda: self._set_outputs(old))

    def add(self, record: NodeRecord) -> None:
        """Adds a record directly behind the last of its inputs."""
        anchor = max(
            (ref.node for ref in record.inputs), key=self.order.key, default=self._last_input()
        )
        self._add(record, anchor)
        self.transaction.on_undo(lambda: self._drop(record.name))

    def drop(self, name: str) -> None:
        """Takes out a node that nothing uses."""
        record = self._records[name]
        before = self.order.previous(name)
        self._drop(name)
        self.transaction.on_undo(lambda: self._add(record, before))

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives nodes other names (old -> new, the new ones free); what reads them follows."""
        back = {new: old for old, new in names.items()}
        self._rename(names)
        self.transaction.renamed(names)

        def undo() -> None:
            self._rename(back)
            self.transaction.renamed(back)

        self.transaction.on_undo(undo)

    def put_context(self, context: GraphContext) -> None:
        """Exchanges what the graph shares with its copies, for this graph alone."""
        old = self.context
        self.context = context
        self.transaction.on_undo(lambda: setattr(self, "context", old))

    def put_twins(self, twins: Mapping[str, tuple[str, ...]]) -> None:
        """Exchanges which nodes are calls of one module: path -> names."""
        old = self._twins
        self._twins = twins
        self.transaction.on_undo(lambda: setattr(self, "_twins", old))

    @property
    def twins(self) -> Mapping[str, tuple[str, ...]]:
        """Which nodes are calls of one module: path -> names, where it has several."""
        return self._twins

    def free_name(self, wanted: str) -> str:
        """``wanted``, or with a number behind it where it is taken."""
        if wanted not in self._records:
            return wanted
        number = self._suffix.get(wanted, 0)
        while True:
            number += 1
            if f"{wanted}_{number}" not in self._records:
                self._suffix[wanted] = number
                return f"{wanted}_{number}"

    def _put(self, record: NodeRecord) -> None:
        self._records[record.name] = record
        self._forget(record.name)

    def _new_reach(self, record_of: Callable[[str], NodeRecord]) -> Reach:
        return reach_of(map(self.record, self._inputs), self.context.batch, record_of)

    def _forget(self, name: str) -> None:
        if self._reach is not None:
            self._reach.forget(name, self.users_of)

    def _add(self, record: NodeRecord, anchor: str | None) -> None:
        self.order.insert_after(record.name, anchor)
        self._records[record.name] = record
        for ref in record.inputs:
            self._count_user(ref.node, record.name, 1)

    def _drop(self, name: str) -> None:
        self._forget(name)
        record = self._records.pop(name)
        self.order.remove(name)
        for ref in record.inputs:
            self._count_user(ref.node, name, -1)

    def _rename(self, names: Mapping[str, str]) -> None:
        def moved(ref: Ref) -> Ref:
            return Ref(names.get(ref.node, ref.node), ref.index)

        self._reach = None
        readers = {user for old in names for user in self.users_of(old)} | set(names)
        for old, new in names.items():
            self.order.insert_after(new, old)
            self.order.remove(old)
            self._records[new] = self._records.pop(old).with_(name=new)
            self._users[new] = self._users.pop(old, {})
        for reader in readers:
            name = names.get(reader, reader)
            record = self._records[name]
            inputs = tuple(moved(ref) for ref in record.inputs)
            if inputs != record.inputs:
                self._records[name] = record.with_(inputs=inputs)
            for ref in inputs:
                users = self._users[ref.node]
                self._users[ref.node] = {names.get(u, u): n for u, n in users.items()}
        self._outputs = tuple(moved(ref) for ref in self._outputs)
        self._inputs = tuple(names.get(name, name) for name in self._inputs)

    def _swap_inputs(self, old: NodeRecord, new: NodeRecord) -> None:
        self._records[new.name] = new
        for ref in new.inputs:
            self._count_user(ref.node, new.name, 1)
        for ref in old.inputs:
            self._count_user(ref.node, old.name, -1)
        self._forget(new.name)

    def _set_outputs(self, outputs: tuple[Ref, ...]) -> None:
        for ref in outputs:
            self._count_user(ref.node, _OUTPUT, 1)
        for ref in self._outputs:
            self._count_user(ref.node, _OUTPUT, -1)
        self._outputs = outputs

    def _count_user(self, name: str, user: str, change: int) -> None:
        # Copies share the inner dicts, so they are replaced; a node's users are few.
        users = dict(self._users.get(name, ()))
        users[user] = users.get(user, 0) + change
        if not users[user]:
            del users[user]
        self._users[name] = users

    def _last_input(self) -> str | None:
        return self._inputs[-1] if self._inputs else None

    def _check_ref(self, ref: Ref, where: str) -> None:
        if ref.node not in self._records:
            raise GraphError(
                f"{ref.node!r} is read, but no earlier node is called so",
                where=where,
                fix="put the nodes in topological order",
            )
        if not 0 <= ref.index < len(self._records[ref.node].types):
            raise GraphError(
                f"{ref.node!r} has no result number {ref.index}",
                where=where,
                fix=f"it makes {len(self._records[ref.node].types)}",
            )
