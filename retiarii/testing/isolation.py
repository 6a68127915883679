"""One member's NaN changes no bit of the others, in float32 as cohorts are trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retiarii.optimizer.rules.base import Call, Form
from retiarii.testing.equivalence import call_of_module, fused


def check_isolation(
    call: Call,
    members: Sequence[Sequence[Tensor]],
    shared: Sequence[bool] | None = None,
    form: Form = Form.MEMBERS,
    ill: int = 1,
) -> None:
    """Runs the fused call twice: as given, and with NaN in what is member ``ill``'s alone.

    Outputs, gradients and written buffers of all other members are bitwise the same.
    """
    shared = [False] * len(call.inputs) if shared is None else list(shared)
    spoiled = [list(row) for row in members]
    for i, tensor in enumerate(spoiled[ill]):
        if tensor.is_floating_point() and not shared[i]:
            spoiled[ill][i] = torch.full_like(tensor, float("nan"))
    well, sick = (_run(call, rows, shared, form) for rows in (members, spoiled))
    for g in range(len(members)):
        same = all(torch.equal(a, b) for a, b in zip(well[g], sick[g], strict=True))
        assert same is (g != ill), f"member {g}, {call.op}"


def check_module_isolation(
    layer: nn.Module, *operands: Tensor, shared: bool = False, form: Form = Form.MEMBERS
) -> None:
    """The same for three members with equal layers and random inputs of their own."""
    call = call_of_module(layer, operands)
    state = (*layer.parameters(), *layer.buffers())
    rows = []
    for _ in range(3):
        own = [o if shared else torch.randn_like(o) for o in operands]
        rows.append([*own, *(s.detach().clone() for s in state)])
    check_isolation(call, rows, [shared] * len(operands) + [False] * len(state), form)


def _run(
    call: Call, members: Sequence[Sequence[Tensor]], shared: Sequence[bool], form: Form
) -> list[list[Tensor]]:
    rows: list[list[Tensor]] = []
    for row in members:
        copies = [t.clone() if not shared[i] else t for i, t in enumerate(row)]
        for i, t in enumerate(copies):
            name = call.state[i - len(call.operands)] if i >= len(call.operands) else ""
            written = name.startswith(("running", "num_batches"))
            if t.is_floating_point() and not shared[i] and not written:
                t.requires_grad_()
        rows.append(copies)
    _, results = fused(call, rows, shared, form=form)
    count = len(call.results)
    outputs = [out for row in results for out in row[:count] if out.requires_grad]
    weights = [torch.linspace(-1, 1, out.numel()).view_as(out) for out in outputs]
    torch.autograd.backward(outputs, weights)
    found = []
    for row, result in zip(rows, results, strict=True):
        gradients = [t.grad for t in row if t.grad is not None]
        found.append([r.detach() for r in result] + gradients)
    return found
