"""What an operation with its attributes means for the canonical form, worked out once for each."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from retiarii.ir.infer import TypeCache, module_state
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Attrs


class Kind(enum.IntEnum):
    """How a node becomes a term."""

    PURE = 0  # a function of its inputs alone
    OWN = 1  # has parameters: a term for each module and inputs
    FRESH = 2  # has state or randomness: a term for each node
    SUM = 3  # adds its inputs
    IDENTITY = 4  # is its input
    ZERO = 5  # is zero


@dataclass(frozen=True, slots=True)
class Signature:
    """One (op, attributes).

    Attributes:
        kind: how a node with it becomes a term.
        label: digest of the normalised op and attributes.
        commutative: the order of its inputs says nothing.
        zero_from_all: zero inputs give a zero.
        zero_from_any: one zero input gives a zero.
        rewrites: it is another term even where none of its inputs is zero.
    """

    kind: Kind
    label: bytes
    commutative: bool
    zero_from_all: bool
    zero_from_any: bool
    rewrites: bool


# Numbers that leave the other argument as it is.
_NEUTRAL: Mapping[str, int] = MappingProxyType({"add": 0, "sub": 0, "mul": 1, "div": 1})
_PRODUCTS = frozenset({"mul", "matmul", "bmm", "mm", "mv", "dot"})
_ZEROS = frozenset({"zeros", "zeros_like", "new_zeros"})
# Arguments that may be given once for all dimensions.
PER_DIMENSION = frozenset(
    {"kernel_size", "stride", "padding", "dilation", "output_padding", "output_size"}
)
_WITHOUT_MEANING = frozenset({"inplace"})


def label_of(*parts: Any) -> bytes:
    """A digest of 16 bytes."""
    return blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()


def make_signature(op: str, attrs: Attrs, cache: TypeCache) -> Signature:
    """Works the signature out; `canonical` keeps it for the next graph."""
    spec = op_spec(op)
    kind = _special(op, attrs)
    if kind is None and spec.identity is not None and spec.identity(attrs):
        kind = Kind.IDENTITY
    if kind is None:
        if spec.is_random(attrs) or spec.stateful:
            kind = Kind.FRESH
        elif spec.kind == "module" and module_state(op, attrs, cache):
            kind = Kind.OWN
        elif not spec.pure and spec.kind != "module":
            kind = Kind.FRESH
        else:
            kind = Kind.PURE
    if spec.alias is not None and (twin := spec.alias(attrs)) is not None:
        op, attrs = twin
        spec = op_spec(op)
    zero = spec.zero_preserving
    return Signature(
        kind,
        label_of(op, *sorted(f"{k}={v!r}" for k, v in _normalised(attrs).items())),
        spec.commutative,
        zero is not None and zero(attrs),
        op in _PRODUCTS,
        kind >= Kind.SUM,
    )


def _special(op: str, attrs: Attrs) -> Kind | None:
    """Sums, scaling by one and by zero."""
    if op in _ZEROS or (op in ("full", "full_like") and attrs.get("fill_value") == 0):
        return Kind.ZERO
    if not attrs:
        return Kind.SUM if op == "add" else None
    if set(attrs) == {"other"} and isinstance(attrs["other"], int | float):
        if _NEUTRAL.get(op) == attrs["other"]:
            return Kind.IDENTITY
        if op == "mul" and attrs["other"] == 0:
            return Kind.ZERO
    return None


def _normalised(attrs: Attrs) -> dict[str, Any]:
    return {
        key: value[0]
        if key in PER_DIMENSION and type(value) is tuple and len(set(map(repr, value))) == 1
        else value
        for key, value in attrs.items()
        if key not in _WITHOUT_MEANING
    }
