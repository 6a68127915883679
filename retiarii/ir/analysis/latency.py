"""How long a graph's built module takes, measured on the device at hand and remembered.

Measurements are kept in ``latency.sqlite`` in the user's cache (`remembering`).
"""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from retiarii.errors import GraphError
from retiarii.ir.analysis.cost import Cost, NodeCost, types_at
from retiarii.ir.analysis.cost import cost as count
from retiarii.ir.analysis.remembering import Remembered, cache_directory
from retiarii.ir.context import InputSpec
from retiarii.ir.infer import TypeCache
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import (
    BatchSize,
    FrozenDict,
    FrozenList,
    InputDevice,
    Ref,
    Result,
    TensorType,
    TypeOf,
    map_leaves,
)

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

# Changing how is measured changes this, so that old measurements are not taken for new ones.
_METHOD: Final = 1
_WARM: Final = 3
_STRUCTURAL: Final = frozenset({"input", "parameter", "buffer", "constant"})


@dataclass(frozen=True, slots=True)
class Latency:
    """One measurement of a forward pass in evaluation mode, without gradients.

    Attributes:
        seconds: the median of the runs.
        spread: seconds between the first and the third quartile.
        runs: how many runs were timed.
        device: the device's name, with the number of threads for a CPU.
        batch: samples in one run.
        dtype: of floating-point inputs and weights; ``None``: each as it was parsed.
        cached: whether it was measured earlier.
    """

    seconds: float
    spread: float
    runs: int
    device: str
    batch: int
    dtype: str | None
    cached: bool = False


def latency(
    graph: Graph,
    *,
    device: str | torch.device = "cpu",
    batch: int | None = None,
    dtype: torch.dtype | None = None,
    runs: int = 20,
    fresh: bool = False,
) -> Latency:
    """Measures the built module, or remembers an earlier measurement of an equal one.

    Args:
        graph: one that verifies; its weights do not matter.
        device: where it runs.
        batch: samples a run; the example's number where it is ``None``.
        dtype: to convert floating-point inputs and weights to.
        runs: how many runs are timed, behind three that are not.
        fresh: measure again, whatever is remembered.

    Raises:
        GraphError: the device is not there, or the model does not run like this.
    """
    target = _device(device)
    wanted = graph.context.batch if batch is None else batch
    if wanted < 1 or runs < 1:
        raise GraphError(
            f"nothing to measure: batch={wanted}, runs={runs}", fix="give numbers from 1 on"
        )
    shown = None if dtype is None else str(dtype).removeprefix("torch.")
    unmeasured = Latency(0.0, 0.0, runs, device_name(target), wanted, shown)
    key = _key(graph, unmeasured)
    with Remembered("latency") as cache:
        found = None if fresh else _sensible(cache.read(key))
        if found is not None and found["runs"] >= runs:
            return replace(unmeasured, **found, cached=True)
        times = _measure(graph, target, wanted, dtype, runs)
        first, median, third = _quartiles(times)
        cache.write(key, {"seconds": median, "spread": third - first, "runs": runs})
    return replace(unmeasured, seconds=median, spread=third - first)


def measured_cost(
    graph: Graph,
    *,
    device: str | torch.device = "cpu",
    batch: int | None = None,
    dtype: torch.dtype | None = None,
) -> Cost:
    """`cost` with the latency of the graph, and of each node by itself.

    Raises:
        GraphError: the device is not there, or the model does not run.
    """
    counted = count(graph, batch)
    wanted = counted.batch
    whole = latency(graph, device=device, batch=wanted, dtype=dtype)
    types = types_at(graph, wanted)

    def seconds(row: NodeCost) -> float | None:
        record = graph.record(row.name)
        if record.op in _STRUCTURAL:
            return 0.0
        alone = _alone(graph, record, types, wanted, torch.device(device))
        try:
            return latency(alone, device=device, batch=wanted, dtype=dtype).seconds
        except GraphError:  # made-up inputs that it does not take (the graph itself ran)
            return None

    rows = tuple(replace(row, seconds=seconds(row)) for row in counted.nodes)
    return replace(counted, nodes=rows, latency=whole.seconds)


def device_name(device: torch.device) -> str:
    """What tells a device from others: the GPU's name, or the CPU's with its threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"{_processor()}, {torch.get_num_threads()} threads"
    return f"{device.type} of {platform.node()}"


def cache_file() -> Path:
    """Where measurements are kept."""
    return cache_directory() / "latency.sqlite"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise GraphError(
            f"nothing can run on device {str(device)!r}: {first}",
            fix="give device='cpu', or a device that torch has here",
        ) from error
    if found.type == "meta":
        raise GraphError("the meta device runs nothing", fix="give device='cpu'")
    return found


def _key(graph: Graph, unmeasured: Latency) -> str:
    parts = {
        "graph": graph.canonical_hash(),
        "device": unmeasured.device,
        "batch": unmeasured.batch,
        "dtype": unmeasured.dtype,
        "torch": str(torch.__version__),
        "method": _METHOD,
    }
    return json.dumps(parts, sort_keys=True)


def _sensible(value: Any) -> dict[str, Any] | None:
    """What was remembered, where it makes sense."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return {
            "seconds": float(value["seconds"]),
            "spread": float(value["spread"]),
            "runs": int(value["runs"]),
        }
    return None


