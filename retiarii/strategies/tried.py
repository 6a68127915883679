"""What has been proposed: a trie over decision sequences that knows which subtrees are used up.

Replays are deterministic, so the decisions made so far say which decision comes next. A node of
the trie is thus one decision, its edges the values chosen there. A value below which everything
has been proposed is *closed*; a node whose values are all closed is closed in its parent, and
forgotten. Continuous domains never close.

Memory is linear in what was proposed: a path that nothing else shares is kept as the sequence
itself and split into nodes only when another one meets it. Lookups are linear in depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from random import Random
from typing import NamedTuple

from retiarii.errors import SpaceError
from retiarii.mutators.choice import Categorical, Chooser, Domain, Raw
from retiarii.strategies.sampling import sample_open, size

_NOTHING: frozenset[Raw] = frozenset()


class Step(NamedTuple):
    """One decision of a sequence: what was asked, and the raw answer."""

    label: str
    domain: Domain
    raw: Raw


class _Tail(NamedTuple):
    """A path that no other shares yet: ``steps`` from ``at`` on."""

    steps: tuple[Step, ...]
    at: int
    live: int  # from here on there is only one option at each step


class _Branch:
    """One decision that was asked, and what is known below each of its values."""

    __slots__ = ("closed", "domain", "label", "open", "size")

    def __init__(self, label: str, domain: Domain) -> None:
        self.label = label
        self.domain = domain
        self.size = size(domain)
        self.open: dict[Raw, _Branch | _Tail] = {}
        self.closed: set[Raw] = set()

    def child(self, raw: Raw) -> _Branch | None:
        """The decision below ``raw``; ``None`` where nothing is known, or all is closed."""
        below = self.open.get(raw)
        if isinstance(below, _Tail):
            step = below.steps[below.at]
            branch = _Branch(step.label, step.domain)
            branch.hang(step.raw, below.steps, below.at + 1, below.live)
            self.open[raw] = branch
            return branch
        return below

    def hang(self, raw: Raw, steps: tuple[Step, ...], at: int, live: int) -> None:
        """Puts what follows ``raw`` below it: a tail, or nothing where that is all there is."""
        if at >= live:
            self.closed.add(raw)
        else:
            self.open[raw] = _Tail(steps, at, live)

    @property
    def exhausted(self) -> bool:
        return self.size is not None and len(self.closed) >= self.size


# The root hangs below a decision of one option, so that closing needs no special case.
_TOP = Step("", Categorical(1), 0)


class Tried:
    """The decision sequences that were proposed, feasible or not."""

    def __init__(self) -> None:
        self._top = _Branch(_TOP.label, _TOP.domain)
        self._count = 0

    def __len__(self) -> int:
        """How many sequences were added."""
        return self._count

    @property
    def exhausted(self) -> bool:
        """Whether every sequence of the space was added."""
        return self._top.exhausted

    def add(self, steps: Sequence[Step]) -> bool:
        """Remembers one sequence, complete or ended early by being infeasible.

        Returns:
            Whether it was new.

        Raises:
            SpaceError: the same decisions were followed by another question before.
        """
        full = (_TOP, *steps)
        live = len(full)
        while live > 1 and size(full[live - 1].domain) == 1:
            live -= 1
        path: list[_Branch] = []
        branch = self._top
        for at, step in enumerate(full):
            if step.label != branch.label or step.domain != branch.domain:
                raise _unsteady(branch, step)
            path.append(branch)
            if step.raw in branch.closed:
                return False
            below = branch.child(step.raw)
            if below is None:
                branch.hang(step.raw, full, at + 1, live)
                break
            branch = below
        else:
            raise _unsteady(branch, None)
        self._count += 1
        for depth in range(len(path) - 1, 0, -1):
            if not path[depth].exhausted:
                break
            above, raw = path[depth - 1], full[depth - 1].raw
            del above.open[raw]
            above.closed.add(raw)
        return True

    def __contains__(self, steps: Sequence[Step]) -> bool:
        """Whether this sequence was added."""
        cursor = Cursor(self)
        for step in steps:
            if step.raw in cursor.closed(step.label, step.domain):
                return True
            cursor.advance(step.raw)
        return self.exhausted

    def is_new(self, chooser: Chooser) -> bool:
        """Whether the sequence that ``chooser`` would decide was not added yet.

        It asks ``chooser`` only as far as paths are known, and replays nothing: a repeated
        proposal costs dictionary lookups instead of a graph.
        """
        if self.exhausted:
            return False
        branch = self._top.child(_TOP.raw)
        while branch is not None:
            raw = chooser(branch.label, branch.domain)
            if raw in branch.closed:
                return False
            branch = branch.child(raw)
        return True

    def root(self) -> _Branch | None:
        return self._top.child(_TOP.raw)


class Cursor:
    """A place in the trie that follows one replay."""

    __slots__ = ("_branch",)

    def __init__(self, tried: Tried) -> None:
        self._branch = tried.root()

    def closed(self, label: str, domain: Domain) -> AbstractSet[Raw]:
        """The values of the decision asked now below which nothing new is left."""
        branch = self._branch
        if branch is None:
            return _NOTHING
        if branch.label != label or branch.domain != domain:
            raise _unsteady(branch, Step(label, domain, 0))
        return branch.closed

    def advance(self, raw: Raw) -> None:
        """Goes on below ``raw``."""
        if self._branch is not None:
            self._branch = self._branch.child(raw)


class Unexplored:
    """A chooser that draws each decision among the values that still lead somewhere new."""

    __slots__ = ("_cursor", "_rng")

    def __init__(self, tried: Tried, rng: Random) -> None:
        self._cursor = Cursor(tried)
        self._rng = rng

    def __call__(self, label: str, domain: Domain) -> Raw:
        raw = sample_open(domain, self._rng, self._cursor.closed(label, domain))
        self._cursor.advance(raw)
        return raw


def _unsteady(branch: _Branch, step: Step | None) -> SpaceError:
    now = f"{step.label!r} with {step.domain}" if step else "nothing more"
    return SpaceError(
        f"the space asks for {now} where it asked for {branch.label!r} with {branch.domain} "
        "before, after the same decisions",
        where=f"decision {branch.label!r}",
        fix="what a mutator or a model asks may depend on earlier choices only: not on time, "
        "on random numbers, or on the order of a set",
    )
