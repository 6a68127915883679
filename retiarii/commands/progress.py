"""How a search is getting on: a bar on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from retiarii.commands.common import score_text, seconds_text

if TYPE_CHECKING:
    from retiarii.runtime.progress import Progress

# So many failures are told one by one; the others are counted.
_FAILURES_TOLD = 3
# A search of a thousand trials a second does not print a thousand lines a second.
_LINE_SECONDS = 1.0

Watcher = Callable[["Progress"], None]


@dataclass
class Tally:
    """Counts what happened, and says it.

    Attributes:
        metric: the score's name.
        reused: trials that took over the score of an equal one, in this process.
        failed: trials that failed, in this process.
    """

    metric: str
    reused: int = 0
    failed: int = 0

    def note(self, progress: Progress) -> None:
        trial = progress.trial
        if progress.kind == "trial" and trial is not None:
            self.reused += trial.same_as is not None
            self.failed += trial.state == "failed"

    def status(self, progress: Progress) -> str:
        """Best, rate, time left and counts, in one line."""
        parts = []
        if progress.best is not None:
            number, score = progress.best
            parts.append(f"best {self.metric} {score_text(score)} (trial {number})")
        new = progress.done - progress.resumed
        if new and progress.seconds > 0:
            rate = new / progress.seconds
            parts.append(f"{rate:.3g}/s" if rate >= 1 else f"{rate * 60:.2g}/min")
            left = (progress.total - progress.done) / rate
            if left > 0:
                parts.append(f"{seconds_text(left)} left")
        counts = (
            (progress.resumed, "kept"),
            (self.reused, "reused"),
            (progress.skipped, "infeasible"),
            (self.failed, "failed"),
        )
        parts += [f"{count} {name}" for count, name in counts if count]
        return ", ".join(parts)

    def ended(self, progress: Progress) -> str:
        """One line on the trial that has just ended."""
        trial = progress.trial
        assert trial is not None
        if trial.state == "failed":
            return f"trial {trial.id} failed: {(trial.error or '').splitlines()[0]}"
        how = f" (the same as trial {trial.same_as})" if trial.same_as is not None else ""
        how += " (pruned)" if trial.state == "pruned" else ""
        return f"trial {trial.id}: {self.metric} {score_text(trial.score)}{how}"

    def failure(self, progress: Progress) -> str | None:
        """What to say about a failure, if it is one of those told."""
        trial = progress.trial
        if progress.kind != "trial" or trial is None or trial.state != "failed":
            return None
        if self.failed > _FAILURES_TOLD:
            return None
        line = self.ended(progress)
        return (
            f"{line} (further failures are only counted)" if self.failed == _FAILURES_TOLD else line
        )


@contextmanager
def watching(metric: str, console: Console) -> Iterator[Watcher]:
    """A watcher for an experiment, shown on ``console`` while it runs."""
    tally = Tally(metric)
    if not console.is_terminal:
        yield _Lines(tally, console)
        return
    bar = Bar(
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TextColumn("[dim]{task.fields[current]}"),
        console=console,
        transient=True,
    )
    with bar:
        yield _OnBar(tally, bar)


class _OnBar:
    def __init__(self, tally: Tally, bar: Bar) -> None:
        self._tally = tally
        self._bar = bar
        self._task = bar.add_task("", total=None, status="starting", current="")
        self._note = ""

    def __call__(self, progress: Progress) -> None:
        self._tally.note(progress)
        self._note = progress.note or self._note
        failure = self._tally.failure(progress)
        if failure is not None:
            self._bar.console.print(f"[red]{escape(failure)}", highlight=False)
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.done,
            status=escape(self._tally.status(progress) or "starting"),
            current=escape(self._current(progress)),
        )

    def _current(self, progress: Progress) -> str:
        trial, metrics = progress.trial, progress.metrics
        if progress.kind != "step" or trial is None or metrics is None:
            return self._note
        score = metrics.get(self._tally.metric)
        shown = f", {score_text(score)}" if score is not None else ""
        step = f"trial {trial.id}: step {progress.step}{shown}"
        return f"{self._note}; {step}" if self._note else step


class _Lines:
    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._console = console
        self._best: tuple[int, float] | None = None
        self._shown = 0.0

    def __call__(self, progress: Progress) -> None:
        self._tally.note(progress)
        failure = self._tally.failure(progress)
        if failure is not None:
            self._print(failure)
        if progress.note is not None:
            self._print(progress.note)
        elif progress.kind == "begin":
            self._best = progress.best
            if progress.resumed:
                self._print(f"resuming: {progress.resumed} of {progress.total} trials are done")
        elif progress.kind == "trial" and failure is None:
            now = time.monotonic()
            if progress.best != self._best or now - self._shown >= _LINE_SECONDS:
                self._best, self._shown = progress.best, now
                done = f"{progress.done}/{progress.total}"
                self._print(
                    f"{done}  {self._tally.ended(progress)}  [{self._tally.status(progress)}]"
                )

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
