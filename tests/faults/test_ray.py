"""Parts of a Ray cluster that end while a search runs on it: an actor's process, a node, all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retiarii.experiment import Experiment
from retiarii.result import Result, open_result
from retiarii.runtime.progress import Progress
from retiarii.runtime.source import load_space_file

pytest.importorskip("ray", reason="Ray is not installed")

EPOCHS = 4


def run(file: Path, **options: Any) -> Result:
    loaded = load_space_file(file)
    return Experiment(
        loaded.space, loaded.evaluator, "random", source=loaded, executor="ray", **options
    ).run()


def pids(file: Path) -> list[int]:
    log = file.parent / "epochs.log"
    return [int(line.split()[2]) for line in log.read_text().splitlines()] if log.exists() else []


class After:
    """Does something once, after so many reports.

    Args:
        reports: how many.
        act: what.
    """

    def __init__(self, reports: int, act: Callable[[], None]) -> None:
        self._left = reports
        self._act = act

    def __call__(self, progress: Progress) -> None:
        if progress.kind == "step":
            self._left -= 1
            if self._left == 0:
                self._act()


def test_an_actor_whose_process_is_killed(
    tmp_path: Path, space_file: Path, undisturbed: Callable[..., Result], facts: Any
) -> None:
    options: dict[str, Any] = {"trials": 6, "workers": 2}
    expected = undisturbed(space_file, strategy="random", **options)
    killed: list[int] = []

    def kill() -> None:
        killed.append(pids(space_file)[-1])
        os.kill(killed[0], signal.SIGKILL)

    directory = tmp_path / "search"
    result = run(space_file, directory=directory, progress=After(5, kill), **options)
    assert facts(result) == facts(expected)
    assert len(pids(space_file)) - 4 * len([t for t in result.trials if t.same_as is None]) <= 1
    assert killed[0] not in pids(space_file)[-3:]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs, and two nodes of one each, as processes of this machine."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.nodes = [made.add_node(num_cpus=1), made.add_node(num_cpus=1)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_node_that_is_killed(
    tmp_path: Path,
    space_file: Path,
    undisturbed: Callable[..., Result],
    facts: Any,
    cluster: Any,
    changed: Callable[..., Path],
) -> None:
    """Its trials go on from their checkpoints on the nodes that are left."""
    changed(space_file, ("PAUSE = 0.015", "PAUSE = 0.3"))
    options: dict[str, Any] = {"trials": 6, "workers": 2, "retries": 3}
    expected = undisturbed(space_file, strategy="random", **options)

    def kill() -> None:
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    directory = tmp_path / "search"
    result = run(
        space_file,
        directory=directory,
        address=cluster.address,
        progress=After(5, kill),
        **options,
    )
    assert facts(result) == facts(expected)
    trained = len([t for t in result.trials if t.same_as is None])
    assert len(pids(space_file)) - EPOCHS * trained <= 1


@pytest.mark.slow
def test_a_head_that_is_killed(
    tmp_path: Path,
    space_file: Path,
    undisturbed: Callable[..., Result],
    facts: Any,
    search: Any,
    cluster: Any,
    changed: Callable[..., Path],
) -> None:
    """The search ends with what to do, in a process of its own; it goes on elsewhere."""
    changed(space_file, ("PAUSE = 0.015", "PAUSE = 0.3"))
    options: dict[str, Any] = {"strategy": "random", "trials": 6, "workers": 2}
    expected = undisturbed(space_file, **options)
    directory = tmp_path / "search"
    running = search(space_file, directory, executor="ray", address=cluster.address, **options)
    process = running.begin(5)
    cluster.shutdown()
    out, errors = process.communicate(timeout=180)
    assert process.returncode != 0
    assert "RetiariiError" in errors
    assert "the same command" in errors
    del out
    running = search(space_file, directory, executor="local", **options)
    assert running.finish() == "trials"
    assert facts(open_result(directory)) == facts(expected)
