"""Batching: every rule's schedule is valid; the chosen one is near the optimum."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retiarii import spaces
from retiarii.optimizer.dedup import dedup
from retiarii.optimizer.group import group
from retiarii.optimizer.lift import Model, lift
from retiarii.optimizer.scheduling.agenda import average_depth, largest_share, most_ready
from retiarii.optimizer.scheduling.depth import depth, mean_depths
from retiarii.optimizer.scheduling.exact import exact
from retiarii.optimizer.scheduling.frontier import frontier
from retiarii.optimizer.scheduling.problem import Problem, Schedule, Scheduler
from retiarii.optimizer.simplify import simplify

SCHEDULERS: dict[str, Scheduler] = {
    "depth": depth,
    "average_depth": average_depth,
    "largest_share": largest_share,
    "most_ready": most_ready,
    "frontier": frontier,
}


@st.composite
def problems(draw: st.DrawFn, most: int = 40, kinds: int = 6) -> Problem:
    """A few trees' nodes in topological order; trees may be joined, nodes read one twice."""
    count = draw(st.integers(0, most))
    types = draw(st.lists(st.integers(0, kinds - 1), min_size=count, max_size=count))
    numbered = {kind: i for i, kind in enumerate(dict.fromkeys(types))}
    before = [
        draw(st.lists(st.integers(max(0, i - 7), i - 1), max_size=3)) if i else []
        for i in range(count)
    ]
    trees = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    return Problem([numbered[t] for t in types], before, trees)


def check_valid(problem: Problem, schedule: Schedule) -> None:
    assert sorted(n for batch in schedule for n in batch) == list(range(len(problem.types)))
    done: set[int] = set()
    for batch in schedule:
        assert len({problem.types[node] for node in batch}) == 1
        for node in batch:
            assert done.issuperset(problem.before[node]), (
                "a batch waits on itself, or on a later one"
            )
        done.update(batch)


@settings(max_examples=150, derandomize=True)
@given(problem=problems())
def test_schedules_are_valid_and_above_the_bound(problem: Problem) -> None:
    for name, schedule in SCHEDULERS.items():
        batches = schedule(problem)
        check_valid(problem, batches)
        assert len(batches) >= problem.bound, name


@settings(max_examples=100, derandomize=True)
@given(problem=problems(most=12, kinds=4))
def test_the_exact_solver_is_below_every_rule(problem: Problem) -> None:
    best = exact(problem)
    assert best is not None
    check_valid(problem, best)
    assert len(best) >= problem.bound
    for name, schedule in SCHEDULERS.items():
        assert len(schedule(problem)) >= len(best), name


@settings(max_examples=60, derandomize=True)
@given(problem=problems(most=7, kinds=3))
def test_the_exact_solver_agrees_with_trying_everything(problem: Problem) -> None:
    """Brute force, which also leaves ready nodes for later."""

    def least(done: frozenset[int], budget: int) -> int:
        if len(done) == len(problem.types):
            return 0
        if budget == 0:
            return 99
        ready = [n for n in range(len(problem.types)) if n not in done]
        ready = [n for n in ready if done.issuperset(problem.before[n])]
        found = 99
        for kind in {problem.types[n] for n in ready}:
            same = [n for n in ready if problem.types[n] == kind]
            for bits in range(1, 1 << len(same)):
                part = {n for i, n in enumerate(same) if bits >> i & 1}
                found = min(found, 1 + least(done | part, budget - 1))
        return found

    best = exact(problem)
    assert best is not None
    assert len(best) == least(frozenset(), len(best))


def test_the_exact_solver_gives_up() -> None:
    problem = Problem(
        [i % 5 for i in range(30)], [[] if i < 5 else [i - 3] for i in range(30)], [0] * 30
    )
    assert exact(problem, most=2) is None


def test_distance_to_the_optimum() -> None:
    """How many batches each rule makes where the optimum is known: the frontier is the nearest."""
    totals = dict.fromkeys([*SCHEDULERS, "exact"], 0)
    for seed in range(30):
        problem = _forest(seed)
        best = exact(problem)
        assert best is not None
        totals["exact"] += len(best)
        for name, schedule in SCHEDULERS.items():
            totals[name] += len(schedule(problem))
    others = [totals[name] for name in SCHEDULERS if name != "frontier"]
    assert totals["frontier"] <= min(others)
    assert totals["frontier"] <= 1.12 * totals["exact"]
    assert max(others) > 1.3 * totals["exact"]  # the rules differ: the comparison says something


def _forest(seed: int) -> Problem:
    """Three models, each a chain of cells of several types with a branch."""
    import random

    draw = random.Random(seed)
    types: list[int] = []
    before: list[list[int]] = []
    trees: list[int] = []
    for tree in range(3):
        last: list[int] = []
        for _ in range(draw.randrange(3, 6)):
            first = len(types)
            for reads in (last, [first]) if draw.random() < 0.5 else (last, [first], [first]):
                types.append(draw.randrange(4))
                before.append(list(reads))
                trees.append(tree)
            last = [len(types) - 1]
    numbered = {kind: i for i, kind in enumerate(dict.fromkeys(types))}
    return Problem([numbered[t] for t in types], before, trees)


def test_groups_that_would_wait_on_each_other() -> None:
    """a1 -> b1 and b2 -> a2: fusing both pairs is a circle, and one pair must stay apart."""
    problem = Problem([0, 1, 1, 0], [[], [0], [], [2]], [0, 0, 1, 1])
    assert problem.bound == 2
    best = exact(problem)
    assert best is not None
    assert len(best) == 3
    assert len(frontier(problem)) == 3


def test_elders_levels_and_bound() -> None:
    # 0:a -> 1:b -> 2:a -> 3:a, and 4:b beside.
    problem = Problem([0, 1, 0, 0, 1], [[], [0], [1], [2, 2], []], [0] * 5)
    assert problem.elders == [frozenset(), frozenset(), frozenset({0}), frozenset({2}), frozenset()]
    assert problem.levels == [0, 0, 1, 2, 0]
    assert problem.bound == 4
    assert problem.after == [[1], [2], [3], [], []]
    assert mean_depths(problem) == [5 / 3, 0.5]


def test_no_nodes() -> None:
    for schedule in (*SCHEDULERS.values(), exact):
        assert schedule(Problem([], [], [])) == []
    assert Problem([], [], []).bound == 0


@pytest.mark.parametrize("name", SCHEDULERS)
def test_groups_of_real_models(name: str) -> None:
    """Every rule makes a plan; the frontier's is near the bound, with the fewest calls."""
    space = spaces.nas_bench_201(4, 1, 3, 8)
    graphs = [space.sample(seed).graph for seed in range(12)]
    forest = dedup(simplify(lift([Model.of(g, g.to_module()) for g in graphs], True)))
    seen: list[Problem] = []

    def noted(problem: Problem) -> Schedule:
        seen.append(problem)
        return SCHEDULERS[name](problem)

    plan = group(forest, schedule=noted)
    check_valid(seen[0], SCHEDULERS[name](seen[0]))
    best = len(frontier(seen[0]))
    assert len(plan.groups) >= best
    if name == "frontier":
        assert best <= 1.1 * seen[0].bound
