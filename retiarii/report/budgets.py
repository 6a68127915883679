"""Whether the scores of a search come from equal amounts of training, and what to say if not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.trial_result import TrialResult


def longest(result: Result) -> int | None:
    """The most steps of any complete trial; ``None`` where none reported steps."""
    steps = [t.steps for t in result.trials if t.state == "complete" and t.steps is not None]
    return max(steps, default=None)


def is_short(trial: TrialResult, most: int | None) -> bool:
    """Whether a trial's score comes from less training than others had."""
    if trial.score is None:
        return False
    at = trial.steps
    return trial.state == "pruned" or (most is not None and at is not None and at < most)


def remarks(result: Result) -> list[str]:
    """Lines that say where scores come from unequal amounts of training."""
    most = longest(result)
    complete = [t for t in result.trials if t.state == "complete"]
    short = [t for t in complete if is_short(t, most)]
    pruned = sum(t.state == "pruned" for t in result.trials)
    said = []
    if short:
        least = min(t.steps or 0 for t in short)
        said.append(
            f"unequal training: complete trials had {least} to {most} steps; scores of fewer than "
            f"{most} are marked *"
        )
    if pruned:
        verb = "was" if pruned == 1 else "were"
        said.append(
            f"{pruned} {verb} stopped early: scores of less training, ranked after all others"
        )
    return said
