from __future__ import annotations

from pathlib import Path

import pytest

from retiarii.errors import RetiariiError
from retiarii.mutators.choice import choice, loguniform
from retiarii.runtime.job import Job, JobTrial, point_of
from retiarii.search_space import SearchSpace

RAWS = (("op", 1), ("lr", 0.1 + 0.2))


@pytest.fixture
def space() -> SearchSpace:
    descriptions = {"op": choice(["a", max], "op"), "lr": loguniform(1e-3, 1.0, "lr")}
    return SearchSpace(None, descriptions)


def test_jobs_travel_as_json(space: SearchSpace) -> None:
    point = point_of(space, RAWS)
    trials = (
        JobTrial(3, 2**63 - 1, 1, RAWS, Path("/a/b c"), point),
        JobTrial(4, 5, 0, (), None, limit=3),
    )
    again = Job.from_json(Job(trials, 7, asks=True).to_json())
    assert again == Job(trials, 7, asks=True)
    assert again.trials[0].point is None


def test_point_of_raw_answers(space: SearchSpace) -> None:
    point = point_of(space, RAWS)
    assert point.raws == RAWS
    assert point.hyperparameters == {"op": max, "lr": 0.1 + 0.2}


@pytest.mark.parametrize(
    ("raws", "match"),
    [
        (RAWS[:1], "asks for 'lr'"),
        ((RAWS[1], RAWS[0]), "asks for 'op' where 'lr'"),
        ((*RAWS, ("more", 1)), "never asks for 'more'"),
        ((("op", 2), RAWS[1]), "outside"),
    ],
)
def test_answers_of_another_space(
    space: SearchSpace, raws: tuple[tuple[str, int | float], ...], match: str
) -> None:
    with pytest.raises(RetiariiError, match=match):
        point_of(space, raws)
