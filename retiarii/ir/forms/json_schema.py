"""The JSON form's schema, as pydantic models: `docs/ir.md` says what each field means."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt

FORMAT: Final = "retiarii.graph"
# Raised when a reader of the old version would read the new one wrongly, or not at all.
VERSION: Final = 1


def _known_version(value: Any) -> Any:
    if type(value) is int and value != VERSION:
        raise ValueError(f"version {value} is not {VERSION}, which this retiarii reads")
    return value


def _dtype(value: Any) -> Any:
    if isinstance(value, str) and not isinstance(getattr(torch, value, None), torch.dtype):
        raise ValueError(f"torch has no dtype {value!r}")
    return value


Dtype = Annotated[str, BeforeValidator(_dtype)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TypeForm(_Form):
    """The type of one tensor."""

    dtype: Dtype = Field(description="as torch calls it: float32")
    shape: tuple[NonNegativeInt, ...] = Field(description="at the example batch size")


class RefForm(_Form):
    """One result of a node."""

    node: str = Field(description="a node further up")
    index: NonNegativeInt = Field(0, description="which of its results")


class NodeForm(_Form):
    """One node."""

    name: str = Field(min_length=1, description="unique in the graph")
    op: str = Field(min_length=1, description="a row of the op table")
    inputs: tuple[RefForm, ...] = Field((), description="the tensors that it reads")
    attrs: dict[str, Any] = Field({}, description="its other arguments: name to value")
    types: tuple[TypeForm, ...] = Field((), description="of the tensors that it makes")
    result: Any = Field(None, description="a structure, where it returns more than one tensor")
    path: str | None = Field(None, description="the module path that owns its parameters")
    fresh: bool = Field(False, description="made by a mutator")
    no_grad: bool = Field(False, description="runs under torch.no_grad")
    where: str | None = Field(None, description="file:line of the call that it was parsed from")


class ParameterForm(_Form):
    """One parameter of ``forward``."""

    name: str = Field(min_length=1, description="of the parameter")
    value: Any = Field(description="a structure that holds the graph's inputs by their number")
    keyword_only: bool = Field(False, description="passed by name")


class ConstantForm(_Form):
    """A small tensor that is in no ``state_dict``."""

    type: TypeForm = Field(description="dtype and shape")
    values: Any = Field(description="nested arrays of numbers")


class SizeForm(_Form):
    """A size of an input, other than the batch."""

    input: NonNegativeInt = Field(description="the number of the input")
    dim: NonNegativeInt = Field(description="which of its dimensions")
    where: str | None = Field(None, description="file:line where the model's Python read it")


class GraphForm(_Form):
    """A whole graph, without weights."""

    format: Literal["retiarii.graph"] = Field(description="says what this file is")
    version: Annotated[Literal[1], BeforeValidator(_known_version)] = Field(
        description="of this schema"
    )
    batch: PositiveInt = Field(description="the example's batch size, at which shapes are given")
    batch_input: NonNegativeInt = Field(0, description="the input whose first dimension it is")
    training: bool = Field(description="the parsed model's training flag")
    forward: tuple[ParameterForm, ...] = Field(description="parameters of forward, in order")
    fixed: tuple[Literal["batch", "training"], ...] = Field(
        (), description="what the graph holds for the given value of only"
    )
    sizes: tuple[SizeForm, ...] = Field(
        (), description="sizes of inputs, likewise: those of the inputs' types"
    )
    frozen: tuple[str, ...] = Field((), description="state_dict keys that take no gradient")
    ties: dict[str, str] = Field({}, description="state_dict key to first key of the same tensor")
    modes: dict[str, bool] = Field({}, description="module path to training flag, where it differs")
    constants: dict[str, ConstantForm] = Field({}, description="key to small constant tensor")
    nodes: tuple[NodeForm, ...] = Field(description="in topological order")
    outputs: tuple[RefForm, ...] = Field(description="the tensors returned")
    returns: Any = Field(description="a structure that holds the outputs by their number, or null")


def json_schema() -> dict[str, Any]:
    """The schema of the JSON form, as JSON Schema."""
    return GraphForm.model_json_schema()
