"""What an executor is given: trials as numbers and raw answers, never as objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from retiarii.errors import RetiariiError
from retiarii.mutators.choice import Domain, Raw

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

Raws = tuple[tuple[str, Raw], ...]


@dataclass(frozen=True, slots=True)
class JobTrial:
    """One trial to evaluate.

    Attributes:
        number: its number in the search.
        seed: its own seed.
        attempt: 0, and one more each time that it begins afresh after a failure.
        raws: (label, raw answer), in the order asked.
        directory: where its checkpoints are, of this attempt; ``None`` if nothing is kept.
        point: the same, replayed already; only within one process.
        limit: the epoch at which it pauses; ``None`` trains it to its end.
        parent: where the checkpoint of another trial is that it goes on from; ``None`` begins it.
    """

    number: int
    seed: int
    attempt: int
    raws: Raws
    directory: Path | None
    point: Point | None = field(default=None, compare=False, repr=False)
    limit: int | None = None
    parent: Path | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Trials that are evaluated together.

    Attributes:
        trials: these.
        search_seed: the search's seed.
        asks: whether a worker waits for the controller's word when a trial asks whether to stop,
            so that what it had reported by then has been looked at.
        alone: whether its trials are never to be trained with those of another job.
    """

    trials: tuple[JobTrial, ...]
    search_seed: int
    asks: bool = False
    alone: bool = False

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                "search_seed": self.search_seed,
                "asks": self.asks,
                "alone": self.alone,
                "trials": [
                    {
                        "number": t.number,
                        "seed": t.seed,
                        "attempt": t.attempt,
                        "raws": t.raws,
                        "directory": None if t.directory is None else str(t.directory),
                        "limit": t.limit,
                        "parent": None if t.parent is None else str(t.parent),
                    }
                    for t in self.trials
                ],
            }
        )

    @staticmethod
    def from_json(line: str) -> Job:
        """The job that `to_json` wrote."""
        fields = json.loads(line)
        trials = tuple(
            JobTrial(
                t["number"],
                t["seed"],
                t["attempt"],
                tuple((label, raw) for label, raw in t["raws"]),
                None if t["directory"] is None else Path(t["directory"]),
                limit=t["limit"],
                parent=None if t["parent"] is None else Path(t["parent"]),
            )
            for t in fields["trials"]
        )
        return Job(trials, fields["search_seed"], fields["asks"], fields["alone"])


def point_of(space: SearchSpace, raws: Raws) -> Point:
    """The point that stored answers lead to.

    Raises:
        RetiariiError: the space asks for something else than what was answered.
    """
    answers: Iterator[tuple[str, Raw]] = iter(raws)

    def chooser(label: str, domain: Domain) -> Raw:  # noqa: ARG001
        stored, raw = next(answers, (None, 0))
        if stored != label:
            raise _other_space(f"it asks for {label!r} where {stored!r} was decided")
        return raw

    point = space.replay(chooser)
    left = next(answers, None)
    if left is not None:
        raise _other_space(f"it never asks for {left[0]!r}")
    return point


def _other_space(detail: str) -> RetiariiError:
    return RetiariiError(
        f"the space is not the one that these decisions were made in: {detail}",
        fix="a space must depend on nothing but its file and the decisions: no clock, "
        "no unseeded random numbers, no files that change",
    )
