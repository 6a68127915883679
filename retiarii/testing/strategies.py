"""What every strategy must do, as a test suite to subclass."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest

from retiarii.errors import InfeasibleError, StrategyError
from retiarii.mutators.choice import (
    Categorical,
    Chooser,
    Decision,
    Domain,
    Integer,
    Raw,
    Recorder,
    choice,
    loguniform,
    randint,
    recording,
    uniform,
)
from retiarii.seeding import derive
from retiarii.strategies.base import Strategy
from retiarii.training.stage import Stage

if TYPE_CHECKING:
    from retiarii.search_space import SearchSpace

Raws = tuple[tuple[str, Raw], ...]
MakeStrategy = Callable[[], Strategy]


@dataclass(frozen=True)
class ToyPoint:
    """A point of a `ToySpace`: decisions, and no model."""

    decisions: tuple[Decision, ...]
    candidate: None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    stage: Stage | None = None

    @property
    def raws(self) -> Raws:
        """The decisions; and the stage, where there is one, which makes a point another one."""
        stage = () if self.stage is None else tuple(self.stage._asdict().items())
        told = tuple((label, -1 if part is None else part) for label, part in stage)
        return (*((d.label, d.raw) for d in self.decisions), *told)

    def key(self) -> str:
        return repr(self.raws)


class ToySpace:
    """A search space without a model: what ``ask`` asks for by `retiarii.choice` and its kin.

    It refuses answers outside of their domain, and counts its replays.

    Args:
        ask: makes the decisions; may raise InfeasibleError.
    """

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self.replays = 0

    def replay(self, chooser: Chooser) -> ToyPoint:
        self.replays += 1
        recorder = Recorder(chooser)
        with recording(recorder):
            self._ask()
        return ToyPoint(recorder.decisions)

    def sequences(self) -> Iterator[Raws]:
        """Every feasible decision sequence of a finite space, by brute force."""
        ahead: list[tuple[Raw, ...]] = [()]
        while ahead:
            prefix = ahead.pop()
            left = iter(prefix)

            def follow(_: str, domain: Domain, left: Iterator[Raw] = left) -> Raw:
                for raw in left:
                    return raw
                raise _OpenQuestionError(domain)

            try:
                yield self.replay(follow).raws
            except InfeasibleError:
                continue
            except _OpenQuestionError as question:
                ahead.extend((*prefix, raw) for raw in _values(question.domain))

    def as_space(self) -> SearchSpace:
        """Itself, typed as what a strategy is given: strategies use `replay` alone."""
        return cast("SearchSpace", self)


class _OpenQuestionError(Exception):
    def __init__(self, domain: Domain) -> None:
        self.domain = domain


def _values(domain: Domain) -> range:
    if isinstance(domain, Categorical):
        return range(domain.n)
    assert isinstance(domain, Integer)
    return range(domain.low, domain.high + 1)


def flat() -> None:
    """Four decisions that do not depend on each other: 4 * 3 * 2 * 3 = 72."""
    for at, count in enumerate((4, 3, 2)):
        choice(list(range(count)), label=f"op{at}")
    randint(3, 5, label="width")


def branches() -> None:
    """Two to four branches of three kinds, asking one label twice: 9 + 27 + 81 = 117."""
    for at in range(choice([2, 3, 4], label="branches")):
        choice(["conv", "depthwise", "pool"], label=f"op{at}")
    choice([2, 3, 4], label="branches")
    choice(["only"], label="single")


def pitfalls() -> None:
    """Branches that end early: one always, one by what was chosen in it, one never."""
    kind = choice(["never", "deep", "shallow"], label="kind")
    if kind == "never":
        raise InfeasibleError("nothing fits here")
    depth = choice([1, 2, 3], label="depth") if kind == "deep" else 1
    widths = [choice([8, 16, 32], label=f"width{at}") for at in range(depth)]
    if sorted(widths) != widths or (kind == "shallow" and widths == [8]):
        raise InfeasibleError("widths must grow")


def wide() -> None:
    """4 ** 12 sequences."""
    for at in range(12):
        choice(["a", "b", "c", "d"], label=f"op{at}")


def mixed() -> None:
    """Continuous, whole and conditional decisions."""
    optimizer = choice(["sgd", "adam"], label="optimizer")
    loguniform(1e-4, 1e-1, label="lr")
    if optimizer == "sgd":
        uniform(0.0, 0.99, label="momentum")
    randint(1, 512, label="batch", log=True)
    uniform(0.5, 0.5, label="fixed")


def impossible() -> None:
    """Six sequences, none feasible."""
    choice([1, 2, 3], label="a")
    choice([1, 2], label="b")
    raise InfeasibleError("nothing fits")


def barren() -> None:
    """A thousand million sequences, none feasible."""
    randint(1, 10**9, label="n")
    raise InfeasibleError("nothing fits")


def no_choice() -> None:
    """A space of one point."""


def lone_option() -> None:
    """A space of one point, with decisions."""
    choice(["only"], label="a")
    randint(7, 7, label="b")


def good(_: int, raws: Raws) -> float | None:
    """A score that depends on the decisions alone."""
    return derive(0, str(raws)) % 1000 / 1000


def flaky(number: int, raws: Raws) -> float | None:
    """As `good`; two trials of five fail, the first ones among them."""
    return None if number < 8 or number % 5 < 2 else good(number, raws)


def all_fail(_number: int, _raws: Raws) -> float | None:
    return None


Score = Callable[[int, Raws], float | None]


class Session:
    """A search: asks, and tells results ``window`` cohorts late, as a controller does."""

    def __init__(
        self,
        strategy: Strategy,
        ask: Callable[[], object],
        *,
        score: Score = good,
        window: int = 1,
        seed: int = 0,
        cohort: int = 1,
    ) -> None:
        self.strategy = strategy
        self.space = ToySpace(ask)
        self.proposed: list[Raws] = []
        self._score = score
        self._window = window
        self._cohort = cohort
        self._untold: deque[int] = deque()
        strategy.begin(self.space.as_space(), seed)

    def run(self, trials: int) -> list[Raws]:
        """Goes on until ``trials`` were proposed in all, or the space is used up."""
        while len(self.proposed) < trials and self.step():
            pass
        return self.proposed

    def step(self) -> bool:
        """One trial more; False when nothing new is left."""
        number = len(self.proposed)
        if len(self._untold) == self._window * self._cohort:
            for _ in range(self._cohort):
                told = self._untold.popleft()
                self.strategy.tell(told, self._score(told, self.proposed[told]))
        point = self.strategy.ask(number)
        if point is None:
            return False
        self.proposed.append(point.raws)
        self._untold.append(number)
        return True


class StrategyConformance:
    """Checks one strategy. Subclass it, and give the fixture ``make_strategy``:

        class TestMine(StrategyConformance):
            @pytest.fixture
            def make_strategy(self):
                return MyStrategy        # called without arguments, many times

    Attributes:
        continuous: whether it searches continuous ranges; else it must refuse them.
        seeded: whether the seed changes what it proposes.
    """

    continuous: ClassVar[bool] = True
    seeded: ClassVar[bool] = True

    @pytest.fixture
    def endless(self) -> Callable[[], None]:
        """The toy space that this strategy cannot use up."""
        return mixed if self.continuous else wide

    def test_same_seed_gives_same_proposals(
        self, make_strategy: MakeStrategy, endless: Callable[[], None]
    ) -> None:
        first = Session(make_strategy(), endless, seed=7).run(80)
        random.seed(12345)  # the global state must be of no matter
        assert Session(make_strategy(), endless, seed=7).run(80) == first
        assert len(first) == 80

    def test_seed_decides(self, make_strategy: MakeStrategy) -> None:
        runs = [Session(make_strategy(), wide, seed=seed).run(20) for seed in (1, 2)]
        assert (runs[0] != runs[1]) == self.seeded

    @pytest.mark.parametrize("cut", [0, 1, 33, 79])
    @pytest.mark.parametrize("score", [good, flaky])
    def test_resuming_equals_not_stopping(
        self, make_strategy: MakeStrategy, endless: Callable[[], None], cut: int, score: Score
    ) -> None:
        unbroken = Session(make_strategy(), endless, score=score, window=3)
        unbroken.run(cut)
        resumed = Session(make_strategy(), endless, score=score, window=3)
        assert resumed.run(cut) == unbroken.run(cut)
        for _ in range(80 - cut):  # side by side, so that shared state would show
            assert unbroken.step()
            assert resumed.step()
        assert resumed.proposed == unbroken.proposed

    def test_one_instance_begins_anew(self, make_strategy: MakeStrategy) -> None:
        strategy = make_strategy()
        first = list(Session(strategy, branches, seed=3).run(50))
        assert Session(strategy, branches, seed=3).run(50) == first

    @pytest.mark.parametrize("window", [1, 4, 16, 1000])
    @pytest.mark.parametrize("score", [good, flaky, all_fail])
    @pytest.mark.parametrize("ask", [flat, branches, pitfalls])
    def test_finite_space_is_proposed_once_and_to_its_end(
        self, make_strategy: MakeStrategy, ask: Callable[[], None], score: Score, window: int
    ) -> None:
        session = Session(make_strategy(), ask, score=score, window=window)
        every = sorted(session.space.sequences())
        assert sorted(session.run(len(every) + 1)) == every
        assert not session.step()
        assert not session.step()

    @pytest.mark.parametrize(("cohort", "window"), [(4, 1), (4, 2), (16, 1), (64, 2)])
    def test_cohorts(self, make_strategy: MakeStrategy, cohort: int, window: int) -> None:
        """Proposals come together, by several workers; resuming in their midst changes nothing."""
        options: dict[str, Any] = {"score": flaky, "cohort": cohort, "window": window}
        unbroken = Session(make_strategy(), wide, **options)
        proposed = list(unbroken.run(150))
        assert len(set(proposed)) == 150
        resumed = Session(make_strategy(), wide, **options)
        resumed.run(70)
        assert resumed.run(150) == proposed

    def test_scores_may_be_equal_huge_or_tiny(self, make_strategy: MakeStrategy) -> None:
        for values in ((0.0,), (1e300, -1e300, 1.0), (1e-300, 2e-300), (1e9, 1e9 + 1e-6)):

            def score(number: int, _: Raws, values: tuple[float, ...] = values) -> float:
                return values[number % len(values)]

            proposed = Session(make_strategy(), wide, score=score).run(60)
            assert len(set(proposed)) == 60

    @pytest.mark.parametrize("ask", [no_choice, lone_option])
    def test_space_of_one_point(self, make_strategy: MakeStrategy, ask: Callable[[], None]) -> None:
        session = Session(make_strategy(), ask)
        assert len(session.run(5)) == 1
        assert not session.step()

    @pytest.mark.parametrize("window", [1, 7])
    @pytest.mark.parametrize("score", [good, flaky, all_fail])
    def test_no_duplicates_in_a_large_space(
        self, make_strategy: MakeStrategy, score: Score, window: int
    ) -> None:
        proposed = Session(make_strategy(), wide, score=score, window=window).run(400)
        assert len(set(proposed)) == 400

    def test_continuous_ranges(self, make_strategy: MakeStrategy) -> None:
        session = Session(make_strategy(), mixed, score=flaky)
        if not self.continuous:
            with pytest.raises(StrategyError, match="continuous"):
                session.run(1)
            return
        proposed = session.run(300)  # the space itself refuses what is out of range
        assert len(set(proposed)) == 300
        for raws in map(dict, proposed):
            assert ("momentum" in raws) == (raws["optimizer"] == 0)
            assert raws["fixed"] == 0.5

    def test_nothing_feasible_in_a_finite_space(self, make_strategy: MakeStrategy) -> None:
        session = Session(make_strategy(), impossible)
        assert not session.step()
        assert not session.step()

    def test_nothing_feasible_in_an_endless_space(self, make_strategy: MakeStrategy) -> None:
        session = Session(make_strategy(), barren)
        with pytest.raises(StrategyError, match="infeasible"):
            session.step()
        assert session.space.replays <= 100_000

    def test_reports_do_not_change_proposals(self, make_strategy: MakeStrategy) -> None:
        quiet = Session(make_strategy(), branches)
        talking = Session(make_strategy(), branches)
        for number in range(40):
            assert quiet.step()
            assert talking.step()
            assert isinstance(talking.strategy.report(number, 0, 0.5), bool)
        assert quiet.proposed == talking.proposed

    def test_scores_may_change(self, make_strategy: MakeStrategy) -> None:
        """With several objectives trials are scored anew as others are told, before each `ask`."""

        def run(trials: int) -> list[Raws]:
            session = Session(make_strategy(), wide, score=flaky, cohort=4)
            for _ in range(trials):
                told = len(session.proposed) // 4 * 4
                scores = {n: flaky(n, session.proposed[n]) for n in range(max(0, told - 4))}
                known = {n: -s / (told + 1) for n, s in scores.items() if s is not None}
                session.strategy.rescore(known)
                assert session.step()
            return session.proposed

        proposed = run(60)
        assert len(set(proposed)) == 60
        assert run(60) == proposed

    def test_describes_itself(self, make_strategy: MakeStrategy) -> None:
        described = make_strategy().describe()
        assert isinstance(described["name"], str)
        assert make_strategy().describe() == described
