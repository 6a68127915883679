"""What a graph can be turned into; each face is in a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn

if TYPE_CHECKING:
    import networkx

    from retiarii.ir.graph import Graph


class Faces:
    """The methods of `Graph` that read it and make something else; imported when called."""

    __slots__ = ()

    def _graph(self) -> Graph:
        return cast("Graph", self)

    def verify(self) -> None:
        """Checks every rule of the IR.

        Raises:
            GraphError: naming the node, what is wrong and what to do.
        """
        from retiarii.ir.verify import verify

        verify(self._graph())

    def to_module(self, seed: int | None = None) -> nn.Module:
        """A module that computes the graph, with the ``state_dict`` keys of what was parsed.

        Args:
            seed: initialises fresh parameters; ``None`` keeps the parsed weights where they fit.
        """
        from retiarii.ir.build import to_module

        return to_module(self._graph(), seed=seed)

    def to_source(self, class_name: str = "Model") -> str:
        """A ``model.py`` that imports only torch.

        Raises:
            GraphError: the graph has opaque nodes, or large constants.
        """
        from retiarii.ir.source import to_source

        return to_source(self._graph(), class_name)

    def canonical_hash(self) -> str:
        """Equal for graphs that compute the same family of functions; 32 hex digits."""
        from retiarii.ir.canonical import canonical_hash

        return canonical_hash(self._graph())

    def to_networkx(self) -> networkx.MultiDiGraph[str]:
        """The graph as a ``networkx.MultiDiGraph``."""
        from retiarii.ir.netx import to_networkx

        return to_networkx(self._graph())

    def to_svg(self) -> str:
        """A picture of the graph, as SVG text."""
        from retiarii.ir.svg import to_svg

        return to_svg(self._graph())

    @staticmethod
    def from_text(text: str) -> Graph:
        """The graph that ``str(graph)`` printed; weights are not in the text.

        Raises:
            GraphError: naming the line that is not right.
        """
        from retiarii.ir.text import parse_text

        return parse_text(text)

    def __str__(self) -> str:
        from retiarii.ir.text import print_graph

        return print_graph(self._graph())
