"""Recurrent layers and cells: one step of all members is one batched product."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from retiarii.ir.types import Operand
from retiarii.optimizer.rules.base import Call, Fusion, Lowering, Rule
from retiarii.optimizer.rules.stacking import MEMBERS, one_float

# The op, the kernel, and how many states it has.
_KERNELS: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "RNN": ("rnn", 1),
        "GRU": ("gru", 1),
        "LSTM": ("lstm", 2),
        "RNNCell": ("rnn_cell", 1),
        "GRUCell": ("gru_cell", 1),
        "LSTMCell": ("lstm_cell", 2),
    }
)
_PARTS: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def recurrent(fusion: Fusion) -> Lowering | None:
    call = fusion.call
    kernel, count = _KERNELS[call.op]
    values = {**call.spec.defaults, **call.attrs}
    cell = call.op.endswith("Cell")
    if not one_float(call) or not _known(call, values):
        return None
    states = _states(call, count)
    if states is None or len(call.inputs[0].shape) not in ((1, 2) if cell else (2, 3)):
        return None
    if any(len(call.inputs[i].shape) != len(call.inputs[0].shape) for i in states):
        return None
    weights = _cell_weights(call) if cell else _layer_weights(call, values)
    text = f"kernels.{kernel}($0, {weights}"
    if states:
        names = ", ".join(f"${i}" for i in states)
        text += f", hx={names if count == 1 else f'({names})'}"
    if values.get("nonlinearity") == "relu":
        text += ", relu=True"
    if values.get("batch_first"):
        text += ", batch_first=True"
    size = len(call.inputs)
    return Lowering(f"{text})", (MEMBERS,) * size, (MEMBERS,) * len(call.results))


def _known(call: Call, values: Mapping[str, Any]) -> bool:
    drops = call.training and values.get("dropout") and values["num_layers"] > 1
    named = {*call.spec.signature, "hx", "dtype", "device"}
    return not drops and named.issuperset(call.attrs)


def _states(call: Call, count: int) -> tuple[int, ...] | None:
    """The inputs that are the first states; ``None`` where they are anything else."""
    given = call.attrs.get("hx")
    if given is None:
        found = tuple(range(1, len(call.operands)))
    elif isinstance(given, Operand):
        found = (given.index,)
    elif isinstance(given, tuple) and all(isinstance(v, Operand) for v in given):
        found = tuple(v.index for v in given)
    else:
        return None
    whole = sorted(found) == list(range(1, len(call.operands)))
    return found if whole and len(found) in (0, count) else None


def _weights(call: Call, suffix: str) -> str:
    inputs = (call.number(part + suffix) for part in _PARTS)
    bias = call.number(f"bias_ih{suffix}") is not None
    found = [f"${i}" for i in inputs if i is not None]
    if not bias and len(found) == 3:
        found[2] = f"hr={found[2]}"
    return f"kernels.Weights({', '.join(found)})"


def _cell_weights(call: Call) -> str:
    return _weights(call, "")


def _layer_weights(call: Call, values: Mapping[str, Any]) -> str:
    turns = ("", "_reverse") if values["bidirectional"] else ("",)
    layers = (
        f"[{', '.join(_weights(call, f'_l{layer}{turn}') for turn in turns)}]"
        for layer in range(values["num_layers"])
    )
    return f"[{', '.join(layers)}]"


RULES: Mapping[str, Rule] = MappingProxyType({"recurrent": recurrent})
