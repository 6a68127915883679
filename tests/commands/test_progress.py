"""What a search shows of itself: plain lines, or a bar on a terminal."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace

from rich.console import Console

from retiarii.commands.progress import watching
from retiarii.runtime.progress import Progress


def trial(number: int, state: str, score: float | None, **more: object) -> SimpleNamespace:
    fields = {"same_as": None, "error": None}
    return SimpleNamespace(id=number, state=state, score=score, **{**fields, **more})


def progress(kind: str, done: int, **more: object) -> Progress:
    fields = {"total": 10, "resumed": 2, "skipped": 0, "seconds": 4.0}
    return Progress(**{"kind": kind, "done": done, **fields, **more})  # type: ignore[arg-type]


def test_plain_lines_say_best_rate_time_left_and_counts() -> None:
    text = io.StringIO()
    with watching("accuracy", Console(file=text, width=40)) as watch:
        watch(progress("begin", 2, best=(1, 0.5)))
        watch(
            progress("trial", 3, best=(1, 0.5), trial=trial(2, "failed", None, error="Boom\n at"))
        )
        watch(progress("trial", 4, best=(3, 0.75), skipped=1, trial=trial(3, "complete", 0.75)))
        watch(progress("trial", 6, best=(4, 0.8), trial=trial(4, "complete", 0.8, same_as=3)))
    lines = text.getvalue().splitlines()
    assert lines[0] == "resuming: 2 of 10 trials are done"
    assert lines[1] == "trial 2 failed: Boom"
    assert lines[2] == (
        "4/10  trial 3: accuracy 0.75  [best accuracy 0.75 (trial 3), 30/min, 12 s left, "
        "2 kept, 1 infeasible, 1 failed]"
    )
    assert "trial 4: accuracy 0.8 (the same as trial 3)" in lines[3]
    assert "1 reused" in lines[3]


def test_the_cohort_that_runs_is_shown() -> None:
    note = "cohort of 16: 1012 calls as 105"
    text = io.StringIO()
    with watching("accuracy", Console(file=text, width=40)) as watch:
        watch(progress("note", 2, note=note))
    assert text.getvalue() == f"{note}\n"
    bar = io.StringIO()
    console = Console(file=bar, width=180, force_terminal=True, legacy_windows=False)
    with watching("accuracy", console) as watch:
        watch(progress("note", 2, note=note))
        running = trial(2, "running", None)
        watch(progress("step", 2, trial=running, step=3, metrics={"accuracy": 0.7}))
        while f"{note}; trial 2: step 3, 0.7" not in bar.getvalue():
            time.sleep(0.01)


def test_a_thousand_failures_are_not_a_thousand_lines() -> None:
    text = io.StringIO()
    with watching("score", Console(file=text, width=200)) as watch:
        for number in range(1000):
            watch(progress("trial", number, trial=trial(number, "failed", None, error="Boom")))
    lines = [line for line in text.getvalue().splitlines() if "only counted" not in line]
    assert len(lines) < 10


def test_bar_on_a_terminal_leaves_only_failures_behind() -> None:
    text = io.StringIO()
    console = Console(file=text, width=150, force_terminal=True, legacy_windows=False)
    with watching("accuracy", console) as watch:
        watch(progress("begin", 0, resumed=0))
        while "starting" not in text.getvalue().partition("0/10")[2]:
            time.sleep(0.01)
        watch(progress("begin", 2))
        watch(
            progress("step", 2, trial=trial(2, "running", None), step=3, metrics={"accuracy": 0.7})
        )
        while "trial 2: step 3, 0.7" not in text.getvalue():  # drawn by a thread, ten a second
            time.sleep(0.01)
        watch(progress("trial", 3, trial=trial(2, "failed", None, error="[Boom]")))
    assert "trial 2 failed: [Boom]" in text.getvalue()
