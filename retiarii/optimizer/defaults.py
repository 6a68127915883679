"""Estimates where nothing was measured: a straight line in bytes and FLOPs.

The coefficients were fitted to some six hundred measurements of convolutions, normalisation,
pooling, attention and elementwise work on one core of an AMD EPYC with AVX-512. The median estimate
is off by a third for what multiplies, and by a factor of two to four for all else: enough to tell
what matters from what does not. None were measured on a GPU, where they are guesses.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

from retiarii.ir.analysis.cost import VIEWS
from retiarii.ir.types import TensorType
from retiarii.optimizer.rules.base import Call


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of a call, forward and backward.

    Attributes:
        call: for each call.
        byte: for each byte of a member's inputs and results.
        flop: for each floating-point operation of a member's forward pass.
    """

    call: float
    byte: float
    flop: float = 0.0


_VIEW: Final = Line(2e-6, 0.0)
# (whether it multiplies, whether it is fused)
_LINES: Final = {
    (True, False): Line(1.7e-5, 3.7e-10, 1.4e-11),
    (True, True): Line(7.1e-5, 1.6e-10, 1.5e-11),
    (False, False): Line(6e-6, 1e-10),
    (False, True): Line(1.2e-5, 5e-11),
}


def default_seconds(call: Call, size: int | None) -> float:
    """About how long a call takes.

    Args:
        call: what a member computes.
        size: the number of members; ``None`` for the call as a model alone makes it.
    """
    flops = call.spec.flops
    work = 0 if flops is None else flops(call.attrs, call.operands, call.results)
    line = _VIEW if call.op in VIEWS else _LINES[work > 0, size is not None]
    moved = sum(map(_size, (*call.inputs, *call.results)))
    return line.call + (size or 1) * (line.byte * moved + line.flop * work)


def _size(kind: TensorType) -> int:
    return prod(kind.shape) * kind.dtype.itemsize
