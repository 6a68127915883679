"""Pure functions without a rule of their own: ``torch.vmap``, where it is known to work.

Where torch has no batching rule for something, it would run a loop and warn; each candidate is
therefore tried once on tensors without data, with that loop switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from retiarii.ir.types import BatchSize, InputDevice, TensorType, leaves
from retiarii.optimizer.rules.base import Call, Form, Fusion, Lowering
from retiarii.optimizer.rules.writing import UnprintableError, argument, resolved, written

# Calls of these rows are equal under vmap, gradients where elements tie as well: each has a test.
KNOWN = frozenset(
    {
        *("cdist", "cosine_similarity", "cross", "dstack"),
        *("index_add", "index_copy", "index_fill", "index_select", "kron", "one_hot"),
        *("pairwise_distance", "take_along_dim", "view", "vstack"),
    }
)


def rule(fusion: Fusion) -> Lowering | None:
    """The group as one ``torch.vmap`` over its stacks; shared inputs stay as they are."""
    call = resolved(fusion.call)
    if call.op not in KNOWN or not call.inputs or all(fusion.shared):
        return None
    if call.op == "one_hot" and argument(call, "num_classes") < 0:
        return None  # as many as the data needs
    if any(isinstance(v, BatchSize | InputDevice) for a in call.attrs.values() for v in leaves(a)):
        return None  # they could not be tried
    try:
        made = written(call, [f"x{i}" for i in range(len(call.inputs))])
    except UnprintableError:
        return None
    given = ", ".join(f"x{i}" for i in range(len(call.inputs)))
    axes = tuple(None if shared else 0 for shared in fusion.shared)
    stacks = ", ".join(f"${i}" for i in range(len(call.inputs)))
    batched = f"torch.vmap(lambda {given}: {made}, {axes})"
    if not _works(call, fusion, batched):
        return None
    forms = tuple(Form.PLAIN if shared else Form.MEMBERS for shared in fusion.shared)
    return Lowering(f"{batched}({stacks})", forms, (Form.MEMBERS,) * len(call.results))


def _works(call: Call, fusion: Fusion, batched: str) -> bool:
    """Whether the function makes results of the right types from tensors without data."""
    stacks = [
        TensorType(kind.shape if shared else (fusion.size, *kind.shape), kind.dtype).meta()
        for kind, shared in zip(call.inputs, fusion.shared, strict=True)
    ]
    try:
        with _without_loops():
            found = eval(batched, {"torch": torch, "F": functional})(*stacks)
    except Exception:
        # What vmap cannot do it says in exceptions of many kinds.
        return False
    flat = [found] if isinstance(found, Tensor) else found
    if not isinstance(flat, tuple | list) or not all(isinstance(t, Tensor) for t in flat):
        return False
    types = [(tuple(t.shape), t.dtype) for t in flat]
    return types == [((fusion.size, *t.shape), t.dtype) for t in call.results]


@contextmanager
def _without_loops() -> Iterator[None]:
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)
