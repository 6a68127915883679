"""Graphs made node by node, for tests that need no parser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retiarii.ir.context import GraphContext, InputSpec
from retiarii.ir.graph import Graph
from retiarii.ir.infer import TypeCache, infer
from retiarii.ir.node import NodeRecord
from retiarii.ir.ops import module_attrs, module_op
from retiarii.ir.types import Attrs, Ref, TensorType


class Maker:
    """Adds nodes one by one, with inferred types; ``graph(*outputs)`` ends it."""

    def __init__(self, batch: int = 2, types: TypeCache | None = None) -> None:
        self.records: dict[str, NodeRecord] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.weights: dict[str, torch.Tensor] = {}
        self.types = types or TypeCache(batch)
        self.batch = batch

    def _free(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self.records:
            number += 1
            name = f"{wanted}_{number}"
        return name

    def _hold(self, record: NodeRecord) -> Ref:
        self.records[record.name] = record
        return Ref(record.name)

    def input(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Ref:
        return self._hold(NodeRecord(name, "input", types=(TensorType(shape, dtype),)))

    def parameter(
        self,
        key: str,
        *shape: int,
        value: torch.Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Ref:
        attrs = Attrs(shape=shape, dtype=dtype, requires_grad=True)
        if value is not None:
            self.weights[key] = value
        kind = TensorType(shape, dtype)
        return self._hold(NodeRecord(self._free(key), "parameter", (), attrs, (kind,), path=key))

    def buffer(self, key: str, value: torch.Tensor, persistent: bool = True) -> Ref:
        kind = TensorType.of(value)
        self.weights[key] = value
        attrs = Attrs(shape=kind.shape, dtype=kind.dtype, persistent=persistent)
        return self._hold(NodeRecord(self._free(key), "buffer", (), attrs, (kind,), path=key))

    def constant(self, key: str, value: torch.Tensor) -> Ref:
        self.constants[key] = value
        kind = TensorType.of(value)
        return self._hold(NodeRecord(self._free(key), "constant", (), Attrs(key=key), (kind,)))

    def add(
        self,
        op: str,
        *inputs: Ref,
        name: str | None = None,
        path: str | None = None,
        no_grad: bool = False,
        fresh: bool = False,
        **attrs: Any,
    ) -> Ref:
        kinds = tuple(self.records[r.node].types[r.index] for r in inputs)
        frozen = Attrs(attrs)
        types, result = infer(op, frozen, kinds, self.types)
        return self._hold(
            NodeRecord(
                self._free(name or op),
                op,
                tuple(inputs),
                frozen,
                types,
                result,
                path,
                fresh,
                no_grad,
            )
        )

    def layer(self, module: nn.Module, *inputs: Ref, path: str, **more: Any) -> Ref:
        op = module_op(type(module))
        assert op is not None
        return self.add(op, *inputs, name=path, path=path, **more, **module_attrs(module))

    def graph(self, *outputs: Ref, structure: Any = None, **context: Any) -> Graph:
        inputs = tuple(r.name for r in self.records.values() if r.op == "input")
        given = {
            "forward": InputSpec.plain(inputs),
            "batch": self.batch,
            "constants": self.constants,
            "weights": self.weights,
            "types": self.types,
            **context,
        }
        return Graph.build(self.records.values(), outputs, structure, GraphContext(**given))


@pytest.fixture
def maker() -> type[Maker]:
    return Maker
