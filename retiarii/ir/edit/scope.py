"""``with graph.edits():`` and the scope of each single edit."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Literal

from retiarii.ir.edit.transaction import Mark, Transaction

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph


class EditScope:
    """A transaction of its own, or a part of the one under way, which an error takes back alone.

    A class, since a search opens hundreds of thousands: generators cost three times as much.
    """

    __slots__ = ("_graph", "_mark", "_single")

    def __init__(self, graph: Graph, *, single: bool) -> None:
        self._graph = graph
        self._single = single
        self._mark: Mark | None = None

    def __enter__(self) -> Graph:
        graph = self._graph
        if graph.under_edit is None:
            graph.settle_claims()
            graph.under_edit = Transaction(graph, single=self._single)
        else:
            self._mark = graph.under_edit.mark()
        return graph

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        graph = self._graph
        transaction = graph.transaction
        if self._mark is not None:
            if kind is not None:
                transaction.roll_back(self._mark)
            return False
        try:
            if kind is None:
                transaction.prune()
                transaction.settle(strict=True)
            else:
                transaction.roll_back()
        except BaseException:
            transaction.roll_back()
            raise
        finally:
            graph.under_edit = None
        return False
