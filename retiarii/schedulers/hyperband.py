"""`Hyperband`: successive halving from several starts, so that no one start need be right."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from retiarii.errors import SchedulerError
from retiarii.schedulers.asha import crossed
from retiarii.schedulers.base import Curve, Known, Scheduler, Setting, best_of, checked


@dataclass(frozen=True, slots=True)
class Bracket:
    """One run of successive halving.

    Attributes:
        size: trials at its begin.
        rungs: epochs after which one in ``eta`` goes on.
    """

    size: int
    rungs: tuple[int, ...]


def brackets(longest: int, eta: int) -> tuple[Bracket, ...]:
    """Hyperband's brackets for trials of up to ``longest`` epochs, the most trials first."""
    halvings = 0
    while eta ** (halvings + 1) <= longest:
        halvings += 1
    found = []
    for s in range(halvings, -1, -1):
        size = -(-(halvings + 1) * eta**s // (s + 1))
        found.append(Bracket(size, tuple(longest // eta**k for k in range(s, 0, -1))))
    return tuple(found)


class Hyperband(Scheduler):
    """Hyperband (Li et al., Hyperband: A Novel Bandit-Based Approach to Hyperparameter
    Optimization, JMLR 2018).

    Trials come in brackets, over and over: the first has many trials and little training for each
    before its first halving, the last has few and trains all of them in full. A bracket's trials
    are proposed together and halved together, whatever the size of a cohort. Where trials cannot
    pause, they are compared with the earlier ones of the same kind of bracket instead.

    Args:
        eta: one in ``eta`` goes on.
        epochs: the most epochs of a trial; by default what the evaluator says.
    """

    name: ClassVar[str] = "hyperband"

    def __init__(self, *, eta: int = 3, epochs: int | None = None) -> None:
        self.eta: int = checked(self.name, "eta", eta, 2)
        self.epochs = None if epochs is None else int(checked(self.name, "epochs", epochs, 1))

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        longest = self.epochs or setting.longest
        if longest is None:
            raise SchedulerError(
                f"{self.name} must know how many epochs a trial may have, and the evaluator "
                "does not say",
                where=f"scheduler {self.name}",
                fix=f'give the number: --scheduler "{self.name},epochs=27"; or use asha, which '
                "needs none",
            )
        self.brackets = brackets(longest, self.eta)
        self._ends = list(accumulate(bracket.size for bracket in self.brackets))

    def group(self, number: int) -> range:
        if not self.setting.pauses:
            return super().group(number)
        index, start = self._place(number)
        return range(start, start + self.brackets[index].size)

    def rung(self, number: int, after: int) -> int | None:
        index, _ = self._place(number)
        return next((rung for rung in self.brackets[index].rungs if rung > after), None)

    def keep(self, rung: int, group: Mapping[int, float], known: Known) -> frozenset[int]:  # noqa: ARG002
        return best_of(group, max(1, len(group) // self.eta))

    def stops(self, number: int, curve: Curve, known: Known) -> bool:
        if self.setting.pauses:
            return False
        rung = crossed(self, number, curve)
        if rung is None:
            return False
        index, _ = self._place(number)
        peers = {n: s for n, s in known.at(rung).items() if self._place(n)[0] == index}
        return number not in self.keep(rung, {**peers, number: curve[-1][1]}, known)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "eta": self.eta, "epochs": self.epochs}

    def _place(self, number: int) -> tuple[int, int]:
        """The bracket of a trial, and the trial that it begins with."""
        round_, within = divmod(number, self._ends[-1])
        index = bisect_right(self._ends, within)
        start = self._ends[index - 1] if index else 0
        return index, round_ * self._ends[-1] + start
