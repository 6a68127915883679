"""A wall clock that is set back while a search runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retiarii.experiment import Experiment
from retiarii.result import Result
from retiarii.runtime.source import load_space_file


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Each look at the wall clock finds it a day earlier; answers how often it was looked at."""
    looks = 0
    now = time.time()

    def wrong() -> float:
        nonlocal looks
        looks += 1
        return now - 86_400.0 * looks

    monkeypatch.setattr(time, "time", wrong)
    return lambda: looks


def test_durations_and_budgets_are_of_a_clock_that_never_goes_back(
    tmp_path: Path,
    space_file: Path,
    undisturbed: Callable[..., Result],
    facts: Any,
    backwards: Callable[[], int],
) -> None:
    loaded = load_space_file(space_file)
    options: dict[str, Any] = {"strategy": "random", "trials": 6}
    expected = undisturbed(space_file, **options)

    def run(**more: Any) -> Result:
        return Experiment(
            loaded.space,
            loaded.evaluator,
            directory=tmp_path / "search",
            source=loaded,
            **options,
            **more,
        ).run()

    # Some of it within a budget that a clock that goes back would never spend.
    assert run(budget=0.1).ended == "time"
    began = time.monotonic()
    result = run(budget=600)
    assert backwards() > 10
    assert facts(result) == facts(expected)
    for trial in result.trials:
        if trial.same_as is None:  # four epochs, each at least 15 ms
            assert 0.05 < trial.seconds < 60 + time.monotonic() - began
