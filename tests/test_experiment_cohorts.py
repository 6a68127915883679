"""Trials are proposed in cohorts, whether or not they are trained together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.errors import RetiariiError, StoreError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import Description, choice
from retiarii.result import Result
from retiarii.runtime.job import point_of
from retiarii.runtime.progress import Progress
from retiarii.search_space import Point
from retiarii.strategies.base import Strategy
from retiarii.training.evaluator import Evaluator
from retiarii.training.function import Function
from retiarii.training.trial import Trial

OPTIONS = list(range(100))


class Together(Evaluator):
    """Keeps the numbers of the trials that it is given together.

    Args:
        failing: trials that fail at their first attempt.
        stop_in: a trial in which Ctrl-C is pressed, once.
    """

    metric = "score"
    maximize = True
    merges: ClassVar[bool] = True

    def __init__(self, failing: Sequence[int] = (), stop_in: int | None = None) -> None:
        self.failing = failing
        self.stop_in = stop_in
        self.given: list[list[int]] = []

    def hyperparameters(self) -> Mapping[str, Description]:
        return {"a": choice(OPTIONS, "a")}

    def describe(self) -> dict[str, Any]:
        return {"kind": "together"}

    def run(self, cohort: Sequence[Trial]) -> None:
        self.given.append([trial.number for trial in cohort])
        cohort[0].note(f"{len(cohort)} at once")
        for trial in cohort:
            trial.start()
            if trial.number == self.stop_in:
                self.stop_in = None
                raise KeyboardInterrupt
            if trial.number in self.failing and trial.attempt == 0:
                trial.fail("not at the first attempt")
            else:
                trial.finish(trial.hyperparameters["a"])


class Listed(Strategy):
    """Proposes listed values, and keeps the calls."""

    name = "listed"

    def __init__(self, values: Sequence[int]) -> None:
        self.values = values
        self.calls: list[str] = []

    def ask(self, number: int) -> Point | None:
        self.calls.append(f"ask {number}")
        if number >= len(self.values):
            return None
        return point_of(self.space, (("a", self.values[number]),))

    def tell(self, number: int, score: float | None) -> None:
        self.calls.append(f"tell {number}")


def search(values: Sequence[int], evaluator: Together, **options: Any) -> tuple[Result, Listed]:
    strategy = Listed(values)
    options.setdefault("trials", len(values))
    return Experiment(None, evaluator, strategy, **options).run(), strategy


def calls(*parts: tuple[str, int, int]) -> list[str]:
    return [f"{what} {n}" for what, start, stop in parts for n in range(start, stop)]


@pytest.mark.parametrize("fuse", ["auto", "off"])
def test_the_next_cohort_is_proposed_when_this_one_is_told(fuse: str) -> None:
    evaluator = Together()
    _, strategy = search(range(10), evaluator, cohort=4, fuse=fuse)
    assert strategy.calls == calls(
        ("ask", 0, 4), ("tell", 0, 4), ("ask", 4, 8), ("tell", 4, 8), ("ask", 8, 10),
        ("tell", 8, 10),
    )  # fmt: skip
    together = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    apart = [[n] for n in range(10)]
    assert evaluator.given == (together if fuse == "auto" else apart)


def test_several_cohorts_under_way() -> None:
    evaluator = Together()
    _, strategy = search(range(8), evaluator, cohort=2, workers=2)
    assert strategy.calls == calls(
        ("ask", 0, 4), ("tell", 0, 2), ("ask", 4, 6), ("tell", 2, 4), ("ask", 6, 8), ("tell", 4, 8)
    )
    assert evaluator.given == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_the_usual_size() -> None:
    evaluator = Together()
    search(range(20), evaluator)
    assert [len(cohort) for cohort in evaluator.given] == [16, 4]
    strategy = Listed(range(3))
    function = Function(lambda _: 1.0, hyperparameters={"a": choice(OPTIONS, "a")})
    Experiment(None, function, strategy, trials=3).run()
    assert strategy.calls == calls(*[(w, n, n + 1) for n in range(3) for w in ("ask", "tell")])


def test_a_function_is_never_merged_but_may_be_proposed_in_cohorts() -> None:
    strategy = Listed(range(4))
    function = Function(lambda _: 1.0, hyperparameters={"a": choice(OPTIONS, "a")})
    Experiment(None, function, strategy, trials=4, cohort=2).run()
    assert strategy.calls == calls(("ask", 0, 2), ("tell", 0, 2), ("ask", 2, 4), ("tell", 2, 4))


def test_equal_trials_of_a_cohort_are_trained_once() -> None:
    evaluator = Together()
    result, _ = search([5, 6, 5, 7, 6, 8], evaluator, cohort=4)
    assert evaluator.given == [[0, 1, 3], [5]]
    assert [t.same_as for t in result.trials] == [None, None, 0, None, 1, None]
    assert [t.score for t in result.trials] == [5, 6, 5, 7, 6, 8]


def test_a_failed_trial_is_tried_again_without_the_others() -> None:
    evaluator = Together(failing=[1, 2])
    result, _ = search([1, 2, 3, 4, 2], evaluator, cohort=4)
    assert evaluator.given == [[0, 1, 2, 3], [1, 2]]
    assert [t.state for t in result.trials] == ["complete"] * 5


def test_a_trial_waits_for_an_equal_one_that_fails() -> None:
    evaluator = Together(failing=[0])
    result, _ = search([1, 1, 2], evaluator, cohort=3, retries=0)
    assert evaluator.given == [[0, 2], [1]]
    assert [t.state for t in result.trials] == ["failed", "complete", "complete"]


def test_notes_reach_whoever_watches() -> None:
    seen: list[Progress] = []
    search(range(3), Together(), cohort=2, progress=seen.append)
    notes = [(p.kind, p.note) for p in seen if p.note is not None]
    assert notes == [("note", "2 at once"), ("note", "1 at once")]


def test_a_search_that_was_interrupted_in_a_cohort_goes_on(tmp_path: Path) -> None:
    evaluator = Together(stop_in=6)
    first, _ = search(range(10), evaluator, cohort=4, directory=tmp_path)
    assert first.ended == "interrupted"
    assert evaluator.given == [[0, 1, 2, 3], [4, 5, 6, 7]]
    evaluator = Together()
    second, strategy = search(range(10), evaluator, cohort=4, directory=tmp_path)
    assert evaluator.given == [[6, 7], [8, 9]]
    assert [t.score for t in second.trials] == list(range(10))
    assert strategy.calls[:8] == calls(("ask", 0, 4), ("tell", 0, 4))


def test_a_search_may_be_extended_in_the_middle_of_a_cohort(tmp_path: Path) -> None:
    search(range(12), Together(), cohort=4, directory=tmp_path, trials=6)
    evaluator = Together()
    _, strategy = search(range(12), evaluator, cohort=4, directory=tmp_path, trials=12)
    assert evaluator.given == [[6, 7], [8, 9, 10, 11]]
    assert strategy.calls == calls(
        ("ask", 0, 4), ("tell", 0, 4), ("ask", 4, 8), ("tell", 4, 8), ("ask", 8, 12),
        ("tell", 8, 12),
    )  # fmt: skip


def test_another_size_is_another_search(tmp_path: Path) -> None:
    search(range(4), Together(), cohort=4, directory=tmp_path)
    with pytest.raises(StoreError, match="cohort: was 4, is 2"):
        search(range(4), Together(), cohort=2, directory=tmp_path)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(RetiariiError, match="cohort"):
        Experiment(None, Together(), cohort=size)


# -- models that are trained


class Widths(rt.Mutator):
    """Another width, and another activation."""

    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        graph.update(target, out_features=self.choice([4, 6, 8], label="width"))
        kind = self.choice([nn.ReLU, nn.Tanh, nn.GELU], label="kind")
        graph.replace(graph.node("1"), graph.insert(kind(), target, name="activation"))


def trained(directory: Path, fuse: str, progress: Any = None, **options: Any) -> Result:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70, 5, generator=generator, dtype=torch.float64)
    y = (x.sum(1) > 0).long()
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 2)).double()
    space = rt.ModelSpace(net, torch.zeros(2, 5, dtype=torch.float64))
    space.apply_mutator("0", Widths())
    evaluator = rt.Supervised(
        (x, y), (x[:30], y[:30]), loss=nn.CrossEntropyLoss(), device="cpu",
        optimizer=rt.SGD(lr=rt.loguniform(1e-2, 1e-1), momentum=0.9), epochs=3, batch_size=16,
        metric="loss",
    )  # fmt: skip
    return Experiment(
        space, evaluator, "evolution", trials=14, cohort=5, seed=3,
        directory=directory, fuse=fuse, progress=progress, **options,
    ).run()  # fmt: skip


def test_fusing_changes_nothing_but_rounding(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    seen: list[Progress] = []
    fused = trained(tmp_path / "auto", "auto", seen.append)
    apart = trained(tmp_path / "off", "off")
    notes = [p.note for p in seen if p.note is not None]
    assert [note.split(":")[0] for note in notes] == ["cohort of 5", "cohort of 5", "cohort of 4"]
    assert len(fused.trials) == len(apart.trials) == 14
    for ours, theirs in zip(fused.trials, apart.trials, strict=True):
        assert (ours.state, dict(ours.decisions)) == ("complete", dict(theirs.decisions))
        assert ours.score == pytest.approx(theirs.score, rel=1e-9)
        for left, right in zip(ours.history, theirs.history, strict=True):
            assert left == pytest.approx(right, rel=1e-9)
    assert fused.best is not None
    assert apart.best is not None
    assert fused.best.id == apart.best.id
    weights = fused.best.load().state_dict()
    for name, tensor in apart.best.load().state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-9, atol=1e-12)
