"""The code of a call that no rule fuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retiarii.ir.build.codegen import access_paths
from retiarii.ir.build.expressions import Expressions, Names
from retiarii.ir.ops import arrange_call, op_spec
from retiarii.ir.types import Attrs
from retiarii.optimizer.forest import Item
from retiarii.optimizer.lift import is_random


@dataclass(frozen=True, slots=True)
class ApartCall:
    """How one item is called.

    Attributes:
        text: an expression as in `Lowering`.
        template: whether it calls an entry of ``self.templates``.
        scope: objects that the text names.
        helpers: source of functions that it names.
    """

    text: str
    template: bool
    scope: Mapping[str, Any]
    helpers: Mapping[str, str]


def single_call(item: Item) -> ApartCall | None:
    """The code of a group of one member, where torch's own call is the shortest way.

    Rules serve one member as well, by way of stacks of one; that costs small models more than all
    the rest of merging saves them.
    """
    call = item.call
    if call.op == "Linear":
        bias = "$2" if len(call.inputs) == 3 else "None"
        return ApartCall(f"F.linear($0, $1, {bias})", False, {}, {})
    if call.op == "opaque" or call.spec.kind != "function" or is_random(call):
        return None
    return apart_call(item, 0)


class _Text(str):
    """A piece of code that stands for a value."""

    __slots__ = ()


def apart_call(item: Item, template: int) -> ApartCall:
    """Code for one item.

    Args:
        item: any call.
        template: the number that its layer will have among the templates, if it needs one.
    """
    call = item.call
    names = Names({"batch", "device", "kernels"})
    expressions = Expressions(names, lambda v: str(v) if isinstance(v, _Text) else None)
    expressions.batch, expressions.device = "batch", "device"
    count = len(call.operands)
    spec = op_spec(call.op)
    attrs = call.attrs
    if call.op == "opaque":
        attrs = Attrs({k: v for k, v in attrs.items() if k != "reason"})
    operands = [_Text(f"${j}") for j in range(count)]
    if count == 1 and spec.kind == "function" and is_random(call):
        # It may draw in the order of memory, which fused calls did not keep.
        operands = [_Text(f"kernels.ordered($0, {call.order})")]
    positional, keywords = arrange_call(spec, attrs, operands)
    write = expressions.value
    needs_template = spec.kind == "module" or call.op == "opaque"
    if needs_template:
        tensors = "".join(f"${j}, " for j in range(count, len(call.inputs)))
        args = "".join(f"{write(v)}, " for v in positional)
        kwargs = ", ".join(f"{k!r}: {write(v)}" for k, v in keywords.items())
        text = (
            f"kernels.call_module(self.templates[{template}], {call.state!r}, "
            f"({tensors}), ({args}), {{{kwargs}}})"
        )
    else:
        text = _function(spec, call.op, positional, keywords, expressions)
    if is_random(call):
        text = f"self.streams[{max(item.owner, 0)}].run(lambda: {text})"
    if call.result is not None:
        accesses = [path for _, path in sorted(access_paths(call.result))]
        text = f"kernels.results({text}, lambda r: ({''.join(f'r{a}, ' for a in accesses)}))"
    scope: dict[str, Any] = {**expressions.classes}
    if spec.helper is not None:
        scope[spec.call] = spec.target
    return ApartCall(text, needs_template, scope, expressions.helpers)


def _function(
    spec: Any, op: str, positional: list[Any], keywords: dict[str, Any], expressions: Expressions
) -> str:
    write = expressions.value
    if op == "getitem":
        index = [*positional[1:], *keywords.values()][0]
        return f"{write(positional[0])}[{expressions.index(index)}]"
    arguments = [write(v) for v in positional]
    arguments += [f"{key}={write(value)}" for key, value in keywords.items()]
    if spec.helper is not None:
        return f"{spec.call}({', '.join(arguments)})"
    if spec.method is not None:
        return f"{arguments[0]}.{spec.method}({', '.join(arguments[1:])})"
    return f"{spec.call}({', '.join(arguments)})"
