"""The trie, against brute force."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retiarii.errors import SpaceError
from retiarii.mutators.choice import Categorical, Integer, Real
from retiarii.strategies.base import trace
from retiarii.strategies.tried import Step, Tried, Unexplored

# A space as nested tuples: one subtree a value; () ends the sequence.
trees = st.recursive(
    st.just(()), lambda below: st.lists(below, min_size=1, max_size=3).map(tuple), max_leaves=25
)


def sequences(tree, path=()):
    if not tree:
        return [path]
    found = []
    for raw, below in enumerate(tree):
        step = Step(f"at{len(path)}", Categorical(len(tree)), raw)
        found += sequences(below, (*path, step))
    return found


class TreeSpace:
    def __init__(self, tree):
        self.tree = tree

    def replay(self, chooser):
        tree, depth = self.tree, 0
        while tree:
            tree = tree[chooser(f"at{depth}", Categorical(len(tree)))]
            depth += 1
        return self


def follow(steps):
    left = iter(steps)
    return lambda label, domain: next(left).raw


@given(trees, st.randoms(use_true_random=False))
def test_knows_what_was_added_and_when_all_was(tree, rng):
    every = sequences(tree)
    rng.shuffle(every)
    tried = Tried()
    for at, steps in enumerate(every):
        assert not tried.exhausted
        assert tried.add(steps)
        assert not tried.add(steps)
        assert len(tried) == at + 1
        for other_at, other in enumerate(every):
            known = other_at <= at
            assert (other in tried) == known
            assert tried.is_new(follow(other)) == (not known)
    assert tried.exhausted


@given(trees, st.integers(0, 2**32))
@settings(max_examples=60)
def test_unexplored_visits_every_sequence_once(tree, seed):
    every = sequences(tree)
    tried, rng, seen = Tried(), Random(seed), []
    while not tried.exhausted:
        steps = trace(TreeSpace(tree), Unexplored(tried, rng)).steps
        assert tried.add(steps)
        seen.append(steps)
    assert sorted(seen) == sorted(every)


def test_a_prefix_is_not_tried():
    tried = Tried()
    steps = (Step("a", Categorical(2), 0), Step("b", Categorical(2), 1))
    tried.add(steps)
    assert steps in tried
    assert steps[:1] not in tried
    assert () not in tried


def test_continuous_decisions_never_close():
    tried = Tried()
    for at in range(50):
        tried.add((Step("lr", Real(0.0, 1.0), at / 50), Step("a", Categorical(1), 0)))
    assert not tried.exhausted
    assert (Step("lr", Real(0.0, 1.0), 0.5), Step("a", Categorical(1), 0)) in tried
    assert (Step("lr", Real(0.0, 1.0), 0.51), Step("a", Categorical(1), 0)) not in tried


def test_below_a_continuous_value_finite_decisions_close():
    tried = Tried()
    lr = Step("lr", Real(0.0, 1.0), 0.5)
    for raw in (0, 1):
        assert tried.add((lr, Step("a", Categorical(2), raw)))
    assert not tried.is_new(lambda label, domain: 0.5)  # "a" is not even asked


def test_a_path_that_ends_early_closes_its_subtree():
    tried = Tried()
    tried.add((Step("a", Integer(3, 4), 3),))
    tried.add((Step("a", Integer(3, 4), 4), Step("b", Categorical(1), 0)))
    assert tried.exhausted


@pytest.mark.parametrize(
    "later",
    [
        (Step("a", Categorical(2), 0), Step("c", Categorical(2), 0)),
        (Step("a", Categorical(2), 0), Step("b", Categorical(3), 0)),
        (Step("a", Categorical(2), 0),),
    ],
    ids=["another label", "other options", "an earlier end"],
)
def test_a_space_that_asks_otherwise_is_an_error(later):
    tried = Tried()
    tried.add((Step("a", Categorical(2), 0), Step("b", Categorical(2), 1)))
    with pytest.raises(SpaceError, match="after the same decisions"):
        tried.add(later)


def test_paths_that_share_little_stay_whole():
    """Memory: nodes are made where paths part, not one for each decision."""
    tried = Tried()
    domain = Categorical(1000)
    for raw in range(100):
        tried.add((Step("first", domain, raw), *(Step(f"s{i}", domain, raw) for i in range(200))))
    assert _nodes(tried._top) < 210


def _nodes(branch):
    below = [b for b in branch.open.values() if not isinstance(b, tuple)]
    return 1 + sum(map(_nodes, below))
