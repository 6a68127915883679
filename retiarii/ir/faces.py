"""What a graph can be turned into; each face is in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    import networkx
    from torch.export import ExportedProgram

    from retiarii.ir.analysis.cost import Cost
    from retiarii.ir.analysis.latency import Latency
    from retiarii.ir.analysis.regions import Region
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
        from retiarii.ir.build.module import to_module

        return to_module(self._graph(), seed=seed)

    def to_source(self, class_name: str = "Model") -> str:
        """A ``model.py`` that imports only torch.

        Raises:
            GraphError: the graph has opaque nodes, or large constants.
        """
        from retiarii.ir.build.source import to_source

        return to_source(self._graph(), class_name)

    def canonical_hash(self) -> str:
        """Equal for graphs that compute the same family of functions; 32 hex digits."""
        from retiarii.ir.canonical.form import canonical_hash

        return canonical_hash(self._graph())

    def to_networkx(self) -> networkx.MultiDiGraph[str]:
        """The graph as a ``networkx.MultiDiGraph``."""
        from retiarii.ir.forms.netx import to_networkx

        return to_networkx(self._graph())

    def cost(
        self,
        *,
        batch: int | None = None,
        latency: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Cost:
        """Parameters, FLOPs and memory, of the graph and of each node; nothing is built for it.

        Args:
            batch: for another batch size than the example's.
            latency: also measure the built module, and each node by itself, on ``device``.
            device: where to measure.
            dtype: of floating-point inputs and weights, to measure with.

        Raises:
            GraphError: ``batch`` is not positive, or it cannot be measured like this.
            ShapeError: the graph does not take inputs of this batch size.
        """
        if latency:
            from retiarii.ir.analysis.latency import measured_cost

            return measured_cost(self._graph(), device=device, batch=batch, dtype=dtype)
        from retiarii.ir.analysis.cost import cost

        return cost(self._graph(), batch)

    def latency(
        self,
        *,
        device: str | torch.device = "cpu",
        batch: int | None = None,
        dtype: torch.dtype | None = None,
        runs: int = 20,
        fresh: bool = False,
    ) -> Latency:
        """The median time of a forward pass of the built module, in evaluation mode.

        Measured once on each device and remembered in the user's cache directory.

        Args:
            device: where it runs.
            batch: for another batch size than the example's.
            dtype: to convert floating-point inputs and weights to.
            runs: how many runs are timed.
            fresh: measure again, whatever is remembered.

        Raises:
            GraphError: the device is not there, or the model does not run like this.
        """
        from retiarii.ir.analysis.latency import latency

        return latency(
            self._graph(), device=device, batch=batch, dtype=dtype, runs=runs, fresh=fresh
        )

    def regions(self) -> Region:
        """The nodes by the modules that they came from: a tree, and which parts are the same."""
        from retiarii.ir.analysis.regions import regions

        return regions(self._graph())

    def to_exported(
        self, *, seed: int | None = None, dynamic_batch: bool = False
    ) -> ExportedProgram:
        """The built module, in evaluation mode, as a `torch.export.ExportedProgram`.

        Args:
            seed: as in `to_module`.
            dynamic_batch: inputs of any batch size; else only that of the example.

        Raises:
            GraphError: ``torch.export`` does not take the module.
        """
        from retiarii.ir.forms.onnx import to_exported

        return to_exported(self._graph(), seed=seed, dynamic_batch=dynamic_batch)

    def to_onnx(
        self, path: str | Path, *, seed: int | None = None, dynamic_batch: bool = False
    ) -> Path:
        """Writes the built module as an ONNX file; needs ``pip install 'retiarii[onnx]'``.

        Args:
            path: of the file.
            seed: as in `to_module`.
            dynamic_batch: inputs of any batch size; else only that of the example.

        Raises:
            GraphError: packages are missing, or the module cannot be exported or written.
        """
        from retiarii.ir.forms.onnx import to_onnx

        return to_onnx(self._graph(), path, seed=seed, dynamic_batch=dynamic_batch)

    def to_json(self, *, indent: int | None = 2) -> str:
        """The graph as JSON, without weights; ``docs/ir.md`` documents the form."""
        from retiarii.ir.forms.json_form import to_json

        return to_json(self._graph(), indent=indent)

    @staticmethod
    def from_json(text: str) -> Graph:
        """The graph that `to_json` wrote.

        Raises:
            GraphError: naming the place in the JSON that is not right.
        """
        from retiarii.ir.forms.json_form import from_json

        return from_json(text)

    def to_svg(self) -> str:
        """A picture of the graph, as SVG text."""
        from retiarii.ir.forms.svg import to_svg

        return to_svg(self._graph())

    @staticmethod
    def from_text(text: str) -> Graph:
        """The graph that ``str(graph)`` printed; weights are not in the text.

        Raises:
            GraphError: naming the line that is not right.
        """
        from retiarii.ir.forms.text import parse_text

        return parse_text(text)

    def __str__(self) -> str:
        from retiarii.ir.forms.text import print_graph

        return print_graph(self._graph())
