"""Searches whose trials stop early: the same decisions however they are trained and interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.errors import RetiariiError, SchedulerError, StoreError
from retiarii.experiment import Experiment
from retiarii.mutators.choice import Description, choice
from retiarii.result import Result
from retiarii.runtime.job import point_of
from retiarii.runtime.progress import Progress
from retiarii.search_space import Point
from retiarii.strategies.base import Strategy
from retiarii.training.evaluator import Evaluator
from retiarii.training.function import Function
from retiarii.training.loop import EpochTrainer
from retiarii.training.trial import Trial

EPOCHS = 4


class Widths(rt.Mutator):
    """Another width, and another activation."""

    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        graph.update(target, out_features=self.choice([4, 6, 8], label="width"))
        kind = self.choice([nn.ReLU, nn.Tanh, nn.GELU], label="kind")
        graph.replace(graph.node("1"), graph.insert(kind(), target, name="activation"))


def experiment(directory: Path | None, scheduler: str | None, **options: Any) -> Experiment:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = (x.sum(1) > 0).long()
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.2), nn.Linear(4, 2)).double()
    space = rt.ModelSpace(net, torch.zeros(2, 5, dtype=torch.float64))
    space.apply_mutator("0", Widths())
    evaluator = rt.Supervised(
        (x, y), (x[:30], y[:30]), loss=nn.CrossEntropyLoss(), device="cpu",
        optimizer=rt.SGD(lr=rt.loguniform(1e-2, 1e-1), momentum=0.9),
        epochs=EPOCHS, batch_size=20, metric="loss",
    )  # fmt: skip
    given: dict[str, Any] = {"strategy": "random", "trials": 12, "cohort": 6, "seed": 3, **options}
    return Experiment(space, evaluator, directory=directory, scheduler=scheduler, **given)


def outline(result: Result) -> list[Any]:
    return [(t.id, t.state, len(t.history), t.same_as) for t in result.trials]


def assert_equal(ours: Result, theirs: Result) -> None:
    assert outline(ours) == outline(theirs)
    for mine, other in zip(ours.trials, theirs.trials, strict=True):
        assert dict(mine.decisions) == dict(other.decisions)
        assert mine.score == pytest.approx(other.score, rel=1e-9)
        for left, right in zip(mine.history, other.history, strict=True):
            assert left == pytest.approx(right, rel=1e-9)


SPECS = ["asha,eta=2", "hyperband,eta=2", "median,least=2", "curve,grace=4,epochs=9,chance=0.5"]


@pytest.mark.parametrize("spec", SPECS[:3])
def test_merged_or_not_the_decisions_are_the_same(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = experiment(None, spec).run()
    trained: list[int] = []
    advance = EpochTrainer.advance

    def counting(self: EpochTrainer) -> dict[str, float]:
        trained.append(self.epoch)
        return advance(self)

    monkeypatch.setattr(EpochTrainer, "advance", counting)
    apart = experiment(None, spec, fuse="off").run()
    assert_equal(merged, apart)
    states = [t.state for t in merged.trials]
    assert "pruned" in states
    assert "complete" in states
    # Nothing is trained again.
    assert len(trained) == sum(len(t.history) for t in apart.trials)


def test_a_pruned_trial_is_the_begin_of_the_whole_one() -> None:
    whole = experiment(None, None).run()
    stopped = experiment(None, "asha,eta=2").run()
    for part, full in zip(stopped.trials, whole.trials, strict=True):
        assert dict(part.decisions) == dict(full.decisions)
        assert len(full.history) == EPOCHS
        assert part.score == part.history[-1]["loss"]
        assert part.stopped_at == (len(part.history) if part.state == "pruned" else None)
        for left, right in zip(part.history, full.history[: len(part.history)], strict=True):
            assert left == pytest.approx(right, rel=1e-9)


def test_asha_halves(tmp_path: Path) -> None:
    result = experiment(tmp_path, "asha,eta=2", trials=6).run()
    assert sorted(len(t.history) for t in result.trials) == [1, 1, 1, 2, 2, EPOCHS]
    scores = {t.id: t.history[0]["loss"] for t in result.trials}
    best = sorted(scores, key=lambda n: scores[n])[:3]
    assert sorted(t.id for t in result.trials if len(t.history) > 1) == sorted(best)
    # What will not go on keeps weights and metrics, and no checkpoint.
    for trial in result.trials:
        names = {path.name for path in trial.directory.iterdir()}
        assert names == {"weights.safetensors", "finished.json"}
        assert trial.metrics["loss"] == trial.score
        trial.load()


def test_brackets_are_larger_than_cohorts() -> None:
    result = experiment(None, "hyperband,eta=2", trials=11, cohort=3).run()
    # epochs=4, eta=2: brackets of 4 (1, 2, 4 epochs), 3 (2, 4) and 3 (4), then the next.
    lengths = [len(t.history) for t in result.trials]
    assert sorted(lengths[:4]) == [1, 1, 2, 4]
    assert sorted(lengths[4:7]) == [2, 2, 4]
    assert lengths[7:10] == [4, 4, 4]


class Snapshots:
    """Copies the directory at some events, as a process that is killed there would leave it."""

    def __init__(self, directory: Path, into: Path, every: int) -> None:
        self.directory = directory
        self.into = into
        self.every = every
        self.count = 0
        self.taken: list[Path] = []

    def __call__(self, progress: Progress) -> None:
        self.count += 1
        if self.count % self.every == 0 and progress.kind != "end":
            place = self.into / str(self.count)
            shutil.copytree(self.directory, place)
            self.taken.append(place)


@pytest.mark.parametrize("fuse", ["auto", "off"])
@pytest.mark.parametrize("spec", SPECS[:3])
def test_killed_anywhere_it_decides_alike(spec: str, fuse: str, tmp_path: Path) -> None:
    first = tmp_path / "first"
    snapshots = Snapshots(first, tmp_path, 7 if fuse == "auto" else 11)
    unbroken = experiment(first, spec, fuse=fuse, progress=snapshots).run()
    assert len(snapshots.taken) >= 3
    for place in snapshots.taken:
        assert_equal(experiment(place, spec, fuse=fuse).run(), unbroken)


def test_resuming_trains_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tmp_path / "first"
    snapshots = Snapshots(first, tmp_path, 9)
    experiment(first, "asha,eta=2", fuse="off", progress=snapshots).run()
    trained: list[int] = []
    advance = EpochTrainer.advance

    def counting(self: EpochTrainer) -> dict[str, float]:
        trained.append(self.epoch)
        return advance(self)

    monkeypatch.setattr(EpochTrainer, "advance", counting)
    for place in snapshots.taken:
        before = sum(len(t.history) for t in rt.open_result(place).trials if not t.same_as)
        trained.clear()
        result = experiment(place, "asha,eta=2", fuse="off").run()
        after = sum(len(t.history) for t in result.trials if not t.same_as)
        assert len(trained) == after - before


def test_a_finished_search_is_left_as_it_is(tmp_path: Path) -> None:
    done = experiment(tmp_path, "asha,eta=2").run()
    seen: list[Progress] = []
    again = experiment(tmp_path, "asha,eta=2", progress=seen.append).run()
    assert_equal(again, done)
    assert [p.kind for p in seen if p.kind != "trial"] == ["begin", "end"]


def test_extending_leaves_what_was_decided(tmp_path: Path) -> None:
    short = experiment(tmp_path, "asha,eta=2", trials=8).run()
    longer = experiment(tmp_path, "asha,eta=2", trials=14).run()
    assert outline(longer)[:8] == outline(short)
    assert len(longer.trials) == 14
    again = experiment(tmp_path, "asha,eta=2", trials=14).run()
    assert_equal(again, longer)


def test_an_extended_search_does_not_add_to_a_group_that_was_decided(tmp_path: Path) -> None:
    values = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    listed(values, Pausing(), trials=8, directory=tmp_path)
    evaluator = Pausing()
    listed(values, evaluator, directory=tmp_path)
    every = [(range(8, 12), 1), (range(8, 12), 3), ((10, 11), 9), ((12, 13), 1)]
    assert evaluator.given[:4] == [[(n, limit) for n in numbers] for numbers, limit in every]


def test_worker_processes_decide_alike(tmp_path: Path) -> None:
    for spec in ("asha,eta=2", "median,least=2"):
        here = search(spec, workers=2, trials=10)
        there = search(spec, workers=2, trials=10, executor="local", directory=tmp_path / spec[:4])
        assert outline(here) == outline(there)
        assert "pruned" in {t.state for t in there.trials}


def test_another_scheduler_is_another_search(tmp_path: Path) -> None:
    experiment(tmp_path, "asha,eta=2", trials=2).run()
    with pytest.raises(StoreError, match=r"scheduler\.eta: was 2, is 3"):
        experiment(tmp_path, "asha,eta=3", trials=2).run()
    with pytest.raises(StoreError, match="scheduler"):
        experiment(tmp_path, None, trials=2).run()


def test_bohb_proposes_by_tpe() -> None:
    pytest.importorskip("optuna")
    options: dict[str, Any] = {"strategy": None, "trials": 7, "cohort": 3}
    result = experiment(None, "bohb,eta=2", **options).run()
    assert (result.strategy, result.scheduler) == ("tpe", "bohb")
    assert "pruned" in {t.state for t in result.trials}
    assert_equal(experiment(None, "bohb,eta=2", fuse="off", **options).run(), result)


def test_bohb_killed_anywhere_proposes_alike(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    options: dict[str, Any] = {"strategy": None, "trials": 22, "cohort": 3}
    snapshots = Snapshots(tmp_path / "first", tmp_path, 19)
    unbroken = experiment(tmp_path / "first", "bohb,eta=2", progress=snapshots, **options).run()
    assert len(snapshots.taken) >= 3
    for place in snapshots.taken:
        assert_equal(experiment(place, "bohb,eta=2", **options).run(), unbroken)


# -- functions, which cannot pause

OPTIONS = list(range(40))


def growing(trial: Trial) -> float:
    """Twelve steps to ``a``; ends when it is told to."""
    a = trial.decisions["a"]
    score = 0.0
    for step in range(1, 13):
        score = a * (1 - 0.7**step)
        trial.report(step, score=score)
        if trial.should_stop():
            break
    return score


def search(scheduler: str | None, fn: Any = growing, **options: Any) -> Result:
    evaluator = Function(fn, hyperparameters={"a": choice(OPTIONS, "a")})
    given: dict[str, Any] = {"strategy": "random", "trials": 20, **options}
    return Experiment(None, evaluator, scheduler=scheduler, **given).run()


@pytest.mark.parametrize("spec", ["asha", "hyperband,epochs=12", "median", "curve,epochs=12"])
def test_functions(spec: str, tmp_path: Path) -> None:
    first = tmp_path / "first"
    snapshots = Snapshots(first, tmp_path, 17)
    whole = search(spec, directory=first, progress=snapshots)
    assert {t.state for t in whole.trials} >= {"pruned", "complete"}
    assert whole.best is not None
    assert whole.best.decisions["a"] == max(t.decisions["a"] for t in whole.trials)
    assert len(snapshots.taken) >= 3
    for place in snapshots.taken:
        assert_equal(search(spec, directory=place), whole)


def test_nothing_to_go_by(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match="nothing to go by"):
        search("asha", lambda trial: trial.decisions["a"], directory=tmp_path)
    assert not list(tmp_path.glob("search.db*"))  # it could only begin again
    with pytest.raises(SchedulerError, match="nothing to go by"):
        search("asha", lambda trial: trial.decisions["a"], directory=tmp_path)

    def other(trial: Trial) -> float:
        trial.report(1, loss=1.0)
        return 1.0

    with pytest.raises(SchedulerError, match="report only loss"):
        search("median", other)
    with pytest.raises(SchedulerError, match="how many epochs"):
        search("hyperband", directory=tmp_path / "untouched")
    assert not (tmp_path / "untouched").exists()


# -- equal and failing trials


class Pausing(Evaluator):
    """Epoch by epoch towards ``a``, kept in a file; some trials fail on the way."""

    metric = "score"
    maximize = True
    merges: ClassVar[bool] = True
    pauses = True
    longest = 9

    def __init__(self, failing: Mapping[int, int] | None = None) -> None:
        self.failing = dict(failing or {})
        self.given: list[list[tuple[int, int | None]]] = []

    def hyperparameters(self) -> Mapping[str, Description]:
        return {"a": choice(OPTIONS, "a")}

    def describe(self) -> dict[str, Any]:
        return {"kind": "pausing"}

    def run(self, cohort: Sequence[Trial]) -> None:
        self.given.append([(trial.number, trial.limit) for trial in cohort])
        for trial in cohort:
            self._one(trial)

    def _one(self, trial: Trial) -> None:
        assert trial.directory is not None
        trial.directory.mkdir(parents=True, exist_ok=True)
        file = trial.directory / "epochs"
        epoch = int(file.read_text()) if file.exists() else 0
        trial.start()
        last = self.longest if trial.limit is None else min(trial.limit, self.longest)
        for now in range(epoch + 1, last + 1):
            if self.failing.get(trial.number) == now:
                trial.fail("it happens")
                return
            file.write_text(str(now))
            trial.report(now, score=trial.hyperparameters["a"] * now)
        trial.finish(trial.hyperparameters["a"] * last, stopped=last < self.longest)


class Listed(Strategy):
    """Proposes listed values, and keeps what it is told."""

    name = "listed"

    def __init__(self, values: Sequence[int]) -> None:
        self.values = values
        self.told: list[tuple[int, float | None]] = []

    def ask(self, number: int) -> Point | None:
        if number >= len(self.values):
            return None
        return point_of(self.space, (("a", self.values[number]),))

    def tell(self, number: int, score: float | None) -> None:
        self.told.append((number, score))


def listed(
    values: Sequence[int], evaluator: Pausing, **options: Any
) -> tuple[Result, list[tuple[int, float | None]]]:
    strategy = Listed(values)
    options = {"trials": len(values), "scheduler": "asha,eta=3", "cohort": 6, **options}
    return Experiment(None, evaluator, strategy, **options).run(), strategy.told


def test_those_that_go_on_go_on_together() -> None:
    evaluator = Pausing()
    result, told = listed([1, 2, 3, 4, 5, 6, 7, 0], evaluator)
    assert evaluator.given == [
        [(n, 1) for n in range(6)], [(4, 3), (5, 3)], [(5, 9)],
        [(6, 1), (7, 1)], [(6, 3)], [(6, 9)],
    ]  # fmt: skip
    assert told == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 15), (5, 54), (6, 63), (7, 0)]
    states = ["pruned"] * 5 + ["complete"] * 2 + ["pruned"]
    assert [t.state for t in result.trials] == states


@pytest.mark.parametrize("window", [1, 2])
def test_equal_trials_share_the_end(window: int) -> None:
    values = [1, 6, 6, 2, 3, 4, 1, 6, 5, 0, 0, 9]
    result, told = listed(values, Pausing(), workers=window)
    assert [t.same_as for t in result.trials][:8] == [None, None, 1, None, None, None, 0, 1]
    assert result.trials[2].state == result.trials[7].state == "complete"
    assert result.trials[6].stopped_at == 1
    assert [number for number, _ in told] == list(range(12))


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("retries", [0, 1])
def test_failures_do_not_hold_up_the_others(window: int, retries: int, tmp_path: Path) -> None:
    def run(directory: Path, progress: Any = None) -> Result:
        evaluator = Pausing(failing={5: 2, 3: 1, 1: 1})
        values = [1, 6, 6, 2, 3, 8, 6, 8, 8, 2, 1, 7]
        return listed(
            values, evaluator, retries=retries, workers=window, directory=directory,
            progress=progress,
        )[0]  # fmt: skip

    first = tmp_path / "first"
    snapshots = Snapshots(first, tmp_path, 3)
    result = run(first, snapshots)
    assert [t.id for t in result.trials if t.state == "failed"] == [1, 3, 5]
    assert result.trials[2].state == "pruned"  # evaluated in the place of trial 1
    assert result.trials[7].state == "complete"  # and in that of trial 5
    for place in snapshots.taken:
        assert outline(run(place)) == outline(result)


# -- budgets


def test_epochs(tmp_path: Path) -> None:
    unbroken = experiment(tmp_path / "whole", "asha,eta=2").run()
    part = experiment(tmp_path / "part", "asha,eta=2", total_epochs=9).run()
    assert part.ended == "epochs"
    assert "the epochs are used up" in part.summary
    assert 9 <= sum(len(t.history) for t in part.trials) <= 9 + 5  # to the end of a cohort's epoch
    same = experiment(tmp_path / "part", "asha,eta=2", total_epochs=9).run()
    assert (same.ended, outline(same)) == ("epochs", outline(part))
    more = experiment(tmp_path / "part", "asha,eta=2", total_epochs=1000).run()
    assert more.ended == "trials"
    assert_equal(more, unbroken)


@pytest.mark.parametrize("fuse", ["auto", "off"])
def test_epochs_without_a_scheduler(fuse: str, tmp_path: Path) -> None:
    result = experiment(tmp_path, None, total_epochs=7, fuse=fuse).run()
    count = sum(len(t.history) for t in result.trials)
    assert (result.ended, count) == ("epochs", 12 if fuse == "auto" else 7)
    assert {t.state for t in result.trials} <= {"waiting", "complete"}
    experiment(tmp_path, None, fuse=fuse).run()
    assert_equal(rt.open_result(tmp_path), experiment(None, None).run())


def test_target(tmp_path: Path) -> None:
    result = search(None, directory=tmp_path, target=30.0)
    assert result.ended == "target"
    assert result.best is not None
    assert result.best.score is not None
    assert result.best.score >= 30
    assert result.best.id == len(result.trials) - 1 < 19
    assert "the target is reached" in result.summary
    again = search(None, directory=tmp_path, target=30.0)
    assert (again.ended, outline(again)) == ("target", outline(result))
    assert search(None, directory=tmp_path).ended == "trials"
    low = Function(growing, hyperparameters={"a": choice(OPTIONS, "a")}, maximize=False)
    fewest = Experiment(None, low, "random", 20, target=3.0).run()
    assert fewest.best is not None
    assert fewest.best.score is not None
    assert fewest.best.score <= 3


def test_time(tmp_path: Path) -> None:
    result = search("asha", directory=tmp_path, budget=1e-6)
    assert (result.ended, len(result.trials)) == ("time", 0)
    result = search("asha", directory=tmp_path, budget="1h", total_epochs=1000, target=1e9)
    assert (result.ended, len(result.trials)) == ("trials", 20)


def test_the_first_of_several_budgets_counts() -> None:
    assert search(None, total_epochs=30, target=1e9, budget="1h").ended == "epochs"
    assert search(None, total_epochs=30, target=0.0).ended == "target"
    assert search(None, total_epochs=30, trials=2).ended == "trials"


def test_bad_budgets() -> None:
    with pytest.raises(RetiariiError, match="not a duration"):
        search(None, budget="soon")
    with pytest.raises(SchedulerError, match="Experiment") as error:
        search("unheard")
    assert "nearest" in str(error.value)
