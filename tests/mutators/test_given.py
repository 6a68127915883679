"""Points of which some decisions are given: the rest is drawn, until all that is given is asked."""

from __future__ import annotations

from typing import Any

import pytest

from retiarii.errors import SpaceError
from retiarii.mutators.choice import Description, choice, loguniform, randint, uniform
from retiarii.mutators.given import PartialRecorder
from retiarii.search_space import SearchSpace


@pytest.fixture
def space() -> SearchSpace:
    choices: dict[str, Description] = {
        "kind": choice(["a", (1, 2), 3]),
        "x": uniform(0.0, 1.0),
        "rate": loguniform(1e-4, 1.0),
        "n": randint(1, 5),
    }
    return SearchSpace(None, choices)


def test_what_is_given_is_kept_and_the_rest_follows_from_the_seed(space: SearchSpace) -> None:
    one = space.complete({"n": 2}, 0)
    assert one.values["n"] == 2
    assert one.values == space.complete({"n": 2}, 0).values
    assert one.values != space.complete({"n": 2}, 1).values
    full = {"kind": (1, 2), "x": 0.5, "rate": 0.1, "n": 4}
    assert space.complete(full, 0).values == full


def test_values_as_json_has_them(space: SearchSpace) -> None:
    assert space.complete({"kind": [1, 2]}, 0).values["kind"] == (1, 2)
    assert space.complete({"kind": "3"}, 0).values["kind"] == 3
    assert space.complete({"x": 1}, 0).values["x"] == 1


@pytest.mark.parametrize("value", ["two", None, True, 9, float("nan"), [1]])
@pytest.mark.parametrize("label", ["x", "n"])
def test_what_is_no_number_in_the_range(label: str, value: Any, space: SearchSpace) -> None:
    with pytest.raises(SpaceError, match=f"is not in the range of '{label}'"):
        space.complete({label: value}, 0)
    full = {"kind": "a", "x": 0.5, "rate": 0.1, "n": 4}
    with pytest.raises(SpaceError, match=f"is not in the range of '{label}'"):
        space.freeze({**full, label: value})


def test_labels_that_nothing_asks_for(space: SearchSpace) -> None:
    with pytest.raises(SpaceError, match="'m' was given, but nothing asked for it"):
        space.complete({"m": 1}, 0)
    assert "m" not in space.complete({"m": 1}, 0, all_asked=False).values


class Conditional(SearchSpace):
    """Asks for ``deep`` in one of ten branches only."""

    def __init__(self) -> None:
        super().__init__(None, {"branch": choice(list(range(10)), "branch")})
        self.replays = 0

    def _replay(self, recorder: Any) -> Any:
        self.replays += 1
        point = super()._replay(recorder)
        if point.hyperparameters["branch"] == 7:
            recorder.ask("deep", choice([1, 2], "deep"))
        return point


def test_draws_are_repeated_until_a_conditional_label_is_asked() -> None:
    space = Conditional()
    assert space.complete({"deep": 2}, 0).values["branch"] == 7
    assert space.replays > 1


def test_a_wrong_value_is_not_drawn_for_again() -> None:
    space = Conditional()
    with pytest.raises(SpaceError, match="none of the options"):
        space.complete({"branch": 11}, 0)
    assert space.replays == 1
    with pytest.raises(SpaceError, match="nothing asked"):
        space.complete({"branch": 3, "deep": 1}, 0)
    assert space.replays == 2


def test_counts_what_it_drew(space: SearchSpace) -> None:
    recorder = PartialRecorder({"x": 0.5}, 0)
    space._replay(recorder)
    assert recorder.drawn == 3
