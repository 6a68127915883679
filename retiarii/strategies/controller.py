"""A policy over decision sequences: what `reinforce` trains."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retiarii.mutators.choice import Categorical, Domain, Integer, Raw
from retiarii.strategies.features import Array
from retiarii.strategies.sampling import from_unit, size, to_unit
from retiarii.strategies.tried import Step

Indices = NDArray[np.intp]

# A range is cut into so many parts of equal width (in the logarithm, where it is logarithmic).
_PARTS = 12
# Room for tokens at first; then half as much again whenever it is used up.
_ROOM = 64
_Question = tuple[str, Domain]


class _Slot(NamedTuple):
    """One question: its answers are the tokens from ``first`` on."""

    first: int
    answers: int


@dataclass(frozen=True, eq=False, slots=True)
class Path:
    """A decision sequence as a controller reads it; answers to all its questions in one row.

    Attributes:
        tokens: of all answers that could have been given, question by question.
        starts: where each question begins in ``tokens``.
        counts: how many answers each question has.
        chosen: where the given answers are in ``tokens``.
        given: the tokens of the given answers, but for the last.
        before: given answer x token: 1 where it was given before the question.
        share: ``before``, divided by how many were given before.
    """

    tokens: Indices
    starts: Indices
    counts: Indices
    chosen: Indices
    given: Indices
    before: Array
    share: Array


class Controller:
    """Says how likely each answer is, given the answers before it, and learns.

    An answer's score is a weight of its own, plus one for each answer before it in the sequence; a
    softmax makes probabilities of the scores. So it needs no fixed list of questions: a question
    of a branch is a slot like any other, made when it is first asked. Numbers are answered by a
    part of their range, uniform within. All weights begin at 0: every answer is as likely.

    Attributes:
        alone: the weight of each token.
        beside: earlier token x token: the weight of the one after the other.
    """

    def __init__(self) -> None:
        self._slots: dict[_Question, _Slot] = {}
        self._tokens = 0
        self.alone: Array = np.zeros(_ROOM)
        self.beside: Array = np.zeros((_ROOM, _ROOM))

    def walk(self) -> Walk:
        """A sequence that is drawn from it."""
        return Walk(self)

    def path(self, steps: tuple[Step, ...]) -> Path:
        """A sequence, as `learn` wants it; questions with one answer teach nothing."""
        asked = [step for step in steps if size(step.domain) != 1]
        slots = [self.slot(step.label, step.domain) for step in asked]
        picked = [answer_of(step.domain, step.raw) for step in asked]
        counts = np.array([slot.answers for slot in slots], dtype=np.intp)
        starts = np.cumsum(counts) - counts
        question = np.repeat(np.arange(len(slots)), counts)
        before = (np.arange(len(slots) - 1)[:, None] < question).astype(np.float64)
        return Path(
            np.array([s.first + a for s in slots for a in range(s.answers)], dtype=np.intp),
            starts,
            counts,
            starts + np.array(picked, dtype=np.intp),
            np.array([s.first + a for s, a in zip(slots, picked, strict=True)][:-1], dtype=np.intp),
            before,
            # Together, all that came before has as much of a say as the answer alone.
            before / np.maximum(question, 1),
        )

    def learn(self, path: Path, rate: float, entropy: float) -> None:
        """Makes a sequence likelier (or less, below 0), and each answer less certain.

        Args:
            path: the sequence.
            rate: how far along the gradient of its log-probability.
            entropy: how far along the gradient of each answer's entropy.
        """
        if not len(path.tokens):
            return
        cells = path.given[:, None], path.tokens
        beside = self.beside[cells]
        scores = self.alone[path.tokens] + (beside * path.before).sum(0)
        scores -= np.repeat(np.maximum.reduceat(scores, path.starts), path.counts)
        powers = np.exp(scores)
        likely = powers / np.repeat(np.add.reduceat(powers, path.starts), path.counts)
        push = -rate * likely
        if entropy:
            logs = np.log(np.maximum(likely, 1e-12))
            means = np.repeat(np.add.reduceat(likely * logs, path.starts), path.counts)
            push -= entropy * likely * (logs - means)
        push[path.chosen] += rate
        self.alone[path.tokens] += push
        self.beside[cells] = beside + path.share * push

    def slot(self, label: str, domain: Domain) -> _Slot:
        """A question; it is made when it is first asked."""
        found = self._slots.get((label, domain))
        if found is None:
            found = self._slots[label, domain] = _Slot(self._tokens, answers(domain))
            self._tokens += found.answers
            if self._tokens > len(self.alone):
                room = max(self._tokens, len(self.alone) * 3 // 2)
                more = room - len(self.alone)
                self.alone = np.pad(self.alone, (0, more))
                self.beside = np.pad(self.beside, (0, more))
        return found


class Walk:
    """One sequence that is being drawn: scores of all tokens, after the answers so far."""

    __slots__ = ("_controller", "_scores")

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._scores = controller.alone.copy()

    def likely(self, label: str, domain: Domain) -> list[float]:
        """The probability of each answer (or part of a range)."""
        first, count = self._controller.slot(label, domain)
        scores = self._scores[first : first + count].tolist()
        scores += [0.0] * (count - len(scores))  # a question that was not there when it began
        most = max(scores)
        powers = [math.exp(score - most) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def took(self, label: str, domain: Domain, raw: Raw) -> None:
        """An answer was given."""
        token = self._controller.slot(label, domain).first + answer_of(domain, raw)
        # What is new since it began has weights of 0.
        self._scores += self._controller.beside[token, : len(self._scores)]


def answers(domain: Domain) -> int:
    """How many answers a controller tells apart: options, whole numbers if few, else parts."""
    count = size(domain)
    if isinstance(domain, Categorical):
        return domain.n
    return _PARTS if count is None else min(count, _PARTS)


def answer_of(domain: Domain, raw: Raw) -> int:
    """Which of them a raw value is, or lies in."""
    if isinstance(domain, Categorical):
        return int(raw)
    if _few(domain):
        return int(raw) - int(domain.low)
    return min(int(to_unit(domain, raw) * _PARTS), _PARTS - 1)


def raw_of(domain: Domain, answer: int, rng: Random) -> Raw:
    """A raw value of an answer: itself, or drawn from its part of the range."""
    if isinstance(domain, Categorical):
        return answer
    if _few(domain):
        return int(domain.low) + answer
    return from_unit(domain, (answer + rng.random()) / _PARTS)


def _few(domain: Any) -> bool:
    return isinstance(domain, Integer) and domain.high - domain.low < _PARTS


def drawn(likely: Sequence[float], rng: Random) -> int:
    """An index, as likely as that says; the probabilities need not add up to 1."""
    sums = list(accumulate(likely))
    if not math.isfinite(sums[-1]) or sums[-1] <= 0.0:
        return rng.randrange(len(likely))
    return min(bisect_right(sums, rng.random() * sums[-1]), len(likely) - 1)
