"""`Bohb`: hyperband, whose trials a model of the scores proposes."""

from __future__ import annotations

from typing import ClassVar

from retiarii.schedulers.hyperband import Hyperband


class Bohb(Hyperband):
    """Hyperband's brackets with proposals by TPE (Falkner et al., BOHB: Robust and Efficient
    Hyperparameter Optimization at Scale, ICML 2018).

    The brackets are those of `Hyperband`; trials are proposed by the strategy ``tpe``, which learns
    from the scores at the largest budget that enough trials have had (`strategies.budgets`).
    """

    name: ClassVar[str] = "bohb"
    strategy: ClassVar[str | None] = "tpe"