def _quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    if len(times) == 1:
        return times[0], times[0], times[0]
    first, median, third = statistics.quantiles(times, n=4, method="inclusive")
    return first, median, third


# --- running -----------------------------------------------------------------------------------


def _measure(
    graph: Graph, device: torch.device, batch: int, dtype: torch.dtype | None, runs: int
) -> list[float]:
    """Seconds of each run."""
    try:
        drawing = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=drawing), torch.inference_mode():
            module = graph.to_module(seed=0).eval().to(device=device, dtype=dtype)
            args, named = example_inputs(graph, batch, device, dtype)
            for _ in range(_WARM):
                module(*args, **named)
            return [_timed(lambda: module(*args, **named), device) for _ in range(runs)]
    except GraphError:
        raise
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        raise GraphError(
            f"the model does not run on {device} with batch {batch}: "
            f"{type(error).__name__}: {first}",
            fix="measure it at a batch, a dtype and on a device that it takes",
        ) from error


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    synchronize = torch.cuda.synchronize if device.type == "cuda" else _nothing
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def _nothing(_device: torch.device) -> None:
    """A CPU has done its work when a call returns."""


def example_inputs(
    graph: Graph,
    batch: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for the built module's ``forward``: normal numbers, zeros for whole ones.

    Args:
        graph: whose ``forward`` it is.
        batch: their number of samples.
        device: where they are made.
        dtype: of floating-point tensors, where it is not as parsed.
    """
    types = types_at(graph, batch)
    tensors = [_filled(types[node.record.name][0], device, dtype) for node in graph.inputs]

    def real(structure: Any) -> Any:
        if isinstance(structure, Result):
            return tensors[structure.index]
        if isinstance(structure, TypeOf):
            return structure.target
        if isinstance(structure, FrozenDict):
            return {key: real(value) for key, value in structure}
        if isinstance(structure, FrozenList):
            return [real(value) for value in structure]
        if type(structure) is tuple:
            return tuple(real(value) for value in structure)
        return structure

    spec = graph.context.forward
    args = [(name, real(value)) for name, value in spec.params]
    positional = tuple(value for name, value in args if name not in spec.keyword_only)
    return positional, {name: value for name, value in args if name in spec.keyword_only}


def _filled(
    kind: TensorType, device: torch.device | str, dtype: torch.dtype | None
) -> torch.Tensor:
    if not (kind.dtype.is_floating_point or kind.dtype.is_complex):
        return torch.zeros(kind.shape, device=device, dtype=kind.dtype)
    numbers = torch.randn(kind.shape, generator=torch.Generator().manual_seed(0))
    wanted = kind.dtype if dtype is None or kind.dtype.is_complex else dtype
    return numbers.to(device=device, dtype=wanted)


def _alone(
    graph: Graph,
    record: NodeRecord,
    types: Mapping[str, tuple[TensorType, ...]],
    batch: int,
    device: torch.device,
) -> Graph:
    """A graph of one node, whose inputs are all that it reads."""
    from retiarii.ir.graph import Graph

    read: dict[Ref, Ref] = {}
    for ref in record.inputs:
        read.setdefault(ref, Ref(f"x{len(read)}"))
    inputs = [
        NodeRecord(new.node, "input", types=(types[old.node][old.index],))
        for old, new in read.items()
    ]

    def concrete(value: Any) -> Any:
        if isinstance(value, InputDevice):
            return device
        return value.at(batch) if isinstance(value, BatchSize) else value

    attrs = {name: map_leaves(concrete, value) for name, value in record.attrs.items()}
    made = types[record.name]
    node = NodeRecord(
        "node",
        record.op,
        tuple(read[ref] for ref in record.inputs),
        type(record.attrs)(attrs),
        made,
        record.result,
        record.path,
        record.fresh,
    )
    context = replace(
        graph.context,
        forward=InputSpec.plain(tuple(r.name for r in inputs)),
        batch=batch,
        batch_input=0,
        sizes=(),
        types=TypeCache(batch),
    )
    outputs = [Ref("node", i) for i in range(len(made))]
    structure = tuple(Result(i) for i in range(len(made)))
    return Graph.build([*inputs, node], outputs, structure, context)
