"""A policy over decision sequences: what `reinforce` trains."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import numpy as np

from retiarii.mutators.choice import Categorical, Domain, Integer, Raw
from retiarii.strategies.features import Array
from retiarii.strategies.sampling import from_unit, size, to_unit
from retiarii.strategies.tried import Step

# A range is cut into so many parts of equal width (in the logarithm, where it is logarithmic).
_PARTS = 12
_Question = tuple[str, Domain]


class _Slot:
    """One question: a weight for each answer, alone and beside each earlier answer."""

    __slots__ = ("alone", "beside", "first")

    def __init__(self, answers: int, first: int) -> None:
        self.first = first  # its first token
        self.alone = np.zeros(answers)
        self.beside = np.zeros((answers, 0))

    def widen(self, tokens: int) -> None:
        """Makes room for what is asked before, with a margin."""
        if self.beside.shape[1] < tokens:
            wider = np.zeros((len(self.alone), 2 * tokens))
            wider[:, : self.beside.shape[1]] = self.beside
            self.beside = wider


class Controller:
    """Says how likely each answer is, given the answers before it, and learns.

    An answer's score is a weight of its own, plus one for each answer before it in the sequence; a
    softmax makes probabilities of the scores. So it needs no fixed list of questions: a question
    of a branch is a slot like any other, made when it is first asked. Numbers are answered by a
    part of their range, uniform within. All weights begin at 0: every answer is as likely.
    """

    def __init__(self) -> None:
        self._slots: dict[_Question, _Slot] = {}
        self._tokens = 0

    def likely(self, label: str, domain: Domain, before: list[int]) -> Array:
        """The probability of each answer (or part of a range), after the tokens ``before``."""
        slot = self._slot(label, domain)
        logits = slot.alone
        if before:
            slot.widen(self._tokens)
            logits = logits + slot.beside[:, before].sum(1)
        powers = np.exp(logits - logits.max())
        found: Array = powers / powers.sum()
        return found

    def token(self, label: str, domain: Domain, raw: Raw) -> int:
        """The number of an answer, among all answers to all questions."""
        return self._slot(label, domain).first + answer_of(domain, raw)

    def learn(self, steps: tuple[Step, ...], rate: float, entropy: float) -> None:
        """Makes a sequence likelier (or less, below 0), and each answer less certain.

        Args:
            steps: the sequence.
            rate: how far along the gradient of its log-probability.
            entropy: how far along the gradient of each answer's entropy.
        """
        before: list[int] = []
        for label, domain, raw in steps:
            if size(domain) == 1:
                continue
            likely = self.likely(label, domain, before)
            logs = np.log(np.maximum(likely, 1e-12))
            push = -entropy * likely * (logs - float(likely @ logs)) - rate * likely
            push[answer_of(domain, raw)] += rate
            slot = self._slot(label, domain)
            slot.alone += push
            if before:
                # Together, all that came before has as much of a say as the answer alone.
                slot.beside[:, before] += push[:, None] / len(before)
            before.append(self.token(label, domain, raw))

    def _slot(self, label: str, domain: Domain) -> _Slot:
        found = self._slots.get((label, domain))
        if found is None:
            found = self._slots[label, domain] = _Slot(answers(domain), self._tokens)
            self._tokens += len(found.alone)
        return found


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


def drawn(likely: Array, rng: Random) -> int:
    """An index, as likely as that says; the probabilities need not add up to 1."""
    sums = np.cumsum(likely)
    if not math.isfinite(sums[-1]) or sums[-1] <= 0.0:
        return rng.randrange(len(likely))
    return min(int(np.searchsorted(sums, rng.random() * sums[-1], "right")), len(likely) - 1)
