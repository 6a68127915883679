"""What a worker takes of a cluster's node."""

from __future__ import annotations

from dataclasses import dataclass

from retiarii.errors import RetiariiError


@dataclass(frozen=True, slots=True)
class Need:
    """What a worker takes of a node.

    Attributes:
        cpus: CPUs; ``None``: all of a node's, or a GPU's even share of them.
        gpus: GPUs; below 1, workers share one. ``None``: one, where the cluster has any.

    Raises:
        RetiariiError: a number is below 0, or a part of a GPU and whole ones together.
    """

    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.cpus is not None and not 0 < self.cpus < float("inf"):
            raise RetiariiError(
                f"a worker cannot take {self.cpus:g} CPUs",
                where="Need(cpus=...)",
                fix="give a number above 0",
            )
        gpus = self.gpus
        if gpus is not None and not (0 <= gpus <= 1 or (gpus > 1 and gpus == int(gpus))):
            raise RetiariiError(
                f"a worker cannot take {gpus:g} GPUs",
                where="Need(gpus=...)",
                fix="give a part of one, such as 0.5, or a whole number",
            )
