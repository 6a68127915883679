"""Dropout and its relatives: a random stream a member, one multiplication for all."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from retiarii.optimizer.rules.base import Form, Fusion, Lowering, Rule
from retiarii.optimizer.rules.writing import argument, ordered, printed, rules

_FEATURES: Final = MappingProxyType({"dropout1d": 3, "dropout2d": 4, "dropout3d": 5})


def dropout(fusion: Fusion) -> Lowering | None:
    """The dropouts; without training, or where nothing is dropped, the identity."""
    call = fusion.call
    p, training = argument(call, "p"), argument(call, "training")
    if len(call.inputs) != 1 or not isinstance(p, int | float) or not isinstance(training, bool):
        return None
    if not training or p == 0:
        form = Form.MEMBERS if fusion.shared[0] else fusion.forms[0]
        return Lowering("$0", (form,), (form,))
    if not call.inputs[0].dtype.is_floating_point:
        return None
    form = _form(fusion)
    kernel = _kernel(fusion)
    if kernel is None:
        return None
    name, more = kernel
    text = f"kernels.{name}($0, {printed(p)}, $streams, {form.value!r}{more})"
    return Lowering(text, (form,), (Form.MEMBERS if form is Form.PLAIN else form,))


def _form(fusion: Fusion) -> Form:
    if fusion.shared[0]:
        return Form.PLAIN
    rank = len(fusion.call.inputs[0].shape)
    return fusion.forms[0] if rank >= 2 else Form.MEMBERS


def _kernel(fusion: Fusion) -> tuple[str, str] | None:
    call = fusion.call
    rank = len(call.inputs[0].shape)
    if call.op == "dropout":
        return "dropout", ordered(call)
    if call.op == "alpha_dropout":
        return "alpha_dropout", ordered(call)
    if call.op == "feature_alpha_dropout":
        return ("alpha_dropout", ", features=True") if rank >= 2 else None
    batched = _FEATURES[call.op]
    if rank == batched or (call.op == "dropout2d" and rank == 3):
        # A 3-d input of dropout2d is samples of one dimension, as torch warns.
        return "feature_dropout", ""
    if rank == batched - 1:
        return "feature_dropout", ", batched=False"
    return None


def rrelu(fusion: Fusion) -> Lowering | None:
    """In evaluation a leaky ReLU; in training its slopes are drawn."""
    call = fusion.call
    lower, upper, training = (argument(call, n) for n in ("lower", "upper", "training"))
    if len(call.inputs) != 1 or not isinstance(training, bool):
        return None
    bounds = f"{printed(lower)}, {printed(upper)}"
    if training:
        text = f"kernels.rrelu($0, {bounds}, $streams)"
        return Lowering(text, (Form.MEMBERS,), (Form.MEMBERS,))
    form = Form.MEMBERS if fusion.shared[0] else fusion.forms[0]
    return Lowering(f"F.rrelu($0, {bounds})", (form,), (form,))


RULES: Final[Mapping[str, Rule]] = rules({"dropout": dropout, "rrelu": rrelu})
