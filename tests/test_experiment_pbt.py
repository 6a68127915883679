"""Population based training: weights that are copied, hyper-parameters that change on the way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import retiarii as rt
from retiarii.errors import StrategyError
from retiarii.experiment import Experiment
from retiarii.result import Result
from retiarii.runtime.progress import Progress
from retiarii.search.state import trial_seed
from retiarii.strategies.pbt import PBT
from retiarii.training.events import Finished
from retiarii.training.loop import EpochTrainer
from retiarii.training.trial import Trial
from retiarii.trial_result import TrialResult

EPOCHS = 4


class Widths(rt.Mutator):
    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        graph.update(target, out_features=self.choice([4, 6], label="width"))


def evaluator(optimizer: Any = None, **options: Any) -> rt.Supervised:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = (x.sum(1) > 0).long()
    if optimizer is None:
        momentum = rt.choice([0.0, 0.5, 0.9], label="momentum")
        optimizer = rt.SGD(lr=rt.loguniform(1e-3, 1.0), momentum=momentum)
    given: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 20, "metric": "loss", **options}
    return rt.Supervised(
        (x, y), (x[:30], y[:30]), loss=nn.CrossEntropyLoss(), device="cpu",
        optimizer=optimizer, **given,
    )  # fmt: skip


def experiment(directory: Path | None, dropout: float = 0.2, **options: Any) -> Experiment:
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4, 2)).double()
    space = rt.ModelSpace(net, torch.zeros(2, 5, dtype=torch.float64))
    space.apply_mutator("0", Widths())
    given: dict[str, Any] = {
        "strategy": PBT(population=6, interval=1, part=0.33),
        "evaluator": evaluator(),
        "trials": 24,
        "cohort": 6,
        "seed": 3,
        **options,
    }
    return Experiment(space, directory=directory, **given)


def outline(result: Result) -> list[Any]:
    return [
        (t.id, t.state, t.parent, t.same_as, t.stopped_at, dict(t.decisions)) for t in result.trials
    ]


def assert_equal(ours: Result, theirs: Result) -> None:
    assert outline(ours) == outline(theirs)
    for mine, other in zip(ours.trials, theirs.trials, strict=True):
        assert mine.score == pytest.approx(other.score, rel=1e-9)
        for left, right in zip(mine.history, other.history, strict=True):
            assert left == pytest.approx(right, rel=1e-9)


def width(trial: TrialResult) -> Any:
    return next(value for label, value in trial.decisions.items() if label.endswith("width"))


def copied(result: Result) -> list[TrialResult]:
    """The trials that go on from another member's weights."""
    return [t for t in result.trials if t.parent is not None and t.parent != t.id - 6]


