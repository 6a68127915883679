"""Where on a cluster's nodes workers can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retiarii.runtime.cluster.need import Need
from retiarii.runtime.executor import Device

# A node, as `ray.nodes()` tells of it.
Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spot:
    """A device of the cluster, and what an actor asks for to be there."""

    device: Device
    node: str
    cpus: float
    gpus: float


class Names:
    """A name for each node: its address, and a number where several nodes have the same one."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # node's id -> name

    def of(self, nodes: Sequence[Node]) -> dict[str, str]:
        """The names of the nodes that there are now; a node keeps its own."""
        alive = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        self._names = {node: name for node, name in self._names.items() if node in alive}
        taken = set(self._names.values())
        for node, address in alive.items():
            if node not in self._names:
                name, count = address, 1
                while name in taken:
                    count += 1
                    name = f"{address}-{count}"
                self._names[node] = name
                taken.add(name)
        return self._names


def spots_on(
    nodes: Sequence[Node], names: Mapping[str, str], need: Need, workers: int | None
) -> tuple[Spot, ...]:
    """Where workers can be.

    Args:
        nodes: those that are alive.
        names: of each, by its id.
        need: what a worker takes.
        workers: how many at most; CPUs are then divided among so many.
    """
    ordered = sorted(nodes, key=lambda node: (node["NodeManagerAddress"], node["NodeID"]))
    gpus = any(node["Resources"].get("GPU", 0) for node in nodes) and need.gpus != 0
    share = None if workers is None else -(-workers // max(1, len(nodes)))
    spots = [
        spot
        for node in ordered
        for spot in (
            _on_gpus(node, names[node["NodeID"]], need)
            if gpus
            else _on_cpus(node, names[node["NodeID"]], need, share)
        )
    ]
    return tuple(spots if workers is None else spots[:workers])


def _on_cpus(node: Node, name: str, need: Need, share: int | None) -> list[Spot]:
    has = float(node["Resources"].get("CPU", 0))
    if not has:
        return []
    if need.cpus is not None:
        count, cpus = int(has // need.cpus), need.cpus
    else:
        count = 1 if share is None else min(share, max(1, int(has)))
        cpus = float(int(has // count)) or has
    return [Spot(Device(f"{name}/cpu:{i}", "cpu"), node["NodeID"], cpus, 0.0) for i in range(count)]


def _on_gpus(node: Node, name: str, need: Need) -> list[Spot]:
    has = node["Resources"]
    each = 1.0 if need.gpus is None else need.gpus
    kind = next((k.split(":", 1)[1] for k in has if k.startswith("accelerator_type:")), "cuda")
    lanes = max(1, int(1 / each + 1e-9))  # 1 / (1 / 49) is less than 49
    gpus = int(has.get("GPU", 0))
    total = gpus * lanes if each <= 1 else int(gpus // each)
    cpus = need.cpus if need.cpus is not None else float(int(has.get("CPU", 0) // max(1, total)))
    if cpus:
        total = min(total, int(has.get("CPU", 0) // cpus))
    spots = []
    for index in range(total):
        gpu, lane = divmod(index, lanes)
        label = f"{name}/cuda:{gpu}" + (f"/{lane}" if lane else "")
        spots.append(Spot(Device(label, kind), node["NodeID"], cpus, each))
    return spots
