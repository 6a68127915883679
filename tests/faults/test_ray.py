"""Parts of a Ray cluster that end while a search runs on it: an actor's process, a node, all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


class Cluster:
    """A cluster in processes of its own, parts of which can be killed."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("cluster.py")
        clean = {name: value for name, value in os.environ.items() if "RAY_" not in name}
        self._process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**clean, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
        )
        self.address = self._hear()

    def kill(self, part: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{part}\n")
        self._process.stdin.flush()
        assert self._hear() == "killed"

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _hear(self) -> str:
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            assert line, "the cluster has not started"
            if line.startswith(("killed", "127.", "10.", "172.", "192.")):
                return line.strip()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    made = Cluster()
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("part", ["node", "head"])
def test_a_machine_that_is_killed(
    tmp_path: Path,
    space_file: Path,
    undisturbed: Callable[..., Result],
    facts: Any,
    search: Any,
    cluster: Cluster,
    changed: Callable[..., Path],
    part: str,
) -> None:
    """A node's trials go on from their checkpoints on others. Without its head a cluster is none:
    the search ends with what to do, and goes on elsewhere."""
    # Workers of a cluster have a copy of the file's folder; they log where this process looks.
    log = space_file.parent / "epochs.log"
    beside = 'LOG = Path(__file__).parent / "epochs.log"'
    changed(space_file, ("PAUSE = 0.015", "PAUSE = 0.5"), (beside, f"LOG = Path({str(log)!r})"))
    options: dict[str, Any] = {"strategy": "random", "trials": 6, "workers": 2, "retries": 3}
    expected = undisturbed(space_file, **options)
    directory = tmp_path / "search"
    running = search(space_file, directory, executor="ray", address=cluster.address, **options)
    process = running.begin(5)
    cluster.kill(part)
    out, errors = process.communicate(timeout=240)
    if part == "head":
        assert process.returncode == 2
        assert "RetiariiError: the head of the Ray cluster has gone" in errors
        assert "start the cluster again, and run the same command" in errors
        running = search(space_file, directory, executor="local", **options)
        assert running.finish() == "trials"
    else:
        assert process.returncode == 0, errors
        assert out.strip().splitlines()[-1] == "trials"  # Ray tells of the node before
    assert facts(open_result(directory)) == facts(expected)
    trained = len([t for t in expected.trials if t.same_as is None])
    # Nothing twice but the epochs that were under way.
    assert len(running.epochs()) - EPOCHS * trained <= 2