def test_a_population_trains_and_its_worst_members_go_on_from_its_best() -> None:
    result = experiment(None).run()
    assert [t.state for t in result.trials] == ["pruned"] * 18 + ["complete"] * 6
    assert len(copied(result)) == 6  # two a generation
    for trial in result.trials:
        assert len(trial.history) == 1
        generation = result.trials[trial.id // 6 * 6 - 6 : trial.id // 6 * 6]
        if trial.id < 6:
            assert trial.parent is None
            continue
        assert trial.parent is not None
        parent = result.trials[trial.parent]
        assert width(trial) == width(parent)
        ranked = sorted(generation, key=lambda t: t.score or 0.0)
        if trial in copied(result):
            assert result.trials[trial.id - 6] in ranked[-2:]
            assert parent in ranked[:2]
            changed = dict(trial.decisions) != dict(parent.decisions)
            assert changed or trial.decisions["lr"] == 1.0  # at the end of its range
        else:
            assert dict(trial.decisions) == dict(parent.decisions)
    assert result.best is not None
    assert result.best.id >= 18
    assert result.best.load()(torch.zeros(1, 5, dtype=torch.float64)).shape == (1, 2)
    assert result.best.to_json()["parent"] == result.best.parent


def test_intervals_are_what_training_without_a_break_is() -> None:
    """Nobody is copied, and nothing random is left that the trial's seed decides."""
    result = experiment(None, strategy=PBT(population=6, interval=2, part=0.0), dropout=0.0).run()
    last = result.trials[6:12]
    assert [t.state for t in last] == ["complete"] * 6
    for trial in last:
        assert trial.parent == trial.id - 6
        seed = trial_seed(3, trial.parent, 0)
        whole = Trial(
            0, seed, search_seed=3, candidate=trial.candidate, hyperparameters=trial.decisions
        )
        evaluator().run([whole])
        assert isinstance(whole.outcome, Finished)
        assert trial.score == pytest.approx(whole.outcome.score, rel=1e-9)
        assert [step for step, _ in trial._home.steps(trial.id)] == [3, 4]


@pytest.mark.parametrize("other", [{"fuse": "off"}, {"executor": "local"}])
def test_the_same_however_it_is_trained(other: dict[str, Any], tmp_path: Path) -> None:
    merged = experiment(None).run()
    apart = experiment(tmp_path, **other).run()
    assert_equal(merged, apart)
    assert copied(merged)


def epochs(result: Result) -> int:
    return sum(len(t.history) for t in result.trials if t.same_as is None)


class Snapshots:
    """Copies the directory now and then, as a process that is killed there would leave it."""

    def __init__(self, directory: Path, into: Path, every: int) -> None:
        self.directory, self.into, self.every = directory, into, every
        self.count = 0
        self.taken: list[Path] = []

    def __call__(self, progress: Progress) -> None:
        self.count += 1
        if self.count % self.every == 0 and progress.kind != "end":
            self.taken.append(self.into / str(self.count))
            shutil.copytree(self.directory, self.taken[-1])


@pytest.mark.parametrize("fuse", ["auto", "off"])
def test_killed_anywhere_it_goes_on_alike_and_trains_nothing_twice(
    fuse: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(tmp_path / "first", tmp_path, 11)
    unbroken = experiment(tmp_path / "first", fuse=fuse, progress=snapshots).run()
    assert len(snapshots.taken) >= 4
    trained: list[int] = []
    advance = EpochTrainer.advance

    def counting(self: EpochTrainer) -> dict[str, float]:
        trained.append(self.epoch)
        return advance(self)

    monkeypatch.setattr(EpochTrainer, "advance", counting)
    for place in snapshots.taken:
        before = epochs(rt.open_result(place))
        trained.clear()
        assert_equal(experiment(place, fuse=fuse).run(), unbroken)
        if fuse == "off":
            assert len(trained) == epochs(unbroken) - before


def test_weights_that_nothing_goes_on_from_are_deleted(tmp_path: Path) -> None:
    experiment(tmp_path, trials=30).run()
    kept = {int(path.parent.name) for path in tmp_path.glob("trials/*/checkpoint-*.safetensors")}
    assert 0 not in kept
    assert max(kept) == 29  # the begin of another population
    assert len(kept) <= 18


def test_a_failed_member_is_replaced() -> None:
    """A rate that makes weights infinite fails; its place goes on from a good member."""
    wild = rt.SGD(lr=rt.choice([1e-2, 2e-2, 3e-2, 1e200], label="lr"))
    result = experiment(None, evaluator=evaluator(wild), retries=0, seed=1).run()
    failed = [t.id for t in result.trials[:18] if t.state == "failed"]
    assert failed
    for number in failed:
        parent = result.trials[number + 6].parent
        assert parent is not None
        assert parent != number


def test_two_generations_of_weights_survive_one_that_failed(tmp_path: Path) -> None:
    result = experiment(
        tmp_path, evaluator=evaluator(rt.SGD(lr=1e200, momentum=rt.uniform(0.1, 0.9))), retries=0
    ).run()
    assert {t.state for t in result.trials} == {"failed"}
    assert {t.parent for t in result.trials} == {None}


def test_by_name_with_options_it_takes_a_quarter_of_the_epochs() -> None:
    result = experiment(None, strategy="pbt", trials=12).run()
    assert [t.stopped_at for t in result.trials] == [1] * 12  # 16 members, of which 12 were asked


def test_candidates_of_the_user_are_no_members(tmp_path: Path) -> None:
    search = experiment(tmp_path / "out")
    search.enqueue({"lr": 0.5})
    with pytest.raises(StrategyError, match="none of its members"):
        search.run()


def test_a_search_that_goes_on_keeps_its_population(tmp_path: Path) -> None:
    """Its size follows from how many trials are under way, and that is kept."""
    options: dict[str, Any] = {"strategy": "pbt", "cohort": 10, "trials": 30}
    first = experiment(tmp_path, workers=2, **options).run()
    assert [t.stopped_at for t in first.trials] == [1] * 20 + [2] * 10
    again = experiment(tmp_path, workers=None, **options).run()
    assert_equal(again, first)


def function(trial: Any) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"evaluator": rt.Function(function, hyperparameters={"a": rt.uniform(0, 1)})},
            "keeps none",
        ),
        ({"evaluator": evaluator(checkpoint=False)}, "keeps none"),
        ({"evaluator": evaluator(epochs=rt.choice([2, 4], label="epochs"))}, "keeps none"),
        ({"evaluator": evaluator(rt.SGD(lr=0.1))}, "no hyper-parameter that may change"),
        ({"evaluator": evaluator(epochs=1)}, "two epochs or more"),
        ({"scheduler": "asha"}, "so does asha"),
        ({"cohort": 8}, "smaller than the 8 trials"),
        ({"workers": 2}, "smaller than the 12 trials"),
        ({"confirm": 2}, "leave confirm out"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match=problem):
        experiment(tmp_path / "out", **options).run()
    assert not (tmp_path / "out").exists()


def test_what_may_change_between_epochs() -> None:
    numbers = rt.SGD(
        lr=rt.loguniform(1e-3, 1.0), momentum=0.9, nesterov=rt.choice([True, False], label="n"),
        weight_decay=rt.uniform(0.0, 0.1, label="decay"),
    )  # fmt: skip
    found = evaluator(
        numbers, grad_clip=rt.uniform(0.5, 1.0), batch_size=rt.choice([10, 20], label="batch")
    )
    assert found.changes == {"lr", "decay", "grad_clip"}
    kinds = rt.choice([rt.SGD(lr=0.1), rt.Adam()], label="optimizer")
    assert evaluator(kinds).changes == frozenset()
