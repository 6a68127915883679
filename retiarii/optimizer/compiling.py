"""Whether a merged program is compiled by ``torch.compile``: where the steps to come repay it.

Compiling takes seconds for each call of the program, once for forward and backward, and makes a
step somewhat faster. What it took and gained is remembered for each device; until something is, it
is taken to be what it was where this was written.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from retiarii.ir.analysis.latency import device_name
from retiarii.ir.analysis.remembering import Remembered

if TYPE_CHECKING:
    from retiarii.optimizer.program import Program

Run = Callable[[Any, Sequence[Tensor]], tuple[Tensor, ...]]
BACKEND: Final = "inductor"
# Seconds for each call of the program, and how much faster a step then is. On two cores of an AMD
# EPYC: 12 calls took 23 s (1.07 times), 31 took 56 s (1.6 times); of whole steps of convolutions,
# 90 took 141 s (1.01 times). For GPUs they are guesses.
_USUAL: Final = {"cpu": (1.8, 1.1)}
_GUESSED: Final = (1.0, 1.2)
# It has to save so many times what it takes: predictions are off.
_CLEARLY: Final = 1.5
_KEPT: Final = 20
_CLOSE: Final = {torch.float64: 1e-9, torch.float32: 1e-3}
_ROUGH: Final = 5e-2


@dataclass(frozen=True, slots=True)
class Execution:
    """How a merged program runs.

    Attributes:
        compiled: whether by ``torch.compile``.
        reason: why, beginning with how.
    """

    compiled: bool
    reason: str


UNKNOWN: Final = Execution(False, "eager: how many steps are to come is not known")


def decide(
    calls: int, why: str | None, steps: int, seconds: float | None, device: torch.device
) -> Execution:
    """Whether compiling pays.

    Args:
        calls: of the program.
        why: it cannot be compiled, see `refusal`; ``None`` where it can.
        steps: that are to come.
        seconds: of one step as it is; ``None`` where that is not known.
        device: where it runs.
    """
    if why is not None:
        return Execution(False, f"eager: {why}")
    if seconds is None:
        return Execution(False, "eager: how long a step takes was not measured")
    each, ratio = _figures(device)
    takes = each * calls
    saves = steps * seconds * (1 - 1 / ratio)
    figures = (
        f"compiling takes about {takes:.3g} s here and would save {saves:.3g} s "
        f"in {steps:,} steps of {seconds * 1e3:.3g} ms"
    )
    pays = saves > _CLEARLY * takes
    return Execution(pays, f"{'compiled' if pays else 'eager'}: {figures}")


def remember(device: torch.device, calls: int, seconds: float, ratio: float) -> None:
    """Keeps what compiling a program of so many calls took, and how much faster it was then."""
    with Remembered("compiling") as cache:
        known = _known(cache, device)
        cache.write(_key(device), [*known, [calls, seconds, ratio]][-_KEPT:])


def _figures(device: torch.device) -> tuple[float, float]:
    """Seconds a call, and how many times faster."""
    with Remembered("compiling") as cache:
        known = _known(cache, device)
    if not known:
        return _USUAL.get(device.type, _GUESSED)
    each = statistics.median(seconds / max(calls, 1) for calls, seconds, _ in known)
    return each, max(1.0, statistics.median(ratio for *_, ratio in known))


def _known(cache: Remembered, device: torch.device) -> list[list[float]]:
    found = cache.read(_key(device))
    try:
        return [[float(v) for v in row] for row in found if len(row) == 3]
    except (TypeError, ValueError):
        return []


def _key(device: torch.device) -> str:
    return f"{device_name(device)}, torch {torch.__version__}"


def refusal(source: str, layers: int) -> str | None:
    """Why a program cannot be compiled.

    Args:
        source: its text.
        layers: how many it calls as they are.
    """
    if "self.streams" in source:
        return "each model draws from a random stream of its own, which torch.compile cannot"
    if layers:
        return "a layer is called as it is"
    return None


class CompiledRun:
    """The program compiled, for the sizes that it is first called with.

    Whatever it is called with else runs as it is: each other batch size would be compiled anew.
    The first results are compared with those of the program as it is.

    Attributes:
        failed: why the program runs as it is after all.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        with _quiet():
            self._compiled: Any = torch.compile(program.run, dynamic=False, backend=BACKEND)
        self._sizes: Any = None
        self.failed: str | None = None

    def __call__(self, merged: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        sizes = [(t.shape, t.stride(), t.dtype, t.requires_grad) for t in inputs]
        if self.failed is not None or self._sizes not in (None, sizes):
            return self._program.run(merged, inputs)
        if not torch.is_grad_enabled():
            return self._program.run(merged, inputs)
        if self._sizes is None:
            self._sizes = sizes
            return self._first(merged, inputs)
        found: tuple[Tensor, ...] = self._compiled(merged, inputs)
        return found

    def _first(self, merged: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        # Buffers are written in training: the comparison must not write to ours.
        other, before = copy.deepcopy(merged), copy.deepcopy(dict(merged.named_buffers()))
        with torch.no_grad():
            expected = self._program.run(other, inputs)
        try:
            with _quiet():
                found: tuple[Tensor, ...] = self._compiled(merged, inputs)
            if all(map(_close, found, expected)):
                return found
            self.failed = "eager: compiled, it computed other numbers"
        except Exception as error:
            self.failed = f"eager: it cannot be compiled: {str(error).splitlines()[0]:.200}"
        with torch.no_grad():
            for name, buffer in merged.named_buffers():
                buffer.copy_(before[name])
        return self._program.run(merged, inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings of what the compiler itself uses, which is no matter of the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _close(one: Tensor, other: Tensor) -> bool:
    one, other = one.detach(), other.detach()
    if not one.is_floating_point():
        return torch.equal(one, other)
    within = _CLOSE.get(one.dtype, _ROUGH)
    least = float(other.abs().nan_to_num(posinf=0.0).max()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=within, atol=within * least, equal_nan=True)


class Runner:
    """Runs programs: as they are, but for the one that is compiled."""

    def __init__(self) -> None:
        self._execution = UNKNOWN
        self._program: Program | None = None
        self._compiled: CompiledRun | None = None

    @property
    def execution(self) -> Execution:
        """How the training program runs, and why."""
        failed = None if self._compiled is None else self._compiled.failed
        return self._execution if failed is None else Execution(False, failed)

    def expect(
        self, program: Program, steps: int, seconds: float | None, device: torch.device
    ) -> Execution:
        """Decides for a program, see `decide`."""
        why = refusal(program.source, len(program.templates))
        self._execution = decide(len(program.plan.groups), why, steps, seconds, device)
        self._program = program
        self._compiled = CompiledRun(program) if self._execution.compiled else None
        return self._execution

    def run_of(self, program: Program) -> Run:
        """What runs a program."""
        if self._compiled is not None and program is self._program:
            return self._compiled
        return program.run
