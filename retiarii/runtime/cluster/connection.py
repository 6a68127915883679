"""The one file that imports Ray: connecting to a cluster, its devices, its actors."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.actor import Word, Worker
from retiarii.runtime.cluster.need import Need
from retiarii.runtime.executor import Device

# Actors answer while they work: one thread waits for words, others take messages.
_THREADS = 8
# What no node needs of the space file's folder.
_LEFT_OUT = (
    ".git/",
    ".venv/",
    "venv/",
    "runs/",
    "__pycache__/",
    ".*_cache/",
    "search.db*",
    "trials/",
)


@dataclass(frozen=True, slots=True)
class Spot:
    """A device of the cluster, and what an actor asks for to be there."""

    device: Device
    node: str
    cpus: float
    gpus: float


def import_ray() -> Any:
    """Ray itself.

    Raises:
        RetiariiError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise RetiariiError(
            "Ray is not installed",
            where='executor="ray"',
            fix='install it here and on every node: pip install "retiarii[ray]"; or use '
            "--executor local on one machine",
        ) from error
    return ray


class Connection:
    """A connection to a cluster, or to one that is started on this machine alone.

    Args:
        address: the cluster's: ``host:port``, ``auto``, or what the variable RAY_ADDRESS says;
            without either, Ray is started here and listens on 127.0.0.1 alone.
        folder: the space file's; Ray brings it to the nodes.

    Raises:
        RetiariiError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str | None, folder: Path) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or None
        if address is None:
            # Read by Ray when it is imported: without clusters it binds to 127.0.0.1 only.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray = import_ray()
        if self._ray.is_initialized():
            raise RetiariiError(
                "Ray is connected already in this process",
                where='executor="ray"',
                fix="call ray.shutdown() first, and give the cluster's address: "
                'Experiment(executor="ray", address=...)',
            )
        self._here = address is None
        # A warning of Ray's about its own token says nothing that a user here must act on.
        logging.getLogger("ray").setLevel(logging.ERROR)
        package = Path(__file__).parents[2]
        environment = {
            "working_dir": str(folder),
            "py_modules": [str(package)],
            "excludes": list(_LEFT_OUT),
        }
        extra: dict[str, Any] = {"include_dashboard": False} if self._here else {}
        try:
            self._ray.init(
                address="local" if self._here else address,
                runtime_env=environment,
                log_to_driver=True,
                logging_level=logging.ERROR,
                **extra,
            )
        except Exception as error:  # Ray has no common class for what may go wrong here
            raise RetiariiError(
                f"no connection to Ray: {_first_line(error)}",
                where=address or "a cluster on this machine",
                fix="see that the cluster is up (ray status) and runs the same versions of Ray "
                "and Python; the space file's folder must be below 500 MB without its runs/",
            ) from error

    def spots(self, need: Need, workers: int | None) -> tuple[Spot, ...]:
        """Where workers can be now, on nodes that are alive.

        Args:
            need: what each takes.
            workers: how many at most; CPUs are then divided among so many.
        """
        nodes = sorted(
            (node for node in self._ray.nodes() if node["Alive"]),
            key=lambda node: (node["NodeManagerAddress"], node["NodeID"]),
        )
        gpus = any(node["Resources"].get("GPU", 0) for node in nodes) and need.gpus != 0
        share = None if workers is None else -(-workers // max(1, len(nodes)))
        spots = [spot for node in nodes for spot in _of_node(node, need, gpus, share)]
        return tuple(spots if workers is None else spots[:workers])

    def start(self, spot: Spot, arguments: tuple[Any, ...]) -> Any:
        """An actor in a spot; Ray waits until the node has room for it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = self._ray.remote(Worker).options(
            num_cpus=spot.cpus,
            num_gpus=spot.gpus,
            max_concurrency=_THREADS,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(spot.node, soft=False),
        )
        return remote.remote(*arguments)

    def ready(self, calls: Sequence[Any], timeout: float) -> set[Any]:
        """Those of the calls that have an answer; waits for one of them."""
        if not calls:
            return set()
        found, _ = self._ray.wait(list(calls), num_returns=1, timeout=timeout)
        more, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        return {*found, *more}

    def answer(self, call: Any) -> list[Word] | dict[str, Any] | str:
        """What a call has answered; a text says how its actor ended."""
        try:
            answer: list[Word] | dict[str, Any] = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return _first_line(error)
        return answer

    def kill(self, actor: Any) -> None:
        """Ends an actor at once."""
        with suppress(Exception):  # it, or the cluster, may have gone
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Leaves the cluster; ends one that was started here."""
        with suppress(Exception):
            self._ray.shutdown()


def _of_node(node: dict[str, Any], need: Need, gpus: bool, share: int | None) -> list[Spot]:
    name, has = node["NodeManagerAddress"], node["Resources"]
    all_cpus = float(has.get("CPU", 0))
    if not gpus:
        count = 1 if need.cpus is None else int(all_cpus // need.cpus)
        if share is not None and need.cpus is None:
            count = min(share, max(1, int(all_cpus)))
        cpus = need.cpus if need.cpus is not None else float(int(all_cpus // max(1, count)))
        if cpus > all_cpus or not all_cpus:
            return []
        return [
            Spot(Device(f"{name}/cpu:{i}", "cpu"), node["NodeID"], cpus, 0.0) for i in range(count)
        ]
    each = 1.0 if need.gpus is None else need.gpus
    kind = next((k.split(":", 1)[1] for k in has if k.startswith("accelerator_type:")), "cuda")
    lanes = max(1, int(1 / each)) if each < 1 else 1
    total = int(has.get("GPU", 0) / each) if each >= 1 else int(has.get("GPU", 0)) * lanes
    cpus = need.cpus if need.cpus is not None else float(int(all_cpus // max(1, total)))
    spots = []
    for index in range(total):
        gpu, lane = divmod(index, lanes)
        label = f"{name}/cuda:{gpu}" + (f"/{lane}" if lane else "")
        spots.append(Spot(Device(label, kind), node["NodeID"], cpus, each))
    return spots


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
