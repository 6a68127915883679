"""ONNX and `torch.export` programs, made from the built module."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from retiarii.errors import GraphError
from retiarii.ir.analysis.latency import example_inputs

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from retiarii.ir.graph import Graph

# torch.onnx is written in them; neither is needed for anything else here.
_NEEDED = ("onnx", "onnxscript")


def to_exported(
    graph: Graph, *, seed: int | None = None, dynamic_batch: bool = False
) -> ExportedProgram:
    """The built module, in evaluation mode, as a `torch.export.ExportedProgram`.

    Args:
        graph: one that verifies.
        seed: as in ``to_module``.
        dynamic_batch: the leading dimension of all inputs that have the example's batch size may
            be any number; else it stays as it is.

    Raises:
        GraphError: ``torch.export`` does not take the module, with its reason.
    """
    module = graph.to_module(seed=seed).eval()
    # A batch of one would be taken for a constant.
    batch = max(graph.context.batch, 2) if dynamic_batch else graph.context.batch
    args, named = example_inputs(graph, batch)
    shapes = _dynamic_shapes(graph, args, named, batch) if dynamic_batch else None
    try:
        with _quiet():
            return torch.export.export(module, args, named, dynamic_shapes=shapes)
    except Exception as error:  # of many kinds: dynamo's, the exporter's, the module's own
        raise GraphError(
            f"torch.export does not take the module: {_first_line(error)}",
            where=_opaque_places(graph),
            fix="try dynamic_batch=False"
            if dynamic_batch
            else "make what is data-dependent in it exportable",
        ) from error


def to_onnx(
    graph: Graph, path: str | Path, *, seed: int | None = None, dynamic_batch: bool = False
) -> Path:
    """Writes the built module, in evaluation mode and with its weights, as an ONNX file.

    Args:
        graph: one that verifies.
        path: of the file.
        seed: as in ``to_module``.
        dynamic_batch: as in `to_exported`.

    Returns:
        The file's path.

    Raises:
        GraphError: the packages for it are missing, the module cannot be exported, or the file
            cannot be written.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise GraphError(
            f"ONNX needs the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
            where=f"to_onnx({str(path)!r})",
            fix="pip install 'retiarii[onnx]'",
        )
    file = Path(path)
    if not file.parent.is_dir():
        raise GraphError(
            f"there is no directory {file.parent}",
            where=f"to_onnx({str(path)!r})",
            fix="make it first, or choose another path",
        )
    program = to_exported(graph, seed=seed, dynamic_batch=dynamic_batch)
    names = [node.record.name for node in graph.inputs]
    try:
        with _quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=names, verbose=False, optimize=True
            )
            assert made is not None
            made.save(file)
    except OSError as error:
        raise GraphError(
            f"cannot write the ONNX file: {error.strerror or error}",
            where=str(file),
            fix="choose another path",
        ) from error
    except Exception as error:  # an operator without an ONNX twin, mostly
        raise GraphError(
            f"torch.onnx does not take the module: {_first_line(error)}",
            where=_opaque_places(graph),
            fix="use other operations for what has no ONNX twin",
        ) from error
    return file


def _dynamic_shapes(
    graph: Graph, args: tuple[Any, ...], named: dict[str, Any], batch: int
) -> dict[str, Any]:
    size = torch.export.Dim("batch", min=1)

    def shape(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            dynamic = value.dim() > 0 and value.shape[0] == batch
            return {0: size} if dynamic else {}
        if isinstance(value, tuple | list):
            return type(value)(shape(v) for v in value)
        if isinstance(value, dict):
            return {key: shape(v) for key, v in value.items()}
        return None

    spec = graph.context.forward
    positional = [name for name, _ in spec.params if name not in spec.keyword_only]
    given = {**dict(zip(positional, args, strict=True)), **named}
    return {name: shape(value) for name, value in given.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remarks on packages that it misses and functions that will change."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _opaque_places(graph: Graph) -> str | None:
    names = [repr(node.record.name) for node in graph.opaque]
    return f"opaque nodes {', '.join(names)}" if names else None


def _first_line(error: Exception) -> str:
    line = next((li for li in str(error).splitlines() if li.strip()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
