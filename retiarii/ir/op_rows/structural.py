"""Rows of the nodes that are parts of the graph itself."""

from __future__ import annotations

from typing import Final

from retiarii.ir.op_rows.spec import OpSpec, Row

STRUCTURAL: Final = (
    Row(OpSpec("input", "structural")),
    Row(OpSpec("parameter", "structural", signature=("shape", "dtype", "requires_grad"))),
    Row(OpSpec("buffer", "structural", signature=("shape", "dtype", "persistent"))),
    Row(OpSpec("constant", "structural", signature=("key",))),
    # What runs inside is not known: anything may happen.
    Row(
        OpSpec(
            "opaque", "structural", signature=("reason",), pure=False, random=True, stateful=True
        )
    ),
)
