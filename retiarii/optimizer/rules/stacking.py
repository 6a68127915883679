"""What rules for stacked products ask of a group."""

from __future__ import annotations

from typing import Final

from retiarii.optimizer.rules.base import Call, Form, Fusion

MEMBERS: Final = Form.MEMBERS
CHANNELS: Final = Form.CHANNELS
PLAIN: Final = Form.PLAIN


def own_or_plain(fusion: Fusion) -> tuple[Form, ...]:
    """Members' own inputs stacked, shared ones as they are; the first is, where all are shared."""
    forms = tuple(PLAIN if shared else MEMBERS for shared in fusion.shared)
    return forms if MEMBERS in forms else (MEMBERS, *forms[1:])


def one_dtype(call: Call, *inputs: int) -> bool:
    """Whether these inputs (all, where none is named) and the results are of one dtype."""
    kinds = {call.inputs[i].dtype for i in inputs or range(len(call.inputs))}
    return len(kinds | {r.dtype for r in call.results}) == 1


def one_float(call: Call, *inputs: int) -> bool:
    """The same, and it is a floating one."""
    return one_dtype(call, *inputs) and call.results[0].dtype.is_floating_point


def lifted(text: str, form: Form, count: int) -> str:
    """A member's tensor with ``count`` leading dimensions of size one more."""
    if form is PLAIN or count <= 0:
        return text
    return f"{text}[:, {', '.join(['None'] * count)}]"
