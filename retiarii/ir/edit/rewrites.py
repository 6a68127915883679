"""The larger edits and questions of `Graph`; each kind is in a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from retiarii.ir.edit.edges import Edge
    from retiarii.ir.edit.matching import Match
    from retiarii.ir.edit.outlining import HasPath, Nodes, Replaced
    from retiarii.ir.edit.scope import EditScope
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import Node, Value


class Rewrites:
    """Each edit is one: it leaves a graph that verifies, or raises and changes nothing."""

    __slots__ = ()

    def _editing(self) -> tuple[Graph, EditScope]:
        graph = cast("Graph", self)
        return graph, graph._edit()

    # --- edges -------------------------------------------------------------------------------

    def insert_on_edge(
        self, edge: Edge, what: Any, *inputs: Any, name: str | None = None, **attrs: Any
    ) -> Node:
        """Inserts what ``what(value, *inputs)`` computes between a value and its users.

        Args:
            edge: a value (or a node that makes one): all that reads it, the model's outputs too,
                reads the new node instead. Or ``(node, input_index)``: that input alone does.
            what: as for `insert`.
            inputs: further inputs: ``graph.insert_on_edge(y, torch.add, x)`` is a skip connection.
            name: the new node's name.
            attrs: further arguments by name.

        Raises:
            GraphError: ``what`` makes several tensors, a further input depends on the edge's
                users, there is no such input, or shapes do not fit.
        """
        from retiarii.ir.edit.edges import insert_on_edge

        graph, edit = self._editing()
        with edit:
            return insert_on_edge(graph, edge, what, inputs, name, attrs)

    def insert_after(
        self, node: Node | Value, what: Any, *inputs: Any, name: str | None = None, **attrs: Any
    ) -> Node:
        """Appends to a node: all that read its result read what is inserted. See `insert_on_edge`.

        Raises:
            GraphError: as for `insert_on_edge`.
        """
        return self.insert_on_edge(node, what, *inputs, name=name, **attrs)

    def successors(self, node: Node | Value, *, transitive: bool = False) -> tuple[Node, ...]:
        """The nodes that read from a node (or follow from it in any way), in order."""
        from retiarii.ir.edit.edges import successors

        return successors(cast("Graph", self), node, transitive)

    def predecessors(self, node: Node | Value, *, transitive: bool = False) -> tuple[Node, ...]:
        """The nodes that a node reads from, each once, as its inputs come.

        Args:
            node: the node.
            transitive: all that it depends on, in topological order.
        """
        from retiarii.ir.edit.edges import predecessors

        return predecessors(cast("Graph", self), node, transitive)

    def between(self, first: Node | Value, last: Node | Value) -> tuple[Node, ...]:
        """The nodes on the ways from ``first`` to ``last``, without these two, in order."""
        from retiarii.ir.edit.edges import between

        return between(cast("Graph", self), first, last)

    # --- regions -----------------------------------------------------------------------------

    def duplicate(
        self,
        what: Nodes,
        *,
        name: str | None = None,
        inputs: Replaced = (),
        keep_weights: bool = False,
    ) -> dict[str, Node]:
        """Copies nodes, under names and module paths of their own. Nothing uses the copies yet.

        Among themselves they are connected as the originals are; else they read what those read.
        Calls of one module remain calls of one (new) module. Constants are shared.

        Args:
            what: a module path (``"stage.0"``), a region of `regions`, or nodes.
            name: the path of the copied region, or of the region that copied nodes are put in.
            inputs: pairs (or a mapping) of what originals read and what copies read instead.
            keep_weights: copies start from the originals' weights, instead of fresh ones.

        Returns:
            The name of each original -> its copy.

        Raises:
            GraphError: no such nodes; inputs, or modules that could not be lowered, among them.
        """
        from retiarii.ir.edit.outlining import duplicate

        graph, edit = self._editing()
        with edit:
            return duplicate(graph, what, name, inputs, keep_weights)

    def outline(self, what: Nodes, name: str) -> tuple[Node, ...]:
        """Moves nodes into a named region: a module path of their own.

        Names, module paths, ``state_dict`` keys and the kept weights' keys get the prefix; what
        is computed stays. Node handles from before are stale.

        Args:
            what: nodes, a module path, or a region.
            name: the region's path. Nodes that lie in what holds it keep the rest of their path:
                ``outline([stem.0, stem.1], "stem.front")`` makes ``stem.front.0``.

        Returns:
            The nodes, under their new names, in topological order.

        Raises:
            GraphError: the path is taken, a module is called outside as well, or an input of the
                model or a module that could not be lowered is among the nodes.
        """
        from retiarii.ir.edit.outlining import outline

        graph, edit = self._editing()
        with edit:
            return outline(graph, what, name)

    def inline(self, region: str | HasPath) -> tuple[Node, ...]:
        """Moves the nodes of a region into what holds it; undoes an `outline`.

        Raises:
            GraphError: there is no such region.
        """
        from retiarii.ir.edit.outlining import inline

        graph, edit = self._editing()
        with edit:
            return inline(graph, region)

    # --- patterns ----------------------------------------------------------------------------

    def match(self, pattern: Any, *, overlapping: bool = False) -> tuple[Match, ...]:
        """Where a pattern is, in topological order of what it returns.

        Names, the order of commutative inputs, and spelling (``nn.ReLU`` or ``F.relu``) do not
        matter; default arguments, and widths that follow from inputs, neither.

        Args:
            pattern: a function of tensors, or a module, that uses torch and `rt.wildcard`. Its
                parameters stand for any tensors. Only what it returns may be used elsewhere.
            overlapping: also matches that share nodes with an earlier one.

        Raises:
            GraphError: the pattern does what no pattern can.
        """
        from retiarii.ir.edit.matching import match

        return match(cast("Graph", self), pattern, overlapping)

    def replace_match(
        self, match: Match, what: Any, *, name: str | None = None, **attrs: Any
    ) -> Node:
        """Puts ``what(*match.inputs)`` in the place of what was matched.

        Args:
            match: of this graph, not edited since.
            what: as for `insert`; a function of tensors; or a node that is there already.
            name: the new node's name.
            attrs: further arguments by name.

        Raises:
            GraphError: the match is stale, or shapes do not fit.
        """
        from retiarii.ir.edit.matching import replace_match

        graph, edit = self._editing()
        with edit:
            return replace_match(graph, match, what, name, attrs)

    # --- shapes ------------------------------------------------------------------------------

    def align(
        self,
        a: Node | Value,
        b: Node | Value,
        *,
        channel_axis: int | None = None,
        name: str | None = None,
    ) -> Value:
        """``b``, projected to the shape of ``a`` where it has another one.

        Other channels: a 1x1 convolution (strided, where that makes the other sizes fit), or a
        linear layer on the last dimension. Other sizes: an adaptive average pool. As the
        projection shortcuts of He et al., "Deep residual learning" (CVPR 2016).

        Args:
            a: has the shape.
            b: gets it.
            channel_axis: of both; by default 1, and the last for (batch, features) and for
                (batch, length, width) that differ in width alone.
            name: of what is inserted.

        Returns:
            ``b`` itself where nothing is to be done.

        Raises:
            ShapeError: other ranks, batches or dtypes; it names both.
        """
        from retiarii.ir.edit.align import align

        graph, edit = self._editing()
        with edit:
            return align(graph, a, b, channel_axis, name)
