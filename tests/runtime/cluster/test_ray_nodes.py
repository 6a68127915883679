"""A cluster of several nodes, all on this machine: they join, and are in use by others."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retiarii.errors import RetiariiError
from retiarii.runtime.cluster import executor as module
from retiarii.runtime.cluster.executor import RayExecutor
from retiarii.runtime.executor import Yielded
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.source import FileSource, load_space_file
from retiarii.training.events import Failed, Finished, Noted, TrialEvent

pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.slow

# A head without CPUs, and a node with one, which an actor of somebody else's uses.
_CLUSTER = """
import sys
import ray
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)

@ray.remote(num_cpus=1)
class Other:
    def up(self):
        return True

other = Other.remote()
ray.get(other.up.remote())
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "join":
        nodes.append(cluster.add_node(num_cpus=1))
    elif line.strip() == "free":
        ray.kill(other)
    print("done", flush=True)
ray.shutdown()
for node in [*nodes, cluster.head_node]:
    node.kill_all_processes(check_alive=False, allow_graceful=False)
"""
_SPACE = """
import helper
import retiarii as rt

space = None
evaluator = rt.Function(
    lambda trial: trial.hyperparameters["x"] * helper.SCALE,
    hyperparameters={"x": rt.choice([1, 2, 3])},
)
"""
_PATIENCE_SECONDS = 120.0
Tell = Callable[[str], None]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, Tell]]:
    """Its address, and what it is told: ``join`` or ``free``."""
    said = tmp_path / "cluster.err"
    with said.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        address = process.stdout.readline().strip()
        assert address, said.read_text()

        def tell(word: str) -> None:
            print(word, file=process.stdin, flush=True)
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "done"

        yield address, tell
        process.stdin.close()
        process.wait(timeout=60)


def test_a_busy_cluster_is_waited_for_and_a_new_node_is_used(
    cluster: tuple[str, Tell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, tell = cluster
    file = tmp_path / "project" / "space.py"
    file.parent.mkdir()
    file.write_text(_SPACE)
    (file.parent / "helper.py").write_text("SCALE = 10.0\n")
    source = FileSource(file, load_space_file(file).digest)

    # A folder that Ray does not bring to the nodes is told with what to do about it.
    with (file.parent / "data.bin").open("wb") as data:
        data.truncate(600 << 20)
    with pytest.raises(RetiariiError, match="no connection to Ray") as told:
        RayExecutor(source, tmp_path, address)
    assert ".rayignore" in (told.value.fix or "")
    (file.parent / ".rayignore").write_text("data.bin\n")

    monkeypatch.setattr(module, "WAIT_SECONDS", 3.0)
    executor = RayExecutor(source, tmp_path, address)
    events: list[TrialEvent] = []

    def until(fits: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not fits():
            assert time.monotonic() < deadline, events
            executor.poll(0.2, events.append)
        assert not [e for e in events if isinstance(e, Failed)]

    def scores() -> dict[int, float]:
        return {e.number: e.score for e in events if isinstance(e, Finished)}

    try:
        (first,) = executor.devices()
        executor.submit(_job(0), first.name)
        until(lambda: any(isinstance(e, Noted) for e in events))
        assert [e for e in events if not isinstance(e, Noted)] == []
        # What has no place is given back when it is asked for, and not when there is room.
        executor.leave([0])
        until(lambda: any(isinstance(e, Yielded) for e in events))
        executor.submit(_job(0), first.name)
        tell("join")
        until(lambda: len(executor.devices()) == 2)
        (second,) = [d for d in executor.devices() if d != first]
        executor.submit(_job(1), second.name)
        until(lambda: 1 in scores())
        assert 0 not in scores()
        tell("free")
        until(lambda: 0 in scores())
    finally:
        executor.shutdown()
    assert scores() == {0: 10.0, 1: 20.0}
    assert len([e for e in events if isinstance(e, Noted)]) == 1


def _job(number: int) -> Job:
    return Job((JobTrial(number, number, 0, (("x", number),), None),), 0)
