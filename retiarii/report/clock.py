"""How much time a search had spent when each of its trials ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retiarii.runtime.schema import TERMINAL

if TYPE_CHECKING:
    from retiarii.result import Result


def elapsed(result: Result) -> dict[int, float]:
    """Trial -> seconds in which at least one trial was evaluated, up to its end.

    Nights between two runs of a search do not count, nor does what trials that were taken over
    from an earlier search cost there. Trials that are evaluated side by side count once.
    """
    ends: dict[int, float] = {}
    spans: list[tuple[float, float]] = []
    for trial in result.trials:
        finished = result.row(trial.id).finished
        if trial.state not in TERMINAL or finished is None or trial.carried_from is not None:
            continue
        ends[trial.id] = finished
        if trial.same_as is None and trial.seconds > 0:
            spans.append((finished - trial.seconds, finished))
    merged: list[tuple[float, float]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, stop))
    found = {trial.id: 0.0 for trial in result.trials if trial.carried_from is not None}
    before, at = 0.0, 0
    for number, end in sorted(ends.items(), key=lambda item: (item[1], item[0])):
        while at < len(merged) and merged[at][1] <= end:
            before += merged[at][1] - merged[at][0]
            at += 1
        under_way = max(0.0, end - merged[at][0]) if at < len(merged) else 0.0
        found[number] = before + under_way
    return found
