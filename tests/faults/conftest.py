from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retiarii.errors import StoreError
from retiarii.experiment import Experiment
from retiarii.result import Result, open_result
from retiarii.runtime.source import load_space_file

DRIVER = Path(__file__).parents[1] / "driver.py"
# An evaluator that can give its device back: it looks after each epoch.
GENTLE = "            yield\n            trial.should_stop()\n"


class Search:
    """The command of one search, run as often as needed."""

    def __init__(self, file: Path, directory: Path, **options: Any) -> None:
        self.command = [sys.executable, str(DRIVER), str(file), str(directory)]
        self.command.append(json.dumps(options))
        self.directory = directory
        self.log = file.parent / "epochs.log"

    def start(self, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    def epochs(self) -> list[tuple[int, int, int]]:
        """(trial, epoch, pid) as run so far."""
        if not self.log.exists():
            return []
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return [(int(n), int(e), int(pid)) for n, e, pid in (x for x in lines if len(x) == 3)]

    def begin(self, epochs: int, **options: Any) -> subprocess.Popen[str]:
        """Starts it, and returns once ``epochs`` have been begun in all."""
        process = self.start(**options)
        deadline = time.monotonic() + 120
        while len(self.epochs()) < epochs:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        return process

    def kill_after(self, epochs: int) -> None:
        """Starts it, and kills the controller once ``epochs`` have been begun in all."""
        process = self.begin(epochs)
        process.kill()
        process.communicate()

    def interrupt_after(self, epochs: int, times: int = 1) -> tuple[str, str]:
        """Likewise with Ctrl-C, which reaches the whole process group, as from a terminal."""
        process = self.begin(epochs, start_new_session=True)
        for again in range(times):
            time.sleep(0.2 * bool(again))
            os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        return out.strip(), errors.strip()

    def finish(self) -> str:
        process = self.start()
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return out.strip()

    def complete(self) -> set[int]:
        try:
            return {t.id for t in open_result(self.directory).trials if t.state == "complete"}
        except StoreError:
            return set()


@pytest.fixture
def search(epochs_file: Path) -> Callable[..., Search]:
    return Search


@pytest.fixture
def space_file(epochs_file: Path) -> Path:
    return epochs_file


@pytest.fixture
def cohort_file(epochs_file: Path) -> Path:
    """The same search, whose evaluator takes trials together: it runs an epoch of each in turn."""
    return _changed(epochs_file, ("merges = False", "merges = True"))


@pytest.fixture
def gentle_file(cohort_file: Path) -> Path:
    """Likewise, and it can give its device back."""
    change = ("merges = True", "merges = True\n    pauses = True")
    return _changed(cohort_file, change, ("            yield\n", GENTLE))


def _changed(file: Path, *changes: tuple[str, str]) -> Path:
    text = file.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file.write_text(text)
    return file


@pytest.fixture
def changed() -> Callable[..., Path]:
    """Replaces texts in a file, each of which must be there once."""
    return _changed


@pytest.fixture
def facts() -> Callable[[Result], list[Any]]:
    """What must not depend on what happened to a search."""

    def of(result: Result) -> list[Any]:
        return [
            (t.id, t.state, dict(t.decisions), t.score, t.same_as, t.history) for t in result.trials
        ]

    return of


@pytest.fixture
def undisturbed() -> Callable[..., Result]:
    """Runs the search of a file in this process, and forgets what it has logged."""

    def run(file: Path, **options: Any) -> Result:
        loaded = load_space_file(file)
        result = Experiment(loaded.space, loaded.evaluator, **options).run()
        (file.parent / "epochs.log").unlink(missing_ok=True)
        return result

    return run
