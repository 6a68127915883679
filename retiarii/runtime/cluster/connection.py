"""The one file that imports Ray: connecting to a cluster, its devices, its actors."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster.actor import Word, Worker
from retiarii.runtime.cluster.need import Need
from retiarii.runtime.cluster.reaching import (
    HERE,
    be_brief,
    be_private,
    check_head,
    check_reachable,
)
from retiarii.runtime.cluster.spots import Names, Spot, spots_on
from retiarii.runtime.worker import without_interrupts

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
# Ray's own switch between clusters of machines and one machine alone.
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# The exit code of the command line for errors that a user can act on.
_ERROR = 2
_FIX_HERE = "see whether the search runs with --executor local; Ray may lack memory or disk"
_FIX_THERE = (
    "run this on a machine of the cluster, with the same versions of Ray and Python (ray status "
    "says more); the space file's folder must be below 500 MB: name what no worker needs in a "
    "file .rayignore there"
)


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
            without either, or with ``local``, Ray is started here and listens on 127.0.0.1 alone.
        folder: the space file's; Ray brings it to the nodes.

    Raises:
        RetiariiError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str | None, folder: Path) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or HERE
        self.here = address == HERE
        self._room = be_private() if self.here else None
        self._headless = False
        try:
            if not self.here:
                check_reachable(address)
                be_brief()
            self._ray = import_ray()
            self._connect(address, folder)
        except BaseException:
            self._clear()
            raise
        self._names = Names()

    def _connect(self, address: str, folder: Path) -> None:
        if self._ray.is_initialized():
            raise RetiariiError(
                "Ray is connected already in this process",
                where='executor="ray"',
                fix="call ray.shutdown() first, and give the cluster's address: "
                'Experiment(executor="ray", address=...)',
            )
        # Nothing that Ray says by itself asks for anything of a user here; what goes wrong is
        # raised.
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        options: dict[str, Any]
        if self.here:
            # Everything is here already.
            # Below our folder, since Ray lets everybody into the one that it is given.
            options = {"include_dashboard": False, "_temp_dir": f"{self._room}/r"}
            self._local_only(True)
        else:
            package = str(Path(__file__).parents[2])
            environment = {
                "working_dir": str(folder),
                "py_modules": [package],
                "excludes": list(_LEFT_OUT),
            }
            options = {"runtime_env": environment}
        try:
            with without_interrupts():
                self._ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    **options,
                )
            self._check_local()
        except Exception as error:  # Ray has no common class for what may go wrong here
            self.close()
            raise RetiariiError(
                f"no connection to Ray: {_first_line(error)}",
                where="a cluster on this machine" if self.here else f"--address {address}",
                fix=_FIX_HERE if self.here else _FIX_THERE,
            ) from error

    def _local_only(self, wanted: bool) -> None:
        """Has Ray bind to 127.0.0.1 and not to all addresses; it reads the variable on import."""
        if wanted:
            os.environ[_CLUSTERS] = "0"
        else:
            os.environ.pop(_CLUSTERS, None)
        self._ray._private.ray_constants.ENABLE_RAY_CLUSTER = not wanted

    def _check_local(self) -> None:
        addresses = [node["NodeManagerAddress"] for node in self._ray.nodes()]
        if self.here and any(not each.startswith("127.") for each in addresses):
            raise RetiariiError(
                f"this version of Ray listens on {addresses[0]}, not on this machine alone",
                fix="use the version of Ray that retiarii is tested with",
            )

    def spots(self, need: Need, workers: int | None) -> tuple[Spot, ...]:
        """Where workers can be now, on nodes that are alive; see `spots_on`.

        Raises:
            RetiariiError: the cluster's head has gone.
        """
        try:
            check_head(self._ray.get_runtime_context().gcs_address)
        except RetiariiError:
            self._headless = True
            raise
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return spots_on(nodes, self._names.of(nodes), need, workers)

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
        if self._headless:  # there is nobody to ask; it ends with its job
            return
        with suppress(Exception):  # it, or the cluster, may have gone
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """Leaves the cluster; ends one that was started here."""
        if self._headless:
            self._forget()
        else:
            with suppress(Exception):
                self._ray.shutdown()
        if self.here:
            self._local_only(False)
        self._clear()

    def _forget(self) -> None:
        """Keeps Ray from asking a head that has gone, at this process's end or when it tells an
        error: it would wait a minute for it, and then end the process without a word."""
        atexit.unregister(self._ray.shutdown)
        atexit.register(_leave_process)
        worker = self._ray._private.worker
        if sys.excepthook is getattr(worker, "custom_excepthook", None):
            sys.excepthook = sys.__excepthook__

    def _clear(self) -> None:
        if self._room is not None:
            shutil.rmtree(self._room, ignore_errors=True)


def _leave_process() -> None:
    """Ends this process, after what else is to be done at its end: Ray's threads, left as they
    are, would crash it. The search ended with an error, and so does the process."""
    atexit.unregister(_leave_process)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(_ERROR)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
