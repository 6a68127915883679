"""What a worker takes of a cluster's node."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Need:
    """What a worker takes of a node.

    Attributes:
        cpus: CPUs; ``None``: all of a node's, or a GPU's even share of them.
        gpus: GPUs; below 1, workers share one. ``None``: one, where the cluster has any.
    """

    cpus: float | None = None
    gpus: float | None = None
